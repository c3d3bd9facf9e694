"""Where the credit of an answer falls: on the right paths of a response, or on its wrong ones too.

    path_credit(runs.read_samples(run).to_pylist(), runs.read_path_opening(run))

GRPO gives each token of a response the same advantage. So a path that slipped is reinforced where the
summary decided against it, and blamed where the summary followed it; whether a policy unlearns to slip
depends on which weighs more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any, NamedTuple

from prl.analysis import decide
from prl.grammar import parse


class _Path(NamedTuple):
    is_right: bool
    advantage: float | None


def path_credit(rows: Iterable[Mapping[str, Any]], path_opening: str = "none") -> dict[str, float | None]:
    """The paths of stored samples and the advantage of their responses; None where there is nothing of it.

    Read are `text`, `truncated`, `answer` and `advantage`; `path_opening` is what paths were to begin with.
    Counted are the paths of valid blocks that end on
    something (`prl.analysis.decide`). Right is the answer to the whole problem, so the paths of a block that
    settles a step on the way count as wrong.

    paths, path_accuracy                  how many, and the share that ends on the answer
    wrong_credited                        of the wrong paths in responses with an advantage other than 0, the
                                          share in which it is positive
    wrong_of_credited, wrong_of_blamed    share of wrong paths where the advantage is positive, negative
    credit_of_right, credit_of_wrong      mean advantage that a right, a wrong path gets
    """
    paths: list[_Path] = []
    for row in rows:
        trace = parse(row.get("text") or "", truncated=bool(row.get("truncated")), opening=path_opening)
        for block in trace.blocks if row.get("answer") is not None else ():
            decision = decide(block, row["answer"])
            if block.is_valid:
                concluded = zip(decision.paths, decision.right_paths, strict=True)
                paths += [_Path(right, row.get("advantage")) for said, right in concluded if said is not None]
    credited, blamed = (
        [path.is_right for path in paths if path.advantage and (path.advantage > 0) == is_positive]
        for is_positive in (True, False)
    )
    wrong = [credited.count(False), blamed.count(False)]
    return {
        "paths": len(paths),
        "path_accuracy": _mean(path.is_right for path in paths),
        "wrong_credited": wrong[0] / sum(wrong) if any(wrong) else None,
        "wrong_of_credited": _mean(not is_right for is_right in credited),
        "wrong_of_blamed": _mean(not is_right for is_right in blamed),
        **{
            f"credit_of_{name}": _mean(
                path.advantage for path in paths if path.advantage is not None and path.is_right == is_right
            )
            for name, is_right in (("right", True), ("wrong", False))
        },
    }


def _mean(values: Iterable[float]) -> float | None:
    held = [*values]
    return fmean(held) if held else None

"""Which paths of a trace a cold start learns, and which are context: read, summed up, never imitated.

    apply(row, "recorded")          the row with the `context_paths` that its data set records
    wrong_paths(trace, answer)      what a verifier says where nothing is recorded

A path that ends in another result than its trace is there so that the summary has something to decide. With
loss on it a model learns to slip, at the rate at which the data does, whenever it is sampled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from prl.analysis import decide
from prl.answers import extract_answer
from prl.data.columns import CONTEXT_PATHS
from prl.grammar import parse


def apply(
    row: Mapping[str, Any], rule: Literal["recorded", "judged", "learned"], path_opening: str = "none"
) -> dict[str, Any]:
    """`row` with the `context_paths` that hold for a training, or without them, by `rule`.

    recorded: those of its column; judged: also, where it has none, `wrong_paths` by its answer; learned:
    none, every path is a target.
    """
    applied = dict(row)
    if rule == "learned":
        applied.pop(CONTEXT_PATHS, None)
    elif rule == "judged" and CONTEXT_PATHS not in row:
        applied[CONTEXT_PATHS] = wrong_paths(row["trace"], row.get("answer"), path_opening)
    return applied


def wrong_paths(trace: str, answer: str | None = None, path_opening: str = "none") -> list[int]:
    """The places of the paths that conclude otherwise than the summary of their block, where that concludes
    the final answer; from 0, over all blocks as they are written.

    The final answer is `answer`, or else what the trace itself commits to. `path_opening`, of
    `prl.grammar.OPENINGS`, is what paths may begin with. Conclusions are read and compared
    as by `prl.analysis.decide`: a path of which none can be read is not wrong. Nor is one of a block in which
    no path concludes the answer: there the work was divided, and the summary put it together.

    >>> wrong_paths("<Parallel><Path>2+3=5</Path><Path>3+2=6</Path></Parallel><Summary>5</Summary>", "5")
    [1]
    """
    answer = answer or extract_answer(trace, strict=True)
    if answer is None:
        return []
    found, first = [], 0
    for block in parse(trace, opening=path_opening).blocks:
        decision = decide(block, answer)
        if decision.right and any(decision.right_paths):
            judged = zip(decision.paths, decision.right_paths, strict=True)
            found += [
                first + place
                for place, (concluded, is_right) in enumerate(judged)
                if concluded is not None and not is_right
            ]
        first += len(block.paths)
    return found

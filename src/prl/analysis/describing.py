"""The samples of a run in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prl.analysis.decisions import Decision, decide
from prl.analysis.shapes import block_positions, critical_path, diversity, mean, self_bleu, words
from prl.grammar import Block, Trace, parse

_UNREADABLE = "unparseable gold"  # a verdict that says nothing of the response


def describe(rows: Iterable[Mapping[str, Any]], path_opening: str = "none") -> dict[str, float | None]:
    """The samples of a run in numbers; `rows` as `runs.read_samples(run).to_pylist()` gives them.

    `path_opening`, as `runs.read_path_opening(run)` says, is what their paths were to begin with and nothing
    that these say: one that holds nothing else is empty, and its block not valid.

    Read are `text`, `truncated`, `answer`, `correct` or else `verdict`, and, in tokens, `length` and
    `critical_path`; what is missing makes its numbers None. A share that is not of all responses has its
    denominator beside it, as `<name>_of`.

    responses, accuracy, parallel_ratio, length, critical_path
    accuracy_with_block, accuracy_without_block     with or without a valid block
    blocks_per_response, paths_per_block
    block_position, saved   as in `Shape`, but in characters, which need no tokenizer; `saved` means the same
                            in both attentions, what decoding side by side does save or would
    path_diversity, self_bleu   `diversity` and `self_bleu` of the paths' `words`, means over the blocks that
                            have two paths or more which are not empty
    agreement               as in `Decision`, mean over valid blocks
    repeating               share of blocks of two paths or more in which all say the same, to the letter
    disagreeing             share of the valid blocks whose paths disagree; and of the disagreeing:
    takes_majority          share whose summary takes the majority, where there is one
    takes_right_minority    share whose summary is right, where the majority is wrong and a minority right
    right_of_any            share whose summary is right, where any path is

    Of the responses with a valid block, by the last of these, whose answer is right in `accuracy_with_block`:
    path_oracle             share in which any path concludes the right answer
    path_majority           share in which most paths do; the mean chance of one drawn where several tie
    summary_accuracy        share in which the summary does
    path_accuracy           share of all their paths that do: a path alone

    Right means the answer to the whole problem, so a block that settles a step on the way has no right path.
    """
    traces: list[Trace] = []
    decisions: list[Decision] = []
    last: list[Decision] = []
    listed = list(rows)
    for row in listed:
        trace = parse(row.get("text") or "", truncated=bool(row.get("truncated")), opening=path_opening)
        traces.append(trace)
        gold = row.get("answer") if row.get("verdict") != _UNREADABLE else None
        made = [decide(block, gold) for block in trace.blocks if block.is_valid]
        decisions += made
        last += made[-1:] if gold is not None else []
    blocks = [block for trace in traces for block in trace.blocks]
    paths = [[words(path.content) for path in block.paths] for block in blocks]
    judged = [(correct_of(row), trace.uses_parallel) for row, trace in zip(listed, traces, strict=True)]
    shares: dict[str, list[Any]] = {
        "accuracy": [right for right, _ in judged],
        "accuracy_with_block": [right for right, parallel in judged if parallel],
        "accuracy_without_block": [right for right, parallel in judged if not parallel],
        "path_diversity": [*map(diversity, paths)],
        "self_bleu": [*map(self_bleu, paths)],
        "repeating": [_repeats(block) for block in blocks if len(block.paths) > 1],
        **_decided(decisions),
        **_leaking(last),
    }
    described: dict[str, float | None] = {
        "responses": len(traces),
        "parallel_ratio": mean(trace.uses_parallel for trace in traces),
        "length": mean(row["length"] for row in listed if row.get("length") is not None),
        "critical_path": mean(row["critical_path"] for row in listed if row.get("critical_path") is not None),
        "saved": mean(1 - critical_path(trace) / trace.length if trace.length else 0.0 for trace in traces),
        "blocks_per_response": len(blocks) / len(traces) if traces else None,
        "paths_per_block": mean(len(block.paths) for block in blocks),
        "block_position": mean(position for trace in traces for position in block_positions(trace)),
    }
    for name, values in shares.items():
        known = [float(value) for value in values if value is not None]
        described |= {name: mean(known), f"{name}_of": len(known)}
    return described


def _repeats(block: Block) -> bool:
    return len({path.content.strip() for path in block.paths}) == 1


def _decided(decisions: Sequence[Decision]) -> dict[str, list[Any]]:
    """How the summaries of all valid blocks settle what their paths conclude."""
    voted = [decision for decision in decisions if decision.agreement is not None]
    split = [decision for decision in voted if decision.disagree]
    return {
        "agreement": [decision.agreement for decision in voted],
        "disagreeing": [decision.disagree for decision in voted],
        "takes_majority": [each.takes == "majority" for each in split if each.majority is not None],
        "takes_right_minority": [each.right_minority for each in split],
        "right_of_any": [each.right for each in split if any(each.right_paths)],
    }


def _leaking(decisions: Sequence[Decision]) -> dict[str, list[Any]]:
    """What the paths, their majority and the summary get right, where the right answer is known.

    From the oracle to the majority right paths are lost that were too few, from there to the summary those
    that it does not count, and from there to the answer what the rest of the response makes of it.
    """
    return {
        "path_oracle": [any(each.right_paths) for each in decisions],
        "path_majority": [each.majority_right for each in decisions],
        "summary_accuracy": [each.right for each in decisions],
        "path_accuracy": [right for each in decisions for right in each.right_paths],
    }


def correct_of(row: Mapping[str, Any]) -> bool | None:
    """Whether a sample's answer is right; None where nobody judged it, or its gold answer cannot be read."""
    if row.get("verdict") == _UNREADABLE:
        return None
    if row.get("correct") is not None:
        return bool(row["correct"])
    return row["verdict"] in ("identical", "equal") if row.get("verdict") else None

"""The shape of a response: lengths, the critical path, where blocks stand, how much their paths differ."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import fmean
from typing import Any

from prl.grammar import Trace

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Shape:
    """One response in numbers."""

    length: int
    critical_path: int
    blocks: int
    paths: int
    block_positions: tuple[float, ...]
    diversity: float | None

    @property
    def saved(self) -> float:
        """The share of the response off its critical path: (total − critical path) / total, in 0..1."""
        return 1 - self.critical_path / self.length if self.length else 0.0


def shape(trace: Trace, ids: Sequence[Hashable]) -> Shape:
    """The shape of a trace that was parsed from `ids`, the tokens of a response (or the characters)."""
    diversities = [
        diversity([ids[path.body.start : path.body.end] for path in block.paths]) for block in trace.blocks
    ]
    return Shape(
        length=trace.length,
        critical_path=critical_path(trace),
        blocks=len(trace.blocks),
        paths=sum(len(block.paths) for block in trace.blocks),
        block_positions=block_positions(trace),
        diversity=mean(value for value in diversities if value is not None),
    )


def critical_path(trace: Trace) -> int:
    """Main thread + longest path of each block + summaries: the length when paths are decoded side by side.

    Paths count with their tags. A block's own two tags, and text in it outside its paths, are main thread.
    """
    lengths = [[path.span.end - path.span.start for path in block.paths] for block in trace.blocks]
    return trace.length - sum(sum(paths) - max(paths, default=0) for paths in lengths)


def block_positions(trace: Trace) -> tuple[float, ...]:
    """Where each `<Parallel>` stands: its start over the length of the response, 0 at the beginning.

    The measure of Parallel-R1's analysis, which reads early blocks as exploration, late ones as verification.
    """
    return tuple(block.span.start / trace.length for block in trace.blocks)


def diversity(paths: Sequence[Sequence[Hashable]]) -> float | None:
    """How far the paths of a block differ in the tokens they use: 0 for the same set, 1 for disjoint sets.

    For two paths with the token sets A and B, the Sørensen–Dice distance 1 − 2|A∩B| / (|A| + |B|); for n
    paths, (n·|union| / Σ|set| − 1) / (n − 1), which takes linear time. Empty paths are left out; None for
    fewer than two others.

    >>> diversity([[1, 2, 2], [2, 1]]), diversity([[1, 2], [2, 3]]), diversity([[1], [2], [3]])
    (0.0, 0.5, 1.0)
    """
    sets = [set(path) for path in paths if len(path)]
    if len(sets) < 2:
        return None
    return (len(sets) * len(set().union(*sets)) / sum(map(len, sets)) - 1) / (len(sets) - 1)


def summarise(shapes: Sequence[Shape]) -> dict[str, float | None]:
    """The means over many responses; None where there is nothing to average."""
    blocks = sum(one.blocks for one in shapes)
    return {
        "length": mean(one.length for one in shapes),
        "critical_path": mean(one.critical_path for one in shapes),
        "saved": mean(one.saved for one in shapes),
        "blocks_per_response": mean(one.blocks for one in shapes),
        "paths_per_block": sum(one.paths for one in shapes) / blocks if blocks else None,
        "block_position": mean(position for one in shapes for position in one.block_positions),
        "path_diversity": mean(one.diversity for one in shapes if one.diversity is not None),
    }


def self_bleu(paths: Sequence[Sequence[str]]) -> float | None:
    """The mean BLEU of each path against its siblings: 1.0 where all are alike, 0.0 where no token is shared.

    Self-BLEU (Zhu et al. 2018, arXiv 1802.01886) of token sequences. BLEU is the geometric mean of the
    clipped precisions of 1- to 4-grams times the brevity penalty against the sibling of the nearest length
    (the shorter of two). Short paths are smoothed as sacrebleu does for sentences: orders that a path is too
    short for are left out, the k-th order without a match counts 1/2^k matches, and no match at all is 0.
    Empty paths are left out; None for fewer than two others. Linear in the tokens, however many the paths.

    >>> self_bleu([["6", "*", "7"], ["6", "*", "7"]]), self_bleu([["6", "*", "7"], ["add", "it"]])
    (1.0, 0.0)
    """
    paths = [path for path in paths if len(path)]
    if len(paths) < 2:
        return None
    logs = [0.0] * len(paths)
    unmatched = [0] * len(paths)
    for order in range(1, 5):
        counts = [Counter(zip(*(path[start:] for start in range(order)), strict=False)) for path in paths]
        most, second = _two_most(counts)
        for i, own in enumerate(counts):
            if total := own.total():
                matches = sum(
                    min(count, second.get(gram, 0) if most[gram][1] == i else most[gram][0])
                    for gram, count in own.items()
                )
                unmatched[i] += not matches
                logs[i] += log((matches or 0.5 ** unmatched[i]) / total)
    lengths = sorted(map(len, paths))
    scores = []
    for i, path in enumerate(paths):
        orders = min(len(path), 4)
        if unmatched[i] == orders:
            scores.append(0.0)
        else:
            brevity = min(0.0, 1 - _nearest_length(lengths, len(path)) / len(path))
            scores.append(exp(logs[i] / orders + brevity))
    return fmean(scores)


def words(text: str) -> list[str]:
    """What texts are compared by where no tokenizer is at hand: words, numbers and single symbols, those that
    can be seen.

    >>> words("So 12+3=15.")
    ['So', '12', '+', '3', '=', '15', '.']
    """
    return _WORD.findall("".join(c for c in text if c.isprintable() or c.isspace()))


def mean(values: Iterable[float]) -> float | None:
    """The mean of any values; None of none."""
    listed = list(values)
    return fmean(listed) if listed else None


def _two_most(counts: Sequence[Counter[Any]]) -> tuple[dict[Any, tuple[int, int]], dict[Any, int]]:
    """The largest count of each key with the index of its counter, and the largest among the others.

    What the siblings of any path hold at most follows from these two, so no pair of paths is ever compared.
    """
    most: dict[Any, tuple[int, int]] = {}
    second: dict[Any, int] = {}
    for i, counter in enumerate(counts):
        for key, count in counter.items():
            if key not in most:
                most[key] = count, i
            elif count > most[key][0]:
                second[key] = most[key][0]
                most[key] = count, i
            else:
                second[key] = max(second.get(key, 0), count)
    return most, second


def _nearest_length(lengths: list[int], own: int) -> int:
    """The length nearest to `own` in sorted `lengths`, once without `own` itself; the shorter of two."""
    at = bisect_left(lengths, own)
    others = [*lengths[max(at - 1, 0) : at], *lengths[at + 1 : at + 2]]
    return min(others, key=lambda length: (abs(length - own), length))

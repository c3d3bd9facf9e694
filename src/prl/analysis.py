"""What the traces show: lengths, the critical path, where blocks stand and how much their paths differ.

All functions are pure and count in the unit of a trace's spans: tokens after `grammar.parse_ids`, which is
what evaluation reports, characters after `grammar.parse`. Blocks count as they are parsed, valid or not.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from prl.grammar import Trace


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
        diversity=_mean(value for value in diversities if value is not None),
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
    """The means that evaluation reports; None where there is nothing to average."""
    blocks = sum(one.blocks for one in shapes)
    return {
        "length": _mean(one.length for one in shapes),
        "critical_path": _mean(one.critical_path for one in shapes),
        "saved": _mean(one.saved for one in shapes),
        "blocks_per_response": _mean(one.blocks for one in shapes),
        "paths_per_block": sum(one.paths for one in shapes) / blocks if blocks else None,
        "block_position": _mean(position for one in shapes for position in one.block_positions),
        "path_diversity": _mean(one.diversity for one in shapes if one.diversity is not None),
    }


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return fmean(listed) if listed else None

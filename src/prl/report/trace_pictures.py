"""A trace as its model sees it: which token sees which, and the position of each (extra `report`).

    draw_masks(pieces_of(text))            as the model wrote it: what stands where a row's token looks
    draw_positions(pieces_of(text))        the same tokens, by their position ids

Both are drawn from `prl.structure`, which the models compute with, and show structured attention beside
causal (Parallel-R1, arXiv 2509.07980: "Unseen" and "Seen"). The prompt, which every token sees, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING, Any, Literal

from prl.grammar import PARALLEL, TAGS, parse
from prl.report.curves import empty_figure
from prl.report.lanes import harmless

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

Attention = Literal["causal", "structured"]

# Okabe and Ito's; a path has one colour in both pictures.
PATH_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
_MAIN, _OUTLINE = "#8c8c8c", "#333333"
_PALE, _GREY = 0.35, 0.5  # of a path's colour where another lane sees it; of the main thread's

_MOST_NAMED = 96  # tokens up to which each has its text at the axes; of more the lanes are named
_LONGEST_NAME = 12  # characters of a token's text
_SIGNS = {"\n": "⏎", "\t": "⇥", " ": "␣"}
_WORDS = re.compile("|".join([*map(re.escape, TAGS), r"[^\W\d_]+", r"\d", r"\s", r"."]), re.DOTALL)


def pieces_of(text: str, lengths: Sequence[int] | None = None) -> list[str]:
    """The text of each token, by the characters that each wrote (`token_lengths` of a sample); where nobody
    kept these, tags, words, digits and signs stand for tokens."""
    if lengths is None:
        return _WORDS.findall(text)
    return [text[start:end] for start, end in pairwise(accumulate(lengths, initial=0))]


def example(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The shortest response without a fault that has a block, of those that are right where any such is:
    the one whose pictures are the easiest to read. None where no response is like that."""
    shortest_first = sorted((row for row in rows if row.get("text") and not row.get("faults")), key=_rank)
    return next((row for row in shortest_first if _forks(row)), None)


def mask_of(pieces: Sequence[str], attention: Attention = "structured") -> Tensor:
    """True where a token (row) sees another (column): `prl.structure.path_window_mask` of a response alone,
    or of `causal` attention all that was written before. Bool, (tokens, tokens)."""
    import torch

    from prl.structure import path_window_mask

    if attention == "causal":
        return torch.ones(len(pieces), len(pieces), dtype=torch.bool).tril()
    return path_window_mask(*_ids(pieces))[0, 0]


def positions_of(pieces: Sequence[str]) -> list[int]:
    """The position id of each token with structured attention: `prl.structure.structural_positions`, from 0
    where the response begins."""
    from prl.structure import structural_positions

    return structural_positions(*_ids(pieces))[0].tolist()


def lanes_of(pieces: Sequence[str]) -> list[int]:
    """0 for tokens of the main thread, 1, 2, … for those of the paths in written order."""
    from prl.structure import read_structure

    return read_structure(*_ids(pieces)).segments[0].tolist()


def draw_masks(pieces: Sequence[str], *, trained: Attention | None = None) -> Figure:
    """What each token (row) sees (column), with causal and with structured attention; `trained` is marked.
    Raises UsageError: matplotlib is missing."""
    side = max(3.6, 1.2 + 0.08 * min(len(pieces), _MOST_NAMED))
    figure = empty_figure(width=2 * side + 1.8, height=side + 0.6)
    lanes = lanes_of(pieces)
    attentions: tuple[Attention, ...] = ("causal", "structured")
    for axes, attention in zip(figure.subplots(1, 2), attentions, strict=True):
        axes.imshow(_coloured(mask_of(pieces, attention), lanes), interpolation="nearest")
        axes.plot(*_stairs(len(pieces)), color=_OUTLINE, linewidth=0.8)
        axes.set_title(_TITLES[attention] + (", which this run has" if attention == trained else ""), size=11)
        axes.set_xlabel("is seen")
        axes.spines[:].set_visible(False)
        _name_tokens(axes, pieces, lanes, side, both=True)
    figure.axes[0].set_ylabel("sees")
    _legend(figure, lanes, patches=True)
    return figure


def draw_positions(pieces: Sequence[str], *, trained: Attention | None = None) -> Figure:
    """The position id of each token in written order, with structured attention; a grey line is causal
    attention's, which counts on. Raises UsageError: matplotlib is missing."""
    width = min(14.0, max(5.0, 2.2 + 0.13 * len(pieces)))
    figure = empty_figure(width=width, height=4.4)
    axes, lanes, positions = figure.subplots(), lanes_of(pieces), positions_of(pieces)
    axes.plot(range(len(pieces)), range(len(pieces)), color="#b0b0b0", linewidth=1.2, zorder=1)
    axes.scatter(range(len(pieces)), positions, c=[_colour(lane) for lane in lanes], s=18, zorder=2)
    told = f"{len(pieces)} tokens at {max(positions) + 1} positions"
    axes.set_title(told + (f"; this run: {trained} attention" if trained else ""), fontsize=11, loc="left")
    axes.set(xlabel="token, as written", ylabel="position id")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
    _name_tokens(axes, pieces, lanes, width - 2.2)
    _legend(figure, lanes, patches=False)
    return figure


_TITLES: dict[Attention, str] = {"causal": "causal (Seen)", "structured": "structured (Unseen)"}


def _rank(row: Mapping[str, Any]) -> tuple[bool, int]:
    return row.get("correct") != 1, int(row.get("length") or len(row["text"]))


def _forks(row: Mapping[str, Any]) -> bool:
    """Whether it has a valid block, with tags that were tokens where the run kept which there were."""
    return parse(row["text"]).uses_parallel and PARALLEL in pieces_of(row["text"], row.get("token_lengths"))


def _ids(pieces: Sequence[str]) -> tuple[Any, Any]:
    """Ids that stand for the pieces, the tags first, and the tags: structure asks for nothing else."""
    import torch

    from prl.structure import Tags

    known = {tag: number for number, tag in enumerate(TAGS)}
    ids = torch.tensor([[known.get(piece, len(TAGS)) for piece in pieces]])
    return ids, Tags(*range(len(TAGS)))


# Drawing


def _colour(lane: int) -> str:
    return PATH_COLOURS[(lane - 1) % len(PATH_COLOURS)] if lane else _MAIN


def _written(lane: int) -> tuple[float, ...]:
    """A lane's colour, dark enough for small letters."""
    from matplotlib.colors import to_rgb

    return tuple(0.6 * part for part in to_rgb(_colour(lane))) if lane else (0.0, 0.0, 0.0)


def _coloured(mask: Tensor, lanes: Sequence[int]) -> np.ndarray:
    """White where nothing is seen; else the colour of what is, pale across lanes. (tokens, tokens, 3)."""
    import numpy as np
    from matplotlib.colors import to_rgb

    colours, lane = np.array([to_rgb(_colour(lane)) for lane in lanes]), np.array(lanes)
    depth = np.where(lane == 0, _GREY, np.where(lane[:, None] == lane, 1.0, _PALE)) * mask.numpy()
    return 1 - depth[..., None] * (1 - colours)


def _stairs(count: int) -> tuple[list[float], list[float]]:
    """The border of what was written before: beyond it no attention looks."""
    xs, ys = [-0.5], [-0.5]
    for at in range(count):
        xs += [at + 0.5, at + 0.5]
        ys += [at - 0.5, at + 0.5]
    return [*xs, -0.5, -0.5], [*ys, count - 0.5, -0.5]


def _name_tokens(
    axes: Axes, pieces: Sequence[str], lanes: Sequence[int], side: float, *, both: bool = False
) -> None:
    """The text of each token below the picture, with `both` also beside it; of a long response which lanes
    its stretches are of."""
    named = {at: (_name(piece), lanes[at]) for at, piece in enumerate(pieces)}
    size = min(9.0, max(3.0, 0.8 * 72 * side / max(1, len(pieces))))
    if is_long := len(pieces) > _MOST_NAMED:
        named, size = dict(_stretches(lanes)), 9.0
    names = [name for name, _ in named.values()]
    told = [
        axes.set_xticks([*named], names, rotation=0 if is_long else 90, fontsize=size, family="monospace")
    ]
    if both:
        told.append(axes.set_yticks([*named], names, fontsize=size, family="monospace"))
    for label, (_, lane) in (
        (label, each) for ticks in told for label, each in zip(ticks, named.values(), strict=True)
    ):
        label.label1.set_parse_math(False)
        label.label1.set_color(_written(lane))
    axes.tick_params(length=0, pad=2)


def _stretches(lanes: Sequence[int]) -> Iterator[tuple[int, tuple[str, int]]]:
    """The middle of each stretch that is long enough to be named, its name, and its lane."""
    start = 0
    for lane, of in groupby(lanes):
        count = len([*of])
        if count >= len(lanes) / 20:
            yield start + count // 2, (f"path {lane}" if lane else "main", lane)
        start += count


def _name(piece: str) -> str:
    """What stands for a token at an axis: one short line in letters that the figure's font has. A token that
    wrote nothing is the response's end, or a part of a character."""
    if not piece:
        return "∅"
    shown = legible("".join(_SIGNS.get(character, character) for character in harmless(piece)))
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[:_LONGEST_NAME]}…"


def legible(text: str) -> str:
    """`text` with a box for each character that matplotlib's own font cannot draw."""
    return "".join(character if ord(character) in _drawable() else "□" for character in text)


@cache
def _drawable() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    fonts = (get_font(findfont(f"DejaVu Sans{kind}")).get_charmap() for kind in ("", " Mono"))
    return frozenset.intersection(*(frozenset(each) for each in fonts))


def _legend(figure: Figure, lanes: Sequence[int], *, patches: bool) -> None:
    """What the colours are, on the right, where it covers nothing."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    names = {0: "main thread, summary", **{lane: f"path {lane}" for lane in range(1, max(lanes) + 1)}}
    handles: list[Any] = []
    for lane, name in names.items():
        if patches:
            handles.append(Patch(color=_colour(lane), alpha=1 if lane else _GREY, label=name))
        else:
            handles.append(
                Line2D([], [], marker="o", linestyle="", color=_colour(lane), markersize=4.5, label=name)
            )
    if patches:
        handles.append(Patch(color=PATH_COLOURS[0], alpha=_PALE, label="paler: from another lane"))
    else:
        handles.append(Line2D([], [], color="#b0b0b0", linewidth=1.2, label="causal attention"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)

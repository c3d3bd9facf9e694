"""A training while it runs, in a terminal: how far it is, how it went until now, and the best response of the
last step that sampled some, as lanes.

    view = TrainingView(console, "rl", total=200)
    view.start()
    view.take(step, {"reward": 0.5}, [])     what was logged
    view.take(step, {}, rows)                what was sampled, as `prl.runs` keeps it
    view.advance(step, "0:45")               steps done, and the time that is left
    view.stop()

Lines that others print stand above it. What a model wrote is drawn by `prl.report.lanes`, which takes from it
what steers a terminal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from prl.data.columns import CONTEXT_PATHS
from prl.report.choosing import Row, numbered, trace_of
from prl.report.lanes import one_line, trace_text
from prl.report.page.choosing import total_reward
from prl.report.responses import head_of

FIGURES: dict[str, dict[str, str]] = {
    "sft": {"loss": "loss", "eval_format_valid": "valid format", "eval_parallel_ratio": "parallel ratio"},
    "rl": {"reward": "reward", "correct": "right answers", "parallel_ratio": "parallel ratio"},
}
"""Command -> key in the log -> name of what the view shows over the steps until now."""

_SHARES = ("correct", "parallel_ratio", "eval_format_valid", "eval_parallel_ratio")
_COLUMNS, _MOST_LINES = 40, 18
_BARS = "▁▂▃▄▅▆▇█"


class TrainingView:
    """The view of a training of `total` steps, of which `done` were done before, with the lines `logged`
    until then, as metrics.jsonl has them; on `console`. The paths of its responses begin with `opening`, of
    `prl.grammar.OPENINGS`.

    A thread of rich draws what the training tells it: each field is replaced as a whole.
    """

    def __init__(
        self,
        console: Console,
        command: str,
        *,
        total: int,
        done: int = 0,
        logged: Iterable[Mapping[str, Any]] = (),
        opening: str = "none",
    ) -> None:
        self.console, self.command, self.opening = console, command, opening
        self.curves: dict[str, dict[int, float]] = {key: {} for key in FIGURES.get(command, ())}
        self.figures: list[str] = []
        self.best: Row | None = None
        self._lanes: tuple[Row | None, int, list[str]] = (None, 0, [])  # of which response, how wide
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            console=console,
        )
        self.task = self.bar.add_task(command, total=total, completed=done, left="-:--")
        self.live = Live(console=console, get_renderable=self._drawing, refresh_per_second=2, transient=True)
        for line in logged:
            self._note(line.get("step"), line)
        self.take(done, {}, ())

    def start(self) -> None:
        """Put the view on the terminal."""
        self.live.start()

    def stop(self) -> None:
        """Take the view off the terminal; again does nothing."""
        self.live.stop()

    def advance(self, done: int, left: str) -> None:
        """So many steps are done, and so much time is `left`, in words."""
        self.bar.update(self.task, completed=done, left=left)

    def take(self, step: int, metrics: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        """What was logged and sampled at a step."""
        self._note(step, metrics)
        names = FIGURES.get(self.command, {})
        self.figures = [_figure(name, key in _SHARES, self.curves[key]) for key, name in names.items()]
        if rows:
            found = numbered([{"step": step, **row} for row in rows], opening=self.opening)
            # The first of those that are paid most; a right one, and one with a block, before others.
            best = max(found, key=lambda row: (total_reward(row), row.get("correct") or 0, _has_block(row)))
            self.best = best | {"row": None}

    def _note(self, step: Any, metrics: Mapping[str, Any]) -> None:
        for key, curve in self.curves.items():
            value = metrics.get(key)
            if isinstance(step, int) and isinstance(value, int | float) and math.isfinite(value):
                curve[step] = float(value)

    def _drawing(self) -> RenderableType:
        width, height = self.console.width, self.console.height
        room = min(height - len(self.figures) - 4, _MOST_LINES)  # bar, head, problem, a line that is free
        return Group(self.bar, *map(_line, self.figures), *self._best(width, room))

    def _best(self, width: int, room: int) -> Iterator[Text]:
        """Which response it is and to what, and as much of it as there is room for."""
        row = self.best
        if row is None or room < 1:
            return
        of, drawn_width, lines = self._lanes
        if of is not row or drawn_width != width:
            lines = trace_text(trace_of(row), width, row.get(CONTEXT_PATHS) or ()).split("\n")
            self._lanes = row, width, lines
        yield _line(head_of(row), "dim")
        yield _line(one_line(str(row.get("problem") or "")))
        kept = lines if len(lines) <= room else [*lines[: room - 1], f"… {len(lines) - room + 1} lines more"]
        yield _line("\n".join(kept))


def _figure(name: str, is_share: bool, curve: Mapping[int, float]) -> str:
    """Its name, its latest value, and how it went."""
    values = [value for _, value in sorted(curve.items())]
    latest = "–" if not values else f"{values[-1]:.0%}" if is_share else f"{values[-1]:.3g}"
    return f"{name:15} {latest:>8}  {sparks(values, share=is_share)}"


def sparks(values: Sequence[float], columns: int = _COLUMNS, *, share: bool = False) -> str:
    """`values` in order as bars of text, means where there are more than `columns`; from the least to the
    greatest, or of shares from 0 to 1.

    >>> sparks([0, 1, 2, 3])
    '▁▃▆█'
    """
    count = min(columns, len(values))
    ends = [len(values) * place // count for place in range(count + 1)] if count else []
    means = [fmean(values[start:end]) for start, end in pairwise(ends)]
    low, high = (0.0, 1.0) if share else (min(means, default=0.0), max(means, default=0.0))
    most = len(_BARS) - 1
    places = (round((mean - low) / (high - low) * most) if high > low else 0 for mean in means)
    return "".join(_BARS[max(0, min(most, place))] for place in places)


def _has_block(row: Row) -> bool:
    return trace_of(row).uses_parallel


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="crop")

"""A few responses of a step where the metrics go: as a table, and drawn as lanes, in tensorboard and trackio.

What a model wrote is data. tensorboard shows Markdown, so every character that is one of its signs, or of
HTML's, becomes an entity, and its sanitizer leaves no style that lanes could have: they are drawn in text.
trackio (0.43) shows cells as text, 250 characters of each, and lanes in a frame without access to its own.
Other loggers get metrics alone; `--log_completions` is TRL's way to wandb, and to trackio too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers.integrations import TensorBoardCallback

from prl.grammar import Trace, parse
from prl.report.lanes import harmless, one_line, trace_html, trace_text

SHOWN = 4
"""Responses of a step: half of them those with the highest advantage, half those with the lowest."""

LONGEST = 4_000
"""Characters of a problem or a response in a table; the run has all of them."""

_WIDTH = 100  # columns of lanes in text
_SIGNS = re.compile(r"[^\w\s,;:.?%=/'\"]|_")

Row = Mapping[str, Any]
"""As `prl.runs.sample_row` makes it, with what RL adds: `advantage` and `reward_<name>`."""


class SampleTables:
    """Shows samples of a run in what its trainer reports to, once it is told which that is (`watch`)."""

    def __init__(self, path_opening: str = "none") -> None:
        self.path_opening = path_opening
        self._tensorboard: TensorBoardCallback | None = None
        self._trackio = False

    def watch(self, trainer: Any) -> None:
        """Show them where `trainer` reports to."""
        callbacks = trainer.callback_handler.callbacks
        self._tensorboard = next((each for each in callbacks if isinstance(each, TensorBoardCallback)), None)
        self._trackio = "trackio" in trainer.args.report_to

    def show(self, rows: Sequence[Row], state: Any) -> None:
        """Show some of `rows`, the samples of the step that `state` (transformers') is at; only the main
        process does."""
        if not rows or not state.is_world_process_zero or not (self._tensorboard or self._trackio):
            return
        chosen = choose(rows)
        cells = [cells_of(row) for row in chosen]
        traces = [
            parse(row["text"], truncated=bool(row.get("truncated")), opening=self.path_opening)
            for row in chosen
        ]
        heads = [_head(row) for row in chosen]
        writer = self._tensorboard.tb_writer if self._tensorboard else None
        if writer:
            writer.add_text("samples/table", markdown_table(cells), state.global_step)
            drawn = zip(heads, traces, strict=True)
            lanes = "\n\n".join(f"{escaped(head)}\n\n{_as_code(trace)}" for head, trace in drawn)
            writer.add_text("samples/lanes", lanes, state.global_step)
        if self._trackio:
            self._send(cells, heads, traces, state.global_step)

    def _send(
        self, cells: Sequence[dict[str, Any]], heads: Sequence[str], traces: Sequence[Trace], step: int
    ) -> None:
        import trackio

        table = [
            {name: harmless(value) if isinstance(value, str) else value for name, value in row.items()}
            for row in cells
        ]
        sent: dict[str, Any] = {"samples/table": trackio.Table(data=table)}
        for number, (head, trace) in enumerate(zip(heads, traces, strict=True), 1):
            sent[f"samples/lanes {number}"] = trackio.Html(trace_html(trace), caption=head)
        trackio.log(sent | {"train/global_step": step})


def choose(rows: Sequence[Row]) -> list[Row]:
    """At most `SHOWN` of them, by falling advantage: the highest and the lowest; the first where there is
    none."""
    if len(rows) <= SHOWN or all(row.get("advantage") is None for row in rows):
        kept = list(rows[:SHOWN])
        return sorted(kept, key=_advantage, reverse=True)
    ordered = sorted(rows, key=_advantage, reverse=True)
    return [*ordered[: SHOWN - SHOWN // 2], *ordered[-(SHOWN // 2) :]]


def cells_of(row: Row) -> dict[str, Any]:
    """Column -> text or number: problem, response, verdict, gold answer, and the rewards by name."""
    cells: dict[str, Any] = {
        "problem": _cut(row["problem"]),
        "response": _cut(row["text"]),
        "verdict": _verdict(row),
        "answer": str(row.get("answer") or ""),
    }
    paid = {name: row[name] for name in row if name.startswith("reward_") or name == "advantage"}
    return cells | {name: None if value is None else round(float(value), 3) for name, value in paid.items()}


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same columns as a table in Markdown, in which no cell is more than text.

    >>> print(markdown_table([{"response": "a|b\\n<b>*c*</b>", "reward": 1.0}]))
    | response | reward |
    | --- | --- |
    | a&#124;b<br>&#60;b&#62;&#42;c&#42;&#60;/b&#62; | 1.0 |
    """
    columns = list(rows[0])
    lines = [[escaped(name) for name in columns], ["---"] * len(columns)]
    lines += [[_cell(row[name]) for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return escaped(value) if isinstance(value, str) else str(value)


def escaped(text: str) -> str:
    """`text` as Markdown that shows it: line ends as breaks, signs as entities."""
    lines = harmless(text.replace("\r\n", "\n")).split("\n")
    return "<br>".join(_SIGNS.sub(lambda sign: f"&#{ord(sign[0])};", line) for line in lines)


def _as_code(trace: Trace) -> str:
    """The lanes as a block of code by indentation, which nothing in it can close."""
    return "\n".join(f"    {line}" for line in trace_text(trace, _WIDTH).split("\n"))


def _head(row: Row) -> str:
    """Problem, verdict and advantage in a line."""
    advantage = row.get("advantage")
    paid = "" if advantage is None else f", advantage {advantage:+.2f}"
    return f"{one_line(_cut(row['problem'], 200))} – {_verdict(row)}{paid}"


def _verdict(row: Row) -> str:
    if "correct" not in row:
        return "not judged"
    said = {None: "no verdict", 1: "right", 0: "wrong"}[row["correct"]]
    return f"{said}: {row['verdict']}" if row.get("verdict") else said


def _advantage(row: Row) -> float:
    advantage = row.get("advantage")
    return 0.0 if advantage is None else float(advantage)


def _cut(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else f"{text[:longest]} … {len(text) - longest:,} characters more"

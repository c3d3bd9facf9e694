"""Responses drawn, each under one line that says where it comes from and what was made of it.

    print("\\n".join(response_text(row, width=100)))        in a terminal
    response_html(row)                                        on a page

Rows are those of `prl.report.choosing`; what a row does not hold is left out. All of it is data: nothing in
a problem, an answer or a name steers a terminal or becomes markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from prl.analysis import Dissent, correct_of
from prl.answers.judging import REASONS
from prl.data.columns import CONTEXT_PATHS
from prl.grammar import parse
from prl.report.choosing import Row, at_odds, is_valid, trace_of
from prl.report.lanes import one_line, trace_html, trace_text

_SHOWN = 60  # characters of an answer
_SAID = ("identical", "no answer")  # verdicts that need no more words
VERDICTS = REASONS | {"beyond context": "the problem leaves no room for an answer"}
"""A verdict of samples.parquet -> what it means."""


def response_text(row: Row, width: int, head: str | None = None) -> Iterator[str]:
    """The lines of a response: its `head`, else what `head_of` says; its problem; its lanes."""
    yield head_of(row) if head is None else head
    if problem := row.get("problem"):
        yield from (trace_text(parse(problem), width), "")
    yield from (trace_text(trace_of(row), width, row.get(CONTEXT_PATHS) or ()), "")


def response_html(row: Row, head: str | None = None) -> str:
    """The same as a fragment of HTML."""
    said = escape(head_of(row) if head is None else head)
    problem = trace_html(parse(row["problem"])) if row.get("problem") else ""
    lanes = trace_html(trace_of(row), row.get(CONTEXT_PATHS) or ())
    return f'<p class="mathjax_ignore tex2jax_ignore"><b>{said}</b></p>{problem}{lanes}'


def head_of(row: Row, *, odds: bool = False) -> str:
    """One line: run, row, step, group and sample; right or wrong and why; valid or its faults; rewards;
    lengths; and, where they are asked for, the paths at `odds` with the answer."""
    parts = [*_place(row), *_judged(row), *_form(row), *_paid(row), *_lengths(row)]
    return one_line("── " + " · ".join([*parts, *(_odds(at_odds(row)) if odds else ())]))


def _place(row: Row) -> Iterator[str]:
    if row.get("run"):
        yield str(row["run"])
    if row.get("row"):
        yield f"row {row['row']}"
    if row.get("step"):  # an evaluation has none but 0
        yield f"step {row['step']}"
    yield from (f"{name} {row[name]}" for name in ("stage", "phase") if row.get(name))
    if row.get("mode"):
        yield str(row["mode"])
    if row.get("group") is not None:
        yield f"group {row['group']}"
    if row.get("samples", 1) > 1:
        yield f"sample {row['sample']} of {row['samples']}"


def _judged(row: Row) -> Iterator[str]:
    """Right or wrong, what was answered and what was wanted, and what the verifier says of it."""
    correct, reason = correct_of(row), row.get("verdict")
    why = f" ({VERDICTS.get(reason, reason)})" if reason not in (None, *_SAID) else ""
    gold = None if row.get("answer") is None else f"gold {_short(row['answer'])}"
    if correct is None:
        if gold:
            yield f"not judged: {gold}{why}"
        return
    found = "no answer" if row.get("extracted") is None else _short(row["extracted"])
    told = found if reason == "identical" or gold is None else f"{found}, {gold}"
    yield f"{'right' if correct else 'wrong'}: {told}{why}"


def _form(row: Row) -> Iterator[str]:
    if is_valid(row):
        yield "valid"
        return
    faults = row.get("faults") or [fault.kind.value for fault in trace_of(row).faults]
    yield "faulty: " + ", ".join(dict.fromkeys(faults))


def _paid(row: Row) -> Iterator[str]:
    paid = {name.removeprefix("reward_"): row[name] for name in row if name.startswith("reward_")}
    if paid:
        yield "reward " + ", ".join(f"{name} {value:.3g}" for name, value in paid.items())
    if row.get("advantage") is not None:
        yield f"advantage {row['advantage']:+.3f}"
    elif paid:
        yield "left out of the update"


def _lengths(row: Row) -> Iterator[str]:
    units = (("length", "{:.0f} tokens"), ("critical_path", "critical path {:.0f}"), ("seconds", "{:.3f} s"))
    if lengths := [unit.format(row[name]) for name, unit in units if row.get(name) is not None]:
        yield ", ".join(lengths)


def _odds(odds: Iterable[Dissent]) -> Iterator[str]:
    for each in odds:
        named = f"path {each.path}" + (f" of block {each.block}" if each.block > 1 else "")
        yield f"{named} has {_short(each.concludes)}"


def _short(answer: str) -> str:
    said = one_line(answer)
    return said if len(said) <= _SHOWN else f"{said[:_SHOWN]}…"

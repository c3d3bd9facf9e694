"""Which samples of a run stand in its page, and how they are packed.

The rule: of a training the groups with the best and the worst mean reward, then the whole groups of evenly
spaced steps, the first and the last step before all others; of an evaluation one problem after another; until
the page is full, of which each run has as much. What is left out is counted.

As a run goes on most of what is chosen stays, and stays where it is: what a step has is packed with that of
the steps around it, and which steps come first depends on how many are before them.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from prl.analysis import dissent
from prl.grammar import FaultKind, Trace, parse
from prl.report.page.reading import Told
from prl.report.responses import VERDICTS

CHUNK = 200
"""Samples that are packed together: what a page unpacks to show one of them."""

MOST_TEXT = 40_000
"""Characters of a response that a page shows; the rest is counted."""

_FAILED = ("timed out", "crashed", "too large", "unparseable", "unparseable gold")
_GOES_ON = re.compile(r"[\w.,/^\\−-]$")  # before an answer: it is part of a longer one
_MEANING = {fault.value: fault.meaning for fault in FaultKind}


@dataclass(frozen=True)
class Chosen:
    """`chunks` are texts for the page, each `sizes` samples of whole groups; `index` has one entry a column,
    in each a value a sample, in the order of the chunks; `shown` of `total` samples are there. `problems` are
    all that the runs met, in the order in which they did, so that a problem's `number` stays as they go on;
    None for one of which no sample is shown."""

    index: dict[str, list[Any]]
    chunks: list[str]
    sizes: list[int]
    problems: list[dict[str, Any] | None]
    total: int

    @property
    def shown(self) -> int:
        """How many samples are in the chunks."""
        return sum(self.sizes)


def choose(told: Sequence[Told], budget: float) -> Chosen:
    """The samples of all runs that fit into `budget` bytes of page; all of them where it is infinite. Runs
    share it evenly."""
    index: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    chunks: list[str] = []
    sizes: list[int] = []
    numbers: dict[tuple[Any, Any], int] = {}
    for run in told:
        for row in run.samples:
            numbers.setdefault((row["problem"], row.get("answer")), len(numbers))
    for number, run in enumerate(told):
        left = budget * (number + 1) / len(told) - sum(map(len, chunks))
        for rows in _in_places(run, _that_fit(run, number, numbers, left)):
            sizes.append(len(rows))
            for name in COLUMNS:
                index[name] += [row.pop(name) for row in rows]
            chunks.append(_packed(rows))
    shown = {*index["problem"]}
    problems = [
        {"problem": problem, "gold": gold, "number": place + 1} if place in shown else None
        for (problem, gold), place in numbers.items()
    ]
    return Chosen(index, chunks, sizes, problems, sum(len(run.samples) for run in told))


def _that_fit(
    run: Told, number: int, numbers: Mapping[tuple[Any, Any], int], left: float
) -> list[tuple[int, list[dict[str, Any]]]]:
    """The groups that fit into so many bytes, each with its place. How much smaller packing makes them is
    told by the first that are packed."""
    found, waiting, ratio = [], [], 0.0
    for place, group in _in_order(run):
        rows = [_shown(row, number, numbers, run) | {"sample": at} for at, row in enumerate(group, 1)]
        found.append((place, rows))
        waiting += rows
        if len(waiting) >= CHUNK:
            written = len(_text(waiting))
            ratio = ratio or len(_packed(waiting)) / written
            left -= ratio * written
            waiting = []
            if left <= 0:
                break
    return found


def _in_places(
    run: Told, groups: Sequence[tuple[int, list[dict[str, Any]]]]
) -> Iterator[list[dict[str, Any]]]:
    """The samples to be packed together, in the order of their places."""
    span = CHUNK
    if run.command == "rl" and groups:
        steps = len({row["step"] for row in run.samples})
        spread = steps // len({place for place, _ in groups})  # each so many steps one is chosen
        a_step = sum(row["step"] == run.samples[0]["step"] for row in run.samples)
        span = max(1, CHUNK // a_step) * 2 ** (spread.bit_length() - 1)
    of_span: dict[int, list[dict[str, Any]]] = {}
    for place, rows in sorted(groups, key=lambda group: group[0]):
        of_span.setdefault(place // span, []).extend(rows)
    yield from of_span.values()


COLUMNS = (
    "run", "step", "problem", "mode", "group", "sample", "correct", "valid", "parallel", "advantage",
    "reward", "tokens", "lost", "doubted",
)  # fmt: skip
"""What the page filters by, of each sample; `problem` is a place in `Chosen.problems`, and `sample` the place
in its group, from 1."""


def _in_order(run: Told) -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
    """The groups of a run, whole, by the rule above, each with its place: of a training that of its step, of
    others that of its first sample."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in run.samples:
        within = row["problem"] if row.get("group") is None else row["group"]
        groups.setdefault((row["step"], row.get("mode"), within), []).append(row)
    if run.command != "rl" or not groups:
        place = 0
        for rows in groups.values():
            yield place, rows
            place += len(rows)
        return
    steps = sorted({step for step, *_ in groups})
    places = {step: place for place, step in enumerate(steps)}
    paid = {key: fmean(map(total_reward, rows)) for key, rows in groups.items()}
    ends = dict.fromkeys((max(paid, key=paid.__getitem__), min(paid, key=paid.__getitem__)))
    yield from ((places[key[0]], groups.pop(key)) for key in ends)
    order = {step: place for place, step in enumerate(evenly(steps))}
    for key, rows in sorted(groups.items(), key=lambda item: order[item[0][0]]):
        yield places[key[0]], rows


def evenly(steps: Sequence[int]) -> list[int]:
    """`steps` so that any beginning of the list is about evenly spread: both ends, then every so many-th, by
    powers of two from the largest. So a step keeps its turn when others follow, but the last."""
    ends = {0, len(steps) - 1} if steps else set()
    within = sorted(range(1, len(steps) - 1), key=lambda place: (-(place & -place), place))
    return [steps[place] for place in (*sorted(ends), *within)]


def total_reward(row: Mapping[str, Any]) -> float:
    """What a response was paid in all; of runs that did not keep it the plain sum of its rewards, and where
    it was paid nothing, whether it is right."""
    if (total := row.get("reward")) is not None:
        return float(total)
    paid = _paid(row)
    return sum(paid.values()) if paid else float(row.get("correct") or 0.0)


def _shown(
    row: Mapping[str, Any], run: int, numbers: Mapping[tuple[Any, Any], int], told: Told
) -> dict[str, Any]:
    """What the page knows of a sample: the values of `COLUMNS`, and what it shows once it is looked at."""
    text = row["text"] or ""
    trace = parse(text[:MOST_TEXT], opening=told.opening)
    faults = row.get("faults") or []
    correct, gold, doubt = row.get("correct"), row.get("answer"), _doubt(row)
    lost = dissent(trace, gold, correct=False) if correct == 0 and gold is not None else ()
    is_asked_only = told.command == "eval"  # at no step of a training, and paid nothing
    return {
        "run": run,
        "step": None if is_asked_only else row["step"],
        "problem": numbers[row["problem"], gold],
        "mode": row.get("mode"),
        "group": row.get("group"),
        "correct": None if correct is None else int(correct),
        "valid": int(not faults),
        "parallel": int(trace.uses_parallel),
        "advantage": _rounded(row.get("advantage")),
        "reward": None if is_asked_only else _rounded(total_reward(row)),
        "tokens": row.get("length"),
        "lost": int(bool(lost)),
        "doubted": int(bool(doubt)),
        "text": text[:MOST_TEXT],
        "cut": max(0, len(text) - MOST_TEXT),
        "shades": shades(row),
        "spans": spans(trace, row.get("context_paths") or (), {(path.block, path.path) for path in lost}),
        "extracted": row.get("extracted"),
        "verdict": VERDICTS.get(row.get("verdict") or "", row.get("verdict")),
        "doubt": doubt,
        "faults": [_MEANING.get(fault, fault) for fault in faults],
        "critical_path": row.get("critical_path"),
        "truncated": bool(row.get("truncated")),
        "stage": row.get("stage"),
        "phase": row.get("phase"),
        "level": row.get("level"),
        "rewards": {name.removeprefix("reward_"): _rounded(value) for name, value in _paid(row).items()},
    }


def _paid(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name.startswith("reward_") and value is not None}


def shades(row: Mapping[str, Any]) -> list[Any] | None:
    """What each token of a response wrote, how surprising it was, which were forced: [characters], a digit
    a token from 0 (certain) to 9 (log-probability of -4.5 or less), "f" for a forced one, "?" where nobody
    knows. None where the run did not keep it."""
    lengths = row.get("token_lengths")
    if lengths is None:
        return None
    logprobs = row.get("token_logprobs") or [None] * len(lengths)
    forced = row.get("forced") or [False] * len(lengths)
    signs = (
        "f" if is_forced else "?" if logprob is None else str(min(9, round(-2 * logprob)))
        for logprob, is_forced in zip(logprobs, forced, strict=True)
    )
    return [lengths, "".join(signs)]


def spans(
    trace: Trace, context_paths: Iterable[int] = (), right: Collection[tuple[int, int]] = ()
) -> list[Any]:
    """Where what stands in a response: ["main", start, end] and ["block", [[start, end, label] a path],
    [start, end] of the summary or null], in order, offsets in characters. The label says which paths are
    those of the context, and which are `right`, as the numbers of block and path."""
    parts: list[tuple[int, list[Any]]] = [(span.start, ["main", *span]) for span in trace.main_spans]
    number, context = 0, {*context_paths}
    for of_block, block in enumerate(trace.blocks, 1):
        paths = []
        for place, path in enumerate(block.paths, 1):
            label = f"Path {place}" + (" (context)" if number in context else "")
            label += " ✓ right" if (of_block, place) in right else ""
            paths.append([*path.body, label])
            number += 1
        summary = [*block.summary.body] if block.summary else None
        parts.append((block.span.start, ["block", paths, summary]))
    return [part for _, part in sorted(parts, key=lambda item: item[0])]


def _doubt(row: Mapping[str, Any]) -> str:
    """Why a verdict deserves a second look: the verifier gave up, or it found a response wrong that ends on
    the gold answer, and not on a longer number or word. Empty where nothing says so."""
    if row.get("verdict") in _FAILED:
        return "the verifier could not judge it"
    gold = (row.get("answer") or "").strip(" .$")
    if row.get("correct") != 0 or not gold:
        return ""
    last = (row["text"] or "").rstrip(" .\n$}").rpartition("\n")[2]
    before = last.removesuffix(gold)
    if before == last or _GOES_ON.search(before):
        return ""
    return "found wrong, though it ends with the gold answer"


def _packed(rows: Sequence[Mapping[str, Any]]) -> str:
    return base64.b64encode(gzip.compress(_text(rows).encode(), 6, mtime=0)).decode()


def _text(rows: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)

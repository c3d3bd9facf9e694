"""The data card of a set of traces: README.md, which the Hub shows and `datasets.load_dataset` reads.

It says who wrote the traces, how they were asked for, what was rejected and why, and what was not checked.
The same data set gets the same card, but for what was spent on it. What problems, teachers and settings say
is put into code spans and fences (`prl.runs.cards`), so that none of it is read as Markdown or YAML.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from prl import __version__
from prl.runs import cards
from prl.runs.cards import code, fence, table
from prl.traces.checks import Reason
from prl.traces.contamination import RUN, SHARE
from prl.traces.dataset import ACCEPTED, REJECTED, read_column
from prl.traces.inspecting import SHARES, describe

_MODES = {
    "write": "The teacher was asked for parallel traces.",
    "annotate": "The teacher put tags into right solutions; a diff proves that no word changed.",
    "rewrite": "The teacher solved each problem several times. Right solutions that differ became the "
    "paths of one block; of each, what announces the final answer was left out.",
}
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_COLUMNS = {
    "problem": "the problem as given",
    "answer": "its gold answer",
    "trace": "the checked trace",
    "context_paths": "its paths that end in another result than its final answer, from 0: not to be learned",
    "level": "difficulty, where the problems say one",
    "source": "where the problem is from",
    "teacher": "who wrote the trace",
    "mode": "how it was asked for",
    "attempt": "which try at the problem, from 0",
    "sample": "which candidate of that try, from 0",
    "repairs": "what was put right without changing a word",
}


def write_card(folder: Path, facts: Mapping[str, Any], encode: Callable[[str], list[int]] | None) -> None:
    """Write the card of the data set in `folder`. `facts` are those of `prl.traces.factory.run`; lengths are
    counted in tokens by `encode` (see `describe`), else in characters. Raises RunError."""
    described = describe(read_column(folder / ACCEPTED, "trace"), encode)
    unit = "tokens" if encode else "characters"
    blocks = chain(
        _front_matter(facts),
        _making(facts),
        _counts(facts),
        _statistics(described, unit),
        _contamination(facts["benchmarks"]),
        _licences(facts),
        _use(facts.get("has_history", False)),
    )
    cards.write_card(folder, "\n\n".join(blocks))


def _front_matter(facts: Mapping[str, Any]) -> Iterator[str]:
    accepted = facts["counts"].get("accepted", 0)
    size = next((name for most, name in _SIZES if accepted < most), "n>1M")
    head = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": ACCEPTED}]}],
        "size_categories": [size],
        "task_categories": ["text-generation"],
        "tags": ["parallel-thinking", "reasoning", "synthetic"],
    }
    if facts["license"]:
        head["license"] = facts["license"]
    yield f"---\n{yaml.safe_dump(head, sort_keys=False)}---"


def _making(facts: Mapping[str, Any]) -> Iterator[str]:
    yield "# Traces that think in parallel"
    served = [name for name in facts["served"] if name != facts["teacher"]]
    calls_itself = f", which calls itself {', '.join(map(code, served))}" if served else ""
    yield (
        f"Teacher: {code(facts['teacher'])}{calls_itself}. {_MODES[facts['mode']]}\n"
        "A verifier compared each final answer with the gold one; each trace passed the checks below.\n"
        f"Made with prl {__version__}."
    )
    if facts["partial"]:
        yield "The asking ended before the last problem: its budget was spent."
    yield "## How it was asked"
    yield fence(facts["prompt"])
    settings = sorted(facts["settings"].items())
    yield table(("setting", "value"), [(code(name), code(json.dumps(value))) for name, value in settings])


def _counts(facts: Mapping[str, Any]) -> Iterator[str]:
    counts, spent = facts["counts"], facts["spent"]
    named = {
        "problems": "problems",
        "duplicates": "left out: problems given twice",
        "bad_rows": "left out: rows that cannot be read",
        "overlaps": "left out: problems of a benchmark",
        "unanswered": "problems without an answer of the teacher",
        "answered": "problems with one",
        "solved": "of these, problems with a trace that passed",
        "accepted": "traces in the data set",
        "rejected": "traces rejected",
    }
    yield "## What became of it"
    rows = [(label, f"{counts.get(name, 0):,}") for name, label in named.items()]
    if answered := counts.get("answered"):
        rows.append(("acceptance, of answered problems", f"{counts.get('solved', 0) / answered:.1%}"))
    yield table(("", "count"), rows)
    cost = "" if spent["money"] is None else f", {spent['money']:.2f} by the prices given"
    yield (
        f"Spent: {spent['requests']:,} requests ({spent['failed']:,} of them failed), "
        f"{spent['prompt_tokens']:,} tokens of prompts, {spent['completion_tokens']:,} of answers{cost}."
    )
    if spent["uncounted"]:
        yield (
            f"The teacher did not say the tokens of {spent['uncounted']:,} answers: each counts as the most "
            "that it may have cost."
        )
    if facts["reasons"]:
        yield f"Why traces were rejected (they are in `{REJECTED}`; one may have several reasons):"
        meanings = {reason.value: html.escape(reason.meaning, quote=False) for reason in Reason}
        rows = [(f"{code(name)}: {meanings[name]}", f"{n:,}") for name, n in facts["reasons"].items()]
        yield table(("reason", "traces"), rows)
    if facts["repairs"]:
        yield "Put right, without changing a word:"
        yield table(("what", "traces"), [(name, f"{n:,}") for name, n in facts["repairs"].items()])


def _statistics(described: Mapping[str, Any], unit: str) -> Iterator[str]:
    if not described["traces"]:
        return
    yield "## Statistics"
    shares = " / ".join(f"{share:.0%}" for share in SHARES)
    rows = [
        (f"{label} in {unit} ({shares})", " / ".join(f"{value:,}" for value in described[name]))
        for name, label in (("length", "length"), ("critical_path", "critical path"))
    ]
    rows.append(("valid format", f"{described['format_valid']:.1%}"))
    for name, label in (
        ("saved", "share off the critical path, mean"),
        ("block_position", "block position, mean (0 start, 1 end)"),
        ("path_diversity", "diversity of a block's paths, mean"),
        ("self_bleu", "self-BLEU of a block's paths, mean"),
    ):
        if described[name] is not None:
            rows.append((label, f"{described[name]:.3f}"))
    for name in ("blocks", "paths"):
        found = described[name]
        rows.append(
            (f"traces by {name}", ", ".join(f"{number}: {found[number]:,}" for number in sorted(found)))
        )
    yield table(("", ""), rows)


def _contamination(benchmarks: Mapping[str, Any]) -> Iterator[str]:
    yield "## Contamination"
    if not benchmarks:
        yield "Not checked: no benchmark was named (`--benchmarks standard` names the usual ones)."
        return
    yield (
        f"A problem was left out where {SHARE:.0%} of its runs of {RUN} words stand in one problem of a "
        "benchmark.\nProblems told in other words are not found by this."
    )
    rows = [
        (code(name), f"{each['problems']:,}", f"{each['overlaps']:,}") for name, each in benchmarks.items()
    ]
    yield table(("benchmark", "its problems", "left out here"), rows)


def _licences(facts: Mapping[str, Any]) -> Iterator[str]:
    yield "## Licences"
    this, problems = (
        code(facts[name]) if facts[name] else "not stated" for name in ("license", "source_license")
    )
    yield (
        f"- This data set: {this}.\n- The problems: {problems}.\n"
        "- The teacher's own terms may restrict what its answers are used for."
    )


def _use(has_history: bool) -> Iterator[str]:
    yield "## Columns"
    columns = _COLUMNS | ({"history": "the turns before the problem"} if has_history else {})
    yield table(("column", ""), [(code(name), meaning) for name, meaning in columns.items()])
    yield f"```bash\nprl sft --dataset {ACCEPTED}\nprl data show {ACCEPTED}\n```"

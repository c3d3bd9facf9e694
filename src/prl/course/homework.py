"""The homework: settings to decode with, measured on products that nobody trained on, within tokens.

    measure({"model": "course", "paths": 4, "votes": 1, "temperature": 0.0, "max_tokens": 256})

One thread, seeds of their own: the same settings give the same figures, to the last digit on the same kind of
machine; another processor may round a token otherwise. `read_cell` takes settings and claim out of a
submission as written constants, and runs nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

from prl.course.checkpoints import shipped
from prl.course.exercises import BUDGET, variant
from prl.errors import UsageError, nearest

PROBLEMS = 200
"""Problems of one measurement."""

RANGES: dict[str, tuple[type, float, float]] = {
    "paths": (int, 2, 6),
    "votes": (int, 1, 8),
    "temperature": (float, 0.0, 2.0),
    "max_tokens": (int, 32, 400),
}
MODELS = ("base", "course")

BASELINE: dict[str, Any] = {"model": "base", "paths": 2, "votes": 1, "temperature": 0.0, "max_tokens": 256}
REFERENCE: dict[str, Any] = {"model": "course", "paths": 3, "votes": 1, "temperature": 0.0, "max_tokens": 256}
"""What the solution sets: the best within the budget of those that the instructor's notes list."""

LONGEST_CELL = 10_000  # characters


@dataclass(frozen=True, repr=False)
class Measured:
    """Share of right answers, and tokens a problem, of all its votes together; means over the problems."""

    right: float
    tokens: float

    @property
    def is_within_budget(self) -> bool:
        return self.tokens <= BUDGET

    def __repr__(self) -> str:
        within = "within" if self.is_within_budget else "over"
        return f"{self.right:.3f} right, {self.tokens:.1f} tokens a problem: {within} the budget of {BUDGET}"


def faults(settings: object) -> list[str]:
    """What is wrong with settings, each in a line."""
    if not isinstance(settings, dict):
        return [f"SETTINGS is a {type(settings).__name__}; write a dictionary"]
    known = ["model", *RANGES]
    found = [f"no key {name!r}" for name in known if name not in settings]
    for name, value in settings.items():
        if name == "model":
            if value not in MODELS:
                found.append(f"model {value!r:.60} must be one of {', '.join(MODELS)}")
        elif name not in RANGES:
            found.append(f"unknown key {name!r:.60}{nearest(str(name)[:60], known)}")
        else:
            kind, low, high = RANGES[name]
            is_number = type(value) is int or (kind is float and type(value) is float)
            if not (is_number and low <= value <= high):
                found.append(f"{name} {value!r:.60} must be {kind.__name__} from {low:g} to {high:g}")
    return found


def problems_of(student: str | None) -> list[dict[str, Any]]:
    """The held-out products that a measurement asks, all different."""
    from prl.data.hub import load_rows

    seed = variant(student).problems
    return load_rows("search:products-heldout", limit=PROBLEMS, seed=seed, unique=True)


def measure(settings: Mapping[str, Any], student: str | None = None) -> Measured:
    """What the settings achieve on 200 held-out products; with a name on that student's own.

    Raises UsageError with everything that is wrong with the settings.
    """
    if wrong := faults(dict(settings)):
        raise UsageError("; ".join(wrong))
    from prl.console import quiet_libraries

    quiet_libraries()  # before what follows imports them
    import torch

    from prl.analysis.budgets import majority_at_k
    from prl.answers import default_checker
    from prl.decoding import ForkJoinDecoder, Limits, Sampling, row_seed
    from prl.prompts import render_prompt

    rows = problems_of(student)
    model, tokenizer = _model(settings["model"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        decoder = ForkJoinDecoder(
            model,
            tokenizer,
            limits=Limits(max_new_tokens=settings["max_tokens"], paths=settings["paths"]),
            sampling=Sampling(temperature=float(settings["temperature"])),
            batch_size=64,
        )
        seeds = [[row_seed(0, i, j) for j in range(settings["votes"])] for i in range(len(rows))]
        responses = decoder.generate([render_prompt(row["problem"], "bare") for row in rows], seeds=seeds)
    finally:
        torch.set_num_threads(threads)
    right = []
    for row, votes in zip(rows, responses, strict=True):
        judged = default_checker().check_responses(
            [vote.text for vote in votes], [row["answer"]] * len(votes)
        )
        right.append(majority_at_k([(stated, float(bool(v.equal))) for stated, v in judged], len(votes)))
    tokens = [sum(len(vote.token_ids) for vote in votes) for votes in responses]
    return Measured(round(fmean(right), 6), round(fmean(tokens), 6))


@cache
def _model(name: str) -> Any:
    from prl.model import load_model

    return load_model("tiny-search" if name == "base" else str(shipped("four-ways")))


def read_cell(source: str) -> tuple[object, str | None]:
    """SETTINGS and, as it is written, CLAIM of a submission's cell; nothing of it runs.

    Raises UsageError where one cannot be read as a constant.
    """
    if len(source) > LONGEST_CELL:
        raise UsageError(f"a cell of {len(source)} characters; {LONGEST_CELL} are read")
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"the cell is no Python: {type(error).__name__}") from None
    given = {
        target.id: node.value
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if "SETTINGS" not in given:
        raise UsageError("the cell has no SETTINGS = {...}")
    try:
        settings = ast.literal_eval(given["SETTINGS"])
        repr(settings)  # of thousands of digits there is none
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise UsageError("SETTINGS is computed; write its keys and values out") from None
    claim = given.get("CLAIM")
    return settings, ast.get_source_segment(source, claim) if claim else None


def is_claim_true(claim: str | None, right: float) -> bool:
    """Whether a claim, two digits or more, is the share that was found, to the digits shown.

    >>> is_claim_true("0.91", 0.914), is_claim_true("0.9", 0.9), is_claim_true("0.92", 0.914)
    (True, False, False)
    """
    written = re.fullmatch(r"[01]?\.(\d{2,6})", claim or "")
    if not claim or not written:
        return False
    digits = len(written.group(1))
    return f"{right:.{digits}f}" == f"{float(claim):.{digits}f}"

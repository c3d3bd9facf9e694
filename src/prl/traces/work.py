"""The work of one `prl data traces`, over its journal: which problems, which requests, which candidates.

Nothing here asks a teacher but `Work.answer`, through `prl.traces.asking`. All else is a function of the
problems, the settings and the journal, so that it comes out the same whenever it is computed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prl.data.hub import LISTED_FAULTS, bad_rows, stream_rows
from prl.data.targets import wrong_paths
from prl.errors import DataError
from prl.settings.arguments import DataTracesArguments
from prl.traces import dataset
from prl.traces.asking import Answer, Asking, Teacher, answer_of, answer_tokens, request_key
from prl.traces.checks import Reason, Rejection, check, repair
from prl.traces.contamination import Benchmarks
from prl.traces.inspecting import count_of, rules_of
from prl.traces.journal import Journal
from prl.traces.modes import Mode, Problem, Request, conversation
from prl.traces.solutions import without_thoughts


@dataclass
class Seen:
    """Which problems have come by; in SQLite's own temporary file, so that millions take no memory."""

    database: sqlite3.Connection = field(
        default_factory=lambda: sqlite3.connect("", isolation_level=None, check_same_thread=False)
    )

    def __post_init__(self) -> None:
        self.database.execute("PRAGMA journal_mode=OFF")
        self.database.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID")

    def is_new(self, text: str) -> bool:
        """True the first time that `text` is asked about."""
        digest = hashlib.sha256(" ".join(text.split()).encode()).digest()[:16]
        return self.database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,)).rowcount > 0

    def close(self) -> None:
        """Python warns, from 3.13 on, of a database that nobody closed."""
        self.database.close()


@dataclass(frozen=True)
class Candidate:
    """A trace that a teacher's answers gave, and what speaks against it."""

    row: dict[str, Any]
    rejections: list[Rejection]


@dataclass
class Found:
    """What the problems hold, and what is known of them before anything is asked."""

    problems: int = 0
    duplicates: int = 0
    bad: int = 0
    overlaps: Counter[str] = field(default_factory=Counter)  # benchmark -> problems left out
    faults: list[str] = field(default_factory=list)
    answered: int = 0  # those whose first requests the journal answers
    bytes: int = 0  # of the first requests to be sent
    requests: int = 0
    completion_tokens: int = 0  # the most that they may ask for
    notes: Counter[str] = field(default_factory=Counter)  # what was read otherwise than written -> rows
    has_history: bool = False  # whether a problem has turns before it


class Work:
    """What is to be done with `given`; see the module's docstring."""

    def __init__(self, given: DataTracesArguments, teacher: Teacher, mode: Mode, journal: Journal) -> None:
        """Raises UsageError, ModelError for the rules; DataError for a benchmark that cannot be read."""
        self.given, self.teacher, self.mode, self.journal = given, teacher, mode, journal
        self.benchmarks = Benchmarks.read(given.benchmarks)
        self.rules, self.count = rules_of(given), count_of(given)

    def problems(self, found: Found | None = None) -> Iterator[dict[str, Any]]:
        """Each good problem once, in order; counted in `found`."""
        given, found = self.given, found or Found()
        rows = stream_rows(
            str(given.problems),
            split=given.split,
            keep_trace=True,
            limit=given.limit,
            seed=given.seed,
            graded=Reason.UNREADABLE_GOLD not in self.rules.ignored,
            notes=found.notes,
        )
        with closing(Seen()) as seen:
            for where, row in rows:
                if isinstance(row, str):
                    found.bad += 1
                    if len(found.faults) < LISTED_FAULTS:
                        found.faults.append(f"{where}: {row}")
                elif not seen.is_new(conversation(row)):
                    found.duplicates += 1
                elif overlap := self.benchmarks.overlap(row["problem"]):
                    found.overlaps[overlap.benchmark] += 1
                else:
                    found.problems += 1
                    found.has_history |= "history" in row
                    yield row

    def rounds(self, row: Problem, attempt: int, texts: list[str]) -> list[tuple[str, Request]]:
        """Keys and requests of the round that follows `texts`; seeds are those of problem, attempt, place."""
        requests = []
        problem = conversation(row)
        for number, request in enumerate(self.mode.requests(row, texts), len(texts)):
            if request.seed is None:
                work = f"{self.given.seed}\0{problem}\0{attempt}\0{number}"
                seed = int.from_bytes(hashlib.sha256(work.encode()).digest()[:4]) >> 1
                request = dataclasses.replace(request, seed=seed)
            key = request_key(self.teacher, self.mode.name, problem, request, attempt, number)
            requests.append((key, request))
        return requests

    def look(self) -> Found:
        """Read all problems once. Raises DataError for bad ones that may not be skipped, and for none."""
        found = Found()
        for row in self.problems(found):
            missing = [request for key, request in self.rounds(row, 0, []) if key not in self.journal]
            found.answered += not missing
            found.requests += len(missing)
            found.bytes += sum(request.bytes for request in missing)
            found.completion_tokens += sum(
                answer_tokens(request, self.teacher.options) for request in missing
            )
        if found.bad and (self.given.on_bad_rows == "error" or not found.problems):
            report = bad_rows(
                str(self.given.problems),
                found.bad,
                found.bad + found.problems + found.duplicates + found.overlaps.total(),
                found.faults,
            )
            raise DataError(f"{report}\nCorrect them, or leave them out with --on_bad_rows skip.")
        if not found.problems:
            raise DataError(f"{self.given.problems}: all its problems are in a benchmark; see --benchmarks")
        return found

    async def answer(self, asking: Asking, row: Problem) -> None:
        """Ask until a trace passes, or `--attempts` times."""
        for attempt in range(self.given.attempts):
            answers: list[Answer] = []
            while requests := self.rounds(row, attempt, _texts(answers)):
                # Waits for all, also where one fails: an answer on its way is paid for.
                ended = await asyncio.gather(
                    *(asking.ask(key, request) for key, request in requests), return_exceptions=True
                )
                for end in ended:
                    if isinstance(end, BaseException):
                        raise end
                    answers.append(end)
            if attempt + 1 < self.given.attempts:
                candidates = await asyncio.to_thread(self.candidates, row, attempt)
                if any(not candidate.rejections for candidate in candidates or []):
                    return

    def known(self, row: Problem, attempt: int) -> list[Answer] | None:
        """The answers of an attempt, from the journal; None where one is missing."""
        answers: list[Answer] = []
        while requests := self.rounds(row, attempt, _texts(answers)):
            for key, _ in requests:
                record = self.journal.get(key)
                if record is None:
                    return None
                answers.append(answer_of(record))
        return answers

    def candidates(self, row: Problem, attempt: int) -> list[Candidate] | None:
        """What the answers of an attempt give; None where it has not been answered whole."""
        answers = self.known(row, attempt)
        return None if answers is None else self._judged(row, attempt, answers)

    def _judged(self, row: Problem, attempt: int, answers: Sequence[Answer]) -> list[Candidate]:
        texts = _texts(answers)
        found = []
        for sample, (trace, end) in enumerate(self.mode.traces(row, texts)):
            trace, repairs = repair(trace) if self.given.repair else (trace, [])
            rejections = check(
                trace,
                problem=conversation(row),
                answer=row["answer"],
                rules=self.rules,
                count=self.count,
            )
            if self.mode.check:
                rejections += self.mode.check(row, texts, trace)
            opening = self.rules.path_opening
            wrong = [] if self.mode.paths_are_right else wrong_paths(trace, row["answer"], opening)
            if end is not None and answers[end].finish_reason == "length":
                thinking = "" if texts[end].strip() else ", still thinking"
                rejections.append(
                    Rejection(Reason.TOO_LONG, f"cut off at --max_tokens {self.given.max_tokens}{thinking}")
                )
            made = {
                "trace": trace,
                "context_paths": wrong,
                "teacher": dataset.public_name(self.teacher.name),
                "mode": self.mode.name,
                "attempt": attempt,
                "sample": sample,
                "repairs": repairs,
            }
            found.append(Candidate(dict(row) | made, rejections))
        return found

    def build(self, found: Found) -> dict[str, Any]:
        """Write the data set from the journal; returns what its card says of it."""
        counts = Counter(
            problems=found.problems,
            duplicates=found.duplicates,
            bad_rows=found.bad,
            overlaps=found.overlaps.total(),
        )
        reasons: Counter[str] = Counter()
        repairs: Counter[str] = Counter()
        served: Counter[str] = Counter()
        for record in self.journal.records():
            served.update([record["model"]] if record.get("model") else [])
        folder = Path(self.given.output_dir)
        with dataset.writing(folder, with_history=found.has_history) as out:
            for row in self.problems():
                answers = {
                    attempt: known
                    for attempt in range(self.given.attempts)
                    if (known := self.known(row, attempt)) is not None
                }
                if not answers:
                    counts["unanswered"] += 1
                    continue
                candidates = [
                    c for attempt, known in answers.items() for c in self._judged(row, attempt, known)
                ]
                for answer in [each for known in answers.values() for each in known]:
                    counts["answers"] += 1
                    if answer.finish_reason == "length":
                        counts["cut_off"] += 1
                        counts["cut_off_thinking"] += not without_thoughts(answer.text).strip()
                    elif answer.thought and not answer.text.strip():
                        counts["thought_only"] += 1
                counts["answered"] += 1
                counts["without_candidate"] += not candidates
                passed = [candidate for candidate in candidates if not candidate.rejections]
                counts["solved"] += bool(passed)
                for candidate in _distinct(passed)[: self.given.keep]:
                    counts["accepted"] += 1
                    repairs.update(candidate.row["repairs"])
                    out.accept(candidate.row)
                for candidate in candidates:
                    if candidate.rejections:
                        counts["rejected"] += 1
                        reasons.update({rejection.reason.value for rejection in candidate.rejections})
                        out.reject(candidate.row, candidate.rejections)
        return {
            "has_history": found.has_history,
            "mode": self.mode.name,
            "prompt": self.mode.template,
            "counts": dict(counts),
            "reasons": dict(reasons.most_common()),
            "repairs": dict(repairs.most_common()),
            "served": sorted(served),
            "benchmarks": {
                dataset.public_name(name): {"problems": size, "overlaps": found.overlaps[name]}
                for name, size in self.benchmarks.sizes.items()
            },
        }


def _texts(answers: Sequence[Answer]) -> list[str]:
    return [without_thoughts(answer.text) for answer in answers]


def _distinct(passed: Sequence[Candidate]) -> list[Candidate]:
    """Those that say something else, the ones whose paths differ most first; equals keep their order."""
    texts: dict[str, Candidate] = {}
    for candidate in passed:
        texts.setdefault(" ".join(candidate.row["trace"].split()), candidate)
    return sorted(texts.values(), key=lambda candidate: -dataset.path_diversity(candidate.row["trace"]))

"""`prl data traces`: problems and a teacher → a data set of checked traces.

    read the problems once       bad rows told at once, the forecast made
    ask                          side by side, within limits; each answer in the journal first of all
    build                        from the journal, in the order of the problems: candidates, checks, data set

A killed run goes on with --resume, and asks for nothing that the journal has. Building asks nobody: other
checks on the same answers cost no request.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prl import runs
from prl.answers import default_checker
from prl.config import resolve
from prl.console import console
from prl.data.hub import told
from prl.errors import DataError, RunError, UsageError
from prl.settings import Settings
from prl.settings.arguments import DataTracesArguments
from prl.traces import modes
from prl.traces.asking import Asking, Budget, Spent, Stopped, Teacher, Unanswered
from prl.traces.card import write_card
from prl.traces.checks import Reason
from prl.traces.dataset import REJECTED, public_name
from prl.traces.inspecting import encoder
from prl.traces.journal import Journal
from prl.traces.modes import Mode, Problem
from prl.traces.work import Found, Work

JUDGING_SHARE = 0.02
"""While it asks, prl judges answers in at most this share of the time, to tell how many will pass; all are
judged at the end."""


def run(settings: Settings[DataTracesArguments]) -> dict[str, Any]:
    """`prl data traces`; returns the facts of the card that it writes.

    Raises PrlError: bad problems, a teacher that cannot be asked, nothing accepted. Answers are kept.
    """
    given = settings.arguments
    mode = mode_of(given)
    budget = Budget(
        given.max_requests, given.max_total_tokens, given.max_cost, given.prompt_price, given.completion_price
    )
    teacher = teacher_of(given)
    if not given.dry_run:
        default_checker().start()  # before anything is paid for
    folder = Path(given.output_dir)
    with _open_journal(settings, folder) as journal:
        spent = Spent()
        for record in journal.records():
            spent.count(record)
        work = Work(given, teacher, mode, journal)
        found = work.look()
        _forecast(given, found, spent, budget)
        if given.dry_run:
            return {}
        asking = asyncio.run(_ask_all(work, found, spent, budget))
        facts = work.build(found) | {
            "spent": dataclasses.asdict(spent) | {"money": budget.spent(spent)},
            "partial": asking.stopped is not None,
            "teacher": public_name(teacher.name),
            "settings": _stated(settings),
            "license": given.license,
            "source_license": given.source_license,
        }
        write_card(folder, facts, encoder(given.tokenizer) if given.tokenizer else None)
    _told(given, facts, asking.stopped.message if asking.stopped else asking.last_failure)
    return facts


@contextmanager
def _open_journal(settings: Settings[DataTracesArguments], folder: Path) -> Iterator[Journal]:
    """The journal of the run in `folder`; of a dry run, which writes nothing there, a copy."""
    given = settings.arguments
    if given.dry_run:
        with TemporaryDirectory() as copy:
            if (folder / "journal").is_dir() and not given.overwrite_output_dir:
                shutil.copytree(folder / "journal", Path(copy) / "journal")
            with Journal(Path(copy) / "journal") as journal:
                yield journal
        return
    with (
        runs.open_run(
            folder,
            command="traces",
            config=settings.as_dict(),
            resume=given.resume,
            overwrite=given.overwrite_output_dir,
            model=None if given.base_url else given.model_name_or_path,
        ),
        Journal(folder / "journal") as journal,
    ):
        yield journal


def teacher_of(given: DataTracesArguments) -> Teacher:
    """The endpoint at `--base_url`, else a local model. Raises UsageError, ModelError."""
    if given.base_url:
        from prl.traces.endpoint import Endpoint

        return Endpoint(
            str(given.model_name_or_path),
            given.base_url,
            api_key_env=given.api_key_env,
            concurrency=given.concurrency,
            timeout=given.timeout,
            extra=_extra(given.extra_body),
        )
    from prl.traces.local import Local

    names = ("model_name_or_path", "device", "load_in_4bit", "trust_remote_code")
    loading = {name: value for name in names if (value := getattr(given, name)) is not None}
    if given.path_opening != "none":
        loading["path_opening"] = given.path_opening
    settings = resolve("generate", **loading)
    return Local(settings, concurrency=given.concurrency)


def mode_of(given: DataTracesArguments) -> Mode:
    """What is asked in `--mode`."""
    asked: dict[str, Any] = {
        name: getattr(given, name) for name in ("samples", "max_tokens", "temperature", "top_p")
    }
    if given.prompt_style:
        asked["style"] = given.prompt_style
    if given.mode == "rewrite":
        return modes.rewrite(**asked, solutions=given.solutions, summary=given.summary, seed=given.seed)
    if given.mode == "annotate":
        return modes.annotate(**asked)
    return modes.write(**asked, path_opening=given.path_opening)


def _extra(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise UsageError(f"extra_body: {text!r} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"extra_body: {text!r} is no JSON object, such as '{{\"top_k\": 20}}'")
    return found


async def _ask_all(work: Work, found: Found, spent: Spent, budget: Budget) -> Asking:
    """Ask for every problem. The asking that comes back has a reason in `stopped` where the budget was spent
    before that. Raises PrlError where the teacher gives no more answers, KeyboardInterrupt for a signal; both
    when the answers on their way have come."""
    given = work.given
    asking = Asking(
        work.teacher,
        work.journal,
        concurrency=work.teacher.places,
        retries=given.retries,
        budget=budget,
        spent=spent,
        seed=given.seed,
    )
    started, before = time.monotonic(), spent.requests
    rows = work.problems()
    stop_on_signals(asking)
    with _Shown(work, asking, found) as shown:

        async def worker() -> None:
            for row in rows:
                try:
                    await work.answer(asking, row)
                except Unanswered as failure:
                    shown.unanswered(row, failure)
                shown.step(row)

        syncing = asyncio.create_task(asking.keep_synced())
        workers = [asyncio.create_task(worker()) for _ in range(work.teacher.places)]
        try:
            ended = await asyncio.gather(*workers, return_exceptions=True)
        finally:
            syncing.cancel()
            with suppress(asyncio.CancelledError):
                await syncing
            await work.teacher.aclose()
    if asked := asking.spent.requests - before:
        seconds = time.monotonic() - started
        console.print(f"  asked {asked:,} requests in {seconds:,.1f} s, {asked / seconds:,.1f} a second")
        if uncounted := asking.spent.uncounted:
            console.print(
                f"  the teacher did not say the tokens of {uncounted:,} answers: each counts as the most "
                "that it may have cost"
            )
    for error in ended:
        if isinstance(error, BaseException) and not isinstance(error, Stopped):
            raise error
    if asking.stopped is None:
        return asking
    if asking.stopped.kind == "budget":
        console.print(f"{asking.stopped.message}: the data set is made of what was answered", markup=False)
        return asking
    if asking.stopped.kind == "interrupted":
        raise KeyboardInterrupt
    raise RunError(
        f"{asking.stopped.message}. {len(work.journal)} answers are kept; the same command with --resume "
        "goes on"
    )


def stop_on_signals(asking: Asking) -> None:
    """Ctrl-C or SIGTERM: nothing more is asked, what is on its way is kept; again: at once."""
    loop = asyncio.get_running_loop()
    everything = asyncio.current_task()

    def stop() -> None:
        if asking.stopped and everything:
            everything.cancel()
        asking.stop("interrupted", "interrupted")
        console.print(f"waiting for {asking.on_their_way} answers on their way; again stops at once")

    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows; not the main thread
            loop.add_signal_handler(number, stop)


class _Shown:
    """What a person sees while it asks: how far, how many pass so far, what was spent, what failed."""

    def __init__(self, work: Work, asking: Asking, found: Found) -> None:
        self.work, self.asking = work, asking
        self.judged = self.passed = self.failed = 0
        self.judge_at = 0.0
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}", markup=False),
            console=console,
            transient=True,
            refresh_per_second=2,
        )
        self.task = self.bar.add_task("asked", total=found.problems, told="")

    def __enter__(self) -> _Shown:
        self.bar.start()
        return self

    def __exit__(self, *ignored: object) -> None:
        self.bar.stop()

    def unanswered(self, row: Problem, failure: Unanswered) -> None:
        self.failed += 1
        if self.failed <= 3:
            shown = " ".join(row["problem"].split())[:60]
            console.print(f"no answer for {shown!r}: {failure}", markup=False)

    def step(self, row: Problem) -> None:
        if (started := time.monotonic()) >= self.judge_at and (
            candidates := self.work.candidates(row, 0)
        ) is not None:
            self.judged += 1
            self.passed += any(not candidate.rejections for candidate in candidates)
            took = time.monotonic() - started
            self.judge_at = started + took / JUDGING_SHARE
        told = []
        if self.judged:
            told.append(f"{self.passed / self.judged:.0%} of {self.judged} judged pass")
        if money := self.asking.budget.spent(self.asking.spent):
            told.append(f"{money:.2f} spent")
        if self.failed:
            told.append(f"{self.failed} without an answer")
        if self.asking.last_failure and self.asking.spent.failed:
            told.append(f"{self.asking.spent.failed} tries failed, the last: {self.asking.last_failure[:60]}")
        self.bar.update(self.task, advance=1, told=", ".join(told))


def _stated(settings: Settings[DataTracesArguments]) -> dict[str, Any]:
    """The settings for the card: what makes the data set, not where and how fast."""
    stated: Mapping[str, Any] = settings.as_dict()[settings.command]
    left_out = {
        "output_dir", "base_url", "api_key_env", "concurrency", "timeout", "retries", "dry_run", "device",
        "trust_remote_code", "license", "source_license", "benchmarks", "model_name_or_path", "mode",
    }  # fmt: skip
    return {
        name: public_name(value) if isinstance(value, str) else value
        for name, value in stated.items()
        if value is not None and name not in left_out
    }


def _forecast(given: DataTracesArguments, found: Found, spent: Spent, budget: Budget) -> None:
    """Say before anything is asked what is going to be."""
    kept = f", {found.answered:,} answered already" if found.answered else ""
    console.print(
        f"[bold]prl data traces[/bold]  {given.model_name_or_path}  mode {given.mode}  "
        f"problems {found.problems:,}{kept}",
    )
    if left_out := [
        f"{count:,} {what}"
        for count, what in (
            (found.duplicates, "duplicates"),
            (found.bad, "bad rows"),
            (found.overlaps.total(), "problems of a benchmark"),
        )
        if count
    ]:
        console.print(f"  left out: {', '.join(left_out)}")
    if found.notes:
        console.print(f"  {told(found.notes)}", markup=False)
    prompt, most = found.bytes // 4, found.completion_tokens
    line = (
        f"  to ask: {found.requests:,} requests at first, about {prompt:,} prompt tokens, at most {most:,} "
        "tokens of answers"
    )
    if given.prompt_price or given.completion_price:
        line += f", at most {budget.cost(prompt, most):.2f}"
    console.print(line)
    limits = [
        f"{name} {value:,}"
        for name in ("max_requests", "max_total_tokens", "max_cost")
        if (value := getattr(given, name)) is not None
    ]
    if limits:
        console.print(f"  budget: {', '.join(limits)}; spent before: {spent.requests:,} requests")


def _told(given: DataTracesArguments, facts: Mapping[str, Any], failure: str) -> None:
    counts = Counter(facts["counts"])
    answered = counts["answered"]
    if not answered:
        raise DataError(
            f"none of {counts['unanswered']:,} problems was answered, so the data set is empty. The latest "
            f"reason: {failure.rstrip('. ')}. With that put right, the same command with --resume goes on"
        )
    if not counts["accepted"]:
        why = ", ".join(f"{name} {count}" for name, count in [*facts["reasons"].items()][:4])
        why = why or "no answer made a trace"
        rejected = f"{given.output_dir}/{REJECTED}"
        advice = _cut_short(given, counts) or (
            "A larger teacher, easier problems, --samples or --mode rewrite may help"
        )
        raise DataError(
            f"no trace of {answered} answered problems passed ({why}): see {rejected}. {advice}; the answers "
            "are kept"
        )
    print(
        f"{given.output_dir}: {counts['accepted']:,} traces of {counts['solved']:,} of {answered:,} answered "
        f"problems ({counts['solved'] / answered:.1%}); rejected {counts['rejected']:,}"
    )
    meanings = {reason.value: reason.meaning for reason in Reason}
    for name, count in facts["reasons"].items():
        print(f"  {name:16}{count:6}  {meanings[name]}")
    if advice := _cut_short(given, counts):
        print(f"  {advice}")
    if counts["unanswered"]:
        print(
            f"  {counts['unanswered']:,} problems have no answer; the same command with --resume asks again"
        )
    print(f"  prl sft --dataset {given.output_dir}/traces.parquet")


def _cut_short(given: DataTracesArguments, counts: Mapping[str, int]) -> str:
    """What to do about answers that did not come to their end, where these are a tenth or more; else ""."""
    cut, thinking, silent = (counts[name] for name in ("cut_off", "cut_off_thinking", "thought_only"))
    if not max(cut, silent) or 10 * max(cut, silent) < counts["answers"]:
        return ""
    if silent >= cut:
        return (
            f"{silent} of {counts['answers']} answers are reasoning and no text: have the teacher's server "
            "leave it in the text (vLLM: no --reasoning-parser), or turn thinking off with --extra_body"
        )
    amid = f", {thinking} of them while it was still thinking" if thinking else ""
    less = ", or turn thinking off with --extra_body" if thinking else ""
    return (
        f"{cut} of {counts['answers']} answers were cut off at --max_tokens {given.max_tokens}{amid}: "
        f"raise that{less}"
    )

"""Asking a teacher: many requests at a time, within limits, and each answer kept before anything else.

`Asking.ask` answers from the journal where it can. Else it waits for a place among `concurrency`, for a pause
that the teacher asked for (Retry-After holds for all, because a rate limit does), and for the budget; asks;
and writes the answer to the journal. What failed is asked again after 0.5, 1, 2 … seconds, less a random part
so that the requests of one outage do not come back together, or later where the teacher asks for that.

The budget reserves for each request on its way the most that it may cost, so that it is not overspent: as
money runs out, fewer requests run side by side, and the asking stops where one more might not be paid for.
A prompt's tokens are estimated for that (half its bytes); answers count with what the teacher says, and with
what was reserved for them where it does not say.

No torch, no network of its own: a `Teacher` is anything with `name`, `options` and `ask`.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Any, Literal, Protocol

from prl.traces.journal import Journal
from prl.traces.modes import Request

LONGEST_BACKOFF = 60.0  # seconds
LONGEST_PAUSE = 900.0  # seconds; where a teacher asks for more, the command ends and is run again later
SYNC_SECONDS = 1.0


@dataclass(frozen=True)
class Answer:
    """What a teacher said to one request, and what it cost in tokens, None where it does not say.

    `finish_reason` is "length" where it was cut off. `model` is what the teacher calls itself, "" where it
    does not say. `thought`: it gave reasoning apart from the text.
    """

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str = ""
    model: str = ""
    thought: bool = False


# dataclasses.asdict copies all that it meets, which takes a twentieth of the time of a request.
_REQUEST_FIELDS = tuple(field.name for field in fields(Request))
_ANSWER_FIELDS = tuple(field.name for field in fields(Answer))


class Teacher(Protocol):
    """Who is asked. `name` and `options` decide its answers: they are part of the key of every request."""

    name: str
    places: int
    """Asks that it wants to have at a time."""

    @property
    def options(self) -> Mapping[str, Any]: ...

    async def ask(self, request: Request) -> Answer:
        """Raises TeacherError."""
        ...

    async def aclose(self) -> None:
        """Give back what it holds."""
        ...


class TeacherError(Exception):
    """No answer; the message is one line for the user."""


class Retry(TeacherError):
    """No answer this time: ask again, after at least `after` seconds where the teacher says so.

    `pause`: others are to wait as well. `unreachable`: nothing listens there.
    """

    def __init__(
        self, message: str, after: float | None = None, *, pause: bool = False, unreachable: bool = False
    ) -> None:
        super().__init__(message)
        self.after, self.pause, self.unreachable = after, pause, unreachable


class Refused(TeacherError):
    """No answer to this request, however often it is asked."""


class Fatal(TeacherError):
    """No answer to any request: a wrong key, a model that is not there, an account without money."""


class Unanswered(Exception):
    """This request got no answer; others may."""


class Stopped(Exception):
    """Nothing more is asked; `Asking.stopped` says why."""


@dataclass(frozen=True)
class Stop:
    """Why the asking ended before its time. `message` is a sentence without its full stop."""

    kind: Literal["budget", "interrupted", "teacher"]
    message: str


@dataclass
class Spent:
    """What has been asked so far. `failed` requests are among `requests`, and count no tokens; so are
    `uncounted` ones, whose tokens the teacher did not say: they count the most that they may have cost."""

    requests: int = 0
    failed: int = 0
    uncounted: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def answered(self) -> int:
        return self.requests - self.failed

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def count(self, record: Mapping[str, Any]) -> None:
        """Add what a record of the journal says."""
        self.requests += 1
        self.failed += "failed" in record
        self.uncounted += "uncounted" in record
        self.prompt_tokens += record.get("prompt_tokens", 0)
        self.completion_tokens += record.get("completion_tokens", 0)


@dataclass(frozen=True)
class Budget:
    """The most to spend, None without a limit; prices are for a million tokens, in any currency."""

    requests: int | None = None
    tokens: int | None = None
    money: float | None = None
    prompt_price: float = 0.0
    completion_price: float = 0.0

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6

    def spent(self, spent: Spent) -> float | None:
        """What was spent in money; None where no price is given."""
        if not (self.prompt_price or self.completion_price):
            return None
        return self.cost(spent.prompt_tokens, spent.completion_tokens)

    def exceeded_by(self, requests: float, prompt_tokens: float, completion_tokens: float) -> str | None:
        """The limit that this much would break, with its flag; None where it fits."""
        if self.requests is not None and requests > self.requests:
            return f"--max_requests {self.requests:,}"
        if self.tokens is not None and prompt_tokens + completion_tokens > self.tokens:
            return f"--max_total_tokens {self.tokens:,}"
        if self.money is not None and self.cost(prompt_tokens, completion_tokens) > self.money:
            return f"--max_cost {self.money:g}"
        return None


def prompt_tokens(request: Request) -> int:
    """The most that a prompt is taken to have."""
    return request.bytes // 2


def answer_tokens(request: Request, options: Mapping[str, Any]) -> int:
    """The most that the answers to `request` may have: its `max_tokens`, or what a teacher's `options` send
    in their place, for each of the `n` answers that they ask for.

    >>> request = Request((), max_tokens=4096)
    >>> answer_tokens(request, {"max_tokens": None, "max_completion_tokens": 20000, "n": 2})
    40000
    """
    sent = {"max_tokens": request.max_tokens, **options}
    limits = [sent.get(name) for name in ("max_tokens", "max_completion_tokens")]
    answers = options.get("n")
    most = max((limit for limit in limits if isinstance(limit, int)), default=request.max_tokens)
    return most * (answers if isinstance(answers, int) else 1)


def request_key(
    teacher: Teacher, mode: str, problem: str, request: Request, attempt: int, number: int
) -> str:
    """The name of one unit of work: what is the same is asked once, what a changed setting changes anew.

    `attempt` counts the tries at a problem, `number` the requests within one.
    """
    asked = {name: getattr(request, name) for name in _REQUEST_FIELDS}
    work = [teacher.name, dict(teacher.options), mode, problem, asked, attempt, number]
    return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()[:32]


class Asking:
    """Requests to one teacher within limits. Lives in one event loop; see the module's docstring."""

    def __init__(
        self,
        teacher: Teacher,
        journal: Journal,
        *,
        concurrency: int = 8,
        retries: int = 8,
        backoff: float = 0.5,
        budget: Budget | None = None,
        spent: Spent | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`spent` is what earlier runs have spent of the same budget; `backoff` the first wait, in seconds;
        `seed` of the jitter."""
        self.teacher, self.journal, self.budget = teacher, journal, budget or Budget()
        self.spent = spent or Spent()
        self.answered = 0  # by the teacher, in this process
        self.stopped: Stop | None = None
        self.last_failure = ""
        self._was_answered = len(journal) > 0
        self._concurrency, self._retries, self._backoff = concurrency, retries, backoff
        self._slots = asyncio.Semaphore(concurrency)
        self._stopping = asyncio.Event()
        self._freed = asyncio.Event()
        self._on_their_way = self._reserved_prompt = self._reserved_completion = 0
        # Prompts given up since the last answer, those refused only while there was none at all. A set: what
        # fails one sample of a prompt fails all of them.
        self._given_up: set[str] = set()
        self._resume_at = 0.0
        self._jitter = Random(seed)
        self._clock = clock
        self._unsynced = False

    @property
    def on_their_way(self) -> int:
        """Requests that the teacher has not answered yet."""
        return self._on_their_way

    async def ask(self, key: str, request: Request) -> Answer:
        """The answer to `request`, from the journal or else from the teacher and then in the journal.

        Raises Unanswered: refused, or `retries` more tries failed; Stopped; RunError: the journal cannot be
        written.
        """
        if (known := self.journal.get(key)) is not None:
            return answer_of(known)
        for tried in itertools.count():
            async with self._slots:
                await self._admit(request)
                try:
                    answer = await self._ask(key, request)
                    self._given_up.clear()
                    self._was_answered = True
                    return answer
                except Retry as failure:
                    wait = self._wait(failure, tried)
                    if tried == self._retries:
                        raise self._give_up(request, failure) from failure
                except Refused as failure:
                    raise self._give_up(request, failure) from failure
                except Fatal as failure:
                    self.stop("teacher", str(failure))
                    raise Stopped from failure
            await self._sleep(wait)
        raise AssertionError  # the loop has no end of its own

    def stop(self, kind: Literal["budget", "interrupted", "teacher"], message: str) -> None:
        """Ask nothing more. What is on its way is waited for and kept. The first reason stays."""
        self.stopped = self.stopped or Stop(kind, message)
        self._stopping.set()
        self._freed.set()

    async def keep_synced(self) -> None:
        """Bring the journal through to the disk every second, until cancelled."""
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            if self._unsynced:
                self._unsynced = False
                await asyncio.to_thread(self.journal.sync)

    async def _admit(self, request: Request) -> None:
        """Wait out a pause, and reserve what the request may cost. Raises Stopped."""
        while (pause := self._resume_at - self._clock()) > 0:
            await self._sleep(pause)
        spent = self.spent
        while not self.stopped:
            limit = self.budget.exceeded_by(
                spent.requests + self._on_their_way + 1,
                spent.prompt_tokens + self._reserved_prompt + prompt_tokens(request),
                spent.completion_tokens + self._reserved_completion + self._longest(request),
            )
            if limit is None:
                self._reserve(request, 1)
                return
            if not self._on_their_way:
                self.stop("budget", f"the budget is spent: one more request may go beyond {limit}")
                break
            self._freed.clear()
            await self._freed.wait()
        raise Stopped

    def _reserve(self, request: Request, sign: int) -> None:
        self._on_their_way += sign
        self._reserved_prompt += sign * prompt_tokens(request)
        self._reserved_completion += sign * self._longest(request)

    def _longest(self, request: Request) -> int:
        return answer_tokens(request, self.teacher.options)

    async def _ask(self, key: str, request: Request) -> Answer:
        """One request, and its outcome in the journal, also that it failed."""
        started = self._clock()
        record: dict[str, Any] = {}
        try:
            said = await self.teacher.ask(request)
            answer = self._counted(said, request)
            record = {"key": key} | {name: getattr(answer, name) for name in _ANSWER_FIELDS}
            if answer is not said:
                record["uncounted"] = True
            self.answered += 1
            return answer
        except TeacherError as failure:
            self.last_failure = str(failure)
            record = {"failed": str(failure), "of": key}
            raise
        finally:
            self._reserve(request, -1)
            self._freed.set()
            if record:  # not when cancelled
                self.spent.count(record)
                record["seconds"] = round(self._clock() - started, 3)
                self.journal.append(record)
                self._unsynced = True

    def _counted(self, answer: Answer, request: Request) -> Answer:
        """`answer` with the tokens that the teacher does not say: what was reserved for them."""
        prompt, completion = answer.prompt_tokens, answer.completion_tokens
        if prompt is not None and completion is not None:
            return answer
        return replace(
            answer,
            prompt_tokens=prompt_tokens(request) if prompt is None else prompt,
            completion_tokens=self._longest(request) if completion is None else completion,
        )

    def _wait(self, failure: Retry, tried: int) -> float:
        """Seconds until the next try; may make all others wait, or stop the asking."""
        if failure.unreachable and not self.answered:
            self.stop("teacher", str(failure))
            raise Stopped from failure
        longest = min(self._backoff * 2.0**tried, LONGEST_BACKOFF)
        least = self._jitter.uniform(longest / 2, longest)
        if failure.after is None:
            return least
        if failure.after > LONGEST_PAUSE:
            minutes = failure.after / 60
            self.stop("teacher", f"{failure}; it asks to wait {minutes:.0f} minutes")
            raise Stopped from failure
        if failure.pause:
            self._resume_at = max(self._resume_at, self._clock() + failure.after)
        # A little later than asked for, and not all at once; where no wait is asked for, the growing one.
        return max(least, failure.after + self._jitter.uniform(0, min(0.1 * failure.after, 1.0)))

    def _give_up(self, request: Request, failure: TeacherError) -> Exception:
        if isinstance(failure, Refused) and self._was_answered:
            return Unanswered(str(failure))  # of this prompt: others are answered, so this is no outage
        self._given_up.add(json.dumps(request.messages))
        # With n side by side, an outage makes all n give up at about the same time; one poisoned problem
        # does not.
        if (count := len(self._given_up)) >= max(3, self._concurrency):
            self.stop("teacher", f"the last {count} prompts got no answer, the latest because: {failure}")
            return Stopped()
        return Unanswered(str(failure))

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        if self.stopped:
            raise Stopped


def answer_of(record: Mapping[str, Any]) -> Answer:
    """The answer that a record of the journal holds."""
    return Answer(**{name: record[name] for name in _ANSWER_FIELDS if name in record})

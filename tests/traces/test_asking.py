"""Asking within limits: places, pauses, waits, the budget; what is known is not asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from prl.traces.asking import (
    Answer,
    Asking,
    Budget,
    Fatal,
    Refused,
    Retry,
    Spent,
    Stopped,
    TeacherError,
    Unanswered,
    request_key,
)
from prl.traces.journal import Journal
from prl.traces.modes import Request

REQUEST = Request(({"role": "user", "content": "2 + 2"},), max_tokens=10)


class Scripted:
    """A teacher that does what a list says, then answers."""

    name, places = "scripted", 8

    def __init__(self, *script: TeacherError) -> None:
        self.options: dict[str, Any] = {}
        self.answer = Answer("4", 5, 10, "stop", "it")
        self.script: Iterator[TeacherError | None] = iter(script)
        self.asked = self.at_once = self.most_at_once = 0

    async def ask(self, request: Request) -> Answer:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.001)
        self.at_once -= 1
        if (error := next(self.script, None)) is not None:
            raise error
        return self.answer

    async def aclose(self) -> None:
        pass


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal") as opened:
        yield opened


def done(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def test_an_answer_is_kept_and_not_asked_for_again(journal: Journal) -> None:
    teacher = Scripted()

    async def work() -> None:
        asking = Asking(teacher, journal)
        assert await asking.ask("k", REQUEST) == await asking.ask("k", REQUEST)

    done(work())
    assert teacher.asked == 1
    (record,) = journal.records()
    assert (record["text"], record["key"], record["model"]) == ("4", "k", "it")


def test_what_fails_is_tried_again_and_counted(journal: Journal) -> None:
    async def work() -> Asking:
        asking = Asking(Scripted(Retry("500"), Retry("500")), journal, backoff=0.001)
        await asking.ask("k", REQUEST)
        return asking

    asking = done(work())
    assert (asking.spent.requests, asking.spent.failed, asking.spent.tokens) == (3, 2, 15)
    assert [record.get("failed") for record in journal.records()] == ["500", "500", None]


def test_retries_end(journal: Journal) -> None:
    teacher = Scripted(*[Retry("500")] * 9)

    async def work() -> None:
        asking = Asking(teacher, journal, backoff=0.0001, retries=2)
        with pytest.raises(Unanswered, match="500"):
            await asking.ask("k", REQUEST)

    done(work())
    assert teacher.asked == 3


def test_no_more_side_by_side_than_allowed(journal: Journal) -> None:
    teacher = Scripted()

    async def work() -> None:
        asking = Asking(teacher, journal, concurrency=3)
        await asyncio.gather(*(asking.ask(f"k{i}", REQUEST) for i in range(20)))

    done(work())
    assert teacher.asked == 20
    assert teacher.most_at_once == 3


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Fatal("401: bad key"), "401: bad key"),
        (Retry("connection refused", unreachable=True), "connection refused"),
        (Retry("429", after=5000.0), "it asks to wait 83 minutes"),
    ],
)
def test_what_ends_the_asking(error: TeacherError, message: str, journal: Journal) -> None:
    teacher = Scripted(error)

    async def work() -> Asking:
        asking = Asking(teacher, journal)
        for key in ("a", "b"):
            with pytest.raises(Stopped):
                await asking.ask(key, REQUEST)
        return asking

    asking = done(work())
    assert asking.stopped
    assert asking.stopped.kind == "teacher"
    assert message in asking.stopped.message
    assert teacher.asked == 1


def test_many_in_a_row_without_an_answer_end_it(journal: Journal) -> None:
    teacher = Scripted(*[Refused("400")] * 99)

    async def work() -> Asking:
        asking = Asking(teacher, journal, concurrency=4)
        requests = [Request(({"role": "user", "content": str(i // 3)},)) for i in range(18)]
        ended = await asyncio.gather(
            *(asking.ask(f"k{i}", request) for i, request in enumerate(requests)), return_exceptions=True
        )
        assert [type(error) for error in ended].count(Unanswered) == 9, "of three prompts, three samples each"
        return asking

    asking = done(work())
    assert asking.stopped
    assert "the last 4 prompts got no answer, the latest because: 400" in asking.stopped.message


@pytest.mark.parametrize("is_resumed", [False, True])
def test_what_is_refused_after_an_answer_is_no_outage(journal: Journal, is_resumed: bool) -> None:
    if is_resumed:
        journal.append({"key": "before", "text": "4"})
    teacher = Scripted(*[Refused("400")] * 9)

    async def work() -> Asking:
        asking = Asking(teacher, journal, concurrency=1)
        if not is_resumed:
            teacher.script = iter([None, *[Refused("400")] * 9])
            await asking.ask("before", REQUEST)
        for number in range(9):
            with pytest.raises(Unanswered, match="400"):
                await asking.ask(f"k{number}", Request(({"role": "user", "content": str(number)},)))
        assert await asking.ask("after", REQUEST)
        return asking

    assert done(work()).stopped is None


@pytest.mark.parametrize(
    ("budget", "answered", "flag"),
    [
        (Budget(requests=3), 3, "--max_requests 3"),
        (Budget(tokens=50), 3, "--max_total_tokens 50"),
        (Budget(money=0.00005, completion_price=1.0), 5, "--max_cost 5e-05"),
        (Budget(), 9, ""),
    ],
)
def test_a_budget_is_never_overspent(budget: Budget, answered: int, flag: str, journal: Journal) -> None:
    async def work() -> tuple[Asking, int]:
        asking = Asking(Scripted(), journal, concurrency=4, budget=budget)
        ended = await asyncio.gather(
            *(asking.ask(f"k{i}", REQUEST) for i in range(9)), return_exceptions=True
        )
        return asking, sum(isinstance(answer, Answer) for answer in ended)

    asking, count = done(work())
    assert count == answered
    assert (flag in asking.stopped.message) if asking.stopped else not flag
    assert (
        budget.exceeded_by(asking.spent.requests, asking.spent.prompt_tokens, asking.spent.completion_tokens)
        is None
    )


@pytest.mark.parametrize(
    ("options", "answered", "most"),
    [
        ({}, 5, 10),
        ({"max_tokens": None, "max_completion_tokens": 20}, 2, 20),
        ({"max_tokens": 20}, 2, 20),
        ({"max_completion_tokens": 5}, 5, 10),
        ({"max_tokens": None, "max_completion_tokens": 10, "n": 3}, 1, 30),
        ({"max_tokens": None}, 5, 10),
    ],
)
def test_an_answer_that_states_no_tokens_counts_as_what_it_may_have(
    options: dict[str, Any], answered: int, most: int, journal: Journal
) -> None:
    async def work() -> tuple[Asking, list[Any]]:
        teacher = Scripted()
        teacher.options, teacher.answer = options, Answer("4", None, None)
        budget = Budget(money=0.00005, completion_price=1.0)
        asking = Asking(teacher, journal, concurrency=4, budget=budget)
        return asking, await asyncio.gather(
            *(asking.ask(f"k{i}", REQUEST) for i in range(9)), return_exceptions=True
        )

    asking, ended = done(work())
    given = [answer for answer in ended if isinstance(answer, Answer)]
    assert given == [Answer("4", REQUEST.bytes // 2, most)] * answered
    assert (asking.spent.completion_tokens, asking.spent.uncounted) == (most * answered, answered)
    again = Spent()
    for record in journal.records():
        again.count(record)
    assert again == asking.spent, "a run that goes on has spent as much"


def test_a_pause_holds_for_all(journal: Journal) -> None:
    teacher, times = Scripted(Retry("429", after=0.2, pause=True)), []

    async def work() -> None:
        asking = Asking(teacher, journal, concurrency=1)
        loop = asyncio.get_running_loop()
        started = loop.time()

        async def one(key: str) -> None:
            await asking.ask(key, REQUEST)
            times.append(loop.time() - started)

        await asyncio.gather(one("a"), one("b"))

    done(work())
    assert min(times) >= 0.2


@pytest.mark.parametrize("after", [None, 0.0, 0.001])
def test_a_teacher_that_asks_for_no_wait_gets_the_growing_one(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, after: float | None
) -> None:
    waits: list[float] = []

    async def work() -> None:
        teacher = Scripted(*[Retry("429", after=after, pause=True)] * 4)
        asking = Asking(teacher, journal, clock=iter(range(99)).__next__)

        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        monkeypatch.setattr(asking, "_sleep", sleep)
        await asking.ask("k", REQUEST)

    done(work())
    assert all(least <= wait <= 2 * least for wait, least in zip(waits, (0.25, 0.5, 1, 2), strict=True))


def test_keys_name_the_work() -> None:
    def key(change: Callable[[dict[str, Any]], None] = lambda given: None) -> str:
        given: dict[str, Any] = {
            "teacher": Scripted(), "mode": "write", "problem": "p", "request": REQUEST, "attempt": 0,
            "number": 0,
        }  # fmt: skip
        change(given)
        return request_key(**given)

    other = Request(REQUEST.messages, max_tokens=11)
    changes: list[dict[str, Any]] = [
        {"mode": "rewrite"}, {"problem": "q"}, {"request": other}, {"attempt": 1}, {"number": 1}
    ]  # fmt: skip
    keys = [key(), *(key(lambda given, change=change: given.update(change)) for change in changes)]  # type: ignore[misc]
    assert len({*keys}) == len(keys)
    assert key() == key()

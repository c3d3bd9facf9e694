"""What the functions of a submission are asked, and what is right: prl's own code says that.

cases(exercise, student)         every case, in order; the name draws the inputs, "" is nobody
judge(exercise, case, value)     None where it is right, else what it said and where that goes wrong
findings(exercise, asked)        what is wrong with the answers to all cases, group by group
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from prl.course.exercises import Exercise, Group, Variant, folded
from prl.grammar import END_PARALLEL, END_PATH, END_SUMMARY, PARALLEL, PATH, SUMMARY, TAGS

WORDS = ("so", "then", "we", "try", "add", "double", "half", "minus", "nine", "4", "12", "30", "=", "+", ".")
EACH = 5  # drawn cases of a group
_SHOWN = 300  # characters of a value in feedback
NOT_ASKED = "not asked any more, after it ended too often"


@dataclass(frozen=True)
class Case:
    """Arguments and what is right for them, of a group."""

    group: Group
    arguments: list[Any]
    expected: Any


def cases(exercise: Exercise, student: str, *, numbers: Variant | None = None) -> list[Case]:
    """The cases of an exercise that is a function. The name draws the inputs; `numbers` are those that the
    exercise was set with, the paper's if none."""
    numbers = numbers or Variant()
    rng = Random(f"prl course/{exercise.name}/{folded(student)}")
    drawn = _DRAWS[exercise.name](rng, numbers)
    by_name = {group.name: group for group in exercise.groups}
    inputs = [(by_name[name], arguments) for name, arguments in drawn]
    right = _ORACLES[exercise.name](numbers)
    return [Case(group, arguments, right(*arguments)) for group, arguments in inputs]


@dataclass(frozen=True)
class Finding:
    """What is wrong with the answers of some groups: in our words, and as it was asked and answered."""

    groups: tuple[Group, ...]
    said: str
    shown: str = ""


Answered = tuple[Case, Any, str | None]
"""A case with the value that came back, or the error."""


def findings(exercise: Exercise, asked: Sequence[Answered]) -> list[Finding]:
    """What is wrong, each with the shortest case that shows it; groups that one error fails are one."""
    values = {repr(value) for _, value, error in asked if error is None}
    is_constant = len(values) == 1 and all(error is None for _, _, error in asked)
    found: dict[str, Finding] = {}
    for group in exercise.groups:
        own = [each for each in asked if each[0].group is group]
        wrong = [each for each in own if judge(exercise, *each)]
        if not wrong:
            if is_constant:
                (value,) = values
                found[group.name] = Finding((group,), "it returns the same whatever it is given", value)
            continue
        case, value, error = min(wrong, key=lambda each: (each[2] == NOT_ASKED, _length(each[0])))
        shown = judge(exercise, case, value, error) or ""
        if error is None:
            if is_constant and value is None:
                shown += ": is there a `return`?"
            found[group.name] = Finding((group,), f"{len(wrong)} of {len(own)} wrong; {group.rule}", shown)
            continue
        error = next((said for _, _, said in asked if said), error) if error == NOT_ASKED else error
        same = found.get(error)
        groups = (*(same.groups if same else ()), group)
        found[error] = Finding(groups, "it did not answer", same.shown if same else shown)
    return [*found.values()]


def judge(exercise: Exercise, case: Case, value: Any, error: str | None = None) -> str | None:
    """None for a right answer, else what was asked and answered; of a list where it differs first."""
    given = f"{exercise.name}({', '.join(map(_show, case.arguments))})"
    if error is not None:
        return f"{given}\n{error}"
    right = case.expected
    if exercise.compare == "number":
        is_number = type(value) in (int, float) and abs(value) < 1e9  # an int may be too large for a float
        is_right = is_number and abs(value - right) <= 1e-9
    else:
        is_right = _same(value, right)
    return None if is_right else f"{given}\nreturned {_show(value)}{_difference(value, right)}"


def _difference(value: Any, right: Any) -> str:
    if value is None or right is None:
        return ": is there a `return`?" if isinstance(right, list | float) else ""
    if not isinstance(right, list):
        kinds = (int, float) if isinstance(right, float) else (type(right),)
        return "" if type(value) in kinds else f", of type {type(value).__name__}, not {kinds[-1].__name__}"
    if not isinstance(value, list):
        return f", of type {type(value).__name__}, not list"
    for index, (one, other) in enumerate(zip(value, right, strict=False)):
        if not _same(one, other):
            return f"\ndiffers first at index {index}: returned {_show(one)}, expected {other!r}"
    return f"\nreturned {len(value)} numbers, expected {len(right)}"


def _length(case: Case) -> int:
    return len(repr(case.arguments))


def _same(one: Any, other: Any) -> bool:
    """Equal, and of the same types: True is no 1."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


# --- Inputs: (group, arguments)

Drawn = Iterator[tuple[str, list[Any]]]


def _text(rng: Random, least: int = 1, most: int = 6) -> list[str]:
    return rng.choices(WORDS, k=rng.randint(least, most))


def _block(rng: Random, paths: int) -> list[str]:
    texts = [_text(rng, 1, 9) for _ in range(paths)]
    body = [token for text in texts for token in (PATH, *text, END_PATH)]
    return [PARALLEL, *body, END_PARALLEL, SUMMARY, *_text(rng), END_SUMMARY]


def _traces(rng: Random, numbers: Variant) -> Drawn:
    for _ in range(EACH):
        yield "text without a block", [_text(rng, 1, 12)]
        yield "one block", [_text(rng) + _block(rng, rng.randint(2, 5)) + _text(rng)]
        several = [
            token for _ in range(rng.randint(2, 3)) for token in _text(rng) + _block(rng, rng.randint(2, 4))
        ]
        yield "several blocks", [several]
    yield "text without a block", [[]]
    yield "one block", [[PARALLEL, PATH, END_PATH, PATH, *_text(rng), END_PATH, END_PARALLEL]]
    for odd in (
        [*_text(rng), PATH, *_text(rng), END_PATH, END_PARALLEL, *_text(rng)],
        [PARALLEL, PATH, *_text(rng), PARALLEL, *_text(rng), END_PATH, PATH, "a", END_PARALLEL, "b"],
        [PARALLEL, PATH, *_text(rng), PATH, *_text(rng), END_PARALLEL, *_text(rng)],
        [PARALLEL, PATH, *_text(rng), END_PATH, *_text(rng), PATH, *_text(rng), END_PATH, END_PARALLEL, "b"],
        [PARALLEL, *_text(rng), PATH, *_text(rng), END_PATH, PATH, *_text(rng), END_PATH, END_PARALLEL, "b"],
        [*_text(rng), PARALLEL, PATH, *_text(rng), END_PATH, PATH, *_text(rng)],
        [PARALLEL, *_text(rng), END_PARALLEL, *_text(rng)],
        [*_text(rng), *_block(rng, 2), *_text(rng), END_PARALLEL, *_text(rng)],
    ):
        yield "tags out of place", [odd]


def _numbers(rng: Random) -> list[str | None]:
    return [str(number) for number in rng.sample(range(-50, 400), 5)]


def _results(rng: Random, numbers: Variant) -> Drawn:
    for _ in range(EACH):
        best, *others = _numbers(rng)
        most = rng.randint(2, 3)
        clear = [best] * most + others[: rng.randint(1, 3)]
        rng.shuffle(clear)
        yield "one result wins", [clear]
        tied = [each for each in (best, *others[: rng.randint(1, 2)]) for _ in range(most)]
        rng.shuffle(tied)
        yield "ties", [[*tied, others[3]]]
        silent: list[str | None] = [None] * (most + 2) + [best] * most + others[: rng.randint(0, 1)]
        rng.shuffle(silent)
        yield "paths without a result", [silent]
    yield "paths without a result", [[None] * rng.randint(1, 4)]
    yield "paths without a result", [[]]
    yield "ties", [[*map(str, rng.sample(range(100), 4))]]


def _responses(rng: Random, numbers: Variant) -> Drawn:
    for _ in range(EACH):
        parts = _Parts(rng)
        for group, texts in parts.texts().items():
            yield from ((group, [text]) for text in texts)


class _Parts:
    """Texts of each group, good ones and bad ones, from a handful of random passages."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng

    def words(self) -> str:
        return " ".join(_text(self.rng, 2, 5))

    def paths(self, count: int) -> list[str]:
        return [f"{PATH}{self.words()}{END_PATH}" for _ in range(count)]

    def block(self, paths: list[str] | None = None, *, summary: str | None = None, glue: str = "") -> str:
        paths = self.paths(self.rng.randint(2, 4)) if paths is None else paths
        summary = f"{SUMMARY}{self.words()}{END_SUMMARY}" if summary is None else summary
        return f"{PARALLEL}{glue}{glue.join(paths)}{glue}{END_PARALLEL}{glue}{summary}"

    def in_lines(self) -> str:
        """A block whose texts have lines of their own, and several, as most that models write."""
        paths = [f"{PATH}\n{self.words()}\n{self.words()}\n{END_PATH}" for _ in range(2)]
        return self.block(paths, summary=f"{SUMMARY}\n{self.words()}\n{END_SUMMARY}", glue="\n")

    def texts(self) -> dict[str, list[str]]:
        w, rng = self.words, self.rng
        good = f"{w()} {self.block()} {w()}"
        a, b, c = self.paths(3)
        blank = rng.choice(("", " ", "\n", " \n\t "))
        stray = rng.choice(TAGS)
        return {
            "whole blocks": [
                good,
                self.block(glue=rng.choice(("\n", " ", "\n\n"))),
                self.in_lines(),
                f"{self.block()}{w()}\n{self.block(glue=' ')}",
                w(),
                "",
            ],
            "parts that lack": [
                good,
                self.block([a]),
                self.block([]),
                self.block(summary=""),
                self.block().removesuffix(END_SUMMARY),
                self.block([a, b.removesuffix(END_PATH)]),
                self.block([a.removesuffix(END_PATH), b, c]),
                f"{PARALLEL}{a}{b}",
                f"{good} {PARALLEL}{a}",
                f"{self.block([a, b])}{self.block([c])}",
            ],
            "empty parts": [
                good,
                self.block([a, f"{PATH}{blank}{END_PATH}", b]),
                self.block(summary=f"{SUMMARY}{blank}{END_SUMMARY}"),
                self.block([f"{PATH}.{END_PATH}", b]),
            ],
            "tags out of place": [
                self.block([a.replace(PATH, f"{PATH} <path> "), b]),
                self.block().replace(END_PARALLEL, f" {w()} {END_PARALLEL}"),
                self.block([a, w(), b]),
                self.block().replace(PATH, f"{w()} {PATH}", 1),
                self.block(summary=f"{w()} {SUMMARY}{w()}{END_SUMMARY}"),
                self.block([a, f"{PATH}{self.block([b, c])}{END_PATH}"]),
                f"{w()} {stray} {w()} {self.block()}",
                f"{self.block()} {w()} {stray}",
                f"{self.block()}{SUMMARY}{w()}{END_SUMMARY}",
                f"{PARALLEL}{a}{b}{SUMMARY}{w()}{END_SUMMARY}{END_PARALLEL}",
                self.block(summary=f"{SUMMARY}{w()} {a} {w()}{END_SUMMARY}"),
                self.block([f"{PATH}{w()} {SUMMARY}{w()}{END_SUMMARY}{END_PATH}", b]),
            ],
        }


def _steps(rng: Random, numbers: Variant) -> Drawn:
    window = numbers.accuracy_steps + numbers.tiered_steps
    turns = (0, numbers.accuracy_steps - 1, numbers.accuracy_steps, window - 1)
    for uses_block in (True, False):
        for turn in turns:
            yield "the first window", [turn, uses_block, True]
            yield "later windows", [turn + window * rng.randint(1, 400), uses_block, True]
            yield "wrong answers", [turn + window * rng.randint(0, 9), uses_block, False]


# --- Oracles


def _positions(_: Variant) -> Callable[[list[str]], list[int]]:
    import prl.console  # noqa: F401  # silences what the next import imports
    from prl.structure.reader import Reader
    from prl.structure.tags import Tags

    numbers = {tag: number for number, tag in enumerate(TAGS)}

    def right(tokens: list[str]) -> list[int]:
        reader = Reader(Tags(*range(len(TAGS))))
        return [reader.read(numbers.get(token, len(TAGS))).position for token in tokens]

    return right


def _majority(_: Variant) -> Callable[[list[str | None]], str | None]:
    from prl.analysis.budgets import grouped

    def right(results: list[str | None]) -> str | None:
        groups = grouped(tuple(results))
        return results[max(groups, key=len)[0]] if groups else None

    return right


def _format(_: Variant) -> Callable[[str], float]:
    from prl.grammar import parse
    from prl.rewards import format_reward

    def right(text: str) -> float:
        (paid,) = format_reward([text])
        return float(paid) if paid and parse(text).uses_parallel else 0.0

    return right


def _alternating(numbers: Variant) -> Callable[[int, bool, bool], float]:
    from prl.rewards import AlternatingReward, TieredReward

    schedule = AlternatingReward((("accuracy", numbers.accuracy_steps), ("tiered", numbers.tiered_steps)))
    tiers = TieredReward(correct_parallel=numbers.bonus)

    def right(step: int, uses_block: bool, is_right: bool) -> float:
        if not is_right:
            return tiers.wrong  # as much as accuracy's
        is_tiered = schedule.phase(step) == "tiered"
        return tiers.correct_parallel if is_tiered and uses_block else tiers.correct

    return right


_DRAWS: dict[str, Callable[[Random, Variant], Drawn]] = {
    "positions": _traces,
    "majority": _results,
    "format_reward": _responses,
    "alternating": _steps,
}
_ORACLES: dict[str, Callable[[Variant], Callable[..., Any]]] = {
    "positions": _positions,
    "majority": _majority,
    "format_reward": _format,
    "alternating": _alternating,
}

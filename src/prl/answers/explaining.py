"""Why an answer was judged as it was: the steps as text, for `prl answers explain` and for doubters."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from prl.answers.checker import default_checker
from prl.answers.expression import E_NAME, I_NAME, variable_name
from prl.answers.extraction import bare_answer
from prl.answers.judging import REASONS, Verdict, as_written, judge
from prl.answers.kinds import Answer
from prl.answers.limits import MAX_CHARS, Refused, Unreadable
from prl.answers.notation import clean
from prl.answers.questions import NeedsAlgebra
from prl.answers.reading import read
from prl.answers.stating import stated

_SHOWN = 200  # characters of a step


@dataclass(frozen=True, slots=True)
class Explanation:
    """A verdict and the steps (name, result) that led to it; `str()` prints them, one a line."""

    verdict: Verdict
    steps: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.steps)
        return "\n".join(f"{name:<{width}}  {result}" for name, result in self.steps)


def explain(pred: str, gold: str) -> Explanation:
    """The steps of one judgement: given, extracted, what it states where it is a sentence, normalised, parsed
    as, compared by, verdict."""
    verdict = default_checker().check(pred, gold)
    steps = [*_side("prediction", pred, _quantity(pred, gold)), *_side("gold", gold)]
    steps.append(("compared by", _method(pred, gold)))
    detail = f" ({verdict.detail})" if verdict.detail else ""
    steps.append(("verdict", f"{'equal' if verdict.equal else 'not equal'}: {verdict.reason}{detail}"))
    steps.append(("which means", REASONS[verdict.reason]))
    return Explanation(verdict, tuple(steps))


def _quantity(pred: str, gold: str) -> str | None:
    """What the prediction was judged by, where that is not all of what it commits to."""
    answer, wanted = bare_answer(pred), bare_answer(gold)
    if not answer or not wanted or len(answer) > MAX_CHARS:
        return None
    try:
        return None if as_written(answer, wanted, None).equal else stated(answer)
    except NeedsAlgebra:
        return None


def _side(side: str, text: str, quantity: str | None = None) -> list[tuple[str, str]]:
    answer = bare_answer(text)
    steps = [(side, _short(repr(text))), ("  extracted", "nothing" if answer is None else _short(answer))]
    if quantity is not None:
        steps.append(("  states", _short(quantity)))
        answer = quantity
    if answer is not None and len(answer) <= MAX_CHARS:
        steps += [("  normalised", _short(clean(answer))), ("  parsed as", _short(_reading(answer)))]
    return steps


def _method(pred: str, gold: str) -> str:
    answer, wanted = bare_answer(pred), bare_answer(gold)
    if not answer or not wanted:
        return "nothing: one side is missing"
    try:
        judge(answer, wanted)
    except NeedsAlgebra:
        return "latex2sympy2 and values to 100 digits, in a worker process"
    return "text, structure, exact rational and bounded floating-point arithmetic, in this process"


def _reading(text: str) -> str:
    try:
        return describe(read(text))
    except (Unreadable, Refused) as error:
        return f"nothing: {error}"


def describe(answer: Answer) -> str:
    """One line for a reading, e.g. `tuple () of [expression 1; expression x + 1]`."""
    if answer.alternative:
        return f"{describe(replace(answer, alternative=None))}, or {describe(answer.alternative)}"
    if answer.kind == "expression":
        exact = f" = {answer.value}" if answer.value is not None and str(answer.value) != answer.text else ""
        unit = f", a {answer.unit[0]}" if answer.unit else ""
        return f"expression {_named(answer.text)}{exact}{', a percentage' if answer.percent else ''}{unit}"
    inner = "; ".join(describe(item) for item in answer.items)
    return f"{answer.kind} {answer.text}".rstrip() + (f" of [{inner}]" if inner else "")


def _named(latex: str) -> str:
    """LaTeX with its variables under their own names again."""
    latex = latex.replace(I_NAME, "i").replace(E_NAME, "e")
    return re.sub(r"x_\{\d+\}", lambda match: variable_name(match.group()), latex)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text):,} characters)"

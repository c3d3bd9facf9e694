"""A student's own look at an exercise, in the notebook: the cases of nobody's name, no grade."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prl.course.cases import Answered, cases, findings
from prl.course.exercises import EXERCISES, OF_ANOTHER, variant
from prl.errors import UsageError, nearest


def check(function: Callable[..., Any], student: str | None = None) -> bool:
    """Ask a function what the grader asks of one by its name, and print what is wrong.

    Inputs are not the grader's, which are drawn by the name of who hands in. `student` is the name that the
    starter was made for, where it was. Returns whether nothing is wrong. Runs
    the function here, as it is: for one's own. UsageError for a name that no exercise has.
    """
    known = {exercise.name: exercise for exercise in EXERCISES if exercise.compare != "settings"}
    name = getattr(function, "__name__", "")
    if name not in known:
        raise UsageError(f"no exercise asks for {name!r}{nearest(name, known)}; there is {', '.join(known)}")
    exercise = known[name]
    if exercise.is_of_another(function.__doc__ or "", student):
        print(OF_ANOTHER if student else f"{OF_ANOTHER}: check({name}, YOUR_NAME)")
    asked: list[Answered] = []
    for case in cases(exercise, "check", numbers=variant(student)):
        try:
            asked.append((case, function(*case.arguments), None))
        except Exception as error:
            asked.append((case, None, f"{type(error).__name__}: {error}"[:300]))
    found = findings(exercise, asked)
    for group in exercise.groups:
        if not any(group in each.groups for each in found):
            print(f"{group.name}: right")
    for each in found:
        print(f"{', '.join(group.name for group in each.groups)}: {each.said}")
        print("\n".join(f"    {line}" for line in each.shown.splitlines()))
    return not found

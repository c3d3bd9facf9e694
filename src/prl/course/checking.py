"""A student's own look at an exercise, in the notebook: the cases of nobody's name, no grade."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prl.course.cases import cases, judge
from prl.course.exercises import EXERCISES, variant
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
    fault: dict[str, str] = {}
    for case in cases(exercise, "check", numbers=variant(student)):
        if case.group.name in fault:
            continue
        try:
            said = judge(exercise, case, function(*case.arguments))
        except Exception as error:
            said = judge(exercise, case, None, f"{type(error).__name__}: {error}"[:300])
        if said:
            fault[case.group.name] = said
    for group in exercise.groups:
        print(f"{group.name}: {fault.get(group.name, 'right')}")
    return not fault

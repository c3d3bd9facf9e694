"""Reward functions of the user's own, as --rewards names them: `mine.py:short_answer`.

Whose code runs is for the user alone to say: on the command line, or in a call of `prl.config.resolve`. A
recipe, a run's config.yaml and a stage of a curriculum may come from anyone; what they name is refused,
unless the user names it too.
"""

from __future__ import annotations

from collections.abc import Iterable
from keyword import iskeyword
from pathlib import Path

_MARK = ".py:"


def is_own(name: object) -> bool:
    """Whether an entry of --rewards names a file.

    >>> is_own("mine.py:short_answer"), is_own("mine.py"), is_own("accuracy")
    (True, True, False)
    """
    return isinstance(name, str) and (_MARK in name or name.endswith(".py"))


def file_and_function(name: str) -> tuple[Path, str]:
    """The file that `PATH.py:NAME` names, and the function in it.

    >>> file_and_function("mine.py:short_answer")[1]
    'short_answer'
    """
    path, _, function = name.rpartition(_MARK)
    return Path(f"{path}.py").expanduser(), function


def faults_of_own(names: Iterable[str]) -> list[str]:
    """What is wrong with the entries of --rewards that name a file. None of these files is run here."""
    found = []
    for name in filter(is_own, names):
        file, function = file_and_function(name)
        if _MARK not in name:
            found.append(f"{name!r} names no function; write PATH.py:NAME, such as {name}:short_answer")
        elif not function.isidentifier() or iskeyword(function):
            found.append(f"{name!r}: {function!r} is no name of a function; write PATH.py:NAME")
        elif not file.is_file():
            found.append(f"{name!r}: no such file; give its path from the working folder, or in full")
    return found

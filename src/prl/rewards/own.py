"""Rewards of your own: functions in TRL's signature, passed from Python or named on the command line.

    def short_answer(completions, answer, **columns):      # mine.py
        return [1.0 if len(text) < 400 else 0.0 for text in completions]

`prl rl --rewards accuracy mine.py:short_answer`, or `rl.run(settings, rewards=[short_answer])`. A function
gets `prompts`, `completions`, `completion_ids` and the columns of the data set by name, one entry a response,
and returns a number for each, or None where it judges nothing. A file's code is run because whoever types the
command, or calls `prl.config.resolve`, names it; no recipe, run or model folder can.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import math
import sys
import tokenize
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from typing import Any

from prl.errors import PrlError, UsageError, first_line, nearest
from prl.rewards.catalogue import REWARDS
from prl.rewards.responses import Reward

RewardFunction = Callable[..., Sequence[float | None]]


_MARK = ".py:"


@dataclass(frozen=True)
class OwnReward:
    """A reward that tells its faults in one line, and a fingerprint of its code."""

    pay: Reward
    fingerprint: str


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
    """What is wrong with those of `names` that stand in files, a line each. No file is run."""
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


def own_rewards(named: Sequence[str], functions: Sequence[RewardFunction]) -> dict[str, OwnReward]:
    """By name: those of `named` that stand in files, as they are named, and `functions` by their own names.

    Runs the files. Raises UsageError for a file or a function that is not there or cannot be run, for what is
    no plain function, and for a name that stands twice.
    """
    found = {name: _guarded(_load(name), name) for name in named if is_own(name)}
    for function in functions:
        name = getattr(function, "__name__", None) or type(function).__name__
        if name in found:
            raise UsageError(f"reward {name} stands twice: rename one of the functions")
        found[name] = _guarded(function, name)
    logged = [each.pay.__name__.removesuffix("_reward") for each in found.values()]
    if taken := next((name for name in logged if name in REWARDS or logged.count(name) > 1), None):
        raise UsageError(f"reward {taken}: another has that name in logs and samples; rename the function")
    return found


def by_call(own: Iterable[str]) -> list[str]:
    """The names of those that a Python caller passed, and no setting names."""
    return [name for name in own if not is_own(name)]


def fingerprint(own: dict[str, OwnReward]) -> str:
    """Of all of them, in their order; "" without any."""
    return (
        hashlib.sha256("".join(each.fingerprint for each in own.values()).encode()).hexdigest() if own else ""
    )


def _load(name: str) -> RewardFunction:
    if faults := faults_of_own([name]):
        raise UsageError("; ".join(faults))
    path, wanted = file_and_function(name)
    spec = importlib.util.spec_from_file_location(f"prl_own_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"reward {name}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent))  # as for a script: it may import what stands beside it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(
            f"reward {name}: {path}{_line(error, path)} cannot be run: {_told(error)}"
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    function = getattr(module, wanted, None)
    if function is None:
        defined = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise UsageError(f"reward {name}: {path} defines no {wanted}{nearest(wanted, defined)}")
    return function


def _guarded(function: RewardFunction, name: str) -> OwnReward:
    if not callable(function) or inspect.iscoroutinefunction(function) or inspect.isclass(function):
        raise UsageError(f"reward {name} is no plain function that takes completions and columns")
    try:
        path = Path(inspect.getsourcefile(inspect.unwrap(function)) or "")
        code = path.read_text(encoding="utf-8") if is_own(name) else inspect.getsource(function)
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):  # typed into a shell, or an object
        path, code = Path(), _compiled(function)

    def pay(*, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        try:
            paid = function(completions=completions, **columns)
        except PrlError:
            raise
        except Exception as error:
            raise UsageError(f"reward {name}{_line(error, path)} failed: {_told(error)}") from error
        return _checked(paid, len(completions), name)

    functools.update_wrapper(pay, function)
    pay.__name__ = getattr(function, "__name__", name)
    return OwnReward(pay, hashlib.sha256(code.encode()).hexdigest())


def _compiled(function: RewardFunction) -> str:
    """What stands for a function's code where its text is not to be had."""
    call = function if inspect.isfunction(function) else type(function).__call__
    code = getattr(call, "__code__", None)
    return repr((code.co_code, code.co_names)) if code else type(function).__qualname__


def _checked(paid: Any, count: int, name: str) -> list[float | None]:
    """What a reward returned, as numbers of Python; UsageError where it is something else."""
    values = paid.tolist() if hasattr(paid, "tolist") else paid
    if not isinstance(values, list | tuple):
        raise UsageError(f"reward {name} returned {type(paid).__name__}: return a list, a number a response")
    if len(values) != count:
        raise UsageError(
            f"reward {name} returned {len(values)} numbers for {count} responses: return one each"
        )
    numbers = [value.item() if hasattr(value, "item") else value for value in values]
    for value in numbers:
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
            raise UsageError(f"reward {name} returned {value!r:.60}: return finite numbers, or None")
    return [None if value is None else float(value) for value in numbers]


def _line(error: Exception, path: Path) -> str:
    """The last line of `path` that an error passed through."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f", line {error.lineno},"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path
    ]
    return f", line {lines[-1]}," if lines else ""


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"

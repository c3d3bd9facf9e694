"""Rewards of your own: functions in TRL's signature, passed from Python or named on the command line.

    def short_answer(completions, answer, **columns):      # mine.py
        return [1.0 if len(text) < 400 else 0.0 for text in completions]

`prl rl --rewards accuracy mine.py:short_answer`, or `rl.run(settings, rewards=[short_answer])`. A function
gets `prompts`, `completions`, `completion_ids` and the columns of the data set by name, one entry a response,
and returns a number for each, or None where it judges nothing. It is paid in every stage. A file's code is
run because whoever types the command, or calls `prl.config.resolve`, names it; no recipe, run or model folder
can.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib.util
import inspect
import sys
import tokenize
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from prl.errors import PrlError, UsageError, first_line, nearest
from prl.rewards.catalogue import REWARDS
from prl.rewards.responses import Reward

RewardFunction = Callable[..., Sequence[float | None]]

PASSED = (
    "prompts", "completions", "completion_ids", "problem", "answer", "level", "trainer_state", "log_extra",
    "log_metric", "critical_path",
)  # fmt: skip
"""What each reward is called with beside the columns of the data set; these names are no column's. `problem`,
`answer` and `level` are as prl reads them."""

_MARK = ".py:"
_MOST = 3e38  # near float32's largest, in which TRL adds rewards up


@dataclass(frozen=True)
class OwnReward:
    """A reward that tells its faults in one line; the function itself, and a fingerprint of its code."""

    pay: Reward
    function: RewardFunction
    fingerprint: str


def is_own(name: object) -> bool:
    """Whether an entry of --rewards names a file.

    >>> is_own("mine.py:short_answer"), is_own("mine.py"), is_own("accuracy")
    (True, True, False)
    """
    return isinstance(name, str) and (_MARK in name or name.endswith(".py"))


def file_and_function(name: str) -> tuple[Path, str]:
    """The file that `PATH.py:NAME` names, in full, and the function in it.

    >>> file_and_function("mine.py:short_answer")[1]
    'short_answer'
    """
    path, _, function = name.rpartition(_MARK)
    return Path(f"{path}.py").expanduser().resolve(), function


def faults_of_own(names: Iterable[str]) -> list[str]:
    """What is wrong with those of `names` that stand in files, a line each. No file is run."""
    found = []
    for name in filter(is_own, names):
        try:
            file, function = file_and_function(name)
            is_there = file.is_file()
        except (OSError, RuntimeError) as error:  # a folder that may not be searched, a home that is none
            found.append(f"{name!r}: {first_line(error)}; give its path in full")
            continue
        if _MARK not in name:
            found.append(f"{name!r} names no function; write PATH.py:NAME, such as {name}:short_answer")
        elif not function.isidentifier() or iskeyword(function):
            found.append(f"{name!r}: {function!r} is no name of a function; write PATH.py:NAME")
        elif not is_there:
            found.append(f"{name!r}: no such file; give its path from the working folder, or in full")
    return found


def own_rewards(named: Sequence[str], functions: Sequence[RewardFunction]) -> dict[str, OwnReward]:
    """By name: those of `named` that stand in files, as they are named, and `functions` by their own names.

    Runs each file once. Raises UsageError for a file or a function that is not there or cannot be run, for
    what is no plain function, and for a name that stands twice.
    """
    modules: dict[Path, ModuleType] = {}
    found = {name: _from_file(name, modules) for name in named if is_own(name)}
    _check_beside(modules)
    for function in functions:
        name = _name_of(function)
        if name in found:
            raise UsageError(f"reward {name} stands twice: rename one of the functions")
        found[name] = _guarded(function, name, name, _code_of(function))
    logged = [each.pay.__name__.removesuffix("_reward") for each in found.values()]
    if taken := next((name for name in logged if name in REWARDS or logged.count(name) > 1), None):
        raise UsageError(f"reward {taken}: another has that name in logs and samples; rename the function")
    return found


def code_fingerprint(own: Mapping[str, OwnReward]) -> str:
    """Of the code of all of them, in their order; "" without any. What they import is not in it."""
    if not own:
        return ""
    return hashlib.sha256("".join(each.fingerprint for each in own.values()).encode()).hexdigest()


def with_columns(own: OwnReward, name: str, cells: Sequence[Mapping[str, Any]]) -> Reward:
    """The reward with columns of its data set: `cells[row]` for each response, whose column `row` says which.

    Shipped rewards do without, so that no column takes the place of what prl passes. UsageError where the
    function cannot be called with what there is.
    """
    columns = [each for each in dict.fromkeys(key for row in cells for key in row) if each not in PASSED]
    try:
        inspect.signature(own.function).bind(**dict.fromkeys([*PASSED, *columns]))
    except TypeError as error:
        told = f"it is called with {', '.join([*PASSED, *columns])} by name, so end it with **columns"
        raise UsageError(f"reward {name}: {first_line(error)}; {told}") from None
    except ValueError:  # a built-in tells no signature
        pass

    def pay(*, row: Sequence[int] | None = None, **passed: Any) -> list[float | None]:
        given = {each: [cells[n].get(each) for n in row or ()] for each in columns}
        return own.pay(**given, **passed)

    functools.update_wrapper(pay, own.pay)
    return pay


# --- Loading


def _from_file(name: str, modules: dict[Path, ModuleType]) -> OwnReward:
    if faults := faults_of_own([name]):
        raise UsageError("; ".join(faults))
    path, wanted = file_and_function(name)
    if path not in modules:
        modules[path] = _run(path, name)
    function = getattr(modules[path], wanted, None)
    if function is None:
        defined = [key for key, value in vars(modules[path]).items() if inspect.isfunction(value)]
        raise UsageError(f"reward {name}: {path} defines no {wanted}{nearest(wanted, defined)}")
    return _guarded(function, name, wanted, path.read_bytes(), path)


def _run(path: Path, name: str) -> ModuleType:
    """The module of a file. Its folder stays on the path, as a script's does: what is beside it can be
    imported, also when a function is called."""
    own = f"prl_own_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(own, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"reward {name}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[own] = module  # dataclasses look their module up
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"reward {name}: {path}{_line(error, path)} cannot be run: {_told(error)}"
        ) from error
    return module


def _check_beside(modules: Iterable[Path]) -> None:
    """Python holds one module of a name: two folders with a file of one name would share it."""
    folders = list(dict.fromkeys(path.parent for path in modules))
    for first, second in ((a, b) for n, a in enumerate(folders) for b in folders[n + 1 :]):
        shared = sorted({p.name for p in first.glob("*.py")} & {p.name for p in second.glob("*.py")})
        if held := next((file for file in shared if Path(file).stem in sys.modules), None):
            told = f"rewards: {first} and {second} both have {held}"
            raise UsageError(f"{told}, of which Python reads one alone: put the functions into one folder")


def _name_of(function: RewardFunction) -> str:
    inner = function.func if isinstance(function, functools.partial) else function
    name = getattr(inner, "__name__", None) or type(inner).__name__
    if not name.isidentifier():
        raise UsageError(f"a reward is called {name}, by which no log can name it: define it with def")
    return name


def _code_of(function: Any) -> bytes:
    """What stands for a function's code: its text, or what it was compiled to where that is not to be had."""
    if isinstance(function, functools.partial):
        bound = repr((function.args, sorted(function.keywords.items())))
        return _code_of(function.func) + bound.encode()
    try:
        has_text = inspect.isfunction(function) or inspect.ismethod(function)
        return inspect.getsource(function if has_text else type(function)).encode()
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):  # typed into a shell, or built in
        call = function if inspect.isfunction(function) else type(function).__call__
        return _compiled(getattr(call, "__code__", None)).encode()


def _compiled(code: CodeType | None) -> str:
    if code is None:
        return ""
    constants = [_compiled(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return repr((code.co_code, code.co_names, constants))


# --- Paying


def _guarded(
    function: RewardFunction, name: str, logged: str, code: bytes, path: Path | None = None
) -> OwnReward:
    if not callable(function) or inspect.iscoroutinefunction(function) or inspect.isclass(function):
        raise UsageError(f"reward {name} is no plain function that takes completions and columns")
    if path is None and inspect.isfunction(inspect.unwrap(function)):
        path = Path(inspect.unwrap(function).__code__.co_filename)

    def pay(*, completions: Sequence[Any], completion_ids: Any = None, **passed: Any) -> list[float | None]:
        count = len(completions)
        # Copies: the run and other rewards keep what they had, whatever a function does with its arguments.
        given = {key: copy.deepcopy(each) if isinstance(each, list) else each for key, each in passed.items()}
        ids = [list(each) for each in completion_ids or ()]
        try:
            paid = function(completions=copy.deepcopy([*completions]), completion_ids=ids, **given)
        except PrlError:
            raise
        except (Exception, SystemExit) as error:
            raise UsageError(f"reward {name}{_line(error, path)} failed: {_told(error)}") from error
        return _checked(paid, count, name)

    functools.update_wrapper(pay, function)
    pay.__name__ = logged
    return OwnReward(pay, function, hashlib.sha256(code).hexdigest())


def _checked(paid: Any, count: int, name: str) -> list[float | None]:
    """What a reward returned, as numbers of Python; UsageError where it is something else."""
    values = paid.tolist() if hasattr(paid, "tolist") else paid
    if not isinstance(values, list | tuple):
        raise UsageError(f"reward {name} returned {type(paid).__name__}: return a list, a number a response")
    if len(values) != count:
        raise UsageError(
            f"reward {name} returned {len(values)} numbers for {count} responses: return one each"
        )
    return [_number(value, name) for value in values]


def _number(value: Any, name: str) -> float | None:
    try:
        number = value.item() if hasattr(value, "item") else value
        if number is None or (isinstance(number, int | float) and abs(number) <= _MOST):
            return None if number is None else float(number)
    except (TypeError, ValueError, RuntimeError):  # a tensor of several numbers
        pass
    raise UsageError(f"reward {name} returned {value!r:.60}: return finite numbers, or None")


def _line(error: BaseException, path: Path | None) -> str:
    """The last line of `path` that an error passed through."""
    if isinstance(error, SyntaxError) and error.lineno and Path(error.filename or "") == path:
        return f", line {error.lineno},"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if path and Path(frame.filename) == path]
    return f", line {lines[-1]}," if lines else ""


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"

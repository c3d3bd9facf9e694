"""Reading the stages of a curriculum as a recipe declares them, with every fault at once."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from prl.curriculum import COLD_START, QUANTITIES, SAMPLINGS, Entry, Stage, shown
from prl.errors import nearest
from prl.rewards import REWARDS
from prl.rewards.own import is_own


class _Fault(Exception):
    """Why a value cannot be taken; several reasons are several arguments."""


def read_stages(
    items: Sequence[Mapping[str, Any]], *, max_steps: int, rewards: Sequence[str] = REWARDS
) -> tuple[tuple[Stage, ...], list[str]]:
    """The stages that `items` declare, and every fault in one line each; stages are sound where none is.

    Keys are the fields of Stage and, under `enter`, of Entry; null is as good as left out. A `step` between
    0 and 1 is a share of `max_steps`. A list of one may be written as its value. The stage `cold-start`, if
    any, comes first and holds its name alone; the next one is the first of RL and takes no `enter`.
    """
    faults: list[str] = []
    stages = tuple(
        _read_stage(item, number, max_steps, rewards, faults) for number, item in enumerate(items, 1)
    )
    names = Counter(stage.name for stage in stages)
    faults += [f"stage {name}: stands {count} times; rename" for name, count in names.items() if count > 1]
    faults += _faults_of_order(stages, max_steps)
    return stages, faults


def cold_start_of(stages: Sequence[str] | None, output_dir: str | None) -> Path | None:
    """The run of the cold start that `prl rl` makes before the one in `output_dir`; None where the first of
    `stages`, each as JSON, is RL."""
    if not stages or json.loads(stages[0]).get("name") != COLD_START:
        return None
    output = Path(str(output_dir))
    return output.with_name(f"{output.name}-{COLD_START}")


def _read_stage(item: Any, number: int, max_steps: int, rewards: Sequence[str], faults: list[str]) -> Stage:
    where = f"stage {number}"
    if not isinstance(item, Mapping):
        faults.append(f"{where}: {shown(item)} is no mapping of settings; write `name: …` and what differs")
        return Stage(str(number))
    given = {key: value for key, value in item.items() if value is not None}
    if given.get("name") == COLD_START:
        if len(given) > 1:
            extra = shown([key for key in given if key != "name"])
            faults.append(f"stage {COLD_START}: takes a name only, not {extra}; section sft has its settings")
        return Stage(COLD_START)
    readers: dict[str, Callable[[Any], Any]] = {
        "name": _name,
        "dataset": _text,
        "dataset_split": _text,
        "limit": _count,
        "levels": _levels,
        "rewards": partial(_rewards, known=rewards),
        "sampling": partial(_choice, options=SAMPLINGS),
        "enter": _mapping,
    }
    if "name" not in given:
        faults.append(f"{where}: has no name; add `name: …`")
    elif _NAME.fullmatch(str(given["name"])):
        where = f"stage {given['name']}"
    values = {"name": str(number)} | _read(given, readers, where, "", faults)
    if "enter" in given:
        values["enter"] = _read_entry(values.get("enter"), where, max_steps, faults)
    return Stage(**values)


def _read_entry(given: Mapping[str, Any] | None, where: str, max_steps: int, faults: list[str]) -> Entry:
    if given is None:  # it could not be read, which is a fault already
        return Entry()
    readers: dict[str, Callable[[Any], Any]] = {
        "step": partial(_step, max_steps=max_steps),
        "accuracy": _share,
        "parallel_ratio": _share,
        "plateau": partial(_choice, options=QUANTITIES),
        "window": _count,
        "gain": _share,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if not given.keys() & _CONDITIONS:
        faults.append(f"{where}: enter holds no condition; give one of {', '.join(_CONDITIONS)}")
    return Entry(**_read(given, readers, where, "enter.", faults))


def _read(
    given: Mapping[str, Any],
    readers: Mapping[str, Callable[[Any], Any]],
    where: str,
    prefix: str,
    faults: list[str],
) -> dict[str, Any]:
    """The values that can be read; the rest become faults."""
    values = {}
    for key, value in given.items():
        if key not in readers:
            faults.append(f"{where}: unknown key {shown(f'{prefix}{key}')}{nearest(str(key), readers)}")
            continue
        try:
            values[key] = readers[key](value)
        except _Fault as fault:
            faults += [f"{where}: {prefix}{key} {shown(value)} {reason}" for reason in fault.args]
    return values


def _faults_of_order(stages: Sequence[Stage], max_steps: int) -> list[str]:
    """What is wrong with the stages together: who is first, and whether each gets its turn."""
    faults = [
        f"stage {COLD_START}: must be the first; move it up"
        for stage in stages[1:]
        if stage.name == COLD_START
    ]
    of_rl = [stage for stage in stages if stage.name != COLD_START]
    if not of_rl:
        return [*faults, "stages: none of RL; add one, or leave the key out"]
    if of_rl[0].enter:
        faults.append(f"stage {of_rl[0].name}: is the first of RL, which begins at once; leave enter out")
    soonest = 0  # the step that the stage before can begin at
    latest: tuple[int, str] | None = None  # the last step that was asked for, and by whom
    for before, stage in pairwise(of_rl):
        if stage.enter is None:
            faults.append(f"stage {stage.name}: nothing says when it begins; add enter: {{step: …}}")
            continue
        step = stage.enter.step
        soonest_before, soonest = soonest, _soonest(stage.enter, soonest)
        if step is not None and 0 < max_steps <= step:
            faults.append(
                f"stage {stage.name}: enter.step {step} is never reached, training ends after {max_steps}; "
                "begin sooner, or raise max_steps"
            )
        elif step is not None and latest and step <= latest[0]:
            faults.append(
                f"stage {stage.name}: enter.step {step} must be after {latest[0]}, the step of {latest[1]}: "
                "they overlap"
            )
        elif soonest_before < max_steps <= soonest:
            faults.append(
                f"stage {stage.name}: is never reached: {before.name} begins after step {soonest_before} at "
                f"the soonest, enter takes until step {soonest}, training ends after {max_steps}; "
                "take a smaller window, or raise max_steps"
            )
        if step is not None:
            latest = step, stage.name
    return faults


def _soonest(entry: Entry, begun: int) -> int:
    """The first step at which `entry` can come true if the stage before begins at step `begun`."""
    steps = [max(entry.step, begun + 1)] if entry.step is not None else []
    steps += [begun + entry.window for name in QUANTITIES if getattr(entry, name) is not None]
    steps += [begun + 2 * entry.window] if entry.plateau else []
    return min(steps, default=begun + 1)


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")
_CONDITIONS = dict.fromkeys(("step", *QUANTITIES, "plateau"))


def _name(value: Any) -> str:
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    raise _Fault("must be a letter, then letters, digits, - and _, at most 40 in all")


def _text(value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    raise _Fault("must be a name")


def _mapping(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise _Fault(f"must be a mapping of {', '.join(_CONDITIONS)}, window, gain")


def _count(value: Any) -> int:
    if _is_whole(value) and value >= 1:
        return value
    raise _Fault("must be a whole number from 1")


def _share(value: Any) -> float:
    number = _number(value)
    if number is not None and 0 <= number <= 1:
        return float(number)
    raise _Fault("must be a number from 0 to 1")


def _step(value: Any, max_steps: int) -> int:
    number = _number(value)
    if number is not None and _is_whole(number) and number >= 1:
        return int(number)
    if number is None or not 0 < number < 1:
        raise _Fault("must be a whole number of steps from 1, or a share of max_steps between 0 and 1")
    if max_steps < 1:
        raise _Fault("is a share of max_steps, which is not set; set it, or give a number of steps")
    return max(1, round(number * max_steps))


def _levels(value: Any) -> tuple[int, ...]:
    levels = value if isinstance(value, list | tuple) else [value]
    if levels and all(map(_is_whole, levels)) and len({*levels}) == len(levels):
        return tuple(levels)
    raise _Fault("must be whole numbers, each once")


def _rewards(value: Any, known: Sequence[str]) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise _Fault(f"must be of {', '.join(known)}")
    reasons = [
        f"holds {shown(name)}, and no stage can say whose code to run; pass it with --rewards, each pays it"
        if is_own(name)
        else f"holds no reward {shown(name)}{nearest(name, known)}"
        for name in names
        if name not in known
    ]
    reasons += [f"holds {shown(name)} {count} times" for name, count in Counter(names).items() if count > 1]
    if reasons:
        raise _Fault(*reasons)
    return tuple(names)


def _choice(value: Any, options: Sequence[str]) -> str:
    if value in options:
        return str(value)
    raise _Fault(f"must be {' or '.join(options)}{nearest(str(value), options)}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> float | None:
    """YAML 1.1 takes 5e-3 for a word; in a recipe it is a number, as behind a flag."""
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value if _is_whole(value) or isinstance(value, float) else None

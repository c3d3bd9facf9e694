"""Reading what was written down, key by key: flags, keywords and the lines of a recipe.

TRL's own parser reads each value; what cannot be taken becomes one line of `faults`. Importing this module
imports nothing heavy; reading does.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from prl import recipes
from prl.errors import nearest
from prl.recipes import Given
from prl.rewards import REWARDS
from prl.rewards.own import faults_of_own, is_own
from prl.settings.arguments import COMMANDS, POSITIONAL, TRAINER_CONFIGS
from prl.settings.ranges import RANGES
from prl.settings.trainer_flags import trainer_class, trl

_SHORT = {"model": "model_name_or_path", "o": "output"}
RENAMED = {f"gradient_checkpointing{rest}": f"activation_checkpointing{rest}" for rest in ("", "_kwargs")}
"""What transformers 5.23 calls otherwise; the old names work there but warn."""
_TRL_SCRIPT_NAMES = {"config": "recipe", "dataset_name": "dataset", "dataset_train_split": "dataset_split"}
"""What TRL's own scripts call it, for the hint."""

_WRITTEN = ("output_dir", "output", "accepted", "rejected", "fit")
"""Places to write to: `~` is the home folder, which a shell does not see in `--output=~/x` and in recipes."""


@dataclass(frozen=True)
class Keys:
    """The keys that a command knows: their types, and TRL's parser, which reads a value of each."""

    types: dict[str, Any]
    parser: Any


@cache
def keys_of(command: str) -> Keys:
    """The keys of `command`: its own and, where it trains, those of TRL's config."""
    classes = [COMMANDS[command], *([trainer_class(command)] if command in TRAINER_CONFIGS else [])]
    types = {
        item.name: get_type_hints(cls)[item.name] for cls in classes for item in fields(cls) if item.init
    }
    parser = trl().TrlParser(classes, allow_abbrev=False, exit_on_error=False, add_help=False)
    for name, kind in types.items():
        if {str, list[str]} <= {*get_args(kind)}:  # `report_to`, of which TRL's parser takes one word
            parser._option_string_actions[f"--{name}"].nargs = "+"
    return Keys(types, parser)


def knows(command: str, key: str) -> bool:
    """Whether `command` has a flag of this name."""
    types = keys_of(command).types
    return key in types or _is_switch_of(types, key)


class _Fault(Exception):
    """Why one setting cannot be taken."""


def flags_of(argv: Iterable[str]) -> list[Given]:
    """A command line grouped by its flags; words before the first flag, and behind `--`, have the key ""."""
    groups: list[tuple[str, str, list[str]]] = [("", "", [])]
    words = iter(argv)
    for word in words:
        if word == "--":
            groups.append(("", "", list(words)))
        elif word.startswith("--") or word == "-o":
            name, equals, value = word.lstrip("-").partition("=")
            key = name.replace("-", "_")
            groups.append((_SHORT.get(key, key), f"--{name}", [value] if equals else []))
        else:
            groups[-1][2].append(word)
    return [Given(key, values, where) for key, where, values in groups]


def words_of(value: Any) -> list[str] | None:
    """A Python value as the words that would follow its flag."""
    if value is None:
        return None
    items = value if isinstance(value, list | tuple) else [value]
    return [json.dumps(item) if isinstance(item, dict) else str(item) for item in items]


def _read(given: Given, keys: Keys) -> tuple[str, Any, list[str]]:
    """Key (by its new name), value and the words left over of one setting, read by TRL's parser. Raises
    _Fault."""
    key, words = given.key, given.values
    if words == [] and _is_switch(keys.types.get(key)):
        words = ["true"]
    elif words == [] and key.startswith("no_") and _is_switch(keys.types.get(key[3:])):
        key, words = key[3:], ["false"]
    if key not in keys.types:
        raise _Fault(f"unknown setting{hint(key, keys.types)}")
    if words is None or words == ["null"]:
        if NoneType in get_args(keys.types[key]):
            return key, None, []
        raise _Fault("null is no value of it; leave it out to keep the default")
    # `--key=-1e-3`: argparse takes a negative number in a word of its own for a flag.
    command_line = [f"--{key}={words[0]}"] if len(words) == 1 else [f"--{key}", *words]
    try:
        namespace, left_over = keys.parser.parse_known_args(command_line)
    except argparse.ArgumentError as error:
        choices = [str(choice) for choice in keys.parser._option_string_actions[f"--{key}"].choices or ()]
        misspelt = next((word for word in words if word not in choices), "")
        raise _Fault(f"{error.message}{nearest(misspelt, choices)}") from None
    value = getattr(namespace, key)
    if key in _WRITTEN and value and value.startswith("~"):
        try:
            value = str(Path(value).expanduser())
        except RuntimeError:
            raise _Fault(f"{value!r} begins with a home folder that is not known; write it out") from None
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, float) and not math.isfinite(item):
            raise _Fault(f"{item} is not a finite number")
    holds, rule = RANGES.get(key, (lambda _: True, ""))
    if value is not None and not holds(value):
        names = value if key == "rewards" else ()
        misspelt = next((name for name in names if name not in REWARDS and not is_own(name)), "")
        raise _Fault(f"{value!r} {rule}{nearest(misspelt, REWARDS)}")
    if key == "rewards" and (faults := faults_of_own(value)):
        raise _Fault("; ".join(faults))
    return RENAMED.get(key, key), value, left_over


def _is_switch(kind: Any) -> bool:
    return kind in (bool, bool | None)


def _is_switch_of(types: Mapping[str, Any], key: str) -> bool:
    return _is_switch(types.get(key)) or (key.startswith("no_") and _is_switch(types.get(key[3:])))


def _takes_all(kind: Any) -> bool:
    return get_origin(kind) is list


def hint(key: str, known: Iterable[str]) -> str:
    """`; nearest: …` for a key that is not known, also where TRL's scripts call it so; or nothing."""
    return f"; nearest: {_TRL_SCRIPT_NAMES[key]}" if key in _TRL_SCRIPT_NAMES else nearest(key, known)


def read_flags(command: str, flags: list[Given], faults: list[str]) -> dict[str, Any]:
    """What the command line or a caller says to `command`, words without a flag included."""
    values: dict[str, Any] = {}
    loose: list[str] = []
    places = POSITIONAL.get(command, ())
    types = keys_of(command).types
    for given in freed(flags, places, types):
        if given.key == "":
            loose += given.values or []
            continue
        try:
            key, value, left_over = _read(given, keys_of(command))
        except _Fault as fault:
            faults.append(f"{given.where}: {fault}")
        else:
            values[key] = value
            loose += left_over
    if len(places) == 1 and loose and _takes_all(types[places[0]]):
        return {places[0]: loose} | values
    if len(places) == 1 and loose:
        loose = [" ".join(loose)]
    values = dict(zip(places, loose, strict=False)) | values
    faults += [f"{word!r}: belongs to no flag" for word in loose[len(places) :]]
    return values


def freed(flags: list[Given], places: Sequence[str], types: Mapping[str, Any]) -> list[Given]:
    """`flags`, where a word behind a switch of `types` that is not its value stands without a flag, as in
    `prl show --wrong RUN`: if there is one place for such words, and nothing else fills it."""
    takes_all = len(places) == 1 and _takes_all(types[places[0]])
    filled = places if takes_all else ("", *places)
    if len(places) != 1 or any(given.key in filled and given.values for given in flags):
        return flags
    return [
        part
        for given in flags
        for part in (
            [replace(given, values=[]), Given("", given.values, "")]
            if given.where.startswith("-") and _is_switch_of(types, given.key) and _is_no_truth(given)
            else [given]
        )
    ]


def read_recipe(command: str, recipe: str, flagged: Collection[str], faults: list[str]) -> dict[str, Any]:
    """What `recipe` says to `command`, a later part before an earlier one; `flagged` keys are said anew."""
    values: dict[str, Any] = {}
    sections: set[str] = set()
    for part in recipes.parts(recipe):
        settings, form_faults = recipes.read(part)
        faults += form_faults
        values |= _read_part(command, settings, flagged, faults)
        sections |= {given.section for given in settings if given.section}
    if command in TRAINER_CONFIGS and sections and command not in sections:
        faults.append(f"{recipe}: holds no section {command}; add it, or name another recipe")
    return values


def _read_part(
    command: str, settings: list[Given], flagged: Collection[str], faults: list[str]
) -> dict[str, Any]:
    """All of a recipe is checked: a slip in `rl` shows before hours of SFT."""
    common: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for given in settings:
        if not given.section and given.key in recipes.RECORD_KEYS:
            continue
        audience = [given.section] if given.section else [command, *recipes.SECTIONS]
        reader = next((name for name in audience if given.key in keys_of(name).types), None)
        try:
            if given.key == "recipe" or reader is None:
                known = [key for name in audience for key in keys_of(name).types if key != "recipe"]
                known += [] if given.section else recipes.SECTIONS
                raise _Fault(f"unknown setting{hint(given.key, known)}")
            if given.values == []:
                raise _Fault("an empty list is no value of it; leave it out to keep the default")
            code = code_let_in(given)
            if code and given.key == "rewards" and (command != "rl" or "rewards" in flagged):
                continue  # no RL by it, or by what its user says: a run's own config.yaml names them too
            if code:
                raise _Fault(f"a file cannot say whose code to run; take it out, and pass {code} yourself")
            key, value, left_over = _read(given, keys_of(reader))
            if left_over:
                raise _Fault(f"takes one value, not {len(left_over) + 1}")
        except _Fault as fault:
            faults.append(f"{given.where}: {fault}")
            continue
        if reader == command:
            (own if given.section else common)[key] = value
    return common | own


def code_let_in(given: Given) -> str:
    """The flag that a setting amounts to where it lets code of others run, be it a model's (also within a
    dictionary of settings) or a reward's; else nothing."""
    words = given.values or []
    if given.key == "rewards" and any(map(is_own, words)):
        return f"--rewards {' '.join(words)}"
    if given.key == "trust_remote_code":
        trusts = given.values == [] or any(word.lower() not in _NO for word in words)
    else:
        trusts = any("trust_remote_code" in word for word in words)
    return "--trust_remote_code" if trusts else ""


def _is_no_truth(given: Given) -> bool:
    """Whether the word behind a switch is not its value."""
    return bool(given.values) and (given.values or [""])[0].lower() not in (*_YES, *_NO, "null")


_NO = ("false", "no", "n", "f", "0")
_YES = ("true", "yes", "y", "t", "1")

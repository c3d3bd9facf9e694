"""Settings of a command: recipe and flags, checked strictly and completed.

    from prl.config import resolve
    settings = resolve("rl", recipe="tiny", max_steps=3)  # as `prl rl --recipe tiny --max_steps 3`
    settings.arguments.rewards, settings.trainer.learning_rate, settings.chosen["threads"]

Later wins: TRL's default, prl's default, the recipe's common keys, the recipe's section, flags. Training
commands take every field of TRL's config as a flag or recipe key; TRL's own parser reads each value, and all
faults are reported at once. Importing this module imports nothing heavy; resolving does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from prl import recipes
from prl.curriculum import Stage, rewards_of
from prl.errors import RunError, UsageError, nearest
from prl.machine import hardware
from prl.recipes import Given
from prl.rewards import REWARDS, read_pattern
from prl.runs.disk import read_json
from prl.settings import Settings, trainer_flags
from prl.settings.arguments import (
    COMMANDS,
    FORECAST,
    POSITIONAL,
    TRAINER_CONFIGS,
    DoctorArguments,
    PromptStyle,
    RLArguments,
)
from prl.settings.stages import read_stages
from prl.settings.trainer_flags import trainer_class, trainer_defaults

Arguments = TypeVar("Arguments")


def resolve(command: str, *, recipe: str | None = None, **overrides: Any) -> Settings[Any]:
    """The settings of `command` under a recipe, with fields of its dataclass or of TRL's config overridden.

    Chooses what is left open (recipe, attention, device, precision, threads) and sets torch's thread count.
    Raises UsageError with every fault: unknown keys (and the nearest), wrong types and choices, values out of
    range.
    """
    if command not in COMMANDS:
        raise UsageError(f"unknown command {command!r}{nearest(command, COMMANDS)}")
    given = [Given(key, _words(value), key) for key, value in overrides.items()]
    if recipe is not None:
        given.append(Given("recipe", [str(recipe)], "recipe"))
    return _settle(command, given)


def parse(command: str, argv: Iterable[str]) -> Settings[Any]:
    """The settings of `prl COMMAND ARGV...`; see `resolve`."""
    return _settle(command, _flags(argv))


def parse_doctor(argv: Iterable[str]) -> tuple[Settings[DoctorArguments], list[Given]]:
    """The settings of `prl doctor ARGV...`, and the flags that are for the stages it looks at."""
    own = {"", *(item.name for item in fields(DoctorArguments))}
    flags = _flags(argv)
    settings = _settle("doctor", [given for given in flags if given.key in own])
    passed = [given for given in flags if given.key not in own]
    stages = settings.arguments.stage.split()
    faults = [f"{stage!r} is no stage{nearest(stage, FORECAST)}" for stage in stages if stage not in FORECAST]
    for given in passed if not faults else []:
        if not any(knows(stage, given.key) for stage in stages):
            known = [key for stage in stages for key in _keys(stage).types]
            faults.append(f"{given.where}: unknown setting{_hint(given.key, known)}")
    if faults:
        raise UsageError(_report("doctor", faults))
    return settings, passed


def plan(command: str, flags: list[Given], here: hardware.Machine) -> Settings[Any]:
    """What `command` would be set to on `here`, by those of the flags that it knows.

    To be looked at, not to be run: the precision of TRL's config is that of a CPU, because TRL refuses what
    this machine cannot do.
    """
    return _settle(command, [given for given in flags if knows(command, given.key)], here)


def knows(command: str, key: str) -> bool:
    """Whether `command` has a flag of this name."""
    types = _keys(command).types
    return key in types or (key.startswith("no_") and _is_switch(types.get(key[3:])))


def validate(recipe: str) -> list[str]:
    """The commands that a recipe steers, each resolved once with it. Raises UsageError."""
    settings = [given for part in recipes.parts(recipe) for given in recipes.read(part)[0]]
    sections = {given.section for given in settings if given.section} or {*recipes.SECTIONS}
    commands = [name for name in recipes.SECTIONS if name in sections]
    for name in commands:
        resolve(name, recipe=recipe, threads=1)
    return commands


def trainer_help(command: str) -> str:
    """Every flag of the TRL config behind `command`."""
    from trl import TrlParser

    return TrlParser([trainer_class(command)], prog=f"prl {command}").format_help()


@dataclass(frozen=True)
class _Keys:
    """The keys that a command knows: their types, and TRL's parser, which reads a value of each."""

    types: dict[str, Any]
    parser: Any


@cache
def _keys(command: str) -> _Keys:
    from trl import TrlParser

    classes = [COMMANDS[command], *([trainer_class(command)] if command in TRAINER_CONFIGS else [])]
    types = {
        item.name: get_type_hints(cls)[item.name] for cls in classes for item in fields(cls) if item.init
    }
    return _Keys(types, TrlParser(classes, allow_abbrev=False, exit_on_error=False, add_help=False))


# --- Reading: what was written down, key by key

_SHORT = {"model": "model_name_or_path"}
_RENAMED = {f"gradient_checkpointing{rest}": f"activation_checkpointing{rest}" for rest in ("", "_kwargs")}
"""What transformers 5.23 calls otherwise; the old names work there but warn."""
_TRL_SCRIPT_NAMES = {"config": "recipe", "dataset_name": "dataset", "dataset_train_split": "dataset_split"}
"""What TRL's own scripts call it, for the hint."""

WRITTEN = ("output_dir", "output", "accepted", "rejected", "fit", "gguf")
"""Places to write to: `~` is the home folder, which a shell does not see in `--output=~/x` and in recipes."""

_AT_LEAST_ONE = (lambda value: value >= 1, "must be 1 or more")
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **trainer_flags.RANGES,
    "threads": (
        lambda value: value == "auto" or (value.isdecimal() and int(value) >= 1),
        "must be a number or auto",
    ),
    "lora_dropout": (lambda value: 0 <= value < 1, "must be at least 0 and less than 1"),
    "solutions": (lambda value: 2 <= value <= 4, "must be from 2 to 4"),
    "parallel_share": (lambda value: 0 <= value <= 1, "must be from 0 to 1"),
    **dict.fromkeys(
        (
            "samples",
            "sample_count",
            "top_k",
            "max_blocks",
            "probe_samples",
            "top",
            "retries",
            "prompt_price",
            "completion_price",
        ),
        (lambda value: value >= 0, "must be 0 or more"),
    ),
    **dict.fromkeys(
        ("temperature", "memory", "timeout", "max_cost"),
        (lambda value: value > 0, "must be greater than 0"),
    ),
    "rewards": (
        lambda names: 0 < len(names) == len({*names} & {*REWARDS}),
        f"must be of {', '.join(REWARDS)}, each once",
    ),
    "band": (
        lambda band: len(band) == 2 and 0 <= band[0] < band[1] <= 1,
        "must be two shares, the lower one first",
    ),
    "top_p": (lambda value: 0 < value <= 1, "must be greater than 0 and at most 1"),
    "min_p": (lambda value: 0 <= value < 1, "must be at least 0 and less than 1"),
    "paths": (
        lambda value: value == "auto" or (value.isdecimal() and int(value) >= 2),
        "must be a number from 2, or auto",
    ),
    "max_paths": (lambda value: value >= 2, "must be 2 or more"),
    **dict.fromkeys(
        ("lora_r", "lora_alpha", "limit", "eval_limit", "alternate_window", "overlong_buffer"), _AT_LEAST_ONE
    ),
    **dict.fromkeys(
        (
            "max_completion_length",
            "max_path_length",
            "batch_size",
            "rollout_batch_size",
            "bootstrap",
            "seeds",
            "attempts",
            "keep",
            "max_tokens",
            "concurrency",
            "max_requests",
            "max_total_tokens",
            "size",
        ),
        _AT_LEAST_ONE,
    ),
}


class _Fault(Exception):
    """Why one setting cannot be taken."""


def _flags(argv: Iterable[str]) -> list[Given]:
    """A command line grouped by its flags; words before the first flag, and behind `--`, have the key ""."""
    groups: list[tuple[str, str, list[str]]] = [("", "", [])]
    words = iter(argv)
    for word in words:
        if word == "--":
            groups.append(("", "", list(words)))
        elif word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            key = name.replace("-", "_")
            groups.append((_SHORT.get(key, key), f"--{name}", [value] if equals else []))
        else:
            groups[-1][2].append(word)
    return [Given(key, values, where) for key, where, values in groups]


def _words(value: Any) -> list[str] | None:
    """A Python value as the words that would follow its flag."""
    if value is None:
        return None
    items = value if isinstance(value, list | tuple) else [value]
    return [json.dumps(item) if isinstance(item, dict) else str(item) for item in items]


def _read(given: Given, keys: _Keys) -> tuple[str, Any, list[str]]:
    """Key (by its new name), value and the words left over of one setting, read by TRL's parser. Raises
    _Fault."""
    key, words = given.key, given.values
    if words == [] and _is_switch(keys.types.get(key)):
        words = ["true"]
    elif words == [] and key.startswith("no_") and _is_switch(keys.types.get(key[3:])):
        key, words = key[3:], ["false"]
    if key not in keys.types:
        raise _Fault(f"unknown setting{_hint(key, keys.types)}")
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
    if key in WRITTEN and value and value.startswith("~"):
        try:
            value = str(Path(value).expanduser())
        except RuntimeError:
            raise _Fault(f"{value!r} begins with a home folder that is not known; write it out") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise _Fault(f"{value} is not a finite number")
    holds, rule = _RANGES.get(key, (lambda _: True, ""))
    if value is not None and not holds(value):
        misspelt = next((name for name in value if name not in REWARDS), "") if key == "rewards" else ""
        raise _Fault(f"{value!r} {rule}{nearest(misspelt, REWARDS)}")
    return _RENAMED.get(key, key), value, left_over


def _is_switch(kind: Any) -> bool:
    return kind in (bool, bool | None)


def _hint(key: str, known: Iterable[str]) -> str:
    return f"; nearest: {_TRL_SCRIPT_NAMES[key]}" if key in _TRL_SCRIPT_NAMES else nearest(key, known)


def _read_flags(command: str, flags: list[Given], faults: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    loose: list[str] = []
    for given in flags:
        if given.key == "":
            loose += given.values or []
            continue
        try:
            key, value, left_over = _read(given, _keys(command))
        except _Fault as fault:
            faults.append(f"{given.where}: {fault}")
        else:
            values[key] = value
            loose += left_over
    places = POSITIONAL.get(command, ())
    if len(places) == 1 and loose:
        if get_origin(_keys(command).types[places[0]]) is list:
            return {places[0]: loose} | values
        loose = [" ".join(loose)]
    values = dict(zip(places, loose, strict=False)) | values
    faults += [f"{word!r}: belongs to no flag" for word in loose[len(places) :]]
    return values


def _read_recipe(command: str, recipe: str, faults: list[str]) -> dict[str, Any]:
    """What `recipe` says to `command`, a later part before an earlier one."""
    values: dict[str, Any] = {}
    sections: set[str] = set()
    for part in recipes.parts(recipe):
        settings, form_faults = recipes.read(part)
        faults += form_faults
        values |= _read_part(command, settings, faults)
        sections |= {given.section for given in settings if given.section}
    if command in TRAINER_CONFIGS and sections and command not in sections:
        faults.append(f"{recipe}: holds no section {command}; add it, or name another recipe")
    return values


def _read_part(command: str, settings: list[Given], faults: list[str]) -> dict[str, Any]:
    """All of a recipe is checked: a slip in `rl` shows before hours of SFT."""
    common: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for given in settings:
        if not given.section and given.key in recipes.RECORD_KEYS:
            continue
        audience = [given.section] if given.section else [command, *recipes.SECTIONS]
        reader = next((name for name in audience if given.key in _keys(name).types), None)
        try:
            if given.key == "recipe" or reader is None:
                known = [key for name in audience for key in _keys(name).types if key != "recipe"]
                known += [] if given.section else recipes.SECTIONS
                raise _Fault(f"unknown setting{_hint(given.key, known)}")
            if given.values == []:
                raise _Fault("an empty list is no value of it; leave it out to keep the default")
            if _trusts(given):
                raise _Fault(
                    "a file cannot say whose code to run; take it out, and pass --trust_remote_code yourself"
                )
            key, value, left_over = _read(given, _keys(reader))
            if left_over:
                raise _Fault(f"takes one value, not {len(left_over) + 1}")
        except _Fault as fault:
            faults.append(f"{given.where}: {fault}")
            continue
        if reader == command:
            (own if given.section else common)[key] = value
    return common | own


def _trusts(given: Given) -> bool:
    """Whether a setting lets code run that comes with a model, be it within a dictionary of settings."""
    words = given.values or []
    if given.key == "trust_remote_code":
        return any(word.lower() not in ("false", "no", "n", "f", "0") for word in words)
    return any("trust_remote_code" in word for word in words)


# --- Settling: what is left to choose, and what must hold together


_DEFAULTS: dict[str, dict[str, Any]] = {
    name: {"output_dir": f"runs/default/{name}", "logging_steps": 1, "save_total_limit": 2}
    for name in TRAINER_CONFIGS
}
_DEFAULTS["rl"]["disable_dropout"] = True  # else what is scored is not what was sampled
"""Where prl's defaults differ from TRL's; those that follow the device are in `_trainer_precision`."""


def _settle(command: str, flags: list[Given], planned: hardware.Machine | None = None) -> Settings[Any]:
    faults: list[str] = []
    chosen: dict[str, str] = {}
    values = _read_flags(command, flags, faults)
    if command in recipes.SECTIONS:
        here = planned or _machine_asked_for(values)
        flagged, values = values, _layered(command, values, here, chosen, faults)
        _settle_attention(command, values, flagged, chosen)
        _place(command, values, flagged, here, chosen, faults)
        if command in TRAINER_CONFIGS:
            _settle_adapter(values, flagged, chosen)
            settled, defaults = _trainer_precision(values) | values, trainer_defaults(command)
            faults += trainer_flags.faults(command, settled, defaults)
            given = {*flagged, *_own_keys(command, values["recipe"])}
            chosen |= trainer_flags.told(command, settled, defaults, given)
    faults += _contradictions(command, values)
    if values.get("load_in_4bit") and not planned and not trainer_flags.is_installed("bitsandbytes"):
        faults.append(
            "load_in_4bit: bitsandbytes is not installed; `pip install bitsandbytes`, or --load_in_4bit false"
        )
    if faults:
        raise UsageError(_report(command, faults))
    if "threads" in _keys(command).types and not planned:
        values["threads"] = _settle_threads(values.get("threads", "auto"), chosen)
    if command in TRAINER_CONFIGS:
        values = _trainer_precision(values) | values
        if planned:
            values |= {"use_cpu": True, "bf16": False, "fp16": False}
    own = {item.name for item in fields(COMMANDS[command])}
    arguments = COMMANDS[command](**{key: value for key, value in values.items() if key in own})
    trainer_given = {key: value for key, value in values.items() if key not in own}
    trainer = _trainer(command, trainer_given, planned is None) if command in TRAINER_CONFIGS else None
    return Settings(command, arguments, values.get("recipe"), chosen, trainer, trainer_given)


def _machine_asked_for(flagged: dict[str, Any]) -> hardware.Machine:
    if flagged.get("device") == "cpu" or flagged.get("use_cpu"):
        return hardware.Machine("cpu", "CPU", note="the CPU was asked for")
    return hardware.this_machine()


def _layered(
    command: str, flagged: dict[str, Any], here: hardware.Machine, chosen: dict[str, str], faults: list[str]
) -> dict[str, Any]:
    """prl's defaults under the recipe, under the run that the model comes from, under the flags."""
    model = flagged.get("model_name_or_path")
    run = _run_behind(model)
    recipe = flagged.get("recipe")
    if recipe is None or recipes.is_overlay(recipe):
        base, reason = _choose_recipe(here, model, run.get("recipe"))
        recipe = recipes.lay_over(base, recipe) if recipe else base
        chosen["recipe"] = f"{recipe}: {reason}"
    values = _DEFAULTS.get(command, {}) | _read_recipe(command, recipe, faults)
    for key in run.keys() - {"recipe"} - flagged.keys():
        if run[key] != values.get(key, getattr(COMMANDS[command], key)):
            values[key] = run[key]
            chosen[key] = f"{run[key]}: the run {model} was trained with it"
    if "dataset" in flagged and "eval_dataset" not in flagged and values.get("eval_dataset"):
        chosen["eval_dataset"] = f"none: {values.pop('eval_dataset')} goes with the recipe's own dataset"
        if command == "rl" and values.pop("eval_strategy", "no") != "no":
            chosen["eval_strategy"] = "no: there is no set to evaluate on"
    return values | flagged | {"recipe": recipe}


def _own_keys(command: str, recipe: str) -> set[str]:
    """The keys that the user wrote to `command` in the files among the parts of `recipe`. A run's config.yaml
    holds every setting, whoever it is from."""
    own: set[str] = set()
    for part in recipes.parts(recipe):
        settings = [] if recipes.ships(part) else recipes.read(part)[0]
        if not any(given.key == "command" and not given.section for given in settings):
            own |= {given.key for given in settings if given.section in ("", command)}
    return {_RENAMED.get(key, key) for key in own}


def _settle_attention(
    command: str, values: dict[str, Any], flagged: dict[str, Any], chosen: dict[str, str]
) -> None:
    """What the model was trained with, but for a flag that says otherwise (loading it will refuse that)."""
    if flagged.get("attention", "auto") != "auto":
        return
    from prl.model import attention_of

    model = values.get("model_name_or_path", "tiny")
    try:
        trained, is_there = attention_of(model), True
    except RunError:  # loading it says what is wrong, with the next step
        trained, is_there = None, False
    if trained:
        values["attention"] = trained
        chosen["attention"] = f"{trained}: {model} was trained with it"
    elif values.get("attention", "auto") == "auto":
        values["attention"] = "causal"
        if is_there:
            # Where nothing trains the tags, nothing would fork.
            too = ", and --attention structured is possible too" if command == "sft" else ""
            chosen["attention"] = f"causal: {model} is a base model{too}"


def _settle_adapter(values: dict[str, Any], flagged: dict[str, Any], chosen: dict[str, str]) -> None:
    """Shape, layers and dropout of an adapter that is trained on: its own, whatever the settings say."""
    from prl.runs import adapter_dir

    model, adapter = values.get("model_name_or_path", "tiny"), None
    with contextlib.suppress(RunError):  # loading it says what is wrong, with the next step
        adapter = adapter_dir(model)
    said = read_json(adapter / "adapter_config.json") if adapter else {}
    for key, name in (("lora_r", "r"), ("lora_alpha", "lora_alpha"), ("lora_dropout", "lora_dropout")):
        if isinstance(said.get(name), int | float):
            if flagged.get(key, said[name]) != said[name]:
                chosen[key] = f"{said[name]:g}: the adapter of {model} goes on as it is"
            values[key] = said[name]
    targets = said.get("target_modules")
    if targets and isinstance(targets, str | list):  # a pattern, or names
        own = sorted({targets} if isinstance(targets, str) else map(str, targets))
        if set(flagged.get("lora_target_modules", own)) != set(own):
            chosen["lora_target_modules"] = f"{' '.join(own)}: the adapter of {model} goes on as it is"
        values["lora_target_modules"] = own


def _place(
    command: str,
    values: dict[str, Any],
    flagged: dict[str, Any],
    here: hardware.Machine,
    chosen: dict[str, str],
    faults: list[str],
) -> None:
    """Settle device, precision, 4-bit weights and the rehearsal in `values`."""
    if values.get("use_cpu"):
        values["device"] = "cpu"
    device = values.setdefault("device", "auto")
    if device == "auto":
        device = values["device"] = here.device
        chosen["device"] = f"{device}: {here.note or here.name}"
    elif device == "cuda" and here.device != "cuda":
        faults.append(f"device cuda: {here.note}; --device cpu computes without it")
    elif device == "mps" and not hardware.has_mps():
        faults.append("device mps: torch finds no Apple GPU; --device cpu computes without it")
    if values.get("dtype", "auto") == "auto":
        values["dtype"], reason = _choose_dtype(values, here)
        chosen["dtype"] = f"{values['dtype']}: {reason}"
    if values.get("rehearse") == "auto" or (command in TRAINER_CONFIGS and "rehearse" not in values):
        values["rehearse"] = "on" if device == "cuda" else "off"
        chosen["rehearse"] = (
            "on: a longest step that does not fit fails now rather than in the night"
            if device == "cuda"
            else "off: a CPU swaps where a GPU fails; --rehearse on takes the longest step first all the same"
        )
    if device == "cpu" and values.get("load_in_4bit") and "load_in_4bit" not in flagged:
        values["load_in_4bit"] = False
        chosen["load_in_4bit"] = "off: it saves GPU memory and costs time on a CPU; --load_in_4bit keeps it"


def _trainer_precision(values: dict[str, Any]) -> dict[str, Any]:
    """The trainer's settings that follow from device and dtype."""
    on_cpu = values["device"] == "cpu"
    return {
        "use_cpu": on_cpu,
        "activation_checkpointing": not on_cpu,  # memory for a third more time; a CPU has the memory
        "bf16": values["dtype"] == "bfloat16",  # TRL's default is bf16 everywhere, which a CPU refuses
        "fp16": values["dtype"] == "float16",
    }


def _trainer(command: str, given: dict[str, Any], to_run: bool) -> Any:
    try:
        trainer = trainer_class(command)(**given)
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        raise UsageError(f"TRL refuses these settings: {' '.join(str(error).split())}") from error
    try:
        if to_run:
            trainer_flags.try_schedule(trainer)
    except (ValueError, TypeError, NotImplementedError, ImportError, RuntimeError) as error:
        raise UsageError(
            f"transformers cannot train with optim {trainer.optim.value} and lr_scheduler_type "
            f"{trainer.lr_scheduler_type.value}: {' '.join(str(error).split())}; what they need goes into "
            "--optim_args and --lr_scheduler_kwargs"
        ) from error
    return trainer


def _choose_recipe(here: hardware.Machine, model: str | None, of_run: str | None) -> tuple[str, str]:
    if of_run and recipes.ships(of_run):
        return of_run, f"the run {model} was trained with it"
    if model == "tiny":
        return "tiny", "it goes with the model that ships"
    name, reason = hardware.choose_recipe(here)
    if name == "tiny" and model is not None:
        name, reason = "6gb", f"{reason}; the settings of tiny suit only the model that ships"
    if of_run:
        reason += f"; {model} was trained with a recipe of its own, which --recipe {of_run!r} takes"
    return name, reason


def _choose_dtype(values: dict[str, Any], here: hardware.Machine) -> tuple[str, str]:
    for flag, dtype in (("bf16", "bfloat16"), ("fp16", "float16")):
        if values.get(flag):
            return dtype, f"{flag} is on"
    if values.get("bf16") is False:
        return "float32", "bf16 is off"
    return hardware.choose_dtype(here, values["device"])


def _settle_threads(threads: str, chosen: dict[str, str]) -> str:
    """Set torch's thread count, before any heavy work."""
    if threads == "auto":
        count, reason = hardware.choose_threads()
        chosen["threads"] = f"{count}: {reason}"
        return str(count)
    import torch

    torch.set_num_threads(int(threads))
    return threads


def _run_behind(model: str | None) -> dict[str, str]:
    """Recipe, prompt style and number of paths of the run that wrote `model` (the run, an adapter or
    checkpoint in it, or what it was merged into).

    The folder may come from anyone. So nothing else is read from it, and a recipe is a name here: only one
    that ships is ever opened.
    """
    if model is None:
        return {}
    here = Path(model).expanduser()
    said: dict[str, Any] = read_json(here / "prl.json")
    with contextlib.suppress(PermissionError):  # loading it says what is wrong
        for folder in (here, here.parent):
            if (folder / "environment.json").is_file() and (folder / "config.yaml").is_file():
                settings, _ = recipes.read(str(folder / "config.yaml"))
                said = {item.key: item.values[0] for item in settings if item.values}
                break
    holds: dict[str, Callable[[str], bool]] = {
        "recipe": lambda value: bool(value),
        "prompt_style": lambda value: value in get_args(PromptStyle),
        "paths": _RANGES["paths"][0],
    }
    return {key: said[key] for key in holds if isinstance(said.get(key), str) and holds[key](said[key])}


_REQUIRED = {
    "merge": ("model_name_or_path", "output_dir"),
    "compare": ("first", "second"),
    "rewards replay": ("run",),
    "data traces": ("problems",),
    "data check": ("file",),
    "data stats": ("file",),
    "data show": ("file",),
    "data mix": ("sets",),
    "data push": ("folder", "repo"),
}


def _contradictions(command: str, values: dict[str, Any]) -> list[str]:
    faults = []
    faults += [f"--{key} is missing" for key in _REQUIRED.get(command, ()) if not values.get(key)]
    rewards, weights = values.get("rewards", ["accuracy"]), values.get("reward_weights")
    if command == "rl":
        rewards = _curriculum(values, rewards, faults)
    if weights is not None and command == "rl" and len(weights) != len(rewards):
        faults.append(
            f"reward_weights holds {len(weights)} numbers for the {len(rewards)} rewards {', '.join(rewards)}"
        )
    if (
        values.get("attention") == "structured"
        and values.get("packing_strategy") == "wrapped"
        and (values.get("packing") or values.get("eval_packing"))
    ):
        faults.append(
            "packing_strategy wrapped cuts traces anywhere, structured attention wants them whole; use bfd"
        )
    if values.get("samples") == 0 and command == "data traces":
        faults.append("samples 0 asks a teacher for nothing; take 1 or more")
    elif values.get("samples") == 0 and not values.get("greedy", command == "eval"):
        faults.append("samples 0 without greedy leaves nothing to decode; take 1 or more, or --greedy")
    if (most := values.get("max_cost")) is not None and not any(
        values.get(price) for price in ("prompt_price", "completion_price")
    ):
        faults.append(
            f"max_cost {most:g} limits nothing where tokens cost nothing; give --prompt_price or "
            "--completion_price, for a million tokens"
        )
    return faults


def _curriculum(values: dict[str, Any], rewards: list[str], faults: list[str]) -> list[str]:
    """All rewards that some stage pays; adds what is wrong with stages and windows to `faults`."""
    items = []
    for stage in values.get("stages") or []:
        try:
            items.append(json.loads(stage))
        except ValueError:
            faults.append(f'stages: {stage!r} is no JSON object, such as {{"name": "rl-easy"}}')
    stages: tuple[Stage, ...] = ()
    if values.get("stages"):
        stages, stage_faults = read_stages(items, max_steps=values.get("max_steps", -1), rewards=REWARDS)
        faults += stage_faults
    paid = rewards_of(stages, rewards)
    if "alternating" in paid:
        default = RLArguments()
        faults += read_pattern(
            values.get("alternate", default.alternate),
            values.get("alternate_window", default.alternate_window),
        )[1]
    if stages and (values.get("levels") or values.get("sampling") == "adaptive"):
        faults.append("levels and sampling: with stages, each stage has its own; write them there")
    is_adaptive = "adaptive" in (values.get("sampling"), *(stage.sampling for stage in stages))
    if values.get("probe_samples") and not is_adaptive:
        faults.append("probe_samples: only adaptive sampling uses pass rates; add --sampling adaptive")
    longest, buffer = values.get("max_completion_length") or 0, values.get("overlong_buffer") or 0
    if "overlong" in paid and buffer > longest:
        faults.append(f"overlong_buffer {buffer} is longer than max_completion_length {longest}; take less")
    if any(stage.dataset == "easy" for stage in stages) and not values.get("easy_dataset"):
        faults.append("stages: dataset easy is what --easy_dataset names; it names none")
    return paid


def _report(command: str, faults: list[str]) -> str:
    help_line = f"`prl {command} --help` lists the flags"
    if len(faults) == 1:
        return f"{faults[0]}; {help_line}"
    return "\n  ".join([f"{len(faults)} faults in the settings; {help_line}", *faults])

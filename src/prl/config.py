"""Settings of a command: recipe and flags, checked strictly and completed.

    from prl.config import resolve
    settings = resolve("rl", recipe="tiny", max_steps=3)  # as `prl rl --recipe tiny --max_steps 3`
    settings.arguments.rewards, settings.trainer.learning_rate, settings.chosen["threads"]

Later wins: TRL's default, prl's default, the recipe's common keys, the recipe's section, flags. Training
commands take every field of TRL's config as a flag or recipe key; TRL's own parser reads each value, and all
faults are reported at once. Importing this module imports nothing heavy; resolving does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from prl import recipes
from prl.errors import PrlError, RunError, UsageError, nearest
from prl.machine import hardware
from prl.machine.choosing import choose_recipe, machine_asked_for, place, settle_threads, trainer_precision
from prl.recipes import Given
from prl.runs import SHIPPED
from prl.runs.disk import read_json
from prl.settings import Settings, trainer_flags
from prl.settings.arguments import COMMANDS, FORECAST, POSITIONAL, TRAINER_CONFIGS, DoctorArguments
from prl.settings.clashes import contradictions, trainer_faults
from prl.settings.flags import PromptStyle
from prl.settings.ranges import RANGES
from prl.settings.reading import RENAMED, flags_of, freed, hint, keys_of, read_flags, read_recipe, words_of
from prl.settings.reading import knows as knows
from prl.settings.trainer_flags import trainer_class, trainer_defaults
from prl.settings.trainer_flags import trainer_help as trainer_help


def resolve(command: str, *, recipe: str | None = None, **overrides: Any) -> Settings[Any]:
    """The settings of `command` under a recipe, with fields of its dataclass or of TRL's config overridden.

    Chooses what is left open (recipe, attention, device, precision, threads) and sets torch's thread count.
    Raises UsageError with every fault: unknown keys (and the nearest), wrong types and choices, values out of
    range.
    """
    if command not in COMMANDS:
        raise UsageError(f"unknown command {command!r}{nearest(command, COMMANDS)}")
    given = [Given(key, words_of(value), key) for key, value in overrides.items()]
    if recipe is not None:
        given.append(Given("recipe", [str(recipe)], "recipe"))
    return _settle(command, given)


def parse(command: str, argv: Iterable[str]) -> Settings[Any]:
    """The settings of `prl COMMAND ARGV...`; see `resolve`."""
    return _settle(command, flags_of(argv))


def again(settings: Settings[Any], **others: Any) -> Settings[Any]:
    """What the same flags settle to with `others` in place of some of them. Raises UsageError."""
    kept = [given for given in settings.given if given.key not in others]
    return _settle(
        settings.command, [*kept, *(Given(key, words_of(value), key) for key, value in others.items())]
    )


def parse_doctor(argv: Iterable[str]) -> tuple[Settings[DoctorArguments], list[Given]]:
    """The settings of `prl doctor ARGV...`, and the flags that are for the commands it looks at."""
    own = {"", *(item.name for item in fields(DoctorArguments))}
    types = {key: kind for name in ("doctor", *FORECAST) for key, kind in keys_of(name).types.items()}
    flags = freed(flags_of(argv), POSITIONAL["doctor"], types)
    settings = _settle("doctor", [given for given in flags if given.key in own])
    passed = [given for given in flags if given.key not in own]
    commands = settings.arguments.stage.split()
    faults = [f"{name!r} is no stage{nearest(name, FORECAST)}" for name in commands if name not in FORECAST]
    for given in passed if not faults else []:
        if not any(knows(name, given.key) for name in commands):
            known = [key for name in commands for key in keys_of(name).types]
            faults.append(f"{given.where}: unknown setting{hint(given.key, known)}")
    if faults:
        raise UsageError(_report("doctor", faults))
    return settings, passed


def plan(command: str, flags: list[Given], here: hardware.Machine) -> Settings[Any]:
    """What `command` would be set to on `here`, by those of the flags that it knows.

    To be looked at, not to be run: the precision of TRL's config is that of a CPU, because TRL refuses what
    this machine cannot do.
    """
    return _settle(command, [given for given in flags if knows(command, given.key)], here)


def validate(recipe: str) -> list[str]:
    """The commands that a recipe steers, each resolved once with it. Raises UsageError."""
    settings = [given for part in recipes.parts(recipe) for given in recipes.read(part)[0]]
    sections = {given.section for given in settings if given.section} or {*recipes.SECTIONS}
    commands = [name for name in recipes.SECTIONS if name in sections]
    for name in commands:
        resolve(name, recipe=recipe, threads=1)
    return commands


# --- Settling: what is left to choose, and what must hold together


_DEFAULTS: dict[str, dict[str, Any]] = {
    name: {"output_dir": f"runs/default/{name}", "logging_steps": 1, "save_total_limit": 2}
    for name in TRAINER_CONFIGS
}
_DEFAULTS["rl"]["disable_dropout"] = True  # else what is scored is not what was sampled
"""Where prl's defaults differ from TRL's; those that follow the device are in `trainer_precision`."""


def _settle(command: str, flags: list[Given], planned: hardware.Machine | None = None) -> Settings[Any]:
    faults: list[str] = []
    chosen: dict[str, str] = {}
    values = read_flags(command, flags, faults)
    if command in recipes.SECTIONS:
        here = planned or machine_asked_for(values)
        flagged, values = values, _layered(command, values, here, chosen, faults)
        _settle_attention(command, values, flagged, chosen)
        _settle_path_opening(values, flagged, chosen)
        place(command, values, flagged, here, chosen, faults)
        given = {*flagged, *_own_keys(command, values["recipe"])}
        if command in TRAINER_CONFIGS:
            _settle_adapter(values, flagged, chosen)
            settled, defaults = trainer_precision(values) | values, trainer_defaults(command)
            faults += trainer_faults(command, settled, defaults)
            chosen |= trainer_flags.told(command, settled, defaults, given)
        else:
            chosen |= trainer_flags.told_of_asking(command, values, given)
    faults += contradictions(command, values)
    if values.get("load_in_4bit") and not planned and not trainer_flags.is_installed("bitsandbytes"):
        faults.append(
            "load_in_4bit: bitsandbytes is not installed; `pip install bitsandbytes`, or --load_in_4bit false"
        )
    if faults:
        raise UsageError(_report(command, faults))
    if "threads" in keys_of(command).types and not planned:
        values["threads"] = settle_threads(values.get("threads", "auto"), chosen)
    if command in TRAINER_CONFIGS:
        values = trainer_precision(values) | values
        if planned:
            values |= {"use_cpu": True, "bf16": False, "fp16": False}
    own = {item.name for item in fields(COMMANDS[command])}
    arguments = COMMANDS[command](**{key: value for key, value in values.items() if key in own})
    trainer_given = {key: value for key, value in values.items() if key not in own}
    trainer = _trainer(command, trainer_given, planned is None) if command in TRAINER_CONFIGS else None
    return Settings(command, arguments, values.get("recipe"), chosen, trainer, trainer_given, tuple(flags))


def _layered(
    command: str, flagged: dict[str, Any], here: hardware.Machine, chosen: dict[str, str], faults: list[str]
) -> dict[str, Any]:
    """prl's defaults under the recipe, under the run that the model comes from, under the flags."""
    model = flagged.get("model_name_or_path")
    run = _run_behind(model)
    recipe = flagged.get("recipe")
    if recipe is None or recipes.is_overlay(recipe):
        base, reason = choose_recipe(here, model, run.get("recipe"))
        recipe = recipes.lay_over(base, recipe) if recipe else base
        chosen["recipe"] = f"{recipe}: {reason}"
    values = _DEFAULTS.get(command, {}) | read_recipe(command, recipe, flagged, faults)
    own = {item.name for item in fields(COMMANDS[command])}
    for key in (run.keys() & own) - {"recipe"} - flagged.keys():
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
    return {RENAMED.get(key, key) for key in own}


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


def _settle_path_opening(values: dict[str, Any], flagged: dict[str, Any], chosen: dict[str, str]) -> None:
    """What the model was trained with, but for a flag that says otherwise (loading it will refuse that)."""
    if flagged.get("path_opening", "auto") != "auto":
        return
    from prl.model import path_opening_of

    model, trained = values.get("model_name_or_path", "tiny"), None
    with contextlib.suppress(PrlError):  # loading it says what is wrong, with the next step
        trained = path_opening_of(model)
    if trained or values.get("path_opening", "auto") == "auto":
        values["path_opening"] = trained or "none"
    if values["path_opening"] != "none" and trained:
        chosen["path_opening"] = f"{trained}: {model} was trained with it"


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


def _run_behind(model: str | None) -> dict[str, Any]:
    """Recipe, prompt style, number of paths and the most of them of the run that wrote `model` (the run, an
    adapter or checkpoint in it, or what it was merged into).

    The folder may come from anyone. So nothing else is read from it, and a recipe is a name here: only one
    that ships is ever opened.
    """
    if model is None or model in SHIPPED:
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
        "paths": RANGES["paths"][0],
        "max_paths": lambda value: value.isdecimal() and RANGES["max_paths"][0](int(value)),
    }
    found: dict[str, Any] = {
        key: said[key] for key in holds if isinstance(said.get(key), str) and holds[key](said[key])
    }
    return found | ({"max_paths": int(found["max_paths"])} if "max_paths" in found else {})


def _report(command: str, faults: list[str]) -> str:
    help_line = f"`prl {command} --help` lists the flags"
    if len(faults) == 1:
        return f"{faults[0]}; {help_line}"
    return "\n  ".join([f"{len(faults)} faults in the settings; {help_line}", *faults])

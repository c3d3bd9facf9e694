"""Where an adapter lies, and the base that it belongs to: what `--model_name_or_path` may name."""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path

from prl.errors import RunError
from prl.runs.checkpoints import last_checkpoint
from prl.runs.disk import read_json
from prl.runs.reading import contents, listed, looking_into, nearest_run, read_environment

log = logging.getLogger(__name__)

SHIPPED = ("tiny", "tiny-search")
"""Models that come with prl (`prl.tiny`). Such a name is never a folder of the user's; `./tiny` is one."""

WEIGHTS = "adapter_model.safetensors"
"""Where an adapter has its weights (PEFT's name)."""


def adapter_dir(model: str | os.PathLike[str]) -> Path | None:
    """The adapter that `--model_name_or_path` points to; None for a base, be it a Hub name, a local model or
    one of `SHIPPED`.

    A run folder stands for its `adapter/`, an adapter folder (also a run's checkpoint) for itself.
    Raises RunError: the run has no adapter yet, the adapter has no safetensors, the folder holds neither
    run, adapter nor model, or may not be looked into.
    """
    if model in SHIPPED:
        return None
    folder = Path(model).expanduser()
    with looking_into(folder):
        if not folder.is_dir():
            _check_is_hub_name(folder, str(model))
            return None
        if _is_adapter(folder):
            return folder
        if (folder / "environment.json").exists():
            return _adapter_of_run(folder)
        if (folder / "config.json").exists():
            return None
        held = listed(contents(folder))
    raise RunError(
        f"{folder} is no run (environment.json), adapter (adapter_config.json and weights) or model "
        f"(config.json): it holds {held}. Point --model_name_or_path at one of these"
    )


def lies_in(model: str | os.PathLike[str], folder: Path) -> bool:
    """Whether the folder that a model names, or the adapter of the run that it names, is `folder` or lies in
    it; by its path, or by where links lead. One of `SHIPPED` lies nowhere."""
    if model in SHIPPED:
        return False
    path, within = Path(model).expanduser(), folder.resolve()
    with looking_into(path):
        found = [place for place in (path, path / "adapter") if place.is_dir()]
        places = [each for place in found for each in (place.resolve(), place.parent.resolve() / place.name)]
    return any(place.is_relative_to(within) for place in places)


def base_of_adapter(adapter: str | os.PathLike[str]) -> str:
    """The Hub name or path of the model that an adapter was trained on.

    A path that is not there from here is looked for with `base_nearby`, and said. RunError where the adapter
    names none, or a path that is in none of these places.
    """
    path = Path(adapter) / "adapter_config.json"
    base = read_json(path).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise RunError(f"{path} has no base_model_name_or_path: write it in, or train the adapter again")
    if not _is_path(base) or Path(base).expanduser().is_dir():
        return base
    if found := base_nearby(adapter, base):
        _say_once(f"{path} names the base {base!r}, which is not there; {found} is taken")
        return str(found)
    raise RunError(
        f"{path} names the base {base!r}: there is no such folder, nor {Path(base).name} beside the adapter "
        "or its run. Write where it is as base_model_name_or_path"
    )


def base_nearby(adapter: str | os.PathLike[str], base: str) -> Path | None:
    """The folder of a model that the path `base` may mean: seen from a folder above the adapter, which may
    have been where it was trained, or by its last part beside adapter or run, since both may have moved."""
    named, above = Path(base).expanduser(), Path(adapter).absolute().parents
    places = [folder / named for folder in above if not named.is_absolute()]
    places += [folder / named.name for folder in (Path(adapter), *above[:2])]
    return next((place for place in places if (place / "config.json").is_file()), None)


def _is_adapter(folder: Path) -> bool:
    """Raises RunError where the configuration of one is there and its weights are not."""
    if not (folder / "adapter_config.json").exists():
        return False
    if (folder / WEIGHTS).exists():
        return True
    if (folder / "adapter_model.bin").exists():
        raise RunError(
            f"{folder} has its weights in adapter_model.bin, a pickle, which may run code when it is read; "
            f"prl reads {WEIGHTS} alone: save the adapter again with PEFT, which writes that"
        )
    raise RunError(
        f"{folder} has adapter_config.json and no {WEIGHTS}: the weights of the adapter are missing; copy "
        "them there, or train it again"
    )


def _adapter_of_run(folder: Path) -> Path:
    adapter = folder / "adapter"
    if ((folder / "DONE").exists() or (adapter / WEIGHTS).exists()) and _is_adapter(adapter):
        return adapter
    command = read_environment(folder).get("command", "unknown")
    if (folder / "DONE").exists():
        raise RunError(f"{folder} is a finished {command} run without an adapter: name one of sft or rl")
    checkpoint = last_checkpoint(folder)
    rest = "it has no checkpoint yet: let it finish, or start it again"
    if checkpoint:
        rest = f"it has {checkpoint.name}: finish it with --resume, or pass {checkpoint}"
    raise RunError(f"{folder} is a {command} run that is not finished; {rest}")


def _check_is_hub_name(folder: Path, name: str) -> None:
    if folder.exists():
        raise RunError(f"{name} is a file: --model_name_or_path takes a Hub name or a folder")
    hint = nearest_run(folder)
    if _is_path(name) or ("/" in name and hint):
        raise RunError(f"{name}: no such folder.{hint} Name a Hub model, or the folder of a model or run")


def _is_path(name: str) -> bool:
    """Whether it cannot be a Hub name, OWNER/NAME."""
    return name.startswith((".", "~")) or Path(name).is_absolute() or "\\" in name or name.count("/") > 1


@functools.cache
def _say_once(line: str) -> None:
    log.warning("%s", line)

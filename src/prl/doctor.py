"""`prl doctor`: what this machine offers, how much memory each command will take, and what to change.

    prl doctor                                            this machine, and the recipe that suits it
    prl doctor rl --recipe 8gb --memory 8                 before there is a card
    prl doctor --recipe 16gb --memory 8 --fit mine.yaml   a recipe that fits

No weights are read: `config.json` says what a model weighs, `prl.machine.memory` the rest.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prl import config, recipes
from prl.errors import RunError, UsageError
from prl.machine import hardware
from prl.machine.fitting import Change, changes, command_of, flags_of, merged, merges
from prl.machine.hardware import Machine
from prl.machine.load import load_of
from prl.machine.memory import GIB, Forecast, forecast
from prl.machine.shape import read_shape
from prl.recipes import Given
from prl.runs.disk import check_replaceable, replacing
from prl.settings import Settings
from prl.settings.arguments import FORECAST, DoctorArguments
from prl.settings.reading import code_let_in

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "vllm")

_QUANTISE = """
import sys, torch, bitsandbytes
bitsandbytes.functional.quantize_4bit(torch.ones(64, 64, device=sys.argv[1]), quant_type="nf4")
"""
_PATIENCE = 60.0  # seconds; a first import from a slow disk


@dataclass(frozen=True)
class Diagnosis:
    """A command, the forecast for its settings, and what to change where `available` bytes are too few."""

    settings: Settings[Any]
    forecast: Forecast
    available: int
    changes: list[Change]

    @property
    def fits(self) -> bool:
        """As it is set."""
        return self.forecast.peak <= self.available

    @property
    def can_fit(self) -> bool:
        """As it is set, or with all changes."""
        return self.fits or bool(self.changes and self.changes[-1].peak <= self.available)


def run(settings: Settings[DoctorArguments], flags: Sequence[Given]) -> list[Diagnosis]:
    """Look at the machine and at every command asked for, say it, and write the recipe that fits if one is
    wanted.

    `flags` are for the commands (`prl.config.parse_doctor`). Raises UsageError where settings are wrong,
    ModelError where the model's config.json cannot be read or is of no known type, RunError where a command
    does not fit; with `fit` only where no setting makes it.
    """
    given = settings.arguments
    if given.fit:
        check_replaceable(Path(given.fit), "--fit")
        if Path(given.fit).exists():
            raise UsageError(f"{given.fit} exists; name another file")
    here = hardware.this_machine()
    bitsandbytes = _try_bitsandbytes(here.device)
    planned = here
    if given.memory is not None:
        name = f"a GPU with {given.memory:g} GiB free"
        planned = Machine("cuda", name, given.memory, given.memory, has_bfloat16=True)
    try:
        found = examine(given, flags, planned)
    except BaseException:
        if bitsandbytes:
            bitsandbytes.kill()
            bitsandbytes.communicate()
        raise
    for name, fact in facts(here, found[0].settings.output_dir or ".", bitsandbytes):
        print(f"{name:14}{fact}")
    if chosen := found[0].settings.chosen.get("recipe"):
        print(f"{'recipe':14}{chosen}")
    for diagnosis in found:
        print("", *report(diagnosis), sep="\n")
    if given.fit:
        _fit(given, flags, planned, Path(given.fit))
    elif misfits := [each for each in found if not each.fits]:
        stages = " and ".join(each.settings.command for each in misfits)
        can_fit = all(each.can_fit for each in misfits)
        rest = "change it as told above, or let --fit FILE write a recipe" if can_fit else "take a larger GPU"
        raise RunError(f"{stages} will not fit {planned.name}: {rest}")
    return found


def examine(given: DoctorArguments, flags: Sequence[Given], planned: Machine) -> list[Diagnosis]:
    """Each command asked for, on `planned`. An evaluation is one of what would be trained."""
    is_cuda = planned.device == "cuda"
    available = int(planned.free_gib * GIB) if is_cuda else hardware.usable_memory(planned.device)
    named = [(key, getattr(given, key)) for key in ("recipe", "model_name_or_path")]
    given_flags = [Given(key, [value], f"--{key}") for key, value in named if value is not None] + [*flags]
    asked = given.stage.split()
    return [_diagnose(command, given_flags, planned, available) for command in FORECAST if command in asked]


def _diagnose(command: str, flags: list[Given], planned: Machine, available: int) -> Diagnosis:
    settings = config.plan(command, flags, planned)
    shape, load = read_shape(settings.arguments.model_name_or_path), load_of(settings)
    if not load.lora_r:
        trained = load_of(config.plan("rl", flags, planned))
        load = replace(load, lora_r=trained.lora_r, targets=trained.targets)
    now = forecast(shape, load)
    return Diagnosis(settings, now, available, changes(shape, load, available))


def facts(
    here: Machine, output_dir: str, bitsandbytes: subprocess.Popen[str] | None
) -> Iterator[tuple[str, str]]:
    """What the machine offers, as name and text."""
    import psutil
    import torch

    yield "GPU", here.note or f"{here.name}, {here.free_gib:.1f} of {here.total_gib:.1f} GiB free"
    if here.device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        flash = "yes" if major >= 8 else f"no: compute capability {major}.{minor}, it needs 8.0"
        yield "bfloat16", "yes" if here.has_bfloat16 else "only emulated; float16 is used"
        yield "flash", f"{flash} (in torch, causal attention only)"
    memory = psutil.virtual_memory()
    ours = hardware.group_free()
    group = f", {ours / GIB:.1f} in this container" if ours is not None and ours < memory.available else ""
    yield "RAM", f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free{group}"
    folder = Path(output_dir).expanduser().absolute()
    folder = next(each for each in (folder, *folder.parents) if each.is_dir())
    yield "disk", f"{shutil.disk_usage(folder).free / GIB:.1f} GiB free for {output_dir}"
    threads = os.environ.get("OMP_NUM_THREADS")
    yield "threads", f"{os.cpu_count()} cores" + (f", OMP_NUM_THREADS is {threads}" if threads else "")
    yield "Python", platform.python_version()
    yield "libraries", ", ".join(_versions())
    yield "4-bit weights", _verdict(bitsandbytes)


def _versions() -> Iterator[str]:
    for library in LIBRARIES:
        try:
            yield f"{library} {importlib.metadata.version(library)}"
        except importlib.metadata.PackageNotFoundError:
            continue


def _try_bitsandbytes(device: str) -> subprocess.Popen[str] | None:
    """Begin to quantise a matrix in a process of its own: a library built for another CUDA may take its
    process with it. None where it is not installed."""
    if "bitsandbytes" not in {distribution.name for distribution in importlib.metadata.distributions()}:
        return None
    words = [sys.executable, "-c", _QUANTISE, device]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _verdict(bitsandbytes: subprocess.Popen[str] | None) -> str:
    if bitsandbytes is None:
        return "no: bitsandbytes is not installed"
    try:
        _, said = bitsandbytes.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        bitsandbytes.kill()
        bitsandbytes.communicate()
        return f"no: bitsandbytes did not answer within {_PATIENCE:.0f} s"
    if bitsandbytes.returncode:
        reason = (said.strip() or f"it ended with status {bitsandbytes.returncode}").splitlines()[-1]
        return f"no: {reason}"
    return "yes"


def report(diagnosis: Diagnosis) -> Iterator[str]:
    """Lines: verdict, items of the peak and of the other phases, and what to change."""
    now, settings = diagnosis.forecast, diagnosis.settings
    given = settings.arguments
    yield (
        f"{settings.command}: {given.model_name_or_path}, recipe {settings.recipe}, {given.attention}: "
        f"{now.peak / GIB:.2f} GiB at the {now.at}, {diagnosis.available / GIB:.2f} are free: "
        f"{'fits' if diagnosis.fits else 'does not fit'}"
    )
    for item in now.items:
        apart = "" if item.phase in ("static", now.at) else f", {item.phase}: not at the peak"
        yield f"  {item.name:16}{_size(item.bytes)}  {item.note}{apart}".rstrip()
    if settings.command == "rl" and (told := merges(settings, diagnosis.available)[1]):
        yield f"  rollout weights {told}"
    for number, change in enumerate(diagnosis.changes, 1):
        yield f"  {number}. {flags_of(change.flags)}: {change.peak / GIB:.2f} GiB; {change.why}"
    if diagnosis.changes:
        yield f"  {command_of(settings, diagnosis.changes)}"
    elif not diagnosis.fits:
        yield "  no setting makes it smaller"


def _size(count: int) -> str:
    return f"{count / GIB:8.2f} GiB" if count >= GIB / 10 else f"{count * 1024 / GIB:8.2f} MiB"


# --- A recipe that fits

_OF_ONE_RUN = ("output_dir", "resume", "overwrite_output_dir")


def _fit(given: DoctorArguments, flags: Sequence[Given], planned: Machine, file: Path) -> None:
    """Write what `examine` finds, with the changes; all commands share the model."""
    wanted = replace(given, stage=" ".join(FORECAST))
    found = examine(wanted, flags, planned)
    while models := [m for each in found if (m := merged(each.changes).get("model_name_or_path"))]:
        sizes = {model: read_shape(model).parameters for model in models}
        wanted = replace(wanted, model_name_or_path=min(sizes, key=lambda model: sizes[model]))
        found = examine(wanted, flags, planned)
    if misfits := [each.settings.command for each in found if not each.can_fit]:
        raise RunError(f"no setting makes {' and '.join(misfits)} fit {planned.name}: take a larger GPU")
    text = recipe_that_fits(found, flags, planned, wanted.model_name_or_path)
    with replacing(file, "--fit") as target:
        target.write(text.encode())
        target.flush()
        config.validate(target.name)  # before it has its name: a file that is there is refused the next time
    print(f"\n{file}: fits; `prl sft --recipe {file}`, and the later commands the same way")


def recipe_that_fits(
    found: Sequence[Diagnosis], flags: Sequence[Given], planned: Machine, model: str | None
) -> str:
    """The recipe behind `found`, all its parts put together, with `flags` and the changes in; but nothing of
    where a run is written."""
    recipe = str(found[0].settings.recipe)
    lines = [f"# {recipe}, made to fit {planned.name} by `prl doctor --fit`.", "#"]
    changed: dict[str, Any] = {"model_name_or_path": model} if model else {}
    for each in found:
        command, steps = each.settings.command, merged(each.changes)
        # A file cannot say whose code to run, and one place to write to would be that of all commands.
        wanted = [
            flag
            for flag in flags
            if config.knows(command, flag.key) and flag.key not in _OF_ONE_RUN and not code_let_in(flag)
        ]
        changed[command] = dict(flag.as_setting() for flag in wanted) | steps
        peak = each.changes[-1].peak if each.changes else each.forecast.peak
        lines.append(f"# {command}: {peak / GIB:.2f} GiB forecast; {flags_of(steps) or 'as it was'}")
    return "\n".join(lines) + "\n\n" + recipes.put_together(recipe, changed)

"""What `prl compare` is given: the runs and adapters in the folders that are named, and all that made them.

The settings of a run are those of its command and of the runs that its model comes from, each under the name
of its command (`rl.learning_rate`, `sft.lora_r`), completed by the defaults. An evaluation of a trained model
so has what the model was trained with.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from prl import runs
from prl.errors import RunError
from prl.report.curves import METRICS
from prl.runs.disk import plain, read_json
from prl.runs.reading import listed, looking_into, read_environment, run_around, runs_in
from prl.settings.arguments import COMMANDS, TRAINER_CONFIGS
from prl.settings.trainer_flags import trainer_defaults
from prl.structure import ATTENTION_FILE
from prl.study.demo import EVALUATIONS
from prl.study.results import ENVIRONMENT
from prl.trainer.resuming import BEFORE

KINDS = {"eval": "evaluation", "adapter": "adapter", **{command: command for command in METRICS}}
"""Command (or "adapter") -> what a run of it is compared as, where no folder around it gives it a name."""

_PLACES = {
    "output_dir",
    "run_name",
    "models",
    "recipe",
    "resume",
    "overwrite_output_dir",
    "trust_remote_code",
}
"""Settings that say where and how a run was begun, not what it does; the recipe is said beside them."""

_ADAPTER = (
    "base_model_name_or_path",
    "peft_type",
    "peft_version",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "bias",
    "use_dora",
    "use_rslora",
)
"""What adapter_config.json says of the shape of an adapter."""

CONTENT = "dataset content"
"""What is said beside the settings of a run: the fingerprint of its data."""
DATA = ("dataset", "dataset_split", "limit", "easy_dataset", "levels", "stages", "on_bad_rows")
"""Settings by which data are others."""

_LONGEST = 8  # of a chain of stages; a folder may name itself as its model
_LEVELS = 4  # at which runs are looked for, to name some


@dataclass(frozen=True)
class Subject:
    """A run or an adapter. `settings` and `environment` are flat, with the command before the name;
    `adapter`, the shape of the adapter that it wrote, uses or is; `seeds`, its own and those of the runs that
    its model comes from, none where it names no run; `kind` one of `KINDS`."""

    folder: Path
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Named:
    """What one word names: a run or an adapter, or several, each under the name that it is compared by."""

    name: str
    parts: Mapping[str, Subject]


def read_named(folder: Path) -> Named:
    """What lies in a folder: a demo's evaluations, a run, an adapter (of a run, or bare), or the runs of a
    folder that is none. Raises RunError: nothing of these, or a run that cannot be read."""
    with looking_into(folder):
        if (folder / "demo.json").is_file():
            # A demo of before there was a sequential arm has none.
            there = {model: folder / name for model, name in EVALUATIONS.items() if (folder / name).is_dir()}
            if there:
                return Named(str(folder), {model: read_subject(run) for model, run in there.items()})
        if (folder / "environment.json").is_file():
            subject = read_subject(folder)
            return Named(str(folder), {KINDS[subject.kind]: subject})
        if (folder / "adapter_config.json").is_file():
            return Named(str(folder), {"adapter": _read_adapter(folder)})
        within = {run.name: run for run in runs_in(folder) if _command(run) in KINDS}
        if within:
            return Named(str(folder), {name: read_subject(run) for name, run in within.items()})
        deeper = [str(run) for run in runs_in(folder, levels=_LEVELS)]
    raise RunError(
        f"{folder} holds neither a finished demo (demo.json) nor a run (environment.json) or an adapter "
        f"(adapter_config.json): name {listed(deeper) if deeper else 'the --output_dir of a command'}"
    )


def read_subject(folder: Path) -> Subject:
    """A run of sft, rl or eval, with the runs that its model comes from. Raises RunError."""
    kind = _command(folder)
    if kind not in KINDS:
        raise RunError(
            f"{folder} is a run of command {kind}, which has nothing to compare: name one of sft, rl or eval"
        )
    stages = [*_chain(folder)]
    made_by = [_base(stages), *(stage.command for stage in stages[::-1])]
    settings: dict[str, Any] = {"made by": " → ".join(made_by)}
    environment: dict[str, Any] = {}
    for stage, label in zip(stages, _labels(stages), strict=True):
        settings |= {f"{label}.{name}": value for name, value in stage.settings.items()}
        environment |= {f"{label}.{name}": value for name, value in _environment(stage.folder).items()}
    adapter = _shape(folder / "adapter") if kind in TRAINER_CONFIGS else _shape(_adapter_behind(stages[0]))
    return Subject(folder, kind, settings, environment, adapter, tuple(stage.seed for stage in stages))


# --- The runs behind a run


@dataclass(frozen=True)
class _Stage:
    folder: Path
    command: str
    settings: dict[str, Any]
    seed: int
    model: str
    behind: Path | None


def _chain(folder: Path) -> Iterator[_Stage]:
    """A run, and the runs that its model comes from, as far as they are found."""
    here: Path | None = folder
    for _ in range(_LONGEST):
        if here is None:
            return
        stage = _read_stage(here)
        yield stage
        here = stage.behind


def _read_stage(folder: Path) -> _Stage:
    command, config = _command(folder), runs.read_config(folder)
    section = config.get(command)
    said = section if isinstance(section, dict) else {}
    model, seed = str(said.get("model_name_or_path")), said.get("seed", _defaults(command).get("seed"))
    behind = _run_behind(model, folder)
    settings = {key: value for key, value in (_defaults(command) | said).items() if key not in _PLACES}
    settings.pop("seed", None)
    settings["recipe"] = config.get("recipe")
    if behind:  # what it was is said by its settings; of the run a checkpoint may be meant
        settings.pop("model_name_or_path", None)
        if Path(model).name.startswith("checkpoint-"):
            settings["checkpoint"] = Path(model).name
    inputs = read_environment(folder).get("inputs")
    if isinstance(inputs, dict) and isinstance(inputs.get("dataset"), str):
        settings[CONTENT] = inputs["dataset"][:8]
    return _Stage(folder, command, settings, seed if type(seed) is int else 0, model, behind)


@cache
def _defaults(command: str) -> dict[str, Any]:
    """What holds where a run's config.yaml says nothing: TRL's defaults, prl's, and what a stage did before
    it had a setting."""
    if command not in COMMANDS:
        return {}
    trainer = trainer_defaults(command) if command in TRAINER_CONFIGS else {}
    return plain(trainer | asdict(COMMANDS[command]()) | BEFORE.get(command, {}))


def _command(folder: Path) -> str:
    said = runs.read_config(folder).get("command") or read_environment(folder).get("command")
    return str(said)


def _run_behind(model: str, run: Path) -> Path | None:
    """The run that a model, by the name that the next stage has for it, is of: as it was named, or where both
    have been moved to. What may be a name of the Hub, with one stroke or none, is looked for as it is."""
    named = Path(model)
    with contextlib.suppress(RuntimeError):  # the home of nobody
        named = named.expanduser()
    places = [named]
    if named.is_absolute() or model.count("/") > 1:
        above = run.absolute().parents
        places += [] if named.is_absolute() else [folder / named for folder in above]
        places += [folder / named.name for folder in above[:2]]
    for place in places:
        with contextlib.suppress(OSError):
            found = run_around(place)
            is_run = (found / "environment.json").is_file() and (found / "config.yaml").is_file()
            if is_run and found.resolve() != run.resolve():
                return found
    return None


def _labels(stages: Sequence[_Stage]) -> list[str]:
    """The command of each stage, numbered from the second of one command on."""
    counts: dict[str, int] = {}
    labels = []
    for stage in stages:
        counts[stage.command] = counts.get(stage.command, 0) + 1
        before = counts[stage.command] - 1
        labels.append(stage.command + (f"-{before + 1}" if before else ""))
    return labels


def _base(stages: Sequence[_Stage]) -> str:
    return Path(stages[-1].model).name if stages[-1].model.count("/") > 1 else stages[-1].model


def _environment(folder: Path) -> dict[str, Any]:
    """Commit, versions and machine of a run, flat."""
    said = read_environment(folder)
    flat = {name: said[name] for name in ENVIRONMENT if name in said and name != "versions"}
    versions = said.get("versions")
    return flat | (versions if isinstance(versions, dict) else {})


# --- Adapters


def _read_adapter(folder: Path) -> Subject:
    run = run_around(folder)
    if run == folder:
        return Subject(folder, "adapter", adapter=_shape(folder))
    of = read_subject(run)
    return Subject(folder, "adapter", of.settings, of.environment, _shape(folder), of.seeds)


def _adapter_behind(stage: _Stage) -> Path | None:
    """The adapter that an evaluation was of."""
    with contextlib.suppress(RunError, OSError, RuntimeError):
        return runs.adapter_dir(stage.behind or stage.model)
    return None


def _shape(adapter: Path | None) -> dict[str, Any]:
    """Rank, layers, rows, attention and opening of an adapter; empty where there is none."""
    config = read_json(adapter / "adapter_config.json") if adapter else {}
    if not adapter or not config:
        return {}
    shape = {f"adapter.{name}": config[name] for name in _ADAPTER if config.get(name) not in (None, {})}
    if isinstance(targets := config.get("target_modules"), list):
        shape["adapter.target_modules"] = sorted(map(str, targets))
    rows = config.get("trainable_token_indices")
    tables = rows.values() if isinstance(rows, dict) else [rows]
    trained = [len(each) for each in tables if isinstance(each, list)]
    said = {"attention": "causal", "path_opening": "none"} | read_json(adapter / ATTENTION_FILE)
    shape |= {"adapter.trained_rows": max(trained, default=0)}
    return shape | {f"adapter.{name}": said[name] for name in ("attention", "path_opening")}


def shown(value: Any) -> str:
    """A setting in one line."""
    if isinstance(value, str) or value is None:
        return value or "none"
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return " ".join(value) or "none"
    return json.dumps(value, ensure_ascii=False, default=str)

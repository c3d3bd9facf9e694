"""A run as a page shows it: facts, curves and samples, read from its folder and nothing else."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prl import runs
from prl.errors import RunError
from prl.report.curves import read_stages
from prl.runs.disk import read_json
from prl.runs.reading import run_folder, runs_in

MOST_RUNS = 24
"""Runs that one page takes; more curves than that tell nobody anything."""

_LEVELS = 3  # at which runs may lie in a folder that is none
_LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes")
_NOT_AGAIN = ("--overwrite_output_dir", "--resume")


@dataclass(frozen=True)
class Told:
    """What a run folder says of its run. `lines` are those of metrics.jsonl, `samples` rows of
    samples.parquet without token ids, in the order in which they were logged; `results` is results.json of an
    evaluation, else empty; `stages` the first step and the name of each stage of a curriculum."""

    name: str
    folder: Path
    command: str
    is_done: bool
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    stages: Sequence[tuple[int, str]]
    samples: Sequence[Mapping[str, Any]]
    results: Mapping[str, Any]

    @property
    def again(self) -> str:
        """The command that does it again, from where it was given."""
        words = self.environment.get("argv", ())[1:]
        kept = [word for word in words if word.split("=")[0] not in _NOT_AGAIN]
        return shlex.join(["prl", *kept]) if kept else f"prl {self.command}"

    @property
    def facts(self) -> dict[str, str]:
        """What one asks of a run before one believes it."""
        environment, settings = self.environment, self.settings
        versions, cores = environment.get("versions") or {}, f"{environment.get('cpu_count')} cores"
        gpus = [str(gpu) for gpu in environment.get("gpus") or ["no GPU"]]
        found = {
            "command": f"{self.command}{'' if self.is_done else ' (not finished)'}",
            "recipe": settings.get("recipe"),
            "model": settings.get("model_name_or_path"),
            "data": " ".join(filter(None, map(settings.get, ("dataset", "dataset_split")))),
            "attention": settings.get("attention"),
            "path opening": settings.get("path_opening"),
            "seed": settings.get("seed"),
            "steps": self.lines[-1].get("step") if self.lines else None,
            "started": environment.get("started_at"),
            "resumed": ", ".join(map(str, environment.get("resumed_at") or ())),
            "machine": ", ".join([str(environment.get("platform", "unknown")), cores, *gpus]),
            "prl": " ".join(filter(None, map(environment.get, ("prl", "git_commit")))),
            "versions": ", ".join(f"{name} {versions[name]}" for name in _LIBRARIES if versions.get(name)),
            "folder": str(self.folder),
        }
        return {name: str(value) for name, value in found.items() if value not in (None, "")}


def read_runs(folders: Iterable[str | os.PathLike[str]]) -> list[Told]:
    """The runs in `folders`, in that order; a folder that is no run stands for the runs in it (a demo, a
    pipeline), in the order in which they were begun. Raises RunError: no run, or more than 24."""
    found = find_runs(folders)
    if len(found) > MOST_RUNS:
        raise RunError(f"{len(found)} runs are too many for one page: name {MOST_RUNS} or fewer of them")
    return [_read(folder, name) for folder, name in zip(found, _names(found), strict=True)]


def find_runs(folders: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The folders of the runs that `read_runs` reads. Raises RunError: no run."""
    places = [Path(folder).expanduser() for folder in folders]
    # What holds no run is none either: it says what it is instead.
    within = [runs_in(place, levels=_LEVELS) or [run_folder(place)] for place in places]
    return [*dict.fromkeys(run for each in within for run in each)]


def _names(folders: Sequence[Path]) -> list[str]:
    """As much of the end of each path as tells them apart."""
    whole = [folder.resolve().parts for folder in folders]
    for length in range(1, max((len(parts) for parts in whole), default=1) + 1):
        names = ["/".join(parts[-length:]) for parts in whole]
        if len({*names}) == len(names) and (length > 1 or len(names) > 1):
            return names
        if len(names) == 1 and length == 2:
            return names
    return [str(folder) for folder in folders]


def _read(folder: Path, name: str) -> Told:
    config = runs.read_config(folder)
    samples = runs.read_samples(folder)
    if "token_ids" in samples.column_names:
        samples = samples.drop_columns(["token_ids"])
    return Told(
        name=name,
        folder=folder,
        command=str(config.get("command")),
        is_done=runs.read_summary(folder) is not None,
        settings=runs.read_settings(folder) | {key: config[key] for key in ("recipe",) if key in config},
        environment=read_json(folder / "environment.json"),
        lines=runs.read_metrics(folder),
        stages=read_stages(folder),
        samples=samples.to_pylist(),
        results=read_json(folder / "results.json"),
    )

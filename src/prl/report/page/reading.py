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
_NOT_AGAIN = ("__overwrite_output_dir", "__resume")  # flags, which may be written with - or _
_YES_OR_NO = ("true", "false", "yes", "no", "t", "f", "y", "n", "1", "0")
_IS = {"sft": "SFT", "rl": "RL", "eval": "evaluation"}


@dataclass(frozen=True)
class Told:
    """What a run folder says of its run. `lines` are those of metrics.jsonl, `samples` rows of
    samples.parquet without token ids, in the order in which they were logged; `results` is results.json of an
    evaluation, else empty; `stages` the first step and the name of each stage of a curriculum; `seconds` what
    a finished run took."""

    name: str
    folder: Path
    command: str
    is_done: bool
    seconds: float | None
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    stages: Sequence[tuple[int, str]]
    samples: Sequence[Mapping[str, Any]]
    results: Mapping[str, Any]

    @property
    def again(self) -> str:
        """The command that does it again, from where it was given."""
        kept: list[str] = []
        flag = ""
        for word in self.environment.get("argv", ())[1:]:
            is_value = flag in _NOT_AGAIN and word.lower() in _YES_OR_NO
            flag = word.replace("-", "_") if word.startswith("--") else ""
            if not is_value and flag.split("=")[0] not in _NOT_AGAIN:
                kept.append(word)
        return shlex.join(["prl", *kept]) if kept else f"prl {self.command}"

    @property
    def opening(self) -> str:
        """What its paths begin with, as `prl.grammar.parse` takes it."""
        said = str(self.settings.get("path_opening") or "none")
        return said if said in ("number", "plan") else "none"

    @property
    def facts(self) -> dict[str, str]:
        """What one asks of a run before one believes it."""
        environment, settings = self.environment, self.settings
        versions, cores = environment.get("versions") or {}, f"{environment.get('cpu_count')} cores"
        took = f"{self.seconds or 0:.0f} s{', since it was resumed' if environment.get('resumed_at') else ''}"
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
            "took": took if self.seconds else None,
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


def lineage(told: Sequence[Told]) -> list[list[str]]:
    """For each run that no other here began from: its model, then the runs that led to it, and itself, each
    with what it is."""
    before = {run.name: _began_from(run, told) for run in told}
    inner = {parent.name for parent in before.values() if parent}
    rows = []
    for run in told:
        way: list[Told] = []
        at: Told | None = run
        while at and at not in way:
            way.insert(0, at)
            at = before[at.name]
        if run.name not in inner:
            model = str(way[0].settings.get("model_name_or_path") or "unknown model")
            rows.append([model, *(f"{each.name} ({_IS.get(each.command, each.command)})" for each in way)])
    return rows


def _began_from(run: Told, told: Sequence[Told]) -> Told | None:
    """The training whose model, or a checkpoint of it, this one began with: the path may be from elsewhere,
    but for a name alone, which may be that of a model on the Hub."""
    model = Path(str(run.settings.get("model_name_or_path") or ""))
    parts = [part for part in model.parts if part != ".."]
    if parts and parts[-1].startswith("checkpoint-"):
        parts.pop()
    if len(model.parts) == 1:
        parts = [*model.resolve().parts] if model.is_dir() else []
    trained = (other for other in told if other is not run and other.command in ("sft", "rl"))
    ends = (other for other in trained if [*other.folder.resolve().parts[-len(parts) :]] == parts)
    return next(ends, None) if parts else None


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
    samples, summary = runs.read_samples(folder), runs.read_summary(folder)
    if "token_ids" in samples.column_names:
        samples = samples.drop_columns(["token_ids"])
    return Told(
        name=name,
        folder=folder,
        command=str(config.get("command")),
        is_done=summary is not None,
        seconds=(summary or {}).get("wall_seconds"),
        settings=runs.read_settings(folder) | {key: config[key] for key in ("recipe",) if key in config},
        environment=read_json(folder / "environment.json"),
        lines=runs.read_metrics(folder),
        stages=read_stages(folder),
        samples=samples.to_pylist(),
        results=read_json(folder / "results.json"),
    )

"""What a run holds in words and numbers: its settings, metrics and summary, and which folder is a run."""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prl.errors import PrlError, RunError, first_line
from prl.grammar import OPENINGS
from prl.runs.disk import read_json

log = logging.getLogger(__name__)


def read_config(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The resolved settings of a run. Raises RunError when the folder is no run."""
    import yaml

    path = run_folder(run_dir) / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{path}: {first_line(error)}. Run the command again") from error
    if not isinstance(config, dict):
        raise RunError(f"{path}: holds no settings. Run the command again")
    return config


def read_settings(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings of the command that wrote a run; empty where config.yaml names none. Raises RunError as
    `read_config` does."""
    config = read_config(run_dir)
    section = config.get(str(config.get("command")))
    return section if isinstance(section, dict) else {}


def read_path_opening(run_dir: str | os.PathLike[str]) -> str:
    """What the paths of a run's responses were to begin with, of `prl.grammar.OPENINGS`; "none" for a run
    from before there were openings. Raises RunError as `read_config` does."""
    said = read_settings(run_dir).get("path_opening")
    return said if said in OPENINGS else "none"


def read_summary(run_dir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What DONE holds; None while the run is not finished. Raises RunError when the folder is no run."""
    return _of_now(read_json(run_folder(run_dir) / "DONE")) or None


def read_metrics(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl in order; one that a kill or a full disk tore is left out, with a notice."""
    path = run_folder(run_dir) / "metrics.jsonl"
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            log.warning("%s: line %d is torn and left out", path, number)
    return records


def read_environment(folder: Path) -> dict[str, Any]:
    """What environment.json holds; empty where there is none, as where a run's first write was cut short."""
    return _of_now(read_json(folder / "environment.json"))


def _of_now(record: dict[str, Any]) -> dict[str, Any]:
    """environment.json or DONE with `command`, which once was called `stage`."""
    return {"command" if name == "stage" else name: value for name, value in record.items()}


def run_folder(run_dir: str | os.PathLike[str]) -> Path:
    """`run_dir`, where it is a run. Raises RunError, with the nearest that is, where it is not."""
    folder = Path(run_dir).expanduser()
    with looking_into(folder):
        if not folder.is_dir():
            raise RunError(f"{folder}: no such folder.{nearest_run(folder)} Name the --output_dir of a run")
        if not (folder / "environment.json").exists():
            raise RunError(f"{folder} is no run: it has no environment.json. Name the --output_dir of a run")
    return folder


def runs_in(folder: Path, *, levels: int = 1) -> list[Path]:
    """The runs in a folder (a demo, a pipeline, a study) down to so many levels below it, as they were begun,
    those of one moment by their path; a run itself stands for itself."""
    if (folder / "environment.json").exists():
        return [folder]
    patterns = ("/".join(["*"] * level) for level in range(1, levels + 1))
    found = sorted(each.parent for pattern in patterns for each in folder.glob(f"{pattern}/environment.json"))
    return sorted(found, key=lambda run: str(read_environment(run).get("started_at", "")))


def run_around(folder: Path) -> Path:
    """The run that a part of it, such as its adapter or a checkpoint, lies in; else `folder` itself."""
    is_part = (folder.parent / "environment.json").exists() and not (folder / "environment.json").exists()
    return folder.parent if is_part else folder


@contextlib.contextmanager
def looking_into(folder: Path, kind: type[PrlError] = RunError) -> Iterator[None]:
    """Turns what the system says of a path that may not be looked at into an error that names it."""
    try:
        yield
    except PermissionError as error:
        raise kind(
            f"{folder} cannot be read: {error.strerror or error}. Let it and the folders above it be "
            "searched, or name another"
        ) from error


def nearest_run(folder: Path) -> str:
    """A hint at the runs beside a folder that is not there; "" when there are none."""
    runs = sorted(found.parent.name for found in folder.parent.glob("*/environment.json"))
    if close := difflib.get_close_matches(folder.name, runs, n=1):
        return f" Did you mean {folder.parent / close[0]}?"
    return f" There are: {listed(runs)}." if runs else ""


def contents(folder: Path) -> list[str]:
    """The names in a folder, without the hidden ones."""
    return sorted(child.name for child in folder.iterdir() if not child.name.startswith("."))


def listed(names: Sequence[str]) -> str:
    """The first five names and how many more there are; "nothing" where there is none."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "nothing"

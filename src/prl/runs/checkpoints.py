"""Checkpoints that are whole: sealed when all of one is on the disk, checked before it is used.

A trainer writes a checkpoint file by file, and a kill, a full disk or a failing one may leave any part of it.
So a checkpoint counts only with its `manifest.json`, which is written last and holds the size and SHA-256 of
every other file; and older ones are removed only after a newer one is sealed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from prl.runs.disk import read_json, write_json, writing

MANIFEST = "manifest.json"

log = logging.getLogger(__name__)


def seal(checkpoint: Path, logged: Mapping[str, int] | None = None) -> None:
    """Bring every file of a checkpoint to the disk, then write its manifest, with what the run had `logged`.
    Raises RunError."""
    files = {}
    with writing(checkpoint):
        for path in sorted(checkpoint.rglob("*")):
            if not path.is_file() or path.name == MANIFEST:
                continue
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            files[path.relative_to(checkpoint).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    write_json(checkpoint / MANIFEST, {"files": files, "logged": dict(logged or {})})


def logged_by(checkpoint: Path) -> dict[str, int]:
    """How many lines and samples of its step the run had logged when a checkpoint was sealed, where noted."""
    return read_json(checkpoint / MANIFEST).get("logged") or {}


def fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in a phrase; None for one that is as it was sealed."""
    files = read_json(checkpoint / MANIFEST).get("files")
    if not isinstance(files, dict) or not files:
        return f"has no {MANIFEST}, so it was not written to its end"
    for name, expected in files.items():
        path = checkpoint / name
        try:
            if path.stat().st_size != expected["bytes"]:
                return f"{name} has {path.stat().st_size} bytes, not {expected['bytes']}"
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                    return f"{name} is not what was written: its checksum differs"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror or error}"
        except (KeyError, TypeError):
            return f"{MANIFEST} cannot be read"
    return None


def last_checkpoint(run_dir: str | os.PathLike[str]) -> Path | None:
    """The latest whole checkpoint of a run; a later one that is not is passed over with a warning."""
    for checkpoint in reversed(checkpoints(run_dir)):
        if not (found := fault(checkpoint)):
            return checkpoint
        log.warning("%s is passed over: %s", checkpoint, found)
    return None


def checkpoints(run_dir: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints of a run, whole or not, by step."""
    found = [path for path in Path(run_dir).glob("checkpoint-*") if path.name[11:].isdecimal()]
    return sorted(found, key=step_of)


def prune(run_dir: str | os.PathLike[str], keep: int, also: Collection[str] = ()) -> None:
    """Remove all but the last `keep` sealed checkpoints, and but those whose names are in `also`."""
    sealed = [path for path in checkpoints(run_dir) if (path / MANIFEST).exists()]
    for checkpoint in sealed[: max(len(sealed) - keep, 0)]:
        if checkpoint.name not in also:
            remove(checkpoint)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, or the link to one that was moved away, which stays where it is."""
    if checkpoint.is_symlink():
        checkpoint.unlink()
        return
    # The manifest first: what a kill leaves half removed is no checkpoint.
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def step_of(checkpoint: Path) -> int:
    """The optimizer step that a checkpoint was written after."""
    return int(checkpoint.name.rpartition("-")[2])

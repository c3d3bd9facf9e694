"""The run folder: what every command writes and the next one reads.

    config.yaml        the resolved settings
    environment.json   command, versions, machine, command line, fingerprints of data and model, what changed
                       at resumptions, and the process that opened the run last
    metrics.jsonl      one JSON object a line
    samples/           a file for each logging of responses, until the run is done (`prl.runs.samples`)
    samples.parquet    the same as one file, when the run is done
    checkpoint-*/      the trainer's, sealed (`prl.runs.checkpoints`)
    adapter/           what the next command loads
    DONE               the summary; written last
    .lock              empty; locked while a process writes here

Whole files appear by renaming, so that a reader never sees half of one, and what was logged before a kill
stays readable. One process writes: with several (`accelerate launch`), the main one opens the run. Hidden
names do not count as content.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from filelock import BaseFileLock, FileLock, Timeout

from prl.errors import RunError, UsageError
from prl.runs import cards, processes
from prl.runs.adapters import lies_in
from prl.runs.checkpoints import checkpoints, last_checkpoint, logged_by, remove, seal, step_of
from prl.runs.disk import (
    check_space,
    disk_full,
    is_disk_full,
    plain,
    to_json,
    write_atomic,
    write_json,
    writing,
)
from prl.runs.provenance import describe_environment, without_secrets
from prl.runs.reading import contents, listed, read_config, read_environment, read_metrics
from prl.runs.samples import merge_shards, shard_order, shards, write_shard

_SETTINGS = {"environment.json", "config.yaml"}  # what a run holds before its command has done anything
_OF_TRAINING = (
    *(
        f"adapter/{name}"
        for name in (
            "adapter_*.*", "prl.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
            "chat_template*", "vocab.*", "merges.txt", "training_args.bin",
        )
    ),
    "completions/completions_*.parquet",
)  # fmt: skip
_WRITTEN = {
    "sft": _OF_TRAINING,
    "rl": _OF_TRAINING,
    "eval": ("results.json", "frontiers.png", "frontiers.svg"),
    "traces": ("journal/*.jsonl", "traces.parquet", "rejected.parquet"),
}
"""Command -> what it writes into its run, beside what all do, cards and checkpoints."""
_OF_ALL = ("config.yaml", "metrics.jsonl", "samples.parquet", "samples/step-*.parquet")
Compare = Callable[[Mapping[str, Any], Mapping[str, str], Path], dict[str, str]]
"""Settings and inputs that a run began with, and the checkpoint it goes on from (the run's own folder where
that is its samples) -> what changes, in words."""


Watcher = Callable[[int, Mapping[str, Any], Sequence[Mapping[str, Any]]], None]
"""Told of a logging once it is written: its step, and its metrics, or its samples."""


@dataclasses.dataclass
class Run:
    """An open run folder, used as a context manager; `checkpoint` is what a `resumed` run goes on from, where
    it has one, and `changed` says which settings are others from there on, and how.

    Of several processes only the main one holds the lock and writes; in the others every method does nothing.
    They leave the context together, so that what comes next finds the folder complete.
    """

    folder: Path
    command: str
    started_at: str
    checkpoint: Path | None
    _lock: BaseFileLock | None
    changed: dict[str, str] = dataclasses.field(default_factory=dict)
    resumed: bool = False
    _opened: float = dataclasses.field(default_factory=time.monotonic)
    _last_step: int = 0
    _watchers: list[Watcher] = dataclasses.field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()
        if error is not None and is_disk_full(error):
            raise disk_full(self.folder) from error
        if error is None:
            processes.wait()

    def close(self) -> None:
        """Give the folder free. Without `finish` before, the run counts as interrupted."""
        if self._lock:
            with contextlib.suppress(OSError):
                self._lock.release()

    def watch(self, watcher: Watcher) -> None:
        """Have `watcher` told of all that is logged from here on, by the process that writes it."""
        self._watchers.append(watcher)

    def log_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append a line: `step`, `time` (seconds since 1970) and the metrics; NaN and infinities as null."""
        if not self._lock:
            return
        line = to_json({"step": step, "time": round(time.time(), 3), **metrics}) + "\n"
        path = self.folder / "metrics.jsonl"
        with writing(path), path.open("ab") as file:
            file.write(line.encode())
        self._last_step = max(self._last_step, step)
        for tell in self._watchers:
            tell(step, metrics, ())

    def log_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep sampled responses, one mapping each (`SAMPLE_COLUMNS` and more); what is missing is null."""
        if not rows or not self._lock:
            return
        write_shard(self.folder, step, [{"step": step, "command": self.command, **row} for row in rows])
        self._last_step = max(self._last_step, step)
        for tell in self._watchers:
            tell(step, {}, rows)

    def replace_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep `rows` in the place of all samples that were logged. A kill before its end leaves both."""
        earlier = shards(self.folder) if self._lock else []
        self.log_samples(step, rows)
        for path in earlier:
            path.unlink()

    def finish(self, summary: Mapping[str, Any] | None = None) -> None:
        """Merge the samples and write DONE: command, times, the last step logged, and `summary`."""
        if not self._lock:
            return
        merge_shards(self.folder)
        done = {
            "command": self.command,
            "started_at": self.started_at,
            "finished_at": _now(),
            "wall_seconds": round(time.monotonic() - self._opened, 3),
            "steps": self._last_step,
            **(summary or {}),
        }
        write_json(self.folder / "DONE", done)
        shutil.rmtree(self.folder / "samples", ignore_errors=True)


def open_run(
    output_dir: str | os.PathLike[str],
    *,
    command: str,
    config: Mapping[str, Any],
    resume: bool = False,
    overwrite: bool = False,
    model: str | None = None,
    inputs: Mapping[str, str] | None = None,
    compare: Compare | None = None,
    by_samples: bool = False,
) -> Run:
    """Create, resume or overwrite the run folder `output_dir`, and own it until the run is closed.

    `resume` goes on with an interrupted run of the same command from its last whole checkpoint; what was
    logged or torn after that is dropped, because it is done again. `overwrite` removes what the earlier run
    wrote and nothing else: also a README.md stays that a person wrote or changed. A run that ended before its
    command logged or saved anything is simply started over. With `by_samples` a run has no checkpoints and
    goes on from the samples that it logged: they stay.

    `model` is what the command starts from, a folder or a Hub name: a run that it lies in is not overwritten.
    `inputs` are fingerprints of what the run reads, for environment.json. Before a run goes on, and
    before anything is written, `compare` is given the settings and inputs that it began with.

    Raises RunError: the folder belongs to a live process, holds a finished or interrupted run, or what the
    command starts from where that is to be overwritten, or anything else, cannot be written, or its disk is
    nearly full; UsageError: both `resume` and `overwrite`, or several processes that run with different
    settings.
    """
    folder, mine = Path(output_dir).expanduser(), _shared(config)
    opened: list[Run] = []

    def open_it() -> tuple[str, Path | None, dict[str, Any]]:
        asked = folder, command, config, resume, overwrite, model, inputs or {}, compare, by_samples
        opened.append(_open(*asked))
        return opened[0].started_at, opened[0].checkpoint, mine

    started_at, checkpoint, theirs = processes.from_main(open_it)
    if different := [name for name in mine if mine[name] != theirs.get(name)]:
        raise UsageError(
            f"process {processes.index()} runs with another {different[0]} ({mine[different[0]]}) than the "
            f"main one ({theirs.get(different[0])}): give all of them the same flags, --recipe too"
        )
    return opened[0] if opened else Run(folder, command, started_at, checkpoint, None, resumed=resume)


def seal_checkpoint(checkpoint: Path) -> None:
    """Seal a checkpoint of a run, with how much was logged for its step until then: the rest, such as the
    evaluation after the last step, is logged again by the run that goes on from it."""
    folder, step = checkpoint.parent, step_of(checkpoint)
    lines = [record for record in read_metrics(folder) if record.get("step") == step]
    loggings = [path for path in shards(folder) if shard_order(path)[0] == step]
    seal(checkpoint, {"metrics": len(lines), "samples": len(loggings)})


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that all processes of a run must have in common, flat."""
    flat: dict[str, Any] = {}
    for name, value in plain(config).items():
        flat |= value if isinstance(value, dict) and name != "chosen" else {name: value}
    return {name: value for name, value in flat.items() if name not in ("chosen", "threads")}


def _open(
    folder: Path,
    command: str,
    config: Mapping[str, Any],
    resume: bool,
    overwrite: bool,
    model: str | None,
    inputs: Mapping[str, str],
    compare: Compare | None,
    by_samples: bool,
) -> Run:
    import yaml

    if resume and overwrite:
        raise UsageError(
            f"{folder} cannot be both resumed and overwritten: pass --resume or --overwrite_output_dir"
        )
    has_model = model is not None and lies_in(model, folder)
    if overwrite and has_model:
        raise RunError(f"{command} starts from {model}, which lies in {folder}: choose another --output_dir")
    check_space(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = contents(folder)
    if held and "environment.json" not in held:
        raise RunError(f"{folder} is not empty and no run ({listed(held)}): choose another --output_dir")
    # It takes a while, hence before the lock: whoever finds the folder locked is to read there by whom.
    environment = describe_environment() | {"opened_at": _now()}
    lock = _lock(folder)
    try:
        with writing(folder):
            earlier = _run_to_resume(folder, command, resume, overwrite, has_model)
            checkpoint, changed = last_checkpoint(folder) if resume else None, {}
            begun = checkpoint or (folder if resume and by_samples and shards(folder) else None)
            if begun and compare:
                stored = read_config(folder)
                changed = compare(stored, earlier.get("inputs", {}), begun)
                config = {**config, "recipe": stored.get("recipe", config.get("recipe"))}
                environment["changed"] = [
                    *earlier.get("changed", []),
                    *([{begun.name: changed}] if changed else []),
                ]
            _remove_drafts(folder)
            if overwrite:
                _overwrite(folder, environment)
            environment |= {
                "command": command,
                "started_at": earlier.get("started_at", environment["opened_at"]),
                "resumed_at": [*earlier.get("resumed_at", []), environment["opened_at"]] if resume else [],
                "inputs": {**earlier.get("inputs", {}), **inputs},
            }
            write_json(folder / "environment.json", environment)
            settings = yaml.safe_dump(without_secrets(plain(config)), sort_keys=False, allow_unicode=True)
            write_atomic(folder / "config.yaml", settings.encode())
            if resume:
                _rewind(folder, checkpoint, by_samples)
            return Run(folder, command, environment["started_at"], checkpoint, lock, changed, resume)
    except BaseException:
        lock.release()
        raise


def _remove_drafts(folder: Path) -> None:
    for leftover in (*folder.glob(".*.tmp"), *folder.glob("samples/.*.tmp")):
        if not leftover.is_dir():  # such as the draft of a merge into the run, which sees to its own
            leftover.unlink(missing_ok=True)


def _overwrite(folder: Path, environment: Mapping[str, Any]) -> None:
    # Without a command: after a kill amid the removal, it can be overwritten but not resumed.
    found = read_environment(folder)
    overwritten = str(found.get("command", found.get("overwrites")))
    write_json(folder / "environment.json", {**environment, "overwrites": overwritten})
    _remove_what_was_written(folder, overwritten)


def _remove_what_was_written(folder: Path, command: str) -> None:
    """Empty a folder of what `command` wrote (any of them, where that is none); a person's files stay."""
    (folder / "DONE").unlink(missing_ok=True)  # first: what follows is no longer whole
    for checkpoint in checkpoints(folder):
        remove(checkpoint)
    of_command = _WRITTEN.get(command, [name for names in _WRITTEN.values() for name in names])
    for path in [path for name in (*_OF_ALL, *of_command) for path in folder.glob(name)]:
        if not path.is_dir():
            path.unlink(missing_ok=True)
    for path in [folder / part / name for part in ("", "adapter") for name in (cards.CARD, cards.BESIDE)]:
        if cards.is_own(path):
            path.unlink()
    for path in [folder / name for name in ("adapter", "completions", "journal", "samples")]:
        with contextlib.suppress(OSError):  # a person's file is in it, or there is none
            path.rmdir()


def _run_to_resume(
    folder: Path, command: str, resume: bool, overwrite: bool, has_model: bool
) -> dict[str, Any]:
    """What environment.json holds of the run to go on with, nothing where one begins; or raises RunError."""
    earlier = read_environment(folder)
    found = earlier.get("command", "unknown")
    begun = {*contents(folder)} - _SETTINGS
    if begun and not overwrite:
        again = "choose another --output_dir" + ("" if has_model else " or pass --overwrite_output_dir")
        joined = " or" if has_model else ","
        if found != command:
            raise RunError(f"{folder} is a run of command {found}, not {command}: {again}")
        if "DONE" in begun:
            raise RunError(f"{folder} is a finished {command} run: {again}")
        if not resume:
            raise RunError(f"{folder} is an interrupted {command} run: pass --resume{joined} {again}")
    if resume and not earlier:
        raise RunError(f"{folder} holds no run to resume: start one, or name another --output_dir")
    return earlier if resume else {}


def _rewind(folder: Path, checkpoint: Path | None, by_samples: bool) -> None:
    """Forget what was logged after `checkpoint`, a merged samples.parquet (parts stay until DONE), and the
    torn checkpoints after it; no part where the run goes on from these."""
    step, logged = (step_of(checkpoint), logged_by(checkpoint)) if checkpoint else (-1, {})
    path = folder / "metrics.jsonl"
    if path.exists():
        records = read_metrics(folder)
        kept = [record for record in records if record.get("step", 0) < step]
        kept += [record for record in records if record.get("step", 0) == step][: logged.get("metrics")]
        write_atomic(path, "".join(to_json(record) + "\n" for record in kept).encode())
    for shard in [] if by_samples else shards(folder):
        of_step, number = shard_order(shard)
        if of_step > step or (of_step == step and number >= logged.get("samples", number + 1)):
            shard.unlink()
    (folder / "samples.parquet").unlink(missing_ok=True)
    for torn in checkpoints(folder):
        if step_of(torn) > step:
            remove(torn)


def _lock(folder: Path) -> BaseFileLock:
    """Own the folder or raise RunError. The system frees the lock when its process ends, also by a kill.

    The file itself stays, but on Windows: were it removed, one process could lock it just before that, and
    another the one made after. There is no fallback to a mere marker file, which would outlive a kill.
    """
    lock = FileLock(folder / ".lock", timeout=0, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise _in_use(folder) from None
    except OSError as error:
        raise RunError(
            f"{folder} cannot be locked: {error.strerror or error}. Choose another --output_dir"
        ) from error
    return lock


def _in_use(folder: Path) -> RunError:
    """Names the owner, once it has written environment.json."""
    owner, rest = "another process", "wait for it"
    environment = read_environment(folder)
    with contextlib.suppress(KeyError, TypeError, ValueError):
        pid, host = environment["pid"], environment["host"]
        opened = datetime.now(UTC) - datetime.fromisoformat(environment["opened_at"])
        owner = f"process {pid} on {host}, which opened it {_ago(opened.total_seconds())} ago"
        if (pid, host) == (os.getpid(), platform.node()):
            rest = "it is this very process, so close that run"
    return RunError(f"{folder} is in use by {owner}: {rest}, or choose another --output_dir")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _ago(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} seconds"

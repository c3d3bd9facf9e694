"""The run folder: what every stage writes and the next one reads.

    config.yaml        the resolved settings
    environment.json   command, versions, machine, command line, fingerprints of data and model, what changed
                       at resumptions, and the process that opened the run last
    metrics.jsonl      one JSON object a line
    samples/           one parquet file for each logging of responses, until the run is done
    samples.parquet    the same as one file, when it is done
    checkpoint-*/      the trainer's, sealed (`prl.runs.checkpoints`)
    adapter/           what the next stage loads
    DONE               the summary; written last
    .lock              empty; locked while a process writes here

Whole files appear by renaming, so that a reader never sees half of one, and what was logged before a kill
stays readable. One process writes: with several (`accelerate launch`), the main one opens the run. Hidden
names do not count as content.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib.metadata
import itertools
import json
import logging
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml
from filelock import BaseFileLock, FileLock, Timeout

from prl import __version__
from prl.errors import RunError, UsageError, first_line
from prl.runs import cards, processes
from prl.runs.checkpoints import MANIFEST, checkpoints, logged_by, seal, step_of
from prl.runs.checkpoints import last_checkpoint as last_checkpoint
from prl.runs.disk import check_space, disk_full, is_disk_full, plain, read_json, replacing, to_json, writing
from prl.runs.disk import write_atomic as write_atomic
from prl.runs.disk import write_json as write_json

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

LIBRARIES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "bitsandbytes",
    "latex2sympy2",
    "numpy",
    "pyarrow",
)
"""Distributions whose versions environment.json records."""

SAMPLE_COLUMNS: dict[str, str] = {
    "step": "int64",
    "command": "string",
    "stage": "string",
    "phase": "string",
    "mode": "string",
    "problem": "string",
    "answer": "string",
    "text": "string",
    "token_ids": "list<int32>",
    "length": "int32",
    "truncated": "bool",
    "extracted": "string",
    "verdict": "string",
    "faults": "list<string>",
    "advantage": "double",
}
"""Columns that samples.parquet always has: `command` wrote the row, in which `stage` of a curriculum, `phase`
of a reward schedule and `mode` of decoding (greedy, sampled), each null where there is none; `answer` is the
gold, `length` is in tokens. There may be more: a `reward_<name>` (double) for each reward, and what else a
command logs, numbers as double, other things as string."""

WEIGHTS = "adapter_model.safetensors"
"""Where an adapter has its weights (PEFT's name)."""

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
    "eval": ("results.json",),
    "traces": ("journal/*.jsonl", "traces.parquet", "rejected.parquet"),
}
"""Command -> what it writes into its run, beside what all do, cards and checkpoints."""
_OF_ALL = ("config.yaml", "metrics.jsonl", "samples.parquet", "samples/step-*.parquet")
Compare = Callable[[Mapping[str, Any], Mapping[str, str], Path], dict[str, str]]
"""Settings and inputs that a run began with, and the checkpoint it goes on from -> what changes, in words."""
_SECRET = re.compile(r"(hub[_-]token|api[_-]?key|secret|password)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"\b(hf_|wandb_v1_|sk-)\w{16,}")


@dataclasses.dataclass
class Run:
    """An open run folder, used as a context manager; `checkpoint` is what a resumed run goes on from, and
    `changed` says which settings are others from there on, and how.

    Of several processes only the main one holds the lock and writes; in the others every method does nothing.
    They leave the context together, so that what comes next finds the folder complete.
    """

    folder: Path
    command: str
    started_at: str
    checkpoint: Path | None
    _lock: BaseFileLock | None
    changed: dict[str, str] = dataclasses.field(default_factory=dict)
    _opened: float = dataclasses.field(default_factory=time.monotonic)
    _last_step: int = 0

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

    def log_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append a line: `step`, `time` (seconds since 1970) and the metrics; NaN and infinities as null."""
        if not self._lock:
            return
        line = to_json({"step": step, "time": round(time.time(), 3), **metrics}) + "\n"
        path = self.folder / "metrics.jsonl"
        with writing(path), path.open("ab") as file:
            file.write(line.encode())
        self._last_step = max(self._last_step, step)

    def log_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep sampled responses, one mapping each (`SAMPLE_COLUMNS` and more); what is missing is null."""
        if not rows or not self._lock:
            return
        import pyarrow.parquet as pq

        folder = self.folder / "samples"
        with writing(folder):
            folder.mkdir(exist_ok=True)
        # Not by listing the folder, which holds a file for every step of the run.
        names = (folder / f"step-{step:06d}-{number:02d}.parquet" for number in itertools.count())
        path = next(name for name in names if not name.exists())
        table = _sample_table([{"step": step, "command": self.command, **row} for row in rows])
        with replacing(path) as file:
            pq.write_table(table, file, compression="zstd")
        self._last_step = max(self._last_step, step)

    def finish(self, summary: Mapping[str, Any] | None = None) -> None:
        """Merge the samples and write DONE: command, times, the last step logged, and `summary`."""
        if not self._lock:
            return
        _merge_samples(self.folder)
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
    inputs: Mapping[str, str] | None = None,
    compare: Compare | None = None,
) -> Run:
    """Create, resume or overwrite the run folder `output_dir`, and own it until the run is closed.

    `resume` goes on with an interrupted run of the same command from its last whole checkpoint; what was
    logged or torn after that is dropped, because it is done again. `overwrite` removes what the earlier run
    wrote and nothing else: also a README.md stays that a person wrote or changed. A run that ended before its
    command logged or saved anything is simply started over.

    `inputs` are fingerprints of what the run reads, for environment.json. Before a run goes on from a
    checkpoint, and before anything is written, `compare` is given the settings and inputs that it began with.

    Raises RunError: the folder belongs to a live process, holds a finished or interrupted run or anything
    else, cannot be written, or its disk is nearly full; UsageError: both `resume` and `overwrite`, or several
    processes that run with different settings.
    """
    folder, mine = Path(output_dir).expanduser(), _shared(config)
    opened: list[Run] = []

    def open_it() -> tuple[str, Path | None, dict[str, Any]]:
        opened.append(_open(folder, command, config, resume, overwrite, inputs or {}, compare))
        return opened[0].started_at, opened[0].checkpoint, mine

    started_at, checkpoint, theirs = processes.from_main(open_it)
    if different := [name for name in mine if mine[name] != theirs.get(name)]:
        raise UsageError(
            f"process {processes.index()} runs with another {different[0]} ({mine[different[0]]}) than the "
            f"main one ({theirs.get(different[0])}): give all of them the same flags, --recipe too"
        )
    return opened[0] if opened else Run(folder, command, started_at, checkpoint, None)


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
    inputs: Mapping[str, str],
    compare: Compare | None,
) -> Run:
    if resume and overwrite:
        raise UsageError(
            f"{folder} cannot be both resumed and overwritten: pass --resume or --overwrite_output_dir"
        )
    check_space(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = _held(folder)
    if held and "environment.json" not in held:
        raise RunError(f"{folder} is not empty and no run ({_some(held)}): choose another --output_dir")
    # It takes a while, hence before the lock: whoever finds the folder locked is to read there by whom.
    environment = describe_environment() | {"opened_at": _now()}
    lock = _lock(folder)
    try:
        with writing(folder):
            earlier = _run_to_resume(folder, command, resume, overwrite)
            checkpoint, changed = last_checkpoint(folder) if resume else None, {}
            if checkpoint and compare:
                stored = read_config(folder)
                changed = compare(stored, earlier.get("inputs", {}), checkpoint)
                config = {**config, "recipe": stored.get("recipe", config.get("recipe"))}
                environment["changed"] = [
                    *earlier.get("changed", []),
                    *([{checkpoint.name: changed}] if changed else []),
                ]
            for leftover in (*folder.glob(".*.tmp"), *folder.glob("samples/.*.tmp")):
                if not leftover.is_dir():  # such as the draft of a merge into the run, which sees to its own
                    leftover.unlink(missing_ok=True)
            if overwrite:
                # Without a command: after a kill amid the removal, it can be overwritten but not resumed.
                found = _read_environment(folder)
                overwritten = str(found.get("command", found.get("overwrites")))
                write_json(folder / "environment.json", environment | {"overwrites": overwritten})
                _remove_what_was_written(folder, overwritten)
            environment |= {
                "command": command,
                "started_at": earlier.get("started_at", environment["opened_at"]),
                "resumed_at": [*earlier.get("resumed_at", []), environment["opened_at"]] if resume else [],
                "inputs": {**earlier.get("inputs", {}), **inputs},
            }
            write_json(folder / "environment.json", environment)
            settings = yaml.safe_dump(_without_secrets(plain(config)), sort_keys=False, allow_unicode=True)
            write_atomic(folder / "config.yaml", settings.encode())
            if resume:
                _rewind(folder, checkpoint)
                for torn in checkpoints(folder):
                    if checkpoint is None or step_of(torn) > step_of(checkpoint):
                        shutil.rmtree(torn)
            return Run(folder, command, environment["started_at"], checkpoint, lock, changed)
    except BaseException:
        lock.release()
        raise


def _remove_what_was_written(folder: Path, command: str) -> None:
    """Empty a folder of what `command` wrote (any of them, where that is none); a person's files stay."""
    (folder / "DONE").unlink(missing_ok=True)  # first: what follows is no longer whole
    for checkpoint in checkpoints(folder):
        (checkpoint / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(checkpoint)
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


def _run_to_resume(folder: Path, command: str, resume: bool, overwrite: bool) -> dict[str, Any]:
    """What environment.json holds of the run to go on with, nothing where one begins; or raises RunError."""
    earlier = _read_environment(folder)
    found = earlier.get("command", "unknown")
    begun = {*_held(folder)} - _SETTINGS
    if begun and not overwrite:
        again = "choose another --output_dir or pass --overwrite_output_dir"
        if found != command:
            raise RunError(f"{folder} is a run of command {found}, not {command}: {again}")
        if "DONE" in begun:
            raise RunError(f"{folder} is a finished {command} run: {again}")
        if not resume:
            raise RunError(f"{folder} is an interrupted {command} run: pass --resume, {again}")
    if resume and not earlier:
        raise RunError(f"{folder} holds no run to resume: start one, or name another --output_dir")
    return earlier if resume else {}


def read_config(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The resolved settings of a run. Raises RunError when the folder is no run."""
    path = _run_folder(run_dir) / "config.yaml"
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


def read_summary(run_dir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What DONE holds; None while the run is not finished. Raises RunError when the folder is no run."""
    return _of_now(read_json(_run_folder(run_dir) / "DONE")) or None


def read_metrics(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl in order; one that a kill or a full disk tore is left out, with a notice."""
    path = _run_folder(run_dir) / "metrics.jsonl"
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


def read_samples(run_dir: str | os.PathLike[str]) -> pa.Table:
    """All responses that a run logged, finished or not, as an arrow table (`.to_pylist()`, `.to_pandas()`).

    Columns are those of `SAMPLE_COLUMNS` and all that any step had; a step without one has nulls there, and a
    run from before there was `command` or `mode` has them too. A file that cannot be read is left out, with a
    notice.
    """
    import pyarrow as pa

    folder = _run_folder(run_dir)
    paths = [folder / "samples.parquet"] if (folder / "samples.parquet").exists() else _shards(folder)
    tables = [table for path in paths if (table := _read_parquet(path)) is not None]
    schema, command = _union(table.schema for table in tables), _read_environment(folder).get("command")
    fitting = [_fit(table, schema, command) for table in tables]
    return pa.concat_tables(fitting) if tables else schema.empty_table()


def adapter_dir(model: str | os.PathLike[str]) -> Path | None:
    """The adapter that `--model_name_or_path` points to; None for a base, be it a Hub name or a local model.

    A run folder stands for its `adapter/`, an adapter folder (also a run's checkpoint) for itself.
    Raises RunError: the run has no adapter yet, the adapter has no safetensors, the folder holds neither
    run, adapter nor model, or may not be looked into.
    """
    folder = Path(model).expanduser()
    with _looking_into(folder):
        if not folder.is_dir():
            _check_is_hub_name(folder, str(model))
            return None
        if _is_adapter(folder):
            return folder
        if (folder / "environment.json").exists():
            return _adapter_of_run(folder)
        if (folder / "config.json").exists():
            return None
        held = _some(_held(folder))
    raise RunError(
        f"{folder} is no run (environment.json), adapter (adapter_config.json and weights) or model "
        f"(config.json): it holds {held}. Point --model_name_or_path at one of these"
    )


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


def describe_environment() -> dict[str, Any]:
    """Versions, machine, process and command line, secrets masked; nothing from the environment variables."""
    torch = sys.modules.get("torch")
    cuda = torch.cuda if torch and torch.cuda.is_available() else None
    return {
        "prl": __version__,
        "git_commit": _git_commit(Path(__file__).parents[3]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "pid": os.getpid(),
        "cpu_count": os.cpu_count(),
        "gpus": [cuda.get_device_name(index) for index in range(cuda.device_count())] if cuda else [],
        "versions": {library: _version(library) for library in LIBRARIES},
        "argv": _mask_arguments(sys.argv),
    }


# The lock


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
    environment = read_json(folder / "environment.json")
    with contextlib.suppress(KeyError, TypeError, ValueError):
        pid, host = environment["pid"], environment["host"]
        opened = datetime.now(UTC) - datetime.fromisoformat(environment["opened_at"])
        owner = f"process {pid} on {host}, which opened it {_ago(opened.total_seconds())} ago"
        if (pid, host) == (os.getpid(), platform.node()):
            rest = "it is this very process, so close that run"
    return RunError(f"{folder} is in use by {owner}: {rest}, or choose another --output_dir")


# Samples


def _sample_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    import pyarrow as pa

    types = {name: _arrow_type(kind) for name, kind in SAMPLE_COLUMNS.items()}
    for name in dict.fromkeys(name for row in rows for name in row if name not in types):
        numeric = all(isinstance(value := plain(row.get(name)), int | float) or value is None for row in rows)
        types[name] = pa.float64() if numeric or name.startswith("reward_") else pa.string()
    columns = [pa.array([_cell(row.get(name), kind) for row in rows], kind) for name, kind in types.items()]
    return pa.table(dict(zip(types, columns, strict=True)))


def _arrow_type(kind: str) -> pa.DataType:
    import pyarrow as pa

    item = re.fullmatch(r"list<(\w+)>", kind)
    return pa.list_(pa.type_for_alias(item[1])) if item else pa.type_for_alias(kind)


def _cell(value: Any, kind: pa.DataType) -> Any:
    import pyarrow.types as types

    if value is not None and types.is_list(kind):
        items = value.tolist() if hasattr(value, "tolist") else value
        return [str(item) for item in items] if types.is_string(kind.value_type) else items
    value = plain(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if types.is_string(kind):
        text = value if isinstance(value, str) else to_json(value)
        return text.encode("utf-8", "replace").decode()
    return float(value) if types.is_floating(kind) else bool(value) if types.is_boolean(kind) else int(value)


def _shards(folder: Path) -> list[Path]:
    """The files that `log_samples` wrote under samples/, in the order they were logged in."""
    return sorted((folder / "samples").glob("step-*-*.parquet"), key=_shard_order)


def _shard_order(path: Path) -> tuple[int, int]:
    """The step, and the number of the logging within the step."""
    _, step, number = path.stem.split("-")
    return int(step), int(number)


def _read_parquet(path: Path, *, only_schema: bool = False) -> Any:
    """The table of a file, or its schema; None, with a notice, when the file is not whole."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow if only_schema else file.read()
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read and is left out: %s", path, first_line(error))
        return None


def _union(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """`SAMPLE_COLUMNS` and all others, in order of appearance; one that changes its type is text."""
    import pyarrow as pa

    types: dict[str, pa.DataType] = {}
    for field in (field for schema in (_sample_table([]).schema, *schemas) for field in schema):
        types[field.name] = field.type if types.get(field.name, field.type) == field.type else pa.string()
    return pa.schema(list(types.items()))


def _fit(table: pa.Table, schema: pa.Schema, command: str | None) -> pa.Table:
    """`table` with the columns of `schema`. One from before there was a column `command` has it in `stage`,
    where that names no stage of a curriculum, and the mode of an evaluation in `phase`."""
    import pyarrow as pa

    if "command" not in table.column_names and command:
        rows = table.select([name for name in ("stage", "phase") if name in table.column_names]).to_pylist()
        told: dict[str, list[str | None]] = {"command": [command] * len(table)}
        told["stage"] = [stage if (stage := row.get("stage")) != command else None for row in rows]
        if command == "eval":
            told |= {"mode": [row.get("phase") for row in rows], "phase": [None] * len(table)}
        rest = [name for name in table.column_names if name not in told]
        table = pa.table(
            {name: table[name] for name in rest}
            | {name: pa.array(column, pa.string()) for name, column in told.items()}
        )
    have = {*table.column_names}
    columns = [
        table[name].cast(kind) if name in have else pa.nulls(len(table), kind)
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    return pa.table(columns, schema=schema)


def _merge_samples(folder: Path) -> None:
    """Write samples.parquet from what was logged, one logging in memory at a time."""
    import pyarrow.parquet as pq

    read = {path: _read_parquet(path, only_schema=True) for path in _shards(folder)}
    schemas = {path: schema for path, schema in read.items() if schema is not None}
    if not schemas:
        return
    schema, command = _union(schemas.values()), _read_environment(folder).get("command")
    with (
        replacing(folder / "samples.parquet") as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for path in schemas:
            if (table := _read_parquet(path)) is not None:
                writer.write_table(_fit(table, schema, command))


# Resuming, and what a folder is


def seal_checkpoint(checkpoint: Path) -> None:
    """Seal a checkpoint of a run, with how much was logged for its step until then: the rest, such as the
    evaluation after the last step, is logged again by the run that goes on from it."""
    folder, step = checkpoint.parent, step_of(checkpoint)
    lines = [record for record in read_metrics(folder) if record.get("step") == step]
    shards = [path for path in _shards(folder) if _shard_order(path)[0] == step]
    seal(checkpoint, {"metrics": len(lines), "samples": len(shards)})


def _rewind(folder: Path, checkpoint: Path | None) -> None:
    """Forget what was logged after `checkpoint`, and a merged samples.parquet; parts stay until DONE."""
    step, logged = (step_of(checkpoint), logged_by(checkpoint)) if checkpoint else (-1, {})
    path = folder / "metrics.jsonl"
    if path.exists():
        records = read_metrics(folder)
        kept = [record for record in records if record.get("step", 0) < step]
        kept += [record for record in records if record.get("step", 0) == step][: logged.get("metrics")]
        write_atomic(path, "".join(to_json(record) + "\n" for record in kept).encode())
    for shard in _shards(folder):
        of_step, number = _shard_order(shard)
        if of_step > step or (of_step == step and number >= logged.get("samples", number + 1)):
            shard.unlink()
    (folder / "samples.parquet").unlink(missing_ok=True)


def _read_environment(folder: Path) -> dict[str, Any]:
    return _of_now(read_json(folder / "environment.json"))


def _of_now(record: dict[str, Any]) -> dict[str, Any]:
    """environment.json or DONE with `command`, which once was called `stage`."""
    return {"command" if name == "stage" else name: value for name, value in record.items()}


def _held(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir() if not child.name.startswith("."))


def _run_folder(run_dir: str | os.PathLike[str]) -> Path:
    folder = Path(run_dir).expanduser()
    with _looking_into(folder):
        if not folder.is_dir():
            raise RunError(f"{folder}: no such folder.{_nearest_run(folder)} Name the --output_dir of a run")
        if not (folder / "environment.json").exists():
            raise RunError(f"{folder} is no run: it has no environment.json. Name the --output_dir of a run")
    return folder


@contextlib.contextmanager
def _looking_into(folder: Path) -> Iterator[None]:
    """Turns what the system says of a folder that may not be searched into a RunError that names it."""
    try:
        yield
    except PermissionError as error:
        raise RunError(
            f"{folder} cannot be read: {error.strerror or error}. Let it and the folders above it be "
            "searched, or name another"
        ) from error


def _nearest_run(folder: Path) -> str:
    """A hint at the runs beside a folder that is not there; "" when there are none."""
    runs = sorted(found.parent.name for found in folder.parent.glob("*/environment.json"))
    if close := difflib.get_close_matches(folder.name, runs, n=1):
        return f" Did you mean {folder.parent / close[0]}?"
    return f" There are: {_some(runs)}." if runs else ""


def _check_is_hub_name(folder: Path, name: str) -> None:
    if folder.exists():
        raise RunError(f"{name} is a file: --model_name_or_path takes a Hub name or a folder")
    hint = _nearest_run(folder)
    if _is_path(name) or ("/" in name and hint):
        raise RunError(f"{name}: no such folder.{hint} Name a Hub model, or the folder of a model or run")


def _is_path(name: str) -> bool:
    """Whether it cannot be a Hub name, OWNER/NAME."""
    return name.startswith((".", "~")) or Path(name).is_absolute() or "\\" in name or name.count("/") > 1


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
    command = _read_environment(folder).get("command", "unknown")
    if (folder / "DONE").exists():
        raise RunError(f"{folder} is a finished {command} run without an adapter: name one of sft or rl")
    checkpoint = last_checkpoint(folder)
    rest = "it has no checkpoint yet: let it finish, or start it again"
    if checkpoint:
        rest = f"it has {checkpoint.name}: finish it with --resume, or pass {checkpoint}"
    raise RunError(f"{folder} is a {command} run that is not finished; {rest}")


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: "***" if _SECRET.search(key) and item else _without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return _SECRET_VALUE.sub("***", value) if isinstance(value, str) else value


def _mask_arguments(arguments: Sequence[str]) -> list[str]:
    masked: list[str] = []
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        after_name = bool(masked) and masked[-1].startswith("--") and bool(_SECRET.search(masked[-1]))
        if equals and _SECRET.search(name):
            masked.append(f"{name}=***")
        else:
            masked.append("***" if after_name else _SECRET_VALUE.sub("***", argument))
    return masked


@functools.cache
def _say_once(line: str) -> None:
    log.warning("%s", line)


# Asked once: what runs is what was loaded, whatever becomes of the files.


@functools.cache
def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _git_commit(root: Path) -> str | None:
    """The commit of a source checkout, with "-dirty" when files differ; None for an installed package."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return said.strip() or None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _ago(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} seconds"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "nothing"

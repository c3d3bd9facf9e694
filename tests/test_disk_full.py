"""Runs on a disk that fills up: one line says so, what was written stays, and the run goes on from there.

The disk is a small tmpfs, which takes a right to mount (root, or a shell that `unshare -rm` opened); skips
where there is none.
"""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import TrainerState

from prl import cli, runs
from prl.runs import checkpoints
from prl.runs.checkpoints import fault, last_checkpoint
from prl.runs.disk import MIN_FREE_BYTES
from prl.trainer.timing import PARTS

SHARED = {"limit": 16, "max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 4, "lora_dropout": 0.1}
STAGES: dict[str, dict[str, Any]] = {
    "sft": SHARED | {"eval_strategy": "no", "eval_limit": 1, "sample_count": 0, "logging_steps": 1},
    "rl": SHARED | {"dataset": "arithmetic:wide", "num_generations": 4, "max_completion_length": 8,
                    "gradient_accumulation_steps": 1, "sampling": "adaptive", "disable_dropout": False},
}  # fmt: skip
TIMES = ("time", "step_time", "eval_runtime", "train_runtime", "memory/peak", *(f"time/{p}" for p in PARTS))

# What is being written when the disk is full: its owner and name, the calls that still find room, and the
# bytes that are left for the first part of the next one.
MOMENTS: dict[str, tuple[Any, str, int, int]] = {
    "weights of a checkpoint": (PeftModel, "save_pretrained", 1, 100_000),
    "optimizer": (torch, "save", 4, 0),
    "state of the generators": (torch, "save", 6, 0),
    "trainer's state": (TrainerState, "save_to_json", 1, 0),
    "manifest": (checkpoints, "write_json", 1, 0),
    "metrics": (runs.Run, "log_metrics", 2, 0),
    "samples": (runs.Run, "log_samples", 2, 0),
    "adapter": (PeftModel, "save_pretrained", 2, 100_000),
    "summary": (runs.Run, "finish", 0, 0),
}
QUICK = [("sft", "weights of a checkpoint"), ("sft", "optimizer"), ("sft", "metrics"), ("rl", "manifest"),
         ("rl", "samples"), ("rl", "adapter"), ("sft", "adapter")]  # fmt: skip


def command(stage: str, folder: Path, *how: str) -> list[str]:
    words = [stage, "--recipe", "tiny", "--threads", "1", "--output_dir", str(folder), *how]
    return words + [str(word) for name, value in STAGES[stage].items() for word in (f"--{name}", value)]


def fill(disk: Path, left: int) -> None:
    """Take all of the disk but `left` bytes."""
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        ballast.seek(0, os.SEEK_END)
        chunk = bytes(2**20)
        while True:
            try:
                ballast.write(chunk)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                if len(chunk) == 1:
                    break
                chunk = chunk[: len(chunk) // 2]
        ballast.truncate(max(ballast.tell() - left, 0))


def before(
    owner: Any, name: str, calls: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have `act` happen ahead of call number `calls` (from 0) of `owner.name`."""
    original, count = getattr(owner, name), iter(range(10**6))

    def counted(*words: Any, **given: Any) -> Any:
        if next(count) == calls:
            act()
        return original(*words, **given)

    monkeypatch.setattr(owner, name, counted)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("disk")
    size = MIN_FREE_BYTES // 2**20 + 40
    try:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(place)]
        mounted = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no small disk: {error}")
    if mounted.returncode:
        pytest.skip(f"no small disk: {mounted.stderr.strip()}; run it as root or under `unshare -rm`")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each stage, on a disk with room."""
    root = tmp_path_factory.mktemp("whole")
    for stage in STAGES:
        assert cli.main(command(stage, root / stage)) == 0
    return root


def outcome(folder: Path) -> tuple[bytes, list[dict[str, Any]], list[dict[str, Any]]]:
    """Adapter, metrics and samples of a finished run."""
    metrics = [
        {name: value for name, value in line.items() if name not in TIMES and "per_second" not in name}
        for line in runs.read_metrics(folder)
    ]
    samples = runs.read_samples(folder).to_pylist()
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes(), metrics, samples


@pytest.mark.parametrize(
    ("stage", "moment"),
    [
        pytest.param(stage, moment, marks=[] if (stage, moment) in QUICK else pytest.mark.slow)
        for stage in STAGES
        for moment in MOMENTS
        if (stage, moment) != ("sft", "samples")
    ],
)
def test_a_disk_that_is_full_costs_no_more_than_the_steps_since_the_last_checkpoint(
    stage: str,
    moment: str,
    disk: Path,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = disk / f"{stage} {moment}"
    try:
        with monkeypatch.context() as patch:
            owner, name, calls, left = MOMENTS[moment]
            before(owner, name, calls, lambda: fill(disk, left), patch)
            status = cli.main(command(stage, folder))
        err = capsys.readouterr().err
        said = [line for line in err.splitlines() if line.startswith(f"prl {stage}: ")]
        assert (status, len(said)) == (1, 1), err
        assert "Traceback" not in err
        assert f"no space left on the disk of {disk}" in said[-1]
        assert "then pass --resume" in said[-1]
        (disk / "ballast").unlink()
        kept = last_checkpoint(folder)
        assert kept is not None
        assert fault(kept) is None
        assert cli.main(command(stage, folder, "--resume")) == 0
        for ours, theirs in zip(outcome(folder), outcome(whole / stage), strict=True):
            assert ours == theirs
    finally:
        (disk / "ballast").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

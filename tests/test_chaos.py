"""Runs that are killed at random moments and resumed end as if nothing had been: `make chaos` for many kills.

PRL_CHAOS_KILLS   kills a stage and attention (2)
PRL_CHAOS_SEED    of the moments (0)
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

from prl import runs
from prl.runs.checkpoints import last_checkpoint
from prl.trainer.timing import PARTS
from warm import launcher

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows either one terminates at once
KILLED = KILL if os.name == "nt" else -KILL
KILLS = int(os.environ.get("PRL_CHAOS_KILLS", "2"))
SEED = int(os.environ.get("PRL_CHAOS_SEED", "0"))

CHILD = """
import os, signal, sys, threading
from prl import cli

def die(*ignored, **given):
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

def die_at(owner, name, calls):
    original, left = getattr(owner, name), [calls]
    def counted(*words, **given):
        left[0] -= 1
        if left[0] < 0:
            die()
        return original(*words, **given)
    setattr(owner, name, counted)

moment, number = sys.argv[1], float(sys.argv[2])
if moment == "time":
    clock = threading.Timer(number, die)
    clock.daemon = True
    clock.start()
elif moment == "saving":       # amid the files of a checkpoint
    import torch
    die_at(torch, "save", int(number))
elif moment == "sealing":      # all files are there, the manifest is not
    from prl.runs import checkpoints
    die_at(checkpoints, "write_json", int(number))
elif moment == "generating":   # between the tokens of a step's responses
    import prl.decoding.forkjoin as forkjoin
    die_at(forkjoin._Batch, "launch", int(number))
elif moment == "logging":      # metrics are written, samples are not
    from prl import runs
    die_at(runs.Run, "log_samples", int(number))
sys.exit(cli.main(sys.argv[3:]))
"""

STAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": (
        "sft",
        {
            "limit": 48, "max_steps": 6, "per_device_train_batch_size": 4, "sample_count": 4, "eval_steps": 2,
            "eval_limit": 4, "logging_steps": 1, "save_steps": 2, "lora_dropout": 0.1,
        },
    ),
    "rl": (
        "rl",
        {
            "limit": 48, "max_steps": 6, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
            "num_generations": 4, "max_completion_length": 24, "dataset": "arithmetic:wide", "save_steps": 2,
            "sampling": "adaptive", "rewards": ["alternating"], "attention": "structured",
            "lora_dropout": 0.1, "disable_dropout": False,
        },
    ),
}  # fmt: skip
MOMENTS = {
    "sft": {"time": (0.3, 4.0), "saving": (0, 5), "sealing": (0, 2), "logging": (0, 2)},
    "rl": {"time": (0.3, 4.0), "saving": (0, 5), "sealing": (0, 2), "logging": (0, 5), "generating": (0, 90)},
}
"""Moment -> the range that the number of calls, or seconds, is drawn from."""

TIMES = ("time", "step_time", "eval_runtime", "train_runtime", "memory/peak", *(f"time/{p}" for p in PARTS))


def command(stage: str, folder: Path, *how: str) -> list[str]:
    name, given = STAGES[stage]
    words = [name, "--recipe", "tiny", "--threads", "1", "--output_dir", str(folder), *how]
    for key, value in given.items():
        words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return words


def start(
    stage: str, folder: Path, moment: str, number: float, python: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    how = ["--resume"] if (folder / "environment.json").exists() else []
    words = [*python, "-c", CHILD, moment, str(number), *command(stage, folder, *how)]
    return subprocess.run(words, capture_output=True, text=True)


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if key not in TIMES and "per_second" not in key}
        for line in runs.read_metrics(folder)
    ]


def samples_of(folder: Path) -> list[dict[str, Any]]:
    return runs.read_samples(folder).to_pylist()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tagged: str) -> Path:
    STAGES["rl"][1]["model_name_or_path"] = tagged
    root = tmp_path_factory.mktemp("whole")
    for stage in STAGES:
        done = start(stage, root / stage, "never", 0, [sys.executable])  # the hash seed is another
        assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize("stage", STAGES)
def test_killed_runs_end_as_if_nothing_had_been(stage: str, whole: Path, tmp_path: Path) -> None:
    random, folders, killed = Random(f"{SEED}/{stage}"), count(), 0
    folder = tmp_path / str(next(folders))
    while killed < KILLS:
        moment = random.choice([*MOMENTS[stage]])
        low, high = MOMENTS[stage][moment]
        number = random.uniform(low, high) if moment == "time" else random.randint(int(low), int(high))
        ended = start(stage, folder, moment, number, launcher())
        if (
            ended.returncode == 0
        ):  # it was done before: begin another run, so that every kill meets a live one
            check(stage, whole, folder)
            folder = tmp_path / str(next(folders))
            continue
        assert ended.returncode == KILLED, ended.stderr
        killed += 1
    ended = start(stage, folder, "never", 0, launcher())
    assert ended.returncode == 0, ended.stderr
    check(stage, whole, folder)


def check(stage: str, whole: Path, folder: Path) -> None:
    """The final adapter, the metrics and every sampled response, to the bit."""
    name = "adapter/adapter_model.safetensors"
    assert (folder / name).read_bytes() == (whole / stage / name).read_bytes()
    assert metrics_of(folder) == metrics_of(whole / stage)
    assert samples_of(folder) == samples_of(whole / stage)
    assert last_checkpoint(folder) == folder / "checkpoint-6"
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]

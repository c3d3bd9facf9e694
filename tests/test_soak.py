"""A long RL run of the tiny model: memory, step time, open files and threads stay as they were: `make soak`.

PRL_SOAK_STEPS   optimizer steps (2000)
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prl import runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

STEPS = int(os.environ.get("PRL_SOAK_STEPS", "2000"))

CHILD = """
import ctypes, gc, json, sys, time
import psutil, torch
from prl import cli, runs
from prl.answers import default_checker

class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
        "keepcost")]

heap = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None
if heap:
    heap.restype = Mallinfo2

process, sink, log_metrics = psutil.Process(), open(sys.argv[1], "w", buffering=1), runs.Run.log_metrics
files = process.num_fds if hasattr(process, "num_fds") else process.num_handles
clocks = [time.perf_counter(), time.process_time()]
matrix = torch.eye(192)

def fixed():
    "The CPU time of the same piece of work, by which a busy or throttled machine shows."
    started, product, total = time.process_time(), matrix, 0
    for number in range(20_000):
        total += number % 7
    for _ in range(20):
        product = product @ matrix
    return time.process_time() - started

def measured(run, step, metrics):
    log_metrics(run, step, metrics)
    if "loss" not in metrics:
        return
    now = [time.perf_counter(), time.process_time()]
    used = heap() if heap else None
    sink.write(json.dumps({
        "step": step,
        "wall": now[0] - clocks[0],
        "cpu": now[1] - clocks[1],
        "fixed": fixed(),
        "rss": process.memory_info().rss,
        "heap": used.uordblks + used.hblkhd if used else 0,
        "blocks": sys.getallocatedblocks(),
        "files": files(),
        "threads": process.num_threads(),
        "tokens": metrics["completions/mean_length"],
        "dead": metrics["frac_reward_zero_std"],
    }) + "\\n")
    clocks[:] = [time.perf_counter(), time.process_time()]

runs.Run.log_metrics = measured
# The processes that judge roots and the like start when the first such answer comes, each with two pipes.
checker = default_checker()
roots = [(fr"\\sqrt{{{number}}}+1", fr"1+\\sqrt{{{number}}}") for number in (2, 3, 5, 7)]
assert all(checker.check_many(roots[: max(2, checker.workers)]))
sys.exit(cli.main(sys.argv[2:]))
"""

COLD_START = {"limit": 1600, "max_steps": 100, "eval_strategy": "no", "seed": 0}
RL: dict[str, Any] = {
    "dataset": "arithmetic:wide", "limit": 256, "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1, "num_generations": 4, "max_completion_length": 64,
    "sampling": "adaptive", "rewards": "alternating", "save_steps": 100, "save_total_limit": 2,
    "learning_rate": 1e-6, "max_steps": STEPS,
}  # fmt: skip
"""As small as a step can be that does all a step does: groups that disagree, blocks that fork and join. At
this learning rate the responses keep their length, so that a step costs the same from first to last."""

UNITS = {
    "rss": ("RSS, MiB", 2**20),
    "heap": ("malloc in use, MiB", 2**20),
    "blocks": ("Python blocks, k", 1e3),
    "files": ("open files", 1),
    "threads": ("threads", 1),
    "wall": ("step, ms", 1e-3),
    "cpu": ("step, CPU ms", 1e-3),
    "fixed": ("fixed work, CPU ms", 1e-3),
    "tokens": ("tokens a response", 1),
    "dead": ("dead groups", 1),
}


def prl(command: str, folder: Path, given: dict[str, Any], how: list[str]) -> None:
    words = [*how, command, "--recipe", "tiny", "--threads", "1", "--output_dir", str(folder)]
    words += ["--attention", "structured", *(str(word) for key in given for word in (f"--{key}", given[key]))]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-4000:]


def by_decile(rows: list[dict[str, Any]], name: str) -> list[float]:
    """The median over each tenth of the run; the mean of what is itself an average of few."""
    size = len(rows) // 10
    tenths = [[row[name] for row in rows[start : start + size]] for start in range(0, 10 * size, size)]
    return [
        statistics.mean(tenth) if name in ("tokens", "dead") else statistics.median(tenth) for tenth in tenths
    ]


def test_a_long_run_takes_no_more_memory_or_time_by_the_step(tmp_path: Path) -> None:
    prl("sft", tmp_path / "sft", COLD_START, ["-m", "prl"])
    measured = tmp_path / "measured.jsonl"
    given = RL | {"model_name_or_path": str(tmp_path / "sft")}
    prl("rl", tmp_path / "rl", given, ["-c", CHILD, str(measured)])

    rows = [json.loads(line) for line in measured.read_text().splitlines()]
    table = {name: by_decile(rows, name) for name in UNITS}
    print(f"\n{STEPS} steps, by tenths of the run")
    for name, values in table.items():
        label, unit = UNITS[name]
        print(f"  {label:20}" + "".join(f"{value / unit:>9.2f}" for value in values))

    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert runs.read_samples(tmp_path / "rl").num_rows == STEPS * RL["per_device_train_batch_size"]
    assert table["dead"][-1] < 1, "no group disagrees: nothing is trained"
    after_warm_up = {name: values[-1] / max(values[1], 1) for name, values in table.items()}
    assert after_warm_up["rss"] <= 1.02, table["rss"]
    assert after_warm_up["heap"] <= 1.02, table["heap"]
    assert after_warm_up["blocks"] <= 1.02, table["blocks"]
    assert table["files"][-1] <= table["files"][1]
    assert table["threads"][-1] <= table["threads"][1]
    slower = [cpu / fixed for cpu, fixed in zip(table["cpu"], table["fixed"], strict=True)]
    assert slower[-1] / slower[1] <= 1.10, table["cpu"]

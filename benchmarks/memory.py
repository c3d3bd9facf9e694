"""Forecast against measurement: is `prl.machine.memory` right (`make bench-memory`).

Each setting is a real `prl sft` or `prl rl` of one step on a CPU that begins with its longest step
(`--rehearse on`). Measured is what torch's CPU allocator handed out and took back, as the profiler's hooks
report every allocation (`profile_memory`): not RSS, which also counts libraries and what is cached. The
forecast gets the lengths that the data really has. Its error is a share of what was measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT / ".cache" / "smollm2-135m"
BAR = 0.15

SFT = {"limit": 100, "sample_count": 0, "eval_limit": 4, "per_device_eval_batch_size": 4, "max_steps": 1,
       "warmup_steps": 0}  # fmt: skip
RL = {"limit": 100, "max_steps": 1, "rewards": ["accuracy"]}
SMOL = {"model_name_or_path": str(REAL), "lora_r": 16}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny sft, 8 rows": ("sft", {"per_device_train_batch_size": 8}),
    "tiny sft, 32 rows": ("sft", {"per_device_train_batch_size": 32}),
    "tiny sft, 32 rows, checkpointing": (
        "sft", {"per_device_train_batch_size": 32, "activation_checkpointing": True}
    ),
    "tiny sft, 32 rows, structured": (
        "sft", {"per_device_train_batch_size": 32, "attention": "structured"}
    ),
    "tiny rl, 16 x 64 tokens": (
        "rl", {"per_device_train_batch_size": 16, "max_completion_length": 64}
    ),
    "tiny rl, 64 x 256 tokens": ("rl", {"per_device_train_batch_size": 64}),
    "tiny rl, 64 x 256 tokens, structured": (
        "rl", {"per_device_train_batch_size": 64, "attention": "structured"}
    ),
    "tiny rl, 8 x 512 tokens, checkpointing": (
        "rl",
        {"per_device_train_batch_size": 8, "max_completion_length": 512, "activation_checkpointing": True},
    ),
    "135M sft, 2 rows": ("sft", {"per_device_train_batch_size": 2, "max_length": 512, **SMOL}),
    "135M sft, 8 rows, checkpointing": (
        "sft",
        {"per_device_train_batch_size": 8, "max_length": 512, "activation_checkpointing": True, **SMOL},
    ),
    "135M rl, 4 x 64 tokens": (
        "rl",
        {
            "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_generations": 4,
            "max_completion_length": 64, **SMOL,
        },
    ),
    "135M rl, 16 responses of 256 at a time": (
        "rl",
        {
            "per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, "num_generations": 8,
            "max_completion_length": 256, **SMOL,
        },
    ),
    "135M sft, 4 rows, bf16": (
        "sft", {"per_device_train_batch_size": 4, "max_length": 512, "dtype": "bfloat16", **SMOL}
    ),
    "135M sft, 4 rows, QLoRA, bf16": (
        "sft",
        {
            "per_device_train_batch_size": 4, "max_length": 512, "dtype": "bfloat16", "load_in_4bit": True,
            **SMOL,
        },
    ),
    "135M rl, 4 x 64 tokens, QLoRA, bf16": (
        "rl",
        {
            "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_generations": 4,
            "max_completion_length": 64, "dtype": "bfloat16", "load_in_4bit": True, **SMOL,
        },
    ),
}  # fmt: skip
QUICK = ("tiny sft, 8 rows", "tiny rl, 16 x 64 tokens")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", help="these settings only")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(measure(*SETTINGS[given.one])))
        return 0
    names = given.only or [name for name in SETTINGS if "135M" not in name or REAL.is_dir()]
    print(f"{'setting':40} {'measured':>10} {'forecast':>10} {'error':>7}  peak at   (MiB)")
    worst = 0.0
    for name in names:
        found = measured(name)
        worst = max(worst, abs(found["error"]))
        print(
            f"{name:40} {found['measured'] / 2**20:10.1f} {found['forecast'] / 2**20:10.1f} "
            f"{found['error']:+7.1%}  {found['at']}",
            flush=True,
        )
    print(f"largest error {worst:.1%}, bar {BAR:.0%}")
    return int(worst > BAR)


def measured(name: str) -> dict[str, Any]:
    """One setting in a process of its own: nothing of the one before is left."""
    words = [sys.executable, __file__, "--one", name]
    # Weights that another thread loads would not be seen.
    environment = os.environ | {"HF_DEACTIVATE_ASYNC_LOAD": "1"}
    said = subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout
    return json.loads(said.strip().splitlines()[-1])


def measure(command: str, given: dict[str, Any]) -> dict[str, Any]:
    """Peak in bytes of a run, and the forecast for it."""
    from prl import rl, sft
    from prl.config import resolve
    from prl.model import load_model

    with tempfile.TemporaryDirectory() as folder:
        base = SFT if command == "sft" else RL
        if given.get("attention") == "structured":  # which RL takes only where tokens can open a block
            for part in load_model("tiny", tags="tokens"):
                part.save_pretrained(f"{folder}/tagged")
            given = {"model_name_or_path": f"{folder}/tagged", **given}
        settings = resolve(
            command, recipe="tiny", threads=1, rehearse="on", save_strategy="no",
            output_dir=f"{folder}/run", **base | given,
        )  # fmt: skip
        with noted_passes() as passes, noted_peak("cpu") as peak:
            (sft if command == "sft" else rl).run(settings)
        found = forecast_of(settings, passes)
    measured = peak["allocated"]
    error = found.peak / measured - 1
    return {"measured": measured, "forecast": found.peak, "at": found.at, "error": error}


@contextmanager
def noted_passes() -> Iterator[list[tuple[int, int, int, int]]]:
    """Within, a training notes rows, prompt, response and what rows share of each pass of its first
    micro-batch."""
    from prl.trainer.micro_batches import MicroBatches
    from prl.trainer.packing import shared_by_all

    passes: list[tuple[int, int, int, int]] = []
    parts_of = MicroBatches._parts

    def noted(self: Any, inputs: dict[str, Any]) -> list[dict[str, Any]]:
        parts = parts_of(self, inputs)
        if not passes and "labels" in inputs:
            for part in parts:
                (rows, width), labelled = part["input_ids"].shape, part["labels"] != -100
                completion = math.ceil(int(labelled.sum()) / rows)
                shared = shared_by_all(part["input_ids"].tolist()) if rows > 1 else 0
                passes.append((rows, width - completion, completion, shared))
        elif not passes:
            widths = (inputs[name].shape[1] for name in ("prompt_ids", "completion_ids"))
            passes.append((len(parts[0]["prompt_ids"]), *widths, 0))
        return parts

    MicroBatches._parts = noted
    try:
        yield passes
    finally:
        MicroBatches._parts = parts_of


@contextmanager
def noted_peak(device: str) -> Iterator[dict[str, int]]:
    """Bytes that tensors took at most within, as `allocated`, once it is over; on a GPU also what its
    allocator had `reserved` for them. A trainer that begins to count anew is part of it."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    peak = {"allocated": 0}
    if device == "cpu":
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            yield peak
        events = profiler.profiler.kineto_results.events()
        live = 0
        for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
            live += event.nbytes()
            peak["allocated"] = max(peak["allocated"], live)
        return

    def note() -> None:
        peak["allocated"] = max(peak["allocated"], torch.cuda.max_memory_allocated())
        peak["reserved"] = max(peak.get("reserved", 0), torch.cuda.max_memory_reserved())

    def noting(*arguments: Any) -> None:
        note()
        reset(*arguments)

    reset = torch.cuda.reset_peak_memory_stats
    reset()
    torch.cuda.reset_peak_memory_stats = noting
    try:
        yield peak
    finally:
        torch.cuda.reset_peak_memory_stats = reset
        note()


def left_for_tensors(gb: int) -> int:
    """The bytes that a card of `gb` GB has free at least, less the CUDA context. ValueError where this card
    has less."""
    import torch

    from prl.machine.hardware import USABLE
    from prl.machine.memory import CUDA_CONTEXT, GIB

    most = int(USABLE * gb * GIB) - CUDA_CONTEXT
    _, total = torch.cuda.mem_get_info()
    if most > total:
        raise ValueError(f"this card has {total / GIB:.1f} GiB, less than one of {gb} GB has free")
    return most


@contextmanager
def held(most: int | None) -> Iterator[None]:
    """Within, this card gives `most` bytes for tensors, and says that no more is free; None: all it has."""
    import torch

    if most is None:
        yield
        return
    ask = torch.cuda.mem_get_info
    torch.cuda.set_per_process_memory_fraction(most / ask()[1])
    torch.cuda.mem_get_info = lambda *_: (max(0, most - torch.cuda.memory_reserved()), most)
    try:
        yield
    finally:
        torch.cuda.mem_get_info = ask
        torch.cuda.set_per_process_memory_fraction(1.0)


def forecast_of(settings: Any, passes: Sequence[tuple[int, int, int, int]]) -> Any:
    """The forecast of a training that had these passes (`noted_passes`): the one with the highest peak."""
    from prl.machine.load import load_of
    from prl.machine.memory import forecast
    from prl.machine.shape import read_shape

    is_sft = settings.command == "sft"
    load = load_of(settings) if is_sft else load_of(settings, longest_prompt=passes[0][1])
    shape = read_shape(settings.arguments.model_name_or_path)
    loads = [replace(load, rows=rows, prompt=a, completion=b, shared=c) for rows, a, b, c in passes]
    return max((forecast(shape, each) for each in loads), key=lambda each: each.peak)


if __name__ == "__main__":
    sys.exit(main())

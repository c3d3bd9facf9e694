"""What `make gpu` measures on a card, a function a part: benchmarks/cards.py runs each in its own process.

A part gets a `Job` and returns its figures, each beside what it is compared with, and details. Training is
that of benchmarks/ways.py, memory is taken and forecast as in benchmarks/memory.py, decoding and its
agreement with training as in benchmarks/decoding.py. On a CPU all of it runs too, in `mini`, without what
only a GPU has: kernels, copies from and to the host, memory that is reserved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import json
import math
import os
import re
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import ways  # first: it silences the libraries
from card_jobs import Figures, Job, Lone, bandwidth, clock_of, figure, train, work_of
from card_profiles import decode, graphs, profile_decode, profile_update
from memory import forecast_of, held, left_for_tensors, noted_passes, noted_peak

import decoding
from prl import rl
from prl.config import resolve
from prl.machine.memory import CUDA_CONTEXT, GIB, Forecast


def serve(channel: Connection, log: str, given: dict[str, Any]) -> None:
    """Answer with what the part of benchmarks/cards.py that `given` describes found; what is printed goes to
    the file `log`. A group of processes of its own, so that all of them can be ended."""
    if hasattr(os, "setsid"):
        os.setsid()
    ways.print_to(log)
    if given["device"] == "cuda" and torch.cuda._is_in_bad_fork():
        channel.send({"bad_fork": True})
        return
    job = Job(**given)
    torch.manual_seed(job.seed)
    decoding.clock = clock_of(job.device)
    gc.freeze()  # what was imported is not looked through again
    channel.send({"began": True})
    began = time.process_time()
    channel.send(PARTS[job.given["do"]](job) | {"cpu_seconds": round(time.process_time() - began, 2)})


# -- the machine


def look(job: Job) -> dict[str, Any]:
    """What `prl doctor` says, and how fast memory is."""
    from prl.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = main(["doctor", *(["--recipe", "tiny"] if job.device == "cpu" else [])])
    detail: dict[str, Any] = {"doctor": said.getvalue().splitlines(), "status": status}
    if job.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info()
        detail |= {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "processors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "total_gib": total / GIB,
            "free_gib": free / GIB,
        }
    speed = figure("memory bandwidth, copying", bandwidth(job) / 1e9, "GB/s")
    return {"figures": [speed], "detail": detail}


# -- sampling against scoring


def agree(job: Job) -> dict[str, Any]:
    """How far sampled log-probabilities are from those of the training forward pass: of the tiny model with
    random weights, which does everything that can happen, and of the model."""
    name = job.given["dtype"]
    dtype = getattr(torch, name)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    model, tokenizer = decoding.random_tiny(dtype, job.device)
    for attention in ("causal", "structured"):
        found["tiny", attention] = decoding.compare(
            f"tiny {name}", model, tokenizer, attention, job.amount.agreement, samples=job.amount.samples
        )
    model, tokenizer = job.load(dtype)
    more = math.log(model.config.vocab_size) - 5.7  # so that tags come as often as in the tiny one
    decoding.bias_tags(model, tokenizer, tags=3 + more, other=1.5 + more, end=1 + more)
    for attention in ("causal", "structured"):
        found[job.shape, attention] = decoding.compare(
            f"{job.shape} {name}", model, tokenizer, attention, job.amount.sampled, samples=1
        )
    figures = []
    for (of, attention), result in found.items():
        beside: tuple[str, float] = ("the bar", 1e-4)
        if dtype != torch.float32:
            beside = ("causal", found[of, "causal"]["max_gap"])
        figures.append(figure(f"largest gap, {of}, {attention}", result["max_gap"], "nats", *beside))
    return {"figures": figures, "detail": {"runs": list(found.values())}}


def agree_in_rl(job: Job) -> dict[str, Any]:
    """How far they are as RL itself logs it, with an adapter and structured attention: two steps of responses
    that are really sampled. The first one moves the adapter, which else would compute nothing."""

    def in_turn(completions: list[Any], **_: Any) -> list[float]:
        return [float(row % 2) for row in range(len(completions))]

    length = job.amount.least
    given = {"load_in_4bit": job.given["four_bit"], "max_completion_length": length, "learning_rate": 0.01}
    work = work_of(job, "rl", "prl structured", job.model(), turns=2, given=given)
    settings = ways.rl_settings(work)
    rl.run(settings, rewards=[in_turn])
    logged = metrics_of(settings)
    gaps = {
        name: [line[f"sampling_gap/{name}"] for line in logged if "loss" in line] for name in ("max", "mean")
    }
    figures = [figure("largest gap", max(gaps["max"]), "nats"), figure("mean gap", max(gaps["mean"]), "nats")]
    return {"figures": figures, "detail": {"steps": gaps}}


def metrics_of(settings: Any) -> list[dict[str, Any]]:
    """What the run of these settings logged."""
    file = Path(settings.trainer.output_dir, "metrics.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


# -- steps of training, with their memory beside the forecast


def step(job: Job) -> dict[str, Any]:
    """Steps of prl or of plain TRL, on the same tokens."""
    command, way = job.given["command"], job.given["way"]
    channel = Lone()
    train(work_of(job, command, way, job.model()), channel)
    turns = channel.turns
    seconds = statistics.median(turn["seconds"] for turn in turns)
    values = {
        "a step": (seconds, "s"),
        "tokens": (statistics.median(turn["tokens"] / turn["seconds"] for turn in turns), "tokens/s"),
        "peak": (max(turn["peak"] for turn in turns), "GiB"),
    }
    figures = [
        figure(name, value, unit, *(("plain TRL", job.before[name]) if name in job.before else ()))
        for name, (value, unit) in values.items()
    ]
    return {"figures": figures, "detail": {"turns": channel.said[1:]}}


def remember(job: Job) -> dict[str, Any]:
    """A step of a recipe, the longest that its settings allow before it, and their peak beside the forecast;
    the card is held to the recipe's memory if the part says so."""
    command, recipe, attention = (job.given[name] for name in ("command", "recipe", "attention"))
    is_held = job.given["held"] and job.device == "cuda"
    most = left_for_tensors(int(recipe.removesuffix("gb"))) if is_held else None
    own = resolve(command, recipe=recipe, device=job.device, prompt_style=job.prompt_style)
    shape = job.shape
    if job.given["held"] and shape != "mini":
        shape = shape_named(own.arguments.model_name_or_path)
    changed = job.amount.settings | (job.amount.recipe_sft if command == "sft" else job.amount.recipe_rl)

    def setting(name: str) -> Any:
        return changed.get(name, getattr(own.trainer, name))

    rows = setting("per_device_train_batch_size")
    given: dict[str, Any] = {"recipe": recipe, "load_in_4bit": job.given["four_bit"], "rehearse": "on"}
    given |= {"per_device_train_batch_size": rows} | changed
    size: dict[str, Any] = {"lora_r": own.arguments.lora_r, "turns": 1}
    if command == "sft":
        given |= {"attention": attention, "eval_limit": setting("per_device_eval_batch_size")}
        size |= {"max_length": setting("max_length")}
    else:
        steps, group = setting("steps_per_generation"), setting("num_generations")
        given |= {"steps_per_generation": steps, "gradient_accumulation_steps": steps}
        given |= {"num_generations": group, "max_completion_length": setting("max_completion_length")}
        size |= {"groups": steps * rows // group, "group": group}
        size |= {"completion": job.amount.least}
    way = "prl structured" if attention == "structured" else "prl"
    work = work_of(job, command, way, job.model(shape), given=given, **size)
    if job.device == "cuda":  # what making the model left
        gc.collect()
        torch.cuda.empty_cache()
    channel = Lone()
    with held(most), noted_passes() as passes, noted_peak(job.device) as peak:
        train(work, channel)
    settings = ways.sft_settings(work) if command == "sft" else ways.rl_settings(work)
    now = forecast_of(settings, passes)
    figures = memory_figures(job, now, peak)
    halved = sorted({name for line in metrics_of(settings) for name in line if name in HALVED})
    figures.append(figure("sizes that were halved", len(halved), ""))
    figures.append(figure("the first step", channel.said[-1]["seconds"], "s"))
    kept = {name: given[name] for name in sorted(given) if name != "recipe"}
    detail = {"shape": shape, "at": now.at, "halved": halved, "passes": passes, "settings": kept}
    detail |= {"held_to_gib": most and most / GIB, "items": [dataclasses.asdict(item) for item in now.items]}
    return {"figures": figures, "detail": detail}


HALVED = ("memory/micro_batch", "memory/rollout_batch")
"""What a run logs that went on with less at once."""


def shape_named(model: str) -> str:
    """`0.6b` of Qwen/Qwen3-0.6B-Base."""
    found = re.search(r"Qwen3-([\d.]+B)", model)
    if not found:
        raise ValueError(f"{model} is no Qwen3: its shape is not known here")
    return found[1].lower()


def memory_figures(job: Job, now: Forecast, peak: dict[str, int]) -> Figures:
    """The peak of tensors, and of all that the card was asked for, beside the forecast of each."""
    assumed = sum(
        item.bytes
        for item in now.items
        if item.phase in ("static", now.at) and item.name in ("CUDA", "fragmentation")
    )
    tensors, all_told = (now.peak - assumed) / GIB, now.peak / GIB
    figures = [figure("peak of tensors", peak["allocated"] / GIB, "GiB", "forecast", tensors)]
    if job.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        context = total - free - torch.cuda.memory_reserved()
        reserved = (peak["reserved"] + context) / GIB
        figures.append(figure("peak of all", reserved, "GiB", "forecast", all_told))
        figures.append(figure("CUDA context", context / GIB, "GiB", "assumed", CUDA_CONTEXT / GIB))
    return figures


PARTS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "look": look,
    "agree": agree,
    "agree_in_rl": agree_in_rl,
    "remember": remember,
    "decode": decode,
    "graphs": graphs,
    "step": step,
    "profile_decode": profile_decode,
    "profile_update": profile_update,
}

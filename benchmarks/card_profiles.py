"""How fast decoding is, and what one step of it and one update launch: parts of `make gpu`."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import ways  # first: it silences the libraries
from card_jobs import Figures, Job, Lone, bandwidth, figure, train, work_of
from launches import Event, counted
from torch.profiler import ProfilerActivity, profile

import decoding
from prl.decoding import ForkJoinDecoder, Limits, Response, steps
from prl.machine.memory import GIB
from prl.prompts import render_prompt
from prl.structure import Tags

# -- decoding


def decode(job: Job) -> dict[str, Any]:
    """Tokens a second, four ways, of prescribed responses with four paths."""
    model, tokenizer = job.load(job.dtype)
    figures, runs, size = [], [], job.amount.size
    for batch in job.amount.batches:
        if job.device == "cuda":
            short = dataclasses.replace(size, prefix=2, path=2, summary=2)
            decoding.speed("warm-up", model, tokenizer, short, ways.PATHS, batch)
        found = decoding.speed(job.shape, model, tokenizer, size, ways.PATHS, batch)
        speeds = {name: way["tokens_per_second"] for name, way in found["ways"].items()}
        generate = speeds.pop("model.generate")
        for name, speed in speeds.items():
            label = f"{name}, {batch} side by side"
            figures.append(figure(label, speed, "tokens/s", "model.generate", generate))
        runs.append(found)
    return {"figures": figures, "detail": {"runs": runs}}


def profile_decode(job: Job) -> dict[str, Any]:
    """A step of causal decoding and of `model.generate` in eager mode: how long it takes beside the time in
    which weights and cache can be read once, kernels launched, copies between host and device.

    Each is the difference between responses of two lengths, so that prefill and all that is done once are
    left out.
    """
    model, tokenizer = job.load(job.dtype)
    amount, rows = job.amount, job.amount.rows
    words, header = decoding.plain_tokens(tokenizer), list(Tags.of(tokenizer).header)
    samples = min(8, rows)

    def text(start: int, count: int) -> list[int]:
        return [words[i % len(words)] for i in range(start, start + count)]

    prompts = [text(i, amount.size.prompt - len(header)) + header for i in range(rows // samples)]
    way = decoding.Way(lambda way: [])
    found = {}
    for name, write in (("prl", decoding.decode), ("model.generate", decoding.generate)):
        taken = []
        for length in amount.profiled:
            responses = [[*text(r, length - 1), tokenizer.eos_token_id] for r in range(rows)]

            def run(write: Any = write, responses: Any = responses) -> None:
                write(way, model, tokenizer, prompts, responses, samples=samples)

            seconds = []
            for _ in range(4):  # the first warms up
                began = decoding.clock()
                run()
                seconds.append(decoding.clock() - began)
            with profiled(job) as counts:
                run()
            taken.append(counts | {"seconds": statistics.median(seconds[1:])})
        short, long = taken
        steps = amount.profiled[1] - amount.profiled[0]
        found[name] = {
            key: None if long[key] is None else (long[key] - short[key]) / steps for key in COUNTED
        } | {"top": long["top"]}
    figures, (ours, theirs) = reading_once(job, model), found.values()
    for key, (label, unit, scale) in COUNTED.items():
        values = [None if each[key] is None else scale * each[key] for each in (ours, theirs)]
        figures.append(figure(f"{label} a step", values[0], unit, "model.generate", values[1]))
    launches = [each["launches"] and each["launches"] / rows for each in (ours, theirs)]
    figures.append(figure("launches a token", launches[0], "", "model.generate", launches[1]))
    least = figures[0]["value"]
    figures.append(figure("a step", 1000 * ours["seconds"], "ms", "reading once", least))
    return {"figures": figures, "detail": {"rows": rows, "ways": found}}


def graphs(job: Job) -> dict[str, Any]:
    """Whole responses with four paths whose steps are captured as graphs, beside the same kernel by kernel,
    in the graphs' sizes and in their own: tokens, log-probabilities up to the first that differs, speed,
    launches. Prefill and capturing are part of it."""
    model, tokenizer = job.load(job.dtype)
    more = math.log(model.config.vocab_size) - 5.7
    decoding.bias_tags(model, tokenizer, tags=3 + more, other=1.5 + more, end=1 + more)
    rows, samples = job.amount.rows, min(8, job.amount.rows)
    prompts = [render_prompt(f"{i} + {i}", "bare") for i in range(rows // samples)]
    limits = Limits(3 * job.amount.completion, 4)
    decoder = ForkJoinDecoder(model, tokenizer, attention="structured", limits=limits, batch_size=rows)
    found: dict[str, dict[str, Any]] = {}
    written: dict[str, list[Response]] = {}
    for way in ("exact", "rounded", "captured")[: 3 if job.device == "cuda" else 2]:
        with patch.object(steps, "way_of", lambda device, way=way: way):
            for _ in range(2):  # the first warms up
                began = decoding.clock()
                answers = decoder.generate(prompts, samples=samples, seed=job.seed)
                seconds = decoding.clock() - began
            with profiled(job) as counts:
                decoder.generate(prompts, samples=samples, seed=job.seed)
        written[way] = [response for group in answers for response in group]
        tokens = sum(len(response.token_ids) for response in written[way])
        launches = counts["launches"] and counts["launches"] / tokens
        found[way] = {
            "steps": decoder.steps,
            "tokens": tokens,
            "speed": tokens / seconds,
            "launches": launches,
        }
    figures = []
    for one, other in (("captured", "rounded"), ("rounded", "exact")):
        differ, gap = apart(written[one], written[other]) if one in written else (None, None)
        figures.append(figure(f"responses that differ, {one} and {other}", differ, "", "all", rows))
        figures.append(figure(f"largest gap, {one} and {other}", gap, "nats"))
    for key, label, unit in (("speed", "speed", "tokens/s"), ("launches", "launches a token", "")):
        for way in ("captured", "rounded"):
            value = found.get(way, {}).get(key)
            figures.append(figure(f"{label}, {way}", value, unit, "exact", found["exact"][key]))
    return {"figures": figures, "detail": {"rows": rows, "ways": found}}


def apart(ones: list[Response], others: list[Response]) -> tuple[int, float]:
    """How many have other tokens, and the largest difference of log-probabilities before these."""
    gap = 0.0
    for one, other in zip(ones, others, strict=True):
        for token, also, mine, theirs in zip(
            one.token_ids, other.token_ids, one.logprobs, other.logprobs, strict=False
        ):
            if token != also:
                break
            gap = max(gap, 0.0 if math.isnan(mine - theirs) else abs(mine - theirs))
    return sum(one.token_ids != other.token_ids for one, other in zip(ones, others, strict=True)), gap


COUNTED = {
    "seconds": ("time", "ms", 1000),
    "busy": ("device busy", "ms", 1000),
    "launches": ("launches", "", 1),
    "kernels": ("kernels", "", 1),
    "copies": ("host copies", "", 1),
    "waits": ("waits of the host", "", 1),
    "operators": ("operators of torch", "", 1),
}


def reading_once(job: Job, model: Any) -> Figures:
    """In which time the bytes that a step has to read could be read."""
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    config = model.config
    slots = job.amount.size.prompt + sum(job.amount.profiled) / 2
    slot = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * job.dtype.itemsize
    rate = bandwidth(job)
    read = weights + job.amount.rows * slots * slot
    return [
        figure("reading weights and cache once", 1000 * read / rate, "ms"),
        figure("bytes of weights and cache", read / GIB, "GiB"),
        figure("memory bandwidth, copying", rate / 1e9, "GB/s"),
    ]


@contextmanager
def profiled(job: Job) -> Iterator[dict[str, Any]]:
    """What ran within, by torch's profiler, once it is over, as `launches.counted` has it."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (job.device == "cuda")
    found: dict[str, Any] = {}
    with profile(activities=activities) as profiler:
        yield found
        if job.device == "cuda":
            torch.cuda.synchronize()
    events = (
        Event(each.name(), each.device_type() != torch.autograd.DeviceType.CPU, each.duration_ns())
        for each in profiler.profiler.kineto_results.events()
        if not each.is_user_annotation()  # a span of others, which are there too
    )
    found |= counted(events, has_device=job.device == "cuda")


def profile_update(job: Job) -> dict[str, Any]:
    """An RL step that only updates: its responses were sampled before, with those of the first. The second
    step is timed, the third profiled."""
    rows = 2 if job.shape == "mini" else 4
    group = job.amount.grpo["group"]
    given = {
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 6,
        "load_in_4bit": job.given["four_bit"],
    }
    work = work_of(job, "rl", "prl", job.model(), turns=3, groups=6 * rows // group, group=group, given=given)
    running: list[Any] = []

    def turn(number: int) -> None:
        if number == 2:
            running.append(profiled(job))
            running.append(running[0].__enter__())

    def over(number: int) -> None:
        if number == 2:
            running[0].__exit__(None, None, None)

    channel = Lone(turn, over)
    train(work, channel)
    counts, seconds = running[1], channel.said[2]["seconds"]
    figures = [
        figure("an update of 2 passes", 1000 * seconds, "ms"),
        figure("device busy", counts["busy"] and 1000 * counts["busy"], "ms", "the update", 1000 * seconds),
        *(figure(COUNTED[key][0], counts[key], "") for key in COUNTED if key not in ("seconds", "busy")),
    ]
    return {"figures": figures, "detail": {"rows": 2 * rows, "top": counts["top"]}}

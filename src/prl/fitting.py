"""What to change, and in which order, when a stage does not fit the memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prl.config import Settings
    from prl.memory import Load, Shape

SHORTEST = 256
"""Tokens under which a completion is not shortened: a block and an answer need some."""

_WORTH = 0.99  # a change that saves less than a hundredth is not worth telling


@dataclass(frozen=True)
class Change:
    """The settings after a change, why, and the peak that is forecast with it and all before it."""

    flags: dict[str, Any]
    why: str
    peak: int
    shape: Shape = field(repr=False)
    load: Load = field(repr=False)


def changes(shape: Shape, load: Load, available: int) -> list[Change]:
    """What to change so that the peak fits `available` bytes, in the order to try, each on top of the last.

    First what costs time only, then what changes what is learnt: micro-batch (the effective batch is kept by
    accumulation), responses side by side, checkpointing, length, quantisation, a smaller model. Of each the
    mildest that is enough, else the furthest that helps. Stops when it fits; the last `peak` says whether it
    does. Fewer responses to a problem (`num_generations`) save nothing, since only `rollout_batch_size` of
    them are in memory at once. `load` as `prl.memory.load_of` gives it: `Load.flags` says how it is set.
    """
    from prl.memory import forecast

    found: list[Change] = []
    peak = forecast(shape, load).peak
    for knob in (_micro_batch, _side_by_side, _checkpointing, _length, _quantisation, _smaller_model):
        if peak <= available:
            break
        best: Change | None = None
        for flags, why, next_shape, next_load in knob(shape, load):
            now = forecast(next_shape, next_load).peak
            if now > _WORTH * (best.peak if best else peak):
                continue
            best = Change(flags, why, now, next_shape, next_load)
            if now <= available:
                break
        if best:
            found.append(best)
            shape, load, peak = best.shape, best.load, best.peak
    return found


Step = tuple[dict[str, Any], str, "Shape", "Load"]


def _micro_batch(shape: Shape, load: Load) -> Iterator[Step]:
    rows, accumulation, steps = load.rows, load.accumulation, load.steps_per_generation
    while rows > 1 and rows % 2 == 0:
        rows, accumulation, steps = rows // 2, accumulation * 2, steps * 2
        flags = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation}
        if steps:
            flags["steps_per_generation"] = steps
        changed = replace(load, rows=rows, accumulation=accumulation, steps_per_generation=steps)
        yield flags, "the same batch in more passes", shape, changed


def _side_by_side(shape: Shape, load: Load) -> Iterator[Step]:
    rows = load.rollout_rows
    name = {"rl": "rollout_batch_size", "eval": "batch_size", "sft": "per_device_eval_batch_size"}.get(
        load.command
    )
    while name and max(rows, load.eval_rows) > 1:
        rows = max(rows, load.eval_rows if load.command == "sft" else 0) // 2
        changed = replace(load, rollout_rows=rows, eval_rows=min(load.eval_rows, rows), is_refilled=True)
        load = changed
        yield {name: rows}, "fewer responses at a time, slower", shape, changed


def _checkpointing(shape: Shape, load: Load) -> Iterator[Step]:
    if load.rows and not load.checkpointing:
        changed = replace(load, checkpointing=True)
        yield {"activation_checkpointing": True}, "about a third more time", shape, changed


def _length(shape: Shape, load: Load) -> Iterator[Step]:
    is_sft = load.command == "sft"
    name = "max_length" if is_sft else "max_completion_length"
    length = load.prompt + load.completion if is_sft else load.rollout_completion or load.completion
    while (length := length * 3 // 4 // 64 * 64) >= SHORTEST:
        if is_sft:
            changed = replace(load, completion=max(1, length - load.prompt), rollout_completion=length)
            why = "longer traces are left out"
        else:
            changed = replace(load, completion=length * bool(load.rows), rollout_completion=length)
            why = "longer responses are cut off"
        yield {name: length}, why, shape, changed


def _quantisation(shape: Shape, load: Load) -> Iterator[Step]:
    if not load.four_bit and load.device == "cuda":
        yield (
            {"load_in_4bit": True},
            "QLoRA: slower, a little less exact",
            shape,
            replace(load, four_bit=True),
        )


def _smaller_model(shape: Shape, load: Load) -> Iterator[Step]:
    from prl.memory import smaller

    while found := smaller(shape):
        name, shape = found
        yield {"model_name_or_path": name}, "a smaller model, from its base on", shape, load


def advice(
    settings: Settings[Any],
    available: int,
    *,
    shape: Shape | None = None,
    longest_prompt: int | None = None,
) -> str:
    """One line: forecast, what is free (`available`, bytes), and what to change in which order, with the
    command. Raises ModelError where the model's shape is not known."""
    from prl.memory import forecast, load_of, read_shape

    shape = shape or read_shape(settings.arguments.model_name_or_path)
    load = load_of(settings, longest_prompt)
    now = forecast(shape, load)
    told = f"forecast {_gib(now.peak)} GiB, {_gib(available)} are free"
    if now.peak <= available:
        return f"{told}: it should fit; other programs may hold memory, or the data is longer than forecast"
    steps = changes(shape, load, available)
    if not steps:
        return f"{told}: no setting makes it smaller; take a larger GPU"
    path = ", then ".join(f"{flags_of(step.flags)} ({_gib(step.peak)})" for step in steps)
    if steps[-1].peak > available:
        return f"{told}: nothing makes it fit, nearest is {path}; free memory or take a larger GPU"
    return f"{told}: {path}: {command_of(settings, steps)}"


def flags_of(flags: dict[str, Any]) -> str:
    """Settings as they are typed."""
    return " ".join(f"--{key}" if value is True else f"--{key} {value}" for key, value in flags.items())


def merged(steps: list[Change]) -> dict[str, Any]:
    """What all changes come to."""
    return {key: value for step in steps for key, value in step.flags.items()}


def command_of(settings: Settings[Any], steps: list[Change]) -> str:
    """The command with the changes. What else was typed is the user's to repeat."""
    flags = {
        "recipe": settings.recipe,
        "model_name_or_path": settings.arguments.model_name_or_path,
        "output_dir": settings.output_dir,
        **merged(steps),
    }
    return f"prl {settings.command} " + flags_of({k: v for k, v in flags.items() if v is not None})


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"

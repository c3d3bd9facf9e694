"""What to change, and in which order, when a command does not fit the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from prl.console import console
from prl.errors import ModelError, RunError
from prl.machine import hardware
from prl.machine.load import Load, load_of
from prl.machine.memory import forecast
from prl.machine.shape import Shape, read_shape, smaller

if TYPE_CHECKING:
    from prl.settings import Settings

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


Step = tuple[dict[str, Any], str, Shape, Load]
Knob = Callable[[Shape, Load], Iterator[Step]]


def changes(shape: Shape, load: Load, available: int) -> list[Change]:
    """What to change so that the peak fits `available` bytes, in the order to try, each on top of the last.

    First what costs time only, then what changes what is learnt: the adapter apart in rollouts, micro-batch
    (the effective batch is kept by accumulation), responses side by side, rows of an evaluation,
    checkpointing, length, quantisation, a smaller model. Of each the mildest that is enough, else the
    furthest that helps. Stops when it fits; the last `peak` says whether it does. Fewer responses to a
    problem (`num_generations`) save nothing, since only `rollout_batch_size` of them are in memory at once.
    `load` is what `prl.machine.load.load_of` gives.
    """
    now = Change({}, "as it is", forecast(shape, load).peak, shape, load)
    found: list[Change] = []
    costing_time = (_rollout_weights, _micro_batch, _side_by_side, _evaluated)
    # As long as it helps, be it little: what one saves may be hidden until the others have been at work.
    while any(
        turned := _turned(costing_time, [now, *found][-1], available, worth) for worth in (_WORTH, 1.0)
    ):
        found += turned
    return found + _turned(
        (_checkpointing, _length, _quantisation, _smaller_model), [now, *found][-1], available
    )


def _turned(knobs: Sequence[Knob], now: Change, available: int, worth: float = _WORTH) -> list[Change]:
    """What each of `knobs` changes, on top of what the others before it and `now` have, until it fits; what
    leaves less than `worth` of the peak."""
    found: list[Change] = []
    for knob in knobs:
        if now.peak <= available:
            break
        best = now
        for flags, why, shape, load in knob(now.shape, now.load):
            peak = forecast(shape, load).peak
            if peak >= worth * best.peak:
                continue
            best = Change(flags, why, peak, shape, load)
            if peak <= available:
                break
        if best is not now:
            found.append(best)
            now = best
    return found


def _rollout_weights(shape: Shape, load: Load) -> Iterator[Step]:
    if load.is_merged:
        yield {"rollout_weights": "adapter"}, "more products", shape, replace(load, is_merged=False)


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
    is_sft = load.command == "sft"  # whose evaluation computes as many rows as it decodes
    rows = max(load.rollout_rows, load.eval_rows if is_sft else load.eval_rollout_rows)
    name = {"rl": "rollout_batch_size", "eval": "batch_size", "sft": "per_device_eval_batch_size"}.get(
        load.command
    )
    while name and rows > 1:
        rows //= 2
        changed = replace(
            load,
            rollout_rows=min(load.rollout_rows, rows),
            eval_rollout_rows=min(load.eval_rollout_rows, rows),
            eval_rows=min(load.eval_rows, rows) if is_sft else load.eval_rows,
            is_refilled=load.is_refilled or rows < load.rollout_rows,
        )
        yield {name: rows}, "fewer responses at a time, slower", shape, changed


def _evaluated(shape: Shape, load: Load) -> Iterator[Step]:
    """In RL, whole groups: trl 1.16 takes no others."""
    rows = load.eval_rows if load.command == "rl" else 0
    while rows := rows // 2 // load.eval_group * load.eval_group:
        changed = replace(load, eval_rows=rows, eval_rollout_rows=min(load.eval_rollout_rows, rows))
        yield {"per_device_eval_batch_size": rows}, "fewer rows of an evaluation at a time", shape, changed


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
    shape = shape or read_shape(settings.arguments.model_name_or_path)
    return _advice(settings, shape, load_of(settings, longest_prompt), available)


def _advice(
    settings: Settings[Any], shape: Shape, load: Load, available: int, first: Change | None = None
) -> str:
    """`first`: a change before the others, which another of its kind stands in for."""
    now = forecast(shape, load)
    told = f"forecast {_gib(now.peak)} GiB, {_gib(available)} are free"
    if now.peak <= available:
        return f"{told}: it should fit; other programs may hold memory, or the data is longer than forecast"
    steps = changes(first.shape, first.load, available) if first else changes(shape, load, available)
    if first and not (steps and steps[0].flags.keys() == first.flags.keys()):
        steps.insert(0, first)
    larger = "take a larger GPU" if load.device == "cuda" else "take a machine with more"
    if not steps:
        return f"{told}: no setting makes it smaller; {larger}"
    path = ", then ".join(f"{flags_of(step.flags)} ({_gib(step.peak)})" for step in steps)
    if steps[-1].peak > available:
        return f"{told}: nothing makes it fit, nearest is {path}; free memory or {larger}"
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


# --- Before a run


@dataclass(frozen=True)
class Extent:
    """What the data of a run asks for: rows that a batch can have at the most (`held_out`: in an evaluation
    during `sft` or `rl`), and tokens of the longest: in `sft` with its trace, else of the prompt alone;
    `shared` are those that all rows of `sft` begin with."""

    rows: int = 1
    longest: int = 1
    held_out: int = 0
    longest_held_out: int = 1
    shared: int = 0


def extent_of_prompts(prompts: Sequence[str], tokenizer: Any, samples: int = 1) -> Extent:
    """Of `samples` responses to each; the prompt of most letters stands for the longest."""
    longest = tokenizer(max(prompts, key=len), add_special_tokens=False)["input_ids"]
    return Extent(len(prompts) * samples, len(longest))


CPU_ERROR, GPU_ERROR = 0.15, 0.4
"""How far the forecast may lie above what is taken: 13.8 % was measured on CPUs, 40 % is beside what others
published of GPUs (docs/memory.md)."""


def check_fits(settings: Settings[Any], extent: Extent | None = None) -> None:
    """Refuse a command (sft, rl, eval) that is sure to run out of memory, before it allocates anything: by
    its weights alone before they are loaded, and by its batches once the `extent` of its data is known.

    The kernel would kill it on a CPU: RunError where the least that the data asks for is more than there is,
    swap included. On a GPU prl halves batches until they fit: RunError where one row is too much, by however
    much the forecast lies too high. One line where the most that may be asked for is more than is free. A
    model whose shape is not known passes; what is wrong with it shows when it is loaded.
    """
    try:
        shape, load = read_shape(settings.arguments.model_name_or_path), load_of(settings)
    except ModelError:
        return
    on_cpu, known = load.device == "cpu", extent or Extent()
    most, error = _most(load, known) if extent else load, CPU_ERROR if on_cpu else GPU_ERROR
    least = _least(_most(load, known), known)
    if not (on_cpu and extent):
        least = [_one_row(each) for each in least]
    available = hardware.usable_memory(load.device)
    sure = max(forecast(shape, each).peak for each in least) / (1 + error)
    if sure > (hardware.usable_memory("cpu", swap=True) if on_cpu else available):
        told = _advice(settings, shape, most, available, _cut(shape, load, most))
        raise RunError(f"{load.command} will not fit the memory: {told}")
    if extent and forecast(shape, most).peak > available:
        told = _advice(settings, shape, most, available, _cut(shape, load, most))
        rest = "" if on_cpu else ", then fewer rows are computed at once"
        console.print(f"warning: {load.command} may not fit the memory{rest}: {told}", markup=False)


def merges(settings: Settings[Any], available: int | None = None) -> tuple[bool, str]:
    """Whether rollouts take the adapter merged into the weights (--rollout_weights), and why; "" where it is
    exact, or what the user decided. `available` bytes are free; None: what this process can get."""
    asked, load = settings.arguments.rollout_weights, load_of(settings)
    if not load.rollout_rows or (load.dtype == "float32" and not load.four_bit):
        return False, ""
    if asked != "auto":
        return asked == "merged", ""
    try:
        shape = read_shape(settings.arguments.model_name_or_path)
    except ModelError:
        return False, "adapter: what merged weights would take is not known of this model"
    peak = forecast(shape, replace(load, is_merged=True)).peak
    free = hardware.usable_memory(load.device) if available is None else available
    fits = peak <= free
    told = f"{_gib(peak)} GiB are forecast with merged ones, {_gib(free)} are free"
    return fits, f"{'merged' if fits else 'adapter'}: {told}"


def _most(load: Load, extent: Extent) -> Load:
    """`load` with no more rows than there are, and those of training as long as they are."""
    if load.command == "sft":
        load = replace(
            load,
            rows=min(load.rows, extent.rows),
            eval_rows=min(load.eval_rows, extent.held_out),
            rollout_rows=max(1, min(load.rollout_rows, extent.held_out)),
            shared=extent.shared,
        )
        return _of_length(load, max(extent.longest, extent.longest_held_out))
    if load.command == "rl":
        longest = max(extent.longest, extent.longest_held_out if load.eval_rows else 1)
        return replace(
            load,
            prompt=longest,
            rollout_prompt=longest,
            eval_rows=min(load.eval_rows, extent.held_out),
            eval_rollout_rows=min(load.eval_rollout_rows, extent.held_out),
        )
    return replace(load, rollout_rows=min(load.rollout_rows, extent.rows), rollout_prompt=extent.longest)


def _least(most: Load, extent: Extent) -> list[Load]:
    """What happens in any case: the longest row in a batch, of training and of evaluation, and responses of
    one token."""
    most = replace(most, rollout_completion=1)
    if most.command == "rl":
        trained = replace(most, completion=1, prompt=extent.longest, rollout_prompt=extent.longest)
        least = [replace(trained, eval_rows=0, eval_rollout_rows=0)]
        if most.eval_rows:
            prompt = extent.longest_held_out
            evaluated = replace(trained, prompt=min(prompt, extent.longest), rollout_prompt=prompt)
            least.append(replace(evaluated, rows=1, rollout_rows=0))
        return least
    if most.command != "sft":
        return [replace(most, completion=1)]
    return [
        _of_length(replace(most, eval_rows=0), extent.longest),
        _of_length(replace(most, rows=1), extent.longest_held_out),
    ]


def _one_row(load: Load) -> Load:
    return replace(
        load,
        rows=min(1, load.rows),
        eval_rows=0,
        rollout_rows=min(1, load.rollout_rows),
        eval_rollout_rows=min(1, load.eval_rollout_rows),
    )


def _of_length(load: Load, tokens: int) -> Load:
    prompt = max(1, min(load.prompt, tokens // 2))
    return replace(load, prompt=prompt, completion=max(1, tokens - prompt), rollout_prompt=prompt)


def _cut(shape: Shape, load: Load, most: Load) -> Change | None:
    """The first change where a batch is bounded by the data: to a power of two, which can be halved."""
    if most.rows == load.rows or most.rows < 2:
        return None
    rows = 2 ** (most.rows.bit_length() - 1) // (2 if most.rows.bit_count() == 1 else 1)
    cut = replace(most, rows=rows, accumulation=2 * load.accumulation)
    peak = forecast(shape, cut).peak
    if peak > _WORTH * forecast(shape, most).peak:
        return None
    flags = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": cut.accumulation}
    return Change(flags, "the same batch in more passes", peak, shape, cut)

"""The forecast: how much memory a command takes at its peak, item by item, before a model is loaded.

    settings = prl.config.resolve("rl", recipe="8gb")
    result = forecast(read_shape("Qwen/Qwen3-0.6B-Base"), load_of(settings))
    result.peak / 2**30, result.at, result.items

It adds up the tensors that are alive at once in the worst step: full batch, longest sequence, of a model
(`prl.machine.shape`) and of what is asked of it (`prl.machine.load`). Each term was read off the allocations
of torch 2.13, transformers 5.23, TRL 1.16 and PEFT 0.21 and is told in docs/memory.md, beside what was
measured. Nothing here imports torch. LoRA dropout, liger kernels and vLLM are not counted. What to change
when it does not fit is in `prl.machine.fitting`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from prl.machine.load import CPU_TILE, Load
from prl.machine.shape import HEAD_NORMED, NORMS, PACKED, Shape, is_one_matrix

GIB = 2**30

DRAWN_TOGETHER, PREFILL_TOKENS, SLOTS = 128, 8192, 64
"""`prl.decoding`: threads whose logits are held at a time, tokens of a prefill, slots the cache grows by."""

CUDA_CONTEXT = GIB // 2
"""The driver's context, loaded kernels and cuBLAS workspaces. Assumed: it differs by card and driver."""

CUDA_GRAPHS = GIB // 4
"""What the driver keeps of a decoder's graphs, some twenty sizes of a thousand kernels. Assumed."""

FRAGMENTATION = 0.05
"""Share of what comes and goes that the caching allocator cannot use. Assumed."""

TAG_ROWS = 6


@dataclass(frozen=True)
class Item:
    """One part of the peak. `phase` is what it belongs to: static, update, rollout, evaluation rollout (the
    responses of an evaluation of RL) or evaluation."""

    name: str
    bytes: int
    note: str = ""
    phase: str = "static"


@dataclass(frozen=True)
class Forecast:
    """Peak memory in bytes: what is always there plus the largest phase, `at` (update, rollout, evaluation
    rollout or evaluation; load where nothing else happens)."""

    command: str
    items: tuple[Item, ...]
    peak: int
    at: str


def forecast(shape: Shape, load: Load) -> Forecast:
    """The peak of a command. Never measures anything; microseconds."""
    load = replace(load, is_packed=load.is_packed and shape.architecture in PACKED)
    static = _static(shape, load)
    phases = {
        "update": _update(shape, load) if load.trains else [],
        "rollout": _rollout(shape, load) if load.rollout_rows else [],
        "evaluation rollout": _evaluation_rollout(shape, load) if load.eval_rollout_rows else [],
        "evaluation": _evaluation(shape, load) if load.eval_rows else [],
    }
    if load.device == "cuda":
        for phase, items in phases.items():
            if items:
                lost = int(FRAGMENTATION * sum(item.bytes for item in items))
                items.append(Item("fragmentation", lost, "assumed", phase))
    sizes = {phase: sum(item.bytes for item in items) for phase, items in phases.items()}
    at = max(sizes, key=lambda phase: sizes[phase])
    items = [*static, *(item for each in phases.values() for item in each)]
    peak = sum(item.bytes for item in static) + sizes[at]
    return Forecast(load.command, tuple(items), peak, at if sizes[at] else "load")


# --- What is always there


def _static(shape: Shape, load: Load) -> list[Item]:
    matrices = shape.matrices * load.weight_bytes
    note = f"{shape.parameters / 1e9:.2f} billion, {load.dtype}"
    if load.four_bit:
        # NF4 with blocks of 64 and 8-bit scales in blocks of 256 (QLoRA, arXiv 2305.14314, section 3).
        matrices = shape.matrices // 2 + shape.matrices // 64 + shape.matrices // 64 // 256 * 4
        note = f"{shape.parameters / 1e9:.2f} billion, NF4"
    table = shape.tables * shape.vocabulary * shape.hidden * load.weight_bytes
    kept = f"{8 * load.weight_bytes} bit"
    items = [
        Item("weights", matrices + shape.norm_weights * load.weight_bytes, note),
        Item("embedding", table, kept if shape.tied else f"{kept}, and the head"),
    ]
    if load.lora_r:
        trained = _adapter(shape, load)
        rows = shape.tables * TAG_ROWS * shape.hidden
        items.append(Item("adapter", trained * load.adapter_bytes, f"rank {load.lora_r}"))
        items.append(Item("tag rows", 2 * rows * load.adapter_bytes))
        if load.has_reference:
            copied = (trained + 2 * rows) * load.adapter_bytes
            items.append(Item("reference", copied, "a second adapter, for --beta"))
        if load.trains:
            states = _optimizer_bytes(load) * (trained + rows)
            items.append(Item("optimizer", states, load.optimizer))
            items.append(Item("gradients", (trained + rows) * load.adapter_bytes))
    if load.device == "cuda":
        items.append(Item("CUDA", CUDA_CONTEXT, "context and kernels, assumed"))
    return items


def _adapted(shape: Shape, load: Load) -> dict[str, tuple[int, int]]:
    if not load.lora_r:
        return {}
    everything = "all-linear" in load.targets
    return {name: size for name, size in shape.linears.items() if everything or name in load.targets}


def _adapter(shape: Shape, load: Load) -> int:
    return shape.layers * load.lora_r * sum(map(sum, _adapted(shape, load).values()))


def _optimizer_bytes(load: Load) -> int:
    """Bytes of optimizer state to a trained weight."""
    name = load.optimizer
    if "adafactor" in name or name == "sgd" or "galore" in name:
        return 0
    states = 1 if any(part in name for part in ("lion", "rmsprop", "adagrad")) else 2
    if "8bit" in name:
        return states
    return states * load.adapter_bytes


# --- The update


def _update(shape: Shape, load: Load) -> list[Item]:
    """At its peak the backward pass has all that was kept of the forward pass, and either works on the LM
    head or on a layer."""
    length, tokens = load.prompt + load.completion, load.tokens
    layer, mask = _kept_by_layer(shape, load)
    stream = load.weight_bytes
    last = load.rows * length * shape.hidden * 4
    casts = 2 * _adapter(shape, load) if load.is_mixed and load.adapter_bytes == 4 else 0
    head = _head(shape, load, load.rows)
    work, told = _mlp(shape, load, tokens), "its gradients"
    if load.checkpointing:
        kept = shape.layers * tokens * shape.hidden * stream + last + load.rows * length**2 * _is_masked(load)
        note = f"a layer's inputs of {load.rows} x {length} tokens; the rest is computed again"
        items = [Item("activations", kept, note, "update")]
        work, told = work + layer + mask + casts // shape.layers, "computed again, and its gradients"
    else:
        kept, note = shape.layers * layer + last + casts, f"of {load.rows} x {length} tokens"
        items = [Item("activations", kept, note, "update")]
        if mask:
            masks, note = (1, "one for all layers") if load.is_packed else (shape.layers, "one a layer")
            items.append(Item("attention masks", masks * mask, note, "update"))
    if work > head:
        return [*items, Item("one layer", work, told, "update")]
    return [*items, Item("LM head", head, "its gradients, in tiles", "update")]


def _is_masked(load: Load) -> bool:
    """Rows of different length are padded, and then attention takes a mask. It does where they are packed if
    a response is shorter than the prompt that is there before it, and with path windows."""
    goes_on = load.prompts < load.rows and load.completion < load.prompt
    return (load.rows > 1 and (goes_on or not load.is_packed)) or load.structured


def _kept_by_layer(shape: Shape, load: Load) -> tuple[int, int]:
    """Bytes that one layer keeps for its backward pass, and those of its mask."""
    length, tokens = load.prompt + load.completion, load.tokens
    linears, adapted = shape.linears, _adapted(shape, load)
    queries, keys = linears["q_proj"][1], linears["k_proj"][1]
    stream, attention = load.weight_bytes, (2 if load.is_mixed else 4)
    masked = _is_masked(load)

    wide = NORMS[shape.architecture] * shape.hidden * 4  # a norm keeps its input in float32
    if shape.architecture in HEAD_NORMED:
        wide += (queries + keys) * 4
    inputs = 0
    if stream != load.adapter_bytes or (load.is_mixed and stream == 4):
        # Each adapter keeps a 16-bit copy of its input.
        inputs = 2 * sum(size[0] for size in adapted.values())
    else:
        inputs += stream * shape.hidden * bool({"q_proj", "k_proj", "v_proj"} & {*adapted})
        inputs += stream * shape.hidden * bool({"gate_proj", "up_proj"} & {*adapted})
        inputs += stream * shape.intermediate * ("down_proj" in adapted)
    apart = [size for size in adapted.values() if not _is_one_matrix(load, *size)]
    ranks = load.lora_r * len(apart) * (2 if load.is_mixed or load.four_bit else 4)
    repeated = queries if masked and queries != keys else keys
    asking = 2 * queries * attention + 4 * shape.heads
    seen = load.rows * length * 2 * repeated * attention  # of shared prompts too each row has its own
    mlp = 3 * shape.intermediate * stream
    asked = length if load.prompts == load.rows else load.completion
    mask = load.rows * asked * length * attention if masked else 0
    return tokens * (wide + inputs + ranks + asking + mlp) + seen, mask


def _is_one_matrix(load: Load, inputs: int, outputs: int) -> bool:
    is_whole = load.dtype == "float32" and not load.four_bit
    return is_whole and is_one_matrix(load.tokens, load.lora_r, inputs, outputs)


def _mlp(shape: Shape, load: Load, tokens: int) -> int:
    """What a layer's MLP holds at once in a pass: forward its tensors, backward their gradients."""
    return tokens * load.weight_bytes * (2 * shape.hidden + 3 * shape.intermediate)


def _head(shape: Shape, load: Load, rows: int, *, grad: bool = True) -> int:
    """TRL's fused LM head as `prl.trainer.fused_head` has it compute: a tile of the logits of responses at a
    time, and no copy or gradient of the matrix."""
    on_gpu = load.device == "cuda"
    tokens = rows * load.completion
    compute = 2 if load.is_mixed else 4
    width = min(shape.vocabulary, load.tile_columns)
    tile = min(tokens, load.tile_rows) * width
    if not on_gpu:
        tile = min(tile, CPU_TILE)
    size = tile * compute
    size += tokens * shape.hidden * load.weight_bytes
    if load.is_mixed and load.weight_bytes == 4:
        size += width * shape.hidden * 2
    if not on_gpu:  # without Triton the tile is worked on by torch, which makes copies
        size += tile * (29 if grad else 17)
    if grad:
        size += tokens * shape.hidden * 4
    return size


# --- Rollouts and evaluation


def _rollout(shape: Shape, load: Load, phase: str = "rollout") -> list[Item]:
    """At its end all slots of the cache are in use and a full batch is drawn."""
    matrix = shape.vocabulary * shape.hidden
    folded = 2 * matrix * load.weight_bytes if load.lora_r else 0  # the tag rows, in embedding and head
    notes = ["tag rows put in"] if load.lora_r else []
    is_folded = load.is_merged or (load.dtype == "float32" and not load.four_bit)
    if is_folded and load.lora_r:
        copied = shape.linears if load.four_bit else _adapted(shape, load)
        folded += load.weight_bytes * shape.layers * sum(map(math.prod, copied.values()))
        notes.append("adapter folded in")
    if load.device == "cpu" and load.dtype == "float32":
        is_plain = load.is_merged or not load.four_bit
        sizes = [math.prod(size) for size in shape.linears.values()] * shape.layers if is_plain else []
        folded += 4 * sum([*sizes, matrix])
        notes.append("packed for the CPU")
    slots, _ = cache_slots(load.rollout_prompt, load.rollout_completion)
    note = f"{load.rollout_rows} responses x {slots} slots, {8 * load.weight_bytes} bit"
    items = [Item("KV cache", kv_cache_bytes(shape, load), note, phase)]
    if folded:
        items.insert(0, Item("copied weights", folded, ", ".join(notes), phase))
    threads = load.rollout_rows * load.paths
    copies = 4 if shape.vocabulary % 128 else 3
    copies += 5 * load.is_filtered
    drawn = 4 * min(threads, DRAWN_TOGETHER) * shape.vocabulary * copies
    groups = shape.heads // shape.kv_heads
    # All paths of all rows begin in the same step at worst, each with what it begins with.
    masks = threads * (1 + load.opening) * groups * slots * (load.weight_bytes + 2)
    prefill = 0
    if load.is_refilled:
        prefill = _prefill(shape, load, min(load.rollout_rows, max(1, PREFILL_TOKENS // load.rollout_prompt)))
    if prefill > drawn + masks:
        items.append(Item("prefill", prefill, "prompts that take a free place", phase))
    else:
        items.append(Item("drawn logits", drawn + masks, f"of {min(threads, DRAWN_TOGETHER)} threads", phase))
    if load.device == "cuda":
        # Their pool holds a pass of its own, beside that of the step that warmed up, with up to twice its
        # tokens; and of each size what it reads and leaves, whose tokens add up to less than four times that.
        tokens = threads * (1 + load.opening)
        left = 4 * 2 * tokens * (shape.hidden * load.weight_bytes + 7 * 8)
        pool = 2 * (masks + _mlp(shape, load, tokens)) + left + CUDA_GRAPHS
        items.append(Item("CUDA graphs", pool, "a pass in their own memory, and the driver's part", phase))
    return items


def _evaluation_rollout(shape: Shape, load: Load) -> list[Item]:
    """The decoder of the rollouts has the responses of an evaluation's batch, as many as may be at a time."""
    rows = load.eval_rollout_rows
    decoded = replace(load, rollout_rows=rows, is_refilled=rows < load.eval_rows)
    return _rollout(shape, decoded, "evaluation rollout")


def kv_cache_bytes(shape: Shape, load: Load) -> int:
    """Of the keys and values of all responses side by side, with all slots in use: those of all layers, and
    the keys or values of one as they were before, since growing goes layer by layer."""
    slots, before = cache_slots(load.rollout_prompt, load.rollout_completion)
    keys = load.rollout_rows * shape.kv_heads * shape.head_size * load.weight_bytes
    return 2 * keys * shape.layers * slots + keys * before


def cache_slots(prompt: int, completion: int) -> tuple[int, int]:
    """Slots of a cache row when a response is complete, and before it grew last. As `RowCache` does it."""
    slots = before = -(-prompt // SLOTS) * SLOTS
    while slots < prompt + completion:
        before, slots = slots, -(-max(slots + 1, slots * 3 // 2) // SLOTS) * SLOTS
    return slots, before


def _prefill(shape: Shape, load: Load, prompts: int) -> int:
    """A forward pass over whole prompts: the MLP's tensors, or those of attention."""
    stream, width = load.weight_bytes, load.rollout_prompt
    tokens, queries = prompts * width, shape.heads * shape.head_size
    mask = tokens * shape.heads // shape.kv_heads * width * (stream + 2)
    return mask + max(_mlp(shape, load, tokens), tokens * stream * (2 * shape.hidden + 5 * queries))


def _evaluation(shape: Shape, load: Load) -> list[Item]:
    """A forward pass that keeps nothing, and its LM head."""
    length = load.prompt + load.completion
    load = replace(load, rows=load.eval_rows, group=load.eval_group, shared=0)
    seen = load.completion if load.prompts < load.rows else length
    mask = load.rows * seen * length * (5 if not load.is_mixed else 3) * _is_masked(load)
    head = _head(shape, load, load.rows, grad=False)
    most = max(_mlp(shape, load, load.tokens) + mask, head)
    return [Item("activations", most, f"of {load.rows} x {length} tokens", "evaluation")]

"""The forecast: how much memory a stage takes at its peak, item by item, before a model is loaded.

    settings = prl.config.resolve("rl", recipe="8gb")
    result = forecast(read_shape("Qwen/Qwen3-0.6B-Base"), load_of(settings))
    result.peak / 2**30, result.at, result.items

It adds up the tensors that are alive at once in the worst step: full batch, longest sequence. Each term was
read off the allocations of torch 2.13, transformers 5.23, TRL 1.16 and PEFT 0.21 and is told in
docs/memory.md, beside what was measured. Nothing here imports torch. LoRA dropout, liger kernels and vLLM are
not counted. What to change when it does not fit is in `prl.machine.fitting`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prl import runs, tiny
from prl.errors import ModelError, first_line
from prl.machine.fitting import Change as Change
from prl.machine.fitting import advice as advice
from prl.machine.fitting import changes as changes
from prl.prompts import render_prompt

if TYPE_CHECKING:
    from prl.settings import Settings

GIB = 2**30

TILE_ROWS, TILE_COLUMNS = 4096, 32768
"""Tokens and vocabulary that TRL's fused LM head takes at a time (`TOKEN_CHUNK_SIZE` and
`_CHUNKED_LOGPROB_CHUNK_SIZE` of trl 1.16)."""

DRAWN_TOGETHER, PREFILL_TOKENS, SLOTS = 128, 8192, 64
"""`prl.decoding`: threads whose logits are held at a time, tokens of a prefill, slots the cache grows by."""

PACKED_FROM = 2**17
"""`prl.decoding.packing`: matrices of fewer elements are not packed."""

CUDA_CONTEXT = GIB // 2
"""The driver's context, loaded kernels and cuBLAS workspaces. Assumed: it differs by card and driver."""

FRAGMENTATION = 0.05
"""Share of what comes and goes that the caching allocator cannot use. Assumed."""

TAG_ROWS = 6

LAYER_KINDS = ("full_attention", "sliding_attention")
"""The kinds of layers that prl can decode, as `prl.structure` has them."""

NORMS = {
    "qwen3": 2, "qwen2": 2, "llama": 2, "mistral": 2, "smollm3": 2, "gemma": 2, "gemma2": 4, "gemma3_text": 4,
}  # fmt: skip
"""model_type -> RMSNorms of a layer beside those of queries and keys, of the architectures known here."""

_HEAD_NORMED = ("qwen3", "gemma3_text")

_QWEN3 = {
    "0.6B": (1024, 3072, 28, 16, 8, True),
    "1.7B": (2048, 6144, 28, 16, 8, True),
    "4B": (2560, 9728, 36, 32, 8, True),
    "8B": (4096, 12288, 36, 32, 8, False),
    "14B": (5120, 17408, 40, 40, 8, False),
    "32B": (5120, 25600, 64, 64, 8, False),
}
"""Hidden size, MLP size, layers, heads, key/value heads, tied head: from the config.json of each size."""

_QWEN3_NAME = re.compile(r"(?:^|/)Qwen3-([\d.]+B)(?:-Base|-Instruct-2507|-Thinking-2507)?$")


@dataclass(frozen=True)
class Shape:
    """What of a model's config.json decides its memory."""

    architecture: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """The shape in a config.json. ModelError names a key that is missing or no number, and an
        architecture that is not known here."""
        text = config.get("text_config")
        config = text if isinstance(text, Mapping) else config
        architecture = str(config.get("model_type"))
        kinds = config.get("layer_types") or ()
        if foreign := sorted({str(kind) for kind in kinds} - set(LAYER_KINDS)):
            raise ModelError(
                f"a model of type {architecture} cannot be decoded: it has layers of kind "
                f"{', '.join(foreign)}, which take no mask; use a model of the Qwen3, Llama or Gemma families"
            )
        if architecture not in NORMS:
            raise ModelError(
                f"the memory of a model of type {architecture} is not known: the forecast covers "
                f"{', '.join(NORMS)}; try it with a small --per_device_train_batch_size"
            )

        def number(key: str, default: Any = None) -> int:
            value = config.get(key) or default
            if not isinstance(value, int) or value < 1:
                raise ModelError(
                    f"config.json has no {key}, a number from 1: name another --model_name_or_path"
                )
            return value

        heads, hidden = number("num_attention_heads"), number("hidden_size")
        return cls(
            architecture,
            vocabulary=number("vocab_size"),
            hidden=hidden,
            intermediate=number("intermediate_size"),
            layers=number("num_hidden_layers"),
            heads=heads,
            kv_heads=number("num_key_value_heads", heads),
            head_size=number("head_dim", hidden // heads),
            tied=bool(config.get("tie_word_embeddings", True)),
        )

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers that each layer has."""
        hidden, queries, keys = self.hidden, self.heads * self.head_size, self.kv_heads * self.head_size
        return {
            "q_proj": (hidden, queries),
            "k_proj": (hidden, keys),
            "v_proj": (hidden, keys),
            "o_proj": (queries, hidden),
            "gate_proj": (hidden, self.intermediate),
            "up_proj": (hidden, self.intermediate),
            "down_proj": (self.intermediate, hidden),
        }

    @property
    def matrices(self) -> int:
        """Weights in the linear layers of all layers, the head left out."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def tables(self) -> int:
        """1 where embedding and head are the same matrix, else 2."""
        return 1 if self.tied else 2

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.matrices + self.tables * self.vocabulary * self.hidden + self.norm_weights

    @property
    def norm_weights(self) -> int:
        """Weights in the RMSNorms."""
        of_heads = 2 * self.head_size if self.architecture in _HEAD_NORMED else 0
        return self.layers * (NORMS[self.architecture] * self.hidden + of_heads) + self.hidden


@dataclass(frozen=True)
class Load:
    """What a stage asks of the machine. Lengths in tokens; 0 rows: it does not do that.

    `rows` sequences of `prompt` + `completion` in a training pass, `eval_rows` in an evaluation pass;
    `rollout_rows` responses side by side of up to `rollout_completion`, `group` to a prompt, `is_refilled`
    where more wait for a place. `tile_rows` and `tile_columns`: of the LM head.
    """

    command: str
    rows: int = 0
    prompt: int = 0
    completion: int = 0
    accumulation: int = 1
    steps_per_generation: int = 0
    eval_rows: int = 0
    rollout_rows: int = 0
    rollout_prompt: int = 0
    rollout_completion: int = 0
    group: int = 1
    paths: int = 1
    is_refilled: bool = False
    is_filtered: bool = False
    lora_r: int = 16
    targets: tuple[str, ...] = ("all-linear",)
    structured: bool = False
    four_bit: bool = False
    dtype: str = "float32"
    checkpointing: bool = False
    has_reference: bool = False
    optimizer: str = "adamw_torch_fused"
    device: str = "cpu"
    tile_rows: int = TILE_ROWS
    tile_columns: int = TILE_COLUMNS

    @property
    def trains(self) -> bool:
        """Whether there is a backward pass."""
        return self.rows > 0

    @property
    def weight_bytes(self) -> int:
        """Of a weight that is not quantised, and of what flows between layers. In float16 those of a 4-bit
        model are float32 in training (`prl.model.load_model`)."""
        wide = self.dtype == "float16" and self.four_bit and self.trains
        return 4 if self.dtype == "float32" or wide else 2

    @property
    def adapter_bytes(self) -> int:
        """Of a weight of the adapter: float32 (PEFT), but bfloat16 on a 4-bit model (TRL)."""
        return 2 if self.four_bit and self.trains else 4

    @property
    def is_mixed(self) -> bool:
        """Whether matrix products are computed in 16 bits (autocast)."""
        return self.dtype != "float32"


@dataclass(frozen=True)
class Item:
    """One part of the peak. `phase` is what it belongs to: static, or a phase of `Forecast.phases`."""

    name: str
    bytes: int
    note: str = ""
    phase: str = "static"


@dataclass(frozen=True)
class Forecast:
    """Peak memory in bytes: what is always there plus the largest phase, `at` (update, rollout or
    evaluation; load where nothing else happens)."""

    command: str
    items: tuple[Item, ...]
    peak: int
    at: str


def forecast(shape: Shape, load: Load) -> Forecast:
    """The peak of a stage. Never measures anything; microseconds."""
    static = _static(shape, load)
    phases = {
        "update": _update(shape, load) if load.trains else [],
        "rollout": _rollout(shape, load) if load.rollout_rows else [],
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
    length = load.prompt + load.completion
    tokens = load.rows * length
    layer, mask = _kept_by_layer(shape, load)
    stream = load.weight_bytes
    last = tokens * shape.hidden * 4
    casts = 2 * _adapter(shape, load) if load.is_mixed and load.adapter_bytes == 4 else 0
    head = _head(shape, load, load.rows, length, load.completion)
    work = _layer_backward(shape, load, tokens)
    if load.checkpointing:
        kept = shape.layers * tokens * shape.hidden * stream + last + load.rows * length**2 * _is_masked(load)
        recomputed = layer + mask + casts // shape.layers + work
        note = f"a layer's inputs of {load.rows} x {length} tokens; the rest is computed again"
        items = [Item("activations", kept, note, "update")]
        if recomputed > head:
            return [*items, Item("one layer", recomputed, "computed again, and its gradients", "update")]
        return [*items, Item("LM head", head, "its gradients, in tiles", "update")]
    note = f"of {load.rows} x {length} tokens"
    items = [Item("activations", shape.layers * layer + last + casts, note, "update")]
    if mask:
        items.append(Item("attention masks", shape.layers * mask, "one a layer", "update"))
    if work > head:
        return [*items, Item("one layer", work, "its gradients", "update")]
    return [*items, Item("LM head", head, "its gradients, in tiles", "update")]


def _is_masked(load: Load) -> bool:
    """Rows of different length are padded, and then attention takes a mask; so it does with path windows."""
    return load.rows > 1 or load.structured


def _kept_by_layer(shape: Shape, load: Load) -> tuple[int, int]:
    """Bytes that one layer keeps for its backward pass, and those of its mask."""
    length = load.prompt + load.completion
    tokens = load.rows * length
    linears, adapted = shape.linears, _adapted(shape, load)
    queries, keys = linears["q_proj"][1], linears["k_proj"][1]
    stream, attention = load.weight_bytes, (2 if load.is_mixed else 4)
    masked = _is_masked(load)

    wide = NORMS[shape.architecture] * shape.hidden * 4  # a norm keeps its input in float32
    if shape.architecture in _HEAD_NORMED:
        wide += (queries + keys) * 4
    inputs = 0
    if stream != load.adapter_bytes:  # each adapter keeps a 16-bit copy of its input
        inputs = 2 * sum(size[0] for size in adapted.values())
    else:
        inputs += stream * shape.hidden * bool({"q_proj", "k_proj", "v_proj"} & {*adapted})
        inputs += stream * shape.hidden * bool({"gate_proj", "up_proj"} & {*adapted})
        inputs += stream * shape.intermediate * ("down_proj" in adapted)
    ranks = load.lora_r * len(adapted) * (2 if load.is_mixed or load.four_bit else 4)
    repeated = queries if masked and queries != keys else keys
    attended = (2 * queries + 2 * repeated) * attention + 4 * shape.heads
    mlp = 3 * shape.intermediate * stream
    mask = load.rows * length**2 * attention if masked else 0
    return tokens * (wide + inputs + ranks + attended + mlp), mask


def _layer_backward(shape: Shape, load: Load, tokens: int) -> int:
    """What the backward pass of a layer holds beside what was kept: gradients of the MLP."""
    stream = load.weight_bytes
    return tokens * stream * (2 * shape.hidden + 3 * shape.intermediate)


def _head(shape: Shape, load: Load, rows: int, length: int, completion: int, *, grad: bool = True) -> int:
    """TRL's fused LM head: a tile of logits at a time, and gradients of the whole matrix, because its tag
    rows are trained; PEFT makes a copy of it with these rows in."""
    on_gpu = load.device == "cuda"
    tokens = rows * (completion if on_gpu else length)  # only there the others are left out before
    compute = 2 if load.is_mixed else 4
    tile, width = min(tokens, load.tile_rows), min(shape.vocabulary, load.tile_columns)
    size = tile * load.tile_columns * compute
    matrix = shape.vocabulary * shape.hidden
    size += matrix * load.weight_bytes * bool(load.lora_r)
    size += tokens * shape.hidden * load.weight_bytes
    if load.is_mixed and load.weight_bytes == 4:
        size += width * shape.hidden * 2
    if not on_gpu:  # without Triton the tile is worked on by torch, which makes copies
        size += int(tile * width * (29 if grad else 17))
    if grad:
        size += matrix * 4 + tokens * shape.hidden * 4
    return size


# --- Rollouts and evaluation


def _rollout(shape: Shape, load: Load) -> list[Item]:
    """At its end all slots of the cache are in use and a full batch is drawn."""
    stream = load.weight_bytes
    matrix = shape.vocabulary * shape.hidden
    folded = 2 * matrix * load.weight_bytes if load.lora_r else 0  # the tag rows, in embedding and head
    notes = ["tag rows put in"] if load.lora_r else []
    if load.dtype == "float32" and not load.four_bit and load.lora_r:
        folded += 4 * shape.layers * sum(map(math.prod, _adapted(shape, load).values()))
        notes.append("adapter folded in")
    if load.device == "cpu" and load.dtype == "float32":
        sizes = [] if load.four_bit else [math.prod(size) for size in shape.linears.values()] * shape.layers
        packed = 4 * sum(size for size in [*sizes, matrix] if size >= PACKED_FROM)
        if packed:
            folded += packed
            notes.append("packed for the CPU")
    slots, before = cache_slots(load.rollout_prompt, load.rollout_completion)
    row = 2 * load.rollout_rows * shape.kv_heads * shape.head_size * stream
    cache = row * shape.layers * slots + row // 2 * before  # growing goes layer by layer
    items = [
        Item(
            "KV cache",
            cache,
            f"{load.rollout_rows} responses x {slots} slots, {8 * stream} bit",
            "rollout",
        )
    ]
    if folded:
        items.insert(0, Item("copied weights", folded, ", ".join(notes), "rollout"))
    threads = load.rollout_rows * load.paths
    copies = 4 if shape.vocabulary % 128 else 3
    copies += 5 * load.is_filtered
    drawn = 4 * min(threads, DRAWN_TOGETHER) * shape.vocabulary * copies
    groups = shape.heads // shape.kv_heads
    masks = threads * groups * slots * (stream + 2)
    prefill = 0
    if load.is_refilled:
        prefill = _prefill(shape, load, min(load.rollout_rows, max(1, PREFILL_TOKENS // load.rollout_prompt)))
    if prefill > drawn + masks:
        items.append(Item("prefill", prefill, "prompts that take a free place", "rollout"))
    else:
        items.append(
            Item("drawn logits", drawn + masks, f"of {min(threads, DRAWN_TOGETHER)} threads", "rollout")
        )
    return items


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
    mlp = tokens * stream * (2 * shape.hidden + 3 * shape.intermediate)
    mask = tokens * shape.heads // shape.kv_heads * width * (stream + 2)
    return mask + max(mlp, tokens * stream * (2 * shape.hidden + 5 * queries))


def _evaluation(shape: Shape, load: Load) -> list[Item]:
    """A forward pass that keeps nothing, and its LM head."""
    length = load.prompt + load.completion
    tokens = load.eval_rows * length
    stream = load.weight_bytes
    mask = load.eval_rows * length**2 * (5 if not load.is_mixed else 3) * (load.eval_rows > 1)
    layer = tokens * stream * (2 * shape.hidden + 3 * shape.intermediate) + mask
    head = _head(shape, load, load.eval_rows, length, load.completion, grad=False)
    return [
        Item(
            "activations", max(layer - head, 0) + head, f"of {load.eval_rows} x {length} tokens", "evaluation"
        )
    ]


# --- Reading what is asked


def load_of(settings: Settings[Any], longest_prompt: int | None = None) -> Load:
    """What `settings` of sft, rl, eval or generate ask for. `longest_prompt` in tokens; None: a guess from
    the prompt style and the data set (`assumed_prompt`)."""
    given, training = settings.arguments, settings.trainer
    prompt = longest_prompt or assumed_prompt(given.prompt_style, getattr(given, "dataset", ""))
    rank, targets = _adapter_asked_for(given)
    structured = given.attention == "structured"
    forks = given.paths if given.paths != "auto" else getattr(given, "max_paths", 4)
    common = {
        "command": settings.command,
        "lora_r": rank,
        "targets": targets,
        "structured": structured,
        "paths": int(forks) if structured else 1,
        "four_bit": given.load_in_4bit,
        "dtype": given.dtype,
        "device": given.device,
        "rollout_prompt": prompt,
    }
    if training is None:
        samples = given.samples + given.greedy
        batch = getattr(given, "batch_size", None) or samples
        return Load(
            rollout_rows=batch,
            rollout_completion=given.max_completion_length,
            group=max(1, given.samples),
            is_refilled=settings.command == "eval",
            is_filtered=given.top_p < 1 or given.top_k > 0,
            **common,
        )
    common |= {
        "rows": training.per_device_train_batch_size,
        "accumulation": training.gradient_accumulation_steps,
        "checkpointing": bool(training.gradient_checkpointing),
        "optimizer": str(getattr(training.optim, "value", training.optim)),
    }
    if settings.command == "sft":
        length = training.max_length or max(1024, 2 * prompt)
        evaluated = training.per_device_eval_batch_size
        sampled = min(given.sample_count, evaluated)
        return Load(
            prompt=min(prompt, length // 2),
            completion=length - min(prompt, length // 2),
            eval_rows=evaluated,
            rollout_rows=sampled,
            rollout_completion=training.max_length or 512,
            is_refilled=given.sample_count > evaluated,
            **common,
        )
    together = training.per_device_train_batch_size * training.steps_per_generation
    side_by_side = min(given.rollout_batch_size or together, together)
    return Load(
        prompt=prompt,
        completion=training.max_completion_length,
        rollout_rows=0 if training.use_vllm else side_by_side,
        rollout_completion=training.max_completion_length,
        steps_per_generation=training.steps_per_generation,
        group=training.num_generations,
        is_refilled=side_by_side < together,
        has_reference=bool(training.beta),
        is_filtered=training.top_p < 1 or bool(training.top_k),
        **common,
    )


def assumed_prompt(style: str, dataset: str) -> int:
    """Tokens of the longest prompt where nothing is known: the instruction at four letters a token, and 256
    for the problem (the longest of GSM8K has 239 in Qwen3's tokens), 64 for a procedural sum."""
    problem = 64 if dataset.startswith("arithmetic:") else 256
    return problem + len(render_prompt("", style)) // 4


def _adapter_asked_for(given: Any) -> tuple[int, tuple[str, ...]]:
    """Rank and targets: of the adapter that is loaded, else of the new one; rank 0 for a bare base."""
    adapter = runs.adapter_dir(given.model_name_or_path)
    if adapter is None:
        return getattr(given, "lora_r", 0), tuple(getattr(given, "lora_target_modules", ()))
    config = _read_config(adapter / "adapter_config.json")
    rank, targets = config.get("r"), config.get("target_modules")
    if not isinstance(rank, int) or not isinstance(targets, list):
        raise ModelError(f"{adapter}: adapter_config.json lacks r and target_modules; name another adapter")
    return rank, tuple(map(str, targets))


def read_shape(model: str) -> Shape:
    """The shape of a base, an adapter or a run, from config.json alone; Qwen3's sizes are known offline.

    ModelError where there is none to read, or none that is known here.
    """
    adapter = runs.adapter_dir(model)
    base = tiny.resolve(runs.base_of_adapter(adapter) if adapter else model)
    if (Path(base).expanduser() / "config.json").is_file():
        return Shape.of(_read_config(Path(base).expanduser() / "config.json"))
    if (named := _QWEN3_NAME.search(base)) and named[1] in _QWEN3:
        hidden, intermediate, layers, heads, kv_heads, tied = _QWEN3[named[1]]
        return Shape("qwen3", 151_936, hidden, intermediate, layers, heads, kv_heads, 128, tied)
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        kept = try_to_load_from_cache(base, "config.json")  # what loading looked at asks nobody again
        file = kept if isinstance(kept, str) else hf_hub_download(base, "config.json")
        return Shape.of(_read_config(Path(file)))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        reason = first_line(error)
        raise ModelError(
            f"the config.json of {base!r} cannot be read: {reason}. Name a local folder or a Qwen3 model"
        ) from error


def smaller(shape: Shape) -> tuple[str, Shape] | None:
    """Name and shape of the next smaller Qwen3 base; None: there is none."""
    names = [f"Qwen/Qwen3-{size}-Base" for size in ("14B", "8B", "4B", "1.7B", "0.6B")]
    known = ((name, read_shape(name)) for name in names)
    return next((pair for pair in known if pair[1].parameters < 0.9 * shape.parameters), None)


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}; name another --model_name_or_path") from error
    if not isinstance(config, dict):
        raise ModelError(f"{file} holds no JSON object; name another --model_name_or_path")
    return config

"""What a command asks of the machine: rows, lengths, adapter and precision, read off its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prl import runs
from prl.errors import ModelError
from prl.grammar import LONGEST_OPENING
from prl.machine.shape import read_config
from prl.prompts import render_prompt
from prl.runs import processes

if TYPE_CHECKING:
    from prl.settings import Settings

TILE_ROWS, TILE_COLUMNS = 4096, 32768
"""Tokens and vocabulary that TRL's fused LM head takes at a time (`TOKEN_CHUNK_SIZE` and
`_CHUNKED_LOGPROB_CHUNK_SIZE` of trl 1.16)."""

CPU_TILE = 2**21
"""Logits of a tile on a CPU, 8 MiB in float32: torch goes over a tile again and again, and over one that no
cache holds it waits for memory each time."""

OPENING_TOKENS = {"none": 0, "number": 4, "plan": 2 + LONGEST_OPENING // 4}
"""What a path begins with, at four letters a token."""


@dataclass(frozen=True)
class Load:
    """What a command asks of the machine. Lengths in tokens; 0 rows: it does not do that.

    `rows` sequences of `prompt` + `completion` in a training pass, `eval_rows` in an evaluation pass;
    `rollout_rows` responses side by side of up to `rollout_completion`, `group` to a prompt, `is_refilled`
    where more wait for a place; in an evaluation of RL `eval_rollout_rows`, `eval_group` to a prompt, before
    its `eval_rows` are scored. `is_packed`: rows are computed without padding, a group's prompt once and the
    `shared` tokens that all rows begin with once (`prl.trainer.packing`). Each of its `paths` begins with
    `opening` tokens at once. `is_merged`: a copy of the weights, with the adapter rounded in, samples.
    `tile_rows` and `tile_columns`: of the LM head.
    """

    command: str
    rows: int = 0
    prompt: int = 0
    completion: int = 0
    accumulation: int = 1
    steps_per_generation: int = 0
    eval_rows: int = 0
    eval_rollout_rows: int = 0
    eval_group: int = 1
    rollout_rows: int = 0
    rollout_prompt: int = 0
    rollout_completion: int = 0
    group: int = 1
    is_packed: bool = False
    shared: int = 0
    paths: int = 1
    opening: int = 0
    is_refilled: bool = False
    is_filtered: bool = False
    is_merged: bool = False
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
    def prompts(self) -> int:
        """How many prompts a training pass computes: one a row, or one a group where rows are packed."""
        return -(-self.rows // self.group) if self.is_packed else self.rows

    @property
    def tokens(self) -> int:
        """Of a training pass."""
        computed = self.rows * self.completion + self.prompts * self.prompt
        return computed - (self.rows - 1) * self.shared if self.is_packed else computed

    @property
    def weight_bytes(self) -> int:
        """Of a weight that is not quantised, and of what flows between layers. In float16 those of a 4-bit
        model are float32 in training (`prl.model.load_model`)."""
        wide = self.dtype == "float16" and self.four_bit and self.trains
        return 4 if self.dtype == "float32" or wide else 2

    @property
    def adapter_bytes(self) -> int:
        """Of a weight of the adapter: float32 (PEFT), but bfloat16 on a 4-bit model (TRL) that is not trained
        in float16 (`prl.trainer.training.kept_wide`)."""
        return 2 if self.four_bit and self.trains and self.dtype != "float16" else 4

    @property
    def is_mixed(self) -> bool:
        """Whether matrix products are computed in 16 bits (autocast)."""
        return self.dtype != "float32"


def load_of(settings: Settings[Any], longest_prompt: int | None = None) -> Load:
    """What `settings` of sft, rl, eval or generate ask for. `longest_prompt` in tokens; None: a guess from
    the prompt style and the data set (`assumed_prompt`)."""
    given, training = settings.arguments, settings.trainer
    prompt = longest_prompt or assumed_prompt(
        given.prompt_style, getattr(given, "dataset", ""), getattr(given, "path_opening", "none")
    )
    rank, targets = _adapter_asked_for(given)
    structured = given.attention == "structured"
    forks = given.paths if given.paths != "auto" else getattr(given, "max_paths", 4)
    common = {
        "command": settings.command,
        "lora_r": rank,
        "targets": targets,
        "structured": structured,
        "paths": int(forks) if structured else 1,
        "opening": OPENING_TOKENS[getattr(given, "path_opening", "none")] if structured else 0,
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
        "is_packed": not (
            given.lora_dropout or getattr(training, "packing", False) or processes.wraps_layers()
        ),
    }
    if settings.command == "sft":
        length = training.max_length or max(1024, 2 * prompt)
        evaluated = training.per_device_eval_batch_size
        return Load(
            prompt=min(prompt, length // 2),
            completion=length - min(prompt, length // 2),
            eval_rows=evaluated,
            rollout_rows=max(1, min(given.sample_count, evaluated)),  # the decoder is tried before it trains
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
        steps_per_generation=_steps_to_set(settings),
        group=training.num_generations,
        is_refilled=side_by_side < together,
        has_reference=bool(training.beta),
        is_filtered=training.top_p < 1 or bool(training.top_k),
        is_merged=given.rollout_weights == "merged",
        **_evaluation_of_rl(given, training),
        **common,
    )


def _evaluation_of_rl(given: Any, training: Any) -> dict[str, Any]:
    """Fields of `Load`: the rollouts answer its batches too, under the same bound."""
    evaluates = training.eval_strategy != "no" or training.eval_on_start
    rows = training.per_device_eval_batch_size if evaluates else 0
    return {
        "eval_rows": rows,
        "eval_rollout_rows": 0 if training.use_vllm else min(given.rollout_batch_size or rows, rows),
        "eval_group": training.num_generations_eval or training.num_generations,
    }


def _steps_to_set(settings: Settings[Any]) -> int:
    """`steps_per_generation`; 0 beside a `generation_batch_size`, where TRL reckons it and refuses any."""
    if settings.trainer_given.get("generation_batch_size"):
        return 0
    return int(settings.trainer.steps_per_generation)


def assumed_prompt(style: str, dataset: str, path_opening: str = "none") -> int:
    """Tokens of the longest prompt where nothing is known: the instruction at four letters a token, and 256
    for the problem (the longest of GSM8K has 239 in Qwen3's tokens), for a procedural sum 64, of nine 192."""
    problem = {"arithmetic": 64, "search": 192}.get(dataset.partition(":")[0], 256)
    return problem + len(render_prompt("", style, path_opening=path_opening)) // 4


def _adapter_asked_for(given: Any) -> tuple[int, tuple[str, ...]]:
    """Rank and targets: of the adapter that is loaded, else of the new one; rank 0 for a bare base."""
    adapter = runs.adapter_dir(given.model_name_or_path)
    if adapter is None:
        return getattr(given, "lora_r", 0), tuple(getattr(given, "lora_target_modules", ()))
    config = read_config(adapter / "adapter_config.json")
    rank, targets = config.get("r"), config.get("target_modules")
    if not isinstance(rank, int) or not isinstance(targets, list):
        raise ModelError(f"{adapter}: adapter_config.json lacks r and target_modules; name another adapter")
    return rank, tuple(map(str, targets))

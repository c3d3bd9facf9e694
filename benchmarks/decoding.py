"""Measure the decoder: does it agree with training, and what does forking buy (`make bench-decode`).

    agreement   log-probabilities of sampled tokens against the training forward pass over the finished
                responses: a tiny Qwen3 with random weights that forks, breaks tags and runs out of room all
                the time, and a real 135M model; in fp32, and in bf16 beside plain causal decoding's own gap
    speed       responses of prescribed lengths (prompt 128, prefix 32, paths of 96, summary 48), four ways:
                fork/join; the same tokens one after another; model.generate; and re-prefill, where each path
                is a row of its own that prefills prompt and prefix again, and the summary prefills everything
    rollouts    whole rollout batches with the lengths of real traces, against model.generate as GRPOTrainer
                of trl 1.16 calls it (prompts repeated, left padding, until the last row ends), with and
                without a LoRA adapter
    weights     the adapter beside weights in bf16 and merged into them (`--rollout_weights`); where it is
                asked for

Lengths are prescribed by replacing each sampled token right after it was sampled: the model and the sampler
compute what they always do. Ways take turns, and a ratio is the median of the ratios within each turn, so
that a machine that slows down slows all of them down. `--quick` shows where things stand, no more.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import random
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, Qwen3Config
from transformers import Qwen3ForCausalLM as Qwen3

from prl.console import quiet_libraries
from prl.decoding import ForkJoinDecoder, Limits, Response, forkjoin
from prl.grammar import canonical_layout, parse
from prl.model import load_model, tag_ids
from prl.prompts import render_prompt
from prl.structure import Tags, attach_structure, read_structure

ROOT = Path(__file__).resolve().parents[1]
Model = PreTrainedModel | PeftModel
Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Size:
    """What is measured; `--quick` takes less of everything."""

    repetitions: int = 5
    tiny_tokens: int = 100_000
    real_tokens: int = 10_000
    prompt: int = 128
    prefix: int = 32
    path: int = 96
    summary: int = 48
    batches: tuple[int, ...] = (8, 1)
    problems: int = 8  # of a rollout batch
    samples: int = 8  # to a problem


QUICK = Size(repetitions=1, tiny_tokens=10_000, real_tokens=1_000, batches=(8,), problems=4)
SIZES = ("tiny", "40M", "135M", "0.6B")
clock = time.perf_counter


def main(arguments: Sequence[str] | None = None, size: Size | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--traces",
        type=Path,
        default=Path(os.environ.get("PRL_REAL_DATA", ".")) / "parallel_gsm8k_341.parquet",
        help="real traces, whose lengths the rollouts take (found through PRL_REAL_DATA)",
    )
    parser.add_argument("--model", type=Path, default=ROOT / ".cache" / "smollm2-135m", help="the real model")
    parser.add_argument(
        "--sizes", nargs="*", default=["40M"], choices=SIZES, help="for speed and weights; 135M takes long"
    )
    parser.add_argument("--rollout-sizes", nargs="*", default=["tiny"], choices=SIZES, help="40M takes long")
    parser.add_argument("--parts", nargs="*", default=["agreement", "speed", "rollouts"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int)
    parser.add_argument("--cpu-time", action="store_true", help="do not count what other programs take")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    quiet_libraries()
    if options.cpu_time:
        global clock
        clock = time.process_time
    size = size or (QUICK if options.quick else Size())
    if options.repetitions:
        size = replace(size, repetitions=options.repetitions)
    if not options.model.exists():
        print(f"no model in {options.model}: the parts on the real model are skipped; `make real` makes it")
        options.sizes = [name for name in options.sizes if name != "135M"]
        options.rollout_sizes = [name for name in options.rollout_sizes if name != "135M"]

    results: dict[str, Any] = {"machine": machine(options.threads)}
    print("  ".join(f"{key} {value}" for key, value in results["machine"].items()))
    models = Models(options.model)
    if "agreement" in options.parts:
        results["agreement"] = agreement(size, options.model)
    if "speed" in options.parts:
        results["speed"] = [
            speed(name, *models[name], size, paths, batch)
            for name in options.sizes
            for batch in size.batches
            for paths in (2, 4)
        ]
    if "weights" in options.parts:
        results["weights"] = [
            weights(name, *models[name], size, batch) for name in options.sizes for batch in size.batches
        ]
    if "rollouts" in options.parts:
        if options.traces.exists() and options.model.exists():
            traces = tokenized_traces(options.traces, options.model)
            results["rollouts"] = [
                rollouts(name, *models[name], size, traces, lora)
                for name in options.rollout_sizes
                for lora in (False, True)
            ]
        else:
            print(f"the part on rollouts needs {options.traces} (--traces) and {options.model}: skipped")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def machine(threads: int) -> dict[str, Any]:
    names = Path("/proc/cpuinfo")
    lines = names.read_text(encoding="utf-8").splitlines() if names.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": name or platform.processor() or platform.machine(),
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


# -- models

SHAPES: dict[str, dict[str, int]] = {
    "40M": {
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 10,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "vocab_size": 16_384,
    },
    "0.6B": {  # Qwen3-0.6B
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
    },
}


class Models:
    """The models by name; the one that was asked for last is kept."""

    def __init__(self, real: Path) -> None:
        self.real = real
        self.name = ""
        self.loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase]

    def __getitem__(self, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        if name != self.name:
            self.name, self.loaded = name, self._load(name)
        return self.loaded

    def _load(self, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        model, tokenizer = load_model(str(self.real) if name == "135M" else "tiny", tags="tokens")
        if name in SHAPES:
            torch.manual_seed(0)
            model = Qwen3(Qwen3Config(**SHAPES[name], tie_word_embeddings=True, max_position_embeddings=4096))
        return model.eval(), tokenizer


# -- agreement


def agreement(size: Size, real: Path) -> list[dict[str, Any]]:
    print("\n## agreement: sampled log-probabilities against the training forward pass")
    print(
        f"{'model':<16}{'attention':<12}{'tokens':>8}{'blocks':>8}{'paths':>7}{'forced':>8}"
        f"{'stop':>6}{'length':>8}{'max gap':>10}{'mean gap':>10}"
    )
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        for attention in ("structured", "causal"):
            precision = str(dtype).removeprefix("torch.")
            # Twice 100,000 tokens, and for bf16 enough to state its gap.
            share = (1 if attention == "structured" else 0.1) * (1 if dtype == torch.float32 else 0.1)
            model, tokenizer = random_tiny(dtype)
            found.append(
                compare(
                    f"tiny {precision}", model, tokenizer, attention, share * size.tiny_tokens, size.samples
                )
            )
            if real.exists() and dtype == torch.float32:
                model, tokenizer = load_model(str(real), dtype=dtype, tags="tokens")
                bias_tags(model, tokenizer, tags=6.0, other=4.0, end=2.0)
                found.append(
                    compare(
                        f"135M {precision}",
                        model,
                        tokenizer,
                        attention,
                        share * size.real_tokens,
                        size.samples,
                    )
                )
    return found


def random_tiny(dtype: torch.dtype, device: str = "cpu") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The tiny model with random weights, which forks, breaks tags and runs out of room all the time."""
    model, tokenizer = load_model("tiny", dtype=dtype, device=device, tags="tokens")
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.08)
    bias_tags(model, tokenizer, tags=3.0, other=1.5, end=1.0)
    return model, tokenizer


def bias_tags(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, tags: float, other: float, end: float
) -> None:
    """Let the model write tags: the ones that open a block and close a path, the others, and EOS."""
    head = model.get_output_embeddings()
    bias = head.weight.new_zeros(head.weight.shape[0])
    bias[tag_ids(tokenizer)] = bias.new_tensor([tags, other, other, tags, other, other])
    bias[tokenizer.eos_token_id] = end
    head.bias = torch.nn.Parameter(bias)


def compare(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    attention: str,
    tokens: float,
    samples: int,
) -> dict[str, Any]:
    """Sample at least `tokens` tokens under ever other limits and score all of them."""
    tags = Tags.of(tokenizer)
    handle = attach_structure(model, tags, probe=False) if attention == "structured" else None
    counts: Counter[str] = Counter()
    gaps: list[Tensor] = []
    turn = 0
    while counts["tokens"] < tokens:
        limits = Limits(
            max_new_tokens=(96, 160, 256)[turn % 3],
            paths=(2, 4, "auto", 3)[turn % 4],
            max_blocks=(4, 1, 2, 4, 4)[turn % 5],
            max_path_length=(None, 12, None)[turn % 3],
        )
        prompts = [
            tokenizer(render_prompt(f"{i} + {turn}{' +1' * (i % 7)}", style), add_special_tokens=False)[
                "input_ids"
            ]
            for i, style in enumerate(("bare", "parallel", "sequential", "bare"))
        ]
        answers = ForkJoinDecoder(model, tokenizer, limits=limits, batch_size=12).generate(
            prompts, samples=samples, seed=turn
        )
        pairs = [(ids, response) for ids, group in zip(prompts, answers, strict=True) for response in group]
        for _, response in pairs:
            counts["tokens"] += len(response.token_ids)
            counts["forced"] += sum(response.forced)
            counts["blocks"] += len(response.blocks)
            counts["paths"] += sum(map(len, response.blocks))
            counts[response.finish_reason] += 1
        gaps += [score(model, pairs[i : i + 8]) for i in range(0, len(pairs), 8)]
        turn += 1
    if handle:
        handle.remove()
    gap = torch.cat(gaps)
    result = {"model": name, "attention": attention, **counts}
    result |= {"max_gap": gap.max().item(), "mean_gap": gap.mean().item()}
    columns = "".join(
        f"{counts[key]:>{width},}"
        for key, width in (
            ("tokens", 8),
            ("blocks", 8),
            ("paths", 7),
            ("forced", 8),
            ("stop", 6),
            ("length", 8),
        )
    )
    print(
        f"{name:<16}{attention:<12}{columns}{result['max_gap']:>10.1e}{result['mean_gap']:>10.1e}", flush=True
    )
    return result


@torch.no_grad()
def score(model: PreTrainedModel, pairs: Sequence[tuple[list[int], Response]]) -> Tensor:
    """How far each sampled log-probability is from that of one forward pass over the padded sequences."""
    sequences = [[*ids, *response.token_ids] for ids, response in pairs]
    longest = max(map(len, sequences))
    device = model.device
    ids = torch.tensor([sequence + [0] * (longest - len(sequence)) for sequence in sequences], device=device)
    mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences], device=device)
    logits = model(input_ids=ids, attention_mask=mask).logits.float()
    gaps = []
    for row, (prompt, response) in enumerate(pairs):
        start, stop = len(prompt), len(sequences[row])
        scored = logits[row, start - 1 : stop - 1].log_softmax(-1)
        scored = scored.gather(1, ids[row, start:stop, None]).squeeze(1)
        gap = (scored - torch.tensor(response.logprobs, device=device)).abs()
        gaps.append(gap[~torch.tensor(response.forced, device=device)])
    return torch.cat(gaps)


# -- responses of prescribed tokens

Script = Mapping[int, Sequence[int]]  # segment -> the tokens written in it


@contextmanager
def scripted(scripts: Sequence[Script] | Mapping[int, Script]) -> Iterator[None]:
    """Within, the decoder draws as ever, and then takes the token that the script of the row's seed says."""
    uniforms, draw = forkjoin.uniforms, forkjoin.draw
    asked: deque[tuple[int, int, int]] = deque()

    def noting(seeds: Any, segments: Any, indices: Any) -> Any:
        asked.extend(zip(seeds.tolist(), segments.tolist(), indices.tolist(), strict=True))
        return uniforms(seeds, segments, indices)

    def scripted_draw(logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        _, logprobs = draw(logits, *arguments)
        places = [asked.popleft() for _ in logits]
        tokens = torch.tensor([scripts[seed][segment][index] for seed, segment, index in places])
        return tokens.to(logits.device), logprobs

    forkjoin.uniforms, forkjoin.draw = noting, scripted_draw
    try:
        yield
    finally:
        forkjoin.uniforms, forkjoin.draw = uniforms, draw


@contextmanager
def scripted_generate(batches: Sequence[Rows], pad: int) -> Iterator[None]:
    """The same for `model.generate`, whose only draw is `torch.multinomial`: at its nth call row r writes
    `batches[n][r]`."""
    multinomial = torch.multinomial
    columns = chain.from_iterable(_columns(responses, pad) for responses in batches)

    def scripted_multinomial(*arguments: Any, **keywords: Any) -> Tensor:
        drawn = multinomial(*arguments, **keywords)
        return next(columns)[:, None].to(drawn.device)

    torch.multinomial = scripted_multinomial
    try:
        yield
    finally:
        torch.multinomial = multinomial


def _columns(responses: Rows, pad: int) -> Tensor:
    """What all rows write, a step a row of the result."""
    longest = max(map(len, responses))
    return torch.tensor([[*ids, *[pad] * (longest - len(ids))] for ids in responses]).T


def script_of(ids: Sequence[int], tags: Tags) -> Script:
    """What a response in the canonical layout writes in each segment, then whether another path follows."""
    segments = read_structure(torch.tensor([ids]), replace(tags, header=())).segments[0].tolist()
    script: dict[int, list[int]] = {}
    for token, segment in zip(ids, segments, strict=True):
        script.setdefault(segment, []).append(token)
    for i, segment in enumerate(segments[:-1]):
        if segment and segments[i + 1] != segment:
            script[segment].append(ids[i + 1])
    return script


@dataclass
class Way:
    """One way to write prescribed responses: `run(way)` writes them and notes `steps` and `cache_bytes`."""

    run: Callable[[Way], list[list[int]]]
    seconds: list[float] = field(default_factory=list)
    steps: int = 0
    cache_bytes: int = 0


def decode(
    way: Way,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    responses: Sequence[list[int]],
    *,
    attention: str = "causal",
    samples: int = 1,
    paths: int | str = 2,
    merges: bool = False,
) -> list[list[int]]:
    """Write `responses` with our decoder, `samples` to a prompt; what was written."""
    tags, longest = Tags.of(tokenizer), max(map(len, responses))
    structured = attention == "structured"
    decoder = ForkJoinDecoder(
        model,
        tokenizer,
        attention=attention,
        limits=Limits(
            # Room for paths is shared out before they are written: in plenty, so that no path is cut off.
            max_new_tokens=10 * longest if structured else longest,
            paths=paths,
            max_blocks=longest,
        ),
        batch_size=len(responses),
        merges=merges,
    )
    scripts = [script_of(ids, tags) if structured else {0: ids} for ids in responses]
    seeds = [list(range(i * samples, (i + 1) * samples)) for i in range(len(prompts))]
    with scripted(scripts):
        answers = decoder.generate(prompts, seeds=seeds)
    way.steps += decoder.steps
    way.cache_bytes = max(way.cache_bytes, decoder.cache_bytes)
    return [response.token_ids for group in answers for response in group]


def generate(
    way: Way,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    responses: Sequence[list[int]],
    *,
    samples: int = 1,
) -> list[list[int]]:
    """Write `responses` with model.generate as `_generate_single_turn` of GRPOTrainer calls it (trl 1.16)."""
    pad = tokenizer.pad_token_id
    repeated = [prompt for prompt in prompts for _ in range(samples)]
    longest = max(map(len, repeated))
    config = GenerationConfig(
        max_new_tokens=max(map(len, responses)),
        do_sample=True,
        pad_token_id=pad,
        eos_token_id=[tokenizer.eos_token_id],
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        repetition_penalty=1.0,
        disable_compile=True,
    )
    with torch.no_grad(), scripted_generate([responses], pad):
        padded = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in repeated])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in repeated])
        written = model.generate(
            input_ids=padded.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
        )[:, longest:]
    way.steps += written.shape[1]
    return [ids[: len(response)] for ids, response in zip(written.tolist(), responses, strict=True)]


def take_turns(ways: Mapping[str, Way], responses: list[list[int]], repetitions: int) -> None:
    """Time every way `repetitions` times in turn, after one turn that warms up (of a single one, none)."""
    for turn in range(repetitions + (repetitions > 1)):
        for name, way in ways.items():
            way.steps = way.cache_bytes = 0
            start = clock()
            written = way.run(way)
            seconds = clock() - start
            assert written == responses, f"{name} wrote other tokens than prescribed"
            if turn or repetitions == 1:
                way.seconds.append(seconds)


def ratio(slow: Way, fast: Way) -> float:
    """How many times as long the one takes as the other."""
    return statistics.median(a / b for a, b in zip(slow.seconds, fast.seconds, strict=True))


def report(ways: Mapping[str, Way], responses: list[list[int]]) -> dict[str, Any]:
    """Print a line for each way, and how often the first is as fast as each."""
    first = next(iter(ways.values()))
    tokens = sum(map(len, responses))
    print(f"{'':<16}{'seconds':>9}{'tokens/s':>10}{'steps':>7}{'KV MiB':>8}{'times the first':>17}")
    found = {}
    for name, way in ways.items():
        seconds = statistics.median(way.seconds)
        memory = f"{way.cache_bytes / 2**20:.1f}" if way.cache_bytes else "–"
        times = ratio(way, first)
        print(
            f"{name:<16}{seconds:>9.2f}{tokens / seconds:>10,.0f}{way.steps:>7}{memory:>8}{times:>17.2f}",
            flush=True,
        )
        found[name] = {
            "seconds": way.seconds,
            "tokens_per_second": tokens / seconds,
            "steps": way.steps,
            "cache_bytes": way.cache_bytes or None,
            "times_first": times,
        }
    return found


# -- speed


def speed(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, size: Size, paths: int, batch: int
) -> dict[str, Any]:
    """Fork/join against the other ways, all paths equally long: the most that forking can give."""
    tags, words, chance = Tags.of(tokenizer), plain_tokens(tokenizer), random.Random(0)

    def text(count: int) -> list[int]:
        return chance.choices(words, k=count)

    def assemble(openings: Rows, lanes: Rows, closings: Rows) -> list[list[int]]:
        blocks = [[token for lane in lanes[i::batch] for token in (tags.path, *lane)] for i in range(batch)]
        parts = zip(openings, blocks, closings, strict=True)
        return [[*opening, *block, *tags.joint, *closing] for opening, block, closing in parts]

    prompts = [text(size.prompt - len(tags.header)) + list(tags.header) for _ in range(batch)]
    openings = [[*text(size.prefix), tags.parallel] for _ in range(batch)]
    lanes = [[*text(size.path), tags.end_path] for _ in range(paths * batch)]  # i, i + batch, ... are i's
    closings = [[*text(size.summary), tags.end_summary, tokenizer.eos_token_id] for _ in range(batch)]
    responses = assemble(openings, lanes, closings)

    def fork_join(way: Way) -> list[list[int]]:
        return decode(way, model, tokenizer, prompts, responses, attention="structured", paths=paths)

    def sequential(way: Way) -> list[list[int]]:
        return decode(way, model, tokenizer, prompts, responses)

    def re_prefill(way: Way) -> list[list[int]]:
        first = decode(way, model, tokenizer, prompts, openings)
        forked = [[*prompt, *ids, tags.path] for prompt, ids in zip(prompts, first, strict=True)] * paths
        side_by_side = decode(way, model, tokenizer, forked, lanes)
        so_far = assemble(first, side_by_side, [[]] * batch)
        joined = [[*prompt, *ids] for prompt, ids in zip(prompts, so_far, strict=True)]
        return assemble(first, side_by_side, decode(way, model, tokenizer, joined, closings))

    def model_generate(way: Way) -> list[list[int]]:
        return generate(way, model, tokenizer, prompts, responses)

    ways = {
        "fork/join": Way(fork_join),
        "sequential": Way(sequential),
        "re-prefill": Way(re_prefill),
        "model.generate": Way(model_generate),
    }
    take_turns(ways, responses, size.repetitions)
    print(f"\n## speed: {name}, batch {batch}, {paths} paths of {size.path}: {len(responses[0])} tokens each")
    found = report(ways, responses)
    ceiling = ways["sequential"].steps / ways["fork/join"].steps
    memory = ways["fork/join"].cache_bytes / ways["re-prefill"].cache_bytes
    print(f"by steps at most {ceiling:.2f} times sequential; {memory:.2f} of the memory of re-prefill")
    return {
        "model": name,
        "batch": batch,
        "paths": paths,
        "ceiling": ceiling,
        "memory": memory,
        "ways": found,
    }


def plain_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that are neither tags nor special, nor open a response."""
    apart = {
        *tokenizer.get_added_vocab().values(),
        *tokenizer.all_special_ids,
        *Tags.of(tokenizer).header,
    }
    return sorted(set(tokenizer.get_vocab().values()) - apart)


# -- weights


def weights(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, size: Size, batch: int
) -> dict[str, Any]:
    """Responses to one prompt in bf16, with the adapter beside the weights and merged into them."""
    adapted = get_peft_model(copy.deepcopy(model).bfloat16(), adapter_config(tokenizer)).eval()
    words, chance = plain_tokens(tokenizer), random.Random(0)
    prompt = chance.choices(words, k=size.prompt)
    responses = [[*chance.choices(words, k=size.path), tokenizer.eos_token_id] for _ in range(batch)]

    def written(merges: bool) -> Way:
        return Way(
            lambda way: decode(way, adapted, tokenizer, [prompt], responses, samples=batch, merges=merges)
        )

    ways = {"adapter": written(False), "merged": written(True)}
    take_turns(ways, responses, size.repetitions)
    print(f"\n## weights: {name} in bf16, {batch} responses of {size.path + 1} tokens")
    found = report(ways, responses)
    return {"model": name, "batch": batch, "ways": found}


# -- rollouts


@dataclass(frozen=True)
class Traces:
    """Real problems and traces as ids of one tokenizer: `prompts[i]` (without the header that opens
    the response) and `responses[i]` belong together."""

    prompts: list[list[int]]
    responses: list[list[int]]
    tokenizer: PreTrainedTokenizerBase


def tokenized_traces(traces: Path, model: Path) -> Traces:
    """The traces without faults in a parquet file with columns `problem` and `trace`."""
    import pyarrow.parquet as parquet

    _, tokenizer = load_model(str(model), tags="tokens")
    rows = [
        row
        for row in parquet.read_table(traces, columns=["problem", "trace"]).to_pylist()
        if parse(row["trace"]).is_valid
    ]
    prompts = [render_prompt(row["problem"]) for row in rows]
    responses = [canonical_layout(row["trace"]) + tokenizer.eos_token for row in rows]
    prompt_ids, response_ids = (
        tokenizer(texts, add_special_tokens=False)["input_ids"] for texts in (prompts, responses)
    )
    header = len(Tags.of(tokenizer).header)
    prompt_ids = [ids[:-header] for ids in prompt_ids]
    return Traces(prompt_ids, response_ids, tokenizer)


def rollouts(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    size: Size,
    traces: Traces,
    lora: bool,
) -> dict[str, Any]:
    """A rollout batch as long and as uneven as real traces, against model.generate."""
    if lora:
        model = get_peft_model(copy.deepcopy(model), adapter_config(tokenizer)).eval()
    chance, header = random.Random(0), list(Tags.of(tokenizer).header)
    spell = speller(traces.tokenizer, tokenizer)
    drawn = chance.sample(range(len(traces.responses)), size.problems * size.samples)
    responses = [spell(traces.responses[i]) for i in drawn]
    prompts = [spell(traces.prompts[i]) + header for i in drawn[:: size.samples]]

    def ours(attention: str) -> Callable[[Way], list[list[int]]]:
        return lambda way: decode(
            way, model, tokenizer, prompts, responses, attention=attention, samples=size.samples, paths="auto"
        )

    ways = {
        "model.generate": Way(
            lambda way: generate(way, model, tokenizer, prompts, responses, samples=size.samples)
        ),
        "prl structured": Way(ours("structured")),
        "prl causal": Way(ours("causal")),
    }
    take_turns(ways, responses, size.repetitions)
    lengths = list(map(len, responses))
    adapter = "with a LoRA adapter" if lora else "without an adapter"
    print(f"\n## rollouts: {name} {adapter}, {size.problems} prompts x {size.samples}, ", end="")
    print(f"{min(lengths)} to {max(lengths)} tokens, {statistics.mean(lengths):.0f} on average")
    found = report(ways, responses)
    gains = {way: ratio(ways["model.generate"], ways[way]) for way in ("prl structured", "prl causal")}
    print("; ".join(f"{way}: {gain:.2f} times the throughput" for way, gain in gains.items()))
    return {"model": name, "lora": lora, "lengths": lengths, "gains": gains, "ways": found}


def adapter_config(tokenizer: PreTrainedTokenizerBase) -> LoraConfig:
    """An adapter as the recipes have it."""
    return LoraConfig(
        r=16,
        lora_alpha=32,
        target_modules="all-linear",
        trainable_token_indices={"embed_tokens": tag_ids(tokenizer)},
        task_type="CAUSAL_LM",
    )


def speller(
    source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase
) -> Callable[[list[int]], list[int]]:
    """Ids of one tokenizer as ids of another, one for one: tags, end of turn and line ends are kept, the rest
    is any text."""
    words = plain_tokens(target)
    kept = {*tag_ids(source), *source.all_special_ids, *source("\n", add_special_tokens=False)["input_ids"]}
    names = {i: target.convert_tokens_to_ids(source.convert_ids_to_tokens(i)) for i in kept}
    return lambda ids: [names[i] if names.get(i) is not None else words[i % len(words)] for i in ids]


if __name__ == "__main__":
    main()

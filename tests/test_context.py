"""What is longer than a model's context is left out and counted, or refused; nothing is computed past it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerBase,
    Qwen3Config,
)

from prl import cli, evaluation, rl, runs, sft, tiny
from prl.config import resolve
from prl.data.problems import generate
from prl.decoding import ForkJoinDecoder, Limits
from prl.decoding.context import beyond, beyond_told, context_of
from prl.errors import DataError, UsageError
from prl.model import load_model
from prl.prompts import render_prompt
from prl.study.comparison import compare
from prl.traces.asking import Refused
from prl.traces.local import Local
from prl.traces.modes import Request
from prl.trainer import format_sampler
from prl.trainer import problems as rl_problems

CONTEXT = 1024  # of the model that ships
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 48, "long_factor": [8.0] * 48
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (Qwen3Config(max_position_embeddings=40960), 40960),
        (Qwen3Config(max_position_embeddings=40960, rope_parameters=YARN), 131_072),
        (Qwen3Config(max_position_embeddings=131_072, rope_parameters=YARN), 131_072),
        (
            LlamaConfig(
                max_position_embeddings=2048,
                rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
            ),
            2048,
        ),
        (
            Phi3Config(
                max_position_embeddings=131_072,
                original_max_position_embeddings=2048,
                rope_parameters=LONGROPE,
            ),
            2048,
        ),
        (LlamaConfig(max_position_embeddings=131_072, rope_parameters=LLAMA3), 131_072),
        (MistralConfig(max_position_embeddings=32768, sliding_window=4096), 32768),
        (Gemma3TextConfig(max_position_embeddings=32768), 32768),
        (MambaConfig(), None),
    ],
    ids=[
        "plain",
        "yarn",
        "yarn, named",
        "dynamic",
        "longrope",
        "llama3",
        "sliding window",
        "a RoPE a kind",
        "no positions",
    ],
)
def test_what_a_config_says(config: Any, tokens: int | None) -> None:
    assert context_of(config) == tokens


@pytest.fixture(scope="module")
def loaded() -> Any:
    return load_model(tiny.NAME)


@pytest.fixture(scope="module")
def tokenizer(loaded: Any) -> PreTrainedTokenizerBase:
    return loaded[1]


def problem(tokens: int, tokenizer: Any) -> str:
    """One whose prompt has this many tokens."""
    text = "Compute 2 + 3."
    while (
        found := len(tokenizer(render_prompt(text, "bare"), add_special_tokens=False)["input_ids"])
    ) < tokens:
        text += "?" * (tokens - found)
    assert found == tokens
    return text


def test_a_prompt_and_its_longest_response_fit_exactly(tokenizer: Any) -> None:
    prompts = [render_prompt(problem(tokens, tokenizer), "bare") for tokens in (40, 984, 985, 1500)]
    assert beyond(prompts, tokenizer, CONTEXT, 40) == {2: 985, 3: 1500}
    assert beyond(prompts, tokenizer, None, 40) == {}
    told = beyond_told({2: 985}, 4, CONTEXT, 40)
    assert told == (
        "1 of 4 problems is beyond the model's context of 1,024 tokens, with 985 of prompt and "
        "--max_completion_length 40: --max_completion_length 39 leaves room"
    )
    assert beyond_told({2: 985, 3: 1500}, 4, CONTEXT, 40).endswith(
        "985 to 1,500 of prompt and --max_completion_length 40: shorten what is asked"
    )


def test_short_prompts_are_not_cut_into_tokens() -> None:
    def tokenizer(*_: Any, **__: Any) -> Any:
        raise AssertionError("it takes seconds for a large set")

    assert beyond(["x" * 900] * 9, tokenizer, CONTEXT, 124) == {}


def test_the_decoder_stops_at_the_context(monkeypatch: pytest.MonkeyPatch, loaded: Any) -> None:
    model, tokenizer = loaded
    prompt = render_prompt("Compute 12 + 30 - 7 + 25 - 14.", "bare")
    length = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])

    def respond(prompts: list[str]) -> Any:
        return ForkJoinDecoder(model, tokenizer, limits=Limits(60)).generate(prompts, seed=1)

    ((whole,),) = respond([prompt])
    monkeypatch.setattr(model.config, "max_position_embeddings", length + 9)
    (cut,), (short,) = respond([prompt, render_prompt("Compute 1 + 1.", "bare")])
    assert (cut.token_ids, cut.truncated) == (whole.token_ids[:9], True)
    assert len(short.token_ids) > 9, "each prompt has its own room"
    monkeypatch.setattr(model.config, "max_position_embeddings", length)
    with pytest.raises(UsageError, match=f"^prompt 0 has {length} tokens and the model's context {length}: "):
        respond([prompt])


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_what_is_sampled_is_scored_so_where_frequencies_follow_the_longest(kind: str, tokenizer: Any) -> None:
    """Beyond this context, transformers turn all positions by other frequencies than the decoder's keys."""
    prompts = [render_prompt(text, "bare") for text in ("Compute 1 + 1.", "Compute 12 + 30 - 7 + 25 - 14.")]
    asked = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    longest = max(map(len, asked)) + 20
    given: dict[str, Any] = {
        "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": None,
        "eos_token_id": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind == "longrope":
        rope = LONGROPE | {"short_factor": [1.0] * 8, "long_factor": [8.0] * 8}
        given |= {"original_max_position_embeddings": longest, "max_position_embeddings": 512}
        model = Phi3ForCausalLM(Phi3Config(rope_parameters=rope, **given))
    else:
        rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 8.0}
        model = LlamaForCausalLM(LlamaConfig(max_position_embeddings=longest, rope_parameters=rope, **given))
    for weight in model.parameters():
        weight.data.normal_(0, 0.2)
    answers = ForkJoinDecoder(model, tokenizer, limits=Limits(60)).generate(prompts, samples=2, seed=1)
    for ids, group in zip(asked, answers, strict=True):
        for answer in group:
            with torch.no_grad():
                logits = model(torch.tensor([ids + answer.token_ids])).logits[0, len(ids) - 1 : -1]
            scored = logits.log_softmax(-1).gather(-1, torch.tensor(answer.token_ids)[:, None])[:, 0]
            assert (scored - torch.tensor(answer.logprobs)).abs().max() < 1e-4


def test_sft_leaves_out_what_is_longer(tokenizer: Any) -> None:
    rows = generate("coldstart", 4)
    rows[2]["problem"] = problem(1000, tokenizer)
    kept, left_out = sft.tokenize(rows, tokenizer, "bare", None, context=CONTEXT)
    assert (len(kept), left_out) == (3, {"too_long": 0, "beyond_context": 1})
    _, left_out = sft.tokenize(rows, tokenizer, "bare", 500, context=CONTEXT)
    assert left_out == {"too_long": 1}, "it is told by the shorter of the two"
    with pytest.raises(
        DataError, match=r"^no trace fits the model's context of 1,024 tokens, the shortest has 1"
    ):
        sft.tokenize(rows[2:3], tokenizer, "bare", None, context=CONTEXT)


def write(path: Path, problems: list[str]) -> str:
    rows = [{"problem": text, "answer": "5"} for text in problems]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_sft_counts_them_in_the_run_and_samples_within_it(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int] = []

    class Decoder(ForkJoinDecoder):
        def generate(self, prompts: Any, **keywords: Any) -> Any:
            ids = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
            limits.append(self.limits.max_new_tokens)
            assert max(map(len, ids)) + limits[0] == CONTEXT
            return super().generate(prompts, **keywords)

    monkeypatch.setattr(format_sampler, "ForkJoinDecoder", Decoder)
    rows = generate("coldstart", 8)
    for row, tokens in zip(rows, (1100, 700), strict=False):
        row["problem"] = problem(tokens, tokenizer)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = resolve(
        "sft", recipe="tiny", dataset=str(path), eval_dataset=str(path), max_steps=1, warmup_steps=0,
        threads=1, sample_count=8, max_length=2000, per_device_train_batch_size=4,
        output_dir=str(tmp_path / "run"),
    )  # fmt: skip
    sft.run(settings)
    summary = runs.read_summary(tmp_path / "run")
    assert summary is not None
    assert (summary["traces"], summary["beyond_context"], summary["held_out_left_out"]) == (7, 1, 1)
    assert len(runs.read_samples(tmp_path / "run")) == 6, "what leaves less than half of it is not asked"
    assert len(limits) == 1


def test_rows_that_are_cut_anywhere_keep_to_the_context(tmp_path: Path) -> None:
    settings = resolve(
        "sft", recipe="tiny", limit=20, threads=1, packing=True, packing_strategy="wrapped", max_length=2000,
        output_dir=str(tmp_path),
    )  # fmt: skip
    with pytest.raises(
        UsageError, match="--max_length 2000 tokens, beyond the model's context of 1024: lower it"
    ):
        sft.run(settings)


def test_rl_leaves_them_out_of_every_stage(tokenizer: Any) -> None:
    prompts = [render_prompt(problem(tokens, tokenizer), "bare") for tokens in (50, 1000, 60, 70)]
    problems = rl_problems.Problems([{"prompt": text} for text in prompts], [[0, 1, 2], [1, 3], [3]])
    kept, told = rl_problems.within_context(problems, tokenizer, CONTEXT, 100)
    assert [row["prompt"] for row in kept.table] == [prompts[i] for i in (0, 2, 3)]
    assert kept.pools == [[0, 1], [2], [2]]
    assert told.startswith("1 of 4 problems is beyond the model's context of 1,024 tokens")
    assert rl_problems.within_context(problems, tokenizer, CONTEXT, 10) == (problems, "")
    with pytest.raises(DataError, match=r"^4 of 4 problems are beyond .*; none is left$"):
        rl_problems.within_context(problems, tokenizer, CONTEXT, 1000)


def test_rl_that_is_left_with_too_few_says_so(tmp_path: Path, tokenizer: Any) -> None:
    dataset = write(tmp_path / "rows.jsonl", [problem(1000, tokenizer), problem(50, tokenizer)])
    settings = resolve(
        "rl", recipe="tiny", dataset=dataset, threads=1, per_device_train_batch_size=4, num_generations=2,
        gradient_accumulation_steps=1, max_completion_length=32, output_dir=str(tmp_path / "run"),
    )  # fmt: skip
    with pytest.raises(DataError, match="gives 1 problems, one generation takes 2"):
        rl.run(settings)


def evaluated(dataset: str, folder: Path, completion: int) -> dict[str, Any]:
    settings = resolve(
        "eval", recipe="tiny", dataset=dataset, threads=1, samples=2, max_completion_length=completion,
        bootstrap=10, output_dir=str(folder), limit=10,
    )  # fmt: skip
    evaluation.run(settings)
    return json.loads((folder / "results.json").read_text())


def test_accuracy_keeps_its_denominator(
    tmp_path: Path, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write(tmp_path / "rows.jsonl", ["Compute 2 + 3.", problem(1000, tokenizer), "Compute 1 + 4."])
    some, every = evaluated(dataset, tmp_path / "some", 32), evaluated(dataset, tmp_path / "all", 24)
    assert (
        "not asked, and not solved in the accuracy: 1 of 3 problems is beyond the model's context of 1,024 "
        "tokens, with 1,000 of prompt and --max_completion_length 32: --max_completion_length 24 leaves room"
    ) in capsys.readouterr().err
    assert [(found["problems"], found["beyond_context"]) for found in (some, every)] == [(3, 1), (3, 0)]
    kept = runs.read_samples(tmp_path / "some").to_pylist()
    assert [row["problem"] for row in kept if row["mode"] == "greedy"] == [
        row["problem"] for row in runs.read_samples(tmp_path / "all").to_pylist() if row["mode"] == "greedy"
    ]
    (unasked,) = (
        i for i, row in enumerate(kept) if row["mode"] == "greedy" and row["verdict"] == "beyond context"
    )
    for mode in ("greedy", "sampled"):
        assert len(some["scores"][mode]) == 3
        assert some["scores"][mode][unasked] == 0.0
        assert some["metrics"][f"{mode}/accuracy"]["mean"] == pytest.approx(sum(some["scores"][mode]) / 3)
    assert some["metrics"]["greedy/tokens"]["mean"] > 1, "of those that were asked"
    assert compare(tmp_path / "some", tmp_path / "all").problems == 3


def test_a_problem_is_answered_the_same_whichever_others_are(tmp_path: Path, tokenizer: Any) -> None:
    found = []
    for name, tokens in (("asked", 30), ("unasked", 1020)):
        texts = ["Compute 2 + 3.", problem(tokens, tokenizer), "Compute 5 + 0."]
        evaluated(write(tmp_path / f"{name}.jsonl", texts), tmp_path / name, 20)
        rows = runs.read_samples(tmp_path / name).to_pylist()
        found.append([(row["problem"], row["text"]) for row in rows if row["problem"] in texts[::2]])
    assert found[0] == found[1]
    assert len(found[0]) == 2 * 3


def test_an_evaluation_of_nothing_else_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    dataset = write(tmp_path / "rows.jsonl", [problem(tokens, tokenizer) for tokens in (1020, 1021)])
    with pytest.raises(DataError, match=r"rows\.jsonl: 2 of 2 problems are beyond .*; none is left$"):
        evaluated(dataset, tmp_path / "run", 20)


def test_generate_refuses_a_problem_that_leaves_no_room(
    tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", problem(1000, tokenizer), "--recipe", "tiny", "--threads", "1"]
    assert cli.main([*words, "--max_completion_length", "32"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "prl generate: the problem is beyond the model's context of 1,024 tokens, with 1,000 of prompt and "
        "--max_completion_length 32: --max_completion_length 24 leaves room"
    )


def test_a_teacher_refuses_one_prompt_and_answers_the_others() -> None:
    teacher = Local(resolve("generate", model_name_or_path="tiny", device="cpu", threads=1))

    async def ask_all() -> list[Any]:
        requests = [
            Request(({"role": "user", "content": text},), max_tokens=4096, temperature=0.0, seed=0)
            for text in ("Compute 1 + 1.", "?" * 3000)
        ]
        return await asyncio.gather(*map(teacher.ask, requests), return_exceptions=True)

    answer, refused = asyncio.run(ask_all())
    assert answer.text
    assert isinstance(refused, Refused)
    assert "tokens leaves nothing of the model's context of 1,024" in str(refused)

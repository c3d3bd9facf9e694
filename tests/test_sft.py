"""The cold start with structured attention: what is learned, what is left out, what the run keeps."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
import yaml
from transformers import PreTrainedTokenizerBase

from prl import evaluation, runs, sft, tiny
from prl.config import resolve
from prl.data import problems
from prl.data.hub import load_rows
from prl.decoding import ForkJoinDecoder
from prl.errors import DataError, UsageError
from prl.grammar import parse
from prl.model import attention_of, load_model
from prl.prompts import render_prompt
from prl.sft import tokenize
from prl.structure import Tags, attached_structure
from prl.trainer import format_sampler
from prl.trainer import problems as rl_problems
from prl.trainer.resuming import as_begun

SFT = {"limit": 64, "max_steps": 2, "per_device_train_batch_size": 8, "sample_count": 0, "save_steps": 1}

TRACE = """Two ways.
<Parallel>
<Path> 2*3=6. </Path>
<Path> 3+3=6. </Path> <Path> 3*2=6. </Path>
</Parallel>

<Summary> All give 6. </Summary>
<Parallel><Path>a</Path><Path>b</Path></Parallel>"""


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_model(tiny.NAME, tags="tokens")[1]


def settings(folder: Path, **given: Any) -> Any:
    return resolve("sft", recipe="tiny", threads=1, output_dir=str(folder), **(SFT | given))


def learned(tokenizer: Any, paths: str) -> tuple[str, str]:
    """What the model reads after the prompt, and what it has loss on."""
    rows = [{"problem": "2 * 3?", "trace": TRACE}]
    (example,), _ = tokenize(rows, tokenizer, "bare", None, tags=Tags.of(tokenizer), paths=paths)
    read = tokenizer.decode(example["input_ids"])
    return read.partition("assistant\n")[2], tokenizer.decode([i for i in example["labels"] if i != -100])


def test_no_loss_on_what_the_decoder_inserts(tokenizer: Any) -> None:
    read, with_loss = learned(tokenizer, "2")
    assert read == (
        "Two ways.\n<Parallel><Path> 2*3=6. </Path><Path> 3+3=6. </Path><Path> 3*2=6. </Path></Parallel>\n"
        "<Summary> All give 6. </Summary>\n<Parallel><Path>a</Path><Path>b</Path></Parallel><|im_end|>"
    )
    assert with_loss == (
        "Two ways.\n<Parallel> 2*3=6. </Path> 3+3=6. </Path> 3*2=6. </Path> All give 6. </Summary>\n"
        "<Parallel>a</Path>b</Path><|im_end|>"
    )


def test_with_paths_auto_the_number_of_paths_is_learned(tokenizer: Any) -> None:
    assert learned(tokenizer, "auto")[1] == (
        "Two ways.\n<Parallel> 2*3=6. </Path> 3+3=6. </Path><Path> 3*2=6. </Path></Parallel> All give 6. "
        "</Summary>\n<Parallel>a</Path>b</Path></Parallel><|im_end|>"
    )


def test_causal_attention_reads_the_trace_as_written(tokenizer: Any) -> None:
    (example,), left_out = tokenize([{"problem": "2 * 3?", "trace": TRACE}], tokenizer, "bare", None)
    assert tokenizer.decode([i for i in example["labels"] if i != -100]) == TRACE + "<|im_end|>"
    assert left_out == {"too_long": 0}


@pytest.mark.parametrize(
    ("places", "structured", "causal"),
    [
        ([], " 2*3=6. </Path> 3+3=6. </Path> 3*2=6. </Path>", None),
        ([1], " 2*3=6. </Path> 3*2=6. </Path>", ("<Path> 3+3=6. </Path>", "<Path>")),
        (
            [0, 2],
            " 3+3=6. </Path>",
            (" 2*3=6. </Path>", ""),
        ),
        ([4], " 2*3=6. </Path> 3+3=6. </Path> 3*2=6. </Path>", ("b</Path>", "")),
    ],
)
def test_no_loss_on_a_path_that_is_context(
    tokenizer: Any, places: list[int], structured: str, causal: tuple[str, str] | None
) -> None:
    """Its `<Path>` stays what it is without: the decoder's own with structured attention, else a target."""
    row = {"problem": "2 * 3?", "trace": TRACE, "context_paths": places}
    counts: Counter[str] = Counter()
    (example,), _ = tokenize([row], tokenizer, "bare", None, tags=Tags.of(tokenizer), counts=counts)
    last = "a</Path>" if 4 in places else "a</Path>b</Path>"
    assert tokenizer.decode([i for i in example["labels"] if i != -100]) == (
        f"Two ways.\n<Parallel>{structured} All give 6. </Summary>\n<Parallel>{last}<|im_end|>"
    )
    assert counts == ({"context_paths": len(places), "context_traces": 1} if places else {})

    (example,), _ = tokenize([row], tokenizer, "bare", None)
    said = TRACE.replace(*causal) if causal else TRACE
    said = said.replace(" 3*2=6. </Path>", "") if places == [0, 2] else said
    assert tokenizer.decode([i for i in example["labels"] if i != -100]) == said + "<|im_end|>"


def test_nested_blocks_are_left_out_and_counted(tokenizer: Any) -> None:
    nested = {
        "problem": "2 * 3?",
        "trace": "<Parallel><Path>a<Parallel><Path>b</Path></Parallel></Path></Parallel>",
    }
    tags = Tags.of(tokenizer)
    rows = [nested, *problems.generate("coldstart", 3), nested]
    kept, left_out = tokenize(rows, tokenizer, "bare", None, tags=tags)
    assert (len(kept), left_out) == (3, {"too_long": 0, "nested": 2})
    assert len(tokenize(rows, tokenizer, "bare", None)[0]) == 5, "causal attention can hold them"
    with pytest.raises(DataError, match="all 1 traces have a nested <Parallel>"):
        tokenize([nested], tokenizer, "bare", None, tags=tags)
    with pytest.raises(DataError, match="no trace fits --max_length 5"):
        tokenize(rows, tokenizer, "bare", 5, tags=tags)


@pytest.mark.parametrize(
    "end", ["<|im_end|>", "</s>\n", "<end_of_turn>", "<|eot_id|><|endoftext|>", "\n</think>"]
)
def test_traces_that_end_with_a_marker_are_tokenised_as_the_plain_ones(
    tmp_path: Path, tokenizer: Any, end: str
) -> None:
    rows = problems.generate("coldstart", 8)
    plain, marked = tmp_path / "plain.jsonl", tmp_path / "marked.jsonl"
    plain.write_text("".join(json.dumps(row) + "\n" for row in rows))
    marked.write_text("".join(json.dumps({**row, "trace": row["trace"] + end}) + "\n" for row in rows))
    found = [
        tokenize(load_rows(str(path), need=("problem", "trace")), tokenizer, "bare", None)[0].to_list()
        for path in (plain, marked)
    ]
    assert found[0] == found[1]


def test_earlier_turns_stand_in_every_stage_s_prompt_alike(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = [{"role": "system", "content": "x = 3."}, {"role": "user", "content": "1?"},
               {"role": "assistant", "content": "<Parallel>1"}]  # fmt: skip
    asked = {"role": "user", "content": "2 * 3?"}
    chat = [*history, asked, {"role": "assistant", "content": TRACE + "\nFinal Answer: 6"}]
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": chat, "answer": "6"}) + "\n")
    expected = render_prompt("2 * 3?", "bare", history)

    (row,) = load_rows(str(path), need=("problem", "trace"))
    (example,), _ = tokenize([row], tokenizer, "bare", None, tags=Tags.of(tokenizer))
    assert tokenizer.decode(example["input_ids"]).startswith(f"{expected}Two ways.\n<Parallel><Path> 2*3=6.")
    learned = [
        token for token, label in zip(example["input_ids"], example["labels"], strict=True) if label != -100
    ]
    assert tokenizer.decode(learned).startswith("Two ways.\n<Parallel> 2*3=6. </Path> 3+3=6.")

    given = resolve("rl", recipe="tiny", threads=1, dataset=str(path), prompt_style="bare").arguments
    (problem,) = rl_problems.load_problems(given, [], seed=0).table
    text = "system: x = 3.\n\nuser: 1?\n\nassistant: <Parallel>1\n\nuser: 2 * 3?"
    assert (problem["prompt"], problem["problem"]) == (expected, text)

    prompts: list[str] = []

    class Decoder(ForkJoinDecoder):
        def generate(self, prompts_: Any, **keywords: Any) -> Any:
            prompts.extend(prompts_)
            return super().generate(prompts_, **keywords)

    monkeypatch.setattr(evaluation, "ForkJoinDecoder", Decoder)
    flags = {"dataset": str(path), "output_dir": str(tmp_path / "eval"), "prompt_style": "bare", "samples": 1,
             "max_completion_length": 4, "threads": 1, "recipe": "tiny", "bootstrap": 1}  # fmt: skip
    evaluation.run(resolve("eval", **flags))
    assert set(prompts) == {expected}
    assert runs.read_samples(tmp_path / "eval")["problem"].to_pylist()[0] == text


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("structured")
    sft.run(settings(folder, attention="structured"))
    return folder


def test_run_keeps_its_attention(finished: Path) -> None:
    assert runs.read_config(finished)["sft"]["attention"] == "structured"
    kept = ["adapter", "checkpoint-1", "checkpoint-2"]
    assert [json.loads((finished / name / "prl.json").read_text()) for name in kept] == [
        {"attention": "structured"}
    ] * 3
    assert [attention_of(finished / name) for name in ("", *kept)] == ["structured"] * 4
    summary = runs.read_summary(finished)
    assert summary is not None
    assert (summary["too_long"], summary["nested"]) == (0, 0)
    trained, _ = sft.hold_out(problems.generate("coldstart", 64, settings(finished).trainer.seed), None)
    slips = [row["context_paths"] for row in trained if row["context_paths"]]
    assert (summary["context_paths"], summary["context_traces"]) == (sum(map(len, slips)), len(slips))
    assert slips


def test_a_run_of_an_older_prl_goes_on_learning_every_path(finished: Path, tmp_path: Path) -> None:
    """Its config.yaml says nothing of it."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "DONE").unlink()
    config = runs.read_config(tmp_path)
    assert config["sft"].pop("wrong_paths") == "recorded"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    begun = as_begun(settings(tmp_path, resume=True))
    assert (begun.arguments.wrong_paths, begun.chosen["wrong_paths"]) == (
        "learned",
        "learned: the run was begun so",
    )
    with pytest.raises(UsageError, match=r"was begun otherwise .*wrong_paths learned, now judged"):
        sft.run(settings(tmp_path, attention="structured", wrong_paths="judged", resume=True))


def test_interrupted_run_is_not_resumed_with_another_attention(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "DONE").unlink()
    with pytest.raises(UsageError, match="was begun otherwise \\(attention structured, now causal\\)"):
        sft.run(settings(tmp_path, attention="causal", resume=True))
    sft.run(settings(tmp_path, attention="structured", resume=True, max_steps=3))
    assert (tmp_path / "checkpoint-3").is_dir()


@pytest.mark.parametrize(("paths", "limit"), [("3", 3), ("auto", "auto")])
def test_responses_are_sampled_with_the_attention_that_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: str, limit: Any
) -> None:
    decoders = []

    class Decoder(ForkJoinDecoder):
        def __init__(self, model: Any, *args: Any, **keywords: Any) -> None:
            if "limits" in keywords:  # not the one that tries the model before it trains
                decoders.append((attached_structure(model) is not None, keywords["limits"].paths))
            super().__init__(model, *args, **keywords)

    monkeypatch.setattr(format_sampler, "ForkJoinDecoder", Decoder)
    given = {"attention": "structured", "paths": paths, "max_steps": 1, "sample_count": 2, "max_length": 120}
    given["warmup_steps"] = 0  # the only step is to learn
    result = sft.run(settings(tmp_path, **given))
    assert decoders == [(True, limit)]
    rows = runs.read_samples(tmp_path).to_pylist()
    traces = [parse(row["text"], truncated=row["truncated"]) for row in rows]
    assert len(traces) == 2
    assert result.metrics["eval_format_valid"] == fmean(trace.is_valid for trace in traces)
    assert result.metrics["eval_parallel_ratio"] == fmean(trace.uses_parallel for trace in traces)


def test_packed_traces_are_computed_as_if_alone(tokenizer: Any) -> None:
    model, _ = load_model(tiny.NAME, attention="structured", tags="tokens")
    model.eval()
    rows = problems.generate("coldstart", 4)
    examples, _ = tokenize(rows, tokenizer, "bare", None, tags=Tags.of(tokenizer))
    ids = [torch.tensor(example) for example in examples["input_ids"]]
    with torch.no_grad():
        alone = torch.cat([model(input_ids=each[None]).logits[0] for each in ids])
        positions = torch.cat([torch.arange(len(each)) for each in ids])[None]  # as TRL's collator gives them
        packed = model(input_ids=torch.cat(ids)[None], position_ids=positions).logits[0]
    torch.testing.assert_close(packed, alone, atol=1e-4, rtol=0)


def test_packed_run_reports_the_loss_of_a_padded_one(tmp_path: Path) -> None:
    untouched = {"attention": "structured", "learning_rate": 0.0, "tag_learning_rate": 0.0, "max_steps": 1}
    padded = sft.run(settings(tmp_path / "padded", **untouched))
    packed = sft.run(settings(tmp_path / "packed", **untouched, packing=True))
    assert packed.metrics["eval_loss"] == pytest.approx(padded.metrics["eval_loss"], rel=1e-3)

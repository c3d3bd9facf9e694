"""The benchmark of the decoder runs through, small, and writes what it prints."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """benchmarks/decoding.py, loaded as it is when it runs as a script."""
    spec = importlib.util.spec_from_file_location("bench_decoding", ROOT / "benchmarks" / "decoding.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    yield module
    torch.set_num_threads(threads)


def test_all_ways_write_the_prescribed_tokens_and_agree_with_training(benchmark: Any, tmp_path: Path) -> None:
    size = benchmark.Size(
        repetitions=1,
        tiny_tokens=1000,
        samples=3,
        prompt=16,
        prefix=3,
        path=7,
        summary=4,
        batches=(2,),
    )
    file = tmp_path / "results.json"
    nowhere = str(tmp_path / "nowhere")
    arguments = ["--sizes", "tiny", "--model", nowhere, "--traces", nowhere, "--json", str(file)]
    results = benchmark.main(arguments, size)
    assert json.loads(file.read_text(encoding="utf-8")) == results

    by_name = {(row["model"], row["attention"]): row for row in results["agreement"]}
    structured = by_name["tiny float32", "structured"]
    assert structured["tokens"] >= 1000
    assert all(structured[event] for event in ("blocks", "forced", "stop", "length"))
    assert structured["max_gap"] <= 1e-4
    assert set(by_name) == {
        (f"tiny {dtype}", attention)
        for dtype in ("float32", "bfloat16")
        for attention in ("structured", "causal")
    }

    two, four = results["speed"]
    for row, paths in ((two, 2), (four, 4)):
        # The first token follows from the prefill, the last is fed to nobody; a block's opening is fed in one
        # step with its <Path>s, and the last </Path> with what joins.
        assert row["ways"]["sequential"]["steps"] == 3 + 1 + paths * 9 + 3 + 4 + 1
        assert row["ways"]["fork/join"]["steps"] == 3 + 1 + 7 + 1 + 4 + 1
        assert row["memory"] <= 1
    assert "rollouts" not in results


def test_merged_weights_write_the_prescribed_tokens(benchmark: Any) -> None:
    size = benchmark.Size(repetitions=1, prompt=8, path=5, batches=(2,))
    results = benchmark.main(["--sizes", "tiny", "--parts", "weights"], size)
    (row,) = results["weights"]
    assert {name: way["steps"] for name, way in row["ways"].items()} == {"adapter": 5, "merged": 5}


def test_a_rollout_batch_of_real_lengths(benchmark: Any, tmp_path: Path) -> None:
    from prl.grammar import render
    from prl.model import load_model

    model, tokenizer = load_model("tiny", tags="tokens")
    traces = [
        "1 + 2"
        + " + 3" * i
        + render([f"{j}\n" * (i + 1) for j in range(2 + i % 2)], "6.")
        + "Final Answer: 6"
        for i in range(8)
    ]
    texts = [
        [f"What is {i}?", benchmark.canonical_layout(trace) + "<|im_end|>"] for i, trace in enumerate(traces)
    ]
    prompts, responses = (
        tokenizer(list(column), add_special_tokens=False)["input_ids"] for column in zip(*texts, strict=True)
    )
    size = benchmark.Size(repetitions=1, problems=1)
    row = benchmark.rollouts(
        "tiny", model, tokenizer, size, benchmark.Traces(prompts, responses, tokenizer), True
    )
    assert sorted(row["lengths"]) == sorted(map(len, responses))
    assert row["ways"]["model.generate"]["steps"] == max(row["lengths"])
    assert row["ways"]["prl structured"]["steps"] < row["ways"]["prl causal"]["steps"]
    assert set(row["gains"]) == {"prl structured", "prl causal"}

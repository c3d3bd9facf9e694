"""The whole way of `rewrite`: solutions of a model that knows no tags become traces that teach the format."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from prl import cli
from prl.data.problems import generate
from prl.grammar import PARALLEL
from prl.traces.dataset import write_rows


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_model_trained_on_rewritten_solutions_holds_the_format(tmp_path: Path) -> None:
    sequential, teacher, made = tmp_path / "sequential.jsonl", tmp_path / "teacher", tmp_path / "made"
    student, evaluated = tmp_path / "student", tmp_path / "eval"
    write_rows(sequential, [row for row in generate("mixed", 10_000) if PARALLEL not in row["trace"]])

    def prl(*given: str | int | Path) -> None:
        assert cli.main([*map(str, given)]) == 0

    prl("sft", "--recipe", "tiny", "--dataset", sequential, "--output_dir", teacher, "--sample_count", 0)
    prl("data", "traces", "arithmetic:mixed", "--limit", 8000, "--model", teacher, "--output_dir", made,
        "--mode", "rewrite", "--summary", "template", "--prompt_style", "bare", "--max_tokens", 160,
        "--concurrency", 64, "--device", "cpu")  # fmt: skip
    prl("data", "check", made / "traces.parquet")
    prl("sft", "--recipe", "tiny", "--dataset", made / "traces.parquet", "--output_dir", student,
        "--max_steps", 600)  # fmt: skip
    prl("eval", "--recipe", "tiny", "--model", student, "--output_dir", evaluated, "--limit", 200)

    metrics = json.loads((evaluated / "results.json").read_text())["metrics"]
    print(pq.read_metadata(made / "traces.parquet").num_rows, "traces;", json.dumps(metrics))
    for mode in ("greedy", "sampled"):
        assert metrics[f"{mode}/format_valid"]["mean"] >= 0.95
        assert metrics[f"{mode}/parallel_ratio"]["mean"] >= 0.9

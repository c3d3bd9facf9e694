"""The pipeline on real input, a few steps: a 135M model, teacher-written traces, GSM8K."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prl import evaluation, rl, runs, sft
from prl.config import resolve
from prl.data.hub import load_rows
from prl.grammar import TAGS
from prl.model import load_model
from prl.sft import tokenize

pytestmark = pytest.mark.real


def settings(command: str, model: str | Path, folder: Path, **given: Any):
    # The recipe that a workstation would take, on this CPU: QLoRA off, one short micro-batch.
    on_cpu = {"device": "cpu", "load_in_4bit": False, "threads": 1}
    return resolve(
        command, recipe="6gb", model_name_or_path=str(model), output_dir=str(folder), **on_cpu, **given
    )


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A cold start on 341 teacher-written traces, RL and evaluation on GSM8K."""
    model, data = request.getfixturevalue("real_model"), request.getfixturevalue("real_data")
    root = tmp_path_factory.mktemp("real")
    sft.run(
        settings(
            "sft", model, root / "sft", dataset=data / "parallel_gsm8k_341.parquet", max_length=640, limit=64,
            max_steps=6, per_device_train_batch_size=1, gradient_accumulation_steps=1, eval_strategy="no",
            learning_rate=1e-3, lr_scheduler_type="constant", warmup_steps=0, sample_count=0, eval_limit=2,
            logging_steps=1,
        )
    )  # fmt: skip
    rl.run(
        settings(
            "rl", root / "sft", root / "rl", dataset=data / "gsm8k_train.parquet", limit=2, max_steps=1,
            steps_per_generation=1,
            per_device_train_batch_size=2, gradient_accumulation_steps=1, num_generations=2,
            max_completion_length=12, rewards=["accuracy", "format", "parallel"],
        )
    )  # fmt: skip
    evaluation.run(
        settings(
            "eval", root / "rl", root / "eval", dataset=data / "gsm8k_test.parquet", limit=2, samples=1,
            max_completion_length=12, greedy=False,
        )
    )  # fmt: skip
    return root


def test_loss_falls_on_real_traces(real_run: Path) -> None:
    losses = [line["loss"] for line in runs.read_metrics(real_run / "sft") if "loss" in line]
    assert len(losses) == 6
    assert sum(losses[3:]) < sum(losses[:3])


def test_stages_hand_over_and_the_adapter_reloads(real_run: Path) -> None:
    cold, skilled = (
        load_file(real_run / stage / "adapter" / "adapter_model.safetensors") for stage in ("sft", "rl")
    )
    assert cold.keys() == skilled.keys()
    assert sum(tensor.shape == (6, 576) for tensor in cold.values()) == 1
    assert json.loads((real_run / "eval" / "results.json").read_text())["problems"] == 2
    model, _ = load_model(str(real_run / "rl"))
    again = dict(model.named_parameters())
    rows = next(tensor for name, tensor in again.items() if "trainable_tokens_delta" in name)
    assert torch.equal(rows, next(t for name, t in skilled.items() if "trainable_tokens_delta" in name))
    assert runs.read_samples(real_run / "rl").num_rows == 2


def test_real_traces_fit_the_figures_of_their_card(real_data: Path, real_tokenizer: Any) -> None:
    rows = load_rows(str(real_data / "parallel_gsm8k_341.parquet"), need=("problem", "trace"))
    assert len(rows) == 341
    real_tokenizer.add_tokens(list(TAGS))
    examples, left_out = tokenize(rows, real_tokenizer, "parallel", 1400)
    assert left_out == {"too_long": 0}
    longest = max(sum(label != -100 for label in example["labels"]) for example in examples)
    assert 850 < longest < 900  # its card: the longest trace has 882 tokens

"""What `prl.trainer` changes of TRL's trainers is what these versions have: methods, signatures, attributes.

Where an upgrade moves one, the line names the method and what to look at.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer, TrainerCallback
from trl import GRPOTrainer, SFTTrainer

from prl import rl, runs, sft
from prl.config import resolve
from prl.machine.hardware import memory_limit
from prl.trainer.grpo import GRPO
from prl.trainer.sft import SFT
from prl.trainer.timing import PARTS

RELIED_ON = {
    # _prepare_inputs generates once a generation, through this one; rewards and advantages end in `_logs`.
    (GRPOTrainer, "_generate_and_score_completions"): "inputs",
    # Called by it once, for responses; what is timed as rollout.
    (GRPOTrainer, "_generate"): "prompts",
    # Called by it once, with what the rollouts added in `inputs`; metrics are flushed after it.
    (GRPOTrainer, "_calculate_rewards"): "inputs prompts completions completion_ids_list",
    (GRPOTrainer, "_get_train_sampler"): "dataset",
    (GRPOTrainer, "_prepare_inputs"): "generation_batch",
    (GRPOTrainer, "training_step"): "model inputs num_items_in_batch",
    (GRPOTrainer, "compute_loss"): "model inputs return_outputs num_items_in_batch",
    (GRPOTrainer, "_compute_loss"): "model inputs",
    (
        GRPOTrainer,
        "_get_per_token_logps_and_entropies",
    ): "model input_ids attention_mask logits_to_keep batch_size compute_entropy compute_aux_loss "
    "pixel_values image_grid_thw num_images pixel_attention_mask spatial_shapes num_tiles "
    "image_sizes token_type_ids mm_token_type_ids image_position_ids",
    (GRPOTrainer, "_log_metric"): "name value",
    (GRPOTrainer, "create_model_card"): "model_name dataset_name tags",
    (SFTTrainer, "training_step"): "args kwargs",
    (SFTTrainer, "compute_loss"): "model inputs return_outputs num_items_in_batch",
    (SFTTrainer, "_prepare_inputs"): "inputs",
    (Trainer, "training_step"): "model inputs num_items_in_batch",
    (Trainer, "_load_from_checkpoint"): "resume_from_checkpoint model",
}
"""Method -> its parameters in trl 1.16 with transformers 5.23 and 5.24."""


@pytest.mark.parametrize(
    ("trainer", "method"), RELIED_ON, ids=[f"{cls.__name__}.{name}" for cls, name in RELIED_ON]
)
def test_what_is_overridden_or_called_is_as_it_was(trainer: type, method: str) -> None:
    found = " ".join([*inspect.signature(getattr(trainer, method)).parameters][1:])
    version = importlib.metadata.version("trl")
    assert found == RELIED_ON[trainer, method], (
        f"trl {version}: {trainer.__name__}.{method} takes ({found}) now; read src/prl/trainer/grpo.py and "
        "sft.py beside it, then mend them and this table"
    )


def test_the_table_names_all_that_is_overridden() -> None:
    own = {"__init__", "restore", "wind_up"}
    for ours, theirs in ((GRPO, GRPOTrainer), (SFT, SFTTrainer)):
        methods = {name for name, value in vars(ours).items() if inspect.isfunction(value)} - own
        assert {name for name in methods if not hasattr(theirs, name)} == set(), (
            "a method that TRL never calls"
        )
        named = {name for cls, name in RELIED_ON if issubclass(theirs, cls)} | {"create_model_card"}
        assert methods <= named


class Notes(TrainerCallback):
    """A user's callback: what it adds to the log is kept."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        logs["mine"] = float(state.global_step)


def test_a_callback_of_ones_own_adds_to_the_metrics(tmp_path: Path) -> None:
    small = {"recipe": "tiny", "threads": 1, "max_steps": 1, "warmup_steps": 0, "logging_steps": 1}
    asked = resolve("sft", output_dir=str(tmp_path / "sft"), limit=30, sample_count=0, **small)
    sft.run(asked, callbacks=[Notes()])
    asked = resolve(
        "rl",
        output_dir=str(tmp_path / "rl"),
        limit=30,
        max_completion_length=16,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=1,
        num_generations=4,
        **small,
    )
    rl.run(asked, callbacks=[Notes()])
    for command in ("sft", "rl"):
        lines = [line for line in runs.read_metrics(tmp_path / command) if "loss" in line]
        assert [line["mine"] for line in lines] == [1.0]
        (line,) = lines
        assert 0 < line["memory/peak"] < 64
        assert line["memory/limit"] == pytest.approx(memory_limit("cpu") / 2**30, abs=1e-3)
    # A step takes what its parts do, the optimizer among them, which TRL's own count leaves out.
    assert line["step_time"] < sum(line[f"time/{part}"] for part in PARTS) < 2 * line["step_time"]
    assert line["time/score"] == 0, "nothing had to be scored"
    assert min(line[f"time/{part}"] for part in ("rollout", "verify", "update")) > 0


def test_a_reward_sees_what_the_run_keeps_and_the_run_keeps_what_it_pays(tmp_path: Path) -> None:
    seen: list[tuple[str, list[int], str, float]] = []

    def noted(
        completions: list[str], completion_ids: list[list[int]], answer: list[str], **columns: Any
    ) -> list[float]:
        paid = [float(len(seen) + number) for number in range(len(completions))]
        seen.extend(zip(completions, completion_ids, answer, paid, strict=True))
        return paid

    asked = resolve(
        "rl", recipe="tiny", threads=1, output_dir=str(tmp_path), limit=30, max_completion_length=16,
        per_device_train_batch_size=8, gradient_accumulation_steps=1, num_generations=4, max_steps=2,
        warmup_steps=0, rewards=["format"],
    )  # fmt: skip
    rl.run(asked, rewards=[noted])
    kept = runs.read_samples(tmp_path).to_pylist()
    assert [(row["text"], row["token_ids"], row["answer"], row["reward_noted"]) for row in kept] == seen
    assert len(seen) == 16
    for row in kept:
        assert {len(row[name]) for name in ("token_lengths", "token_logprobs", "forced")} == {row["length"]}
        assert sum(row["token_lengths"]) == len(row["text"])
        assert [each is None for each in row["token_logprobs"]] == row["forced"]
        assert all(each <= 0 for each in row["token_logprobs"] if each is not None)

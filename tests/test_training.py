"""What both training stages put around their trainer: which checkpoints stay, what a signal does."""

from __future__ import annotations

import importlib.metadata
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerState, TrainingArguments

from prl.runs.checkpoints import fault
from prl.trainer.sealing import SealCheckpoints, exported_state
from prl.trainer.sft import TokenCount
from prl.trainer.signals import StopOnSignal
from prl.trainer.training import _is_done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run that has logged nothing."""
    (tmp_path / "environment.json").write_text("{}")
    return tmp_path


def saved(folder: Path, sealing: SealCheckpoints, step: int, **state: Any) -> list[str]:
    """The trainer writes checkpoint-<step>; the checkpoints that there are afterwards."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir()
    (checkpoint / "adapter_model.safetensors").write_bytes(b"weights")
    state = {"global_step": step, "is_world_process_zero": True, "best_model_checkpoint": None} | state
    sealing.on_save(SimpleNamespace(output_dir=str(folder)), SimpleNamespace(**state), None)  # type: ignore[arg-type]
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def test_a_checkpoint_is_sealed_and_then_the_oldest_beyond_the_limit_goes(folder: Path) -> None:
    training: Any = SimpleNamespace(save_total_limit=2)
    sealing = SealCheckpoints(training)
    assert training.save_total_limit is None, "else the trainer would remove one before a newer is whole"
    assert saved(folder, sealing, 1) == ["checkpoint-1"]
    assert fault(folder / "checkpoint-1") is None
    assert saved(folder, sealing, 2) == ["checkpoint-1", "checkpoint-2"]
    assert saved(folder, sealing, 3) == ["checkpoint-2", "checkpoint-3"]
    best = {"best_model_checkpoint": str(folder / "checkpoint-2")}
    assert saved(folder, sealing, 4, **best) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
    assert saved(folder, sealing, 5, **best) == ["checkpoint-2", "checkpoint-4", "checkpoint-5"]


def test_without_a_limit_all_stay_and_only_the_main_process_seals(folder: Path) -> None:
    sealing = SealCheckpoints(SimpleNamespace(save_total_limit=None))  # type: ignore[arg-type]
    names = [saved(folder, sealing, step) for step in (1, 2, 3)][-1]
    assert names == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    saved(folder, sealing, 4, is_world_process_zero=False)
    assert fault(folder / "checkpoint-4") == "has no manifest.json, so it was not written to its end"


def test_tokens_are_counted_on_from_a_checkpoint(tmp_path: Path) -> None:
    assert importlib.metadata.version("trl").startswith("1.16.")  # `_total_train_tokens` is SFTTrainer's own
    before, after = TokenCount(), TokenCount()
    before.trainer, after.trainer = SimpleNamespace(_total_train_tokens=321), SimpleNamespace()
    TrainerState(stateful_callbacks={"TokenCount": before.state()}).save_to_json(
        str(tmp_path / "trainer_state.json")
    )
    assert exported_state(tmp_path, after) == {"tokens": 321}
    after.restore(tmp_path)
    assert after.trainer._total_train_tokens == 321
    TrainerState().save_to_json(str(tmp_path / "trainer_state.json"))
    after.restore(tmp_path)
    assert after.trainer._total_train_tokens == 0, "a checkpoint from before it was counted"


@pytest.mark.parametrize(
    ("step", "epoch", "asked", "is_done"),
    [
        (9, 1.0, {"max_steps": 9}, True),
        (9, 1.0, {"max_steps": 10}, False),
        (9, 1.0, {"num_train_epochs": 1}, True),
        (9, 1.0, {"num_train_epochs": 2}, False),
        (9, 1.0, {"num_train_epochs": 0.5}, True),
        (5, 5 / 9, {"num_train_epochs": 0.5}, True),
        (4, 4 / 9, {"num_train_epochs": 0.5}, False),
        (3, 0.1 + 0.2, {"num_train_epochs": 0.3}, True),
        (0, None, {"num_train_epochs": 1}, False),
    ],
)
def test_whether_there_is_a_step_left_is_asked_of_the_settings_as_they_are_now(
    step: int, epoch: float | None, asked: dict[str, float], is_done: bool
) -> None:
    training: Any = SimpleNamespace(**{"max_steps": -1} | asked)
    saved = TrainerState(global_step=step, epoch=epoch, max_steps=9, num_train_epochs=1)
    assert _is_done(saved, training) == is_done


def test_a_first_signal_stops_after_the_step_and_a_second_one_at_once() -> None:
    stop, control = StopOnSignal(), SimpleNamespace(should_save=False, should_training_stop=False)
    step: Any = (SimpleNamespace(save_strategy="steps"), SimpleNamespace(global_step=1), control)
    stop.on_step_end(*step)
    stop.raise_if_stopped()
    assert not control.should_training_stop
    stop._stop(signal.SIGTERM, None)
    stop.on_step_end(*step)
    assert control.should_save
    assert control.should_training_stop
    with pytest.raises(KeyboardInterrupt):
        stop._stop(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        stop.raise_if_stopped()


@pytest.mark.parametrize(("every", "rest"), [(1, "this step"), (4, "the 4 steps of this generation")])
def test_a_signal_says_what_is_finished(every: int, rest: str, capsys: pytest.CaptureFixture[str]) -> None:
    stop, control = StopOnSignal(every), SimpleNamespace(should_save=False, should_training_stop=False)
    stop._stop(signal.SIGINT, None)
    said = f"SIGINT: finishing {rest}, then saving; again stops at once"
    assert " ".join(capsys.readouterr().err.split()) == said
    for step in range(1, every + 1):
        assert not control.should_training_stop
        stop.on_step_end(SimpleNamespace(save_strategy="steps"), SimpleNamespace(global_step=step), control)
    assert control.should_training_stop


@pytest.mark.parametrize(("strategy", "evaluates"), [("best", False), ("steps", True)])
def test_an_evaluation_does_not_take_the_saving_of_a_stop_back(strategy: str, evaluates: bool) -> None:
    """transformers 5.23: with `save_strategy` best it says whether to save."""
    stop, control = StopOnSignal(), SimpleNamespace(should_evaluate=True)
    stop.stopped = True
    training = TrainingArguments(
        use_cpu=True,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy=strategy,
        metric_for_best_model="loss",
    )
    step: Any = (training, SimpleNamespace(global_step=1), control)
    stop.on_step_end(*step)
    assert (control.should_save, control.should_evaluate) == (True, evaluates)

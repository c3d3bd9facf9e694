"""Checkpoints: each is sealed when it is whole, older ones go then, and what callbacks kept is read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from prl import runs
from prl.runs import checkpoints, processes


def exported_state(checkpoint: Path, callback: ExportableState) -> dict[str, Any] | None:
    """What `callback.state()` gave as attributes when a checkpoint was written; None where it was not there.

    transformers would build a callback of its own from it; prl's hold what no file does.
    """
    saved = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")).stateful_callbacks
    return saved.get(type(callback).__name__, {}).get("attributes")


def export_from_here(state: TrainerState, callback: ExportableState) -> None:
    """Let checkpoints hold what `callback` keeps, where the one that `state` was read from does not, being of
    an older prl, or of a run without it: transformers 5.23 knows the names that stand there, and fails at
    others."""
    state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())


class SealCheckpoints(TrainerCallback):
    """Seals each checkpoint when the trainer has written it, and only then removes those beyond its
    `save_total_limit`, which the trainer itself would do before.

    The best one stays, where the trainer keeps account of one.
    """

    def __init__(self, training: TrainingArguments) -> None:
        self.keep, training.save_total_limit = training.save_total_limit, None

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        processes.wait()  # each process writes the state of its generators
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        runs.seal_checkpoint(folder / f"checkpoint-{state.global_step}")
        if self.keep:
            best = [Path(state.best_model_checkpoint).name] if state.best_model_checkpoint else []
            checkpoints.prune(folder, self.keep, also=best)

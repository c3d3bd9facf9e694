"""Training that stops where evaluations get no better (transformers 5.23), on the tiny model."""

from pathlib import Path
from typing import Any

import pytest

from prl import rl, runs
from prl.config import resolve
from prl.errors import UsageError
from prl.settings import Settings


def settings(folder: Path, **given: Any) -> Settings[Any]:
    small = {
        "limit": 16, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_generations": 4,
        "dataset": "arithmetic:wide", "rewards": ["accuracy"],
    }  # fmt: skip
    return resolve("rl", recipe="tiny", threads=1, output_dir=str(folder), **small | given)


def test_a_run_stops_where_evaluations_get_no_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A base that may write four tokens answers nothing, now as at its first evaluation. Resumed in between,
    it counts on."""
    given = {
        "max_steps": 6, "max_completion_length": 4, "eval_dataset": "arithmetic:heldout", "eval_limit": 2,
        "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "correct", "patience": 2,
        "per_device_eval_batch_size": 8, "save_steps": 1,
    }  # fmt: skip
    rl.run(settings(tmp_path / "rl", **given | {"max_steps": 2}))
    (tmp_path / "rl" / "DONE").unlink()
    rl.run(settings(tmp_path / "rl", **given, resume=True))
    assert max(line["step"] for line in runs.read_metrics(tmp_path / "rl")) == 3
    assert "stops: no better correct in 2 evaluations than 0 at step 1" in capsys.readouterr().err
    with pytest.raises(UsageError, match="patience: nothing says whether an evaluation is better"):
        settings(tmp_path, patience=2)

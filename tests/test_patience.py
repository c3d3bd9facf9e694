"""Training that stops where evaluations get no better (transformers 5.23), on the tiny model."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from printed import missing, shown
from prl import cli, rl, runs
from prl.config import resolve
from prl.errors import UsageError
from prl.settings import Settings
from prl.trainer.harm import Evaluation, collapse, fall, few_alive

FAQ = Path(__file__).parents[1] / "docs" / "faq.md"


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


def test_a_metric_of_an_evaluation_is_the_mean_of_its_responses(tmp_path: Path) -> None:
    """Also where the last batch is smaller: trl 1.16 takes the mean of the batches'."""
    problems = tmp_path / "three.jsonl"
    problems.write_text(
        "".join(json.dumps({"problem": f"Compute {n} + 1.", "answer": f"{n + 1}"}) + "\n" for n in (1, 2, 3))
    )

    def is_the_third(problem: list[str], **columns: Any) -> list[float]:
        return [float("3 + 1" in each) for each in problem]

    given = {
        "max_steps": 1, "max_completion_length": 4, "eval_dataset": str(problems), "eval_strategy": "steps",
        "eval_steps": 1, "num_generations_eval": 2, "per_device_eval_batch_size": 4, "save_strategy": "no",
    }  # fmt: skip
    wrong = {"metric_for_best_model": "rewards/accuracy/mean"}
    with pytest.raises(
        UsageError, match=r"every stage: rewards/accuracy_reward/mean, .*; nearest: rewards/acc"
    ):
        rl.run(settings(tmp_path / "rl", **given, **wrong), rewards=[is_the_third])
    rl.run(settings(tmp_path / "rl", **given), rewards=[is_the_third])
    (line,) = [line for line in runs.read_metrics(tmp_path / "rl") if "eval_loss" in line]
    assert line["eval_rewards/is_the_third/mean"] == pytest.approx(1 / 3)


def test_the_last_step_is_no_want_of_patience(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training ends there whatever was found, and at the first evaluation nothing was found before."""
    given = {
        "max_steps": 1, "max_completion_length": 4, "eval_dataset": "arithmetic:heldout", "eval_limit": 2,
        "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "correct", "patience": 2,
        "per_device_eval_batch_size": 8, "save_steps": 5,
    }  # fmt: skip
    rl.run(settings(tmp_path / "rl", **given))
    assert (tmp_path / "rl" / "DONE").exists()
    assert "stops: no better" not in capsys.readouterr().err


def test_a_checkpoint_that_knows_no_watch_is_gone_on_from(tmp_path: Path) -> None:
    """One of an older prl, or of a run without patience: transformers fails where it finds no name."""
    folder = tmp_path / "rl"
    given = {
        "max_steps": 2, "max_completion_length": 4, "save_steps": 1, "eval_dataset": "arithmetic:heldout",
        "eval_limit": 2, "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "correct",
        "per_device_eval_batch_size": 8,
    }  # fmt: skip
    rl.run(settings(folder, **given | {"max_steps": 1}))
    (folder / "DONE").unlink()
    state = folder / "checkpoint-1" / "trainer_state.json"
    written = json.loads(state.read_text())
    assert written["stateful_callbacks"].pop("HarmWatch")
    state.write_text(json.dumps(written))
    runs.seal_checkpoint(state.parent)
    rl.run(settings(folder, **given, patience=1, resume=True))
    kept = json.loads((folder / "checkpoint-2" / "trainer_state.json").read_text())["stateful_callbacks"]
    assert {"HarmWatch", "Patience"} <= kept.keys()


def test_the_questions_show_each_line_of_harm_as_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures apart. Their command is run as it stands, but from the base and small, so that it stops."""
    monkeypatch.chdir(tmp_path)
    (found,) = [each for each in shown(FAQ.read_text(encoding="utf-8")) if "--patience" in str(each[0])]
    (command,), text = [each for each in found[0] if each.startswith("prl rl ")], found[1]
    assert len(text.splitlines()) == 4
    small = (
        "--model tiny --limit 16 --max_steps 6 --max_completion_length 4 --num_generations 4 --threads 1 "
        "--per_device_train_batch_size 8 --gradient_accumulation_steps 1 --per_device_eval_batch_size 8 "
        "--eval_limit 2 --eval_steps 1 --save_steps 1"
    )
    assert cli.main([*shlex.split(command)[1:], *small.split()]) == 0
    signs = (
        fall(Evaluation(10, 0.97, 0.90), Evaluation(30, 0.93, 0.98), 800),
        collapse(0.03, 0.002),
        few_alive([0.9] * 5, [0.02] * 5, 16, False),
    )
    told = "\n".join([*(f"warning: {sign}" for sign in signs), capsys.readouterr().err])
    assert missing("\n…\n".join(text.replace("…", "0").splitlines()), told) is None

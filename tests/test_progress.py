"""What a person sees of a training: the time that is left."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prl import rl
from prl.config import resolve
from prl.trainer import progress
from prl.trainer.progress import DeadGroups, RunLog, advice_on_dead_groups


@pytest.mark.parametrize("resumed_at", [0, 980])
def test_the_time_left_is_what_the_steps_of_this_process_say(
    resumed_at: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps of 3 s. What came before --resume took none of it, nor is loading a step."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    run: Any = SimpleNamespace(command="rl", log_metrics=lambda step, logs: None)
    log, nothing = RunLog(run, lambda logs: "loss 1.0"), SimpleNamespace()
    clock.now += 500
    state: Any = SimpleNamespace(global_step=resumed_at, max_steps=resumed_at + 20, log_history=[])
    log.on_train_begin(nothing, state, nothing)  # type: ignore[arg-type]
    for _ in range(4):
        state.global_step += 5
        clock.now += 15
        log.on_log(nothing, state, nothing, {"loss": 1.0})  # type: ignore[arg-type]
    log.on_train_end(nothing, state, nothing)  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("left ")[2] for line in lines] == ["0:45", "0:30", "0:15", "0:00"]


MEANING = (
    "no group has taught anything for {} steps: the responses to each problem were all paid the same, "
    "so every advantage is 0"
)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            (3, 0.02, 0.1, 256, False),
            "; 2% are right. What may help: give easier problems, or --sampling adaptive; raise "
            "--num_generations or --temperature; train a (longer) cold start first (prl sft)",
        ),
        (
            (4, 1.0, 0.0, 256, False),
            "; 100% are right. What may help: give harder problems, or --sampling adaptive; raise "
            "--num_generations or --temperature",
        ),
        (
            (20, 0.0, 0.98, 48, True),
            "; 0% are right; 98% are cut off. What may help: raise --max_completion_length 48; give easier "
            "problems; raise --num_generations or --temperature; train a (longer) cold start first (prl sft)",
        ),
        (
            (3, None, None, 48, True),
            ". What may help: give easier problems; raise --num_generations or --temperature; train a "
            "(longer) cold start first (prl sft)",
        ),
    ],
    ids=["too hard", "too easy", "cut off", "of unknown worth"],
)
def test_dead_groups_are_explained_in_one_line(given: Any, said: str) -> None:
    assert advice_on_dead_groups(*given) == MEANING.format(given[0]) + said


DEAD = {"frac_reward_zero_std": 1.0, "grad_norm": 0.0}
ALIVE = {"frac_reward_zero_std": 0.75, "grad_norm": 0.1}
PULLED = {"frac_reward_zero_std": 1.0, "grad_norm": 0.1}
HELD_OUT = {"eval_frac_reward_zero_std": 1.0, "eval_reward": 0.0}


@pytest.mark.parametrize(
    ("lines", "options", "told_at"),
    [
        ([DEAD] * 8, {}, [3]),
        ([DEAD, DEAD, ALIVE, DEAD, DEAD, ALIVE], {}, []),
        ([ALIVE, *[DEAD] * 5, ALIVE, *[DEAD] * 5], {}, [4, 10]),
        ([DEAD, HELD_OUT, DEAD, HELD_OUT, DEAD], {}, [3]),
        ([DEAD] * 9, {"per_device_train_batch_size": 8}, [8]),
        ([DEAD] * 3, {"logging_steps": 20}, [20]),
        ([DEAD] * 4, {"begun": 100}, [103]),
        ([PULLED] * 4, {}, []),
        ([PULLED] * 4, {"beta": 0.04}, [3]),
        ([{**DEAD, "frac_reward_zero_std": 0.9}] * 9, {}, []),
    ],
    ids=["once a stretch", "short", "two stretches", "evaluations between", "one group a step",
         "logged rarely", "resumed", "a gradient", "a gradient of KL alone", "one in ten lives"],
)  # fmt: skip
def test_dead_steps_on_end_are_told_once(
    lines: list[dict[str, float]],
    options: dict[str, Any],
    told_at: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"per_device_train_batch_size": 32, "logging_steps": 1, "beta": 0.0, "begun": 0} | options
    args: Any = SimpleNamespace(
        gradient_accumulation_steps=1, world_size=1, num_generations=8, max_completion_length=64, **given
    )
    state: Any = SimpleNamespace(global_step=args.begun)
    control: Any = None
    callback = DeadGroups(is_adaptive=False)
    callback.on_train_begin(args, state, control)
    found = []
    for line in lines:
        state.global_step += 0 if line is HELD_OUT else args.logging_steps
        callback.on_log(args, state, control, dict(line))
        if said := capsys.readouterr().err:
            assert said.startswith("advice: no group has taught anything for ")
            assert said.count("\n") == 1
            found.append(state.global_step)
    assert found == told_at


def test_a_dead_run_says_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = resolve(
        "rl", recipe="tiny", threads=1, output_dir=str(tmp_path / "rl"), limit=16, max_steps=4,
        per_device_train_batch_size=12, gradient_accumulation_steps=1, num_generations=4,
        max_completion_length=4, rewards=["accuracy"],
    )  # fmt: skip  # a base that may write four tokens answers nothing
    rl.run(settings)
    lines = capsys.readouterr().err.splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("advice: no group has taught anything"))
    assert [lines[i].split()[:2] for i in (at - 1, at + 1)] == [["step", "3/4"], ["step", "4/4"]]

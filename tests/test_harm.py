"""Signs that RL does harm: what is a sign, what is chance, and that each is told once."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerState

from prl.trainer.harm import Evaluation, HarmWatch, collapse, fall, few_alive

BEST = Evaluation(10, 0.971, 0.90)


@pytest.mark.parametrize(
    ("now", "responses", "said"),
    [
        (
            Evaluation(30, 0.932, 0.98),
            1600,
            "held-out accuracy fell from 97.1% at step 10 to 93.2% at step 30, while the training reward "
            "rose from +0.90 to +0.98: ",
        ),
        (
            Evaluation(30, 0.60, -0.10),
            64,
            "held-out accuracy fell from 97.1% at step 10 to 60.0% at step 30, while the training reward "
            "went from +0.90 to -0.10: ",
        ),
        (
            Evaluation(30, 0.932, None),
            1600,
            "held-out accuracy fell from 97.1% at step 10 to 93.2% at step 30: ",
        ),
        (Evaluation(30, 0.932, 0.98), 64, None),  # two responses fewer
        (Evaluation(30, 0.952, 0.98), 800, None),  # 2 points near 97 %, as docs/faq.md says
        (Evaluation(30, 0.949, 0.98), 800, "held-out accuracy fell from 97.1% at step 10 to 94.9%"),
        (Evaluation(30, 0.965, 0.98), 1600, None),
        (Evaluation(30, 0.99, 0.98), 1600, None),
    ],
)
def test_a_fall_is_told_where_sampling_does_not_explain_it(
    now: Evaluation, responses: int, said: str | None
) -> None:
    found = fall(BEST, now, responses)
    assert found is None if said is None else found and found.startswith(said)


def test_entropy_collapses_relative_to_the_first_window() -> None:
    assert collapse(0.03, 0.004) is None
    assert (collapse(0.03, 0.002) or "").startswith("entropy collapsed from 0.03 to 0.002 nats a token: ")
    assert collapse(0.0, 0.0) is None


@pytest.mark.parametrize(
    ("dead", "said"),
    [
        ([0.9, 0.85], "2.0 of 16 groups teach in each of 2 steps (gradient norm 0.02), "),
        ([0.7, 0.7], None),
        ([1.0, 1.0], None),  # nothing moves
    ],
)
def test_a_handful_of_groups_that_teach_is_told(dead: list[float], said: str | None) -> None:
    found = few_alive(dead, [0.01, 0.03], 16, False)
    assert found is None if said is None else found and found.startswith(said)


ARGS: Any = SimpleNamespace(
    per_device_train_batch_size=128,
    gradient_accumulation_steps=1,
    world_size=1,
    num_generations=8,
    num_generations_eval=None,
)
STEP = {"reward": 0.9, "entropy": 0.03, "frac_reward_zero_std": 0.5, "grad_norm": 0.1}


def watched(watch: HarmWatch, lines: list[dict[str, float]], first: int = 0) -> None:
    for step, line in enumerate(lines, first + 1):
        state: Any = SimpleNamespace(global_step=step)
        watch.on_log(ARGS, state, None, line)


def test_each_sign_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    watch = HarmWatch(problems=200, is_adaptive=False)
    watched(watch, [{"eval_correct": 0.97}, *[STEP] * 5])
    assert not capsys.readouterr().err
    dying = STEP | {"reward": 0.99, "entropy": 0.001, "frac_reward_zero_std": 0.9, "grad_norm": 0.01}
    watched(watch, [*[dying] * 6, {"eval_correct": 0.93}] * 2, first=6)
    told = capsys.readouterr().err.splitlines()
    assert [line.split()[:3] for line in told] == [
        ["warning:", "2.9", "of"],
        ["warning:", "entropy", "collapsed"],
        ["warning:", "held-out", "accuracy"],
    ]


def test_few_groups_are_no_sign_where_the_rate_follows_them(capsys: pytest.CaptureFixture[str]) -> None:
    few = STEP | {"frac_reward_zero_std": 0.9}
    watched(HarmWatch(problems=0, is_adaptive=False, live_rate=True), [few] * 6)
    assert not capsys.readouterr().err


def test_a_step_that_nothing_judged_has_no_reward() -> None:
    """TRL logs None where every own reward gave none."""
    watch = HarmWatch(problems=200, is_adaptive=False)
    watched(watch, [{"frac_reward_zero_std": 0.0, "reward": None}, {"eval_correct": 0.5}])  # type: ignore[dict-item]
    assert watch.rewards == []


def test_an_evaluation_before_the_first_step_has_the_reward_of_the_first_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    watch = HarmWatch(problems=200, is_adaptive=False)
    better = {"reward": 0.99} | {key: value for key, value in STEP.items() if key != "reward"}
    watched(watch, [{"eval_correct": 0.97}, STEP, {"eval_correct": 0.96}, better, {"eval_correct": 0.90}])
    assert "the training reward rose from +0.90 to +0.99" in capsys.readouterr().err


def test_a_resumed_run_goes_on_watching(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = HarmWatch(problems=200, is_adaptive=False)
    watched(watch, [*[STEP] * 5, {"eval_correct": 0.97}])
    state = TrainerState(stateful_callbacks={"HarmWatch": watch.state()})
    state.save_to_json(str(tmp_path / "trainer_state.json"))
    resumed = HarmWatch(problems=200, is_adaptive=False)
    resumed.restore(tmp_path)
    assert vars(resumed) == vars(watch)
    watched(resumed, [STEP, {"eval_correct": 0.9}], first=6)
    assert "97.0% at step 6 to 90.0% at step 8" in capsys.readouterr().err
    older = HarmWatch(problems=200, is_adaptive=False)
    TrainerState().save_to_json(str(tmp_path / "trainer_state.json"))
    older.restore(tmp_path)
    assert vars(older) == vars(HarmWatch(problems=200, is_adaptive=False))

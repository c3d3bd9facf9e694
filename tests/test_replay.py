"""The reward lab: every number by hand on small runs, the alarm, and what a user can get wrong."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from prl import runs
from prl.config import resolve
from prl.errors import RunError, UsageError
from prl.grammar import TAGS, render
from prl.statistics import Estimate
from prl.study import lab_measures
from prl.study import reward_lab as lab
from prl.study.reward_lab import PAID, SUM, Replay, lines, replay, tables

BLOCK = render(["6*7=42", "7*6=42"], "42") + "\nFinal Answer: 42"
VARIED = render(["6*7=42", "add it up"], "42") + "\nFinal Answer: 42"
PLAIN = "Final Answer: 42"
WRONG = "Final Answer: 41"
BLOCK_WRONG = BLOCK.replace("42", "41")
VARIED_WRONG = VARIED.replace("42", "41")
MALFORMED = "<Path>\nFinal Answer: 42"


def sample(text: str, **columns: Any) -> dict[str, Any]:
    verdict = "identical" if text.endswith("42") else "different"
    return {
        "problem": "6*7?",
        "answer": "42",
        "text": text,
        "token_ids": [ord(c) for c in text],
        "length": len(text),
        "truncated": False,
        "verdict": verdict,
        **columns,
    }


def rl_run(
    folder: Path,
    steps: Sequence[Sequence[Sequence[str]]],
    *,
    paid: Iterable[float] | None = None,
    settings: dict[str, Any] | None = None,
    metrics: Sequence[dict[str, Any]] = (),
    stages: Sequence[str] = (),
) -> Path:
    """An rl run: steps of groups of texts. It paid `paid`, in this order, as reward_accuracy."""
    given = iter(paid or ())
    with runs.open_run(folder, command="rl", config={"command": "rl", "rl": settings or {}}) as run:
        for step, groups in enumerate(steps, 1):
            rows = [
                sample(text, group=group) | ({"reward_accuracy": next(given)} if paid else {})
                for group, texts in enumerate(groups)
                for text in texts
            ]
            run.log_samples(step, [row | ({"stage": stages[step - 1]} if stages else {}) for row in rows])
        for step, line in enumerate(metrics, 1):
            run.log_metrics(step, line)
        run.finish()
    return folder


def evaluation(folder: Path, right: Sequence[int], *, of: int = 2, **columns: Any) -> Path:
    """An evaluation of problems, `of` samples each, of which so many are right."""
    with runs.open_run(folder, command="eval", config={"command": "eval", "eval": {}}) as run:
        rows = [
            sample(PLAIN if index < count else WRONG, problem=f"problem {number}", mode="sampled") | columns
            for number, count in enumerate(right)
            for index in range(of)
        ]
        run.log_samples(0, rows)
        run.finish()
    return folder


# Numbers


def test_values_dead_groups_and_correlations_by_hand(tmp_path: Path) -> None:
    run = rl_run(
        tmp_path / "rl",
        [
            [[BLOCK, WRONG], [PLAIN, PLAIN]],
            [[BLOCK, PLAIN], [WRONG, WRONG]],
            [[BLOCK, BLOCK], [BLOCK, BLOCK_WRONG]],
        ],
    )
    found = replay(run, ["tiered", "accuracy"], weights=[1, 0.5])
    assert (found.responses, found.groups, found.ranges) == (12, 6, ((1, 1), (2, 2), (3, 3)))
    tiered = found.rewards["tiered"]
    values = [1.2, -1, 1, 1, 1.2, 1, -1, -1, 1.2, 1.2, 1.2, -1]
    assert tiered.judged == 12
    assert tiered.mean == pytest.approx(np.mean(values))
    assert tiered.std == pytest.approx(np.std(values, ddof=1))
    assert tiered.quartiles == pytest.approx((-1, -1, 1, 1.2, 1.2))
    assert tiered.dead_groups == (1 / 2, 1 / 2, 1 / 2)
    assert found.rewards["accuracy"].dead_groups == (1 / 2, 1, 1 / 2)
    right = [1, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 0]
    assert tiered.correlation == pytest.approx(np.corrcoef(values, right)[0, 1])
    centred = [1.1, -1.1, 0, 0, 0.1, -0.1, 0, 0, 0, 0, 1.1, -1.1]
    assert tiered.correlation_in_groups == pytest.approx(
        np.corrcoef(centred, [0.5, -0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0.5, -0.5])[0, 1]
    )
    assert found.rewards["accuracy"].correlation == pytest.approx(1)
    total = np.array(values) + 0.5 * (2 * np.array(right) - 1)
    assert found.rewards[SUM].mean == pytest.approx(total.mean())
    assert PAID not in found.rewards
    assert (found.gain, found.lose) == ((), ()), "against nothing paid"
    assert tiered.change is None, "two groups in a third make no interval"


def test_changes_are_between_the_thirds_of_the_steps(tmp_path: Path) -> None:
    early, late = [[PLAIN, WRONG]] * 6 + [[WRONG, WRONG]] * 2, [[PLAIN, PLAIN]] * 8
    found = replay(rl_run(tmp_path / "rl", [early, early, early, late, late, late, late]), ["accuracy"])
    assert found.ranges == ((1, 3), (4, 5), (6, 7))
    change = found.rewards["accuracy"].change
    assert change is not None
    assert change.mean == pytest.approx(1 - (-1 / 4))
    # Of 24 early groups 6 are all wrong. Resampled, 2 to 10 are, in 95 % of the cases (a binomial).
    assert (change.low, change.high) == pytest.approx((1 + 2 / 24, 1 + 10 / 24), abs=1 / 24)
    assert replay(tmp_path / "rl", ["accuracy"]) == found, "the bootstrap is seeded"


def test_what_the_run_paid_stands_beside_it_by_its_own_weights(tmp_path: Path) -> None:
    run = rl_run(tmp_path / "rl", [[[PLAIN, WRONG]]], paid=[1, -1], settings={"reward_weights": [2.0]})
    found = replay(run, ["accuracy"])
    assert found.rewards[PAID].quartiles == (-2, -1, 0, 1, 2)
    assert found.rewards[SUM].quartiles == (-1, -0.5, 0, 0.5, 1)
    assert (found.gain, found.lose) == ((), ()), "advantages do not know the scale"


@pytest.mark.parametrize("weights", ["2.0", ["much"], {"a": 1}, [1.0, 1.0]])
def test_weights_that_are_none_are_not_taken_from_a_run(tmp_path: Path, weights: Any) -> None:
    run = rl_run(tmp_path / "rl", [[[PLAIN, WRONG]]], paid=[1, -1], settings={"reward_weights": weights})
    assert (PAID in replay(run, ["accuracy"]).rewards) == (not isinstance(weights, list))


def test_a_reward_of_the_users_own_counts_in_what_the_run_paid(tmp_path: Path) -> None:
    with runs.open_run(
        tmp_path / "rl", command="rl", config={"command": "rl", "rl": {"reward_weights": [0.0]}}
    ) as run:
        paid = [{"reward_accuracy": 1.0, "reward_brief": own, "reward": own} for own in (0.5, 0.75)]
        run.log_samples(1, [sample(PLAIN, group=0) | each for each in paid])
        run.finish()
    assert replay(tmp_path / "rl", ["accuracy"]).rewards[PAID].mean == 0.625


def test_who_gains_and_loses_is_a_matter_of_the_group(tmp_path: Path) -> None:
    groups = [[BLOCK, PLAIN, WRONG], [PLAIN, PLAIN, MALFORMED], [BLOCK_WRONG, WRONG, WRONG]]
    run = rl_run(tmp_path / "rl", [groups], paid=[1, 1, -1, 1, 1, 1, -1, -1, -1])
    found = replay(run, ["tiered"], top=2)
    # Group 1: 1, 1, -1 where the run paid 1, 1, 1; in group 0 a block is worth 1.2 instead of 1.
    assert [each.group for each in found.gain] == [1, 0]
    assert [(each.text, each.group) for each in found.lose] == [(MALFORMED, 1), (PLAIN, 0)]
    lost = found.lose[0]
    assert (lost.step, lost.problem, lost.answer, lost.right) == (1, "6*7?", "42", True)
    assert (lost.paid, lost.reward, lost.advantage_paid) == (1, -1, 0)
    assert lost.advantage == pytest.approx((-1 - 1 / 3) / (np.std([1, 1, -1], ddof=1) + 1e-4))
    (only,) = replay(run, ["tiered"], top=1).lose
    assert only == lost
    assert replay(run, ["tiered"], top=0).gain == ()


def test_responses_without_a_readable_gold_answer_are_left_out(tmp_path: Path) -> None:
    with runs.open_run(tmp_path / "rl", command="rl", config={}) as run:
        run.log_samples(1, [sample(PLAIN, group=0), sample(WRONG, group=0)])
        run.log_samples(1, [sample(PLAIN, group=1, answer=None)] * 2)
        run.finish()
    found = replay(tmp_path / "rl", ["accuracy", "format"])
    assert (found.rewards["accuracy"].judged, found.rewards["format"].judged) == (2, 4)
    assert found.rewards["accuracy"].dead_groups == (0,), "a group that nobody judged is not dead"
    assert found.rewards[SUM].quartiles == (0, 0.75, 1, 1.25, 2), "a sum skips what judges nothing, as TRL's"


def test_the_window_counts_from_the_start_of_each_stage(tmp_path: Path) -> None:
    pattern = (("accuracy", 2), ("format", 1))
    whole = rl_run(tmp_path / "whole", [[[MALFORMED, WRONG]]] * 6)
    staged = rl_run(tmp_path / "staged", [[[MALFORMED, WRONG]]] * 6, stages=["easy"] * 2 + ["general"] * 4)

    def paid(run: Path) -> list[float]:
        read = lab_measures.read(run)
        rewards = lab.reward_functions(["alternating"], pattern=pattern)
        return lab_measures.score(read, rewards, with_ids=False)["alternating"].tolist()

    assert paid(whole) == [1, -1, 1, -1, 0, 1] * 2
    assert paid(staged) == [1, -1, 1, -1, 1, -1, 1, -1, 0, 1, 1, -1]
    assert replay(whole, ["alternating"], pattern=pattern).rewards["alternating"].mean == pytest.approx(1 / 6)


def test_efficiency_counts_tokens_where_the_run_tells_which_are_tags(tmp_path: Path) -> None:
    run = rl_run(tmp_path / "rl", [[[BLOCK, PLAIN]]])
    by_characters = replay(run, ["efficiency"])
    assert by_characters.notes == (
        "efficiency counts characters: the run keeps no tokenizer with the tags, or no token ids",
    )
    assert replay(run, ["alternating"], pattern=(("efficiency", 1),)).notes == by_characters.notes
    # Six characters stand for the tags, so that the ids of BLOCK hold one block of two paths of a token each.
    tags = dict(zip(TAGS, map(ord, "PQRSTU"), strict=True))
    (run / "adapter").mkdir()
    added = [{"content": tag, "id": number} for tag, number in tags.items()]
    (run / "adapter" / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    with runs.open_run(tmp_path / "b", command="rl", config={}) as other:
        other.log_samples(1, [sample("x", group=0, token_ids=[ord(c) for c in "PRxSRySQTzU"])])
        other.finish()
    (run / "adapter").rename(tmp_path / "b" / "adapter")
    by_tokens = replay(tmp_path / "b", ["efficiency"])
    assert by_tokens.rewards["efficiency"].mean == pytest.approx(3 / 11)
    assert by_tokens.notes == ()
    (tmp_path / "b" / "adapter" / "tokenizer.json").write_text("[]")
    assert replay(tmp_path / "b", ["efficiency"]).rewards["efficiency"].mean == 0


def test_overlong_takes_the_limit_of_the_run(tmp_path: Path) -> None:
    run = rl_run(tmp_path / "rl", [[[PLAIN, PLAIN + "0" * 4]]], settings={"max_completion_length": 20})
    found = replay(run, ["overlong"], overlong_buffer=8)
    assert len(PLAIN) == 16
    assert found.rewards["overlong"].quartiles == pytest.approx((-1, -0.875, -0.75, -0.625, -0.5))
    for number, none in enumerate((None, "20", [20], True, 0, -1, 2.5)):
        run = rl_run(tmp_path / f"{number}", [[[PLAIN]]], settings={"max_completion_length": none})
        with pytest.raises(UsageError, match="overlong needs a limit"):
            replay(run, ["overlong"])


def test_a_run_without_groups_still_has_distributions(tmp_path: Path) -> None:
    found = replay(evaluation(tmp_path / "eval", [0, 1, 2]), ["accuracy", "format"])
    assert (found.responses, found.groups, found.ranges) == (6, 0, ((0, 0),))
    accuracy = found.rewards["accuracy"]
    assert (accuracy.mean, accuracy.correlation) == (0, pytest.approx(1))
    assert (accuracy.dead_groups, accuracy.correlation_in_groups, accuracy.change) == ((None,), None, None)
    assert found.notes == ("no groups are stored: none are dead, and no response gains or loses",)
    assert "no alarm can be given" in lines(found)
    assert len(tables(found)) == 2, "no table of dead groups"


def test_verdicts_that_changed_since_are_counted(tmp_path: Path) -> None:
    with runs.open_run(tmp_path / "rl", command="rl", config={}) as run:
        run.log_samples(1, [sample(PLAIN, group=0, verdict=v) for v in ("different", "equal", None)])
        run.finish()
    assert replay(tmp_path / "rl", ["accuracy"]).notes == (
        "1 answers are judged otherwise than when the run stored them",
    )


@given(
    st.lists(
        st.lists(st.sampled_from([-1.0, 0.0, 0.1, 1.2, np.nan]), min_size=2, max_size=2),
        min_size=1,
        max_size=12,
    )
)
def test_groups_and_sums_as_counted_one_by_one(pairs: list[list[float]]) -> None:
    first, second = np.array(pairs).T
    total = lab_measures.weighted_sum([first, second], [1, -2])
    expected = [np.nan if np.isnan(pair).all() else np.nansum([pair[0], -2 * pair[1]]) for pair in pairs]
    np.testing.assert_array_equal(total, expected)
    size = 3
    samples = lab_measures.Samples(
        table=None, steps=first, begins=first, texts=[], answers=[], lengths=[], truncated=[], stored=first,
        group=np.arange(len(pairs)) % size, group_steps=np.arange(size), paid=None,
    )  # fmt: skip
    found = lab_measures._groups(samples, total)
    for number in range(size):
        members = total[number::size]
        judged = members[~np.isnan(members)]
        assert found.judged[number] == len(judged)
        if len(judged) > 1:
            assert found.std[number] == pytest.approx(np.std(judged, ddof=1), abs=1e-12)
            np.testing.assert_allclose(found.centred[number::size], members - judged.mean(), atol=1e-12)
            assert (found.std[number] <= lab_measures._EQUAL) == (np.ptp(judged) == 0)


# The alarm

DRIFT = [[[BLOCK, PLAIN]] * 4, [[BLOCK, PLAIN]] * 4, [[VARIED_WRONG, VARIED]] * 4]
"""A policy that learns to write diverse paths and unlearns to be right."""


def test_no_alarm_where_accuracy_holds(tmp_path: Path) -> None:
    steps = [[[BLOCK, WRONG]] * 4, [[BLOCK, PLAIN]] * 4, [[VARIED, VARIED]] * 4]
    found = replay(rl_run(tmp_path / "rl", steps), ["set_diversity"])
    assert found.alarms == ()
    assert "no alarm: nothing rises while accuracy falls" in lines(found)


@pytest.mark.parametrize(
    ("last", "alarms", "why"),
    [
        ([0, 1, 0, 0, 1, 1], ("set_diversity", SUM), "fell on every problem"),
        ([2, 2, 2, 2, 2, 2], (), "held"),
        ([0, 2, 2, 2, 2, 2], (), "fell on one of six: the interval holds 0"),
        ([0, 1, 0, 0, 1, 2], (), "fell on five: as may be by chance"),
    ],
)
def test_the_alarm_goes_by_held_out_evaluations(
    tmp_path: Path, last: list[int], alarms: tuple[str, ...], why: str
) -> None:
    run = rl_run(tmp_path / "rl", DRIFT)
    heldout = [evaluation(tmp_path / "a", [2] * 6), evaluation(tmp_path / "b", last)]
    found = replay(run, ["accuracy", "set_diversity"], weights=[0.1, 1], heldout=heldout)
    assert found.alarms == alarms, why
    assert found.accuracy.held_out
    assert found.accuracy.source == "held-out accuracy, a to b, sampled, 6 problems"
    assert found.accuracy.change is not None
    assert found.accuracy.change.mean == pytest.approx((sum(last) - 12) / 12)
    for name in alarms:
        assert f"ALARM: {name} rises while accuracy falls; it pays for something else" in lines(found)


def test_evaluations_are_paired_by_problem_and_skip_what_cannot_be_judged(tmp_path: Path) -> None:
    run = rl_run(tmp_path / "rl", DRIFT)
    before = evaluation(tmp_path / "a", [2, 2, 0])
    with runs.open_run(tmp_path / "b", command="eval", config={}) as after:
        rows = [sample(WRONG, problem=f"problem {n}", mode="sampled") for n in (2, 1, 7)]
        unread = sample(WRONG, problem="problem 0", mode="sampled", verdict="unparseable gold")
        after.log_samples(0, [*rows, unread])
        after.finish()
    found = replay(run, ["accuracy"], heldout=[before, before, tmp_path / "b"])
    assert found.accuracy.source == "held-out accuracy, a to b, sampled, 2 problems"
    assert found.accuracy.change is not None
    assert found.accuracy.change.mean == -0.5


def test_else_the_alarm_goes_by_what_the_run_logged(tmp_path: Path) -> None:
    logged = [0.9, 0.8, 0.9, 0.85, None, 0.6, 0.5, 0.55, 0.6]
    steps = [each for each in DRIFT for _ in range(3)]
    metrics = [{"eval_correct": value} if value is not None else {"loss": 1.0} for value in logged]
    found = replay(rl_run(tmp_path / "rl", steps, metrics=metrics), ["set_diversity"])
    assert found.accuracy.source == "held-out accuracy, 8 evaluations that the run logged"
    assert found.accuracy.change is not None
    assert found.accuracy.change.mean == pytest.approx((0.5 + 0.55 + 0.6) / 3 - (0.9 + 0.8 + 0.9) / 3)
    assert found.alarms == ("set_diversity", SUM)


@pytest.mark.parametrize(
    ("metrics", "missing"),
    [([], "none was held out"), ([{"eval_correct": 0.9}] * 3, "3 held-out evaluations are too few")],
)
def test_else_by_accuracy_in_training_which_is_called_weaker(
    tmp_path: Path, metrics: list[dict[str, Any]], missing: str
) -> None:
    found = replay(rl_run(tmp_path / "rl", DRIFT, metrics=metrics), ["set_diversity"])
    assert not found.accuracy.held_out
    assert found.accuracy.source == (
        f"accuracy in training, a weaker sign ({missing}; --heldout takes evaluations)"
    )
    assert found.accuracy.change == Estimate(-0.5, -0.5, -0.5)
    assert found.alarms == ("set_diversity", SUM)


def test_an_interval_holds_95_percent(tmp_path: Path) -> None:
    """Of three problems one is lost. Resampled, all three are that one in 1 of 27 cases (3.7 %)."""
    run = rl_run(tmp_path / "rl", DRIFT)
    heldout = [evaluation(tmp_path / "a", [2, 2, 2]), evaluation(tmp_path / "b", [0, 2, 2])]
    change = replay(run, ["accuracy"], heldout=heldout).accuracy.change
    assert change == Estimate(pytest.approx(-1 / 3), -1, 0)


# What is shown


def shown(found: Replay, width: int) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False, soft_wrap=True)
    for table in tables(found):
        console.print(table)
    for line in lines(found, width):
        console.print(line, markup=False)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_tables_and_lines_fit_the_terminal(tmp_path: Path, width: int) -> None:
    names = ["accuracy", "gated_efficiency", "set_diversity"]
    run = rl_run(tmp_path / "[red]rl", DRIFT, paid=[1, 1] * 8 + [-1, 1] * 4)
    found = replay(run, names, weights=[1, 10, -100])
    written = shown(found, width)
    title, *rest = written
    assert title.endswith("[red]rl: 24 responses"), "a path is no markup"
    longest = max(rest, key=len)
    assert len(longest) <= width, longest
    text = "\n".join(rest)
    for name in (PAID, *names, SUM):
        change = re.escape(f"{found.rewards[name].change:+.3f}")
        assert re.search(rf"^ {name} +{change} ", text, re.MULTILINE), "no cell is broken"
    assert "dead of 12 groups, by steps" in text
    assert "responses that gain most against what the run paid" in text


def test_one_reward_needs_no_sum(tmp_path: Path) -> None:
    run = rl_run(tmp_path / "rl", [[[PLAIN, WRONG]]], paid=[1, -1])
    assert not any(line.startswith(" sum ") for line in shown(replay(run, ["accuracy"]), 80))
    assert any(line.startswith(" sum ") for line in shown(replay(run, ["accuracy", "format"]), 80))


def test_what_a_model_wrote_cannot_steer_the_terminal(tmp_path: Path) -> None:
    hostile = "\x1b[31m[bold]\u202e" + "\n" * 50 + "<Path>" * 500 + PLAIN
    run = rl_run(tmp_path / "rl", [[[hostile, PLAIN]]], paid=[1, 1])
    text = "\n".join(shown(replay(run, ["format"]), 80))
    assert "\ufffd[31m[bold]\ufffd <Path>" in text
    assert " … " in text
    assert all(c.isprintable() or c == "\n" for c in text)


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = rl_run(tmp_path / "rl", DRIFT, paid=[1] * 24)
    output = tmp_path / "replay.json"
    given = {"run": str(run), "reward": ["alternating", "format"], "reward_weights": [1, 0.5]}
    found = lab.run(
        resolve(
            "rewards replay",
            **given,
            alternate=["accuracy:1", "tiered:2"],
            alternate_window=3,
            output=str(output),
        )
    )
    said = capsys.readouterr().err
    assert "24 responses" in said
    assert "accuracy in training, a weaker sign" in said
    written = json.loads(output.read_text())
    assert written["rewards"]["alternating"]["mean"] == found.rewards["alternating"].mean
    assert written["accuracy"]["change"] == {"mean": -0.5, "low": -0.5, "high": -0.5}
    assert written["lose"][0]["text"] == found.lose[0].text


# What a user can get wrong


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["tierd"], {}, "'tierd' is no reward; nearest: tiered"),
        ([], {}, "rewards none: name one or more, each once"),
        (["format", "format"], {}, "rewards format format: name one or more, each once"),
        (["format"], {"weights": [1, 2]}, "reward_weights [1, 2]: give a finite number for each of format"),
        (
            ["format"],
            {"weights": [float("nan")]},
            "reward_weights [nan]: give a finite number for each of format",
        ),
        (
            ["format"],
            {"heldout": ["eval"]},
            "heldout eval: name two evaluations or more, in order of training",
        ),
    ],
)
def test_bad_settings_are_named(
    tmp_path: Path, names: list[str], options: dict[str, Any], message: str
) -> None:
    run = rl_run(tmp_path / "rl", [[[PLAIN]]])
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        replay(run, names, **options)


def test_the_command_refuses_a_bad_pattern_and_no_run(tmp_path: Path) -> None:
    run = rl_run(tmp_path / "rl", [[[PLAIN]]])
    with pytest.raises(UsageError, match=r"alternate: .*tird.*nearest: tiered"):
        lab.run(resolve("rewards replay", run=str(run), reward=["alternating"], alternate=["tird:10"]))
    with pytest.raises(UsageError, match="--run is missing"):
        lab.run(resolve("rewards replay"))


def test_bad_runs_are_named(tmp_path: Path) -> None:
    run = rl_run(tmp_path / "rl", [[[PLAIN]]])
    empty = rl_run(tmp_path / "empty", [])
    with pytest.raises(RunError, match="empty holds no samples; name a run that logged responses"):
        replay(empty, ["format"])
    with pytest.raises(RunError, match=r"no such folder\. Did you mean .*rl"):
        replay(tmp_path / "rll", ["format"])
    other = evaluation(tmp_path / "other", [1], mode="greedy")
    with pytest.raises(RunError, match="heldout eval to other: no problem in both"):
        replay(run, ["format"], heldout=[evaluation(tmp_path / "eval", [1]), other])


# Cost


def test_hostile_responses_take_linear_time(tmp_path: Path) -> None:
    hostile = "<Parallel>" + "<Path>1" * 33_000 + "</Parallel>" * 33_000
    run = rl_run(tmp_path / "rl", [[[hostile, hostile + "x"]]])
    started = monotonic()
    replay(run, ["tiered", "set_diversity", "efficiency"])
    assert monotonic() - started < 30


def test_importing_it_takes_no_torch() -> None:
    program = (
        "import sys, prl.study.reward_lab; print(sorted({'torch', 'transformers', 'trl'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"

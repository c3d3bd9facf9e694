"""Two evaluations side by side: what is compared, how, and what is refused."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from prl import runs
from prl.config import resolve
from prl.errors import RunError, UsageError
from prl.statistics import Estimate
from prl.study import comparison, demo
from prl.study.comparison import compare

PROBLEMS = 40
FIRST = [float(i % 2) for i in range(PROBLEMS)]
BETTER = [1.0 if i % 4 else score for i, score in enumerate(FIRST)]
"""A quarter of the problems is won, none lost."""


def evaluation(
    folder: Path,
    scores: list[float] = FIRST,
    *,
    attention: str = "causal",
    mode: str = "sampled",
    asked: str = "Compute {}.",
    **results: Any,
) -> Path:
    """An evaluation run as `prl eval` leaves it, but for intervals that are all a tenth wide."""
    accuracy = sum(scores) / PROBLEMS
    metrics = {"accuracy": accuracy, "format_valid": 1.0, "tokens": 80.0, "odd": accuracy}
    config = {"command": "eval", "eval": {"attention": attention}}
    with runs.open_run(folder, command="eval", config=config) as run:
        costs = {"answer": "7", "length": 80, "critical_path": 60.0}
        rows = [{"mode": mode, "problem": asked.format(i), "correct": each} for i, each in enumerate(scores)]
        run.log_samples(0, [row | costs for row in rows])
        written = {
            "dataset": "arithmetic:heldout", "problems": PROBLEMS, "seed": 0, "samples": 4,
            "temperature": 1.0,
            "metrics": {
                f"{mode}/{name}": {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}
                for name, mean in metrics.items()
            },
            "scores": {mode: scores},
        }  # fmt: skip
        runs.write_json(folder / "results.json", written | results)
        run.finish()
    return folder


def a_demo(folder: Path, scores: list[float], attention: str) -> Path:
    for name in demo.EVALUATIONS.values():
        evaluation(folder / name, scores, attention=attention)
    runs.write_json(folder / "demo.json", {})
    return folder


def test_difference_is_paired_and_second_minus_first(tmp_path: Path) -> None:
    result = compare(evaluation(tmp_path / "a"), evaluation(tmp_path / "b", BETTER))
    assert (result.problems, result.mode) == (40, "sampled")
    assert result.first["accuracy"] == Estimate(0.5, 0.45, 0.55), "as it was written"
    assert result.second["accuracy"] == Estimate(0.75, 0.7, 0.8)
    assert result.difference.mean == pytest.approx(0.25)
    # Of 40 problems 10 are won. Resampled, 5 to 16 are, in 95 % of the cases (a binomial); unpaired, the
    # interval would be half as wide again.
    assert (result.difference.low, result.difference.high) == pytest.approx((5 / 40, 16 / 40), abs=1 / 40)
    same = compare(tmp_path / "b", tmp_path / "b")
    assert (same.difference.mean, same.difference.high) == pytest.approx((0, 1 - 0.025 ** (1 / 40)))
    assert same.difference.low == -same.difference.high, (
        "of 40 problems that agree, 8.8 points to either side"
    )


def test_demos_are_compared_stage_by_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = a_demo(tmp_path / "a", FIRST, "causal")
    second = a_demo(tmp_path / "b", BETTER, "structured")
    stages = comparison.run(resolve("compare", runs=[str(first), str(second)], bootstrap=100))
    assert [*stages.figures] == ["base", "SFT", "sequential", "RL"], "a figure is drawn of the last"
    shown = capsys.readouterr().err
    for said in (
        "RL, sampled, 40 problems",
        "A causal",
        "B structured",
        "accuracy",
        "format_valid",
        "tokens",
        f"A {first}",
        f"B {second}",
    ):
        assert said in shown
    assert shown.count("accuracy, B - A, paired:  25.0%  [") == 4
    assert "odd" not in shown
    assert "critical_path" not in shown, "results from before it was measured"
    shutil.rmtree(second / "eval-sequential")
    stages = comparison.run(resolve("compare", runs=[str(first), str(second)], bootstrap=10))
    assert [*stages.figures] == ["base", "SFT", "RL"], "a demo from before there was a control"


def test_frontiers_are_drawn_where_a_figure_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    first, second = evaluation(tmp_path / "a"), evaluation(tmp_path / "b", BETTER, attention="structured")
    asked = {"runs": [str(first), str(second)], "bootstrap": 10}
    comparison.run(resolve("compare", figure=str(tmp_path / "drawn.svg"), **asked))
    drawn = (tmp_path / "drawn.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {said} -->" in drawn for said in ("A causal", "B structured", "critical path, tokens"))
    assert f"figure: {tmp_path / 'drawn.svg'}" in capsys.readouterr().err
    for path in (tmp_path / "drawn.txt", tmp_path / "nowhere" / "drawn.png"):
        with pytest.raises(UsageError, match=rf"--figure {path} cannot be written \(.*name a .png"):
            comparison.run(resolve("compare", figure=str(path), **asked))


def test_greedy_results_are_compared_where_nothing_was_sampled(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "a", mode="greedy", samples=0)
    result = compare(first, evaluation(tmp_path / "b", BETTER, mode="greedy", samples=0))
    assert result.mode == "greedy"
    assert result.difference.mean == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"dataset": "gsm8k"}, "dataset is arithmetic:heldout and gsm8k; evaluate both with one --dataset"),
        ({"problems": 8}, "problems is 40 and 8; evaluate both with one --limit"),
        ({"seed": 1}, "seed is 0 and 1; evaluate both with one --seed"),
        ({"samples": 8}, "samples is 4 and 8; evaluate both with one --samples"),
        ({"temperature": 0.6}, "temperature is 1.0 and 0.6; evaluate both with one --temperature"),
        ({"mode": "greedy"}, "one is sampled, the other greedy"),
    ],
)
def test_unlike_results_are_refused_in_one_line(tmp_path: Path, other: dict[str, Any], said: str) -> None:
    first, second = evaluation(tmp_path / "a"), evaluation(tmp_path / "b", **other)
    with pytest.raises(RunError, match="cannot be compared") as error:
        compare(first, second)
    assert said in str(error.value)
    assert str(first) in str(error.value)
    assert str(second) in str(error.value)
    assert "\n" not in str(error.value)


def test_other_problems_of_the_same_name_are_refused(tmp_path: Path) -> None:
    first, second = evaluation(tmp_path / "a"), evaluation(tmp_path / "b", asked="Add {}.")
    with pytest.raises(RunError, match="arithmetic:heldout gave them other problems"):
        compare(first, second)


def test_an_evaluation_is_compared_with_all_of_a_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, both = evaluation(tmp_path / "a"), a_demo(tmp_path / "demo", BETTER, "structured")
    comparison.run(resolve("compare", runs=[str(first), str(both)], bootstrap=100))
    shown = capsys.readouterr().err
    assert "B - A, C - A, D - A, E - A: paired\n" in shown
    assert all(re.search(rf"│   {letter} \w+ +│ [^│]+ │ 25.0% \[", shown) for letter in "BCDE")
    assert f"E {both / 'eval-rl'}" in shown


def test_folders_that_hold_nothing_to_compare(tmp_path: Path) -> None:
    first, both = evaluation(tmp_path / "a"), a_demo(tmp_path / "demo", FIRST, "causal")

    def run(*folders: Path) -> None:
        comparison.run(resolve("compare", runs=[*map(str, folders)]))

    with pytest.raises(RunError, match="none holds neither a finished demo"):
        run(first, tmp_path / "none")
    (both / "eval-sft" / "results.json").unlink()
    with pytest.raises(RunError, match=r"eval-sft.results\.json cannot be read"):
        run(both, both)
    for spoiled in ("", "[]", "7", "{"):
        (first / "results.json").write_text(spoiled)
        with pytest.raises(RunError, match="evaluate again") as error:
            run(first, first)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["shut", "shut/run"])
def test_a_folder_that_may_not_be_looked_into_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "is_file", refuse)  # whoever runs this may look into everything
    with pytest.raises(RunError) as error:
        comparison.run(resolve("compare", runs=[str(tmp_path / name)] * 2))
    assert str(error.value) == (
        f"{tmp_path / name} cannot be read: Permission denied. Let it and the folders above it be searched, "
        "or name another"
    )

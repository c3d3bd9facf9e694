"""Curves: the points of metrics.jsonl under the project's words, in a figure that leaves nothing behind."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prl.errors import RunError, UsageError
from prl.report.curves import METRICS, plot_evaluations, plot_run, read_curves
from prl.runs import open_run

pytest.importorskip("matplotlib", reason="curves need matplotlib: pip install prl[report]")

SFT = [
    (1, {"loss": 3.0, "grad_norm": 0.5, "memory/peak": 0.5}),
    (2, {"loss": 1.0}),
    (2, {"eval_loss": 1.5, "eval_runtime": 0.3}),
    (2, {"eval_format_valid": 0.75, "eval_parallel_ratio": 0.5}),
    (2, {"train_loss": 2.0, "train_runtime": 9.0}),
]
RL = [
    (step, {"loss": 0.1, "reward": -1 + 0.1 * step, "correct": 0.05 * step, "format_valid": 0.9,
            "parallel_ratio": 0.6, "frac_reward_zero_std": 0.25, "rewards/accuracy_reward/mean": 0.0})
    for step in range(1, 31)
]  # fmt: skip


NAMES = {"accuracy": "accuracy", "format_valid": "valid format", "parallel_ratio": "parallel ratio"}


def run_folder(folder: Path, stage: str, lines: list[tuple[int, dict[str, Any]]]) -> Path:
    with open_run(folder, command=stage, config={"command": stage}) as run:
        for step, metrics in lines:
            run.log_metrics(step, metrics)
    return folder


def evaluation(folder: Path, accuracy: float, modes: tuple[str, ...] = ("greedy", "sampled")) -> Path:
    estimate = {"mean": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.05}
    metrics = {f"{mode}/{key}": estimate for mode in modes for key in NAMES}
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"metrics": metrics}))
    return folder


def drawn(figure: Any) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """What a figure shows: y label of a panel -> legend entry -> points."""
    return {
        axes.get_ylabel(): {
            line.get_label(): list(zip(line.get_xdata(), line.get_ydata(), strict=True))
            for line in axes.get_lines()
            if not line.get_label().startswith("_")
        }
        for axes in figure.axes
    }


def test_a_cold_start_shows_losses_and_format(tmp_path: Path) -> None:
    figure = plot_run(run_folder(tmp_path / "sft", "sft", SFT))
    assert drawn(figure) == {
        "loss": {"loss": [(1, 3.0), (2, 1.0)], "held-out loss": [(2, 1.5)]},
        "share of responses": {"valid format": [(2, 0.75)], "parallel ratio": [(2, 0.5)]},
    }
    assert {axes.get_xlabel() for axes in figure.axes} == {"step"}
    assert all(axes.get_legend() for axes in figure.axes)
    assert figure.get_suptitle() == f"sft: {tmp_path.name}/sft"


def test_rl_shows_reward_correctness_format_and_dead_groups(tmp_path: Path) -> None:
    shown = drawn(plot_run(run_folder(tmp_path / "rl", "rl", RL)))
    assert {label: sorted(lines) for label, lines in shown.items()} == {
        "reward": ["reward"],
        "share of responses": ["parallel ratio", "share correct", "valid format"],
        "share of groups": ["dead groups"],
    }
    assert shown["reward"]["reward"] == [(step, line["reward"]) for step, line in RL]
    correct = [(step, line["correct"]) for step, line in RL]
    assert shown["share of responses"]["share correct"] == correct


def test_a_run_with_held_out_evaluations_shows_them(tmp_path: Path) -> None:
    lines = [*RL, (30, {"eval_reward": 0.5, "eval_correct": 0.75})]
    curves = read_curves(run_folder(tmp_path / "rl", "rl", lines))
    assert curves["held-out reward"] == [(30, 0.5)]
    assert curves["held-out share correct"] == [(30, 0.75)]


def test_smoothing_averages_the_latest_steps_and_keeps_what_was_logged(tmp_path: Path) -> None:
    lines = [(step, {"loss": float(step % 2)}) for step in range(1, 9)]
    lines += [(4, {"eval_loss": 1.0}), (8, {"eval_loss": 3.0})]
    figure = plot_run(run_folder(tmp_path / "sft", "sft", lines), smooth=4)
    shown = drawn(figure)["loss"]
    assert [value for _, value in shown["loss"]] == pytest.approx([1, 0.5, 2 / 3, 0.5, 0.5, 0.5, 0.5, 0.5])
    assert shown["held-out loss"] == [(4, 1.0), (8, 3.0)]  # four steps apart: nothing to average
    assert len(figure.axes[0].get_lines()) == 4
    with pytest.raises(UsageError, match="smooth 0 must be 1 or more"):
        plot_run(tmp_path / "sft", smooth=0)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "1.0", True, [1.0], {}])
def test_a_value_that_is_no_number_is_left_out(tmp_path: Path, value: object) -> None:
    folder = run_folder(tmp_path / "sft", "sft", SFT)
    lines = [{"step": 3, "loss": value}, {"step": value, "loss": 1.0}, []]
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    assert read_curves(folder)["loss"] == [(1, 3.0), (2, 1.0)]


def test_the_later_of_two_values_at_one_step_counts(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "sft", "sft", [(2, {"loss": 9.0}), (1, {"loss": 2.0}), (2, {"loss": 1.0})])
    assert read_curves(folder)["loss"] == [(1, 2.0), (2, 1.0)]


def test_no_legend_covers_points_or_the_title(tmp_path: Path) -> None:
    found = {name: evaluation(tmp_path / name, 0.9) for name in "abc"}
    for figure in (plot_run(run_folder(tmp_path / "rl", "rl", RL)), plot_evaluations(found)):
        figure.savefig(tmp_path / "x.png")  # lays it out
        for axes in figure.axes:
            legend = axes.get_legend().get_window_extent()
            assert not legend.overlaps(axes.bbox)
            assert not (axes.get_title() and legend.overlaps(axes.title.get_window_extent()))
            assert legend.y1 <= figure.bbox.y1


def test_folders_without_curves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="command eval, which has no curves: name an sft or rl run"):
        plot_run(run_folder(tmp_path / "eval", "eval", []))
    with pytest.raises(RunError, match="has logged nothing to draw yet"):
        plot_run(run_folder(tmp_path / "sft", "sft", [(1, {"grad_norm": 1.0})]))
    with pytest.raises(RunError):
        plot_run(tmp_path / "nothing")


def test_evaluations_stand_next_to_each_other_with_their_intervals(tmp_path: Path) -> None:
    before, after = evaluation(tmp_path / "a", 0.25), evaluation(tmp_path / "b", 0.5)
    figure = plot_evaluations({"before": before, "after": after})
    assert [axes.get_title() for axes in figure.axes] == ["greedy", "sampled"]
    for axes in figure.axes:
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["before", "after"]
        assert [tick.get_text() for tick in axes.get_xticklabels()] == list(NAMES.values())
        points, with_arms = axes.containers
        assert list(points[0].get_ydata()) == [0.25] * 3
        arms = [segment[:, 1].tolist() for segment in with_arms[2][0].get_segments()]
        assert arms == [pytest.approx([0.4, 0.55])] * 3


def test_only_modes_that_all_evaluations_have_are_drawn(tmp_path: Path) -> None:
    both, greedy = evaluation(tmp_path / "a", 0.3), evaluation(tmp_path / "b", 0.3, ("greedy",))
    sampled = evaluation(tmp_path / "c", 0.3, ("sampled",))
    assert [axes.get_title() for axes in plot_evaluations({"a": both, "b": greedy}).axes] == ["greedy"]
    with pytest.raises(RunError, match="evaluations b, c have no decoding mode in common"):
        plot_evaluations({"b": greedy, "c": sampled})


@pytest.mark.parametrize(
    "content", ["", "[]", '{"metrics": 1}', '{"metrics": {"greedy/accuracy": {"mean": "x"}}}']
)
def test_a_broken_result_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(RunError, match=r"results.json is no result of an evaluation"):
        plot_evaluations({"broken": tmp_path})


def test_evaluations_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no results.json: name the folder that `prl eval` wrote to"):
        plot_evaluations({"gone": tmp_path / "gone"})
    with pytest.raises(UsageError, match="no evaluation to draw"):
        plot_evaluations({})


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_folder(tmp_path / "sft", "sft", SFT)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert set(read_curves(folder)) == set(METRICS["sft"].values())
    with pytest.raises(UsageError, match=r"^curves need matplotlib.*: pip install prl\[report\]$"):
        plot_run(folder)


def test_a_figure_is_a_picture_and_needs_no_window(tmp_path: Path) -> None:
    plot_run(run_folder(tmp_path / "rl", "rl", RL)).savefig(tmp_path / "rl.png")
    assert (tmp_path / "rl.png").read_bytes().startswith(b"\x89PNG")
    code = (
        f"import sys; from prl.report.curves import plot_run; assert 'matplotlib' not in sys.modules\n"
        f"plot_run({str(tmp_path / 'rl')!r})\n"
        "assert not {'matplotlib.pyplot', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

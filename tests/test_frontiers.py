"""Frontiers as figures: what is drawn, from evaluations as `prl eval` leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prl.errors import RunError, UsageError
from prl.report.frontiers import (
    COLOURS,
    Style,
    common_levels,
    draw_frontiers,
    frontier_of,
    plot_frontiers,
    plot_levels,
    responses,
)
from prl.runs import open_run

pytest.importorskip("matplotlib")

Sample = tuple[str, bool, float]
"""Problem, whether it is right, critical path."""

QUICK: list[Sample] = [("a", True, 10), ("a", True, 20), ("b", False, 10), ("b", True, 30)]
SLOW: list[Sample] = [("a", True, 40), ("a", True, 80), ("b", True, 60), ("b", True, 80)]


def evaluation(folder: Path, samples: list[Sample], *, timed: bool = False, mode: str = "sampled") -> Path:
    rows: list[dict[str, Any]] = [
        {
            "mode": mode, "problem": problem, "answer": "7", "extracted": "7" if right else "8",
            "correct": float(right), "length": int(2 * cost), "critical_path": cost,
            "level": 1.0 if problem == "a" else 3.0, **({"seconds": cost / 100} if timed else {}),
        }
        for problem, right, cost in samples
    ]  # fmt: skip
    with open_run(folder, command="eval", config={"eval": {}}) as run:
        run.log_samples(0, rows)
        run.finish()
    return folder


def lines(axes: Any) -> dict[str, list[tuple[float, float]]]:
    return {
        line.get_label(): [*zip(line.get_xdata(), line.get_ydata(), strict=True)]
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def test_a_line_rises_where_a_right_response_fits_and_goes_on(tmp_path: Path) -> None:
    quick, slow = evaluation(tmp_path / "quick", QUICK), evaluation(tmp_path / "slow", SLOW)
    figure = plot_frontiers({"parallel": quick, "sequential": slow})
    assert [axes.get_xlabel() for axes in figure.axes] == ["critical path, tokens", "total tokens"]
    critical, total = (lines(axes) for axes in figure.axes)
    assert critical["parallel"][:-1] == [(0, 0), (10, 1 / 4), (20, 2 / 4), (30, 3 / 4)]
    assert critical["sequential"][:-1] == [(0, 0), (40, 1 / 4), (60, 2 / 4), (80, 1)]
    assert critical["parallel"][-1][1] == 3 / 4, "on to the right edge"
    assert critical["parallel"][-1][0] == critical["sequential"][-1][0]
    assert total["parallel"][1] == (20, 1 / 4)
    assert {y for _, y in critical["chance"]} == {1.0}, "the answer is 7 wherever one asks"
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["parallel", "sequential", "chance", "mean cost, accuracy without limits"]
    assert [line.get_drawstyle() for line in figure.axes[0].lines[:1]] == ["steps-post"]


def test_a_dot_is_the_mean_cost_and_diamonds_are_votes() -> None:
    rows = [
        {"problem": "a", "answer": "7", "extracted": answer, "correct": float(answer == "7"),
         "critical_path": cost, "length": 2 * cost, "seconds": cost / 10}
        for answer, cost in zip("7778", (10, 20, 30, 40), strict=True)
    ]  # fmt: skip
    assert frontier_of([rows], "critical_path").end == (25, 3 / 4)
    assert frontier_of([rows], "critical_path").votes == {4: (40, 1)}, "side by side: the longest"
    assert frontier_of([rows], "length").votes == {4: (200, 1)}
    assert frontier_of([rows], "seconds").votes == {4: (pytest.approx(10), 1)}
    twice = [row | {"problem": "b"} for row in (*rows, *rows, *rows)]
    assert [*frontier_of([[*rows, *twice]], "length").votes] == [4], "of a problem that is there three times"
    wrong = [row | {"problem": "c", "correct": 0.0} for row in rows]
    assert frontier_of([[*twice, *wrong]], "length").end == (50, 3 / 8), "each problem counts once"


def test_seeds_are_a_mean_with_a_band_from_the_lowest_to_the_highest(tmp_path: Path) -> None:
    seeds = [evaluation(tmp_path / "0", QUICK), evaluation(tmp_path / "1", SLOW)]
    (axes, _) = plot_frontiers({"arm": seeds}).axes
    assert lines(axes)["arm"][:-1] == [
        (0, 0), (10, 1 / 8), (20, 2 / 8), (30, 3 / 8), (40, 4 / 8), (60, 5 / 8), (80, 7 / 8),
    ]  # fmt: skip
    assert len(axes.collections) == 1
    heights = {round(y, 3) for _, y in axes.collections[0].get_paths()[0].vertices}
    assert {0.0, 0.25, 0.5, 0.75, 1.0} >= heights >= {0.25, 0.75, 1.0}


def test_wall_clock_is_drawn_where_all_were_timed(tmp_path: Path) -> None:
    timed, other = (evaluation(tmp_path / str(on), QUICK, timed=on) for on in (True, False))
    assert len(plot_frontiers({"a": timed, "b": other}).axes) == 2
    figure = plot_frontiers({"a": timed})
    assert figure.axes[2].get_xlabel() == "wall clock on one thread, seconds"
    assert lines(figure.axes[2])["a"][1] == (0.1, 1 / 4)
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_levels_have_a_panel_each(tmp_path: Path) -> None:
    quick, slow = evaluation(tmp_path / "quick", QUICK), evaluation(tmp_path / "slow", SLOW)
    figure = plot_levels({"parallel": quick, "sequential": slow})
    assert [axes.get_title() for axes in figure.axes] == ["level 1", "level 3"]
    assert lines(figure.axes[0])["parallel"][:-1] == [(0, 0), (10, 1 / 2), (20, 1)]
    assert lines(figure.axes[1])["sequential"][:-1] == [(0, 0), (60, 1 / 2), (80, 1)]


def test_a_legend_is_no_wider_than_its_figure(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "quick", QUICK)
    for drawn in (plot_levels, plot_frontiers):
        figure = drawn({f"a model with a long name, {number}": folder for number in range(4)})
        figure.draw_without_rendering()
        (legend,) = figure.legends
        extent = legend.get_window_extent()
        assert 0 <= extent.x0 < extent.x1 <= figure.bbox.x1
        assert not any(extent.overlaps(axes.bbox) for axes in figure.axes)


def voted(votes: int, right: int) -> list[dict[str, Any]]:
    """Two problems of so many samples each, all of one cost."""
    return [
        {"problem": problem, "answer": "7", "extracted": "7" if number < right else "8",
         "correct": float(number < right), "critical_path": 10.0, "length": 20}
        for problem in "ab" for number in range(votes)
    ]  # fmt: skip


def test_one_number_of_votes_is_in_the_legend_and_several_are_beside_their_diamonds() -> None:
    figure = draw_frontiers({"a": [voted(4, 4)], "b": [voted(4, 3)]})
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said[-1] == "majority of 4 samples (maj@4)"
    assert not figure.axes[0].texts
    figure = draw_frontiers({"a": [voted(8, 8)], "b": [voted(8, 7)]})
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == (
        "majority of so many samples (maj@k)"
    )
    figure.draw_without_rendering()
    texts = figure.axes[0].texts
    assert [text.get_text() for text in texts] == ["4", "8", "4", "8"]
    extents = [text.get_window_extent() for text in texts]
    assert not any(one.overlaps(other) for at, one in enumerate(extents) for other in extents[:at])


def test_a_dot_is_seen_on_a_diamond_and_a_name_in_its_own_style() -> None:
    styles = {"b": Style("#123456", (3, 1))}
    axes = draw_frontiers({"a": [voted(4, 4)], "b": [voted(4, 3)]}, styles=styles).axes[0]
    marks = {line.get_marker(): line for line in axes.lines}
    assert marks["o"].get_zorder() > marks["D"].get_zorder()
    assert marks["o"].get_markersize() < marks["D"].get_markersize()
    assert marks["D"].get_markerfacecolor() == "none"
    named = {line.get_label(): line for line in axes.lines}
    assert (named["a"].get_color(), named["b"].get_color()) == (COLOURS[0], "#123456")
    assert named["b"].is_dashed()
    assert named["a"].get_linewidth() > named["b"].get_linewidth(), "seen under it where they coincide"


def not_asked(problem: str, **columns: Any) -> dict[str, Any]:
    nothing = {
        "length": 0,
        "critical_path": 0.0,
        "correct": 0.0,
        "extracted": None,
        "verdict": "beyond context",
    }
    return {"mode": "sampled", "problem": problem, "answer": "7", **nothing, **columns}


def test_a_panel_takes_a_problem_that_was_asked(tmp_path: Path) -> None:
    """Timed was one that left a response no room alone, as was the only one of level 9."""
    folder = evaluation(tmp_path / "quick", QUICK)
    with open_run(folder, command="eval", config={}, overwrite=True) as run:
        rows = [row | {"level": 1.0} for row in responses(evaluation(tmp_path / "other", QUICK), "sampled")]
        run.log_samples(0, [*rows, not_asked("z", level=9.0, seconds=0.0, mode="sampled")])
        run.finish()
    assert [axes.get_xlabel() for axes in plot_frontiers({"a": folder}).axes] == [
        "critical path, tokens",
        "total tokens",
    ]
    assert [axes.get_title() for axes in plot_levels({"a": folder}).axes] == ["level 1"]
    with pytest.raises(RunError, match="not all evaluations know seconds"):
        plot_levels({"a": folder}, cost="seconds")
    rows = responses(folder, "sampled")
    assert [*common_levels({"a": [rows], "b": [rows, rows]})] == ["1"]


def test_what_cannot_be_drawn_is_told_in_a_line(tmp_path: Path) -> None:
    quick = evaluation(tmp_path / "quick", QUICK)
    greedy = evaluation(tmp_path / "greedy", QUICK, mode="greedy")
    low, high = evaluation(tmp_path / "low", QUICK[:2]), evaluation(tmp_path / "high", QUICK[2:])
    with pytest.raises(RunError, match="holds no sampled responses"):
        plot_frontiers({"a": quick, "b": greedy})
    with pytest.raises(RunError, match="not all evaluations know seconds: evaluate with --latency"):
        plot_levels({"a": quick}, cost="seconds")
    with pytest.raises(RunError, match="a, b have no level in common"):
        plot_levels({"a": low, "b": high})
    with pytest.raises(UsageError, match="0 evaluations to draw"):
        plot_frontiers({})
    with pytest.raises(UsageError, match="9 evaluations to draw: name 1 to 8"):
        plot_frontiers({str(n): quick for n in range(len(COLOURS) + 1)})
    with pytest.raises(UsageError, match="a: no folder to draw"):
        plot_frontiers({"a": []})


def test_a_model_that_is_never_right_lies_on_the_floor(tmp_path: Path) -> None:
    wrong = evaluation(tmp_path / "wrong", [("a", False, 10), ("a", False, 20)])
    assert {y for _, y in lines(plot_frontiers({"a": wrong}).axes[0])["a"]} == {0.0}

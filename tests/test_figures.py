"""Figures of runs: what is in them, that they are three files each, and the same bytes twice."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from made_runs import BLOCK, HOSTILE, evaluation, rl_run
from prl import cli
from prl.errors import RunError, UsageError
from prl.grammar import TAGS
from prl.report.figures import FORMATS, _figures, style, write_figures
from prl.report.page.reading import read_runs
from prl.report.trace_pictures import (
    PATH_COLOURS,
    draw_masks,
    draw_positions,
    example,
    lanes_of,
    mask_of,
    pieces_of,
    positions_of,
)
from prl.structure import Tags, path_window_mask, structural_positions

pytest.importorskip("matplotlib", reason="figures need matplotlib: pip install prl[report]")

WRITTEN = f"Two ways. {BLOCK} Final Answer: 42"


def row(text: str, **more: Any) -> dict[str, Any]:
    return {"text": text, "faults": [], "correct": 1.0, "length": len(text), "step": 1, **more}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    run = rl_run(folder / "rl", steps=3)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    staged = [
        line[:-1] + f', "stage": "{"easy" if at < 2 else "general"}"}}\n' for at, line in enumerate(lines)
    ]
    (run / "metrics.jsonl").write_text("".join(staged))
    return [run, rl_run(folder / "other", steps=3)]


def test_pieces_are_what_each_token_wrote() -> None:
    assert pieces_of("ab cd", [2, 0, 1, 2]) == ["ab", "", " ", "cd"]
    assert pieces_of("x=12 <Path>\nno</Path>") == ["x", "=", "1", "2", " ", "<Path>", "\n", "no", "</Path>"]


def test_the_mask_is_that_of_the_models() -> None:
    pieces = pieces_of(WRITTEN)
    vocabulary = sorted({*pieces} - {*TAGS})
    ids = torch.tensor([[TAGS.index(p) + 50 if p in TAGS else vocabulary.index(p) for p in pieces]])
    tags = Tags(*range(50, 56))
    assert torch.equal(mask_of(pieces), path_window_mask(ids, tags)[0, 0])
    assert positions_of(pieces) == structural_positions(ids, tags)[0].tolist()
    assert torch.equal(mask_of(pieces, "causal"), torch.ones(len(pieces), len(pieces)).tril().bool())


def test_the_picture_is_white_where_nothing_is_seen_and_has_the_colour_of_what_is() -> None:
    from matplotlib.colors import to_rgb

    pieces = pieces_of(WRITTEN)
    lanes = lanes_of(pieces)
    causal, structured = (axes.images[0].get_array() for axes in draw_masks(pieces).axes)
    for attention, drawn in (("causal", causal), ("structured", structured)):
        is_white = torch.from_numpy((drawn == 1).all(axis=-1).copy())
        assert torch.equal(~is_white, mask_of(pieces, attention))  # type: ignore[arg-type]
    first, second = lanes.index(1), lanes.index(2)
    assert tuple(structured[first, first]) == pytest.approx(to_rgb(PATH_COLOURS[0]))
    assert tuple(structured[second, first]) == (1, 1, 1)
    pale = tuple(structured[len(pieces) - 1, first])
    assert pale == pytest.approx(tuple(causal[second, first]))
    assert sum(pale) > sum(to_rgb(PATH_COLOURS[0]))


def test_positions_are_drawn_as_they_are() -> None:
    pieces = pieces_of(WRITTEN)
    (axes,) = draw_positions(pieces).axes
    assert axes.collections[0].get_offsets()[:, 1].tolist() == positions_of(pieces)
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names[: names.index("<Parallel>")] == ["Two", "␣", "ways", ".", "␣"]


def test_of_a_long_response_lanes_are_named() -> None:
    long = f"<Parallel><Path>{'a b ' * 30}</Path><Path>{'c d ' * 30}</Path></Parallel><Summary>e</Summary>"
    (axes,) = draw_positions(pieces_of(long)).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["path 1", "path 2"]


def test_legends_of_pictures_cover_nothing() -> None:
    for figure in (draw_masks(pieces_of(WRITTEN)), draw_positions(pieces_of(WRITTEN))):
        figure.draw_without_rendering()
        legend = figure.legends[0].get_window_extent()
        assert not any(legend.overlaps(axes.bbox) for axes in figure.axes)
        assert legend.x1 <= figure.bbox.x1


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row(WRITTEN), row(BLOCK)], 1),
        ([row(BLOCK, correct=0.0), row(WRITTEN)], 1),
        ([row(BLOCK, correct=0.0), row("no block")], 0),
        ([row(BLOCK, faults=["truncated"]), row(WRITTEN)], 1),
        # The tags of this one were spelled out, as any text: nothing forked.
        ([row(BLOCK, token_lengths=[1] * len(BLOCK)), row(WRITTEN)], 1),
        ([row("no block"), row("")], None),
        ([], None),
    ],
)
def test_the_example_is_the_shortest_right_response_with_a_block(
    rows: list[dict[str, Any]], expected: int | None
) -> None:
    assert example(rows) is (None if expected is None else rows[expected])


def test_each_figure_is_three_files_with_the_same_bytes_twice(runs: list[Path], tmp_path: Path) -> None:
    evaluated = evaluated_at_costs(tmp_path / "eval")
    drawn = [write_figures(read_runs([*runs, evaluated]), tmp_path / name) for name in ("a", "b")]
    names = ["block-position", "ratio-and-accuracy", "frontiers-sampled", "mask", "positions"]
    assert [*drawn[0]] == names
    assert drawn[0]["mask"] == "which token sees which (rl, step 1, 31 tokens)"
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(f"{name}.{ending}" for name in names for ending in FORMATS)
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
        assert (tmp_path / "a" / name).stat().st_size > 4000


def evaluated_at_costs(folder: Path) -> Path:
    """An evaluation whose responses have the costs that frontiers need."""
    from prl.runs import open_run

    rows = [
        {"mode": "sampled", "problem": str(number), "answer": "7", "extracted": "7", "text": BLOCK,
         "correct": float(number % 2), "length": 9 + number, "critical_path": 5.0 + number}
        for number in range(4)
    ]  # fmt: skip
    with open_run(folder, command="eval", config={"command": "eval", "eval": {}}) as run:
        run.log_samples(0, rows)
        run.finish()
    return folder


def test_a_run_has_its_stages_named_and_several_have_a_legend_outside(runs: list[Path]) -> None:
    with style():
        alone = {name: figure for name, (figure, _) in _figures(read_runs(runs[:1]))}
        both = {name: figure for name, (figure, _) in _figures(read_runs(runs))}
    ratio, correct = alone["ratio-and-accuracy"].axes
    assert [axes.get_ylabel() for axes in (ratio, correct)] == ["parallel ratio", "share correct"]
    assert [text.get_text() for text in ratio.texts] == ["general"]
    assert [*ratio.lines[1].get_xdata()] == [3, 3]
    assert [*correct.lines[0].get_ydata()] == [1, 0, 1]
    figure = both["block-position"]
    figure.draw_without_rendering()
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["rl", "other"]
    assert not legend.get_window_extent().overlaps(figure.axes[0].bbox)


def test_runs_whose_names_cannot_be_drawn_are_told_apart(tmp_path: Path) -> None:
    evaluated = [evaluated_at_costs(tmp_path / name / "eval") for name in ("実験一", "実験二", "plain")]
    trained = [rl_run(tmp_path / name / "rl", steps=3) for name in ("実験一", "実験二")]
    with style():
        made = dict(_figures(read_runs([*evaluated, *trained])))
    (figure, says), (curves, _) = made["frontiers-sampled"], made["block-position"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:3] == ["□□□/eval (1)", "□□□/eval (2)", "plain/eval"]
    assert says == "accuracy against its cost: 実験一/eval, 実験二/eval, plain/eval"
    assert [text.get_text() for text in curves.legends[0].get_texts()] == ["□□□/rl (1)", "□□□/rl (2)"]


def test_whatever_a_model_wrote_is_drawn_as_text(tmp_path: Path) -> None:
    said = " ".join(text[:40] for text in [*HOSTILE.values(), "$\\frac{", "漢字 \U0001f600"])
    written = f"{said}<Parallel><Path>{said}</Path><Path>x</Path></Parallel><Summary>_$x_{{</Summary>"
    run = rl_run(tmp_path / "_$x_{", steps=1, text=lambda step, row: written)
    with style():
        figures = {name: figure for name, (figure, _) in _figures(read_runs([run]))}
        for name, figure in figures.items():
            figure.savefig(tmp_path / f"{name}.svg")
    assert [*figures] == ["block-position", "ratio-and-accuracy", "mask", "positions"]
    svg = "".join((tmp_path / f"{name}.svg").read_text("utf-8") for name in figures)
    assert not any(markup in svg for markup in ("<script", "onerror=", "<img", "javascript:"))


def test_what_cannot_be_drawn_is_told_in_a_line(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = evaluation(tmp_path / "plain", scores=[1], text="no block")
    with pytest.raises(RunError, match="none of these runs has anything to draw"):
        write_figures(read_runs([plain]), tmp_path / "figures")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Choose another --figures"):
        write_figures(read_runs(runs), tmp_path / "file")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"pip install prl\[report\]"):
        write_figures(read_runs(runs), tmp_path / "figures")
    assert cli.main(command(runs[0], tmp_path)) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("prl report: curves need matplotlib")
    assert (tmp_path / "page.html").exists()


def command(run: Path, folder: Path) -> list[str]:
    return ["report", str(run), "-o", str(folder / "page.html"), "--figures", str(folder / "figures")]


def test_the_command(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(runs[0], tmp_path)) == 0
    said = capsys.readouterr().err.replace("\n", "")
    assert f"{tmp_path / 'figures' / 'mask'}.svg, .pdf, .png: which token sees which" in said
    assert (tmp_path / "figures" / "mask.pdf").read_bytes().startswith(b"%PDF")

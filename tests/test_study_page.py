"""study.html: that it says what study.md says, that its words are data, and that it stays by itself."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from made_runs import HOSTILE
from prl.report.frontiers import COLOURS, frontier_of
from prl.statistics import SeedEstimate
from prl.study import charts, figures, report, results
from prl.study.charts import Panel, Series, says
from prl.study.design import Design
from prl.study.designs import DESIGNS
from prl.study.document import Drawn, Grid, Held, Listed, Section, Verdicts, markdown, runs_of
from prl.study.paper_mini import PAPER_MINI
from prl.study.results import Study, Training
from prl.study.sums import SUMS
from prl.study.web import html
from test_page import Scripts
from test_report_study import MADE, make_evaluation, make_study, make_training


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_study(tmp_path_factory.mktemp("study") / "whole", problems=6)
    report.write(folder)
    return folder


def embedded(page: str) -> list[dict[str, Any]]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text)["charts"]


def words_of(page: str) -> str:
    """What a reader sees, without markup, in one line."""
    body = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)
    text = re.sub(r"<[^>]*>", " ", re.sub(r"</?(code|strong|em)>", "", body))
    for written, read in {"&#39;": "'", "&#34;": '"', "&lt;": "<", "&gt;": ">", "&amp;": "&"}.items():
        text = text.replace(written, read)
    return " ".join(text.replace("\u00a0", " ").split())


def test_the_page_says_what_the_markdown_says(made: Path) -> None:
    page = words_of((made / "study.html").read_text("utf-8"))
    written = (made / "study.md").read_text("utf-8")
    lines = [line for line in written.splitlines() if line and not line.startswith(("![", "| ---"))]
    cells = [cell for line in lines for cell in (line.strip("| ").split(" | ") if line[0] == "|" else [line])]
    heads = {"claim", "measured", "each seed", "verdict"}  # of a table that is a list in the page
    for cell in cells:
        plain = " ".join("".join(words for _, words in runs_of(cell.lstrip("#- "))).split())
        said = plain.removeprefix("F")  # a caption is a heading and a sentence in the page
        if plain not in heads and not re.match(r"\d: |4, ", said):
            assert plain in page, plain


def test_claims_come_first_with_interval_and_verdict(made: Path) -> None:
    page = (made / "study.html").read_text("utf-8")
    heads = re.findall(r"<h2 [^>]*>(.*?)</h2>", page)
    assert heads[0] == "Claims"
    assert page.count('<li class="supported">') + page.count('<li class="undecided">') > 5
    assert re.search(r'<p class="verdict">supported</p>\n<p class="measured">[^<]*\[', page)


def test_the_bar_of_a_claim_is_to_scale() -> None:
    held = Held("c", "m", "s", "undecided", (0.02, 0.0, 0.04), (-0.04, 0.04))
    page = html([Section("t", []), Section("Claims", [Verdicts([held])])], {})
    (low, high), *_ = re.findall(r'class="range" x1="([\d.]+)" x2="([\d.]+)"', page)
    bounds = re.findall(r'class="bound" x1="([\d.]+)"', page)
    assert (float(low), float(high)) == (50, 96)
    assert [*map(float, bounds)] == [4, 96]
    mean = re.findall(r'class="mean" x1="([\d.]+)"', page)
    assert [*map(float, mean)] == [73]


def test_charts_hold_the_numbers_of_the_study(made: Path) -> None:
    study = results.read(made)
    drawn = embedded((made / "study.html").read_text("utf-8"))
    ratio = next(chart for chart in drawn if chart["y"] == "parallel ratio")
    (scaffold,) = [series for series in ratio["series"] if series["name"] == "scaffold"]
    logged = [training.curves["parallel_ratio"] for training in study.trainings["scaffold"].values()]
    assert scaffold["switches"] == [9]
    step, mean, low, high = scaffold["points"][0]
    assert step == 1
    assert mean == pytest.approx(sum(curve[1] for curve in logged) / len(logged), rel=1e-4)
    assert (low, high) == pytest.approx((min(c[1] for c in logged), max(c[1] for c in logged)), rel=1e-4)
    frontier = next(chart for chart in drawn if chart["kind"] == "frontiers")
    rows = [each.rows for each in study.evaluations[frontier["series"][0]["name"]].values()]
    end, accuracy = frontier_of(rows, "critical_path").end
    assert frontier["series"][0]["end"] == pytest.approx([end, accuracy], rel=1e-4)
    assert frontier["series"][0]["points"][-1][0] == pytest.approx(frontier["widest"])
    levels = [chart for chart in drawn if chart["kind"] == "areas"]
    assert [chart["title"] for chart in levels] == ["uniform", "adaptive"]
    for at in range(12):
        assert sum(series["points"][at][1] for series in levels[0]["series"]) == pytest.approx(1, abs=1e-3)


def test_figures_say_what_they_show(made: Path) -> None:
    written = (made / "study.md").read_text("utf-8")
    (alt,) = re.findall(r"!\[(.*)\]\(figures/f1-block-position.png\)", written)
    assert re.match("Over RL blocks move: later in .*causal", alt)
    (alt,) = re.findall(r"!\[(.*)\]\(figures/f4-frontiers.png\)", written)
    assert re.match(r"Without limits, at mean costs: \S+ \d+\.\d% at critical path 40, 50 tokens; ", alt)


@pytest.mark.parametrize(
    ("panel", "said"),
    [
        (
            Panel("frontiers", "", "total tokens", "y", [Series("a", "", [], end=(7.4, 0.5))]),
            "a 50.0% at 7 tokens.",
        ),
        (
            Panel(
                "curves", "", "step", "y", [Series("a", "", [(1, 0, 0, 0)]), Series("b", "", [(1, 1, 1, 1)])]
            ),
            "a from 0.0% to 0.0%; b from 100.0% to 100.0%.",
        ),
    ],
)
def test_a_panel_in_words(panel: Panel, said: str) -> None:
    assert says(panel) == said


def test_too_few_blocks_say_nothing_of_their_position() -> None:
    change = SeedEstimate(0.1, 0.05, 0.2, {})
    series = [Series(name, "#000000", [(1, 0, 0, 0)]) for name in "ab"]
    panels = {"f1-block-position": [Panel("curves", "", "step", "y", series)]}
    found = charts.findings(panels, {"positions": {}})
    assert found == {"f1-block-position": "There are too few blocks to say more."}
    found = charts.findings(panels, {"positions": {"a": {"change": change}, "not drawn": {"change": change}}})
    assert found == {
        "f1-block-position": "Over RL blocks move: later in a; with too few blocks at the end to say in b."
    }


def test_blocks_are_placed_where_no_seed_has_too_few() -> None:
    """20 in the five latest steps, of which each counts alike."""
    positions = {1: 0.5, 2: 0.2, 3: 0.8, 9: 0.9}
    whole = Training({"correct": {10: 1.0}, "block_position": positions}, {1: 10, 2: 30, 3: 10, 9: 2}, {})
    placed = [(2, 11 / 40), (3, 0.38), (4, 0.38), (5, 0.38), (6, 14 / 40)]
    assert charts.where_blocks_stand(whole) == [(step, pytest.approx(mean)) for step, mean in placed]
    shorter = Training({"correct": {10: 1.0}, "block_position": {4: 0.4}}, {4: 20}, {})
    study = Study(Path(), {"study": "sums"}, {"causal": {0: whole, 1: shorter}})
    (panel,) = charts.block_positions(study)
    assert [step for step, *_ in panel.series[0].points] == [4, 5, 6]
    assert panel.series[0].points[0][1:] == (pytest.approx(0.39), pytest.approx(0.38), pytest.approx(0.4))


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_an_arm_looks_the_same_in_all_figures(design: Design) -> None:
    looks = charts.styles(design)
    panels = [*map(list, design.panels.values()), list(design.scaffold_panel), *design.frontiers.values()]
    assert {*looks} >= {name for panel in panels for name in panel}
    for panel in panels:
        assert len({looks[name].colour for name in panel}) == len(panel), panel
    positions = [name for panel in design.panels.values() for name in panel]
    assert len({looks[name] for name in positions}) == len(positions)


def test_more_arms_than_colours_are_told_apart_by_their_strokes() -> None:
    names = tuple(str(number) for number in range(len(COLOURS) + 2))
    looks = charts.styles(replace(SUMS, panels={}, scaffold_panel={}, frontiers={"": names}))
    assert len({looks[name] for name in names}) == len(names)
    assert [looks[name].colour for name in names[:-2]] == [*COLOURS]
    assert all(looks[name].dash for name in names[-2:])


def test_the_files_and_the_page_draw_an_arm_alike(made: Path) -> None:
    study = results.read(made)
    drawn = embedded((made / "study.html").read_text("utf-8"))
    looks = {name: (each.colour, each.dash) for name, each in charts.styles(study.design).items()}
    curves = [series for chart in drawn if chart["kind"] != "areas" for series in chart["series"]]
    assert {(each["colour"], tuple(each["dash"])) == looks[each["name"]] for each in curves} == {True}
    every = [figures.block_positions(study), figures.scaffold(study), *figures.frontiers(study).values()]
    lines = [line for each in every if each for axes in each.axes for line in axes.lines]
    shown = {(line.get_label(), line.get_color()) for line in lines if line.get_label() in looks}
    assert len(shown) == len({name for name, _ in shown}) >= 10
    assert all(looks[name][0] == colour for name, colour in shown)


def test_arms_that_were_not_trained_alike_are_named() -> None:
    asked = {"study": "paper-mini", "recipe": PAPER_MINI.recipe_of(None)}
    names = PAPER_MINI.frontiers["products"]
    assert charts.trained_otherwise(Study(Path(), asked), names) == (
        "Not trained alike: products-sequential, votes from cold starts of 280 steps; "
        "products-sequential-longer from cold starts of 1015 steps; "
        "structured-accuracy from cold starts of 120 steps, by RL at a rate of 0.0002."
    )
    assert charts.trained_otherwise(Study(Path(), asked), PAPER_MINI.frontiers["which"]) == ""
    assert charts.trained_otherwise(Study(Path(), asked | {"recipe": "8gb+paper-mini"}), names) == ""
    assert charts.trained_otherwise(Study(Path(), asked | {"quick": True}), names) == ""


def test_many_panels_stand_in_rows_of_three() -> None:
    steps = dict.fromkeys(range(1, 9), 0.5)
    run = Training({"block_position": steps}, dict.fromkeys(steps, 20), {})
    arms = [arm for panel in PAPER_MINI.panels.values() for arm in panel]
    figure = figures.block_positions(Study(Path(), {"study": "paper-mini"}, {arm: {0: run} for arm in arms}))
    assert figure is not None
    figure.draw_without_rendering()
    assert len({round(axes.bbox.x0) for axes in figure.axes}) == 3
    assert len({round(axes.bbox.y1) for axes in figure.axes}) == 2
    extents = [axes.get_legend().get_window_extent() for axes in figure.axes]
    assert not any(extent.overlaps(axes.bbox) for extent in extents for axes in figure.axes)
    assert all(0 <= extent.x0 < extent.x1 <= figure.bbox.x1 and extent.y0 >= 0 for extent in extents)


def test_legends_of_a_study_cover_no_point(made: Path) -> None:
    study = results.read(made)
    for figure in (figures.block_positions(study), figures.scaffold(study), figures.levels(study)):
        assert figure is not None
        figure.draw_without_rendering()
        legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
        assert legends
        for legend in legends:
            extent = legend.get_window_extent()
            assert not any(extent.overlaps(axes.bbox) for axes in figure.axes)
            assert figure.bbox.x0 <= extent.x0 < extent.x1 <= figure.bbox.x1
        assert min(axes.bbox.width for axes in figure.axes) > 0.2 * figure.bbox.width


def test_a_report_written_again_is_the_same_page(made: Path) -> None:
    before = (made / "study.html").read_bytes()
    report.write(made)
    assert (made / "study.html").read_bytes() == before


def test_nothing_of_the_machine_and_no_network(made: Path) -> None:
    page = (made / "study.html").read_text("utf-8")
    assert not any(private in page for private in ("secret-host", "/home/", str(made)))
    assert "://" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "default-src &#39;none&#39;" in page
    assert len(page) < 1_500_000


def test_without_matplotlib_the_page_has_its_charts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_study(tmp_path, ("causal",), seeds=1, steps=3, problems=2)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report.write(folder)
    assert embedded((folder / "study.html").read_text("utf-8"))


def hostile_study(folder: Path) -> Path:
    """A study in which names and machine are markup."""
    arm, script = HOSTILE["onerror"], HOSTILE["end of script"]
    make_study(folder, ("causal",), seeds=1, steps=3, problems=2)
    make_training(folder / "arms" / arm / "seed-0" / "rl", MADE["causal"], 0, 3, 2)
    make_evaluation(folder / "arms" / arm / "seed-0" / "eval", MADE["causal"], 0, 2, 2)
    settings = yaml.safe_load((folder / "study.yaml").read_text())
    settings["arms"] += [arm, "never <b>begun</b>"]
    settings["environment"]["platform"] = script
    (folder / "study.yaml").write_text(yaml.safe_dump(settings))
    report.write(folder)
    return folder / "study.html"


def test_names_are_data(tmp_path: Path) -> None:
    page = hostile_study(tmp_path / "study").read_text("utf-8")
    found = Scripts()
    found.feed(page)
    assert found.scripts == ["application/json", None, None, None, None]
    assert found.suspects == []
    said = words_of(page)
    assert HOSTILE["onerror"] in said
    assert "arms/never <b>begun</b>/seed-0/rl: not begun" in said


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_any_part_of_a_report_is_escaped(text: str) -> None:
    text = text[:500]
    series = [Series(text, "#000000", [(1, 0.5, 0.5, 0.5)])]
    parts = [
        text, Grid([text], [[text, text]]), Listed([text]), Drawn("f1", text, text),
        Verdicts([Held(text, text, text, text, (0, 0, 0), (0,))]),
    ]  # fmt: skip
    sections = [Section(text, parts), Section(text, parts)]
    page = html(sections, {"f1": [Panel("curves", text, "step", text, series)]})
    found = Scripts()
    found.feed(page)
    assert found.scripts == ["application/json", None, None, None, None]
    assert found.suspects == []
    assert embedded(page)[0]["series"][0]["name"] == text


def test_markdown_of_every_part() -> None:
    held = Held("c", "m", "s", "supported", (1, 0, 2), (0,))
    parts = ["text", Grid(["a"], [["b|c"]]), Listed(["x", "y"]), Verdicts([held])]
    drawn = [Drawn("f1", "title", "finding"), Drawn("f2", "title", "not drawn")]
    sections = [Section("T", parts), Section("F", ["said", *drawn])]
    assert markdown(sections, {"f1": "f1.png"}) == (
        "# T\n\ntext\n\n| a |\n| --- |\n| b\\|c |\n\n- x\n- y\n\n"
        "| claim | measured | each seed | verdict |\n| --- | --- | --- | --- |\n"
        "| c | m | s | **supported** |\n\n"
        "## F\n\nsaid\n\ntitle. finding\n\n![finding](f1.png)\n"
    )
    assert markdown(sections[1:], {}, "no matplotlib") == "# F\n\nno matplotlib\n"

"""A study in parts: what a part's file keeps, and that parts together say what the whole does."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from prl.errors import RunError
from prl.study import claims, parts, report, results
from prl.study.design import cold
from prl.study.paper_mini import PAPER_MINI
from prl.study.provenance import provenance
from prl.study.results import Evaluation, Study, Training
from test_report_study import make_study

FIRST, SECOND = ("sequential", "causal"), ("structured-accuracy", "scaffold")
SMALL: dict[str, Any] = {"seeds": 2, "problems": 6, "samples": 4, "steps": 4, "switch": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders `first`, `second` and `whole`, before their reports; tests copy what they change."""
    folder = tmp_path_factory.mktemp("parts")
    make_study(folder / "runs" / "first", FIRST, **SMALL)
    make_study(folder / "runs" / "second", SECOND, **SMALL)
    make_study(folder / "whole", (*FIRST, *SECOND), **SMALL)
    for part in ("first", "second"):
        parts.save(results.read(folder / "runs" / part))
    return folder


def test_a_part_is_read_back_as_it_was(made: Path) -> None:
    study = results.read(made / "runs" / "second")
    found = parts.load(made / "runs" / "second" / parts.FILE)
    assert found.trainings == study.trainings
    assert found.missing == study.missing
    ours, theirs = study.evaluations["scaffold"][1], found.evaluations["scaffold"][1]
    assert (theirs.dataset, theirs.described, theirs.steps) == (ours.dataset, ours.described, ours.steps)
    assert [[*each.values()] for each in theirs.scores.values()] == [
        [*each.values()] for each in ours.scores.values()
    ]
    assert [row | {"problem": ""} for row in theirs.rows] == [row | {"problem": ""} for row in ours.rows]
    assert len({row["problem"] for row in theirs.rows}) == 6
    assert {row["problem"] for row in theirs.rows} == {*theirs.scores["accuracy"]}


def test_a_file_is_the_same_again_and_tells_nothing_of_the_machine(made: Path, tmp_path: Path) -> None:
    file = made / "runs" / "first" / parts.FILE
    shutil.copytree(file.parent, tmp_path / "elsewhere")
    assert parts.save(results.read(tmp_path / "elsewhere")).read_bytes() == file.read_bytes()
    text = gzip.decompress(file.read_bytes()).decode()
    assert not any(private in text for private in ("secret-host", "/home/", str(made), "argv", "<Parallel>"))


def test_parts_together_say_what_the_whole_does(made: Path, tmp_path: Path) -> None:
    for part in ("first", "second"):  # the files alone: the runs are elsewhere
        (tmp_path / part).mkdir()
        shutil.copy(made / "runs" / part / parts.FILE, tmp_path / part)
    written = report.write_merged(tmp_path)
    merged, whole = parts.merge(tmp_path), results.read(made / "whole")
    assert merged.arms == [*FIRST, "structured-accuracy", "scaffold"]
    numbers, expected = report.measure(merged), report.measure(whole)
    for table in ("arms", "rewards", "traces", "positions", "curves"):
        assert numbers[table].keys() == expected[table].keys()
    assert numbers["arms"]["scaffold"] == expected["arms"]["scaffold"]
    assert numbers["tables"] == expected["tables"]
    (over,) = numbers["tables"].values()
    assert over["scaffold"].seeds.keys() == {0, 1}
    assert [each.verdict for each in numbers["claims"]] == [each.verdict for each in expected["claims"]]
    page = written.read_text(encoding="utf-8")
    assert written == tmp_path / "study.md"
    assert "figures/f4-frontiers.png" in page


def test_a_part_may_have_more_seeds(made: Path, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    shutil.copy(made / "runs" / "first" / parts.FILE, tmp_path / "first")
    make_study(tmp_path / "second", SECOND, **SMALL | {"seeds": 3})
    parts.save(results.read(tmp_path / "second"))
    merged = parts.merge(tmp_path)
    assert {arm: [*seeds] for arm, seeds in merged.trainings.items()} == {
        "sequential": [0, 1], "causal": [0, 1], "structured-accuracy": [0, 1, 2], "scaffold": [0, 1, 2],
    }  # fmt: skip
    (over,) = report.measure(merged)["tables"].values()
    assert over["scaffold"].seeds.keys() == {0, 1}, "over sequential, seed by seed"
    assert [of["seeds"] for of in merged.settings["parts"].values()] == [2, 3]


def test_of_what_parts_share_none_is_lost(made: Path, tmp_path: Path) -> None:
    """A cold start that one part has of a seed, and another, which was interrupted, of none."""
    shutil.copytree(made / "runs", tmp_path / "runs")
    first = results.read(tmp_path / "runs" / "first")
    name = next(name for name in first.evaluations if name.startswith("cold start"))
    first.evaluations[name] = {}
    first.missing = [f"cold-start/{name.removeprefix('cold start ')}/seed-0-eval: not begun"]
    parts.save(first)
    second = results.read(tmp_path / "runs" / "second")
    second.evaluations[name] = results.read(tmp_path / "runs" / "first").evaluations[name]
    parts.save(second)
    merged = parts.merge(tmp_path / "runs")
    assert merged.evaluations[name].keys() == {0, 1}
    assert merged.missing == []


def right(share: float, names: str = "abcdefghij") -> Evaluation:
    """So many of some problems, asked four times each, solved."""
    solved = {name: float(place < share * len(names)) for place, name in enumerate(names)}
    rows = [{"problem": name, "correct": found} for name, found in solved.items() for _ in range(4)]
    columns = {"answer": "7", "extracted": "7", "length": 9.0, "critical_path": 9.0, "level": 1}
    scores = {"accuracy": solved, "parallel_ratio": solved}
    return Evaluation("search:products", scores, {"responses": len(rows)}, rows=[r | columns for r in rows])


def save_part(folder: Path, accuracies: dict[str, Evaluation], **more: Any) -> None:
    """A part of paper-mini with one seed."""
    folder.mkdir(parents=True)
    arms = [name for name in accuracies if name in PAPER_MINI.arms]
    settings = {
        "study": "paper-mini", "arms": arms, "seeds": 1, "recipe": "tiny", "model_name_or_path": None,
        "quick": False, "part": folder.name, "bases": [],
        "environment": {"platform": f"machine of {folder.name}", "cpu_count": 2, "versions": {"trl": "1"}},
    }  # fmt: skip
    measured = {name: {0: each} for name, each in accuracies.items()}
    trained = {arm: {0: Training({"block_position": {}}, {}, {})} for arm in arms}
    parts.save(Study(folder, settings, trained, measured, **more))


ANYWHERE, OTHERS = cold("anywhere"), "klmnopqrst"


@pytest.mark.parametrize("names", [("rewards", "scaffold"), ("scaffold-2", "scaffold")])
def test_a_start_is_that_of_the_problems_that_its_arms_answered(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    """Whichever of the parts comes first."""
    short, long = names
    save_part(tmp_path / short, {ANYWHERE: right(0.3), "structured-accuracy": right(0.5)})
    lacking = ["cold-start/anywhere/seed-1-eval: not begun"]
    arms = {"long-accuracy": right(0.6, OTHERS), "blocks-first": right(0.9, OTHERS)}
    save_part(tmp_path / long, {ANYWHERE: right(0.2, OTHERS), **arms}, missing=lacking)
    merged = parts.merge(tmp_path)
    second = max(names)
    assert [name for name in merged.evaluations if name not in PAPER_MINI.arms] == [
        ANYWHERE, f"{ANYWHERE} ({second})",
    ]  # fmt: skip
    gains = {arm: claims.rl_gain(merged, arm) for arm in merged.arms}
    assert {arm: found and round(found.mean, 3) for arm, found in gains.items()} == {
        "structured-accuracy": 0.2, "long-accuracy": 0.4, "blocks-first": 0.7,
    }  # fmt: skip
    found = claims.QUANTITIES["parallel_ratio"].measure(merged, "structured-accuracy", ANYWHERE)
    assert found.mean == pytest.approx(0.2)
    over = report.measure(merged)["tables"]
    shown = [
        {name: each and round(each.mean, 3) for name, each in over[table.title].items()}
        for table in PAPER_MINI.tables
        if ANYWHERE in table.names
    ]
    ours, theirs = (f"{ANYWHERE} ({second})" if part == second else ANYWHERE for part in names)
    assert shown == [
        {ours: -0.2, "structured-accuracy": None},
        {theirs: -0.4, "long-accuracy": None, "blocks-first": 0.3},
    ]
    told = f"anywhere ({second})" if long == second else "anywhere"
    assert merged.missing == [f"cold-start/{told}/seed-1-eval: not begun"]


def test_evaluations_are_held_against_each_other_where_most_seeds_share_problems() -> None:
    measured = {
        ANYWHERE: {0: right(0.5), 1: right(0.5)},
        f"{ANYWHERE} (scaffold)": {0: right(0.4), 1: right(0.4, OTHERS)},
        "judged": {0: right(0.5), 1: right(0.5)},
        "long-accuracy": {0: right(0.9), 1: right(0.9, OTHERS)},
    }
    study = Study(Path(), {"study": "paper-mini", "parts": {"rewards": {}, "scaffold": {}}}, {}, measured)
    assert results.matched(study, "judged", ANYWHERE) == ("judged", ANYWHERE)
    assert results.matched(study, "long-accuracy", ANYWHERE)[1] == f"{ANYWHERE} (scaffold)"
    assert results.matched(study, "judged", "base") == ("judged", "base"), "which nobody measured"


def test_one_start_of_the_same_problems_is_kept_once(tmp_path: Path) -> None:
    for part, problems in {"a": "abcdef", "b": OTHERS, "c": "abcdef", "d": OTHERS, "e": "uvwxyz"}.items():
        save_part(tmp_path / part, {ANYWHERE: right(0.5, problems), "base": right(0.5, problems)})
    found = parts.merge(tmp_path).evaluations
    assert [*found] == [*(name + part for name in ("base", ANYWHERE) for part in ("", " (b)", " (e)"))]


def test_a_page_of_parts_says_of_each_where_it_ran_and_of_which_problems(tmp_path: Path) -> None:
    times = {"elapsed_seconds": 3600.0, "run_seconds": 5400.0}
    save_part(tmp_path / "rewards", {ANYWHERE: right(0.3), "judged": right(0.5)}, commits=["a" * 40], **times)
    twice = replace(right(0.5, "klm"), rows=[*right(0.5, "klm").rows, *right(0.5, "k").rows])
    save_part(tmp_path / "scaffold", {ANYWHERE: right(0.5, "kl"), "long-accuracy": twice}, **times)
    merged = parts.merge(tmp_path)
    facts, table, *said = provenance(merged)
    assert dict(facts.rows)["time"].startswith("2 h 00 min, the sum over parts")
    assert dict(facts.rows)["versions"] == "trl 1"
    heads = ["part", "seeds", "commit", "machine", "time (all runs)", "held-out problems", "command"]
    command = "`prl study paper-mini --part {} --seeds 1 --recipe tiny`"
    spent, problems = "1 h 00 min (1 h 30 min)", "of search:products"
    assert (table.heads, table.rows) == (
        heads,
        [
            ["rewards", "1", f"`{'a' * 12}`", "machine of rewards, 2 cores, no GPU", spent,
             f"10 {problems}, 4 samples", command.format("rewards")],
            ["scaffold", "1", "unknown", "machine of scaffold, 2 cores, no GPU", spent,
             f"2–3 {problems}, 4–8 samples", command.format("scaffold")],
        ],
    )  # fmt: skip
    assert [text.split(" is ")[0] for text in said] == ["A range", "A part in brackets"]
    alone, *_ = provenance(parts.load(tmp_path / "rewards" / parts.FILE))
    assert dict(alone.rows)["command"] == command.format("rewards")
    assert dict(alone.rows)["machine"] == "machine of rewards, 2 cores, no GPU"


def test_what_cannot_be_merged_is_told_in_a_line(made: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no part of a study"):
        report.write_merged(tmp_path)
    shutil.copytree(made / "runs", tmp_path / "runs")
    other = tmp_path / "runs" / "second"
    settings = yaml.safe_load((other / "study.yaml").read_text())
    (other / "study.yaml").write_text(yaml.safe_dump(settings | {"recipe": "8gb"}))
    parts.save(results.read(other))
    with pytest.raises(RunError, match=r"second is a part of another .*first: recipe 8gb, not tiny"):
        report.write_merged(tmp_path / "runs")
    with pytest.raises(RunError, match="is a whole study: run parts in another"):
        report.write_merged(made / "whole")


def test_a_study_goes_on_from_what_was_measured_elsewhere(made: Path, tmp_path: Path) -> None:
    whole = parts.load(made / "runs" / "first" / parts.FILE)
    folder = tmp_path / "rest"
    make_study(folder, FIRST, **SMALL)
    before = results.read(folder)
    for of_arm in (before.trainings, before.evaluations):
        del of_arm["causal"][1], of_arm["sequential"][0]
    before.missing = ["arms/causal/seed-1/rl: not begun", "arms/sequential/seed-0/eval: not begun"]
    before.run_seconds = 5.0
    (parts.save(before)).rename(folder / parts.EARLIER)
    for gone in ("causal/seed-0", "sequential/seed-1"):  # what only the file has
        shutil.rmtree(folder / "arms" / gone)
    study = parts.completed(results.read(folder))
    assert study.missing == whole.missing
    assert study.evaluations.keys() == whole.evaluations.keys()
    for name, seeds in whole.evaluations.items():
        assert [*study.evaluations[name]] == [*seeds]
        for seed, each in seeds.items():
            found = study.evaluations[name][seed]
            assert found.scores == each.scores, "by the same problems, whoever measured them"
    assert study.trainings == whole.trainings
    measured = parts.load(parts.save(study))
    assert measured.evaluations == study.evaluations, "written, and read, problems are the same"
    again = parts.completed(results.read(folder))
    assert again.run_seconds == study.run_seconds, "what was taken up counts once"
    make_study(tmp_path / "other", FIRST, **SMALL)
    asked = yaml.safe_load((tmp_path / "other" / "study.yaml").read_text())
    (tmp_path / "other" / "study.yaml").write_text(yaml.safe_dump(asked | {"quick": True}))
    shutil.copy(folder / parts.EARLIER, tmp_path / "other" / parts.EARLIER)
    with pytest.raises(RunError, match=r"is a part of another study .*quick False, not True"):
        parts.completed(results.read(tmp_path / "other"))


def test_the_tasks_whose_results_a_study_holds(made: Path) -> None:
    study = parts.load(made / "runs" / "first" / parts.FILE)
    found = parts.known(study)
    assert "arms/causal/seed-1/rl" in found
    assert "arms/causal/seed-1/eval" in found
    assert "base/seed-0-eval" in found
    assert {each.split("/")[0] for each in found} == {"arms", "base", "cold-start"}
    assert "cold-start/structured/seed-0" in found
    assert "cold-start/structured/seed-0-eval" in found


PACKED = [(False, b""), (False, b"{}"), (True, b"[]"), (True, b'{"a": 1}')]


@pytest.mark.parametrize(("packed", "text"), PACKED)
def test_a_file_that_is_no_part_is_named(tmp_path: Path, packed: bool, text: bytes) -> None:
    (tmp_path / parts.FILE).write_bytes(gzip.compress(text) if packed else text)
    with pytest.raises(RunError, match=r"cannot be read as a part of a study .*run the part again"):
        parts.load(tmp_path / parts.FILE)


def test_the_committed_page_is_what_the_committed_parts_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = Path(__file__).parents[1] / "docs" / "study" / "paper-mini"
    shutil.copytree(committed, tmp_path / "study", ignore=shutil.ignore_patterns("study.*"))
    drawn = {path.stem: f"figures/{path.name}" for path in sorted((committed / "figures").glob("*.png"))}
    monkeypatch.setattr(report.figures, "draw", lambda study: drawn)
    page = report.write_merged(tmp_path / "study").read_text(encoding="utf-8")
    assert page == (committed / "study.md").read_text(encoding="utf-8")

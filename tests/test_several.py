"""Several models in one evaluation: their names, what all are asked, and what they have over the first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl import cli, evaluation, runs, tiny
from prl.config import again, resolve
from prl.errors import RunError, UsageError
from prl.evaluation import several
from prl.evaluation.results import EvalResult
from prl.evaluation.several import names_of
from prl.model import Lora, load_model, save_adapter
from prl.report.tables import models_table
from prl.statistics import Estimate, paired_difference

SUMS = {"Compute 3 + 4.": "7", "Compute 12 - 5.": "7", "Compute 8 + 9.": "17", "Compute 6 + 6.": "12"}


@pytest.mark.parametrize(
    ("models", "names"),
    [
        ("tiny runs/rl", "tiny rl"),
        ("runs/a/rl/ runs/b/rl", "a-rl b-rl"),
        ("x/a/rl y/a/rl z/b/rl", "x-a-rl y-a-rl b-rl"),
        ("base=Qwen/Qwen3-0.6B Qwen/Qwen3-0.6B", "base Qwen3-0.6B"),
        ("/abs/rl ~/rl", "abs-rl rl"),
        (r"C:\runs\rl other/odd:name", "rl odd-name"),
        ("runs/x=1/rl runs/y/rl", "x-1-rl y-rl"),
    ],
)
def test_names_are_the_ends_of_paths_that_tell_models_apart(models: str, names: str) -> None:
    assert [*names_of(models.split())] == names.split()


@pytest.mark.parametrize(
    ("models", "why"),
    [
        (["tiny", "tiny"], "models: tiny stands for tiny and for tiny: give one another NAME="),
        (["a=x", "a=y"], "models: a stands for x and for y: give one another NAME="),
        ([".."], "models: '..' makes no name of a folder: give it one, NAME=MODEL"),
        (["..=x"], "models: '..=x' makes no name of a folder: give it one, NAME=MODEL"),
        (["a b=x"], "models: 'a b=x' makes no name of a folder: give it one, NAME=MODEL"),
        ([""], "models: '' makes no name of a folder: give it one, NAME=MODEL"),
    ],
)
def test_what_makes_no_name_is_refused(models: list[str], why: str) -> None:
    with pytest.raises(UsageError) as error:
        names_of(models)
    assert str(error.value) == why


@given(st.lists(st.text(max_size=12) | st.sampled_from(["a/b", "c/b", "n=a", "../x", "=", "a="]), max_size=4))
def test_a_name_leads_nowhere_but_into_the_folder(models: list[str]) -> None:
    try:
        named = names_of(models)
    except UsageError:
        return
    assert len(named) == len(models)
    assert all(Path("out", name).parent == Path("out") and not name.startswith(".") for name in named)


def test_what_they_have_over_the_first_is_paired(tmp_path: Path) -> None:
    def result(**scores: list[float]) -> EvalResult:
        return EvalResult(tmp_path, {}, dict(scores))

    results = {
        "a": result(greedy=[0, 0, 1], sampled=[0.5, 0.25, 1]),
        "b": result(greedy=[1, 0, 1], sampled=[0.75, 0.25, 0.5]),
        "c": result(greedy=[1, 1, 1], sampled=[0.75, 0.5, 1]),
    }
    found = several.compare(results, resamples=50, seed=1)
    assert found.mode == "sampled"
    assert [*found.over_first] == ["b", "c"]
    assert found.over_first["b"].mean == pytest.approx((0.25 + 0 - 0.5) / 3)
    assert found.over_first["c"] == paired_difference([0.5, 0.25, 1], [0.75, 0.5, 1], resamples=50, seed=1)
    greedy = {
        name: EvalResult(tmp_path, {}, {"greedy": each.scores["greedy"]}) for name, each in results.items()
    }
    assert several.compare(greedy).over_first["b"].mean == pytest.approx(1 / 3)


def test_models_are_rows_of_a_table() -> None:
    half, more = Estimate(0.5, 0.25, 0.75), Estimate(0.625, 0.5, 0.75)
    shown = models_table(
        {
            "a": {
                "accuracy": half,
                "pass@2": more,
                "maj@4": half,
                "pass@4": more,
                "tokens": Estimate(9.6, 9, 10),
            },
            "b": {"accuracy": more, "tokens": Estimate(20, 9, 30)},
        },
        {"b": Estimate(0.125, -0.05, 0.3)},
        "two",
    )
    assert [column.header for column in shown.columns] == ["%", "accuracy", "over a", "maj@4", "tokens"]
    assert [[*column.cells] for column in shown.columns] == [
        ["a", "b"],
        ["50.0 [25.0, 75.0]", "62.5 [50.0, 75.0]"],
        ["", "+12.5 [-5.0, +30.0]"],
        ["50.0", ""],
        ["10", "20"],
    ]


def test_the_same_flags_again_with_others_in_their_place() -> None:
    first = resolve("eval", recipe="tiny", threads=1, samples=3, temperature=0.5)
    second = again(first, samples=2, limit=5)
    assert (second.arguments.samples, second.arguments.limit, second.arguments.temperature) == (2, 5, 0.5)
    assert second.recipe == "tiny"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("untrained") / "adapter"
    save_adapter(*load_model(tiny.NAME, lora=Lora(r=4)), folder)
    return str(folder)


@pytest.fixture
def words(tmp_path: Path, adapter: str) -> list[str]:
    file = tmp_path / "sums.jsonl"
    rows = [{"problem": problem, "answer": answer} for problem, answer in SUMS.items()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        *("eval", "--recipe", "tiny", "--threads", "1", "--dataset", str(file), "--samples", "2"),
        *("--max_completion_length", "12", "--bootstrap", "50", "--output_dir", str(tmp_path / "all")),
        *("--models", "base=tiny", adapter),
    ]


def test_each_is_evaluated_as_it_would_be_alone_and_what_is_done_is_kept(
    words: list[str], adapter: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "all"
    assert cli.main(words) == 0
    shown = capsys.readouterr().err
    assert "sampled, 4 problems; over base: paired" in shown
    results = {name: json.loads((folder / name / "results.json").read_text()) for name in ("base", "adapter")}
    written = json.loads((folder / several.FILE).read_text())
    assert written["models"] == {"base": "tiny", "adapter": adapter}
    before, after = (results[name]["scores"]["sampled"] for name in ("base", "adapter"))
    difference = paired_difference(before, after, resamples=50)
    assert written["differences"]["adapter"] == {
        "mean": difference.mean, "low": difference.low, "high": difference.high,
    }  # fmt: skip
    at = words.index("--models")
    alone = [*words[:at], "--model", adapter, "--output_dir", str(tmp_path / "alone")]
    assert cli.main(alone) == 0
    assert json.loads((tmp_path / "alone" / "results.json").read_text()) == results["adapter"]

    # Again: refused without a word, kept with one; another model is added to what is there.
    assert cli.main(words) == 1
    assert "all holds evaluations of base, adapter: --resume keeps what is done" in capsys.readouterr().err
    monkeypatch.setattr(evaluation.ForkJoinDecoder, "generate", lambda *_, **__: pytest.fail("it decodes"))
    (folder / several.FILE).unlink()
    assert cli.main([*words, "--resume"]) == 0
    assert "adapter: evaluated already" in capsys.readouterr().err
    assert json.loads((folder / several.FILE).read_text()) == written
    monkeypatch.undo()
    assert cli.main([*words, "more=tiny", "--resume"]) == 0
    assert [*json.loads((folder / several.FILE).read_text())["differences"]] == ["adapter", "more"]
    assert cli.main([*words, "--temperature", "0.5", "--resume"]) == 2
    assert "base was begun otherwise (temperature 1.0, now 0.5)" in capsys.readouterr().err


def test_settings_of_the_first_ask_all_and_faults_come_first(
    words: list[str], adapter: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "run", lambda settings: pytest.fail("it evaluates"))
    assert cli.main([*words, "--model", "tiny"]) == 2
    assert "name all models with --models, the first first" in capsys.readouterr().err
    assert cli.main([*words, str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"prl\.evaluation\.several\.run takes several"):
        evaluation.run(resolve("eval", recipe="tiny", threads=1, models=["tiny", adapter]))
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "environment.json").write_text("{}")
    with pytest.raises(RunError, match="is a run of its own"):
        several.run(resolve("eval", recipe="tiny", models=["tiny"], output_dir=str(tmp_path / "all")))


def test_what_does_nothing_is_told_of_what_was_said(tmp_path: Path) -> None:
    """The others are asked as the first is, by flags that nobody gave."""
    asked = resolve("eval", recipe="tiny", models=["tiny", "again=tiny"], samples=0, top_k=5, paths=3)
    each = several._settle(asked, tmp_path)
    idle = [{flag for flag, why in one.chosen.items() if "no effect" in why} for one in each.values()]
    assert idle == [{"top_k", "paths"}, {"paths"}]


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite_output_dir": True}])
def test_no_evaluation_takes_the_place_of_a_training_or_of_the_model(
    flags: dict[str, bool], adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--models mine/sft mine/rl --output_dir mine`: each would be evaluated where its training is."""
    monkeypatch.setattr(evaluation, "run", lambda settings: pytest.fail("it evaluates"))
    for name in ("sft", "rl"):
        with runs.open_run(tmp_path / name, command=name, config={}) as run:
            shutil.copytree(adapter, run.folder / "adapter")
            run.finish()
    shutil.copytree(adapter, tmp_path / "own")

    def ask(*models: str) -> None:
        several.run(
            resolve("eval", recipe="tiny", threads=1, models=[*models], output_dir=str(tmp_path), **flags)
        )

    sft, own = tmp_path / "sft", tmp_path / "own"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunError) as caught:
        ask(str(sft), str(tmp_path / "rl"))
    assert str(caught.value) == f"{sft} is a run of command sft: choose another --output_dir"
    with pytest.raises(RunError) as caught:
        ask("tiny", "rl=tiny")
    assert str(caught.value) == f"{tmp_path / 'rl'} is a run of command rl: choose another --output_dir"
    with pytest.raises(RunError) as caught:
        ask("tiny", str(own))
    assert str(caught.value) == f"{own} has the model {own} in it: choose another --output_dir"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_evaluation_whose_overwriting_was_cut_short_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(settings: Any) -> None:
        raise InterruptedError

    monkeypatch.setattr(evaluation, "run", reached)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "environment.json").write_text('{"overwrites": "eval"}')
    asked = {"models": ["tiny"], "output_dir": str(tmp_path), "overwrite_output_dir": True}
    with pytest.raises(InterruptedError):
        several.run(resolve("eval", recipe="tiny", threads=1, **asked))

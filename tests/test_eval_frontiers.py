"""`prl eval` on a toy: frontiers by hand, the seconds in them, and the same after a kill and in any batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prl import cli, evaluation, runs, tiny
from prl.config import resolve
from prl.decoding import ForkJoinDecoder, Response, row_seed, timing
from prl.evaluation import several
from prl.evaluation.asking import timed_of
from prl.model import Lora, load_model, save_adapter
from prl.report import frontiers as figures
from prl.runs.samples import LOGPROB_STEP
from prl.settings.arguments import EvalArguments

SEED, SAMPLES = 3, 4
WRITTEN = {
    "Compute 3 + 4.": ("7", "7:20:10 7:40:20 8:20:10 7:60:30"),
    "Compute 8 + 9.": ("17", "17:40:40 18:20:20 17:40:40 18:20:20"),
    "Compute 6 + 6.": ("12", "11:30:30 11:30:30 11:30:30 11:30:30"),
    "Compute 9 - 8.": ("1", "1:90:90 2:90:90 3:30:30 1:30:30"),
}
"""Problem -> gold answer, and of each sample what it states, its tokens and those of its critical path."""


NUMBERS = {row_seed(SEED, i, j): j for i in range(len(WRITTEN)) for j in range(SAMPLES)}
"""Seed of a response -> which sample it is."""


class Halt(Exception):
    """What ends an evaluation here."""


class Scripted(ForkJoinDecoder):
    """Writes what is `WRITTEN`, greedily the first of it. A response alone takes as many hundredths of a
    second as its critical path has tokens, several side by side twice as many as the longest."""

    now, decoded, last = 0.0, 0, 10**9

    def generate(self, prompts: Any, **given: Any) -> list[list[Response]]:
        took, answers = 0, []
        for at, (prompt, seeds) in enumerate(zip(prompts, given["seeds"], strict=True)):
            place = next(place for place, problem in enumerate(WRITTEN) if problem in prompt)
            answers.append([self._say(place, NUMBERS[seed]) for seed in seeds])
            took = max(took, *(each.critical_path for each in answers[-1])) * (2 if len(seeds) > 1 else 1)
            for number, response in enumerate(answers[-1]):
                given.get("on_response", lambda *_: None)(at, number, response)
                Scripted.decoded += 1
                if Scripted.decoded == Scripted.last:
                    raise Halt
        Scripted.now += took / 100
        return answers

    def _say(self, place: int, number: int) -> Response:
        stated, length, path = [*WRITTEN.values()][place][1].split()[number].split(":")
        ids, text = [7] * int(length), f"Final Answer: {stated}"
        return Response(ids, text, False, [-0.5] * len(ids), [False] * len(ids), [], int(path))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    monkeypatch.setattr(evaluation, "ForkJoinDecoder", Scripted)
    monkeypatch.setattr(timing, "perf_counter", lambda: Scripted.now)
    monkeypatch.setattr(Scripted, "decoded", 0)
    monkeypatch.setattr(Scripted, "last", 10**9)
    return Scripted


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("data") / "toy.jsonl"
    rows = [{"problem": problem, "answer": answer} for problem, (answer, _) in WRITTEN.items()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture
def evaluate(tmp_path: Path, dataset: str) -> Evaluate:
    def run(name: str, **given: Any) -> dict[str, Any]:
        """What results.json says of frontiers."""
        told: dict[str, Any] = {"samples": SAMPLES, "bootstrap": 50, "limit": None, "seed": SEED, **given}
        folder = tmp_path / name
        evaluation.run(
            resolve("eval", recipe="tiny", threads=1, dataset=dataset, output_dir=str(folder), **told)
        )
        found: dict[str, Any] = json.loads((folder / "results.json").read_text())["frontiers"]
        return found

    return run


def table(found: dict[str, Any], cost: str) -> dict[float | None, list[float]]:
    """Budget -> accuracies, and what the votes have over a response."""
    return {
        row["budget"]: [each["mean"] for each in (*row["accuracy"].values(), *row["over"])]
        for row in found["costs"][cost]["budgets"]
    }


BY_HAND = {
    # One response: of four problems 3, 2, 0 and 2 of four samples are right. The majority: 7 7 8 7 is right,
    # 17 18 17 18 is, as 17 came first, 11 is not, and 1 2 3 1 is.
    "critical_path": {
        16: [1 / 16, 1 / 4, 3 / 16],  # the 7 of ten tokens, which is before the 8
        32: [4 / 16, 1 / 4, 0],  # of the second problem 18 is alone; of the last 3 is before 1
        64: [6 / 16, 2 / 4, 2 / 16],
        128: [7 / 16, 3 / 4, 5 / 16],
        None: [7 / 16, 3 / 4, 5 / 16],
    },
    "length": {
        32: [2 / 16, 0, -2 / 16],
        64: [6 / 16, 0, -6 / 16],
        128: [7 / 16, 1 / 4, -3 / 16],  # 32 each: 7 and 8, 18 twice, 3 and 1
        256: [7 / 16, 2 / 4, 1 / 16],  # 64 each
        512: [7 / 16, 3 / 4, 5 / 16],
        None: [7 / 16, 3 / 4, 5 / 16],
    },
    # Timed are the first problem and the third: 0.1 to 0.3 seconds a response; votes take 0.6.
    "seconds": {
        0.125: [1 / 8, 0, -1 / 8],
        0.25: [2 / 8, 0, -2 / 8],
        0.5: [3 / 8, 0, -3 / 8],
        1: [3 / 8, 1 / 2, 1 / 8],
        None: [3 / 8, 1 / 2, 1 / 8],
    },
}


def test_frontiers_of_a_toy_evaluation_match_those_by_hand(
    evaluate: Evaluate, scripted: Any, tmp_path: Path
) -> None:
    found = evaluate("eval", latency=2)
    assert found["mode"] == "sampled"
    assert {cost: each["problems"] for cost, each in found["costs"].items()} == {
        "critical_path": 4, "length": 4, "seconds": 2,
    }  # fmt: skip
    assert {cost: table(found, cost) for cost in found["costs"]} == BY_HAND
    rows = runs.read_samples(tmp_path / "eval").to_pylist()
    timed = {(row["mode"], row["index"], row["sample"]): row["seconds"] for row in rows if row["seconds"]}
    assert timed == {
        ("greedy", 0, 0): pytest.approx(0.1), ("greedy", 2, 0): pytest.approx(0.3),
        **{("sampled", 0, n): pytest.approx(s) for n, s in enumerate((0.1, 0.2, 0.1, 0.3))},
        **{("sampled", 2, n): pytest.approx(0.3) for n in range(4)},
    }  # fmt: skip
    together = {
        (row["index"], row["sample"]): row["seconds_together"] for row in rows if row["seconds_together"]
    }
    assert together == {(0, 3): pytest.approx(0.6), (2, 3): pytest.approx(0.6)}
    assert all((row["cpu_seconds"] is None) == (row["seconds"] is None) for row in rows)


@pytest.mark.parametrize(("last", "batch_size"), [(1, 16), (9, 1), (13, 16), (22, 1), (25, 16), (33, 1)])
def test_killed_and_gone_on_with_it_ends_the_same_and_measures_nothing_twice(
    last: int, batch_size: int, evaluate: Evaluate, scripted: Any, tmp_path: Path
) -> None:
    """2 greedy responses and 8 sampled; then alone 2 that warm up and 2, 6 that warm up, and of each of two
    problems 3, a vote of 4, and 1."""
    scripted.last = last
    with pytest.raises(Halt):
        evaluate("eval", latency=2, batch_size=batch_size)
    before = {
        (row["mode"], row["index"], row["sample"]): row.get("seconds")
        for row in runs.read_samples(tmp_path / "eval").to_pylist()
    }
    scripted.last = 10**9
    again = evaluate("eval", latency=2, batch_size=17 - batch_size, resume=True)
    assert {cost: table(again, cost) for cost in again["costs"]} == BY_HAND
    after = {
        (row["mode"], row["index"], row["sample"]): row["seconds"]
        for row in runs.read_samples(tmp_path / "eval").to_pylist()
    }
    assert {at: after[at] for at in before} == before
    assert (tmp_path / "eval" / "frontiers.svg").read_text().count("<svg") == 1


def test_what_an_older_prl_left_untimed_is_timed(evaluate: Evaluate, scripted: Any, tmp_path: Path) -> None:
    scripted.last = 10
    with pytest.raises(Halt):
        evaluate("eval")
    config = tmp_path / "eval" / "config.yaml"
    config.write_text(config.read_text().replace("latency: 0", "").replace("timed: false", ""))
    scripted.last = 10**9
    assert table(evaluate("eval", latency=2, resume=True), "seconds") == BY_HAND["seconds"]


def test_without_samples_frontiers_are_of_the_greedy_responses(evaluate: Evaluate, scripted: Any) -> None:
    found = evaluate("eval", samples=0, latency=9)
    assert (found["mode"], found["costs"]["seconds"]["problems"]) == ("greedy", 4), "all, where N is more"
    assert table(found, "critical_path") == {
        16: [1 / 4],
        32: [1 / 4],
        64: [2 / 4],
        128: [3 / 4],
        None: [3 / 4],
    }
    assert found["claims"] == []
    assert "seconds" not in evaluate("none", samples=0)["costs"]


def test_where_only_what_was_not_asked_is_timed_it_ends_all_the_same(
    evaluate: Evaluate, scripted: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(evaluation, "beyond", lambda *_: {0: 999})
    found = evaluate("eval", latency=1)
    assert found["costs"]["seconds"]["problems"] == 1
    assert table(found, "seconds") == {None: [0]}
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert results["votes"]["sampled"]["4"]["accuracy"] == 2 / 4, "not asked, not solved"
    assert results["metrics"]["sampled/maj@4"]["mean"] == 2 / 4
    assert (tmp_path / "eval" / "DONE").exists()
    assert (tmp_path / "eval" / "frontiers.png").stat().st_size > 10_000


def test_what_was_found_is_kept_where_it_cannot_be_drawn(
    evaluate: Evaluate, scripted: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def halt(*_: Any) -> None:
        raise Halt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "draw", halt)
        with pytest.raises(Halt):
            evaluate("eval")
    kept = json.loads((tmp_path / "eval" / "results.json").read_text())
    decoded = scripted.decoded
    assert evaluate("eval", resume=True) == kept["frontiers"]
    assert scripted.decoded == decoded, "it goes on with the figure"


def test_where_no_answer_is_right_it_says_so(
    evaluate: Evaluate, scripted: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {problem: (gold, "0:9:9 0:9:9 0:9:9 0:9:9") for problem, (gold, _) in WRITTEN.items()}
    monkeypatch.setitem(globals(), "WRITTEN", wrong)
    found = evaluate("eval")
    assert table(found, "length") == {None: [0, 0, 0]}
    assert found["claims"] == []
    assert "sampled: no response is right within any budget" in capsys.readouterr().err


def test_timed_problems_are_evenly_spread() -> None:
    def timed(problems: int, **given: Any) -> list[int]:
        return sorted(timed_of(EvalArguments(**given), problems))

    assert timed(10, latency=3) == [0, 3, 6]
    assert timed(10, latency=12) == timed(10, timed=True) == [*range(10)]
    assert timed(10) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--latency", "-1"], "--latency: -1 must be 0 or more"),
        (["--latency", "2", "--timed"], "latency 2: --timed times all problems; leave one of them out"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["eval", "--recipe", "tiny", "--output_dir", str(tmp_path / "eval"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "eval").exists()


def test_without_matplotlib_there_is_no_figure_and_it_says_why(
    evaluate: Evaluate, scripted: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    evaluate("eval")
    assert "frontiers not drawn: curves need matplotlib" in capsys.readouterr().err
    assert not [*(tmp_path / "eval").glob("frontiers.*")]


def test_models_are_laid_over_each_other(
    scripted: Any,
    dataset: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[list[str]] = []
    draw = figures.draw_frontiers
    monkeypatch.setattr(
        "prl.evaluation.frontiers.draw_frontiers", lambda seeds: drawn.append([*seeds]) or draw(seeds)
    )
    words = [
        *("eval", "--recipe", "tiny", "--threads", "1", "--dataset", dataset, "--samples", str(SAMPLES)),
        *("--seed", str(SEED), "--bootstrap", "50", "--latency", "2", "--output_dir", str(tmp_path / "all")),
        *("--models", "A=tiny", "B=tiny"),
    ]
    assert cli.main(words) == 0
    shown = capsys.readouterr().err
    assert (
        "32 tokens of critical path B cannot be told from A (+0.0 [-60.2, +60.2] points), paired on 4"
        in shown
    )
    assert "One training of each: differences of these models on these problems, not of methods." in shown
    written = json.loads((tmp_path / "all" / several.FILE).read_text())["frontiers"]
    assert [*written["costs"]["seconds"]["budgets"][0]["accuracy"]] == ["A", "A maj@4", "B", "B maj@4"]
    (last,) = (row for row in written["costs"]["length"]["budgets"] if row["budget"] is None)
    assert [(each["of"], each["over"], each["mean"]) for each in last["over"]] == [
        ("B", "A", 0), ("B", "A maj@4", 7 / 16 - 3 / 4),
    ]  # fmt: skip
    assert drawn == [["sampled"], ["sampled"], ["A", "B"]]
    assert (tmp_path / "all" / "frontiers.png").stat().st_size > 10_000


# --- With a model that decodes


def test_a_model_is_right_as_often_in_any_batch_and_its_tokens_are_kept(tmp_path: Path) -> None:
    found = []
    for batch_size in (1, 16):
        folder = tmp_path / str(batch_size)
        asked = resolve(
            "eval", recipe="tiny-search+products+in-sequence", threads=1, limit=3, samples=4,
            greedy=False, max_completion_length=64, latency=1, bootstrap=50, batch_size=batch_size,
            output_dir=str(folder),
        )  # fmt: skip
        evaluation.run(asked)
        costs = json.loads((folder / "results.json").read_text())["frontiers"]["costs"]
        assert costs.pop("seconds")["problems"] == 1
        assert max(row["accuracy"]["one response"]["mean"] for row in costs["length"]["budgets"]) > 0
        found.append((costs, runs.read_samples(folder).to_pylist()))
    (ours, rows), (theirs, others) = found
    assert ours == theirs
    for row, other in zip(rows, others, strict=True):
        assert row["token_ids"] == other["token_ids"]
        assert sum(row["token_lengths"]) == len(row["text"])
        assert row["forced"] == [False] * row["length"]
        assert row["token_logprobs"] == pytest.approx(other["token_logprobs"], abs=LOGPROB_STEP)
        assert max(row["token_logprobs"]) <= 0


def test_greedy_paths_that_repeat_each_other_are_told(
    evaluate: Evaluate, scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Structured siblings without an opening see the same from the same position."""
    save_adapter(*load_model(tiny.NAME, attention="structured", lora=Lora(r=4)), tmp_path / "structured")
    said = "<Parallel><Path>4 + 3</Path><Path>4 + 3</Path></Parallel><Summary>7</Summary>Final Answer: 7"
    monkeypatch.setattr(
        Scripted, "_say", lambda *_: Response([7] * 9, said, False, [0.0] * 9, [False] * 9, [], 6)
    )
    for model, told in ((str(tmp_path / "structured"), True), ("tiny", False)):
        evaluate(str(told), samples=0, model_name_or_path=model)
        shown = capsys.readouterr().err
        assert ("greedy: all paths are the same in 100.0% of 4 blocks: without an opening" in shown) == told
        results = json.loads((tmp_path / str(told) / "results.json").read_text())
        assert results["analysis"]["greedy"]["repeating"] == 1

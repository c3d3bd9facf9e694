"""Evaluation: its numbers by hand or counted another way, and what the seed of a run gives again."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from prl import cli, evaluation, runs, tiny
from prl.config import resolve
from prl.decoding import ForkJoinDecoder, Limits, Response, Sampling
from prl.errors import RunError, UsageError
from prl.evaluation import keeping
from prl.model import Lora, load_model, save_adapter
from prl.prompts import render_prompt
from prl.report.tables import levels_told, remarks, table, told, votes_told
from prl.statistics import Estimate, bootstrap

BLOCK = "<Parallel><Path>a</Path><Path>b</Path></Parallel><Summary>c</Summary>"
SUMS = {"Compute 3 + 4.": "7", "Compute 12 - 5.": "7", "Compute 8 + 9.": "17", "Compute 6 + 6.": "12"}
PROBLEMS = [*SUMS]

# --- Numbers


def response(text: str, *, tokens: int, waiting: float = 0, truncated: bool = False) -> Response:
    return Response([7] * tokens, text, truncated, [0.0] * tokens, [False] * tokens, [], waiting or tokens)


def test_responses_are_judged_by_their_own_problem() -> None:
    texts = [["Final Answer: 7", "Final Answer: 8", "nothing"], ["Final Answer: 8", "7", "Final Answer: 7"]]
    answers = [[response(text, tokens=1) for text in group] for group in texts]
    judged = evaluation.judge([{"answer": 7}, {"answer": "8"}], answers)
    assert [[(answer, verdict.equal) for answer, verdict in group] for group in judged] == [
        [("7", True), ("8", False), (None, False)],
        [("8", True), (None, False), ("7", False)],
    ]


def test_metrics_are_a_table_of_the_modes() -> None:
    shown = table(
        {
            "greedy/accuracy": Estimate(0.5, 0.25, 0.75),
            "greedy/tokens": Estimate(80.4, 70, 90.6),
            "sampled/accuracy": Estimate(0.25, 0, 0.5),
            "sampled/pass@2": Estimate(0.4, 0.1, 0.7),
        },
        title="tiny",
    )
    assert [column.header for column in shown.columns] == ["95 % interval", "greedy", "sampled"]
    assert [[*column.cells] for column in shown.columns] == [
        ["accuracy", "tokens", "pass@2"],
        [" 50.0%  [25.0%, 75.0%]", "80  [70, 91]", ""],
        [" 25.0%  [0.0%, 50.0%]", "", " 40.0%  [10.0%, 70.0%]"],
    ]


def test_what_blocks_do_is_said_where_there_are_any() -> None:
    names = ("accuracy_with_block", "accuracy_without_block", "disagreeing", "right_of_any")
    nothing: dict[str, float | None] = {key: 0 for name in names for key in (name, f"{name}_of")}
    assert remarks(nothing) == []
    shown = {"accuracy_with_block": 0.5, "accuracy_with_block_of": 8, "accuracy_without_block": 0.25,
             "accuracy_without_block_of": 4, "disagreeing": 0.125, "disagreeing_of": 16}  # fmt: skip
    assert remarks(nothing | shown) == [
        "right with a block 50.0% of 8, without 25.0% of 4",
        "paths disagree in 12.5% of 16 blocks",
    ]
    assert remarks(nothing | {"right_of_any": 1.0, "right_of_any_of": 2}) == [
        "where they do and one is right, the summary is right in 100.0% of 2"
    ]
    leaks = {"path_oracle": 0.996, "path_majority": 0.948, "summary_accuracy": 0.915, "path_accuracy": 0.84}
    assert remarks(nothing | leaks | {"path_oracle_of": 800, "accuracy_with_block": 0.92}) == [
        "800 responses with a block: any path right (oracle) 99.6%, most (majority) 94.8%, summary 91.5%, "
        "answer 92.0%, a path alone 84.0%"
    ]


def test_verdicts_are_told_in_a_line() -> None:
    nothing = dict.fromkeys(
        ["accuracy_with_block_of", "accuracy_without_block_of", "disagreeing_of", "right_of_any_of"], 0
    )
    assert told(nothing, {}, {}, {"different": 2, "equal": 1}, None) == ["verdicts: different 2, equal 1"]


def test_votes_and_levels_are_told_in_a_line() -> None:
    votes = {"4": {"accuracy": 0.952, "tokens": 180.4, "critical_path": 50}}
    levels = {"2": {"accuracy": {"mean": 0.9}}, "6": {"accuracy": {"mean": 0.25}}}
    assert votes_told(votes) == ["majority of samples (maj@k): 4 in 180 tokens 95.2%"]
    assert levels_told(levels) == ["accuracy by level: 2 90.0%, 6 25.0%"]
    assert votes_told({}) == levels_told({"3": levels["2"]}) == []


# --- Runs


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Untrained. Its tag rows are its own, where those of a base would follow the seed of the evaluation."""
    folder = tmp_path_factory.mktemp("untrained") / "adapter"
    save_adapter(*load_model(tiny.NAME, lora=Lora(r=4)), folder)
    return str(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [{"problem": problem, "answer": answer} for problem, answer in SUMS.items()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


DRAWN = {"top_p": 0.9, "top_k": 40, "min_p": 0.01}
ASKED = {"prompt_style": "sequential", "temperature": 0.8, "samples": 3, "max_completion_length": 12, **DRAWN}
"""None of it is what the recipe says."""


def evaluate(folder: Path, adapter: str, dataset: str, **given: Any) -> list[dict[str, Any]]:
    """The samples of an evaluation of all problems, in order."""
    asked = resolve(
        "eval", recipe="tiny", threads=1, model_name_or_path=adapter, dataset=dataset, limit=None,
        bootstrap=50, output_dir=str(folder), **ASKED, **given,
    )  # fmt: skip
    evaluation.run(asked)
    return runs.read_samples(folder).to_pylist()


def decoded(adapter: str, seed: int, samples: int, temperature: float) -> list[list[int]]:
    """Token ids of what the decoder writes when it is told the same."""
    model, tokenizer = load_model(adapter)
    drawn = Sampling(temperature, DRAWN["top_p"], int(DRAWN["top_k"]), DRAWN["min_p"])
    decoder = ForkJoinDecoder(model, tokenizer, limits=Limits(12), sampling=drawn)
    prompts = [render_prompt(problem, "sequential") for problem in PROBLEMS]
    answers = decoder.generate(prompts, samples=samples, seed=seed)
    return [each.token_ids for group in answers for each in group]


def test_the_seed_and_the_settings_of_a_run_give_its_responses_again(
    tmp_path: Path, adapter: str, dataset: str
) -> None:
    rows = evaluate(tmp_path / "eval", adapter, dataset, seed=5)
    assert list(dict.fromkeys(row["problem"] for row in rows)) == PROBLEMS
    greedy, sampled = (
        [row["token_ids"] for row in rows if row["mode"] == mode] for mode in ("greedy", "sampled")
    )
    assert greedy == decoded(adapter, 5, 1, 0.0)
    assert sampled == decoded(adapter, 5, 3, 0.8)
    assert all(row["truncated"] and "truncated" in row["faults"] for row in rows), "12 tokens are too few"
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert (results["seed"], results["samples"], results["temperature"]) == (5, 3, 0.8)
    assert {name: results[name] for name in (*DRAWN, "paths", "dataset_split")} == DRAWN | {
        "paths": "2",
        "dataset_split": "test",
    }
    assert results["metrics"]["sampled/format_valid"]["mean"] == 0
    assert results["verdicts"] == {"greedy": {"no answer": 4}, "sampled": {"no answer": 12}}
    lengths = [fmean(map(len, sampled[start : start + 3])) for start in range(0, len(sampled), 3)]
    assert results["metrics"]["sampled/tokens"] == asdict(bootstrap(lengths, resamples=50, seed=5))


def test_another_seed_samples_other_responses_and_decodes_the_same_greedily(
    tmp_path: Path, adapter: str, dataset: str
) -> None:
    first, second = (evaluate(tmp_path / str(seed), adapter, dataset, seed=seed) for seed in (0, 1))
    for mode, same in (("greedy", True), ("sampled", False)):
        ours, theirs = ([row["token_ids"] for row in rows if row["mode"] == mode] for rows in (first, second))
        assert (ours == theirs) == same, mode


def test_a_timed_evaluation_gives_the_same_responses_and_what_each_took(
    tmp_path: Path, adapter: str, dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, timed = (evaluate(tmp_path / str(on), adapter, dataset, timed=on) for on in (False, True))
    assert [row["token_ids"] for row in timed] == [row["token_ids"] for row in plain]
    assert "seconds" not in plain[0]
    results = json.loads((tmp_path / "True" / "results.json").read_text())
    for mode in ("greedy", "sampled"):
        seconds = [row["seconds"] for row in timed if row["mode"] == mode]
        assert min(seconds) > 0
        size = len(seconds) // len(PROBLEMS)
        means = [fmean(seconds[start : start + size]) for start in range(0, len(seconds), size)]
        found = results["timing"][mode]
        assert (found["median"], found["low"], found["high"]) == pytest.approx(
            (median(means), min(means), max(means))
        ), "four problems"
        assert (found["threads"], found["device"], found["dtype"]) == (1, "cpu", "float32")
    assert "s a problem (median), one response at a time on one thread" in capsys.readouterr().err
    assert json.loads((tmp_path / "False" / "results.json").read_text())["timing"] == {}


def test_generate_answers_by_its_seed_and_settings(adapter: str) -> None:
    given = ASKED | {"problem": PROBLEMS[0]}
    for more, samples, temperature in (({}, 3, 0.8), ({"greedy": True}, 3, 0.0)):
        asked = resolve(
            "generate", recipe="tiny", threads=1, model_name_or_path=adapter, seed=5, **given, **more
        )
        found = [each.token_ids for each in evaluation.respond(asked)]
        assert found == decoded(adapter, 5, samples, temperature)[:3]


# --- Interrupted, and gone on with


class Halt(Exception):
    """What ends an evaluation here."""


class Dying(ForkJoinDecoder):
    """Raises Halt once so many responses are finished; `finished` counts them."""

    last, finished = 10**9, 0

    def generate(self, prompts: Any, **given: Any) -> Any:
        tell = given.pop("on_response", lambda i, j, response: None)

        def on_response(i: int, j: int, response: Response) -> None:
            tell(i, j, response)
            Dying.finished += 1
            if Dying.finished == Dying.last:
                raise Halt

        return super().generate(prompts, on_response=on_response, **given)


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> type[Dying]:
    monkeypatch.setattr(evaluation, "ForkJoinDecoder", Dying)
    monkeypatch.setattr(Dying, "finished", 0)
    monkeypatch.setattr(Dying, "last", 10**9)
    return Dying


def outcome(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All that an evaluation leaves, but for times."""
    results = json.loads((folder / "results.json").read_text())
    rows = runs.read_samples(folder).to_pylist()
    results["frontiers"]["costs"].pop("seconds", None)
    left_out = (
        "seconds",
        "cpu_seconds",
        "seconds_together",
        "token_logprobs",
    )  # the last may be a step apart
    return results | {"timing": None}, [{key: row[key] for key in row if key not in left_out} for row in rows]


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory, adapter: str, dataset: str) -> Any:
    folder = tmp_path_factory.mktemp("through") / "eval"
    evaluate(folder, adapter, dataset, seed=3)
    return outcome(folder)


@pytest.mark.parametrize(("last", "sizes"), [(2, (1, 16)), (9, (3, 1)), (15, (16, 5))])
def test_killed_and_gone_on_with_in_other_batches_it_ends_the_same(
    last: int, sizes: tuple[int, int], tmp_path: Path, adapter: str, dataset: str, through: Any, dying: Any
) -> None:
    """4 greedy responses, then 12: each is decoded once, whatever came between."""
    folder, dying.last = tmp_path / "eval", last
    with pytest.raises(Halt):
        evaluate(folder, adapter, dataset, seed=3, batch_size=sizes[0])
    kept = runs.read_samples(folder).to_pylist()
    assert len(kept) == last, "nothing that was finished is lost"
    with pytest.raises(RunError, match="is an interrupted eval run: pass --resume"):
        evaluate(folder, adapter, dataset, seed=3, batch_size=sizes[1])
    evaluate(folder, adapter, dataset, seed=3, batch_size=sizes[1], resume=True)
    assert dying.finished == 16
    assert outcome(folder) == through
    assert not (folder / "samples").exists()


def test_a_timed_evaluation_goes_on_with_the_seconds_that_it_has(
    tmp_path: Path, adapter: str, dataset: str, through: Any, dying: Any
) -> None:
    folder = tmp_path / "eval"
    dying.last = 3 + 4 + 3 + 5  # three that warm up, before each mode
    with pytest.raises(Halt):
        evaluate(folder, adapter, dataset, seed=3, timed=True)
    kept = runs.read_samples(folder).to_pylist()
    evaluate(folder, adapter, dataset, seed=3, timed=True, resume=True)
    assert outcome(folder) == through
    seconds = {(row["mode"], row["index"], row["sample"]): row["seconds"] for row in
               runs.read_samples(folder).to_pylist()}  # fmt: skip
    assert len(kept) == 8
    assert all(seconds[row["mode"], row["index"], row["sample"]] == row["seconds"] for row in kept)


def test_what_a_kill_leaves_is_gone_on_from(
    tmp_path: Path, adapter: str, dataset: str, through: Any, dying: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written after it, and what was being written is torn."""
    write = keeping.Kept._write

    def write_until_killed(self: keeping.Kept, mode: str) -> None:
        if len(self._done) == 7:
            raise Halt
        write(self, mode)

    with monkeypatch.context() as patched:
        patched.setattr(keeping, "SECONDS", -1.0)
        patched.setattr(keeping.Kept, "_write", write_until_killed)
        with pytest.raises(Halt):
            evaluate(tmp_path / "eval", adapter, dataset, seed=3, batch_size=2)
    (tmp_path / "eval" / "samples" / "step-000000-99.parquet").write_bytes(b"PAR1 torn")
    dying.finished = 0
    evaluate(tmp_path / "eval", adapter, dataset, seed=3, batch_size=16, resume=True)
    assert dying.finished == 16 - 7
    assert outcome(tmp_path / "eval") == through


def test_another_evaluation_does_not_go_on_from_it(
    tmp_path: Path, adapter: str, dataset: str, dying: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(Path(dataset).read_text().replace("Compute", "What is"))
    folder, dying.last = tmp_path / "eval", 1
    with pytest.raises(Halt):
        evaluate(folder, adapter, dataset, seed=3)
    before = (folder / "config.yaml").read_text()
    monkeypatch.setitem(ASKED, "temperature", 0.7)
    with pytest.raises(UsageError) as error:
        evaluate(folder, adapter, str(other), seed=4, resume=True)
    assert str(error.value) == (
        f"{folder} was begun otherwise (seed 3, now 4; temperature 0.8, now 0.7; dataset is another): "
        f"`prl eval --recipe {folder / 'config.yaml'} --resume` goes on as it began, "
        "--overwrite_output_dir begins anew"
    )
    assert (folder / "config.yaml").read_text() == before
    assert len(runs.read_samples(folder)) == 1
    assert cli.main(["eval", "--recipe", str(folder / "config.yaml"), "--resume"]) == 0
    assert json.loads((folder / "results.json").read_text())["temperature"] == 0.8
    with pytest.raises(RunError, match="holds no run to resume"):
        evaluate(tmp_path / "none", adapter, dataset, resume=True)


def test_samples_are_written_as_they_come_but_not_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    written: list[tuple[float, int]] = []
    monkeypatch.setattr(keeping, "monotonic", lambda: now)
    folder: Any = SimpleNamespace(
        resumed=False, log_samples=lambda step, rows: written.append((now, len(rows)))
    )
    rows = [{"problem": problem, "answer": gold} for problem, gold in SUMS.items()]
    kept = keeping.Kept(folder, rows, "none", AutoTokenizer.from_pretrained(tiny.BASE))
    with kept.keeping("greedy") as take:
        for tick in range(1, 4000):
            now = tick / 4
            take(tick % 4, tick // 4, response("Final Answer: 7", tokens=3))
    assert sum(count for _, count in written) == 3999
    assert [at for at, _ in written[:3]] == [1, 2, 3]
    assert len(written) < 250, "of 1000 seconds"
    assert max(after - before for (before, _), (after, _) in pairwise(written)) <= 20.25
    assert kept.left("greedy", [1, 2], 1001) == {1: [1000], 2: [1000]}
    assert kept.left("sampled", [1], 2) == {1: [0, 1]}

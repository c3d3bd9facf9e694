"""Golds that the grader cannot read: told before a run, counted apart in an evaluation, never trained on."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl import cli, evaluation, runs
from prl.answers import AnswerChecker, unreadable_gold
from prl.answers.pool import Pool
from prl.config import resolve
from prl.curriculum import Curriculum, Stage
from prl.data.hub import load_rows, stream_rows
from prl.errors import DataError
from prl.rewards import accuracy_reward
from prl.settings.arguments import RLArguments
from prl.traces import Reason, check
from prl.trainer import problems as rl_problems
from prl.trainer import setup
from prl.trainer.recorder import SampleRecorder

UNREADABLE = {
    '["7", "8"]': "unexpected '\"'",
    "['7', '8']": 'unexpected "\'"',
    '{"answer": "7", "unit": "cm"}': "unexpected '\"'",
    "{'answer': 7}": 'unexpected "\'"',
    "": "empty",
    " \n": "empty",
    r"\frac{\sqrt{3}": "never closed: '{'",
    r"\left( 1, 2": "never closed: '('",
    r"\boxed{\frac{1}{2}": "it commits to no answer",
    "2 +": "an operand is missing",
    "???": "unexpected '?'",
    "Since $n^2$ is even, $n$ must be even.": r"\text{Since}",
    "see the picture below (figure 3)": r"\text{picture}",
    "def f(x): return x": r"\text{return}",
    "7" * 5000: "it commits to no answer",
    r"\begin{tabular} 1 \\ 2 \end{tabular}": "a tabular environment",
}
READABLE = [
    "7", "-1.5", "1,234", "72 apples", r"\frac12", "x^2+1", "(1, 2)", "[1, 2)", "{1, 2}", "Yes",
    "no solution", r"\text{Monday}", "the answer is 7", r"\boxed{7}", "x = 1 or x = 2",
    "\ufeff7", "７", "10:30 a.m.",
]  # fmt: skip


@pytest.mark.parametrize(("gold", "why"), UNREADABLE.items(), ids=lambda text: text[:20])
def test_what_cannot_be_read_and_why(gold: str, why: str) -> None:
    assert unreadable_gold(gold) == why
    assert accuracy_reward(["Final Answer: 7"], [gold]) == [None]


@pytest.mark.parametrize("gold", READABLE)
def test_what_can(gold: str) -> None:
    assert unreadable_gold(gold) is None
    assert accuracy_reward(["Final Answer: no idea"], [gold]) == [-1.0]


def test_golds_that_are_no_text() -> None:
    assert [unreadable_gold(gold) for gold in (7, 0.5, None, [7, "x"])] == [
        None,
        None,
        "empty",
        'unexpected "\'"',
    ]


@given(st.text(max_size=30) | st.sampled_from([*UNREADABLE, *READABLE]))
def test_it_agrees_with_the_verdict(gold: str) -> None:
    verdict = AnswerChecker().check(None, gold)
    assert verdict.judges == (unreadable_gold(gold) is None)


def test_reading_the_golds_of_a_large_set_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "judge", lambda *args: pytest.fail("a worker was asked"))
    started = time.process_time()
    assert not any(unreadable_gold(f"{number}.5") for number in range(17_000))
    assert time.process_time() - started < 1.0
    assert unreadable_gold(r"\frac{x^2-1}{x-1}") is None, "algebra would compare it, and is not needed"


def write(path: Path, answers: list[str]) -> str:
    rows = [
        {"problem": f"Compute {n} + 1.", "answer": answer, "level": n % 2 + 1}
        for n, answer in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def mixed(tmp_path: Path) -> str:
    """Two golds of six cannot be read."""
    return write(tmp_path / "mixed.jsonl", ["1", "3 ?", "3", "4", "5 +", "6"])


TOLD = (
    "mixed.jsonl: bad rows: 2 of 6\n"
    "  line 2: no response can be graded against the answer '3 ?': unexpected '?'\n"
    "  line 5: no response can be graded against the answer '5 +': an operand is missing\n"
    "Correct them, or have training and evaluation leave them out: --on_bad_rows skip."
)


def test_they_are_bad_rows_where_answers_are_graded(mixed: str) -> None:
    assert len(load_rows(mixed)) == 6, "not everyone grades"
    with pytest.raises(DataError, match=re.escape(TOLD)):
        load_rows(mixed, graded=True)
    assert [row["answer"] for row in load_rows(mixed, graded=True, on_bad="skip")] == ["1", "3", "4", "6"]
    assert [row["answer"] for row in load_rows(mixed, graded=True, on_bad="skip", limit=2)] == ["1", "3"]
    bad = [where for where, row in stream_rows(mixed, graded=True) if isinstance(row, str)]
    assert bad == ["line 2", "line 5"]


def test_rl_refuses_them_before_it_loads_a_model(
    mixed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "load_model", lambda *args, **kwargs: pytest.fail("a model was loaded"))
    flags = ["--recipe", "tiny", "--threads", "1", "--dataset", mixed, "--output_dir", str(tmp_path / "run")]
    assert cli.main(["rl", *flags]) == 1
    assert TOLD in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_neither_the_probe_nor_the_curriculum_draws_them(mixed: str) -> None:
    arguments = RLArguments(dataset=mixed, on_bad_rows="skip", prompt_style="bare", path_opening="none")
    stages = (Stage("one", levels=(1,)), Stage("two", levels=(2,), sampling="adaptive"))
    problems = rl_problems.load_problems(arguments, stages, seed=0)
    assert sorted(row["answer"] for row in problems.table) == ["1", "3", "4", "6"]  # what the probe answers
    levels = [row["level"] for row in problems.table]
    curriculum = Curriculum(stages, problems.pools, levels, seed=0, group_size=2)
    assert {problems.table[index]["answer"] for index in curriculum.draw(60)} == {"1", "3"}


def test_a_response_to_one_is_not_counted_as_wrong() -> None:
    logged: dict[str, float] = {}

    class Tokenizer:
        eos_token_id = 2

    recorder = SampleRecorder(None, Tokenizer())  # type: ignore[arg-type]
    texts = ["Final Answer: 7", "Final Answer: 8", "Final Answer: 9"]
    rows = [{"problem": problem, "answer": gold} for problem, gold in (("a", "7"), ("a", "7"), ("b", "9 ?"))]
    recorder.judge(rows, texts, [[5, 2]] * 3, logged.__setitem__)
    assert accuracy_reward(texts, [row["answer"] for row in rows]) == [1.0, -1.0, None]
    assert [row["correct"] for row in recorder.batch] == [1.0, 0.0, None]
    assert logged["correct"] == 0.5


def settings(dataset: str, folder: Path, **given: Any) -> Any:
    few = {"samples": 2, "max_completion_length": 40, "bootstrap": 10}
    return resolve(
        "eval", recipe="tiny", threads=1, dataset=dataset, limit=10, output_dir=str(folder), **few | given
    )


def test_an_evaluation_counts_them_apart(
    mixed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = write(tmp_path / "alone.jsonl", ["1", "3", "4", "6"])  # other problems, but as many
    result = evaluation.run(settings(mixed, tmp_path / "run"))
    told = capsys.readouterr().err
    assert (
        "2 of 6 gold answers cannot be read and count as neither right nor wrong: "
        "'3 ?' (unexpected '?'); '5 +' (an operand is missing)"
    ) in told
    assert "tiny on 4 problems; 2 more, whose answer cannot be read, count for nothing" in told
    kept = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (kept["problems"], kept["unreadable_golds"]) == (4, 2)
    assert [len(scores) for scores in result.scores.values()] == [4, 4]
    assert "3 ?" not in runs.read_samples(tmp_path / "run")["answer"].to_pylist()
    evaluation.run(settings(alone, tmp_path / "alone"))
    assert json.loads((tmp_path / "alone" / "results.json").read_text())["unreadable_golds"] == 0


def test_an_evaluation_on_nothing_else_is_refused(tmp_path: Path) -> None:
    dataset = write(tmp_path / "all.jsonl", ["1 ?", "2 +", "3 ?", "4 ?"])
    with pytest.raises(DataError) as error:
        evaluation.run(settings(dataset, tmp_path / "run", seed=0))
    assert str(error.value).startswith(f"{dataset}: 4 of 4 gold answers cannot be read")
    assert str(error.value).endswith("and 1 more; correct them, none is left to evaluate on")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_data_check_tells_them_whatever_the_trace_says() -> None:
    for trace in ("Final Answer: 7", "It is seven."):
        found = {each.reason: each for each in check(trace, problem="3 + 4?", answer="['7']")}
        assert found[Reason.UNREADABLE_GOLD].detail == """"['7']": unexpected "'\""""
        assert Reason.WRONG_ANSWER not in found
        assert (Reason.NO_ANSWER in found) == (trace == "It is seven.")

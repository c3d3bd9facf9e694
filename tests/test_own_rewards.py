"""Rewards of one's own: from a file or from Python, their faults in one line, their code remembered."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from prl import cli, rl, runs
from prl.config import resolve
from prl.curriculum import Curriculum, Entry, Stage
from prl.errors import UsageError
from prl.model import load_model
from prl.rewards.own import code_fingerprint, own_rewards, with_columns
from prl.trainer.staging import Staging

MINE = """
import helper

def short_answer(completions, **columns):
    return [1.0 if len(text) < helper.LIMIT else 0.0 for text in completions]

def by_column(completions, weight, **columns):
    return [len(text) / weight for text, weight in zip(completions, weight)]
"""


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file's folder is on the path while its process lives, and what it imported is a module."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("helper", None)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("LIMIT = 5\n")
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def pay(function: Any, completions: list[str], **columns: Any) -> Any:
    (own,) = own_rewards([], [function]).values()
    return own.pay(prompts=["?"] * len(completions), completions=completions, **columns)


def test_a_file_named_on_the_command_line_is_run_beside_what_it_imports(mine: Path) -> None:
    own = own_rewards(["accuracy", f"{mine}:short_answer"], [])
    assert [*own] == [f"{mine}:short_answer"]
    (reward,) = own.values()
    assert reward.pay(completions=["1234", "12345"]) == [1.0, 0.0]
    assert reward.pay.__name__ == "short_answer"


def test_columns_of_the_data_set_reach_it(mine: Path) -> None:
    (reward,) = own_rewards([f"{mine}:by_column"], []).values()
    assert reward.pay(completions=["12", "123"], weight=[2, 0.5], answer=["7", "7"]) == [1.0, 6.0]


@pytest.mark.parametrize(
    ("paid", "numbers"),
    [
        ([1, None, True], [1.0, None, 1.0]),
        ((0.5, 0.25, 0), [0.5, 0.25, 0.0]),
        (torch.tensor([1.0, 2.0, 3.0]), [1.0, 2.0, 3.0]),
        (np.array([1, 2, 3]), [1.0, 2.0, 3.0]),
        ([torch.tensor(1.5), np.float32(0.5), 0], [1.5, 0.5, 0.0]),
    ],
)
def test_numbers_of_any_library_are_taken(paid: Any, numbers: list[float | None]) -> None:
    def reward(completions: list[str], **columns: Any) -> Any:
        return paid

    assert pay(reward, ["a", "b", "c"]) == numbers


@pytest.mark.parametrize(
    ("paid", "told"),
    [
        ([1.0], "reward reward returned 1 numbers for 2 responses: return one each"),
        (1.0, "reward reward returned float: return a list, a number a response"),
        (None, "reward reward returned NoneType: return a list, a number a response"),
        ([1.0, float("nan")], "reward reward returned nan: return finite numbers, or None"),
        ([1.0, float("inf")], "reward reward returned inf: return finite numbers, or None"),
        ([1.0, "much"], "reward reward returned 'much': return finite numbers, or None"),
        ([[1.0], [2.0]], "reward reward returned [1.0]: return finite numbers, or None"),
        (
            [10**400, 1.0],
            "reward reward returned 10000000000",
        ),
        ([1e39, 1.0], "reward reward returned 1e+39: return finite numbers, or None"),
        ([torch.tensor([1.0, 2.0]), 1.0], "reward reward returned tensor([1., 2.]): return finite numbers"),
    ],
)
def test_what_is_no_number_a_response_is_told(paid: Any, told: str) -> None:
    def reward(completions: list[str], **columns: Any) -> Any:
        return paid

    with pytest.raises(UsageError) as caught:
        pay(reward, ["a", "b"])
    assert str(caught.value).startswith(told)


def test_a_failing_function_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("def bad(completions, **columns):\n    x = 0\n    return [1 / x for _ in completions]\n")
    (reward,) = own_rewards([f"{file}:bad"], []).values()
    with pytest.raises(UsageError) as caught:
        reward.pay(completions=["a"])
    assert str(caught.value) == f"reward {file}:bad, line 3, failed: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        (None, "f", "no such file; give its path"),
        ("def f(:\n", "f", "line 1, cannot be run: SyntaxError: "),
        ("import sys\nsys.exit(0)\n", "f", "line 2, cannot be run: SystemExit: 0"),
        ("import sys\nsys.path.pop(0)\nx = 1\n", "f", "defines no f"),
        ("import nothing_like_it\n", "f", "line 1, cannot be run: ModuleNotFoundError: "),
        (
            "def short_answer(completions): ...\n",
            "short_anser",
            "defines no short_anser; nearest: short_answer",
        ),
        ("f = 3\n", "f", "is no plain function that takes completions and columns"),
        ("async def f(completions): ...\n", "f", "is no plain function that takes completions and columns"),
        ("class f: ...\n", "f", "is no plain function that takes completions and columns"),
        ("def accuracy_reward(completions): ...\n", "accuracy_reward", "another has that name in logs"),
    ],
)
def test_a_file_that_gives_no_reward_is_told(tmp_path: Path, text: str | None, name: str, told: str) -> None:
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError) as caught:
        own_rewards([f"{file}:{name}"], [])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_stands_for_one_reward(mine: Path) -> None:
    def short_answer(completions: list[str], **columns: Any) -> list[float]:
        return [0.0 for _ in completions]

    with pytest.raises(UsageError, match="reward short_answer: another has that name"):
        own_rewards([f"{mine}:short_answer"], [short_answer])
    with pytest.raises(UsageError, match="reward short_answer stands twice"):
        own_rewards([], [short_answer, short_answer])


def test_a_relative_path_and_an_import_when_called(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine.write_text("def lazy(completions, **columns):\n    import helper\n    return [helper.LIMIT / 0]\n")
    monkeypatch.chdir(mine.parent)
    (reward,) = own_rewards(["mine.py:lazy"], []).values()
    with pytest.raises(UsageError, match=r"^reward mine\.py:lazy, line 3, failed: ZeroDivisionError"):
        reward.pay(completions=["a"])


def test_a_file_is_run_once_and_two_helpers_of_one_name_are_refused(tmp_path: Path, mine: Path) -> None:
    mine.write_text(mine.read_text() + "\nwith open(__file__ + '.ran', 'a') as ran:\n    ran.write('x')\n")
    own_rewards([f"{mine}:short_answer", f"{mine}:by_column"], [])
    assert (tmp_path / "mine.py.ran").read_text() == "x"
    other = tmp_path / "other"
    other.mkdir()
    (other / "helper.py").write_text("LIMIT = 50\n")
    (other / "theirs.py").write_text("import helper\ndef theirs(completions, **columns): ...\n")
    with pytest.raises(UsageError, match=r"both have helper\.py, of which Python reads one alone"):
        own_rewards([f"{mine}:short_answer", f"{other / 'theirs.py'}:theirs"], [])


def test_a_function_cannot_change_what_the_run_keeps() -> None:
    def greedy(
        completions: list[str], completion_ids: list[list[int]], answer: list[str], **columns: Any
    ) -> list[float]:
        completions.clear()
        completion_ids[0].clear()
        answer[0] = "mine"
        return [1.0]

    ids, golds = [[1, 2]], ["12"]
    assert pay(greedy, ["a"], completion_ids=ids, answer=golds) == [1.0]
    assert (ids, golds) == ([[1, 2]], ["12"]), "which other rewards are given as well"


def test_columns_are_looked_up_and_shipped_names_are_none(mine: Path) -> None:
    seen: list[Any] = []

    def noted(completions: list[str], **columns: Any) -> list[float]:
        seen.append(columns)
        columns["nested"][0]["a"] = 0
        return [0.0 for _ in completions]

    cells = [{"weight": 1, "nested": {"a": 1}, "answer": "raw"}, {"weight": "many"}]
    (own,) = own_rewards([], [noted]).values()
    reward = with_columns(own, "noted", cells)
    assert reward(completions=["x", "y"], row=[0, 1], answer=["7", "8"]) == [0.0, 0.0]
    assert seen[0]["weight"] == [1, "many"]
    assert (seen[0]["answer"], seen[0]["nested"][1]) == (["7", "8"], None)
    assert cells[0]["nested"] == {"a": 1}


def test_what_cannot_be_called_with_the_columns_is_told_before_it_is() -> None:
    def bare(completions: list[str]) -> list[float]:
        return []

    def wants(completions: list[str], wight: list[float], **columns: Any) -> list[float]:
        return []

    for function, told in ((bare, "unexpected keyword argument 'prompts'"), (wants, "'wight'")):
        (own,) = own_rewards([], [function]).values()
        with pytest.raises(UsageError, match=f"^reward .*{told}.*; it is called with .*, weight by name"):
            with_columns(own, "mine", [{"weight": 1}])


def test_partials_and_objects_have_names_and_code_of_their_own() -> None:
    def scaled(completions: list[str], by: float, **columns: Any) -> list[float]:
        return [by for _ in completions]

    class Fixed:
        def __call__(self, completions: list[str], **columns: Any) -> list[float]:
            return [1.0 for _ in completions]

    one, two = (functools.partial(scaled, by=by) for by in (1.0, 2.0))
    assert [*own_rewards([], [one, Fixed()])] == ["scaled", "Fixed"]
    assert code_fingerprint(own_rewards([], [one])) != code_fingerprint(own_rewards([], [two]))
    with pytest.raises(UsageError, match="a reward is called <lambda>"):
        own_rewards([], [lambda completions, **columns: []])


def test_the_code_has_a_fingerprint(mine: Path) -> None:
    def one(completions: list[str], **columns: Any) -> list[float]:
        return [1.0 for _ in completions]

    def two(completions: list[str], **columns: Any) -> list[float]:
        return [2.0 for _ in completions]

    assert code_fingerprint({}) == ""
    assert len({code_fingerprint(own_rewards([], [each])) for each in (one, two)}) == 2
    assert code_fingerprint(own_rewards([], [one])) == code_fingerprint(own_rewards([], [one]))
    before = code_fingerprint(own_rewards([f"{mine}:short_answer"], []))
    mine.write_text(mine.read_text().replace("1.0 if", "2.0 if"))
    assert code_fingerprint(own_rewards([f"{mine}:short_answer"], [])) != before


SMALL = {
    "recipe": "tiny", "threads": 1, "max_completion_length": 16, "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1, "num_generations": 4, "warmup_steps": 0, "save_steps": 1,
    "logging_steps": 1,
}  # fmt: skip


def test_rl_pays_a_function_in_a_file_with_a_column_of_the_data(tmp_path: Path, mine: Path) -> None:
    """Its name, its weight, its column, its code in the run, and what a resumption says of other code."""
    data = tmp_path / "problems.jsonl"
    rows = [
        {"problem": f"{n} + 1?", "answer": n + 1, "weight": n + 0.5, "images": "x", "truncated": False}
        | {"self": 1, "mess": n if n % 2 else "many", "nested": {"w": [0.25, n]}}
        for n in range(8)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = SMALL | {"dataset": str(data), "output_dir": str(tmp_path / "run")}
    given |= {"rewards": ["accuracy", f"{mine}:by_column"], "reward_weights": [1.0, 0.5]}
    rl.run(resolve("rl", max_steps=1, **given))
    (line,) = [line for line in runs.read_metrics(tmp_path / "run") if "loss" in line]
    samples = runs.read_samples(tmp_path / "run").to_pylist()
    paid = [len(row["text"]) / (int(row["answer"]) - 0.5) for row in samples]
    assert [row["reward_by_column"] for row in samples] == pytest.approx(paid)
    assert line["rewards/by_column/mean"] == pytest.approx(sum(paid) / len(paid), rel=1e-5)
    total = [row["reward_accuracy"] + 0.5 * row["reward_by_column"] for row in samples]
    assert line["reward"] == pytest.approx(sum(total) / len(total), rel=1e-5)
    assert [row["reward"] for row in samples] == pytest.approx(total)

    mine.write_text(mine.read_text() + "\n# another line\n")
    (tmp_path / "run" / "DONE").unlink()
    with pytest.raises(UsageError, match="begun with other rewards of your own, it has other code now"):
        rl.run(resolve("rl", max_steps=2, resume=True, **given))


def test_a_reward_that_fails_ends_the_run_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.py").write_text("def bad(completions, **columns):\n    return columns['weight']\n")
    words = [f"--{key}={value}" for key, value in SMALL.items()]
    words += ["--max_steps=1", f"--output_dir={tmp_path / 'run'}", "--limit=8", "--dataset=arithmetic:wide"]
    assert cli.main(["rl", *words, "--rewards", f"{tmp_path / 'bad.py'}:bad"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"prl rl: reward {tmp_path / 'bad.py'}:bad, line 2, failed: KeyError: 'weight'"


def test_a_file_that_cannot_be_run_is_told_before_the_cold_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.py").write_text("import nothing_like_it\n")
    words = ["rl", "--recipe=tiny", "--threads=1", "--max_steps=1", f"--output_dir={tmp_path / 'run'}"]
    words += ["--stages", '{"name": "cold-start"}', '{"name": "rl"}']
    assert cli.main([*words, "--rewards", "accuracy", f"{tmp_path / 'bad.py'}:f"]) == 2
    assert "line 1, cannot be run: ModuleNotFoundError" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run-cold-start").exists()


def test_functions_of_a_python_caller_are_paid_last_and_in_every_stage(tmp_path: Path) -> None:
    def short(completions: list[str], **columns: Any) -> list[float]:
        return [float(len(text) < 20) for text in completions]

    given = SMALL | {
        "dataset": "arithmetic:wide",
        "limit": 16,
        "rewards": ["format"],
        "reward_weights": [2.0],
    }
    stages = [{"name": "one", "rewards": ["format"]}, {"name": "two", "enter": {"step": 1}}]
    asked = resolve("rl", max_steps=2, output_dir=str(tmp_path / "run"), stages=stages, **given)
    rl.run(asked, rewards=[short])
    lines = [line for line in runs.read_metrics(tmp_path / "run") if "loss" in line]
    assert [line["stage"] for line in lines] == ["one", "two"]
    for line in lines:
        mean = 2 * line["rewards/format_reward/mean"] + line["rewards/short/mean"]
        assert line["reward"] == pytest.approx(mean, rel=1e-5)


def test_the_curriculum_leads_a_trainer_of_somebody_elses(tmp_path: Path) -> None:
    model, tokenizer = load_model("tiny", trainable=True)
    table = [{"prompt": f"Level {n % 2}: {n}?", "answer": str(n), "level": n % 2} for n in range(40)]
    asked: list[list[int]] = []

    def noted(prompts: list[str], completions: list[str], level: list[int], **columns: Any) -> list[float]:
        assert [f"Level {each}:" in prompt for each, prompt in zip(level, prompts, strict=True)] == [True] * 8
        asked.append(level)
        return [float(len(text)) for text in completions]

    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[noted],
        args=GRPOConfig(
            str(tmp_path),
            max_steps=4,
            per_device_train_batch_size=8,
            num_generations=4,
            report_to="none",
            max_completion_length=8,
            use_cpu=True,
            save_strategy="no",
            gradient_checkpointing=None,
        ),
        train_dataset=Dataset.from_list(table),
        processing_class=tokenizer,
    )
    pools = [[n for n in range(40) if n % 2 == level] for level in (0, 1)]
    stages = [Stage("even"), Stage("odd", enter=Entry(step=2))]
    curriculum = Curriculum(stages, pools, [n % 2 for n in range(40)], seed=0, group_size=4)
    Staging(curriculum, table).watch(trainer)
    trainer.train()
    assert asked == [[0] * 8] * 2 + [[1] * 8] * 2
    assert curriculum.stage.name == "odd"
    tried = [n for n in range(40) if curriculum.state()["problems"] and curriculum.pass_rate(n) is not None]
    assert len(tried) == 40  # of each level something is known

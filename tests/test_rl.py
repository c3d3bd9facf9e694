"""What RL keeps of a generation, and the probe before it, without a trainer; the stage itself is tested in
test_pipeline and test_staging."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prl import rl, runs
from prl.config import resolve
from prl.curriculum import Curriculum, Stage
from prl.decoding import Limits, Response, Sampling, row_seed
from prl.rl import probe
from prl.trainer.recorder import SampleRecorder
from prl.trainer.staging import Staging

BLOCK = "<Parallel><Path>a</Path><Path>b</Path></Parallel><Summary>c</Summary>"
EOS = 2


def judged(texts: list[str], ids: list[list[int]], answers: list[str]) -> tuple[Any, dict[str, float]]:
    """The recorder after one batch, and what it logged."""
    logged: dict[str, float] = {}
    recorder = SampleRecorder(None, SimpleNamespace(eos_token_id=EOS))  # type: ignore[arg-type]
    rows = [{"problem": f"problem {n}", "answer": answer} for n, answer in enumerate(answers)]
    recorder.judge(rows, texts, ids, logged.__setitem__)
    return recorder, logged


def test_shares_of_right_valid_and_parallel_responses_are_logged_whatever_is_paid() -> None:
    texts = [
        f"{BLOCK} Final Answer: 42",
        f"{BLOCK} <Path> Final Answer: 42",  # a block, but a fault behind it
        "Final Answer: 41",
        "Final Answer: 42",  # cut off
        "<Parallel><Path>alone</Path></Parallel> Final Answer: 7",
    ]
    ids = [[5, EOS], [5, 6, EOS], [EOS], [5], [5, 6, 7, EOS]]
    recorder, logged = judged(texts, ids, ["42"] * 5)
    assert logged == {"correct": 3 / 5, "format_valid": 2 / 5, "parallel_ratio": 2 / 5}
    kept = {name: [row[name] for row in recorder.batch] for name in recorder.batch[0]}
    assert kept["correct"] == [1, 1, 0, 1, 0]
    assert kept["parallel"] == [1, 1, 0, 0, 0]
    assert kept["truncated"] == [False, False, False, True, False]
    assert kept["length"] == [2, 3, 1, 1, 4]
    assert kept["extracted"] == ["42", "42", "41", "42", "7"]
    assert kept["verdict"] == ["identical", "identical", "different", "identical", "different"]
    assert kept["faults"] == [
        [], ["stray_path_opener"], [], ["truncated"], ["fewer_than_two_paths", "missing_summary"],
    ]  # fmt: skip


def test_a_generation_is_kept_with_its_rewards_by_name_and_told_to_the_curriculum() -> None:
    told: list[tuple[list[bool], list[bool]]] = []
    staging = SimpleNamespace(
        observe=lambda correct, parallel: told.append((correct, parallel)),
        curriculum=SimpleNamespace(stage=Stage("easy")),
    )
    recorder, _ = judged([f"{BLOCK} Final Answer: 7", "Final Answer: 8"] * 2, [[EOS]] * 4, ["7"] * 4)
    recorder.staging = staging
    trainer = SimpleNamespace(
        _logs={"rewards": {"accuracy_reward": [1.0, -1.0, 1.0, float("nan")]}, "advantages": [2, 1, 0, -1]},
        num_generations=2,
        reward_weights=torch.tensor([0.5]),
        state=SimpleNamespace(global_step=4),
    )
    recorder.keep(trainer)
    recorder.keep(trainer)  # of the same step
    assert [(row["reward_accuracy"], row["advantage"], row["group"]) for row in recorder.rows] == [
        (1.0, 2, 0), (-1.0, 1, 0), (1.0, 0, 1), (None, -1, 1),
        (1.0, 2, 2), (-1.0, 1, 2), (1.0, 0, 3), (None, -1, 3),
    ]  # fmt: skip
    assert [row["reward"] for row in recorder.rows] == [0.5, -0.5, 0.5, None] * 2
    assert {row["stage"] for row in recorder.rows} == {"easy"}
    assert told == [([True, False, True, False], [True, False, True, False])] * 2


def test_a_probe_tells_the_curriculum_how_many_of_each_problem_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four problems of which 0, 2, 4 and 4 of 4 responses are right: three groups of four teach nothing."""
    rights, asked = [0, 2, 4, 4], []

    class Decoder:
        def __init__(self, model: Any, tokenizer: Any, **given: Any) -> None:
            asked.append(given)

        def generate(self, prompts: list[str], **given: Any) -> list[list[Response]]:
            asked.append({"prompts": prompts, **given})
            texts = [["Final Answer: 1"] * right + ["Final Answer: 0"] * (4 - right) for right in rights]
            return [
                [Response([EOS], text, False, [0.0], [False], [], 1) for text in group] for group in texts
            ]

    monkeypatch.setattr(rl, "ForkJoinDecoder", Decoder)
    settings = resolve(
        "rl", recipe="tiny", threads=1, sampling="adaptive", probe_samples=4, seed=9,
        max_completion_length=70, temperature=0.7, top_p=0.9, top_k=5, min_p=0.1, paths=3,
        max_blocks=2, rollout_batch_size=6,
    )  # fmt: skip
    table = [{"prompt": f"prompt {n}", "problem": f"problem {n}", "answer": "1"} for n in range(4)]
    curriculum = Curriculum(
        [Stage("rl", sampling="adaptive")], [range(4)], [1, 2, 3, 3], seed=9, group_size=4
    )
    with runs.open_run(tmp_path / "rl", command="rl", config={}) as folder:
        probe(settings, None, None, Staging(curriculum, table, ["accuracy"]), folder)  # type: ignore[arg-type]
    built, decoded = asked
    assert built["limits"] == Limits(70, 3, max_blocks=2, path_opening="none")
    assert (built["sampling"], built["batch_size"]) == (Sampling(0.7, 0.9, 5, 0.1), 6)
    assert decoded["prompts"] == [row["prompt"] for row in table]
    assert decoded["seeds"] == [[row_seed(9, i, j) for j in range(4)] for i in range(4)]
    assert curriculum.state()["problems"] == [[n, right, 4] for n, right in enumerate(rights)]
    (line,) = runs.read_metrics(tmp_path / "rl")
    assert (line["step"], line["probe/pass_rate"], line["probe/dead_groups"]) == (0, 10 / 16, 3 / 4)
    assert "probed 4 problems, 4 responses each: 62% right, 75% dead groups" in capsys.readouterr().err

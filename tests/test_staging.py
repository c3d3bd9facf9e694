"""The curriculum inside GRPOTrainer (trl 1.16), on the tiny model: stages, rewards, draws, checkpoints,
faults."""

import functools
import importlib.metadata
import json
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerState

from prl import recipes, rl, runs, sft
from prl.config import resolve
from prl.curriculum import AlternatingReward, Curriculum, Entry, Stage
from prl.decoding import ForkJoinDecoder
from prl.errors import DataError, RunError, UsageError
from prl.grammar import render
from prl.settings import Settings
from prl.study import pipeline
from prl.study.sums import SUMS
from prl.trainer import rollouts
from prl.trainer.problems import load_problems
from prl.trainer.staging import Staging

SMALL = {
    "limit": 200, "max_steps": 4, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
    "num_generations": 4, "max_completion_length": 32, "dataset": "arithmetic:wide", "rewards": ["accuracy"],
    "save_steps": 2,
}  # fmt: skip
SHORT_TO_LONG = [
    {"name": "short", "levels": [1], "rewards": ["parallel"]},
    {"name": "long", "levels": [6], "rewards": ["alternating"], "enter": {"step": 2}},
]


def settings(folder: Path, **given: Any) -> Settings[Any]:
    return resolve("rl", recipe="tiny", threads=1, output_dir=str(folder), **SMALL | given)


def by_step(folder: Path) -> dict[int, list[dict[str, Any]]]:
    rows = runs.read_samples(folder).to_pylist()
    return {step: list(group) for step, group in groupby(rows, key=lambda row: row["step"])}


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("staged") / "rl"
    rl.run(settings(folder, stages=SHORT_TO_LONG, alternate=["accuracy:1", "tiered:1"], alternate_window=2))
    return folder


def test_a_stage_begins_with_the_very_next_generation(staged: Path) -> None:
    assert importlib.metadata.version("trl").startswith("1.16.")  # GRPO overrides private methods
    steps = by_step(staged)
    assert list(steps) == [1, 2, 3, 4]
    assert [{row["level"] for row in rows} for rows in steps.values()] == [{1}, {1}, {6}, {6}]
    assert [{row["stage"] for row in rows} for rows in steps.values()] == [
        {"short"}, {"short"}, {"long"}, {"long"},
    ]  # fmt: skip


def test_the_opening_of_the_model_is_none_of_what_a_path_says() -> None:
    """Of the responses that a trainer of a script's own leaves in its logs (trl 1.16)."""
    texts = [render(["\n1\n3+4=7", f"\n2\n{said}"], "7") + "Final Answer: 7" for said in ("4+3=7", "")]
    accelerator = SimpleNamespace(num_processes=1, process_index=0, unwrap_model=lambda model: model)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True, base_model=SimpleNamespace(_prl_path_opening="number")),
        num_generations=2,
        accelerator=accelerator,
        callback_handler=SimpleNamespace(callbacks=[]),
        _logs={"completion": texts},
        _generate_and_score_completions=lambda rows: rows,
    )
    staging = Staging(Curriculum([Stage("rl")], [[0]], [1], seed=0, group_size=2), [{"answer": "7"}])
    staging.watch(trainer)
    trainer._generate_and_score_completions([{}, {}])
    assert (staging.correct, staging.parallel) == ([True, True], [True, False])


def test_each_stage_pays_its_own_rewards_and_the_window_counts_from_its_beginning(staged: Path) -> None:
    for step, rows in by_step(staged).items():
        paid = {
            name for name in ("parallel", "alternating") for row in rows if row[f"reward_{name}"] is not None
        }
        assert paid == ({"parallel"} if step <= 2 else {"alternating"})
    phases = [{row["phase"] for row in rows} for rows in by_step(staged).values()]
    assert phases == [{None}, {None}, {"accuracy"}, {"tiered"}]
    lines = [line for line in runs.read_metrics(staged) if "loss" in line]
    assert [(line["stage"], line.get("phase")) for line in lines] == [
        ("short", None), ("short", None), ("long", "accuracy"), ("long", "tiered"),
    ]  # fmt: skip
    assert [line["curriculum/level"] for line in lines] == [1, 1, 6, 6]


def test_groups_are_whole_and_of_one_problem(staged: Path) -> None:
    for rows in by_step(staged).values():
        assert len(rows) == 16
        groups = [list(group) for _, group in groupby(rows, key=lambda row: row["group"])]
        assert [len(group) for group in groups] == [4, 4, 4, 4]
        problems = [{row["problem"] for row in group} for group in groups]
        assert all(len(each) == 1 for each in problems)
        assert len(set.union(*problems)) == 4


def test_a_resumed_schedule_is_the_uninterrupted_one(staged: Path, tmp_path: Path) -> None:
    """Stopped after step 2 of 4: adaptive sampling, stage, window and problems are as if nothing had been."""
    stages = [
        {"name": "wide", "sampling": "adaptive", "rewards": ["accuracy"]},
        {"name": "last", "rewards": ["alternating"], "sampling": "adaptive", "enter": {"step": 3}},
    ]
    given = {"stages": stages, "alternate": ["accuracy:1", "tiered:1"], "alternate_window": 2}
    rl.run(settings(tmp_path / "whole", **given))
    rl.run(settings(tmp_path / "parts", **given))
    folder = tmp_path / "parts"
    # What a kill right after checkpoint-2 leaves.
    (folder / "DONE").unlink()
    for part in ("adapter", "checkpoint-4"):
        for path in sorted((folder / part).rglob("*"), reverse=True):
            path.unlink()
        (folder / part).rmdir()
    rl.run(settings(folder, **given, resume=True))
    keys = (
        "step",
        "stage",
        "phase",
        "problem",
        "group",
        "text",
        "advantage",
        "reward_accuracy",
        "reward_alternating",
    )
    ours, theirs = (
        [
            {key: row[key] for key in keys}
            for row in runs.read_samples(tmp_path / name).to_pylist()
            if row["step"] > 2
        ]
        for name in ("parts", "whole")
    )
    assert len(ours) == 2 * 16
    assert ours == theirs
    ended = [
        json.loads((tmp_path / name / "checkpoint-4" / "trainer_state.json").read_text())[
            "stateful_callbacks"
        ]
        for name in ("parts", "whole")
    ]
    assert ended[0]["Staging"] == ended[1]["Staging"]


def test_the_curriculum_is_told_every_group_and_the_means_of_every_step() -> None:
    """Two generations of two problems, two responses each, in one step; then a step that reuses the last."""
    recorded: list[Any] = []
    advanced: list[Any] = []
    draws = iter([[4, 2], [0, 1]])
    curriculum = SimpleNamespace(
        draw=lambda count: next(draws)[:count],
        record=recorded.extend,
        advance=lambda step, **means: advanced.append((step, means)),
    )
    table = [{"problem": f"problem {n}"} for n in range(5)]
    staging = Staging(curriculum, table, ["accuracy"])  # type: ignore[arg-type]
    accelerator = SimpleNamespace(num_processes=1, process_index=0)
    trainer: Any = SimpleNamespace(num_generations=2, accelerator=accelerator)
    assert staging.choose([{}] * 4, trainer) == [table[4], table[4], table[2], table[2]]
    staging.observe([True, False, True, True], [False, False, False, True])
    accelerator.num_processes, accelerator.process_index = 2, 1
    assert staging.choose([{}] * 2, trainer) == [table[1], table[1]], "the second process's part"
    staging.observe([False, False, True, False], [False, False, True, False])
    assert recorded == [(4, 1, 2), (2, 2, 2), (0, 0, 2), (1, 1, 2)]
    for step in (7, 8):
        staging.on_step_end(None, SimpleNamespace(global_step=step), None)
    assert advanced == [(7, {"accuracy": 4 / 8, "parallel_ratio": 2 / 8}), (8, {})], (
        "the second measured nothing"
    )


def test_the_window_of_a_resumed_stage_counts_from_where_the_stage_began(tmp_path: Path) -> None:
    stages = [Stage("easy"), Stage("general", rewards=("alternating",), enter=Entry(step=3))]

    def staging() -> Staging:
        curriculum = Curriculum(stages, [[0], [1]], [1, 1], seed=0, group_size=2)
        return Staging(curriculum, [{}, {}], ["accuracy"], AlternatingReward())

    before, after = staging(), staging()
    before.curriculum.advance(3, accuracy=0.5, parallel_ratio=0.5)
    state = TrainerState(stateful_callbacks={"Staging": before.state()})
    state.save_to_json(str(tmp_path / "trainer_state.json"))
    after.restore(tmp_path)
    assert after.curriculum.stage.name == "general"
    assert after.alternating is not None
    assert after.alternating.start == 3


def test_a_checkpoint_of_other_stages_is_refused(
    staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curriculum = rl.stages_of(settings(tmp_path, sampling="adaptive").arguments, 4)
    assert [stage.name for stage in curriculum] == ["rl"]
    folder = tmp_path / "rl"
    rl.run(settings(folder, max_steps=2))
    (folder / "DONE").unlink()
    with pytest.raises(UsageError, match=r"was begun otherwise \(sampling uniform, now adaptive\)"):
        rl.run(settings(folder, max_steps=2, resume=True, sampling="adaptive"))
    monkeypatch.setattr(
        "prl.trainer.resuming.compare", lambda *words: {}
    )  # as in a run whose settings are older
    with pytest.raises(RunError, match="holds no curriculum: the run was begun without one"):
        rl.run(settings(folder, max_steps=2, resume=True, sampling="adaptive"))


def test_a_stage_waits_for_no_generation_more_where_one_serves_two_steps(tmp_path: Path) -> None:
    stages = [{"name": "short", "levels": [1]}, {"name": "long", "levels": [6], "enter": {"step": 2}}]
    rl.run(settings(tmp_path / "rl", num_iterations=2, stages=stages))
    found = {step: {row["level"] for row in rows} for step, rows in by_step(tmp_path / "rl").items()}
    assert found == {1: {1}, 3: {6}}


def test_every_generation_of_a_step_is_kept(tmp_path: Path) -> None:
    """Two generations a step, as with steps_per_generation below gradient_accumulation_steps (recipe 8gb)."""
    rl.run(settings(tmp_path / "rl", max_steps=2, steps_per_generation=1, sampling="adaptive"))
    steps = by_step(tmp_path / "rl")
    assert [len(rows) for rows in steps.values()] == [16, 16]
    assert [[row["group"] for row in rows][::4] for rows in steps.values()] == [[0, 1, 2, 3]] * 2
    assert all(row["advantage"] is not None for rows in steps.values() for row in rows)


def test_as_many_responses_are_decoded_side_by_side_as_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    class Watched(ForkJoinDecoder):
        def __init__(self, *words: Any, **given: Any) -> None:
            sizes.append(given["batch_size"])
            super().__init__(*words, **given)

    monkeypatch.setattr(rollouts, "ForkJoinDecoder", Watched)
    rl.run(settings(tmp_path / "rl", max_steps=1, rollout_batch_size=3))
    assert sizes == [3]


def test_a_probe_pass_comes_before_the_first_step(tmp_path: Path) -> None:
    rl.run(settings(tmp_path / "rl", max_steps=1, limit=20, sampling="adaptive", probe_samples=2))
    first = runs.read_metrics(tmp_path / "rl")[0]
    assert first["step"] == 0
    # Two responses to each of 20 problems; test_rl knows the outcomes.
    assert first["probe/pass_rate"] in [right / 40 for right in range(41)]
    assert first["probe/dead_groups"] in [dead / 20 for dead in range(21)]


def test_a_cold_start_among_the_stages_runs_first(tmp_path: Path) -> None:
    """And is not done again by a second call that goes on with the RL."""
    recipe = tmp_path / "all.yaml"
    recipe.write_text(
        "model_name_or_path: tiny\nprompt_style: bare\nattention: structured\n"
        "sft: {max_steps: 1, warmup_steps: 0, limit: 40, sample_count: 0, eval_strategy: 'no'}\n"
        "rl:\n  stages: [{name: cold-start}, {name: rl-general}]\n"
    )

    def todo(**given: Any) -> Settings[Any]:
        return resolve(
            "rl",
            recipe=str(recipe),
            threads=1,
            output_dir=str(tmp_path / "rl"),
            **SMALL | {"max_steps": 1} | given,
        )

    with pytest.raises(UsageError, match="cold-start is no RL"):
        rl.run(todo())
    pipeline.run(todo())
    cold_start = tmp_path / "rl-cold-start"
    assert runs.read_config(cold_start)["sft"]["attention"] == "structured"
    assert runs.read_config(tmp_path / "rl")["rl"]["model_name_or_path"] == str(cold_start)
    written = (cold_start / "DONE").stat().st_mtime_ns
    (tmp_path / "rl" / "DONE").unlink()
    pipeline.run(todo(resume=True))
    assert (cold_start / "DONE").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("given", "faults"),
    [
        (
            {
                "stages": [
                    {"name": "a", "rewards": ["tired"]},
                    {"name": "b", "dataset": "easy", "rewards": ["alternating"], "enter": {"step": 9}},
                ],
                "alternate": ["accuracy:8", "tiered:3"],
                "reward_weights": [1.0],
                "easy_dataset": None,
            },
            [
                "nearest: tiered",
                "stage b: ",
                "11 steps in accuracy:8 tiered:3, 10 in the window",
                "--easy_dataset",
            ],
        ),
        ({"rewards": ["paralel"]}, ["nearest: parallel"]),
        ({"stages": ["no json"]}, ["'no json' is no JSON object"]),
        ({"band": [0.8, 0.2]}, ["must be two shares, the lower one first"]),
        ({"probe_samples": 4}, ["only adaptive sampling uses pass rates"]),
        ({"stages": [{"name": "a"}], "levels": [3]}, ["with stages, each stage has its own"]),
        (
            {"rewards": ["alternating"], "alternate": ["accuracy:8", "overlong:2"], "overlong_buffer": 99},
            ["overlong_buffer 99 is longer than max_completion_length 32; take less"],
        ),
        (
            {"rewards": ["overlong"], "overlong_buffer": 99},
            ["overlong_buffer 99 is longer than max_completion_length 32; take less"],
        ),
    ],
)
def test_all_faults_of_a_curriculum_are_told_at_once(tmp_path: Path, given: Any, faults: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        settings(tmp_path, **given)
    for fault in faults:
        assert fault in str(error.value)


def test_problems_of_levels_that_no_stage_asks_for_are_left_out(tmp_path: Path) -> None:
    """They would count for epochs, and be probed and rehearsed."""
    asked = settings(tmp_path, dataset="arithmetic:wide", limit=40, levels=[2, 5]).arguments
    stages = (Stage("two", levels=(2,)), Stage("both", levels=(2, 5)), Stage("five", levels=(5,)))
    found = load_problems(asked, stages, 0)
    assert {row["level"] for row in found.table} == {2, 5}
    drawn = [[found.table[index] for index in pool] for pool in found.pools]
    assert [{row["level"] for row in pool} for pool in drawn] == [{2}, {2, 5}, {5}]
    whole = load_problems(asked, [Stage("all")], 0).table
    assert drawn[1] == [row for row in whole if row["level"] in (2, 5)]


def test_a_data_set_without_the_levels_of_a_stage_is_refused_before_anything_loads(tmp_path: Path) -> None:
    data = tmp_path / "no-level.jsonl"
    data.write_text(
        "".join(json.dumps({"problem": f"Compute {n} + 1.", "answer": str(n + 1)}) + "\n" for n in range(20))
    )
    stages = [
        {"name": "a", "dataset": str(data), "levels": [1]},
        {"name": "b", "levels": [5, 9], "enter": {"step": 2}},
    ]
    with pytest.raises(DataError) as error:
        rl.run(settings(tmp_path / "rl", stages=stages))
    assert str(error.value) == (
        f"stage a: {data} has no level; leave levels out, or give one that has; "
        "stage b: arithmetic:wide has no level 9, only 1, 2, 3, 4, 5, 6"
    )
    assert not (tmp_path / "rl").exists()


STRUCTURED = (
    "structured-accuracy",
    "structured-alternating",
    "parallel-only",
    "tiered-only",
    "gated-efficiency",
    "scaffold",
    "scaffold-early",
    "blocks-first",
)


FEW = {"threads": 1, "limit": 40, "max_steps": 2}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Arm -> the model that its RL begins with; a cold start is made once for all arms that share it."""

    @functools.cache
    def cold_start(name: str) -> str:
        recipe, folder = f"tiny+sums+{SUMS.cold_starts[name].overlays}", tmp_path_factory.mktemp(name)
        todo = resolve(
            "sft", recipe=recipe, output_dir=str(folder / "sft"), per_device_train_batch_size=2, **FEW
        )
        return str(sft.run(todo).folder)

    def model(arm: str) -> str:
        name = SUMS.arms[arm].cold_start if arm in SUMS.arms else "structured"
        return cold_start(name) if name else "tiny"

    return model


@pytest.mark.parametrize("arm", recipes.ARMS)
def test_every_arm_trains(arm: str, tmp_path: Path, begun: Callable[[str], str]) -> None:
    small = {
        key: SMALL[key] for key in ("gradient_accumulation_steps", "num_generations", "max_completion_length")
    }
    todo = resolve(
        "rl",
        recipe=f"tiny+sums+{arm}",
        output_dir=str(tmp_path / "rl"),
        model_name_or_path=begun(arm),
        per_device_train_batch_size=4,
        **FEW,
        **small,
    )
    pipeline.run(todo)
    lines = [line for line in runs.read_metrics(tmp_path / "rl") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2]
    is_structured = arm in (*STRUCTURED, "uniform", "adaptive")
    assert todo.arguments.attention == ("structured" if is_structured else "causal")

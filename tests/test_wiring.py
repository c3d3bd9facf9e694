"""Each setting of a training stage reaches what acts on it: what the stages hand to the loader and to TRL's
trainers, which do not come into being here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl import GRPOTrainer, SFTTrainer

from prl import config, rl, runs, sft, tiny
from prl.config import resolve
from prl.data import problems
from prl.decoding import ForkJoinDecoder, Limits
from prl.errors import UsageError
from prl.grammar import TAGS
from prl.model import Lora, load_model
from prl.prompts import render_prompt, render_response
from prl.structure import Tags
from prl.study import pipeline
from prl.trainer import resuming, setup
from prl.trainer.format_sampler import FormatSampler
from prl.trainer.rollouts import Rollouts
from prl.trainer.staging import Staging

ROWS = problems.generate("coldstart", 40, seed=3)

COMMON = {
    "seed": 11, "lora_r": 5, "lora_alpha": 7, "lora_dropout": 0.25, "lora_target_modules": ["q_proj"],
    "learning_rate": 2e-4, "tag_learning_rate": 0.03, "weight_decay": 0.2, "prompt_style": "sequential",
    "limit": 10, "eval_limit": 4,
}  # fmt: skip
"""Nothing is a default of prl, of TRL or of the recipe."""

SMALL = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_generations": 4}
"""RL on four problems a step."""


class Handed(Exception):
    """Ends a stage where its trainer would be made."""


Hand = Callable[..., SimpleNamespace]


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


@pytest.fixture(scope="module")
def model() -> tuple[Any, Any]:
    return load_model(tiny.NAME, lora=Lora(r=4), trainable=True)


@pytest.fixture
def hand(model: Any, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hand:
    """Runs a stage up to its trainer: `trainer`, what that is given, and `loaded`, what the loader was."""
    found = SimpleNamespace()

    def load(name: str, **given: Any) -> Any:
        found.loaded = {"name": name, **given}
        return model

    def refuse(trainer: Any, **given: Any) -> None:
        found.trainer = given
        raise Handed

    monkeypatch.setattr(setup, "load_model", load)
    monkeypatch.setattr(GRPOTrainer, "__init__", refuse)
    monkeypatch.setattr(SFTTrainer, "__init__", refuse)

    def run(command: str, **given: Any) -> SimpleNamespace:
        stage, small = (rl, SMALL) if command == "rl" else (sft, {})
        given = COMMON | small | {"dataset": data, "eval_dataset": data} | given
        settings = resolve(command, recipe="tiny", threads=1, output_dir=str(tmp_path / command), **given)
        with pytest.raises(Handed):
            stage.run(settings)
        return found

    return run


def callback(found: SimpleNamespace, kind: type) -> Any:
    (one,) = (each for each in found.trainer["callbacks"] if isinstance(each, kind))
    return one


@pytest.mark.parametrize("command", ["sft", "rl"])
def test_the_adapter_and_its_optimizer_are_as_asked(hand: Hand, command: str, model: Any) -> None:
    found = hand(command)
    assert found.loaded == {
        "name": "tiny", "attention": "causal", "path_opening": "none",
        "lora": Lora(5, 7, 0.25, ["q_proj"]), "trainable": True,
        "load_in_4bit": False, "dtype": torch.float32, "device": "cpu", "trust_remote_code": False,
        "seed": 11, "tags": "tokens" if command == "sft" else "text",
    }  # fmt: skip
    optimizer, scheduler = found.trainer["optimizers"]
    assert scheduler is None, "left to the trainer"
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (2e-4, 0.2),
        (0.03, 0.0),
    ]
    assert found.trainer["args"].seed == 11
    assert found.trainer["model"] is model[0]


@pytest.mark.parametrize("command", ["sft", "rl"])
def test_the_seed_draws_the_problems_and_the_style_renders_them(hand: Hand, command: str, model: Any) -> None:
    trainer = hand(command).trainer
    for split, limit in (("train_dataset", 10), ("eval_dataset", 4)):
        drawn = Random(11).sample(ROWS, limit)
        prompts = [render_prompt(row["problem"], "sequential") for row in drawn]
        if command == "rl":
            assert trainer[split]["prompt"] == prompts
            assert trainer[split]["answer"] == [row["answer"] for row in drawn]
        else:
            whole = [
                prompt + render_response(row["trace"]) for prompt, row in zip(prompts, drawn, strict=True)
            ]
            assert [model[1].decode(ids) for ids in trainer[split]["input_ids"]] == whole


def test_without_a_set_of_its_own_an_evaluation_takes_the_last_rows(hand: Hand) -> None:
    for limit, held_out in ((3, 3), (None, 4)):
        trainer = hand("sft", eval_dataset=None, eval_limit=limit, limit=40, max_length=1000).trainer
        assert (len(trainer["train_dataset"]), len(trainer["eval_dataset"])) == (40 - held_out, held_out)


@pytest.mark.parametrize("paths", ["2", "auto"])
def test_the_loss_is_on_what_decoding_with_so_many_paths_samples(
    hand: Hand, model: Any, monkeypatch: pytest.MonkeyPatch, paths: str
) -> None:
    tags = Tags.of(model[1])
    monkeypatch.setattr(sft, "attached_structure", lambda model: tags)
    trainer = hand("sft", limit=40, paths=paths).trainer
    for split in ("train_dataset", "eval_dataset"):
        learned = {token for labels in trainer[split]["labels"] for token in labels}
        assert tags.parallel in learned
        assert (tags.end_parallel in learned) == (paths == "auto"), "who says that a block ends"


def test_the_curriculum_and_the_rollouts_are_as_asked(hand: Hand) -> None:
    found = hand(
        "rl", sampling="adaptive", band=[0.3, 0.7], max_completion_length=90, paths=3, max_paths=5,
        max_blocks=2, max_path_length=33, rollout_batch_size=6,
    )  # fmt: skip
    staging, rollouts = callback(found, Staging), callback(found, Rollouts)
    assert found.trainer["rollout_func"] is rollouts
    assert (rollouts.limits, rollouts.batch_size) == (Limits(90, 3, 5, 2, 33, "none"), 6)
    assert staging.curriculum.state()["of"] == {
        "stages": ["rl"], "problems": [10], "seed": 11, "group_size": 4, "band": [0.3, 0.7],
    }  # fmt: skip
    assert [row["problem"] for row in staging.table] == found.trainer["train_dataset"]["problem"]


def test_rewards_come_in_their_order_and_know_what_they_need_of_the_run(hand: Hand, model: Any) -> None:
    """TRL weighs them by their places."""
    names = ["overlong", "format", "efficiency", "alternating", "accuracy"]
    found = hand(
        "rl", rewards=names, reward_weights=[1.0, 2.0, 3.0, 4.0, 5.0], max_completion_length=90,
        overlong_buffer=40, alternate=["tiered:1", "bonus:2"], alternate_window=3,
    )  # fmt: skip
    tokenizer, rewards = model[1], found.trainer["reward_funcs"]
    assert [reward.__name__ for reward in rewards] == [f"{name}_reward" for name in names]
    assert found.trainer["args"].reward_weights == [1.0, 2.0, 3.0, 4.0, 5.0]
    overlong, formed, efficiency, alternating, _ = rewards
    batch = {"completions": ["7"], "completion_ids": [range(70)], "answer": ["7"], "problem": ["?"]}
    assert overlong(**batch, log_metric=lambda name, value: None) == pytest.approx([-0.5]), "50 to 90 tokens"
    eos = tokenizer.eos_token_id
    assert formed(["7"] * 2, completion_ids=[[eos], [eos, 5]]) == [1.0, 0.0]
    assert efficiency.tag_ids == tokenizer.convert_tokens_to_ids(list(TAGS))
    assert alternating.pattern == (("tiered", 1), ("bonus", 2))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings of the runs that a pipeline makes, none of which begins."""
    found: list[Any] = []
    for stage in (pipeline.sft, pipeline.rl):
        monkeypatch.setattr(stage, "run", lambda settings, **doors: found.append(settings))
    return found


def test_a_cold_start_among_the_stages_is_made_as_the_run_is(tmp_path: Path, made: list[Any]) -> None:
    stages = [{"name": "cold-start"}, {"name": "rl-general"}]
    given = {"seed": 11, "attention": "structured", "prompt_style": "sequential", "dtype": "bfloat16"}
    pipeline.run(
        resolve("rl", recipe="tiny", threads=1, output_dir=str(tmp_path / "all"), stages=stages, **given)
    )
    cold, skill = made
    assert cold.output_dir == str(tmp_path / "all-cold-start") == skill.arguments.model_name_or_path
    assert (cold.command, cold.recipe, cold.trainer.seed, cold.arguments.model_name_or_path) == (
        "sft", "tiny", 11, "tiny",
    )  # fmt: skip
    assert [json.loads(stage) for stage in skill.arguments.stages] == stages[1:]
    for settings in made:
        arguments = settings.arguments
        assert (arguments.attention, arguments.prompt_style) == ("structured", "sequential")
        assert (arguments.dtype, arguments.device, arguments.threads) == ("bfloat16", "cpu", "1")


def test_flags_about_the_adapter_and_its_paths_are_the_cold_starts_too(
    tmp_path: Path, made: list[Any]
) -> None:
    words = (
        "--recipe tiny --threads 1 --attention structured --path_opening number --paths 3 --lora_r 32 "
        "--lora_alpha 16 --lora_dropout 0.1 --lora_target_modules q_proj v_proj --no_load_in_4bit "
        "--on_bad_rows skip --learning_rate 1e-6 --max_steps 5"
    )
    stages = ["--stages", '{"name": "cold-start"}', '{"name": "rl-general"}']
    asked = config.parse("rl", [*words.split(), *stages, "--output_dir", str(tmp_path / "all")])
    pipeline.run(asked)
    cold, skill = made
    for settings in made:
        arguments = settings.arguments
        assert (arguments.path_opening, arguments.paths) == ("number", "3")
        assert (arguments.lora_r, arguments.lora_alpha, arguments.lora_dropout) == (32, 16, 0.1)
        assert arguments.lora_target_modules == ["q_proj", "v_proj"]
        assert (arguments.load_in_4bit, arguments.on_bad_rows) == (False, "skip")
    assert {given.key for given in cold.given} >= {*pipeline.HANDED_ON}
    assert (cold.trainer.learning_rate, cold.trainer.max_steps) == (5e-3, 300), "its own"
    assert (skill.trainer.learning_rate, skill.trainer.max_steps) == (1e-6, 5)


def test_a_finished_cold_start_is_kept_only_where_the_same_is_asked_for(
    tmp_path: Path, made: list[Any]
) -> None:
    folder, stages = tmp_path / "all-cold-start", [{"name": "cold-start"}, {"name": "rl-general"}]

    def run(**given: Any) -> list[Any]:
        """What is trained."""
        made.clear()
        given = {"model_name_or_path": "tiny", "output_dir": str(tmp_path / "all"), "stages": stages} | given
        pipeline.run(config.resolve("rl", recipe="tiny", threads=1, **given))
        return [*made]

    cold, _ = run()
    inputs = {"model": resuming.of_model("tiny")}
    with runs.open_run(folder, command="sft", config=cold.as_dict(), inputs=inputs) as opened:
        opened.finish()
    for same in ({}, {"resume": True}, {"learning_rate": 1e-6}):
        (skill,) = run(**same)
        assert skill.command == "rl"
        assert skill.chosen["cold start"] == f"{folder} is kept"
    asked = {"seed": 7, "model_name_or_path": "tiny-search", "lora_r": 32}
    for resume in (False, True):
        with pytest.raises(UsageError) as error:
            run(resume=resume, **asked)
        assert made == []
        assert str(error.value) == (
            f"{folder} is a finished cold start, made otherwise (lora_r 64, now 32; seed 42, now 7; model is "
            "another (model_name_or_path tiny, now tiny-search)): ask for the same, choose another "
            "--output_dir, or make it and the RL anew with --overwrite_output_dir"
        )
    assert [each.command for each in run(overwrite_output_dir=True, **asked)] == ["sft", "rl"]
    with pytest.raises(UsageError, match=r"bfloat16.*, take it as it is with --resume, choose"):
        run(dtype="bfloat16")
    (skill,) = run(dtype="bfloat16", resume=True)
    assert skill.chosen["cold start"].startswith(f"{folder} is kept, made otherwise (bf16 ")


def test_responses_to_held_out_problems_are_sampled_by_the_seed(hand: Hand, model: Any) -> None:
    found = hand("sft", sample_count=3, paths="3", max_length=300, per_device_eval_batch_size=2)
    sampler = callback(found, FormatSampler)
    assert (sampler.limits, sampler.batch_size, sampler.seed) == (Limits(300, 3, path_opening="none"), 2, 11)
    sampler.limits = limits = Limits(8)
    kept: dict[str, Any] = {}
    sampler.folder = SimpleNamespace(
        log_metrics=lambda step, metrics: kept.update(metrics=metrics, step=step),
        log_samples=lambda step, rows: kept.update(rows=rows),
    )
    state = SimpleNamespace(global_step=5, is_world_process_zero=True)
    sampler.on_evaluate(None, state, None, model=model[0])
    drawn = Random(11).sample(ROWS, 4)[:3]
    answers = ForkJoinDecoder(*model, limits=limits).generate(
        [render_prompt(row["problem"], "sequential") for row in drawn], seed=11
    )
    assert [row["problem"] for row in kept["rows"]] == [row["problem"] for row in drawn]
    assert [row["token_ids"] for row in kept["rows"]] == [each.token_ids for (each,) in answers]
    assert kept["step"] == 5
    assert kept["metrics"] == {"eval_format_valid": 0, "eval_parallel_ratio": 0}, "all are cut off"

"""Settings from recipes and flags: precedence, strictness, and what is chosen for the user."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from prl import config
from prl.config import parse, resolve
from prl.errors import UsageError
from prl.machine import hardware
from prl.machine.hardware import Machine
from prl.rewards import REWARDS
from prl.settings import arguments, evaluating, flags, traces, training
from prl.settings.trainer_flags import trainer_class

AMPERE = Machine("cuda", "some card", 7.8, 7.2, has_bfloat16=True)
TURING = Machine("cuda", "a T4", 14.7, 14.5, has_bfloat16=False)
NO_GPU = Machine("cpu", "CPU", note="no CUDA GPU")


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    def pretend(here: Machine) -> None:
        monkeypatch.setattr(hardware, "this_machine", lambda: here)
        monkeypatch.setattr(
            "transformers.training_args.is_torch_bf16_gpu_available", lambda: here.has_bfloat16
        )

    pretend(NO_GPU)
    return pretend


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    def write(text: str) -> str:
        path = tmp_path / "own.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def faults(caught: pytest.ExceptionInfo[UsageError]) -> list[str]:
    first, *others = str(caught.value).split("\n  ")
    return others or [first.removesuffix("; `prl rl --help` lists the flags")]


# --- Precedence


def test_later_layers_win(recipe: Any) -> None:
    name = recipe(
        "lora_r: 4\nlearning_rate: 1e-3\nrl:\n  learning_rate: 2e-3\n  beta: 0.5\nsft:\n  max_steps: 3\n"
    )
    settings = parse("rl", ["--recipe", name, "--beta", "0.1", "--threads", "1"])
    assert settings.trainer.epsilon == 0.2, "TRL's default"
    assert settings.trainer.logging_steps == 1, "prl's default: TRL says 10"
    assert settings.arguments.lora_r == 4, "a common key of the recipe"
    assert settings.trainer.learning_rate == 2e-3, "the section beats the common key"
    assert settings.trainer.beta == 0.1, "the flag beats the section"
    sft = resolve("sft", recipe=name, threads=1).trainer
    assert (sft.learning_rate, sft.max_steps) == (1e-3, 3), "the other section is not this command's"


def test_last_of_two_equal_flags_wins() -> None:
    assert parse("data", ["--output_dir", "a", "--output-dir=b"]).arguments.output_dir == "b"


def test_keyword_and_flag_are_the_same() -> None:
    words = ["--recipe", "tiny", "--max_steps=-1", "--rewards", "accuracy", "format", "--threads", "1"]
    keywords: dict[str, Any] = {"max_steps": -1, "rewards": ["accuracy", "format"], "threads": 1}
    assert parse("rl", words).as_dict() == resolve("rl", recipe="tiny", **keywords).as_dict()


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--learning_rate", "1e-5"], "learning_rate", 1e-5),
        (["--learning-rate=1e-5"], "learning_rate", 1e-5),
        (["--entropy_coef=-1e-3"], "entropy_coef", -1e-3),
        (["--max_steps", "-1"], "max_steps", -1),
        (["--bf16"], "bf16", True),
        (["--mask_truncated_completions", "no"], "mask_truncated_completions", False),
        (["--log_completions"], "log_completions", True),
        (["--no_shuffle_dataset", "--shuffle_dataset", "true"], "shuffle_dataset", True),
        (["--no_dataloader_pin_memory"], "dataloader_pin_memory", False),
        (["--no-disable-dropout"], "disable_dropout", False),
        (["--min_p", "null"], "min_p", None),
        (["--lr_scheduler_kwargs", '{"num_cycles": 2}'], "lr_scheduler_kwargs", {"num_cycles": 2}),
        (["--reward_weights", "1", "0.5"], "reward_weights", [1.0, 0.5]),
        (["--report_to", "none"], "report_to", []),
        (["--report_to", "tensorboard", "trackio"], "report_to", ["tensorboard", "trackio"]),
        (["--run_name=--odd"], "run_name", "--odd"),
    ],
)
def test_flags_are_read_as_trl_reads_them(words: list[str], name: str, value: Any) -> None:
    assert getattr(parse("rl", [*words, "--recipe", "tiny", "--threads", "1"]).trainer, name) == value


# --- Strictness


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--learnig_rate", "1"], "--learnig_rate: unknown setting; nearest: learning_rate"),
        (["--dataset_name", "x"], "--dataset_name: unknown setting; nearest: dataset"),
        (["--config", "x"], "--config: unknown setting; nearest: recipe"),
        (["--qqqq", "x"], "--qqqq: unknown setting"),
        (["--max_steps", "ten"], "--max_steps: invalid int value: 'ten'"),
        (["--max_steps", "1.5"], "--max_steps: invalid int value: '1.5'"),
        (["--max_steps"], "--max_steps: expected one argument"),
        (["--max_steps", "1", "2"], "'2': belongs to no flag"),
        (["stray"], "'stray': belongs to no flag"),
        (["--learning_rate", "nan"], "--learning_rate: nan is not a finite number"),
        (["--learning_rate", "-inf"], "--learning_rate: -inf is not a finite number"),
        (["--reward_weights", "nan", "1"], "--reward_weights: nan is not a finite number"),
        (["--reward_weights", "1", "inf"], "--reward_weights: inf is not a finite number"),
        (["--seed", "null"], "--seed: null is no value of it; leave it out to keep the default"),
        (["--lora_r", "0"], "--lora_r: 0 must be 1 or more"),
        (["--lora_dropout", "1"], "--lora_dropout: 1.0 must be at least 0 and less than 1"),
        (["--temperature", "0"], "--temperature: 0.0 must be greater than 0"),
        (["--limit", "0"], "--limit: 0 must be 1 or more"),
        (["--top_k", "-1"], "--top_k: -1 must be 0 or more"),
        (["--min_p", "1"], "--min_p: 1.0 must be at least 0 and less than 1"),
        (["--paths", "1"], "--paths: '1' must be a number from 2, or auto"),
        (["--paths", "two"], "--paths: 'two' must be a number from 2, or auto"),
        (["--max_paths", "1"], "--max_paths: 1 must be 2 or more"),
        (["--max_blocks=-1"], "--max_blocks: -1 must be 0 or more"),
        (["--max_path_length", "0"], "--max_path_length: 0 must be 1 or more"),
        (["--threads", "many"], "--threads: 'many' must be a number or auto"),
        (["--threads", "0"], "--threads: '0' must be a number or auto"),
        (
            ["--rewards", "acuracy"],
            f"--rewards: ['acuracy'] must be of {', '.join(REWARDS)} or PATH.py:NAME, each once; "
            "nearest: accuracy",
        ),
        (["--reward_weights", "1"], "reward_weights holds 1 numbers for the 2 rewards parallel, format"),
    ],
)
def test_wrong_flag_is_one_line(words: list[str], fault: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse("rl", ["--recipe", "tiny", *words])
    assert faults(caught) == [fault]


def test_misspelt_choice_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"--dtype: invalid choice: 'bfloat'.*; nearest: bfloat16"):
        parse("rl", ["--dtype", "bfloat"])
    with pytest.raises(UsageError, match=r"--attention: invalid choice: 'struct'.*; nearest: structured"):
        parse("eval", ["--attention", "struct"])


def test_all_faults_come_at_once_with_their_places(recipe: Any) -> None:
    name = recipe(
        "lora_alfa: 4\n"
        "sft:\n  learnig_rate: 1e-4\n"
        "rl:\n  max_steps: ten\n  num_generations: [2, 4]\n  lora_r: 0\n  seed: null\n  recipe: tiny\n"
        "evl:\n  samples: 4\n"
        "load_in_4bit: []\n"
    )
    with pytest.raises(
        UsageError, match=r"^10 faults in the settings; `prl rl --help` lists the flags"
    ) as caught:
        parse("rl", ["--recipe", name, "--beta", "big"])
    assert faults(caught) == [
        "--beta: invalid float value: 'big'",
        "own.yaml line 1: lora_alfa: unknown setting; nearest: lora_alpha",
        "own.yaml line 3, section sft: learnig_rate: unknown setting; nearest: learning_rate",
        "own.yaml line 5, section rl: max_steps: invalid int value: 'ten'",
        "own.yaml line 6, section rl: num_generations: takes one value, not 2",
        "own.yaml line 7, section rl: lora_r: 0 must be 1 or more",
        "own.yaml line 8, section rl: seed: null is no value of it; leave it out to keep the default",
        "own.yaml line 9, section rl: recipe: unknown setting",
        "own.yaml line 10: evl: unknown setting; nearest: eval",
        "own.yaml line 12: load_in_4bit: an empty list is no value of it; leave it out to keep the default",
    ]


def test_recipe_without_the_section_is_refused(recipe: Any) -> None:
    name = recipe("lora_r: 4\nsft:\n  max_steps: 3\n")
    assert config.validate(name) == ["sft"]
    with pytest.raises(UsageError, match="holds no section rl; add it, or name another recipe"):
        resolve("rl", recipe=name)


def test_flat_yaml_of_trl_is_a_recipe(recipe: Any) -> None:
    name = recipe("learning_rate: 2.0e-4\nmax_steps: 5\neval_strategy: no\nlr_scheduler_type: cosine\n")
    trainer = resolve("sft", recipe=name, threads=1).trainer
    assert (trainer.learning_rate, trainer.max_steps, trainer.eval_strategy) == (2e-4, 5, "no")


def test_what_trl_refuses_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"TRL refuses these settings: generation_batch_size \(12\)"):
        resolve("rl", recipe="tiny", threads=1, per_device_train_batch_size=3)


def test_unknown_command_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown command 'evaluate'; nearest: eval"):
        resolve("evaluate")


def test_merge_names_all_that_is_missing() -> None:
    with pytest.raises(UsageError) as caught:
        parse("merge", [])
    assert faults(caught) == ["--model_name_or_path is missing", "--output_dir is missing"]


def test_nothing_to_decode_is_refused() -> None:
    assert resolve("eval", recipe="tiny", threads=1, samples=0).arguments.samples == 0
    with pytest.raises(UsageError, match="samples 0 without greedy"):
        resolve("eval", recipe="tiny", samples=0, greedy=False)
    for greedy in ("true", "false"):
        with pytest.raises(
            UsageError, match=r"samples 0 answers nothing, also with --greedy; take 1 or more"
        ):
            parse("generate", ["2 + 2", "--recipe", "tiny", "--samples", "0", "--greedy", greedy])
    with pytest.raises(UsageError, match=r"samples 0 leaves nothing to prove the model by; take 1 or more;"):
        parse("merge", ["runs/x", "--output_dir", "m", "--samples", "0"])


def test_problem_stands_before_the_flags_or_behind_two_dashes() -> None:
    def problem(*words: str) -> str | None:
        return parse("generate", [*words, "--recipe", "tiny", "--threads", "1"]).arguments.problem

    assert problem("What is 2+2?", "--samples", "2") == "What is 2+2?"
    assert problem("2", "+", "2") == "2 + 2"
    assert problem() is None
    given = parse("generate", ["--recipe", "tiny", "--threads", "1", "--", "--5 + 7?"])
    assert given.arguments.problem == "--5 + 7?"


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    [
        ("show", ["--wrong", "runs/x"], {"source": "runs/x", "wrong": True}),
        ("show", ["--wrong", "true", "runs/x"], {"source": "runs/x", "wrong": True}),
        ("show", ["--right", "false", "--wrong", "runs/x"], {"source": "runs/x", "right": False}),
        ("merge", ["--trust_remote_code", "a", "--output_dir", "b"], {"model_name_or_path": "a"}),
        ("generate", ["--greedy", "Compute 1 + 2"], {"problem": "Compute 1 + 2", "greedy": True}),
        ("generate", ["--no_greedy", "Add 1", "+", "2"], {"problem": "Add 1 + 2", "greedy": False}),
        ("report", ["--serve", "a", "b"], {"runs": ["a", "b"], "serve": True}),
        ("report", ["a", "--serve", "b"], {"runs": ["a", "b"], "serve": True}),
    ],
)
def test_the_word_without_a_flag_may_stand_behind_a_switch(
    command: str, words: list[str], expected: dict[str, Any]
) -> None:
    common = ["--recipe", "tiny", "--threads", "1"] if command == "generate" else []
    given = parse(command, [*words, *common]).arguments
    assert {name: getattr(given, name) for name in expected} == expected


@pytest.mark.parametrize(
    "words",
    [
        ["runs/x", "--wrong", "runs/y"],
        ["--source", "runs/x", "--wrong", "runs/y"],
        ["--wrong", "a", "--right", "b"],
    ],
)
def test_a_switch_takes_no_word_where_another_stands_without_a_flag(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse("show", words)


def test_a_keyword_that_is_no_truth_is_wrong() -> None:
    with pytest.raises(UsageError, match="wrong: Truthy value expected: got runs/x"):
        resolve("show", wrong="runs/x")


def test_stages_may_stand_behind_a_switch_of_theirs() -> None:
    settings, passed = config.parse_doctor(["--use_cpu", "sft", "rl", "--memory", "8"])
    assert settings.arguments.stage == "sft rl"
    assert [(given.key, given.values) for given in passed] == [("use_cpu", [])]


def test_any_number_of_folders_is_compared_and_some_against_others() -> None:
    given = parse("compare", ["a", "b", "c", "--bootstrap", "10"]).arguments
    assert (given.runs, given.against, given.bootstrap) == (["a", "b", "c"], [], 10)
    assert (
        parse("compare", ["a", "b", "--against", "c", "d"]).arguments
        == resolve("compare", runs=["a", "b"], against=["c", "d"]).arguments
    )
    with pytest.raises(UsageError, match="--runs is missing"):
        parse("compare", [])


# --- What is chosen


@pytest.mark.parametrize(
    ("here", "words", "recipe_name", "why"),
    [
        (NO_GPU, [], "tiny", "tiny: no CUDA GPU"),
        (AMPERE, [], "8gb", "8gb: some card has 7.2 of 7.8 GiB free; this recipe needs 6.8"),
        (AMPERE, ["--device", "cpu"], "tiny", "tiny: the CPU was asked for"),
        (AMPERE, ["--use_cpu"], "tiny", "tiny: the CPU was asked for"),
        (AMPERE, ["--model", "tiny"], "tiny", "tiny: it goes with the model that ships"),
        (AMPERE, ["--model", "Qwen/Qwen3-0.6B"], "8gb", "8gb: some card has 7.2 of 7.8 GiB free"),
        (
            NO_GPU,
            ["--model", "owner/name"],
            "6gb",
            "6gb: no CUDA GPU; the settings of tiny suit only the model",
        ),
    ],
)
def test_recipe_is_chosen_with_its_reason(
    on: Any, here: Machine, words: list[str], recipe_name: str, why: str
) -> None:
    on(here)
    settings = parse("rl", [*words, "--threads", "1"])
    assert settings.recipe == settings.arguments.recipe == recipe_name
    assert settings.chosen["recipe"].startswith(why)


def test_named_recipe_is_not_reported_as_chosen() -> None:
    assert "recipe" not in resolve("rl", recipe="tiny", threads=1).chosen


@pytest.mark.parametrize(
    ("here", "given", "dtype", "bf16", "fp16"),
    [
        (AMPERE, {}, "bfloat16", True, False),
        (TURING, {}, "float16", False, True),
        (NO_GPU, {}, "float32", False, False),
        (AMPERE, {"dtype": "float32"}, "float32", False, False),
        (AMPERE, {"dtype": "float32", "bf16": True}, "float32", True, False),
        (AMPERE, {"bf16": False}, "float32", False, False),
        (AMPERE, {"fp16": True}, "float16", False, True),
        (NO_GPU, {"bf16": True}, "bfloat16", True, False),
        (NO_GPU, {"dtype": "bfloat16"}, "bfloat16", True, False),
        (AMPERE, {"device": "cpu"}, "float32", False, False),
    ],
)
def test_precision_follows_the_device(
    on: Any, here: Machine, given: dict[str, Any], dtype: str, bf16: bool, fp16: bool
) -> None:
    on(here)
    settings = resolve("sft", recipe="8gb", threads=1, **given)
    assert settings.arguments.dtype == dtype
    assert (settings.trainer.bf16, settings.trainer.fp16) == (bf16, fp16)
    assert ("dtype" in settings.chosen) == ("dtype" not in given)


def test_four_bits_on_a_cpu_only_on_request(on: Any) -> None:
    settings = resolve("sft", recipe="8gb", threads=1)
    assert not settings.arguments.load_in_4bit
    assert settings.chosen["load_in_4bit"].startswith("off")
    assert resolve("sft", recipe="8gb", threads=1, load_in_4bit=True).arguments.load_in_4bit


@pytest.fixture
def adapter(tmp_path: Path) -> Any:
    """A run with an adapter, as far as the settings look at it."""

    def write(attention: str | None) -> str:
        folder = tmp_path / "run" / "adapter"
        folder.mkdir(parents=True)
        (tmp_path / "run" / "environment.json").write_text("{}")
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "tiny"}')
        (folder / "adapter_model.safetensors").touch()
        if attention:
            (folder / "prl.json").write_text(f'{{"attention": "{attention}"}}')
        return str(tmp_path / "run")

    return write


@pytest.mark.parametrize(
    ("written", "attention"), [("structured", "structured"), ("causal", "causal"), (None, "causal")]
)
@pytest.mark.parametrize("command", ["sft", "rl", "eval", "generate"])
def test_attention_is_what_the_adapter_was_trained_with(
    adapter: Any, command: str, written: str | None, attention: str
) -> None:
    model = adapter(written)
    for given in ({}, {"attention": "auto"}):
        settings = resolve(command, recipe="tiny", threads=1, model_name_or_path=model, **given)
        assert settings.arguments.attention == attention
        assert settings.chosen["attention"] == f"{attention}: {model} was trained with it"


@pytest.mark.parametrize("command", ["sft", "rl"])
def test_an_adapter_that_goes_on_keeps_its_shape_and_the_settings_say_so(adapter: Any, command: str) -> None:
    model = adapter("causal")
    shape = '{"base_model_name_or_path": "tiny", "r": 8, "lora_alpha": 24, "lora_dropout": 0.1}'
    (Path(model) / "adapter" / "adapter_config.json").write_text(shape)
    settings = resolve(command, recipe="tiny", threads=1, model_name_or_path=model)
    given = settings.arguments
    assert (given.lora_r, given.lora_alpha, given.lora_dropout) == (8, 24, 0.1)
    assert not {"lora_r", "lora_alpha", "lora_dropout"} & settings.chosen.keys(), "the recipe's go unsaid"
    settings = resolve(command, recipe="tiny", threads=1, model_name_or_path=model, lora_r=32, lora_alpha=24)
    assert settings.arguments.lora_r == 8
    assert settings.chosen["lora_r"] == f"8: the adapter of {model} goes on as it is"
    assert "lora_alpha" not in settings.chosen


@pytest.mark.parametrize(
    ("held", "recorded", "same", "other"),
    [
        ('["v_proj", "q_proj"]', ["q_proj", "v_proj"], ["v_proj", "q_proj"], ["k_proj"]),
        ('"layers.0.*"', ["layers.0.*"], ["layers.0.*"], ["all-linear"]),
    ],
)
def test_an_adapter_that_goes_on_keeps_its_layers_and_the_settings_say_so(
    adapter: Any, held: str, recorded: list[str], same: list[str], other: list[str]
) -> None:
    model = adapter("causal")
    shape = f'{{"base_model_name_or_path": "tiny", "target_modules": {held}}}'
    (Path(model) / "adapter" / "adapter_config.json").write_text(shape)
    for given in ({}, {"lora_target_modules": same}, {"lora_target_modules": other}):
        settings = resolve("sft", recipe="tiny", threads=1, model_name_or_path=model, **given)
        assert settings.arguments.lora_target_modules == recorded
        told = settings.chosen.get("lora_target_modules")
        expected = f"{' '.join(recorded)}: the adapter of {model} goes on as it is"
        assert told == (expected if other in given.values() else None)


def test_attention_of_a_base_is_causal_unless_asked(adapter: Any, recipe: Any) -> None:
    settings = resolve("sft", recipe="tiny", threads=1)
    assert settings.arguments.attention == "causal"
    assert settings.chosen["attention"].startswith("causal: tiny is a base model")
    settings = resolve("sft", recipe="tiny", threads=1, attention="structured")
    assert settings.arguments.attention == "structured"
    assert "attention" not in settings.chosen
    own = recipe("attention: structured\nmodel_name_or_path: tiny\n")
    assert resolve("sft", recipe=own, threads=1).arguments.attention == "structured"
    # As with the prompt style, the run beats the recipe, and a flag beats both (loading refuses it).
    model = adapter("causal")
    assert resolve("rl", recipe=own, threads=1, model_name_or_path=model).arguments.attention == "causal"
    settings = resolve("rl", recipe=own, threads=1, model_name_or_path=model, attention="structured")
    assert settings.arguments.attention == "structured"


def test_packing_that_cuts_traces_is_refused_with_structured_attention() -> None:
    cut = {"recipe": "tiny", "threads": 1, "packing": True, "packing_strategy": "wrapped"}
    assert resolve("sft", **cut).trainer.packing
    assert resolve("sft", **(cut | {"packing_strategy": "bfd"}), attention="structured").trainer.packing
    with pytest.raises(UsageError, match=r"packing_strategy wrapped cuts traces anywhere.*; use bfd"):
        resolve("sft", **cut, attention="structured")


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_absent_device_is_refused(on: Any, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(hardware, "has_mps", lambda: False)
    with pytest.raises(UsageError, match=f"device {device}: .*; --device cpu computes without it"):
        resolve("eval", recipe="8gb", device=device)


def test_the_cpu_and_another_device_together_are_refused(on: Any, recipe: Any) -> None:
    on(AMPERE)
    words = ["--recipe", "tiny", "--threads", "1", "--use_cpu", "--device"]
    with pytest.raises(UsageError, match=r"^device cuda: --use_cpu computes on the CPU; leave it out, or "):
        parse("sft", [*words, "cuda"])
    for device in ("cpu", "auto"):
        assert parse("sft", [*words, device]).arguments.device == "cpu"
    name = recipe("sft:\n  device: cuda\n")
    assert parse("sft", ["--recipe", name, "--threads", "1", "--use_cpu"]).arguments.device == "cpu"


def test_gradient_checkpointing_by_its_old_and_new_name(on: Any) -> None:
    on(AMPERE)
    assert resolve("sft", recipe="8gb", threads=1).trainer.activation_checkpointing
    for name in ("gradient_checkpointing", "activation_checkpointing"):
        trainer = resolve("sft", recipe="8gb", threads=1, **{name: False}).trainer
        assert trainer.activation_checkpointing is trainer.gradient_checkpointing is False


@pytest.mark.parametrize("said", ["gradient_checkpointing", "activation_checkpointing"])
@pytest.mark.parametrize("later", ["gradient_checkpointing", "activation_checkpointing"])
@pytest.mark.parametrize("on", [True, False])
def test_the_later_of_both_names_wins(tmp_path: Path, said: str, later: str, on: bool) -> None:
    (tmp_path / "first.yaml").write_text(f"sft:\n  {said}: {on}\n")
    (tmp_path / "second.yaml").write_text(f"sft:\n  {later}: {not on}\n")
    (tmp_path / "common.yaml").write_text(f"{said}: {on}\nsft:\n  {later}: {not on}\n")
    words = [
        ["--recipe", str(tmp_path / "first.yaml"), f"--{later}={not on}"],
        ["--recipe", f"{tmp_path / 'first.yaml'}+{tmp_path / 'second.yaml'}"],
        ["--recipe", str(tmp_path / "common.yaml")],
        ["--recipe", "tiny", f"--{said}={on}", f"--{later}={not on}"],
    ]
    for each in words:
        trainer = parse("sft", [*each, "--threads", "1"]).trainer
        assert trainer.activation_checkpointing is trainer.gradient_checkpointing is not on


def test_data_of_ones_own_drops_the_recipes_evaluation_data(recipe: Any) -> None:
    name = recipe("rl:\n  dataset: gsm8k\n  eval_dataset: gsm8k\n")
    assert resolve("rl", recipe=name, threads=1).arguments.eval_dataset == "gsm8k"
    settings = resolve("rl", recipe=name, threads=1, dataset="mine.jsonl")
    assert settings.arguments.eval_dataset is None
    assert settings.chosen["eval_dataset"].startswith("none: gsm8k")
    settings = resolve("rl", recipe=name, threads=1, dataset="mine.jsonl", eval_dataset="gsm8k")
    assert settings.arguments.eval_dataset == "gsm8k"


def test_thread_count_is_set_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        assert resolve("demo", threads=2).arguments.threads == "2"
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(hardware, "choose_threads", lambda: (1, "fastest"))
        settings = resolve("demo")
        assert settings.arguments.threads == "1"
        assert settings.chosen == {"threads": "1: fastest"}
    finally:
        torch.set_num_threads(before)


# --- A run's config.yaml


@pytest.mark.parametrize("command", ["sft", "rl", "eval", "generate"])
def test_recorded_settings_are_a_recipe_that_gives_them_again(tmp_path: Path, command: str) -> None:
    given = {"rl": {"rewards": ["accuracy", "format"], "reward_weights": [1.0, -0.5], "min_p": None}}
    settings = resolve(command, recipe="tiny", threads=1, seed=7, **given.get(command, {}))
    record = settings.as_dict()
    text = yaml.safe_dump(record)
    assert yaml.safe_load(text) == record, "plain types only"
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    again = resolve(command, recipe=str(path))
    assert again.as_dict()[command] == record[command]
    assert dataclasses.replace(again.arguments, recipe="tiny") == settings.arguments
    if settings.trainer:
        assert again.trainer.to_dict() == settings.trainer.to_dict()


def test_how_a_run_was_started_is_not_a_setting_of_it() -> None:
    record = resolve("rl", recipe="tiny", threads=1, resume=True).as_dict()
    assert {"resume", "overwrite_output_dir", "recipe"}.isdisjoint(record["rl"])


@pytest.mark.parametrize("part", ["", "adapter", "checkpoint-5"])
def test_next_stage_follows_the_run_that_its_model_comes_from(on: Any, tmp_path: Path, part: str) -> None:
    on(AMPERE)
    run = tmp_path / "sft"
    (run / part).mkdir(parents=True)
    record = resolve("sft", recipe="tiny", threads=1, prompt_style="sequential", paths="auto").as_dict()
    (run / "config.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    (run / "environment.json").write_text("{}")
    model = str(run / part)
    settings = resolve("rl", model_name_or_path=model, threads=1)
    assert settings.recipe == "tiny"
    assert settings.chosen["recipe"] == f"tiny: the run {model} was trained with it"
    assert settings.arguments.prompt_style == "sequential"
    assert settings.arguments.paths == "auto"
    for key, value in (("prompt_style", "sequential"), ("paths", "auto")):
        assert settings.chosen[key] == f"{value}: the run {model} was trained with it"
    flags = {"recipe": "8gb", "prompt_style": "bare", "paths": 3, "attention": "structured"}
    settings = resolve("rl", model_name_or_path=model, threads=1, **flags)
    assert (settings.recipe, settings.arguments.prompt_style, settings.arguments.paths) == (
        "8gb",
        "bare",
        "3",
    )
    assert {"recipe", "prompt_style", "paths"}.isdisjoint(settings.chosen), "nothing was chosen for the user"


@pytest.mark.parametrize(
    ("said", "most"), [("6", 6), (6, 6), ("1", 4), ("six", 4), ("\u0664.5", 4), ([6], 6), (None, 4)]
)
def test_the_most_paths_of_a_run_go_on(tmp_path: Path, said: Any, most: int) -> None:
    """A plan of six lines would lose two of them."""
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"command": "rl", "recipe": "tiny", "rl": {"max_paths": said}}), encoding="utf-8"
    )
    (tmp_path / "environment.json").write_text("{}")
    for command in ("rl", "eval", "generate"):
        settings = resolve(command, model_name_or_path=str(tmp_path), threads=1)
        assert settings.arguments.max_paths == most
        told = f"6: the run {tmp_path} was trained with it" if most == 6 else None
        assert settings.chosen.get("max_paths") == told
    assert resolve("eval", model_name_or_path=str(tmp_path), threads=1, max_paths=5).arguments.max_paths == 5
    assert resolve("sft", model_name_or_path=str(tmp_path), threads=1).recipe == "tiny", "which has none"


def test_a_run_that_may_not_be_looked_into_is_left_to_the_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    assert config._run_behind(str(tmp_path)) == {}


def test_run_whose_recipe_file_is_gone_gets_the_machines(on: Any, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("command: sft\nrecipe: gone.yaml\n", encoding="utf-8")
    (tmp_path / "environment.json").write_text("{}")
    settings = resolve("rl", model_name_or_path=str(tmp_path), threads=1)
    assert settings.recipe == "6gb"


# --- The tables


def test_every_field_has_its_help_and_every_help_its_field() -> None:
    names = {item.name for cls in arguments.COMMANDS.values() for item in dataclasses.fields(cls)}
    assert names == set(arguments.HELP)
    assert "95 %% intervals" in arguments.HELP["bootstrap"]


def test_the_help_of_a_flag_is_said_once() -> None:
    said = [
        (name, text)
        for module in (arguments, evaluating, flags, traces, training)
        for cls in vars(module).values()
        if isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls.__module__ == module.__name__
        for name in vars(cls).get("__annotations__", {})
        if (text := cls.__dataclass_fields__[name].metadata.get("help"))
    ]
    assert {name: text for name, text in said if text != arguments.HELP[name]}.keys() == {"recipe", "device"}
    assert len(said) == len(arguments.HELP) + 2, "but for those that take other values elsewhere"


def test_the_help_names_every_reward() -> None:
    assert arguments.HELP["rewards"].startswith(f"of {', '.join(REWARDS)} (`prl.rewards`")


@pytest.mark.parametrize("command", arguments.TRAINER_CONFIGS)
def test_no_field_is_declared_twice(command: str) -> None:
    own = {item.name for item in dataclasses.fields(arguments.COMMANDS[command])}
    trls = {item.name for item in dataclasses.fields(trainer_class(command))}
    assert own.isdisjoint(trls)


def test_import_is_light() -> None:
    heavy = "{'torch', 'transformers', 'trl', 'peft', 'datasets', 'numpy', 'yaml'}"
    code = f"import prl.config, prl.cli, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_import_sets_nothing_of_others() -> None:
    code = (
        "import logging, sys, warnings\n"
        "def state():\n"
        "    levels = {name: logging.getLogger(name).level for name in names}\n"
        "    return levels, len(logging.root.handlers), list(warnings.filters)\n"
        "names = [None, 'prl', 'transformers', 'trl', 'peft', 'datasets', 'torch', 'bitsandbytes']\n"
        "before = state()\n"
        "import prl, prl.rewards, prl.curriculum, prl.grammar, prl.analysis, prl.config, prl.cli\n"
        "assert state() == before, (state(), before)\n"
        "print(sorted({'torch', 'transformers', 'trl', 'peft', 'datasets', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize(
    "code",
    [
        "import prl.model",
        "import prl.trainer.rollouts; from prl import rl, sft",
        "from prl.config import parse; parse('data', [])",
    ],
)
def test_what_libraries_say_at_their_import_is_not_shown(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

"""Every flag of TRL's configs works, is refused before anything is loaded, or is told to have no effect."""

from __future__ import annotations

import dataclasses
import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
import trl
import yaml
from transformers import AutoConfig
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.training_args import OptimizerNames

from prl import rl, runs, sft
from prl.config import parse, resolve
from prl.errors import UsageError
from prl.runs import processes
from prl.runs.checkpoints import checkpoints
from prl.settings import trainer_flags
from prl.settings.arguments import RLArguments, SFTArguments
from prl.settings.clashes import LOGGERS, trainer_faults
from prl.settings.ranges import OF_TRAINER
from prl.settings.trainer_flags import trainer_defaults
from prl.trainer.training import check_router

COMMANDS = {"sft": trl.SFTConfig, "rl": trl.GRPOConfig}

WORKS = {
    "both": {
        "test_config.py: settled by prl": "output_dir use_cpu bf16 fp16 activation_checkpointing "
        "gradient_checkpointing gradient_checkpointing_kwargs",
        "test_wiring.py: reaches the loader, the optimizer or the sampler": "seed learning_rate weight_decay "
        "trust_remote_code",
        "here: try_schedule builds what they ask for": "optim optim_args adam_beta1 adam_beta2 adam_epsilon "
        "lr_scheduler_type lr_scheduler_kwargs warmup_steps",
        "here: other weights (slow)": "num_train_epochs max_steps per_device_train_batch_size "
        "gradient_accumulation_steps max_grad_norm pad_to_multiple_of shuffle_dataset loss_type",
        "here: the same weights, at another price (slow)": "activation_checkpointing_kwargs full_determinism "
        "torch_empty_cache_steps per_device_eval_batch_size dataloader_num_workers dataloader_pin_memory "
        "dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context debug",
        "here: other lines in the log (slow)": "logging_strategy logging_steps logging_first_step "
        "logging_nan_inf_filter skip_memory_metrics eval_strategy eval_steps eval_delay eval_on_start",
        "test_resuming.py, test_chaos.py: checkpoints": "save_strategy save_steps save_total_limit "
        "save_only_model load_best_model_at_end metric_for_best_model greater_is_better",
        "transformers' own, whatever trains": "report_to run_name project trackio_space_id trackio_bucket_id "
        "trackio_static_space_id log_level log_level_replica tf32",
        "test_processes.py: what torch is launched with": "ddp_find_unused_parameters ddp_bucket_cap_mb "
        "ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout",
        "here: refused on a model that is no mixture of experts": "router_aux_loss_coef",
    },
    "sft": {
        "test_sft.py: left out, or learned": "max_length",
        "test_structure.py: packed rows do not see each other": "packing packing_strategy padding_free "
        "eval_packing",
        "here: other weights (slow)": "label_smoothing_factor neftune_noise_alpha data_seed "
        "train_sampling_strategy",
        "here: the same weights, at another price (slow)": "dataset_num_proc average_tokens_across_devices",
        "here: other lines in the log (slow)": "include_num_input_tokens_seen",
        "here: refused but on a GPU": "activation_offloading",
    },
    "rl": {
        "test_wiring.py, test_rollouts.py: reaches the decoder": "temperature top_p top_k min_p "
        "max_completion_length",
        "test_rl.py, test_config.py": "num_generations reward_weights",
        "test_rollouts.py: agreement at whatever batch": "generation_batch_size steps_per_generation",
        "test_pipeline.py: the reference is the policy as it began": "beta use_bias_correction_kl",
        "here: other weights (slow)": "num_iterations epsilon epsilon_high delta sapo_temperature_neg "
        "sapo_temperature_pos vespo_k_pos vespo_lambda_pos vespo_k_neg vespo_lambda_neg "
        "importance_sampling_level multi_objective_aggregation scale_rewards mask_truncated_completions "
        "top_entropy_quantile entropy_coef use_adaptive_entropy entropy_coef_min entropy_coef_max "
        "entropy_coef_delta entropy_target off_policy_mask_threshold disable_dropout",
        "here: other lines in the log (slow)": "log_completions num_completions_to_print log_unique_prompts "
        "num_generations_eval",
        "TRL's own, told to be untried": "use_vllm vllm_mode vllm_model_impl vllm_enable_sleep_mode "
        "vllm_structured_outputs_regex vllm_server_base_url vllm_server_host vllm_server_port "
        "vllm_server_timeout vllm_group_port vllm_gpu_memory_utilization vllm_max_model_length "
        "vllm_tensor_parallel_size vllm_importance_sampling_correction vllm_importance_sampling_mode "
        "vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min vllm_importance_sampling_cap",
        "refused without vLLM": "repetition_penalty generation_kwargs",
    },
}
"""How it is known that the flag works, and which are known so."""


def fields(command: str) -> set[str]:
    return {item.name for item in dataclasses.fields(COMMANDS[command]) if item.init}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_of_trls_config_is_in_the_table_once(command: str) -> None:
    """Where TRL or transformers adds a field: find out what it does in prl, then sort it in."""
    tables = {
        "works": trainer_flags.by_flag(WORKS, command),
        "refused": trainer_flags.by_flag(trainer_flags.REFUSED, command),
        "told": trainer_flags.by_flag(trainer_flags.IDLE, command),
    }
    places: dict[str, list[str]] = {field: [] for field in fields(command)}
    for name, table in tables.items():
        for flag in table:
            if flag in places:
                places[flag].append(name)
    assert {flag: found for flag, found in places.items() if len(found) != 1} == {}


def test_no_table_names_what_trl_does_not_have() -> None:
    known = {part: fields(part) for part in COMMANDS} | {"both": fields("sft") | fields("rl")}
    for table in (WORKS, trainer_flags.REFUSED, trainer_flags.IDLE):
        for part, groups in table.items():
            assert {flag for flags in groups.values() for flag in flags.split()} <= known[part]
    own = {item.name for cls in (SFTArguments, RLArguments) for item in dataclasses.fields(cls)}
    for part, needs in trainer_flags.NEEDS.items():
        assert {flag for _, _, flags in needs for flag in flags.split()} <= known[part] | own
    assert OF_TRAINER.keys() - known["both"] == {"tag_learning_rate"}


def test_names_that_transformers_knows_are_the_ones_here() -> None:
    assert LOGGERS.keys() == INTEGRATION_TO_CALLBACK.keys()
    names = [item.value for item in OptimizerNames]
    parts = (*trainer_flags.OPTIM_ARGS, *trainer_flags.NO_EPSILON, *trainer_flags.OWN_GROUPS)
    assert [part for part in parts if not any(part in name for name in names)] == []


def other(value: Any) -> Any:
    """A value that `value` is not."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else "other"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_refused_flag_is_refused_with_the_reason_and_what_to_do(command: str) -> None:
    defaults = trainer_defaults(command)
    refused = {
        flag: why
        for flag, why in trainer_flags.by_flag(trainer_flags.REFUSED, command).items()
        if flag in defaults
    }
    base = {"device": "cpu", "attention": "causal"}
    for flag, why in refused.items():
        given = base | {flag: other(defaults[flag]) if flag != "completion_only_loss" else False}
        assert trainer_faults(command, given, defaults) == [f"{flag}: {why}"]
        assert trainer_faults(command, base | {flag: defaults[flag]}, defaults) == []
    every = base | {flag: other(defaults[flag]) for flag in refused if flag != "completion_only_loss"}
    assert len(trainer_faults(command, every, defaults)) == len(every) - len(base), "all at once"
    assert trainer_faults("sft", base | {"completion_only_loss": True}, trainer_defaults("sft")) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_each_flag_without_effect_is_told_where_it_was_given(command: str) -> None:
    defaults = trainer_defaults(command)
    for flag, why in trainer_flags.by_flag(trainer_flags.IDLE, command).items():
        if flag not in defaults:
            continue
        given = {"device": "cpu", "sampling": "uniform", flag: other(defaults[flag])}
        assert trainer_flags.told(command, given, defaults, [flag])[flag] == f"no effect: {why}"
        assert flag not in trainer_flags.told(command, given, defaults, [])
        same = given | {flag: defaults[flag]}
        assert flag not in trainer_flags.told(command, same, defaults, [flag])


@pytest.mark.parametrize(
    ("command", "flags", "without", "beside"),
    [
        ("sft", "num_train_epochs", {"max_steps": 5}, {"max_steps": -1}),
        ("sft", "eval_delay metric_for_best_model", {"eval_strategy": "no"}, {"eval_strategy": "epoch"}),
        ("rl", "eval_dataset eval_limit", {"eval_strategy": "no"}, {"eval_strategy": "epoch"}),
        ("sft", "eval_steps", {"eval_strategy": "epoch"}, {"eval_strategy": "steps"}),
        ("sft", "save_steps", {"save_strategy": "epoch"}, {"save_strategy": "steps"}),
        ("sft", "logging_steps", {"logging_strategy": "no"}, {"logging_strategy": "steps"}),
        ("rl", "greater_is_better", {}, {"metric_for_best_model": "reward"}),
        ("sft", "greater_is_better", {}, {"lr_scheduler_type": "reduce_lr_on_plateau"}),
        ("sft", "run_name", {"report_to": "none"}, {"report_to": "wandb"}),
        ("sft", "project trackio_space_id", {"report_to": "wandb"}, {"report_to": ["trackio"]}),
        (
            "rl",
            "activation_checkpointing_kwargs",
            {"activation_checkpointing": False},
            {"activation_checkpointing": True},
        ),
        ("sft", "optim_args", {"optim": "adamw_torch"}, {"optim": "sgd"}),
        ("sft", "adam_beta1 adam_beta2", {"optim": "sgd"}, {"optim": "lion_32bit"}),
        ("sft", "adam_epsilon", {"optim": "lion_32bit"}, {"optim": "adamw_torch"}),
        ("sft", "torch_empty_cache_steps", {"device": "cpu"}, {"device": "mps"}),
        ("sft", "packing_strategy", {}, {"packing": True}),
        ("sft", "label_smoothing_factor", {"loss_type": "dft"}, {"loss_type": "nll"}),
        ("rl", "vllm_mode vllm_importance_sampling_mode", {}, {"use_vllm": True}),
        ("rl", "use_bias_correction_kl", {"beta": 0.0}, {"beta": 0.1}),
        ("rl", "sapo_temperature_neg sapo_temperature_pos", {"loss_type": "dapo"}, {"loss_type": "sapo"}),
        ("rl", "vespo_k_pos vespo_lambda_neg", {"loss_type": "dapo"}, {"loss_type": "vespo"}),
        ("rl", "epsilon delta", {"loss_type": "cispo"}, {"loss_type": "dr_grpo"}),
        ("rl", "epsilon_high", {"loss_type": "sapo"}, {"loss_type": "cispo"}),
        ("rl", "entropy_coef_max entropy_target", {}, {"use_adaptive_entropy": True}),
        ("rl", "num_completions_to_print log_unique_prompts", {}, {"log_completions": True}),
        ("rl", "shuffle_dataset", {"sampling": "adaptive"}, {"sampling": "uniform"}),
        ("rl", "shuffle_dataset", {"levels": [1]}, {}),
        ("sft", "paths", {"attention": "causal"}, {"attention": "structured"}),
        ("sft", "eval_dataset_split", {}, {"eval_dataset": "arithmetic:easy"}),
        ("rl", "max_blocks max_path_length", {"attention": "causal"}, {"attention": "structured"}),
        ("rl", "max_paths", {"attention": "structured"}, {"attention": "structured", "paths": "auto"}),
        ("rl", "alternate alternate_window", {"rewards": ["accuracy"]}, {"rewards": ["alternating"]}),
        ("rl", "alternate", {}, {"stages": ['{"name": "a", "rewards": ["alternating"]}']}),
        ("rl", "overlong_buffer", {"rewards": ["accuracy"]}, {"rewards": ["overlong"]}),
        (
            "rl",
            "overlong_buffer",
            {"rewards": ["accuracy"], "alternate": ["overlong:10"]},
            {"rewards": ["alternating"], "alternate": ["accuracy:5", "overlong:5"]},
        ),
        ("rl", "band", {"sampling": "uniform"}, {"sampling": "adaptive"}),
        ("rl", "band", {}, {"stages": ['{"name": "a", "sampling": "adaptive"}']}),
        ("rl", "easy_dataset", {}, {"stages": ['{"name": "a", "dataset": "easy"}']}),
        ("rl", "shuffle_dataset", {"stages": ["{}"]}, {}),
    ],
)
def test_each_flag_that_needs_another_is_told_without_it(
    command: str, flags: str, without: dict[str, Any], beside: dict[str, Any]
) -> None:
    defaults = trainer_defaults(command)
    for flag in flags.split():
        given = {"device": "cpu", flag: other(defaults.get(flag))}
        text = trainer_flags.told(command, given | without, defaults, [flag])[flag]
        assert text.startswith("no effect: only with ")
        assert flag not in trainer_flags.told(command, given | beside, defaults, [flag])
        assert flag not in trainer_flags.told(command, given | without, defaults, [])


@pytest.mark.parametrize("command", ["eval", "generate"])
@pytest.mark.parametrize(
    ("words", "needs"),
    [
        (
            "--paths 3 --max_paths 6 --max_blocks 1 --max_path_length 9 --path_temperature 0.5 --join first",
            "--attention structured",
        ),
        ("--attention structured --max_paths 6", "--paths auto"),
        ("--attention structured --max_paths 6 --paths auto --join first --path_temperature 1 --top_k 1", ""),
        ("--temperature 0.5 --samples 2 --top_p 0.9", ""),
    ],
)
def test_those_who_ask_a_model_are_told_too(command: str, words: str, needs: str) -> None:
    flags = {word[2:] for word in words.split() if word.startswith("--")} - {"attention"}
    chosen = told(command, *words.split())
    expected = dict.fromkeys(flags, f"no effect: only with {needs}") if needs else {}
    assert {flag: why for flag, why in chosen.items() if why.startswith("no effect")} == expected


@pytest.mark.parametrize(
    ("words", "needs"),
    [("generate --greedy", "--greedy false"), ("eval --samples 0", "--samples above 0")],
)
def test_a_way_to_sample_is_told_where_nothing_is_sampled(words: str, needs: str) -> None:
    command, *rest = words.split()
    chosen = told(command, *rest, *["--temperature", "1", "--top_p", "0.9", "--top_k", "5", "--min_p", "0.1"])
    for flag in ("temperature", "top_p", "top_k", "min_p"):
        assert chosen[flag] == f"no effect: only with {needs}"
    assert "no effect" not in str(told(command, *rest))


def test_what_several_processes_need_is_told_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    given, defaults = {"device": "cpu", "ddp_timeout": 60}, trainer_defaults("sft")
    told = trainer_flags.told("sft", given, defaults, ["ddp_timeout"])
    assert told == {"ddp_timeout": "no effect: only with accelerate launch"}
    monkeypatch.setattr(processes, "launched", lambda: 2)
    assert trainer_flags.told("sft", given, defaults, ["ddp_timeout"]) == {}


def told(command: str, *words: str) -> dict[str, str]:
    return parse(command, ["--recipe", "tiny", "--threads", "1", *words]).chosen


def test_what_was_told_is_stored_in_the_run() -> None:
    chosen = resolve("sft", recipe="tiny", threads=1, do_train=True).as_dict()["chosen"]
    assert chosen["do_train"] == "no effect: the command is to train"


def test_only_what_the_user_wrote_is_told(tmp_path: Any) -> None:
    """tiny's recipe has eval_steps and max_steps; whoever leaves that to it hears nothing of them."""
    assert "eval_steps" not in told("sft", "--eval_strategy", "no")
    assert told("sft", "--num_train_epochs", "2")["num_train_epochs"] == "no effect: only with --max_steps -1"
    assert "num_train_epochs" not in told("sft", "--num_train_epochs", "2", "--max_steps", "-1")
    recipe = tmp_path / "own.yaml"
    recipe.write_text("sft:\n  max_steps: 3\n  do_eval: true\n")
    chosen = resolve("sft", recipe=str(recipe), threads=1).chosen
    assert chosen["do_eval"] == "no effect: --eval_strategy says when"
    assert told("sft", "--gradient_checkpointing_kwargs", '{"use_reentrant": true}')[
        "activation_checkpointing_kwargs"
    ] == ("no effect: only with --activation_checkpointing")


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_that_a_run_wrote_down_is_told(tmp_path: Any, command: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(resolve(command, recipe="tiny", threads=1).as_dict()))
    words = ["--recipe", str(config), "--threads", "1"]
    assert parse(command, words).chosen.keys() <= {"attention"}
    chosen = parse(command, [*words, "--do_train"]).chosen
    assert chosen["do_train"] == "no effect: the command is to train", "that was written now"


def test_checkpoints_that_cannot_be_resumed_are_told_at_the_start() -> None:
    assert told("rl", "--save_only_model")["save_only_model"] == "on: its checkpoints cannot be resumed"
    assert told("sft", "--train_sampling_strategy", "group_by_length")["train_sampling_strategy"] == (
        "group_by_length: resumed after its first epoch, a run sees its rows in another order"
    )


@pytest.mark.parametrize(
    ("command", "words", "line"),
    [
        ("sft", "--max_steps=-5", "--max_steps: -5 must be 1 or more, or -1 to go by num_train_epochs"),
        ("sft", "--max_steps 0", "--max_steps: 0 must be 1 or more, or -1 to go by num_train_epochs"),
        ("sft", "--learning_rate=-1", "--learning_rate: -1.0 must be 0 or more"),
        ("sft", "--num_train_epochs 0", "--num_train_epochs: 0.0 must be greater than 0"),
        ("sft", "--gradient_accumulation_steps=-1", "--gradient_accumulation_steps: -1 must be 1 or more"),
        ("sft", "--per_device_train_batch_size 0", "--per_device_train_batch_size: 0 must be 1 or more"),
        ("sft", "--save_total_limit=-1", "--save_total_limit: -1 must be 1 or more"),
        (
            "sft",
            "--logging_steps=-5",
            "--logging_steps: -5.0 must be a number of steps, or a share of all between 0 and 1",
        ),
        (
            "sft",
            "--eval_steps 2.5",
            "--eval_steps: 2.5 must be a number of steps, or a share of all between 0 and 1",
        ),
        ("sft", "--weight_decay=-1", "--weight_decay: -1.0 must be 0 or more"),
        ("sft", "--adam_beta1 2", "--adam_beta1: 2.0 must be at least 0 and less than 1"),
        ("sft", "--seed=-1", "--seed: -1 must be from 0 to 4294967295"),
        (
            "sft",
            "--lr_scheduler_kwargs {abc",
            "--lr_scheduler_kwargs: '{abc' must be a JSON object, such as {\"num_cycles\": 2}",
        ),
        (
            "sft",
            '--activation_checkpointing_kwargs {"selective":true}',
            "--activation_checkpointing_kwargs: '{\"selective\":true}' must be a JSON object of debug, "
            "determinism_check, early_stop, every_n_layers, offload, preserve_rng_state, use_reentrant",
        ),
        ("sft", "--pad_to_multiple_of 0", "--pad_to_multiple_of: '0' must be a number from 1, or auto"),
        (
            "rl",
            "--num_generations 1",
            "--num_generations: 1 must be 2 or more: one response has none to differ from",
        ),
        ("rl", "--num_generations_eval 0", "--num_generations_eval: 0 must be 1 or more"),
        ("rl", "--num_iterations 0", "--num_iterations: 0 must be 1 or more"),
        ("rl", "--beta=-0.1", "--beta: -0.1 must be 0 or more"),
        ("rl", "--epsilon=-1", "--epsilon: -1.0 must be 0 or more"),
        ("rl", "--top_entropy_quantile 2", "--top_entropy_quantile: 2.0 must be from 0 to 1"),
        (
            "rl",
            "--importance_sampling_level word",
            "--importance_sampling_level: 'word' must be token or sequence",
        ),
        ("rl", "--scale_rewards bogus", "--scale_rewards: 'bogus' must be group, batch or none"),
        (
            "rl",
            "--loss_type bogus",
            "loss_type: 'bogus' must be one of grpo, dr_grpo, dapo, bnpo, cispo, sapo, luspo, vespo",
        ),
        (
            "rl",
            "--loss_type gpro",
            "loss_type: 'gpro' must be one of grpo, dr_grpo, dapo, bnpo, cispo, sapo, luspo, vespo; "
            "nearest: grpo",
        ),
        (
            "rl",
            "--max_completion_length null",
            "max_completion_length: a response needs an end; give a number",
        ),
        (
            "rl",
            "--repetition_penalty 1.2",
            "repetition_penalty: 1.2 is not scored; leave it at 1",
        ),
        (
            "rl",
            '--generation_kwargs {"num_beams":2}',
            "generation_kwargs: it belongs to model.generate, which rollouts do without; leave it out",
        ),
        (
            "rl",
            "--eval_strategy steps",
            "eval_strategy: there is no set to evaluate on; add --eval_dataset, or leave it out",
        ),
        (
            "rl",
            "--eval_on_start",
            "eval_on_start: there is no set to evaluate on; add --eval_dataset, or leave it out",
        ),
        (
            "rl",
            "--save_strategy best --metric_for_best_model reward",
            "save_strategy best: evaluations say which is the best; add --eval_strategy steps",
        ),
        (
            "sft",
            "--save_strategy best",
            "save_strategy best: it is not said by what; add --metric_for_best_model loss",
        ),
        (
            "sft",
            "--load_best_model_at_end --eval_strategy no",
            "load_best_model_at_end: evaluations say which is the best; add --eval_strategy steps",
        ),
        (
            "sft",
            "--metric_for_best_model eval_accuracy",
            "metric_for_best_model: 'accuracy' is none of what an evaluation measures: loss, entropy, "
            "mean_token_accuracy, format_valid, parallel_ratio",
        ),
        (
            "sft",
            "--metric_for_best_model format_valid --sample_count 0",
            "metric_for_best_model: format_valid is measured on samples; raise --sample_count",
        ),
        (
            "rl",
            "--eval_on_start --eval_dataset gsm8k --num_generations 16 --per_device_eval_batch_size 8",
            "eval_on_start: per_device_eval_batch_size 8 holds no whole groups of 16 responses; take 16",
        ),
        (
            "sft",
            "--neftune_noise_alpha 5 --packing",
            "neftune_noise_alpha: its noise goes by the length of a row, which packing makes another; leave "
            "one of them out",
        ),
        (
            "rl",
            "--num_iterations 5 --save_steps 12",
            "save_steps: 12 is no multiple of the 5 steps that a generation serves, and a run can go on only "
            "where one begins; take 15",
        ),
        (
            "rl",
            "--num_iterations 2 --max_steps 8 --save_steps 0.125",
            "save_steps: 0.125 of 8 steps is 1, no multiple of the 2 steps that a generation serves, and a "
            "run can go on only where one begins; take 2",
        ),
        (
            "rl",
            "--num_iterations 2 --max_steps -1 --save_steps 0.5",
            "save_steps: 0.5 of steps that are counted later may be no multiple of the 2 steps that a "
            "generation serves, and a run can go on only where one begins; take 2",
        ),
        (
            "sft",
            "--dataloader_persistent_workers",
            "dataloader_persistent_workers: there are no workers; add --dataloader_num_workers 1, or leave "
            "it out",
        ),
        (
            "sft",
            "--packing --max_length null",
            "packing: rows are filled up to --max_length, which is null; give a number",
        ),
        (
            "sft",
            "--padding_free",
            "padding_free: TRL takes it with --packing, or with --max_length null",
        ),
        (
            "sft",
            "--eval_packing",
            "eval_packing: without --packing the packed rows would see each other; leave it out",
        ),
        (
            "sft",
            "--activation_offloading",
            "activation_offloading: from cpu there is nowhere to offload to; leave it out",
        ),
        (
            "sft",
            "--optim galore_adamw",
            "optim: galore_adamw divides the parameters itself, and prl gives the tag rows a rate of their "
            "own; take adamw_torch",
        ),
        ("sft", "--debug tpu_metrics_debug", "debug: tpu_metrics_debug needs a TPU; take underflow_overflow"),
        (
            "sft",
            "--ddp_backend gloo",
            "ddp_backend: one process needs none; leave it out, or start prl with accelerate launch",
        ),
        (
            "sft",
            "--report_to tensorbord",
            "report_to: 'tensorbord' must be one of azure_ml, clearml, codecarbon, comet_ml, dagshub, "
            "dvclive, flyte, kubeflow, mlflow, neptune, swanlab, tensorboard, trackio, wandb; "
            "nearest: tensorboard",
        ),
        (
            "sft",
            "--eos_token </s>",
            "eos_token: the model's own ends a response, here and at sampling; leave it out",
        ),
        (
            "sft",
            "--completion_only_loss false",
            "completion_only_loss: prl learns responses alone, never prompts; leave it out",
        ),
        (
            "sft",
            "--resume_from_checkpoint runs/x/checkpoint-4",
            "resume_from_checkpoint: prl goes on with --resume, from the last whole checkpoint in "
            "--output_dir",
        ),
        (
            "rl",
            "--sync_ref_model",
            "sync_ref_model: an adapter's reference is a copy of it that stays; leave it out",
        ),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_loads(command: str, words: str, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(command, ["--recipe", "tiny", "--threads", "1", *words.split()])
    assert str(caught.value) == f"{line}; `prl {command} --help` lists the flags"
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("words", ["--num_iterations 2 --save_steps 0.25", "--save_steps 0.125"])
def test_a_share_of_steps_at_which_generations_begin_is_taken(words: str) -> None:
    assert parse("rl", ["--recipe", "tiny", "--threads", "1", "--max_steps", "8", *words.split()])


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_flags, "is_installed", lambda module: False)
    for words, line in (
        ("--report_to wandb", "report_to: wandb needs the package wandb; install it, or leave it out"),
        (
            "--report_to tensorboard",
            "report_to: tensorboard needs the package tensorboard; install it, or leave it out",
        ),
        ("--use_vllm", "use_vllm: vllm is not installed; leave it out, and prl's decoder samples"),
        (
            "--load_in_4bit",
            "load_in_4bit: bitsandbytes is not installed; `pip install bitsandbytes`, or --load_in_4bit "
            "false",
        ),
    ):
        with pytest.raises(UsageError, match=f"^{line};"):
            told("rl", *words.split())
    assert not trainer_flags.is_installed("no_such.package")


def test_vllm_is_causal_and_told_to_be_untried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_flags, "is_installed", lambda module: True)
    words = ("--use_vllm", "--repetition_penalty", "1.2", "--vllm_mode", "server")
    chosen = told("rl", *words)
    assert chosen["use_vllm"].endswith("prl was never run with it")
    assert "vllm_mode" not in chosen
    with pytest.raises(UsageError, match="use_vllm: vLLM decodes causally only: leave it out, or pass"):
        told("rl", *words, "--attention", "structured")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--optim schedule_free_adamw", "You need to install `schedulefree`"),
        (
            "--lr_scheduler_type warmup_stable_decay",
            "missing 1 required positional argument: 'num_decay_steps'",
        ),
        ('--lr_scheduler_kwargs {"bogus":1}', "got an unexpected keyword argument 'bogus'"),
        ("--optim sgd --optim_args momentum", "not enough values to unpack"),
    ],
)
def test_an_optimizer_and_a_schedule_that_cannot_be_built_are_told_before_a_model_is_loaded(
    words: str, why: str
) -> None:
    with pytest.raises(UsageError) as caught:
        told("sft", *words.split())
    message = str(caught.value)
    assert message.startswith("transformers cannot train with optim ")
    assert why in message
    assert message.endswith("what they need goes into --optim_args and --lr_scheduler_kwargs")


@pytest.mark.parametrize(
    ("given", "period"),
    [
        ({}, 1),
        ({"steps_per_generation": 4}, 2),
        ({"steps_per_generation": 1}, 1),
        ({"steps_per_generation": 3}, 3),
        ({"num_iterations": 3}, 3),
        ({"generation_batch_size": 32}, 2),
        ({"generation_batch_size": 32, "num_iterations": 2}, 4),
    ],
)
def test_steps_that_live_on_one_generation(given: dict[str, int], period: int) -> None:
    batch = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    assert trainer_flags.generation_period(trainer_defaults("rl") | batch | given) == period


def test_a_loss_of_routers_needs_routers() -> None:
    dense, sparse = AutoConfig.for_model("qwen3"), AutoConfig.for_model("qwen3_moe")
    training = SimpleNamespace(router_aux_loss_coef=0.5)
    check_router(training, SimpleNamespace(config=sparse))
    check_router(SimpleNamespace(router_aux_loss_coef=None), SimpleNamespace(config=dense))
    with pytest.raises(UsageError) as caught:
        check_router(training, SimpleNamespace(config=dense))
    assert str(caught.value) == (
        "router_aux_loss_coef 0.5: a qwen3 model is no mixture of experts; leave it out"
    )


def test_data_of_ones_own_drops_the_evaluations_that_a_recipe_asks_for(tmp_path: Any) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text("rl:\n  dataset: gsm8k\n  eval_dataset: gsm8k\n  eval_strategy: steps\n")
    settings = resolve("rl", recipe=str(recipe), threads=1, dataset="mine.jsonl")
    assert settings.trainer.eval_strategy == "no"
    assert settings.chosen["eval_strategy"] == "no: there is no set to evaluate on"


# --- What works, tried (slow)

TRAINED: dict[str, dict[str, Any]] = {
    "sft": {
        "limit": 28, "max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
        "sample_count": 2, "eval_limit": 4, "eval_steps": 2, "logging_steps": 1, "save_strategy": "no",
        "lora_dropout": 0.1, "warmup_steps": 0,
    },
    "rl": {
        "limit": 24, "max_steps": 2, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
        "num_generations": 8, "max_completion_length": 100, "save_strategy": "no", "learning_rate": 1e-2,
        "rewards": ["format", "accuracy"], "per_device_eval_batch_size": 8,
    },
}  # fmt: skip
EVALUATED = {"eval_dataset": "arithmetic:heldout", "eval_limit": 2, "eval_strategy": "steps", "eval_steps": 2}
TWICE = {"num_iterations": 2}

TRIED: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("sft", "weights", {"num_train_epochs": 1}, {"max_steps": -1, "num_train_epochs": 2}),
    ("sft", "weights", {"max_steps": 2}, {}),
    ("sft", "weights", {"per_device_train_batch_size": 2}, {}),
    ("sft", "weights", {"gradient_accumulation_steps": 1}, {}),
    ("sft", "weights", {"max_grad_norm": 0.01}, {}),
    ("sft", "weights", {"pad_to_multiple_of": "8"}, {}),
    ("sft", "weights", {"shuffle_dataset": True}, {}),
    ("sft", "weights", {"loss_type": "dft"}, {}),
    ("sft", "weights", {"label_smoothing_factor": 0.1}, {}),
    ("sft", "weights", {"neftune_noise_alpha": 5}, {}),
    ("sft", "weights", {"data_seed": 1}, {}),
    *(
        ("sft", "weights", {"train_sampling_strategy": name}, {})
        for name in ("sequential", "group_by_length", "batch_rebalance")
    ),
    *(
        ("sft", "weights", {"optim": name}, {})
        for name in ("sgd", "adafactor", "adagrad", "rmsprop", "adamw_8bit", "lion_32bit", "ademamix")
    ),
    ("sft", "weights", {"optim_args": "momentum=0.9"}, {"optim": "sgd"}),
    ("sft", "weights", {"adam_beta1": 0.5}, {}),
    ("sft", "weights", {"adam_beta2": 0.5}, {}),
    ("sft", "weights", {"adam_epsilon": 0.1}, {}),
    ("sft", "weights", {"warmup_steps": 2}, {}),
    *(
        ("sft", "weights", {"lr_scheduler_type": name}, {})
        for name in ("constant", "reduce_lr_on_plateau", "greedy")
    ),
    ("sft", "weights", {"packing": True}, {}),
    ("sft", "weights", {"padding_free": True}, {"max_length": None}),
    (
        "sft",
        "price",
        {"activation_checkpointing_kwargs": {"every_n_layers": 2}},
        {"activation_checkpointing": True},
    ),
    ("sft", "price", {"activation_checkpointing": True}, {}),
    ("sft", "price", {"full_determinism": True}, {}),
    ("sft", "price", {"debug": "underflow_overflow"}, {}),
    ("sft", "price", {"dataset_num_proc": 2}, {}),
    (
        "sft",
        "price",
        {
            "dataloader_num_workers": 1,
            "dataloader_persistent_workers": True,
            "dataloader_prefetch_factor": 4,
            "dataloader_multiprocessing_context": "fork",
        },
        {},
    ),
    ("sft", "log", {"logging_strategy": "epoch"}, {}),
    ("sft", "log", {"logging_steps": 2}, {}),
    ("sft", "log", {"logging_first_step": True}, {"logging_steps": 2}),
    ("sft", "log", {"skip_memory_metrics": False}, {}),
    ("sft", "log", {"include_num_input_tokens_seen": True}, {}),
    ("sft", "log", {"eval_delay": 3}, {"eval_steps": 1}),
    ("sft", "log", {"eval_on_start": True}, {}),
    *(
        ("rl", "weights", {"loss_type": name}, {})
        for name in ("grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo")
    ),
    ("rl", "weights", {"loss_type": "vespo"}, TWICE),
    ("rl", "weights", TWICE, {}),
    ("rl", "weights", {"steps_per_generation": 1}, {}),
    ("rl", "weights", {"generation_batch_size": 32}, {}),
    ("rl", "weights", {"epsilon": 0.001, "epsilon_high": 0.001}, TWICE),
    ("rl", "weights", {"delta": 1.0001}, TWICE),
    ("rl", "weights", {"off_policy_mask_threshold": 1e-6}, TWICE),
    ("rl", "weights", {"sapo_temperature_pos": 3, "sapo_temperature_neg": 3}, TWICE | {"loss_type": "sapo"}),
    (
        "rl",
        "weights",
        {"vespo_k_pos": 5, "vespo_lambda_neg": 5},
        TWICE | {"loss_type": "vespo", "learning_rate": 1e-4},
    ),
    ("rl", "weights", {"importance_sampling_level": "sequence"}, TWICE),
    ("rl", "weights", {"multi_objective_aggregation": "normalize_then_sum"}, {}),
    ("rl", "weights", {"scale_rewards": "batch"}, {}),
    ("rl", "weights", {"scale_rewards": "none"}, {}),
    ("rl", "weights", {"mask_truncated_completions": True}, {"max_completion_length": 60}),
    ("rl", "weights", {"top_entropy_quantile": 0.2}, {}),
    ("rl", "weights", {"entropy_coef": 0.1}, {}),
    ("rl", "weights", {"use_adaptive_entropy": True, "entropy_target": 5, "entropy_coef_delta": 0.1}, {}),
    ("rl", "weights", {"beta": 0.1}, TWICE),
    ("rl", "weights", {"use_bias_correction_kl": False}, TWICE | {"beta": 0.1}),
    ("rl", "weights", {"shuffle_dataset": False}, {}),
    *(
        ("rl", "weights", given, {})
        for given in ({"temperature": 0.5}, {"top_p": 0.5}, {"top_k": 3}, {"min_p": 0.3})
    ),
    ("rl", "price", {"dataloader_num_workers": 1}, {}),
    ("rl", "price", {"activation_checkpointing": True}, {}),
    ("rl", "price", {"log_completions": True, "num_completions_to_print": 1, "log_unique_prompts": True}, {}),
    ("rl", "log", EVALUATED, {}),
    ("rl", "log", {"num_generations_eval": 1}, EVALUATED),
    ("rl", "log", {"metric_for_best_model": "correct", "save_strategy": "best"}, EVALUATED),
]
"""Stage, what changes, the flags, and the settings beside them."""


@pytest.fixture(scope="module")
def cold_start(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model some of whose answers are right."""
    folder = str(tmp_path_factory.mktemp("flags") / "sft")
    given = {"max_steps": 70, "limit": 2500, "eval_strategy": "no", "sample_count": 0}
    sft.run(resolve("sft", recipe="tiny", threads=1, output_dir=folder, **given))
    return folder


@pytest.fixture(scope="module")
def trained(cold_start: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Weights, what was logged, and checkpoints of a few steps; kept, because many are compared with the
    same."""
    found: dict[str, Any] = {}

    def train(command: str, given: dict[str, Any]) -> Any:
        if (name := json.dumps([command, given], sort_keys=True)) not in found:
            folder = tmp_path_factory.mktemp(command)
            model = {"model_name_or_path": cold_start} if command == "rl" else {}
            settings = resolve(
                command, recipe="tiny", threads=1, output_dir=str(folder), **TRAINED[command] | model | given
            )
            (sft if command == "sft" else rl).run(settings)
            lines = [
                {key: value for key, value in line.items() if not re.search("time|peak|per_second", key)}
                for line in runs.read_metrics(folder)
            ]
            weights = (folder / "adapter" / runs.WEIGHTS).read_bytes()
            found[name] = weights, lines, [path.name for path in checkpoints(folder)]
        return found[name]

    return train


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.label_smoothing_factor. is deprecated:FutureWarning")  # trl 1.16
@pytest.mark.parametrize(
    ("command", "what", "given", "beside"), TRIED, ids=[f"{row[0]}-{'-'.join(row[2])}" for row in TRIED]
)
def test_a_flag_that_works_changes_what_it_should(
    trained: Any, command: str, what: str, given: dict[str, Any], beside: dict[str, Any]
) -> None:
    (weights, lines, kept), (usual, usual_lines, _) = (
        trained(command, beside | given),
        trained(command, beside),
    )
    if what != "log":
        assert (weights != usual) == (what == "weights")
    else:
        assert lines != usual_lines or kept

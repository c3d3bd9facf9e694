"""What becomes of the flags of TRL's configs: which prl refuses, and which do nothing and are told so; also
which flags of the commands that ask a model do nothing.

prl hands TRL a model that is loaded, rows that are tokenised, an optimizer and, in RL, rendered prompts and
sampled responses. So a part of their fields has nothing to act on: TRL drops them without a word, or fails
once the model is in memory. Here each of them is refused or told before anything is loaded. The others work:
tests/test_trainer_flags.py holds the table of all (trl 1.16, transformers 5.23). Imports nothing heavy.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, asdict, fields
from functools import cache
from typing import Any

from prl.runs import processes
from prl.settings.arguments import COMMANDS, TRAINER_CONFIGS

Values = Mapping[str, Any]
Need = tuple[str, Callable[[Values], Any], str]

REFUSED = {
    "both": {
        "prl goes on with --resume, from the last whole checkpoint in --output_dir": "resume_from_checkpoint",
        "prl loads the model, as --dtype and --load_in_4bit say; leave it out": "model_init_kwargs",
        "prl halves a micro-batch that does not fit anyway; leave it out": "auto_find_batch_size",
        "Liger's kernels were never run with prl; leave it out": "use_liger_kernel liger_kernel_config",
        "a compiled model loses prl's attention; leave it out": "torch_compile torch_compile_backend "
        "torch_compile_mode",
        "an evaluation computes in the precision of training; leave it out": "bf16_full_eval fp16_full_eval",
        "prl saves a checkpoint on SIGTERM anyway; leave it out": "enable_jit_checkpoint",
        "a resumed run goes on where it was in its data; leave it out": "ignore_data_skip",
        "prl restores its callbacks itself; leave it out": "restore_callback_states_from_checkpoint",
        "one process writes the run; leave it out": "save_on_each_node",
        "only GaLore and APOLLO read it, which prl does not take; leave it out": "optim_target_modules",
        "prl and TRL settle how batches are dealt out; leave it out": "accelerator_config",
        "an evaluation that is no whole batch would be dropped too; leave it out": "dataloader_drop_last",
        "with rows in another order a resumed run would be another one; leave it out": "dataloader_in_order",
        "each process holds the whole model (docs/multi-gpu.md); leave it out": "fsdp fsdp_config deepspeed "
        "parallelism_config ds3_gather_for_generation",
        "prl uploads nothing; `hf upload OWNER/NAME RUN/adapter` does, without the run's samples": ""
        "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision "
        "log_completions_hub_repo",
        "prompts come rendered by --prompt_style; leave it out": "chat_template_path chat_template_kwargs",
    },
    "sft": {
        "prl learns responses alone, never prompts; leave it out": "completion_only_loss assistant_only_loss",
        "a trace longer than --max_length is left out whole, never cut; leave it out": "truncation_mode",
        "the model's own ends a response, here and at sampling; leave it out": "eos_token",
        "the tokenizer's own pads, and counts for nothing; leave it out": "pad_token",
        "rows come tokenised, from the columns problem and trace; leave it out": "dataset_text_field "
        "dataset_kwargs",
    },
    "rl": {
        "GRPO's loss has no labels to smooth; leave it out": "label_smoothing_factor",
        "the policy that is scored would not be the one that sampled; leave it out": "neftune_noise_alpha",
        "rewards read the answers; leave it out": "remove_unused_columns",
        "--shuffle_dataset, --sampling and --stages order problems; leave it out": "train_sampling_strategy",
        "TRL would log 0, and num_tokens is logged anyway; leave it out": "include_num_input_tokens_seen",
        "prl's decoder samples in --dtype, head and all; take --dtype float32": "cast_lm_head_to_fp32",
        "an adapter's reference is a copy of it that stays; leave it out": "sync_ref_model "
        "ref_model_mixup_alpha ref_model_sync_steps",
        "it belongs to model.generate, which rollouts do without; leave it out": "cache_implementation "
        "use_transformers_continuous_batching use_transformers_paged transformers_continuous_batching_config",
    },
}
"""Flags that would do nothing, fail, or break what prl promises, under why, and what to do instead. TRL's
default passes, and so does what `HARMLESS` says."""

HARMLESS: dict[str, tuple[Any, ...]] = {"completion_only_loss": (True,)}
"""What prl does anyway."""

IDLE = {
    "both": {
        "prl has no compute_metrics, which it belongs to": "prediction_loss_only eval_do_concat_batches "
        "eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics label_names",
        "prl's decoder keeps a cache of its own, and training needs none": "use_cache",
        "the bar is prl's, and shown in a terminal only": "disable_tqdm",
        "the main process alone writes and speaks": "log_on_each_node",
        "the command is to train": "do_train",
        "--eval_strategy says when": "do_eval",
        "`prl eval` does that": "do_predict",
        "the launcher's environment says it": "local_rank",
        "rows are measured": "length_column_name",
    },
    "sft": {"rows hold what is trained on, and nothing else": "remove_unused_columns"},
    "rl": {
        "GRPO counts the tokens of all processes itself": "average_tokens_across_devices",
        "--seed orders the problems": "data_seed",
        "there are no tools": "max_tool_calling_iterations",
        "there are no images": "log_multimodal",
    },
}
"""Flags without effect, under why. They are told, and stored in the run."""

NEEDS: dict[str, tuple[Need, ...]] = {
    "both": (
        ("--max_steps -1", lambda v: v["max_steps"] < 0, "num_train_epochs"),
        (
            "--eval_strategy steps or epoch",
            lambda v: v["eval_strategy"] != "no",
            "eval_delay metric_for_best_model",
        ),
        ("--eval_strategy steps", lambda v: v["eval_strategy"] == "steps", "eval_steps"),
        ("--save_strategy steps", lambda v: v["save_strategy"] == "steps", "save_steps"),
        ("--logging_strategy steps", lambda v: v["logging_strategy"] == "steps", "logging_steps"),
        ("--metric_for_best_model", lambda v: tracks_best(v), "greater_is_better"),
        ("--report_to", lambda v: loggers(v), "run_name"),
        (
            "--report_to trackio",
            lambda v: "trackio" in loggers(v),
            "project trackio_space_id trackio_bucket_id trackio_static_space_id",
        ),
        (
            "--activation_checkpointing",
            lambda v: v["activation_checkpointing"],
            "activation_checkpointing_kwargs",
        ),
        ("an optimizer that reads it, such as sgd", lambda v: is_of(v["optim"], OPTIM_ARGS), "optim_args"),
        ("an Adam or Lion optimizer", lambda v: not is_of(v["optim"], NO_BETAS), "adam_beta1 adam_beta2"),
        ("an Adam optimizer", lambda v: not is_of(v["optim"], NO_EPSILON), "adam_epsilon"),
        (
            "accelerate launch",
            lambda v: processes.launched() > 1,
            "ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_timeout "
            "log_level_replica",
        ),
        ("a GPU", lambda v: v["device"] != "cpu", "dataloader_pin_memory torch_empty_cache_steps tf32"),
    ),
    "sft": (
        ("--attention structured", lambda v: v.get("attention") == "structured", "paths"),
        ("--packing", lambda v: v["packing"], "packing_strategy"),
        ("--eval_dataset", lambda v: v.get("eval_dataset"), "eval_dataset_split"),
        ("accelerate launch", lambda v: processes.launched() > 1, "average_tokens_across_devices"),
        ("--loss_type nll", lambda v: v["loss_type"] != "dft", "label_smoothing_factor"),
    ),
    "rl": (
        ("--paths auto", lambda v: v.get("paths") == "auto", "max_paths"),
        (
            "--attention structured",
            lambda v: v.get("attention") == "structured",
            "paths max_paths max_blocks max_path_length join",
        ),
        (
            "weights of 16 or 4 bits; in float32 the adapter is in them and exact",
            lambda v: v.get("dtype") != "float32" or v.get("load_in_4bit"),
            "rollout_weights",
        ),
        ("reward alternating", lambda v: _pays(v, "alternating"), "alternate alternate_window"),
        ("reward overlong", lambda v: _pays(v, "overlong"), "overlong_buffer"),
        ("--sampling adaptive", lambda v: "adaptive" in _stages(v) + v.get("sampling", ""), "band"),
        ("a stage that draws from easy", lambda v: '"easy"' in _stages(v), "easy_dataset"),
        (
            "--eval_strategy steps or epoch",
            lambda v: v["eval_strategy"] != "no" or v["eval_on_start"],
            "eval_dataset eval_dataset_split eval_limit num_generations_eval per_device_eval_batch_size",
        ),
        (
            "--use_vllm",
            lambda v: v["use_vllm"],
            "vllm_mode vllm_model_impl vllm_enable_sleep_mode vllm_structured_outputs_regex "
            "vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port "
            "vllm_gpu_memory_utilization vllm_max_model_length vllm_tensor_parallel_size "
            "vllm_importance_sampling_correction vllm_importance_sampling_mode "
            "vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min "
            "vllm_importance_sampling_cap",
        ),
        ("--beta above 0", lambda v: v["beta"] > 0, "use_bias_correction_kl"),
        (
            "--loss_type sapo",
            lambda v: v["loss_type"] == "sapo",
            "sapo_temperature_neg sapo_temperature_pos",
        ),
        (
            "--loss_type vespo",
            lambda v: v["loss_type"] == "vespo",
            "vespo_k_pos vespo_lambda_pos vespo_k_neg vespo_lambda_neg",
        ),
        (
            "a --loss_type that clips on both sides",
            lambda v: v["loss_type"] not in ("cispo", "sapo", "vespo"),
            "epsilon delta",
        ),
        ("a --loss_type that clips", lambda v: v["loss_type"] not in ("sapo", "vespo"), "epsilon_high"),
        (
            "--use_adaptive_entropy",
            lambda v: v["use_adaptive_entropy"],
            "entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target",
        ),
        (
            "--log_completions",
            lambda v: v["log_completions"],
            "num_completions_to_print log_unique_prompts",
        ),
        (
            "TRL's own order of problems, which --sampling, --levels, --stages, --dynamic_sampling replace",
            lambda v: (
                not (v.get("stages") or v.get("levels") or v.get("dynamic_sampling"))
                and v.get("sampling") != "adaptive"
            ),
            "shuffle_dataset",
        ),
    ),
}
"""What flags have no effect without: in words, whether it is there, and the flags."""

OF_ASKING: dict[str, tuple[Need, ...]] = {
    "both": (
        ("--paths auto", lambda v: v["paths"] == "auto", "max_paths"),
        (
            "--attention structured",
            lambda v: v["attention"] == "structured",
            "paths max_paths max_blocks max_path_length path_temperature join",
        ),
    ),
    "eval": (
        (
            "--samples above 0",
            lambda v: v["samples"] > 0,
            "temperature path_temperature top_p top_k min_p",
        ),
    ),
    "generate": (
        ("--greedy false", lambda v: not v["greedy"], "temperature path_temperature top_p top_k min_p"),
    ),
}
"""The same of the flags of commands that ask a model."""

OPTIM_ARGS: tuple[str, ...] = ("sgd", "adagrad", "rmsprop", "ademamix", "anyprecision", "torch_4bit")
OPTIM_ARGS += ("torch_8bit", "schedule_free", "stable", "grok")
NO_BETAS: tuple[str, ...] = ("sgd", "adagrad", "rmsprop", "adafactor")
NO_EPSILON: tuple[str, ...] = (*NO_BETAS, "lion")
OWN_GROUPS = ("galore", "apollo", "lomo")
"""Parts of the names of optimizers that read `optim_args`, have no betas or epsilon, or divide the parameters
themselves (transformers 5.23)."""


@cache
def trainer_defaults(command: str) -> dict[str, Any]:
    """What TRL's config of a training command says where nothing else does."""
    return {
        item.name: item.default if item.default_factory is MISSING else item.default_factory()
        for item in fields(trainer_class(command))
        if item.init
    }


def trainer_class(command: str) -> Any:
    """TRL's config of a training command."""
    return getattr(trl(), TRAINER_CONFIGS[command])


def trainer_help(command: str) -> str:
    """Every flag of the TRL config behind `command`."""
    return trl().TrlParser([trainer_class(command)], prog=f"prl {command}").format_help()


def trl() -> Any:
    """The library, imported without what those below it say then."""
    import prl.console  # noqa: F401

    # isort: split
    import trl

    return trl


def told(command: str, values: Values, defaults: Values, given: Collection[str]) -> dict[str, str]:
    """Of the flags that the user has `given`, those that do nothing here, and why."""
    settings = {**defaults, **values}
    idle = by_flag(IDLE, command) | _lacking(NEEDS, command, settings)
    found = {
        flag: f"no effect: {why}"
        for flag, why in idle.items()
        if flag in given and settings.get(flag) != defaults.get(flag)
    }
    if settings["save_only_model"]:
        found["save_only_model"] = "on: its checkpoints cannot be resumed"
    if command == "rl" and settings["use_vllm"]:
        found["use_vllm"] = "on: TRL samples with vLLM in place of prl's decoder; prl was never run with it"
    if settings.get("train_sampling_strategy") == "group_by_length":
        found["train_sampling_strategy"] = (
            "group_by_length: resumed after its first epoch, a run sees its rows in another order"
        )
    return found


def told_of_asking(command: str, values: Values, given: Collection[str]) -> dict[str, str]:
    """Of the flags that the user has `given` to eval or generate, those that do nothing, and why."""
    idle = _lacking(OF_ASKING, command, asdict(COMMANDS[command]()) | {**values})
    return {flag: f"no effect: {why}" for flag, why in idle.items() if flag in given}


def _lacking(needs: Mapping[str, tuple[Need, ...]], command: str, settings: Values) -> dict[str, str]:
    """Flag -> what it lacks; of several the last."""
    return {
        flag: f"only with {need}"
        for need, is_there, flags in (*needs["both"], *needs[command])
        if not is_there(settings)
        for flag in flags.split()
    }


def by_flag(table: Mapping[str, Mapping[str, str]], command: str) -> dict[str, str]:
    """Flag -> why, of `REFUSED` or `IDLE`."""
    return {
        flag: why
        for part in ("both", command)
        for why, flags in table[part].items()
        for flag in flags.split()
    }


def generation_period(v: Values) -> int:
    """How many steps go by from one moment that is a step's and a generation's beginning to the next, in GRPO
    (trl 1.16: responses of an earlier step are not in its checkpoints)."""
    accumulated, rows = v["gradient_accumulation_steps"], v["per_device_train_batch_size"]
    served = v["steps_per_generation"] or accumulated
    if v["generation_batch_size"] and not v["steps_per_generation"]:
        served = max(v["generation_batch_size"] // (rows * processes.launched()), 1)
    return math.lcm(served * v["num_iterations"], accumulated) // accumulated


def is_installed(module: str) -> bool:
    """Whether a module can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent that is not there, or half a package
        return False


def try_schedule(training: Any) -> None:
    """Build the optimizer and the schedule of TRL's config for a stand-in: what cannot be, such as a package
    that is not there, raises here and not once the model is loaded. Raises what transformers and torch do."""
    import torch
    from transformers import Trainer, get_scheduler

    stand_in = torch.nn.Linear(1, 1)
    kind, options = Trainer.get_optimizer_cls_and_kwargs(training, stand_in)
    optimizer = kind([{"params": [*stand_in.parameters()]}], **options)
    get_scheduler(
        training.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=training.get_warmup_steps(100),
        num_training_steps=100,
        scheduler_specific_kwargs=training.lr_scheduler_kwargs,
    )


def _stages(v: Values) -> str:
    return " ".join(v.get("stages") or ())


def _pays(v: Values, reward: str) -> bool:
    """Whether it is paid in some stage, or alternates with others."""
    if reward in (v.get("rewards") or ()) or f'"{reward}"' in _stages(v):
        return True
    named = [part.partition(":")[0] for part in v.get("alternate") or ()]
    return reward in named and _pays({**v, "alternate": ()}, "alternating")


def tracks_best(v: Values) -> bool:
    """Whether the trainer keeps account of a best checkpoint (transformers 5.23)."""
    follows = word_of(v["lr_scheduler_type"]) in ("reduce_lr_on_plateau", "greedy")
    return bool(v["metric_for_best_model"] or v["load_best_model_at_end"] or follows)


def loggers(v: Values) -> list[str]:
    asked = v["report_to"]
    names = [asked] if isinstance(asked, str) else list(asked or ())
    return [name for name in names if name not in ("none", "all")]


def word_of(value: Any) -> str:
    """The text of an enum of transformers, or of what was written for it."""
    return str(getattr(value, "value", value))


def is_of(optimizer: Any, parts: Collection[str]) -> bool:
    return any(part in word_of(optimizer) for part in parts)

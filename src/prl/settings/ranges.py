"""Which values a flag takes: the test of each, and the rule in words. Imports nothing heavy."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from prl.rewards import REWARDS
from prl.rewards.own import is_own

Rule = tuple[str, str, Callable[[Any], bool]]
"""Flags, what must hold in words, and whether it does."""

CHECKPOINTING = {"use_reentrant", "preserve_rng_state", "determinism_check", "early_stop", "debug"}
CHECKPOINTING |= {"every_n_layers", "offload"}
"""Keys of `activation_checkpointing_kwargs` (torch's `checkpoint`, transformers 5.23)."""


def _is_object(value: Any) -> bool:
    if not isinstance(value, str):
        return isinstance(value, dict)
    try:
        return isinstance(json.loads(value), dict)
    except ValueError:
        return False


def _keys_of(value: Any) -> set[str]:
    return {*(json.loads(value) if isinstance(value, str) else value)}


_OF_TRAINER: tuple[Rule, ...] = (
    (
        "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps max_length "
        "generation_batch_size steps_per_generation num_generations_eval num_iterations save_total_limit "
        "dataset_num_proc torch_empty_cache_steps dataloader_prefetch_factor num_completions_to_print "
        "ddp_timeout ddp_bucket_cap_mb",
        "must be 1 or more",
        lambda value: value >= 1,
    ),
    (
        "learning_rate tag_learning_rate weight_decay adam_epsilon max_grad_norm warmup_steps beta epsilon "
        "epsilon_high eval_delay dataloader_num_workers router_aux_loss_coef",
        "must be 0 or more",
        lambda value: value >= 0,
    ),
    (
        "num_train_epochs neftune_noise_alpha delta sapo_temperature_neg sapo_temperature_pos "
        "off_policy_mask_threshold",
        "must be greater than 0",
        lambda value: value > 0,
    ),
    (
        "logging_steps eval_steps save_steps",
        "must be a number of steps, or a share of all between 0 and 1",
        lambda value: 0 < value < 1 or (value >= 1 and value == int(value)),
    ),
    (
        "adam_beta1 adam_beta2 label_smoothing_factor",
        "must be at least 0 and less than 1",
        lambda value: 0 <= value < 1,
    ),
    ("seed data_seed", "must be from 0 to 4294967295", lambda value: 0 <= value < 2**32),
    ("top_entropy_quantile", "must be from 0 to 1", lambda value: 0 <= value <= 1),
    (
        "max_steps",
        "must be 1 or more, or -1 to go by num_train_epochs",
        lambda value: value == -1 or value >= 1,
    ),
    (
        "num_generations",
        "must be 2 or more: one response has none to differ from",
        lambda value: value >= 2,
    ),
    (
        "pad_to_multiple_of",
        "must be a number from 1, or auto",
        lambda value: value in ("auto", "none") or (str(value).isdecimal() and int(value) >= 1),
    ),
    (
        "importance_sampling_level",
        "must be token or sequence",
        lambda value: value in ("token", "sequence"),
    ),
    (
        "multi_objective_aggregation",
        "must be sum_then_normalize or normalize_then_sum",
        lambda value: value in ("sum_then_normalize", "normalize_then_sum"),
    ),
    (
        "scale_rewards",
        "must be group, batch or none",
        lambda value: value in ("group", "batch", "none", True, False),
    ),
    ("lr_scheduler_kwargs", 'must be a JSON object, such as {"num_cycles": 2}', _is_object),
    (
        "activation_checkpointing_kwargs gradient_checkpointing_kwargs",
        f"must be a JSON object of {', '.join(sorted(CHECKPOINTING))}",
        lambda value: _is_object(value) and _keys_of(value) <= CHECKPOINTING,
    ),
)

_OF_PRL: tuple[Rule, ...] = (
    (
        "lora_r lora_alpha limit eval_limit alternate_window overlong_buffer max_completion_length "
        "max_path_length patience batch_size rollout_batch_size bootstrap seeds attempts keep max_tokens "
        "concurrency max_requests max_total_tokens size width",
        "must be 1 or more",
        lambda value: value >= 1,
    ),
    (
        "samples sample_count latency top_k max_blocks probe_samples dynamic_sampling top retries "
        "prompt_price completion_price group",
        "must be 0 or more",
        lambda value: value >= 0,
    ),
    (
        "temperature path_temperature memory timeout max_cost",
        "must be greater than 0",
        lambda value: value > 0,
    ),
    (
        "step",
        "must be the number of a step, first or last",
        lambda value: value in ("first", "last") or value.isdecimal(),
    ),
    (
        "threads",
        "must be a number or auto",
        lambda value: value == "auto" or (value.isdecimal() and int(value) >= 1),
    ),
    (
        "paths",
        "must be a number from 2, or auto",
        lambda value: value == "auto" or (value.isdecimal() and int(value) >= 2),
    ),
    ("max_paths", "must be 2 or more", lambda value: value >= 2),
    ("port", "must be from 0 to 65535; 0: any that is free", lambda value: 0 <= value <= 65535),
    ("solutions", "must be from 2 to 4", lambda value: 2 <= value <= 4),
    ("parallel_share", "must be from 0 to 1", lambda value: 0 <= value <= 1),
    ("lora_dropout min_p", "must be at least 0 and less than 1", lambda value: 0 <= value < 1),
    ("top_p", "must be greater than 0 and at most 1", lambda value: 0 < value <= 1),
    (
        "band",
        "must be two shares, the lower one first",
        lambda band: len(band) == 2 and 0 <= band[0] < band[1] <= 1,
    ),
    (
        "rewards",
        f"must be of {', '.join(REWARDS)} or PATH.py:NAME, each once",
        lambda names: 0 < len(names) == len({name for name in names if name in REWARDS or is_own(name)}),
    ),
)


def _by_flag(rules: tuple[Rule, ...]) -> dict[str, tuple[Callable[[Any], bool], str]]:
    return {flag: (holds, rule) for flags, rule, holds in rules for flag in flags.split()}


OF_TRAINER = _by_flag(_OF_TRAINER)
"""Values that TRL and transformers take, or fail over once the model is loaded, and the rule for each."""

RANGES = OF_TRAINER | _by_flag(_OF_PRL)
"""flag -> whether a value will do, and the rule."""

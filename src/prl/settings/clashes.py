"""What cannot stand together: settings that are wrong beside others. Imports nothing heavy."""

from __future__ import annotations

import json
import math
from typing import Any

from prl.curriculum import Stage, rewards_of
from prl.errors import nearest
from prl.rewards import REWARDS, read_pattern
from prl.rewards.own import is_own
from prl.runs import processes
from prl.settings import trainer_flags
from prl.settings.arguments import COMMANDS, POSITIONAL, RLArguments
from prl.settings.stages import read_stages
from prl.settings.trainer_flags import (
    HARMLESS,
    OWN_GROUPS,
    REFUSED,
    Values,
    by_flag,
    generation_period,
    is_of,
    loggers,
    tracks_best,
    word_of,
)

_NEEDED = POSITIONAL | {
    "merge": ("model_name_or_path", "output_dir"),
    "generate": (),
    "show": (),
    "data import": ("file", "format"),
}
"""command -> the flags that it cannot do without, unless they have a default."""

_NO_SAMPLES = {
    "data traces": "asks a teacher for nothing",
    "generate": "answers nothing, also with --greedy",
    "merge": "leaves nothing to prove the model by",
}


def contradictions(command: str, values: dict[str, Any]) -> list[str]:
    """What is missing or wrong beside others among prl's own settings of `command`, a line each."""
    needed, defaults = _NEEDED.get(command, ()), COMMANDS[command]()
    faults = [f"--{key} is missing" for key in needed if not values.get(key, getattr(defaults, key))]
    rewards, weights = values.get("rewards", ["accuracy"]), values.get("reward_weights")
    if command == "rl":
        rewards = _curriculum(values, rewards, faults)
        scored, own = values.get("temperature", 1.0), values.get("path_temperature")
        if own not in (None, scored):
            faults.append(
                f"path_temperature {own:g}: every token is scored at --temperature {scored:g}, and what is "
                "sampled at another would be learned wrong; leave it out, or set both to one value"
            )
    if command == "report":
        faults += _report(values)
    if command == "data traces":
        faults += _traces(values)
    if weights is not None and command == "rl" and len(weights) != len(rewards):
        faults.append(
            f"reward_weights holds {len(weights)} numbers for the {len(rewards)} rewards {', '.join(rewards)}"
        )
    if (
        values.get("attention") == "structured"
        and values.get("packing_strategy") == "wrapped"
        and (values.get("packing") or values.get("eval_packing"))
    ):
        faults.append(
            "packing_strategy wrapped cuts traces anywhere, structured attention wants them whole; use bfd"
        )
    if values.get("samples") == 0 and command != "eval":
        faults.append(f"samples 0 {_NO_SAMPLES[command]}; take 1 or more")
    elif values.get("samples") == 0 and not values.get("greedy", True):
        faults.append("samples 0 without greedy leaves nothing to decode; take 1 or more, or --greedy")
    if values.get("timed") and values.get("latency"):
        faults.append(f"latency {values['latency']}: --timed times all problems; leave one of them out")
    if (most := values.get("max_cost")) is not None and not any(
        values.get(price) for price in ("prompt_price", "completion_price")
    ):
        faults.append(
            f"max_cost {most:g} limits nothing where tokens cost nothing; give --prompt_price or "
            "--completion_price, for a million tokens"
        )
    for one, other in (("right", "wrong"), ("valid", "faulty")):
        if values.get(one) and values.get(other):
            faults.append(f"{one} and {other} together match nothing; leave one out, or both for all")
    return faults


def _report(values: dict[str, Any]) -> list[str]:
    """A page is a file or served, and each has flags of its own."""
    unused, why = ["host", "port"], "where --serve is reached; add it, or leave this out"
    if values.get("serve"):
        unused, why = ["output", "figures"], "--serve writes no file; leave one of them out"
    return [f"{key} {values[key]}: {why}" for key in unused if key in values]


def _traces(values: dict[str, Any]) -> list[str]:
    """An endpoint has flags of its own, and so has each mode."""
    mode = values.get("mode", "write")
    faults = []
    if not values.get("base_url"):
        why = "an endpoint alone takes it; add --base_url, or leave it out"
        unused = ("api_key_env", "extra_body", "timeout", "retries")
        faults += [f"{key} {values[key]}: {why}" for key in unused if values.get(key) is not None]
    if mode != "rewrite":
        why = "--mode rewrite alone takes it; add that, or leave this out"
        faults += [f"{key} {values[key]}: {why}" for key in ("solutions", "summary") if key in values]
    if mode != "write" and values.get("path_opening") == "plan":
        faults.append(f"path_opening plan: --mode {mode} writes no plan before a block; leave it out")
    return faults


def _curriculum(values: dict[str, Any], rewards: list[str], faults: list[str]) -> list[str]:
    """All rewards that some stage pays; adds what is wrong with stages and windows to `faults`."""
    items = []
    for stage in values.get("stages") or []:
        try:
            items.append(json.loads(stage))
        except ValueError:
            faults.append(f'stages: {stage!r} is no JSON object, such as {{"name": "rl-easy"}}')
    stages: tuple[Stage, ...] = ()
    if values.get("stages"):
        stages, stage_faults = read_stages(items, max_steps=values.get("max_steps", -1), rewards=REWARDS)
        faults += stage_faults
    paid = rewards_of(stages, rewards, [*filter(is_own, rewards)])
    alternated: list[str] = []
    if "alternating" in paid:
        default = RLArguments()
        pattern, pattern_faults = read_pattern(
            values.get("alternate", default.alternate),
            values.get("alternate_window", default.alternate_window),
        )
        faults += pattern_faults
        alternated = [name for name, _ in pattern]
    if stages and (values.get("levels") or values.get("sampling") == "adaptive"):
        faults.append("levels and sampling: with stages, each stage has its own; write them there")
    is_adaptive = "adaptive" in (values.get("sampling"), *(stage.sampling for stage in stages))
    if values.get("probe_samples") and not is_adaptive:
        faults.append("probe_samples: only adaptive sampling uses pass rates; add --sampling adaptive")
    longest, buffer = values.get("max_completion_length") or 0, values.get("overlong_buffer") or 0
    if "overlong" in [*paid, *alternated] and buffer > longest:
        faults.append(f"overlong_buffer {buffer} is longer than max_completion_length {longest}; take less")
    if any(stage.dataset == "easy" for stage in stages) and not values.get("easy_dataset"):
        faults.append("stages: dataset easy is what --easy_dataset names; it names none")
    return paid


# --- TRL's flags

LOSSES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")
"""GRPOTrainer's `loss_type` (trl 1.16)."""

LOGGERS = {
    "azure_ml": "azureml.core", "clearml": "clearml", "codecarbon": "codecarbon", "comet_ml": "comet_ml",
    "dagshub": "dagshub", "dvclive": "dvclive", "flyte": "flytekit", "kubeflow": "", "mlflow": "mlflow",
    "neptune": "neptune", "swanlab": "swanlab", "tensorboard": "tensorboard", "trackio": "trackio",
    "wandb": "wandb",
}  # fmt: skip
"""What `report_to` takes, and the module that each needs (transformers 5.23)."""

EVALUATED = {
    "sft": ("loss", "entropy", "mean_token_accuracy", "format_valid", "parallel_ratio"),
    "rl": (
        "loss",
        "entropy",
        "reward",
        "correct",
        "format_valid",
        "parallel_ratio",
        "completions/mean_length",
    ),
}
"""Metrics of an evaluation by which a best checkpoint can be told."""


def trainer_faults(command: str, values: Values, defaults: Values) -> list[str]:
    """What cannot be, of the settings of a training command: all of it, a line each. `defaults` are those of
    TRL's config; `values` may lack what is left to them."""
    settings = {**defaults, **values}
    found = [
        f"{flag}: {why}"
        for flag, why in by_flag(REFUSED, command).items()
        if settings.get(flag) != defaults.get(flag) and settings[flag] not in HARMLESS.get(flag, ())
    ]
    return [*found, *_clashes(command, settings), *_missing_packages(settings)]


def _clashes(command: str, v: Values) -> list[str]:
    """Flags that are wrong beside others."""
    found = []
    evaluates = v["eval_strategy"] != "no"
    if command == "rl" and not v.get("eval_dataset"):
        found += [
            f"{flag}: there is no set to evaluate on; add --eval_dataset, or leave it out"
            for flag, is_on in (("eval_strategy", evaluates), ("eval_on_start", v["eval_on_start"]))
            if is_on
        ]
    for flag, is_on in (
        ("save_strategy best", v["save_strategy"] == "best"),
        ("load_best_model_at_end", v["load_best_model_at_end"]),
    ):
        if is_on and not evaluates:
            found.append(f"{flag}: evaluations say which is the best; add --eval_strategy steps")
        elif is_on and not tracks_best(v):
            found.append(f"{flag}: it is not said by what; add --metric_for_best_model loss")
    metric = (v["metric_for_best_model"] or "").removeprefix("eval_")
    of_reward = command == "rl" and metric.startswith("rewards/")  # `prl.rl` knows their names
    if metric and metric not in EVALUATED[command] and not of_reward:
        known = ", ".join(EVALUATED[command])
        found.append(
            f"metric_for_best_model: {metric!r} is none of what an evaluation measures: {known}"
            f"{nearest(metric, EVALUATED[command])}"
        )
    if metric in ("format_valid", "parallel_ratio") and command == "sft" and v.get("sample_count") == 0:
        found.append(f"metric_for_best_model: {metric} is measured on samples; raise --sample_count")
    found += [
        f"{flag}: there are no workers; add --dataloader_num_workers 1, or leave it out"
        for flag in (
            "dataloader_persistent_workers",
            "dataloader_prefetch_factor",
            "dataloader_multiprocessing_context",
        )
        if v[flag] and v["dataloader_num_workers"] == 0
    ]
    if v["ddp_backend"] and processes.launched() == 1:
        found.append("ddp_backend: one process needs none; leave it out, or start prl with accelerate launch")
    if "tpu_metrics_debug" in ([v["debug"]] if isinstance(v["debug"], str) else v["debug"]):
        found.append("debug: tpu_metrics_debug needs a TPU; take underflow_overflow")
    if is_of(v["optim"], OWN_GROUPS):
        found.append(
            f"optim: {word_of(v['optim'])} divides the parameters itself, and prl gives the tag rows a rate "
            "of their own; take adamw_torch"
        )
    return found + (_sft_clashes(v) if command == "sft" else _rl_clashes(v))


def _sft_clashes(v: Values) -> list[str]:
    found = []
    if v["neftune_noise_alpha"] and (v["packing"] or v["padding_free"]):
        found.append(
            "neftune_noise_alpha: its noise goes by the length of a row, which packing makes another; leave "
            "one of them out"
        )
    if v["packing"] and v["max_length"] is None:
        found.append("packing: rows are filled up to --max_length, which is null; give a number")
    if v["padding_free"] and not v["packing"] and v["max_length"] is not None:
        found.append("padding_free: TRL takes it with --packing, or with --max_length null")
    if v["eval_packing"] and not v["packing"]:
        found.append("eval_packing: without --packing the packed rows would see each other; leave it out")
    if v["activation_offloading"] and v["device"] != "cuda":
        found.append(
            f"activation_offloading: from {v['device']} there is nowhere to offload to; leave it out"
        )
    return found


def _rl_clashes(v: Values) -> list[str]:
    found = []
    if v["loss_type"] not in LOSSES:
        found.append(
            f"loss_type: {v['loss_type']!r} must be one of {', '.join(LOSSES)}"
            f"{nearest(v['loss_type'], LOSSES)}"
        )
    if v["max_completion_length"] is None:
        found.append("max_completion_length: a response needs an end; give a number")
    group, rows = v["num_generations_eval"] or v["num_generations"], v["per_device_eval_batch_size"]
    if v["eval_on_start"] and rows * processes.launched() % group:  # trl 1.16 looks with --eval_strategy
        found.append(
            f"eval_on_start: per_device_eval_batch_size {rows} holds no whole groups of {group} responses; "
            f"take {-(-rows // group) * group}"
        )
    if v["use_vllm"] and v.get("attention") == "structured":
        found.append("use_vllm: vLLM decodes causally only: leave it out, or pass --attention causal")
    if v.get("patience") and (v["eval_strategy"] == "no" or not tracks_best(v)):
        found.append(
            "patience: nothing says whether an evaluation is better; add --eval_dataset, --eval_strategy "
            "steps and --metric_for_best_model correct"
        )
    if v.get("dynamic_sampling") and v["use_vllm"]:
        found.append("dynamic_sampling: vLLM's responses are TRL's alone; leave it out")
    if v.get("dynamic_sampling") and processes.launched() > 1:
        found.append("dynamic_sampling: of several processes none sees the others' groups; leave it out")
    if not v["use_vllm"]:
        if v["repetition_penalty"] != 1.0:
            found.append(f"repetition_penalty: {v['repetition_penalty']:g} is not scored; leave it at 1")
        if v["generation_kwargs"]:
            found.append(
                "generation_kwargs: it belongs to model.generate, which rollouts do without; leave it out"
            )
    period = generation_period(v)
    flag = "eval_steps" if v["save_strategy"] == "best" else "save_steps"
    if v["save_strategy"] in ("steps", "best") and v[flag] and period > 1:
        every, said = v[flag], f"{v[flag]:g} is"
        if every < 1 and v["max_steps"] > 0:
            every = math.ceil(v["max_steps"] * every)  # as transformers 5.23 counts
            said = f"{v[flag]:g} of {v['max_steps']} steps is {every},"
        elif every < 1:
            said = f"{v[flag]:g} of steps that are counted later may be"
        if every % period:
            found.append(
                f"{flag}: {said} no multiple of the {period} steps that a generation serves, and a run "
                f"can go on only where one begins; take {math.ceil(every / period) * period}"
            )
    return found


def _missing_packages(v: Values) -> list[str]:
    found = []
    for name in loggers(v):
        if name not in LOGGERS:
            found.append(f"report_to: {name!r} must be one of {', '.join(LOGGERS)}{nearest(name, LOGGERS)}")
        elif (module := LOGGERS[name]) and not (
            trainer_flags.is_installed(module) or trainer_flags.is_installed(f"{module}X")
        ):
            found.append(f"report_to: {name} needs the package {module}; install it, or leave it out")
    if v.get("use_vllm") and not trainer_flags.is_installed("vllm"):
        found.append("use_vllm: vllm is not installed; leave it out, and prl's decoder samples")
    return found

"""Whether a run that is resumed is the one that was begun: settings, data and model against those stored.

A checkpoint brings weights, the optimizer's state, the learning rate and the place in the data. If what
decides what is learnt had another value, that would be ignored (`learning_rate`), would change what was
learnt before (`lora_alpha`), or make one run of two; and config.yaml would say what was not used. So it is
refused, all at once. What says for how long, how it is measured and where it is computed holds from there on,
and is told. Data and model are compared by what they hold, not by their names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prl import runs
from prl.errors import RunError, UsageError
from prl.runs.checkpoints import step_of
from prl.runs.disk import files_fingerprint, plain, read_json
from prl.settings import Settings
from prl.settings.trainer_flags import IDLE, by_flag, trainer_defaults

KINDS = {
    "harmless": "output_dir threads rehearse rollout_batch_size on_bad_rows trust_remote_code "
    "logging_strategy logging_steps logging_first_step logging_nan_inf_filter log_level log_level_replica "
    "report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id save_strategy "
    "save_steps save_total_limit save_only_model skip_memory_metrics debug include_num_input_tokens_seen "
    "log_completions num_completions_to_print log_unique_prompts torch_empty_cache_steps full_determinism "
    "activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing "
    "gradient_checkpointing_kwargs activation_offloading dataset_num_proc dataloader_num_workers "
    "dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
    "dataloader_multiprocessing_context ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers "
    "ddp_static_graph ddp_backend ddp_timeout eval_on_start",
    "length": "max_steps num_train_epochs patience",
    "measured": "eval_strategy eval_steps eval_delay per_device_eval_batch_size num_generations_eval "
    "eval_packing sample_count metric_for_best_model greater_is_better load_best_model_at_end eval_dataset "
    "eval_dataset_split eval_limit",
    "computed": "device dtype use_cpu bf16 fp16 tf32 rollout_weights",
    "batch": "per_device_train_batch_size gradient_accumulation_steps generation_batch_size "
    "steps_per_generation",
}
"""Settings that need not stay as they were, by what they are about. Those of a batch must leave as many rows
in a step, and in a generation."""
KIND = {name: kind for kind, names in KINDS.items() for name in names.split()}

TOLD = {
    "length": "{change}; what follows the length does too, such as the learning rate",
    "measured": "{change}, from {checkpoint} on",
    "computed": "{change}, from {checkpoint} on, and not to the bit",
    "batch": "{change}, with as many rows in a step, but not to the bit",
}

BEFORE = {
    "sft": {"wrong_paths": "learned"},
    "rl": {"wrong_paths": "learned", "rollout_weights": "adapter"},
}
"""What a stage did before it had a setting: a run whose config.yaml says nothing of it was begun so."""

LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")

BY_CONTENT = {
    "dataset": ("dataset", "dataset_split", "limit", "easy_dataset"),
    "eval_dataset": ("eval_dataset", "eval_dataset_split", "eval_limit"),
    "model": ("model_name_or_path",),
}
"""What is compared by its fingerprint, and the settings that name it."""


def as_begun(settings: Settings[Any]) -> Settings[Any]:
    """`settings`; where they resume a run that was begun before there was some setting, which they leave as
    it is by default, with what was done then (`BEFORE`)."""
    arguments, stored = settings.arguments, None
    if arguments.resume:
        with contextlib.suppress(RunError):  # opening the run says what is wrong
            stored = runs.read_config(settings.trainer.output_dir).get(settings.command)
    done = {
        name: value
        for name, value in BEFORE[settings.command].items()
        if stored and name not in stored and getattr(arguments, name) == getattr(type(arguments)(), name)
    }
    told = {name: f"{value}: the run was begun so" for name, value in done.items()}
    return replace(settings, arguments=replace(arguments, **done), chosen=settings.chosen | told)


def compare(
    settings: Settings[Any],
    inputs: Mapping[str, str],
    stored: Mapping[str, Any],
    stored_inputs: Mapping[str, str],
    checkpoint: Path,
) -> dict[str, str]:
    """What is another from `checkpoint` on and has to be told: setting -> how.

    `stored` is the run's config.yaml, and `stored_inputs` the fingerprints that it began with; in a run of an
    older prl some are missing, and names count. Raises UsageError with all that differs and must not.
    """
    command, run = settings.command, checkpoint.parent
    if not (checkpoint / "optimizer.pt").exists():
        raise UsageError(
            f"{checkpoint} holds weights alone (--save_only_model), so its run cannot be resumed: start one "
            f"from it, with --model_name_or_path {checkpoint} and another --output_dir"
        )
    now = _now(settings)
    differing = changes(settings, inputs, stored, stored_inputs)
    changed = {name: change for name, (_, change) in differing.items()}
    own = stored_inputs.get("own_rewards", ""), inputs.get("own_rewards", "")
    if own[0] != own[1] and "rewards" not in changed:
        what = "has some now" if not own[0] else "has none now" if not own[1] else "has other code now"
        raise UsageError(
            f"{run} was begun with other rewards of your own, it {what}: pass the functions that it began "
            f"with (--rewards PATH.py:NAME, or rl.run(rewards=...)), or begin another run from {checkpoint} "
            "with --model_name_or_path and another --output_dir"
        )
    told = {
        name: TOLD[kind].format(change=change, checkpoint=checkpoint.name)
        for name, (kind, change) in differing.items()
        if kind
    }
    if 0 < now["max_steps"] < step_of(checkpoint):
        told.pop("max_steps", None)
        changed["max_steps"] = f"{now['max_steps']}, and {step_of(checkpoint)} are done"
    epochs = read_json(checkpoint / "trainer_state.json").get("epoch") or 0
    if (
        now["max_steps"] <= 0
        and changed.keys() & KINDS["length"].split()
        and now["num_train_epochs"] < epochs
    ):
        told.pop("num_train_epochs", None)
        changed["num_train_epochs"] = f"{now['num_train_epochs']:g}, and {epochs:.3g} are done"
    if changed.keys() - told:
        refused = "; ".join(f"{name} {change}" for name, change in changed.items() if name not in told)
        raise UsageError(
            f"{run} was begun otherwise ({refused}): `prl {command} --recipe {run / 'config.yaml'} --resume` "
            f"goes on as it began, and --model_name_or_path {checkpoint} with another --output_dir begins "
            "another from there"
        )
    return told


def changes(
    settings: Settings[Any],
    inputs: Mapping[str, str],
    stored: Mapping[str, Any],
    stored_inputs: Mapping[str, str],
) -> dict[str, tuple[str, str]]:
    """What is asked for otherwise than a run was begun, but for what is harmless: setting -> its kind of
    `TOLD`, "" where it has to stay as it was, and the change in words. See `compare`, which raises."""
    command, now = settings.command, _now(settings)
    silent = BEFORE[command] | ({"disable_dropout": now["disable_dropout"]} if command == "rl" else {})
    then = plain(trainer_defaults(command)) | silent | (stored.get(command) or {})
    if _is_adapter(now["model_name_or_path"]):  # an older prl wrote the recipe's, which did nothing
        then |= {name: now[name] for name in (LORA[-1:] if stored_inputs else LORA)}
    known = [name for name in BY_CONTENT if name in inputs and name in stored_inputs]
    skipped = {name for part in known for name in BY_CONTENT[part]} | by_flag(IDLE, command).keys()
    changed = {
        name: f"{_text(then[name])}, now {_text(now[name])}"
        for name in sorted(now.keys() & then.keys() - skipped)
        if KIND.get(name) != "harmless" and not _is_same(then[name], now[name])
    }
    changed |= {
        part: _renamed(_deciding(part, command, then, now), then, now)
        for part in known
        if inputs[part] != stored_inputs[part]
    }
    kinds = {**KIND} if _rows(then) == _rows(now) else {**KIND, **dict.fromkeys(KINDS["batch"].split(), "")}
    return {name: (kinds.get(name, ""), change) for name, change in changed.items()}


def _now(settings: Settings[Any]) -> dict[str, Any]:
    """Every setting that is asked for, those that are left to the trainer's defaults too."""
    return plain(trainer_defaults(settings.command)) | plain(settings.as_dict())[settings.command]


def of_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """A fingerprint of rows in their order; how their problems are rendered does not count."""
    digest = hashlib.sha256()
    for row in rows:
        told = {key: plain(value) for key, value in row.items() if key != "prompt"}
        digest.update(json.dumps(told, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def of_model(name: str) -> str:
    """A fingerprint of what a model's name stands for: an adapter's weights, the config of a local model and
    what its files begin and end with; of a Hub name, or one that ships, itself. Raises RunError as
    `runs.adapter_dir` does."""
    if name in runs.SHIPPED:
        return name
    folder = runs.adapter_dir(name) or Path(name).expanduser()
    if (weights := folder / runs.WEIGHTS).is_file():
        with weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not (folder / "config.json").is_file():
        return name
    config = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    ends = files_fingerprint(sorted(folder.glob("*.safetensors")))
    return hashlib.sha256(f"{config} {ends}".encode()).hexdigest()


def _is_adapter(name: str) -> bool:
    with contextlib.suppress(RunError):
        return runs.adapter_dir(name) is not None
    return False


def _rows(values: Mapping[str, Any]) -> tuple[int, int]:
    """Rows of a step and of a generation, in a process."""
    rows, accumulated = values["per_device_train_batch_size"], values["gradient_accumulation_steps"]
    served = values.get("steps_per_generation") or accumulated
    return rows * accumulated, values.get("generation_batch_size") or rows * served


def _deciding(part: str, command: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings that decide what an input holds: more than those that name it where rows are drawn."""
    if part == "model":
        return BY_CONTENT[part]
    if command == "sft" and not (then.get("eval_dataset") and now.get("eval_dataset")):
        return (*BY_CONTENT["dataset"], *BY_CONTENT["eval_dataset"], "seed")  # some rows are held out
    return (*BY_CONTENT[part], "seed", *(["stages"] if part == "dataset" else []))


def _renamed(names: Iterable[str], then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Why an input holds something else: what decides it, or that it was written anew."""
    both = [(name, then.get(name), now.get(name)) for name in names]
    changed = [
        f"{name} {_text(before)}, now {_text(after)}"
        for name, before, after in both
        if not _is_same(before, after)
    ]
    return f"is another ({', '.join(changed) or f'{_text(both[0][2])} was written anew'})"


def _is_same(before: Any, after: Any) -> bool:
    return before == after or (before in (None, [], "") and after in (None, [], ""))


def _text(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, dict | list) else "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

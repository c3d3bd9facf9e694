"""All stages with one command: `prl rl` with a recipe whose `stages:` begin with cold-start.

The cold start takes the recipe's `sft` section and writes a run of its own beside the RL run; RL goes on with
its adapter. A cold start that is done is kept where the same is asked for, so the same command with --resume
goes on wherever it was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prl import rl, runs, sft
from prl.answers import default_checker
from prl.config import resolve
from prl.errors import UsageError
from prl.rewards.own import RewardFunction, own_rewards
from prl.rl import RLResult
from prl.runs.reading import read_environment
from prl.settings import Settings
from prl.settings.arguments import RLArguments
from prl.settings.stages import cold_start_of
from prl.trainer import resuming

if TYPE_CHECKING:
    from transformers import TrainerCallback

HANDED_ON = (
    "load_in_4bit", "lora_alpha", "lora_dropout", "lora_r", "lora_target_modules", "on_bad_rows",
    "path_opening", "paths",
)  # fmt: skip
"""Flags that are the cold start's too: what the adapter and its paths are, and which rows are taken. Others,
such as the learning rate, are for RL alone; section sft has its own."""


def run(
    settings: Settings[RLArguments],
    *,
    rewards: Sequence[RewardFunction] = (),
    callbacks: Sequence[TrainerCallback] = (),
) -> RLResult:
    """RL, after the cold start where the first stage is one. Raises PrlError for what the user can mend.

    `rewards` and `callbacks` are for the RL, as in `prl.rl.run`.
    """
    arguments = settings.arguments
    cold_start = cold_start_of(arguments.stages, settings.output_dir)
    if cold_start is None:
        return rl.run(settings, rewards=rewards, callbacks=callbacks)
    first, chosen = _cold_start(settings, cold_start), settings.chosen
    if _is_done(cold_start) and not arguments.overwrite_output_dir:
        chosen = chosen | {"cold start": _kept(first, cold_start)}
    else:
        default_checker().start()  # RL needs it, and its rewards: not amid the night
        own_rewards(arguments.rewards, rewards)
        sft.run(first)
    arguments = replace(
        arguments,
        model_name_or_path=str(cold_start),
        stages=(arguments.stages or [])[1:] or None,
        resume=arguments.resume and Path(str(settings.output_dir), "environment.json").exists(),
    )
    settings = replace(settings, arguments=arguments, chosen=chosen)
    return rl.run(settings, rewards=rewards, callbacks=callbacks)


def _cold_start(settings: Settings[RLArguments], folder: Path) -> Settings[Any]:
    arguments = settings.arguments
    told = dict(given.as_setting() for given in settings.given)
    return resolve(
        "sft",
        recipe=settings.recipe,
        model_name_or_path=arguments.model_name_or_path,
        attention=arguments.attention,
        prompt_style=arguments.prompt_style,
        device=arguments.device,
        dtype=arguments.dtype,
        trust_remote_code=settings.trainer.trust_remote_code,
        threads=arguments.threads,
        seed=settings.trainer.seed,
        output_dir=str(folder),
        resume=arguments.resume and (folder / "environment.json").exists(),
        overwrite_output_dir=arguments.overwrite_output_dir,
        **{key: value for key, value in told.items() if key in HANDED_ON},
    )


def _is_done(folder: Path) -> bool:
    return (folder / "environment.json").exists() and runs.read_summary(folder) is not None


def _kept(settings: Settings[Any], folder: Path) -> str:
    """What to say of a finished cold start where `settings` ask for one. Raises UsageError where it was made
    otherwise; with --resume that is only told of what was measured, and where it was computed."""
    settings = resuming.as_begun(settings)
    inputs = {"model": resuming.of_model(settings.arguments.model_name_or_path)}
    begun = read_environment(folder).get("inputs", {})
    changes = resuming.changes(settings, inputs, runs.read_config(folder), begun)
    if not changes:
        return f"{folder} is kept"
    made = "; ".join(f"{name} {change}" for name, (_, change) in changes.items())
    is_as_good = {kind for kind, _ in changes.values()} <= {"measured", "computed", "batch"}
    if is_as_good and settings.arguments.resume:
        return f"{folder} is kept, made otherwise ({made})"
    as_it_is = ", take it as it is with --resume" if is_as_good else ""
    raise UsageError(
        f"{folder} is a finished cold start, made otherwise ({made}): ask for the same{as_it_is}, choose "
        "another --output_dir, or make it and the RL anew with --overwrite_output_dir"
    )

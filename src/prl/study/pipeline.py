"""All stages with one command: `prl rl` with a recipe whose `stages:` begin with cold-start.

The cold start takes the recipe's `sft` section and writes a run of its own beside the RL run; RL goes on with
its adapter. A cold start that is done is kept, so the same command with --resume goes on wherever it was
stopped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prl import rl, runs, sft
from prl.answers import default_checker
from prl.config import resolve
from prl.curriculum import COLD_START
from prl.rewards.own import RewardFunction, own_rewards
from prl.rl import RLResult
from prl.settings import Settings
from prl.settings.arguments import RLArguments

if TYPE_CHECKING:
    from transformers import TrainerCallback


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
    stages = [json.loads(stage) for stage in arguments.stages or []]
    if not stages or stages[0].get("name") != COLD_START:
        return rl.run(settings, rewards=rewards, callbacks=callbacks)
    output = Path(str(settings.output_dir))
    cold_start = output.with_name(f"{output.name}-{COLD_START}")
    if not _is_done(cold_start) or arguments.overwrite_output_dir:
        default_checker().start()  # RL needs it, and its rewards: not amid the night
        own_rewards(arguments.rewards, rewards)
        sft.run(_cold_start(settings, cold_start))
    arguments = replace(
        arguments,
        model_name_or_path=str(cold_start),
        stages=[json.dumps(stage) for stage in stages[1:]] or None,
        resume=arguments.resume and (output / "environment.json").exists(),
    )
    return rl.run(replace(settings, arguments=arguments), rewards=rewards, callbacks=callbacks)


def _cold_start(settings: Settings[RLArguments], folder: Path) -> Settings[Any]:
    arguments = settings.arguments
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
    )


def _is_done(folder: Path) -> bool:
    return (folder / "environment.json").exists() and runs.read_summary(folder) is not None

"""Flags of the commands that train. They take every field of TRL's config besides, so none of those stands
here: `output_dir`, `seed`, `learning_rate` are TRL's. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prl.settings.flags import DataFlags, ModelFlags, PathFlags, flag

Sampling = Literal["uniform", "adaptive"]
Rehearse = Literal["auto", "on", "off"]
RolloutWeights = Literal["auto", "adapter", "merged"]
WrongPaths = Literal["recorded", "judged", "learned"]


@dataclass
class LoraFlags:
    """The adapter that is trained."""

    lora_r: int = flag(16, "rank of the adapter: capacity for memory")
    lora_alpha: int = flag(32, "the adapter's output is scaled by alpha / r")
    lora_dropout: float = flag(0.0, "dropout on the adapter's input")
    lora_target_modules: list[str] = flag(["all-linear"], "layers that get an adapter: all-linear, or names")
    tag_learning_rate: float | None = flag(
        None, "learning rate of the six tag rows; if none: --learning_rate"
    )


@dataclass
class TrainingFlags(DataFlags, LoraFlags, ModelFlags):
    """What both training commands share."""

    eval_dataset: str | None = flag(None, "data for evaluations during training, named like --dataset")
    eval_dataset_split: str = flag("test", "split of a Hub data set for them")
    eval_limit: int | None = flag(None, "evaluate on this many rows")
    rehearse: Rehearse = flag(
        "auto",
        "take the longest step that the data can ask for before the first one, to see that it fits; auto: on "
        "a GPU",
    )
    resume: bool = flag(False, "go on with the interrupted run in --output_dir")
    overwrite_output_dir: bool = flag(False, "remove what an earlier run wrote to --output_dir")


@dataclass
class SFTArguments(TrainingFlags):
    """Cold start: learn the format of parallel thinking from traces."""

    dataset: str = "arithmetic:coldstart"
    dataset_split: str = "train"
    sample_count: int = flag(32, "responses sampled at each evaluation to see the format; 0: none")
    paths: str = "2"
    wrong_paths: WrongPaths = flag(
        "recorded",
        "paths that end in another result. learned: loss on every path. sft, recorded: none on those that "
        "the column context_paths names; judged: also, where it is missing, on those that the verifier "
        "finds. rl, judged: none on those that it finds in responses with a positive advantage",
    )


@dataclass
class RLArguments(PathFlags, TrainingFlags):
    """Reinforcement learning (GRPO): turn the format into a skill."""

    dataset: str = "arithmetic:hard"
    dataset_split: str = "train"
    rollout_batch_size: int | None = flag(
        None,
        "responses decoded side by side; if none: all that are sampled at once "
        "(--per_device_train_batch_size x --steps_per_generation); less: less memory, slower",
    )
    rollout_weights: RolloutWeights = flag(
        "auto",
        "what samples where weights have 16 or 4 bits. adapter: the model as it trains; merged: a copy of it "
        "in 16 bits with the adapter rounded in, fewer products for more memory; auto: merged where that is "
        "forecast to fit, as long as it samples what the model scores",
    )
    rewards: list[str] = flag(
        ["accuracy"],
        # The names of `prl.rewards.REWARDS`; what imports them would make `--help` wait.
        "of accuracy, format, parallel, bonus, tiered, alternating, diversity, set_diversity, efficiency, "
        "gated_efficiency, overlong (`prl.rewards` has the formulas) or a function of yours, PATH.py:NAME; "
        "added up by --reward_weights",
    )
    alternate: list[str] = flag(
        ["accuracy:8", "tiered:2"], "reward alternating: what it pays in turn, NAME:STEPS"
    )
    alternate_window: int = flag(10, "steps after which it starts anew: what --alternate adds up to")
    overlong_buffer: int | None = flag(
        None,
        "reward overlong: tokens before the longest response over which it falls; if none: a fifth",
    )
    stages: list[str] | None = flag(
        None,
        "stages of the curriculum in order, each a JSON object (in a recipe: a YAML one) of name, dataset, "
        "levels, rewards, sampling, enter; `prl recipes show scaffold` has some",
    )
    easy_dataset: str | None = flag(None, "what a stage calls dataset easy")
    levels: list[int] | None = flag(None, "problems of these levels only")
    sampling: Sampling = flag(
        "uniform",
        "adaptive: draw problems by running pass rate, so that few groups are all right or wrong",
    )
    band: list[float] = flag([0.2, 0.8], "adaptive: lowest and highest pass rate to draw")
    probe_samples: int = flag(
        0, "adaptive: responses to every problem before the first step, to know its pass rate"
    )
    patience: int | None = flag(
        None, "stop after this many evaluations that are no better than the best by --metric_for_best_model"
    )
    dynamic_sampling: int = flag(
        0,
        "draws more for a step, at most: other problems in the place of groups that are all paid the same "
        "(DAPO)",
    )
    wrong_paths: Literal["learned", "judged"] = "learned"
    live_rate: bool = flag(
        False, "learning rate of a step times the share of its groups that are not all paid the same"
    )

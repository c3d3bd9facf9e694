"""Flags of the commands that ask a model, or look at what one answered. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field

from prl.settings.flags import DataFlags, PathFlags, SamplingFlags, TrustingModelFlags, flag


@dataclass
class EvalArguments(PathFlags, SamplingFlags, DataFlags, TrustingModelFlags):
    """Accuracy, pass@k, maj@k, parallel ratio and format validity, with 95 % intervals."""

    greedy: bool = True
    samples: int = 4
    batch_size: int = flag(64, "responses decoded side by side: speed for memory")
    timed: bool = flag(False, "decode one response at a time on one thread, and report seconds a problem")
    bootstrap: int = flag(1000, "resamples behind the 95 % intervals")
    seed: int = flag(0, "seed of everything random")
    output_dir: str = flag("runs/default/eval", "folder to write to")
    overwrite_output_dir: bool = False


@dataclass
class GenerateArguments(PathFlags, SamplingFlags, TrustingModelFlags):
    """Answer one problem: `prl generate "What is 17 * 23?" --model_name_or_path RUN`."""

    problem: str | None = flag(None, "the problem; also without the flag, or on stdin")
    seed: int = 0


@dataclass
class CompareArguments:
    """Two demos or evaluations side by side, on the same problems: `prl compare FIRST SECOND`."""

    first: str | None = flag(None, "a demo or evaluation folder; also without the flag")
    second: str | None = flag(None, "the one beside it; differences are second - first")
    figure: str | None = flag(
        None, "also draw accuracy against critical path, tokens and seconds to this file (.png, .svg, .pdf)"
    )
    bootstrap: int = 1000


@dataclass
class RewardsArguments:
    """Score the stored responses of a run anew: `prl rewards replay RUN --reward tiered`."""

    run: str | None = flag(None, "a run folder; also without the flag")
    reward: list[str] = flag(["accuracy", "tiered"], "rewards to score with, named like --rewards")
    reward_weights: list[float] | None = flag(None, "weights of their sum; if none: 1 each")
    heldout: list[str] | None = flag(None, "evaluations of the run's checkpoints in order, for the alarm")
    alternate: list[str] = field(default_factory=lambda: ["accuracy:8", "tiered:2"])
    alternate_window: int = 10
    overlong_buffer: int | None = None
    top: int = flag(3, "responses to show that gain and lose most")
    output: str | None = flag(None, "file to write: numbers as .json, traces as .parquet or .jsonl")

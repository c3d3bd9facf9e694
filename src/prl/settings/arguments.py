"""What each command takes: one dataclass a command, whose fields are its flags.

Training commands also take every field of TRL's config (`TRAINER_CONFIGS`). `--help` reads this module; it
imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from prl.settings.evaluating import (
    CompareArguments,
    EvalArguments,
    GenerateArguments,
    ReportArguments,
    RewardsArguments,
    ShowArguments,
)
from prl.settings.flags import Attention, flag
from prl.settings.traces import (
    DataArguments,
    DataCheckArguments,
    DataImportArguments,
    DataMixArguments,
    DataPushArguments,
    DataShowArguments,
    DataStatsArguments,
    DataTracesArguments,
)
from prl.settings.training import RLArguments, SFTArguments


@dataclass
class MergeArguments:
    """Put an adapter into its base model, prove that nothing was lost, and write it for any engine."""

    model_name_or_path: str | None = None
    output_dir: str | None = None
    save_dtype: Literal["float32", "bfloat16", "float16"] = flag(
        "float32", "precision of the weights on disk; merging and proving is done in float32"
    )
    gguf_type: Literal["f32", "f16", "bf16", "q8_0"] | None = flag(
        None,
        "also write OUTPUT_DIR/model-TYPE.gguf, for llama.cpp, with matrices of this type; needs the gguf "
        "package",
    )
    samples: int = 4
    max_completion_length: int = 256
    seed: int = 0
    device: Literal["cpu", "cuda", "mps"] = flag("cpu", "where to compute")
    trust_remote_code: bool = False


@dataclass
class DemoArguments:
    """Cold start, RL and evaluation on a model that ships, beside sequential RL and votes.

    Recipes: tiny-search+products: four ways to a product, which vote; tiny-search: six paths divide the work;
    tiny-search+equations: candidates divided; tiny: sums. Interrupted, the same command goes on where it was.
    """

    recipe: str = flag(
        "tiny-search+products", "which: tiny-search+products, tiny-search, tiny-search+equations or tiny"
    )
    attention: Attention = "auto"
    seed: int = 0
    output_dir: str = "runs/demo"
    overwrite_output_dir: bool = False
    quick: bool = flag(False, "a few steps only: shows that it runs, not that it learns")
    threads: str = "auto"


@dataclass
class StudyArguments:
    """The paper's experiments in miniature: arms × seeds, then tables, figures and claims with intervals."""

    study: str = flag("paper-mini", "which one: paper-mini, or sums (its first edition)")
    arms: list[str] | None = flag(None, "these only; if none: all")
    part: str | None = flag(
        None,
        "one part, in OUTPUT_DIR/PART; the report is of all that are there. Of paper-mini: latency, "
        "openings, widths, votes, tokens, rewards, more-rewards, taught, wrong-paths, scaffold, stages, "
        "harm, harm-batches, rate; of sums: causal, structured, levels, prompts",
    )
    seeds: int = flag(5, "runs of each arm, with seeds 0, 1 …; a study of fewer goes on")
    recipe: str | None = None
    model_name_or_path: str | None = None
    output_dir: str = "runs/study"
    quick: bool = False
    jobs: str = flag("auto", "runs side by side: a number, or auto: one a core, on a GPU one")
    trust_remote_code: bool = False


@dataclass
class DoctorArguments:
    """Look at this machine, and say how much memory each command will take and whether that fits.

    Any flag of the stages works too: `prl doctor rl --recipe 8gb --max_completion_length 2048`.
    """

    stage: str = flag("sft rl eval", "which stages to look at, one or more")
    recipe: str | None = None
    model_name_or_path: str | None = None
    memory: float | None = flag(None, "plan for a GPU with this many GiB free instead of for this machine")
    fit: str | None = flag(None, "write a recipe that fits to this file")


COMMANDS: dict[str, type] = {
    "doctor": DoctorArguments,
    "sft": SFTArguments,
    "rl": RLArguments,
    "eval": EvalArguments,
    "generate": GenerateArguments,
    "merge": MergeArguments,
    "data": DataArguments,
    "data traces": DataTracesArguments,
    "data import": DataImportArguments,
    "data check": DataCheckArguments,
    "data stats": DataStatsArguments,
    "data show": DataShowArguments,
    "data mix": DataMixArguments,
    "data push": DataPushArguments,
    "demo": DemoArguments,
    "show": ShowArguments,
    "compare": CompareArguments,
    "report": ReportArguments,
    "rewards replay": RewardsArguments,
    "study": StudyArguments,
}

HELP: dict[str, str] = {
    item.name: item.metadata["help"]
    for cls in reversed(COMMANDS.values())
    for item in fields(cls)
    if "help" in item.metadata
}
"""flag -> what `--help` says of it, a % sign doubled: what the first command says that says something. It is
the same for every command but one whose own field says otherwise."""

FORECAST = ("sft", "rl", "eval")
"""The commands whose memory `prl doctor` forecasts."""

POSITIONAL = {
    "doctor": ("stage",),
    "generate": ("problem",),
    "merge": ("model_name_or_path",),
    "show": ("source",),
    "compare": ("runs",),
    "report": ("runs",),
    "rewards replay": ("run",),
    "data traces": ("problems",),
    "data import": ("file",),
    "data check": ("file",),
    "data stats": ("file",),
    "data show": ("file",),
    "data mix": ("sets",),
    "data push": ("folder", "repo"),
    "study": ("study",),
}
"""command -> the fields that words without a flag fill; a list takes all."""

TRAINER_CONFIGS = {"sft": "SFTConfig", "rl": "GRPOConfig"}
"""command -> the class of TRL whose fields it takes besides its own."""

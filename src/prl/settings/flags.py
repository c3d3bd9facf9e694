"""Flags that several commands share, each with its help beside it.

A flag of one name means the same wherever it stands, so its help is written once, by `flag`: here, or in the
first class that has it. Another class that has it says its type and default alone, unless it takes other
values: then its own help. Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeVar

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cuda", "mps", "cpu"]
PromptStyle = Literal["parallel", "sequential", "bare"]
OnBadRows = Literal["error", "skip"]
Attention = Literal["auto", "causal", "structured"]
PathOpening = Literal["auto", "none", "number", "plan"]

Join = Literal["all", "first"]

Value = TypeVar("Value")


def flag(default: Value, text: str) -> Value:
    """A field of a dataclass of flags: its default, and what `--help` says of it."""
    # TRL's parser hands the help on to argparse, which would format a % sign.
    said = {"help": text.replace("%", "%%")}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=said)  # type: ignore[return-value]
    return field(default=default, metadata=said)


@dataclass
class ModelFlags:
    """Which settings, which model, and where it computes."""

    recipe: str | None = flag(
        None,
        "a recipe that ships (`prl recipes`), a YAML file, or several with + between; if none: that of the "
        "run behind --model, else by the model and the GPU's free memory",
    )
    model_name_or_path: str = flag(
        "tiny",
        "Hub name, local model, adapter or run folder; `tiny` ships, whatever folder is called so (that is "
        "./tiny); short: --model",
    )
    prompt_style: PromptStyle = flag(
        "parallel", "instruction around the problem: think in parallel, step by step, or none (bare)"
    )
    attention: Attention = flag(
        "auto", "structured: the paths of a block do not see each other; auto: as the model was trained"
    )
    path_opening: PathOpening = flag(
        "auto",
        "what tells the paths of a block apart: number: path i begins with a line that holds i; plan: with "
        "line i of the paragraph right before the block; none; auto: as the model was trained",
    )
    device: Device = flag("auto", "where to compute; auto: a CUDA GPU if there is one")
    dtype: Dtype = flag("auto", "precision; auto: bfloat16 where the GPU has it, float32 on a CPU")
    load_in_4bit: bool = flag(
        False, "QLoRA: hold the base weights in 4 bits (NF4, double quantisation); needs bitsandbytes"
    )
    threads: str = flag("auto", "CPU threads: a number, or auto to time what is fastest now")


@dataclass
class TrustingModelFlags(ModelFlags):
    """The same for a command that takes none of TRL's configs, which hold this one too."""

    trust_remote_code: bool = flag(
        False, "run code that comes with the model, from authors whom you trust; no recipe can"
    )


@dataclass
class DataFlags:
    """The problems, or the traces to learn from."""

    dataset: str = flag(
        "arithmetic:heldout",
        "gsm8k, parallel-gsm8k, math, math500, amc23, aime24, aime25 or dapo, Hub name, file (parquet, "
        "json, jsonl, csv), arithmetic:coldstart|mixed|easy|hard|wide|heldout or "
        "search:which|equations|products-PART",
    )
    dataset_split: str = flag(
        "test",
        "split of a Hub data set, or of a JSON file that holds several; part of search:KIND or arithmetic",
    )
    limit: int | None = flag(None, "take this many rows")
    on_bad_rows: OnBadRows = flag(
        "error", "error: refuse a data set with bad rows; skip: leave them out with a warning"
    )


@dataclass
class SamplingFlags:
    """How tokens are chosen."""

    greedy: bool = flag(False, "take the likeliest token at each step (eval: besides the samples)")
    samples: int = flag(1, "responses to sample for a problem")
    temperature: float = flag(1.0, "sampling temperature")
    top_p: float = flag(1.0, "sample from the likeliest tokens that hold this much probability")
    top_k: int = flag(0, "sample from this many of the likeliest tokens; 0: from all")
    min_p: float = flag(
        0.0, "leave out tokens less likely than this share of the likeliest one's probability"
    )
    max_completion_length: int = flag(512, "longest response, in tokens")


@dataclass
class PathFlags:
    """What bounds a response that forks."""

    paths: str = flag(
        "2", "structured: paths of a block, a number from 2; auto: from 2 on the model decides on one more"
    )
    max_paths: int = flag(4, "structured: most paths of a block where --paths is auto")
    max_blocks: int = flag(4, "structured: most blocks of a response that fork; a later <Parallel> is text")
    max_path_length: int | None = flag(
        None, "structured: longest path, in tokens; if none: an equal share of what is left"
    )
    path_temperature: float | None = flag(
        None, "structured: sampling temperature within paths; if none: --temperature"
    )
    join: Join = flag(
        "all",
        "structured: a block ends when all its paths have; first: as soon as one closes that says Found:, "
        "and the others are cut",
    )

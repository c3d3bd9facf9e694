"""Flags of the commands that make, check and mix data sets. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from prl.settings.flags import Device, OnBadRows, PromptStyle, flag


@dataclass
class DataArguments:
    """Write the procedural problem and trace sets; the same bytes every time."""

    output_dir: str = "data"


@dataclass
class CheckFlags:
    """What a trace must be like to pass."""

    min_diversity: float = flag(
        0.1, "two paths that differ less are copies: 0 for the same words, 1 for none in common"
    )
    max_length: int | None = flag(None, "most characters of a trace; tokens, with --tokenizer")
    tokenizer: str | None = flag(None, "count lengths in the tokens of this model instead of in characters")
    allow_sequential: bool = flag(False, "let traces without a block pass")
    path_opening: Literal["none", "number", "plan"] = "none"
    ignore: list[str] = flag([], "reasons that do not count, such as ordering")
    repair: bool = flag(
        False, "first put right what is mechanical: whitespace between tags, a code fence around it all"
    )
    benchmarks: list[str] = flag(
        [],
        "test sets whose problems are left out: files, Hub names, or standard (GSM8K, MATH-500, AIME 2024 "
        "and 2025, AMC 2023)",
    )


@dataclass
class ProblemFlags:
    """What `prl data traces` asks for, and where the traces go."""

    problems: str | None = flag(
        None, "problems with answers: a file, a Hub name or arithmetic:easy; also without the flag"
    )
    split: str = flag("train", "of the data set, if it comes from the Hub")
    limit: int | None = None
    on_bad_rows: OnBadRows = "error"
    output_dir: str = "runs/traces"
    resume: bool = False
    overwrite_output_dir: bool = False
    dry_run: bool = flag(False, "say what would be asked and what it may cost, and ask nothing")


@dataclass
class TeacherFlags:
    """Who writes the traces, how, and what it may cost."""

    model_name_or_path: str = "tiny"
    base_url: str | None = flag(
        None,
        "the teacher's endpoint, such as http://localhost:8000/v1; if none: a model on this machine",
    )
    api_key_env: str | None = flag(
        None, "the environment variable that holds its key; if none: OPENAI_API_KEY, where it is set"
    )
    extra_body: str | None = flag(None, "more fields of every request, a JSON object; null leaves one out")
    mode: Literal["write", "annotate", "rewrite"] = flag(
        "write",
        "write: it writes parallel traces; annotate: it marks the blocks in its own solution, word for word; "
        "rewrite: several of its step-by-step solutions become the paths of one trace",
    )
    prompt_style: PromptStyle | None = None
    solutions: int = flag(
        3, "solutions that rewrite asks for, of which those that are right and differ become paths"
    )
    summary: Literal["teacher", "template"] = flag(
        "teacher",
        "who writes the summary of a rewrite: the teacher, or a sentence that names the answer",
    )
    samples: int = 1
    attempts: int = flag(1, "ask again until a trace passes, this many times in all")
    keep: int = flag(1, "most traces of a problem")
    max_tokens: int = flag(4096, "longest answer of the teacher")
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    concurrency: int = flag(8, "requests side by side")
    timeout: float = flag(120.0, "seconds until a request counts as failed")
    retries: int = flag(8, "tries after the first; with growing waits, longer where the teacher asks for it")
    max_requests: int | None = flag(None, "budget: requests, earlier runs into --output_dir included")
    max_total_tokens: int | None = flag(None, "budget: tokens of prompts and answers")
    max_cost: float | None = flag(None, "budget: money, by the two prices")
    prompt_price: float = flag(0.0, "price of a million prompt tokens")
    completion_price: float = flag(0.0, "price of a million tokens of answers")


@dataclass
class DataTracesArguments(CheckFlags, TeacherFlags, ProblemFlags):
    """Have a teacher write traces for problems, check each, and make a data set of those that pass.

    PROBLEMS is a file, a Hub name or arithmetic:easy. With --base_url the teacher is an OpenAI-compatible
    endpoint (vLLM, llama.cpp, Ollama, hosted), its key in OPENAI_API_KEY; without, a model on this machine.

      prl data traces gsm8k --base_url http://localhost:8000/v1 --model Qwen/Qwen3-32B --dry_run
      prl data traces problems.jsonl --model runs/mine/rl --samples 8       best of its own
    """

    repair: bool = True
    license: str | None = flag(None, "licence of the data set, for its card, such as cc-by-4.0")
    source_license: str | None = flag(None, "licence of the problems, for the card")
    device: Device = "auto"
    load_in_4bit: bool | None = None
    trust_remote_code: bool = False


@dataclass
class TraceFileFlags:
    """The traces that a command looks at."""

    file: str | None = flag(None, "a data set with traces: parquet, jsonl, json, csv, or a Hub name")
    split: str = "train"


@dataclass
class DataCheckArguments(CheckFlags, TraceFileFlags):
    """Say of every trace in a file whether one should train on it, and why not.

    Ends with status 1 where a trace is rejected; --accepted keeps the others, in the schema of `prl sft`.
    """

    judge_answers: bool = flag(
        True, "compare final answers with the gold ones; false: for a file that has none"
    )
    accepted: str | None = flag(None, "write the rows that pass to this .jsonl or .parquet file")
    rejected: str | None = flag(
        None, "write the rejected rows with their reasons to this .jsonl or .parquet file"
    )


@dataclass
class DataImportArguments(TraceFileFlags):
    """Write traces that are in another project's format as traces of prl.

    FILE has a column for the problem and one for the trace, which is in the format of Multiverse, of the
    Native Parallel Reasoner (npr) or of ThreadWeaver. The column context_paths of what is written says which
    paths end in another result than the answer, where there is one; that of FILE is kept.

      prl data import theirs.jsonl --format npr --output traces.parquet
    """

    format: Literal["multiverse", "npr", "threadweaver"] | None = flag(
        None, "whose format it is: multiverse, npr or threadweaver"
    )
    on_bad_rows: OnBadRows = "error"
    output: str = "imported.parquet"


@dataclass
class DataStatsArguments(TraceFileFlags):
    """Blocks, paths, lengths and diversity of the traces in a file."""

    tokenizer: str | None = None
    path_opening: Literal["none", "number", "plan"] = "none"


@dataclass
class DataShowArguments(TraceFileFlags):
    """Draw traces of a file, the paths of a block side by side, those that are context marked as such."""

    rows: list[int] = flag([1], "which rows to draw, from 1")
    path_opening: Literal["none", "number", "plan"] = "none"


@dataclass
class DataMixArguments:
    """Make one file of traces from several, in shares.

    SETS are files, Hub names or arithmetic:coldstart, each with a weight after a colon, or none with one.

      prl data mix runs/traces/traces.parquet:3 arithmetic:coldstart:1 --parallel_share 0.8
    """

    sets: list[str] = flag(
        [],
        "files, Hub names or arithmetic:coldstart, each with :WEIGHT or none; also without the flag",
    )
    split: str = "train"
    size: int | None = flag(None, "traces in all; if none: as many as the shares allow")
    parallel_share: float | None = flag(None, "share of traces that hold a block")
    levels: list[int] = field(default_factory=list)
    seed: int = 0
    output: str = "mix.parquet"


@dataclass
class DataPushArguments:
    """Send a data set of `prl data traces` with its card to the Hub.

    FOLDER is its --output_dir, REPO the name there. The token is the one of `hf auth login`, or in HF_TOKEN.

      prl data push runs/traces me/my-traces
    """

    folder: str | None = flag(None, "the --output_dir of `prl data traces`; also without the flag")
    repo: str | None = flag(None, "OWNER/NAME on the Hub; also without the flag")
    private: bool = flag(True, "only its owner sees it; --private false shows it to all")

"""What each command takes: one dataclass a command, and what each field is for.

Training commands also take every field of TRL's config (`TRAINER_CONFIGS`), so none is declared twice: there
`output_dir`, `seed`, `learning_rate` are TRL's. `--help` reads this module; it imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from prl.rewards import REWARDS

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cuda", "mps", "cpu"]
PromptStyle = Literal["parallel", "sequential", "bare"]
OnBadRows = Literal["error", "skip"]
Attention = Literal["auto", "causal", "structured"]
Sampling = Literal["uniform", "adaptive"]
Rehearse = Literal["auto", "on", "off"]


@dataclass
class SFTArguments:
    """Cold start: learn the format of parallel thinking from traces."""

    recipe: str | None = None
    model_name_or_path: str = "tiny"
    prompt_style: PromptStyle = "parallel"
    attention: Attention = "auto"
    device: Device = "auto"
    dtype: Dtype = "auto"
    load_in_4bit: bool = False
    threads: str = "auto"
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    tag_learning_rate: float | None = None
    dataset: str = "arithmetic:coldstart"
    dataset_split: str = "train"
    limit: int | None = None
    eval_dataset: str | None = None
    eval_dataset_split: str = "test"
    eval_limit: int | None = None
    on_bad_rows: OnBadRows = "error"
    sample_count: int = 32
    paths: str = "2"
    rehearse: Rehearse = "auto"
    resume: bool = False
    overwrite_output_dir: bool = False


@dataclass
class RLArguments:
    """Reinforcement learning (GRPO): turn the format into a skill."""

    recipe: str | None = None
    model_name_or_path: str = "tiny"
    prompt_style: PromptStyle = "parallel"
    attention: Attention = "auto"
    device: Device = "auto"
    dtype: Dtype = "auto"
    load_in_4bit: bool = False
    threads: str = "auto"
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    tag_learning_rate: float | None = None
    dataset: str = "arithmetic:hard"
    dataset_split: str = "train"
    limit: int | None = None
    eval_dataset: str | None = None
    eval_dataset_split: str = "test"
    eval_limit: int | None = None
    on_bad_rows: OnBadRows = "error"
    paths: str = "2"
    max_paths: int = 4
    max_blocks: int = 4
    max_path_length: int | None = None
    rollout_batch_size: int | None = None
    rewards: list[str] = field(default_factory=lambda: ["accuracy"])
    alternate: list[str] = field(default_factory=lambda: ["accuracy:8", "tiered:2"])
    alternate_window: int = 10
    overlong_buffer: int | None = None
    stages: list[str] | None = None
    easy_dataset: str | None = None
    levels: list[int] | None = None
    sampling: Sampling = "uniform"
    band: list[float] = field(default_factory=lambda: [0.2, 0.8])
    probe_samples: int = 0
    rehearse: Rehearse = "auto"
    resume: bool = False
    overwrite_output_dir: bool = False


@dataclass
class EvalArguments:
    """Accuracy, pass@k, parallel ratio and format validity, with 95 % intervals."""

    recipe: str | None = None
    model_name_or_path: str = "tiny"
    prompt_style: PromptStyle = "parallel"
    attention: Attention = "auto"
    device: Device = "auto"
    dtype: Dtype = "auto"
    load_in_4bit: bool = False
    threads: str = "auto"
    trust_remote_code: bool = False
    dataset: str = "arithmetic:heldout"
    dataset_split: str = "test"
    limit: int | None = None
    on_bad_rows: OnBadRows = "error"
    greedy: bool = True
    samples: int = 4
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_completion_length: int = 512
    paths: str = "2"
    max_paths: int = 4
    max_blocks: int = 4
    max_path_length: int | None = None
    batch_size: int = 64
    bootstrap: int = 1000
    seed: int = 0
    output_dir: str = "runs/default/eval"
    overwrite_output_dir: bool = False


@dataclass
class GenerateArguments:
    """Answer one problem: `prl generate "What is 17 * 23?" --model_name_or_path RUN`."""

    problem: str | None = None
    recipe: str | None = None
    model_name_or_path: str = "tiny"
    prompt_style: PromptStyle = "parallel"
    attention: Attention = "auto"
    device: Device = "auto"
    dtype: Dtype = "auto"
    load_in_4bit: bool = False
    threads: str = "auto"
    trust_remote_code: bool = False
    greedy: bool = False
    samples: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_completion_length: int = 512
    paths: str = "2"
    max_paths: int = 4
    max_blocks: int = 4
    max_path_length: int | None = None
    seed: int = 0


@dataclass
class MergeArguments:
    """Put an adapter into its base model, prove that nothing was lost, and write it for any engine."""

    model_name_or_path: str | None = None
    output_dir: str | None = None
    save_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    gguf: str | None = None
    gguf_type: Literal["f32", "f16", "bf16", "q8_0"] | None = None
    samples: int = 4
    max_completion_length: int = 256
    seed: int = 0
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    trust_remote_code: bool = False


@dataclass
class DataArguments:
    """Write the procedural problem and trace sets; the same bytes every time."""

    output_dir: str = "data"


@dataclass
class DemoArguments:
    """Cold start, RL and evaluation on the model that ships; prints before and after.

    Interrupted, the same command goes on where it was.
    """

    attention: Literal["causal", "structured"] = "causal"
    seed: int = 0
    output_dir: str = "runs/demo"
    overwrite_output_dir: bool = False
    quick: bool = False
    threads: str = "auto"


@dataclass
class CompareArguments:
    """Two demos or evaluations side by side, on the same problems: `prl compare FIRST SECOND`."""

    first: str | None = None
    second: str | None = None
    bootstrap: int = 1000


@dataclass
class RewardsArguments:
    """Score the stored responses of a run anew: `prl rewards replay RUN --reward tiered`."""

    run: str | None = None
    reward: list[str] = field(default_factory=lambda: ["accuracy", "tiered"])
    reward_weights: list[float] | None = None
    heldout: list[str] | None = None
    alternate: list[str] = field(default_factory=lambda: ["accuracy:8", "tiered:2"])
    alternate_window: int = 10
    overlong_buffer: int | None = None
    top: int = 3
    output: str | None = None


@dataclass
class StudyArguments:
    """The paper's experiments in miniature: arms × seeds, then tables, figures and claims with intervals."""

    study: str = "paper-mini"
    arms: list[str] | None = None
    seeds: int = 3
    recipe: str | None = None
    model_name_or_path: str | None = None
    output_dir: str = "runs/study"
    quick: bool = False
    jobs: str = "auto"
    trust_remote_code: bool = False


@dataclass
class DataTracesArguments:
    """Have a teacher write traces for problems, check each, and make a data set of those that pass.

    PROBLEMS is a file, a Hub name or arithmetic:easy. With --base_url the teacher is an OpenAI-compatible
    endpoint (vLLM, llama.cpp, Ollama, hosted), its key in OPENAI_API_KEY; without, a model on this machine.

      prl data traces gsm8k --base_url http://localhost:8000/v1 --model Qwen/Qwen3-32B --dry_run
      prl data traces problems.jsonl --model runs/mine/rl --samples 8       best of its own
    """

    problems: str | None = None
    split: str = "train"
    limit: int | None = None
    on_bad_rows: OnBadRows = "error"
    output_dir: str = "runs/traces"
    resume: bool = False
    overwrite_output_dir: bool = False
    dry_run: bool = False
    model_name_or_path: str = "tiny"
    base_url: str | None = None
    api_key_env: str | None = None
    extra_body: str | None = None
    mode: Literal["write", "annotate", "rewrite"] = "write"
    prompt_style: PromptStyle | None = None
    solutions: int = 3
    summary: Literal["teacher", "template"] = "teacher"
    samples: int = 1
    attempts: int = 1
    keep: int = 1
    max_tokens: int = 4096
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 8
    max_requests: int | None = None
    max_total_tokens: int | None = None
    max_cost: float | None = None
    prompt_price: float = 0.0
    completion_price: float = 0.0
    min_diversity: float = 0.1
    max_length: int | None = None
    tokenizer: str | None = None
    allow_sequential: bool = False
    ignore: list[str] = field(default_factory=list)
    repair: bool = True
    benchmarks: list[str] = field(default_factory=list)
    license: str | None = None
    source_license: str | None = None
    device: Device = "auto"
    load_in_4bit: bool | None = None
    trust_remote_code: bool = False


@dataclass
class DataCheckArguments:
    """Say of every trace in a file whether one should train on it, and why not.

    Ends with status 1 where a trace is rejected; --accepted keeps the others, in the schema of `prl sft`.
    """

    file: str | None = None
    split: str = "train"
    min_diversity: float = 0.1
    max_length: int | None = None
    tokenizer: str | None = None
    judge_answers: bool = True
    allow_sequential: bool = False
    ignore: list[str] = field(default_factory=list)
    repair: bool = False
    benchmarks: list[str] = field(default_factory=list)
    accepted: str | None = None
    rejected: str | None = None


@dataclass
class DataStatsArguments:
    """Blocks, paths, lengths and diversity of the traces in a file."""

    file: str | None = None
    split: str = "train"
    tokenizer: str | None = None


@dataclass
class DataShowArguments:
    """Draw traces of a file, the paths of a block side by side."""

    file: str | None = None
    split: str = "train"
    rows: list[int] = field(default_factory=lambda: [1])


@dataclass
class DataMixArguments:
    """Make one file of traces from several, in shares.

    SETS are files, Hub names or arithmetic:coldstart, each with a weight after a colon, or none with one.

      prl data mix runs/traces/traces.parquet:3 arithmetic:coldstart:1 --parallel_share 0.8
    """

    sets: list[str] = field(default_factory=list)
    split: str = "train"
    size: int | None = None
    parallel_share: float | None = None
    levels: list[int] = field(default_factory=list)
    seed: int = 0
    output: str = "mix.parquet"


@dataclass
class DataPushArguments:
    """Send a data set of `prl data traces` with its card to the Hub.

    FOLDER is its --output_dir, REPO the name there. The token is the one of `hf auth login`, or in HF_TOKEN.

      prl data push runs/traces me/my-traces
    """

    folder: str | None = None
    repo: str | None = None
    private: bool = True


@dataclass
class DoctorArguments:
    """Look at this machine, and say how much memory each stage will take and whether that fits.

    Any flag of the stages works too: `prl doctor rl --recipe 8gb --max_completion_length 2048`.
    """

    stage: str = "sft rl eval"
    recipe: str | None = None
    model_name_or_path: str | None = None
    memory: float | None = None
    fit: str | None = None


COMMANDS: dict[str, type] = {
    "doctor": DoctorArguments,
    "sft": SFTArguments,
    "rl": RLArguments,
    "eval": EvalArguments,
    "generate": GenerateArguments,
    "merge": MergeArguments,
    "data": DataArguments,
    "data traces": DataTracesArguments,
    "data check": DataCheckArguments,
    "data stats": DataStatsArguments,
    "data show": DataShowArguments,
    "data mix": DataMixArguments,
    "data push": DataPushArguments,
    "demo": DemoArguments,
    "compare": CompareArguments,
    "rewards replay": RewardsArguments,
    "study": StudyArguments,
}

STAGES = ("sft", "rl", "eval")
"""What `prl doctor` looks at."""

POSITIONAL = {
    "doctor": ("stage",),
    "generate": ("problem",),
    "merge": ("model_name_or_path",),
    "compare": ("first", "second"),
    "rewards replay": ("run",),
    "data traces": ("problems",),
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

HELP = {
    "recipe": "a recipe that ships (`prl recipes`), a YAML file, or several with + between; "
    "if none: by the GPU's free memory",
    "model_name_or_path": "Hub name, local model, adapter or run folder; `tiny` ships; short: --model",
    "prompt_style": "instruction around the problem: think in parallel, step by step, or none (bare)",
    "attention": "structured: the paths of a block do not see each other; auto: as the model was trained",
    "paths": "structured: paths of a block, a number from 2; auto: from 2 on the model decides on one more",
    "max_paths": "structured: most paths of a block where --paths is auto",
    "max_blocks": "structured: most blocks of a response that fork; a later <Parallel> is text",
    "max_path_length": "structured: longest path, in tokens; if none: an equal share of what is left",
    "device": "where to compute; auto: a CUDA GPU if there is one",
    "dtype": "precision; auto: bfloat16 where the GPU has it, float32 on a CPU",
    "save_dtype": "precision of the weights on disk; merging and proving is done in float32",
    "file": "a data set with traces: parquet, jsonl, json, csv, or a Hub name",
    "split": "of the data set, if it comes from the Hub",
    "min_diversity": "two paths that differ less are copies: 0 for the same words, 1 for none in common",
    "tokenizer": "count lengths in the tokens of this model instead of in characters",
    "judge_answers": "compare final answers with the gold ones; false: for a file that has none",
    "allow_sequential": "let traces without a block pass",
    "ignore": "reasons that do not count, such as ordering",
    "repair": "first put right what is mechanical: whitespace between tags, a code fence around it all",
    "max_length": "most characters of a trace; tokens, with --tokenizer",
    "problems": "problems with answers: a file, a Hub name or arithmetic:easy; also without the flag",
    "base_url": "the teacher's endpoint, such as http://localhost:8000/v1; if none: a model on this machine",
    "api_key_env": "the environment variable that holds its key; if none: OPENAI_API_KEY, where it is set",
    "extra_body": "more fields of every request, a JSON object; null leaves one out",
    "mode": "write: it writes parallel traces; annotate: it marks the blocks in its own solution, word for "
    "word; rewrite: several of its step-by-step solutions become the paths of one trace",
    "solutions": "solutions that rewrite asks for, of which those that are right and differ become paths",
    "summary": "who writes the summary of a rewrite: the teacher, or a sentence that names the answer",
    "attempts": "ask again until a trace passes, this many times in all",
    "keep": "most traces of a problem",
    "max_tokens": "longest answer of the teacher",
    "concurrency": "requests side by side",
    "timeout": "seconds until a request counts as failed",
    "retries": "tries after the first; with growing waits, or as long as the teacher asks for",
    "max_requests": "budget: requests, earlier runs into --output_dir included",
    "max_total_tokens": "budget: tokens of prompts and answers",
    "max_cost": "budget: money, by the two prices",
    "prompt_price": "price of a million prompt tokens",
    "completion_price": "price of a million tokens of answers",
    "dry_run": "say what would be asked and what it may cost, and ask nothing",
    "benchmarks": "test sets whose problems are left out: files, Hub names, or standard (GSM8K, MATH-500, "
    "AIME 2024 and 2025, AMC 2023)",
    "license": "licence of the data set, for its card, such as cc-by-4.0",
    "source_license": "licence of the problems, for the card",
    "sets": "files, Hub names or arithmetic:coldstart, each with :WEIGHT or none; also without the flag",
    "size": "traces in all; if none: as many as the shares allow",
    "parallel_share": "share of traces that hold a block",
    "folder": "the --output_dir of `prl data traces`; also without the flag",
    "repo": "OWNER/NAME on the Hub; also without the flag",
    "private": "only its owner sees it; --private false shows it to all",
    "accepted": "write the rows that pass to this .jsonl or .parquet file",
    "rejected": "write the rejected rows with their reasons to this .jsonl or .parquet file",
    "rows": "which rows to draw, from 1",
    "stage": "which stages to look at, one or more",
    "memory": "plan for a GPU with this many GiB free instead of for this machine",
    "fit": "write a recipe that fits to this file",
    "gguf": "also write this GGUF file, for llama.cpp; needs the gguf package",
    "gguf_type": "type of its matrices [f16]; without --gguf: write OUTPUT_DIR/model-TYPE.gguf",
    "load_in_4bit": "QLoRA: hold the base weights in 4 bits (NF4, double quantisation); needs bitsandbytes",
    "threads": "CPU threads: a number, or auto to time what is fastest now",
    "trust_remote_code": "run code that comes with the model, from authors whom you trust; no recipe can",
    "lora_r": "rank of the adapter: capacity for memory",
    "lora_alpha": "the adapter's output is scaled by alpha / r",
    "lora_dropout": "dropout on the adapter's input",
    "lora_target_modules": "layers that get an adapter: all-linear, or names",
    "tag_learning_rate": "learning rate of the six tag rows; if none: --learning_rate",
    "dataset": "Hub name, file (parquet, json, jsonl, csv) or arithmetic:coldstart|mixed|easy|hard|wide|"
    "heldout",
    "dataset_split": "split of a Hub data set, or of a JSON file that holds several",
    "limit": "take this many rows",
    "eval_dataset": "data for evaluations during training, named like --dataset",
    "eval_dataset_split": "split of a Hub data set for them",
    "eval_limit": "evaluate on this many rows",
    "on_bad_rows": "error: refuse a data set with bad rows; skip: leave them out with a warning",
    "sample_count": "responses sampled at each evaluation to see the format; 0: none",
    "rewards": f"of {', '.join(REWARDS)} (`prl.rewards` has the formulas), added up by --reward_weights",
    "alternate": "reward alternating: what it pays in turn, NAME:STEPS",
    "alternate_window": "steps after which it starts anew: what --alternate adds up to",
    "overlong_buffer": "reward overlong: tokens before the longest response over which it falls; "
    "if none: a fifth",
    "stages": "stages of the curriculum in order, each a JSON object (in a recipe: a YAML one) of name, "
    "dataset, levels, rewards, sampling, enter; `prl recipes show scaffold` has some",
    "easy_dataset": "what a stage calls dataset easy",
    "levels": "problems of these levels only",
    "sampling": "adaptive: draw problems by running pass rate, so that few groups are all right or wrong",
    "band": "adaptive: lowest and highest pass rate to draw",
    "probe_samples": "adaptive: responses to every problem before the first step, to know its pass rate",
    "run": "a run folder; also without the flag",
    "reward": "rewards to score with, named like --rewards",
    "reward_weights": "weights of their sum; if none: 1 each",
    "heldout": "evaluations of the run's checkpoints in order, for the alarm",
    "top": "responses to show that gain and lose most",
    "output": "file to write: numbers as .json, traces as .parquet or .jsonl",
    "study": "which one: paper-mini",
    "arms": "these only; if none: all",
    "seeds": "runs of each arm, with seeds 0, 1 …",
    "jobs": "runs side by side: a number, or auto: one a core, on a GPU one",
    "rehearse": "take the longest step that the data can ask for before the first one, to see that it fits; "
    "auto: on a GPU",
    "resume": "go on with the interrupted run in --output_dir",
    "overwrite_output_dir": "remove what an earlier run wrote to --output_dir",
    "greedy": "take the likeliest token at each step (eval: besides the samples)",
    "samples": "responses to sample for a problem",
    "temperature": "sampling temperature",
    "top_p": "sample from the likeliest tokens that hold this much probability",
    "top_k": "sample from this many of the likeliest tokens; 0: from all",
    "min_p": "leave out tokens less likely than this share of the likeliest one's probability",
    "max_completion_length": "longest response, in tokens",
    "rollout_batch_size": "responses decoded side by side; if none: all of a step; less: less memory, slower",
    "batch_size": "responses decoded side by side: speed for memory",
    "bootstrap": "resamples behind the 95 % intervals",
    "problem": "the problem; also without the flag, or on stdin",
    "seed": "seed of everything random",
    "output_dir": "folder to write to",
    "first": "a demo or evaluation folder; also without the flag",
    "second": "the one beside it; differences are second - first",
    "quick": "a few steps only: shows that it runs, not that it learns",
}

"""Flags of the commands that ask a model, or look at what one answered. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field

from prl.settings.flags import (
    DataFlags,
    PathFlags,
    PathOpening,
    SamplingFlags,
    TrustingModelFlags,
    flag,
)


@dataclass
class EvalArguments(PathFlags, SamplingFlags, DataFlags, TrustingModelFlags):
    """Accuracy, pass@k, maj@k, parallel ratio and format validity, with 95 % intervals."""

    models: list[str] | None = flag(
        None,
        "several, each MODEL or NAME=MODEL: evaluated in OUTPUT_DIR/NAME, the others against the first",
    )
    greedy: bool = True
    samples: int = 4
    batch_size: int = flag(64, "responses decoded side by side: speed for memory")
    latency: int = flag(
        0,
        "answer so many of the problems after the others, one response at a time on one thread: seconds a "
        "problem, and accuracy against them",
    )
    timed: bool = flag(False, "answer all problems so: --latency of all")
    bootstrap: int = flag(1000, "resamples behind the 95 % intervals")
    seed: int = flag(0, "seed of everything random")
    output_dir: str = flag("runs/default/eval", "folder to write to")
    resume: bool = False
    overwrite_output_dir: bool = False


@dataclass
class GenerateArguments(PathFlags, SamplingFlags, TrustingModelFlags):
    """Answer one problem: `prl generate "What is 17 * 23?" --model_name_or_path RUN`."""

    problem: str | None = flag(
        None, "the problem; also without the flag, or on stdin (show: words that the problem holds)"
    )
    seed: int = 0


@dataclass
class ShowArguments:
    """Draw responses of a run, an evaluation, a demo, a data file or stdin, paths side by side.

    SOURCE is a run folder (also of a run in progress), a folder of runs such as that of a demo, a data set
    with traces (parquet, jsonl, json, csv, Hub name), or - for what is piped in: a response, or JSON lines.
    Shown are 3 of those that match, or --limit, or all of --rows: of a run the latest step first, each step
    as it was sampled; of several runs the latest run first; of a file as they stand. What nobody has judged
    is judged where there is a gold answer. Conclusions of paths are read by rule (`prl.analysis.decide`).

      prl show runs/mine/rl --step last --wrong --disagree
      prl show runs/mine/eval --problem "47 * 36" --limit 8 | less -R
      prl generate "What is 17 * 23?" --model runs/mine/rl | prl show -
    """

    source: str | None = flag(None, "what to show; also without the flag, or on stdin")
    rows: list[int] | None = None
    step: str | None = flag(None, "of this step: its number, first or last")
    group: int | None = flag(
        None, "of this group: the samples of one problem at one step, from 0; of an evaluation its problems"
    )
    problem: str | None = None
    right: bool = flag(False, "whose answer is right")
    wrong: bool = flag(False, "whose answer is wrong")
    valid: bool = flag(False, "without a fault")
    faulty: bool = flag(False, "with a fault")
    disagree: bool = flag(
        False,
        "whose answer is wrong and a path concludes the gold one, or right and a path concludes otherwise in "
        "a block that settles it",
    )
    limit: int | None = None
    width: int | None = flag(None, "columns to draw in; if none: the terminal's, 120 at most")
    split: str = "train"
    path_opening: PathOpening = "auto"


@dataclass
class CompareArguments:
    """What differs between runs, evaluations, demos or adapters: settings, then figures, and how surely.

    All are held against the first. Those whose settings agree but for the seed are seeds of one method.

      prl compare runs/a/rl runs/b/rl                            two runs, at equal steps
      prl compare runs/demo runs/demo-structured                 two demos, model by model
      prl compare runs/a-*/eval runs/b-*/eval                    two methods, over their seeds
      prl compare runs/old-*/eval --against runs/new-*/eval      two methods, whatever their settings
    """

    runs: list[str] = field(default_factory=list)
    against: list[str] = flag(
        [], "the seeds of a second method, beside those named first; if none: settings say what is one"
    )
    figure: str | None = flag(
        None, "also draw accuracy against critical path, tokens and seconds to this file (.png, .svg, .pdf)"
    )
    output: str | None = None
    bootstrap: int = 1000


@dataclass
class ReportArguments:
    """Runs as one page, with curves, verdict and traces, that opens from disk: `prl report RUN ...`.

    With --serve the page is no file but a server's, and follows runs that go on, also through a kill and
    --resume; a run that has not begun yet is waited for. It is only seen from this machine, unless --host
    says otherwise: then its address, which is printed, holds a token, and nobody is answered without it.
    What is sent is not encrypted; from elsewhere, `ssh -L 8040:localhost:8040 MACHINE` needs no --host.
    """

    runs: list[str] = flag(
        [], "run folders, or folders that hold some (a demo); compare: adapters too; also without the flag"
    )
    output: str = "report.html"
    figures: str | None = flag(
        None,
        "also draw figures for papers and slides into this folder, each as .svg, .pdf and .png: over RL, "
        "block position, parallel ratio and accuracy; of evaluations, accuracy against cost; of a response, "
        "mask and positions",
    )
    all_samples: bool = flag(False, "keep all responses in the page, however large it gets")
    serve: bool = flag(
        False, "serve the page to browsers instead, and let it follow its runs; Ctrl-C ends it"
    )
    host: str = flag(
        "localhost", "serve: the name or address of this machine to be reached by; 0.0.0.0: by all"
    )
    port: int = flag(8040, "serve: the port to be reached at; 0: any that is free")


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
    output: str | None = flag(None, "file to write: numbers as .json, traces as .parquet or .jsonl, a page")

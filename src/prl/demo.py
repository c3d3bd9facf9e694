"""The whole method in minutes on a CPU: cold start, RL, and held-out accuracy at each stage (`prl demo`,
`make demo`).

Runs the stages of the recipe `tiny` one after another, as `make sft && make rl && make eval` would, and
evaluates the base, the cold start and the RL model on the same held-out problems. The base solves them
sequentially, without a tag: what the format costs a model of this size stands beside what RL wins. The cold
start decides on the attention, and all that follows keeps to it.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from prl import evaluation, rl, runs, sft
from prl.arguments import DemoArguments
from prl.config import Settings, resolve
from prl.evaluation import Estimate, EvalResult, paired_difference
from prl.progress import console
from prl.tiny import NAME

QUICK: dict[str, dict[str, Any]] = {
    "sft": {"limit": 64, "max_steps": 2, "sample_count": 4},
    "rl": {"limit": 32, "max_steps": 2, "max_completion_length": 32},
    "eval": {"limit": 8, "samples": 2, "max_completion_length": 32},
}
"""What `--quick` changes: enough to see that everything runs."""

EVALUATIONS = {"base": "eval-base", "SFT": "eval-sft", "RL": "eval-rl"}
"""Stage -> where its evaluation is in the folder of a demo."""


@dataclass(frozen=True)
class DemoResult:
    """The evaluations of base, SFT and RL; and the gain of RL over SFT in sampled held-out accuracy,
    paired."""

    stages: dict[str, EvalResult]
    gain: Estimate


def run(settings: Settings[DemoArguments]) -> DemoResult:
    """Run the demo; write a run folder for each stage and evaluation, and demo.json."""
    arguments, started = settings.arguments, time.monotonic()
    folder = Path(arguments.output_dir)

    def stage(command: str, output: str, model: str | Path, **given: Any) -> Settings[Any]:
        return resolve(
            command,
            recipe="tiny",
            model_name_or_path=str(model),
            threads=arguments.threads,
            seed=arguments.seed,
            output_dir=str(folder / output),
            overwrite_output_dir=True,
            **(QUICK[command] if arguments.quick else {}),
            **given,
        )

    def evaluate(name: str, model: str | Path) -> EvalResult:
        return evaluation.run(stage("eval", EVALUATIONS[name], model))

    stages = {"base": evaluate("base", NAME)}
    cold_start = sft.run(stage("sft", "sft", NAME, attention=arguments.attention))
    stages["SFT"] = evaluate("SFT", cold_start.folder)
    skill = rl.run(stage("rl", "rl", cold_start.folder))
    stages["RL"] = evaluate("RL", skill.folder)
    before, after = (stages[name].scores["sampled"] for name in ("SFT", "RL"))
    gain = paired_difference(before, after, seed=arguments.seed)

    minutes = (time.monotonic() - started) / 60
    runs.write_json(
        folder / "demo.json",
        {
            "attention": arguments.attention,
            "seed": arguments.seed,
            "quick": arguments.quick,
            "minutes": minutes,
            "gain": asdict(gain),
            "stages": {
                name: {metric: asdict(estimate) for metric, estimate in result.metrics.items()}
                for name, result in stages.items()
            },
        },
    )
    console.print(_comparison(stages))
    console.print(f"gain of RL over SFT in sampled accuracy: {gain}", markup=False)
    console.print(
        f"{arguments.attention} attention, seed {arguments.seed}, {minutes:.1f} minutes; "
        f"the runs are in {folder}",
        markup=False,
    )
    return DemoResult(stages, gain)


def _comparison(stages: dict[str, EvalResult]) -> Table:
    problems = len(next(iter(stages.values())).scores["sampled"])
    grid = Table(title=f"{problems} held-out problems, 95 % intervals", title_justify="left")
    grid.add_column("sampled at temperature 1")
    for name in stages:
        grid.add_column(name, justify="right")
    for metric in ("accuracy", "parallel_ratio", "format_valid"):
        grid.add_row(metric, *(str(result.metrics[f"sampled/{metric}"]) for result in stages.values()))
    return grid

"""The whole method in minutes on a CPU: cold start, RL, and held-out accuracy before, between and after (`prl
demo`, `make demo`).

Runs the commands of the recipe `tiny` one after another, as `make sft && make rl && make eval` would, and
evaluates the base, the cold start and the RL model on the same held-out problems. The base solves them
sequentially, without a tag: what the format costs a model of this size stands beside what RL wins. The cold
start decides on the attention, and all that follows keeps to it.

`.demo.json` says that a demo has begun, how and when; it goes when demo.json is written. While it is there,
the same command goes on: runs that are done since then are kept, one that was interrupted is resumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from prl import evaluation, rl, runs, sft
from prl.config import resolve
from prl.console import console
from prl.errors import RunError
from prl.evaluation import EvalResult, read_result
from prl.report.tables import paths_told, table
from prl.runs.disk import read_json, writing
from prl.settings import Settings
from prl.settings.arguments import DemoArguments
from prl.statistics import Estimate, paired_difference
from prl.tiny import NAME

QUICK: dict[str, dict[str, Any]] = {
    "sft": {"limit": 64, "max_steps": 2, "sample_count": 4},
    "rl": {"limit": 32, "max_steps": 2, "max_completion_length": 32},
    "eval": {"limit": 8, "samples": 2, "max_completion_length": 32},
}
"""What `--quick` changes: enough to see that everything runs."""

STATE = ".demo.json"

EVALUATIONS = {"base": "eval-base", "SFT": "eval-sft", "RL": "eval-rl"}
"""Model -> where its evaluation is in the folder of a demo."""


@dataclass(frozen=True)
class DemoResult:
    """The evaluations of the models base, SFT and RL, in `stages`; and the gain of RL over SFT in sampled
    held-out accuracy, paired."""

    stages: dict[str, EvalResult]
    gain: Estimate


def run(settings: Settings[DemoArguments]) -> DemoResult:
    """Run the demo, or what is left of it; write a run folder for each command, and demo.json.

    Raises RunError: the folder cannot be written, or holds an interrupted demo with other settings; and what
    the commands raise.
    """
    arguments, started = settings.arguments, time.monotonic()
    folder = Path(arguments.output_dir)
    begun, seconds = _begin(folder, arguments), 0.0

    def is_done(output: str) -> bool:
        nonlocal seconds
        done = runs.read_summary(folder / output) if _is_of_this(folder / output, begun) else None
        if done:
            console.print(f"{folder / output}: done already, kept", markup=False)
            seconds += done.get("wall_seconds", 0.0)
        return bool(done)

    def train(command: str, run: Callable[[Settings[Any]], Any], model: str | Path, **given: Any) -> Path:
        if not is_done(command):
            run(_asked(arguments, command, folder / command, model, begun, **given))
        return folder / command

    def evaluate(name: str, model: str | Path) -> EvalResult:
        output = folder / EVALUATIONS[name]
        if is_done(EVALUATIONS[name]):
            return read_result(output)
        return evaluation.run(_asked(arguments, "eval", output, model, begun))

    found = {"base": evaluate("base", NAME)}
    cold_start = train("sft", sft.run, NAME, attention=arguments.attention)
    found["SFT"] = evaluate("SFT", cold_start)
    skill = train("rl", rl.run, cold_start)
    found["RL"] = evaluate("RL", skill)
    before, after = (found[name].scores["sampled"] for name in ("SFT", "RL"))
    gain = paired_difference(before, after, seed=arguments.seed)

    minutes = (seconds + time.monotonic() - started) / 60
    runs.write_json(folder / "demo.json", _written(arguments, minutes, gain, found))
    with writing(folder):
        (folder / STATE).unlink(missing_ok=True)
    console.print(_comparison(found))
    for name, result in found.items():
        for line in paths_told(result.described.get("sampled", {})):
            console.print(f"{name}: {line}", style="dim", markup=False)
    console.print(f"gain of RL over SFT in sampled accuracy: {gain}", markup=False)
    console.print(
        f"{arguments.attention} attention, seed {arguments.seed}, {minutes:.1f} minutes; "
        f"the runs are in {folder}",
        markup=False,
    )
    return DemoResult(found, gain)


def _asked(
    arguments: DemoArguments, command: str, output: Path, model: str | Path, begun: str, **given: Any
) -> Settings[Any]:
    """One command of the demo; a training that this demo began is resumed."""
    resume = command != "eval" and _is_of_this(output, begun)
    return resolve(
        command,
        recipe="tiny",
        model_name_or_path=str(model),
        threads=arguments.threads,
        seed=arguments.seed,
        output_dir=str(output),
        **({"resume": True} if resume else {"overwrite_output_dir": True}),
        **(QUICK[command] if arguments.quick else {}),
        **given,
    )


def _written(
    arguments: DemoArguments, minutes: float, gain: Estimate, found: dict[str, EvalResult]
) -> dict[str, Any]:
    """What demo.json holds."""
    return {
        "attention": arguments.attention,
        "seed": arguments.seed,
        "quick": arguments.quick,
        "minutes": minutes,
        "gain": asdict(gain),
        "stages": {
            name: {metric: asdict(estimate) for metric, estimate in result.metrics.items()}
            for name, result in found.items()
        },
        "analysis": {name: result.described for name, result in found.items()},
    }


def _begin(folder: Path, arguments: DemoArguments) -> str:
    """When the demo in `folder` began: now, unless one was interrupted there. Raises RunError."""
    asked = {name: getattr(arguments, name) for name in ("attention", "seed", "quick")}
    stored = {} if arguments.overwrite_output_dir else read_json(folder / STATE)
    if "begun_at" in stored:
        if other := [
            f"{name} {stored.get(name)}, not {value}"
            for name, value in asked.items()
            if stored.get(name) != value
        ]:
            raise RunError(
                f"{folder} holds an interrupted demo with {'; '.join(other)}: ask for the same to go on with "
                "it, choose another --output_dir, or pass --overwrite_output_dir"
            )
        console.print(
            f"{folder}: going on with the demo that was begun at {stored['begun_at']}", markup=False
        )
        return str(stored["begun_at"])
    if finished := read_json(folder / "demo.json"):
        had = ", ".join(f"{name} {finished.get(name)}" for name in asked)
        console.print(f"{folder}: the finished demo there ({had}) is replaced", markup=False)
    begun = datetime.now(UTC).isoformat(timespec="seconds")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "demo.json").unlink(missing_ok=True)
    runs.write_json(folder / STATE, asked | {"begun_at": begun})
    return begun


def _is_of_this(folder: Path, begun: str) -> bool:
    """Whether a run was started by the demo that began then, and not by an earlier one."""
    return str(read_json(folder / "environment.json").get("started_at", "")) >= begun


def _comparison(found: dict[str, EvalResult]) -> Table:
    problems = len(next(iter(found.values())).scores["sampled"])
    metrics = {
        f"{name}/{metric}": result.metrics[f"sampled/{metric}"]
        for metric in ("accuracy", "parallel_ratio", "format_valid")
        for name, result in found.items()
    }
    title = f"{problems} held-out problems, 95 % intervals"
    return table(metrics, title, heading="sampled at temperature 1")

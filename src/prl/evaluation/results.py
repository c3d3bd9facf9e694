"""What an evaluation leaves in its folder, as it is read again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prl.errors import RunError
from prl.statistics import Estimate


@dataclass(frozen=True)
class EvalResult:
    """`metrics` by name; `scores` is the share of right samples of each problem (for paired comparisons),
    shape (problems,); `described`, `prl.analysis.describe` of the samples of each mode."""

    folder: Path
    metrics: dict[str, Estimate]
    scores: dict[str, list[float]]
    described: dict[str, dict[str, float | None]] = field(default_factory=dict)


def read_result(folder: Path) -> EvalResult:
    """What `run` returned when it wrote `folder`. Raises RunError for another results.json than it writes."""
    results = read_results(folder)
    try:
        metrics = {name: Estimate(**found) for name, found in results["metrics"].items()}
        return EvalResult(folder, metrics, dict(results["scores"]), dict(results.get("analysis", {})))
    except (TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{folder / 'results.json'} cannot be read: evaluate again") from error


def read_results(folder: Path) -> dict[str, Any]:
    """What results.json of an evaluation holds. Raises RunError."""
    path = folder / "results.json"
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"metrics", "scores", "seed", "dataset"} - results.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{path} cannot be read ({error}): evaluate again") from error
    if missing:
        raise RunError(f"{path} holds no {', '.join(sorted(missing))}: evaluate again")
    return results

"""Runs as `prl report` reads them, made without a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from prl.grammar import parse
from prl.runs import sample_row
from prl.runs.samples import merge_shards, write_shard

BLOCK = "<Parallel><Path>6*7=42</Path><Path>7*6=42</Path></Parallel><Summary>42</Summary>"

HOSTILE = {
    "script": "<script>document.title='owned'</script>",
    "end of script": "</script><script>document.title='owned'</script>",
    "onerror": "<img src=x onerror=\"document.title='owned'\">",
    "javascript": "<a href=\"javascript:document.title='owned'\">x</a> [x](javascript:alert(1))",
    "comment": "<!-- <script> --!> {{ 7*7 }} ${7*7} ]]>",
    "characters": "\u202eright to left\u2066 \x1b[31mred \x07 \x00 \u2028 \u2029 \ud7ff",
    "long": "long " * 200_000,
}


def _settle(folder: Path, command: str, started: str, **settings: Any) -> None:
    folder.mkdir(parents=True)
    config = {"command": command, "recipe": "tiny", command: settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    argv = ["prl", command, "--recipe=tiny", "--seed=3", "--overwrite_output_dir"]
    environment = {
        "prl": "0.1.0", "git_commit": "abc", "platform": "Linux", "cpu_count": 2, "gpus": [], "argv": argv,
        "versions": {"torch": "2.13"}, "started_at": started, "command": command, "resumed_at": [],
    }  # fmt: skip
    (folder / "environment.json").write_text(json.dumps(environment))


def rl_run(
    folder: Path,
    steps: int,
    *,
    groups: int = 1,
    size: int = 4,
    right: Callable[[int], bool] = lambda step: step % 2 == 1,
    reward: Callable[[int, int], float] | None = None,
    text: Callable[[int, int], str] = lambda step, row: f"{BLOCK} Final Answer: {step}.{row}",
    problem: str = "Compute 6 * 7.",
    model: str = "tiny",
) -> Path:
    """A finished RL run of `steps` steps with `groups` groups of `size` responses each."""
    _settle(folder, "rl", "2026-01-01T00:00:00", model_name_or_path=model, dataset="arithmetic:hard", seed=3)
    rows: list[dict[str, Any]] = []
    lines = []
    for step in range(1, steps + 1):
        correct = float(right(step))
        for row in range(groups * size):
            written = text(step, row)
            rows.append(
                sample_row(f"{problem} ({step}.{row // size})", "42", parse(written), [1, 2], truncated=False)
                | {
                    "step": step, "command": "rl", "correct": correct, "group": float(row // size),
                    "extracted": "42", "verdict": "identical" if correct else "different",
                    "advantage": 0.5 - row % 2, "critical_path": 7.0,
                    "reward_accuracy": correct if reward is None else reward(step, row),
                }
            )  # fmt: skip
        lines.append(
            {
                "step": step, "reward": correct, "rewards/accuracy_reward/mean": correct, "correct": correct,
                "parallel_ratio": 1.0, "format_valid": 1.0, "frac_reward_zero_std": 0.5, "entropy": 0.1,
                "completions/mean_length": 20.0, "step_time": 1.5, "loss": 0.1, "sampling_gap/max": 1e-5,
            }
        )  # fmt: skip
    write_shard(folder, 0, rows)
    merge_shards(folder)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "DONE").write_text('{"command": "rl"}')
    return folder


def evaluation(
    folder: Path,
    scores: Sequence[float],
    problems: str = "Compute",
    text: str = "",
    *,
    greedy: Sequence[float] = (),
    model: str = "tiny",
    **more: Any,
) -> Path:
    """A finished evaluation with one sample a problem; `more` columns are the same for all."""
    _settle(folder, "eval", "2026-01-02T00:00:00", model_name_or_path=model, dataset="arithmetic:heldout")
    by_mode = {"sampled": [*scores]} | ({"greedy": [*greedy]} if greedy else {})
    rows = [
        sample_row(f"{problems} {number}", "42", parse(text or f"{BLOCK} {number}"), [1], truncated=False)
        | {"step": 0, "command": "eval", "mode": mode, "correct": float(score)}
        | {"extracted": "42", "verdict": "identical"}
        | more
        for mode, of_mode in by_mode.items()
        for number, score in enumerate(of_mode)
    ]
    write_shard(folder, 0, rows)
    merge_shards(folder)
    results = {
        "dataset": "arithmetic:heldout",
        "problems": len(scores),
        "samples": 1,
        "scores": by_mode,
        "metrics": {
            f"{mode}/{name}": {"mean": mean, "low": mean, "high": mean}
            for mode in by_mode
            for name, mean in {"parallel_ratio": 1.0, "tokens": 1.0, "critical_path": 7.0}.items()
        },
    }
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "DONE").write_text('{"command": "eval"}')
    return folder

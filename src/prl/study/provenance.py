"""Where the numbers of a study come from, as its report says it: what was asked, of which problems, at which
commits, where, and how long it took; of a study in parts, part by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from prl.analysis.budgets import asked
from prl.study.document import Grid, Part
from prl.study.results import Study

_LIBRARIES = ("torch", "transformers", "trl", "peft")
_DIGITS = 12  # of a commit in a table of parts


def provenance(study: Study) -> list[Part]:
    """One table of facts; of a merged study (`prl.study.parts.merge`) what holds of all parts, then a table
    of the parts, each with a command that runs it alone."""
    parts: Mapping[str, Mapping[str, Any]] = study.settings.get("parts", {})
    problems = [each["held_out"] for each in parts.values()] if parts else [held_out(study)]
    told: list[Part] = _of_parts(study, parts) if parts else [_alone(study)]
    if any(least != most for of in problems for each in of.values() for least, most in each.values()):
        told.append(
            "A range is of problems from seed to seed, and of samples from problem to problem: one that was "
            "drawn twice was asked twice."
        )
    if {name for name in study.evaluations if name.endswith(tuple(f" ({part})" for part in parts))}:
        told.append(
            "A part in brackets is whose an evaluation is that answered other problems than another part's "
            "of its name."
        )
    return told


def held_out(study: Study) -> dict[str, dict[str, tuple[int, int]]]:
    """Data set -> the fewest and the most `problems` that an evaluation has of it, and `samples` of one."""
    found: dict[str, tuple[list[int], list[int]]] = {}
    for each in (one for seeds in study.evaluations.values() for one in seeds.values()):
        problems, samples = found.setdefault(each.dataset, ([], []))
        problems.append(len(each.problems))
        samples += Counter(row["problem"] for row in asked(each.rows)).values()
    return {
        dataset: {
            "problems": (min(problems), max(problems)),
            "samples": (min(samples, default=0), max(samples, default=0)),
        }
        for dataset, (problems, samples) in found.items()
    }


def _alone(study: Study) -> Grid:
    environment: Mapping[str, Any] = study.settings.get("environment") or {}
    facts = {
        "command": f"`{_command(study.settings)}`",
        "commit": ", ".join(f"`{commit}`" for commit in study.commits) or "unknown",
        "machine": _machine(environment),
        "versions": _versions(environment),
        "time": f"{_hours(study.elapsed_seconds)} in which runs were under way, "
        f"{_hours(study.run_seconds)} in all runs together",
        "held-out problems": _problems(held_out(study)),
    }
    return Grid(["study", ""], [[name, value] for name, value in facts.items()])


def _of_parts(study: Study, parts: Mapping[str, Mapping[str, Any]]) -> list[Part]:
    having: dict[str, list[str]] = {}
    for name, of in parts.items():
        having.setdefault(_versions(of["environment"]), []).append(name)
    versions = [f"{each} ({', '.join(names)})" if len(having) > 1 else each for each, names in having.items()]
    facts = {
        "versions": "; ".join(versions),
        "time": f"{_hours(study.elapsed_seconds)}, the sum over parts of the time in which runs were under "
        f"way; {_hours(study.run_seconds)} in all runs together",
    }
    rows = [
        [
            name,
            str(of["seeds"]),
            ", ".join(f"`{commit[:_DIGITS]}`" for commit in of["commits"]) or "unknown",
            _machine(of["environment"]),
            f"{_hours(of['elapsed_seconds'])} ({_hours(of['run_seconds'])})",
            _problems(of["held_out"]),
            f"`{_command(of)}`",
        ]
        for name, of in parts.items()
    ]
    heads = ["part", "seeds", "commit", "machine", "time (all runs)", "held-out problems", "command"]
    return [Grid(["study", ""], [[name, value] for name, value in facts.items()]), Grid(heads, rows)]


def _command(settings: Mapping[str, Any]) -> str:
    """The command that asks for the same; where it writes, and how many runs at once, is left out."""
    words = ["prl study", str(settings.get("study", ""))]
    part, arms = settings.get("part"), " ".join(settings["arms"])
    words += [f"--part {part}"] if part else []
    words += [
        f"--{key} {settings[key]}" for key in ("seeds", "recipe", "model_name_or_path") if settings.get(key)
    ]
    words += ["--quick"] if settings.get("quick") else []
    return " ".join(words if part else [*words, f"--arms {arms}"])


def _machine(environment: Mapping[str, Any]) -> str:
    if not environment.get("platform"):
        return "unknown"
    gpus = environment.get("gpus") or ["no GPU"]
    return ", ".join([f"{environment['platform']}, {environment.get('cpu_count')} cores", *gpus])


def _versions(environment: Mapping[str, Any]) -> str:
    versions = environment.get("versions") or {}
    return ", ".join(f"{name} {versions[name]}" for name in _LIBRARIES if name in versions) or "unknown"


def _problems(found: Mapping[str, Mapping[str, tuple[int, int]]]) -> str:
    told = [
        f"{_span(each['problems'])} of {dataset}, {_span(each['samples'])} samples"
        for dataset, each in found.items()
    ]
    return "; ".join(told) or "none yet"


def _span(span: tuple[int, int]) -> str:
    least, most = span
    return f"{least}" if least == most else f"{least}–{most}"


def _hours(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"

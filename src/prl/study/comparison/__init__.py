"""Anything beside anything: what differs in settings, then in figures, and how surely (`prl compare`).

    prl compare runs/demo runs/demo-structured                  two demos, model by model
    prl compare runs/a/rl runs/b/rl                             two runs, at equal steps
    prl compare runs/a-*/eval runs/b-*/eval                     two methods, over their seeds
    prl compare runs/old-*/eval --against runs/new-*/eval       the same, told by hand what belongs together
    prl compare runs/a runs/b --figure frontiers.png --output compared.json

An input is a run (sft, rl, eval), a demo, an adapter, or a folder that holds runs. Inputs whose settings
agree but for the seed are seeds of one method (`prl.study.comparison.methods`); each method has a letter, and
all are held against A. Of single models a difference is of these models on these problems; only over seeds it
is of methods, and the output says which.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from prl import runs
from prl.console import console
from prl.errors import RunError, UsageError
from prl.report.frontiers import plot_frontiers
from prl.runs.disk import check_replaceable
from prl.settings import Settings
from prl.settings.arguments import CompareArguments
from prl.study.comparison import evaluations, trainings
from prl.study.comparison.evaluations import Comparison, compare
from prl.study.comparison.figures import Compared, Difference, Figures
from prl.study.comparison.methods import Method, by_hand, differing, grouped, parted, remarks
from prl.study.comparison.subjects import CONTENT, DATA, KINDS, read_named
from prl.study.comparison.telling import tell

__all__ = ["Compared", "Comparison", "Difference", "Figures", "Method", "compare", "compare_all", "run"]

Folder = str | os.PathLike[str]

_NOUNS = {"evaluation": "an evaluation", "adapter": "an adapter", "rl": "an RL run", "sft": "an SFT run"}


def run(settings: Settings[CompareArguments]) -> Compared:
    """Compare what is named, print it, and draw and write it where that is asked. Raises as `compare_all`,
    and UsageError: a file that cannot be written, or a figure where no evaluations are compared."""
    arguments = settings.arguments
    if arguments.output:
        check_replaceable(Path(arguments.output), "--output")
    found = compare_all(arguments.runs, arguments.against, resamples=arguments.bootstrap)
    tell(found)
    if arguments.output:
        runs.write_json(Path(arguments.output), found.written, "--output")
        console.print(f"numbers: {arguments.output}", markup=False)
    if arguments.figure:
        _draw(Path(arguments.figure).expanduser(), found)
    return found


def compare_all(
    folders: Iterable[Folder], against: Iterable[Folder] = (), *, resamples: int = 1000
) -> Compared:
    """What differs between runs, demos, evaluations and adapters, and by how much; nothing is printed.

    `against` names the seeds of a second method, where `folders` are those of the first. Raises UsageError:
    there is one alone; RunError: a folder that holds nothing to compare, evaluations of other data sets or
    modes, or inputs that have nothing in common.
    """
    sides = [[read_named(Path(folder).expanduser()) for folder in side] for side in (folders, against)]
    apart, parts = parted([named for side in sides for named in side])
    inputs = [named for each in apart for named in each]
    if len(inputs) < 2:
        raise UsageError(
            f"{inputs[0].name} is alone: name a run, an evaluation, a demo or an adapter beside it"
        )
    if sides[1]:
        first = sum(map(len, apart[: len(sides[0])]))
        methods = by_hand([inputs[:first], inputs[first:]])
    else:
        methods = grouped(inputs)
    is_mixed = any(part not in named.parts for part in parts or [""] for named in inputs)
    views = [""] if is_mixed else parts
    figures = {part: found for part in parts if (found := _figures(part, methods, resamples))}
    said = [] if sides[1] else remarks(methods)
    if not figures:
        said.append(_without_figures(methods, views))
    kinds = {subject.kind for named in inputs for subject in named.parts.values()}
    shapes = differing(methods, views, "adapter") if "adapter" in kinds else {}
    settings = _seeds(methods) | shapes | differing(methods, views, "settings")
    return Compared(
        tuple(methods),
        {name: cells for name, cells in settings.items() if not _is_told(name, settings)},
        differing(methods, views, "environment"),
        figures,
        tuple(said),
    )


def _figures(part: str, methods: Sequence[Method], resamples: int) -> Figures | None:
    """What was measured as `part`; None of adapters."""
    subjects = {method.letter: found for method in methods if (found := method.of(part))}
    kind = next(iter(next(iter(subjects.values())).values())).kind
    folders = {
        letter: {seed: subject.folder for seed, subject in each.items()} for letter, each in subjects.items()
    }
    if kind == "eval":
        return evaluations.compare_all(part, folders, resamples=resamples)
    return trainings.compare_all(part, kind, folders, resamples=resamples) if kind != "adapter" else None


def _without_figures(methods: Sequence[Method], views: Sequence[str]) -> str:
    """Why only settings are compared. Raises RunError: they have none in common either."""
    subjects = {m.letter: next(iter(m.of(views[0]).values())) for m in methods}
    kinds = {letter: KINDS[subject.kind] for letter, subject in subjects.items()}
    said = [{*subject.settings, *subject.adapter} - {"made by"} for subject in subjects.values()]
    if not any(said[0] & other for other in said[1:]):
        names = ", ".join(f"{subject.folder} ({KINDS[subject.kind]})" for subject in subjects.values())
        raise RunError(
            f"nothing to compare in {names}: they have neither settings nor figures in common; name two of a "
            "kind, such as evaluations of both"
        )
    if {*kinds.values()} == {"adapter"}:
        return "Adapters have no figures of their own: `prl eval --models A B` measures them."
    told = ", ".join(f"{letter} is {_NOUNS[kind]}" for letter, kind in kinds.items())
    return f"No figures: {told}. Name two of a kind, such as evaluations of both."


def _seeds(methods: Sequence[Method]) -> dict[str, list[str]]:
    """The seeds of each, where not all have the same; none where an input says none."""
    if not all(any(s.seeds for s in n.parts.values()) for m in methods for n in m.seeds.values()):
        return {}
    cells = [" ".join(map(str, method.seeds)) for method in methods]
    return {"seed": cells} if len({*cells}) > 1 else {}


def _is_told(name: str, settings: Mapping[str, Sequence[str]]) -> bool:
    """Whether the data are others because other data, or another seed of what is drawn, were asked for."""
    command, _, setting = name.rpartition(".")
    return setting == CONTENT and any(key in settings for key in ("seed", *(f"{command}.{x}" for x in DATA)))


def _draw(path: Path, found: Compared) -> None:
    """Save the frontiers of the last evaluations that were compared. Raises UsageError."""
    part = next((part for part, each in reversed([*found.figures.items()]) if each.of == "evaluation"), None)
    if part is None:
        raise UsageError(f"--figure {path} is drawn of evaluations, and none are compared here: leave it out")
    figures = found.figures[part]
    named = {
        figures.labels[method.letter]: [subject.folder for subject in method.of(part).values()]
        for method in found.methods
        if method.letter in figures.labels
    }
    figure = plot_frontiers(named, mode=figures.mode)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise UsageError(f"--figure {path} cannot be written ({error}): name a .png, .svg or .pdf") from error
    console.print(f"figure: {path}", markup=False)

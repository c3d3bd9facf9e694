"""Responses to problems with alternatives: sequential ones, and blocks in which paths share the work or vote.

Paths are written without numbers: `--path_opening number` puts them there, and then path i takes the i-th
share. Which paths are wrong, and so context and no target, comes back with the trace.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from prl.data.search.problems import Alternative, Problem
from prl.grammar import FOUND, render
from prl.prompts import FINAL_ANSWER

NOTHING = "no."
"""What a path writes that has no alternative to try."""

_RESULT = re.compile(r"(?<==)\d+")
_ERRORS = (1, -1, 2, -2, 10, -10, 100, -100)


@dataclass(frozen=True)
class Written:
    """A response, and the paths of it, counted from 0 in written order, that are context and no targets."""

    trace: str
    context_paths: list[int] = field(default_factory=list)


def sequential(rng: Random, problem: Problem, *, anywhere: bool = False, terse: bool = False) -> Written:
    """Alternatives in their order until one gives the target; or one way to the answer. `anywhere`: beginning
    with any of them, and going round. `terse`: of each step what it comes to, and nothing else."""
    if problem.target is None:
        steps, _ = rng.choice(problem.alternatives).work(_exactly)
        steps = " ".join(_RESULT.findall(steps)) if terse else steps
    else:
        begin = rng.randrange(problem.level) if anywhere else 0
        order = problem.alternatives[begin:] + problem.alternatives[:begin]
        steps = _tried(order, problem.target, terse=terse)
    return Written(f"{steps}\n\n{FINAL_ANSWER} {problem.answer}")


def divided(
    rng: Random,
    problem: Problem,
    paths: int,
    *,
    plan: bool = False,
    shuffled: bool = False,
    late: bool = False,
) -> Written:
    """One block whose path i tries the alternatives i, i + paths, …; the path that finds the target says so.

    `plan`: the main thread says first which labels each path takes, and there are no more paths than
    alternatives. `shuffled`: which path takes which share is chance. `late`: the main thread solves the
    problem first, and the block does it again.
    """
    assert problem.target is not None
    if plan:  # a number may be dealt nothing to do; what has nothing to do is not planned
        paths = min(paths, problem.level)
    shares = [problem.alternatives[start::paths] for start in range(paths)]
    if shuffled:
        rng.shuffle(shares)
    texts = [_tried(share, problem.target) if share else NOTHING for share in shares]
    before = f"{_tried(problem.alternatives, problem.target)}\n\n" if late else ""
    if plan:
        before += "".join(f"{' '.join(each.label for each in share)}\n" for share in shares)
    return Written(f"{before}{render(texts, f'{FOUND} {problem.answer}')}\n\n{FINAL_ANSWER} {problem.answer}")


def voting(
    rng: Random,
    problem: Problem,
    paths: int,
    *,
    wrong: int = 0,
    summary_only: bool = False,
    plan: bool = False,
    shuffled: bool = False,
    late: bool = False,
) -> Written:
    """One block whose path i goes the i-th way, `wrong` of them with a slip; the summary lists what they come
    to and takes what most do.

    Where the right result would not be alone in front, fewer slip; of two paths that differ neither is, so
    there the summary goes the first way again. `summary_only`: all paths are context, so that the summary
    alone is learned. `late`: the main thread goes one way first, and its result has a vote.
    """
    ways = list(problem.alternatives[:paths])
    if shuffled or late:
        ways = rng.sample(problem.alternatives, paths)
    first = rng.choice([way for way in problem.alternatives if way not in ways] or ways) if late else None
    results = [way.work(_exactly) for way in ways]
    right = int(problem.answer)
    slipped = rng.sample(range(paths), min(wrong, paths - 1))
    decides = paths + bool(first) > 2
    for at in slipped:
        kept = results[at]
        results[at] = _slip(rng, ways[at])
        if decides and not _is_in_front(right, [total for _, total in results] + [right] * bool(first)):
            results[at] = kept
    totals = [total for _, total in results]
    context = [*range(paths)] if summary_only else [at for at, total in enumerate(totals) if total != right]
    before = f"{first.work(_exactly)[0]}\n\n" if first else ""
    if plan:
        before += "".join(f"{text.partition('=')[0]}\n" for text, _ in (way.work(_exactly) for way in ways))
    votes = ([right] if first else []) + totals
    summary = f"{', '.join(map(str, votes))}: {right}"
    if not decides and len(set(votes)) > 1:
        summary = f"{', '.join(map(str, votes))}. {problem.alternatives[0].work(_exactly)[0]}"
    block = render([text for text, _ in results], summary)
    return Written(f"{before}{block}\n\n{FINAL_ANSWER} {problem.answer}", context)


def _tried(alternatives: Sequence[Alternative], target: int, *, terse: bool = False) -> str:
    """The work on each until one gives the target; the target stands after each result, where it is easy to
    compare."""
    lines = []
    for label, work in alternatives:
        steps, total = work(_exactly)
        found = total == target
        shown = " ".join(_RESULT.findall(steps)) if terse else f"{steps} {total} {target}"
        lines.append(f"{label}: {shown} {f'{FOUND} {label}' if found else NOTHING}")
        if found:
            break
    return "\n".join(lines)


def _slip(rng: Random, way: Alternative) -> tuple[str, int]:
    """The work with one step that goes wrong, so that another result comes out."""
    results: list[int] = []

    def count(exact: int) -> int:
        results.append(exact)
        return exact

    right = way.work(count)
    at = rng.randrange(len(results))
    errors = [
        error for error in _ERRORS if results[at] + error >= 0 and abs(error) <= max(2, results[at] // 2)
    ]
    error = rng.choice(errors)
    taken = iter(range(len(results)))
    slipped = way.work(lambda exact: exact + error if next(taken) == at else exact)
    return slipped if slipped[1] >= 0 else right


def _is_in_front(value: int, totals: Sequence[int]) -> bool:
    """Whether more come to `value` than to anything else."""
    counts = Counter(totals)
    return all(counts[value] > count for total, count in counts.items() if total != value)


def _exactly(result: int) -> int:
    return result

"""The reward lab: score the stored responses of a run under any reward (`prl rewards replay`).

    prl rewards replay runs/default/rl --reward accuracy diversity --reward_weights 1 0.2

What rewards would have paid for responses that exist already, in seconds and without training: how their
values are distributed, in how many groups all are equal (these teach nothing), how far they go along with
right answers, whether they rose during the run, and which responses gain and lose most against what the run
paid. An alarm, the mark of a hacked reward, says where a reward rose while accuracy fell.

It is a judgement on what this policy wrote; one that is trained on another reward will write other things.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import wrap

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from prl import runs
from prl.console import console
from prl.errors import UsageError
from prl.rewards import ALTERNATING, Pattern, read_pattern, reward_functions
from prl.runs.disk import check_replaceable
from prl.settings import Settings
from prl.settings.arguments import RewardsArguments
from prl.statistics import Estimate
from prl.study.lab_measures import (
    Accuracy,
    Ranges,
    Sample,
    Scores,
    accuracy_of,
    describe,
    movers,
    ranges_of,
    read,
    score,
    tag_ids_of,
    weighted_sum,
)

PAID, SUM = "paid", "sum"
"""The rows beside the rewards asked for: what the run itself paid, and their weighted sum."""

_COUNT_TOKENS = {"efficiency", "gated_efficiency"}  # where the ids of the tags are known
_EXCERPT_LINES = 3
_SIGNED = "{:+.3f}"
_VERDICTS = {True: "right", False: "wrong", None: "not judged"}


@dataclass(frozen=True)
class Replay:
    """A run under other rewards.

    rewards      what the run paid, each reward asked for, and their sum
    alarms       those that rose while accuracy fell, each interval on its side of 0
    gain, lose   the responses whose advantage rises and falls most, at most one of a group
    notes        what a reader must know of how it was measured
    """

    run: str
    responses: int
    groups: int
    ranges: Ranges
    rewards: dict[str, Scores]
    accuracy: Accuracy
    alarms: tuple[str, ...]
    gain: tuple[Sample, ...]
    lose: tuple[Sample, ...]
    notes: tuple[str, ...]


def run(settings: Settings[RewardsArguments]) -> Replay:
    """Replay a run, print what came out, and write it to `--output`. Raises PrlError for what the user can
    mend."""
    arguments = settings.arguments
    if not arguments.run:
        raise UsageError("no run to score; name one: `prl rewards replay runs/default/rl --reward tiered`")
    pattern, faults = read_pattern(arguments.alternate, arguments.alternate_window)
    if faults and "alternating" in arguments.reward:
        raise UsageError("alternate: " + "; ".join(faults))
    if arguments.output:
        check_replaceable(Path(arguments.output), "--output")
    found = replay(
        arguments.run,
        arguments.reward,
        arguments.reward_weights,
        arguments.heldout,
        pattern=pattern,
        overlong_buffer=arguments.overlong_buffer,
        top=arguments.top,
    )
    for table in tables(found):
        console.print(table)
    for line in lines(found, console.width):
        console.print(line, markup=False)
    if arguments.output:
        runs.write_json(Path(arguments.output), asdict(found), "--output")
    return found


def replay(
    run_dir: str | os.PathLike[str],
    names: Sequence[str],
    weights: Sequence[float] | None = None,
    heldout: Sequence[str | os.PathLike[str]] | None = None,
    *,
    pattern: Pattern = ALTERNATING,
    overlong_buffer: int | None = None,
    top: int = 3,
) -> Replay:
    """Score the samples of a run under the rewards of these names, and under their sum by `weights` (1 each).

    Answers are judged anew, and `alternating` pays by the step, as in training. `heldout` are evaluations of
    the run's checkpoints in order of training. Without them, held-out accuracy is what the run logged as
    `eval_correct`; where it logged none, or too little for an interval, accuracy in training stands in.

    UsageError: names that are unknown, weights that do not fit, a single evaluation. RunError: no samples, or
    evaluations of other problems.
    """
    weights = _check(names, weights)
    samples = read(run_dir)
    parts = {*names, *((part for part, _ in pattern) if "alternating" in names else ())}
    counting = parts & _COUNT_TOKENS
    tag_ids = tag_ids_of(run_dir) if counting and not samples.table["token_ids"].null_count else None
    limit = runs.read_settings(run_dir).get("max_completion_length")
    rewards = reward_functions(
        dict.fromkeys([*names, "accuracy"]),
        tag_ids=tag_ids,
        max_completion_length=limit if type(limit) is int and limit > 0 else None,
        overlong_buffer=overlong_buffer,
        pattern=pattern,
        path_opening=runs.read_path_opening(run_dir),
    )
    scored = score(samples, rewards, with_ids=bool(tag_ids))
    right = (scored["accuracy"] + 1) / 2
    values = {} if samples.paid is None else {PAID: samples.paid}
    values |= {name: scored[name] for name in names}
    values[SUM] = weighted_sum([scored[name] for name in names], weights)
    ranges = ranges_of(samples.steps)
    described = {name: describe(samples, each, right, ranges) for name, each in values.items()}
    accuracy = accuracy_of(run_dir, heldout, samples, right, ranges)
    gain, lose = movers(samples, values[SUM], right, top)
    rejudged = int((np.abs(right - samples.stored) > 0).sum())
    in_characters = "efficiency counts characters: the run keeps no tokenizer with the tags, or no token ids"
    notes = {
        "no groups are stored: none are dead, and no response gains or loses": not len(samples.group_steps),
        in_characters: counting and not tag_ids,
        f"{rejudged} answers are judged otherwise than when the run stored them": rejudged,
    }
    return Replay(
        run=str(run_dir),
        responses=len(samples.texts),
        groups=len(samples.group_steps),
        ranges=ranges,
        rewards=described,
        accuracy=accuracy,
        alarms=tuple(name for name, each in described.items() if _diverge(each.change, accuracy.change)),
        gain=gain,
        lose=lose,
        notes=tuple(note for note, holds in notes.items() if holds),
    )


def tables(found: Replay) -> list[Table]:
    """For people: how values are distributed, where they went, and dead groups. One reward needs no sum."""
    alone = len(found.rewards.keys() - {PAID, SUM}) == 1
    rewards = {name: each for name, each in found.rewards.items() if not (alone and name == SUM)}
    values = _table(
        f"{found.run}: {found.responses} responses", ["mean", "std", "min", "25 %", "median", "75 %", "max"]
    )
    trends = _table(
        "change: last - first third of steps; r: correlation with right", ["change", "r", "r in groups"]
    )
    dead = _table(f"dead of {found.groups} groups, by steps", [f"{a}-{b}" for a, b in found.ranges])
    for name, each in rewards.items():
        spread = [each.mean, each.std, *(each.quartiles or [None] * 5)]
        values.add_row(name, *(_shown(value, "{:z.2f}") for value in spread))
        correlations = [_shown(r, "{:+z.2f}") for r in (each.correlation, each.correlation_in_groups)]
        trends.add_row(name, _shown(each.change, _SIGNED), *correlations)
        dead.add_row(name, *(_shown(share, "{:.0%}") for share in each.dead_groups))
    return [values, trends, *([dead] if found.groups else [])]


def lines(found: Replay, width: int = 100) -> list[str]:
    """For people: what became of accuracy, alarms, notes, and the responses that gain and lose most."""
    accuracy = found.accuracy
    said = [f"{accuracy.source}: {_shown(accuracy.change, _SIGNED) or 'no change to measure'}"]
    said += [f"ALARM: {name} rises while accuracy falls; it pays for something else" for name in found.alarms]
    if not found.alarms:
        known = accuracy.change and any(each.change for each in found.rewards.values())
        said.append("no alarm: nothing rises while accuracy falls" if known else "no alarm can be given")
    said += [f"note: {note}" for note in found.notes]
    written = [part for line in said for part in wrap(line, width)]
    for title, samples in (("gain", found.gain), ("lose", found.lose)):
        written += [f"\nresponses that {title} most against what the run paid"] if samples else []
        for each in samples:
            written.append(
                f"  step {each.step}, group {each.group}, {_VERDICTS[each.right]}: "
                f"paid {each.paid:.2f}, now {each.reward:.2f}; "
                f"advantage {each.advantage_paid:+.2f}, now {each.advantage:+.2f}"
            )
            problem = f"{each.problem} [{each.answer}]"
            for text, most in ((problem, 1), (each.text, _EXCERPT_LINES)):
                written += [f"    {line}" for line in _excerpt(text, max(width, 24) - 4, most)]
    return written


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=Text(title), title_justify="left", pad_edge=False)
    table.add_column("reward", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _shown(value: object, form: str) -> str:
    return "" if value is None else form.format(value)


def _excerpt(text: str, width: int, most: int) -> list[str]:
    """At most so many lines of `text`, its middle left out; what steers a terminal becomes U+FFFD."""
    flat = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
    if len(flat) > width * most:
        half = (width * most - 3) // 2
        flat = f"{flat[:half]} … {flat[-half:]}"
    return [flat[at : at + width] for at in range(0, len(flat), width)]


def _check(names: Sequence[str], weights: Sequence[float] | None) -> list[float]:
    """The weight of each name."""
    if not names or len(set(names)) < len(names):
        raise UsageError(f"rewards {' '.join(names) or 'none'}: name one or more, each once")
    given = [1.0] * len(names) if weights is None else list(weights)
    if len(given) != len(names) or not all(map(math.isfinite, given)):
        raise UsageError(f"reward_weights {given}: give a finite number for each of {', '.join(names)}")
    return given


def _diverge(reward: Estimate | None, accuracy: Estimate | None) -> bool:
    return bool(reward and accuracy and reward.low > 0 and accuracy.high < 0)

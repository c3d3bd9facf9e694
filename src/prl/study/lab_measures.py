"""The stored responses of a run, what rewards pay for them, and what these do: how their values lie, what
they teach, and where they lead."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from prl import runs
from prl.errors import RunError, UsageError
from prl.grammar import TAGS
from prl.rewards import AlternatingReward, Reward
from prl.statistics import Estimate, Floats, bootstrap, told_apart, unpaired_difference

if TYPE_CHECKING:
    import pyarrow as pa

Ints = npt.NDArray[np.int64]
Ranges = tuple[tuple[int, int], ...]
"""First and last step of each third of a run; of a run of one step, that step."""

_CHUNK = 1024  # responses scored at once: bounds the memory that their token ids take
_FEWEST = 3  # groups or evaluations on either side that an interval needs
_EQUAL = 1e-8  # standard deviation up to which a group is dead, as TRL counts
_MOVED = 0.01  # by which an advantage must change to be shown


@dataclass(frozen=True)
class Scores:
    """One reward over all responses; None where there is nothing to measure it by.

    judged                  responses that it has a value for
    quartiles               minimum, 25 %, median, 75 %, maximum
    dead_groups             share of the groups whose values are all equal, in each of `Replay.ranges`
    correlation             Pearson's, with the answer being right
    correlation_in_groups   the same of the differences to the group's mean, which are what GRPO learns from
    change                  from the first range to the last, groups resampled
    """

    judged: int
    mean: float | None
    std: float | None
    quartiles: tuple[float, ...]
    dead_groups: tuple[float | None, ...]
    correlation: float | None
    correlation_in_groups: float | None
    change: Estimate | None


@dataclass(frozen=True)
class Accuracy:
    """How accuracy changed and how that is known: on `held_out` problems, or on those of training only."""

    held_out: bool
    source: str
    change: Estimate | None


@dataclass(frozen=True)
class Sample:
    """A response whose advantage, (reward − mean) / standard deviation of its group, is another by the
    weighted sum (`reward`, `advantage`) than by what the run paid (`paid`, `advantage_paid`)."""

    step: int
    group: int
    problem: str
    answer: str
    right: bool | None
    paid: float
    reward: float
    advantage_paid: float
    advantage: float
    text: str


# Reading


@dataclass(frozen=True)
class Samples:
    """The stored responses in order of their steps, a value a response unless it says otherwise.

    `begins` counts the steps done before the response's stage. `group` is an index into `group_steps`, the
    step of each group, which is empty outside RL. `stored` is the verdict of the run, 1 or 0, NaN where it
    has none; `paid` what the run paid, None where it paid nothing.
    """

    table: pa.Table
    steps: Ints
    begins: Ints
    group: Ints
    group_steps: Ints
    texts: list[str]
    answers: list[str]
    lengths: list[int]
    truncated: list[bool]
    stored: Floats
    paid: Floats | None


def read(run_dir: str | os.PathLike[str]) -> Samples:
    """The samples of a run, whatever command wrote it. Raises RunError: it holds none."""
    table = runs.read_samples(run_dir)
    if not len(table):
        raise RunError(
            f"{run_dir} holds no samples; name a run that logged responses, such as one of `prl rl`"
        )
    table = table.sort_by("step")
    steps = table["step"].to_numpy()
    stages = table["stage"].to_pylist()
    begins: dict[str | None, int] = {}
    for stage, step in zip(stages, steps.tolist(), strict=True):
        begins.setdefault(stage, step - 1)
    group, group_steps = np.zeros(len(table), dtype=np.int64), np.zeros(0, dtype=np.int64)
    if "group" in table.column_names and not table["group"].null_count:
        pairs = np.stack([steps, table["group"].to_numpy().astype(np.int64)])
        (group_steps, _), group = np.unique(pairs, axis=1, return_inverse=True)
    return Samples(
        table=table,
        steps=steps,
        begins=np.array([begins[stage] for stage in stages]),
        group=group.reshape(-1),
        group_steps=group_steps,
        texts=[text or "" for text in table["text"].to_pylist()],
        answers=[answer or "" for answer in table["answer"].to_pylist()],
        lengths=[length or 0 for length in table["length"].to_pylist()],
        truncated=[bool(cut) for cut in table["truncated"].to_pylist()],
        stored=_stored(table),
        paid=_paid(table, run_dir),
    )


def _paid(table: pa.Table, run_dir: str | os.PathLike[str]) -> Floats | None:
    """What the run paid, rewards of the user's own counted in: its column `reward`. Runs from before that
    was kept have the parts and the weights of those that have a name."""
    if "reward" in table.column_names and table["reward"].null_count < len(table):
        return table["reward"].to_numpy()
    rewards = [name for name in table.column_names if name.startswith("reward_")]
    stored = runs.read_settings(run_dir).get("reward_weights")
    weights = stored if isinstance(stored, list) and stored else [1.0] * len(rewards)
    if (
        not rewards
        or len(weights) != len(rewards)
        or not all(isinstance(each, int | float) for each in weights)
    ):
        return None
    return weighted_sum([table[name].to_numpy() for name in rewards], weights)


def _stored(table: pa.Table) -> Floats:
    """The verdicts of a run: 1 right, 0 wrong, NaN where there is none."""
    worth = {None: np.nan, "unparseable gold": np.nan, "identical": 1.0, "equal": 1.0}
    return np.array([worth.get(verdict, 0.0) for verdict in table["verdict"].to_pylist()])


def tag_ids_of(run_dir: str | os.PathLike[str]) -> list[int] | None:
    """The ids of the tags in the tokenizer that the run kept; None where it kept none."""
    checkpoint = runs.last_checkpoint(run_dir)
    for folder in (Path(run_dir) / "adapter", *([checkpoint] if checkpoint else [])):
        try:
            tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            ids = {token["content"]: int(token["id"]) for token in tokenizer["added_tokens"]}
            return [ids[tag] for tag in TAGS]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


# Scoring


def score(samples: Samples, rewards: Mapping[str, Reward], *, with_ids: bool) -> dict[str, Floats]:
    """What each reward pays for each response, NaN where it judges nothing; equal ones of a step once."""
    alternating = cast("AlternatingReward | None", rewards.get("alternating"))
    scored = {name: np.full(len(samples.texts), np.nan) for name in rewards}
    keys = list(zip(samples.texts, samples.answers, samples.truncated, samples.lengths, strict=True))
    for start, end in _chunks(samples.steps):
        first: dict[tuple[str, str, bool, int], int] = {}
        for at in range(start, end):
            first.setdefault(keys[at], at)
        place = {key: index for index, key in enumerate(first)}
        texts, answers, truncated, lengths = zip(*first, strict=True)
        given = {
            "completions": texts,
            "answer": answers,
            "truncated": truncated,
            # How many there are is all that other rewards look at.
            "completion_ids": samples.table["token_ids"].take([*first.values()]).to_pylist()
            if with_ids
            else [*map(range, lengths)],
            "trainer_state": SimpleNamespace(global_step=int(samples.steps[start]) - 1),
        }
        if alternating:
            alternating.start = int(samples.begins[start])
        for name, reward in rewards.items():
            paid = np.array([np.nan if value is None else value for value in reward(**given)])
            scored[name][start:end] = paid[[place[key] for key in keys[start:end]]]
    return scored


def _chunks(steps: Ints) -> Iterator[tuple[int, int]]:
    """Ranges of at most `_CHUNK` responses of one step."""
    edges = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(steps)]
    for start, end in pairwise(edges):
        yield from ((at, min(at + _CHUNK, end)) for at in range(start, end, _CHUNK))


def weighted_sum(values: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """TRL's total (responses,) of values (rewards, responses): rewards that judge nothing are left out, NaN
    where none judges."""
    stacked = np.stack(values)
    total = np.nansum(stacked * np.array(weights)[:, None], axis=0)
    return np.where(np.isnan(stacked).all(axis=0), np.nan, total)


# Measuring


def describe(samples: Samples, values: Floats, right: Floats, ranges: Ranges) -> Scores:
    """A reward by what it pays each response, `values` (responses,), beside which are `right`: 1 or 0; NaN
    where either judges nothing."""
    judged = values[~np.isnan(values)]
    groups = _groups(samples, values)
    compared = groups.judged > 1
    dead = [groups.std[compared & within] <= _EQUAL for within in _within(samples.group_steps, ranges)]
    return Scores(
        judged=len(judged),
        mean=_mean(judged),
        std=float(judged.std(ddof=1)) if len(judged) > 1 else None,
        quartiles=tuple(np.percentile(judged, [0, 25, 50, 75, 100]).tolist()) if len(judged) else (),
        dead_groups=tuple(map(_mean, dead)),
        correlation=_pearson(values, right),
        correlation_in_groups=_pearson(groups.centred, _groups(samples, right).centred),
        change=_change_of_groups(samples, values, ranges),
    )


class _Groups(NamedTuple):
    """A reward by group: judged responses, mean, standard deviation (n − 1, as TRL's); and each response's
    difference to the mean of its group."""

    judged: Ints
    mean: Floats
    std: Floats
    centred: Floats


def _groups(samples: Samples, values: Floats) -> _Groups:
    size = len(samples.group_steps)
    if not size:
        nothing = np.zeros(0)
        return _Groups(np.zeros(0, dtype=np.int64), nothing, nothing, np.full(len(values), np.nan))
    known = ~np.isnan(values)
    group = samples.group[known]
    count = np.bincount(group, minlength=size)
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN for groups with too few
        mean = np.bincount(group, values[known], size) / count
        centred = values - mean[samples.group]
        std = np.sqrt(np.bincount(group, centred[known] ** 2, size) / (count - 1))
    return _Groups(count, mean, std, centred)


def ranges_of(steps: Ints) -> Ranges:
    """First and last step of the thirds of a run."""
    known = np.unique(steps)
    return tuple((int(part[0]), int(part[-1])) for part in np.array_split(known, min(3, len(known))))


def _within(steps: Ints, ranges: Ranges) -> list[npt.NDArray[np.bool_]]:
    return [(first <= steps) & (steps <= last) for first, last in ranges]


def _mean(values: npt.NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None


def _pearson(first: Floats, second: Floats) -> float | None:
    """The correlation where both are known; None where either does not vary."""
    known = ~(np.isnan(first) | np.isnan(second))
    if known.sum() < 2 or first[known].std() <= _EQUAL or second[known].std() <= _EQUAL:
        return None
    return float(np.corrcoef(first[known], second[known])[0, 1])


def _change_of_groups(samples: Samples, values: Floats, ranges: Ranges) -> Estimate | None:
    """Of the groups' means, from the first range to the last."""
    if len(ranges) < 2 or not len(samples.group_steps):
        return None
    mean = _groups(samples, values).mean
    first, *_, last = (mean[within & ~np.isnan(mean)] for within in _within(samples.group_steps, ranges))
    return _change(first, last)


def _change(first: Floats, last: Floats) -> Estimate | None:
    """Between the means of two independent samples; None where one is too small for an interval."""
    return unpaired_difference(first, last) if min(len(first), len(last)) >= _FEWEST else None


def movers(
    samples: Samples, total: Floats, right: Floats, top: int
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """The responses whose advantage rises most and falls most; none where the run has no groups or paid
    nothing."""
    paid = samples.paid
    if paid is None or not len(samples.group_steps):
        return (), ()
    before, after = _advantages(samples, paid), _advantages(samples, total)
    moved = after - before

    def sample(at: int) -> Sample:
        row = samples.table.slice(at, 1).select(["problem", "group"]).to_pylist()[0]
        return Sample(
            step=int(samples.steps[at]),
            group=int(row["group"]),
            problem=row["problem"] or "",
            answer=samples.answers[at],
            right=None if np.isnan(right[at]) else bool(right[at]),
            paid=float(paid[at]),
            reward=float(total[at]),
            advantage_paid=float(before[at]),
            advantage=float(after[at]),
            text=samples.texts[at],
        )

    def most(gains: Floats) -> tuple[Sample, ...]:
        picked: dict[int, int] = {}  # group -> response
        for at in np.argsort(-gains, kind="stable").tolist():
            if len(picked) == top or gains[at] < _MOVED:
                break
            picked.setdefault(int(samples.group[at]), at)
        return tuple(map(sample, picked.values()))

    return most(moved), most(-moved)


def _advantages(samples: Samples, values: Floats) -> Floats:
    """TRL's, with the group's own standard deviation; 0 for what is not judged."""
    groups = _groups(samples, values)
    return np.nan_to_num(groups.centred / (groups.std[samples.group] + 1e-4))


# Accuracy


def accuracy_of(
    run_dir: str | os.PathLike[str],
    heldout: Sequence[str | os.PathLike[str]] | None,
    samples: Samples,
    right: Floats,
    ranges: Ranges,
) -> Accuracy:
    """By evaluations, else by what the run logged, else by training."""
    if heldout:
        return _held_out(heldout)
    logged = [(record["step"], record.get("eval_correct")) for record in runs.read_metrics(run_dir)]
    known = np.array([(step, value) for step, value in logged if value is not None]).reshape(-1, 2)
    first, last = known[known[:, 0] <= ranges[0][1], 1], known[known[:, 0] >= ranges[-1][0], 1]
    if len(ranges) > 1 and (change := _change(first, last)):
        return Accuracy(True, f"held-out accuracy, {len(known)} evaluations that the run logged", change)
    missing = f"{len(known)} held-out evaluations are too few" if len(known) else "none was held out"
    source = f"accuracy in training, a weaker sign ({missing}; --heldout takes evaluations)"
    return Accuracy(False, source, _change_of_groups(samples, right, ranges))


def _held_out(evaluations: Sequence[str | os.PathLike[str]]) -> Accuracy:
    """From the first evaluation to the last, paired by problem."""
    if len(evaluations) < 2:
        raise UsageError(f"heldout {evaluations[0]}: name two evaluations or more, in order of training")
    before, after = (_by_problem(evaluations[at]) for at in (0, -1))
    mode = next((mode for mode in ("sampled", "greedy") if mode in before and mode in after), "")
    first, last = before.get(mode, {}), after.get(mode, {})
    gains = np.array([last[problem] - first[problem] for problem in first if problem in last])
    names = f"{Path(evaluations[0]).name} to {Path(evaluations[-1]).name}"
    if not len(gains):
        raise RunError(
            f"heldout {names}: no problem in both; name evaluations of one data set, both sampled or greedy"
        )
    source = f"held-out accuracy, {names}, {mode}, {len(gains)} problems"
    return Accuracy(True, source, told_apart(bootstrap(gains), gains))


def _by_problem(evaluation: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """Decoding mode -> problem -> share of its judged responses that are right."""
    table = runs.read_samples(evaluation)
    verdicts: dict[str, dict[str, list[float]]] = {}
    for mode, problem, right in zip(
        table["mode"].to_pylist(), table["problem"].to_pylist(), _stored(table), strict=True
    ):
        if not np.isnan(right):
            verdicts.setdefault(mode, {}).setdefault(problem, []).append(right)
    return {
        mode: {problem: float(np.mean(each)) for problem, each in found.items()}
        for mode, found in verdicts.items()
    }

"""Which problems RL draws, and when one stage gives way to the next: a pure scheduler for any training loop.

The loop is yours, and so are sampling and judging; the curriculum says which problems come next and hears how
they went. Problems are indices into a table that you keep.

    >>> later = Stage("rl-general", sampling="adaptive", enter=Entry(accuracy=0.8, window=2))
    >>> pools, levels = [[0, 1], [0, 1, 2, 3]], [1, 1, 2, 3]
    >>> curriculum = Curriculum([Stage("rl-easy"), later], pools, levels, seed=0, group_size=8)
    >>> for step in range(1, 4):
    ...     problems = curriculum.draw(2)  # for each generation batch; sample 8 responses to each
    ...     right = [7, 6]  # so many of the 8 were right
    ...     curriculum.record(zip(problems, right, [8, 8]))
    ...     reason = curriculum.advance(step, accuracy=sum(right) / 16, parallel_ratio=0.2)
    ...     if reason:  # after each optimizer step
    ...         print(f"{curriculum.stage.name} after step {step}: {reason}")
    rl-general after step 2: accuracy 0.812 of 2 steps reached 0.8

It knows no trainer and reads no clock: the same seed and the same calls give the same draws, in every process
of a run, and `state` and `restore` carry that over a checkpoint. The stages are Parallel-R1's: easy problems,
then general ones. `prl.settings.stages` reads them from a recipe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Any

from prl.errors import DataError, RunError, UsageError
from prl.rewards import AlternatingReward as AlternatingReward  # the schedule within a stage

COLD_START = "cold-start"
"""The one stage that is not RL: SFT, set up by the recipe's own section."""

SAMPLINGS = ("uniform", "adaptive")
QUANTITIES = ("accuracy", "parallel_ratio")

OWN_DECAY = 0.5
"""What a problem's counts still weigh at its next visit: an epoch apart, the policy has moved on."""

LEVEL_DECAY = 0.8
"""What a level's counts still weigh at the next `record`: a memory of about five batches."""

OUTSIDE_BAND = 0.05
"""How often a problem outside the band is taken, relative to inside."""

NEARLY_BEST = 0.7
"""Where no level lies in the band: the chance, relative to the best level's, that counts as inside."""

MOST_PROPOSALS = 50
"""Proposals for each problem of a draw; whatever follows them is taken."""

_MOST_SHARES = 32  # levels with a metric each: a data set may hold a level for every problem
_SHOWN = 60  # characters of a faulty value in a message
_START_ANEW = "go on with the settings that the run began with, or start anew"


@dataclass(frozen=True)
class Entry:
    """When a stage begins: at the first of its conditions to come true.

    Means are over the last `window` optimizer steps of the stage before, and wait for that many.
    """

    step: int | None = None
    """This many optimizer steps of the run are done."""
    accuracy: float | None = None
    """The mean accuracy is at least this."""
    parallel_ratio: float | None = None
    """The mean parallel ratio is at least this."""
    plateau: str | None = None
    """The mean of this quantity exceeds that of the window before by less than `gain`, or falls. One that
    has yet to rise is on a plateau too: choose a window longer than that takes."""
    window: int = 5
    gain: float = 0.01


@dataclass(frozen=True)
class Stage:
    """One stage. What it leaves open is as in the rest of the run; without `levels` it draws from all."""

    name: str
    dataset: str | None = None
    dataset_split: str | None = None
    limit: int | None = None
    levels: tuple[int, ...] = ()
    rewards: tuple[str, ...] = ()
    sampling: str = "uniform"
    enter: Entry | None = None


def rewards_of(stages: Sequence[Stage], default: Sequence[str], always: Sequence[str] = ()) -> list[str]:
    """All rewards that some stage pays, each once: those of the run (`default`) in their order, which is that
    of its weights, then what stages alone name, then the rest of `always`, which every stage pays. Those of
    the run are paid where a stage names none, or where there is no stage.

    >>> rewards_of([Stage("a", rewards=("tiered",)), Stage("b")], ["accuracy"])
    ['accuracy', 'tiered']
    """
    named = [name for stage in stages for name in stage.rewards or default] or [*default]
    paid = {*named, *always}
    return [name for name in dict.fromkeys([*default, *named, *always]) if name in paid]


class Curriculum:
    """Draws problems stage by stage, and as the policy can solve them.

    `pools[k]` are the problems of `stages[k]` as indices into one table, `levels[i]` is the level of its
    problem i, or None. A cold start is no stage here. Raises DataError for a stage without problems,
    UsageError for a `group_size` (responses a problem) below 2 or a `band` that is no range of pass rates.

    Both samplings propose the problems of the stage in seeded permutations, epoch after epoch, and `uniform`
    takes each. `adaptive` takes a problem of pass rate p with a chance proportional to 1 − pⁿ − (1 − p)ⁿ, the
    probability that its n = `group_size` responses are not all right or all wrong; 1 for the best of the
    stage's levels. Outside the band that is multiplied by OUTSIDE_BAND; where none of the levels lies in the
    band, those nearly as good as the best stand in for it. So this is DAPO's dynamic sampling (arXiv
    2503.14476, section 3.2) by forecast: most groups that would teach nothing are passed over before they are
    generated, and one that comes anyway is not replaced.

    The pass rate is of the problem's own counts and of one group at its level's rate; that one is of the
    level's counts and of two responses, one of them right (Laplace's rule). Counts decay, so that a level
    which was not tried for long is as good as unknown, and tried again.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        pools: Sequence[Sequence[int]],
        levels: Sequence[int | None],
        *,
        seed: int,
        group_size: int,
        band: tuple[float, float] = (0.2, 0.8),
    ) -> None:
        for stage, pool in zip(stages, pools, strict=True):
            if not pool:
                raise DataError(f"stage {stage.name}: holds no problem; give it other levels or more data")
        if group_size < 2:
            raise UsageError(f"group_size {group_size} must be 2 or more: one response compares with nothing")
        if not 0 <= band[0] < band[1] <= 1:
            raise UsageError(f"band {band[0]:g} to {band[1]:g} must be a range of pass rates within 0 and 1")
        self._stages, self._pools, self._levels = tuple(stages), pools, levels
        self._pool_levels = [{levels[problem] for problem in pool} for pool in pools]
        self._seed, self._group_size, self._band = seed, group_size, band
        self.index, self.entered_at = 0, 0
        self._epoch, self._position, self._draws = 0, 0, 0
        self._order: list[int] | None = None  # the permutation of this epoch, made when it is needed
        self._steps: list[list[float | None]] = []  # accuracy and parallel ratio of the stage's latest steps
        self._of_problem: dict[int, tuple[float, float]] = {}  # right and all responses, decayed
        self._of_level: dict[int | None, tuple[float, float]] = {}
        self._skipped = 0
        self._drawn: Counter[int | None] = Counter()

    @property
    def stage(self) -> Stage:
        """The stage at hand, the `index`th; it began after `entered_at` optimizer steps of the run."""
        return self._stages[self.index]

    def draw(self, count: int) -> list[int]:
        """The problems of the next generation batch; none is proposed twice in an epoch.

        An adaptive draw also holds no problem twice, as long as its proposals last (MOST_PROPOSALS).
        """
        chance, random = self._chances(), Random(f"{self._seed}/accept/{self._draws}")
        choices = MOST_PROPOSALS * count if self.stage.sampling == "adaptive" else 0
        drawn: list[int] = []
        held: set[int] = set()
        while len(drawn) < count:
            problem = self._propose()
            if choices:
                choices -= 1
                if problem in held:
                    continue
                if random.random() >= chance(problem):
                    self._skipped += 1
                    continue
            drawn.append(problem)
            held.add(problem)
        self._draws += 1
        self._drawn.update(self._levels[problem] for problem in drawn)
        return drawn

    def record(self, outcomes: Iterable[tuple[int, int, int]]) -> None:
        """Learn from groups, of one batch or a probe pass: (problem, right responses, responses judged)."""
        for level, (right, of) in self._of_level.items():
            self._of_level[level] = (right * LEVEL_DECAY, of * LEVEL_DECAY)
        for problem, right, of in outcomes:
            if not of:
                continue
            own_right, own_of = self._of_problem.get(problem, (0.0, 0.0))
            self._of_problem[problem] = (own_right * OWN_DECAY + right, own_of * OWN_DECAY + of)
            level = self._levels[problem]
            level_right, level_of = self._of_level.get(level, (0.0, 0.0))
            self._of_level[level] = (level_right + right, level_of + of)

    def advance(
        self, step: int, *, accuracy: float | None = None, parallel_ratio: float | None = None
    ) -> str | None:
        """Tell that `step` optimizer steps of the run are done, and what the last one measured; nothing where
        it trained on what an earlier one sampled.

        Where the next stage begins here, it is at hand from now on, and the reason is returned. Windows count
        the calls that tell what was measured; one that is told alone waits for no other.
        """
        if self.index + 1 == len(self._stages):
            return None
        entry = self._stages[self.index + 1].enter or Entry()
        steps: list[list[float | None]] = []
        if accuracy is not None or parallel_ratio is not None:
            steps = self._steps = [*self._steps, [accuracy, parallel_ratio]][-2 * entry.window :]
        reason = _reason(entry, step, steps)
        if reason:
            self.index, self.entered_at = self.index + 1, step
            self._epoch, self._position, self._order, self._steps = 0, 0, None, []
        return reason

    def pass_rate(self, problem: int) -> float | None:
        """The estimated share of right responses; None where neither problem nor level was tried."""
        if problem in self._of_problem or self._levels[problem] in self._of_level:
            return self._estimate(problem)
        return None

    def metrics(self) -> dict[str, float]:
        """Of the draws since the last call: `curriculum/skipped`, the problems passed over; of those taken
        `curriculum/level`, the mean, and `curriculum/share_level_<n>` for every level of the run.

        Empty where nothing was drawn. No shares where the run has more than 32 levels.
        """
        if not self._drawn:
            return {}
        found = {"curriculum/skipped": float(self._skipped)}
        drawn = {level: count for level, count in self._drawn.items() if level is not None}
        if drawn:
            found["curriculum/level"] = sum(n * count for n, count in drawn.items()) / sum(drawn.values())
        known = sorted(level for level in set().union(*self._pool_levels) if level is not None)
        if len(known) <= _MOST_SHARES:
            total = self._drawn.total()
            found |= {f"curriculum/share_level_{n}": drawn.get(n, 0) / total for n in known}
        self._skipped = 0
        self._drawn.clear()
        return found

    def state(self) -> dict[str, Any]:
        """All that the next calls depend on, in JSON's types; counts are of the problems that were tried."""
        return {
            "of": self._identity(),
            "stage": self.index,
            "entered_at": self.entered_at,
            "epoch": self._epoch,
            "position": self._position,
            "draws": self._draws,
            "steps": [list(step) for step in self._steps],
            "problems": [[problem, *counts] for problem, counts in self._of_problem.items()],
            "levels": [[level, *counts] for level, counts in self._of_level.items()],
            "skipped": self._skipped,
            "drawn": [[level, count] for level, count in self._drawn.items()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. Where it is of another curriculum or unreadable: RunError, and no change."""
        try:
            theirs = state["of"]
            differing = [name for name, value in self._identity().items() if theirs.get(name) != value]
            if differing:
                name = differing[0]
                raise RunError(
                    f"the curriculum's state is of {name} {shown(theirs.get(name))}, the run now has "
                    f"{shown(self._identity()[name])}; {_START_ANEW}"
                )
            counts = ("stage", "position", "entered_at", "epoch", "draws", "skipped")
            index, position, entered_at, epoch, draws, skipped = (int(state[key]) for key in counts)
            if min(index, position, entered_at, epoch, draws, skipped) < 0:
                raise ValueError("a count below 0")
            if position > len(self._pools[index]):
                raise ValueError("a position behind the last problem")
            steps = [[None if each is None else float(each) for each in step] for step in state["steps"]]
            if any(len(step) != len(QUANTITIES) for step in steps):
                raise ValueError("a step of other quantities")
            of_problem = {int(each): (float(right), float(of)) for each, right, of in state["problems"]}
            of_level = {level: (float(right), float(of)) for level, right, of in state["levels"]}
            drawn = Counter({level: int(count) for level, count in state["drawn"]})
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise RunError(f"the curriculum's state cannot be read ({error!r}); {_START_ANEW}") from None
        self.index, self.entered_at, self._epoch, self._position = index, entered_at, epoch, position
        self._draws, self._skipped, self._drawn = draws, skipped, drawn
        self._steps, self._of_problem, self._of_level = steps, of_problem, of_level
        self._order = None

    def _identity(self) -> dict[str, Any]:
        """What a state must share with the curriculum that it is restored to."""
        return {
            "stages": [stage.name for stage in self._stages],
            "problems": [len(pool) for pool in self._pools],
            "seed": self._seed,
            "group_size": self._group_size,
            "band": list(self._band),
        }

    def _propose(self) -> int:
        pool = self._pools[self.index]
        if self._position == len(pool):
            self._epoch, self._position, self._order = self._epoch + 1, 0, None
        if self._order is None:
            self._order = list(pool)
            Random(f"{self._seed}/{self.stage.name}/{self._epoch}").shuffle(self._order)
        self._position += 1
        return self._order[self._position - 1]

    def _chances(self) -> Callable[[int], float]:
        """The chance that a problem of the stage is taken when it is proposed."""
        rates = [self._level_rate(level) for level in self._pool_levels[self.index]]
        best = max(_live(rate, self._group_size) for rate in rates)
        low, high = self._band
        has_band = any(low <= rate <= high for rate in rates)

        def chance(problem: int) -> float:
            rate = self._estimate(problem)
            worth = _live(rate, self._group_size) / best
            inside = low <= rate <= high if has_band else worth >= NEARLY_BEST
            return worth * (1.0 if inside else OUTSIDE_BAND)

        return chance

    def _estimate(self, problem: int) -> float:
        right, of = self._of_problem.get(problem, (0.0, 0.0))
        prior = self._group_size * self._level_rate(self._levels[problem])
        return (right + prior) / (of + self._group_size)

    def _level_rate(self, level: int | None) -> float:
        right, of = self._of_level.get(level, (0.0, 0.0))
        return (right + 1) / (of + 2)


def _live(rate: float, group_size: int) -> float:
    """The probability that a group is neither all right nor all wrong."""
    return 1 - rate**group_size - (1 - rate) ** group_size


def _reason(entry: Entry, step: int, steps: Sequence[Sequence[float | None]]) -> str | None:
    """The first condition of `entry` that holds, in words."""
    if entry.step is not None and step >= entry.step:
        return f"step {entry.step}"
    window = entry.window
    for position, name in enumerate(QUANTITIES):
        values = [value for each in steps if (value := each[position]) is not None]
        bound = getattr(entry, name)
        if len(values) < window:
            continue
        mean = fmean(values[-window:])
        if bound is not None and mean >= bound:
            return f"{name} {mean:.3f} of {window} steps reached {bound:g}"
        if entry.plateau == name and len(values) >= 2 * window:
            before = fmean(values[-2 * window : -window])
            if mean - before < entry.gain:
                return f"{name} on a plateau: {mean:.3f} after {before:.3f}, {window} steps each"
    return None


def shown(value: Any) -> str:
    """A faulty value in a message, cut short."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"

"""Stages with every fault and by each condition; draws by their laws, in simulation and after a restart."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prl.curriculum import (
    MOST_PROPOSALS,
    OUTSIDE_BAND,
    AlternatingReward,
    Curriculum,
    Entry,
    Stage,
    rewards_of,
)
from prl.errors import DataError, RunError, UsageError
from prl.rewards import REWARDS
from prl.settings.stages import read_stages


def entering(second: dict[str, Any], **entry: Any) -> list[dict[str, Any]]:
    """Two stages, the second with more settings and this entry."""
    return [{"name": "rl-easy"}, {"name": "rl-general", **second, "enter": entry}]


def faults_of(items: Sequence[Any], max_steps: int = 100) -> list[str]:
    return read_stages(items, max_steps=max_steps)[1]


# --- Reading


def test_stages_as_a_recipe_declares_them() -> None:
    stages, faults = read_stages(
        [
            {"name": "cold-start"},
            {"name": "rl-easy", "dataset": "easy", "rewards": "parallel", "levels": 1, "limit": 500},
            {
                "name": "rl-general",
                "dataset": "dapo",
                "dataset_split": "train",
                "levels": [3, 4],
                "rewards": ["accuracy", "format"],
                "sampling": "adaptive",
                "enter": {"step": 0.35, "accuracy": 1, "plateau": "parallel_ratio", "gain": "5e-3"},
            },
            {"name": "rest", "dataset": None, "levels": None, "enter": {"step": 40, "accuracy": None}},
        ],
        max_steps=100,
    )
    assert faults == []
    assert stages == (
        Stage("cold-start"),
        Stage("rl-easy", dataset="easy", rewards=("parallel",), levels=(1,), limit=500),
        Stage(
            "rl-general",
            dataset="dapo",
            dataset_split="train",
            levels=(3, 4),
            rewards=("accuracy", "format"),
            sampling="adaptive",
            enter=Entry(step=35, accuracy=1.0, plateau="parallel_ratio", gain=0.005),
        ),
        Stage("rest", enter=Entry(step=40)),
    )


@pytest.mark.parametrize(
    ("share", "max_steps", "step"),
    [(0.3, 100, 30), (0.5, 3, 2), (0.001, 100, 1), (0.999, 100, 100), ("3e-1", 10, 3)],
)
def test_a_step_may_be_a_share_of_the_run(share: float, max_steps: int, step: int) -> None:
    stages, _ = read_stages(entering({}, step=share), max_steps=max_steps)
    assert stages[1].enter == Entry(step=step)


_A_STEP = "must be a whole number of steps from 1, or a share of max_steps between 0 and 1"
_A_NAME = "must be a letter, then letters, digits, - and _, at most 40 in all"

FAULTS: list[tuple[list[Any], list[str], str]] = [
    ([], ["stages: none of RL; add one, or leave the key out"], "an empty list"),
    (
        [{"name": "cold-start"}],
        ["stages: none of RL; add one, or leave the key out"],
        "SFT alone is no curriculum",
    ),
    (
        ["rl-easy", None],
        [
            "stage 1: 'rl-easy' is no mapping of settings; write `name: …` and what differs",
            "stage 2: None is no mapping of settings; write `name: …` and what differs",
            "stage 2: nothing says when it begins; add enter: {step: …}",
        ],
        "a word where a mapping belongs",
    ),
    (
        [{"nme": "rl-easy"}],
        ["stage 1: has no name; add `name: …`", "stage 1: unknown key 'nme'; nearest: name"],
        "a misspelt key leaves the stage nameless",
    ),
    ([{"name": None}], ["stage 1: has no name; add `name: …`"], "null is no name"),
    ([{"name": "two words"}], [f"stage 1: name 'two words' {_A_NAME}"], "a name is a mark in plots"),
    ([{"name": "a\nb"}], [f"stage 1: name 'a\\nb' {_A_NAME}"], "a message is one line"),
    ([{"name": 2}], [f"stage 1: name 2 {_A_NAME}"], "a number is no name"),
    (
        [{"name": "x" * 99}],
        [f"stage 1: name '{'x' * 58}… {_A_NAME}"],
        "a long value is cut in the message",
    ),
    (
        [{"name": "a"}, {"name": "a", "enter": {"step": 9}}],
        ["stage a: stands 2 times; rename"],
        "draws are seeded by the name",
    ),
    ([{"name": "a", "dataset": ""}], ["stage a: dataset '' must be a name"], "an empty word"),
    ([{"name": "a", "dataset": 7}], ["stage a: dataset 7 must be a name"], "no word"),
    (
        [{"name": "a", "dataset_split": ["train"]}],
        ["stage a: dataset_split ['train'] must be a name"],
        "a list",
    ),
    ([{"name": "a", "limit": 0}], ["stage a: limit 0 must be a whole number from 1"], "no rows"),
    ([{"name": "a", "limit": 2.5}], ["stage a: limit 2.5 must be a whole number from 1"], "half a row"),
    ([{"name": "a", "limit": True}], ["stage a: limit True must be a whole number from 1"], "yes is not 1"),
    ([{"name": "a", "levels": []}], ["stage a: levels [] must be whole numbers, each once"], "none at all"),
    ([{"name": "a", "levels": "1-3"}], ["stage a: levels '1-3' must be whole numbers, each once"], "a range"),
    ([{"name": "a", "levels": [1, 1]}], ["stage a: levels [1, 1] must be whole numbers, each once"], "twice"),
    (
        [{"name": "a", "levels": [1.5, "x"]}],
        ["stage a: levels [1.5, 'x'] must be whole numbers, each once"],
        "fractions and words",
    ),
    ([{"name": "a", "rewards": []}], [f"stage a: rewards [] must be of {', '.join(REWARDS)}"], "none at all"),
    (
        [{"name": "a", "rewards": {"accuracy": 1}}],
        [f"stage a: rewards {{'accuracy': 1}} must be of {', '.join(REWARDS)}"],
        "weights go elsewhere",
    ),
    (
        [{"name": "a", "rewards": ["acuracy", "accuracy", "zzz", "accuracy"]}],
        [
            f"stage a: rewards ['acuracy', 'accuracy', 'zzz', 'accuracy'] {reason}"
            for reason in (
                "holds no reward 'acuracy'; nearest: accuracy",
                "holds no reward 'zzz'",
                "holds 'accuracy' 2 times",
            )
        ],
        "each unknown reward, and a repeated one",
    ),
    (
        [{"name": "a", "sampling": "adaptiv"}],
        ["stage a: sampling 'adaptiv' must be uniform or adaptive; nearest: adaptive"],
        "a misspelt sampling",
    ),
    (
        [{"name": "a", "enter": {"step": 3}}],
        ["stage a: is the first of RL, which begins at once; leave enter out"],
        "nothing comes before the first",
    ),
    (
        [{"name": "cold-start"}, {"name": "a", "enter": {"step": 3}}],
        ["stage a: is the first of RL, which begins at once; leave enter out"],
        "steps of a cold start are no steps of RL",
    ),
    (
        [{"name": "cold-start", "dataset": "gsm8k", "enter": {"step": 1}}, {"name": "a"}],
        ["stage cold-start: takes a name only, not ['dataset', 'enter']; section sft has its settings"],
        "its settings have a section",
    ),
    (
        [{"name": "a"}, {"name": "cold-start"}],
        ["stage cold-start: must be the first; move it up"],
        "RL before SFT",
    ),
    (
        [{"name": "a"}, {"name": "b"}, {"name": "c", "enter": None}],
        [f"stage {name}: nothing says when it begins; add enter: {{step: …}}" for name in "bc"],
        "stages that would never begin",
    ),
    (
        [{"name": "a"}, {"name": "b", "enter": {}}],
        ["stage b: enter holds no condition; give one of step, accuracy, parallel_ratio, plateau"],
        "no condition",
    ),
    (
        [{"name": "a"}, {"name": "b", "enter": {"window": 9, "gain": 0.1, "step": None}}],
        ["stage b: enter holds no condition; give one of step, accuracy, parallel_ratio, plateau"],
        "how to measure, but not what",
    ),
    (
        [{"name": "a"}, {"name": "b", "enter": 40}],
        [
            "stage b: enter 40 must be a mapping of step, accuracy, parallel_ratio, plateau, window, gain",
        ],
        "a step alone does not say that it is one",
    ),
    (
        entering({}, acuracy=0.8),
        [
            "stage rl-general: enter holds no condition; give one of step, accuracy, parallel_ratio, plateau",
            "stage rl-general: unknown key 'enter.acuracy'; nearest: accuracy",
        ],
        "a misspelt condition",
    ),
    (entering({}, step=0), [f"stage rl-general: enter.step 0 {_A_STEP}"], "before the first step"),
    (entering({}, step=-0.5), [f"stage rl-general: enter.step -0.5 {_A_STEP}"], "a negative share"),
    (entering({}, step=1.0), [f"stage rl-general: enter.step 1.0 {_A_STEP}"], "one step, or all of them?"),
    (entering({}, step=True), [f"stage rl-general: enter.step True {_A_STEP}"], "yes is not 1"),
    (entering({}, step="soon"), [f"stage rl-general: enter.step 'soon' {_A_STEP}"], "a word"),
    (entering({}, step=float("nan")), [f"stage rl-general: enter.step nan {_A_STEP}"], "JSON lets NaN pass"),
    (
        entering({}, accuracy=80, parallel_ratio=-0.1),
        [
            "stage rl-general: enter.accuracy 80 must be a number from 0 to 1",
            "stage rl-general: enter.parallel_ratio -0.1 must be a number from 0 to 1",
        ],
        "shares, not per cent",
    ),
    (
        entering({}, accuracy=float("nan")),
        ["stage rl-general: enter.accuracy nan must be a number from 0 to 1"],
        "no bound at all",
    ),
    (
        entering({}, plateau="acuracy"),
        ["stage rl-general: enter.plateau 'acuracy' must be accuracy or parallel_ratio; nearest: accuracy"],
        "a quantity that is not measured",
    ),
    (
        entering({}, plateau="accuracy", window=0, gain=-0.01),
        [
            "stage rl-general: enter.window 0 must be a whole number from 1",
            "stage rl-general: enter.gain -0.01 must be a number from 0 to 1",
        ],
        "a mean of nothing; a gain that is a loss",
    ),
    (
        entering({}, step=100),
        [
            "stage rl-general: enter.step 100 is never reached, training ends after 100; "
            "begin sooner, or raise max_steps"
        ],
        "no step is left for it",
    ),
    (
        entering({}, step=0.999, accuracy=0.5),
        [
            "stage rl-general: enter.step 100 is never reached, training ends after 100; "
            "begin sooner, or raise max_steps"
        ],
        "a share that rounds to the end; another condition does not mend it",
    ),
    (
        [*entering({}, step=40), {"name": "c", "enter": {"step": 0.4}}],
        ["stage c: enter.step 40 must be after 40, the step of rl-general: they overlap"],
        "the same step, once as a share",
    ),
    (
        [
            *entering({}, step=40),
            {"name": "c", "enter": {"accuracy": 0.5}},
            {"name": "d", "enter": {"step": 30}},
        ],
        ["stage d: enter.step 30 must be after 40, the step of rl-general: they overlap"],
        "an overlap across a stage without a step",
    ),
    (
        entering({}, plateau="accuracy", window=50),
        [
            "stage rl-general: is never reached: rl-easy begins after step 0 at the soonest, enter takes "
            "until step 100, training ends after 100; take a smaller window, or raise max_steps"
        ],
        "a plateau takes two windows",
    ),
    (
        [*entering({}, step=95), {"name": "c", "enter": {"parallel_ratio": 0.5}}],
        [
            "stage c: is never reached: rl-general begins after step 95 at the soonest, enter takes until "
            "step 100, training ends after 100; take a smaller window, or raise max_steps"
        ],
        "the stage before begins too late for a window",
    ),
    (
        [
            {"name": "a", "limit": -1, "speed": 3},
            {"name": "b", "rewards": ["fromat"], "enter": {"accuracy": 2}},
            {"name": "b", "enter": {"step": 200}},
        ],
        [
            "stage a: limit -1 must be a whole number from 1",
            "stage a: unknown key 'speed'",
            "stage b: rewards ['fromat'] holds no reward 'fromat'; nearest: format",
            "stage b: enter.accuracy 2 must be a number from 0 to 1",
            "stage b: stands 2 times; rename",
            "stage b: enter.step 200 is never reached, training ends after 100; "
            "begin sooner, or raise max_steps",
        ],
        "all at once",
    ),
]


@pytest.mark.parametrize(("items", "expected", "reason"), FAULTS, ids=[case[-1] for case in FAULTS])
def test_faults(items: list[Any], expected: list[str], reason: str) -> None:
    assert faults_of(items) == expected, reason


def test_a_share_of_a_number_of_steps_that_is_not_set() -> None:
    assert faults_of(entering({}, step=0.5), max_steps=-1) == [
        "stage rl-general: enter.step 0.5 is a share of max_steps, which is not set; "
        "set it, or give a number of steps"
    ]
    assert faults_of(entering({}, step=10**6), max_steps=-1) == [], "epochs may be long enough"
    assert faults_of(entering({}, plateau="accuracy", window=999), max_steps=-1) == []


def test_the_rewards_that_a_stage_may_name_are_the_callers() -> None:
    items = [{"name": "a", "rewards": ["mine"]}]
    assert read_stages(items, max_steps=9, rewards=["mine"])[1] == []
    assert (
        "nearest: mine"
        in read_stages([{"name": "a", "rewards": ["min"]}], max_steps=9, rewards=["mine"])[1][0]
    )


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_ENTRIES = st.dictionaries(
    st.sampled_from(["step", "accuracy", "parallel_ratio", "plateau", "window", "gain", "x"]),
    _VALUES | st.integers(0, 50) | st.floats(0, 1) | st.just("accuracy"),
)
_STAGES = st.dictionaries(
    st.sampled_from(["name", "dataset", "limit", "levels", "rewards", "sampling", "enter"]) | st.text(),
    _VALUES | _ENTRIES | st.sampled_from(["a", "b", "cold-start", "adaptive"]),
)


@given(st.lists(_STAGES | _VALUES, max_size=5), st.integers(-1, 100))
def test_whatever_a_file_says_is_read_or_refused_in_lines(items: list[Any], max_steps: int) -> None:
    stages, faults = read_stages(items, max_steps=max_steps)
    assert len(stages) == len(items)
    assert all(fault.isprintable() and len(fault) < 400 for fault in faults)
    if not faults:
        names = [stage.name for stage in stages]
        assert len({*names}) == len(names)
        assert "cold-start" not in names[1:]
        first = names[0] == "cold-start"
        assert [stage.enter is None for stage in stages] == [index <= first for index in range(len(stages))]


# --- Entering

FLAT = [(0.5, 0.5)]


def begins(entry: Entry, steps: Sequence[tuple[float, float]]) -> tuple[int, str] | None:
    """The first step, and the reason, at which `entry` lets its stage begin."""
    curriculum = Curriculum([Stage("a"), Stage("b", enter=entry)], [[0], [0]], [None], seed=0, group_size=2)
    for step, (accuracy, ratio) in enumerate(steps, 1):
        if reason := curriculum.advance(step, accuracy=accuracy, parallel_ratio=ratio):
            assert (curriculum.stage.name, curriculum.index, curriculum.entered_at) == ("b", 1, step)
            return step, reason
    assert (curriculum.stage.name, curriculum.index, curriculum.entered_at) == ("a", 0, 0)
    return None


@pytest.mark.parametrize(
    ("entry", "steps", "expected"),
    [
        (Entry(step=3), FLAT * 9, (3, "step 3")),
        (Entry(step=3), FLAT * 2, None),
        # the mean of 0.4, 0.5, 0.6, and no sooner than the window is full
        (Entry(accuracy=0.5, window=3), [(0.9, 0)] * 2, None),
        (
            Entry(accuracy=0.5, window=3),
            [(0.1, 0), (0.4, 0), (0.5, 0), (0.6, 0)],
            (4, "accuracy 0.500 of 3 steps reached 0.5"),
        ),
        (Entry(accuracy=0.5), [(0, 1.0)] * 20, None),
        (
            Entry(parallel_ratio=0.25),
            [(1.0, 0.0)] * 3 + [(0.0, 0.5)] * 9,
            (6, "parallel_ratio 0.300 of 5 steps reached 0.25"),
        ),
        # 0.1 a step gains 0.2 over a window of two; a plateau shows when the last window is flat enough
        (
            Entry(plateau="accuracy", window=2, gain=0.1),
            [(value / 10, 0) for value in (0, 1, 2, 3, 4, 4, 4)],
            (7, "accuracy on a plateau: 0.400 after 0.350, 2 steps each"),
        ),
        (Entry(plateau="accuracy", window=2, gain=0.1), [(value / 10, 0) for value in range(10)], None),
        (Entry(plateau="accuracy", window=5), FLAT * 9, None),  # needs two windows
        (
            Entry(plateau="accuracy", window=5),
            FLAT * 10,
            (10, "accuracy on a plateau: 0.500 after 0.500, 5 steps each"),
        ),
        (
            Entry(plateau="parallel_ratio", window=1, gain=0.0),
            [(0, 0.3), (0, 0.3), (0, 0.2)],
            (3, "parallel_ratio on a plateau: 0.200 after 0.300, 1 steps each"),
        ),
        (Entry(plateau="parallel_ratio", window=2), [(0.5, value / 10) for value in range(10)], None),
        # the first to come true
        (
            Entry(step=8, accuracy=0.5, window=2),
            [(0.6, 0)] * 9,
            (2, "accuracy 0.600 of 2 steps reached 0.5"),
        ),
        (Entry(step=2, accuracy=0.9, plateau="accuracy"), FLAT * 20, (2, "step 2")),
        # a step that measured nothing sensible begins nothing
        (Entry(accuracy=0.0, plateau="accuracy", window=1), [(float("nan"), 0)] * 5, None),
    ],
)
def test_a_stage_begins(
    entry: Entry, steps: list[tuple[float, float]], expected: tuple[int, str] | None
) -> None:
    assert begins(entry, steps) == expected


def test_a_step_that_measured_nothing_may_be_the_one_that_a_stage_waits_for() -> None:
    stages = [Stage("a"), Stage("b", enter=Entry(step=2)), Stage("c", enter=Entry(accuracy=0.8, window=2))]
    curriculum = Curriculum(stages, [[0]] * 3, [None], seed=0, group_size=2)
    assert [curriculum.advance(step) for step in (1, 2, 3)] == [None, "step 2", None]
    assert curriculum.advance(4, accuracy=0.9, parallel_ratio=0) is None
    assert curriculum.advance(5) is None, "it counts for no window"
    assert curriculum.advance(6, accuracy=0.9, parallel_ratio=0) == "accuracy 0.900 of 2 steps reached 0.8"


@pytest.mark.parametrize("name", ["accuracy", "parallel_ratio"])
def test_a_quantity_that_is_told_alone_waits_for_no_other(name: str) -> None:
    stages = [Stage("a"), Stage("b", enter=Entry(window=2, **{name: 0.8}))]
    curriculum = Curriculum(stages, [[0]] * 2, [None], seed=0, group_size=2)
    assert curriculum.advance(1, **{name: 0.9}) is None
    resumed = Curriculum(stages, [[0]] * 2, [None], seed=0, group_size=2)
    resumed.restore(json.loads(json.dumps(curriculum.state())))
    for each in (curriculum, resumed):
        assert each.advance(2, **{name: 0.9}) == f"{name} 0.900 of 2 steps reached 0.8"


def test_rewards_are_in_the_order_of_their_weights() -> None:
    """Whatever order stages name them in."""
    stages = [Stage("a", rewards=("format", "tiered")), Stage("b", rewards=("accuracy", "format"))]
    assert rewards_of(stages, ["accuracy", "format"]) == ["accuracy", "format", "tiered"]
    assert rewards_of(stages[1:], ["mine.py:short", "accuracy"], ["mine.py:short", "given"]) == [
        "mine.py:short", "accuracy", "format", "given",
    ]  # fmt: skip
    assert rewards_of(stages[1:], ["parallel"]) == ["accuracy", "format"], "none pays what the run names"


def test_a_window_lies_in_one_stage() -> None:
    """What the stage before reached is reached anew; a step that has passed already holds after one step."""
    stages = [
        Stage("a"),
        Stage("b", enter=Entry(accuracy=0.8, window=2)),
        Stage("c", enter=Entry(accuracy=0.8, window=2)),
        Stage("d", enter=Entry(step=1)),
    ]
    curriculum = Curriculum(stages, [[0]] * 4, [None], seed=0, group_size=2)
    begun = [curriculum.advance(step, accuracy=0.9, parallel_ratio=0) for step in range(1, 7)]
    reached = "accuracy 0.900 of 2 steps reached 0.8"
    assert begun == [None, reached, None, reached, "step 1", None]
    assert (curriculum.stage.name, curriculum.entered_at) == ("d", 5)


# --- Drawing


def uniform(pool: Sequence[int], **given: Any) -> Curriculum:
    levels = given.pop("levels", [None] * (max(pool) + 1))
    return Curriculum([Stage("a")], [pool], levels, **{"seed": 0, "group_size": 8} | given)


def adaptive(levels: Sequence[int | None], pool: Sequence[int] | None = None, **given: Any) -> Curriculum:
    return Curriculum(
        [Stage("a", sampling="adaptive")],
        [range(len(levels)) if pool is None else pool],
        levels,
        **{"seed": 0, "group_size": 8} | given,
    )


@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=30, unique=True),
    st.lists(st.integers(0, 17), max_size=12),
    st.integers(0, 99),
)
def test_uniform_draws_each_problem_once_an_epoch(pool: list[int], counts: list[int], seed: int) -> None:
    curriculum = uniform(pool, seed=seed)
    drawn = [problem for count in counts for problem in curriculum.draw(count)]
    assert len(drawn) == sum(counts)
    for start in range(0, len(drawn), len(pool)):
        epoch = drawn[start : start + len(pool)]
        assert len({*epoch}) == len(epoch)
        assert {*epoch} <= {*pool}


def test_every_epoch_seed_and_stage_has_its_own_order() -> None:
    pool = range(50)
    orders = [uniform(pool, seed=seed).draw(50) for seed in (0, 1)]
    curriculum = uniform(pool)
    assert curriculum.draw(50) == orders[0]
    orders.append(curriculum.draw(50))
    stages = [Stage("a"), Stage("b", enter=Entry(step=1))]
    staged = Curriculum(stages, [pool, pool], [None] * 50, seed=0, group_size=8)
    assert staged.draw(20) == orders[0][:20]
    staged.advance(1, accuracy=0, parallel_ratio=0)
    orders.append(staged.draw(50))
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == [*pool] for order in orders), "a new stage begins its pool anew"


def test_a_stage_draws_from_its_own_pool() -> None:
    stages = [Stage("a"), Stage("b", sampling="adaptive", enter=Entry(step=1))]
    curriculum = Curriculum(stages, [[4, 5], [0, 2]], [None] * 6, seed=0, group_size=8)
    assert {*curriculum.draw(8)} == {4, 5}
    curriculum.advance(1, accuracy=0, parallel_ratio=0)
    assert {*curriculum.draw(8)} == {0, 2}


def test_nothing_known_is_drawn_as_it_comes() -> None:
    levels = [index % 3 for index in range(90)]
    curriculum = adaptive(levels)
    assert curriculum.draw(90) == uniform(range(90)).draw(90)
    assert curriculum.metrics()["curriculum/skipped"] == 0


def test_an_adaptive_draw_holds_no_problem_twice() -> None:
    curriculum = adaptive([1] * 4 + [2] * 4)
    curriculum.record([(problem, 0, 8) for problem in range(4)])
    curriculum.record([(problem, 4, 8) for problem in range(4, 8)])
    for _ in range(20):
        assert len({*curriculum.draw(4)}) == 4
    assert len(curriculum.draw(12)) == 12, "more than there are: some twice"


def test_proposals_are_bounded_where_nothing_is_worth_taking() -> None:
    """One good problem among 10⁵ dead ones would otherwise cost an epoch of proposals for every draw."""
    levels = [1] * 100_000 + [2]
    curriculum = adaptive(levels)
    curriculum.record([(problem, 0, 8) for problem in range(100_000)])
    curriculum.record([(100_000, 4, 8)])
    assert len(curriculum.draw(32)) == 32
    assert curriculum.metrics()["curriculum/skipped"] <= 32 * MOST_PROPOSALS


def test_pass_rates_by_hand() -> None:
    curriculum = adaptive([1, 1, 1, 2, None], group_size=4)
    assert [curriculum.pass_rate(problem) for problem in range(5)] == [None] * 5

    curriculum.record([(0, 4, 4), (1, 1, 4)])
    level = (5 + 1) / (8 + 2)  # and two responses of which one is right
    assert curriculum.pass_rate(0) == pytest.approx(
        (4 + 4 * level) / (4 + 4)
    )  # and a group at the level's rate
    assert curriculum.pass_rate(1) == pytest.approx((1 + 4 * level) / (4 + 4))
    assert curriculum.pass_rate(2) == pytest.approx(level), "never tried: as its level"
    assert curriculum.pass_rate(3) is curriculum.pass_rate(4) is None

    curriculum.record([(0, 0, 4), (3, 0, 0)])  # a group whose gold answer could not be read says nothing
    level = (5 * 0.8 + 0 + 1) / (8 * 0.8 + 4 + 2)
    assert curriculum.pass_rate(0) == pytest.approx((4 * 0.5 + 0 + 4 * level) / (4 * 0.5 + 4 + 4))
    assert curriculum.pass_rate(1) == pytest.approx((1 + 4 * level) / (4 + 4)), "only its level changed"
    assert curriculum.pass_rate(3) is None


def test_what_was_not_tried_for_long_is_unknown_again() -> None:
    curriculum = adaptive([1, 2], group_size=8)
    curriculum.record([(0, 0, 800)])
    for _ in range(60):
        curriculum.record([(1, 4, 8)])
    assert curriculum._level_rate(1) == pytest.approx(0.5, abs=0.01)


def shares(curriculum: Curriculum, draws: int, count: int = 50) -> dict[int, float]:
    """How often each level is drawn, of problems that are never recorded."""
    drawn = Counter(curriculum._levels[problem] for _ in range(draws) for problem in curriculum.draw(count))
    return {level: drawn[level] / drawn.total() for level in drawn if level is not None}


def test_levels_are_drawn_by_the_groups_that_are_forecast_to_differ() -> None:
    """Three levels of equal size, two within the band and one that is always right."""
    levels = [1 + index % 3 for index in range(30_000)]
    curriculum = adaptive(levels, group_size=4)
    # many responses, so that the rates are 0.5, 0.25 and 1
    curriculum.record([(0, 5 * 10**6, 10**7), (1, 25 * 10**5, 10**7), (2, 10**7, 10**7)])
    half, quarter = 1 - 2 * 0.5**4, 1 - 0.25**4 - 0.75**4
    found = shares(curriculum, 100)
    assert found[1] == pytest.approx(half / (half + quarter), abs=0.02)
    assert found[2] == pytest.approx(quarter / (half + quarter), abs=0.02)
    assert found.get(3, 0) < 0.001


def test_outside_the_band_is_drawn_seldom_but_drawn() -> None:
    levels = [1 + index % 2 for index in range(20_000)]
    curriculum = adaptive(levels, group_size=8)
    curriculum.record([(0, 5 * 10**6, 10**7), (1, 9 * 10**6, 10**7)])
    inside, outside = 1 - 2 * 0.5**8, 1 - 0.9**8 - 0.1**8
    found = shares(curriculum, 100)
    assert found[2] == pytest.approx(OUTSIDE_BAND * outside / (inside + OUTSIDE_BAND * outside), abs=0.01)
    wider = adaptive(levels, group_size=8, band=(0.1, 0.95))
    wider.record([(0, 5 * 10**6, 10**7), (1, 9 * 10**6, 10**7)])
    assert shares(wider, 100)[2] == pytest.approx(outside / (inside + outside), abs=0.02)


def test_where_no_level_is_in_the_band_the_nearest_stand_in() -> None:
    levels = [1 + index % 3 for index in range(30_000)]
    curriculum = adaptive(levels, group_size=8)
    curriculum.record([(0, 10**7, 10**7), (1, 98 * 10**5, 10**7), (2, 9 * 10**6, 10**7)])
    found = shares(curriculum, 60)
    best, second = 1 - 0.9**8 - 0.1**8, 1 - 0.98**8
    assert found[2] == pytest.approx(OUTSIDE_BAND * second / (best + OUTSIDE_BAND * second), abs=0.01)
    assert found[3] > 0.97


def test_equal_levels_are_drawn_equally_however_hard() -> None:
    levels = [1 + index % 2 for index in range(20_000)]
    curriculum = adaptive(levels)
    curriculum.record([(0, 0, 10**6), (1, 0, 10**6)])
    assert shares(curriculum, 60)[1] == pytest.approx(0.5, abs=0.03)
    assert curriculum.metrics()["curriculum/skipped"] == 0


def test_a_problems_own_record_counts_within_its_level() -> None:
    """Half of a level is always solved, half never: the level's rate is perfect, its groups are all dead."""
    curriculum = adaptive([1] * 100 + [2] * 100)
    for _ in range(4):
        curriculum.record(
            [(problem, 8 * (problem % 2), 8) for problem in range(100)]
            + [(problem, 4, 8) for problem in range(100, 200)]
        )
    drawn = [problem for _ in range(50) for problem in curriculum.draw(10)]
    assert sum(problem < 100 for problem in drawn) / len(drawn) < 0.06


def dead_share(sampling: str, rates: Sequence[float], drift: float, seed: int) -> float:
    """The share of dead groups over 60 batches of 32 problems × 8 responses, for a policy whose pass rates
    by level are `rates`, and all higher by `drift` after each batch."""
    levels = [1 + index % len(rates) for index in range(12_000)]
    curriculum = Curriculum(
        [Stage("a", sampling=sampling)], [range(len(levels))], levels, seed=seed, group_size=8
    )
    random, dead = Random(seed), 0
    for batch in range(60):
        outcomes = []
        for problem in curriculum.draw(32):
            rate = min(0.995, rates[levels[problem] - 1] + drift * batch)
            outcomes.append((problem, sum(random.random() < rate for _ in range(8)), 8))
        curriculum.record(outcomes)
        dead += sum(right in (0, 8) for _, right, _ in outcomes)
    return dead / (60 * 32)


@pytest.mark.parametrize(
    ("rates", "drift"),
    [
        ((0.99, 0.97, 0.9, 0.5, 0.1, 0.02), 0.0),  # easy, hard and a frontier between
        ((0.999, 0.99, 0.9, 0.8, 0.7, 0.5), 0.0),  # mostly easy
        ((0.6, 0.3, 0.02, 0.01, 0.01, 0.01), 0.0),  # mostly hard
        ((0.9, 0.5, 0.1, 0.01, 0.01, 0.01), 0.01),  # a frontier that moves as the policy learns
    ],
)
def test_adaptive_halves_the_dead_groups_of_a_simulated_policy(
    rates: tuple[float, ...], drift: float
) -> None:
    for seed in range(3):
        assert dead_share("adaptive", rates, drift, seed) <= dead_share("uniform", rates, drift, seed) / 2


def test_adaptive_is_no_worse_where_there_is_no_frontier() -> None:
    for rates in ((0.01,) * 6, (0.99, 0.98, 0.97, 0.95, 0.92, 0.9)):
        for seed in range(3):
            assert dead_share("adaptive", rates, 0, seed) <= dead_share("uniform", rates, 0, seed) + 0.02


# --- Metrics


def test_metrics_are_of_the_draws_since_the_last_call() -> None:
    stages = [Stage("a"), Stage("b", enter=Entry(step=1))]
    curriculum = Curriculum(stages, [[0, 1, 2, 3], [4, 5]], [1, 1, 1, 3, 7, None], seed=0, group_size=8)
    assert curriculum.metrics() == {}
    curriculum.draw(2)
    curriculum.draw(2)
    assert curriculum.metrics() == {
        "curriculum/skipped": 0,
        "curriculum/level": (1 + 1 + 1 + 3) / 4,
        "curriculum/share_level_1": 0.75,
        "curriculum/share_level_3": 0.25,
        "curriculum/share_level_7": 0,  # of a stage to come: a curve begins at 0, not nowhere
    }
    assert curriculum.metrics() == {}
    curriculum.advance(1, accuracy=0, parallel_ratio=0)
    curriculum.draw(2)
    found = curriculum.metrics()
    assert found["curriculum/level"] == 7, "the mean of those that have a level"
    assert found["curriculum/share_level_7"] == 0.5, "the share of all"


def test_metrics_without_levels_or_with_too_many() -> None:
    curriculum = adaptive([None] * 9)
    curriculum.draw(3)
    assert curriculum.metrics() == {"curriculum/skipped": 0}
    curriculum = adaptive(range(1000))
    curriculum.draw(3)
    assert curriculum.metrics().keys() == {"curriculum/skipped", "curriculum/level"}


def test_skipped_are_the_problems_passed_over() -> None:
    curriculum = adaptive([1] * 50 + [2] * 50)
    curriculum.record(
        [(problem, 8, 8) for problem in range(50)] + [(problem, 4, 8) for problem in range(50, 100)]
    )
    drawn = curriculum.draw(20)
    found = curriculum.metrics()
    seen = curriculum.state()["position"]
    assert found["curriculum/skipped"] == seen - len(drawn) > 0


# --- State

LEVELS = [index % 4 or None for index in range(40)]
PLAN = (
    Stage("a"),
    Stage("b", sampling="adaptive", enter=Entry(step=9, accuracy=0.6, plateau="parallel_ratio", window=2)),
    Stage("c", sampling="adaptive", enter=Entry(step=15, accuracy=0.7, window=3)),
)
POOLS = ([*range(10)], [*range(40)], [*range(20, 40)])


def planned() -> Curriculum:
    return Curriculum(PLAN, POOLS, LEVELS, seed=5, group_size=4)


_CALLS = st.lists(
    st.tuples(st.integers(0, 9), st.lists(st.integers(0, 4), min_size=9, max_size=9), st.booleans()),
    max_size=20,
)


@settings(deadline=None)
@given(_CALLS, st.integers(0, 20), st.booleans())
def test_a_restored_curriculum_goes_on_as_if_it_had_not_stopped(
    calls: list[tuple[int, list[int], bool]], stop: int, within_a_step: bool
) -> None:
    """Wherever a checkpoint falls: between two steps, or after a draw whose outcome is not recorded yet."""

    def run(interrupted: bool) -> list[Any]:
        curriculum = planned()
        seen: list[Any] = []
        for step, (count, rights, logs) in enumerate(calls, 1):
            if interrupted and step == stop and not within_a_step:
                curriculum = restarted(curriculum)
            drawn = curriculum.draw(count)
            if interrupted and step == stop and within_a_step:
                curriculum = restarted(curriculum)
            curriculum.record([(problem, right, 4) for problem, right in zip(drawn, rights, strict=False)])
            accuracy = sum(rights) / 36
            reason = curriculum.advance(step, accuracy=accuracy, parallel_ratio=1 - accuracy)
            seen += [drawn, reason, curriculum.stage, curriculum.entered_at]
            if logs:
                seen.append(curriculum.metrics())
        return [*seen, [curriculum.pass_rate(problem) for problem in range(40)], curriculum.state()]

    assert run(interrupted=True) == run(interrupted=False)


def restarted(curriculum: Curriculum) -> Curriculum:
    """A new process: only what JSON keeps comes over."""
    other = planned()
    other.restore(json.loads(json.dumps(curriculum.state())))
    return other


def test_a_state_is_no_larger_than_what_was_tried() -> None:
    curriculum = adaptive([1] * 100_000)
    for _ in range(50):
        curriculum.record([(problem, 3, 8) for problem in curriculum.draw(4)])
    assert len(json.dumps(curriculum.state())) < 10_000


def test_a_state_is_a_copy() -> None:
    curriculum = planned()
    state = curriculum.state()
    before = json.dumps(state)
    curriculum.record([(problem, 1, 4) for problem in curriculum.draw(5)])
    curriculum.advance(1, accuracy=1, parallel_ratio=0)
    assert json.dumps(state) == before


_HINT = "go on with the settings that the run began with, or start anew"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            Curriculum(PLAN[:2], POOLS[:2], LEVELS, seed=5, group_size=4),
            "stages ['a', 'b'], the run now has ['a', 'b', 'c']",
        ),
        (
            Curriculum(PLAN, [*POOLS[:2], [1, 2]], LEVELS, seed=5, group_size=4),
            "problems [10, 40, 2], the run now has [10, 40, 20]",
        ),
        (Curriculum(PLAN, POOLS, LEVELS, seed=6, group_size=4), "seed 6, the run now has 5"),
        (Curriculum(PLAN, POOLS, LEVELS, seed=5, group_size=8), "group_size 8, the run now has 4"),
        (
            Curriculum(PLAN, POOLS, LEVELS, seed=5, group_size=4, band=(0.1, 0.9)),
            "band [0.1, 0.9], the run now has [0.2, 0.8]",
        ),
    ],
)
def test_the_state_of_another_curriculum_is_refused(other: Curriculum, message: str) -> None:
    with pytest.raises(RunError) as error:
        planned().restore(json.loads(json.dumps(other.state())))
    assert str(error.value) == f"the curriculum's state is of {message}; {_HINT}"


@pytest.mark.parametrize(
    "damage",
    [
        {"of": None},
        {"of": []},
        {"stage": 3},
        {"stage": -1},
        {"stage": "b"},
        {"position": 11},
        {"draws": -1},
        {"position": float("inf")},
        {"epoch": None},
        {"steps": [[1]]},
        {"steps": 7},
        {"problems": [[1, 2]]},
        {"levels": [[[], 1, 2]]},
        {"drawn": [[1, "x"]]},
    ],
    ids=repr,
)
def test_a_damaged_state_is_refused_and_changes_nothing(damage: dict[str, Any]) -> None:
    curriculum = planned()
    state = curriculum.state()
    with pytest.raises(RunError, match=r"^the curriculum's state cannot be read \(.*\); go on with") as error:
        curriculum.restore(state | damage)
    assert str(error.value).isprintable()
    assert curriculum.state() == state
    del state[next(iter(damage))]
    with pytest.raises(RunError, match="cannot be read"):
        curriculum.restore(state)


# --- Construction, imports


def test_what_a_curriculum_cannot_do() -> None:
    with pytest.raises(DataError, match=r"^stage a: holds no problem; give it other levels or more data$"):
        Curriculum([Stage("a")], [[]], [], seed=0, group_size=8)
    with pytest.raises(UsageError, match=r"^group_size 1 must be 2 or more"):
        uniform([0], group_size=1)
    for band in ((0.8, 0.2), (0.5, 0.5), (-0.1, 0.5), (0.2, 1.1), (float("nan"), 0.5)):
        with pytest.raises(UsageError, match=r"^band .* must be a range of pass rates within 0 and 1$"):
            uniform([0], band=band)
    with pytest.raises(ValueError, match="shorter"):
        Curriculum([Stage("a")], [], [], seed=0, group_size=8)


def test_the_alternating_reward_is_found_here_too() -> None:
    from prl.rewards import AlternatingReward as original

    assert AlternatingReward is original


def test_nothing_heavy_is_imported() -> None:
    program = (
        "import sys, prl.curriculum; "
        "print(sorted({'torch', 'transformers', 'trl', 'numpy', 'sympy', 'yaml'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"

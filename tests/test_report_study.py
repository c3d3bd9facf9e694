"""The report of a study, on a made-up one: run folders as the stages write them, without training."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from prl.analysis import describe
from prl.errors import RunError, UsageError
from prl.runs import open_run
from prl.statistics import SeedEstimate
from prl.study import claims, estimates, figures, page, parts, report, results
from prl.study.claims import QUANTITIES, verdict
from prl.study.design import TIMINGS, Claim, cold
from prl.study.designs import DESIGNS
from prl.study.document import markdown
from prl.study.estimates import gain, gain_within, pooled, times_less, times_more
from prl.study.results import Evaluation, Study
from prl.study.sums import SUMS


@dataclass(frozen=True)
class Made:
    """How a made-up arm comes out: held-out accuracy and ratio, and in training block position, dead groups,
    ratio from its first step to its last."""

    accuracy: float
    ratio: float = 0.0
    position: tuple[float, float] = (0.2, 0.2)
    dead: float = 0.4
    ratios: tuple[float, float] = (0.5, 0.5)
    stages: tuple[str, ...] = ()
    dataset: str = "arithmetic:heldout"


WIDE = {"dataset": "arithmetic:heldout-wide", "stages": ("rl-general",)}
MADE = {
    "sequential": Made(0.50),
    "causal": Made(0.70, 0.3, (0.1, 0.4), stages=("rl-easy", "rl-general")),
    "causal-no-easy": Made(0.55, 0.2, (0.1, 0.4)),
    "structured-accuracy": Made(0.60, 0.1, (0.2, 0.3)),
    "structured-alternating": Made(0.60, 0.6, (0.2, 0.5)),
    "parallel-only": Made(0.40, 0.9, (0.2, 0.1)),
    "tiered-only": Made(0.60, 0.7, (0.2, 0.2)),
    "scaffold": Made(0.65, 0.3, (0.2, 0.4), ratios=(0.8, 0.2), stages=("scaffold", "rl-general")),
    "plain-prompt": Made(0.60, 0.3),
    "parallel-prompt": Made(0.60, 0.3),
    "uniform": Made(0.50, 0.2, dead=0.6, **WIDE),
    "adaptive": Made(0.60, 0.2, dead=0.2, **WIDE),
}
COLD_STARTS = ("causal", "structured", "causal-plain-prompt", "causal-parallel-prompt")


def response(position: float | None, right: bool) -> str:
    """A response of 200 characters whose block, if any, begins at `position`."""
    block = "<Parallel><Path>6*7=42</Path><Path>7*6=42</Path></Parallel><Summary>42</Summary>"
    before = "" if position is None else "." * round(200 * position) + block
    end = f"\nFinal Answer: {42 if right else 41}"
    return before + "." * (200 - len(before) - len(end)) + end


def sample(problem: str, text: str, right: bool) -> dict[str, Any]:
    return {
        "problem": problem, "answer": "42", "text": text, "length": 50, "critical_path": 40.0,
        "truncated": False, "verdict": "identical" if right else "different", "correct": float(right),
    }  # fmt: skip


def make_evaluation(folder: Path, made: Made, seed: int, problems: int, samples: int) -> None:
    """Sampled responses of about the arm's accuracy and ratio, and one greedy response."""
    draw = Random(f"{seed}/{made.dataset}")
    rows = []
    for number in range(problems):
        for _ in range(samples):
            right, parallel = draw.random() < made.accuracy, draw.random() < made.ratio
            text = response(0.2 if parallel else None, right)
            rows.append(sample(f"{made.dataset} {seed} {number}", text, right) | {"mode": "sampled"})
    with open_run(folder, command="eval", config={"eval": {"dataset": made.dataset}}) as run:
        run.log_samples(0, [*rows, sample("greedy only", response(0.9, True), True) | {"mode": "greedy"}])
        run.finish()


def make_training(folder: Path, made: Made, seed: int, steps: int, switch: int) -> None:
    """A run that moves evenly from the arm's first values to its last, with a little noise."""
    draw = Random(f"{seed}/{made}")
    rows = []
    with open_run(folder, command="rl", config={"rl": {}}) as run:
        for step in range(1, steps + 1):
            done = (step - 1) / max(1, steps - 1)
            mean = made.position[0] + (made.position[1] - made.position[0]) * done
            for number in range(8):
                position = mean + draw.uniform(-0.05, 0.05) if made.ratio else None
                rows.append(sample(f"{step} {number}", response(position, True), True) | {"step": step})
            metrics: dict[str, Any] = {
                "loss": 0.1,
                "correct": 0.5 + 0.4 * done + draw.uniform(-0.05, 0.05),
                "parallel_ratio": made.ratios[0] + (made.ratios[1] - made.ratios[0]) * done,
                "frac_reward_zero_std": made.dead + draw.uniform(-0.05, 0.05),
            }
            if made.stages:
                metrics["stage"] = made.stages[0 if step < switch else -1]
            if made.dataset.endswith("wide"):
                hard = 0.5 + (0.4 * done if made.dead < 0.5 else 0)
                shares = {"curriculum/share_level_1": 1 - hard, "curriculum/share_level_6": hard}
                metrics |= shares | {"curriculum/skipped": 3.0}
            run.log_metrics(step, metrics)
        run.log_samples(steps, rows)
        run.log_metrics(steps, {"train_loss": 0.1})
        run.finish()


def make_study(
    folder: Path,
    names: tuple[str, ...] = tuple(MADE),
    *,
    seeds: int = 2,
    steps: int = 12,
    switch: int = 9,
    problems: int = 12,
    samples: int = 4,
    quick: bool = False,
) -> Path:
    """The folder that `prl study` leaves, before its report."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "git_commit": "abc", "platform": "Linux", "cpu_count": 2, "gpus": [], "host": "secret-host",
        "argv": ["/home/someone/prl", "study"], "versions": {"torch": "2.13.0", "trl": "1.16.0"},
    }  # fmt: skip
    settings = {
        "study": "sums", "arms": list(names), "seeds": seeds, "recipe": "tiny",
        "model_name_or_path": None, "quick": quick, "sizes": {}, "environment": environment,
    }  # fmt: skip
    (folder / "study.yaml").write_text(yaml.safe_dump(settings))
    for seed in range(seeds):
        make_evaluation(folder / "base" / f"seed-{seed}-eval", Made(0.4), seed, problems, samples)
        for start in COLD_STARTS:
            place = folder / "cold-start" / start
            make_evaluation(place / f"seed-{seed}-eval", Made(0.3, 0.5), seed, problems, samples)
            with open_run(place / f"seed-{seed}", command="sft", config={"command": "sft"}) as run:
                run.finish()
        for name in names:
            place, made = folder / "arms" / name / f"seed-{seed}", MADE[name]
            make_training(place / "rl", made, seed, steps, switch)
            make_evaluation(place / "eval", made, seed, problems, samples)
            if made.dataset.endswith("wide"):
                make_evaluation(place / f"eval-{steps * 7 // 10}", made, seed, problems, samples)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole study with its report; tests only read it."""
    folder = make_study(tmp_path_factory.mktemp("study") / "whole", seeds=4, problems=40)
    report.write(folder)
    return folder


@pytest.fixture(scope="module")
def numbers(made: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((made / "study.json").read_bytes())
    return found


def evaluated(scores: dict[str, float]) -> Evaluation:
    return Evaluation("sums", {name: scores for name in results.SCORES}, {"responses": len(scores)})


def rows_of(page: str, section: str) -> dict[str, list[str]]:
    """First cell -> the others, of the table in a section of study.md."""
    body = page.split(f"## {section}")[1].split("\n## ")[0]
    lines = [line[2:-2].split(" | ") for line in body.splitlines() if line.startswith("|")]
    return {cells[0]: cells[1:] for cells in lines[2:]}


# Estimates


def test_a_gain_is_paired_on_seed_and_problem() -> None:
    hard = {f"problem {n}": n % 2 * 0.8 for n in range(30)}
    better = {problem: value + 0.1 for problem, value in hard.items()}
    found = gain({0: evaluated(better)}, {0: evaluated(hard)}, "accuracy")
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_one_seed_supports_no_gain_by_few_problems() -> None:
    none = {str(n): 0.0 for n in range(300)}
    for count, expected in ((1, "undecided"), (5, "undecided"), (6, "supported")):
        some = none | {str(n): 1.0 for n in range(count)}
        found = gain({0: evaluated(some)}, {0: evaluated(none)}, "accuracy")
        assert found is not None
        assert verdict(found, "above") == expected


def test_seeds_with_other_problems_are_not_compared() -> None:
    ours = {0: evaluated({"a": 1.0, "b": 0.0}), 1: evaluated({"a": 1.0})}
    theirs = {0: evaluated({"a": 0.0}), 1: evaluated({"a": 0.5})}
    found = gain(ours, theirs, "accuracy")
    assert found is not None
    assert found.seeds == {1: 0.5}
    assert gain({0: ours[0]}, {0: theirs[0]}, "accuracy") is None


def of_costs(costs: dict[str, float], wrong: str = "") -> Evaluation:
    """A response to each problem, with its critical path."""
    rows = [
        {"problem": name, "correct": float(name != wrong), "critical_path": cost}
        for name, cost in costs.items()
    ]
    return Evaluation("sums", {}, {}, rows=rows)


def test_arms_are_compared_within_a_budget() -> None:
    short = {0: of_costs({"a": 10, "b": 20, "c": 30}), 1: of_costs({"a": 10, "b": 20, "c": 40}, wrong="c")}
    long = {seed: of_costs({"a": 20, "b": 60, "c": 90}) for seed in range(3)}
    found = gain_within(short, long, 30, "critical_path")
    assert found is not None
    assert found.seeds == pytest.approx({0: 2 / 3, 1: 1 / 3})
    assert gain_within(short, {0: of_costs({"z": 1})}, 30, "critical_path") is None, "other problems"
    times = times_less(short, long, 2 / 3, "critical_path")
    assert times is not None
    assert (times.mean, times.seeds) == (3, {0: 60 / 20, 1: 60 / 20})
    assert times_less(short, long, 1.0, "critical_path") is None, "a seed of the first is not right in all"


def answered(right: dict[str, float], **columns: Any) -> Evaluation:
    """A response to each problem, right or not; tokens and seconds are its place."""
    rows = [
        {"problem": name, "answer": "7", "extracted": "7" if correct else "8", "correct": correct, "level": 1}
        | {name: float(place) for name in ("length", "critical_path", "seconds", "cpu_seconds")}
        for place, (name, correct) in enumerate(right.items(), 1)
    ]
    described = {"responses": len(rows), "summary_accuracy": 0.95, "path_majority": 0.9, "path_accuracy": 0.8}
    return Evaluation("sums", {"accuracy": right}, described, rows=rows)


def test_one_seed_decides_no_claim_by_a_single_number() -> None:
    ours = {0: answered({str(n): float(n % 10 < 7) for n in range(20)})}
    theirs = {0: answered({str(n): float(n % 10 > 3) for n in range(20)}), 1: answered({"0": 1.0})}
    times = times_more(ours, theirs, "accuracy")
    assert times is not None
    assert times.mean == pytest.approx(7 / 6)
    assert times.low < times.mean < times.high, "a bootstrap of its problems"
    fewer = times_less(ours, theirs, 0.3, "critical_path")
    assert fewer is not None
    assert (fewer.low, fewer.high, [*fewer.seeds]) == (0, inf, [0])
    study = Study(
        Path(), {"study": "sums", "seeds": 1}, {}, {"a": ours, "b": theirs}, timed={"a": ours, "b": theirs}
    )
    for quantity, arms, bound in (
        ("seconds", "ab", 0.9),
        ("summary", "a", -0.01),
        ("path_accuracy", "ab", -0.01),
    ):
        found = QUANTITIES[quantity].measure(study, *arms)
        assert found.mean > bound
        assert verdict(found, "above", bound) == "undecided"


def test_right_paths_are_compared_where_the_problems_are_the_same() -> None:
    better, other = answered({"x": 1.0, "y": 0.0}), answered({"z": 1.0})
    better.described["path_accuracy"], other.described["path_accuracy"] = 0.9, 0.1
    worse = answered({"x": 1.0, "y": 0.0})
    none = answered({"x": 1.0, "y": 0.0})
    none.described["path_accuracy"] = None
    arms = {"a": dict.fromkeys(range(4), better), "b": {0: worse, 1: worse, 2: other, 3: none}}
    study = Study(Path(), {"study": "sums", "seeds": 4}, {}, arms)
    found = QUANTITIES["path_accuracy"].measure(study, "a", "b")
    assert {seed: round(of, 3) for seed, of in found.seeds.items()} == {0: 0.1, 1: 0.1}
    assert QUANTITIES["path_accuracy"].measure(study, "a", "c") is None


def test_nothing_is_a_multiple_of_no_right_answer() -> None:
    half, none = answered({"a": 1.0, "b": 0.0}), answered({"a": 0.0, "b": 0.0})
    ours = dict.fromkeys(range(3), half)
    assert times_more(ours, {0: half, 1: half, 2: half}, "accuracy") is not None
    assert times_more(ours, {0: half, 1: none, 2: half}, "accuracy") is None, "a seed is not dropped for it"
    assert times_more({0: none, 1: half}, {0: half, 1: half}, "accuracy") is not None


def test_one_seed_has_intervals_of_its_problems_on_each_level(tmp_path: Path) -> None:
    seeds = {0: answered({str(n): float(n % 4 > 0) for n in range(20)})}
    study = Study(
        tmp_path, {"study": "sums", "seeds": 1, "arms": ["a"]}, {}, {"a": seeds}, timed={"a": seeds}
    )
    numbers = report.measure(study)
    accuracy = numbers["levels"]["a"]["1"]["accuracy"]
    assert accuracy == estimates.score(seeds, "accuracy")
    assert accuracy.low < accuracy.mean < accuracy.high
    seconds = numbers["timed"]["a"]["seconds"]
    assert (seconds.low, seconds.mean, seconds.high) == (6, 10.5, 15), "of the sign test"


def test_pooled_shares_are_weighted_by_what_they_are_of() -> None:
    first = {"responses": 10, "saved": 0.2, "agreement": 1.0, "agreement_of": 1}
    second = {"responses": 10, "saved": 0.4, "agreement": 0.5, "agreement_of": 4}
    third = {"responses": 10, "saved": None, "agreement": None, "agreement_of": 0}
    found = pooled(Evaluation("sums", {}, each) for each in (first, second, third))
    assert found == {
        "responses": 30, "saved": pytest.approx(0.3), "agreement": pytest.approx(0.6), "agreement_of": 5,
    }  # fmt: skip


def test_pooled_blocks_count_alike_in_whichever_seed_they_are() -> None:
    def rows(*paths: int) -> list[dict[str, Any]]:
        blocks = [
            f"<Parallel>{''.join(f'<Path>{n} is a</Path>' for n in range(count))}</Parallel>"
            "<Summary>7</Summary>"
            for count in paths
        ]
        return [
            sample("a", f"{'.' * count}{block} Final Answer: 7", True)
            for count, block in zip(paths, blocks, strict=True)
        ]

    few, many = [*rows(6), *[sample("a", "Final Answer: 7", True)] * 9], rows(2, 2, 1, 2, 2)
    found, whole = (
        pooled(Evaluation("sums", {}, describe(each)) for each in (few, many)),
        describe(few + many),
    )
    assert found == pytest.approx(whole)
    assert (found["paths_per_block"], found["path_diversity_of"]) == (15 / 6, 5)


def test_pooled_blocks_of_a_study_that_did_not_count_them() -> None:
    first = {"responses": 10, "blocks_per_response": 0.1, "path_diversity": 0.2}
    second = {"responses": 10, "blocks_per_response": 0.4, "path_diversity": 0.7}
    none = {"responses": 10, "blocks_per_response": 0.0, "path_diversity": None}
    found = pooled(Evaluation("sums", {}, each) for each in (first, second, none))
    assert found["path_diversity"] == pytest.approx(0.6)
    assert "path_diversity_of" not in found
    counted = {"responses": 10, "path_diversity": 0.3, "path_diversity_of": 5}
    mixed = pooled(Evaluation("sums", {}, each) for each in (first, second, none, counted))
    assert mixed["path_diversity"] == pytest.approx((0.2 * 1 + 0.7 * 4 + 0.3 * 5) / 10)
    assert mixed["path_diversity_of"] is None, "of how many nobody counted"


# Claims


@pytest.mark.parametrize(
    ("low", "high", "side", "bound", "expected"),
    [
        (0.01, 0.02, "above", 0.0, "supported"),
        (-0.02, -0.01, "above", 0.0, "not supported"),
        (-0.01, 0.02, "above", 0.0, "undecided"),
        (0.0, 0.0, "above", 0.0, "undecided"),  # no difference is no support
        (-0.02, -0.01, "below", 0.0, "supported"),
        (0.01, 0.02, "below", 0.0, "not supported"),
        (0.3, 0.49, "below", 0.5, "supported"),
        (0.3, 0.51, "below", 0.5, "undecided"),
        (0.51, 0.9, "below", 0.5, "not supported"),
        (-0.02, 0.02, "within", 0.03, "supported"),
        (0.0, 0.0, "within", 0.03, "supported"),
        (-0.02, 0.04, "within", 0.03, "undecided"),
        (-0.04, 0.04, "within", 0.03, "undecided"),
        (0.04, 0.05, "within", 0.03, "not supported"),
        (-0.05, -0.04, "within", 0.03, "not supported"),
    ],
)
def test_a_verdict_is_where_the_interval_lies(
    low: float, high: float, side: Any, bound: float, expected: str
) -> None:
    assert verdict(SeedEstimate((low + high) / 2, low, high, {}), side, bound) == expected


def test_what_an_interval_of_99_per_cent_leaves_undecided_is_told() -> None:
    """Means of 0.10, 0.02, 0.05 and 0.08 more: 0.0625, with an error of 0.0175, times 3.182 or 5.841."""

    def evaluated(more: Sequence[float]) -> Any:
        scores = [{"accuracy": {"a": 0.5 + each}} for each in more]
        return {seed: results.Evaluation("", of, {}) for seed, of in enumerate(scores)}

    design = replace(SUMS, claims=[Claim("more", ("a", "b"), "accuracy", "above")])
    for more, is_firm in (((0.10, 0.02, 0.05, 0.08), False), ((0.4, 0.4, 0.4, 0.41), True)):
        study = Study(Path(), {"study": "sums"}, {}, {"a": evaluated(more), "b": evaluated([0.0] * 4)})
        (found,) = claims.judge(study, design)
        assert (found.verdict, found.is_firm) == ("supported", is_firm)
        shown = markdown([page._claims([found])], {})
        assert ("; 1 of them decided at 95 % and not at 99 %" in shown) is not is_firm
        assert ("+6.2 [+0.7, +11.8], at 99 % [−4.0, +16.5]" in shown) is not is_firm


def test_every_arm_of_a_design_with_terms_has_one() -> None:
    for design in DESIGNS.values():
        named = {*design.arms, *map(cold, design.cold_starts), *design.bases}
        assert {*design.terms} in (set(), named)


def test_every_quantity_has_a_claim() -> None:
    assert {claim.quantity for design in DESIGNS.values() for claim in design.claims} == {*QUANTITIES}


def test_every_claim_gets_its_verdict(numbers: dict[str, Any]) -> None:
    found = {(tuple(each["claim"]["arms"]), each["claim"]["quantity"]): each for each in numbers["claims"]}
    assert len(found) == len(SUMS.claims)
    assert {each["verdict"] for each in found.values()} == {"supported"}
    dead = found[("adaptive", "uniform"), "dead_groups"]["measured"]
    assert 0.2 < dead["low"] < dead["mean"] < dead["high"] < 0.5


def test_negative_results_stay_in(made: Path) -> None:
    """The claims about two arms, each with its arms exchanged."""
    whole = results.read(made)
    exchanged = [claim for claim in SUMS.claims if len(claim.arms) == 2 and claim.quantity in results.SCORES]
    for claim in exchanged:
        measured = QUANTITIES[claim.quantity].measure(whole, *reversed(claim.arms))
        expected = "supported" if claim.side == "within" else "not supported"
        assert verdict(measured, claim.side, claim.bound) == expected, claim.text
    assert len(exchanged) == 9
    dead = QUANTITIES["dead_groups"].measure(whole, "uniform", "adaptive")
    assert verdict(dead, "below", 0.5) == "not supported"


def training(
    positions: dict[int, float], *, blocks: int = 10, ratios: dict[int, float] | None = None, **curves: Any
) -> results.Training:
    logged = {"loss": dict.fromkeys(range(1, 13), 0.1), "parallel_ratio": ratios or {}, **curves}
    counts = {step: blocks for step in positions}
    return results.Training(
        {**logged, "block_position": positions}, counts, {9: "rl-general"} if ratios else {}
    )


def test_block_positions_are_compared_between_the_first_and_the_last_third() -> None:
    run = training({step: step / 100 for step in range(1, 13)})
    found = claims.block_position(Study(Path(), {"study": "sums"}, {"causal": {0: run}}), "causal")
    assert found is not None
    assert found.mean == pytest.approx(0.105 - 0.025)
    assert claims.thirds(run) == ({n: n / 100 for n in range(1, 5)}, {n: n / 100 for n in range(9, 13)})


def test_few_blocks_say_nothing_of_their_position() -> None:
    late_only = {step: 0.5 for step in range(9, 13)}
    few = training({step: 0.5 for step in range(1, 13)}, blocks=4)  # 16 in a third, where it takes 20
    for run in (training(late_only), few, training({}), results.Training({"block_position": {}}, {}, {})):
        assert claims.block_position(Study(Path(), {"study": "sums"}, {"causal": {0: run}})) is None
    enough = training({step: 0.5 for step in range(1, 13)}, blocks=5)
    assert claims.block_position(Study(Path(), {"study": "sums"}, {"causal": {0: enough}})) is not None


def test_an_arm_that_loses_its_blocks_does_not_move_those_of_the_others() -> None:
    still = training({step: 0.6 for step in range(1, 13)})
    losing = training({step: 0.1 for step in (1, 2, 3, 4, 11, 12)})
    found = claims.block_position(
        Study(Path(), {"study": "sums"}, {"still": {0: still}, "losing": {0: losing}})
    )
    assert found == SeedEstimate(pytest.approx(0), pytest.approx(0), pytest.approx(0), {0: pytest.approx(0)})


def test_the_ratio_is_compared_before_the_switch_and_at_the_end() -> None:
    run = training({}, ratios={step: 0.8 if step < 9 else 0.3 for step in range(1, 13)})
    measure = QUANTITIES["ratio_after_switch"].measure
    found = measure(Study(Path(), {"study": "sums"}, {"scaffold": {0: run, 1: training({})}}), "scaffold")
    assert (found.mean, found.seeds) == (pytest.approx(-0.5), {0: pytest.approx(-0.5)})


def test_what_falls_without_a_switch_is_none_of_its_doing() -> None:
    """0.5 less after the switch, where a run without one has 0.4 less at the same steps."""
    switched = training({}, ratios={step: 0.8 if step < 9 else 0.3 for step in range(1, 13)})
    falling = {"parallel_ratio": {step: 0.9 if step < 9 else 0.5 for step in range(1, 13)}}
    other = results.Training(falling | {"loss": dict.fromkeys(range(1, 13), 0.1)}, {}, {})
    study = Study(Path(), {"study": "sums"}, {"scaffold": {0: switched}, "other": {0: other, 1: other}})
    measure = QUANTITIES["ratio_after_switch_over"].measure
    assert measure(study, "scaffold", "other").mean == pytest.approx(-0.1)
    assert measure(study, "other", "scaffold") is None, "which has no switch"
    assert measure(study, "scaffold", "absent") is None


def test_ten_steps_on_either_side_are_compared() -> None:
    """0.6 and 1.0 before the switch at step 16, 0.4 and 0.0 at the end of 30; nothing else counts."""
    five = (0.0, 0.6, 1.0, 0.5, 0.4, 0.0)
    run = results.Training(
        {"parallel_ratio": {step: five[(step - 1) // 5] for step in range(1, 31)}}, {}, {16: "rl-general"}
    )
    found = QUANTITIES["ratio_after_switch"].measure(
        Study(Path(), {"study": "sums"}, {"scaffold": {0: run}}), "scaffold"
    )
    assert found.mean == pytest.approx((0.4 + 0.0) / 2 - (0.6 + 1.0) / 2)


def test_seconds_are_medians_of_what_each_problem_took() -> None:
    """Medians 2 and 4; of another seed 2 and 4."""

    def timed(*seconds: float) -> results.Evaluation:
        return results.Evaluation(
            "search:which-heldout", {}, {}, rows=[{"seconds": each} for each in seconds]
        )

    study = Study(Path(), {"study": "paper-mini"}, {})
    study.timed = {"ours": {0: timed(1, 2, 9), 1: timed(2, 2)}, "theirs": {0: timed(4, 4, 5), 1: timed(4, 4)}}
    measure = QUANTITIES["seconds"].measure
    assert measure(study, "ours", "theirs").seeds == {0: 2, 1: 2}
    del study.timed["theirs"]
    assert measure(study, "ours", "theirs") is None


def test_of_several_timings_the_fastest_counts() -> None:
    def row(problem: str, seconds: float, cpu_seconds: float | None, length: int = 5) -> dict[str, Any]:
        return {"problem": problem, "length": length, "seconds": seconds, "cpu_seconds": cpu_seconds}

    first = [row("a", 3.0, 1.0), row("b", 2.0, None)]
    again = [row("a", 2.0, 2.0), row("b", 4.0, 1.0)]
    assert results.fastest([first, again]) == [row("a", 2.0, 1.0), row("b", 2.0, None)]
    with pytest.raises(RunError, match=r"'a' was answered otherwise when it was timed again: remove the"):
        results.fastest([first, [row("a", 2.0, 2.0, length=6), row("b", 4.0, 1.0)]])


def test_a_seed_is_timed_once_all_of_its_timings_are_there(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    make_study(folder, ("sequential",), seeds=2, problems=2, samples=2, steps=4)
    settings = yaml.safe_load((folder / "study.yaml").read_text()) | {"study": "paper-mini"}
    (folder / "study.yaml").write_text(yaml.safe_dump(settings))
    for seed, timings in ((0, TIMINGS), (1, TIMINGS[:2])):
        home = folder / "arms" / "sequential" / f"seed-{seed}"
        for timing in timings:
            shutil.copytree(home / "eval", home / timing)
    study = results.read(folder)
    assert study.timed["sequential"].keys() == {0}
    assert "arms/sequential/seed-1/timed-3: not begun" in study.missing
    assert parts.known(study) >= {f"arms/sequential/seed-0/{timing}" for timing in TIMINGS}


def test_critical_paths_are_compared_by_their_means() -> None:
    def evaluated(**costs: float) -> Any:
        return {0: results.Evaluation("", {"accuracy": costs, "critical_path": costs}, {})}

    study = Study(Path(), {}, {}, {"ours": evaluated(a=40, b=60), "theirs": evaluated(a=90, b=60)})
    assert QUANTITIES["mean_critical_path"].measure(study, "ours", "theirs").mean == pytest.approx(1.5)


def test_claims_are_judged_by_the_numbers_that_they_state() -> None:
    for claim in SUMS.claims:
        if claim.side == "within":
            assert f"within {100 * claim.bound:g} points" in claim.text
        else:
            assert claim.bound == (0.5 if "at least halves" in claim.text else 0.0), claim.text


def test_dead_groups_are_a_multiple_of_the_others() -> None:
    def arm(share: float) -> dict[int, results.Training]:
        return {0: training({}, frac_reward_zero_std=dict.fromkeys(range(1, 13), share))}

    measure = QUANTITIES["dead_groups"].measure
    found = measure(
        Study(Path(), {"study": "sums"}, {"adaptive": arm(0.1), "uniform": arm(0.4)}), "adaptive", "uniform"
    )
    assert found.mean == found.high == pytest.approx(0.25)
    assert (
        measure(
            Study(Path(), {"study": "sums"}, {"adaptive": arm(0.1), "uniform": arm(0)}), "adaptive", "uniform"
        )
        is None
    )
    assert measure(Study(Path(), {"study": "sums"}, {"adaptive": arm(0.1)}), "adaptive", "uniform") is None


# Reading run folders


def test_a_training_run_is_read_by_its_steps(tmp_path: Path) -> None:
    run_dir = tmp_path / "arms" / "scaffold" / "seed-0" / "rl"
    with open_run(run_dir, command="rl", config={}) as run:
        early, late = response(0.1, True), response(0.5, True)
        for step, stage in ((1, "scaffold"), (2, "scaffold"), (3, "rl-general")):
            run.log_metrics(step, {"correct": 0.1 * step, "stage": stage, "phase": "tiered", "gap": None})
            run.log_samples(
                step, [sample("a", early, True), sample("b", late, True)][: step if step < 3 else 0]
            )
        run.log_samples(3, [sample("a", "no block", True), sample("b", None, False)])  # type: ignore[arg-type]
        run.log_metrics(2, {"correct": 0.7})  # a later line of the same step, as after resuming
        run.finish()
    settings = {"study": "sums", "arms": ["scaffold"], "seeds": 1}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(settings))
    found = results.read(tmp_path).trainings["scaffold"][0]
    assert found.curves["correct"] == {1: 0.1, 2: 0.7, 3: pytest.approx(0.3)}
    assert found.curves["block_position"] == {1: pytest.approx(0.1), 2: pytest.approx(0.3)}
    assert found.blocks == {1: 1, 2: 2, 3: 0}
    assert (found.switches, found.steps) == ({3: "rl-general"}, 3)
    assert "phase" not in found.curves


def test_an_evaluation_is_read_by_its_problems(tmp_path: Path) -> None:
    run_dir = tmp_path / "base" / "seed-0-eval"
    with open_run(run_dir, command="eval", config={"eval": {"dataset": "sums"}}) as run:
        rows = [
            sample("a", response(0.1, True), True),
            sample("a", response(None, False), False) | {"length": 70, "critical_path": 60.0},
            sample("b", "<Parallel><Path>1</Path></Parallel> Final Answer: 42", True),  # no valid block
        ]
        run.log_samples(0, [row | {"mode": "sampled"} for row in rows] + [rows[0] | {"mode": "greedy"}])
        run.finish()
    (tmp_path / "study.yaml").write_text("{study: sums, arms: [], seeds: 1}")
    found = results.read(tmp_path).evaluations["base"][0]
    assert found.scores == {
        "accuracy": {"a": 0.5, "b": 1.0},
        "parallel_ratio": {"a": 0.5, "b": 0.0},
        "tokens": {"a": 60.0, "b": 50.0},
        "critical_path": {"a": 50.0, "b": 40.0},
    }
    assert (found.dataset, found.steps, found.described["responses"]) == ("sums", None, 3)


def test_a_problem_that_was_not_asked_is_not_solved_and_in_nothing_else(tmp_path: Path) -> None:
    responses = [sample("a", response(0.1, True), True)] * 2 + [sample("b", response(None, False), False)] * 2
    level = {"mode": "sampled", "seconds": 2.0, "extracted": "42", "level": 1}
    none = {"verdict": "beyond context", "length": 0, "critical_path": 0.0, "seconds": 0.0, "extracted": None}
    rows = [row | level for row in responses]
    rows += [sample(name, "", False) | level | none | {"level": at} for at, name in enumerate("cd", 1)]
    with open_run(
        tmp_path / "base" / "seed-0-eval", command="eval", config={"eval": {"dataset": "s"}}
    ) as run:
        run.log_samples(0, rows)
        run.finish()
    (tmp_path / "study.yaml").write_text("{study: sums, arms: [], seeds: 1}")
    study = results.read(tmp_path)
    kept = parts.load(parts.save(study)).evaluations["base"][0]
    for found in (study.evaluations["base"][0], kept):
        assert [*found.scores["accuracy"].values()] == [1, 0, 0, 0]
        assert [*found.scores["parallel_ratio"].values()] == [1, 0]
        assert [*found.scores["tokens"].values()] == [50, 50]
        assert [*found.scores["critical_path"].values()] == [40, 40]
        assert (found.described["responses"], found.described["length"]) == (4, 50)
        assert [*estimates.voted(found, 2).values()] == [1, 0, 0, 0]
    numbers = report.measure(replace(study, timed={"sequential": study.evaluations["base"]}))
    assert [*numbers["levels"]["base"]] == ["1"], "of level 2 nothing was asked"
    level_1 = numbers["levels"]["base"]["1"]
    assert (level_1["accuracy"].mean, level_1["length"]) == (pytest.approx(1 / 3), 50)
    assert numbers["timed"]["sequential"]["seconds"].low == 2
    assert "4 of s, 2 samples" in report.write(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"holds no study.yaml: name the --output_dir of a `prl study`"),
        ("arms: [", r"study.yaml cannot be read"),
        ("- a", r"study.yaml names no arms and seeds"),
        ("seeds: 3", r"study.yaml names no arms and seeds"),
    ],
)
def test_a_folder_that_is_no_study_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(RunError, match=said):
        report.write(tmp_path)
    assert not (tmp_path / "study.md").exists()


# The report


def test_the_page_holds_claims_tables_and_figures(made: Path) -> None:
    page = (made / "study.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if line.startswith("#")] == [
        "# The paper's experiments in miniature, on sums",
        "## Claims",
        "## Terms",
        "## T1: accuracy and parallel ratio of all arms",
        "## Before and after RL",
        "## T2: rewards, from one structured cold start",
        "## T3: adaptive difficulty, on problems of all levels",
        "## T4: what the traces show",
        "## T5: from the paths to the answer",
        "## Figures",
        "## Block position, arm by arm",
    ]
    assert "`prl study sums --seeds 4 --recipe tiny --arms sequential causal" in page
    assert "Linux, 2 cores, no GPU" in page
    assert "40 of arithmetic:heldout, 4 samples; 40 of arithmetic:heldout-wide, 4 samples" in page
    assert "quick" not in page
    for path in ("f1-block-position", "f2-scaffold", "f3-levels", "f4-frontiers"):
        assert f"](figures/{path}.png)" in page
        assert (made / "figures" / f"{path}.png").stat().st_size > 5000
    assert not any(line.endswith(" ") or "None" in line or "nan" in line for line in page.splitlines())


def test_nothing_of_the_machine_but_what_matters_is_in_the_report(made: Path) -> None:
    for name in ("study.md", "study.json"):
        text = (made / name).read_text(encoding="utf-8")
        assert not any(private in text for private in ("secret-host", "/home/", str(made), "argv"))


def test_tables_say_what_was_measured_beside_what_the_paper_found(
    made: Path, numbers: dict[str, Any]
) -> None:
    page = (made / "study.md").read_text(encoding="utf-8")
    t1 = rows_of(page, "T1")
    assert [*t1][:3] == ["base", "cold start causal", "cold start causal-parallel-prompt"]
    assert {"uniform", "adaptive"}.isdisjoint(t1)  # measured on other problems
    found, (table,) = numbers["arms"]["causal"], numbers["tables"].values()
    over = table["causal"]
    assert t1["causal"] == [
        "4",
        f"{found['accuracy']['mean']:.1%} [{found['accuracy']['low']:.1%}, {found['accuracy']['high']:.1%}]",
        f"{100 * over['mean']:+.1f} [{100 * over['low']:+.1f}, {100 * over['high']:+.1f}]".replace("-", "−"),
        f"{found['parallel_ratio']['mean']:.1%} "
        f"[{found['parallel_ratio']['low']:.1%}, {found['parallel_ratio']['high']:.1%}]",
        "50 [50, 50]",
        "40 [40, 40]",
        "48.9%, 27.3%",
    ]
    assert t1["sequential"][2] == "–"
    assert [*rows_of(page, "T2")] == list(SUMS.reward_arms)
    assert rows_of(page, "T2")["parallel-only"][1].startswith("−")
    assert [*rows_of(page, "T3")] == ["uniform", "adaptive"]
    assert rows_of(page, "T3")["adaptive"][3].endswith(" at 8")
    assert {"base", "sequential"}.isdisjoint(rows_of(page, "T4") | rows_of(page, "T5"))
    of = int(numbers["traces"]["causal"]["path_oracle_of"])
    assert rows_of(page, "T5")["causal"][:3] == [f"100.0% ({of})"] * 3, "42 on all paths and in the summary"
    moves = {arm: cells[-1] for arm, cells in rows_of(page, "Block position").items()}
    assert (moves["causal"], moves["parallel-only"], moves["tiered-only"]) == (
        "later",
        "earlier",
        "undecided",
    )
    assert "sequential" not in moves


def test_all_numbers_are_in_study_json(numbers: dict[str, Any]) -> None:
    found = numbers["arms"]["causal"]["accuracy"]
    assert found["mean"] == pytest.approx(sum(found["seeds"].values()) / 4)
    assert numbers["settings"]["arms"] == list(MADE)
    assert numbers["environment"]["versions"] == {"torch": "2.13.0", "trl": "1.16.0"}
    assert numbers["missing"] == []
    assert numbers["run_seconds"] > 0
    assert len(numbers["curves"]["adaptive"]["1"]["curriculum/share_level_6"]) == 12
    assert numbers["traces"]["causal"]["responses"] == 4 * 40 * 4
    assert numbers["difficulty"]["uniform"]["checkpoint"] == 8


def test_a_report_written_again_is_the_same(made: Path) -> None:
    before = {name: (made / name).read_bytes() for name in ("study.md", "study.json")}
    report.write(made)
    assert {name: (made / name).read_bytes() for name in before} == before


def test_what_is_missing_is_named_and_the_rest_reported(tmp_path: Path) -> None:
    folder = make_study(tmp_path, ("sequential", "causal", "adaptive"), steps=4, problems=4)
    (folder / "arms" / "causal" / "seed-1" / "eval" / "DONE").unlink()
    (folder / "arms" / "sequential").rename(folder / "elsewhere")
    page = report.write(folder).read_text(encoding="utf-8")
    assert page.split("## Missing runs\n\n")[1].splitlines() == [
        *(f"- arms/sequential/seed-{seed}/rl: not begun" for seed in (0, 1)),
        *(f"- arms/sequential/seed-{seed}/eval: not begun" for seed in (0, 1)),
        "- arms/causal/seed-1/eval: not finished",
    ]
    assert rows_of(page, "T1")["causal"][0] == "1"
    lacking = dict(line[2:-2].split(" | ") for line in page.split("Not measured yet:")[1].splitlines()[4:17])
    assert lacking[SUMS.claims[0].text] == "no finished run of sequential"
    assert lacking[SUMS.claims[7].text] == "too little to measure it"  # four steps have too few blocks


def test_a_study_that_has_run_nothing_yet_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("{study: sums, arms: [causal], seeds: 1, quick: true}")
    page = report.write(tmp_path).read_text(encoding="utf-8")
    assert "**A quick study" in page
    assert page.count(" | no finished run of ") + page.count(" | too little to measure") == len(SUMS.claims)
    assert "- base/seed-0-eval: not begun\n- arms/causal/seed-0/rl: not begun" in page
    assert "## Figures" not in page
    assert "## T1" not in page


def test_an_evaluation_without_samples_is_missing_too(tmp_path: Path) -> None:
    with open_run(tmp_path / "base" / "seed-0-eval", command="eval", config={}) as run:
        run.finish()
    (tmp_path / "study.yaml").write_text("{study: sums, arms: [], seeds: 1}")
    assert results.read(tmp_path).missing == ["base/seed-0-eval: holds no responses"]


def test_without_matplotlib_the_page_says_why_it_has_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_study(tmp_path, ("causal",), seeds=1, steps=3, problems=2)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = report.write(folder).read_text(encoding="utf-8")
    assert "## Figures\n\ncurves need matplotlib, which is not installed: pip install prl[report]" in page
    assert not (folder / "figures").exists()


def test_reading_a_study_needs_no_torch() -> None:
    code = "import sys, prl.study.report; sys.exit(bool({'torch', 'transformers', 'trl'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


# Figures


def lines_of(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


def test_block_positions_have_a_panel_for_each_family(made: Path) -> None:
    figure = figures.block_positions(results.read(made))
    assert figure is not None
    shown = {axes.get_title(): [*lines_of(axes)] for axes in figure.axes}
    assert shown == {title: list(panel) for title, panel in SUMS.panels.items()}
    causal, dotted = (line for line in figure.axes[0].get_lines()[:2])
    assert (causal.get_label(), [*causal.get_xdata()]) == ("causal", [*range(3, 13)])
    assert [*dotted.get_xdata()] == [9, 9]
    low, high = figure.axes[0].get_ylim()
    assert 0.05 < low < 0.15
    assert 0.4 < high < 0.5


def test_the_scaffold_is_drawn_with_its_switch(made: Path) -> None:
    whole = results.read(made)
    figure = figures.scaffold(whole)
    assert figure is not None
    assert [axes.get_ylabel() for axes in figure.axes] == ["parallel ratio", "share correct"]
    names = ["structured-accuracy", "structured-alternating", "scaffold"]
    for axes in figure.axes:
        shown = lines_of(axes)
        assert [*shown] == [*names, "scaffold: accuracy alone"]
        assert shown["scaffold: accuracy alone"][0] == [9, 9]
    steps, ratios = lines_of(figure.axes[0])["scaffold"]
    logged = whole.trainings["scaffold"][0].curves["parallel_ratio"]
    assert steps == [*logged]
    assert ratios[-1] == pytest.approx(sum(logged[step] for step in range(8, 13)) / 5)
    assert ratios[0] == pytest.approx(logged[1])


def test_levels_fill_the_whole(made: Path) -> None:
    figure = figures.levels(results.read(made))
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes] == ["uniform", "adaptive"]
    assert all(len(axes.collections) == 2 for axes in figure.axes)
    (legend,) = (axes.get_legend() for axes in figure.axes if axes.get_legend())
    assert [text.get_text() for text in legend.get_texts()] == [
        "level 6",
        "level 1",
    ]  # as stacked, from the top
    top = figure.axes[1].collections[-1].get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx(1)


def test_figures_without_runs_are_left_out(tmp_path: Path) -> None:
    empty = Study(tmp_path, {"study": "sums"}, {"causal": {}})
    assert figures.draw(empty) == {}
    assert not (tmp_path / "figures").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.figure", None)
        some = Study(tmp_path, {"study": "sums"}, {"causal": {0: training({1: 0.5}, blocks=20)}})
        with pytest.raises(UsageError, match="curves need matplotlib"):
            figures.draw(some)


def test_a_study_takes_as_long_as_runs_were_under_way(tmp_path: Path) -> None:
    """Two side by side, one within another's time, and one after a pause of an hour."""
    times = {
        "arms/a/seed-0/rl": ("10:00", "10:20"),
        "arms/a/seed-1/rl": ("10:10", "10:30"),
        "arms/a/seed-0/eval": ("10:12", "10:15"),
        "arms/a/seed-1/eval": ("11:30", "11:40"),
    }
    for number, (name, (start, end)) in enumerate(times.items()):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        day = "2026-12-01T"
        told = {"started_at": f"{day}{start}:00+00:00", "finished_at": f"{day}{end}:00+00:00"}
        (folder / "DONE").write_text(json.dumps(told | {"wall_seconds": 60.0}))
        (folder / "environment.json").write_text(json.dumps({"git_commit": f"abc{number % 2}"}))
    study = Study(tmp_path, {})
    results._read_costs(study)
    assert (study.elapsed_seconds, study.run_seconds) == (40 * 60, 4 * 60)
    assert study.commits == ["abc0", "abc1"]

"""A run as one page: what it says, which samples stand in it, and that what a model wrote is data in it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_runs import BLOCK, HOSTILE, evaluation, rl_run
from prl import cli, runs
from prl.analysis import block_positions
from prl.errors import RunError, UsageError
from prl.grammar import PARALLEL, TAGS, parse
from prl.report.page import building, write_page
from prl.report.page.charts import charts_of
from prl.report.page.choosing import COLUMNS, choose, evenly, spans, total_reward
from prl.report.page.reading import lineage, read_runs
from prl.report.page.verdict import evaluations, milestones, rewards_paid, sentences
from prl.report.responses import VERDICTS


def test_a_page_takes_nobody_s_file(tmp_path: Path) -> None:
    run, mine = rl_run(tmp_path / "rl", steps=1), tmp_path / "README.md"
    mine.write_text("mine")
    with pytest.raises(RunError, match=r"README.md is there, where the page's summary would go"):
        write_page([run], tmp_path / "README.html")
    for name in ("page.md", "page", "page.v2"):
        with pytest.raises(UsageError, match=r"a page's name ends in .html, such as .*page.html"):
            write_page([run], tmp_path / name)
    assert mine.read_text() == "mine"
    for _ in range(2):
        assert write_page([run], tmp_path / "page.html").with_suffix(".md").exists()


def embedded(page: Path) -> dict[str, Any]:
    """The data in a page, as its script reads it: whole, and the index column by column."""
    (text,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.S
    )
    data = json.loads(text)
    return read(data["pieces"], data["root"]) if "root" in data else by_column(data)


def read(pieces: dict[str, Any], root: str) -> dict[str, Any]:
    return by_column(joined({"§": root}, pieces))


def joined(value: Any, pieces: dict[str, Any]) -> Any:
    """What stands in a page where pieces of it are named."""
    if isinstance(value, list):
        return [joined(part, pieces) for part in value]
    if not isinstance(value, dict):
        return value
    match value.get("§"):
        case [*names]:
            return [part for name in names for part in joined(pieces[name], pieces)]
        case str(name):
            return joined(pieces[name], pieces)
    return {name: joined(part, pieces) for name, part in value.items()}


def by_column(data: dict[str, Any]) -> dict[str, Any]:
    columns = {name: [value for part in data["index"] for value in part[name]] for name in COLUMNS}
    return data | {"index": columns}


def samples_in(data: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        row
        for chunk in data["chunks"]
        for row in json.loads(gzip.decompress(base64.b64decode(chunk)).decode())
    ]


def test_it_says_what_happened_and_how_to_repeat_it(tmp_path: Path) -> None:
    run = rl_run(tmp_path / "rl", steps=12, right=lambda step: step > 6)
    page = write_page([run], tmp_path / "page.html")
    text = page.read_text("utf-8")
    assert "prl rl --recipe=tiny --seed=3" in re.sub("</?span>", "", text)
    assert "--overwrite_output_dir" not in text
    said = page.with_suffix(".md").read_text("utf-8")
    assert "rose: 0.0% [0.0%, 60.2%] in steps 1–4, 100.0% [39.8%, 100.0%] in steps 9–12" in said
    assert "only an evaluation says what was learnt" in said


def test_the_samples_are_those_of_the_run(tmp_path: Path) -> None:
    run = rl_run(tmp_path / "rl", steps=3)
    data = embedded(write_page([run], tmp_path / "page.html"))
    rows = samples_in(data)
    stored = runs.read_samples(run).to_pylist()
    assert sorted(row["text"] for row in rows) == sorted(row["text"] for row in stored)
    assert [len(values) for values in data["index"].values()] == [len(stored)] * len(data["index"])
    assert sum(data["sizes"]) == len(stored)
    for at, row in enumerate(rows):
        problem = data["problems"][data["index"]["problem"][at]]
        (own,) = [each for each in stored if each["text"] == row["text"]]
        assert (problem["problem"], problem["gold"]) == (own["problem"], own["answer"])
        assert data["index"]["step"][at] == own["step"]


def test_a_page_that_is_full_says_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = rl_run(
        tmp_path / "rl",
        steps=40,
        groups=4,
        text=lambda step, row: f"{hashlib.sha256(f'{step} {row}'.encode()).hexdigest() * 8}",
    )
    monkeypatch.setattr(building, "SAMPLES_BYTES", 30_000)
    page = write_page([run], tmp_path / "page.html")
    data = embedded(page)
    shown = sum(data["sizes"])
    assert 0 < shown < 40 * 4 * 4
    assert f"{shown} of 640 sampled responses: of evaluations" in page.read_text("utf-8")
    assert {1, 40} <= {*data["index"]["step"]}
    groups = {}
    for step, group in zip(data["index"]["step"], data["index"]["group"], strict=True):
        groups[step, group] = groups.get((step, group), 0) + 1
    assert {*groups.values()} == {4}
    whole = embedded(write_page([run], tmp_path / "whole.html", all_samples=True))
    assert sum(whole["sizes"]) == 640


def test_what_names_a_response_stays_as_a_run_grows(tmp_path: Path) -> None:
    """A link holds run, step, group, problem and place, and what it shows is the same on a later page."""

    def named(steps: int) -> dict[tuple[Any, ...], str]:
        run = rl_run(tmp_path / f"of-{steps}", steps=steps, groups=2, reward=lambda step, row: step * row % 7)
        data = embedded(write_page([run], tmp_path / "page.html"))
        index, problems = data["index"], data["problems"]
        numbers = [problems[at]["number"] for at in index["problem"]]
        columns = (index["run"], index["step"], index["group"], numbers, index["sample"])
        texts = [row["text"] for row in samples_in(data)]
        return dict(zip(zip(*columns, strict=True), texts, strict=True))

    early, late = named(4), named(9)
    assert len(early) == 4 * 2 * 4
    assert early.items() <= late.items()


def test_the_best_and_the_worst_group_come_first(tmp_path: Path) -> None:
    run = rl_run(
        tmp_path / "rl", steps=9, groups=48, reward=lambda step, row: {4: 5.0, 7: -5.0}.get(step, 0.0)
    )
    chosen = choose(read_runs([run]), 1)
    assert {step: chosen.index["step"].count(step) for step in (4, 7)} == {4: 4, 7: 4}
    assert {*chosen.index["step"]} == {1, 4, 7}


def test_a_total_is_what_was_paid_and_a_verdict_stands_in_words(tmp_path: Path) -> None:
    paid = {"reward_accuracy": 1.0, "reward_format": 0.5, "correct": 1.0}
    assert total_reward(paid | {"reward": 1.1}) == 1.1, "weighted"
    assert total_reward(paid) == 1.5, "of a run that did not keep it"
    assert total_reward({"correct": 1.0}) == 1.0
    page = write_page([rl_run(tmp_path / "rl", steps=1)], tmp_path / "page.html")
    said = {sample["verdict"] for sample in samples_in(embedded(page))}
    assert said
    assert said <= {*VERDICTS.values()}


@given(st.integers(0, 200))
def test_steps_are_evenly_spread_from_the_start(count: int) -> None:
    order = evenly([*range(count)])
    assert sorted(order) == [*range(count)]
    if count > 2:
        assert order[:2] == [0, count - 1]
        for size in range(2, count):
            begun = sorted(order[:size])
            gaps = [after - before for before, after in itertools.pairwise(begun)]
            assert max(gaps) <= 4 * count / size + 1
        longer = evenly([*range(count + 1)])
        kept = [step for step in order if step != count - 1]
        assert [step for step in longer if step not in (count - 1, count)] == kept, "but the last"


@given(st.text(alphabet="ab \n", max_size=8), st.integers(0, 3))
def test_spans_hold_all_text_in_order(text: str, blocks: int) -> None:
    trace = parse(f"{text}{BLOCK * blocks}{text}")
    shown = ""
    for kind, *of in spans(trace):
        shown += (
            trace.text[of[0] : of[1]]
            if kind == "main"
            else "".join(trace.text[a:b] for a, b, _ in of[0]) + trace.text[slice(*of[1])]
        )
    assert shown == text + "6*7=427*6=4242" * blocks + text


@given(st.lists(st.sampled_from(["a", " ", *TAGS]), min_size=1).map("".join))
def test_the_first_block_begins_where_its_tag_does(text: str) -> None:
    positions = block_positions(parse(text))
    found = text.find(PARALLEL)
    assert (positions[0] if positions else None) == (found / len(text) if found >= 0 else None)


def test_context_paths_say_so() -> None:
    (block,) = spans(parse(BLOCK), context_paths=[1])
    assert [label for *_, label in block[1]] == ["Path 1", "Path 2 (context)"]


def test_a_path_that_was_right_where_the_answer_was_not_says_so(tmp_path: Path) -> None:
    text = "<Parallel><Path>6*7=41</Path><Path>7*6=42</Path></Parallel><Summary>41</Summary> Final Answer: 41"
    run = rl_run(tmp_path / "rl", steps=2, right=lambda step: step == 1, text=lambda step, row: text)
    page = embedded(write_page([run], tmp_path / "page.html"))
    labels = {
        (step, *(label for *_, label in sample["spans"][0][1]))
        for step, sample in zip(page["index"]["step"], samples_in(page), strict=True)
    }
    assert labels == {(1, "Path 1", "Path 2"), (2, "Path 1", "Path 2 ✓ right")}


def test_curves_are_what_was_logged(tmp_path: Path) -> None:
    run = rl_run(tmp_path / "rl", steps=5)
    charts = {chart["title"]: chart for chart in charts_of(read_runs([run]))}
    (series,) = charts["Right answers"]["series"]
    assert series["points"] == [(step, float(step % 2)) for step in range(1, 6)]
    assert [each["name"] for each in charts["Rewards by name"]["series"]] == ["accuracy_reward"]
    assert charts["Block position"]["series"][0]["points"][0] == (1, 0.0)


def with_memory(run: Path, *, limit: float | None = 8.0) -> Path:
    """A run that took a sixteenth of a GiB more each step."""
    lines = runs.read_metrics(run)
    for line in lines:
        line |= {"memory/peak": 5 + line["step"] / 16} | ({"memory/limit": limit} if limit else {})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_memory_is_held_against_its_limit(tmp_path: Path) -> None:
    run = with_memory(rl_run(tmp_path / "new" / "rl", steps=6))
    older = with_memory(rl_run(tmp_path / "old" / "rl", steps=6), limit=None)
    (chart,) = (each for each in charts_of(read_runs([run])) if each["title"] == "Memory")
    assert [(series["name"], series["points"][-1]) for series in chart["series"]] == [
        ("peak", (6, 5.375)),
        ("limit", (6, 8.0)),
    ]
    said = "At most 5.38 of 8 GiB, 67% of the limit"
    assert f"<br>{said}</figcaption>" in write_page([run], tmp_path / "page.html").read_text("utf-8")
    (chart,) = (each for each in charts_of(read_runs([run, older])) if each["title"] == "Memory")
    assert chart["found"] == [
        "new/rl: at most 5.38 of 8 GiB, 67% of the limit",
        "old/rl: at most 5.38 GiB; the limit was not recorded",
    ]
    lines = runs.read_metrics(run)
    lines[1] |= {"memory/limit": 5.5}  # resumed in a smaller container
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (chart,) = (each for each in charts_of(read_runs([run])) if each["title"] == "Memory")
    assert chart["found"] == ["At most 5.12 of 5.5 GiB, 93% of the limit"]


def test_evaluations_of_the_same_problems_are_compared_in_pairs(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "a", scores=[0, 0, 1, 1] * 10, critical_path=7.0)
    second = evaluation(tmp_path / "b", scores=[1, 1, 1, 1] * 10, critical_path=7.0)
    said = sentences(read_runs([first, second]))
    assert said[0].startswith(
        "Of 2 evaluations of the same problems b has the highest accuracy (sampled): 100.0% "
        "[91.2%, 100.0%]. "
        "It is more accurate than a (+50.0 [+35.0, +65.0] points)"
    )
    form = ("100% [100%, 100%]", "1", "7")
    assert evaluations(read_runs([first, second])) == [
        (
            "evaluation",
            "mode",
            "problems",
            "right",
            "points over a",
            "with a block",
            "tokens",
            "critical path",
        ),
        ("a", "sampled", "40", "50.0% [35.0%, 65.0%]", "", *form),
        ("b", "sampled", "40", "100.0% [91.2%, 100.0%]", "+50.0 [+35.0, +65.0]", *form),
    ]
    assert "counts once" not in write_page([first], tmp_path / "page.html").read_text("utf-8")
    other = evaluation(tmp_path / "c", scores=[1] * 40, problems="others")
    assert not any("more accurate" in line for line in sentences(read_runs([first, other])))
    assert [row[4] for row in evaluations(read_runs([first, other]))[1:]] == ["", "other problems"]
    assert [row[3] for row in evaluations(read_runs([first]))] == ["right", "50.0% [35.0%, 65.0%]"]


def test_evaluations_of_other_problems_are_told_each_and_those_alike_in_groups(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "a", scores=[0, 1] * 10)
    other = evaluation(tmp_path / "b", scores=[1] * 20, problems="others")
    assert sentences(read_runs([first, other])) == [
        f"{name}: Right in {right} of 20 problems of arithmetic:heldout (mean of 1 samples a problem)."
        for name, right in (("a", "50.0% [25.0%, 75.0%]"), ("b", "100.0% [83.2%, 100.0%]"))
    ]
    better = evaluation(tmp_path / "c", scores=[1] * 20, greedy=[0] * 20)
    worse = evaluation(tmp_path / "d", scores=[0] * 20, problems="others", greedy=[1] * 20)
    alone = evaluation(tmp_path / "e", scores=[1], problems="third")
    said = sentences(read_runs([first, other, better, worse, alone]))
    assert [line.split(" (")[0] for line in said] == [
        "Of 2 evaluations of the same problems c has the highest accuracy",
        "Of 2 evaluations of the same problems b has the highest accuracy",
        "e: Right in 100.0% [2.5%, 100.0%] of 1 problems of arithmetic:heldout",
    ]
    assert "It is more accurate than d (+100.0" in said[1]


def test_the_best_is_held_against_the_next_and_modes_may_disagree(tmp_path: Path) -> None:
    base = evaluation(tmp_path / "base", scores=[0] * 40, greedy=[0] * 40)
    best = evaluation(tmp_path / "best", scores=[1] * 20 + [0] * 20, greedy=[1] * 20 + [0] * 20)
    close = evaluation(tmp_path / "close", scores=[1] * 19 + [0] * 21, greedy=[1] * 40)
    first, second, *_ = sentences(read_runs([base, best, close]))
    assert "best has the highest accuracy (sampled): 50.0%" in first
    assert "not clearly more accurate than close (+2.5 [+0.0, +7.5] points), and more accurate than" in first
    assert "more accurate than base (+50.0" in first
    assert second.startswith("Decoded greedily another one is ahead: close, 100.0%")
    assert "more accurate than best (+50.0" in second
    agreed = sentences(read_runs([base, best]))
    assert not any("greedily" in line for line in agreed)


def test_runs_without_an_evaluation_are_not_ranked(tmp_path: Path) -> None:
    said = sentences(read_runs([rl_run(tmp_path / "a", steps=3), rl_run(tmp_path / "b", steps=3)]))
    assert said[0] == "Which of these runs is better only evaluations can say; none is on this page."


def test_milestones_are_of_a_mean_of_five(tmp_path: Path) -> None:
    run = with_blocks(rl_run(tmp_path / "rl", steps=20, right=lambda step: step >= 10), lambda step: step > 8)
    assert milestones(read_runs([run])[0]) == {"half of the gain": 12, "blocks": 11}
    assert any("had a block first at step 11" in line for line in sentences(read_runs([run])))
    few = rl_run(tmp_path / "few", steps=4, right=lambda step: step > 2)
    assert milestones(read_runs([few])[0]) == {}


def logged_every(run: Path, steps: int) -> Path:
    """Of a run's lines those of every so many steps."""
    lines = [line for line in runs.read_metrics(run) if line["step"] % steps == 0]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_a_mean_of_five_is_of_steps_however_often_they_are_logged(tmp_path: Path) -> None:
    run = logged_every(rl_run(tmp_path / "rl", steps=60, right=lambda step: step > 25), 10)
    run = with_blocks(run, lambda step: step / 60)
    assert milestones(read_runs([run])[0]) == {"half of the gain": 30, "blocks": 30}


@pytest.mark.parametrize(
    ("first", "every", "told"),
    [
        (1, 1, "80 s in 40 steps, rollout 38%"),
        (10, 10, "80 s in 40 steps, rollout 38%"),
        (1, 10, "80 s in 40 steps, rollout 38%"),
        (12, 4, "64 s in 32 steps, rollout 50%"),
    ],
    ids=["each", "of ten", "the first and of ten", "of four from step 9 on"],
)
def test_the_time_of_a_step_is_that_of_all_steps(tmp_path: Path, first: int, every: int, told: str) -> None:
    """Each takes 2 seconds, the first ten no rollout; a line is a mean of those since the one before."""
    (run,) = read_runs([rl_run(tmp_path / "rl", steps=1)])
    at = sorted({first, *range(max(first, every), 41, every)})
    lines = [{"step": step, "step_time": 2.0, "time/rollout": 1.0 * (step > 10)} for step in at]
    (chart,) = (each for each in charts_of([replace(run, lines=lines)]) if each["title"] == "Time of a step")
    assert chart["found"] == [told]


def test_blocks_that_were_there_from_the_start_have_no_first_step(tmp_path: Path) -> None:
    run = with_blocks(rl_run(tmp_path / "rl", steps=12), lambda step: 0.48 if step == 1 else 0.9)
    said = "Blocks were there from the start: 48% of the responses had one at step 1, 90% at step 12."
    assert said in sentences(read_runs([run]))


def with_blocks(run: Path, share: Callable[[int], float]) -> Path:
    lines = [line | {"parallel_ratio": float(share(line["step"]))} for line in runs.read_metrics(run)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_each_reward_says_when_it_was_paid_and_how_much(tmp_path: Path) -> None:
    (run,) = read_runs([rl_run(tmp_path / "rl", steps=12, reward=lambda step, row: step / 4 - 1)])
    rows = [
        row | ({"reward_early": 1.2, "reward_accuracy": None} if row["step"] <= 6 else {"reward_early": None})
        for row in run.samples
    ]
    early = {"reward_odd": 1.0}
    rows = [row | (early if row["step"] % 2 else {}) for row in rows]
    accuracy, first, odd = rewards_paid(replace(run, samples=rows[::-1]))
    assert (accuracy.name, accuracy.when, accuracy.steps) == (
        "accuracy",
        "paid in steps 7–12 only",
        ("steps 7–8", "steps 11–12"),
    )
    assert (accuracy.least, accuracy.greatest) == (0.75, 2.0)
    assert accuracy.change.mean == pytest.approx(1.0)
    assert (first.name, first.when, first.greatest) == ("early", "paid in steps 1–6 only", 1.2)
    assert odd.when == "paid in 6 of 12 steps"
    (always,) = rewards_paid(run)
    assert (always.when, always.steps) == ("", ("steps 1–4", "steps 9–12"))


@pytest.mark.parametrize(
    ("typed", "again"),
    [
        ("prl rl --seed 3 --overwrite_output_dir true", "prl rl --seed 3"),
        ("prl rl --overwrite-output-dir --seed 3", "prl rl --seed 3"),
        ("prl rl --resume=true --seed 3 --logging True", "prl rl --seed 3 --logging True"),
        ("prl rl --resume --seed 3 --output_dir true", "prl rl --seed 3 --output_dir true"),
        ("prl", "prl rl"),
    ],
)
def test_a_run_is_begun_again_without_what_took_it_over(tmp_path: Path, typed: str, again: str) -> None:
    (run,) = read_runs([rl_run(tmp_path / "rl", steps=1)])
    assert replace(run, environment={"argv": typed.split()}).again == again


def test_what_began_from_what(tmp_path: Path) -> None:
    rl_run(tmp_path / "cold", steps=1)
    rl_run(tmp_path / "rl", steps=1, model="../cold/checkpoint-4")
    evaluation(tmp_path / "eval", scores=[1], model=str(tmp_path / "rl"))
    evaluation(tmp_path / "other", scores=[1], model="Org/model")
    told = read_runs([tmp_path / name for name in ("eval", "other", "rl", "cold")])
    assert lineage(told) == [
        ["tiny", "cold (RL)", "rl (RL)", "eval (evaluation)"],
        ["Org/model", "other (evaluation)"],
    ]


def test_nothing_began_from_a_run_that_has_its_models_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation(tmp_path / "runs" / "base" / "rl", scores=[1], model="Org/model")
    rl_run(tmp_path / "runs" / "tiny", steps=1, model="base/rl")
    rl_run(tmp_path / "runs" / "rl", steps=1)
    evaluation(tmp_path / "runs" / "eval", scores=[1])
    told = read_runs([tmp_path / "runs" / name for name in ("base/rl", "tiny", "rl", "eval")])
    assert lineage(told) == [
        ["Org/model", f"{told[0].name} (evaluation)"],
        ["base/rl", f"{told[1].name} (RL)"],
        ["tiny", f"{told[2].name} (RL)"],
        ["tiny", f"{told[3].name} (evaluation)"],
    ], "no run is what an evaluation leaves, nor the model that ships"
    monkeypatch.chdir(tmp_path / "runs")
    assert lineage(told)[1:] == [
        ["base/rl", *(f"{told[at].name} ({what})" for at, what in ((1, "RL"), (2, "RL")))],
        ["base/rl", *(f"{told[at].name} ({what})" for at, what in ((1, "RL"), (3, "evaluation")))],
    ], "here it is the folder"


@pytest.mark.parametrize(
    ("text", "gold", "is_doubted"),
    [
        ("so x = 990.", "990", True),
        ("so x = \\boxed{990}", "990", True),
        ("so x = 1990", "990", False),
        ("so x = 1,990", "990", False),
        ("so x = -5", "5", False),
        ("so x = 0.5", "5", False),
        ("so x = 3/4", "4", False),
        ("so x = 991", "990", False),
    ],
)
def test_a_verdict_is_doubted_where_a_response_ends_with_the_gold(
    tmp_path: Path, text: str, gold: str, is_doubted: bool
) -> None:
    (run,) = read_runs([rl_run(tmp_path / "rl", steps=1)])
    row = run.samples[0] | {"text": text, "answer": gold, "correct": 0.0, "verdict": "different"}
    chosen = choose([replace(run, samples=[row])], math.inf)
    ((sample,),) = (json.loads(gzip.decompress(base64.b64decode(chunk))) for chunk in chosen.chunks)
    assert chosen.index["doubted"] == [int(is_doubted)]
    assert sample["doubt"] == ("found wrong, though it ends with the gold answer" if is_doubted else "")


def test_an_evaluation_has_no_step_and_pays_nothing(tmp_path: Path) -> None:
    made = [rl_run(tmp_path / "rl", steps=2), evaluation(tmp_path / "eval", scores=[1, 0])]
    index = choose(read_runs(made), math.inf).index
    assert {*zip(index["step"], index["reward"], strict=True)} == {(1, 1.0), (2, 0.0), (None, None)}


def test_commands_that_take_other_steps_have_charts_of_their_own(tmp_path: Path) -> None:
    sft = rl_run(tmp_path / "sft", steps=30)
    (sft / "config.yaml").write_text("command: sft\nsft: {model_name_or_path: tiny}\n")
    charts = {chart["id"]: chart for chart in charts_of(read_runs([rl_run(tmp_path / "rl", steps=3), sft]))}
    assert [charts[id]["title"] for id in ("chart-loss", "chart-loss-sft")] == ["Loss, rl", "Loss, sft"]
    assert {series["run"] for series in charts["chart-loss-sft"]["series"]} == {"sft"}
    assert charts["chart-block-position"]["title"] == "Block position", "of one command alone"


def test_the_time_of_a_run_in_words(tmp_path: Path) -> None:
    run = rl_run(tmp_path / "rl", steps=4)
    lines = [line | {"time/rollout": 0.9, "time/update": 0.6} for line in runs.read_metrics(run)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (chart,) = (each for each in charts_of(read_runs([run])) if each["title"] == "Time of a step")
    assert chart["found"] == ["6 s in 4 steps, rollout 60%, update 40%"]


def test_a_folder_of_runs_stands_for_them(tmp_path: Path) -> None:
    rl_run(tmp_path / "demo" / "b", steps=1)
    evaluation(tmp_path / "demo" / "a", scores=[1])
    assert [run.name for run in read_runs([tmp_path / "demo"])] == ["b", "a"]


class Scripts(HTMLParser):
    """What a browser would take for scripts, and for attributes with code."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str | None] = []
        self.suspects: list[str] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append(dict(attrs).get("type"))
        self.suspects += [tag] if tag in ("img", "iframe", "object", "embed", "base") else []
        self.suspects += [
            f"{name}={value}"
            for name, value in attrs
            if name.startswith("on") or (value or "").startswith("javascript:")
        ]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_a_model_wrote_is_data(text: str, tmp_path: Path) -> None:
    run = rl_run(tmp_path / "rl", steps=2, text=lambda step, row: text, problem=text)
    evaluated = evaluation(tmp_path / "eval", scores=[1, 0], problems=text, text=text)
    page = write_page([run, evaluated], tmp_path / "page.html")
    found = Scripts()
    found.feed(page.read_text("utf-8"))
    assert found.scripts == ["application/json", None, None, None, None]
    assert found.suspects == []
    cut = text[:40_000]
    assert cut in {row["text"] for row in samples_in(embedded(page))}


def test_the_policy_names_each_script_and_nothing_else(tmp_path: Path) -> None:
    text = write_page([rl_run(tmp_path / "rl", steps=1)], tmp_path / "page.html").read_text("utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert [*re.findall(r"sha256-([^&]*)&#39;", policy)] == hashes
    assert "default-src &#39;none&#39;" in policy
    assert "unsafe-eval" not in policy
    assert "://" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)


def test_half_written_and_missing_things_are_no_end(tmp_path: Path) -> None:
    run = rl_run(tmp_path / "rl", steps=2)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')
    (run / "DONE").unlink()
    (run / "samples.parquet").unlink()
    shutil.rmtree(run / "samples", ignore_errors=True)
    text = write_page([run], tmp_path / "page.html").read_text("utf-8")
    assert "No response was kept." in text
    assert "(not finished)" in text


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = rl_run(tmp_path / "rl", steps=2)
    assert cli.main(["report", str(run), "-o", str(tmp_path / "out.html")]) == 0
    assert (tmp_path / "out.html").exists()
    assert f"page: {tmp_path / 'out.html'}" in capsys.readouterr().err.replace("\n", "")
    assert cli.main(["report"]) == 2
    assert cli.main(["report", str(tmp_path / "nothing")]) == 1
    (tmp_path / "file").write_text("")
    assert cli.main(["report", str(run), "-o", str(tmp_path / "file" / "out.html")]) == 1
    assert "Choose another --output" in capsys.readouterr().err

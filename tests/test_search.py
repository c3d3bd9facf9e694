"""Problems with alternatives: an oracle of its own, disjoint sides, traces that hold what they promise."""

import gzip
import hashlib
import json
import re
import sys
from collections import Counter
from itertools import islice
from math import log, sqrt
from pathlib import Path
from random import Random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoTokenizer

from prl import config, rl, runs, sft, tiny
from prl.analysis import conclusion
from prl.answers import extract_answer
from prl.data import search
from prl.data.hub import load_rows
from prl.data.search.problems import _FACTORS, SHARES, draw_which, side_of
from prl.data.search.traces import NOTHING
from prl.decoding import ForkJoinDecoder, Limits
from prl.errors import DataError
from prl.grammar import FOUND, TAGS, parse, with_openings
from prl.machine.shape import read_shape
from prl.model import load_model
from prl.study import estimates, parts
from prl.tiny import build

SPLITS = [f"{kind}-{part}" for kind in search.KINDS for part in search.PARTS]
BLOCKS = [part for part in search.TRACED if part != "sequential"]
STEP = re.compile(r"(?<![\d*+-])(\d+)([*+-])(\d+)=(\d+)\.")


STUDY = Path(__file__).parents[1] / "docs/study/paper-mini/votes/measured.json.gz"


def rows_of(name: str, count: int = 60, seed: int = 0) -> list[dict]:
    split = search.read_split(name)
    return [search.make_row(split, index, seed) for index in range(count)]


def oracle(text: str) -> str:
    """The answer to a problem, from its words alone."""
    if product := re.fullmatch(r"Compute (\d+) \* (\d+)\.", text):
        return str(int(product[1]) * int(product[2]))
    if equation := re.fullmatch(
        r"Find x from (\d+) to (\d+): x \* \(x ([+-]) (\d+)\) ([+-]) (\d+) = (\d+)\.", text
    ):
        first, last, shift, constant, target = (int(equation[i]) for i in (1, 2, 4, 6, 7))
        shift, constant = (shift, -shift)[equation[3] == "-"], (constant, -constant)[equation[5] == "-"]
        found = [x for x in range(first, last + 1) if x * (x + shift) + constant == target]
    else:
        target = int(re.match(r"Which gives (\d+)\? ", text)[1])
        sums = re.findall(r"(\d+): ([\d+ -]+)\.", text)
        found = [
            label
            for label, terms in sums
            if sum(int(term) for term in re.findall(r"-?\d+", terms.replace(" ", ""))) == target
        ]
    assert len(found) == 1, text
    return str(found[0])


@pytest.mark.parametrize("name", SPLITS)
def test_answers_are_right_and_problems_of_their_side_and_levels(name: str) -> None:
    split = search.read_split(name)
    for row in rows_of(name, seed=3):
        assert row["answer"] == oracle(row["problem"])
        assert row["level"] in split.levels
        assert row["source"] == f"search:{name}"
        assert ("trace" in row) == ("context_paths" in row) == split.is_traced


@given(st.sampled_from(SPLITS), st.integers(0, 10**6), st.integers(0, 10**6))
@settings(max_examples=40)
def test_an_item_depends_on_seed_split_and_index_alone(name: str, seed: int, index: int) -> None:
    split = search.read_split(name)
    assert search.make_row(split, index, seed) == search.make_row(split, index, seed)


def test_rows_are_a_prefix_of_more_rows_and_seeds_differ() -> None:
    assert rows_of("which-hard", 20) == rows_of("which-hard", 40)[:20]
    first, second = ({row["problem"] for row in rows_of("which-hard", 100, seed)} for seed in (0, 1))
    assert not first & second


def test_no_problem_is_on_two_sides() -> None:
    for kind in search.KINDS:
        trained = {
            row["problem"] for part in ("easy", "hard", "wide") for row in rows_of(f"{kind}-{part}", 400)
        }
        held_out = {row["problem"] for row in rows_of(f"{kind}-heldout-wide", 400)}
        assert trained.isdisjoint(held_out)
    seen = Counter(side_of(f"products {a} {b}") for a in range(100) for b in range(100))
    assert all(abs(seen[side] / 1e4 - share) < 0.02 for side, share in SHARES.items())


def test_pretraining_sees_no_problem_of_a_split_and_labels_beyond_its_levels() -> None:
    texts = [text.split("user\n")[1].split("<|im_end|>")[0] for text in islice(build.search(1), 1500)]
    for kind in search.KINDS:
        used = {row["problem"] for part in ("hard", "heldout") for row in rows_of(f"{kind}-{part}", 300)}
        assert used.isdisjoint(texts)
    labels = {int(label) for text in texts for label in re.findall(r"(\d+): \d", text)}
    assert labels == set(range(1, 13))


@pytest.mark.parametrize("name", [f"{kind}-{part}" for kind in search.KINDS for part in search.TRACED])
def test_every_trace_is_valid_and_right(name: str) -> None:
    shares = Counter(len(parse(row["trace"]).blocks) for row in rows_of(name, 200))
    part = name.partition("-")[2]
    blocks = {0} if part in search.IN_SEQUENCE else {0, 1} if part in ("mixed", "anywhere") else {1}
    assert set(shares) == blocks
    for row in rows_of(name, 80):
        trace = parse(row["trace"])
        assert not trace.faults
        assert extract_answer(row["trace"]) == row["answer"]
        wrong = {
            at
            for at, path in enumerate(trace.blocks[0].paths if trace.blocks else ())
            if any(not _holds(step) for step in STEP.findall(path.text))
        }
        assert wrong <= set(row["context_paths"])
        main = row["trace"][: trace.blocks[0].span.start] if trace.blocks else row["trace"]
        assert all(map(_holds, STEP.findall(main)))


def _holds(step: tuple[str, str, str, str]) -> bool:
    a, sign, b, result = step
    return {"*": int(a) * int(b), "+": int(a) + int(b), "-": int(a) - int(b)}[sign] == int(result)


@pytest.mark.parametrize("kind", ["which", "equations"])
@pytest.mark.parametrize("paths", [2, 3, 6])
def test_divided_work_is_done_once_and_the_summary_names_who_found_it(kind: str, paths: int) -> None:
    for row in rows_of(f"{kind}-coldstart-{paths}", 80):
        for block in parse(row["trace"]).blocks:
            assert len(block.paths) == paths
            labels = [re.findall(r"(?m)^(\d+):", path.text) for path in block.paths]
            tried = [label for share in labels for label in share]
            assert len(tried) == len(set(tried)) <= row["level"]
            found = [path.text for path in block.paths if FOUND in path.text]
            assert [conclusion(text) for text in found] == [row["answer"]]
            assert block.summary.text.strip() == f"{FOUND} {row['answer']}"
            assert all(path.text.strip() == NOTHING for path in block.paths[row["level"] :])


def test_a_vote_is_won_by_the_right_result() -> None:
    slips = 0
    for row in rows_of("products-coldstart", 300):
        for block in parse(row["trace"]).blocks:
            votes = Counter(conclusion(path.text) for path in block.paths)
            assert votes.most_common(1)[0][0] == row["answer"]
            assert list(votes.values()).count(max(votes.values())) == 1
            listed, _, taken = block.summary.text.strip().partition(": ")
            assert listed.split(", ") == [conclusion(path.text) for path in block.paths]
            assert taken == row["answer"]
            slips += len(votes) > 1
    assert slips > 100


@pytest.mark.parametrize("kind", search.KINDS)
def test_a_path_of_a_plan_begins_with_its_line_and_says_more(kind: str) -> None:
    for row in rows_of(f"{kind}-plan", 200):
        opened = with_openings(parse(row["trace"]), "plan")
        assert opened is not None
        trace = parse(opened, opening="plan")
        assert not trace.faults
        assert trace.uses_parallel
        assert all(path.opening for path in trace.blocks[0].paths)


def test_plans_name_what_each_path_does_and_have_no_more_paths_than_work() -> None:
    for row in rows_of("which-plan-3", 60):
        for block in parse(row["trace"]).blocks:
            lines = row["trace"][: block.span.start].splitlines()
            assert len(lines) == min(3, row["level"])
            for line, path in zip(lines, block.paths, strict=True):
                tried = re.findall(r"(?m)^(\d+):", path.text)
                assert tried
                assert tried == line.split()[: len(tried)]


def is_about(found: int, of: int, share: float) -> bool:
    """Whether so many are no further from their share than four standard deviations of the binomial."""
    return abs(found - of * share) <= 4 * sqrt(of * share * (1 - share))


def test_as_many_votes_slip_and_teach_the_summary_alone_as_is_said() -> None:
    rows = rows_of("products-coldstart", 2000)
    slips = [
        [
            at
            for at, path in enumerate(parse(row["trace"]).blocks[0].paths)
            if conclusion(path.text) != row["answer"]
        ]
        for row in rows
    ]
    context = [row["context_paths"] for row in rows]
    summary_only = [each for each, paths in zip(slips, context, strict=True) if paths == [0, 1, 2, 3]]
    learned = [each for each, paths in zip(slips, context, strict=True) if paths == each]
    assert len(summary_only) + len(learned) == len(rows)
    assert is_about(len(summary_only), len(rows), 0.4)
    assert is_about(sum(map(bool, learned)), len(learned), 0.6)
    assert {*map(len, learned)} == {0, 1, 2}
    assert {*map(len, summary_only)} == {1, 2}, "there is always something to decide"


def test_as_many_wrong_sums_are_near_misses_as_is_said() -> None:
    rng, near = Random(0), (-10, -2, -1, 1, 2, 10)
    missed_by: Counter[int] = Counter()
    for _ in range(1000):
        problem = draw_which(rng, 6)
        if 15 <= problem.target <= 130:  # all near ones are totals that a sum may have, from 5 to 140
            missed_by.update(work(int)[1] - problem.target for _, work in problem.alternatives)
    assert missed_by.pop(0) == missed_by.total() / 5, "one of six gives it"
    # What is no near miss is one of 136 totals, and drawn again where that is the target.
    each = (0.4 / 6 + 0.6 / 136) / (1 - 0.6 / 136)
    assert is_about(sum(missed_by[by] for by in near), missed_by.total(), 6 * each)
    assert all(is_about(missed_by[by], missed_by.total(), each) for by in near)


def test_terse_traces_hold_results_and_nothing_else_and_mixed_ones_may_stand_anywhere() -> None:
    for kind in search.KINDS:
        terse, spelt = rows_of(f"{kind}-terse", 60), rows_of(f"{kind}-sequential", 60)
        assert [row["problem"] for row in terse] == [row["problem"] for row in spelt]
        assert not any(STEP.search(row["trace"]) for row in terse)
        lengths = [sum(len(row["trace"]) for row in rows) for rows in (terse, spelt)]
        assert lengths[0] < 0.6 * lengths[1]
        found = [parse(row["trace"]).blocks for row in rows_of(f"{kind}-anywhere", 400)]
        late = Counter(blocks[0].span.start > 0 for blocks in found if blocks)
        assert 150 < late.total() < 250
        assert 70 < late[True] < 130


def test_late_blocks_stand_after_a_solution() -> None:
    for kind in search.KINDS:
        late = [row for row in rows_of(f"{kind}-late", 40) if parse(row["trace"]).blocks]
        for row in late:
            before = row["trace"][: parse(row["trace"]).blocks[0].span.start]
            assert conclusion(before) == row["answer"]


def test_the_traced_parts_have_the_same_problems() -> None:
    for kind in search.KINDS:
        asked = [[row["problem"] for row in rows_of(f"{kind}-{part}", 20)] for part in search.TRACED]
        assert all(each == asked[0] for each in asked)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("which-coldstrat", r"search has no split 'which-coldstrat'; nearest: which-coldstart"),
        ("mazes-easy", r"It is KIND-PART, of the kinds which, equations, products"),
        (
            "which-coldstart-7",
            r"search:which-coldstart-7: a number of paths, 2 to 6, stands after a part with blocks",
        ),
        ("which-sequential-3", r"with blocks \(coldstart, mixed, anywhere, plan, shuffled, late\)"),
        ("which-easy-3", r"a number of paths, 2 to 6"),
        ("", r"search has no split ''"),
    ],
)
def test_another_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        search.read_split(name)


def test_sets_are_loaded_by_name() -> None:
    by_part = load_rows("search:products", split="heldout", limit=2, seed=4)
    assert by_part == rows_of("products-heldout", 2, 4)
    assert load_rows("search:which-easy", limit=3) == rows_of("which-easy", 3)
    assert load_rows("search", split="products-heldout", limit=2, seed=4) == rows_of("products-heldout", 2, 4)
    with pytest.raises(
        DataError, match="search:which-easy holds no traces: choose one of search:which-coldstart, "
    ):
        load_rows("search:which-easy", need=("problem", "trace"))


def test_the_base_reads_every_problem_and_has_never_seen_a_tag() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.FOLDERS["tiny-search"])
    for kind in search.KINDS:
        for row in rows_of(f"{kind}-heldout-wide", 20):
            assert tokenizer.decode(tokenizer(row["problem"])["input_ids"]) == row["problem"]
    assert not set(TAGS) & set(tokenizer.get_vocab())
    assert len(tokenizer("12")["input_ids"]) == 2


def test_the_base_can_be_built_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two steps of it: all but what the weights have learned is as it ships."""
    words = ["tiny-search", "--steps", "2", "--threads", "1", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["build", *words])
    build.main()
    first, second = map(float, re.findall(r"loss ([\d.]+)", capsys.readouterr().out))
    assert second < first == pytest.approx(log(build.EMBEDDING_ROWS), rel=0.02)
    shipped = tiny.FOLDERS["tiny-search"]
    texts = [json.loads((each / "tokenizer.json").read_text())["model"] for each in (tmp_path, shipped)]
    assert texts[0] == texts[1]
    assert read_shape(str(tmp_path)) == read_shape("tiny-search")
    built, known = (load_file(each / "model.safetensors") for each in (tmp_path, shipped))
    assert [(name, each.shape, each.dtype) for name, each in built.items()] == [
        (name, each.shape, each.dtype) for name, each in known.items()
    ]


def test_the_recipe_trains_with_numbered_paths_and_wrong_ones_as_context(tmp_path: Path) -> None:
    small = {"threads": 1, "output_dir": tmp_path / "sft", "limit": 32, "max_steps": 2}
    sft.run(config.resolve("sft", recipe="tiny-search+products", per_device_train_batch_size=4, **small))
    small = {"threads": 1, "output_dir": tmp_path / "rl", "limit": 32, "max_steps": 1}
    batch = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 64}
    rl.run(
        config.resolve(
            "rl", recipe="tiny-search+products", model_name_or_path=str(tmp_path / "sft"), **small, **batch
        )
    )
    model, tokenizer = load_model(str(tmp_path / "rl"))
    assert ForkJoinDecoder(model, tokenizer, limits=Limits(96, paths=4)).opener.kind == "number"
    counted = runs.read_summary(tmp_path / "sft")
    assert counted["context_traces"] > 10


def turned_round(text: str) -> str | None:
    """Where a product of the known levels with its factors changed belongs; None where there is no other."""
    a, b = map(int, re.findall(r"\d+", text))
    fits = [
        first[0] <= b <= first[1] and second[0] <= a <= second[1]
        for level, (first, second) in _FACTORS.items()
        if level in search.KINDS["products"].known
    ]
    return side_of(f"products {b} {a}") if a != b and any(fits) else None


def test_the_readme_says_what_products_that_are_known_turned_round_change() -> None:
    """Of the study's held-out problems, which its file names by a hash."""
    stored = json.loads(gzip.decompress(STUDY.read_bytes()))["evaluations"]
    split = search.read_split("products-heldout")
    asked = (search.make_row(split, index, seed)["problem"] for seed in range(5) for index in range(300))
    sides = {hashlib.sha256(text.encode()).hexdigest()[:12]: turned_round(text) for text in asked}

    def told(arm: str, known: bool) -> tuple[float, float]:
        """The accuracy in %, a mean over seeds, and the share of problems."""
        wanted = {"training", "pretraining"} if known else {"heldout"}
        chosen = [
            [
                right
                for problem, right in zip(each["problems"], each["scores"]["accuracy"], strict=True)
                if sides[problem] in wanted
            ]
            for each in stored[arm].values()
        ]
        of = sum(len(each["problems"]) for each in stored[arm].values())
        return 100 * fmean(map(fmean, chosen)), 100 * sum(map(len, chosen)) / of

    found = {
        (arm, known): told(arm, known)
        for arm in ("base-products", "products-sequential", "votes")
        for known in (False, True)
    }
    shares = [f"{found['votes', known][1]:.0f} %" for known in (True, False)]
    base, sequential, votes = (
        [f"{found[arm, known][0]:.1f}" for known in (False, True)]
        for arm in ("base-products", "products-sequential", "votes")
    )
    line = (
        f"but {shares[0]} of these held-out products, turned round, belong to the base's pretraining or to "
        f"training. Of the {shares[1]} that neither knows in any order the base solves {base[0]} %, of the "
        f"{shares[0]} {base[1]} %; sequential GRPO {sequential[0]} and {sequential[1]}, four ways {votes[0]} "
        f"and {votes[1]}."
    )
    assert line in " ".join((STUDY.parents[4] / "README.md").read_text(encoding="utf-8").split())


def test_the_readme_says_what_seeds_say_on_which_nothing_was_chosen() -> None:
    votes = parts.load(STUDY).evaluations
    four, one = (
        {seed: each for seed, each in votes[arm].items() if seed} for arm in ("votes", "products-sequential")
    )
    ratio = estimates.times_more(four, one, "accuracy")
    over = estimates.gain_over_votes(four, one, 4)
    assert ratio
    assert over
    line = (
        f"Seeds 1 to 4 alone say {ratio.mean:.2f} times [{ratio.low:.2f}, {ratio.high:.2f}], and "
        f"{100 * over.mean:.1f} points [{100 * over.low:.1f}, {100 * over.high:.1f}] over four votes."
    )
    assert line in " ".join((STUDY.parents[4] / "README.md").read_text(encoding="utf-8").split())

"""Procedural problems: right answers, disjoint splits, traces that hold the format and what they promise."""

import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from prl import tiny
from prl.answers import extract_answer
from prl.data import problems
from prl.errors import RunError
from prl.grammar import TAGS, Block, parse
from prl.tiny.build import arithmetic

SPLITS = tuple(problems.LEVELS)
ROOT = Path(__file__).parents[1]


def terms_of(text: str) -> tuple[int, ...]:
    """The signed terms of a problem, read from its words alone."""
    if text.startswith("Compute "):
        return tuple(int(term) for term in re.findall(r"-?\d+", text.replace("- ", "-")))
    first, *events = re.findall(r"(\w+(?: away)?) (\d+)", text)
    signs = {"buys": 1, "finds": 1, "gets": 1, "gives away": -1, "loses": -1, "sells": -1}
    return (int(first[1]), *(signs[verb] * int(number) for verb, number in events))


@pytest.fixture(scope="module")
def cold_start() -> list[dict]:
    return problems.generate("coldstart", 2000)


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_right_and_levels_count_the_terms(split: str) -> None:
    for row in problems.generate(split, 300, seed=7):
        assert row["answer"] == str(sum(terms_of(row["problem"])))
        assert row["level"] == len(terms_of(row["problem"])) - 1
        assert row["level"] in problems.LEVELS[split]
        assert ("trace" in row) == ("context_paths" in row) == (split in ("coldstart", "mixed"))


@given(st.sampled_from(SPLITS), st.integers(0, 10**6), st.integers(0, 10**6))
def test_an_item_depends_on_seed_split_and_index_alone(split: str, seed: int, index: int) -> None:
    row = problems.make_row(split, index, seed)
    assert row == problems.make_row(split, index, seed)
    assert sum(terms_of(row["problem"])) >= 0
    assert row["source"] == f"arithmetic:{split}"


def test_rows_are_a_prefix_of_more_rows_and_seeds_differ() -> None:
    assert problems.generate("hard", 20) == problems.generate("hard", 40)[:20]
    # Neither does a later item of one seed come back as an earlier one of the next.
    first, second = ({row["problem"] for row in problems.generate("hard", 100, seed)} for seed in (0, 1))
    assert len(first & second) < 5


def test_held_out_sums_are_in_no_training_split_whatever_the_wording() -> None:
    def sums(split: str, seed: int) -> set[tuple[int, ...]]:
        return {terms_of(row["problem"]) for row in problems.generate(split, 1500, seed)}

    held_out = sums("heldout", 0) | sums("heldout", 1)
    assert all(map(problems.is_held_out, held_out))
    for split in ("coldstart", "mixed", "easy", "hard", "wide"):
        trained = sums(split, 0)
        assert not any(map(problems.is_held_out, trained))
        assert held_out.isdisjoint(trained)


def test_every_trace_is_valid_and_ends_in_the_right_answer(cold_start: list[dict]) -> None:
    for row in cold_start:
        trace = parse(row["trace"])
        assert trace.is_valid, (row, trace.faults)
        assert len(trace.blocks) <= 1
        assert extract_answer(row["trace"]) == row["answer"]


def block_of(row: dict) -> Block | None:
    return next(iter(parse(row["trace"]).blocks), None)


def totals_of(block: Block) -> list[str]:
    return [re.findall(r"=(-?\d+)\.\s*$", path.text)[0] for path in block.paths]


def test_every_step_is_true_but_for_one_slip_where_paths_disagree(cold_start: list[dict]) -> None:
    for row in cold_start:
        steps = re.findall(r"(-?\d+)([+-]\d+)=(-?\d+)", row["trace"])
        slips = [step for step in steps if int(step[0]) + int(step[1]) != int(step[2])]
        block = block_of(row)
        assert steps
        assert len(slips) == (1 if block and len(set(totals_of(block))) > 1 else 0), row


@pytest.mark.parametrize("split", ["coldstart", "mixed"])
def test_paths_use_different_strategies_and_summaries_decide(split: Any) -> None:
    disagreed, rows = 0, problems.generate(split, 2000)
    for row in rows:
        if block := block_of(row):
            strategies = [path.text.strip().split(":")[0] for path in block.paths]
            assert len(set(strategies)) == len(strategies) >= 2
            totals, summary = totals_of(block), block.summary.text.strip()
            assert row["answer"] in totals
            if len(set(totals)) > 1:
                disagreed += 1
                assert summary.startswith(" ".join(f"{total}." for total in totals))
                assert summary.endswith(f"={row['answer']}.")
            else:
                assert summary in (f"Both give {row['answer']}.", " ".join([f"{row['answer']}."] * 3))
            assert row["context_paths"] == [i for i, total in enumerate(totals) if total != row["answer"]]
        else:
            assert row["context_paths"] == []
    blocks = sum(block_of(row) is not None for row in rows)
    assert disagreed / blocks == pytest.approx(problems.DISAGREE_SHARE[split], abs=0.03)


def test_the_cold_start_uses_no_word_that_the_tiny_base_has_not_seen(cold_start: list[dict]) -> None:
    """A frozen embedding row that pretraining never moved cannot be learned from a LoRA adapter."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.BASE)
    tokenizer.add_tokens(list(TAGS))
    texts = islice(arithmetic(seed=1), 3000)
    seen = {token for ids in tokenizer(list(texts))["input_ids"] for token in ids}
    used = {token for row in cold_start for token in tokenizer(row["trace"])["input_ids"]}
    assert {tokenizer.decode(token) for token in used - seen} == set(TAGS)


@pytest.mark.parametrize("split", ["coldstart", "mixed"])
def test_shares_are_as_the_card_says(split: Any) -> None:
    rows = problems.generate(split, 2000)
    parallel = [row["trace"] for row in rows if "<Parallel>" in row["trace"]]
    share = len(parallel) / len(rows)
    # A little less: some sums of two terms have one strategy only.
    assert problems.PARALLEL_SHARE[split] - 0.05 < share < problems.PARALLEL_SHARE[split] + 0.03
    three = sum(len(parse(trace).blocks[0].paths) == 3 for trace in parallel) / len(parallel)
    assert 0.1 < three <= problems.THREE_PATHS_SHARE + 0.03
    stories = sum("Compute" not in row["problem"] for row in rows) / len(rows)
    assert stories == pytest.approx(problems.STORY_SHARE, abs=0.03)


def test_data_folder_is_what_make_data_writes(tmp_path: Path) -> None:
    if not (ROOT / "data").is_dir():
        pytest.skip("an installed wheel has no data/ folder")
    for path in problems.write_sets(tmp_path):
        assert path.read_bytes() == (ROOT / "data" / path.name).read_bytes(), f"{path.name}: run `make data`"


@pytest.mark.parametrize(
    ("name", "text"),
    [("README.md", "# Mine\n"), ("easy.jsonl", '{"problem": "1 + 1"}\n'), ("hard.jsonl", "\xff")],
)
def test_files_of_the_same_name_are_not_written_over(tmp_path: Path, name: str, text: str) -> None:
    problems.write_sets(tmp_path)
    problems.write_sets(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(
        RunError, match=rf"{name} is not of `prl data`, so it stays: choose another --output_dir"
    ):
        problems.write_sets(tmp_path)
    assert (tmp_path / name).read_text() == text


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file.x cannot be written: Not a directory\. Choose another"):
        problems.write_sets(tmp_path / "file" / "x")

"""Shapes of traces: counted by hand, and by their laws on any token sequence."""

from __future__ import annotations

import doctest
import subprocess
import sys
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import prl.analysis
from prl.analysis import Shape, block_positions, critical_path, diversity, shape, summarise
from prl.grammar import parse, parse_ids

PARALLEL, END_PARALLEL, PATH, END_PATH, SUMMARY, END_SUMMARY = TAG_IDS = range(6)


def of(ids: list[int]) -> Shape:
    return shape(parse_ids(ids, TAG_IDS), ids)


def block(*paths: list[int], summary: list[int]) -> list[int]:
    inner = [token for path in paths for token in (PATH, *path, END_PATH)]
    return [PARALLEL, *inner, END_PARALLEL, SUMMARY, *summary, END_SUMMARY]


@pytest.mark.parametrize(
    ("ids", "length", "critical", "blocks", "paths", "positions"),
    [
        ([], 0, 0, 0, 0, ()),
        ([9, 9, 9], 3, 3, 0, 0, ()),  # sequential: all of it is critical
        # 2 before, tags 2, paths 3+2 and 5+2, summary 1+2, 1 after: the path of 5 is off the critical path
        ([9, 9, *block([7] * 3, [8] * 5, summary=[6]), 9], 20, 15, 1, 2, (2 / 20,)),
        (block([7], [7], [7], summary=[6]) * 2, 28, 16, 2, 6, (0.0, 14 / 28)),
        ([PARALLEL, PATH, 7, 7, END_PATH], 5, 5, 1, 1, (0.0,)),  # cut off in its first path
        ([9, PARALLEL, PATH, 7, 7, PATH, 8], 7, 5, 1, 2, (1 / 7,)),  # cut off in its second, shorter one
        ([PARALLEL, 9, END_PARALLEL], 3, 3, 1, 0, (0.0,)),  # a block without paths
        ([PATH, 7, END_PATH, END_PARALLEL], 4, 4, 0, 0, ()),  # stray tags are text
    ],
)
def test_shapes_counted_by_hand(
    ids: list[int], length: int, critical: int, blocks: int, paths: int, positions: tuple[float, ...]
) -> None:
    found = of(ids)
    assert (found.length, found.critical_path, found.blocks, found.paths) == (length, critical, blocks, paths)
    assert found.block_positions == pytest.approx(positions)
    assert found.saved == pytest.approx((length - critical) / length if length else 0)


def test_characters_are_counted_for_a_parsed_text() -> None:
    trace = parse("ab<Parallel><Path>x</Path><Path>yyy</Path></Parallel><Summary>z</Summary>")
    assert block_positions(trace) == (2 / trace.length,)
    assert critical_path(trace) == trace.length - len("<Path>x</Path>")


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([], None),
        ([[1, 2]], None),
        ([[1, 2], []], None),  # an empty path says nothing
        ([[1, 2], [2, 1, 1]], 0.0),
        ([[1], [2]], 1.0),
        ([[1, 2], [2, 3]], 0.5),
        ([[1], [1, 2, 3]], 0.5),
        ([[1], [1], [2]], 0.5),
        ([[1], [2], [3], []], 1.0),
        (["ab", "bc"], 0.5),
    ],
)
def test_diversity_by_hand(paths: list[list[int]], expected: float | None) -> None:
    assert diversity(paths) == (None if expected is None else pytest.approx(expected))


@given(st.lists(st.lists(st.integers(0, 5), min_size=1), min_size=2, max_size=6))
def test_diversity_is_symmetric_bounded_and_the_dice_distance_of_two(paths: list[list[int]]) -> None:
    found = diversity(paths)
    assert found is not None
    assert -1e-12 <= found <= 1 + 1e-12
    assert found == pytest.approx(diversity(paths[::-1]))
    assert diversity([paths[0]] * len(paths)) == pytest.approx(0)
    for first, second in combinations(map(set, paths), 2):
        dice = 1 - 2 * len(first & second) / (len(first) + len(second))
        assert diversity([list(first), list(second)]) == pytest.approx(dice)


@given(st.lists(st.integers(0, 9)))
def test_any_ids_have_a_shape(ids: list[int]) -> None:
    found = of(ids)
    assert found.length == len(ids)
    assert 0 <= found.critical_path <= found.length
    assert 0 <= found.saved <= 1
    assert all(0 <= position < 1 for position in found.block_positions)
    assert len(found.block_positions) == found.blocks
    if found.paths < 2:
        assert found.critical_path == found.length


def test_the_means_of_an_evaluation() -> None:
    shapes = [of([9] * 4), of(block([7], [8], summary=[6])), of(block([7, 7], [7], [7], summary=[6]))]
    assert [found.length for found in shapes] == [4, 11, 15]
    assert summarise(shapes) == pytest.approx(
        {
            "length": 10,
            "critical_path": (4 + 8 + 9) / 3,
            "saved": (0 + 3 / 11 + 6 / 15) / 3,
            "blocks_per_response": 2 / 3,
            "paths_per_block": 5 / 2,
            "block_position": 0,
            "path_diversity": 0.5,
        }
    )


def test_nothing_to_average_is_none_not_zero() -> None:
    assert set(summarise([]).values()) == {None}
    sequential = summarise([of([9, 9])])
    assert (sequential["length"], sequential["blocks_per_response"], sequential["saved"]) == (2, 0, 0)
    assert (
        sequential["block_position"] is sequential["path_diversity"] is sequential["paths_per_block"] is None
    )


def test_a_hostile_response_takes_linear_time() -> None:
    ids = [PARALLEL, *[PATH, 7, END_PATH] * 100_000, END_PARALLEL]
    assert of(ids).diversity == 0


def test_the_examples_and_the_imports() -> None:
    assert doctest.testmod(prl.analysis).failed == 0
    program = (
        "import sys, prl.analysis; print(sorted({'torch', 'transformers', 'trl', 'numpy'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"

"""Two corpora: every pair is judged as its label says.

`corpus.jsonl` grew with the judge. `second.jsonl` was written from the ideas of public graders' tests (not
math-verify's), from answers of MATH, AIME and GSM8K rewritten by rule, and as small models write; it was
labelled twice, independently (5 of 1,707 labels differed, all decided by computing the values), before the
judge had seen it. Its first run, on the judge of before: 6 false positives and 147 false negatives; on the
judge that was changed after it, this test.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prl.answers import AnswerChecker

HERE = Path(__file__).parent


def load(name: str) -> list[dict[str, Any]]:
    """Rows of pred, gold, equal, category, reason; a long `pred` is stored as a list of [text, times]."""
    rows = [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if isinstance(row["pred"], list):
            row["pred"] = "".join(text * count for text, count in row["pred"])
    return rows


ROWS = load("corpus.jsonl")
SECOND = load("second.jsonl")
# A commitment, a choice's text and the two readings of 12,345 depend on which side is the gold one.
ONE_SIDED = ("extraction", "hostile", "choice", "thousands")
CATEGORIES = list(dict.fromkeys(row["category"] for row in ROWS))


@pytest.fixture(scope="module")
def checker():
    with AnswerChecker(workers=1) as made:
        made.check("x + 1", "1 + x")
        yield made


def test_the_corpus_is_what_it_says():
    assert len(ROWS) >= 400
    assert all(set(row) == {"pred", "gold", "equal", "category", "reason"} for row in ROWS + SECOND)
    assert not {row["category"] for row in ROWS} & {row["category"] for row in SECOND}
    repeated = [
        pair for pair, count in Counter((row["pred"], row["gold"]) for row in ROWS).items() if count > 1
    ]
    assert repeated == []
    for category in CATEGORIES:
        labels = {row["equal"] for row in ROWS if row["category"] == category}
        assert labels == {True, False}, f"{category} has labels of one kind only"


@pytest.mark.parametrize("category", [*CATEGORIES, *dict.fromkeys(row["category"] for row in SECOND)])
def test_pairs_are_judged_as_labelled(checker, category):
    wrong = []
    for row in ROWS + SECOND:
        if row["category"] != category:
            continue
        verdict = checker.check(row["pred"], row["gold"])
        if verdict.equal != row["equal"] or verdict.reason in ("timed out", "crashed"):
            wrong.append(f"{row['pred'][:60]!r} | {row['gold'][:60]!r} | {verdict} | {row['reason']}")
    assert wrong == []


@pytest.mark.parametrize("category", [name for name in CATEGORIES if name not in ONE_SIDED])
def test_equality_is_symmetric(checker, category):
    """Gold and prediction change places."""
    wrong = []
    for row in ROWS:
        if row["category"] == category and row["gold"] and row["pred"].strip():
            verdict = checker.check(row["gold"], row["pred"])
            if verdict.equal != row["equal"] and verdict.reason != "unparseable gold":
                wrong.append(f"{row['gold'][:60]!r} | {row['pred'][:60]!r} | {verdict}")
    assert wrong == []

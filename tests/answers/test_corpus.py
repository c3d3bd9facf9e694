"""Four corpora: every pair is judged as its label says.

`corpus.jsonl` grew with the judge. `second.jsonl` was written from the ideas of public graders' tests (not
math-verify's), from answers of MATH, AIME and GSM8K rewritten by rule, and as small models write; it was
labelled twice, independently (5 of 1,707 labels differed, all decided by computing the values), before the
judge had seen it. Its first run, on the judge of before: 6 false positives and 147 false negatives; on the
judge that was changed after it, this test.

`held_out.jsonl` is the third and the fourth, written from DECISIONS.md alone when the judge had been changed.
What each was for was its one run: 6 false positives and 17 false negatives of 400 (math-verify 0.9: 38 and
81), and, when these had been mended, 2 and 24 of 450 (40 and 88). `OPEN` is what is still judged wrong.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prl.answers import AnswerChecker, extract_answer

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
HELD_OUT = load("held_out.jsonl")
OPEN = {  # golds of rows of held_out.jsonl
    "34": r"\boxed{33} is wrong, and so is \boxed{34}.",
    "x=3, y=-2": "(y,x)=(3,-2)",
    r"(2k\pi, 2k\pi+\pi), k \in \mathbb{Z}": r"x\in\left(2k\pi,(2k+1)\pi\right),k\in\mathbb{Z}",
    r"5\,\text{m}/\text{s}^2": r"5\ \mathrm{m\,s^{-2}}",
    r"\text{Thursday}": "Counting forward 100 days from a Tuesday we land on a Thursday.",
    r"f(x)=\begin{cases}x+1,&\text{if }x\geq 0,\\ -x,&\text{if }x<0.\end{cases}": (
        r"\begin{cases}x+1&x\ge 0\\-x&x<0\end{cases}"
    ),
}
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


def test_held_out_pairs_are_judged_as_labelled(checker):
    wrong = {
        row["gold"]: row["pred"]
        for row in HELD_OUT
        if checker.check(row["pred"], row["gold"]).equal != row["equal"]
    }
    assert wrong == OPEN


def test_no_attack_is_paid(checker):
    """Responses that try to be paid without the right answer, read as RL reads them and as `check` does."""
    attacks = [row for row in SECOND + HELD_OUT if "adversarial" in row["category"] and not row["equal"]]
    assert len(attacks) >= 100
    paid = {
        row["gold"]: row["pred"]
        for row in attacks
        if checker.check(extract_answer(row["pred"], strict=True), row["gold"])
        or checker.check(row["pred"], row["gold"])
    }
    assert paid.items() <= OPEN.items()


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

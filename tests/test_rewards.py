"""What each reward pays for and what not: ordinary responses, and attempts to get paid for nothing."""

from __future__ import annotations

import functools
import math
import pickle
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prl
from prl.analysis import self_bleu
from prl.errors import DataError, UsageError
from prl.rewards import (
    EXPERIMENTAL,
    REWARDS,
    AlternatingReward,
    BonusReward,
    EfficiencyReward,
    ParallelReward,
    TieredReward,
    accuracy_reward,
    diversity_reward,
    format_reward,
    read_pattern,
    reward_functions,
    set_diversity_reward,
)

BLOCK = (
    "<Parallel><Path>6 * 7 = 42</Path><Path>7 * 6 = 42</Path></Parallel>\n<Summary>Both give 42.</Summary>\n"
)
WRONG_PATH = BLOCK.replace("7 * 6 = 42", "Final Answer: 13")
RIGHT_PATH = BLOCK.replace("6 * 7 = 42", "Final Answer: 42")


def paths(*texts: str, summary: str | None = "s") -> str:
    body = "".join(f"<Path>{text}</Path>" for text in texts)
    return f"<Parallel>{body}</Parallel>" + ("" if summary is None else f"<Summary>{summary}</Summary>")


CASES = [
    # response, accuracy, format, parallel, bonus, tiered, reason; the gold answer is 42
    (BLOCK + "Final Answer: 42", 1, 1, 1, 1.5, 1.2, "right, with a valid block"),
    (
        BLOCK + "Final Answer: 41",
        -1,
        1,
        -1,
        -0.5,
        -1,
        "wrong, with a valid block: only the bonus pays for it",
    ),
    ("6 * 7 = 42\nFinal Answer: 42", 1, 1, -1, 1, 1, "right without a block: well-formed, but not parallel"),
    ("Final Answer: 41", -1, 1, -1, -1, -1, "wrong without a block"),
    ("", -1, 1, -1, -1, -1, "an empty response has no answer; its format has no fault"),
    (BLOCK + r"So \boxed{42}.", 1, 1, 1, 1.5, 1.2, "a boxed answer"),
    (BLOCK + "Final Answer: 84/2", 1, 1, 1, 1.5, 1.2, "another way to write the answer"),
    (BLOCK + BLOCK + "Final Answer: 42", 1, 1, 1, 1.5, 1.2, "two blocks earn what one earns"),
    (WRONG_PATH + "Final Answer: 42", 1, 1, 1, 1.5, 1.2, "a path may be wrong; the main thread decides"),
    (RIGHT_PATH + "Final Answer: 13", -1, 1, -1, -0.5, -1, "nor does a right path help"),
    ("<Parallel><Path>6 * 7</Path><Path>42", -1, 0, -1, -1, -1, "cut off in a path"),
    ("Final Answer: 42" + BLOCK[:-12], 1, 0, -1, 1, -1, "right, but the summary is never closed"),
    (
        BLOCK + "Final Answer: 42\n<Parallel><Path>once mo",
        1,
        0,
        1,
        1.5,
        -1,
        "cut off in a second block: the first stays valid, the trace does not",
    ),
    ("<Parallel></Parallel>Final Answer: 42", 1, 0, -1, 1, -1, "hack: an empty block"),
    (paths("", " \n") + "Final Answer: 42", 1, 0, -1, 1, -1, "hack: empty paths"),
    (paths("\u200b", "\u2063") + "Final Answer: 42", 1, 0, -1, 1, -1, "hack: paths of invisible characters"),
    (paths("a", "") + "Final Answer: 42", 1, 0, -1, 1, -1, "hack: one of two paths is empty"),
    (paths("a") + "Final Answer: 42", 1, 0, -1, 1, -1, "hack: one path"),
    (paths("a", "b", summary=None) + "Final Answer: 42", 1, 0, -1, 1, -1, "hack: no summary"),
    (paths("a", "b", summary=" ") + "Final Answer: 42", 1, 0, -1, 1, -1, "hack: an empty summary"),
    (
        paths(".", ".", summary=".") + "Final Answer: 42",
        1,
        1,
        1,
        1.5,
        1.2,
        "not seen: paths that say nothing",
    ),
    ("<Parallel>Final Answer: 42", 1, 0, -1, 1, -1, "hack: only an opener"),
    ("</Parallel></Path></Summary>Final Answer: 42", 1, 0, -1, 1, -1, "hack: only closers"),
    (BLOCK.replace("</Path>", "</Path></Path>") + "Final Answer: 42", 1, 0, -1, 1, -1, "hack: closers twice"),
    ("<Parallel>" + BLOCK + "Final Answer: 42", 1, 0, -1, 1, -1, "hack: a block in a block"),
    (paths(BLOCK, "b") + "Final Answer: 42", 1, 0, -1, 1, -1, "hack: a block in a path"),
    (
        BLOCK + "</Summary>Final Answer: 42",
        1,
        0,
        1,
        1.5,
        -1,
        "a stray closer is a fault; the valid block before it stays one",
    ),
    (
        "`<Parallel>`, `<Path>` and `<Summary>` are tags.\nFinal Answer: 42",
        1,
        0,
        -1,
        1,
        -1,
        "a response that quotes the instruction: the tags are real tokens, and nothing closes them",
    ),
    ("<Path>" * 100_000 + "\nFinal Answer: 42", 1, 0, -1, 1, -1, "hack: 100,000 tags"),
    ("<Parallel>" * 100_000 + "\nFinal Answer: 42", 1, 0, -1, 1, -1, "hack: 100,000 blocks that never close"),
    (BLOCK * 12_500 + "Final Answer: 42", 1, 1, 1, 1.5, 1.2, "hack: 100,000 tags, all as they should be"),
]


@pytest.mark.parametrize(
    ("response", "accuracy", "form", "parallel", "bonus", "tiered", "reason"),
    CASES,
    ids=[case[-1] for case in CASES],
)
def test_what_a_response_earns(
    response: str, accuracy: float, form: float, parallel: float, bonus: float, tiered: float, reason: str
) -> None:
    assert accuracy_reward([response], ["42"]) == [accuracy], reason
    assert format_reward([response]) == [form], reason
    assert ParallelReward()([response], ["42"]) == [parallel], reason
    assert BonusReward()([response], ["42"]) == [bonus], reason
    assert TieredReward()([response], ["42"]) == [tiered], reason


def test_what_the_tiers_and_the_bonus_are_worth_is_the_users_to_say() -> None:
    responses = [BLOCK + "Final Answer: 42", "Final Answer: 42", "Final Answer: 13", "<Path>Final Answer: 42"]
    assert TieredReward(2.0, 0.5, 0.0)(responses, ["42"] * 4) == [2.0, 0.5, 0.0, 0.0]
    assert BonusReward(0.25)(responses, ["42"] * 4) == [1.25, 1.0, -1.0, 1.0]


class Log:
    """Stands in for TRL's two callbacks: columns are extended, metrics are collected."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = defaultdict(list)
        self.metrics: dict[str, float] = {}

    def keywords(self) -> dict[str, Any]:
        def log_extra(column: str, values: list[Any]) -> None:
            self.columns[column].extend(values)

        def log_metric(name: str, value: float) -> None:
            self.metrics[name] = value

        return {"log_extra": log_extra, "log_metric": log_metric}


BY_TEXT = [name for name in REWARDS if name != "overlong"]
"""All but the one that looks at token ids only: tests/test_rewards_trl.py."""
ALL = reward_functions(REWARDS, eos_token_id=2, tag_ids=range(10, 16), max_completion_length=100)
JUDGES = ("accuracy", "parallel", "bonus", "tiered", "gated_efficiency")
"""Rewards that compare the answer with the gold one."""


def test_a_batch_as_trl_passes_it() -> None:
    """All on one batch, with every keyword that `GRPOTrainer._calculate_rewards` gives."""
    log, cases = Log(), [case for case in CASES if len(case[0]) < 10_000]
    batch: dict[str, Any] = {
        "prompts": ["Problem: <Parallel><Path>42</Path> Final Answer: 42"] * len(cases),
        "completions": [case[0] for case in cases],
        "completion_ids": [[1, 2]] * len(cases),
        "answer": ["42"] * len(cases),
        "level": [None] * len(cases),
        "trainer_state": SimpleNamespace(global_step=8),
        **log.keywords(),
    }
    paid = {name: reward(**batch) for name, reward in ALL.items()}
    for column, name in enumerate(("accuracy", "format", "parallel", "bonus", "tiered"), 1):
        assert paid[name] == [case[column] for case in cases]
    assert paid["alternating"] == paid["tiered"], "step 8 is the first of the tiered phase"
    assert {len(values) for values in paid.values()} == {len(cases)}

    assert set(log.columns) == {
        "extracted",
        "verdict",
        "faults",
        "parallel_verdict",
        "bonus_verdict",
        "tiered_verdict",
        "alternating_phase",
        "self_bleu",
        "set_diversity",
        "efficiency",
        "gated_efficiency_verdict",
    }
    assert {len(values) for values in log.columns.values()} == {len(cases)}, (
        "one value a response in each column, so no two rewards share one"
    )


def test_what_is_logged() -> None:
    log = Log()
    responses = [BLOCK + "Final Answer: 42", "Final Answer: 41", "I do not know", "<Path>\nFinal Answer: 42"]
    golds = ["42"] * 4
    accuracy_reward(responses, golds, **log.keywords())
    format_reward(responses, **log.keywords())
    ParallelReward()(responses, golds, **log.keywords())

    assert log.columns["extracted"] == ["42", "41", None, "42"]
    assert log.columns["faults"] == ["", "", "", "stray_path_opener"]
    assert log.columns["verdict"][2] == "no answer"
    assert log.columns["parallel_verdict"][0] == log.columns["verdict"][0] + ", valid block"
    assert log.columns["parallel_verdict"][3] == log.columns["verdict"][3] + ", no valid block"
    assert log.metrics == {
        "accuracy/correct": 0.5,
        "accuracy/wrong": 0.25,
        "accuracy/no_answer": 0.25,
        "accuracy/unparseable": 0.0,
        "accuracy/unparseable_gold": 0.0,
        "accuracy/too_large": 0.0,
        "accuracy/crashed": 0.0,
        "accuracy/timed_out": 0.0,
        "parallel_ratio": 0.25,
    }


@pytest.mark.parametrize("gold", ["", None, "<|", "\\frac{"])
def test_a_gold_answer_that_cannot_be_read_is_skipped(gold: Any) -> None:
    log = Log()
    assert accuracy_reward(["Final Answer: 42"], [gold], **log.keywords()) == [None]
    assert log.metrics["accuracy/unparseable_gold"] == 1.0
    for name in JUDGES:
        responses = [BLOCK + "Final Answer: 42", "Final Answer: 42", "<Path>", BLOCK]
        assert ALL[name](responses, [gold] * 4) == [None] * 4, name


def test_a_group_is_skipped_as_a_whole() -> None:
    """One reward of a group that is not None would be compared with the others' absence."""
    log = Log()
    group = ["Final Answer: 42", "I do not know", "", r"\boxed{\frac{1", r"Final Answer: \frac{1}{2}"]
    golds = [r"\frac{\sqrt{3"] * len(group)
    assert accuracy_reward(group, golds, **log.keywords()) == [None] * len(group)
    assert ParallelReward()(group, golds) == [None] * len(group)
    assert log.columns["verdict"] == ["unparseable gold"] * len(group)
    assert log.metrics["accuracy/no_answer"] == 0.0


def test_a_gold_answer_may_be_a_number() -> None:
    assert accuracy_reward(["Final Answer: 42"] * 2, [42, 42.5]) == [1.0, -1.0]


def test_a_missing_answer_column_is_named() -> None:
    for name in JUDGES:
        with pytest.raises(
            DataError, match=r"no column 'answer' among the columns given \(level, solution\)"
        ):
            ALL[name](
                prompts=["p"],
                completions=["c"],
                completion_ids=[[1]],
                trainer_state=None,
                solution=["42"],
                level=[1],
            )


def test_conversations_are_what_the_assistant_said() -> None:
    text = BLOCK + "Final Answer: 42"
    conversations: list[list[dict[str, Any]]] = [
        [{"role": "assistant", "content": text}],
        [{"content": text}],
        [
            {"role": "assistant", "content": None},
            {"role": "tool", "content": "<Path>"},
            {"role": "assistant", "content": text},
        ],
    ]
    assert accuracy_reward(conversations, ["42"] * 3) == [1.0] * 3
    assert format_reward(conversations) == [1.0] * 3
    assert ParallelReward()(conversations, ["42"] * 3) == [1.0] * 3
    for name in set(BY_TEXT) - {"alternating"}:
        paid = ALL[name](completions=conversations, answer=["42"] * 3)
        assert list(paid) == list(ALL[name](completions=[text], answer=["42"])) * 3, name


def test_a_truncated_response_breaks_the_format() -> None:
    responses, log = ["1 + 1", "1 + 1", BLOCK], Log()
    assert format_reward(responses, truncated=[True, False, True], **log.keywords()) == [0.0, 1.0, 0.0]
    assert log.columns["faults"] == ["truncated", "", "truncated"]
    assert log.metrics["parallel_ratio"] == pytest.approx(1 / 3), "a finished block stays valid"

    ids = [[5, 6], [5, 9], []]
    assert format_reward(responses, completion_ids=ids) == [1.0] * 3, (
        "without an end token nothing can be told"
    )
    assert functools.partial(format_reward, eos_token_id=9)(responses, completion_ids=ids) == [0.0, 1.0, 0.0]
    assert format_reward(responses, truncated=[False] * 3, completion_ids=ids, eos_token_id=9) == [1.0] * 3


@pytest.mark.parametrize("name", BY_TEXT)
def test_rewards_are_picklable_and_named_for_trl(name: str) -> None:
    """TRL's asynchronous rollouts send them to a spawned process and name metrics by `__name__`."""
    copy = pickle.loads(pickle.dumps(ALL[name]))
    assert copy.__name__ == f"{name}_reward"
    batch: dict[str, Any] = {
        "completions": [BLOCK + "Final Answer: 42"],
        "completion_ids": [[10, 12, 7, 13, 12, 7, 13, 11, 14, 7, 15, 2]],
        "answer": ["42"],
        "trainer_state": SimpleNamespace(global_step=0),
    }
    assert copy(**batch) == ALL[name](**batch)


@pytest.mark.parametrize("name", BY_TEXT)
def test_an_empty_batch(name: str) -> None:
    log = Log()
    state = SimpleNamespace(global_step=0)
    nothing = ALL[name](completions=[], completion_ids=[], answer=[], trainer_state=state, **log.keywords())
    assert nothing == []
    assert log.metrics == {}


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        accuracy_reward(["a", "b"], ["1"])


HOSTILE = {
    "boxes in blocks that never close": "<Parallel><Path></Path>\\boxed{Final Answer: " * 10_000,
    "two paths of 100,000 words": paths(*(" ".join(map(str, range(k, 100_000 + k))) for k in (0, 50_000))),
    "10,000 paths": paths(*(f"{k} * 7 = {k % 10}" for k in range(10_000))),
    "10,000 paths, all alike": paths(*["6 * 7 = 42"] * 10_000),
    "one word, 100,000 times": paths("a " * 100_000, "a " * 99_999),
    "4,000 blocks": paths("6 * 7", "7 * 6") * 4_000,
    "200,000 invisible characters": paths("\u200b" * 100_000, "\u200b" * 100_000),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_responses_are_fast(text: str) -> None:
    start = time.process_time()
    for name in set(BY_TEXT) - {"alternating"}:
        ALL[name](completions=[text], answer=["42"])
    assert time.process_time() - start < 8


SWAPPED = ("6 * 7 = 42", "7 * 6 = 42")
# All 5 words match; of 4 bigrams "= 42" does; no trigram (of 3, counts ½), no 4-gram (of 2, counts ¼).
SWAPPED_BLEU = (5 / 5 * 1 / 4 * (1 / 2) / 3 * (1 / 4) / 2) ** (1 / 4)

DIVERSITY_CASES = [
    # response, diversity, set diversity, reason
    ("Final Answer: 42", 0, 0, "no block: the most that diversity pays, the least that set diversity does"),
    ("", 0, 0, "nothing"),
    (paths("6 * 7 = 42", "6 * 7 = 42"), -1, 0, "paths alike"),
    (paths("6*7=42", " 6 * 7\n= 42 "), -1, 0, "spaces do not make two paths of one"),
    (paths("42", "4\u200b2"), -1, 0, "nor does what nobody sees"),
    (paths("6 * 7 = 42", "add it up"), 0, 1, "no word shared"),
    (paths(*SWAPPED), -SWAPPED_BLEU, 0, "the same words in another order: only n-grams see it"),
    (
        paths("6 * 7", "7 * 6", "40 + 2"),
        # Two paths of three words match all words, no bigram (of 2), no trigram (of 1); the third has none.
        -2 / 3 * (1 * (1 / 2) / 2 * (1 / 4) / 1) ** (1 / 3),
        (3 * 6 / 9 - 1) / 2,
        "three paths: mean over paths; Dice of sets of 3, 3, 3 and a union of 6",
    ),
    (
        paths("6 * 7 = 42", "6 * 7 = 42") + paths("a", "b"),
        -1 / 2,
        1 / 2,
        "two blocks: the mean over blocks",
    ),
    (
        paths("6 * 7 = 42", "6 * 7 = 42") + paths("a") + "<Parallel></Parallel>",
        -1,
        0,
        "blocks of fewer than two paths are left out",
    ),
    (paths("6", "", " \n", "6"), -1, 0, "hack: empty paths are left out, so they buy nothing"),
    (paths("6", "\u200b"), 0, 0, "hack: one path and an invisible one"),
    (paths(*[""] * 50), 0, 0, "hack: fifty empty paths"),
    (paths("a", "b", summary=None), 0, 1, "a missing summary is the format's matter"),
    ("<Parallel><Path>6 * 7</Path><Path>6 * 7", -1, 0, "nor is being cut off one of diversity"),
    (paths("6", "7").replace("</Path>", "</Path></Path>"), 0, 1, "duplicate closers do not add a path"),
    (
        paths("6 * 7", "<Parallel>6 * 7"),
        # The first path matches all, at half the length; of the second 3 of 6 words, 2 of 5, 1 of 4, 0 of 3.
        -fmean((math.exp(1 - 6 / 3), (3 / 6 * 2 / 5 * 1 / 4 * (1 / 2) / 3) ** (1 / 4))),
        1 - 2 * 3 / 9,
        "a nested opener is text of its path: two symbols and a word",
    ),
    ("<Path>6</Path><Path>7</Path>", 0, 0, "paths outside a block are none"),
    (paths("6", "7", summary="6 7 6 7"), 0, 1, "the summary is not compared"),
    ("same same " + paths("6", "7") + " same", 0, 1, "nor is the main thread"),
    ("<Path>" * 100_000, 0, 0, "hack: 100,000 tags outside a block"),
    ("<Parallel>" + "<Path>" * 100_000, 0, 0, "hack: 100,000 paths without text"),
    ("<Parallel>" + "<Path>6" * 50_000, -1, 0, "hack: 50,000 paths alike"),
]


@pytest.mark.parametrize(
    ("response", "diversity", "set_diversity", "reason"),
    DIVERSITY_CASES,
    ids=[case[-1] for case in DIVERSITY_CASES],
)
def test_what_different_paths_earn(
    response: str, diversity: float, set_diversity: float, reason: str
) -> None:
    assert diversity_reward([response]) == [pytest.approx(diversity)], reason
    assert set_diversity_reward([response]) == [pytest.approx(set_diversity)], reason


def test_what_is_not_measured_is_none_in_the_table() -> None:
    log = Log()
    responses = [paths("6", "6"), "Final Answer: 42", paths("6")]
    diversity_reward(responses, **log.keywords())
    set_diversity_reward(responses, **log.keywords())
    assert log.columns == {"self_bleu": [1.0, None, None], "set_diversity": [0.0, None, None]}


BLEU_CASES = [
    # paths, self-BLEU, reason
    ([], None, "nothing to compare"),
    (["a b"], None, "one path has no sibling"),
    (["a b", ""], None, "an empty path is none"),
    (["a", "a"], 1, "a path of one word: only single words are compared"),
    (["a", "b"], 0, "no match of any order is 0, not smoothed"),
    (
        ["a b", "a b c"],
        # The short one matches all, and is shorter by half; the long one 2 of 3, 1 of 2, 0 of 1 (counts ½).
        fmean((math.exp(1 - 3 / 2), (2 / 3 * 1 / 2 * 1 / 2) ** (1 / 3))),
        "the brevity penalty, and three orders for a path of three words",
    ),
    (
        ["a a a a", "a"],
        # One of four words is in the sibling as often; then 0 of 3 (½), 0 of 2 (¼), 0 of 1 (⅛).
        fmean(((1 / 4 * 1 / 6 * 1 / 8 * 1 / 8) ** (1 / 4), math.exp(1 - 4))),
        "a word repeated counts as often as the sibling has it",
    ),
    (
        ["a b", "a c", "d"],
        fmean((math.sqrt(1 / 2 * 1 / 2), math.sqrt(1 / 2 * 1 / 2), 0)),
        "each against all its siblings, the mean over paths",
    ),
    (
        ["a b c d e f", "a b c d e f", "x"],
        fmean((1, 1, 0)),
        "a third path does not change how alike two are",
    ),
    (
        ["a a", "a", "a b b"],
        # "a a": 1 of 2, "a a" 0 of 1 (½), length 2 against 1 (not 3: the shorter of two as near).
        # "a": 1 of 1, length 1 against 2. "a b b": 1 of 3, 0 of 2 (½), 0 of 1 (¼).
        fmean((math.sqrt(1 / 2 * 1 / 2), math.exp(1 - 2), (1 / 3 * 1 / 4 * 1 / 4) ** (1 / 3))),
        "the nearest length, the shorter of two",
    ),
]


@pytest.mark.parametrize(("texts", "expected", "reason"), BLEU_CASES, ids=[case[-1] for case in BLEU_CASES])
def test_self_bleu_by_hand(texts: list[str], expected: float | None, reason: str) -> None:
    result = self_bleu([text.split() for text in texts])
    assert result == (expected if expected is None else pytest.approx(expected)), reason


def bleu_by_definition(path: Sequence[str], siblings: Sequence[Sequence[str]]) -> float:
    """Papineni et al. 2002, pair by pair, with the smoothing that `self_bleu` states."""

    def grams(tokens: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
        return Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))

    product, orders, missed = 1.0, min(4, len(path)), 0
    for order in range(1, orders + 1):
        own = grams(path, order)
        found = sum(min(n, max(grams(other, order)[gram] for other in siblings)) for gram, n in own.items())
        missed += found == 0
        product *= (found or 1 / 2**missed) / own.total()
    reference = min((abs(len(other) - len(path)), len(other)) for other in siblings)[1]
    return (
        0.0 if missed == orders else product ** (1 / orders) * min(1.0, math.exp(1 - reference / len(path)))
    )


TOKENS = st.lists(st.sampled_from("abcd"), max_size=9)


@given(st.lists(TOKENS, max_size=6), st.randoms())
def test_self_bleu_is_what_its_definition_says_in_any_order(texts: list[list[str]], random: Any) -> None:
    result = self_bleu(texts)
    full = [text for text in texts if text]
    if len(full) < 2:
        assert result is None
        return
    others = [full[:i] + full[i + 1 :] for i in range(len(full))]
    assert result == pytest.approx(fmean(map(bleu_by_definition, full, others)))
    assert result is not None
    assert 0 <= result <= 1
    random.shuffle(texts)
    assert self_bleu(texts) == result


# Token ids: 10 <Parallel> 11 </Parallel> 12 <Path> 13 </Path> 14 <Summary> 15 </Summary>, and 7 for a word.
EFFICIENCY_CASES = [
    # ids, tokens saved, tokens in all, reason
    ([], 0, 0, "nothing"),
    ([7] * 5, 0, 5, "no block"),
    ([10, 12, 7, 7, 13, 12, 7, 13, 11, 14, 7, 15], 3, 12, "the shorter path, with its tags, costs no time"),
    ([10, *[12, 7, 13] * 3, 11, 14, 7, 15], 6, 14, "of three equal paths, two"),
    ([10, 12, 7, 13, 12, 7, 13, 11, 14, 7, 15] * 2, 6, 22, "two blocks"),
    ([10, 12, 7, 13, 11, 14, 7, 15], 0, 8, "one path saves nothing"),
    ([10, 12, 7, 7, 13, 12, 7], 2, 7, "cut off in a path"),
    ([10, 12, 7, 13, 13, 12, 7, 13, 11, 14, 7, 15], 3, 12, "duplicate closers are main thread"),
    ([10, 12, 10, 7, 13, 12, 7, 13, 11, 14, 7, 15], 3, 12, "a nested opener is a token of its path"),
    ([12, 7, 13, 12, 7, 13], 0, 6, "paths outside a block are main thread"),
    ([10, 7, 7, 12, 7, 13, 12, 7, 13, 11], 3, 10, "so is text between the paths"),
    ([10, *[12, 13] * 1000, 11], 1998, 2002, "not seen: paths that say nothing pay best; gate it"),
    ([12] * 100_000, 0, 100_000, "hack: 100,000 openers outside a block"),
]


@pytest.mark.parametrize(
    ("ids", "saved", "total", "reason"), EFFICIENCY_CASES, ids=[case[-1] for case in EFFICIENCY_CASES]
)
def test_what_side_by_side_saves(ids: list[int], saved: int, total: int, reason: str) -> None:
    reward = EfficiencyReward(tag_ids=range(10, 16))
    assert reward(["other text"], completion_ids=[ids]) == [pytest.approx(saved / max(total, 1))], reason


def test_efficiency_in_characters() -> None:
    text = "<Parallel><Path>abc</Path><Path>a</Path></Parallel><Summary>abc</Summary>"
    expected = [len("<Path>a</Path>") / len(text)]
    assert EfficiencyReward()([text]) == expected, "nothing is known of tokens"
    assert EfficiencyReward(tag_ids=range(6))([text]) == expected, "no ids are given"
    assert EfficiencyReward()([text], completion_ids=[[1]]) == expected, "the ids of the tags are not known"
    spelt = [*range(50, 80)]
    of_ids = EfficiencyReward(tag_ids=range(6))
    assert of_ids([text], completion_ids=[spelt]) == expected, "the tokenizer spells tags out"


GATED_CASES = [
    # response, whether its share is paid, reason
    (paths("6 * 7", "7 * 6") + "Final Answer: 42", True, "right and valid"),
    ("Final Answer: 42", True, "right without a block: there is nothing to save"),
    (paths("6 * 7", "7 * 6") + "Final Answer: 41", False, "wrong"),
    (paths("6 * 7", "7 * 6"), False, "no answer outside the block"),
    (paths("6 * 7", "7 * 6", summary=None) + "Final Answer: 42", False, "right, but the summary is missing"),
    (paths("6 * 7", "7 * 6") + "</Path>Final Answer: 42", False, "right and a stray closer"),
    (paths(*[""] * 1000) + "Final Answer: 42", False, "hack: 1,000 empty paths"),
    (paths(*["."] * 1000) + "Final Answer: 42", True, "not seen: 1,000 paths of a dot, and the right answer"),
    (
        "<Parallel>" + "<Path>6</Path>" * 10_000 + "\nFinal Answer: 42",
        False,
        "hack: a block that never closes",
    ),
]


@pytest.mark.parametrize(("response", "paid", "reason"), GATED_CASES, ids=[case[-1] for case in GATED_CASES])
def test_gated_efficiency(response: str, paid: bool, reason: str) -> None:
    (share,) = EfficiencyReward()([response])
    assert share is not None
    assert EfficiencyReward(gated=True)([response], ["42"]) == [share if paid else 0.0], reason


def test_gated_efficiency_measures_tokens_and_judges_text() -> None:
    log = Log()
    ids = [10, 12, 7, 13, 12, 7, 13, 11, 14, 7, 15, 7, 2]
    reward = EfficiencyReward(tag_ids=range(10, 16), gated=True)
    responses = [paths("6", "7") + "Final Answer: 42", "<Path>Final Answer: 42"]
    assert reward(responses, ["42"] * 2, completion_ids=[ids] * 2, **log.keywords()) == [3 / 13, 0.0]
    assert log.columns["gated_efficiency_verdict"] == [f"{why}, 0.231" for why in ("identical", "identical")]


# Parallel-R1's window of 10: 8 steps of accuracy, then 2 of the tiered reward.
@pytest.mark.parametrize(
    ("start", "step", "phase"),
    [
        (0, 0, "accuracy"),
        (0, 7, "accuracy"),
        (0, 8, "tiered"),
        (0, 9, "tiered"),
        (0, 10, "accuracy"),
        (0, 1_000_008, "tiered"),
        (3, 3, "accuracy"),
        (3, 10, "accuracy"),
        (3, 11, "tiered"),
        (3, 12, "tiered"),
        (3, 13, "accuracy"),
    ],
)
def test_the_phase_of_a_step(start: int, step: int, phase: str) -> None:
    reward = AlternatingReward(start=start)
    assert (reward.window, reward.phase(step)) == (10, phase)
    later = AlternatingReward()
    later.start = start
    assert later.phase(step) == phase, "a stage change moves the start of a reward in use"


def test_any_pattern_alternates() -> None:
    reward = AlternatingReward((("parallel", 1), ("accuracy", 2), ("parallel", 1), ("format", 3)))
    assert [reward.phase(step) for step in range(8)] == [
        "parallel",
        "accuracy",
        "accuracy",
        "parallel",
        "format",
        "format",
        "format",
        "parallel",
    ]


@pytest.mark.parametrize("part", [name for name in BY_TEXT if name != "alternating"])
def test_alternating_pays_what_its_part_pays(part: str) -> None:
    whole = reward_functions(
        ["alternating"],
        eos_token_id=2,
        tag_ids=range(10, 16),
        pattern=((part, 1), ("accuracy", 1)),
    )["alternating"]
    responses = [BLOCK + "Final Answer: 42", "Final Answer: 42", "<Path>Final Answer: 42", ""]
    ids = [[10, 12, 7, 13, 12, 7, 13, 11, 14, 7, 15, 2], [7] * 90, [12, 2], []]
    log = Log()
    for step, name in enumerate((part, "accuracy", part)):
        batch: dict[str, Any] = {
            "completions": responses,
            "completion_ids": ids,
            "answer": ["42"] * 4,
            "trainer_state": SimpleNamespace(global_step=step),
        }
        assert whole(**batch, **log.keywords()) == list(ALL[name](**batch))
    assert log.columns == {"alternating_phase": [part] * 4 + ["accuracy"] * 4 + [part] * 4}, (
        "columns of a part would come and go with its phase"
    )
    assert log.metrics["accuracy/correct"] == 0.75


def test_alternating_needs_the_step() -> None:
    with pytest.raises(DataError, match=r"no trainer_state for reward alternating.*pass an object with"):
        AlternatingReward()(["Final Answer: 42"], ["42"])


def test_alternating_takes_rewards_of_the_users() -> None:
    def length_reward(completions: list[str], **kwargs: Any) -> list[float]:
        return [float(len(text)) for text in completions]

    reward = AlternatingReward((("accuracy", 1), ("tiered", 1)), {"tiered": length_reward})
    state = SimpleNamespace(global_step=1)
    assert reward(["1234"], ["42"], trainer_state=state) == [4.0]


PATTERN_CASES = [
    # parts, window, pattern, faults
    (["accuracy:8", "tiered:2"], 10, (("accuracy", 8), ("tiered", 2)), []),
    (["format:1"], 1, (("format", 1),), []),
    (["accuracy:1", "tiered:1", "accuracy:3"], 5, (("accuracy", 1), ("tiered", 1), ("accuracy", 3)), []),
    ([], 10, (), ["no rewards to alternate; write each with its steps, as in accuracy:8"]),
    (
        ["accuracy:8", "tired:2"],
        10,
        (("accuracy", 8), ("tired", 2)),
        ["'tired' is no reward; nearest: tiered"],
    ),
    (
        ["accuracy:8", "tiered:3"],
        10,
        (("accuracy", 8), ("tiered", 3)),
        ["11 steps in accuracy:8 tiered:3, 10 in the window; make them equal"],
    ),
    (
        ["accuracy:10", "tiered:0"],
        10,
        (("accuracy", 10), ("tiered", 0)),
        ["0 steps of tiered; give 1 or more"],
    ),
    (
        ["accuracy:8", "alternating:2"],
        10,
        (("accuracy", 8), ("alternating", 2)),
        ["alternating cannot alternate with itself; name another reward"],
    ),
    *(
        ([word], 8, (), [f"{word!r} is not NAME:COUNT; write a reward and its steps, as in accuracy:8"])
        for word in (
            "accuracy",
            "accuracy:",
            ":8",
            "accuracy:x",
            "accuracy:8.0",
            "accuracy:1:2",
            "accuracy:٨",
        )
    ),
    (
        ["accuracy", "tierd:0", "alternating:-1"],
        10,
        (("tierd", 0), ("alternating", -1)),
        [
            "'accuracy' is not NAME:COUNT; write a reward and its steps, as in accuracy:8",
            "'tierd' is no reward; nearest: tiered",
            "0 steps of tierd; give 1 or more",
            "alternating cannot alternate with itself; name another reward",
            "-1 steps of alternating; give 1 or more",
        ],
    ),
]


@pytest.mark.parametrize(("parts", "window", "pattern", "faults"), PATTERN_CASES)
def test_reading_a_pattern(parts: list[str], window: int, pattern: Any, faults: list[str]) -> None:
    assert read_pattern(parts, window) == (pattern, faults)


@given(
    st.lists(st.text(max_size=12) | st.from_regex(r"[a-z]+:-?\d+", fullmatch=True), max_size=4), st.integers()
)
def test_a_pattern_without_fault_fills_its_window(parts: list[str], window: int) -> None:
    pattern, faults = read_pattern(parts, window)
    if not faults:
        reward = AlternatingReward(pattern)
        assert reward.window == window
        assert Counter(reward.phase(step) for step in range(min(window, 1000))).keys() <= set(REWARDS)
    assert all("\n" not in fault for fault in faults)


def test_rewards_are_built_by_name_in_order() -> None:
    names = ["tiered", "accuracy", "gated_efficiency"]
    assert list(reward_functions(names)) == names
    assert reward_functions([]) == {}

    form = reward_functions(["format"], eos_token_id=9)["format"]
    assert form(completions=["a", "a"], completion_ids=[[8, 9], [8]]) == [1.0, 0.0], "format knows the end"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"names": ["acuracy"]}, "'acuracy' is no reward; nearest: accuracy"),
        (
            {"names": ["tired", "format", "Parallel"]},
            "'tired' is no reward; nearest: tiered; 'Parallel' is no",
        ),
        ({"names": ["zzz"]}, "'zzz' is no reward; one of accuracy, format, parallel, bonus"),
        ({"names": ["overlong"]}, "reward overlong needs a limit; give max_completion_length"),
        ({"names": ["alternating"], "pattern": (("tired", 1),)}, "'tired' is no reward; nearest: tiered"),
        ({"names": ["alternating"], "pattern": (("alternating", 1),)}, "cannot alternate with itself"),
        ({"names": ["alternating"], "pattern": ()}, "no rewards to alternate"),
    ],
)
def test_what_cannot_be_built_is_named(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        reward_functions(**keywords)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


PIECES = st.lists(
    st.sampled_from(
        [
            "<Parallel>",
            "</Parallel>",
            "<Path>",
            "</Path>",
            "<Summary>",
            "</Summary>",
            paths("6 * 7", "7 * 6"),
            "6 * 7",
            " ",
            "\u200b",
            "Final Answer: 42",
            "Final Answer: 13",
            "\n",
        ]
    ),
    max_size=12,
).map("".join)
RANGES = {
    "accuracy": (-1, 1),
    "format": (0, 1),
    "parallel": (-1, 1),
    "bonus": (-1, 1.5),
    "tiered": (-1, 1.2),
    "alternating": (-1, 1.2),
    "diversity": (-1, 0),
    "set_diversity": (0, 1),
    "efficiency": (0, 1),
    "gated_efficiency": (0, 1),
    "overlong": (-1, 0),
}


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(PIECES | st.text(max_size=30), st.lists(st.integers(0, 20), max_size=110)), max_size=5
    ),
    st.integers(0, 30),
    st.randoms(),
)
def test_any_batch_is_paid_within_range_whatever_its_order(
    batch: list[tuple[str, list[int]]], step: int, random: Any
) -> None:
    def pay(name: str, batch: list[tuple[str, list[int]]]) -> list[float | None]:
        return list(
            ALL[name](
                completions=[text for text, _ in batch],
                completion_ids=[ids for _, ids in batch],
                answer=["42"] * len(batch),
                trainer_state=SimpleNamespace(global_step=step),
            )
        )

    order = list(range(len(batch)))
    random.shuffle(order)
    for name, (low, high) in RANGES.items():
        paid = pay(name, batch)
        assert all(value is not None and low <= value <= high for value in paid), name
        assert pay(name, [batch[i] for i in order]) == [paid[i] for i in order], name


@given(
    st.lists(st.sampled_from(["6 * 7 = 42", "7 * 6", "40 + 2", "", " ", "6"]), min_size=2, max_size=5),
    st.randoms(),
)
def test_the_order_of_the_paths_does_not_matter(texts: list[str], random: Any) -> None:
    shuffled = list(texts)
    random.shuffle(shuffled)
    for reward in (diversity_reward, set_diversity_reward, EfficiencyReward()):
        first, second = reward([paths(*texts), paths(*shuffled)])
        assert first == second


def test_importing_the_rewards_imports_nothing_heavy() -> None:
    code = (
        "import sys, prl.rewards; print(sorted({'torch', 'transformers', 'trl', 'sympy'} & {*sys.modules}))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_experimental_are_those_of_no_shipped_recipe() -> None:
    yaml = pytest.importorskip("yaml")
    used: set[str] = set()
    for path in (Path(prl.__file__).parent / "recipes").rglob("*.yaml"):
        rl = yaml.safe_load(path.read_text(encoding="utf-8")).get("rl") or {}
        used.update(part.partition(":")[0] for part in rl.get("alternate", ()))
        for section in (rl, *rl.get("stages", ())):
            used.update(section.get("rewards", ()))
    assert {*EXPERIMENTAL} == {*REWARDS} - used
    for name in EXPERIMENTAL:
        assert "Experimental: no recipe uses it." in str(ALL[name].__doc__), name

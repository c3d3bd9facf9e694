"""What each reward pays for and what not: ordinary responses, and attempts to get paid for nothing."""

from __future__ import annotations

import doctest
import functools
import pickle
import time
from collections import defaultdict
from typing import Any

import pytest

from prl import rewards
from prl.errors import DataError
from prl.rewards import ParallelReward, accuracy_reward, format_reward

BLOCK = (
    "<Parallel><Path>6 * 7 = 42</Path><Path>7 * 6 = 42</Path></Parallel>\n<Summary>Both give 42.</Summary>\n"
)
WRONG_PATH = BLOCK.replace("7 * 6 = 42", "Final Answer: 13")

CASES = [
    # response, accuracy, format, parallel, reason; the gold answer is 42
    (BLOCK + "Final Answer: 42", 1, 1, 1, "right, with a valid block"),
    (BLOCK + "Final Answer: 41", -1, 1, -1, "wrong, with a valid block"),
    ("6 * 7 = 42\nFinal Answer: 42", 1, 1, -1, "right without a block: well-formed, but not parallel"),
    ("Final Answer: 41", -1, 1, -1, "wrong without a block"),
    ("", -1, 1, -1, "an empty response has no answer; its format has no fault"),
    (BLOCK + r"So \boxed{42}.", 1, 1, 1, "a boxed answer"),
    (BLOCK + "Final Answer: 84/2", 1, 1, 1, "another way to write the answer"),
    (BLOCK + BLOCK + "Final Answer: 42", 1, 1, 1, "two blocks"),
    (WRONG_PATH + "Final Answer: 42", 1, 1, 1, "a path may be wrong; the main thread decides"),
    (
        BLOCK.replace("6 * 7 = 42", "Final Answer: 42") + "Final Answer: 13",
        -1,
        1,
        -1,
        "nor does a right path help",
    ),
    ("<Parallel><Path>6 * 7</Path><Path>42", -1, 0, -1, "cut off in a path"),
    ("Final Answer: 42" + BLOCK[:-12], 1, 0, -1, "right, but the summary is never closed"),
    ("<Parallel></Parallel>Final Answer: 42", 1, 0, -1, "hack: an empty block"),
    (
        "<Parallel><Path></Path><Path> \n</Path></Parallel><Summary>s</Summary>Final Answer: 42",
        1,
        0,
        -1,
        "hack: empty paths",
    ),
    (
        "<Parallel><Path>\u200b</Path><Path>\u2063</Path></Parallel><Summary>s</Summary>Final Answer: 42",
        1,
        0,
        -1,
        "hack: paths of invisible characters",
    ),
    (
        "<Parallel><Path>a</Path></Parallel><Summary>s</Summary>Final Answer: 42",
        1,
        0,
        -1,
        "hack: one path",
    ),
    (
        "<Parallel><Path>a</Path><Path>b</Path></Parallel>Final Answer: 42",
        1,
        0,
        -1,
        "hack: no summary",
    ),
    ("<Parallel>Final Answer: 42", 1, 0, -1, "hack: only an opener"),
    ("</Parallel></Path></Summary>Final Answer: 42", 1, 0, -1, "hack: only closers"),
    (
        BLOCK.replace("</Path>", "</Path></Path>") + "Final Answer: 42",
        1,
        0,
        -1,
        "hack: closers twice",
    ),
    (
        "<Parallel>" + BLOCK + "Final Answer: 42",
        1,
        0,
        -1,
        "hack: a block in a block",
    ),
    (
        BLOCK + "</Summary>Final Answer: 42",
        1,
        0,
        1,
        "a stray closer is a fault; the valid block before it stays one",
    ),
    (
        "`<Parallel>`, `<Path>` and `<Summary>` are tags.\nFinal Answer: 42",
        1,
        0,
        -1,
        "a response that quotes the instruction: the tags are real tokens, and nothing closes them",
    ),
    ("<Path>" * 100_000 + "\nFinal Answer: 42", 1, 0, -1, "hack: 100,000 tags"),
    ("<Parallel>" * 100_000 + "\nFinal Answer: 42", 1, 0, -1, "hack: 100,000 blocks that never close"),
]
RESPONSES = [case[0] for case in CASES]
GOLDS = ["42"] * len(CASES)


@pytest.mark.parametrize(
    ("response", "accuracy", "form", "parallel", "reason"), CASES, ids=[case[-1] for case in CASES]
)
def test_what_a_response_earns(
    response: str, accuracy: float, form: float, parallel: float, reason: str
) -> None:
    assert accuracy_reward([response], ["42"]) == [accuracy], reason
    assert format_reward([response]) == [form], reason
    assert ParallelReward()([response], ["42"]) == [parallel], reason


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


def test_a_batch_as_trl_passes_it() -> None:
    """All three on one batch, with every keyword that `GRPOTrainer._calculate_rewards` gives."""
    log = Log()
    given: dict[str, Any] = {
        "prompts": ["Problem: <Parallel><Path>42</Path> Final Answer: 42"] * len(CASES),
        "completions": RESPONSES,
        "completion_ids": [[1, 2]] * len(CASES),
        "answer": GOLDS,
        "level": [None] * len(CASES),
        "trainer_state": object(),
        **log.keywords(),
    }
    assert accuracy_reward(**given) == [case[1] for case in CASES]
    assert format_reward(**given) == [case[2] for case in CASES]
    assert ParallelReward()(**given) == [case[3] for case in CASES]

    assert set(log.columns) == {"extracted", "verdict", "faults", "parallel_verdict"}
    assert {len(values) for values in log.columns.values()} == {len(CASES)}, (
        "one value a response in each column"
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
    assert ParallelReward()([BLOCK + "Final Answer: 42"], [gold]) == [None]
    assert log.metrics["accuracy/unparseable_gold"] == 1.0


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
    for reward in (accuracy_reward, ParallelReward()):
        with pytest.raises(
            DataError, match=r"no column 'answer' among the columns given \(level, solution\)"
        ):
            reward(
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


def test_rewards_are_picklable_and_named_for_trl() -> None:
    """TRL's asynchronous rollouts send them to a spawned process and name metrics by `__name__`."""
    for reward, name in (
        (accuracy_reward, "accuracy_reward"),
        (format_reward, "format_reward"),
        (ParallelReward(), "parallel_reward"),
    ):
        assert pickle.loads(pickle.dumps(reward)).__name__ == name


def test_an_empty_batch() -> None:
    log = Log()
    assert accuracy_reward([], [], **log.keywords()) == []
    assert format_reward([], **log.keywords()) == []
    assert ParallelReward()([], [], **log.keywords()) == []
    assert log.metrics == {}


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        accuracy_reward(["a", "b"], ["1"])


def test_hostile_batches_are_fast() -> None:
    unit = "<Parallel><Path></Path>\\boxed{Final Answer: "
    text = unit * (400_000 // len(unit))
    start = time.process_time()
    accuracy_reward([text], ["42"])
    format_reward([text])
    ParallelReward()([text], ["42"])
    assert time.process_time() - start < 5


def test_docstring_examples_run() -> None:
    assert doctest.testmod(rewards).failed == 0

"""One row from one record: conversations with their history, markers of templates, golds however stored."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prl.data.columns import COLUMNS
from prl.data.literals import decoded, once_escaped, written
from prl.data.rows import to_row
from prl.turns import marker_inside

SFT, RL = ("problem", "trace"), ("problem", "answer")
TRACE = (
    "<Parallel><Path>3 and 4</Path><Path>4 and 3</Path></Parallel><Summary>Both 7.</Summary>\nFinal Answer: 7"
)
ENDS = (
    "<|im_end|>",
    "</s>",
    "<end_of_turn>",
    "<eos>",
    "<|eot_id|>",
    "<|endoftext|>",
    "<｜end▁of▁sentence｜>",
    "<|end|>",
)


def turn(role: str, content: object, **more: object) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def user(content: object) -> dict[str, Any]:
    return turn("user", content)


def assistant(content: object, **more: object) -> dict[str, Any]:
    return turn("assistant", content, **more)


CALL = assistant(None, tool_calls=[{"function": {"name": "add"}}])
FIRST = [user("Let x = 3. What is x + 1?"), assistant("4")]
QUESTION = user("What is 3+4?")


def read(record: dict[str, Any], need: tuple[str, ...]) -> dict[str, Any]:
    found = to_row(record, need, "set")
    assert not found.wrong
    return found.row


def faults(record: dict[str, Any], need: tuple[str, ...]) -> str:
    return "; ".join(to_row(record, need, "set").wrong)


# --- conversations ------------------------------------------------------------------------------------------

CHATS: dict[str, tuple[dict[str, Any], str, list[dict[str, Any]]]] = {
    "one turn": ({"messages": [QUESTION, assistant(TRACE)]}, "What is 3+4?", []),
    "an earlier exchange": ({"messages": [*FIRST, user("x + 4?"), assistant(TRACE)]}, "x + 4?", FIRST),
    "a system turn that holds facts": (
        {"messages": [turn("system", "x = 3."), user("x + 4?"), assistant(TRACE)]},
        "x + 4?",
        [turn("system", "x = 3.")],
    ),
    "it ends with the user": (
        {"messages": [QUESTION, assistant(TRACE), user("Thanks! 5 + 5?")]},
        "What is 3+4?",
        [],
    ),
    "it begins with the assistant": (
        {"messages": [assistant("Hello!"), QUESTION, assistant(TRACE)]},
        "What is 3+4?",
        [assistant("Hello!")],
    ),
    "prompt and completion": (
        {"prompt": [*FIRST, user("x + 4?")], "completion": [assistant(TRACE)]},
        "x + 4?",
        FIRST,
    ),
    "a text and a completion": (
        {"prompt": "What is 3+4?", "completion": [assistant(TRACE)]},
        "What is 3+4?",
        [],
    ),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "What is 3+4?"}, {"from": "gpt", "value": TRACE}]},
        "What is 3+4?",
        [],
    ),
    "from and content": (
        {
            "conversations": [
                {"from": "user", "content": "What is 3+4?"},
                {"from": "assistant", "content": TRACE},
            ]
        },
        "What is 3+4?",
        [],
    ),
    "other families' roles": (
        {"conversations": [turn("Human", "What is 3+4?"), turn("model", TRACE)]},
        "What is 3+4?",
        [],
    ),
    "text parts": (
        {
            "messages": [
                user([{"type": "text", "text": "What is "}, {"type": "text", "text": "3+4?"}]),
                assistant([{"type": "text", "text": TRACE}]),
            ]
        },
        "What is 3+4?",
        [],
    ),
    "text parts, a paragraph each": (
        {
            "messages": [
                user([{"type": "text", "text": "Let x = 3."}, {"type": "text", "text": "x + 4?"}]),
                assistant(TRACE),
            ]
        },
        "Let x = 3.\nx + 4?",
        [],
    ),
    "a list of roles and one of contents": (
        {"messages": {"role": ["user", "assistant"], "content": ["What is 3+4?", TRACE]}},
        "What is 3+4?",
        [],
    ),
    "stored as JSON": (
        {
            "messages": '[{"role": "user", "content": "What is 3+4?"}, '
            '{"role": "assistant", "content": "It is.\\nFinal Answer: 7"}]'
        },
        "What is 3+4?",
        [],
    ),
    "stored as Python": ({"messages": str([QUESTION, assistant(TRACE)])}, "What is 3+4?", []),
    "stored as numpy prints it": ({"messages": f"[{QUESTION}\n {assistant(TRACE)}]"}, "What is 3+4?", []),
    "a chat template was applied": (
        {
            "text": "<|im_start|>system\nx = 3.<|im_end|>\n<|im_start|>user\nx + 4?<|im_end|>\n"
            f"<|im_start|>assistant\n{TRACE}<|im_end|>\n"
        },
        "x + 4?",
        [turn("system", "x = 3.")],
    ),
    "a problem beside it": (
        {"problem": "What is 3+4?", "messages": [user("Solve: What is 3+4?"), assistant(TRACE)]},
        "What is 3+4?",
        [],
    ),
    "a tool was used before": (
        {"messages": [user("3?"), CALL, turn("tool", "3"), assistant("3"), user("x + 4?"), assistant(TRACE)]},
        "x + 4?",
        [user("3?"), assistant("3")],
    ),
    "thoughts of an earlier turn": (
        {"messages": [user("3?"), assistant("<think>Hm.</think>\n3"), user("x + 4?"), assistant(TRACE)]},
        "x + 4?",
        [user("3?"), assistant("3")],
    ),
    "pairs of a history": (
        {
            "instruction": "x + 4?",
            "input": "",
            "output": TRACE,
            "system": "Be kind.",
            "history": [["Let x = 3. What is x + 1?", "4"]],
        },
        "x + 4?",
        [turn("system", "Be kind."), *FIRST],
    ),
    "an input that is a number, and turns of the system": (
        {
            "instruction": "x + 4?",
            "input": 12,
            "output": TRACE,
            "system": [turn("system", "Be kind.")],
            "system_prompt": "<|im_start|>system\nBe brief.<|im_end|>",
        },
        "x + 4?\n\n12",
        [turn("system", "Be kind."), turn("system", "Be brief.")],
    ),
    "nothing in an input and a system": (
        {"instruction": "x + 4?", "input": [], "output": TRACE, "system": {"role": None, "content": None}},
        "x + 4?",
        [],
    ),
    "a history as it was written": ({"problem": "x + 4?", "trace": TRACE, "history": FIRST}, "x + 4?", FIRST),
}


@pytest.mark.parametrize("name", CHATS)
def test_the_problem_is_what_stands_before_the_answer(name: str) -> None:
    record, problem, history = CHATS[name]
    found = read(record, SFT)
    assert (found["problem"], found.get("history", [])) == (problem, history)
    assert found["trace"].endswith("Final Answer: 7")
    for_rl = read({"answer": "7", **record}, RL)
    assert {k: v for k, v in found.items() if k not in ("trace", "answer")} == {
        k: v for k, v in for_rl.items() if k != "answer"
    }, "the same in SFT and RL"


NO_CHAT = {
    "the answer depends on a tool": (
        [QUESTION, CALL, turn("tool", "7"), assistant(TRACE)],
        "messages has an answer that depends on a tool: turn 3",
    ),
    "ShareGPT's tools": (
        [
            {"from": "human", "value": "3+4?"},
            {"from": "function_call", "value": "{}"},
            {"from": "observation", "value": "7"},
            {"from": "gpt", "value": TRACE},
        ],
        "messages has an answer that depends on a tool: turn 3",
    ),
    "the answer goes on with a tool": (
        [QUESTION, assistant(TRACE), CALL, turn("tool", "7")],
        "messages goes on after its last answer with the use of a tool: turn 3",
    ),
    "two answers": (
        [QUESTION, assistant("Hm."), assistant(TRACE)],
        "messages has a turn of assistant between the question and its answer: turn 2",
    ),
    "a system turn in between": (
        [QUESTION, turn("system", "Be brief."), assistant(TRACE)],
        "messages has a turn of system between the question and its answer: turn 2",
    ),
    "no question": (
        [turn("system", "x = 3."), assistant(TRACE)],
        "messages has no turn of user or human before the answer",
    ),
    "an image": (
        [user([{"type": "text", "text": "3+4?"}, {"type": "image_url", "image_url": {}}]), assistant(TRACE)],
        "messages has a part of type 'image_url', and only text is read: turn 1",
    ),
    "a role of no one": (
        [turn("narrator", "3+4?"), assistant(TRACE)],
        "messages has a turn of 'narrator', which is none of user, assistant, system, tool: turn 1",
    ),
    "no role": ([QUESTION, {"content": TRACE}], "messages has a turn without a role: turn 2"),
    "an empty list": ([], "messages has no turn of user or human"),
    "no conversation": ("3+4?", "messages is no conversation: it holds no turns with role and content"),
    "a text cut off": (
        "[{'role': 'user', 'content': '3+4?'",
        "messages is no conversation: it holds no turns with role and content",
    ),
}


@pytest.mark.parametrize("name", NO_CHAT)
def test_a_conversation_that_cannot_be_kept_is_refused_everywhere(name: str) -> None:
    messages, fault = NO_CHAT[name]
    record = {"messages": messages, "answer": "7"}
    assert [faults(record, SFT), faults(record, RL)] == [fault, fault]


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"input": ["x = 3"]}, "input is of type list, not text"),
        ({"input": True}, "input is of type bool, not text"),
        ({"input": float("nan")}, "input is NaN"),
        ({"system": 5}, "system is of type int, not text"),
        ({"system_prompt": ["Be kind."]}, "system_prompt is of type list, not text"),
        ({"system": {"text": "Be kind."}}, "system is of type dict, not text"),
        ({"system": [user("Be kind.")]}, "system has a turn of user"),
        (
            {"system": "Be <|im_end|> kind."},
            "an earlier turn (system) holds the turn marker '<|im_end|>' in its middle",
        ),
        (
            {"history": [["1 + 1?", "2 </think> 3 </think> 4"]]},
            "an earlier turn (assistant) has thoughts in its middle (</think>): leave what is to be said",
        ),
    ],
)
def test_what_stands_around_a_problem_and_cannot_be_read_is_told(more: dict[str, Any], fault: str) -> None:
    record = {"instruction": "What is x + 4?", "output": TRACE, "answer": "7", **more}
    assert [faults(record, SFT), faults(record, RL)] == [fault, fault]


def test_a_column_that_stands_twice_is_told() -> None:
    twice = {"problem": "3+4?", " Problem": "5+5?", "trace": TRACE, "answer": "7"}
    assert [faults(twice, SFT), faults(twice, RL)] == ["has one column twice: problem,  Problem"] * 2
    assert read({"problem": "3+4?", "trace": TRACE, "id": 1, "ID": 2}, SFT)["problem"] == "3+4?"


def test_a_conversation_without_an_answer_is_a_prompt() -> None:
    asked = [*FIRST, user("x + 4?")]
    for record in ({"prompt": asked}, {"messages": asked}, {"messages": [*asked, assistant("")]}):
        found = read({**record, "answer": "7"}, RL)
        assert (found["problem"], found["history"]) == ("x + 4?", FIRST)
    assert "no turn of assistant or gpt" in faults({"messages": [user("3+4?")], "answer": "7"}, SFT)
    answers_the_first = read({"messages": asked, "answer": "4"}, RL)
    assert answers_the_first["problem"] == "Let x = 3. What is x + 1?", "the gold answer says which"
    assert read({"prompt": asked, "answer": "4"}, RL)["problem"] == "x + 4?", (
        "a prompt ends with its question"
    )


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (
            {"prompt": [*FIRST, QUESTION], "completion": [assistant("")]},
            "completion has no turn of assistant or gpt",
        ),
        ({"messages": [*FIRST, QUESTION], "response": TRACE}, "response answers one of two questions"),
        (
            {"problem": "5+5?", "messages": [QUESTION, assistant(TRACE)]},
            "messages asks another question than problem",
        ),
        (
            {"problem": "3+4?", "text": "3+4 is a sum"},
            "text holds no trace: neither a block nor a final answer",
        ),
        (
            {"problem": "3+4?", "trace": TRACE, "history": "as before"},
            "history is of type str, not a list of turns",
        ),
    ],
)
def test_a_trace_of_another_question_is_refused(record: dict[str, Any], fault: str) -> None:
    assert faults(record, SFT).startswith(fault)


@pytest.mark.parametrize(
    ("record", "need", "note"),
    [
        (
            {"messages": [QUESTION, assistant(TRACE), user("Thanks!")]},
            SFT,
            "conversations go on after their last answer (user): that is left out",
        ),
        (
            {"messages": [user("3?"), CALL, turn("tool", "3"), assistant("3"), QUESTION, assistant(TRACE)]},
            SFT,
            "conversations use a tool for an earlier answer: these turns are left out",
        ),
        (
            {"messages": str([QUESTION, assistant(TRACE)])},
            SFT,
            "conversations are stored as text and were decoded",
        ),
        (
            {"messages": [QUESTION, assistant(TRACE, reasoning_content="Hm.")]},
            SFT,
            "turns have thoughts beside what they say, which are left out",
        ),
        (
            {"prompt": [QUESTION, assistant("Let me see.")], "answer": "7"},
            RL,
            "prompts end with a turn of the assistant, which is left out",
        ),
        (
            {"messages": [*FIRST, user("x + 4?")], "answer": "7"},
            RL,
            "conversations end with a question, which the answer is taken for: the one before says other",
        ),
        (
            {"problem": "3+4?", "text": TRACE},
            RL,
            "answers are those that the column 'text' itself commits to",
        ),
    ],
)
def test_what_is_left_out_or_chosen_is_told(record: dict[str, Any], need: tuple[str, ...], note: str) -> None:
    assert to_row(record, need, "set").notes == [note]


# --- markers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ENDS)
def test_a_trace_that_ends_with_a_marker_is_the_plain_trace(end: str) -> None:
    for written_trace in (f"{TRACE}{end}", f"{TRACE} {end}\n", f"{TRACE}{end}{end}"):
        found = to_row({"problem": "3+4?", "trace": written_trace, "answer": f"7{end}"}, SFT, "set")
        assert (found.row["trace"], found.row["answer"]) == (TRACE, "7")
        assert found.notes == [f"traces have {end} at their ends, which is taken off"]
    gold = to_row({"problem": f"3+4?{end}", "answer": f"7{end}"}, RL, "set")
    assert (gold.row["problem"], gold.row["answer"]) == ("3+4?", "7")
    assert gold.notes == [
        f"problems have {end} at their ends, which is taken off",
        "answers end with a turn marker, which is taken off",
    ]
    assert f"trace holds the turn marker {end!r} in its middle" in faults(
        {"problem": "3+4?", "trace": f"{TRACE}{end}\nand more"}, SFT
    )


@pytest.mark.parametrize(
    "prompt",
    [
        "<|im_start|>user\n3+4?<|im_end|>\n<|im_start|>assistant\n",
        "<s>[INST] 3+4? [/INST]",
        "<bos><start_of_turn>user\n3+4?<end_of_turn>\n<start_of_turn>model\n",
        "<｜begin▁of▁sentence｜><｜User｜>3+4?<｜Assistant｜><think>\n",
    ],
)
def test_a_prompt_that_a_template_was_applied_to_is_its_problem(prompt: str) -> None:
    assert read({"problem": prompt, "answer": "7"}, RL)["problem"] == "3+4?"
    found = to_row({"problem": prompt, "trace": f"{TRACE}</s>"}, SFT, "set")
    assert (found.row["problem"], found.row["trace"]) == ("3+4?", TRACE)
    assert found.notes[0] == "texts are framed by turn markers and were read as conversations"


@pytest.mark.parametrize(
    "trace",
    [
        f"<think>\nhm\n</think>\n\n{TRACE}",
        f"hm\n</think>\n\n{TRACE}<|im_end|>",
        f"{TRACE}\n</think>",
        f"<|im_start|>assistant\n<think>\n\n</think>\n\n{TRACE}<|im_end|>",
        f"<start_of_turn>model\n{TRACE}<end_of_turn>",
        f"<|im_start|>user\n3+4?<|im_end|>\n<|im_start|>assistant\n{TRACE}<|im_end|>",
        f"{TRACE}<|im_end|>\n<|im_start|>user\n",
        f"\u200b{TRACE}\ufeff\n",
    ],
)
def test_what_stands_around_a_trace_is_taken_off(trace: str) -> None:
    found = to_row({"problem": "3+4?", "trace": trace}, SFT, "set")
    assert found.row["trace"] == TRACE
    assert found.notes or "\u200b" in trace


@pytest.mark.parametrize(
    ("trace", "fault"),
    [
        (f"{TRACE}<|im_end|>\n<|im_start|>user\nThanks!<|im_end|>", "trace has text before the turn marker"),
        (f"<think>{TRACE}</think>\nFinal Answer: 7", "trace has its blocks before </think>"),
        (f"<think>{TRACE}", "trace opens <think> and does not close it"),
        ("a <think>b</think> c", "trace has thoughts in its middle"),
        (f"{TRACE}<|fim_middle|> b", "trace holds the turn marker '<|fim_middle|>' in its middle"),
        ("<|im_end|>", "trace is empty"),
        ("<|im_start|>assistant\n<|im_end|>", "trace holds turn markers and nothing else"),
    ],
)
def test_a_trace_whose_end_would_be_a_guess_is_refused(trace: str, fault: str) -> None:
    assert faults({"problem": "3+4?", "trace": trace}, SFT).startswith(fault)


@pytest.mark.parametrize("text", ["0<|x|<1", "|z|<|w|", "a<s>b</s>c", "if a[i] < b[j]", "<html>3</html>"])
def test_other_text_is_left_as_it_is(text: str) -> None:
    found = to_row({"problem": text, "trace": text, "answer": "7"}, SFT, "set")
    assert (found.row["problem"], found.row["trace"], found.notes) == (text, text, [])


# --- golds --------------------------------------------------------------------------------------------------

GOLDS = [
    # cell, answer, whether that is told
    (1e22, "10000000000000000000000", False),
    (1e-07, "0.0000001", False),
    (0.30000000000000004, "0.30000000000000004", False),
    (-0.0, "0", False),
    (100000.0, "100000", False),
    (1.2345678901234568e16, "12345678901234568", False),
    (12345678901234567890, "12345678901234567890", False),
    (Decimal("1.10"), "1.1", False),
    (1e300, "1e+300", False),
    ([7], "7", False),
    (["7"], "7", False),
    ([["7"]], "7", False),
    ("['7']", "7", True),
    ('["7"]', "7", True),
    ("[7]", "7", True),
    ("{'ground_truth': '7'}", "7", True),
    ('{"ground_truth": "7", "style": "rule"}', "7", True),
    ('{"ground_truth": "[\\"7\\"]"}', "7", True),
    ({"ground_truth": 7.0}, "7", False),
    (r'["\frac{1}{2}"]', r"\frac{1}{2}", True),
    (r"['\\frac{1}{2}']", r"\frac{1}{2}", True),
    (r"\\frac{1}{2}", r"\frac{1}{2}", True),
    ("\frac{1}{2}", r"\frac{1}{2}", True),
    (r"\\boxed{\\sqrt{2}}", r"\sqrt{2}", True),
    ("#### 7</s>", "7", True),
    ("<think>\n3 + 4\n</think>\n\n7", "7", True),
    ("7\u200b", "7", False),
    ("\ufeff7", "7", False),
    ("７", "7", False),
    ("（Ａ）", "(A)", False),
    ("7\u00a0", "7", False),
    ("$7$", "$7$", False),
    # what mathematics writes with the same signs
    ("[1, 2]", "[1, 2]", False),
    ("(1, 2]", "(1, 2]", False),
    ("{1, 2}", "{1, 2}", False),
    ("[[1, 2], [3, 4]]", "[[1, 2], [3, 4]]", False),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", False),
    (r"\{1, 2\}", r"\{1, 2\}", False),
]


@pytest.mark.parametrize(("cell", "answer", "is_told"), GOLDS, ids=[repr(row[0])[:40] for row in GOLDS])
def test_golds(cell: object, answer: str, is_told: bool) -> None:
    found = to_row({"problem": "?", "answer": cell}, RL, "set")
    assert (found.row.get("answer"), found.wrong, bool(found.notes)) == (answer, [], is_told)


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        (["3", "-3"], "answer is of type list, not text: it has 2 values; write one text with all that"),
        ("['3', '-3']", "answer is of type list, not text: it has 2 values"),
        ("['3' '-3']", "answer is of type list, not text: it has 2 values"),
        (
            {"numbers": [1, 2], "target": 3},
            "answer is missing: of its keys numbers, target, none is ground_truth",
        ),
        (float("inf"), "answer is infinite"),
        ("[1e99999999999999999999999]", "answer is infinite"),
        (float("nan"), "answer is NaN"),
        (True, "answer is of type bool, not text"),
        ("<|im_end|>", "answer is empty"),
        ("\u200b", "answer is empty"),
    ],
)
def test_golds_that_say_no_one_thing(cell: object, fault: str) -> None:
    assert faults({"problem": "?", "answer": cell}, RL).startswith(fault)


def test_double_escaped_latex_is_read_in_traces_too() -> None:
    found = to_row({"problem": "?", "trace": r"It is \\boxed{\\frac{1}{2}}."}, SFT, "set")
    assert found.row["trace"] == r"It is \boxed{\frac{1}{2}}."
    assert found.notes == ["traces hold LaTeX that is escaped twice, which is read as escaped once"]
    assert once_escaped(r"\begin{array} a \\text \end{array}") is None, "a line end before a word"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 300_000 + "]" * 300_000,
        "[" + "-" * 300_000 + "1]",
        "[" + "'\\" * 300_000 + "]",
        "{" + "(" * 300 + ")" * 300 + "}",
        "[" + "1+" * 50_000 + "1]",
        "[__import__('os').system('true')]",
        r"['\s']",
        "[1, 2",
        "x",
    ],
    ids=lambda text: text[:12],
)
def test_text_that_is_no_list_is_never_evaluated(text: str) -> None:
    assert decoded(text) is None


def test_numbers_of_any_size_are_written_at_once() -> None:
    assert written(Decimal("1e999999999")) == "1e+999999999"
    assert written(Decimal("0.1234567890123456789")) == "0.1234567890123456789"


PIECES = [
    *("<|im_start|>", "user", "assistant", "\n", "<|im_end|>", "</s>", "<s>", "[INST]", "[/INST]", "<think>"),
    *("</think>", "7", "Final Answer: 7", "<Parallel>", "<end_of_turn>", "\\\\frac{1}{2}", "\frac", "#### 7"),
    *(
        "['7']",
        "{'a': 1}",
        " ",
        "\u200b",
        "<｜User｜>",
        "[{'role': 'user', 'content': 'x'}]",
        "\ud800",
        "\\boxed{7}",
    ),
]
NAMES = [*{column for names in COLUMNS.values() for column in names}, "history", "system"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
CELLS = st.recursive(
    TEXTS | st.sampled_from([None, True, 1, 2.5, float("nan"), float("inf"), -0.0]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "from", "content", "value", "text", "type"]), inner, max_size=3
        )
        | st.lists(
            st.fixed_dictionaries(
                {
                    "role": st.sampled_from(["user", "assistant", "system", "tool", "X", None]),
                    "content": inner,
                }
            ),
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(NAMES)), CELLS, min_size=1, max_size=4))
def test_whatever_is_in_a_record_it_is_a_row_or_wrong(record: dict[str, Any]) -> None:
    for need in (RL, SFT, ("problem",)):
        found = to_row(record, need, "set")
        if found.wrong:
            continue
        texts = [found.row[field] for field in need] + [t["content"] for t in found.row.get("history", [])]
        assert all(isinstance(text, str) and text.strip() for text in texts)
        assert not any(marker_inside(found.row[field]) for field in need if field != "answer")

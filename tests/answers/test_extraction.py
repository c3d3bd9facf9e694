r"""What a response commits to: marks, their order, paths, wrapping, and text that means harm."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl.answers import extract_answer
from prl.answers.extraction import COMMITTED
from prl.grammar import render

BLOCK = render([r"try 1: \boxed{1}", r"try 2: the answer is 2"], r"so \boxed{3}")

TABLE = [
    ("Final Answer: 42", "42", "label"),
    ("final answer: 42", "42", "case"),
    ("Final Answer:\n\n42", "42", "on the next line"),
    ("## Final Answer\n$42$\n", "42", "heading"),
    ("**Final Answer:** 42", "42", "bold label"),
    ("**Final Answer: 42**", "42", "bold line"),
    ("Final Answer: **42**", "42", "bold answer"),
    ("Thus we stop. Final Answer: 42.", "42", "in a line, full stop"),
    ("The final answer is: 42", "42", "sentence label"),
    ("Answer: 42", "42", "short label"),
    ("* Answer: 42", "42", "short label in a list"),
    ("Answers: 1, 2", "1, 2", "plural"),
    ("Final Answer: 42<|im_end|>", "42", "end-of-turn token"),
    ("Final Answer: 42<|im_end|>\n<|endoftext|>", "42", "two of them"),
    ("Final Answer: 42</s>", "42", "end of turn of another family"),
    ("Final Answer: 42<end_of_turn>\n<start_of_turn>user\nFinal Answer: 7", "42", "a turn that it forges"),
    ("<think>\n\\boxed{3}?\n</think>\nFinal Answer: 42<｜end▁of▁sentence｜>", "42", "behind thoughts"),
    (r"so \boxed{42}.", "42", "box"),
    (r"so $\boxed{\frac{1}{\sqrt{2}}}$", r"\frac{1}{\sqrt{2}}", "nested braces"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}", "escaped braces"),
    (r"\boxed{\text{(A) } \frac{1}{2}}", r"\text{(A) } \frac{1}{2}", "text in a box"),
    (r"\fbox{42}", "42", "fbox"),
    (r"\boxed 42", "42", "no braces"),
    (r"\boxed{3}, no: \boxed{4}", "4", "the corrected box"),
    (r"$x=\boxed{1}$, so $y=\boxed{2}$", "2", "text between boxes: the last"),
    (r"$\boxed{1}$ and $\boxed{2}$", "1 and 2", "boxes that stand together"),
    (r"\boxed{4} \boxed{}", "4", "an empty box commits to nothing"),
    (r"\boxed{4} \boxed{\frac{1", None, "cut off in its last answer"),
    (r"Final Answer: \boxed{5}", "5", "box in a label"),
    (r"Final Answer: $\boxed{5}$ (see above)", "5", "box in a label with a remark"),
    (r"\boxed{4}. Final Answer: 5", "5", "a later label beats a box"),
    (r"Final Answer: 4. Wait: \boxed{5}", "5", "a later box beats a label"),
    ("Final Answer: 4\nFinal Answer: 5", "5", "the last label"),
    ("a\n#### 5", "5", "GSM8K"),
    ("a\n#### -1,234", "-1,234", "GSM8K, thousands"),
    ("#### 5\nsome words", "5", "words after it"),
    ("##### not an answer\n#### 5", "5", "a heading of five is no mark"),
    ("The answer is 5.", "5", "sentence"),
    ("The answer is 3.14.", "3.14", "a decimal point is no full stop"),
    ("the answer is $5.50.", "$5.50", "currency"),
    ("The answer is 5, because 2+3=5.", "5", "reason"),
    ("The answer is 5 (since 2+3=5).", "5", "reason in brackets"),
    ("The answer is (B).", "(B)", "choice"),
    ("The correct option is B.", "B", "option"),
    ("The answer to the question is 5.", "5", "words between"),
    ("The answer is therefore 5", "5", "filler"),
    (r"The answer is \(\dfrac{3}{4}\).", r"\dfrac{3}{4}", "inline math"),
    (r"The answer is \[ x = 5 \]", "x = 5", "display math"),
    ("The answer is not 5.", None, "negated"),
    ("The answer isn't 5.", None, "negated"),
    ("The answer is 4. No, the answer is 5.", "5", "the last sentence"),
    (r"\boxed{5} The answer is correct.", "5", "a remark"),
    (r"\boxed{4} Hence the answer is 5.", "5", "a later quantity"),
    ("answer is Friday", "Friday", "a word, when nothing else commits"),
    ("The answer is blue.", "blue", "a plain-word answer"),
    ("The answer is even.", "even", "an adjective can be an answer"),
    ("The answer is 5. Thus the answer is correct.", "5", "a remark after a sentence"),
    ("The answer is correct.", None, "a remark alone"),
    ("The answer is blue. The answer is reasonable.", "blue", "a remark after a word"),
    (r"\boxed{36}. Since our answer is a multiple of 576, we are done.", "36", "prose with a number"),
    (r"So \boxed{4}. In lowest terms, the answer is 2.", "2", "a quantity after a box"),
    (r"\boxed{165}, and this answer equals $\binom{11}{3}.$ Nice?", r"\binom{11}{3}", "stop inside math"),
    (r"so our answer is then \[ 100-36=64, \]as before.", "100-36=64", "a display ends itself"),
    ("Final Answer:\n\\[\n42\n\\]\nDone.", "42", "a display over several lines"),
    ("The answer is\n$$\n42\n$$", "42", "a display behind a sentence"),
    ("the answer is $\\boxed{}$", None, "an empty box"),
    ("Final Answer: The number of ways is 24.", "24", "a statement behind a label"),
    ("Final Answer: There are 24 ways.", "24 ways", "a statement that begins with the number"),
    ("Final Answer: There are 10 cows, so 40 legs.", "40 legs", "a conclusion behind a statement"),
    ("Final Answer: There are 24 ways, which is less than 30.", "24 ways", "a remark behind a statement"),
    ("Final Answer: There are 24 ways. We found 12 first.", "24 ways", "a remark in a sentence of its own"),
    ("Final Answer: The side is 5. So the area is 25.", "25", "a conclusion in a sentence of its own"),
    ("Final Answer: If each is 5, the number is 20/5 = 4.", "20/5 = 4", "a condition in front"),
    ("Final Answer: It is not true that it is 24.", "It is not true that it is 24", "a negated statement"),
    ("<answer>42</answer>", "42", "tag"),
    ("<answer>\nSo \\boxed{42}\n</answer>", "42", "box in a tag"),
    ("<answer>42", "42", "tag never closed"),
    ("Final Answer: 1 <answer>2</answer>", "2", "a tag after a label"),
    ("The answer is 4:30 p.m.", "4:30 p.m.", "time"),
    ("I think 42.", "42", "what the last sentence states"),
    ("", None, "empty"),
    ("Final Answer:", None, "nothing behind the label"),
    ("Final Answer: ...", None, "no letter or digit"),
    (r"\boxed", None, "a bare command"),
    (BLOCK + "\nFinal Answer: 4", "4", "after a block"),
    ("Final Answer: 4\n" + BLOCK, "3", "the summary is main thread and comes later"),
    (BLOCK, "3", "the summary commits"),
    (render([r"\boxed{1}", r"\boxed{2}"], "no idea"), "2", "only paths commit: the last of them"),
    (r"<Path>\boxed{1}</Path> Final Answer: 2", "2", "a stray path"),
    (r"Final Answer: 2 <Path>\boxed{1}</Path>", "2", "a stray path after the answer"),
    (r"Final Answer: 2 <Path>\boxed{1}", "2", "a path that never closes"),
    (r"<Parallel><Path>\boxed{1}", "1", "cut off inside a block"),
]


# Rows of each place: where an answer stands, and what only looks like it.
PLACES = {
    "box": [
        (r"so $x = \boxed{1}$ and $x = \boxed{-6}$.", "1 and -6"),
        (r"\[\boxed{2},\quad \boxed{7}\]", "2 and 7"),
        (r"$\boxed{5}$ or $\boxed{-5}$", "5 or -5"),
        (r"$\boxed{5}$, that is $\boxed{5}$", "5"),
        (r"\boxed{5}, and \boxed{5}", "5"),
        (r"\boxed{\text{The answer is } 5}", r"\text{The answer is } 5"),
        (r"\boxed{12}, no, 13.", None),
        (r"\boxed{12}, no, \boxed{13}", "13"),
        (r"\boxed{12} or rather 13", None),
        (r"First \boxed{5}. Hence \boxed{1", None),
    ],
    "label": [
        ('```json\n{\n  "answer": "64"\n}\n```', "64"),
        ("my answer: none yet", None),
        ("Final Answer: 18\n\nProblem: What is 2+2?\nFinal Answer: 4", "18"),
    ],
    "label in a line": [
        ("Only 97 has no small divisor. Answer: C", "C"),
        ("I looked for an answer: in vain", None),
    ],
    "label in another language": [
        ("最终答案：42", "42"),
        ("**Réponse finale : 42**", "42"),
        ("Ответ: 6 км/ч.", "6 км/ч"),
        ("Die Antwort: sie fehlt noch", None),
    ],
    "hashes": [("#### 5", "5"), ("# 5", None)],
    "tag": [("<answer>5</answer>", "5"), ("<answer></answer>", None)],
    "sentence": [
        ("The answer is 10.\nWait, 4 + 7 = 11, so it can't be 10...", None),
        ("The answer is not 4 but 6.", None),
        ("The answer is 12, no wait, let me check.", None),
        ("The answer is 12. No, wait, I forgot 1.", None),
        ("The answer is 12. There is no wait.", "12"),
        ("The answer is 5.", "5"),
        ("The answer is 5. There is no error in this.", "5"),
        ("Take 5 apples.\n\nProblem: how many?\n\nThe answer is 7.", "7"),
    ],
    "sentence in another language": [
        ("La réponse finale est donc 42.", "42"),
        ("所以答案是 42。", "42"),
        ("La respuesta está abajo", None),
    ],
}


LABELS = (
    *(
        "Réponse",
        "Respuesta final",
        "Resposta",
        "Risposta finale",
        "Antwort",
        "Ergebnis",
        "Antwoord",
        "Odpowiedź",
    ),
    *("Ответ", "Відповідь", "Cevap", "Jawaban", "Đáp án", "最终答案", "答え", "정답", "उत्तर", "الجواب"),
)


@pytest.mark.parametrize("label", LABELS)
def test_a_label_of_each_language(label):
    assert extract_answer(f"So 3 + 4 = 7.\n{label}: 42", strict=True) == "42"


def test_each_place_has_rows_of_both_kinds():
    assert list(PLACES) == [place.name for place in COMMITTED]
    assert all({answer is None for _, answer in rows} == {True, False} for rows in PLACES.values())


@pytest.mark.parametrize(("text", "answer"), [row for rows in PLACES.values() for row in rows])
def test_places(text, answer):
    assert extract_answer(text, strict=True) == answer


@pytest.mark.parametrize(
    "text", ["So she has 7 apples left.", "7", r"so $y > 7$.", "<think>\\boxed{7}</think> Well, 7."]
)
def test_what_is_not_committed_to_is_read_unless_strictly(text):
    assert extract_answer(text, strict=True) is None
    assert extract_answer(text + "\nSo 7.") is not None


@pytest.mark.parametrize(
    "text", ["<think> Let me see: \\boxed{5}?", "<think>the answer is 5</think>\n\nI do not know."]
)
def test_thoughts_are_not_said(text):
    assert extract_answer(text) is None


@pytest.mark.parametrize("mark", ["The answer is ", "Final Answer: ", "#### ", "<answer>"])
@pytest.mark.parametrize(
    "words",
    [
        "{}, no wait, {}.",
        "{}, no, {}.",
        "{}... or rather {}.",
        "{} or rather {}.",
        "{} - wait, no, {}.",
        "{}, no wait, that should be {}.",
        "{}? No, {}.",
        "{}, I mean {}.",
        "{} (sorry, {})",
        "{}; make that {}.",
    ],
)
@pytest.mark.parametrize(("one", "other"), [("12", "13"), ("2", "12"), ("12", "2"), ("$12$", "$13$")])
def test_an_answer_that_is_corrected_at_once(mark, words, one, other):
    assert extract_answer(mark + words.format(one, other), strict=True).strip("$).") == other.strip("$")


@pytest.mark.parametrize(
    "text",
    ["12, no more than 13", "12 rather than 13", "12, wait 5 minutes", "12, not 13", "no, 12 of 13 fit"],
)
def test_what_is_no_correction(text):
    assert extract_answer(f"Final Answer: {text}", strict=True) == text


@pytest.mark.parametrize(("text", "answer", "why"), TABLE, ids=[row[2] for row in TABLE])
def test_extraction(text, answer, why):
    assert extract_answer(text) == answer, why


def test_paths_can_be_left_out():
    text = render([r"\boxed{1}", r"\boxed{2}"], "no idea")
    assert extract_answer(text, paths=False) is None
    assert extract_answer(text + " Final Answer: 3", paths=False) == "3"


@pytest.mark.parametrize("text", [None, 5, b"Final Answer: 5", ["\\boxed{5}"]])
def test_what_is_no_text_commits_to_nothing(text):
    assert extract_answer(text) is None


PIECES = [
    *r"\boxed{}$.#: 5",
    "Final Answer:",
    "\\boxed{",
    "####",
    "<Path>",
    "</Path>",
    "the answer is ",
    "\n",
]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_any_text_gives_a_text_or_none(text):
    answer = extract_answer(text)
    assert answer is None or (answer == answer.strip() and answer)


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{" * 50_000,
        r"\boxed{1}" * 50_000,
        "#### " * 100_000,
        "Final Answer: " * 60_000,
        "the answer is " * 60_000,
        "the answer to " * 60_000,
        "<Path>" * 100_000,
        "<answer>" * 60_000,
        "<answer></answer>" * 60_000,
        "Final Answer: The " + "is " * 300_000,
        "the answer is $" * 60_000,
        "\nProblem: a " * 90_000,
        "the answer is 5 " + "wrong " * 150_000,
        "the answer is 5" + ", no" * 200_000,
        r"the answer is \[" * 60_000,
        "{" * 500_000 + r"\boxed{5}",
        "*" * 1_000_000,
        "answer" * 150_000,
        "\n" * 1_000_000,
        " " * 1_000_000 + ".",
    ],
    ids=lambda text: repr(text[:14]),
)
def test_a_megabyte_takes_linear_time(text):
    start = time.process_time()
    extract_answer(text)
    assert time.process_time() - start < 5

r"""Properties that no table can show: nothing raises, an answer is itself, poison does not spread."""

# ruff: noqa: SIM905 (pieces of LaTeX read better as words)

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
import weakref

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prl.answers import REASONS, AnswerChecker, Verdict, explain, is_equal
from prl.answers.comparing import NeedsAlgebra
from prl.answers.judging import judge
from prl.answers.limits import Refused, Unreadable
from prl.answers.reading import read

PIECES = [
    *"0123456789xyabei+-*/^_=<>()[]{}|!,.;:&%$ '°±√²½∞①٣",
    *(r"\frac \sqrt \text{ \begin{pmatrix} \end{pmatrix} \\ \left \right \cup \in \pm \le \infty \pi").split(
        " "
    ),
    *(r"\sin \log \{ \} \% \$ \circ \overline \over \choose \binom \cdot and or base million cm").split(" "),
    "\0",
    "1,234",
    "x = ",
    r"\frac{1}{2}",
]
ANSWERS = st.lists(st.sampled_from(PIECES), max_size=16).map("".join)


@given(ANSWERS)
@example("9^9^9^9")
@example("(" * 30 + "1" + ")" * 30)
@example("36①/47")
@example("solution = 3")
def test_reading_any_text_gives_an_answer_or_says_why_not(text):
    try:
        outcome = read(text).kind
    except (Unreadable, Refused) as error:
        outcome = str(error)
    assert outcome


@given(ANSWERS, ANSWERS)
def test_judging_any_pair_gives_a_known_reason(pred, gold):
    try:
        verdict = judge(pred, gold)
    except NeedsAlgebra:
        return
    assert verdict.reason in REASONS
    assert verdict.equal == (verdict.reason in ("identical", "equal"))


@given(ANSWERS)
def test_an_answer_is_itself(text):
    assert judge(text, text).equal


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=200), st.text(max_size=50))
def test_is_equal_never_raises(pred, gold):
    assert is_equal(pred, gold) in (True, False)


@given(st.fractions(max_denominator=10**6))
def test_fractions_in_every_notation(value):
    p, q = value.numerator, value.denominator
    sign = "-" if p < 0 else ""
    notations = [f"{p}/{q}", f"\\frac{{{p}}}{{{q}}}", f"{sign}\\dfrac{{{abs(p)}}}{{{q}}}", f"$x = {p}/{q}$"]
    whole, rest = divmod(abs(p), q)
    if whole and rest:
        notations += [f"{sign}{whole}\\frac{{{rest}}}{{{q}}}", f"{sign}{whole} {rest}/{q}"]
    for notation in notations:
        assert judge(notation, notations[0]).equal, notation
        assert not judge(notation, f"{p + 1}/{q}").equal, notation


@pytest.mark.parametrize(
    ("pred", "gold", "reason"),
    [
        ("7", "7", "identical"),
        ("x = 7", "7", "equal"),
        ("7", "8", "different"),
        (None, "7", "no answer"),
        ("", "7", "no answer"),
        ("the answer is not 7", "7", "no answer"),
        (r"\frac{1", "7", "unparseable"),
        ("7", r"\frac{1", "unparseable gold"),
        ("7", "", "unparseable gold"),
        (None, r"\frac{1", "unparseable gold"),
        ("the answer is not 7", r"\frac{1", "unparseable gold"),
        (r"\frac{2", r"\frac{1", "unparseable gold"),
        (r"\frac{1", r"\frac{1", "identical"),
        (r"\frac{1 +  2", r"\frac{1 + 2", "identical"),  # but for spaces
        ("9^9^9^9", "7", "too large"),
        ("100000!", "7", "too large"),
        ("7" * 2000, "7", "too large"),
    ],
)
def test_reasons(pred, gold, reason):
    with AnswerChecker() as checker:
        assert checker.check(pred, gold).reason == reason
        assert checker._pool._idle == [], "decided without a worker"


@pytest.mark.parametrize("pred", [5, 5.0, b"5", ["5"], {"a": 1}])
def test_what_is_no_text_is_no_answer(pred):
    assert not is_equal(pred, "5")


def test_a_differential_does_not_poison_later_pairs():
    with AnswerChecker(workers=1, cache=0) as checker:
        for poison in (
            r"3\,dx",
            r"\frac{d}{dx}x",
            r"\int_0^1 x\,dx",
            "x = 5",
            r"a \in \mathbb{R}^{2\times 2}",
            "i = 3",
        ):
            checker.check(poison, "3dx+x")
            assert checker.check("x+1", "1+x").equal
            assert checker.check("(1+i)^2", "2i").equal


def test_the_answer_is_remembered_but_a_timeout_is_not():
    checker = AnswerChecker(workers=1, cache=2)
    judged = []
    checker._pool.judge = lambda pred, gold: judged.append(pred) or Verdict(True, "equal")
    checker.check("x+1", "1+x")
    checker.check("x+1", "1+x")
    assert judged == ["x+1"]
    checker.check("x+2", "2+x")
    checker.check("x+3", "3+x")
    checker.check("x+1", "1+x")
    assert judged == ["x+1", "x+2", "x+3", "x+1"], "the least recently used pair went"
    checker._pool.judge = lambda pred, gold: judged.append(pred) or Verdict(False, "timed out")
    checker.check("x+4", "4+x")
    checker.check("x+4", "4+x")
    assert judged[-2:] == ["x+4", "x+4"]


def test_explanations_show_every_step():
    text = str(explain("Final Answer: $x = 1/2$", r"\frac12"))
    for step in ("prediction", "extracted", "normalised", "parsed as", "compared by", "verdict", "equal"):
        assert step in text
    assert "relation" in text
    assert explain("x + 1", "1 + x").verdict.equal
    assert "worker" in str(explain("x + 1", "1 + x"))


def test_importing_is_light():
    """Python's own modules alone, also once numbers were compared: what is not loaded takes no time."""
    code = (
        "import sys; before = set(sys.modules); import prl.answers;"
        "assert prl.answers.is_equal('7', '7.0') and prl.answers.is_equal('1/2', '0.5');"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(*sorted(loaded - sys.stdlib_module_names))"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout.split() == [b"prl"]


def test_antlr4_is_imported_where_typing_has_no_io():
    """As from Python 3.13 on; earlier ones have the module."""
    code = (
        "import sys, typing; sys.modules.pop('typing.io', None);"
        "from prl.answers import algebra, judging; print(judging.judge('x^2 + x', 'x(x + 1)', algebra).equal)"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_plain_numbers_are_fast():
    with AnswerChecker() as checker:
        start = time.process_time()
        for n in range(20_000):
            checker.check(str(n), "12345")
        assert 20_000 / (time.process_time() - start) > 20_000  # measured: over 100,000 on an idle core


def test_the_package_documents_every_reason():
    assert all(meaning and meaning[0].islower() for meaning in REASONS.values())


@pytest.mark.parametrize(
    "text", [r"\frac{", "1 apple and 2 pears", "9" * 300, r"\begin{pmatrix} 1 & 2 \\ 3", "2^{2^{99}}"]
)
def test_an_answer_that_cannot_be_read_keeps_nothing_alive(text: str) -> None:
    """An error that is kept holds the frames of the stack, and with them a training step's tensors."""

    class Held:
        pass

    def step() -> weakref.ref[Held]:
        held = Held()  # like a loss, in a frame of the stack
        for _ in range(2):
            assert not is_equal(text, "7")
            assert not is_equal("7", text)
        return weakref.ref(held)

    gc.collect()
    gc.disable()
    try:
        held = step()
        gc.collect()
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "end", ["<|im_end|>", "</s>", "<end_of_turn>", "<eos>", "<|eot_id|>", "<｜end▁of▁sentence｜>"]
)
def test_the_end_of_a_turn_ends_an_answer(end):
    for said in (f"7{end}", f"Final Answer: 7{end}", f"7 {end}\n9", f"\\boxed{{7}}{end}\\boxed{{9}}"):
        assert is_equal(said, "7"), said
        assert is_equal("7", said), said


# Values in the notations that a drawn triple may take: sameness is the value's, whatever the notation.
NOTATIONS = (
    lambda top, bottom: f"\\frac{{{top}}}{{{bottom}}}",
    lambda top, bottom: f"{top}/{bottom}",
    lambda top, bottom: f"x = \\frac{{{2 * top}}}{{{2 * bottom}}}",
    lambda top, bottom: f"${top} \\div {bottom}$",
    lambda top, bottom: f"-\\dfrac{{{-top}}}{{{bottom}}}",
    lambda top, bottom: f"\\sqrt{{\\frac{{{top**2}}}{{{bottom**2}}}}}" if top >= 0 else f"{top}/{bottom}",
)
WRITTEN = st.tuples(st.integers(-4, 4), st.integers(1, 4), st.sampled_from(NOTATIONS)).map(
    lambda drawn: drawn[2](drawn[0], drawn[1])
)


@given(WRITTEN, WRITTEN, WRITTEN)
def test_equality_is_transitive_and_symmetric(one, other, third):
    equal = {(a, b): bool(is_equal(a, b)) for a in (one, other, third) for b in (one, other, third)}
    assert equal[one, other] == equal[other, one]
    assert not (equal[one, other] and equal[other, third]) or equal[one, third]


CHECKED = "\\boxed{42}\n\n"


@pytest.mark.parametrize(
    ("pred", "gold"),
    [
        ("Final Answer: **45** dollars", "45"),
        ("**Final Answer:** **45** dollars", "45"),
        ("The answer is **18** dollars per day.", "18"),
        ("Final Answer: **3** and **4**", "3,4"),
        ("2**3**4", "2^{3^4}"),
        ("Final Answer: No, she cannot afford it.", "No"),
        ("The answer is no, because 7 cannot be divided evenly.", "no"),
        ("Final Answer: No. It is incorrect.", "No"),
        (f"{CHECKED}No, there is no error here.", "42"),
        (f"{CHECKED}Wait, let me check: 6*7=42. Yes, that is not wrong.", "42"),
        (f"{CHECKED}Actually you can also solve it with algebra, but you can't skip a step.", "42"),
        (r"0.\bar{3}", "1/3"),
        (r"0.1\bar{6}", "1/6"),
        (r"0.\overline3", "1/3"),
        (r".\overline{3}", "1/3"),
        (r"0.\dot{1}4285\dot{7}", "1/7"),
        ("2|x|", "|2x|"),
        ("36 m^2", "36"),
        ("36 m²", "36 square meters"),
        (r"\boxed{5 m^3}", "5"),
        ("Final Answer:\n- 42", "42"),
        ("Final Answer:\n1. 42", "42"),
        ("Final Answer:\n-42", "-42"),
        (r"\log_28", "3"),
        ("x-axis", "x axis"),
    ],
)
def test_what_models_write_is_read(pred, gold):
    assert is_equal(pred, gold)


@pytest.mark.parametrize(
    ("pred", "gold"),
    [
        ("a+b+c", "abc"),
        ("-abc", "abc"),
        ("a-b-c", "abc"),
        ("1/abc", "abc"),
        ("x^{yz}", "xyz"),
        ("xyz", "x+y+z"),
        ("B/C", "BC"),
        ("a,b,c", "abc"),
        ("-b", "B"),
        ("Room 12.5", "Room 125"),
        (r"\text{east -5}", r"\text{east 5}"),
        (r"0.\bar{4}", r"0.\bar{3}"),
        ("0", r"0.\bar{6}"),
        (f"{CHECKED}Wait, that is wrong.", "42"),
        (f"{CHECKED}Hmm, 4 + 7 = 11, so it can't be 42.", "42"),
    ],
)
def test_what_differs_in_signs_differs(pred, gold):
    assert not is_equal(pred, gold)
    assert not is_equal(gold, pred)


def test_a_worker_judges_alike_however_long_it_has_worked():
    pairs = [(f"{a}x + {b}", f"{b} + {c}x") for a in range(1, 5) for b in range(1, 4) for c in range(1, 5)]
    pairs += [(rf"\sin({a}x)", rf"\cos({b}x - \frac{{\pi}}{{2}})") for a in range(1, 5) for b in range(1, 5)]
    with AnswerChecker(workers=1, cache=0) as used, AnswerChecker(workers=1, cache=0) as fresh:
        used.check_many(pairs)
        again = used.check_many(pairs)
        assert again == fresh.check_many(pairs[::-1])[::-1]
    assert {verdict.equal for verdict in again} == {True, False}

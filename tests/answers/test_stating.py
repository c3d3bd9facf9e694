"""What a sentence states, and what it does not."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prl.answers import AnswerChecker
from prl.answers.stating import stated

TABLE = [
    ("Janet makes $18 every day at the farmers' market.", "$18", "currency, a clause behind"),
    ("He will be 45 miles from home after 4 hours.", "45 miles", "when is no answer"),
    ("She earns $18 and spends $20 on food.", "$18, $20", "two dollar signs are no mathematics"),
    ("It takes 2 hours 30 minutes", "2 hours 30 minutes", "two units"),
    ("it isn't 12, it is 2,450.50$", "2,450.50$", "denied, then said"),
    ("not 12 but 13", "13", "denied, then said"),
    ("42, not 43", "42", "said, then denied"),
    ("not 12", None, "denied alone"),
    (r"so $y \gt 7$.", r"$y \gt 7$", "inline mathematics"),
    (r"Hence, our result is" + "\n$$\n\\sqrt{99}\n$$", r"$$ \sqrt{99}$$", "a display over several lines"),
    ("The solution is x >= 3.", "x >= 3", "a relation without TeX"),
    ("Therefore the range is [0, 5).", "[0, 5)", "brackets of two kinds"),
    (
        r"The inverse is \begin{pmatrix}1&2\\3&4\end{pmatrix}.",
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
        "a matrix",
    ),
    ("The vertex is at (3, -2).", "(3, -2)", "a point"),
    ("There are 15 chickens and 15 rabbits.", "15 chickens and 15 rabbits", "several counted things"),
    ("x is 5 and y is 3", "5, 3", "two statements"),
    ("The candidates are 3, 4, 5", "3, 4, 5", "candidates stay several"),
    (r"The solutions are $x=1$ and $x=2$.", r"$x=1$ and $x=2$", "joined formulas"),
    ("3+4=7.\nSo 7 apples.", "7 apples", "the last sentence"),
    ("So x = 7. The answer is correct.", "x = 7", "a remark behind it"),
    ("所以她每天赚 18 美元。", "18 美元", "Chinese"),
    ("У Маши осталось 5 яблок.", "5 яблок", "Russian"),
    ("Yes, it is possible.", "Yes", "a word that answers"),
    ("There is no solution.", "no solution", "nothing to be found"),
    ("The day is **Tuesday**.", "Tuesday", "bold at the end"),
    ("Thus, softball, kickball, picnic", "softball, kickball, picnic", "words behind a conclusion"),
    ("10 cows have 4 legs each, so 40 legs.", "40 legs", "a conclusion"),
    ("The tip is $12 and the meal $60 for a total of $72.", "$72", "a total"),
    ("There are 24 ways, which is less than 30.", "24 ways", "a remark that compares"),
    ("She has 2 left, which means she ate 5.", "5", "which concludes"),
    ("If each has 5, the number is 20/5 = 4 boxes.", "20/5 = 4 boxes", "a condition in front"),
    ("So when Jenny is 16, Charlie will be 11.", "11", "a time in front"),
    ("Nate will be 21 when she is 14.", "21", "a time behind"),
    ("He saw 100 wheels because 25 times 4 equals 100.", "100 wheels", "a reason behind"),
    ("Of 50 numbers the one when 3 is added is 12.", "12", "a clause within the subject"),
    ("It takes 5 hours to drive 300 miles.", "5 hours", "what for"),
    ("Add 7 to 5 to get 12.", "12", "what comes out"),
    ("She earned $25 for selling 14 peaches.", "$25", "what for, as a gerund"),
    ("She ran 3 miles in 2 days and 5 nights.", "3 miles", "what joins a modifier"),
    ("20% of 50 is 10.", "10", "a share"),
    ("15 girls get a total of 15*15 = 225 books", "15*15 = 225 books", "a worked number"),
    ("48 clips in April and 24 in May = 72 clips", "72 clips", "an equation in words"),
    ("He fills 420 cards / 10 cards per page = 42 pages.", "42 pages", "units within what is worked out"),
    ("He eats 2 * 3 = 6 eggs in 4 days.", "2 * 3 = 6 eggs", "a modifier behind a worked number"),
    ("Sam needs $5 more.", "$5", "a difference"),
    ("There are 5 to 6 of them.", "5 to 6", "a range"),
    ("42, not counting the hosts", "42", "a remark that denies nothing"),
    ("Ken has 22 cards, whereas Lou has 15.", "22 cards", "another's"),
    ("24 seats will not be sold", "24 seats", "not the number is denied"),
    ("What she paid without tax is 5.", "5", "a negation within the subject"),
    ("3 or 4", None, "nothing but quantities"),
    ("12 apples, no, 13 apples", "13 apples", "corrected"),
    ("x = 12, no wait, x = 13", "x = 13", "a corrected equation"),
    ("5 is not possible", None, "denied behind"),
    ("5 is clearly wrong.", None, "called wrong"),
    ("5 and 6 are impossible", None, "both called wrong"),
    ("it isn't 5 or 6", None, "both denied"),
    ("none of the 5", None, "none of them"),
    ("since each has 5 books, she wins.", None, "a reason alone"),
    ("she is 5 more than Tom", None, "a difference that says nothing of its own"),
    ("it is 5 less than a dozen", None, "less than"),
    ("at least 5", None, "a bound"),
    ("it costs about 5", None, "an estimate"),
    ("5 or more", None, "a bound behind"),
    ("all real numbers except 0", None, "an exception"),
    ("3 if n is even, 4 otherwise", None, "a case"),
    ("congruent to 3 modulo 7", None, "a residue"),
    ("maybe 5", None, "a guess"),
    ("42 apples, or maybe 43.", None, "a second guess"),
    ("Monday, June 5", None, "a date"),
    ("Is it 5?", None, "a question"),
    ("Step 1: find the roots. Step 2: add 7 and", None, "cut off in the sentence"),
    ("12 * 12 = 12 * (10 + 2) = 120 + 24 =", None, "cut off in a formula"),
    ("It would need 7 days. The answer cannot be determined.", None, "denied afterwards"),
    ("print(5)", None, "code"),
    ("AB = 5", None, "a name, no sentence"),
    ("the reference answer is 7", None, "spoken to the grader"),
]


@pytest.mark.parametrize(("text", "quantity", "why"), TABLE, ids=[row[2] for row in TABLE])
def test_what_a_sentence_states(text, quantity, why):
    assert stated(text) == quantity, why


PIECES = [
    *r"$.,:;()[]{}\% 35",
    "$18",
    " and ",
    " or ",
    "not ",
    r"\frac{1}{2}",
    r"\text{",
    "x = ",
    " apples",
    "\n",
]


@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
@example("$$ and $$\n$")
def test_any_text_states_a_part_of_it_or_nothing(text):
    """But for blanks, of which a formula loses those at its ends."""
    quantity, shown = stated(text), "".join(text.split())
    assert quantity is None or all("".join(part.split()).strip("=") in shown for part in quantity.split(", "))


@pytest.mark.parametrize("piece", ["5 and ", "$", "(", "\\begin{", "**", "a, ", "not 5 ", "no ", "\n"])
def test_a_megabyte_takes_no_time(piece):
    start = time.process_time()
    stated(piece * (1_000_000 // len(piece)))
    assert time.process_time() - start < 1


NUMBERS = st.integers(0, 999).map(str)


CANDIDATES = [
    "{} or {}",
    "either {} or {}",
    "It is {} or {}.",
    "The roots are {} and {}.",
    r"$\boxed{{{}}}$ and $\boxed{{{}}}$",
    "x is {} and y is {}.",
    "{0} or 0 + {1} = {1}",
    "It is 0 + {0} = {0} or 0 + {1} = {1}.",
    "It is 0 + {0} = {0}, {1}.",
]


@given(NUMBERS, NUMBERS, st.sampled_from(CANDIDATES))
def test_of_two_candidates_none_pays(one, other, form):
    if one == other:
        return
    checker = AnswerChecker(workers=1)
    text = form.format(one, other)
    assert not checker.check(text, one)
    assert not checker.check(text, other)

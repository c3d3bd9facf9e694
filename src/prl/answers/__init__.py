"""Final answers of a response, and whether they are right. No torch; sympy in worker processes only.

    extract_answer(text)                  the answer that a response commits to, or states last; or None
    is_equal(pred, gold)                  a bool; never hangs, raises only where the verifier cannot start
    AnswerChecker().check(pred, gold)     a Verdict(equal, reason, detail); REASONS says what a reason means
    AnswerChecker().check_many(pairs)     verdicts in order, judged in parallel
    AnswerChecker().check_responses(texts, golds)     the answer each commits to, with its verdict
    unreadable_gold(gold)                 why nothing can be judged against it, or None
    default_checker()                     the checker that is_equal and the rewards share
    explain(pred, gold)                   the steps of a judgement; print it

A pair goes through extraction (what is the answer), notation (one spelling), reading (its structure) and
comparing (is it the same); a prediction that is a sentence, once more as what it states (stating). Structure
and exact arithmetic decide most pairs in this process; what needs algebra goes to a worker that can be
killed. What counts as equal in ambiguous cases: `DECISIONS.md`.
"""

from prl.answers.checker import AnswerChecker, default_checker, is_equal, unreadable_gold
from prl.answers.explaining import Explanation, explain
from prl.answers.extraction import extract_answer
from prl.answers.judging import REASONS, Verdict

__all__ = [
    "REASONS",
    "AnswerChecker",
    "Explanation",
    "Verdict",
    "default_checker",
    "explain",
    "extract_answer",
    "is_equal",
    "unreadable_gold",
]

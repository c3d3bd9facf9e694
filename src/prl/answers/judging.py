"""One judgement, from two bare answers to a verdict: one piece of code for this process and the workers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from prl.answers.comparing import same
from prl.answers.kinds import Answer
from prl.answers.limits import MAX_CHARS, Refused, Unreadable
from prl.answers.notation import spelled
from prl.answers.questions import Algebra
from prl.answers.reading import read
from prl.answers.stating import stated

REASONS = {
    "identical": "both are the same after normalisation",
    "equal": "they are written differently and are the same answer",
    "different": "both were read; they are not the same answer",
    "no answer": "the prediction commits to no answer",
    "unparseable": "the prediction cannot be read as an answer",
    "unparseable gold": "the gold answer cannot be read; the pair says nothing about the prediction",
    "too large": "the prediction is over a limit of prl.answers.limits and was not parsed",
    "timed out": "no decision within the deadline; the worker was killed and is replaced",
    "crashed": "the worker died, usually at its memory cap, or met an unforeseen error",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement. `reason` is a key of `REASONS`; `detail` says more where there is more to say."""

    equal: bool
    reason: str
    detail: str = ""

    def __bool__(self) -> bool:
        return self.equal

    @property
    def judges(self) -> bool:
        """Whether it says anything of the prediction: not where the gold answer cannot be read."""
        return self.reason != "unparseable gold"


def unreadable(gold: str) -> str | None:
    """Why the bare answer `gold` cannot be read; None when it can."""
    wanted = _read(gold)
    return str(wanted) if isinstance(wanted, Exception) else None


def judge(pred: str, gold: str, algebra: Algebra | None = None) -> Verdict:
    """Whether the bare answer `pred` is `gold`, as written or as what it states where it is a sentence; what
    cannot be read is a reason.

    Raises NeedsAlgebra when the pair needs it and `algebra` is None, as it is outside workers.
    """
    verdict = as_written(pred, gold, algebra)
    if verdict.equal or not verdict.judges or (quantity := stated(pred)) is None:
        return verdict
    return as_written(quantity, gold, algebra)


def as_written(pred: str, gold: str, algebra: Algebra | None) -> Verdict:
    """`judge`, without a look at what the prediction states."""
    if pred == gold:
        return Verdict(True, "identical")
    wanted = _read(gold)
    if isinstance(wanted, Exception):
        if len(pred) <= MAX_CHARS and spelled(pred) == spelled(gold):
            return Verdict(True, "identical")
        return Verdict(False, "unparseable gold", str(wanted))
    found = _read(pred)
    if found == wanted:
        return Verdict(True, "identical")
    if isinstance(found, Unreadable):
        return Verdict(False, "unparseable", str(found))
    if isinstance(found, Refused):
        return Verdict(False, "too large", str(found))
    try:
        equal = same(found, wanted, algebra)
    except Unreadable as error:
        return Verdict(False, "unparseable", str(error))
    except Refused as error:
        return Verdict(False, "too large", str(error))
    except RecursionError:
        return Verdict(False, "too large", "nested too deep to compare")
    return Verdict(equal, "equal" if equal else "different")


def _read(text: str) -> Answer | Unreadable | Refused:
    if len(text) > MAX_CHARS:
        return Refused(f"{len(text):,} characters; an answer has at most {MAX_CHARS:,}")
    return _read_short(text)


@lru_cache(maxsize=2048)
def _read_short(text: str) -> Answer | Unreadable | Refused:
    try:
        return read(text)
    except (Unreadable, Refused) as error:
        # A copy: an error that was raised holds the frames of the stack, and these hold tensors.
        return type(error)(*error.args)
    except RecursionError:
        return Refused("nested too deep to read")

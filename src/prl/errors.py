"""What can go wrong, as a small tree.

    PrlError                 anything prl reports in one line instead of a traceback
    ├── UsageError           a flag, a recipe key or a combination of them is wrong (exit status 2)
    ├── DataError            a data file or a row in it is wrong; every bad row is listed
    ├── ModelError           a model, adapter or tokenizer cannot be used as asked
    ├── RunError             a run folder cannot be written, read or continued
    └── VerifierError        answers cannot be judged: the verifier's processes do not start

Every message names the value, the rule it broke and the next step.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PrlError(Exception):
    """Base of every error that is the user's to act on; `exit_status` is what the command line returns."""

    exit_status = 1


class UsageError(PrlError):
    """A flag, a recipe key or their combination is wrong."""

    exit_status = 2


class DataError(PrlError):
    """A data set cannot be used; the message lists the offending rows."""


class ModelError(PrlError):
    """A model, adapter or tokenizer cannot be used as asked."""


class RunError(PrlError):
    """A run folder cannot be written, read or continued."""


class VerifierError(PrlError):
    """Answers cannot be judged here: the verifier's processes do not start."""


def nearest(word: str, options: Iterable[str]) -> str:
    """`; nearest: …` for a misspelt `word`, or nothing where no option is near."""
    known = list(options)
    close = difflib.get_close_matches(word, known, n=1)
    if word and not close:
        close = [option for option in known if option.startswith(word) or word.startswith(option)]
    return f"; nearest: {close[0]}" if close else ""


def first_line(error: object) -> str:
    """What an error or a warning of somebody else's says first, for a sentence of ours: no full stop, and no
    more than 300 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")

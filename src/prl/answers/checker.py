"""`AnswerChecker`: the fast path in this process, the cache, and the pool of workers behind them."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterable
from fractions import Fraction
from functools import cache
from types import TracebackType

from prl.answers.extraction import PLAIN, bare_answer, extract_answer
from prl.answers.judging import Verdict, judge, unreadable
from prl.answers.limits import MAX_CHARS
from prl.answers.questions import NeedsAlgebra

_IDENTICAL, _EQUAL, _DIFFERENT = (
    Verdict(True, "identical"),
    Verdict(True, "equal"),
    Verdict(False, "different"),
)
WAKE_UP = 0.2  # seconds
_Pair = tuple[str | None, str]
_TRANSIENT = ("timed out", "crashed")  # not remembered: a busy machine may be the cause


class AnswerChecker:
    r"""Judges predictions against gold answers. Thread-safe, works after a fork.

    Plain numbers, identical answers and all that exact arithmetic decides are judged in this process; no
    worker starts for them. Workers end when the checker is closed or collected, and at exit.

    >>> with AnswerChecker() as checker:
    ...     checker.check("0.5", r"\frac12").equal
    True
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        deadline: float = 2.0,
        memory_mb: int = 2048,
        cache: int = 16_384,
        paths: bool = True,
    ) -> None:
        """Nothing starts here.

        `workers`: at most so many processes; by default the cores, at most 4, shared among a launcher's local
        ranks. `deadline`: seconds for one pair. `memory_mb`: address space of a worker, where the system can
        cap it. `cache`: pairs remembered. `paths`: as in `extract_answer`.
        """
        if workers is None:
            ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
            workers = min(4, (os.cpu_count() or 1) // max(1, int(ranks) if ranks.isdecimal() else 1))
        self.paths = paths
        self.workers = max(1, workers)
        from prl.answers.pool import Pool  # a fifth of the time of importing this package

        self._pool = Pool(self.workers, deadline, memory_mb << 20)
        self._cache: dict[tuple[str, str], Verdict] = {}
        self._cache_size = cache
        weakref.finalize(self, self._pool.close)

    def __enter__(self) -> AnswerChecker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers. The checker stays usable and starts new ones when they are needed."""
        self._pool.close()

    def start(self) -> None:
        """Have a worker ready, before work that would be lost without one. Raises VerifierError."""
        self._pool.start()

    def check(self, pred: str | None, gold: str) -> Verdict:
        """The verdict on one pair: `pred` an extracted answer, a bare one, a response that commits to one, or
        a text whose last sentence states one.

        Never takes longer than the deadline and, the first time, a worker's start. Raises nothing whatever
        the pair; VerifierError where no worker can start, a fault of the installation.
        """
        found = self._quick(pred, gold)
        return found if isinstance(found, Verdict) else self._ask((pred, gold), found)

    def check_many(self, pairs: Iterable[tuple[str | None, str]]) -> list[Verdict]:
        """The verdicts on many pairs, in their order; what needs a worker runs on all of them in parallel."""
        pairs = list(pairs)
        found = [self._quick(pred, gold) for pred, gold in pairs]
        slow = {pair: bare for pair, bare in zip(pairs, found, strict=True) if not isinstance(bare, Verdict)}
        judged = self._ask_all(slow)
        return [
            each if isinstance(each, Verdict) else judged[pair]
            for pair, each in zip(pairs, found, strict=True)
        ]

    def check_responses(
        self, responses: Iterable[str], golds: Iterable[object]
    ) -> list[tuple[str | None, Verdict]]:
        """The answer that each response commits to, and the verdict on it, as RL and evaluation judge.

        A response that commits to none is as wrong as one that commits to another; None is no gold.
        """
        stated = [extract_answer(response, paths=self.paths, strict=True) for response in responses]
        wanted = ["" if gold is None else str(gold) for gold in golds]
        return list(zip(stated, self.check_many(zip(stated, wanted, strict=True)), strict=True))

    def _ask(self, pair: _Pair, bare: tuple[str, str]) -> Verdict:
        """A worker's verdict on a pair, by its bare answers."""
        verdict = self._pool.judge(*bare)
        self._remember(*pair, verdict)
        return verdict

    def _ask_all(self, pairs: dict[_Pair, tuple[str, str]]) -> dict[_Pair, Verdict]:
        if len(pairs) < 2 or self.workers == 1:
            return {pair: self._ask(pair, bare) for pair, bare in pairs.items()}
        from concurrent.futures import ThreadPoolExecutor, wait

        threads = ThreadPoolExecutor(min(self.workers, len(pairs)))
        try:
            verdicts = {pair: threads.submit(self._ask, pair, bare) for pair, bare in pairs.items()}
            # Waking up now and then: a Ctrl-C that comes just before the wait begins would be heard after it.
            while wait(verdicts.values(), timeout=WAKE_UP).not_done:
                pass
            return {pair: verdict.result() for pair, verdict in verdicts.items()}
        except BaseException:  # Ctrl-C waits for no pair
            threads.shutdown(wait=False, cancel_futures=True)
            self._pool.interrupt()
            raise
        finally:
            threads.shutdown()

    def _quick(self, pred: str | None, gold: str) -> Verdict | tuple[str, str]:
        """The verdict where this process can give it, else the bare answers for a worker."""
        if isinstance(pred, str) and isinstance(gold, str):
            if PLAIN.fullmatch(pred) and PLAIN.fullmatch(gold):
                if pred == gold:
                    return _IDENTICAL
                return _EQUAL if Fraction(pred) == Fraction(gold) else _DIFFERENT
            # Taken out and put back, it is the last that the cache drops. Operations of a dict are atomic: of
            # two threads that meet here, one judges anew.
            verdict = self._cache.pop((pred, gold), None)
            if verdict is not None:
                self._cache[pred, gold] = verdict
                return verdict
        answer = bare_answer(pred, self.paths)
        wanted = answer if pred == gold else bare_answer(gold, self.paths)
        if not wanted:
            return _skipped("empty")
        try:
            if not answer:  # where the gold cannot be read, that is skipped like all responses to the problem
                fault = unreadable(wanted)
                return Verdict(False, "no answer") if fault is None else _skipped(fault)
            verdict = judge(answer, wanted)
        except NeedsAlgebra:
            return answer or "", wanted
        except Exception as error:  # a fault of ours must not end a training run; the reason tells
            return Verdict(False, "crashed", f"{type(error).__name__}: {error}")
        self._remember(pred, gold, verdict)
        return verdict

    def _remember(self, pred: str | None, gold: str, verdict: Verdict) -> None:
        if pred is None or verdict.reason in _TRANSIENT or len(pred) + len(gold) > 2 * MAX_CHARS:
            return
        self._cache[pred, gold] = verdict
        while len(self._cache) > self._cache_size:
            with contextlib.suppress(StopIteration, RuntimeError):  # another thread was here
                self._cache.pop(next(iter(self._cache)), None)


def _skipped(fault: str) -> Verdict:
    return Verdict(False, "unparseable gold", fault)


def unreadable_gold(gold: object) -> str | None:
    r"""Why no prediction can be judged against `gold`; None where each can. Never raises, starts no worker.

    >>> unreadable_gold(r"\frac{1}{2}"), unreadable_gold(r"\frac{1}{"), unreadable_gold("")
    (None, "never closed: '{'", 'empty')
    """
    text = "" if gold is None else str(gold)
    if PLAIN.fullmatch(text):
        return None
    if not (wanted := bare_answer(text)):
        return "it commits to no answer" if text.strip() else "empty"
    try:
        return unreadable(wanted)
    except Exception as error:  # a fault of ours must not end a run
        return f"{type(error).__name__}: {error}"


@cache
def default_checker() -> AnswerChecker:
    """The checker that `is_equal`, `explain` and the rewards share: made at first use, closed at exit."""
    return AnswerChecker()


def is_equal(pred: str | None, gold: str) -> bool:
    r"""Whether `pred` is the answer `gold`. Never hangs; raises nothing but VerifierError, where the verifier
    itself cannot start.

    >>> is_equal("x = 1/2", r"\frac{1}{2}"), is_equal("[1, 2)", "(1, 2)")
    (True, False)
    """
    return default_checker().check(pred, gold).equal

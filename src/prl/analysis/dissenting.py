"""Paths at odds with the answer: right ones of a wrong answer, wrong ones of a right answer."""

from __future__ import annotations

from dataclasses import dataclass

from prl.analysis.decisions import decide
from prl.grammar import Trace


@dataclass(frozen=True, slots=True)
class Dissent:
    """Path `path` of block `block`, both from 1, which `concludes` otherwise than the response; `right` says
    whether that is the gold answer."""

    block: int
    path: int
    concludes: str
    right: bool


def dissent(trace: Trace, gold: str, correct: bool) -> tuple[Dissent, ...]:
    """The paths at odds with a response whose answer is right (`correct`) or wrong, by its `gold` answer.

    Of a wrong answer those that conclude the gold one. Of a right answer those that conclude otherwise in a
    block that settles it: whose summary concludes the gold answer, and another path of it does. So a block
    that settles a step on the way, or divides the work, has none. Conclusions are read and compared by rule,
    as `decide` does; a path of which none can be read is in no dissent.

    >>> from prl.grammar import parse
    >>> block = "<Parallel><Path>2+3=5</Path><Path>3+2=6</Path></Parallel><Summary>So 6.</Summary>"
    >>> dissent(parse(f"{block} Final Answer: 6"), "5", correct=False)
    (Dissent(block=1, path=1, concludes='5', right=True),)
    """
    found: list[Dissent] = []
    for number, block in enumerate(trace.blocks, 1):
        decision = decide(block, gold)
        if correct and not (decision.right and any(decision.right_paths)):
            continue
        judged = zip(decision.paths, decision.right_paths, strict=True)
        found += [
            Dissent(number, place, concluded, is_right)
            for place, (concluded, is_right) in enumerate(judged, 1)
            if concluded is not None and is_right is not correct
        ]
    return tuple(found)

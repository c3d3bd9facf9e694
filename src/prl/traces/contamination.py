"""Which problems are those of a benchmark: by runs of words that they share.

    benchmarks = Benchmarks.read(["standard", "mine.jsonl"])
    benchmarks.overlap(problem)      the benchmark that has it, and the share of its runs there; or None

A problem is taken for one of a benchmark where that has half of its runs of 8 words in one problem. A single
run of 13, as in GPT-3 (arXiv:2005.14165, appendix C), means little here: 536 of DAPO's 17,228 problems share
one with AIME, AMC or MATH, most of them a phrase such as "where m and n are relatively prime positive
integers"; 60 share half of their runs of 8, and these are the same problem or one with other numbers. A
problem told in other words is not found. Of each run a hash is kept: MATH's 5,000 test problems take 20 MB.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from prl.data.hub import LISTED_FAULTS, bad_rows, stream_rows
from prl.errors import DataError

RUN = 8
"""Words in a row."""

SHARE = 0.5
"""Of a problem's runs, that make it one of the benchmark's."""

STANDARD = (
    "openai/gsm8k",
    "HuggingFaceH4/MATH-500",
    "HuggingFaceH4/aime_2024@train",
    "math-ai/aime25",
    "math-ai/amc23",
)
"""What `standard` stands for: evaluation sets on the Hub, with the split where it is not `test`."""

_WORD = re.compile(r"[^\W_]+")


class Overlap(NamedTuple):
    benchmark: str
    share: float


@dataclass
class Benchmarks:
    """Problems that are not to be trained on. `sizes`: benchmark -> problems that were read."""

    sizes: dict[str, int] = field(default_factory=dict)
    _of: list[str] = field(default_factory=list)  # place of a problem -> its benchmark
    _places: dict[int, int | tuple[int, ...]] = field(default_factory=dict)  # run -> who has it

    @classmethod
    def read(cls, names: Iterable[str]) -> Benchmarks:
        """Of files, Hub names (split `test`, or what follows an @) and `standard`. Raises DataError, also for
        rows that cannot be read: nothing would be held against their problems."""
        found = cls()
        for name in names:
            for each in STANDARD if name == "standard" else [name]:
                dataset, _, split = (
                    (each, "", "") if Path(each).expanduser().exists() else each.partition("@")
                )
                for problem in _problems(dataset, split or "test"):
                    found.add(each, problem)
        return found

    def add(self, benchmark: str, problem: str) -> None:
        self.sizes[benchmark] = self.sizes.get(benchmark, 0) + 1
        place = len(self._of)
        self._of.append(benchmark)
        for run in _runs(problem):
            held = self._places.get(run)
            if held is None:
                self._places[run] = place
            else:
                self._places[run] = (*((held,) if isinstance(held, int) else held), place)

    def overlap(self, problem: str) -> Overlap | None:
        """The benchmark that has `problem`, and how much of it; None where none has as much as `SHARE`.

        >>> benchmarks = Benchmarks()
        >>> benchmarks.add("b", "If a train goes 60 miles in 2 hours, how fast does it go?")
        >>> benchmarks.overlap("If a train goes 60 miles in 2 hours, how fast did it go?").benchmark
        'b'
        """
        if not self.sizes:
            return None
        runs = _runs(problem)
        held = [self._places[run] for run in runs if run in self._places]
        places = Counter(place for each in held for place in ((each,) if isinstance(each, int) else each))
        if not places:
            return None
        place, shared = places.most_common(1)[0]
        share = shared / len(runs)
        return Overlap(self._of[place], share) if share >= SHARE else None


def _problems(dataset: str, split: str) -> Iterator[str]:
    count, faults = 0, []
    for where, row in stream_rows(dataset, split=split, need=("problem",)):
        count += 1
        if isinstance(row, str):
            faults.append(f"{where}: {row}")
        else:
            yield row["problem"]
    if faults:
        report = bad_rows(dataset, len(faults), count, faults[:LISTED_FAULTS])
        raise DataError(f"{report}\nCorrect them, or take them out of the benchmark.")


def _runs(text: str) -> set[int]:
    """Hashes of the runs of words in a text; of all its words where they are fewer than a run."""
    words = _WORD.findall(text.casefold())
    return {
        int.from_bytes(hashlib.blake2b(" ".join(words[start : start + RUN]).encode(), digest_size=7).digest())
        for start in range(max(1, len(words) - RUN + 1))
    }

"""The page of runs as they are now, built anew only where they went on, and once however many ask.

A page that is open takes what changed alone: its data are in pieces that are named by what is in them
(`prl.report.page.pieces`), so nothing has to be remembered of who has what, and a run that was killed and
resumed, or made anew, is no special case.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prl.errors import PrlError, RunError, first_line
from prl.report.page.building import Follow, Sent, page_to_follow, waiting_page
from prl.report.page.reading import find_runs, read_runs

INTERVAL = 3.0
"""Seconds from one look at the runs to the next, at least; a page asks as often."""

SHARE = 0.1
"""Of the time, building takes no more than this: the training may need the cores."""

_READ = ("environment.json", "config.yaml", "metrics.jsonl", "samples.parquet", "results.json", "DONE")


@dataclass(frozen=True)
class Served:
    """A page, its `version` (two pages of one version are the same), and a sentence on the `state` of its
    runs. `sent` has what a page that is open takes of it, None of one that waits; `earlier` are the pieces of
    the page before, for whoever is amid asking."""

    version: str
    body: bytes
    state: str
    sent: Sent | None = None
    earlier: Mapping[str, Any] = field(default_factory=dict)

    def pieces(self, names: Iterable[str]) -> dict[str, Any]:
        """Those that are known, by their names."""
        own = self.sent.pieces if self.sent else {}
        return {name: of[name] for name in names for of in (own, self.earlier) if name in of}


class Followed:
    """The runs in `folders`, with the page of them. All methods may be called by any thread.

    A folder in which no run has begun yet is no error: its page says so until one has. What cannot be read at
    the moment, as while a run is overwritten, leaves the page as it was, and its `state` says why.
    """

    def __init__(
        self,
        folders: Iterable[str | os.PathLike[str]],
        *,
        all_samples: bool = False,
        interval: float = INTERVAL,
    ) -> None:
        self.folders, self.all_samples, self.interval = [*folders], all_samples, interval
        self._lock = threading.Lock()
        self._served: Served | None = None
        self._stamp, self._next = "", 0.0

    def page(self) -> Served:
        """The page, as the runs were `interval` seconds ago or, where building takes long, before that. While
        one thread builds, the others are given the page before; where there is none they wait."""
        before = self._served
        if not self._lock.acquire(blocking=before is None):
            assert before is not None
            return before
        try:
            if self._served is None or time.monotonic() >= self._next:
                began = time.monotonic()
                try:
                    self._served = self._look(self._served)
                finally:
                    now = time.monotonic()
                    self._next = now + max(self.interval, (now - began) * (1 - SHARE) / SHARE)
            return self._served
        finally:
            self._lock.release()

    def _look(self, before: Served | None) -> Served:
        # The stamp is taken first: what is written while the runs are read makes the next page.
        stamp = stamp_of(self.folders)
        if before and stamp == self._stamp:
            return before
        try:
            told = read_runs(self.folders)
            sent = page_to_follow(told, Follow(stamp, self.interval), all_samples=self.all_samples)
        except (PrlError, OSError) as error:  # a file may go away between the look at it and reading it
            why = first_line(error)
            if before and self._stamp:
                return replace(before, state=f"As it was before: {why}.")
            version = hashlib.sha256(why.encode("utf-8", "replace")).hexdigest()[:16]
            return Served(version, waiting_page(why, Follow(version, self.interval)).encode(), "")
        self._stamp = stamp
        going = sum(not run.is_done for run in told)
        state = (
            f"Follows {going} of {len(told)} runs, which are not finished." if going else "All is finished."
        )
        if len(told) == 1 and going:
            state = "Follows the run, which is not finished."
        earlier = before.sent.pieces if before and before.sent else {}
        return Served(stamp, sent.whole.encode(), state, sent, earlier)


def stamp_of(folders: Iterable[str | os.PathLike[str]]) -> str:
    """Another text whenever a run in `folders` has logged something, begins, ends, or goes away."""
    digest = hashlib.sha256()
    for run in _found(folders):
        digest.update(os.fsencode(run) + b"\0")
        for path in [*(run / name for name in _READ), *_shards(run)]:
            with contextlib.suppress(OSError):
                status = path.stat()
                told = f"{path.name} {status.st_ino} {status.st_size} {status.st_mtime_ns}\0"
                digest.update(os.fsencode(told))
    return digest.hexdigest()[:16]


def _found(folders: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    for folder in folders:
        with contextlib.suppress(RunError, OSError):
            yield from find_runs([folder])


def _shards(run: Path) -> list[Path]:
    """Parts of samples that are whole: one amid writing has another name."""
    try:
        return sorted(path for path in (run / "samples").iterdir() if path.name.startswith("step-"))
    except OSError:
        return []

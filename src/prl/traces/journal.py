"""What the teacher said, kept: append-only shards of JSON lines with checksums.

A line is a JSON object whose last field is the CRC-32 of all before it. It is with the operating system when
`append` returns, so a killed process loses none, and on the disk after `sync`. What a kill or a full disk
tore at the end of a shard is dropped with a notice when the journal is opened again; a line amid a shard that
is not what was written is passed over with one.

Where each key stands is kept in a temporary SQLite table, not in memory: a journal of any length costs the
same few MB.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from prl.errors import RunError
from prl.runs.disk import writing

SHARD_BYTES = 64 * 2**20
"""A shard that has reached this is closed, and the next one begun."""

_SEAL = ', "crc32": "{:08x}"}}\n'
_SEAL_LENGTH = len(_SEAL.format(0))

log = logging.getLogger(__name__)


class Journal:
    """The journal in `folder`, open for appending; one process at a time (the caller holds the lock).

    `append` and `sync` may be called from different threads.
    """

    def __init__(self, folder: Path) -> None:
        """Read all shards once, to find where each key stands. Raises RunError."""
        self.folder = folder
        self._closing = threading.Lock()  # a file that is synced is not closed meanwhile
        # "": SQLite's own temporary file. It holds nothing that the shards do not say.
        self._file = -1
        self._places = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._places.execute("PRAGMA journal_mode=OFF")
        self._places.execute(
            "CREATE TABLE places (key TEXT PRIMARY KEY, shard INT, start INT, length INT) WITHOUT ROWID"
        )
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            shards = sorted(folder.glob("*.jsonl"))
            for shard in shards:
                for start, line, record in _lines(shard):
                    if record is not None:
                        self._index(record, _number(shard), start, len(line))
                    elif line.endswith(b"\n") or shard != shards[-1]:
                        log.warning(
                            "%s: the line at byte %d is damaged and passed over; what it held is asked again",
                            shard,
                            start,
                        )
                    else:
                        log.warning(
                            "%s: the last line is torn and dropped (%d bytes from %d on); what it held is "
                            "asked again",
                            shard,
                            len(line),
                            start,
                        )
                        os.truncate(shard, start)
            self._number = _number(shards[-1]) if shards else 0
            self._open_shard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ignored: object) -> None:
        self.close()

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record; one that has a `key` is found by it from now on. Raises RunError, and then nothing of
        it is there."""
        body = json.dumps(record)
        line = (body[:-1] + _SEAL.format(zlib.crc32(body.encode()))).encode()
        with writing(self.folder):
            if self._end >= SHARD_BYTES:
                self.sync()
                self._number += 1
                with self._closing:
                    os.close(self._file)
                    self._open_shard()
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._file, line[written:])
            except BaseException:
                # A full disk takes the first part of a line. The next line must not begin in its middle.
                os.ftruncate(self._file, self._end)
                raise
        self._index(record, self._number, self._end, len(line))
        self._end += len(line)

    def sync(self) -> None:
        """Bring what was appended through to the disk. Raises RunError."""
        with writing(self.folder), self._closing:
            if self._file >= 0:
                os.fsync(self._file)

    def get(self, key: str) -> dict[str, Any] | None:
        """The record last appended under `key`; None where there is none. Raises RunError."""
        place = self._places.execute(
            "SELECT shard, start, length FROM places WHERE key = ?", (key,)
        ).fetchone()
        if place is None:
            return None
        number, start, length = place
        path = self._path(number)
        try:
            with path.open("rb") as file:
                file.seek(start)
                record = _read(file.read(length))
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror or error}. Check its disk") from error
        if record is None:
            raise RunError(f"{path} was changed at byte {start} while it was in use: run the command again")
        return record

    def __contains__(self, key: str) -> bool:
        return self._places.execute("SELECT 1 FROM places WHERE key = ?", (key,)).fetchone() is not None

    def __len__(self) -> int:
        """Keys that it holds."""
        return int(self._places.execute("SELECT count(*) FROM places").fetchone()[0])

    def records(self) -> Iterator[dict[str, Any]]:
        """Every whole record in the order of appending, those without a key too."""
        return records(self.folder)

    def close(self) -> None:
        """Sync and close. Closing twice does nothing."""
        if self._file < 0:
            return
        try:
            self.sync()
        finally:
            with self._closing:
                os.close(self._file)
                self._file = -1
            self._places.close()

    def _open_shard(self) -> None:
        """Append to the shard `_number` from now on."""
        path = self._path(self._number)
        binary = getattr(os, "O_BINARY", 0)  # Windows would turn line ends into two bytes
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | binary, 0o644)
        self._end = os.fstat(self._file).st_size

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.jsonl"

    def _index(self, record: Mapping[str, Any], shard: int, start: int, length: int) -> None:
        if "key" in record:
            self._places.execute(
                "INSERT OR REPLACE INTO places VALUES (?, ?, ?, ?)", (record["key"], shard, start, length)
            )


def records(folder: Path) -> Iterator[dict[str, Any]]:
    """Every whole record of the journal in `folder`, in the order of appending; also while it is written."""
    for shard in sorted(folder.glob("*.jsonl")):
        yield from (record for _, _, record in _lines(shard) if record is not None)


def _lines(shard: Path) -> Iterator[tuple[int, bytes, dict[str, Any] | None]]:
    """Where each line starts, its bytes with the line end, and its record; None for one that is not whole."""
    start = 0
    with shard.open("rb") as file:
        for line in file:
            yield start, line, _read(line)
            start += len(line)


def _read(line: bytes) -> dict[str, Any] | None:
    body = line[:-_SEAL_LENGTH] + b"}"
    if line[-_SEAL_LENGTH:] != _SEAL.format(zlib.crc32(body)).encode():
        return None
    try:
        record = json.loads(body)
    except (ValueError, RecursionError):  # a checksum that fits by chance, or by a forger
        return None
    return record if isinstance(record, dict) else None


def _number(shard: Path) -> int:
    return int(shard.stem) if shard.stem.isdecimal() else 0

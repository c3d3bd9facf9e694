"""The journal: what was appended is there after a kill, and what was torn is not."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl.errors import RunError
from prl.traces import journal
from prl.traces.journal import Journal, records


def filled(folder: Path, count: int = 5) -> list[dict[str, object]]:
    wanted: list[dict[str, object]] = [{"key": f"k{i}", "texts": [f"text {i}\n"]} for i in range(count)]
    with Journal(folder) as ours:
        for record in wanted:
            ours.append(record)
    return wanted


@given(
    value=st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False) | st.none() | st.lists(st.text()))
)
def test_any_record_reads_back(value: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("journal")
    with Journal(folder) as ours:
        ours.append({"key": "a"} | value | {"key": "a"})
        assert ours.get("a") == value | {"key": "a"}
    assert [*records(folder)] == [{"key": "a"} | value | {"key": "a"}]


def test_what_was_appended_is_found_again(tmp_path: Path) -> None:
    wanted = filled(tmp_path)
    with Journal(tmp_path) as ours:
        assert len(ours) == 5
        assert "k3" in ours
        assert "k9" not in ours
        assert ours.get("k3") == wanted[3]
        assert ours.get("k9") is None
        ours.append({"key": "k3", "texts": ["later"]})
        ours.append({"failed": "busy", "of": "k9"})
        assert ours.get("k3") == {"key": "k3", "texts": ["later"]}
        assert [*ours.records()][-1] == {"failed": "busy", "of": "k9"}


def test_cut_anywhere_all_whole_lines_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wanted = filled(tmp_path / "whole")
    content = (tmp_path / "whole" / "00000.jsonl").read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(len(content)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "00000.jsonl").write_bytes(content[:cut])
        caplog.clear()
        with Journal(folder) as ours:
            whole = sum(end <= cut for end in ends)
            assert [*ours.records()] == wanted[:whole]
            assert bool(caplog.records) == (cut not in (0, *ends))
            ours.append({"key": "next"})
        assert [*records(folder)] == [*wanted[:whole], {"key": "next"}]
    assert "the last line is torn and dropped" in caplog.text


def test_a_changed_byte_costs_its_line_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wanted = filled(tmp_path)
    path = tmp_path / "00000.jsonl"
    content = bytearray(path.read_bytes())
    second = content.index(b"\n") + 10
    content[second] ^= 1
    path.write_bytes(content)
    with Journal(tmp_path) as ours:
        assert [*ours.records()] == [wanted[0], *wanted[2:]]
        assert "k1" not in ours
    assert "is damaged and passed over" in caplog.text


def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SHARD_BYTES", 100)
    wanted = filled(tmp_path, 9)
    assert len([*tmp_path.glob("*.jsonl")]) > 2
    with Journal(tmp_path) as ours:
        order = [*range(9)]
        random.Random(0).shuffle(order)
        for i in order:
            assert ours.get(f"k{i}") == wanted[i]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = os.write, iter([3, 0])

    def full(file: int, data: bytes) -> int:
        if (size := next(calls)) == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:size])

    with Journal(tmp_path) as ours:
        ours.append({"key": "a"})
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(RunError, match="no space left on the disk"):
            ours.append({"key": "b"})
        monkeypatch.undo()
        ours.append({"key": "c"})
        assert [*ours.records()] == [{"key": "a"}, {"key": "c"}]

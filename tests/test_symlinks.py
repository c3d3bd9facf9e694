"""Links and devices where prl writes: they stay what they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prl import runs
from prl.errors import RunError
from prl.runs.checkpoints import checkpoints, prune, seal
from prl.runs.disk import check_replaceable, write_atomic


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "page.html").write_text("old")
    (shelf / "first").symlink_to("page.html")
    link, new = tmp_path / "link.html", tmp_path / "new.html"
    link.symlink_to("shelf/first")
    new.symlink_to("shelf/not-yet/new.html")
    for path in (link, new):
        check_replaceable(path, "--output")
        write_atomic(path, b"new")
        assert path.is_symlink()
        assert path.read_text() == "new"
    assert (shelf / "page.html").read_text() == "new"
    assert (shelf / "not-yet" / "new.html").read_text() == "new"
    assert sorted(path.name for path in shelf.iterdir()) == ["first", "not-yet", "page.html"]


def test_a_link_to_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for write in (lambda path: check_replaceable(path, "--output"), lambda path: write_atomic(path, b"")):
        with pytest.raises(RunError, match="link cannot be written: "):
            write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="a system without /dev/fd, as Windows")
def test_a_pipe_and_a_device_are_written_themselves(tmp_path: Path) -> None:
    out, into = os.pipe()
    try:
        check_replaceable(Path(f"/dev/fd/{into}"), "--output")
        write_atomic(Path(f"/dev/fd/{into}"), b"text")
        assert os.read(out, 10) == b"text"
    finally:
        os.close(out)
        os.close(into)
    (tmp_path / "null").symlink_to("/dev/null")
    write_atomic(tmp_path / "null", b"text")
    assert (tmp_path / "null").is_char_device()
    assert [path.name for path in tmp_path.iterdir()] == ["null"]


def make_linked(run: Path, step: int, *, whole: bool = True) -> Path:
    """A checkpoint that was moved away and linked back; where it is now."""
    moved = run.parent / "moved" / f"checkpoint-{step}"
    moved.mkdir(parents=True)
    (moved / "weights").write_bytes(b"weights")
    if whole:
        seal(moved)
    run.mkdir(exist_ok=True)
    (run / moved.name).symlink_to(moved)
    return moved


def test_of_a_checkpoint_that_was_moved_away_the_link_is_removed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    moved = [make_linked(run, step) for step in (1, 2)]
    prune(run, keep=1)
    assert checkpoints(run) == [run / "checkpoint-2"]
    assert all(runs.checkpoints.fault(each) is None for each in moved), "what was moved is as it was"


def test_a_run_goes_on_and_is_overwritten_with_linked_checkpoints(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with runs.open_run(run, command="sft", config={}):
        moved = [make_linked(run, 1), make_linked(run, 2, whole=False)]
    with runs.open_run(run, command="sft", config={}, resume=True) as resumed:
        assert resumed.checkpoint == run / "checkpoint-1"
        assert checkpoints(run) == [run / "checkpoint-1"]
    with runs.open_run(run, command="sft", config={}, overwrite=True):
        assert checkpoints(run) == []
    assert [sorted(path.name for path in each.iterdir()) for each in moved] == [
        ["manifest.json", "weights"],
        ["weights"],
    ]

"""What cannot be written is told in one line that names the place and the flag it is from, before what takes
long. The tests may run as root, to whom every folder is open: so a file stands where a folder should."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from prl import cli, tiny
from prl.errors import RunError
from prl.model import Lora, load_model, merging, save_adapter
from prl.runs import disk
from prl.runs.disk import check_replaceable, check_writable

SHORT = ["--recipe", "tiny", "--threads", "1", "--limit", "8"]
TRACE = "<Parallel><Path>Three and four.</Path><Path>Seven less none.</Path></Parallel><Summary>7</Summary>"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file where a folder should be."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file"


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["sft", *SHORT, "--max_steps", "1"], "--output_dir"),
        (["rl", *SHORT, "--max_steps", "1", "--dataset", "gsm8k"], "--output_dir"),
        (["eval", *SHORT, "--dataset", "gsm8k"], "--output_dir"),
        (["data"], "--output_dir"),
        (["demo", "--quick", "--threads", "1"], "--output_dir"),
        (["study", "--quick"], "--output_dir"),
        (["data", "traces", "arithmetic:easy", "--limit", "1"], "--output_dir"),
        (["doctor", "eval", "--recipe", "tiny", "--memory", "8"], "--fit"),
        (["data", "mix", "arithmetic:coldstart"], "--output"),
        (["data", "check", "arithmetic:coldstart"], "--accepted"),
        (["data", "check", "arithmetic:coldstart"], "--rejected"),
        (["rewards", "replay", "no-run"], "--output"),
    ],
)
def test_each_command_says_where_it_cannot_write(
    words: list[str],
    flag: str,
    file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prl.doctor._try_bitsandbytes", lambda device: None)
    target = file / ("x.parquet" if flag != "--output_dir" else "x")
    assert cli.main([*words, flag, str(target)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert f" {target} cannot be written: " in last
    assert last.endswith(f" {file} is no folder. Choose another {flag}")


def test_merging_says_so_before_anything_is_merged(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    adapter = file.with_name("adapter")
    save_adapter(*load_model(tiny.NAME, lora=Lora(r=2)), adapter)
    monkeypatch.setattr(merging, "load_model", lambda *words, **given: pytest.fail("it was loaded"))
    no_folder = f"cannot be written: {file} is no folder. Choose another"
    for words, said in (
        (["--output_dir", str(file / "x")], f"{file / 'x'} {no_folder} --output_dir"),
        (["--output_dir", str(file / "x"), "--gguf_type", "f16"], f"{file / 'x'} {no_folder} --output_dir"),
    ):
        assert cli.main(["merge", str(adapter), *words]) in (1, 2)
        assert capsys.readouterr().err.splitlines()[-1] == f"prl merge: {said}"


def test_a_folder_of_someone_else_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is there is asked itself; a file is put into its folder, which is asked."""
    theirs, ours = tmp_path / "theirs", tmp_path / "theirs" / "ours"
    ours.mkdir(parents=True)
    (theirs / "file").write_text("")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and (not mode or path != theirs))
    for folder in (ours, ours / "a" / "b", tmp_path, tmp_path / "a"):
        check_writable(folder)
    check_replaceable(ours / "a" / "x.parquet", "--accepted")
    said = f"cannot be written: {theirs} is not yours to write to. Choose another"
    for check, path, flag in (
        (check_writable, theirs, "--output_dir"),
        (check_writable, theirs / "a" / "b", "--output_dir"),
        (check_replaceable, theirs / "file", "--output"),
        (check_replaceable, theirs / "a" / "b", "--output"),
    ):
        with pytest.raises(RunError) as caught:
            check(path, flag)
        assert str(caught.value) == f"{path} {said} {flag}"


def test_a_file_where_a_folder_stands_or_should_stand(tmp_path: Path, file: Path) -> None:
    for check, path, why in (
        (check_writable, file, f"{file} is no folder"),
        (check_replaceable, tmp_path, "it is a folder"),
    ):
        with pytest.raises(RunError) as caught:
            check(path, "--output")
        assert str(caught.value) == f"{path} cannot be written: {why}. Choose another --output"
    check_replaceable(file, "--output")


def test_folders_that_are_not_there_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What passes the check is written, and `~` is the home folder to both."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("prl.doctor._try_bitsandbytes", lambda device: None)
    row = {"problem": "3 + 4", "trace": f"{TRACE}\nFinal Answer: 7", "answer": "7"}
    Path("traces.jsonl").write_text(json.dumps(row) + "\n")
    for words, to in (
        (["data", "check", "traces.jsonl", "--accepted=~/a/b/good.parquet"], "a/b/good.parquet"),
        (["data", "mix", "traces.jsonl", "--output=~/c/mix.jsonl"], "c/mix.jsonl"),
        (["doctor", "eval", "--recipe", "tiny", "--memory", "8", "--fit=~/d/mine.yaml"], "d/mine.yaml"),
        (["data", "--output_dir=~/e"], "e/coldstart.jsonl"),
    ):
        assert cli.main(words) == 0, capsys.readouterr().err
        assert (tmp_path / to).is_file()
    assert cli.main(["data", "--output_dir=~nobody-of-that-name/e"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "prl data: --output_dir: '~nobody-of-that-name/e' begins with a home folder that is not known; write "
        "it out; `prl data --help` lists the flags"
    )


def test_a_place_without_a_size_is_not_called_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc has 0 bytes in all, of which none is free."""
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: _Usage())
    disk.check_space(tmp_path)


class _Usage:
    total = used = free = 0

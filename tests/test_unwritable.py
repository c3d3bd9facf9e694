"""What cannot be written is told in one line that names the place and the flag it is from, before what takes
long. The tests may run as root, to whom every folder is open: so a file stands where a folder should."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prl import cli, disk, tiny
from prl.disk import check_writable
from prl.errors import RunError
from prl.model import Lora, load_model, merging, save_adapter

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
    whys = (f"{file} is no folder", "Not a directory")
    assert last.endswith(tuple(f" {why}. Choose another {flag}" for why in whys))


def test_merging_says_so_before_anything_is_merged(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    adapter = file.with_name("adapter")
    save_adapter(*load_model(tiny.NAME, lora=Lora(r=2)), adapter)
    monkeypatch.setattr(merging, "load_model", lambda *words, **given: pytest.fail("it was loaded"))
    merged, no_folder = (
        str(file.with_name("merged")),
        f"cannot be written: {file} is no folder. Choose another",
    )
    for words, said in (
        (["--output_dir", str(file / "x")], f"{file / 'x'} {no_folder} --output_dir"),
        (["--output_dir", merged, "--gguf", str(file / "x.gguf")], f"{file / 'x.gguf'} {no_folder} --gguf"),
        (["--output_dir", merged, "--gguf", str(file)], f"{file} exists; name a file that does not"),
    ):
        assert cli.main(["merge", str(adapter), *words]) in (1, 2)
        assert capsys.readouterr().err.splitlines()[-1] == f"prl merge: {said}"


def test_a_folder_of_someone_else_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "a" / "b")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RunError) as caught:
        check_writable(tmp_path / "a" / "b", "--output")
    assert str(caught.value) == (
        f"{tmp_path / 'a' / 'b'} cannot be written: {tmp_path} is not yours to write to. Choose another "
        "--output"
    )


def test_a_place_without_a_size_is_not_called_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc has 0 bytes in all, of which none is free."""
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: _Usage())
    disk.check_space(tmp_path)


class _Usage:
    total = used = free = 0

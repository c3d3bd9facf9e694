"""docs/tutorial.md shows what its commands print. `make wheel-test` runs it as it stands; here the stages are
shorter."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from printed import missing, shown
from prl import cli

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"

SHORT = {
    "sft": "--limit 64 --max_steps 2 --logging_steps 1 --per_device_train_batch_size 8 --threads 1",
    "rl": "--limit 16 --max_steps 2 --per_device_train_batch_size 8 --gradient_accumulation_steps 1 "
    "--num_generations 4 --max_completion_length 64 --threads 1",
    "eval": "--limit 4 --max_completion_length 64 --bootstrap 100 --threads 1",
    "generate": "--max_completion_length 64",
}


def test_each_command_prints_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    blocks = shown(PAGE.read_text(encoding="utf-8"))
    assert sum(bool(text) for _, text in blocks) == 7
    for commands, text in blocks:
        for command in commands:
            _, name, *words = shlex.split(command)
            assert cli.main([name, *words, *shlex.split(SHORT.get(name, ""))]) == 0, command
        said = capsys.readouterr()
        assert missing(text, said.out + said.err) is None, commands

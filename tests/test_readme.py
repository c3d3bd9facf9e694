"""Every command and code block of README.md, CONTRIBUTING.md and docs/ is run, parsed by the command line, or
found in the Makefile. What they show of an output: tests/test_tutorial.py, tests/test_demo.py (README.md)."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from prl import config, recipes
from prl.grammar import parse
from prl.settings import arguments

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    # Reports of studies are written by `prl study`.
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "study" not in page.parts),
]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


LAUNCHER = "accelerate launch --multi_gpu --num_processes 2 -m "  # tests/test_processes.py

PYTEST = "python -m pytest "
HARNESSES = ("python -m prl.harness ", "inspect eval ")  # tests/test_harness.py has them read

COMMANDS = [
    line.partition("#")[0].strip().removeprefix(LAUNCHER)
    for block in blocks("sh")
    for line in block.splitlines()
    if line.partition("#")[0].strip()
]


def parts() -> list[str]:
    return [part.strip() for command in COMMANDS for part in command.split("&&")]


@pytest.mark.parametrize("command", sorted({part for part in parts() if part.startswith("make ")}))
def test_make_commands_name_real_targets(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = [word for word in shlex.split(command)[1:] if "=" not in word]
    assert named
    assert set(named) <= targets


@pytest.mark.parametrize("command", sorted({part for part in parts() if part.startswith("prl ")}))
def test_prl_commands_are_accepted(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for logger in re.findall(r"--report_to (\w+)", command):
        pytest.importorskip(logger, reason=f"`make harness` installs {logger}")
    (tmp_path / "mine.py").write_text(
        "def short_answer(completions, **columns): ...\ndef two_paths(completions, **columns): ...\n"
    )
    _, name, *words = shlex.split(command)
    if f"{name} {' '.join(words[:1])}" in arguments.COMMANDS:
        name, words = f"{name} {words[0]}", words[1:]
    if name == "doctor":
        config.parse_doctor(words)
    elif name in arguments.COMMANDS:
        if name in recipes.SECTIONS and "--recipe" not in words:
            words += ["--recipe", "tiny"]  # no run folder to read the recipe from
        config.parse(name, [*words, *(["--threads", "1"] if name in recipes.SECTIONS else [])])
    else:
        done = subprocess.run([sys.executable, "-m", "prl", name, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_nothing_else_is_asked_of_a_shell() -> None:
    assert [part for part in parts() if not part.startswith(("make ", "prl ", PYTEST, *HARNESSES))] == []


@pytest.mark.parametrize("command", sorted({part for part in parts() if part.startswith(PYTEST)}))
def test_pytest_is_given_files_that_are_there(command: str) -> None:
    files = [word for word in shlex.split(command.removeprefix(PYTEST)) if word.startswith("tests/")]
    assert files
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_each_block_is_of_a_kind_that_is_checked() -> None:
    """yaml: the task that tests/test_harness.py reads; text: what something prints, or a trace."""
    fences = re.findall(r"^```(.*)$", TEXT, flags=re.MULTILINE)
    assert {*fences[::2]} <= {"sh", "python", "yaml", "text"}
    assert {*fences[1::2]} == {""}
    assert [block for block in blocks("yaml") if not block.startswith("task: ")] == []
    traces = [block for block in blocks("text") if "<Path>" in block]
    assert traces
    assert all(parse(trace).is_valid for trace in traces)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")  # TRL's own
@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_the_file_tree_names_what_is_there() -> None:
    (tree,) = [block for block in blocks("text") if block.startswith("src/prl/")]
    named = re.findall(r"^  (\S+)", tree, flags=re.MULTILINE)
    assert named
    assert [name for name in named if not (ROOT / "src" / "prl" / name.rstrip("/")).exists()] == []
    there = {
        path.name
        for path in (ROOT / "src" / "prl").iterdir()
        if path.suffix in ("", ".py") and not path.name.startswith("__")
    }
    assert there - {name.rstrip("/") for name in named} == set()

"""The command line: help, errors as one line, exit statuses. The stages are stand-ins here."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prl import __version__, cli, recipes
from prl.errors import DataError, RunError, UsageError
from prl.runs.checkpoints import seal
from prl.settings import arguments

COMMANDS = list(cli.SUMMARIES)
HELP_SECONDS = 0.3


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Put a stand-in in a stage's place; the list receives the settings it is called with."""

    def replace(
        module: str, function: str, error: BaseException | None = None, result: Any = None
    ) -> list[Any]:
        calls: list[Any] = []

        def record(*args: Any, **keywords: Any) -> Any:
            calls.extend([*args, *keywords.values()])
            if error:
                raise error
            return result

        monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{function: record}))
        return calls

    return replace


def prl(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "prl", *words], capture_output=True, text=True, **options)


# --- Help


@pytest.mark.parametrize(
    "words", [[], *([name] for name in COMMANDS)], ids=lambda words: words[0] if words else "prl"
)
def test_help_answers_at_once(words: list[str]) -> None:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        done = prl(*words, "--help")
        seconds.append(time.perf_counter() - started)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"usage: {' '.join(['prl', *words])}")
        if min(seconds) <= HELP_SECONDS:
            break
    assert min(seconds) <= HELP_SECONDS, seconds


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_nothing_heavy(name: str) -> None:
    code = (
        "import contextlib, io, sys\nfrom prl.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    main([{name!r}, '--help'])\n"
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'datasets', 'numpy', 'pyarrow', 'sympy', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", arguments.COMMANDS)
def test_help_shows_every_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    for field in arguments.COMMANDS[name].__dataclass_fields__:
        assert f"--{field} " in shown
    assert max(map(len, shown.splitlines())) <= 110


@pytest.mark.parametrize("name", arguments.TRAINER_CONFIGS)
def test_help_points_to_trls_flags_and_they_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([name, "--help"])
    shown = capsys.readouterr().out
    config = arguments.TRAINER_CONFIGS[name]
    assert f"Flags of trl.{config} go too, and one that would do nothing here is refused or told;" in shown
    assert cli.main([name, "--help-trainer"]) == 0
    everything = capsys.readouterr().out
    for flag in cli.MOST_USED[name].split():
        assert f"--{flag}" in shown
        assert f"--{flag}" in everything


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_overview_lists_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"prl {__version__}\n"


# --- Errors


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["stf"], "prl: unknown command 'stf'; nearest: sft; `prl --help` lists the commands"),
        (["evaluation"], "prl: unknown command 'evaluation'; nearest: eval; `prl --help` lists the commands"),
        (["xyzzy"], "prl: unknown command 'xyzzy'; `prl --help` lists the commands"),
        (["--sft"], "prl: unknown command '--sft'; nearest: sft; `prl --help` lists the commands"),
        (
            ["data", "--outputdir", "x"],
            "prl data: --outputdir: unknown setting; nearest: output_dir; `prl data --help`",
        ),
        (
            ["merge", "a", "--output_dir", "b", "--gguf", "m.gguf"],
            "prl merge: --gguf: unknown setting; nearest: gguf_type; `prl merge --help`",
        ),
        (["data", "x"], "prl data: unknown action 'x'; there is `prl data traces`, `prl data import`"),
        (["recipes", "shwo"], "prl recipes: argument {list,show,cp,validate}: invalid choice: 'shwo'"),
        (
            ["recipes", "show"],
            "prl recipes: the following arguments are required: NAME; `prl recipes show --help`",
        ),
        (["recipes", "show", "9gb"], "prl recipes: recipe '9gb' neither ships nor is a file; nearest:"),
        (["answers"], "prl answers: the following arguments are required: action"),
        (["answers", "explain", "1"], "prl answers: the following arguments are required: GOLD"),
        (["course"], "prl course: the following arguments are required: action"),
        (["course", "grade"], "prl course: the following arguments are required: DIR"),
    ],
)
def test_usage_error_is_one_line_and_status_2(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (RunError("runs/x is a finished sft run"), 1, "prl sft: runs/x is a finished sft run\n"),
        (DataError("no rows"), 1, "prl sft: no rows\n"),
        (UsageError("no such style"), 2, "prl sft: no such style\n"),
    ],
)
def test_stages_error_is_one_line(
    stage: Any, capsys: pytest.CaptureFixture[str], error: Exception, status: int, line: str
) -> None:
    stage("prl.sft", "run", error)
    assert cli.main(["sft", "--recipe", "tiny", "--threads", "1"]) == status
    assert capsys.readouterr().err == line


def test_bug_keeps_its_traceback(stage: Any) -> None:
    stage("prl.sft", "run", KeyError("a bug"))
    with pytest.raises(KeyError, match="a bug"):
        cli.main(["sft", "--recipe", "tiny", "--threads", "1"])


def test_an_interrupted_evaluation_names_its_samples(
    stage: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage(cli.MODULES["eval"], "run", KeyboardInterrupt())
    words = ["eval", "--recipe", "tiny", "--threads", "1", "--output_dir", str(tmp_path)]
    assert cli.main(words) == 1
    assert (
        "no checkpoint was written; the same command with --overwrite_output_dir" in capsys.readouterr().err
    )
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "step-000000-00.parquet").touch()
    assert cli.main(words) == 1
    assert capsys.readouterr().err == (
        "prl eval: interrupted; the samples so far are kept, "
        "and the same command with --resume goes on from them\n"
    )


def test_interrupt_names_what_is_kept(stage: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage(cli.MODULES["rl"], "run", KeyboardInterrupt())
    words = ["rl", "--recipe", "tiny", "--threads", "1", "--output_dir", str(tmp_path)]
    assert cli.main(words) == 1
    assert capsys.readouterr().err == (
        "prl rl: interrupted; no checkpoint was written; "
        "the same command with --overwrite_output_dir starts over\n"
    )
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
        seal(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-11").mkdir()  # torn
    assert cli.main(words) == 1
    assert capsys.readouterr().err == (
        f"prl rl: interrupted; {tmp_path / 'checkpoint-10'} is kept, "
        "and the same command with --resume goes on from it\n"
    )
    assert cli.main([*words, "--save_only_model"]) == 1
    assert capsys.readouterr().err == (
        f"prl rl: interrupted; {tmp_path / 'checkpoint-10'} is kept; start another run from it, "
        f"with --model_name_or_path {tmp_path / 'checkpoint-10'}\n"
    )


def test_interrupt_keeps_the_cold_start_that_rl_began_with(
    stage: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Amid it, and amid the RL before its first checkpoint; where RL alone was asked for it is not looked
    at."""
    stage(cli.MODULES["rl"], "run", KeyboardInterrupt())
    words = ["rl", "--recipe", "tiny", "--threads", "1", "--output_dir", str(tmp_path / "rl")]
    both = [*words, "--stages", '{"name": "cold-start"}', '{"name": "rl-general"}']
    cold_start = tmp_path / "rl-cold-start"
    starts_over = "no checkpoint was written; the same command with --overwrite_output_dir starts over\n"
    goes_on = "the cold start is kept, and the same command with --resume goes on\n"

    def said(words: list[str]) -> str:
        assert cli.main(words) == 1
        return capsys.readouterr().err.removeprefix("prl rl: interrupted; ")

    assert said(both) == starts_over
    (cold_start / "checkpoint-2").mkdir(parents=True)
    assert said(both) == starts_over, "torn"
    (cold_start / "checkpoint-2" / "trainer_state.json").write_text('{"global_step": 2}')
    seal(cold_start / "checkpoint-2")
    assert said(both) == goes_on
    shutil.rmtree(cold_start / "checkpoint-2")
    (cold_start / "DONE").write_text("{}")
    assert said(both) == goes_on
    assert said(words) == starts_over


def test_interrupt_before_the_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(words: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupt)
    assert cli.main(["sft"]) == 1
    assert capsys.readouterr().err == "prl sft: interrupted\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows reports a closed pipe as another error")
def test_reader_that_left_is_no_noise() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "prl", "recipes", "show", "6gb"], stdout=writing, stderr=subprocess.PIPE
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_exit_status_reaches_the_shell() -> None:
    done = prl("stf")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("prl: unknown command 'stf'")


# --- What runs


@pytest.mark.parametrize("command", cli.MODULES)
def test_stage_gets_its_settings(stage: Any, command: str) -> None:
    calls = stage(cli.MODULES[command], "run")
    words = {
        "demo": ["--threads", "1"],
        "compare": ["runs/a", "runs/b"],
        "rewards replay": ["runs/a"],
        "data traces": ["a.jsonl"],
        "data import": ["a.jsonl", "--format", "npr"],
        "data mix": ["a.jsonl"],
        "data push": ["runs/a", "me/a"],
        "data check": ["a.jsonl"],
        "data stats": ["a.jsonl"],
        "data show": ["a.jsonl"],
        "show": ["runs/a"],
        "report": ["runs/a"],
        "study": ["--seeds", "1"],
    }
    assert cli.main([*command.split(), *words.get(command, ["--recipe", "tiny", "--threads", "1"])]) == 0
    (settings,) = calls
    assert settings.command == command
    assert isinstance(settings.arguments, arguments.COMMANDS[command])
    assert (settings.trainer is not None) == (command in arguments.TRAINER_CONFIGS)


def test_merge_gets_adapter_and_folder(stage: Any, capsys: pytest.CaptureFixture[str]) -> None:
    calls = stage("prl.model", "merge_and_verify", result=2e-6)
    words = ["merge", "--model", "runs/x/rl", "--output_dir", "merged", "--save_dtype", "bfloat16"]
    assert cli.main(words) == 0
    assert calls[:7] == ["runs/x/rl", Path("merged"), torch.bfloat16, 4, 256, 0, "cpu"]
    assert "by at most 2.0e-06" in capsys.readouterr().out


def test_data_gets_the_folder(stage: Any) -> None:
    calls = stage("prl.data.problems", "write_sets")
    assert cli.main(["data"]) == 0
    assert calls == [Path("data")]


def test_responses_go_to_stdout_and_remarks_to_stderr(stage: Any, capsys: pytest.CaptureFixture[str]) -> None:
    responses = [SimpleNamespace(text="4", truncated=False), SimpleNamespace(text="It is", truncated=True)]
    calls = stage("prl.evaluation", "respond", result=responses)
    assert cli.main(["generate", "2 + 2?", "--model", "tiny", "--samples", "2", "--threads", "1"]) == 0
    assert calls[0].arguments.problem == "2 + 2?"
    out, err = capsys.readouterr()
    assert out == "--- 1 of 2\n4\n--- 2 of 2\nIt is\n"
    assert err == (
        "recipe: tiny: it goes with the model that ships\n"
        "attention: causal: tiny is a base model\n"
        "cut off at --max_completion_length 256\n"
    )


def test_problem_comes_from_stdin_too(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stage("prl.evaluation", "respond", result=[])
    monkeypatch.setattr(sys, "stdin", io.StringIO("  What is 17 * 23?\n"))
    assert cli.main(["generate", "--recipe", "tiny", "--threads", "1"]) == 0
    assert calls[0].arguments.problem == "What is 17 * 23?"


def test_no_problem_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(" \n"))
    assert cli.main(["generate", "--recipe", "tiny", "--threads", "1"]) == 2
    assert capsys.readouterr().err.startswith("prl generate: no problem: `prl generate ")


@pytest.mark.parametrize("words", [["recipes"], ["recipes", "list"]])
def test_recipes_are_listed_with_their_titles(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    bases, overlays = lines[: len(recipes.NAMES)], lines[len(recipes.NAMES) + 2 :]
    assert [line.split()[0] for line in bases] == list(recipes.NAMES)
    assert "Qwen3-0.6B-Base" in bases[recipes.NAMES.index("6gb")]
    assert [line.split()[0] for line in overlays] == list(recipes.OVERLAYS)


def test_recipe_is_copied_changed_and_validated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.yaml"
    assert cli.main(["recipes", "cp", "tiny", str(own)]) == 0
    cli.main(["recipes", "show", "tiny"])
    assert own.read_text(encoding="utf-8") in capsys.readouterr().out
    assert cli.main(["recipes", "validate", str(own)]) == 0
    assert capsys.readouterr().out == f"{own}: valid for sft, rl, eval, generate\n"

    assert cli.main(["recipes", "cp", "tiny", str(own)]) == 2
    assert capsys.readouterr().err == f"prl recipes: {own} exists; name another file\n"
    assert cli.main(["recipes", "cp", "tiny", str(tmp_path)]) == 0
    assert (tmp_path / "tiny.yaml").is_file()
    assert cli.main(["recipes", "cp", "tiny", str(tmp_path / "no" / "own.yaml")]) == 2
    assert "cannot be written: No such file or directory" in capsys.readouterr().err

    own.write_text(
        own.read_text(encoding="utf-8").replace("max_steps: 300", "max_step: 300"), encoding="utf-8"
    )
    assert cli.main(["recipes", "validate", str(own)]) == 2
    assert "max_step: unknown setting; nearest: max_steps" in capsys.readouterr().err


def test_answers_explain_prints_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["answers", "explain", "-1/2", "-0.5"]) == 0
    assert "equal" in capsys.readouterr().out
    assert cli.main(["answers", "explain", "The answer is 1/2.", "0.5"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("prediction    'The answer is 1/2.'\n  extracted   1/2\n")
    assert "\nverdict       equal: equal\n" in out


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_letters_that_stdout_cannot_write_are_escaped(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a pipe on Windows, or a locale of another encoding."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert cli.main(["answers", "explain", "√2", "1.41"]) == 0
    assert b"prediction    '\\u221a2'" in out.buffer.getvalue()  # type: ignore[attr-defined]
    assert cli.main(["√"]) == 2
    err.flush()
    assert b"prl: unknown command '\\u221a'" in err.buffer.getvalue()  # type: ignore[attr-defined]


def test_drawings_go_to_a_stdout_that_has_no_lines_to_draw_with() -> None:
    trace = "<Parallel>\n<Path>\n1 + 2 = 3\n</Path>\n<Path>\n2 + 1 = 3\n</Path>\n</Parallel>\n√9 = 3\n"
    done = subprocess.run(
        [sys.executable, "-m", "prl", "show", "-"],
        input=trace.encode(),
        capture_output=True,
        env=os.environ | {"PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u221a9" in done.stdout


def test_streams_that_can_write_all_or_cannot_be_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, errors in (
        (io.TextIOWrapper(io.BytesIO(), encoding="UTF8"), "strict"),
        (io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace"), "replace"),
        (io.StringIO(), None),
    ):
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(["--version"]) == 0
        assert stream.errors == errors
    monkeypatch.setattr(sys, "stderr", None)
    cli._let_print_all(sys.stderr)


@pytest.mark.parametrize(
    ("command", "said", "unsaid"),
    [("merge", "where to compute [cpu]", "auto: a CUDA"), ("demo", " or tiny [tiny-search", "a YAML file")],
)
def test_a_flag_that_takes_other_values_has_its_own_help(
    command: str, said: str, unsaid: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main([command, "--help"])
    shown = "".join(capsys.readouterr().out.split())
    assert said.replace(" ", "") in shown
    assert unsaid.replace(" ", "") not in shown
    cli.main(["eval", "--help"])
    shown = "".join(capsys.readouterr().out.split())
    assert "auto:aCUDAGPUifthereisone" in shown
    assert "aYAMLfile" in shown


def test_the_help_of_the_demo_names_every_recipe_that_it_takes() -> None:
    from prl.study.demo import KINDS

    text = arguments.DemoArguments.__dataclass_fields__["recipe"].metadata["help"]
    assert {*text.removeprefix("which: ").replace(" or ", ", ").split(", ")} == {*KINDS}


# --- make

ROOT = Path(__file__).resolve().parents[1]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")


@needs_make
def test_make_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = next(line for line in makefile.splitlines() if line.startswith(".PHONY:")).split()[1:]
    plain = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    shown = subprocess.run(["make"], cwd=ROOT, env=plain, capture_output=True, text=True, check=True).stdout
    listed = [line.split()[0] for line in shown.splitlines()]
    assert sorted(listed) == sorted([*targets, "variables:"])


@needs_make
def test_make_compare_keeps_the_demos_that_are_done(tmp_path: Path) -> None:
    (tmp_path / "compare" / "causal").mkdir(parents=True)
    (tmp_path / "compare" / "causal" / "demo.json").touch()
    done = subprocess.run(
        ["make", "-n", "compare", f"RUN={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--attention structured" in done.stdout
    assert "--attention causal" not in done.stdout


@needs_make
@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["sft"], "prl sft --output_dir 'runs/default/sft'"),
        (["rl"], "prl rl --output_dir 'runs/default/rl' --model_name_or_path 'runs/default/sft'"),
        (["eval"], "prl eval --output_dir 'runs/default/eval' --model_name_or_path 'runs/default/rl'"),
        (["demo", "SEED=3"], "prl demo --seed 3"),
        (["show", "RUN=runs/a", "ARGS=--wrong"], "prl show 'runs/a' --wrong"),
        (
            ["demo", "ATTENTION=structured"],
            "prl demo --attention 'structured' --output_dir 'runs/demo-structured'",
        ),
        (
            ["demo", "RECIPE=tiny-search"],
            "prl demo --recipe 'tiny-search' --output_dir 'runs/demo-tiny-search'",
        ),
        (["rl", "ATTENTION=causal"], "--model_name_or_path 'runs/default/sft' --attention 'causal'"),
        (
            ["compare", "RUN=runs/none", "SEED=3"],
            "prl demo --attention causal --output_dir 'runs/none/compare-seed-3/causal' --seed 3",
        ),
        (
            ["compare", "RUN=runs/none"],
            "prl compare 'runs/none/compare/causal' 'runs/none/compare/structured'",
        ),
        (
            ["sft", "RUN=runs/a", "RECIPE=8gb", "MODEL=m", "DATA=d.jsonl", "SEED=1", "ARGS=--limit 5"],
            "prl sft --output_dir 'runs/a/sft' --model_name_or_path 'm' --recipe '8gb' --dataset 'd.jsonl' "
            "--seed 1 --limit 5",
        ),
        (
            ["generate", "PROBLEM=2+2?"],
            "prl generate \"$PROBLEM_TEXT\" --model_name_or_path 'runs/default/rl'",
        ),
    ],
)
def test_make_steers_the_stages(words: list[str], command: str) -> None:
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert command in " ".join(done.stdout.split())


def test_pythons_that_are_missing_are_named_on_the_last_line(tmp_path: Path) -> None:
    """As `make test-pythons` and so CI ends; a name of pyenv's that leads nowhere counts as missing."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "python3.13").write_text("#!/bin/sh\nexit 127\n")
    (bin_folder / "python3.13").chmod(0o755)
    environment = os.environ | {"PATH": str(bin_folder), "PYENV_ROOT": str(tmp_path)}
    command = [sys.executable, str(ROOT / "tests" / "other_pythons.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == (
        "tests without torch: Python 3.12 is missing, nothing was run on it; "
        "3.13 is missing, nothing was run on it"
    )

"""prl doctor: on this machine, for cards that are not here, and a recipe that fits."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from prl import cli, config, doctor, recipes
from prl.errors import UsageError
from prl.machine import hardware
from prl.machine.hardware import USABLE, Machine
from prl.machine.memory import GIB
from prl.settings.arguments import DoctorArguments
from prl.settings.reading import flags_of

CARDS = [name for name in recipes.NAMES if not name.startswith("tiny")]


@pytest.fixture(autouse=True)
def no_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying it takes a process and seconds; it has tests of its own."""
    monkeypatch.setattr(doctor, "_try_bitsandbytes", lambda device: None)


def say(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = cli.main(["doctor", *words])
    out, err = capsys.readouterr()
    return status, out, err


def card(gib: float) -> Machine:
    return Machine("cuda", f"a GPU with {gib:g} GiB free", gib, gib, has_bfloat16=True)


def test_the_machine_and_every_stage_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = say(capsys, "--recipe", "tiny", "--lora_r", "8")
    assert (status, err) == (0, "")
    facts = dict(re.findall(r"^(\S.{12}) (\S.*)$", out, flags=re.MULTILINE))
    assert {name.strip() for name in facts} >= {"GPU", "RAM", "disk", "threads", "Python", "libraries"}
    assert f"torch {importlib.metadata.version('torch')}" in out
    assert "no: bitsandbytes is not installed" in out
    assert re.findall(
        r"^(\w+): tiny, recipe tiny, causal: [\d.]+ GiB at the \w+", out, flags=re.MULTILINE
    ) == [
        "sft",
        "rl",
        "eval",
    ]
    assert out.count("KV cache") == 3
    assert "rank 8" in out


def test_a_recipe_that_was_chosen_is_told_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = say(capsys, "eval")
    assert re.search(r"^recipe        (\S+): \S.*$", out, flags=re.MULTILINE)
    _, out, _ = say(capsys, "eval", "--recipe", "tiny")
    assert "\nrecipe" not in out


def test_no_process_is_left_behind_where_the_settings_are_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [sys.executable, "-c", "import sys; sys.stdin.read()"]  # ends with this test at the latest
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(words, text=True, **pipes)
    monkeypatch.setattr(doctor, "_try_bitsandbytes", lambda device: process)
    assert say(capsys, "--model", "./nope")[0] == 1
    assert process.poll() is not None


def test_items_add_up_to_the_peak() -> None:
    for found in doctor.examine(DoctorArguments(recipe="24gb"), [], card(24)):
        lines = [*doctor.report(found)]
        peak = float(re.search(r": ([\d.]+) GiB at", lines[0])[1])  # type: ignore[index]
        sizes = [
            float(size) / (1 if unit == "GiB" else 1024)
            for line in lines
            if "not at the peak" not in line
            for size, unit in re.findall(r"^  \S.{15}\s+([\d.]+) ([GM]iB)", line)
        ]
        assert sum(sizes) == pytest.approx(peak, abs=0.005 * len(sizes))


def test_a_stage_that_will_not_fit_is_an_error_with_what_to_change(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, err = say(capsys, "rl", "--recipe", "16gb", "--memory", "8")
    assert status == 1
    assert err == (
        "prl doctor: rl will not fit a GPU with 8 GiB free: change it as told above, or let --fit FILE "
        "write a recipe\n"
    )
    (step,) = re.findall(r"^  1\. (--\S+) (\d+): ([\d.]+) GiB; ", out, flags=re.MULTILINE)
    assert step[0] == "--rollout_batch_size"
    assert float(step[2]) <= 8
    (command,) = re.findall(r"^  prl (rl .*)$", out, flags=re.MULTILINE)
    words = command.split()
    again = doctor.examine(DoctorArguments(stage="rl", recipe="16gb"), flags_of(words[1:])[3:], card(8))
    assert again[0].fits, "the command that was told"


def test_nothing_fits_a_card_of_one_gib(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, _, err = say(capsys, "--recipe", "6gb", "--memory", "0.5")
    assert status == 1
    assert err.endswith("will not fit a GPU with 0.5 GiB free: take a larger GPU\n")
    status, _, err = say(capsys, "--recipe", "6gb", "--memory", "0.5", "--fit", str(tmp_path / "fit.yaml"))
    assert status == 1
    assert "no setting makes sft and rl and eval fit" in err
    assert not (tmp_path / "fit.yaml").exists()


@pytest.mark.parametrize("recipe", ["24gb", "16gb+scaffold", "24gb+structured-alternating"])
def test_a_recipe_that_fits_is_written_and_fits(
    recipe: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "fit.yaml"
    status, out, err = say(
        capsys, "--recipe", recipe, "--memory", "6", "--fit", str(file), "--learning_rate", "3e-5"
    )
    assert (status, err) == (0, "")
    assert f"{file}: fits" in out
    given = DoctorArguments(recipe=str(file))
    assert all(found.fits for found in doctor.examine(given, [], card(6)))
    text = file.read_text(encoding="utf-8")
    assert text.startswith(f"# {recipe}, made to fit a GPU with 6 GiB free by `prl doctor --fit`.")
    assert [*yaml.safe_load(text)][-4:] == [*recipes.SECTIONS]
    # All else is the recipe's own, and the flags are in.
    here = card(6)
    before, after = (config.plan("rl", flags_of(["--recipe", name]), here) for name in (recipe, str(file)))
    assert after.trainer.learning_rate == pytest.approx(3e-5)
    assert after.trainer.max_steps == before.trainer.max_steps
    assert after.arguments.stages == before.arguments.stages
    assert after.arguments.attention == before.arguments.attention
    product = [
        each.trainer.per_device_train_batch_size * each.trainer.gradient_accumulation_steps
        for each in (before, after)
    ]
    assert product[0] == product[1]


def test_all_stages_of_a_recipe_that_fits_share_the_model(tmp_path: Path) -> None:
    file = tmp_path / "fit.yaml"
    given = DoctorArguments(recipe="24gb", fit=str(file), memory=4.0)
    doctor.run(config.Settings("doctor", given), [])
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert found["model_name_or_path"] in ("Qwen/Qwen3-0.6B-Base", "Qwen/Qwen3-1.7B-Base")
    assert not any("model_name_or_path" in found[section] for section in recipes.SECTIONS)


def test_a_generation_of_a_size_of_its_own_keeps_it_and_the_advice_can_be_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside a generation_batch_size TRL refuses steps_per_generation."""
    own, file = tmp_path / "own.yaml", tmp_path / "fit.yaml"
    own.write_text(
        "rl:\n  generation_batch_size: 64\n  per_device_train_batch_size: 8\n  num_generations: 8\n"
        "  gradient_accumulation_steps: 8\n  steps_per_generation: null\n  save_steps: 64\n"
        "  max_completion_length: 4096\n"
    )
    words = ["rl", "--recipe", f"6gb+{own}", "--memory", "3"]
    status, out, _ = say(capsys, *words)
    (command,) = re.findall(r"^  prl rl (.*)$", out, flags=re.MULTILINE)
    assert status == 1
    assert "--per_device_train_batch_size" in command
    assert "--steps_per_generation" not in out
    planned = config.plan("rl", flags_of(command.split()), card(3)).trainer
    assert planned.per_device_train_batch_size < 8
    assert planned.generation_batch_size == 64
    assert planned.gradient_accumulation_steps * planned.per_device_train_batch_size == 64

    status, out, err = say(capsys, *words, "--fit", str(file))
    assert (status, err) == (0, "")
    fits = config.plan("rl", flags_of(["--recipe", str(file)]), card(3)).trainer
    assert fits.generation_batch_size == 64


def test_a_recipe_that_is_refused_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(recipe: str) -> list[str]:
        assert yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))["sft"]
        raise UsageError("TRL refuses these settings")

    monkeypatch.setattr(config, "validate", refuse)
    words = ["--recipe", "tiny", "--memory", "6", "--fit", str(tmp_path / "fit.yaml")]
    assert say(capsys, *words)[::2] == (2, "prl doctor: TRL refuses these settings\n")
    assert [*tmp_path.iterdir()] == []


def test_no_place_to_write_to_goes_into_a_recipe_that_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be that of every command."""
    file = tmp_path / "fit.yaml"
    words = ["--recipe", "tiny", "--memory", "6", "--fit", str(file), "--seed", "3"]
    assert say(capsys, *words, "--output_dir", str(tmp_path / "x"), "--overwrite_output_dir")[0] == 0
    sections = [yaml.safe_load(file.read_text(encoding="utf-8"))[name] for name in ("sft", "rl", "eval")]
    assert [int(section["seed"]) for section in sections] == [3, 3, 3]
    assert not any({"output_dir", "overwrite_output_dir"} & section.keys() for section in sections)


def test_a_file_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("sft: {}\n")
    assert say(capsys, "--memory", "6", "--fit", str(file))[::2] == (
        2,
        f"prl doctor: {file} exists; name another file\n",
    )
    assert file.read_text() == "sft: {}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rll"], "'rll' is no stage; nearest: rl"),
        (["--learning_rat", "1"], "--learning_rat: unknown setting; nearest: learning_rate"),
        (["eval", "--learning_rate", "1"], "--learning_rate: unknown setting"),
        (["--memory", "0"], "memory: 0.0 must be greater than 0"),
        (["--recipe", "9gb"], "recipe '9gb' neither ships nor is a file"),
        (["--model", "nobody/nothing-here"], "the config.json of 'nobody/nothing-here' cannot be read"),
    ],
)
def test_slips_are_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    status, _, err = say(capsys, *words)
    assert status in (1, 2)
    assert message in err
    assert err.count("\n") == 1


def test_no_weights_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import json

    from prl import tiny

    described = json.loads((Path(tiny.resolve("tiny")) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described))
    given = DoctorArguments(recipe="tiny", model_name_or_path=str(tmp_path))
    assert len(doctor.examine(given, [], Machine("cpu", "CPU"))) == 3


HEADROOM = 0.2
"""Share of a card that its recipe leaves, until one has measured the forecast: that lies 22 to 23 % under
LitGPT's 4-bit peaks, which are of updates, while a recipe's is its rollout's (docs/memory.md)."""


@pytest.mark.parametrize("name", CARDS)
def test_recipes_state_their_forecast_and_fit(name: str) -> None:
    """The head of a recipe says what `prl doctor` says for the card that it is made for."""
    free = USABLE * int(name.removesuffix("gb"))
    head = recipes.locate(name).read_text(encoding="utf-8").partition("\n\n")[0]
    text = " ".join(line.lstrip("# ") for line in head.splitlines())
    assert f"`prl doctor --recipe {name} --memory {free:.1f}`" in text
    stated = re.search(r"sft ([\d.]+), rl ([\d.]+), eval ([\d.]+) GiB, of ([\d.]+) that", text)
    assert stated
    found = doctor.examine(DoctorArguments(recipe=name), [], card(free))
    assert [f"{each.forecast.peak / GIB:.1f}" for each in found] == list(stated.groups()[:3])
    assert max(each.forecast.peak / GIB for each in found) <= (1 - HEADROOM) * free


def test_an_evaluation_is_of_what_was_trained() -> None:
    (found,) = doctor.examine(DoctorArguments(stage="eval", recipe="8gb"), [], card(8))
    assert {"adapter", "copied weights"} <= {item.name for item in found.forecast.items}


def test_a_float16_card_takes_more() -> None:
    """There the residual stream is float32 (`prl.model.load_model`)."""
    old = Machine("cuda", "an old card", 15.0, 14.0, has_bfloat16=False)
    new = Machine("cuda", "a card", 15.0, 14.0, has_bfloat16=True)
    before, after = (
        doctor.examine(DoctorArguments(stage="rl", recipe="8gb"), [], each)[0] for each in (new, old)
    )
    assert after.settings.arguments.dtype == "float16"
    assert after.forecast.peak > before.forecast.peak


# --- bitsandbytes, in a process of its own


def ended(code: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", code]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_a_library_that_fails_or_crashes_is_told_by_its_last_line() -> None:
    assert doctor._verdict(ended("")) == "yes"
    assert (
        doctor._verdict(ended("raise RuntimeError('CUDA Setup failed')"))
        == "no: RuntimeError: CUDA Setup failed"
    )
    assert doctor._verdict(ended("import os; os.abort()")).startswith("no: it ended with status -")


def test_a_library_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PATIENCE", 0.1)
    process = ended("import threading; threading.Event().wait()")
    assert doctor._verdict(process) == "no: bitsandbytes did not answer within 0 s"
    assert process.returncode


@pytest.mark.slow
def test_quantising_here_works() -> None:
    pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes")
    words: list[Any] = [sys.executable, "-c", doctor._QUANTISE, hardware.this_machine().device]
    assert subprocess.run(words, check=False, capture_output=True).returncode == 0

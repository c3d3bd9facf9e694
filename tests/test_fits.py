"""What cannot fit the memory is refused before it is computed, by the forecast and by what is there."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl import cli, config, doctor, evaluation, rl, sft
from prl.config import resolve
from prl.errors import RunError
from prl.machine import fitting, hardware
from prl.machine.fitting import Extent, check_fits
from prl.machine.hardware import Machine, group_free, memory_limit
from prl.machine.load import load_of
from prl.machine.memory import GIB, forecast
from prl.machine.shape import read_shape
from prl.settings import Settings
from prl.settings.reading import flags_of
from prl.trainer import setup

MANY = 100_000_000
EVALUATING = {"eval_dataset": "arithmetic:heldout", "eval_strategy": "steps", "eval_steps": 10}


def files(root: Path, **contents: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (root / name.replace("__", ".")).write_text(content)


V1 = {"memory__limit_in_bytes": "1000", "memory__usage_in_bytes": "700"}
V1_STAT = "cache 5\ntotal_inactive_file 60\ntotal_active_file 40\n"
V2 = {"memory__max": "500", "memory__current": "450"}


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert group_free(tmp_path / "none", tmp_path) is None
    files(tmp_path, listed="0::/\n1:name=systemd:/\nnonsense\n")
    assert group_free(tmp_path / "listed", tmp_path) is None


def test_a_container_of_version_1(tmp_path: Path) -> None:
    files(tmp_path, listed="5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    files(tmp_path / "memory", **V1, memory__stat=V1_STAT)
    assert group_free(tmp_path / "listed", tmp_path) == 400, "the path is the host's; cached files are free"
    files(tmp_path / "memory/docker/abc", memory__limit_in_bytes="800", memory__usage_in_bytes="750",
          memory__stat="total_active_file 10\n")  # fmt: skip
    assert group_free(tmp_path / "listed", tmp_path) == 60, "the narrowest of a group and those above it"


def test_a_scheduler_of_version_2(tmp_path: Path) -> None:
    files(tmp_path, listed="0::/jobs/7\n")
    files(tmp_path / "jobs/7", memory__max="max", memory__current="450", memory__stat="inactive_file 9\n")
    assert group_free(tmp_path / "listed", tmp_path) is None
    files(tmp_path / "jobs", **V2, memory__stat="inactive_file 7\nactive_file 3\n")
    assert group_free(tmp_path / "listed", tmp_path) == 60
    files(tmp_path / "jobs", memory__current="900")
    assert group_free(tmp_path / "listed", tmp_path) == 0


def test_the_limit_is_the_least_of_machine_and_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is used of it: groups of 1000 and 800 bytes, one without a limit, and none."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=900))
    assert memory_limit("cpu", tmp_path / "none", tmp_path) == 900
    files(tmp_path, listed="4:memory:/docker/abc\n0::/jobs/7\n")
    files(tmp_path / "memory", **V1)
    files(tmp_path / "jobs/7", memory__max="max")
    assert memory_limit("cpu", tmp_path / "listed", tmp_path) == 900
    files(tmp_path / "memory/docker/abc", memory__limit_in_bytes="800")
    assert memory_limit("cpu", tmp_path / "listed", tmp_path) == 800
    files(tmp_path / "jobs", **V2)
    assert memory_limit("cpu", tmp_path / "listed", tmp_path) == 500
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory_limit("cpu", tmp_path / "listed", tmp_path) == 125, "which four processes share"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (600, 800))
    assert memory_limit("cuda", tmp_path / "listed", tmp_path) == 800


def test_the_limit_of_a_container_is_what_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: SimpleNamespace(rss=2 * GIB))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GIB))
    monkeypatch.setattr(hardware, "group_free", lambda: None)
    assert hardware.usable_memory("cpu") == 10 * GIB
    monkeypatch.setattr(hardware, "group_free", lambda: 4 * GIB)
    assert hardware.usable_memory("cpu") == 6 * GIB
    monkeypatch.setattr(hardware.sys, "platform", "linux")
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(free=GIB))
    assert hardware.usable_memory("cpu", swap=True) == 7 * GIB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert hardware.usable_memory("cpu") == 3 * GIB, "four processes share what is free"


def test_doctor_says_what_the_container_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hardware, "group_free", lambda: GIB // 2)
    facts = dict(doctor.facts(Machine("cpu", "CPU", note="none"), str(tmp_path), None))
    assert facts["RAM"].endswith(" GiB free, 0.5 in this container")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch):
    """Set how many GiB there are, and that nothing more can be swapped out."""

    def hold(gib: float) -> None:
        monkeypatch.setattr(hardware, "usable_memory", lambda device, *, swap=False: int(gib * GIB))

    return hold


def asked(command: str, **given: Any) -> Settings[Any]:
    return resolve(command, recipe="tiny", threads=1, **given)


def on_a_card(command: str, **given: Any) -> Settings[Any]:
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    card = Machine("cuda", "a card", 80, 80, has_bfloat16=True)
    return config.plan(command, flags_of(["--recipe", "24gb", *words]), card)


def test_a_batch_of_all_rows_that_does_not_fit_is_refused_with_one_that_does(memory: Any) -> None:
    memory(6)
    extent = Extent(600, 300, held_out=60, longest_held_out=300)
    with pytest.raises(RunError) as error:
        check_fits(asked("sft", per_device_train_batch_size=MANY), extent)
    said = str(error.value)
    told = re.fullmatch(
        r"sft will not fit the memory: forecast ([\d.]+) GiB, 6.0 are free: "
        r"--per_device_train_batch_size (\d+) --gradient_accumulation_steps (\d+) \(([\d.]+)\): "
        r"prl sft --recipe tiny .*",
        said,
    )
    assert told, said
    assert float(told[1]) < 30, "of 600 rows, not of 10^8"
    rows, passes = int(told[2]), int(told[3])
    assert 600 <= rows * passes <= 1200, "a step is of all rows, as it was"
    changed = asked("sft", per_device_train_batch_size=rows, gradient_accumulation_steps=passes)
    check_fits(changed, extent)


def test_what_the_data_bounds_passes_without_a_word(memory: Any, capsys: pytest.CaptureFixture[str]) -> None:
    memory(2)
    check_fits(
        asked("sft", per_device_train_batch_size=MANY), Extent(20, 300, held_out=2, longest_held_out=300)
    )
    check_fits(
        asked("sft", per_device_train_batch_size=MANY), Extent(600, 20, held_out=60, longest_held_out=20)
    )
    check_fits(asked("eval", batch_size=MANY), Extent(64, 40))
    check_fits(asked("sft"), Extent(10_000, 300, held_out=64, longest_held_out=300))
    check_fits(asked("rl"), Extent(20_000, 60))
    held_out = {"held_out": 64, "longest_held_out": 60}
    check_fits(asked("rl", **EVALUATING, per_device_eval_batch_size=MANY), Extent(20_000, 60, **held_out))
    check_fits(asked("rl", eval_dataset="arithmetic:heldout"), Extent(20_000, 60, 20_000, 9000))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("settings", "extent", "flag"),
    [
        (("eval", {"batch_size": MANY}), Extent(200_000, 60), "--batch_size"),
        (
            ("rl", {"per_device_train_batch_size": 8192, "gradient_accumulation_steps": 1}),
            Extent(20_000, 60),
            "--per_device_train_batch_size",
        ),
        (
            ("sft", {"per_device_eval_batch_size": MANY}),
            Extent(600, 300, held_out=5000, longest_held_out=300),
            "--per_device_eval_batch_size",
        ),
        (
            ("rl", EVALUATING | {"per_device_eval_batch_size": MANY}),
            Extent(20_000, 60, held_out=20_000, longest_held_out=60),
            "--per_device_eval_batch_size",
        ),
    ],
    ids=["eval", "rl", "held-out rows", "held-out responses"],
)
def test_other_batches(memory: Any, settings: Any, extent: Extent, flag: str) -> None:
    memory(1)
    command, given = settings
    with pytest.raises(RunError) as error:
        check_fits(asked(command, **given), extent)
    assert str(error.value).startswith(f"{command} will not fit the memory: forecast ")
    assert flag in str(error.value)
    assert "\n" not in str(error.value)


def test_what_may_fit_is_told(memory: Any, capsys: pytest.CaptureFixture[str]) -> None:
    memory(0.6)
    check_fits(asked("rl"), Extent(20_000, 60))  # 256 responses of up to 256 tokens, but one token is certain
    said = capsys.readouterr().err
    assert said.startswith(
        "warning: rl may not fit the memory: forecast 0.8 GiB, 0.6 are free: --per_device_train"
    )
    assert said.count("\n") == 1


def test_the_error_of_the_forecast_is_left_open(memory: Any) -> None:
    settings, extent = asked("sft"), Extent(10_000, 300, held_out=64, longest_held_out=300)
    peak = forecast(read_shape("tiny"), fitting._most(load_of(settings), extent)).peak / GIB
    memory(peak / 1.14)
    check_fits(settings, extent)
    memory(peak / 1.16)
    with pytest.raises(RunError, match="sft will not fit the memory"):
        check_fits(settings, extent)


def test_weights_alone_are_looked_at_before_they_are_loaded(memory: Any) -> None:
    memory(8)  # 0.6 billion: 2.2 GiB, and the copies of them with which the decoder is tried
    check_fits(resolve("sft", recipe="6gb", device="cpu", threads=1))
    for command in ("sft", "rl", "eval"):
        with pytest.raises(RunError, match=f"{command} will not fit the memory: forecast"):
            check_fits(
                resolve(
                    command, recipe="6gb", device="cpu", threads=1, model_name_or_path="Qwen/Qwen3-8B-Base"
                )
            )


def test_a_card_is_refused_only_what_not_even_one_row_of_fits(
    memory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    extent = Extent(5000, 800, held_out=100, longest_held_out=800)
    settings = on_a_card("sft", per_device_train_batch_size=MANY)
    memory(20)
    check_fits(settings, extent)
    assert capsys.readouterr().err.startswith(
        "warning: sft may not fit the memory, then fewer rows are computed at once: forecast "
    )
    memory(1)
    for known in (extent, None):
        with pytest.raises(RunError, match="sft will not fit the memory"):
            check_fits(settings, known)


def test_an_architecture_that_is_not_known_passes(memory: Any, tmp_path: Path) -> None:
    memory(0.001)
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    check_fits(asked("eval", model_name_or_path=str(tmp_path)), Extent(5, 5))


@given(
    rows=st.integers(1, 10**9), longest=st.integers(1, 4000), held_out=st.integers(0, 1000),
    longest_held_out=st.integers(1, 4000), batch=st.sampled_from([1, 7, 64, MANY]),
    command=st.sampled_from(["sft", "rl", "eval"]),
)  # fmt: skip
def test_the_least_is_never_more_than_the_most(command: str, batch: int, **given: Any) -> None:
    load = LOADS[command]
    extent = Extent(**given)
    most = fitting._most(fitting.replace(load, rows=min(load.rows, 1) * batch, rollout_rows=batch), extent)
    shape = read_shape("tiny")
    assert all(
        forecast(shape, each).peak <= forecast(shape, most).peak for each in fitting._least(most, extent)
    )


LOADS = {
    command: load_of(asked(command, **(EVALUATING if command == "rl" else {})))
    for command in ("sft", "rl", "eval")
}


@pytest.mark.parametrize(
    ("given", "merged", "why"),
    [
        ({"dtype": "bfloat16"}, True, "merged: "),
        ({"dtype": "bfloat16", "rollout_weights": "adapter"}, False, ""),
        ({"dtype": "bfloat16", "rollout_weights": "merged"}, True, ""),
        ({"dtype": "float32"}, False, ""),
        ({"dtype": "float32", "rollout_weights": "merged"}, False, ""),
        ({"dtype": "float32", "load_in_4bit": True}, True, "merged: "),
    ],
)
def test_merged_rollouts_where_they_fit(memory: Any, given: dict[str, Any], merged: bool, why: str) -> None:
    memory(64)
    found, told = fitting.merges(asked("rl", **given))
    assert found == merged
    assert told.startswith(why)
    assert bool(told) == bool(why)


def test_merged_rollouts_are_not_taken_where_they_do_not_fit(memory: Any, tmp_path: Path) -> None:
    settings = on_a_card("rl", model_name_or_path="Qwen/Qwen3-4B-Base")
    plain = forecast(read_shape("Qwen/Qwen3-4B-Base"), load_of(settings)).peak
    needed = replace(load_of(settings), is_merged=True)
    peak = forecast(read_shape("Qwen/Qwen3-4B-Base"), needed).peak
    assert peak >= plain
    for room, fits in ((peak, True), (peak - 1, False)):
        found, told = fitting.merges(settings, room)
        assert found == fits
        assert re.fullmatch(
            rf"{'merged' if fits else 'adapter'}: [\d.]+ GiB are forecast with merged ones, [\d.]+ are free",
            told,
        )
    unknown = tmp_path / "config.json"
    unknown.write_text('{"model_type": "mamba"}')
    assert fitting.merges(asked("rl", dtype="bfloat16", model_name_or_path=str(tmp_path))) == (
        False,
        "adapter: what merged weights would take is not known of this model",
    )


def test_it_takes_no_time() -> None:
    settings = asked("sft", per_device_train_batch_size=MANY)
    started = time.process_time()
    check_fits(settings)
    check_fits(settings, Extent(20, 300))
    assert time.process_time() - started < 0.2


@pytest.mark.parametrize(
    ("command", "batch", "gib", "more"),
    [
        ("sft", "per_device_train_batch_size", 0.5, {}),
        ("eval", "batch_size", 0.05, {}),
        ("rl", "per_device_eval_batch_size", 0.3, EVALUATING),
    ],
)
def test_a_batch_of_10_to_the_8_is_one_line_on_the_command_line(
    command: str,
    batch: str,
    gib: float,
    more: dict[str, Any],
    memory: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory(gib)
    for stage, trainer in ((sft, "SFT"), (rl, "GRPO")):
        monkeypatch.setattr(stage, trainer, lambda *_, **__: pytest.fail("a trainer was built"))
    monkeypatch.setattr(evaluation.ForkJoinDecoder, "generate", lambda *_, **__: pytest.fail("it decodes"))
    words = [command, "--recipe", "tiny", "--threads", "1", "--limit", "600", f"--{batch}", str(MANY)]
    words += [word for name, value in more.items() for word in (f"--{name}", str(value))]
    assert cli.main([*words, "--output_dir", str(tmp_path / "run")]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"prl {command}: {command} will not fit the memory: forecast ")
    assert f"--{batch} " in last


def test_no_model_is_loaded_that_cannot_fit(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory(0.001)
    for loading in (setup, evaluation):
        monkeypatch.setattr(loading, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(RunError, match="generate will not fit the memory"):
        evaluation.respond(asked("generate", problem="1 + 1?"))
    for stage, command in ((sft, "sft"), (rl, "rl"), (evaluation, "eval")):
        with pytest.raises(RunError, match="will not fit the memory"):
            stage.run(asked(command, limit=64, output_dir=str(tmp_path / command)))
        assert not (tmp_path / command).exists()

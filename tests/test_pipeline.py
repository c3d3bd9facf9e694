"""The stages end to end on the tiny model: cold start → RL → evaluation → merge, each through its own
settings."""

import hashlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import threading
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from prl import cli, evaluation, rl, runs, sft, tiny
from prl.config import resolve
from prl.data import problems, targets
from prl.errors import DataError, RunError
from prl.grammar import parse
from prl.model import load_model, merge_and_verify
from prl.sft import hold_out, tokenize
from prl.trainer import signals
from warm import launcher

SFT = {
    "limit": 64, "max_steps": 6, "per_device_train_batch_size": 8, "sample_count": 4, "eval_steps": 2,
    "learning_rate": 5e-3, "logging_steps": 1,
}  # fmt: skip
RL = {
    "limit": 32, "max_steps": 2, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
    "num_generations": 4, "max_completion_length": 64, "dataset": "arithmetic:easy",
    "rewards": ["accuracy", "format", "parallel"],
}  # fmt: skip
EVAL = {"limit": 6, "samples": 3, "max_completion_length": 48, "bootstrap": 100}


def settings(command: str, folder: Path, **given: Any):
    return resolve(command, recipe="tiny", threads=1, output_dir=str(folder), **given)


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def digest_of_base() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(tiny.BASE.iterdir()))).hexdigest()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cold start, RL on it and an evaluation, a few steps each; `base` is a digest of the base before."""
    root = tmp_path_factory.mktemp("pipeline")
    (root / "base").write_text(digest_of_base())
    sft.run(settings("sft", root / "sft", **SFT))
    rl.run(settings("rl", root / "rl", model_name_or_path=str(root / "sft"), **RL))
    evaluation.run(settings("eval", root / "eval", model_name_or_path=str(root / "rl"), **EVAL))
    return root


def test_adapters_change_from_stage_to_stage_and_the_base_does_not(pipeline: Path) -> None:
    cold, skilled = adapter_of(pipeline / "sft"), adapter_of(pipeline / "rl")
    assert cold.keys() == skilled.keys()
    tag_rows = [name for name in cold if "trainable_tokens_delta" in name]
    assert [cold[name].shape for name in tag_rows] == [(6, 128)]
    fresh, _ = load_model(tiny.NAME, tags="tokens")
    initial = fresh.get_input_embeddings().weight[-(512 - 384) :][:6]
    assert not torch.equal(cold[tag_rows[0]], initial)
    assert all(not torch.equal(cold[name], skilled[name]) for name in cold if "lora_B" in name)
    assert not torch.equal(cold[tag_rows[0]], skilled[tag_rows[0]])
    assert (pipeline / "base").read_text() == digest_of_base()


def test_training_lowers_the_loss(pipeline: Path) -> None:
    lines = runs.read_metrics(pipeline / "sft")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    held_out = [line["eval_loss"] for line in lines if "eval_loss" in line]
    assert len(held_out) == 3
    assert held_out[-1] < held_out[0]


def test_run_folders_hold_what_the_design_says(pipeline: Path) -> None:
    common = {"config.yaml", "environment.json", "samples.parquet", "DONE"}
    trained = {"metrics.jsonl", "adapter"}
    for stage, more in (("sft", trained), ("rl", trained), ("eval", {"results.json"})):
        names = {path.name for path in (pipeline / stage).iterdir()}
        assert common | more <= names, stage
        assert ".lock" in names
        with FileLock(pipeline / stage / ".lock", timeout=0):
            pass  # free
        config = runs.read_config(pipeline / stage)
        assert config["recipe"] == "tiny"
        assert config["command"] == stage


def test_rl_samples_say_what_was_paid_and_why(pipeline: Path) -> None:
    assert importlib.metadata.version("trl").startswith("1.16.")  # SampleRecorder reads GRPOTrainer._logs
    rows = runs.read_samples(pipeline / "rl").to_pylist()
    assert len(rows) == 2 * 16
    _, tokenizer = load_model(tiny.NAME, tags="tokens")
    for row in rows:
        assert row["text"] == tokenizer.decode(row["token_ids"], skip_special_tokens=True)
        assert row["length"] == len(row["token_ids"]) <= 64
        assert row["truncated"] == (row["token_ids"][-1] != tokenizer.eos_token_id)
        trace = parse(row["text"], truncated=row["truncated"])
        assert row["faults"] == [fault.kind.value for fault in trace.faults]
        assert row["reward_format"] == float(not row["faults"])
        assert row["reward_accuracy"] == (1.0 if row["extracted"] == row["answer"] else -1.0)
        assert row["verdict"]
    for start in range(0, len(rows), 4):
        group = rows[start : start + 4]
        assert {row["group"] for row in group} == {start // 4 % 4}
        assert len({row["problem"] for row in group}) == 1
        assert sum(row["advantage"] for row in group) == pytest.approx(0, abs=1e-4)
        totals = [row["reward_accuracy"] + row["reward_format"] + row["reward_parallel"] for row in group]
        best = max(range(4), key=totals.__getitem__)
        assert group[best]["advantage"] == max(row["advantage"] for row in group)


def test_rl_logs_what_its_samples_show(pipeline: Path) -> None:
    lines = [line for line in runs.read_metrics(pipeline / "rl") if "reward" in line]
    samples = groupby(runs.read_samples(pipeline / "rl").to_pylist(), key=lambda row: row["step"])
    for line, (step, group) in zip(lines, samples, strict=True):
        rows = list(group)
        traces = [parse(row["text"], truncated=row["truncated"]) for row in rows]
        assert line["step"] == step
        assert line["correct"] == fmean(row["extracted"] == row["answer"] for row in rows)
        assert line["format_valid"] == fmean(trace.is_valid for trace in traces)
        assert line["parallel_ratio"] == fmean(trace.uses_parallel for trace in traces)
        names = ("accuracy", "format", "parallel")
        for name in names:
            mean = fmean(row[f"reward_{name}"] for row in rows)
            assert line[f"rewards/{name}_reward/mean"] == pytest.approx(mean)
        totals = [sum(row[f"reward_{name}"] for name in names) for row in rows]
        groups = [set(totals[start : start + 4]) for start in range(0, len(totals), 4)]
        assert line["frac_reward_zero_std"] == fmean(len(each) == 1 for each in groups)


def test_evaluation_agrees_with_its_samples(pipeline: Path) -> None:
    results = json.loads((pipeline / "eval" / "results.json").read_text())
    rows = runs.read_samples(pipeline / "eval").to_pylist()
    sampled = [row for row in rows if row["mode"] == "sampled"]
    assert len(sampled) == 6 * 3
    assert len(rows) - len(sampled) == 6
    accuracy = results["metrics"]["sampled/accuracy"]
    assert accuracy["mean"] == pytest.approx(sum(row["correct"] for row in sampled) / 18)
    assert accuracy["low"] <= accuracy["mean"] <= accuracy["high"]
    valid = sum(not row["faults"] for row in sampled) / 18
    assert results["metrics"]["sampled/format_valid"]["mean"] == pytest.approx(valid)


def test_the_same_seed_gives_the_same_run(pipeline: Path, tmp_path: Path) -> None:
    sft.run(settings("sft", tmp_path / "sft", **SFT))
    again = adapter_of(tmp_path / "sft")
    assert all(torch.equal(tensor, again[name]) for name, tensor in adapter_of(pipeline / "sft").items())


def test_a_finished_rl_run_merges(pipeline: Path, tmp_path: Path) -> None:
    assert merge_and_verify(str(pipeline / "rl"), tmp_path / "merged") <= 1e-4
    model, _ = load_model(str(tmp_path / "merged"))
    assert model.get_input_embeddings().num_embeddings == 512


def test_generate_answers_a_problem(pipeline: Path) -> None:
    given = {"problem": "Compute 3 + 4.", "samples": 2, "max_completion_length": 16}
    asked = resolve("generate", recipe="tiny", threads=1, model_name_or_path=str(pipeline / "sft"), **given)
    responses = evaluation.respond(asked)
    assert len(responses) == 2
    assert all(0 < len(response.token_ids) <= 16 for response in responses)


def test_rl_starts_from_a_base_too(tmp_path: Path) -> None:
    rl.run(settings("rl", tmp_path / "rl", **(RL | {"max_steps": 1, "limit": 4, "rewards": ["accuracy"]})))
    assert (tmp_path / "rl" / "DONE").exists()


def test_rl_refuses_fewer_problems_than_one_generation_takes(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"gives 3 problems, one generation takes 4 \(16 responses, 4 a problem\)"
    ):
        rl.run(settings("rl", tmp_path / "rl", **(RL | {"limit": 3})))
    assert not (tmp_path / "rl").exists()


def test_qlora_cold_start_and_rl(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes")
    small = SFT | {"max_steps": 2, "sample_count": 0, "load_in_4bit": True}
    sft.run(settings("sft", tmp_path / "sft", **small))
    rl.run(
        settings(
            "rl", tmp_path / "rl", model_name_or_path=str(tmp_path / "sft"), load_in_4bit=True,
            **(RL | {"max_steps": 1, "limit": 4}),
        )
    )  # fmt: skip
    cold, skilled = adapter_of(tmp_path / "sft"), adapter_of(tmp_path / "rl")
    assert any(not torch.equal(cold[name], skilled[name]) for name in cold)


def test_too_long_traces_are_left_out_whole() -> None:
    _, tokenizer = load_model(tiny.NAME, tags="tokens")
    rows = problems.generate("coldstart", 50)
    everything, left_out = tokenize(rows, tokenizer, "bare", None)
    assert left_out == {"too_long": 0}
    longest = max(len(example["input_ids"]) for example in everything)
    most, left_out = tokenize(rows, tokenizer, "bare", longest - 1)
    assert len(most) == 50 - left_out["too_long"] < 50
    assert all(example["labels"][-1] == tokenizer.eos_token_id for example in most)
    _, left_out = tokenize(rows, tokenizer, "bare", longest)
    assert left_out == {"too_long": 0}, "as long as allowed is not too long"
    with pytest.raises(DataError, match=f"the longest has {longest} tokens"):
        tokenize(rows, tokenizer, "bare", 10)


@pytest.mark.parametrize(
    ("rows", "most", "held_out"),
    [(5, None, 1), (100, None, 10), (5000, None, 128), (100, 4, 4), (1, None, 0)],
)
def test_a_tenth_is_held_out_of_the_cold_start(rows: int, most: int | None, held_out: int) -> None:
    kept, out = hold_out([{"problem": str(i)} for i in range(rows)], most)
    assert len(out) == held_out
    assert [row["problem"] for row in kept + out] == [str(i) for i in range(rows)]


def test_no_trace_of_a_problem_that_is_held_out_is_trained_on() -> None:
    rows = [{"problem": str(number), "trace": way} for way in "abc" for number in range(20)]
    kept, out = hold_out(rows, None)
    assert [(row["problem"], row["trace"]) for row in out] == [("18", "c"), ("19", "c")], "a tenth: 6 rows"
    assert len(kept) == 54
    assert not {row["problem"] for row in kept} & {"18", "19"}
    turns = [row | {"history": [[row["trace"], "yes"]]} for row in rows]
    assert len(hold_out(turns, None)[1]) == 6, "behind other turns it is another problem"
    assert hold_out(rows[:1] * 5, None) == (rows[:1] * 5, []), "nothing else is left to train on"


def test_evaluating_on_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows are left to evaluate on, --eval_strategy is steps"):
        sft.run(settings("sft", tmp_path / "sft", **(SFT | {"limit": 1})))


def test_the_loss_is_on_the_response_alone() -> None:
    _, tokenizer = load_model(tiny.NAME, tags="tokens")
    rows = [targets.apply(row, "learned") for row in problems.generate("coldstart", 5)]
    for row, example in zip(rows, tokenize(rows, tokenizer, "bare", None)[0], strict=True):
        learned = [index for index in example["labels"] if index != -100]
        assert tokenizer.decode(learned) == row["trace"] + "<|im_end|>"
        assert example["input_ids"][-len(learned) :] == learned


def test_a_run_folder_is_not_overwritten_unasked(pipeline: Path) -> None:
    with pytest.raises(RunError, match="finished sft run"):
        sft.run(settings("sft", pipeline / "sft", **SFT))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send to oneself")
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from transformers import TrainerCallback\n"
        "from prl import cli\n"
        "from prl.trainer import signals\n"
        "def on_log(self, args, state, control, **kwargs):\n"
        "    if state.global_step == 1: os.kill(os.getpid(), signal.SIGINT)\n"
        "signals.StopOnSignal.on_log = on_log\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    stopped = subprocess.run(
        [*launcher(), "-c", code, *stoppable(tmp_path / "run")], capture_output=True, text=True
    )
    assert stopped.returncode == 1, stopped.stderr
    check_stopped(tmp_path / "run", "SIGINT", stopped.stderr)

    resumed = settings("sft", tmp_path / "run", **(SFT | {"max_steps": 4}), resume=True)
    sft.run(resumed)
    lines = [line for line in runs.read_metrics(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    counted = [line["num_tokens"] for line in lines]
    assert counted == sorted({*counted}), "tokens are counted on"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send to oneself")
def test_sigterm_stops_as_ctrl_c_does_and_gives_the_signals_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert threading.current_thread() is threading.main_thread(), "else the signal would end the tests"
    before = [signal.getsignal(number) for number in signals.StopOnSignal.SIGNALS]

    def on_log(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(signals.StopOnSignal, "on_log", on_log)
    assert cli.main(stoppable(tmp_path / "run")) == 1
    check_stopped(tmp_path / "run", "SIGTERM", capsys.readouterr().err)
    assert [signal.getsignal(number) for number in signals.StopOnSignal.SIGNALS] == before


def stoppable(folder: Path) -> list[str]:
    """The words of a cold start of many steps."""
    flags = [word for key, value in (SFT | {"max_steps": 50}).items() for word in (f"--{key}", str(value))]
    return ["sft", "--recipe", "tiny", "--threads", "1", "--output_dir", str(folder), *flags]


def check_stopped(folder: Path, name: str, said: str) -> None:
    assert f"{name}: finishing this step" in said
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert "--resume" in last
    checkpoint = runs.last_checkpoint(folder)
    assert checkpoint == folder / "checkpoint-2", "of the step that was at hand"
    assert str(checkpoint) in last

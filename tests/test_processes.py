"""One run in two processes on CPUs (gloo): the tiny model, as `accelerate launch --multi_gpu` starts them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from prl import runs
from prl.errors import DataError, UsageError
from prl.machine import hardware
from prl.runs import processes
from prl.runs.checkpoints import checkpoints, fault
from prl.runs.samples import LOGPROB_STEP
from prl.trainer.timing import PARTS
from prl.trainer.training import kept_wide, settle_cards, settle_ddp
from warm import launcher as warm

LAUNCH = [
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"),
]
RL: dict[str, Any] = {
    "limit": 48, "max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
    "num_generations": 4, "max_completion_length": 24, "dataset": "arithmetic:wide", "save_steps": 3,
    "sampling": "adaptive", "probe_samples": 2, "rewards": "alternating", "attention": "structured",
    "lora_dropout": 0,
}  # fmt: skip
SFT: dict[str, Any] = {
    "limit": 52, "max_steps": 5, "per_device_train_batch_size": 4, "sample_count": 2, "eval_steps": 4,
    "eval_limit": 4, "per_device_eval_batch_size": 1, "logging_steps": 1, "save_steps": 2, "max_length": 192,
}  # fmt: skip
ONE: dict[str, Any] = {"per_device_train_batch_size": 8}
"""One process computes what two do. Evaluations go row by row in both: transformers reports the mean of the
batches' means."""

TIMES = (
    "time",
    "step_time",
    "eval_runtime",
    "train_runtime",
    "memory/peak",
    "memory/limit",
    *(f"time/{p}" for p in PARTS),
)
OF_SHARES = ("entropy", "eval_mean_token_accuracy", "sampling_gap/max", "sampling_gap/mean", "total_flos")
"""Means of what the processes or batches had, rounding errors, and what the main process alone counts."""

CHILD = """
import os, signal, sys
from prl import cli, errors
from prl.console import quiet_libraries
quiet_libraries()
from transformers import Trainer

where, what, step = sys.argv[1], sys.argv[2], int(sys.argv[3])
training_step, left = Trainer.training_step, [step]

def counted(*given, **named):
    left[0] -= 1
    if left[0] == 0 and os.environ["RANK"] == where:
        if what == "fail":
            raise errors.RunError("the disk of this machine is full")
        if what == "crash":
            raise ValueError("a bug")
        os.kill(os.getpid(), getattr(signal, what))
    return training_step(*given, **named)

Trainer.training_step = counted
sys.exit(cli.main(sys.argv[4:]))
"""


COUNTED = """
import json, os, sys
from prl import cli, rl
from prl.console import quiet_libraries
quiet_libraries()
import torch
from torch.nn.parallel import DistributedDataParallel
from prl.trainer import packing

layout_of, forward = packing.layout_of, DistributedDataParallel.forward
seen = {"with gradient": [], "without": [], "passes": 0}

def counted(ids, positions, real, *windows):
    layout = layout_of(ids, positions, real, *windows)
    tokens = [len(layout.taken), int(real.sum())]
    seen["with gradient" if torch.is_grad_enabled() else "without"].append(tokens)
    return layout

def passed(self, *given, **named):
    seen["passes"] += 1
    return forward(self, *given, **named)

def paid(completion_ids, answer, **columns):
    rows = zip(completion_ids, answer, strict=True)
    return [float(len({*ids})) if float(right) % 2 else 1.0 for ids, right in rows]

packing.layout_of, DistributedDataParallel.forward = counted, passed
rl.reward_functions = lambda names, **given: {"tiered": paid}
status = cli.main(sys.argv[2:])
with open(f"{sys.argv[1]}.{os.environ.get('RANK', 0)}", "w") as file:
    json.dump(seen, file)
sys.exit(status)
"""
"""Says what was packed: of each pass the tokens computed, and those of all its rows. Rewards tell responses
to half of the problems apart."""


@dataclass
class Ended:
    """What became of each process, the main one first."""

    statuses: list[int]
    outputs: list[str]
    seconds: float


def words(stage: str, folder: Path, *how: str, **given: Any) -> list[str]:
    found = [stage, "--recipe", "tiny", "--device", "cpu", "--output_dir", str(folder), *how]
    settings = (RL if stage == "rl" else SFT) | {"threads": 1} | given
    for key, value in settings.items():
        found += [f"--{key}", str(value)]
    return found


def start_two(
    program: Sequence[str], each: Sequence[Sequence[str]], second: Sequence[str] = (sys.executable,)
) -> Ended:
    """Two processes with what a launcher gives them, without one that ends both when one ends. By itself the
    second starts cold, so that it has another hash seed, as under a launcher."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started, children = time.monotonic(), []
    for number, given in enumerate(each):
        environment = os.environ | {
            "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        children.append(
            subprocess.Popen(
                [*(second if number else warm()), *program, *given],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    outputs = [child.communicate(timeout=200)[0] for child in children]
    return Ended([child.returncode for child in children], outputs, time.monotonic() - started)


def two(given: Sequence[str]) -> Ended:
    return start_two(["-m", "prl"], [given, given], warm())


def launched(program: Sequence[str], given: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*warm(), *LAUNCH, *program, *given], capture_output=True, text=True, env=environment
    )


def alone(given: Sequence[str]) -> None:
    done = subprocess.run(
        [*warm(), "-m", "prl", *given],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


def metrics_of(folder: Path, leave_out: Sequence[str] = ()) -> list[dict[str, Any]]:
    return [
        {
            key: value
            for key, value in line.items()
            if key not in (*TIMES, *leave_out)
            and "per_second" not in key
            and key.removeprefix("eval_") not in leave_out
        }
        for line in runs.read_metrics(folder)
    ]


def samples_of(folder: Path) -> list[dict[str, Any]]:
    return runs.read_samples(folder).to_pylist()


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def close(value: Any, **tolerance: float) -> Any:
    return pytest.approx(value, **tolerance) if isinstance(value, float) else value


def check_agrees(folder: Path, expected: Path, bound: float = 1e-4) -> None:
    """With another number of processes: the same responses, and numbers up to rounding."""
    found, wanted = metrics_of(folder, OF_SHARES), metrics_of(expected, OF_SHARES)
    assert len(found) == len(wanted)
    for line, other in zip(found, wanted, strict=True):
        assert line.keys() == other.keys()
        for name, value in line.items():
            assert value == close(other[name], rel=1e-4, abs=1e-6), (line["step"], name)
    for row, other in zip(samples_of(folder), samples_of(expected), strict=True):
        assert row["token_ids"] == other["token_ids"]
        # What is kept of a log-probability may be rounded up in one and down in the other.
        logprobs, others = (each.pop("token_logprobs") for each in (row, other))
        assert logprobs == [
            each if each is None else pytest.approx(each, abs=1.1 * LOGPROB_STEP) for each in others
        ]
        assert row == {name: close(value, abs=1e-5) for name, value in other.items()}
    assert adapter_of(folder).keys() == adapter_of(expected).keys()
    for name, weight in adapter_of(expected).items():
        # As a whole: Adam's step of a weight whose gradient is rounding error is as long as any other.
        assert (adapter_of(folder)[name] - weight).norm() <= bound * weight.norm(), name


def check_same(folder: Path, expected: Path) -> None:
    """To the bit."""
    assert metrics_of(folder) == metrics_of(expected)
    assert samples_of(folder) == samples_of(expected)
    name = "adapter/adapter_model.safetensors"
    assert (folder / name).read_bytes() == (expected / name).read_bytes()


# --- What a process is


@pytest.fixture(scope="module", autouse=True)
def forking(tagged: str) -> None:
    RL["model_name_or_path"] = tagged


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [*os.environ]:
        if name.startswith("ACCELERATE") or name.endswith("WORLD_SIZE") or "RANK" in name or "MASTER" in name:
            monkeypatch.delenv(name)
    return monkeypatch


def test_one_process(launcher: pytest.MonkeyPatch) -> None:
    assert processes.is_main()
    assert processes.launched() == 1
    assert processes.gathered("here") == ["here"]
    assert processes.anywhere(True)
    assert not processes.anywhere(False)
    assert processes.from_main(lambda: 3) == 3
    assert processes.is_to_tell(DataError("bad"))
    processes.check_launch("eval", trains=False)
    assert hardware.own_device("cuda") == "cuda"


def test_which_process_this_is(launcher: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}.items():
        launcher.setenv(name, value)
    assert (processes.index(), processes.local_index(), processes.launched()) == (5, 1, 8)
    assert not processes.is_main()
    with pytest.raises(UsageError, match=r"^prl eval runs in one process: call it without accelerate"):
        processes.check_launch("eval", trains=False)
    processes.check_launch("rl", trains=True)


@pytest.mark.parametrize(
    ("given", "splitter"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "ZeRO-3"),
    ],
)
def test_rl_refuses_split_weights(given: dict[str, str], splitter: str, launcher: pytest.MonkeyPatch) -> None:
    for name, value in ({"WORLD_SIZE": "2"} | given).items():
        launcher.setenv(name, value)
    processes.check_launch("sft", trains=True)
    with pytest.raises(UsageError, match=f"and {splitter} splits them"):
        processes.check_launch("rl", trains=True)


def test_each_process_takes_its_own_gpu(launcher: pytest.MonkeyPatch) -> None:
    launcher.setenv("WORLD_SIZE", "4")
    launcher.setenv("LOCAL_RANK", "3")
    for count, device in ((4, "cuda:3"), (1, "cuda:0")):  # a scheduler may show one GPU to each
        launcher.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert hardware.own_device("cuda") == device
    assert hardware.own_device("cpu") == "cpu"


def test_accelerate_that_starts_one_process_is_refused(launcher: pytest.MonkeyPatch) -> None:
    launcher.setenv("MASTER_ADDR", "127.0.0.1")
    launcher.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with pytest.raises(UsageError, match=r"accelerate launch started one process only.*pass --multi_gpu"):
        processes.check_launch("rl", trains=True)


@pytest.mark.parametrize("error", [DataError("bad"), ValueError("a bug")])
def test_another_process_waits_before_it_tells(launcher: pytest.MonkeyPatch, error: Exception) -> None:
    launcher.setenv("WORLD_SIZE", "2")
    launcher.setenv("RANK", "1")
    waited: list[float] = []
    launcher.setattr(time, "sleep", waited.append)
    assert processes.is_to_tell(error)
    assert waited == [10]


def test_experts_alone_may_be_without_a_gradient() -> None:
    class Given:
        ddp_find_unused_parameters: bool | None = None

    for name, expected in (("mlp", False), ("experts", True)):
        given = Given()
        settle_ddp(given, torch.nn.ModuleDict({name: torch.nn.Linear(1, 1)}))  # type: ignore[arg-type]
        assert given.ddp_find_unused_parameters is expected
    given.ddp_find_unused_parameters = False
    settle_ddp(given, torch.nn.ModuleDict({"experts": torch.nn.Linear(1, 1)}))  # type: ignore[arg-type]
    assert given.ddp_find_unused_parameters is False


def test_one_of_several_cards_is_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    training = TrainingArguments(use_cpu=True)
    settle_cards(training)
    assert (training.n_gpu, capsys.readouterr().err) == (0, "")
    training._n_gpu = 3
    settle_cards(training)
    assert training.n_gpu == 1
    assert "one of 3 GPUs is trained on" in capsys.readouterr().err


@pytest.mark.parametrize("fp16", [True, False])
def test_what_is_trained_in_float16_stays_wide(fp16: bool) -> None:
    """trl 1.16 casts the weights of an adapter on a quantised base as it makes its trainer."""
    model = torch.nn.ModuleDict({"adapter": torch.nn.Linear(3, 2), "base": torch.nn.Linear(3, 2)})
    model["base"].requires_grad_(False)
    before = [*model.parameters()]
    values = [p.detach().clone() for p in before]
    with kept_wide(SimpleNamespace(fp16=fp16), model):  # type: ignore[arg-type]
        for p in model["adapter"].parameters():
            p.data = p.data.to(torch.bfloat16)
    is_same = [now is then for now, then in zip(model.parameters(), before, strict=True)]
    assert all(is_same), "the optimizer has them"
    kinds = {torch.float32} if fp16 else {torch.float32, torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == kinds
    if fp16:
        assert all(torch.equal(p, value) for p, value in zip(model.parameters(), values, strict=True))


# --- Two of them


def test_rl_in_two_processes_is_the_run_of_one(tmp_path: Path) -> None:
    folder, single = tmp_path / "two", tmp_path / "one"
    # Other rows are packed together in one than in two: Adam would make steps of that rounding.
    plain = {"optim": "sgd", "learning_rate": 0.1}
    done = launched(["-m", "prl"], words("rl", folder, **plain))
    assert done.returncode == 0, done.stderr
    alone(words("rl", single, **ONE, **plain))
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in single.iterdir())
    check_agrees(folder, single)
    assert {"checkpoint-3/rng_state_0.pth", "checkpoint-3/rng_state_1.pth"} <= {
        path.relative_to(folder).as_posix() for path in folder.glob("checkpoint-3/rng*")
    }
    assert fault(folder / "checkpoint-3") is None
    assert "Warning" not in done.stderr
    for line in (
        f"prl rl  model {RL['model_name_or_path']}",
        "probed 48 problems, 2 responses each",
        "step     1/3",
        "adapter: ",
    ):
        assert done.stderr.count(line) == 1, done.stderr


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_each_of_two_packs_its_rows(stage: str, tmp_path: Path) -> None:
    """Also where one has rows without an advantage, which need no gradient, and the other has none."""
    folder, single = tmp_path / "two", tmp_path / "one"
    script = tmp_path / "counted.py"
    script.write_text(COUNTED)
    plain: dict[str, Any] = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0}
    if stage == "rl":
        plain["rewards"] = "tiered"
    ended = start_two([str(script), str(folder)], [words(stage, folder, **plain)] * 2)
    assert ended.statuses == [0, 0], ended.outputs
    assert "padded, not packed" not in ended.outputs[0]
    one = words(stage, single, **ONE, **plain)
    done = subprocess.run([*warm(), str(script), str(single), *one], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check_agrees(folder, single, 1e-5)
    first, second = (json.loads(folder.with_suffix(f".{rank}").read_text()) for rank in (0, 1))
    for each in (first, second):
        assert each["passes"] == len(each["with gradient"])  # in which they meet
        computed, tokens = zip(*each["with gradient"], strict=True)
        assert sum(computed) < sum(tokens)
    assert first["passes"] == second["passes"]
    if stage == "rl":
        assert len(first["without"]) != len(second["without"])


def test_a_signal_to_one_of_two_and_going_on(tmp_path: Path) -> None:
    folder, single = tmp_path / "two", tmp_path / "one"
    given = words("sft", folder)
    stopped = start_two(["-c", CHILD, "1", "SIGTERM", "3"], [given, given])
    assert stopped.statuses == [1, 1], stopped.outputs
    assert stopped.outputs[1] == ""
    assert stopped.outputs[0].count("interrupted") == 1
    assert stopped.outputs[0].splitlines()[-1] == (
        f"prl sft: interrupted; {folder / 'checkpoint-3'} is kept, and the same command with --resume goes "
        "on from it"
    )
    assert fault(folder / "checkpoint-3") is None
    assert len([*folder.glob("checkpoint-3/rng_state_*.pth")]) == 2

    resumed = two([*given, "--resume"])
    assert resumed.statuses == [0, 0], resumed.outputs
    assert resumed.outputs[1] == ""
    assert "warning" not in resumed.outputs[0]
    alone(words("sft", single, **ONE))
    check_agrees(folder, single)


def test_one_line_where_the_main_process_fails(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("no run")
    ended = two(words("sft", tmp_path))
    assert ended.statuses == [1, 1]
    assert ended.outputs == [
        f"prl sft: {tmp_path} is not empty and no run (mine.txt): choose another --output_dir\n",
        "",
    ]
    assert ended.seconds < 60


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "rl"])
@pytest.mark.parametrize("where", ["0", "1"])
def test_resumed_runs_are_the_same_to_the_bit(stage: str, where: str, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    given: dict[str, Any] = {"lora_dropout": 0.1} | ({"disable_dropout": "false"} if stage == "rl" else {})
    assert two(words(stage, whole, **given)).statuses == [0, 0]
    step = "4" if stage == "rl" else "2"  # rl takes two micro-batches a step
    ended = start_two(["-c", CHILD, where, "SIGTERM", step], [words(stage, folder, **given)] * 2)
    assert ended.statuses == [1, 1], ended.outputs
    assert [path.name for path in checkpoints(folder)] == ["checkpoint-2"]
    ended = two(words(stage, folder, "--resume", **given))
    assert ended.statuses == [0, 0], ended.outputs
    check_same(folder, whole)


@pytest.mark.slow
def test_bad_data_is_told_once(tmp_path: Path) -> None:
    data = tmp_path / "bad.jsonl"
    data.write_text(json.dumps({"problem": "1 + 1"}) + "\n")
    ended = two(words("sft", tmp_path / "run", dataset=data))
    assert ended.statuses == [1, 1]
    assert ended.outputs[0].startswith("prl sft: ")
    assert len(ended.outputs[0].splitlines()) == 1
    assert ended.outputs[1] == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_wrong_flag_under_the_launcher_is_told_once(tmp_path: Path) -> None:
    done = launched(["-m", "prl"], words("sft", tmp_path / "run", learningrate=1))
    assert done.returncode == 1  # the launcher's own
    assert done.stderr.count("learningrate: unknown setting") == 1, done.stderr
    assert done.stderr.count("prl sft: ") == 1


@pytest.mark.slow
@pytest.mark.parametrize("what", ["fail", "crash"])
@pytest.mark.parametrize("where", ["0", "1"])
def test_a_failure_in_one_ends_both(what: str, where: str, tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    started = time.monotonic()
    done = launched([str(script), where, what, "2"], words("sft", tmp_path / "run"))
    assert done.returncode == 1
    assert time.monotonic() - started < 90
    told = "prl sft: the disk of this machine is full" if what == "fail" else "ValueError: a bug"
    assert done.stderr.count(told) == 1, done.stderr
    assert "Connection closed" not in done.stderr
    assert done.stderr.count("prl sft: ") == (what == "fail")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_leaves_a_checkpoint(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, *LAUNCH, "-m", "prl", *words("sft", tmp_path / "run", max_steps=500)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    said = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stderr is not None
        for line in child.stderr:
            said.append(line)
            if line.startswith("step     3/"):
                child.send_signal(number)
        assert child.wait() != 0
    (line,) = [line for line in said if line.startswith("prl sft: ")]
    assert "is kept, and the same command with --resume goes on from it" in line
    last = runs.last_checkpoint(tmp_path / "run")
    assert last
    assert len([*last.glob("rng_state_*.pth")]) == 2


@pytest.mark.slow
def test_other_settings_in_one_are_refused(tmp_path: Path) -> None:
    each = [words("sft", tmp_path / "run", seed=seed) for seed in (1, 2)]
    ended = start_two(["-m", "prl"], each)
    assert ended.statuses[1] == 2, ended.outputs
    assert "process 1 runs with another seed (2) than the main one (1)" in "".join(ended.outputs)


@pytest.mark.slow
def test_another_number_of_processes_goes_on(tmp_path: Path) -> None:
    folder, single = tmp_path / "run", tmp_path / "one"
    given = words("sft", folder)
    assert start_two(["-c", CHILD, "0", "SIGTERM", "2"], [given, given]).statuses == [1, 1]
    alone(words("sft", folder, "--resume", **ONE))
    alone(words("sft", single, **ONE))
    check_agrees(folder, single)


@pytest.mark.slow
def test_cold_start_and_rl_in_two_processes(tmp_path: Path) -> None:
    recipe = tmp_path / "all.yaml"
    recipe.write_text(
        "sft: {limit: 24, max_steps: 2, per_device_train_batch_size: 4, sample_count: 2, eval_limit: 4}\n"
        "rl:\n  stages:\n    - {name: cold-start}\n    - {name: rl, rewards: [accuracy]}\n"
    )
    given = words("rl", tmp_path / "run", rehearse="on")
    given[given.index("--recipe") + 1] = f"tiny+{recipe}"
    for flag in ("--sampling", "--probe_samples", "--rewards"):
        place = given.index(flag)
        del given[place : place + 2]
    ended = two(given)
    assert ended.statuses == [0, 0], ended.outputs
    assert ended.outputs[1] == ""
    assert ended.outputs[0].count("adapter: ") == 2
    for name in ("run", "run-cold-start"):
        assert runs.read_summary(tmp_path / name)

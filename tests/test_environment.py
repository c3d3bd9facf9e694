"""No environment variable changes while a second thread runs: a `getenv` in it may take the process down."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

STARTS = int(os.environ.get("PRL_STARTS", "20"))
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc, reads C's environment")


def run(code: str, folder: Path) -> str:
    """What a program of its own prints; an audit hook stays for good."""
    settled = ("OPENBLAS_MAIN_FREE", "TORCHINDUCTOR_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in settled}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@LINUX
def test_no_command_changes_a_variable_while_a_second_thread_runs(tmp_path: Path) -> None:
    """accelerate 1.15, transformers 5.23, trl 1.16, torch 2.13, numpy 2.4. Setting the value that holds
    already moves nothing."""
    code = """
    import ctypes, os, sys, traceback

    c = ctypes.CDLL(None)
    c.getenv.restype = ctypes.c_char_p
    seen, changed = [], []

    def hook(event, arguments):
        if event in ("os.putenv", "os.unsetenv"):
            name, *value = arguments
            seen.append(name)
            threads = os.listdir("/proc/self/task")
            if c.getenv(name) != (value or [None])[0] and len(threads) > 1:
                frames = [each for each in traceback.extract_stack()[:-1] if each.filename[0] != "<"]
                changed.append(f"{name} by {frames[-1].filename}:{frames[-1].lineno} {frames[-1].name}")

    sys.addaudithook(hook)
    from prl import cli

    for words in (
        "sft --output_dir sft --max_steps 1 --limit 24 --sample_count 1",
        "rl --output_dir rl --model sft --max_steps 1 --limit 8 --num_generations 4",
        "eval --output_dir eval --model rl --limit 2 --samples 1",
    ):
        smaller = "--per_device_train_batch_size 4 --gradient_accumulation_steps 2 --warmup_steps 0"
        smaller = smaller if "steps" in words else "--max_completion_length 8"
        assert cli.main(f"{words} {smaller} --recipe tiny --threads 1".split()) == 0
    from prl.answers import AnswerChecker

    with AnswerChecker(workers=2) as checker:
        assert all(checker.check_many([(f"x + {n}", f"{n} + x") for n in range(4)]))
    print(*sorted({*changed}), sep="\\n")
    assert seen, "the hook hears nothing"
    assert len(os.listdir("/proc/self/task")) > 1, "there was no second thread"
    """
    assert run(code, tmp_path).strip() == ""


@LINUX
def test_accelerate_changes_nothing_under_a_thread_that_reads(tmp_path: Path) -> None:
    """Without `keep` this dies of SIGSEGV within seconds."""
    code = """
    import ctypes, os, threading

    from accelerate.utils import GradientAccumulationPlugin, is_cuda_available
    from prl.machine import environment

    environment.keep()
    os.environ["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] = "3"  # the plugin reads it
    getenv = ctypes.CDLL(None).getenv
    threading.Thread(target=lambda: [getenv(b"NONE") for _ in iter(int, 1)], daemon=True).start()
    before = dict(os.environ)
    for _ in range(2_000):
        assert GradientAccumulationPlugin(num_steps=2).to_kwargs() == {"num_steps": 2}
        is_cuda_available()
    assert dict(os.environ) == before
    os.environ["STILL"] = "reaches C"
    os._exit(0)
    """
    run(code, tmp_path)


def test_torch_finds_the_cache_that_it_would_have_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    from prl.machine import environment

    assert environment._inductor_cache() == default_cache_dir()  # torch 2.13
    monkeypatch.setenv("OPENBLAS_MAIN_FREE", "1")  # `settle` would leave it behind
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/mine")
    environment.settle()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/mine", "what the user has set stays"


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_no_start_of_rl_is_lost(tmp_path: Path) -> None:
    """`make starts`: 300, two at a time, each to its first step."""

    def start(number: int) -> tuple[int, str]:
        words = (
            f"rl --output_dir {number} --seed {number} --model tiny --recipe tiny --threads 1 --max_steps 1 "
            "--limit 8 --num_generations 4 --per_device_train_batch_size 4 --gradient_accumulation_steps 1 "
            "--max_completion_length 4 --save_strategy no"
        )
        done = subprocess.run(
            [sys.executable, "-m", "prl", *words.split()],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stderr[-400:]

    began = time.monotonic()
    with ThreadPoolExecutor(2) as two:
        ended = list(two.map(start, range(STARTS)))
    lost = [(number, *end) for number, end in enumerate(ended) if end[0] != 0]
    print(f"{STARTS} starts in {(time.monotonic() - began) / 60:.1f} minutes, {len(lost)} lost")
    assert not lost

"""What the machine offers and what follows from it, on machines that are made up: no test needs a GPU."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from prl.machine import hardware
from prl.machine.hardware import Machine, choose_dtype, choose_recipe, choose_threads, this_machine


@pytest.fixture(autouse=True)
def same_threads_after() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def card(total: float, free: float, bfloat16: bool = True) -> Machine:
    return Machine("cuda", "some card", total, free, bfloat16)


@pytest.mark.parametrize(
    ("total", "free", "recipe", "why"),
    [
        (79.2, 78.5, "24gb", "nothing larger ships"),
        (23.6, 23.1, "24gb", "an RTX 4090 shows 23.6 GiB"),
        (22.0, 21.6, "24gb", "an L4 shows 22.0 GiB"),
        (23.6, 15.0, "16gb", "another process holds a third of it"),
        (14.7, 14.5, "16gb", "a T4 is sold as 16 GB"),
        (11.8, 11.2, "12gb", "an RTX 3060"),
        (7.8, 7.1, "8gb", "a desktop takes 0.7 GiB"),
        (5.8, 5.3, "6gb", "an RTX 2060"),
        (4.0, 3.8, "tiny", "too small for any GPU recipe"),
        (23.6, 0.4, "tiny", "all taken"),
    ],
)
def test_recipe_follows_free_memory(total: float, free: float, recipe: str, why: str) -> None:
    name, reason = choose_recipe(card(total, free))
    assert name == recipe, why
    assert f"{free:.1f} of {total:.1f} GiB free" in reason
    assert "needs" in reason


def test_recipe_without_gpu_is_tiny_and_says_why() -> None:
    assert choose_recipe(Machine("cpu", "CPU", note="no CUDA GPU")) == ("tiny", "no CUDA GPU")


@pytest.mark.parametrize(
    ("here", "device", "dtype"),
    [
        (card(24, 24), "cuda", "bfloat16"),
        (card(16, 16, bfloat16=False), "cuda", "float16"),
        (card(24, 24), "cpu", "float32"),
        (Machine("cpu", "CPU"), "cpu", "float32"),
        (Machine("cpu", "CPU"), "mps", "float32"),
    ],
)
def test_dtype_follows_device(here: Machine, device: str, dtype: str) -> None:
    chosen, reason = choose_dtype(here, device)
    assert chosen == dtype
    assert reason


def fake_cuda(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
    working = {
        "is_available": lambda: True,
        "mem_get_info": lambda: (6 * 2**30, 8 * 2**30),
        "get_device_name": lambda: "NVIDIA Card",
        "is_bf16_supported": lambda including_emulation: including_emulation,
    }
    for name, answer in {**working, **answers}.items():
        monkeypatch.setattr(torch.cuda, name, answer)


def test_cuda_card_is_described_and_emulated_bfloat16_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda(monkeypatch)
    assert this_machine() == Machine("cuda", "NVIDIA Card", total_gib=8.0, free_gib=6.0, has_bfloat16=False)


def test_broken_driver_is_the_stated_reason_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def warn() -> bool:
        warnings.warn("CUDA initialization: the driver is too old\nsecond line", UserWarning, stacklevel=1)
        return False

    fake_cuda(monkeypatch, is_available=warn)
    assert this_machine() == Machine("cpu", "CPU", note="CUDA initialization: the driver is too old")


def test_card_that_does_not_answer_is_the_stated_reason_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> tuple[int, int]:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy\nsecond line")

    fake_cuda(monkeypatch, mem_get_info=fail)
    here = this_machine()
    assert here.device == "cpu"
    assert here.note == "the CUDA GPU does not answer: CUDA error: all CUDA-capable devices are busy"


def test_apple_gpu_is_named_but_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda(monkeypatch, is_available=lambda: False)
    monkeypatch.setattr(hardware, "has_mps", lambda: True)
    here = this_machine()
    assert here.device == "cpu"
    assert "--device mps" in here.note


def on_cores(monkeypatch: pytest.MonkeyPatch, count: int, timings: dict[int, float]) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: set(range(count)), raising=False)
    monkeypatch.setattr(hardware, "_product_ms", timings.__getitem__)


@pytest.mark.parametrize(
    ("cores", "timings", "chosen", "why"),
    [
        (2, {1: 0.4, 2: 16.0}, 1, "the other core is busy"),
        (2, {1: 0.4, 2: 0.22}, 2, "the machine is idle"),
        (2, {1: 0.4, 2: 0.39}, 1, "a second thread must be worth it"),
        (6, {1: 1.0, 2: 0.6, 4: 0.4, 6: 0.3}, 6, "the core count itself is tried, too"),
        (8, {1: 1.0, 2: 0.6, 4: 0.4, 8: 0.9}, 4, "the best may lie between"),
        (4, {1: 1.0, 2: 1.5, 4: 0.3}, 4, "a slow count does not hide a fast one"),
    ],
)
def test_fastest_thread_count_wins(
    monkeypatch: pytest.MonkeyPatch, cores: int, timings: dict[int, float], chosen: int, why: str
) -> None:
    on_cores(monkeypatch, cores, timings)
    count, reason = choose_threads()
    assert count == chosen, why
    assert torch.get_num_threads() == chosen
    assert f"{chosen}: {timings[chosen]:.2f}" in reason


def test_thread_count_of_the_environment_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cores(monkeypatch, 2, {})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    assert choose_threads() == (before, "OMP_NUM_THREADS is set")


def test_one_core_needs_no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cores(monkeypatch, 1, {})
    assert choose_threads() == (1, "one core")


def test_timing_is_real_and_short() -> None:
    started = time.perf_counter()
    assert 0 < hardware._product_ms(1) < 1000
    assert time.perf_counter() - started < 5


def test_cpu_path_imports_neither_torch_early_nor_bitsandbytes() -> None:
    code = (
        "import sys; import prl.machine.hardware; assert 'torch' not in sys.modules\n"
        "sys.modules['bitsandbytes'] = sys.modules['triton'] = None\n"
        "here = prl.machine.hardware.this_machine(); prl.machine.hardware.choose_dtype(here, here.device)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
@pytest.mark.parametrize("keeps", [True, False])
def test_what_is_freed_is_kept_for_the_next_step(keeps: bool) -> None:
    resource = pytest.importorskip("resource")
    code = f"""
import resource
from prl.machine.hardware import keep_freed_memory
if {keeps}:
    keep_freed_memory()
def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"x" * 2**20 for _ in range(128)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
step()
print(step())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pages = 128 * 2**20 // resource.getpagesize()
    assert int(ended.stdout) < pages / 4 if keeps else int(ended.stdout) > pages / 2


@pytest.mark.parametrize(("device", "takes_cudnn"), [("cpu", True), ("cuda", False)])
def test_attention_on_a_gpu_is_not_by_cudnn(device: str, takes_cudnn: bool) -> None:
    """torch 2.13; a switch of the process, which no test may leave as it is."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        hardware.leave_cudnn_attention(device)
        assert torch.backends.cuda.cudnn_sdp_enabled() is takes_cudnn
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)

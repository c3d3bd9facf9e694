"""What this machine offers, and what follows from it: recipe, device, precision, number of threads.

Every choice comes back with its reason, to be printed once and stored in the run. torch is imported inside
the functions; bitsandbytes never.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path

from prl.errors import first_line
from prl.runs import processes

CARD_SIZES = (24, 16, 12, 8, 6)
"""Card memory in GB for which a recipe ships, largest first."""

USABLE = 0.85
"""Share of a card's nominal memory that its recipe may count on: a card of N GB shows less than N GiB (a T4
of 16 GB: 14.7 GiB), and a desktop takes a few hundred MiB more."""

KEPT = 2**29
"""Bytes of freed memory that a CPU process keeps at the most for what it asks for next."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_SECONDS_A_COUNT = 0.025
_WORTH_ANOTHER_THREAD = 0.9


@dataclass(frozen=True)
class Machine:
    """The device that training would use; memory in GiB, 0 on a CPU; `note` says why no GPU is used."""

    device: str
    name: str
    total_gib: float = 0.0
    free_gib: float = 0.0
    has_bfloat16: bool = False
    note: str = ""


def this_machine() -> Machine:
    """The current CUDA GPU (ROCm counts as one) if it answers, else the CPU with the reason in `note`."""
    import torch

    with warnings.catch_warnings(record=True) as complaints:  # a broken driver only warns
        warnings.simplefilter("always")
        found = torch.cuda.is_available()
    note = first_line(complaints[0].message) if complaints else "no CUDA GPU"
    if found:
        try:
            if processes.launched() > 1:
                torch.cuda.set_device(own_device("cuda"))
            free, total = torch.cuda.mem_get_info()
            return Machine(
                device="cuda",
                name=torch.cuda.get_device_name(),
                total_gib=total / 2**30,
                free_gib=free / 2**30,
                # Emulated bfloat16, on cards before Ampere, is slower than float16.
                has_bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
            )
        except RuntimeError as error:
            note = f"the CUDA GPU does not answer: {first_line(error)}"
    elif has_mps():
        note = "no CUDA GPU; the Apple GPU is used on request only (--device mps), prl was never run on one"
    return Machine(device="cpu", name="CPU", note=note)


def usable_memory(device: str, *, swap: bool = False) -> int:
    """Bytes that this process may hold in all: what is free on `device`, or in its container, and what it has
    already. Processes of one launcher share what is free. `swap`: on a CPU, all that it can get until it is
    killed."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    import psutil

    free = psutil.virtual_memory().available
    if (of_group := group_free()) is not None:
        free = min(free, of_group)
    if swap and not sys.platform.startswith("linux"):  # others swap, and make room for it, as they need to
        return psutil.virtual_memory().total
    if swap:
        with warnings.catch_warnings():  # psutil, of a system that does not say how much it swaps
            warnings.simplefilter("ignore")
            free += psutil.swap_memory().free
    return free // processes.launched_here() + psutil.Process().memory_info().rss


def peak_memory(device: str) -> int:
    """Bytes that this process has taken at most: on a CUDA GPU in tensors, since
    `torch.cuda.reset_peak_memory_stats`; on others in all, since it began."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    try:  # Linux, whose `ru_maxrss` has that of the parent process in it
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held << 10


_GROUP_FILES = {
    "": ("memory.max", "memory.current", ""),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
}
"""Controller (none in version 2) -> the files of limit and use, and what begins the names in memory.stat."""


def group_free(
    listed: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Bytes that the control groups of this process (a container's, a scheduler's) leave it; None without a
    limit. Cached files count as free: the kernel drops them first."""
    left = starmap(_left_in, _groups(listed, mounted))
    return min((each for each in left if each is not None), default=None)


def _groups(listed: Path, mounted: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The control groups that this process is in, each with its `_GROUP_FILES`, and those above them."""
    try:
        lines = listed.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        for controller in {*controllers.split(",")} & {*_GROUP_FILES}:
            root = mounted / controller
            group = root / path.lstrip("/")
            # In a container its own group is the root, and the path may be that of the host.
            for each in (group, *group.parents):
                if each == root or root in each.parents:
                    yield each, _GROUP_FILES[controller]


def _left_in(group: Path, files: tuple[str, str, str]) -> int | None:
    limit, use, prefix = files
    try:
        most, held = (int((group / name).read_text()) for name in (limit, use))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or "max"
        return None
    cached = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))
    return max(0, most - held + cached)


def memory_limit(
    device: str, listed: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> int:
    """Bytes that there are in all: of the GPU, or on others of the machine or, where that is less, of what
    the control groups of this process may hold. Processes of one launcher share the latter."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[1]
    import psutil

    found = psutil.virtual_memory().total
    for group, (limit, *_) in _groups(listed, mounted):
        with contextlib.suppress(OSError, ValueError):  # no such group, or "max"
            found = min(found, int((group / limit).read_text()))
    return found // processes.launched_here()


def own_device(device: str) -> str:
    """`device` as torch is to be asked for it: of several processes on a machine each takes its own GPU, the
    one that accelerate 1.15 has it train on. Never run on several GPUs."""
    if device != "cuda" or processes.launched() == 1:
        return device
    import torch

    # A scheduler may show each process one GPU only.
    return f"cuda:{processes.local_index() % torch.cuda.device_count()}"


def leave_cudnn_attention(device: str) -> None:
    """On a GPU have torch choose among its other kernels for attention, in this process, from here on.

    cuDNN's are its first choice on an H100 and later (torch 2.13); with a mask their gradient may be no
    number (pytorch issue 196678), and each new shape takes them a plan. Never run on a GPU.
    """
    import torch

    if device != "cpu":
        torch.backends.cuda.enable_cudnn_sdp(False)


def has_mps() -> bool:
    """Whether torch can use an Apple GPU."""
    import torch

    return torch.backends.mps.is_available()


def choose_recipe(machine: Machine) -> tuple[str, str]:
    """The largest GPU recipe that the *free* memory holds, else `tiny`; and why."""
    if machine.device != "cuda":
        return "tiny", machine.note
    memory = f"{machine.name} has {machine.free_gib:.1f} of {machine.total_gib:.1f} GiB free"
    for size in CARD_SIZES:
        if machine.free_gib >= USABLE * size:
            return f"{size}gb", f"{memory}; this recipe needs {USABLE * size:.1f}"
    return "tiny", f"{memory}; the smallest GPU recipe needs {USABLE * CARD_SIZES[-1]:.1f}"


def choose_dtype(machine: Machine, device: str) -> tuple[str, str]:
    """The precision to compute in on `device`; and why."""
    if device != "cuda":
        return "float32", f"the {device} path is exact and tested in float32"
    if machine.has_bfloat16:
        return "bfloat16", f"{machine.name} computes it natively"
    return "float16", f"{machine.name} only emulates bfloat16"


def choose_threads() -> tuple[int, str]:
    """Set torch's thread count to the fastest by a short timing (25 ms a candidate); return it and why.

    More threads are not always faster: where the second core is busy, two threads took 15 to 40 times as long
    as one, because every product waits for the slower thread. The mean is compared, not the best, since those
    waits are what costs. `OMP_NUM_THREADS`, if set, is the user's choice and is kept.
    """
    import torch

    if os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads(), "OMP_NUM_THREADS is set"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores == 1:
        torch.set_num_threads(1)
        return 1, "one core"
    counts = sorted({cores, *(2**power for power in range(cores.bit_length()))})
    timings = {count: _product_ms(count) for count in counts}
    chosen = counts[0]
    for count in counts[1:]:
        if timings[count] < _WORTH_ANOTHER_THREAD * timings[chosen]:
            chosen = count
    torch.set_num_threads(chosen)
    shown = ", ".join(f"{count}: {milliseconds:.2f}" for count, milliseconds in timings.items())
    return chosen, f"fastest by timing, ms a product at each thread count: {shown}"


def _product_ms(threads: int) -> float:
    """Mean milliseconds of a 256 x 256 product, about what one layer of a small model multiplies."""
    import torch

    torch.set_num_threads(threads)
    left = torch.ones(256, 256)
    for _ in range(3):  # the first products start the threads
        torch.mm(left, left)
    products, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < _SECONDS_A_COUNT:
        torch.mm(left, left)
        products += 1
    return 1000 * elapsed / products


def keep_freed_memory() -> None:
    """Have glibc's allocator keep up to `KEPT` of what is freed at the end of its heap.

    By itself it gives the activations of a step back, and in the next one the kernel clears their pages anew:
    of an RL step of the tiny model 0.14 to 0.2 of 1.9 CPU seconds. Blocks of 32 MiB or more go back as ever.
    With another C library nothing changes.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            allocator = ctypes.CDLL("libc.so.6")
            allocator.mallopt(_MMAP_THRESHOLD, 2**25)  # where glibc's own, which grows, would end
            allocator.mallopt(_TRIM_THRESHOLD, KEPT)

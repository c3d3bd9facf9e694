"""What the profiler of torch saw, counted: launches, kernels, copies between host and device, waits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

LAUNCH = re.compile(r"Launch\w*Kernel|GraphLaunch")
"""cudaLaunchKernel, cudaLaunchKernelExC, cuLaunchKernel, cudaGraphLaunch … and HIP's."""


class Event(NamedTuple):
    """A span of the profiler's: of the device, or of the host."""

    name: str
    is_on_device: bool
    nanoseconds: int


def counted(events: Iterable[Event], *, has_device: bool) -> dict[str, Any]:
    """`launches` of the host (a captured graph is one), `kernels` that ran, `copies` between host and device,
    `waits` of the host, seconds that the device was `busy`, all None without a device; `operators` of torch,
    nested ones too; and the eight names that took longest, as `top`."""
    counts: Counter[str] = Counter()
    taken: dict[str, list[float]] = {}
    for name, is_on_device, nanoseconds in events:
        if is_on_device:
            counts["busy"] += nanoseconds
            counts["copies"] += name.startswith("Memcpy") and "DtoD" not in name
            counts["kernels"] += not name.startswith(("Memcpy", "Memset"))
        else:
            counts["launches"] += bool(LAUNCH.search(name))
            counts["waits"] += "Synchronize" in name
            counts["operators"] += name.startswith("aten::")
        if is_on_device or (not has_device and name.startswith("aten::")):
            of_name = taken.setdefault(name, [0, 0.0])
            of_name[0] += 1
            of_name[1] += nanoseconds / 1e6
    longest = sorted(taken.items(), key=lambda each: -each[1][1])[:8]
    found: dict[str, Any] = {"operators": counts["operators"], "busy": None}
    found |= {key: counts[key] if has_device else None for key in ("launches", "kernels", "copies", "waits")}
    if has_device:
        found["busy"] = counts["busy"] / 1e9
    return found | {"top": [{"name": name[:80], "count": int(n), "ms": ms} for name, (n, ms) in longest]}

"""Linear layers of a CPU model in a faster layout while responses are sampled.

Decoding multiplies a few rows by the same matrices some hundred times. In fp32 torch hands such a product to
MKL; on an AMD EPYC that took two to three times as long, from 8 rows on, as oneDNN with weights arranged once
(what torch.compile's freezing does). Small matrices stay with MKL, whose call costs a fourth of oneDNN's, but
column by column: on an Intel Xeon that took 0.5 to 0.8 of the time from 6 to 128 rows, and rarely longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALLEST = 2**17
"""Elements of the smallest matrix for oneDNN."""


@contextmanager
def packed_linears(model: nn.Module) -> Iterator[None]:
    """Within, the fp32 linear layers on a CPU use a copy of their weights, as they are now, in that layout.

    torch 2.13: the operators of oneDNN are those of Inductor, without a public name; where a build lacks them
    nothing changes. A layer that something else has taken over keeps its forward.
    """
    packed = [module for module in model.modules() if isinstance(module, nn.Linear) and _is_packable(module)]
    try:
        for linear in packed:
            vars(linear)["forward"] = _packed(linear.weight.detach(), linear.bias)
        yield
    finally:
        for linear in packed:
            vars(linear).pop("forward", None)


def _is_packable(linear: nn.Linear) -> bool:
    return (
        type(linear) is nn.Linear
        and "forward" not in vars(linear)
        and linear.weight.device.type == "cpu"
        and linear.weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def _packed(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    if weight.numel() < SMALLEST:
        return partial(functional.linear, weight=weight.t().contiguous().t(), bias=bias)
    return partial(_multiply, torch.ops.mkldnn._reorder_linear_weight(weight), bias)


def _multiply(weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")

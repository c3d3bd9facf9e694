"""Linear layers of a CPU model in oneDNN's own layout while responses are sampled.

Decoding multiplies a few rows by the same matrices some hundred times. In fp32 torch hands such a product to
MKL; on an AMD EPYC that took two to three times as long, from 8 rows on, as oneDNN with weights arranged once
(what torch.compile's freezing does).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

SMALLEST = 2**17
"""Matrices of fewer elements gain nothing."""


@contextmanager
def packed_linears(model: nn.Module) -> Iterator[None]:
    """Within, the larger fp32 linear layers on a CPU use a packed copy of their weights, as they are now.

    torch 2.13: the operators are those of Inductor, without a public name; where a build lacks them nothing
    changes. A layer that something else has taken over keeps its forward.
    """
    packed = [module for module in model.modules() if isinstance(module, nn.Linear) and _is_packable(module)]
    try:
        for linear in packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
            vars(linear)["forward"] = partial(_multiply, weight, linear.bias)
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
        and linear.weight.numel() >= SMALLEST
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def _multiply(weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")

"""LoRA whose rank is not small beside the width of its layer, computed as one matrix.

x W + (x A) B, as peft computes it, takes two more products of all tokens, and three passes over the result
to scale and to add it. Where the layer is narrow, W + A B is cheap, and x (W + A B) one product. The numbers
are the same to rounding, so are the gradients. Of a tiny model at rank 64 that is a quarter of a step.

On a CPU oneDNN computes it, where torch takes MKL: of 7872 rows an AMD EPYC made 100 GFLOPS by MKL and 210 to
240 by oneDNN, forward and for the gradient of x; that of W was hardly faster, and stays.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from prl.machine.shape import is_one_matrix

LEAST = 2**20
"""Multiplications of the smallest product for oneDNN, whose call costs more than MKL's."""


def add_up_narrow_adapters(model: nn.Module) -> int:
    """Compute the LoRA layers of `model` as one matrix wherever that is less work; how many layers it can be.

    It never is for the layers and ranks of large models, nor for a few tokens. In half precision the sum
    would swallow small updates, so there, with dropout, and with what else peft knows (DoRA, quantised
    layers), they stay as they are. peft 0.21.
    """
    layers = [module for module in model.modules() if _is_plain(module)]
    for layer in layers:
        layer.forward = functools.partial(_forward, layer)
    return len(layers)


def _is_plain(module: Any) -> bool:
    return (
        type(module) is LoraLinear
        and type(module.get_base_layer()) is nn.Linear
        and not (module.lora_variant or module.fan_in_fan_out)
    )


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    base, names = layer.get_base_layer(), layer.active_adapters
    if args or kwargs or layer.merged or layer.disable_adapters or len(names) != 1:
        return LoraLinear.forward(layer, x, *args, **kwargs)
    name = names[0]
    if name not in layer.lora_A or not isinstance(layer.lora_dropout[name], nn.Identity):
        return LoraLinear.forward(layer, x)
    down, up = layer.lora_A[name].weight, layer.lora_B[name]
    is_whole = {x.dtype, base.weight.dtype, down.dtype, up.weight.dtype} == {torch.float32}
    if not is_whole or up.bias is not None or torch.is_autocast_enabled(x.device.type):
        return LoraLinear.forward(layer, x)
    inputs, outputs = base.in_features, base.out_features
    if not is_one_matrix(x.numel() // inputs, len(down), inputs, outputs):
        return LoraLinear.forward(layer, x)
    weight = torch.addmm(base.weight, up.weight, down, alpha=layer.scaling[name])
    return product(x, weight, base.bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` of fp32 tensors, by oneDNN where that is faster. torch 2.13: its operator is Inductor's,
    without a public name; where a build lacks it, torch chooses."""
    if (
        x.device.type != "cpu"
        or x.numel() * len(weight) < LEAST
        or not torch.backends.mkldnn.is_available()
        or not hasattr(torch.ops.mkldnn, "_linear_pointwise")
    ):
        return linear(x, weight, bias)
    found: Tensor = _Product.apply(x, weight)
    return found if bias is None else found + bias


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        needs_x, needs_weight = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        return _by_onednn(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = ctx.saved_tensors
        of_y = grads[0].contiguous()
        of_x = None if weight is None else _by_onednn(of_y, weight.t())
        of_weight = None if x is None else of_y.flatten(0, -2).t() @ x.flatten(0, -2)
        return of_x, of_weight


def _by_onednn(x: Tensor, weight: Tensor) -> Tensor:
    try:
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    except RuntimeError as error:
        # Where memory is short oneDNN says so for each new shape from then on; torch may still find some.
        if "could not create a primitive" not in str(error):
            raise
        return linear(x, weight)

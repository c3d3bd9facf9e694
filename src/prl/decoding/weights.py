"""Adapters folded into the weights while responses are sampled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

FOUR_BIT = "Linear4bit"
"""What both bitsandbytes 0.50 and, with an adapter, peft 0.21 call a 4-bit layer. Told by name: where neither
was used, neither is imported."""


@contextmanager
def folded_adapters(model: PreTrainedModel | PeftModel, *, merges: bool = False) -> Iterator[None]:
    """Within, adapters are part of the weights; afterwards every weight is the tensor that it was, bit for
    bit.

    peft 0.21 copies the whole embedding, and the tied head once more, at each forward pass to put the trained
    token rows in; here that happens once. It is exact in any precision. LoRA matrices are folded in where it
    costs no accuracy worth the name, in fp32 (a copy of the weights for as long as it lasts); where two
    layers share a weight, they stay apart. In 16 bits they are folded in with `merges` alone: the sum is
    rounded, which makes another model of it.
    """
    modules = list(model.modules())
    holders = Counter(id(weight) for module in modules for weight in module.parameters(recurse=False))
    layers = [
        module
        for module in modules
        if (isinstance(module, TrainableTokensLayer) or _is_foldable(module, holders, merges))
        and not (module.merged or module.disable_adapters)
    ]
    originals: list[tuple[nn.Parameter, torch.Tensor]] = []
    try:
        for layer in layers:
            for weight in layer.get_base_layer().parameters(recurse=False):
                originals.append((weight, weight.data))
                if isinstance(layer, LoraLinear):  # which is merged in place
                    weight.data = weight.data.clone()
            layer.merge()
        yield
    finally:
        for layer in layers:
            layer.merged_adapters.clear()
        # A tied weight is in the list twice, the second time as the first merge left it: hence the order.
        for weight, data in reversed(originals):
            weight.data = data


@contextmanager
def dequantized(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Within, plain layers stand in for 4-bit ones: their weights in the precision of the embedding, with the
    adapter that is active, rounded once.

    They are made anew each time, which takes about as long as reading them, so that nothing is held while the
    model trains. A layer whose adapter is more than a product of two matrices keeps its own.
    """
    dtype = model.get_input_embeddings().weight.dtype
    quantized = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child).__name__ == FOUR_BIT
        and not isinstance(parent, LoraLayer)
        and not getattr(child, "lora_variant", None)
        and not any(getattr(child, "lora_bias", {}).values())
    ]
    try:
        for parent, name, child in quantized:
            setattr(parent, name, _plain(child, dtype))
        yield
    finally:
        for parent, name, child in quantized:
            setattr(parent, name, child)


@contextmanager
def without_wrappers(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Within, layers whose adapter is in the weights stand bare in the model.

    peft asks anew at each call what there is to add: in a small model, where the calls take most of the time,
    this costs a twentieth of it.
    """
    wrapped = [
        (parent, name, child, bare)
        for parent in model.modules()
        for name, child in parent.named_children()
        if (bare := _bare(child)) is not None
    ]
    try:
        for parent, name, _, bare in wrapped:
            setattr(parent, name, bare)
        yield
    finally:
        for parent, name, child, _ in wrapped:
            setattr(parent, name, child)


def _is_foldable(module: Any, holders: Counter[int], merges: bool) -> bool:
    """Whether this is plain LoRA on a matrix of its own that is no less precise than is asked for."""
    if type(module) is not LoraLinear or module.lora_variant:
        return False
    weight = module.get_base_layer().weight
    is_precise = weight.dtype == torch.float32 or (merges and weight.dtype.is_floating_point)
    return is_precise and holders[id(weight)] == 1


def _plain(layer: Any, dtype: torch.dtype) -> nn.Linear:
    """What a 4-bit layer computes, bare or with LoRA, as one matrix."""
    is_adapted = isinstance(layer, LoraLayer)
    base = layer.get_base_layer() if is_adapted else layer
    weight: Tensor = dequantize_module_weight(base).float()
    if is_adapted and not layer.disable_adapters:
        for adapter in layer.active_adapters:
            if adapter in layer.lora_A:
                weight += layer.get_delta_weight(adapter)
    plain = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
    plain.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    if base.bias is not None:
        plain.bias = nn.Parameter(base.bias.detach().to(dtype), requires_grad=False)
    return plain


def _bare(module: nn.Module) -> nn.Module | None:
    """What computes the same as this layer of peft; None where there is no such thing."""
    layer = module.token_adapter if isinstance(module, TrainableTokensWrapper) else module
    if not isinstance(layer, (LoraLinear, TrainableTokensLayer)) or layer.disable_adapters:
        return None
    return layer.get_base_layer() if layer.merged else None

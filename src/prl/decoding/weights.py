"""Adapters folded into the weights while responses are sampled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.utils.other import TrainableTokensWrapper
from torch import nn
from transformers import PreTrainedModel


@contextmanager
def folded_adapters(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Within, adapters are part of the weights; afterwards every weight is the tensor that it was, bit for
    bit.

    peft 0.21 copies the whole embedding, and the tied head once more, at each forward pass to put the trained
    token rows in; here that happens once. It is exact in any precision. LoRA matrices are folded in where it
    costs no accuracy worth the name, in fp32 (a copy of the weights for as long as it lasts); in 16 and 4
    bits, and where two layers share a weight, they stay apart.
    """
    modules = list(model.modules())
    holders = Counter(id(weight) for module in modules for weight in module.parameters(recurse=False))
    layers = [
        module
        for module in modules
        if (isinstance(module, TrainableTokensLayer) or _is_foldable(module, holders))
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


def _is_foldable(module: Any, holders: Counter[int]) -> bool:
    """Whether this is plain LoRA on a full-precision matrix of its own."""
    if type(module) is not LoraLinear or module.lora_variant:
        return False
    weight = module.get_base_layer().weight
    return weight.dtype == torch.float32 and holders[id(weight)] == 1


def _bare(module: nn.Module) -> nn.Module | None:
    """What computes the same as this layer of peft; None where there is no such thing."""
    layer = module.token_adapter if isinstance(module, TrainableTokensWrapper) else module
    if not isinstance(layer, (LoraLinear, TrainableTokensLayer)) or layer.disable_adapters:
        return None
    return layer.get_base_layer() if layer.merged else None

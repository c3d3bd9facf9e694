"""The mask of a structure in the form that a model takes: for each kind of its layers, and for how it
computes attention."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel
from transformers.masking_utils import create_causal_mask

from prl.errors import ModelError
from prl.structure.batches import Structure, window_mask

ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager", "flex_attention")
"""What can take a mask of its own; flash attention cannot.

On a CPU flex attention has no gradients, and torch 2.13 fails to compile it for a second shape.
"""

LAYER_KINDS = ("full_attention", "sliding_attention")
"""The kinds of layers, by transformers' names, that a mask of one's own says everything about."""


def backbone_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The model without PEFT's wrapper and without the LM head."""
    return (model.get_base_model() if isinstance(model, PeftModel) else model).base_model


def cache_name(backbone: PreTrainedModel) -> str:
    """What its forward pass calls the cache: `cache` since transformers 5.24, `past_key_values` before."""
    return "cache" if "cache" in inspect.signature(backbone.forward).parameters else "past_key_values"


@contextmanager
def attention_named(backbone: PreTrainedModel, name: str) -> Iterator[None]:
    """Within, the attention modules of `backbone` call what is registered with transformers as `name`.

    transformers 5.23: a module looks its function up by the private `_attn_implementation_internal` of the
    config at every call; the public setter refuses to change the implementation of a model in use.
    """
    config = backbone.config
    before = config._attn_implementation_internal
    config._attn_implementation_internal = name
    try:
        yield
    finally:
        config._attn_implementation_internal = before


def foreign_layers(config: Any) -> str | None:
    """The layers that a model's config names and that take no mask, in words; None: there are none."""
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ()) - set(LAYER_KINDS)
    return f"layers of kind {', '.join(sorted(kinds))}, which take no mask" if kinds else None


def layer_windows(backbone: PreTrainedModel) -> dict[str | None, int | None]:
    """For each kind of attention layer its sliding window, in positions, or None; kind None stands for all
    layers of a model that takes one mask. ModelError where a kind takes no mask."""
    if foreign := foreign_layers(backbone.config):
        raise ModelError(
            f"{type(backbone).__name__} has {foreign}; use a model of the Qwen3, Llama or Gemma families"
        )
    config = backbone.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:  # all layers are of one kind, with a window where the config has one (Mistral)
        return {None: window}
    if kinds == {"full_attention"}:
        return {None: None}
    return {kind: window if kind == "sliding_attention" else None for kind in kinds}


def mask_for(backbone: PreTrainedModel, structure: Structure) -> Any:
    """The mask in the form that the backbone takes: one tensor, or one for each kind of layer where they
    differ."""
    masks = {
        kind: _as_implemented(backbone, structure, window) for kind, window in layer_windows(backbone).items()
    }
    return masks.get(None, masks)


def _as_implemented(backbone: PreTrainedModel, structure: Structure, window: int | None) -> Any:
    implementation = backbone.config._attn_implementation
    if implementation == "flex_attention":
        return _flex_mask(backbone, structure, window)
    visible = window_mask(structure, window)
    if implementation != "eager":
        return visible
    # Eager attention adds its mask: a bool one would be wrong without a word.
    dtype = backbone.get_input_embeddings().weight.dtype
    hidden = torch.tensor(torch.finfo(dtype).min, dtype=dtype, device=visible.device)
    return torch.where(visible, torch.zeros_like(hidden), hidden)


def _flex_mask(backbone: PreTrainedModel, structure: Structure, window: int | None) -> Any:
    segments, horizons, positions, sequences = structure

    def visible(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = (segments[batch, k] < horizons[batch, q]) | (segments[batch, k] == segments[batch, q])
        seen = seen & (sequences[batch, k] == sequences[batch, q])
        return seen if window is None else seen & (positions[batch, q] - positions[batch, k] < window)

    return create_causal_mask(
        backbone.config,
        torch.empty((*segments.shape, 1), device=segments.device),
        None,  # attention_mask
        None,  # the cache, by either name
        and_mask_function=visible,
    )

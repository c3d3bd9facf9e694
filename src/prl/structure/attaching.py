"""Structured attention in a model: positions and masks wherever it is called, by whatever trainer."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from prl.errors import ModelError
from prl.prompts import IM_START
from prl.runs.disk import read_json, write_json
from prl.structure.batches import has_no_response, read_structure
from prl.structure.masks import ATTENTION_IMPLEMENTATIONS, backbone_of, mask_for
from prl.structure.openings import path_opening, said_of_opening
from prl.structure.tags import Tags
from prl.structure.trial import check_computes

_NO_HEADER = (
    f"structured attention reads responses, which begin with {IM_START}assistant and a line end: a batch "
    "holds <Parallel> and no such header, so it is computed causally; write prompts with "
    "prl.prompts.render_prompt"
)

ATTENTION_FILE = "prl.json"
"""Says beside the weights of a model or an adapter with which attention it was trained, and what its paths
begin with, if anything."""


def attach_structure(
    model: PreTrainedModel | PeftModel, tags: Tags, *, probe: bool = True
) -> RemovableHandle:
    """Make `model` compute with structural positions and path windows wherever it is called. `.remove()` of
    what comes back undoes it.

    A hook on the backbone turns input ids and their padding mask into positions and a mask before each
    forward pass, so it holds inside SFTTrainer and GRPOTrainer, with a fused LM head, under PEFT, with the
    adapter switched off, and with gradient checkpointing. Of the position ids that it is given it uses one
    thing: where they start again at 0 another packed sequence begins (TRL's `padding_free`). Calls that bring
    a mask for each pair of tokens, as the decoder does, are left alone. However the model is saved, by itself
    or as an adapter, `prl.json` beside its weights says that it was attached.

    Raises ModelError where the attention implementation takes no mask, where a structure is attached already,
    and, unless `probe` is off, where the model turns out to ignore mask or positions. Afterwards the model
    itself raises it when it is called with embeddings in place of ids, or goes on from a cache without a mask
    of its own: `model.generate` would decode causally. Where a batch holds `<Parallel>` and nowhere the
    header that a response begins after, it warns: nothing of it has a structure.
    """
    backbone = backbone_of(model)
    implementation = backbone.config._attn_implementation
    if implementation not in ATTENTION_IMPLEMENTATIONS:
        raise ModelError(
            f"attention implementation {implementation!r} takes no path windows; load the model with "
            f"attn_implementation one of {', '.join(ATTENTION_IMPLEMENTATIONS)}"
        )
    if attached_structure(model) is not None:
        raise ModelError("a structure is attached already; remove the first handle before attaching again")
    handle = backbone.register_forward_pre_hook(_StructureHook(tags), with_kwargs=True)
    if probe:
        try:
            check_computes(model, tags)
        except BaseException:
            handle.remove()
            raise
    _mark_what_is_saved()
    return handle


def attached_structure(model: PreTrainedModel | PeftModel) -> Tags | None:
    """The tags that `attach_structure` was called with, or None."""
    hooks = backbone_of(model)._forward_pre_hooks.values()
    return next((hook.tags for hook in hooks if isinstance(hook, _StructureHook)), None)


@functools.cache
def _mark_what_is_saved() -> None:
    """From here on, what transformers 5 and peft 0.21 save says in `prl.json` whether structure was attached.

    The classes are patched, not the model: an adapter may be put around the model later, and copies of it
    must save themselves. Nothing narrower sees the folder: TRL's and transformers' callbacks run in their
    trainers only, and hooks on the state dict do not get its name. A model without structure gets no file,
    but one that is there is corrected.
    """

    def marking(save: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(save)

        @functools.wraps(save)
        def save_pretrained(model: nn.Module, save_directory: Any, *args: Any, **kwargs: Any) -> None:
            save(model, save_directory, *args, **kwargs)
            given = signature.bind(model, save_directory, *args, **kwargs).arguments
            hooks = (hook for module in model.modules() for hook in module._forward_pre_hooks.values())
            is_attached = any(isinstance(hook, _StructureHook) for hook in hooks)
            file = Path(save_directory) / ATTENTION_FILE
            if given.get("is_main_process", True) and (is_attached or file.is_file()):
                attention = "structured" if is_attached else "causal"
                kept = {key: value for key, value in read_json(file).items() if key != "path_opening"}
                said = said_of_opening(path_opening(model))
                write_json(file, kept | {"attention": attention} | said)

        return save_pretrained

    for kind in (PreTrainedModel, PeftModel):
        kind.save_pretrained = marking(kind.save_pretrained)


@dataclass(frozen=True)
class _StructureHook:
    """A forward pre-hook of a backbone."""

    tags: Tags

    def __call__(
        self, backbone: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]] | None:
        if args:
            kwargs = dict(zip(inspect.signature(backbone.forward).parameters, args, strict=False)) | kwargs
        mask = kwargs.get("attention_mask")
        if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
            masks = mask.values() if isinstance(mask, Mapping) else (mask,)
            if backbone.config._attn_implementation == "eager" and any(m.dtype == torch.bool for m in masks):
                raise ModelError(
                    "eager attention adds its mask, a bool one would be wrong without a word; use sdpa"
                )
            return None
        names = ("cache", "past_key_values")  # either: hooks run before transformers renames an argument
        cache = next((kwargs[name] for name in names if kwargs.get(name) is not None), None)
        if cache is not None and cache.get_seq_length() > 0:
            raise ModelError(
                "a model with structured attention cannot go on from a cache by itself (model.generate "
                "decodes causally); use prl.decoding"
            )
        input_ids = kwargs.get("input_ids")
        if input_ids is None:
            raise ModelError("structured attention needs input_ids, the model was called with inputs_embeds")
        positions = kwargs.get("position_ids")
        sequences = None if positions is None else (positions == 0).cumsum(-1).expand_as(input_ids)
        structure = read_structure(input_ids, self.tags, mask, sequences)
        if self.tags.header and has_no_response(input_ids, self.tags):
            warnings.warn(_NO_HEADER, stacklevel=2)
        kwargs["position_ids"] = structure.positions
        kwargs["attention_mask"] = mask_for(backbone, structure)
        return (), kwargs

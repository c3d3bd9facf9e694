"""A trial of whether a model computes what mask and positions say, before anything is built on it."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from prl.errors import ModelError, first_line
from prl.structure.batches import read_structure
from prl.structure.masks import backbone_of, mask_for
from prl.structure.tags import Tags

PROBE_TOLERANCE = 0.05
"""The most that logits may change where they must not, as a share of a change that there must be."""


@torch.no_grad()
def check_computes(model: PreTrainedModel | PeftModel, tags: Tags) -> None:
    """Refuse by name a model that does not compute what mask and positions say.

    Four passes over one block of two paths, of equal shape: as it is, with the first path's text altered,
    with the paths swapped, and with ordinary positions. Logits (length, vocabulary) that must stay the same
    may change by a share of how much others, which must change, do: a fixed limit would tell nothing of a
    model with random weights or scaled logits, where all changes are small.
    """
    backbone = backbone_of(model)
    table = backbone.get_input_embeddings().weight
    usable = [i for i in range(table.shape[0]) if i not in vars(tags).values()]
    words = usable[:: max(1, len(usable) // 32)]

    def text(start: int, count: int) -> list[int]:
        return [words[i % len(words)] for i in range(start, start + count)]

    def path(start: int, count: int) -> list[int]:
        return [tags.path, *text(start, count), tags.end_path]

    opening = [*text(0, 2), *tags.header, tags.parallel]
    sibling, altered, probed = path(2, 8), path(3, 8), path(11, 6)
    end = [tags.end_parallel, tags.summary, *text(20, 4)]
    mine = slice(len(opening) + len(sibling), -len(end))
    mine_swapped = slice(len(opening), len(opening) + len(probed))
    after = slice(-len(end), None)

    def logits(ids: list[int], **arguments: Any) -> Tensor:
        return model(input_ids=torch.tensor([ids], device=table.device), **arguments).logits[0].float()

    def change(one: Tensor, other: Tensor) -> float:
        return (one - other).abs().max().item()

    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        written = [*opening, *sibling, *probed, *end]
        found = logits(written)
        with_altered = logits([*opening, *altered, *probed, *end])
        with_swapped = logits([*opening, *probed, *sibling, *end])
        mask = mask_for(backbone, read_structure(torch.tensor([written], device=table.device), tags))
        ordinary = torch.arange(len(written), device=table.device)[None]
        with_ordinary = logits(written, attention_mask=mask, position_ids=ordinary)
    except ModelError:
        raise
    except Exception as error:
        first = first_line(error)
        raise _unfit(model, f"its forward pass fails ({first})") from error
    finally:
        for module, training in modes.items():
            module.training = training
    summary = change(found[after], with_altered[after])
    if not summary > 0:
        raise _unfit(model, "what follows a block does not see its paths")
    if not change(found[mine], with_altered[mine]) <= PROBE_TOLERANCE * summary:
        raise _unfit(model, "a path's logits change with what its sibling says")
    moved = change(found[mine], with_ordinary[mine])
    if not moved > 0:
        raise _unfit(model, "it ignores position ids")
    is_precise = all(parameter.dtype == torch.float32 for parameter in model.parameters())
    eps = torch.finfo(torch.float32 if is_precise else torch.bfloat16).eps
    rounding = 16 * eps * found[mine].abs().max().item()
    if not change(found[mine], with_swapped[mine_swapped]) <= PROBE_TOLERANCE * moved + rounding:
        raise _unfit(model, "a path's logits change with where it stands in its block")


def _unfit(model: PreTrainedModel | PeftModel, why: str) -> ModelError:
    name = type(model.get_base_model() if isinstance(model, PeftModel) else model).__name__
    return ModelError(
        f"{name} cannot compute structured attention: {why}; use --attention causal, or a model of the "
        "Qwen3, Llama or Gemma families"
    )

"""A trial of whether decoding computes what a model's own forward pass does, before anything is sampled."""

from __future__ import annotations

from weakref import WeakSet

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from prl.decoding.passes import Passes, decoding, evaluating
from prl.errors import ModelError, first_line
from prl.structure import Tags, backbone_of, foreign_layers
from prl.structure.reader import MAIN_HORIZON

NO_NUMBERS = (
    "the model's logits are no numbers: its weights hold nan or inf, as when training diverged; go back to "
    "an earlier checkpoint"
)

_CHECKED: WeakSet[PreTrainedModel] = WeakSet()
"""Backbones whose decoding was found to agree with their forward pass."""

TOLERANCE = 0.05
"""The largest difference of logits, as a share of the change that another word makes to those of the words
after it."""


@torch.no_grad()
def check_decodable(model: PreTrainedModel | PeftModel, tags: Tags) -> None:
    """Refuse by name a model that the decoder would get wrong: attention or positions of its own making, or a
    head that scales its logits.

    Two rows go through the cache in three uneven passes, and their logits must be those of the model's own
    forward pass. In that, the rows stand a second time with one word altered: how much this changes the
    logits is the measure for a difference.
    """
    backbone = backbone_of(model)
    if backbone in _CHECKED:
        return
    if foreign := foreign_layers(backbone.config):
        raise _undecodable(model, f"it has {foreign}")
    table = backbone.get_input_embeddings().weight
    usable = sorted(set(range(table.shape[0])) - set(vars(tags).values()))
    words = [usable[i * len(usable) // 17] for i in range(17)]
    texts = [words[:8], words[8:16]]
    altered = [[*text[:3], words[16], *text[4:]] for text in texts]
    parts = [((0, 5), (0, 4)), ((5, 6), (4, 5)), ((6, 8), (5, 8))]  # of each row, pass by pass
    last = [(r, i) for r, part in enumerate(parts[-1]) for i in range(*part)]
    rows, positions = torch.tensor(last, device=table.device).T
    try:
        with decoding(model):
            passes = Passes(model, len(texts))
            for part in parts:
                columns: list[tuple[int, ...]] = [
                    (texts[r][i], r, i - start, i, 0, MAIN_HORIZON, i)
                    for r, (start, stop) in enumerate(part)
                    for i in range(start, stop)
                ]
                hidden = passes.forward(columns, None, len(texts))
            found = passes.logits(hidden)
        with evaluating(model):
            logits = model(input_ids=torch.tensor(texts + altered, device=table.device)).logits.float()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        what = first_line(error)
        raise _undecodable(model, f"its forward pass fails in the decoder ({what})") from error
    expected, other = logits[rows, positions], logits[rows + len(texts), positions]
    allowed = (
        TOLERANCE * (expected - other).abs().max() + 8 * torch.finfo(table.dtype).eps * expected.abs().max()
    )
    gap = (found - expected).abs().max()
    if expected.isnan().any():
        raise ModelError(NO_NUMBERS)
    if not gap <= allowed:
        raise _undecodable(model, f"its logits would be off by {gap.item():.2g}")
    _CHECKED.add(backbone)


def _undecodable(model: PreTrainedModel | PeftModel, why: str) -> ModelError:
    name = type(model.get_base_model() if isinstance(model, PeftModel) else model).__name__
    return ModelError(f"{name} cannot be decoded: {why}; use a model of the Qwen3, Llama or Gemma families")

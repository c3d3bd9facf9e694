"""`prl rl --wrong_paths judged`: what wrong paths of credited responses say is context and no target.

GRPO gives each token of a response the same advantage, so that a path that slipped is reinforced where the
summary decided against it (`prl.rewards.credit` counts how often). Left out of the loss it is neither; in a
response that is blamed it stays, and is unlearned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prl.data.targets import wrong_paths
from prl.grammar import parse, parse_ids
from prl.model import tag_ids
from prl.structure import context_tokens


def leave_out(
    outputs: dict[str, Any], judged: Sequence[dict[str, Any]], trainer: Any, path_opening: str
) -> None:
    """Take the wrong paths of responses with a positive advantage out of the loss of a generation.

    Which are wrong, `prl.data.targets.wrong_paths` says by the right answer: none in a block whose paths or
    summary do not conclude it. `outputs` are what `_generate_and_score_completions` of GRPOTrainer (trl 1.16)
    returns: `tool_mask` is 0 where a token has no loss, and `num_items_in_batch` counts those of all
    processes that have one. `judged` are the recorder's rows of the same responses, whose `context_paths`
    become the places of what was left out.
    """
    tags, mask = tag_ids(trainer.processing_class), outputs.get("tool_mask")
    mask = torch.ones_like(outputs["completion_mask"]) if mask is None else mask.clone()
    for row, advantage, own in zip(judged, outputs["advantages"].tolist(), mask, strict=True):
        ids = row["token_ids"]
        row["context_paths"] = _wrong(row, tags, path_opening) if advantage > 0 else []
        shown = context_tokens(ids, row["context_paths"], tags)
        own[: len(ids)][torch.tensor(shown, device=own.device)] = 0
    count = (outputs["completion_mask"] * mask).sum()
    outputs |= {"tool_mask": mask, "num_items_in_batch": trainer.accelerator.gather(count).sum()}


def _wrong(row: dict[str, Any], tags: Sequence[int], path_opening: str) -> list[int]:
    """The places of the wrong paths; none where the response spells a tag, so that its text has other paths
    than its tokens."""
    of_text, of_tokens = (
        [len(block.paths) for block in trace.blocks]
        for trace in (parse(row["text"]), parse_ids(row["token_ids"], tags))
    )
    return wrong_paths(row["text"], row["answer"], path_opening) if of_text == of_tokens else []

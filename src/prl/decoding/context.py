"""How many tokens a model was made for, and which prompts leave too little of them.

A prompt and the longest response to it must fit. Tokens are counted, with structured attention too: its
positions run along the critical path, which is shorter, but by how much is known only when a response is
there. Beyond its context a model computes without an error, at positions that it never saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

YARN_AND_ITS_LIKE = ("yarn", "linear")
"""Kinds of RoPE whose `factor` extends the context. With others (llama3), and where each kind of layer has a
RoPE of its own (Gemma 3), `max_position_embeddings` is the extended length already."""


def context_of(config: Any) -> int | None:
    """Tokens of the context of a model with this config (of transformers); None where it names none.

    A sliding window is no limit: what has left it still had a position. RoPE of the kinds longrope (Phi-3)
    and dynamic is one, at the length before it is extended: beyond that, transformers take the frequencies of
    all positions by the longest of a pass. The keys that the decoder keeps have those of an earlier pass, and
    a row has those of its longest neighbour, so that what is sampled would be scored as something else.
    """
    config = config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    if not isinstance(longest, int) or longest < 1:
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        return min(longest, rope.get("original_max_position_embeddings") or longest)
    if rope.get("rope_type") not in YARN_AND_ITS_LIKE or not rope.get("factor"):
        return longest
    return max(longest, int((rope.get("original_max_position_embeddings") or longest) * rope["factor"]))


def beyond(prompts: Sequence[str], tokenizer: Any, context: int | None, completion: int) -> dict[int, int]:
    """The prompts that leave less than `completion` tokens of the context: index -> tokens."""
    if context is None:
        return {}
    room = context - completion
    # A token is a byte at least: what has few enough is not cut into tokens.
    doubtful = [i for i, text in enumerate(prompts) if len(text.encode(errors="replace")) > room]
    ids = tokenizer([prompts[i] for i in doubtful], add_special_tokens=False)["input_ids"] if doubtful else []
    return {i: len(each) for i, each in zip(doubtful, ids, strict=True) if len(each) > room}


def beyond_told(found: dict[int, int], of: int, context: int | None, completion: int) -> str:
    """How many of `of` problems `beyond` found, and what would let them in, if anything does."""
    shortest, longest = min(found.values()), max(found.values())
    lengths = f"{shortest:,}" if shortest == longest else f"{shortest:,} to {longest:,}"
    room = (context or 0) - longest
    way = f"--max_completion_length {room} leaves room" if room > 0 else "shorten what is asked"
    what = (
        "the problem is" if of == 1 else f"{len(found)} of {of} problems {'is' if len(found) == 1 else 'are'}"
    )
    return (
        f"{what} beyond the model's context of {context:,} tokens, with {lengths} of prompt and "
        f"--max_completion_length {completion:,}: {way}"
    )

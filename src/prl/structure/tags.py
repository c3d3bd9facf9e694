"""The six tags as token ids, and where a response begins."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from prl.errors import ModelError
from prl.grammar import END_PARALLEL, SUMMARY, TAGS
from prl.prompts import IM_END, IM_START


@dataclass(frozen=True)
class Tags:
    """Ids of the six tags, the tokens that open the response (`header`; without one all is response), and
    those of the line end between `</Parallel>` and `<Summary>` (`glue`).

    The response begins after the first whole header of a sequence, and anew after each `next_turn`: a turn's
    end and another header, which stand in prompts with earlier turns and in no response. Other headers are
    text. Prompts are tokenised apart from responses, so that a header's last token cannot merge with what
    follows it.
    """

    parallel: int
    end_parallel: int
    path: int
    end_path: int
    summary: int
    end_summary: int
    header: tuple[int, ...] = ()
    next_turn: tuple[int, ...] = ()
    glue: tuple[int, ...] = ()

    @property
    def joint(self) -> tuple[int, ...]:
        """What the decoder ends a block with: `</Parallel>`, the glue and `<Summary>`."""
        return (self.end_parallel, *self.glue, self.summary)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Tags:
        """The tags of a tokenizer that has them. ModelError names those that are not one token."""
        pieces = {tag: tokenizer(tag, add_special_tokens=False)["input_ids"] for tag in TAGS}
        unknown = [tokenizer.unk_token_id]
        if missing := [tag for tag, ids in pieces.items() if len(ids) != 1 or ids == unknown]:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no token for {', '.join(missing)}; "
                'load the model with prl.model.load_model(..., tags="tokens"), or call add_tags'
            )
        header = tokenizer(f"{IM_START}assistant\n", add_special_tokens=False)["input_ids"]
        # A turn's end is one token wherever it stands, so this is how the pieces are tokenised in a prompt.
        ended = tokenizer(f"{IM_END}\n{IM_START}assistant\n", add_special_tokens=False)["input_ids"]
        # Between its tags, as in traces: alone, a line end of Llama 2 begins with a mark for a space.
        joint = tokenizer(f"{END_PARALLEL}\n{SUMMARY}", add_special_tokens=False)["input_ids"]
        parallel, end_parallel, path, end_path, summary, end_summary = (ids[0] for ids in pieces.values())
        around = tuple(header), tuple(ended), tuple(joint[1:-1])
        return cls(parallel, end_parallel, path, end_path, summary, end_summary, *around)

"""What each path of a block begins with (`prl.grammar.OPENINGS`), as token ids.

One function of the ids before `<Path>` and of the tokenizer, total on any ids: SFT tokenises traces by it,
the decoder writes what it says, and `forced_tokens` finds that again. Openings are tokenised apart from what
follows, so that they are the same tokens everywhere, and as text: whatever a line of a plan spells, no
control token comes of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prl.grammar import TAGS, opening_text, parse, plan_lines, split_at_openings
from prl.grammar.openings import check_opening, lines_of
from prl.structure.masks import backbone_of


class Opener:
    """The openings of one kind, "number" or "plan", in the tokens of one tokenizer."""

    def __init__(self, kind: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.kind, self.tokenizer = kind, tokenizer
        added = tokenizer.added_tokens_decoder
        control = {i: token.content for i, token in added.items() if token.special or token.content in TAGS}
        self._control_ids = {*control, *tokenizer.all_special_ids}
        # Within what spells a control token; ahead only, so that none hides another that overlaps it.
        spelled = "|".join(re.escape(content) for content in control.values() if len(content) > 1)
        self._spelled = re.compile(f"(?={spelled})" if spelled else r"(?!)")
        self._ids: dict[str, tuple[int, ...]] = {}

    @classmethod
    def of(cls, kind: str, tokenizer: PreTrainedTokenizerBase) -> Opener | None:
        """None for "none". ValueError for a kind that is no opening."""
        check_opening(kind)
        return None if kind == "none" else cls(kind, tokenizer)

    def plan(self, ids: Sequence[int]) -> list[str]:
        """The lines of the plan that these ids of the main thread, after its last tag, end with; [] where
        there is none, or where paths are numbered."""
        if self.kind != "plan":
            return []
        return plan_lines(
            self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def opening(self, plan: list[str], number: int) -> tuple[int, ...]:
        """The ids after `<Path>` of path `number`, from 1 on, of a block with this plan."""
        text = opening_text(lines_of(self.kind, plan, number))
        if text not in self._ids:
            self._ids[text] = self.as_text(text)
        return self._ids[text]

    def as_text(self, text: str) -> tuple[int, ...]:
        """The ids of a text, none of which is a control token's."""
        cuts = [0, *(match.start() + 1 for match in self._spelled.finditer(text)), len(text)]
        pieces = (text[start:end] for start, end in pairwise(cuts) if start < end)
        ids = (i for piece in pieces for i in response_ids(piece, self.tokenizer))
        return tuple(i for i in ids if i not in self._control_ids)


def response_ids(
    response: str, tokenizer: PreTrainedTokenizerBase, opener: Opener | None = None
) -> list[int]:
    """The token ids of a response (text), its openings apart from the rest where there is an `opener`."""
    ids: list[int] = []
    pieces = split_at_openings(parse(response), opener.kind) if opener else [response]
    for i, piece in enumerate(pieces):
        if opener and i % 2:
            ids += opener.as_text(piece)
        else:
            ids += tokenizer(piece, add_special_tokens=False)["input_ids"]
    return ids


def set_path_opening(model: PreTrainedModel | PeftModel, opening: str) -> None:
    """Note with the model what its paths begin with: its decoder and whatever saves it read it there."""
    check_opening(opening)
    backbone_of(model)._prl_path_opening = opening


def path_opening(model: PreTrainedModel | PeftModel) -> str:
    """What `set_path_opening` said; "none" where nothing did."""
    return getattr(backbone_of(model), "_prl_path_opening", "none")


def said_of_opening(opening: str) -> dict[str, str]:
    """What `prl.json` says of it: nothing of "none", as before there were openings."""
    return {} if opening == "none" else {"path_opening": opening}

"""Which characters of a text each token wrote, so that a response can be drawn token by token without its
tokenizer."""

from __future__ import annotations

import codecs
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from prl.decoding import Response


def token_columns(tokenizer: PreTrainedTokenizerBase, response: Response) -> dict[str, Any]:
    """What `prl.runs.sample_row` keeps of each token of a response, by name."""
    return {
        "logprobs": response.logprobs,
        "token_lengths": token_lengths(tokenizer, response.token_ids, response.text),
    }


def token_lengths(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str) -> list[int] | None:
    """How many characters (code points) of `text` each of `ids` wrote; they add up to all of it.

    `text` is what `tokenizer.decode(ids, skip_special_tokens=True)` says: a special token wrote none of it. A
    character whose bytes are of several tokens counts to the one that completes it. None where the pieces do
    not give the text, as with tokenizers that tidy up what they decode.
    """
    for pieces in (_from_bytes, _from_growth):
        written = [*pieces(tokenizer, ids)]
        if "".join(written) == text:
            return [*map(len, written)]
    return None


def _from_bytes(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> Iterator[str]:
    """Of a byte-level BPE, such as Qwen's."""
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    last = len(ids) - 1
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for place, (token, said) in enumerate(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True)):
        # A spare row of the embedding has no token.
        written = b"" if token in special or said is None else _bytes_of(said)
        yield decoder.decode(written, final=place == last)


@functools.lru_cache(maxsize=2**16)
def _bytes_of(token: str) -> bytes:
    try:
        return bytes(map(_BYTES.__getitem__, token))
    except KeyError:  # one that was added
        return token.encode("utf-8", "replace")


_BYTES = {letter: byte for byte, letter in bytes_to_unicode().items()}


def _from_growth(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> Iterator[str]:
    """Of any: what a token adds to the text of the few before it, once that ends in a whole character."""
    first = whole = 0  # ids[first:whole] are what was written last
    for end in range(1, len(ids) + 1):
        before, now = (tokenizer.decode(ids[first:stop], skip_special_tokens=True) for stop in (whole, end))
        if now.endswith("\ufffd") and end < len(ids):
            yield ""
            continue
        yield now[len(before) :]
        first, whole = whole, end

"""Which characters each token wrote: they add up to the text, whatever the tokens are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prl.grammar import TAGS
from prl.model import load_model, load_tokenizer, token_lengths
from prl.tiny import NAME

HARD = "a€😀 <Path>\n1\né\u200d👩\u200d👩\u200d👧 Größe 東京\u202e</Path>"


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_model(NAME, tags="tokens")[1]


def decoded(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True)


def test_a_character_of_several_tokens_counts_to_the_last_of_them(tiny: Any) -> None:
    ids = [*tiny("a€b", add_special_tokens=False)["input_ids"], tiny.eos_token_id]
    assert len(ids) == 6, "the tiny model's vocabulary has no euro"
    assert token_lengths(tiny, ids, "a€b") == [1, 0, 0, 1, 1, 0]
    assert token_lengths(tiny, ids[:3], decoded(tiny, ids[:3])) == [1, 0, 1], "cut off within it"
    assert token_lengths(tiny, [], "") == []


def test_a_tag_is_a_token_and_a_special_token_no_text(tiny: Any) -> None:
    ids = tiny("<Path>1</Path><|im_start|>", add_special_tokens=False)["input_ids"]
    assert token_lengths(tiny, ids, "<Path>1</Path>") == [6, 1, 7, 0]


@given(ids=st.lists(st.integers(0, 511), max_size=30))
def test_they_add_up_whatever_was_sampled(tiny: Any, ids: list[int]) -> None:
    """Bytes that are no character, spare rows of the embedding, special tokens anywhere."""
    text = decoded(tiny, ids)
    found = token_lengths(tiny, ids, text)
    assert found is not None
    assert (len(found), sum(found)) == (len(ids), len(text))


def test_another_text_has_no_lengths(tiny: Any) -> None:
    assert token_lengths(tiny, tiny("1 + 1", add_special_tokens=False)["input_ids"], "1 + 2") is None


def test_of_a_tokenizer_that_is_not_byte_level() -> None:
    """As Llama's and Gemma's: a mark for the space, bytes where the vocabulary has no piece."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a"]
    bpe = models.BPE(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[("▁", "a")],
        byte_fallback=True,
        unk_token="<unk>",
    )
    backend = Tokenizer(bpe)
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    ids = tokenizer(" ab€ a", add_special_tokens=False)["input_ids"]
    assert decoded(tokenizer, ids) == "ab€ a"
    assert token_lengths(tokenizer, ids, "ab€ a") == [1, 1, 0, 0, 1, 2]


@pytest.mark.real
def test_of_the_real_tokenizer(real_tokenizer: Any, real_data: Path) -> None:
    import pandas as pd

    real_tokenizer.add_tokens(list(TAGS))
    traces = pd.read_parquet(real_data / "parallel_gsm8k_341.parquet")["trace"]
    for text in [HARD, *traces[:40]]:
        ids = real_tokenizer(text + "<|im_end|>", add_special_tokens=False)["input_ids"]
        written = decoded(real_tokenizer, ids)
        found = token_lengths(real_tokenizer, ids, written)
        assert found is not None
        assert (len(found), sum(found), found[-1]) == (len(ids), len(written), 0)


@pytest.mark.real
def test_of_another_real_tokenizer(real_model: Path) -> None:
    tokenizer = load_tokenizer(real_model)
    ids = tokenizer(HARD, add_special_tokens=False)["input_ids"]
    text = decoded(tokenizer, ids)
    found = token_lengths(tokenizer, ids, text)
    assert found is not None
    assert sum(found) == len(text)

"""What ends a block: the same tokens decoded and in traces, whatever a line end is to the tokenizer."""

from __future__ import annotations

import string
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from prl import tiny
from prl.decoding import ForkJoinDecoder, Limits, forkjoin
from prl.grammar import TAGS
from prl.model.tags import add_tags
from prl.prompts import render_prompt
from prl.sft import tokenize
from prl.structure import Tags, attach_structure

TRACE = "<Parallel><Path>a</Path> <Path>b</Path></Parallel>\n\n<Summary>\nc\n</Summary>\nd"


def marked(scheme: str) -> PreTrainedTokenizerBase:
    """As Llama 2's, which puts a mark for a space before a text: each time tags cut it ("always",
    their legacy), or where it begins ("first")."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = ["<unk>", "<s>", "</s>", *bytes_, "▁", *string.ascii_letters, *string.digits]
    bpe = models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>")
    backend = Tokenizer(bpe)
    if scheme == "always":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


MADE = {
    "always": (lambda: marked("always"), ["▁", "<0x0A>"]),
    "first": (lambda: marked("first"), ["<0x0A>"]),
    "byte level": (lambda: AutoTokenizer.from_pretrained(tiny.BASE), ["Ċ"]),
}


@pytest.mark.parametrize("opening", ["none", "number"])
@pytest.mark.parametrize(("make", "glue"), MADE.values(), ids=MADE.keys())
def test_a_trace_is_decoded_with_the_tokens_that_sft_reads(
    make: Any, glue: list[str], opening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn is what the trace says where SFT has loss; all else is the decoder's own."""
    tokenizer = make()
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).eval()
    add_tags(model, tokenizer, seed=0)
    tags = Tags.of(tokenizer)
    attach_structure(model, tags, probe=False)
    prompt = render_prompt("1 + 1?", "bare", path_opening=opening)
    (row,), _ = tokenize(
        [{"problem": "1 + 1?", "trace": TRACE}], tokenizer, "bare", None, tags=tags, path_opening=opening
    )
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    ids, labels = row["input_ids"][start:], row["labels"][start:]

    after = ids.index(tags.end_parallel)
    drawn = [label for label in labels[1:after] if label != -100]
    first = drawn[: drawn.index(tags.end_path) + 1]
    steps = [[tags.parallel], *zip(first, drawn[len(first) :], strict=True)]
    steps += [[label] for label in labels[after:] if label != -100]
    script = iter(steps)

    def draw(logits: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(next(script)), torch.zeros(len(logits))

    monkeypatch.setattr(forkjoin, "draw", draw)
    limits = Limits(99, 2, path_opening=opening)
    ((response,),) = ForkJoinDecoder(model, tokenizer, limits=limits).generate([prompt])
    assert tokenizer.convert_ids_to_tokens(response.token_ids[after : after + len(glue) + 2]) == [
        "</Parallel>",
        *glue,
        "<Summary>",
    ]
    assert response.token_ids == ids
    assert response.forced == [label == -100 for label in labels]


@pytest.mark.real
def test_the_joint_of_the_real_tokenizer(real_tokenizer: Any) -> None:
    real_tokenizer.add_tokens(list(TAGS))
    assert real_tokenizer.decode(Tags.of(real_tokenizer).joint) == "</Parallel>\n<Summary>"
    assert list(Tags.of(real_tokenizer).glue) == real_tokenizer("\n", add_special_tokens=False)["input_ids"]

"""Small random models that open blocks by themselves, of the families that the decoder serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prl import tiny
from prl.grammar import TAGS
from prl.structure import Tags

SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 1024,
}
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "Qwen3": {},
    "Llama": {"tie_word_embeddings": True},
    "Mistral": {"sliding_window": 16},
    "Gemma2": {
        "sliding_window": 16,
        "query_pre_attn_scalar": 12,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 6.0,
        "tie_word_embeddings": False,
    },
    "Gemma3": {
        "sliding_window": 16,
        "query_pre_attn_scalar": 12,
        "num_hidden_layers": 7,
        "tie_word_embeddings": False,
    },
}
"""What is set besides `SHAPE`; windows shorter than any prompt, caps low enough to matter."""

LIKELY = {"<Parallel>": 4.0, "</Path>": 4.5, "</Parallel>": 2.0, "<Path>": 4.0, "<|im_end|>": 2.5}
"""Added to the logits, so that random models fork, join, break the rules and end."""


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """The tiny model's, with the six tags."""
    made = AutoTokenizer.from_pretrained(tiny.BASE)
    made.add_tokens(list(TAGS))
    return made


@pytest.fixture(scope="session")
def tags(tokenizer: PreTrainedTokenizerBase) -> Tags:
    return Tags.of(tokenizer)


@pytest.fixture(scope="session")
def make_model(tokenizer: PreTrainedTokenizerBase) -> Callable[..., PreTrainedModel]:
    """`make_model(family, **config)`: random weights, with `LIKELY` and `more` added to the logits."""

    def make(
        family: str = "Qwen3",
        *,
        more: Mapping[str, float] = MappingProxyType({}),
        implementation: str | None = None,
        **config: Any,
    ) -> PreTrainedModel:
        torch.manual_seed(0)
        config_class = getattr(transformers, f"{family}{'Text' * (family == 'Gemma3')}Config")
        settings = {**SHAPE, **FAMILIES.get(family, {}), **config}
        model = getattr(transformers, f"{family}ForCausalLM")._from_config(
            config_class(vocab_size=len(tokenizer), pad_token_id=0, **settings),
            attn_implementation=implementation or ("eager" if family == "Gemma2" else "sdpa"),
        )
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.3)
        head = model.get_output_embeddings()
        head.weight.data *= 0.3
        bias = torch.zeros(len(tokenizer))
        for token, by in LIKELY.items():
            bias[tokenizer.convert_tokens_to_ids(token)] = by + more.get(token, 0)
        head.bias = nn.Parameter(bias)
        return model.eval()

    return make

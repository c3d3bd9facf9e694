"""A base model, its tokenizer, the six tags and a (Q)LoRA adapter: load, check, save, merge, export."""

import prl.console  # noqa: F401 (before PEFT, which it silences)
from prl.model.adapter import Lora, describe, make_optimizer, save_adapter
from prl.model.card import add_results
from prl.model.loading import (
    TAGS_ARE,
    attention_of,
    check_forks,
    check_loadable,
    load_model,
    load_tokenizer,
    path_opening_of,
    resolve_attention,
    resolve_path_opening,
    settle_tags,
    tags_of,
)
from prl.model.merging import merge_and_verify
from prl.model.narrow import add_up_narrow_adapters
from prl.model.tags import add_tags, check_tags, has_tags, spell_tags, tag_ids
from prl.model.token_lengths import token_columns, token_lengths

__all__ = [
    "TAGS_ARE",
    "Lora",
    "add_results",
    "add_tags",
    "add_up_narrow_adapters",
    "attention_of",
    "check_forks",
    "check_loadable",
    "check_tags",
    "describe",
    "has_tags",
    "load_model",
    "load_tokenizer",
    "make_optimizer",
    "merge_and_verify",
    "path_opening_of",
    "resolve_attention",
    "resolve_path_opening",
    "save_adapter",
    "settle_tags",
    "spell_tags",
    "tag_ids",
    "tags_of",
    "token_columns",
    "token_lengths",
]

"""A base model, its tokenizer, the six tags and a (Q)LoRA adapter: load, check, save, merge, export."""

from prl.model.adapter import Lora, describe, make_optimizer, save_adapter
from prl.model.loading import attention_of, check_loadable, load_model, load_tokenizer, resolve_attention
from prl.model.merging import merge_and_verify
from prl.model.tags import add_tags, check_tags, tag_ids

__all__ = [
    "Lora",
    "add_tags",
    "attention_of",
    "check_loadable",
    "check_tags",
    "describe",
    "load_model",
    "load_tokenizer",
    "make_optimizer",
    "merge_and_verify",
    "resolve_attention",
    "save_adapter",
    "tag_ids",
]

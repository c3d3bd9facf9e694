"""How a tokenizer cuts text before its merges, by the name that llama.cpp has for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerBase
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from prl.errors import ModelError

HARD_TO_CUT = (
    "I've 3 apples, you'LL see: 1234567 + 89 = 3.14e-5?!\n\n\n  \tif (x >= 2) { return -x**2; }\r\n"
    'Größe – 東京 3 раза… «ça» \'\' """ ###  end \n'
)


def pre_tokenizer_of(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> tuple[str, str | None]:
    """llama.cpp's name for how `tokenizer` cuts text, and a notice where that is only alike.

    Where none is the same, the first that gives the same ids for all `texts` is taken. ModelError where none
    does, or where it is no byte-level BPE.
    """
    backend = tokenizer.backend_tokenizer
    said = json.loads(backend.to_str())
    if said["model"].get("type") != "BPE" or "ByteLevel" not in json.dumps(said["pre_tokenizer"]):
        raise ModelError(
            "the tokenizer is no byte-level BPE, and only these are written as GGUF; convert the merged "
            "folder with llama.cpp's convert_hf_to_gguf.py"
        )
    for name, cut in known_cuts().items():
        if _cuts(said["pre_tokenizer"]) == _cuts(json.loads(cut.__getstate__())):
            return name, None
    expected = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    for name, cut in known_cuts().items():
        other = Tokenizer.from_str(backend.to_str())
        other.pre_tokenizer = cut
        if [other.encode(text, add_special_tokens=False).ids for text in texts] == expected:
            return name, (
                f"llama.cpp does not know how this tokenizer cuts text; its `{name}` gives the same tokens "
                f"for {len(texts)} texts, which is no promise for all others"
            )
    raise ModelError(
        f"llama.cpp does not know how this tokenizer cuts text, and none of {', '.join(known_cuts())} "
        "gives the same tokens; use the merged folder with transformers or vLLM"
    )


def known_cuts() -> dict[str, Any]:
    """llama.cpp's name -> the same in tokenizers (llama-vocab.cpp has the expressions)."""

    def split(name: str) -> Any:
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[name]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return {
        "qwen2": split("qwen2"),
        "llama-bpe": split("llama-bpe"),
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain]),
        "gpt-2": plain,
    }


def _cuts(said: Mapping[str, Any]) -> list[Any]:
    """What matters of a pre-tokenizer's description; `trim_offsets` moves no border between tokens."""
    steps = said["pretokenizers"] if said["type"] == "Sequence" else [said]
    return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]

"""The shape of a model: what of its config.json decides how much memory it takes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prl import runs, tiny
from prl.errors import ModelError, first_line

LAYER_KINDS = ("full_attention", "sliding_attention")
"""The kinds of layers that prl can decode, as `prl.structure` has them."""

NORMS = {
    "qwen3": 2, "qwen2": 2, "llama": 2, "mistral": 2, "smollm3": 2, "gemma": 2, "gemma2": 4, "gemma3_text": 4,
}  # fmt: skip
"""model_type -> RMSNorms of a layer beside those of queries and keys, of the architectures known here."""

HEAD_NORMED = ("qwen3", "gemma3_text")
"""Those that norm the queries and keys of each head too."""

PACKED = ("llama", "qwen2", "qwen3")
"""Those whose rows are packed in training (`prl.trainer.packing`): the numbers were shown to be the same."""

_QWEN3 = {
    "0.6B": (1024, 3072, 28, 16, 8, True),
    "1.7B": (2048, 6144, 28, 16, 8, True),
    "4B": (2560, 9728, 36, 32, 8, True),
    "8B": (4096, 12288, 36, 32, 8, False),
    "14B": (5120, 17408, 40, 40, 8, False),
    "32B": (5120, 25600, 64, 64, 8, False),
}
"""Hidden size, MLP size, layers, heads, key/value heads, tied head: from the config.json of each size."""

_QWEN3_NAME = re.compile(r"(?:^|/)Qwen3-([\d.]+B)(?:-Base|-Instruct-2507|-Thinking-2507)?$")


@dataclass(frozen=True)
class Shape:
    """What of a model's config.json decides its memory."""

    architecture: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """The shape in a config.json. ModelError names a key that is missing or no number, and an
        architecture that is not known here."""
        text = config.get("text_config")
        config = text if isinstance(text, Mapping) else config
        architecture = str(config.get("model_type"))
        kinds = config.get("layer_types") or ()
        if foreign := sorted({str(kind) for kind in kinds} - set(LAYER_KINDS)):
            raise ModelError(
                f"a model of type {architecture} cannot be decoded: it has layers of kind "
                f"{', '.join(foreign)}, which take no mask; use a model of the Qwen3, Llama or Gemma families"
            )
        if architecture not in NORMS:
            raise ModelError(
                f"the memory of a model of type {architecture} is not known: the forecast covers "
                f"{', '.join(NORMS)}; try it with a small --per_device_train_batch_size"
            )

        def number(key: str, default: Any = None) -> int:
            value = config.get(key) or default
            if not isinstance(value, int) or value < 1:
                raise ModelError(
                    f"config.json has no {key}, a number from 1: name another --model_name_or_path"
                )
            return value

        heads, hidden = number("num_attention_heads"), number("hidden_size")
        return cls(
            architecture,
            vocabulary=number("vocab_size"),
            hidden=hidden,
            intermediate=number("intermediate_size"),
            layers=number("num_hidden_layers"),
            heads=heads,
            kv_heads=number("num_key_value_heads", heads),
            head_size=number("head_dim", hidden // heads),
            tied=bool(config.get("tie_word_embeddings", True)),
        )

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers that each layer has."""
        hidden, queries, keys = self.hidden, self.heads * self.head_size, self.kv_heads * self.head_size
        return {
            "q_proj": (hidden, queries),
            "k_proj": (hidden, keys),
            "v_proj": (hidden, keys),
            "o_proj": (queries, hidden),
            "gate_proj": (hidden, self.intermediate),
            "up_proj": (hidden, self.intermediate),
            "down_proj": (self.intermediate, hidden),
        }

    @property
    def matrices(self) -> int:
        """Weights in the linear layers of all layers, the head left out."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def tables(self) -> int:
        """1 where embedding and head are the same matrix, else 2."""
        return 1 if self.tied else 2

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.matrices + self.tables * self.vocabulary * self.hidden + self.norm_weights

    @property
    def norm_weights(self) -> int:
        """Weights in the RMSNorms."""
        of_heads = 2 * self.head_size if self.architecture in HEAD_NORMED else 0
        return self.layers * (NORMS[self.architecture] * self.hidden + of_heads) + self.hidden


def read_shape(model: str) -> Shape:
    """The shape of a base, an adapter or a run, from config.json alone; Qwen3's sizes are known offline.

    ModelError where there is none to read, or none that is known here.
    """
    adapter = runs.adapter_dir(model)
    base = tiny.resolve(runs.base_of_adapter(adapter) if adapter else model)
    if (Path(base).expanduser() / "config.json").is_file():
        return Shape.of(read_config(Path(base).expanduser() / "config.json"))
    if (named := _QWEN3_NAME.search(base)) and named[1] in _QWEN3:
        hidden, intermediate, layers, heads, kv_heads, tied = _QWEN3[named[1]]
        return Shape("qwen3", 151_936, hidden, intermediate, layers, heads, kv_heads, 128, tied)
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        kept = try_to_load_from_cache(base, "config.json")  # what loading looked at asks nobody again
        file = kept if isinstance(kept, str) else hf_hub_download(base, "config.json")
        return Shape.of(read_config(Path(file)))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        reason = first_line(error)
        raise ModelError(
            f"the config.json of {base!r} cannot be read: {reason}. Name a local folder or a Qwen3 model"
        ) from error


def smaller(shape: Shape) -> tuple[str, Shape] | None:
    """Name and shape of the next smaller Qwen3 base; None: there is none."""
    names = [f"Qwen/Qwen3-{size}-Base" for size in ("14B", "8B", "4B", "1.7B", "0.6B")]
    known = ((name, read_shape(name)) for name in names)
    return next((pair for pair in known if pair[1].parameters < 0.9 * shape.parameters), None)


def read_config(file: Path) -> dict[str, Any]:
    """A config.json, or an adapter's. Raises ModelError where it cannot be read."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}; name another --model_name_or_path") from error
    if not isinstance(config, dict):
        raise ModelError(f"{file} holds no JSON object; name another --model_name_or_path")
    return config


def is_one_matrix(tokens: int, rank: int, inputs: int, outputs: int) -> bool:
    """Whether a layer and its adapter are computed as one matrix (`prl.model.narrow`), because that takes
    fewer multiplications: its own gradient costs what that of a layer without an adapter spares, the products
    of the adapter with all tokens go, and the sum and its gradient are to be made."""
    spared = 3 * rank * (inputs + outputs) - inputs * outputs
    return tokens * spared > 3 * rank * inputs * outputs

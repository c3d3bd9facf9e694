"""A merged model as one GGUF file for llama.cpp, and the proof that the file holds that model.

    prl merge runs/mine/rl --output_dir merged --gguf_type q8_0

Tensor names, quantisation and the file format are the `gguf` package's, llama.cpp's own. Here is what
llama.cpp's converter does besides: the order of the rows of Llama's q and k, the types of the tokens, and the
name of the pre-tokenizer, by which llama.cpp knows how to cut text before the merges. The tags are
USER_DEFINED: matched whole in a text, and shown in what the model writes, which CONTROL tokens are not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prl import runs
from prl.errors import ModelError, UsageError, first_line
from prl.grammar import TAGS
from prl.model.drafts import drafting, put
from prl.model.loading import config_of
from prl.model.pretokenizers import HARD_TO_CUT, pre_tokenizer_of
from prl.model.proofs import MERGE_TOLERANCE, agreement, last_logits, misread, texts_to_compare
from prl.model.tags import tag_ids
from prl.runs.disk import read_json, writing

TYPES = {"f32": 1e-6, "f16": 0.01, "bf16": 0.05, "q8_0": 0.1}
"""Type of the matrices -> largest rms difference of logits from the merged model's, as a share of their
spread: 4 times and more what was found with the tiny model and one of 135M parameters (0, 6e-4, 3e-3, 2e-2).
Rows of q and k in the wrong order give 1.5."""

ARCHITECTURES = ("llama", "qwen2", "qwen3")
BLOCK = 32  # columns that share a scale in q8_0; a matrix of another width is kept in f16


def refuse_unsupported(source: str | Path, *, trust_remote_code: bool = False) -> None:
    """Raises UsageError without the `gguf` package, ModelError where a model like `source` (a Hub name or a
    folder; only its config is read) cannot be written as GGUF."""
    _gguf()
    if (config := config_of(source, trust_remote_code=trust_remote_code)) is None:
        return
    rope = getattr(config, "rope_parameters", None) or {}
    reasons = []
    if config.model_type not in ARCHITECTURES:
        reasons.append(f"its architecture is none of {', '.join(ARCHITECTURES)}")
    if (kind := rope.get("rope_type", "default")) != "default":
        reasons.append(f"its rotary embedding is scaled ({kind})")
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        reasons.append("it has sliding windows")
    if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        reasons.append("its attention or MLP has biases")
    if getattr(config, "hidden_act", "silu") != "silu":
        reasons.append(f"its activation is {config.hidden_act}")
    if reasons:
        raise ModelError(
            f"{config.model_type} model {str(source)!r} cannot be written as GGUF: {'; '.join(reasons)}. "
            "Merge without --gguf_type, and convert the merged folder with llama.cpp's "
            "convert_hf_to_gguf.py"
        )


@torch.no_grad()
def export_gguf(
    folder: Path,
    file: Path | None = None,
    *,
    gguf_type: str = "f16",
    on_proof: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the merged model in `folder` as GGUF, read it back and compare; the file.

    `gguf_type` of `TYPES` is what matrices are stored in; vectors stay in f32. `file` None:
    `folder/model-TYPE.gguf`. It appears when it is proved: metadata and tensors as read by the gguf package,
    token ids and logits as read by transformers. What was found joins `folder/merge.json`.

    Raises UsageError without the gguf package, ModelError where `refuse_unsupported` does, the tokenizer is
    none that llama.cpp knows, the file exists, or the proof fails; the folder is kept then.
    """
    gguf = _gguf()
    folder = Path(folder).expanduser()
    file = Path(file).expanduser() if file is not None else folder / f"model-{gguf_type}.gguf"
    if gguf_type not in TYPES:
        raise UsageError(f"gguf_type {gguf_type!r} is none of {', '.join(TYPES)}")
    if file.exists():
        raise ModelError(f"{file} exists; name a file that does not")
    refuse_unsupported(folder)
    record = read_json(folder / "merge.json")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = texts_to_compare(
        record.get("problems") or ["Compute 3 + 4.", "What is 12 * 12?"],
        record.get("prompt_style") or "parallel",
    )
    pre, notice = pre_tokenizer_of(tokenizer, [*texts, HARD_TO_CUT])
    if notice:
        on_proof(notice)
    expected = last_logits(model, tokenizer, texts)

    # A folder of its own: beside the merged model, transformers would read that one's tokenizer.
    with drafting(file) as draft:
        with writing(file):
            draft.mkdir(parents=True)
            _write(gguf, draft / file.name, model, tokenizer, pre, gguf_type)
        numbers = _verify(gguf, draft / file.name, model, tokenizer, texts, expected, gguf_type, file)
        put(draft / file.name, file)
    on_proof(
        f"{file}: GGUF in {gguf_type}, pre-tokenizer {pre}; read back, its logits are the merged model's to "
        f"{numbers['relative_difference']:.1e} of their spread (limit {TYPES[gguf_type]:.0e}), the likeliest "
        f"token at {numbers['top_1_agreement']:.1%} of positions"
    )
    if record:
        stored = {"type": gguf_type, "pre_tokenizer": pre, "notice": notice, **numbers}
        runs.write_json(
            folder / "merge.json", record | {"gguf": {**record.get("gguf", {}), file.name: stored}}
        )
    return file


def _write(
    gguf: Any,
    file: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pre: str,
    gguf_type: str,
) -> None:
    config = model.config
    writer = gguf.GGUFWriter(file, config.model_type)
    for key, value in _numbers(config).items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
    writer.add_name(file.stem)
    file_type = "ALL_F32" if gguf_type == "f32" else f"MOSTLY_{gguf_type.upper()}"
    writer.add_file_type(gguf.LlamaFileType[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    tokens, types = _tokens(gguf, tokenizer, model.get_input_embeddings().num_embeddings)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)  # prl's prompts begin with the turn
    writer.add_chat_template(tokenizer.chat_template)

    tensors = dict(_tensors(gguf, model))
    for name, tensor in tensors.items():
        stored = _stored_type(gguf, tensor, gguf_type)
        shape, dtype = _layout(gguf, tuple(tensor.shape), stored)
        writer.add_tensor_info(name, shape, dtype, int(np.prod(shape)) * dtype.itemsize, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors.values():
        array = tensor.contiguous().numpy()
        writer.write_tensor_data(gguf.quants.quantize(array, _stored_type(gguf, tensor, gguf_type)))
    writer.close()


def _numbers(config: Any) -> dict[str, int | float]:
    """The hyperparameters that llama.cpp reads, by their keys (gguf.constants.Keys)."""
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    values: dict[str, int | float] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "rope.dimension_count": head_dim,
        "vocab_size": config.vocab_size,
    }
    return {f"{config.model_type}.{key}": value for key, value in values.items()}


def _tokens(gguf: Any, tokenizer: PreTrainedTokenizerBase, rows: int) -> tuple[list[str], list[int]]:
    """The text and type of every row of the embedding; rows without a token are UNUSED."""
    kinds = gguf.TokenType
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, types = [], []
    for index in range(rows):
        token = by_id.get(index)
        tokens.append(f"[PAD{index}]" if token is None else token)
        if token is None:
            types.append(kinds.UNUSED)
        elif index not in added:
            types.append(kinds.NORMAL)
        # As llama.cpp's converter: what is spelled like a control token is one.
        elif added[index].special or (token.startswith("<|") and token.endswith("|>")):
            types.append(kinds.CONTROL)
        else:
            types.append(kinds.USER_DEFINED)
    return tokens, types


def _tensors(gguf: Any, model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor under its GGUF name; a tied head is the embedding, and llama.cpp takes it from there."""
    config = model.config
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == config.model_type)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(f"tensor {key} of a {config.model_type} model has no name in GGUF")
        if config.model_type == "llama" and key.endswith(("q_proj.weight", "k_proj.weight")):
            is_query = key.endswith("q_proj.weight")
            heads = config.num_attention_heads if is_query else config.num_key_value_heads
            tensor = _interleaved(tensor, heads)
        yield name, tensor


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of Llama's q or k in Meta's order: the two halves that transformers rotates against each other,
    pair by pair (arXiv 2104.09864)."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _stored_type(gguf: Any, tensor: torch.Tensor, gguf_type: str) -> Any:
    kinds = gguf.GGMLQuantizationType
    if tensor.ndim == 1:
        return kinds.F32
    return kinds.F16 if gguf_type == "q8_0" and tensor.shape[-1] % BLOCK else kinds[gguf_type.upper()]


def _layout(gguf: Any, shape: tuple[int, ...], stored: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    kinds = gguf.GGMLQuantizationType
    plain = {kinds.F32: np.float32, kinds.F16: np.float16}
    if stored in plain:
        return shape, np.dtype(plain[stored])
    return gguf.quants.quant_shape_to_byte_shape(shape, stored), np.dtype(np.uint8)


def _verify(
    gguf: Any,
    draft: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    expected: torch.Tensor,
    gguf_type: str,
    file: Path,
) -> dict[str, Any]:
    """Numbers for merge.json; ModelError where what is read back is not the merged model."""
    try:
        faults = _faults_of_metadata(gguf, draft, model, tokenizer)
        # transformers 5.23 reads no head size for Qwen from a GGUF, so the config comes from the folder.
        again = AutoModelForCausalLM.from_pretrained(
            draft.parent, gguf_file=draft.name, config=model.config, dtype=torch.float32
        ).eval()
        reader = AutoTokenizer.from_pretrained(draft.parent, gguf_file=draft.name)
        logits = last_logits(again, tokenizer, texts)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
        first = first_line(error)
        raise ModelError(f"{file}: the GGUF cannot be read back: {first}; it was deleted") from error
    difference = (logits - expected).abs().max().item()
    relative = ((logits - expected).square().mean() / expected.var()).sqrt().item()
    if not relative <= TYPES[gguf_type]:
        faults.append(
            f"its logits differ from the merged model's by {relative:.2g} of their spread "
            f"(limit {TYPES[gguf_type]} for {gguf_type})"
        )
    if gguf_type == "f32" and not difference <= MERGE_TOLERANCE:
        faults.append(f"its logits differ by up to {difference:.2g} (limit {MERGE_TOLERANCE})")
    faults += [f"its tokenizer reads {fault}" for fault in misread(tokenizer, reader, texts)]
    if faults:
        raise ModelError(f"{file}: the GGUF is not the merged model: {'; '.join(faults)}; it was deleted")
    return {
        "bytes": draft.stat().st_size,
        "largest_difference": difference,
        "relative_difference": relative,
        "relative_tolerance": TYPES[gguf_type],
        "top_1_agreement": agreement(expected, logits),
        "tokens": len(logits),
        "texts": len(texts),
    }


def _faults_of_metadata(
    gguf: Any, draft: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    reader = gguf.GGUFReader(draft)

    def read(key: str) -> Any:
        field = reader.get_field(key)
        return None if field is None else field.contents()

    types, tokens = read("tokenizer.ggml.token_type"), read("tokenizer.ggml.tokens")
    expected: dict[str, Any] = {
        "general.architecture": model.config.model_type,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_token_id,
        "tokenizer.chat_template": tokenizer.chat_template,
        **_numbers(model.config),
    }
    # A float is stored in 32 bits.
    faults = [
        f"{key} is {read(key)!r}, not {value!r}"
        for key, value in expected.items()
        if (np.float32(value) != np.float32(read(key)) if isinstance(value, float) else read(key) != value)
    ]
    for tag, index in zip(TAGS, tag_ids(tokenizer), strict=False):
        if tokens[index] != tag or types[index] != gguf.TokenType.USER_DEFINED:
            faults.append(
                f"token {index} is {tokens[index]!r} of type {types[index]}, not {tag} shown in texts"
            )
    shapes = {name: tuple(tensor.shape) for name, tensor in _tensors(gguf, model)}
    found = {each.name: tuple(int(size) for size in reversed(each.shape)) for each in reader.tensors}
    if found != shapes:
        wrong = sorted(name for name in {*found, *shapes} if found.get(name) != shapes.get(name))
        faults.append(f"{len(wrong)} tensors are missing or of another shape, such as {wrong[0]}")
    return faults


def _gguf() -> Any:
    """The `gguf` package, which only this module needs."""
    try:
        import gguf
    except ImportError:
        raise UsageError("GGUF needs the gguf package: pip install 'prl[gguf]'") from None
    return gguf

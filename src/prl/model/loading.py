"""Load a base model, an adapter or a run, with the tags in place and checked.

An adapter only works with the attention that it was trained with, causal or structured (`prl.structure`). So
`prl.json` beside its weights says which, in every checkpoint too, and loading follows it.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prl import machine, runs, tiny
from prl.errors import ModelError
from prl.model.adapter import (
    Lora,
    forward_head_bias,
    keep_attention_when_saved,
    lora_config,
)
from prl.model.tags import add_tags, check_tags
from prl.structure import ATTENTION_FILE, Tags, attach_structure, foreign_layers


def load_model(
    name: str,
    *,
    attention: str | None = None,
    lora: Lora | None = None,
    trainable: bool = False,
    load_in_4bit: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    trust_remote_code: bool = False,
    seed: int = 0,
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Load `name` with the six tags in place, checked: a Hub name, a folder, an adapter, a run, or `tiny`.

    An adapter (or a run's) is loaded onto its base and goes on as it is; `trainable` makes it train on. On a
    base, `lora` adds a new adapter that also holds the tag rows; without it the base comes back as it is,
    with fresh tag rows. `load_in_4bit` quantises the base to NF4 with double quantisation (QLoRA, arXiv
    2305.14314).

    `attention` is "causal", "structured" (the model comes back with `prl.structure` attached), or None or
    "auto": what it was trained with, causal for a base. However an adapter is saved from here on, by the
    trainer too, its attention is saved with it.

    Raises ModelError where `name` cannot be loaded, was trained with another attention, or `check_tags` finds
    it unfit.
    """
    attention = resolve_attention(name, attention)
    adapter = runs.adapter_dir(name)
    base_name = _base_name(adapter) if adapter else name
    tokenizer = load_tokenizer(adapter or base_name, trust_remote_code=trust_remote_code)
    base = _load_base(base_name, load_in_4bit, dtype, device, trust_remote_code)
    added = add_tags(base, tokenizer, seed=seed)
    if load_in_4bit and trainable and dtype == torch.float16:
        # What is not quantised goes to float32, and with it all that flows between layers: Qwen overflows
        # float16. bfloat16 has the range, so there it stays, for half the activations and rollouts.
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    if adapter:
        model = PeftModel.from_pretrained(base, adapter, is_trainable=trainable)
    elif lora:
        torch.manual_seed(seed)  # LoRA's A matrices are drawn here
        model = get_peft_model(base, lora_config(base, lora, added))
        model.peft_config["default"].base_model_name_or_path = base_name
    else:
        model = base
    forward_head_bias(model)
    check_tags(model, tokenizer)
    if attention == "structured":
        attach_structure(model, Tags.of(tokenizer))
    if isinstance(model, PeftModel):
        keep_attention_when_saved(model)
    return model, tokenizer


def refuse_undecodable(name: str, *, trust_remote_code: bool = False) -> None:
    """Raises ModelError where the config of a model or of an adapter's base already says that `prl.decoding`
    would refuse it, so that nobody waits for the weights. What a config does not tell, the decoder tries."""
    adapter = runs.adapter_dir(name)
    base = _base_name(adapter) if adapter else name
    try:
        config = AutoConfig.from_pretrained(tiny.resolve(base), trust_remote_code=trust_remote_code)
    except (OSError, ValueError):
        return  # loading it says what is wrong
    if foreign := foreign_layers(config):
        raise ModelError(
            f"{config.model_type} model {name!r} cannot be decoded: it has {foreign}; use a model of the "
            "Qwen3, Llama or Gemma families"
        )


def attention_of(name: str | Path) -> str | None:
    """The attention that an adapter, a run or a merged model was trained with, "causal" or "structured"; None
    for a base, which takes either. Raises RunError as `runs.adapter_dir` does, ModelError for a spoiled file.
    """
    adapter = runs.adapter_dir(name)
    file = (adapter or Path(name).expanduser()) / ATTENTION_FILE
    if not file.is_file():
        return "causal" if adapter else None
    try:
        attention = json.loads(file.read_text(encoding="utf-8"))["attention"]
    except (ValueError, KeyError, TypeError):
        attention = None
    if attention not in ("causal", "structured"):
        raise ModelError(
            f'{file} does not say {{"attention": "causal"}} or "structured"; '
            "write in which of them the model was trained with"
        )
    return attention


def resolve_attention(name: str | Path, attention: str | None) -> str:
    """The attention to use `name` with, "causal" or "structured", where `attention` is asked for (None or
    "auto": what it was trained with). ModelError where it was trained with another."""
    trained = attention_of(name)
    if attention in (None, "auto"):
        return trained or "causal"
    if trained not in (None, attention):
        raise ModelError(
            f"{str(name)!r} was trained with {trained} attention and cannot be used with {attention}: leave "
            f"--attention out, or train another with --attention {attention}"
        )
    return str(attention)


def load_tokenizer(source: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hub name, a folder or `tiny`, as it is: without tags if they are not in it. Raises
    ModelError."""
    try:
        return AutoTokenizer.from_pretrained(tiny.resolve(source), trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise _unknown(source, error) from error


def _load_base(
    name: str, load_in_4bit: bool, dtype: torch.dtype, device: str, trust_remote_code: bool
) -> PreTrainedModel:
    quantization = (
        BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        if load_in_4bit
        else None
    )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            tiny.resolve(name),
            dtype=dtype,
            device_map={"": machine.own_device(device)},
            quantization_config=quantization,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise _unknown(name, error) from error
    if load_in_4bit and device == "cpu":
        for weight in model.parameters():
            if weight.is_floating_point():  # not quantised: a view of the file, all of which would stay
                weight.data = weight.data.clone()
    for module in model.modules():
        # In evaluation mode on a CPU with AVX512-BF16, bitsandbytes 0.50 repacks a 4-bit layer for a kernel
        # that has no gradient, for good: sampling once would break the training that goes on after it.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _unknown(name: str | Path, error: Exception) -> ModelError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelError(
        f"model {str(name)!r} cannot be loaded: {first} "
        "Give a Hub name such as Qwen/Qwen3-0.6B-Base, a model, adapter or run folder, or `tiny`."
    )


def _base_name(adapter: Path) -> str:
    return json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))[
        "base_model_name_or_path"
    ]

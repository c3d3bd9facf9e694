"""Load a base model, an adapter or a run, with the tags in place and checked.

An adapter only works with the attention that it was trained with, causal or structured (`prl.structure`). So
`prl.json` beside its weights says which, in every checkpoint too, and loading follows it. Whether the tags
are tokens to it (`prl.model.tags`), its tokenizer says.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import (
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    prepare_model_for_kbit_training,
)
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prl import runs, tiny
from prl.errors import ModelError, first_line
from prl.grammar import OPENINGS
from prl.machine import hardware
from prl.model.adapter import (
    Lora,
    forward_head_bias,
    keep_attention_when_saved,
    lora_config,
    with_rows,
)
from prl.model.tags import add_tags, check_tags, has_tags, spell_tags
from prl.runs.disk import read_json, torn_safetensors
from prl.settings import Settings
from prl.structure import ATTENTION_FILE, Tags, attach_structure, foreign_layers, set_path_opening

ATTENTIONS = ("causal", "structured")
_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken", "tekken.json")

TAGS_ARE = {
    "tokens": "tokens: the tokenizer of {} has them",
    "text": "spelled out: {} was never trained on them",
}
"""What a run says of its model, by `tags_of`."""


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
    tags: str = "auto",
    path_opening: str | None = None,
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Load `name`, checked: a Hub name, a folder, an adapter, a run, or `tiny`.

    An adapter (or a run's) is loaded onto its base and goes on as it is; `trainable` makes it train on. On a
    base, `lora` adds a new adapter; without it the base comes back as it is. `load_in_4bit` quantises the
    base to NF4 with double quantisation (QLoRA, arXiv 2305.14314).

    `tags`: "tokens", each with a row of its own, which a new adapter holds too, or one that had none; "text",
    spelled out, for a model that was not trained on them and will not be: what prl's own stages take then.
    "auto": tokens, but for an adapter that was trained without; the rows of a base that gets no adapter are
    such that none is drawn before it is trained. What is to be trained on traces needs tokens.

    `attention` is "causal", "structured" (the model comes back with `prl.structure` attached), or None or
    "auto": what it was trained with, causal for a base. So is `path_opening` one of `prl.grammar.OPENINGS`,
    "none" for a base. However an adapter is saved from here on, by the trainer too, both are saved with it.

    Raises ModelError where `name` cannot be loaded, was trained with another attention or opening or knows
    the tags otherwise than asked for, where structured attention is to go without them, or `check_tags` finds
    it unfit.
    """
    adapter, base_name = _look_at(name)
    attention = resolve_attention(name, attention)
    path_opening = resolve_path_opening(name, path_opening)
    tokenizer = load_tokenizer(adapter or base_name, trust_remote_code=trust_remote_code)
    knows_tags = _knows_tags(adapter, tokenizer)
    # The tags of a base that is taken as it is get rows that no hidden state favours: nobody trains them.
    faint = tags == "auto" and not (adapter or lora)
    tags = _tags_to_take(name, tags, knows_tags, is_adapter=adapter is not None)
    check_forks(name, tags, attention)
    base = _load_base(base_name, load_in_4bit, dtype, device, trust_remote_code, adapter)
    added: list[int] = []
    if tags == "tokens":
        added = add_tags(base, tokenizer, seed=seed, faint=faint)
    else:
        spell_tags(base, tokenizer)
    if load_in_4bit and trainable and dtype == torch.float16:
        # What is not quantised goes to float32, and with it all that flows between layers: Qwen overflows
        # float16. bfloat16 has the range, so there it stays, for half the activations and rollouts.
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    if adapter:
        model = _put_on(base, adapter, trainable, [] if knows_tags else added)
    elif lora:
        torch.manual_seed(seed)  # LoRA's A matrices are drawn here
        model = get_peft_model(base, lora_config(base, lora, added))
    else:
        model = base
    if isinstance(model, PeftModel):
        model.peft_config["default"].base_model_name_or_path = _lasting(base_name)
    forward_head_bias(model)
    if tags == "tokens":
        check_tags(model, tokenizer)
    if attention == "structured":
        attach_structure(model, Tags.of(tokenizer))
    set_path_opening(model, path_opening)
    if isinstance(model, PeftModel):
        keep_attention_when_saved(model)
    return model, tokenizer


def check_loadable(name: str, *, trust_remote_code: bool = False) -> None:
    """Refuse what is wrong with a model on this machine and shows without loading it, in a moment: for stages
    to ask before they read their data.

    Raises RunError as `runs.adapter_dir` and `runs.base_of_adapter` do, ModelError for weights that are not
    whole, for a tokenizer that is missing or spoiled, and for layers that cannot be decoded.
    """
    adapter, base = _look_at(name)
    _refuse_undecodable(name, base, trust_remote_code)
    if adapter or base in tiny.FOLDERS or Path(base).expanduser().is_dir():
        load_tokenizer(adapter or base, trust_remote_code=trust_remote_code)


def config_of(name: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The config of a Hub name, a folder or a model that ships; None where it cannot be read: loading says
    why."""
    with suppress(OSError, ValueError):
        return AutoConfig.from_pretrained(tiny.resolve(name), trust_remote_code=trust_remote_code)


def _refuse_undecodable(name: str, base: str, trust_remote_code: bool) -> None:
    """Raises ModelError where the config already says that `prl.decoding` would refuse the model. What a
    config does not tell, the decoder tries."""
    config = config_of(base, trust_remote_code=trust_remote_code)
    if config and (foreign := foreign_layers(config)):
        raise ModelError(
            f"{config.model_type} model {name!r} cannot be decoded: it has {foreign}; use a model of the "
            "Qwen3, Llama or Gemma families"
        )


def attention_of(name: str | Path) -> str | None:
    """The attention that an adapter, a run or a merged model was trained with, "causal" or "structured"; None
    for a base, which takes either. Raises RunError as `runs.adapter_dir` does, ModelError for a spoiled file.
    """
    adapter = runs.adapter_dir(name)
    file = (adapter or Path(tiny.resolve(name)).expanduser()) / ATTENTION_FILE
    if not file.is_file():
        return "causal" if adapter else None
    try:
        attention = json.loads(file.read_text(encoding="utf-8"))["attention"]
    except (ValueError, KeyError, TypeError):
        attention = None
    if attention not in ATTENTIONS:
        raise ModelError(
            f'{file} does not say {{"attention": "causal"}} or "structured"; '
            "write in which of them the model was trained with"
        )
    return attention


def resolve_attention(name: str | Path, attention: str | None) -> str:
    """The attention to use `name` with, of `ATTENTIONS`, where `attention` is asked for (None or "auto": what
    it was trained with). ModelError where it was trained with another, or for what is none."""
    return _resolve(name, "attention", attention, attention_of(name), ATTENTIONS)


def path_opening_of(name: str | Path) -> str | None:
    """What the paths of an adapter, a run or a merged model were trained to begin with, of
    `prl.grammar.OPENINGS`; None for a base, which takes any. Raises as `attention_of` does."""
    if attention_of(name) is None:
        return None
    file = (runs.adapter_dir(name) or Path(tiny.resolve(name)).expanduser()) / ATTENTION_FILE
    opening = read_json(file).get("path_opening", "none")  # without the key it is older than openings
    if opening not in OPENINGS:
        raise ModelError(
            f"{file}: path_opening {str(opening)!r} is none of {', '.join(OPENINGS)}; write in with "
            "which the model was trained"
        )
    return str(opening)


def resolve_path_opening(name: str | Path, opening: str | None) -> str:
    """What the paths of `name` begin with, where `opening` is asked for (None or "auto": what it was trained
    with). ModelError where it was trained with another, or for what is none."""
    return _resolve(name, "path_opening", opening, path_opening_of(name), OPENINGS)


def _resolve(
    name: str | Path, setting: str, asked: str | None, trained: str | None, known: Sequence[str]
) -> str:
    """What is `asked` for, of what is `known`, where `name` was `trained` with it or takes any (None); where
    nothing is, what it was trained with, or the first."""
    if asked in (None, "auto"):
        return trained or known[0]
    if asked not in known:
        raise ModelError(f"{setting} {asked!r} is not one of {', '.join(known)}")
    if trained not in (None, asked):
        raise ModelError(
            f"{str(name)!r} was trained with {setting} {trained} and cannot be used with {asked}: leave "
            f"--{setting} out, or train another with --{setting} {asked}"
        )
    return str(asked)


def tags_of(name: str | Path, *, trust_remote_code: bool = False) -> str:
    """How a base, an adapter or a run reads and writes the tags: as "tokens", or as "text", spelled out,
    where it was never trained on them. Its tokenizer says; raises RunError as `runs.adapter_dir` does,
    ModelError where there is none."""
    adapter = runs.adapter_dir(name)
    tokenizer = load_tokenizer(adapter or name, trust_remote_code=trust_remote_code)
    return "tokens" if _knows_tags(adapter, tokenizer) else "text"


def _tags_to_take(name: str, tags: str, knows_tags: bool, *, is_adapter: bool) -> str:
    """`tags` as asked for, or for "auto" what goes with the model."""
    if tags not in ("auto", "tokens", "text"):
        raise ModelError(f"tags {tags!r} must be 'auto', 'tokens' or 'text'")
    if tags == "text" and knows_tags:
        raise ModelError(f"the tags are tokens to {name!r} and cannot be spelled out: leave tags='text' out")
    if tags == "auto":
        return "text" if is_adapter and not knows_tags else "tokens"
    return tags


def check_forks(name: str | Path, tags: str, attention: str) -> None:
    """ModelError where structured attention is asked for, and no token would ever open a block."""
    if tags == "text" and attention == "structured":
        raise ModelError(
            f"{str(name)!r} was never trained on the tags, so that nothing would fork with --attention "
            "structured: train it on traces first (`prl sft --attention structured`; in a script of your "
            'own, load_model(..., tags="tokens")), or leave --attention out'
        )


def settle_tags(settings: Settings[Any]) -> tuple[Settings[Any], str]:
    """The settings of a command that trains nothing, and `tags_of` its model, which is said among what was
    chosen. Where tags are text nothing forks, and attention is causal."""
    arguments, chosen = settings.arguments, dict(settings.chosen)
    name = arguments.model_name_or_path
    tags = tags_of(name, trust_remote_code=arguments.trust_remote_code)
    chosen["tags"] = TAGS_ARE[tags].format(name)
    if tags == "text" and arguments.attention == "structured":
        arguments = replace(arguments, attention="causal")
        chosen["attention"] = (
            f"causal: nothing forks where the tags are spelled out; `prl sft` trains {name} on them"
        )
    return replace(settings, arguments=arguments, chosen=chosen), tags


def load_tokenizer(source: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hub name, a folder or a model that ships, as it is: without tags if they are not in
    it. Raises ModelError."""
    folder = Path(tiny.resolve(source)).expanduser()
    bare = folder.is_dir() and not any(next(folder.glob(name), None) for name in _VOCABULARIES)
    try:
        tokenizer = (
            None
            if bare
            else AutoTokenizer.from_pretrained(tiny.resolve(source), trust_remote_code=trust_remote_code)
        )
    except Exception as error:  # tokenizers 0.23 raises a plain Exception for a spoiled file
        if "trust_remote_code" in str(error) or not folder.is_dir():
            raise _unknown(source, error) from error
        raise ModelError(
            f"the tokenizer files in {str(source)!r} cannot be read ({first_line(error)}): copy "
            "tokenizer.json and tokenizer_config.json there again"
        ) from error
    # Where a model has none, transformers 5.23 may make an empty one up.
    if tokenizer is None or len(tokenizer) <= len(tokenizer.added_tokens_decoder):
        raise ModelError(
            f"no tokenizer files in {str(source)!r}: copy tokenizer.json and tokenizer_config.json there, "
            "from the model that it was made from"
        )
    return tokenizer


def _look_at(name: str) -> tuple[Path | None, str]:
    """The adapter that `name` stands for, and the base; ModelError where the weights of either are torn."""
    adapter = runs.adapter_dir(name)
    base = runs.base_of_adapter(adapter) if adapter else name
    weights = [adapter / runs.WEIGHTS] if adapter else []
    if (folder := Path(tiny.resolve(base)).expanduser()).is_dir():
        weights += sorted(folder.glob("model*.safetensors"))
        if (folder / "adapter_config.json").exists():  # which transformers would put on unasked
            raise ModelError(f"the base of {adapter} is {base!r}, an adapter itself: merge that one first")
    for file in weights:
        if fault := torn_safetensors(file):
            raise ModelError(f"{file} is torn, {fault}: copy it again, or take an earlier checkpoint")
    return adapter, base


def _put_on(base: PreTrainedModel, adapter: Path, trainable: bool, rows: list[int]) -> PeftModel:
    """`base` with an adapter that is all there and fits, and with the new `rows` that it does not hold."""
    try:
        with warnings.catch_warnings():
            # What is missing is an error below, where tensors of every kind are counted.
            warnings.filterwarnings("ignore", "Found missing adapter keys")
            if rows:
                model = with_rows(base, adapter, rows, trainable=trainable)
            else:
                model = PeftModel.from_pretrained(base, adapter, is_trainable=trainable)
    except KeyError as error:  # a row that is trained and not there
        raise ModelError(
            f"{adapter / runs.WEIGHTS} lacks {error.args[0]}: copy it again, or train it again"
        ) from error
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and "size mismatch" not in str(error):
            raise
        lines = str(error).splitlines()
        said = next((line for line in lines if "size mismatch" in line), first_line(error))
        raise ModelError(
            f"adapter {str(adapter)!r} does not fit its base {base.name_or_path!r}: "
            f"{said.strip()}: name the base that it was trained on as base_model_name_or_path in its "
            "adapter_config.json"
        ) from error
    with safe_open(adapter / runs.WEIGHTS, "pt") as file:
        held = set(file.keys())
    wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if rows:
        wanted = {name for name in wanted if "trainable_tokens" not in name}
    if missing := sorted(wanted - held):
        raise ModelError(
            f"{adapter / runs.WEIGHTS} lacks {len(missing)} of {len(wanted)} tensors, such as {missing[0]}: "
            "copy it again, or train it again"
        )
    return model


def _lasting(base: str) -> str:
    """What an adapter says its base is: a folder by its whole path, so that it is found from anywhere."""
    folder = Path(base).expanduser()
    return str(folder.resolve()) if base not in tiny.FOLDERS and folder.is_dir() else base


def _load_base(
    name: str,
    load_in_4bit: bool,
    dtype: torch.dtype,
    device: str,
    trust_remote_code: bool,
    adapter: Path | None,
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
    hardware.leave_cudnn_attention(device)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            tiny.resolve(name),
            dtype=dtype,
            device_map={"": hardware.own_device(device)},
            quantization_config=quantization,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise _unknown(name, error, adapter) from error
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ModelError(
            f"{name!r} is an adapter on the Hub, which prl takes from a folder: `hf download {name} "
            "--local-dir FOLDER`, and pass that folder"
        )
    if missing := sorted(found["missing_keys"]):  # transformers 5.23 draws them at random
        raise ModelError(
            f"the weights of model {name!r} lack {len(missing)} tensors, such as {missing[0]}: copy them "
            "again, or name another model"
        )
    if load_in_4bit and device == "cpu":
        for weight in model.parameters():
            if weight.is_floating_point():  # what is not quantised keeps the whole file mapped, being a view
                weight.data = weight.data.clone()
    for module in model.modules():
        # In evaluation mode on a CPU with AVX512-BF16, bitsandbytes 0.50 repacks a 4-bit layer for a kernel
        # that has no gradient, for good: sampling once would break the training that goes on after it.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _unknown(name: str | Path, error: Exception, adapter: Path | None = None) -> ModelError:
    first = first_line(error)
    if "trust_remote_code" in str(error):
        return ModelError(
            f"model {str(name)!r} needs code that comes with it, which is not run unasked: pass "
            "--trust_remote_code if you trust its authors with this machine"
        )
    if adapter and not Path(name).expanduser().is_dir():
        near = runs.base_nearby(adapter, str(name))
        return ModelError(
            f"the base {str(name)!r} that {adapter / 'adapter_config.json'} names cannot be loaded: {first} "
            f"{f'{near} is such a folder. ' if near else ''}Write where it is as base_model_name_or_path"
        )
    return ModelError(
        f"model {str(name)!r} cannot be loaded: {first} "
        "Give a Hub name such as Qwen/Qwen3-0.6B-Base, a model, adapter or run folder, or `tiny`."
    )


def _knows_tags(adapter: Path | None, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tags are tokens; rows in an adapter count, where the tokenizer beside it is the base's."""
    held = adapter and read_json(adapter / "adapter_config.json").get("trainable_token_indices")
    return has_tags(tokenizer) or bool(held)

"""A base model, its tokenizer, the six tags and a (Q)LoRA adapter: load, check, save, merge.

The tags are ordinary added tokens (`special_tokens=False`), because GRPOTrainer decodes completions with
`skip_special_tokens=True` and a special tag would be invisible to every reward. Each gets an embedding row of
its own: the mean of the rows of its text's pieces (Mr-DarkTesla/Parallel-R1-repro; in Qwen3-0.6B-Base the
spare rows that the tags land on are identical vectors, so that the model can never tell a `<Path>` from a
`</Path>`). Only these rows of the embedding are trained, through PEFT's `trainable_token_indices`, and travel
in the adapter.

An adapter only works with the attention that it was trained with, causal or structured (`prl.structure`). So
`prl.json` beside its weights says which, in every checkpoint too, and loading follows it.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, prepare_model_for_kbit_training
from peft.utils.other import TrainableTokensWrapper
from torch import nn
from transformers import (
    AddedToken,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from prl import runs, tiny
from prl.errors import ModelError
from prl.grammar import TAGS, render
from prl.prompts import CHAT_TEMPLATE, IM_END, IM_START, render_prompt
from prl.structure import Tags, attach_structure

MAX_ROW_COSINE = 0.99  # two tag rows closer than this cannot be told apart by a small learning rate
MERGE_TOLERANCE = 1e-4  # largest difference of fp32 logits between adapter and merged model
ATTENTION_FILE = "prl.json"


@dataclass(frozen=True)
class Lora:
    """Shape of a new adapter (PEFT's names); `all-linear` means every linear layer but the head."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: Sequence[str] = ("all-linear",)


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
    tokenizer = _load_tokenizer(adapter or base_name, trust_remote_code)
    base = _load_base(base_name, load_in_4bit, dtype, device, trust_remote_code)
    added = add_tags(base, tokenizer, seed=seed)
    if load_in_4bit and trainable:
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    if adapter:
        model = PeftModel.from_pretrained(base, adapter, is_trainable=trainable)
    elif lora:
        torch.manual_seed(seed)  # LoRA's A matrices are drawn here
        model = get_peft_model(base, _lora_config(base, lora, added))
        model.peft_config["default"].base_model_name_or_path = base_name
    else:
        model = base
    _forward_head_bias(model)
    check_tags(model, tokenizer)
    if attention == "structured":
        attach_structure(model, Tags.of(tokenizer))
    if isinstance(model, PeftModel):
        _keep_attention_when_saved(model, attention)
    return model, tokenizer


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


def tag_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of `prl.grammar.TAGS`, in that order."""
    return tokenizer.convert_tokens_to_ids(list(TAGS))


def add_tags(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> list[int]:
    """Make the tags and the chat turns single tokens with rows of their own; the ids whose rows are new,
    ascending.

    Also sets what every stage relies on: EOS is the template's end of turn for tokenizer, config and
    generation (a base Qwen3's generation config says `<|endoftext|>` and never stops: open-r1 #603, TRL
    #1623), pad is another token, and the chat template is the one that `prl.prompts` renders by hand.
    """
    base_vocabulary = set(tokenizer.get_vocab())
    wanted = [*TAGS, *(token for token in (IM_START, IM_END) if token not in base_vocabulary)]
    pieces = {token: tokenizer(token, add_special_tokens=False)["input_ids"] for token in wanted}
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    tokenizer.add_special_tokens({"eos_token": IM_END})
    tokenizer.add_tokens([AddedToken(IM_START, special=True, normalized=False)], special_tokens=True)
    if tokenizer.pad_token in (None, IM_END):
        spare = next(
            (token for token in ("<|endoftext|>", tokenizer.unk_token) if token in base_vocabulary), None
        )
        tokenizer.add_special_tokens({"pad_token": spare or "<|pad|>"})
    tokenizer.padding_side = "left"
    tokenizer.chat_template = CHAT_TEMPLATE

    new = {token: tokenizer.convert_tokens_to_ids(token) for token in wanted}
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    for table in _embedding_tables(model):
        for token, index in new.items():
            if pieces[token] != [index]:
                _write_row(table, index, pieces[token], generator)

    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    return sorted(new.values())


def check_tags(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a model that cannot learn or show the tags; ModelError lists every reason.

    Asked: each tag is one token wherever it stands; it survives decoding with `skip_special_tokens=True`; its
    id has an embedding row; the rows differ from each other; the end of a turn is EOS for tokenizer and
    generation; pad is not EOS.
    """
    ids = tag_ids(tokenizer)
    rows = model.get_input_embeddings().weight.shape[0]
    reasons = []
    for tag, index in zip(TAGS, ids, strict=True):
        around = tokenizer(f"a{tag}b", add_special_tokens=False)["input_ids"]
        if index is None or index == tokenizer.unk_token_id or around.count(index) != 1:
            reasons.append(f"{tag} is not a single token")
        elif tag not in tokenizer.decode(around, skip_special_tokens=True):
            reasons.append(f"{tag} is a special token, so rewards would never see it")
        elif index >= rows:
            reasons.append(f"{tag} has id {index}, the embedding only {rows} rows")
    if not reasons:
        for table in _embedding_tables(model):
            vectors = nn.functional.normalize(table[ids].float(), dim=-1)
            closest = (vectors @ vectors.T - 2 * torch.eye(len(ids), device=vectors.device)).max().item()
            if not closest < MAX_ROW_COSINE:
                reasons.append(f"two tags have the same embedding row (cosine {closest:.4f})")
    end = tokenizer.convert_tokens_to_ids(IM_END)
    if tokenizer.eos_token_id != end:
        reasons.append(f"the tokenizer's EOS is {tokenizer.eos_token!r}, a turn ends with {IM_END!r}")
    if model.generation_config.eos_token_id not in (end, [end]):
        reasons.append(f"generation stops at {model.generation_config.eos_token_id}, a turn ends with {end}")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        reasons.append("pad and EOS are the same token, so the loss would never teach to stop")
    if reasons:
        raise ModelError(
            f"model {model.name_or_path!r} cannot learn the tags: {'; '.join(reasons)}. "
            "Start from a tokenizer without the six tags; prl adds them itself."
        )


def make_optimizer(
    model: PeftModel, training: TrainingArguments, tag_learning_rate: float | None
) -> torch.optim.Optimizer:
    """The optimizer that `training` names, with a learning rate of its own for the tag rows (None: the same).

    A row is moved by the few tokens that are its tag, a LoRA matrix by every token: at one rate for both,
    either the tags stay unusable or the rest is shaken (Mr-DarkTesla/Parallel-R1-repro takes 100 times the
    rate for the rows). No weight decay on the rows: they are embeddings, not differences.
    """
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(training, model)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    rows = [p for name, p in trained if "trainable_tokens" in name]
    rest = [p for name, p in trained if "trainable_tokens" not in name]
    rate = training.learning_rate if tag_learning_rate is None else tag_learning_rate
    groups = [
        {"params": rest, "weight_decay": training.weight_decay},
        {"params": rows, "lr": rate, "weight_decay": 0.0},
    ]
    return optimizer_class([group for group in groups if group["params"]], **options)


def save_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write adapter, tag rows, attention and tokenizer; the next stage, PEFT and vLLM read this folder."""
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


@torch.no_grad()
def merge_and_verify(
    name: str,
    output_dir: Path,
    *,
    dtype: torch.dtype = torch.float32,
    prompts: Sequence[str] = ("Compute 3 + 4.", "What is 12 * 12?"),
    trust_remote_code: bool = False,
) -> float:
    """Merge adapter or run `name` into its 16/32-bit base, write a plain model folder and prove it; the
    largest difference.

    The merge is done in fp32 and compared with the adapter on `prompts`, each followed by a block, then saved
    in `dtype`, loaded again from disk and compared again, all with the attention that the adapter was trained
    with. Raises ModelError when logits differ by more than MERGE_TOLERANCE (fp32); nothing is left in
    `output_dir` then.
    """
    attention = attention_of(name)
    if runs.adapter_dir(name) is None:
        raise ModelError(
            f"{name!r} is not an adapter or a run that has one; give a run folder of `prl sft` or `prl rl`"
        )
    folder = Path(output_dir)
    if folder.exists():
        raise ModelError(
            f"{folder} exists; name a folder that does not, and the merged model is written there"
        )
    model, tokenizer = load_model(name, trust_remote_code=trust_remote_code)
    block = render(["1 + 2 = 3.", "2 + 1 = 3. So 3."], "3.")  # one path longer: positions are compared too
    texts = [render_prompt(prompt, "bare") + block for prompt in prompts]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    expected = model.eval()(**batch).logits
    merged = model.merge_and_unload()
    _require_same(expected, merged(**batch).logits, name, "merged")
    draft = folder.with_name(f".{folder.name}.tmp")
    try:
        merged.to(dtype).save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        runs.write_json(draft / ATTENTION_FILE, {"attention": attention})
        again = AutoModelForCausalLM.from_pretrained(draft, dtype=torch.float32).eval()
        reloaded = AutoTokenizer.from_pretrained(draft)
        ids = reloaded(texts, padding=True, add_special_tokens=False)["input_ids"]
        if ids != batch["input_ids"].tolist():
            raise ModelError(f"{name!r}: the saved tokenizer reads text differently; the adapter is kept")
        check_tags(again, reloaded)
        if attention == "structured":
            attach_structure(again, Tags.of(reloaded))
        reference = expected if dtype == torch.float32 else merged.to(torch.float32)(**batch).logits
        difference = _require_same(reference, again(**batch).logits, name, "saved")
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return difference


def _require_same(expected: torch.Tensor, got: torch.Tensor, name: str, what: str) -> float:
    difference = (expected - got).abs().max().item()
    if not difference <= MERGE_TOLERANCE:
        raise ModelError(
            f"{name!r}: logits of the {what} model differ from the adapter's by {difference:.2g} "
            f"(limit {MERGE_TOLERANCE}); the adapter is kept, use it unmerged"
        )
    return difference


def _load_tokenizer(source: str | Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
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
            device_map={"": device},
            quantization_config=quantization,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise _unknown(name, error) from error
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


def _lora_config(model: PreTrainedModel, lora: Lora, token_ids: list[int]) -> LoraConfig:
    tables = {model.get_input_embeddings()}
    if not model.config.get_text_config().tie_word_embeddings:
        tables.add(model.get_output_embeddings())
    names = [name.rsplit(".", 1)[-1] for name, module in model.named_modules() if module in tables]
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if "all-linear" in lora.target_modules else list(lora.target_modules),
        trainable_token_indices={name: token_ids for name in names},
    )


def _keep_attention_when_saved(model: PeftModel, attention: str) -> None:
    """Let whatever saves the adapter save its attention: a checkpoint of the trainer is an adapter too.

    Without the embedding: its trained rows are in the adapter already, and PEFT would ask the Hub whether it
    was resized, and then add all of it.
    """
    save = model.save_pretrained

    @functools.wraps(save)
    def save_pretrained(save_directory: str, *args: Any, **kwargs: Any) -> None:
        save(save_directory, *args, **{"save_embedding_layers": False} | kwargs)
        if kwargs.get("is_main_process", True):
            runs.write_json(Path(save_directory) / ATTENTION_FILE, {"attention": attention})

    model.save_pretrained = save_pretrained


def _embedding_tables(model: PreTrainedModel | PeftModel) -> list[torch.Tensor]:
    """The input embedding and, where it is not the same matrix, the output one; shape (rows, hidden)."""
    config = model.config.get_text_config()
    modules = [model.get_input_embeddings()]
    if not config.tie_word_embeddings:
        modules.append(model.get_output_embeddings())
    return [module.weight.detach() for module in modules]


def _write_row(table: torch.Tensor, index: int, pieces: list[int], generator: torch.Generator) -> None:
    """Row `index` := mean of the pieces' rows plus noise of 0.3 its length, at the usual length of a row.

    The noise keeps tags apart whose texts share nearly all pieces, as in byte-level vocabularies.
    """
    usual = table[: min(len(table), 4096)].float().norm(dim=-1).median()
    mean = table[pieces].float().mean(dim=0)
    noise = torch.randn(mean.shape, generator=generator).to(mean)
    row = mean / mean.norm() + 0.3 * noise / noise.norm()
    table[index] = (row / row.norm() * usual).to(table.dtype)


def _forward_head_bias(model: PreTrainedModel | PeftModel) -> None:
    """Let TRL's fused LM head read `lm_head.bias` through PEFT's wrapper of trainable token rows.

    trl 1.16 (`add_fused_lm_head`) reads `.weight` and `.bias` of the output embedding; peft 0.21's
    TrainableTokensWrapper hands on `.weight` only and raises AttributeError for the rest.
    """
    head = model.get_output_embeddings()
    if isinstance(head, TrainableTokensWrapper):
        head.bias = head.original_module.bias


def describe(model: PreTrainedModel | PeftModel) -> dict[str, Any]:
    """Parameter counts, for the run's environment: all, trained, and the share."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"parameters": total, "trained_parameters": trained}

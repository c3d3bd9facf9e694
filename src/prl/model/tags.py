"""The six tags in a tokenizer and a model: rows of their own, and a check that a model can learn them.

A row that nobody trained is noise: in a base of 135M parameters the six took 7.6 % of the probability of
every token, and one quoted in a prompt says nothing. So a model gets them to be trained on traces, and keeps
them from then on (`add_tags`); until then its tokenizer does not know the tags and spells them out, as any
engine's would (`spell_tags`).

The tags are ordinary added tokens (`special_tokens=False`), because GRPOTrainer decodes completions with
`skip_special_tokens=True` and a special tag would be invisible to every reward. Each gets an embedding row of
its own: the mean of the rows of its text's pieces (Mr-DarkTesla/Parallel-R1-repro; in Qwen3-0.6B-Base the
spare rows that the tags land on are identical vectors, so that the model can never tell a `<Path>` from a
`</Path>`).
"""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import nn
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase

from prl.errors import ModelError
from prl.grammar import TAGS
from prl.prompts import CHAT_TEMPLATE, IM_END, IM_START

MAX_ROW_COSINE = 0.99  # two tag rows closer than this cannot be told apart by a small learning rate


def has_tags(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether tags are tokens to the tokenizer; if not, it spells them out."""
    return not set(TAGS).isdisjoint(tokenizer.get_vocab())


def tag_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of `prl.grammar.TAGS`, in that order; none where the tokenizer spells them out."""
    return tokenizer.convert_tokens_to_ids(list(TAGS)) if has_tags(tokenizer) else []


def add_tags(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, seed: int, faint: bool = False
) -> list[int]:
    """Make the tags and the chat turns single tokens with rows of their own; the ids whose rows are new,
    ascending. `faint`: rows that no hidden state favours, for a model that answers before it is trained.

    Also sets what every command relies on: EOS is the template's end of turn for tokenizer, config and
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

    new = {token: tokenizer.convert_tokens_to_ids(token) for token in wanted}
    _give_rows(model, tokenizer)
    generator = torch.Generator().manual_seed(seed)
    for table in _embedding_tables(model):
        middle = table[: len(base_vocabulary)].mean(dim=0, dtype=torch.float32) if faint else None
        for token, index in new.items():
            if pieces[token] != [index]:
                _write_row(table, index, pieces[token], generator, middle)
    _finish(model, tokenizer)
    return sorted(new.values())


def spell_tags(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a model ready as it is, without a new token: its tokenizer spells the tags out, and the chat turns
    too where it does not know them. A response then ends with the EOS that the model was trained with.

    Sets the rest as `add_tags` does. ModelError where no token could end a response.
    """
    vocabulary = tokenizer.get_vocab()
    if IM_END in vocabulary:
        tokenizer.eos_token = IM_END
    if tokenizer.eos_token not in vocabulary:
        raise ModelError(
            f"the tokenizer of {model.name_or_path!r} names no eos_token, so that no response would end: "
            "name it in tokenizer_config.json, or train the model first (`prl sft`)"
        )
    if tokenizer.pad_token in (None, tokenizer.eos_token):
        spare = ("<|endoftext|>", tokenizer.unk_token, tokenizer.bos_token)
        others = (token for token in spare if token in vocabulary and token != tokenizer.eos_token)
        tokenizer.pad_token = next(others, tokenizer.eos_token)  # EOS will do: padding is masked
    _give_rows(model, tokenizer)
    _finish(model, tokenizer)


def check_tags(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a model that cannot learn or show the tags; ModelError lists every reason.

    Asked: each tag is one token wherever it stands; it survives decoding with `skip_special_tokens=True`; its
    id has an embedding row; the rows differ from each other; the end of a turn is EOS for tokenizer and
    generation; pad is not EOS.
    """
    ids = tokenizer.convert_tokens_to_ids(list(TAGS))
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


def _give_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """A row for each token that has none: the mean of those there are, so that it is hardly ever drawn, and
    is the same whenever the model is loaded, since no adapter holds it."""
    if (rows := model.get_input_embeddings().num_embeddings) < len(tokenizer):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        for table in _embedding_tables(model):
            table[rows:] = table[:rows].float().mean(dim=0)


def _finish(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """What follows from EOS and pad of `tokenizer`, and how prompts are padded and rendered."""
    tokenizer.padding_side = "left"
    tokenizer.chat_template = CHAT_TEMPLATE
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id


def _embedding_tables(model: PreTrainedModel | PeftModel) -> list[torch.Tensor]:
    """The input embedding and, where it is not the same matrix, the output one; shape (rows, hidden)."""
    config = model.config.get_text_config()
    modules = [model.get_input_embeddings()]
    if not config.tie_word_embeddings:
        modules.append(model.get_output_embeddings())
    return [module.weight.detach() for module in modules]


def _write_row(
    table: torch.Tensor,
    index: int,
    pieces: list[int],
    generator: torch.Generator,
    middle: torch.Tensor | None,
) -> None:
    """Row `index` := mean of the pieces' rows plus noise of 0.3 its length, at the usual length of a row.

    The noise keeps tags apart whose texts share nearly all pieces, as in byte-level vocabularies. With
    `middle`, the mean of all rows (hidden,), that and such noise: most tokens are unlikely at any place, and
    so is their mean. On a base of 135M parameters six such rows take 2e-7 of the probability, the others 8 %.
    """
    mean = table[pieces].float().mean(dim=0) if middle is None else middle
    noise = torch.randn(mean.shape, generator=generator).to(mean)
    row = mean / mean.norm() + 0.3 * noise / noise.norm()
    usual = table[: min(len(table), 4096)].float().norm(dim=-1).median() if middle is None else mean.norm()
    table[index] = (row / row.norm() * usual).to(table.dtype)

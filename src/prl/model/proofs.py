"""What a merged model has to show before it is handed over: the proofs of `prl merge`.

A proof compares the adapter with what was merged or read back from the disk, and says in numbers what it
found; `fault` is why it failed. None of them judges whether the model is any good.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prl.decoding import ForkJoinDecoder, Limits, Response, Sampling
from prl.grammar import parse, render
from prl.model.tags import tag_ids
from prl.prompts import IM_END, render_prompt, user_message
from prl.runs.disk import read_json

MERGE_TOLERANCE = 1e-4  # largest difference of fp32 logits between adapter and merged model
COMPARED = 64  # positions of a text whose logits are compared: the block and the end of the prompt
LOSS_CHANCE = 0.01  # a loss of tags that chance explains less often than this is a fault
SAME_RESPONSES = 0.75  # share that fp32 must repeat: rounding turns a draw about once in 10,000 tokens


@dataclass(frozen=True)
class Proof:
    """What one proof found: `line` for people, `numbers` for merge.json, `fault` None where it holds."""

    name: str
    line: str
    numbers: Mapping[str, Any]
    fault: str | None = None


def texts_to_compare(problems: Sequence[str], style: str, path_opening: str = "none") -> list[str]:
    """Each problem as a prompt that a block follows, so that all tags are read.

    One path is longer than the other: positions are compared too.
    """
    block = render(["1 + 2 = 3.", "2 + 1 = 3. So 3."], "3.")
    return [render_prompt(problem, style, path_opening=path_opening) + block for problem in problems]


@torch.no_grad()
def last_logits(model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Tensor:
    """Logits of the last `COMPARED` tokens of each text, on the CPU in the model's precision; shape (tokens,
    vocabulary)."""
    rows = []
    for text in texts:
        batch = tokenizer(text, return_tensors="pt", add_special_tokens=False).to(model.device)
        rows.append(model.eval()(**batch, logits_to_keep=COMPARED).logits[0].cpu())
    return torch.cat(rows)


def agreement(first: Tensor, second: Tensor) -> float:
    """Share of positions at which both (tokens, vocabulary) take the same token for the likeliest."""
    return (first.argmax(-1) == second.argmax(-1)).double().mean().item()


def divergence(first: Tensor, second: Tensor) -> float:
    """Mean KL(first ‖ second) over positions, in nats; logits of shape (tokens, vocabulary)."""
    log_p, log_q = first.double().log_softmax(-1), second.double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean().item()


def prove_logits(expected: Tensor, got: Tensor, what: str, whose: str = "the adapter's") -> Proof:
    """`got` is `expected` to fp32 tolerance; both (tokens, vocabulary)."""
    difference = (expected - got).abs().max().item()
    line = f"logits of the {what} model are {whose} to {difference:.1e} (limit {MERGE_TOLERANCE})"
    fault = None
    if not difference <= MERGE_TOLERANCE:
        fault = (
            f"logits of the {what} model differ from {whose} by {difference:.2g} (limit {MERGE_TOLERANCE})"
        )
    numbers = {"largest_difference": difference, "tolerance": MERGE_TOLERANCE, "tokens": len(expected)}
    return Proof(f"logits_{what}", line, numbers, fault)


def prove_tags(before: Sequence[Response], after: Sequence[Response], *, same: bool) -> Proof:
    """The merged model uses the tags as often as the adapter does; responses pairwise of the same seeds.

    What tells is the pairs that differ. If merging changed nothing, a pair that rounding drove apart loses
    its block as often as it gains one, so that the losses follow a coin. A loss is a fault where that coin
    shows as many with a chance below `LOSS_CHANCE` (the one-sided exact sign test, McNemar's): 7 blocks of
    32 lost and none gained are, 6 are not. Asked of valid blocks and of the right format alike. With
    `same`, for weights that are not rounded, `SAME_RESPONSES` of the responses must also be equal.
    """
    traces = [[parse(each.text, truncated=each.truncated) for each in group] for group in (before, after)]
    numbers: dict[str, Any] = {
        "responses": len(before),
        "same_token_ids": _share([a.token_ids == b.token_ids for a, b in zip(before, after, strict=True)]),
        "largest_chance_of_a_fault": LOSS_CHANCE,
    }
    faults, shown = [], []
    for name, words, flags in (
        ("with_block", "a valid block", [[trace.uses_parallel for trace in group] for group in traces]),
        ("right_format", "the right format", [[trace.is_valid for trace in group] for group in traces]),
    ):
        lost = sum(a and not b for a, b in zip(*flags, strict=True))
        gained = sum(b and not a for a, b in zip(*flags, strict=True))
        shares = [_share(group) for group in flags]
        chance = chance_of(lost, gained)
        numbers |= {
            name: dict(zip(("adapter", "merged"), shares, strict=True))
            | {"lost": lost, "gained": gained, "chance": chance}
        }
        shown.append(f"{words} {shares[0]:.0%} before, {shares[1]:.0%} after")
        if chance < LOSS_CHANCE:
            faults.append(
                f"the tags were lost: {words} in {shares[0]:.0%} of {len(before)} sampled responses of the "
                f"adapter and in {shares[1]:.0%} of the merged model's ({lost} lost, {gained} gained)"
            )
    equal = numbers["same_token_ids"]
    if same and equal < SAME_RESPONSES:
        faults.append(f"{equal:.0%} of {len(before)} responses are the adapter's for the same seed")
    line = f"{len(before)} sampled responses: {'; '.join(shown)}; {equal:.0%} the same"
    return Proof("tags", line, numbers, "; ".join(faults) or None)


def chance_of(lost: int, gained: int) -> float:
    """The chance of this many losses or more among `lost + gained` throws of a coin; 1 where there are none.

    >>> chance_of(7, 0)
    0.0078125
    """
    throws = lost + gained
    return sum(comb(throws, k) for k in range(lost, throws + 1)) / 2**throws


def prove_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    reloaded: PreTrainedTokenizerBase,
    texts: Sequence[str],
    problems: Sequence[str],
    style: str,
) -> Proof:
    """The saved tokenizer reads `texts` as the adapter's does; its chat template renders what prl renders."""
    faults = [f"the saved tokenizer reads {fault}" for fault in misread(tokenizer, reloaded, texts)]
    if tag_ids(reloaded) != tag_ids(tokenizer):
        faults.append(f"the tags have ids {tag_ids(reloaded)}, they had {tag_ids(tokenizer)}")
    for problem in problems:
        turns = [{"role": "user", "content": user_message(problem, style)}]
        rendered = reloaded.chat_template and reloaded.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        if rendered != render_prompt(problem, style):
            faults.append(f"the saved chat template renders {str(rendered)[:80]!r} for {problem[:40]!r}")
            break
    numbers = {"texts": len(texts), "chats": len(problems), "tokens": len(tokenizer)}
    line = f"tokenizer and chat template: {len(texts)} texts and {len(problems)} chats read back the same"
    return Proof("tokenizer", line, numbers, "; ".join(faults) or None)


def misread(
    tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, texts: Sequence[str]
) -> list[str]:
    """The first of `texts` that `other` reads as other tokens than `tokenizer`, in words; none where it does
    not."""
    for text in texts:
        expected, got = (each(text, add_special_tokens=False)["input_ids"] for each in (tokenizer, other))
        if expected != got:
            return [f"a text of {len(expected)} tokens as {len(got)} other ones"]
    return []


@torch.no_grad()
def prove_end(folder: Path, prompts: Sequence[str], most_tokens: int, device: str) -> Proof:
    """Plain transformers stop at the end of a turn, told only by what is in `folder`.

    First the files: tokenizer, config and generation config name the same token. Then `generate` is made to
    write that token and must stop there, whatever the model. Last, every prompt that a greedy response of
    prl's decoder ends (causal, as other engines decode) must end under `generate` too; where none ends
    within `most_tokens`, `prompts_ended` is 0 and the second test stands alone.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # Where the turns are spelled out, a response ends with the EOS that the model was trained with.
    word = IM_END if IM_END in tokenizer.get_vocab() else tokenizer.eos_token
    end = tokenizer.convert_tokens_to_ids(word)
    said = {name: read_json(folder / f"{name}.json") for name in ("config", "generation_config")}
    found = {name: _only(content.get("eos_token_id")) for name, content in said.items()}
    found["tokenizer"] = tokenizer.eos_token_id
    numbers: dict[str, Any] = {"end_of_turn": end, "files": found}
    if wrong := [f"{name} says {index}" for name, index in found.items() if index != end]:
        fault = f"a turn ends with token {end} ({word}), but as end of sequence {', '.join(wrong)}"
        return Proof("end", "", numbers, fault)
    if (pad := said["generation_config"].get("pad_token_id")) != tokenizer.pad_token_id:
        fault = f"the tokenizer pads with token {tokenizer.pad_token_id}, generation_config with {pad}"
        return Proof("end", "", numbers, fault)

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    other = tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    forced = _generate(model, tokenizer, prompts[:1], 8, [_scripted(other, end)])[0]
    if forced != [other, end]:
        fault = f"plain `generate` does not stop at {word}: it went on with {forced[2:]}"
        return Proof("end", "", numbers | {"forced": forced}, fault)
    decoder = ForkJoinDecoder(
        model, tokenizer, limits=Limits(max_new_tokens=most_tokens), sampling=Sampling(temperature=0.0)
    )
    ended = [
        prompt
        for prompt, (response,) in zip(prompts, decoder.generate(prompts), strict=True)
        if not response.truncated
    ]
    plain = [ids[-1:] == [end] for ids in _generate(model, tokenizer, ended, most_tokens)]
    numbers |= {"prompts": len(prompts), "prompts_ended": len(ended), "ended_by_generate": sum(plain)}
    line = (
        f"plain generate stops at {word}: when made to write it, and on all {len(ended)} of "
        f"{len(prompts)} prompts that end within {most_tokens} tokens"
    )
    fault = ""
    if not all(plain):
        fault = (
            f"plain `generate` stops at {word} on {sum(plain)} of the {len(ended)} prompts that end within "
            f"{most_tokens} tokens"
        )
    return Proof("end", line, numbers, fault or None)


def _scripted(first: int, second: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A logits processor that leaves `first`, then `second`, then `first` for ever."""
    steps = itertools.count()

    def leave_one(input_ids: Tensor, scores: Tensor) -> Tensor:
        only = torch.full_like(scores, -torch.inf)
        only[:, second if next(steps) == 1 else first] = 0
        return only

    return leave_one


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    most_tokens: int,
    processors: Sequence[Any] = (),
) -> list[list[int]]:
    """Greedy continuations by `model.generate`, as anyone would call it, padding cut off."""
    found = []
    for prompt in prompts:
        batch = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(model.device)
        written = model.generate(
            **batch, max_new_tokens=most_tokens, do_sample=False, logits_processor=list(processors)
        )
        found.append(written[0, batch["input_ids"].shape[1] :].tolist())
    return found


def _only(ids: Any) -> Any:
    return ids[0] if isinstance(ids, list) and len(ids) == 1 else ids


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0

"""Build a base model that ships with prl: `python -m prl.tiny.build` (`tiny`, 20 minutes on two busy cores)
or `python -m prl.tiny.build tiny-search`. Without `--output` it takes the place of the one that ships.

A Qwen3 in miniature, with the real one's architecture, ChatML turns, tied embeddings and spare embedding
rows, pretrained from scratch on sequential solutions: `tiny` of arithmetic (`prl.data.problems`, training
side only), `tiny-search` of problems with alternatives (`prl.data.search`, pretraining side only). It has
never seen a tag: what it knows before the cold start is how to add, or to try one alternative after another.
Differs from a real pretraining in that the corpus is endless and made on the fly, so there are no epochs and
no validation split; `prl eval --model tiny`, or `tiny-search`, measures it on held-out problems.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from prl.data.problems import applicable_strategies, make_problem
from prl.data.search import pretraining_problem
from prl.data.search.traces import sequential
from prl.grammar import TAGS
from prl.prompts import CHAT_TEMPLATE, FINAL_ANSWER, render_prompt, render_response
from prl.tiny import FOLDERS

VOCABULARY = 384  # BPE tokens, the three control tokens included
EMBEDDING_ROWS = 512  # the rest is spare, as in Qwen3 (151,936 rows for 151,669 tokens)
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Qwen3's own pattern in short: one digit a token, words with their leading space, runs of line ends.
PATTERN = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\n+|\s+"

ANYWHERE_SHARE = 0.5
SEARCH_SHARES = {"which": 3, "equations": 2, "products": 5}  # of the texts: those of products are short


Documents = Callable[[int], Iterator[str]]
"""Endless pretraining texts from a seed."""


def arithmetic(seed: int) -> Iterator[str]:
    """A sum as a chat turn, and one or two sequential solutions of it."""
    rng = Random(f"{seed}/pretrain")
    while True:
        problem = make_problem(rng, rng.choice(("easy", "hard", "coldstart")))
        strategies = applicable_strategies(problem.terms)
        rng.shuffle(strategies)
        solutions = [
            strategy(problem.terms, int.__add__)[0] for strategy in strategies[: rng.choice((1, 1, 2))]
        ]
        verdict = f"\n\nBoth give {problem.answer}." if len(solutions) == 2 else ""
        solution = "\n\n".join(solutions) + f"{verdict}\n\n{FINAL_ANSWER} {problem.answer}"
        yield render_prompt(problem.text, "bare") + render_response(solution)


def search(seed: int) -> Iterator[str]:
    """A problem with alternatives as a chat turn, and its sequential solution.

    Half of them begin with any alternative: else a base learns where the next one stands instead of reading
    its label, and a path that takes the fourth cannot find it.
    """
    rng = Random(f"{seed}/pretrain")
    kinds = [kind for kind, share in SEARCH_SHARES.items() for _ in range(share)]
    while True:
        problem = pretraining_problem(rng, rng.choice(kinds))
        written = sequential(rng, problem, anywhere=rng.random() < ANYWHERE_SHARE)
        yield render_prompt(problem.text, "bare") + render_response(written.trace)


def train_tokenizer(documents: Documents, seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 384 tokens with single digits, trained on 4,000 documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    texts = documents(seed)
    tokenizer.train_from_iterator(
        (next(texts) for _ in range(4000)),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(CONTROL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    assert not any(tag in tokenizer.get_vocab() for tag in TAGS)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, plan: Plan, seed: int) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=EMBEDDING_ROWS,
            hidden_size=plan.hidden_size,
            intermediate_size=3 * plan.hidden_size,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=plan.hidden_size // 4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    return model


def batches(
    tokenizer: PreTrainedTokenizerFast, documents: Documents, seed: int, rows: int, length: int
) -> Iterator[torch.Tensor]:
    """Endless packed batches of token ids, shape (rows, length)."""
    texts = documents(seed)
    buffer: list[int] = []
    while True:
        while len(buffer) < rows * length:
            buffer += [
                token for ids in tokenizer([next(texts) for _ in range(256)])["input_ids"] for token in ids
            ]
        yield torch.tensor(buffer[: rows * length]).view(rows, length)
        buffer = buffer[rows * length :]


def pretrain(
    model: Qwen3ForCausalLM,
    stream: Iterator[torch.Tensor],
    *,
    steps: int,
    learning_rate: float,
    autocast: bool,
) -> None:
    """AdamW with warm-up and cosine decay; prints the loss every 50 steps."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    warmup, started = max(1, steps // 50), time.monotonic()
    for step in range(steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * decay)
        ids = next(stream)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.item():.4f}  {time.monotonic() - started:6.0f} s", flush=True)


@dataclass(frozen=True)
class Plan:
    """How a base is made: from which texts, of which size, for how many steps of rows × length tokens."""

    documents: Documents
    hidden_size: int
    steps: int
    rows: int
    length: int
    autocast: bool  # to bfloat16: faster on some processors, and by half slower on others


PLANS = {
    "tiny": Plan(arithmetic, hidden_size=128, steps=2500, rows=48, length=192, autocast=True),
    "tiny-search": Plan(search, hidden_size=128, steps=2000, rows=32, length=256, autocast=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Pretrain a tiny base model from scratch.")
    parser.add_argument("name", nargs="?", choices=[*PLANS], default="tiny")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--learning_rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    plan = PLANS[arguments.name]
    tokenizer = train_tokenizer(plan.documents, arguments.seed)
    model = new_model(tokenizer, plan, arguments.seed)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    stream = batches(tokenizer, plan.documents, arguments.seed, plan.rows, plan.length)
    steps = arguments.steps or plan.steps
    pretrain(model, stream, steps=steps, learning_rate=arguments.learning_rate, autocast=plan.autocast)
    output = arguments.output or FOLDERS[arguments.name]
    model.to(torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)


if __name__ == "__main__":
    main()

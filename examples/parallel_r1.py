"""Parallel-R1 on one page: cold start, fork/join sampling, GRPO and evaluation, in plain PyTorch.

    python examples/parallel_r1.py        # or `make examples`; 6 minutes of CPU (AMD EPYC, one core)

The method (arXiv 2509.07980): a model opens `<Parallel>`, writes `<Path>`s that do not see each other, closes
the block, and puts together in `<Summary>` what they found. A cold start on checked traces teaches the
format; then reinforcement learning pays for right answers alone. Here a model of 0.85 M parameters, which
knows how to compute a product ("Compute 47 * 36.") in sequence, learns from traces half of which go four ways
at once and take the majority. That this is worth it RL finds out by itself. On held-out products:

    base        63.2 % right [60.0, 66.3], 81.3 % by 4 votes, 0 % with a block, 45 tokens, critical path 45
    cold start  72.0 % right [69.2, 74.6], 90.0 % by 4 votes, 48 % with a block, 123 tokens, critical path 65
    RL          85.4 % right [83.2, 87.8], 93.7 % by 4 votes, 98 % with a block, 206 tokens, critical path 85

1. The paths of a block start at one position and are sampled side by side, a token each in a forward pass: a
   response waits for its critical path, not for all its tokens.
2. What is trained is what was sampled: same mask, same positions, each log-probability the same to 1e-4. So
   the sampled ones are those of the old policy, and nothing is scored twice.
3. Tokens that the runtime writes (`<Path>` and its number, `</Parallel>`, `<Summary>`) have no loss.
4. GRPO: advantages within a group, a clipped ratio, no KL term, no reward for the format. Blocks become
   frequent because they are right more often. Traces that all have one reach 92 %, and leave RL nothing.

Left out, and where prl has it: LoRA and real models (`prl.model`, `prl.recipes`); causal attention, plans, a
number of paths that the model chooses (`prl.decoding`); rewards that alternate, easy problems first
(`prl.rewards`, `prl.curriculum`); a teacher's traces (`prl.traces`); TRL's trainers (`prl.trainer`); the fair
comparison, a sequential model with as much training (`prl.study`).
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import cos, nan, pi
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from prl.analysis.budgets import majority_at_k
from prl.answers import default_checker
from prl.data.hub import load_rows
from prl.grammar import TAGS, parse, with_openings
from prl.model import load_model
from prl.prompts import render_prompt, render_response
from prl.rewards import accuracy_reward
from prl.statistics import bootstrap
from prl.structure import Opener, Tags, cache_name, context_tokens, forced_tokens, response_ids

SEED = 0
PATHS = 4  # of every block
MAX_PATH = 60  # tokens of a path
MAX_PASSES = 130  # forward passes that a response may take

SFT_STEPS, SFT_BATCH, SFT_RATE = 290, 32, 2e-3
RL_STEPS, RL_PROBLEMS, GROUP, RL_RATE = 16, 16, 8, 2e-4  # in a step GROUP responses to each of RL_PROBLEMS
CLIP_LOW, CLIP_HIGH = 0.2, 0.28
EVALUATED, SAMPLES = 300, 4  # held-out problems, and responses to each
ROWS = 128  # responses that are sampled side by side

if "--quick" in sys.argv:  # to see that it runs
    SFT_STEPS, SFT_BATCH, RL_STEPS, RL_PROBLEMS, GROUP, EVALUATED, SAMPLES = 2, 4, 1, 2, 2, 4, 2


# --- 1. What the runtime knows of the language --------------------------------------------------------------
class Language:
    """The tokens that the runtime reads and writes by itself."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.end = tokenizer, tokenizer.eos_token_id
        self.tags = Tags.of(tokenizer)
        # Paths see the same text and start at the same position: without a number of its own each would write
        # what its siblings do. So path i begins with a line that holds i.
        self.opener = Opener("number", tokenizer)
        self.openings = [(self.tags.path, *self.opener.opening([], i)) for i in range(1, PATHS + 1)]

    def tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompt(self, problem: str) -> list[int]:
        return self.tokens(render_prompt(problem, "bare"))


# --- 2. A forward pass over whole sequences, for both losses ------------------------------------------------
def padded(rows: Sequence[Sequence[float]], fill: float) -> Tensor:
    """Rows of different lengths as one tensor (B, T), filled up on the right."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, fill)


def logits_of(model: Any, ids: Sequence[list[int]]) -> Tensor:
    """Logits (B, T, V), at each token for the next. load_model attached `prl.structure` to the model:
    who sees whom, and at which position a token stands, follows from the tags in the ids."""
    is_token_B_T = padded([[1] * len(row) for row in ids], 0)
    logits_B_T_V: Tensor = model(input_ids=padded(ids, 0), attention_mask=is_token_B_T).logits
    return logits_B_T_V


def update(model: Any, optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


# --- 3. Cold start: supervised fine-tuning on traces that were checked --------------------------------------
def example(row: dict[str, Any], language: Language) -> tuple[list[int], list[int]]:
    """A prompt with its trace as token ids, and labels: -100 where there is nothing to learn."""
    trace = with_openings(parse(render_response(row["trace"])), "number")
    assert trace is not None  # only a plan may be missing
    response = response_ids(trace, language.tokenizer, language.opener)
    # What the runtime will write by itself (`<Path>`, its number, `</Parallel>`, `<Summary>`).
    forced = forced_tokens(response, language.tags, paths=PATHS, opener=language.opener)
    # Paths with a slip, which the summary has to decide against: learned, they would teach to slip.
    tag_ids = language.tokenizer.convert_tokens_to_ids(list(TAGS))
    shown = context_tokens(response, row["context_paths"], tag_ids)
    labels = [-100 if any(off) else token for token, *off in zip(response, forced, shown, strict=True)]
    prompt = language.prompt(row["problem"])
    return prompt + response, [-100] * len(prompt) + labels


def cold_start(model: Any, language: Language) -> None:
    """One epoch: every trace is seen once. Half of them have a block, half go on in one line."""
    rows = load_rows("search:products-mixed", need=["trace"], limit=SFT_STEPS * SFT_BATCH, seed=SEED)
    examples = [example(row, language) for row in rows]
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(SFT_STEPS):
        batch = examples[step * SFT_BATCH : (step + 1) * SFT_BATCH]
        logits_B_T_V = logits_of(model, [ids for ids, _ in batch])
        labels_B_T = padded([labels for _, labels in batch], -100)
        loss = functional.cross_entropy(logits_B_T_V[:, :-1].flatten(0, 1), labels_B_T[:, 1:].flatten())
        done = step / SFT_STEPS
        warm_up, decay = min(1.0, 10 * (done + 1 / SFT_STEPS)), 0.5 * (1 + cos(pi * done))
        update(model, optimizer, loss, SFT_RATE * warm_up * decay)
        if step % 20 == 0 or step == SFT_STEPS - 1:
            print(f"cold start, step {step:3d}: loss {loss.item():.3f}")


# --- 4. Sampling that forks at <Parallel> and joins at </Parallel> ------------------------------------------

MAIN, BLANK = 10**6, 10**6 + 1  # beyond all numbers of paths: the main thread sees these, nobody sees padding


@dataclass(eq=False)
class Thread:
    """A stretch of the main thread (path 0), or a path (1, 2, … in a response). Its tokens see the paths
    before number `sees`, and their own. `logps` are nan where the runtime wrote the token."""

    path: int
    sees: int
    position: int  # of its next token
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    column: int = 0  # of its last token in the next forward pass


class Response:
    """A response as it is written: it forks into paths, and joins them again."""

    def __init__(self, prompt: list[int], language: Language) -> None:
        self.prompt, self.language = prompt, language
        main = Thread(0, MAIN, len(prompt), column=len(prompt) - 1)
        self.threads = [main]  # in written order
        self.live = [main]  # those that go on with a token that is sampled
        self.unread = [(token, 0, MAIN, position) for position, token in enumerate(prompt)]

    def write(self, thread: Thread, token: int, logp: float = nan) -> None:
        thread.ids.append(token)
        thread.logps.append(logp)
        thread.column = len(self.unread)
        self.unread.append((token, thread.path, thread.sees, thread.position))
        thread.position += 1

    def take(self, thread: Thread, token: int, logp: float) -> None:
        """Go on with the token that was sampled for a thread."""
        tags, end = self.language.tags, self.language.end
        if thread.path == 0:
            self.write(thread, token, logp)
            if token == end:
                self.live = []
            elif token == tags.parallel:
                self.fork(thread)
            return
        if token in (end, tags.path, tags.end_parallel) or len(thread.ids) >= MAX_PATH:
            token, logp = tags.end_path, nan  # the runtime's, in place of what may not stand in a path
        self.write(thread, token, logp)
        if token == tags.end_path:
            self.close(thread)

    def fork(self, main: Thread) -> None:
        first = max(thread.path for thread in self.threads) + 1
        self.live = [Thread(first + i, first, main.position) for i in range(PATHS)]  # all at one position
        self.threads += self.live
        for path, opening in zip(self.live, self.language.openings, strict=True):
            for token in opening:
                self.write(path, token)

    def close(self, path: Thread) -> None:
        self.live.remove(path)
        if not self.live:  # the block's last: the main thread sees them all, and goes on after the longest
            main = Thread(0, MAIN, max(thread.position for thread in self.threads))
            self.threads.append(main)
            self.live.append(main)
            for token in self.language.tags.joint:
                self.write(main, token)

    @property
    def ids(self) -> list[int]:
        return [token for thread in self.threads for token in thread.ids]

    @property
    def logps(self) -> list[float]:
        return [logp for thread in self.threads for logp in thread.logps]

    @property
    def text(self) -> str:
        return str(self.language.tokenizer.decode(self.ids, skip_special_tokens=True))

    @property
    def critical_path(self) -> int:
        """Tokens that had to wait for each other: the main thread, and the longest path of each block."""
        return max(thread.position for thread in self.threads) - len(self.prompt)


@torch.no_grad()
def sample(model: Any, prompts: Sequence[list[int]], language: Language) -> list[Response]:
    """One response to each prompt, at temperature 1.

    A forward pass reads what is unread of each response, most often one token of every live thread, and their
    keys and values are appended to the cache. B responses, W new columns, K columns so far, N live threads.
    """
    responses = [Response(prompt, language) for prompt in prompts]
    cache, path_B_K = DynamicCache(), torch.empty(len(prompts), 0, dtype=torch.long)
    for _ in range(MAX_PASSES):
        live = [(b, thread) for b, response in enumerate(responses) for thread in response.live]
        if not live:
            break
        width = max(len(response.unread) for response in responses)
        rows = [each.unread + [(0, BLANK, 0, 0)] * (width - len(each.unread)) for each in responses]
        token_B_W, path_B_W, sees_B_W, position_B_W = torch.tensor(rows).unbind(-1)
        path_B_K = torch.cat([path_B_K, path_B_W], 1)
        # Who sees whom: columns before one's own, of the main thread, earlier blocks, or one's own path.
        seen_B_W_K = path_B_K[:, None, :] < sees_B_W[:, :, None]
        seen_B_W_K |= path_B_K[:, None, :] == path_B_W[:, :, None]
        seen_B_W_K &= torch.ones(path_B_K.shape[1], path_B_K.shape[1], dtype=torch.bool).tril()[-width:]
        hidden_B_W_D = model.model(
            input_ids=token_B_W,
            position_ids=position_B_W,
            attention_mask=seen_B_W_K[:, None],  # a mask of one's own: `prl.structure` leaves it alone
            use_cache=True,
            **{cache_name(model.model): cache},
        ).last_hidden_state
        last_N_D = hidden_B_W_D[[b for b, _ in live], [thread.column for _, thread in live]]
        logp_N_V = model.lm_head(last_N_D).log_softmax(-1)
        token_N_1 = torch.multinomial(logp_N_V.exp(), 1)
        drawn_N_2 = torch.cat([token_N_1, logp_N_V.gather(1, token_N_1)], 1)
        for response in responses:
            response.unread = []
        for (b, thread), (token, logp) in zip(live, drawn_N_2.tolist(), strict=True):
            responses[b].take(thread, int(token), logp)
    return responses


# --- 5. Reinforcement learning: GRPO, right answers alone are paid ------------------------------------------
def scored(model: Any, responses: Sequence[Response]) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, T) as the model has them now, and as they were sampled: nan on prompts, padding,
    and what the runtime wrote."""
    ids = [response.prompt + response.ids for response in responses]
    logp_B_T_V = logits_of(model, ids)[:, :-1].log_softmax(-1)
    now_B_T = logp_B_T_V.gather(-1, padded(ids, 0)[:, 1:, None]).squeeze(-1)
    return now_B_T, padded([[nan] * (len(each.prompt) - 1) + each.logps for each in responses], nan)


def policy_loss(model: Any, responses: Sequence[Response], advantage_B: Tensor) -> Tensor:
    """PPO's clipped objective, the mean over tokens, without a KL term."""
    now_B_T, old_B_T = scored(model, responses)
    ratio_B_T = (now_B_T - old_B_T.nan_to_num()).exp()
    clipped_B_T = ratio_B_T.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH)
    gain_B_T = torch.min(ratio_B_T * advantage_B[:, None], clipped_B_T * advantage_B[:, None])
    return -gain_B_T[~old_B_T.isnan()].mean()


def grpo(model: Any, language: Language) -> None:
    problems = load_rows("search:products-hard", limit=RL_STEPS * RL_PROBLEMS, seed=SEED)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    for step in range(RL_STEPS):
        drawn = problems[step * RL_PROBLEMS : (step + 1) * RL_PROBLEMS]
        rows = [row for row in drawn for _ in range(GROUP)]
        responses = sample(model, [language.prompt(row["problem"]) for row in rows], language)
        rewards = accuracy_reward([each.text for each in responses], [row["answer"] for row in rows])
        reward_P_G = torch.tensor(rewards, dtype=torch.float32).view(-1, GROUP)
        advantage_P_G = reward_P_G - reward_P_G.mean(1, keepdim=True)
        advantage_B = (advantage_P_G / (reward_P_G.std(1, keepdim=True) + 1e-4)).flatten()
        # Groups that are all right or all wrong teach nothing, and are left out. Adam makes a full step of
        # however few are left: so the learning rate follows their share.
        taught = advantage_B.nonzero().flatten().tolist()
        for part in (taught[0::2], taught[1::2]):
            if part:  # the second was sampled one update ago: for such the ratio is clipped
                loss = policy_loss(model, [responses[b] for b in part], advantage_B[part])
                update(model, optimizer, loss, RL_RATE * len(taught) / len(rows))
        print(f"RL, step {step:2d}: mean reward {reward_P_G.mean():.2f}, {len(taught) // GROUP} groups teach")


# --- 6. Evaluation on held-out problems ---------------------------------------------------------------------
def evaluate(name: str, model: Any, language: Language) -> list[Response]:
    torch.manual_seed(SEED)
    problems = load_rows("search:products-heldout", limit=EVALUATED, seed=SEED, unique=True)
    rows = [row for row in problems for _ in range(SAMPLES)]
    prompts = [language.prompt(row["problem"]) for row in rows]
    batches = (prompts[i : i + ROWS] for i in range(0, len(rows), ROWS))
    responses = [response for batch in batches for response in sample(model, batch, language)]
    texts = [response.text for response in responses]
    verdicts = default_checker().check_responses(texts, [row["answer"] for row in rows])
    judged = [(answer, float(verdict.equal)) for answer, verdict in verdicts]
    groups = [judged[i : i + SAMPLES] for i in range(0, len(rows), SAMPLES)]
    right = bootstrap([100 * fmean(right for _, right in group) for group in groups])  # resamples problems
    voted = 100 * fmean(majority_at_k(group, SAMPLES) for group in groups)
    tokens = fmean(len(response.ids) for response in responses)
    critical = fmean(response.critical_path for response in responses)
    blocks = 100 * fmean(parse(text).uses_parallel for text in texts)
    print(
        f"{name:10}  {right.mean:.1f} % right [{right.low:.1f}, {right.high:.1f}], {voted:.1f} % "
        f"by {SAMPLES} votes, {blocks:.0f} % with a block, {tokens:.0f} tokens, critical path {critical:.0f}"
    )
    return responses


def main() -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    model, tokenizer = load_model("tiny-search", attention="structured")
    language = Language(tokenizer)
    evaluate("base", model, language)
    cold_start(model, language)
    responses = evaluate("cold start", model, language)[:ROWS]
    with torch.no_grad():
        now_B_T, old_B_T = scored(model, responses)
    gap = (now_B_T - old_B_T).nan_to_num().abs().max().item()
    print(f"sampled and scored log-probabilities differ by at most 1e-4: {gap < 1e-4} ({gap:.0e})")
    grpo(model, language)
    responses = evaluate("RL", model, language)
    print(f"{time.process_time():.0f} s of CPU. The first response:\n{responses[0].text}")


if __name__ == "__main__":
    main()

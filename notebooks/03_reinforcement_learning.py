# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: -jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. Reinforcement learning
#
# After the cold start nobody shows the model what to write. It writes, a checker says whether the answer is right, and
# what led there is made more likely. The algorithm is GRPO. You will
#
# 1. take one step of it by hand, on a group of eight responses;
# 2. let `prl.rl` take more of them, and see what the model finds out by itself;
# 3. measure what came of it.
#
# **Time**: 3 minutes on two cores; half a minute with `QUICK = True`, which takes fewer and smaller steps.

# %%
import os
from pathlib import Path

import pandas as pd
import torch

import prl
from prl import evaluation, rl, runs
from prl.config import resolve
from prl.console import quiet_libraries
from prl.course import check, checkpoint
from prl.data.hub import load_rows
from prl.decoding import ForkJoinDecoder, Limits
from prl.grammar import parse
from prl.model import load_model
from prl.prompts import render_prompt
from prl.report.curves import plot_evaluations, plot_run
from prl.rewards import AlternatingReward, TieredReward, accuracy_reward, format_reward

# %matplotlib inline
quiet_libraries()  # no bars while a model loads
QUICK = bool(os.environ.get("PRL_QUICK"))  # True: only to see that it runs
RUNS = Path("runs/course/rl")  # every stage writes a folder here
RECIPE = "tiny-search+products"

# %% [markdown]
# ## 1. One step by hand
#
# We begin with a cold start half of whose traces were in sequence, on the same kind of problems: of the model's responses
# one half opens a block, the other computes in one line. Nobody told it which is better. To one problem it samples a *group*
# of eight responses. (Models this small write summaries that now and then hold junk, also half characters, shown as �: what
# counts is the final answer.)

# %%
model, tokenizer = load_model(checkpoint("mixed"), trainable=True)
row = load_rows("search:products-hard", need=("problem", "answer"), limit=20)[1]
prompt = tokenizer(render_prompt(row["problem"], "bare"))["input_ids"]
decoder = ForkJoinDecoder(model, tokenizer, limits=Limits(max_new_tokens=360, paths=4))
group = decoder.generate([prompt], samples=8, seed=2)[0]
texts = [response.text for response in group]
print(row["problem"], "The answer is", row["answer"])
print(texts[0])

# %% [markdown]
# A *reward* says what each of them is worth. `accuracy_reward` pays 1 for a right answer and −1 for a wrong one, with or
# without a block. (An answer is judged as a number or a formula, not as a string, and whatever a model writes cannot
# hang the judge: `prl.answers`.)

# %%
answers = [row["answer"]] * 8
rewards = torch.tensor(accuracy_reward(texts, answer=answers))
table = pd.DataFrame(
    {
        "has a block": [parse(text).uses_parallel for text in texts],
        "reward": rewards.tolist(),
        "tokens": [len(response.token_ids) for response in group],
    }
)
table

# %% [markdown]
# What a reward is worth depends on the problem: it is nothing special where every response earns it. So GRPO measures a
# response by its group. Its *advantage* is
#
# $$\text{advantage} = \frac{\text{reward} - \text{mean reward of the group}}{\text{standard deviation of the group} + 0.0001}$$

# %%
advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
table.assign(advantage=advantages.round(decimals=3).tolist())

# %% [markdown]
# What if all eight earn the same? Then every advantage is zero, and the group teaches nothing. Such a group is *dead*.
# Problems that are far too hard or far too easy make dead groups, and the time to sample them is lost.
#
# Now the step. A token of a response with a positive advantage is to become likelier, one with a negative advantage less
# likely; tokens that the runtime wrote by itself (*forced*: the tags and numbers of paths, notebook 1) get no gradient. GRPO's loss takes the
# ratio of a token's probability now to that when it was sampled, and clips it, so that one step cannot go too far. On the
# first step nothing has changed yet, and every ratio is 1:


# %%
def token_logprobs(response):
    """The log-probability of each token of a response, under the model as it is now. (tokens,)"""
    ids = torch.tensor([prompt + response.token_ids])
    logits = model(ids).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]


def drawn(response):
    """Which tokens the model drew itself. (tokens,)"""
    return ~torch.tensor(response.forced)


sampled = [torch.tensor(response.logprobs) for response in group]  # kept by the decoder when it drew them
with torch.no_grad():
    gap = max(
        (token_logprobs(response) - before)[drawn(response)].abs().max().item()
        for response, before in zip(group, sampled, strict=True)
    )
print(f"sampled and scored log-probabilities differ by {gap:.1e} at most")

# %%
LOW, HIGH = 0.2, 0.28  # how far a ratio may go down and up: rare tokens may gain more than they may lose


def loss_of(response, before, advantage):
    mask = drawn(response)
    ratio = (token_logprobs(response) - before)[mask].exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - LOW, 1 + HIGH) * advantage).sum()


optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
tokens = sum(int(drawn(response).sum()) for response in group)
loss = sum(map(loss_of, group, sampled, advantages)) / tokens
loss.backward()
optimizer.step()

with torch.no_grad():
    after = [token_logprobs(response) for response in group]
change = [
    (now - before)[drawn(response)].sum().item()
    for response, now, before in zip(group, after, sampled, strict=True)
]
table.assign(advantage=advantages.round(decimals=3).tolist(), log_probability_changed_by=change)

# %% [markdown]
# What had a positive advantage has become likelier, as a whole response; the others share its words and still became less
# likely. That is all of it: sample, judge, compare within the group, make a small step, and begin anew. Of one group little
# is learned (here most blocks were wrong); it takes many to see what is right more often.
#
# ## 2. As many steps as it takes
#
# `prl.rl` does the same with sixteen problems a step, each with eight responses. It wraps TRL's trainer, computes each
# prompt once, and keeps every response with its reward and advantage. Nothing is paid for blocks.

# %%
sizes = {"max_steps": 6, "per_device_train_batch_size": 32} if QUICK else {"max_steps": 32}
skill = rl.run(
    resolve(
        "rl", recipe=RECIPE, model_name_or_path=checkpoint("mixed"), output_dir=str(RUNS / "rl"),
        overwrite_output_dir=True, rewards=["accuracy"], learning_rate=5e-4, **sizes,
    )
)

# %%
plot_run(skill.folder)

# %% [markdown]
# The parallel ratio rises, although nobody pays for blocks. Why? Every response is kept, so we can ask: how often is a
# response right that has a block, and one that has none?

# %%
samples = runs.read_samples(skill.folder).to_pandas()
samples["has a block"] = [parse(text).uses_parallel for text in samples["text"]]
samples.groupby("has a block").agg(
    responses=("reward", "size"), right=("correct", "mean"), advantage=("advantage", "mean")
).round(3)

# %% [markdown]
# Blocks vote, and so they are right more often; within a group, their advantage is positive on average; so GRPO makes
# what opens a block likelier. The model has found out that it pays. Here is the formula once more, against what the
# trainer did, and the number of groups that taught nothing:

# %%
groups = [group for _, group in samples.groupby(["step", "group"])]
alive = [group for group in groups if group["reward"].nunique() > 1]
reward = alive[0]["reward"]
by_hand = (reward - reward.mean()) / (reward.std() + 1e-4)
print(f"largest difference: {(by_hand - alive[0]['advantage']).abs().max():.1e}")
print(f"{len(groups) - len(alive)} of {len(groups)} groups were dead")

# %% [markdown]
# And here are responses of the last step, with what each was paid. One may break a rule of the format and be paid in full:
# right answers are all that counts here.

# %%
prl.show(skill.folder, step="last", limit=2)

# %% [markdown]
# ## 3. Before and after
#
# Again both models answer the same held-out problems.

# %%
# %%capture
sizes = {"limit": 32, "samples": 4} if QUICK else {"limit": 200, "samples": 4}
results = {
    name: evaluation.run(
        resolve("eval", recipe=RECIPE, model_name_or_path=str(model), output_dir=str(RUNS / name),
                overwrite_output_dir=True, **sizes)
    )
    for name, model in [("before", checkpoint("mixed")), ("after", skill.folder)]
}

# %%
plot_evaluations({name: result.folder for name, result in results.items()})

# %%
for name, result in results.items():
    print(f"{name}: right {result.metrics['sampled/accuracy']}, with a block {result.metrics['sampled/parallel_ratio']}")
gain = evaluation.paired_difference(results["before"].scores["sampled"], results["after"].scores["sampled"])
print(f"gain in accuracy: {gain}")

# %% [markdown]
# Greedily (at each step the likeliest token) little has changed: there the model used blocks before, too. What RL changed
# is what it samples. It could have gone the other way. What RL makes of blocks depends on what they are worth *where it begins*: from a cold
# start of 120 steps, after which a block is right less often than a line of text, the same reward makes the same model give
# blocks up within twenty steps (from 46 % to 2 % of the responses, over five seeds; `prl study` measured it).
# That is why the paper pays for blocks on the way. Its *alternating* reward takes turns: in a window of ten steps, eight
# pay right answers alone, and two pay a little more for those with a block.

# %%
schedule = AlternatingReward()
print([schedule.phase(step) for step in range(12)])
print("tiers:", TieredReward()([good := "<Parallel><Path>6*7=42</Path><Path>7*6=42</Path></Parallel>"
                                "<Summary>42</Summary>\nFinal Answer: 42", "Final Answer: 42", "Final Answer: 41"],
                               answer=["42"] * 3))

# %% [markdown]
# Whether a block is one is judged by the grammar of notebook 1. prl's `format_reward` pays every response that breaks no
# rule, with a block or without:

# %%
print(format_reward([good, "Final Answer: 42", good.replace("</Path>", "")]))

# %% [markdown]
# ## Exercises
#
# Write a format reward yourself, a stricter one, which wants a block. Notebook 1 has the grammar; notebook 4 shows what
# becomes of rewards that only count tags.

# %%
# exercise: format_reward (6 points)
def format_reward(text: str) -> float:
    """1.0 for a response that has a block and breaks no rule of the format, else 0.0.

    "<Parallel><Path>6*7</Path><Path>7*6</Path></Parallel><Summary>42</Summary> So 42." gets 1.0, "42" and
    "<Parallel><Path>6*7</Path></Parallel><Summary>42</Summary>" get 0.0.

        response := (text | block)*      at least one block
        block    := <Parallel> path path+ </Parallel> summary
        path     := <Path> text </Path>
        summary  := <Summary> text </Summary>

    1. Between the parts of a block, so also between </Parallel> and <Summary>, only whitespace may stand.
    2. The text of a path or a summary is more than whitespace.
    3. None of the six tags stands where the grammar has no place for it: not in text, not in a path.
    4. Tags are written exactly so; anything else, such as <path>, is text.

    The module `re` of the standard library may be imported; prl is not there when this is graded.
    """
    return 0.0  # your code

# %%
right = check(format_reward)

# %% [markdown]
# And the alternating reward, which was printed above. The cell says the numbers; they may be others than the paper's:

# %%
# exercise: alternating (3 points)
def alternating(step: int, uses_block: bool, is_right: bool) -> float:
    """The alternating reward at an optimizer step, from 0 on.

    Of each 8 + 2 steps, over and over:
    1. the first 8 are paid by accuracy: 1.0 for a right answer, -1.0 for a wrong one;
    2. the last 2 by tiers: 1.2 for a right answer in a response with a block, 1.0 for a right
       one without, -1.0 for a wrong one.
    """
    return 0.0  # your code

# %%
right = check(alternating)

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
# # 4. Rewards go wrong
#
# Reinforcement learning finds what it is paid for. If that is not what was meant, it finds that too, and the curve of the
# reward looks splendid. Here you
#
# 1. write a reward that sounds reasonable, and watch a model exploit it;
# 2. see what tells, and find the cause in the responses;
# 3. score the same responses under other rewards, without training;
# 4. fool some rewards yourself.
#
# **Time**: 2 minutes on two cores; half a minute with `QUICK = True`, which takes fewer steps.

# %%
import os
import re
from pathlib import Path

import pandas as pd

import prl
from prl import evaluation, rl
from prl.config import resolve
from prl.course import checkpoint
from prl.report.curves import plot_evaluations, plot_run
from prl.rewards import accuracy_reward, format_reward
from prl.study import reward_lab

# %matplotlib inline
QUICK = bool(os.environ.get("PRL_QUICK"))  # True: only to see that it runs
RUNS = Path("runs/course/rewards")
RECIPE = "tiny-search+products"
START = checkpoint("mixed")  # of notebook 3: half of its responses open a block

# %% [markdown]
# ## 1. A reward that sounds reasonable
#
# Paths cost tokens, and tokens cost money. The model is right often enough by now, so let us pay it for being brief. A
# reward is a function: it gets the responses of a batch, and gives as many numbers.


# %%
def brief(completions, **columns):
    return [1 - len(text) / 600 for text in completions]


# %%
sizes = {"max_steps": 6} if QUICK else {"max_steps": 16}
hacked = rl.run(
    resolve(
        "rl", recipe=RECIPE, model_name_or_path=START, output_dir=str(RUNS / "brief"), overwrite_output_dir=True,
        rewards=["accuracy"], reward_weights=[0.0],  # right answers are counted and not paid
        learning_rate=5e-4, per_device_train_batch_size=32, **sizes,
    ),
    rewards=[brief],
)

# %%
plot_run(hacked.folder)

# %% [markdown]
# The reward rises as in a textbook. Within a few steps the blocks are gone: nothing is as long as a block. The format is
# valid all the same, as a response without a block breaks no rule. A dashboard that shows reward and format would say that
# all is well. (The loss, left, is no measure of success here: advantages are zero on average.)
#
# ## 2. What tells
#
# What was meant was *right and brief*. At first the answers were still right, in one line, as the base model of notebook 2
# has them. Then they went wrong: a slip costs nothing, and one that saves a digit pays. So right answers have to be watched, on problems that nobody
# trains on:

# %%
# %%capture
sizes = {"limit": 40, "samples": 4} if QUICK else {"limit": 200, "samples": 4}
results = {
    name: evaluation.run(
        resolve("eval", recipe=RECIPE, model_name_or_path=str(model), output_dir=str(RUNS / name),
                overwrite_output_dir=True, **sizes)
    )
    for name, model in [("before", START), ("after", hacked.folder)]
}

# %%
plot_evaluations({name: result.folder for name, result in results.items()})

# %%
for mode in ("greedy", "sampled"):
    change = evaluation.paired_difference(results["before"].scores[mode], results["after"].scores[mode])
    print(f"{mode}: accuracy changed by {change}")

# %% [markdown]
# The *reward lab* does that for any stored run. It gives an alarm where a reward rose while accuracy fell, both beyond their
# intervals. (On the command line: `prl rewards replay RUN --reward … --heldout EVAL EVAL`.)

# %%
found = reward_lab.replay(hacked.folder, ["accuracy", "parallel"], heldout=[result.folder for result in results.values()])
for line in reward_lab.lines(found)[:2]:
    print(line)

# %% [markdown]
# What would other rewards have paid for the same responses? `paid` is
# what the run paid, `accuracy` 1 for a right answer and −1 for a wrong one, `parallel` 1 only for right answers with a block,
# `sum` these two together. `change` is from the first third of the steps to the last; `r` is how far a reward goes along
# with right answers:

# %%
pd.DataFrame(
    {
        name: {"mean": scores.mean, "change": scores.change.mean, "r": scores.correlation}
        for name, scores in found.rewards.items()
    }
).T.round(2)

# %% [markdown]
# And the responses themselves. At the first step, and at the last:

# %%
prl.show(hacked.folder, step=1, limit=1)

# %%
prl.show(hacked.folder, step="last", limit=1)

# %% [markdown]
# ## 3. What would have helped
#
# - **Pay for what is meant.** `gated_efficiency` pays what side by side saves, and only where the answer is right. A sum of two rewards
#   (`accuracy` plus a little `brief`) does not do the same: where all responses of a group are wrong, or all right, only
#   brevity tells them apart, and division by the group's standard deviation makes a full advantage of it, however small its
#   weight.
# - **Watch another figure than the reward.** Accuracy on held-out problems, the parallel ratio, the length, dead groups.
# - **Read responses**, early ones and late ones.
#
# ## 4. Fool them yourself
#
# Rewards of published code have been fooled by less than training. Two naive ones, and what prl pays:


# %%
def naive_format(text):
    """Tags are there, and as many are closed as opened: what many format rewards check."""
    return float("<Parallel>" in text and all(text.count(f"<{tag}>") == text.count(f"</{tag}>")
                                              for tag in ("Parallel", "Path", "Summary")))


def naive_accuracy(text, answer):
    """The answer stands somewhere in the last line."""
    return float(bool(re.search(answer, text.splitlines()[-1])))


attempts = {
    "honest": "<Parallel><Path>6*7=42</Path><Path>7*6=42</Path></Parallel><Summary>42</Summary>\nFinal Answer: 42",
    "tags in any order": "</Path></Summary><Parallel><Path></Parallel><Summary>\nFinal Answer: 42",
    "empty paths": "<Parallel><Path></Path><Path></Path></Parallel><Summary></Summary>\nFinal Answer: 42",
    "all numbers": "Final Answer: 40 41 42 43 44",
    "a longer number": "Final Answer: 1420",
    "as a fraction": "Final Answer: \\frac{84}{2}",
}
pd.DataFrame(
    {
        name: {
            "naive format": naive_format(text),
            "format_reward": format_reward([text])[0],
            "naive accuracy": naive_accuracy(text, "42"),
            "accuracy_reward": accuracy_reward([text], answer=["42"])[0],
        }
        for name, text in attempts.items()
    }
).T

# %% [markdown]
# Add a row of your own. If one fools prl's rewards, its developers would like to see it.

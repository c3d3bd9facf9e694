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
# # 2. The cold start
#
# A model that has never seen a block will not begin to write them by itself. So the format comes first, by imitation:
# *supervised fine-tuning* (SFT) on traces that show it. You will
#
# 1. look at the traces, and at which of their tokens are learned;
# 2. ask the base model;
# 3. train, and watch the format come;
# 4. measure what it brought, on problems that no training has seen.
#
# **Time**: 5 minutes on two cores; half a minute with `QUICK = True`, which trains for a few steps only.

# %%
import os
from pathlib import Path

import pandas as pd
from IPython.display import HTML

import prl
from prl import evaluation, runs, sft
from prl.config import resolve
from prl.course import checkpoint
from prl.data.hub import load_rows
from prl.grammar import parse
from prl.report.curves import plot_evaluations, plot_run
from prl.report.lanes import trace_html

# %matplotlib inline
QUICK = bool(os.environ.get("PRL_QUICK"))  # True: only to see that it runs
RUNS = Path("runs/course/cold-start")  # every stage writes a folder here

# %% [markdown]
# ## 1. Traces to learn from
#
# Where do traces come from, if no model writes them yet? The authors of Parallel-R1 had a large model write them, for
# easy problems, and kept what passed a check (`prl data traces` does that with a teacher of yours). Our problems come from
# a generator, and so do the traces: products, each computed in four ways.

# %%
traces = load_rows("search:products-coldstart", need=("problem", "trace"), limit=500)
slipped = next(row for row in traces if row["context_paths"])
print(slipped["problem"], "The answer is", slipped["answer"])
HTML(trace_html(parse(slipped["trace"]), slipped["context_paths"]))

# %% [markdown]
# Some paths go wrong, on purpose: a summary that has never seen paths disagree cannot learn to decide. But who imitates
# slips learns to slip. So what is marked *context* above is read and not learned: such a path gets no loss. Neither do
# tokens that the runtime will write by itself. How many of the traces are like that?

# %%
parsed = [parse(row["trace"]) for row in traces]
print(f"{sum(trace.is_valid and trace.uses_parallel for trace in parsed)} of {len(traces)} traces have a valid block")
print(f"{sum(bool(row['context_paths']) for row in traces)} of them hold a path that is context")

# %% [markdown]
# ## 2. The base model
#
# The base multiplies in one line of text, and was never shown a tag. Let us ask it for a problem that is *held out*: no
# training set contains it, neither the base model's nor one of this course. We *sample*: each token is drawn with the
# probability that the model gives it.

# %%
PARALLEL = "tiny-search+products"  # a recipe: what to train on, and every setting with its reason
SEQUENTIAL = "tiny-search+products+in-sequence"  # the same problems, solved in one line of text
problem = load_rows("search:products-heldout", need=("problem", "answer"), limit=1)[0]


def ask(model, recipe=PARALLEL, **given):
    """Traces that a model writes for the problem."""
    settings = resolve("generate", recipe=recipe, model_name_or_path=str(model), problem=problem["problem"], **given)
    return [parse(response.text, truncated=response.truncated) for response in evaluation.respond(settings)]


def count(traces):
    """What has to be seen of many responses at once."""
    print(f"{sum(trace.is_valid for trace in traces)} of {len(traces)} responses are without fault")
    print(f"{sum(trace.uses_parallel for trace in traces)} of {len(traces)} responses have a valid block")


base = ask("tiny-search", SEQUENTIAL, samples=32)
count(base)
print(problem["problem"], "The answer is", problem["answer"])
HTML(trace_html(base[0]))

# %% [markdown]
# That is why nobody begins with reinforcement learning: it makes *more likely* what the model already does now and then,
# and a block that is never sampled is never rewarded.
#
# ## 3. Training
#
# Trained are a LoRA adapter, a small correction to each weight matrix, and the embeddings of the six tags; the base
# weights stay as they are. The loss is on the response alone, since the model is to write solutions and not problems.

# %%
small = {"max_steps": 24, "limit": 420, "per_device_train_batch_size": 16, "eval_steps": 12, "eval_limit": 16}
sizes = small if QUICK else {"max_steps": 280, "eval_steps": 20, "eval_limit": 64}
cold_start = sft.run(
    resolve(
        "sft", recipe=PARALLEL, output_dir=str(RUNS / "sft"), overwrite_output_dir=True, eval_strategy="steps",
        sample_count=32, **sizes,
    )
)

# %%
plot_run(cold_start.folder)

# %% [markdown]
# Left: the loss on the traces it trains on, and on traces that were held out. Right: what the loss does not tell. At
# every evaluation the model writes responses to some of the held-out problems, by sampling. *Valid format* is the share of
# them without any fault, *parallel ratio* the share with at least one valid block. The same problem again, and 32
# samples:

# %%
after = ask(cold_start.folder, samples=32)
count(after)
faults = pd.Series([fault.kind.meaning for trace in after for fault in trace.faults], dtype=str)
faults.value_counts().head(5).to_frame("how often")

# %% [markdown]
# The format comes within a few dozen steps. To *use* it takes longer: paths have to arrive at a result, and the summary
# has to take the right one.
#
# ## 4. What it brought
#
# Is the model better now than the base? Training curves cannot tell, as every step meets other problems. So both answer
# the *same held-out* problems, once greedily (at each step the likeliest token) and several times by sampling. To be
# quick, this takes the model that ships with the course: the cold start above, all of its 280 steps.

# %%
# %%capture
sizes = {"limit": 40, "samples": 2} if QUICK else {"limit": 200, "samples": 4}
results = {
    name: evaluation.run(
        resolve("eval", recipe=recipe, model_name_or_path=model, output_dir=str(RUNS / name),
                overwrite_output_dir=True, **sizes)
    )
    for name, model, recipe in [("base", "tiny-search", SEQUENTIAL), ("cold-start", checkpoint("four-ways"), PARALLEL)]
}

# %%
plot_evaluations({name: result.folder for name, result in results.items()})

# %% [markdown]
# The bars are *95 % intervals*: had other problems of the same kind been drawn, the result would have been another, and
# the bar shows how far it might have moved. More can be had from the fact that both answered the same problems: by how
# much did accuracy change *problem by problem*?

# %%
for mode in ("greedy", "sampled"):
    print(f"{mode}: {evaluation.paired_difference(results['base'].scores[mode], results['cold-start'].scores[mode])}")

# %% [markdown]
# An interval that lies above zero says that these problems show a gain. Where does it come from? The vote is
# what makes the difference: paths are right more often together than alone. Of sampled responses with a block, the share in
# which

# %%
found = results["cold-start"].described["sampled"]
names = {
    "path_accuracy": "a path alone is right",
    "path_majority": "most of its paths are",
    "summary_accuracy": "the summary is",
    "path_oracle": "any of its paths is",
}
pd.Series({told: found[name] for name, told in names.items()}).map("{:.1%}".format).to_frame("share")

# %% [markdown]
# `prl.show` has the whole evaluation, with responses; here one that is wrong although a path was right:

# %%
prl.show(results["cold-start"].folder, right=False, limit=1)

# %% [markdown]
# Is it fair? The base has had no training here. Its fair opponent is a model with as many steps of a cold start *in
# sequence*, on the same problems; and four paths cost four times the tokens, for which one may also ask the base several
# times and take a vote. `prl demo` trains and measures all of that, and notebook 5 asks what parallel thinking is
# worth then.
#
# On the command line, this notebook is
#
# ```sh
# prl sft --recipe tiny-search+products --output_dir runs/mine/sft
# prl eval --recipe tiny-search+products --model runs/mine/sft --output_dir runs/mine/eval
# prl report runs/mine
# ```

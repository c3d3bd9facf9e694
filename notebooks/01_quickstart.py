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
# # Quickstart: a small model learns to think in parallel
#
# A language model usually reasons in one line of text. Here it learns to stop where there are several alternatives,
# to follow each of them in a *path* of its own, and to decide in a *summary* what follows from all of
# them. The method is that of [Parallel-R1](https://arxiv.org/abs/2509.07980); the model is so small that a laptop's
# CPU trains it, and it ships with `prl`. Nothing is downloaded.
#
# 1. A problem, and the kind of trace that the model is to write.
# 2. What the base model answers.
# 3. The **cold start**: supervised fine-tuning on traces, which teaches the *format*.
# 4. **Reinforcement learning**, which rewards right answers.
# 5. An **evaluation** on problems that no training has seen, before and after.
# 6. What paths **save**: the tokens that have to wait for each other, and seconds.
#
# You need `pip install "prl[notebooks]"`.

# %%
import os
from pathlib import Path

import pandas as pd
from IPython.display import HTML

from prl import evaluation, rl, runs, sft
from prl.config import resolve
from prl.data.hub import load_rows
from prl.grammar import parse
from prl.report.curves import plot_evaluations, plot_run
from prl.report.lanes import trace_html, trace_text

# %matplotlib inline

# %% [markdown]
# `QUICK = True` runs every stage for a few steps: enough to see how each of them works, too few for the model to
# become as good as it can. Set it to `False` for the real run, with the sizes of the recipe `tiny-search`; the last
# cell estimates from the quick run how long that takes on your machine.

# %%
QUICK = True

RUNS = Path(os.environ.get("PRL_QUICKSTART_RUNS", "runs/quickstart"))  # every stage writes a folder here

PARALLEL = "tiny-search"  # six numbered paths, which do not see each other
SEQUENTIAL = "tiny-search+in-sequence"  # the same problems, solved in one line of text

SIZES = {
    "sft": {"limit": 800, "max_steps": 40, "per_device_train_batch_size": 16,
            "eval_steps": 20, "eval_limit": 32, "sample_count": 16, "logging_steps": 4},
    "rl": {"limit": 64, "max_steps": 3, "per_device_train_batch_size": 32, "gradient_accumulation_steps": 1},
    "eval": {"limit": 20, "samples": 4},
} if QUICK else {"sft": {"eval_steps": 50, "eval_limit": 64, "sample_count": 32}}


def settings(command, output, recipe=PARALLEL, **given):
    """The settings of `prl COMMAND --recipe tiny-search`, smaller if QUICK."""
    sizes = SIZES.get(command, {})
    folder = str(RUNS / output)
    return resolve(command, recipe=recipe, output_dir=folder, overwrite_output_dir=True, **sizes | given)


# %% [markdown]
# ## 1. A problem and a trace
#
# Which of several sums gives a number? Every answer can be checked, and nothing says which sum to begin with: each
# has to be tried. `load_rows` makes such problems, here together with *traces* that solve them; on these the cold
# start trains.

# %%
examples = load_rows("search:which-coldstart", need=("problem", "trace"), limit=50)
example = examples[0]
print(example["problem"])
print()
print(example["trace"])

# %% [markdown]
# What stands between `<Parallel>` and `</Parallel>` is a *block*. It holds two or more *paths*, and a *summary* follows
# it. The text outside is the *main thread*. `parse` reads a response as a trace; drawn as lanes, the paths of a block
# stand side by side:

# %%
HTML(trace_html(parse(example["trace"])))

# %% [markdown]
# The paths divide the work: path 1 tries the first sum, path 2 the second. With `attention: structured`, as in this
# recipe, no path sees another, and all are written at the same time, one token each a step. How, then, does a path
# know which sum is its own? It is told: the runtime writes a path's number into its first line
# (`path_opening: number`). Where there are fewer sums than paths, the others have nothing to do. (`trace_text` draws
# the same for a terminal.)

# %%
shortest = min(examples, key=lambda row: len(row["problem"]))
print(shortest["problem"])
print(trace_text(parse(shortest["trace"])))

# %% [markdown]
# ## 2. The base model
#
# The base model was trained on the same kind of problems, tried one sum after another, without a tag anywhere. Let us
# ask it for a problem that is *held out*: no training set contains it, neither the base model's nor one of this
# notebook. Decoding is *greedy*: at each step the likeliest token is taken.

# %%
problem = load_rows("search:which-heldout", need=("problem", "answer"), limit=1)[0]


def ask(model, recipe=PARALLEL, **given):
    """Traces that a model (`tiny-search` or a run folder) writes for the problem."""
    asked = resolve("generate", recipe=recipe, model_name_or_path=str(model), problem=problem["problem"], **given)
    return [parse(response.text, truncated=response.truncated) for response in evaluation.respond(asked)]


print(problem["problem"], "The answer is", problem["answer"])
HTML(trace_html(ask("tiny-search", SEQUENTIAL, greedy=True)[0]))

# %% [markdown]
# The six tags exist in its vocabulary, but their embeddings are untrained. Does it ever use them? We *sample* some
# responses (each token is drawn with the probability that the model gives it) and count the valid blocks.

# %%
traces = ask("tiny-search", SEQUENTIAL, samples=32)
print(f"{sum(trace.uses_parallel for trace in traces)} of {len(traces)} responses have a valid block")

# %% [markdown]
# ## 3. The cold start
#
# Why not start with reinforcement learning at once? Because it only makes *more likely* what the model already does
# now and then: it samples responses and strengthens those that were rewarded. A block that is never sampled is never
# rewarded. So the format comes first, by imitation: *supervised fine-tuning* (SFT) on the traces, with the loss on
# the response alone, since the model is to write solutions and not problems.
#
# Trained are a LoRA adapter and the embeddings of the six tags; the base weights stay as they are. While it runs,
# the stage prints what it works on, and a line every few steps.

# %%
cold_start = sft.run(settings("sft", "sft", eval_strategy="steps"))

# %%
plot_run(cold_start.folder)

# %% [markdown]
# Left: the loss on the traces it trains on, and on traces that were held out. Right: what the loss does not tell. At
# every evaluation the model writes, by sampling, responses to some of the held-out problems. *Valid format* is the
# share of them without any fault (a response without a block can be valid, too), *parallel ratio* the share with at
# least one valid block.
#
# The same problem again:

# %%
HTML(trace_html(ask(cold_start.folder, greedy=True)[0]))

# %% [markdown]
# Where a trace breaks a rule of the format, the fault is named below it. Greedy decoding shows the model at its
# surest; sampling shows what else it might write. RL learns from samples, so look at some of these too, and at their
# most frequent faults:

# %%
traces = ask(cold_start.folder, samples=32)
print(f"{sum(trace.is_valid for trace in traces)} of {len(traces)} responses are without fault")
print(f"{sum(trace.uses_parallel for trace in traces)} of {len(traces)} responses have a valid block")
faults = pd.Series([fault.kind.meaning for trace in traces for fault in trace.faults], dtype=str)
faults.value_counts().head(5).to_frame("how often")

# %% [markdown]
# ## 4. Reinforcement learning
#
# Now nobody shows the model what to write. To each problem it samples a *group* of responses, a checker compares
# their final answers with the right one, and each response gets a *reward*: here +1 if its answer is right, −1
# otherwise. What a reward is worth depends on the problem: it is nothing special where every response earns it. So
# the algorithm, GRPO, measures a response by its group. Its *advantage* is
#
# $$\text{advantage} = \frac{\text{reward} - \text{mean reward of the group}}{\text{standard deviation of the group}}$$
#
# A training step makes the tokens of responses with a positive advantage likelier, those with a negative one less
# likely.

# %%
skill = rl.run(settings("rl", "rl", model_name_or_path=str(cold_start.folder)))

# %% [markdown]
# The run keeps every response with its reward and advantage. Here is one group:

# %%
samples = runs.read_samples(skill.folder).to_pandas()
groups = [group for _, group in samples.groupby(["step", "group"])]
alive = [group for group in groups if group["reward_accuracy"].nunique() > 1]
group = (alive or groups)[0]

print(group["problem"].iloc[0], "The answer is", group["answer"].iloc[0])
group[["extracted", "verdict", "reward_accuracy", "advantage", "length", "critical_path"]]

# %% [markdown]
# The formula gives the same advantages (GRPO adds 0.0001 to the standard deviation, so that it never divides by
# zero):

# %%
reward = group["reward_accuracy"]
by_hand = (reward - reward.mean()) / (reward.std() + 1e-4)
print(f"largest difference: {(by_hand - group['advantage']).abs().max():.1e}")

# %% [markdown]
# What if all responses of a group earn the same? Then every reward equals the mean, every advantage is zero, and the
# group teaches nothing. Such a group is *dead*. Problems that are far too hard or far too easy make
# dead groups, and the time to sample them is lost. Where most are dead, a full step would be made of a handful of
# live ones; the recipe takes a shorter one then (`live_rate`).

# %%
print(f"{len(groups) - len(alive)} of {len(groups)} groups were dead")
plot_run(skill.folder)

# %% [markdown]
# ## 5. Before and after
#
# The curves of a training run are no fair comparison: every step meets other problems. So all three models answer
# the *same held-out* problems now, greedily and several times by sampling.

# %%
models = {"base": "tiny-search", "cold-start": cold_start.folder, "rl": skill.folder}
recipes = {"base": SEQUENTIAL}  # it knows no paths
results = {
    name: evaluation.run(settings("eval", f"eval-{name}", recipes.get(name, PARALLEL), model_name_or_path=str(model)))
    for name, model in models.items()
}

# %%
plot_evaluations({name: result.folder for name, result in results.items()})

# %% [markdown]
# The bars are *95 % intervals*: had other problems of the same kind been drawn, the result would have been another,
# and the bar shows how far it might have moved. With few problems the bars are long. To compare two models, more
# can be had from the fact that both answered the same problems: by how much did accuracy change *problem by
# problem*?

# %%
for before, after in [("base", "cold-start"), ("cold-start", "rl")]:
    gain = evaluation.paired_difference(results[before].scores["sampled"], results[after].scores["sampled"])
    verdict = "is above zero" if gain.low > 0 else "is below zero" if gain.high < 0 else "includes zero"
    print(f"{before} to {after}: {gain} in sampled accuracy; the interval {verdict}")

# %% [markdown]
# An interval that includes zero means that these problems show no difference. After so few steps the new format is
# still frail, and a sampled response stumbles over it more often than the base over its line of text; the greedy
# columns show what is there already. With the recipe's sizes it is ahead sampled, too (98.0 against 91.6 % of 400
# problems, README).
#
# ## 6. What paths save
#
# Six paths write more *tokens* than one line of text, which stops at the sum that fits. But a path waits for no other.
# The *critical path* counts only the tokens that had to wait for each other: those of the main thread, the summary,
# and the longest path of each block. Does a clock agree? One response at a time, on one thread:

# %%
TIMED = {"timed": True, "samples": 0, "limit": 12 if QUICK else 100}
timed = {
    name: evaluation.run(
        settings("eval", f"timed-{name}", recipes.get(name, PARALLEL), model_name_or_path=str(models[name]), **TIMED)
    )
    for name in ("base", "rl")
}

# %%
rows = {}
for name, result in timed.items():
    metrics = result.metrics
    seconds = evaluation.read_results(result.folder)["timing"]["greedy"]["median"]
    rows[name] = {
        "accuracy, greedy": f"{metrics['greedy/accuracy'].mean:.0%}",
        "tokens": round(metrics["greedy/tokens"].mean),
        "critical path": round(metrics["greedy/critical_path"].mean),
        "seconds a problem": round(seconds, 3),
    }
pd.DataFrame(rows).T

# %% [markdown]
# Three things to keep in mind, whatever the numbers are:
#
# - The *base* had no training here. A fair opponent has as many steps of a cold start in sequence, on the same
#   problems, and the same RL: `prl demo --recipe tiny-search` trains it beside.
# - *Tokens* are work, also where nobody waits for them: on a machine that is busy with other requests they cost as
#   much as ever. In `prl demo`, four paths *vote* on one product; their opponent is the vote of as many whole
#   responses as have the same number of tokens.
# - One run with one seed is one observation.
#
# ## The real run
#
# What each stage took here, and what it would take with the recipe's sizes if a trace in training, a response in RL
# and a response in the evaluation (one of the three) each took as long as here. That is a rough estimate: loading the
# model counts as well, and responses change in length.

# %%
def texts(command, config):
    """How many traces or responses a stage goes through."""
    if command == "eval":
        return config["limit"] * (config["samples"] + config["greedy"])
    batches = config["max_steps"] * config.get("gradient_accumulation_steps", 1)
    return batches * config["per_device_train_batch_size"]


rows = {}
for command, folder in {"sft": cold_start.folder, "rl": skill.folder, "eval": results["rl"].folder}.items():
    seconds = runs.read_summary(folder)["wall_seconds"]
    recipe = texts(command, resolve(command, recipe=PARALLEL).as_dict()[command])
    factor = recipe / texts(command, runs.read_config(folder)[command])
    rows[command] = {"seconds here": round(seconds), "minutes with the recipe": round(seconds * factor / 60)}
pd.DataFrame(rows).T

# %% [markdown]
# Set `QUICK = False` above and run all cells again; or run the same stages and their sequential opponent on the
# command line, with `prl demo --recipe tiny-search`. Then watch the valid format at the end of the cold start, the
# share of dead groups as RL goes on, and what is left of the difference in seconds.
#
# `prl recipes show tiny-search` prints the recipe, with the reason for every setting. Every stage has left a folder
# under `runs/quickstart`: its settings, its metrics, every sampled response, and the adapter that the next one loads.

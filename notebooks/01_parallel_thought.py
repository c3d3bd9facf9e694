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
# # 1. What is a parallel thought?
#
# A language model usually reasons in one line of text: each token waits for all those before it. The models of this
# course learn to stop where there are several ways to go on, to follow each of them in a *path* of its own, and to
# decide in a *summary* what follows from all of them. The method is that of
# [Parallel-R1](https://arxiv.org/abs/2509.07980). Here you see
#
# 1. what such a response looks like, and which rules it keeps;
# 2. who sees whom in it, and at which position each token stands;
# 3. how it is written: a fork and a join by hand, beside the decoder that does it for you.
#
# **Time**: half a minute of computing. You need `pip install "prl[notebooks]"`; nothing else is downloaded.

# %%
import pandas as pd
import torch
from IPython.display import HTML

import prl
from prl.console import quiet_libraries
from prl.course import check, checkpoint
from prl.data.hub import load_rows
from prl.decoding import ForkJoinDecoder, Limits, Sampling
from prl.grammar import parse
from prl.model import load_model
from prl.prompts import render_prompt
from prl.report.lanes import trace_html
from prl.report.trace_pictures import draw_masks, draw_positions, pieces_of
from prl.structure import Tags, path_window_mask, structural_positions

# %matplotlib inline
quiet_libraries()  # no bars while a model loads

# %% [markdown]
# ## A response with a block
#
# The problems of this course are small enough for a model of a million parameters. `load_rows` makes some of them: a
# product, and a *trace*, a response that solves it in the way that the model is to learn.

# %%
row = load_rows("search:products-coldstart", need=("problem", "trace"), limit=3)[0]
print(row["problem"])
print()
print(row["trace"])

# %% [markdown]
# What stands between `<Parallel>` and `</Parallel>` is a *block*. It holds two or more *paths*, and a *summary* follows
# it. The text outside is the *main thread*. `parse` reads a response as a trace; drawn as lanes, the paths of a block
# stand side by side:

# %%
trace = parse(row["trace"])
HTML(trace_html(trace))

# %% [markdown]
# Four ways lead to one product: each path takes another, and the summary takes the result that most of them have. That
# is one use of paths, a *vote*. (A path of this trace slipped, on purpose: notebook 2 says why.) Another is to *divide* the
# work. Which of several sums gives a number? Nothing says which to try first, so the paths share them, one or two each:

# %%
divided = load_rows("search:which-coldstart-4", need=("problem", "trace"), limit=1)[0]
print(divided["problem"])
HTML(trace_html(parse(divided["trace"])))

# %% [markdown]
# ## The rules
#
# What comes back from `parse` says what was found, and where a rule of the format was broken:
#
# ```text
# response := (text | block)*
# block    := <Parallel> path path+ </Parallel> summary
# path     := <Path> text </Path>
# summary  := <Summary> text </Summary>
# ```

# %%
good = "Two ways. <Parallel><Path>6*7=42</Path><Path>7*6=42</Path></Parallel><Summary>42</Summary> So 42."
broken = {
    "as it should be": good,
    "no summary": good.replace("<Summary>42</Summary>", ""),
    "one path only": good.replace("<Path>7*6=42</Path>", ""),
    "an empty path": good.replace("7*6=42", " "),
    "never closed": good.split("</Parallel>")[0],
    "no block at all": "6*7=42. So 42.",
}
rows = []
for name, text in broken.items():
    read = parse(text)
    faults = "; ".join(fault.kind.meaning for fault in read.faults)
    rows.append({"response": name, "valid": read.is_valid, "uses a block": read.uses_parallel, "faults": faults})
pd.DataFrame(rows).set_index("response")

# %% [markdown]
# A response without a block is valid: nobody has to think in parallel. It does not *use* a valid block, that is all. The
# share of a model's responses that do is called its *parallel ratio*.
#
# ## Who sees whom
#
# To a model a response is a sequence of tokens. In ordinary, *causal* attention each token sees all tokens before it;
# so a path would see the paths that were written before it, and could copy from them. In *structured* attention the
# paths of a block do not see each other, and what follows the block sees them all. A row of the picture is a token
# that looks, a column one that is seen. (The paper calls causal attention "Seen" and structured attention "Unseen".)

# %%
short = "<Parallel>\n<Path>6*7=42</Path>\n<Path>7*6=42</Path>\n</Parallel>\n<Summary>42</Summary>"
draw_masks(pieces_of(short))

# %% [markdown]
# A token's *position* tells the model how far apart two tokens are. Paths that are thought at the same time start at the
# same position, and what follows the block goes on after the longest of them:

# %%
draw_positions(pieces_of(short))

# %% [markdown]
# The highest position, counted from 0, is also how long one has to wait. If the paths are written at the same time, one token each a
# step, the tokens that have to wait for each other are those of the main thread, the longest path, and the summary: the
# *critical path*. All pictures come from two functions, the same that the model computes with in training:

# %%
tags = Tags(parallel=0, end_parallel=1, path=2, end_path=3, summary=4, end_summary=5)
ids = torch.tensor([[9, 0, 2, 9, 3, 2, 9, 9, 3, 1, 4, 9, 5]])  # 9: any other token
print("position ", structural_positions(ids, tags)[0].tolist())
mask = path_window_mask(ids, tags)[0, 0]
print("the second path's <Path> sees", mask[5].nonzero().flatten().tolist())
print("</Parallel> sees             ", mask[9].nonzero().flatten().tolist())

# %% [markdown]
# ## A fork and a join by hand
#
# The course comes with a model that was trained on such traces (how: notebook 2). It reads a problem, and what follows
# is the first token of its response.

# %%
model, tokenizer = load_model(checkpoint("four-ways"))
tags = Tags.of(tokenizer)
problem = load_rows("search:products-heldout", need=("problem", "answer"), limit=1)[0]
prompt = tokenizer(render_prompt(problem["problem"], "bare"))["input_ids"]


@torch.no_grad()
def next_token(tokens):
    """The likeliest token after these, by the model's own forward pass."""
    return model(torch.tensor([tokens])).logits[0, -1].argmax().item()


thread = list(prompt)
while thread[-1] != tags.parallel:
    thread.append(next_token(thread))
print(problem["problem"], "->", repr(tokenizer.decode(thread[len(prompt):])))

# %% [markdown]
# The model opened a block. Now the thread *forks*: each path goes on from here, and sees this thread and itself, nothing
# else. Each begins with a line that holds its number, which nobody has to think of: the runtime writes it (*forced
# tokens*), and it is how a path knows which way is its own.

# %%
def written(path):
    return tokenizer.decode(path).replace("\n", " ")


paths = []
for number in range(1, 5):
    paths.append(tokenizer(f"<Path>\n{number}\n", add_special_tokens=False)["input_ids"])
while open_paths := [path for path in paths if path[-1] != tags.end_path]:
    for path in open_paths:  # side by side: one token each a step
        path.append(next_token(thread + path))
for path in paths:
    print(len(path), written(path))

# %% [markdown]
# Each of the four went its own way, although they all saw the same thread. Then they *join*: `</Parallel>` and `<Summary>`
# are forced too, and what follows sees all four. The mask and the positions of the whole come from the tokens alone, so
# that it is enough to write the paths one after another and to go on.

# %%
joined = thread + [token for path in paths for token in path]
joined += tokenizer("</Parallel>\n<Summary>", add_special_tokens=False)["input_ids"]
while joined[-1] != tokenizer.eos_token_id:
    joined.append(next_token(joined))
by_hand = joined[len(prompt):]
HTML(trace_html(parse(tokenizer.decode(by_hand[:-1]))))

# %% [markdown]
# That took one forward pass of the whole text for every token. The decoder keeps what it has computed, takes all paths
# in one pass, many responses at a time, and comes to the same tokens. It takes fewer steps than there are tokens that wait:
# forced tokens are read together with the next one that is not.

# %%
decoder = ForkJoinDecoder(
    model, tokenizer, limits=Limits(max_new_tokens=400, paths=4), sampling=Sampling(temperature=0)
)
response = decoder.generate([prompt])[0][0]
print("the same tokens:", response.token_ids == by_hand)
print(f"{len(response.token_ids)} tokens, of which {sum(response.forced)} were forced")
print(f"{response.critical_path} of them had to wait for each other: {decoder.steps} steps of decoding")

# %% [markdown]
# `prl.show` draws a trace, or a whole run, in one call:

# %%
prl.show(parse(response.text))

# %% [markdown]
# ## Exercises
#
# Write what the two pictures showed: the position of each token of a trace. The cell says all the rules; `check` tells where
# yours goes wrong.

# %%
# exercise: positions (5 points)
def positions(tokens: list[str]) -> list[int]:
    """The position of each token of a trace, where paths do not see each other.

    positions("so <Parallel> <Path> a b </Path> <Path> c </Path> </Parallel> end".split())
        is [0, 1, 2, 3, 4, 5, 2, 3, 4, 6, 7]

    1. Positions count from 0, one more at each token. Tags are tokens too.
    2. A block runs from "<Parallel>" to the first "</Parallel>". Each "<Path>" in it begins a path, and all
       paths of a block start at the same position: one after what stood before the first of them.
    3. A path goes on until the next "<Path>" or "</Parallel>", whatever stands there; "</Path>" is its own.
    4. "</Parallel>" stands right after the longest path, and counting goes on from it.
    5. A "<Path>" or "</Parallel>" outside a block is a token like any other, as is a "<Parallel>" within one.
    """
    return []  # your code

# %%
right = check(positions)

# %% [markdown]
# And what a summary has to find out where paths vote:

# %%
# exercise: majority (3 points)
def majority(results: list[str | None]) -> str | None:
    """What most paths say; `None` is a path without a result.

    majority(["12", None, "15", "15"]) is "15".

    1. The result that the most paths have wins, also with less than half of them.
    2. Of results that tie, the one that was said first wins.
    3. None never wins. Only where no path has a result, the majority is None.
    """
    return None  # your code

# %%
right = check(majority)

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
# # 6. Your model, your GPU
#
# What the other notebooks did with a model of a million parameters, prl does with Qwen3 on one consumer GPU: the base in
# 4 bits, a LoRA adapter on top (QLoRA). Here you
#
# 1. ask whether it fits, before anything is downloaded;
# 2. run the cold start and reinforcement learning;
# 3. look at the run, and hand the model over: merged, checked, as GGUF for llama.cpp.
#
# **Without a GPU** the same cells run a few steps of the model that ships, in a minute: every command is the same, and what
# they print is not worth reading. **With one**, count on hours: the forecast of the time stands in the first lines of
# a run.
#
# On **Colab** or **Kaggle**, choose a runtime with a GPU, and install first. The versions are those that prl was tested
# with; the notebook server has to be restarted afterwards:

# %%
import os
import shutil
import sys
from pathlib import Path

import prl

if "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
    print(f'run this in a cell of its own, then restart:  %pip install "prl[notebooks,gguf]=={prl.__version__}"')

# %%
import torch

from prl import evaluation, rl, sft
from prl.cli import main as command  # what `prl` runs, by its words; it gives the exit status
from prl.config import resolve
from prl.model import merge_and_verify

HAS_GPU = torch.cuda.is_available()
MODEL = "Qwen/Qwen3-1.7B" if HAS_GPU else "tiny-search"
RUNS = Path("runs/course/yours")
print("GPU" if HAS_GPU else "no GPU: the model that ships, a few steps", "|", MODEL)

# %% [markdown]
# ## 1. Does it fit?
#
# `prl doctor` reads the shape of a model, never its weights, and adds up what each command will hold at its peak. You may
# ask for a card that you do not have yet. A recipe is a file of settings for a size of card: 6, 8, 12, 16 or 24 GB.

# %%
status = command(["doctor", "sft", "rl", "--memory", "8", "--model", "Qwen/Qwen3-1.7B"])

# %% [markdown]
# What does not fit is told with what to change, and `--fit FILE` writes a recipe that does:

# %%
fits = RUNS / "fits.yaml"
fits.parent.mkdir(parents=True, exist_ok=True)
fits.unlink(missing_ok=True)
status = command(["doctor", "rl", "--memory", "6", "--model", "Qwen/Qwen3-4B", "--recipe", "12gb", "--fit", str(fits)])
print(fits.read_text())

# %% [markdown]
# ## 2. Cold start and reinforcement learning
#
# Without a recipe prl takes the one for the memory that is free, and says so; every choice that it makes for you is printed
# once and stored in the run. The cold start learns from traces of grade-school problems (GSM8K), RL goes on with
# more of them (`dataset="math"` and `"dapo"`: competition problems). For data of your own, name a file: `dataset="mine.jsonl"`.

# %%
if HAS_GPU:
    sft_settings = {"model_name_or_path": MODEL}
    rl_settings = {}
    eval_settings = {"dataset": "gsm8k", "limit": 200}
else:
    tiny = {"recipe": "tiny-search+products"}
    sft_settings = tiny | {"max_steps": 12, "limit": 220, "per_device_train_batch_size": 16}
    rl_settings = tiny | {"max_steps": 2, "limit": 16, "per_device_train_batch_size": 16,
                          "gradient_accumulation_steps": 1}
    eval_settings = tiny | {"limit": 8, "samples": 2}

cold_start = sft.run(resolve("sft", output_dir=str(RUNS / "sft"), overwrite_output_dir=True, **sft_settings))

# %%
skill = rl.run(
    resolve("rl", model_name_or_path=str(cold_start.folder), output_dir=str(RUNS / "rl"),
            overwrite_output_dir=True, **rl_settings)
)

# %% [markdown]
# A notebook server may be taken away at any time. A run that was cut off goes on where it was, to the bit, with
# `resume=True` in the place of `overwrite_output_dir=True`; on Colab let `RUNS` be a folder of your drive.
#
# ## 3. Look, measure, hand over

# %%
prl.show(skill.folder, step="last", limit=1)

# %%
result = evaluation.run(
    resolve("eval", model_name_or_path=str(skill.folder), output_dir=str(RUNS / "eval"),
            overwrite_output_dir=True, **eval_settings)
)
{name: str(found) for name, found in result.metrics.items() if name.endswith("accuracy")}

# %% [markdown]
# To other programs the model goes merged: the adapter is added to the base, and what is written is proved to compute the
# same, before it is handed over.

# %%
shutil.rmtree(RUNS / "merged", ignore_errors=True)  # of an earlier run of this cell
difference = merge_and_verify(str(skill.folder), RUNS / "merged", on_proof=print)

# %% [markdown]
# `prl merge RUN --output_dir merged --gguf_type q8_0` writes it for llama.cpp too. Other engines write the paths of a block
# one after another; side by side they are written by prl's own decoder (`prl generate`, `ForkJoinDecoder`).
#
# The whole of it on the command line, on a machine with a GPU:
#
# ```sh
# prl doctor
# prl sft --output_dir runs/mine/sft
# prl rl --output_dir runs/mine/rl --model runs/mine/sft
# prl eval --output_dir runs/mine/eval --model runs/mine/rl
# prl report runs/mine
# ```

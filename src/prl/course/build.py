"""Build the course's checkpoint: `python -m prl.course.build` (6 minutes of CPU on one thread).

The cold start of `tiny-search+products` at LoRA rank 16, so that it is small, and its weights rounded to
bfloat16, which is what ships. Everything else of the folder is what the run wrote.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from prl import sft
from prl.config import resolve
from prl.course.homework import checkpoint
from prl.runs import WEIGHTS

KEPT = ("adapter_config.json", "prl.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = resolve(
            "sft",
            recipe="tiny-search+products",
            lora_r=16,
            lora_alpha=16,
            max_steps=280,
            seed=0,
            output_dir=folder,
            overwrite_output_dir=True,
        )
        keep(sft.run(settings).folder / "adapter", checkpoint())


def keep(adapter: Path, folder: Path) -> None:
    """Copy an adapter, its weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(adapter / name, folder / name)
    weights = load_file(adapter / WEIGHTS)
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}, folder / WEIGHTS)


if __name__ == "__main__":
    main()

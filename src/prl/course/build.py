"""Build the course's checkpoints: `python -m prl.course.build [NAME …]` (3 minutes of CPU each, one thread).

Each is a cold start of 280 steps with its recipe (`prl.course.checkpoints`) and seed 0, its weights rounded
to bfloat16, which is what ships.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from prl import sft
from prl.config import resolve
from prl.course.checkpoints import SETTINGS, STEPS, shipped
from prl.runs import WEIGHTS

KEPT = ("adapter_config.json", "prl.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def main(names: Sequence[str]) -> None:
    for name in names or SETTINGS:
        target = shipped(name)
        with tempfile.TemporaryDirectory() as folder:
            settings = resolve(
                "sft",
                max_steps=STEPS,
                seed=0,
                output_dir=folder,
                overwrite_output_dir=True,
                **SETTINGS[name],
            )
            keep(sft.run(settings).folder / "adapter", target)


def keep(adapter: Path, folder: Path) -> None:
    """Copy an adapter, its weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(adapter / name, folder / name)
    weights = load_file(adapter / WEIGHTS)
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}, folder / WEIGHTS)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Models that the course ships: adapters for `tiny-search` on products, after 280 steps of a cold start each.

four-ways     four numbered paths to each product, which vote
in-sequence   as many steps on the same problems in one line: what four ways have to beat
mixed         half of its traces like the one, half like the other: where RL has something to find out

    checkpoint("mixed")      a copy in runs/course/models, which goes wherever a model does
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from prl.errors import UsageError, nearest

SETTINGS: dict[str, dict[str, str]] = {
    "four-ways": {"recipe": "tiny-search+products"},
    "in-sequence": {"recipe": "tiny-search+products+in-sequence"},
    "mixed": {"recipe": "tiny-search+products", "dataset_split": "mixed"},
}
"""Name -> the settings of its cold start; `prl.course.build` makes them again."""

STEPS = 280


def shipped(name: str) -> Path:
    """The folder in the package that holds a checkpoint. UsageError for a name that none has."""
    if name not in SETTINGS:
        raise UsageError(f"no checkpoint {name!r}{nearest(name, SETTINGS)}; there is {', '.join(SETTINGS)}")
    return Path(__file__).parent / "checkpoints" / name


def checkpoint(name: str, folder: str | os.PathLike[str] = "runs/course/models") -> str:
    """Copy a checkpoint into `folder`, where it can be looked at, and return its path there, for
    `load_model` and `--model`. UsageError for a name that none has."""
    copy = Path(folder) / name
    shutil.copytree(shipped(name), copy, dirs_exist_ok=True)
    return str(copy)

"""Where a run comes from, for environment.json: versions, commit, machine, command line, secrets masked."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prl import __version__

LIBRARIES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "bitsandbytes",
    "latex2sympy2",
    "numpy",
    "pyarrow",
)
"""Distributions whose versions environment.json records."""

_SECRET = re.compile(r"(hub[_-]token|api[_-]?key|secret|password)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"\b(hf_|wandb_v1_|sk-)[\w-]{16,}")


def describe_environment() -> dict[str, Any]:
    """Versions, machine, process and command line, secrets masked; nothing from the environment variables."""
    torch = sys.modules.get("torch")
    cuda = torch.cuda if torch and torch.cuda.is_available() else None
    return {
        "prl": __version__,
        "git_commit": _git_commit(Path(__file__).parents[3]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "pid": os.getpid(),
        "cpu_count": os.cpu_count(),
        "gpus": [cuda.get_device_name(index) for index in range(cuda.device_count())] if cuda else [],
        "versions": {library: _version(library) for library in LIBRARIES},
        "argv": _mask_arguments(sys.argv),
    }


def without_secrets(value: Any) -> Any:
    """`value`, in lists and dictionaries too, with what is or looks like a secret as ***."""
    if isinstance(value, dict):
        return {
            key: "***" if _SECRET.search(key) and item else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return _SECRET_VALUE.sub("***", value) if isinstance(value, str) else value


def _mask_arguments(arguments: Sequence[str]) -> list[str]:
    masked: list[str] = []
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        after_name = bool(masked) and masked[-1].startswith("--") and bool(_SECRET.search(masked[-1]))
        if equals and _SECRET.search(name):
            masked.append(f"{name}=***")
        else:
            masked.append("***" if after_name else _SECRET_VALUE.sub("***", argument))
    return masked


# Asked once: what runs is what was loaded, whatever becomes of the files.


@functools.cache
def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _git_commit(root: Path) -> str | None:
    """The commit of a source checkout, with "-dirty" when files differ; None for an installed package."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return said.strip() or None

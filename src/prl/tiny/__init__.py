"""The models that ship: Qwen3 in miniature, weights and tokenizer in a folder each, and their builder.

tiny          0.85 M parameters, adds and subtracts (`arithmetic:`), in `base/`
tiny-search   0.85 M parameters, tries alternatives and multiplies (`search:`), in `search/`
"""

from __future__ import annotations

from pathlib import Path

NAME = "tiny"
FOLDERS = {NAME: Path(__file__).parent / "base", "tiny-search": Path(__file__).parent / "search"}
BASE = FOLDERS[NAME]


def resolve(name: str | Path) -> str:
    """The folder of an embedded model for its name; any other name as it is."""
    return str(FOLDERS.get(str(name), name))

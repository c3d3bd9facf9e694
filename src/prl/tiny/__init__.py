"""The models that ship: Qwen3 in miniature, weights and tokenizer in a folder each, and their builder.

tiny          0.85 M parameters, adds and subtracts (`arithmetic:`), in `base/`
tiny-search   0.85 M parameters, tries alternatives and multiplies (`search:`), in `search/`
"""

from __future__ import annotations

from pathlib import Path

from prl.runs import SHIPPED

NAME = "tiny"
FOLDERS = {
    name: Path(__file__).parent / place for name, place in zip(SHIPPED, ("base", "search"), strict=True)
}
BASE = FOLDERS[NAME]


def resolve(name: str | Path) -> str:
    """The folder of an embedded model for its name; any other name, and any path, as it is."""
    return str(FOLDERS[str(name)] if name in FOLDERS else name)

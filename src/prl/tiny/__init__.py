"""The embedded default: a Qwen3 in miniature (0.85 M parameters, weights and tokenizer in `base/`) and its
builder."""

from __future__ import annotations

from pathlib import Path

NAME = "tiny"
BASE = Path(__file__).parent / "base"


def resolve(name: str | Path) -> str:
    """The folder of the embedded model for the name `tiny`; any other name as it is."""
    return str(BASE if str(name) == NAME else name)

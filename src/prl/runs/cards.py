"""Cards: README.md files that prl writes into what it hands over, and how to tell them from a person's.

A card of prl ends with a comment that holds a checksum of the rest, so it is known again as long as nobody
changed it. Such a one is replaced by the next; a README.md that a person wrote or changed stays, and the card
goes beside it. What data, settings and models say is put into code spans and fences, so that none of it is
read as Markdown or YAML.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from prl.runs.disk import write_atomic

CARD, BESIDE = "README.md", "README.prl.md"
"""A card's file, and the one that it goes to where the first is a person's."""

_SEAL = "<!-- prl wrote this file and may replace it, unless it is changed: {} -->"
_SEALED = re.compile(r"(.*)\n" + re.escape(_SEAL).replace(r"\{\}", "([0-9a-f]{16})") + r"\n?", re.DOTALL)
_TEMPLATES = ("23243fde863c37bd", "c8f80ec3ccf3e129", "2bb3adc00df3c6f6")
"""Checksums of the cards that peft 0.21 and trl 1.16 (SFT, GRPO) left in runs older than prl's own."""
_FILLED_IN = re.compile(
    r"- (PEFT|(TRL|Transformers|Pytorch|Datasets|Tokenizers):) [\w.+]+|base_model: .*|- base_model:adapter:.*"
    r"|- (lora|transformers|generated_from_trainer|sft|grpo|trl)"
)
"""Lines of theirs that differ from run to run."""

log = logging.getLogger(__name__)


def write_card(folder: Path, text: str) -> Path:
    """Write the card `text` into `folder`, and say so where it cannot be its README.md. Raises RunError."""
    path = folder / CARD
    if path.exists() and not is_own(path):
        path = folder / BESIDE
        log.warning("%s is not as prl wrote it, so it stays; the card is in %s", folder / CARD, path)
    body = text.strip("\n") + "\n"
    write_atomic(path, f"{body}\n{_SEAL.format(_digest(body))}\n".encode())
    return path


def read_own(folder: Path) -> str | None:
    """The card in `folder` as it was given to `write_card`; None where there is none, or a changed one."""
    for name in (CARD, BESIDE):
        with contextlib.suppress(OSError, ValueError):
            sealed = _SEALED.fullmatch((folder / name).read_text(encoding="utf-8"))
            if sealed and _digest(sealed[1]) == sealed[2]:
                return sealed[1].rstrip("\n") + "\n"
    return None


def is_own(path: Path) -> bool:
    """Whether a file is a card that prl, or a library in its name, wrote and nobody changed."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    if sealed := _SEALED.fullmatch(text):
        return _digest(sealed[1]) == sealed[2]
    return _digest(_template(text)) in _TEMPLATES


def _template(text: str) -> str:
    """A card of PEFT or TRL without what they filled in; all that a person wrote stays."""
    named = re.search("^model_name: (.+)$", text, re.MULTILINE)
    name = named[1] if named else "Model ID"
    call = 'generator = pipeline("text-generation", model="{}", device_map="auto")'
    own = {"", f"model_name: {name}", f"# Model Card for {name}", call.format(name), call.format(None)}
    lines = [line.rstrip() for line in text.splitlines()]
    return "\n".join(line for line in lines if line not in own and not _FILLED_IN.fullmatch(line))


def _digest(text: str) -> str:
    """Of the text, however its lines end."""
    return hashlib.sha256("\n".join(text.rstrip("\n").splitlines()).encode()).hexdigest()[:16]


def public_name(name: str) -> str:
    """`name` as others may read it: of what is a path on this machine, the last part.

    >>> public_name("/home/me/p.jsonl"), public_name("../p.jsonl"), public_name("owner/name")
    ('p.jsonl', 'p.jsonl', 'owner/name')
    """
    path = Path(name)
    is_path = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or "\\" in name
    return path.name if is_path or path.exists() else name


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; cells are Markdown already, but for bars."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def code(text: object) -> str:
    """A code span that shows `text` in one line, whatever is in it."""
    line = " ".join(str(text).split()) or " "
    ticks = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    pad = " " if "`" in (line[0], line[-1]) else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def fence(text: str) -> str:
    """A code block that shows `text`, whatever is in it."""
    ticks = "`" * max(3, max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{ticks}text\n{text}\n{ticks}"

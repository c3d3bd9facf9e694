"""The data of a page in pieces that are named by what is in them, so that a page that follows its runs asks
its server for those alone that it has not.

A long list of lists or objects is cut into slices of so many, from its beginning: one that grows at its end
keeps all pieces but the last. A large value is a piece too, and a piece may name others. `{"§": name}` stands
for the value of a piece, `{"§": [name, …]}` for the list that several make together; no data of a page have
that key.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

SLICE = 64
"""Elements of a list that are one piece, where it has more."""

LARGE = 1000
"""Characters of JSON from which on a value is a piece of its own."""


def split(value: Any) -> tuple[str, dict[str, Any]]:
    """The name of the piece that is `value`, and all pieces that it takes, by their names."""
    pieces: dict[str, Any] = {}
    return _kept(_cut(value, pieces), pieces), pieces


def _cut(value: Any, pieces: dict[str, Any]) -> Any:
    if isinstance(value, list | tuple):
        parts = [_cut(part, pieces) for part in value]
        if len(parts) <= SLICE or not isinstance(parts[-1], list | dict):
            return parts
        slices = (parts[start : start + SLICE] for start in range(0, len(parts), SLICE))
        return {"§": [_kept(each, pieces) for each in slices]}
    found = {name: _cut(part, pieces) for name, part in value.items()} if isinstance(value, dict) else value
    if isinstance(found, dict | str) and len(_text(found)) > LARGE:
        return {"§": _kept(found, pieces)}
    return found


def _kept(value: Any, pieces: dict[str, Any]) -> str:
    name = hashlib.sha256(_text(value).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    pieces[name] = value
    return name


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)

"""Docstrings as Markdown: what griffe reads for the reference of the site.

Their prose is Markdown already. A doctest becomes a block of code, and a tag that stands outside code
(`<Path>`) is shown and not taken for HTML.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

_DOCTEST = re.compile(r"^( *)>>> .*\n?(?:^\1(?! *$).*\n?)*", re.MULTILINE)
_CODE = re.compile(r"(^ {4}.*$|^(`{3,})[^\n]*\n.*?^\2$|(`+)(?!`).+?(?<!`)\3(?!`))", re.MULTILINE | re.DOTALL)


class Docstrings(Extension):
    """Changes each docstring where it is read."""

    def on_instance(self, *, obj: Any, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """A docstring with doctests in fences and no HTML outside code."""
    fenced = _DOCTEST.sub(_fenced, docstring)
    kept: list[str] = []

    def put_away(found: re.Match[str]) -> str:
        kept.append(found[0])
        return f"\0{len(kept) - 1}\0"

    text = re.sub(r"<(?=[/\w])", "&lt;", _CODE.sub(put_away, fenced))
    return re.sub("\0(\\d+)\0", lambda found: kept[int(found[1])], text)


def _fenced(found: re.Match[str]) -> str:
    """The examples without the indent that set them off, which would make the fence code."""
    indent = len(found[1])
    lines = "\n".join(line[indent:] for line in found[0].rstrip().splitlines())
    return f"```pycon\n{lines}\n```\n"

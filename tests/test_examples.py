"""Every `>>>` example in a docstring of the package gives what it says."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

import prl

PACKAGE = Path(prl.__file__).parent
EXAMPLE = re.compile(r"^\s*>>> ", re.MULTILINE)
LIBRARIES = {"numpy", "rich", "torch", "transformers"}
"""What the pure modules do without, and the tests of these on other Pythons."""

PURE = {
    "prl.analysis.decisions",
    "prl.curriculum",
    "prl.grammar",
    "prl.prompts",
    "prl.rewards.outcomes",
}

SOURCES = {
    ".".join(["prl", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): text
    for path in sorted(PACKAGE.rglob("*.py"))
    if EXAMPLE.search(text := path.read_text(encoding="utf-8"))
}
"""Modules that have examples -> what is written there."""


@pytest.mark.parametrize("module", SOURCES)
def test_examples_give_what_they_say(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if module in PURE or missing.name not in LIBRARIES:
            raise
        pytest.skip(f"needs {missing.name}")
    found = doctest.testmod(imported)
    assert found.failed == 0, capsys.readouterr().out
    assert found.attempted == len(EXAMPLE.findall(SOURCES[module])), "doctest looks at docstrings only"


def test_the_pure_modules_have_examples() -> None:
    assert SOURCES.keys() >= PURE

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
NEEDS = re.compile(r"^(?:import|from) (numpy|rich|torch|transformers)\b", re.MULTILINE)
"""What the pure modules do without, and the tests of these on other Pythons."""

SOURCES = {
    ".".join(["prl", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): text
    for path in sorted(PACKAGE.rglob("*.py"))
    if EXAMPLE.search(text := path.read_text(encoding="utf-8"))
}
"""Modules that have examples -> what is written there."""


def needs(module: str) -> set[str]:
    """Which of the libraries of NEEDS `module` asks for, itself or by a package that it lies in."""
    parts = module.split(".")
    packages = [PACKAGE.parent.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts))]
    texts = [SOURCES[module], *(package.read_text(encoding="utf-8") for package in packages)]
    return {library for text in texts for library in NEEDS.findall(text)}


@pytest.mark.parametrize("module", SOURCES)
def test_examples_give_what_they_say(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    for library in sorted(needs(module)):
        pytest.importorskip(library)
    found = doctest.testmod(importlib.import_module(module))
    assert found.failed == 0, capsys.readouterr().out
    assert found.attempted == len(EXAMPLE.findall(SOURCES[module])), "doctest looks at docstrings only"


def test_the_pure_modules_have_examples() -> None:
    assert {
        "prl.analysis.decisions",
        "prl.curriculum",
        "prl.grammar",
        "prl.prompts",
        "prl.rewards.outcomes",
    } <= SOURCES.keys()

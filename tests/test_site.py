"""The site: built strictly, whole, and asking nothing of any network. `make docs` installs what it needs."""

from __future__ import annotations

import html
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from prl import cli, recipes

ROOT = Path(__file__).parents[1]

if importlib.util.find_spec("mkdocstrings") is None:
    pytest.skip("`make docs` installs mkdocs", allow_module_level=True)


def of_docs(name: str) -> ModuleType:
    """A module beside the pages, which mkdocs loads by its path."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks, docstrings = of_docs("hooks"), of_docs("docstrings")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def said(page: Path) -> str:
    """The text of a page, without its markup."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_nothing_is_asked_of_a_network(site: Path) -> None:
    """Scripts, styles, fonts and pictures are of the site; links to elsewhere are for readers."""
    loads = re.compile(r'<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)="?((?:https?:)?//[^" >]+)')
    asked = {
        (page.name, url)
        for page in site.rglob("*.html")
        for url in loads.findall(page.read_text(encoding="utf-8"))
    }
    asked |= {
        (style.name, url)
        for style in site.rglob("*.css")
        for url in re.findall(r"url\((https?://[^)]+)\)", style.read_text(encoding="utf-8"))
    }
    assert asked == set()


def test_each_command_is_there_with_its_help(site: Path) -> None:
    for name in cli.SUMMARIES:
        page = said(site / "commands" / f"{name.partition(' ')[0]}.html")
        for line in hooks.printed(*name.split(), "--help").splitlines():
            assert line.strip() in page, name


def test_each_recipe_is_there(site: Path) -> None:
    page = said(site / "recipes.html")
    for name in (*recipes.NAMES, *recipes.OVERLAYS):
        last = recipes.locate(name).read_text(encoding="utf-8").rstrip().splitlines()[-1]
        assert last in page, name


@pytest.mark.parametrize("module", hooks.MODULES.split())
def test_each_public_name_is_there(site: Path, module: str) -> None:
    page = (site / "modules" / f"{module}.html").read_text(encoding="utf-8")
    names = hooks.public_names(module)
    assert names or page.count('class="doc doc-heading"') > 0
    told = {name for name in names if re.search(rf'id="prl\.[\w.]*\b{name}"', page)}
    assert [name for name in names if name not in told and not name.isupper()] == []  # constants: in prose


def test_pictures_are_of_the_trace_and_tags_are_not_swallowed(site: Path) -> None:
    for name in ("mask", "positions"):
        assert (site / "figures" / f"{name}.svg").read_text(encoding="utf-8").startswith("<?xml")
    method = (site / "method.html").read_text(encoding="utf-8")
    assert "figures/mask.svg" in method
    assert "<b>Path 2</b>" in method
    swallowed = re.compile(r"<(?:Parallel|Path|Summary)>")
    assert [page.name for page in site.rglob("*.html") if swallowed.search(page.read_text("utf-8"))] == []


def changed(markdown: str, here: str = "faq.md") -> str:
    page = SimpleNamespace(file=SimpleNamespace(src_uri=here))
    files = [SimpleNamespace(src_uri=name) for name in ("faq.md", "how-to/data.md", "figures/mask.svg")]
    return str(hooks.on_page_markdown(markdown, page, None, files))


@pytest.mark.parametrize(
    ("markdown", "here", "expected"),
    [
        ("[a](../README.md#memory)", "faq.md", "[a](readme.md#memory)"),
        ("[a](../../README.md)", "how-to/data.md", "[a](../readme.md)"),
        ("[a](docs/faq.md#x)", "readme.md", "[a](faq.md#x)"),
        ("[a](how-to/data.md)", "faq.md", "[a](how-to/data.md)"),
        ("![a](figures/mask.svg)", "faq.md", "![a](figures/mask.svg)"),
        ("[the suite](../tests/test_rl.py)", "faq.md", "the suite"),
        ("[a](https://a.b/c.md) [b](#c)", "faq.md", "[a](https://a.b/c.md) [b](#c)"),
        ("`[a](gone.md)`", "faq.md", "`[a](gone.md)`"),
        ("```sh\n[a](gone.md) `prl.rewards`\n```", "faq.md", "```sh\n[a](gone.md) `prl.rewards`\n```"),
        ("`prl.rewards`", "how-to/data.md", "[`prl.rewards`](../modules/prl.rewards.md)"),
    ],
)
def test_links_are_those_of_the_site(markdown: str, here: str, expected: str) -> None:
    assert changed(markdown, here) == expected


def test_a_name_is_linked_where_the_reference_has_it() -> None:
    assert changed("`prl.rl.run` and `prl rl`") == (
        '<autoref identifier="prl.rl.run" optional>`prl.rl.run`</autoref> and `prl rl`'
    )


@pytest.mark.parametrize("target", ["gone.md", "../gone.py", "../../elsewhere.md"])
def test_a_link_to_what_is_not_there_stops_the_build(target: str) -> None:
    with pytest.raises(hooks.PluginError, match=f"docs/faq.md: {re.escape(target)} is no file"):
        changed(f"[a]({target})")


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Of <Path> and `<Path>`.", "Of &lt;Path> and `<Path>`."),
        ("a < b, 1 <2", "a < b, 1 &lt;2"),
        ("One:\n\n    <Path>", "One:\n\n    <Path>"),
        ("One.\n\n    >>> 1 + 1\n    2\n", "One.\n\n```pycon\n>>> 1 + 1\n2\n```\n"),
        (">>> [1, '<b>']\n[1, '<b>']", "```pycon\n>>> [1, '<b>']\n[1, '<b>']\n```\n"),
    ],
)
def test_docstrings_are_shown_as_they_are(docstring: str, expected: str) -> None:
    assert docstrings.as_markdown(docstring) == expected


def test_what_a_command_prints_leaves_the_surroundings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "55")
    helped: Any = hooks.printed("recipes", "--help")
    assert helped.startswith("usage: prl recipes")
    assert os.environ["COLUMNS"] == "55"
    with pytest.raises(hooks.PluginError, match="ended with status 2"):
        hooks.printed("recipes", "show", "gone")

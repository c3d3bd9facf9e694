"""Links of the pages lead somewhere, and the files that they name are there; no network is asked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from prl import __version__

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
MADE = re.compile(r"docs/(commands/|modules/|figures/|recipes\.md)")
"""What docs/hooks.py makes: `make docs` checks links to it."""

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_FILE = re.compile(r"(?<![\w/.{-])(?:tests|benchmarks|notebooks|src|docs|\.github)/[\w./-]*\w")


def prose(page: Path) -> str:
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Those of the headings, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files_and_headings(name: str) -> None:
    page, gone = ROOT / name, []
    for target in _LINK.findall(prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        at = (page.parent / path).resolve() if path else page
        if not MADE.match(at.relative_to(ROOT).as_posix()) and (
            not at.exists() or (anchor and anchor not in anchors(at))
        ):
            gone.append(target)
    assert gone == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])
def test_files_that_are_named_are_there(name: str) -> None:
    """CHANGELOG.md may name what has gone since."""
    page = ROOT / name
    named = {*_FILE.findall(_LINK.sub("", page.read_text(encoding="utf-8")))} - {"docs/benchmarks/FILE.json"}
    assert [file for file in named if not ((ROOT / file).exists() or (page.parent / file).exists())] == []


def test_the_citation_has_what_its_schema_asks_for() -> None:
    """Of CFF 1.2.0: the required keys, and an entity for an author; no keys but those of the schema."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= {*cited}
    assert {*cited} <= {
        *("cff-version", "message", "title", "authors", "type", "abstract", "version", "license", "keywords"),
        *("date-released", "doi", "repository-code", "url", "references", "preferred-citation"),
    }
    assert (cited["cff-version"], cited["type"]) == ("1.2.0", "software")
    assert cited["authors"] == [{"name": "The prl developers"}]
    assert cited["version"] == __version__


@pytest.mark.parametrize("form", ["bug", "question"])
def test_issue_forms_are_ones(form: str) -> None:
    """What GitHub asks of a form: a name, a description, fields with ids of their own and labels."""
    read = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{form}.yml").read_text(encoding="utf-8"))
    assert read["name"]
    assert read["description"]
    fields = [field for field in read["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in fields} <= {"textarea", "input", "dropdown", "checkboxes"}
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields) >= 2
    assert any(field.get("validations", {}).get("required") for field in fields)

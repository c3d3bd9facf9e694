"""What the site has beside docs/*.md, made while it is built (`make docs`) and committed nowhere.

    commands/     of each command what `prl … --help` prints
    modules/      the public names of the rooms, read from the source by mkdocstrings
    recipes.md    `prl recipes`, and each recipe as it is
    figures/      the trace of docs/method.md, drawn by prl
    readme.md …   pages of the repository that lie outside docs/

Links point to files of the repository, so that they hold there too, or to what is made here. Each becomes one
to the page that is made of the file, or, where none is, plain text; a file that is not there stops the build.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from prl import cli, recipes
from prl.grammar import parse

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"

ELSEWHERE = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "src/prl/answers/DECISIONS.md": "decisions.md",
}
"""Pages of the repository that lie outside docs/ -> of the site."""

MODULES = (
    "prl prl.grammar prl.prompts prl.turns prl.answers prl.rewards prl.curriculum prl.statistics prl.analysis"
    " prl.analysis.metrics prl.analysis.budgets prl.analysis.equal_budgets prl.structure prl.decoding"
    " prl.model prl.config prl.sft prl.rl prl.evaluation prl.trainer.staging prl.trainer.rollouts prl.runs"
    " prl.harness prl.report.frontiers prl.report.trace_pictures prl.study.comparison prl.errors"
)
"""What the reference tells of."""

WIDTH = "92"
"""Columns of a help text."""

# --- What is made


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made, and their places in the navigation."""
    made = dict(_made())
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    for kind in ("Commands", "Modules"):
        pages = [path for path in made if path.startswith(f"{kind.lower()}/")]
        _fill(config.nav, kind, [{_title(made[path]): path} for path in pages])
    return files


def _made() -> Iterator[tuple[str, str | bytes]]:
    for name, page in ELSEWHERE.items():
        yield page, (ROOT / name).read_text(encoding="utf-8")
    yield from command_pages()
    for module in MODULES.split():
        yield f"modules/{module}.md", module_page(module)
    yield "recipes.md", recipe_page()
    yield from figures()


def _fill(nav: list[dict[str, Any]], kind: str, pages: list[dict[str, str]]) -> None:
    (entry,) = [entry for entry in nav if kind in entry]
    entry[kind] = pages


def _title(text: str | bytes) -> str:
    return str(text).partition("\n")[0].removeprefix("# ").replace("`", "")


def printed(*words: str) -> str:
    """What `prl WORDS` prints, in this process."""
    out = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            status = cli.main(words)
            if status:
                raise PluginError(f"`prl {' '.join(words)}` ended with status {status}")
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return out.getvalue().rstrip()


def command_pages() -> Iterator[tuple[str, str]]:
    """A page a command, with all that it does by a second word."""
    names: dict[str, list[str]] = {}
    for name in cli.SUMMARIES:
        names.setdefault(name.partition(" ")[0], []).append(name)
    yield "commands/index.md", f"# prl\n\n{_block(printed('--help'))}"
    for command, all_names in names.items():
        parts = [f"# prl {command}"]
        for name in all_names:
            if len(all_names) > 1:
                parts.append(f"## prl {name}")
            parts += [cli.SUMMARIES[name], _block(printed(*name.split(), "--help"))]
        if command == "answers":
            parts += ["## prl answers explain", _block(printed("answers", "explain", "--help"))]
        yield f"commands/{command}.md", "\n\n".join(parts)


def recipe_page() -> str:
    """The list, then each recipe and overlay in full."""
    parts = ["# Recipes", _block(printed("recipes"))]
    for name in (*recipes.NAMES, *recipes.OVERLAYS):
        parts += [f"## {name}", _block(printed("recipes", "show", name), "yaml")]
    return "\n\n".join(parts)


def module_page(module: str) -> str:
    """What mkdocstrings is told to show: the module's `__all__`, or else what has no underscore. A name that
    a file of the room has too is the file's to mkdocstrings, and is named by that."""
    shown = public_names(module)
    hidden = [name for name in shown if SOURCE.joinpath(*module.split("."), f"{name}.py").exists()]
    members = ", ".join(name for name in shown if name not in hidden)
    page = f"# {module}\n\n::: {module}\n"
    if members:
        page += f"    options:\n      members: [{members}]\n"
    for name in hidden:
        page += f"\n::: {module}.{name}.{name}\n    options:\n"
        page += "      show_root_heading: true\n      show_root_toc_entry: true\n"
    return page


def public_names(module: str) -> list[str]:
    """`__all__`, read without importing what is heavy; of a module without one nothing."""
    path = SOURCE.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [name for name in ast.literal_eval(node.value) if not name.startswith("__")]
    return []


def figures() -> Iterator[tuple[str, bytes]]:
    """Mask and positions of the method's trace, as `prl report --figures` draws those of a run."""
    import prl.console  # noqa: F401 (before bitsandbytes, which it silences)
    from prl.report.figures import FORMATS, style
    from prl.report.trace_pictures import draw_masks, draw_positions, pieces_of

    pieces = pieces_of(example_trace())
    with style():
        for name, draw in (("mask", draw_masks), ("positions", draw_positions)):
            file = io.BytesIO()
            draw(pieces).savefig(file, format="svg", **FORMATS["svg"])
            yield f"figures/{name}.svg", file.getvalue()


def example_trace() -> str:
    """The first `text` block of docs/method.md, which has to be a valid trace."""
    page = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    found = re.search(r"^```text\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    if found is None or not parse(found[1]).is_valid:
        raise PluginError("docs/method.md: its first `text` block is no valid trace")
    return found[1].rstrip()


def _block(text: str, language: str = "text") -> str:
    return f"```{language}\n{text}\n```"


# --- What is changed in a page

_CODE = re.compile(r"(^(```+)[^\n]*\n.*?^\2$)|((`+)(?!`)(.+?)(?<!`)\4(?!`))", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_NAME = re.compile(r"prl(?:\.\w+)+")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Link files of the repository and names of prl within the site; draw the method's trace."""
    here = page.file.src_uri
    if here.startswith(("commands/", "modules/")) or here == "recipes.md":
        return markdown
    if here == "method.md":
        markdown = markdown.replace("<!-- lanes -->", lanes())
    pages = {f"docs/{file.src_uri}": file.src_uri for file in files} | ELSEWHERE

    def relinked(found: re.Match[str]) -> str:
        bang, text, target = found.groups()
        return f"{bang}{_link(text, target, here, pages)}" if is_local(target) else found[0]

    def named(span: str) -> str:
        return _named(span, posixpath.relpath("modules", posixpath.dirname(here) or "."))

    return _outside_code(markdown, lambda text: _LINK.sub(relinked, text), named)


def is_local(target: str) -> bool:
    return not target.startswith("#") and "://" not in target


def _link(text: str, target: str, here: str, pages: Mapping[str, str]) -> str:
    """A link of the page `here` as one within the site; `pages` are the files that pages are made of."""
    source = next((name for name, page in ELSEWHERE.items() if page == here), f"docs/{here}")
    path, hash_, anchor = target.partition("#")
    at = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if at in pages:
        return f"[{text}]({posixpath.relpath(pages[at], posixpath.dirname(here) or '.')}{hash_}{anchor})"
    if at.startswith("..") or not (ROOT / at).exists():
        raise PluginError(f"{source}: {target} is no file of the repository")
    return text  # no page is made of it, and where the repository lies is not known


def _outside_code(markdown: str, change: Callable[[str], str], code: Callable[[str], str]) -> str:
    """`markdown` with its text changed, and its code spans that stand alone; fenced blocks stay."""
    kept: list[str] = []

    def put_away(found: re.Match[str]) -> str:
        kept.append(found[0] if found[1] else code(found[0]))
        return f"\0{len(kept) - 1}\0"

    text = change(_CODE.sub(put_away, markdown))
    return re.sub("\0(\\d+)\0", lambda found: kept[int(found[1])], text)


def _named(span: str, modules: str) -> str:
    """A code span that is a name of prl, linked to where the reference tells of it, if it does; `modules` is
    where its pages lie."""
    name = span.strip("`").removesuffix("()")
    if name in MODULES.split() and name != "prl":
        return f"[{span}]({modules}/{name}.md)"
    if not _NAME.fullmatch(name):
        return span
    return f'<autoref identifier="{name}" optional>{span}</autoref>'


def lanes() -> str:
    """The trace of docs/method.md as `prl.show` draws it."""
    from prl.report.lanes import trace_html

    return trace_html(parse(example_trace()))

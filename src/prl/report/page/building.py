"""The page itself: one file that opens from disk, asks no network for anything, and runs no code but its own.

A content policy in its head forbids everything else: connections, `eval`, and any script whose hash it does
not name. A page that is served (`prl.report.page.serving`) may ask the server that it came from. What a model
wrote is in it as data, and is put on the screen as text.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from prl.errors import RunError, UsageError
from prl.report.page.charts import charts_of
from prl.report.page.choosing import choose
from prl.report.page.pieces import split
from prl.report.page.reading import Told, lineage, read_runs
from prl.report.page.verdict import evaluations, rewards_paid, sentences
from prl.runs.disk import write_atomic

SAMPLES_BYTES = 3_500_000
"""What samples may take of a page; with the library and the curves of some runs it stays below 5 MB."""


def write_page(
    folders: Iterable[str | os.PathLike[str]], file: str | os.PathLike[str], *, all_samples: bool = False
) -> Path:
    """Write the page of the runs in `folders` to `file`, and what it says first to the same name with `.md`;
    where the page is.

    A page holds as many samples as fit (`prl.report.page.choosing` says which) and counts the others, or with
    `all_samples` all. Raises UsageError: `file` does not end in .html; RunError: a folder holds no run, there
    are too many, `file` cannot be written, or somebody's .md would be lost.
    """
    path = Path(file).expanduser()
    summary = path.with_suffix(".md")
    if path.suffix != ".html":
        raise UsageError(f"--output {path}: a page's name ends in .html, such as {path.with_suffix('.html')}")
    if summary.exists() and not path.exists():
        raise RunError(f"{summary} is there, where the page's summary would go: choose another --output")
    told = read_runs(folders)
    write_atomic(path, page_of(told, all_samples=all_samples).encode(), "--output")
    write_atomic(summary, _summary(told).encode(), "--output")
    return path


@dataclass(frozen=True)
class Follow:
    """What a page needs to follow its runs: its own `version`, and after how many seconds to ask whether
    there is a newer one."""

    version: str
    every: float


@dataclass(frozen=True)
class Sent:
    """A page that follows its runs: `whole`, as it is sent first, and what it takes of a newer one: the page
    `bare` of scripts, styles and data, and its data as `pieces` by name, of which `root` is all of it."""

    whole: str
    bare: str
    root: str
    pieces: Mapping[str, Any]


def page_of(told: Sequence[Told], *, all_samples: bool = False) -> str:
    """The page of the runs `told`, one that stands alone."""
    data, values = _told(told, all_samples)
    return render("page.html", data, **values)


def page_to_follow(told: Sequence[Told], follow: Follow, *, all_samples: bool = False) -> Sent:
    """The page of the runs `told` that a server sends, and that asks this for what is newer."""
    data, values = _told(told, all_samples)
    root, pieces = split(data)
    whole = render("page.html", {"root": root, "pieces": pieces}, follow, **values)
    bare = _rendered("page.html", [], [], follow, data="", licences=[], **values)
    return Sent(whole, bare, root, pieces)


def _told(told: Sequence[Told], all_samples: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the scripts of the page of the runs are given, and what its template is."""
    charts, chosen = charts_of(told), choose(told, math.inf if all_samples else SAMPLES_BYTES)
    ends = [*accumulate(chosen.sizes)]
    data = {
        "runs": [{"name": run.name, "stages": run.stages} for run in told],
        "charts": charts,
        "index": [
            {name: column[end - size : end] for name, column in chosen.index.items()}
            for size, end in zip(chosen.sizes, ends, strict=True)
        ],
        "chunks": chosen.chunks,
        "sizes": chosen.sizes,
        "problems": chosen.problems,
    }
    values = {
        "title": " · ".join(run.name for run in told[:3]) + (" …" if len(told) > 3 else ""),
        "runs": [
            {"name": run.name, "facts": run.facts, "again": run.again, "rewards": _rewards(run)}
            for run in told
        ],
        "lineage": lineage(told) if len(told) > 1 else [],
        "sentences": sentences(told),
        "evaluations": evaluations(told),
        "charts": [chart | {"numbers": _numbers(chart, len(told) > 1)} for chart in charts],
        "shown": chosen.shown,
        "total": chosen.total,
    }
    return data, values


def waiting_page(why: str, follow: Follow) -> str:
    """The page where there is no run yet, and `why`, which gives way to the run once it has begun."""
    return _rendered("waiting.html", [], ["page.css"], follow, why=why)


def render(template: str, data: Mapping[str, Any], follow: Follow | None = None, **values: Any) -> str:
    """A page: a template among the assets, with `values` as text; `data` for its scripts, which are Vega-Lite
    and the script of the template's name; its content policy; page.css and the style of its name."""
    own = template.removesuffix(".html")
    libraries = [_asset("vega.min.js"), _asset("vega-lite.min.js"), _interpreter()]
    scripts = [*libraries, _asset("drawing.js") + _asset(f"{own}.js")]
    return _rendered(
        template,
        scripts,
        ["page.css", f"{own}.css"],
        follow,
        data=Markup(_inert(data)),
        licences=[_asset("LICENSE-vega"), _asset("LICENSE-vega-lite")],
        **values,
    )


def _rendered(
    template: str, scripts: Sequence[str], styles: Sequence[str], follow: Follow | None, **values: Any
) -> str:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_asset),
    )
    scripts = [*scripts, *([_asset("follow.js")] if follow else [])]
    return environment.get_template(template).render(
        policy=_policy(scripts, connects=follow is not None),
        style=Markup("\n".join(map(_asset, dict.fromkeys(styles)))),
        scripts=[Markup(script) for script in scripts],
        follow=follow,
        **values,
    )


def _summary(told: Sequence[Told]) -> str:
    """What the page says first, for terminals and pull requests."""
    lines = [
        "# " + ", ".join(f"`{run.name}`" for run in told),
        "",
        *(f"- {line}" for line in sentences(told)),
        "",
    ]
    if rows := evaluations(told):
        heads, *others = rows
        lines += ["| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *others)] + [""]
    for run in told:
        lines += [f"`{run.again}`", ""]
    return "\n".join(lines)


def _rewards(run: Told) -> list[tuple[str, ...]]:
    rows = []
    for paid in rewards_paid(run):
        first, last = (
            f"{found.mean:.3f} in {steps}"
            for found, steps in zip((paid.first, paid.last), paid.steps, strict=True)
        )
        name = f"{paid.name}, {paid.when}" if paid.when else paid.name
        is_one = paid.steps[0] == paid.steps[1]
        change = ["", ""] if is_one else [last, f"{paid.change:+.3f}"]
        rows.append((name, f"{paid.least:g} to {paid.greatest:g}", first, *change))
    return rows


def _numbers(chart: Mapping[str, Any], has_runs: bool) -> list[tuple[str, ...]]:
    """Name, first, last, least and greatest value of each series: the chart for who does not see it."""
    rows = []
    for series in chart["series"]:
        values = [value for _, value in series["points"]]
        name = f"{series['run']}: {series['name']}" if has_runs else series["name"]
        ends = (values[0], values[-1], min(values), max(values))
        rows.append((name, *(f"{value:.1%}" if chart["share"] else f"{value:.4g}" for value in ends)))
    return rows


def _inert(data: Any) -> str:
    """JSON that no browser can take for markup, whatever the strings in it say."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _policy(scripts: Iterable[str], *, connects: bool) -> str:
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'" + ("; connect-src 'self'" if connects else "")
    )


@cache
def _asset(name: str) -> str:
    return (files("prl.report.page") / "assets" / name).read_text(encoding="utf-8")


def _interpreter() -> str:
    """vega-interpreter is published as a module; a page opened from disk cannot import one."""
    text = _asset("vega-interpreter.js")
    ends = {
        "import { ascending, isString, DisallowedObjectProperties } from 'vega-util';": (
            "const { ascending, isString, DisallowedObjectProperties } = vega;"
        ),
        "export { expression as expressionInterpreter };": "window.expressionInterpreter = expression;",
        "//# sourceMappingURL=vega-interpreter.js.map": "",
    }
    for published, ours in ends.items():
        if text.count(published) != 1:
            raise ValueError(f"vega-interpreter.js does not hold {published!r} once: adapt _interpreter")
        text = text.replace(published, ours)
    return f"(function () {{\n{text}\n}})();"

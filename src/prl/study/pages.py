"""`prl report`: runs as one page, in a file or served while they go on.

prl report runs/default/rl runs/default/eval
prl report runs/demo -o demo.html
prl report --serve runs/default/rl
"""

from __future__ import annotations

from pathlib import Path

from prl.console import console
from prl.report.page import write_page
from prl.settings import Settings
from prl.settings.arguments import ReportArguments


def run(settings: Settings[ReportArguments]) -> Path | None:
    """Write the page and say where it is; with `serve`, serve it until Ctrl-C. Raises as
    `prl.report.page.write_page` and `prl.report.page.serving.serve`."""
    given = settings.arguments
    if given.serve:
        from prl.report.page.serving import serve

        serve(given.runs, given.host, given.port, all_samples=given.all_samples)
        return None
    page = write_page(given.runs, given.output, all_samples=given.all_samples)
    console.print(page.with_suffix(".md").read_text(encoding="utf-8"), markup=False)
    console.print(f"page: {page}", markup=False)
    return page

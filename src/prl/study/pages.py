"""`prl report`: runs as one page, in a file or served while they go on, and as figures.

prl report runs/default/rl runs/default/eval
prl report runs/demo -o demo.html --figures figures
prl report --serve runs/default/rl
"""

from __future__ import annotations

from pathlib import Path

from prl.console import console, quiet_libraries
from prl.report.figures import write_figures
from prl.report.page import write_page
from prl.report.page.reading import read_runs
from prl.settings import Settings
from prl.settings.arguments import ReportArguments


def run(settings: Settings[ReportArguments]) -> Path | None:
    """Write the page, and the figures where they are asked for, and say where they are; with `serve`, serve
    the page until Ctrl-C. Raises as `prl.report.page.write_page`, `prl.report.figures.write_figures` and
    `prl.report.page.serving.serve`."""
    given = settings.arguments
    if given.serve:
        from prl.report.page.serving import serve

        serve(given.runs, given.host, given.port, all_samples=given.all_samples)
        return None
    page = write_page(given.runs, given.output, all_samples=given.all_samples)
    console.print(page.with_suffix(".md").read_text(encoding="utf-8"), markup=False)
    console.print(f"page: {page}", markup=False)
    if given.figures:
        quiet_libraries()
        for name, shows in write_figures(read_runs(given.runs), given.figures).items():
            console.print(f"figure: {Path(given.figures) / name}.svg, .pdf, .png: {shows}", markup=False)
    return page

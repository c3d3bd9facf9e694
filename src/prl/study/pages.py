"""`prl report`: runs as one page.

prl report runs/default/rl runs/default/eval
prl report runs/demo -o demo.html
"""

from __future__ import annotations

from pathlib import Path

from prl.console import console
from prl.report.page import write_page
from prl.settings import Settings
from prl.settings.arguments import ReportArguments


def run(settings: Settings[ReportArguments]) -> Path:
    """Write the page and say where it is. Raises as `prl.report.page.write_page`."""
    given = settings.arguments
    page = write_page(given.runs, given.output, all_samples=given.all_samples)
    console.print(page.with_suffix(".md").read_text(encoding="utf-8"), markup=False)
    console.print(f"page: {page}", markup=False)
    return page

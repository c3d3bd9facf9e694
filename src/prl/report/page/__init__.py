"""A run, or several, as one page: what happened, how sure that is, and what the model wrote."""

from prl.report.page.building import write_page

__all__ = ["write_page"]

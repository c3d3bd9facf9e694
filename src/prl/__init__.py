"""prl: teach small language models to think in parallel, on one GPU or a laptop.

The method is Parallel-R1 (arXiv 2509.07980). Importing `prl` imports nothing heavy and sets nothing of
others; take what you need from its modules, e.g. `from prl.rewards import accuracy_reward`. In a notebook
`prl.show("runs/mine/rl")` draws a run, `prl.show(response)` a trace.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prl.grammar import Trace
    from prl.report.shown import Shown

__all__ = ["__version__", "show"]

__version__ = "0.1.0"


def show(source: str | os.PathLike[str] | Trace, *, limit: int = 3, **choice: Any) -> Shown:
    """The curves of a run and its last responses as lanes, or the lanes of one trace: for a notebook.

    `prl.report.notebook.show`, which is imported when this is called.
    """
    # By name: what it imports asks this module for its version.
    shown: Shown = importlib.import_module("prl.report.notebook").show(source, limit=limit, **choice)
    return shown

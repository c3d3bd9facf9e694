"""The studies that there are, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prl.errors import RunError
from prl.study.design import Design
from prl.study.paper_mini import PAPER_MINI
from prl.study.sums import SUMS

DESIGNS: dict[str, Design] = {design.name: design for design in (PAPER_MINI, SUMS)}


def design_of(settings: Mapping[str, Any]) -> Design:
    """The design of a stored study. Raises RunError: there is none of its name."""
    name = settings.get("study")
    if name not in DESIGNS:
        raise RunError(
            f"the study {name!r} is none of {', '.join(DESIGNS)}: start it in another --output_dir"
        )
    return DESIGNS[name]

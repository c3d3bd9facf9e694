"""What a person sees: one console, what was chosen and why, a bar.

The libraries below are asked to keep quiet (25-metric dumps, loading bars, notices about what prl decided on
purpose); every number they report is in the run's `metrics.jsonl`. What they say while they are imported is
silenced by importing this module before them.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from prl.runs import processes

# At import (PEFT's, on any machine) bitsandbytes warns about an optional CPU kernel that nothing here asks
# for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# In a notebook kernel without ipywidgets, tqdm asks for them; prl shows its own bars.
warnings.filterwarnings("ignore", message="IProgress not found")

# In a notebook: plain text in one stream, where rich would make an HTML output of every line, and not in the
# red of stderr. In a shell stdout is kept free for results. What starts a kernel imports ipykernel too, not
# its app.
IN_NOTEBOOK = "ipykernel.kernelapp" in sys.modules
console = Console(
    stderr=not IN_NOTEBOOK,
    color_system=None if IN_NOTEBOOK else "auto",
    highlight=False,
    soft_wrap=True,
    force_jupyter=False,
    quiet=not processes.is_main(),
)


QUIET_LOGGERS = (
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "bitsandbytes",
    "huggingface_hub",
    "torch",
)


def quiet_libraries() -> None:
    """Errors only from the libraries, and no progress bars but ours; from prl itself too, but in the main
    process. Does nothing under `PRL_DEBUG=1`."""
    if os.environ.get("PRL_DEBUG"):
        return
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not processes.is_main():
        logging.getLogger("prl").setLevel(logging.ERROR)  # the main process has read the same files
    warnings.filterwarnings("ignore", message="You are using 'rollout_func'")  # trl 1.16
    warnings.filterwarnings("ignore", module=r"(transformers|trl|peft|accelerate|datasets|torch)(\.|$)")


def announce(command: str, chosen: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    """Say once what this command works on, and what was chosen for the user and why."""
    told = "  ".join(f"{key} {value}" for key, value in facts.items())
    console.print(f"[bold]prl {command}[/bold]  {escape(told)}")
    for name, reason in chosen.items():
        console.print(f"  {name}: {reason}", style="dim", markup=False)


@contextmanager
def batches_bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over `total` responses; yields the function that takes how many are done."""
    with progress_bar() as bar:
        task = bar.add_task(name, total=total)
        yield lambda done: bar.update(task, completed=done)


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not sys.stderr.isatty(),
    )

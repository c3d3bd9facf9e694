"""What an evaluation found, for people: a table, and remarks below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from prl.report.lanes import one_line
from prl.statistics import Estimate

_NUMBERS = ("tokens", "critical_path")  # of tokens, where the others are shares


def table(metrics: dict[str, Estimate], title: str, *, heading: str = "95 % interval") -> Table:
    """The metrics, "mode/metric" by name, for people: a row a metric, a column a mode (or a model)."""
    modes = list(dict.fromkeys(name.split("/")[0] for name in metrics))
    grid = Table(title=title, title_justify="left")
    grid.add_column(heading, overflow="fold")
    for mode in modes:
        grid.add_column(mode, justify="right")
    for name in dict.fromkeys(name.split("/")[1] for name in metrics):
        cells = [metrics.get(f"{mode}/{name}") for mode in modes]
        grid.add_row(name, *("" if cell is None else shown(name, cell) for cell in cells))
    return grid


def shown(name: str, found: Estimate) -> str:
    """A metric as a table has it: a share, or a number of tokens."""
    return f"{found.mean:.0f}  [{found.low:.0f}, {found.high:.0f}]" if name in _NUMBERS else str(found)


def models_table(
    metrics: Mapping[str, Mapping[str, Estimate]], over_first: Mapping[str, Estimate], title: str
) -> Table:
    """A row a model: name -> metric -> estimate, and what each has over the first. Shares are in percent, and
    of maj@k the largest k is shown: what fits a terminal, as each model has a table of its own."""
    first = next(iter(metrics))
    voted = next((name for name in reversed([*metrics[first]]) if name.startswith("maj@")), None)
    grid = Table(title=title, title_justify="left")
    grid.add_column("%", overflow="fold")
    for heading in ("accuracy", f"over {first}", *([voted] if voted else []), "tokens"):
        grid.add_column(heading, justify="right", no_wrap=heading == "accuracy")
    for name, found in metrics.items():
        cells = [_percent(found["accuracy"], ".1f")]
        cells.append(_percent(over_first[name], "+.1f") if name in over_first else "")
        if voted:
            cells.append(f"{100 * found[voted].mean:.1f}" if voted in found else "")
        grid.add_row(name, *cells, f"{found['tokens'].mean:.0f}")
    return grid


def side_by_side(
    sections: Sequence[Mapping[str, Sequence[str]]], columns: Sequence[str], title: str, heading: str
) -> Table:
    """A row a name, a cell a column, a line between sections. All is shown as text, whatever is in it."""
    grid = Table(title=Text(one_line(title)), title_justify="left")
    grid.add_column(heading, overflow="fold")
    for column in columns:
        grid.add_column(Text(one_line(column)), overflow="fold")
    for rows in sections:
        for name, cells in rows.items():
            grid.add_row(*(Text(one_line(cell)) for cell in (name, *cells)))
        grid.add_section()
    return grid


def in_blocks(
    sections: Sequence[Mapping[str, Sequence[Sequence[str]]]], columns: Sequence[str], title: str
) -> Table:
    """The same turned, for more columns than stand side by side: a block a name, which is followed by its
    rows of as many cells as there are `columns`."""
    grid = Table(title=Text(one_line(title)), title_justify="left")
    for column in columns:
        grid.add_column(Text(one_line(column)), overflow="fold")
    for blocks in sections:
        for name, rows in blocks.items():
            grid.add_row(Text(one_line(name), style="bold"))
            for first, *cells in rows:
                grid.add_row(Text(f"  {one_line(first)}"), *(Text(one_line(cell)) for cell in cells))
            grid.add_section()
    return grid


def _percent(share: Estimate, form: str) -> str:
    return format(Estimate(100 * share.mean, 100 * share.low, 100 * share.high), form)


def told(
    described: Mapping[str, float | None],
    votes: Mapping[str, Mapping[str, float]],
    levels: Mapping[str, Mapping[str, Any]],
    verdicts: Mapping[str, int],
    timing: Estimate | None,
) -> list[str]:
    """What else was found in one mode of decoding, in lines."""
    reasons = ", ".join(f"{reason} {count}" for reason, count in verdicts.items())
    seconds = f"{timing:.3f} s a problem (median), one response at a time on one thread" if timing else ""
    lines = [*remarks(described), *votes_told(votes), *levels_told(levels), f"verdicts: {reasons}"]
    return [*lines, seconds] if seconds else lines


def remarks(described: Mapping[str, float | None]) -> list[str]:
    """What `prl.analysis.describe` found about blocks, in lines for people; none where there is no block."""
    lines = []
    if described["accuracy_with_block_of"] and described["accuracy_without_block_of"]:
        lines.append(
            f"right with a block {_share(described, 'accuracy_with_block')}, "
            f"without {_share(described, 'accuracy_without_block')}"
        )
    if described["disagreeing_of"]:
        lines.append(f"paths disagree in {_share(described, 'disagreeing')} blocks")
    if described["right_of_any_of"]:
        lines.append(
            f"where they do and one is right, the summary is right in {_share(described, 'right_of_any')}"
        )
    return lines + paths_told(described)


def paths_told(described: Mapping[str, float | None]) -> list[str]:
    """Where accuracy leaks between paths and answer, in a line; none where no response has a block."""
    if not described.get("path_oracle_of"):
        return []
    shares = {
        "any path right (oracle)": "path_oracle",
        "most (majority)": "path_majority",
        "summary": "summary_accuracy",
        "answer": "accuracy_with_block",
        "a path alone": "path_accuracy",
    }
    told = ", ".join(f"{name} {described[key]:.1%}" for name, key in shares.items())
    return [f"{described['path_oracle_of']:.0f} responses with a block: {told}"]


def repeating_told(described: Mapping[str, float | None]) -> list[str]:
    """That greedy paths without an opening repeat each other, in a line; none where no block does."""
    if not described.get("repeating"):
        return []
    return [
        f"all paths are the same in {_share(described, 'repeating')} blocks: without an opening the paths of "
        "a structured block are symmetric, and greedily they repeat each other; judge this model by its "
        "samples, or train it with --path_opening number"
    ]


def votes_told(votes: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What votes of several samples take, in a line."""
    each = (f"{k} in {found['tokens']:.0f} tokens {found['accuracy']:.1%}" for k, found in votes.items())
    return [f"majority of samples (maj@k): {', '.join(each)}"] if votes else []


def levels_told(levels: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The accuracy on each level, in a line; none where all problems are of one."""
    each = (f"{level} {found['accuracy']['mean']:.1%}" for level, found in levels.items())
    return [f"accuracy by level: {', '.join(each)}"] if len(levels) > 1 else []


def _share(described: Mapping[str, float | None], name: str) -> str:
    return f"{described[name]:.1%} of {described[f'{name}_of']:.0f}"

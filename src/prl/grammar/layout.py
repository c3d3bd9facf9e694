"""From texts to a block, and the layout that the decoder writes."""

from __future__ import annotations

from collections.abc import Sequence

from prl.grammar.reading import parse
from prl.grammar.trace import END_PARALLEL, END_PATH, END_SUMMARY, PARALLEL, PATH, SUMMARY, TAG, is_blank


def render(paths: Sequence[str], summary: str) -> str:
    """Write a block with its summary in the layout of the paper's cold-start traces; `parse` reads it back.

    Texts are stripped and put on lines of their own. ValueError, naming each part that would not parse back:
    fewer than two paths, a blank text, a text that holds a tag.

    >>> print(render(["6 * 7 = 42", "7 * 6 = 42"], "Both give 42."))
    <Parallel><Path>
    6 * 7 = 42
    </Path><Path>
    7 * 6 = 42
    </Path></Parallel>
    <Summary>
    Both give 42.
    </Summary>
    """
    problems = [] if len(paths) >= 2 else [f"{len(paths)} paths, a block needs two or more"]
    for name, text in [*((f"path {i}", path) for i, path in enumerate(paths, 1)), ("the summary", summary)]:
        if is_blank(text):
            problems.append(f"{name} is blank")
        elif tag := TAG.search(text):
            problems.append(f"{name} holds the tag {tag.group()}")
    if problems:
        raise ValueError("cannot render a block: " + "; ".join(problems))
    body = "".join(f"{PATH}\n{path.strip()}\n{END_PATH}" for path in paths)
    return f"{PARALLEL}{body}{END_PARALLEL}\n{SUMMARY}\n{summary.strip()}\n{END_SUMMARY}"


def canonical_layout(text: str) -> str:
    """A response, its blocks laid out as the decoder writes them; `parse` finds the same texts and faults.

    Between the parts of a block, what `is_blank` goes, and one line end separates block and summary. Texts of
    paths and summaries, all that stands outside blocks, and misplaced text stay as they are.

    >>> canonical_layout("<Parallel>\\n<Path> a </Path> <Path>b</Path>\\n</Parallel><Summary>c</Summary>")
    '<Parallel><Path> a </Path><Path>b</Path></Parallel>\\n<Summary>c</Summary>'
    """
    pieces: list[str] = []
    cursor = 0

    def lay_out(start: int, end: int, glue: str) -> None:
        nonlocal cursor
        if is_blank(text[start:end]):
            pieces.extend((text[cursor:start], glue))
            cursor = end

    for block in parse(text).blocks:
        closer = block.span.end - len(END_PARALLEL)
        edges = [block.span.start + len(PARALLEL), *(edge for path in block.paths for edge in path.span)]
        if block.paths and text.startswith(END_PARALLEL, closer):
            edges.append(closer)
        for start, end in zip(edges[::2], edges[1::2], strict=False):
            lay_out(start, end, "")
        if block.summary:
            lay_out(block.span.end, block.summary.start, "\n")
    return "".join((*pieces, text[cursor:]))

"""The language of a trace: tags, `parse` into blocks and named faults, `render` back into text.

    response := (text | block)*
    block    := <Parallel> path path+ </Parallel> summary        whitespace may stand between the parts
    path     := <Path> text </Path>
    summary  := <Summary> text </Summary>

The format is that of Parallel-R1 (arXiv 2509.07980). `parse` is total, deterministic and linear in time: any
string is some trace, and each departure from the rules above is named with the offset where it happened.
Where the text breaks the rules, the reading is the one that path masks and fork/join decoding use: a block
runs from `<Parallel>` to the first `</Parallel>`, a nested `<Parallel>` is text, a path ends at the next
`<Path>` or `</Parallel>` at the latest, a stray tag is text.

Give it a *response* only. Prompts quote the tags to explain them; a prompt parsed along with its response
opens blocks that nobody wrote. What the paths say is not judged: `<Path>.</Path>` is a path.

A path may begin with an *opening* (`OPENINGS`), a line that tells it from its siblings: its number in the
block, or its line of the plan that stands right before the block. `parse(…, opening=…)` knows it by that.

    >>> trace = parse("<Parallel><Path>\\n1\\n6*7</Path><Path>\\n2\\n</Path></Parallel>", opening="number")
    >>> [path.content for path in trace.blocks[0].paths], [fault.kind.value for fault in trace.faults]
    (['6*7', ''], ['empty_path', 'missing_summary'])
"""

from prl.grammar.layout import canonical_layout, render
from prl.grammar.openings import (
    LONGEST_OPENING,
    OPENINGS,
    opening_text,
    plan_lines,
    split_at_openings,
    with_openings,
)
from prl.grammar.reading import parse, parse_ids
from prl.grammar.trace import (
    END_PARALLEL,
    END_PATH,
    END_SUMMARY,
    FOUND,
    PARALLEL,
    PATH,
    SUMMARY,
    TAGS,
    Block,
    Fault,
    FaultKind,
    Passage,
    Span,
    Trace,
    is_blank,
)

__all__ = [
    "END_PARALLEL",
    "END_PATH",
    "END_SUMMARY",
    "FOUND",
    "LONGEST_OPENING",
    "OPENINGS",
    "PARALLEL",
    "PATH",
    "SUMMARY",
    "TAGS",
    "Block",
    "Fault",
    "FaultKind",
    "Passage",
    "Span",
    "Trace",
    "canonical_layout",
    "is_blank",
    "opening_text",
    "parse",
    "parse_ids",
    "plan_lines",
    "render",
    "split_at_openings",
    "with_openings",
]

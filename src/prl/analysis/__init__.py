"""What the traces show: lengths, the critical path, where blocks stand, how much their paths differ, and what
summaries make of paths that disagree.

    shape(trace, ids), summarise(shapes)     one response in numbers, and the means of many
    decide(block, gold)                      what the paths conclude and which side the summary takes
    dissent(trace, gold, correct)            which paths are at odds with the answer
    describe(rows, path_opening)             all of it for the samples of a run
    prl.analysis.metrics                     accuracy, pass@k, maj@k and lengths, level by level too
    prl.analysis.budgets                     accuracy within a budget, votes, frontiers
    prl.analysis.equal_budgets               several models within the same budgets, with paired intervals

All functions are pure and count in the unit of a trace's spans: tokens after `grammar.parse_ids`, which is
what evaluation reports, characters after `grammar.parse`. Blocks count as they are parsed, valid or not;
only decisions are looked for in valid ones.
"""

from prl.analysis.decisions import Decision, conclusion, decide
from prl.analysis.describing import correct_of, describe
from prl.analysis.dissenting import Dissent, dissent
from prl.analysis.shapes import (
    Shape,
    block_positions,
    critical_path,
    diversity,
    self_bleu,
    shape,
    summarise,
    words,
)

__all__ = [
    "Decision",
    "Dissent",
    "Shape",
    "block_positions",
    "conclusion",
    "correct_of",
    "critical_path",
    "decide",
    "describe",
    "dissent",
    "diversity",
    "self_bleu",
    "shape",
    "summarise",
    "words",
]

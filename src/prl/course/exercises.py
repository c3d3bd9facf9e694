"""The exercises of the course: what each asks, what it pays, and the cell that a student starts with.

A starter is the source of one notebook cell. Its first line, `# exercise: NAME (N points)`, is how the kit
and the grader find the cell again, beside nbgrader's `grade_id`. With what it is tested is the cases' affair.

Numbers of an exercise that could be copied are a student's own (`variant`): `alternating` has another
schedule for each name, the homework other problems. Without a name they are the paper's.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from random import Random
from string import Template

MARK = "# exercise: "


@dataclass(frozen=True)
class Variant:
    """A student's own numbers: steps paid by accuracy and by the tiered reward in turn, what the tiered one
    pays for a right answer with a block, and which of the held-out problems the homework asks."""

    accuracy_steps: int = 8
    tiered_steps: int = 2
    bonus: float = 1.2
    problems: int = 0


OF_ANOTHER = "the numbers in this cell are not those made for your name"

PROBLEM_SETS = 8
"""So many sets of problems there are for the homework."""


@dataclass(frozen=True)
class Group:
    """Cases that are paid together: all of them right, or no point. `rule` is what a wrong one breaks."""

    name: str
    points: int
    rule: str


@dataclass(frozen=True)
class Exercise:
    """One exercise. `starter` holds `$`-placeholders of `Variant`; `compare` says how answers are held
    against the right ones: `exact` (type and value), `number` (to 1e-9), or `settings`, which are run."""

    name: str
    notebook: str
    starter: str
    groups: tuple[Group, ...]
    compare: str
    hints: tuple[str, ...]

    @property
    def points(self) -> int:
        return sum(group.points for group in self.groups)

    def cell(self, student: str | None = None) -> str:
        """The source of the cell that a student starts with."""
        head = f"{MARK}{self.name} ({self.points} points)\n"
        made = {**vars(variant(student)), "measure": with_name("measure(SETTINGS)", student)}
        return head + Template(self.starter).substitute(made).strip() + "\n"

    def is_starter(self, source: str) -> bool:
        """Whether a cell is as it was handed out, to whomever; its first line may lack."""
        return re.fullmatch(_pattern(_body(self.starter)), _body(source)) is not None

    def is_of_another(self, source: str, student: str | None = None) -> bool:
        """Whether a cell still says numbers other than this student's; False where it says none."""
        own = self.cell(student)
        lines = [line.strip() for line in self.starter.splitlines() if "$" in line]
        return any(said[0] not in own for line in lines for said in re.finditer(_pattern(line), source))


def _body(source: str) -> str:
    lines = [line.rstrip() for line in source.strip().splitlines() if not line.startswith(MARK)]
    return "\n".join(lines).strip()


def _pattern(starter: str) -> str:
    return "[^\n]+?".join(map(re.escape, re.split(r"\$[a-z_]+", starter)))


def folded(name: str) -> str:
    """A student's name as it is compared: neither case nor space around it counts.

    >>> folded(" Ada")
    'ada'
    """
    return unicodedata.normalize("NFC", name).strip().casefold()


def with_name(source: str, student: str | None) -> str:
    """The source of a cell, its calls of `check` and `measure` with the student's name.

    >>> print(with_name("right = check(majority)", " Ada"))
    right = check(majority, "ada")
    """
    if not student:
        return source
    asked = "|".join(["SETTINGS", *(exercise.name for exercise in EXERCISES)])
    name = json.dumps(folded(student), ensure_ascii=False)
    return re.sub(rf"\b((?:check|measure)\((?:{asked}))\)", lambda call: f"{call[1]}, {name})", source)


def variant(student: str | None = None) -> Variant:
    """The numbers of a student, from the name alone (`folded`); without one those of the paper.

    >>> variant(), variant(" Ada") == variant("ada")
    (Variant(accuracy_steps=8, tiered_steps=2, bonus=1.2, problems=0), True)
    """
    if not student:
        return Variant()
    rng = Random(f"prl course/{folded(student)}")
    return Variant(
        rng.randint(4, 9), rng.randint(2, 4), rng.choice((1.1, 1.3, 1.4, 1.5)), rng.randrange(PROBLEM_SETS)
    )


POSITIONS = '''
def positions(tokens: list[str]) -> list[int]:
    """The position of each token of a trace, where paths do not see each other.

    positions("so <Parallel> <Path> a b </Path> <Path> c </Path> </Parallel> end".split())
        is [0, 1, 2, 3, 4, 5, 2, 3, 4, 6, 7]

    1. Positions count from 0, one more at each token. Tags are tokens too.
    2. A block runs from "<Parallel>" to the first "</Parallel>". Each "<Path>" in it begins a path, and all
       paths of a block start at the same position: one after what stood before the first of them.
    3. A path goes on until the next "<Path>" or "</Parallel>", whatever stands there; "</Path>" is its own.
    4. "</Parallel>" stands right after the longest path, and counting goes on from it.
    5. A "<Path>" or "</Parallel>" outside a block is a token like any other, as is a "<Parallel>" within one.
    """
    return []  # your code
'''

MAJORITY = '''
def majority(results: list[str | None]) -> str | None:
    """What most paths say; `None` is a path without a result.

    majority(["12", None, "15", "15"]) is "15".

    1. The result that the most paths have wins, also with less than half of them.
    2. Of results that tie, the one that was said first wins.
    3. None never wins. Only where no path has a result, the majority is None.
    """
    return None  # your code
'''

FORMAT_REWARD = '''
def format_reward(text: str) -> float:
    """1.0 for a response that has a block and breaks no rule of the format, else 0.0.

    "<Parallel><Path>6*7</Path><Path>7*6</Path></Parallel><Summary>42</Summary> So 42." gets 1.0, "42" and
    "<Parallel><Path>6*7</Path></Parallel><Summary>42</Summary>" get 0.0.

        response := (text | block)*      at least one block
        block    := <Parallel> path path+ </Parallel> summary
        path     := <Path> text </Path>
        summary  := <Summary> text </Summary>

    1. Between the parts of a block, so also between </Parallel> and <Summary>, only whitespace may stand.
    2. The text of a path or a summary is more than whitespace.
    3. None of the six tags stands where the grammar has no place for it: not in text, not in a path.
    4. Tags are written exactly so; anything else, such as <path>, is text.

    The module `re` of the standard library may be imported; prl is not there when this is graded.
    """
    return 0.0  # your code
'''

ALTERNATING = '''
def alternating(step: int, uses_block: bool, is_right: bool) -> float:
    """The alternating reward at an optimizer step, from 0 on.

    Of each $accuracy_steps + $tiered_steps steps, over and over:
    1. the first $accuracy_steps are paid by accuracy: 1.0 for a right answer, -1.0 for a wrong one;
    2. the last $tiered_steps by tiers: $bonus for a right answer in a response with a block, 1.0 for a right
       one without, -1.0 for a wrong one.
    """
    return 0.0  # your code
'''

BUDGET = 180
"""Tokens that a problem may take in the homework, all votes together, on average over the problems."""

HOMEWORK = f"""
# Which settings answer the most products that nobody trained on, within {BUDGET} tokens a problem?
# Tokens are those of all votes of a problem, averaged over the problems.
# The grader reads this cell and does not run it: two constants, written out. It finds again what you found by
# `prl.course.$measure`, to the last digit on the same kind of machine: your CLAIM, in three digits.
# Points: 1 for settings that can be read, 1 within the budget; within it, 2 for more right answers than
# "base" asked once, and 2 for reaching the reference settings (less 0.01); 2 for a CLAIM that is true.
SETTINGS = {{
    "model": "base",     # "base": the model in sequence; "course": the four ways of the notebooks
    "paths": 2,          # 2 to 6: paths of a block of "course"
    "votes": 1,          # 1 to 8: responses to each problem; the majority of them is the answer
    "temperature": 0.0,  # 0 to 2: 0 takes the likeliest token, 1 samples as the model was trained
    "max_tokens": 256,   # 32 to 400: where a response is cut off
}}
CLAIM = 0.000
"""

EXERCISES = (
    Exercise(
        "positions",
        "01_parallel_thought",
        POSITIONS,
        (
            Group("text without a block", 1, "rule 1: one position further at each token"),
            Group("one block", 2, "rules 2 and 4: paths start together, </Parallel> follows the longest"),
            Group("several blocks", 1, "rule 4: counting goes on from each </Parallel>"),
            Group("tags out of place", 1, "rules 3 and 5: what ends a path, and which tags are mere tokens"),
        ),
        "exact",
        (
            "Keep three numbers: where the main thread goes on, how long the path at hand is, and how long "
            "the longest of its block is.",
            "What is different at a <Path> that is the first of its block?",
        ),
    ),
    Exercise(
        "majority",
        "01_parallel_thought",
        MAJORITY,
        (
            Group("one result wins", 1, "rule 1: the result that the most paths have"),
            Group("ties", 1, "rule 2: of those that tie, the one that was said first"),
            Group("paths without a result", 1, "rule 3: None has no vote"),
        ),
        "exact",
        ("Count first, then ask who of the best was first.", "A dict keeps the order in which keys came."),
    ),
    Exercise(
        "format_reward",
        "03_reinforcement_learning",
        FORMAT_REWARD,
        (
            Group(
                "whole blocks", 1, "a response with blocks as the grammar has them, and nothing else, pays"
            ),
            Group("parts that lack", 2, "a block has two paths or more, each closed, and a summary after it"),
            Group("empty parts", 1, "rule 2: a path or summary of whitespace alone is empty"),
            Group("tags out of place", 2, "rules 1, 3 and 4: tags and text stand where the grammar has them"),
        ),
        "number",
        (
            "Split the text at the six tags first; then it is a walk over a short list.",
            "One regular expression can describe a block; what is left without its blocks may hold no tag.",
        ),
    ),
    Exercise(
        "alternating",
        "03_reinforcement_learning",
        ALTERNATING,
        (
            Group("the first window", 1, "which of the two rewards pays at a step"),
            Group("later windows", 1, "the schedule begins anew after each window"),
            Group("wrong answers", 1, "a wrong answer pays -1.0, in both phases"),
        ),
        "number",
        ("What does step modulo the length of the window say?",),
    ),
    Exercise(
        "homework",
        "05_when_does_it_pay",
        HOMEWORK,
        (
            Group("settings", 1, "SETTINGS and CLAIM are constants that the grader can read and run"),
            Group("budget", 1, f"at most {BUDGET} tokens a problem on average, all votes together"),
            Group("beats the baseline", 2, "within the budget, more right answers than the base, asked once"),
            Group("as good as the reference", 2, "within the budget, what the reference settings reach"),
            Group("claim", 2, "CLAIM is what the grader's own run of SETTINGS finds, to the digits shown"),
        ),
        "settings",
        (
            "What do three greedy votes say that one does not?",
            "What does a path more cost in tokens, and what a vote?",
        ),
    ),
)

"""A solution of each exercise, for those who teach and for the tests: `$`-placeholders as in the starters."""

from __future__ import annotations

from string import Template

from prl.course.exercises import MARK, Exercise, variant


def solution(exercise: Exercise, student: str | None = None) -> str:
    """The cell of an exercise, solved, with a student's numbers."""
    text = Template(_SOLUTIONS[exercise.name]).substitute(vars(variant(student)))
    return f"{MARK}{exercise.name} ({exercise.points} points)\n{text.strip()}\n"


_SOLUTIONS = {
    "positions": """
def positions(tokens: list[str]) -> list[int]:
    found = []
    following = 0  # where the main thread goes on
    is_open = in_path = False
    length = longest = 0  # of the path at hand, and of the longest of this block
    for token in tokens:
        if is_open and token == "</Parallel>":
            following += longest
            is_open = in_path = False
        elif token == "<Parallel>" and not is_open:
            is_open, longest = True, 0
        elif is_open and (token == "<Path>" or in_path):
            if token == "<Path>":
                in_path, length = True, 0
            found.append(following + length)
            length += 1
            longest = max(longest, length)
            continue
        found.append(following)
        following += 1
    return found
""",
    "majority": """
def majority(results: list[str | None]) -> str | None:
    votes: dict[str, int] = {}
    for result in results:
        if result is not None:
            votes[result] = votes.get(result, 0) + 1
    return max(votes, key=lambda result: votes[result]) if votes else None  # the first of the best
""",
    "format_reward": r"""
import re


def format_reward(text: str) -> float:
    tag = "</?(?:Parallel|Path|Summary)>"
    said = rf"(?=\s*(?!{tag})\S)(?:(?!{tag}).)*?"  # more than whitespace, and no tag in it
    path = rf"<Path>{said}</Path>"
    block = rf"<Parallel>\s*{path}(?:\s*{path})+\s*</Parallel>\s*<Summary>{said}</Summary>"
    rest, blocks = re.subn(block, "", text, flags=re.DOTALL)
    return 1.0 if blocks and not re.search(tag, rest) else 0.0
""",
    "alternating": """
def alternating(step: int, uses_block: bool, is_right: bool) -> float:
    if not is_right:
        return -1.0
    is_tiered = step % ($accuracy_steps + $tiered_steps) >= $accuracy_steps
    return $bonus if is_tiered and uses_block else 1.0
""",
    "homework": """
SETTINGS = {
    "model": "course",
    "paths": 3,
    "votes": 1,
    "temperature": 0.0,
    "max_tokens": 256,
}
CLAIM = 0.955
""",
}

"""The sets of reals that answers describe: intervals, inequalities, memberships and what joins them."""

from __future__ import annotations

from fractions import Fraction
from functools import reduce

from prl.answers import spans
from prl.answers.kinds import Answer, is_name, variables
from prl.answers.questions import Algebra, asked
from prl.answers.spans import FAR, Span

FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
"""The signs of relations, read from the right."""


def is_region(answer: Answer) -> bool:
    """Whether `answer` describes a set of reals other than by listing values one by one."""
    if answer.kind == "tuple":
        return len(answer.items) == 2 and answer.text != "<>"
    if answer.kind == "relation":
        return "=" not in answer.text.split()
    if answer.kind == "list":  # x < 1 or x = 5; but x = 1, x = 5 lists values, and (1,2), (3,4) points
        kinds = {item.kind for item in answer.items}
        regions = [is_region(item) for item in answer.items]
        return (
            any(regions)
            and (all(regions) or kinds == {"relation"})
            and (kinds.isdisjoint(("tuple", "set")) or answer.text == "or")
        )
    return answer.kind in ("set", "reals", "empty", "union", "intersection", "difference", "member")


def subjects(answer: Answer) -> set[str]:
    """The variables that inequalities and memberships are about."""
    if answer.kind == "member":
        return variables(answer.items[0])
    if answer.kind == "relation":
        return set().union(*map(variables, answer.items))
    if answer.kind in ("list", "union", "intersection"):
        return set().union(*map(subjects, answer.items))
    return set()


def region(answer: Answer, algebra: Algebra | None) -> list[Span] | None:
    """The set of reals that `answer` describes; None when it describes none."""
    if answer.kind == "reals":
        return [spans.span(-FAR, FAR)]
    if answer.kind == "empty":
        return []
    if answer.kind == "member":
        return region(answer.items[1], algebra)
    if answer.kind == "relation":
        return _solved(answer, algebra)
    if answer.kind == "expression":
        value = _bound(answer, algebra)
        return None if value is None else [spans.point(value)]
    if answer.kind == "tuple":
        return _interval(answer, algebra)
    if answer.kind not in ("union", "set", "list", "intersection", "difference"):
        return None
    if answer.kind == "set" and any(item.kind != "expression" for item in answer.items):
        return None  # of sets or points
    parts = [part for item in answer.items if (part := region(item, algebra)) is not None]
    if len(parts) < len(answer.items):
        return None
    if answer.kind == "difference":
        return spans.intersection(parts[0], spans.complement([each for part in parts[1:] for each in part]))
    if answer.kind == "intersection" or (answer.kind == "list" and answer.text != "or"):
        both = reduce(spans.intersection, parts)  # x > 1, x < 3: both hold
        if both or answer.text != ",":  # x < 1, x > 3: a comma for "or", since they cannot
            return both
    return spans.union([each for part in parts for each in part])


def _interval(answer: Answer, algebra: Algebra | None) -> list[Span] | None:
    if len(answer.items) != 2 or answer.text == "<>":
        return None
    low, high = (_bound(item, algebra) for item in answer.items)
    if low is None or high is None or low > high:
        return None
    return [spans.span(low, high, answer.text[0] == "[", answer.text[1] == "]")]


def _bound(answer: Answer, algebra: Algebra | None) -> Fraction | None:
    if answer.kind != "expression":
        return None
    if answer.text.lstrip("+-") == r"\infty":
        return -FAR if answer.text[0] == "-" else FAR
    value = asked(algebra).constant(answer.text) if answer.value is None else answer.value
    return None if value is None else spans.rounded(value)


def _solved(relation: Answer, algebra: Algebra | None) -> list[Span] | None:
    """The solutions of a chain of relations in one real variable."""
    result = [spans.span(-FAR, FAR)]
    for left, sign, right in zip(relation.items, relation.text.split(), relation.items[1:], strict=False):
        if left.kind != "expression" or right.kind != "expression":
            return None
        if is_name(right) and not variables(left):
            left, sign, right = right, FLIPPED[sign], left
        if is_name(left) and not variables(right):
            value = _bound(right, algebra)
            found = None if value is None else spans.half_line(sign, value)
        else:
            found = asked(algebra).solve((left.text, right.text), sign)
        if found is None:
            return None
        result = spans.intersection(result, found)
    return result

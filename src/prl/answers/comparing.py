"""When two readings are the same answer. DECISIONS.md lists the ambiguous cases.

`same` decides all that exact arithmetic and structure decide. What needs algebra goes to `algebra`, a
worker's view of sympy; in the parent process there is none, and `NeedsAlgebra` is raised instead, so that
both processes run this one piece of code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache, reduce

from prl.answers import approximation
from prl.answers.bases import in_base_ten
from prl.answers.decimals import LONG, agree, is_endless
from prl.answers.expression import combine, near, variable_name
from prl.answers.kinds import Answer, assigned_names, is_name, variables
from prl.answers.questions import Algebra, NeedsAlgebra, asked
from prl.answers.regions import FLIPPED, is_region, region, subjects
from prl.answers.translation import TRIGONOMETRIC, translate


def same(pred: Answer, gold: Answer, algebra: Algebra | None = None) -> bool:
    """Whether `pred` is the answer `gold`. Raises NeedsAlgebra where that is needed and `algebra` is None."""
    return _Comparison(algebra).same(pred, gold)


class _Comparison:
    def __init__(self, algebra: Algebra | None) -> None:
        self._algebra = algebra

    @property
    def algebra(self) -> Algebra:
        return asked(self._algebra)

    def same(self, pred: Answer, gold: Answer) -> bool:
        """Dispatch on the kinds, from those that only match themselves to those with several writings."""
        kinds = {pred.kind, gold.kind}
        if kinds == {"expression"}:
            return self.expressions(pred, gold)
        if pred.alternative and gold.kind not in ("expression", "choice"):
            return self.same(pred.alternative, gold)
        if gold.alternative and pred.kind not in ("expression", "choice", "relation"):
            if gold.alternative.kind != "list":
                return self.same(pred, gold.alternative)
            # 12, 345 against 12,345: a list in this order
            return (
                pred.kind == "list" and pred.text == "," and self.all_same(pred.items, gold.alternative.items)
            )
        if kinds & {"word", "choice"}:
            return self.words(pred, gold)
        if kinds in ({"relation", "base"}, {"relation", "ratio"}):
            return self.assigned(*((pred, gold) if pred.kind == "relation" else (gold, pred)))
        if "base" in kinds:
            return pred.kind == gold.kind and (pred.text, pred.value) == (gold.text, gold.value)
        if "ratio" in kinds:
            return self.ratios(pred, gold)
        if "matrix" in kinds:
            return self.matrices(pred, gold)
        if kinds == {"relation"} and self.relations(pred, gold):
            return True
        if kinds == {"member"}:
            return self.all_same(pred.items, gold.items)
        if kinds == {"set", "tuple"}:  # {(1, 2)} against (1, 2)
            only, other = (pred, gold) if pred.kind == "set" else (gold, pred)
            if len(only.items) == 1 and only.items[0].kind == "tuple":
                return self.same(only.items[0], other)
        pred_region, gold_region = is_region(pred), is_region(gold)
        if pred_region and gold_region and kinds != {"tuple"} and kinds != {"set"}:
            return self.regions(pred, gold)
        if pred.kind == "member" and not gold_region:
            return self.same(pred.items[1], gold)
        if gold.kind == "member" and not pred_region:
            return self.same(pred, gold.items[1])
        if kinds <= {"list", "set"}:
            return self.collections(pred, gold)
        if kinds == {"tuple"}:
            return self.tuples(pred, gold)
        if kinds == {"tuple", "list"}:
            return self.tuple_and_list(pred, gold)
        if kinds == {"tuple", "expression"}:
            return self.vectors(pred, gold)
        if pred.kind == "relation" and gold.kind != "relation":
            return self.assigned(pred, gold)
        if gold.kind == "relation" and pred.kind != "relation":
            return self.assigned(gold, pred)
        many, one = (gold, pred) if pred.kind == "expression" else (pred, gold)
        # One value, written as several: {5}, ±0, 3/4 or 0.75
        if many.kind == "set" or (many.kind == "list" and many.text in ("±", "or")):
            return one.kind == "expression" and all(self.same(item, one) for item in many.items)
        return False

    # -- single values

    def expressions(self, pred: Answer, gold: Answer) -> bool:
        pred, gold = _with_letter_unit(pred, gold), _with_letter_unit(gold, pred)
        scale = Fraction(1)
        if pred.unit and gold.unit:
            if pred.unit[0] != gold.unit[0]:
                return False
            scale = pred.unit[1] / gold.unit[1]
        scales = [scale]
        if pred.percent != gold.percent:  # a % that one side leaves out
            scales.append(scale / 100 if pred.percent else scale * 100)
        if any(self.multiple(pred, factor, gold) for factor in scales):
            return True
        if (pred.unsigned is None) == (gold.unsigned is None):
            return False
        one, other = (pred.unsigned, gold) if pred.unsigned else (gold.unsigned, pred)
        return one is not None and _has_trigonometry(other) and self.multiple(one, Fraction(1), other)

    def multiple(self, pred: Answer, factor: Fraction, gold: Answer) -> bool:
        """Whether `factor` times `pred` is `gold`."""
        if pred.value is not None and gold.value is not None:
            scaled = pred.value * factor
            if scaled == gold.value or max(pred.digits, gold.digits) < LONG or min(pred.digits, gold.digits):
                return scaled == gold.value
            number, exact = (scaled, gold.value) if pred.digits else (gold.value, scaled)
            return is_endless(exact) and agree(number, max(pred.digits, gold.digits), exact)
        if factor == 1 and max(pred.digits, gold.digits) >= LONG and not _far_apart(pred, gold):
            decimal, other = (pred, gold) if pred.digits else (gold, pred)
            value = self.algebra.constant(other.text)
            if value is None or decimal.value is None:
                return False
            return agree(decimal.value, decimal.digits, value)
        if factor != 1:
            pred = _times(
                pred, Answer("expression", text=f"\\frac{{{factor.numerator}}}{{{factor.denominator}}}")
            )
        elif pred.text == gold.text:
            return True
        return not _far_apart(pred, gold) and self.algebra.equal(pred.text, gold.text)

    def words(self, pred: Answer, gold: Answer) -> bool:
        if pred.kind == gold.kind == "choice":
            return pred.text == gold.text
        if gold.kind == "choice" and pred.kind == "expression" and pred.plain == gold.text.lower():
            # b stands for B; e and i are numbers
            return gold.alternative is None and pred.alternative is None and pred.plain not in "ei"
        if pred.kind == "choice":
            return pred.alternative is not None and gold.kind != "list" and self.same(pred.alternative, gold)
        if gold.kind == "choice":
            return gold.alternative is not None and pred.kind != "list" and self.same(pred, gold.alternative)
        return pred.plain == gold.plain != ""

    def ratios(self, pred: Answer, gold: Answer) -> bool:
        if pred.kind != gold.kind:
            ratio, other = (pred, gold) if pred.kind == "ratio" else (gold, pred)
            return (
                other.kind == "expression"
                and len(ratio.items) == 2
                and self.expressions(_quotient(ratio), other)
            )
        first, second = pred.items[0], gold.items[0]
        return len(pred.items) == len(gold.items) and all(
            self.expressions(_times(one, second), _times(other, first))
            for one, other in zip(pred.items[1:], gold.items[1:], strict=True)
        )

    # -- collections

    def all_same(self, pred: Sequence[Answer], gold: Sequence[Answer]) -> bool:
        """In order."""
        return len(pred) == len(gold) and all(map(self.same, pred, gold))

    def unordered(self, pred: Sequence[Answer], gold: Sequence[Answer]) -> bool:
        """Whether the items can be paired off; greedy, since sameness of items is transitive."""
        left = list(gold)
        for item in pred if len(pred) == len(gold) else ():
            index = self.find(item, left)
            if index is None:
                return False
            del left[index]
        return not left

    def find(self, item: Answer, among: Sequence[Answer]) -> int | None:
        """Index of the first answer that is the same; what exact arithmetic finds comes before algebra."""
        undecided = []
        for index, other in enumerate(among):
            if {item.kind, other.kind} & {"set"} and item.kind != other.kind:  # {1, {2}} is not {1, 2}
                continue
            if item.counted and other.counted and item.counted != other.counted:  # 3 apples, 4 pears
                continue
            try:
                if same(item, other):
                    return index
            except NeedsAlgebra:
                undecided.append(index)
        return next((index for index in undecided if self.same(item, among[index])), None)

    def distinct(self, items: Sequence[Answer]) -> list[Answer]:
        kept: list[Answer] = []
        for item in items:
            if self.find(item, kept) is None:
                kept.append(item)
        return kept

    def collections(self, pred: Answer, gold: Answer) -> bool:
        """Lists and sets. x = 1, y = 2 has its order against bare values and none against other equations."""
        if {pred.text, gold.text} == {"and", "or"} and all(
            item.kind == "choice" or is_name(item) for item in pred.items
        ):
            return False  # "A and B" is not "A or B", where the solutions "2 and 3" are those of "2 or 3"
        named = [bool(assigned_names(answer.items)) for answer in (pred, gold)]
        if named[0] != named[1]:
            names, other = (pred.items, gold.items) if named[0] else (gold.items, pred.items)
            values = [item.items[1] for item in names]
            if len({name.text for name in assigned_names(names)}) > 1:
                return self.all_same(values, other)
            return self.unordered(values, other)
        if not named[0] and "set" in (pred.kind, gold.kind):
            return self.unordered(self.distinct(pred.items), self.distinct(gold.items))
        return self.unordered(pred.items, gold.items)

    def tuples(self, pred: Answer, gold: Answer) -> bool:
        """Two entries may be an interval: there the brackets count, but (1,2) may be the vector ⟨1,2⟩."""
        brackets = {pred.text, gold.text}
        if len(pred.items) == 2 and len(brackets) == 2 and brackets != {"()", "<>"}:
            return False
        return self.all_same(pred.items, gold.items)

    def tuple_and_list(self, pred: Answer, gold: Answer) -> bool:
        """A tuple against a bare list (1, 2 or x = 1, y = 2): in the tuple's order."""
        ordered, loose = (pred, gold) if pred.kind == "tuple" else (gold, pred)
        names = [name.text for name in assigned_names(loose.items)]
        if loose.text in ("±", "or") or len(set(names)) < len(names):
            return False
        if len(ordered.items) == 2 and ordered.text not in ("()", "<>"):
            return False
        values = [item.items[1] if names else item for item in loose.items]
        if names and {*map(variable_name, names)} <= {*"xyz"}:  # y = 2, x = 1 is (1, 2)
            in_order = sorted(zip(names, values, strict=True), key=lambda pair: variable_name(pair[0]))
            values = [value for _, value in in_order]
        return self.all_same(ordered.items, values)

    def matrices(self, pred: Answer, gold: Answer) -> bool:
        """A matrix against a matrix, a vector in another notation, or rows in brackets."""
        if pred.kind == gold.kind:
            return self.same_rows(pred.items, gold.items)
        matrix, other = (pred, gold) if pred.kind == "matrix" else (gold, pred)
        rows = matrix.items
        if other.kind == "relation":
            return self.assigned(other, matrix)
        is_column = all(len(row.items) == 1 for row in rows)
        entries = [row.items[0] for row in rows] if is_column else list(rows[0].items)
        if other.kind == "expression":
            return is_column and self.vectors(Answer("tuple", tuple(entries)), other)
        if other.kind != "tuple" or other.text in ("[)", "(]"):
            return False
        if is_column or len(rows) == 1:
            return self.all_same(entries, other.items)
        return all(item.kind == "tuple" for item in other.items) and self.same_rows(rows, other.items)

    def same_rows(self, pred: Sequence[Answer], gold: Sequence[Answer]) -> bool:
        return len(pred) == len(gold) and all(
            self.all_same(one.items, other.items) for one, other in zip(pred, gold, strict=True)
        )

    def vectors(self, pred: Answer, gold: Answer) -> bool:
        """A vector's entries against a sum of unit vectors, 2i - 3j in bold."""
        entries, total = (pred, gold) if pred.kind == "tuple" else (gold, pred)
        units = _unit_vectors()
        if len(entries.items) > 3 or not any(unit.text in total.text for unit in units):
            return False
        terms = [_times(*term) for term in zip(entries.items, units, strict=False)]
        return self.expressions(reduce(_plus, terms), total)

    # -- relations and sets of reals

    def assigned(self, relation: Answer, other: Answer) -> bool:
        """x = 5 against 5: the name is dropped; x = 2 + 3 = 5 counts by its last side."""
        if set(relation.text.split()) != {"="}:
            return False
        first, last = relation.items[0], relation.items[-1]
        if is_name(first):
            return self.same(last, other) and (is_name(last) or not is_name(other))
        if is_name(last):
            return self.same(first, other)
        if first.kind in ("tuple", "ratio") and all(map(is_name, first.items)):
            return self.same(last, other)
        numbers = relation.items[1:] if len(relation.items) > 2 else relation.items
        if not any(map(variables, numbers)):  # 2 + 3 = 5, and m + n = 2 + 3 = 5: true of numbers
            return self.same_number(numbers[0], last) and self.same(last, other)
        # x^2 + x = x(x + 1) against x(x + 1): true of all x
        return first.kind == last.kind == "expression" and self.same(first, last) and self.same(last, other)

    def same_number(self, one: Answer, other: Answer) -> bool:
        """In whatever base each is written."""
        if "base" not in (one.kind, other.kind):
            return self.same(one, other)
        values = [in_base_ten(each) for each in (one, other)]
        return None not in values and values[0] == values[1]

    def relations(self, pred: Answer, gold: Answer) -> bool:
        signs, others = pred.text.split(), gold.text.split()
        if signs == others and self.all_same(pred.items, gold.items):
            return True
        if [FLIPPED[sign] for sign in reversed(signs)] == others and self.all_same(
            pred.items[::-1], gold.items
        ):
            return True
        if len(signs) == len(others) == 1:
            return self.single_relations(pred, gold)
        ends = [[answer.items[0], answer.items[-1]] for answer in (pred, gold)]
        return {*signs, *others} == {"="} and self.all_same(*ends)  # y = 2x + 2x = 4x

    def single_relations(self, pred: Answer, gold: Answer) -> bool:
        """Whether left - right of one is a multiple of the other's; a negative one turns the sign round."""
        sides = (*pred.items, *gold.items)
        if pred.text == gold.text == "=" and _is_graph(pred.items[0], gold.items[0]):
            return self.same(pred.items[1], gold.items[1])
        if any(side.kind != "expression" for side in sides):
            return False
        if not any("\\frac" in side.text for side in sides) and _unproportional(pred, gold):
            return False
        left, right = (f"({one.text})-({other.text})" for one, other in (pred.items, gold.items))
        if pred.text == gold.text and pred.text in ("=", "!="):
            return self.algebra.same_zeros(left, right)
        if pred.text in (gold.text, FLIPPED[gold.text]):
            return self.algebra.proportional(left, right) == (1 if pred.text == gold.text else -1)
        return False

    def regions(self, pred: Answer, gold: Answer) -> bool:
        """Two descriptions of sets of reals, by the sets; relations in several variables item by item."""
        if len(subjects(pred) | subjects(gold)) > 1:
            return pred.kind == gold.kind == "list" and self.unordered(pred.items, gold.items)
        if pred.kind == gold.kind == "union" and self.unordered(pred.items, gold.items):
            return True  # (a, b) ∪ (c, d) has no end points to sort
        left, right = (region(answer, self._algebra) for answer in (pred, gold))
        return left is not None and left == right


def _has_trigonometry(answer: Answer) -> bool:
    return any(f"\\{name}(" in answer.text for name in TRIGONOMETRIC)


def _is_graph(one: Answer, other: Answer) -> bool:
    """Whether one side is `f(x)` and the other `y`."""
    names = [variable_name(side.text) for side in (one, other) if side.kind == "expression" and is_name(side)]
    return len(names) == 2 and "y" in names and any(name.startswith(("f(", "g(", "h(")) for name in names)


def _with_letter_unit(answer: Answer, other: Answer) -> Answer:
    """`answer` as 5 metres where it reads `5m` and the other side is a plain number or has a unit."""
    metres = answer.alternative
    if (
        metres is None
        or metres.unit is None
        or not (other.unit or (other.value is not None and not other.alternative))
    ):
        return answer
    return metres


def _far_apart(one: Answer, other: Answer) -> bool:
    """Whether two expressions certainly differ at a sample point."""
    return any(
        left is not None and right is not None and approximation.far_apart(left, right)
        for left, right in zip(one.near, other.near, strict=True)
    )


def _unproportional(one: Answer, other: Answer) -> bool:
    """Whether left − right of two relations certainly are no multiples of each other."""
    differences = [
        combine(approximation.subtract, *(side.near for side in each.items)) for each in (one, other)
    ]
    first, second = combine(approximation.divide, *differences)
    return first is not None and second is not None and approximation.far_apart(first, second)


def _times(one: Answer, other: Answer) -> Answer:
    value = None if one.value is None or other.value is None else one.value * other.value
    product = combine(approximation.multiply, one.near, other.near)
    return replace(one, text=f"({one.text}) \\cdot ({other.text})", value=value, near=product)


def _plus(one: Answer, other: Answer) -> Answer:
    total = combine(approximation.add, one.near, other.near)
    return replace(one, text=f"{one.text}+{other.text}", value=None, near=total)


def _quotient(ratio: Answer) -> Answer:
    top, bottom = ratio.items
    value = None if top.value is None or not bottom.value else top.value / bottom.value
    quotient = combine(approximation.divide, top.near, bottom.near)
    return replace(top, text=f"\\frac{{{top.text}}}{{{bottom.text}}}", value=value, near=quotient)


@cache
def _unit_vectors() -> list[Answer]:
    expressions = [translate([name]) for name in (r"\uniti", r"\unitj", r"\unitk")]
    return [Answer("expression", text=each.latex, near=near(each)) for each in expressions]

"""What an answer is: a number, an expression, a list, an interval, a matrix, a relation, a word, …

`read` splits the structures that latex2sympy2's grammar does not know and leaves the parts to
`translation.translate`. It never evaluates anything but bounded rational arithmetic.
"""

# ruff: noqa: SIM905 (lists of names read better as words)

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

from prl.answers.bases import subscripted_base, told_base
from prl.answers.expression import near
from prl.answers.kinds import Answer
from prl.answers.limits import MAX_CELLS, Refused, Unreadable, check_size
from prl.answers.notation import LETTER_UNITS, WORDS, clean, match_groups, plain_words, tokens
from prl.answers.translation import TRIGONOMETRIC, translate
from prl.answers.units import known_unit, split_unit

_RELATIONS = {"<": "<", ">": ">", "=": "=", r"\le": "<=", r"\ge": ">=", r"\ne": "!="}
_OPERATOR = r"(?![-+*/^=<>_!,;(\[|]|\\(?:cdot|times|le|ge|ne|lt|gt|cup|cap|in|pm|mp)(?![a-zA-Z]))"
_CHOICE = re.compile(  # (A)  (a)  [A]  A  A.  A)  A: 12  (B) 12  Option C
    r"(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s*)?(?:[(\[]\s*([A-Ja-j])\s*[)\]](?=\s|[.:]|$)|([A-J])(?=[.):]|$))"
    rf"\s*[.):]?\s*{_OPERATOR}(.*)",
    re.DOTALL,
)
_ONE = r"(?:\([A-J]\)|\[[A-J]\]|[A-J])"
_CHOICES = re.compile(rf"{_ONE}(?:\s*(?:,\s*)?(,|;|\band\b|\bor\b)\s*{_ONE})+[.]?")  # (A) and (C)
# Behind a choice: (A) or (B), A. 12 and B. 13: two choices at once are not one
_ANOTHER_CHOICE = re.compile(
    r"(?:[^A-Za-z]|and\b|or\b)*?(?:\([A-J]\)(?!\w)|\[[A-J]\]|(?:[,;/]|\band\b|\bor\b)\s*[A-J](?:[.):]|\s|$))"
)
_PLAIN_WORDS = re.compile(r"[^\W\d_](?:[^\W\d_]|[ .,'’()-])*|[^\W\d_]{3}[\w .,;:'’-]*|[A-Z]{2,}")
_REALS = frozenset("allrealnumber allreal realnumber real".split())
_EMPTY = frozenset("emptyset nullset nosolution norealsolution".split())
_SYNONYMS = {"dne": "doesnotexist", "infinitelymanysolution": "infinitelymany"}
_CLOCK = re.compile(r"\d{1,2}:0\d|\d{1,2}:\d\d:\d\d")
# A hyphen within a word is none: 12-hour
_OPERATORS = re.compile(
    r"[+/*^=|<>]|-(?!(?<=\w-)[^\W\d_]{3})|\\(?:frac|sqrt|cdot|times|pm|mp|over|binom)(?![a-zA-Z])"
)
_SQUARE_METRES = [["m", "^", *exponent] for n in "23" for exponent in ([n], ["{", n, "}"])]
_DECIDED = re.compile(r"(yes|no)[.,;:]\s[^\d\\$]*", re.IGNORECASE)  # No, it cannot
_TIME = re.compile(r"(\d{1,2})(?:\s*:\s*(\d\d))?\s*(?:\\text\{)?\s*([ap])\.?\s?m\.?\s*\}?", re.IGNORECASE)


def read(text: str) -> Answer:
    """The reading of `text`, a bare answer. Raises Refused over a limit, Unreadable where there is none."""
    check_size(text)
    cleaned = clean(text)
    if not cleaned:
        raise Unreadable("nothing")
    answer = _words(cleaned)
    if answer is None:
        whole = re.fullmatch(r"\\text\{([^{}]*)\}", cleaned)
        answer = _whole(tokens(whole[1] if whole else cleaned))
    if answer.plain or _is_formula(answer, cleaned):
        return answer
    return replace(answer, plain=plain_words(cleaned))


def _is_formula(answer: Answer, cleaned: str) -> bool:
    """Whether letters and digits alone do not say what an answer is: a + b is not the word "ab"."""
    if answer.kind == "list":
        return all(item.kind == "expression" for item in answer.items)
    return _OPERATORS.search(re.sub(r"\\text\{[^{}]*\}", "", cleaned)) is not None


def _whole(items: list[str]) -> Answer:
    """The reading of all tokens of an answer, with what only stands at its ends."""
    if not items:
        raise Unreadable("nothing")
    if items[0] == "]" or items[-1] == "[":  # French brackets: ]1,2[
        items = ["(" if items[0] == "]" else items[0], *items[1:-1], ")" if items[-1] == "[" else items[-1]]
    if items[-1] == ")" and items.count(")") == items.count("(") + 1 and "[" not in items:
        items = items[:-1]
    answer = _compound(items) or _structure(items)
    if len(items) == 1 and "," in items[0]:
        return replace(answer, alternative=_structure(_without_thousands(items[0])))
    if items[-1] in LETTER_UNITS and len(items) > 1 and (items[-2][0].isdecimal() or items[-2] == "}"):
        return replace(answer, alternative=replace(_structure(items[:-1]), unit=known_unit(items[-1])))
    for tail in _SQUARE_METRES:
        at = len(items) - len(tail)
        if at > 0 and items[at:] == tail and (items[at - 1][0].isdecimal() or items[at - 1] == "}"):
            area = replace(_structure(items[:at]), unit=known_unit("".join(tail)))
            return replace(answer, alternative=area)
    return answer


def _compound(items: list[str]) -> Answer | None:
    """A quantity in two units, 1 hour 30 minutes; None for anything else."""
    parts = [token for token in items if token not in (r"\and", ",", ", ")]
    if len(parts) != 4 or not all(
        parts[at][0].isdecimal() and parts[at + 1].startswith(r"\text") for at in (0, 2)
    ):
        return None
    one, other = _leaf(parts[:2]), _leaf(parts[2:])
    if not one.unit or not other.unit or one.unit[0] != other.unit[0] or one.unit == other.unit:
        return None
    assert one.value is not None
    assert other.value is not None
    total = one.value + other.value * other.unit[1] / one.unit[1]
    return replace(one, text=f"\\frac{{{total.numerator}}}{{{total.denominator}}}", value=total, digits=0)


def _words(cleaned: str) -> Answer | None:
    """Answers that are words: times, numbers "in base six", choice letters, plain text; else None."""
    whole = re.fullmatch(r"\\text\{([^{}]*)\}", cleaned)
    bare = (whole[1] if whole else re.sub(r"\\text\{([^{}]*)\}", r"\1", cleaned)).strip()
    if match := _TIME.fullmatch(bare):
        time = f"{int(match[1])}:{match[2] or '00'}{match[3].lower()}m"
        return Answer("word", text=time, plain=time)
    if _CLOCK.fullmatch(bare):  # 2:00 and 7:00 are no ratios
        return Answer("word", text=bare, plain=bare)
    if match := _DECIDED.fullmatch(bare):
        return Answer("word", text=match[1].lower(), plain=match[1].lower())
    if based := told_base(bare):
        return based
    if match := _CHOICES.fullmatch(bare):
        letters = re.findall(r"\b[A-J]\b", bare)
        choices = (Answer("choice", text=letter, alternative=_leaf([letter])) for letter in letters)
        return Answer("list", tuple(choices), match[1])
    if (match := _CHOICE.fullmatch(bare)) and not _ANOTHER_CHOICE.match(match[3]):
        letter = match[1] or match[2]
        if letter.isupper() or bare != letter:
            return Answer("choice", text=letter.upper(), alternative=_content(match[3]))
    plain = plain_words(bare)
    plain = _SYNONYMS.get(plain, plain)
    if "\\" in bare or bare in WORDS or not plain or not _PLAIN_WORDS.fullmatch(bare):
        return None
    if plain in _REALS:
        return Answer("reals")
    if plain in _EMPTY:
        return Answer("empty")
    parts = re.split(r"\s*,?\s+and\s+|\s*[,;]\s*", bare)
    if len(parts) > 1:
        words = [_words(part) for part in parts]
        if all(word and word.kind == "word" for word in words):
            together = "and" if re.search(r"\band\b", bare) else ","
            return Answer("list", tuple(replace(word, plain=word.text) for word in words if word), together)
        return None
    if (len(bare) > 1 and "\\text" in cleaned) or _wordlike(bare):
        return Answer("word", text=plain, plain=plain)
    return None


def _content(text: str) -> Answer | None:
    """What stands beside a choice letter, `12` in "(B) 12"."""
    try:
        return replace(_words(text) or _structure(tokens(text)), plain=plain_words(text)) if text else None
    except Unreadable:
        return None


def _wordlike(bare: str) -> bool:
    runs = re.findall(r"[^\W\d_]+", bare)
    if re.fullmatch(r"[A-Z]{2,}", bare) or bare.lower() == "no":
        return True
    return any(len(run) > 2 for run in runs) and not any(run in WORDS for run in runs)


def _split(
    items: list[str], separators: frozenset[str], closing: dict[int, int]
) -> tuple[list[list[str]], list[str]]:
    """Parts of `items` between separators outside groups, and the separators."""
    parts: list[list[str]] = [[]]
    found: list[str] = []
    index = 0
    while index < len(items):
        end = closing.get(index)
        if end is not None:
            parts[-1] += items[index : end + 1]
            index = end + 1
            continue
        if items[index] in separators:
            found.append(items[index])
            parts.append([])
        else:
            parts[-1].append(items[index])
        index += 1
    return parts, found


_COMMAS = frozenset([",", ", ", ";", r"\and", r"\or"])


def _structure(items: list[str]) -> Answer:
    """The reading of tokens, from the loosest structure to the tightest."""
    if not items:
        raise Unreadable("an empty part")
    closing = match_groups(items)
    if items[0] == "{" and closing[0] == len(items) - 1:
        return _structure(items[1:-1])
    parts, separators = _split(items, _COMMAS, closing)
    if separators:
        return _list([part for part in parts if part], separators)
    for sign, kind in ((r"\cup", "union"), (r"\cap", "intersection"), (r"\setminus", "difference")):
        parts, separators = _split(items, frozenset([sign]), closing)
        if separators:
            return Answer(kind, tuple(_structure(part) for part in parts))
    if items[0] == r"\reals" and items[1:2] == ["-"]:
        return Answer("difference", (Answer("reals"), _structure(items[2:])))
    parts, separators = _split(items, frozenset([r"\approx"]), closing)
    if separators:  # 2√2 ≈ 2.83 states 2√2; x ≈ 2.83 and ≈ 2.83 state 2.83
        only_name = not parts[0] or (len(parts[0]) == 1 and parts[0][0].isalpha())
        return _structure(parts[-1] if only_name else parts[0])
    parts, separators = _split(items, frozenset([r"\in"]), closing)
    if len(parts) == 2:
        return Answer("member", (_structure(parts[0]), _structure(parts[1])))
    parts, separators = _split(items, frozenset(_RELATIONS), closing)
    if separators:
        if not parts[0] and len(parts) == 2 and separators == ["="]:
            return _structure(parts[1])
        return _relation(parts, [_RELATIONS[sign] for sign in separators])
    if items[0] in ("(", "[", r"\{", r"\langle") and closing[0] == len(items) - 1:
        return _group(items)
    if items[0].isalpha() and items[0].isupper() and items[1:2] == ["("] and closing[1] == len(items) - 1:
        point = _group(items[1:])
        if point.kind == "tuple":  # P(1, 2)
            return point
    if items == [r"\reals"]:
        return Answer("reals")
    if items == [r"\emptyset"]:
        return Answer("empty")
    if matrix := _matrix(items, closing):
        return matrix
    parts, separators = _split(items, frozenset([":"]), closing)
    if separators and all(parts):
        return Answer("ratio", tuple(_structure(part) for part in parts))
    if based := subscripted_base(items):
        return based
    signs = [index for index, token in enumerate(items) if token in (r"\pm", r"\mp")]
    if signs:
        return _plus_minus(items, signs)
    return _leaf(items)


def _list(parts: list[list[str]], separators: list[str]) -> Answer:
    if not parts:
        raise Unreadable("only separators")
    if len(parts) == 1:
        return _structure(parts[0])
    if len(parts) > MAX_CELLS:
        raise Refused(f"more than {MAX_CELLS} items")
    read_parts = [_structure(part) for part in parts]
    first, *rest = read_parts
    if (
        first.kind == "relation"
        and first.text in ("=", "!=")
        and all(part.kind in ("expression", "base") for part in rest)
    ):
        read_parts = [first, *(replace(first, items=(first.items[0], part)) for part in rest)]  # x = 1, 2
    word = "or" if r"\or" in separators else "and" if r"\and" in separators else ","
    return Answer("list", _flat(read_parts), word)


def _flat(items: list[Answer]) -> tuple[Answer, ...]:
    """`items` with the lists that ± made spliced in."""
    flat: list[Answer] = []
    for item in items:
        flat += item.items if item.kind == "list" and item.text == "±" else (item,)
    return tuple(flat)


def _relation(parts: list[list[str]], signs: list[str]) -> Answer:
    named = signs[0] == "=" and _NAME_OF_SOMETHING.fullmatch("".join(parts[0]))
    first = None
    if not named:
        try:
            first = _structure(parts[0])
        except Unreadable:  # \lim_{x \to 0} f(x) = 1 states 1
            if signs != ["="] or _NEGATION.search("".join(parts[0])):
                raise
    sides = [first or _name("".join(parts[0])), *map(_structure, parts[1:-1]), _whole(parts[-1])]
    if signs == ["="] and sides[1].kind == "list" and sides[1].text == "±":
        return Answer("list", tuple(Answer("relation", (sides[0], x), "=") for x in sides[1].items), "±")
    return Answer("relation", tuple(sides), " ".join(signs))


# P(A), f'(x), f^{-1}(x), y', dy/dx, AB, |AB|: on the left of an equation a name, not a product
_MARK = r"'{1,2}|\^\{-1\}|_\{?\w+\}?"
_NAME_OF_SOMETHING = re.compile(
    rf"(?:[fgh](?:{_MARK})|[pqFGHPQEVASTCNR](?:{_MARK})?)\([^()]*\)"
    r"|[a-z]'{1,2}|[A-Z]\^\{(?:-1|T)\}|\\frac\{d[a-z]?\}\{d[a-z]\}|\|?[A-Z]{2,4}\|?"
)


_NEGATION = re.compile(r"(?<![ak])not(?![ei])|n't|never")  # within words that stand side by side


def _name(text: str) -> Answer:
    named = translate([f"\\name{{{text[:40]}}}"])
    return Answer("expression", text=named.latex, near=near(named))


def _group(items: list[str]) -> Answer:
    opening, ending, inner = items[0].lstrip("\\"), items[-1].lstrip("\\"), items[1:-1]
    if not inner:
        if opening == "{":
            return Answer("empty")
        raise Unreadable("an empty group")
    if ", " not in inner and ";" not in inner:  # (1,234) is a point; (1,234, 5) holds the number 1,234
        inner = [piece for token in inner for piece in _without_thousands(token)]
    parts, _ = _split(inner, _COMMAS, match_groups(inner))
    if opening == "{":
        conditions, bars = _split(inner, frozenset(["|", ":"]), match_groups(inner))
        if len(bars) == 1 and any(token in _RELATIONS or token == r"\in" for token in conditions[1]):
            return _structure(conditions[1])
        return Answer("set", _flat([_structure(part) for part in parts if part]))
    if len(parts) == 1:
        return _structure(inner) if opening in "([" else Answer("tuple", (_structure(inner),), "<>")
    if not all(parts):
        raise Unreadable("an empty entry")
    if len(parts) > MAX_CELLS:
        raise Refused(f"more than {MAX_CELLS} entries")
    brackets = "<>" if opening == "langle" else opening + ending
    return Answer("tuple", tuple(_structure(part) for part in parts), brackets)


def _without_thousands(token: str) -> list[str]:
    """`token`, or its three-digit groups with commas between when it is a number like 12,345."""
    if not token[0].isdecimal():
        return [token]
    return re.split("(,)", token)


def _matrix(items: list[str], closing: dict[int, int]) -> Answer | None:
    starts = [index for index, token in enumerate(items) if token.startswith(r"\begin")]
    if not starts or closing.get(starts[0]) != len(items) - 1:
        return None
    start = starts[0]
    name = re.sub(r"\\begin\s*\{(\w+)\*?\}", r"\1", items[start])
    body = items[start + 1 : -1]
    if name == "array" and body[:1] == ["{"]:
        body = body[match_groups(body)[0] + 1 :]
    if name == "cases" and "&" not in body:
        return _structure([r"\and" if token == r"\\" else token for token in body])
    if name not in ("matrix", "pmatrix", "bmatrix", "array", "smallmatrix", "psmallmatrix", "bsmallmatrix"):
        raise Unreadable(f"a {name} environment")
    rows, _ = _split(body, frozenset([r"\\"]), match_groups(body))
    rows = [row for row in rows if row and row != [r"\hline"]]
    factor = items[:start]
    while factor and factor[-1] == r"\cdot":
        factor = factor[:-1]
    prefix = ["(", *(["-", "1"] if factor == ["-"] else factor), ")", r"\cdot"] if factor else []
    table = []
    for row in rows:
        cells, _ = _split(row, frozenset(["&"]), match_groups(row))
        read_cells = (_structure([*prefix, "(", *cell, ")"] if factor else cell) for cell in cells)
        table.append(Answer("tuple", tuple(read_cells), "()"))
    if all(
        len(row.items) == 1 and row.items[0].kind == "relation" for row in table
    ):  # x = 1, x = 4 in a column
        return Answer("list", tuple(row.items[0] for row in table), "and")
    if len({len(row.items) for row in table}) != 1 or len(table) * len(table[0].items) > MAX_CELLS:
        raise Unreadable("a matrix with ragged rows, or none")
    return Answer("matrix", tuple(table))


def _plus_minus(items: list[str], signs: list[int]) -> Answer:
    """Every choice of the signs; `\\mp` is tied to `\\pm`, several `\\pm` are independent."""
    if len(signs) > 3:
        raise Refused("more than three ± signs")
    tied = any(items[index] == r"\mp" for index in signs)
    readings = []
    for choice in product("+-", repeat=1 if tied else len(signs)):
        copy = list(items)
        for sign, index in zip(choice * len(signs) if tied else choice, signs, strict=False):
            copy[index] = sign if items[index] == r"\pm" else ("-" if sign == "+" else "+")
        readings.append(_structure(copy[1:] if copy[0] == "+" else copy))
    return Answer("list", tuple(readings), "±")


def _leaf(items: list[str]) -> Answer:
    """An expression with what surrounds it: currency, unit, percent, degree sign."""
    body, unit = split_unit(items)
    percent = body[-1:] == [r"\pct"]
    if percent:
        body = body[:-1]
    if not body:
        raise Unreadable("only a unit")
    if body[0].startswith(r"\text") and len(body) == 1:
        word = plain_words(body[0])
        return Answer("word", text=word, plain=word)
    expression = translate(list(body))
    in_functions = r"\deg" in body and any(token[1:] in TRIGONOMETRIC for token in body)
    return Answer(
        "expression",
        text=expression.latex,
        value=expression.value,
        unit=unit,
        percent=percent,
        near=near(expression),
        counted=plain_words("".join(tail))
        if (tail := items[len(body) :]) and not unit and not percent
        else "",
        digits=len(body[-1].replace(".", "").lstrip("0")) if "." in body[-1] and len(body) <= 2 else 0,
        unsigned=_leaf([token for token in body if token != r"\deg"]) if in_functions else None,
    )

r"""One notation for the many ways of writing the same answer.

`clean` turns an answer as written (LaTeX, Unicode, ASCII mathematics, markdown) into a small LaTeX dialect;
`tokens` cuts that into tokens. Neither decides what the answer means. Input is at most `limits.MAX_CHARS`
characters long; every pattern is linear in it.
"""

# ruff: noqa: SIM905 (lists of names read better as words)

from __future__ import annotations

import re
import unicodedata
from functools import cache

from prl.answers.formulas import last_rows, strip_wrapping
from prl.answers.limits import Unreadable
from prl.answers.stretches import NO_UNIT

_GREEK = dict(
    zip(
        "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩϕϵ",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon "
        "phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega phi epsilon".split(),
        strict=True,
    )
)
_SYMBOLS = {
    **{letter: f"\\{name} " for letter, name in _GREEK.items()},
    **dict.fromkeys("−–—‒﹣－", "-"),
    **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000\t\r\n", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", ""),
    **dict.fromkeys("·⋅∙•", "\\cdot "),
    **dict.fromkeys("’‘′", "'"),
    **dict.fromkeys("÷∕⁄", "/"),
    **{
        each[0]: f"\\{each[1:]} "
        for each in "×times "
        "∞infty ≤le ⩽le ≥ge ⩾ge ≠ne ≈approx ≅approx ±pm ∓mp ∪cup ∩cap ∈in ∅emptyset ∖setminus "
        "ℝreals √sqrt ∛sqrt[3] °deg ºdeg €eur £gbp ¥jpy ₹inr ⟨langle ⟩rangle 〈langle 〉rangle".split()
    },
    **dict(zip("％，；：（）［］＝＋／＜＞。", "%,;:()[]=+/<>.", strict=True)),
    "｛": "\\{",
    "｝": "\\}",
    **{
        each[0]: f"\\frac{{{each[1]}}}{{{each[2]}}}"
        for each in "½12 ⅓13 ⅔23 ¼14 ¾34 ⅕15 ⅖25 ⅗35 ⅘45 ⅙16 ⅚56 ⅛18 ⅜38 ⅝58 ⅞78".split()
    },
}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

# (pattern, replacement), applied in order: what spans tokens. Single commands are renamed in `tokens`.
_RULES = (
    (r"\\\\\s*\[-?[\d.]+\s*(?:pt|em|ex|mm|cm)\]", r"\\\\"),
    (r"(?<!\\)((?:\\\\)*)\\[()\[\]]", r"\1 "),
    (r"\\\$", r"\\usd "),
    # thousands that can mean nothing else: 1{,}234  1,\!234  1\,234  1'234  1 234
    (r"(?<=\d)(?:\{,\}|,\s*\\!|\\!\s*,(?:\s*\\!)?|,\\,|\\,|\\!|\\ |')\s*(?=\d{3}(?!\d))", ""),
    (r"(?<![\d.,/])(\d{1,3}) (\d{3})(?: (\d{3}))?(?: (\d{3}))?(?![\d/]|\s?\\frac)", r"\1\2\3\4"),
    (r"\\(?:left|right|middle)\s*\.", ""),
    (r"\\[hv]space\*?\{[^{}]*\}|\\(?:[hv]?phantom|label|tag)\*?\{[^{}]*\}|\\[hv]?phantom\s+[^\s{}\\&]", " "),
    (r"(?<!\\)\\[,;:!> ]|~|(?<!\\)\\$", " "),
    (r"\\mathbb\s*\{?\s*R\s*\}?|\\mathbf\s*\{R\}", r"\\reals "),
    (r"\\(?:mathbf|boldsymbol|bm|vec|hat)\s*\{?\s*\\?([ijk])(?:math)?\s*\}?(?![a-zA-Z])", r"\\unit\1 "),
    (r"\\(?:mathbf|boldsymbol|bm|mathcal|mathscr)\s*\{\s*([a-zA-Z])\s*\}", r"\1"),
    (
        r"\\(?:text(?:bf|rm|it|sf|tt|normal)?|[mh]box|math(?:rm|it|sf|tt|bf)|operatorname\*?|emph|rm|bf|it)\s*"
        r"\{([^{}]*)\}",
        r"\\text{\1}",
    ),
    # degrees, also written ^{o}
    (r"\^\s*\{?\s*\\(?:circ|deg|degree)(?![a-zA-Z])(?:\s*\})?|(?<=\d)\^\{?\s*[oO]\s*\}?(?!\w)", r"\\deg "),
    (r"\\deg\s*(?:\\text\{\s*)?C\s*\}?$|degrees\s+Celsius|℃", r"\\text{celsius}"),
    (r"\\deg\s*(?:\\text\{\s*)?F\s*\}?$|degrees\s+Fahrenheit|℉", r"\\text{fahrenheit}"),
    (r"\\?%|(?<![a-zA-Z\\])per\s?cent(?:age points)?(?![a-zA-Z])", r"\\pct "),
    (r"(?<=\d)(?:\^\{?\s*(?:\\text\{\s*)?)?(?:st|nd|rd|th)\b\s*\}{0,2}(?![a-zA-Z])", ""),
    (r"(?<![\d.\w])\.(?=\d*\s*\\(?:overline|bar|dot)\s*\{?\d)", "0."),
    (r"(?<=\d\.)(\d*)\s*\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?", r"\1\\overline{\2\3\4}"),
    (r"(?<=\d\.)(\d*)\s*\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))(?!\d)", r"\1\\overline{\2\3}"),
    (r"(\d\.\d*?)(\d{1,2}?)\2{2,}\s*(?:\.\.\.|\\[lc]?dots)", r"\1\\overline{\2}"),
    (r"(\d\.\d*?)(\d{3,6}?)\2+\s*(?:\.\.\.|\\[lc]?dots)", r"\1\\overline{\2}"),
    (r"(?<=\d)[eE]([+-]?\d{1,9})(?![\d._])", r" \\cdot 10^{\1}"),
    (r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))", r" \\cdot "),
    (r"(?<=\d)\s+[xX]\s+(?=\d)", r" \\cdot "),
    (r"(?<=[\d)}])\s*\(\s*((?!mod|base)[a-z]{3,}(?: [a-z]+)*)\s*\)$", r" \\text{\1}"),  # 18 (dollars)
    (r"\bsq\.", "sq"),
    (r"(?<=\S)\s*\(\s*\d+(?:\.\d+)?\s*\\pct\s*\)$", ""),  # 1/4 (25%)
    (r"\+/-", r"\\pm "),
    (r"\\not\s*=", r"\\ne "),
    (r"(?<=\d)\s*([kc]?m|ft|mi)\s*/\s*(s|h|hr|min|sec)(?:\^\{?(2)\}?)?$", r"\\text{\1/\2\3}"),
    (r"(?<=\d)\s*(?:\\text\{\s*to\s*\}|\bto\b)\s*(?=\d)", ":"),
    (r"(?<=[\d})])\s*\\q?quad\s*(?=-?\d)", ", "),
    (r"(?:\\text\{\s*)?\b(?:positive|plus)\s+infinity\b\s*\}?", r"\\infty "),
    (r"(?:\\text\{\s*)?\b(?:negative|minus)\s+infinity\b\s*\}?", r"-\\infty "),
    (r"^\s*either\b|\bm\s*(?=\\angle(?![a-zA-Z]))", " "),
    (r"(?<=[)\]}])\s*(?:U|\\text\{\s*U\s*\}|union)\s*(?=[(\[{\\])", r" \\cup "),
    (r"(?<=[a-z])\s+in\s+(?=[\[({\\])", r" \\in "),
    (r"(?<![a-zA-Z\\])(?:US|AU|CA|HK|NZ|[RACS])(?=\s*\\usd)", ""),
)
_ESCAPED_TWICE = re.compile(r"\\\\(?=[a-zA-Z]{2})")
_SYSTEM = re.compile(
    r"\\left\s*\\\{\s*\\begin\{(?:aligned|array)\}(?:\{[lcr]\})?(.*?)\\end\{(?:aligned|array)\}"
    r"\s*\\right\s*\.?"
)
_TOKEN = re.compile(
    r"\\text\{[^{}]*\}|\\(?:begin|end)\s*\{[a-zA-Z*]+\}|\\[a-zA-Z]+|\\."
    r"|[1-9]\d{0,2}(?:,\d{3})+(?!\d|,(?! )|\.\d+\.)(?:\.\d+)?|\d+\.\d+|\d+\.(?!\d)|\.\d+|\d+|, |[^\W\d_]+"
    r"|\*\*|<=|=<|>=|!=|/=|==|~=|\+-|\.\.\.|\S",
    re.DOTALL,
)
_DROPPED = ""
_COMMANDS = {
    **dict.fromkeys(
        "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle "
        "textstyle scriptstyle limits nolimits mathstrut strut quad qquad thinspace enspace medspace "
        "negthinspace hfill therefore mathopen mathclose mathord mathnormal boldsymbol bm rm bf it".split(),
        _DROPPED,
    ),
    **dict.fromkeys("dfrac tfrac cfrac sfrac nicefrac".split(), r"\frac"),
    **dict.fromkeys("dbinom tbinom".split(), r"\binom"),
    **dict.fromkeys("R Reals real".split(), r"\reals"),
    **dict.fromkeys("land wedge".split(), r"\and"),
    **dict.fromkeys("lor vee".split(), r"\or"),
    **dict.fromkeys("circ degree textdegree".split(), r"\deg"),
    **dict.fromkeys("leq leqslant leqq".split(), r"\le"),
    **dict.fromkeys("geq geqslant geqq".split(), r"\ge"),
    **dict.fromkeys("times ast bullet".split(), r"\cdot"),
    **dict.fromkeys("simeq cong doteq".split(), r"\approx"),
    **dict.fromkeys("vert mid lvert rvert".split(), "|"),
    **dict.fromkeys("backslash smallsetminus".split(), r"\setminus"),
    **dict.fromkeys("ldots cdots dotsc dotsb".split(), r"\dots"),
    "infin": r"\infty",
    "neq": r"\ne",
    "lt": "<",
    "gt": ">",
    "div": "/",
    "colon": ":",
    "lbrace": r"\{",
    "rbrace": r"\}",
    "lbrack": "[",
    "rbrack": "]",
    "varnothing": r"\emptyset",
    "bigcup": r"\cup",
    "bigcap": r"\cap",
    "varepsilon": r"\epsilon",
    "varphi": r"\phi",
    "vartheta": r"\theta",
    "varrho": r"\rho",
    "varsigma": r"\sigma",
    "tg": r"\tan",
    "ctg": r"\cot",
    "cosec": r"\csc",
}
_ASCII = {
    **dict.fromkeys(("<=", "=<"), r"\le"),
    **dict.fromkeys(("!=", "/="), r"\ne"),
    ">=": r"\ge",
    "==": "=",
    "~=": r"\approx",
    "+-": r"\pm",
    "**": "^",
    "*": r"\cdot",
    "...": r"\dots",
    r"\&": r"\and",
    r"\|": "|",
}
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc cis sinh cosh tanh arcsin arccos arctan arccot arcsec arccsc ln log lg exp sqrt"
    "".split()
)
_SCALES = {"hundred": "2", "thousand": "3", "million": "6", "billion": "9", "trillion": "12"}
WORDS: dict[str, list[str]] = {
    **{name: ["\\" + name] for name in FUNCTIONS},
    **{
        name: ["\\" + name]
        for name in "pi theta alpha beta gamma delta lambda sigma omega phi and or".split()
    },
    **{f"a{name}": [f"\\arc{name}"] for name in ("sin", "cos", "tan")},
    **{name: [r"\infty"] for name in ("infinity", "Infinity", "inf", "oo")},
    **{name: [r"\deg"] for name in ("degree", "degrees", "Degrees", "deg")},
    **{name: [r"\pct"] for name in ("percent", "percentage", "pct")},
    "cbrt": [r"\sqrt", "[", "3", "]"],
    "USD": [r"\usd"],
    "Pi": [r"\pi"],
    **{word: [r"\cdot", "10", "^", power] for word, power in _SCALES.items()},
}
LETTER_UNITS = frozenset("mgshLl")  # after a number, in \\text or against a bare number or another unit
# Words of two or three letters that are no product of variables.
UNIT_WORDS = frozenset(
    "mm cm km ft yd mi in kg mg ml mL lb lbs oz hr hrs sec min gm mph kph rpm yr yrs rad day sq cu men per "
    "old cup pen dog cat egg hat box boy bag can car cow hen pig pie pot toy way bus ton key cap fan job nut "
    "jar pan gal pt qt".split()
)
_PHRASE = re.compile(r"(?<=\d) [a-zA-Z]{2,}(?:[-' ]{1,2}[a-zA-Z]{2,})+$")
_NO_UNIT = NO_UNIT.union(WORDS, "too no nor never off low am pm".split()) - {"per"}
_GLUED = re.compile(r"(arcsin|arccos|arctan|sqrt|sin|cos|tan|cot|sec|csc|ln|log|pi)([a-zA-Z]?)")


def clean(text: str) -> str:
    """`text` without wrapping, spacing and sizing, with one spelling for what spans several tokens."""
    if not text.isascii():
        text = "".join(map(_plain_character, text))
        text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda m: "^{" + m.group().translate(_SUPERSCRIPTS) + "}", text)
        text = re.sub(r"[₀-₉]+", lambda m: "_{" + m.group().translate(_SUBSCRIPTS) + "}", text)
    text = strip_wrapping(re.sub(r"[\x00-\x1f\x7f]", " ", text))
    if r"\begin" in text:
        text = last_rows(
            _SYSTEM.sub(lambda system: rf"\begin{{cases}}{system[1].replace('&', '')}\end{{cases}}", text)
        )
    else:
        text = text.replace("&", " and ")
        if "\\\\" in text:
            text = _ESCAPED_TWICE.sub("\\\\", text)
    if "$" in text:
        text = re.sub(r"(?<!\\)\$", r"\\usd " if text.count("$") - text.count(r"\$") == 1 else " ", text)
    for pattern, replacement in _rules():
        text = pattern.sub(replacement, text)
    text = re.sub(r"\s+", " ", text).strip()
    return _PHRASE.sub(_counted, re.sub(r"(?<=[^.])[.,;:]+$", "", text).strip())


def _counted(phrase: re.Match[str]) -> str:
    """The words behind a number as one unit, so that the short ones are no products of letters: 15 new
    shirts. One of four letters tells that they are words."""
    words = set(re.findall("[a-z]+", phrase[0].lower()))
    is_unit = any(len(word) > 3 for word in words) and words.isdisjoint(_NO_UNIT)
    return f" \\text{{{phrase[0].strip()}}}" if is_unit else phrase[0]


@cache
def _rules() -> list[tuple[re.Pattern[str], str]]:
    """The rules, compiled at first use: 20 ms that importing prl need not pay."""
    return [(re.compile(pattern), replacement) for pattern, replacement in _RULES]


def _plain_character(character: str) -> str:
    if character in _SYMBOLS:
        return _SYMBOLS[character]
    if character.isascii():
        return character
    category = unicodedata.category(character)
    if category == "Cf":  # direction marks and other invisible ones
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if "\uff21" <= character <= "\uff5a":  # full-width Latin
        return unicodedata.normalize("NFKC", character)
    return character


def tokens(text: str) -> list[str]:
    r"""The tokens of cleaned text, without spaces; `", "` is not `","`, since it cannot separate thousands.

    Each command has one name here. A letter run is a function, a unit or a word (`\text{…}`), or else a
    product of letters.
    """
    found: list[str] = []
    for token in _TOKEN.findall(text):
        if token[0] == "\\" and len(token) > 2:
            if token.startswith(r"\text{"):
                found += _text_tokens(token[6:-1], found[-1] if found else "")
            elif renamed := _COMMANDS.get(token[1:], token):
                found.append(renamed)
        elif token.isalpha():
            found += _letter_tokens(token) if token.isascii() else [f"\\text{{{token}}}"]
        elif not token.isspace():
            found.append(_ASCII.get(token, token))
    return found


def _letter_tokens(run: str) -> list[str]:
    if len(run) == 1:
        return [run]
    if run in WORDS:
        return WORDS[run]
    if glued := _GLUED.fullmatch(run):
        return ["\\" + glued[1], *glued[2]]
    return [f"\\text{{{run}}}"] if len(run) > 3 or run in UNIT_WORDS else list(run)


def _text_tokens(content: str, before: str) -> list[str]:
    r"""What `\text{content}` after the token `before` stands for."""
    word = content.strip(" ,.;:")
    if not word:
        return [","] if "," in content else []
    if word in WORDS:
        return WORDS[word]
    if (
        parts := re.fullmatch(r"(.*?)\s*\b(and|or)", word)
    ) and "," not in word:  # 14 \text{ chickens and } 16
        return [*([f"\\text{{{parts[1]}}}"] if parts[1] else []), f"\\{parts[2]}"]
    first, _, rest = word.partition(" ")
    if first in WORDS and WORDS[first][0] == r"\cdot":
        return WORDS[first] + _text_tokens(rest, r"\cdot")
    after_number = before[:1].isdecimal() or before in ("}", ")")
    if re.fullmatch(r"-?\d[\d.,/]*(?:\s+[A-Za-z ]+)?|[A-Za-z](?:\s*,\s*[A-Za-z])+", word) or (
        len(word) == 1 and not (after_number and word in LETTER_UNITS)
    ):
        return tokens(word)
    return [f"\\text{{{content}}}"]


def spelled(text: str) -> str:
    r"""`text` in one spelling, for what is compared as written: a sum or product under one name of its index.

    >>> spelled(r"\sum_{k=1}^{n} k^2") == spelled(r"\sum\limits_{i=1}^n i^{2}")
    True
    """
    found = tokens(clean(text))
    for at, token in enumerate(found):
        index = found[at + 3 : at + 4]
        if token in (r"\sum", r"\prod") and found[at + 1 : at + 3] == ["_", "{"] and "".join(index).isalpha():
            found = [f"\\index{at}" if each == index[0] else each for each in found]
    return re.sub(r"\{(\\?\w+)\}", r"\1", " ".join(found).replace("{ ", "{").replace(" }", "}"))


_PLURAL = re.compile(r"(?<=[a-z]{4})s$")
_SIGNED = re.compile(r"(?:(?<=\s)|^)-(?=\d)|(?<=\d)\.(?=\d)")  # of the number in "Room 12.5", "5 and -5"


def plain_words(text: str) -> str:
    """Letters and digits of `text` in lower case, without commands, leading article and plural: for words."""
    text = re.sub(r"\\(?:text|overline|mathbf)\b", " ", text).casefold()
    text = re.sub(r"^\W*(?:the|an?)\s+(?=\w)", "", text)
    text = _SIGNED.sub(lambda sign: "minus" if sign[0] == "-" else "point", text)
    return _PLURAL.sub("", "".join(character for character in text if character.isalnum()))


def match_groups(items: list[str]) -> dict[int, int]:
    """Index of each opening token -> index of its closing token.

    `(` and `[` may close each other (half-open intervals); braces, set braces, angles and environments close
    their own kind only. Raises Unreadable when groups do not match.
    """
    closing: dict[int, int] = {}
    open_: list[tuple[str, int]] = []
    for index, token in enumerate(items):
        if kind := _OPENERS.get(token) or (token.startswith(r"\begin") and "env"):
            open_.append((kind, index))
        elif kind := _CLOSERS.get(token) or (token.startswith(r"\end") and "env"):
            if not open_ or open_[-1][0] != kind:
                raise Unreadable(f"unmatched {token!r}")
            closing[open_.pop()[1]] = index
    if open_:
        raise Unreadable(f"never closed: {items[open_[-1][1]]!r}")
    return closing


_OPENERS = {
    "(": "round",
    "[": "round",
    "{": "brace",
    r"\{": "set",
    r"\langle": "angle",
    r"\lfloor": "floor",
    r"\lceil": "ceil",
}
_CLOSERS = {
    ")": "round",
    "]": "round",
    "}": "brace",
    r"\}": "set",
    r"\rangle": "angle",
    r"\rfloor": "floor",
    r"\rceil": "ceil",
}

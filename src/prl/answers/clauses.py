"""Which quantities the main clause of a sentence holds, and which it denies.

A sentence is its words and marks in lower case, a blank in front of each; in place of its quantities stand
their numbers: " if each has 0 , the number is 1".
"""

from __future__ import annotations

import re

_WHEN = "if|when|since|because|although|whereas|unless|until|before|after"
_IS = "is|are|was|were"
# "which means 12" and "which is 12" conclude; "which is less than 30" and "which have 40 legs" do not
_WHICH = rf"which (?!(?:{_IS}) (?!\d)|(?:has|had|have|costs?|holds?|contains?) )"
_CONCLUSION = rf"(?: (?:so|thus|therefore|hence|then|but|leaving|for a total) | {_WHICH}| [;:]|$)"
_FIRST_CLAUSE = re.compile(  # if each has 0 ,   to earn 0 ,   adding 0 ,
    r"(?:^| (?:so|thus|therefore|hence|then|and|but|also|now))(?: ,)?"
    rf" (?:(?:{_WHEN}|as|given|while|assuming|once|to) |[a-z]+ing (?!(?:{_IS}) ))[^,;:]*,"
)
# It goes on to a conclusion, or to the verb of what it belongs to: the number when 0 is added / is 1
_LATER_CLAUSE = re.compile(
    rf"(?<! but)(?<! and)(?<! so) (?:(?:{_WHEN}) |, (?!{_WHICH})which )"
    rf"(?:(?!{_CONCLUSION})\D)*(?:\d.*?(?={_CONCLUSION}| (?:{_IS}|equals) \d))?"
    r"| , (?:as|where|given) [^,;:]*"
)
_QUANTITY = re.compile(r"(?<= )\d+(?= |$)")
_DENIED = re.compile(  # is impossible, isn't right, are not the roots
    rf" (?:(?:{_IS}|seems?|looks?) (?:[a-z]+ )?"
    r"(?:impossible|incorrect|wrong|false|invalid|excluded|rejected|ruled|extraneous|too)"
    rf"|(?:(?:{_IS}|do|does)n? )?(?:not|t) "
    r"(?:possible|correct|right|true|valid|allowed|work|solutions?|answers?|the|an?))(?: |$)"
)
_NUMBER_DENIED = re.compile(  # 5 cannot be reached; but 24 seats cannot be sold
    r" (?:(?:is|was|does|did|can|could|would|will|must|should)n? (?:not|t|never)|cannot)(?: |$)"
)


def main_clause(sentence: str) -> list[int] | None:
    """The quantities outside of clauses that say when, why or on what condition; None where the sentence is
    nothing but such a clause.

    >>> main_clause(" if each has 0 , the number is 1"), main_clause(" if it has 0 , he wins")
    ([1], [])
    >>> main_clause(" 0 are left since 1 were sold"), main_clause(" when it has 0")
    ([0], None)
    """
    rest = _FIRST_CLAUSE.sub(" ", sentence)
    main = _QUANTITY.findall(_LATER_CLAUSE.sub(" ", rest))
    return list(map(int, main)) if main or not _QUANTITY.search(rest) else None


def is_denied(behind: str, *, has_unit: bool) -> bool:
    """Whether the words `behind` a quantity deny it, as " is not possible" does."""
    return bool(_DENIED.match(behind) or (not has_unit and _NUMBER_DENIED.match(behind)))

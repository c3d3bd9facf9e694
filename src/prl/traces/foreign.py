"""Traces in the formats of other projects, as text, to traces of prl.

    multiverse      <Parallel><Goal>…<Outline>1: …</Outline>…</Goal><Path>1: …</Path>…
                    <Conclusion>…</Conclusion></Parallel>, all in <Think>…</Think>; `<`, `>` and `&` of other
                    text may be escaped
    npr             <guideline><plan>1: …</plan>…</guideline><step>1: …</step>…<takeaway>…</takeaway>
    threadweaver    <Parallel><Outlines><Outline>1: …</Outline>…</Outlines><Thread>1: …</Thread>…
                    <Conclusion>…</Conclusion></Parallel>, in <think>…</think>

As documented by Infini-AI-Lab/Multiverse (fb16702, data/refill_block.py; arXiv 2506.09991),
bigai-nlco/Native-Parallel-Reasoner (10f22d4, prompts/npr.txt; arXiv 2512.07461, table 1) and
facebookresearch/threadweaver (a3fc53e, data_generation/src/filter-format-correct-and-obtain-stats.py; arXiv
2512.07843).

The outline becomes a paragraph of the main thread right before the block, a line for each path: the plan of
`--path_opening plan`. Numbers are taken off. The conclusion becomes the summary. A block of one path has
nothing side by side, and becomes text. The marks of thoughts go, and what is thought stays: the blocks are in
it. Pure; texts are data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from prl.grammar import is_blank, render


def from_multiverse(text: str) -> str:
    """A trace of Multiverse in prl's form. ValueError says what of it has none.

    >>> print(from_multiverse('''<Think>Two sums.
    ... <Parallel><Goal><Outline>1: add 2 and 3</Outline><Outline>2: add 3 and 4</Outline></Goal>
    ... <Path>1: 2+3=5</Path><Path>2: 3+4=7</Path>
    ... <Conclusion>5 and 7</Conclusion></Parallel></Think>So 12.'''))
    Two sums.
    <BLANKLINE>
    add 2 and 3
    add 3 and 4
    <Parallel><Path>
    2+3=5
    </Path><Path>
    3+4=7
    </Path></Parallel>
    <Summary>
    5 and 7
    </Summary>
    <BLANKLINE>
    So 12.
    """
    return _translated(text, _NAMES["multiverse"])


def from_npr(text: str) -> str:
    """A trace of the Native Parallel Reasoner in prl's form. ValueError says what of it has none."""
    return _translated(text, _NAMES["npr"])


def from_threadweaver(text: str) -> str:
    """A trace of ThreadWeaver in prl's form. ValueError says what of it has none."""
    return _translated(text, _NAMES["threadweaver"])


FORMATS: dict[str, Callable[[str], str]] = {
    "multiverse": from_multiverse,
    "npr": from_npr,
    "threadweaver": from_threadweaver,
}
"""name -> what makes a trace of prl of one in this format; ValueError where that cannot be."""


def path_places(text: str, form: str) -> list[int | None]:
    """Of each path of `text`, which is in the format `form`, as they are written: its place among the paths
    of the trace that `FORMATS` makes of it, from 0; None for one that is alone in its block, and text there.
    Raises ValueError where tags do not pair.

    >>> step, end = "<step>1: 2+3=5</step>", "<takeaway>5</takeaway>"
    >>> path_places(f"<guideline></guideline>{step}{end}<guideline></guideline>{step}{step}{end}", "npr")
    [None, 0, 1]
    """
    names = _NAMES[form]
    found: list[int | None] = []
    first = 0
    for block in _parts(text, names):
        count = 0 if isinstance(block, str) else len(_paths(block, names))
        kept = count if count > 1 else 0
        found += range(first, first + kept) if kept else [None] * count
        first += kept
    return found


class _Names(NamedTuple):
    """The tags of a format; `block` None: a block begins with its plans and ends with its conclusion."""

    plans: str
    plan: str
    path: str
    conclusion: str
    block: str | None = None
    is_escaped: bool = False


_NAMES = {
    "multiverse": _Names("Goal", "Outline", "Path", "Conclusion", "Parallel", is_escaped=True),
    "npr": _Names("guideline", "plan", "step", "takeaway"),
    "threadweaver": _Names("Outlines", "Outline", "Thread", "Conclusion", "Parallel"),
}


@dataclass(frozen=True)
class _Element:
    """A tag with what it holds: texts and further elements. `start` is its offset."""

    name: str
    start: int
    parts: list[str | _Element] = field(default_factory=list)

    def __str__(self) -> str:
        return f"<{self.name}> at {self.start}"

    @property
    def elements(self) -> list[_Element]:
        return [part for part in self.parts if isinstance(part, _Element)]

    @property
    def text(self) -> str:
        """Of an element without elements. Raises ValueError."""
        if self.elements:
            raise ValueError(f"{self} holds {self.elements[0]}: blocks inside blocks have no form in prl")
        return "".join(self.own).strip()

    @property
    def own(self) -> list[str]:
        """What it says between its elements."""
        return [part for part in self.parts if isinstance(part, str)]


def _translated(text: str, names: _Names) -> str:
    pieces: list[str] = []
    for part in _parts(text, names):
        if isinstance(part, str):
            pieces.append(part.strip())
        elif part.name != (names.block or names.plans):
            raise ValueError(f"{part} stands outside a block")
        else:
            pieces.append(_block(part, names))
    return "\n\n".join(filter(None, pieces))


def _parts(text: str, names: _Names) -> list[str | _Element]:
    """What a text says between its blocks, and these. ValueError where tags do not pair."""
    root = _read(text, names)
    return root.parts if names.block else [*_grouped(root.parts, names)]


def _paths(block: _Element, names: _Names) -> list[_Element]:
    return [element for element in block.elements if element.name == names.path]


def _read(text: str, names: _Names) -> _Element:
    """The text as a tree. ValueError where tags do not pair."""
    known = filter(None, (names.plans, names.plan, names.path, names.conclusion, names.block))
    stack = [_Element("", 0)]
    cursor = 0

    def say(until: int) -> None:
        if said := text[cursor:until]:
            stack[-1].parts.append(_unescaped(said) if names.is_escaped else said)

    for tag in re.finditer(rf"<(/?)({'|'.join(known)})>|(?i:</?think>)", text):
        say(tag.start())
        cursor = tag.end()
        if not tag[2]:  # a mark of thoughts
            continue
        if not tag[1]:
            element = _Element(tag[2], tag.start())
            stack[-1].parts.append(element)
            stack.append(element)
        elif stack.pop().name != tag[2]:
            raise ValueError(f"{tag[0]} at {tag.start()} closes no <{tag[2]}>")
    say(len(text))
    if len(stack) > 1:
        raise ValueError(f"{stack[-1]} is not closed")
    return stack[0]


def _grouped(parts: Sequence[str | _Element], names: _Names) -> Iterator[str | _Element]:
    """The parts of a text without tags around its blocks, those of each block as one element, which begins
    with its plans and ends with its conclusion, or where another block or text begins."""
    block: _Element | None = None
    for part in parts:
        name = part.name if isinstance(part, _Element) else ""
        if block and (name == names.plans or (isinstance(part, str) and not is_blank(part))):
            yield block
            block = None
        if name == names.plans and isinstance(part, _Element):
            block = _Element(names.plans, part.start)
        if block is None:
            yield part
            continue
        block.parts.append(part)
        if name == names.conclusion:
            yield block
            block = None
    if block:
        yield block


def _block(block: _Element, names: _Names) -> str:
    """A block in prl's form, its plan before it. Raises ValueError."""
    if loose := next((said for said in block.own if not is_blank(said)), ""):
        shown = " ".join(loose.split())
        raise ValueError(f"{block} has text between its parts: {shown[:40]!r}")
    order = [element.name for element in block.elements]
    paths = _paths(block, names)
    if names.conclusion not in order:
        raise ValueError(f"{block} has no <{names.conclusion}>, which would be the summary")
    if order != [names.plans, *[names.path] * len(paths), names.conclusion] or not paths:
        raise ValueError(
            f"{block} holds {', '.join(order)}, not {names.plans}, then {names.path}s and {names.conclusion}"
        )
    goal, conclusion = block.elements[0], block.elements[-1]
    if strange := next((each for each in goal.elements if each.name != names.plan), None):
        raise ValueError(f"{goal} holds {strange}, which is no <{names.plan}>")
    plan = [" ".join(_without_number(each.text, i).split()) for i, each in enumerate(goal.elements, 1)]
    if plan and len(plan) != len(paths):
        raise ValueError(f"{block} plans {len(plan)} and has {len(paths)} of <{names.path}>")
    texts = [_without_number(path.text, i) for i, path in enumerate(paths, 1)]
    before = [" ".join("".join(goal.own).split()), "\n".join(plan)]
    if len(paths) == 1:
        return "\n\n".join(filter(None, [*before, *texts, conclusion.text]))
    return "\n\n".join(filter(None, before)) + ("\n" if any(before) else "") + render(texts, conclusion.text)


def _without_number(text: str, number: int) -> str:
    """`text` without the number that it begins with, such as `2: `, in a block inside another `1.2: `."""
    return re.sub(rf"^(?:\d+\.)*{number}\s*:(?:\s+|$)", "", text)


def _unescaped(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")

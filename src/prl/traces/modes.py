"""What a teacher is asked, and how its answers become candidate traces.

    write       it writes the parallel trace itself
    annotate    it only puts tags around passages of a right solution; every word must stay
    rewrite     it solves the problem several times, and right solutions that differ become paths of one block

Where a problem gives nothing to annotate or to splice, the candidate is the solution itself: it is rejected
for what it lacks, and so is kept with the reason.
Pure: functions of the problem and of what the teacher said, the same whenever they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from prl.answers import default_checker, extract_answer
from prl.errors import UsageError
from prl.grammar import Block, is_blank, parse, render
from prl.prompts import FINAL_ANSWER, transcript, user_message
from prl.traces.checks import Reason, Rejection, unfenced
from prl.traces.solutions import distinct, kept_words, path_of, right, shown, without_tags

Problem = Mapping[str, Any]
"""A row in the schema of `prl.data.hub`."""

Texts = Sequence[str]
"""The answers of an attempt so far, in the order of its requests."""


@dataclass(frozen=True)
class Request:
    """One request to a teacher: an answer to `messages`, of at most `max_tokens` tokens.

    Several samples are several requests, with a seed each: not every server gives more than one answer to a
    request, and one that fails is asked for alone. `seed` None leaves the draw to the teacher.
    """

    messages: tuple[Mapping[str, str], ...]
    max_tokens: int = 4096
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None

    @property
    def bytes(self) -> int:
        """Size of the messages in UTF-8; a tokenizer makes fewer tokens of them than this."""
        return sum(len(text.encode()) for message in self.messages for text in message.values())


@dataclass(frozen=True)
class Mode:
    """A way to get traces from a teacher.

    `requests(problem, texts)`: the next round of an attempt, given the answers of its earlier rounds; no
    requests: the attempt is done. `traces(problem, texts)`: its candidate traces, each with the place of the
    answer that it ends on, None where that is none of the teacher's.
    `check(problem, texts, candidate)`: what speaks against one beside `prl.traces.checks.check`.
    `template` is what the data card shows as the prompt. `paths_are_right`: each path is a solution that was
    judged right as a whole, whatever a verifier makes of the part that is left of it.
    """

    name: str
    requests: Callable[[Problem, Texts], list[Request]]
    traces: Callable[[Problem, Texts], list[tuple[str, int | None]]]
    template: str = ""
    check: Callable[[Problem, Texts, str], list[Rejection]] | None = None
    paths_are_right: bool = False


def write(
    *,
    samples: int = 1,
    max_tokens: int = 4096,
    temperature: float = 1.0,
    top_p: float = 1.0,
    style: str = "parallel",
    path_opening: str = "none",
) -> Mode:
    """The teacher writes the parallel trace itself; every answer is a candidate. `style`: of `prl.prompts`;
    "bare" for a model that was trained so. `path_opening`: what it is told to begin paths with."""

    def requests(problem: Problem, texts: Texts) -> list[Request]:
        messages = _asked(problem, style, path_opening)
        return [] if texts else [Request(messages, max_tokens, temperature, top_p)] * samples

    return Mode(
        "write",
        requests,
        lambda problem, texts: [(text, place) for place, text in enumerate(texts)],
        template=user_message("{problem}", style, path_opening),
    )


_ANNOTATE = """\
Below are a problem and its solution. Copy the solution word for word, and put tags around passages of it:
- find two or more passages, one right after the other, none of which needs another: each goes between \
<Path> and </Path>;
- <Parallel> goes before the first of them, </Parallel> after the last;
- the sentence that comes next and takes up their results goes between <Summary> and </Summary>.

Change nothing else: no word, number or sign may be added, left out, moved or corrected. Answer with the \
tagged solution alone.

Problem: {problem}

Solution:
{solution}"""


def annotate(
    *,
    samples: int = 1,
    max_tokens: int = 4096,
    temperature: float = 1.0,
    top_p: float = 1.0,
    style: str = "sequential",
) -> Mode:
    """The teacher puts tags into a right solution, `samples` times; `kept_words` proves that it did no more.

    The solution is the row's `trace` where it has one, tags removed; else the first right one of `samples`
    that the same teacher writes before, asked in `style`. A summary's words are the solution's own too.
    """
    settings = (max_tokens, temperature, top_p)

    def given(problem: Problem) -> str | None:
        trace = without_tags(str(problem.get("trace") or ""))
        return None if is_blank(trace) else trace

    def parts(problem: Problem, texts: Texts) -> tuple[list[str], str | None, list[str]]:
        """The solutions, the first right one, and what the teacher made of that."""
        trace = given(problem)
        solving = 0 if trace else samples
        solutions = [trace] if trace else [without_tags(text) for text in texts[:solving]]
        chosen = next((solution for solution, _ in right(solutions, problem["answer"])), None)
        return solutions, chosen, [unfenced(text) for text in texts[solving:]]

    def requests(problem: Problem, texts: Texts) -> list[Request]:
        if not texts and not given(problem):
            return [Request(_asked(problem, style), *settings)] * samples
        _, chosen, _ = parts(problem, texts)
        if chosen is None or len(texts) > (0 if given(problem) else samples):
            return []
        asked = _ANNOTATE.format(problem=conversation(problem), solution=chosen)
        return [Request(_said(user_message(asked, "bare")), *settings)] * samples

    def traces(problem: Problem, texts: Texts) -> list[tuple[str, int | None]]:
        solutions, _, annotated = parts(problem, texts)
        first = len(texts) - len(annotated)
        alone = [(text, None if given(problem) else 0) for text in solutions[:1]]
        return [(text, place) for place, text in enumerate(annotated, first)] or alone

    def check(problem: Problem, texts: Texts, candidate: str) -> list[Rejection]:
        _, chosen, annotated = parts(problem, texts)
        difference = kept_words(chosen, candidate) if chosen and annotated else None
        return [Rejection(Reason.ALTERED_WORDS, difference)] if difference else []

    template = f"{user_message('{problem}', style)}\n\n---\n\n{_ANNOTATE}"
    return Mode("annotate", requests, traces, template=template, check=check)


_SUMMARISE = """\
Below are a problem and {count} solutions of it, written apart from each other. Write one or two sentences \
that say in plain text how they reach the result and what it is. Do not number the solutions, and do not \
speak of who wrote them. Answer with these sentences alone.

Problem: {problem}

{solutions}"""

_SUMMARIES = ("{all} give {answer}.", "{all} come to {answer}.", "{all} end at {answer}.")
_ALL = {2: "Both", 3: "All three", 4: "All four"}


def rewrite(
    *,
    samples: int = 1,
    max_tokens: int = 4096,
    temperature: float = 1.0,
    top_p: float = 1.0,
    style: str = "sequential",
    solutions: int = 3,
    summary: Literal["teacher", "template"] = "teacher",
    seed: int = 0,
) -> Mode:
    """Right solutions that differ become the paths of one block; the teacher need not know the tags.

    For each of `samples` traces the teacher solves the problem `solutions` times (2 to 4). `summary`: the
    teacher is asked to sum them up, or a sentence is made, drawn by `seed` and problem. Raises UsageError.
    """
    _check_rewriting(solutions, summary)
    settings = (max_tokens, temperature, top_p)
    solving = samples * solutions

    def solved(problem: Problem, texts: Texts) -> tuple[list[str], list[tuple[str, str]]]:
        """The solutions, and those of them that are right, each with its answer."""
        written = [without_tags(text) for text in texts[:solving]]
        return written, right(written, problem["answer"])

    def groups(problem: Problem, texts: Texts) -> list[list[tuple[str, str]]]:
        """The paths of each trace to be, with the answers of their solutions."""
        _, rights = solved(problem, texts)
        paths = [(path, answer) for text, answer in rights if (path := path_of(text))]
        return _groups(paths, samples, solutions)

    def requests(problem: Problem, texts: Texts) -> list[Request]:
        if not texts:
            return [Request(_asked(problem, style), *settings)] * solving
        if summary == "template" or len(texts) > solving:
            return []
        asked = [_to_sum_up(problem, group) for group in groups(problem, texts)]
        return [Request(_said(user_message(each, "bare")), *settings) for each in asked]

    def traces(problem: Problem, texts: Texts) -> list[tuple[str, int | None]]:
        found: list[tuple[str, int | None]] = []
        for number, group in enumerate(groups(problem, texts)):
            answer = " ".join(group[0][1].split())
            place = solving + number if summary == "teacher" else None
            if place is None:
                drawer = Random(f"{seed}\0{conversation(problem)}\0{number}")
                text = drawer.choice(_SUMMARIES).format(all=_ALL[len(group)], answer=answer)
            else:
                text = without_tags(texts[place])
            if not is_blank(text):
                block = render([path for path, _ in group], text)
                found.append((f"{block}\n\n{FINAL_ANSWER} {answer}", place))
        return found or _alone(*solved(problem, texts))

    def check(problem: Problem, texts: Texts, candidate: str) -> list[Rejection]:
        if blocks := parse(candidate).blocks:
            return _of_summary(blocks[0], problem["answer"])
        if groups(problem, texts):
            return [Rejection(Reason.NO_BLOCK, "the teacher wrote no summary")]
        return [Rejection(Reason.NO_BLOCK, _too_few(*solved(problem, texts)))]

    template = user_message("{problem}", style)
    if summary == "teacher":
        template = f"{template}\n\n---\n\n{_SUMMARISE}"
    return Mode("rewrite", requests, traces, template=template, check=check, paths_are_right=True)


def _check_rewriting(solutions: int, summary: str) -> None:
    if not 2 <= solutions <= 4:
        raise UsageError(f"solutions: {solutions} paths do not make a block here; give 2 to 4")
    if summary not in ("teacher", "template"):
        raise UsageError(f"summary: {summary!r} is neither 'teacher' nor 'template'")


def _too_few(written: Sequence[str], rights: Sequence[tuple[str, str]]) -> str:
    what = "right, no two that differ and say more than the answer"
    return f"{len(rights)} of {len(written)} solutions {what}"


def _alone(written: list[str], rights: list[tuple[str, str]]) -> list[tuple[str, int | None]]:
    """The first right solution, or the first, where no two make a block."""
    found = [*(text for text, _ in rights), *written][:1]
    return [(text, written.index(text)) for text in found]


def _groups(paths: list[tuple[str, str]], most: int, size: int) -> list[list[tuple[str, str]]]:
    """`most` groups at most, each of 2 to `size` paths that differ; no path is in two."""
    found: list[list[tuple[str, str]]] = []
    while len(found) < most and len(group := distinct(paths, size)) > 1:
        found.append(group)
        paths = [path for path in paths if path not in group]
    return found


def _of_summary(block: Block, gold: str) -> list[Rejection]:
    """That the summary says another answer, where it does."""
    said = extract_answer(block.summary.text, strict=True) if block.summary else None
    if said and not default_checker().check(said, gold):
        return [Rejection(Reason.WRONG_ANSWER, f"its summary says {shown(said)}")]
    return []


def _to_sum_up(problem: Problem, group: Sequence[tuple[str, str]]) -> str:
    listed = "\n\n".join(f"Solution:\n{path}" for path, _ in group)
    return _SUMMARISE.format(count=len(group), problem=conversation(problem), solutions=listed)


def conversation(problem: Problem) -> str:
    """The problem with the turns before it, as one text: what tells it apart from others."""
    return transcript(problem["problem"], problem.get("history"))


def _asked(problem: Problem, style: str, path_opening: str = "none") -> tuple[Mapping[str, str], ...]:
    """The problem as the turns of a conversation that goes on."""
    return (*(problem.get("history") or ()), *_said(user_message(problem["problem"], style, path_opening)))


def _said(content: str) -> tuple[Mapping[str, str], ...]:
    return ({"role": "user", "content": content},)

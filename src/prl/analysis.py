"""What the traces show: lengths, the critical path, where blocks stand, how much their paths differ, and what
summaries make of paths that disagree.

    shape(trace, ids), summarise(shapes)     one response in numbers, and the means of many
    decide(block, gold)                      what the paths conclude and which side the summary takes
    describe(rows)                           all of it for the samples of a run

All functions are pure and count in the unit of a trace's spans: tokens after `grammar.parse_ids`, which is
what evaluation reports, characters after `grammar.parse`. Blocks count as they are parsed, valid or not;
only decisions are looked for in valid ones.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import exp, log
from statistics import fmean
from typing import Any, Literal

from prl.answers import default_checker, extract_answer
from prl.answers.limits import Refused, Unreadable
from prl.answers.reading import read
from prl.grammar import Block, Trace, parse

Side = Literal["agreed", "majority", "minority", "other"]

_TAIL = 2_000  # characters at the end of a text in which its conclusion is looked for
_MOST_JUDGED = 16  # different conclusions of one block that are held against the gold answer

_WORD = re.compile(r"\w+|[^\w\s]")
_NUMBER = re.compile(
    r"(?<![\w.])(?:(?<![)\]}\d]\s)(?<![)\]}])[-−])?\$?"  # a minus sign, not the minus of a difference
    r"(?:\\[dt]?frac\{\d+\}\{\d+\}|(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/\d+(?![\d.]))?)"
)
_EQUALS = re.compile(r"(?<![<>!])=\s*(?:\\?\$)?")
_END_OF_SIDE = re.compile(r"\\\)|\\\]|[\n$,;]|\.(?=\s|\Z)|\Z")
_PROSE = re.compile(r"(?<![\\\w])[A-Za-z]{2,}")  # words, where `\sqrt` and the letters of `2xy` are formula
_PLAIN = re.compile(r"-?\d+(?:\.\d+)?(?:/\d+)?")


@dataclass(frozen=True, slots=True)
class Shape:
    """One response in numbers."""

    length: int
    critical_path: int
    blocks: int
    paths: int
    block_positions: tuple[float, ...]
    diversity: float | None

    @property
    def saved(self) -> float:
        """The share of the response off its critical path: (total − critical path) / total, in 0..1."""
        return 1 - self.critical_path / self.length if self.length else 0.0


def shape(trace: Trace, ids: Sequence[Hashable]) -> Shape:
    """The shape of a trace that was parsed from `ids`, the tokens of a response (or the characters)."""
    diversities = [
        diversity([ids[path.body.start : path.body.end] for path in block.paths]) for block in trace.blocks
    ]
    return Shape(
        length=trace.length,
        critical_path=critical_path(trace),
        blocks=len(trace.blocks),
        paths=sum(len(block.paths) for block in trace.blocks),
        block_positions=block_positions(trace),
        diversity=_mean(value for value in diversities if value is not None),
    )


def critical_path(trace: Trace) -> int:
    """Main thread + longest path of each block + summaries: the length when paths are decoded side by side.

    Paths count with their tags. A block's own two tags, and text in it outside its paths, are main thread.
    """
    lengths = [[path.span.end - path.span.start for path in block.paths] for block in trace.blocks]
    return trace.length - sum(sum(paths) - max(paths, default=0) for paths in lengths)


def block_positions(trace: Trace) -> tuple[float, ...]:
    """Where each `<Parallel>` stands: its start over the length of the response, 0 at the beginning.

    The measure of Parallel-R1's analysis, which reads early blocks as exploration, late ones as verification.
    """
    return tuple(block.span.start / trace.length for block in trace.blocks)


def diversity(paths: Sequence[Sequence[Hashable]]) -> float | None:
    """How far the paths of a block differ in the tokens they use: 0 for the same set, 1 for disjoint sets.

    For two paths with the token sets A and B, the Sørensen–Dice distance 1 − 2|A∩B| / (|A| + |B|); for n
    paths, (n·|union| / Σ|set| − 1) / (n − 1), which takes linear time. Empty paths are left out; None for
    fewer than two others.

    >>> diversity([[1, 2, 2], [2, 1]]), diversity([[1, 2], [2, 3]]), diversity([[1], [2], [3]])
    (0.0, 0.5, 1.0)
    """
    sets = [set(path) for path in paths if len(path)]
    if len(sets) < 2:
        return None
    return (len(sets) * len(set().union(*sets)) / sum(map(len, sets)) - 1) / (len(sets) - 1)


def summarise(shapes: Sequence[Shape]) -> dict[str, float | None]:
    """The means that evaluation reports; None where there is nothing to average."""
    blocks = sum(one.blocks for one in shapes)
    return {
        "length": _mean(one.length for one in shapes),
        "critical_path": _mean(one.critical_path for one in shapes),
        "saved": _mean(one.saved for one in shapes),
        "blocks_per_response": _mean(one.blocks for one in shapes),
        "paths_per_block": sum(one.paths for one in shapes) / blocks if blocks else None,
        "block_position": _mean(position for one in shapes for position in one.block_positions),
        "path_diversity": _mean(one.diversity for one in shapes if one.diversity is not None),
    }


def self_bleu(paths: Sequence[Sequence[str]]) -> float | None:
    """The mean BLEU of each path against its siblings: 1.0 where all are alike, 0.0 where no token is shared.

    Self-BLEU (Zhu et al. 2018, arXiv 1802.01886) of token sequences. BLEU is the geometric mean of the
    clipped precisions of 1- to 4-grams times the brevity penalty against the sibling of the nearest length
    (the shorter of two). Short paths are smoothed as sacrebleu does for sentences: orders that a path is too
    short for are left out, the k-th order without a match counts 1/2^k matches, and no match at all is 0.
    Empty paths are left out; None for fewer than two others. Linear in the tokens, however many the paths.

    >>> self_bleu([["6", "*", "7"], ["6", "*", "7"]]), self_bleu([["6", "*", "7"], ["add", "it"]])
    (1.0, 0.0)
    """
    paths = [path for path in paths if len(path)]
    if len(paths) < 2:
        return None
    logs = [0.0] * len(paths)
    unmatched = [0] * len(paths)
    for order in range(1, 5):
        counts = [Counter(zip(*(path[start:] for start in range(order)), strict=False)) for path in paths]
        most, second = _two_most(counts)
        for i, own in enumerate(counts):
            if total := own.total():
                matches = sum(
                    min(count, second.get(gram, 0) if most[gram][1] == i else most[gram][0])
                    for gram, count in own.items()
                )
                unmatched[i] += not matches
                logs[i] += log((matches or 0.5 ** unmatched[i]) / total)
    lengths = sorted(map(len, paths))
    scores = []
    for i, path in enumerate(paths):
        orders = min(len(path), 4)
        if unmatched[i] == orders:
            scores.append(0.0)
        else:
            brevity = min(0.0, 1 - _nearest_length(lengths, len(path)) / len(path))
            scores.append(exp(logs[i] / orders + brevity))
    return fmean(scores)


def words(text: str) -> list[str]:
    """What texts are compared by where no tokenizer is at hand: words, numbers and single symbols, those that
    can be seen.

    >>> words("So 12+3=15.")
    ['So', '12', '+', '3', '=', '15', '.']
    """
    return _WORD.findall("".join(c for c in text if c.isprintable() or c.isspace()))


@dataclass(frozen=True, slots=True)
class Decision:
    """What the paths of a block conclude, and what its summary makes of it.

    paths        `conclusion` of each path, None where none can be read: no vote
    summary      that of the summary
    majority     what more paths conclude than anything else; None for a tie
    agreement    share of the pairs of votes that agree; None for fewer than two votes
    takes        the summary's side: "agreed" (with all votes), "majority", "minority", "other" (no path
                 concludes it); None where nothing can be read, or it takes one side of a tie
    right_paths  which paths conclude the gold answer; empty where none is known
    right        whether the summary does; None where none is known
    """

    paths: tuple[str | None, ...]
    summary: str | None
    majority: str | None
    agreement: float | None
    takes: Side | None
    right_paths: tuple[bool, ...]
    right: bool | None

    @property
    def disagree(self) -> bool:
        """Whether two paths conclude different things."""
        return self.agreement is not None and self.agreement < 1

    @property
    def right_minority(self) -> bool | None:
        """Whether the summary is right against a wrong majority; None unless a minority of paths is."""
        if self.majority is None or not any(self.right_paths):
            return None
        return None if self.right_paths[self.paths.index(self.majority)] else self.right


def decide(block: Block, gold: str | None = None) -> Decision:
    """How a block's summary settles what its paths conclude; `gold` is the right answer, where it is known.

    Conclusions agree when their exact values do, or their readings by `prl.answers`; what only algebra could
    show to be equal disagrees. Right is what the checker of the rewards finds equal to `gold`. It judges the
    first 16 different conclusions of a block; all else is linear in the text.
    """
    paths = tuple(conclusion(path.text) for path in block.paths)
    summary = conclusion(block.summary.text, among=[*filter(None, paths)]) if block.summary else None
    *keys, taken = (None if value is None else _key(value) for value in (*paths, summary))
    votes = Counter(key for key in keys if key is not None)
    ranked = votes.most_common(2)
    majority = ranked[0][0] if ranked and ranked[0][1] > sum(n for _, n in ranked[1:]) else None
    right: set[Hashable] = set()
    if gold is not None:
        stated = dict(zip((taken, *keys), (summary, *paths), strict=True))
        judged = [key for key in stated if key is not None][:_MOST_JUDGED]
        verdicts = default_checker().check_many((stated[key], gold) for key in judged)
        right = {key for key, verdict in zip(judged, verdicts, strict=True) if verdict}
    return Decision(
        paths=paths,
        summary=summary,
        majority=None if majority is None else paths[keys.index(majority)],
        agreement=_agreement(votes),
        takes=_side(taken, votes, majority),
        right_paths=() if gold is None else tuple(key in right for key in keys),
        right=None if gold is None else taken in right,
    )


def conclusion(text: str, among: Collection[str] = ()) -> str | None:
    r"""The value that a path or a summary ends on, read from its last 2,000 characters, or None.

    That is the answer it commits to (`prl.answers`), or else the right side of the last `=` or a number,
    whichever comes last. A summary in prose goes on after its result ("Both give 15, as 30 is halved"): where
    there is no `=` in it, its last number `among` the paths' conclusions counts before the last of all.

    A reading by rule, and no more: of teacher traces for GSM8K, 82 % of the last blocks' paths and 85 % of
    their summaries end on the right answer by it.

    >>> conclusion("In order: 2+3=5. 5+4=9."), conclusion(r"Hence $x = 2\sqrt{3}$."), conclusion("hm")
    ('9', '2\\sqrt{3}', None)
    >>> conclusion("Both give 15, as 30 is halved.", among=["15", "15"])
    '15'
    """
    text = text[-_TAIL:]
    if committed := extract_answer(text, strict=True):
        return committed
    numbers = [*_NUMBER.finditer(text)]
    equals = [*_EQUALS.finditer(text)]
    if equals and (formula := _formula(text, equals[-1].end(), numbers[-1] if numbers else None)):
        return formula
    stated = [_bare(number.group()) for number in reversed(numbers)]
    wanted = set() if equals else {_key(value) for value in among}
    return next((value for value in stated if _key(value) in wanted), stated[0] if stated else None)


def describe(rows: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """The samples of a run in numbers; `rows` as `runs.read_samples(run).to_pylist()` gives them.

    Read are `text`, `truncated`, `answer`, `correct` or else `verdict`, and, in tokens, `length` and
    `critical_path`; what is missing makes its numbers None. A share that is not of all responses has its
    denominator beside it, as `<name>_of`.

    responses, accuracy, parallel_ratio, length, critical_path
    accuracy_with_block, accuracy_without_block     with or without a valid block
    blocks_per_response, paths_per_block
    block_position, saved   as in `Shape`, but in characters, which need no tokenizer; `saved` means the same
                            in both attentions, what decoding side by side does save or would
    path_diversity          `diversity` of the paths' `words`, mean over blocks
    agreement               as in `Decision`, mean over valid blocks
    disagreeing             share of these blocks whose paths disagree; and of the disagreeing:
    takes_majority          share whose summary takes the majority, where there is one
    takes_right_minority    share whose summary is right, where the majority is wrong and a minority right
    right_of_any            share whose summary is right, where any path is

    Right means the answer to the whole problem, so a block that settles a step on the way has no right path.
    """
    traces: list[Trace] = []
    correct: list[bool | None] = []
    decisions: list[Decision] = []
    lengths: list[float] = []
    critical_paths: list[float] = []
    for row in rows:
        trace = parse(row.get("text") or "", truncated=bool(row.get("truncated")))
        traces.append(trace)
        readable = row.get("verdict") != "unparseable gold"
        correct.append(_is_correct(row) if readable else None)
        gold = row.get("answer") if readable else None
        decisions += [decide(block, gold) for block in trace.blocks if block.is_valid]
        lengths += [] if row.get("length") is None else [row["length"]]
        critical_paths += [] if row.get("critical_path") is None else [row["critical_path"]]
    blocks = [block for trace in traces for block in trace.blocks]
    paths = [[words(path.text) for path in block.paths] for block in blocks]
    judged = [(right, trace.uses_parallel) for right, trace in zip(correct, traces, strict=True)]
    voted = [decision for decision in decisions if decision.agreement is not None]
    split = [decision for decision in voted if decision.disagree]
    shares: dict[str, list[Any]] = {
        "accuracy": [right for right, _ in judged],
        "accuracy_with_block": [right for right, parallel in judged if parallel],
        "accuracy_without_block": [right for right, parallel in judged if not parallel],
        "agreement": [decision.agreement for decision in voted],
        "disagreeing": [decision.disagree for decision in voted],
        "takes_majority": [each.takes == "majority" for each in split if each.majority is not None],
        "takes_right_minority": [each.right_minority for each in split],
        "right_of_any": [each.right for each in split if any(each.right_paths)],
    }
    described: dict[str, float | None] = {
        "responses": len(traces),
        "parallel_ratio": _mean(trace.uses_parallel for trace in traces),
        "length": _mean(lengths),
        "critical_path": _mean(critical_paths),
        "saved": _mean(1 - critical_path(trace) / trace.length if trace.length else 0.0 for trace in traces),
        "blocks_per_response": len(blocks) / len(traces) if traces else None,
        "paths_per_block": _mean(len(block.paths) for block in blocks),
        "block_position": _mean(position for trace in traces for position in block_positions(trace)),
        "path_diversity": _mean(value for value in map(diversity, paths) if value is not None),
        "self_bleu": _mean(value for value in map(self_bleu, paths) if value is not None),
    }
    for name, values in shares.items():
        known = [float(value) for value in values if value is not None]
        described |= {name: _mean(known), f"{name}_of": len(known)}
    return described


def _two_most(counts: Sequence[Counter[Any]]) -> tuple[dict[Any, tuple[int, int]], dict[Any, int]]:
    """The largest count of each key with the index of its counter, and the largest among the others.

    What the siblings of any path hold at most follows from these two, so no pair of paths is ever compared.
    """
    most: dict[Any, tuple[int, int]] = {}
    second: dict[Any, int] = {}
    for i, counter in enumerate(counts):
        for key, count in counter.items():
            if key not in most:
                most[key] = count, i
            elif count > most[key][0]:
                second[key] = most[key][0]
                most[key] = count, i
            else:
                second[key] = max(second.get(key, 0), count)
    return most, second


def _nearest_length(lengths: list[int], own: int) -> int:
    """The length nearest to `own` in sorted `lengths`, once without `own` itself; the shorter of two."""
    at = bisect_left(lengths, own)
    others = [*lengths[max(at - 1, 0) : at], *lengths[at + 1 : at + 2]]
    return min(others, key=lambda length: (abs(length - own), length))


def _is_correct(row: Mapping[str, Any]) -> bool | None:
    """Whether a sample's answer is right; None where nobody judged it."""
    if row.get("correct") is not None:
        return bool(row["correct"])
    return row["verdict"] in ("identical", "equal") if row.get("verdict") else None


def _agreement(votes: Counter[Hashable]) -> float | None:
    count = votes.total()
    return sum(n * (n - 1) for n in votes.values()) / (count * (count - 1)) if count > 1 else None


def _side(taken: Hashable, votes: Counter[Hashable], majority: Hashable) -> Side | None:
    if taken is None or not votes:
        return None
    if taken not in votes:
        return "other"
    if len(votes) == 1:
        return "agreed"
    if majority is None:
        return None
    return "majority" if taken == majority else "minority"


def _formula(text: str, start: int, last_number: re.Match[str] | None) -> str | None:
    """The right side that begins at `start`; None for words, and for or before the last number."""
    end = next(_END_OF_SIDE.finditer(text, start)).start()
    side = text[start:end].rstrip()
    if not side or _PROSE.search(side):
        return None
    if last_number and (last_number.start() <= start and last_number.end() >= start + len(side)):
        return None
    return None if last_number and last_number.start() >= end else side


def _bare(number: str) -> str:
    """A number as written, but for the currency sign, thousands separators and a typographic minus."""
    return number.replace("$", "").replace(",", "").replace("−", "-")


def _key(value: str) -> Hashable:
    """Equal for conclusions that agree: exact where it is a number, else the reading, else the text."""
    try:
        if _PLAIN.fullmatch(value):
            return Fraction(value)
        answer = read(value)
    except (Refused, Unreadable, RecursionError, ValueError, ZeroDivisionError):
        return " ".join(value.split())
    bare = answer.kind == "expression" and answer.value is not None and not answer.unit and not answer.percent
    return answer.value if bare else answer


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return fmean(listed) if listed else None

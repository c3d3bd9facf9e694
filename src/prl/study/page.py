"""The report of a study, section by section: its wording, its tables and their columns, from what was read
(`prl.study.results`), measured (`prl.study.report`) and drawn (`prl.study.charts`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prl.statistics import SeedEstimate
from prl.study.charts import SMOOTH
from prl.study.claims import FEWEST_BLOCKS, QUANTITIES, Judged, verdict
from prl.study.design import Design, Table
from prl.study.document import Drawn, Grid, Held, Listed, Part, Section, Verdicts
from prl.study.provenance import provenance
from prl.study.results import Study

_TRACES = {
    "blocks_per_response": "blocks a response",
    "paths_per_block": "paths a block",
    "saved": "off the critical path",
    "block_position": "block position",
    "path_diversity": "path diversity",
    "agreement": "paths that agree",
    "disagreeing": "blocks that disagree",
    "takes_majority": "of these: takes the majority",
    "takes_right_minority": "takes a right minority",
    "right_of_any": "right where a path is",
    "accuracy_with_block": "accuracy with a block",
    "accuracy_without_block": "without",
}
"""Key of `prl.analysis.describe` -> heading in T4."""

_LEAKS = {
    "path_oracle": "any path (oracle)",
    "path_majority": "most paths (majority)",
    "summary_accuracy": "summary",
    "accuracy_with_block": "answer",
    "path_accuracy": "a path alone",
}
"""Key of `prl.analysis.describe` -> heading in T5."""

_SOURCES = {"paper": "", "prl": " (ours)"}
_COUNTED = ("blocks_per_response", "paths_per_block")  # numbers, where the others are shares


def sections(study: Study, numbers: Mapping[str, Any], findings: Mapping[str, str]) -> list[Section]:
    """The report of `numbers` (`prl.study.report.measure`), its title first; `findings` are what the figures
    that the study has show, by name (`prl.study.charts.findings`)."""
    found = [
        _head(study),
        _claims(numbers["claims"]),
        _terms(study),
        *(_t1(numbers, study.design, table) for table in study.design.tables),
        *_costs(study, numbers),
        _after_rl(numbers["after_rl"]),
        _t2(numbers, study.design),
        _t3(numbers),
        _t4(numbers["traces"]),
        _t5(numbers["traces"]),
        _figures(findings),
        _positions(numbers["positions"]),
        _missing(study.missing),
    ]
    return [section for section in found if section]


def _head(study: Study) -> Section:
    quick = "**A quick study: it shows that everything runs, and nothing else. Its verdicts mean nothing.**"
    parts: list[Part] = [
        study.design.intro,
        *provenance(study),
        "Numbers are means over seeds with their 95 % intervals in brackets, by Student's t: as wide "
        "as the spread of so few seeds asks for, and where seeds answer the same problems, of these too. In "
        "simulation they hold the truth in 93 to 96 cases of 100, however far seeds differ "
        "(`benchmarks/intervals.py`). Differences are paired: same seed, same problem. One seed alone knows "
        "nothing of the others; its interval is a bootstrap of its problems (of curves: steps; of medians "
        "the sign test), and of a single number as wide as can be.",
    ]
    return Section(study.design.title, [quick, *parts] if study.settings.get("quick") else parts)


def _claims(judged: Sequence[Judged]) -> Section:
    held: list[Held] = []
    missing = []
    for each in judged:
        quantity = QUANTITIES[each.claim.quantity]
        text = each.claim.text + _SOURCES.get(each.claim.source, f" ({each.claim.source})")
        if not each.measured:
            missing.append([text, each.lacking])
            continue
        shown = _points if quantity.unit == "points" else _times
        measured = f"{quantity.name.format(*each.claim.arms, **each.claim.given)}: {shown(each.measured)}"
        if not each.is_firm and each.measured.wider:
            low, high = each.measured.wider
            measured += f", at 99 % {shown(replace(each.measured, low=low, high=high)).partition(' ')[2]}"
        seeds = ", ".join(shown(each.measured, value) for value in each.measured.seeds.values())
        bounds = (each.claim.bound,) if each.claim.side != "within" else (-each.claim.bound, each.claim.bound)
        interval = (each.measured.mean, each.measured.low, each.measured.high)
        held.append(Held(text, measured, seeds, each.verdict, interval, bounds))
    parts: list[Part] = [
        "Supported: the interval lies wholly on the claim's side. Not supported: wholly on the other side. "
        "Undecided: this study is too small to say. Percentages in the brackets of a claim are the paper's; "
        "differences are in percentage points.",
        "One interval in twenty misses the truth by chance, and here are many, some of the same runs. Where "
        "an interval of 99 % would leave undecided what this one decides, it stands beside.",
    ]
    if held:
        counts = Counter(each.verdict for each in held)
        told = ", ".join(f"{count} {name}" for name, count in counts.most_common())
        unsure = sum(not each.is_firm for each in judged)
        told += f"; {unsure} of them decided at 95 % and not at 99 %" if unsure else ""
        parts = [f"Of {len(judged)} claims {len(held)} were measured: {told}.", *parts, Verdicts(held)]
    if missing:
        parts += ["Not measured yet:", Grid(["claim", "lacking"], missing)]
    return Section("Claims", parts)


def _terms(study: Study) -> Section:
    """What the page's words mean, and its arms, of those that there are."""
    design, known = study.design, {*study.evaluations, *study.trainings}
    terms = {
        "accuracy": "the share of right answers among all responses, drawn at temperature 1; greedy: of the "
        "likeliest response",
        "paths, block": "a block is `<Parallel>` with its `<Path>`s, and the `<Summary>` after it; it is "
        "valid where all are closed, in their place and not empty",
        "parallel ratio": "the share of responses with a valid block",
        "structured, causal": "paths that do not see each other, and that are written side by side; paths "
        "that see those before, one after another",
        "critical path": "tokens that wait for each other: those outside of blocks, and the longest path of "
        "each block; with causal paths, all",
        "held to a budget": "a response that costs more counts as wrong",
        "majority": "of the answers of several samples, or of several paths; the earliest of those that tie",
        "dead group": "the responses to one problem, all rewarded alike: they teach nothing",
    }
    arms = {f"`{name}`": text for name, text in design.terms.items() if name in known}
    rows = [[term, text] for term, text in (terms | arms).items()]
    return Section("Terms", [Grid(["term", ""], rows)])


def _t1(numbers: Mapping[str, Any], design: Design, asked: Table) -> Section | None:
    """What one table's evaluations are right in and cost; columns that nothing is in are left out."""
    gains = numbers["tables"][asked.title]
    columns: dict[str, Callable[[str, Mapping[str, Any]], str]] = {
        "seeds": lambda name, found: _seeds(found["accuracy"]),
        "accuracy": lambda name, found: _share(found["accuracy"]),
        f"over {asked.baseline}": lambda name, found: _points(gains[name]),
        "greedy": lambda name, found: _share(found["greedy"]),
        f"{design.votes} votes": lambda name, found: _share(found["voted"]),
        f"held to {design.budget} tokens": lambda name, found: _share(found["within"]),
        "parallel ratio": lambda name, found: _share(found["parallel_ratio"]),
        "tokens": lambda name, found: _number(found["tokens"]),
        "critical path": lambda name, found: _number(found["critical_path"]),
        "paper: accuracy, ratio": lambda name, found: _paper(design, name),
    }
    cells = {
        head: [column(name, numbers["arms"][name]) for name in gains] for head, column in columns.items()
    }
    cells = {head: each for head, each in cells.items() if {*each} - {"–", "–, –"}}
    rows = [[name, *(each[place] for each in cells.values())] for place, name in enumerate(gains)]
    return _section(f"T1: {asked.title}", ["arm", *cells], rows)


def _costs(study: Study, numbers: Mapping[str, Any]) -> list[Section | None]:
    """Level by level, where there are some; then one response at a time."""
    asked = {len(each.scores["accuracy"]) for seeds in study.timed.values() for each in seeds.values()}
    rows = [
        [
            name,
            level,
            _share(found["accuracy"]),
            f"{found['chance']:.1%}",
            f"{found['length']:.0f}",
            f"{found['critical_path']:.0f}",
            _seconds((numbers["timed"].get(name) or {}).get("levels", {}).get(level)),
        ]
        for name, levels in numbers["levels"].items()
        for level, found in levels.items()
    ]
    heads = ["arm", "level", "accuracy", "chance", "tokens", "critical path", "seconds"]
    said = (
        "Sampled responses; chance is the commonest answer for all problems of the level. Seconds are "
        "medians of greedy responses, one at a time on one thread, with nothing beside; each was timed three "
        "times, the arms in turns, and its fastest counts."
    )
    timed = [
        [
            name,
            _share(found["accuracy"]),
            _number(found["critical_path"]),
            _seconds(found["seconds"]),
            _seconds(found["cpu_seconds"]),
        ]
        for name, found in numbers["timed"].items()
    ]
    costs = _section(
        f"Wall clock: {' or '.join(map(str, sorted(asked)))} problems a seed, medians",
        ["arm", "greedy accuracy", "critical path", "seconds a problem", "of the processor"],
        timed,
    )
    return [costs, _section("Level by level", heads, rows, said)] if timed else []


def _after_rl(gains: Mapping[str, SeedEstimate | None]) -> Section | None:
    rows = [[arm, _seeds(found), _points(found)] for arm, found in gains.items() if found]
    said = "Held-out accuracy after RL less that of the cold start, or of the base, that it began with."
    return _section("Before and after RL", ["arm", "seeds", "gain"], rows, said)


def _t2(numbers: Mapping[str, Any], design: Design) -> Section | None:
    rows = []
    for arm, gains in numbers["rewards"].items():
        found = numbers["arms"][arm]
        rows.append(
            [
                arm,
                _share(found["accuracy"]),
                _points(gains["accuracy_gain"]),
                _share(found["parallel_ratio"]),
                _points(gains["parallel_ratio_gain"]),
                _paper(design, arm),
            ]
        )
    heads = ["arm", "accuracy", "over accuracy alone", "parallel ratio", "over accuracy alone"]
    return _section("T2: rewards, from one structured cold start", [*heads, "paper: accuracy, ratio"], rows)


def _t3(numbers: Mapping[str, Any]) -> Section | None:
    rows = []
    for arm, found in numbers["difficulty"].items():
        early = (
            f"{_share(found['checkpoint_accuracy'])} at {found['checkpoint']}" if found["checkpoint"] else "–"
        )
        final = numbers["arms"].get(arm, {}).get("accuracy")
        rows.append(
            [
                arm,
                _seeds(found["dead_groups"]),
                _share(found["dead_groups"]),
                _number(found["skipped"]),
                early,
                f"{_share(final)} at {found['steps']}",
            ]
        )
    heads = [
        "arm",
        "seeds",
        "dead groups",
        "problems passed over, a step",
        "accuracy at step",
        "accuracy at end",
    ]
    return _section("T3: adaptive difficulty, on problems of all levels", heads, rows)


def _t4(traces: Mapping[str, Mapping[str, float | None]]) -> Section | None:
    rows = [
        [name, *(_described(found, key) for key in _TRACES)]
        for name, found in traces.items()
        if found.get("blocks_per_response")
    ]
    said = (
        "Responses of all seeds together, held-out problems. In brackets, how many a share is of. Blocks "
        "count valid or not, decisions of valid ones only. Off the critical path: what decoding paths side "
        "by side saves, or would save."
    )
    return _section("T4: what the traces show", ["arm", *_TRACES.values()], rows, said)


def _t5(traces: Mapping[str, Mapping[str, float | None]]) -> Section | None:
    rows = [
        [name, *(_described(found, key) for key in _LEAKS)]
        for name, found in traces.items()
        if found.get("path_oracle_of")
    ]
    said = (
        "Right in these shares of the responses with a valid block, by the last of them; where several "
        "conclusions have the most paths, the majority is the mean chance of one of them. What is lost from "
        "one column to the next: right paths in a minority, votes that the summary does not count, a summary "
        "that the answer does not follow. In brackets, how many a share is of; a path alone, of all paths."
    )
    return _section("T5: from the paths to the answer", ["arm", *_LEAKS.values()], rows, said)


def _described(found: Mapping[str, float | None], key: str) -> str:
    if (value := found.get(key)) is None:
        return "–"
    if key in _COUNTED:
        return f"{value:.2f}"
    of = found.get(f"{key}_of")
    return f"{value:.1%}" if of is None else f"{value:.1%} ({of:.0f})"


_CAPTIONS = {
    "f1-block-position": "F1: where blocks stand in the response, over RL",
    "f2-scaffold": "F2: parallel ratio and accuracy of the responses trained on, over RL",
    "f3-levels": "F3: levels of the problems drawn, over RL",
    "f4-frontiers": "F4: held-out accuracy where responses that cost more than a budget count as wrong",
    "f4-levels": "F4, level by level",
    "f4-wall-clock": "F4, of greedy responses decoded one at a time, with their wall clock",
}


def _figures(findings: Mapping[str, str]) -> Section | None:
    drawn = []
    for name, finding in sorted(findings.items()):
        known = next(key for key in _CAPTIONS if name.startswith(key))
        of = name.removeprefix(known).lstrip("-")
        drawn.append(Drawn(name, _CAPTIONS[known] + (f" ({of})" if of else ""), finding))
    said = (
        f"Means over seeds of the latest {SMOOTH} steps; bars and bands reach from the lowest seed to the "
        "highest; a dotted line is the first step of a new stage. F1 leaves out steps at which a seed had "
        f"fewer than {FEWEST_BLOCKS} blocks in that window. Where lines coincide, those below are wider. In "
        "F4 lines are means over seeds, dots mean costs and the accuracy without limits, diamonds majorities "
        "of several samples. An arm looks the same in all figures."
    )
    return Section("Figures", [said, *drawn]) if drawn else None


def _positions(positions: Mapping[str, Mapping[str, SeedEstimate]]) -> Section | None:
    verdicts = {"supported": "later", "not supported": "earlier"}
    rows = [
        [
            arm,
            _seeds(found["change"]),
            _share(found["first"]),
            _share(found["last"]),
            _points(found["change"]),
            verdicts.get(verdict(found["change"], "above"), "undecided"),
        ]
        for arm, found in positions.items()
    ]
    heads = ["arm", "seeds", "first third of the steps", "last third", "change", "blocks move"]
    return _section("Block position, arm by arm", heads, rows)


def _missing(missing: Sequence[str]) -> Section | None:
    return Section("Missing runs", [Listed(missing)]) if missing else None


# Cells


def _section(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], said: str = ""
) -> Section | None:
    return Section(title, [*([said] if said else []), Grid(heads, rows)]) if rows else None


def _seeds(found: SeedEstimate | None) -> str:
    return str(len(found.seeds)) if found else "0"


def _share(found: SeedEstimate | None) -> str:
    return f"{found:.1%}" if found else "–"


def _number(found: SeedEstimate | None) -> str:
    return f"{found:.0f}" if found else "–"


def _points(found: SeedEstimate | None, value: float | None = None) -> str:
    """A difference of shares, in percentage points; `value` alone where given."""
    if found is None:
        return "–"
    mean, low, high = (f"{100 * each:+.1f}".replace("-", "−") for each in (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]" if value is None else f"{100 * value:+.1f}".replace("-", "−")


def _times(found: SeedEstimate, value: float | None = None) -> str:
    return f"{found.mean:.2f}× [{found.low:.2f}, {found.high:.2f}]" if value is None else f"{value:.2f}×"


def _seconds(found: SeedEstimate | None) -> str:
    return f"{found:.3f}" if found else "–"


def _paper(design: Design, arm: str) -> str:
    values = design.paper.get(arm, (None, None))
    return ", ".join("–" if value is None else f"{value:.1f}%" for value in values)

"""`prl data check` and `stats`: files of traces, from whoever made them.

    report = check_file(settings)        the counts that `prl data check` prints, and each rejected row

Rows are read by `prl.data.hub`, so any columns that `prl sft` would take are taken here; rows count from 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from prl.analysis import Shape, diversity, self_bleu, shape, words
from prl.data.columns import CONTEXT_PATHS, MissingColumn
from prl.data.hub import load_rows
from prl.data.targets import wrong_paths
from prl.errors import DataError, UsageError, nearest
from prl.grammar import TAGS, parse, parse_ids
from prl.report.lanes import harmless
from prl.settings import Settings
from prl.settings.arguments import (
    DataCheckArguments,
    DataStatsArguments,
    DataTracesArguments,
)
from prl.traces.checks import Reason, Rejection, Rules, check, repair
from prl.traces.contamination import RUN, Benchmarks
from prl.traces.dataset import check_output, write_rows
from prl.traces.modes import conversation

Rows = list[dict[str, Any]]

LISTED = 100
"""Rejected rows that are printed; `--rejected` keeps all."""

SHARES = (0.05, 0.5, 0.95, 1.0)
"""Quantiles of lengths that `stats` gives."""

_LENGTHS = ("length", "critical_path")


@dataclass(frozen=True)
class Report:
    """What `check_file` found: the rows that pass, the number and reasons of the others, repairs, and what
    was read otherwise than written."""

    rows: Rows
    accepted: Rows
    rejected: dict[int, list[Rejection]]
    repairs: Counter[str]
    notes: Counter[str]

    @property
    def reasons(self) -> Counter[Reason]:
        """reason -> rows that have it."""
        return Counter(reason for found in self.rejected.values() for reason in {r.reason for r in found})


def run(settings: Settings[Any]) -> None:
    """`prl data check|stats`. Raises DataError for a file that cannot be read, and where a trace is
    rejected; UsageError, ModelError (`--tokenizer`)."""
    given = settings.arguments
    if isinstance(given, DataCheckArguments):
        _check(given)
    else:
        rows = load_rows(str(given.file), split=given.split, need=("problem", "trace"))
        print(*_stats(given, rows), sep="\n")


def check_file(given: DataCheckArguments) -> Report:
    """Every row of `given.file` against the rules. Raises as `run` does, but not for rejected traces."""
    rules, count = rules_of(given), count_of(given)
    benchmarks = Benchmarks.read(given.benchmarks)
    need = ("problem", "trace", *(["answer"] if given.judge_answers else []))
    notes: Counter[str] = Counter()
    try:
        rows = load_rows(str(given.file), split=given.split, need=need, notes=notes)
    except MissingColumn as error:
        if error.field != "answer":
            raise
        raise DataError(f"{error}. Where there are none, --judge_answers false checks all else") from None
    accepted: Rows = []
    rejected: dict[int, list[Rejection]] = {}
    repairs: Counter[str] = Counter()
    for number, row in enumerate(rows, 1):
        if given.repair:
            row["trace"], done = repair(row["trace"])
            repairs.update(done)
        answer = row["answer"] if given.judge_answers else None
        problem = conversation(row)
        found = check(row["trace"], problem=problem, answer=answer, rules=rules, count=count)
        overlap = benchmarks.overlap(row["problem"])
        if overlap and Reason.CONTAMINATED not in rules.ignored:
            share = f"{overlap.share:.0%} of the problem's runs of {RUN} words"
            found.append(Rejection(Reason.CONTAMINATED, f"{share} stand in one of {overlap.benchmark}"))
        if found:
            rejected[number] = found
        else:
            accepted.append(row)
    return Report(rows, accepted, rejected, repairs, notes)


def wrong_paths_of(rows: Rows, *, judged: bool = False, path_opening: str = "none") -> Iterator[str]:
    """How many wrong paths `rows` hold, in lines: those that their `context_paths` record and, if `judged`,
    those that the verifier finds in the others, whose paths begin with `path_opening`."""
    recorded = [row[CONTEXT_PATHS] for row in rows if CONTEXT_PATHS in row]
    if recorded:
        yield f"wrong paths, recorded: {_counted(recorded)}"
    unknown = [row for row in rows if CONTEXT_PATHS not in row] if judged else []
    if any(found := [wrong_paths(row["trace"], row["answer"], path_opening) for row in unknown]):
        yield f"wrong paths, judged: {_counted(found)}; --wrong_paths judged has `prl sft` not learn them"


def _counted(found: Sequence[Sequence[int]]) -> str:
    return f"{sum(map(len, found))} in {sum(map(bool, found))} of {len(found)} traces"


def rules_of(given: DataCheckArguments | DataTracesArguments) -> Rules:
    """The rules that flags ask for. Raises UsageError."""
    if unknown := [name for name in given.ignore if name not in {*Reason}]:
        known = [reason.value for reason in Reason]
        raise UsageError(
            f"ignore: {unknown[0]!r} is no reason{nearest(unknown[0], known)}; there are {', '.join(known)}"
        )
    return Rules(
        max_length=given.max_length,
        min_diversity=given.min_diversity,
        need_block=not given.allow_sequential,
        path_opening=given.path_opening,
        ignored=frozenset(reason for reason in Reason if reason in given.ignore),
    )


def count_of(given: DataCheckArguments | DataTracesArguments) -> Callable[[str], int] | None:
    """What lengths are counted in: tokens of `--tokenizer`; None for characters. Raises ModelError."""
    if given.tokenizer is None:
        return None
    encode = encoder(given.tokenizer)
    return lambda text: len(encode(text))


def _check(given: DataCheckArguments) -> None:
    outputs = {name: Path(file) for name in ("accepted", "rejected") if (file := getattr(given, name))}
    for name, file in outputs.items():
        check_output(file, f"--{name}")
    report = check_file(given)
    total, bad = len(report.rows), len(report.rejected)
    print(
        f"{given.file}: {total} traces, {total - bad} pass ({(total - bad) / total:.1%}), {bad} are rejected"
    )
    if not given.judge_answers:
        print("  final answers were not judged")
    for reason, count in report.reasons.most_common():
        print(f"  {reason.value:16}{count:6}  {reason.meaning}")
    for line in wrong_paths_of(report.rows, judged=given.judge_answers, path_opening=given.path_opening):
        print(f"  {line}")
    for what, count in report.notes.most_common():
        print(f"  as read: {count} {what}")
    for what, count in report.repairs.most_common():
        print(f"  repaired: {what} in {count} traces")
    for number, found in [*report.rejected.items()][:LISTED]:
        print(harmless(f"row {number}: " + "; ".join(rejection.message for rejection in found)))
    if bad > LISTED:
        print(f"and {bad - LISTED} more; --rejected FILE keeps them all")
    if "rejected" in outputs and bad:
        keep = [
            report.rows[number - 1]
            | {
                "row": number,
                "reasons": [r.reason.value for r in found],
                "details": [r.detail for r in found],
            }
            for number, found in report.rejected.items()
        ]
        write_rows(outputs["rejected"], keep, "--rejected")
    if "accepted" in outputs and report.accepted:
        write_rows(outputs["accepted"], report.accepted, "--accepted")
        print(
            f"{outputs['accepted']}: {len(report.accepted)} traces; `prl sft --dataset {outputs['accepted']}`"
        )
    if bad == total:
        raise DataError(f"{given.file}: no trace passes; the reasons above say why, --ignore lets one go")
    if bad:
        raise DataError(
            f"{given.file}: {bad} of {total} traces are rejected; --accepted FILE keeps the others"
        )


def describe(
    traces: Iterable[str], encode: Callable[[str], list[int]] | None = None, path_opening: str = "none"
) -> dict[str, Any]:
    """Blocks, paths, lengths and diversity of `traces`, which are read once and not held. `path_opening` is
    what their paths begin with, which tells no path from another.

    Lengths are in tokens where there is an `encode`, which gives the tags the ids after all others, as
    `encoder` does; else in characters. `blocks` and `paths` count traces by how many they hold. Means of
    nothing, and lengths of no traces, are None.
    """
    counts: dict[str, Counter[int]] = {name: Counter() for name in ("blocks", "paths", *_LENGTHS)}
    valid: list[bool] = []
    saved: list[float] = []
    positions: list[float] = []
    differ: list[float | None] = []
    alike: list[float | None] = []
    for trace in traces:
        parsed, measured = parse(trace, opening=path_opening), _shape(trace, encode)
        valid.append(parsed.is_valid)
        saved.append(measured.saved)
        positions += measured.block_positions
        for name, counted in counts.items():
            counted[getattr(measured, name)] += 1
        for block in parsed.blocks:
            paths = [words(path.content) for path in block.paths]
            differ.append(diversity(paths))
            alike.append(self_bleu(paths))
    return {
        "traces": len(valid),
        "format_valid": _mean(valid),
        **{name: counted for name, counted in counts.items() if name not in _LENGTHS},
        **{name: _quantiles(counts[name]) if valid else None for name in _LENGTHS},
        "saved": _mean(saved),
        "block_position": _mean(positions),
        "path_diversity": _mean(value for value in differ if value is not None),
        "self_bleu": _mean(value for value in alike if value is not None),
    }


def _mean(values: Iterable[float]) -> float | None:
    held = [*values]
    return fmean(held) if held else None


def _shape(trace: str, encode: Callable[[str], list[int]] | None) -> Shape:
    if encode is None:
        return shape(parse(trace), trace)
    ids = encode(trace)
    return shape(parse_ids(ids, encode("".join(TAGS))), ids)


def _quantiles(counted: Counter[int]) -> list[int]:
    ordered = sorted(counted.elements())
    return [ordered[round(share * (len(ordered) - 1))] for share in SHARES]


def _stats(given: DataStatsArguments, rows: Rows) -> Iterator[str]:
    traces = [row["trace"] for row in rows]
    found = describe(traces, encoder(given.tokenizer) if given.tokenizer else None, given.path_opening)
    unit = "tokens" if given.tokenizer else "characters"
    shares = " / ".join(f"{share:.0%}" for share in SHARES)
    yield f"{given.file}: {found['traces']} traces, {found['format_valid']:.1%} with a valid format"
    for name in ("blocks", "paths"):
        counts = ", ".join(f"{number}: {found[name][number]}" for number in sorted(found[name]))
        yield f"  {name} in a trace       {counts}"
    for name, label in (("length", "length"), ("critical_path", "critical path")):
        yield f"  {label:21} {' / '.join(map(str, found[name]))} {unit} ({shares})"
    for name, label in (
        ("saved", "off the critical path"),
        ("block_position", "block position"),
        ("path_diversity", "path diversity"),
        ("self_bleu", "self-BLEU of paths"),
    ):
        yield f"  {label:21} {'none' if found[name] is None else format(found[name], '.3f')}"
    yield from (f"  {line}" for line in wrong_paths_of(rows))


def encoder(name: str) -> Callable[[str], list[int]]:
    """Text to token ids of the tokenizer of `name` (a model, adapter or run), each tag one token. Raises
    ModelError, RunError."""
    from prl.model import load_tokenizer
    from prl.runs import adapter_dir

    folder = Path(name).expanduser()
    is_bare = folder.is_dir() and not (folder / "environment.json").exists()  # of a tokenizer alone, perhaps
    tokenizer = load_tokenizer(name if is_bare else adapter_dir(name) or name)
    tokenizer.add_tokens([tag for tag in TAGS if tag not in tokenizer.get_vocab()])
    return lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]

"""Judge the judges on the same pairs, in one run (`make bench-answers`).

    corpus      tests/answers/corpus.jsonl, the project's own labelled pairs; every disagreement is listed
    second      tests/answers/second.jsonl, labelled twice before the judge had seen them: latex2sympy2
                alone and the rules of the reference's checker as well, all by kind
    variants    answers of MATH rewritten by rules that keep or break them; neither checker was tuned on these
    MATH        the whole solution against the answer column (as in the file, where 66 answers are cut off at
                their first closing brace; without those rows; and with them as prl.data mends them), and each
                answer against the next row's
    speed       pairs a second in this process, milliseconds of a LaTeX pair, the same pairs against the peer
    hostile     seconds to each verdict and memory afterwards

math-verify needs an ANTLR of its own, so it gets a virtual environment under .cache/. `--soak N` runs only a
soak of N mixed pairs. The parts on MATH need a parquet file with columns `answer` and `solution` (`--math`);
they are skipped, and said so, without it.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "tests" / "answers" / "corpus.jsonl"
SECOND = CORPUS.with_name("second.jsonl")
PEER = "math-verify==0.9.*"
PEER_PATIENCE = 12.0  # seconds after which a pair counts as a hang of the peer; its own time-outs are 5 + 5
HOSTILE_SHARE = 0.01

Pair = dict[str, Any]  # pred, gold and, where labelled, equal, category, reason


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--math", type=Path, default=ROOT.parent / "shared" / "data" / "math_test.parquet")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--soak", type=int, metavar="N", help="only a soak of N mixed pairs")
    parser.add_argument("--no-peer", action="store_true", help="prl alone")
    parser.add_argument("--loop", choices=sorted(LOOPS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        return LOOPS[options.loop]()
    if options.soak:
        return soak(options.soak, options.workers)

    corpus, second = load_corpus(), load_corpus(SECOND)
    rows = load_math(options.math)
    variants = list(make_variants([row["answer"] for row in rows], seed=0))
    same = [{"pred": boxed(row["solution"]), "gold": row["answer"]} for row in rows]
    mended = [{**pair, "gold": row["mended"]} for pair, row in zip(same, rows, strict=True)]
    following = [
        {"pred": row["mended"], "gold": after["mended"]}
        for row, after in zip(rows, rows[1:] + rows[:1], strict=True)
    ]
    sets = {
        "corpus": corpus,
        "second": second,
        "variants": variants,
        "same": same,
        "mended": mended,
        "following": following,
    }
    ours = {name: judge_ours(pairs, options.workers) for name, pairs in sets.items()}
    peers = (
        {} if options.no_peer else {name: judge_outside("math-verify", pairs) for name, pairs in sets.items()}
    )

    for name in ("corpus", "second", "variants"):
        if sets[name]:
            report_labels(name, sets[name], ours[name], peers.get(name))
    judged = {"prl.answers": ours["second"], "math-verify 0.9": peers.get("second")}
    if not options.no_peer:
        judged |= {"latex2sympy2 alone": judge_outside("latex2sympy2", second)}
    report_kinds(second, judged | {"the reference's rules": judge_by_reference(second)})
    if rows:
        report_math(sets, ours, peers)
    report_speed(corpus, variants, options.workers)
    report_hostile([pair for pair in corpus if pair["category"] == "hostile"])


# -- pairs


def load_corpus(path: Path = CORPUS) -> list[Pair]:
    pairs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for pair in pairs:
        if isinstance(pair["pred"], list):
            pair["pred"] = "".join(piece * count for piece, count in pair["pred"])
    return pairs


def load_math(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        print(f"no file {path}: the parts on MATH are skipped; name one with --math")
        return []
    import pyarrow.parquet as parquet

    from prl.data.hub import load_rows

    rows = parquet.read_table(path, columns=["answer", "solution"]).to_pylist()
    mended = load_rows(str(path), need=("problem", "answer"))
    return [{**row, "mended": whole["answer"]} for row, whole in zip(rows, mended, strict=True)]


def boxed(solution: str) -> str:
    from prl.answers import extract_answer

    return extract_answer(solution) or ""


def balanced(answer: str) -> bool:
    """Whether the braces match; 66 answers of the MATH file were cut at their first closing brace."""
    plain = answer.replace("\\{", "").replace("\\}", "")
    return plain.count("{") == plain.count("}")


def make_variants(answers: list[str], seed: int) -> Iterator[Pair]:
    """Labelled pairs from answers by rules that keep the value (equal) or change it (near misses)."""
    seen = set()
    for index, answer in enumerate(answers):
        if answer in seen or not balanced(answer) or "\n" in answer:
            continue
        seen.add(answer)
        chance = random.Random(seed * 1_000_003 + index)
        for rules, equal in ((KEEP, True), (BREAK, False)):
            made = [
                (name, text)
                for name, rule in rules.items()
                if (text := rule(answer, chance)) and text != answer
            ]
            for name, text in chance.sample(made, min(2, len(made))):
                yield {
                    "pred": text,
                    "gold": answer,
                    "equal": equal,
                    "category": f"{'keeps' if equal else 'breaks'}: {name}",
                    "reason": name,
                }


_INTEGER = re.compile(r"-?\d{1,9}")
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_ITEMS = re.compile(r"[^,()\[\]{}\\]+(?:,[^,()\[\]{}\\]+)+")


def _slash(answer: str, chance: random.Random) -> str | None:
    match = _FRACTION.fullmatch(answer)
    return f"{match[1]}{match[2]}/{match[3]}" if match else None


def _decimal(answer: str, chance: random.Random) -> str | None:
    match = _FRACTION.fullmatch(answer)
    if not match or any(
        int(match[3]) % prime == 0 for prime in (3, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43)
    ):
        return None
    value = int(match[2]) / int(match[3])
    return f"{match[1]}{value!r}" if len(repr(value)) < 12 and "e" not in repr(value) else None


def _unreduced(answer: str, chance: random.Random) -> str | None:
    match = _FRACTION.fullmatch(answer)
    factor = chance.randint(2, 9)
    return f"{match[1]}\\frac{{{int(match[2]) * factor}}}{{{int(match[3]) * factor}}}" if match else None


def _thousands(answer: str, chance: random.Random) -> str | None:
    return f"{int(answer):,}" if _INTEGER.fullmatch(answer) and abs(int(answer)) >= 1000 else None


def _reordered_sum(answer: str, chance: random.Random) -> str | None:
    match = re.fullmatch(r"([^+\-=<>,()\[\]{}]+)\+([^+\-=<>,()\[\]{}]+)", answer)
    return f"{match[2].strip()} + {match[1].strip()}" if match and "text" not in answer else None


def _reordered_list(answer: str, chance: random.Random) -> str | None:
    items = [item.strip() for item in answer.split(",")]
    if not _ITEMS.fullmatch(answer) or re.fullmatch(r"\d{1,3},\d{3}", answer):
        return None
    chance.shuffle(items)
    return ", ".join(items)


def _root_as_power(answer: str, chance: random.Random) -> str | None:
    return (
        re.sub(r"\\sqrt\{(\d+)\}", r"\1^{1/2}", answer) if re.fullmatch(r"-?\\sqrt\{\d+\}", answer) else None
    )


def _bumped(answer: str, chance: random.Random) -> str | None:
    """One digit of one number changed."""
    places = [match.start() for match in re.finditer(r"\d", answer)]
    if not places or ("^{\\circ}" in answer and len(places) == 0):
        return None
    place = chance.choice(places)
    digit = chance.choice(
        [d for d in "0123456789" if d != answer[place] and (d != "0" or place == 0)] or ["7"]
    )
    changed = answer[:place] + digit + answer[place + 1 :]
    return None if re.search(r"\{0\}|\b0\d|\\frac\d?0(?!\d)|/0|0[\\^]|_\{?\d*\}?$", changed) else changed


def _negated(answer: str, chance: random.Random) -> str | None:
    plain = re.fullmatch(r"\d+(?:\.\d+)?|\\d?frac\{\d+\}\{\d+\}|\d*\\sqrt\{?\d+\}?|\d*\\pi", answer)
    return f"-{answer}" if plain and answer.strip("0.") else None


def _other_end(answer: str, chance: random.Random) -> str | None:
    if re.fullmatch(r"\[[^\[\]()]+,[^\[\]()]+[\])]", answer):
        return "(" + answer[1:]
    if re.fullmatch(r"[\[(][^\[\]()]+,[^\[\]()]+\]", answer):
        return answer[:-1] + ")"
    return None


def _swapped(answer: str, chance: random.Random) -> str | None:
    match = re.fullmatch(r"(?:\\left)?\(([^,()]+),([^,()]+?)(?:\\right)?\)", answer)
    if not match or match[1].strip() == match[2].strip():
        return None
    return f"({match[2].strip()},{match[1].strip()})"


def _one_short(answer: str, chance: random.Random) -> str | None:
    items = answer.split(",")
    return ",".join(items[:-1]) if _ITEMS.fullmatch(answer) and len(items) > 2 else None


def _squared(answer: str, chance: random.Random) -> str | None:
    return answer + "^2" if re.fullmatch(r"[2-9]\d*|\\pi|\d+\\pi", answer) else None


def _rounded(answer: str, chance: random.Random) -> str | None:
    match = _FRACTION.fullmatch(answer)
    if match and int(match[3]) % 3 == 0 and int(match[2]) % 3:
        return f"{match[1]}{int(match[2]) / int(match[3]):.4f}"
    return None


KEEP = {
    "dollar signs": lambda answer, chance: f"${answer}$" if "$" not in answer else None,
    "box": lambda answer, chance: f"\\boxed{{{answer}}}",
    "sentence": lambda answer, chance: f"The answer is ${answer}$." if "$" not in answer else None,
    "final answer": lambda answer, chance: (
        f"So it must be.\n\nFinal Answer: ${answer}$" if "$" not in answer else None
    ),
    "display size": lambda answer, chance: answer.replace("\\frac", "\\dfrac"),
    "name": lambda answer, chance: (
        f"x = {answer}" if re.fullmatch(r"-?[\d.]+|-?\\frac\{\d+\}\{\d+\}", answer) else None
    ),
    "unit": lambda answer, chance: (
        f"{answer}\\text{{ cm}}" if re.fullmatch(r"[\d.]+|\d*\\sqrt\{\d+\}|\d*\\pi", answer) else None
    ),
    "sizing": lambda answer, chance: (
        answer.replace("\\left", "").replace("\\right", "")
        if "\\left" in answer
        else re.sub(r"^\(([^()]*)\)$", r"\\left(\1\\right)", answer)
    ),
    "blanks": lambda answer, chance: re.sub(r"(?<=\d)\+", " + ", answer) if "text" not in answer else None,
    "point zero": lambda answer, chance: f"{answer}.0" if _INTEGER.fullmatch(answer) else None,
    "slash": _slash,
    "decimal": _decimal,
    "unreduced": _unreduced,
    "thousands": _thousands,
    "order of a sum": _reordered_sum,
    "order of a list": _reordered_list,
    "root as power": _root_as_power,
}
BREAK = {
    "digit": _bumped,
    "sign": _negated,
    "open or closed": _other_end,
    "order of a point": _swapped,
    "item missing": _one_short,
    "squared": _squared,
    "rounded": _rounded,
}


# -- the checkers


def judge_ours(pairs: list[Pair], workers: int) -> dict[str, Any]:
    from prl.answers import AnswerChecker

    results, seconds = [], []
    with AnswerChecker(workers=workers) as checker:
        checker.check("x+1", "1+x")  # one worker is up: its start is not a pair's time
        begin = time.perf_counter()
        for pair in pairs:
            start = time.perf_counter()
            verdict = checker.check(pair["pred"], pair["gold"])
            seconds.append(time.perf_counter() - start)
            results.append((verdict.equal, verdict.reason))
        return {"results": results, "seconds": seconds, "total": time.perf_counter() - begin}


def judge_outside(name: str, pairs: list[Pair]) -> dict[str, Any]:
    """The checker `name` of `LOOPS` in a process of its own. A pair without an answer in time is a hang."""
    results: list[tuple[bool, str]] = []
    seconds: list[float] = []
    process, lines = start(name)
    lines.get(timeout=120)  # imports done
    begin = time.perf_counter()
    for pair in pairs:
        began = time.perf_counter()
        try:
            process.stdin.write(json.dumps({"pred": pair["pred"], "gold": pair["gold"]}) + "\n")
            process.stdin.flush()
            line = lines.get(timeout=PEER_PATIENCE)
            if line is None:
                raise OSError("the peer died")
            answer = json.loads(line)
            results.append((answer["equal"], answer["reason"]))
        except (queue.Empty, OSError) as error:
            results.append((False, "hang" if isinstance(error, queue.Empty) else "died"))
            process.kill()
            process.wait()
            process, lines = start(name)
            lines.get(timeout=120)
        seconds.append(time.perf_counter() - began)
    total = time.perf_counter() - begin
    process.kill()
    process.wait()
    return {"results": results, "seconds": seconds, "total": total}


def start(name: str) -> tuple[Any, queue.Queue[str | None]]:
    python = peer_python() if name == "math-verify" else sys.executable
    process = subprocess.Popen(
        [str(python), __file__, "--loop", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    lines: queue.Queue[str | None] = queue.Queue()

    def pump() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put(None)

    threading.Thread(target=pump, daemon=True).start()
    return process, lines


def peer_python() -> Path:
    """The interpreter of math-verify's virtual environment, made at first use."""
    folder = ROOT / ".cache" / "math-verify"
    python = (
        folder / ("Scripts" if os.name == "nt" else "bin") / ("python.exe" if os.name == "nt" else "python")
    )
    if not python.exists():
        print(f"making {folder} with {PEER} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", PEER], check=True
        )
    return python


def loop(equal: Callable[[str, str], tuple[bool, str]]) -> None:
    """Pairs in, verdicts out, one JSON line each."""
    print("ready", flush=True)
    for line in sys.stdin:
        pair = json.loads(line)
        try:
            same, reason = equal(pair["pred"], pair["gold"])
        except BaseException as error:
            same, reason = False, type(error).__name__
        print(json.dumps({"equal": same, "reason": reason}), flush=True)


def loop_math_verify() -> None:
    """Runs in the peer's environment."""
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)

    def read(text: str) -> list[Any]:
        """As its documentation asks: LaTeX in an environment; the raw text where that gives nothing."""
        marked = "$" in text or "boxed" in text or "\\(" in text or "\\[" in text
        return (parse(text) if marked else parse(f"${text}$")) or parse(text)

    def equal(pred: str, gold: str) -> tuple[bool, str]:
        wanted = read(gold)
        same = bool(verify(wanted, read(pred)))
        return same, "equal" if same else ("different" if wanted else "no gold")

    loop(equal)


def loop_latex2sympy2() -> None:
    """The last box or label, parsed by latex2sympy2 as it comes, compared by sympy."""
    import latex2sympy2
    import sympy

    def read(text: str) -> Any:
        inner = last_box(text) or re.split(r"(?i)answer(?: is)?:?", text)[-1]
        return latex2sympy2.latex2sympy(inner.strip().strip("$. "))

    def equal(pred: str, gold: str) -> tuple[bool, str]:
        if pred.strip() == gold.strip():
            return True, "identical"
        one, other = read(pred), read(gold)
        return bool(one == other or sympy.simplify(one - other) == 0), "compared"

    loop(equal)


LOOPS = {"math-verify": loop_math_verify, "latex2sympy2": loop_latex2sympy2}


def last_box(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    depth = 0
    for index in range(start + 7, len(text) if start >= 0 else 0):
        depth += (text[index] == "{") - (text[index] == "}")
        if not depth:
            return text[start + 8 : index]
    return None


def judge_by_reference(pairs: list[Pair]) -> dict[str, Any]:
    """Parallel-R1's checker (its math_dapo.py) by its rules: of the last 300 characters the last line with
    "Final Answer:", compared as text after a fixed list of removals. A text without that line is given to it
    as one, which it would refuse."""
    results, seconds = [], []
    begin = time.perf_counter()
    for pair in pairs:
        began = time.perf_counter()
        text = pair["pred"][-300:]
        found = re.findall(r"(?i)final answer\s*:\s*([^\n]+)", text) or [last_box(text) or text]
        results.append((as_reference(found[-1]) == as_reference(pair["gold"]), "compared"))
        seconds.append(time.perf_counter() - began)
    return {"results": results, "seconds": seconds, "total": time.perf_counter() - begin}


_REFERENCE_DROPS = (
    *(
        "square",
        "ways",
        "integers",
        "dollars",
        "mph",
        "inches",
        "hours",
        "km",
        "units",
        "points",
        "feet",
        "minutes",
    ),
    *(
        "digits",
        "cents",
        "degrees",
        "cm",
        "gm",
        "pounds",
        "meters",
        "meals",
        "edges",
        "students",
        "multiples",
    ),
    *("^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots", "\\ldots", "\\text{}", "\\mathrm{th}"),
)


def as_reference(answer: str) -> str:
    answer = (
        re.sub(r"\ban? |\\\$|\\ | ", "", answer.split("=")[-1]).replace(".$", "$").replace("mbox", "text")
    )
    for drop in _REFERENCE_DROPS:
        answer = answer.replace(drop, "")
    answer = re.sub(r".*?\$(.*?)\$.*", r"\1", answer)
    answer = re.sub(r"\\(?:text|textbf|overline|boxed)\{(.*?)\}", r"\1", answer)
    answer = re.sub(r"frac([^{])(.)", r"frac{\1}{\2}", answer)
    answer = re.sub(r"sqrt([^{])", r"sqrt{\1}", answer).replace("$", "")
    return answer.replace(",", "") if answer.replace(",", "").isdigit() else answer


# -- reports


def report_labels(name: str, pairs: list[Pair], ours: dict[str, Any], peer: dict[str, Any] | None) -> None:
    print(f"\n## {name}: {len(pairs)} pairs, {sum(pair['equal'] for pair in pairs)} equal")
    print(f"{'':<28}{'false positives':>16}{'false negatives':>16}{'hangs':>7}")
    for who, judged in (("prl.answers", ours), ("math-verify 0.9", peer)):
        if judged:
            wrong = Counter(
                "false positive" if equal else "false negative"
                for pair, (equal, _) in zip(pairs, judged["results"], strict=True)
                if equal != pair["equal"]
            )
            hangs = sum(reason in ("hang", "died", "timed out") for _, reason in judged["results"])
            print(f"{who:<28}{wrong['false positive']:>16}{wrong['false negative']:>16}{hangs:>7}")
    print("disagreements with the label or each other (label | prl | math-verify | prediction | gold | why):")
    others = peer["results"] if peer else ours["results"]
    for pair, (mine, reason), (other, _) in zip(pairs, ours["results"], others, strict=True):
        if not mine == other == pair["equal"]:
            marks = " | ".join("=" if equal else "≠" for equal in (pair["equal"], mine, other))
            wrong = f" [prl: {reason}]" if mine != pair["equal"] else ""
            why = f"{pair['category']}: {pair['reason']}{wrong}"
            print(f"  {marks} | {short(pair['pred'])} | {short(pair['gold'])} | {why}")


def report_kinds(pairs: list[Pair], judged: dict[str, dict[str, Any] | None]) -> None:
    """False positives and negatives of each judge, kind by kind, and the time of all."""
    kinds = dict.fromkeys(pair["category"] for pair in pairs)
    asked = {who: each for who, each in judged.items() if each}
    print(f"\n## second corpus by kind: false positives + false negatives of {len(pairs):,} pairs")
    print(f"{'':<28}{'pairs':>6}" + "".join(f"{who:>24}" for who in asked))

    def wrong(each: dict[str, Any], kind: str | None) -> str:
        missed = [
            equal
            for pair, (equal, _) in zip(pairs, each["results"], strict=True)
            if equal != pair["equal"] and kind in (None, pair["category"])
        ]
        return f"{sum(missed)} + {len(missed) - sum(missed)}"

    for kind in (*kinds, None):
        count = sum(kind in (None, pair["category"]) for pair in pairs)
        print(
            f"{kind or 'all':<28}{count:>6}" + "".join(f"{wrong(each, kind):>24}" for each in asked.values())
        )
    print(f"{'seconds':<34}" + "".join(f"{each['total']:>24.2f}" for each in asked.values()))


def short(text: str) -> str:
    text = text.replace("\n", "⏎").replace("\0", "␀")
    return text if len(text) <= 60 else f"{text[:60]}… ({len(text):,})"


def report_math(sets: dict[str, list[Pair]], ours: dict[str, Any], peers: dict[str, Any]) -> None:
    count = len(sets["same"])
    uncut = [index for index, pair in enumerate(sets["same"]) if balanced(pair["gold"])]
    print(f"\n## MATH: {count:,} rows, the box of the solution against the answer")
    for who, judged in (("prl.answers", ours), ("math-verify 0.9", peers)):
        if not judged:
            continue
        for name, what, rows in (
            ("same", "all rows, answers as in the file", range(count)),
            ("same", "rows whose answer is not cut off", uncut),
            ("mended", "all rows, as prl.data.load_rows gives them", range(count)),
        ):
            right = sum(judged[name]["results"][index][0] for index in rows)
            print(f"{who:<16} {what:<43} {right:,} of {len(rows):,} ({right / len(rows):.2%})")
        for pair, (equal, reason) in zip(sets["mended"], judged["mended"]["results"], strict=True):
            if not equal and who == "prl.answers":
                print(f"    missed: {short(pair['pred'])} | {short(pair['gold'])} | {reason}")
    print("each answer against the next row's (as load_rows gives them); equal though written differently:")
    for who, judged in (("prl.answers", ours), ("math-verify 0.9", peers)):
        if judged:
            results = judged["following"]["results"]
            equal = [pair for pair, (yes, _) in zip(sets["following"], results, strict=True) if yes]
            unlike = [pair for pair in equal if pair["pred"] != pair["gold"]]
            print(f"{who:<16} {len(equal)} equal, of which {len(unlike)} written differently")
            for pair in unlike:
                print(f"    {short(pair['pred'])} | {short(pair['gold'])}")
    for name, what in (("same", "box = answer"), ("following", "the next row's")):
        rates = [f"prl.answers {count / ours[name]['total']:,.0f} pairs/s"]
        if peers:
            rates.append(f"math-verify {count / peers[name]['total']:,.0f}")
            rates.append(f"{peers[name]['total'] / ours[name]['total']:.0f} x")
        print(f"throughput, {what}: {', '.join(rates)}")


def report_speed(corpus: list[Pair], variants: list[Pair], workers: int) -> None:
    from prl.answers import AnswerChecker

    print("\n## speed, one core")
    chance = random.Random(0)
    plain = [(str(chance.randint(-999, 9999)), str(chance.randint(-999, 9999))) for _ in range(100_000)]
    identical = [(pair["gold"], pair["gold"]) for pair in variants]
    with AnswerChecker(workers=workers, cache=0) as checker:
        for name, pairs in (("plain numbers", plain), ("identical LaTeX", identical)):
            seconds = timed(checker, pairs)
            if seconds:
                print(f"fast path, {name}: {len(seconds) / sum(seconds):,.0f} pairs/s")
        checker.check("x+1", "1+x")
        report_times(
            "LaTeX variants of MATH", timed(checker, [p for p in in_latex(variants) if p not in identical])
        )
        algebraic = [pair for pair in in_latex(corpus) if needs_worker(pair)]
        chance.shuffle(algebraic)
        half = len(algebraic) // 2
        timed(checker, algebraic[:half])  # latex2sympy2's parser learns each form once
        report_times(
            "corpus, pairs that need a worker, after as many others", timed(checker, algebraic[half:])
        )


def in_latex(pairs: list[Pair]) -> list[tuple[str, str]]:
    return [(pair["pred"], pair["gold"]) for pair in pairs if "\\" in pair["pred"] or "\\" in pair["gold"]]


def needs_worker(pair: tuple[str, str]) -> bool:
    from prl.answers.comparing import NeedsAlgebra
    from prl.answers.judging import judge

    try:
        judge(*pair)
    except NeedsAlgebra:
        return True
    return False


def timed(checker: Any, pairs: list[tuple[str, str]]) -> list[float]:
    seconds = []
    for pred, gold in pairs:
        start = time.perf_counter()
        checker.check(pred, gold)
        seconds.append(time.perf_counter() - start)
    return seconds


def report_times(name: str, seconds: list[float]) -> None:
    if seconds:
        ordered = [1000 * second for second in sorted(seconds)]
        p99 = ordered[int(0.99 * len(ordered))]
        print(
            f"{name} ({len(ordered):,}): median {statistics.median(ordered):.2f} ms, p99 {p99:.1f} ms, ",
            end="",
        )
        print(f"worst {ordered[-1]:.1f} ms")


def report_hostile(pairs: list[Pair]) -> None:
    from prl.answers import AnswerChecker

    print(f"\n## hostile: {len(pairs)} texts")
    with AnswerChecker(workers=1) as checker:
        checker.check("x+1", "1+x")
        before = memory()
        slowest = (0.0, "")
        broken = 0
        for pair in pairs:
            start = time.perf_counter()
            checker.check(pair["pred"], pair["gold"])
            slowest = max(slowest, (time.perf_counter() - start, short(pair["pred"])))
            broken += not checker.check("x+2", "2+x").equal
        here, there = memory()
        print(f"slowest verdict {slowest[0]:.2f} s: {slowest[1]}")
        print(f"ordinary pairs judged wrong right after: {broken}; resident memory", end=" ")
        print(
            f"{before[0]:.0f} -> {here:.0f} MB in this process, {before[1]:.0f} -> {there:.0f} MB in workers"
        )


def memory() -> tuple[float, float]:
    """Resident megabytes of this process and of its children."""
    import psutil

    process = psutil.Process()
    children = sum(child.memory_info().rss for child in process.children(recursive=True))
    return process.memory_info().rss / 2**20, children / 2**20


def soak(count: int, workers: int) -> None:
    """`count` mixed pairs, 1 % hostile, fresh each time: throughput, memory and processes for each tenth."""
    from prl.answers import AnswerChecker

    chance = random.Random(0)
    corpus = load_corpus()
    hostile = [pair for pair in corpus if pair["category"] == "hostile"]
    ordinary = [pair for pair in corpus if pair["category"] not in ("hostile", "extraction")]
    tenth = max(1, count // 10)
    with AnswerChecker(workers=workers, cache=0) as checker:
        wrong = 0
        start = time.perf_counter()
        for index in range(1, count + 1):
            pair = chance.choice(hostile if chance.random() < HOSTILE_SHARE else ordinary)
            wrong += checker.check(pair["pred"], pair["gold"]).equal != pair["equal"]
            if index % tenth == 0:
                import psutil

                seconds, start = time.perf_counter() - start, time.perf_counter()
                here, there = memory()
                children = psutil.Process().children(recursive=True)
                zombies = sum(child.status() == psutil.STATUS_ZOMBIE for child in children)
                print(
                    f"{index:>9,} pairs: {tenth / seconds:,.0f} pairs/s, {wrong} wrong, {here:.0f} MB here,",
                    end=" ",
                )
                print(f"{there:.0f} MB in {len(children)} workers, {zombies} zombies", flush=True)


if __name__ == "__main__":
    main()

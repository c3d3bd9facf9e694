"""prl beside plain TRL: training, evaluation, and the start of the command line (`make bench`).

    sft       steps of `prl sft` and of TRL's SFTTrainer on the same rows of token ids
    grpo      steps of `prl rl`, causal and structured with four paths, and of TRL's GRPOTrainer on the same
              prompts; responses of prescribed tokens, the same to both where both are causal
    eval      samples of prl's decoder and of a batched `model.generate` loop, as long as traces
    starts    `prl --help`, `prl sft --help` and `import prl` beside the same of TRL

Each way has a process of its own (benchmarks/ways.py), so that its peak memory is its own; ways take turns,
a step each, and a ratio is the median of the ratios within each turn, so that a machine that slows down slows
all of them down. CPU seconds stand beside those on the wall: what neighbours take is not in them. They are of
the process alone, without the worker that judges answers. A ratio is what prl takes of what the other takes,
for as many tokens: below 1, prl is ahead. How to read the figures: docs/benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from prl.machine.hardware import this_machine
from prl.runs.disk import replacing
from prl.runs.provenance import describe_environment
from prl.statistics import median

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "docs" / "benchmarks"
PARTS = ("sft", "grpo", "eval")
WAYS = {"sft": ("prl", "trl"), "grpo": ("prl", "prl structured", "trl"), "eval": ("prl", "loop")}
"""Of each part; the last is what the others are compared with."""

NAMES = {"trl": "plain TRL", "loop": "generate loop"}
FORKING = multiprocessing.get_context(
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)
"""Forked from a server that has imported all: that takes longer than a small turn."""

WORSE = 1.1
"""A ratio this many times as large as the committed one is marked."""

STARTS = {
    "--help": (("-m", "prl", "--help"), ("-c", "from trl.cli import main; main()", "--help")),
    "sft --help": (
        ("-m", "prl", "sft", "--help"),
        ("-c", "from trl.cli import main; main()", "sft", "--help"),
    ),
    "import": (("-c", "import prl"), ("-c", "import trl")),
}
"""What is started: of prl, and of TRL."""


@dataclass(frozen=True)
class Size:
    """How much a way does in a turn (benchmarks/ways.py, `Work`), and how often."""

    turns: int
    rows: int
    max_length: int
    groups: int
    group: int
    completion: int
    asked: int
    samples: int
    batch: int
    shorter: int
    lora_r: int


SIZES = {
    "tiny": Size(5, 32, 320, 8, 8, 123, 64, 4, 64, 1, 64),
    "40m": Size(3, 4, 1024, 1, 8, 88, 20, 4, 64, 4, 16),
    "real": Size(3, 4, 1024, 1, 8, 88, 20, 4, 64, 4, 16),
}

USED = {
    "sft": ("rows", "max_length", "lora_r"),
    "grpo": ("groups", "group", "completion", "lora_r"),
    "eval": ("asked", "samples", "batch", "shorter", "lora_r"),
}
"""What of a size a part does: results are of the same work where these are equal."""

QUICK = {
    "turns": 1, "rows": 2, "groups": 1, "group": 2, "completion": 60, "asked": 4, "samples": 2, "batch": 4,
    "shorter": 8,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    options = read(arguments)
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}  # for all processes
    sys.path.insert(0, str(ROOT / "benchmarks"))
    preload(["ways"])
    sizes = {name: sized(name, options) for name in options.models}
    environment = describe_environment()
    results: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"make bench ARGS='{' '.join(sys.argv[1:] if arguments is None else arguments)}'",
        "commit": environment["git_commit"],
        "machine": machine(options, environment["cpu_count"]),
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "transformers", "trl", "peft")
        },
        "parts": [],
    }
    print("  ".join(f"{name} {value}" for name, value in results["machine"].items()))
    if options.profile:
        results["profiles"] = []
        for found in profiles(sizes, options):
            results["profiles"].append(found)
            write(results, options.output)
        print(f"written to {options.output}")
        return 0
    against = committed(options, results["machine"])
    if against:
        print(f"compared with {', '.join(against)}: ratios marked ! are more than {WORSE - 1:.0%} worse")
    heads()
    for name, size in sizes.items():
        with tempfile.TemporaryDirectory() as folder:
            shared = prepare(name, folder, options)
            for part in options.parts:
                if part != "starts":
                    found = measure(name, part, size, shared, folder, options)
                    results["parts"].append(found)
                    write(results, options.output)
                    before = like(found, against)
                    show(found, before)
                    if against and not before:
                        print(f"{'':<13}nothing like it is committed, so nothing is marked")
    if "starts" in options.parts:
        results["starts"] = starts(1 if options.quick else 5)
        show_starts(
            results["starts"], next((each["starts"] for each in against.values() if "starts" in each), {})
        )
    write(results, options.output)
    print(f"written to {options.output}")
    unlike = [f"{found['model']} {found['part']}" for found in results["parts"] if not found["same_tokens"]]
    if unlike:
        print(f"not the same tokens in all ways: {', '.join(unlike)}; these ratios mean nothing")
    return int(bool(unlike))


def read(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=SIZES, help="those that are there, if none")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, "starts"], default=[*PARTS, "starts"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, help="OMP_NUM_THREADS, or 1, if none")
    parser.add_argument("--turns", type=int, help="after the one that warms up")
    parser.add_argument(
        "--size", nargs="+", default=[], metavar="NAME=N", help=f"of {', '.join(SIZES['tiny'].__dict__)}"
    )
    parser.add_argument("--quick", action="store_true", help="little, one turn: that it runs, no more")
    parser.add_argument(
        "--profile", action="store_true", help="of prl alone: where a turn goes, operator by operator"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "bench.json")
    parser.add_argument("--compare", type=Path, help="a committed file; the newest of this machine, if none")
    model = Path(os.environ.get("PRL_REAL_MODEL") or ROOT / ".cache" / "smollm2-135m")
    data = Path(os.environ.get("PRL_REAL_DATA") or ROOT.parent / "shared" / "data")
    parser.add_argument("--real_model", type=Path, default=model, help="`make real` makes it")
    parser.add_argument("--real_traces", type=Path, default=data / "parallel_gsm8k_341.parquet")
    options = parser.parse_args(arguments)
    is_there = (options.real_model / "config.json").is_file()
    if options.models is None:
        options.models = [name for name in SIZES if name != "real" or is_there]
    elif "real" in options.models and not is_there:
        parser.error(f"no model in {options.real_model}: `make real` puts one there")
    for name, _, number in (each.partition("=") for each in options.size):
        if name not in SIZES["tiny"].__dict__ or not number.isdecimal():
            parser.error(f"--size {name}={number}: of {', '.join(SIZES['tiny'].__dict__)}, each a number")
    options.threads = options.threads or int(os.environ.get("OMP_NUM_THREADS") or 1)
    return options


def sized(name: str, options: argparse.Namespace) -> Size:
    given = {key: int(number) for key, _, number in (each.partition("=") for each in options.size)}
    if options.turns:
        given["turns"] = options.turns
    return replace(SIZES[name], **({**QUICK, **given} if options.quick else given))


def write(results: Mapping[str, Any], file: Path) -> None:
    with replacing(file, "--output") as target:
        target.write(f"{json.dumps(results, indent=1)}\n".encode())


def machine(options: argparse.Namespace, cores: int) -> dict[str, Any]:
    on_cpu = options.device == "cpu"
    return {
        "device": cpu_name() if on_cpu else this_machine().name,
        **({"has_avx512": "avx512f" in (cpu("flags") or "").split()} if on_cpu else {}),
        "cores": cores,
        "threads": options.threads,
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def cpu_name() -> str:
    return cpu("model name") or platform.machine()


def cpu(fact: str) -> str | None:
    """What Linux says of the first core; None elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith(fact)), None)


# -- measuring


def preload(modules: list[str]) -> None:
    """Have the server of processes import these modules of this folder, once for all. It finds them through
    the environment alone, and says nothing of one that it does not find (Python 3.11)."""
    FORKING.set_forkserver_preload(modules)
    paths = [str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))


def call(serve: str, channel: Connection, log: str, given: Mapping[str, Any]) -> None:
    """That function, `module.name`, of a module that is imported where it runs alone: it needs torch."""
    module, _, name = serve.rpartition(".")
    getattr(importlib.import_module(module), name)(channel, log, given)


class Process:
    """A process that a server forked, in which all that ways need is imported already."""

    def __init__(self, serve: str, log: Path, given: Mapping[str, Any]) -> None:
        self.log = log
        self.channel, other = FORKING.Pipe()
        self.process = FORKING.Process(target=call, args=(serve, other, str(log), given))
        self.process.start()
        other.close()

    def answer(self) -> dict[str, Any]:
        try:
            return self.channel.recv()
        except EOFError:
            said = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
            raise SystemExit(f"{self.log.stem} ended early:\n{said[-3000:]}") from None

    def end(self) -> None:
        """Wait for its end. SystemExit where that is no good one."""
        self.process.join()
        if self.process.exitcode:
            self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def prepare(name: str, folder: str, options: argparse.Namespace) -> dict[str, str]:
    """Model and data that the ways of a model share."""
    given = {
        "name": name,
        "folder": folder,
        "real_model": str(options.real_model) if (options.real_model / "config.json").is_file() else "",
        "real_traces": str(options.real_traces) if options.real_traces.is_file() else "",
        "limit": 64 if options.quick else 341,
    }
    process = Process("ways.serve_prepared", Path(folder, f"prepare {name}.log"), given)
    found = process.answer()
    process.end()
    return found


@dataclass
class Way:
    """A way, and what it took, turn by turn; the first turn warms up."""

    name: str
    process: Process
    loaded: float = 0.0
    turns: list[dict[str, Any]] = field(default_factory=list)

    def take_turn(self) -> None:
        self.process.channel.send("go")
        self.turns.append(self.process.answer())


@contextmanager
def started(given: Sequence[dict[str, Any]]) -> Iterator[list[Way]]:
    """All ways, loaded and waiting for their first turn; none is left behind."""
    started: list[Way] = []
    try:
        for each in given:
            log = Path(each["folder"], f"{each['part']} {each['way']}.log")
            started.append(Way(each["way"], Process("ways.serve", log, each)))
        for way in started:
            way.loaded = way.process.answer()["loaded"]
        yield started
        for way in started:
            way.process.end()
    finally:
        for way in started:
            way.process.kill()


def work_of(
    part: str, size: Size, shared: Mapping[str, str], folder: str, options: argparse.Namespace
) -> Callable[[str], dict[str, Any]]:
    """What each way of a part is told, but for its number of turns."""
    given = {
        **asdict(size),
        "part": part,
        "traces": shared["traces"],
        "folder": folder,
        "device": options.device,
        "prompt_style": shared["prompt_style"],
    }
    return lambda way: {
        **given,
        "way": way,
        "model": shared["tagged" if way == "prl structured" else "model"],
    }


def measure(
    name: str, part: str, size: Size, shared: Mapping[str, str], folder: str, options: argparse.Namespace
) -> dict[str, Any]:
    """What the ways of a part took, turn by turn, and the ratios."""
    work = work_of(part, size, shared, folder, options)
    with started([{**work(way), "turns": size.turns + 1} for way in WAYS[part]]) as ways:
        for _ in range(size.turns + 1):
            for way in ways:
                way.take_turn()
    found: dict[str, Any] = {"model": name, "part": part, "size": asdict(size), "data": shared["data"]}
    measured = {way.name: way.turns[1:] for way in ways}
    found["ways"] = {
        way.name: {
            "loaded": way.loaded,
            "peak": max(turn["peak"] for turn in way.turns),
            "turns": way.turns[1:],
        }
        for way in ways
    }
    *others, last = measured
    found["ratios"] = {
        other: {
            "seconds": ratio(measured[other], measured[last], "seconds"),
            "cpu_seconds": ratio(measured[other], measured[last], "cpu_seconds"),
            "peak": found["ways"][other]["peak"] / found["ways"][last]["peak"],
        }
        for other in others
    }
    found["same_tokens"] = all(map(is_same, measured[others[0]], measured[last])) and all(
        [turn["tokens"] for turn in measured[other]] == [turn["tokens"] for turn in measured[last]]
        for other in others
    )
    return found


def profiles(sizes: Mapping[str, Size], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Where the third turn of each of prl's ways goes, shown as a table; and `turn`, what the second took,
    which is not profiled."""
    for name, size in sizes.items():
        with tempfile.TemporaryDirectory() as folder:
            shared = prepare(name, folder, options)
            for part, way in ((each, way) for each in options.parts for way in WAYS.get(each, ())[:-1]):
                work = work_of(part, size, shared, folder, options)(way)
                with started([{**work, "turns": 3, "is_profiled": True}]) as (alone,):
                    for _ in range(3):
                        alone.take_turn()
                turn, found = alone.turns[1], alone.turns[2]["profile"]
                print(
                    f"\n{name} {part} {way}: {turn['cpu_seconds']:.2f} CPU seconds; "
                    f"{found['seconds']:.2f} s under the profiler, of which"
                )
                print(*found.pop("table"), sep="\n", flush=True)
                kept = {"model": name, "part": part, "way": way, "size": asdict(size)}
                yield kept | {"data": shared["data"], "turn": turn, "profile": found}


def ratio(of: Sequence[Mapping[str, Any]], to: Sequence[Mapping[str, Any]], clock: str) -> dict[str, float]:
    """The median over turns of what a token took, beside what it took the other; and an interval of it."""
    found = median([(a[clock] / a["tokens"]) / (b[clock] / b["tokens"]) for a, b in zip(of, to, strict=True)])
    return {"median": found.mean, "low": found.low, "high": found.high}


def is_same(turn: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two ways had the same tokens, as far as each tells: also which ones (SFT), prompts among them
    and rewards (GRPO)."""
    return all(turn.get(name) == other.get(name) for name in ("tokens", "checksum", "all_tokens", "reward"))


def starts(turns: int) -> dict[str, Any]:
    """Seconds of each start, of prl and of TRL, after one that warms the files up."""
    found: dict[str, Any] = {}
    for name, commands in STARTS.items():
        taken: list[list[dict[str, float]]] = [[], []]
        for turn in range(turns + 1):
            for words, of in zip(commands, taken, strict=True):
                before, began = os.times(), time.perf_counter()
                subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, check=True)  # fmt: skip
                after = os.times()
                cpu = sum(
                    getattr(after, each) - getattr(before, each)
                    for each in ("children_user", "children_system")
                )
                if turn:
                    of.append({"seconds": time.perf_counter() - began, "cpu_seconds": cpu, "tokens": 1})
        found[name] = {
            "prl": taken[0],
            "trl": taken[1],
            "ratios": {clock: ratio(*taken, clock) for clock in ("seconds", "cpu_seconds")},
        }
    return found


# -- comparing and showing


def committed(options: argparse.Namespace, here: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The results to compare with, by file: those of --compare, or all of a machine like this one, the newest
    first."""
    if options.compare:
        return {str(options.compare): json.loads(options.compare.read_text(encoding="utf-8"))}
    read = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in COMMITTED.glob("*.json")}
    newest = sorted(read.items(), key=lambda each: each[1]["date"], reverse=True)
    return {name: each for name, each in newest if is_alike(each["machine"], here)}


def is_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """CPUs of one name differ in what they can: where both files say it, that counts too."""
    known = [kind for kind in ("device", "threads", "has_avx512") if kind in one and kind in other]
    return all(one[kind] == other[kind] for kind in known)


def like(found: Mapping[str, Any], against: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The ratios of the same work in the first of other results that have it: sizes count as far as the part
    uses them, and turns may be more or fewer."""

    def work(part: Mapping[str, Any]) -> tuple[Any, ...]:
        size = [part["size"].get(name) for name in USED[part["part"]]]
        return part["model"], part["part"], part["data"], size

    parts = (part for each in against.values() for part in each["parts"])
    return next((part["ratios"] for part in parts if work(part) == work(found)), {})


def heads() -> None:
    print(
        f"\n{'model':<6}{'part':<7}{'way':<16}{'seconds':>9}{'CPU s':>9}{'tokens/s':>10}{'samples/s':>11}"
        f"{'peak GiB':>10}   beside the last way:{'seconds':>10}{'CPU seconds':>23}{'peak':>14}"
    )


def show(found: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """A line a way, and where the time of a GRPO step went."""
    for name, way in found["ways"].items():
        turns = way["turns"]
        seconds, cpu = (median([turn[clock] for turn in turns]).mean for clock in ("seconds", "cpu_seconds"))
        line = f"{found['model']:<6}{found['part']:<7}{NAMES.get(name, name):<16}{seconds:>9.3f}{cpu:>9.3f}"
        line += f"{rate(turns, 'tokens'):>10}{rate(turns, 'samples'):>11}{way['peak']:>10.2f}   "
        if ratios := found["ratios"].get(name):
            line += beside(ratios, before.get(name, {}))
        print(line, flush=True)
    for name, way in found["ways"].items():
        if told := split(way["turns"]):
            print(f"{'':<13}{NAMES.get(name, name)}, of a step: {told}")
    told_of = [way["turns"] for way in found["ways"].values()]
    if "packed" in told_of[0][0]:
        print(f"{'':<13}turn by turn: {saved(told_of[0], told_of[-1])}")


def rate(turns: Sequence[Mapping[str, Any]], of: str) -> str:
    """How many a second, in three digits; "" where nobody counted them."""
    if of not in turns[0]:
        return ""
    found = median([turn[of] / turn["seconds"] for turn in turns]).mean
    return f"{found:,.0f}" if found >= 100 else f"{found:.3g}"


def saved(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> str:
    """What packing leaves of the tokens that a padded step computes, and what is left of its CPU seconds."""
    tokens = ", ".join(f"{turn['packed']} of {turn['padded']}" for turn in theirs)
    left = ", ".join(f"{turn['packed'] / turn['padded']:.2f}" for turn in theirs)
    pairs = zip(ours, theirs, strict=True)
    cpu = ", ".join(f"{one['cpu_seconds'] / other['cpu_seconds']:.2f}" for one, other in pairs)
    return f"packed tokens {tokens} padded ones ({left}); CPU seconds, of the last way's {cpu}"


def split(turns: Sequence[Mapping[str, Any]]) -> str:
    """Where the time of a step went, in shares of it, and what passed until the next one; "" if nobody says.

    TRL's parts leave a rest, most of it the update."""
    if "between" not in turns[0]:
        return ""
    seconds = median([turn["seconds"] for turn in turns]).mean
    parts = {}
    for part in turns[0].get("split", {}):
        parts[part] = median([turn["split"][part] for turn in turns]).mean
    if parts and "update" not in parts:
        parts["the rest"] = seconds - sum(parts.values())
    told = [f"{part} {share / seconds:.1%}" for part, share in parts.items()]
    between = median([turn["between"] for turn in turns]).mean
    return ", ".join([*told, f"then {1000 * between:,.0f} ms until its log was there"])


def beside(ratios: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """The ratios with their intervals, marked where they are worse than `before`."""
    cells = []
    for clock in ("seconds", "cpu_seconds"):
        cell = "{median:.2f} [{low:.2f}, {high:.2f}]".format(**ratios[clock])
        cells.append(cell + mark(ratios[clock]["median"], before.get(clock, {}).get("median")))
    if "peak" in ratios:
        cells.append(f"{ratios['peak']:.2f}{mark(ratios['peak'], before.get('peak'))}")
    return "   ".join(f"{cell:>23}" for cell in cells[:2]) + "".join(f"{cell:>14}" for cell in cells[2:])


def mark(now: float, before: float | None) -> str:
    """What is said of a ratio that is worse than the committed one."""
    return f" ! was {before:.2f}" if before and now > WORSE * before else ""


def show_starts(found: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    for name, each in found.items():
        seconds, others = (median([turn["seconds"] for turn in each[way]]).mean for way in ("prl", "trl"))
        print(
            f"{'':<6}{'starts':<7}{name:<16}{seconds:>9.3f}{'':>9}   TRL {others:.3f} s{'':>20}"
            f"{beside(each['ratios'], before.get(name, {}).get('ratios', {}))}"
        )


if __name__ == "__main__":
    sys.exit(main())

"""What a card says: exactness, memory beside the forecast, speed, and what a step launches (`make gpu`).

    look            `prl doctor`, and how fast the card's memory is
    agreement       sampled log-probabilities beside scored ones, float32 and bfloat16, both attentions
    decode          tokens a second, four ways
    graphs          a step as one launch, beside the same kernel by kernel: the same tokens, and how fast
    step            a step of prl's trainings beside plain TRL's, on the same tokens
    profile         one step of decoding, and one update: time, kernels, copies, waits
    sft, rl         steps with LoRA and QLoRA, both attentions: peak memory beside the forecast
    held            steps of each recipe with the card held to that recipe's memory

Each part has a process of its own and a time limit: one that fails or hangs is recorded with its last line,
and the rest goes on. The file is written after each part, so that nothing computed is lost, and read when it
is there: parts that are done are not run again, unless `--parts` names them. Without a network, from an
unpacked folder: docs/cards/README.md, which also tells what each figure means. No card has run this so far.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [each for each in (str(ROOT / "benchmarks"),) if each not in sys.path]

import training  # noqa: E402 (where this runs as a module, benchmarks is no folder of modules yet)

from prl.machine.hardware import CARD_SIZES  # noqa: E402
from prl.runs.provenance import describe_environment  # noqa: E402

FORMAT = 1
COMMITTED = ROOT / "docs" / "cards"
SHAPES = ("mini", "0.6b", "1.7b", "4b")
START = 120.0
"""Seconds that a part may take until it begins: the first waits for all imports."""


IMPORTED = ["card_parts"]
"""Before a part begins, once for all of them."""

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_DEACTIVATE_ASYNC_LOAD": "1",  # what another thread allocates is not seen
    "TOKENIZERS_PARALLELISM": "false",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # looking for a card makes no CUDA context
}


@dataclass(frozen=True)
class Part:
    """`given` says which function of benchmarks/card_parts.py does it, and how; `limit` in seconds, from when
    it begins. `beside` is the part whose figures its own are compared with."""

    name: str
    given: dict[str, Any]
    limit: float = 60.0
    beside: str = ""
    serve: str = "card_parts.serve"


def _parts() -> Iterator[Part]:
    """All, the most worth knowing first: one model answers each question before memory is looked at in all
    its kinds, and in other models."""
    yield Part("look", {"do": "look"}, 90)
    for dtype in ("float32", "bfloat16"):
        yield Part(f"agreement-{dtype}", {"do": "agree", "dtype": dtype})
    for adapter in ("lora", "qlora"):
        yield Part(f"agreement-rl-{adapter}", {"do": "agree_in_rl", "four_bit": adapter == "qlora"})
    yield Part("decode", {"do": "decode"}, 90)
    yield Part("graphs", {"do": "graphs"}, 90)
    for command, ways in (("rl", ("trl", "prl", "prl structured")), ("sft", ("trl", "prl"))):
        for way in ways:
            name = f"step-{command}-{way.split()[-1]}"
            beside = "" if way == "trl" else f"step-{command}-trl"
            yield Part(name, {"do": "step", "command": command, "way": way}, beside=beside)
    yield Part("profile-decode", {"do": "profile_decode"})
    yield Part("profile-update", {"do": "profile_update", "four_bit": True})
    for adapter in ("qlora", "lora"):
        for attention in ("causal", "structured"):
            for command in ("sft", "rl"):
                given = {"do": "remember", "command": command, "attention": attention, "recipe": "8gb"}
                given |= {"four_bit": adapter == "qlora", "held": False}
                yield Part(f"{command}-{adapter}-{attention}", given)
    for size in sorted(CARD_SIZES):
        for command in ("sft", "rl"):
            given = {"do": "remember", "command": command, "attention": "causal", "recipe": f"{size}gb"}
            yield Part(f"held-{size}gb-{command}", given | {"four_bit": True, "held": True}, 90)


PARTS = tuple(_parts())


def main(arguments: Sequence[str] | None = None) -> int:
    options = read(arguments)
    card = this_card(options)
    options.output = options.output or default_output(options, card)
    results = begun(options, card, list(sys.argv[1:] if arguments is None else arguments))
    os.environ |= ENVIRONMENT
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    training.preload(IMPORTED)
    run = [part for part in PARTS if is_asked_for(part, options.parts, results)]
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for part in run:
            job = job_of(part, options, results, folder)
            left = end - time.monotonic()
            if left > 0:
                found = run_part(part, job, Path(folder), min(part.limit, left))
            else:
                found = ended("not reached", f"{options.minutes:g} minutes were over", part.limit)
            results["parts"][part.name] = found
            write(results, options.output)
            print(
                f"{part.name:26}{found['status']:12}{found['seconds']:6.1f} s  {found['said']}",
                flush=True,
            )
    print()
    print(*table(results), sep="\n")
    print(f"\nwritten to {options.output}")
    return int(any(results["parts"][part.name]["status"] != "done" for part in run))


def read(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--shape", choices=SHAPES, help="0.6b on a card, mini on a CPU, if none; recipes have theirs"
    )
    parser.add_argument(
        "--parts", nargs="+", help="these, also if done before: names or what they begin with"
    )
    parser.add_argument("--minutes", type=float, default=6.0, help="for all; what is not reached waits")
    parser.add_argument("--output", type=Path, help="a JSON file; docs/cards/CARD.json, if none")
    parser.add_argument(
        "--folder", type=Path, help="for models, 13 GB in all, for as long as it runs; /dev/shm is fast"
    )
    parser.add_argument(
        "--tokenizer", default="", help="Qwen3's tokenizer.json; the one that is installed, if none"
    )
    parser.add_argument("--commit", help="of an unpacked folder, which does not know it")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.shape = options.shape or ("0.6b" if options.device == "cuda" else "mini")
    for name in options.parts or ():
        if not any(is_named(part, name) for part in PARTS):
            parser.error(
                f"--parts {name}: of {', '.join(part.name for part in PARTS)}, or what they begin with"
            )
    if options.tokenizer and not Path(options.tokenizer).is_file():
        parser.error(f"no file {options.tokenizer}: name Qwen3's tokenizer.json with --tokenizer")
    return options


def is_named(part: Part, name: str) -> bool:
    return part.name == name or part.name.startswith(f"{name}-")


def is_asked_for(part: Part, names: Sequence[str] | None, results: Mapping[str, Any]) -> bool:
    """Whether `names` name the part; if there are none, whether it is not done yet."""
    if names:
        return any(is_named(part, name) for name in names)
    return results["parts"].get(part.name, {}).get("status") != "done"


def this_card(options: argparse.Namespace) -> dict[str, str]:
    """Name and driver of the card, a CPU's name. SystemExit where there is no CUDA device."""
    if options.device == "cpu":
        return {"name": training.cpu_name(), "driver": ""}
    import torch

    if not torch.cuda.is_available():
        raise SystemExit(
            "no CUDA device: `make gpu` measures one. All of it runs on a CPU, which says nothing of a card, "
            'with make gpu ARGS="--device cpu --shape mini"'
        )
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        asked += ["-i", visible.split(",")[0]]
    said = ""
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout
    name, _, driver = (said.splitlines() or ["a GPU"])[0].partition(",")
    return {"name": name.strip(), "driver": driver.strip()}


def default_output(options: argparse.Namespace, card: Mapping[str, str]) -> Path:
    if options.device == "cpu":
        return ROOT / "runs" / "cards" / f"cpu-{options.shape}.json"
    return COMMITTED / f"{re.sub('[^a-z0-9]+', '-', card['name'].lower()).strip('-')}-{options.shape}.json"


def begun(options: argparse.Namespace, card: dict[str, str], words: list[str]) -> dict[str, Any]:
    """Results without a part, or those that the file has so far. SystemExit where these are of something
    else."""
    environment = describe_environment()
    results: dict[str, Any] = {
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"make gpu ARGS='{' '.join(words)}'",
        "commit": options.commit or environment["git_commit"],
        "device": options.device,
        "shape": options.shape,
        "seed": options.seed,
        "card": card,
        "python": environment["python"],
        "platform": environment["platform"],
        "cores": environment["cpu_count"],
        "versions": environment["versions"],
        "parts": {},
    }
    if not options.output.exists():
        return results
    try:
        kept = json.loads(options.output.read_text(encoding="utf-8"))
        unlike = [name for name in SAME if kept[name] != results[name]]
        parts = dict(kept["parts"])
    except (ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{options.output} is no result of `make gpu`: name another --output") from error
    if unlike:
        name = unlike[0]
        raise SystemExit(
            f"{options.output} has {name} {kept[name]!r}, not {results[name]!r}: name another --output"
        )
    return results | {"parts": parts}


SAME = ("format", "commit", "device", "shape", "seed", "card", "versions")
"""What has to be the same for results to be completed."""


def write(results: Mapping[str, Any], file: Path) -> None:
    """Whole or not at all."""
    order = {part.name: place for place, part in enumerate(PARTS)}
    parts = sorted(results["parts"].items(), key=lambda each: order.get(each[0], len(order)))
    training.write({**results, "parts": dict(parts)}, file)


# -- parts


def job_of(
    part: Part, options: argparse.Namespace, results: Mapping[str, Any], folder: str
) -> dict[str, Any]:
    """What the process of a part is told (`card_jobs.Job`)."""
    figures = results["parts"].get(part.beside, {}).get("figures", [])
    return {
        "device": options.device,
        "shape": options.shape,
        "folder": folder,
        "tokenizer": options.tokenizer,
        "seed": options.seed,
        "given": {**part.given, "name": part.name},
        "before": {each["figure"]: each["value"] for each in figures},
    }


def run_part(part: Part, job: Mapping[str, Any], folder: Path, limit: float) -> dict[str, Any]:
    """What the part found, or how it ended and the last line that it printed. Its process and all that it
    started are ended with it."""
    log = folder / f"{part.name}.log"
    process = training.Process(part.serve, log, job)
    began = time.monotonic()
    found = ended("done", "", limit)
    try:
        heard = hear(process, START)
        if "bad_fork" in heard:  # an import began to use the card, which no forked process may go on with
            training.FORKING = multiprocessing.get_context("spawn")
            return run_part(part, job, folder, limit)
        began = time.monotonic()
        found |= hear(process, limit)
        process.process.join(10)
    except TimeoutError:
        found |= {"status": "timed out", "said": last_line(log)}
    except EOFError:
        process.process.join(5)
        status = process.process.exitcode
        found |= {"status": "failed", "said": last_line(log) or f"it ended with status {status}"}
    finally:
        end(process)
    return found | {"seconds": round(time.monotonic() - began, 2)}


def ended(status: str, said: str, limit: float) -> dict[str, Any]:
    """What is recorded of a part, without figures."""
    facts: dict[str, Any] = {"status": status, "said": said, "limit": limit, "seconds": 0.0}
    return facts | {"cpu_seconds": None, "figures": [], "detail": {}}


def hear(process: training.Process, seconds: float) -> dict[str, Any]:
    """What the part says next. TimeoutError if nothing, EOFError if it has ended."""
    if not process.channel.poll(seconds):
        raise TimeoutError
    return process.channel.recv()


def end(process: training.Process) -> None:
    """End the part and what it started: by its group, which it made its own."""
    pid = process.process.pid
    if hasattr(os, "killpg") and pid:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    process.kill()


def last_line(log: Path) -> str:
    said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("USDT:")]
    return lines[-1][-300:] if lines else ""


# -- the table


def table(results: Mapping[str, Any]) -> Iterator[str]:
    """All figures in Markdown, each beside what it is compared with; of a part without any the reason."""
    where = f"{results['card']['name']}, {results['shape']}, commit {results['commit']}"
    yield f"{where}, {results['date'][:10]}"
    yield ""
    yield "| part | figure | value | beside | | ratio |"
    yield "|---|---|---|---|---|---|"
    for name, part in results["parts"].items():
        if part["status"] != "done":
            yield f"| {name} | {part['status']}: {part['said'].replace('|', '/')} | | | | |"
        for each in part.get("figures", []):
            yield row(name, each)
    if results["device"] == "cpu":
        yield ""
        yield "This is a CPU, which says nothing of a card; nothing was held to a recipe's memory."


def row(name: str, each: Mapping[str, Any]) -> str:
    value, against = each["value"], each["against"]
    ratio = f"{value / against:.2f}" if value is not None and against else ""
    shown, beside = (with_unit(number, each["unit"]) for number in (value, against))
    shown = "not on this device" if value is None else shown
    return f"| {name} | {each['figure']} | {shown} | {each['beside']} | {beside} | {ratio} |"


def with_unit(value: float | None, unit: str) -> str:
    """Three digits."""
    if value is None:
        return ""
    return (f"{value:,.0f} {unit}" if abs(value) >= 1000 else f"{value:.3g} {unit}").strip()


if __name__ == "__main__":
    sys.exit(main())

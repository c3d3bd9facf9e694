"""`make gpu` runs through on a CPU, small; what fails, hangs or was done before does not stop it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import cards  # noqa: E402 (these import nothing heavy)
import memory  # noqa: E402
from launches import Event, counted  # noqa: E402

from prl.machine import hardware  # noqa: E402

FACTS = {
    "format": int, "date": str, "command": str, "commit": str | None, "device": str, "shape": str,
    "seed": int, "card": dict, "python": str, "platform": str, "cores": int, "versions": dict, "parts": dict,
}  # fmt: skip
PART = {
    "status": str, "limit": float | int, "seconds": float | int, "figures": list, "detail": dict, "said": str,
    "cpu_seconds": float | int | None,
}  # fmt: skip
FIGURE = {
    "figure": str,
    "value": float | int | None,
    "unit": str,
    "beside": str,
    "against": float | int | None,
}
STATUSES = {"done", "failed", "timed out", "not reached"}


def check(found: dict[str, Any], kinds: dict[str, Any]) -> None:
    assert set(found) == set(kinds)
    for name, kind in kinds.items():
        assert isinstance(found[name], kind), f"{name}: {found[name]!r}"


def check_results(results: dict[str, Any]) -> None:
    """The schema of a file of docs/cards."""
    check(results, FACTS)
    assert results["format"] == cards.FORMAT
    assert set(results["card"]) == {"name", "driver"}
    assert {"torch", "transformers", "trl", "peft", "bitsandbytes"} <= set(results["versions"])
    for name, part in results["parts"].items():
        assert name in {each.name for each in cards.PARTS}
        check(part, PART)
        assert part["status"] in STATUSES
        assert bool(part["figures"]) == (part["status"] == "done")
        assert bool(part["said"]) == (part["status"] != "done")
        for figure in part["figures"]:
            check(figure, FIGURE)
            assert (figure["beside"] == "") <= (figure["against"] is None)


def test_what_is_committed_is_of_the_schema() -> None:
    for file in (ROOT / "docs" / "cards").glob("*.json"):
        check_results(json.loads(file.read_text(encoding="utf-8")))


def run(file: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "cards.py"), "--device", "cpu", "--shape", "mini"]
    return subprocess.run([*command, "--output", str(file), *words], capture_output=True, text=True)


def figures(results: dict[str, Any], part: str) -> dict[str, dict[str, Any]]:
    assert results["parts"][part]["status"] == "done", results["parts"][part]["said"]
    return {each["figure"]: each for each in results["parts"][part]["figures"]}


def check_measured(results: dict[str, Any], names: set[str]) -> None:
    """What holds on a CPU, of the parts of these names."""
    for name in names:
        found = figures(results, name)
        if name.startswith("agreement-float32"):
            gaps = [each for each in found.values() if "gap" in each["figure"]]
            assert len(gaps) == 4
            assert all(each["value"] <= each["against"] for each in gaps)
        elif name.startswith(("sft-", "rl-", "held-")):
            peak = found["peak of tensors"]
            assert peak["value"] == pytest.approx(peak["against"], rel=0.5)
        elif name == "decode":
            assert {each["beside"] for each in found.values()} == {"model.generate"}
        elif name == "graphs":
            assert found["responses that differ, captured and rounded"]["value"] is None
            assert found["responses that differ, rounded and exact"]["value"] == 0
            assert found["largest gap, rounded and exact"]["value"] <= 1e-4
            assert found["speed, rounded"]["value"] > 0
        elif name == "profile-decode":
            assert found["launches a step"]["value"] is None
            assert found["operators of torch a step"]["value"] > 0
        elif name.startswith("step-") and not name.endswith("trl"):
            assert found["a step"]["beside"] == "plain TRL"
            assert found["a step"]["against"] > 0


@pytest.mark.timeout(900)  # several processes, one after the other on a busy machine
def test_a_part_of_each_kind_runs(tmp_path: Path) -> None:
    file = tmp_path / "cards.json"
    names = {"look", "agreement-float32", "held-8gb-rl", "graphs", "decode", "step-sft-trl", "step-sft-prl"}
    done = run(file, "--parts", *sorted(names))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(file.read_text(encoding="utf-8"))
    check_results(results)
    assert set(results["parts"]) == names
    check_measured(results, names)
    assert "| held-8gb-rl | peak of tensors |" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_of_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "cards.json"
    done = run(file, "--minutes", "29")
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(file.read_text(encoding="utf-8"))
    check_results(results)
    assert list(results["parts"]) == [part.name for part in cards.PARTS]
    check_measured(results, set(results["parts"]))


# --- Without torch: parts that the tests make up

MADE_UP = """
import os, threading
print("imported")

def fine(channel, log, given):
    channel.send({"began": True})
    channel.send({"figures": [{"figure": "f", "value": 1.0, "unit": "s", "beside": "b", "against": 2.0}],
                  "detail": {}, "cpu_seconds": 0.0})

def fails(channel, log, given):
    channel.send({"began": True})
    with open(log, "w") as file:
        file.write("Traceback\\nRuntimeError: no such kernel | here\\n\\n")
    os._exit(1)

def dies(channel, log, given):
    os._exit(7)

def hangs(channel, log, given):
    with open(log, "w") as file:
        file.write("waits for a kernel\\n")
    channel.send({"began": True})
    threading.Event().wait()

def forked(channel, log, given):
    mark = os.path.join(given["folder"], "mark")
    if os.path.exists(mark):
        fine(channel, log, given)
    else:
        open(mark, "w").close()
        channel.send({"bad_fork": True})
"""


def part(name: str, limit: float = 60) -> cards.Part:
    return cards.Part(name, {"do": name}, limit, serve=f"made_up_parts.{name}")


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, dict[str, Any]]]:
    """`cards.main` on parts of these names; its status and what it wrote."""
    (tmp_path / "made_up_parts.py").write_text(MADE_UP)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(cards, "IMPORTED", [])
    monkeypatch.setattr(cards.training, "FORKING", cards.training.FORKING)
    for name in ("OMP_NUM_THREADS", "PYTHONPATH", *cards.ENVIRONMENT):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    file = tmp_path / "cards.json"

    def call(parts: Sequence[cards.Part], *words: str) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr(cards, "PARTS", tuple(parts))
        status = cards.main(["--device", "cpu", "--output", str(file), *words])
        results = json.loads(file.read_text(encoding="utf-8"))
        check_results(results)
        return status, results

    return call


def test_a_part_that_fails_or_hangs_is_told_and_the_rest_goes_on(
    main: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [part("fails"), part("dies"), part("hangs", limit=0.2), part("fine")]
    status, results = main(parts)
    assert status == 1
    told = {name: (each["status"], each["said"]) for name, each in results["parts"].items()}
    assert told == {
        "fails": ("failed", "RuntimeError: no such kernel | here"),
        "dies": ("failed", "it ended with status 7"),
        "hangs": ("timed out", "waits for a kernel"),
        "fine": ("done", ""),
    }
    said = capsys.readouterr().out
    assert "| fails | failed: RuntimeError: no such kernel / here | | | | |" in said
    assert "| fine | f | 1 s | b | 2 s | 0.50 |" in said


def test_what_is_done_is_not_done_again_unless_it_is_named(main: Any, tmp_path: Path) -> None:
    file = tmp_path / "cards.json"
    _, results = main([part("fine"), part("dies")])
    results["parts"]["fine"]["figures"][0]["value"] = 5.0
    file.write_text(json.dumps(results))
    status, results = main([part("fine"), part("dies")])
    assert (status, results["parts"]["fine"]["figures"][0]["value"]) == (1, 5.0)
    status, results = main([part("fine"), part("dies")], "--parts", "fine")
    assert (status, results["parts"]["fine"]["figures"][0]["value"]) == (0, 1.0)
    assert results["parts"]["dies"]["status"] == "failed"


def test_results_of_something_else_are_not_completed(main: Any, tmp_path: Path) -> None:
    main([part("fine")])
    with pytest.raises(SystemExit, match="has seed 0, not 1: name another --output"):
        main([part("fine")], "--seed", "1")
    (tmp_path / "cards.json").write_text('{"a": 1}')
    with pytest.raises(SystemExit, match="is no result of `make gpu`"):
        main([part("fine")])


def test_when_the_minutes_are_over_the_rest_is_not_reached(main: Any) -> None:
    status, results = main([part("fine")], "--minutes", "0")
    assert status == 1
    assert results["parts"]["fine"]["status"] == "not reached"
    assert results["parts"]["fine"]["said"] == "0 minutes were over"


def test_a_part_has_no_more_than_what_is_left_of_the_minutes(
    main: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, limits = [0.0], {}

    def run_part(part: cards.Part, job: Any, folder: Path, limit: float) -> dict[str, Any]:
        limits[part.name] = limit
        now[0] += 50
        return cards.ended("failed", "took 50 s", limit)

    monkeypatch.setattr(cards, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(cards, "run_part", run_part)
    _, results = main(
        [part("fine", 90), part("fails", 90), part("hangs", 90), part("dies", 90)], "--minutes", "2"
    )
    assert limits == {"fine": 90, "fails": 70, "hangs": 20}
    assert results["parts"]["dies"]["status"] == "not reached"


def test_one_model_answers_each_question_before_others_are_asked() -> None:
    """As the docs list them, so that six minutes reach an answer to each."""
    names = [part.name for part in cards.PARTS]
    text = (ROOT / "docs" / "cards" / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `([a-z0-9-]+)…?`", text, re.MULTILINE)
    begun = [next(i for i, name in enumerate(names) if name.startswith(each)) for each in told]
    assert len(told) == 10
    assert begun == sorted(begun)
    kinds = list(dict.fromkeys(name.split("-")[0] for name in names))
    assert kinds == ["look", "agreement", "decode", "graphs", "step", "profile", "sft", "rl", "held"]
    for part in cards.PARTS:
        assert part.beside in ("", *names[: names.index(part.name)])


def test_where_a_forked_process_may_not_use_the_card_new_ones_are_begun(main: Any) -> None:
    status, results = main([part("forked"), part("fine")])
    assert status == 0
    assert [each["status"] for each in results["parts"].values()] == ["done", "done"]
    assert cards.training.FORKING.get_start_method() == "spawn"


def test_launches_kernels_copies_and_waits_are_told_apart() -> None:
    """By the names that torch's profiler gives them; a captured graph is one launch of many kernels."""
    host = ["aten::mm", "cudaLaunchKernel", "cuLaunchKernelEx", "cudaLaunchCooperativeKernel"]
    host += ["cudaGraphLaunch", "cudaMemcpyAsync", "cudaStreamSynchronize", "cudaDeviceSynchronize"]
    device = ["ampere_sgemm", "fused", "fused", "Memcpy DtoH (Device -> Pageable)", "Memset (Device)",
              "Memcpy DtoD (Device -> Device)", "Memcpy HtoD (Pageable -> Device)"]  # fmt: skip
    events = [Event(name, False, 5) for name in host] + [Event(name, True, 1_000_000) for name in device]
    found = counted(events, has_device=True)
    top = found.pop("top")
    assert found == {"launches": 4, "kernels": 3, "copies": 2, "waits": 2, "operators": 1, "busy": 0.007}
    assert top[0] == {"name": "fused", "count": 2, "ms": 2.0}
    alone = counted(events[:1], has_device=False)
    assert {name for name, value in alone.items() if value is None} == {*found} - {"operators"}
    assert alone["top"] == [{"name": "aten::mm", "count": 1, "ms": 5e-6}]


def test_a_card_is_held_to_a_smaller_one_s_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a card that is made up: 24 GiB, of which tensors have 2 reserved."""
    import torch

    gib, fractions = 2**30, []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (20 * gib, 24 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 2 * gib)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    most = memory.left_for_tensors(8)
    assert most == pytest.approx((0.85 * 8 - 0.5) * gib)
    with memory.held(most):
        assert hardware.usable_memory("cuda") == most
        assert torch.cuda.mem_get_info()[1] == most
    assert torch.cuda.mem_get_info() == (20 * gib, 24 * gib)
    assert fractions == [most / (24 * gib), 1.0]
    with pytest.raises(ValueError, match=r"this card has 24\.0 GiB, less than one of 32 GB has free"):
        memory.left_for_tensors(32)


def test_a_peak_on_a_card_outlives_a_trainer_that_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    peaks = {"max_memory_allocated": 0, "max_memory_reserved": 0}

    def forget() -> None:
        peaks.update(dict.fromkeys(peaks, 0))

    for name in peaks:
        monkeypatch.setattr(torch.cuda, name, lambda name=name: peaks[name])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forget)
    with memory.noted_peak("cuda") as peak:
        peaks.update(max_memory_allocated=7, max_memory_reserved=9)  # a rehearsal's
        torch.cuda.reset_peak_memory_stats()
        peaks.update(max_memory_allocated=5, max_memory_reserved=10)
    assert peak == {"allocated": 7, "reserved": 10}
    assert torch.cuda.reset_peak_memory_stats is forget


def test_what_is_asked_for_is_checked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, said in ((["--parts", "decode", "deco"], "--parts deco: of look, "),
                        (["--tokenizer", str(tmp_path / "no.json")], "no file ")):  # fmt: skip
        with pytest.raises(SystemExit) as raised:
            cards.read(words)
        assert raised.value.code == 2
        assert said in capsys.readouterr().err


def test_what_the_docs_say_to_type_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenizer.json").touch()
    text = (ROOT / "docs" / "cards" / "README.md").read_text(encoding="utf-8")
    given = re.findall(r'^make gpu ARGS="(.*)"', text, re.MULTILINE)
    given += re.findall(r"python3 benchmarks/cards\.py (.*)$", text, re.MULTILINE)
    assert len(given) == 5
    for words in given:
        cards.read(shlex.split(words))


@pytest.mark.slow
@pytest.mark.timeout(900)  # it imports all that there is, and may wait for its neighbours
def test_an_unpacked_folder_runs_as_the_docs_say(tmp_path: Path) -> None:
    """Its files without pip: its own prl, not the installed one."""
    for name in ("src", "benchmarks"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    text = (ROOT / "docs" / "cards" / "README.md").read_text(encoding="utf-8")
    path, script = re.findall(r"^PYTHONPATH=\S+:/tmp/prl/(\S+) python3 (\S+)", text, re.MULTILINE)[0]
    there = os.environ | {"PYTHONPATH": str(tmp_path / path)}

    def said(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=there, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert Path(said("-c", "import prl; print(prl.__file__)").strip()).is_relative_to(tmp_path)
    where = ["--device", "cpu", "--shape", "mini", "--output", "card.json"]
    said(script, *where, "--parts", "look", "--commit", "that of the folder")
    results = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    check_results(results)
    assert results["commit"] == "that of the folder"
    assert figures(results, "look")


def test_without_a_card_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"no CUDA device: .*--device cpu --shape mini"):
        cards.main([])

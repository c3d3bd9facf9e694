"""The benchmark beside plain TRL runs through, small: the same tokens in all ways, and what it writes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """benchmarks/training.py as a module; it imports nothing heavy."""
    spec = importlib.util.spec_from_file_location("bench_training", ROOT / "benchmarks" / "training.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def results_of(file: Path, *words: str) -> dict[str, Any]:
    """What `make bench` writes to `file` of little of the tiny model."""
    command = [sys.executable, str(ROOT / "benchmarks" / "training.py"), "--models", "tiny", *words]
    done = subprocess.run([*command, "--quick", "--output", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


@pytest.mark.timeout(900)  # a dozen processes, one after the other on a busy machine
def test_all_ways_do_the_same_work(tmp_path: Path) -> None:
    found = results_of(tmp_path / "bench.json", "--parts", "sft", "grpo", "eval")
    assert {"date", "command", "commit", "machine", "versions", "parts"} <= set(found)
    assert {(part["part"], *part["ways"]) for part in found["parts"]} == {
        ("sft", "prl", "trl"),
        ("grpo", "prl", "prl structured", "trl"),
        ("eval", "prl", "loop"),
    }
    by_part = {part["part"]: part for part in found["parts"]}
    for part in by_part.values():
        assert part["same_tokens"]
        assert len({turn["tokens"] for way in part["ways"].values() for turn in way["turns"]}) == 1
        for way in part["ways"].values():
            assert len(way["turns"]) == 1
            assert way["peak"] >= way["loaded"] > 0
            assert all(turn["seconds"] > 0 and turn["cpu_seconds"] > 0 for turn in way["turns"])
        *others, _ = part["ways"]
        assert list(part["ratios"]) == others
        for ratio in part["ratios"].values():
            assert set(ratio) == {"seconds", "cpu_seconds", "peak"}
    sft, grpo = (by_part[name]["ways"] for name in ("sft", "grpo"))
    assert sft["prl"]["turns"][0]["checksum"] == sft["trl"]["turns"][0]["checksum"]
    assert (
        sft["prl"]["turns"][0]["packed"]
        == sft["trl"]["turns"][0]["packed"]
        < sft["trl"]["turns"][0]["tokens"]
    )
    assert sft["trl"]["turns"][0]["padded"] >= sft["trl"]["turns"][0]["tokens"]
    assert sft["prl"]["turns"][0]["loss"] == pytest.approx(sft["trl"]["turns"][0]["loss"], rel=1e-2)
    for way in grpo.values():
        (turn,) = way["turns"]
        assert turn["tokens"] == 2 * 60  # sampled: what structured attention inserts comes on top
        assert turn["reward"] == 0  # one right, one wrong
        assert turn["dead_groups"] == 0
    assert {"rollout", "verify", "score", "update"} == set(grpo["prl"]["turns"][0]["split"])


@pytest.mark.timeout(900)
def test_a_step_is_profiled(tmp_path: Path) -> None:
    found = results_of(tmp_path / "bench.json", "--parts", "sft", "grpo", "--profile")
    assert found["parts"] == []
    assert [(each["part"], each["way"], *each["profile"]["phases"]) for each in found["profiles"]] == [
        ("sft", "prl", "forward", "backward", "optimizer"),
        ("grpo", "prl", "rollout", "forward", "backward", "optimizer"),
        ("grpo", "prl structured", "rollout", "forward", "backward", "optimizer"),
    ]
    for each in found["profiles"]:
        told, phases = each["profile"], each["profile"]["phases"]
        measured = sum(kind["seconds"] for phase in phases.values() for kind in phase.values())
        assert measured + told["outside"] == pytest.approx(told["seconds"])
        assert 0 < told["outside"] < told["seconds"]
        assert each["turn"]["cpu_seconds"] > 0
        assert len(told["longest"]) == 20
        for phase in ("forward", "backward"):
            assert {"LM head", "matrices", "attention"} <= set(phases[phase])
            assert phases[phase]["matrices"]["gflop"] > 0
        if "rollout" in phases:
            assert {"LM head", "matrices", "attention"} <= set(phases["rollout"])
            assert "matrices of the adapter" not in phases["rollout"], "it is in the weights"


def test_a_ratio_that_got_worse_is_marked(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"seconds": 1.0, "cpu_seconds": 1.0, "tokens": 10, "peak": 1.0}]
    ratios = {"median": 0.8, "low": 0.7, "high": 0.9}
    part = {
        "model": "tiny",
        "part": "sft",
        "data": "made up",
        "size": {"turns": 5, "rows": 2},
        "ways": {"prl": {"peak": 0.8, "turns": turns}, "trl": {"peak": 1.0, "turns": turns}},
        "ratios": {"prl": {"seconds": ratios, "cpu_seconds": ratios, "peak": 0.8}},
    }
    good = {"prl": {"seconds": {"median": 0.72}, "cpu_seconds": {"median": 0.74}, "peak": 0.5}}
    other = {"parts": [part | {"size": {"turns": 5, "rows": 4}, "ratios": {}}]}
    earlier = {"new": other, "old": {"parts": [part | {"size": {"turns": 3, "rows": 2}, "ratios": good}]}}
    benchmark.show(part, benchmark.like(part, earlier))
    shown = capsys.readouterr().out
    assert shown.count("!") == 2
    assert "0.80 [0.70, 0.90] ! was 0.72" in shown  # more than a tenth worse; 0.74 is less
    assert "0.80 ! was 0.50" in shown
    assert "1.000    1.000        10                 0.80 " in shown, "no samples are counted"
    assert benchmark.like(part, {"new": other}) == {}


def test_an_evaluation_has_samples_a_second(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [
        {"seconds": seconds, "cpu_seconds": 1.0, "tokens": 3000, "samples": 256} for seconds in (1, 2, 40)
    ]
    part = {"model": "tiny", "part": "eval", "ways": {"loop": {"peak": 1.0, "turns": turns}}, "ratios": {}}
    benchmark.heads()
    benchmark.show(part, {})
    _, head, line = capsys.readouterr().out.splitlines()
    cells = {name: line[: head.index(name) + len(name)].split()[-1] for name in ("tokens/s", "samples/s")}
    assert cells == {"tokens/s": "1,500", "samples/s": "128"}


def test_starts_are_timed_beside_one_another(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of commands that do little: TRL's own take half a minute of CPU."""
    fast, slow = ("-c", "pass"), ("-c", "import time\nwhile time.process_time() < 0.2: pass")
    monkeypatch.setattr(benchmark, "STARTS", {"import": (fast, slow)})
    found = benchmark.starts(2)
    assert [len(found["import"][way]) for way in ("prl", "trl")] == [2, 2]
    assert found["import"]["ratios"]["cpu_seconds"]["median"] < 1
    worse = {"median": 0.001}
    benchmark.show_starts(found, {"import": {"ratios": {"seconds": worse, "cpu_seconds": worse}}})
    shown = capsys.readouterr().out
    assert shown.startswith("      starts import ")
    assert shown.count("! was 0.00") == 2


@pytest.mark.parametrize("part", ["sft", "grpo", "eval"])
def test_work_is_the_same_where_the_part_does_as_much(benchmark: Any, part: str) -> None:
    sizes = benchmark.asdict(benchmark.SIZES["tiny"])
    given = {"model": "tiny", "part": part, "data": "made up", "ratios": {"prl": {}}}
    found = given | {"size": sizes}

    def is_like(**other: Any) -> bool:
        return bool(benchmark.like(found, {"a file": {"parts": [given | {"size": sizes | other}]}}))

    used = {name for name, value in sizes.items() if not is_like(**{name: value + 1})}
    assert used == set(benchmark.USED[part])
    assert {"turns"}.union(*benchmark.USED.values()) == set(sizes), "of some part each"


def test_what_is_measured_without_flags_is_committed(benchmark: Any) -> None:
    """Else `make bench` would mark nothing."""
    files = [json.loads(file.read_text(encoding="utf-8")) for file in benchmark.COMMITTED.glob("*.json")]
    committed = {str(number): each for number, each in enumerate(files)}
    for model, size in benchmark.SIZES.items():
        for part in benchmark.PARTS:
            found = {"model": model, "part": part, "size": benchmark.asdict(size)}
            data = ("arithmetic:coldstart", "parallel_gsm8k_341.parquet")
            assert any(benchmark.like(found | {"data": each}, committed) for each in data), (model, part)


def test_what_is_committed_is_found_by_machine_and_date(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "COMMITTED", tmp_path)
    here = {"device": "a CPU", "threads": 1}
    for name, date, machine in (
        ("old", "2030-01-01T00:00:00+00:00", here),
        ("new", "2031-01-01T00:00:00+00:00", here | {"load": 9.0}),
        ("other", "2032-01-01T00:00:00+00:00", here | {"threads": 2}),
        ("wide", "2029-01-01T00:00:00+00:00", here | {"has_avx512": True}),
    ):
        benchmark.write({"date": date, "machine": machine, "parts": []}, tmp_path / f"{name}.json")
    options = benchmark.read(["--models", "tiny"])
    assert list(benchmark.committed(options, here)) == ["new.json", "old.json", "wide.json"]
    plain = here | {"has_avx512": False}
    assert list(benchmark.committed(options, plain)) == ["new.json", "old.json"], "CPUs of one name differ"
    assert benchmark.committed(options, {"device": "a card", "threads": 1}) == {}
    options = benchmark.read(["--models", "tiny", "--compare", str(tmp_path / "old.json")])
    (found,) = benchmark.committed(options, here).values()
    assert found["date"] == "2030-01-01T00:00:00+00:00"

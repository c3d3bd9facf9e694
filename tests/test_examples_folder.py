"""The scripts of examples/: they run, the page samples what `prl.structure` reads, and its figures hold."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from prl.model import load_model
from prl.structure import read_structure
from warm import launcher

EXAMPLES = Path(__file__).parents[1] / "examples"
PAGE = EXAMPLES / "parallel_r1.py"
FIGURES = re.compile(r"^ *(base|cold start|RL) +([\d.]+) % right .* critical path (\d+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parallel_r1", PAGE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def opening_blocks() -> tuple[Any, Any]:
    """A model, made to open and close blocks often, and its tokenizer."""
    model, tokenizer = load_model("tiny-search", attention="structured", tags="tokens", seed=42)
    bias = torch.zeros(model.config.vocab_size)
    bias[tokenizer.convert_tokens_to_ids(["<Parallel>", "</Path>"])] = 18.0
    model.lm_head.register_forward_hook(lambda head, given, logits: (logits + bias) / 3)
    return model, tokenizer


def run(script: Path, folder: Path, *words: str) -> str:
    command = [*launcher(), str(script), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("name", "most"), [("parallel_r1.py", 350), ("plain_trl.py", 60)])
def test_a_page_stays_a_page(name: str, most: int) -> None:
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) <= most


def test_the_page_runs(tmp_path: Path) -> None:
    out = run(PAGE, tmp_path, "--quick")
    assert [name for name, *_ in FIGURES.findall(out)] == ["base", "cold start", "RL"]
    assert "RL, step  0" in out


def test_plain_trl_runs(tmp_path: Path) -> None:
    out = run(EXAMPLES / "plain_trl.py", tmp_path)
    gaps = [float(gap) for gap in re.findall(r"'sampling_gap/max': '([^']+)'", out)]
    assert len(gaps) == 3
    assert max(gaps) < 1e-4


@pytest.mark.parametrize("seed", range(20))
def test_a_response_is_written_as_prl_structure_reads_it(
    page: ModuleType, opening_blocks: tuple[Any, Any], seed: int
) -> None:
    """Whatever tokens are drawn, each stands where training will see it, and sees what it will see there."""
    rng, language = random.Random(seed), page.Language(opening_blocks[1])
    tags = language.tags
    likely = [tags.parallel, tags.end_path, tags.path, tags.end_parallel, tags.summary, 100, 101, 102, 103]
    response = page.Response(language.prompt("Compute 12 * 13."), language)
    for _ in range(60):
        for thread in list(response.live):
            response.take(thread, rng.choice([*likely, language.end] if thread.path else likely), -1.0)
    written = [response.unread[: len(response.prompt)]]
    fed = iter(response.unread[len(response.prompt) :])
    by_thread: dict[int, list[tuple[int, ...]]] = {id(thread): [] for thread in response.threads}
    mains = [thread for thread in response.threads if thread.path == 0]
    paths = {thread.path: thread for thread in response.threads if thread.path}
    for entry in fed:
        main = next((each for each in mains if len(by_thread[id(each)]) < len(each.ids)), None)
        by_thread[id(paths.get(entry[1], main))].append(entry)
    written += [by_thread[id(thread)] for thread in response.threads]
    entries = [entry for part in written for entry in part]
    ids = response.prompt + response.ids
    assert [entry[0] for entry in entries] == ids
    assert paths  # it forked
    read = read_structure(torch.tensor([ids]), tags)
    assert read.segments[0].tolist() == [entry[1] for entry in entries]
    assert read.positions[0].tolist() == [entry[3] for entry in entries]
    horizons = [min(entry[2], len(ids) + 1) for entry in entries]
    assert read.horizons[0].tolist() == horizons
    assert response.critical_path == max(entry[3] for entry in entries) + 1 - len(response.prompt)


def test_sampled_and_scored_log_probabilities_agree(
    page: ModuleType, opening_blocks: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MAX_PASSES", 40)
    torch.manual_seed(0)
    model, tokenizer = opening_blocks
    language = page.Language(tokenizer)
    prompts = [language.prompt(f"Compute {a} * 13.") for a in range(12, 36)]
    responses = page.sample(model, prompts, language)
    assert sum(len(response.threads) > 1 for response in responses) >= 5
    assert any(len(response.threads) > 10 for response in responses)  # several blocks
    with torch.no_grad():
        now, old = page.scored(model, responses)
    chosen = ~old.isnan()
    assert chosen.sum() == sum(logp == logp for each in responses for t in each.threads for logp in t.logps)
    assert (now - old)[chosen].abs().max() < 1e-4


def test_the_loss_is_of_chosen_tokens_alone(page: ModuleType, opening_blocks: tuple[Any, Any]) -> None:
    """At the first update every ratio is 1: the loss is the mean advantage of the tokens that were chosen."""
    torch.manual_seed(0)
    model, tokenizer = opening_blocks
    language = page.Language(tokenizer)
    responses = page.sample(model, [language.prompt("Compute 21 * 13.")] * 4, language)
    counts = [sum(logp == logp for t in each.threads for logp in t.logps) for each in responses]
    advantages = torch.tensor([1.0, -1.0, 0.5, 2.0])
    loss = page.policy_loss(model, responses, advantages)
    expected = sum(a * n for a, n in zip(advantages.tolist(), counts, strict=True)) / sum(counts)
    assert loss.item() == pytest.approx(-expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_page_ends_with_the_figures_that_it_states(tmp_path: Path) -> None:
    """Another processor rounds otherwise, and other tokens are drawn: so within 4 points."""
    stated = FIGURES.findall(PAGE.read_text(encoding="utf-8"))
    found = FIGURES.findall(run(PAGE, tmp_path))
    assert [name for name, *_ in found] == [name for name, *_ in stated] == ["base", "cold start", "RL"]
    for (_, right, depth), (_, right_stated, depth_stated) in zip(found, stated, strict=True):
        assert float(right) == pytest.approx(float(right_stated), abs=4)
        assert float(depth) == pytest.approx(float(depth_stated), abs=5)

"""lm-evaluation-harness and Inspect ask a model of prl, and find right what `prl eval` finds right."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prl import evaluation
from prl.config import resolve
from prl.data.hub import load_rows
from prl.decoding import ForkJoinDecoder, Limits, Sampling
from prl.errors import UsageError
from prl.grammar import parse
from prl.harness import process_results, until
from prl.prompts import IM_END, IM_START, render_prompt
from prl.runs import read_samples

ROOT = Path(__file__).parents[1]
PROBLEM = "Compute 12 + 30 - 7."
FORKS = {"attention": "structured", "max_blocks": 1, "prompt_style": "bare"}
LIMIT, LONGEST = 12, 96
"""The problems that all three are asked, of which the tiny model has some wrong, and tokens of an answer."""


def needs(module: str) -> None:
    """Import what `make harness` installs, whose warnings are none of ours."""
    pytest.importorskip(module, reason=f"`make harness` installs {module.partition('.')[0]}")


def installed(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"`make harness` installs {module}")


@pytest.fixture(scope="module")
def forking(tagged: str) -> Any:
    """lm-eval's model over the tagged tiny one, with structured attention."""
    return lm(tagged, **FORKS)


def lm(name: str = "tiny", **flags: Any) -> Any:
    needs("lm_eval.models.utils")
    from prl.harness.lm_eval import PrlLM

    return PrlLM(name, **{"device": "cpu", "threads": 1, "batch_size": 4} | flags)


def asked(context: str, **given: Any) -> Any:
    return SimpleNamespace(args=(context, {"until": [], "max_gen_toks": 24} | given))


SAMPLED = {"do_sample": True, "temperature": 3.0}


# --- Texts


@pytest.mark.parametrize(
    ("stops", "left"),
    [([], "a\n\nb</s>"), (["</s>"], "a\n\nb"), (["</s>", "\n\n"], "a"), ([""], "a\n\nb</s>"), (["a"], "")],
)
def test_a_response_ends_before_the_first_stop(stops: list[str], left: str) -> None:
    assert until("a\n\nb</s>", stops) == left


def test_a_task_of_ones_own_judges_as_prl_does() -> None:
    assert process_results({"answer": "1/2"}, ["So.\nFinal Answer: 0.5"]) == {"right": 1.0}
    assert process_results({"answer": 7}, ["It may be 7 or 8."]) == {"right": 0.0}


@pytest.mark.parametrize("module", ["lm_eval"])
def test_without_lm_eval_it_says_what_to_install(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from prl.harness.__main__ import main

    for name in [*sys.modules]:
        if name.partition(".")[0] == module:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert main() == 2
    assert capsys.readouterr().err == 'prl.harness: lm-eval is not installed: `pip install "prl[harness]"`\n'


# --- lm-evaluation-harness


def test_responses_are_those_of_the_decoder_in_order_and_in_batches_of_any_size(forking: Any) -> None:
    problems = [PROBLEM, "Compute 5 + 6.", "Ann has 3 pens. Ann gets 4. How many pens now?"]
    requests = [asked(problem, **given) for problem in problems for given in ({}, SAMPLED)]
    texts = forking.generate_until(requests)
    decoder = ForkJoinDecoder(
        forking.model,
        forking.tokenizer,
        limits=Limits(max_new_tokens=24, max_blocks=1),
        sampling=Sampling(temperature=0.0),
    )
    greedy = decoder.generate([render_prompt(problem, "bare") for problem in problems])
    assert texts[::2] == [response.text for (response,) in greedy]
    forking.batch_size = 1
    assert forking.generate_until(requests[::-1])[::-1] == texts
    forking.batch_size = 4


def test_repeats_and_seeds_are_draws_of_their_own(forking: Any, tagged: str) -> None:
    requests = [asked(PROBLEM, **SAMPLED)] * 3
    texts = forking.generate_until(requests)
    assert len({*texts}) == 3
    assert forking.generate_until(requests) == texts
    assert len({*forking.generate_until([asked(PROBLEM, temperature=3.0, do_sample=False)] * 2)}) == 1
    other = lm(tagged, **FORKS, seed=1)
    assert not {*texts} & {*other.generate_until(requests)}


def test_it_forks_and_stops_where_the_task_says(forking: Any) -> None:
    """The tags are rows that nobody trained: among many hot samples some open a block."""
    texts = forking.generate_until([asked(PROBLEM, max_gen_toks=60, **SAMPLED)] * 24)
    blocks = [block for text in texts for block in parse(text).blocks]
    assert blocks
    assert {len(block.paths) for block in blocks} == {2}
    cut = forking.generate_until([asked(PROBLEM, max_gen_toks=60, until=["</Parallel>"], **SAMPLED)] * 24)
    assert cut == [text.partition("</Parallel>")[0] for text in texts]
    assert cut != texts


def test_turns_are_framed_as_the_model_was_trained_with_them() -> None:
    model = lm(prompt_style="sequential")
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Compute 1 + 1."},
        {"role": "assistant", "content": f"2{IM_END}\n{IM_START}user\n3?"},
        {"role": "user", "content": PROBLEM},
    ]
    assert model.apply_chat_template(turns) == render_prompt(PROBLEM, "sequential", turns[:-1])
    begun = [*turns[1:2], {"role": "assistant", "content": "First,"}]
    framed = model.apply_chat_template(begun, add_generation_prompt=False)
    assert framed == render_prompt("Compute 1 + 1.", "sequential") + "First,"
    plain = render_prompt(PROBLEM, "sequential")
    assert model.generate_until([asked(PROBLEM), asked(plain)])[0] == model.generate_until([asked(plain)])[0]
    with pytest.raises(UsageError, match="one of 'assistant'"):
        model.apply_chat_template(turns[:-1])
    assert "<|im_start|>" in model.chat_template(True)
    assert model.chat_template(False) == ""
    assert model.get_model_info()["prompt_style"] == "sequential"


def test_what_cannot_be_had_is_refused_in_a_line(
    forking: Any, tagged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"asks for likelihoods .* generate_until"):
        forking.loglikelihood([asked(PROBLEM)])
    with pytest.raises(UsageError, match="generation_kwargs num_beams: prl's decoder takes do_sample, "):
        forking.generate_until([asked(PROBLEM, num_beams=4)])
    with pytest.raises(UsageError, match=r"--device cuda:1: .* set CUDA_VISIBLE_DEVICES=1 and"):
        lm(device="cuda:1")
    with pytest.raises(UsageError, match="--model_args samples"):
        lm(samples=3)
    with pytest.raises(UsageError, match="path: unknown setting"):
        lm(path=3)
    capsys.readouterr()
    long = "Compute 1 + 1. " * 3000
    assert forking.generate_until([asked(long), asked(PROBLEM)])[0] == ""
    assert "1 of 2 requests leave nothing of the model's context" in capsys.readouterr().err


# --- Inspect


def ask(model: Any, *messages: tuple[str, str], **config: Any) -> Any:
    """What Inspect gets for (role, text) messages."""
    from inspect_ai.model import (
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageUser,
        GenerateConfig,
    )

    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    said = [kinds[role](content=text) for role, text in messages]
    tools = config.pop("tools", [])
    return asyncio.run(model.generate(said, tools, "auto", GenerateConfig(**{"max_tokens": 24} | config)))


@pytest.fixture(scope="module")
def inspected(tagged: str) -> Any:
    needs("inspect_ai.model")
    from prl.harness.inspect_model import PrlModel

    return PrlModel(tagged, **FORKS, device="cpu", threads=1, batch_size=4)


def test_inspect_gets_the_responses_of_the_decoder(inspected: Any, forking: Any) -> None:
    output = ask(inspected, ("user", PROBLEM), temperature=0)
    (text,) = forking.generate_until([asked(PROBLEM)])
    assert output.completion == text
    assert output.usage.input_tokens == len(forking.tokenizer(render_prompt(PROBLEM, "bare"))["input_ids"])
    assert 0 < output.usage.output_tokens <= 24
    assert output.stop_reason == ("max_tokens" if output.usage.output_tokens == 24 else "stop")
    assert ask(inspected, ("user", PROBLEM), temperature=0, stop_seqs=[text[3:5]]).completion == text[:3]
    several = ask(inspected, ("user", PROBLEM), temperature=2, num_choices=3)
    assert len({choice.message.text for choice in several.choices}) == 3
    assert ask(inspected, ("user", "1 + 1 " * 6000)).stop_reason == "model_length"


def test_inspect_is_refused_what_cannot_be_had(inspected: Any) -> None:
    with pytest.raises(UsageError, match="calls none"):
        ask(inspected, ("user", PROBLEM), tools=[SimpleNamespace(name="bash")])
    with pytest.raises(UsageError, match="top_k, logprobs: not to be had"):
        ask(inspected, ("user", PROBLEM), top_k=3, logprobs=True)
    with pytest.raises(UsageError, match="has to be the user's"):
        ask(inspected, ("user", PROBLEM), ("assistant", "35"))


# --- The documents


def commands(start: str) -> list[list[str]]:
    """The words after `start` of the commands in README.md and docs/ that begin with it."""
    pages = [ROOT / "README.md", ROOT / "docs" / "harnesses.md"]
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    found = [shlex.split(line.removeprefix(start), comments=True) for line in lines if line.startswith(start)]
    assert found
    return found


def test_lm_eval_reads_the_commands_of_the_documents() -> None:
    needs("lm_eval._cli")
    from lm_eval._cli import HarnessCLI

    for words in commands("python -m prl.harness "):
        read = HarnessCLI()._parser.parse_args(["run", *words])
        assert read.model == "prl"
        assert read.model_args["pretrained"] == "runs/mine/rl"


def test_inspect_reads_the_commands_of_the_documents() -> None:
    needs("inspect_ai._cli.eval")
    from inspect_ai._cli.eval import eval_command

    for words in commands("inspect eval "):
        read = eval_command.make_context("eval", words).params
        assert read["tasks"] == ("prl/problems",)
        assert read["model"] == "prl/runs/mine/rl"


# --- All three


def command(words: str, cwd: Path) -> None:
    """Run a module with prl's Python, offline."""
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(words)],
        cwd=cwd,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "hf"), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The greedy samples of `prl eval`, some right and some wrong."""
    settings = resolve(
        "eval", model_name_or_path="tiny", dataset="arithmetic:heldout", limit=LIMIT, samples=0, bootstrap=10,
        max_completion_length=LONGEST, device="cpu", threads=1,
        output_dir=str(tmp_path_factory.mktemp("eval") / "eval"),
    )  # fmt: skip
    samples = read_samples(evaluation.run(settings).folder).to_pylist()
    samples = sorted(samples, key=lambda sample: sample["index"])
    assert 0 < sum(sample["correct"] for sample in samples) < LIMIT
    return samples


def test_lm_eval_agrees_with_prl_eval_on_a_local_task(expected: list[dict[str, Any]], tmp_path: Path) -> None:
    """The task of docs/harnesses.md, on the problems of the evaluation."""
    installed("lm_eval")
    (task,) = re.findall(
        r"```yaml\n(.*?)```", (ROOT / "docs" / "harnesses.md").read_text(encoding="utf-8"), re.DOTALL
    )
    (tmp_path / "mine.yaml").write_text(task.replace("max_gen_toks: 256", f"max_gen_toks: {LONGEST}"))
    (tmp_path / "judging.py").write_text("from prl.harness import process_results\n")
    rows = load_rows(
        "arithmetic:heldout", split="test", need=("problem", "answer"), limit=LIMIT, seed=0, on_bad="error"
    )
    with (tmp_path / "problems.jsonl").open("w") as file:
        file.writelines(json.dumps({"problem": r["problem"], "answer": r["answer"]}) + "\n" for r in rows)
    command(
        "prl.harness --model prl --model_args pretrained=tiny,threads=1 --tasks mine --include_path . "
        "--batch_size 5 --device cpu --output_path out --log_samples",
        tmp_path,
    )
    (results,) = (tmp_path / "out").glob("*/results_*.json")
    right = json.loads(results.read_text())["results"]["mine"]["right,none"]
    assert right == pytest.approx(sum(sample["correct"] for sample in expected) / LIMIT, abs=1e-12)
    (logged,) = (tmp_path / "out").glob("*/samples_mine_*.jsonl")
    samples = sorted(map(json.loads, logged.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    assert [s["resps"] for s in samples] == [[[sample["text"]]] for sample in expected]
    assert [s["right"] for s in samples] == [sample["correct"] for sample in expected]


def test_inspect_agrees_with_prl_eval(expected: list[dict[str, Any]], tmp_path: Path) -> None:
    """`inspect eval`, which finds task and model by prl's entry point."""
    installed("inspect_ai")
    command(
        "inspect_ai eval prl/problems --model prl/tiny --temperature 0 --display none --log-format json "
        f"--log-dir logs -T limit={LIMIT} --max-tokens {LONGEST} -M threads=1 -M device=cpu",
        tmp_path,
    )
    (log,) = (tmp_path / "logs").glob("*.json")
    read = json.loads(log.read_text())
    assert read["status"] == "success"
    metrics = read["results"]["scores"][0]["metrics"]
    assert metrics["accuracy"]["value"] == sum(sample["correct"] for sample in expected) / LIMIT
    samples = sorted(read["samples"], key=lambda sample: sample["id"])
    texts = [sample["output"]["choices"][0]["message"]["content"] for sample in samples]
    assert texts == [sample["text"] for sample in expected]
    scores = [sample["scores"]["is_right"] for sample in samples]
    assert [score["value"] == "C" for score in scores] == [bool(sample["correct"]) for sample in expected]
    assert [score["answer"] for score in scores] == [sample["extracted"] for sample in expected]

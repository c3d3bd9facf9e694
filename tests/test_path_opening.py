"""A path opening through the stages: kept with the adapter, checked at loading, the same everywhere."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prl import evaluation, rl, runs, sft, tiny
from prl.config import resolve
from prl.data import problems
from prl.decoding import Limits
from prl.errors import DataError, ModelError, UsageError
from prl.grammar import parse, render
from prl.model import load_model, path_opening_of, resolve_path_opening
from prl.model.merging import merge_and_verify
from prl.prompts import render_prompt, user_message
from prl.rewards import reward_functions
from prl.sft import tokenize
from prl.structure import Tags, forced_tokens, path_opening
from prl.traces import Reason, Rules, check
from prl.trainer.format_sampler import FormatSampler

PLANNED = """I look at the halves.

1 to 3
4 to 6
<Parallel><Path> none </Path><Path>
4 to 6
5 fits
</Path></Parallel>
<Summary> 5. </Summary>
Final Answer: 5"""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_model(tiny.NAME, tags="tokens")[1]


def learned(tokenizer: Any, trace: str, opening: str, paths: str = "2", *, causal: bool = False) -> Any:
    """What is read after the prompt and what it has loss on, with a bar between tokens."""
    tags = None if causal else Tags.of(tokenizer)
    rows = [{"problem": "2 * 3?", "trace": trace}]
    (example,), left_out = tokenize(
        rows, tokenizer, "bare", None, tags=tags, paths=paths, path_opening=opening
    )
    read = tokenizer.decode(example["input_ids"]).partition("assistant\n")[2]
    return read, tokenizer.decode([i for i in example["labels"] if i != -100]), left_out


def test_no_loss_on_an_opening(tokenizer: Any) -> None:
    read, with_loss, _ = learned(tokenizer, PLANNED, "plan")
    block = "<Parallel><Path>\n1 to 3\n none </Path><Path>\n4 to 6\n5 fits\n</Path></Parallel>\n<Summary>"
    assert block in read
    assert "<Parallel> none </Path>5 fits\n</Path> 5. </Summary>" in with_loss
    assert "1 to 3\n4 to 6\n<Parallel>" in with_loss, "the plan itself is learned"
    read, with_loss, _ = learned(tokenizer, "<Parallel><Path>a</Path><Path>b</Path></Parallel>", "number")
    assert read == "<Parallel><Path>\n1\na</Path><Path>\n2\nb</Path></Parallel><|im_end|>"
    assert with_loss == "<Parallel>a</Path>b</Path><|im_end|>"


def test_with_a_plan_auto_has_nothing_to_decide(tokenizer: Any) -> None:
    three = PLANNED.replace("4 to 6\n<Par", "4 to 6\n7\n<Par").replace(
        "</Path></Parallel>", "</Path><Path>no</Path></Parallel>"
    )
    assert "</Path>no</Path> 5." in learned(tokenizer, three, "plan", "auto")[1]
    numbered = learned(tokenizer, three, "number", "auto")[1]
    assert "</Path><Path>no</Path></Parallel> 5." in numbered, (
        "the number is forced, that there is one is not"
    )


def test_with_causal_attention_an_opening_is_text(tokenizer: Any) -> None:
    trace = "<Parallel>\n<Path>a</Path>\n<Path>b</Path>\n</Parallel>"
    read, with_loss, _ = learned(tokenizer, trace, "number", causal=True)
    assert read == with_loss == "<Parallel>\n<Path>\n1\na</Path>\n<Path>\n2\nb</Path>\n</Parallel><|im_end|>"


def test_traces_without_a_plan_are_left_out_and_counted(tokenizer: Any) -> None:
    rows = [{"problem": "?", "trace": PLANNED}, *problems.generate("coldstart", 3)]
    kept, left_out = tokenize(rows, tokenizer, "bare", None, tags=Tags.of(tokenizer), path_opening="plan")
    blocks = sum(bool(parse(row["trace"]).blocks) for row in rows[1:])
    assert (len(kept), left_out.get("without_plan")) == (4 - blocks, blocks or None)
    assert blocks
    with pytest.raises(DataError, match=r"1 of 1 traces have a block without a plan.*--path_opening"):
        tokenize(
            [row for row in rows[1:] if parse(row["trace"]).blocks][:1],
            tokenizer, "bare", None, tags=Tags.of(tokenizer), path_opening="plan",
        )  # fmt: skip


@pytest.mark.parametrize(("max_length", "most"), [(512, 6), (80, 5), (48, 4)])
def test_the_cold_start_samples_blocks_as_wide_as_its_plans(
    tokenizer: Any, tmp_path: Path, max_length: int, most: int
) -> None:
    plan = "".join(f"{i}: way {i}\n" for i in range(1, 7))
    rows = [{"problem": "1 + 1?", "trace": plan + render(["2."] * 6, "2.")}, {"problem": "2?", "trace": "2"}]
    asked = resolve(
        "sft", recipe="tiny", threads=1, attention="structured", path_opening="plan", paths="auto",
        max_length=max_length, output_dir=str(tmp_path),
    )  # fmt: skip
    given = (asked.arguments, asked.trainer, lambda *_: None, None)
    limits = FormatSampler(SimpleNamespace(), tokenizer, rows, *given).limits
    assert limits == Limits(max_length, "auto", max_paths=most, path_opening="plan")
    assert FormatSampler(SimpleNamespace(), tokenizer, [], *given).limits.max_paths == Limits.max_paths


def test_the_prompt_asks_for_it() -> None:
    none, number, plan = (user_message("P", path_opening=each) for each in ("none", "number", "plan"))
    assert user_message("P") == none
    assert "do not number or order them" in none
    assert "its number in the block" in number and "do not number" not in number  # noqa: PT018
    assert "line of the plan" in plan and "plan it: one short line" in plan  # noqa: PT018
    assert user_message("P", "bare", "plan") == "P"
    with pytest.raises(UsageError, match=r"path_opening 'numbr' is not one of none, number, plan.*number"):
        render_prompt("P", path_opening="numbr")


def numbered(first: str, second: str) -> str:
    return (
        f"<Parallel><Path>{first}</Path><Path>{second}</Path></Parallel>\n<Summary>40.</Summary>\n"
        "Final Answer: 40"
    )


@pytest.mark.parametrize(
    ("opening", "trace", "reasons"),
    [
        ("none", numbered("1. 20 + 20 = 40", "2. 50 - 10 = 40"), [Reason.ORDERING, Reason.ORDERING]),
        ("number", numbered("\n1\n20 + 20 = 40", "\n2\n50 - 10 = 40"), []),
        ("number", numbered("1. 20 + 20 = 40", "2. 50 - 10 = 40"), []),
        ("number", numbered("\n1\n", "\n2\n50 - 10 = 40"), [Reason.GRAMMAR]),
        ("number", numbered("\n1\n20 + 20 = 40", "\n2\n20 + 20 = 40"), [Reason.COPIED_PATHS]),
        ("plan", "double\ntake away\n" + numbered("\ndouble\n20 + 20 = 40", "\ntake away\n50 - 10 = 40"), []),
        ("plan", numbered("20 + 20 = 40", "50 - 10 = 40"), [Reason.NO_PLAN]),
    ],
)
def test_data_check_knows_openings(opening: str, trace: str, reasons: list[Reason]) -> None:
    found = check(trace, problem="20 and 20?", answer="40", rules=Rules(path_opening=opening))
    assert [rejection.reason for rejection in found] == reasons


def test_rewards_know_an_empty_path() -> None:
    text = "<Parallel><Path>\n1\n</Path><Path>\n2\n50 - 10 = 40</Path></Parallel>\n<Summary>40.</Summary>\n"
    texts, answers = [text + "Final Answer: 40"], ["40"]
    names = ["format", "parallel", "tiered", "bonus", "gated_efficiency", "alternating"]
    for opening, format_, tiered, bonus in (("none", 1.0, 1.2, 1.5), ("number", 0.0, -1.0, 1.0)):
        rewards = reward_functions(names, path_opening=opening, pattern=[("tiered", 1)])
        assert [reward.__name__.removesuffix("_reward") for reward in rewards.values()] == names
        paid = {name: rewards[name](completions=texts, answer=answers)[0] for name in names[:5]}
        state = SimpleNamespace(global_step=0)
        paid["alternating"] = rewards["alternating"](texts, answers, trainer_state=state)[0]
        assert (paid["format"], paid["tiered"], paid["bonus"]) == (format_, tiered, bonus)
        assert paid["alternating"] == tiered
        assert paid["parallel"] == (1.0 if opening == "none" else -1.0)
        assert (paid["gated_efficiency"] > 0) == (opening == "none")


# --- the stages --------------------------------------------------------------------------------------------


def settings(command: str, folder: Path, **given: Any) -> Any:
    return resolve(command, threads=1, output_dir=str(folder), **given)


@pytest.fixture(scope="module")
def cold_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps of SFT with numbered paths."""
    folder = tmp_path_factory.mktemp("numbered") / "sft"
    given = {"limit": 64, "max_steps": 2, "per_device_train_batch_size": 8, "sample_count": 2}
    sft.run(
        settings(
            "sft", folder, recipe="tiny", attention="structured", path_opening="number", save_steps=1, **given
        )
    )
    return folder


def test_an_adapter_keeps_its_opening(cold_start: Path) -> None:
    said = {"attention": "structured", "path_opening": "number"}
    for name in ("adapter", "checkpoint-1"):
        assert json.loads((cold_start / name / "prl.json").read_text()) == said
        assert path_opening_of(cold_start / name) == "number"
    model, _ = load_model(str(cold_start))
    assert path_opening(model) == "number"
    assert "their number in the block" in (cold_start / "adapter" / "README.md").read_text()
    assert resolve("eval", threads=1, model_name_or_path=str(cold_start)).arguments.path_opening == "number"
    assert resolve("eval", threads=1, model_name_or_path="tiny").arguments.path_opening == "none"


def test_another_opening_is_refused(cold_start: Path) -> None:
    with pytest.raises(ModelError, match="was trained with path_opening number and cannot be used with plan"):
        load_model(str(cold_start), path_opening="plan")
    asked = settings("eval", cold_start / "other", model_name_or_path=str(cold_start), path_opening="none")
    with pytest.raises(ModelError, match="leave --path_opening out") as raised:
        evaluation.run(asked)
    assert "\n" not in str(raised.value)


def test_a_spoiled_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "prl.json").write_text('{"attention": "structured", "path_opening": "letters"}')
    with pytest.raises(ModelError, match="path_opening 'letters' is none of none, number, plan"):
        path_opening_of(tmp_path)
    (tmp_path / "prl.json").write_text('{"attention": "structured"}')
    assert path_opening_of(tmp_path) == "none", "older than openings"
    with pytest.raises(ModelError, match="was trained with path_opening none"):
        resolve_path_opening(tmp_path, "number")


def test_rl_samples_paths_at_the_temperature_that_it_scores_at() -> None:
    given = {"recipe": "tiny", "threads": 1, "temperature": 0.8}
    with pytest.raises(UsageError, match=r"path_temperature 0\.5: .* scored at --temperature 0\.8") as told:
        resolve("rl", **given, path_temperature=0.5)
    assert "\n" not in str(told.value)
    assert resolve("rl", **given, path_temperature=0.8).arguments.path_temperature == 0.8
    asked = resolve("eval", threads=1, path_temperature=0.5, join="first").arguments
    assert (asked.path_temperature, asked.join) == (0.5, "first")


def test_rl_scores_what_it_samples(cold_start: Path, tmp_path: Path) -> None:
    result = rl.run(
        settings(
            "rl", tmp_path / "rl", model_name_or_path=str(cold_start), max_steps=2, limit=16,
            per_device_train_batch_size=8, num_generations=4, max_completion_length=96, rewards=["format"],
            join="first",
        )
    )  # fmt: skip
    logged = [row for row in runs.read_metrics(result.folder) if row.get("sampling_gap/max") is not None]
    assert len(logged) == 2
    assert all(0 <= row["sampling_gap/max"] <= 1e-4 for row in logged)
    assert path_opening_of(result.folder) == "number"


def test_evaluation_and_merging_know_it(cold_start: Path, tmp_path: Path) -> None:
    result = evaluation.run(
        settings(
            "eval", tmp_path / "eval", model_name_or_path=str(cold_start), limit=4, samples=1,
            max_completion_length=96, bootstrap=10,
        )
    )  # fmt: skip
    assert json.loads((result.folder / "results.json").read_text())["path_opening"] == "number"
    merge_and_verify(str(cold_start), tmp_path / "merged", samples=1, max_completion_length=64)
    assert path_opening_of(tmp_path / "merged") == "number"
    model, tokenizer = load_model(str(tmp_path / "merged"))
    assert path_opening(model) == "number"
    assert forced_tokens([], Tags.of(tokenizer)) == []
    assert math.isfinite(result.metrics["greedy/accuracy"].mean)

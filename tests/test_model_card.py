"""Cards of adapters and merged models: true, valid for the Hub, and with every foreign text in its place."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from prl import cli, runs, sft, tiny
from prl.config import resolve
from prl.errors import RunError
from prl.model import Lora, add_results, load_model, merge_and_verify, save_adapter
from prl.model.card import ASKED_BESIDES, write_adapter_card, write_merged_card
from prl.runs import cards
from prl.settings.arguments import EvalArguments

JUNK = ("None](", "More Information Needed", "licence")
NOT_EVALUATED = "Not evaluated. `prl eval --model path/to/this/folder` puts its figures here."


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that a script saved, without a run."""
    folder = tmp_path_factory.mktemp("script") / "adapter"
    save_adapter(*load_model(tiny.NAME, lora=Lora(r=2)), folder)
    return folder


def of_run(plain: Path, folder: Path, base: str = tiny.NAME, **settings: Any) -> Path:
    """`plain` as the adapter of a run with these settings."""
    shutil.copytree(plain, folder / "adapter")
    file = folder / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base}))
    record = {"command": "rl", "recipe": settings.pop("recipe", "tiny+scaffold"), "rl": settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(record))
    (folder / "environment.json").write_text('{"stage": "rl"}')
    write_adapter_card(folder / "adapter")
    return folder


def figures(dataset: str = "arithmetic:heldout", mean: float = 0.5, **asked: Any) -> dict[str, Any]:
    found = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}
    metrics = {
        "sampled/accuracy": found,
        "sampled/critical_path": found,
        "sampled/tokens": found | {"mean": 7.0},
    }
    return {"dataset": dataset, "problems": 4, "samples": 2, "seed": 0, "metrics": metrics} | asked


def read(folder: Path) -> tuple[dict[str, Any], str]:
    """Front matter, and all text."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert not any(word in text for word in JUNK)
    assert cards.is_own(folder / "README.md")
    return yaml.safe_load(text.split("---\n")[1]), text


def run_snippet(text: str, folder: Path) -> str:
    """What its only Python block prints."""
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    snippet = snippet.replace("path/to/this/folder", str(folder)).replace(
        "max_new_tokens=256", "max_new_tokens=16"
    )
    said: list[str] = []
    exec(snippet, {"print": said.append})
    return said[0]


def test_an_adapter_of_a_script_says_what_is_known(plain: Path) -> None:
    head, text = read(plain)
    assert head == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["parallel-thinking", "prl", "lora"],
    }
    assert "| base | `tiny` |\n| LoRA | `rank 2, alpha 32` |\n| attention | causal: a path of" in text
    assert text.index("## Evaluation") < text.index(NOT_EVALUATED)
    assert run_snippet(text, plain)


@pytest.mark.parametrize("rows", [{"embed_tokens": [7]}, None])
def test_a_card_says_what_the_tags_are(
    tmp_path: Path, plain: Path, rows: dict[str, list[int]] | None
) -> None:
    """Rows only where there are some."""
    adapter, merged = of_run(plain, tmp_path / "rl") / "adapter", tmp_path / "merged"
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"trainable_token_indices": rows}))
    write_adapter_card(adapter)
    merged.mkdir()
    write_merged_card(merged, adapter, "float32", 0.0)
    for folder, held in ((adapter, "It holds rows of its own for them"), (merged, "It has rows for them")):
        said = held if rows else "They are spelled out, as any text"
        assert f"and a `<Summary>` follows. {said}; how often it uses them is" in read(folder)[1]


def test_an_adapter_of_a_run_says_where_it_is_from(plain: Path, tmp_path: Path) -> None:
    run = of_run(
        plain, tmp_path / "rl", "Qwen/Qwen3-0.6B-Base", dataset="gsm8k", model_name_or_path="/home/me/sft",
        rewards=["accuracy", "format"], max_steps=30, seed=7, load_in_4bit=True, prompt_style="sequential",
        recipe="8gb+/home/me/mine.yaml", limit=None,
    )  # fmt: skip
    head, text = read(run / "adapter")
    assert (head["base_model"], head["datasets"]) == ("Qwen/Qwen3-0.6B-Base", ["openai/gsm8k"])
    for row in (
        "| base | `Qwen/Qwen3-0.6B-Base` |",
        "| begun with | the adapter of `sft` |",
        "| made by | `prl rl`: GRPO on checked answers |",
        "| data | `gsm8k` |",
        "| recipe | `8gb+mine.yaml` |",
        "| rewards | `accuracy format` |",
        "| steps at most | `30` |",
        "| seed | `7` |",
        "| precision | the base held in 4 bits (QLoRA) |",
    ):
        assert row in text
    assert '"sequential")])' in text
    assert "style `sequential`" in text
    assert "/home/me" not in text


def test_names_of_this_machine_stay_here(plain: Path, tmp_path: Path) -> None:
    base, data = tmp_path / "models" / "mine", tmp_path / "data" / "mine.jsonl"
    head, text = read(of_run(plain, tmp_path / "rl", str(base), dataset=str(data)) / "adapter")
    assert {"base_model", "datasets"}.isdisjoint(head)
    assert "| base | `mine` |" in text
    assert "| data | `mine.jsonl` |" in text
    assert str(tmp_path) not in text


def test_what_others_wrote_does_not_leave_its_place(plain: Path, tmp_path: Path) -> None:
    hostile = "x`|\n---\n# Heading <script>alert(1)</script>\n```\n## Evaluation\nend"
    run = of_run(
        plain, tmp_path / "rl", hostile, dataset=hostile, recipe=hostile, rewards=[hostile], seed=hostile,
        model_name_or_path=hostile, prompt_style=hostile,
    )  # fmt: skip
    (run / "adapter" / "prl.json").write_text(json.dumps({"attention": hostile}))
    write_adapter_card(run / "adapter")
    assert add_results(str(run), figures(hostile, prompt_style=hostile))
    head, text = read(run / "adapter")
    assert set(head) == {"library_name", "pipeline_tag", "tags", "model-index"}
    _, _, body = text.split("---\n", 2)
    outside = re.sub(r"^(`{3,})(text|python)\n.*?^\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    assert not re.search("^# Heading|^---", outside, re.MULTILINE)
    spans = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", outside)
    assert "<script>" not in spans
    assert text.count("\n## Evaluation\n") == 1


def test_an_evaluation_puts_its_figures_into_the_card(plain: Path, tmp_path: Path) -> None:
    run = of_run(plain, tmp_path / "rl")
    card = run / "adapter" / "README.md"
    assert add_results(str(run), figures(mean=0.5)) == card
    assert add_results(str(run / "adapter"), figures("gsm8k", mean=0.25)) == card
    assert add_results(str(run), figures(mean=0.75)) == card, "asked in the same way: in place of the first"
    _, text = read(run / "adapter")
    assert NOT_EVALUATED not in text
    assert "`gsm8k`: `problems 4, samples 2, seed 0`" in text
    assert "| `sampled/accuracy` | `75.0% [65.0%, 85.0%]` |\n| `sampled/tokens` | `7 [1, 1]` |" in text
    assert "50.0%" not in text
    assert "critical_path" not in text
    found = ModelCard.load(card).data.eval_results
    assert [(each.dataset_name, each.metric_type, each.metric_value) for each in found] == [
        ("gsm8k", "accuracy", 0.25),
        ("gsm8k", "tokens", 7.0),
        ("arithmetic:heldout", "accuracy", 0.75),
        ("arithmetic:heldout", "tokens", 7.0),
    ]


def test_figures_that_were_asked_for_otherwise_stand_beside_each_other(plain: Path, tmp_path: Path) -> None:
    run = of_run(plain, tmp_path / "rl")
    usual = {name: getattr(EvalArguments, name) for name in ASKED_BESIDES}
    others: list[dict[str, Any]] = [
        {"dataset_split": "train\nb"}, {"paths": "6", "join": "first"}, {"max_paths": 8}, {"max_blocks": 1},
        {"max_path_length": 64}, {"path_temperature": 0.0}, {"top_p": 0.5}, {"top_k": 1}, {"min_p": 0.1},
    ]  # fmt: skip
    assert {name for other in others for name in other} == {*ASKED_BESIDES}
    add_results(str(run), figures(mean=0.25))  # as cards were that said none of it
    add_results(str(run), figures(mean=0.5, **usual))
    for other in others * 2:
        add_results(str(run), figures(mean=0.75, **usual | other))
    head, text = read(run / "adapter")
    (model,) = head["model-index"]
    assert [each["dataset"]["args"] for each in model["results"]] == [
        {"problems": 4, "samples": 2, "seed": 0} | other
        for other in ({}, {"dataset_split": "train b"}, *others[1:])
    ]
    assert "`arithmetic:heldout`: `problems 4, samples 2, seed 0, paths 6, join first`" in text
    assert "25.0%" not in text


def test_only_cards_of_prl_get_figures(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = of_run(plain, tmp_path / "rl")
    card = run / "adapter" / "README.md"
    whole = card.read_bytes()
    card.write_bytes(b"Mine: " + whole)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny.BASE, "base")
    for model in (str(run), tiny.NAME, "owner/name", "base"):
        assert add_results(model, figures()) is None
    assert card.read_bytes() == b"Mine: " + whole
    assert not Path("base", "README.md").exists()


def test_figures_that_are_none_are_dropped(plain: Path, tmp_path: Path) -> None:
    """A card may come from anyone, and its seal says only that it is as it was written."""
    run = of_run(plain, tmp_path / "rl")
    for index in ("[1]", "[{name: x, results: 3}]", "[{name: x, results: [{dataset: {name: x}}]}]", "{a: b}"):
        (run / "adapter" / "README.md").unlink()
        cards.write_card(run / "adapter", f"---\nmodel-index: {index}\n---\n\nx\n\n## Evaluation\n\nx")
        assert add_results(str(run), figures())
        assert len(ModelCard.load(run / "adapter" / "README.md").data.eval_results) == 2


def test_a_stage_leaves_no_card_but_the_adapters_and_the_users_readme(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with runs.open_run(tmp_path / "sft", command="sft", config={}):
        (tmp_path / "sft" / "README.md").write_text("# What I did")
    sft.run(
        resolve(
            "sft", recipe="tiny", threads=1, limit=16, max_steps=1, save_steps=1, sample_count=0,
            warmup_steps=0, eval_strategy="no", per_device_train_batch_size=1, overwrite_output_dir=True,
            output_dir=str(tmp_path / "sft"),
        )
    )  # fmt: skip
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("README*"))
    assert found == ["sft/README.md", "sft/adapter/README.md"]
    assert (tmp_path / "sft" / "README.md").read_text() == "# What I did"
    words = ["eval", "--model", str(tmp_path / "sft"), "--threads", "1", "--limit", "2", "--samples", "1"]
    words += ["--no_greedy", "--max_completion_length", "4", "--overwrite_output_dir", "--output_dir"]
    assert cli.main([*words, str(tmp_path / "eval")]) == 0
    assert f"figures added to {tmp_path / 'sft' / 'adapter' / 'README.md'}" in capsys.readouterr().err
    _, text = read(tmp_path / "sft" / "adapter")
    assert "`arithmetic:heldout`: `problems 2, samples 1, temperature 1.0, max_completion_length 4" in text

    def full(folder: Path, text: str) -> Path:
        raise RunError(f"{folder} cannot be written: Read-only file system")

    monkeypatch.setattr(cards, "write_card", full)
    assert cli.main([*words, str(tmp_path / "eval")]) == 0
    assert "figures not added to the card of the model: " in capsys.readouterr().err


@pytest.mark.parametrize("attention", ["causal", "structured"])
def test_a_merged_model_has_a_card_with_the_adapters_figures(attention: str, tmp_path: Path) -> None:
    save_adapter(*load_model(tiny.NAME, lora=Lora(r=2), attention=attention), tmp_path / "adapter")
    add_results(str(tmp_path / "adapter"), figures())
    merge_and_verify(
        str(tmp_path / "adapter"), tmp_path / "merged", prompts=["1 + 1"], samples=1, max_completion_length=16
    )
    head, text = read(tmp_path / "merged")
    assert head["library_name"] == "transformers"
    assert "lora" not in head["tags"]
    assert re.search(
        r"merged into its base, in float32; the merged logits differ from the adapter's by at", text
    )
    assert f"| attention | {attention}: " in text
    assert "| `sampled/accuracy` | `50.0% [40.0%, 60.0%]` |" in text
    assert ("from prl.model" in text) == (attention == "structured"), "who else can keep the structure"
    assert str(tmp_path) not in text
    assert run_snippet(text, tmp_path / "merged")
    assert add_results(str(tmp_path / "merged"), figures("gsm8k"))
    assert len(ModelCard.load(tmp_path / "merged" / "README.md").data.eval_results) == 4

"""Cards are known again until somebody changes them, and hold any text in its place."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prl.runs import cards

GRPO_IS_FROM = """\
@article{shao2024deepseekmath,
    title        = {{DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models}},
    author       = {Zhihong Shao and Peiyi Wang and Qihao Zhu and Runxin Xu and Junxiao Song and Mingchuan \
Zhang and Y. K. Li and Y. Wu and Daya Guo},
    year         = 2024,
    eprint       = {arXiv:2402.03300},
}
"""


def of_peft(base: str, version: str) -> str:
    """What peft 0.21 writes beside an adapter of TRL's, with the template of huggingface_hub."""
    tags = sorted([f"base_model:adapter:{base}", "lora", "transformers", "sft", "trl"])
    card = ModelCard.from_template(ModelCardData())
    card.data = ModelCardData(base_model=base, library_name="peft", pipeline_tag="text-generation", tags=tags)
    card.text += f"\n### Framework versions\n\n- PEFT {version}"
    return str(card)


def of_trl(trainer: str, name: str, version: str, **paper: str) -> str:
    """What trl 1.16 writes into a run folder."""
    data: dict[str, Any] = {"licence": "license", "tags": ["generated_from_trainer", "trl", trainer.lower()]}
    (trl,) = importlib.util.find_spec("trl").submodule_search_locations  # type: ignore[union-attr, misc]
    libraries = ("trl", "transformers", "pytorch", "datasets", "tokenizers")
    given = {f"{library}_version": version for library in libraries} | paper
    card = ModelCard.from_template(
        ModelCardData(library_name="transformers", model_name=name, **data),
        template_path=f"{trl}/templates/lm_model_card.md",
        base_model=None, model_name=name, hub_model_id=None, dataset_name=None, trainer_name=trainer, **given,
    )  # fmt: skip
    return str(card)


def of_grpo(name: str, version: str) -> str:
    title = "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models"
    paper = {"paper_title": title, "paper_id": "2402.03300", "trainer_citation": GRPO_IS_FROM}
    return of_trl("GRPO", name, version, **paper)


@given(st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_card_is_known_again_until_it_is_changed(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").unlink(missing_ok=True)
    text = text.encode(errors="replace").decode()
    path = cards.write_card(tmp_path, text)
    assert path == tmp_path / "README.md"
    assert cards.is_own(path)
    written = path.read_bytes()
    path.write_bytes(b"x" + written)
    assert not cards.is_own(path)
    path.write_bytes(written)
    assert cards.write_card(tmp_path, f"{text} and more") == path, "its own one is replaced"


@pytest.mark.parametrize("ends", ["\r\n", "\n"])
def test_however_its_lines_end(tmp_path: Path, ends: str) -> None:
    path = cards.write_card(tmp_path, "# A card\n\nof two lines")
    path.write_bytes(path.read_bytes().replace(b"\n", ends.encode()))
    assert cards.is_own(path)


@pytest.mark.parametrize("text", [b"# Mine\n", b"", b"\xff\xfe", b"<!-- prl wrote this file"])
def test_a_persons_readme_stays_and_the_card_goes_beside_it(
    tmp_path: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "README.md").write_bytes(text)
    for body in ("# A card", "# The next card"):
        path = cards.write_card(tmp_path, body)
        assert path == tmp_path / "README.prl.md"
        assert path.read_text().startswith(f"{body}\n")
    assert (tmp_path / "README.md").read_bytes() == text
    assert "README.md is not as prl wrote it, so it stays; the card is in" in caplog.text


@pytest.mark.parametrize(
    ("make", "fillings"),
    [
        (of_peft, [("tiny", "0.21.0"), ("Qwen/Qwen3-0.6B-Base", "0.22.0.dev0")]),
        (lambda *given: of_trl("SFT", *given), [("run-1", "1.16.0"), ("my run", "2.13.0+cu130")]),
        (of_grpo, [("run-1", "1.16.0")]),
    ],
)
def test_a_card_that_a_library_wrote_is_own_until_a_line_of_it_is_a_persons(
    tmp_path: Path, make: Callable[..., str], fillings: list[tuple[str, str]]
) -> None:
    """However few its placeholders are that were filled in, or words that stand between them."""
    path = tmp_path / "README.md"
    for filling in fillings:
        text = make(*filling)
        path.write_text(text, encoding="utf-8")
        assert cards.is_own(path)
        lines = text.splitlines()
        for at in [at for at, line in enumerate(lines) if line.strip()]:
            path.write_text("\n".join([*lines[:at], "I tried 3 seeds.", *lines[at:]]), encoding="utf-8")
            assert not cards.is_own(path), lines[at]
    whole = path.read_bytes()
    written = cards.write_card(tmp_path, "# A card")
    assert (written.name, path.read_bytes()) == ("README.prl.md", whole)


@pytest.mark.parametrize(
    "line", ["- **Developed by:** [More Information Needed]", "# Model Card for Model ID"]
)
def test_a_placeholder_that_is_filled_in_makes_a_card_a_persons(tmp_path: Path, line: str) -> None:
    path = tmp_path / "README.md"
    path.write_text(of_peft("tiny", "0.21.0").replace(line, "- **Developed by:** me"), encoding="utf-8")
    assert not cards.is_own(path)

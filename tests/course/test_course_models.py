"""The course's checkpoints: what their builder asks for, what it keeps of a run, and what a user gets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prl import sft
from prl.course import build, checkpoint
from prl.course.checkpoints import SETTINGS, shipped
from prl.errors import UsageError
from prl.model import attention_of, path_opening_of
from prl.runs import WEIGHTS


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "recipe", "split"),
    [
        ("four-ways", "tiny-search+products", "coldstart"),
        ("in-sequence", "tiny-search+products+in-sequence", "sequential"),
        ("mixed", "tiny-search+products", "mixed"),
    ],
)
def test_the_builder_trains_the_recipe_and_keeps_its_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, recipe: str, split: str
) -> None:
    """What ships is rounded already, so that keeping it once more changes nothing."""
    asked: list[Any] = []

    def run(settings: Any) -> SimpleNamespace:
        asked.append(settings)
        (tmp_path / "adapter").symlink_to(shipped(name))
        return SimpleNamespace(folder=tmp_path)

    monkeypatch.setattr(sft, "run", run)
    monkeypatch.setattr(build, "shipped", lambda asked: tmp_path / "kept" / asked)
    build.main([name])
    (settings,) = asked
    assert (settings.recipe, settings.arguments.dataset_split) == (recipe, split)
    assert settings.arguments.dataset == "search:products"
    assert settings.trainer.max_steps == 280
    kept = files(tmp_path / "kept" / name)
    assert kept == files(shipped(name))
    assert len(kept[WEIGHTS]) < 1_300_000


@pytest.mark.parametrize("name", SETTINGS)
def test_a_checkpoint_is_copied_where_it_can_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = checkpoint(name)
    assert folder == f"runs/course/models/{name}"
    assert checkpoint(name) == folder, "again, over itself"
    assert files(Path(folder)) == files(shipped(name))
    is_parallel = name != "in-sequence"
    assert attention_of(folder) == ("structured" if is_parallel else "causal")
    assert path_opening_of(folder) == ("number" if is_parallel else "none")


def test_an_unknown_checkpoint_is_named_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match=r"no checkpoint 'four-way'.*four-ways.*in-sequence, mixed"):
        checkpoint("four-way")

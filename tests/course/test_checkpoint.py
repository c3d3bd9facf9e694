"""The course's checkpoint: what its builder asks for, and what it keeps of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prl import sft
from prl.course import build, checkpoint
from prl.runs import WEIGHTS


def test_the_builder_trains_the_recipe_and_keeps_its_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ships is rounded already, so that keeping it once more changes nothing."""
    asked: list[Any] = []

    def run(settings: Any) -> SimpleNamespace:
        asked.append(settings)
        (tmp_path / "adapter").symlink_to(shipped)
        return SimpleNamespace(folder=tmp_path)

    shipped = checkpoint()
    monkeypatch.setattr(sft, "run", run)
    monkeypatch.setattr(build, "checkpoint", lambda: tmp_path / "kept")
    build.main()
    (settings,) = asked
    assert settings.arguments.dataset == "search:products"
    assert settings.trainer.max_steps == 280
    kept = {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    assert kept == {path.name: path.read_bytes() for path in shipped.iterdir()}
    assert len(kept[WEIGHTS]) < 400_000

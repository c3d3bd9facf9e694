"""What a command starts from is not removed to make room for what it writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from prl import evaluation, runs, tiny
from prl.config import resolve
from prl.errors import RunError
from prl.runs.adapters import lies_in
from prl.runs.checkpoints import seal
from prl.trainer.setup import open_training


def open_it(command: str, model: Path, output: Path, **given: Any) -> runs.Run:
    asked = resolve(command, recipe="tiny", model_name_or_path=str(model), output_dir=str(output), **given)
    return evaluation._open(asked, []) if command == "eval" else open_training(asked, [], [])


def make_adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": tiny.NAME}))
    (folder / runs.WEIGHTS).write_bytes(b"weights")
    return folder


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A finished run with a checkpoint."""
    with runs.open_run(tmp_path / "mine" / "sft", command="sft", config={}) as run:
        seal(make_adapter(run.folder / "checkpoint-2"))
        make_adapter(run.folder / "adapter")
        run.finish()
    return run.folder


def files(folder: Path) -> dict[str, bytes]:
    """What a folder holds, but for what locks it."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(found)}


@pytest.mark.parametrize("part", [".", "adapter", "checkpoint-2"])
@pytest.mark.parametrize("command", ["sft", "rl", "eval"])
def test_a_run_that_holds_the_model_is_not_overwritten(trained: Path, command: str, part: str) -> None:
    before = files(trained)
    with pytest.raises(RunError) as caught:
        open_it(command, trained / part, trained, overwrite_output_dir=True)
    assert str(caught.value) == (
        f"{command} starts from {trained / part}, which lies in {trained}: choose another --output_dir"
    )
    with pytest.raises(RunError, match=r"choose another --output_dir$"):
        open_it(command, trained / part, trained)
    assert files(trained) == before


def test_of_an_interrupted_run_its_checkpoint_stays_too(trained: Path) -> None:
    (trained / "DONE").unlink()
    with pytest.raises(RunError, match=r"interrupted sft run: pass --resume or choose another --output_dir$"):
        open_it("sft", trained / "checkpoint-2", trained)
    with pytest.raises(RunError, match=r"sft starts from .*checkpoint-2, which lies in"):
        open_it("sft", trained / "checkpoint-2", trained, overwrite_output_dir=True)
    with runs.open_run(trained, command="sft", config={}, resume=True, model=str(trained)) as run:
        assert run.checkpoint == trained / "checkpoint-2", "what goes on removes nothing that it needs"


def test_a_run_beside_the_model_is_overwritten(trained: Path) -> None:
    beside = trained.with_name("sft-2")
    shutil.copytree(trained, beside)
    with open_it("sft", trained, beside, overwrite_output_dir=True) as run:
        assert files(run.folder).keys() == {"config.yaml", "environment.json"}
    assert runs.adapter_dir(trained) == trained / "adapter"


def test_a_model_lies_where_its_name_or_its_links_lead(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("mine/sft")
    (tmp_path / "to-run").symlink_to(trained)
    assert lies_in("to-run", run)
    assert lies_in("to-run/checkpoint-2", run)
    assert lies_in(run, Path("to-run"))
    assert lies_in("mine/../mine/sft/adapter", run)
    (trained / "checkpoint-2").rename(tmp_path / "elsewhere")
    (trained / "checkpoint-2").symlink_to(tmp_path / "elsewhere")
    assert lies_in("mine/sft/checkpoint-2", run), "its name goes, though not its files"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "adapter").symlink_to(trained / "adapter")
    assert lies_in("other", run)
    assert not lies_in("elsewhere", run)
    assert not lies_in("mine", run)
    assert not lies_in("mine/other", Path("mine")), "a name of the Hub"
    Path("tiny").mkdir()
    assert not lies_in("tiny", Path("tiny")), "the model that ships"
    assert lies_in("./tiny", Path("tiny"))

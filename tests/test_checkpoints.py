"""Checkpoints: sealed, checked, pruned; and a real one of each stage with every file damaged in turn."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from prl import rl, runs, sft
from prl.config import resolve
from prl.errors import RunError
from prl.runs.checkpoints import MANIFEST, checkpoints, fault, last_checkpoint, prune, seal

STAGES: dict[str, Any] = {
    "sft": {
        "limit": 32, "per_device_train_batch_size": 4, "sample_count": 0, "eval_strategy": "no",
    },
    "rl": {
        "limit": 32, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_generations": 4,
        "max_completion_length": 16, "dataset": "arithmetic:easy", "sampling": "adaptive",
    },
}  # fmt: skip


def settings(stage: str, folder: Path, **given: Any) -> Any:
    few = {"max_steps": 2, "save_steps": 1, "logging_steps": 1}
    return resolve(stage, recipe="tiny", threads=1, output_dir=str(folder), **STAGES[stage], **few | given)


def make(run: Path, step: int, content: bytes = b"weights") -> Path:
    folder = run / f"checkpoint-{step}"
    (folder / "inner").mkdir(parents=True)
    (folder / "adapter.bin").write_bytes(content)
    (folder / "inner" / "state.json").write_bytes(b"{}")
    return folder


def test_a_sealed_checkpoint_is_whole_and_names_each_file(tmp_path: Path) -> None:
    folder = make(tmp_path, 3)
    assert fault(folder) == f"has no {MANIFEST}, so it was not written to its end"
    seal(folder)
    assert fault(folder) is None
    files = json.loads((folder / MANIFEST).read_text())["files"]
    assert files.keys() == {"adapter.bin", "inner/state.json"}
    assert files["adapter.bin"]["bytes"] == 7
    seal(folder)  # again, as a run that was resumed just before it does
    assert fault(folder) is None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda file: file.write_bytes(b"weighty"),
            "adapter.bin is not what was written: its checksum differs",
        ),
        (lambda file: file.write_bytes(b"weight"), "adapter.bin has 6 bytes, not 7"),
        (lambda file: file.unlink(), "adapter.bin cannot be read: No such file or directory"),
        (lambda file: (file.parent / MANIFEST).write_text("{}"), f"has no {MANIFEST}, so it was not written"),
        (
            lambda file: (file.parent / MANIFEST).write_text('{"files": {"a": 1}}'),
            "a cannot be read: No such",
        ),
        (
            lambda file: (file.parent / MANIFEST).write_text('{"files": {"adapter.bin": 1}}'),
            f"{MANIFEST} cannot be read",
        ),
    ],
)
def test_damage_is_named_and_the_previous_checkpoint_used(
    damage: Any, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (9, 10):
        seal(make(tmp_path, step))
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    damage(tmp_path / "checkpoint-10" / "adapter.bin")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-9"
    assert f"checkpoint-10 is passed over: {said}" in caplog.text


def test_older_ones_go_only_for_sealed_ones(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        seal(make(tmp_path, step))
    make(tmp_path, 11)  # torn: counts for nothing, and is left to be looked at
    prune(tmp_path, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-10", "checkpoint-11"]
    prune(tmp_path, keep=1, also=["checkpoint-2"])
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-10", "checkpoint-11"]
    prune(tmp_path, keep=1)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-11"]


def test_a_full_disk_is_a_clear_error_and_the_older_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal(make(tmp_path, 1))
    torn = make(tmp_path, 2)

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=r"no space left on the disk of .*checkpoint-2"):
        seal(torn)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-1"


@pytest.mark.parametrize("stage", STAGES)
def test_every_file_of_a_real_checkpoint_is_looked_after(stage: str, tmp_path: Path) -> None:
    """A flipped byte, a cut and a loss in each; then the run goes on from the checkpoint before."""
    run = {"sft": sft.run, "rl": rl.run}[stage]
    run(settings(stage, tmp_path / "run"))
    first, second = checkpoints(tmp_path / "run")
    files = sorted(path for path in second.rglob("*") if path.is_file() and path.name != MANIFEST)
    names = {path.name for path in files}
    assert names >= {
        "adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth",
        "trainer_state.json", "prl.json",
    }  # fmt: skip
    for path in files:
        whole = path.read_bytes()
        for damaged in (bytes([whole[0] ^ 1]) + whole[1:], whole[:-1]):
            path.write_bytes(damaged)
            assert fault(second)
        path.unlink()
        assert fault(second)
        path.write_bytes(whole)
        assert fault(second) is None
    expected = (tmp_path / "run" / "adapter" / "adapter_model.safetensors").read_bytes()
    optimizer = second / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-1])
    (tmp_path / "run" / "DONE").unlink()
    shutil.rmtree(tmp_path / "run" / "adapter")
    run(settings(stage, tmp_path / "run", resume=True))
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").read_bytes() == expected
    assert [fault(path) for path in (first, second)] == [None, None]
    assert [line["step"] for line in runs.read_metrics(tmp_path / "run") if "loss" in line] == [1, 2]

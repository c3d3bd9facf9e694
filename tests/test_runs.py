"""The run folder: kept whole through kills, refusals, torn files and full disks."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import platform
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prl import runs
from prl.answers import Verdict
from prl.errors import RunError, UsageError
from prl.grammar import parse
from prl.runs import (
    SAMPLE_COLUMNS,
    adapter_dir,
    base_of_adapter,
    cards,
    last_checkpoint,
    open_run,
    provenance,
    read_config,
    read_metrics,
    read_path_opening,
    read_samples,
    read_settings,
    read_summary,
    sample_row,
)
from prl.runs import folder as run_folder
from prl.runs.checkpoints import seal
from prl.runs.samples import LOGPROB_STEP


def make_checkpoint(run: Path, step: int, *, whole: bool = True) -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text('{"global_step": 1}')
    if whole:
        seal(folder)
    return folder


def make_adapter(folder: Path, base: str = "Qwen/Qwen3-0.6B-Base") -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@contextmanager
def another_process(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run `program`; it must print a line when it is where the test wants it, and is killed in the end."""
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()
            process.wait()


# --- a run from its beginning to its end


def test_a_whole_run(tmp_path: Path) -> None:
    folder, started = tmp_path / "runs" / "sft", time.monotonic()
    with open_run(folder, command="sft", config={"learning_rate": 1e-5, "out": folder}) as run:
        run.log_metrics(1, {"loss": 2.5})
        run.log_metrics(2, {"loss": math.nan, "grad_norm": math.inf})
        run.log_samples(2, [{"problem": "1+1?", "text": "2", "token_ids": [5, 6], "reward_accuracy": 1.0}])
        assert read_summary(folder) is None
        run.finish({"held_out_loss": 0.5})
    assert names(folder) == ["DONE", "config.yaml", "environment.json", "metrics.jsonl", "samples.parquet"]
    assert read_config(folder) == {"learning_rate": 1e-5, "out": str(folder)}
    first, second = read_metrics(folder)
    assert (first["step"], first["loss"]) == (1, 2.5)
    assert second["time"] >= first["time"]
    assert (second["loss"], second["grad_norm"]) == (None, None)
    (sample,) = read_samples(folder).to_pylist()
    assert (sample["step"], sample["command"], sample["token_ids"]) == (2, "sft", [5, 6])
    summary = read_summary(folder)
    assert summary is not None
    assert (summary["command"], summary["steps"], summary["held_out_loss"]) == ("sft", 2, 0.5)
    assert 0 <= summary["wall_seconds"] <= time.monotonic() - started + 0.001, "rounded to milliseconds"
    assert summary["finished_at"] >= summary["started_at"]


class Kind(Enum):
    CAUSAL = "causal"


@dataclass
class Settings:
    model: Path
    kind: Kind


def test_config_is_plain_yaml_whatever_the_settings_hold(tmp_path: Path) -> None:
    config = {
        "settings": Settings(Path("a/b"), Kind.CAUSAL),
        "betas": (0.9, 0.999),
        "modules": {"v", "q"},
        "number": np.float32(0.5),
        "array": np.arange(2),
        "text": np.str_("π"),
        "type": int,
        "no": False,
        "none": None,
    }
    with open_run(tmp_path / "run", command="sft", config=config):
        pass
    assert read_config(tmp_path / "run") == {
        "settings": {"model": str(Path("a/b")), "kind": "causal"},
        "betas": [0.9, 0.999],
        "modules": ["q", "v"],
        "number": 0.5,
        "array": [0, 1],
        "text": "π",
        "type": "<class 'int'>",
        "no": False,
        "none": None,
    }


def test_no_secret_reaches_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, key = "hf_" + "a1" * 15, "sk-proj-" + "b2" * 15
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(
        sys, "argv", ["prl", "sft", "--hub_token", "mine1", "--api-key=mine2", f"--model={token}"]
    )
    config = {
        "hub_token": "mine3",
        "nested": [{"note": f"use {token} or {key}"}],
        "eos_token": "<|im_end|>",
        "password": None,
    }
    with open_run(tmp_path / "run", command="sft", config=config):
        pass
    written = "".join(path.read_text() for path in (tmp_path / "run").iterdir())
    assert not any(secret in written for secret in (token, key, "mine1", "mine2", "mine3"))
    assert read_config(tmp_path / "run")["eos_token"] == "<|im_end|>"
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["argv"] == ["prl", "sft", "--hub_token", "***", "--api-key=***", "--model=***"]


def test_the_environment_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 1, get_device_name=lambda index: "A GPU"
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    environment = runs.describe_environment()
    assert environment["gpus"] == ["A GPU"]
    assert environment["python"] == platform.python_version()
    assert environment["versions"]["trl"] is not None
    assert set(environment["versions"]) == set(runs.LIBRARIES)
    monkeypatch.delitem(sys.modules, "torch")
    assert runs.describe_environment()["gpus"] == []
    assert "torch" not in sys.modules


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    assert provenance._git_commit(tmp_path) is None
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    provenance._git_commit.cache_clear()
    clean = provenance._git_commit(tmp_path)
    assert clean is not None
    assert len(clean) == 40
    (tmp_path / "file").write_text("2")
    provenance._git_commit.cache_clear()
    assert provenance._git_commit(tmp_path) == f"{clean}-dirty"


# --- killed, interrupted, resumed

TRAINING = """
    import sys, time
    from pathlib import Path
    from prl.runs.checkpoints import seal
    from prl.runs import open_run

    with open_run(sys.argv[1], command="rl", config={"seed": 1}) as run:
        for step in range(1, 4):
            run.log_metrics(step, {"reward": step / 10})
            run.log_samples(step, [{"text": f"response {step}", "reward_accuracy": step}] * 2)
            folder = Path(sys.argv[1], f"checkpoint-{step}")
            folder.mkdir()
            (folder / "trainer_state.json").write_text('{"global_step": 1}')
            if step < 3:
                seal(folder)
        Path(sys.argv[1], "samples", ".step-000004-00.parquet.1.tmp").write_bytes(b"PAR1 half")
        with open(Path(sys.argv[1], "metrics.jsonl"), "ab") as file:
            file.write(b'{"step": 4, "rew')
        print("ready", flush=True)
        sys.stdin.read()
"""


def test_a_killed_run_keeps_everything_and_resumes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "rl"
    with (
        another_process(TRAINING, folder) as process,
        pytest.raises(RunError, match=rf"in use by process {process.pid} on .* seconds ago: wait for it"),
    ):
        open_run(folder, command="rl", config={}, overwrite=True)
    assert process.returncode != 0
    assert [record["reward"] for record in read_metrics(folder)] == [0.1, 0.2, 0.3]
    assert "line 4 is torn" in caplog.text
    assert read_samples(folder)["text"].to_pylist() == [f"response {step}" for step in (1, 1, 2, 2, 3, 3)]
    assert read_config(folder) == {"seed": 1}
    assert read_summary(folder) is None

    with pytest.raises(RunError, match="is an interrupted rl run: pass --resume, choose another"):
        open_run(folder, command="rl", config={})

    with open_run(folder, command="rl", config={"seed": 1}, resume=True) as run:
        # Checkpoint 3 was not written to its end. Step 3 is done again, so its first traces go.
        assert run.checkpoint == folder / "checkpoint-2"
        assert [record["step"] for record in read_metrics(folder)] == [1, 2]
        run.log_metrics(3, {"reward": 0.5})
        run.log_samples(3, [{"text": "again"}])
        assert read_samples(folder)["text"].to_pylist()[-2:] == ["response 2", "again"]
        run.finish()
    assert [record["reward"] for record in read_metrics(folder)] == [0.1, 0.2, 0.5]
    assert len(read_samples(folder)) == 5
    assert not list(folder.rglob("*.tmp"))
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["resumed_at"] == [environment["opened_at"]]
    assert environment["pid"] == os.getpid()


def test_a_run_without_checkpoints_goes_on_from_its_samples(tmp_path: Path) -> None:
    with open_run(tmp_path, command="eval", config={"seed": 1}, inputs={"dataset": "a"}) as run:
        run.log_samples(0, [{"text": "b"}])
        run.log_samples(0, [{"text": "a"}])
    (tmp_path / "samples.parquet").write_bytes(b"merged, without DONE")
    asked: list[Any] = []

    def compare(*given: Any) -> dict[str, str]:
        asked.append(given)
        return {}

    how: dict[str, Any] = {"command": "eval", "resume": True, "by_samples": True, "compare": compare}
    with open_run(tmp_path, config={"seed": 2}, **how) as run:
        assert run.resumed
        assert read_samples(tmp_path)["text"].to_pylist() == ["b", "a"]
        run.replace_samples(0, [{"text": "a"}, {"text": "b"}])
        run.finish()
    assert asked == [({"seed": 1}, {"dataset": "a"}, tmp_path)]
    assert read_samples(tmp_path)["text"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_what_a_merge_drafted_into_a_run_is_in_nobodys_way(tmp_path: Path, how: str) -> None:
    with open_run(tmp_path, command="sft", config={}) as run:
        run.log_metrics(1, {"loss": 1})
    (tmp_path / ".merged.1.tmp").mkdir()
    (tmp_path / ".merged.1.tmp" / "model.safetensors").touch()
    (tmp_path / ".DONE.1.tmp").touch()
    with open_run(tmp_path, command="sft", config={}, resume=how == "resume", overwrite=how == "overwrite"):
        assert (tmp_path / ".merged.1.tmp" / "model.safetensors").exists()
        assert not (tmp_path / ".DONE.1.tmp").exists()


def test_an_exception_and_ctrl_c_leave_an_interrupted_run_that_is_free(tmp_path: Path) -> None:
    def interrupted(error: type[BaseException]) -> None:
        with open_run(tmp_path / error.__name__, command="sft", config={}) as run:
            run.log_metrics(1, {"loss": 1})
            raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            interrupted(error)
        folder = tmp_path / error.__name__
        assert len(read_metrics(folder)) == 1
        assert read_summary(folder) is None
        with open_run(folder, command="sft", config={}, resume=True):
            pass


def test_a_kill_between_the_merge_and_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_run(tmp_path / "run", command="rl", config={}) as run:
        run.log_samples(1, [{"text": "one"}])
        monkeypatch.setattr(
            run_folder, "write_json", lambda path, value: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            run.finish()
    monkeypatch.undo()
    make_checkpoint(run.folder, 1)
    assert len(read_samples(run.folder)) == 1
    with open_run(run.folder, command="rl", config={}, resume=True) as run:
        run.log_samples(2, [{"text": "two"}])
        run.finish()
    assert read_samples(run.folder)["text"].to_pylist() == ["one", "two"]


def test_resuming_without_a_checkpoint_begins_again(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", command="rl", config={}) as run:
        run.log_metrics(0, {"reward": 1})
        run.log_samples(0, [{"text": "one"}])
    with open_run(tmp_path / "run", command="rl", config={}, resume=True) as run:
        assert run.checkpoint is None
        assert read_metrics(run.folder) == []
        assert len(read_samples(run.folder)) == 0


def test_a_run_that_did_nothing_is_started_over(tmp_path: Path) -> None:
    for stage in ("sft", "rl"):
        with open_run(tmp_path / "run", command=stage, config={"stage": stage}):
            pass
    assert read_config(tmp_path / "run") == {"stage": "rl"}


# --- refusals


def test_a_finished_run_and_one_of_another_stage_are_refused_until_overwritten(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", command="sft", config={"a": 1}) as run:
        run.log_metrics(1, {"loss": 1})
        make_adapter(run.folder / "adapter")
        make_checkpoint(run.folder, 1)
        run.finish()
    (run.folder / "notes.txt").write_text("mine")
    environment = (run.folder / "environment.json").read_bytes()
    for options in ({}, {"resume": True}):
        with pytest.raises(
            RunError, match=r"is a finished sft run: choose another --output_dir or pass --overwrite"
        ):
            open_run(run.folder, command="sft", config={}, **options)
    with pytest.raises(RunError, match="is a run of command sft, not rl: choose another"):
        open_run(run.folder, command="rl", config={})
    assert (run.folder / "environment.json").read_bytes() == environment
    with open_run(run.folder, command="rl", config={"b": 2}, overwrite=True):
        assert names(run.folder) == ["config.yaml", "environment.json", "notes.txt"]
        assert read_config(run.folder) == {"b": 2}


MINE = {
    "README.md": "what I did",
    "notes.txt": "mine",
    "checkpoint-best/weights": "a copy",
    "samples/mine.txt": "picked",
    "adapter/LICENSE": "MIT",
    "adapter/README.md": "# My adapter",
    "journal/diary.txt": "dear",
}


def write_all(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("stage", "others"),
    [
        ("sft", {"results.json": "mine", "traces.parquet": "mine"}),
        ("rl", {"results.json": "mine", "rejected.parquet": "mine"}),
        ("eval", {"traces.parquet": "mine", "adapter/tokenizer.json": "mine"}),
        ("traces", {"results.json": "mine", "adapter/adapter_config.json": "mine"}),
    ],
)
def test_overwriting_removes_what_the_stage_wrote_and_nothing_else(
    tmp_path: Path, stage: str, others: dict[str, str]
) -> None:
    with open_run(tmp_path, command=stage, config={}) as run:
        run.log_metrics(1, {"loss": 1})
        run.log_samples(1, [{"text": "one"}])
        written = {
            "sft": ["adapter/adapter_config.json", "adapter/tokenizer.json", "adapter/prl.json"],
            "rl": ["adapter/adapter_model.safetensors", "completions/completions_00001.parquet"],
            "eval": ["results.json"],
            "traces": ["journal/00000.jsonl", "traces.parquet", "rejected.parquet"],
        }[stage]
        write_all(tmp_path, dict.fromkeys(written, "prl's"))
        if stage in ("sft", "rl"):
            make_checkpoint(tmp_path, 1)
            make_checkpoint(tmp_path, 2, whole=False)
        run.finish()
    write_all(tmp_path, MINE | others)
    with open_run(tmp_path, command="sft", config={}, overwrite=True):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
        assert left == {*MINE, *others, "environment.json", "config.yaml", ".lock"}
        assert all((tmp_path / name).read_text() == text for name, text in (MINE | others).items())


def test_overwriting_leaves_no_empty_folders_and_no_card_of_prl(tmp_path: Path) -> None:
    with open_run(tmp_path, command="sft", config={}) as run:
        run.log_samples(1, [{"text": "one"}])
        make_adapter(tmp_path / "adapter")
        cards.write_card(tmp_path / "adapter", "# An adapter")
        cards.write_card(tmp_path, "# A run")
    with open_run(tmp_path, command="sft", config={}, overwrite=True):
        assert names(tmp_path) == ["config.yaml", "environment.json"]


def test_an_overwriting_that_is_cut_short_can_only_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_run(tmp_path, command="rl", config={}):
        make_checkpoint(tmp_path, 1)
    for cut, seen in ((KeyboardInterrupt(), KeyboardInterrupt), (PermissionError(13, "Denied"), RunError)):

        def cut_short(path: Path, cut: BaseException = cut) -> None:
            raise cut

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", cut_short)
            with pytest.raises(seen):
                open_run(tmp_path, command="rl", config={}, overwrite=True)
        with pytest.raises(RunError, match=r"is a run of command unknown, not rl: .* --overwrite_output_dir"):
            open_run(tmp_path, command="rl", config={}, resume=True)
        (tmp_path / "results.json").write_text("not of this stage, which is still known")
    with open_run(tmp_path, command="rl", config={}, overwrite=True):
        assert names(tmp_path) == ["config.yaml", "environment.json", "results.json"]


def test_a_run_whose_environment_is_torn_is_refused(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text('{"stage": "s')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(RunError, match="is a run of command unknown, not sft"):
        open_run(tmp_path, command="sft", config={})


def test_a_folder_that_is_no_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    for name in ("thesis.tex", ".DS_Store"):
        (tmp_path / name).write_text("mine")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(
            RunError, match=r"is not empty and no run \(thesis\.tex\): choose another --output_dir"
        ):
            open_run(tmp_path, command="sft", config={}, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".DS_Store", "thesis.tex"]
    (tmp_path / "thesis.tex").unlink()
    with open_run(tmp_path, command="sft", config={}):
        pass


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resume": True, "overwrite": True}, UsageError, "both resumed and overwritten"),
        ({"resume": True}, RunError, "holds no run to resume"),
    ],
)
def test_contradictions(
    tmp_path: Path, options: dict[str, bool], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_run(tmp_path / "run", command="sft", config={}, **options)
    with open_run(tmp_path / "run", command="sft", config={}):
        pass


def test_places_where_no_folder_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        with pytest.raises(RunError, match=r"cannot be written: .*\. Choose another --output_dir"):
            open_run(tmp_path / place, command="sft", config={})


def test_a_second_run_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with (
        open_run(tmp_path / "run", command="sft", config={}),
        pytest.raises(RunError, match=f"process {os.getpid()} .* this very process, so close that run"),
    ):
        open_run(tmp_path / "run", command="sft", config={})
    with open_run(tmp_path / "run", command="sft", config={}):
        pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "in use by process 7 on elsewhere, which opened it 3 hours ago: wait for it, or choose another"),
        ({"opened_at": "9999-01-01T00:00:00+00:00"}, "which opened it 0 seconds ago: "),  # clocks differ
        ({"opened_at": "2020-01-01"}, "in use by another process: wait for it, or choose another"),
        ({"opened_at": 3}, "in use by another process: "),
        ({"host": None}, "process 7 on None, "),
        (None, "in use by another process: wait for it, or choose another --output_dir"),
    ],
)
def test_the_owner_is_named_as_far_as_it_is_known(
    tmp_path: Path, changes: dict[str, object] | None, message: str
) -> None:
    with open_run(tmp_path, command="sft", config={}):
        ago = (datetime.now(UTC) - timedelta(hours=3.5)).isoformat()
        owner = json.dumps({"pid": 7, "host": "elsewhere", "opened_at": ago, **(changes or {})})
        (tmp_path / "environment.json").write_text(owner if changes is not None else owner[:-9])
        with pytest.raises(RunError, match=message):
            open_run(tmp_path, command="sft", config={})


@pytest.mark.parametrize("attempt", range(10))
def test_of_many_threads_one_gets_the_folder_and_any_may_close_it(tmp_path: Path, attempt: int) -> None:
    barrier = threading.Barrier(8)
    opened: list[runs.Run] = []
    refused: list[RunError] = []

    def contend() -> None:
        barrier.wait()
        try:
            opened.append(open_run(tmp_path, command="sft", config={}))
        except RunError as error:
            refused.append(error)

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1
    assert len(refused) == 7
    assert all("is in use by" in str(error) for error in refused)
    opened[0].close()
    with open_run(tmp_path, command="sft", config={}):
        opened[0].close()  # once more: it must not free what is another's by now
        with pytest.raises(RunError, match="is in use by"):
            open_run(tmp_path, command="sft", config={})


FORKING = """
    import os, sys
    from prl.runs import open_run

    run = open_run(sys.argv[1], command="sft", config={})
    if os.fork() == 0:
        run.close()
        os._exit(0)
    os.wait()
    if os.fork() == 0:  # it tells: by then it has let go of the lock
        print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_neither_frees_the_folder_nor_keeps_it(tmp_path: Path) -> None:
    with another_process(FORKING, tmp_path) as process:
        with pytest.raises(RunError, match=f"in use by process {process.pid} on"):
            open_run(tmp_path, command="sft", config={})
        process.kill()
        process.wait()
        with open_run(tmp_path, command="sft", config={}):  # the second child still reads from us
            pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", flock)
    with pytest.raises(RunError, match=rf"cannot be locked: {os.strerror(number)}\. Choose another --output"):
        open_run(tmp_path, command="sft", config={})
    assert names(tmp_path) == []


# --- metrics

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def nulled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: nulled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [nulled(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.dictionaries(st.text(min_size=6), JSON, max_size=3), min_size=1, max_size=3), st.floats(0, 1)
)
def test_metrics_read_back_as_written_also_before_a_torn_end(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]], share: float
) -> None:
    folder = tmp_path_factory.mktemp("metrics")
    with open_run(folder, command="sft", config={}) as run:
        for step, line in enumerate(lines):
            run.log_metrics(step, line)
    records = read_metrics(folder)
    assert [
        {key: value for key, value in record.items() if key not in ("step", "time")} for record in records
    ] == [nulled(line) for line in lines]
    whole = (folder / "metrics.jsonl").read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    (folder / "metrics.jsonl").write_bytes(whole[: last + int(share * (len(whole) - 2 - last))])
    assert read_metrics(folder) == records[:-1]


def test_a_torn_line_in_the_middle_is_left_out_with_its_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_run(tmp_path, command="sft", config={}):
        (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2, \n\n\xff\n[1]\n{"step": 3}\n')
    with caplog.at_level(logging.WARNING):
        assert [record["step"] for record in read_metrics(tmp_path)] == [1, 3]
    assert [number for number in range(1, 7) if f"line {number} is torn" in caplog.text] == [2, 4, 5]


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    with open_run(tmp_path, command="sft", config={}) as run:
        run.log_metrics(
            1, {"a": np.float32(0.5), "b": np.int64(3), "c": np.array([1.0, np.nan]), "d": np.bool_(True)}
        )
    (record,) = read_metrics(tmp_path)
    assert [record[name] for name in "abcd"] == [0.5, 3, [1.0, None], True]


def test_each_line_is_on_disk_when_the_call_returns(tmp_path: Path) -> None:
    with open_run(tmp_path, command="sft", config={}) as run:
        for step in range(3):
            run.log_metrics(step, {})
            assert len(read_metrics(tmp_path)) == step + 1


# --- samples


def test_samples_of_steps_with_different_rewards_merge(tmp_path: Path) -> None:
    with open_run(tmp_path, command="rl", config={}) as run:
        run.log_samples(
            1, [{"text": "a", "reward_accuracy": 1, "note": 1}, {"text": "b", "reward_accuracy": -1.0}]
        )
        run.log_samples(2, [{"text": "c", "reward_accuracy": math.nan, "reward_parallel": None, "note": "x"}])
        run.log_samples(2, [{"text": "d", "reward_format": True, "phase": "tiered"}])
        run.log_samples(10, [])
        before = read_samples(tmp_path)
        run.finish()
    merged = read_samples(tmp_path)
    assert merged.equals(before)
    assert not (tmp_path / "samples").exists()
    assert merged["text"].to_pylist() == ["a", "b", "c", "d"]
    assert merged["reward_accuracy"].to_pylist() == [1.0, -1.0, None, None]
    assert merged["reward_parallel"].to_pylist() == [None] * 4
    assert merged["reward_format"].to_pylist() == [None, None, None, 1.0]
    assert merged["note"].to_pylist() == ["1", None, "x", None]
    assert merged["phase"].to_pylist() == [None, None, None, "tiered"]
    assert set(SAMPLE_COLUMNS) <= set(merged.column_names)
    assert merged.schema.field("token_ids").type == pa.list_(pa.int32())


def test_what_each_token_was_is_kept(tmp_path: Path) -> None:
    row = sample_row(
        "1+1?", "2", parse("2 €"), [5, 6, 7, 8], truncated=False,
        logprobs=[-0.1, math.nan, -1e-9, -math.inf], token_lengths=[1, 1, 0, 1],
    )  # fmt: skip
    with open_run(tmp_path, command="rl", config={}) as run:
        run.log_samples(1, [row, sample_row("1+1?", "2", parse("3"), [5], truncated=False)])
        run.finish()
    known, other = read_samples(tmp_path).to_pylist()
    assert known["forced"] == [False, True, False, False]
    assert known["token_lengths"] == [1, 1, 0, 1]
    assert known["token_logprobs"] == [pytest.approx(-0.1, abs=LOGPROB_STEP / 2), None, 0.0, None]
    assert [other[name] for name in ("forced", "token_lengths", "token_logprobs")] == [None] * 3


def test_a_resumed_run_of_before_these_columns_is_merged(tmp_path: Path) -> None:
    new = ("token_lengths", "token_logprobs", "forced")
    row = sample_row("1+1?", "2", parse("2"), [5], truncated=False, logprobs=[-1.0], token_lengths=[1])
    with open_run(tmp_path, command="rl", config={}) as run:
        run.log_samples(1, [row])
        (path,) = tmp_path.glob("samples/*.parquet")
        pq.write_table(pq.read_table(path).drop_columns([*new]), path)
        assert [read_samples(tmp_path)[name].to_pylist() for name in new] == [[None]] * 3
        run.log_samples(2, [row])
        before = read_samples(tmp_path)
        run.finish()
    merged = read_samples(tmp_path)
    assert merged.equals(before)
    assert [merged[name].to_pylist() for name in new] == [[None, [1]], [None, [-1.0]], [None, [False]]]


def test_a_full_row_survives_with_its_types(tmp_path: Path) -> None:
    row = {
        "phase": "accuracy",
        "problem": "1+1?",
        "answer": "2",
        "text": "<Parallel>…\ud800\x00",
        "token_ids": np.array([151669, 7]),
        "length": np.int64(2),
        "truncated": np.bool_(False),
        "extracted": None,
        "verdict": "no answer",
        "faults": (Kind.CAUSAL.value, "truncated"),
        "advantage": np.float32(-0.5),
        "reward_accuracy": np.nan,
        "difficulty": 3,
        "extra": {"a": [1]},
    }
    with open_run(tmp_path, command="rl", config={}) as run:
        run.log_samples(3, [row])
    (read,) = read_samples(tmp_path).to_pylist()
    assert read == {
        **row,
        "step": 3,
        "command": "rl",
        "stage": None,
        "mode": None,
        "text": "<Parallel>…?\x00",
        "token_ids": [151669, 7],
        "token_lengths": None,
        "token_logprobs": None,
        "forced": None,
        "length": 2,
        "truncated": False,
        "faults": ["causal", "truncated"],
        "advantage": -0.5,
        "reward_accuracy": None,
        "difficulty": 3.0,
        "extra": '{"a": [1]}',
    }


def test_a_sample_row_says_what_was_asked_sampled_and_found() -> None:
    trace = parse("<Parallel><Path>one</Path></Parallel> Final Answer: 4", truncated=True)
    row = sample_row("2+2?", "4", trace, [5, 6, 7], truncated=True, mode="greedy", reward_format=-1.0)
    assert row == {
        "problem": "2+2?",
        "answer": "4",
        "text": trace.text,
        "token_ids": [5, 6, 7],
        "length": 3,
        "truncated": True,
        "faults": ["fewer_than_two_paths", "missing_summary", "truncated"],
        "mode": "greedy",
        "reward_format": -1.0,
    }


@pytest.mark.parametrize(
    ("stated", "reason", "correct"),
    [
        ("4", "identical", 1.0),
        ("5", "different", 0.0),
        (None, "no answer", 0.0),
        ("4", "unparseable gold", None),  # says nothing of the response
    ],
)
def test_a_sample_row_that_was_judged_says_so(stated: str | None, reason: str, correct: float | None) -> None:
    judged = (stated, Verdict(correct == 1, reason))
    row = sample_row("2+2?", "4", parse(f"Final Answer: {stated}"), [5], truncated=False, judged=judged)
    assert (row["extracted"], row["verdict"], row["correct"]) == (stated, reason, correct)
    assert (row["faults"], row["truncated"]) == ([], False)


def test_many_steps_keep_their_order_beyond_six_digits(tmp_path: Path) -> None:
    with open_run(tmp_path, command="rl", config={}) as run:
        for step in (1_000_000, 2, 999_999):
            run.log_samples(step, [{"text": str(step)}])
        run.finish()
    assert read_samples(tmp_path)["step"].to_pylist() == [2, 999_999, 1_000_000]


def test_a_torn_shard_is_left_out_with_a_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_run(tmp_path, command="rl", config={}) as run:
        for step in (1, 2, 3):
            run.log_samples(step, [{"text": str(step)}])
        shard = tmp_path / "samples" / "step-000002-00.parquet"
        shard.write_bytes(shard.read_bytes()[:-20])
        assert read_samples(tmp_path)["text"].to_pylist() == ["1", "3"]
        assert "step-000002-00.parquet cannot be read and is left out" in caplog.text
        run.finish()
    assert read_samples(tmp_path)["text"].to_pylist() == ["1", "3"]


def test_a_run_without_samples_reads_as_an_empty_table(tmp_path: Path) -> None:
    with open_run(tmp_path, command="eval", config={}) as run:
        run.finish()
    assert read_samples(tmp_path).num_rows == 0
    assert read_samples(tmp_path).column_names == list(SAMPLE_COLUMNS)
    assert read_metrics(tmp_path) == []


def as_before(folder: Path) -> None:
    """Make a run what it was while commands were called stages, and its modes phases."""
    for path in (folder / "environment.json", folder / "DONE"):
        if path.exists():
            record = json.loads(path.read_text())
            path.write_text(
                json.dumps({{"command": "stage"}.get(name, name): record[name] for name in record})
            )
    for path in folder.rglob("*.parquet"):
        table = pq.read_table(path)
        if "command" in table.column_names:
            for name, other in (("stage", "command"), ("phase", "mode")):
                told = pc.coalesce(table[name], table[other])
                table = table.set_column(table.column_names.index(name), name, told)
            pq.write_table(table.drop_columns(["command", "mode"]), path)


def test_a_run_of_before_command_and_mode_is_read_with_them(tmp_path: Path) -> None:
    names = ("command", "stage", "phase", "mode", "text")
    rows = {
        "rl": [
            {"text": "a", "stage": "easy", "phase": "tiered"}, {"text": "b", "stage": "hard"}, {"text": "c"},
        ],
        "eval": [{"text": "a", "mode": "greedy"}, {"text": "b", "mode": "sampled"}],
    }  # fmt: skip
    for command, of_command in rows.items():
        with open_run(tmp_path / command, command=command, config={}) as run:
            for step, row in enumerate(of_command):
                run.log_samples(step, [row])
            written = read_samples(run.folder)
            as_before(run.folder)
            assert read_samples(run.folder).select(names).equals(written.select(names))
            run.finish()
        as_before(run.folder)
        assert read_samples(run.folder).select(names).equals(written.select(names))
        summary = read_summary(run.folder)
        assert summary is not None
        assert (summary["command"], "stage" in summary) == (command, False)
        with pytest.raises(RunError, match=f"is a finished {command} run: choose another"):
            open_run(run.folder, command=command, config={})
        with pytest.raises(RunError, match=f"is a finished {command} run without an adapter"):
            adapter_dir(run.folder)


def test_a_stage_named_like_the_command_keeps_its_name_in_a_run_of_before(tmp_path: Path) -> None:
    config = {"command": "rl", "rl": {"stages": [{"name": "rl"}, {"name": "hard"}]}}
    with open_run(tmp_path, command="rl", config=config) as run:
        run.log_samples(1, [{"text": "a", "stage": "rl"}, {"text": "b", "stage": "hard"}])
    as_before(tmp_path)
    assert read_samples(tmp_path)["stage"].to_pylist() == ["rl", "hard"]


def test_a_torn_environment_still_lets_the_mode_of_before_be_known(tmp_path: Path) -> None:
    with open_run(tmp_path, command="eval", config={"command": "eval", "eval": {}}) as run:
        run.log_samples(1, [{"text": "a", "mode": "greedy"}])
    as_before(tmp_path)
    (tmp_path / "environment.json").write_text("{}")
    assert read_samples(tmp_path)["mode"].to_pylist() == ["greedy"]


def test_a_run_of_before_command_goes_on_and_is_overwritten(tmp_path: Path) -> None:
    with open_run(tmp_path, command="rl", config={}, inputs={"model": "a"}) as run:
        for step in (1, 2):
            run.log_samples(step, [{"text": str(step), "stage": "easy"}])
            make_checkpoint(tmp_path, step)
    as_before(tmp_path)
    with open_run(tmp_path, command="rl", config={}, resume=True) as run:
        run.log_samples(3, [{"text": "3", "stage": "hard"}])
        run.finish()
    told = [(row["command"], row["stage"], row["text"]) for row in read_samples(tmp_path).to_pylist()]
    assert told == [("rl", "easy", "1"), ("rl", "easy", "2"), ("rl", "hard", "3")]
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert (environment["command"], environment["inputs"]) == ("rl", {"model": "a"})
    as_before(tmp_path)
    (tmp_path / "results.json").write_text("a person's")
    with open_run(tmp_path, command="eval", config={}, overwrite=True):
        assert names(tmp_path) == ["config.yaml", "environment.json", "results.json"]


def test_reading_what_is_no_run(tmp_path: Path) -> None:
    with open_run(tmp_path / "sft", command="sft", config={}):
        pass
    (tmp_path / "empty").mkdir()
    for read in (read_metrics, read_samples, read_config, read_summary):
        with pytest.raises(
            RunError, match=r"no such folder\. Did you mean .*sft\? Name the --output_dir of a run"
        ):
            read(tmp_path / "sftt")
        with pytest.raises(RunError, match=r"is no run: it has no environment\.json"):
            read(tmp_path / "empty")
    (tmp_path / "sft" / "config.yaml").write_text("a: [")
    with pytest.raises(RunError, match=r"config.yaml: while parsing"):
        read_config(tmp_path / "sft")
    (tmp_path / "sft" / "config.yaml").write_text("- a\n")
    with pytest.raises(RunError, match=r"config.yaml: holds no settings\. Run the command again"):
        read_config(tmp_path / "sft")
    for text, held in (
        ("command: sft\nsft: {seed: 1}\n", {"seed": 1}),
        ("command: [sft]\nsft: {seed: 1}\n", {}),
        ("command: sft\nsft: 3\n", {}),
    ):
        (tmp_path / "sft" / "config.yaml").write_text(text)
        assert read_settings(tmp_path / "sft") == held
    for said, opening in (("number", "number"), ("[]", "none"), ("other", "none")):
        (tmp_path / "sft" / "config.yaml").write_text(f"command: sft\nsft: {{path_opening: {said}}}\n")
        assert read_path_opening(tmp_path / "sft") == opening


# --- the disk


def test_too_little_space_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=2**40, free=5 * 2**20))
    with pytest.raises(RunError, match="its disk has 5 MiB free and a run needs 200 MiB or more: free some"):
        open_run(tmp_path / "a" / "run", command="sft", config={})
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' /dev/full")
def test_a_really_full_disk(tmp_path: Path) -> None:
    with open_run(tmp_path, command="sft", config={}) as run:
        (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(
            RunError, match=r"no space left on the disk of .*metrics.jsonl: what was written is"
        ):
            run.log_metrics(1, {"loss": 1})


def test_a_disk_that_fills_up_loses_nothing_that_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_run(tmp_path, command="rl", config={}) as run:
        run.log_samples(1, [{"text": "one"}])
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"no space left on the disk of .*step-000002"):
            run.log_samples(2, [{"text": "two"}])
        with pytest.raises(RunError, match=r"no space left on the disk of .*samples\.parquet"):
            run.finish()
        assert read_samples(tmp_path)["text"].to_pylist() == ["one"]
        assert not list(tmp_path.rglob("*.tmp"))
        monkeypatch.undo()
        run.finish()
    assert read_summary(tmp_path) is not None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),  # safetensors
    ],
)
def test_a_full_disk_under_the_trainer_is_the_same_line(tmp_path: Path, error: Exception) -> None:
    with (
        pytest.raises(RunError, match=r"no space left on the disk of .* Free some space, then pass --resume"),
        open_run(tmp_path, command="sft", config={}),
    ):
        raise error
    with open_run(tmp_path, command="sft", config={}):
        pass


# --- what --model_name_or_path points to


def test_adapters_of_runs_folders_and_checkpoints(tmp_path: Path) -> None:
    with open_run(tmp_path / "sft", command="sft", config={}) as run:
        adapter = make_adapter(run.folder / "adapter")
        run.finish()
    assert adapter_dir(run.folder) == adapter_dir(str(adapter)) == adapter
    checkpoint = make_adapter(run.folder / "checkpoint-5")
    assert adapter_dir(checkpoint) == checkpoint
    assert base_of_adapter(adapter) == "Qwen/Qwen3-0.6B-Base"


def test_bases_have_no_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen").mkdir()  # a folder of that name does not make a Hub name a path
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "config.json").write_text("{}")
    for name in ("Qwen/Qwen3-0.6B-Base", "tiny", "local", tmp_path / "local"):
        assert adapter_dir(name) is None


def test_a_run_without_an_adapter_says_what_it_has(tmp_path: Path) -> None:
    with open_run(tmp_path / "sft", command="sft", config={}) as run:
        with pytest.raises(RunError, match="is a sft run that is not finished; it has no checkpoint yet"):
            adapter_dir(run.folder)
        for step in (50, 100):
            make_checkpoint(run.folder, step)
        make_checkpoint(run.folder, 150, whole=False)
        (run.folder / "checkpoint-best").mkdir()
        assert last_checkpoint(run.folder) == run.folder / "checkpoint-100"
        with pytest.raises(
            RunError,
            match=r"not finished; it has checkpoint-100: finish it with --resume, or pass .*checkpoint-100",
        ):
            adapter_dir(run.folder)
        (run.folder / "adapter").mkdir()
        (run.folder / "adapter" / "adapter_config.json").write_text("{}")  # its weights were not yet written
        with pytest.raises(RunError, match="not finished"):
            adapter_dir(run.folder)
    with open_run(tmp_path / "eval", command="eval", config={}) as run:
        run.finish()
    with pytest.raises(RunError, match="is a finished eval run without an adapter: name one of sft or rl"):
        adapter_dir(run.folder)


def test_an_adapter_without_weights_is_called_that(tmp_path: Path) -> None:
    with open_run(tmp_path / "sft", command="sft", config={}) as run:
        adapter = make_adapter(run.folder / "adapter")
        run.finish()
    (adapter / "adapter_model.safetensors").unlink()
    for name in (run.folder, adapter):
        with pytest.raises(RunError) as caught:
            adapter_dir(name)
        assert str(caught.value) == (
            f"{adapter} has adapter_config.json and no adapter_model.safetensors: the weights of the adapter "
            "are missing; copy them there, or train it again"
        )


@pytest.mark.parametrize(
    ("base", "place", "found"),
    [
        ("./models/base", "models/base", True),  # trained from a folder above
        ("../models/base", "models/base", True),
        ("a/models/base", "a/models/base", True),
        ("/gone/base", "runs/sft/base", True),  # travelled with the run
        ("/gone/base", "runs/sft/adapter/base", True),
        ("/gone/base", "runs/base", True),
        ("/gone/base", "elsewhere/base", False),
        ("owner/base", "owner/base", False),  # that is a Hub name
        ("tiny", "tiny", False),
    ],
)
def test_a_base_that_moved_is_found_near_its_adapter(
    tmp_path: Path, base: str, place: str, found: bool, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = make_adapter(tmp_path / "runs" / "sft" / "adapter", base)
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "config.json").write_text("{}")
    if found:
        assert Path(base_of_adapter(adapter)).resolve() == tmp_path / place
        assert f"names the base {base!r}, which is not there; " in caplog.text
    elif not base.startswith("/"):
        assert base_of_adapter(adapter) == base
    else:
        with pytest.raises(RunError) as caught:
            base_of_adapter(adapter)
        assert str(caught.value) == (
            f"{adapter / 'adapter_config.json'} names the base '/gone/base': there is no such folder, nor "
            "base beside the adapter or its run. Write where it is as base_model_name_or_path"
        )


def test_wrong_model_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_run(tmp_path / "runs" / "sft", command="sft", config={}):
        pass
    (tmp_path / "runs" / "notes.txt").write_text("")
    (tmp_path / "data").mkdir()
    for name, message in [
        ("runs/sfft", r"runs/sfft: no such folder\. Did you mean runs.sft\?"),
        ("runs/other-thing", r"no such folder\. There are: sft\."),
        ("./sft", "no such folder"),
        ("a/b/c", "no such folder"),
        (str(tmp_path / "gone"), "no such folder"),
        ("runs/notes.txt", "is a file"),
        ("data", r"is no run \(environment\.json\), adapter .* it holds nothing\. Point"),
    ]:
        with pytest.raises(RunError, match=message):
            adapter_dir(name)


@pytest.mark.parametrize("look", [adapter_dir, read_config])
@pytest.mark.parametrize("name", ["is_dir", "exists"])
def test_a_folder_that_may_not_be_searched_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Any, name: str
) -> None:
    """Whether the folder or one above it is closed; root, whom every folder is open to, may run the tests."""

    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(RunError) as caught:
        look(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} cannot be read: Permission denied. Let it and the folders above it be searched, or name "
        "another"
    )


@pytest.mark.parametrize(
    "content", ["", "{}", '{"base_model_name_or_path": ""}', '{"base_model_name_or_path": 3}']
)
def test_an_adapter_that_names_no_base(tmp_path: Path, content: str) -> None:
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(
        RunError, match="has no base_model_name_or_path: write it in, or train the adapter again"
    ):
        base_of_adapter(tmp_path)


def test_importing_runs_imports_nothing_heavy() -> None:
    program = "import sys, prl.runs; print(sorted({'torch', 'pyarrow', 'numpy', 'pandas'} & {*sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"

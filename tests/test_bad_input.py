"""What a user gets wrong, through the real command line: one line, the right exit status, nothing lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from prl import cli, runs, sft
from prl.data.problems import generate

TRAIN = ["--recipe", "tiny", "--threads", "1", "--max_steps", "1", "--warmup_steps", "0"]


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def prl(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Run a command in an empty folder; exit status and what stood on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        status = cli.main(list(words))
        return status, capsys.readouterr().err.strip()

    return run


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["sft", "--dataset", "no.jsonl"], 1, "no.jsonl"),
        (["sft", "--dataset", "x.txt"], 1, "x.txt"),
        (["sft", "--learning_rat", "1"], 2, "nearest: learning_rate"),
        (["sft", "--max_steps", "many"], 2, "many"),
        (["rl", "--rewards", "acuracy"], 2, "accuracy"),
        (["eval", "--recipe", "timy"], 2, "nearest: tiny"),
        (["rl", "--model", "runs/none"], 1, "runs/none"),
        (["eval", "--model", "./nowhere"], 1, "./nowhere"),
        (["merge", "--model", "tiny", "--output_dir", "out"], 1, "'tiny' is not an adapter"),
        (["rl", "--limit", "3"], 1, "gives 3 problems, one generation takes 32"),
        (["evl"], 2, "nearest: eval"),
        (["compare", "a", "b"], 1, "a holds neither a finished demo (demo.json) nor"),
        (["compare"], 2, "--runs is missing"),
        (["sft", "--attention", "structural"], 2, "nearest: structured"),
    ],
)
def test_one_line_names_the_value_and_the_next_step(prl, words: list[str], status: int, said: str) -> None:
    if words[0] in ("sft", "rl") and "--max_steps" not in words:
        words = [words[0], *TRAIN, *words[1:]]
    elif words[0] == "eval" and "--recipe" not in words:
        words = [*words, "--recipe", "tiny", "--threads", "1", "--limit", "2"]
    got, stderr = prl(*words)
    assert (got, said in stderr) == (status, True), stderr
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith("prl")
    assert not Path("runs/default/sft/adapter").exists()


def test_an_unknown_hub_model_is_named_with_what_may_stand_there(prl) -> None:
    status, stderr = prl(
        "eval", "--recipe", "tiny", "--model", "nobody/nothing-0b", "--limit", "2", "--threads", "1"
    )
    assert status == 1
    assert "nobody/nothing-0b" in stderr
    assert "Give a Hub name such as" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no rows"),
        ([{"question": "1+1", "response": ""}], "line 1"),
        ([{"problem": "1 + 1", "answer": "2"}], "trace"),
        ([{"text": "1 + 1"}], "problem"),
    ],
)
def test_a_data_set_that_cannot_teach_is_refused(prl, tmp_path: Path, rows: list[dict], said: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", rows)
    status, stderr = prl("sft", *TRAIN, "--dataset", path)
    assert status == 1
    assert said in stderr, stderr
    assert "rows.jsonl" in stderr


def test_every_bad_recipe_key_is_named_at_once(prl, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model_name_or_path: tiny\nlora_rank: 8\nrl:\n  num_generation: 8\n  rewards: [luck]\n")
    status, stderr = prl("rl", "--recipe", str(recipe))
    assert status == 2
    assert "lora_rank" in stderr
    assert "nearest: num_generations" in stderr
    assert "luck" in stderr


def test_a_folder_that_another_run_owns_is_left_alone(prl, tmp_path: Path) -> None:
    held = "import sys; from prl import runs; r = runs.open_run(sys.argv[1], command='sft', config={}); " \
        "print('open', flush=True); sys.stdin.read()"  # fmt: skip
    owner = subprocess.Popen(
        [sys.executable, "-c", held, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "open\n"
    status, stderr = prl("sft", *TRAIN, "--limit", "64", "--output_dir", str(tmp_path / "run"))
    owner.communicate("")
    assert status == 1
    assert f"{owner.pid}" in stderr
    assert "choose another --output_dir" in stderr


def test_a_full_disk_keeps_what_was_written(prl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(sft, "save_adapter", full)
    flags = [
        "--limit",
        "64",
        "--sample_count",
        "0",
        "--output_dir",
        str(tmp_path / "run"),
        "--logging_steps",
        "1",
    ]
    status, stderr = prl("sft", *TRAIN, *flags)
    assert status == 1
    assert "no space left on the disk" in stderr.splitlines()[-1]
    assert [line["step"] for line in runs.read_metrics(tmp_path / "run") if "loss" in line] == [1]
    assert not (tmp_path / "run" / "DONE").exists()
    with FileLock(tmp_path / "run" / ".lock", timeout=0):
        pass  # free


def test_bad_rows_can_be_skipped_when_asked(prl, tmp_path: Path) -> None:
    rows = generate("coldstart", 40)
    rows[3]["trace"] = None
    path = write_rows(tmp_path / "rows.jsonl", rows)
    flags = ["--dataset", path, "--sample_count", "0", "--output_dir", str(tmp_path / "run")]
    status, stderr = prl("sft", *TRAIN, *flags)
    assert status == 1
    assert "line 4" in stderr
    assert cli.main(["sft", *TRAIN, *flags, "--on_bad_rows", "skip"]) == 0

"""A run that goes on from a checkpoint is the one that was left."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prl import rl, runs, sft
from prl.config import resolve
from prl.data import problems
from prl.errors import UsageError
from prl.runs.checkpoints import checkpoints
from prl.settings import arguments
from prl.settings.trainer_flags import trainer_defaults
from prl.trainer import resuming
from prl.trainer.signals import StopOnSignal
from prl.trainer.timing import PARTS

SFT = {
    "limit": 24, "per_device_train_batch_size": 4, "max_steps": 3, "sample_count": 4, "eval_limit": 4,
    "eval_steps": 1, "save_steps": 1, "save_total_limit": 5, "logging_steps": 1, "warmup_steps": 0,
}  # fmt: skip
RL = {
    "limit": 24, "dataset": "arithmetic:easy", "per_device_train_batch_size": 8, "max_steps": 4,
    "gradient_accumulation_steps": 1, "num_generations": 8, "max_completion_length": 48, "save_steps": 2,
    "rewards": ["accuracy"], "learning_rate": 1e-2,
}  # fmt: skip

TIMES = ("time", "step_time", "eval_runtime", "train_runtime", "memory/peak", *(f"time/{p}" for p in PARTS))


def run(stage: str, folder: Path, *, resume: bool = False, **given: Any) -> None:
    base = SFT if stage == "sft" else RL
    settings = resolve(
        stage, recipe="tiny", threads=1, output_dir=str(folder), resume=resume, **(base | given)
    )
    (sft if stage == "sft" else rl).run(settings)


def cut(folder: Path, step: int) -> Path:
    """What a kill after `step` leaves, as a copy."""
    copy = folder.with_name(f"{folder.name}-{step}")
    shutil.copytree(folder, copy)
    (copy / "DONE").unlink()
    shutil.rmtree(copy / "adapter")
    for checkpoint in checkpoints(copy):
        if int(checkpoint.name.rpartition("-")[2]) > step:
            shutil.rmtree(checkpoint)
    return copy


def adapter(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if key not in TIMES and "per_second" not in key}
        for line in runs.read_metrics(folder)
    ]


def reported(folder: Path) -> float:
    """The held-out loss in DONE."""
    return (runs.read_summary(folder) or {})["eval_loss"]


def test_the_best_checkpoint_is_what_is_kept_also_by_a_run_that_was_killed(tmp_path: Path) -> None:
    """By the highest loss, so that the best is the first: at the end, and where only the end was missing."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    given = best | {"eval_on_start": True}
    run("sft", tmp_path / "run", **given)
    expected = adapter(tmp_path / "run" / "adapter")
    assert (
        expected == adapter(tmp_path / "run" / "checkpoint-1") != adapter(tmp_path / "run" / "checkpoint-3")
    )
    (kept,) = [line for line in metrics(tmp_path / "run") if line["step"] == 1 and "eval_loss" in line]
    (last,) = [line for line in metrics(tmp_path / "run") if line["step"] == 3 and "eval_loss" in line]
    assert reported(tmp_path / "run") == kept["eval_loss"] != last["eval_loss"]
    for step in (2, 3):
        resumed = cut(tmp_path / "run", step)
        run("sft", resumed, resume=True, **given)
        assert reported(resumed) == kept["eval_loss"]
        assert adapter(resumed / "adapter") == expected
        assert metrics(resumed) == metrics(tmp_path / "run"), "the evaluation at the start is not repeated"


def test_what_was_best_between_two_checkpoints_is_not_what_is_kept(tmp_path: Path) -> None:
    """Best by the highest loss, at step 1, and saved at step 3 alone (transformers 5.23)."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    run("sft", tmp_path, save_steps=3, **best)
    assert state_of(tmp_path / "checkpoint-3")["best_global_step"] == 1
    assert adapter(tmp_path / "adapter") == adapter(tmp_path / "checkpoint-3")
    (last,) = [line for line in metrics(tmp_path) if line["step"] == 3 and "eval_loss" in line]
    assert reported(tmp_path) == last["eval_loss"]


def test_what_was_best_by_another_measure_is_forgotten(tmp_path: Path) -> None:
    """A loss of 3 is no share of valid responses that none could ever beat."""
    by_loss = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    run("sft", tmp_path / "run", max_steps=2, **by_loss)
    assert state_of(tmp_path / "run" / "checkpoint-2")["best_metric"] > 1
    by_format = by_loss | {"metric_for_best_model": "format_valid"}
    ended = cut(tmp_path / "run", 2)
    for folder, steps in ((ended, 2), (cut(tmp_path / "run", 1), 3)):
        run("sft", folder, resume=True, max_steps=steps, **by_format)
    assert adapter(ended / "adapter") == adapter(ended / "checkpoint-2"), "nothing was measured anew"
    state = state_of(tmp_path / "run-1" / "checkpoint-3")
    assert 0 <= state["best_metric"] <= 1
    assert state["best_global_step"] > 1


def state_of(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "trainer_state.json").read_text())


def test_a_run_whose_end_was_missing_goes_on_for_more_epochs(tmp_path: Path) -> None:
    run("sft", tmp_path / "run", max_steps=-1, num_train_epochs=1, limit=9, save_steps=2, eval_steps=9)
    again = cut(tmp_path / "run", 2)
    run("sft", again, resume=True, max_steps=-1, num_train_epochs=2, limit=9, save_steps=2, eval_steps=9)
    assert [line["step"] for line in metrics(again) if "loss" in line] == [1, 2, 3, 4]


def test_a_best_checkpoint_may_be_told_by_its_samples(tmp_path: Path) -> None:
    run("sft", tmp_path, max_steps=1, save_strategy="best", metric_for_best_model="format_valid")
    (line,) = [line for line in runs.read_metrics(tmp_path) if "eval_format_valid" in line]
    assert line["step"] == 1
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-1"]


def test_responses_that_serve_two_steps_are_not_lost(tmp_path: Path) -> None:
    run("rl", tmp_path / "run", num_iterations=2)
    resumed = cut(tmp_path / "run", 2)
    run("rl", resumed, resume=True, num_iterations=2)
    assert any(line.get("grad_norm") for line in metrics(resumed)), "it learned"
    assert metrics(resumed) == metrics(tmp_path / "run")
    assert adapter(resumed / "adapter") == adapter(tmp_path / "run" / "adapter")


def test_problems_come_in_the_order_that_they_would_have_after_an_epoch_too(tmp_path: Path) -> None:
    """Four problems, one a step: the second epoch has another order than the first."""
    given = {"limit": 4, "max_steps": 7, "save_steps": 1, "save_total_limit": 9, "max_completion_length": 8}

    def asked(folder: Path) -> list[str]:
        by_step = {row["step"]: row["problem"] for row in runs.read_samples(folder).to_pylist()}
        return [by_step[step] for step in sorted(by_step)]

    run("rl", tmp_path / "run", **given)
    whole = asked(tmp_path / "run")
    assert whole[4:] != whole[:3]
    resumed = cut(tmp_path / "run", 5)
    run("rl", resumed, resume=True, **given)
    assert asked(resumed) == whole[5:], "what the rest of the run samples"


@pytest.mark.parametrize(("every", "stops"), [(1, [3, 4, 5, 6]), (2, [4, 6]), (3, [3, 6])])
def test_a_stop_waits_for_the_end_of_a_generation(every: int, stops: list[int]) -> None:
    stop = StopOnSignal(every=every)
    stop.stopped = True
    found = []
    for step in (3, 4, 5, 6):
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        stop.on_step_end(SimpleNamespace(save_strategy="steps"), SimpleNamespace(global_step=step), control)
        if control.should_save and control.should_training_stop:
            found.append(step)
    assert found == stops


# --- other settings

BEGUN: dict[str, dict[str, Any]] = {
    "sft": {"dataset": "sums.jsonl", "limit": 100, "eval_limit": 10},
    "rl": {"dataset": "sums.jsonl", "limit": 100, "per_device_train_batch_size": 8, "num_generations": 8,
           "gradient_accumulation_steps": 4, "eval_dataset": "held.jsonl", "eval_strategy": "steps",
           "eval_steps": 5},
}  # fmt: skip
INPUTS = {"dataset": "d1", "eval_dataset": "e1", "model": "m1"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "checkpoint-4"
    folder.mkdir(parents=True)
    (folder / "optimizer.pt").touch()
    return folder


def compared(
    command: str, checkpoint: Path, given: dict[str, Any], inputs: dict[str, str], stored: dict[str, str]
) -> dict[str, str]:
    begun = resolve(command, recipe="tiny", threads=1, **BEGUN[command]).as_dict()
    settings = resolve(command, recipe="tiny", threads=1, **(BEGUN[command] | given))
    return resuming.compare(settings, inputs, begun, stored, checkpoint)


@pytest.mark.parametrize("command", BEGUN)
def test_the_same_settings_are_the_same_run(command: str, checkpoint: Path) -> None:
    assert compared(command, checkpoint, {}, INPUTS, INPUTS) == {}
    assert compared(command, checkpoint, {}, INPUTS, {}) == {}, "an older run has no fingerprints"


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("sft", {"output_dir": "elsewhere", "logging_steps": 5, "save_steps": 7}),
        ("sft", {"save_total_limit": 9, "save_strategy": "epoch", "rehearse": "on", "dataset_num_proc": 2}),
        ("sft", {"run_name": "x", "log_level": "info", "dataloader_num_workers": 1}),
        ("sft", {"activation_checkpointing": True, "use_cache": True, "eval_on_start": True}),
        ("sft", {"dataset": "moved.jsonl", "limit": 5000, "dataset_split": "test"}),
        ("sft", {"model_name_or_path": "moved/run", "eval_limit": 11, "on_bad_rows": "skip"}),
        ("rl", {"rollout_batch_size": 4, "eval_dataset": "moved.jsonl", "log_completions": True}),
    ],
)
def test_what_changes_nothing_is_not_even_said(
    command: str, given: dict[str, Any], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prl.model.attention_of", lambda name: None)
    assert compared(command, checkpoint, given, INPUTS, INPUTS) == {}


@pytest.mark.parametrize(
    ("command", "given", "told"),
    [
        (
            "rl",
            {"max_steps": 50},
            {"max_steps": "24, now 50; what follows the length does too, such as the learning rate"},
        ),
        (
            "sft",
            {"max_steps": -1, "num_train_epochs": 2},
            {
                "max_steps": "300, now -1; what follows the length does too, such as the learning rate",
                "num_train_epochs": "3.0, now 2.0; what follows the length does too, such as the learning "
                "rate",
            },
        ),
        ("sft", {"eval_steps": 20}, {"eval_steps": "100.0, now 20.0, from checkpoint-4 on"}),
        ("sft", {"sample_count": 8}, {"sample_count": "32, now 8, from checkpoint-4 on"}),
        (
            "sft",
            {"dtype": "bfloat16"},
            {
                "bf16": "False, now True, from checkpoint-4 on, and not to the bit",
                "dtype": "float32, now bfloat16, from checkpoint-4 on, and not to the bit",
            },
        ),
        (
            "rl",
            {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 2},
            {
                "gradient_accumulation_steps": "4, now 2, with as many rows in a step, but not to the bit",
                "per_device_train_batch_size": "8, now 16, with as many rows in a step, but not to the bit",
            },
        ),
    ],
)
def test_what_says_how_long_how_measured_and_where_computed_is_told(
    command: str, given: dict[str, Any], told: dict[str, str], checkpoint: Path
) -> None:
    assert compared(command, checkpoint, given, INPUTS, INPUTS) == told


@pytest.mark.parametrize(
    ("command", "given", "changed"),
    [
        ("sft", {"learning_rate": 1e-3}, "learning_rate 0.005, now 0.001"),
        ("sft", {"tag_learning_rate": 1e-3}, "tag_learning_rate 0.05, now 0.001"),
        ("sft", {"lora_alpha": 32}, "lora_alpha 64, now 32"),
        ("sft", {"lora_r": 8, "lora_dropout": 0.1}, "lora_dropout 0.0, now 0.1; lora_r 64, now 8"),
        ("sft", {"lora_target_modules": ["q_proj"]}, 'lora_target_modules ["all-linear"], now ["q_proj"]'),
        ("sft", {"seed": 7}, "seed 42, now 7"),
        ("sft", {"attention": "structured"}, "attention causal, now structured"),
        ("sft", {"max_length": 100}, "max_length 320, now 100"),
        ("sft", {"optim": "sgd"}, "optim adamw_torch_fused, now sgd"),
        ("sft", {"max_grad_norm": 0.1}, "max_grad_norm 1.0, now 0.1"),
        ("sft", {"warmup_steps": 5}, "warmup_steps 0.1, now 5.0"),
        ("sft", {"max_steps": 3}, "max_steps 3, and 4 are done"),
        ("sft", {"per_device_train_batch_size": 4}, "per_device_train_batch_size 32, now 4"),
        ("rl", {"temperature": 0.7}, "temperature 1.0, now 0.7"),
        ("rl", {"beta": 0.1}, "beta 0.0, now 0.1"),
        ("rl", {"rewards": ["accuracy"]}, 'rewards ["parallel", "format"], now ["accuracy"]'),
        ("rl", {"max_completion_length": 64}, "max_completion_length 256, now 64"),
        ("rl", {"num_generations": 4}, "num_generations 8, now 4"),
        (
            "rl",
            {"gradient_accumulation_steps": 8},
            "gradient_accumulation_steps 4, now 8",
        ),
        (
            "rl",
            {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 2, "steps_per_generation": 4},
            "gradient_accumulation_steps 4, now 2; per_device_train_batch_size 8, now 16; "
            "steps_per_generation none, now 4",
        ),
        ("rl", {"sampling": "adaptive", "max_steps": 50}, "sampling uniform, now adaptive"),
    ],
)
def test_what_decides_what_is_learnt_stays(
    command: str, given: dict[str, Any], changed: str, checkpoint: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        compared(command, checkpoint, given, INPUTS, INPUTS)
    run = checkpoint.parent
    assert str(caught.value) == (
        f"{run} was begun otherwise ({changed}): `prl {command} --recipe {run / 'config.yaml'} --resume` "
        f"goes on as it began, and --model_name_or_path {checkpoint} with another --output_dir begins "
        "another from there"
    )


@pytest.mark.parametrize(
    ("other", "given", "changed"),
    [
        ("dataset", {}, "dataset is another (sums.jsonl was written anew)"),
        (
            "dataset",
            {"dataset": "b.jsonl", "limit": 5},
            "dataset is another (dataset sums.jsonl, now b.jsonl, limit 100, now 5)",
        ),
        ("model", {}, "model is another (tiny was written anew)"),
        ("dataset", {"eval_limit": 2}, "dataset is another (eval_limit 10, now 2)"),
        (
            "dataset",
            {"eval_dataset": "held.jsonl", "eval_limit": 2},
            "dataset is another (eval_dataset none, now held.jsonl, eval_limit 10, now 2)",
        ),
        ("dataset", {"seed": 7}, "seed 42, now 7; dataset is another (seed 42, now 7)"),
    ],
)
def test_data_and_model_are_compared_by_what_they_hold(
    other: str, given: dict[str, Any], changed: str, checkpoint: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        compared("sft", checkpoint, given, INPUTS | {other: "x"}, INPUTS)
    assert f" was begun otherwise ({changed}): " in str(caught.value)


def test_fewer_epochs_than_are_done_are_refused(checkpoint: Path) -> None:
    (checkpoint / "trainer_state.json").write_text('{"epoch": 1.25}')
    begun = resolve("sft", recipe="tiny", threads=1, max_steps=-1, num_train_epochs=1.2).as_dict()

    def compare(**given: Any) -> dict[str, str]:
        settings = resolve("sft", recipe="tiny", threads=1, **given)
        return resuming.compare(settings, INPUTS, begun, INPUTS, checkpoint)

    assert compare(max_steps=-1, num_train_epochs=1.2) == {}, "the last step of a share may be beyond it"
    assert compare(max_steps=-1, num_train_epochs=1.5)["num_train_epochs"].startswith("1.2, now 1.5; what")
    with pytest.raises(UsageError, match=r"\(num_train_epochs 1, and 1.25 are done\): "):
        compare(max_steps=-1, num_train_epochs=1)
    assert "num_train_epochs" in compare(max_steps=9, num_train_epochs=1), "steps decide"


def test_what_does_not_decide_the_rows_is_not_blamed(checkpoint: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"eval_limit": 2}, "sums.jsonl was written anew"),
        ({"easy_dataset": "easy.jsonl"}, "easy_dataset arithmetic:easy, now easy.jsonl"),
        ({"stages": ['{"name": "a", "limit": 5}']}, 'stages none, now [{"name": "a"'),
    ]
    for given, why in cases:
        with pytest.raises(UsageError, match=re.escape(f"dataset is another ({why}")):
            compared("rl", checkpoint, given, INPUTS | {"dataset": "x"}, INPUTS)


def test_of_a_run_without_fingerprints_the_names_count(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match=r"\(dataset sums.jsonl, now b.jsonl; limit 100, now 5\)"):
        compared("sft", checkpoint, {"dataset": "b.jsonl", "limit": 5}, INPUTS, {})


def test_other_rows_to_evaluate_on_are_told(checkpoint: Path) -> None:
    told = compared("rl", checkpoint, {}, INPUTS | {"eval_dataset": "x"}, INPUTS)
    assert told == {"eval_dataset": "is another (held.jsonl was written anew), from checkpoint-4 on"}


def test_a_checkpoint_of_weights_alone_is_refused(checkpoint: Path) -> None:
    (checkpoint / "optimizer.pt").unlink()
    with pytest.raises(UsageError) as caught:
        compared("sft", checkpoint, {}, INPUTS, INPUTS)
    assert str(caught.value) == (
        f"{checkpoint} holds weights alone (--save_only_model), so its run cannot be resumed: start one from "
        f"it, with --model_name_or_path {checkpoint} and another --output_dir"
    )


def test_what_a_newer_prl_does_not_know_any_more_or_an_older_did_not_know_yet_says_nothing(
    checkpoint: Path,
) -> None:
    settings = resolve("sft", recipe="tiny", threads=1)
    stored = settings.as_dict()
    stored["sft"] |= {"gone": 1}
    del stored["sft"]["paths"]
    assert resuming.compare(settings, INPUTS, stored, INPUTS, checkpoint) == {}


def test_an_older_rl_run_that_says_nothing_of_dropout_goes_on(checkpoint: Path) -> None:
    settings = resolve("rl", recipe="tiny", threads=1, output_dir=str(checkpoint.parent))
    stored = settings.as_dict()
    assert stored["rl"].pop("disable_dropout") is True
    assert resuming.compare(settings, INPUTS, stored, INPUTS, checkpoint) == {}


def test_an_older_run_goes_on_with_what_was_done_before_there_was_a_setting(tmp_path: Path) -> None:
    def resumed(stored: str, **given: Any) -> Any:
        (tmp_path / "config.yaml").write_text(f"command: sft\n{stored}\n")
        asked = {"recipe": "tiny", "threads": 1, "output_dir": str(tmp_path), "resume": True}
        return resuming.as_begun(resolve("sft", **asked | given))

    (tmp_path / "environment.json").write_text("{}")
    begun = resumed("sft: {seed: 1}")
    assert begun.arguments.wrong_paths == "learned"
    assert begun.chosen["wrong_paths"] == "learned: the run was begun so"
    for settings in (
        resumed("sft: {seed: 1, wrong_paths: recorded}"),
        resumed("sft: {seed: 1}", resume=False),
        resumed("rl: {seed: 1}"),
        resumed("sft: ["),
    ):
        assert (settings.arguments.wrong_paths, "wrong_paths" in settings.chosen) == ("recorded", False)
    assert resumed("sft: {seed: 1}", wrong_paths="judged").arguments.wrong_paths == "judged", (
        "is refused then"
    )


def test_an_older_rl_run_learned_its_wrong_paths(checkpoint: Path) -> None:
    settings = resolve("rl", recipe="tiny", threads=1, wrong_paths="judged")
    stored = settings.as_dict()
    del stored["rl"]["wrong_paths"]
    with pytest.raises(UsageError, match="wrong_paths learned, now judged"):
        resuming.compare(settings, INPUTS, stored, INPUTS, checkpoint)


def test_an_older_run_on_an_adapter_may_say_another_shape(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = resolve("sft", recipe="tiny", threads=1, lora_r=8)
    stored = resolve("sft", recipe="tiny", threads=1, lora_r=16).as_dict()
    with pytest.raises(UsageError, match="lora_r 16, now 8"):
        resuming.compare(settings, INPUTS, stored, {}, checkpoint)
    monkeypatch.setattr(runs, "adapter_dir", lambda name: Path(name))
    assert resuming.compare(settings, INPUTS, stored, {}, checkpoint) == {}
    with pytest.raises(UsageError, match="lora_r 16, now 8"):
        resuming.compare(settings, INPUTS, stored, INPUTS, checkpoint)


def test_a_run_on_an_adapter_may_have_begun_with_layers_that_did_nothing(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = resolve("sft", recipe="tiny", threads=1, lora_target_modules=["k_proj", "q_proj"])
    stored = resolve("sft", recipe="tiny", threads=1).as_dict()
    monkeypatch.setattr(runs, "adapter_dir", lambda name: Path(name))
    for inputs in ({}, INPUTS):
        assert resuming.compare(settings, INPUTS, stored, inputs, checkpoint) == {}


def test_every_setting_that_may_change_is_one() -> None:
    known = {
        item.name
        for cls in (arguments.SFTArguments, arguments.RLArguments)
        for item in dataclasses.fields(cls)
    }
    for command in ("sft", "rl"):
        known |= trainer_defaults(command).keys()
    assert resuming.KIND.keys() | resuming.BEFORE["sft"].keys() | resuming.BEFORE["rl"].keys() <= known
    assert len(resuming.KIND) == sum(len(names.split()) for names in resuming.KINDS.values())


def test_rows_are_told_apart_by_all_but_how_they_are_rendered() -> None:
    row = {"problem": "Compute 3 + 4.", "answer": "7", "level": 1, "prompt": "<|im_start|>user"}
    rows = [row, row | {"problem": "Compute 4 + 4.", "answer": "8"}]
    known = resuming.of_rows(rows)
    assert resuming.of_rows([each | {"prompt": "rendered otherwise"} for each in rows]) == known
    for other in (
        [row | {"answer": "8"}, rows[1]],
        [row | {"problem": "Compute 3 + 5."}, rows[1]],
        [row | {"level": 2}, rows[1]],
        rows[::-1],
        rows[:1],
        [*rows, row],
    ):
        assert resuming.of_rows(other) != known


def test_models_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    assert resuming.of_model("Qwen/Qwen3-0.6B-Base") == "Qwen/Qwen3-0.6B-Base", "a name of the Hub is all"
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"12")
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "tiny"}')
    (adapter / "adapter_model.safetensors").write_bytes(b"12")

    def changed(folder: Path, file: str, content: bytes) -> bool:
        before = resuming.of_model(str(folder))
        (folder / file).write_bytes(content)
        return resuming.of_model(str(folder)) != before

    assert changed(base, "config.json", b'{"hidden_size": 8}')
    assert changed(base, "model.safetensors", b"123"), "its size"
    assert changed(base, "model.safetensors", b"124"), "what it begins and ends with; gigabytes are not read"
    assert changed(base, "model-2.safetensors", b"1")
    assert not changed(base, "README.md", b"of no weight")
    assert changed(adapter, "adapter_model.safetensors", b"13"), "to the byte"
    copied = tmp_path / "copied"
    shutil.copytree(adapter, copied)
    assert resuming.of_model(str(copied)) == resuming.of_model(str(adapter)), "wherever it lies"


def test_a_refused_resumption_leaves_the_run_as_it_was_and_its_settings_take_it_on(tmp_path: Path) -> None:
    data = tmp_path / "sums.jsonl"
    rows = problems.generate("coldstart", 24)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder, given = tmp_path / "run", {"dataset": str(data), "eval_strategy": "no", "sample_count": 0}
    run("sft", folder, max_steps=2, **given)
    begun = cut(folder, 1)
    before = {path: path.read_bytes() for path in sorted(begun.rglob("*")) if path.is_file()}

    moved = data.rename(tmp_path / "moved.jsonl")
    for other in ({"lora_alpha": 8}, {"limit": 20}, {"seed": 3}):
        with pytest.raises(UsageError, match="was begun otherwise"):
            run("sft", begun, resume=True, max_steps=2, **(given | {"dataset": str(moved)} | other))
    assert {path: path.read_bytes() for path in sorted(begun.rglob("*")) if path.is_file()} == before

    by_flags = tmp_path / "by-flags"
    shutil.copytree(begun, by_flags)
    run("sft", by_flags, resume=True, max_steps=3, **(given | {"dataset": str(moved)}))
    environment = json.loads((by_flags / "environment.json").read_text())
    length = "2, now 3; what follows the length does too, such as the learning rate"
    assert environment["changed"] == [{"checkpoint-1": {"max_steps": length}}]
    config = runs.read_config(by_flags)
    assert (config["recipe"], config["sft"]["max_steps"], config["sft"]["dataset"]) == ("tiny", 3, str(moved))

    moved.rename(data)
    settings = resolve("sft", recipe=str(begun / "config.yaml"), resume=True, output_dir=str(begun))
    sft.run(settings)
    assert adapter(begun / "adapter") == adapter(folder / "adapter")
    assert runs.read_config(begun)["recipe"] == "tiny", "what the next stage follows"

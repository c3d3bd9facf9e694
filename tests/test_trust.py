"""A folder that someone else made is data: none of its code runs, and no file that it names is taken for
settings.

The base below has an `auto_map`: whoever loads it with `trust_remote_code` runs a file that leaves a mark.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from prl import cli, doctor, sft, tiny
from prl.config import parse, parse_doctor, resolve
from prl.errors import ModelError, RunError, UsageError
from prl.machine.hardware import Machine
from prl.model import Lora, check_loadable, load_model, merge_and_verify, save_adapter
from prl.runs.checkpoints import checkpoints, seal

REFUSAL = "a file cannot say whose code to run; take it out, and pass --trust_remote_code yourself"


class Mark:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def with_code(folder: Path, model_type: str = "qwen3") -> Path:
    """The tiny model, bringing code for its configuration, its model and its tokenizer."""
    shutil.copytree(tiny.BASE, folder)
    for name, said in (
        ("config.json", {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}),
        ("tokenizer_config.json", {"AutoTokenizer": [None, "code.Tokenizer"]}),
    ):
        config = json.loads((folder / name).read_text())
        config |= {"auto_map": said} | ({"model_type": model_type} if name == "config.json" else {})
        (folder / name).write_text(json.dumps(config))
    (folder / "code.py").write_text(
        f"from pathlib import Path\nPath({str(folder / 'RAN')!r}).touch()\n"
        "from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM\n"
        "class Tokenizer(PreTrainedTokenizerFast): ...\n"
        "class Config(Qwen3Config): ...\n"
        "class Model(Qwen3ForCausalLM): config_class = Config\n"
    )
    return folder


def adapter_on(base: Path, folder: Path) -> Path:
    """An adapter of ours that says it was trained on `base`, and brings the tokenizer's code too."""
    model, tokenizer = load_model(tiny.NAME, lora=Lora(r=2))
    save_adapter(model, tokenizer, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base)}))
    said = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(said | {"auto_map": {"AutoTokenizer": [None, "code.Tokenizer"]}})
    )
    shutil.copy(base / "code.py", folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapter_on(
        with_code(tmp_path_factory.mktemp("base") / "base"), tmp_path_factory.mktemp("run") / "adapter"
    )


def ran(adapter: Path) -> bool:
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    return (Path(base) / "RAN").exists()


# --- Code that comes with a model


def test_it_runs_where_a_caller_trusts_it(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the mark is one: the other tests look for it."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
    mine = adapter_on(with_code(tmp_path / "base"), tmp_path / "adapter")
    load_model(str(mine), trust_remote_code=True)
    assert ran(mine)


@pytest.mark.parametrize("part", ["adapter", "base"])
def test_loading_does_not_run_it(adapter: Path, part: str) -> None:
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    load_model(str(adapter) if part == "adapter" else base)
    assert not ran(adapter)


@pytest.mark.parametrize("command", ["eval", "generate"])
def test_no_command_runs_it(
    adapter: Path, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--recipe", "tiny", "--threads", "1", "--max_completion_length", "4", "--model", str(adapter)]
    if command == "eval":
        words += ["--limit", "1", "--samples", "1", "--no_greedy", "--output_dir", str(tmp_path / "out")]
    else:
        words += ["--problem", "Compute 1 + 1."]
    assert cli.main([command, *words]) == 0, capsys.readouterr().err
    assert not ran(adapter)


def test_neither_merging_nor_the_doctor_runs_it(adapter: Path, tmp_path: Path) -> None:
    merge_and_verify(
        str(adapter), tmp_path / "merged", prompts=["Compute 1 + 1."], samples=1, max_completion_length=4
    )
    settings, flags = parse_doctor(["--model", str(adapter)])
    assert len(doctor.examine(settings.arguments, flags, Machine("cpu", "CPU"))) == 3
    assert not ran(adapter)


def test_a_model_that_needs_its_code_is_refused_with_the_flag(tmp_path: Path) -> None:
    base = with_code(tmp_path / "base", model_type="of_its_own")
    adapter = adapter_on(base, tmp_path / "adapter")
    for name in (base, adapter):
        with pytest.raises(ModelError, match="which is not run unasked: pass --trust_remote_code if you"):
            load_model(str(name))
    with pytest.raises(ModelError, match="not run unasked"):
        merge_and_verify(str(adapter), tmp_path / "merged")
    assert not ran(adapter)


# --- Settings in a folder


def a_run(folder: Path, recipe: str, *, environment: bool = True, **settings: Any) -> str:
    folder.mkdir(parents=True)
    record = {"command": "sft", "recipe": recipe, "sft": settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(record))
    if environment:
        (folder / "environment.json").write_text('{"stage": "sft"}')
    return str(folder)


@pytest.mark.parametrize("part", ["", "adapter"])
def test_a_recipe_that_a_folder_names_is_not_opened(tmp_path: Path, part: str) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("trust_remote_code: true\nlora_r: 3\nsft: {max_steps: 1}\nrl: {max_steps: 1}\n")
    model = str(Path(a_run(tmp_path / "run", str(mine), prompt_style="bare")) / part)
    settings = resolve("eval", model_name_or_path=model, threads=1)
    assert not settings.arguments.trust_remote_code
    assert settings.recipe == "6gb"
    assert settings.arguments.prompt_style == "bare"
    assert settings.chosen["recipe"].endswith(
        f"; {model} was trained with a recipe of its own, which --recipe {str(mine)!r} takes"
    )


def test_a_file_by_the_name_of_a_shipped_recipe_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "tiny+scaffold"):
        Path(name).write_text("eval: {temperature: 0.123}\n")
        model = a_run(tmp_path / f"run of {name}", name)
        settings = resolve("eval", model_name_or_path=model, threads=1)
        assert settings.recipe == name
        assert settings.arguments.temperature == 1.0


def test_a_config_beside_a_model_that_is_no_runs_is_not_read(tmp_path: Path) -> None:
    model = a_run(tmp_path / "model", "8gb", environment=False, prompt_style="bare", paths="3")
    (Path(model) / "config.json").write_text("{}")
    (Path(model) / "inner").mkdir()
    (Path(model) / "inner" / "config.json").write_text("{}")
    for folder in (model, f"{model}/inner"):
        settings = resolve("eval", model_name_or_path=folder, threads=1)
        assert settings.recipe == "6gb"
        assert (settings.arguments.prompt_style, settings.arguments.paths) == ("parallel", "2")


def test_what_is_no_value_is_not_taken_from_a_run(tmp_path: Path) -> None:
    model = a_run(tmp_path / "run", "8gb", prompt_style="evil", paths="-1")
    settings = resolve("eval", model_name_or_path=model, threads=1)
    assert (settings.arguments.prompt_style, settings.arguments.paths) == ("parallel", "2")


@pytest.mark.parametrize(
    "text",
    [
        "trust_remote_code: true\n",
        "trust_remote_code: yes\n",
        "sft: {trust_remote_code: true}\n",
        "eval: {trust_remote_code: 'True'}\n",
        "sft:\n  model_init_kwargs: {trust_remote_code: true}\n",
    ],
)
def test_no_recipe_trusts_for_its_user(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text + ("sft: {max_steps: 1}\n" if "sft:" not in text else ""))
    with pytest.raises(UsageError, match=f"own.yaml line .*: {REFUSAL}"):
        resolve("sft", recipe=str(path))


def test_a_recipe_may_say_that_it_does_not(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("trust_remote_code: false\nsft: {max_steps: 1}\n")
    assert resolve("sft", recipe=str(path), threads=1).trainer.trust_remote_code is False
    words = ["--recipe", str(path), "--threads", "1", "--trust_remote_code"]
    assert parse("sft", words).trainer.trust_remote_code is True
    assert resolve("eval", recipe="tiny", threads=1, trust_remote_code=True).arguments.trust_remote_code


@pytest.mark.parametrize("command", ["sft", "rl", "eval"])
def test_a_run_that_trusts_goes_on_by_its_config_and_the_flag(tmp_path: Path, command: str) -> None:
    record = resolve(command, recipe="tiny", threads=1, trust_remote_code=True).as_dict()
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(record))
    words = ["--recipe", str(path), "--threads", "1"]
    for trusting in ([], ["--trust_remote_code"]):
        settings = parse(command, [*words, *trusting])
        assert (settings.trainer or settings.arguments).trust_remote_code is bool(trusting)
        assert settings.as_dict()[command] == record[command]


# --- Rewards of the user's own


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file whose code tells on itself, and a function in it."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("open('ran', 'w')\ndef short_answer(completions, **kwargs): ...\n")
    return "mine.py:short_answer"


def test_the_command_line_and_a_caller_name_own_rewards(mine: str) -> None:
    words = [
        "--recipe",
        "tiny",
        "--threads",
        "1",
        "--reward_weights",
        "1",
        "0.5",
        "--rewards",
        "accuracy",
        mine,
    ]
    settings = parse("rl", words)
    again = resolve("rl", recipe="tiny", threads=1, rewards=["accuracy", mine], reward_weights=[1, 0.5])
    assert settings.arguments.rewards == again.arguments.rewards == ["accuracy", mine]
    assert not Path("ran").exists(), "settling is not running"


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        ("gone.py:f", "'gone.py:f': no such file; give its path from the working folder, or in full"),
        ("mine.py", "'mine.py' names no function; write PATH.py:NAME, such as mine.py:short_answer"),
        ("mine.py:short-answer", "'mine.py:short-answer': 'short-answer' is no name of a function; write "),
        ("mine.py:", "'mine.py:': '' is no name of a function; write PATH.py:NAME"),
        ("mine.py:def", "'mine.py:def': 'def' is no name of a function; write PATH.py:NAME"),
        (
            "gone.py:f mine.py",
            "'gone.py:f': no such file; give its path from the working folder, or in full; ",
        ),
        ("mine.py:a mine.py:a", "must be of accuracy, "),
        ("mine.txt:a", "must be of accuracy, "),
        ("mine.py:a accuracy:8", "must be of accuracy, "),
    ],
)
def test_what_names_no_function_of_a_file_is_told(mine: str, names: str, fault: str) -> None:
    with pytest.raises(UsageError, match=re.escape(fault)) as caught:
        parse("rl", ["--recipe", "tiny", "--threads", "1", "--rewards", *names.split()])
    assert "--rewards: " in str(caught.value)
    assert "\n" not in str(caught.value)


def own_refused(words: str) -> str:
    return f"a file cannot say whose code to run; take it out, and pass --rewards {words} yourself"


@pytest.mark.parametrize("text", ["rl: {{rewards: [accuracy, '{}']}}", "rewards: '{}'\nrl: {{beta: 0.1}}"])
def test_no_recipe_names_own_rewards(mine: str, text: str) -> None:
    Path("own.yaml").write_text(text.format(mine))
    said = mine if text.startswith("rewards") else f"accuracy {mine}"
    with pytest.raises(UsageError, match=re.escape(f"rewards: {own_refused(said)}")):
        resolve("rl", recipe="own.yaml", threads=1)
    settings = resolve("rl", recipe="own.yaml", threads=1, rewards=[mine])
    assert settings.arguments.rewards == [mine], "which the caller has said"
    resolve("eval", recipe="own.yaml", threads=1)


@pytest.mark.parametrize("anywhere", ["stages", "recipe"])
def test_no_stage_names_own_rewards(mine: str, anywhere: str) -> None:
    stages = [{"name": "rl-easy", "rewards": [mine]}]
    Path("own.yaml").write_text(yaml.safe_dump({"rl": {"stages": stages if anywhere == "recipe" else None}}))
    given = {"stages": stages} if anywhere == "stages" else {}
    line = f"stage rl-easy: rewards ['{mine}'] holds '{mine}', and no stage can say whose code to run; pass "
    with pytest.raises(UsageError, match=re.escape(line)):
        resolve("rl", recipe="own.yaml", threads=1, rewards=[mine], **given)


def test_a_run_with_own_rewards_goes_on_by_its_config_and_the_flag(mine: str) -> None:
    record = resolve("rl", recipe="tiny", threads=1, rewards=["format", mine]).as_dict()
    assert record["rl"]["rewards"] == ["format", mine]
    Path("config.yaml").write_text(yaml.safe_dump(record))
    words = ["--recipe", "config.yaml", "--threads", "1"]
    with pytest.raises(UsageError, match=re.escape(own_refused(f"format {mine}"))):
        parse("rl", words)
    assert parse("rl", [*words, "--rewards", "format", mine]).as_dict()["rl"] == record["rl"]


def test_a_recipe_that_fits_does_not_say_whose_code_to_run(mine: str) -> None:
    words = [
        "--recipe",
        "6gb",
        "--memory",
        "6",
        "--fit",
        "fit.yaml",
        "--trust_remote_code",
        "--rewards",
        mine,
    ]
    doctor.run(*parse_doctor(["rl", *words]))
    assert not {"trust_remote_code", mine} & {*Path("fit.yaml").read_text().split()}


# --- Pickles


def test_an_adapter_that_is_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    model, tokenizer = load_model(tiny.NAME, lora=Lora(r=2))
    save_adapter(model, tokenizer, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(pickle.dumps(Mark(tmp_path / "RAN")))
    for look in (load_model, check_loadable):
        with pytest.raises(RunError, match=r"adapter_model\.bin, a pickle, .*\.safetensors alone: save the"):
            look(str(tmp_path / "adapter"))
    assert not (tmp_path / "RAN").exists()


def test_a_checkpoint_that_holds_a_pickle_is_refused_unrun(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "recipe": "tiny", "threads": 1, "limit": 16, "max_steps": 2, "save_steps": 1, "sample_count": 0,
        "eval_strategy": "no", "per_device_train_batch_size": 1, "output_dir": str(tmp_path / "sft"),
    }  # fmt: skip
    sft.run(resolve("sft", **given))
    (tmp_path / "sft" / "DONE").unlink()
    shutil.rmtree(tmp_path / "sft" / "checkpoint-2")
    (checkpoint,) = checkpoints(tmp_path / "sft")
    for name in ("optimizer.pt", "rng_state.pth"):
        whole = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(pickle.dumps(Mark(tmp_path / "RAN")))
        seal(checkpoint)
        with pytest.raises(RunError, match=r"checkpoint-1 holds more than tensors and .* it is not run"):
            sft.run(resolve("sft", **given, resume=True))
        (checkpoint / name).write_bytes(whole)
    assert not (tmp_path / "RAN").exists()

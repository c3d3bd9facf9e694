"""Every recipe that ships, built with TRL's real configs for every stage, on the card that it is made for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prl import config, recipes
from prl.errors import UsageError
from prl.machine import hardware
from prl.machine.hardware import Machine

GPU_RECIPES = [name for name in recipes.NAMES if not name.startswith("tiny")]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Ampere card of 24 GB, as far as prl and transformers ask."""
    here = Machine("cuda", "some card", 23.6, 23.0, has_bfloat16=True)
    monkeypatch.setattr(hardware, "this_machine", lambda: here)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)


def resolve(command: str, recipe: str) -> config.Settings[Any]:
    return config.resolve(command, recipe=recipe, threads=1)


def test_names_are_the_files_that_ship() -> None:
    folder = Path(recipes.__file__).parent
    assert sorted(path.stem for path in folder.glob("*.yaml")) == sorted(recipes.NAMES)
    assert sorted(path.stem for path in folder.glob("overlays/*.yaml")) == sorted(recipes.OVERLAYS)


@pytest.mark.parametrize("name", recipes.OVERLAYS)
def test_overlay_suits_every_base(name: str) -> None:
    """It steers each command, needs none of the base's own keys, and says how it is used."""
    for base in ("tiny", "6gb", "24gb"):
        assert config.validate(f"{base}+{name}") == [*recipes.SECTIONS]
    text = recipes.locate(name).read_text(encoding="utf-8")
    assert re.search(rf"\btiny\S*\+{name}\b", text)
    assert recipes.title(name).endswith(".")


def test_a_later_part_wins_and_an_overlay_alone_goes_on_what_suits_the_machine() -> None:
    both = resolve("rl", "tiny+sums+scaffold")
    assert (both.arguments.attention, both.arguments.dataset) == ("structured", "arithmetic:hard")
    assert (both.trainer.max_steps, both.trainer.learning_rate) == (30, 5e-4)
    alone = resolve("rl", "scaffold")
    assert alone.recipe == "tiny+scaffold"
    assert alone.trainer.max_steps == 24


def test_a_part_that_does_not_exist_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="recipe 'scafold' neither ships nor is a file; nearest: scaffold"):
        resolve("rl", "tiny+scafold")


def test_the_settings_of_a_run_with_stages_are_a_recipe_again(tmp_path: Path) -> None:
    settings = resolve("rl", "tiny+sums+causal")
    stored = tmp_path / "config.yaml"
    stored.write_text(yaml.safe_dump(settings.as_dict(), sort_keys=False), encoding="utf-8")
    again = resolve("rl", str(stored))
    assert again.arguments.stages == settings.arguments.stages
    assert [stage["name"] for stage in again.as_dict()["rl"]["stages"]] == ["rl-easy", "rl-general"]


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("command", recipes.SECTIONS)
@pytest.mark.parametrize("name", recipes.NAMES)
def test_recipe_builds_on_its_card(name: str, command: str) -> None:
    settings = resolve(command, name)
    on_gpu = name in GPU_RECIPES
    assert settings.recipe == name
    assert settings.arguments.device == ("cuda" if on_gpu else "cpu")
    assert settings.arguments.dtype == ("bfloat16" if on_gpu else "float32")
    assert settings.arguments.load_in_4bit == on_gpu
    assert settings.arguments.prompt_style == ("parallel" if on_gpu else "bare")
    if settings.trainer:
        assert settings.trainer.bf16 == settings.trainer.activation_checkpointing == on_gpu
        assert settings.trainer.use_cpu != on_gpu
        assert not settings.trainer.fp16
        assert settings.trainer.report_to == []


@pytest.mark.parametrize("command", recipes.SECTIONS)
@pytest.mark.parametrize("name", recipes.NAMES)
def test_recipe_builds_without_a_gpu(name: str, command: str) -> None:
    settings = resolve(command, name)
    assert (settings.arguments.device, settings.arguments.dtype) == ("cpu", "float32")
    assert not settings.arguments.load_in_4bit, "4-bit weights on a CPU only on request"
    assert ("load_in_4bit" in settings.chosen) == (name in GPU_RECIPES)


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("name", recipes.NAMES)
def test_rl_batches_hold_whole_groups(name: str) -> None:
    trainer = resolve("rl", name).trainer
    step = trainer.per_device_train_batch_size * trainer.gradient_accumulation_steps
    assert step % trainer.num_generations == 0
    assert trainer.generation_batch_size % trainer.num_generations == 0
    assert trainer.per_device_train_batch_size % trainer.num_generations == 0, "its prompt is computed once"
    # Otherwise some responses of a step come from an older policy, and TRL scores them once more.
    assert trainer.gradient_accumulation_steps % trainer.steps_per_generation == 0
    assert step // trainer.num_generations >= 8, (
        "few problems a step: most steps hold no group that disagrees"
    )


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("name", recipes.NAMES)
def test_rl_uses_the_papers_loss(name: str) -> None:
    trainer = resolve("rl", name).trainer
    assert (trainer.beta, trainer.epsilon_high, trainer.temperature) == (0.0, 0.28, 1.0)
    assert trainer.top_p == 1.0
    assert trainer.top_k == 0, "sampling that scoring does not know"


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("name", GPU_RECIPES)
def test_evaluation_allows_the_length_that_rl_trained(name: str) -> None:
    length = resolve("rl", name).trainer.max_completion_length
    assert resolve("eval", name).arguments.max_completion_length == length
    assert resolve("generate", name).arguments.max_completion_length == length


@pytest.mark.usefixtures("card")
def test_larger_cards_never_get_less() -> None:
    lengths = [resolve("rl", name).trainer.max_completion_length for name in GPU_RECIPES]
    parameters = [
        float(resolve("rl", n).arguments.model_name_or_path.split("-")[1][:-1]) for n in GPU_RECIPES
    ]
    assert lengths == sorted(lengths)
    assert parameters == sorted(parameters)


@pytest.mark.parametrize("name", recipes.NAMES)
def test_file_opens_with_what_it_is_and_how_to_launch_it(name: str) -> None:
    text = recipes.locate(name).read_text(encoding="utf-8")
    head = text.partition("\n\n")[0]
    assert f"prl sft --recipe {name}" in head
    assert "make sft" in head
    assert recipes.title(name).endswith(".")
    if name in GPU_RECIPES:
        assert "Never run on a GPU by us" in head
        assert f"GPU of {name.removesuffix('gb')} GB" in recipes.title(name)


@pytest.mark.parametrize("name", recipes.NAMES)
def test_every_section_is_validated(name: str) -> None:
    assert config.validate(name) == list(recipes.SECTIONS)


# --- Reading


@pytest.mark.parametrize(
    ("written", "words", "why"),
    [
        ("5e-4", ["5e-4"], "YAML 1.1 reads a string, no number"),
        ("no", ["no"], "YAML 1.1 reads false"),
        ("'no'", ["no"], "quotes change nothing"),
        ("0.28", ["0.28"], "a number as written"),
        ("null", None, "null is not the word null"),
        ("", None, "an empty value is null"),
        ("'null'", ["null"], "quoted, it is a word"),
        ("[accuracy, format]", ["accuracy", "format"], "a list is several words"),
        ("[]", [], "an empty list is no word"),
        ("{num_cycles: 2}", ['{"num_cycles": 2}'], "a mapping is JSON, as TRL takes it"),
        (
            "{a: 1e-6, b: '1e-6', c: [5E4, no]}",
            ['{"a": 1e-06, "b": "1e-6", "c": [50000.0, false]}'],
            "numbers too",
        ),
        ("2026-01-01", ["2026-01-01"], "YAML would make a date"),
        ("1_000", ["1_000"], "left to int()"),
        ("!!python/name:os.system x", ["x"], "tags are never obeyed"),
    ],
)
def test_value_means_what_its_text_means_behind_a_flag(
    tmp_path: Path, written: str, words: list[str] | None, why: str
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"rl:\n  key: {written}\n", encoding="utf-8")
    settings, faults = recipes.read(str(path))
    assert [(item.key, item.values, item.section) for item in settings] == [("key", words, "rl")], why
    assert settings[0].where == "own.yaml line 2, section rl: key"
    assert faults == []


@given(st.text())
def test_any_text_survives_being_written_as_yaml(text: str) -> None:
    node = yaml.compose(yaml.safe_dump({"key": text}), Loader=yaml.SafeLoader)
    assert recipes._words(node.value[0][1]) == [text]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no `key: value` lines"),
        (b"# only a comment\n", "holds no `key: value` lines"),
        (b"- a\n- b\n", "holds no `key: value` lines"),
        (b"lora_r: [1, 2\n", "not YAML"),
        (b"\xff\xfe\x00\x01", "not YAML"),
        (b"a\x00b: 1\n", "not YAML"),
        (b"lora_r: " + b"[" * 60000, "nested deeper"),
        (b"- " * 30000, "nested deeper"),
        (b"? " * 30000, "nested deeper"),
        (b"a: " * 20000, "not YAML"),
        (b"!" * 60000, "holds no"),
        (b"a: &a [x, x]\nb: [*a, *a]\n", "anchors"),
        (b"a: &a [*a]\n", "anchors"),
        (b"rl:\n  lr_scheduler_kwargs: {x: !!python/object:os.system {}}\n", "not YAML"),
        (b"#" * (1 << 16) + b"\n", "larger than"),
    ],
)
def test_file_that_is_no_recipe_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        recipes.read(str(path))
    assert "own.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="recipe '8bg' neither ships nor is a file; nearest: 8gb"):
        recipes.locate("8bg")


def test_faults_of_form_name_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "lora_r: 1\nlora_r: 2\nrl: 7\nsft:\neval:\n  samples: 1\n  samples: 2\n", encoding="utf-8"
    )
    settings, faults = recipes.read(str(path))
    assert [item.key for item in settings] == ["lora_r", "samples"]
    assert faults == [
        "own.yaml line 2: lora_r stands in line 1 already; keep one of them",
        "own.yaml line 3: section rl holds no `key: value` lines; indent its settings under it",
        "own.yaml line 7: samples stands in line 6 already; keep one of them",
    ]


def test_an_overlay_takes_the_place_of_the_arm_of_the_run_that_the_model_comes_from(tmp_path: Path) -> None:
    trained = resolve("sft", "tiny+sums+causal")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(trained.as_dict()), encoding="utf-8")
    (tmp_path / "environment.json").write_text("{}")
    model = str(tmp_path)
    alone = config.resolve("rl", recipe="scaffold", model_name_or_path=model, threads=1)
    assert alone.recipe == "tiny+sums+scaffold"
    same = config.resolve("rl", model_name_or_path=model, threads=1)
    assert same.recipe == "tiny+sums+causal"


@pytest.mark.parametrize("asked", ["is_file", "read_text"])
def test_a_recipe_that_may_not_be_read_is_told_in_one_line(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("seed: 1\n")

    def refuse(path: Path, *words: object, **given: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, asked, refuse)
    with pytest.raises(UsageError, match=r"mine\.yaml cannot be read: Permission denied\. "):
        recipes.read(str(mine))

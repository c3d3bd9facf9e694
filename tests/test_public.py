"""The names that others build on: they are there, and what they are called with stays."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import prl

PACKAGE = Path(prl.__file__).parent

SIGNATURES = {
    "prl.show": "source limit= **choice",
    "prl.grammar.parse": "text truncated= opening=",
    "prl.answers.extract_answer": "text paths= strict=",
    "prl.answers.is_equal": "pred gold",
    "prl.answers.AnswerChecker.check": "self pred gold",
    "prl.rewards.accuracy_reward": "completions answer= log_extra= log_metric= **kwargs",
    "prl.rewards.format_reward": (
        "completions truncated= completion_ids= eos_token_id= path_opening= log_extra= log_metric= **kwargs"
    ),
    "prl.rewards.reward_functions": (
        "names eos_token_id= tag_ids= max_completion_length= overlong_buffer= pattern= path_opening="
    ),
    "prl.curriculum.Curriculum": "stages pools levels seed group_size band=",
    "prl.curriculum.Stage": "name dataset= dataset_split= limit= levels= rewards= sampling= enter=",
    "prl.curriculum.AlternatingReward": "pattern= rewards= start=",
    "prl.structure.structural_positions": "input_ids tags attention_mask= sequences=",
    "prl.structure.path_window_mask": "input_ids tags attention_mask= sequences= window=",
    "prl.structure.attach_structure": "model tags probe=",
    "prl.decoding.ForkJoinDecoder": "model tokenizer attention= limits= sampling= batch_size=",
    "prl.decoding.ForkJoinDecoder.generate": (
        "self prompts samples= seed= seeds= on_batch= on_response= on_token="
    ),
    "prl.model.load_model": (
        "name attention= lora= trainable= load_in_4bit= dtype= device= trust_remote_code= seed= "
        "tags= path_opening="
    ),
    "prl.model.merge_and_verify": (
        "name output_dir dtype= prompts= samples= max_completion_length= seed= device= "
        "trust_remote_code= on_proof="
    ),
    "prl.config.resolve": "command recipe= **overrides",
    "prl.sft.run": "settings callbacks=",
    "prl.rl.run": "settings rewards= callbacks=",
    "prl.evaluation.run": "settings",
}
"""Name -> what it is called with; `=` marks what may be left out. What is new may only be of that kind."""


def found(name: str) -> object:
    room, *attributes = name.split(".")[1:]
    thing: object = importlib.import_module(f"prl.{room}") if attributes else getattr(prl, room)
    for attribute in attributes:
        thing = getattr(thing, attribute)
    return thing


def called_with(thing: object) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters = inspect.signature(thing).parameters.values()  # type: ignore[arg-type]
    return " ".join(
        f"{stars.get(each.kind, '')}{each.name}{'=' if each.default is not each.empty else ''}"
        for each in parameters
    )


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_stay(name: str) -> None:
    before, now = SIGNATURES[name].split(), called_with(found(name)).split()
    assert [each for each in now if each in before] == before
    assert [each for each in now if each not in before and not each.endswith("=")] == []


def test_the_package_itself_offers_little() -> None:
    """And importing it brings nothing heavy: what is in `prl` beside this are modules."""
    assert prl.__all__ == ["__version__", "show"]
    public = {name for name, value in vars(prl).items() if name[0] != "_" and not inspect.ismodule(value)}
    assert public - {"annotations", "TYPE_CHECKING", "Any"} == {"show"}
    code = "import sys, prl; print(sorted({'torch', 'transformers', 'trl', 'numpy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_each_name_that_a_room_offers_is_there() -> None:
    rooms = [path.parent for path in PACKAGE.glob("*/__init__.py")]
    offering = [room for room in rooms if "__all__ = [" in (room / "__init__.py").read_text(encoding="utf-8")]
    assert len(offering) >= 10
    for room in offering:
        module = importlib.import_module(f"prl.{room.name}")
        assert [name for name in module.__all__ if not hasattr(module, name)] == [], room.name
        assert len({*module.__all__}) == len(module.__all__), room.name


def test_types_are_exported() -> None:
    assert (PACKAGE / "py.typed").is_file()

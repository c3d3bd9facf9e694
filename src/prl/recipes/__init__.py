"""The recipes that ship, and how one is read: a YAML file of settings that steers the whole pipeline.

    model_name_or_path: tiny      # a common key: for every command that knows it
    rl:                           # a section: for one command
      learning_rate: 5e-4

A recipe is flags written down: a value means what the same text means behind its flag. So `5e-4` is a number
and `eval_strategy: no` a word, where YAML 1.1 alone would read a string and `false`.

Recipes add up: `tiny+scaffold` is `tiny` with what the overlay `scaffold` changes, and so on from left to
right. The overlays are the training arms of Parallel-R1, for any base.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prl.errors import UsageError, nearest

NAMES = ("tiny", "tiny-search", "6gb", "8gb", "12gb", "16gb", "24gb")
ARMS = (
    "sequential",
    "causal",
    "causal-no-easy",
    "structured-accuracy",
    "structured-alternating",
    "parallel-only",
    "tiered-only",
    "gated-efficiency",
    "scaffold",
    "scaffold-early",
    "blocks-first",
    "plain-prompt",
    "parallel-prompt",
    "uniform",
    "adaptive",
)
KINDS = ("products", "equations")  # of problems with alternatives
OVERLAYS = ("paper-mini", "sums", *KINDS, "in-sequence", *ARMS)
SECTIONS = ("sft", "rl", "eval", "generate")
RECORD_KEYS = ("command", "recipe", "chosen")
"""Keys that only a run's config.yaml holds; a recipe may keep them, so that such a file is one."""

_LARGEST_FILE = 1 << 16  # bytes
_DEEPEST = 16  # levels; settings need 3
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


@dataclass(frozen=True)
class Given:
    """One setting as written down: in a recipe, as a flag or as a keyword.

    `values` are the words behind the key, None for YAML's null; `where` is how a message names the place.
    """

    key: str
    values: list[str] | None
    where: str
    section: str = ""

    def as_setting(self) -> tuple[str, Any]:
        """Key and value as they would stand in a recipe."""
        if self.values == []:
            return (self.key[3:], False) if self.key.startswith("no_") else (self.key, True)
        if self.values and len(self.values) == 1:
            return self.key, self.values[0]
        return self.key, self.values


def parts(recipe: str) -> list[str]:
    """The recipes that add up to `recipe`; a file may have a `+` in its name."""
    return [recipe] if not ships(recipe) and _is_file(Path(recipe)) else recipe.split("+")


def ships(recipe: str) -> bool:
    """Whether all of `recipe` comes with prl: what is taken from a folder that anyone may have made.

    >>> ships("tiny+scaffold"), ships("tiny+mine.yaml")
    (True, False)
    """
    return {*recipe.split("+")} <= {*NAMES, *OVERLAYS}


def public_name(recipe: str) -> str:
    """`recipe` for others to read: a file without the folders of this machine.

    >>> public_name("tiny+/home/me/mine.yaml")
    'tiny+mine.yaml'
    """
    return "+".join(Path(part).name for part in parts(recipe))


def is_overlay(recipe: str) -> bool:
    """Whether `recipe` needs a base before it: all its parts are overlays that ship."""
    return all(part in OVERLAYS for part in parts(recipe))


def lay_over(base: str, overlay: str) -> str:
    """`base` with `overlay` on top, in place of the arm that it may hold.

    >>> lay_over("tiny+sums+causal", "scaffold")
    'tiny+sums+scaffold'
    """
    replaced = {*ARMS, *parts(overlay)}
    return "+".join([part for part in parts(base) if part not in replaced] + [overlay])


def locate(recipe: str) -> Path:
    """The file of one recipe that ships, by its name, or `recipe` itself if it is a file; else UsageError."""
    path = Path(recipe)
    if recipe in (*NAMES, *OVERLAYS):
        path = Path(__file__).parent / ("overlays" if recipe in OVERLAYS else "") / f"{recipe}.yaml"
    if _is_file(path):
        return path
    near = nearest(recipe, (*NAMES, *OVERLAYS))
    raise UsageError(f"recipe {recipe!r} neither ships nor is a file{near}; `prl recipes` lists them")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError as error:
        told = f"recipe {path} cannot be read: {error.strerror}"
        raise UsageError(f"{told}. Let the folders above it be searched, or name another") from error


def title(name: str) -> str:
    """What a shipped recipe is for: the first line of its file."""
    return locate(name).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def read(recipe: str) -> tuple[list[Given], list[str]]:
    """The settings of one recipe, in its order, and the faults of its form: every one, each with its line.

    Raises UsageError where the file is not YAML at all. Keys and values are not judged here.
    """
    import yaml

    path = locate(recipe)
    if path.stat().st_size > _LARGEST_FILE:
        raise UsageError(
            f"{path}: larger than {_LARGEST_FILE} bytes, so not a recipe; name a YAML file of settings"
        )
    try:
        text = path.read_text(encoding="utf-8")
        _check_bounded(text, path)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode):
            raise UsageError(
                f"{path}: holds no `key: value` lines; `prl recipes show tiny` prints an example"
            )
        return _settings(root, path.name)
    except PermissionError as error:
        raise UsageError(f"recipe {path} cannot be read: {error.strerror}. Name another") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from None


def put_together(recipe: str, changes: Mapping[str, Any]) -> str:
    """What all parts of `recipe` and then `changes` (settings, and sections of them) add up to, as the YAML
    text of one recipe. Values stand as they were written; comments are lost."""
    import yaml

    texts = [locate(part).read_text(encoding="utf-8") for part in parts(recipe)]
    texts.append(yaml.safe_dump(dict(changes), sort_keys=False))
    common: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    for text in texts:
        own = _entries_of(yaml.compose(text, Loader=yaml.SafeLoader))
        for name in SECTIONS:
            inner = _entries_of(own.pop(name, None))
            # A later part wins, also where it says for all commands what an earlier one said for this one.
            before = {key: node for key, node in sections.get(name, {}).items() if key not in own}
            if settings := before | inner:
                sections[name] = settings
        common |= own
    for key in RECORD_KEYS:
        common.pop(key, None)
    return yaml.serialize(
        _mapping(common | {name: _mapping(own) for name, own in sections.items()}), width=110
    )


def _entries_of(node: Any) -> dict[str, Any]:
    import yaml

    return {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}


def _mapping(entries: Mapping[str, Any]) -> Any:
    import yaml

    keys = [yaml.ScalarNode("tag:yaml.org,2002:str", key) for key in entries]
    return yaml.MappingNode(
        "tag:yaml.org,2002:map", list(zip(keys, entries.values(), strict=True)), flow_style=False
    )


def _check_bounded(text: str, path: Path) -> None:
    """Refuse what makes a small file endless: aliases expand, nesting costs PyYAML its depth squared."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise UsageError(f"{path}: anchors (&, *) are not supported in a recipe; write the value out")
        if depth > _DEEPEST:
            raise UsageError(
                f"{path}: nested deeper than {_DEEPEST} levels, so not a recipe; settings need 3"
            )


def _settings(root: Any, name: str) -> tuple[list[Given], list[str]]:
    import yaml

    settings: list[Given] = []
    faults: list[str] = []
    for key, node, where in _entries(root, name, faults):
        if key in SECTIONS and isinstance(node, yaml.MappingNode):
            for inner, value, place in _entries(node, name, faults):
                settings.append(Given(inner, _words(value), f"{place}, section {key}: {inner}", key))
        elif key in SECTIONS and _words(node) is not None:
            faults.append(f"{where}: section {key} holds no `key: value` lines; indent its settings under it")
        elif key not in SECTIONS:
            settings.append(Given(key, _words(node), f"{where}: {key}"))
    return settings, faults


def _entries(mapping: Any, name: str, faults: list[str]) -> Iterator[tuple[str, Any, str]]:
    """Key, value node and `file line n` of each entry; a key that comes twice is a fault (YAML drops one)."""
    lines: dict[str, int] = {}
    for key_node, value in mapping.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        where = f"{name} line {line}"
        if key in lines:
            faults.append(f"{where}: {key} stands in line {lines[key]} already; keep one of them")
            continue
        lines[key] = line
        yield key, value, where


def _words(node: Any) -> list[str] | None:
    """A value as the words that would follow its flag; a mapping is one word of JSON, as for TRL's flags."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        return [json.dumps(_value(node), default=str)]
    if isinstance(node, yaml.SequenceNode):
        return [word for item in node.value for word in _words(item) or ["null"]]
    return None if node.tag == "tag:yaml.org,2002:null" else [str(node.value)]


def _value(node: Any) -> Any:
    """What a node stands for: as YAML 1.1 has it, but `1e-6` is a number here as behind a flag, no word."""
    import yaml

    if node.tag == "tag:yaml.org,2002:map":
        return {key.value: _value(value) for key, value in node.value}
    if node.tag == "tag:yaml.org,2002:seq":
        return [_value(item) for item in node.value]
    if isinstance(node, yaml.ScalarNode) and node.style is None and _EXPONENT.fullmatch(node.value):
        return float(node.value)
    # A loader of its own: it takes the node as it is, where dumping and loading anew would reformat it.
    # Tags that make objects are refused here.
    return yaml.SafeLoader("").construct_document(node)

"""The card (README.md) of an adapter or a merged model: what it came from, how to use it, how well it does.

`save_adapter` and `merge_and_verify` write it, `prl eval` adds its figures, which the Hub reads in the head
(`model-index`) and people at the end. What is known is said, and nothing else: there is no licence in it, and
of a folder of this machine only the last part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from prl import __version__, runs, tiny
from prl.data.hub import HUB_SETS
from prl.errors import RunError
from prl.grammar import OPENINGS
from prl.prompts import STYLES, user_message
from prl.recipes import public_name as public_recipe
from prl.runs import cards
from prl.runs.cards import code, fence, public_name, table
from prl.runs.disk import read_json
from prl.settings.arguments import EvalArguments
from prl.structure import ATTENTION_FILE

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_MADE_BY = {"sft": "`prl sft`: supervised fine-tuning on traces", "rl": "`prl rl`: GRPO on checked answers"}
_ATTENTION = {
    "causal": "causal: a path of a block sees the paths before it",
    "structured": "structured: the paths of a block do not see each other; only prl's decoder keeps that",
}
_OPENING = {
    "number": "their number in the block, which prl's decoder writes",
    "plan": "their line of the paragraph before the block, which prl's decoder writes",
}
_TAGS = (
    "For parallel thinking ([arXiv 2509.07980](https://arxiv.org/abs/2509.07980)): `<Parallel>` opens a block"
    " of independent `<Path>`s, and a `<Summary>` follows. {}; how often it uses them is among the figures "
    "below."
)
ASKED_BESIDES = (
    "dataset_split", "paths", "max_paths", "max_blocks", "max_path_length", "join", "path_temperature",
    "top_p", "top_k", "min_p",
)  # fmt: skip
"""Settings of an evaluation that a card names where they are not the defaults; older cards name none."""
_SHOWN = ("accuracy", "parallel_ratio", "format_valid", "tokens")
_MOST_RESULTS = 16
_EVALUATION = "\n## Evaluation\n"
_FRONT = re.compile(r"---\n(.*?\n)---\n(.*)", re.DOTALL)

_LOAD_WITH_PRL = """\
```python
from prl.decoding import ForkJoinDecoder, Limits
from prl.model import load_model
from prl.prompts import render_prompt

model, tokenizer = load_model("path/to/this/folder")
decoder = ForkJoinDecoder(model, tokenizer, limits=Limits(max_new_tokens=256))
((response,),) = decoder.generate([render_prompt("Compute 12 + 30 - 7.", "{style}"{opening})])
print(response.text)
```"""
_LOAD_WITH_TRANSFORMERS = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
asked = [{"role": "user", "content": "Compute 12 + 30 - 7."}]
prompt = tokenizer.apply_chat_template(
    asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=256)[0]))
```"""


def write_adapter_card(adapter: Path) -> None:
    """Write the card of an adapter from what its folder and the run that it is of hold. Raises RunError."""
    config = read_json(adapter / "adapter_config.json")
    said = read_json(adapter / ATTENTION_FILE)
    run, settings = run_behind(adapter)
    settings["lora"] = f"rank {config.get('r')}, alpha {config.get('lora_alpha')}"
    style = style_of(settings)
    blocks = [
        *_head("peft", config, settings, ["lora"]),
        f"# A LoRA adapter made with prl {__version__}",
        _tags(config, "It holds rows of its own for them"),
        *_origin(config, said, settings, run),
        *_use(_LOAD_WITH_PRL, style, _opening(said)),
    ]
    _write(adapter, blocks, [])


def write_merged_card(folder: Path, adapter: Path, dtype: str, difference: float) -> None:
    """Write the card of the whole model that `adapter` was merged into, with the figures of its own. Raises
    RunError."""
    config = read_json(adapter / "adapter_config.json")
    said = read_json(folder / ATTENTION_FILE)
    run, settings = run_behind(adapter)
    style = style_of(settings)
    load = _LOAD_WITH_PRL if said.get("attention") == "structured" else _LOAD_WITH_TRANSFORMERS
    blocks = [
        *_head("transformers", config, settings, []),
        f"# A model made with prl {__version__}",
        _tags(config, "It has rows for them"),
        f"A LoRA adapter merged into its base, in {dtype}; the merged logits differ from the adapter's by at "
        f"most {difference:.1e}. `merge.json` has the proofs.",
        *_origin(config, said, settings, run),
        *_use(load, style, _opening(said)),
    ]
    _write(folder, blocks, _results(cards.read_own(adapter) or ""))


def add_results(model: str, results: Mapping[str, Any]) -> Path | None:
    """Put the figures of an evaluation, as its results.json has them, into the card of the model, in place of
    earlier ones that were asked for in the same way; the card, or None where the model has none of prl.
    Raises RunError."""
    folder = runs.adapter_dir(model) or Path(model).expanduser()
    text = cards.read_own(folder) if model not in tiny.FOLDERS and folder.is_dir() else None
    if text is None or _EVALUATION not in text:
        return None
    new = _as_result(results)
    others = [each for each in _results(text) if each["dataset"] != new["dataset"]]
    found = _FRONT.fullmatch(text)
    if found is None:
        return None
    blocks = [f"---\n{found[1]}---", found[2].partition(_EVALUATION)[0].strip("\n")]
    return _write(folder, blocks, [*others, new][-_MOST_RESULTS:])


def run_behind(model: str | Path) -> tuple[Path | None, dict[str, Any]]:
    """The run that wrote `model` (the run, its adapter or a checkpoint), and the settings of its command,
    with `command` and `recipe`, that one by its public name. Empty where there is none."""
    here = Path(model).expanduser()
    for folder in (here, here.parent):
        try:
            config, settings = runs.read_config(folder), runs.read_settings(folder)
        except RunError:
            continue
        if settings:
            recipe = config.get("recipe")
            named = {"recipe": public_recipe(recipe)} if isinstance(recipe, str) else {}
            return folder, settings | named | {"command": str(config["command"])}
    return None, {}


def _tags(config: Mapping[str, Any], rows: str) -> str:
    """What the tags are to an adapter with this config: `rows`, where it has some."""
    return _TAGS.format(
        rows if config.get("trainable_token_indices") else "They are spelled out, as any text"
    )


def style_of(settings: Mapping[str, Any]) -> str:
    """The prompt style of a run with these settings, as far as it is one of `prl.prompts`."""
    return next((known for known in STYLES if known == settings.get("prompt_style")), "parallel")


def _head(
    library: str, config: Mapping[str, Any], settings: Mapping[str, Any], tags: list[str]
) -> Iterator[str]:
    """The front matter that the Hub reads, as far as it can be: it takes names of the Hub only."""
    head: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-generation"}
    base, dataset = str(config.get("base_model_name_or_path")), str(settings.get("dataset"))
    if _HUB_NAME.fullmatch(base) and not Path(base).exists():
        head["base_model"] = base
    dataset = HUB_SETS.get(dataset, (dataset, None))[0]
    if _HUB_NAME.fullmatch(dataset) and not Path(dataset).exists():
        head["datasets"] = [dataset]
    yield f"---\n{yaml.safe_dump(head | {'tags': ['parallel-thinking', 'prl', *tags]}, sort_keys=False)}---"


def _origin(
    config: Mapping[str, Any], said: Mapping[str, Any], settings: Mapping[str, Any], run: Path | None
) -> Iterator[str]:
    base, start = str(config.get("base_model_name_or_path")), settings.get("model_name_or_path")
    rows = {"base": code(public_name(base))}
    if isinstance(start, str) and start != base:
        rows["begun with"] = f"the adapter of {code(public_name(start))}"
    if run is not None:
        rows["made by"] = _MADE_BY.get(settings["command"], code(settings["command"]))
    for name, label in {
        "dataset": "data", "recipe": "recipe", "rewards": "rewards", "max_steps": "steps at most",
        "lora": "LoRA", "seed": "seed",
    }.items():  # fmt: skip
        if name in settings and settings[name] not in (None, -1):
            value = settings[name]
            rows[label] = code(
                " ".join(map(str, value)) if isinstance(value, list) else public_name(str(value))
            )
    if settings.get("load_in_4bit"):
        rows["precision"] = "the base held in 4 bits (QLoRA)"
    attention = str(said.get("attention", "causal"))
    rows["attention"] = _ATTENTION.get(attention, code(attention))
    if (opening := _opening(said)) != "none":
        rows["paths begin with"] = _OPENING[opening]
    yield table(("", ""), list(rows.items()))


def _opening(said: Mapping[str, Any]) -> str:
    """What paths begin with, by what `prl.json` has `said`, as far as it is one of `prl.grammar.OPENINGS`."""
    return next((known for known in OPENINGS if known == said.get("path_opening")), "none")


def _use(load: str, style: str, opening: str) -> Iterator[str]:
    yield "## How to load it"
    named = "" if opening == "none" else f', path_opening="{opening}"'
    yield load.replace("{style}", style).replace("{opening}", named)
    yield 'On the command line: `prl generate "Compute 12 + 30 - 7." --model path/to/this/folder`.'
    yield f"It was trained with this prompt (style `{style}` of prl) as the user's turn of its chat template:"
    yield fence(user_message("{problem}", style, opening))


def _write(folder: Path, blocks: Sequence[str], results: Sequence[Mapping[str, Any]]) -> Path:
    head = yaml.safe_load(blocks[0].strip("-\n")) | {"model-index": [{"name": "prl", "results": [*results]}]}
    if not results:
        head.pop("model-index")
    front = f"---\n{yaml.safe_dump(head, sort_keys=False)}---"
    return cards.write_card(
        folder, "\n\n".join([front, *blocks[1:]]) + f"\n{_EVALUATION}\n" + _figures(results)
    )


def _figures(results: Sequence[Mapping[str, Any]]) -> str:
    if not results:
        return "Not evaluated. `prl eval --model path/to/this/folder` puts its figures here."
    blocks = []
    for result in results:
        dataset = result["dataset"]
        asked = ", ".join(f"{name} {value}" for name, value in dataset["args"].items())
        rows = [
            (code(each["name"]), code(_number(each["value"], each["args"], each["type"])))
            for each in result["metrics"]
        ]
        blocks += [f"{code(dataset['name'])}: {code(asked)}", table(("", "mean [95 % interval]"), rows)]
    return "\n\n".join(blocks)


def _number(mean: float, interval: Mapping[str, float], kind: str) -> str:
    form = "{:.0f}" if kind == "tokens" else "{:.1%}"
    low, high = (form.format(interval[name]) for name in ("low", "high"))
    return f"{form.format(mean)} [{low}, {high}]"


def _as_result(results: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation as the Hub's model-index has it."""
    asked = {
        name: _in_one_line(results[name])
        for name in (
            "problems", "samples", "temperature", "max_completion_length", "prompt_style", "attention",
            "path_opening", "seed",
        )
        if name in results and results[name] != "none"  # as before there were openings
    } | {
        name: _in_one_line(results[name])
        for name in ASKED_BESIDES
        if name in results and results[name] != getattr(EvalArguments, name)
    }  # fmt: skip
    name = _in_one_line(public_name(str(results["dataset"])))
    metrics = [
        {
            "type": metric.partition("/")[2],
            "name": metric,
            "value": found["mean"],
            "args": {"low": found["low"], "high": found["high"]},
        }
        for metric, found in results["metrics"].items()
        if metric.partition("/")[2] in _SHOWN
    ]
    dataset = {"name": name, "type": name, "args": asked}
    return {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": metrics}


def _in_one_line(value: Any) -> Any:
    """So that no line of it ends the front matter."""
    return " ".join(value.split()) if isinstance(value, str) else value


def _results(text: str) -> list[dict[str, Any]]:
    """The figures in the head of a card; those that are not as `_as_result` makes them are left out."""
    try:
        (model,) = yaml.safe_load(_FRONT.fullmatch(text)[1])["model-index"]  # type: ignore[index]
        results = list(model["results"])
        for result in results:
            _figures([result])
    except (yaml.YAMLError, AttributeError, IndexError, KeyError, TypeError, ValueError):
        return []
    return results

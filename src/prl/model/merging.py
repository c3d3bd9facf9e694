"""Merge an adapter into its base, prove that nothing was lost, and hand over a folder for any engine.

    prl merge runs/mine/rl --output_dir merged

The merge is done in fp32, on the base as it was published: never on a 4-bit one, whose rounding the adapter
would be rounded with. What is written shows itself first: in a hidden folder that gets its name when every
proof of `prl.model.proofs` holds, and is removed when one does not. `merge.json` in it keeps the numbers.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prl import __version__, runs
from prl.data.hub import load_rows
from prl.data.procedural import is_procedural
from prl.decoding import ForkJoinDecoder, Limits, Response
from prl.errors import DataError, ModelError, PrlError, RunError, first_line
from prl.model.card import run_behind, style_of, write_merged_card
from prl.model.drafts import drafting, put
from prl.model.loading import TAGS_ARE, attention_of, config_of, load_model, path_opening_of
from prl.model.proofs import (
    Proof,
    agreement,
    divergence,
    last_logits,
    prove_end,
    prove_logits,
    prove_tags,
    prove_tokenizer,
    texts_to_compare,
)
from prl.model.tags import check_tags, has_tags
from prl.prompts import render_prompt
from prl.runs.disk import check_writable, read_json, writing
from prl.structure import ATTENTION_FILE, Tags, attach_structure, said_of_opening, set_path_opening

PROBLEMS = 8  # that the proofs are made on
RECORD = "merge.json"
OTHER_ENGINES = (
    "trained with structured attention: transformers' generate, vLLM and llama.cpp decode causally, and the "
    "paths see each other there; to keep them apart takes prl's decoder (`prl generate`, `prl eval`)"
)


@torch.no_grad()
def merge_and_verify(
    name: str,
    output_dir: Path,
    *,
    dtype: torch.dtype = torch.float32,
    prompts: Sequence[str] | None = None,
    samples: int = 4,
    max_completion_length: int = 256,
    seed: int = 0,
    device: str = "cpu",
    trust_remote_code: bool = False,
    on_proof: Callable[[str], None] = lambda line: None,
) -> float:
    """Merge adapter or run `name` into its 16/32-bit base, write a plain model folder and prove it; the
    largest difference of fp32 logits.

    Proved: the merged model's logits are the adapter's, and what is read back from the disk has those of the
    merged weights as rounded to `dtype`; it uses the tags as often, on `samples` responses to each problem;
    tokenizer and chat template read back; plain `generate` stops at the end of a turn. All with the attention
    that the adapter was trained with, but for the last, which other engines do causally.

    `prompts` are problems; None: `PROBLEMS` of the run's own, where they can be read without a network.
    `on_proof` gets a line for each thing found out. Raises ModelError where a proof fails or the base is
    quantised on disk, RunError where the disk is full; nothing is left in `output_dir` then.
    """
    folder = Path(output_dir).expanduser()
    adapter = _adapter_to_merge(name, folder, trust_remote_code)
    run, settings = run_behind(name)
    problems, source = (list(prompts), "given") if prompts else _problems(run, settings)
    style = style_of(settings)
    opening = path_opening_of(name) or "none"
    asked = _Asked(problems, source, style, opening, samples, max_completion_length, seed)
    merge = _Merge(name, folder, attention_of(name), dtype, asked, device, trust_remote_code, on_proof)
    model, tokenizer = load_model(name, device=device, trust_remote_code=trust_remote_code)
    if not has_tags(tokenizer):
        on_proof(f"tags: {TAGS_ARE['text'].format(name)}")
    on_proof(f"{len(problems)} problems of {source}, {samples} responses each, prompt style {style}")

    # The adapter is asked before it is merged, which changes the weights of its base in place. Here and below
    # `expected`, `reference` and `got` are logits, (tokens, vocabulary), at the same positions.
    expected, before = last_logits(model, tokenizer, asked.texts), asked.respond(model, tokenizer)
    merged = model.merge_and_unload()
    reference = _prove_merged(merge, merged, tokenizer, expected)

    # Until the last proof all is in a hidden folder: what has the name that was asked for has been proved.
    with drafting(folder) as draft:
        kept = {
            key: str(settings[key])
            for key in ("prompt_style", "paths", "max_paths", "recipe")
            if key in settings
        }
        handed_over = {"attention": merge.attention} | said_of_opening(opening) | kept
        _save(_cast(merged, dtype), tokenizer, handed_over, draft)
        if dtype != torch.float32:  # what is read back has the weights as rounded, and is compared with these
            reference = last_logits(_cast(merged, torch.float32), tokenizer, asked.texts)
        del model, merged  # else two models were held while what was written is proved
        got = _prove_saved(merge, draft, tokenizer, expected, reference, before)
        four_bit = None
        if settings.get("load_in_4bit") is True:
            four_bit = _compare_with_4bit(name, asked.texts, got, device, trust_remote_code)
            on_proof(_about_4bit(four_bit))
        if merge.attention == "structured":
            on_proof(OTHER_ENGINES)
        agreed = {"top_1_agreement": agreement(expected, got), "trained_in_4bit": four_bit}
        runs.write_json(draft / RECORD, _record(merge, adapter, has_tags(tokenizer), agreed))
        difference = max(proof.numbers.get("largest_difference", 0.0) for proof in merge.proofs)
        write_merged_card(draft, adapter, _name(dtype), difference)
        put(draft, folder)
    return difference


@dataclass(frozen=True)
class _Asked:
    """What the adapter is asked and the merged model again, to compare them."""

    problems: list[str]
    problems_of: str
    prompt_style: str
    path_opening: str
    samples: int
    max_completion_length: int
    seed: int

    @property
    def prompts(self) -> list[str]:
        return [
            render_prompt(problem, self.prompt_style, path_opening=self.path_opening)
            for problem in self.problems
        ]

    @property
    def texts(self) -> list[str]:
        """Whose logits are compared."""
        return texts_to_compare(self.problems, self.prompt_style, self.path_opening)

    def respond(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> list[Response]:
        """`samples` responses to each problem."""
        decoder = ForkJoinDecoder(model, tokenizer, limits=Limits(max_new_tokens=self.max_completion_length))
        groups = decoder.generate(self.prompts, samples=self.samples, seed=self.seed)
        return [each for group in groups for each in group]


@dataclass(frozen=True)
class _Merge:
    """An adapter that is merged into `folder`, and the proofs that held so far."""

    name: str
    folder: Path
    attention: str | None
    dtype: torch.dtype  # of the weights that are written
    asked: _Asked
    device: str
    trust_remote_code: bool
    on_proof: Callable[[str], None]
    proofs: list[Proof] = field(default_factory=list)

    def keep(self, proof: Proof) -> None:
        """Raises ModelError where the proof fails."""
        if proof.fault:
            raise ModelError(
                f"{self.name!r}: {proof.fault}; the adapter is kept, use it unmerged; nothing was written to "
                f"{self.folder}"
            )
        self.proofs.append(proof)
        self.on_proof(proof.line)


def _adapter_to_merge(name: str, folder: Path, trust_remote_code: bool) -> Path:
    """The adapter of `name`; raises what can be told before anything is loaded."""
    adapter = runs.adapter_dir(name)
    if adapter is None:
        raise ModelError(
            f"{name!r} is not an adapter or a run that has one; give a run folder of `prl sft` or `prl rl`"
        )
    if folder.exists():
        raise ModelError(
            f"{folder} exists; name a folder that does not, and the merged model is written there"
        )
    check_writable(folder)
    attention_of(name)
    _refuse_quantised(runs.base_of_adapter(adapter), trust_remote_code)
    return adapter


def _prove_merged(
    merge: _Merge, merged: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, expected: Tensor
) -> Tensor:
    """The logits of the merged model, which are those `expected` (tokens, vocabulary)."""
    texts, device = merge.asked.texts, merge.device
    got = last_logits(merged, tokenizer, texts)
    proof = prove_logits(expected, got, "merged")
    if proof.fault and device != "mps":  # which has no float64
        proof = _prove_in_float64(merge.name, merged, tokenizer, texts, device, merge.trust_remote_code)
    merge.keep(proof)
    return got


def _prove_saved(
    merge: _Merge,
    draft: Path,
    tokenizer: PreTrainedTokenizerBase,
    expected: Tensor,
    reference: Tensor,
    before: Sequence[Response],
) -> Tensor:
    """The logits of what is read back from `draft`, which are those of `reference` (tokens, vocabulary).

    `expected` and `before` are what the adapter gave: logits and responses.
    """
    asked = merge.asked
    again, reloaded = _load_again(draft, merge.device, merge.name)
    # Each proof builds on those before it: logits say nothing where a text is read as other tokens.
    merge.keep(prove_tokenizer(tokenizer, reloaded, asked.texts, asked.problems, asked.prompt_style))
    merge.keep(prove_end(draft, asked.prompts, asked.max_completion_length, merge.device))
    if has_tags(tokenizer):
        check_tags(again, reloaded)
    # The end was proved without structure, for other engines decode causally. What follows is compared with
    # the adapter, under the adapter's own attention.
    if merge.attention == "structured":
        attach_structure(again, Tags.of(reloaded))
    set_path_opening(again, asked.path_opening)
    got = last_logits(again, reloaded, asked.texts)
    merge.keep(prove_logits(reference, got, "saved", f"those of its weights in {_name(merge.dtype)}"))
    top_1 = agreement(expected, got)
    merge.on_proof(f"the likeliest token is the adapter's at {top_1:.1%} of {len(got)} positions")
    merge.keep(prove_tags(before, asked.respond(again, reloaded), same=merge.dtype == torch.float32))
    return got


def _record(merge: _Merge, adapter: Path, knows_tags: bool, agreed: dict[str, Any]) -> dict[str, Any]:
    """What `merge.json` says."""
    return {
        "adapter": merge.name,
        "base": runs.base_of_adapter(adapter),
        "save_dtype": _name(merge.dtype),
        "attention": merge.attention,
        "tags": "tokens" if knows_tags else "text",
        **asdict(merge.asked),
        "proofs": {proof.name: dict(proof.numbers) for proof in merge.proofs},
        **agreed,
        "other_engines": OTHER_ENGINES if merge.attention == "structured" else None,
        "versions": {"prl": __version__} | runs.describe_environment()["versions"],
    }


def _refuse_quantised(base: str, trust_remote_code: bool) -> None:
    config = config_of(base, trust_remote_code=trust_remote_code)
    if quantised := getattr(config, "quantization_config", None):
        how = quantised.get("quant_method") if isinstance(quantised, dict) else quantised.quant_method
        raise ModelError(
            f"the base {base!r} is quantised on disk ({getattr(how, 'value', how)}), and merging would "
            "round the adapter away; name its 16-bit original as base_model_name_or_path in "
            "adapter_config.json of the adapter"
        )


def _problems(run: Path | None, settings: dict[str, Any]) -> tuple[list[str], str]:
    """Problems and where they are from: the run's data set, else the responses that it kept, else built in.

    A data set of the Hub is not asked for, so that merging needs no network.
    """
    dataset, split = settings.get("dataset"), settings.get("dataset_split")
    if isinstance(dataset, str) and (is_procedural(dataset) or Path(dataset).is_file()):
        with contextlib.suppress(DataError):
            rows = load_rows(dataset, split=str(split), need=("problem",), limit=PROBLEMS, on_bad="skip")
            return [row["problem"] for row in rows], f"{dataset}, the run's own"
    if run is not None:
        with contextlib.suppress(RunError):
            kept = runs.read_samples(run).column("problem").to_pylist()
            if problems := list(dict.fromkeys(problem for problem in kept if problem))[:PROBLEMS]:
                return problems, "the responses that the run kept"
    rows = load_rows("arithmetic:mixed", need=("problem",), limit=PROBLEMS)
    return [row["problem"] for row in rows], "arithmetic:mixed, built in"


def _prove_in_float64(
    name: str,
    merged: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    device: str,
    trust_remote_code: bool,
) -> Proof:
    """A second look, with the same limit. Sums of float32 in another order differ too, the more the larger
    the model (by 1e-4 at 135M parameters and logits of 40); in float64 what is left is the merge's own fault.
    """
    exact, _ = load_model(name, dtype=torch.float64, device=device, trust_remote_code=trust_remote_code)
    expected = last_logits(_cast(exact, torch.float64), tokenizer, texts)  # PEFT leaves its own in float32
    del exact
    got = last_logits(_cast(merged, torch.float64), tokenizer, texts)
    _cast(merged, torch.float32)  # exact: they were float32
    proof = prove_logits(expected, got, "merged")
    return replace(
        proof, line=f"{proof.line}, in float64", numbers={**proof.numbers, "computed_in": "float64"}
    )


def _cast(model: Any, dtype: torch.dtype) -> Any:
    """Parameters only, in place: `model.to` would round the frequencies of the rotary embedding too, which
    loading does not."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _save(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, handed_over: dict[str, Any], draft: Path
) -> None:
    """Write a folder that transformers 4 reads as well: vLLM may bring that one."""
    # What a base says besides (repetition_penalty, top_k) has `generate` and vLLM answer otherwise than prl.
    ends = ("bos_token_id", "eos_token_id", "pad_token_id")
    model.generation_config = GenerationConfig(**{key: getattr(model.generation_config, key) for key in ends})
    with writing(draft):
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
    runs.write_json(draft / ATTENTION_FILE, handed_over)
    config = read_json(draft / "config.json")
    if rope := config.get("rope_parameters"):
        runs.write_json(draft / "config.json", config | _older_rope(rope))
    said = read_json(draft / "tokenizer_config.json")
    if said.get("tokenizer_class") == "TokenizersBackend":
        said["tokenizer_class"] = "PreTrainedTokenizerFast"
        said["model_input_names"] = ["input_ids", "attention_mask"]  # else it adds token_type_ids there
    if isinstance(extra := said.pop("extra_special_tokens", None), list):
        said["additional_special_tokens"] = extra
    runs.write_json(draft / "tokenizer_config.json", said)


def _older_rope(rope: dict[str, Any]) -> dict[str, Any]:
    """What transformers 4 calls the `rope_parameters`, which may be those of each kind of layer (Gemma 3).
    Without it, that version takes its default base frequency and the model is gibberish there."""
    full, local = rope.get("full_attention") or rope, rope.get("sliding_attention") or {}
    older = {"rope_theta": full.get("rope_theta"), "rope_local_base_freq": local.get("rope_theta")}
    if full.get("rope_type", "default") != "default":
        older["rope_scaling"] = {key: value for key, value in full.items() if key != "rope_theta"}
    return {key: value for key, value in older.items() if value is not None}


def _load_again(draft: Path, device: str, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        model = AutoModelForCausalLM.from_pretrained(draft, dtype=torch.float32).to(device).eval()
        return model, AutoTokenizer.from_pretrained(draft)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first = first_line(error)
        raise ModelError(
            f"{name!r}: the saved model cannot be loaded again: {first}; the adapter is kept, use it unmerged"
        ) from error


def _compare_with_4bit(
    name: str, texts: Sequence[str], merged: Tensor, device: str, trust_remote_code: bool
) -> dict[str, Any]:
    """How far the 4-bit model that was trained is from the merged one: information, not a proof."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return {"not_measured": "bitsandbytes is not installed"}
    try:
        model, tokenizer = load_model(
            name, load_in_4bit=True, device=device, trust_remote_code=trust_remote_code
        )
        trained = last_logits(model, tokenizer, texts)
    except (PrlError, ImportError, RuntimeError, ValueError) as error:
        return {"not_measured": first_line(error)}
    return {
        "kl_of_trained_from_merged": divergence(trained, merged),
        "top_1_agreement": agreement(trained, merged),
        "tokens": len(merged),
    }


def _about_4bit(found: dict[str, Any]) -> str:
    line = "trained on the 4-bit base, merged into the unquantised one; "
    if "not_measured" in found:
        return f"{line}how far they differ was not measured: {found['not_measured']}"
    return (
        f"{line}the model as trained differs by KL {found['kl_of_trained_from_merged']:.2g} nats a token; "
        f"its likeliest token is the merged one's at {found['top_1_agreement']:.1%} of positions"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

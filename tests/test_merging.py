"""Merging: every proof holds on a sound merge, and each kind of broken merge fails by the proof that is for
it, loudly, with the adapter kept and nothing left behind."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from prl import cli, runs, tiny
from prl.config import resolve
from prl.data.problems import generate
from prl.decoding import ForkJoinDecoder, Limits, Response, Sampling
from prl.errors import ModelError, RunError
from prl.grammar import render
from prl.model import Lora, drafts, load_model, merge_and_verify, merging, proofs, save_adapter, tag_ids
from prl.model.gguf import export_gguf
from prl.model.proofs import chance_of, divergence, prove_tags
from prl.prompts import render_prompt, render_response
from warm import launcher

QUICK = {"samples": 1, "max_completion_length": 48}
TRACE = render(["3 + 4 = 7.", "4 + 3 = 7."], "Both give 7.") + "\nFinal Answer: 7"
PROBLEMS = [row["problem"] for row in generate("easy", 8)]


def train(model, tokenizer, steps: int) -> None:
    """Teach `TRACE` as the answer to everything, so that what is sampled holds a block."""
    texts = [render_prompt(problem, "bare") + render_response(TRACE) for problem in PROBLEMS[:4]]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(steps):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def write_run(
    folder: Path, steps: int = 3, base: str = tiny.NAME, attention: str = "causal", **settings
) -> Path:
    """A run folder as `prl sft` leaves it, with an adapter that was trained a little."""
    in_4bit = settings.get("load_in_4bit", False)
    model, tokenizer = load_model(
        base, attention=attention, lora=Lora(r=8), trainable=True, load_in_4bit=in_4bit
    )
    train(model, tokenizer, steps)
    save_adapter(model, tokenizer, folder / "adapter")
    section = {"prompt_style": "bare", "dataset": "arithmetic:easy", "paths": "2", **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump({"command": "sft", "recipe": "tiny", "sft": section}))
    (folder / "environment.json").write_text('{"stage": "sft"}')
    return folder


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose adapter answers with a block."""
    return write_run(tmp_path_factory.mktemp("speaker"), steps=60, max_paths=6)


@pytest.fixture(scope="module")
def merged(speaker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What it merges to, for tests that only read."""
    folder = tmp_path_factory.mktemp("speaker-merged") / "merged"
    merge_and_verify(str(speaker), folder, **QUICK)
    return folder


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a random Qwen3 with a head of its own, and fewer rows than the tags need."""
    folder = tmp_path_factory.mktemp("untied")
    tokenizer = AutoTokenizer.from_pretrained(tiny.BASE)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, tie_word_embeddings=False,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return write_run(folder / "run", base=str(folder / "base"))


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- A sound merge


def test_a_sound_merge_shows_every_proof(speaker: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    before = hashes(speaker)
    difference = merge_and_verify(
        str(speaker), tmp_path / "merged", samples=2, max_completion_length=96, on_proof=lines.append
    )
    record = json.loads((tmp_path / "merged" / "merge.json").read_text())
    assert hashes(speaker) == before
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    assert list(record["proofs"]) == ["logits_merged", "tokenizer", "end", "logits_saved", "tags"]
    assert difference == record["proofs"]["logits_merged"]["largest_difference"] <= 1e-4
    assert record["proofs"]["logits_saved"]["largest_difference"] == 0
    assert record["problems"] == PROBLEMS
    assert record["problems_of"] == "arithmetic:easy, the run's own"
    assert (record["base"], record["prompt_style"], record["trained_in_4bit"]) == ("tiny", "bare", None)
    tags = record["proofs"]["tags"]
    assert tags["responses"] == 16
    assert tags["with_block"]["adapter"] == tags["with_block"]["merged"] > 0.5
    assert tags["same_token_ids"] >= 0.9
    end = record["proofs"]["end"]
    assert end["prompts_ended"] == end["ended_by_generate"] > 0
    assert record["versions"]["transformers"].startswith("5.")
    assert len(lines) == 7
    assert lines[0].startswith(
        "8 problems of arithmetic:easy, the run's own, 2 responses each, prompt style bare"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_untied_head_merges_in_every_precision(untied: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    difference = merge_and_verify(str(untied), tmp_path / "merged", dtype=dtype, **QUICK)
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {dtype}
    assert not torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    record = json.loads((tmp_path / "merged" / "merge.json").read_text())
    assert record["save_dtype"] == str(dtype).removeprefix("torch.")
    assert record["top_1_agreement"] > 0.9
    assert difference <= 1e-4
    # Read back, 16-bit weights are what they were rounded to, to the bit.
    assert record["proofs"]["logits_saved"]["largest_difference"] == 0


def test_a_structured_adapter_says_what_other_engines_do(tmp_path: Path) -> None:
    write_run(tmp_path / "run", attention="structured")
    lines: list[str] = []
    merge_and_verify(str(tmp_path / "run"), tmp_path / "merged", on_proof=lines.append, **QUICK)
    record = json.loads((tmp_path / "merged" / "merge.json").read_text())
    assert record["attention"] == "structured"
    assert record["other_engines"] == lines[-1]
    assert "llama.cpp decode causally" in lines[-1]
    assert json.loads((tmp_path / "merged" / "prl.json").read_text())["attention"] == "structured"


def test_qlora_merges_into_the_unquantised_base(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes")
    write_run(tmp_path / "run", load_in_4bit=True)
    lines: list[str] = []
    merge_and_verify(str(tmp_path / "run"), tmp_path / "merged", on_proof=lines.append, **QUICK)
    found = json.loads((tmp_path / "merged" / "merge.json").read_text())["trained_in_4bit"]
    assert lines[-1].startswith(
        "trained on the 4-bit base, merged into the unquantised one; the model as trained"
    )
    assert 0 < found["kl_of_trained_from_merged"] < 1
    assert 0.5 < found["top_1_agreement"] <= 1
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())


def test_without_bitsandbytes_the_distance_is_not_measured(
    speaker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging.importlib.util, "find_spec", lambda name: None)
    found = merging._compare_with_4bit(str(speaker), [], torch.zeros(1, 1), "cpu", False)
    assert "not measured: bitsandbytes is not installed" in merging._about_4bit(found)


def test_problems_come_from_what_the_run_kept_when_the_data_set_is_out_of_reach(tmp_path: Path) -> None:
    with runs.open_run(str(tmp_path), command="sft", config={"command": "sft", "sft": {}}) as run:
        run.log_samples(0, [{"problem": "What is 2 + 2?", "text": "4"}, {"problem": "What is 2 + 2?"}])
    assert merging._problems(tmp_path, {"dataset": "owner/of-the-hub"}) == (
        ["What is 2 + 2?"],
        "the responses that the run kept",
    )
    problems, source = merging._problems(None, {"dataset": "missing.parquet"})
    assert (len(problems), source) == (8, "arithmetic:mixed, built in")


# --- The folder that is handed over


def test_plain_transformers_load_it_and_stop(speaker: Path, merged: Path) -> None:
    """In a process that cannot import prl; its greedy response is that of prl's decoder."""
    script = f"""
import json, sys
sys.modules["prl"] = None  # importing it raises ImportError
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("merged")
tokenizer = AutoTokenizer.from_pretrained("merged")
turns = [{{"role": "user", "content": {PROBLEMS[0]!r}}}]
options = {{"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}}
batch = tokenizer.apply_chat_template(turns, **options)
ids = model.generate(**batch, max_new_tokens=96, do_sample=False)[0, batch["input_ids"].shape[1]:].tolist()
print(json.dumps(ids))
"""
    done = subprocess.run(
        [*launcher(), "-c", script], cwd=merged.parent, capture_output=True, text=True, check=True
    )
    model, tokenizer = load_model(str(speaker))
    decoder = ForkJoinDecoder(
        model, tokenizer, limits=Limits(max_new_tokens=96), sampling=Sampling(temperature=0.0)
    )
    ((expected,),) = decoder.generate([render_prompt(PROBLEMS[0], "bare")])
    assert not expected.truncated
    assert tag_ids(tokenizer)[0] in expected.token_ids
    assert json.loads(done.stdout.splitlines()[-1]) == expected.token_ids


def test_the_folder_reads_the_same_with_transformers_4(merged: Path) -> None:
    """What its loaders ask for: vLLM may bring that version."""
    config = json.loads((merged / "config.json").read_text())
    base = json.loads((Path(tiny.BASE) / "config.json").read_text())
    assert config["rope_theta"] == base["rope_parameters"]["rope_theta"]
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    said = json.loads((merged / "tokenizer_config.json").read_text())
    assert said["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "extra_special_tokens" not in said
    assert said["model_input_names"] == ["input_ids", "attention_mask"]
    generation = json.loads((merged / "generation_config.json").read_text())
    assert generation["eos_token_id"] == config["eos_token_id"] == 2


def test_layers_with_a_rope_of_their_own_kind_read_the_same_with_transformers_4(tmp_path: Path) -> None:
    """As Gemma 3 from 4B on: scaled where attention is full, another base frequency where it slides."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.BASE)
    scaled = {"rope_type": "linear", "factor": 8.0}
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, layer_types=["sliding_attention", "full_attention"],
        num_hidden_layers=2, sliding_window=16, max_position_embeddings=512, bos_token_id=None,
        rope_parameters={
            "full_attention": scaled | {"rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    )  # fmt: skip
    torch.manual_seed(0)
    Gemma3ForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    write_run(tmp_path / "run", base=str(tmp_path / "base"))
    merge_and_verify(str(tmp_path / "run"), tmp_path / "merged", **QUICK)
    said = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert (said["rope_theta"], said["rope_local_base_freq"], said["rope_scaling"]) == (1e6, 1e4, scaled)
    assert said["rope_parameters"] == config.rope_parameters
    assert merging._older_rope({"main": {"rope_theta": 1e4}}) == {}, "nothing is no number to that version"


def test_generate_is_told_the_ends_and_no_way_to_sample(tmp_path: Path) -> None:
    """As the base of an instruct model says, whose ways plain `generate` and vLLM would take."""
    shutil.copytree(tiny.BASE, tmp_path / "base")
    edit_json(
        tmp_path / "base" / "generation_config.json",
        repetition_penalty=1.1, temperature=0.7, top_p=0.8, top_k=20, do_sample=True, bos_token_id=1,
    )  # fmt: skip
    write_run(tmp_path / "run", base=str(tmp_path / "base"))
    merge_and_verify(str(tmp_path / "run"), tmp_path / "merged", **QUICK)
    said = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    said.pop("transformers_version")
    assert said == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def test_prl_goes_on_with_what_the_run_was_trained_with(merged: Path, tmp_path: Path) -> None:
    settings = resolve("eval", model_name_or_path=str(merged), threads=1)
    assert (settings.arguments.prompt_style, settings.recipe) == ("bare", "tiny")
    assert (settings.arguments.attention, settings.arguments.max_paths) == ("causal", 6)
    shutil.copytree(merged, tmp_path / "merged")
    (tmp_path / "recipe.yaml").write_text("trust_remote_code: true\n")
    for value in (
        {"prompt_style": "evil", "paths": "1", "recipe": str(tmp_path / "recipe.yaml")},
        {"paths": 3, "max_paths": 6},
    ):
        (tmp_path / "merged" / "prl.json").write_text(json.dumps({"attention": "causal"} | value))
        settings = resolve("eval", model_name_or_path=str(tmp_path / "merged"), threads=1)
        assert settings.arguments.prompt_style == "parallel"
        assert (settings.arguments.paths, settings.arguments.max_paths) == ("2", 4)
        assert not settings.arguments.trust_remote_code


def test_the_command_merges_and_exports(
    speaker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gguf")
    folder = tmp_path / "merged"
    words = ["merge", str(speaker), "--output_dir", str(folder), "--gguf_type", "q8_0"]
    assert cli.main([*words, "--samples", "1", "--max_completion_length", "32"]) == 0
    out = capsys.readouterr().out
    assert f"{folder}: a whole model, proved" in out
    assert "8 sampled responses: a valid block" in out
    assert f"{folder / 'model-q8_0.gguf'}: the same as GGUF" in out
    assert json.loads((folder / "merge.json").read_text())["gguf"]["model-q8_0.gguf"]["type"] == "q8_0"
    assert cli.main(words) == 1
    assert "exists; name a folder that does not" in capsys.readouterr().err


# --- Broken merges: each fails by the proof that is for it


def scaled(model) -> None:
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data *= 1.5


@pytest.fixture
def break_merge(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable, Callable | None], None]:
    """Have the merge go wrong: before it on the adapter, after it on the merged model."""

    def install(before: Callable = lambda model: None, after: Callable = lambda model: None) -> None:
        load = merging.load_model

        def load_and_break(*args, **options):
            model, tokenizer = load(*args, **options)
            merge = model.merge_and_unload

            def merge_wrongly():
                before(model)
                merged = merge()
                with torch.no_grad():
                    after(merged)
                return merged

            model.merge_and_unload = merge_wrongly
            return model, tokenizer

        monkeypatch.setattr(merging, "load_model", load_and_break)

    return install


@pytest.fixture
def break_saved(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], None]], None]:
    """Have what was written to the disk be spoiled."""

    def install(spoil: Callable[[Path], None]) -> None:
        save = merging._save

        def save_and_spoil(model, tokenizer, handed_over, draft) -> None:
            save(model, tokenizer, handed_over, draft)
            spoil(draft)

        monkeypatch.setattr(merging, "_save", save_and_spoil)

    return install


def fails(run: Path, folder: Path, match: str, **options) -> None:
    before = hashes(run)
    with pytest.raises(ModelError, match=match) as caught:
        merge_and_verify(str(run), folder / "merged", **(QUICK | options))
    assert "the adapter is kept" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert hashes(run) == before
    assert list(folder.iterdir()) == []


def drop_tag_rows(model) -> None:
    base, tokenizer = load_model(tiny.NAME, tags="tokens", seed=7)
    rows = tag_ids(tokenizer)
    model.get_input_embeddings().weight[rows] = base.get_input_embeddings().weight[rows]


def test_a_scaled_update_fails_on_logits(speaker: Path, tmp_path: Path, break_merge) -> None:
    break_merge(before=scaled)
    fails(speaker, tmp_path, "logits of the merged model differ from the adapter's by")


def test_float32_that_is_not_exact_enough_gets_a_second_look_in_float64(
    speaker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[torch.dtype] = []

    def doubt_the_first(expected, got, *words):
        looks.append(got.dtype)
        proof = proofs.prove_logits(expected, got, *words)
        return dataclasses.replace(proof, fault="not the same") if len(looks) == 1 else proof

    monkeypatch.setattr(merging, "prove_logits", doubt_the_first)
    lines: list[str] = []
    merge_and_verify(str(speaker), tmp_path / "merged", on_proof=lines.append, **QUICK)
    assert lines[1].endswith("in float64")
    proof = json.loads((tmp_path / "merged" / "merge.json").read_text())["proofs"]["logits_merged"]
    assert proof["computed_in"] == "float64"
    assert proof["largest_difference"] <= proofs.MERGE_TOLERANCE
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_dropped_tag_rows_fail_on_logits(speaker: Path, tmp_path: Path, break_merge) -> None:
    break_merge(after=drop_tag_rows)
    fails(speaker, tmp_path, "logits of the merged model differ from the adapter's by")


def test_dropped_tag_rows_fail_on_the_tag_rate_alone(
    speaker: Path, tmp_path: Path, break_merge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proofs, "MERGE_TOLERANCE", torch.inf)
    break_merge(after=drop_tag_rows)
    match = r"the tags were lost: a valid block in \d+% of 32 sampled .*\(\d+ lost, 0 gained\)"
    fails(speaker, tmp_path, match, samples=4, max_completion_length=96)


def test_unrounded_weights_that_answer_otherwise_fail_and_rounded_ones_may(
    untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merged model is asked with another seed, which changes every response."""
    seeds: list[int] = []

    class Asked(ForkJoinDecoder):
        def generate(self, prompts, *, seed, **given):
            seeds.append(seed)
            return super().generate(prompts, seed=seed + len(seeds), **given)

    monkeypatch.setattr(merging, "ForkJoinDecoder", Asked)
    fails(untied, tmp_path, "0% of 8 responses are the adapter's for the same seed", seed=7)
    assert seeds == [7, 7]
    merge_and_verify(str(untied), tmp_path / "merged", dtype=torch.bfloat16, seed=7, **QUICK)


def test_weights_that_changed_on_disk_fail(speaker: Path, tmp_path: Path, break_saved) -> None:
    def spoil(draft: Path) -> None:
        weights = load_file(draft / "model.safetensors")
        weights["model.layers.1.mlp.up_proj.weight"][0, 0] += 0.5
        save_file(weights, draft / "model.safetensors", {"format": "pt"})

    break_saved(spoil)
    fails(speaker, tmp_path, "logits of the saved model differ from those of its weights in float32 by")


def test_truncated_weights_fail(speaker: Path, tmp_path: Path, break_saved) -> None:
    break_saved(lambda draft: os.truncate(draft / "model.safetensors", 100_000))
    fails(speaker, tmp_path, "the saved model cannot be loaded again: ")


def edit_json(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("file", "values", "match"),
    [
        ("tokenizer_config.json", {"eos_token": "<|endoftext|>"}, "tokenizer says 0"),
        ("generation_config.json", {"eos_token_id": 0}, "generation_config says 0"),
        ("config.json", {"eos_token_id": [2, 0]}, "config says [2, 0]"),
        ("generation_config.json", {"pad_token_id": 5}, "generation_config with 5"),
    ],
)
def test_a_wrong_end_fails(
    speaker: Path, tmp_path: Path, break_saved, file: str, values: dict, match: str
) -> None:
    break_saved(lambda draft: edit_json(draft / file, **values))
    fails(speaker, tmp_path, re.escape(match))


def test_a_generate_that_goes_on_fails(
    speaker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_ids = proofs._generate

    def go_on(model, *args):
        model.generation_config.eos_token_id = None
        return generate_ids(model, *args)

    monkeypatch.setattr(proofs, "_generate", go_on)
    fails(speaker, tmp_path, r"plain `generate` does not stop at <\|im_end\|>: it went on with \[")


def test_prompts_that_do_not_end_fail(speaker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate_ids = proofs._generate

    def never_end(model, tokenizer, prompts, most_tokens, processors=()):
        found = generate_ids(model, tokenizer, prompts, most_tokens, processors)
        return found if processors else [ids[:-1] for ids in found]

    monkeypatch.setattr(proofs, "_generate", never_end)
    fails(speaker, tmp_path, r"on 0 of the \d prompts that end within 96 tokens", max_completion_length=96)


def test_another_chat_template_fails(speaker: Path, tmp_path: Path, break_saved) -> None:
    break_saved(lambda draft: (draft / "chat_template.jinja").write_text("{{ messages[0]['content'] }}"))
    fails(speaker, tmp_path, "the saved chat template renders 'Compute")


def test_a_lost_chat_template_fails(speaker: Path, tmp_path: Path, break_saved) -> None:
    break_saved(lambda draft: (draft / "chat_template.jinja").unlink())
    fails(speaker, tmp_path, "the saved chat template renders 'None'")


def test_a_tokenizer_without_the_tags_fails(speaker: Path, tmp_path: Path, break_saved) -> None:
    break_saved(lambda draft: shutil.copy(Path(tiny.BASE) / "tokenizer.json", draft))
    fails(
        speaker,
        tmp_path,
        r"the saved tokenizer reads a text of \d+ tokens as \d+ other ones; the tags have ids",
    )


def test_a_tilde_is_home_to_callers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in ("adapter_config.json", "adapter_model.safetensors", "model-f16.gguf"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match=f"^{re.escape(str(tmp_path))} exists"):
        merge_and_verify(str(tmp_path), Path("~"))
    for file in (None, Path("~/model-f16.gguf")):
        with pytest.raises(ModelError, match=f"^{re.escape(str(tmp_path / 'model-f16.gguf'))} exists"):
            export_gguf(Path("~"), file)


def test_a_base_that_is_quantised_on_disk_is_refused(speaker: Path, tmp_path: Path) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(tiny.BASE, base)
    shutil.copytree(speaker, run)
    edit_json(
        base / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}
    )
    edit_json(run / "adapter" / "adapter_config.json", base_model_name_or_path=str(base))
    with pytest.raises(ModelError, match=r"quantised on disk \(bitsandbytes\).*name its 16-bit original"):
        merge_and_verify(str(run), tmp_path / "merged", **QUICK)
    assert not (tmp_path / "merged").exists()


def test_a_full_disk_is_said(speaker: Path, tmp_path: Path, break_saved) -> None:
    def fill(draft: Path) -> None:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    break_saved(fill)
    with pytest.raises(RunError, match=r"no space left on the disk of .*the adapter is kept"):
        merge_and_verify(str(speaker), tmp_path / "merged", **QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_kill_leaves_no_half_folder(speaker: Path, tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from prl.model import merge_and_verify, merging
merging._load_again = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
merge_and_verify({str(speaker)!r}, Path("merged"), samples=1, max_completion_length=8)
"""
    done = subprocess.run([*launcher(), "-c", script], cwd=tmp_path, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert re.fullmatch(r"\.merged\.\d+\.tmp", left.name)
    (left / "left_by_the_kill").touch()
    merge_and_verify(str(speaker), tmp_path / "merged", **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    assert not (tmp_path / "merged" / "left_by_the_kill").exists()


def test_drafts_of_other_processes_stay_while_they_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {name: tmp_path / f".merged.{name}.tmp" for name in ("5", "6", str(os.getpid()), "x.6")}
    for folder in (*names.values(), tmp_path / ".merged2.6.tmp"):
        folder.mkdir()
        (folder / "weights").touch()
    monkeypatch.setattr(drafts.psutil, "pid_exists", lambda pid: pid == 5)
    with drafts.drafting(tmp_path / "merged") as draft:
        assert draft == names.pop(str(os.getpid()))
        assert {*tmp_path.iterdir()} == {names["5"], names["x.6"], tmp_path / ".merged2.6.tmp"}
        draft.mkdir()
    assert not draft.exists()
    assert (names["5"] / "weights").exists()


def test_what_another_process_wrote_meanwhile_stays(tmp_path: Path) -> None:
    draft, target = tmp_path / "draft", tmp_path / "model.gguf"
    draft.write_text("mine")
    target.write_text("theirs")
    with pytest.raises(ModelError) as caught:
        drafts.put(draft, target)
    assert str(caught.value) == f"{target} was written by another process meanwhile, and stays; name another"
    assert target.read_text() == "theirs"


# --- The rule for tags


def responses(*texts: str) -> list[Response]:
    return [Response([*text.encode()], text, False, [], [], [], 0) for text in texts]


@pytest.mark.parametrize(
    ("lost", "gained", "is_fault"),
    [
        (0, 0, False),
        (6, 0, False),  # 1 in 64: chance may do that
        (7, 0, True),  # 1 in 128
        (0, 20, False),  # more tags are not lost ones
        (10, 6, False),
        (16, 3, True),
    ],
)
def test_tags_are_lost_when_chance_does_not_explain_it(lost: int, gained: int, is_fault: bool) -> None:
    both = 32 - lost - gained
    before = responses(*[TRACE] * (both + lost), *["7"] * gained)
    after = responses(*[TRACE] * both, *["7"] * lost, *[TRACE] * gained)
    proof = prove_tags(before, after, same=False)
    assert proof.numbers["with_block"]["lost"] == lost
    assert proof.numbers["with_block"]["gained"] == gained
    assert (proof.fault is not None) == is_fault
    assert "a valid block" in (proof.fault or proof.line)


def test_a_broken_format_is_a_loss_of_its_own() -> None:
    before, after = responses(*["It is 7."] * 16), responses(*["It is <Path> 7."] * 16)
    proof = prove_tags(before, after, same=False)
    assert proof.fault is not None
    assert "the right format in 100% of 16" in proof.fault


def test_unrounded_weights_must_repeat_the_responses() -> None:
    before, after = responses(*"abcdefgh"), responses(*"abcdeXYZ")
    assert prove_tags(before, after, same=False).fault is None
    assert "62% of 8 responses are the adapter's" in str(prove_tags(before, after, same=True).fault)
    assert prove_tags(before, responses(*"abcdefYZ"), same=True).fault is None


def test_chance_of_is_the_sign_test() -> None:
    assert [chance_of(0, 0), chance_of(0, 4), chance_of(2, 2)] == [1, 1, 11 / 16]


def test_divergence_is_zero_for_equal_and_positive_for_other_logits() -> None:
    first = torch.tensor([[0.0, 1.0, 2.0]])
    assert divergence(first, first + 3) == pytest.approx(0, abs=1e-12)
    other = torch.tensor([[0.0, 0.0, 0.0]])
    p = first.double().softmax(-1)
    assert divergence(first, other) == pytest.approx((p * (p * 3).log()).sum().item())


# --- The real model


@pytest.mark.real
@pytest.mark.slow
def test_real_135m_model_merges_and_exports(real_model: Path, tmp_path: Path) -> None:
    """In float32 alone this sound merge would be refused: the sums differ by more than 1e-4."""
    model, tokenizer = load_model(str(real_model), lora=Lora(r=4), trainable=True)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    save_adapter(model, tokenizer, tmp_path / "adapter")
    del model
    lines: list[str] = []
    difference = merge_and_verify(
        str(tmp_path / "adapter"), tmp_path / "merged", dtype=torch.bfloat16, prompts=PROBLEMS[:2],
        samples=1, max_completion_length=8, on_proof=lines.append,
    )  # fmt: skip
    assert difference <= 1e-4
    assert len(lines) == 7
    assert lines[1].endswith("in float64")
    gguf = pytest.importorskip("gguf")
    for kind in ("f16", "q8_0"):
        file = export_gguf(tmp_path / "merged", gguf_type=kind)
        types = {each.tensor_type for each in gguf.GGUFReader(file).tensors}
        assert types == {gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType[kind.upper()]}

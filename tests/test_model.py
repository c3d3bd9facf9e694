"""Model and tags: rows of their own, checks that refuse, adapters that survive saving, handing over and
merging."""

import copy
import importlib.metadata
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AddedToken,
    AutoTokenizer,
    PhiConfig,
    PhiForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from trl.trainer.utils import add_fused_lm_head

from prl import evaluation, rl, runs, sft, tiny
from prl.config import resolve
from prl.decoding import ForkJoinDecoder
from prl.errors import ModelError, RunError
from prl.grammar import TAGS
from prl.model import (
    Lora,
    add_tags,
    attention_of,
    check_loadable,
    check_tags,
    describe,
    load_model,
    load_tokenizer,
    merge_and_verify,
    path_opening_of,
    resolve_attention,
    save_adapter,
    tag_ids,
)
from prl.prompts import CHAT_TEMPLATE, IM_END, render_prompt, render_response
from prl.runs.disk import torn_safetensors
from prl.structure import Tags, attach_structure, attached_structure
from prl.traces.local import weights_fingerprint
from prl.trainer.resuming import of_model

TEXT = render_prompt("Compute 3 + 4.", "bare") + render_response(
    "<Parallel><Path>\n3+4=7.\n</Path><Path>\n4+3=7.\n</Path></Parallel>\n<Summary>\nBoth give 7.\n</Summary>"
)

QUICK = {"prompts": ["Compute 3 + 4.", "What is 12 * 12?"], "samples": 1, "max_completion_length": 16}


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random two-layer Qwen3 with separate embeddings and fewer rows than the tags need."""
    folder = tmp_path_factory.mktemp("untied")
    tokenizer = AutoTokenizer.from_pretrained(tiny.BASE)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, tie_word_embeddings=False,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=["tied", "untied"])
def base(request: pytest.FixtureRequest, untied: str) -> str:
    return tiny.NAME if request.param == "tied" else untied


def train_a_little(model, tokenizer, steps: int = 3) -> None:
    """A few large steps on one text, through TRL's fused head as both trainers call it."""
    ids = tokenizer(TEXT, return_tensors="pt", add_special_tokens=False)["input_ids"]
    if not hasattr(model, "is_fused"):
        add_fused_lm_head(model.get_base_model())
        model.is_fused = True
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        model(input_ids=ids, labels=ids, fused_lm_head=True).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def logits(model, tokenizer) -> torch.Tensor:
    return model.eval()(**tokenizer(TEXT, return_tensors="pt", add_special_tokens=False)).logits


def test_tags_are_single_visible_tokens_with_rows_of_their_own(base: str) -> None:
    model, tokenizer = load_model(base, tags="tokens")
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert [ids.count(index) for index in tag_ids(tokenizer)] == [1, 1, 2, 2, 1, 1]
    assert all(tag in tokenizer.decode(ids, skip_special_tokens=True) for tag in TAGS)
    rows = torch.nn.functional.normalize(model.get_input_embeddings().weight[tag_ids(tokenizer)], dim=-1)
    assert (rows @ rows.T - 2 * torch.eye(6)).max() < 0.99
    usual = model.get_input_embeddings().weight[:384].norm(dim=-1).median()
    trained = model.get_input_embeddings().weight[tag_ids(tokenizer)].norm(dim=-1)
    assert torch.allclose(trained, usual.expand(6), rtol=0.05)


def test_a_turn_ends_with_eos_everywhere(base: str) -> None:
    model, tokenizer = load_model(base, tags="tokens")
    end = tokenizer.convert_tokens_to_ids(IM_END)
    assert (tokenizer.eos_token_id, model.config.eos_token_id, model.generation_config.eos_token_id) == (
        end,
    ) * 3
    assert tokenizer.pad_token_id not in (None, end)
    assert tokenizer(TEXT, add_special_tokens=False)["input_ids"][-1] == end


def test_fused_head_equals_the_plain_forward_and_reaches_the_tag_rows(base: str) -> None:
    # The bridge is needed for, and was written against, these two.
    assert importlib.metadata.version("trl").startswith("1.16.")
    assert importlib.metadata.version("peft").startswith("0.21.")
    model, tokenizer = load_model(base, lora=Lora(r=4), trainable=True)
    train_a_little(model, tokenizer)  # away from the initial point, where LoRA's B is zero
    ids = tokenizer(TEXT, return_tensors="pt", add_special_tokens=False)["input_ids"]
    gradients = []
    for fused in ({"fused_lm_head": True}, {}):
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids, **fused).loss
        loss.backward()
        gradients.append(
            (loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})
        )
    (fused_loss, fused_grads), (plain_loss, plain_grads) = gradients
    assert fused_loss == pytest.approx(plain_loss, abs=1e-5)
    for name, gradient in plain_grads.items():
        torch.testing.assert_close(fused_grads[name], gradient, atol=1e-5, rtol=1e-3, msg=name)
    rows = [gradient for name, gradient in fused_grads.items() if "trainable_tokens" in name]
    assert len(rows) == (1 if base == tiny.NAME else 2)
    assert all(gradient.abs().sum(dim=-1).min() > 0 for gradient in rows)


def test_fused_head_reads_the_base_rows_when_the_adapter_is_disabled() -> None:
    model, tokenizer = load_model(tiny.NAME, lora=Lora(r=4), trainable=True)
    train_a_little(model, tokenizer)
    ids = tokenizer(TEXT, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad(), model.disable_adapter():
        fused = model(input_ids=ids, labels=ids, fused_lm_head=True).loss
        plain = model(input_ids=ids, labels=ids).loss
    assert fused.item() == pytest.approx(plain.item(), abs=1e-5)


@torch.no_grad()
def test_a_head_keeps_its_bias_where_its_rows_are_trained(tmp_path: Path) -> None:
    """As that of Phi-1.5 and Phi-2."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.BASE)
    config = PhiConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=None, eos_token_id=2,
    )  # fmt: skip
    base = PhiForCausalLM(config)
    base.lm_head.bias.normal_()
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model, tokenizer = load_model(str(tmp_path / "base"), lora=Lora(r=4), trainable=True)
    plain, _ = load_model(str(tmp_path / "base"), tags="tokens")
    assert model.get_output_embeddings().bias[:384].equal(base.lm_head.bias)
    expected = logits(plain, tokenizer)
    assert torch.allclose(logits(model, tokenizer), expected, atol=1e-5), "a new adapter changes nothing"
    with model.disable_adapter():
        assert torch.allclose(logits(model, tokenizer), expected, atol=1e-5)
    ForkJoinDecoder(model, tokenizer)
    with torch.enable_grad():
        train_a_little(model, tokenizer)
    save_adapter(model, tokenizer, tmp_path / "adapter")
    assert merge_and_verify(str(tmp_path / "adapter"), tmp_path / "merged", **QUICK) <= 1e-4
    again, _ = load_model(str(tmp_path / "merged"))
    assert torch.allclose(logits(again, tokenizer), logits(model, tokenizer), atol=1e-4)
    assert not torch.allclose(logits(again, tokenizer), expected, atol=1e-2), "it was trained"


def test_adapter_survives_saving_handing_over_and_merging(base: str, tmp_path: Path) -> None:
    model, tokenizer = load_model(base, lora=Lora(r=4), trainable=True, seed=3)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    before = logits(model, tokenizer)
    train_a_little(model, tokenizer)
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    after = logits(model, tokenizer)
    assert (after - before).abs().max() > 0.1
    save_adapter(model, tokenizer, tmp_path / "adapter")
    assert (
        json.loads((tmp_path / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == base
    )

    # On another seed the fresh tag rows differ; those of the adapter must win.
    again, tokenizer = load_model(str(tmp_path / "adapter"), trainable=True, seed=4)
    assert (logits(again, tokenizer) - after).abs().max() <= 1e-4
    assert describe(again) == describe(model)
    train_a_little(again, tokenizer)
    assert (logits(again, tokenizer) - after).abs().max() > 0.1

    assert merge_and_verify(str(tmp_path / "adapter"), tmp_path / "merged", **QUICK) <= 1e-4
    merged, tokenizer = load_model(str(tmp_path / "merged"))
    assert (logits(merged, tokenizer) - after).abs().max() <= 1e-4


@pytest.mark.parametrize("attention", ["causal", "structured"])
def test_attention_stays_with_what_was_trained_with_it(tmp_path: Path, attention: str) -> None:
    model, tokenizer = load_model(tiny.NAME, attention=attention, lora=Lora(r=4), trainable=True)
    assert (attached_structure(model) is not None) == (attention == "structured")
    train_a_little(model, tokenizer)
    after = logits(model, tokenizer)
    save_adapter(model, tokenizer, tmp_path / "adapter")
    # A checkpoint of the trainer holds what PEFT saves, and no more.
    model.save_pretrained(str(tmp_path / "checkpoint-1"), state_dict=model.state_dict())
    tokenizer.save_pretrained(str(tmp_path / "checkpoint-1"))
    merge_and_verify(str(tmp_path / "adapter"), tmp_path / "merged", **QUICK)

    other = {"causal": "structured", "structured": "causal"}[attention]
    for folder in ("adapter", "checkpoint-1", "merged"):
        name = str(tmp_path / folder)
        assert attention_of(name) == resolve_attention(name, "auto") == attention
        for asked in (None, "auto", attention):
            again, tokenizer = load_model(name, attention=asked)
            assert (attached_structure(again) is not None) == (attention == "structured")
            assert (logits(again, tokenizer) - after).abs().max() <= 1e-4
        with pytest.raises(
            ModelError, match=f"was trained with attention {attention} and cannot be used with {other}"
        ):
            load_model(name, attention=other)
    (tmp_path / "merged" / "prl.json").write_text(f'{{"attention": "{other}"}}')
    again, tokenizer = load_model(str(tmp_path / "merged"))
    assert (logits(again, tokenizer) - after).abs().max() > 0.01, "the attention matters on this text"


def own_adapter(model, tokenizer):
    rows = {"embed_tokens": tag_ids(tokenizer)}
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", trainable_token_indices=rows)
    return get_peft_model(model, lora)


@pytest.mark.parametrize("kind", ["adapter", "own adapter", "adapter put around", "full model"])
def test_attaching_decides_what_is_saved(kind: str, tmp_path: Path) -> None:
    # The signatures of save_pretrained that the mark is hung on.
    assert importlib.metadata.version("transformers").startswith("5.")
    assert importlib.metadata.version("peft").startswith("0.21.")
    model, tokenizer = load_model(tiny.NAME, lora=Lora(r=4) if kind == "adapter" else None, tags="tokens")
    if kind == "own adapter":
        model = own_adapter(model, tokenizer)
    handle = attach_structure(model, Tags.of(tokenizer))
    if kind == "adapter put around":
        model = own_adapter(model, tokenizer)
    options = {} if kind in ("adapter", "full model") else {"save_embedding_layers": False}
    model.save_pretrained(str(tmp_path / "other process"), is_main_process=False, **options)
    assert not (tmp_path / "other process" / "prl.json").exists()
    folder = str(tmp_path / "saved")
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder, **options)
    assert attention_of(folder) == "structured"
    again, _ = load_model(folder)
    assert attached_structure(again) is not None
    again.save_pretrained(str(tmp_path / "again"))
    assert attention_of(tmp_path / "again") == "structured"

    handle.remove()
    model.save_pretrained(folder, **options)
    assert attention_of(folder) == "causal"
    again, _ = load_model(folder)
    assert attached_structure(again) is None
    model.save_pretrained(str(tmp_path / "fresh"), **options)
    assert attention_of(tmp_path / "fresh") == (None if kind == "full model" else "causal")


def test_a_mark_leaves_the_rest_of_the_file(tmp_path: Path) -> None:
    model, tokenizer = load_model(tiny.NAME, tags="tokens")
    attach_structure(model, Tags.of(tokenizer))
    (tmp_path / "prl.json").write_text('{"attention": "causal", "paths": "auto"}')
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "prl.json").read_text()) == {"attention": "structured", "paths": "auto"}


def test_a_copy_of_a_model_saves_itself(tmp_path: Path) -> None:
    model, tokenizer = load_model(tiny.NAME, lora=Lora(r=4), trainable=True)
    twin = copy.deepcopy(model)
    train_a_little(twin, tokenizer)
    attach_structure(twin, Tags.of(tokenizer))
    for each, name in ((model, "model"), (twin, "twin")):
        each.save_pretrained(str(tmp_path / name))
    weights, copied = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("model", "twin"))
    assert not any(torch.equal(weights[name], copied[name]) for name in weights if "lora_B" in name)
    assert [attention_of(tmp_path / name) for name in ("model", "twin")] == ["causal", "structured"]


def test_merging_compares_under_the_adapters_own_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load_model(tiny.NAME, attention="structured", lora=Lora(r=4), trainable=True)
    train_a_little(model, tokenizer)
    save_adapter(model, tokenizer, tmp_path / "adapter")
    # The adapter is structured, what is loaded again is not.
    monkeypatch.setattr("prl.model.merging.attach_structure", lambda model, tags: None)
    with pytest.raises(ModelError, match="saved model differ"):
        merge_and_verify(str(tmp_path / "adapter"), tmp_path / "merged", **QUICK)
    assert not (tmp_path / "merged").exists()


def test_attention_of_what_says_none(tmp_path: Path) -> None:
    assert attention_of(tiny.NAME) is None
    assert attention_of("Qwen/Qwen3-0.6B-Base") is None
    assert (resolve_attention(tiny.NAME, None), resolve_attention(tiny.NAME, "structured")) == (
        "causal",
        "structured",
    )
    with pytest.raises(ModelError, match="attention 'structure' is not one of causal, structured"):
        load_model(tiny.NAME, attention="structure")
    model, tokenizer = load_model(tiny.NAME, lora=Lora(r=4))
    save_adapter(model, tokenizer, tmp_path)
    (tmp_path / "prl.json").unlink()
    assert attention_of(tmp_path) == "causal", "an adapter from before there was a choice"
    for spoiled_file in ("", "{", "[]", "{}", '{"attention": "flash"}', '{"attention": []}', "\x00"):
        (tmp_path / "prl.json").write_text(spoiled_file)
        with pytest.raises(ModelError, match=r"prl\.json does not say") as error:
            load_model(str(tmp_path))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", tiny.FOLDERS)
def test_a_name_that_ships_is_the_model_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whatever folder is called so; `./tiny` is that."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / name
    with runs.open_run(
        folder, command="sft", config={"recipe": "8gb", "sft": {"prompt_style": "sequential"}}
    ):
        pass  # what `prl sft --recipe tiny --output_dir tiny` makes before it loads its base
    with pytest.raises(RunError, match="is a sft run that is not finished"):
        check_loadable(f"./{name}")
    check_loadable(name)
    settled = resolve("sft", model_name_or_path=name, device="cpu", threads=1)
    assert (settled.recipe, settled.arguments.prompt_style) == (name, "bare")
    assert of_model(name) == name
    assert weights_fingerprint(name) is None

    (folder / "environment.json").unlink()
    for file in ("config.json", "adapter_model.safetensors"):
        (folder / file).write_text("{}")
    (folder / "prl.json").write_text('{"attention": "structured", "path_opening": "number"}')
    assert (attention_of(f"./{name}"), path_opening_of(f"./{name}")) == ("structured", "number")
    assert (attention_of(name), path_opening_of(name)) == (None, None)
    assert of_model(f"./{name}") != of_model(name) == name
    assert load_tokenizer(name).get_vocab() == load_tokenizer(tiny.FOLDERS[name]).get_vocab()
    with pytest.raises(ModelError, match="no tokenizer files in"):
        load_tokenizer(f"./{name}")
    assert tiny.resolve(Path(name)) == name, "a path is a folder"


def test_merge_refuses_a_base_and_reports_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="'tiny' is not an adapter"):
        merge_and_verify("tiny", tmp_path / "merged")
    model, tokenizer = load_model(tiny.NAME, lora=Lora(r=4), trainable=True)
    train_a_little(model, tokenizer)
    save_adapter(model, tokenizer, tmp_path / "adapter")
    merge = type(model).merge_and_unload if hasattr(type(model), "merge_and_unload") else None
    assert merge is None  # PeftModel forwards it to its tuner
    tuner = type(model.base_model)
    monkeypatch.setattr(tuner, "merge_and_unload", lambda self, *a, **k: self.unload())
    with pytest.raises(ModelError, match="merged model differ"):
        merge_and_verify(str(tmp_path / "adapter"), tmp_path / "merged", **QUICK)
    assert not (tmp_path / "merged").exists()


def test_qlora_trains_on_the_cpu_backend_and_comes_back(tmp_path: Path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes")
    model, tokenizer = load_model(tiny.NAME, lora=Lora(r=4), trainable=True, load_in_4bit=True)
    quantised = [m for m in model.modules() if type(m) is bitsandbytes.nn.Linear4bit]
    assert len(quantised) == 4 * 7
    before = logits(model, tokenizer)
    train_a_little(model, tokenizer)
    after = logits(model, tokenizer)
    assert (after - before).abs().max() > 0.1
    save_adapter(model, tokenizer, tmp_path)
    again, tokenizer = load_model(str(tmp_path), load_in_4bit=True)
    assert (logits(again, tokenizer) - after).abs().max() <= 1e-4


def test_qlora_has_its_gradient_after_sampling() -> None:
    """The first gradient passes through every quantised layer; the reference is their dequantised copy."""
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes")
    model, tokenizer = load_model(tiny.NAME, lora=Lora(r=4), trainable=True, load_in_4bit=True)
    train_a_little(model, tokenizer)
    logits(model, tokenizer)  # in evaluation mode, as a rollout is
    ids = tokenizer(TEXT, return_tensors="pt", add_special_tokens=False)["input_ids"]

    def gradients() -> dict[str, torch.Tensor]:
        model.train().zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    quantised = gradients()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is bitsandbytes.nn.Linear4bit:
                weight = bitsandbytes.functional.dequantize_4bit(child.weight.data, child.weight.quant_state)
                plain = torch.nn.Linear(child.in_features, child.out_features, bias=False)
                plain.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
                setattr(module, name, plain)
    reference = gradients()
    for name, gradient in quantised.items():
        torch.testing.assert_close(gradient, reference[name], atol=1e-4, rtol=1e-2, msg=name)


def spoiled(how: str):
    model, tokenizer = load_model(tiny.NAME, tags="tokens")
    if how == "special":
        tokenizer = AutoTokenizer.from_pretrained(tiny.BASE)
        tokenizer.add_tokens([AddedToken(tag, special=True) for tag in TAGS], special_tokens=True)
    elif how == "absent":
        tokenizer = AutoTokenizer.from_pretrained(tiny.BASE)
    elif how == "same rows":
        with torch.no_grad():
            model.get_input_embeddings().weight[tag_ids(tokenizer)] = 1.0
    elif how == "few rows":
        model.resize_token_embeddings(len(tokenizer) - 1)
    elif how == "generation":
        model.generation_config.eos_token_id = 0
    elif how == "eos":
        tokenizer.eos_token = "<|endoftext|>"
    elif how == "pad":
        tokenizer.pad_token = IM_END
    return model, tokenizer


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("special", "<Path> is a special token, so rewards would never see it"),
        ("absent", "<Parallel> is not a single token"),
        ("same rows", r"two tags have the same embedding row \(cosine 1.0000\)"),
        ("few rows", "</Summary> has id 389, the embedding only 389 rows"),
        ("generation", "generation stops at 0, a turn ends with 2"),
        ("eos", r"the tokenizer's EOS is '<\|endoftext\|>', a turn ends with '<\|im_end\|>'"),
        ("pad", "pad and EOS are the same token"),
    ],
)
def test_check_refuses_with_the_reason(how: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        check_tags(*spoiled(how))


def test_check_lists_every_reason_at_once() -> None:
    model, tokenizer = spoiled("same rows")
    model.generation_config.eos_token_id = 0
    with pytest.raises(ModelError, match=r"same embedding row.*; generation stops at 0"):
        check_tags(model, tokenizer)


def test_unknown_models_are_named_in_one_line(tmp_path: Path) -> None:
    shutil.copytree(tiny.BASE, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    for name in ("of-nobody", str(tmp_path / "model")):
        with pytest.raises(ModelError, match=r"cannot be loaded: .*Give a Hub name such as") as error:
            load_model(name)
        assert "\n" not in str(error.value)


def test_tag_rows_are_the_same_for_the_same_seed() -> None:
    models = [load_model(tiny.NAME, tags="tokens", seed=seed)[0] for seed in (0, 0, 1)]
    rows = [model.get_input_embeddings().weight for model in models]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_exported_template_renders_what_the_stages_render() -> None:
    _, tokenizer = load_model(tiny.NAME)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    turn = [{"role": "user", "content": "Compute 3 + 4."}]
    rendered = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert rendered == render_prompt("Compute 3 + 4.", "bare")


@pytest.mark.real
def test_qwen3_tokenizer_gives_the_tags_the_ids_of_the_paper(real_tokenizer) -> None:
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=151936, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=1, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True,
        )
    )  # fmt: skip
    added = add_tags(model, real_tokenizer, seed=0)
    check_tags(model, real_tokenizer)
    assert added == tag_ids(real_tokenizer) == list(range(151669, 151675))
    assert model.get_input_embeddings().num_embeddings == 151936


@pytest.mark.real
def test_real_135m_model_gets_its_tags_and_new_rows(real_model: Path) -> None:
    model, tokenizer = load_model(str(real_model), lora=Lora(r=8), trainable=True)
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer) == 49152 + 6
    assert 0 < describe(model)["trained_parameters"] < 0.05 * describe(model)["parameters"]


# --- What is spoiled is called by its name, before any data is read


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def without(which: int, file: Path) -> None:
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[which])
    save_file(tensors, file, {"format": "pt"})


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A base and an adapter on it, for a test to spoil."""
    shutil.copytree(tiny.BASE, tmp_path / "base")
    model, tokenizer = load_model(str(tmp_path / "base"), lora=Lora(r=2))
    save_adapter(model, tokenizer, tmp_path / "adapter")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "spoil", "said"),
    [
        ("adapter/adapter_model.safetensors", cut, "is torn, it has 100 bytes and no whole header: copy it"),
        ("base/model.safetensors", lambda file: file.write_bytes(file.read_bytes()[:-9]), "is torn, it has"),
        ("base/model.safetensors", lambda file: file.write_bytes(b""), "it has 0 bytes and no whole header"),
        (
            "adapter/tokenizer.json",
            cut,
            r"the tokenizer files in .* cannot be read \(.*\): copy tokenizer.json",
        ),
        ("adapter/tokenizer.json", lambda file: file.write_text("{}"), "the tokenizer files in .* cannot be"),
        ("adapter/tokenizer_config.json", cut, "the tokenizer files in .* cannot be read"),
    ],
)
def test_a_spoiled_file_is_named_without_loading_the_model(
    pair: Path, file: str, spoil: Callable[[Path], None], said: str
) -> None:
    check_loadable(str(pair / "adapter"))
    spoil(pair / file)
    for look in (check_loadable, load_model):
        with pytest.raises(ModelError, match=said) as caught:
            look(str(pair / "adapter"))
        assert "\n" not in str(caught.value)


def test_a_model_without_tokenizer_files_is_called_that(pair: Path) -> None:
    for file in (pair / "base").glob("*token*"):
        file.unlink()
    for look in (check_loadable, load_model):
        with pytest.raises(ModelError) as caught:
            look(str(pair / "base"))
        assert str(caught.value) == (
            f"no tokenizer files in '{pair / 'base'}': copy tokenizer.json and tokenizer_config.json "
            "there, from the model that it was made from"
        )


@pytest.mark.parametrize(
    ("file", "which", "said"),
    [
        (
            "adapter/adapter_model.safetensors",
            -1,
            r"lacks 1 of \d+ tensors, such as .*lora_B.*: copy it again",
        ),
        (
            "adapter/adapter_model.safetensors",
            0,
            "lacks base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta: copy it",
        ),
        (
            "base/model.safetensors",
            0,
            "the weights of model .* lack 2 tensors, such as lm_head.weight: copy them again, or",
        ),
    ],
)
def test_weights_that_lack_a_tensor_are_not_filled_up_at_random(
    pair: Path, file: str, which: int, said: str
) -> None:
    without(which, pair / file)
    with pytest.raises(ModelError, match=said):
        load_model(str(pair / "adapter"))


def test_an_adapter_that_gets_rows_is_whole_and_fits_all_the_same(tmp_path: Path) -> None:
    """One that spells the tags out, as `prl sft` takes it."""
    save_adapter(*load_model(tiny.NAME, lora=Lora(r=2), tags="text"), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    assert not any("trainable_tokens" in name for name in load_file(file))
    load_model(str(tmp_path), tags="tokens")
    whole = file.read_bytes()
    for tags in ("text", "tokens"):
        file.write_bytes(whole)
        without(0, file)
        with pytest.raises(ModelError, match=r"lacks 1 of 56 tensors, such as .*lora_A.*: copy it again"):
            load_model(str(tmp_path), tags=tags)
        file.write_bytes(whole)
        tensors = load_file(file)
        first = min(tensors)
        save_file(tensors | {first: tensors[first][:, :-1].contiguous()}, file, {"format": "pt"})
        with pytest.raises(
            ModelError, match=r"does not fit its base '.*tiny.*': size mismatch for .*: name the"
        ):
            load_model(str(tmp_path), tags=tags)


def test_an_adapter_of_another_base_says_so(pair: Path, untied: str) -> None:
    file = pair / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": untied}))
    with pytest.raises(ModelError, match=r"does not fit its base .*size mismatch for .*: name the base that"):
        load_model(str(pair / "adapter"))


def test_an_adapter_whose_base_is_an_adapter_is_refused(pair: Path) -> None:
    shutil.copytree(pair / "adapter", pair / "second")
    file = pair / "second" / "adapter_config.json"
    named = {"base_model_name_or_path": str(pair / "adapter")}
    file.write_text(json.dumps(json.loads(file.read_text()) | named))
    for _ in range(2):
        with pytest.raises(ModelError, match="an adapter itself: merge that one first"):
            check_loadable(str(pair / "second"))
        shutil.copytree(pair / "base", pair / "adapter", dirs_exist_ok=True)  # a whole model beside it


def test_an_adapter_on_the_hub_is_not_taken_for_a_base(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 5.23 loads it onto its base, in its own way, when it is asked for by name."""
    monkeypatch.setattr("prl.model.loading._look_at", lambda name: (None, name))  # as if it were not a folder
    with pytest.raises(
        ModelError, match=r"is an adapter on the Hub, which prl takes from a folder: `hf downl"
    ):
        load_model(str(pair / "adapter"))


def test_an_adapter_knows_its_base_from_any_folder(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pair)
    model, tokenizer = load_model("base", lora=Lora(r=2))
    save_adapter(model, tokenizer, pair / "from-here")
    config = json.loads((pair / "from-here" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(pair / "base")
    # One that was saved before says what was typed; what goes on with it says where it is.
    old = pair / "from-here" / "adapter_config.json"
    old.write_text(json.dumps(config | {"base_model_name_or_path": "./base"}))
    monkeypatch.chdir(pair.parent)
    model, tokenizer = load_model(str(pair / "from-here"), trainable=True)
    save_adapter(model, tokenizer, pair / "again")
    config = json.loads((pair / "again" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(pair / "base")


def test_a_base_that_may_be_a_hub_name_is_looked_for_there_and_pointed_at_here(pair: Path) -> None:
    (pair / "owner").mkdir()
    (pair / "base").rename(pair / "owner" / "base")
    file = pair / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "owner/base"}))
    with pytest.raises(ModelError) as caught:
        load_model(str(pair / "adapter"))
    assert str(caught.value).startswith(f"the base 'owner/base' that {file} names cannot be loaded: ")
    assert f"{pair / 'owner' / 'base'} is such a folder. Write where it is as" in str(caught.value)


@pytest.mark.parametrize(("command", "stage"), [("sft", sft), ("rl", rl), ("eval", evaluation)])
def test_the_model_is_looked_at_before_the_data(command: str, stage: object, tmp_path: Path) -> None:
    settings = resolve(
        command, recipe="tiny", threads=1, model_name_or_path="./nope", dataset="nope.jsonl",
        output_dir=str(tmp_path / "run"),
    )  # fmt: skip
    assert "attention" not in settings.chosen, "what is not there is no base model"
    with pytest.raises(RunError, match=r"^\./nope: no such folder\."):
        stage.run(settings)
    assert not (tmp_path / "run").exists()


def test_a_file_of_safetensors_is_whole_or_not(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(3), "b": torch.ones(2, 2)}, file, {"format": "pt"})
    assert torn_safetensors(file) is None
    whole = file.read_bytes()
    for content, said in (
        (whole[:-1], f"it has {len(whole) - 1} bytes, not {len(whole)}"),
        (whole + b"0", f"it has {len(whole) + 1} bytes, not {len(whole)}"),
        (whole[:20], "it has 20 bytes and no whole header"),
        (b"", "it has 0 bytes and no whole header"),
        (b"\xff" * 64, "it has 64 bytes and no whole header"),
        ((2).to_bytes(8, "little") + b"[]", "its header cannot be read (AttributeError)"),
        ((2).to_bytes(8, "little") + b"{x", "its header cannot be read (JSONDecodeError)"),
    ):
        file.write_bytes(content)
        assert torn_safetensors(file) == said
    assert torn_safetensors(tmp_path / "gone") == "its header cannot be read (FileNotFoundError)"

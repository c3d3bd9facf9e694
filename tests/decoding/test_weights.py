"""Adapters in the weights while decoding: the same responses, and every weight back bit for bit."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer

from prl.decoding import ForkJoinDecoder, Limits, Sampling, passes
from prl.decoding.passes import decoding
from prl.decoding.rows import ATTENTION
from prl.decoding.weights import dequantized, folded_adapters, without_wrappers
from prl.model import Lora, load_model
from prl.prompts import render_prompt
from prl.structure import attach_structure, attached_structure

PROMPTS = [render_prompt(f"What is {i} * 7?", "bare") for i in range(3)]


def stir(model: PeftModel) -> PeftModel:
    """Give every adapter weight a value that matters; a new LoRA adds nothing."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "trainable_tokens_delta" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return model


def adapted(make_model: Any, tags: Any, **arguments: Any) -> PeftModel:
    """A random model, its attention structured, with LoRA and trained tag rows."""
    dtype, tied = arguments.pop("dtype", torch.float32), arguments.pop("tied", False)
    base = make_model(tie_word_embeddings=tied).to(dtype)
    if tied:  # peft 0.21 drops the bias of a tied head
        base.lm_head.bias = None
    settings = {
        "target_modules": "all-linear",
        "trainable_token_indices": [tags.parallel, tags.path, tags.end_path],
        "lora_dropout": 0.1,
        **arguments,
    }
    model = get_peft_model(base, LoraConfig(r=3, **settings))
    attach_structure(model, tags)
    return stir(model)


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(model: Any, before: dict[str, torch.Tensor], pointers: dict[str, int]) -> None:
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == pointers
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(getattr(module, "merged_adapters", None) for module in model.modules())


VARIANTS = {
    "untied": {},
    "tied": {"tied": True},
    "bf16": {"dtype": torch.bfloat16},
    "attention only": {"target_modules": ["q_proj", "v_proj"]},
    "no tag rows": {"trainable_token_indices": None},
    "DoRA": {"use_dora": True},
    "rsLoRA": {"use_rslora": True},
    "trained head": {"target_modules": ["lm_head", "q_proj"], "trainable_token_indices": None},
    "trained tied head": {
        "target_modules": ["lm_head", "q_proj"],
        "trainable_token_indices": None,
        "tied": True,
    },
}


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings=True`")
@pytest.mark.parametrize("arguments", VARIANTS.values(), ids=VARIANTS)
def test_folded_computes_the_same_and_leaves_no_trace(make_model, tags, arguments):
    model = adapted(make_model, tags, **arguments).train()
    before, pointers = state(model), {name: p.data_ptr() for name, p in model.named_parameters()}
    ids = torch.randint(5, 300, (2, 40), generator=torch.Generator().manual_seed(0))
    model.eval()
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        with folded_adapters(model):
            folded = model(input_ids=ids).logits
        with model.disable_adapter():
            bare = model(input_ids=ids).logits
        assert torch.equal(model(input_ids=ids).logits, expected)
    assert_same(model, before, pointers)
    assert (bare - expected).abs().max() > 0.1, "the adapter matters"
    if arguments.get("dtype") == torch.bfloat16:
        assert torch.equal(folded, expected), "only rows were put in, which rounds nothing"
    else:
        torch.testing.assert_close(folded, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


def test_lora_is_folded_where_that_is_exact_or_asked_for_and_rows_always(make_model, tags):
    for dtype, merges, folds in (
        (torch.float32, False, True),
        (torch.bfloat16, False, False),
        (torch.bfloat16, True, True),
    ):
        model = adapted(make_model, tags, dtype=dtype)
        with folded_adapters(model, merges=merges):
            layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
            assert len(layers) == 14
            assert all(layer.merged == folds for layer in layers)
            assert model.get_base_model().get_input_embeddings().token_adapter.merged


def test_merged_in_16_bits_the_sum_is_rounded_once(make_model, tags):
    model = adapted(make_model, tags, dtype=torch.bfloat16).eval()
    before, pointers = state(model), {name: p.data_ptr() for name, p in model.named_parameters()}
    layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
    exact = [layer.base_layer.weight.float() + layer.get_delta_weight("default") for layer in layers]
    with folded_adapters(model, merges=True):
        for layer, wanted in zip(layers, exact, strict=True):
            assert torch.equal(layer.base_layer.weight, wanted.bfloat16())
    assert_same(model, before, pointers)


@pytest.fixture
def quantized():
    pytest.importorskip("bitsandbytes")
    model, tokenizer = load_model(
        "tiny",
        lora=Lora(8, 8),
        load_in_4bit=True,
        dtype=torch.bfloat16,
        tags="tokens",
        attention="structured",
    )
    return stir(model).eval(), tokenizer


def test_a_matrix_stands_in_for_a_4_bit_layer_and_its_adapter(quantized):
    model, _ = quantized
    ids, modules = torch.arange(5, 45)[None], [*model.modules()]
    before = state(model)
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        with dequantized(model):
            kinds = Counter(type(module).__name__ for module in model.modules())
            found = model(input_ids=ids).logits
        with model.disable_adapter():
            bare = model(input_ids=ids).logits
            with dequantized(model):
                unadapted = model(input_ids=ids).logits
    assert "Linear4bit" not in kinds
    assert [*model.modules()] == modules
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    matters = (bare - expected).abs().mean()
    assert (found - expected).abs().mean() < matters / 20
    assert (unadapted - bare).abs().mean() < matters / 20, "an adapter that is off stays out"


def test_an_exception_among_stand_ins_leaves_no_trace(quantized):
    model, _ = quantized
    modules = [*model.modules()]
    with pytest.raises(ZeroDivisionError), dequantized(model):
        raise ZeroDivisionError
    assert [*model.modules()] == modules


def test_a_4_bit_model_decodes_with_merged_weights(quantized):
    model, tokenizer = quantized
    modules = [*model.modules()]
    limits = Limits(max_new_tokens=48, max_path_length=12)
    responses = {
        merges: ForkJoinDecoder(
            model, tokenizer, limits=limits, sampling=Sampling(temperature=0), merges=merges
        ).generate(PROMPTS)
        for merges in (False, True)
    }
    begun, other = ([group[0].token_ids[:4] for group in groups] for groups in responses.values())
    assert begun == other, "later a tie may go the other way"
    assert [*model.modules()] == modules


@pytest.mark.parametrize("tied", [True, False])
def test_a_folded_model_is_a_bare_one_while_it_decodes(make_model, tags, tied):
    """peft's layers would look anew at each call for what there is to add."""
    model = adapted(make_model, tags, tied=tied).eval()
    ids, modules = torch.arange(5, 45)[None], [*model.modules()]
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        with folded_adapters(model), without_wrappers(model):
            kinds = {type(module).__module__.split(".")[0] for module in model.get_base_model().modules()}
            assert "peft" not in kinds
            found = model(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
    assert [*model.modules()] == modules


def test_within_another_decoding_nothing_is_done_or_undone(make_model, tags):
    """As where responses are timed one at a time."""
    model = adapted(make_model, tags, tied=True).train()
    before = [*model.modules()]
    with decoding(model):
        prepared = [(module, vars(module).get("forward"), module.training) for module in model.modules()]
        with decoding(model):
            assert [*model.modules()] == [module for module, _, _ in prepared]
        after = [(module, vars(module).get("forward"), module.training) for module in model.modules()]
        assert after == prepared
        assert model.get_base_model().config._attn_implementation == ATTENTION
    assert [*model.modules()] == before
    assert all(module.training for module in before)
    assert model.get_base_model().config._attn_implementation == "sdpa"


def test_what_is_not_in_the_weights_keeps_its_layer(make_model, tags):
    model = adapted(make_model, tags, dtype=torch.bfloat16)
    with folded_adapters(model), without_wrappers(model):
        kinds = [type(module) for module in model.modules()]
        assert kinds.count(LoraLinear) == 14
        assert TrainableTokensLayer not in kinds
    modules = [*model.modules()]
    model.merge_adapter()
    with model.disable_adapter(), without_wrappers(model):
        assert [*model.modules()] == modules, "off, though in the weights: peft takes it out of them"


@pytest.mark.parametrize("tied", [True, False])
def test_an_exception_inside_leaves_no_trace(make_model, tags, tied):
    model = adapted(make_model, tags, tied=tied)
    before, pointers = state(model), {name: p.data_ptr() for name, p in model.named_parameters()}

    def fail() -> None:
        with folded_adapters(model):
            inside = state(model)
            assert any(not torch.equal(inside[name], before[name]) for name in before)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert_same(model, before, pointers)


def test_an_exception_while_folding_leaves_no_trace(make_model, tags, monkeypatch):
    """As when memory runs out half way."""
    model = adapted(make_model, tags)
    before, pointers = state(model), {name: p.data_ptr() for name, p in model.named_parameters()}
    merge, calls = LoraLinear.merge, []

    def fail_later(layer: LoraLinear) -> None:
        calls.append(layer)
        merge(layer)
        if len(calls) == 5:
            raise MemoryError

    monkeypatch.setattr(LoraLinear, "merge", fail_later)
    with pytest.raises(MemoryError), folded_adapters(model):
        pass
    assert_same(model, before, pointers)


def test_what_was_merged_stays_merged(make_model, tags):
    model = adapted(make_model, tags)
    model.merge_adapter()
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits
        with folded_adapters(model):
            assert torch.equal(model(input_ids=ids).logits, expected)
        assert torch.equal(model(input_ids=ids).logits, expected)
    assert any(module.merged for module in model.modules() if isinstance(module, LoraLinear))


def test_a_model_without_adapters_is_left_alone(make_model):
    model = make_model()
    pointers = {name: p.data_ptr() for name, p in model.named_parameters()}
    with folded_adapters(model):
        assert {name: p.data_ptr() for name, p in model.named_parameters()} == pointers


@pytest.mark.parametrize("tied", [True, False])
def test_decoding_with_an_adapter(make_model, tokenizer, tags, monkeypatch, tied):
    """Structured, with dropout in the adapter, in training mode: as sampled, so scored."""
    model = adapted(make_model, tags, tied=tied).train()
    before, pointers = state(model), {name: p.data_ptr() for name, p in model.named_parameters()}
    decoder = ForkJoinDecoder(model, tokenizer, limits=Limits(60))
    answers = decoder.generate(PROMPTS, samples=4)
    assert_same(model, before, pointers)
    assert model.training
    model.eval()
    for prompt, group in zip(PROMPTS, answers, strict=True):
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        for response in group:
            ids = torch.tensor([[*prompt_ids, *response.token_ids]])
            with torch.no_grad():
                scores = model(input_ids=ids).logits[0].log_softmax(-1)
            own = scores[:-1].gather(-1, ids[0, 1:, None])[len(prompt_ids) - 1 :, 0]
            assert (own - torch.tensor(response.logprobs)).abs().nan_to_num(0).max() <= 1e-4

    with model.disable_adapter():
        bare = decoder.generate(PROMPTS, samples=4)
    base = copy.deepcopy(model).unload()
    if attached_structure(base) is None:
        attach_structure(base, tags)
    expected = ForkJoinDecoder(base, tokenizer, limits=Limits(60)).generate(PROMPTS, samples=4)
    texts = [[response.text for response in group] for group in bare]
    assert texts == [[response.text for response in group] for group in expected]
    assert texts != [[response.text for response in group] for group in answers]

    monkeypatch.setattr(passes, "folded_adapters", lambda model, **given: torch.no_grad())
    unfolded = decoder.generate(PROMPTS, samples=4)
    assert [[r.text for r in group] for group in unfolded] == [[r.text for r in group] for group in answers]


def test_decoding_with_the_adapter_that_a_run_starts_from():
    """`load_model` with LoRA and tag rows on the tied tiny model, as SFT and RL make it."""
    model, tokenizer = load_model("tiny", lora=Lora(r=4), trainable=True, attention="structured")
    stir(model)
    before, pointers = state(model), {name: p.data_ptr() for name, p in model.named_parameters()}
    answers = ForkJoinDecoder(model, tokenizer, limits=Limits(40)).generate(PROMPTS)
    assert_same(model, before, pointers)
    assert all(len(response.token_ids) for (response,) in answers)

"""LoRA as one matrix (peft 0.21): the same numbers and gradients, and only where it is less work."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLinear
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from prl import sft
from prl.config import resolve
from prl.machine.shape import is_one_matrix
from prl.model import Lora, add_up_narrow_adapters, load_model
from prl.model.narrow import LEAST, product
from prl.trainer import setup

WIDTH, OUTPUTS, RANK, TOKENS = 24, 40, 16, 200


def narrow(**config: Any) -> tuple[Any, Any]:
    """A model of one layer with an adapter that does something, and the layer."""
    torch.manual_seed(0)
    settings = {"r": RANK, "lora_alpha": 24, "target_modules": ["0"], "init_lora_weights": False, **config}
    model = get_peft_model(nn.Sequential(nn.Linear(WIDTH, OUTPUTS)), LoraConfig(**settings))
    (layer,) = (module for module in model.modules() if isinstance(module, LoraLinear))
    return model, layer


def numbers(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What comes out of `model`, and the gradients of its input and of its adapter."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    y = model(x)
    (y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in model.parameters() if p.requires_grad)]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often peft's own computation is asked."""
    calls: list[int] = []
    forward = LoraLinear.forward

    def seen(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(len(x))
        return forward(self, x, *args, **kwargs)

    monkeypatch.setattr(LoraLinear, "forward", seen)
    return calls


def test_numbers_and_gradients_are_those_of_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    assert importlib.metadata.version("peft").startswith("0.21.")
    model, _ = narrow()
    x = torch.randn(4, TOKENS // 4, WIDTH)
    theirs = numbers(model, x)
    calls = counted(monkeypatch)
    assert add_up_narrow_adapters(model) == 1
    for ours, other in zip(numbers(model, x), theirs, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-5)
    assert not calls


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2048,), (4, 512), (4, 3)], ids=["rows", "batch", "small"])
def test_products_have_the_numbers_and_gradients_of_torch(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(*shape, WIDTH), torch.randn(OUTPUTS, WIDTH), *[torch.randn(OUTPUTS)] * bias]
    is_large = leaves[0].numel() * OUTPUTS >= LEAST
    assert is_large is (shape != (4, 3))
    found = []
    for compute in (product, functional.linear):
        given = [each.clone().requires_grad_() for each in leaves]
        y = compute(*given)
        assert (y.grad_fn.name() == "_ProductBackward") is (is_large and compute is product and not bias)
        of_y = torch.linspace(-1, 1, y.numel()).view(y.shape[::-1]).permute(*range(y.dim())[::-1])
        found.append([y.detach(), *torch.autograd.grad(y, given, of_y)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def test_a_product_has_the_gradients_that_are_asked_for() -> None:
    x, weight = torch.randn(2048, WIDTH), torch.randn(OUTPUTS, WIDTH)
    for asked, other in ((x.clone(), weight), (weight.clone(), x)):
        asked.requires_grad_()
        y = product(asked, other) if asked.shape == x.shape else product(other, asked)
        (grad,) = torch.autograd.grad(y.sum(), asked)
        expected = other.sum(0).expand_as(asked)
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("config", "change", "tokens"),
    [
        ({}, lambda model, layer: None, 20),
        ({"lora_dropout": 0.1}, lambda model, layer: model.eval(), TOKENS),
        ({}, lambda model, layer: layer.enable_adapters(False), TOKENS),
        ({}, lambda model, layer: layer.merge(), TOKENS),
        ({"r": 4}, lambda model, layer: None, TOKENS),
        ({"lora_bias": True}, lambda model, layer: None, TOKENS),
        ({}, lambda model, layer: model.to(torch.bfloat16), TOKENS),
    ],
    ids=["few tokens", "dropout", "disabled", "merged", "low rank", "bias", "half precision"],
)
def test_where_it_would_not_pay_or_not_be_the_same_peft_computes(
    config: dict[str, Any],
    change: Callable[[Any, Any], Any],
    tokens: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, layer = narrow(**config)
    calls = counted(monkeypatch)
    assert add_up_narrow_adapters(model) == 1
    change(model, layer)
    x = torch.randn(tokens, WIDTH, dtype=next(model.parameters()).dtype)
    with torch.no_grad():
        ours = model(x)
        assert calls == [tokens]
        torch.testing.assert_close(ours, LoraLinear.forward(layer, x))


def test_under_autocast_peft_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = narrow()
    add_up_narrow_adapters(model)
    calls = counted(monkeypatch)
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(TOKENS, WIDTH))
    assert calls == [TOKENS]


def test_other_kinds_of_adapters_are_left_alone() -> None:
    model, _ = narrow(use_dora=True)
    assert add_up_narrow_adapters(model) == 0


def test_two_adapters_are_computed_by_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    model, layer = narrow()
    model.add_adapter("other", LoraConfig(r=RANK, target_modules=["0"], init_lora_weights=False))
    add_up_narrow_adapters(model)
    calls = counted(monkeypatch)
    model.base_model.set_adapter(["default", "other"])
    model(torch.randn(TOKENS, WIDTH))
    assert calls == [TOKENS]
    model.set_adapter("other")
    torch.testing.assert_close(model(x := torch.randn(TOKENS, WIDTH)), LoraLinear.forward(layer, x))
    assert calls == [TOKENS] * 2


@given(st.integers(1, 20_000), st.integers(1, 64), st.integers(8, 4096), st.integers(8, 4096))
def test_less_work_is_fewer_multiplications(tokens: int, rank: int, inputs: int, outputs: int) -> None:
    peft = tokens * (2 * inputs * outputs + 3 * rank * (inputs + outputs))
    one = tokens * 3 * inputs * outputs + 3 * rank * inputs * outputs
    assert is_one_matrix(tokens, rank, inputs, outputs) is (one < peft)


def test_the_layers_of_large_models_are_not_narrow() -> None:
    assert not is_one_matrix(10**6, 64, 1024, 1024)
    assert not is_one_matrix(10**6, 16, 576, 576)
    assert is_one_matrix(4096, 64, 128, 384)


def test_a_cold_start_is_the_one_that_peft_computes(
    tagged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def adapter(name: str, **given: Any) -> dict[str, Tensor]:
        settings = {
            "limit": 60, "max_steps": 2, "per_device_train_batch_size": 8, "sample_count": 0,
            "eval_strategy": "no", "save_strategy": "no", "optim": "sgd", "learning_rate": 1.0,
            "warmup_steps": 0, "max_grad_norm": 0, "model_name_or_path": tagged, **given,
        }  # fmt: skip
        sft.run(resolve("sft", recipe="tiny", threads=1, output_dir=str(tmp_path / name), **settings))
        return load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")

    with monkeypatch.context() as patch:
        calls = counted(patch)
        ours = adapter("ours")
        narrow_calls = len(calls)
        patch.setattr(setup, "add_up_narrow_adapters", lambda model: 0)
        theirs = adapter("theirs")
        assert len(calls) - narrow_calls > narrow_calls
    before = adapter("before", learning_rate=0.0)
    moved = torch.cat([(theirs[name] - before[name]).flatten() for name in before]).norm()
    apart = torch.cat([(theirs[name] - ours[name]).flatten() for name in before]).norm()
    assert 0 < apart < 1e-5 * moved


def test_the_tiny_model_has_narrow_layers_only() -> None:
    model, _ = load_model("tiny", lora=Lora(), tags="tokens", seed=0, trainable=True)
    count = sum(isinstance(module, LoraLinear) for module in model.modules())
    assert add_up_narrow_adapters(model) == count > 0

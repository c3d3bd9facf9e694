"""A new adapter, and its optimizer: the tag rows at a learning rate of their own, and never decayed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from prl import tiny
from prl.errors import ModelError
from prl.model import Lora, load_model, make_optimizer


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model(tiny.NAME, lora=Lora(r=4), trainable=True)[0]


def training(**given: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir="unused", use_cpu=True, learning_rate=1e-3, weight_decay=0.1, report_to=[], **given
    )


def trained(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def is_row(name: str) -> bool:
    return "trainable_tokens" in name


def test_a_new_adapter_has_the_shape_and_the_first_matrices_that_were_asked_for() -> None:
    shape = Lora(r=5, alpha=7, dropout=0.25, target_modules=["q_proj"])
    models = [load_model(tiny.NAME, lora=shape, seed=seed)[0] for seed in (3, 3, 4)]
    config = models[0].peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (5, 7, 0.25)
    first, again, other = (
        {name: weight for name, weight in model.named_parameters() if "lora_A" in name} for model in models
    )
    layers = models[0].config.num_hidden_layers
    assert len(first) == sum(".q_proj." in name for name in first) == layers
    for name, weight in first.items():
        assert len(weight) == 5
        assert torch.equal(weight, again[name])
        assert not torch.equal(weight, other[name]), "another seed, another beginning"


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (["q_proj", "v_porj"], "v_porj is no linear layer of .*; nearest: v_proj"),
        (["lm_head", "q_proj", "embed_tokens"], "lm_head, embed_tokens is no linear layer of"),
        (["all-linear", "embed_tokens"], "all-linear is every linear layer"),
    ],
)
def test_no_layer_that_was_asked_for_is_left_out_without_a_word(named: list[str], told: str) -> None:
    with pytest.raises(ModelError, match=f"lora_target_modules.*{told}"):
        load_model(tiny.NAME, lora=Lora(target_modules=named))


@pytest.mark.parametrize(("asked", "rate"), [(0.05, 0.05), (0.0, 0.0), (None, 1e-3)])
def test_tag_rows_have_their_own_rate_and_the_rest_that_of_the_run(
    model: Any, asked: float | None, rate: float
) -> None:
    optimizer = make_optimizer(model, training(), asked)
    settings = {
        id(weight): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    weights = trained(model)
    assert {is_row(name) for name in weights} == {True, False}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(settings) == len(weights)
    for name, weight in weights.items():
        assert settings[id(weight)] == ((rate, 0.0) if is_row(name) else (1e-3, 0.1)), name


def test_a_step_without_gradient_shrinks_matrices_and_leaves_rows(model: Any) -> None:
    """Of AdamW: what decays is multiplied by 1 − learning rate × decay, whatever its gradient."""
    optimizer = make_optimizer(model, training(), 1.0)
    before = {name: weight.detach().clone() for name, weight in trained(model).items()}
    for weight in trained(model).values():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for name, weight in trained(model).items():
        factor = 1.0 if is_row(name) else 1 - 1e-3 * 0.1
        torch.testing.assert_close(weight.detach(), before[name] * factor, msg=name)


def test_the_run_names_the_optimizer_and_its_betas(model: Any) -> None:
    assert type(make_optimizer(model, training(optim="sgd"), None)) is torch.optim.SGD
    adam = make_optimizer(model, training(adam_beta2=0.9), None)
    assert {group["betas"] for group in adam.param_groups} == {(0.9, 0.9)}

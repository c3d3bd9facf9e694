"""The fused head of trl 1.16 with rows of peft 0.21 that train: the same numbers, of what is needed alone."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM
from trl.trainer import utils as trl_utils
from trl.trainer.utils import add_fused_lm_head

from prl import rl, sft
from prl.config import resolve
from prl.model.adapter import forward_head_bias
from prl.trainer import fused_head, grpo
from prl.trainer import sft as sft_trainer
from prl.trainer.fused_head import spare_the_head

VOCABULARY, WIDTH, TAGS = 96, 32, [90, 91, 92, 93, 94, 95]
ROWS, LENGTH, PROMPT = 5, 24, 9
Make = Callable[..., Any]


def made(
    *,
    tied: bool = True,
    dtype: torch.dtype = torch.float32,
    temperature: float = 1.0,
    bias: bool = False,
    **config: Any,
) -> Any:
    """A model whose adapter and tag rows do something, with trl's head."""
    torch.manual_seed(0)
    base = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=16, tie_word_embeddings=tied, **config,
        )
    ).to(dtype)  # fmt: skip
    if bias:
        base.lm_head.bias = torch.nn.Parameter(torch.randn(VOCABULARY, dtype=dtype))
    names = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    lora = LoraConfig(
        r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False,
        trainable_token_indices={name: TAGS for name in names},
    )  # fmt: skip
    model = get_peft_model(base, lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "trainable_tokens" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    forward_head_bias(model)
    add_fused_lm_head(model.get_base_model(), temperature, outputs=("log_probs", "entropy", "is_top1"))
    return model


def batch() -> dict[str, Tensor]:
    """Prompts without labels, rows that end early, tags in prompts and among the labels."""
    torch.manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH))
    ids[:, ::5] = torch.randint(TAGS[0], VOCABULARY, ids[:, ::5].shape)
    mask = torch.ones_like(ids)
    for row in range(ROWS):
        mask[row, LENGTH - row :] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :PROMPT] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def numbers(model: Any, *, entropy: bool = False) -> tuple[Any, dict[str, Tensor]]:
    """What the head says of the batch, and the gradient of each parameter."""
    model.zero_grad()
    found = model(**batch(), fused_lm_head=True)
    weights = torch.linspace(-1, 1, found.log_probs.numel()).view_as(found.log_probs)
    loss = (found.log_probs * weights).sum() + found.loss
    if entropy:
        loss = loss + (found.entropy * weights.flip(0)).sum()
    loss.backward()
    return found, {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor], bound: float = 1e-5) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        off = (ours[name] - theirs[name]).float().norm() / theirs[name].float().norm()
        assert off <= bound, f"{name}: {off}"


CASES: dict[str, dict[str, Any]] = {
    "tied": {},
    "a head of its own": {"tied": False},
    "a bias": {"tied": False, "bias": True},
    "a temperature": {"temperature": 0.7},
    "capped logits, which fall back": {"final_logit_softcapping": 3.0},
    "scaled logits, which fall back": {"logit_scale": 0.5},
}


@pytest.mark.parametrize("entropy", [False, True], ids=["", "with entropy"])
@pytest.mark.parametrize("case", CASES.values(), ids=[*CASES])
def test_numbers_and_gradients_are_the_same_to_rounding(case: dict[str, Any], entropy: bool) -> None:
    assert importlib.metadata.version("trl").startswith("1.16.")
    assert importlib.metadata.version("peft").startswith("0.21.")
    theirs, their_gradients = numbers(made(**case), entropy=entropy)
    model = made(**case)
    assert spare_the_head(model) == 2
    ours, our_gradients = numbers(model, entropy=entropy)
    labelled = batch()["labels"][:, 1:] != -100
    for name in ("log_probs", "entropy", "is_top1"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-6, atol=1e-6)
        assert not getattr(ours, name)[~labelled].any()
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-6, atol=0)
    assert_same_gradients(our_gradients, their_gradients)
    assert any(p.norm() > 0.1 for name, p in our_gradients.items() if "trainable_tokens" in name)


def test_narrow_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vocabulary of these models fits one tile: tiles of 40 words divide it, the last one narrower."""
    theirs, their_gradients = numbers(made(), entropy=True)
    monkeypatch.setattr(fused_head, "CPU_TILE", 40 * int((batch()["labels"][:, 1:] != -100).sum()))
    widths: list[int] = []
    apply = fused_head._TRL_HEAD.apply

    def noted(*given: Any) -> Any:
        widths.append(given[5])
        return apply(*given)

    monkeypatch.setattr(fused_head._TRL_HEAD, "apply", noted)
    model = made()
    spare_the_head(model)
    ours, our_gradients = numbers(model, entropy=True)
    assert widths == [40]
    for name in ("log_probs", "entropy", "is_top1"):
        labelled = batch()["labels"][:, 1:] != -100
        found, expected = (getattr(x, name)[labelled] for x in (ours, theirs))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert_same_gradients(our_gradients, their_gradients)


def test_in_half_precision_gradients_are_as_near_as_the_precision() -> None:
    _, exact = numbers(made())
    _, theirs = numbers(made(dtype=torch.bfloat16))
    model = made(dtype=torch.bfloat16)
    spare_the_head(model)
    _, ours = numbers(model)
    for name in (name for name in exact if "trainable_tokens" in name):
        off = [(found[name].float() - exact[name]).norm() / exact[name].norm() for found in (ours, theirs)]
        assert off[0] < 1.5 * off[1], "no further from full precision than peft's"


def test_checkpointed_layers_change_nothing() -> None:
    models = [made(), made()]
    spare_the_head(models[0])
    found = []
    for model in models:
        model.train()
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        found.append(numbers(model)[1])
    assert_same_gradients(*found)


def test_only_labelled_positions_are_projected_and_no_matrix_has_a_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, bool]] = []
    apply = fused_head._TRL_HEAD.apply

    def noted(hidden: Tensor, weight: Tensor, *more: Any) -> Any:
        seen.append((len(hidden), weight.requires_grad))
        return apply(hidden, weight, *more)

    def copied(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("a matrix was copied")

    monkeypatch.setattr(fused_head._TRL_HEAD, "apply", noted)
    model = made()
    spare_the_head(model)
    monkeypatch.setattr(torch.Tensor, "index_copy", copied)
    numbers(model)
    with torch.no_grad():
        model(**batch(), fused_lm_head=True)
    asked = int((batch()["labels"][:, 1:] != -100).sum())
    assert seen == [(asked, False)] * 2
    assert asked < ROWS * (LENGTH - 1)


def test_a_batch_without_a_label_ends_in_a_backward_pass() -> None:
    model = made()
    spare_the_head(model)
    given = batch() | {"labels": torch.full((ROWS, LENGTH), -100)}
    found = model(**given, fused_lm_head=True)
    found.loss.backward()
    assert found.loss == 0


def test_rows_follow_the_optimizer_and_leave_with_the_adapter() -> None:
    models = [made(), made()]
    base = made().get_base_model().get_input_embeddings().original_module.weight
    spare_the_head(models[0])
    for model in models:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for _ in range(3):
            numbers(model)
            optimizer.step()
    given = {name: value for name, value in batch().items() if name != "labels"}
    logits = []
    for model in models:
        model.eval()
        with torch.no_grad():
            logits.append(model(**given).logits)
            with model.disable_adapter():
                logits.append(model(**given).logits)
                logits.append(model(**batch(), fused_lm_head=True).log_probs)
            logits.append(model(**given).logits)
            logits.append(model(**batch(), fused_lm_head=True).log_probs)
    for ours, theirs in zip(logits[:5], logits[5:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits[0], logits[1])
    with models[0].disable_adapter():
        kept = models[0].get_base_model().get_input_embeddings().original_module.weight
        assert torch.equal(kept, base)


def test_trl_is_left_as_it_was() -> None:
    before = trl_utils._use_triton, trl_utils._ChunkedLogProbFunction
    model = made()
    spare_the_head(model)
    numbers(model)
    with pytest.raises(TypeError):
        model(**batch() | {"labels": None}, fused_lm_head=True)
    assert (trl_utils._use_triton, trl_utils._ChunkedLogProbFunction) == before


SMALL: dict[str, Any] = {
    "recipe": "tiny", "threads": 1, "seed": 5, "max_steps": 2, "warmup_steps": 0, "limit": 30,
}  # fmt: skip
OF_COMMAND: dict[str, dict[str, Any]] = {
    "sft": {"sample_count": 0, "per_device_train_batch_size": 8},
    "rl": {
        "max_completion_length": 24, "per_device_train_batch_size": 8, "num_generations": 4, "beta": 0.1,
        "gradient_accumulation_steps": 2, "rewards": ["format"],
    },
}  # fmt: skip


@pytest.mark.parametrize("attention", ["causal", "structured"])
@pytest.mark.parametrize("command", ["sft", "rl"])
def test_a_training_learns_what_it_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tagged: str, command: str, attention: str
) -> None:
    stage, home = (sft, sft_trainer) if command == "sft" else (rl, grpo)
    given = {**SMALL, **OF_COMMAND[command], "attention": attention, "model_name_or_path": tagged}
    stage.run(resolve(command, output_dir=str(tmp_path / "ours"), **given))
    monkeypatch.setattr(home, "spare_the_head", lambda model: 0)
    stage.run(resolve(command, output_dir=str(tmp_path / "theirs"), **given))
    ours, theirs = (
        load_file(next((tmp_path / which / "adapter").glob("*.safetensors"))) for which in ("ours", "theirs")
    )
    assert ours.keys() == theirs.keys()
    assert any("trainable_tokens" in name or "token_adapter" in name for name in ours)
    for name in ours:
        assert (ours[name] - theirs[name]).norm() <= 1e-3 * theirs[name].norm(), name

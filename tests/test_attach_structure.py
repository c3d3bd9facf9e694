"""A model with the structure attached computes what the paths, each on its own, would.

Trainers and their internals are those of trl 1.16 (`SFTTrainer.compute_loss`,
`GRPOTrainer._get_per_token_logps_and_entropies`, both over `fused_lm_head=True`).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from prl import tiny
from prl.errors import ModelError
from prl.model import Lora, load_model
from prl.prompts import render_prompt, render_response
from prl.structure import (
    Tags,
    attach_structure,
    attached_structure,
    backbone_of,
    path_window_mask,
    structural_positions,
)
from slow_structure import read_slowly, sees

TAGS = Tags(*range(1, 7), header=(7, 8))
WINDOW = 6
COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "initializer_range": 0.2,  # large enough that attention decides the logits
}
ALTERNATING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "qwen3": (hf.Qwen3ForCausalLM, {"head_dim": 8}),
    "llama": (hf.LlamaForCausalLM, {}),
    "gemma2": (hf.Gemma2ForCausalLM, {"head_dim": 8, "query_pre_attn_scalar": 8, **ALTERNATING}),
    "gemma3": (hf.Gemma3ForCausalLM, {"head_dim": 8, "query_pre_attn_scalar": 8, **ALTERNATING}),
    "mistral": (hf.MistralForCausalLM, {"sliding_window": WINDOW}),
    "qwen2": (
        hf.Qwen2ForCausalLM,
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "mixture of experts": (
        hf.Qwen3MoeForCausalLM,
        {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
    "attention sinks": (
        hf.GptOssForCausalLM,
        {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, **ALTERNATING},
    ),
    "learned positions": (
        hf.GPT2LMHeadModel,
        {"n_positions": 256, "n_embd": 32, "n_layer": 2, "n_head": 2},
    ),
}
EAGER_ONLY = {"gemma2", "attention sinks"}
CASES = [
    (family, attention)
    for family in FAMILIES
    for attention in ("sdpa", "eager")
    if attention == "eager" or family not in EAGER_ONLY
]

PROMPT = [20, 21, 1, 3, 22, 23, 24, 7, 8]  # quotes two tags; longer than a window
BLOCK_ONE = [[3, 30, 31, 32, 4], [3, 33, 4], [3, 34, 35, 36, 37, 38, 39, 40, 4]]
BLOCK_TWO = [[3, 41, 4], [3, 42, 43, 4]]
BETWEEN = [2, 9, 5, 44, 45, 46, 47, 48, 6, 49]
END = [2, 9, 5, 50, 6, 51]


def response(first: list[list[int]], second: list[list[int]] = BLOCK_TWO) -> list[int]:
    return [28, 29, 1, *chain(*first), *BETWEEN, 1, *chain(*second), *END]


IDS = PROMPT + response(BLOCK_ONE)


def make(family: str, attention: str = "sdpa", **given: Any) -> Any:
    """A random model of a few thousand parameters."""
    model_class, own = FAMILIES[family]
    config = model_class.config_class(**COMMON | own | given)
    config._attn_implementation = attention
    torch.manual_seed(0)
    return model_class(config).eval()


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def model(request: pytest.FixtureRequest) -> Any:
    return make(*request.param)


@torch.no_grad()
def logits(model: Any, ids: list[int] | Tensor, **arguments: Any) -> Tensor:
    ids = ids if isinstance(ids, Tensor) else torch.tensor([ids])
    return model(input_ids=ids, **arguments).logits


def close(one: Tensor, other: Tensor, tolerance: float = 1e-4) -> bool:
    assert one.shape == other.shape
    assert one.abs().max() > 0.1, "logits that say something"
    return bool((one - other).abs().max() <= tolerance)


# --- what is computed -------------------------------------------------------------------------------------


def test_each_path_is_computed_as_if_it_stood_alone_behind_the_prefix(model: Any) -> None:
    prefix = [*PROMPT, 28, 29, 1]
    alone = [logits(model, prefix + path)[0, len(prefix) - 1 :] for path in BLOCK_ONE]
    plain = logits(model, IDS)[0]
    attach_structure(model, TAGS)
    structured = logits(model, IDS)[0]
    assert close(structured[: len(prefix)], plain[: len(prefix)]), "before the block nothing changes"
    start = len(prefix)
    for number, (path, expected) in enumerate(zip(BLOCK_ONE, alone, strict=True)):
        assert close(structured[start : start + len(path)], expected[1:])
        if number:
            assert not close(plain[start : start + len(path)], expected[1:], 1e-2)
        start += len(path)


def explicit_mask(ids: list[int], window: int | None) -> Tensor:
    """Additive, token by token."""
    tokens = read_slowly(ids, TAGS)
    seen = [[sees(tokens, q, k, window) for k in range(len(ids))] for q in range(len(ids))]
    return torch.zeros(1, 1, len(ids), len(ids)).masked_fill(
        ~torch.tensor(seen), torch.finfo(torch.float32).min
    )


def test_every_token_is_computed_as_an_explicit_mask_and_positions_say(model: Any) -> None:
    """Summaries and a second block among them."""
    config = model.config
    mask: Any = explicit_mask(IDS, None)
    if config.model_type == "mistral":
        mask = explicit_mask(IDS, WINDOW)
    elif "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        mask = {"full_attention": mask, "sliding_attention": explicit_mask(IDS, WINDOW)}
    positions = torch.tensor([[token.position for token in read_slowly(IDS, TAGS)]])
    expected = logits(model, IDS, attention_mask=mask, position_ids=positions)
    attach_structure(model, TAGS)
    assert close(logits(model, IDS), expected)
    assert close(logits(model, IDS, attention_mask=torch.ones(1, len(IDS))), expected)


def test_what_follows_a_block_sees_its_paths_and_no_path_its_sibling(model: Any) -> None:
    attach_structure(model, TAGS)
    altered = copy.deepcopy(BLOCK_ONE)
    altered[0][1] = 60
    one, other = logits(model, IDS)[0], logits(model, PROMPT + response(altered))[0]
    siblings = slice(len(PROMPT) + 3 + len(BLOCK_ONE[0]), len(PROMPT) + 3 + sum(map(len, BLOCK_ONE)))
    # Not bit for bit: experts multiply together whatever tokens are sent to them, and round accordingly.
    assert close(one[siblings], other[siblings], 1e-5)
    assert not close(one[siblings.stop :], other[siblings.stop :], 1e-3)


ROWS = [IDS, PROMPT + response(BLOCK_ONE[:2]), [20, 21, 7, 8, 22], IDS[:25]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_is_computed_as_without_padding(model: Any, side: str) -> None:
    attach_structure(model, TAGS)
    alone = [logits(model, row)[0] for row in ROWS]
    length = max(map(len, ROWS))
    padding = [[0] * (length - len(row)) for row in ROWS]
    left = side == "left"
    ids = torch.tensor([pad + row if left else row + pad for row, pad in zip(ROWS, padding, strict=True)])
    # Ids are text where the mask says padding: nothing may depend on them.
    mask = torch.tensor(
        [
            pad + [1] * len(row) if left else [1] * len(row) + pad
            for row, pad in zip(ROWS, padding, strict=True)
        ]
    )
    found = logits(model, torch.where(mask == 1, ids, 3), attention_mask=mask)
    assert found.isfinite().all()
    for row, expected, numbers in zip(ROWS, alone, found, strict=True):
        assert close(numbers[-len(row) :] if left else numbers[: len(row)], expected)


@pytest.mark.parametrize("with_mask", [False, True])
def test_packed_sequences_are_computed_as_each_alone(model: Any, with_mask: bool) -> None:
    """As TRL's `padding_free` collator gives them: position ids that start again, no mask. With a mask of
    ones (TRL's `return_position_ids`) too."""
    attach_structure(model, TAGS)
    packed = [IDS[:20], *ROWS]  # one that is cut off in a path first
    positions = torch.tensor([[i for row in packed for i in range(len(row))]])
    ids = torch.tensor([list(chain(*packed))])
    mask = {"attention_mask": torch.ones_like(ids)} if with_mask else {}
    found = logits(model, ids, position_ids=positions, **mask)[0]
    for row, numbers in zip(packed, found.split([len(row) for row in packed]), strict=True):
        assert close(numbers, logits(model, row)[0])


def test_position_ids_as_generate_makes_them_change_nothing() -> None:
    model = make("qwen3")
    attach_structure(model, TAGS)
    mask = torch.tensor([[0] * 3 + [1] * len(IDS)])
    ids = torch.tensor([[0] * 3 + IDS])
    counted = mask.cumsum(-1) - 1
    expected = logits(model, ids, attention_mask=mask)[:, 3:]
    for padding in (0, 1):
        positions = counted.masked_fill(mask == 0, padding)
        assert close(logits(model, ids, attention_mask=mask, position_ids=positions)[:, 3:], expected)


def test_text_without_tags_is_computed_as_without_structure(model: Any) -> None:
    ids = [7, 8, *range(20, 60)]
    expected = logits(model, ids)
    attach_structure(model, TAGS)
    assert close(logits(model, ids), expected)


def test_a_batch_without_a_response_is_told() -> None:
    """Prompts of another frame: with them nothing has a structure, and training would say nothing."""
    ids = torch.tensor([[9, 10, TAGS.parallel, TAGS.path, 11, TAGS.end_path, TAGS.end_parallel]])
    model = make("qwen3")
    attach_structure(model, TAGS)
    with pytest.warns(UserWarning, match=r"no such header, so it is computed causally; .*render_prompt"):
        model(ids)
    header = torch.tensor([[*TAGS.header, 9, 10, 11, 12, 13]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.cat([ids, header]))  # cut off by packing
        model(ids[:, :2])


def test_removing_the_handle_leaves_the_model_as_it_was() -> None:
    model = make("qwen3")
    before = logits(model, IDS)
    handle = attach_structure(model, TAGS)
    assert attached_structure(model) == TAGS
    assert not torch.equal(logits(model, IDS), before)
    handle.remove()
    assert attached_structure(model) is None
    assert torch.equal(logits(model, IDS), before)
    with attach_structure(model, TAGS):
        assert attached_structure(model) == TAGS
    assert attached_structure(model) is None
    assert attached_structure(copy.deepcopy(model)) is None
    attach_structure(model, TAGS)
    assert attached_structure(copy.deepcopy(model)) == TAGS


def test_positional_arguments_are_read_by_name() -> None:
    model = make("llama")
    attach_structure(model, TAGS)
    ids, mask = torch.tensor([[0, 0, *IDS]]), torch.tensor([[0, 0] + [1] * len(IDS)])
    with torch.no_grad():
        by_name = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
        assert torch.equal(model.model(ids, mask).last_hidden_state, by_name)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bfloat16_and_autocast_are_as_exact_as_bfloat16(attention: str) -> None:
    """Within 2 % of the largest logit; ignoring the structure is off by as much as it is large."""
    model = make("qwen3", attention)
    attach_structure(model, TAGS)
    expected = logits(model, IDS)
    with torch.autocast("cpu", torch.bfloat16):
        found = logits(model, IDS).float()
    assert close(found, expected, 0.02 * expected.abs().max().item())
    low = copy.deepcopy(model).bfloat16()
    assert close(logits(low, IDS).float(), expected, 0.02 * expected.abs().max().item())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of transformers 5.23 and torch 2.13's compiler
@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_flex_attention_computes_the_same(family: str, tmp_path: Path, monkeypatch: Any) -> None:
    """One shape: torch 2.13 on a CPU writes C++ that does not compile for a second (dynamic) one."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = make(family, head_dim=16)
    ids, mask = torch.tensor([IDS, [0, 0, 0, *IDS[3:]]]), torch.ones(2, len(IDS))
    mask[1, :3] = 0
    handle = attach_structure(model, TAGS)
    expected = logits(model, ids, attention_mask=mask)
    handle.remove()
    model.set_attn_implementation("flex_attention")
    attach_structure(model, TAGS, probe=False)
    found = logits(model, ids, attention_mask=mask)
    assert close(found[0], expected[0])
    assert close(found[1, 3:], expected[1, 3:])


# --- in training ------------------------------------------------------------------------------------------


def gradients(model: Any) -> dict[str, Tensor]:
    model.zero_grad()
    ids, mask = torch.tensor([IDS, [0] * 6 + IDS[:-6]]), torch.ones(2, len(IDS))
    mask[1, :6] = 0
    model(
        input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100), use_cache=False
    ).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("case", [("qwen3", "sdpa"), ("gemma2", "eager")], ids=str)
def test_gradient_checkpointing_changes_no_gradient(case: tuple[str, str], use_reentrant: bool) -> None:
    model = make(*case).train()
    causal = gradients(model)
    attach_structure(model, TAGS)
    expected = gradients(model)
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    if use_reentrant:
        model.enable_input_require_grads()
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-5)
    assert any(not torch.allclose(causal[name], gradient, atol=1e-3) for name, gradient in expected.items())


def adapted(model: Any) -> Any:
    lora = get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    return lora.eval()


@pytest.mark.parametrize("first", ["attach", "wrap"])
def test_the_structure_holds_under_an_adapter_and_with_it_switched_off(first: str) -> None:
    plain = make("qwen3")
    reference = copy.deepcopy(plain)
    attach_structure(reference, TAGS)
    if first == "attach":
        attach_structure(plain, TAGS)
        model = adapted(plain)
    else:
        model = adapted(plain)
        attach_structure(model, TAGS)
    assert attached_structure(model) == TAGS
    assert not close(logits(model, IDS), logits(reference, IDS), 1e-2)
    with model.disable_adapter():
        assert close(logits(model, IDS), logits(reference, IDS))
    merged = copy.deepcopy(model).merge_and_unload()
    assert close(logits(merged, IDS), logits(model, IDS))


BLOCK = (
    "<Parallel><Path>\n3+4=7.\n</Path><Path>\n4+3=7. So it is.\n</Path></Parallel>\n"
    "<Summary>\nBoth give 7.\n</Summary>"
)
TEXTS = [("Compute 3 + 4.", BLOCK), ("Compute 3 + 4 + 10.", f"So. {BLOCK} {BLOCK}"), ("Hi", "7")]


@pytest.fixture
def trained() -> tuple[Any, Any]:
    model, tokenizer = load_model(tiny.NAME, lora=Lora(r=4), trainable=True)
    attach_structure(model, Tags.of(tokenizer))
    return model, tokenizer


def examples(tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    return [(encode(render_prompt(p, "bare")), encode(render_response(r))) for p, r in TEXTS]


def scores(model: Any, prompt: list[int], completion: list[int], tags: Tags) -> Tensor:
    """Log-probs of a completion, without the hook: mask and positions by hand, through the plain LM head."""
    ids = torch.tensor([prompt + completion])
    mask, positions = path_window_mask(ids, tags), structural_positions(ids, tags)
    found = logits(model, ids, attention_mask=mask, position_ids=positions)[0]
    return found.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(completion)[:, None])[:, 0]


@pytest.mark.parametrize("padding_free", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_sft_trainer_learns_the_structured_log_probs(
    trained: tuple[Any, Any], tmp_path: Path, padding_free: bool, checkpointing: bool
) -> None:
    """`padding_free` works on a CPU with sdpa: the hook tells sequences apart by their position ids."""
    model, tokenizer = trained
    rows = [
        {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}
        for prompt, completion in examples(tokenizer)
    ]
    arguments = SFTConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        max_steps=1,
        per_device_train_batch_size=len(rows),
        max_length=None,
        padding_free=padding_free,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
        **checkpointed(checkpointing),
    )
    expected = torch.cat([scores(model, *row, attached_structure(model)) for row in examples(tokenizer)])
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert ("attention_mask" in batch) != padding_free
    loss = trainer.compute_loss(trainer.model, batch).item()
    assert loss == pytest.approx(-expected.mean().item(), abs=1e-5)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss, abs=1e-3)
    after = torch.cat([scores(model, *row, attached_structure(model)) for row in examples(tokenizer)])
    assert not torch.equal(after, expected), "a step was taken"


def checkpointed(on: bool) -> dict[str, bool]:
    # Named differently from transformers 5.23 on, which warns of the old name.
    return {"gradient_checkpointing": False, "activation_checkpointing": on}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_grpo_trainer_scores_the_structured_log_probs(
    trained: tuple[Any, Any], tmp_path: Path, checkpointing: bool
) -> None:
    model, tokenizer = trained
    tags = attached_structure(model)
    assert tags is not None
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
        args=GRPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            report_to=[],
            num_generations=3,
            per_device_train_batch_size=3,
            **checkpointed(checkpointing),
        ),
        train_dataset=Dataset.from_list([{"prompt": "a"}]),
        processing_class=tokenizer,
    )
    rows = examples(tokenizer)
    left, right = (max(len(row[i]) for row in rows) for i in (0, 1))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (left - len(p)) + p + c + [pad] * (right - len(c)) for p, c in rows])
    mask = torch.tensor([[0] * (left - len(p)) + [1] * len(p + c) + [0] * (right - len(c)) for p, c in rows])
    trainer.model.train()
    score = trainer._get_per_token_logps_and_entropies
    found, *_ = score(trainer.model, ids, mask, right)
    assert found.requires_grad
    one_by_one, *_ = score(trainer.model, ids, mask, right, batch_size=1)
    with trainer.model.disable_adapter(), torch.no_grad():
        reference, *_ = score(trainer.model, ids, mask, right)
        for numbers, row in zip(reference, rows, strict=True):
            assert close(numbers[: len(row[1])], scores(trainer.model, *row, tags))
    for numbers, alone, row in zip(found, one_by_one, rows, strict=True):
        expected = scores(trainer.model, *row, tags)
        assert close(numbers[: len(row[1])], expected)
        assert close(alone[: len(row[1])], expected)


# --- what is left alone, what is refused ------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_mask_for_each_pair_of_tokens_is_left_alone(attention: str) -> None:
    model = make("gemma3", attention)
    causal = {"full_attention": causal_mask(len(IDS)), "sliding_attention": causal_mask(len(IDS), WINDOW)}
    positions = torch.arange(len(IDS))[None]
    expected = logits(model, IDS, attention_mask=causal, position_ids=positions)
    single = logits(model, IDS, attention_mask=causal["full_attention"], position_ids=positions)
    attach_structure(model, TAGS)
    assert torch.equal(logits(model, IDS, attention_mask=causal, position_ids=positions), expected)
    one = logits(model, IDS, attention_mask=causal["full_attention"], position_ids=positions)
    assert torch.equal(one, single)


def causal_mask(length: int, window: int = 10**6) -> Tensor:
    distance = torch.arange(length)[:, None] - torch.arange(length)
    seen = (distance >= 0) & (distance < window)
    return torch.zeros(1, 1, length, length).masked_fill(~seen, torch.finfo(torch.float32).min)


def test_a_bool_mask_in_eager_attention_is_refused() -> None:
    model = make("gemma3", "eager")
    attach_structure(model, TAGS)
    mask = path_window_mask(torch.tensor([IDS]), TAGS)
    for given in (mask, {"full_attention": mask, "sliding_attention": mask}):
        with pytest.raises(ModelError, match=r"^eager attention adds its mask"):
            logits(model, IDS, attention_mask=given)


def test_what_cannot_be_structured_is_refused_when_it_is_called() -> None:
    model = make("qwen3")
    attach_structure(model, TAGS)
    embeddings = model.get_input_embeddings()(torch.tensor([IDS]))
    with pytest.raises(ModelError, match="needs input_ids"):
        model(inputs_embeds=embeddings)
    with pytest.raises(ModelError, match="cannot go on from a cache"):
        model.generate(torch.tensor([IDS]), max_new_tokens=2, pad_token_id=0)
    filled = SimpleNamespace(get_seq_length=lambda: 3)
    for name in ("cache", "past_key_values"):  # since transformers 5.24, and before
        with pytest.raises(ModelError, match="cannot go on from a cache"):
            backbone_of(model)(torch.tensor([IDS]), **{name: filled})
    first = model.generate(torch.tensor([IDS]), max_new_tokens=1, do_sample=False, pad_token_id=0)
    assert first[0, -1] == logits(model, IDS)[0, -1].argmax(), "a prefill alone is structured"
    again = model.generate(
        torch.tensor([IDS]), max_new_tokens=2, do_sample=False, use_cache=False, pad_token_id=0
    )
    assert again[0, -1] == logits(model, again[0, :-1].tolist())[0, -1].argmax(), "and so is doing without"


def refusal(model: Any, tags: Tags = TAGS) -> str:
    """The message; the model must be left without a hook."""
    before = [len(module._forward_pre_hooks) for module in model.modules()]
    with pytest.raises(ModelError) as caught:
        attach_structure(model, tags)
    message = str(caught.value)
    assert "\n" not in message
    assert [len(module._forward_pre_hooks) for module in model.modules()] == before
    return message


def test_flash_attention_is_refused() -> None:
    model = make("qwen3")
    model.config._attn_implementation = "flash_attention_2"
    assert "'flash_attention_2' takes no path windows" in refusal(model)
    assert attached_structure(model) is None


def test_attaching_twice_is_refused_and_leaves_the_first() -> None:
    model = make("qwen3")
    attach_structure(model, TAGS)
    assert "attached already" in refusal(model)
    assert attached_structure(model) == TAGS
    assert "attached already" in refusal(adapted(model))


def other(model_class: Any, attention: str = "eager", **given: Any) -> Any:
    config = model_class.config_class(vocab_size=64, **given)
    config._attn_implementation = attention
    torch.manual_seed(0)
    return model_class(config)


UNFIT: dict[str, tuple[Callable[[], Any], str]] = {
    "ALiBi from the padding mask": (
        lambda: other(hf.BloomForCausalLM, hidden_size=32, n_layer=2, n_head=2),
        "BloomForCausalLM cannot compute structured attention: its forward pass fails",
    ),
    "ALiBi from the column": (
        lambda: other(hf.MptForCausalLM, d_model=32, n_heads=2, n_layers=2, expansion_ratio=2),
        "MptForCausalLM cannot compute structured attention: it ignores position ids",
    ),
    "no attention, and a mask that is ignored": (
        lambda: other(hf.RwkvForCausalLM, hidden_size=32, num_hidden_layers=2, intermediate_size=64),
        "RwkvForCausalLM cannot compute structured attention: a path's logits change with what its sibling",
    ),
    "an LM head that calls another backbone": (
        lambda: other(
            hf.OPTForCausalLM,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            ffn_dim=64,
            word_embed_proj_dim=32,
        ),
        "OPTForCausalLM cannot compute structured attention: a path's logits change with what its sibling",
    ),
    "state space": (
        lambda: other(hf.MambaForCausalLM, hidden_size=32, num_hidden_layers=2, state_size=4),
        "MambaModel has layers of kind linear_attention",
    ),
    "convolution layers": (
        lambda: other(
            hf.Lfm2ForCausalLM,
            "sdpa",
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            layer_types=["conv", "full_attention"],
        ),
        "Lfm2Model has layers of kind conv",
    ),
    "no LM head": (
        lambda: make("qwen3").model,
        "Qwen3Model cannot compute structured attention: its forward pass fails",
    ),
}


@pytest.mark.parametrize(("build", "message"), UNFIT.values(), ids=UNFIT.keys())
def test_a_model_that_cannot_is_refused_by_name(build: Callable[[], Any], message: str) -> None:
    assert message in refusal(build())


@pytest.mark.parametrize("layer", [0, 1])
def test_one_leaking_layer_is_enough_to_be_refused(layer: int) -> None:
    """A wrapper that drops the mask on its way, and one that computes positions of its own."""

    def without_mask(module: Any, args: Any, kwargs: Any) -> Any:
        length = kwargs["attention_mask"].shape[-1]
        return args, kwargs | {"attention_mask": causal_mask(length) == 0}

    def with_ordinary_positions(module: Any, args: Any, kwargs: Any) -> Any:
        cos, _ = kwargs["position_embeddings"]
        ordinary = torch.arange(cos.shape[1])[None]
        return args, kwargs | {"position_embeddings": model.model.rotary_emb(cos, ordinary)}

    for hook, message in (
        (without_mask, "a path's logits change with what its sibling says"),
        (with_ordinary_positions, "a path's logits change with where it stands in its block"),
    ):
        model = make("llama")
        model.model.layers[layer].register_forward_pre_hook(hook, with_kwargs=True)
        assert message in refusal(model)


# --- the probe --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"initializer_range": 0.02},
        {"initializer_range": 0.002},
        {"initializer_range": 1.0},
        {"vocab_size": 11},
        {"tie_word_embeddings": True},
    ],
    ids=str,
)
def test_a_sound_model_is_taken_whatever_its_scale_and_precision(
    given: dict[str, Any], dtype: torch.dtype
) -> None:
    for family in ("qwen3", "mixture of experts"):
        attach_structure(make(family, **given).to(dtype), TAGS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [0.002, 0.02, 0.2])
def test_an_unsound_model_is_refused_whatever_its_scale_and_precision(
    scale: float, dtype: torch.dtype
) -> None:
    rwkv = other(hf.RwkvForCausalLM, hidden_size=32, num_hidden_layers=2, intermediate_size=64)
    mpt = other(hf.MptForCausalLM, d_model=32, n_heads=2, n_layers=2, expansion_ratio=2)
    for model in (rwkv, mpt):
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(scale)
        refusal(model.to(dtype))


def test_tags_with_equal_rows_are_no_obstacle() -> None:
    """Structure is read from ids: which rows they have is `prl.model.check_tags`'s business."""
    model = make("qwen3", tie_word_embeddings=True)
    with torch.no_grad():
        model.get_input_embeddings().weight[1:7] = model.get_input_embeddings().weight[1]
    attach_structure(model, TAGS)


def test_a_model_that_cannot_tell_tokens_apart_is_refused() -> None:
    model = make("qwen3")
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(1.0)
    assert "what follows a block does not see its paths" in refusal(model)


def test_the_probe_leaves_everything_as_it_was() -> None:
    model = make("qwen3", attention_dropout=0.5).train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    weights = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    handle = attach_structure(model, TAGS)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    handle.remove()
    model.config._attn_implementation = "eager"
    model.lm_head.register_forward_pre_hook(lambda module, args: 1 / 0)
    assert "division by zero" in refusal(model)
    assert [module.training for module in model.modules()] == modes


def test_without_a_probe_nothing_is_computed() -> None:
    model = make("qwen3")
    model.lm_head.register_forward_pre_hook(lambda module, args: 1 / 0)
    attach_structure(model, TAGS, probe=False)
    assert attached_structure(model) == TAGS

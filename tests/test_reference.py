"""The reference of `--beta`: the policy as it was when RL began, in every tensor, over a resumption too."""

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import use_adapter

from prl import rl, runs, tiny
from prl.config import resolve
from prl.errors import ModelError
from prl.model import Lora, load_model, make_optimizer, save_adapter, tag_ids
from prl.prompts import render_prompt, render_response
from prl.trainer.reference import settle_reference
from prl.trainer.training import train

PROMPT = render_prompt("Compute 3 + 4.", "bare")
TRACES = [
    "<Parallel><Path>\n3+4=7.\n</Path><Path>\n4+3=7.\n</Path></Parallel>\n<Summary>\nBoth 7.\n</Summary>",
    "<Parallel><Path>\n3+4=8.\n</Path><Path>\n4+3=8.\n</Path></Parallel>\n<Summary>\nSo 8.\n</Summary>",
]


def small(**options: Any) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=32, **options,
        )
    )  # fmt: skip


@pytest.fixture(scope="module", params=["tied", "untied"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "tied":
        return tiny.NAME
    folder, tokenizer = tmp_path_factory.mktemp("untied"), AutoTokenizer.from_pretrained(tiny.BASE)
    small(vocab_size=len(tokenizer), tie_word_embeddings=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def moved(model: Any) -> None:
    """Everything that is trained, away from where it was drawn, as a cold start of usual length leaves it."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1


def differences(model: Any) -> dict[str, float]:
    """For each parameter of the policy how far the reference's twin is."""
    tensors = dict(model.named_parameters())
    policy = {n: p for n, p in tensors.items() if "default" in n.split(".")}
    twins = {n: tensors[".".join("ref" if s == "default" else s for s in n.split("."))] for n in policy}
    assert {twins[name].dtype for name in policy} == {p.dtype for p in policy.values()}
    return {name: (p - twins[name]).abs().max().item() for name, p in policy.items()}


def trainer_on(model: Any, tokenizer: Any, folder: Path) -> GRPOTrainer:
    """Four responses with tags to one problem; the first two are paid."""
    completions = [
        tokenizer(render_response(trace), add_special_tokens=False)["input_ids"] for trace in TRACES * 2
    ]

    def responses(prompts: Any, trainer: Any) -> dict[str, Any]:
        ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        return {"prompt_ids": ids, "completion_ids": completions, "logprobs": None}

    training = GRPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, beta=0.1, per_device_train_batch_size=4,
        num_generations=4, max_completion_length=80, max_steps=2, save_steps=1, logging_steps=1,
        learning_rate=1e-2, report_to="none", gradient_checkpointing=None, activation_checkpointing=False,
    )  # fmt: skip
    return GRPOTrainer(
        model=model,
        reward_funcs=[lambda completions, **columns: [1.0, 1.0, 0.0, 0.0]],
        args=training,
        train_dataset=Dataset.from_list([{"prompt": PROMPT}] * 4),
        processing_class=tokenizer,
        optimizers=(make_optimizer(model, training, None), None),
        rollout_func=responses,
    )


def test_the_reference_is_the_policy_in_every_tensor_and_stays_it(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")  # prl rl filters it
    # The versions that settle_reference mends; `train` meets peft's.
    assert importlib.metadata.version("trl").startswith("1.16.")
    assert importlib.metadata.version("peft").startswith("0.21.")
    model, tokenizer = load_model(base, lora=Lora(r=4), trainable=True)
    moved(model)
    save_adapter(model, tokenizer, tmp_path / "cold")
    model, tokenizer = load_model(str(tmp_path / "cold"), trainable=True)
    assert not set(tag_ids(tokenizer)).isdisjoint(
        tokenizer(render_response(TRACES[0]), add_special_tokens=False)["input_ids"]
    )
    trainer = trainer_on(model, tokenizer, tmp_path / "rl")
    missed = {name.split(".")[-2] for name, by in differences(model).items() if by}
    assert missed == {"trainable_tokens_delta"}, "what trl misses; nothing to mend where it does not"

    settle_reference(model)
    assert set(differences(model).values()) == {0.0}
    began = {name: p.clone() for name, p in model.named_parameters() if "ref" in name.split(".")}
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for name, p in model.named_parameters() if "default" in name.split(".")}
    trainer.train()
    first, second = (entry["kl"] for entry in trainer.state.log_history if "kl" in entry)
    assert first == 0
    assert second > 0
    tensors = dict(model.named_parameters())
    assert all(torch.equal(tensors[name], value) for name, value in began.items())
    assert all(differences(model).values()), "the policy moved on, every tensor of it"

    # A checkpoint holds both, whatever has become of the cold start since.
    policy = {name: tensors[name].clone() for name in differences(model)}
    for name in (*policy, *began):
        tensors[name].data.zero_()
    trainer._load_from_checkpoint(str(tmp_path / "rl" / "checkpoint-2"))
    assert all(torch.equal(tensors[name], value) for name, value in (policy | began).items())
    save_adapter(model, tokenizer, tmp_path / "adapter")
    assert not [path for path in (tmp_path / "adapter").iterdir() if path.is_dir()], "the policy alone"


def test_on_a_fresh_adapter_the_reference_is_the_base(base: str) -> None:
    model, tokenizer = load_model(base, lora=Lora(r=4), trainable=True)
    model.add_adapter("ref", model.peft_config["default"])
    settle_reference(model)
    ids = tokenizer(PROMPT + TRACES[0], return_tensors="pt", add_special_tokens=False)["input_ids"]
    moved(model)
    with torch.no_grad():
        with use_adapter(model, "ref"):
            reference = model(ids).logits
        with model.disable_adapter():
            torch.testing.assert_close(reference, model(ids).logits, rtol=0, atol=0)
        assert not torch.equal(reference, model(ids).logits)


@pytest.mark.parametrize(
    "shape",
    [
        {"target_modules": "all-linear", "use_dora": True},
        {"target_modules": ["k_proj"], "lora_bias": True},
        {"target_modules": ["embed_tokens", "q_proj"], "modules_to_save": ["norm"]},
        {"target_modules": ["v_proj"], "trainable_token_indices": {"embed_tokens": [1, 5], "lm_head": [2]}},
        {"target_modules": [], "target_parameters": ["q_proj.weight", "gate_proj.weight"]},
    ],
    ids=["dora", "bias", "embedding and whole modules", "token rows", "parameters"],
)
def test_every_shape_of_name_that_peft_gives_is_copied(shape: dict[str, Any]) -> None:
    plain = small(vocab_size=40, tie_word_embeddings=False, attention_bias=True)
    model = get_peft_model(plain, LoraConfig(r=2, task_type="CAUSAL_LM", **shape))
    moved(model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    model.add_adapter("ref", model.peft_config["default"])
    assert any(differences(model).values())
    settle_reference(model)
    assert set(differences(model).values()) == {0.0}
    assert differences(model).keys() == trained


def test_without_a_reference_nothing_changes_and_one_with_a_gap_is_refused() -> None:
    model = get_peft_model(small(vocab_size=40), LoraConfig(r=2, target_modules=["q_proj"]))
    before = {name: p.clone() for name, p in model.named_parameters()}
    settle_reference(model)
    settle_reference(small(vocab_size=40))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    model.add_adapter("ref", LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[0]))
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.default.weight"
    with pytest.raises(ModelError) as refused:
        settle_reference(model)
    assert str(refused.value) == f"the reference of --beta has no copy of {name}: train with --beta 0"


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("four_bit", [False, True], ids=["32 bits", "4 bits"])
def test_a_resumed_training_has_the_kl_of_the_uninterrupted_one(
    four_bit: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    if four_bit:
        pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes")
    model, tokenizer = load_model(tiny.NAME, lora=Lora(r=4), trainable=True)
    moved(model)
    save_adapter(model, tokenizer, tmp_path / "cold")
    kl = []
    for folder, checkpoint in (("whole", None), ("parts", tmp_path / "whole" / "checkpoint-1")):
        model, tokenizer = load_model(str(tmp_path / "cold"), trainable=True, load_in_4bit=four_bit)
        trainer = trainer_on(model, tokenizer, tmp_path / folder)
        settle_reference(model)
        assert set(differences(model).values()) == {0.0}
        train(trainer, checkpoint)
        kl.append([entry["kl"] for entry in trainer.state.log_history if "kl" in entry])
    assert kl[0][0] == 0
    assert kl[0][1] > 0
    assert kl[1] == kl[0]
    whole, parts = (tmp_path / folder / "checkpoint-2" for folder in ("whole", "parts"))
    for of in (".", "ref"):
        once, again = adapter_of(whole / of), adapter_of(parts / of)
        assert all(torch.equal(tensor, again[name]) for name, tensor in once.items())


def test_rl_measures_from_its_cold_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = load_model(tiny.NAME, lora=Lora(r=4, dropout=0.1), trainable=True)
    moved(model)
    save_adapter(model, tokenizer, tmp_path / "cold")
    settings = resolve(
        "rl", recipe="tiny", threads=1, model_name_or_path=str(tmp_path / "cold"),
        output_dir=str(tmp_path / "rl"), limit=8, per_device_train_batch_size=4, num_generations=4,
        gradient_accumulation_steps=1, max_completion_length=24, max_steps=2, save_steps=1, logging_steps=1,
        beta=0.04, weight_decay=1.0, learning_rate=1e-2,
    )  # fmt: skip  # the weight decay moves the policy where all groups are dead, too
    rl.run(settings)
    told = "  dropout: off in rl, which scores what it sampled; the adapter's 0.1 is sft's"
    assert capsys.readouterr().err.splitlines().count(told) == 1
    stored = runs.read_config(tmp_path / "rl")
    assert stored["rl"]["disable_dropout"] is True
    assert told == f"  dropout: {stored['chosen']['dropout']}"
    lines = [line for line in runs.read_metrics(tmp_path / "rl") if "kl" in line]
    assert lines[0]["kl"] == 0
    assert lines[1]["kl"] > 0
    assert max(line["sampling_gap/max"] for line in lines) < 1e-4, "the policy is sampled, not the reference"
    cold, reference = adapter_of(tmp_path / "cold"), adapter_of(tmp_path / "rl" / "checkpoint-2" / "ref")
    assert all(torch.equal(tensor, reference[name]) for name, tensor in cold.items())
    assert not (tmp_path / "rl" / "adapter" / "ref").exists()
    load_model(str(tmp_path / "rl" / "checkpoint-2"))

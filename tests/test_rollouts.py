"""Rollouts of prl's decoder inside TRL's GRPOTrainer (trl 1.16): agreement, masking."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from prl import rl
from prl.config import resolve
from prl.decoding import Limits, Sampling
from prl.model import load_model
from prl.prompts import render_prompt
from prl.structure import Tags, read_structure
from prl.trainer.rollouts import MERGED_LIMIT, Rollouts


def talkative(attention, *, lora=False):
    """The tiny architecture with random weights and a bias for tags (TRL's fused head reads it too), so that
    anything may be written, and logits are of ordinary size."""
    model, tokenizer = load_model("tiny", attention=attention, tags="tokens")
    generator = torch.Generator().manual_seed(0)
    tags = Tags.of(tokenizer)
    bias = torch.zeros(model.config.vocab_size)
    bias[[tags.parallel, tags.end_path]] = 4
    bias[[tags.path, tags.end_parallel, tokenizer.eos_token_id]] = 2
    model.get_output_embeddings().bias = nn.Parameter(bias, requires_grad=False)
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for weights in model.parameters():
        if weights.dim() > 1:
            weights.data.normal_(0, 0.05, generator=generator)
    return model, tokenizer


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")  # prl rl filters it


class Batches(TrainerCallback):
    """Keeps what reached the reward and the log."""

    def __init__(self):
        self.columns, self.logs = [], []

    def on_log(self, args, state, control, logs, **kwargs):
        if "sampling_gap/max" in logs:
            self.logs.append(logs)

    def reward(self, completions, completion_ids, critical_path, **columns):
        self.columns.append((completion_ids, critical_path))
        return [float(len(ids) % 5) for ids in completion_ids]


def config(tmp_path, **options):
    checkpointing = {"gradient_checkpointing": None, "activation_checkpointing": False} | options
    return GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **checkpointing)


def train(tmp_path, attention, *, lora=False, prompts=4, **options):
    model, tokenizer = talkative(attention, lora=lora)
    rollouts, batches = Rollouts(Limits(max_new_tokens=60, paths=2, max_path_length=9)), Batches()
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[batches.reward],
        args=config(
            tmp_path,
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=60,
            max_steps=2,
            learning_rate=1e-3,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            seed=1,
            **options,
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": render_prompt(f"Compute {'1 + ' * i}{i}.", "bare")} for i in range(prompts)]
        ),
        processing_class=tokenizer,
        rollout_func=rollouts,
        callbacks=[rollouts, batches],
    )
    rollouts.watch(trainer)
    trainer.train()
    return batches


@pytest.mark.parametrize("attention", ["structured", "causal"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation_checkpointing": True, "gradient_accumulation_steps": 2, "beta": 0.1, "temperature": 0.8},
    ],
    ids=["plain", "checkpointing, accumulation, reference, temperature"],
)
def test_what_is_sampled_is_what_is_scored(tmp_path, attention, options):
    batches = train(tmp_path, attention, **options)
    assert len(batches.logs) == 2, "the gap is logged at every step"
    for entry in batches.logs:
        assert math.expm1(entry["sampling_gap/max"]) <= 1e-5, "the importance ratio is 1"
        assert 0 <= entry["sampling_gap/mean"] <= entry["sampling_gap/max"]
    shorter = [
        c < len(ids) for batch, critical in batches.columns for ids, c in zip(batch, critical, strict=True)
    ]
    assert any(shorter) == (attention == "structured"), "paths side by side shorten what has to wait"


def test_a_lora_adapter_scores_what_it_sampled(tmp_path):
    batches = train(tmp_path, "structured", lora=True)
    assert [entry["sampling_gap/max"] <= 1e-5 for entry in batches.logs] == [True, True]


def test_ignoring_the_structure_trips_the_wire(tmp_path, capsys):
    """What the reference does: sample with path windows, score without."""
    model, tokenizer = talkative("structured")
    rollouts = Rollouts(Limits(max_new_tokens=60, max_path_length=9))
    trainer = SimpleNamespace(
        model=model.eval(),
        state=SimpleNamespace(global_step=0),
        accelerator=SimpleNamespace(unwrap_model=lambda model: model, process_index=0),
        processing_class=tokenizer,
        args=SimpleNamespace(temperature=1.0, top_p=1.0, top_k=0, min_p=None, seed=0, bf16=False, fp16=False),
    )
    trainer.model.training = True
    out = rollouts([render_prompt("Compute 1 + 1.", "bare")] * 4, trainer)
    plain, _ = talkative("causal")
    sequences = [p + c for p, c in zip(out["prompt_ids"], out["completion_ids"], strict=True)]
    for model_to_score, wanted in ((model, True), (plain, False)):
        for sequence in sequences:
            ids = torch.tensor([sequence])
            with torch.no_grad():
                logprobs = model_to_score(input_ids=ids).logits[0, :-1].log_softmax(-1)
            scored = logprobs.gather(-1, ids[0, 1:, None])[None, :, 0]
            rollouts._compare(ids, torch.ones_like(ids), scored)
        logs = {}
        rollouts.on_log(trainer.args, None, None, logs=logs)
        assert (logs["sampling_gap/max"] <= 1e-4) == wanted, logs
        assert ("please report it" in capsys.readouterr().err) != wanted


def test_rounding_in_16_bits_is_no_fault_to_report(capsys):
    """TRL trains the adapter of a 4-bit model in bfloat16, whatever the flags say."""
    args = SimpleNamespace(bf16=False, fp16=False)
    for dtype, wanted in ((torch.float32, True), (torch.bfloat16, False)):
        rollouts = Rollouts(Limits())
        rollouts.watch(SimpleNamespace(model=nn.Linear(2, 2, dtype=dtype)))
        rollouts.gaps = torch.tensor([0.003, 0.003, 1])
        rollouts.on_log(args, None, None, logs={})
        assert ("please report it" in capsys.readouterr().err) == wanted


def test_inserted_tokens_are_out_of_the_loss_and_nothing_else():
    model, tokenizer = talkative("structured")
    tags = Tags.of(tokenizer)
    trainer = SimpleNamespace(
        model=model.eval(),
        state=SimpleNamespace(global_step=3),
        accelerator=SimpleNamespace(unwrap_model=lambda model: model, process_index=0),
        processing_class=tokenizer,
        args=SimpleNamespace(temperature=1.0, top_p=1.0, top_k=None, min_p=None, seed=0),
    )
    prompts = [render_prompt(f"Compute {i} + 1.", "bare") for i in (1, 1, 2, 2, 2, 1)]
    limits = Limits(max_new_tokens=60, max_path_length=9, max_blocks=60)
    out = Rollouts(limits)(prompts, trainer)
    assert [tokenizer.decode(ids) for ids in out["prompt_ids"]] == prompts, "in the order they came"
    assert len({tuple(ids) for ids in out["completion_ids"]}) == 6, "equal prompts have seeds of their own"
    forks = 0
    for prompt, ids, mask, critical in zip(
        out["prompt_ids"], out["completion_ids"], out["env_mask"], out["critical_path"], strict=True
    ):
        assert len(ids) == len(mask) <= 60
        structure = read_structure(torch.tensor([prompt + ids]), tags)
        assert critical == structure.positions.max() + 1 - len(prompt)
        inserted = {token for token, kept in zip(ids, mask, strict=True) if not kept}
        assert inserted <= {
            tags.path,
            tags.end_path,
            tags.end_parallel,
            tags.summary,
            *tokenizer("\n").input_ids,
        }
        # Near the end there is no room to fork, and tags are the model's own.
        joined = max((i for i, kept in enumerate(mask) if not kept), default=0)
        starts = [i for i, token in enumerate(ids[:joined]) if token == tags.path]
        forks += len(starts) // 2
        assert not any(mask[i] for i in starts)
    assert forks >= 6
    again = Rollouts(limits)(prompts, trainer)
    assert again["completion_ids"] == out["completion_ids"], "the seed and the step decide, nothing else"


def completions(prompts, *, seed=0, step=3, training=False, process=0):
    """Token ids that rollouts sample for a trainer in this state."""
    model, tokenizer = talkative("causal")
    trainer = SimpleNamespace(
        model=model,
        state=SimpleNamespace(global_step=step),
        accelerator=SimpleNamespace(unwrap_model=lambda model: model, process_index=process),
        processing_class=tokenizer,
        args=SimpleNamespace(temperature=1.0, top_p=1.0, top_k=0, min_p=None, seed=seed),
    )
    model.train(training)
    return Rollouts(Limits(max_new_tokens=8))(prompts, trainer)["completion_ids"]


def test_responses_follow_from_seed_step_and_place_and_nothing_else():
    prompts = [render_prompt("Compute 1 + 1.", "bare")] * 3 + [render_prompt("Compute 2 + 2.", "bare")] * 3
    usual = completions(prompts)
    assert completions(prompts) == usual
    for other in ({"seed": 1}, {"step": 4}, {"training": True}, {"process": 1}):
        found = completions(prompts, **other)
        assert not any(ids in usual for ids in found), other
    # Two processes that share the prompts sample what one does.
    assert completions(prompts[:3]) + completions(prompts[3:], process=1) == usual


def test_batches_of_an_evaluation_have_seeds_of_their_own():
    """Else the first problem of each batch would be answered with the same luck; the next evaluation begins
    as this one did."""
    model, tokenizer = talkative("causal")
    trainer = SimpleNamespace(
        model=model.eval(),
        state=SimpleNamespace(global_step=3),
        accelerator=SimpleNamespace(unwrap_model=lambda model: model, process_index=0),
        processing_class=tokenizer,
        args=SimpleNamespace(temperature=1.0, top_p=1.0, top_k=0, min_p=None, seed=0),
    )
    rollouts, prompts = Rollouts(Limits(max_new_tokens=8)), [render_prompt("Compute 1 + 1.", "bare")] * 2

    def sampled(count=1):
        return rollouts(prompts * count, trainer)["completion_ids"]

    first, second = sampled(), sampled()
    assert not any(ids in first for ids in second)
    rollouts.on_evaluate(trainer.args, trainer.state, None)
    assert sampled(2) == first + second, "however many are asked at once"


def test_rollouts_are_drawn_as_the_trainer_is_told():
    model, tokenizer = talkative("causal")
    trainer = SimpleNamespace(
        model=model,
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        processing_class=tokenizer,
        args=SimpleNamespace(temperature=0.7, top_p=0.9, top_k=5, min_p=0.1),
    )
    limits = Limits(max_new_tokens=8)
    decoder = Rollouts(limits)._decoder(trainer, 6)
    assert (decoder.limits, decoder.sampling, decoder.batch_size) == (limits, Sampling(0.7, 0.9, 5, 0.1), 6)
    trainer.args.top_k = trainer.args.min_p = None  # TRL's way to say off
    assert Rollouts(limits)._decoder(trainer, 6).sampling == Sampling(0.7, 0.9, 0, 0.0)


def gapped(rollouts, mean, step=1):
    """A log after responses whose log-probabilities were off by `mean`."""
    rollouts.gaps = torch.tensor([0.5, 100 * mean, 100])
    logs = {"loss": 0.0}
    rollouts.on_log(SimpleNamespace(bf16=True, fp16=False), None, None, logs=logs)
    return logs["sampling_gap/mean"]


@pytest.mark.parametrize("is_watched", [True, False])
def test_merged_weights_that_sample_otherwise_are_given_up_or_told(is_watched, capsys, tmp_path):
    rollouts = Rollouts(Limits(), merges=True, is_watched=is_watched)
    assert gapped(rollouts, MERGED_LIMIT / 2) == pytest.approx(MERGED_LIMIT / 2)
    assert rollouts.merges
    assert "warning" not in capsys.readouterr().err
    gapped(rollouts, 2 * MERGED_LIMIT)
    gapped(rollouts, 2 * MERGED_LIMIT)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("warning") == 1
    assert "off by 0.04 on average (limit: 0.02)" in said
    assert rollouts.merges != is_watched
    assert ("from here on the adapter samples" in said) == is_watched
    assert ("take --rollout_weights adapter" in said) != is_watched


def test_a_gap_that_is_no_number_ends_it_too():
    rollouts = Rollouts(Limits(), merges=True, is_watched=True)
    gapped(rollouts, math.nan)
    assert not rollouts.merges


@pytest.mark.parametrize(("is_watched", "merges"), [(True, False), (False, True)])
def test_a_resumed_run_goes_on_with_the_weights_that_it_took(is_watched, merges, tmp_path):
    before = Rollouts(Limits(), merges=False)
    kept = {"stateful_callbacks": {"Rollouts": before.state()}}
    (tmp_path / "trainer_state.json").write_text(json.dumps(kept))
    after = Rollouts(Limits(), merges=True, is_watched=is_watched)
    after.restore(tmp_path)
    assert after.merges == merges, "what the user asks for counts"


def test_rollouts_in_16_bits_sample_with_the_merged_adapter(tmp_path):
    """As `prl rl` does by itself, where there is room: told, and within the limit."""
    settings = resolve(
        "rl", recipe="tiny", threads=1, dtype="bfloat16", max_steps=1, per_device_train_batch_size=4,
        gradient_accumulation_steps=1, num_generations=4, max_completion_length=24, limit=8,
        attention="causal", output_dir=str(tmp_path / "rl"),
    )  # fmt: skip
    rl.run(settings)
    logged = json.loads((tmp_path / "rl" / "metrics.jsonl").read_text().splitlines()[0])
    assert 0 < logged["sampling_gap/mean"] < MERGED_LIMIT
    chosen = yaml.safe_load((tmp_path / "rl" / "config.yaml").read_text())["chosen"]
    assert chosen["rollout_weights"].startswith("merged: ")

"""Tags that a model was never trained on: spelled out in prompts and answers, with no row to be drawn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from prl import evaluation, rl, runs, sft, tiny
from prl.config import resolve
from prl.decoding import ForkJoinDecoder, Limits
from prl.errors import ModelError
from prl.model import Lora, load_model, load_tokenizer, merge_and_verify, save_adapter, tag_ids, tags_of
from prl.model.gguf import export_gguf
from prl.prompts import IM_END, IM_START, render_prompt
from prl.structure import Tags

PROMPT = render_prompt("Compute 12 + 30 - 7.")  # its instruction quotes all six tags
RL: dict[str, Any] = {
    "limit": 8, "max_steps": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
    "num_generations": 4, "max_completion_length": 24, "dataset": "arithmetic:easy", "save_steps": 1,
    "rewards": ["efficiency"], "beta": 0.1, "learning_rate": 1e-3, "warmup_steps": 0,
}  # fmt: skip


def settings(command: str, folder: Path, **given: Any) -> Any:
    return resolve(command, recipe="tiny", threads=1, output_dir=str(folder), **given)


def write_base(
    folder: Path, *, turns: bool = True, tied: bool = True, more: int = 0, **special: str | None
) -> str:
    """A random model with a row for each token of its tokenizer, the tiny one's with `more` tokens; without
    `turns`, those of ChatML have other names there."""
    tiny_tokenizer = AutoTokenizer.from_pretrained(tiny.BASE)
    folder.mkdir()
    tiny_tokenizer.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json") if not turns else ():
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace(IM_START, "<s>").replace(IM_END, "</s>"), encoding="utf-8")
    said = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(said | special), encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, tie_word_embeddings=tied,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.add_tokens([f"<extra_{i}>" for i in range(more)])
    tokenizer.save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def check_untouched(name: str) -> None:
    """`load_model` gives what transformers do: the same tokens, as many rows, the same probabilities."""
    model, tokenizer = load_model(name, tags="text")
    plain = AutoModelForCausalLM.from_pretrained(tiny.resolve(name), dtype=torch.float32)
    theirs = AutoTokenizer.from_pretrained(tiny.resolve(name))
    ids = tokenizer(PROMPT + "So <Path>6</Path>", return_tensors="pt", add_special_tokens=False)["input_ids"]
    assert ids[0].tolist() == theirs(PROMPT + "So <Path>6</Path>", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids[0]).endswith("So <Path>6</Path>")
    assert (len(tokenizer), tag_ids(tokenizer)) == (len(theirs), [])
    found, expected = (each(ids).logits.log_softmax(-1) for each in (model, plain))
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("turns", [True, False])
def test_a_base_is_as_transformers_load_it(turns: bool, tied: bool, tmp_path: Path) -> None:
    check_untouched(write_base(tmp_path / "base", turns=turns, tied=tied))


def test_the_model_that_ships_is_as_transformers_load_it() -> None:
    check_untouched(tiny.NAME)


@pytest.mark.real
def test_the_real_model_is_as_transformers_load_it(real_model: Path) -> None:
    check_untouched(str(real_model))


def test_a_base_without_chat_turns_ends_as_it_learned_to(tmp_path: Path) -> None:
    name = write_base(tmp_path / "base", turns=False, eos_token="</s>", pad_token="</s>", unk_token=None)
    model, tokenizer = load_model(name, tags="text")
    ends = (tokenizer.eos_token_id, model.config.eos_token_id, model.generation_config.eos_token_id)
    assert ends == (tokenizer.convert_tokens_to_ids("</s>"),) * 3
    assert tokenizer.pad_token == "<|endoftext|>"
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(len(tokenizer)))
    head.bias.data[tokenizer.eos_token_id] = 4.0
    ((response,),) = ForkJoinDecoder(model, tokenizer, limits=Limits(64)).generate([PROMPT])
    assert response.token_ids[-1] == tokenizer.eos_token_id
    assert (response.truncated, "</s>" in response.text) == (False, False)

    trained, tokenizer = load_model(name, lora=Lora(r=4))
    assert tokenizer.eos_token == IM_END
    assert trained.get_input_embeddings().weight.shape[0] == len(tokenizer) == len(load_tokenizer(name)) + 8


def test_pad_is_eos_where_there_is_no_other_token(tmp_path: Path) -> None:
    name = write_base(tmp_path / "base", turns=False, eos_token="<|endoftext|>", pad_token=None)
    _, tokenizer = load_model(name, tags="text")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|endoftext|>")


def test_a_base_without_an_end_is_refused(tmp_path: Path) -> None:
    name = write_base(tmp_path / "base", turns=False, eos_token=None)
    with pytest.raises(ModelError) as refused:
        load_model(name, tags="text")
    assert str(refused.value) == (
        f"the tokenizer of {name!r} names no eos_token, so that no response would end: name it in "
        "tokenizer_config.json, or train the model first (`prl sft`)"
    )


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_tokens_without_a_row_get_one_that_is_hardly_drawn(tied: bool, tmp_path: Path) -> None:
    name = write_base(tmp_path / "base", tied=tied, more=7)
    model, tokenizer = load_model(name, tags="text")
    rows = model.get_output_embeddings().weight
    assert len(rows) == len(tokenizer) == 384 + 7
    assert torch.allclose(rows[-7:], rows[:-7].mean(dim=0).expand(7, -1), atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_a_pad_of_prls_own_is_the_same_whenever_it_is_loaded(tied: bool, tmp_path: Path) -> None:
    """No adapter holds its row. As Llama 3.x: no pad, no unk, and EOS has another name."""
    name = write_base(
        tmp_path / "base", turns=False, tied=tied, eos_token="</s>", pad_token=None, unk_token=None
    )
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (tmp_path / "base" / file).read_text(encoding="utf-8")
        (tmp_path / "base" / file).write_text(text.replace("<|endoftext|>", "<|begin|>"), encoding="utf-8")
    model, tokenizer = load_model(name, lora=Lora(r=4))
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|pad|>", len(tokenizer) - 1)
    save_adapter(model, tokenizer, tmp_path / "adapter")
    again, _ = load_model(str(tmp_path / "adapter"))
    for one, other in zip(tables(model), tables(again), strict=True):
        assert torch.equal(one[:384], other[:384])
        assert torch.equal(one[-1], other[-1])
        assert torch.allclose(one[-1], one[:384].mean(dim=0), atol=1e-6)
    assert len(tables(model)) == 2 - tied


def tables(model: Any) -> list[torch.Tensor]:
    """Input embedding and, where it has a matrix of its own, the head; (rows, hidden) each."""
    both = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    return both[: 2 - model.config.tie_word_embeddings]


def test_what_is_to_be_trained_on_the_tags_gets_tokens(tagged: str) -> None:
    for given in ({"tags": "tokens"}, {"lora": Lora(r=4)}, {}):
        assert len(tag_ids(load_model(tiny.NAME, **given)[1])) == 6
    model, tokenizer = load_model(tiny.NAME, lora=Lora(r=4), tags="text", trainable=True)
    assert tag_ids(tokenizer) == []
    assert not any("trainable_tokens" in key for key, _ in model.named_parameters())
    assert [tags_of(name) for name in (tiny.NAME, tagged)] == ["text", "tokens"]
    with pytest.raises(ModelError) as refused:
        load_model(tagged, tags="text")
    assert str(refused.value) == (
        f"the tags are tokens to {tagged!r} and cannot be spelled out: leave tags='text' out"
    )
    with pytest.raises(ModelError, match="tags 'token' must be 'auto', 'tokens' or 'text'"):
        load_model(tiny.NAME, tags="token")


def test_an_adapter_with_rows_beside_the_tokenizer_of_its_base_has_tokens(tmp_path: Path) -> None:
    model, tokenizer = load_model(tiny.NAME, lora=Lora(r=4))
    model.save_pretrained(tmp_path)
    load_tokenizer(tiny.NAME).save_pretrained(tmp_path)
    assert tags_of(tmp_path) == "tokens"
    assert tag_ids(load_model(str(tmp_path))[1]) == tag_ids(tokenizer)


def test_a_quantised_base_is_trained_without_rows() -> None:
    pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes")
    model, tokenizer = load_model(tiny.NAME, lora=Lora(r=4), tags="text", trainable=True, load_in_4bit=True)
    assert {name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad} == {
        "lora_A",
        "lora_B",
    }
    ((response,),) = ForkJoinDecoder(model, tokenizer, limits=Limits(8)).generate([PROMPT])
    assert len(response.token_ids) == 8


NO_FORK = (
    "'tiny' was never trained on the tags, so that nothing would fork with --attention structured: train it "
    "on traces first (`prl sft --attention structured`; in a script of your own, load_model(..., "
    'tags="tokens")), or leave --attention out'
)


def test_structured_attention_without_tags_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused:
        load_model(tiny.NAME, attention="structured", tags="text")
    assert str(refused.value) == NO_FORK
    with pytest.raises(ModelError) as refused:
        rl.run(settings("rl", tmp_path / "rl", attention="structured", **RL))
    assert str(refused.value) == NO_FORK
    assert not (tmp_path / "rl").exists()
    with pytest.raises(ModelError, match=r'load_model\(..., tags="tokens"\), or call add_tags'):
        Tags.of(load_model(tiny.NAME, tags="text")[1])


def share_of_tags(name: str, problems: list[str], tags: str) -> float:
    """Mean probability of the six tags, over every token of prompts that do not quote them."""
    model, tokenizer = load_model(name, tags=tags)
    prompts = [render_prompt(problem, "sequential") for problem in problems]
    encoded = [
        tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"] for text in prompts
    ]
    with torch.no_grad():
        shares = [model(ids).logits[0].softmax(-1)[:, tag_ids(tokenizer)].sum(-1) for ids in encoded]
    return torch.cat(shares).mean().item()


def test_a_script_gets_tokens_that_are_not_drawn_before_they_are_trained() -> None:
    assert share_of_tags(tiny.NAME, [f"Compute {n} + 3." for n in range(4)], "auto") < 1e-4
    model, tokenizer = load_model(tiny.NAME, attention="structured")
    rows = model.get_input_embeddings().weight[tag_ids(tokenizer)]
    closest = torch.nn.functional.cosine_similarity(rows[None], rows[:, None], dim=-1) - 2 * torch.eye(6)
    assert 0.8 < closest.max() < 0.99


@pytest.mark.real
def test_a_real_base_does_not_draw_them_either(real_model: Path) -> None:
    """It would draw the rows that a new adapter begins with."""
    shares = [share_of_tags(str(real_model), ["What is 3 + 4?"], tags) for tags in ("auto", "tokens")]
    assert shares[0] < 1e-5 < 1e-2 < shares[1]


def test_an_evaluation_says_that_nothing_forks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"limit": 4, "samples": 1, "max_completion_length": 24, "prompt_style": "parallel"}
    results = []
    for attention in ("structured", "causal"):
        folder = tmp_path / attention
        evaluation.run(settings("eval", folder, attention=attention, **given))
        results.append(json.loads((folder / "results.json").read_text(encoding="utf-8")))
        assert runs.read_config(folder)["chosen"]["tags"] == "spelled out: tiny was never trained on them"
    assert results[0] == results[1]
    assert (results[0]["tags"], results[0]["attention"]) == ("text", "causal")
    said = capsys.readouterr().err
    assert "  tags: spelled out: tiny was never trained on them\n" in said
    assert (
        "  attention: causal: nothing forks where the tags are spelled out; `prl sft` trains tiny on" in said
    )


def test_generate_says_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    asked = resolve(
        "generate", recipe="tiny", threads=1, problem="Say <Path>.", max_completion_length=4, samples=1
    )
    evaluation.respond(asked)
    assert "tags: spelled out: tiny was never trained on them\n" in capsys.readouterr().err


@pytest.fixture(scope="module", autouse=True)
def paid_for_variety() -> Iterator[None]:
    """Besides what is asked for, a reward that tells the responses of an untrained model apart."""
    own = rl.paid_rewards

    def variety(completion_ids: Any, **columns: Any) -> list[float]:
        return [len({*ids}) + sum(ids) % 7 for ids in completion_ids]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl, "paid_rewards", lambda *words: own(*words) | {"v": variety})
        yield


@pytest.fixture(scope="module")
def quoting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """RL on problems that quote the tags."""
    problems = tmp_path_factory.mktemp("data") / "problems.jsonl"
    rows = [
        {"problem": f"Between <Path> and </Path>: compute {n} + 1.", "answer": str(n + 1)} for n in range(8)
    ]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return RL | {"dataset": str(problems)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, quoting: dict[str, Any]) -> Path:
    """RL from the base."""
    folder = tmp_path_factory.mktemp("rl") / "rl"
    rl.run(settings("rl", folder, **quoting))
    return folder


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_rl_from_a_base_samples_what_it_scores(trained: Path) -> None:
    lines = [line for line in runs.read_metrics(trained) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert line["sampling_gap/max"] <= 1e-5
        assert 0 < line["entropy"] < 10
    assert lines[0]["kl"] == 0
    assert all(max(row["token_ids"]) < 512 for row in runs.read_samples(trained).to_pylist())
    assert runs.read_config(trained)["chosen"]["tags"] == "spelled out: tiny was never trained on them"
    for kept in (trained / "adapter", trained / "checkpoint-2"):
        assert tags_of(kept) == "text"
        assert all("lora_" in name for name in adapter_of(kept))
        assert json.loads((kept / "adapter_config.json").read_text())["trainable_token_indices"] is None


def again(folder: Path) -> None:
    """Undo what came after the first checkpoint, as a kill would have."""
    for name in ("adapter", "checkpoint-2"):
        shutil.rmtree(folder / name)
    for name in ("DONE", "samples.parquet"):
        (folder / name).unlink()


def test_rl_from_a_base_resumes_as_it_began(trained: Path, quoting: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "rl")
    again(tmp_path / "rl")
    rl.run(settings("rl", tmp_path / "rl", resume=True, **quoting))
    check_same(tmp_path / "rl", adapter_of(trained / "adapter"), adapter_of(trained / "checkpoint-1"))


def check_same(run: Path, expected: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> None:
    """The adapter of a run is the one expected, to the bit; and the last step did change it."""
    found = adapter_of(run / "adapter")
    assert expected.keys() == found.keys() == before.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not all(torch.equal(before[name], found[name]) for name in expected)


def test_a_run_that_began_with_tokens_goes_on_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every run from a base did that was begun before tags were spelled out."""
    with monkeypatch.context() as patch:
        patch.setattr(rl, "tags_of", lambda *_, **__: "tokens")
        rl.run(settings("rl", tmp_path / "rl", **RL))
    expected = adapter_of(tmp_path / "rl" / "adapter")
    assert any("trainable_tokens" in name for name in expected)
    again(tmp_path / "rl")
    rl.run(settings("rl", tmp_path / "rl", resume=True, **RL))
    check_same(tmp_path / "rl", expected, adapter_of(tmp_path / "rl" / "checkpoint-1"))
    assert runs.read_config(tmp_path / "rl")["chosen"]["tags"].startswith("tokens: the tokenizer of ")


def test_it_merges_into_the_base_plus_lora(trained: Path, tmp_path: Path) -> None:
    said: list[str] = []
    merged = tmp_path / "merged"
    quick = {"prompts": ["Compute 3 + 4."], "samples": 1, "max_completion_length": 16}
    assert merge_and_verify(str(trained), merged, on_proof=said.append, **quick) <= 1e-4
    assert said[0] == f"tags: spelled out: {trained} was never trained on them"
    assert json.loads((merged / "merge.json").read_text())["tags"] == "text"
    pytest.importorskip("gguf", reason="GGUF needs the gguf package")
    export_gguf(merged, gguf_type="f32", on_proof=said.append)
    assert "its logits are the merged model's" in said[-1]
    assert AutoTokenizer.from_pretrained(merged).get_vocab() == load_tokenizer(tiny.NAME).get_vocab()
    assert tags_of(merged) == "text"


def test_one_without_chat_turns_merges_too(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", turns=False, eos_token="</s>", pad_token="<|endoftext|>")
    model, tokenizer = load_model(base, lora=Lora(r=4), tags="text")
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "adapter")
    quick = {"prompts": ["Compute 3 + 4."], "samples": 1, "max_completion_length": 16}
    said: list[str] = []
    merge_and_verify(str(tmp_path / "adapter"), tmp_path / "merged", on_proof=said.append, **quick)
    assert any(line.startswith("plain generate stops at </s>: when made to write it") for line in said)


def test_sft_gives_its_adapter_the_rows(trained: Path, tmp_path: Path, recwarn: Any) -> None:
    given = {
        "limit": 32, "max_steps": 1, "sample_count": 0, "per_device_train_batch_size": 4,
        "prompt_style": "bare", "learning_rate": 1e-6, "warmup_steps": 0,
    }  # fmt: skip
    folder = tmp_path / "sft"
    sft.run(settings("sft", folder, model_name_or_path=str(trained), **given))
    before, after = adapter_of(trained / "adapter"), adapter_of(folder / "adapter")
    (rows,) = after.keys() - before.keys()
    assert (after[rows].shape, tags_of(folder)) == ((6, 128), "tokens")
    assert all(torch.allclose(before[name], after[name], rtol=0, atol=1e-5) for name in before)
    model, tokenizer = load_model(str(folder))
    assert torch.equal(model.get_input_embeddings().weight[tag_ids(tokenizer)], after[rows])
    assert not [warning for warning in recwarn if "missing adapter keys" in str(warning.message)]

"""GGUF: what is written reads back as the merged model, for each architecture and type; what is written
wrongly is found out and deleted."""

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from prl import cli, tiny
from prl.decoding import ForkJoinDecoder, Limits, Sampling
from prl.errors import ModelError, RunError, UsageError
from prl.grammar import TAGS
from prl.model import add_tags, load_model, tag_ids
from prl.model import gguf as export
from prl.model.gguf import TYPES, export_gguf, refuse_unsupported
from prl.model.pretokenizers import HARD_TO_CUT, known_cuts, pre_tokenizer_of
from prl.prompts import render_prompt

gguf = pytest.importorskip("gguf", reason="GGUF needs the gguf package")

SHAPE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
KINDS = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def write_model(folder: Path, kind: str, *, tied: bool = True, **config) -> Path:
    """A random model with the tags, as merging leaves it; qwen2's biases and all norms are random too."""
    config_class, model_class = KINDS[kind]
    tokenizer = AutoTokenizer.from_pretrained(tiny.BASE)
    torch.manual_seed(0)
    shape = SHAPE | {"head_dim": 16, "vocab_size": 400, "tie_word_embeddings": tied} | config
    model = model_class(config_class(**shape))
    add_tags(model, tokenizer, seed=0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def merged_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that ships, with its tags, as a plain folder with a record of its merge."""
    folder = tmp_path_factory.mktemp("tiny")
    model, tokenizer = load_model(tiny.NAME, tags="tokens")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "merge.json").write_text(json.dumps({"problems": ["Compute 5 - 2."], "prompt_style": "bare"}))
    return folder


def read(file: Path, key: str):
    return gguf.GGUFReader(file).get_field(key).contents()


# --- What is written


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_reads_back_to_the_same_logits(tmp_path: Path, kind: str, tied: bool) -> None:
    folder = write_model(tmp_path / "model", kind, tied=tied)
    lines: list[str] = []
    file = export_gguf(folder, tmp_path / "out" / "m.gguf", gguf_type="f32", on_proof=lines.append)
    assert [path.name for path in file.parent.iterdir()] == ["m.gguf"]
    reader = gguf.GGUFReader(file)
    assert read(file, "general.architecture") == kind
    assert ("output.weight" in {each.name for each in reader.tensors}) == (not tied)
    assert ("blk.0.attn_q_norm.weight" in {each.name for each in reader.tensors}) == (kind == "qwen3")
    assert ("blk.0.attn_q.bias" in {each.name for each in reader.tensors}) == (kind == "qwen2")
    assert "to 0.0e+00 of their spread" in lines[-1]


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_stays_within_its_tolerance(merged_tiny: Path, tmp_path: Path, kind: str) -> None:
    file = export_gguf(merged_tiny, tmp_path / "m.gguf", gguf_type=kind)
    found = json.loads((merged_tiny / "merge.json").read_text())["gguf"]["m.gguf"]
    assert found["type"] == kind
    # The weights that ship are bf16; the rows of the tags, drawn in f32, are not.
    assert found["relative_difference"] <= TYPES[kind]
    assert (found["relative_difference"] == 0) == (kind == "f32")
    types = {each.name: each.tensor_type for each in gguf.GGUFReader(file).tensors}
    assert types["blk.0.attn_q.weight"] == gguf.GGMLQuantizationType[kind.upper()]
    assert types["blk.0.attn_norm.weight"] == gguf.GGMLQuantizationType.F32
    assert read(file, "general.file_type") == {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}[kind]


def test_the_smaller_types_are_the_less_exact(merged_tiny: Path, tmp_path: Path) -> None:
    for kind in ("f16", "bf16", "q8_0"):
        export_gguf(merged_tiny, tmp_path / f"{kind}.gguf", gguf_type=kind)
    record = json.loads((merged_tiny / "merge.json").read_text())["gguf"]
    errors = [record[f"{kind}.gguf"]["relative_difference"] for kind in ("f16", "bf16", "q8_0")]
    assert errors == sorted(errors)
    assert 0 < errors[0] < errors[-1]
    sizes = [record[f"{kind}.gguf"]["bytes"] for kind in ("q8_0", "bf16")]
    assert sizes[0] < 0.7 * sizes[1]


def test_a_matrix_without_whole_blocks_is_kept_in_f16(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "qwen3", intermediate_size=80)
    file = export_gguf(folder, gguf_type="q8_0")
    types = {each.name: each.tensor_type for each in gguf.GGUFReader(file).tensors}
    assert types["blk.0.ffn_down.weight"] == gguf.GGMLQuantizationType.F16  # 80 columns
    assert types["blk.0.ffn_up.weight"] == gguf.GGMLQuantizationType.Q8_0  # 64


def test_tokens_have_the_types_that_llama_cpp_needs(merged_tiny: Path, tmp_path: Path) -> None:
    file = export_gguf(merged_tiny, tmp_path / "m.gguf")
    tokenizer = AutoTokenizer.from_pretrained(merged_tiny)
    tokens, types = read(file, "tokenizer.ggml.tokens"), read(file, "tokenizer.ggml.token_type")
    assert len(tokens) == len(types) == 512
    assert [tokens[index] for index in tag_ids(tokenizer)] == list(TAGS)
    assert {types[index] for index in tag_ids(tokenizer)} == {gguf.TokenType.USER_DEFINED}
    assert types[:3] == [gguf.TokenType.CONTROL] * 3
    assert types[3] == gguf.TokenType.NORMAL
    assert (tokens[511], types[511]) == ("[PAD511]", gguf.TokenType.UNUSED)
    assert read(file, "tokenizer.ggml.eos_token_id") == tokenizer.eos_token_id == 2
    assert read(file, "tokenizer.ggml.padding_token_id") == tokenizer.pad_token_id == 0
    assert read(file, "tokenizer.ggml.add_bos_token") is False
    assert read(file, "tokenizer.chat_template") == tokenizer.chat_template
    assert read(file, "tokenizer.ggml.model") == "gpt2"


def test_the_numbers_are_those_of_the_config(llama: Path, tmp_path: Path) -> None:
    file = export_gguf(llama, tmp_path / "m.gguf")
    keys = {
        "block_count": 2, "context_length": 512, "embedding_length": 64, "feed_forward_length": 96,
        "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 16,
        "rope.dimension_count": 16, "rope.freq_base": 10000.0, "vocab_size": 400,
    }  # fmt: skip
    assert {key: read(file, f"llama.{key}") for key in keys} == keys


def test_rows_of_q_and_k_are_in_the_order_of_pairs() -> None:
    """The rotary embedding turns rows i and i + half of a head; llama.cpp turns neighbours."""
    weight = torch.arange(8.0)[:, None]  # two heads of four
    assert export._interleaved(weight, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


# --- Pre-tokenizers


def with_cut(cut) -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(AutoTokenizer.from_pretrained(tiny.BASE).backend_tokenizer.to_str())
    backend.pre_tokenizer = cut
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize("name", ["qwen2", "llama-bpe", "smollm", "gpt-2"])
def test_known_pre_tokenizers_are_recognised(name: str) -> None:
    cut = known_cuts()[name]
    assert pre_tokenizer_of(with_cut(cut), []) == (name, None)


def test_trimmed_offsets_move_no_border() -> None:
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True, trim_offsets=False)
    assert pre_tokenizer_of(with_cut(plain), []) == ("gpt-2", None)
    spaced = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    with pytest.raises(ModelError, match="none of qwen2, llama-bpe, smollm, gpt-2 gives the same tokens"):
        pre_tokenizer_of(with_cut(spaced), ["Compute 3 + 4."])


def test_one_that_only_agrees_is_taken_with_a_notice() -> None:
    name, notice = pre_tokenizer_of(AutoTokenizer.from_pretrained(tiny.BASE), ["Compute 3 + 4.", HARD_TO_CUT])
    assert name == "qwen2"
    assert "gives the same tokens for 2 texts, which is no promise" in str(notice)


def test_one_that_cuts_every_letter_is_refused() -> None:
    letters = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("."), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    with pytest.raises(ModelError, match=r"llama\.cpp does not know how this tokenizer cuts text"):
        pre_tokenizer_of(with_cut(letters), ["Compute the coins of Eva."])


def test_a_tokenizer_without_bytes_is_refused() -> None:
    with pytest.raises(ModelError, match="no byte-level BPE"):
        pre_tokenizer_of(with_cut(pre_tokenizers.Metaspace()), ["3"])


@pytest.mark.real
def test_qwen3s_own_tokenizer_is_qwen2s(real_tokenizer) -> None:
    assert pre_tokenizer_of(real_tokenizer, []) == ("qwen2", None)


# --- What must not pass


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable], None]:
    """Put something wrong in place of a step of the export."""

    def install(name: str, wrong: Callable) -> None:
        monkeypatch.setattr(export, name, wrong(getattr(export, name)))

    return install


def fails(folder: Path, file: Path, match: str, kind: str = "q8_0") -> None:
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(ModelError, match=match) as caught:
        export_gguf(folder, file, gguf_type=kind)
    assert "it was deleted" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(file.parent.iterdir()) == []
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_rows_in_the_wrong_order_fail_on_logits(llama: Path, tmp_path: Path, broken, kind: str) -> None:
    broken("_interleaved", lambda right: lambda weight, heads: weight)
    fails(llama, tmp_path / "m.gguf", "its logits differ from the merged model's by", kind)


def test_tags_of_the_wrong_type_fail(llama: Path, tmp_path: Path, broken) -> None:
    def as_control(right):
        def tokens(gguf, tokenizer, rows):
            texts, types = right(gguf, tokenizer, rows)
            return texts, [
                gguf.TokenType.CONTROL if text in TAGS else kind
                for text, kind in zip(texts, types, strict=True)
            ]

        return tokens

    broken("_tokens", as_control)
    fails(llama, tmp_path / "m.gguf", r"token \d+ is '<Parallel>' of type 3, not <Parallel> shown in texts")


def test_control_tokens_written_as_text_fail_on_token_ids(llama: Path, tmp_path: Path, broken) -> None:
    def as_text(right):
        def tokens(gguf, tokenizer, rows):
            texts, types = right(gguf, tokenizer, rows)
            kinds = gguf.TokenType
            return texts, [kinds.NORMAL if kind == kinds.CONTROL else kind for kind in types]

        return tokens

    broken("_tokens", as_text)
    fails(llama, tmp_path / "m.gguf", r"its tokenizer reads a text of \d+ tokens as \d+ other ones")


def test_a_lost_tensor_fails(llama: Path, tmp_path: Path, broken) -> None:
    calls = []

    def all_but_one(right):
        def tensors(gguf, model):
            calls.append(None)
            for name, tensor in right(gguf, model):
                if len(calls) > 1 or name != "blk.1.ffn_up.weight":
                    yield name, tensor

        return tensors

    broken("_tensors", all_but_one)
    fails(
        llama, tmp_path / "m.gguf", "1 tensors are missing or of another shape, such as blk.1.ffn_up.weight"
    )


def test_a_wrong_number_fails(llama: Path, tmp_path: Path, broken) -> None:
    calls = []

    def first_wrong(right):
        def numbers(config):
            calls.append(None)
            return right(config) | ({"llama.rope.freq_base": 5.0} if len(calls) == 1 else {})

        return numbers

    broken("_numbers", first_wrong)
    fails(llama, tmp_path / "m.gguf", r"llama.rope.freq_base is 5.0, not 10000.0")


def test_a_truncated_file_fails(llama: Path, tmp_path: Path, broken) -> None:
    def cut(right):
        def write(gguf, file, *args):
            right(gguf, file, *args)
            os.truncate(file, file.stat().st_size // 2)

        return write

    broken("_write", cut)
    fails(llama, tmp_path / "m.gguf", "the GGUF cannot be read back")


def test_a_full_disk_is_said(llama: Path, tmp_path: Path, broken) -> None:
    def full(right):
        def write(*args):
            raise OSError(errno.ENOSPC, "No space left on device")

        return write

    broken("_write", full)
    with pytest.raises(
        RunError, match=r"no space left on the disk of .*m\.gguf: free some space and give the"
    ):
        export_gguf(llama, tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


# --- llama.cpp itself


@pytest.mark.slow
def test_llama_cpp_answers_the_same(merged_tiny: Path, tmp_path: Path) -> None:
    """It reads each tag as one token, writes what prl's decoder writes, and stops where that does."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="no llama.cpp; `pip install xllamacpp` brings it")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(export_gguf(merged_tiny, tmp_path / "m.gguf", gguf_type="f32"))
    parameters.n_ctx, parameters.n_parallel, parameters.cpuparams.n_threads = 512, 1, 1
    server = xllamacpp.Server(parameters)
    model, tokenizer = load_model(str(merged_tiny))
    decoder = ForkJoinDecoder(model, tokenizer, limits=Limits(96), sampling=Sampling(temperature=0.0))
    starts = ["", "<Parallel><Path>\n5 - 2 = ", "<Parallel><Path>\n3\n</Path><Path>\n3\n</Path></Parallel>\n"]
    for start in starts:
        prompt = render_prompt("Compute 5 - 2.", "bare") + start
        ((expected,),) = decoder.generate([prompt])
        asked = {"prompt": prompt, "max_tokens": 96, "temperature": 0, "top_k": 1}
        found = server.handle_completions(asked)
        assert found["usage"]["prompt_tokens"] == len(tokenizer(prompt)["input_ids"])
        assert found["choices"][0]["text"] == expected.text
        assert (found["choices"][0]["finish_reason"] == "stop") == (not expected.truncated)


# --- Refusals before any work


def test_without_the_package_the_command_to_get_it(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UsageError, match=r"pip install 'prl\[gguf\]'"):
        export_gguf(llama)


def test_the_command_refuses_before_it_merges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "adapter_model.safetensors").touch()
    base = tmp_path / "base"
    Gemma2Config().save_pretrained(base)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    words = [
        "merge",
        str(tmp_path),
        "--output_dir",
        str(tmp_path / "out"),
        "--gguf_type",
        "q8_0",
    ]
    with pytest.raises(
        ModelError, match=r"gemma2 model .* cannot be written as GGUF: its architecture is none"
    ):
        cli._dispatch(words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (LlamaConfig(attention_bias=True), "its attention or MLP has biases"),
        (LlamaConfig(hidden_act="gelu"), "its activation is gelu"),
        (
            LlamaConfig(
                rope_parameters={
                    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
                }
            ),
            r"its rotary embedding is scaled \(llama3\)",
        ),
        (Qwen2Config(use_sliding_window=True, max_window_layers=1), "it has sliding windows"),
    ],
)  # fmt: skip
def test_what_gguf_cannot_hold_is_refused_in_a_line(tmp_path: Path, config, reason: str) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=reason) as caught:
        refuse_unsupported(tmp_path)
    assert "convert_hf_to_gguf.py" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_there_is_not_overwritten(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"mine")
    with pytest.raises(ModelError, match=r"m.gguf exists; name a file that does not"):
        export_gguf(llama, tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_bytes() == b"mine"
    with pytest.raises(UsageError, match="gguf_type 'q4_k' is none of f32, f16, bf16, q8_0"):
        export_gguf(llama, gguf_type="q4_k")

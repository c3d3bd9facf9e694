"""A model that the decoder would get wrong is told before anything trains or is sampled, in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoTokenizer,
    GraniteConfig,
    GraniteForCausalLM,
    Qwen3_5Config,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
)

from prl import cli, tiny
from prl.errors import ModelError
from prl.machine.shape import read_shape
from prl.model import check_loadable

SAID = (
    "{} model 'model' cannot be decoded: it has layers of kind linear_attention, which take no mask; "
    "use a model of the Qwen3, Llama or Gemma families"
)
COMMANDS = {
    "sft": ["sft", "--recipe", "tiny", "--threads", "1", "--sample_count", "0"],
    "rl": ["rl", "--recipe", "tiny", "--threads", "1"],
    "eval": ["eval", "--recipe", "tiny", "--threads", "1", "--limit", "2"],
    "generate": ["generate", "1 + 1?", "--recipe", "tiny", "--threads", "1"],
    "data traces": ["data", "traces", "arithmetic:easy", "--limit", "2", "--device", "cpu"],
}


@pytest.fixture
def prl(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Run a command in an empty folder; exit status and what stood on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        status = cli.main(list(words))
        return status, capsys.readouterr().err.strip()

    return run


def config_of(kind: str) -> Qwen3_5Config | Qwen3_5TextConfig | Qwen3NextConfig:
    layers = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
    return {
        "qwen3_5_text": lambda: Qwen3_5TextConfig(**layers),
        "qwen3_5": lambda: Qwen3_5Config(text_config=layers),  # as the published ones are, with an eye
        "qwen3_next": lambda: Qwen3NextConfig(**layers),
    }[kind]()


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_told_from_the_config_before_anything_is_loaded_or_written(
    command: str, prl: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    config_of("qwen3_5_text").save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny.BASE).save_pretrained(tmp_path / "model")
    words = [*COMMANDS[command], "--model", "model"]
    status, err = prl(*words, *(["--output_dir", "run"] if command != "generate" else []))
    kept = ". 0 answers are kept; the same command with --resume goes on" if command == "data traces" else ""
    assert (status, err.splitlines()[-1]) == (1, f"prl {command}: {SAID.format('qwen3_5_text')}{kept}")
    if command != "data traces":
        assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("kind", ["qwen3_5_text", "qwen3_5", "qwen3_next"])
def test_the_doctor_knows_too(kind: str, tmp_path: Path) -> None:
    config_of(kind).save_pretrained(tmp_path)
    of_text = "qwen3_5_text" if kind == "qwen3_5" else kind
    with pytest.raises(ModelError) as refused:
        read_shape(str(tmp_path))
    assert str(refused.value) == SAID.replace("{} model 'model'", f"a model of type {of_text}")


def test_an_adapter_is_refused_for_its_base_and_the_rest_passes(tmp_path: Path) -> None:
    for kind in ("qwen3_5", "qwen3_next"):
        config_of(kind).save_pretrained(tmp_path / kind)
        adapter = tmp_path / f"{kind}-adapter"
        adapter.mkdir()
        base = str(tmp_path / kind)
        (adapter / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{base}"}}')
        save_file({}, adapter / "adapter_model.safetensors")
        with pytest.raises(ModelError, match=f"^{kind} model '.*adapter' cannot be decoded: it has layers"):
            check_loadable(str(adapter))
    check_loadable(tiny.NAME)
    check_loadable("nobody/nothing")  # loading it says what is wrong


def test_what_no_config_tells_is_found_before_the_first_step(
    prl: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """Without a sample at any evaluation, it would have come out in RL."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.BASE)
    torch.manual_seed(0)
    config = GraniteConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, logits_scaling=4.0,
    )  # fmt: skip
    GraniteForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    status, err = prl(*COMMANDS["sft"], "--model", "model", "--output_dir", "run", "--max_steps", "1")
    last = err.splitlines()[-1]
    assert status == 1
    assert last.startswith("prl sft: GraniteForCausalLM cannot be decoded: its logits would be off by ")
    assert last.endswith("; use a model of the Qwen3, Llama or Gemma families")
    assert "step " not in err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()

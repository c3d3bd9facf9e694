"""The forecast of memory: arithmetic, what it assumes of the libraries, and real runs beside it."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl import tiny
from prl.config import resolve
from prl.decoding.rows import grown, last_growth
from prl.errors import ModelError
from prl.machine import load, memory, shape
from prl.machine.fitting import advice, changes, flags_of, merged
from prl.machine.hardware import Machine
from prl.machine.load import Load, load_of
from prl.machine.memory import GIB, forecast
from prl.machine.shape import Shape, read_shape, smaller

QWEN3 = {"0.6B": 596_049_920, "1.7B": 1_720_574_976, "4B": 4_022_468_096, "8B": 8_190_735_360}
"""Parameters as the published weights have them."""

SHAPE = read_shape("Qwen/Qwen3-1.7B-Base")
RL = Load(
    "rl", rows=4, prompt=300, completion=1024, accumulation=8, steps_per_generation=4, rollout_rows=16,
    rollout_prompt=300, rollout_completion=1024, group=8, dtype="bfloat16", device="cuda",
)  # fmt: skip


def benchmark() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "memory.py"
    spec = importlib.util.spec_from_file_location("bench_memory", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("four_bit", [True, False])
def test_merged_rollouts_take_a_copy_of_the_matrices(four_bit: bool) -> None:
    """All of a 4-bit model's; of another's those that have an adapter."""
    asked = replace(RL, four_bit=four_bit, targets=("q_proj", "v_proj"))
    sizes = [SHAPE.linears[name] for name in (SHAPE.linears if four_bit else asked.targets)]
    copied = [
        {item.name: item for item in forecast(SHAPE, load).items if item.phase == "rollout"}["copied weights"]
        for load in (asked, replace(asked, is_merged=True))
    ]
    more = copied[1].bytes - copied[0].bytes
    assert more == 2 * SHAPE.layers * sum(rows * columns for rows, columns in sizes)
    assert "adapter folded in" in copied[1].note
    at_the_rollout = replace(asked, is_merged=True, rows=0, rollout_rows=4)
    assert changes(SHAPE, at_the_rollout, 0)[0].flags == {"rollout_weights": "adapter"}


@pytest.mark.parametrize(("size", "parameters"), QWEN3.items())
def test_known_sizes_have_the_weights_that_are_published(size: str, parameters: int) -> None:
    for name in (f"Qwen/Qwen3-{size}", f"Qwen/Qwen3-{size}-Base"):
        assert read_shape(name).parameters == parameters


def test_shape_is_read_from_config_json_alone(tmp_path: Path) -> None:
    shape = read_shape("tiny")
    assert shape == Shape.of(json.loads((Path(tiny.resolve("tiny")) / "config.json").read_text()))
    adapter = {"base_model_name_or_path": "Qwen/Qwen3-4B-Base", "r": 8, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    (tmp_path / "adapter_model.safetensors").touch()
    assert read_shape(str(tmp_path)).parameters == QWEN3["4B"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "mamba"},
            "the memory of a model of type mamba is not known: the forecast covers qwen3",
        ),
        ({"model_type": "qwen3"}, "config.json has no num_attention_heads, a number from 1"),
        ({"model_type": "qwen3", "num_attention_heads": "many"}, "config.json has no num_attention_heads"),
    ],
)
def test_what_is_no_config_is_named(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        read_shape(str(tmp_path))


def test_a_broken_config_json_is_one_line(tmp_path: Path) -> None:
    for text in ("{", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ModelError, match="name another --model_name_or_path") as caught:
            read_shape(str(tmp_path))
        assert "\n" not in str(caught.value)


LOADS = st.builds(
    replace,
    st.just(RL),
    rows=st.integers(1, 16),
    prompt=st.integers(1, 2000),
    completion=st.integers(1, 4000),
    rollout_rows=st.integers(1, 64),
    rollout_completion=st.integers(1, 4000),
    eval_rows=st.integers(0, 64),
    eval_rollout_rows=st.integers(0, 64),
    paths=st.integers(1, 4),
    lora_r=st.integers(1, 128),
    structured=st.booleans(),
    four_bit=st.booleans(),
    checkpointing=st.booleans(),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    device=st.sampled_from(["cpu", "cuda"]),
)


GROWING = ["rows", "completion", "rollout_rows", "rollout_completion", "eval_rows", "lora_r"]


@given(LOADS, st.sampled_from(GROWING))
def test_more_of_anything_never_takes_less(load: Load, name: str) -> None:
    more = replace(load, **{name: getattr(load, name) + 1})
    assert forecast(SHAPE, more).peak >= forecast(SHAPE, load).peak


def test_packed_rows_have_one_mask_or_none_and_what_they_share_once() -> None:
    padded = Load("sft", rows=4, prompt=300, completion=500)
    packed = replace(padded, is_packed=True)

    def items(load: Load) -> dict[str, int]:
        return {item.name: item.bytes for item in forecast(SHAPE, load).items}

    assert items(padded)["attention masks"] == SHAPE.layers * 4 * 800 * 800 * 4
    assert "attention masks" not in items(packed)
    assert items(replace(packed, structured=True))["attention masks"] == 4 * 800 * 800 * 4
    assert packed.tokens == padded.tokens == replace(padded, shared=200).tokens == 4 * 800
    assert replace(packed, shared=200).tokens == 4 * 600 + 200
    other = replace(SHAPE, architecture="gemma")
    assert forecast(other, packed) == forecast(other, padded), "its rows are padded"


@given(LOADS)
def test_the_peak_is_the_sum_of_what_is_there_at_once(load: Load) -> None:
    found = forecast(SHAPE, load)
    assert found.peak == sum(item.bytes for item in found.items if item.phase in ("static", found.at))
    assert all(item.bytes >= 0 for item in found.items)


@given(LOADS)
def test_what_is_meant_to_save_saves(load: Load) -> None:
    plain = replace(load, checkpointing=False, four_bit=False, dtype="bfloat16", rows=4, completion=1024)
    whole = forecast(SHAPE, plain).peak
    assert forecast(SHAPE, replace(plain, checkpointing=True)).peak <= whole
    assert forecast(SHAPE, replace(plain, four_bit=True)).peak < whole


# Of Qwen3-1.7B: what is published, without the embedding and the norms.
MATRICES = QWEN3["1.7B"] - 151_936 * 2048 - (28 * (2 * 2048 + 2 * 128) + 2048)
# Rank 16 on each linear layer of 28: inputs and outputs of q, k and v, o, and the MLP's three.
ADAPTER = 16 * 28 * ((2048 + 2048) + 2 * (2048 + 1024) + (2048 + 2048) + 3 * (2048 + 6144))


def sizes(**changed: Any) -> dict[str, int]:
    return {item.name: item.bytes for item in forecast(SHAPE, replace(RL, **changed)).items}


def test_what_is_always_there_by_hand() -> None:
    norms = 2 * (28 * (2 * 2048 + 2 * 128) + 2048)
    found = sizes()
    assert found["weights"] == 2 * MATRICES + norms, "bfloat16"
    assert found["embedding"] == 2 * 151_936 * 2048
    assert found["adapter"] == 4 * ADAPTER
    assert found["tag rows"] == 2 * 4 * 6 * 2048
    assert found["gradients"] == 4 * (ADAPTER + 6 * 2048)
    assert found["CUDA"] == GIB // 2
    assert (sizes(device="cpu").get("CUDA"), sizes(device="cpu").get("fragmentation")) == (None, None)
    quantised = sizes(four_bit=True)
    bits = 8 * (quantised["weights"] - norms) / MATRICES
    assert bits == pytest.approx(4.127, abs=1e-3), "as QLoRA says, with scales that are quantised too"
    assert quantised["adapter"] == 2 * ADAPTER


@pytest.mark.parametrize(
    ("optimizer", "bytes_each"),
    [
        ("adamw_torch_fused", 8),
        ("adamw_8bit", 2),
        ("paged_adamw_8bit", 2),
        ("lion_32bit", 4),
        ("lion_8bit", 1),
        ("sgd", 0),
        ("adafactor", 0),
    ],
)
def test_the_state_of_an_optimizer_by_hand(optimizer: str, bytes_each: int) -> None:
    assert sizes(optimizer=optimizer)["optimizer"] == bytes_each * (ADAPTER + 6 * 2048)


def test_filters_of_sampling_take_copies_of_the_logits() -> None:
    plain, filtered = sizes(rollout_rows=200), sizes(rollout_rows=200, is_filtered=True)
    assert filtered["drawn logits"] - plain["drawn logits"] == 5 * 4 * 128 * 151_936


@given(st.integers(1, 3000), st.integers(1, 4000))
def test_the_cache_is_as_large_as_the_decoder_makes_it(prompt: int, completion: int) -> None:

    slots, before = memory.cache_slots(prompt, completion)
    assert before == last_growth(prompt, prompt + completion)
    assert slots in (before, grown(before, before + 1))
    assert slots >= prompt + completion


def test_each_token_of_an_opening_is_a_row_of_its_path_s_mask() -> None:
    """A number is a line of up to two digits; a plan's line has 80 letters at most, four a token."""

    def found(**given: Any) -> tuple[Load, dict[str, int]]:
        asked = load_of(resolve("rl", recipe="tiny-search", output_dir="r", **given))
        return asked, {item.name: item.bytes for item in forecast(SHAPE, asked).items}

    asked, without = found(path_opening="none")
    slots, _ = memory.cache_slots(asked.rollout_prompt, asked.rollout_completion)
    row = 128 * 6 * (SHAPE.heads // SHAPE.kv_heads) * slots * (4 + 2)  # responses x paths, float32
    for opening, tokens in (("number", 1 + 2 + 1), ("plan", 1 + 80 // 4 + 1)):
        drawn = without["drawn logits"] + tokens * row
        assert found(path_opening=opening)[1] == without | {"drawn logits": drawn}
        assert found(path_opening=opening, attention="causal")[0].opening == 0, "no path begins there"


def test_a_card_s_graphs_take_a_pass_of_their_own() -> None:
    """Of up to twice the tokens, and what each size reads (7 integers a token) and leaves."""
    load = replace(RL, structured=True, paths=4)
    on_cpu, on_card = (forecast(SHAPE, replace(load, device=device)).items for device in ("cpu", "cuda"))
    assert "CUDA graphs" not in {item.name for item in on_cpu}
    graphs = next(item for item in on_card if item.name == "CUDA graphs")
    slots, _ = memory.cache_slots(300, 1024)
    tokens = 16 * 4
    mask = tokens * (SHAPE.heads // SHAPE.kv_heads) * slots * (2 + 2)
    mlp = tokens * 2 * (2 * SHAPE.hidden + 3 * SHAPE.intermediate)
    ends = 8 * tokens * (2 * SHAPE.hidden + 7 * 8)
    assert (graphs.phase, graphs.bytes) == ("rollout", memory.CUDA_GRAPHS + 2 * (mask + mlp) + ends)


def test_the_reference_of_beta_is_a_second_adapter() -> None:
    def items(beta: float) -> dict[str, int]:
        settings = resolve("rl", recipe="tiny", output_dir="r", beta=beta)
        return {item.name: item.bytes for item in forecast(SHAPE, load_of(settings)).items}

    without, with_it = items(0.0), items(0.04)
    assert with_it == without | {"reference": without["adapter"] + without["tag rows"]}


EVALUATING = replace(RL, eval_rows=256, eval_rollout_rows=256, eval_group=4)


def test_an_evaluation_of_rl_decodes_and_then_scores_its_batch() -> None:
    found = forecast(SHAPE, EVALUATING)
    cache = {item.phase: item.bytes for item in found.items if item.name == "KV cache"}
    assert cache["evaluation rollout"] == memory.kv_cache_bytes(SHAPE, replace(RL, rollout_rows=256))
    assert cache["evaluation rollout"] == 256 // 16 * cache["rollout"]
    assert found.at == "evaluation rollout"
    items = forecast(SHAPE, replace(EVALUATING, is_packed=True)).items
    (scored,) = (item for item in items if (item.name, item.phase) == ("activations", "evaluation"))
    assert scored.note == "of 256 x 1324 tokens"
    assert scored.bytes == 2 * (256 * 1024 + 64 * 300) * (2 * 2048 + 3 * 6144), "a group's prompt once"


def test_an_evaluation_decodes_no_more_side_by_side_than_a_rollout_may() -> None:
    asked = {
        "eval_dataset": "arithmetic:heldout", "eval_strategy": "steps", "eval_steps": 10,
        "per_device_eval_batch_size": 256, "num_generations_eval": 4,
    }  # fmt: skip

    def rows(**given: Any) -> tuple[int, ...]:
        load = load_of(resolve("rl", recipe="tiny", output_dir="r", **given))
        return load.eval_rows, load.eval_rollout_rows, load.eval_group

    assert rows(**asked) == rows(**asked, rollout_batch_size=512) == (256, 256, 4)
    assert rows(**asked, rollout_batch_size=32) == (256, 32, 4)
    assert rows(**asked | {"eval_strategy": "no", "eval_on_start": True}) == (256, 256, 4)
    assert rows(per_device_eval_batch_size=256)[:2] == (0, 0), "it is not asked for"


def test_it_counts_as_the_libraries_do() -> None:
    """Sizes of trl 1.16 and of `prl.decoding` that memory.py repeats, because it imports neither."""
    kernels, trl = (
        importlib.import_module(f"trl.{name}") for name in ("kernels.chunked_logprob", "trainer.utils")
    )
    assert load.TILE_ROWS == kernels.TOKEN_CHUNK_SIZE
    assert load.TILE_COLUMNS == trl._CHUNKED_LOGPROB_CHUNK_SIZE
    forkjoin = importlib.import_module("prl.decoding.forkjoin")
    rows = importlib.import_module("prl.decoding.rows")
    assert memory.SLOTS == rows.CHUNK
    assert (memory.DRAWN_TOGETHER, memory.PREFILL_TOKENS) == (
        forkjoin.DRAWN_TOGETHER,
        forkjoin.PREFILL_TOKENS,
    )
    assert importlib.import_module("prl.structure").LAYER_KINDS == shape.LAYER_KINDS


def test_torch_stays_out() -> None:
    import subprocess

    code = (
        "import sys, prl.machine.memory, prl.machine.fitting; "
        "assert not {'torch', 'transformers', 'trl'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- What to change


def test_changes_come_in_order_and_stop_when_it_fits() -> None:
    whole = forecast(SHAPE, RL).peak
    steps = changes(SHAPE, RL, whole - 1)
    assert len(steps) == 1
    assert steps[0].peak < whole
    assert not changes(SHAPE, RL, whole)
    tight = changes(SHAPE, RL, 4 * GIB)
    assert [step.peak for step in tight] == sorted((step.peak for step in tight), reverse=True)
    assert tight[-1].peak <= 4 * GIB < tight[-2].peak
    order = [
        "per_device_train_batch_size", "rollout_batch_size", "activation_checkpointing",
        "max_completion_length", "load_in_4bit", "model_name_or_path",
    ]  # fmt: skip
    keys = [next(iter(step.flags)) for step in tight]
    assert keys == sorted(keys, key=order.index)
    assert len(keys) > 2


def test_a_smaller_micro_batch_keeps_the_effective_batch() -> None:
    load = replace(RL, rollout_rows=1, rows=8)
    (step,) = changes(SHAPE, load, forecast(SHAPE, load).peak - 1)
    assert step.flags == {
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 16, "steps_per_generation": 8,
    }  # fmt: skip
    assert step.load.rows * step.load.accumulation == load.rows * load.accumulation


def test_an_evaluation_that_does_not_fit_is_made_smaller() -> None:
    scored = forecast(SHAPE, replace(EVALUATING, eval_rollout_rows=0)).peak
    (step,) = changes(SHAPE, EVALUATING, scored)
    assert step.flags == {"rollout_batch_size": step.load.eval_rollout_rows}
    assert 16 <= step.load.eval_rollout_rows < 256, "more than a rollout has at once need not go"
    assert (step.load.rollout_rows, step.load.eval_rows) == (16, 256)
    wide = replace(EVALUATING, rows=1, rollout_rows=1, eval_rollout_rows=1, eval_rows=264, eval_group=24)
    (step,) = changes(SHAPE, wide, forecast(SHAPE, replace(wide, eval_rows=120)).peak)
    assert step.flags == {"per_device_eval_batch_size": 120}, "of whole groups"


def test_what_hides_behind_two_others_is_changed_too() -> None:
    """Whichever of update, rollout and scoring is the largest."""
    small = replace(RL, rows=1, rollout_rows=1, eval_rows=8, eval_rollout_rows=1, eval_group=8)
    available = forecast(SHAPE, small).peak
    for rows, side, scored in itertools.product((1, 4, 16, 64), (1, 16, 256), (8, 64, 512)):
        load = replace(small, rows=rows, rollout_rows=side, eval_rollout_rows=side, eval_rows=scored)
        steps = changes(SHAPE, load, available)
        assert forecast(SHAPE, load).peak <= available or steps[-1].peak <= available
        assert merged(steps).keys() <= {
            "per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation",
            "rollout_batch_size", "per_device_eval_batch_size",
        }, (rows, side, scored)  # fmt: skip


def test_nothing_fits_a_card_of_nothing() -> None:
    steps = changes(SHAPE, RL, 1)
    assert steps[-1].peak > 1
    assert steps[-1].shape.parameters == QWEN3["0.6B"]
    assert smaller(read_shape("Qwen/Qwen3-0.6B")) is None


def test_advice_is_one_line_with_the_command() -> None:
    settings = resolve("rl", recipe="tiny", threads=1)
    peak = forecast(read_shape("tiny"), load_of(settings)).peak
    line = advice(settings, peak * 3 // 4)
    assert "\n" not in line
    assert line.startswith(f"forecast {peak / GIB:.1f} GiB, {peak * 3 / 4 / GIB:.1f} are free: --per_device")
    steps = changes(read_shape("tiny"), load_of(settings), peak * 3 // 4)
    command = "prl rl --recipe tiny --model_name_or_path tiny --output_dir runs/default/rl"
    assert line.endswith(f"{command} {flags_of(merged(steps))}")
    assert "it should fit" in advice(settings, 2 * peak)
    assert "nothing makes it fit, nearest is" in advice(settings, 1000)


def test_an_unknown_architecture_has_no_advice_but_a_rule(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from prl.machine import halving, hardware

    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    settings = resolve("sft", recipe="tiny", threads=1)
    settings.arguments.model_name_or_path = str(tmp_path)
    monkeypatch.setattr(hardware, "this_machine", lambda: Machine("cpu", "CPU"))
    assert halving.advise(settings).startswith("lower --per_device_train_batch_size")


# --- Beside what is measured


@pytest.mark.parametrize("name", benchmark().QUICK)
def test_the_forecast_is_near_what_is_allocated(name: str) -> None:
    bench = benchmark()
    found = bench.measured(name)
    assert abs(found["error"]) <= bench.BAR, found


@pytest.mark.real
@pytest.mark.usefixtures("real_model")
def test_the_forecast_is_near_on_a_real_model() -> None:
    bench = benchmark()
    found = bench.measured("135M sft, 2 rows")
    assert abs(found["error"]) <= bench.BAR, found

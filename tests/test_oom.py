"""Running out of memory in the middle of a run (transformers 5.23 and 5.24, trl 1.16), on the tiny model."""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trl import GRPOTrainer, SFTTrainer

from prl import rl, runs, sft
from prl.config import resolve
from prl.decoding import ForkJoinDecoder
from prl.decoding.rows import RowCache, grown, last_growth
from prl.errors import RunError
from prl.machine.halving import halving, is_out_of_memory
from prl.settings import Settings
from prl.trainer.micro_batches import MicroBatches, row_count

SFT = {
    "limit": 60, "max_steps": 3, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
    "sample_count": 0, "eval_strategy": "no", "save_strategy": "no", "logging_steps": 1, "warmup_steps": 0,
    "optim": "sgd", "learning_rate": 0.1,
}  # fmt: skip
RL = {
    "limit": 60, "max_steps": 3, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
    "num_generations": 4, "max_completion_length": 24, "dataset": "arithmetic:wide", "save_strategy": "no",
    "rewards": ["tiered"], "attention": "structured", "max_blocks": 1, "optim": "sgd", "learning_rate": 0.1,
}  # fmt: skip
CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.78 GiB"


def settings(command: str, folder: Path, **given: Any) -> Settings[Any]:
    base = SFT if command == "sft" else RL
    return resolve(command, recipe="tiny", threads=1, output_dir=str(folder), **base | given)


def run(command: str, folder: Path, **given: Any) -> None:
    (sft if command == "sft" else rl).run(settings(command, folder, **given))


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def distance(ours: Path, theirs: Path) -> float:
    """Largest difference between two adapters, as a share of the largest value."""
    a, b = adapter(ours), adapter(theirs)
    assert a.keys() == b.keys()
    return max(((a[name] - b[name]).abs().max() / b[name].abs().max().clamp(min=1e-9)).item() for name in a)


class Card:
    """Memory for `rows` rows in a training pass from step `since` on: the forward pass of more rows fails, or
    the end of their backward pass, when most gradients are there already."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, rows: int, since: int = 0, at: str = "forward"
    ) -> None:
        self.rows, self.since, self.at, self.failures = rows, since, at, 0
        for trainer in (GRPOTrainer, SFTTrainer):
            self._fail_in(monkeypatch, trainer)

    def _fail_in(self, monkeypatch: pytest.MonkeyPatch, trainer: Any) -> None:
        compute_loss, card = trainer.compute_loss, self

        def limited(self: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            loss = compute_loss(self, model, inputs, *args, **kwargs)
            is_late = model.training and self.state.global_step >= card.since
            if is_late and row_count(inputs) > card.rows:
                if card.at == "forward":
                    card.fail()
                # The gradient of the first layer is the last to come.
                first = next(p for p in model.parameters() if p.requires_grad)
                hook = first.register_hook(lambda grad: (hook.remove(), card.fail()))
            return loss

        monkeypatch.setattr(trainer, "compute_loss", limited)

    def fail(self) -> None:
        self.failures += 1
        raise torch.OutOfMemoryError(CUDA)


@pytest.fixture(scope="module", autouse=True)
def paid_for_variety(tagged: str) -> Iterator[None]:
    """A reward that tells the responses of an untrained model apart, which opens blocks by chance."""

    def tiered(completion_ids: Any, **columns: Any) -> list[float]:
        return [len({*ids}) + sum(ids) % 7 for ids in completion_ids]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl, "reward_functions", lambda names, **given: {"tiered": tiered})
        patch.setitem(RL, "model_name_or_path", tagged)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs with memory enough."""
    folder = tmp_path_factory.mktemp("whole")
    for command in ("sft", "rl"):
        run(command, folder / command)
    return {command: folder / command for command in ("sft", "rl")}


def test_the_methods_that_are_wrapped_are_those_of_these_versions() -> None:
    assert importlib.metadata.version("trl").startswith("1.16.")
    assert importlib.metadata.version("transformers").startswith(("5.23.", "5.24."))


@pytest.mark.parametrize("at", ["forward", "backward"])
@pytest.mark.parametrize("command", ["sft", "rl"])
def test_half_the_micro_batch_is_the_same_step(
    command: str, at: str, whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Card(monkeypatch, rows=2, since=1, at=at)
    run(command, tmp_path / "run")
    assert card.failures == 2  # 8 rows, 4 rows; from then on 2
    assert distance(tmp_path / "run", whole[command]) < 1e-3
    ours, theirs = (
        [line for line in runs.read_metrics(folder) if "loss" in line]
        for folder in (tmp_path / "run", whole[command])
    )
    assert [line.get("memory/micro_batch") for line in ours] == [None, 2, 2]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
        assert mine["num_tokens"] == other["num_tokens"]
        if command == "sft":  # of what was tried in vain nothing is in a mean
            for metric in ("entropy", "mean_token_accuracy"):
                assert mine[metric] == pytest.approx(other[metric], rel=1e-4)
    if command == "rl":  # nothing was sampled or judged twice
        texts = [
            [(row["step"], row["text"], row["advantage"]) for row in runs.read_samples(folder).to_pylist()]
            for folder in (tmp_path / "run", whole[command])
        ]
        assert len(texts[0]) == 3 * 16
        assert texts[0] == texts[1]


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "luspo", "sapo"])
def test_the_parts_add_up_to_the_objective_of_every_loss(
    loss_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three rows of eight, then three, then two: parts of different size."""
    given = {"loss_type": loss_type, "max_steps": 1, "learning_rate": 1.0, "max_grad_norm": 0}
    run("rl", tmp_path / "whole", **given)
    watch = MicroBatches.watch

    def narrow(self: MicroBatches, trainer: Any) -> None:
        watch(self, trainer)
        self.rows = 3

    monkeypatch.setattr(MicroBatches, "watch", narrow)
    run("rl", tmp_path / "parts", **given)
    before = adapter_before(tmp_path)
    moved = max(
        (tensor - before[name]).abs().max().item() for name, tensor in adapter(tmp_path / "whole").items()
    )
    apart = max(
        (tensor - adapter(tmp_path / "whole")[name]).abs().max().item()
        for name, tensor in adapter(tmp_path / "parts").items()
    )
    assert moved > 0
    assert apart < 1e-4 * moved


def adapter_before(folder: Path) -> dict[str, torch.Tensor]:
    run("rl", folder / "still", max_steps=1, learning_rate=0.0, optim="sgd")
    return adapter(folder / "still")


def test_a_loss_that_is_a_mean_over_the_micro_batch_is_not_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Card(monkeypatch, rows=2)
    with pytest.raises(RunError, match="out of memory, and top_entropy_quantile is of the micro"):
        run("rl", tmp_path / "run", top_entropy_quantile=0.5)


@pytest.mark.parametrize("command", ["sft", "rl"])
def test_a_row_that_does_not_fit_ends_the_run_with_advice(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Card(monkeypatch, rows=0)
    with pytest.raises(RunError, match="out of memory with a micro-batch of 1: ") as told:
        run(command, tmp_path / "run")
    assert "\n" not in str(told.value)


def test_a_decoder_goes_on_with_fewer_side_by_side_and_the_same_responses(
    whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow, failures = RowCache._grow, []

    def limited(self: RowCache, slots: int) -> None:
        if self.segments.shape[0] > 5:
            failures.append(self.segments.shape[0])
            raise torch.OutOfMemoryError(CUDA)
        grow(self, slots)

    monkeypatch.setattr(RowCache, "_grow", limited)
    run("rl", tmp_path / "run")
    assert failures == [16, 8]
    lines = [line for line in runs.read_metrics(tmp_path / "run") if "loss" in line]
    assert [line["memory/rollout_batch"] for line in lines] == [4, 4, 4]
    texts = [
        [row["text"] for row in runs.read_samples(folder).to_pylist()]
        for folder in (tmp_path / "run", whole["rl"])
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("command", ["sft", "rl"])
def test_a_resumed_run_goes_on_with_what_fit(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = {"save_strategy": "steps", "save_steps": 2}
    Card(monkeypatch, rows=2)
    run(command, tmp_path / "run", **saved)
    (tmp_path / "run" / "DONE").unlink()
    for path in sorted((tmp_path / "run" / "checkpoint-3").iterdir()):
        path.unlink()
    (tmp_path / "run" / "checkpoint-3").rmdir()
    before = adapter(tmp_path / "run")
    card = Card(monkeypatch, rows=2)
    run(command, tmp_path / "run", **saved, resume=True)
    assert card.failures == 0
    after = adapter(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)


# --- The rehearsal


@pytest.mark.parametrize("command", ["sft", "rl"])
def test_a_rehearsal_changes_nothing(command: str, whole: dict[str, Path], tmp_path: Path) -> None:
    run(command, tmp_path / "run", rehearse="on")
    ours, theirs = adapter(tmp_path / "run"), adapter(whole[command])
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    lines = [
        [
            {k: v for k, v in line.items() if "time" not in k and not k.endswith(("peak", "per_second"))}
            for line in runs.read_metrics(folder)
        ]
        for folder in (tmp_path / "run", whole[command])
    ]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("command", ["sft", "rl"])
def test_a_run_that_cannot_fit_fails_before_its_first_step(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Card(monkeypatch, rows=0)
    with pytest.raises(RunError, match="out of memory"):
        run(command, tmp_path / "run", rehearse="on")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert not (tmp_path / "run" / "samples").exists()
    monkeypatch.undo()
    run(command, tmp_path / "run", max_steps=1)  # nothing has to be overwritten


def test_the_rehearsed_micro_batch_is_that_of_the_longest_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    step_on = MicroBatches.step_on

    def noted(self: MicroBatches, prepared: dict[str, Any], *args: Any) -> None:
        ids = prepared.get("input_ids")
        seen.append(tuple((ids if ids is not None else prepared["completion_ids"]).shape))
        step_on(self, prepared, *args)

    monkeypatch.setattr(MicroBatches, "step_on", noted)
    lengths: list[int] = []
    tokenize = sft.tokenize

    def kept(*args: Any, **kwargs: Any) -> Any:
        data, left_out = tokenize(*args, **kwargs)
        lengths.extend(map(len, data["input_ids"]))
        return data, left_out

    monkeypatch.setattr(sft, "tokenize", kept)
    run("sft", tmp_path / "sft", rehearse="on", max_steps=1)
    run("rl", tmp_path / "rl", rehearse="on", max_steps=1)
    assert seen == [(8, max(lengths[:54])), (8, 24)]


def test_a_rehearsal_meets_the_largest_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As large as any that the run itself then has, at the moment of growing."""
    peaks: list[int] = []
    grow = RowCache._grow

    def noted(self: RowCache, slots: int) -> None:
        before = self.nbytes
        grow(self, slots)
        peaks.append(before + self.nbytes)

    monkeypatch.setattr(RowCache, "_grow", noted)
    rehearsed: list[int] = []
    rehearse = ForkJoinDecoder.rehearse

    def measured(self: ForkJoinDecoder, *args: Any) -> None:
        rehearse(self, *args)
        rehearsed.append(max(peaks))
        peaks.clear()

    monkeypatch.setattr(ForkJoinDecoder, "rehearse", measured)
    run("rl", tmp_path / "run", rehearse="on", max_completion_length=200)
    assert rehearsed[0] >= max(peaks) > 0.7 * rehearsed[0]


@pytest.mark.parametrize(("first", "most"), [(1, 2), (30, 40), (300, 1324), (64, 64), (65, 4000)])
def test_the_last_growth_is_the_one_that_reaches_the_end(first: int, most: int) -> None:
    slots, steps = 0, []
    for used in range(first, most + 1):
        if used > slots:
            steps.append(slots)
            slots = grown(slots, used)
    assert last_growth(first, most) == (steps[-1] if len(steps) > 1 else slots)


# --- What counts as running out of memory


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (torch.OutOfMemoryError(CUDA), True),
        (RuntimeError("CUDA error: out of memory\nCompile with ..."), True),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried ..."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_out_of_memory(error: Exception, counts: bool) -> None:
    assert is_out_of_memory(error) is counts


def test_other_errors_pass_through_at_once() -> None:
    calls = []

    def work(size: int) -> None:
        calls.append(size)
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        halving(work, 8, "rows", lambda: "")
    assert calls == [8]


def test_halving_ends_at_one() -> None:
    calls = []

    def work(size: int) -> None:
        calls.append(size)
        raise torch.OutOfMemoryError(CUDA)

    with pytest.raises(RunError, match=r"^out of memory with rows 1: lower it$"):
        halving(work, 7, "rows", lambda: "lower it")
    assert calls == [7, 4, 2, 1]


REAL = """
import resource, sys
from prl import sft
from prl.config import resolve
import trl
settings = resolve(
    "sft", recipe="tiny", threads=1, limit=1400, max_steps=1, warmup_steps=0, per_device_train_batch_size=64,
    per_device_eval_batch_size=128, eval_limit=128, sample_count=0, eval_strategy="no", save_strategy="no",
    logging_steps=1, output_dir=sys.argv[1], rehearse=sys.argv[2],
)
if sys.argv[3] != "-":
    lines = open("/proc/self/status").read().splitlines()
    (held,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize"))
    most = held + int(sys.argv[3]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
sft.run(settings)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits its memory through Linux")
def test_an_allocator_that_really_gives_up(tmp_path: Path) -> None:
    """64 rows of 300 tokens take half a GiB and more, and there are 0.3: fewer at once, the same loss,
    evaluation too."""
    found = {}
    for name, rehearse, mebibytes in (("whole", "off", "-"), ("in parts", "on", "270")):
        words = [sys.executable, "-c", REAL, str(tmp_path / name), rehearse, mebibytes]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
        said = subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stderr
        assert ("out of memory: going on with a micro-batch of 32" in said) == (mebibytes != "-")
        assert ("out of memory: going on with an evaluation batch of 64" in said) == (mebibytes != "-")
        found[name] = {k: v for line in runs.read_metrics(tmp_path / name) for k, v in line.items()}
    assert found["in parts"]["memory/micro_batch"] < 64
    for metric in ("loss", "grad_norm", "eval_loss"):
        assert found["in parts"][metric] == pytest.approx(found["whole"][metric], rel=1e-4)

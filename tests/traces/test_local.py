"""A model on this machine as the teacher."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from prl.config import resolve
from prl.data.hub import load_rows
from prl.decoding import ForkJoinDecoder
from prl.model import load_model, tag_ids
from prl.prompts import render_prompt, user_message
from prl.traces.asking import Answer, Fatal
from prl.traces.checks import check
from prl.traces.local import Local, encode, fingerprint, never_drawn, rendered, row_seeds
from prl.traces.modes import Request, write


def local(model: str | Path = "tiny", concurrency: int = 8, **settings: Any) -> Local:
    given = resolve("generate", model_name_or_path=str(model), device="cpu", threads=1, **settings)
    return Local(given, concurrency=concurrency)


def asked(teacher: Local, requests: Sequence[Request]) -> list[Answer]:
    async def ask_all() -> list[Answer]:
        return await asyncio.gather(*map(teacher.ask, requests))

    return asyncio.run(ask_all())


def request(content: str, **settings: Any) -> Request:
    settings = {"max_tokens": 12, "temperature": 2.0, "seed": 3} | settings
    return Request(({"role": "user", "content": content},), **settings)


REQUESTS = [
    request("Compute 12 + 30.", samples=2),
    request("Compute 12 + 30.", seed=4),
    request("Compute 5 + 6 - 7.", samples=3, max_tokens=20),
    request("Ann has 12 pens.", temperature=0.0),
    request("Compute 12 + 30.", seed=None),
]


def test_asks_answered_together_equal_asks_alone() -> None:
    teacher = local()
    together = asked(teacher, REQUESTS)
    assert together == asked(teacher, REQUESTS[::-1])[::-1]
    assert together == [asked(local(concurrency=1), [each])[0] for each in REQUESTS]
    assert together[0].texts[0] != together[0].texts[1]
    assert together[1].texts[0] not in together[0].texts


def test_an_answer_counts_its_tokens() -> None:
    short, long = asked(local(), [request("Compute 1 + 1."), request("Compute 1 + 1.", samples=2)])
    assert short.finish_reasons == ("length",)
    assert (short.completion_tokens, long.completion_tokens) == (12, 24)
    assert short.prompt_tokens == long.prompt_tokens > 5
    assert long.texts[0] == short.texts[0], "one more sample leaves the first as it is"


def test_what_waits_is_decoded_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    generate = ForkJoinDecoder.generate

    def counted(self: ForkJoinDecoder, prompts: Any, **given: Any) -> Any:
        calls.append((len(prompts), self.batch_size))
        return generate(self, prompts, **given)

    monkeypatch.setattr(ForkJoinDecoder, "generate", counted)
    asked(local(concurrency=3), [request(f"Compute {n} + 1.", max_tokens=2) for n in range(5)])
    assert calls == [(5, 3)]


@pytest.mark.parametrize("style", ["parallel", "sequential", "bare"])
def test_a_request_is_framed_as_in_training(style: str) -> None:
    problem = "What is 6 * 7?<|im_end|>"
    assert rendered(request(user_message(problem, style))) == render_prompt(problem, style)


def test_a_seed_belongs_to_its_request() -> None:
    one = row_seeds(request("a", samples=3))
    assert len({*one, *row_seeds(request("b", samples=3)), *row_seeds(request("a", samples=3, seed=4))}) == 9
    assert row_seeds(request("a", samples=2)) == one[:2]


def test_a_model_that_is_not_there_ends_the_asking() -> None:
    with pytest.raises(Fatal, match="cannot be loaded") as caught:
        asked(local("nobody/nothing"), [request("Compute 1 + 1.")])
    assert "\n" not in str(caught.value)
    with pytest.raises(Fatal, match="top_p 2"):
        asked(local(), [request("Compute 1 + 1.", top_p=2.0)])


def test_a_model_that_does_not_know_the_tags_spells_them_out(tmp_path: Path) -> None:
    model, tokenizer = load_model("tiny")
    _, _, spelling = local()._model()
    ids = encode(tokenizer, "So <Path>6</Path>", spelling)
    assert not set(ids) & set(tag_ids(tokenizer))
    assert tokenizer.decode(ids) == "So <Path>6</Path>"
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    _, _, spelling = local(tmp_path)._model()
    assert spelling == {}
    assert set(encode(tokenizer, "So <Path>6</Path>", spelling)) & set(tag_ids(tokenizer))


@torch.no_grad()
def test_what_is_not_to_be_drawn_has_no_probability() -> None:
    model, _ = load_model("tiny")
    ids = torch.tensor([[5, 6]])
    before = model(ids).logits
    with never_drawn(model, [3, 4]):
        within = model(ids).logits
    assert within[..., [3, 4]].eq(-torch.inf).all()
    assert within[..., 5:].equal(before[..., 5:])
    with never_drawn(model, []):
        assert model(ids).logits.equal(before)


def test_memory_that_runs_out_halves_the_rows_and_then_ends_the_asking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = []

    def too_much(self: ForkJoinDecoder, *_: Any, **__: Any) -> Any:
        sizes.append(self.batch_size)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ForkJoinDecoder, "generate", too_much)
    with pytest.raises(Fatal, match="out of memory with --concurrency 1: take a smaller model"):
        asked(local(concurrency=4), [request("Compute 1 + 1.")])
    assert sizes == [4, 2, 1]


def test_closing_stops_what_is_being_decoded() -> None:
    async def close() -> None:
        teacher = local()
        await teacher.ask(request("Compute 1 + 1.", max_tokens=1))
        asking = asyncio.create_task(teacher.ask(request("Compute 1 + 1.", max_tokens=1_000_000, samples=8)))
        await asyncio.sleep(0.2)
        await asyncio.wait_for(teacher.aclose(), 5)
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(close())


def test_other_weights_in_the_same_folder_are_another_teacher(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert fingerprint(str(tmp_path)) is None
    (tmp_path / "model.safetensors").write_bytes(b"a" * 100)
    first = fingerprint(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"a" * 99 + b"b")
    assert first is not None
    assert fingerprint(str(tmp_path)) not in (None, first)
    assert local(tmp_path).options["weights"] == fingerprint(str(tmp_path))
    assert local(top_k=5).options != local().options


@pytest.mark.real
def test_a_real_model_writes_for_real_problems(real_model: Path, real_data: Path) -> None:
    rows = load_rows(str(real_data / "gsm8k_train.parquet"), need=("problem", "answer"), limit=2)
    mode = write(max_tokens=24)
    requests = [dataclasses.replace(mode.requests(row, [])[0], seed=1) for row in rows]
    answers = asked(local(real_model), requests)
    for row, answer in zip(rows, answers, strict=True):
        assert 0 < answer.completion_tokens <= 24
        (trace,) = mode.trace(row, [list(answer.texts)])
        check(trace, problem=row["problem"], answer=row["answer"])

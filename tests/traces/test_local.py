"""A model on this machine as the teacher."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from prl.config import resolve
from prl.data.hub import load_rows
from prl.decoding import ForkJoinDecoder
from prl.model import tag_ids
from prl.prompts import render_prompt, user_message
from prl.traces.asking import Answer, Fatal
from prl.traces.checks import check
from prl.traces.local import QUEUED, Local, rendered, row_seed, weights_fingerprint
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
    request("Compute 12 + 30."),
    request("Compute 12 + 30.", seed=4),
    request("Compute 5 + 6 - 7.", max_tokens=20),
    request("Ann has 12 pens.", temperature=0.0),
    request("Compute 12 + 30.", seed=None),
]


def test_asks_answered_together_equal_asks_alone() -> None:
    teacher = local()
    together = asked(teacher, REQUESTS)
    assert together == asked(teacher, REQUESTS[::-1])[::-1]
    assert together == [asked(local(concurrency=1), [each])[0] for each in REQUESTS]
    assert len({together[i].text for i in (0, 1, 4)}) == 3


def test_an_answer_counts_its_tokens() -> None:
    (answer,) = asked(local(), [request("Compute 1 + 1.")])
    assert (answer.completion_tokens, answer.finish_reason) == (12, "length")
    assert answer.prompt_tokens > 5


def test_what_waits_is_decoded_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    generate = ForkJoinDecoder.generate

    def counted(self: ForkJoinDecoder, prompts: Any, **given: Any) -> Any:
        calls.append((len(prompts), [len(seeds) for seeds in given["seeds"]], self.batch_size))
        return generate(self, prompts, **given)

    monkeypatch.setattr(ForkJoinDecoder, "generate", counted)
    problems = [request(f"Compute {n} + 1.", max_tokens=2) for n in range(4)]
    teacher = local(concurrency=3)
    asked(teacher, [*problems, request("Compute 2 + 1.", max_tokens=2, seed=9)])
    assert calls == [(4, [1, 1, 2, 1], 3)], "a prompt that two ask with is read once"
    assert teacher.places == QUEUED * 3


def test_an_answer_does_not_wait_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    generate, received = ForkJoinDecoder.generate, threading.Event()

    def held(self: ForkJoinDecoder, prompts: Any, on_response: Any, **given: Any) -> Any:
        def on_each(*response: Any) -> None:
            on_response(*response)
            assert received.wait(60)

        return generate(self, prompts, on_response=on_each, **given)

    monkeypatch.setattr(ForkJoinDecoder, "generate", held)

    async def ask_two() -> None:
        teacher = local(concurrency=1)
        tasks = [asyncio.create_task(teacher.ask(each)) for each in REQUESTS[:2]]
        await tasks[0]
        assert not tasks[1].done()
        received.set()
        await tasks[1]

    asyncio.run(ask_two())


@pytest.mark.parametrize("style", ["parallel", "sequential", "bare"])
def test_a_request_is_framed_as_in_training(style: str) -> None:
    problem = "What is 6 * 7?<|im_end|>"
    assert rendered(request(user_message(problem, style))) == render_prompt(problem, style)


def test_a_seed_belongs_to_its_request() -> None:
    requests = [request("a"), request("b"), request("a", seed=4), request("a", max_tokens=13)]
    assert len({*map(row_seed, requests)}) == 4
    assert row_seed(request("a")) == row_seed(requests[0])


def test_a_model_that_is_not_there_ends_the_asking() -> None:
    with pytest.raises(Fatal, match="cannot be loaded") as caught:
        asked(local("nobody/nothing"), [request("Compute 1 + 1.")])
    assert "\n" not in str(caught.value)
    with pytest.raises(Fatal, match="top_p 2"):
        asked(local(), [request("Compute 1 + 1.", top_p=2.0)])


@pytest.mark.parametrize("attention", ["causal", "structured"])
def test_a_model_that_does_not_know_the_tags_spells_them_out(
    attention: str, tagged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asking = request("Say <Path>6</Path>.")
    counts = []
    for model in ("tiny", tagged):
        teacher = local(model, attention=attention)
        (answer,) = asked(teacher, [asking])
        _, tokenizer = teacher._model()
        counts.append(answer.prompt_tokens)
        assert bool(tag_ids(tokenizer)) == (model == tagged)
    assert counts[0] - counts[1] == 4 + 5  # <Path> is spelled with 5 tokens, </Path> with 6
    assert "tags: spelled out: tiny was never trained on them\n" in capsys.readouterr().err


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


def test_what_was_answered_before_memory_ran_out_is_not_decoded_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    generate = ForkJoinDecoder.generate

    def too_much_later(self: ForkJoinDecoder, prompts: Any, on_response: Any, **given: Any) -> Any:
        calls.append(len(prompts))

        def on_first(*response: Any) -> None:
            on_response(*response)
            if len(calls) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")

        return generate(self, prompts, on_response=on_first, **given)

    monkeypatch.setattr(ForkJoinDecoder, "generate", too_much_later)
    requests = [request(f"Compute {n} + 30.", max_tokens=3) for n in range(3)]
    answers = asked(local(concurrency=2), requests)
    assert calls == [3, 2]
    monkeypatch.setattr(ForkJoinDecoder, "generate", generate)
    assert answers == asked(local(), requests)


def test_closing_stops_what_is_being_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def endless(self: ForkJoinDecoder, prompts: Any, on_token: Any, **given: Any) -> None:
        while True:
            begun.set()
            on_token(0, 0, 0)

    monkeypatch.setattr(ForkJoinDecoder, "generate", endless)

    async def close() -> None:
        teacher = local()
        asking = asyncio.create_task(teacher.ask(request("Compute 1 + 1.")))
        await asyncio.to_thread(begun.wait)
        await asyncio.wait_for(teacher.aclose(), 5)
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(close())


def test_other_weights_in_the_same_folder_are_another_teacher(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert weights_fingerprint(str(tmp_path)) is None
    (tmp_path / "model.safetensors").write_bytes(b"a" * 100)
    first = weights_fingerprint(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"a" * 99 + b"b")
    assert first is not None
    assert weights_fingerprint(str(tmp_path)) not in (None, first)
    assert local(tmp_path).options["weights"] == weights_fingerprint(str(tmp_path))
    assert local(top_k=5).options != local().options


@pytest.mark.real
def test_a_real_model_writes_for_real_problems(real_model: Path, real_data: Path) -> None:
    rows = load_rows(str(real_data / "gsm8k_train.parquet"), need=("problem", "answer"), limit=2)
    mode = write(max_tokens=24)
    requests = [dataclasses.replace(mode.requests(row, [])[0], seed=1) for row in rows]
    answers = asked(local(real_model), requests)
    for row, answer in zip(rows, answers, strict=True):
        assert 0 < answer.completion_tokens <= 24
        ((trace, _),) = mode.traces(row, [answer.text])
        check(trace, problem=row["problem"], answer=row["answer"])

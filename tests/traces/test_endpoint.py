"""The endpoint teacher against a real HTTP server that goes wrong."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from faulty_endpoint import Endpoint as Server
from faulty_endpoint import served

from prl.errors import UsageError
from prl.traces.asking import Answer, Fatal, Refused, Retry, TeacherError
from prl.traces.endpoint import Endpoint
from prl.traces.modes import Request

REQUEST = Request(({"role": "user", "content": "Problem: 12 + 30"},), max_tokens=64, seed=7)


def ask(server: Server, model: str = "teacher", **given: Any) -> Answer:
    async def work() -> Answer:
        async with aclosing(Endpoint(model, server.url, **given)) as teacher:
            return await teacher.ask(REQUEST)

    return asyncio.run(work())


def test_what_is_sent_and_said() -> None:
    with served(keep_bodies=True) as server:
        answer = ask(server, extra={"top_k": 20})
    assert "Final Answer: 4" in answer.text
    assert (answer.prompt_tokens, answer.completion_tokens) == (100, 50)
    assert (answer.finish_reason, answer.model) == ("stop", "teacher-2026")
    (body,) = server.bodies
    assert body == {
        "model": "teacher", "messages": [{"role": "user", "content": "Problem: 12 + 30"}], "seed": 7,
        "max_tokens": 64, "temperature": 1.0, "top_p": 1.0, "top_k": 20,
    }  # fmt: skip


def test_a_field_that_an_endpoint_refuses_can_be_left_out() -> None:
    with served(keep_bodies=True) as server:
        ask(server, extra={"max_tokens": None, "max_completion_tokens": 64, "seed": None})
    assert server.bodies[0].keys() == {"model", "messages", "temperature", "top_p", "max_completion_tokens"}


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("busy", Retry, "Rate limit reached"),
        ("busy_until", Retry, "Rate limit reached"),
        ("quota", Fatal, "no money"),
        ("error", Retry, "Internal Server Error"),
        ("unavailable", Retry, "503"),
        ("too_long", Refused, "maximum context length"),
        ("no_json", Retry, "not whole JSON"),
        ("no_choices", Retry, "no choices"),
        ("no_message", Retry, "no chat completion"),
        ("drop", Retry, "127.0.0.1"),
        ("torn", Retry, "127.0.0.1"),
        ("drip", Retry, "no answer within 0.3 s"),
    ],
)
def test_each_fault_is_told_apart(fault: str, kind: type[TeacherError], message: str) -> None:
    with served(always=fault) as server, pytest.raises(kind, match=message) as raised:
        ask(server, timeout=0.3)
    assert "\n" not in str(raised.value)
    if isinstance(raised.value, Retry):
        assert not raised.value.unreachable
        assert raised.value.after == (0.1 if fault == "busy_until" else None)
        assert raised.value.pause == (fault == "busy_until")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ('{"content": "7"}', "7"),
        ('{"content": null, "reasoning_content": "Hm."}', ""),
        ('{"content": [{"type": "text", "text": "It is "}, {"type": "text", "text": "7"}]}', "It is 7"),
        ('{"content": [{"type": "refusal", "refusal": "No."}]}', ""),
        ('{"content": "half a pair \\ud83d, a whole one \\ud83d\\ude00"}', "half a pair ?, a whole one 😀"),
        ("{}", ""),
    ],
)
@pytest.mark.parametrize("rest", ["", ', "usage": null', ', "usage": {"prompt_tokens": null}, "model": null'])
def test_every_shape_of_an_answer_is_read(message: str, text: str, rest: str) -> None:
    with served(body=f'{{"choices": [{{"message": {message}}}]{rest}}}') as server:
        assert ask(server) == Answer(text, None, None, thought="reasoning" in message)


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "null",
        '{"choices": null}',
        '{"choices": {"message": {"content": "7"}}}',
        '{"choices": [{"text": "7"}]}',
        '{"choices": [{"message": "7"}]}',
        '{"choices": [{"message": {"content": 7}}]}',
        '{"choices": [{"message": {"content": ["7"]}}]}',
        '{"choices": [{"message": {"content": "7"}}], "usage": {"prompt_tokens": "many"}}',
        "[" * 100_000,
    ],
)
def test_what_is_no_answer_is_asked_again(body: str) -> None:
    with served(body=body) as server, pytest.raises(Retry, match=r"the answer (is|has) no"):
        ask(server)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        ('{"message": "overloaded"}', Retry, "an error from {}: overloaded"),
        (
            '{"message": "Provider returned error", "code": 429}',
            Retry,
            "429 from {}: Provider returned error",
        ),
        ('{"message": "bad gateway", "code": "502"}', Retry, "502 from {}: bad gateway"),
        ('{"message": "no money", "code": "insufficient_quota"}', Fatal, "an error from {}: no money"),
        ('{"message": "no money.", "code": 402}', Fatal, "402 from {}: no money"),
        (
            '{"message": "who are you?", "code": 401}',
            Fatal,
            "401 from {}: who are you?; export OPENAI_API_KEY",
        ),
        ('{"message": "too long", "code": 400}', Refused, "400 from {}: too long"),
        (r'{"message": "too \u001b[2J long", "code": 400}', Refused, "400 from {}: too \ufffd[2J long"),
        ('"out of memory"', Retry, "an error from {}: out of memory"),
        ('{"code": [3]}', Retry, "an error from {}: {{'code': [3]}}"),
    ],
)
@pytest.mark.parametrize("body", ['{"error": %s}', '{"choices": [{"error": %s}]}'])
def test_an_error_that_comes_with_status_200_is_one(
    body: str, error: str, kind: type[TeacherError], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with served(body=body % error) as server, pytest.raises(kind) as raised:
        ask(server)
    assert str(raised.value) == said.format(server.url)


def test_a_web_page_is_no_endpoint() -> None:
    with served(body="<html><body>Sign in</body></html>") as server, pytest.raises(Retry) as raised:
        ask(server)
    assert raised.value.unreachable, "so it ends at once, but amid answers it is tried again"
    assert str(raised.value) == (
        f"the answer is no JSON but a web page; is {server.url} the endpoint's --base_url?"
    )


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("", "{}/v1 answers as an endpoint: pass that as --base_url"),
        ("/openai/v1", "{}/v1 answers as an endpoint: pass that as --base_url"),
        ("/v2", "{}/v1 answers as an endpoint: pass that as --base_url"),
    ],
)
def test_a_wrong_address_is_told_with_the_right_one(path: str, advice: str) -> None:
    with served() as server:
        host = server.url.removesuffix("/v1")
        server.url = host + path
        with pytest.raises(Fatal) as raised:
            ask(server)
    assert str(raised.value) == f"404 from {host}{path}: Not Found; {advice.format(host)}"


def test_an_address_where_nothing_answers_as_an_endpoint() -> None:
    with served(prefix="/hidden") as server, pytest.raises(Fatal) as raised:
        ask(server)
    assert str(raised.value) == (
        f"404 from {server.url}: Not Found; no endpoint answers there: is --base_url right? It usually ends "
        "in /v1"
    )


def test_a_wrong_model_is_told_with_those_there_are() -> None:
    with served() as server, pytest.raises(Fatal, match=r"`teachr` does not exist; it has teacher"):
        ask(server, "teachr")


def test_nothing_listens_there() -> None:
    with served() as server:
        pass
    with pytest.raises(Retry) as raised:
        ask(server)
    assert raised.value.unreachable


def test_a_key_is_used_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(key="sk-right-1234567890") as server:
        monkeypatch.setenv("MY_KEY", "sk-right-1234567890")
        assert ask(server, api_key_env="MY_KEY").text
        monkeypatch.setenv("MY_KEY", "sk-wrong-1234567890")
        with pytest.raises(Fatal, match="is the key in MY_KEY right") as raised:
            ask(server, api_key_env="MY_KEY")
        assert "sk-wrong" not in str(raised.value)
        monkeypatch.delenv("MY_KEY")
        with pytest.raises(UsageError, match="MY_KEY is not set"):
            ask(server, api_key_env="MY_KEY")
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(Fatal, match="export OPENAI_API_KEY"):
            ask(server)


@pytest.mark.parametrize("url", ["localhost:8000/v1", "", "ftp://x/v1", "http:///v1"])
def test_no_url(url: str) -> None:
    with pytest.raises(UsageError, match="is no URL"):
        Endpoint("teacher", url)


@pytest.mark.parametrize("path", ["/chat/completions", "/completions/", "/models"])
def test_a_url_of_one_of_its_services_is_cut_down(path: str) -> None:
    with pytest.raises(
        UsageError, match=r"prl adds /\w.* where it needs that itself; pass http://host:1/v1$"
    ):
        Endpoint("teacher", f"http://host:1/v1{path}")


@pytest.mark.parametrize("url", ["http://me:secret@host:1/v1", "http://host:1/v1?token=secret"])
def test_a_url_that_holds_a_key_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(UsageError, match="the one at host holds a user, a password or a query") as error:
        Endpoint("t", url)
    assert "secret" not in str(error.value)


def test_an_endpoint_is_not_told_about_this_machine() -> None:
    with served(keep_bodies=True) as server:
        ask(server)
    (headers,) = server.headers
    assert headers["authorization"] == "Bearer none"
    told = {name.removeprefix("x-stainless-") for name in headers if name.startswith("x-stainless-")}
    assert told <= {"retry-count", "read-timeout"}, "openai 3.57 names the system and the Python otherwise"

"""A teacher behind an OpenAI-compatible chat endpoint: vLLM, llama.cpp, Ollama, or a hosted one.

The `openai` library speaks the protocol (extra `traces`); it retries nothing itself, because each try counts
and is kept. What an endpoint says is told apart into: ask again (`Retry`), not this request (`Refused`), none
at all (`Fatal`).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from prl.errors import UsageError, first_line
from prl.report.lanes import harmless
from prl.traces.asking import Answer, Fatal, Refused, Retry, TeacherError
from prl.traces.modes import Request

if TYPE_CHECKING:
    from openai import APIStatusError

_TELLING_HEADERS = tuple(
    f"X-Stainless-{name}"
    for name in ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async")
)
_SHOWN = 200  # characters of what an endpoint says of itself
_AGAIN = {408, 409, 425, 429}
"""Statuses below 500 after which the same request may succeed."""


class Endpoint:
    """The teacher `model` at `base_url` (".../v1").

    `concurrency` requests are on the wire at most; those beyond (`places`) wait, written and ready to go.
    `timeout`: seconds until a request counts as failed, from the first byte sent to the last one read.
    `extra`: further fields of the request, part of its key; None leaves a field out. `api_key_env` names the
    variable that holds the key; None: OPENAI_API_KEY where it is set, else none, as servers of one's own need
    none.

    Raises UsageError: the `openai` library is missing, the variable is not set, no URL.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        api_key_env: str | None = None,
        concurrency: int = 8,
        timeout: float = 120.0,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import openai
            from openai import DefaultAioHttpClient
        except ImportError as error:
            raise UsageError(
                f'a teacher behind an endpoint needs {error.name}: pip install "prl[traces]"'
            ) from None
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise UsageError(f"base_url: {base_url!r} is no URL; for example http://localhost:8000/v1")
        if url.username or url.password or url.query:  # it is shown, and written into the run folder
            raise UsageError(
                f"base_url: the one at {url.hostname} holds a user, a password or a query; keys are taken "
                "from the environment only (--api_key_env)"
            )
        for path in ("/chat/completions", "/completions", "/models"):
            if url.path.rstrip("/").endswith(path):
                shorter = base_url.rstrip("/").removesuffix(path)
                raise UsageError(f"base_url: prl adds {path} where it needs that itself; pass {shorter}")
        self.name, self.options = model, dict(extra or {})
        self.base_url = base_url
        # One in four waits with its request written while others are on the wire, so that no place there is
        # empty while this process reads an answer.
        self.places = concurrency + max(1, concurrency // 4)
        self._key = os.environ.get(api_key_env or "OPENAI_API_KEY", "")
        if api_key_env and not self._key:
            raise UsageError(
                f"api_key_env: the environment variable {api_key_env} is not set; export the key"
            )
        self._variable = api_key_env or "OPENAI_API_KEY"
        self._timeout = timeout
        self._client = openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=base_url,
            max_retries=0,
            timeout=None,
            # No endpoint is told about this machine; and each header costs every request some time.
            default_headers=cast(Any, dict.fromkeys(_TELLING_HEADERS, openai.Omit())),
            http_client=_limited(DefaultAioHttpClient(), concurrency, timeout),
        )

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def ask(self, request: Request) -> Answer:
        """Raises TeacherError: its subclass says what is to be done."""
        import openai

        try:
            # Not chat.completions.create: openai 3.57 walks through all messages and the whole answer by
            # their types, which takes it a third of the time of a request.
            said = await self._client.post("/chat/completions", cast_to=str, body=self._body(request))
        except openai.APIStatusError as error:
            code = f"{error.code} {error.type}"
            raise await self._judged(error.status_code, _said(error), code, error.response.headers) from error
        except TimeoutError:
            raise Retry(f"no answer within {self._timeout:g} s") from None
        except openai.APIConnectionError as error:
            message = f"{self.base_url}: {first_line(self._redacted(str(error.__cause__ or error)))}"
            raise Retry(message, unreachable=_is_unreachable(error)) from error
        if said.lstrip()[:1] == "<":
            raise Retry(
                f"the answer is no JSON but a web page; is {self.base_url} the endpoint's --base_url?",
                unreachable=True,
            )
        if fault := _fault(said):  # of a proxy that found no other status for it
            raise await self._judged(*fault, {})
        return _answer(said)

    def _body(self, request: Request) -> dict[str, Any]:
        """The fields of a chat completion (OpenAI API reference; the same ones vLLM and llama.cpp read).

        `extra` may leave some out: OpenAI's reasoning models refuse `max_tokens`, other endpoints `seed`.
        """
        body = {
            "model": self.name,
            "messages": [dict(message) for message in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
        }
        return {name: value for name, value in (body | self.options).items() if value is not None}

    async def _judged(
        self, status: int | None, said: str, code: str, headers: Mapping[str, str]
    ) -> TeacherError:
        """What is to be done about a status and what came with it; `code` is what the endpoint calls it."""
        message = f"{status or 'an error'} from {self.base_url}: {self._redacted(said)}".rstrip(". ")
        if status in (401, 403):
            hint = f"is the key in {self._variable} right?" if self._key else f"export {self._variable}"
            return Fatal(f"{message}; {hint}")
        if status in (404, 405):
            return Fatal(f"{message}; {await self._where_it_is()}")
        if status == 402 or "insufficient_quota" in code:
            return Fatal(message)
        if status is None or status in _AGAIN or status >= 500:
            after = _retry_after(headers)
            return Retry(message, after, pause=status in (429, 503) and after is not None)
        return Refused(message)

    async def _where_it_is(self) -> str:
        """What to do about a 404: the models that the endpoint has, or another address that is one."""
        if names := await self._models(self.base_url):
            return f"it has {', '.join(names)}"
        url = urlsplit(self.base_url)
        for other in dict.fromkeys((f"{self.base_url.rstrip('/')}/v1", f"{url.scheme}://{url.netloc}/v1")):
            if await self._models(other):
                return f"{other} answers as an endpoint: pass that as --base_url"
        return "no endpoint answers there: is --base_url right? It usually ends in /v1"

    async def _models(self, base_url: str) -> list[str]:
        """The models that an endpoint at this address says it has; none where it does not."""
        import openai

        with suppress(TimeoutError, openai.OpenAIError, AttributeError, TypeError):
            async with asyncio.timeout(5):
                found = await self._client.with_options(base_url=base_url).models.list()
            return sorted(self._redacted(str(model.id)) for model in found.data)[:10]
        return []

    def _redacted(self, text: str) -> str:
        text = harmless(" ".join(text.split())[:_SHOWN])
        return text.replace(self._key, "***") if self._key else text


def _limited(client: Any, concurrency: int, timeout: float) -> Any:
    """Have `client` send `concurrency` requests at a time, each for `timeout` seconds at most.

    Here and not around the whole call of openai 3.57: writing a request and reading an answer takes this
    process a millisecond or two, and would leave places on the wire empty. The transport's own timeouts
    call a refused connection a timeout too.
    """
    send, places = client.send, asyncio.Semaphore(concurrency)

    async def limited(*args: Any, **kwargs: Any) -> Any:
        async with places, asyncio.timeout(timeout):
            response = await send(*args, **kwargs)
        await asyncio.sleep(0)  # whoever waits for the place goes first, then this answer is read
        return response

    client.send = limited
    return client


def _fault(content: str) -> tuple[int | None, str, str] | None:
    """Status (None: it names none), message and code of an error that came with status 200, which may be in
    the only choice; None for anything else."""
    try:
        found = json.loads(content)
        error = found.get("error") or found["choices"][0].get("error")
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError):
        return None
    if not error:
        return None
    said = error if isinstance(error, Mapping) else {"message": error}
    code = str(said.get("code"))
    status = int(code) if re.fullmatch("[45][0-9][0-9]", code) else None
    return status, str(said.get("message") or error), f"{code} {said.get('type')}"


def _answer(content: str) -> Answer:
    """What a response says. Raises Retry where it is no chat completion."""
    try:
        found = json.loads(content)
        if not found["choices"]:
            raise Retry("the answer has no choices")
        choice = found["choices"][0]
        message = choice["message"]
        text = _text(message.get("content"))
        thought = any(message.get(name) for name in ("reasoning_content", "reasoning"))
        reason = str(choice.get("finish_reason") or "")
        usage = found.get("usage") or {}
        counts = (usage.get(f"{name}_tokens") for name in ("prompt", "completion"))
        prompt, completion = (None if count is None else int(count) for count in counts)
        model = _encodable(str(found.get("model") or ""))
    except (ValueError, RecursionError):
        raise Retry("the answer is not whole JSON") from None
    except (KeyError, TypeError, AttributeError):
        raise Retry("the answer is no chat completion") from None
    return Answer(text, prompt, completion, reason, model, thought)


def _text(content: object) -> str:
    """The text of a message: a string, none, or a list of parts (OpenAI API reference). Raises TypeError."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    if not isinstance(content, str | None):
        raise TypeError
    return _encodable(content or "")


def _encodable(text: str) -> str:
    """`text` with "?" for half a surrogate pair, which JSON can hold and no file of UTF-8 can."""
    return text.encode(errors="replace").decode()


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds: of `retry-after-ms`, or of `Retry-After`, which holds seconds or a date (RFC 9110)."""
    with suppress(ValueError, TypeError, KeyError):
        return max(0.0, float(headers["retry-after-ms"]) / 1000)
    said = headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(said))
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(said).timestamp() - time())
    return None


def _said(error: APIStatusError) -> str:
    """The message in the body of an error, in whichever shape."""
    body = error.body
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail") or body
    return str(body or error.message)


def _is_unreachable(error: BaseException | None) -> bool:
    """Whether nothing listens there, or there is no such host; not so where a connection was dropped."""
    while error is not None:
        if isinstance(error, ConnectionRefusedError) or type(error).__name__ in (
            "ConnectError",
            "ClientConnectorError",
            "ClientConnectorDNSError",
        ):
            return True
        error = error.__cause__ or error.__context__
    return False

"""A chat-completions endpoint on this machine that can go wrong in every way that real ones do.

It answers sums ("12 + 30") with a parallel trace; the same problem gets the same answer. Which fault meets
which try follows from the problem alone, so that every run against it meets the same ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from prl.grammar import render

FAULTS = (
    "busy", "busy_until", "error", "drip", "drop", "torn", "no_json", "no_choices", "no_message",
    "unavailable",
)  # fmt: skip


@dataclass
class Endpoint:
    """What it does, and what it has been asked: `asked` holds (problem, try, fault, time) in order."""

    latency: float = 0.02
    faults: tuple[str, ...] = ()
    share: float = 0.0  # of the tries that fail
    model: str = "teacher"
    key: str | None = None
    drip: float = 5.0  # seconds
    always: str | None = None  # one fault, each time
    body: str | None = None  # what it says instead of a completion
    asked: list[tuple[str, int, str | None, float]] = field(default_factory=list)
    tries: Counter[str] = field(default_factory=Counter)
    at_once: int = 0
    most_at_once: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    keep_bodies: bool = False
    prefix: str = ""  # of the paths that it answers
    cut: float = 0.0  # share of the answers that end at the limit
    url: str = ""

    def fault(self, problem: str, number: int) -> str | None:
        if self.always:
            return self.always
        digest = hashlib.sha256(f"{problem}\0{number}".encode()).digest()
        if not self.faults or digest[0] / 256 >= self.share:
            return None
        return self.faults[digest[1] % len(self.faults)]

    async def respond(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[bytes, str]:
        """A whole response, and how it is sent: "", "drop", "torn" or "drip"."""
        path = path.removeprefix(self.prefix) if path.startswith(self.prefix) else ""
        if path == "/v1/models":
            return _json(200, {"object": "list", "data": [{"id": self.model, "object": "model"}]}), ""
        if path != "/v1/chat/completions":
            return _json(404, {"detail": "Not Found"}), ""
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            message = f"Incorrect API key provided: {headers.get('authorization', '')}"
            return _json(401, {"error": {"message": message, "code": "invalid_api_key"}}), ""
        asked = json.loads(body)
        if asked["model"] != self.model:
            return _json(
                404, {"object": "error", "message": f"The model `{asked['model']}` does not exist."}
            ), ""
        if self.keep_bodies:
            self.bodies.append(asked)
            self.headers.append(headers)
        problem = asked["messages"][-1]["content"].rpartition("Problem: ")[2]
        number = self.tries[problem]
        self.tries[problem] += 1
        fault = self.fault(problem, number)
        self.asked.append((problem, number, fault, time.monotonic()))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.latency)
        finally:
            self.at_once -= 1
        return self._outcome(fault, problem, asked)

    def _outcome(self, fault: str | None, problem: str, asked: dict[str, Any]) -> tuple[bytes, str]:
        answer = completion(problem, asked)
        if hashlib.sha256(problem.encode()).digest()[4] / 256 < self.cut:
            answer["choices"][0]["finish_reason"] = "length"
        whole = _json(200, answer if self.body is None else self.body)
        match fault:
            case "busy":
                return _json(429, {"error": {"message": "Rate limit reached"}}), ""
            case "busy_until":
                return _json(429, {"error": {"message": "Rate limit reached"}}, "Retry-After: 0.1\r\n"), ""
            case "quota":
                return _json(429, {"error": {"message": "no money", "code": "insufficient_quota"}}), ""
            case "error":
                return _json(500, {"error": {"message": "Internal Server Error"}}), ""
            case "unavailable":
                return b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy", ""
            case "too_long":
                return _json(400, {"error": {"message": "maximum context length is 8192"}}), ""
            case "no_json":
                body = b'{"choices": [{"message": {"content": "half'
                return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body, ""
            case "no_choices":
                return _json(200, {"choices": [], "usage": {}}), ""
            case "no_message":
                return _json(200, {"result": "here you are"}), ""
        return whole, fault or ""


def completion(problem: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The same answer for the same problem: most are right, some not, some without a block."""
    digest = hashlib.sha256(problem.encode()).digest()
    a, b = (int(number) for number in re.findall(r"\d+", problem)[:2])
    total = a + b + (1 if digest[2] < 40 else 0)
    if digest[3] < 20:
        text = f"{a} + {b} = {total}\nFinal Answer: {total}"
    else:
        paths = [
            f"Starting at {a}, count {b} up: {total}.",
            f"Tens and ones apart give {total} as their sum.",
        ]
        text = f"Add them.\n{render(paths, f'Both reach {total}.')}\nFinal Answer: {total}"
    return {
        "id": "c", "object": "chat.completion", "created": 1, "model": f"{asked['model']}-2026",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
    }  # fmt: skip


@contextmanager
def served(**given: Any) -> Iterator[Endpoint]:
    """An endpoint in a thread of its own, at `.url`."""
    endpoint = Endpoint(**given)
    loop = asyncio.new_event_loop()
    started = threading.Event()

    async def main() -> None:
        server = await asyncio.start_server(lambda r, w: _connection(endpoint, r, w), "127.0.0.1", 0)
        endpoint.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        started.set()
        async with server:
            await server.serve_forever()

    def in_thread() -> None:
        asyncio.set_event_loop(loop)
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        for left in asyncio.all_tasks(loop):
            left.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    task = loop.create_task(main())
    thread = threading.Thread(target=in_thread)
    thread.start()
    started.wait()
    try:
        yield endpoint
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()


async def _connection(endpoint: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            method, path, _ = first.split(" ")
            response, how = await endpoint.respond(method, path, headers, body)
            if how == "drop":
                break
            if how == "torn":
                writer.write(response[: len(response) * 2 // 3])
                await writer.drain()
                break
            if how == "drip":
                for start in range(0, len(response), len(response) // 20):
                    writer.write(response[start : start + len(response) // 20])
                    await writer.drain()
                    await asyncio.sleep(endpoint.drip / 20)
                continue
            writer.write(response)
            await writer.drain()
    writer.close()


def _json(status: int, value: dict[str, Any] | str, headers: str = "") -> bytes:
    body = (value if isinstance(value, str) else json.dumps(value)).encode()
    headers += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"HTTP/1.1 {status} X\r\n{headers}\r\n".encode() + body

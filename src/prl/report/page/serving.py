"""A page that follows its runs, over HTTP: `prl report --serve RUN`.

There are four addresses: `/`, the page, and for a page that is open `/version`, which says in a few bytes
whether there is a newer one, `/newer`, its text with the name of its data, and `/pieces?NAME,NAME`, of these
what it lacks (`prl.report.page.pieces`). No path of a request is ever one of a file. A browser that was led
here by a name of somebody else's (DNS rebinding) is refused, and where the server can be reached from other
machines, so is whoever lacks the token.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hmac
import ipaddress
import json
import logging
import os
import secrets
import socket
import socketserver
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from prl.console import console
from prl.errors import RunError, UsageError, first_line
from prl.report.page.following import Followed, Served
from prl.report.page.reading import find_runs

PATIENCE = 30.0
"""Seconds that a client may take over its request."""

_LOCAL = ("localhost", "127.0.0.1", "[::1]")


def serve(
    folders: Iterable[str | os.PathLike[str]], host: str, port: int, *, all_samples: bool = False
) -> None:
    """Serve the page of the runs in `folders` until Ctrl-C. Raises UsageError where `host` and `port` cannot
    be had."""
    followed = Followed(folders, all_samples=all_samples)
    with open_server(followed, host, port) as server, _quiet():
        try:
            find_runs(followed.folders)
        except RunError as error:
            console.print(f"waiting for a run: {error}", markup=False)
        console.print(f"serving {server.address}  (Ctrl-C ends it)", markup=False)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
        console.print("no longer serving", markup=False)


def open_server(followed: Followed, host: str, port: int) -> Server:
    """A server of the page of `followed`, bound to `host` and `port` (0: any), to be used as a context.
    Raises UsageError where these cannot be had."""
    try:
        ((family, *_, address), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"host {host}: {first_line(getattr(error, 'strerror', None) or error)}; name this machine with "
            "--host, or leave it out"
        ) from error
    try:
        return Server(followed, host, family, address)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EPERM):
            raise UsageError(
                f"port {port}: {error.strerror}; choose another --port, or 0 for any that is free"
            ) from error
        raise UsageError(
            f"host {host}: {error.strerror or error}; --host takes a name or an address of this machine"
        ) from error


class Server(ThreadingHTTPServer):
    """The server, bound and not yet serving; `token` is what a client needs where it is no loopback address
    that it is bound to, and `address` is where a browser finds it."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, followed: Followed, host: str, family: socket.AddressFamily, address: Any) -> None:
        self.address_family = family
        super().__init__(address[:2], partial(Handler, followed=followed))
        bound, self.port = self.server_address[:2]
        self.bound = ipaddress.ip_address(str(bound))
        self.names = {*_LOCAL, _written(host), _written(str(self.bound))}
        if self.bound.is_unspecified:
            self.names.add(socket.gethostname().lower())
        self.token = None if self.bound.is_loopback else secrets.token_urlsafe()
        name = socket.gethostname() if self.bound.is_unspecified else _written(host)
        self.address = f"http://{name}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def server_bind(self) -> None:
        """Without HTTPServer's question to the name service, which may hang."""
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing where the client went away; a fault of ours is shown."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def is_meant(self, host: str) -> bool:
        """Whether the Host header of a request names this server: with its port, and by a name that nobody
        else can have given it."""
        name, _, port = host.rpartition(":") if ":" in host.rpartition("]")[2] else (host, "", "80")
        if port != str(self.port):
            return False
        return name.lower() in self.names or (self.bound.is_unspecified and _is_address(name))


class Handler(BaseHTTPRequestHandler):
    """One request: who asks and for what is settled before anything is built."""

    server: Server
    timeout = PATIENCE
    server_version, sys_version = "prl", ""

    def __init__(self, *args: Any, followed: Followed) -> None:
        self.followed = followed
        super().__init__(*args)

    def do_GET(self) -> None:
        """Answer; HEAD is the same without the body."""
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or not self.server.is_meant(hosts[0]):
            self._say(
                HTTPStatus.FORBIDDEN, "This server answers to the address that it printed, and no other."
            )
            return
        target, _, query = self.path.partition("?")
        given = parse_qs(query).get("token", [""])[0]
        if self.server.token and not any(map(self._is_token, (given, self._cookie()))):
            self._say(HTTPStatus.FORBIDDEN, "Open the whole address that the server printed, with its token.")
        elif target not in ("/", "/version", "/newer", "/pieces"):
            self._say(HTTPStatus.NOT_FOUND, "There is nothing here; the page is at /.")
        elif target == "/" and self.server.token and self._is_token(given):
            # Out of the address bar and the history. Another token, of before or of a stranger, sets nothing.
            kept = f"{self._cookie_name}={given}; HttpOnly; SameSite=Lax; Path=/"
            self._say(HTTPStatus.SEE_OTHER, "", ("Location", "/"), ("Set-Cookie", kept))
        else:
            try:
                page = self.followed.page()
            except Exception:
                self._say(
                    HTTPStatus.INTERNAL_SERVER_ERROR, "The page could not be built; the server says why."
                )
                raise
            if target == "/":
                self._give(page)
            else:
                self._give_data(self._data(target, query, page))

    do_HEAD = do_GET

    def _give(self, page: Served) -> None:
        tag = f'"{page.version}"'
        asked = [each.strip().removeprefix("W/") for each in self.headers.get("If-None-Match", "").split(",")]
        is_there = tag in asked or "*" in asked
        status = HTTPStatus.NOT_MODIFIED if is_there else HTTPStatus.OK
        self._answer(status, "text/html", b"" if is_there else page.body, ("ETag", tag))

    def _data(self, target: str, query: str, page: Served) -> dict[str, Any]:
        if target == "/version":
            return {"version": page.version, "state": page.state}
        if target == "/pieces":
            return page.pieces(query.split(","))
        sent = page.sent
        return {"version": page.version, "page": sent.bare, "root": sent.root} if sent else {}

    def _give_data(self, data: Mapping[str, Any]) -> None:
        body = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
        takes = "gzip" in self.headers.get("Accept-Encoding", "")
        packed = [("Content-Encoding", "gzip")] if takes and len(body) > 1000 else []
        self._answer(HTTPStatus.OK, "application/json", gzip.compress(body, 6) if packed else body, *packed)

    def _say(self, status: HTTPStatus, text: str, *headers: tuple[str, str]) -> None:
        self._answer(status, "text/plain", f"{text}\n".encode(), *headers)

    def _answer(self, status: HTTPStatus, kind: str, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Cache-Control", "private, no-cache"),
            ("Content-Security-Policy", "frame-ancestors 'none'"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            *headers,
        ):
            self.send_header(name, value)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), (self.server.token or "").encode())

    @property
    def _cookie_name(self) -> str:
        return f"prl-{self.server.port}"  # a browser's cookies are of a host, whatever the port

    def _cookie(self) -> str:
        pairs = (each.strip().partition("=") for each in self.headers.get("Cookie", "").split(";"))
        return next((value for name, _, value in pairs if name == self._cookie_name), "")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server says of a request that it cannot take, in our words: no method but two."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._say(HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD only.", ("Allow", "GET, HEAD"))
        else:
            self._say(HTTPStatus(code), HTTPStatus(code).phrase)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line a request tells nobody anything, and would hold the token."""


def _written(host: str) -> str:
    """A host as addresses and Host headers write it."""
    return f"[{host}]".lower() if ":" in host else host.lower()


def _is_address(name: str) -> bool:
    """Whether a Host header names a numeric address, which no name service can turn to another."""
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the notices on what is half-written: of a run that goes on, something mostly is."""
    of_runs = logging.getLogger("prl.runs")
    before = of_runs.level
    of_runs.setLevel(logging.ERROR)
    try:
        yield
    finally:
        of_runs.setLevel(before)

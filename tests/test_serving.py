"""A page that is served: who is answered, with what, and that it follows runs whatever becomes of them."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_runs import evaluation, rl_run
from prl import cli, runs
from prl.report.page import building, following
from prl.report.page.building import Sent
from prl.report.page.following import Followed, stamp_of
from prl.report.page.pieces import split
from prl.report.page.serving import Server, open_server
from prl.runs.folder import seal_checkpoint
from prl.runs.samples import shard_order, shards, write_shard
from test_page import embedded, joined, read, samples_in

Serve = Callable[..., Server]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long building takes, the next look comes as soon as it is asked for."""
    monkeypatch.setattr(following, "SHARE", 1.0)


@pytest.fixture
def serve(at_once: None) -> Iterator[Serve]:
    """Serves runs on any port, each request with a look at the runs."""
    opened: list[tuple[Server, threading.Thread]] = []

    def begin(*folders: Path, host: str = "localhost") -> Server:
        server = open_server(Followed(folders, interval=0.0), host, 0)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        opened.append((server, thread))
        return server

    yield begin
    for server, thread in opened:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(server: Server, target: str = "/", method: str = "GET", **headers: str) -> Any:
    """Status, headers and body of a request as it is, with the Host that the address names."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": f"localhost:{server.port}", **headers}.items():
        if value:
            connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return SimpleNamespace(
        status=answer.status, headers=answer.headers, body=body, text=body.decode("utf-8", "replace")
    )


def version(server: Server) -> str:
    return json.loads(ask(server, "/version").body)["version"]


def steps(server: Server, tmp_path: Path) -> list[int]:
    """The steps of which the served page holds responses."""
    file = tmp_path / "served.html"
    file.write_bytes(ask(server).body)
    data = embedded(file)
    assert len(samples_in(data)) == len(data["index"]["step"])
    return sorted({*data["index"]["step"]})


def goes_on(run: Path) -> Path:
    """A run as it is amid training: nothing merged, nothing done."""
    rows = runs.read_samples(run).to_pylist()
    (run / "samples.parquet").unlink()
    (run / "DONE").unlink()
    for step in sorted({row["step"] for row in rows}):
        write_shard(run, step, [row for row in rows if row["step"] == step])
    return run


def logs(run: Path, step: int) -> None:
    (row, *_) = runs.read_samples(run).to_pylist()
    write_shard(run, step, [row | {"step": step}])
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "reward": 1.0, "correct": 1.0}) + "\n")


def test_fifty_clients_get_one_page(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ask before the first build is done, and again once the run has gone on."""
    built, everybody = [], threading.Barrier(50)
    build = following.page_to_follow

    def counted(*args: Any, **named: Any) -> Sent:
        built.append(threading.get_ident())
        return build(*args, **named)

    monkeypatch.setattr(following, "page_to_follow", counted)
    run = goes_on(rl_run(tmp_path / "rl", steps=4))
    server = serve(run)

    def client(_: int) -> bytes:
        everybody.wait(60)
        return ask(server).body

    with ThreadPoolExecutor(50) as pool:
        (first,) = {*pool.map(client, range(50))}
        assert first.rstrip().endswith(b"</html>")
        assert len(built) == 1
        logs(run, 5)
        assert {*pool.map(client, range(50))} <= {first, ask(server).body}
        assert ask(server).body != first
        assert len(built) == 2


@pytest.mark.usefixtures("at_once")
def test_while_one_builds_the_others_have_the_page_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = goes_on(rl_run(tmp_path / "rl", steps=2))
    followed = Followed([run], interval=0.0)
    before = followed.page()
    building, may_end = threading.Event(), threading.Event()
    build = following.page_to_follow

    def slow(*args: Any, **named: Any) -> Sent:
        building.set()
        assert may_end.wait(60)
        return build(*args, **named)

    monkeypatch.setattr(following, "page_to_follow", slow)
    logs(run, 3)
    with ThreadPoolExecutor(1) as pool:
        newer = pool.submit(followed.page)
        assert building.wait(60)
        assert followed.page() is before
        may_end.set()
        assert newer.result().version not in ("", before.version)
    assert followed.page() is newer.result()


def test_building_takes_a_bounded_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of 10 s, asked for every second while each step is logged."""
    clock, built = SimpleNamespace(now=0.0), []

    def slow(*args: Any, **named: Any) -> Sent:
        built.append(clock.now)
        clock.now += 10
        return Sent("", "", "", {})

    monkeypatch.setattr(following.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(following, "page_to_follow", slow)
    monkeypatch.setattr(following, "stamp_of", lambda folders: str(clock.now))
    followed = Followed([rl_run(tmp_path / "rl", steps=1)])
    while clock.now < 1000:
        followed.page()
        clock.now += 1
    assert len(built) == 10


def test_a_run_that_goes_on_is_followed_and_one_that_does_not_is_not_built_anew(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = goes_on(rl_run(tmp_path / "rl", steps=2))
    server = serve(run)
    first = ask(server)
    assert steps(server, tmp_path) == [1, 2]
    tag = first.headers["ETag"]
    assert tag == f'"{version(server)}"'
    again = ask(server, If_None_Match=f'W/"other", W/{tag}')
    assert (again.status, again.body) == (304, b"")
    logs(run, 3)
    newer = ask(server, If_None_Match=tag)
    assert newer.status == 200
    assert steps(server, tmp_path) == [1, 2, 3]
    assert json.loads(ask(server, "/version").body)["state"] == "Follows the run, which is not finished."
    (run / "DONE").write_text('{"command": "rl"}')
    assert json.loads(ask(server, "/version").body)["state"] == "All is finished."


def test_half_written_lines_and_shards_are_left_out(serve: Serve, tmp_path: Path) -> None:
    run = goes_on(rl_run(tmp_path / "rl", steps=2))
    server = serve(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')
        file.flush()
        (run / "samples" / ".step-000003-00.parquet.1.tmp").write_bytes(b"PAR1")
        (run / "samples" / "step-000003-00.parquet").write_bytes(b"PAR1 half of it")
        assert steps(server, tmp_path) == [1, 2]
        file.write('ard": 0.5}\n')
    (run / "samples" / "step-000003-00.parquet").unlink()
    logs(run, 4)
    assert steps(server, tmp_path) == [1, 2, 4]
    assert '"points":[[1,1.0],[2,0.0],[3,0.5],[4,1.0]]' in ask(server).text


def test_a_run_that_was_killed_and_resumed_is_followed(serve: Serve, tmp_path: Path) -> None:
    """With the run folder's own code: opened, logged, torn by a kill, opened again from a checkpoint."""

    def opened(resume: bool) -> runs.Run:
        config = {"command": "rl", "rl": {"seed": 0}}
        return runs.open_run(tmp_path / "rl", command="rl", config=config, resume=resume)

    (row, *_) = runs.read_samples(rl_run(tmp_path / "other", steps=1)).to_pylist()
    server = serve(tmp_path / "rl")
    assert "Waiting for a run" in ask(server).text
    first = opened(resume=False)
    for step in (1, 2, 3):
        first.log_metrics(step, {"reward": 0.25 * step})
        first.log_samples(step, [row | {"step": step}])
        if step == 2:
            checkpoint = tmp_path / "rl" / "checkpoint-2"
            checkpoint.mkdir()
            (checkpoint / "weights").write_text("as they were at step 2")
            seal_checkpoint(checkpoint)
    assert steps(server, tmp_path) == [1, 2, 3]
    first.close()  # as the system does for a process that was killed
    with (tmp_path / "rl" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rewa')
    assert steps(server, tmp_path) == [1, 2, 3]
    with opened(resume=True) as second:
        assert steps(server, tmp_path) == [1, 2]  # what came after the checkpoint is done again
        for step in (3, 4):
            second.log_metrics(step, {"reward": 0.25 * step})
            second.log_samples(step, [row | {"step": step}])
        assert steps(server, tmp_path) == [1, 2, 3, 4]
        assert '"points":[[1,0.25],[2,0.5],[3,0.75],[4,1.0]]' in ask(server).text
        second.finish()
    assert not shards(tmp_path / "rl")
    assert steps(server, tmp_path) == [1, 2, 3, 4]


# --- What an open page is sent


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5) | st.just("long " * 300),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=4)
        ),
    ),
    st.integers(0, 200),
)
def test_pieces_make_up_what_they_were_cut_from(value: Any, length: int) -> None:
    value = [value, [[value, at] for at in range(length)]]
    root, pieces = split(value)
    assert joined({"§": root}, json.loads(json.dumps(pieces))) == value
    assert split(value) == (root, pieces), "by what is in them alone"


class Reader:
    """A page that is open, as follow.js has it follow; `taken` counts bytes."""

    def __init__(self, server: Server) -> None:
        self.server, self.taken = server, 0
        (text,) = re.findall(r'id="data">(.*?)</script>', ask(server).text, re.S)
        held = json.loads(text)
        self.pieces, self.root = held["pieces"], held["root"]

    def take(self, target: str) -> dict[str, Any]:
        answer = ask(self.server, target, Accept_Encoding="gzip")
        self.taken += len(answer.body)
        is_packed = answer.headers["Content-Encoding"] == "gzip"
        return json.loads(gzip.decompress(answer.body) if is_packed else answer.body)

    def lacking(self, value: Any) -> set[str]:
        if not isinstance(value, dict | list):
            return set()
        parts = [*value.values()] if isinstance(value, dict) else value
        names = (parts[0] if isinstance(parts[0], list) else parts) if "§" in value else []
        below = [self.pieces[name] for name in names if name in self.pieces] if names else parts
        return {name for name in names if name not in self.pieces}.union(*map(self.lacking, below))

    def data(self) -> dict[str, Any]:
        """What the page shows once it has taken over what is new."""
        self.taken = 0
        self.root = self.take("/newer")["root"]
        while lacking := self.lacking({"§": self.root}):
            self.pieces |= self.take(f"/pieces?{','.join(lacking)}")
        return read(self.pieces, self.root)


def of_a_fresh_page(server: Server, tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "fresh.html"
    file.write_bytes(ask(server).body)
    return embedded(file)


def test_an_open_page_has_what_a_fresh_one_has_whatever_becomes_of_the_run(
    serve: Serve, tmp_path: Path
) -> None:
    run = goes_on(rl_run(tmp_path / "rl", steps=130))
    server = serve(run)
    reader = Reader(server)
    assert reader.data() == of_a_fresh_page(server, tmp_path)
    for step in (131, 132):
        logs(run, step)
        assert reader.data() == of_a_fresh_page(server, tmp_path)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]) + lines[-1][:9])  # a kill amid a line
    assert reader.data() == of_a_fresh_page(server, tmp_path)
    (run / "metrics.jsonl").write_text("".join(lines[:90]))  # a resume from step 90
    for shard in shards(run):
        if not 0 < shard_order(shard)[0] <= 90:  # also that of all steps, with which the run was made
            shard.unlink()
    back = reader.data()
    assert back == of_a_fresh_page(server, tmp_path)
    assert max(back["index"]["step"]) == 90
    logs(run, 91)
    assert reader.data() == of_a_fresh_page(server, tmp_path)


@pytest.mark.parametrize("budget", [3_500_000, 60_000], ids=["all samples", "some samples"])
def test_a_step_more_is_a_small_part_of_a_page(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    """Of samples that are as long as a page without them, or of which most are left out."""
    monkeypatch.setattr(building, "SAMPLES_BYTES", budget)
    run = goes_on(
        rl_run(
            tmp_path / "rl", 300, text=lambda step, row: hashlib.sha512(f"{step} {row}".encode()).hexdigest()
        )
    )
    server = serve(run)
    reader = Reader(server)
    had = {*reader.pieces}
    logs(run, 301)
    data = reader.data()
    assert data == of_a_fresh_page(server, tmp_path)
    assert 301 in data["index"]["step"]
    assert len(had & {*reader.pieces}) > 0.8 * len(had)
    assert reader.taken < 60_000 < len(ask(server).body) / 10


def test_pieces_of_the_page_before_are_still_had_and_nothing_else(serve: Serve, tmp_path: Path) -> None:
    run = goes_on(rl_run(tmp_path / "rl", steps=3))
    server = serve(run)
    assert ask(server, "/pieces").text == "{}"
    assert ask(server, "/pieces?a,,../a,%00&token=b").text == "{}"
    root = json.loads(ask(server, "/newer").body)["root"]
    logs(run, 4)
    assert json.loads(ask(server, "/newer").body)["root"] != root
    assert [*json.loads(ask(server, f"/pieces?{root}").body)] == [root]
    logs(run, 5)
    assert ask(server, f"/pieces?{root}").text == "{}"
    shutil.rmtree(run)
    assert json.loads(ask(server, "/newer").body)["root"] != root
    assert ask(serve(tmp_path / "none"), "/newer").text == "{}"


def test_a_run_is_waited_for_and_one_that_went_away_is_remembered(serve: Serve, tmp_path: Path) -> None:
    server = serve(tmp_path / "rl")
    waiting = ask(server)
    assert waiting.status == 200
    assert f"{tmp_path}/rl: no such folder" in waiting.text
    (tmp_path / "rl").mkdir()
    assert "has no environment.json" in ask(server).text
    (tmp_path / "rl").rmdir()
    run = rl_run(tmp_path / "rl", steps=2)
    assert steps(server, tmp_path) == [1, 2]
    before = version(server)
    shutil.rmtree(run)
    told = json.loads(ask(server, "/version").body)
    assert told["version"] == before
    assert told["state"].startswith(f"As it was before: {run}: no such folder")
    rl_run(tmp_path / "rl", steps=3)
    assert steps(server, tmp_path) == [1, 2, 3]


def test_a_folder_of_runs_is_followed_as_they_come(serve: Serve, tmp_path: Path) -> None:
    goes_on(rl_run(tmp_path / "demo" / "rl", steps=1))
    server = serve(tmp_path / "demo")
    assert json.loads(ask(server, "/version").body)["state"] == "Follows the run, which is not finished."
    evaluation(tmp_path / "demo" / "eval", scores=[1, 0])
    assert json.loads(ask(server, "/version").body)["state"].startswith("Follows 1 of 2 runs")
    assert "<summary>eval: eval</summary>" in ask(server).text


def test_a_fault_of_ours_is_told_and_ends_nothing(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(rl_run(tmp_path / "rl", steps=1))
    with monkeypatch.context() as broken:
        broken.setattr(following, "page_to_follow", lambda *args, **named: {}["a fault"])
        assert ask(server).status == 500
    assert ask(server).status == 200
    assert "KeyError: 'a fault'" in capsys.readouterr().err


TARGETS = (
    "/../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd", "/..\\..\\etc\\passwd",
    "/%252e%252e%252fetc%252fpasswd", "/etc/passwd", "//etc/passwd", "/./", "/version/", "/version/../",
    "/metrics.jsonl", "/samples.parquet", "/favicon.ico", "/index.html", "/%00", "http://localhost/", "*",
)  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_but_the_page_is_there(serve: Serve, tmp_path: Path, target: str) -> None:
    answer = ask(serve(rl_run(tmp_path / "rl", steps=1)), target)
    assert (answer.status, answer.text) == (404, "There is nothing here; the page is at /.\n")


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:{port}", "localhost", "localhost:1", "localhost:{port}.evil.example",
     "localhost.evil.example:{port}", "127.0.0.1.evil.example:{port}", "[::1", "[::1]:1", "10.0.0.1:{port}",
     "localhost:{port}, evil.example", "@localhost:{port}"],
)  # fmt: skip
def test_foreign_hosts_are_refused(serve: Serve, tmp_path: Path, host: str) -> None:
    server = serve(rl_run(tmp_path / "rl", steps=1))
    for target in ("/", "/version", "/newer", "/pieces", "/nothing"):
        answer = ask(server, target, Host=host.format(port=server.port))
        assert (answer.status, "tiny" in answer.text) == (403, False)


@pytest.mark.parametrize("host", ["localhost:{port}", "LOCALHOST:{port}", "127.0.0.1:{port}", "[::1]:{port}"])
def test_its_own_hosts_are_answered(serve: Serve, tmp_path: Path, host: str) -> None:
    server = serve(rl_run(tmp_path / "rl", steps=1))
    assert ask(server, Host=host.format(port=server.port)).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_other_methods_are_refused(serve: Serve, tmp_path: Path, method: str) -> None:
    answer = ask(serve(rl_run(tmp_path / "rl", steps=1)), "/", method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_head_is_get_without_a_body(serve: Serve, tmp_path: Path) -> None:
    server = serve(rl_run(tmp_path / "rl", steps=1))
    whole, head = ask(server), ask(server, "/", "HEAD")
    assert (head.status, head.body) == (200, b"")
    for name in ("ETag", "Content-Length", "Content-Type"):
        assert head.headers[name] == whole.headers[name]


def test_nonsense_is_answered_in_a_line(serve: Serve, tmp_path: Path) -> None:
    server = serve(rl_run(tmp_path / "rl", steps=1))
    for sent in (b"\x16\x03\x01\x00\xee\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET " + b"a" * 70_000):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(sent + b"\r\n\r\n")
            assert b"Traceback" not in connection.recv(10_000)
    assert ask(server).status == 200


def test_what_is_sent_along(serve: Serve, tmp_path: Path) -> None:
    answer = ask(serve(rl_run(tmp_path / "rl", steps=1)))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', answer.text)
    assert "default-src &#39;none&#39;" in policy
    assert policy.endswith("connect-src &#39;self&#39;")
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert "Python" not in answer.headers["Server"]


# --- Bound elsewhere


def test_here_no_token_is_asked_for(serve: Serve, tmp_path: Path) -> None:
    server = serve(tmp_path)
    assert (server.token, server.address) == (None, f"http://localhost:{server.port}/")


def test_elsewhere_nobody_is_answered_without_the_token(serve: Serve, tmp_path: Path) -> None:
    server = serve(rl_run(tmp_path / "rl", steps=1), host="0.0.0.0")
    assert server.token
    assert len(server.token) >= 32
    assert server.address == f"http://{socket.gethostname()}:{server.port}/?token={server.token}"
    cookie, elsewhere = f"prl-{server.port}", f"prl-{server.port + 1}={server.token}"
    for target in ("/", "/version", "/nothing", "/?token=", "/?token=wrong", f"/?token={server.token}x",
                   f"/?token={server.token[:-1]}", "/?token=%C3%A9%00", "/version?token=wrong", "/newer",
                   "/pieces?a"):  # fmt: skip
        for sent in ("", f"{cookie}=", f"{cookie}=wrong", elsewhere, "; ;=;"):
            answer = ask(server, target, Cookie=sent)
            assert (answer.status, "tiny" in answer.text) == (403, False)
    led = ask(server, f"/?token={server.token}")
    assert (led.status, led.headers["Location"], led.body) == (303, "/", b"\n")
    kept, *rest = led.headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Lax"} <= {*rest}
    assert ask(server, "/", Cookie=f"a=b; {kept}").status == 200
    assert ask(server, "/version", Cookie=kept).status == 200
    assert ask(server, f"/version?token={server.token}").status == 200
    assert ask(server, "/nothing", Cookie=kept).status == 404
    for other in ("old", "x%0d%0aX-Injected:%20yes", f"{server.token}%0d%0aa:b"):
        answer = ask(server, f"/?token={other}", Cookie=kept)
        assert (answer.status, answer.headers.get("Set-Cookie"), answer.headers.get("X-Injected")) == (
            200, None, None,
        )  # fmt: skip
    assert server.token not in ask(server, "/", Cookie=kept).text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("10.1.2.3:{port}", 403),
        ("[fe80::1]:{port}", 403),
        ("{own}:{port}", 403),
        ("evil.example:{port}", 403),
    ],
)
def test_a_name_is_no_token_and_a_token_no_name(serve: Serve, tmp_path: Path, host: str, status: int) -> None:
    """An address is what it says, so a server bound to all of them answers to any; a name of somebody
    else's could have been turned to this machine."""
    server = serve(rl_run(tmp_path / "rl", steps=1), host="0.0.0.0")
    sent = host.format(port=server.port, own=socket.gethostname())
    assert ask(server, Host=sent).status == status
    kept = f"prl-{server.port}={server.token}"
    assert ask(server, Host=sent, Cookie=kept).status == (403 if "evil" in host else 200)


# --- The command


def test_the_flags_of_a_file_and_those_of_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "--serve", "runs/a", "-o", "a.html"]) == 2
    assert "output a.html: --serve writes no file" in capsys.readouterr().err
    assert cli.main(["report", "runs/a", "--port", "1", "--host", "a"]) == 2
    said = capsys.readouterr().err
    assert "host a: where --serve is reached" in said
    assert "port 1: where --serve is reached" in said
    assert cli.main(["report", "--serve", "runs/a", "--port", "70000"]) == 2
    assert "must be from 0 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["--serve", "a", "b"], ["a", "b", "--serve"], ["a", "--serve", "b"], ["a", "b", "--serve", "yes"]],
)
def test_runs_may_stand_behind_the_switch(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from prl.report.page import serving

    served: list[Any] = []
    monkeypatch.setattr(serving, "serve", lambda *args, **named: served.append(args))
    assert cli.main(["report", *words]) == 0
    assert served == [(["a", "b"], "localhost", 8040)]


def test_a_port_or_host_that_cannot_be_had_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["report", "--serve", "a", "--host", "127.0.0.1", "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert said == (
        f"prl report: port {port}: Address already in use; choose another --port, or 0 for any that is free\n"
    )
    for host in ("192.0.2.1", "no such host", "a" * 70):
        assert cli.main(["report", "--serve", "a", "--host", host, "--port", "0"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("prl report: host ")
        assert "--host" in said
        assert said.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
def test_ctrl_c_ends_it_in_a_line(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "prl", "report", "--serve", str(tmp_path / "rl"), "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert process.stderr.readline().startswith(f"waiting for a run: {tmp_path / 'rl'}: no such folder")
        (port,) = re.findall(r"^serving http://localhost:(\d+)/  \(Ctrl-C", process.stderr.readline())
        connection = http.client.HTTPConnection("localhost", int(port), timeout=60)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "no longer serving\n"
    assert process.returncode == 0


def test_stamps_are_of_what_a_page_reads(tmp_path: Path) -> None:
    run = goes_on(rl_run(tmp_path / "rl", steps=1))
    seen = [stamp_of([run])]
    (run / "samples" / ".step-000009-00.parquet.1.tmp").write_bytes(b"amid writing")
    (run / "checkpoint-1").mkdir()
    assert stamp_of([run]) == seen[0]
    logs(run, 2)
    seen.append(stamp_of([run]))
    with (run / "metrics.jsonl").open("a") as file:
        file.write("{")
    seen.append(stamp_of([run]))
    (run / "DONE").write_text("{}")
    seen.append(stamp_of([run]))
    shutil.rmtree(run)
    seen.append(stamp_of([run]))
    assert len({*seen}) == 5

"""A Python that has imported the heavy libraries already, for tests that start it often.

`[*launcher(), "-m", "prl", ...]` stands where `[sys.executable, "-m", "prl", ...]` would. It starts a small
client (tests/warm_client.py), which hands words, folder, environment and the files 0, 1 and 2 to a server.
That forks, and the client ends as the fork ends. It hands on SIGINT and SIGTERM; where it is killed, its
process is too, a moment later. prl itself is imported by each process as ever.

Not for tests of a start: of imports and their cost, of a process's id, group or memory. Processes of one
server share its hash seed, so where a test compares runs, one of them starts cold. What libraries read from
the environment while they are imported has to be as it was for the server; else a process starts cold.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import marshal
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import process
from pathlib import Path
from types import ModuleType

from warm_client import STATUS

HERE = Path(__file__).resolve().parent
READ_AT_IMPORT = (
    *(b"CUDA", b"DATASETS", b"GOMP", b"HF_", b"KMP", b"LANG", b"LC_", b"LD_", b"MALLOC", b"MKL", b"OMP"),
    *(b"OPENBLAS", b"PYTHON", b"PYTORCH", b"TORCH", b"TRANSFORMERS"),
)
"""How the names of variables begin that an interpreter or a library reads once."""

LIBRARIES = (
    *("numpy", "pandas", "pyarrow.parquet", "yaml", "rich.console", "rich.progress", "safetensors.torch"),
    *("torch", "torch.utils.data", "transformers", "transformers.models.qwen3.modeling_qwen3", "datasets"),
    *("accelerate", "peft", "trl", "trl.trainer.sft_trainer", "trl.trainer.grpo_trainer"),
)

_servers: list[Server] = []


def launcher() -> tuple[str, ...]:
    """The words that start a Python, in the place of `sys.executable`. The first call starts the server."""
    if not hasattr(os, "pidfd_open"):  # of Linux
        return (sys.executable,)
    if not _servers:
        _servers.append(Server())
    return _servers[0].words


def end() -> None:
    """End the server and all that runs in it, if there is one."""
    while _servers:
        _servers.pop().end()


class Server:
    """A process that has imported these libraries. `end`, or the end of this one, ends what runs in it."""

    def __init__(self, libraries: Sequence[str] = LIBRARIES) -> None:
        # Not pytest's folder: the path of a socket has 107 bytes at most.
        self.folder = tempfile.TemporaryDirectory(prefix="prl-warm-")
        where = str(Path(self.folder.name, "socket"))
        self.words = (sys.executable, "-I", "-S", str(HERE / "warm_client.py"), where)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(where)
            listener.listen(64)
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno()), *libraries],
                stdin=subprocess.PIPE,  # it ends once nobody holds the other end
                stdout=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                cwd=HERE,
                # One thread, so that there is no second one when it forks.
                env={"OMP_NUM_THREADS": "1"} | os.environ,
                start_new_session=True,  # Ctrl-C reaches a process through its client, once
            )

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


# --- In the server


def serve(listener: socket.socket, libraries: Sequence[str]) -> None:
    """Fork for each client, until stdin ends. Returns in what is forked, once it has run."""
    known = read_at_import(os.environb)
    said = os.dup(2)
    os.dup2(1, 2)  # what libraries say while they are imported
    for library in libraries:
        importlib.import_module(library)
    os.dup2(said, 2)
    os.close(said)
    gc.collect()
    gc.freeze()  # else the first collection of each process copies all pages
    running = set()
    while 0 not in (ready := select.select([0, listener], [], [])[0]):
        running -= {pid for pid in running if os.waitpid(pid, os.WNOHANG)[0]}
        if listener in ready:
            connection, _ = listener.accept()
            if pid := os.fork():
                connection.close()
                running.add(pid)
                continue
            listener.close()
            run(*supervised(connection), known)
            return
    for pid in running:
        os.waitpid(pid, 0)


def read_at_import(environment: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_IMPORT)}


def supervised(connection: socket.socket) -> tuple[tuple[str, ...], str, dict[bytes, bytes]]:
    """Fork once more, and return the client's request there, with its files. Here wait until one ends."""
    said, files, *_ = socket.recv_fds(connection, STATUS.size, 3)
    missing = STATUS.unpack(said)[0] if said else os._exit(0)
    parts = []
    while missing:
        parts.append(connection.recv(missing) or os._exit(0))
        missing -= len(parts[-1])
    if child := os.fork():
        for file in files:
            os.close(file)
        watch(child, connection)
    connection.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    return marshal.loads(b"".join(parts))


def watch(child: int, connection: socket.socket) -> None:
    """Hand signals on to the child, and say how it ended. Does not return."""
    ended = os.pidfd_open(child)
    while ended not in (ready := select.select([ended, connection, 0], [], [])[0]):
        number = b""
        if 0 not in ready:
            with contextlib.suppress(ConnectionResetError):
                number = connection.recv(1)
        os.kill(child, number[0] if number else signal.SIGKILL)
        if not number:
            break
    status = os.waitpid(child, 0)[1]
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(STATUS.pack(status))
    os._exit(0)


def run(
    words: tuple[str, ...], folder: str, environment: dict[bytes, bytes], known: dict[bytes, bytes]
) -> None:
    """What `python WORDS` does, in this process."""
    os.chdir(folder)
    if read_at_import(environment) != known:
        os.execve(sys.executable, [sys.executable, *words], environment)
    os.environ.clear()
    os.environb.update(environment)
    process.ORIGINAL_DIR = folder
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # else each draws what the others do
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    first, *sys.argv = words
    if first == "-m":
        name, sys.argv[0], sys.path[0] = sys.argv[0], "-m", folder
        runpy._run_module_as_main(name)
        return
    if first == "-c":
        code, sys.argv[0], sys.path[0] = compile(sys.argv[0], "<string>", "exec"), "-c", ""
    else:
        sys.argv.insert(0, first)
        main.__file__, sys.path[0] = str(Path(first).absolute()), str(Path(first).resolve().parent)
        code = compile(Path(first).read_bytes(), main.__file__, "exec")
    exec(code, main.__dict__)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])

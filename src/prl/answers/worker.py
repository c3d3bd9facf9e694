"""A worker process: pairs come in on standard input, verdicts go out on standard output.

Frames are a four-byte length and JSON: nothing is unpickled on either side. Started by `pool.Worker`; has no
other use.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import struct
import sys
import threading
from pathlib import Path
from typing import IO

HEADER = struct.Struct(">I")
MAX_FRAME = 1 << 20
NEAR_THE_CAP = 16 << 20  # bytes: twice a thread's stack, the largest thing that the start asks for at once
# latex2sympy2's parser builds its tables at the first expression of each form, sympy's solver at the first
# relation; that is part of the start.
WARM_UP = [r"x^2-3xy+1", r"(x+1)(y-2)", r"\frac{-1+\sqrt{5}}{2}", r"2\sin x\cos 2y", r"e^{x+1}-\ln y"]
WARM_UP += [r"\sqrt[3]{x}+|y|", r"-\pi r^2", r"\frac{1}{x+1}", "n!", r"\sin(x+y)"]


def send(stream: IO[bytes], message: object) -> None:
    """Write one frame."""
    body = json.dumps(message).encode()
    stream.write(HEADER.pack(len(body)) + body)
    stream.flush()


def receive(stream: IO[bytes]) -> dict[str, object] | None:
    """Read one frame; None at the end of the stream or when it is cut."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (length,) = HEADER.unpack(header)
    body = stream.read(length) if length <= MAX_FRAME else b""
    return json.loads(body) if len(body) == length else None


def main() -> None:
    """Serve until killed, or standard input ends. Arguments: seconds a pair may take, memory cap in bytes."""
    deadline, memory = float(sys.argv[1]), int(sys.argv[2])
    reader, writer = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a stray print must not break a frame
    _cap_memory(memory)
    try:
        from prl.answers import algebra
        from prl.answers.judging import judge
        from prl.answers.reading import read

        for text in WARM_UP:
            algebra.equal(read(text).text, f"{read(text).text}+1")
        algebra.solve((read(r"\sqrt{x}").text, "2"), "<")
    except BaseException as error:  # whatever a broken library raises, SystemExit too: the parent tells it
        send(writer, {"fault": f"{type(error).__name__}: {error}"[:300], "full": _is_full(error, memory)})
        raise
    requests: queue.SimpleQueue[dict[str, object]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(reader, requests), daemon=True).start()
    send(writer, {"ready": os.getpid()})
    while request := requests.get():
        # The parent kills this process at the deadline. Should the parent be gone while one call into C holds
        # the GIL, `_listen` cannot see that; this timer ends the process then, as it needs no GIL.
        faulthandler.dump_traceback_later(6 * deadline + 5, exit=True, file=sys.stderr)
        try:
            verdict = judge(str(request["pred"]), str(request["gold"]), algebra)
            answer = {"equal": verdict.equal, "reason": verdict.reason, "detail": verdict.detail}
        except MemoryError:
            answer = {"equal": False, "reason": "crashed", "detail": "out of memory", "retire": True}
        except Exception as error:  # a fault of ours, or of a library on a strange text: one pair's loss
            answer = {"equal": False, "reason": "crashed", "detail": f"{type(error).__name__}: {error}"[:200]}
        finally:
            faulthandler.cancel_dump_traceback_later()
        send(writer, answer)


def _listen(reader: IO[bytes], requests: queue.SimpleQueue[dict[str, object]]) -> None:
    """Pass requests on. The end of the input, when the parent closes it or dies, ends the process at once."""
    try:
        while request := receive(reader):
            requests.put(request)
    finally:
        os._exit(0)


def _cap_memory(limit: int) -> None:
    """Cap the address space where the system can: Linux does, macOS ignores it, Windows has no `resource`.

    Elsewhere the size limits of `limits` and the deadline bound what a pair can use.
    """
    try:
        import resource
    except ImportError:
        return
    try:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ValueError, OSError):
        return


def _is_full(error: BaseException, limit: int) -> bool:
    """Whether memory is what the start lacked. An interpreter that runs into its cap says so with a
    MemoryError at best: as often with a SystemError, or an ImportError of whatever module came next."""
    try:
        status = Path("/proc/self/status").read_text()
        peak = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmPeak"))
    except (MemoryError, SystemError):
        return True
    except (OSError, StopIteration):  # not Linux: nothing is capped there
        peak = 0
    return isinstance(error, MemoryError) or peak + NEAR_THE_CAP > limit


if __name__ == "__main__":
    main()

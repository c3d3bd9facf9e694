"""The command of tests/warm.py: SOCKET WORD ... It imports little, because it is what each start costs."""

import marshal
import os
import signal
import socket
import struct
import sys

STATUS = struct.Struct("<i")


def main(where: str, *words: str) -> None:
    """Have the server run a Python with these words, and end as that ends."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(where)
    request = marshal.dumps((words, os.getcwd(), dict(os.environb)))  # noqa: PTH109 (pathlib takes long)
    socket.send_fds(connection, [STATUS.pack(len(request))], [0, 1, 2])
    connection.sendall(request)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: connection.sendall(bytes([number])))
    for file in (0, 1, 2):  # a pipe is at its end once the process is, or closes it
        os.dup2(connection.fileno(), file)
    said = connection.recv(STATUS.size)
    status = STATUS.unpack(said)[0] if said else signal.SIGKILL
    if os.WIFSIGNALED(status):
        end_by(os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


def end_by(number: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # what there is to see is in the other's
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A program, not a module: it runs one exercise of a submission, and answers the inputs that it is sent.

    python -I -S runner.py OUT

On stdin: a line of JSON with `source` and `name`, then for each case a line with `arguments`. On the
descriptor OUT first `ready`, then for each of these lines one with a `value` or an `error`. Whatever the
submission does to this interpreter, it can only make its own answers wrong.
"""

import json
import os
import sys

LONGEST_ANSWER = 50_000
LONGEST_ERROR = 300


def main() -> None:
    out, dumps, loads, write = int(sys.argv[1]), json.dumps, json.loads, os.write
    lines = open(0, "rb", closefd=False)  # noqa: SIM115

    def answer(**said: object) -> None:
        try:
            line = dumps(said)
        except BaseException as error:
            line = dumps({"error": f"the answer is no plain value ({type(error).__name__})"})
        if len(line) > LONGEST_ANSWER:
            line = dumps({"error": f"an answer of {len(line)} characters"})
        write(out, line.encode() + b"\n")

    def failed(error: BaseException) -> str:
        try:
            return f"{type(error).__name__}: {error}"[:LONGEST_ERROR]
        except BaseException:
            return "an exception that cannot be shown"

    write(out, b"ready\n")
    first = loads(lines.readline())
    space: dict[str, object] = {"__name__": "submission"}
    try:
        exec(compile(first["source"], "submission", "exec"), space)
        function = space[first["name"]]
    except BaseException as error:
        answer(error=failed(error))
        return
    answer(value=callable(function))
    while line := lines.readline():
        try:
            value = function(*loads(line)["arguments"])  # type: ignore[operator]
        except BaseException as error:
            answer(error=failed(error))
        else:
            answer(value=value)


if __name__ == "__main__":
    main()

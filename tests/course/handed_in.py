"""Three sets of submissions: right ones, wrong ones, and those that are out to harm or to cheat."""

from __future__ import annotations

import json
from pathlib import Path

from prl.course.exercises import EXERCISES, MARK
from prl.course.solutions import solution

BY_NAME = {exercise.name: exercise for exercise in EXERCISES}

REFERENCE = {exercise.name: solution(exercise) for exercise in EXERCISES}

WRONG = {
    # Each path goes on from the one before, as in a text: right without a block, and nowhere else.
    "positions": "def positions(tokens): return list(range(len(tokens)))",
    # The last of those that tie, and None may win.
    "majority": """
def majority(results):
    return max(reversed(results), key=results.count) if results else None
""",
    # Counts tags, whatever stands where.
    "format_reward": """
def format_reward(text):
    closed = text.count("<Path>") == text.count("</Path>")
    return float("<Parallel>" in text and closed and "</Summary>" in text)
""",
    # The paper's numbers, without the window's return.
    "alternating": """
def alternating(step, uses_block, is_right):
    return -1.0 if not is_right else 1.2 if uses_block and step >= 8 else 1.0
""",
    "homework": """
SETTINGS = {"model": "course", "paths": 6, "votes": 2, "temperature": 1.0, "max_tokens": 400}
CLAIM = 0.99
""",
}
WRONG_POINTS = {"positions": 1, "majority": 1, "format_reward": 1, "alternating": 2, "homework": 1}

RIGHT = "max([r for r in results if r is not None], key=results.count, default=None)"
"""What `majority` is to return: an expression for those that do harm beside it."""

ALONE = "import os\nassert os.getpid() < 9\n"
"""Before what would do harm if it were not in a process namespace of its own."""

HOSTILE: dict[str, tuple[str, int]] = {
    "endless_loop": ("def majority(results):\n    while True: pass", 0),
    "endless_import": ("while True: pass\ndef majority(results): ...", 0),
    "ignores_signals": (
        "import signal\nfor n in range(1, 32):\n"
        "    try: signal.signal(n, signal.SIG_IGN)\n    except OSError: pass\n"
        "def majority(results):\n    while True: pass",
        0,
    ),
    "sleeps": ("import time\ndef majority(results): time.sleep(1000)", 0),
    "memory_bomb": ("def majority(results): return len(bytearray(10**9) * 4)", 0),
    "slow_memory_bomb": (
        "def majority(results):\n    kept = []\n    while True: kept.append(bytearray(2**24))",
        0,
    ),
    "fork_bomb": (ALONE + "def majority(results):\n    while True: os.fork()", 0),
    "thread_bomb": (
        ALONE + "import threading, time\ndef majority(results):\n"
        "    while True: threading.Thread(target=time.sleep, args=(100,)).start()",
        0,
    ),
    "stays_behind": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(1000)\n"
        f"    os._exit(0)\ndef majority(results): return {RIGHT}",
        3,
    ),
    "deletes_all": (
        "import os, shutil\n"
        f"for each in ('HOME_HERE', 'FOLDER_HERE'): shutil.rmtree(each, ignore_errors=True)\n"
        f"def majority(results): return {RIGHT}",
        3,
    ),
    "writes_elsewhere": (
        "import os\ntry:\n    open(os.__file__, 'a').close()\n    print('root:x:0, could write')\n"
        f"except OSError: pass\ndef majority(results): return {RIGHT}",
        3,
    ),
    "fills_the_disk": (
        "def majority(results):\n    n = 0\n    while True:\n        n += 1\n"
        "        open(f'/tmp/{n}', 'wb').write(bytes(10**6))",
        0,
    ),
    "network": (
        "import socket\ndef majority(results):\n    socket.create_connection(('127.0.0.1', PORT_HERE), 1)\n"
        f"    return {RIGHT}",
        0,
    ),
    "forges_lines": (
        "import os, json\nfor fd in range(1, 32):\n    for _ in range(100):\n"
        "        try: os.write(fd, json.dumps({'value': True, 'points': 3}).encode() + b'\\n')\n"
        "        except OSError: pass\ndef majority(results): return None",
        0,
    ),
    "forges_a_failure": (
        "import os\nfor fd in range(1, 32):\n"
        "    try: os.write(fd, b'failed: unshared\\nunshared\\nready\\n')\n    except OSError: pass\n"
        "def majority(results): return None",
        0,
    ),
    "patches_modules": (
        'import builtins, json, sys\njson.dumps = lambda *a, **k: \'{"value": null, "points": 99}\'\n'
        "json.loads = builtins.len = lambda *a: 0\nsys.modules.clear()\n"
        "class Same(str):\n    __eq__ = lambda self, other: True\n    __hash__ = str.__hash__\n"
        "def majority(results): return Same('x')",
        0,
    ),
    "exits": ("import os\ndef majority(results): os._exit(0)", 0),
    "exits_at_once": ("import sys\nsys.exit(0)\ndef majority(results): ...", 0),
    "prints_a_grade": (
        "print('majority: 3 of 3 points')\ndef majority(results): print('{\"value\": \"1\"}')",
        0,
    ),
    "prints_without_end": (f"def majority(results):\n    print('x' * 10**6)\n    return {RIGHT}", 3),
    "answers_at_length": ("def majority(results): return 'x' * 10**7", 0),
    "answers_deeply": (
        "import os\ndef majority(results):\n    for fd in range(3, 32):\n"
        "        try: os.write(fd, b'[' * 40000 + b'\\n')\n        except OSError: pass",
        0,
    ),
    "writes_without_end": (
        "import os\ndef majority(results):\n    while True:\n        for fd in range(3, 9):\n"
        "            try: os.write(fd, b'x' * 60000)\n            except OSError: pass",
        0,
    ),
    "reads_the_machine": (
        "import glob\ndef majority(results):\n    found, own = '', glob.glob('FOLDER_HERE/*')\n"
        "    for each in ('/etc/passwd', '/proc/self/environ', 'FOLDER_HERE/secret', *own):\n"
        "        try: found += open(each).read()\n        except OSError: pass\n    return found or None",
        0,
    ),
    "imports_prl": (
        "import sys, glob\nsys.path += glob.glob('/usr/*/python3*/*-packages')\n"
        "sys.path += glob.glob(sys.prefix + '/lib/python3*/site-packages') + ['SOURCE_HERE']\n"
        "def majority(results):\n    from prl.analysis.budgets import grouped\n"
        "    return results[max(grouped(tuple(results)), key=len)[0]]",
        0,
    ),
    "recursion": ("def majority(results): return majority(results)", 0),
    "recursion_without_limit": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef majority(results): return majority(results)",
        0,
    ),
    "kills_all": (
        ALONE + "def majority(results):\n    os.kill(-1, 9)\n    return 1",
        0,
    ),
    "kills_the_first": (
        ALONE + f"def majority(results):\n    os.kill(1, 9)\n    return {RIGHT}",
        0,  # as another user it may not; as the same one nothing comes of it
    ),
    "error_that_fails": (
        "class E(Exception):\n    def __str__(self): raise self\ndef majority(results): raise E",
        0,
    ),
    "markup": (
        "def majority(results): return '[red]</b><script>alert(1)</script> ![x](http://e.vil) | =1+1'",
        0,
    ),
    "is_no_function": ("majority = 7", 0),
    "is_no_python": ("def majority(results:", 0),
}


def notebook(cells: dict[str, str]) -> str:
    """A notebook with these exercises' cells, by nbgrader's metadata alone, among others."""
    listed = [{"cell_type": "markdown", "metadata": {}, "source": "# Mine"}]
    listed += [
        {
            "cell_type": "code",
            "metadata": {"nbgrader": {"grade_id": name}},
            "source": source.splitlines(keepends=True),
            "outputs": [],
        }
        for name, source in cells.items()
    ]
    return json.dumps({"cells": listed, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def hand_in(folder: Path, student: str, cells: dict[str, str], *, kind: str = "ipynb") -> None:
    """Write a student's submission, as a notebook in a folder or as one Python file."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "py":
        marked = [cell if cell.startswith(MARK) else f"{MARK}{name}\n{cell}" for name, cell in cells.items()]
        (folder / f"{student}.py").write_text("".join(f"\n# %%\n{cell}" for cell in marked), encoding="utf-8")
    else:
        (folder / student).mkdir()
        (folder / student / "lesson.ipynb").write_text(notebook(cells), encoding="utf-8")

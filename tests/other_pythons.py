"""Run the tests that need no torch on the Pythons beside the one of `.venv`; `make test-pythons` does.

Each is found by its name or through pyenv, and gets a small venv in `.cache`. The last line says on which the
tests passed, and which are missing. Exit status 1 where a test fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSIONS = ("3.12", "3.13")
NEEDS = [
    "filelock", "hypothesis", "latex2sympy2", "numpy", "psutil", "pytest", "pytest-timeout", "pytest-xdist",
    "pyyaml",
]  # fmt: skip
PURE = (
    "analysis", "budgets", "credit", "curriculum", "data_rows", "examples", "grammar", "prompts", "rewards",
    "statistics", "turns",
)  # fmt: skip
TRACES = ("asking", "journal", "modes")
TESTS = [
    "tests/answers",
    *(f"tests/test_{name}.py" for name in PURE),
    *(f"tests/traces/test_{name}.py" for name in TRACES),
]
ROOT = Path(__file__).resolve().parents[1]


def found(version: str) -> str | None:
    """An interpreter of `version` that can make a venv; a name of pyenv's alone may lead nowhere."""
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [shutil.which(f"python{version}"), *sorted(versions.glob(f"{version}.*/bin/python"))]
    check = f"import ensurepip, sys; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", check], capture_output=True).returncode == 0:
            return str(candidate)
    return None


def prepared(version: str, interpreter: str) -> Path:
    """The Python of a venv with what the tests need, as pinned; made again when the pins have changed."""
    pins = ROOT / "constraints.txt"
    folder = ROOT / ".cache" / f"python-{version}"
    python, stamp = folder / "bin" / "python", folder / "installed"
    wanted = f"{NEEDS}\n{pins.read_text(encoding='utf-8')}"
    if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted):
        subprocess.run([interpreter, "-m", "venv", "--clear", folder], check=True)
        install = [python, "-m", "pip", "install", "--disable-pip-version-check", "-q", "-c", pins, *NEEDS]
        subprocess.run(install, check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def main(options: list[str]) -> int:
    """Run pytest with `options` on each version; return the exit status."""
    said, failed = [], False
    for version in VERSIONS:
        if interpreter := found(version):
            python = prepared(version, interpreter)
            print(f"--- Python {version}: the tests that need no torch", flush=True)
            command = [python, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-m", "not slow and not real"]
            done = subprocess.run(
                [*command, *TESTS, *options],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            )
            failed |= done.returncode != 0
            said.append(f"{version} {'failed' if done.returncode else 'passed'}")
        else:
            said.append(f"{version} is missing, nothing was run on it")
    print(f"tests without torch: Python {'; '.join(said)}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

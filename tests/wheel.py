"""What somebody has who installed prl: `make wheel-test`.

Builds the wheel, installs it into an environment that has nothing else, and runs docs/tutorial.md, command by
command, from an empty folder: each prints what the page shows. Then what `ALSO` lists. The repository is on
no path. The environment stays in `.cache` and is made again when pins or dependencies change; only the wheel
is new each time.

    --keep         leave the folder of the runs, and say where it is
    --notebooks    also install the extra `notebooks`, beside it, and ask Jupyter for its version
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path

from printed import missing, shown

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".cache" / f"wheel-{sys.version_info[0]}.{sys.version_info[1]}"
BIN = "Scripts" if os.name == "nt" else "bin"
MOST_MB = 15

ALSO = (
    "prl --version",
    "prl recipes",
    'prl answers explain "\\frac{1}{2}" 0.5',
    "prl recipes cp tiny mine.yaml",
    "prl recipes validate mine.yaml",
    "prl course new class/ada --student ada",
    "prl course grade class --personal",
)
"""Commands that the tutorial has not."""


def told(command: list[str | Path], **given: object) -> subprocess.CompletedProcess[str]:
    """Run `command`; what it says is shown only where it fails, which ends the test."""
    done = subprocess.run(
        [*map(str, command)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **given
    )  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"{shlex.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done


def built(folder: Path) -> Path:
    """The one wheel: pure Python, small enough, with what is no code."""
    shutil.rmtree(folder, ignore_errors=True)
    told([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT])
    (wheel,) = folder.iterdir()
    size = wheel.stat().st_size / 1e6
    if not wheel.name.endswith("-py3-none-any.whl") or size > MOST_MB:
        sys.exit(f"{wheel.name}, {size:.1f} MB: the wheel is to be pure and of at most {MOST_MB} MB")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {"prl/py.typed", "prl/recipes/24gb.yaml", "prl/tiny/base/model.safetensors"}
    if missing := wanted - names:
        sys.exit(f"{wheel.name} lacks {', '.join(sorted(missing))}")
    print(f"{wheel.name}: {size:.1f} MB")
    return wheel


def environment(wheel: Path) -> Path:
    """An environment with the wheel and what it asks for, no more."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    stamp, wanted = HOME / "installed", f"{sys.version}\n{asked}\n{pins}"
    python = HOME / BIN / "python"
    install: list[str | Path] = [python, "-m", "pip", "install", "--disable-pip-version-check", "-q"]
    if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted):
        told([sys.executable, "-m", "venv", "--clear", HOME])
        told([*install, "-c", ROOT / "constraints.txt", wheel])
        stamp.write_text(wanted, encoding="utf-8")
    else:
        told([*install, "--no-deps", "--force-reinstall", wheel])
    told([python, "-m", "pip", "check"])
    return python


def run_all(python: Path, folder: Path) -> None:
    """The commands, one after the other, from `folder`, with neither the repository nor a hub in reach."""
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    env |= {"PATH": f"{python.parent}{os.pathsep}{env['PATH']}", "HF_HUB_OFFLINE": "1", "COLUMNS": "110"}
    found = told([python, "-c", "import prl; print(prl.__file__)"], cwd=folder, env=env).stdout.strip()
    if not Path(found).is_relative_to(HOME):
        sys.exit(f"prl is imported from {found}, not from the wheel in {HOME}")
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    for commands, text in (*shown(page), (ALSO, "")):
        printed = ""
        for command in commands:
            start, before = time.monotonic(), os.times()
            _, *words = shlex.split(command)
            printed += told([python.parent / "prl", *words], cwd=folder, env=env).stdout
            after = os.times()
            cpu = after.children_user + after.children_system - before.children_user - before.children_system
            print(f"{time.monotonic() - start:6.1f} s, CPU {cpu:5.1f} s  {command}", flush=True)
        if line := missing(text, printed):
            sys.exit(f"docs/tutorial.md shows {line!r}, which was not printed there:\n{printed}")
    pages = [*folder.rglob("report.html")]
    done = {path.parent.name for path in folder.rglob("DONE")}
    if not pages or not {"sft", "rl", "eval"} <= done:
        sys.exit(
            f"the tutorial left runs {sorted(done)} and pages {pages}: one of sft, rl and eval is missing"
        )


def open_jupyter(wheel: Path) -> None:
    """The extra `notebooks` beside the environment, which keeps only what prl itself asks for."""
    beside = HOME.with_name(f"{HOME.name}-notebooks")
    told([sys.executable, "-m", "venv", "--clear", beside])
    python = beside / BIN / "python"
    paths = sysconfig.get_paths(vars={"base": str(HOME), "platbase": str(HOME)})
    here = told([python, "-c", "import site; print(site.getsitepackages()[-1])"]).stdout.strip()
    Path(here, "beside.pth").write_text(f"{paths['purelib']}\n", encoding="utf-8")
    told([python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{wheel}[notebooks]"])
    said = told([beside / BIN / "jupyter", "lab", "--version"]).stdout.strip().splitlines()[-1]
    print(f"jupyter lab {said}")
    shutil.rmtree(beside)


def main(options: list[str]) -> int:
    start = time.monotonic()
    wheel = built(HOME.with_name(f"{HOME.name}-dist"))
    python = environment(wheel)
    print(f"{time.monotonic() - start:6.1f} s  built and installed", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="prl-wheel-"))
    try:
        run_all(python, folder)
    finally:
        if "--keep" in options:
            print(f"the runs are in {folder}")
        else:
            shutil.rmtree(folder)
    if "--notebooks" in options:
        open_jupyter(wheel)
    print(f"{time.monotonic() - start:6.1f} s  in all; the wheel does what docs/tutorial.md says")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

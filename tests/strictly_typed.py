"""The README's scripts and those of examples/ under `mypy --strict`, as a user's type checker sees them; also
what they pass to GRPOTrainer. Part of `make lint`: reading the types of torch and transformers takes half a
minute."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = """
[mypy]
strict = true
# torch 2.13 leaves Tensor.backward untyped
untyped_calls_exclude = torch
# trl 1.16 hands its classes on in a way that mypy does not follow
[mypy-trl]
implicit_reexport = true
[mypy-datasets.*]
ignore_missing_imports = true
"""


def main() -> int:
    """Print what mypy says of the scripts, and return its exit status."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        scripts = [Path(folder, f"readme_{number}.py") for number, _ in enumerate(blocks, 1)]
        for script, block in zip(scripts, blocks, strict=True):
            script.write_text(block, encoding="utf-8")
        scripts += sorted((ROOT / "examples").glob("*.py"))
        config = Path(folder, "mypy.ini")
        config.write_text(CONFIG, encoding="utf-8")
        cache = f"--cache-dir={ROOT / '.mypy_cache' / 'strict'}"
        command = [sys.executable, "-m", "mypy", cache, f"--config-file={config}", *map(str, scripts)]
        return subprocess.run(command, env=os.environ | {"MYPYPATH": str(ROOT / "src")}).returncode


if __name__ == "__main__":
    sys.exit(main())

"""Environment variables, which nothing changes once a second thread runs.

The C library's `getenv` walks the environment without a lock. A thread of torch, pyarrow or OpenBLAS that is
in it while the main one adds or removes a variable reads freed memory, and the process dies of SIGSEGV: so
did one training of 36 in a study.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path


def settle() -> None:
    """Set what libraries would set while they are imported, some with threads running already. The command
    line does it first of all."""
    # numpy 2.4 sets it while it loads OpenBLAS, whose threads run when it is removed.
    os.environ.setdefault("OPENBLAS_MAIN_FREE", "1")
    # torch 2.13 writes the place that it finds, again and again; the same value again does no harm.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", _inductor_cache())


def _inductor_cache() -> str:
    """torch's own choice, `default_cache_dir` in `torch/_inductor/runtime/cache_dir_utils.py`."""
    import getpass
    import tempfile

    try:
        user = getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):
        user = f"uid_{os.getuid()}" if hasattr(os, "getuid") else "unknown_user"
    return str(Path(tempfile.gettempdir(), "torchinductor_" + re.sub(r'[\\/:*?"<>|]', "_", user)))


def keep() -> None:
    """Have accelerate look at other variables without setting them. Before a trainer is made.

    accelerate 1.15 removes all of them and sets them again, twice, to see what a class does without them
    (`KwargsHandler.to_kwargs`), and sets one whenever it looks for a GPU (`is_cuda_available`). What reads
    them there reads `os.environ`, so another mapping in its place will do.
    """
    from accelerate.utils import environment, imports

    environment.clear_environment = lambda: _in_place_of({})
    imports.patch_environment = lambda **changes: _in_place_of(
        {**os.environ, **{name.upper(): str(value) for name, value in changes.items()}}
    )


@contextlib.contextmanager
def _in_place_of(variables: MutableMapping[str, str]) -> Iterator[None]:
    kept = os.environ
    os.environ = variables  # type: ignore[assignment]  # noqa: B003 (C's environment stays)
    try:
        yield
    finally:
        os.environ = kept  # noqa: B003

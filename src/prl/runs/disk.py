"""Files that are whole or not there, what a full disk does to them, and values as text that reads back as
they were."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO

from prl.errors import RunError

MIN_FREE_BYTES = 200 * 2**20
"""Free disk space that a run must find when it opens: room for logs and one adapter."""

SAMPLED = 2**20
"""Bytes at either end of a file that `files_fingerprint` reads."""

_DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def write_atomic(path: Path, content: bytes, flag: str = "--output_dir") -> None:
    """Write a whole file or none: under another name, through to the disk, then renamed. Raises RunError,
    which names `flag`: where the path is from."""
    with replacing(path, flag) as file:
        file.write(content)


def write_json(path: Path, value: Mapping[str, Any], flag: str = "--output_dir") -> None:
    """`write_atomic` of a JSON object; NaN and infinities as null, paths and enums as text."""
    write_atomic(path, (to_json(value, indent=2) + "\n").encode(), flag)


def check_space(folder: Path) -> None:
    """Raises RunError where the disk that `folder` is or will be on has less than `MIN_FREE_BYTES` free."""
    here = folder.absolute()
    existing = next(path for path in (here, *here.parents) if path.is_dir())
    usage = shutil.disk_usage(existing)
    free, floor = usage.free // 2**20, MIN_FREE_BYTES // 2**20
    if usage.total and free < floor:  # /proc and its like have no size: writing says what is wrong
        raise RunError(
            f"{folder}: its disk has {free} MiB free and a run needs {floor} MiB or more: free some space or "
            "choose another --output_dir"
        )


def check_writable(path: Path, flag: str = "--output_dir") -> None:
    """Raises RunError where the folder `path` cannot be made or written to: to ask before what takes long."""
    _check_writable(path, path.absolute(), flag)


def check_replaceable(file: Path, flag: str) -> None:
    """`check_writable` for a file that `replacing` will write."""
    with writing(file, flag):
        if not _is_device(file):
            _check_writable(file, Path(os.path.realpath(file)).parent, flag)
        elif not os.access(file, os.W_OK):
            raise RunError(f"{file} cannot be written: it is not yours to write to. Choose another {flag}")
        if file.is_dir():
            raise RunError(f"{file} cannot be written: it is a folder. Choose another {flag}")


def _check_writable(path: Path, folder: Path, flag: str) -> None:
    # `Path.exists` raises where a folder above may not be looked into.
    nearest = next(each for each in (folder, *folder.parents) if os.access(each, os.F_OK))
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        why = "is not yours to write to" if nearest.is_dir() else "is no folder"
        raise RunError(f"{path} cannot be written: {nearest} {why}. Choose another {flag}")


@contextlib.contextmanager
def replacing(path: Path, flag: str = "--output_dir") -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends without an error; its folder is made.

    A link stays, and what it leads to is replaced; what is no file of a disk, such as /dev/stdout, is written
    itself.
    """
    with writing(path, flag):
        if _is_device(path):
            with path.open("wb") as file:
                yield file
            return
        if path.is_symlink():
            path = Path(os.path.realpath(path))
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _is_device(path: Path) -> bool:
    return os.access(path, os.F_OK) and not (path.is_file() or path.is_dir())


@contextlib.contextmanager
def writing(path: Path, flag: str = "--output_dir") -> Iterator[None]:
    """Turns what the system says of a write that failed into a RunError that names `path` and `flag`."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(path, flag) from error
        raise RunError(
            f"{path} cannot be written: {error.strerror or error}. Choose another {flag}"
        ) from error


def is_disk_full(error: BaseException) -> bool:
    """Also by its text: safetensors and pyarrow raise errors of their own, without a number.

    `torch.save` (torch 2.13) does not say why its writer failed; in a folder that could be written before, it
    is the disk that is full or the quota that is used up.
    """
    if getattr(error, "errno", None) in _DISK_FULL or "No space left on device" in str(error):
        return True
    texts = ("inline_container.cc", "basic_ios::clear: iostream error")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)


def disk_full(path: Path, flag: str = "--output_dir") -> RunError:
    """The error for a full disk, with what to do."""
    kept = "what was written is kept. Free some space, then pass --resume"
    if flag != "--output_dir":
        kept = f"free some space, or choose another {flag}"
    return RunError(f"no space left on the disk of {path}: {kept}")


def torn_safetensors(path: Path) -> str | None:
    """What is wrong with a safetensors file by its header and its size, in a phrase; None where both agree.

    Eight bytes with the header's length, the header (JSON: where each tensor begins and ends), the tensors.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            if not 0 < length <= min(size - 8, 100_000_000):
                return f"it has {size} bytes and no whole header"
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return f"its header cannot be read ({type(error).__name__})"
    return None if size == expected else f"it has {size} bytes, not {expected}"


def files_fingerprint(files: Iterable[Path]) -> str:
    """Tells files of weights from others of their size, by their names and what they begin and end with:
    gigabytes are not read."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest.update(f"{path.name} {size}\n".encode())
            for start in (0, max(0, size - SAMPLED)):
                file.seek(start)
                digest.update(file.read(SAMPLED))
    return digest.hexdigest()


def to_json(value: Any, indent: int | None = None) -> str:
    """NaN and infinities, which JSON does not have, as null."""
    finite = json.loads(json.dumps(plain(value)), parse_constant=lambda name: None)
    return json.dumps(finite, indent=indent)


def plain(value: Any) -> Any:
    """`value` in None, bool, int, float, str, list and dict, which YAML and JSON read back as they were."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and torch
        return plain(value.tolist())
    return next((base(value) for base in (int, float, str) if isinstance(value, base)), str(value))


def read_json(path: Path) -> dict[str, Any]:
    """Empty when there is no such file, or no JSON object in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}

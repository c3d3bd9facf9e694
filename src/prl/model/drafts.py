"""What is written beside its place and moved there only when it is whole and proved."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from prl.errors import ModelError, RunError
from prl.runs.disk import is_disk_full


@contextmanager
def drafting(target: Path) -> Iterator[Path]:
    """The path of a hidden folder beside `target`, this process's own, which is gone when the block ends,
    however it ends.

    What a kill left of an earlier one is removed first. A full disk is a RunError that says what is kept.
    """
    for left in _left_behind(target):
        shutil.rmtree(left, ignore_errors=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield draft
    except Exception as error:
        if is_disk_full(error) or (isinstance(error, RunError) and is_disk_full(error.__cause__ or error)):
            raise RunError(
                f"no space left on the disk of {target}: free some space and give the same command again; "
                "the adapter is kept"
            ) from error
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def put(draft: Path, target: Path) -> None:
    """Give what was drafted its name. Raises ModelError where that is taken by now."""
    if target.exists():
        raise ModelError(f"{target} was written by another process meanwhile, and stays; name another")
    draft.rename(target)


def _left_behind(target: Path) -> list[Path]:
    """The drafts of `target` whose process is gone; also one with the number that this process has now."""
    found = []
    for path in target.parent.glob(".*.tmp"):
        match = re.fullmatch(rf"\.{re.escape(target.name)}\.(\d+)\.tmp", path.name)
        if match and (int(match[1]) == os.getpid() or not psutil.pid_exists(int(match[1]))):
            found.append(path)
    return found

"""What is written beside its place and moved there only when it is whole and proved."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prl.disk import is_disk_full
from prl.errors import RunError


@contextmanager
def drafting(target: Path) -> Iterator[Path]:
    """The path of a hidden folder beside `target`, which is gone when the block ends, however it ends.

    What a kill left of an earlier one is removed first. A full disk is a RunError that says what is kept.
    """
    draft = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
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

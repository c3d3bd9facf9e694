"""One run in several processes (`accelerate launch --multi_gpu`, `torchrun`): which of them speaks and
writes, and how they agree.

The main process owns the run folder and the console; the others compute their share and are silent. All
of them read the same settings, so what is wrong with those is wrong in each, and told once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from prl.errors import PrlError, UsageError

T = TypeVar("T")

_FAILED = "prl/failed"  # key in the launcher's store
_PATIENCE = timedelta(seconds=5)


def is_main() -> bool:
    """Whether this process writes and speaks; true where there is only one."""
    return index() == 0


def local_index() -> int:
    """The place of this process among those on its machine, by which it takes its GPU."""
    return int(os.environ.get("LOCAL_RANK") or 0)


def index() -> int:
    """The number of this process, 0 the main one."""
    return int(os.environ.get("RANK") or 0)


def launched() -> int:
    """How many processes the launcher started on all machines; 1 without one."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def check_launch(command: str, trains: bool) -> None:
    """Refuse what a launcher was asked for and does not give. Raises UsageError.

    `accelerate launch --cpu --num_processes 2` (accelerate 1.15, without MPI) starts one process and leaves
    an address to meet the others at, and so it does where it sees one GPU or none.
    """
    if launched() > 1 and not trains:
        raise UsageError(f"prl {command} runs in one process: call it without accelerate launch or torchrun")
    is_alone = "RANK" not in os.environ and not any(name.endswith("WORLD_SIZE") for name in os.environ)
    if is_alone and {"MASTER_ADDR", "ACCELERATE_MIXED_PRECISION"} <= os.environ.keys():
        raise UsageError(
            "accelerate launch started one process only, whatever --num_processes says: pass --multi_gpu, "
            "which starts all of them on CPUs too, in place of --cpu"
        )


def from_main(work: Callable[[], T]) -> T:
    """What `work` gives in the main process, in every one of them. Where it fails there, the others exit
    with the same status and leave it to the main process to say why."""
    group = _group()
    if group is None:
        return work()
    outcome: list[Any] = [None, None]
    error: BaseException | None = None
    if is_main():
        try:
            outcome[0] = work()
        except BaseException as raised:
            error = raised
            outcome[1] = getattr(raised, "exit_status", 1)
    group.broadcast_object_list(outcome, src=0)
    if error is not None:
        raise error
    if outcome[1] is not None:
        sys.exit(outcome[1])
    return outcome[0]


def anywhere(here: bool) -> bool:
    """Whether it is so in any process."""
    group = _group()
    if group is None:
        return here
    everywhere: list[Any] = [None] * group.get_world_size()
    group.all_gather_object(everywhere, here)
    return any(everywhere)


def wait() -> None:
    """Go on when every process is here."""
    if group := _group():
        group.barrier()


def tell_failure() -> None:
    """Let the others know that the main process ends with an error."""
    if is_main() and (store := _store()):
        store.set(_FAILED, "1")


def is_to_tell(error: BaseException) -> bool:
    """Whether this process says what went wrong; the main one does, and lets the others know that it will.

    Another one keeps quiet where the main one failed too: its error is the same again, or follows from that
    one's end. It is given 5 s to fail, in which the launcher usually ends this process.
    """
    if is_main():
        if store := _store():
            store.set(_FAILED, "1")
        return True
    store = _store()
    if store is None:  # before they meet there are only settings to be wrong
        return not isinstance(error, PrlError)
    try:
        store.wait([_FAILED], _PATIENCE)
    except RuntimeError:
        return True
    return False


def _group() -> Any:
    """torch.distributed where several processes have met, else None; torch itself is not imported."""
    torch = sys.modules.get("torch")
    group = torch.distributed if torch else None
    if group and group.is_available() and group.is_initialized() and group.get_world_size() > 1:
        return group
    return None


def _store() -> Any:
    group = _group()
    return group.distributed_c10d._get_default_store() if group else None

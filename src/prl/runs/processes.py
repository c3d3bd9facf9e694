"""One run in several processes (`accelerate launch --multi_gpu`, `torchrun`): which of them speaks and
writes, and how they agree.

The main process owns the run folder and the console; the others compute their share and are silent. All
of them read the same settings, so what is wrong with those is wrong in each, and told once.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from prl.errors import PrlError, UsageError

T = TypeVar("T")

_FAILED, _TOLD = "prl/failed", "prl/told"  # keys in the launcher's store: by the main process, by another
_PATIENCE = timedelta(seconds=10)


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


def launched_here() -> int:
    """How many of them run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def check_launch(command: str, trains: bool) -> None:
    """Refuse what a launcher was asked for and does not give, or `command` cannot do. Raises UsageError.

    `accelerate launch --cpu --num_processes 2` (accelerate 1.15, without MPI) starts one process and leaves
    an address to meet the others at, and so it does where it sees one GPU or none.
    """
    if launched() > 1 and not trains:
        raise UsageError(f"prl {command} runs in one process: call it without accelerate launch or torchrun")
    if command == "rl" and (splitter := _splits_weights()):
        raise UsageError(
            f"prl rl samples with the weights that its process holds, and {splitter} splits them: launch it "
            "without, each process with the whole model"
        )
    is_alone = "RANK" not in os.environ and not any(name.endswith("WORLD_SIZE") for name in os.environ)
    if is_alone and {"MASTER_ADDR", "ACCELERATE_MIXED_PRECISION"} <= os.environ.keys():
        raise UsageError(
            "accelerate launch started one process only, whatever --num_processes says: pass --multi_gpu, "
            "which starts all of them on CPUs too, in place of --cpu"
        )


def wraps_layers() -> bool:
    """Whether the launcher has been told of FSDP or DeepSpeed, which run the layers in their own way."""
    return _is_told_of("FSDP") or _is_told_of("DEEPSPEED")


def _is_told_of(plugin: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{plugin}", "").lower() == "true"  # accelerate 1.15


def _splits_weights() -> str | None:
    """What the launcher has been told to split the weights with."""
    if _is_told_of("FSDP"):
        return "FSDP"
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE")
    return "ZeRO-3" if _is_told_of("DEEPSPEED") and stage == "3" else None


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
        _has_main_failed()  # once one process has ended, the launcher ends all
        sys.exit(outcome[1])
    return outcome[0]


def gathered(here: T) -> list[T]:
    """The values of all processes, by their number, in every one of them. All have to call it."""
    group = _group()
    if group is None:
        return [here]
    everywhere: list[Any] = [None] * group.get_world_size()
    group.all_gather_object(everywhere, here)
    return everywhere


def anywhere(here: bool) -> bool:
    """Whether it is so in any process. All have to call it."""
    return any(gathered(here))


def wait() -> None:
    """Go on when every process is here."""
    if group := _group():
        group.barrier()


def is_to_tell(error: BaseException) -> bool:
    """Whether this process says what went wrong; the main one does, and lets the others know that it will.

    Another one keeps quiet where the main one failed too: its error is the same again, or follows from that
    one's end. The main one is given 10 s to fail, in which the launcher usually ends this process. Where it
    does not, this one tells, and the main one keeps quiet about what follows from this one's end.
    """
    store = _store()
    if is_main():
        if store is None:
            return True
        with contextlib.suppress(RuntimeError):  # the launcher has gone, and the store with it
            if not isinstance(error, PrlError | KeyboardInterrupt) and store.check([_TOLD]):
                return False
            store.set(_FAILED, "1")
        return True
    if _has_main_failed():
        return False
    if store:
        with contextlib.suppress(RuntimeError):
            store.set(_TOLD, "1")
    return True


def _has_main_failed() -> bool:
    """Whether the main process says that it fails within some seconds; if it does before the processes have
    met, the launcher ends this one meanwhile."""
    if store := _store():
        try:
            store.wait([_FAILED], _PATIENCE)
        except RuntimeError:
            return False
        return True
    if launched() > 1:
        time.sleep(_PATIENCE.total_seconds())
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

"""A program, not a module: it shuts itself off from the machine and becomes what runs a submission.

    python -I -S jail.py '{"out": 5, "scratch": …, "roots": […], "hidden": […], "limits": {…}, "exec": […]}'

Standard library and system calls only, for it starts for every exercise of every student. In namespaces of
its own (user, mount, pid, net, ipc, uts) it makes a root of read-only mounts and one scratch tmpfs, takes
leave of every capability and runs `exec` under resource limits. It says `unshared` on `out`, waits there for
a byte on stdin, by when `prl.course.sandbox` has said which users there are, and else says `failed: why`.

Process 1 of the pid namespace stays this program: when it ends, for it is told to, because the one outside
died, or since its time is over, the kernel ends whatever the submission has started. A submission cannot
stop that: it has no right over process 1.
"""

# ruff: noqa: PTH103, PTH112, PTH114, PTH115, PTH120, PTH211
# pathlib takes longer to import than all else here takes to run.

import ctypes
import json
import os
import resource
import signal
import sys

NEW_NAMESPACES = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000
READ_ONLY, NO_SUID, NO_DEVICES, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
DETACH = 2
PARENT_DEATH_SIGNAL, DROP_FROM_BOUNDING_SET, NO_NEW_PRIVILEGES = 1, 24, 38
NOBODY = 65534

# What `statvfs` says of a mount -> the flag that a remount must repeat where it is locked.
LOCKED = {2: NO_SUID, 4: NO_DEVICES, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    given = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments]
    if getattr(libc, name)(*given) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    names = [None if each is None else os.fsencode(each) for each in (source, target, kind)]
    call("mount", *names, flags, options.encode())


def read_only(target: str) -> None:
    told = os.statvfs(target).f_flag
    kept = sum(flag for said, flag in LOCKED.items() if told & said)
    mount(None, target, None, REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEVICES | kept)


def make_root(scratch: str, roots: list[str], hidden: list[str], scratch_mib: int) -> None:
    """All that there is from now on: `roots` as they are, without what is `hidden`, and an empty /tmp."""
    mount(None, "/", None, RECURSIVE | PRIVATE)
    mount("none", scratch, "tmpfs", NO_SUID | NO_DEVICES, "size=1m,mode=755")
    inner = f"{scratch}/root"
    os.makedirs(f"{inner}/tmp")
    for path in roots:
        here = inner + path
        os.makedirs(os.path.dirname(here), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), here)
            continue
        if os.path.isdir(path):
            os.makedirs(here, exist_ok=True)
        else:
            os.close(os.open(here, os.O_CREAT))
        mount(path, here, None, BIND)
        read_only(here)
    for path in hidden:
        mount("none", inner + path, "tmpfs", READ_ONLY | NO_SUID | NO_DEVICES, "size=0,mode=555")
    mount(
        "none", f"{inner}/tmp", "tmpfs", NO_SUID | NO_DEVICES, f"size={scratch_mib}m,nr_inodes=256,mode=1777"
    )
    read_only(scratch)
    os.chdir(scratch)
    call("pivot_root", b".", b".")
    call("umount2", b".", DETACH)
    # Not at the root of its mounts, nobody may make a user namespace, in which to be root once more.
    os.chroot("/root")
    os.chdir("/tmp")


def drop_rights(limits: dict[str, int]) -> None:
    for capability in range(64):
        if libc.prctl(DROP_FROM_BOUNDING_SET, capability, 0, 0, 0) != 0:
            break  # the last that this kernel knows has gone
    call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    try:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    except OSError:
        pass  # started by no root: there is one user, who outside is the one that grades
    for name, limit in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))


def main() -> None:
    given = json.loads(sys.argv[1])
    out = given["out"]
    try:
        call("unshare", NEW_NAMESPACES)
        os.write(out, b"unshared\n")
        if os.read(0, 1) != b"\n":
            return
        first = os.fork()
        if first:
            os.waitpid(first, 0)
            return
        call("prctl", PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
        signal.alarm(given["seconds"])
        make_root(given["scratch"], given["roots"], given["hidden"], given["scratch_mib"])
        submission = os.fork()
        if not submission:
            drop_rights(given["limits"])
            os.execve(given["exec"][0], given["exec"], {})
    except OSError as error:
        os.write(out, f"failed: {error.strerror}\n".encode())
        os._exit(1)
    os.close(out)
    while os.wait()[0] != submission:  # it inherits orphans
        pass
    os._exit(0)


if __name__ == "__main__":
    main()

"""The few things of a sandbox that others can see: folders of sockets, control groups.

Each carries the process id and start time of its owner in its name, so that anybody can tell what is left
over: `collect_garbage`, run before every start, removes what belongs to a process that is no more.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

GROUPS = "/sys/fs/cgroup"
GROUP_PARENT = "virtscope"


def own_name() -> str:
    """A name that nobody else has: process id, start time, a random part."""
    return f"{os.getpid()}-{start_time(os.getpid())}-{os.urandom(4).hex()}"


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot (proc(5), stat, field 22); 0 if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return int(stream.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def is_left_over(name: str) -> bool:
    """Whether the owner that a name tells of is gone."""
    pid, _, rest = name.partition("-")
    started, _, _ = rest.partition("-")
    if not pid.isdigit() or not started.isdigit():
        return False
    return start_time(int(pid)) != int(started)


def folder() -> str:
    """Where running sandboxes keep their sockets; only this user can look into it."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.access(base, os.W_OK):
        path = os.path.join(base, "virtscope-sandbox")
    elif os.geteuid() == 0:
        path = "/run/virtscope-sandbox"
    else:
        path = f"/tmp/virtscope-sandbox-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o711 if os.geteuid() == 0 else 0o700)
    if os.lstat(path).st_uid != os.geteuid():
        from virtscope.errors import AccessDenied

        raise AccessDenied(f"{path} belongs to somebody else; set XDG_RUNTIME_DIR")
    return path


def make_folder() -> str:
    """A folder for one sandbox's sockets."""
    path = os.path.join(folder(), own_name())
    os.mkdir(path, 0o711)
    return path


def remove_folder(path: str) -> None:
    """Remove a sandbox's folder."""
    import shutil

    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:  # a pool's socket, before it had its name
        with contextlib.suppress(OSError):
            os.unlink(path)


def collect_garbage() -> list[str]:
    """Remove what dead owners left; returns what was removed."""
    removed = []
    try:
        entries = list(os.scandir(folder()))
    except OSError:
        entries = []
    for entry in entries:
        if is_left_over(entry.name):
            remove_folder(entry.path)
            removed.append(entry.path)
    for parent in group_parents():
        with contextlib.suppress(OSError):
            left = [name for name in os.listdir(parent) if is_left_over(name)]
            if left:
                from virtscope.sandbox import cgroups

                removed += [cgroups.remove(os.path.join(parent, name)) for name in left]
    return removed


def group_parents() -> list[str]:
    """The control groups (of version 2, or of each controller of version 1) that hold those of sandboxes."""
    if is_unified():
        return [os.path.join(own_unified(), GROUP_PARENT)]
    try:
        return [os.path.join(GROUPS, controller, GROUP_PARENT) for controller in os.listdir(GROUPS)]
    except OSError:
        return []


def is_unified() -> bool:
    """Whether the host has control groups of version 2."""
    return os.path.exists(f"{GROUPS}/cgroup.controllers")


def own_unified() -> str:
    """The group below which this process may make groups: the root's for root, else the user's own."""
    if os.geteuid() == 0:
        return GROUPS
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as stream:
        own = stream.read().strip().rpartition("::")[2]
    return os.path.join(GROUPS, own.lstrip("/"))


def collect_cache_garbage(directory: Path) -> list[str]:
    """Remove half-made files that killed builders left in the cache."""
    removed = []
    for path in directory.glob(".*.[0-9]*"):
        pid = path.suffix[1:]
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(str(path))
    return removed

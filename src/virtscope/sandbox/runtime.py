"""The few things of a sandbox that others can see: folders of sockets, control groups.

Each carries the process id and start time of its owner in its name, so that anybody can tell what is left
over: `collect_garbage`, run before every start, removes what belongs to a process that is no more.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path


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


def folder() -> Path:
    """Where running sandboxes keep their sockets; only this user can look into it."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.access(base, os.W_OK):
        path = Path(base, "virtscope-sandbox")
    elif os.geteuid() == 0:
        path = Path("/run/virtscope-sandbox")
    else:
        path = Path(f"/tmp/virtscope-sandbox-{os.geteuid()}")
    path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)
    if path.stat().st_uid != os.geteuid():
        from virtscope.errors import AccessDenied

        raise AccessDenied(f"{path} belongs to somebody else; set XDG_RUNTIME_DIR")
    return path


def make_folder() -> str:
    """A folder for one sandbox's sockets."""
    path = folder() / own_name()
    path.mkdir(mode=0o711)
    return str(path)


def remove_folder(path: str) -> None:
    """Remove a sandbox's folder."""
    shutil.rmtree(path, ignore_errors=True)


def collect_garbage() -> list[str]:
    """Remove what dead owners left; returns what was removed."""
    removed = []
    try:
        entries = list(os.scandir(folder()))
    except OSError:
        entries = []
    for entry in entries:
        if is_left_over(entry.name):
            shutil.rmtree(entry.path, ignore_errors=True)
            removed.append(entry.path)
    from virtscope.sandbox import cgroups

    removed += cgroups.collect_garbage()
    return removed


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

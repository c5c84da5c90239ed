"""Limits through control groups, version 1 and 2, for the back ends that no daemon limits for us.

A sandbox's group is called after its owner (runtime.own_name) under a group `virtscope`; it is removed at the
end, and by the next start if its owner was killed. Entry point: `make`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from virtscope.errors import AccessDenied
from virtscope.sandbox import runtime
from virtscope.sandbox.definition import Limits

ROOT = Path(runtime.GROUPS)
PARENT = runtime.GROUP_PARENT


@dataclass(frozen=True, slots=True)
class Group:
    """The control groups of one sandbox: one folder for version 2, one for each controller for version 1.

    Args:
        folders: theirs.
        options: for `launch`, of limits that a process puts on itself.
    """

    folders: tuple[Path, ...]
    options: tuple[str, ...] = ()

    def launch_options(self) -> list[str]:
        """Options for `launch` that put a process into the group before it runs anything."""
        return [*(f"cgroup={folder}/cgroup.procs" for folder in self.folders), *self.options]

    def remove(self) -> None:
        """End what is left in the group and remove it."""
        for folder in self.folders:
            _remove(folder)


def wanted(limits: Limits, *, machine: bool) -> dict[str, dict[str, str]]:
    """What each controller must be told: {controller: {file of version 2: value}}.

    Args:
        limits: of the sandbox.
        machine: whether memory and processors are those of a machine of its own, which limits them itself.
    """
    files: dict[str, dict[str, str]] = {}
    if limits.memory and not machine:
        files["memory"] = {"memory.max": str(limits.memory)}
    if limits.pids and not machine:
        files["pids"] = {"pids.max": str(limits.pids)}
    if limits.cpu_shares:
        # 1024 shares, the default of version 1, are a weight of 100
        files["cpu"] = {"cpu.weight": str(max(1, min(10000, limits.cpu_shares * 100 // 1024)))}
    if not machine and limits.cpus > 1:
        files.setdefault("cpu", {})["cpu.max"] = f"{limits.cpus * 100000} 100000"
    if limits.pin_cpus or limits.numa_nodes:
        files["cpuset"] = {}
        if limits.pin_cpus:
            files["cpuset"]["cpuset.cpus"] = limits.pin_cpus
        if limits.numa_nodes:
            files["cpuset"]["cpuset.mems"] = limits.numa_nodes
    if (limits.io_read or limits.io_write) and not machine:
        device = _root_device()
        if device:
            rates = [f"rbps={limits.io_read}"] if limits.io_read else []
            rates += [f"wbps={limits.io_write}"] if limits.io_write else []
            files["io"] = {"io.max": f"{device} {' '.join(rates)}"}
    return files


def _root_device() -> str | None:
    """The whole disk under the root, as io.max names it."""
    number = os.stat("/").st_dev
    path = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not path.exists():
        return None
    whole = path.resolve()
    if (whole / "partition").exists():
        whole = whole.parent
    return (whole / "dev").read_text().strip()


def make(limits: Limits, *, machine: bool) -> Group | None:
    """Make the groups these limits need; None when they need none.

    Raises:
        AccessDenied: this user may not, or the host has no such controller.
    """
    files = wanted(limits, machine=machine)
    if not files:
        return None
    try:
        return Group(_make(files))
    except AccessDenied:
        if not machine or "cpuset" not in files:
            raise
    # Processors and nodes are also inherited. A command could take that back; a machine's guest cannot.
    del files["cpuset"]
    options = [f"processors={limits.pin_cpus}"] if limits.pin_cpus else []
    options += [f"nodes={limits.numa_nodes}"] if limits.numa_nodes else []
    return Group(_make(files) if files else (), tuple(options))


def _make(files: dict[str, dict[str, str]]) -> tuple[Path, ...]:
    name = runtime.own_name()
    made: list[Path] = []
    try:
        if runtime.is_unified():
            made.append(_make_unified(name, files))
        else:
            for controller, values in files.items():
                made.append(_make_legacy(name, controller, values))
    except OSError as error:
        for folder in made:
            _remove(folder)
        raise AccessDenied(
            f"this limit needs a control group that {'root' if os.geteuid() else 'this host'} "
            f"{'must make' if os.geteuid() else 'does not give'}: {error.filename}: {error.strerror}"
        ) from None
    return tuple(made)


def _make_unified(name: str, files: dict[str, dict[str, str]]) -> Path:
    top = Path(runtime.own_unified())
    parent = top / PARENT
    parent.mkdir(exist_ok=True)
    for folder in (top, parent):
        for controller in files:
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")
    group = parent / name
    group.mkdir()
    for values in files.values():
        for file, value in values.items():
            (group / file).write_text(value)
    return group


_LEGACY_FOLDERS = {"io": "blkio"}


def _make_legacy(name: str, controller: str, values: dict[str, str]) -> Path:
    top = ROOT / _LEGACY_FOLDERS.get(controller, controller)
    if not top.is_dir():
        raise OSError(2, "no such controller", str(top))
    parent = top / PARENT
    group = parent / name
    for folder in (parent, group):
        folder.mkdir(exist_ok=True)
        if controller == "cpuset":
            for file in ("cpuset.cpus", "cpuset.mems"):
                if not (folder / file).read_text().strip():
                    (folder / file).write_text((folder.parent / file).read_text())
    for file, value in values.items():
        for old, text in _legacy(file, value):
            (group / old).write_text(text)
    return group


def _legacy(file: str, value: str) -> list[tuple[str, str]]:
    """Version 1's files for one of version 2."""
    if file == "memory.max":
        return [("memory.limit_in_bytes", value)]
    if file == "cpu.weight":
        return [("cpu.shares", str(max(2, int(value) * 1024 // 100)))]
    if file == "cpu.max":
        quota, period = value.split()
        return [("cpu.cfs_period_us", period), ("cpu.cfs_quota_us", quota)]
    if file == "io.max":
        device, *rates = value.split()
        names = {"rbps": "blkio.throttle.read_bps_device", "wbps": "blkio.throttle.write_bps_device"}
        return [(names[rate.partition("=")[0]], f"{device} {rate.partition('=')[2]}") for rate in rates]
    return [(file, value)]


def _remove(folder: Path) -> None:
    for _ in range(100):
        try:
            for pid in (folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.01)


def remove(path: str) -> str:
    """End what is left in a group whose owner is gone and remove it; returns the path."""
    _remove(Path(path))
    return path

"""The control groups a process is in, as /proc/PID/cgroup lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from virtscope.errors import CorruptData
from virtscope.kernel.collections import list_of

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel
    from virtscope.kernel.paths import Paths
    from virtscope.kernel.records import Record

_MAX_HIERARCHIES = 64
_MAX_KEPT = 16384


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A process's place in one hierarchy.

    Attributes:
        hierarchy: its number; 0 is the unified hierarchy (cgroup v2).
        controllers: the v1 controllers mounted on it, and "name=..." when it has a name; empty for v2.
        path: from the hierarchy's root.
    """

    hierarchy: int
    controllers: tuple[str, ...]
    path: str

    def __str__(self) -> str:
        return f"{self.hierarchy}:{','.join(self.controllers)}:{self.path}"


class Cgroups:
    """Reads the control groups of one kernel's processes; keeps what was read, as most share theirs."""

    def __init__(self, kernel: Kernel, paths: Paths) -> None:
        self._kernel = kernel
        self._paths = paths
        self._sets: dict[int, tuple[Cgroup, ...]] = {}
        self._roots: dict[int, tuple[int, tuple[str, ...]]] = {}
        self._controllers: dict[int, list[str]] | None = None

    def read(self, task: Record) -> tuple[Cgroup, ...]:
        """The control groups of a task: highest hierarchy number first, as in /proc/PID/cgroup.

        Raises:
            CorruptData: a list loops or a pointer leads nowhere.
            UnknownLayout: the kernel has no control groups.
        """
        address = task["cgroups"]
        if address not in self._sets:
            if len(self._sets) >= _MAX_KEPT:
                self._sets.clear()
            self._sets[address] = self._read_set(address)
        return self._sets[address]

    def _read_set(self, address: int) -> tuple[Cgroup, ...]:
        kernel = self._kernel
        head = address + kernel.struct("css_set").offset("cgrp_links")
        default = kernel.symbol("cgrp_dfl_root") if kernel.has_symbol("cgrp_dfl_root") else 0
        found = []
        for link in list_of(kernel, head, "cgrp_cset_link", "cgrp_link", limit=_MAX_HIERARCHIES):
            cgroup = link.pointee("cgrp")
            hierarchy, controllers = self._root(cgroup["root"])
            if cgroup["root"] == default and not self._default_is_mounted():
                continue
            found.append(Cgroup(hierarchy, controllers, self._paths.kernfs_path(cgroup["kn"])))
        return tuple(sorted(found, key=lambda cgroup: -cgroup.hierarchy))

    def _root(self, address: int) -> tuple[int, tuple[str, ...]]:
        known = self._roots.get(address)
        if known is None:
            kernel = self._kernel
            layout = kernel.struct("cgroup_root")
            hierarchy = kernel.read_u32(address + layout.offset("hierarchy_id"))
            controllers = list(self._controllers_of(address)) if hierarchy else []
            name = kernel.read_cstring(address + layout.offset("name"), 64)
            if name:
                controllers.append(f"name={name.decode('utf-8', 'surrogateescape')}")
            known = self._roots[address] = hierarchy, tuple(controllers)
        return known

    def _controllers_of(self, root: int) -> list[str]:
        """The names of the controllers on the hierarchy whose `cgroup_root` is at `root`."""
        if self._controllers is None:
            kernel = self._kernel
            layout = kernel.struct("cgroup_subsys")
            count = kernel.enumerator("CGROUP_SUBSYS_COUNT")
            if not 0 <= count <= 64:
                raise CorruptData(f"the kernel claims to have {count} cgroup controllers")
            table = kernel.symbol("cgroup_subsys")
            self._controllers = {}
            for index in range(count):
                record = kernel.record(layout, kernel.read_pointer(table + 8 * index))
                name = kernel.read_cstring(record["legacy_name"], 32).decode("utf-8", "surrogateescape")
                self._controllers.setdefault(record["root"], []).append(name)
        return self._controllers.get(root, [])

    def _default_is_mounted(self) -> bool:
        kernel = self._kernel
        if not kernel.has_symbol("cgrp_dfl_visible"):
            return True
        return kernel.read(kernel.symbol("cgrp_dfl_visible"), 1) != b"\0"

"""Paths of files and of kernfs nodes (cgroups), put together from what the kernel remembers of them.

`Paths` is the entry point: it keeps the names it has read, as processes share most of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from virtscope.errors import CorruptData

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel

Value = TypeVar("Value")

_MAX_PARTS = 4096
_MAX_NAME = 255
_MAX_KEPT = 65536


class Paths:
    """Reads paths of one kernel; good for one view of it, as it keeps what it has read."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._dentries: dict[int, tuple[int, str, bool]] = {}
        self._mounts: dict[int, tuple[int, int, int]] = {}
        self._kernfs: dict[int, str] = {}

    def path(self, mount: int, dentry: int) -> str:
        """The path of a `struct path`, seen from the top of the mount namespace it lies in.

        Args:
            mount: `path.mnt`, the address of a `struct vfsmount`.
            dentry: `path.dentry`.

        Returns:
            The absolute path; " (deleted)" is added to a file that has no name any more, as /proc does.

        Raises:
            CorruptData: the path has no end, or leads to a wild pointer.
            UnknownLayout: the kernel's dentries or mounts are not as expected.
        """
        kernel = self._kernel
        mount -= kernel.struct("mount").offset("mnt")
        mount_root, mount_parent, mount_point = self._mount(mount)
        parent, name, hashed = self._dentry(dentry)
        if parent == dentry and dentry != mount_root:
            return f"/{name} (deleted)"  # a file that never had a place, as a memfd
        suffix = "" if hashed or parent == dentry else " (deleted)"
        parts: list[str] = []
        for _ in range(_MAX_PARTS):
            if dentry == mount_root:
                if mount_parent == mount:
                    return f"/{'/'.join(reversed(parts))}{suffix}"
                mount, dentry = mount_parent, mount_point
                mount_root, mount_parent, mount_point = self._mount(mount)
                continue
            parent, name, _hashed = self._dentry(dentry)
            if parent == dentry:
                raise CorruptData(f"the path of the dentry at {dentry:#x} ends outside its mount")
            parts.append(name)
            dentry = parent
        raise CorruptData(f"the path of the dentry at {dentry:#x} has no end")

    def kernfs_path(self, node: int) -> str:
        """The path of a `struct kernfs_node` from the root of its hierarchy; "/" for the root.

        Raises:
            CorruptData: the path has no end, or leads to a wild pointer.
        """
        kernel = self._kernel
        layout = kernel.struct("kernfs_node")
        parent_member = layout.first("__parent", "parent")
        parts: list[str] = []
        at = node
        while at:
            known = self._kernfs.get(at)
            if known is not None:
                parts.append(known)
                break
            if len(parts) >= _MAX_PARTS:
                raise CorruptData(f"the path of the kernfs node at {node:#x} has no end")
            record = kernel._pointee(layout, at, "kernfs_node.parent")
            at = record[parent_member]
            if at:
                parts.append("/" + _string(kernel.read_cstring(record["name"], _MAX_NAME + 1)))
        path = "".join(reversed(parts))
        self._kernfs[node] = path
        return path or "/"

    def _dentry(self, address: int) -> tuple[int, str, bool]:
        """(parent, name, whether it is hashed: has a place in its directory)."""
        known = self._dentries.get(address)
        if known is None:
            kernel = self._kernel
            record = kernel._pointee(kernel.struct("dentry"), address, "path.dentry")
            length = record["d_name.len"]
            if length > _MAX_NAME:
                raise CorruptData(f"the dentry at {address:#x} has a name of {length} bytes")
            name = _string(kernel.read(record["d_name.name"], length)) if length else ""
            known = record["d_parent"], name, bool(record["d_hash.pprev"])
            _keep(self._dentries, address, known)
        return known

    def _mount(self, address: int) -> tuple[int, int, int]:
        """(the dentry at its root, the mount it is mounted on, the dentry it is mounted at)."""
        known = self._mounts.get(address)
        if known is None:
            record = self._kernel._pointee(self._kernel.struct("mount"), address, "path.mnt")
            known = record["mnt.mnt_root"], record["mnt_parent"], record["mnt_mountpoint"]
            _keep(self._mounts, address, known)
        return known


def _keep(kept: dict[int, Value], key: int, value: Value) -> None:
    if len(kept) >= _MAX_KEPT:
        kept.clear()
    kept[key] = value


def _string(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")

"""Which filesystem of a guest is its root, and what it mounts where. `mount_tree` is the entry point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from virtscope.errors import GuestPathError, UsageError, VirtscopeError
from virtscope.fs.tree import Tree
from virtscope.inspect.fstab import FstabEntry, parse_fstab

if TYPE_CHECKING:
    from virtscope.fs.filesystem import Filesystem
    from virtscope.storage import Device, Storage

_ROOT_SIGNS = (b"/etc/fstab", b"/etc/os-release", b"/usr/lib/os-release", b"/etc/passwd")
"""A filesystem with any of these is an operating system's root."""

_LARGEST_FSTAB = 1 << 20


class _Mounter:
    """Opens each filesystem of a guest once."""

    def __init__(self, storage: Storage, replay: bool) -> None:
        self.storage = storage
        self._replay = replay
        self._opened: dict[str, Filesystem | None] = {}
        self.problems: list[str] = []

    def open(self, device: Device) -> Filesystem | None:
        if device.name not in self._opened:
            try:
                self._opened[device.name] = self.storage.filesystem(device, replay=self._replay)
            except VirtscopeError as error:
                self.problems.append(f"{device.name}: {error}")
                self._opened[device.name] = None
        return self._opened[device.name]

    def with_filesystems(self) -> list[tuple[Device, Filesystem]]:
        found = []
        for device in self.storage.devices:
            if device.content not in (None, "unknown", "swap"):
                filesystem = self.open(device)
                if filesystem is not None:
                    found.append((device, filesystem))
        return found

    def root(self) -> Filesystem:
        candidates = self.with_filesystems()
        if not candidates:
            why = f" ({'; '.join(self.problems)})" if self.problems else ""
            raise UsageError(f"no filesystem that can be read is on its disks{why}")
        roots = [(device, fs) for device, fs in candidates if _is_root(fs)]
        if len(roots) == 1:
            return roots[0][1]
        if not roots and len(candidates) == 1:
            return candidates[0][1]
        names = ", ".join(device.name for device, _ in roots or candidates)
        what = "several filesystems could be the root" if roots else "no filesystem looks like the root"
        raise UsageError(f"{what}: choose with --mount DEVICE:/ among {names}")

    def device_of(self, entry: FstabEntry) -> Device | None:
        """The device an entry of fstab means; None when it is not on these disks."""
        wanted = entry.device
        for device in self.storage.devices:
            names = {
                f"UUID={device.uuid}": device.uuid,
                f"LABEL={device.label}": device.label,
                f"PARTUUID={device.part_uuid}": device.part_uuid,
                f"PARTLABEL={device.part_label}": device.part_label,
                f"/dev/disk/by-uuid/{device.uuid}": device.uuid,
                f"/dev/disk/by-label/{device.label}": device.label,
                f"/dev/disk/by-partuuid/{device.part_uuid}": device.part_uuid,
                f"/dev/disk/by-partlabel/{device.part_label}": device.part_label,
            }
            known = {name.lower() for name, value in names.items() if value is not None}
            if wanted.replace('"', "").lower() in known:
                return device
        if wanted.startswith("/dev/") and not wanted.startswith("/dev/disk/"):
            try:
                return self.storage.device(wanted)
            except UsageError:
                return None
        return None


def _is_root(filesystem: Filesystem) -> bool:
    tree = Tree(filesystem)
    for sign in _ROOT_SIGNS:
        try:
            tree.resolve(sign, follow=False)
        except VirtscopeError:
            continue
        return True
    return False


def mount_tree(
    storage: Storage, *, mounts: Sequence[tuple[str, str]] = (), replay: bool = True
) -> tuple[Tree, list[str]]:
    """The guest's directory tree, put together as its own /etc/fstab says.

    Args:
        storage: its disks.
        mounts: (device, mount point) pairs that replace what fstab says; with one for `/`, they are all.
        replay: replay journals in memory.

    Returns:
        The tree, and sentences about what could not be mounted.

    Raises:
        UsageError: which filesystem is the root is not clear; the message says how to choose.
        FormatError, GuestError: the chosen root cannot be read.
    """
    mounter = _Mounter(storage, replay)
    chosen: dict[bytes, Filesystem] = {}
    for name, mount_point in mounts:
        filesystem = storage.filesystem(storage.device(name), replay=replay)
        if filesystem is None:
            raise UsageError(f"{name} holds no filesystem that can be read")
        chosen[mount_point.encode("utf-8", "surrogateescape").rstrip(b"/") or b"/"] = filesystem
    root = chosen.pop(b"/", None)
    if root is not None:
        tree = Tree(root, chosen)
        return tree, tree.notes
    root = mounter.root()
    missing = []
    for entry in _fstab(root):
        point = entry.point.rstrip(b"/")
        if not point or point in chosen:
            continue
        device = mounter.device_of(entry)
        filesystem = mounter.open(device) if device is not None else None
        if filesystem is not None:
            chosen[point] = filesystem
        elif "nofail" not in entry.options:
            why = "not on these disks" if device is None else "no filesystem that can be read"
            missing.append(f"{entry.point.decode('utf-8', 'backslashreplace')}: {entry.device} is {why}")
    tree = Tree(root, chosen)
    return tree, [*mounter.problems, *missing, *tree.notes]


def _fstab(root: Filesystem) -> list[FstabEntry]:
    try:
        node = Tree(root).resolve(b"/etc/fstab")
        return parse_fstab(node.filesystem.read(node.inode, 0, _LARGEST_FSTAB))
    except GuestPathError:
        return []

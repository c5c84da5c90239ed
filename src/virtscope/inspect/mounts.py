"""Which filesystem of a guest is its root, and what it mounts where. `mount_tree` is the entry point."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from virtscope.errors import FormatError, GuestPathError, UsageError, VirtscopeError
from virtscope.fs.tree import Tree
from virtscope.inspect.fstab import FstabEntry, parse_fstab
from virtscope.storage import disk_name

if TYPE_CHECKING:
    from virtscope.fs.filesystem import Filesystem
    from virtscope.storage import Device, Storage

_ROOT_SIGNS = (b"/etc/fstab", b"/etc/os-release", b"/usr/lib/os-release", b"/etc/passwd")
"""A filesystem with any of these is an operating system's root."""

_LARGEST_FSTAB = 1 << 20

_MOST_MOUNTS = 1000

_CONTAINERS = ("dos", "gpt", "LVM2_member", "linux_raid_member", "crypto_LUKS")


class _Mounter:
    """Opens each filesystem of a guest once."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._opened: dict[str, Filesystem | None] = {}
        self._named: dict[tuple[str, str], list[Device]] | None = None
        self.problems: list[str] = []

    def open(self, device: Device) -> Filesystem | None:
        if device.name not in self._opened:
            try:
                self._opened[device.name] = self.storage.filesystem(device)
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
        if self._named is None:
            self._named = _named(self.storage.devices)
        wanted = _key(entry.device)
        if wanted is not None:
            found = self._named.get(wanted, [])
            if len(found) > 1:
                others = ", ".join(device.name for device in found)
                self.problems.append(f"{entry.device} is on several devices ({others}); the first was taken")
            return found[0] if found else None
        if entry.device.startswith("/dev/"):
            try:
                return self.storage.device(_as_disk(entry.device))
            except UsageError:
                return None
        return None

    def unread(self) -> list[str]:
        """The devices of which it is not known what is on them."""
        return [
            device.name
            for device in self.storage.devices
            if device.content == "unknown" or (device.content is None and device.problem is not None)
        ]


_TAGS = ("UUID", "LABEL", "PARTUUID", "PARTLABEL")

_UDEV_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")

_NUMBERED_DISK = re.compile(r"/dev/(?:nvme(\d{1,3})n1|mmcblk(\d{1,3}))(?:p(\d{1,3}))?")


def _key(device: str) -> tuple[str, str] | None:
    """Tag and value, where fstab names a device by what is on it; None where it names it otherwise."""
    if device.startswith("/dev/disk/by-"):
        tag, _, value = device.removeprefix("/dev/disk/by-").partition("/")
        # udev writes the bytes of names that cannot be in a path as \xHH.
        raw = _UDEV_ESCAPE.sub(lambda match: chr(int(match[1], 16)), value)
        if raw != value and all(ord(character) < 0x100 for character in raw):
            value = raw.encode("latin-1").decode("utf-8", "surrogateescape")
    else:
        tag, equals, value = device.partition("=")
        if not equals:
            return None
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
    tag = tag.upper()
    return (tag, value.lower() if tag.endswith("UUID") else value) if tag in _TAGS else None


def _named(devices: Iterable[Device]) -> dict[tuple[str, str], list[Device]]:
    """The devices by what fstab may call them."""
    found: dict[tuple[str, str], list[Device]] = {}
    for device in devices:
        for tag, value in zip(
            _TAGS, (device.uuid, device.label, device.part_uuid, device.part_label), strict=True
        ):
            # The UUID of a partition table or a physical volume is nothing that can be mounted.
            if value and (tag.startswith("PART") or device.content not in _CONTAINERS):
                found.setdefault((tag, value.lower() if tag.endswith("UUID") else value), []).append(device)
    return found


def _as_disk(name: str) -> str:
    """A name the guest's kernel gives an NVMe or MMC disk, as the disk's place in their order."""
    match = _NUMBERED_DISK.fullmatch(name)
    if match is None:
        return name
    return disk_name(int(match[1] or match[2])) + (match[3] or "")


def _is_root(filesystem: Filesystem) -> bool:
    tree = Tree(filesystem)
    for sign in _ROOT_SIGNS:
        try:
            tree.resolve(sign, follow=False)
        except VirtscopeError:
            continue
        return True
    return False


def mount_tree(storage: Storage, *, mounts: Sequence[tuple[str, str]] = ()) -> tuple[Tree, list[str]]:
    """The guest's directory tree, put together as its own /etc/fstab says.

    Args:
        storage: its disks.
        mounts: (device, mount point) pairs that replace what fstab says; with one for `/`, they are all.

    Returns:
        The tree, and sentences about what could not be mounted.

    Raises:
        UsageError: which filesystem is the root is not clear; the message says how to choose.
        FormatError, GuestError: the chosen root cannot be read.
    """
    mounter = _Mounter(storage)
    chosen: dict[bytes, Filesystem] = {}
    for name, mount_point in mounts:
        filesystem = storage.filesystem(storage.device(name))
        if filesystem is None:
            raise UsageError(f"{name} holds no filesystem that can be read")
        chosen[mount_point.encode("utf-8", "surrogateescape").rstrip(b"/") or b"/"] = filesystem
    root = chosen.pop(b"/", None)
    if root is not None:
        tree = Tree(root, chosen)
        return tree, tree.notes
    root = mounter.root()
    missing = []
    try:
        entries = _fstab(root)
    except VirtscopeError as error:
        entries = []
        missing.append(f"only the root is mounted, as /etc/fstab cannot be read: {error}")
    if len(entries) > _MOST_MOUNTS:
        missing.append(f"only the first {_MOST_MOUNTS} of {len(entries)} mounts in /etc/fstab were looked at")
    for entry in entries[:_MOST_MOUNTS]:
        point = entry.point.rstrip(b"/")
        if not point or point in chosen:
            continue
        device = mounter.device_of(entry)
        filesystem = mounter.open(device) if device is not None else None
        if filesystem is not None:
            chosen[point] = filesystem
        elif device is not None or "nofail" not in entry.options:
            name = entry.point.decode("utf-8", "surrogateescape")
            missing.append(f"{name}: {_why_not(entry, device, mounter)}")
    tree = Tree(root, chosen)
    return tree, [*mounter.problems, *missing, *tree.notes]


def _why_not(entry: FstabEntry, device: Device | None, mounter: _Mounter) -> str:
    if device is not None:
        return f"{entry.device} is no filesystem that can be read"
    unread = mounter.unread()
    unless = f", unless it is one that cannot be read ({', '.join(unread)})" if unread else ""
    return f"{entry.device} is not on these disks{unless}"


def _fstab(root: Filesystem) -> list[FstabEntry]:
    try:
        node = Tree(root).resolve(b"/etc/fstab")
    except GuestPathError:
        return []
    kind = node.stat().kind
    if kind != "file":
        raise FormatError(root.kind, f"it is a {kind}")
    return parse_fstab(node.filesystem.read(node.inode, 0, _LARGEST_FSTAB))

"""How full each filesystem of a guest is. `disk_usage` is the entry point."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from virtscope.errors import VirtscopeError

if TYPE_CHECKING:
    from virtscope.storage import Storage


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """One filesystem, as df(1) shows it; sizes are bytes.

    Attributes:
        device: "/dev/sda1", "/dev/vg/lv".
        type: "ext4", "xfs"...
        size: of the part that files can use.
        used: what they use.
        available: what anybody but root can still use.
        used_percent: of what is used and available together, rounded up as df does; None when both are none.
        inodes: how many there are, or can be; None where the format has no such limit.
        inodes_used: None as `inodes`.
        inodes_free: None as `inodes`.
        uuid: of the filesystem.
        label: of the filesystem.
    """

    device: str
    type: str
    size: int
    used: int
    available: int
    used_percent: int | None
    inodes: int | None
    inodes_used: int | None
    inodes_free: int | None
    uuid: str | None
    label: str | None

    @property
    def inodes_used_percent(self) -> int | None:
        """Of all inodes, rounded up as df does."""
        if self.inodes_used is None or self.inodes_free is None:
            return None
        return percent(self.inodes_used, self.inodes_used + self.inodes_free)


def percent(part: int, whole: int) -> int | None:
    """What percentage of `whole` is `part`, rounded up as df(1) does; None of nothing."""
    return -(-part * 100 // whole) if whole > 0 else None


def disk_usage(storage: Storage, *, problem: Callable[[str], None] | None = None) -> Iterator[DiskUsage]:
    """The filesystems on `storage`, in the order of its devices.

    Args:
        storage: the guest's disks.
        problem: told, in a sentence, of each filesystem that cannot be read; without it that is raised.

    Raises:
        FormatError, GuestError: a filesystem cannot be read, and `problem` is None.
    """
    for device in storage.devices:
        if device.problem is not None and problem is not None:
            problem(f"{device.name}: {device.problem}")
        if device.content is None or device.content in ("swap", "unknown"):
            continue
        try:
            filesystem = storage.filesystem(device)
            if filesystem is None:
                continue
            usage = filesystem.usage()
        except VirtscopeError as error:
            if problem is None:
                raise
            problem(f"{device.name}: {error}")
            continue
        used = usage.blocks - usage.free_blocks
        counted = usage.inodes > 0
        yield DiskUsage(
            device=device.name,
            type=device.content,
            size=usage.blocks * usage.block_size,
            used=used * usage.block_size,
            available=usage.available_blocks * usage.block_size,
            used_percent=percent(used, used + usage.available_blocks),
            inodes=usage.inodes if counted else None,
            inodes_used=usage.inodes - usage.free_inodes if counted else None,
            inodes_free=usage.free_inodes if counted else None,
            uuid=device.uuid,
            label=device.label,
        )

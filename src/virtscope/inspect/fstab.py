"""/etc/fstab: which device is mounted where. `parse_fstab` is the entry point; fstab(5) is the format."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ESCAPE = re.compile(rb"\\([0-7]{3})")

_NOT_ON_DISK = frozenset(
    (
        b"tmpfs",
        b"proc",
        b"sysfs",
        b"devpts",
        b"devtmpfs",
        b"cgroup",
        b"cgroup2",
        b"swap",
        b"nfs",
        b"nfs4",
        b"cifs",
    )
)
"""Filesystem types that are not on the guest's disks."""

_MOST_LINES = 10_000


@dataclass(frozen=True, slots=True)
class FstabEntry:
    """One line that mounts a disk.

    Attributes:
        device: the first field as it stands ("UUID=...", "LABEL=...", "/dev/vda1").
        point: where it is mounted.
        type: "ext4", "auto"...
        options: separated by commas in the file.
    """

    device: str
    point: bytes
    type: str
    options: tuple[str, ...]


def parse_fstab(text: bytes) -> list[FstabEntry]:
    """The lines of `text` that mount something from a disk at boot; those that make no sense are left out."""
    entries = []
    for line in text.split(b"\n")[:_MOST_LINES]:
        fields = line.split()
        if len(fields) < 3 or fields[0].startswith(b"#"):
            continue
        device, point, kind = (_unescaped(field) for field in fields[:3])
        options = _unescaped(fields[3]).decode("ascii", "replace").split(",") if len(fields) > 3 else []
        bound = {"bind", "rbind", "noauto"} & set(options)
        if not point.startswith(b"/") or kind in _NOT_ON_DISK or bound:
            continue
        entries.append(
            FstabEntry(
                device.decode("utf-8", "surrogateescape"),
                point,
                kind.decode("ascii", "replace"),
                tuple(options),
            )
        )
    return entries


def _unescaped(field: bytes) -> bytes:
    """A field with its octal escapes (`\\040` is a space) resolved."""
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)

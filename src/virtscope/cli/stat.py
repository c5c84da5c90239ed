"""virt-stat: everything a guest's filesystem says of a file."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from virtscope.cli.command import Command, Example, Guests, Line, Option
from virtscope.cli.paths import guest_path, mode_text, path_argument, path_text, when
from virtscope.errors import FormatError, GuestError, GuestPathError

if TYPE_CHECKING:
    from virtscope.fs.filesystem import FileExtent
    from virtscope.guest import Guest

_MOST_EXTENTS = 100_000


@dataclass(frozen=True, slots=True)
class FileDetails:
    """One file; times are UTC, None where the format keeps none.

    Attributes:
        path: as it was asked for.
        resolved: where it led, links followed.
        filesystem: the type of the filesystem it is in.
        allocated: bytes of disk taken.
        attributes: "immutable", "encrypted"...
        xattrs: extended attributes by name.
        extents: where its bytes are in the filesystem, if that was asked for.
    """

    path: str
    resolved: str
    filesystem: str
    type: str
    size: int
    allocated: int
    inode: int
    links: int
    mode: int
    uid: int
    gid: int
    device: tuple[int, int] | None
    accessed: datetime | None
    modified: datetime | None
    changed: datetime | None
    created: datetime | None
    attributes: tuple[str, ...]
    target: str | None
    xattrs: dict[str, bytes]
    extents: tuple[FileExtent, ...] | None


def _rows(guest: Guest, args: argparse.Namespace) -> Iterator[FileDetails]:
    tree = guest.tree
    for text in args.paths:
        try:
            node = tree.resolve(guest_path(text), follow=args.dereference)
            stat = node.stat()
            extents = None
            if args.extents:
                extents = tuple(
                    extent
                    for _, extent in zip(
                        range(_MOST_EXTENTS), node.filesystem.extents(node.inode), strict=False
                    )
                )
            is_link = stat.mode & 0o170000 == 0o120000
            yield FileDetails(
                path=text,
                resolved=path_text(node.path),
                filesystem=node.filesystem.kind,
                type=stat.kind,
                size=stat.size,
                allocated=stat.allocated,
                inode=stat.inode,
                links=stat.links,
                mode=stat.mode,
                uid=stat.uid,
                gid=stat.gid,
                device=stat.device,
                accessed=when(stat.accessed_ns),
                modified=when(stat.modified_ns),
                changed=when(stat.changed_ns),
                created=when(stat.created_ns),
                attributes=stat.flags,
                target=path_text(node.filesystem.readlink(node.inode)) if is_link else None,
                xattrs=node.filesystem.xattrs(node.inode),
                extents=extents,
            )
        except (GuestPathError, FormatError, GuestError) as error:
            guest.problems.append(str(error))


def _time(value: datetime | None) -> str:
    return "-" if value is None else f"{value:%Y-%m-%d %H:%M:%S.%f} +0000"


def _text(rows: Iterable[FileDetails], _args: argparse.Namespace) -> Iterator[Line]:
    for row in rows:
        arrow = f" -> {row.target}" if row.target is not None else ""
        yield Line(f"  File: {row.path}{arrow}")
        device = f"   Device type: {row.device[0]},{row.device[1]}" if row.device else ""
        yield Line(f"  Size: {row.size:<15} Allocated: {row.allocated:<15} {row.type}{device}")
        yield Line(f"Filesystem: {row.filesystem:<9} Inode: {row.inode:<19} Links: {row.links}")
        yield Line(
            f"Access: ({row.mode & 0o7777:04o}/{mode_text(row.mode)})  Uid: {row.uid}   Gid: {row.gid}"
        )
        for name, value in (
            ("Access", row.accessed),
            ("Modify", row.modified),
            ("Change", row.changed),
            (" Birth", row.created),
        ):
            yield Line(f"{name}: {_time(value)}")
        if row.attributes:
            yield Line(f"Attributes: {' '.join(row.attributes)}")
        for name, data in sorted(row.xattrs.items()):
            yield Line(f"Xattr: {name}={data.decode('utf-8', 'backslashreplace')}")
        for extent in row.extents or ():
            place = "hole" if extent.disk_offset is None else f"at {extent.disk_offset}"
            zero = ", reads as zeros" if extent.is_zero and extent.disk_offset is not None else ""
            yield Line(f"Extent: {extent.offset}+{extent.size} {place}{zero}")


COMMAND = Command(
    name="virt-stat",
    summary="show everything a guest's filesystem says of files, from outside",
    description=(
        "Shows type, size, owner, times, extended attributes and, on request, the place on the disk of "
        "files in a guest, as stat would inside. Paths are paths of the guest; times are UTC."
    ),
    guests=Guests.DISK,
    options=(
        path_argument("paths", "files in the guest"),
        Option(("-L", "--dereference"), "follow a symbolic link at the end of a path"),
        Option(("--extents",), "show where the bytes of a file are in its filesystem, too"),
    ),
    rows=_rows,
    text=_text,
    examples=(Example("virt-stat -a disk.qcow2 /etc/shadow", "who may read it, and when it changed"),),
    see_also=("virt-ls", "virt-cat"),
)

main = COMMAND.main

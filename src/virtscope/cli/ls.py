"""virt-ls: the files in a guest's directories."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from virtscope.cli.command import Command, Example, Guests, Line, Option
from virtscope.cli.output import human_size
from virtscope.cli.paths import guest_path, mode_text, path_argument, path_text, when
from virtscope.errors import FormatError, GuestError, GuestPathError

if TYPE_CHECKING:
    from virtscope.fs.filesystem import Stat
    from virtscope.fs.tree import Node, Tree
    from virtscope.guest import Guest

_CHECKSUMS = ("md5", "sha1", "sha256", "sha512", "blake2b")
_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class File:
    """One file; times are UTC, None where the format keeps none.

    Attributes:
        path: in the guest.
        directory: the directory it was listed in; None for a file that was named itself.
        type: "file", "directory", "symbolic link"...
        mode: type and permissions as a number.
        target: of a symbolic link.
        checksum: of a regular file, if one was asked for.
        attributes: "immutable", "encrypted"...
    """

    path: str
    directory: str | None
    name: str
    type: str
    mode: int
    links: int
    uid: int
    gid: int
    size: int
    allocated: int
    device: tuple[int, int] | None
    modified: datetime | None
    accessed: datetime | None
    changed: datetime | None
    created: datetime | None
    inode: int
    attributes: tuple[str, ...]
    target: str | None
    checksum: str | None


@dataclass(frozen=True, slots=True)
class _Plain:
    """What the plain listing of one file needs, and no more: whole systems are listed this way."""

    directory: str | None
    name: str
    stat: Stat
    target: str | None
    checksum: str | None


def _checksum(node: Node, algorithm: str) -> str:
    import hashlib

    digest = hashlib.new(algorithm)
    offset = 0
    while data := node.filesystem.read(node.inode, offset, _CHUNK):
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()


def _looked_at(node: Node, directory: str | None, args: argparse.Namespace) -> _Plain:
    stat = node.stat()
    kind = stat.mode & 0o170000
    target = None
    if kind == 0o120000:
        target = path_text(node.filesystem.readlink(node.inode))
    checksum = _checksum(node, args.checksum) if args.checksum and kind == 0o100000 else None
    name = path_text(node.name if directory is not None else node.path)
    return _Plain(directory, name, stat, target, checksum)


def _full(plain: _Plain) -> File:
    stat = plain.stat
    above = plain.directory
    path = plain.name if above is None else f"{above.rstrip('/')}/{plain.name}"
    return File(
        path=path,
        directory=above,
        name=plain.name.rpartition("/")[2] or "/",
        type=stat.kind,
        mode=stat.mode,
        links=stat.links,
        uid=stat.uid,
        gid=stat.gid,
        size=stat.size,
        allocated=stat.allocated,
        device=stat.device,
        modified=when(stat.modified_ns),
        accessed=when(stat.accessed_ns),
        changed=when(stat.changed_ns),
        created=when(stat.created_ns),
        inode=stat.inode,
        attributes=stat.flags,
        target=plain.target,
        checksum=plain.checksum,
    )


def _listed(tree: Tree, guest: Guest, args: argparse.Namespace) -> Iterator[_Plain]:
    problem = guest.problems.append
    for text in args.paths:
        try:
            node = tree.resolve(guest_path(text))
            if node.stat().mode & 0o170000 != 0o040000:
                yield _looked_at(node, None, args)
                continue
        except (GuestPathError, FormatError, GuestError) as error:
            problem(str(error))
            continue
        top = path_text(node.path)
        walk = tree.walk(node, problem=problem) if args.recursive else [(node, _sorted(tree, node, problem))]
        for directory, inside in walk:
            place = path_text(directory.path) if args.recursive else top
            for child in inside:
                try:
                    yield _looked_at(child, place, args)
                except (FormatError, GuestError) as error:
                    problem(f"{path_text(child.path)}: {error}")
            if not inside and args.recursive:
                yield _Plain(place, "", directory.stat(), None, None)


def _sorted(tree: Tree, directory: Node, problem: Callable[[str], None]) -> list[Node]:
    return sorted(tree.children(directory, problem=problem), key=lambda node: node.path)


def _rows(guest: Guest, args: argparse.Namespace) -> Iterator[File | _Plain]:
    plain = _listed(guest.tree, guest, args)
    if args.json or args.jsonl:
        return (_full(row) for row in plain if row.name)
    return plain


def _times() -> tuple[int, str, str]:
    """Half a year ago, and the formats of times after and before it, as ls has them."""
    return (int(time.time()) - 15_778_476) * 1_000_000_000, "%b %e %H:%M", "%b %e  %Y"


def _text(rows: Iterable[_Plain], args: argparse.Namespace) -> Iterator[Line]:
    heading = len(args.paths) > 1 or args.recursive
    show = human_size if args.human else str
    here: str | None = None
    recent, format_recent, format_old = _times()
    formatted: dict[int, str] = {}
    for row in rows:
        if heading and row.directory is not None and row.directory != here:
            if here is not None:
                yield Line("")
            here = row.directory
            yield Line(f"{here}:", "bold" if args.color != "never" else None)
        if not row.name:
            continue
        if not args.long:
            yield Line(row.name if not row.checksum else f"{row.checksum}  {row.name}")
            continue
        stat = row.stat
        at = (stat.modified_ns or 0) // 60_000_000_000
        shown = formatted.get(at)
        if shown is None:
            old = stat.modified_ns is None or stat.modified_ns < recent
            try:
                shown = time.strftime(format_old if old else format_recent, time.gmtime(at * 60))
            except (OverflowError, ValueError, OSError):
                shown = "?"
            formatted[at] = shown
        size = show(stat.size) if stat.device is None else f"{stat.device[0]}, {stat.device[1]}"
        arrow = f" -> {row.target}" if row.target is not None else ""
        checksum = f"{row.checksum or '-'} " if args.checksum else ""
        yield Line(
            f"{mode_text(stat.mode)} {stat.links:>3} {stat.uid:>5} {stat.gid:>5} {size:>9} {shown:12} "
            f"{checksum}{row.name}{arrow}"
        )


COMMAND = Command(
    name="virt-ls",
    summary="list files in a guest's directories, from outside",
    description=(
        "Lists the files in directories of a guest, as ls would inside, from its disk images and without "
        "running anything in it. Paths are paths of the guest: its own /etc/fstab says what is mounted "
        "where. Owners are shown as numbers, times in UTC."
    ),
    guests=Guests.DISK,
    options=(
        path_argument("paths", "files and directories in the guest"),
        Option(("-l", "--long"), "mode, links, owner, group, size and time of modification, too"),
        Option(("-R", "--recursive"), "directories below, too"),
        Option(("-h", "--human-readable"), "sizes in powers of 1024 (1.5G)", dest="human"),
        Option(
            ("--checksum",),
            "show checksums of regular files, too",
            metavar="ALGORITHM",
            choices=_CHECKSUMS,
        ),
    ),
    rows=_rows,
    text=_text,
    streams=True,
    examples=(
        Example("virt-ls -lR -a disk.qcow2 /etc", "everything below /etc"),
        Example("virt-ls -d web -lh /var/log", "a running domain's logs"),
        Example("virt-ls -a disk.img -R --checksum sha256 --json /usr/bin", "checksums, for comparing"),
    ),
    see_also=("virt-cat", "virt-stat", "virt-copy-out", "virt-df"),
)

main = COMMAND.main

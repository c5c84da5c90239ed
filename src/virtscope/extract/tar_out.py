"""A guest's files as a tar stream: `tar_out`.

The stream is POSIX.1-2001 (pax): names of any bytes, times to the nanosecond, extended attributes as star and
GNU tar keep them (`SCHILY.xattr.`), hard links as links, and sparse files in GNU's sparse format 1.0, which
GNU tar and bsdtar unpack with their holes (https://www.gnu.org/software/tar/manual/html_node/PAX-1.html). It
is written from front to back and never needs the whole of anything in memory.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

from virtscope.errors import FormatError, VirtscopeError
from virtscope.extract.sparse import data_map

if TYPE_CHECKING:
    from virtscope.fs.filesystem import Stat
    from virtscope.fs.tree import Node, Tree

_BLOCK = 512
_CHUNK = 8 << 20
_SMALLEST_SPARSE = 64 << 10
_MOST_LINKS_REMEMBERED = 1_000_000

_TYPES = {
    0o010000: tarfile.FIFOTYPE,
    0o020000: tarfile.CHRTYPE,
    0o040000: tarfile.DIRTYPE,
    0o060000: tarfile.BLKTYPE,
    0o100000: tarfile.REGTYPE,
    0o120000: tarfile.SYMTYPE,
}


def tar_out(
    tree: Tree,
    top: Node,
    out: BinaryIO,
    *,
    problem: Callable[[str], None],
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Write `top`, and all below it if it is a directory, to `out` as a tar stream.

    Names in the stream are relative to `top`, which itself is `./`; a file that is no directory has its own
    name.

    Args:
        tree: the guest's files.
        top: where to begin.
        out: a binary stream; it is not closed.
        problem: told, in a sentence, of each file that could not be read or kept.
        progress: told how many bytes were written since it was last told.

    Raises:
        OSError: `out` cannot be written to.
        FormatError: `top` itself is damaged.
    """
    writer = _Writer(out, problem, progress)
    if top.stat().mode & 0o170000 != 0o040000:
        writer.add(top, os.fsdecode(top.name))
    else:
        base = len(top.path) if top.path.endswith(b"/") else len(top.path) + 1
        for directory, inside in tree.walk(top, problem=problem):
            name = os.fsdecode(directory.path[base:])
            writer.add(directory, f"./{name}/" if name else "./")
            for node in inside:
                writer.add_unless_directory(node, "./" + os.fsdecode(node.path[base:]))
    out.write(bytes(2 * _BLOCK))


class _Writer:
    def __init__(
        self, out: BinaryIO, problem: Callable[[str], None], progress: Callable[[int], None]
    ) -> None:
        self._out = out
        self._problem = problem
        self._progress = progress
        self._links: dict[tuple[int, int], str] = {}

    def add_unless_directory(self, node: Node, name: str) -> None:
        """Add what the walk does not come to later."""
        try:
            is_directory = node.stat().mode & 0o170000 == 0o040000
        except VirtscopeError as error:
            self._problem(f"{os.fsdecode(node.path)}: {error}")
            return
        if not is_directory:
            self.add(node, name)

    def add(self, node: Node, name: str) -> None:
        try:
            stat = node.stat()
            kind = _TYPES.get(stat.mode & 0o170000)
            if kind is None:
                self._problem(f"{os.fsdecode(node.path)} was left out: a tar file cannot hold a {stat.kind}")
                return
            header = self._header(node, stat, name, kind)
            parts = None
            if header.type == tarfile.REGTYPE:
                parts = [(start, size) for start, size, is_zero in data_map(node, stat.size) if not is_zero]
        except VirtscopeError as error:
            self._problem(f"{os.fsdecode(node.path)}: {error}")
            return
        if kind != tarfile.DIRTYPE and stat.links > 1 and len(self._links) < _MOST_LINKS_REMEMBERED:
            # Only now: a link to a file that is not in the stream would cost its other names, too.
            self._links.setdefault((id(node.filesystem), node.inode), name)
        if parts is not None:
            self._add_file(node, stat, header, parts)
        else:
            self._write(_encoded(header))

    def _header(self, node: Node, stat: Stat, name: str, kind: bytes) -> tarfile.TarInfo:
        header = tarfile.TarInfo(name)
        header.type = kind
        header.mode = stat.mode & 0o7777
        header.uid, header.gid = stat.uid, stat.gid
        header.mtime = (stat.modified_ns or 0) // 1_000_000_000
        pax = header.pax_headers = {}
        for key, value in (
            ("mtime", stat.modified_ns),
            ("atime", stat.accessed_ns),
            ("ctime", stat.changed_ns),
        ):
            if value is not None:
                pax[key] = _seconds(value)
        if kind == tarfile.SYMTYPE:
            target = node.filesystem.readlink(node.inode)
            if not target or b"\0" in target:
                what = f"the link has the impossible target {os.fsdecode(target)!r}"
                raise FormatError(node.filesystem.kind, what)
            header.linkname = os.fsdecode(target)
        if stat.device is not None:
            header.devmajor, header.devminor = stat.device
        if kind != tarfile.DIRTYPE and stat.links > 1:
            first = self._links.get((id(node.filesystem), node.inode))
            if first is not None:
                header.type = tarfile.LNKTYPE
                header.linkname = first
                return header
        try:
            attributes = node.filesystem.xattrs(node.inode)
        except VirtscopeError as error:
            self._problem(f"{os.fsdecode(node.path)} has lost its extended attributes: {error}")
            attributes = {}
        for attribute, data in attributes.items():
            if not _can_be_keyword(attribute):
                self._problem(
                    f"{os.fsdecode(node.path)} has lost the attribute {attribute!r}: it is no UTF-8"
                )
                continue
            # As GNU tar has them: the sign that ends a keyword cannot be in it.
            keyword = attribute.replace("%", "%25").replace("=", "%3D")
            pax[f"SCHILY.xattr.{keyword}"] = data.decode("utf-8", "surrogateescape")
        return header

    def _add_file(
        self, node: Node, stat: Stat, header: tarfile.TarInfo, parts: list[tuple[int, int]]
    ) -> None:
        stored = sum(size for _, size in parts)
        if stat.size - stored < _SMALLEST_SPARSE:
            header.size = stat.size
            self._write(_encoded(header))
            self._write_parts(node, [(0, stat.size)])
            return
        if not parts or parts[-1][0] + parts[-1][1] < stat.size:
            parts.append((stat.size, 0))
        numbers = "".join(f"{number}\n" for number in [len(parts), *(n for part in parts for n in part)])
        table = numbers.encode()
        table += bytes(-len(table) % _BLOCK)
        name = header.name
        header.pax_headers = {
            **header.pax_headers,
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": name,
            "GNU.sparse.realsize": str(stat.size),
        }
        folder, _, last = name.rpartition("/")
        header.name = f"{folder}/GNUSparseFile.0/{last}" if folder else f"GNUSparseFile.0/{last}"
        header.size = len(table) + stored
        self._write(_encoded(header))
        self._write(table)
        self._write_parts(node, parts)

    def _write_parts(self, node: Node, parts: list[tuple[int, int]]) -> None:
        """The bytes of a file, padded; what cannot be read becomes zeros, so that the stream stays one."""
        written = 0
        told = False
        for start, size in parts:
            position = start
            while position < start + size:
                wanted = min(_CHUNK, start + size - position)
                data, why = b"", "it ends before its size"
                try:
                    data = node.filesystem.read(node.inode, position, wanted)
                except VirtscopeError as error:
                    why = str(error)
                if len(data) < wanted and not told:
                    self._problem(f"{os.fsdecode(node.path)} has zeros where it cannot be read: {why}")
                    told = True
                self._write(data.ljust(wanted, b"\0"))
                position += wanted
                written += wanted
        self._write(bytes(-written % _BLOCK))

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._progress(len(data))


def _encoded(header: tarfile.TarInfo) -> bytes:
    """The header's blocks; bytes that are no UTF-8 are kept as they are (GNU tar reads them so)."""
    return header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _can_be_keyword(attribute: str) -> bool:
    """Whether a pax header can hold an attribute of that name: its keywords are UTF-8 and end with a byte."""
    try:
        attribute.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in attribute


def _seconds(nanoseconds: int) -> str:
    """Decimal seconds, as pax headers have times."""
    sign = "-" if nanoseconds < 0 else ""
    seconds, rest = divmod(abs(nanoseconds), 1_000_000_000)
    return f"{sign}{seconds}.{rest:09d}" if rest else f"{sign}{seconds}"

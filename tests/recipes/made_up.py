"""A filesystem out of nothing, for tests of what stands on filesystems: any names, any damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from virtscope.block.source import BlockSource
from virtscope.errors import FormatError
from virtscope.fs.filesystem import Entry, FileExtent, Filesystem, Stat

DIRECTORY, FILE, LINK, SOCKET = 0o040755, 0o100644, 0o120777, 0o140755


@dataclass
class File:
    """One inode; a `damage` is raised whenever its content (or, for "stat", it itself) is asked for."""

    mode: int
    content: bytes = b""
    names: list[tuple[bytes, int]] = field(default_factory=list)
    links: int = 1
    xattrs: dict[str, bytes] = field(default_factory=dict)
    damage: BaseException | None = None
    damaged: str = "content"


class _Nothing(BlockSource):
    def _read(self, _offset: int, size: int) -> bytes:
        return bytes(size)


class MadeUp(Filesystem):
    """Inodes by number; 1 is the root."""

    kind = "made-up"
    root_inode = 1

    def __init__(self, inodes: dict[int, File]) -> None:
        super().__init__(_Nothing("nothing", 0))
        self._inodes = inodes

    def _file(self, inode: int, what: str) -> File:
        file = self._inodes.get(inode)
        if file is None:
            raise FormatError(self.kind, f"there is no inode {inode}")
        if file.damage is not None and file.damaged == what:
            raise file.damage
        return file

    def stat(self, inode: int) -> Stat:
        file = self._file(inode, "stat")
        return Stat(
            inode, file.mode, file.links, 0, 0, len(file.content), 0, None, 10**18, 10**18, 10**18, None
        )

    def entries(self, inode: int) -> Iterator[Entry]:
        for name, number in self._file(inode, "nothing").names:
            yield Entry(name, number, None)
        self._file(inode, "content")

    def readlink(self, inode: int) -> bytes:
        return self._file(inode, "content").content

    def xattrs(self, inode: int) -> dict[str, bytes]:
        return self._file(inode, "xattrs").xattrs

    def extents(self, inode: int) -> Iterator[FileExtent]:
        file = self._file(inode, "extents")
        if file.content:
            yield FileExtent(0, len(file.content), None)

    def read(self, inode: int, offset: int, size: int) -> bytes:
        return self._file(inode, "content").content[offset : offset + size]


def collect() -> tuple[list[str], Callable[[str], None]]:
    """A list of problems, and what adds to it."""
    problems: list[str] = []
    return problems, problems.append

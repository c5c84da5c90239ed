"""`Filesystem`: what every reader of a filesystem offers, and the rows it speaks in.

A reader works on inode numbers; paths, symbolic links and mounts are `fs.tree`'s. It implements the methods
that raise NotImplementedError; reading a file's bytes derives from `extents` unless a format keeps them in
another way (inline, compressed) and overrides `read`.

Everything is read-only, and everything a disk says is doubted: sizes are bounded, walks remember where they
have been, and what contradicts itself is a FormatError with format, field and offset.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from virtscope.block.source import BlockSource

KIND_OF_MODE = {
    0o010000: "fifo",
    0o020000: "character device",
    0o040000: "directory",
    0o060000: "block device",
    0o100000: "file",
    0o120000: "symbolic link",
    0o140000: "socket",
}
"""The words for the file types of `st_mode & S_IFMT`."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a superblock says a filesystem (or swap area) is, without looking further.

    Attributes:
        kind: "ext4", "xfs", "swap"...; "unknown" when no reader knows it.
        uuid: in the form the system's own tools print it; None when there is none.
        label: None when it was never set.
        size: bytes, as the superblock has it.
        magic: the first bytes, when the kind is unknown.
    """

    kind: str
    uuid: str | None = None
    label: str | None = None
    size: int | None = None
    magic: bytes = b""


@dataclass(frozen=True, slots=True)
class Usage:
    """How full a filesystem is: what statfs(2) would give of it when mounted with default options.

    Attributes:
        block_size: bytes (f_bsize).
        blocks: data blocks in the filesystem (f_blocks).
        free_blocks: free blocks, those reserved for root among them (f_bfree).
        available_blocks: free blocks that anybody may use (f_bavail).
        inodes: how many there are, or can be (f_files).
        free_inodes: f_ffree.
    """

    block_size: int
    blocks: int
    free_blocks: int
    available_blocks: int
    inodes: int
    free_inodes: int


@dataclass(frozen=True, slots=True)
class Stat:
    """What stat(2) would say of an inode; times are nanoseconds since 1970, None when the format has none.

    Attributes:
        inode: its number.
        mode: type and permissions (st_mode).
        links: hard links.
        size: bytes.
        allocated: bytes of disk taken (st_blocks * 512).
        device: (major, minor) of a device node, else None.
        flags: attributes by chattr's words: "immutable", "append-only", "encrypted", "casefold", "verity"...
    """

    inode: int
    mode: int
    links: int
    uid: int
    gid: int
    size: int
    allocated: int
    device: tuple[int, int] | None
    accessed_ns: int | None
    modified_ns: int | None
    changed_ns: int | None
    created_ns: int | None
    flags: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The file's type in words; see `KIND_OF_MODE`."""
        return KIND_OF_MODE.get(self.mode & 0o170000, "unknown")


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory.

    Attributes:
        name: the bytes, as on disk; for an encrypted directory, what the kernel shows without the key.
        inode: the inode it names.
        kind: as `Stat.kind`; None when the directory does not say.
    """

    name: bytes
    inode: int
    kind: str | None


@dataclass(frozen=True, slots=True)
class FileExtent:
    """A run of a file's bytes.

    Attributes:
        offset: where it begins in the file.
        size: bytes; the last one ends at the file's size, not at a block's end.
        disk_offset: where it lies in the filesystem's source; None when it does not (a hole, inline data).
        is_zero: it reads as zeros: a hole, or allocated and not yet written.
    """

    offset: int
    size: int
    disk_offset: int | None
    is_zero: bool = False


class Filesystem:
    """A filesystem in a `BlockSource`, opened for reading.

    Args:
        source: the bytes it is in.

    Attributes:
        kind: "ext4", "xfs"...
        source: as given; with the journal replayed over it, if there was one to replay.
        notes: sentences a user should see, because the results depend on them ("its log could not be
            replayed").
    """

    kind: str = ""
    root_inode: int = 0

    def __init__(self, source: BlockSource) -> None:
        self.source = source
        self.notes: list[str] = []

    def identity(self) -> Identity:
        """Kind, UUID, label, size."""
        raise NotImplementedError

    def usage(self) -> Usage:
        """How full it is, as statfs(2) gives it."""
        raise NotImplementedError

    def stat(self, inode: int) -> Stat:
        """What stat(2) says of `inode`.

        Raises:
            FormatError: there is no such inode, or it is damaged.
        """
        raise NotImplementedError

    def entries(self, inode: int) -> Iterator[Entry]:
        """The names in the directory `inode`, in the order of the disk, without `.` and `..`.

        On a damaged disk there may be some that no kernel would give, with a slash: `Tree` shows none of them
        to who joins paths.

        Raises:
            FormatError: it is no directory, or a damaged one; names that could be read have been yielded.
        """
        raise NotImplementedError

    def lookup(self, inode: int, name: bytes) -> int | None:
        """The inode that `name` in the directory `inode` names; None if there is no such name."""
        return next((entry.inode for entry in self.entries(inode) if entry.name == name), None)

    def readlink(self, inode: int) -> bytes:
        """The target of the symbolic link `inode`; an encrypted one as shown without the key."""
        raise NotImplementedError

    def xattrs(self, inode: int) -> dict[str, bytes]:
        """The extended attributes by full name ("user.comment", "system.posix_acl_access"), as getxattr(2)
        has them.

        A filesystem's own form of an attribute (ext4's ACLs) is converted to the system call's.
        """
        raise NotImplementedError

    def extents(self, inode: int) -> Iterator[FileExtent]:
        """Where the bytes of the file `inode` are: from 0 to its size, in order, without gaps."""
        raise NotImplementedError

    def inodes(self) -> Iterator[int]:
        """The numbers of all inodes in use, ascending."""
        raise NotImplementedError

    def read(self, inode: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes of the file `inode` at `offset`; fewer only at its end."""
        pieces = []
        end = offset + size
        for extent in self.extents(inode):
            start = max(extent.offset, offset)
            stop = min(extent.offset + extent.size, end)
            if start < stop:
                if extent.is_zero:
                    pieces.append(bytes(stop - start))
                else:
                    assert extent.disk_offset is not None
                    within = start - extent.offset
                    pieces.append(self.source.read_at(extent.disk_offset + within, stop - start))
            if extent.offset >= end:
                break
        return b"".join(pieces)

    def open(self, inode: int) -> FileReader:
        """The file `inode` as a binary file object."""
        return FileReader(self, inode)

    def owners(self, disk_offset: int) -> Iterator[int]:
        """The inodes whose bytes lie at `disk_offset`; several when the format shares blocks."""
        for inode in self.inodes():
            if self.stat(inode).mode & 0o170000 not in (0o100000, 0o040000, 0o120000):
                continue
            for extent in self.extents(inode):
                start = extent.disk_offset
                if start is not None and start <= disk_offset < start + extent.size:
                    yield inode
                    break


class FileReader(io.RawIOBase):
    """A file of an image, for everything that takes a binary file object; wrap it in io.BufferedReader for
    lines.
    """

    def __init__(self, filesystem: Filesystem, inode: int) -> None:
        super().__init__()
        self._filesystem = filesystem
        self._inode = inode
        self._size = filesystem.stat(inode).size
        self._position = 0

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to `offset` from the start, the current place or the end; returns the new place."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` from the current place; returns how many bytes there were."""
        view = memoryview(buffer).cast("B")
        data = self._filesystem.read(self._inode, self._position, min(len(view), self._size - self._position))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

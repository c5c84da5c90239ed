"""`XfsFilesystem`: the reader that ties the parts of the format together."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING

from virtscope.errors import FormatError, UnsupportedFeature
from virtscope.fs.filesystem import Entry, FileExtent, Filesystem, Identity, Stat, Usage
from virtscope.fs.xfs import attributes, directory, groups
from virtscope.fs.xfs.blocks import ForkBlocks
from virtscope.fs.xfs.extents import Extent, read_extents
from virtscope.fs.xfs.inode import FORMAT_BTREE, FORMAT_EXTENTS, FORMAT_LOCAL, LoadedInode, is_known_kind
from virtscope.fs.xfs.superblock import FORMAT, INCOMPAT_NEEDSREPAIR, SuperBlock
from virtscope.fs.xfs.usage import usage

if TYPE_CHECKING:
    from virtscope.block.source import BlockSource

_DIRECTORY, _FILE, _LINK = 0o040000, 0o100000, 0o120000
_INODES_KEPT = 512
_LONGEST_LINK = 1024
_LONGEST_LINK_BYTES = 1 << 17
_LINK_MAGIC = b"XSLM"
_LINK_HEADER_SIZE = 56


class XfsFilesystem(Filesystem):
    """An XFS filesystem, opened for reading.

    Args:
        source: the bytes it is in, with its log replayed over it if there was something to replay.
        superblock: its superblock.
        is_clean: whether its log is empty: the superblock's counters are right only then.
        verify: verify the checksums of metadata, where it has them.

    Attributes:
        superblock: as given.
    """

    kind = FORMAT

    def __init__(
        self, source: BlockSource, superblock: SuperBlock, *, is_clean: bool = True, verify: bool = False
    ) -> None:
        super().__init__(source)
        self.superblock = superblock
        self.root_inode = superblock.sb_rootino
        self._metadata = source
        if verify and superblock.is_v5:
            from virtscope.fs.xfs.checksums import VerifiedSource

            self._metadata = VerifiedSource(source, superblock)
            self._metadata.read_at(0, superblock.sb_sectsize)
        self._is_clean = is_clean
        self._inodes: dict[int, LoadedInode] = {}
        self._mapped: tuple[int, list[Extent], list[int]] = (0, [], [])
        if superblock.has_incompat(INCOMPAT_NEEDSREPAIR):
            self.notes.append("this XFS filesystem is marked as needing xfs_repair; it may be damaged")
        missing = (superblock.sb_dblocks << superblock.sb_blocklog) - source.size
        if missing > 0:
            self.notes.append(f"this XFS filesystem is larger than its volume: {missing} bytes are missing")

    def identity(self) -> Identity:
        """As of `Filesystem`."""
        return self.superblock.identity()

    def usage(self) -> Usage:
        """As of `Filesystem`."""
        return usage(self._metadata, self.superblock, is_clean=self._is_clean)

    def stat(self, inode: int) -> Stat:
        """As of `Filesystem`."""
        return self.load(inode).stat(self.superblock.sb_blocklog)

    def entries(self, inode: int) -> Iterator[Entry]:
        """As of `Filesystem`."""
        loaded = self._directory(inode)
        return directory.entries(self._directory_blocks(loaded), loaded, self.superblock)

    def lookup(self, inode: int, name: bytes) -> int | None:
        """As of `Filesystem`; where the filesystem ignores the case of names, so does this."""
        loaded = self._directory(inode)
        return directory.lookup(self._directory_blocks(loaded), loaded, self.superblock, name)

    def readlink(self, inode: int) -> bytes:
        """As of `Filesystem`."""
        loaded = self.load(inode)
        if loaded.kind != _LINK:
            raise FormatError(FORMAT, f"inode {inode} is no symbolic link", offset=loaded.offset)
        size = loaded.core.di_size
        if not 0 < size <= _LONGEST_LINK:
            raise FormatError(
                FORMAT, f"a symbolic link of {size} bytes", field="di_size", offset=loaded.offset + 56
            )
        if loaded.core.di_format == FORMAT_LOCAL:
            target = loaded.data_fork[:size]
        else:
            target = self._remote_link(loaded, size)
        if len(target) < size:
            raise FormatError(FORMAT, f"the target of link {inode} is not all there", offset=loaded.offset)
        return target

    def xattrs(self, inode: int) -> dict[str, bytes]:
        """As of `Filesystem`."""
        loaded = self.load(inode)
        blocks = None
        if loaded.attributes_start and loaded.core.di_aformat != FORMAT_LOCAL:
            extents = read_extents(self._metadata, self.superblock, loaded, attributes=True)
            size = self.superblock.sb_blocksize
            blocks = ForkBlocks(self._metadata, self.superblock, inode, extents, size)
            if not extents:
                return {}
        return attributes.xattrs(blocks, loaded, self.superblock)

    def extents(self, inode: int) -> Iterator[FileExtent]:
        """As of `Filesystem`."""
        loaded = self.load(inode)
        bits = self.superblock.sb_blocklog
        end = loaded.core.di_size
        if loaded.core.di_format == FORMAT_LOCAL:
            if end:
                yield FileExtent(0, min(end, len(loaded.data_fork)), loaded.offset + loaded.fork_start)
            return
        reached = 0
        for start_block, fsblock, count, unwritten in self._extents(loaded):
            start = start_block << bits
            if start >= end:
                break
            if start > reached:
                yield FileExtent(reached, start - reached, None, is_zero=True)
            reached = min(start + (count << bits), end)
            disk_offset = self.superblock.offset_of(fsblock)
            yield FileExtent(start, reached - start, disk_offset, is_zero=unwritten)
        if reached < end:
            yield FileExtent(reached, end - reached, None, is_zero=True)

    def read(self, inode: int, offset: int, size: int) -> bytes:
        """As of `Filesystem`."""
        loaded = self.load(inode)
        end = min(offset + size, loaded.core.di_size)
        if offset >= end:
            return b""
        if loaded.core.di_format == FORMAT_LOCAL:
            return loaded.data_fork[offset:end]
        extents = self._extents(loaded)
        bits = self.superblock.sb_blocklog
        index = max(bisect_right(self._mapped[2], offset >> bits) - 1, 0)
        pieces = []
        while offset < end:
            if index < len(extents):
                start_block, fsblock, count, unwritten = extents[index]
                start = start_block << bits
                stop = start + (count << bits)
            else:
                start = stop = end
                fsblock, unwritten = 0, True
            if offset < start:
                stop = min(start, end)
                pieces.append(bytes(stop - offset))
                offset = stop
                continue
            index += 1
            stop = min(stop, end)
            if offset >= stop:
                continue
            if unwritten:
                pieces.append(bytes(stop - offset))
            else:
                disk_offset = self.superblock.offset_of(fsblock) + offset - start
                pieces.append(self.source.read_at(disk_offset, stop - offset))
            offset = stop
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def inodes(self) -> Iterator[int]:
        """As of `Filesystem`."""
        return groups.inodes(self._metadata, self.superblock)

    def load(self, inode: int) -> LoadedInode:
        """An inode with its bytes.

        Raises:
            FormatError: there is no such inode, or it is damaged.
        """
        loaded = self._inodes.get(inode)
        if loaded is None:
            superblock = self.superblock
            bits = superblock.sb_inopblog
            fsblock = inode >> bits
            if inode < 0 or not superblock.holds(fsblock, 1):
                raise FormatError(FORMAT, f"there is no inode {inode}")
            slot = inode & ((1 << bits) - 1)
            offset = superblock.offset_of(fsblock) + (slot << superblock.sb_inodelog)
            data = self._metadata.read_at(offset, superblock.sb_inodesize)
            loaded = LoadedInode(inode, offset, data, superblock)
            if not is_known_kind(loaded.core.di_mode):
                raise FormatError(FORMAT, f"there is no inode {inode}", field="di_mode", offset=offset + 2)
            if len(self._inodes) >= _INODES_KEPT:
                self._inodes.clear()
            self._inodes[inode] = loaded
        return loaded

    def _directory(self, inode: int) -> LoadedInode:
        loaded = self.load(inode)
        if loaded.kind != _DIRECTORY:
            raise FormatError(FORMAT, f"inode {inode} is no directory", offset=loaded.offset)
        return loaded

    def _directory_blocks(self, loaded: LoadedInode) -> ForkBlocks:
        size = self.superblock.sb_blocksize << self.superblock.sb_dirblklog
        extents = [] if loaded.core.di_format == FORMAT_LOCAL else self._extents(loaded)
        return ForkBlocks(self._metadata, self.superblock, loaded.number, extents, size)

    def _extents(self, loaded: LoadedInode) -> list[Extent]:
        """The extents of a data fork; those of the last file asked for are kept."""
        number, found, _ = self._mapped
        if number != loaded.number:
            if loaded.core.di_format not in (FORMAT_EXTENTS, FORMAT_BTREE):
                if loaded.kind not in (_FILE, _DIRECTORY, _LINK):
                    return []
                raise FormatError(
                    FORMAT,
                    f"inode {loaded.number}: data of format {loaded.core.di_format}",
                    field="di_format",
                    offset=loaded.offset + 5,
                )
            if loaded.is_realtime:
                raise UnsupportedFeature(
                    FORMAT, f"the data of inode {loaded.number} is on a realtime device, which is not read"
                )
            found = read_extents(self._metadata, self.superblock, loaded)
            self._mapped = (loaded.number, found, [extent.file_block for extent in found])
        return found

    def _remote_link(self, loaded: LoadedInode, size: int) -> bytes:
        """The target of a long symbolic link; in v5, every block of it has a header."""
        extents = self._extents(loaded)
        header_size = _LINK_HEADER_SIZE if self.superblock.is_v5 else 0
        target = b""
        bits = self.superblock.sb_blocklog
        for extent in extents[:3]:
            offset = self.superblock.offset_of(extent.fsblock)
            # The blocks of one extent share a header: it stands for what was written at once.
            data = self._metadata.read_at(offset, min(extent.block_count << bits, _LONGEST_LINK_BYTES))
            if header_size and data[:4] != _LINK_MAGIC:
                raise FormatError(
                    FORMAT, f"no target of the link {loaded.number}", field="sl_magic", offset=offset
                )
            target += data[header_size:]
            if len(target) >= size:
                break
        return target[:size]

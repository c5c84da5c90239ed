"""The blocks of directories and attributes: files of metadata, read block by block through their extents."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING

from virtscope.errors import FormatError
from virtscope.fs.xfs.checksums import VerifiedSource
from virtscope.fs.xfs.superblock import FORMAT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtscope.block.source import BlockSource
    from virtscope.fs.xfs.extents import Extent
    from virtscope.fs.xfs.superblock import SuperBlock


class ForkBlocks:
    """The bytes of a fork whose blocks are metadata.

    Args:
        source: the filesystem's bytes.
        superblock: its superblock.
        inode: whose fork it is, for messages.
        extents: where its blocks are.
        block_size: the size of a unit in bytes: a directory block may be several blocks, that need not be
            neighbours.
    """

    def __init__(
        self,
        source: BlockSource,
        superblock: SuperBlock,
        inode: int,
        extents: Sequence[Extent],
        block_size: int,
    ) -> None:
        self._source = source
        self._superblock = superblock
        self._inode = inode
        self._extents = extents
        self._starts = [extent.file_block for extent in extents]
        self.block_size = block_size

    def read(self, place: int, size: int) -> tuple[int, bytes]:
        """The `size` bytes at `place` in the fork, whole blocks; and where the first of them is on the disk.

        Raises:
            FormatError: there is a hole.
        """
        bits = self._superblock.sb_blocklog
        block, left = place >> bits, -(-size >> bits)
        first = -1
        pieces = []
        # A directory block in several pieces has one checksum.
        verified = self._source if isinstance(self._source, VerifiedSource) else None
        source = self._source if verified is None else verified.parent
        index = bisect_right(self._starts, block) - 1
        while left > 0:
            extent = self._extents[index] if 0 <= index < len(self._extents) else None
            if extent is None or not extent.file_block <= block < extent.file_block + extent.block_count:
                raise FormatError(
                    FORMAT, f"inode {self._inode}: a hole where there should be metadata", offset=place
                )
            skipped = block - extent.file_block
            count = min(left, extent.block_count - skipped)
            offset = self._superblock.offset_of(extent.fsblock + skipped)
            if first < 0:
                first = offset
            pieces.append(source.read_at(offset, count << bits))
            block += count
            left -= count
            index += 1
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if verified is not None:
            verified.verify(first, data)
        return first, data

    def directory_blocks(self, end: int) -> Iterator[tuple[int, int, bytes]]:
        """Place, offset on the disk and bytes of each block that there is before `end` bytes."""
        bits = self._superblock.sb_blocklog
        step = self.block_size >> bits
        reached = 0
        for extent in self._extents:
            block = max(extent.file_block, reached)
            while block < extent.file_block + extent.block_count and block << bits < end:
                offset, data = self.read(block << bits, self.block_size)
                yield block << bits, offset, data
                block += step
            reached = block
            if extent.file_block << bits >= end:
                break

"""Block groups: where their tables are, and how much is free in them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from virtscope.bitmatch import pattern
from virtscope.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtscope.block.source import BlockSource
    from virtscope.fs.ext4.checksums import Checksums
    from virtscope.fs.ext4.superblock import Geometry

GroupDescriptor32 = pattern(
    "ext4_group_desc",
    """little
    bg_block_bitmap_lo : 32; bg_inode_bitmap_lo : 32; bg_inode_table_lo : 32
    bg_free_blocks_count_lo : 16; bg_free_inodes_count_lo : 16; bg_used_dirs_count_lo : 16; bg_flags : 16
    bg_exclude_bitmap_lo : 32; bg_block_bitmap_csum_lo : 16; bg_inode_bitmap_csum_lo : 16
    bg_itable_unused_lo : 16; bg_checksum : 16
    """,
)

GroupDescriptor64 = pattern(
    "ext4_group_desc",
    """little
    *GroupDescriptor32
    bg_block_bitmap_hi : 32; bg_inode_bitmap_hi : 32; bg_inode_table_hi : 32
    bg_free_blocks_count_hi : 16; bg_free_inodes_count_hi : 16; bg_used_dirs_count_hi : 16
    bg_itable_unused_hi : 16; bg_exclude_bitmap_hi : 32
    bg_block_bitmap_csum_hi : 16; bg_inode_bitmap_csum_hi : 16; bg_reserved : 32
    """,
)

INODE_UNINIT = 0x1

_FREE_BLOCKS = (12, 44)
_FREE_INODES = (14, 46)
_READ_AT_ONCE = 1 << 20
_BLOCKS_KEPT = 256


class Group:
    """One block group.

    Attributes:
        block_bitmap: the block it is in.
        inode_bitmap: the block it is in.
        inode_table: its first block.
        flags: bg_flags.
        unused_inodes: inodes at the end of the table that were never used.
        inode_bitmap_checksum: as stored; of 16 bits in small descriptors.
    """

    __slots__ = (
        "block_bitmap",
        "flags",
        "inode_bitmap",
        "inode_bitmap_checksum",
        "inode_table",
        "unused_inodes",
    )

    def __init__(self, data: bytes, offset: int, size: int) -> None:
        if size >= 64:
            wide = GroupDescriptor64.parse(data, offset)
            self.block_bitmap: int = wide.bg_block_bitmap_lo | wide.bg_block_bitmap_hi << 32
            self.inode_bitmap: int = wide.bg_inode_bitmap_lo | wide.bg_inode_bitmap_hi << 32
            self.inode_table: int = wide.bg_inode_table_lo | wide.bg_inode_table_hi << 32
            self.unused_inodes: int = wide.bg_itable_unused_lo | wide.bg_itable_unused_hi << 16
            self.flags: int = wide.bg_flags
            self.inode_bitmap_checksum: int = (
                wide.bg_inode_bitmap_csum_lo | wide.bg_inode_bitmap_csum_hi << 16
            )
        else:
            narrow = GroupDescriptor32.parse(data, offset)
            self.block_bitmap = narrow.bg_block_bitmap_lo
            self.inode_bitmap = narrow.bg_inode_bitmap_lo
            self.inode_table = narrow.bg_inode_table_lo
            self.unused_inodes = narrow.bg_itable_unused_lo
            self.flags = narrow.bg_flags
            self.inode_bitmap_checksum = narrow.bg_inode_bitmap_csum_lo


class Groups:
    """The table of group descriptors, read when it is needed.

    Args:
        source: the volume.
        geometry: of the filesystem.
        checksums: verifies them, if given.
    """

    def __init__(self, source: BlockSource, geometry: Geometry, checksums: Checksums | None = None) -> None:
        self._source = source
        self._checksums = checksums
        self._geometry = geometry
        self._blocks: dict[int, bytes] = {}

    def group(self, number: int) -> Group:
        """A group, by its number, which has to be one.

        Raises:
            FormatError: the volume ends before its descriptor, or before the tables it names.
        """
        geometry = self._geometry
        index, within = divmod(number, geometry.descriptors_per_block)
        data = self._blocks.get(index)
        if data is None:
            block = geometry.descriptor_block(index)
            data = self._source.read_at(block << geometry.block_bits, geometry.block_size)
            if len(self._blocks) >= _BLOCKS_KEPT:
                self._blocks.clear()
            self._blocks[index] = data
        place, size = within * geometry.descriptor_size, geometry.descriptor_size
        if self._checksums is not None:
            self._checksums.group(number, data[place : place + size])
        group = Group(data, place, size)
        if not 0 < group.inode_table <= geometry.blocks_count - geometry.inode_table_blocks:
            raise FormatError(
                "ext4",
                f"the inode table of group {number} would begin at block {group.inode_table}",
                field="bg_inode_table_lo",
                offset=(geometry.descriptor_block(index) << geometry.block_bits)
                + within * geometry.descriptor_size
                + 8,
            )
        return group

    def free_counts(self) -> tuple[int, int]:
        """Free clusters and free inodes, the sums over all groups.

        The kernel takes them from here, too: the superblock's own are from when it was last unmounted.
        """
        clusters = inodes = 0
        size = self._geometry.descriptor_size
        wide = size >= 64
        for table in self._tables():
            # Strided views sum a whole table without a record for each of thousands of groups.
            numbers = struct.unpack(f"<{len(table) // 2}H", table)
            step = size // 2
            clusters += sum(numbers[_FREE_BLOCKS[0] // 2 :: step])
            inodes += sum(numbers[_FREE_INODES[0] // 2 :: step])
            if wide:
                clusters += sum(numbers[_FREE_BLOCKS[1] // 2 :: step]) << 16
                inodes += sum(numbers[_FREE_INODES[1] // 2 :: step]) << 16
        return clusters, inodes

    def _tables(self) -> Iterator[bytes]:
        """The descriptors of all groups, in as few pieces as they lie in."""
        geometry = self._geometry
        remaining = geometry.groups * geometry.descriptor_size
        number = 0
        while remaining > 0:
            first = geometry.descriptor_block(number)
            count = 1
            most = _READ_AT_ONCE >> geometry.block_bits
            while (
                count < most
                and count << geometry.block_bits < remaining
                and geometry.descriptor_block(number + count) == first + count
            ):
                count += 1
            size = min(count << geometry.block_bits, remaining)
            yield self._source.read_at(first << geometry.block_bits, size)
            remaining -= size
            number += count

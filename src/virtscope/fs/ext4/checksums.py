"""The checksums of metadata (metadata_csum, and gdt_csum for group descriptors), verified when asked.

CRC-32C over the structure, begun with a seed that is the filesystem's own, so that a block of another
filesystem never looks right; most go on from the number and generation of the inode they belong to. See the
kernel's Documentation/filesystems/ext4/checksums.rst.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from virtscope.errors import FormatError
from virtscope.fs.crc32c import crc32c
from virtscope.fs.ext4.superblock import (
    INCOMPAT_CSUM_SEED,
    RO_COMPAT_GDT_CSUM,
    RO_COMPAT_METADATA_CSUM,
    SUPERBLOCK_OFFSET,
    SUPERBLOCK_SIZE,
)

if TYPE_CHECKING:
    from virtscope.block.source import BlockSource
    from virtscope.fs.ext4.superblock import SuperBlock

_SUPERBLOCK_CHECKSUM = 0x3FC
_GROUP_CHECKSUM = 0x1E
_INODE_CHECKSUM_LOW = 0x7C
_INODE_EXTRA_SIZE = 0x80
_INODE_CHECKSUM_HIGH = 0x82
_GENERATION = 0x64
_XATTR_CHECKSUM = 0x10
_EXTENT_MAXIMUM = 4
_EXTENT_SIZE = 12
_DIRECTORY_TAIL_SIZE = 12
_INDEX_ROOT, _INDEX_NODE = 0x20, 0x08
_INDEX_ENTRY_SIZE = 8
_LARGEST_BLOCK = 1 << 16


class Checksums:
    """Verifies structures of one filesystem; each method raises FormatError if a checksum is wrong.

    Args:
        source: the volume.
        superblock: of it; verified at once.
    """

    def __init__(self, source: BlockSource, superblock: SuperBlock) -> None:
        self.is_full = superblock.has_ro_compat(RO_COMPAT_METADATA_CSUM)
        self._uuid = superblock.s_uuid
        self._old_groups = superblock.has_ro_compat(RO_COMPAT_GDT_CSUM) and not self.is_full
        if superblock.has_incompat(INCOMPAT_CSUM_SEED):
            self._seed = superblock.s_checksum_seed
        else:
            self._seed = crc32c(superblock.s_uuid)
        if self.is_full:
            data = source.read_at(SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE)
            if crc32c(data[:_SUPERBLOCK_CHECKSUM]) != superblock.s_checksum:
                raise _wrong("the superblock", "s_checksum", SUPERBLOCK_OFFSET + _SUPERBLOCK_CHECKSUM)

    def group(self, number: int, descriptor: bytes) -> None:
        """A group descriptor."""
        stored = int.from_bytes(descriptor[_GROUP_CHECKSUM : _GROUP_CHECKSUM + 2], "little")
        head = number.to_bytes(4, "little")
        if self.is_full:
            blank = descriptor[:_GROUP_CHECKSUM] + bytes(2) + descriptor[_GROUP_CHECKSUM + 2 :]
            found = crc32c(blank, crc32c(head, self._seed)) & 0xFFFF
        elif self._old_groups:
            rest = descriptor[:_GROUP_CHECKSUM] + descriptor[_GROUP_CHECKSUM + 2 :]
            found = _crc16(self._uuid + head + rest)
        else:
            return
        if found != stored:
            raise _wrong(f"the descriptor of group {number}", "bg_checksum")

    def inode_bitmap(self, number: int, bitmap: bytes, stored: int, is_wide: bool) -> None:
        """The bitmap of the inodes of a group."""
        if self.is_full:
            found = crc32c(bitmap, self._seed)
            if (found if is_wide else found & 0xFFFF) != stored:
                raise _wrong(f"the inode bitmap of group {number}", "bg_inode_bitmap_csum_lo")

    def inode(self, number: int, data: bytes) -> None:
        """An inode, with all that is behind its fields."""
        if not self.is_full:
            return
        blank = bytearray(data)
        blank[_INODE_CHECKSUM_LOW : _INODE_CHECKSUM_LOW + 2] = bytes(2)
        stored = int.from_bytes(data[_INODE_CHECKSUM_LOW : _INODE_CHECKSUM_LOW + 2], "little")
        mask = 0xFFFF
        extra = int.from_bytes(data[_INODE_EXTRA_SIZE : _INODE_EXTRA_SIZE + 2], "little")
        if extra >= 4:
            blank[_INODE_CHECKSUM_HIGH : _INODE_CHECKSUM_HIGH + 2] = bytes(2)
            stored |= int.from_bytes(data[_INODE_CHECKSUM_HIGH : _INODE_CHECKSUM_HIGH + 2], "little") << 16
            mask = 0xFFFFFFFF
        seed = self.inode_seed(number, int.from_bytes(data[_GENERATION : _GENERATION + 4], "little"))
        # An inode that was never used is all zeros, and has no checksum either.
        if crc32c(bytes(blank), seed) & mask != stored and any(data):
            raise _wrong(f"inode {number}", "i_checksum")

    def inode_seed(self, number: int, generation: int) -> int:
        """What the checksums of an inode's blocks begin with."""
        return crc32c(struct.pack("<II", number, generation), self._seed)

    def extent_node(self, number: int, generation: int, block: bytes) -> None:
        """A block of an extent tree."""
        if not self.is_full:
            return
        maximum = int.from_bytes(block[_EXTENT_MAXIMUM : _EXTENT_MAXIMUM + 2], "little")
        end = (maximum + 1) * _EXTENT_SIZE
        stored = int.from_bytes(block[end : end + 4], "little")
        if end + 4 > len(block) or crc32c(block[:end], self.inode_seed(number, generation)) != stored:
            raise _wrong(f"a block of the extent tree of inode {number}", "et_checksum")

    def directory_block(self, number: int, generation: int, block: bytes) -> None:
        """A block of a directory: of entries, or of its hash tree."""
        if not self.is_full:
            return
        seed = self.inode_seed(number, generation)
        size = len(block)
        first, second = int.from_bytes(block[4:6], "little"), int.from_bytes(block[16:18], "little")
        # What the entries of the tree's blocks say to those who don't know it: there is nothing behind us.
        start = 0
        if first == size or (size == _LARGEST_BLOCK and first in (0, 0xFFFF)):
            start = _INDEX_NODE
        elif first == _DIRECTORY_TAIL_SIZE and second == size - _DIRECTORY_TAIL_SIZE:
            start = _INDEX_ROOT
        if start:
            limit, count = struct.unpack_from("<HH", block, start)
            end = start + limit * _INDEX_ENTRY_SIZE
            if count > limit or end + 8 > size:
                raise _wrong(f"a block of directory {number}", "dt_checksum")
            found = crc32c(block[: start + count * _INDEX_ENTRY_SIZE], seed)
            found = crc32c(block[end : end + 4] + bytes(4), found)
            stored = block[end + 4 : end + 8]
        else:
            found = crc32c(block[:-_DIRECTORY_TAIL_SIZE], seed)
            stored = block[-4:]
        if found != int.from_bytes(stored, "little"):
            raise _wrong(f"a block of directory {number}", "det_checksum")

    def attribute_block(self, place: int, block: bytes) -> None:
        """A block of extended attributes."""
        if not self.is_full:
            return
        stored = int.from_bytes(block[_XATTR_CHECKSUM : _XATTR_CHECKSUM + 4], "little")
        blank = block[:_XATTR_CHECKSUM] + bytes(4) + block[_XATTR_CHECKSUM + 4 :]
        if crc32c(blank, crc32c(place.to_bytes(8, "little"), self._seed)) != stored:
            raise _wrong(f"the attributes in block {place}", "h_checksum")


def _crc16(data: bytes) -> int:
    """The kernel's crc16 (polynomial 0x8005, reflected), begun with all ones."""
    register = 0xFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0xA001 if register & 1 else 0)
    return register


def _wrong(what: str, field: str, offset: int | None = None) -> FormatError:
    return FormatError("ext4", f"the checksum of {what} is wrong", field=field, offset=offset)

"""Where the blocks of a file are: lists of extents in the inode, or B+trees of them.

An extent is 128 bits: one that says "allocated, not yet written", 54 of the place in the file, 52 of the
place in the filesystem, 21 of the length; all in blocks (struct xfs_bmbt_rec).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from virtscope.errors import FormatError
from virtscope.fs.xfs.inode import FORMAT_BTREE, FORMAT_EXTENTS
from virtscope.fs.xfs.superblock import FORMAT

if TYPE_CHECKING:
    from virtscope.block.source import BlockSource
    from virtscope.fs.xfs.inode import LoadedInode
    from virtscope.fs.xfs.superblock import SuperBlock

RECORD_SIZE = 16

_HIGHEST_TREE = 16
"""No tree of 2^48 extents is higher (xfs_bmbt_maxlevels_ondisk is 14 with the smallest blocks)."""

_HEADER_SIZE = 24
_HEADER_SIZE_V5 = 72
_MAGIC = b"BMAP"
_MAGIC_V5 = b"BMA3"

# Plain struct, as these are the hottest bytes of the format: bitmatch would slice the same two numbers, but
# an object for each extent costs three times what a tuple does, and fragmented files have a hundred thousand.
_RECORDS = struct.Struct(">QQ")
_BLOCK_HEADER = struct.Struct(">4sHHQQ")
_OWNER = struct.Struct(">Q")
_OWNER_OFFSET = 56

_BLOCK_COUNT_BITS = 21
_BLOCK_COUNT_MASK = (1 << _BLOCK_COUNT_BITS) - 1
_START_BLOCK_LOW_BITS = 64 - _BLOCK_COUNT_BITS
_START_OFFSET_MASK = (1 << 54) - 1
_START_BLOCK_HIGH_MASK = (1 << 9) - 1


class Extent(NamedTuple):
    """A run of blocks of a file.

    Attributes:
        file_block: where it begins in the file, in blocks.
        fsblock: where it is, as the filesystem numbers its blocks.
        block_count: its length.
        unwritten: whether it is allocated but reads as zeros.
    """

    file_block: int
    fsblock: int
    block_count: int
    unwritten: bool


def read_extents(
    source: BlockSource, superblock: SuperBlock, inode: LoadedInode, *, attributes: bool = False
) -> list[Extent]:
    """The extents of the data or the attribute fork of an inode, in the order of the file.

    Raises:
        FormatError: they overlap, lie outside the filesystem, or their tree is damaged.
    """
    core = inode.core
    if attributes:
        fork, format, count = inode.attribute_fork, core.di_aformat, inode.attribute_extents
        start = inode.offset + inode.attributes_start
    else:
        fork, format, count = inode.data_fork, core.di_format, inode.data_extents
        start = inode.offset + inode.fork_start
    if format == FORMAT_EXTENTS:
        if count * RECORD_SIZE > len(fork):
            raise FormatError(
                FORMAT,
                f"inode {inode.number}: {count} extents do not fit into it",
                field="di_anextents" if attributes else "di_nextents",
                offset=inode.offset,
            )
        return _decoded(fork[: count * RECORD_SIZE], superblock, inode.number, start, 0)
    if format == FORMAT_BTREE:
        return _of_tree(source, superblock, inode.number, fork, start)
    return []


def _decoded(
    records: bytes, superblock: SuperBlock, inode: int, offset: int, file_block: int
) -> list[Extent]:
    """The extents in `records`, which lie at `offset`; none may begin before `file_block`."""
    found = []
    for high, low in _RECORDS.iter_unpack(records):
        start = high >> 9 & _START_OFFSET_MASK
        block = (high & _START_BLOCK_HIGH_MASK) << _START_BLOCK_LOW_BITS | low >> _BLOCK_COUNT_BITS
        count = low & _BLOCK_COUNT_MASK
        if start < file_block or not count:
            raise FormatError(
                FORMAT, f"inode {inode}: its extents overlap", field="br_startoff", offset=offset
            )
        if not superblock.holds(block, count):
            raise FormatError(
                FORMAT,
                f"inode {inode}: {count} blocks from {block} are outside the filesystem",
                field="br_startblock",
                offset=offset,
            )
        file_block = start + count
        found.append(Extent(start, block, count, high >> 63 == 1))
    return found


def _of_tree(
    source: BlockSource, superblock: SuperBlock, inode: int, root: bytes, offset: int
) -> list[Extent]:
    """The extents of the tree whose root is the fork `root`."""
    level, count = int.from_bytes(root[:2], "big"), int.from_bytes(root[2:4], "big")
    maximum = (len(root) - 4) // 16
    if not 1 <= level <= _HIGHEST_TREE or count > maximum:
        raise FormatError(
            FORMAT,
            f"inode {inode}: a tree of {level} levels with {count} records in its root",
            field="bb_level",
            offset=offset,
        )
    size = superblock.sb_blocksize
    header_size = _HEADER_SIZE_V5 if superblock.is_v5 else _HEADER_SIZE
    magic = _MAGIC_V5 if superblock.is_v5 else _MAGIC
    pointers_start = 4 + maximum * 8
    waiting = [(block, level - 1) for block in reversed(_pointers(root, pointers_start, count))]
    seen = set()
    found: list[Extent] = []
    while waiting:
        block, level = waiting.pop()
        if not superblock.holds(block, 1) or block in seen:
            problem = "twice in its tree" if block in seen else "outside the filesystem"
            raise FormatError(FORMAT, f"inode {inode}: block {block} is {problem}", offset=offset)
        seen.add(block)
        offset = superblock.offset_of(block)
        data = source.read_at(offset, size)
        found_magic, found_level, count, _, _ = _BLOCK_HEADER.unpack_from(data)
        maximum = (size - header_size) // 16
        is_ours = not superblock.is_v5 or _OWNER.unpack_from(data, _OWNER_OFFSET)[0] == inode
        if found_magic != magic or found_level != level or count > maximum or not is_ours:
            raise FormatError(
                FORMAT,
                f"inode {inode}: no block of its extent tree (level {level})",
                field="bb_magic",
                offset=offset,
            )
        if level:
            pointers = _pointers(data, header_size + maximum * 8, count)
            waiting += [(pointer, level - 1) for pointer in reversed(pointers)]
        else:
            end = found[-1].file_block + found[-1].block_count if found else 0
            records = data[header_size : header_size + count * RECORD_SIZE]
            found += _decoded(records, superblock, inode, offset, end)
    return found


def _pointers(data: bytes, start: int, count: int) -> tuple[int, ...]:
    return struct.unpack_from(f">{count}Q", data, start)

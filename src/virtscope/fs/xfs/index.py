"""Looking a name up in a large directory: its index, a tree of hashes in blocks behind the entries.

The index is a shortcut and nothing more: where it is damaged, the entries themselves are read.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from typing import TYPE_CHECKING

from virtscope.errors import FormatError

if TYPE_CHECKING:
    from virtscope.fs.xfs.blocks import ForkBlocks
    from virtscope.fs.xfs.superblock import SuperBlock

_NODE_MAGICS = (0xFEBE, 0x3EBE)
_LEAF_MAGICS = (0xD2F1, 0xD2FF, 0x3DF1, 0x3DFF)
_MAGIC_OFFSET = 8
_HEADER_SIZE, _HEADER_SIZE_V5 = 16, 64
_COUNT_OFFSET, _COUNT_OFFSET_V5 = 12, 56
_MOST_LEVELS = 5
_MOST_LEAVES = 64
"""How many leaves may begin with one hash: names that collide so often are made by hand, and then scanned."""

_UNUSED = 0


def places_of(blocks: ForkBlocks, superblock: SuperBlock, name: bytes, leaf_offset: int) -> list[int] | None:
    """Where in a directory the entries are whose names have the hash of `name`, in bytes; None when the index
    cannot say.
    """
    wanted = hash_of(name)
    block = leaf_offset >> superblock.sb_blocklog
    try:
        for _ in range(_MOST_LEVELS + 1):
            magic, _, pairs = _pairs(blocks, superblock, block)
            if magic not in _NODE_MAGICS:
                break
            index = bisect_left(pairs[::2], wanted)
            if index * 2 >= len(pairs):
                return []
            block = pairs[index * 2 + 1]
        places: list[int] = []
        for _ in range(_MOST_LEAVES):
            magic, following, pairs = _pairs(blocks, superblock, block)
            if magic not in _LEAF_MAGICS:
                return None
            hashes = pairs[::2]
            index = bisect_left(hashes, wanted)
            while index < len(hashes) and hashes[index] == wanted:
                if pairs[index * 2 + 1] != _UNUSED:
                    places.append(pairs[index * 2 + 1] << 3)
                index += 1
            if index < len(hashes) or not following:
                return places
            block = following
    except (FormatError, struct.error):
        return None
    return None


def hash_of(name: bytes) -> int:
    """The hash of a name (xfs_da_hashname)."""
    value = 0
    whole = len(name) & ~3
    for place in range(0, whole, 4):
        word = name[place] << 21 ^ name[place + 1] << 14 ^ name[place + 2] << 7 ^ name[place + 3]
        value = word ^ (value << 28 | value >> 4) & 0xFFFFFFFF
    rest = 0
    for byte in name[whole:]:
        rest = rest << 7 ^ byte
    turns = 7 * (len(name) - whole)
    return rest ^ (value << turns | value >> 32 - turns) & 0xFFFFFFFF


def _pairs(blocks: ForkBlocks, superblock: SuperBlock, block: int) -> tuple[int, int, tuple[int, ...]]:
    """Magic number, the block to the right, and hashes and what they lead to, of a block of the index."""
    _, data = blocks.read(block << superblock.sb_blocklog, blocks.block_size)
    following, _, magic = struct.unpack_from(">IIH", data)
    at = _COUNT_OFFSET_V5 if superblock.is_v5 else _COUNT_OFFSET
    (count,) = struct.unpack_from(">H", data, at)
    header_size = _HEADER_SIZE_V5 if superblock.is_v5 else _HEADER_SIZE
    return magic, following, struct.unpack_from(f">{count * 2}I", data, header_size)

"""Allocation groups: their headers, and the trees of their inodes.

Each group begins with four sectors: a copy of the superblock, the AGF (free space), the AGI (inodes) and the
AGFL (blocks kept for the trees of free space).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from virtscope.bitmatch import Record
from virtscope.block.records import parse_record
from virtscope.errors import FormatError
from virtscope.fs.xfs.superblock import FORMAT, INCOMPAT_SPINODES

if TYPE_CHECKING:
    from virtscope.block.source import BlockSource
    from virtscope.fs.xfs.superblock import SuperBlock

INODES_OF_RECORD = 64

_HIGHEST_TREE = 16
_HEADER_SIZE = 16
_HEADER_SIZE_V5 = 56
_INODE_MAGICS = (b"IABT", b"IAB3")
_FREE_INODE_MAGICS = (b"FIBT", b"FIB3")

_BLOCK_HEADER = struct.Struct(">4sHH")
_INODE_RECORD = struct.Struct(">IHBBQ")
_INODES_OF_HOLE = 4


class Agf(Record):
    """The header of a group's free space (struct xfs_agf)."""

    layout = """big
        agf_magicnum : b"XAGF"
        agf_versionnum : 32; agf_seqno : 32; agf_length : 32
        agf_roots : 32[3]; agf_levels : 32[3]
        agf_flfirst : 32; agf_fllast : 32; agf_flcount : 32
        agf_freeblks : 32; agf_longest : 32; agf_btreeblks : 32
        agf_uuid : bytes(16)
        agf_rmap_blocks : 32; agf_refcount_blocks : 32; agf_refcount_root : 32; agf_refcount_level : 32
        """
    agf_seqno: int
    agf_length: int
    agf_flcount: int
    agf_freeblks: int
    agf_btreeblks: int
    agf_rmap_blocks: int
    agf_refcount_blocks: int


class Agi(Record):
    """The header of a group's inodes (struct xfs_agi)."""

    layout = """big
        agi_magicnum : b"XAGI"
        agi_versionnum : 32; agi_seqno : 32; agi_length : 32
        agi_count : 32; agi_root : 32; agi_level : 32; agi_freecount : 32; agi_newino : 32; agi_dirino : 32
        agi_unlinked : 32[64]
        agi_uuid : bytes(16); agi_crc : little 32; agi_pad32 : 32; agi_lsn : 64
        agi_free_root : 32; agi_free_level : 32; agi_iblocks : 32; agi_fblocks : 32
        """
    agi_seqno: int
    agi_count: int
    agi_root: int
    agi_level: int
    agi_freecount: int
    agi_unlinked: tuple[int, ...]
    agi_free_root: int
    agi_free_level: int
    agi_fblocks: int


def read_headers(source: BlockSource, superblock: SuperBlock, group: int) -> tuple[Agf, Agi]:
    """The headers of an allocation group.

    Raises:
        FormatError: they are damaged, or those of another group.
    """
    start = (group * superblock.sb_agblocks) << superblock.sb_blocklog
    sector = superblock.sb_sectsize
    data = source.read_at(start + sector, 2 * sector)
    agf = parse_record(Agf, data, FORMAT, start + sector)
    agi = parse_record(Agi, data, FORMAT, start + sector, sector)
    assert isinstance(agf, Agf)
    assert isinstance(agi, Agi)
    if agf.agf_seqno != group or agi.agi_seqno != group:
        raise FormatError(
            FORMAT, f"the headers of group {group} are those of another", field="agf_seqno", offset=start
        )
    return agf, agi


def inodes(source: BlockSource, superblock: SuperBlock) -> Iterator[int]:
    """The numbers of all inodes in use, ascending.

    Raises:
        FormatError: a tree of inodes is damaged.
    """
    for group in range(superblock.sb_agcount):
        _, agi = read_headers(source, superblock, group)
        base = group << superblock.inode_number_bits
        is_sparse = superblock.has_incompat(INCOMPAT_SPINODES)
        for data, level in _tree_blocks(source, superblock, group, agi.agi_root, agi.agi_level):
            if level:
                continue
            for start, holes, _, _, free in _INODE_RECORD.iter_unpack(data):
                for index in range(INODES_OF_RECORD):
                    if free >> index & 1 or (is_sparse and holes >> index // _INODES_OF_HOLE & 1):
                        continue
                    yield base + start + index


def free_inode_tree_blocks(source: BlockSource, superblock: SuperBlock, group: int, agi: Agi) -> int:
    """How many blocks the tree of a group's chunks with free inodes takes."""
    tree = _tree_blocks(source, superblock, group, agi.agi_free_root, agi.agi_free_level, _FREE_INODE_MAGICS)
    return sum(1 for _ in tree)


def _tree_blocks(
    source: BlockSource,
    superblock: SuperBlock,
    group: int,
    root: int,
    height: int,
    magics: tuple[bytes, bytes] = _INODE_MAGICS,
) -> Iterator[tuple[bytes, int]]:
    """The records of every block of a tree of inodes, and its level; leaves in ascending order."""
    size = superblock.sb_blocksize
    header_size = _HEADER_SIZE_V5 if superblock.is_v5 else _HEADER_SIZE
    magic = magics[superblock.is_v5]
    if not 1 <= height <= _HIGHEST_TREE:
        raise FormatError(FORMAT, f"group {group}: a tree of {height} levels", field="agi_level")
    waiting = [(root, height - 1)]
    seen = set()
    while waiting:
        block, level = waiting.pop()
        fsblock = group << superblock.sb_agblklog | block
        if block in seen or block >= superblock.sb_agblocks or not superblock.holds(fsblock, 1):
            problem = "twice in its tree of inodes" if block in seen else "outside of it"
            raise FormatError(FORMAT, f"group {group}: block {block} is {problem}")
        seen.add(block)
        offset = superblock.offset_of(fsblock)
        data = source.read_at(offset, size)
        found_magic, found_level, count = _BLOCK_HEADER.unpack_from(data)
        record_size = 8 if level else _INODE_RECORD.size
        maximum = (size - header_size) // record_size
        if found_magic != magic or found_level != level or count > maximum:
            raise FormatError(
                FORMAT, f"group {group}: no block of its tree of inodes", field="bb_magic", offset=offset
            )
        if level:
            pointers = struct.unpack_from(f">{count}I", data, header_size + maximum * 4)
            waiting += [(pointer, level - 1) for pointer in reversed(pointers)]
        yield data[header_size : header_size + count * record_size], level

"""Directories: names in the inode, in one block, or in many blocks with an index of hashes behind them.

    short form    in the inode
    block         one directory block: the entries, and the index at its end
    leaf, node    blocks of entries in the file's first 32 GiB, the index in blocks behind them

Listing reads the entries and needs no index. A look-up of a name in a large directory uses it (`index`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from virtscope.errors import FormatError
from virtscope.fs.filesystem import Entry
from virtscope.fs.xfs.index import places_of
from virtscope.fs.xfs.inode import FORMAT_LOCAL
from virtscope.fs.xfs.superblock import FORMAT

if TYPE_CHECKING:
    from virtscope.fs.xfs.blocks import ForkBlocks
    from virtscope.fs.xfs.inode import LoadedInode
    from virtscope.fs.xfs.superblock import SuperBlock

FILE_TYPES = (
    None,
    "file",
    "directory",
    "character device",
    "block device",
    "fifo",
    "socket",
    "symbolic link",
)
"""`Entry.kind` of the file types of directory entries (XFS_DIR3_FT_*)."""

LEAF_OFFSET = 1 << 35
"""Where in the file the index begins; entries are before it."""

_DATA_MAGICS = (b"XD2B", b"XD2D")
_DATA_MAGICS_V5 = (b"XDB3", b"XDD3")
_BLOCK_MAGICS = (b"XD2B", b"XDB3")
_DATA_HEADER_SIZE = 16
_DATA_HEADER_SIZE_V5 = 64
_FREE_TAG = 0xFFFF

# Plain struct: a directory of a hundred thousand names is a hundred thousand of these, each followed by a
# name whose length it says; as bitmatch records they would take twice the time.
_ENTRY = struct.Struct(">QB")
_UNUSED = struct.Struct(">HH")
_TAIL = struct.Struct(">II")
_V5_DATA_HEADER = struct.Struct(">4sIQQ16sQ")


def entries(blocks: ForkBlocks, inode: LoadedInode, superblock: SuperBlock) -> Iterator[Entry]:
    """The names in a directory, in the order of the disk, without `.` and `..`.

    Raises:
        FormatError: it is damaged; names before the damage have been yielded.
    """
    has_types = superblock.has_file_types
    if inode.core.di_format == FORMAT_LOCAL:
        yield from _short_entries(inode, has_types)
        return
    for _, offset, data in blocks.directory_blocks(LEAF_OFFSET):
        for _, name, number, kind in _block_entries(data, offset, inode.number, superblock):
            if name not in (b".", b".."):
                yield Entry(name, number, FILE_TYPES[kind] if kind < len(FILE_TYPES) else None)


def lookup(blocks: ForkBlocks, inode: LoadedInode, superblock: SuperBlock, name: bytes) -> int | None:
    """The inode that `name` names in a directory; None if there is no such name.

    Raises:
        FormatError: the directory is damaged.
    """
    if superblock.ignores_case:
        folded = name.lower()
        return next((e.inode for e in entries(blocks, inode, superblock) if e.name.lower() == folded), None)
    if inode.core.di_format != FORMAT_LOCAL and inode.core.di_size > blocks.block_size:
        places = places_of(blocks, superblock, name, LEAF_OFFSET)
        if places is not None:
            return _at_places(blocks, superblock, inode.number, name, places)
    return next((e.inode for e in entries(blocks, inode, superblock) if e.name == name), None)


def _at_places(
    blocks: ForkBlocks, superblock: SuperBlock, inode: int, name: bytes, places: list[int]
) -> int | None:
    """The inode of the entry called `name` among those at `places`."""
    for place in places:
        within = place & (blocks.block_size - 1)
        offset, data = blocks.read(place - within, blocks.block_size)
        _, end = _bounds(data, offset, inode, superblock)
        if within + 9 > end:
            raise _damaged(inode, "its index leads to no entry", offset + within)
        number, length = _ENTRY.unpack_from(data, within)
        if data[within + 9 : within + 9 + length] == name:
            return int(number)
    return None


def _short_entries(inode: LoadedInode, has_types: bool) -> Iterator[Entry]:
    """The names in the inode itself (struct xfs_dir2_sf_hdr)."""
    data = inode.data_fork[: inode.core.di_size]
    start = inode.offset + inode.fork_start
    if len(data) < 6:
        raise _damaged(inode.number, "no room for its parent", start)
    is_long = data[1] > 0
    count = data[1] or data[0]
    number_size = 8 if is_long else 4
    place = 2 + number_size
    for _ in range(count):
        if place + 3 > len(data):
            raise _damaged(inode.number, f"{count} names do not fit into it", start + place)
        name_end = place + 3 + data[place]
        number_start = name_end + has_types
        next_place = number_start + number_size
        if next_place > len(data) or not data[place]:
            raise _damaged(inode.number, "a name reaches out of it", start + place)
        kind = data[name_end] if has_types else 0
        number = int.from_bytes(data[number_start:next_place], "big")
        name = data[place + 3 : name_end]
        yield Entry(name, number, FILE_TYPES[kind] if kind < len(FILE_TYPES) else None)
        place = next_place


def _block_entries(
    data: bytes, offset: int, inode: int, superblock: SuperBlock
) -> Iterator[tuple[int, bytes, int, int]]:
    """Place in the block, name, inode number and file type of each entry of a directory block."""
    has_types = superblock.has_file_types
    place, end = _bounds(data, offset, inode, superblock)
    unpack_entry, unpack_unused = _ENTRY.unpack_from, _UNUSED.unpack_from
    while place < end:
        tag, length = unpack_unused(data, place)
        if tag == _FREE_TAG:
            if length < 8 or length & 7 or place + length > end:
                raise _damaged(inode, "unused space of an impossible length", offset + place)
            place += length
            continue
        if place + 9 > end:
            raise _damaged(inode, "an entry reaches out of its block", offset + place)
        number, name_length = unpack_entry(data, place)
        name_start = place + 9
        name_end = name_start + name_length
        next_place = (name_end + has_types + 2 + 7) & ~7
        if next_place > end or not name_length:
            raise _damaged(inode, "an entry reaches out of its block", offset + place)
        yield place, data[name_start:name_end], number, data[name_end] if has_types else 0
        place = next_place


def _bounds(data: bytes, offset: int, inode: int, superblock: SuperBlock) -> tuple[int, int]:
    """Where the entries of a directory block begin and end."""
    magic = data[:4]
    if superblock.is_v5:
        _, _, block_number, _, _, owner = _V5_DATA_HEADER.unpack_from(data)
        if magic not in _DATA_MAGICS_V5 or owner != inode or block_number << 9 != offset:
            raise _damaged(inode, "no block of this directory", offset)
        start = _DATA_HEADER_SIZE_V5
    else:
        if magic not in _DATA_MAGICS:
            raise _damaged(inode, "no block of a directory", offset)
        start = _DATA_HEADER_SIZE
    end = len(data)
    if magic in _BLOCK_MAGICS:
        count, _ = _TAIL.unpack_from(data, end - 8)
        end -= 8 + count * 8
        if end < start:
            raise _damaged(inode, f"{count} names do not fit into a block", offset)
    return start, end


def _damaged(inode: int, problem: str, offset: int) -> FormatError:
    return FormatError(FORMAT, f"directory {inode}: {problem}", offset=offset)

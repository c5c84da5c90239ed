"""Extent trees: `extent_runs`.

The root is in the inode (i_block), other nodes are blocks. Leaves hold `ext4_extent`, inner nodes
`ext4_extent_idx`; every node begins with an `ext4_extent_header`. See the kernel's fs/ext4/ext4_extents.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtscope.bitmatch import MatchError, Record, pattern
from virtscope.errors import FormatError
from virtscope.fs.ext4.runs import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAXIMUM_DEPTH = 5
_LONGEST_WRITTEN = 1 << 15
_HEADER_SIZE = 12
_ENTRY_SIZE = 12


class ExtentHeader(Record):
    """What every node begins with (struct ext4_extent_header)."""

    layout = """little
        eh_magic : 16 = 0xF30A; eh_entries : 16; eh_max : 16 check eh_entries <= eh_max
        eh_depth : 16; eh_generation : 32
        """
    eh_entries: int
    eh_max: int
    eh_depth: int


Extent = pattern("ext4_extent", "little; ee_block : 32; ee_len : 16; ee_start_hi : 16; ee_start_lo : 32")

ExtentIndex = pattern(
    "ext4_extent_idx", "little; ei_block : 32; ei_leaf_lo : 32; ei_leaf_hi : 16; ei_unused : 16"
)


def extent_runs(
    root: bytes, read_node: Callable[[int], bytes], blocks_count: int, inode: int
) -> Iterator[Run]:
    """The runs that an extent tree tells, ascending.

    Args:
        root: i_block of the inode.
        read_node: gives the content of a block of the tree.
        blocks_count: of the filesystem: no run may reach past it.
        inode: for messages.

    Raises:
        FormatError: it is no tree: nodes that are none, extents that overlap or go back, a node met twice.
    """
    seen: set[int] = set()
    reached = 0
    # One iterator of (block, first file block) for each level on the way down.
    header = _header(root, inode, None)
    if header.eh_depth > MAXIMUM_DEPTH:
        raise _wrong(inode, f"it would be {header.eh_depth} levels deep", "eh_depth", None)
    waiting: list[tuple[int, int]] = [(0, header.eh_depth)]
    while waiting:
        block, depth = waiting.pop()
        data = root
        if block:
            if block in seen:
                raise _wrong(inode, f"block {block} is in it twice", "ei_leaf_lo", None)
            seen.add(block)
            data = read_node(block)
            header = _header(data, inode, block)
            if header.eh_depth != depth:
                raise _wrong(
                    inode,
                    f"block {block} should be at level {depth}, not {header.eh_depth}",
                    "eh_depth",
                    block,
                )
        entries = memoryview(data)[_HEADER_SIZE : _HEADER_SIZE + header.eh_entries * _ENTRY_SIZE]
        if len(entries) != header.eh_entries * _ENTRY_SIZE:
            raise _wrong(inode, f"{header.eh_entries} entries do not fit", "eh_entries", block)
        if depth:
            below = [(low | high << 32, depth - 1) for _, low, high, _ in ExtentIndex.tuples(entries)]
            for child, _ in below:
                if not 0 < child < blocks_count:
                    raise _wrong(inode, f"block {child} does not exist", "ei_leaf_lo", block)
            waiting += reversed(below)
            continue
        for start, length, high, low in Extent.tuples(entries):
            unwritten = length > _LONGEST_WRITTEN
            if unwritten:
                length -= _LONGEST_WRITTEN
            first = low | high << 32
            if start < reached or not length:
                raise _wrong(inode, f"the extent at file block {start} overlaps", "ee_block", block)
            if not 0 < first <= blocks_count - length:
                raise _wrong(inode, f"block {first} does not exist", "ee_start_lo", block)
            reached = start + length
            yield Run(start, length, first, unwritten)


def _header(data: bytes, inode: int, block: int | None) -> ExtentHeader:
    try:
        return ExtentHeader.parse(data)
    except MatchError as error:
        raise _wrong(inode, f"expected {error.expected}, found {error.got}", error.field, block) from None


def _wrong(inode: int, problem: str, field: str, block: int | None) -> FormatError:
    where = f" (block {block})" if block else ""
    return FormatError("ext4", f"extent tree of inode {inode}{where}: {problem}", field=field)

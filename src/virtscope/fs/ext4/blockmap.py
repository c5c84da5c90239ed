"""Block maps of ext2 and ext3: `block_map_runs`.

i_block has twelve numbers of data blocks, then one each of a block of numbers, of a block of those, and of a
block of those. 0 is a hole.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from virtscope.errors import FormatError
from virtscope.fs.ext4.runs import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DIRECT = 12


def block_map_runs(
    i_block: bytes,
    read_node: Callable[[int], bytes],
    *,
    block_bits: int,
    blocks: int,
    blocks_count: int,
    inode: int,
) -> Iterator[Run]:
    """The runs that a block map tells, ascending.

    Args:
        i_block: of the inode.
        read_node: gives the content of a block of numbers.
        block_bits: the power of two that is the block size.
        blocks: how many blocks the file has; what is mapped behind them is left out.
        blocks_count: of the filesystem: no run may reach past it.
        inode: for messages.

    Raises:
        FormatError: a block that does not exist, or a block of numbers met twice.
    """
    numbers = struct.unpack("<15I", i_block)
    yield from _direct(numbers[:DIRECT], 0, blocks, blocks_count, inode)
    per_block_bits = block_bits - 2
    unpack = struct.Struct(f"<{1 << per_block_bits}I").unpack
    seen: set[int] = set()
    start = DIRECT
    for level in (1, 2, 3):
        span = 1 << per_block_bits * level
        # Not recursive: (number of a block, its level, the file block it begins with).
        waiting = [(numbers[DIRECT + level - 1], level, start)]
        while waiting:
            block, depth, first = waiting.pop()
            if not block or first >= blocks:
                continue
            if block >= blocks_count:
                raise _wrong(inode, f"block {block} does not exist")
            if block in seen:
                raise _wrong(inode, f"block {block} is in it twice")
            seen.add(block)
            inside = unpack(read_node(block))
            if depth == 1:
                yield from _direct(inside, first, blocks, blocks_count, inode)
                continue
            step = 1 << per_block_bits * (depth - 1)
            waiting += [
                (inside[index], depth - 1, first + index * step)
                for index in range(len(inside) - 1, -1, -1)
                if inside[index]
            ]
        start += span


def _direct(
    numbers: tuple[int, ...], first: int, blocks: int, blocks_count: int, inode: int
) -> Iterator[Run]:
    """The runs that consecutive numbers of data blocks make."""
    numbers = numbers[: max(blocks - first, 0)]
    start = count = 0
    before = 0
    for index, number in enumerate(numbers):
        if count and number == before + 1:
            count += 1
        else:
            if count:
                yield _run(first + start, count, before - count + 1, blocks_count, inode)
            start, count = index, 1 if number else 0
        before = number
    if count:
        yield _run(first + start, count, before - count + 1, blocks_count, inode)


def _run(start: int, count: int, block: int, blocks_count: int, inode: int) -> Run:
    if block + count > blocks_count:
        raise _wrong(inode, f"block {block + count - 1} does not exist")
    return Run(start, count, block, False)


def _wrong(inode: int, problem: str) -> FormatError:
    return FormatError("ext4", f"block map of inode {inode}: {problem}", field="i_block")

"""`Overlay`: a volume with blocks of its journal over it, read-only and in memory.

Only where the blocks lie is remembered, not what is in them, so that a journal of a gigabyte costs no more
than a list of numbers. A block is checked against its checksum when it is first read: most of them never are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from virtscope.block.source import BlockSource

if TYPE_CHECKING:
    from virtscope.block.source import Extent

_BLOCKS_KEPT = 1024


class Logged(NamedTuple):
    """A block that a journal holds.

    Attributes:
        place: its offset in the source.
        sequence: of the transaction it is in.
        escaped: whether its first four bytes were replaced, as they looked like the journal's own.
        checksum: of its bytes as logged, or None if there is none.
    """

    place: int
    sequence: int
    escaped: bool
    checksum: int | None


class Overlay(BlockSource):
    """A source with some of its blocks replaced.

    Args:
        parent: the source; also of the replacing blocks.
        block_bits: the power of two that is the block size.
        blocks: what replaces a block, newest first; the first that is sound is taken.
        read: gives the bytes of a logged block as they are to be, or None if its checksum is wrong.
    """

    def __init__(
        self,
        parent: BlockSource,
        block_bits: int,
        blocks: Mapping[int, list[Logged]],
        read: Callable[[Logged], bytes | None],
    ) -> None:
        super().__init__(parent.name, parent.size)
        self.parent = parent
        self._bits = block_bits
        self._blocks = blocks
        self._numbers = sorted(blocks)
        self._read_logged = read
        self._kept: dict[int, bytes] = {}

    def read_at(self, offset: int, size: int) -> bytes:
        """As of `BlockSource`."""
        numbers = self._numbers
        bits = self._bits
        first = offset >> bits
        index = bisect_left(numbers, first)
        if index == len(numbers) or numbers[index] << bits >= offset + size:
            return self.parent.read_at(offset, size)
        self._check(offset, size)
        last = offset + size - 1 >> bits
        if first == last:
            start = offset - (first << bits)
            return self._block(first)[start : start + size]
        pieces = []
        position, end = offset, offset + size
        while position < end:
            number = numbers[index] if index < len(numbers) else last + 1
            start = number << bits
            if position < start:
                stop = min(start, end)
                pieces.append(self.parent.read_at(position, stop - position))
            else:
                stop = min(start + (1 << bits), end)
                pieces.append(self._block(number)[position - start : stop - start])
                index += 1
            position = stop
        return b"".join(pieces)

    def read_through(self, offset: int, size: int) -> bytes:
        """As of `BlockSource`."""
        return self.read_at(offset, size)

    def _extents(self, start: int, end: int) -> Iterator[Extent]:
        bits = self._bits
        index = bisect_left(self._numbers, start >> bits)
        for offset, size, is_zero in self.parent.extents(start, end):
            if not is_zero:
                yield offset, size, False
                continue
            position, stop = offset, offset + size
            while index < len(self._numbers) and self._numbers[index] << bits < stop:
                block = self._numbers[index] << bits
                index += 1
                if block + (1 << bits) <= position:
                    continue
                if block > position:
                    yield position, block - position, True
                    position = block
                after = min(block + (1 << bits), stop)
                yield position, after - position, False
                position = after
            if position < stop:
                yield position, stop - position, True

    def _block(self, number: int) -> bytes:
        """A replaced block."""
        data = self._kept.get(number)
        if data is None:
            for logged in self._blocks[number]:
                data = self._read_logged(logged)
                if data is not None:
                    break
            else:
                data = self.parent.read_at(number << self._bits, 1 << self._bits)
            if len(self._kept) >= _BLOCKS_KEPT:
                self._kept.clear()
            self._kept[number] = data
        return data

"""`Overlay`: a volume with the pages that the log's replay changed over it, read-only and in memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING

from virtscope.block.source import BlockSource

if TYPE_CHECKING:
    from virtscope.block.source import Extent

_PAGE_BITS = 12
_PAGE_SIZE = 1 << _PAGE_BITS


class Overlay(BlockSource):
    """A source with some of its pages replaced.

    Changes are made with `write` before the first read of the finished overlay; a page is read from below
    when it is first written.

    Args:
        parent: the source.
    """

    def __init__(self, parent: BlockSource) -> None:
        super().__init__(parent.name, parent.size)
        self.parent = parent
        self._pages: dict[int, bytearray] = {}
        self._numbers: list[int] = []

    def __len__(self) -> int:
        """How many pages differ from those below, or may."""
        return len(self._pages)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put `data` at `offset`, in memory.

        Raises:
            FormatError: a part of it is outside of the source.
        """
        self._check(offset, len(data))
        view = memoryview(data)
        pages = self._pages
        while view:
            number = offset >> _PAGE_BITS
            within = offset & (_PAGE_SIZE - 1)
            page = pages.get(number)
            if page is None:
                page = pages[number] = bytearray(self.parent.peek(number << _PAGE_BITS, _PAGE_SIZE))
            count = min(len(view), _PAGE_SIZE - within)
            page[within : within + count] = view[:count]
            view = view[count:]
            offset += count

    def covers(self, offset: int, size: int) -> bool:
        """Whether any byte of a range may differ from those below."""
        numbers = self._sorted()
        index = bisect_left(numbers, offset >> _PAGE_BITS)
        return index < len(numbers) and numbers[index] << _PAGE_BITS < offset + size

    def restore(self, offset: int, size: int) -> None:
        """Undo what was written to a range.

        Raises:
            FormatError: a part of it is outside of the source.
        """
        self._check(offset, size)
        end = offset + size
        while offset < end:
            number = offset >> _PAGE_BITS
            within = offset & (_PAGE_SIZE - 1)
            count = min(end - offset, _PAGE_SIZE - within)
            page = self._pages.get(number)
            if page is not None:
                page[within : within + count] = self.parent.read_at(offset, count)
            offset += count

    def read_at(self, offset: int, size: int) -> bytes:
        """As of `BlockSource`."""
        first, last = offset >> _PAGE_BITS, offset + size - 1 >> _PAGE_BITS
        if first == last:
            page = self._pages.get(first)
            if page is None:
                return self.parent.read_at(offset, size)
            self._check(offset, size)
            within = offset & (_PAGE_SIZE - 1)
            return bytes(page[within : within + size])
        return self._read_long(offset, size)

    def read_through(self, offset: int, size: int) -> bytes:
        """As of `BlockSource`."""
        return self._read_long(offset, size)

    def _read_long(self, offset: int, size: int) -> bytes:
        """The bytes of a range, those of replaced pages put over those below."""
        numbers = self._sorted()
        index = bisect_left(numbers, offset >> _PAGE_BITS)
        end = offset + size
        if index == len(numbers) or numbers[index] << _PAGE_BITS >= end:
            return self.parent.read_at(offset, size)
        found = bytearray(self.parent.read_at(offset, size))
        while index < len(numbers):
            start = numbers[index] << _PAGE_BITS
            if start >= end:
                break
            page = self._pages[numbers[index]]
            skipped = max(offset - start, 0)
            stop = min(len(page), end - start)
            found[start + skipped - offset : start + stop - offset] = page[skipped:stop]
            index += 1
        return bytes(found)

    def _sorted(self) -> list[int]:
        if len(self._numbers) != len(self._pages):
            self._numbers = sorted(self._pages)
        return self._numbers

    def _extents(self, start: int, end: int) -> Iterator[Extent]:
        numbers = self._sorted()
        index = bisect_left(numbers, start >> _PAGE_BITS)
        for offset, size, is_zero in self.parent.extents(start, end):
            if not is_zero:
                yield offset, size, False
                continue
            position, stop = offset, offset + size
            while index < len(numbers) and numbers[index] << _PAGE_BITS < stop:
                page = numbers[index] << _PAGE_BITS
                if page > position:
                    yield position, page - position, True
                    position = page
                after = min(page + _PAGE_SIZE, stop)
                if after > position:
                    yield position, after - position, False
                    position = after
                if page + _PAGE_SIZE > stop:
                    break
                index += 1
            if position < stop:
                yield position, stop - position, True

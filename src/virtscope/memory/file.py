"""Guest memory in a file that holds it uncompressed, in pieces."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from virtscope.errors import FormatError
from virtscope.memory.physical import PhysicalMemory, Segment
from virtscope.memory.sparse import data_ranges, read_exactly


@dataclass(frozen=True, slots=True, order=True)
class FileRange:
    """Where a range of guest RAM lies in a file.

    Attributes:
        start: the first guest-physical address.
        size: its length in bytes.
        offset: where it begins in the file.
    """

    start: int
    size: int
    offset: int


class FileMemory(PhysicalMemory):
    """Memory that lies in a file in pieces; holes of a sparse file count as not populated.

    Reading makes system calls and does not map the file: one that is cut short meanwhile must be an error,
    where a mapping would kill the process.

    Args:
        name: the file's name for messages.
        format: the format's name for messages.
        fd: the file, open for reading; it belongs to this object from now on.
        ranges: the pieces, which must not overlap.
        page_roots: the page table roots the file tells of.
    """

    def __init__(
        self, name: str, format: str, fd: int, ranges: Sequence[FileRange], page_roots: Sequence[int] = ()
    ) -> None:
        ranges = sorted(item for item in ranges if item.size > 0)
        super().__init__(name, [Segment(item.start, item.size) for item in ranges])
        self._format = format
        self._fd = fd
        self._offsets = [item.offset for item in ranges]
        self._roots = tuple(page_roots)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _find_page_roots(self) -> tuple[int, ...]:
        return self._roots

    def _read_segment(self, index: int, offset: int, size: int) -> bytes:
        try:
            return read_exactly(self._fd, size, self._offsets[index] + offset)
        except OSError as error:
            raise self._failed(error, self._offsets[index] + offset) from None

    def _populated_segment(self, index: int, offset: int, size: int) -> Iterator[tuple[int, int]]:
        base = self._offsets[index]
        try:
            for start, count in data_ranges(self._fd, base + offset, size):
                yield start - base, count
        except OSError as error:
            raise self._failed(error, base + offset) from None

    def _failed(self, error: OSError, offset: int) -> FormatError:
        return FormatError(self._format, f"{self.name} cannot be read: {error.strerror}", offset=offset)

"""Which pages of a process exist: /proc/PID/pagemap (Linux Documentation/admin-guide/mm/pagemap.rst).

Reading a page that its owner never touched makes the kernel map something there, if only a page of zeros. Who
looks into a guest must not do that to it, so every read of a process' own memory asks here first.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Generator, Iterator

# Bits of the top byte of a pagemap entry.
_PRESENT, _SWAPPED, _FILE = 0x80, 0x40, 0x20
_TOP_BYTE = 7 if sys.byteorder == "little" else 0

EXISTS = bytes(bool(flags & (_PRESENT | _SWAPPED)) for flags in range(256))
"""Maps the top byte of an entry to 1 when the page exists, in memory or swapped out."""

IS_PRIVATE = bytes(bool(flags & (_PRESENT | _SWAPPED) and not flags & _FILE) for flags in range(256))
"""Maps the top byte of an entry to 1 when the page is the process' own copy, not the mapped file's."""

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
_CHUNK_PAGES = 65536
_NOTHING = bytes(8 * _CHUNK_PAGES)

# PAGEMAP_SCAN (Linux 6.7) and its struct pm_scan_arg of twelve 64-bit fields, include/uapi/linux/fs.h.
_PAGEMAP_SCAN = 0xC0606610
_SCAN_ARG_SIZE = 96
_SCAN_REGIONS = 1024
_PAGE_IS_PRESENT, _PAGE_IS_SWAPPED, _PAGE_IS_PFNZERO = 8, 16, 32


class Pagemap:
    """The page map of one process.

    Args:
        fd: of /proc/PID/pagemap, open for reading; the caller keeps and closes it.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._can_scan = True

    def flags(self, address: int, pages: int, kind: bytes) -> bytes:
        """One byte per page from `address` on: 1 where `kind` (`EXISTS`, `IS_PRIVATE`) holds, else 0.

        Raises:
            ProcessLookupError: the process is gone.
        """
        data = os.pread(self._fd, 8 * pages, address // PAGE_SIZE * 8)
        if len(data) != 8 * pages:
            if not self.is_alive():
                raise ProcessLookupError(errno.ESRCH, "the process is gone")
            data = data.ljust(8 * pages, b"\0")
        return data[_TOP_BYTE::8].translate(kind)

    def is_alive(self) -> bool:
        """Whether the process still has its memory. Touches none of it."""
        return len(os.pread(self._fd, 8, 0)) == 8

    def ranges(self, address: int, size: int, kind: bytes) -> Iterator[tuple[int, int]]:
        """The page-aligned (address, size) ranges within `size` bytes at `address` whose pages are of `kind`.

        Raises:
            ProcessLookupError: the process is gone.
        """
        start = address // PAGE_SIZE * PAGE_SIZE
        end = -(-(address + size) // PAGE_SIZE) * PAGE_SIZE
        if kind is EXISTS and self._can_scan:
            try:
                start = yield from self._scan(start, end)
            except OSError as error:
                if error.errno not in (errno.ENOTTY, errno.EINVAL):
                    raise
                self._can_scan = False  # a kernel before 6.7
        while start < end:
            pages = min(_CHUNK_PAGES, (end - start) // PAGE_SIZE)
            data = os.pread(self._fd, 8 * pages, start // PAGE_SIZE * 8)
            if data != _NOTHING:
                for first, count in runs(data[_TOP_BYTE::8].translate(kind)):
                    yield start + first * PAGE_SIZE, count * PAGE_SIZE
            start += pages * PAGE_SIZE
        # A process that has gone looks like one that has touched nothing.
        if not self.is_alive():
            raise ProcessLookupError(errno.ESRCH, "the process is gone")

    def _scan(self, start: int, end: int) -> Generator[tuple[int, int], None, int]:
        """As `ranges`, by one system call per thousand ranges, without known zero pages; returns the end."""
        from array import array
        from fcntl import ioctl
        from struct import pack, unpack_from

        regions = array("Q", bytes(24 * _SCAN_REGIONS))  # of struct page_region: start, end, categories
        vector, _ = regions.buffer_info()
        while start < end:
            # fmt: off
            argument = bytearray(pack(
                "=12Q", _SCAN_ARG_SIZE, 0, start, end, 0, vector, _SCAN_REGIONS, 0,
                _PAGE_IS_PFNZERO,  # category_inverted: of the mask below, those that must not be set
                _PAGE_IS_PFNZERO,  # category_mask
                _PAGE_IS_PRESENT | _PAGE_IS_SWAPPED,  # category_anyof_mask
                0,  # return_mask: categories are not told apart, so that ranges join
            ))
            # fmt: on
            count = ioctl(self._fd, _PAGEMAP_SCAN, argument, True)
            for at in range(0, 3 * count, 3):
                yield regions[at], regions[at + 1] - regions[at]
            (walked,) = unpack_from("=Q", argument, 32)
            if walked <= start:
                break
            start = walked
        return start


def runs(flags: bytes) -> Iterator[tuple[int, int]]:
    """The (first, count) runs of 1 in bytes of 0 and 1."""
    at = flags.find(1)
    while at >= 0:
        end = flags.find(0, at)
        if end < 0:
            end = len(flags)
        yield at, end - at
        at = flags.find(1, end)

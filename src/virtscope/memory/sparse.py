"""Exact reads from files, and where sparse files hold data: lseek(2), SEEK_DATA and SEEK_HOLE."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

_LONGEST_READ = 1 << 30  # the kernel reads at most 2 GiB less a page at once


def read_exactly(fd: int, size: int, offset: int) -> bytes:
    """Exactly `size` bytes at `offset` of a file.

    Raises:
        OSError: the read failed; ENODATA when the file ends before that.
    """
    data = os.pread(fd, min(size, _LONGEST_READ), offset)
    if len(data) == size:
        return data
    parts, done = [data], len(data)
    while done < size:
        if not parts[-1]:
            raise OSError(errno.ENODATA, "the file ends before that")
        parts.append(os.pread(fd, min(size - done, _LONGEST_READ), offset + done))
        done += len(parts[-1])
    return b"".join(parts)


def data_ranges(fd: int, offset: int, size: int) -> Iterator[tuple[int, int]]:
    """The (offset, size) ranges within `size` bytes at `offset` that are no holes, in order.

    On a filesystem that does not know about holes that is the whole range.
    """
    end = offset + size
    while offset < end:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
            stop = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data behind offset
                return
            start, stop = offset, end
        if start >= end:
            return
        yield start, min(stop, end) - start
        offset = max(stop, start + 1)


def joined(ranges: Iterator[tuple[int, int]], gap: int) -> Iterator[tuple[int, int]]:
    """Ordered (offset, size) ranges, those that overlap or lie at most `gap` bytes apart made one."""
    held: tuple[int, int] | None = None
    for start, size in ranges:
        if held is None:
            held = start, size
        elif start <= held[0] + held[1] + gap:
            held = held[0], max(held[1], start + size - held[0])
        else:
            yield held
            held = start, size
    if held is not None:
        yield held

"""Files and block devices of the host, read as they are: `HostFile`, and the raw format, `RawImage`.

Files are opened read-only and without any lock, so an image that a running QEMU holds can be read; a file
that is replaced meanwhile is read to the end as it was when it was opened.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from virtscope.block.image import Image
from virtscope.block.source import CachedSource, printable
from virtscope.errors import AccessDenied, FormatError, GuestNotFound, ReadFailed, UsageError

if TYPE_CHECKING:
    from virtscope.block.source import Extent

_LONGEST_READ = 1 << 30
_SECTOR_SIZE = 512


class HostFile(CachedSource):
    """A regular file or a block device of the host, opened for reading.

    Args:
        path: the file.

    Attributes:
        path: as given.
        is_device: whether it is a block device.
        identity: device and inode numbers, which tell whether two paths are one file.

    Raises:
        GuestNotFound: there is no such file.
        AccessDenied: it may not be read.
        UsageError: it is no file with an end: a folder, a pipe, a terminal.
        ReadFailed: opening it failed in another way.
    """

    def __init__(self, path: str) -> None:
        name = printable(path)
        try:
            # Without O_NONBLOCK, a named pipe would wait here for its writer for ever.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            raise GuestNotFound(f"there is no file {name}") from None
        except PermissionError:
            raise AccessDenied(f"{name} may not be read by this user") from None
        except (OSError, ValueError) as error:
            raise ReadFailed(f"{name} cannot be opened: {_reason(error)}") from None
        try:
            status = os.fstat(self._fd)
            self.is_device = stat.S_ISBLK(status.st_mode)
            if self.is_device:
                size = os.lseek(self._fd, 0, os.SEEK_END)
            elif stat.S_ISREG(status.st_mode):
                size = status.st_size
            else:
                kind = "a folder" if stat.S_ISDIR(status.st_mode) else "neither a file nor a block device"
                raise UsageError(f"{name} is {kind}, not a disk image")
        except BaseException:
            self.close()
            raise
        self.path = path
        self.identity = (status.st_rdev if self.is_device else status.st_dev, status.st_ino)
        super().__init__(name, size)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if hasattr(self, "_young"):
            super().close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._fd, min(size, _LONGEST_READ), offset)
            if len(data) == size:
                return data
            pieces = [data]
            size -= len(data)
            while size and data:
                offset += len(data)
                data = os.pread(self._fd, min(size, _LONGEST_READ), offset)
                pieces.append(data)
                size -= len(data)
        except OSError as error:
            raise ReadFailed(f"{self.name} cannot be read at offset {offset:#x}: {_reason(error)}") from None
        if size:
            raise FormatError("disk", f"{self.name} became shorter while it was read", offset=offset)
        return b"".join(pieces)

    def _extents(self, start: int, end: int) -> Iterator[Extent]:
        position = start
        while position < end:
            try:
                data = os.lseek(self._fd, position, os.SEEK_DATA)
                hole = os.lseek(self._fd, data, os.SEEK_HOLE)
            except OSError as error:
                # ENXIO: no data behind this place. Anything else: this file cannot tell its holes.
                is_hole = error.errno == errno.ENXIO and not self.is_device
                yield position, end - position, is_hole
                return
            if data > position:
                yield position, min(data, end) - position, True
            if data >= end:
                return
            hole = max(hole, data + 1)
            yield data, min(hole, end) - data, False
            position = hole


class RawImage(Image):
    """A raw disk image: the file's bytes are the disk's.

    A disk has whole sectors: the guest sees zeros where the file ends inside its last one.

    Args:
        file: the file, closed with the image.
        start: where in the file the disk begins, in bytes.
        length: how much of the file is the disk; by default all that follows.
    """

    format = "raw"

    def __init__(self, file: HostFile, start: int = 0, length: int | None = None) -> None:
        there = max(file.size - start, 0)
        if length is None:
            length = -(-there // _SECTOR_SIZE) * _SECTOR_SIZE
        super().__init__(file, length)
        self._start = start
        self._rounded = length if length - there < _SECTOR_SIZE else there

    def _read(self, offset: int, size: int) -> bytes:
        start = self._start + offset
        beyond = start + size - self.file.size
        if beyond > 0 and offset + size <= self._rounded:
            there = max(size - beyond, 0)
            return self.file.read_through(start, there) + bytes(size - there)
        return self.file.read_through(start, size)

    def _extents(self, start: int, end: int) -> Iterator[Extent]:
        shift = self._start
        reached = start
        for offset, size, is_zero in self.file.extents(start + shift, end + shift):
            yield offset - shift, size, is_zero
            reached = offset - shift + size
        if reached < end:
            yield reached, end - reached, end <= self._rounded


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)

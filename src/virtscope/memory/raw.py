"""Raw memory: the file's bytes are the guest's physical memory, from address 0 on.

What QEMU's `pmemsave 0 SIZE FILE` writes, and `dd` of a machine's memory. There is no header, so nothing says
what it is: this is what a file is taken for that is nothing else.
"""

from __future__ import annotations

import os

from virtscope.errors import FormatError
from virtscope.memory.file import FileMemory, FileRange
from virtscope.memory.physical import PAGE_SIZE

FORMAT = "raw memory"


def open_raw(name: str, fd: int) -> FileMemory:
    """The memory in a raw file, which `fd` has open; it belongs to the result.

    Raises:
        FormatError: the file is too small to be the memory of anything.
    """
    size = os.lseek(fd, 0, os.SEEK_END)
    if size < PAGE_SIZE:
        raise FormatError(FORMAT, f"{name} has {size} bytes, less than a page", offset=0)
    return FileMemory(name, FORMAT, fd, [FileRange(0, size, 0)])

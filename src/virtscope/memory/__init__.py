"""Guest-physical memory: the interface (`physical`), live processes (`live`) and files, by `open_memory`.

A new file format is a module with a function that opens it, and one row in `FORMATS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from virtscope.errors import AccessDenied, FormatError, GuestNotFound

if TYPE_CHECKING:
    from virtscope.memory.physical import PhysicalMemory

_HEAD_SIZE = 4096


@dataclass(frozen=True, slots=True)
class MemoryFormat:
    """A file format that holds guest memory.

    Attributes:
        name: what messages call it.
        matches: whether a file that starts with these (up to 4096) bytes is one.
        open: opens one, given its name for messages and a descriptor, which then belongs to the result.
    """

    name: str
    matches: Callable[[bytes], bool]
    open: Callable[[str, int], PhysicalMemory]


def _open_elf_core(name: str, fd: int) -> PhysicalMemory:
    from virtscope.memory.elfcore import open_elf_core

    return open_elf_core(name, fd)


def _open_raw(name: str, fd: int) -> PhysicalMemory:
    from virtscope.memory.raw import open_raw

    return open_raw(name, fd)


FORMATS = (
    MemoryFormat("ELF core", lambda head: head.startswith(b"\x7fELF"), _open_elf_core),
    MemoryFormat("raw memory", lambda _: True, _open_raw),
)
"""The formats, in the order in which they are tried: the last takes everything."""

_OTHER_FILES = {
    b"KDUMP   ": "a kdump-compressed dump",
    b"makedumpfile\0": "a flattened kdump dump",
    b"EMiL": "a LiME dump",
    b"QEVM": "a QEMU save file",
    b"LibvirtQemudSave": "a libvirt save file",
    b"LibvirtQemudPart": "an incomplete libvirt save file",
    b"QFI\xfb": "a qcow2 disk image",
    b"\x1f\x8b": "compressed with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\xfd7zXZ\0": "compressed with xz",
    b"\x04\x22\x4d\x18": "compressed with lz4",
    b"BZh": "compressed with bzip2",
}
"""How files begin that hold or could hold memory, but are not read: none of them is raw memory."""


def open_memory(path: str | os.PathLike[str]) -> PhysicalMemory:
    """The guest memory in a file, whose format is told by its content; the caller closes it.

    Raises:
        GuestNotFound: there is no such file.
        AccessDenied: this user may not read it.
        FormatError: it is of a format that is not read, or is damaged.
    """
    name = os.fspath(path)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError:
        raise AccessDenied(f"{name}: not allowed to read it") from None
    except OSError as error:
        raise GuestNotFound(f"{name}: cannot be opened: {error.strerror}") from None
    try:
        try:
            head = os.pread(fd, _HEAD_SIZE, 0)
        except OSError as error:  # a directory, a pipe
            raise FormatError("guest memory", f"{name} cannot be read: {error.strerror}") from None
        for magic, what in _OTHER_FILES.items():
            if head.startswith(magic):
                raise FormatError(
                    "guest memory",
                    f"{name} is {what}, which is not read; `virsh dump --memory-only` writes an ELF core",
                    offset=0,
                )
        return next(entry for entry in FORMATS if entry.matches(head)).open(name, fd)
    except BaseException:
        os.close(fd)
        raise

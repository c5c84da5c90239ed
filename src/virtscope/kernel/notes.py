"""The kernel's ELF notes, which it keeps in memory between `__start_notes` and `__stop_notes`."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from virtscope.errors import KernelError

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel

_NT_GNU_BUILD_ID = 3
_LIMIT = 1 << 16


def parse_build_id(notes: bytes) -> str | None:
    """The GNU build id in a series of ELF notes, in hex; None when there is none."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        name = at + 12
        content = name + (name_size + 3 & ~3)
        at = content + (size + 3 & ~3)
        if at > len(notes):
            return None
        if kind == _NT_GNU_BUILD_ID and notes[name : name + name_size] == b"GNU\0" and 0 < size <= 64:
            return notes[content : content + size].hex()
    return None


def read_build_id(kernel: Kernel) -> str | None:
    """The GNU build id of `kernel`: from its notes, else from VMCOREINFO; None when neither is there."""
    try:
        start, stop = kernel.symbol("__start_notes"), kernel.symbol("__stop_notes")
        if 0 < stop - start <= _LIMIT:
            found = parse_build_id(kernel.read(start, stop - start))
            if found is not None:
                return found
    except KernelError:
        pass
    claimed = kernel.vmcoreinfo.get("BUILD-ID", "")
    return claimed if claimed and all(digit in "0123456789abcdef" for digit in claimed) else None

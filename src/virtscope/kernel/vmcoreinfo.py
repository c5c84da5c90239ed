"""VMCOREINFO: what a kernel says of itself for crash dump tools.

Lines of KEY=VALUE in one page of their own (kernel/crash_core.c, later kernel/vmcore_info.c), which begins
with OSRELEASE=; the same text is a note of crash dumps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtscope.errors import FormatError, GuestMemoryError, NotMapped

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel

_LIMIT = 1 << 16
_CHUNK = 4 << 20


def parse_vmcoreinfo(data: bytes) -> dict[str, str]:
    """The keys and values of a VMCOREINFO text; NULs end it, later lines replace earlier ones.

    Raises:
        FormatError: it does not begin with OSRELEASE=, or is longer than any kernel makes it.
    """
    text, _, _ = data.partition(b"\0")
    if not text.startswith(b"OSRELEASE="):
        raise FormatError("VMCOREINFO", "does not begin with OSRELEASE=", offset=0)
    if len(text) > _LIMIT:
        raise FormatError("VMCOREINFO", f"is {len(text)} bytes long", offset=0)
    found: dict[str, str] = {}
    for line in text.decode("ascii", "replace").split("\n"):
        key, equals, value = line.partition("=")
        if equals and key:
            found[key] = value
    return found


def vmcoreinfo_symbol(info: dict[str, str], name: str) -> int | None:
    """The value of SYMBOL(`name`); None when it is missing or no number."""
    try:
        value = int(info[f"SYMBOL({name})"], 16)
    except (KeyError, ValueError):
        return None
    return value if 0 <= value < 1 << 64 else None


def read_vmcoreinfo(kernel: Kernel) -> bytes:
    """The VMCOREINFO text that `kernel` keeps: where its symbol says, else in any page that begins like one.

    Empty when there is none, or it names another release than the kernel's banner.
    """
    text = b""
    try:
        if kernel.has_symbol("vmcoreinfo_data"):
            address = kernel.read_pointer(kernel.symbol("vmcoreinfo_data"))
            text = kernel.read_cstring(address) if address else b""
        elif not kernel.has_symbols:
            text = _scan(kernel)
        found = parse_vmcoreinfo(text) if text else {}
    except (NotMapped, FormatError):
        return b""
    return text if found.get("OSRELEASE") == kernel.release else b""


def _scan(kernel: Kernel) -> bytes:
    """The first page of the guest's memory that is a VMCOREINFO of this release."""
    memory = kernel.memory
    wanted = f"OSRELEASE={kernel.release}\n".encode()
    for segment in memory.populated():
        for address in range(segment.start, segment.end, _CHUNK):
            try:
                data = memory.read(address, min(_CHUNK, segment.end - address))
            except GuestMemoryError:
                continue
            at = data.find(wanted)
            while at >= 0:
                if (address + at) % 4096 == 0:
                    return data[at : at + 4096].partition(b"\0")[0]
                at = data.find(wanted, at + 1)
    return b""

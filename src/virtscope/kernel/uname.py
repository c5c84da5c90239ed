"""The name and version of the kernel, as uname(2) gives them. `uname` is the entry point.

`struct new_utsname` (include/uapi/linux/utsname.h) is user-space ABI: six fields of 65 bytes. It lies in
`init_uts_ns` behind a reference count that some kernels have and others do not, so it is found by its
first two facts rather than by type information: the name "Linux", and the release that the kernel was
recognized by. That works without BTF.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from virtscope.errors import CorruptData, UnknownLayout

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel

_FIELD_SIZE = 65
_FIELDS = 6
_LONGEST_PREFIX = 64


@dataclass(frozen=True, slots=True)
class Uname:
    """What `uname -a` shows, and what identifies the kernel build.

    Attributes:
        sysname: "Linux".
        nodename: the host name in the initial UTS namespace.
        release: "6.1.0-56-amd64".
        version: "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-01-01)".
        machine: "x86_64".
        domainname: the NIS domain, "(none)" when it was never set.
        operating_system: "GNU/Linux", which is what `uname -o` prints on every Linux.
        banner: as /proc/version, with the compiler that built the kernel; empty when it is not known.
        build_id: the GNU build id in hex, None when it is not known.
        arch: the architecture by virtscope's name for it.
    """

    sysname: str
    nodename: str
    release: str
    version: str
    machine: str
    domainname: str
    operating_system: str
    banner: str
    build_id: str | None
    arch: str


def uname(kernel: Kernel) -> Uname:
    """The kernel's name and version.

    Raises:
        UnknownLayout: `init_uts_ns` is not in the kernel's symbol table.
        CorruptData: what lies there is no `new_utsname`.
    """
    fields = kernel.retried(lambda: _read(kernel))
    return Uname(
        *fields,
        operating_system="GNU/Linux",
        banner=kernel.banner,
        build_id=kernel.build_id,
        arch=kernel.arch,
    )


def _read(kernel: Kernel) -> tuple[str, str, str, str, str, str]:
    address = kernel.symbol("init_uts_ns")
    data = kernel.read(address, _LONGEST_PREFIX + _FIELDS * _FIELD_SIZE)
    start = data.find(b"Linux\0")
    if not 0 <= start <= _LONGEST_PREFIX:
        raise CorruptData(f"init_uts_ns at {address:#x} does not hold the name of a Linux kernel")
    sysname, nodename, release, version, machine, domainname = (
        data[at : at + _FIELD_SIZE].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        for at in range(start, start + _FIELDS * _FIELD_SIZE, _FIELD_SIZE)
    )
    if kernel.release and release != kernel.release:
        raise CorruptData(
            f"init_uts_ns at {address:#x} names release {release!r}, but the kernel is {kernel.release!r}"
        )
    if not machine:
        raise UnknownLayout(f"init_uts_ns at {address:#x} names no machine")
    return sysname, nodename, release, version, machine, domainname

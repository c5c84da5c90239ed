"""Every exception virtscope lets out, in one tree.

    VirtscopeError
    ├── UsageError            options that contradict each other, a value out of range
    ├── MissingDependency     an optional library or an installed program is not there
    ├── GuestError            reaching a guest from the host
    │   ├── GuestNotFound     no such domain, process, socket or file
    │   ├── GuestVanished     it was there when the read began
    │   ├── AccessDenied      the host refuses; the message says what is needed
    │   ├── ReadFailed        the host's own read of a file or device failed
    │   ├── MissingDevice     a part of a volume is on a disk that was not given
    │   ├── BackingRefused    a disk image wants a file opened that it must not choose
    │   └── MonitorError      the QEMU monitor refused, or did not answer in time
    ├── GuestMemoryError      reading a guest's physical memory
    │   └── MemoryHole        nothing backs this address
    ├── KernelError           making sense of the kernel in it
    │   ├── KernelNotFound    no Linux kernel in this memory
    │   ├── UnknownLayout     a symbol, a type or a field this view needs is not known
    │   ├── NotMapped         a virtual address the page tables do not map, or not resident
    │   └── CorruptData       a list that loops or leaves memory, a value that cannot be; also a torn read
    ├── SandboxError          a sandbox could not be started or ended by itself
    │   └── SandboxTimeout    what runs in it took longer than it was given
    ├── GuestPathError        a path in a guest's filesystems that leads nowhere
    └── FormatError           bytes that are not what the format says, with format, field and offset
        └── UnsupportedFeature  they are, but use a feature that is not read

Messages are for the person who ran the command: one sentence that says what was being read, where, what is
wrong and, where something can be done, what to do.
"""

from __future__ import annotations


class VirtscopeError(Exception):
    """Base of all errors virtscope raises on purpose."""


class UsageError(VirtscopeError):
    """What was asked for makes no sense: options that exclude each other, a value out of range."""


class MissingDependency(VirtscopeError):
    """An optional Python library or a program of the host is not installed."""


class GuestError(VirtscopeError):
    """A guest could not be reached from the host."""


class GuestNotFound(GuestError):
    """There is no such domain, process, monitor socket or file."""


class GuestVanished(GuestError):
    """The guest was there when reading began and is gone now."""


class AccessDenied(GuestError):
    """The host refuses to let us read the guest; the message says what is needed."""


class ReadFailed(GuestError):
    """The host could not read a file or device that it had opened: an I/O error, a lost network
    filesystem.
    """


class MissingDevice(GuestError):
    """A part of a volume is on a disk that is not there or was not given."""


class BackingRefused(GuestError):
    """A disk image names a file that it may not make us open; the message names the option that allows it."""


class MonitorError(GuestError):
    """QEMU's monitor refused a command, sent nonsense, or did not answer before the deadline."""


class GuestMemoryError(VirtscopeError):
    """A guest's physical memory could not be read."""


class MemoryHole(GuestMemoryError):
    """No memory backs this guest-physical address."""

    def __init__(self, address: int, size: int, source: str = "guest memory") -> None:
        super().__init__(f"{source}: no memory at physical address {address:#x} ({size} bytes wanted)")
        self.address = address
        self.size = size


class KernelError(VirtscopeError):
    """The kernel in a guest's memory could not be understood."""


class KernelNotFound(KernelError):
    """No Linux kernel was found in this memory."""


class UnknownLayout(KernelError):
    """A symbol, type or field that a view needs is not known for this kernel."""


class NotMapped(KernelError):
    """A virtual address is not mapped by the page tables, or its page is not resident."""


class CorruptData(KernelError):
    """Kernel data that contradicts itself: a looping list, a wild pointer, a read torn by a running guest."""


class SandboxError(VirtscopeError):
    """A sandbox could not be started, or ended by itself."""


class SandboxTimeout(SandboxError):
    """A sandbox, or a command in it, took longer than it was given."""


class GuestPathError(VirtscopeError):
    """A path inside a guest leads nowhere.

    Args:
        path: the path as it was asked for.
        problem: why it leads nowhere.
    """

    def __init__(self, path: bytes, problem: str) -> None:
        super().__init__(f"{path.decode('utf-8', 'surrogateescape')}: {problem}")
        self.path = path
        self.problem = problem


class FormatError(VirtscopeError):
    """Bytes that are not what their format says.

    Args:
        format: the format being read, as users name it ("qcow2", "ext4", "ELF core").
        problem: what is wrong, without the place.
        field: the field, in the format's own terms ("l1_table_offset"), when there is one.
        offset: where it is, in bytes from the start of the container that holds it.
    """

    def __init__(
        self, format: str, problem: str, *, field: str | None = None, offset: int | None = None
    ) -> None:
        where = f" {field}" if field else ""
        at = f" at offset {offset:#x}" if offset is not None else ""
        super().__init__(f"{format}:{where}{at}: {problem}" if where or at else f"{format}: {problem}")
        self.format = format
        self.problem = problem
        self.field = field
        self.offset = offset


class UnsupportedFeature(FormatError):
    """Sound bytes that use a feature of their format which is not read: encryption, an unknown extension."""

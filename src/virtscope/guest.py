"""One guest: a name, its memory, its disks. What the Python API and the commands hold.

`open` makes a `Guest` from however a guest is known: a libvirt domain, a QEMU process, a memory dump, disk
images. Nothing is opened before it is needed: a Guest costs nothing until it is asked something.

    with virtscope.open(domain="web") as guest:
        for process in guest.processes():
            print(process.pid, process.comm)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from virtscope.errors import UsageError

if TYPE_CHECKING:
    from virtscope.host.guests import RunningGuest
    from virtscope.kernel import Kernel
    from virtscope.kernel.log import LogRecord
    from virtscope.kernel.network import Interface
    from virtscope.kernel.processes import Process
    from virtscope.kernel.uname import Uname
    from virtscope.memory.physical import PhysicalMemory


class Guest:
    """A guest, looked at from outside; a context manager that lets go of what it opened.

    Args:
        name: what the user calls it: the domain's name, the process, the file.
        open_memory: opens its memory; None when it has none to look at.

    Attributes:
        name: as given; for a QEMU process, the guest's own name as soon as it is known.
        problems: what could not be read of it so far, as sentences; the rest was.
    """

    def __init__(self, name: str, *, open_memory: Callable[[], PhysicalMemory] | None = None) -> None:
        self.name = name
        self._open_memory = open_memory
        self._memory: PhysicalMemory | None = None
        self._kernel: Kernel | None = None
        self.problems: list[str] = []

    def __repr__(self) -> str:
        return f"<Guest {self.name}>"

    @property
    def memory(self) -> PhysicalMemory:
        """The guest-physical memory, opened at first use.

        Raises:
            UsageError: this guest was given as disk images only.
            GuestError: the guest is gone, or the host does not let us read it.
            FormatError: the dump is damaged.
        """
        if self._memory is None:
            if self._open_memory is None:
                raise UsageError(f"{self.name} was given without memory to look at")
            self._memory = self._open_memory()
        return self._memory

    @property
    def kernel(self) -> Kernel:
        """The Linux kernel in the guest's memory, found at first use; `kernel.prog` is a drgn Program.

        Raises:
            KernelNotFound: there is no Linux kernel in it (yet).
        """
        if self._kernel is None:
            from virtscope.kernel import find_kernel

            self._kernel = find_kernel(self.memory)
        return self._kernel

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences a user should see, because what was found out depends on them."""
        memory = tuple(self._memory.notes) if self._memory is not None else ()
        kernel = tuple(self._kernel.notes) if self._kernel is not None else ()
        return tuple(dict.fromkeys(memory + kernel))

    def uname(self) -> Uname:
        """The name and version of the kernel, as uname(2) gives it."""
        from virtscope.kernel.uname import uname

        return uname(self.kernel)

    def processes(self, **options: Any) -> Iterator[Process]:
        """The processes, in the order of their start; options as of `kernel.processes.processes`."""
        from virtscope.kernel.processes import processes

        return processes(self.kernel, **options)

    def log(self) -> Iterator[LogRecord]:
        """The records of the kernel log that are still in its ring buffer, oldest first."""
        from virtscope.kernel.log import log

        return log(self.kernel)

    def interfaces(self) -> Iterator[Interface]:
        """The network interfaces of every network namespace."""
        from virtscope.kernel.network import interfaces

        return interfaces(self.kernel)

    def close(self) -> None:
        """Let go of the memory; what was asked for afterwards is opened anew."""
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open(
    *,
    domain: str | None = None,
    connect: str | None = None,
    qemu: str | int | None = None,
    memory: str | None = None,
) -> Guest:
    """One guest, by exactly one of the ways to name it.

    Args:
        domain: a running libvirt domain, by name or UUID.
        connect: the libvirt connection URI; libvirt's default when None.
        qemu: the PID of a QEMU process, or the path of its QMP socket.
        memory: the path of a memory dump (raw, ELF core).

    Raises:
        UsageError: none or several ways were given.
    """
    if [domain, qemu, memory].count(None) != 2:
        raise UsageError("name the guest in exactly one way: domain, qemu or memory")
    if domain is not None:
        return _of_domain(domain, connect)
    if qemu is not None:
        return _of_qemu(str(qemu))
    assert memory is not None
    return _of_memory_file(memory)


def running(connect: str | None = None) -> list[Guest]:
    """All guests that run on this host, by name; with `connect`, the domains of that libvirt connection.

    Raises:
        GuestError: the named connection cannot be asked.
        MissingDependency: a connection was named and libvirt-python is not installed.
    """
    from virtscope.host.guests import running_guests

    return [_of_running(found) for found in running_guests(connect)]


def _of_running(found: RunningGuest) -> Guest:
    return Guest(found.name, open_memory=lambda: found.open_memory(verify=_holds_kernel))


def _of_domain(name: str, connect: str | None) -> Guest:
    def open_memory() -> PhysicalMemory:
        from virtscope.host.guests import guest_of_domain

        return guest_of_domain(name, connect).open_memory(verify=_holds_kernel)

    return Guest(name, open_memory=open_memory)


def _of_qemu(which: str) -> Guest:
    def open_memory() -> PhysicalMemory:
        from virtscope.host.guests import guest_of_qemu

        found = guest_of_qemu(which)
        guest.name = found.name
        return found.open_memory(verify=_holds_kernel)

    guest = Guest(which, open_memory=open_memory)
    return guest


def _of_memory_file(path: str) -> Guest:
    def open_memory() -> PhysicalMemory:
        from virtscope.memory import open_memory

        return open_memory(path)

    return Guest(path, open_memory=open_memory)


def _holds_kernel(memory: PhysicalMemory) -> bool:
    """Whether memory laid out this way holds a Linux kernel: the wrong layout's page tables lead nowhere."""
    from virtscope.kernel.locate import images

    return next(images(memory), None) is not None

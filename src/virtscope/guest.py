"""One guest: a name, its memory, its disks. What the Python API and the commands hold.

`open` makes a `Guest` from however a guest is known: a libvirt domain, a QEMU process, a memory dump, disk
images. Nothing is opened before it is needed: a Guest costs nothing until it is asked something.

    with virtscope.open(domain="web") as guest:
        for process in guest.processes():
            print(process.pid, process.comm)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from virtscope.errors import UsageError

if TYPE_CHECKING:
    from virtscope.fs.tree import Tree
    from virtscope.host.guests import RunningGuest
    from virtscope.inspect.usage import DiskUsage
    from virtscope.kernel import Kernel
    from virtscope.kernel.log import LogRecord
    from virtscope.kernel.network import Interface
    from virtscope.kernel.processes import Process
    from virtscope.kernel.uname import Uname
    from virtscope.memory.physical import PhysicalMemory
    from virtscope.storage import Storage


@dataclass(frozen=True, slots=True)
class DiskOptions:
    """How the disks of a guest are read.

    Attributes:
        mounts: (device, mount point) pairs that replace what the guest's /etc/fstab says.
        replay: replay the journals of filesystems, in memory.
        verify: check the checksums of all metadata that is read, where the filesystem has them.
        allow_backing: folders and files that may be backing files of images whose format was probed.
    """

    mounts: tuple[tuple[str, str], ...] = ()
    replay: bool = True
    verify: bool = False
    allow_backing: tuple[str, ...] = ()


class Guest:
    """A guest, looked at from outside; a context manager that lets go of what it opened.

    Args:
        name: what the user calls it: the domain's name, the process, the file.
        open_memory: opens its memory; None when it has none to look at.
        open_storage: opens its disks; None when it has none to look at.
        mounts: (device, mount point) pairs that replace what its /etc/fstab says.

    Attributes:
        name: as given; for a QEMU process, the guest's own name as soon as it is known.
        problems: what could not be read of it so far, as sentences; the rest was.
        pid: the QEMU process, where it was named by that and as soon as it is known: QEMU lets any number of
            guests have one name.
    """

    def __init__(
        self,
        name: str,
        *,
        open_memory: Callable[[], PhysicalMemory] | None = None,
        open_storage: Callable[[], Storage] | None = None,
        mounts: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.name = name
        self._open_memory = open_memory
        self._open_storage = open_storage
        self._mounts = tuple(mounts)
        self._storage: Storage | None = None
        self._tree: Tree | None = None
        self._memory: PhysicalMemory | None = None
        self._kernel: Kernel | None = None
        self._mount_notes: list[str] = []
        self.problems: list[str] = []
        self.pid: int | None = None

    def __repr__(self) -> str:
        return f"<Guest {self.name}>"

    @property
    def has_disks(self) -> bool:
        """Whether it was given with disks to look at."""
        return self._open_storage is not None

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
    def storage(self) -> Storage:
        """Its disks and what is on them, opened at first use.

        Raises:
            UsageError: this guest was given without disks.
            GuestError: an image cannot be opened, or may not be.
            FormatError: an image is damaged.
        """
        if self._storage is None:
            if self._open_storage is None:
                raise UsageError(f"{self.name} was given without disks to look at")
            self._storage = self._open_storage()
        return self._storage

    @property
    def tree(self) -> Tree:
        """Its directory tree, put together as its own /etc/fstab says (or as `mounts` did).

        Raises:
            UsageError: which filesystem is the root is not clear.
            as `storage`.
        """
        if self._tree is None:
            from virtscope.inspect.mounts import mount_tree

            self._tree, self._mount_notes = mount_tree(self.storage, mounts=self._mounts)
        return self._tree

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences a user should see, because what was found out depends on them."""
        found: list[str] = []
        for part in (self._memory, self._kernel, self._storage):
            if part is not None:
                found += part.notes
        return tuple(dict.fromkeys(found + self._mount_notes))

    @property
    def evidence(self) -> tuple[str, ...]:
        """Why what was found in its memory is believed to be its kernel, as sentences."""
        if self._kernel is None:
            return ()
        kept = self._kernel.cache_note
        return (*self._kernel.evidence, *((kept,) if kept else ()))

    def filesystems(self) -> Iterator[DiskUsage]:
        """How full its filesystems are; those that cannot be read are added to `problems`."""
        from virtscope.inspect.usage import disk_usage

        return disk_usage(self.storage, problem=self.problems.append)

    def uname(self) -> Uname:
        """The name and version of the kernel, as uname(2) gives it."""
        from virtscope.kernel.uname import uname

        return uname(self.kernel)

    def processes(self, **options: Any) -> Iterator[Process]:
        """The processes, by PID; options as of `kernel.processes.processes`."""
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
        """Let go of memory and disks; what is asked for afterwards is opened anew."""
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        self._tree = None
        if self._storage is not None:
            self._storage.close()
            self._storage = None

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
    disks: Sequence[str | tuple[str, str | None]] = (),
    disk_options: DiskOptions = DiskOptions(),
) -> Guest:
    """One guest, by exactly one of the ways to name it.

    Args:
        domain: a libvirt domain, by name or UUID; its memory only if it runs.
        connect: the libvirt connection URI; libvirt's default when None.
        qemu: the PID of a QEMU process, or the path of its QMP socket.
        memory: the path of a memory dump (raw, ELF core).
        disks: paths of disk images, or paths with their formats; together the disks of one guest.
        disk_options: how its disks are read.

    Raises:
        UsageError: none or several ways were given.
    """
    if [domain, qemu, memory, disks or None].count(None) != 3:
        raise UsageError("name the guest in exactly one way: domain, qemu, memory or disks")
    if domain is not None:
        return _of_domain(domain, connect, disk_options)
    if qemu is not None:
        return _of_qemu(str(qemu))
    if memory is not None:
        return _of_memory_file(memory)
    return _of_disks(disks, disk_options)


def running(connect: str | None = None, *, disk_options: DiskOptions = DiskOptions()) -> list[Guest]:
    """All guests that run on this host, by name; with `connect`, the domains of that libvirt connection.

    Args:
        connect: a libvirt connection URI.
        disk_options: how their disks are read.

    Raises:
        GuestError: the named connection cannot be asked.
        MissingDependency: a connection was named and libvirt-python is not installed.
    """
    from virtscope.host.guests import running_guests

    return [_of_running(found, disk_options) for found in running_guests(connect)]


def _of_running(found: RunningGuest, options: DiskOptions) -> Guest:
    domain = found.domain

    def open_storage() -> Storage:
        assert domain is not None
        return _storage_of_domain(domain.uuid, domain.uri, options, guest.problems.append)

    guest = Guest(
        found.name,
        open_memory=lambda: found.open_memory(verify=_holds_kernel),
        open_storage=open_storage if domain is not None else None,
        mounts=options.mounts,
    )
    return guest


def _of_domain(name: str, connect: str | None, options: DiskOptions) -> Guest:
    def open_memory() -> PhysicalMemory:
        from virtscope.host.guests import guest_of_domain

        return guest_of_domain(name, connect).open_memory(verify=_holds_kernel)

    guest = Guest(
        name,
        open_memory=open_memory,
        open_storage=lambda: _storage_of_domain(name, connect, options, guest.problems.append),
        mounts=options.mounts,
    )
    return guest


def _storage_of_domain(
    name: str, connect: str | None, options: DiskOptions, problem: Callable[[str], None]
) -> Storage:
    """The disks libvirt's configuration of a domain names, whether it runs or not.

    `problem` is told of disks that are not read, when there are others that are.
    """
    from virtscope.host.libvirt import Connection
    from virtscope.storage import open_storage

    with Connection(connect) as connection:
        disks = connection.disks(connection.domain(name))
    images: list[str | tuple[str, str | None]] = []
    unread = []
    for disk in disks:
        if disk.device not in ("disk", "lun") or disk.source is None:
            continue
        if disk.source.path is None:
            unread.append(f"disk {disk.target} is {disk.source.location}")
        else:
            images.append((disk.source.path, disk.source.format))
    why = f": {', '.join(unread)}, and only files and block devices are read" if unread else ""
    if not images:
        raise UsageError(f"{name} has no disks{' that can be read' if why else ''}{why}")
    if why:
        problem(f"it has disks that are not seen{why}")
    return open_storage(images, replay=options.replay, verify=options.verify)


def _of_disks(disks: Sequence[str | tuple[str, str | None]], options: DiskOptions) -> Guest:
    def open_disks() -> Storage:
        from virtscope.storage import open_storage

        return open_storage(
            disks,
            allow_backing=options.allow_backing,
            replay=options.replay,
            verify=options.verify,
        )

    first = disks[0]
    name = first if isinstance(first, str) else first[0]
    return Guest(name, open_storage=open_disks, mounts=options.mounts)


def _of_qemu(which: str) -> Guest:
    def open_memory() -> PhysicalMemory:
        from virtscope.host.guests import guest_of_qemu

        found = guest_of_qemu(which)
        guest.name, guest.pid = found.name, found.pid
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

"""The running guests of this host, and how to get at their monitors and their memory.

`running_guests` finds all of them, `guest_of_qemu` and `guest_of_domain` one.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from virtscope.errors import GuestError, GuestNotFound, MissingDependency, MonitorError
from virtscope.host import qmp
from virtscope.host.qemu import QemuProcess, qemu_behind_socket, qemu_process, qemu_processes
from virtscope.host.qmp import Monitor, QmpClient

if TYPE_CHECKING:
    from virtscope.host.guest_memory import Verify
    from virtscope.host.libvirt import Domain
    from virtscope.memory.live import LiveMemory


@dataclass(frozen=True, slots=True)
class RunningGuest:
    """A guest that runs now.

    Attributes:
        name: its name, or "qemu-PID".
        uuid: its UUID in lower case, if it has one.
        process: the QEMU that runs it; None for a libvirt domain that no QEMU of this host runs.
        domain: its libvirt domain; None if libvirt was not asked, or does not know it.
        sockets: paths of its QMP sockets as seen from here; a leading NUL marks an abstract name.
    """

    name: str
    uuid: str | None
    process: QemuProcess | None
    domain: Domain | None
    sockets: tuple[str, ...]

    @property
    def pid(self) -> int | None:
        """The process id of its QEMU."""
        return self.process.pid if self.process else None

    def open_monitor(self, timeout: float | None = None) -> Monitor:
        """Connect to its monitor: a QMP socket that answers, else libvirt's passthrough.

        Use it in a with statement and briefly: QEMU serves one client per socket.

        Args:
            timeout: the seconds that connecting and everything asked may take, per way that is tried; None
                for `qmp.TIMEOUT`.

        Raises:
            MonitorError: there is none, or it does not answer.
            MissingDependency, AccessDenied, GuestNotFound: it cannot be reached; the message says why.
        """
        if timeout is None:
            timeout = qmp.TIMEOUT
        problem: GuestError | None = None
        for path in self.sockets:
            try:
                return QmpClient(path, timeout, partial(self._is_taken, path))
            except GuestError as error:
                problem = problem or error
        if self.domain is not None:
            from virtscope.host.libvirt import PassthroughMonitor

            return PassthroughMonitor(self.domain, timeout)
        raise problem or MonitorError(f"{self.name} has no monitor that can be reached")

    def open_memory(
        self, *, verify: Verify | None = None, use_monitor: bool = True, timeout: float | None = None
    ) -> LiveMemory:
        """Its memory; the caller closes it.

        Where the RAM lies in the process is asked of the monitor if it can be reached, else worked out from
        the mappings. Under libvirt it is the other way round, and the monitor is asked only if the mappings
        leave a doubt: libvirt marks a domain as tainted whose monitor was used.

        Args:
            verify: says whether memory looks right; picks one if the mappings allow several layouts.
            use_monitor: whether the monitor may be asked at all, now or for `PhysicalMemory.page_roots`.
            timeout: the seconds that asking the monitor may take.

        Raises:
            GuestNotFound: no process of this host runs the guest.
            GuestVanished: it has ended.
            AccessDenied: this user may not read it; the message says what is needed.
            GuestMemoryError: no memory of the process can be its RAM.
        """
        if self.process is None:
            raise GuestNotFound(f"{self.name}: no QEMU process of this host runs it")
        from virtscope.host.guest_memory import GuestMemoryOpener

        can_ask = use_monitor and bool(self.sockets or self.domain)
        return GuestMemoryOpener(
            self.process,
            self.name,
            open_monitor=partial(self.open_monitor, timeout) if can_ask else None,
            mappings_first=not self.sockets,
            verify=verify,
        ).open()

    def _is_taken(self, path: str) -> bool:
        """Whether another client is connected to the QMP socket at `path`, as far as can be seen."""
        if self.process is None:
            return False
        names = {
            monitor.path.encode()
            for monitor in self.process.command_line.monitors
            if self.process.socket_path(monitor) == path
        } or {path.encode()}
        with suppress(OSError), open(f"/proc/{self.process.pid}/net/unix", "rb") as file:
            for line in file:
                # Num RefCount Protocol Flags Type St Inode Path; state 03 is a connection that was accepted
                row = line.rstrip(b"\n").split(None, 7)
                if len(row) == 8 and row[5] == b"03" and row[7].lstrip(b"@") in names:
                    return True
        return False


def running_guests(uri: str | None = None) -> list[RunningGuest]:
    """Every guest that runs on this host, libvirt's and others, by name; see `_told_apart` for equal names.

    Args:
        uri: the libvirt connection to ask; None for libvirt's default. If a connection is named, only its
            domains are listed, and not being able to ask is an error. If not, libvirt is asked only when some
            process looks like one of its own, and done without if it does not answer.

    Raises:
        MissingDependency, GuestError: the named connection cannot be asked.
    """
    processes = list(qemu_processes())
    domains: list[Domain] = []
    if uri is not None:
        domains = _domains(uri)
    elif any(process.is_managed for process in processes):
        with suppress(MissingDependency, GuestError):
            domains = _domains(None)
    by_uuid = {process.command_line.uuid: process for process in processes if process.command_line.uuid}
    guests = [_of_domain(domain, by_uuid.get(domain.uuid)) for domain in domains]
    if uri is None:
        taken = {guest.pid for guest in guests}
        guests += [_of_process(process) for process in processes if process.pid not in taken]
    return sorted(_told_apart(guests), key=lambda guest: (guest.name, guest.pid or 0))


def _told_apart(guests: list[RunningGuest]) -> list[RunningGuest]:
    """The guests, with the process id in the names that several have: QEMU lets any guest have any name.

    A libvirt domain keeps its name, by which libvirt knows it.
    """
    names = Counter(guest.name for guest in guests)
    return [
        replace(guest, name=f"{guest.name}-{guest.pid}")
        if names[guest.name] > 1 and guest.domain is None
        else guest
        for guest in guests
    ]


def guest_of_qemu(which: str, timeout: float | None = None) -> RunningGuest:
    """The guest of one QEMU process.

    Args:
        which: its process id, or the path of its QMP socket.
        timeout: the seconds that connecting to the socket may take.

    Raises:
        UsageError: `which` is neither.
        GuestNotFound: there is no such process or socket, or it is not a QEMU's.
        AccessDenied, MonitorError: the socket does not let us in.
    """
    if which.isdecimal() and len(which) < 12:
        return _of_process(qemu_process(int(which)))
    process = qemu_behind_socket(which, qmp.TIMEOUT if timeout is None else timeout)
    guest = _of_process(process)
    return RunningGuest(guest.name, guest.uuid, process, None, (which,))


def guest_of_domain(name: str, uri: str | None = None) -> RunningGuest:
    """The guest of a running libvirt domain.

    Args:
        name: the domain's name or UUID.
        uri: the connection, None for libvirt's default.

    Raises:
        MissingDependency: libvirt-python is not installed.
        GuestNotFound: libvirt cannot be reached, there is no such domain, or it is not running.
        GuestError: libvirt refuses or does not answer.
    """
    from virtscope.host.libvirt import Connection, pid_file

    with Connection(uri) as connection:
        domain = connection.domain(name)
    if not domain.is_running:
        raise GuestNotFound(f"domain {domain.name} is not running")
    path = pid_file(domain)
    if path is not None:
        with suppress(OSError, ValueError, GuestError), open(path, encoding="ascii") as file:
            process = qemu_process(int(file.read(32)))
            if process.command_line.uuid == domain.uuid:
                return _of_domain(domain, process)
    # Not readable for this user, or another libvirt's: the UUID on the command line says as much.
    for process in qemu_processes():
        if process.command_line.uuid == domain.uuid:
            return _of_domain(domain, process)
    return _of_domain(domain, None)


def _domains(uri: str | None) -> list[Domain]:
    from virtscope.host.libvirt import Connection

    with Connection(uri) as connection:
        return connection.domains()


def _of_process(process: QemuProcess) -> RunningGuest:
    line = process.command_line
    sockets = tuple(process.socket_path(monitor) for monitor in line.monitors)
    return RunningGuest(process.name, line.uuid, process, None, sockets)


def _of_domain(domain: Domain, process: QemuProcess | None) -> RunningGuest:
    sockets = _of_process(process).sockets if process else ()
    return RunningGuest(domain.name, domain.uuid, process, domain, sockets)

"""Guests that libvirt manages: their names, their QEMU processes, their disks, and their monitors.

This is the one module that imports libvirt-python, and only when something is asked of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any, Self, TypeVar

from virtscope.errors import AccessDenied, GuestError, GuestNotFound, MissingDependency, MonitorError
from virtscope.host.domain_disks import Disk, parse_disks

_Result = TypeVar("_Result")
_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Domain:
    """One domain of a libvirt connection.

    Attributes:
        name: its name.
        uuid: its UUID, in lower case with hyphens.
        is_running: whether it has a process (it may be paused).
        uri: the connection it was found on.
    """

    name: str
    uuid: str
    is_running: bool
    uri: str


class Connection:
    """A libvirt connection that only looks.

    Args:
        uri: as `virsh -c` takes it; None for libvirt's default.

    Raises:
        MissingDependency: libvirt-python is not installed.
        AccessDenied: libvirt does not let this user in.
        GuestNotFound: nothing answers there.
    """

    def __init__(self, uri: str | None = None) -> None:
        self._libvirt = _import()
        self._connection = _open(self._libvirt, uri, read_only=True)
        # What was given and not what libvirt makes of it: that leaves out how the daemon was reached.
        self.uri: str = uri or self._ask(self._connection.getURI)

    def domains(self, *, running_only: bool = True) -> list[Domain]:
        """The domains, by name; those that are not running only if asked for.

        Raises:
            GuestError: libvirt does not answer.
        """
        flags = self._libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE if running_only else 0
        found = self._ask(lambda: self._connection.listAllDomains(flags))
        rows = self._ask(lambda: [self._row(domain, running_only) for domain in found])
        return sorted(rows, key=lambda domain: domain.name)

    def domain(self, name: str) -> Domain:
        """The domain with this name, or else this UUID.

        Raises:
            GuestNotFound: there is none.
            GuestError: libvirt does not answer.
        """
        return self._ask(lambda: self._row(self._find(name)))

    def disks(self, domain: Domain) -> list[Disk]:
        """The disks of a domain, running or not, in the order of its configuration.

        Raises:
            GuestNotFound: the domain is gone.
            GuestError: libvirt does not answer.
        """
        text: str = self._ask(lambda: self._find(domain.uuid).XMLDesc(0))
        return parse_disks(text, self._volume_path)

    def close(self) -> None:
        """Disconnect."""
        with suppress(self._libvirt.libvirtError):
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _row(self, domain: Any, is_running: bool = False) -> Domain:
        if not is_running:
            try:
                is_running = bool(domain.isActive())
            except self._libvirt.libvirtError as error:  # one that was not defined, and has just ended
                if error.get_error_code() != self._libvirt.VIR_ERR_NO_DOMAIN:
                    raise
        return Domain(domain.name(), domain.UUIDString().lower(), is_running, self.uri)

    def _find(self, name: str) -> Any:
        return _find(self._libvirt, self._connection, name, self.uri)

    def _volume_path(self, pool: str, volume: str) -> str | None:
        def look() -> str:
            return str(self._connection.storagePoolLookupByName(pool).storageVolLookupByName(volume).path())

        try:
            return self._ask(look)
        except GuestError:  # a pool that is not active cannot be asked
            return None

    def _ask(self, call: Callable[[], _Result]) -> _Result:
        return _ask(self._libvirt, call, _TIMEOUT, "libvirt")


class PassthroughMonitor:
    """A `Monitor` reached through libvirt, which owns the QMP socket of the guests it manages.

    libvirt marks a domain as tainted ("custom-monitor") when this is used for the first time.

    Args:
        domain: a running QEMU domain.
        timeout: the seconds that each call may take.

    Raises:
        MissingDependency, AccessDenied, GuestNotFound: as `Connection`, but libvirt demands write access.
    """

    def __init__(self, domain: Domain, timeout: float) -> None:
        self._domain = domain
        self._timeout = timeout
        self._libvirt = _import()
        self._connection = _open(self._libvirt, domain.uri, read_only=False)
        try:
            self._handle = self._ask(lambda: _find(self._libvirt, self._connection, domain.uuid, domain.uri))
        except BaseException:
            self.close()
            raise

    def execute(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """See `Monitor.execute`."""
        import json

        request = json.dumps({"execute": command, "arguments": arguments or {}})
        try:
            answer = json.loads(self._command(request, 0))
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict) and "return" in answer:
            return answer["return"]
        problem = answer.get("error") if isinstance(answer, dict) else None
        text = problem.get("desc") if isinstance(problem, dict) else "an answer that is not QMP"
        raise MonitorError(f"monitor of domain {self._domain.name} refused {command}: {str(text)[:200]!r}")

    def human(self, command_line: str) -> str:
        """See `Monitor.human`."""
        return self._command(command_line, 1)  # VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP

    def close(self) -> None:
        """Disconnect."""
        with suppress(self._libvirt.libvirtError):
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _command(self, command: str, flags: int) -> str:
        import libvirt_qemu  # type: ignore[import-untyped,unused-ignore]

        return self._ask(lambda: str(libvirt_qemu.qemuMonitorCommand(self._handle, command, flags)))

    def _ask(self, call: Callable[[], _Result]) -> _Result:
        return _ask(self._libvirt, call, self._timeout, f"monitor of domain {self._domain.name}")


def pid_file(domain: Domain) -> str | None:
    """Where libvirt keeps the process id of a running QEMU domain; None for other kinds of connections."""
    if domain.uri.startswith("qemu:///system"):
        return f"/run/libvirt/qemu/{domain.name}.pid"
    directory = os.environ.get("XDG_RUNTIME_DIR")
    if domain.uri.startswith("qemu:///session") and directory:
        return f"{directory}/libvirt/qemu/run/{domain.name}.pid"
    return None


def _import() -> ModuleType:
    """libvirt-python, told not to print its errors."""
    try:
        import libvirt
    except ImportError:
        raise MissingDependency(
            "libvirt-python is not installed, so libvirt domains cannot be found: "
            "pip install 'virtscope[libvirt]'; --qemu PID works without it"
        ) from None
    libvirt.registerErrorHandler(lambda *_: None, None)
    module: ModuleType = libvirt
    return module


def _open(libvirt: ModuleType, uri: str | None, *, read_only: bool) -> Any:
    connect = libvirt.openReadOnly if read_only else libvirt.open
    shown = uri or "its default URI"
    try:
        return _ask(libvirt, lambda: connect(uri), _TIMEOUT, "libvirt")
    except AccessDenied:
        raise
    except GuestError as error:
        raise GuestNotFound(
            f"cannot connect to libvirt at {shown}; is libvirtd or virtqemud running? ({error})"
        ) from None


def _find(libvirt: ModuleType, connection: Any, name: str, uri: str) -> Any:
    try:
        return connection.lookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
    try:
        return connection.lookupByUUIDString(name)
    except libvirt.libvirtError:
        raise GuestNotFound(f"libvirt at {uri} has no domain {name!r}") from None


def _ask(libvirt: ModuleType, call: Callable[[], _Result], timeout: float, who: str) -> _Result:
    """Make a libvirt call, which can block for ever, with a deadline.

    Raises:
        AccessDenied: this user may not.
        GuestNotFound: the domain or the pool does not exist.
        MonitorError: no answer in time, or another failure.
    """
    from threading import Thread

    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout)
    if results:
        return results[0]
    if not errors:
        raise MonitorError(f"{who} did not answer within {timeout:g} s")
    error = errors[0]
    if not isinstance(error, libvirt.libvirtError):
        raise error
    code = error.get_error_code()
    if code in (
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_AUTH_UNAVAILABLE,
        libvirt.VIR_ERR_OPERATION_DENIED,
    ):
        raise AccessDenied(f"libvirt does not allow that ({error}); run as root, or in the group libvirt")
    if code in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_NO_STORAGE_VOL):
        raise GuestNotFound(f"{who}: {error}")
    raise MonitorError(f"{who}: {error}")

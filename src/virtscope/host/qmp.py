"""A small synchronous client for QEMU's monitor protocol, QMP (QEMU docs/interop/qmp-spec.txt).

The `qemu.qmp` package is the full client. It is built on asyncio, whose import alone takes longer than all we
ask of a monitor, and a command that looks into a guest is short: this one connects, asks, and leaves at once,
because QEMU serves one client per socket. All it does has one deadline; what comes back is bounded in size.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from virtscope.errors import AccessDenied, GuestNotFound, MonitorError

if TYPE_CHECKING:
    import socket

TIMEOUT = 1.0
"""The seconds that asking a monitor may take where nobody says otherwise."""

_LONGEST_MESSAGE = 16 << 20
_SHOWN = 200
_SOON = 0.02
_PATIENCE = 0.25


class Monitor(Protocol):
    """A connection to the monitor of one running QEMU."""

    def execute(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Run a QMP command and return what it returns.

        Raises:
            MonitorError: QEMU refused, sent nonsense, or did not answer in time.
        """

    def human(self, command_line: str) -> str:
        """Run a command of the human monitor and return what it prints.

        Raises:
            MonitorError: QEMU refused, sent nonsense, or did not answer in time.
        """

    def __enter__(self) -> Self:
        """Use it in a with statement: the monitor may be there for one client only."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave."""


class QmpClient:
    """A `Monitor` reached through its Unix socket.

    Args:
        path: of the socket; a name in the abstract namespace starts with a NUL character.
        timeout: the seconds that everything done with this object may take together; None for `TIMEOUT`.
        is_taken: asked once when the greeting is slow to come; when it says that QEMU serves another client,
            there is no point in waiting longer.

    Raises:
        GuestNotFound: there is no such socket, or nobody listens on it.
        AccessDenied: this user may not connect to it.
        MonitorError: what is there does not greet as QMP does, or not in time.
    """

    def __init__(
        self, path: str, timeout: float | None = None, is_taken: Callable[[], bool] | None = None
    ) -> None:
        if timeout is None:
            timeout = TIMEOUT
        self._path = path
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._buffer = bytearray()
        self._socket = connect(path, timeout)
        try:
            # A client that has just left may still look connected, until QEMU's main loop comes round.
            patience = min(time.monotonic() + _PATIENCE, self._deadline)
            while is_taken is not None and not self._greets_soon() and is_taken():
                if time.monotonic() + _SOON > patience:
                    raise MonitorError(f"{self._label} does not answer: another client is connected to it")
            if not isinstance(self._message().get("QMP"), dict):
                raise MonitorError(f"{self._label} is not a QMP monitor")
            self.execute("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def execute(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """See `Monitor.execute`."""
        request = json.dumps({"execute": command, "arguments": arguments or {}}).encode() + b"\n"
        try:
            self._socket.settimeout(self._left())
            self._socket.sendall(request)
        except OSError as error:
            raise self._failed(error) from None
        while True:
            answer = self._message()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                problem = answer["error"]
                text = problem.get("desc") if isinstance(problem, dict) else problem
                raise MonitorError(f"{self._label} refused {command}: {str(text)[:_SHOWN]!r}")
            # anything else is an event

    def human(self, command_line: str) -> str:
        """See `Monitor.human`."""
        text = self.execute("human-monitor-command", {"command-line": command_line})
        if not isinstance(text, str):
            raise MonitorError(f"{self._label} answered {command_line!r} with something other than text")
        return text

    def close(self) -> None:
        """Hang up; QEMU is free for the next client."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _label(self) -> str:
        return f"monitor {_shown(self._path)}"

    def _greets_soon(self) -> bool:
        import select

        return bool(select.select([self._socket], [], [], min(_SOON, self._left()))[0])

    def _message(self) -> dict[str, object]:
        """The next message: one line of JSON."""
        scanned = 0
        while (end := self._buffer.find(b"\n", scanned)) < 0:
            scanned = len(self._buffer)
            if scanned > _LONGEST_MESSAGE:
                raise MonitorError(f"{self._label} sent more than {_LONGEST_MESSAGE >> 20} MiB at once")
            try:
                self._socket.settimeout(self._left())
                data = self._socket.recv(1 << 16)
            except OSError as error:
                raise self._failed(error) from None
            if not data:
                raise MonitorError(f"{self._label} closed the connection")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise MonitorError(f"{self._label} sent something that is not QMP: {line[:_SHOWN]!r}")
        return message

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _failed(self, error: OSError) -> MonitorError:
        if isinstance(error, TimeoutError | BlockingIOError):
            return MonitorError(
                f"{self._label} did not answer within {self._timeout:g} s (hung, or serving another client)"
            )
        return MonitorError(f"{self._label} broke the connection: {error.strerror}")


def _shown(path: str) -> str:
    """A socket's path as its QEMU sees it, which is how a user knows it."""
    import re

    return re.sub(r"^/proc/\d+/(root(?=/)|cwd/)", "", path.lstrip("\0"))


def connect(path: str, timeout: float) -> socket.socket:
    """A connection to the Unix socket at `path`, however long the path is.

    Raises:
        GuestNotFound: there is no such socket, or nobody listens on it.
        AccessDenied: this user may not connect to it.
        MonitorError: nobody took the connection in time.
    """
    import socket

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    fd = -1
    try:
        if path.startswith("\0"):
            connection.connect(path)
        else:
            # By descriptor: a socket address holds 107 bytes, a path below /proc/PID/root may be longer.
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            connection.connect(f"/proc/self/fd/{fd}")
    except OSError as error:
        connection.close()
        shown = _shown(path)
        if isinstance(error, PermissionError):
            raise AccessDenied(
                f"monitor {shown}: not allowed to connect; run as root or as its owner"
            ) from None
        if isinstance(error, TimeoutError | BlockingIOError):
            raise MonitorError(f"monitor {shown} did not take the connection within {timeout:g} s") from None
        if isinstance(error, FileNotFoundError):
            raise GuestNotFound(f"there is no monitor socket {shown}") from None
        raise GuestNotFound(f"nobody listens on {shown} ({error.strerror})") from None
    finally:
        if fd >= 0:
            os.close(fd)
    return connection


def peer_pid(path: str, timeout: float | None = None) -> int:
    """The process that listens on the Unix socket at `path`; 0 if it cannot be seen from here.

    Raises:
        GuestNotFound, AccessDenied, MonitorError: as `connect`.
    """
    import socket
    import struct

    with connect(path, TIMEOUT if timeout is None else timeout) as connection:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid: int = struct.unpack("=3i", credentials)[0]
    return pid

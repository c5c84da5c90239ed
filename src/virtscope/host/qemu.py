"""The QEMU processes of this host, and what their command lines and /proc say about their guests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from virtscope.errors import AccessDenied, GuestNotFound, GuestVanished, UsageError
from virtscope.host.command_line import CommandLine, MonitorSocket, parse_command_line
from virtscope.memory.live import process_start_time

_PROGRAMS = ("qemu-system-", "qemu-kvm")
_OTHER_NAMES = ("kvm", "qemu")
_LONGEST_COMMAND_LINE = 4 << 20


@dataclass(frozen=True, slots=True)
class QemuProcess:
    """One running QEMU.

    Attributes:
        pid: its process id.
        start_time: when it started, in clock ticks after the host's boot.
        program: the name of its executable ("qemu-system-x86_64").
        command_line: what it was started with.
    """

    pid: int
    start_time: int
    program: str
    command_line: CommandLine

    @property
    def name(self) -> str:
        """The guest's name, or "qemu-PID" if it was given none."""
        return self.command_line.name or f"qemu-{self.pid}"

    @property
    def machine(self) -> str:
        """The kind of machine: "pc", "q35", "microvm", "virt", ...; as given when it is not one of these."""
        given = self.command_line.machine
        if not given:
            return "pc" if self.is_x86 else ""
        if given == "isapc" or given.startswith("pc-i440fx"):
            return "pc"
        if given.startswith("pc-q35"):
            return "q35"
        return "virt" if given.startswith("virt-") else given

    @property
    def is_managed(self) -> bool:
        """Whether it looks as if libvirt started it, which hands QEMU its monitor as an open file."""
        return self.command_line.is_managed

    @property
    def architecture(self) -> str:
        """The guest's processor as QEMU names it: "x86_64", "i386", "aarch64", ..."""
        if self.program.startswith("qemu-system-"):
            return self.program.removeprefix("qemu-system-").partition("-")[0]
        return os.uname().machine  # qemu-kvm runs what the host is

    @property
    def is_x86(self) -> bool:
        """Whether the guest is an x86 machine."""
        return self.architecture in ("x86_64", "i386", "i686")

    def path(self, path: str) -> str:
        """A path that this process uses, as seen from here, by its own root and working directory."""
        if path.startswith("/"):
            return f"/proc/{self.pid}/root{path}"
        return f"/proc/{self.pid}/cwd/{path}"

    def socket_path(self, monitor: MonitorSocket) -> str:
        """Where to connect to a monitor of this process; a name in the abstract namespace starts with NUL."""
        return "\0" + monitor.path if monitor.is_abstract else self.path(monitor.path)


def qemu_processes() -> Iterator[QemuProcess]:
    """Every QEMU on this host that this user can see, in order of PID.

    Those that end while they are looked at are left out.
    """
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        try:
            process = _look_at(pid)
        except GuestVanished:
            continue
        if process is not None:
            yield process


def qemu_process(pid: int) -> QemuProcess:
    """The QEMU with this process id.

    Raises:
        GuestNotFound: there is no such process, or it is no QEMU.
    """
    try:
        process = _look_at(pid)
    except GuestVanished:
        raise GuestNotFound(f"there is no process {pid}") from None
    if process is None:
        if _is_zombie(pid):
            raise GuestNotFound(f"process {pid} ({_command_name(pid)}) has ended: it is a zombie")
        raise GuestNotFound(f"process {pid} ({_command_name(pid)}) is not a QEMU virtual machine")
    return process


def qemu_behind_socket(path: str, timeout: float) -> QemuProcess:
    """The QEMU that listens on the monitor socket at `path`.

    Raises:
        GuestNotFound: there is no such socket, nobody listens on it, or no QEMU does.
        AccessDenied: this user may not connect to it.
        MonitorError: the socket does not take connections.
    """
    import stat

    from virtscope.host.qmp import peer_pid

    try:
        status = os.stat(path)
    except PermissionError:
        raise AccessDenied(
            f"monitor {path}: not allowed to look there; run as root or as its owner"
        ) from None
    except OSError as error:
        raise GuestNotFound(f"there is no monitor socket {path} ({error.strerror})") from None
    if not stat.S_ISSOCK(status.st_mode):
        raise UsageError(f"{path} is neither a process id nor a monitor socket")
    pid = peer_pid(path, timeout)
    process = None
    if pid:
        try:
            process = _look_at(pid)
        except GuestVanished:
            process = None
    if process is not None:
        return process
    # It may have been another process that began to listen, and handed the socket to QEMU.
    for candidate in qemu_processes():
        for monitor in candidate.command_line.monitors:
            if not monitor.is_abstract and _is_same_file(candidate.path(monitor.path), status):
                return candidate
    raise GuestNotFound(f"no QEMU virtual machine of this host listens on {path}")


def _look_at(pid: int) -> QemuProcess | None:
    """Process `pid` if it is a QEMU.

    Raises:
        GuestVanished: there is no such process.
    """
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            raw = file.read(_LONGEST_COMMAND_LINE)
    except (OSError, ValueError):
        raise GuestVanished(f"process {pid} is gone") from None
    arguments = [os.fsdecode(argument) for argument in raw.split(b"\0")[:-1]]
    if not arguments:
        return None  # a kernel thread, or a zombie
    program = arguments[0].rpartition("/")[2]
    if "qemu" not in arguments[0] and "kvm" not in program:
        return None
    with suppress(OSError):  # another user's: the command line has to do
        program = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)").rpartition("/")[2]
    if not program.startswith(_PROGRAMS) and program not in _OTHER_NAMES:
        return None
    return QemuProcess(pid, process_start_time(pid), program, parse_command_line(arguments[1:]))


def _is_zombie(pid: int) -> bool:
    with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[:1] == [b"Z"]
    return False


def _command_name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"


def _is_same_file(path: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), status)
    except OSError:
        return False

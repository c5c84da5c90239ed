"""One QEMU process of the lab: its memory, monitor and console, and its certain end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from lab.cache import LabError, program, scratch_folder
from lab.monitor import Monitor

Backend = Literal["plain", "ram", "memfd", "memfd-private", "file", "file-private", "numa"]
"""Where the guest's RAM is: QEMU's default, or an object of that kind (`memfd` and `file` are shared;
`numa` is two nodes, one of each)."""


def runs(pid: int) -> bool:
    """Whether there is such a process; a zombie does not count."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in b"ZX"


class Qemu:
    """A QEMU process; a context manager that kills it at the end, whatever happens.

    Args:
        memory_mib: RAM.
        machine: pc, q35 or microvm, with QEMU's further machine options if wanted (`q35,hmat=on`).
        accel: kvm or tcg.
        monitor: Whether there is a QMP socket.
        backend: The kind of memory backend.
        defaults: Leaves QEMU's default devices in (VGA, e1000, floppy), as when started by hand.
        args: Further QEMU arguments.
        name: QEMU's -name, for the process list.

    Attributes:
        pid: QEMU's process ID.
        qmp_socket: The QMP socket's path, or None. It serves one client at a time; `monitor()` uses it too.
        console_log: The file with what the guest wrote to its first serial port.
    """

    def __init__(
        self,
        *,
        memory_mib: int = 256,
        machine: str = "q35",
        accel: str = "tcg",
        monitor: bool = True,
        backend: Backend = "plain",
        defaults: bool = False,
        args: Sequence[str] = (),
        name: str = "lab",
    ) -> None:
        self.memory_mib = memory_mib
        self.machine = machine
        self.accel = accel
        self.backend: Backend = backend
        self.name = name
        self.pid = 0
        self._defaults = defaults
        self._args = args
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor = monitor
        self.console_log = Path()
        self.qmp_socket: Path | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Starts QEMU."""
        self._make_folder()
        self._launch([])

    def close(self) -> None:
        """Kills QEMU and removes its folder; may be called again."""
        self._stack.close()

    def monitor(self, timeout: float = 120) -> Monitor:
        """A new connection to the QMP socket (a context manager)."""
        if self.qmp_socket is None:
            raise LabError("this guest was started without a monitor")
        return Monitor(self.qmp_socket, timeout)

    def console(self) -> str:
        """What the guest wrote to its console so far."""
        return self.console_log.read_text(errors="replace") if self.console_log.exists() else ""

    def wait_console(self, text: str, timeout: float = 300) -> None:
        """Waits until the text is in the console log.

        Raises:
            LabError: It did not come in time.
        """
        deadline = time.monotonic() + timeout
        while text not in self.console():
            if time.monotonic() > deadline or not self.alive():
                raise LabError(f"the guest's console never said {text!r}: {self.last_words()}")
            time.sleep(0.05)

    def alive(self) -> bool:
        """Whether QEMU is still running."""
        return self._process is not None and self._process.poll() is None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the guest's CPUs through the monitor for a while (`stop`, `cont`)."""
        with self.monitor() as monitor:
            monitor.command("stop")
        try:
            yield
        finally:
            with self.monitor() as monitor:
                monitor.command("cont")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stops the QEMU process itself for a while (SIGSTOP): its monitor takes clients, never answers."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def dump(self, path: Path, kind: Literal["elf", "kdump-zlib"] = "elf") -> Path:
        """Writes the guest's memory to a file with QEMU's own dump-guest-memory; returns the path."""
        with self.monitor(timeout=300) as monitor:
            monitor.command("dump-guest-memory", paging=False, protocol=f"file:{path}", format=kind)
        return path

    def _make_folder(self) -> None:
        self._folder = scratch_folder()
        self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        self.console_log = self._folder / "console.log"
        self.qmp_socket = self._folder / "qmp.sock" if self._monitor else None

    def _launch(self, arguments: Sequence[str], pass_fds: Sequence[int] = ()) -> None:
        command = [
            # QEMU dies with us even when we are killed: the kernel sends the signal. Should we be gone before
            # that is arranged, the shell sees another parent than us.
            *(program("setpriv", "util-linux"), "--pdeathsig", "KILL", "--"),
            *("sh", "-c", 'test $PPID = "$0" && exec "$@"', str(os.getpid())),
            *(program("qemu-system-x86_64", "qemu-system-x86"), "-name", self.name),
            *("-accel", self.accel, "-m", str(self.memory_mib), *self._memory_arguments()),
            *("-display", "none", "-monitor", "none", "-no-reboot", "-no-user-config"),
            *([] if self._defaults else ["-nodefaults"]),
            *("-serial", f"file:{self.console_log}"),
            *(["-qmp", f"unix:{self.qmp_socket},server=on,wait=off"] if self.qmp_socket else []),
            *arguments,
            *self._args,
        ]
        with open(self._folder / "qemu.log", "wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=pass_fds
            )
        self.pid = self._process.pid
        self._stack.callback(self._kill)

    def _kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        """The end of what QEMU and the guest's console said, for messages."""
        log = self._folder / "qemu.log"
        said = log.read_text(errors="replace")[-1000:] if log.exists() else ""
        return said + "\n".join(self.console().splitlines()[-15:])

    def _memory_arguments(self) -> list[str]:
        size = f"size={self.memory_mib}M"
        shared = "off" if self.backend.endswith("-private") else "on"
        machine = ["-machine", self.machine]
        with_backend = ["-machine", f"{self.machine},memory-backend=ram0"]
        match self.backend:
            case "plain":
                return machine
            case "ram":
                return [*with_backend, "-object", f"memory-backend-ram,id=ram0,{size}"]
            case "memfd" | "memfd-private":
                return [*with_backend, "-object", f"memory-backend-memfd,id=ram0,{size},share={shared}"]
            case "file" | "file-private":
                file = f"mem-path={self._folder}/ram,share={shared}"
                return [*with_backend, "-object", f"memory-backend-file,id=ram0,{size},{file}"]
            case "numa":
                half = self.memory_mib // 2
                return [
                    *machine,
                    *("-object", f"memory-backend-ram,id=ram0,size={half}M", "-numa", "node,memdev=ram0"),
                    *("-object", f"memory-backend-memfd,id=ram1,size={self.memory_mib - half}M,share=on"),
                    *("-numa", "node,memdev=ram1"),
                ]


class BareMachine(Qemu):
    """A machine without a kernel: it sits in its firmware, or runs a boot sector that is no Linux.

    Args:
        disk: The first disk's content, or None for no disk.
        options: As for `Qemu`.
    """

    def __init__(self, disk: bytes | None = None, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._disk = disk

    def start(self) -> None:
        """Starts QEMU."""
        self._make_folder()
        arguments: list[str] = []
        if self._disk is not None:
            image = self._folder / "disk.img"
            image.write_bytes(self._disk)
            arguments = ["-drive", f"file={image},format=raw,if=ide"]
        self._launch(arguments)

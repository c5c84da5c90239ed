"""Boots real small guests in QEMU: `with Guest(kernel("6.1")) as guest: guest.run("ps")`."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from lab.accelerator import accelerator, tsc_khz
from lab.agent import Agent, Result
from lab.cache import LabError, LabUnavailable, program
from lab.initrd import initrd
from lab.kernels import Kernel, vmlinux
from lab.kernels import kernel as find_kernel
from lab.monitor import Monitor
from lab.userspace import script

Backend = Literal["plain", "ram", "memfd", "memfd-private", "file", "file-private", "numa"]
"""Where the guest's RAM is: QEMU's default, or an object of that kind (`memfd` and `file` are shared)."""


class Guest:
    """A running guest; a context manager that kills it at the end, whatever happens.

    Args:
        kernel: A `Kernel` or its lab name.
        memory_mib: RAM.
        machine: pc, q35 or microvm, with QEMU's further machine options if wanted (`q35,hmat=on`).
        cpu: QEMU's -cpu; by default everything the accelerator can do.
        smp: Virtual CPUs.
        monitor: Whether there is a QMP socket.
        backend: The kind of memory backend.
        setup: The shell script run at boot; by default the processes and network of `lab.userspace`;
            "" for none.
        modules: Kernel modules to load besides `lab.initrd.MODULES`.
        append: Text added to the kernel command line.
        direct: Boots the uncompressed kernel image through PVH: 2 s faster, but without KASLR.
        agent: How commands reach the guest: "virtio" port, second "serial" port, or None for no way at all.
        args: Further QEMU arguments.
        timeout: Seconds until a guest that is not ready has failed.
        name: QEMU's -name, for the process list.

    Attributes:
        pid: QEMU's process ID.
        qmp_socket: The QMP socket's path, or None. It serves one client at a time; `monitor()` uses it too.
        console_log: The file with what the guest wrote to its console.
        boot_seconds: Time from starting QEMU to the guest being ready.
    """

    def __init__(
        self,
        kernel: Kernel | str = "6.1",
        *,
        memory_mib: int = 256,
        machine: str = "q35",
        cpu: str = "",
        smp: int = 1,
        monitor: bool = True,
        backend: Backend = "plain",
        setup: str | None = None,
        modules: Sequence[str] = (),
        append: str = "",
        direct: bool = False,
        agent: Literal["virtio", "serial"] | None = "virtio",
        args: Sequence[str] = (),
        timeout: float = 120,
        name: str = "lab",
    ) -> None:
        self.kernel = find_kernel(kernel) if isinstance(kernel, str) else kernel
        self.memory_mib = memory_mib
        self.machine = machine
        self.backend: Backend = backend
        self.timeout = timeout
        self.pid = 0
        self.boot_seconds = 0.0
        self._cpu = cpu
        self._smp = smp
        self._monitor = monitor
        self._setup = script() if setup is None else setup
        self._modules = modules
        self._append = append
        self._direct = direct or machine.startswith("microvm")
        self._agent_kind = agent
        self._args = args
        self._name = name
        self._stack = contextlib.ExitStack()
        self._agent: Agent | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Starts QEMU without waiting for the guest."""
        self._folder = Path(tempfile.mkdtemp(prefix="virtscope-lab-"))
        self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        self.console_log = self._folder / "console.log"
        self.qmp_socket = self._folder / "qmp.sock" if self._monitor else None
        self._started = time.monotonic()
        passed: list[int] = []
        command = [*self._command()]
        if self._agent_kind:
            ours, theirs = socket.socketpair()
            self._agent = Agent(ours)
            self._stack.callback(self._agent.close)
            command += self._agent_arguments(theirs.fileno())
            passed.append(theirs.fileno())
        # QEMU dies with us even when we are killed: the kernel sends the signal.
        launcher = [program("setpriv", "util-linux"), "--pdeathsig", "KILL", "--"]
        with open(self._folder / "qemu.log", "wb") as log:
            self._process = subprocess.Popen(
                [*launcher, *command, *self._args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=passed,
            )
        self.pid = self._process.pid
        self._stack.callback(self._kill)
        if self._agent_kind:
            theirs.close()

    def wait_ready(self) -> None:
        """Waits until the guest's set-up is done.

        Raises:
            LabError: QEMU ended, or the guest was not ready in time; ends with the console's last lines.
        """
        if self._agent is None:
            return
        try:
            self._agent.wait_ready(self._started + self.timeout)
        except (TimeoutError, OSError, LabError) as error:
            raise LabError(
                f"{self.kernel.name} guest did not boot ({error!r}): {self._last_words()}"
            ) from None
        self.boot_seconds = time.monotonic() - self._started

    def execute(self, command: str, stdin: bytes = b"", timeout: float = 60) -> Result:
        """Runs a shell command as root in the guest and returns all it did."""
        if self._agent is None:
            raise LabError("this guest was started without an agent")
        try:
            return self._agent.execute(command, stdin, time.monotonic() + timeout)
        except (TimeoutError, OSError) as error:
            raise LabError(f"no answer to {command!r} ({error!r}): {self._last_words()}") from None

    def run(self, command: str, stdin: bytes = b"", timeout: float = 60) -> str:
        """Runs a shell command as root in the guest and returns its standard output.

        Raises:
            LabError: It exited with another status than 0, or did not end in time.
        """
        done = self.execute(command, stdin, timeout)
        if done.status:
            said = done.stderr.decode(errors="replace").strip()
            raise LabError(f"{command!r} in the guest exited with {done.status}: {said}")
        return done.stdout.decode(errors="surrogateescape")

    def monitor(self) -> Monitor:
        """A new connection to the guest's QMP socket (a context manager)."""
        if self.qmp_socket is None:
            raise LabError("this guest was started without a monitor")
        return Monitor(self.qmp_socket)

    def console(self) -> str:
        """What the guest wrote to its console so far."""
        return self.console_log.read_text(errors="replace") if self.console_log.exists() else ""

    def close(self) -> None:
        """Kills QEMU and removes the guest's folder; may be called again."""
        self._stack.close()

    def _kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def _last_words(self) -> str:
        qemu = (self._folder / "qemu.log").read_text(errors="replace")
        return qemu[-1000:] + "\n".join(self.console().splitlines()[-15:])

    def _command(self) -> list[str]:
        accel = accelerator(self.kernel)
        image = vmlinux(self.kernel) if self._direct else self.kernel.vmlinuz
        archive = initrd(self.kernel, self._setup, self._modules)
        cpu = self._cpu or ("host" if accel == "kvm" else "max")
        append = ["console=ttyS0", "panic=-1" if "panic=" not in self._append else "", "cryptomgr.notests"]
        if accel == "tcg":
            # The calibration of the clock against emulated timers takes long, and fails on a loaded host.
            khz = tsc_khz()
            append += [f"tsc_early_khz={khz}", "tsc=reliable", f"lpj={khz * 4}", "no_timer_check"]
        command = [
            *(program("qemu-system-x86_64", "qemu-system-x86"), "-name", self._name),
            *("-accel", accel, "-cpu", cpu, "-smp", str(self._smp), "-m", str(self.memory_mib)),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *self._memory_arguments(),
            *("-serial", f"file:{self.console_log}"),
            *("-kernel", str(image), "-initrd", str(archive)),
            *("-append", " ".join(filter(None, [*append, self._append]))),
            *("-netdev", "user,id=net0,restrict=on,net=192.0.2.0/24,ipv6=off"),
        ]
        if self.machine.startswith("microvm"):
            command += [
                "-global",
                "virtio-mmio.force-legacy=false",
                "-device",
                "virtio-net-device,netdev=net0",
            ]
        else:
            command += ["-device", "virtio-net-pci,netdev=net0"]
        if self.qmp_socket:
            command += ["-qmp", f"unix:{self.qmp_socket},server=on,wait=off"]
        return command

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
                path = f"{self._folder}/ram"
                return [
                    *with_backend,
                    "-object",
                    f"memory-backend-file,id=ram0,{size},mem-path={path},share={shared}",
                ]
            case "numa":
                half = self.memory_mib // 2
                return [
                    *machine,
                    *("-object", f"memory-backend-ram,id=ram0,size={half}M", "-numa", "node,memdev=ram0"),
                    *("-object", f"memory-backend-memfd,id=ram1,size={self.memory_mib - half}M,share=on"),
                    *("-numa", "node,memdev=ram1"),
                ]

    def _agent_arguments(self, descriptor: int) -> list[str]:
        chardev = ["-chardev", f"socket,id=agent,fd={descriptor}"]
        if self._agent_kind == "serial":
            if self.machine.startswith("microvm"):
                raise LabUnavailable("a microvm has one serial port only: use the virtio agent")
            return [*chardev, "-serial", "chardev:agent"]
        bus = "virtio-serial-device" if self.machine.startswith("microvm") else "virtio-serial-pci"
        return [*chardev, "-device", bus, "-device", "virtserialport,chardev=agent,name=lab.agent"]

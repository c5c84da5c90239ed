"""Boots real small guests in QEMU: `with Guest("6.1") as guest: guest.run("ps -e")`."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import Literal, Self

from lab.accelerator import accelerator, tsc_khz
from lab.agent import Agent, Shell
from lab.cache import LabUnavailable
from lab.initrd import has_module, initrd
from lab.kernels import Kernel, vmlinux
from lab.kernels import kernel as find_kernel
from lab.qemu import Backend, Qemu
from lab.userspace import script


def kernel_command_line(accel: str) -> str:
    """The kernel command line that lets a guest boot fast with that accelerator; a panic ends the guest."""
    words = ["console=ttyS0", "cryptomgr.notests", "panic=-1"]
    if accel == "tcg":
        # Calibrating the clock against emulated timers takes long, and fails on a loaded host.
        khz = tsc_khz()
        words += [f"tsc_early_khz={khz}", "tsc=reliable", f"lpj={khz * 4}", "no_timer_check"]
    return " ".join(words)


class Guest(Qemu, Shell):
    """A running Linux guest; a context manager that kills it at the end, whatever happens.

    Args:
        kernel: A `Kernel` or its lab name.
        memory_mib: RAM.
        machine: pc, q35 or microvm, with QEMU's further machine options if wanted (`q35,hmat=on`).
        cpu: QEMU's -cpu; by default everything the accelerator can do.
        smp: Virtual CPUs.
        monitor: Whether there is a QMP socket.
        backend: The kind of memory backend.
        defaults: Leaves QEMU's default devices in (VGA, e1000, floppy), as when started by hand; a kernel
            without e1000 (Debian's cloud kernels) gets a virtio card all the same.
        setup: The shell script run at boot; by default the processes and network of `lab.userspace`;
            "" for none.
        modules: Kernel modules to load besides `lab.initrd.MODULES`.
        append: Text added to the kernel command line.
        direct: Boots the uncompressed kernel image through PVH: 2 s faster, but without KASLR and five-level
            paging, which the skipped decompressor sets up.
        agent: How commands reach the guest: "virtio" port, second "serial" port, or None for no way at all.
        args: Further QEMU arguments.
        timeout: Seconds until a guest that is not ready has failed.
        name: QEMU's -name, for the process list.

    Attributes:
        kernel: The kernel it runs.
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
        defaults: bool = False,
        setup: str | None = None,
        modules: Sequence[str] = (),
        append: str = "",
        direct: bool = False,
        agent: Literal["virtio", "serial"] | None = "virtio",
        args: Sequence[str] = (),
        timeout: float = 600,
        name: str = "lab",
    ) -> None:
        self.kernel = find_kernel(kernel) if isinstance(kernel, str) else kernel
        self.timeout = timeout
        self.boot_seconds = 0.0
        self._cpu = cpu
        self._smp = smp
        self._setup = script() if setup is None else setup
        self._modules = modules
        self._append = append
        self._microvm = machine.startswith("microvm")
        self._direct = direct
        self._agent_kind = agent
        super().__init__(
            memory_mib=memory_mib,
            machine=machine,
            accel=accelerator(self.kernel),
            monitor=monitor,
            backend=backend,
            defaults=defaults,
            args=args,
            name=name,
        )

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def start(self) -> None:
        """Starts QEMU without waiting for the guest."""
        self._make_folder()
        arguments = self._boot_arguments()
        self._started = time.monotonic()
        if self._agent_kind is None:
            self._launch(arguments)
            return
        ours, theirs = socket.socketpair()
        with theirs:
            self.agent = Agent(ours)
            self._stack.callback(self.agent.close)
            port = self._agent_arguments(theirs.fileno())
            self._launch([*arguments, *port], pass_fds=[theirs.fileno()])

    def wait_ready(self) -> None:
        """Waits until the guest's set-up is done.

        Raises:
            LabError: QEMU ended, or the guest was not ready in time; ends with the console's last lines.
        """
        if self.agent is not None:
            self.wait_agent(self._started + self.timeout)
            self.boot_seconds = time.monotonic() - self._started

    def _boot_arguments(self) -> list[str]:
        image = vmlinux(self.kernel) if self._direct else self.kernel.vmlinuz
        default_card = self._defaults and has_module(self.kernel, "e1000")
        card = "virtio-net-device" if self._microvm else "virtio-net-pci"
        network = ["-netdev", "user,id=net0,restrict=on,net=192.0.2.0/24", "-device", f"{card},netdev=net0"]
        return [
            *("-cpu", self._cpu or ("host" if self.accel == "kvm" else "max"), "-smp", str(self._smp)),
            *("-kernel", str(image), "-initrd", str(initrd(self.kernel, self._setup, self._modules))),
            *("-append", f"{kernel_command_line(self.accel)} {self._append}".strip()),
            *([] if default_card else network),
            *(["-global", "virtio-mmio.force-legacy=false"] if self._microvm else []),
        ]

    def _agent_arguments(self, descriptor: int) -> list[str]:
        chardev = ["-chardev", f"socket,id=agent,fd={descriptor}"]
        if self._agent_kind == "serial":
            if self._microvm:
                raise LabUnavailable("a microvm has one serial port only: use the virtio agent")
            return [*chardev, "-serial", "chardev:agent"]
        bus = "virtio-serial-device" if self._microvm else "virtio-serial-pci"
        return [*chardev, "-device", bus, "-device", "virtserialport,chardev=agent,name=lab.agent"]

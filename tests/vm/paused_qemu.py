"""Real QEMU machines that never run an instruction: they start in a tenth of a second.

Their memory is not empty: QEMU's loader device writes what the test wants where it wants, so QEMU itself says
what must be read at a guest-physical address.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from virtscope.errors import GuestError
from virtscope.host.qmp import QmpClient

MIB, GIB = 1 << 20, 1 << 30


def mark(address: int) -> bytes:
    """What stands at an address that is marked."""
    return (address * 0x9E3779B97F4A7C15 + 1 & (1 << 64) - 1).to_bytes(8, "little")


@dataclass(frozen=True)
class PausedQemu:
    """A QEMU that runs, with a machine that does not.

    Attributes:
        process: the QEMU.
        socket: its QMP socket.
        directory: a folder of its own.
    """

    process: subprocess.Popen[bytes]
    socket: Path
    directory: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def footprint_kib(self) -> dict[str, int]:
        """What the process and the files it maps take in memory and on disk."""
        status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        sizes = {
            line.split(":")[0]: int(line.split()[1]) for line in status if line.startswith(("VmRSS", "VmPTE"))
        }
        sizes["files"] = 0
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # QEMU has just closed it
                sizes["files"] += os.stat(f"/proc/{self.pid}/fd/{fd}").st_blocks // 2
        return sizes

    def save(self, address: int, size: int) -> bytes:
        """Guest-physical memory as QEMU itself writes it to a file."""
        path = self.directory / "saved"
        with QmpClient(str(self.socket), timeout=60) as monitor:
            monitor.execute("pmemsave", {"val": address, "size": size, "filename": str(path)})
        return path.read_bytes()


@contextlib.contextmanager
def paused_qemu(
    *options: str, marks: Sequence[int] = (), name: str | None = "paused", run: bool = False
) -> Iterator[PausedQemu]:
    """A QEMU with these options, its machine stopped before its first instruction unless `run`."""
    with tempfile.TemporaryDirectory(prefix="virtscope-") as folder:
        directory = Path(folder)
        socket = directory / "qmp"
        command = ["qemu-system-x86_64", "-accel", "tcg", "-display", "none", "-nodefaults", *options]
        command += ["-qmp", f"unix:{socket},server=on,wait=off"]
        command += ["-name", f"guest={name}"] if name else []
        command += [] if run else ["-S"]
        for address in marks:
            value = int.from_bytes(mark(address), "little")
            command += ["-device", f"loader,addr={address:#x},data={value:#x},data-len=8"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=directory)
        try:
            _wait_for(process, socket)
            yield PausedQemu(process, socket, directory)
        finally:
            process.kill()
            process.communicate()


def _wait_for(process: subprocess.Popen[bytes], socket: Path) -> None:
    deadline = time.monotonic() + 180
    while True:
        try:
            return QmpClient(str(socket), timeout=60).close()
        except GuestError:
            if process.poll() is not None:
                assert process.stderr is not None
                raise AssertionError(f"QEMU ended: {process.stderr.read().decode()}") from None
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)

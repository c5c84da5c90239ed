"""Which accelerator QEMU can really use here: KVM where Linux boots in it, else TCG (software emulation).

That `/dev/kvm` is there proves nothing: a KVM made for paravirtual guests alone runs a boot sector and then
hangs in a kernel. So a kernel is booted, with a deadline, once for each boot of the host.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from lab.cache import made_once, program, root
from lab.cpio import CpioWriter
from lab.initrd import compiled
from lab.kernels import Kernel

_PROBE_SECONDS = 12
# QEMU's exit status after probe.c wrote 21 to isa-debug-exit is (21 << 1) | 1.
_PROBE_STATUS = 43


def accelerator(kernel: Kernel) -> Literal["kvm", "tcg"]:
    """The accelerator to use; `$VIRTSCOPE_LAB_ACCEL` overrides what trying finds.

    Args:
        kernel: What to try with, should it not be known yet.
    """
    known = os.environ.get("VIRTSCOPE_LAB_ACCEL") or _for_this_boot("kvm", lambda path: _probe(kernel, path))
    return "kvm" if known == "kvm" else "tcg"


def tsc_khz() -> int:
    """The rate of the host's time stamp counter, which is the one a TCG guest sees too."""

    def measure(path: Path) -> None:
        done = subprocess.run([compiled("tsc")], capture_output=True, text=True, check=True)
        path.write_text(done.stdout)

    return int(_for_this_boot("tsc", measure))


def _for_this_boot(name: str, make: Callable[[Path], None]) -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return made_once(root() / "accelerator" / f"{name}-{boot}", make).read_text()


def _probe(kernel: Kernel, record: Path) -> None:
    works = os.access("/dev/kvm", os.R_OK | os.W_OK) and _boots(kernel)
    if not works:
        print("lab: KVM does not work here, guests run in software emulation (TCG)", file=sys.stderr)
    record.write_text("kvm" if works else "tcg")


def _boots(kernel: Kernel) -> bool:
    archive = CpioWriter()
    archive.device("dev/console", 5, 1)
    archive.file("init", compiled("probe"), 0o755)
    with tempfile.NamedTemporaryFile(suffix=".cpio") as initrd:
        initrd.write(archive.data())
        initrd.flush()
        command = [
            *(program("qemu-system-x86_64", "qemu-system-x86"), "-accel", "kvm", "-cpu", "host", "-m", "256"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-kernel", str(kernel.vmlinuz), "-initrd", initrd.name, "-append", "quiet panic=-1"),
            *("-device", "isa-debug-exit,iobase=0xf4"),
        ]
        try:
            done = subprocess.run(command, timeout=_PROBE_SECONDS, capture_output=True, check=False)
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == _PROBE_STATUS

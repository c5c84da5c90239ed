"""Boot a small real guest and run the commands on it as a user would type them: `make demo`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lab.accelerator import accelerator
from lab.cache import LabError
from lab.guest import Guest
from lab.kernels import kernel

BIN = Path(sys.executable).parent
KERNEL = "6.1"

COMMANDS = (
    "virt-uname --qemu {pid} -a",
    "virt-ps --qemu {pid} -f",
    "virt-ps --qemu {pid} --forest -o pid,user,stat,start,command",
    "virt-dmesg --qemu {pid} --level notice+",
    "virt-ifconfig --qemu {pid} --ip",
    "virt-uname --qemu {pid} --json",
)
"""What is shown: `{pid}` becomes the PID of the guest's QEMU."""


def say(text: str) -> None:
    """A line about what happens, apart from the commands' own output."""
    print(f"\n\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def show(command: str) -> bool:
    """Run one command as typed; True if it succeeded and printed something."""
    say(f"$ {command}")
    name, *arguments = command.split()
    run = subprocess.run([BIN / name, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    print(run.stdout, end="", flush=True)
    return run.returncode == 0 and bool(run.stdout.strip())


def main() -> int:
    """Run the demonstration; returns 0 only if every command did."""
    guest_kernel = kernel(KERNEL)
    if accelerator(guest_kernel) == "tcg":
        say("KVM does not work on this machine: the guest runs in software emulation, and boots slowly.")
    say(
        f"Booting a guest with Debian's kernel {guest_kernel.release}: no agent, no monitor, nothing special."
    )
    with Guest(guest_kernel, memory_mib=512, monitor=False, name="demo") as guest:
        print(f"It is up after {guest.boot_seconds:.1f} s; its QEMU has PID {guest.pid}.")
        results = [show(command.format(pid=guest.pid)) for command in COMMANDS]
        say("What the guest says of itself, asked inside:")
        print("$ uname -a\n" + guest.run("uname -a"), end="")
    say("The guest is gone; nothing is left running.")
    return 0 if all(results) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(2)

"""Puts a running guest into trouble, or under load."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

from lab.cache import LabError
from lab.guest import Guest
from lab.initrd import compiled, plain_module
from lab.spin import spinning_module

_LAST_WORDS = "lab: about to hang"
_INTERRUPTS_ON = 0x200


@contextlib.contextmanager
def fork_storm(guest: Guest, alive: int = 20) -> Iterator[None]:
    """Keeps forking short-lived children in the guest, at most `alive` at a time, until the block ends."""
    _install(guest, "storm")
    guest.run(f"/bin/storm {alive} >/dev/null 2>&1 & echo $! >/run/storm.pid")
    try:
        yield
    finally:
        guest.run("kill $(cat /run/storm.pid)")


def panic(guest: Guest) -> None:
    """Panics the guest's kernel (sysrq c) and waits until it has; the guest stays as it then is, for ever."""
    guest.run("echo 1 >/proc/sys/kernel/sysrq; echo 0 >/proc/sys/kernel/panic")
    guest.send("echo c >/proc/sysrq-trigger")
    guest.wait_console("end Kernel panic")


def hang(guest: Guest) -> None:
    """Hangs the CPU that runs the agent's command: it spins with interrupts off, inside a module's init.

    With one CPU the whole guest is stuck: no timer, no console, no agent.
    """
    guest.put("/run/spin.ko", spinning_module(_stock_module(guest)))
    guest.run(f"echo '{_LAST_WORDS}' >/dev/kmsg")
    guest.wait_console(_LAST_WORDS)
    guest.send("insmod /run/spin.ko 2>/dev/kmsg")
    if guest.qmp_socket is None:
        time.sleep(2)
        return
    # The instruction pointer standing still with interrupts disabled tells that it hangs.
    deadline = time.monotonic() + 300
    with guest.monitor() as monitor:
        while True:
            registers = monitor.human("info registers -a")
            if any(not int(flags, 16) & _INTERRUPTS_ON for flags in re.findall(r"RFL=(\w+)", registers)):
                pointers = re.findall(r"RIP=(\w+)", registers)
                time.sleep(0.2)
                if set(pointers) & set(re.findall(r"RIP=(\w+)", monitor.human("info registers -a"))):
                    return
            if time.monotonic() > deadline:
                raise LabError(f"the guest did not hang: {guest.console()[-1000:]}")
            time.sleep(0.05)


def populate(guest: Guest, mib: int = 1100, processes: int = 100) -> None:
    """Fills that much of the guest's RAM with pages that all differ (a tmpfs), and starts more processes."""
    _install(guest, "fill")
    guest.run(f"fill /tmp/fill {mib}", timeout=600)
    guest.run(
        f"i=0; while [ $i -lt {processes} ]; do actor lab-extra-$i resident_kib=256 -- $i; i=$((i+1)); done"
    )


def _install(guest: Guest, name: str) -> None:
    guest.put(f"/bin/{name}", compiled(name).read_bytes())


def _stock_module(guest: Guest) -> bytes:
    """A module that every Debian kernel has, needs no other, and is not loaded in a lab guest."""
    for path in guest.kernel.modules_dir.rglob("ifb.ko*"):
        return plain_module(path)
    raise LabError(f"kernel {guest.kernel.name} has no ifb module")

"""The memory commands on a live guest of 2 GiB with over 1 GiB in use and more than 100 processes.

Cold is a kernel never seen before (an empty cache), warm one whose layouts are cached. Peer: drgn with the
kernel's DWARF from Debian's debug package, given the guest's memory and VMCOREINFO by virtscope because it
cannot find a kernel in a live guest; and Volatility 3 on a dump of the guest, where dwarf2json is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.peers import volatility
from bench.timing import Contestant, race, table
from lab.guest import Guest
from lab.kernels import debug_vmlinux, kernel
from lab.scenarios import populate

BIN = Path(sys.executable).parent
KERNEL = "6.1-cloud"


def contestants(pid: int, cache: Path, label: str) -> list[Contestant]:
    """The four commands on one guest, cold and warm."""
    cold = cache / f"cold-{label}"
    warm = {"XDG_CACHE_HOME": str(cache / f"warm-{label}")}

    def forget() -> None:
        shutil.rmtree(cold, ignore_errors=True)

    return [
        Contestant(
            f"virt-ps, cold{label}",
            [BIN / "virt-ps", "--qemu", str(pid)],
            {"XDG_CACHE_HOME": str(cold)},
            before=forget,
        ),
        Contestant(f"virt-ps, warm{label}", [BIN / "virt-ps", "--qemu", str(pid)], warm),
        Contestant(f"virt-uname, warm{label}", [BIN / "virt-uname", "--qemu", str(pid)], warm),
    ]


def main() -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        with Guest(KERNEL, memory_mib=2048, name="bench") as guest:
            populate(guest, mib=1100, processes=100)
            vmlinux = debug_vmlinux(kernel(KERNEL))
            warm = {"XDG_CACHE_HOME": str(cache / "warm")}
            entries = contestants(guest.pid, cache, "")
            entries += [
                Contestant("virt-ps -f, warm", [BIN / "virt-ps", "-f", "--qemu", str(guest.pid)], warm),
                Contestant("virt-dmesg, warm", [BIN / "virt-dmesg", "--qemu", str(guest.pid)], warm),
                Contestant("virt-ifconfig, warm", [BIN / "virt-ifconfig", "--qemu", str(guest.pid)], warm),
                Contestant("python3 -c pass", [sys.executable, "-c", "pass"]),
                Contestant(
                    "drgn with DWARF, warm page cache",
                    [sys.executable, "-m", "bench.peers.drgn_ps", str(guest.pid), vmlinux],
                    warm,
                    runs_at_most=3,
                ),
            ]
            count = subprocess.run(
                [BIN / "virt-ps", "--qemu", str(guest.pid), "--no-headings"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.count("\n")
            print(f"{count} processes, with a monitor\n")
            print(table(race(entries), against="virt-ps, warm"), flush=True)
        print("\nWithout a monitor:\n")
        with Guest(KERNEL, memory_mib=2048, monitor=False, name="bench") as guest:
            populate(guest, mib=1100, processes=100)
            print(table(race(contestants(guest.pid, cache, ", no monitor"))), flush=True)
        print("\nAgainst the guest's size, with a monitor, about half of it in use:\n")
        timings = []
        for gib in (1, 8):
            with Guest(KERNEL, memory_mib=gib * 1024, name="bench") as guest:
                populate(guest, mib=gib * 490, processes=100)
                timings += race(contestants(guest.pid, cache, f", {gib} GiB"))
        print(table(timings), flush=True)
        print("\nOn a dump:\n")
        print(volatility.compare(KERNEL, cache), flush=True)

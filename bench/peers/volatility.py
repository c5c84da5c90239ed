"""Volatility 3 on a guest's dump, beside virt-ps on the same dump.

Volatility needs a symbol table made from the kernel's DWARF by dwarf2json, a Go program that neither Debian
nor PyPI has: `go install github.com/volatilityfoundation/dwarf2json@latest`, or `go build` of its sources
with Debian's golang-github-spf13-pflag-dev. Without it in PATH, or its path in DWARF2JSON, this peer is left
out.
It finds no process in a guest with 5-level page tables (volatility3 2.28), which is why the guest has four.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.timing import Contestant, race, table
from lab.cache import made_once, root
from lab.guest import Guest
from lab.kernels import debug_vmlinux, kernel
from lab.scenarios import populate

BIN = Path(sys.executable).parent


def compare(kernel_name: str, folder: Path) -> str:
    """The table of both listing the processes in a dump of a 2 GiB guest; or why there is none.

    Args:
        kernel_name: the kernel to boot, as the lab names it.
        folder: for the dump, which is as large as the guest's memory in use.

    Raises:
        RuntimeError: Volatility does not see the guest's processes, so that its time would mean nothing.
    """
    converter = os.environ.get("DWARF2JSON") or shutil.which("dwarf2json")
    if converter is None:
        return "Volatility 3 is left out: there is no dwarf2json (see bench/peers/volatility.py)\n"
    vmlinux = debug_vmlinux(kernel(kernel_name))

    def convert(path: Path) -> None:
        path.mkdir()
        with open(path / f"{vmlinux.name}.json", "wb") as out:
            subprocess.run([converter, "linux", "--elf", vmlinux], stdout=out, check=True)

    symbols = made_once(root() / "volatility" / vmlinux.name, convert)
    with Guest(kernel_name, memory_mib=2048, name="dumped", append="no5lvl") as guest:
        populate(guest, mib=1100, processes=100)
        dump = guest.dump(folder / "guest.elf")
    ours: list[str | Path] = [BIN / "virt-ps", "-m", dump]
    theirs: list[str | Path] = [BIN / "vol", "-q", "-f", dump, "-s", symbols, "linux.pslist.PsList"]
    listing = subprocess.run(theirs, capture_output=True, text=True, check=True).stdout
    if listing.count("kthreadd") != 1:
        raise RuntimeError(f"Volatility lists no kthreadd in {dump}:\n{listing}")
    environment = {"XDG_CACHE_HOME": str(folder / "dump-cache")}
    entries = [
        Contestant("virt-ps, warm", ours, environment),
        Contestant("Volatility 3 linux.pslist, warm", theirs, environment, runs_at_most=3),
    ]
    return table(race(entries), against="virt-ps, warm")

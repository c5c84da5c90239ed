"""virt-uname: the name and version of a running guest's kernel."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from virtscope.cli.command import Column, Command, Example, Guests, Line, Option

if TYPE_CHECKING:
    from virtscope.guest import Guest
    from virtscope.kernel.uname import Uname

# What uname(1) prints for each letter, in the order in which it prints them.
_PARTS: dict[str, tuple[str, str]] = {
    "s": ("kernel-name", "sysname"),
    "n": ("nodename", "nodename"),
    "r": ("kernel-release", "release"),
    "v": ("kernel-version", "version"),
    "m": ("machine", "machine"),
    "p": ("processor", "processor"),
    "i": ("hardware-platform", "hardware_platform"),
    "o": ("operating-system", "operating_system"),
}
_UNKNOWN = frozenset("pi")
"""Letters for which uname on Linux knows nothing: `-a` leaves them out."""


class _MachineOrMemory(argparse.Action):
    """`-m` alone is uname's machine name; `-m FILE` a memory dump, as in every other command.

    `-mr` is uname's two letters, unless there is a file of that name.
    """

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        _option: str | None = None,
    ) -> None:
        if isinstance(values, str) and (set(values) - set(_PARTS) or os.path.exists(values)):
            namespace.memory = [*(namespace.memory or []), values]
            return
        for letter in f"m{values or ''}":
            setattr(namespace, _dest(letter), True)


def _dest(letter: str) -> str:
    return f"show_{_PARTS[letter][0].replace('-', '_')}"


def _option(letter: str, help: str) -> Option:
    return Option((f"-{letter}", f"--{_PARTS[letter][0]}"), help, dest=_dest(letter))


_OPTIONS = (
    Option(("-a", "--all"), "print everything that is known, in this order", dest="show_all"),
    _option("s", "print the kernel name (the default)"),
    _option("n", "print the network node host name"),
    _option("r", "print the kernel release"),
    _option("v", "print the kernel version"),
    Option(
        ("-m", "--machine"),
        "print the machine hardware name; with FILE look into that memory dump (as --memory)",
        metavar="FILE",
        nargs="?",
        complete="file",
        dest=_dest("m"),
        action=_MachineOrMemory,
    ),
    _option("p", "print the processor type, which Linux does not know"),
    _option("i", "print the hardware platform, which Linux does not know"),
    _option("o", "print the operating system"),
)


def _rows(guest: Guest, _args: argparse.Namespace) -> Iterable[Uname]:
    return (guest.uname(),)


def _text(rows: Iterable[Uname], args: argparse.Namespace) -> Iterator[Line]:
    letters = [letter for letter in _PARTS if getattr(args, _dest(letter))]
    if args.show_all:
        letters = [letter for letter in _PARTS if letter not in _UNKNOWN]
    for row in rows:
        yield Line(" ".join(getattr(row, _PARTS[letter][1], "unknown") for letter in letters or ["s"]))


def _column(name: str, help: str) -> Column:
    return Column(name, name.upper().replace("_", " "), lambda row: getattr(row, name), help)


COMMAND = Command(
    name="virt-uname",
    summary="print the kernel name and version of a running guest, from outside",
    description="""Prints what uname(1) prints inside the guest, read from outside, from its live memory.

Nothing needs to run in the guest, and it need not be in a state in which anything could.""",
    guests=Guests.MEMORY,
    options=_OPTIONS,
    columns=(
        _column("sysname", "the kernel name"),
        _column("nodename", "the host name"),
        _column("release", "the kernel release"),
        _column("version", "the kernel version"),
        _column("machine", "the machine hardware name"),
        _column("domainname", "the NIS domain name"),
        _column("operating_system", "the operating system"),
        _column("banner", "the kernel's banner, as /proc/version"),
        _column("build_id", "the build id of the kernel"),
        _column("arch", "the architecture"),
    ),
    rows=_rows,
    text=_text,
    examples=(
        Example("virt-uname -a -d web", "the kernel that the libvirt domain web runs"),
        Example("virt-uname -r", "the kernel release of every running guest"),
        Example("virt-uname -a -m web.core", "the kernel in a memory dump"),
    ),
    see_also=("virt-ps", "virt-dmesg", "virt-ifconfig", "uname"),
)
main = COMMAND.main

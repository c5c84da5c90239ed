"""virt-run: run a command of an image inside that image's own tree, in a throw-away virtual machine."""

from __future__ import annotations

import argparse

from virtscope.cli.command import Command, Example, Option
from virtscope.cli.rescue import DISKS, run_in_machine
from virtscope.cli.sandbox_options import MACHINE_OPTIONS


def _run(args: argparse.Namespace) -> int:
    return run_in_machine(args, inside=True)


COMMAND = Command(
    name="virt-run",
    summary="run a command inside a disk image's own tree, in a throw-away virtual machine",
    description=(
        "Starts a virtual machine with the disk images, mounts their filesystems and runs the "
        "command in that tree, "
        "with its programs and libraries, as root. The kernel is the host's. The exit status is "
        "the command's.\n\n"
        "The disks cannot be written to unless --rw is given; /tmp and /run are in memory."
    ),
    options=(
        *DISKS,
        *MACHINE_OPTIONS,
        Option(("command",), "the command and its arguments", metavar="COMMAND", nargs="..."),
    ),
    action=_run,
    examples=(
        Example("virt-run -a disk.qcow2 -- rpm -qa", "ask its package manager"),
        Example("virt-run -a disk.qcow2 --rw -- update-initramfs -u", "rebuild its initramfs"),
    ),
    see_also=("virt-rescue", "virt-sandbox"),
)

main = COMMAND.main

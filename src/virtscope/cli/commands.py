"""The commands, by name: the one list that `virtscope`, man pages, completions and tests go by.

A command's module is imported only when it runs, so the summaries stand here too; a test compares them with
the modules'.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from virtscope.cli.command import Command


@dataclass(frozen=True, slots=True)
class Entry:
    """One command: its console script's name, the module that holds its `COMMAND`, its one-phrase summary."""

    name: str
    module: str
    summary: str

    @property
    def short_name(self) -> str:
        """The name after `virt-`: the sub-command of `virtscope`."""
        return self.name.removeprefix("virt-")

    def load(self) -> Command:
        """Import the command's module and return its table."""
        command = importlib.import_module(f"virtscope.cli.{self.module}").COMMAND
        assert isinstance(command, Command)
        return command


COMMANDS: tuple[Entry, ...] = (
    Entry("virt-ps", "ps", "list the processes of a running guest, from outside"),
    Entry("virt-dmesg", "dmesg", "print the kernel log of a running guest, from outside"),
    Entry("virt-uname", "uname", "print the kernel name and version of a running guest, from outside"),
    Entry("virt-ifconfig", "ifconfig", "show the network interfaces of a running guest, from outside"),
    Entry("virt-df", "df", "show how full the filesystems of guests are, from outside"),
    Entry(
        "virt-filesystems", "filesystems", "list filesystems, partitions and volumes of guests, from outside"
    ),
    Entry("virt-ls", "ls", "list files in a guest's directories, from outside"),
    Entry("virt-cat", "cat", "print files of a guest, from outside"),
    Entry("virt-tail", "tail", "print the end of a guest's file, and follow it, from outside"),
    Entry("virt-stat", "stat", "show everything a guest's filesystem says of files, from outside"),
    Entry("virt-copy-out", "copy_out", "copy files and directories out of a guest, from outside"),
    Entry("virt-tar-out", "tar_out", "write a guest's directory as a tar file, from outside"),
    Entry(
        "virt-sandbox", "sandbox", "run a program of this host in a throw-away virtual machine or container"
    ),
    Entry(
        "virt-rescue", "rescue", "repair a disk image with the host's tools, in a throw-away virtual machine"
    ),
    Entry(
        "virt-run",
        "run_in_image",
        "run a command inside a disk image's own tree, in a throw-away virtual machine",
    ),
    Entry(
        "virt-boot-benchmark", "boot_benchmark", "measure how long a virtual machine takes to start and end"
    ),
    Entry(
        "virt-sandbox-service",
        "sandbox_service",
        "run system services confined in virtual machines or containers",
    ),
    Entry("virt-boot-analysis", "boot_analysis", "show where the time of a boot goes"),
    Entry("virt-lockcheck", "lockcheck", "find locking mistakes in C code, without running it"),
    Entry(
        "bitmatch", "bitmatch", "look at data with a bit pattern, and make patterns from C headers and BTF"
    ),
)


def find(name: str) -> Entry | None:
    """The command called `name`, with or without `virt-`; None if there is none."""
    wanted = name if name.startswith("virt-") else f"virt-{name}"
    return next((entry for entry in COMMANDS if entry.name in (name, wanted)), None)

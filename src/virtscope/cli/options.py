"""The options every command shares: how guests are named, and how the answer is printed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from virtscope.cli.command import Command, Guests, Option

GUEST_GROUP = "Which guests"
OUTPUT_GROUP = "Output"
GENERAL_GROUP = "General"


class _AddDisk(argparse.Action):
    """`-a FILE`: remembers the `--format` in force where it stands."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        _option_string: str | None = None,
    ) -> None:
        disks = [*(getattr(namespace, self.dest) or []), (values, getattr(namespace, "format", None))]
        setattr(namespace, self.dest, disks)


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError(f"{text!r} is not a whole number above 0")
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 86400:
        raise ValueError(f"{text!r} is not a number of seconds above 0")
    return number


_LIBVIRT = (
    Option(
        ("-d", "--domain"),
        "a libvirt domain, by name or UUID (may be repeated)",
        metavar="NAME",
        repeat=True,
        complete="domain",
        group=GUEST_GROUP,
    ),
    Option(("-c", "--connect"), "the libvirt connection to use", metavar="URI", group=GUEST_GROUP),
)

_QEMU = Option(
    ("--qemu",),
    "a QEMU process by its PID, or by the path of its QMP socket (may be repeated)",
    metavar="PID|SOCKET",
    repeat=True,
    complete="file",
    group=GUEST_GROUP,
)

_MEMORY = Option(
    ("-m", "--memory"),
    "a memory dump or saved state (may be repeated)",
    metavar="FILE",
    repeat=True,
    complete="file",
    group=GUEST_GROUP,
)

_DISKS = (
    Option(
        ("-a", "--add"),
        "a disk image or block device; repeated, they are the disks of one guest",
        metavar="FILE",
        repeat=True,
        complete="file",
        group=GUEST_GROUP,
        dest="disks",
        action=_AddDisk,
    ),
    Option(
        ("--format",),
        "the format of the images that follow; `auto` probes (the default)",
        metavar="FMT",
        choices=("auto", "raw", "qcow2", "qcow"),
        group=GUEST_GROUP,
    ),
    Option(
        ("--mount",),
        "mount DEVICE at PATH instead of what the guest's /etc/fstab says (may be repeated)",
        metavar="DEVICE:PATH",
        repeat=True,
        group=GUEST_GROUP,
    ),
    Option(
        ("--allow-backing",),
        "let a probed image name a backing file below DIR, outside its own directory (may be repeated)",
        metavar="DIR",
        repeat=True,
        complete="file",
        group=GUEST_GROUP,
    ),
    Option(
        ("--verify-checksums",),
        "check the checksums of all metadata that is read, where the filesystem has them",
        group=GUEST_GROUP,
    ),
    Option(
        ("--no-journal",),
        "read filesystems as they are on the disk, without replaying their journals in memory",
        group=GUEST_GROUP,
    ),
)

IMAGES = Option(
    ("images",),
    "disk images, or folders of them, each image a guest of its own",
    metavar="IMAGE",
    nargs="*",
    complete="file",
    group=GUEST_GROUP,
)
"""The argument of commands that take nothing else; they add it to their options."""

TIMEOUT = Option(
    ("--timeout",),
    "give up when nothing came from the guest for this long (default: 30)",
    metavar="SECONDS",
    parse=_seconds,
    default=30.0,
    group=GUEST_GROUP,
)
"""Of commands that copy: they may take as long as they get on."""

_PARALLEL = (
    Option(
        ("-P", "--parallel"),
        "look at N guests at a time (default: the number of processors)",
        metavar="N",
        parse=_count,
        group=GUEST_GROUP,
    ),
    Option(
        ("--timeout",),
        "give one guest at most this long (default: 30)",
        metavar="SECONDS",
        parse=_seconds,
        default=30.0,
        group=GUEST_GROUP,
    ),
)

_ROW_OUTPUT = (
    Option(("-J", "--json"), "print one JSON document", group=OUTPUT_GROUP),
    Option(("--jsonl",), "print one JSON object per row", group=OUTPUT_GROUP),
    Option(("--csv",), "print comma-separated values", group=OUTPUT_GROUP),
    Option(
        ("-o", "--columns"),
        "the columns to show, separated by commas; NAME:WIDTH and NAME=HEADING change how one is shown",
        metavar="A,B",
        repeat=True,
        complete="column",
        group=OUTPUT_GROUP,
    ),
    Option(
        ("--sort",),
        "sort by these columns; a leading - reverses",
        metavar="A,-B",
        repeat=True,
        complete="column",
        group=OUTPUT_GROUP,
    ),
    Option(("-n", "--no-headings"), "print no column headings", group=OUTPUT_GROUP),
)

_COLOR = Option(
    ("--color",),
    "use colours (default: auto, when standard output is a terminal)",
    metavar="WHEN",
    choices=("auto", "always", "never"),
    default="auto",
    group=OUTPUT_GROUP,
)

_GENERAL = (
    Option(
        ("-v", "--verbose"), "say more on standard error about how the answer was found", group=GENERAL_GROUP
    ),
    Option(("-q", "--quiet"), "print no warnings on standard error", group=GENERAL_GROUP),
)


def _without(options: tuple[Option, ...], taken: set[str]) -> tuple[Option, ...]:
    """The shared options less the flags a command uses in their classic meaning (`ps -e`, `uname -a`)."""
    from dataclasses import replace

    kept = []
    for option in options:
        flags = tuple(flag for flag in option.flags if flag not in taken)
        if flags:
            kept.append(replace(option, flags=flags))
    return tuple(kept)


def all_options(command: Command) -> tuple[Option, ...]:
    """Every option `command` takes: its own, then the shared ones, without `-h`, `--help` and `--version`."""
    shared: tuple[Option, ...] = ()
    if command.guests is not Guests.NONE:
        shared += _LIBVIRT
        if command.guests is Guests.MEMORY:
            shared += (_QEMU, _MEMORY)
        else:
            shared += _DISKS
    if command.rows is not None:
        if command.guests is not Guests.NONE:
            shared += _PARALLEL
        if command.columns:
            shared += _ROW_OUTPUT
        else:
            shared += _ROW_OUTPUT[:2]
        shared += (_COLOR,)
    shared += _GENERAL
    taken = {flag for option in command.options for flag in option.flags}
    return command.options + _without(shared, taken)

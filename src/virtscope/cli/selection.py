"""From the options that name guests to the guests: `select_guests`, and `one_guest` where only one makes
sense.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from virtscope.cli.command import Command, Guests
from virtscope.errors import GuestNotFound, UsageError

if TYPE_CHECKING:
    from virtscope.guest import DiskOptions, Guest

_NOT_IMAGES = (".iso", ".xml", ".txt", ".log", ".md", ".json", ".sum", ".sha256", ".asc")
"""Files in a folder of images that are certainly not one."""


def select_guests(command: Command, args: argparse.Namespace) -> tuple[list[Guest], bool]:
    """The guests named by the options, or all running ones; and whether it was the latter.

    Raises:
        UsageError: a connection but no way to use it, or no guest is named and none is running.
        GuestError: libvirt was asked for its guests and did not answer.
    """
    from virtscope import guest

    named = _memory_guests(args) if command.guests is Guests.MEMORY else _disk_guests(args)
    if named:
        if args.connect and not args.domain:
            raise UsageError("--connect only makes sense with --domain, or alone")
        return named, False
    if command.guests is Guests.DISK:
        found = guest.running(args.connect, disk_options=_disk_options(args))
        found = [one for one in found if one.has_disks]
    else:
        found = guest.running(args.connect)
    if not found:
        where = f" on {args.connect}" if args.connect else " on this host"
        raise UsageError(f"no guest is named and none is running{where}; see --help for how to name one")
    return found, True


def one_guest(command: Command, args: argparse.Namespace) -> Guest:
    """The one guest named by the options.

    Raises:
        UsageError: none or several are named.
    """
    named = _memory_guests(args) if command.guests is Guests.MEMORY else _disk_guests(args)
    if len(named) != 1:
        how = "-d NAME or -a IMAGE" if command.guests is Guests.DISK else "-d NAME, --qemu PID or -m FILE"
        raise UsageError(f"name one guest with {how}" + (f", not {len(named)}" if named else ""))
    return named[0]


def _memory_guests(args: argparse.Namespace) -> list[Guest]:
    from virtscope import guest

    named = [guest.open(domain=name, connect=args.connect) for name in args.domain or ()]
    named += [guest.open(qemu=which) for which in args.qemu or ()]
    named += [guest.open(memory=path) for path in args.memory or ()]
    return named


def _disk_guests(args: argparse.Namespace) -> list[Guest]:
    from virtscope import guest

    options = _disk_options(args)
    named = [
        guest.open(domain=name, connect=args.connect, disk_options=options) for name in args.domain or ()
    ]
    together = [(path, _format(format)) for path, format in args.disks or ()]
    if together:
        named.append(guest.open(disks=together, disk_options=options))
    format = _format(args.format)
    for path in _images(getattr(args, "images", None) or ()):
        if isinstance(path, _Folder):
            named.append(guest.Guest(path.path, open_storage=path.refuse))
            continue
        image = (path, format)
        named.append(guest.open(disks=[image], disk_options=options))
    return named


def _disk_options(args: argparse.Namespace) -> DiskOptions:
    from virtscope.guest import DiskOptions

    return DiskOptions(
        mounts=tuple(_mount(text) for text in args.mount or ()),
        replay=not args.no_journal,
        verify=args.verify_checksums,
        allow_backing=tuple(args.allow_backing or ()),
    )


def _format(name: str | None) -> str | None:
    return None if name in (None, "auto") else name


def _mount(text: str) -> tuple[str, str]:
    device, colon, point = text.partition(":")
    if not colon or not device.startswith("/dev/") or not point.startswith("/"):
        raise UsageError(f"--mount {text}: say DEVICE:PATH, such as /dev/sda1:/boot")
    return device, point


class _Folder:
    """A folder without images: it costs its own line, and not those of the others."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self._problem = problem

    def refuse(self) -> NoReturn:
        """Raises the GuestNotFound that says why."""
        raise GuestNotFound(f"{self.path}: {self._problem}")


def _images(paths: Sequence[str]) -> Iterator[str | _Folder]:
    """Each path that is a file, and the files in each that is a folder."""
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        try:
            names = sorted(entry.name for entry in os.scandir(path) if entry.is_file())
        except OSError as error:
            yield _Folder(path, f"the folder cannot be listed: {error.strerror}")
            continue
        images = [
            os.path.join(path, name)
            for name in names
            if not name.startswith(".") and not name.lower().endswith(_NOT_IMAGES)
        ]
        if not images:
            yield _Folder(path, "there is no image in this folder")
        yield from images

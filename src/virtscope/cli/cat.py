"""virt-cat: the contents of files in a guest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from virtscope.cli.command import Command, Example, Guests
from virtscope.cli.ending import patiently
from virtscope.cli.exit_codes import FAILED, OK, PARTIAL
from virtscope.cli.options import TIMEOUT
from virtscope.cli.paths import guest_path, path_argument
from virtscope.cli.run import complain
from virtscope.cli.selection import one_guest
from virtscope.errors import FormatError, GuestError, GuestPathError

if TYPE_CHECKING:
    from virtscope.cli.deadline import Deadline
    from virtscope.fs.tree import Tree

_CHUNK = 4 << 20


def _run(args: argparse.Namespace) -> int:
    written = 0

    def work(deadline: Deadline) -> int:
        nonlocal written
        failed = 0
        tree = guest.tree
        if not args.quiet:
            for note in guest.notes:
                complain(COMMAND, note)
        for text in args.paths:
            try:
                for data in deadline.each(_contents(tree, text)):
                    written += sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            except (GuestPathError, FormatError, GuestError) as error:
                complain(COMMAND, str(error))
                failed += 1
        if not failed:
            return OK
        return PARTIAL if failed < len(args.paths) else FAILED

    with one_guest(COMMAND, args) as guest:
        return patiently(COMMAND, args, guest.name, work, has_begun=lambda: written > 0)


def _contents(tree: Tree, path: str) -> Iterator[bytes]:
    node = tree.resolve(guest_path(path))
    kind = node.stat().kind
    if kind != "file":
        raise GuestPathError(node.path, f"this is a {kind}, not a file with contents")
    offset = 0
    while data := node.filesystem.read(node.inode, offset, _CHUNK):
        yield data
        offset += len(data)


COMMAND = Command(
    name="virt-cat",
    summary="print files of a guest, from outside",
    description=(
        "Writes the contents of files in a guest to standard output, byte for byte, as cat would inside. "
        "Paths are paths of the guest: its own /etc/fstab says what is mounted where.\n\n"
        "The bytes are the guest's and are not escaped: think twice before you show a hostile guest's file "
        "on a terminal."
    ),
    guests=Guests.DISK,
    options=(path_argument("paths", "files in the guest"), TIMEOUT),
    action=_run,
    examples=(
        Example("virt-cat -a disk.qcow2 /etc/os-release", "what the guest calls itself"),
        Example("virt-cat -d web /var/log/syslog | grep -i oom", "search a running guest's log"),
    ),
    see_also=("virt-tail", "virt-ls", "virt-copy-out"),
)

main = COMMAND.main

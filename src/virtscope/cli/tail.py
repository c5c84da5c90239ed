"""virt-tail: the last lines of a file in a guest, and what is added to it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from virtscope.cli.command import Command, Example, Guests, Option
from virtscope.cli.ending import patiently
from virtscope.cli.exit_codes import OK
from virtscope.cli.options import TIMEOUT
from virtscope.cli.paths import guest_path, path_argument
from virtscope.cli.run import complain
from virtscope.cli.selection import one_guest
from virtscope.errors import FormatError, GuestPathError

if TYPE_CHECKING:
    from virtscope.cli.deadline import Deadline
    from virtscope.fs.tree import Node

_CHUNK = 1 << 20
_LOOKED_BACK_AT_MOST = 1 << 30
_POLL_SECONDS = 1.0


def _lines(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is not a number of lines")
    return int(text)


def _start_of_last_lines(node: Node, size: int, lines: int) -> int:
    """Where the last `lines` lines begin, found from the end backwards."""
    if lines == 0:
        return size
    position = size
    wanted = lines
    while position > max(0, size - _LOOKED_BACK_AT_MOST):
        start = max(0, position - _CHUNK)
        data = node.filesystem.read(node.inode, start, position - start)
        if position == size and data.endswith(b"\n"):
            wanted += 1
        found = data.count(b"\n")
        if found >= wanted:
            at = len(data)
            for _ in range(wanted):
                at = data.rfind(b"\n", 0, at)
            return start + at + 1
        wanted -= found
        position = start
    return position


def _copy(node: Node, offset: int, deadline: Deadline) -> int:
    """Write what is behind `offset`; returns where it ends."""
    for data in deadline.each(_behind(node, offset)):
        sys.stdout.buffer.write(data)
        offset += len(data)
    sys.stdout.buffer.flush()
    return offset


def _behind(node: Node, offset: int) -> Iterator[bytes]:
    while data := node.filesystem.read(node.inode, offset, _CHUNK):
        yield data
        offset += len(data)


def _node(args: argparse.Namespace, node: Node) -> Node:
    kind = node.stat().kind
    if kind != "file":
        raise GuestPathError(guest_path(args.path), f"this is a {kind}, not a file with contents")
    return node


def _run(args: argparse.Namespace) -> int:
    has_begun = False

    def work(deadline: Deadline) -> int:
        nonlocal has_begun
        node = _node(args, guest.tree.resolve(guest_path(args.path)))
        if not args.quiet:
            for note in guest.notes:
                complain(COMMAND, note)
        inode = node.inode
        start = _start_of_last_lines(node, node.stat().size, args.lines)
        offset = _copy(node, start, deadline)
        has_begun = offset > start
        while args.follow:
            with deadline.paused():
                time.sleep(_POLL_SECONDS)
            # Everything is read anew: what the guest wrote since is in other blocks, and in its journal.
            guest.close()
            try:
                node = _node(args, guest.tree.resolve(guest_path(args.path)))
                if node.inode != inode or node.stat().size < offset:
                    complain(
                        COMMAND, f"{args.path} was replaced or shortened; going on with what is there now"
                    )
                    inode, offset = node.inode, 0
                offset = _copy(node, offset, deadline)
            except (GuestPathError, FormatError):
                continue  # the guest was writing just then, or is putting a new file in its place
        return OK

    with one_guest(COMMAND, args) as guest:
        return patiently(COMMAND, args, guest.name, work, has_begun=lambda: has_begun)


COMMAND = Command(
    name="virt-tail",
    summary="print the end of a guest's file, and follow it, from outside",
    description=(
        "Writes the last lines of a file in a guest to standard output. With --follow it goes on with what "
        "is added, looking once a second. What the guest has not yet written to its disk cannot be seen: "
        "most systems write within 30 seconds."
    ),
    guests=Guests.DISK,
    options=(
        path_argument("path", "file in the guest", nargs=None),
        Option(("-n", "--lines"), "how many lines", metavar="N", parse=_lines, default=10),
        Option(("-f", "--follow"), "go on with what is added, until interrupted"),
        TIMEOUT,
    ),
    action=_run,
    examples=(Example("virt-tail -f -d web /var/log/syslog", "follow a running guest's log"),),
    see_also=("virt-cat", "virt-dmesg"),
)

main = COMMAND.main

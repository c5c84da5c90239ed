"""virt-copy-out: files and directories of a guest, copied onto the host."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from virtscope.cli.command import Command, Example, Guests, Option
from virtscope.cli.ending import cleaned_up, patiently
from virtscope.cli.exit_codes import FAILED, OK, PARTIAL
from virtscope.cli.options import TIMEOUT
from virtscope.cli.paths import guest_path, path_argument
from virtscope.cli.progress import Progress
from virtscope.cli.run import complain
from virtscope.cli.selection import one_guest
from virtscope.errors import FormatError, GuestError, GuestPathError

if TYPE_CHECKING:
    from virtscope.cli.deadline import Deadline


def _run(args: argparse.Namespace) -> int:
    from virtscope.extract.copy_out import Unfinished, copy_out

    problems = failed = 0
    unfinished = Unfinished()

    def problem(sentence: str) -> None:
        nonlocal problems
        problems += 1
        progress.wipe()
        complain(COMMAND, sentence)

    def work(deadline: Deadline) -> int:
        nonlocal failed

        def got_on(count: int) -> None:
            deadline.restart()
            progress(count)

        tree = guest.tree
        if not args.quiet:
            for note in guest.notes:
                complain(COMMAND, note)
        for text in args.paths:
            try:
                path = guest_path(text)
                copy_out(tree, path, args.target, problem=problem, progress=got_on, unfinished=unfinished)
            except (GuestPathError, FormatError, GuestError) as error:
                problem(str(error))
                failed += 1
        if failed == len(args.paths):
            return FAILED
        return PARTIAL if problems else OK

    with (
        cleaned_up(),
        one_guest(COMMAND, args) as guest,
        Progress("copied", quiet=args.quiet) as progress,
    ):
        return patiently(
            COMMAND,
            args,
            guest.name,
            work,
            has_begun=lambda: progress.done > 0,
            abandon=unfinished.remove,
        )
    raise AssertionError("a signal ended this")


COMMAND = Command(
    name="virt-copy-out",
    summary="copy files and directories out of a guest, from outside",
    description=(
        "Copies files and directories of a guest, with all below them, into a directory of this host. Holes "
        "stay holes, and modes and times are kept.\n\n"
        "The guest is not trusted: set-ID bits and owners are not taken over, device nodes, sockets and "
        "fifos are left out, and nothing is ever written through a link or over a file that is there "
        "already. virt-tar-out keeps everything."
    ),
    guests=Guests.DISK,
    options=(
        path_argument("paths", "files and directories in the guest"),
        Option(("target",), "an existing directory of this host", metavar="DIRECTORY", complete="file"),
        TIMEOUT,
    ),
    action=_run,
    examples=(
        Example("virt-copy-out -a disk.qcow2 /etc /var/log .", "two directories, into the current one"),
        Example("virt-copy-out -d web /srv/dump.sql /backup", "a large file, while the guest runs"),
    ),
    see_also=("virt-tar-out", "virt-cat", "virt-ls"),
)

main = COMMAND.main

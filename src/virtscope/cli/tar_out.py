"""virt-tar-out: a directory of a guest as a tar file or stream."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

from virtscope.cli.command import Command, Example, Guests, Option
from virtscope.cli.ending import cleaned_up, patiently
from virtscope.cli.exit_codes import OK, PARTIAL
from virtscope.cli.options import TIMEOUT
from virtscope.cli.paths import guest_path, path_argument
from virtscope.cli.progress import Progress
from virtscope.cli.run import complain
from virtscope.cli.selection import one_guest
from virtscope.errors import UsageError

if TYPE_CHECKING:
    from virtscope.cli.deadline import Deadline


def _run(args: argparse.Namespace) -> int:
    from virtscope.extract.tar_out import tar_out

    problems = 0

    def problem(sentence: str) -> None:
        nonlocal problems
        problems += 1
        progress.wipe()
        complain(COMMAND, sentence)

    def work(deadline: Deadline) -> int:
        def got_on(count: int) -> None:
            deadline.restart()
            progress(count)

        tree = guest.tree
        top = tree.resolve(guest_path(args.directory))
        if not args.quiet:
            for note in guest.notes:
                complain(COMMAND, note)
        with _output(args.file, unfinished) as out:
            tar_out(tree, top, cast(BinaryIO, _Unhurried(out, deadline)), problem=problem, progress=got_on)
        return PARTIAL if problems else OK

    unfinished = _unfinished(args.file)
    if args.file == "-" and sys.stdout.isatty():
        raise UsageError("a tar stream is not for a terminal: name a file, or pipe it somewhere")
    with (
        cleaned_up(),
        one_guest(COMMAND, args) as guest,
        Progress("written", quiet=args.quiet) as progress,
    ):
        # Part of a tar file is no partial answer: it is none.
        return patiently(
            COMMAND,
            args,
            guest.name,
            work,
            has_begun=lambda: False,
            abandon=lambda: _remove(unfinished),
        )
    raise AssertionError("a signal ended this")


class _Unhurried:
    """Where the stream goes: whoever takes it may take as long as it likes."""

    def __init__(self, out: BinaryIO, deadline: Deadline) -> None:
        self._out = out
        self._deadline = deadline

    def write(self, data: bytes) -> None:
        with self._deadline.paused():
            self._out.write(data)


def _unfinished(path: str) -> str:
    """What the file is called while it is being written."""
    return f"{os.path.realpath(path)}.unfinished-{os.getpid()}"


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


@contextlib.contextmanager
def _output(path: str, unfinished: str) -> Iterator[BinaryIO]:
    """Where the stream goes. A file gets its name when it is complete: half a file must not be taken for a
    whole one. What is there already and is no file (a device, a pipe) is written to as it is.
    """
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = os.path.realpath(path)
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb") as out:
                yield out
            return
        try:
            with open(unfinished, "xb") as out:
                yield out
            os.replace(unfinished, path)
        except FileExistsError:
            raise
        except BaseException:
            _remove(unfinished)
            raise
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


COMMAND = Command(
    name="virt-tar-out",
    summary="write a guest's directory as a tar file, from outside",
    description=(
        "Writes a directory of a guest, with all below it, as a tar file or, with -, to standard output. "
        "Owners, modes, times, extended attributes (ACLs among them), hard links, device nodes and holes are "
        "kept (POSIX.1-2001 with GNU's sparse format 1.0)."
    ),
    guests=Guests.DISK,
    options=(
        path_argument("directory", "a directory in the guest", nargs=None),
        Option(("file",), "the tar file to write, or - for standard output", "FILE", complete="file"),
        TIMEOUT,
    ),
    action=_run,
    examples=(
        Example("virt-tar-out -a disk.qcow2 /home home.tar", "all homes, with everything kept"),
        Example("virt-tar-out -d web /etc - | tar t", "look into the stream"),
    ),
    see_also=("virt-copy-out", "virt-ls"),
)

main = COMMAND.main

"""The ways in which commands that copy end early: by a signal (`cleaned_up`), or because a guest's disk does
not answer (`patiently`).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from virtscope.cli.command import Command
from virtscope.cli.deadline import Deadline, Expired
from virtscope.cli.exit_codes import FAILED, PARTIAL
from virtscope.cli.run import complain

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class _Ended(BaseException):
    """A signal asks for the end; no Exception, as nobody is to go on after it."""


@contextmanager
def cleaned_up() -> Iterator[None]:
    """While this lasts, SIGTERM and SIGHUP leave it by an exception, so that what is unfinished can be taken
    away. Then the signal ends the process as it would have. One that is ignored (nohup) stays so.
    """
    numbers = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    by: list[int] = []

    def end(number: int, _frame: object) -> None:
        if not by:  # a second one must not interrupt the cleaning up
            by.append(number)
            raise _Ended

    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    except _Ended:
        signal.signal(by[0], signal.SIG_DFL)
        os.kill(os.getpid(), by[0])
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def patiently(
    command: Command,
    args: argparse.Namespace,
    name: str,
    work: Callable[[Deadline], int],
    *,
    has_begun: Callable[[], bool],
    abandon: Callable[[], None] = lambda: None,
) -> int:
    """Do `work`, but give it up when the guest's disk does not answer for `args.timeout`.

    Args:
        command: which command says so.
        args: its options.
        name: the guest's.
        work: returns the exit code; it tells the deadline when it gets on, and when it waits for others.
        has_begun: whether a part of the answer is out, which makes it a partial one.
        abandon: takes away what is unfinished, where `work` hangs so that not even an exception ends it.
    """

    def given_up() -> int:
        complain(command, f"{name}: gave up after {args.timeout:g} seconds (raise --timeout to wait longer)")
        return PARTIAL if has_begun() else FAILED

    def hung() -> None:
        code = FAILED
        try:
            abandon()
            code = given_up()
            sys.stdout.flush()
        finally:
            os._exit(code)

    try:
        with Deadline(args.timeout, hung) as deadline:
            return work(deadline)
    except Expired:
        return given_up()

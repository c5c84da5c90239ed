"""A deadline for looking at one guest: `Deadline`.

Two things can be slow. Work of ours, and system calls that a signal interrupts, are ended by an alarm. A
system call on a dead network filesystem is not: nothing in this thread can end it, so a second thread waits a
little longer, and then says what is to be said and ends the process.
"""

from __future__ import annotations

import _thread
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Row = TypeVar("Row")

_GRACE_SECONDS = 2.0
"""How long past the deadline the alarm may take to end the work."""


class Expired(BaseException):
    """The deadline has passed; no Exception, as readers turn every OSError into an error of their own."""


class Deadline:
    """Raises `Expired` in the main thread when what is inside takes too long; a context manager.

    Args:
        seconds: how long it may take; None for ever.
        hung: called in another thread when the alarm did not help either; it ends the process. Without it,
            somebody else has to (the parent of a worker process does).
    """

    def __init__(self, seconds: float | None, hung: Callable[[], None] | None = None) -> None:
        self._seconds = seconds
        self._hung = hung
        self._until: float | None = None
        self._over = _thread.allocate_lock()

    def __enter__(self) -> Deadline:
        if self._seconds is not None:
            signal.signal(signal.SIGALRM, _expired)
            self._start(self._seconds)
            if self._hung is not None:
                self._over.acquire()
                _thread.start_new_thread(self._watch, (self._hung, self._seconds))
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop()
        if self._over.locked():
            self._over.release()

    def each(self, rows: Iterable[Row]) -> Iterator[Row]:
        """`rows`, each of which may take as long as the deadline says; what is done with them between does
        not count: a pager may wait for its reader.
        """
        waiting = iter(rows)
        while True:
            if self._seconds is not None:
                self._start(self._seconds)
            try:
                row = next(waiting)
            except StopIteration:
                return
            finally:
                self._stop()
            yield row

    def restart(self) -> None:
        """Something came of it: from now on it may take as long again."""
        if self._seconds is not None:
            self._start(self._seconds)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that does not count, as it is not the guest that takes it; what follows has all its time."""
        self._stop()
        try:
            yield
        finally:
            self.restart()

    def _start(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds + _GRACE_SECONDS
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def _stop(self) -> None:
        if self._until is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._until = None

    def _watch(self, hung: Callable[[], None], seconds: float) -> None:
        wait = seconds + _GRACE_SECONDS
        while not self._over.acquire(timeout=wait):
            until = self._until
            wait = seconds if until is None else until - time.monotonic()
            if wait <= 0:
                hung()
                return


def _expired(*_: object) -> None:
    raise Expired

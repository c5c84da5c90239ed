"""How far long work has come, on standard error: only on a terminal, and only after a second of waiting."""

from __future__ import annotations

import sys
import time

from virtscope.cli.output import human_size

_WAIT_SECONDS = 1.0
_BETWEEN_SECONDS = 0.2


class Progress:
    """Counts bytes and shows them with their rate; a context manager that wipes the line at the end.

    Args:
        what: what is being done ("copied").
        quiet: show nothing at all.

    Attributes:
        done: how many bytes there were.
    """

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        self._what = what
        self._shows = not quiet and sys.stderr.isatty()
        self._started = time.monotonic()
        self._next = self._started + _WAIT_SECONDS
        self._shown = False
        self.done = 0

    def __call__(self, count: int) -> None:
        """That many more bytes are done."""
        self.done += count
        if not self._shows:
            return
        now = time.monotonic()
        if now >= self._next:
            rate = int(self.done / (now - self._started))
            sys.stderr.write(f"\r\x1b[K{self._what} {human_size(self.done)}, {human_size(rate)}/s")
            sys.stderr.flush()
            self._shown = True
            self._next = now + _BETWEEN_SECONDS

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        self.wipe()

    def wipe(self) -> None:
        """Take the line away, for another one to be written; it comes back with the next count."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False

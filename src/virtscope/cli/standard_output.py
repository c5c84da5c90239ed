"""Telling an error of standard output from any other error of the system: `told_apart`.

Both are an OSError without a file's name. Only where the bytes go out is it known which one it is.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


_NUMBER = 1


class OutputFailed(OSError):
    """Standard output takes no more: its disk is full, or it was closed."""


class OutputClosed(OutputFailed, BrokenPipeError):
    """Who read standard output has stopped to."""


class _Output(io.FileIO):
    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError as error:
            raise OutputClosed(error.errno, error.strerror) from None
        except OSError as error:
            raise OutputFailed(error.errno, error.strerror) from None


def _is_own(stream: io.TextIOWrapper) -> bool:
    try:
        return stream.fileno() == _NUMBER
    except OSError:
        return False


@contextmanager
def told_apart() -> Iterator[None]:
    """While this lasts, what is written to `sys.stdout` fails with OutputFailed and no other OSError.

    A `sys.stdout` that is not the process's own stays as it is: who calls a command from Python may have put
    something in its place.
    """
    before = sys.stdout
    if type(before) is not io.TextIOWrapper or not _is_own(before):
        yield
        return
    raw = _Output(_NUMBER, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=before.encoding, errors=before.errors, line_buffering=raw.isatty()
    )
    try:
        yield
    finally:
        sys.stdout = before

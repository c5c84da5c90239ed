"""What the commands about files in a guest share: paths as arguments, and times, modes and types as text."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from virtscope.cli.command import Option

_TYPE_LETTERS = {
    0o010000: "p",
    0o020000: "c",
    0o040000: "d",
    0o060000: "b",
    0o100000: "-",
    0o120000: "l",
    0o140000: "s",
}


def path_argument(name: str, help: str, nargs: str | None = "+") -> Option:
    """The positional argument for paths in the guest."""
    return Option((name,), help, metavar=name.upper().rstrip("S"), nargs=nargs)


def guest_path(text: str) -> bytes:
    """A path given on the command line, as bytes; the guest's root is where relative ones begin."""
    return os.fsencode(text)


def path_text(path: bytes) -> str:
    """A guest's path as rows have it: UTF-8, other bytes as surrogate escapes."""
    return path.decode("utf-8", "surrogateescape")


def mode_text(mode: int) -> str:
    """`st_mode` as ls shows it: `-rwxr-xr-x`, with s, S, t and T for the special bits."""
    text = [_TYPE_LETTERS.get(mode & 0o170000, "?")]
    for shift, special, letter in ((6, 0o4000, "s"), (3, 0o2000, "s"), (0, 0o1000, "t")):
        bits = mode >> shift
        text += ["r" if bits & 4 else "-", "w" if bits & 2 else "-"]
        if mode & special:
            text.append(letter if bits & 1 else letter.upper())
        else:
            text.append("x" if bits & 1 else "-")
    return "".join(text)


def when(nanoseconds: int | None) -> datetime | None:
    """A time stamp as a row has it; None when there is none, or it is beyond what a date can be."""
    if nanoseconds is None:
        return None
    try:
        seconds, rest = divmod(nanoseconds, 1_000_000_000)
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
    except (OverflowError, ValueError, OSError):
        return None

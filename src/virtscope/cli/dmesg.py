"""virt-dmesg: the kernel log of a running guest."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from virtscope.cli.command import Column, Command, Example, Guests, Line, Option
from virtscope.errors import UsageError
from virtscope.kernel.log_names import FACILITIES, LEVELS

if TYPE_CHECKING:
    from virtscope.guest import Guest
    from virtscope.kernel.log import LogRecord

_STYLES = {
    "emerg": "alarm",
    "alert": "alarm",
    "crit": "alarm",
    "err": "red",
    "warn": "yellow",
    "debug": "dim",
}
_SECOND, _MICROSECOND = 1_000_000_000, 1_000


def _levels(text: str) -> tuple[str, ...]:
    """The levels of `-l`: names separated by commas; `warn+` is warn and everything worse."""
    chosen: list[str] = []
    for word in text.split(","):
        name = word.strip()
        if name.endswith("+") and name[:-1] in LEVELS:
            chosen += LEVELS[: LEVELS.index(name[:-1]) + 1]
        elif name.startswith("+") and name[1:] in LEVELS:
            chosen += LEVELS[LEVELS.index(name[1:]) :]
        elif name in LEVELS:
            chosen.append(name)
        else:
            raise ValueError(f"there is no level {name!r}: the levels are {', '.join(LEVELS)}")
    return tuple(chosen)


def _facilities(text: str) -> tuple[str, ...]:
    chosen = tuple(word.strip() for word in text.split(","))
    for name in chosen:
        if name not in FACILITIES:
            raise ValueError(f"there is no facility {name!r}: the facilities are {', '.join(FACILITIES)}")
    return chosen


def _since(text: str) -> datetime | float:
    """`--since`: a UTC time, or how many seconds ago."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a time (2026-01-31T12:00) nor a number of seconds") from None


_OPTIONS = (
    Option(
        ("-T", "--ctime"), "show wall-clock times (UTC, by the guest's clock) instead of seconds since boot"
    ),
    Option(("-t", "--notime"), "show no times"),
    Option(("-l", "--level"), "only these levels; warn+ is warn and worse", metavar="LEVELS", parse=_levels),
    Option(("-f", "--facility"), "only these facilities", metavar="FACILITIES", parse=_facilities),
    Option(("-k", "--kernel"), "only messages of the kernel"),
    Option(("-u", "--userspace"), "only messages that programs have written to the log"),
    Option(("-x", "--decode"), "show facility and level in words"),
    Option(("-r", "--raw"), "show facility and level as the number they are stored as"),
    Option(("-w", "--follow"), "go on with messages as they come, until interrupted"),
    Option(("-W", "--follow-new"), "as -w, but only new messages"),
    Option(
        ("--since",),
        "only messages from then on: a UTC time (2026-01-31T12:00), or a number of seconds ago",
        metavar="TIME",
        parse=_since,
    ),
)


def _check(args: argparse.Namespace) -> None:
    if args.ctime and args.notime:
        raise UsageError("--ctime and --notime exclude each other")
    if args.decode and args.raw:
        raise UsageError("--decode and --raw exclude each other")
    if args.kernel and args.userspace:
        raise UsageError("--kernel and --userspace exclude each other")


def _follows(args: argparse.Namespace) -> bool:
    return bool(args.follow or args.follow_new)


def _rows(guest: Guest, args: argparse.Namespace) -> Iterator[LogRecord]:
    from virtscope.kernel.log import follow, log

    # Wall-clock times need the kernel's types, which cost time to read: only when they are shown.
    wall_time = args.ctime or args.json or args.jsonl or args.csv or bool(args.columns)
    after: int | None = None
    if _follows(args):
        if args.follow_new:
            after = max((record.sequence for record in log(guest.kernel, wall_time=False)), default=None)
        records = follow(guest.kernel, after=after, wall_time=wall_time)
    else:
        records = log(guest.kernel, wall_time=wall_time)
    since = None if args.since is None else _since_boot(guest, args.since)
    for record in records:
        if args.level and record.level not in args.level:
            continue
        if args.facility and record.facility not in args.facility:
            continue
        if (args.kernel and record.facility != "kern") or (args.userspace and record.facility == "kern"):
            continue
        if since is not None and record.since_boot_ns < since:
            continue
        yield record


def _since_boot(guest: Guest, when: datetime | float) -> int:
    """A time as nanoseconds since the guest's boot, by its own clock."""
    from virtscope.kernel.clocks import read_clocks

    clocks = read_clocks(guest.kernel)
    if isinstance(when, datetime):
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return round(when.timestamp() * _SECOND) - clocks.boot_ns
    return clocks.since_boot_ns - round(when * _SECOND)


def _time(record: LogRecord, args: argparse.Namespace) -> str:
    if args.notime:
        return ""
    if args.ctime and record.time is not None:
        return f"[{record.time:%a %b %e %H:%M:%S %Y}] "
    seconds, rest = divmod(record.since_boot_ns, _SECOND)
    return f"[{seconds:5}.{rest // _MICROSECOND:06}] "


def _prefix(record: LogRecord, args: argparse.Namespace) -> str:
    if args.decode:
        return f"{record.facility:<6}:{record.level:<6}: {_time(record, args)}"
    if args.raw:
        return f"<{_number(record)}>{_time(record, args)}"
    return _time(record, args)


def _number(record: LogRecord) -> int:
    facility = FACILITIES.index(record.facility) if record.facility in FACILITIES else int(record.facility)
    return facility << 3 | LEVELS.index(record.level)


def _text(rows: Iterable[LogRecord], args: argparse.Namespace) -> Iterator[Line]:
    for row in rows:
        if row.lost:
            yield Line(
                f"** {row.lost} messages lost: they were overwritten before they were read **", "alarm"
            )
        prefix = _prefix(row, args)
        style = _STYLES.get(row.level)
        for number, line in enumerate(row.text.split("\n")):
            yield Line((" " * len(prefix) if number else prefix) + line, style)


_COLUMNS = (
    Column("sequence", "SEQ", lambda row: row.sequence, "the record's number since boot", right=True),
    Column(
        "seconds",
        "SECONDS",
        lambda row: row.since_boot_ns / _SECOND,
        "the time since boot",
        show=lambda value: f"{value:.6f}",
        right=True,
    ),
    Column(
        "time",
        "TIME",
        lambda row: row.time,
        "the wall-clock time (UTC)",
        show=lambda value: "-" if value is None else f"{value:%Y-%m-%dT%H:%M:%S.%fZ}",
    ),
    Column(
        "level", "LEVEL", lambda row: row.level, "how bad it is", style=lambda row: _STYLES.get(row.level)
    ),
    Column("facility", "FACILITY", lambda row: row.facility, "which part of the system it is from"),
    Column("caller", "CALLER", lambda row: row.caller, "the thread (T) or CPU (C) that wrote it"),
    Column("comm", "COMMAND", lambda row: row.comm, "the name of that thread, where the kernel keeps it"),
    Column(
        "fields",
        "FIELDS",
        lambda row: row.fields,
        "the device it is about",
        show=lambda value: " ".join(f"{key}={text}" for key, text in value.items()),
    ),
    Column("text", "TEXT", lambda row: row.text, "the message"),
)


COMMAND = Command(
    name="virt-dmesg",
    summary="print the kernel log of a running guest, from outside",
    description="""Prints the messages in the kernel's ring buffer, as dmesg(1) does inside the guest, read
from outside, from its live memory: also of a guest that is stuck or has panicked, whose last words nobody
else can read.

Times are seconds since boot by the guest's own clock. What a guest writes cannot harm the terminal: control
characters are shown escaped.""",
    guests=Guests.MEMORY,
    options=_OPTIONS,
    columns=_COLUMNS,
    rows=_rows,
    text=_text,
    follows=_follows,
    check=_check,
    examples=(
        Example("virt-dmesg -T -l warn+ -d web", "what went wrong in the libvirt domain web, and when"),
        Example("virt-dmesg -w --qemu 1234", "the messages of a guest as they come"),
        Example("virt-dmesg -m web.core | tail", "the last words in a memory dump"),
    ),
    see_also=("virt-ps", "virt-uname", "virt-ifconfig", "dmesg"),
)
main = COMMAND.main

"""Times as ps has them: CPU time in ticks, moments in whole seconds, and its many ways of writing both."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from virtscope.kernel.processes import Process

_SECOND = 1_000_000_000
_TICK = _SECOND // 100  # in which /proc counts CPU time: USER_HZ is 100 nearly everywhere


def seconds(nanoseconds: int | None) -> float | None:
    """Nanoseconds as seconds."""
    return None if nanoseconds is None else nanoseconds / _SECOND


def cpu_seconds(row: Process) -> float | None:
    """User and system time, each rounded down to a tick before they are added, as /proc and ps do."""
    if row.utime_ns is None or row.stime_ns is None:
        return None
    return (row.utime_ns // _TICK + row.stime_ns // _TICK) * _TICK / _SECOND


def clock(time: float | None, *, hours: bool) -> str:
    """[DD-]hh:mm:ss; without `hours` those are left out when they are 0, as ps does for elapsed times."""
    if time is None:
        return "-"
    hour, minute = divmod(int(time) // 60, 60)
    second = int(time) % 60
    day, hour = divmod(hour, 24)
    if day:
        return f"{day}-{hour:02}:{minute:02}:{second:02}"
    return f"{hour:02}:{minute:02}:{second:02}" if hours or hour else f"{minute:02}:{second:02}"


def started(row: Process) -> datetime | None:
    """When it started, as ps reckons: whole seconds since a boot that is cut off to whole seconds."""
    if row.start is None or row.start_since_boot_ns is None:
        return None
    try:
        boot = row.start - timedelta(microseconds=row.start_since_boot_ns // 1000)
        return boot.replace(microsecond=0) + timedelta(seconds=row.start_since_boot_ns // _SECOND)
    except OverflowError:  # no calendar has it: the guest's clock is damaged
        return None


class _Moment(datetime):
    """When a process started, with what ps shows of it; in JSON and for sorting a time like any other."""

    shown: str


def moment(row: Process, shown: Callable[[datetime, datetime], str]) -> _Moment | None:
    """When it started, shown as `shown(start, now)` writes it."""
    start = started(row)
    if start is None or row.start is None or row.elapsed_ns is None:
        return None
    try:
        now = start + timedelta(seconds=row.elapsed_ns // _SECOND)
    except OverflowError:
        return None
    found = _Moment.fromtimestamp(row.start.timestamp(), UTC)
    found.shown = shown(start, now)
    return found


def shown_moment(value: _Moment | None) -> str:
    """What `moment` has found, as a table has it."""
    return "-" if value is None else value.shown


def day_or_time(start: datetime, now: datetime) -> str:
    """Hours and minutes today, the day in this year, else the year."""
    if start.year != now.year:
        return f"{start:%Y}"
    return f"{start:%H:%M}" if start.date() == now.date() else f"{start:%b%d}"


def time_or_day(start: datetime, now: datetime) -> str:
    """The time of day when it started in the last 24 hours, else the day."""
    return f"{start:%H:%M:%S}" if now - start < timedelta(days=1) else f"{start:%b %d}"


def minute_or_day(start: datetime, now: datetime) -> str:
    """Hours and minutes in the last 24 hours, else the day."""
    return f"{start:%H:%M}" if now - start < timedelta(days=1) else f"{start:%b %d}"


def minutes(time: float | None) -> str:
    """mmm:ss, as BSD's ps shows CPU time."""
    return "-" if time is None else f"{int(time) // 60}:{int(time) % 60:02}"

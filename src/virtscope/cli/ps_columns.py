"""The columns of virt-ps: ps(1)'s names, headings and way of writing things, and what each needs to be read.

A value is in JSON what it is (bytes, seconds, numbers); a table shows it as ps does (KiB, [DD-]hh:mm:ss).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from virtscope.cli.command import Column
from virtscope.cli.ps_times import (
    clock,
    cpu_seconds,
    day_or_time,
    minute_or_day,
    minutes,
    moment,
    seconds,
    shown_moment,
    started,
    time_or_day,
)
from virtscope.kernel.processes import Facts, Process

_NONE = Facts(0)
_CPU = Facts.TIMES | Facts.IDS
_PRIVILEGE_BITS = 7


def command_line(row: Process) -> str:
    """What ps shows as a process's command: its arguments, or its name in brackets when it has none.

    The name in parentheses says that there are arguments which are not in memory.
    """
    if row.args is None:
        return f"({row.comm})"
    words = list(row.args)
    while words and not words[-1]:
        words.pop()
    if words:
        return " ".join(words)
    return f"[{row.comm}] <defunct>" if row.state == "Z" else f"[{row.comm}]"


def _name(row: Process) -> str:
    return row.comm


def _tree(value: Callable[[Process], str]) -> Callable[[Process], str]:
    """With the branches of --forest or -H before it, which such rows bring with them."""
    return lambda row: getattr(row, "branch", "") + value(row)


def _kib(size: int | None) -> str:
    return "-" if size is None else str(size // 1024)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


_CLASSES = {
    "other": "TS",
    "fifo": "FF",
    "rr": "RR",
    "batch": "B",
    "iso": "ISO",
    "idle": "IDL",
    "deadline": "DLN",
    "ext": "EXT",
}


def _nice(row: Process) -> int | None:
    return row.nice if row.policy in ("other", "batch") else None


def _namespace(kind: str) -> Callable[[Process], int | None]:
    return lambda row: getattr(row.namespaces, kind) if row.namespaces is not None else None


def _terminal(name: str, heading: str, *aliases: str) -> tuple[Facts, Column]:
    return _column(
        Facts.IDS,
        name,
        heading,
        lambda row: row.tty,
        "the controlling terminal",
        *aliases,
        show=lambda value: "-" if value is None else value or "?",
        left=True,
        width=8,
    )


def _gone(value: Any) -> str:
    return "-" if value is None else str(value)


class _Leader(int):
    """The id of a process group or session, and whether the process of that id has ended."""

    gone: bool


def _leader(number: int | None, gone: bool | None) -> _Leader | None:
    if number is None:
        return None
    leader = _Leader(number)
    leader.gone = bool(gone)
    return leader


def _marked(leader: _Leader | None) -> str:
    return "-" if leader is None else f"{leader}{'*' if leader.gone else ''}"


def _cgroup(row: Process) -> str | None:
    return None if row.cgroups is None else ",".join(map(str, row.cgroups))


def _dashed(value: Any) -> str:
    """What ps shows as "-" when there is none."""
    return str(value) if value not in (None, "", ()) else "-"


def _wait_channel(value: str | None) -> str:
    """A kernel function as ps shows it: without the underscores (on some architectures, a dot) in front."""
    return "?" if value is None else value.lstrip("._") or "-"


def _column(
    facts: Facts,
    name: str,
    heading: str,
    value: Callable[[Process], Any],
    help: str,
    *aliases: str,
    show: Callable[[Any], str] = _dashed,
    width: int = 0,
    left: bool = False,
    style: Callable[[Process], str | None] | None = None,
) -> tuple[Facts, Column]:
    return facts, Column(
        name, heading, value, help, show=show, right=not left, width=width, aliases=aliases, style=style
    )


def _state_style(row: Process) -> str | None:
    return {"D": "yellow", "Z": "red", "T": "magenta", "t": "magenta", "R": "green"}.get(row.state or "")


def _ids(name: str, heading: str, member: str, help: str, *aliases: str) -> tuple[Facts, Column]:
    return _column(
        Facts.CREDENTIALS,
        name,
        heading,
        lambda row: getattr(row, member),
        help,
        *aliases,
        show=_gone,
        width=5,
    )


_TABLE = (
    # Who it is
    _column(_NONE, "pid", "PID", lambda row: row.tgid, "the process id", "tgid", width=5),
    _column(Facts.IDS, "ppid", "PPID", lambda row: row.ppid, "the parent's process id", show=_gone, width=5),
    _column(
        Facts.IDS,
        "pgid",
        "PGID",
        lambda row: row.pgid,
        "the process group's id",
        "pgrp",
        show=_gone,
        width=5,
    ),
    _column(
        Facts.IDS,
        "sid",
        "SID",
        lambda row: row.sid,
        "the session's id",
        "sess",
        "session",
        show=_gone,
        width=5,
    ),
    _column(
        Facts.IDS,
        "pgleader",
        "PGID",
        lambda row: _leader(row.pgid, row.group_leader_gone),
        "the process group's id, with * when the process of that id has ended",
        show=_marked,
        width=5,
    ),
    _column(
        Facts.IDS,
        "sleader",
        "SID",
        lambda row: _leader(row.sid, row.session_leader_gone),
        "the session's id, with * when the process of that id has ended",
        show=_marked,
        width=5,
    ),
    _column(_NONE, "lwp", "LWP", lambda row: row.pid, "the thread's id", "tid", "spid", width=5),
    _column(
        Facts.IDS,
        "nspid",
        "NSPID",
        lambda row: row.inner_pids,
        "its ids in the PID namespaces it is in, from the outermost inwards",
        show=lambda value: "-" if value is None else ",".join(map(str, value)),
        left=True,
    ),
    _terminal("tty", "TT", "tt"),
    _terminal("tname", "TTY"),
    _column(
        Facts.IDS,
        "tpgid",
        "TPGID",
        lambda row: row.tpgid,
        "the terminal's foreground process group",
        show=_gone,
    ),
    # Whose it is
    _ids("uid", "UID", "euid", "the effective user id"),
    _ids("euid", "EUID", "euid", "the effective user id"),
    _ids("ruid", "RUID", "uid", "the real user id"),
    _ids("suid", "SUID", "suid", "the saved user id", "svuid"),
    _ids("fuid", "FUID", "fsuid", "the user id for access to files", "fsuid"),
    _ids("gid", "GID", "egid", "the effective group id"),
    _ids("egid", "EGID", "egid", "the effective group id"),
    _ids("rgid", "RGID", "gid", "the real group id"),
    _ids("sgid", "SGID", "sgid", "the saved group id", "svgid"),
    _ids("fgid", "FGID", "fsgid", "the group id for access to files", "fsgid"),
    _ids(
        "user", "USER", "euid", "the effective user: names are not known outside the guest", "euser", "uname"
    ),
    _ids("group", "GROUP", "egid", "the effective group: names are not known outside the guest", "egroup"),
    _column(
        Facts.CREDENTIALS,
        "supgid",
        "SUPGID",
        lambda row: row.groups,
        "supplementary group ids",
        show=lambda value: ",".join(map(str, value)) if value else "-",
        left=True,
    ),
    # What it does
    _column(_NONE, "s", "S", lambda row: row.state, "the state", "state", left=True, style=_state_style),
    _column(
        Facts.IDS | Facts.MEMORY,
        "stat",
        "STAT",
        lambda row: row.stat,
        "the state, and what distinguishes the process",
        left=True,
        width=4,
        style=_state_style,
    ),
    _column(
        _NONE,
        "f",
        "F",
        lambda row: None if row.flags is None else row.flags >> 6 & _PRIVILEGE_BITS,
        "flags: 1 forked but did not execute, 4 used privileges",
        "flag",
        "flags",
        show=_gone,
    ),
    _column(_NONE, "psr", "PSR", lambda row: row.processor, "the CPU it last ran on", show=_gone, width=3),
    _column(
        _NONE, "ni", "NI", _nice, "the nice value, where the policy has one", "nice", show=_gone, width=3
    ),
    _column(
        _NONE,
        "pri",
        "PRI",
        lambda row: None if row.priority is None else 39 - row.priority,
        "the priority, higher is more urgent",
        show=_gone,
        width=3,
    ),
    _column(
        _NONE,
        "opri",
        "PRI",
        lambda row: None if row.priority is None else 60 + row.priority,
        "the priority as ps -l shows it",
        show=_gone,
        width=3,
    ),
    _column(
        _NONE, "priority", "PRI", lambda row: row.priority, "the priority as the kernel has it", show=_gone
    ),
    _column(
        _NONE,
        "rtprio",
        "RTPRIO",
        lambda row: row.realtime_priority or None,
        "the real-time priority",
        width=6,
    ),
    _column(
        _NONE,
        "cls",
        "CLS",
        lambda row: row.policy,
        "the scheduling class",
        "policy",
        "class",
        show=lambda value: _CLASSES.get(value, "?") if value else "-",
        width=3,
    ),
    _column(
        Facts.IDS,
        "nlwp",
        "NLWP",
        lambda row: row.threads,
        "the number of threads",
        "thcount",
        show=_gone,
        width=4,
    ),
    _column(
        Facts.WAIT,
        "wchan",
        "WCHAN",
        lambda row: row.wchan,
        "the kernel function it waits in",
        "nwchan",
        show=_wait_channel,
        left=True,
        width=6,
    ),
    # When, and how long
    _column(
        _CPU,
        "time",
        "TIME",
        cpu_seconds,
        "the CPU time it has used",
        "cputime",
        show=lambda value: clock(value, hours=True),
        width=8,
    ),
    _column(
        _CPU,
        "bsdtime",
        "TIME",
        cpu_seconds,
        "the CPU time it has used, in minutes and seconds",
        show=minutes,
        width=6,
    ),
    _column(
        _CPU,
        "times",
        "TIME",
        cpu_seconds,
        "the CPU time it has used, in seconds",
        "cputimes",
        show=lambda value: "-" if value is None else str(int(value)),
    ),
    _column(
        _CPU,
        "utime",
        "UTIME",
        lambda row: seconds(row.utime_ns),
        "CPU time in user mode",
        show=lambda value: "-" if value is None else f"{value:.2f}",
    ),
    _column(
        _CPU,
        "systime",
        "STIME",
        lambda row: seconds(row.stime_ns),
        "CPU time in the kernel",
        show=lambda value: "-" if value is None else f"{value:.2f}",
    ),
    _column(
        _CPU,
        "c",
        "C",
        lambda row: row.cpu_percent,
        "the CPU time used since the start, in whole percent",
        show=lambda value: "-" if value is None else str(min(99, int(value))),
        width=2,
    ),
    _column(
        _CPU,
        "pcpu",
        "%CPU",
        lambda row: row.cpu_percent,
        "the CPU time used since the start, in percent",
        "%cpu",
        show=_percent,
        width=4,
    ),
    _column(
        Facts.TIMES,
        "stime",
        "STIME",
        lambda row: moment(row, day_or_time),
        "when it started: a time today, or a day, or a year",
        show=shown_moment,
        width=5,
    ),
    _column(
        Facts.TIMES,
        "start_time",
        "START",
        lambda row: moment(row, day_or_time),
        "as stime, under the heading of ps aux",
        show=shown_moment,
        left=True,
        width=5,
    ),
    _column(
        Facts.TIMES,
        "bsdstart",
        "START",
        lambda row: moment(row, minute_or_day),
        "when it started: a time in the last 24 hours, else a day",
        show=shown_moment,
        width=6,
    ),
    _column(
        Facts.TIMES,
        "start",
        "STARTED",
        lambda row: moment(row, time_or_day),
        "when it started: a time, or a day",
        show=shown_moment,
        width=8,
    ),
    _column(
        Facts.TIMES,
        "lstart",
        "STARTED",
        started,
        "when it started, in full",
        show=lambda value: "-" if value is None else f"{value:%a %b %e %H:%M:%S %Y}",
        width=24,
    ),
    _column(
        Facts.TIMES,
        "etime",
        "ELAPSED",
        lambda row: seconds(row.elapsed_ns),
        "how long ago it started",
        show=lambda value: clock(value, hours=False),
        width=11,
    ),
    _column(
        Facts.TIMES,
        "etimes",
        "ELAPSED",
        lambda row: seconds(row.elapsed_ns),
        "how long ago it started, in seconds",
        show=lambda value: "-" if value is None else str(int(value)),
        width=7,
    ),
    # What it takes
    _column(
        Facts.MEMORY,
        "vsz",
        "VSZ",
        lambda row: row.vsz,
        "virtual memory (shown in KiB)",
        "vsize",
        show=_kib,
        width=6,
    ),
    _column(
        Facts.MEMORY,
        "rss",
        "RSS",
        lambda row: row.rss,
        "resident memory (shown in KiB)",
        "rssize",
        "rsz",
        show=_kib,
        width=5,
    ),
    _column(
        Facts.MEMORY,
        "sz",
        "SZ",
        lambda row: None if row.vsz is None else row.vsz // 4096,
        "virtual memory in pages",
        show=_gone,
        width=5,
    ),
    _column(
        Facts.MEMORY,
        "pmem",
        "%MEM",
        lambda row: row.memory_percent,
        "resident memory in percent of the guest's",
        "%mem",
        show=_percent,
        width=4,
    ),
    _column(_NONE, "addr", "ADDR", lambda _row: None, "nothing, as in ps: kept for its place in -l"),
    # Where it is
    _column(Facts.CGROUPS, "cgroup", "CGROUP", _cgroup, "its control groups", left=True, width=27),
    _column(Facts.PATHS, "exe", "EXE", lambda row: row.exe, "the program's path", left=True, width=27),
    _column(Facts.PATHS, "cwd", "CWD", lambda row: row.cwd, "the working directory", left=True, width=27),
    _column(Facts.PATHS, "root", "ROOT", lambda row: row.root, "the root directory", left=True),
    *(
        _column(
            Facts.NAMESPACES,
            f"{kind}ns",
            f"{kind.upper()}NS",
            _namespace(kind),
            f"the {kind} namespace's inode number",
            width=10,
        )
        for kind in ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
    ),
    # What it is called
    _column(_NONE, "comm", "COMMAND", _tree(_name), "the name", "ucomm", show=str, left=True, width=15),
    _column(_NONE, "ucmd", "CMD", _tree(_name), "the name", show=str, left=True, width=15),
    _column(
        Facts.ARGUMENTS,
        "args",
        "COMMAND",
        _tree(command_line),
        "the command line",
        "command",
        show=str,
        left=True,
        width=27,
    ),
    _column(
        Facts.ARGUMENTS, "cmd", "CMD", _tree(command_line), "the command line", show=str, left=True, width=27
    ),
)

COLUMNS: tuple[Column, ...] = tuple(column for _facts, column in _TABLE)

FACTS: dict[str, Facts] = {column.name: facts for facts, column in _TABLE}
"""What must be read of a process for each column."""

"""What a lab guest says of itself, in /proc and by its own tools, to compare with what is seen from outside.

Everything is gathered with a few processes: under emulation each costs milliseconds, and is itself seen.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pytest

from lab import Guest
from virtscope.cli import options
from virtscope.host import qmp

T = TypeVar("T")

TICKS = 100  # USER_HZ

_PROCESS_FILES = (
    "cd /proc; export LC_ALL=C; "
    "grep -a -H '' [0-9]*/stat; echo ===; "
    "head -v -c 8192 [0-9]*/cmdline; echo; echo ===; "
    "grep -a -H -E '^(Uid|Gid|Groups|NSpid|.*switches):' [0-9]*/status; echo ===; "
    "grep -a -H '' [0-9]*/cgroup; echo ===; "
    "ls -l [0-9]*/ns/ 2>/dev/null; echo ===; "
    "ls -l [0-9]*/exe [0-9]*/cwd [0-9]*/root 2>/dev/null; echo ===; "
    "grep -a -H '' [0-9]*/wchan; echo ===; "
    "grep -a -H '' [0-9]*/task/[0-9]*/stat; true"
)


@dataclass
class Inside:
    """One process as the guest's /proc shows it; `stat` has /proc/PID/stat's fields by number (proc(5))."""

    pid: int
    comm: str = ""
    stat: dict[int, str] = field(default_factory=dict)
    cmdline: bytes = b""
    status: dict[str, list[int]] = field(default_factory=dict)
    cgroups: list[str] = field(default_factory=list)
    namespaces: dict[str, int] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    wchan: str = ""

    def rests(self, later: Inside) -> bool:
        """Whether it did not run between this look and a later one."""
        keys = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
        # One that ended while it was looked at has no status.
        return all(key in self.status and self.status[key] == later.status.get(key) for key in keys)

    @property
    def is_kernel_thread(self) -> bool:
        return bool(int(self.stat[9]) & 0x200000)


def processes_inside(guest: Guest) -> dict[int, Inside]:
    """All processes by pid, without those that were started to look at them."""
    text = guest.execute(_PROCESS_FILES).stdout.decode(errors="surrogateescape")
    stat, cmdline, status, cgroup, namespaces, links, wchan, _tasks = text.split("===\n")
    found: dict[int, Inside] = {}
    for pid, line in _joined(_by_pid(stat)).items():
        parse_stat(found.setdefault(pid, Inside(pid)), line)
    for part in re.split(r"(?:^|\n)==> (?=\d)", cmdline)[1:]:
        name, _, content = part.partition(" <==\n")
        pid = int(name.split("/")[0])
        if pid in found:
            found[pid].cmdline = content.encode(errors="surrogateescape").removesuffix(b"\n")
    for pid, line in _by_pid(status):
        key, _, numbers = line.partition(":")
        if pid in found:
            found[pid].status[key] = [int(number) for number in re.findall(r"\d+", numbers)]
    for pid, line in _by_pid(cgroup):
        if pid in found:
            found[pid].cgroups.append(line)
    pid = 0
    for line in namespaces.splitlines():
        if folder := re.match(r"(\d+)/ns/:", line):
            pid = int(folder[1])
        elif (link := re.search(r" (\w+) -> \w+:\[(\d+)\]", line)) and pid in found:
            found[pid].namespaces[link[1]] = int(link[2])
    for line in links.splitlines():
        link = re.search(r" (\d+)/(exe|cwd|root)(?: -> (.*))?$", line)
        if link and int(link[1]) in found:
            found[int(link[1])].links[link[2]] = link[3] or ""
    for pid, line in _by_pid(wchan):
        if pid in found:
            found[pid].wchan = line
    ours = ("sh", "grep", "ls", "head", "readlink", "cat")
    return {pid: process for pid, process in found.items() if process.stat and process.comm not in ours}


def threads_inside(guest: Guest) -> dict[int, Inside]:
    """All threads by their own id."""
    found: dict[int, Inside] = {}
    text = guest.run(
        "grep -a -H '' /proc/[0-9]*/task/[0-9]*/stat; "
        "grep -a -H 'switches:' /proc/[0-9]*/task/[0-9]*/status; true"
    )
    lines = re.findall(r"^/proc/\d+/task/(\d+)/stat:(.*)$", text, re.MULTILINE)
    for tid, line in _joined([(int(tid), line) for tid, line in lines]).items():
        parse_stat(found.setdefault(tid, Inside(tid)), line)
    for tid, key, number in re.findall(r"^/proc/\d+/task/(\d+)/status:(\w+):\s+(\d+)$", text, re.MULTILINE):
        if int(tid) in found:
            found[int(tid)].status[key] = [int(number)]
    return {tid: thread for tid, thread in found.items() if thread.stat and thread.comm not in ("sh", "grep")}


def parse_stat(process: Inside, line: str) -> None:
    """Take what a line of /proc/PID/stat says."""
    opening, closing = line.find("("), line.rfind(")")
    process.comm = line[opening + 1 : closing]
    process.stat = dict(enumerate(line[closing + 2 :].split(), start=3))


def _joined(lines: list[tuple[int, str]]) -> dict[int, str]:
    """Lines of one process put together: a name can have a line end in it."""
    found: dict[int, str] = {}
    for pid, line in lines:
        found[pid] = f"{found[pid]}\n{line}" if pid in found else line
    return found


def _by_pid(text: str) -> list[tuple[int, str]]:
    return [(int(match[1]), match[2]) for match in re.finditer(r"^(\d+)/\w+:(.*)$", text, re.MULTILINE)]


def bracketed(inside: Callable[[], T], outside: Callable[[], object]) -> tuple[T, object, T]:
    """What the guest says before and after a look from outside: what is the same in both must be seen."""
    before = inside()
    seen = outside()
    return before, seen, inside()


def kernel_messages(guest: Guest) -> list[str]:
    """The lines of the guest's /dev/kmsg, up to a record that is added for that."""
    # Reading it ends only when it is interrupted; the last record says when everything has come.
    raw = guest.execute(
        "end=end-of-records-$$; echo lab: $end > /dev/kmsg; cat /dev/kmsg > /run/records & reader=$!; "
        "until grep -q $end /run/records; do sleep 0.1; done; kill $reader; cat /run/records; rm /run/records"
    )
    assert raw.status == 0, raw.stderr
    return raw.stdout.decode(errors="surrogateescape").splitlines()


@contextmanager
def patient_monitors() -> Iterator[None]:
    """Monitors and commands may take longer than users would wait: on a busy machine QEMU's main loop takes a
    while to come round, and a test that nothing was noted must not see that.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qmp, "TIMEOUT", 60.0)
        patch.setattr(qmp, "_PATIENCE", 10.0)
        longer = [
            replace(option, default=600.0) if option.flags == ("--timeout",) else option
            for option in options._PARALLEL
        ]
        patch.setattr(options, "_PARALLEL", tuple(longer))
        yield


def install(guest: Guest, program: str) -> str:
    """Puts a program of the host with its libraries into the guest; returns how to call it there."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    loader = re.search(r"(/lib64/ld-\S+)", listed)
    libraries = re.findall(r"=> (/\S+) ", listed)
    assert loader is not None
    guest.run("mkdir -p /run/tools")
    for path in (program, loader[1], *libraries):
        name = path.rsplit("/", 1)[1]
        if guest.execute(f"test -e /run/tools/{name}").status:
            with open(path, "rb") as file:
                guest.put(f"/run/tools/{name}", file.read())
    name = program.rsplit("/", 1)[1]
    return f"/run/tools/{loader[1].rsplit('/', 1)[1]} --library-path /run/tools /run/tools/{name}"

"""The processes and threads of a guest. `processes` yields `Process` rows; `Facts` says what to read of them.

What the fields mean is what /proc and ps say they mean. Reading costs a look at the guest's memory for
each group of facts, so a caller that polls thousands of guests asks only for the groups it shows.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from virtscope.errors import CorruptData, NotMapped, UnknownLayout
from virtscope.kernel.process_facts import FactReader
from virtscope.kernel.task_state import EXIT_DEAD, stat_string
from virtscope.kernel.tasks import threads_of, walk_tasks

if TYPE_CHECKING:
    from datetime import datetime

    from virtscope.kernel.cgroups import Cgroup
    from virtscope.kernel.kernel import Kernel
    from virtscope.kernel.namespaces import Namespaces
    from virtscope.kernel.records import Record

_BATCH = 64
"""Tasks that are read before it is checked that they did not change meanwhile."""

_ATTEMPTS = 4
_COMM_LENGTH = 15


class Facts(enum.Flag):
    """Groups of facts about a process; what is not asked for is None in the row.

    pid, tgid, comm and what else is in the task itself (state, scheduling) always come.
    """

    IDS = enum.auto()
    """ppid, pgid, sid, terminal, number of threads, pids in inner namespaces."""
    TIMES = enum.auto()
    """When it started, and the CPU time it has used."""
    CREDENTIALS = enum.auto()
    """User and group ids."""
    MEMORY = enum.auto()
    """Virtual and resident size, and with IDS the complete `stat`."""
    ARGUMENTS = enum.auto()
    """The command line, from the process's own memory."""
    PATHS = enum.auto()
    """The program, the working and the root directory."""
    CGROUPS = enum.auto()
    NAMESPACES = enum.auto()
    WAIT = enum.auto()
    """What it waits in."""


ALL_FACTS = ~Facts(0)


@dataclass(frozen=True, slots=True)
class Process:
    """A process, or one of its threads.

    None says that a fact was not asked for or could not be read (a note says which and why); an empty text or
    tuple says that there is none.

    Attributes:
        pid: the process id; the thread's own id when threads are listed.
        tgid: the process id, also for a thread.
        comm: the name the kernel knows it by: for a process at most 15 bytes, for a kernel thread with
            what it works on.
        kernel_thread: whether it is part of the kernel.
        state: R running, S sleeping, D in uninterruptible sleep, I idle, T stopped, t traced, Z zombie, X
            dead, P parked.
        stat: the same and more, as ps's STAT column; needs Facts.IDS and Facts.MEMORY.
        flags: task_struct.flags (PF_*).
        policy: the scheduling policy: "other", "fifo", "rr", "batch", "idle", "deadline", "ext".
        nice: -20 to 19.
        priority: the kernel's, as in /proc: 20 + nice, or below 0 for real-time policies.
        realtime_priority: 1 to 99 for real-time policies, else 0.
        processor: the CPU it last ran on.
        ppid: the parent's process id.
        pgid: the process group's id.
        sid: the session's id.
        group_leader_gone: whether the process whose id is `pgid` has ended.
        session_leader_gone: whether the process whose id is `sid` has ended.
        tty: the controlling terminal as ps shows it ("pts/0", "ttyS0"), empty without one.
        tpgid: the foreground process group of that terminal, -1 without one.
        threads: how many threads the process has.
        inner_pids: its ids in the PID namespaces it is in, from the outermost (which is `pid`) inwards.
        start: when it started (UTC).
        start_since_boot_ns: the same, since the guest's boot.
        elapsed_ns: how long ago that was, when the guest's clock was last updated.
        utime_ns: CPU time spent in user mode, of all threads (of the thread, when threads are listed).
        stime_ns: the same in kernel mode.
        cpu_percent: CPU time per time since the start, in percent, as ps's %CPU.
        uid: the real user id.
        euid: the effective one, which ps shows.
        suid: the saved one.
        fsuid: the one for files.
        gid: the real group id.
        egid: the effective one.
        sgid: the saved one.
        fsgid: the one for files.
        groups: supplementary groups.
        vsz: bytes of virtual memory.
        rss: bytes of resident memory.
        locked: bytes of memory locked.
        memory_percent: resident memory in percent of the guest's.
        args: the command line; empty for kernel threads and zombies.
        exe: the path of the program, empty when there is none.
        cwd: the path of the working directory.
        root: the path of the root directory.
        cgroups: the control group in each hierarchy.
        namespaces: the namespaces it is in.
        wchan: the kernel function it waits in; empty when it does not wait.
    """

    pid: int
    tgid: int
    comm: str
    kernel_thread: bool | None = None
    state: str | None = None
    stat: str | None = None
    flags: int | None = None
    policy: str | None = None
    nice: int | None = None
    priority: int | None = None
    realtime_priority: int | None = None
    processor: int | None = None
    ppid: int | None = None
    pgid: int | None = None
    sid: int | None = None
    group_leader_gone: bool | None = None
    session_leader_gone: bool | None = None
    tty: str | None = None
    tpgid: int | None = None
    threads: int | None = None
    inner_pids: tuple[int, ...] | None = None
    start: datetime | None = None
    start_since_boot_ns: int | None = None
    elapsed_ns: int | None = None
    utime_ns: int | None = None
    stime_ns: int | None = None
    cpu_percent: float | None = None
    uid: int | None = None
    euid: int | None = None
    suid: int | None = None
    fsuid: int | None = None
    gid: int | None = None
    egid: int | None = None
    sgid: int | None = None
    fsgid: int | None = None
    groups: tuple[int, ...] | None = None
    vsz: int | None = None
    rss: int | None = None
    locked: int | None = None
    memory_percent: float | None = None
    args: tuple[str, ...] | None = None
    exe: str | None = None
    cwd: str | None = None
    root: str | None = None
    cgroups: tuple[Cgroup, ...] | None = None
    namespaces: Namespaces | None = None
    wchan: str | None = None


def processes(
    kernel: Kernel,
    *,
    facts: Facts = ALL_FACTS,
    threads: bool = False,
    pids: Collection[int] | None = None,
    names: Collection[str] | None = None,
) -> Iterator[Process]:
    """The processes of a guest, in the order of their ids; the idle task, number 0, is not among them.

    Args:
        kernel: whose processes.
        facts: the groups of facts to read.
        threads: yield one row for each thread instead of one for each process.
        pids: only these processes (with `threads`, also single threads by their own id).
        names: only processes of one of these names (comm).

    Raises:
        CorruptData: the task list loops, is cut, or points nowhere; the rows that were read are yielded
        first.
        UnknownLayout: the kernel's tasks are not known.
    """
    listing = _Listing(kernel, facts, threads)
    wanted = _filter(pids, names, threads)
    rows: list[Process] = []
    problem: CorruptData | None = None
    kernel.refresh()
    try:
        for batch in _batches(listing.tasks()):
            rows += filter(wanted, listing.rows(batch))
    except CorruptData as error:
        problem = error
    listing.note_problems(rows)
    yield from sorted(rows, key=lambda row: row.tgid)
    if problem is not None:
        raise problem


def _filter(
    pids: Collection[int] | None, names: Collection[str] | None, threads: bool
) -> Callable[[Process], bool]:
    """Whether a row is wanted. Threads, which come behind their leader, are so by their process's name."""
    short = {name.encode()[:_COMM_LENGTH].decode(errors="ignore") for name in names or ()}
    named: set[int] = set()

    def wanted(row: Process) -> bool:
        if names is not None and (row.comm in names or row.comm in short) and row.pid == row.tgid:
            named.add(row.tgid)
        if pids is not None and row.tgid not in pids and not (threads and row.pid in pids):
            return False
        return names is None or row.tgid in named

    return wanted


def _batches(tasks: Iterator[Record]) -> Iterator[list[Record]]:
    """The tasks in groups; also those that come before an error, which is raised behind them."""
    batch: list[Record] = []
    problem: CorruptData | None = None
    try:
        for task in tasks:
            batch.append(task)
            if len(batch) == _BATCH:
                yield batch
                batch = []
    except CorruptData as error:
        problem = error
    if batch:
        yield batch
    if problem is not None:
        raise problem


def _counted(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"


class _Listing:
    """One listing of a kernel's tasks: reads their facts, and reads again what changed meanwhile."""

    def __init__(self, kernel: Kernel, facts: Facts, threads: bool) -> None:
        self._kernel = kernel
        self._layout = kernel.struct("task_struct")
        self._threads = threads
        self._reader = reader = FactReader(kernel, per_thread=threads)
        readers: tuple[tuple[Facts, str, Callable[[Record], dict[str, Any]]], ...] = (
            (Facts.IDS, "ids", reader.ids),
            (Facts.TIMES, "times", reader.times),
            (Facts.CREDENTIALS, "user and group ids", reader.credentials),
            (Facts.MEMORY, "memory sizes", reader.memory),
            (Facts.ARGUMENTS, "command lines", reader.arguments),
            (Facts.PATHS, "paths", reader.paths),
            (Facts.CGROUPS, "control groups", reader.cgroups),
            (Facts.NAMESPACES, "namespaces", reader.namespaces),
            (Facts.WAIT, "wait channels", reader.wait),
        )
        self._readers = {what: read for fact, what, read in readers if fact in facts}
        self._problems: dict[str, list[str]] = {}
        if not kernel.has_types:
            self._readers.clear()
            if threads:
                raise UnknownLayout("threads cannot be listed: this kernel has no type information (BTF)")
            self._note("this kernel has no type information (BTF): only ids and names of processes are known")
        # What a running process replaces when it executes, exits or changes its identity.
        members: tuple[str, ...] = (
            "tgid",
            "signal",
            "mm",
            "real_cred",
            "nsproxy",
            "cgroups",
            "fs",
            "thread_pid",
            "real_parent",
        )
        if Facts.WAIT in facts:
            members = (*members, "nvcsw", "nivcsw")  # it has not run meanwhile, so its stack is what it was
        self._waits = Facts.WAIT in facts
        self._identity = ("pid", *(member for member in members if self._layout.has(member)))

    def tasks(self) -> Iterator[Record]:
        """The tasks to list: the leaders, or all threads."""
        for leader in walk_tasks(self._kernel):
            if not self._threads:
                yield leader
                continue
            for address in self._thread_addresses(leader):
                try:
                    yield self._kernel.record(self._layout, address)
                except NotMapped:
                    continue  # a thread that has just exited

    def rows(self, batch: list[Record]) -> Iterator[Process]:
        """The rows of some tasks, without those that have exited since."""
        if not self._kernel.memory.is_live:
            for task in batch:
                yield self._row(task, whole=False)
            return
        read: list[tuple[Record, Process | None]] = []
        for task in batch:
            read.append((task, self._attempt(task)))
        self._look_anew()
        for task, row in read:
            now = self._now(task)
            if now is not None and row is not None and self._is_same(task, now):
                yield row
            elif now is not None:
                again = self._again(now)
                if again is not None:
                    yield again

    def note_problems(self, rows: list[Process]) -> None:
        """Tell the user what could not be read."""
        for what, reasons in self._problems.items():
            self._note(f"the {what} of {_counted(len(reasons))} could not be read: {reasons[0]}")
        if "command lines" in self._readers:
            absent = sum(row.args is None for row in rows) - len(self._problems.get("command lines", ()))
            if absent > 0:
                self._note(f"the command lines of {_counted(absent)} are not in memory (swapped out)")

    def _thread_addresses(self, leader: Record) -> list[int]:
        with suppress(CorruptData):
            signal = leader.follow("signal")
            if signal is not None and signal["nr_threads"] == 1:
                return [leader.address]

        def read() -> list[int]:
            now = self._kernel.record(self._layout, leader.address)
            signal = now.follow("signal")
            if signal is None:
                return []  # it has exited
            return [thread.address for thread in threads_of(self._kernel, signal)]

        try:
            return self._kernel.retried(read)
        except CorruptData as error:
            self._problems.setdefault("threads", []).append(str(error))
            return [leader.address]

    def _row(self, task: Record, *, whole: bool) -> Process:
        """The row of a task; with `whole`, raises what reading raises instead of leaving facts out."""
        found = self._reader.basic(task)
        for what, read in tuple(self._readers.items()):
            try:
                found.update(read(task))
            except UnknownLayout as error:
                del self._readers[what]
                self._note(f"the {what} of processes are not known: {error}")
            except (CorruptData, NotMapped) as error:
                if whole:
                    raise
                self._problems.setdefault(what, []).append(str(error))
        if "sid" in found and "locked" in found:
            found["stat"] = stat_string(
                found["state"],
                nice=found["nice"],
                locked=found["locked"] > 0,
                session_leader=found["sid"] == found["tgid"],
                threads=found["threads"],
                foreground=found["tpgid"] == found["pgid"],
            )
        return Process(**found)

    def _attempt(self, task: Record) -> Process | None:
        try:
            return self._row(task, whole=True)
        except (CorruptData, NotMapped):
            return None

    def _again(self, task: Record) -> Process | None:
        """The row of a task that changed while it was read; None when it has exited."""
        for _ in range(_ATTEMPTS):
            row = self._attempt(task)
            self._look_anew()
            now = self._now(task)
            if now is None:
                return None
            if row is not None and self._is_same(task, now):
                return row
            task = now
        row = self._row(task, whole=False)
        return replace(row, wchan=None) if self._waits else row

    def _look_anew(self) -> None:
        self._kernel.refresh()
        self._reader.forget()

    def _now(self, task: Record) -> Record | None:
        """The task as it is now; None when it has exited."""
        try:
            now = self._kernel.record(self._layout, task.address)
        except NotMapped:
            return None
        if now["pid"] != task["pid"]:
            return None
        # What is dead is in the list only until its parent is done with it; /proc does not find it any more.
        is_dead = now.has("signal") and (not now["signal"] or now["exit_state"] == EXIT_DEAD)
        return None if is_dead else now

    def _is_same(self, before: Record, now: Record) -> bool:
        return all(before[member] == now[member] for member in self._identity)

    def _note(self, sentence: str) -> None:
        if sentence not in self._kernel.notes:
            self._kernel.notes.append(sentence)

"""The facts about one task, group by group: `FactReader` makes a `Process`'s fields of kernel structures.

Each method reads one group of `processes.Facts` and returns fields by name. They raise what reading
raises; what that means for a row is decided in processes.py.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from virtscope.errors import CorruptData
from virtscope.kernel.kernel_threads import full_name
from virtscope.kernel.task_state import PF_KTHREAD, adjusted_cputime, policy_name, state_letter
from virtscope.kernel.tasks import threads_of

if TYPE_CHECKING:
    from virtscope.kernel.cgroups import Cgroups
    from virtscope.kernel.clocks import Clocks
    from virtscope.kernel.kernel import Kernel
    from virtscope.kernel.paths import Paths
    from virtscope.kernel.records import Record
    from virtscope.kernel.wait_channel import WaitChannels

_PAGE_SIZE = 4096
_MAX_GROUPS = 65536
_MAX_LEVEL = 32
_MAX_KEPT = 65536
_PGID, _SID = 2, 3
"""enum pid_type, since 4.19."""


def text(raw: bytes) -> str:
    """A guest's bytes as text; what is not UTF-8 is kept as surrogate escapes."""
    return raw.decode("utf-8", "surrogateescape")


class FactReader:
    """Reads facts about the tasks of one kernel; keeps what many tasks share.

    Args:
        kernel: the kernel.
        per_thread: whether CPU times are a thread's own rather than its whole process's.
    """

    def __init__(self, kernel: Kernel, *, per_thread: bool) -> None:
        self._kernel = kernel
        self._per_thread = per_thread
        self._pids: dict[int, tuple[int, bool]] = {}
        self._resident: tuple[int, int] | None = None

    def forget(self) -> None:
        """Drop what was kept of structures that may have changed: the guest is looked at anew."""
        self._pids.clear()
        self._resident = None
        for name in ("_paths", "_cgroups", "_pages_by_space"):
            self.__dict__.pop(name, None)

    def basic(self, task: Record) -> dict[str, Any]:
        """What is in the task itself. Without type information that is its ids and name."""
        if not task.has("flags"):
            return {"pid": task["pid"], "tgid": task["tgid"], "comm": text(task["comm"])}
        flags = task["flags"]
        return {
            "pid": task["pid"],
            "tgid": task["tgid"],
            "comm": text(full_name(self._kernel, task)),
            "kernel_thread": bool(flags & PF_KTHREAD),
            "state": state_letter(task[task.layout.first("__state", "state")], task["exit_state"]),
            "flags": flags,
            "policy": policy_name(task["policy"]),
            "nice": task["static_prio"] - 120,
            "priority": task["prio"] - 100,
            "realtime_priority": task["rt_priority"],
            "processor": task[task.layout.first("thread_info.cpu", "cpu")],
        }

    def ids(self, task: Record) -> dict[str, Any]:
        """The ids of process, group and session, and the terminal."""
        signal = task.pointee("signal")
        pids = signal["pids"]
        pgid, group_leader_gone = self._pid(pids[_PGID])
        sid, session_leader_gone = self._pid(pids[_SID])
        parent = task["real_parent"]
        if not parent:
            raise CorruptData(f"process {task['pid']} has no parent")
        tty, tpgid = self._terminal(signal)
        return {
            "ppid": self._kernel.read_u32(parent + task.layout.offset("tgid")),
            "pgid": pgid,
            "sid": sid,
            "group_leader_gone": group_leader_gone,
            "session_leader_gone": session_leader_gone,
            "tty": tty,
            "tpgid": tpgid,
            "threads": signal["nr_threads"],
            "inner_pids": tuple(number for number, _namespace in self._numbers(task)),
        }

    def times(self, task: Record) -> dict[str, Any]:
        """When it started, and the CPU time it has used."""
        started = task[task.layout.first("start_boottime", "real_start_time")]
        utime, stime = self._cpu_time(task)
        clocks = self._clocks
        elapsed = max(0, clocks.since_boot_ns - started)
        return {
            "start": clocks.wall(started),
            "start_since_boot_ns": started,
            "elapsed_ns": elapsed,
            "utime_ns": utime,
            "stime_ns": stime,
            "cpu_percent": round(100 * (utime + stime) / elapsed, 3) if elapsed else 0.0,
        }

    def credentials(self, task: Record) -> dict[str, Any]:
        """User and group ids."""
        credentials = task.pointee("real_cred")
        groups = credentials.pointee("group_info")
        count = groups["ngroups"]
        if not 0 <= count <= _MAX_GROUPS:
            raise CorruptData(f"process {task['pid']} claims to be in {count} groups")
        data = self._kernel.read(groups.at("gid"), 4 * count) if count else b""
        names = ("uid", "euid", "suid", "fsuid", "gid", "egid", "sgid", "fsgid")
        found: dict[str, Any] = {name: credentials[f"{name}.val"] for name in names}
        found["groups"] = tuple(int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4))
        return found

    def memory(self, task: Record) -> dict[str, Any]:
        """How much memory it has."""
        mm = self._mm(task)
        if mm is None:
            return {"vsz": 0, "rss": 0, "locked": 0, "memory_percent": 0.0}
        rss = self._resident_pages(task, mm)
        return {
            "vsz": mm["total_vm"] * _PAGE_SIZE,
            "rss": rss * _PAGE_SIZE,
            "locked": mm["locked_vm"] * _PAGE_SIZE,
            "memory_percent": round(100 * rss / self._total_pages, 3) if self._total_pages else None,
        }

    def arguments(self, task: Record) -> dict[str, Any]:
        """The command line."""
        from virtscope.kernel.process_memory import read_arguments

        mm = self._mm(task)
        args = read_arguments(self._kernel, mm) if mm is not None else ()
        return {"args": None if args is None else tuple(text(arg) for arg in args)}

    def paths(self, task: Record) -> dict[str, Any]:
        """The program, and the directories it is in."""
        mm = self._mm(task)
        file = mm.follow("exe_file") if mm is not None else None
        places = task.follow("fs")
        path = self._paths.path
        return {
            "exe": path(file["f_path.mnt"], file["f_path.dentry"]) if file is not None else "",
            "cwd": path(places["pwd.mnt"], places["pwd.dentry"]) if places is not None else "",
            "root": path(places["root.mnt"], places["root.dentry"]) if places is not None else "",
        }

    def cgroups(self, task: Record) -> dict[str, Any]:
        """The control groups it is in."""
        return {"cgroups": self._cgroups.read(task)}

    def namespaces(self, task: Record) -> dict[str, Any]:
        """The namespaces it is in."""
        from virtscope.kernel.namespaces import read_namespaces

        numbers = self._numbers(task)
        return {"namespaces": read_namespaces(self._kernel, task, numbers[-1][1] if numbers else None)}

    def wait(self, task: Record) -> dict[str, Any]:
        """What it waits in."""
        return {"wchan": self._wait_channels.function(task)}

    # What facts are made of

    @cached_property
    def _clocks(self) -> Clocks:
        from virtscope.kernel.clocks import read_clocks

        return read_clocks(self._kernel)

    @cached_property
    def _paths(self) -> Paths:
        from virtscope.kernel.paths import Paths

        return Paths(self._kernel)

    @cached_property
    def _cgroups(self) -> Cgroups:
        from virtscope.kernel.cgroups import Cgroups

        return Cgroups(self._kernel, self._paths)

    @cached_property
    def _wait_channels(self) -> WaitChannels:
        from virtscope.kernel.wait_channel import WaitChannels

        return WaitChannels(self._kernel)

    @cached_property
    def _total_pages(self) -> int | None:
        for symbol in ("_totalram_pages", "totalram_pages"):
            if self._kernel.has_symbol(symbol):
                return self._kernel.read_u64(self._kernel.symbol(symbol))
        return None

    def _mm(self, task: Record) -> Record | None:
        """The task's own address space: kernel threads only borrow one."""
        return None if task["flags"] & PF_KTHREAD else task.follow("mm")

    def _resident_pages(self, task: Record, mm: Record) -> int:
        if self._resident is None or self._resident[0] != mm.address:
            from virtscope.kernel.process_memory import resident_pages

            pages = resident_pages(self._kernel, mm)
            if task.has("rss_stat.count"):
                pages += self._not_handed_over(task, mm)
            self._resident = mm.address, max(0, pages)
        return self._resident[1]

    def _not_handed_over(self, task: Record, mm: Record) -> int:
        """Pages that the threads of an address space have counted, each for itself (kernels before 6.2)."""
        from virtscope.kernel.process_memory import pages_of_thread

        signal = task.pointee("signal")
        if mm["mm_users.counter"] > signal["nr_threads"]:
            # Others use it too: the child of a vfork, or somebody who reads it. Only a look at all tells.
            return self._pages_by_space.get(mm.address, 0)
        threads = threads_of(self._kernel, signal) if signal["nr_threads"] > 1 else iter((task,))
        return sum(map(pages_of_thread, threads))

    @cached_property
    def _pages_by_space(self) -> dict[int, int]:
        from virtscope.kernel.process_memory import pages_of_thread
        from virtscope.kernel.tasks import walk_tasks

        pages: dict[int, int] = {}
        for leader in walk_tasks(self._kernel):
            signal = leader.pointee("signal")
            several = leader["mm"] and signal["nr_threads"] > 1
            for thread in threads_of(self._kernel, signal) if several else (leader,):
                if thread["mm"]:
                    pages[thread["mm"]] = pages.get(thread["mm"], 0) + pages_of_thread(thread)
        return pages

    def _cpu_time(self, task: Record) -> tuple[int, int]:
        """User and system time in nanoseconds."""
        if self._per_thread:
            return _adjusted(task["utime"], task["stime"], task["se.sum_exec_runtime"], task)
        signal = task.pointee("signal")
        utime, stime, runtime = signal["utime"], signal["stime"], signal["sum_sched_runtime"]
        for thread in threads_of(self._kernel, signal) if signal["nr_threads"] > 1 else (task,):
            utime += thread["utime"]
            stime += thread["stime"]
            runtime += thread["se.sum_exec_runtime"]
        return _adjusted(utime, stime, runtime, signal)

    def _terminal(self, signal: Record) -> tuple[str, int]:
        """The controlling terminal's name, as a path below /dev, and its foreground process group."""
        tty = signal.follow("tty")
        if tty is None:
            return "", -1
        name = text(tty["name"])
        if name.startswith("pts") and name[3:].isdecimal():
            name = f"pts/{name[3:]}"  # the kernel's devpts names its terminals without the slash
        group = tty[tty.layout.first("ctrl.pgrp", "pgrp")]
        return name, self._pid(group)[0] if group else 0

    def _pid(self, address: int) -> tuple[int, bool]:
        """The number of a `struct pid` in the first PID namespace, and whether its process has ended."""
        known = self._pids.get(address)
        if known is None:
            if not address:
                raise CorruptData("a process has left its process group or session: it is exiting")
            kernel = self._kernel
            layout = kernel.struct("pid")
            pid = kernel._pointee(layout, address, "signal_struct.pids")
            number = _signed(kernel.read_u32(address + layout.offset("numbers")))
            # Number 0 is the idle task's, which is in no list.
            known = number, number != 0 and not pid["tasks[0].first"]
            if len(self._pids) >= _MAX_KEPT:
                self._pids.clear()
            self._pids[address] = known
        return known

    def _numbers(self, task: Record) -> list[tuple[int, int]]:
        """The (pid, PID namespace) of a task, from the outermost to its own; none when it is exiting."""
        pid = task.follow("thread_pid")
        if pid is None:
            return []
        kernel = self._kernel
        level = pid["level"]
        if level > _MAX_LEVEL:
            raise CorruptData(f"process {task['pid']} claims to be in {level} nested PID namespaces")
        layout = kernel.struct("upid")
        start, size = pid.at("numbers"), layout.size
        records = (kernel.record(layout, start + index * size) for index in range(level + 1))
        return [(record["nr"], record["ns"]) for record in records]


def _adjusted(utime: int, stime: int, runtime: int, owner: Record) -> tuple[int, int]:
    return adjusted_cputime(utime, stime, runtime, owner["prev_cputime.utime"], owner["prev_cputime.stime"])


def _signed(number: int) -> int:
    return number - (1 << 32) if number >> 31 else number

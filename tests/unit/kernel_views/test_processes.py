"""Processes in memory made for tests: what is read, what is said when it cannot be, lists that change."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import pytest

from tests.unit.kernel_views.linux import BOOT, SECOND, STRUCTS, Linux
from tests.unit.kernel_views.world import BASE, USER
from virtscope.errors import CorruptData
from virtscope.kernel.processes import Facts, Process, processes
from virtscope.kernel.task_state import adjusted_cputime, stat_string, state_letter


def pids(rows: list[Process]) -> list[int]:
    return [row.pid for row in rows]


@pytest.mark.parametrize(
    ("state", "exit_state", "letter"),
    [
        (0, 0, "R"),
        (1, 0, "S"),
        (2, 0, "D"),
        (0x102, 0, "D"),  # killable
        (0x402, 0, "I"),
        (0x2402, 0, "I"),  # and freezable
        (4, 0, "T"),
        (0x104, 0, "T"),
        (8, 0, "t"),
        (0x108, 0, "t"),
        (0x40, 0, "P"),
        (0x80, 0x20, "Z"),
        (0x80, 0x10, "X"),
        (0x1000, 0, "D"),  # on a lock of a real-time kernel
        (0x8000, 0, "D"),  # frozen
        (0x200, 0, "R"),  # waking
        (0x800, 0, "R"),  # new
        (0x2001, 0, "S"),
    ],
)
def test_state_letters(state: int, exit_state: int, letter: str) -> None:
    assert state_letter(state, exit_state) == letter


def test_stat_strings() -> None:
    def stat(**values: object) -> str:
        usual = {"nice": 0, "locked": False, "session_leader": False, "threads": 1, "foreground": False}
        return stat_string("S", **(usual | values))  # type: ignore[arg-type]

    assert stat() == "S"
    assert stat(nice=-1) == "S<"
    assert stat(nice=19, threads=2) == "SNl"
    assert stat(nice=-20, locked=True, session_leader=True, threads=9, foreground=True) == "S<Lsl+"


def test_cpu_times_are_divided_as_the_ticks_suggest_and_never_shrink() -> None:
    assert adjusted_cputime(0, 0, 1000, 0, 0) == (1000, 0)
    assert adjusted_cputime(0, 8, 1000, 0, 0) == (0, 1000)
    assert adjusted_cputime(30, 10, 1000, 0, 0) == (750, 250)
    # What was reported before stands, although the ticks have changed sides.
    assert adjusted_cputime(10, 30, 1000, 900, 50) == (900, 100)
    assert adjusted_cputime(30, 10, 1000, 100, 800) == (200, 800)
    assert adjusted_cputime(5, 5, 1000, 700, 600) == (700, 600)


def test_a_process_in_all_its_facts() -> None:
    world = Linux()
    init = world.process(1, "init", args=b"/sbin/init\0")
    tty = world.new("tty_struct", name="pts3", pgrp=world.pid(7))
    task = world.process(
        7,
        "worker",
        args=b"worker\0--odd=\xff\0\0",
        parent=init,
        pgid=7,
        sid=5,
        utime=30,
        stime=10,
        se__sum_exec_runtime=4 * SECOND,
        rt_priority=0,
        policy=3,
        cpu=1,
    )
    signal = world.look("task_struct", task)["signal"]
    world.poke("signal_struct", signal, "tty", tty)
    (first, row) = processes(world, facts=~Facts.WAIT)
    assert world.notes == []
    assert (first.comm, first.args, first.sid, first.session_leader_gone) == (
        "init",
        ("/sbin/init",),
        1,
        False,
    )
    assert (row.ppid, row.pgid, row.sid) == (1, 7, 5)
    assert (row.group_leader_gone, row.session_leader_gone) == (False, True)
    assert (row.tty, row.tpgid, row.stat, row.policy, row.processor) == ("pts/3", 7, "S+", "batch", 1)
    assert row.args == ("worker", "--odd=\udcff", "")
    assert (row.exe, row.cwd, row.root) == ("/bin/worker", "/tmp", "/")
    assert (row.utime_ns, row.stime_ns) == (3 * SECOND, SECOND)
    assert row.start == datetime.fromtimestamp(BOOT / SECOND + 400, UTC)
    assert (row.elapsed_ns, row.cpu_percent) == (600 * SECOND, 0.667)
    assert (row.vsz, row.rss, row.memory_percent) == (100 * 4096, 12 * 4096, 6.0)
    assert [str(cgroup) for cgroup in row.cgroups or ()] == ["0::/lab.slice"]
    assert row.namespaces is not None
    assert (row.namespaces.pid, row.namespaces.user, row.namespaces.net) == (
        4026531836,
        4026531837,
        4026531840,
    )
    assert row.namespaces.ipc is None  # this kernel has none


def test_resident_memory_counts_what_cpus_have_not_handed_over() -> None:
    world = Linux()
    task = world.process(1)
    mm = world.look("task_struct", task)["mm"]
    counters = world.look("mm_struct", mm)["rss_stat[0].counters"]
    for cpu, (file, anonymous, swap, shared) in enumerate(((10, -1, 99, 2), (1, 1, 1, 1))):
        at = counters + 0x1000 * cpu - BASE
        world.data[at : at + 16] = struct.pack("<iiii", file, anonymous, swap, shared)
    (row,) = processes(world, facts=Facts.MEMORY)
    assert row.rss == (12 + 10 - 1 + 2 + 3) * 4096


def test_facts_that_are_not_asked_for_are_not_read() -> None:
    world = Linux()
    for pid in range(1, 40):
        world.process(pid)
    list(processes(world, facts=Facts(0)))
    few = world.reads
    world.reads = 0
    row = next(processes(world, facts=Facts.IDS))
    assert row.tty == ""
    assert (row.args, row.uid, row.rss, row.exe, row.start, row.cgroups) == (None,) * 6
    assert few < world.reads
    world.reads = 0
    list(processes(world, facts=~Facts.WAIT))
    assert world.reads > 5 * few


def test_kernel_threads_have_full_names() -> None:
    world = Linux()
    queue = world.new("workqueue_struct", name="a_rather_long_name")
    pool = world.new("worker_pool")

    def thread(pid: int, comm: str, flags: int = 0x200000, **values: int) -> None:
        own = world.new("kthread", **values)
        world.process(pid, comm, kernel_thread=True, worker_private=own, flags=flags)

    thread(2, "a_name_of_15_by", full_name=world.text(b"a_name_of_15_bytes_and_more"))
    worker = world.new("worker", pool=pool, desc="events", current_work=1)
    thread(3, "kworker/0:1", 0x200020, data=worker)
    thread(4, "kworker/0:2", 0x200020, data=world.new("worker", pool=pool, desc="mm_percpu_wq"))
    thread(5, "kworker/R-a_rat", 0x200020, data=world.new("worker", rescue_wq=queue))
    thread(6, "kthreadd")
    rows = list(processes(world, facts=Facts.ARGUMENTS))
    assert [row.comm for row in rows] == [
        "a_name_of_15_bytes_and_more",
        "kworker/0:1+events",
        "kworker/0:2-mm_percpu_wq",
        "kworker/R-a_rather_long_name",
        "kthreadd",
    ]
    assert all(row.kernel_thread and row.args == () for row in rows)


def test_arguments_that_are_not_resident_are_unknown_and_said() -> None:
    world = Linux()
    world.process(1, "swapped", args=None)
    task = world.process(2, "empty", args=b"")
    world.process(3, "titled", args=b"titled: a title that runs on")
    mm = world.look("task_struct", task)["mm"]
    world.poke("mm_struct", mm, "arg_start", 0)
    world.user.clear()
    world.user[(USER + 3 * 0x10000) >> 12] = b"titled: a title that runs on past its arguments\0PATH=/".ljust(
        4096, b"\0"
    )
    one, two, three = processes(world, facts=Facts.ARGUMENTS)
    mm = world.look("task_struct", world.tasks[0])["mm"]
    assert one.args == ()  # it has an area of no length
    assert two.args == ()
    assert three.args == ("titled: a title that runs on past its arguments",)
    world.poke("mm_struct", mm, "arg_end", USER + 0x10000 + 5)
    assert next(processes(world, facts=Facts.ARGUMENTS)).args is None
    assert world.notes == ["the command lines of 1 process are not in memory (swapped out)"]


def test_deleted_programs_and_files_without_a_place() -> None:
    world = Linux()
    task = world.process(1, "gone")
    mm = world.look("task_struct", task)["mm"]
    file = world.look("mm_struct", mm)["exe_file"]
    world.poke("file", file, "f_path.dentry", world.dentry(b"usr", b"bin", b"gone", hashed=False))
    assert next(processes(world, facts=Facts.PATHS)).exe == "/usr/bin/gone (deleted)"
    memfd = world.new("dentry", d_name__len=9, d_name__name=world.text(b"memfd:run"))
    world.poke("dentry", memfd, "d_parent", memfd)
    world.poke("file", file, "f_path.dentry", memfd)
    assert next(processes(world, facts=Facts.PATHS)).exe == "/memfd:run (deleted)"


def test_paths_go_up_through_mounts() -> None:
    world = Linux()
    top = world.new("dentry", d_hash__pprev=1)
    world.poke("dentry", top, "d_parent", top)
    mount = world.new(
        "mount", mnt_parent=world.mount, mnt_mountpoint=world.dentry(b"var", b"lib"), mnt__mnt_root=top
    )
    inner = world.new("dentry", d_parent=top, d_hash__pprev=1, d_name__len=3, d_name__name=world.text(b"app"))
    task = world.process(1)
    fs = world.look("task_struct", task)["fs"]
    world.poke("fs_struct", fs, "pwd.mnt", world.at("mount", mount, "mnt"))
    world.poke("fs_struct", fs, "pwd.dentry", inner)
    assert next(processes(world, facts=Facts.PATHS)).cwd == "/var/lib/app"


def test_threads() -> None:
    world = Linux()
    task = world.process(10, "main", utime=7, se__sum_exec_runtime=100)
    signal = world.look("task_struct", task)["signal"]
    own = world.pid(11)
    thread = world.new(
        "task_struct",
        pid=11,
        tgid=10,
        comm="helper",
        signal=signal,
        thread_pid=own,
        static_prio=120,
        prio=120,
        real_parent=world.symbols["init_task"],
        real_cred=world.root_cred,
        se__sum_exec_runtime=900,
        stime=3,
    )
    nodes = [world.at("task_struct", each, "thread_node") for each in (task, thread)]
    world.link(world.at("signal_struct", signal, "thread_head"), nodes)
    world.poke("signal_struct", signal, "nr_threads", 2)
    world.process(12, "other")
    facts = Facts.IDS | Facts.TIMES
    rows = list(processes(world, facts=facts, threads=True))
    assert [(row.pid, row.tgid, row.comm) for row in rows] == [
        (10, 10, "main"),
        (11, 10, "helper"),
        (12, 12, "other"),
    ]
    assert [(row.utime_ns or 0) + (row.stime_ns or 0) for row in rows] == [100, 900, 0]
    whole = next(processes(world, facts=facts))
    assert (whole.threads, whole.utime_ns, whole.stime_ns) == (2, 700, 300)
    assert pids(list(processes(world, facts=facts, threads=True, pids={11}))) == [11]
    assert pids(list(processes(world, facts=facts, threads=True, names={"main"}))) == [10, 11]


# Lists that are broken


def test_a_list_that_loops_yields_what_was_read_then_says_so() -> None:
    world = Linux()
    for pid in (3, 1, 2):
        world.process(pid)
    world.poke("task_struct", world.tasks[2], "tasks.next", world.node(world.tasks[1]))
    rows: list[Process] = []
    with pytest.raises(CorruptData, match="loops"):
        rows.extend(processes(world))
    assert pids(rows) == [1, 2, 3]


@pytest.mark.parametrize("wild", [0, 1, 0xDEAD_0000_0000_0100, BASE - 8, (1 << 64) - 1])
def test_a_list_that_leads_nowhere(wild: int) -> None:
    world = Linux()
    for pid in (1, 2, 3):
        world.process(pid)
    world.poke("task_struct", world.tasks[1], "tasks.next", wild)
    rows: list[Process] = []
    with pytest.raises(CorruptData, match="behind 2 tasks"):
        rows.extend(processes(world))
    assert pids(rows) == [1, 2]


def test_a_dump_whose_list_contradicts_itself_is_read_and_said_to() -> None:
    world = Linux()
    for pid in (1, 2, 3):
        world.process(pid)
    world.poke("task_struct", world.tasks[1], "tasks.prev", 0)
    assert pids(list(processes(world, facts=Facts(0)))) == [1, 2, 3]
    assert len(world.notes) == 1
    assert "processes may be missing" in world.notes[0]


def test_one_fact_that_cannot_be_read_costs_only_itself() -> None:
    world = Linux()
    for pid in (1, 2, 3):
        world.process(pid)
    world.poke("task_struct", world.tasks[1], "real_cred", 0xDEAD_BEEF_0000)
    rows = list(processes(world, facts=Facts.CREDENTIALS | Facts.IDS))
    assert [(row.pid, row.uid, row.ppid) for row in rows] == [(1, 0, 0), (2, None, 0), (3, 0, 0)]
    (note,) = world.notes
    assert note.startswith("the user and group ids of 1 process could not be read: ")


def test_a_kernel_that_lacks_what_a_fact_needs() -> None:
    world = Linux()
    del world.structs._members["css_set"], world.structs._sizes["css_set"], world._layouts["css_set"]
    world.process(1)
    (row,) = processes(world, facts=Facts.CGROUPS | Facts.IDS)
    assert (row.cgroups, row.ppid) == (None, 0)
    assert world.notes == ["the control groups of processes are not known: no structure css_set"]


def test_a_kernel_without_types_gives_ids_and_names() -> None:
    world = Linux(has_types=False)
    members = world.structs._members["task_struct"]
    for name in set(members) - {"pid", "tgid", "comm", "tasks"}:
        del members[name]
    for pid in (1, 2):
        task = world.new("task_struct", pid=pid, tgid=pid, comm=f"p{pid}")
        world.tasks.append(task)
    world.relink()
    rows = list(processes(world))
    assert [(row.pid, row.tgid, row.comm, row.state, row.uid) for row in rows] == [
        (1, 1, "p1", None, None),
        (2, 2, "p2", None, None),
    ]
    assert world.notes == [
        "this kernel has no type information (BTF): only ids and names of processes are known"
    ]


# Lists that change while they are read


class Living(Linux):
    """A guest that does something each time it is looked at anew."""

    def __init__(self) -> None:
        super().__init__(is_live=True)
        self.looks = 0


def remove(world: Linux, task: int) -> None:
    """As a process that exits: out of the list, but it still points on."""
    world.tasks.remove(task)
    world.relink()
    world.poke("task_struct", task, "tasks.prev", 0xDEAD_0000_0000_0122)
    world.poke("task_struct", task, "signal", 0)


def test_a_process_that_exits_while_its_facts_are_read_is_left_out() -> None:
    world = Living()
    for pid in range(1, 6):
        world.process(pid)
    doomed = world.tasks[2]
    original, its_memory = world.read, world.look("task_struct", doomed)["mm"]

    def read(address: int, size: int) -> bytes:
        # Its memory descriptor is the last that is read of it: then it is gone.
        if address == its_memory and doomed in world.tasks:
            remove(world, doomed)
        return original(address, size)

    world.read = read  # type: ignore[method-assign]
    assert pids(list(processes(world, facts=Facts.MEMORY))) == [1, 2, 4, 5]


def test_a_task_whose_memory_is_another_task_already_does_not_lead_astray() -> None:
    """Process 2 exits after the walk has read 1; its memory is process 9's then, at the end of the list."""
    world = Living()
    for pid in range(1, 8):
        world.process(pid)
    doomed = world.tasks[1]
    original = world.read
    done: list[bool] = []

    def read(address: int, size: int) -> bytes:
        if address == doomed and size > 100 and not done:
            done.append(True)
            world.tasks.remove(doomed)
            world.tasks.append(doomed)
            world.relink()
            world.poke("task_struct", doomed, "pid", 9)
            world.poke("task_struct", doomed, "tgid", 9)
        return original(address, size)

    world.read = read  # type: ignore[method-assign]
    assert pids(list(processes(world, facts=Facts.IDS))) == [1, 3, 4, 5, 6, 7, 9]


def test_a_list_that_never_holds_still_ends_with_an_error() -> None:
    world = Living()
    for pid in range(1, 8):
        world.process(pid)
    world.poke("task_struct", world.tasks[3], "tasks.prev", world.node(world.tasks[0]))
    with pytest.raises(CorruptData, match="kept changing"):
        list(processes(world, facts=Facts(0)))


def test_identities_that_change_are_read_again() -> None:
    world = Living()
    task = world.process(1)
    cred = world.new(
        "cred", uid__val=1000, euid__val=1000, group_info=world.new("group_info"), user_ns=world.users
    )

    def change() -> None:
        world.looks += 1
        if world.looks == 2:  # the first look anew after its facts were read
            world.poke("task_struct", task, "real_cred", cred)

    world.on_refresh = change
    (row,) = processes(world, facts=Facts.CREDENTIALS)
    assert row.uid == 1000


def test_declared_structures_have_the_members_the_views_name() -> None:
    # A misspelt member in the test's own kernel would make tests pass for the wrong reason.
    for name in STRUCTS:
        assert Linux().structs.struct_size(name) is not None

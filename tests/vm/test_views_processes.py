"""virt-ps against the guest's own /proc and ps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

import virtscope
from lab import Guest
from lab.kernels import MATRIX
from tests.vm.views_truth import (
    TICKS,
    Inside,
    bracketed,
    patient_monitors,
    processes_inside,
    threads_inside,
)
from virtscope.cli import ps
from virtscope.kernel.processes import Facts, Process

TICK_NS = 1_000_000_000 // TICKS


def look(guest: Guest, **options: object) -> dict[int, Process]:
    with virtscope.open(qemu=str(guest.pid)) as outside:
        rows = {row.pid: row for row in outside.processes(**options)}
        assert outside.notes == ()
    return rows


@pytest.fixture(scope="session")
def seen(guest: Guest) -> list[tuple[Inside, Process, Inside]]:
    """Every process that was there before and after the look from outside, with what it was seen as."""
    with patient_monitors():
        before, rows, after = bracketed(lambda: processes_inside(guest), lambda: look(guest))
    assert isinstance(rows, dict)
    # The agent is at work when the guest looks at itself, and rests otherwise.
    both = [
        pid
        for pid in before
        if pid in after and before[pid].stat[22] == after[pid].stat[22] and before[pid].comm != "lab-agent"
    ]
    assert len(both) > 50
    return [(before[pid], rows[pid], after[pid]) for pid in both]


def test_every_process_is_listed_and_none_besides(guest: Guest) -> None:
    before, rows, after = bracketed(lambda: processes_inside(guest), lambda: look(guest))
    assert isinstance(rows, dict)
    assert rows.keys() >= before.keys() & after.keys()
    # Workers of the kernel come and go.
    between = [row for pid, row in rows.items() if pid not in before and pid not in after]
    assert {row.comm for row in between if not row.comm.startswith("kworker")} <= {"sh", "lab-agent"}
    assert list(rows) == sorted(rows)


STAT_FIELDS: dict[int, Callable[[Process], str | None]] = {
    3: lambda row: row.state,
    4: lambda row: str(row.ppid),
    5: lambda row: str(row.pgid),
    6: lambda row: str(row.sid),
    8: lambda row: str(row.tpgid),
    9: lambda row: str(row.flags),
    18: lambda row: str(row.priority),
    19: lambda row: str(row.nice),
    20: lambda row: str(row.threads),
    23: lambda row: str(row.vsz),
    39: lambda row: str(row.processor),
    40: lambda row: str(row.realtime_priority),
}


LASTING_FIELDS = {4, 5, 6, 8, 18, 19, 20, 23, 40}
"""Those that do not depend on whether a process runs right now."""


@pytest.mark.parametrize("number", STAT_FIELDS)
def test_a_field_of_proc_stat(seen: list[tuple[Inside, Process, Inside]], number: int) -> None:
    compared = 0
    for before, row, after in seen:
        # One that ran meanwhile may have been in another state in between.
        if before.stat[number] == after.stat[number] and (number in LASTING_FIELDS or before.rests(after)):
            assert (row.comm, STAT_FIELDS[number](row)) == (row.comm, before.stat[number])
            compared += 1
    assert compared > 40


def test_names(seen: list[tuple[Inside, Process, Inside]]) -> None:
    for before, row, after in seen:
        if before.comm == after.comm and (before.rests(after) or not before.comm.startswith("kworker")):
            assert row.comm == before.comm
        assert row.kernel_thread is before.is_kernel_thread


def test_cpu_times_lie_between_before_and_after(
    seen: list[tuple[Inside, Process, Inside]],
) -> None:
    for before, row, after in seen:
        for number, nanoseconds in ((14, row.utime_ns), (15, row.stime_ns)):
            assert nanoseconds is not None
            low, high = int(before.stat[number]), int(after.stat[number])
            assert low <= nanoseconds // TICK_NS <= high, (row.comm, number)


def test_start_times(guest: Guest, seen: list[tuple[Inside, Process, Inside]]) -> None:
    boot = int(re.search(r"btime (\d+)", guest.run("cat /proc/stat"))[1])  # type: ignore[index]
    for before, row, _after in seen:
        assert row.start is not None
        since_boot = row.start.timestamp() - boot
        # /proc cuts off the fraction of the second of boot.
        assert -0.01 <= since_boot - int(before.stat[22]) / TICKS <= 1.01
    uptime = float(guest.run("cat /proc/uptime").split()[0])
    first = seen[0][1]
    assert first.pid == 1
    assert first.elapsed_ns is not None
    assert 0 < first.elapsed_ns / 1e9 <= uptime
    assert first.start is not None
    assert abs((first.start - datetime.now(UTC)).total_seconds()) < 86400


def test_resident_memory(guest: Guest, seen: list[tuple[Inside, Process, Inside]]) -> None:
    # /proc/PID/stat leaves out what CPUs or threads have not yet handed over; the page tables do not lie.
    by_name = {row.comm: row for _before, row, _after in seen}
    exact = 0
    for before, row, _after in seen:
        if not before.is_kernel_thread and before.comm.startswith("lab-") and before.stat[3] == "S":
            text = guest.run(f"cat /proc/{row.pid}/smaps_rollup")
            assert row.rss == 1024 * int(re.search(r"Rss: +(\d+)", text)[1]), row.comm  # type: ignore[index]
            exact += 1
    assert exact > 10
    resident = by_name["lab-resident"].rss
    assert resident is not None
    assert resident >= 8192 * 1024
    total = int(re.search(r"MemTotal: +(\d+)", guest.run("cat /proc/meminfo"))[1])  # type: ignore[index]
    assert by_name["lab-resident"].memory_percent == pytest.approx(resident / total / 10.24, abs=0.01)


def test_command_lines(seen: list[tuple[Inside, Process, Inside]]) -> None:
    for before, row, after in seen:
        if before.cmdline == after.cmdline:
            assert row.args is not None, row.comm
            words = "\0".join(row.args).encode(errors="surrogateescape")
            assert words == before.cmdline.removesuffix(b"\0"), row.comm
    by_name = {row.comm: row for _before, row, _after in seen}
    assert by_name["lab-args"].args == (
        "/actors/lab-args",
        "two words",
        "tab\there",
        "back\\slash",
        "quote'd",
        "",
        "--last=ünïcode",
    )
    assert by_name["kthreadd"].args == ()
    assert (by_name["lab-title"].args or ())[0] == "lab: a new title"


def test_user_and_group_ids(seen: list[tuple[Inside, Process, Inside]]) -> None:
    for before, row, _after in seen:
        assert [row.uid, row.euid, row.suid, row.fsuid] == before.status["Uid"]
        assert [row.gid, row.egid, row.sgid, row.fsgid] == before.status["Gid"]
        assert list(row.groups or ()) == before.status["Groups"]


def test_namespaces_and_the_ids_in_them(seen: list[tuple[Inside, Process, Inside]]) -> None:
    for before, row, _after in seen:
        assert list(row.inner_pids or ()) == before.status["NSpid"]
        for kind, number in before.namespaces.items():
            if kind.endswith("_for_children"):
                continue
            assert row.namespaces is not None
            assert getattr(row.namespaces, kind) == number, (row.comm, kind)
    by_name = {row.comm: row for _before, row, _after in seen}
    assert by_name["lab-namespaces"].inner_pids == (by_name["lab-namespaces"].pid, 1)
    ours, theirs = by_name["init"].namespaces, by_name["lab-namespaces"].namespaces
    assert ours is not None
    assert theirs is not None
    assert all(getattr(ours, kind) != getattr(theirs, kind) for kind in ("pid", "net", "uts", "mnt", "ipc"))


def test_control_groups(seen: list[tuple[Inside, Process, Inside]]) -> None:
    for before, row, _after in seen:
        assert [str(cgroup) for cgroup in row.cgroups or ()] == before.cgroups, row.comm
    assert any(str(cgroup).endswith("/lab-slice") for _b, row, _a in seen for cgroup in row.cgroups or ())


def test_paths(seen: list[tuple[Inside, Process, Inside]]) -> None:
    for before, row, _after in seen:
        assert {"exe": row.exe, "cwd": row.cwd, "root": row.root} == before.links, row.comm
    assert any(row.exe == "/bin/actor" for _before, row, _after in seen)


def test_what_they_wait_in(seen: list[tuple[Inside, Process, Inside]]) -> None:
    # Kernels before 5.16 cannot unwind a stack without frame pointers, and say 0.
    known = [
        (before, row) for before, row, after in seen if before.wchan not in ("", "0") and before.rests(after)
    ]
    for before, row in known:
        assert row.wchan == before.wchan, row.comm
    assert len(known) > 40 or all(before.wchan in ("", "0") for before, _row, _after in seen)


def test_groups_and_sessions_without_leader_are_marked(
    seen: list[tuple[Inside, Process, Inside]],
) -> None:
    pids = {row.pid for _before, row, _after in seen}
    for _before, row, _after in seen:
        assert row.pgid is not None
        assert row.sid is not None
        assert row.group_leader_gone is (row.pgid != 0 and row.pgid not in pids), row.comm
        assert row.session_leader_gone is (row.sid != 0 and row.sid not in pids), row.comm
    assert [row.comm for _b, row, _a in seen if row.group_leader_gone] == ["lab-orphan"]


def test_threads(guest: Guest) -> None:
    before, rows, after = bracketed(lambda: threads_inside(guest), lambda: look(guest, threads=True))
    assert isinstance(rows, dict)
    both = before.keys() & after.keys()
    assert rows.keys() >= both
    for tid in both:
        rests = before[tid].rests(after[tid])
        if before[tid].comm == after[tid].comm and (rests or not before[tid].comm.startswith("kworker")):
            assert rows[tid].comm == before[tid].comm
        if before[tid].stat[3] == after[tid].stat[3] and rests:
            assert rows[tid].state == before[tid].stat[3]
        for number, nanoseconds in ((14, rows[tid].utime_ns), (15, rows[tid].stime_ns)):
            assert (
                int(before[tid].stat[number]) <= (nanoseconds or 0) // TICK_NS <= int(after[tid].stat[number])
            )
    assert sum(before[tid].rests(after[tid]) for tid in both) > 40
    assert {row.comm for row in rows.values()} >= {
        "lab-threads",
        "lab-thread-1",
        "lab-thread-2",
        "lab-thread-3",
    }


# The command


def run_ps(guest: Guest, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert ps.main([*arguments, "--qemu", str(guest.pid)]) == code
    return capsys.readouterr().out


def lines_of(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


FORMATS = (
    "-e",
    "-ef",
    "-ej",
    "-eL",
    "-ejH",
    "-e --forest",
    "-eo pid,ppid,stat,ni,pri,cls,rtprio,psr,nlwp,tty,comm",
    "-eo pid,f,s,vsz,sz,uid,ruid,euid,gid,pgid,sid,tpgid,lstart,ucmd",
    "-o pid=,comm= -C lab-plain",
    "ax",
    "axjf",
    "axc",
    "axo pid,wchan:40,bsdtime,bsdstart,start_time,comm",
)


@pytest.mark.parametrize("ours", FORMATS)
def test_the_same_lines_as_the_guests_ps(guest: Guest, capsys: pytest.CaptureFixture[str], ours: str) -> None:
    if "wchan" in ours and guest.run("cat /proc/1/wchan").strip() == "0":
        # Kernels unwound by ORC did not tell before 5.16, so ps has nothing to show there.
        ours = ours.replace("wchan:40,", "")
    # What ps -f shows as names, virt-ps shows as numbers.
    theirs = "LC_ALL=C ps " + ("-e -o uid,pid,ppid,c,stime,tname,time,cmd" if ours == "-ef" else ours)
    # A thread of the kernel may just do something at the moment of the look from outside, but hardly always.
    busy: set[str] | None = None
    for _ in range(6):
        before, text, after = bracketed(
            lambda: lines_of(guest.run(theirs)), lambda: run_ps(guest, capsys, *ours.split())
        )
        assert isinstance(text, str)
        seen = lines_of(text.replace("*", ""))
        stable = [line for line in before if line in after and is_comparable(line)]
        assert len(stable) >= 1 if "-C" in ours else len(stable) > 50
        if "=" not in ours:
            assert seen[0] == before[0]
        missing = [line for line in stable if line not in seen]
        # In the same order, too.
        assert [line for line in seen if line in stable] == [line for line in stable if line in seen]
        names = {line.split()[-1] for line in missing}
        busy = names if busy is None else busy & names
        if not busy:
            break
    assert not busy, missing


@pytest.mark.parametrize(("words", "unlike"), [("auxn", {"%CPU", "%MEM", "RSS"}), ("axl", {"RSS", "WCHAN"})])
def test_bsd_formats(guest: Guest, capsys: pytest.CaptureFixture[str], words: str, unlike: set[str]) -> None:
    """As the guest's ps but for what that counts less exactly, or cuts off."""

    def columns(text: str) -> list[list[str]]:
        heading, *lines = text.splitlines()
        names = heading.split()
        kept = [index for index, name in enumerate(names) if name not in unlike]
        rows = [line.split(maxsplit=len(names) - 1) for line in lines if is_comparable(line)]
        return [names, *([row[index] for index in kept] for row in rows if len(row) == len(names))]

    busy: set[str] | None = None
    for _ in range(6):  # as above
        before, text, after = bracketed(
            lambda: columns(guest.run(f"LC_ALL=C ps {words}")), lambda: run_ps(guest, capsys, words)
        )
        assert isinstance(text, str)
        seen = columns(text)
        assert seen[0] == before[0]
        stable = [row for row in before if row in after]
        assert len(stable) > 50
        missing = [row for row in stable if row not in seen]
        names = {row[-1] for row in missing}
        busy = names if busy is None else busy & names
        if not busy:
            break
    assert not busy, missing


def is_comparable(line: str) -> bool:
    """Whether ps shows that line as virt-ps does: not what is not printable ASCII, nor what runs ps."""
    return not re.search(r"\bps\b|\bsh\b|lab-args|lab-escape|red|lab-agent|/init|virtio", line)


def test_names_cannot_reach_the_terminal(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("-e",), ("-ef",), ("-o", "args,comm,exe"), ("--csv",)):
        out = run_ps(guest, capsys, *arguments)
        assert "\x1b" not in out
        assert "\x07" not in out
        assert "red" in out or "title" in out


def test_json_has_everything(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(run_ps(guest, capsys, "--json"))
    rows = {row["comm"]: row for row in document["rows"]}
    assert document["errors"] == []
    assert rows["lab-user"]["euid"] == 1001
    assert rows["lab-cgroup"]["cgroups"][0]["path"] == "/lab-slice"
    assert (
        rows["lab-escape" if "lab-escape" in rows else "\x1b[31mred\x07\n\\x"]["args"][1]
        == "\x1b]0;title\x07"
    )
    unknown = [key for key, value in rows["lab-plain"].items() if value is None]
    assert unknown == []


def test_choosing(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    def names(*arguments: str, code: int = 0) -> set[str]:
        return set(run_ps(guest, capsys, "-o", "comm=", *arguments, code=code).split("\n")) - {""}

    assert names("-u", "1001,54321") == {"lab-user", "lab-unknown-id"}
    assert names("-C", "lab-a-very-long-name") == {"lab-a-very-long"}
    assert names("--state", "T") == {"lab-stopped"}
    assert names("--state", "Z") == {"lab-zombie"}
    assert names("--state", "D") >= {"lab-disk"}
    assert names("-p", "1,2") == {"init", "kthreadd"}
    assert names("-t", "pts/0") == {"lab-terminal"}
    assert names("-u", "1001", "-p", "1") == {"init", "lab-user"}
    assert names("-p", "99999999", code=1) == set()


@pytest.mark.matrix
@pytest.mark.parametrize("kernel", MATRIX)
def test_control_groups_of_the_first_version(boot: Callable[..., Guest], kernel: str) -> None:
    guest = boot(
        kernel,
        setup="""
            mkdir -p /run/v1/cpu /run/v1/named
            mount -t cgroup -o cpu,cpuacct none /run/v1/cpu
            mount -t cgroup -o none,name=systemd none /run/v1/named
            mkdir -p /run/v1/cpu/outer/inner '/run/v1/named/with space'
            sleep 10000 & echo $! > /run/pid
            cat /run/pid > /run/v1/cpu/outer/inner/cgroup.procs
            cat /run/pid > '/run/v1/named/with space/cgroup.procs'
        """,
    )
    if guest.execute("test -s /run/v1/cpu/outer/inner/cgroup.procs").status:
        return  # this kernel has no such controllers any more
    pid = int(guest.run("cat /run/pid"))
    expected = guest.run(f"cat /proc/{pid}/cgroup").splitlines()
    row = look(guest, pids={pid}, facts=Facts.CGROUPS)[pid]
    assert [str(cgroup) for cgroup in row.cgroups or ()] == expected
    assert any("name=systemd:/with space" in line for line in expected)

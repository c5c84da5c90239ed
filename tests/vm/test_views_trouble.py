"""The views of guests in trouble: forking all the time, stopped, panicked, hung; and of dumps of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import virtscope
from lab import Guest
from lab.scenarios import fork_storm, hang, panic
from virtscope.cli import dmesg, ifconfig, ps, uname
from virtscope.errors import GuestVanished
from virtscope.guest import Guest as Outside
from virtscope.host import qmp
from virtscope.kernel.processes import Facts, Process

STEADY = {
    "init",
    "kthreadd",
    "lab-plain",
    "lab-threads",
    "lab-zombie",
    "lab-stopped",
    "lab-title",
    "lab-agent",
}


@contextlib.contextmanager
def looking(guest: Guest) -> Iterator[Outside]:
    with virtscope.open(qemu=str(guest.pid)) as outside:
        yield outside


def names(rows: list[Process]) -> set[str]:
    return {row.comm for row in rows}


def check_steady(rows: list[Process], before: dict[str, Process]) -> None:
    """The processes that have nothing to do with the trouble are all there, as they were."""
    assert names(rows) >= STEADY
    for row in rows:
        known = before.get(row.comm)
        if known is not None and row.comm in STEADY - {"lab-zombie", "lab-agent", "init", "kthreadd"}:
            for field in (
                "pid",
                "ppid",
                "state",
                "sid",
                "uid",
                "args",
                "exe",
                "rss",
                "threads",
                "wchan",
                "start",
            ):
                assert getattr(row, field) == getattr(known, field), (row.comm, field)


@pytest.mark.parametrize(
    "kernel",
    ["6.12", pytest.param("6.1", marks=pytest.mark.matrix), pytest.param("7.x", marks=pytest.mark.matrix)],
)
def test_a_fork_storm(boot: Callable[..., Guest], kernel: str) -> None:
    guest = boot(kernel, smp=2)
    with looking(guest) as outside:
        before = {row.comm: row for row in outside.processes()}
    steady_pids = {row.pid for row in before.values()}
    seen: set[int] = set()
    with fork_storm(guest, alive=30):
        deadline = time.monotonic() + 600
        while len(seen) < 60 and time.monotonic() < deadline:
            with looking(guest) as outside:
                rows = list(outside.processes())
                check_steady(rows, before)
                assert len({row.pid for row in rows}) == len(rows)
                for row in rows:
                    assert row.tgid == row.pid > 0
                    if row.comm == "storm" and row.args:
                        assert row.args[0].endswith("storm")
                        assert row.exe == "/bin/storm"
                        assert (row.uid, row.gid) == (0, 0)
                    if row.comm == "storm":
                        assert row.ppid in {other.pid for other in rows} | {1} or row.state == "Z"
                seen |= {row.pid for row in rows} - steady_pids
        with looking(guest) as outside:
            threads = list(outside.processes(threads=True, facts=Facts.IDS))
            assert names(threads) >= STEADY | {"lab-thread-1"}
    assert len(seen) >= 60  # it was a storm: every look saw others


@pytest.mark.parametrize("kernel", ["6.1", pytest.param("7.x", marks=pytest.mark.matrix)])
def test_a_stopped_a_dumped_and_a_panicked_guest(
    boot: Callable[..., Guest], tmp_path: Path, capsys: pytest.CaptureFixture[str], kernel: str
) -> None:
    guest = boot(kernel)
    with looking(guest) as outside:
        before = {row.comm: row for row in outside.processes()}
        log = list(outside.log())
        network = [(row.name, row.mac, row.mtu, row.master) for row in outside.interfaces()]

    # Stopped by the monitor, and with QEMU itself stopped, which answers no monitor.
    with guest.monitor() as monitor:
        monitor.command("stop")
    with looking(guest) as outside:
        check_steady(list(outside.processes()), before)
    os.kill(guest.pid, signal.SIGSTOP)
    try:
        with pytest.MonkeyPatch.context() as patch, looking(guest) as outside:
            patch.setattr(qmp, "TIMEOUT", 1.0)
            check_steady(list(outside.processes()), before)
            assert [row.text for row in outside.log()][: len(log)] == [row.text for row in log]
    finally:
        os.kill(guest.pid, signal.SIGCONT)

    # A dump says the same as the guest it was made of.
    dump = tmp_path / "guest.core"
    with guest.monitor() as monitor:
        monitor.command("dump-guest-memory", paging=False, protocol=f"file:{dump}")
    with looking(guest) as outside:
        live = [
            list(outside.processes()),
            list(outside.log()),
            list(outside.interfaces()),
            outside.uname(),
        ]
    with virtscope.open(memory=str(dump)) as dumped:
        assert dumped.notes == ()
        assert [
            list(dumped.processes()),
            list(dumped.log()),
            list(dumped.interfaces()),
            dumped.uname(),
        ] == live
    with guest.monitor() as monitor:
        monitor.command("cont")
    for command in (ps, dmesg, uname, ifconfig):
        assert command.main(["-m", str(dump)]) == 0
        assert capsys.readouterr().out
    assert uname.main(["-r", "-m", str(dump)]) == 0
    assert capsys.readouterr().out == f"{guest.kernel.release}\n"
    dump.unlink()

    panic(guest)
    with looking(guest) as outside:
        rows = list(outside.processes())
        check_steady(rows, {})
        assert {row.comm: row.args for row in rows if row.comm == "lab-plain"} == {
            "lab-plain": ("/actors/lab-plain",)
        }
        texts = [row.text for row in outside.log()]
        assert any(text.startswith("Kernel panic - not syncing: sysrq triggered crash") for text in texts)
        assert texts[-1].startswith("---[ end Kernel panic")
        assert [(row.name, row.mac, row.mtu, row.master) for row in outside.interfaces()] == network
        assert outside.uname().nodename == "lab-guest"


def test_a_hung_guest(boot: Callable[..., Guest], capsys: pytest.CaptureFixture[str]) -> None:
    guest = boot("6.1", monitor=True)
    with looking(guest) as outside:
        before = {row.comm: row for row in outside.processes()}
    hang(guest)
    with looking(guest) as outside:
        rows = list(outside.processes())
        check_steady(rows, {name: row for name, row in before.items() if name != "lab-agent"})
        (stuck,) = [row for row in rows if row.comm == "insmod"]
        assert (stuck.state, stuck.wchan) == ("R", "")
        assert outside.uname().nodename == "lab-guest"
    assert ps.main(["-o", "state,args", "-C", "insmod", "--qemu", str(guest.pid)]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["R", "insmod", "/run/spin.ko"]
    assert dmesg.main(["--qemu", str(guest.pid)]) == 0
    # Loading the module that hangs it has left a word behind.
    assert any(line.endswith("lab: about to hang") for line in capsys.readouterr().out.splitlines()[-3:])


def test_several_guests_and_one_that_vanishes(
    boot: Callable[..., Guest], capsys: pytest.CaptureFixture[str]
) -> None:
    # QEMU lets them have one name.
    guests = [boot("6.1", monitor=False, name="twin"), boot("6.12", name="twin")]
    known_as = [f"twin-{guest.pid}" for guest in guests]
    options = [word for guest in guests for word in ("--qemu", str(guest.pid))]
    assert uname.main(["-r", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{name}: {guest.kernel.release}" for name, guest in zip(known_as, guests, strict=True)]
    assert ps.main(["-C", "lab-plain", *options]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["GUEST", "PID", "TTY", "TIME", "CMD"]
    assert [line.split()[0] for line in lines] == known_as
    # One that is none fails, the others are shown.
    assert ps.main(["--json", *options, "--qemu", str(os.getpid())]) == 3
    document = json.loads(capsys.readouterr().out)
    assert {row["guest"] for row in document["rows"]} == set(known_as)
    assert len(document["errors"]) == 1
    # As the console script, too.
    script = "import sys; from virtscope.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", script, "ps", "--timeout", "600", *options], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")

    with looking(guests[0]) as outside:
        assert names(list(outside.processes())) >= STEADY
        guests[0].close()
        with pytest.raises(GuestVanished):
            list(outside.processes())
    assert ps.main(["--qemu", str(guests[0].pid)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1

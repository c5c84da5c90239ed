"""What the four commands print, character by character, and their choice of columns and processes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from virtscope.cli import dmesg, ifconfig, ps, uname
from virtscope.cli.command import Command, Guests
from virtscope.cli.ifconfig_text import address_lines, interface_lines
from virtscope.cli.parser import parse
from virtscope.cli.ps_columns import FACTS
from virtscope.errors import CorruptData, UnknownLayout, UsageError
from virtscope.kernel.addresses import FOREVER, Address
from virtscope.kernel.cgroups import Cgroup
from virtscope.kernel.interface_statistics import Statistics
from virtscope.kernel.log import LogRecord
from virtscope.kernel.namespaces import Namespaces
from virtscope.kernel.network import Interface
from virtscope.kernel.processes import ALL_FACTS, Facts, Process
from virtscope.kernel.uname import Uname

SECOND = 1_000_000_000
NOW = datetime(2026, 3, 4, 15, 6, 7, tzinfo=UTC)

Golden = Callable[[str, str], None]


def process(pid: int, comm: str, **values: Any) -> Process:
    usual: dict[str, Any] = {
        "kernel_thread": False,
        "state": "S",
        "stat": "S",
        "flags": 0x400000,
        "policy": "other",
        "nice": 0,
        "priority": 20,
        "realtime_priority": 0,
        "processor": 0,
        "ppid": 1,
        "pgid": pid,
        "sid": pid,
        "group_leader_gone": False,
        "session_leader_gone": False,
        "tty": "",
        "tpgid": -1,
        "threads": 1,
        "inner_pids": (pid,),
        "start": datetime(2026, 3, 4, 15, 1, 7, 500000, tzinfo=UTC),
        "start_since_boot_ns": 3000 * SECOND + 700_000_000,
        "elapsed_ns": 300 * SECOND,
        "utime_ns": 2 * SECOND,
        "stime_ns": SECOND,
        "cpu_percent": 1.0,
        **dict.fromkeys(("uid", "euid", "suid", "fsuid", "gid", "egid", "sgid", "fsgid"), 0),
        "groups": (),
        "vsz": 4096 * 1000,
        "rss": 4096 * 250,
        "locked": 0,
        "memory_percent": 0.25,
        "args": (comm,),
        "exe": f"/bin/{comm}",
        "cwd": "/",
        "root": "/",
        "cgroups": (Cgroup(0, (), "/"),),
        "namespaces": Namespaces(pid=4026531836, net=4026531840),
        "wchan": "do_wait",
    }
    return Process(pid=pid, tgid=values.pop("tgid", pid), comm=comm, **(usual | values))


PROCESSES = (
    process(
        1,
        "init",
        args=("/sbin/init", "splash"),
        ppid=0,
        stat="Ss",
        utime_ns=90061 * SECOND,
        cpu_percent=99.96,
    ),
    process(
        2,
        "kthreadd",
        kernel_thread=True,
        args=(),
        exe="",
        ppid=0,
        pgid=0,
        sid=0,
        flags=0x208040,
        vsz=0,
        rss=0,
        wchan="",
    ),
    process(
        17,
        "kworker/u8:2+events",
        kernel_thread=True,
        args=(),
        exe="",
        ppid=2,
        pgid=0,
        sid=0,
        state="I",
        stat="I<",
        nice=-20,
        priority=0,
    ),
    process(400, "sshd", args=("sshd: /usr/sbin/sshd -D [listener]", ""), flags=0x400100),
    process(
        4321,
        "bash",
        ppid=400,
        tty="pts/0",
        stat="Ss+",
        tpgid=4321,
        start=datetime(2026, 2, 27, 8, tzinfo=UTC),
        elapsed_ns=458767 * SECOND,
    ),
    process(
        4400,
        "evil\x1b[2J\n",
        ppid=4321,
        pgid=4399,
        sid=4321,
        group_leader_gone=True,
        tty="pts/0",
        euid=1000,
        args=("evil", "\x1b]0;owned\x07", "\u202egnp.exe", "\udcff", "ünï"),
        state="R",
        stat="R+",
        wchan="",
    ),
    process(4401, "done", ppid=4321, state="Z", stat="Z", args=(), exe="", vsz=0, rss=0),
    process(
        4500,
        "swapped",
        ppid=400,
        args=None,
        state="D",
        stat="D",
        wchan=None,
        nice=10,
        priority=30,
        start=datetime(2024, 1, 1, tzinfo=UTC),
        elapsed_ns=70 * 86400 * 10 * SECOND,
    ),
    process(5000, "rt", ppid=1, policy="fifo", priority=-51, realtime_priority=50, threads=12, stat="Sl"),
    Process(pid=5001, tgid=5001, comm="unknown"),
)


@pytest.fixture
def run_ps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    asked: list[dict[str, Any]] = []

    def fake(_kernel: object, **options: Any) -> Iterator[Process]:
        asked.append(options)
        return iter(PROCESSES)

    monkeypatch.setattr(ps, "processes", fake)
    guest: Any = SimpleNamespace(kernel=SimpleNamespace(has_types=True))
    command = replace(ps.COMMAND, guests=Guests.NONE, rows=lambda _guest, args: ps._rows(guest, args))

    def run(*arguments: str, code: int = 0) -> str:
        assert command.main(arguments) == code
        return capsys.readouterr().out

    return run


def rows_of(command: Command, rows: tuple[Any, ...]) -> Command:
    return replace(command, guests=Guests.NONE, rows=lambda _guest, _args: iter(rows))


@pytest.mark.parametrize(
    "options",
    [
        *("-e", "-ef", "-l", "-elf", "-j", "-ejl", "-eL", "-eLf", "-F", "-jH", "-f --forest"),
        *("ax", "aux", "axl", "axjf", "aux -L", "axH", "axc", "ax -f", "ax -l"),
    ],
)
def test_formats_of_ps(run_ps: Callable[..., str], golden: Golden, options: str) -> None:
    golden(f"ps/{options.replace(' ', '')}.txt", run_ps(*options.split()))


def test_options_without_a_dash(run_ps: Callable[..., str]) -> None:
    everything = run_ps("aux")
    for words in (["-aux"], ["a", "u", "x"], ["axu"], ["-axu"], ["auxww"], ["uaxgn"]):
        assert run_ps(*words) == everything, words
    assert run_ps("axf") == run_ps("ax", "--forest")
    assert run_ps("auxr") == run_ps("aux", "-r")
    assert run_ps("auxh") == run_ps("aux", "-n")
    assert run_ps("axo", "pid,comm") == run_ps("ax", "-o", "pid,comm") == run_ps("-o", "pid,comm")
    assert run_ps("axopid,comm") == run_ps("-o", "pid,comm")
    assert run_ps("axok-pid", code=2) == ""
    assert run_ps("axk-pid") == run_ps("ax", "--sort", "-pid")
    assert run_ps("u", "1", "400") == run_ps("u", "-p", "1,400") == run_ps("up", "1 400")
    assert run_ps("axU", "1000") == run_ps("ax", "-u", "1000")
    with_terminal = run_ps("ao", "tty=").split()
    assert with_terminal == run_ps("at", "pts/0", "o", "tty=").split() == ["pts/0", "pts/0"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("auxT", "T in 'auxT': what is this terminal is known only inside the guest: choose one with t"),
        ("axe", "e in 'axe': the environment of processes is not read"),
        ("web", "'web' is no process id, and 'b' is no option"),
        ("1x", "'1x' is not a list of process ids"),
        ("axu l", "l and u are both formats: give one"),
        ("aux -f", "u and another option both say which columns to show: give one"),
        ("aux -o pid", "u and another option both say which columns to show: give one"),
        ("axo", "o in 'axo' takes a list"),
        ("axU alice", "'alice': users are given by number"),
        ("axfk pid", "--forest and -H put processes below their parents"),
    ],
)
def test_words_that_virt_ps_does_not_take(
    run_ps: Callable[..., str], capsys: pytest.CaptureFixture[str], words: str, sentence: str
) -> None:
    assert ps.main([*words.split(), "-m", "dump"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("virt-ps: ")
    assert sentence in captured.err
    assert captured.err.count("\n") == 1


def test_widths_of_columns(run_ps: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_ps("-p", "1,400", "-o", "pid:8,comm:3,wchan:9=WAITS,args:2").splitlines() == [
        "     PID COM WAITS     COMMAND",
        "       1 ini do_wait   /sbin/init splash",
        "     400 ssh do_wait   sshd: /usr/sbin/sshd -D [listener]",
    ]
    # A number is never cut.
    assert run_ps("-p", "4400", "-o", "pid:2=,comm=").startswith("4400 ")
    assert "/sbin/init splash" in run_ps("-p", "1", "--csv", "-o", "args:3,pid")
    (row,) = json.loads(run_ps("-p", "1", "--json", "-o", "args:3,pid"))["rows"]
    assert row == {"args": "/sbin/init splash", "pid": 1}
    for wrong in ("pid:", "pid:0", "pid:x", "pid:99999", "pid:-1"):
        assert ps.main(["-o", wrong, "-m", "dump"]) == 2
        sentence = f"virt-ps: {wrong}: a column's width is a whole number from 1 to 9999\n"
        assert capsys.readouterr() == ("", sentence)


def test_wait_channels_are_shown_as_ps_does(
    monkeypatch: pytest.MonkeyPatch, run_ps: Callable[..., str]
) -> None:
    row = process(1, "init", wchan="__do_sys_pause")
    monkeypatch.setattr(ps, "processes", lambda _kernel, **_: iter([row]))
    assert run_ps("-o", "wchan=").strip() == "do_sys_pause"
    assert json.loads(run_ps("-o", "wchan", "--json"))["rows"][0]["wchan"] == "__do_sys_pause"


def test_every_column_of_ps(run_ps: Callable[..., str], golden: Golden) -> None:
    for start in range(0, len(ps.COMMAND.columns), 10):
        names = [column.name for column in ps.COMMAND.columns[start : start + 10]]
        golden(f"ps/columns-{start // 10}.txt", run_ps("-o", ",".join(["pid", *names])))


def test_aliases_and_headings(run_ps: Callable[..., str]) -> None:
    assert run_ps("-p", "1", "-o", "%cpu,rsz,tname,command").splitlines() == [
        " %CPU   RSS TTY      COMMAND",
        "100.0  1000 ?        /sbin/init splash",
    ]
    assert run_ps("-p", "1", "-o", "pid=,comm=") == "    1 init\n"
    assert run_ps("-p", "1", "-o", "pid=ID,comm").splitlines()[0].split() == ["ID", "COMMAND"]


def test_ps_as_json_and_csv(run_ps: Callable[..., str], golden: Golden) -> None:
    document = json.loads(run_ps("--json"))
    assert [row["pid"] for row in document["rows"]] == [row.pid for row in PROCESSES]
    assert document["rows"][4]["start"] == "2026-02-27T08:00:00Z"
    assert document["rows"][5]["args"][3].encode("utf-8", "surrogateescape") == b"\xff"
    assert document["rows"][-1]["state"] is None
    (chosen,) = json.loads(run_ps("--json", "-o", "pgleader,rss,time,cgroup,stime", "-p", "4400"))["rows"]
    assert chosen == {
        "pgleader": 4399,
        "rss": 1024000,
        "time": 3.0,
        "cgroup": "0::/",
        "stime": "2026-03-04T15:01:07.500000Z",
    }
    golden("ps/chosen.csv", run_ps("--csv", "-o", "pid,tty,comm,args,rss,start"))


@pytest.mark.parametrize(("user", "system", "shown"), [(505, 496, "00:00:00"), (510, 490, "00:00:01")])
def test_user_and_system_time_are_rounded_before_they_are_added(
    monkeypatch: pytest.MonkeyPatch, run_ps: Callable[..., str], user: int, system: int, shown: str
) -> None:
    # 0.505 s and 0.496 s are 50 and 49 ticks in /proc: less than a second, as ps adds them.
    row = process(1, "init", utime_ns=user * 1_000_000, stime_ns=system * 1_000_000)
    monkeypatch.setattr(ps, "processes", lambda _kernel, **_: iter([row]))
    assert run_ps("-e", "-o", "time=").strip() == shown


def test_choosing_processes(run_ps: Callable[..., str]) -> None:
    def chosen(*options: str, code: int = 0) -> list[int]:
        return [int(line) for line in run_ps("-o", "pid=", *options, code=code).split()]

    assert chosen("-p", "1,400 5000", "-p", "2") == [1, 2, 400, 5000]
    assert chosen("-C", "bash,sshd") == [400, 4321]
    assert chosen("-C", "kworker/u8:2+events") == [17]
    assert chosen("-u", "1000") == [4400]
    assert chosen("--ppid", "400") == [4321, 4500]
    assert chosen("-s", "4321") == [4321, 4400]
    assert chosen("-t", "/dev/pts/0", "-p", "1") == [1, 4321, 4400]
    assert chosen("-r") == [4400]
    assert chosen("--state", "DZ") == [4401, 4500]
    assert chosen("--state", "D", "-p", "1", code=1) == []
    assert chosen("--sort", "-pid", "-p", "1,2,17") == [17, 2, 1]
    assert chosen("--sort", "start,pid", "-p", "17,4321,4500,5001") == [4500, 4321, 17, 5001]


def test_only_what_is_shown_is_read() -> None:
    def facts(*arguments: str) -> Facts:
        args = parse(ps.COMMAND, arguments)
        assert ps.COMMAND.check is not None
        ps.COMMAND.check(args)
        return ps._facts(args)

    assert facts() == facts("-e") == Facts.IDS | Facts.TIMES
    assert facts("-o", "pid,comm") == Facts(0)
    assert facts("-o", "pid,rss", "--sort", "-cmd") == Facts.MEMORY | Facts.ARGUMENTS
    assert facts("-u", "0", "-o", "pid") == Facts.CREDENTIALS
    assert facts("--json") == ALL_FACTS
    assert facts("--json", "-o", "exe") == Facts.PATHS
    assert facts("-o", "pid,rss:12,exe=THE PROGRAM") == Facts.MEMORY | Facts.PATHS
    assert facts("ao", "pid") == Facts.IDS
    assert Facts.WAIT in facts("-l")
    assert Facts.CREDENTIALS | Facts.MEMORY | Facts.ARGUMENTS in facts("aux")
    assert {column.name for column in ps.COMMAND.columns} == set(FACTS)


def test_what_ps_cannot_do_is_said(run_ps: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (("-u", "alice"), "users are given by number"),
        (("-p", "x"), "'x' is not a list of process ids"),
        (("--state", "Q"), "'Q' are not states"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run_ps(*arguments)
        assert stopped.value.code == 2
        assert words in capsys.readouterr().err
    run_ps("--forest", "--sort", "pid", code=2)


def test_without_types_processes_are_not_chosen_by_what_is_not_known() -> None:
    guest: Any = SimpleNamespace(kernel=SimpleNamespace(has_types=False))
    args = argparse.Namespace(
        pid=None,
        names=None,
        user=[[0]],
        ppid=None,
        sid=None,
        tty=None,
        running=False,
        state=None,
        with_terminal=False,
    )
    with pytest.raises(UnknownLayout, match="cannot be chosen by anything else"):
        ps._rows(guest, args)


def test_a_tree_of_processes_that_are_each_others_parents_ends(
    run_ps: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [process(7, "a", ppid=8), process(8, "b", ppid=7), process(9, "self", ppid=9)]

    def broken(_kernel: object, **_options: Any) -> Iterator[Process]:
        yield from rows
        raise CorruptData("the task list loops")

    monkeypatch.setattr(ps, "processes", broken)
    assert [line.split()[0] for line in run_ps("--forest", "-n", code=3).splitlines()] == ["9", "7", "8"]


# The log

RECORDS = (
    LogRecord(0, 0, None, "notice", "kern", "Linux version 9.8.7", "T0", None, {}, False, 0),
    LogRecord(
        7,
        123_456_789_012,
        datetime(2026, 3, 4, 15, 6, 7, 500000, tzinfo=UTC),
        "err",
        "kern",
        "usb 1-1: device\tnot accepting\nsecond line\nthird",
        "T12",
        "kworker/0:1",
        {"SUBSYSTEM": "usb", "DEVICE": "c189:0"},
        False,
        6,
    ),
    LogRecord(
        8, 99_999_123_456_789, NOW, "emerg", "local7", "\x1b[31mred\x07 \udcff", "C3", None, {}, True, 0
    ),
    LogRecord(9, 99_999_999_999_999, NOW, "debug", "42", "", None, None, {}, False, 0),
)


@pytest.mark.parametrize(
    "options", ["", "-T", "-x", "-r", "-t", "-T -x", "--color always", "-o sequence,time,fields,text"]
)
def test_formats_of_dmesg(capsys: pytest.CaptureFixture[str], golden: Golden, options: str) -> None:
    assert rows_of(dmesg.COMMAND, RECORDS).main(options.split()) == 0
    golden(f"dmesg/{options.replace(' ', '') or 'default'}.txt", capsys.readouterr().out)


def test_dmesg_chooses_records(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("virtscope.kernel.log.log", lambda _kernel, **_options: iter(RECORDS))
    monkeypatch.setattr(
        "virtscope.kernel.clocks.read_clocks",
        lambda _kernel: SimpleNamespace(since_boot_ns=100_000 * SECOND, boot_ns=1_700_000_000 * SECOND),
    )
    guest: Any = SimpleNamespace(kernel=None)
    command = replace(dmesg.COMMAND, guests=Guests.NONE, rows=lambda _guest, args: dmesg._rows(guest, args))

    def chosen(*options: str) -> list[int]:
        assert command.main(["-o", "sequence", "-n", *options]) == 0
        return [int(line) for line in capsys.readouterr().out.split()]

    assert chosen("-l", "err,debug") == [7, 9]
    assert chosen("-l", "err+") == [7, 8]
    assert chosen("-l", "+notice") == [0, 9]
    assert chosen("-f", "local7") == [8]
    assert chosen("-k") == [0, 7]
    assert chosen("-u") == [8, 9]
    assert chosen("--since", "1") == [8, 9]
    assert chosen("--since", "2023-11-15T00:00") == [8, 9]
    for bad in (["-l", "loud"], ["-f", "mars"], ["--since", "yesterday"]):
        with pytest.raises(SystemExit):
            chosen(*bad)
    for contradiction in (["-T", "-t"], ["-x", "-r"], ["-k", "-u"]):
        assert command.main(contradiction) == 2


# The name

UNAME = Uname(
    *("Linux", "web\x1b1", "9.8.7-test", "#1 SMP Test", "x86_64", "(none)"),
    operating_system="GNU/Linux",
    banner="Linux version 9.8.7-test",
    build_id=None,
    arch="x86_64",
)


def test_uname(capsys: pytest.CaptureFixture[str]) -> None:
    command = rows_of(uname.COMMAND, (UNAME,))

    def shown(*options: str) -> str:
        assert command.main(options) == 0
        return capsys.readouterr().out.rstrip("\n")

    assert shown() == "Linux"
    assert shown("-a") == "Linux web\\x1b1 9.8.7-test #1 SMP Test x86_64 GNU/Linux"
    assert shown("-o", "-s") == "Linux GNU/Linux"
    assert shown("-pi") == "unknown unknown"
    assert shown("-mr") == "9.8.7-test x86_64"
    assert shown("-m") == "x86_64"
    assert json.loads(shown("--json"))["rows"][0]["build_id"] is None


def test_uname_takes_a_dump_with_m(tmp_path: Any) -> None:
    dump = tmp_path / "r"
    dump.touch()
    for arguments in (["-m", str(dump)], [f"-m{dump}"], ["--memory", str(dump)], ["-r", "-m", "web.core"]):
        args = parse(uname.COMMAND, arguments)
        assert args.memory == [arguments[-1].removeprefix("-m")]
        assert not args.show_machine
    assert parse(uname.COMMAND, ["-m"]).show_machine


# The network


def address(text: str, prefix: int, *, scope: str = "global", **values: Any) -> Address:
    usual: dict[str, Any] = {"peer": "", "broadcast": "", "label": "", "flags": ()}
    usual |= {"valid_seconds": FOREVER, "preferred_seconds": FOREVER}
    family = "inet6" if ":" in text else "inet"
    return Address(family=family, address=text, prefix=prefix, scope=scope, **(usual | values))


def interface(name: str, **values: Any) -> Interface:
    usual: dict[str, Any] = {
        "namespace": 4026531840,
        "namespace_name": None,
        "is_initial_namespace": True,
        "index": 2,
        "flags": ("BROADCAST", "MULTICAST", "UP", "LOWER_UP"),
        "flags_value": 0x11043,
        "mtu": 1500,
        "qdisc": "fq_codel",
        "state": "up",
        "master": "",
        "type": "ether",
        "kind": "",
        "link_index": None,
        "link_name": "",
        "link_namespace": None,
        "link_namespace_name": None,
        "link_namespace_id": None,
        "mac": "52:54:00:12:34:56",
        "broadcast": "ff:ff:ff:ff:ff:ff",
        "queue_length": 1000,
        "group": 0,
        "addresses": (),
        "statistics": Statistics(),
        "statistics_unknown": "",
    }
    return Interface(name=name, **(usual | values))


INTERFACES = (
    interface(
        "lo",
        index=1,
        flags=("LOOPBACK", "UP", "LOWER_UP"),
        flags_value=0x10049,
        mtu=65536,
        qdisc="noqueue",
        state="unknown",
        type="loopback",
        mac="00:00:00:00:00:00",
        broadcast="00:00:00:00:00:00",
        addresses=(address("127.0.0.1", 8, scope="host", label="lo"), address("::1", 128, scope="host")),
        statistics=Statistics(rx_packets=5, tx_packets=5, rx_bytes=1024, tx_bytes=1025),
    ),
    interface(
        "eth10",
        index=11,
        statistics=None,
        statistics_unknown="its driver counts in igb_get_stats64, which is not known here",
        addresses=(
            address(
                "192.0.2.10",
                24,
                broadcast="192.0.2.255",
                label="eth10",
                flags=("dynamic",),
                valid_seconds=86390,
                preferred_seconds=None,
            ),
            address("192.0.2.11", 24, label="eth10", flags=("secondary",)),
            address("198.51.100.1", 32, label="eth10:web"),
            address(
                "2001:db8::1",
                64,
                flags=("deprecated", "dynamic", "mngtmpaddr"),
                valid_seconds=60,
                preferred_seconds=0,
            ),
            address("fe80::1", 64, scope="link"),
        ),
    ),
    interface(
        "eth2",
        flags=("NO-CARRIER", "BROADCAST", "MULTICAST", "UP"),
        flags_value=0x1003,
        state="down",
        master="br0",
        kind="vlan",
        link_index=11,
        link_name="eth10",
        group=7,
        queue_length=0,
        statistics=Statistics(
            rx_packets=10**6,
            rx_bytes=123456789012,
            rx_errors=3,
            rx_dropped=4,
            rx_missed_errors=5,
            rx_fifo_errors=6,
            rx_length_errors=1,
            rx_crc_errors=2,
            tx_packets=7,
            tx_bytes=1048577,
            tx_errors=8,
            tx_dropped=9,
            tx_fifo_errors=10,
            tx_carrier_errors=11,
            tx_aborted_errors=12,
            collisions=13,
            multicast=14,
        ),
    ),
    interface(
        "tun0",
        index=5,
        flags=("POINTOPOINT", "MULTICAST", "NOARP", "UP", "LOWER_UP"),
        flags_value=0x110D1,
        type="none",
        kind="tun",
        mac="",
        broadcast="",
        queue_length=500,
        state="unknown",
        addresses=(address("10.8.0.6", 32, peer="10.8.0.5", label="tun0"),),
    ),
    interface(
        "tunl0",
        index=6,
        flags=("NOARP",),
        flags_value=0x80,
        type="ipip",
        kind="ipip",
        mac="0a:00:00:01",
        broadcast="00:00:00:00",
        state="down",
        qdisc="noop",
    ),
    interface(
        "veth1",
        index=2,
        namespace=4026532281,
        namespace_name="blue",
        is_initial_namespace=False,
        kind="veth",
        link_index=8,
        link_namespace=4026531840,
        link_namespace_id=0,
        addresses=(address("10.1.0.2", 24, label="veth1"),),
    ),
)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "-a",
        "-s -a",
        "--ip",
        "--ip --statistics",
        "eth10:web",
        "-o name,inet,inet6,flags,rx_bytes",
        "--csv",
    ],
)
def test_formats_of_ifconfig(capsys: pytest.CaptureFixture[str], golden: Golden, options: str) -> None:
    notes: list[str] = []
    guest: Any = SimpleNamespace(interfaces=lambda: iter(INTERFACES), kernel=SimpleNamespace(notes=notes))
    command = replace(
        ifconfig.COMMAND, guests=Guests.NONE, rows=lambda _guest, args: ifconfig._rows(guest, args)
    )
    assert command.main(options.split()) == 0
    golden(f"ifconfig/{options.replace(' ', '') or 'default'}.txt", capsys.readouterr().out)
    sentence = (
        "the counters of eth10 are not known: its driver counts in igb_get_stats64, which is not known here"
    )
    assert notes == ([] if options == "--ip" else [sentence])


def test_interfaces_are_sorted_as_people_count() -> None:
    names = [line.text.split(":")[0] for line in interface_lines(INTERFACES) if "flags=" in line.text]
    assert names == ["eth2", "eth10", "eth10", "lo", "tun0", "tunl0", "veth1"]
    by_number = [line.text.split(":")[0] for line in address_lines(INTERFACES) if "<" in line.text]
    assert by_number == ["1", "11", "2", "5", "6", "2"]


def test_ifconfig_options_that_contradict_each_other() -> None:
    check = ifconfig.COMMAND.check
    assert check is not None
    for options in (["--ip", "-s"], ["--statistics"]):
        args = parse(ifconfig.COMMAND, options)
        with pytest.raises(UsageError):
            check(args)

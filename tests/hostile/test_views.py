"""The views of guests that lie: whatever is in memory, they end, and only with errors of virtscope's own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.kernel_views.linux import Linux
from tests.unit.kernel_views.test_log import RingWriter, ring_world
from tests.unit.kernel_views.world import BASE, World
from virtscope.cli import ps
from virtscope.errors import CorruptData, VirtscopeError
from virtscope.kernel.addresses import ipv6
from virtscope.kernel.log import log
from virtscope.kernel.processes import Facts, Process, processes
from virtscope.kernel.uname import uname

READS = 200_000


class Limited(Linux):
    """Fails the test when a view reads without end."""

    def read(self, address: int, size: int) -> bytes:
        assert self.reads < READS, "a view does not end"
        assert size <= 1 << 24, "a view asks for more than can be"
        return super().read(address, size)


def small_guest(*, is_live: bool = False) -> Limited:
    world = Limited(is_live=is_live)
    init = world.process(1, "init")
    for pid in range(2, 9):
        world.process(pid, f"p{pid}", parent=init, sid=1)
    tty = world.new("tty_struct", name="pts3", pgrp=world.pid(7))
    world.poke("signal_struct", world.look("task_struct", world.tasks[3])["signal"], "tty", tty)
    return world


def consume(rows: Iterator[Process]) -> list[Process]:
    found: list[Process] = []
    with suppress(VirtscopeError):
        found.extend(rows)
    return found


def show(rows: list[Process]) -> None:
    """Every column can show whatever was read."""
    for row in rows:
        for column in ps.COMMAND.columns:
            column.show(column.value(row))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 200), st.booleans(), st.booleans())
@example(0, 200, True, True)
def test_processes_of_damaged_memory(seed: int, damages: int, is_live: bool, threads: bool) -> None:
    world = small_guest(is_live=is_live)
    chance = random.Random(seed)
    used = world._end - BASE
    for _ in range(damages):
        at = chance.randrange(0, used - 8) & ~7
        world.data[at : at + 8] = chance.choice(
            (
                bytes(8),
                b"\xff" * 8,
                chance.randbytes(8),
                (BASE + chance.randrange(0, used)).to_bytes(8, "little"),
                world.data[at - 8 : at] if at else bytes(8),
            )
        )
    show(consume(processes(world, facts=~Facts.WAIT, threads=threads)))


@settings(deadline=None)
@given(st.binary(max_size=2000), st.integers(0, 60))
def test_a_log_of_anything(damage: bytes, place: int) -> None:
    writer = RingWriter(4, 9)
    for number in range(30):
        writer.write(b"record %d" % number)
    world = ring_world(writer)
    start = place * 50
    world.on_refresh = lambda: None
    world.data[4096 + start : 4096 + start + len(damage)] = damage
    with suppress(VirtscopeError):
        rows = list(log(world, wall_time=False))
        assert len(rows) <= 1 << 24


@settings(deadline=None)
@given(st.binary(min_size=600, max_size=600))
def test_a_name_of_anything(content: bytes) -> None:
    world = World({})
    world.symbols["init_uts_ns"] = BASE
    world.data[: len(content)] = content
    with pytest.raises(CorruptData):
        uname(world)
    world.data[8:14] = b"Linux\0"
    world.release = content[138 : 138 + 65].split(b"\0")[0].decode("utf-8", "surrogateescape")
    with suppress(VirtscopeError):
        assert uname(world).sysname == "Linux"


def spoil(world: Linux, name: str, address: int, path: str, value: Any) -> Callable[[], None]:
    return lambda: world.poke(name, address, path, value)


def test_claims_that_cannot_be() -> None:
    """Each makes one fact unknown, with a note that says why, and leaves the others alone."""
    world = small_guest()
    task = world.look("task_struct", world.tasks[0])
    mm = world.look("mm_struct", task["mm"])
    cred = world.look("cred", task["real_cred"])
    fs = world.look("fs_struct", task["fs"])
    pid = task["thread_pid"]
    claims: list[tuple[str, int, str, Any, str]] = [
        ("group_info", cred["group_info"], "ngroups", -1, "claims to be in -1 groups"),
        ("group_info", cred["group_info"], "ngroups", 1 << 30, "claims to be in 1073741824 groups"),
        ("pid", pid, "level", 1 << 20, "nested PID namespaces"),
        ("mm_struct", mm.address, "arg_end", 1, "before it begins"),
        ("dentry", fs["pwd.dentry"], "d_name.len", 1 << 31, "a name of 2147483648 bytes"),
        ("dentry", fs["pwd.dentry"], "d_parent", fs["pwd.dentry"], ""),
        ("mount", world.mount, "mnt_parent", world.mount + 8, ""),
        ("mm_struct", mm.address, "exe_file", 8, "leads to 0x8"),
    ]
    for struct, address, path, value, sentence in claims:
        world = small_guest()
        world.poke(struct, address, path, value)
        rows = list(processes(world, facts=~Facts.WAIT))
        assert [row.pid for row in rows] == list(range(1, 9))
        assert any(sentence in note for note in world.notes) or not sentence
        assert rows[0].comm == "init"
        assert rows[0].state == "S"


def test_paths_without_end() -> None:
    world = small_guest()
    loop = world.dentry(b"a", b"b")
    world.poke("dentry", world.look("dentry", loop)["d_parent"], "d_parent", loop)
    fs = world.look("task_struct", world.tasks[0])["fs"]
    world.poke("fs_struct", fs, "pwd.dentry", loop)
    rows = list(processes(world, facts=Facts.PATHS))
    assert rows[0].cwd is None
    assert rows[1].cwd == "/tmp"
    assert "has no end" in world.notes[0]


def test_arguments_of_any_length_are_read_up_to_a_limit() -> None:
    world = small_guest()
    mm = world.look("task_struct", world.tasks[0])["mm"]
    start = world.look("mm_struct", mm)["arg_start"]
    world.poke("mm_struct", mm, "arg_end", start + (1 << 40))
    for page in range(64):
        world.user[(start >> 12) + page] = b"x" * 4095 + b"\0"
    row = next(processes(world, facts=Facts.ARGUMENTS))
    assert row.args is not None
    assert sum(len(arg) + 1 for arg in row.args) == 1 << 17


def test_a_thread_list_that_loops() -> None:
    world = small_guest()
    signal = world.look("task_struct", world.tasks[2])["signal"]
    node = world.at("task_struct", world.tasks[2], "thread_node")
    world.poke("signal_struct", signal, "nr_threads", 3)
    world.poke("task_struct", world.tasks[2], "thread_node.next", node)
    rows = list(processes(world, facts=Facts.IDS, threads=True))
    assert [row.pid for row in rows] == list(range(1, 9))
    assert any("loops" in note for note in world.notes)
    (row,) = [row for row in processes(world, facts=Facts.TIMES) if row.pid == 3]
    assert row.utime_ns is None


def test_a_process_tree_of_circles_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    world = small_guest()
    world.poke("task_struct", world.tasks[1], "real_parent", world.tasks[2])
    world.poke("task_struct", world.tasks[2], "real_parent", world.tasks[1])
    guest: Any = SimpleNamespace(kernel=world)
    from virtscope.cli.parser import parse

    args = parse(ps.COMMAND, ["--forest"])
    assert ps.COMMAND.check is not None
    ps.COMMAND.check(args)
    rows = list(ps._rows(guest, args))
    assert sorted(row.pid for row in rows) == list(range(1, 9))


@given(st.binary(min_size=16, max_size=16))
@example(bytes(15) + b"\1")
@example(bytes(16))
@example(bytes(10) + b"\xff\xff\1\2\3\4")
@example(b"\0\1" + bytes(2) + b"\0\1" + bytes(2) + b"\0\1" + bytes(6))
def test_ipv6_addresses_are_written_as_everybody_else_does(address: bytes) -> None:
    from ipaddress import IPv6Address
    from socket import AF_INET6, inet_pton

    written = ipv6(address)
    assert inet_pton(AF_INET6, written) == address
    if "." not in written:
        assert written == str(IPv6Address(address))

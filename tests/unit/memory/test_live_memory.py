"""Reading another process: every kind of mapping, without touching what the process never touched."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from virtscope.errors import GuestMemoryError, GuestVanished, MemoryHole
from virtscope.memory.live import HostRange, LiveMemory, process_start_time
from virtscope.memory.mappings import Mapping, joined_mappings, writable_mappings
from virtscope.memory.pagemap import PAGE_SIZE, runs
from virtscope.memory.physical import Segment

MIB = 1 << 20
SIZE = 16 * MIB

CHILD = """
import ctypes, mmap, os, sys
kind, path = sys.argv[1:]
size = 16 << 20
if kind == "anonymous":
    area = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
elif kind == "shared anonymous":
    area = mmap.mmap(-1, size)
elif kind == "memfd":
    fd = os.memfd_create("guest-ram")
    os.ftruncate(fd, size)
    area = mmap.mmap(fd, size)
else:
    fd = os.open(path, os.O_RDWR)
    area = mmap.mmap(fd, size, mmap.MAP_SHARED if kind == "shared file" else mmap.MAP_PRIVATE)
    if kind == "closed file":
        os.close(fd)
for offset in range(0, size, 4 << 20):
    area[offset + 100 : offset + 104] = b"mark"
print(ctypes.addressof(ctypes.c_char.from_buffer(area)), flush=True)
sys.stdin.read()
"""

KINDS = ("anonymous", "shared anonymous", "memfd", "shared file", "private file", "closed file")
IS_BACKED_BY_FILE = ("shared file", "private file", "closed file")


@contextmanager
def child(kind: str, directory: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that maps 16 MiB and writes into four of its pages; and the address."""
    path = directory / "ram"
    with path.open("wb") as file:
        file.truncate(SIZE)
        file.seek(5 * MIB)
        file.write(b"from the file")
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, kind, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def footprint(pid: int, address: int) -> tuple[int, list[int]]:
    """The pages mapped in the child's area, zero pages too, and the blocks of the files it has open."""
    with open(f"/proc/{pid}/pagemap", "rb") as file:
        file.seek(address // PAGE_SIZE * 8)
        entries = file.read(SIZE // PAGE_SIZE * 8)
    links = [f"/proc/{pid}/fd/{fd}" for fd in sorted(os.listdir(f"/proc/{pid}/fd"))]
    return sum(flags >> 7 for flags in entries[7::8]), [os.stat(link).st_blocks for link in links]


@pytest.fixture(params=["/dev/shm", None], ids=["tmpfs", "disk"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param is None:
        yield tmp_path
        return
    path = Path(request.param) / f"virtscope-test-{os.getpid()}"
    path.mkdir(exist_ok=True)
    yield path
    (path / "ram").unlink()
    path.rmdir()


@pytest.mark.parametrize("kind", KINDS)
def test_reads_what_the_process_sees_and_touches_nothing(kind: str, directory: Path) -> None:
    with child(kind, directory) as (process, address):
        before = footprint(process.pid, address)
        with LiveMemory(process.pid, [HostRange(0x100000, SIZE, address)]) as memory:
            content = b"".join(memory.read(0x100000 + at, MIB) for at in range(0, SIZE, MIB))
            for at in range(0, SIZE, PAGE_SIZE):
                assert memory.read(0x100000 + at, 8) == content[at : at + 8]
            assert memory.read(0x100000, SIZE) == content
            populated = list(memory.populated())
        assert footprint(process.pid, address) == before
        expected = bytearray(SIZE)
        for at in range(0, SIZE, 4 * MIB):
            expected[at + 100 : at + 104] = b"mark"
        if kind in IS_BACKED_BY_FILE:
            expected[5 * MIB : 5 * MIB + 13] = b"from the file"
        assert content == expected
        # What is not populated is zero, and what is populated is not the whole.
        rest = bytearray(content)
        for segment in populated:
            rest[segment.start - 0x100000 : segment.end - 0x100000] = bytes(segment.size)
        assert not any(rest)
        assert sum(segment.size for segment in populated) <= 12 * MIB


@pytest.mark.parametrize("can_scan", [True, False])
def test_populated_on_kernels_with_and_without_the_scan_call(can_scan: bool, tmp_path: Path) -> None:
    with (
        child("anonymous", tmp_path) as (process, address),
        LiveMemory(process.pid, [HostRange(0, SIZE, address)]) as memory,
    ):
        memory._pagemap._can_scan = can_scan
        found = list(memory.populated())
        assert sum(segment.size for segment in found) < SIZE
        for at in range(0, SIZE, 4 * MIB):
            assert any(segment.start <= at + 100 < segment.end for segment in found)
        assert [segment for segment in memory.populated(100, 104) if segment.size] == [Segment(100, 4)]


@pytest.mark.parametrize("kind", ["anonymous", "memfd", "private file"])
def test_a_process_that_ends_is_said_to_have_ended(kind: str, tmp_path: Path) -> None:
    with child(kind, tmp_path) as (process, address):
        memory = LiveMemory(process.pid, [HostRange(0, SIZE, address)], name="web1")
        assert memory.read(100, 4) == b"mark"
        process.kill()
        process.wait()
        with pytest.raises(GuestVanished, match="web1"):
            memory.read(100, 4)
        with pytest.raises(GuestVanished, match="web1"):
            memory.read(2 * MIB, 4)  # never written: a guess would be zeros
        with pytest.raises(GuestVanished, match="web1"):
            list(memory.populated())
        memory.close()


def test_no_such_process() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(GuestVanished):
        LiveMemory(process.pid, [])


def test_a_reused_pid_is_noticed() -> None:
    with pytest.raises(GuestVanished):
        LiveMemory(os.getpid(), [], start_time=process_start_time(os.getpid()) - 1)


def test_a_stopped_process_is_read(tmp_path: Path) -> None:
    with child("anonymous", tmp_path) as (process, address):
        process.send_signal(signal.SIGSTOP)
        with LiveMemory(process.pid, [HostRange(0, SIZE, address)]) as memory:
            assert memory.read(100, 4) == b"mark"


def test_a_range_that_is_not_memory_is_refused() -> None:
    with pytest.raises(GuestMemoryError, match="0x1000"):
        LiveMemory(os.getpid(), [HostRange(0, PAGE_SIZE, 0x1000)])


def test_ranges_become_segments_and_holes_stay() -> None:
    area = mmap.mmap(-1, 4 * PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(4):
        area[page * PAGE_SIZE : page * PAGE_SIZE + 1] = b"%d" % page

    pin = ctypes.c_char.from_buffer(area)
    base = ctypes.addressof(pin)
    low = HostRange(0, 2 * PAGE_SIZE, base)
    high = HostRange(1 << 32, 2 * PAGE_SIZE, base + 2 * PAGE_SIZE)
    with LiveMemory(os.getpid(), [high, low]) as memory:
        assert memory.read(PAGE_SIZE, 1) == b"1"
        assert memory.read((1 << 32) + PAGE_SIZE, 1) == b"3"
        with pytest.raises(MemoryHole):
            memory.read(2 * PAGE_SIZE - 4, 8)
    del pin


def test_identity_names_the_process_for_good() -> None:
    with LiveMemory(os.getpid(), []) as first, LiveMemory(os.getpid(), []) as second:
        assert first.identity == second.identity
        assert first.identity is not None
        assert first.identity.startswith(f"{os.getpid()}:")
    with LiveMemory(os.getppid(), []) as other:
        assert other.identity != first.identity


def test_page_roots_are_asked_once_and_failing_is_a_note() -> None:
    from virtscope.errors import MonitorError

    asked = []

    def ask() -> tuple[int, ...]:
        asked.append(1)
        return (0x1000,)

    def fail() -> tuple[int, ...]:
        raise MonitorError("monitor x did not answer")

    with LiveMemory(os.getpid(), [], page_roots=ask) as memory:
        assert memory.page_roots() == memory.page_roots() == (0x1000,)
        assert len(asked) == 1
    with LiveMemory(os.getpid(), [], page_roots=fail) as memory:
        assert memory.page_roots() == ()
        assert "did not answer" in memory.notes[0]


def test_closing_twice_is_fine_and_leaks_nothing() -> None:
    before = os.listdir("/proc/self/fd")
    memory = LiveMemory(os.getpid(), [])
    memory.close()
    memory.close()
    with pytest.raises(GuestMemoryError):
        LiveMemory(os.getpid(), [HostRange(0, PAGE_SIZE, 0x1000)])
    assert os.listdir("/proc/self/fd") == before


def test_runs() -> None:
    assert list(runs(b"")) == []
    assert list(runs(b"\0\0")) == []
    assert list(runs(b"\1\1\0\1\0\0\1")) == [(0, 2), (3, 1), (6, 1)]


def test_mappings_the_kernel_cut_are_joined_again() -> None:
    rows = [
        Mapping(0x1000, 0x2000, "rw-p", 0, 0, ""),
        Mapping(0x2000, 0x3000, "rw-p", 0, 0, ""),
        Mapping(0x4000, 0x5000, "rw-p", 0, 0, ""),
        Mapping(0x5000, 0x6000, "rw-s", 0, 7, "/memfd:a (deleted)"),
        Mapping(0x6000, 0x7000, "rw-s", 0x1000, 7, "/memfd:a (deleted)"),
        Mapping(0x7000, 0x8000, "rw-s", 0, 8, "/memfd:a (deleted)"),
    ]
    assert [(row.start, row.end) for row in joined_mappings(rows)] == [
        (0x1000, 0x3000),
        (0x4000, 0x5000),
        (0x5000, 0x7000),
        (0x7000, 0x8000),
    ]


def test_own_mappings_are_listed() -> None:
    area = mmap.mmap(-1, 77 * PAGE_SIZE, mmap.MAP_SHARED)
    assert any(row.size == 77 * PAGE_SIZE and row.is_shared for row in writable_mappings(os.getpid()))
    area.close()


@contextmanager
def forked(body: Callable[[], object]) -> Iterator[tuple[int, str]]:
    """A child that runs `body`, tells what it returned or raised, and waits; its PID and what it told."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            result = repr(body())
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        os.write(send, result.encode() + b"\n")
        signal.pause()
        os._exit(0)
    os.close(send)
    try:
        with open(receive, encoding="utf-8") as file:
            yield pid, file.readline().strip()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def become_nobody() -> None:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: others of this user may look, as after any exec


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")


@needs_root
def test_another_users_process_is_refused_with_what_is_needed() -> None:
    parent = os.getpid()

    def look() -> object:
        become_nobody()
        return LiveMemory(parent, [])

    with forked(look) as (_, told):
        assert told.startswith("AccessDenied")
        assert "CAP_SYS_PTRACE" in told


@needs_root
def test_the_same_user_reads_without_privileges() -> None:
    """Even shared anonymous memory, whose file only a privileged user can open."""

    def look() -> object:
        become_nobody()
        area = mmap.mmap(-1, SIZE)
        pin = ctypes.c_char.from_buffer(area)

        def fill() -> object:
            area[100:104] = b"mark"
            return ctypes.addressof(pin)

        with (
            forked(fill) as (pid, address),
            LiveMemory(pid, [HostRange(0, SIZE, int(address))]) as memory,
        ):
            populated = sum(segment.size for segment in memory.populated())
            return memory.read(100, 4), populated < SIZE, memory.read(SIZE // 2, 4)

    with forked(look) as (_, told):
        assert told == repr((b"mark", True, bytes(4)))

"""Where the RAM of real QEMU machines is found, with and without their monitor, against what QEMU says."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.vm.paused_qemu import GIB, MIB, PausedQemu, mark, paused_qemu
from virtscope.cli import uname
from virtscope.errors import GuestNotFound, GuestVanished, MemoryHole, UsageError
from virtscope.host import qmp
from virtscope.host.guest_memory import Verify
from virtscope.host.guests import guest_of_qemu, running_guests
from virtscope.host.qmp import QmpClient
from virtscope.memory import open_memory
from virtscope.memory.live import LiveMemory
from virtscope.memory.physical import PhysicalMemory

FOUR_GIB = 4 * GIB


def marks_for(size: int, low: int | None) -> list[int]:
    """Addresses at the ends and the seams of RAM of this size, cut at `low`."""
    if low is None:
        return [MIB, size // 2, size - 8]
    return [MIB, low - 8, FOUR_GIB, FOUR_GIB + (size - low) // 2, FOUR_GIB + size - low - 8]


def check(memory: LiveMemory, qemu: PausedQemu, marks: Sequence[int], size: int, low: int | None) -> None:
    for address in marks:
        assert memory.read(address, 8) == mark(address), hex(address)
        page = address & -4096
        assert memory.read(page, 4096) == qemu.save(page, 4096)
    # Nothing is left out and nothing made up, but for the firmware's place below 1 MiB.
    ends = [size] if low is None else [low, FOUR_GIB + size - low]
    for end in ends:
        with pytest.raises(MemoryHole):
            memory.read(end, 1)
    assert size - MIB < sum(segment.size for segment in memory.segments) <= size
    populated = list(memory.populated())
    for address in marks:
        assert any(segment.start <= address < segment.end for segment in populated), hex(address)
    assert sum(segment.size for segment in populated) < size // 2


MACHINES = [
    pytest.param("pc", 512, None),
    pytest.param("pc", 3583, None),
    pytest.param("pc", 3584, 3 * GIB),
    pytest.param("pc", 6144, 3 * GIB),
    pytest.param("q35", 512, None),
    pytest.param("q35", 2815, None),
    pytest.param("q35", 2816, 2 * GIB),
    pytest.param("q35", 3584, 2 * GIB),
    pytest.param("q35", 6144, 2 * GIB),
    pytest.param("q35,max-ram-below-4g=1G", 3072, GIB),
    pytest.param("microvm", 512, None),
    pytest.param("microvm", 3072, None),
    pytest.param("microvm", 3584, 3 * GIB),
    pytest.param("microvm", 6144, 3 * GIB),
]


def right(marks: Sequence[int]) -> Verify:
    """A verifier as the kernel finder is one: it looks at what the memory holds."""

    def verify(memory: PhysicalMemory) -> bool:
        try:
            return all(memory.read(address, 8) == mark(address) for address in marks)
        except MemoryHole:
            return False

    return verify


@pytest.mark.parametrize(("machine", "mib", "low"), MACHINES)
def test_machines(machine: str, mib: int, low: int | None) -> None:
    marks = marks_for(mib * MIB, low)
    with paused_qemu("-M", machine, "-m", str(mib), marks=marks) as qemu:
        guest = guest_of_qemu(str(qemu.pid))
        for use_monitor in (True, False):
            with guest.open_memory(use_monitor=use_monitor, verify=right(marks)) as memory:
                check(memory, qemu, marks, mib * MIB, low)
                assert memory.notes == ()


def test_old_pc_machines_cut_elsewhere_and_the_verifier_decides() -> None:
    low = 0xE0000000
    marks = marks_for(6 * GIB, low)
    with paused_qemu("-M", "pc-i440fx-1.7", "-m", "6G", marks=marks) as qemu:
        guest = guest_of_qemu(str(qemu.pid))
        with guest.open_memory() as memory:
            check(memory, qemu, marks, 6 * GIB, low)
        with guest.open_memory(use_monitor=False, verify=right(marks)) as memory:
            check(memory, qemu, marks, 6 * GIB, low)
        with guest.open_memory(use_monitor=False) as memory:
            assert "2 RAM layouts" in memory.notes[0]


def numa(*backends: str) -> list[str]:
    options = []
    for number, backend in enumerate(backends):
        options += ["-object", f"{backend},id=m{number}", "-numa", f"node,nodeid={number},memdev=m{number}"]
    return options


def single(backend: str) -> list[str]:
    return ["-object", f"{backend},id=ram0"]


BACKENDS = [
    pytest.param("q35", ["-m", "1G", *numa(*["memory-backend-ram,size=256M"] * 4)], GIB, None, id="4 nodes"),
    pytest.param(
        "q35",
        ["-m", "6G", *numa("memory-backend-ram,size=1G", "memory-backend-ram,size=5G")],
        6 * GIB,
        2 * GIB,
        id="node across the hole",
    ),
    pytest.param(
        "pc", ["-m", "1G", *numa(*["memory-backend-memfd,size=256M"] * 4)], GIB, None, id="4 memfds"
    ),
    pytest.param(
        "pc",
        ["-m", "1G", *numa(*["memory-backend-file,size=512M,mem-path=/dev/shm,share=on"] * 2)],
        GIB,
        None,
        id="2 shared files",
    ),
    pytest.param(
        "q35,memory-backend=ram0",
        ["-m", "512", *single("memory-backend-ram,size=512M,share=on")],
        512 * MIB,
        None,
        id="shared anonymous",
    ),
    pytest.param(
        "q35,memory-backend=ram0",
        ["-m", "4G", *single("memory-backend-memfd,size=4G")],
        4 * GIB,
        2 * GIB,
        id="memfd",
    ),
    pytest.param(
        "microvm,memory-backend=ram0",
        ["-m", "4G", *single("memory-backend-file,size=4G,mem-path=/dev/shm,share=off")],
        4 * GIB,
        3 * GIB,
        id="private file in memory",
    ),
    pytest.param(
        "pc,memory-backend=ram0",
        ["-m", "512", *single("memory-backend-file,size=512M,mem-path=ram.img,share=on")],
        512 * MIB,
        None,
        id="named file on disk",
    ),
    pytest.param(
        "pc,memory-backend=ram0",
        ["-m", "512", *single("memory-backend-file,size=512M,mem-path=ram.img,share=off")],
        512 * MIB,
        None,
        id="private file on disk",
    ),
    pytest.param("pc", ["-m", "512", "-mem-path", "/dev/shm"], 512 * MIB, None, id="mem-path"),
    pytest.param(
        "q35", ["-m", "512", "-device", "VGA,vgamem_mb=64", "-device", "ivshmem-plain,memdev=s",
                "-object", "memory-backend-ram,size=16M,id=s,share=on"], 512 * MIB, None, id="device memory",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("machine", "options", "size", "low"), BACKENDS)
def test_backends_and_nothing_is_allocated(
    machine: str, options: list[str], size: int, low: int | None
) -> None:
    marks = marks_for(size, low)
    with paused_qemu("-M", machine, *options, marks=marks) as qemu:
        guest = guest_of_qemu(str(qemu.pid))
        with guest.open_memory() as memory:
            check(memory, qemu, marks, size, low)
        before = qemu.footprint_kib()
        with guest.open_memory(use_monitor=False, verify=right(marks)) as memory:
            for segment in memory.segments:
                for address in range(segment.start, segment.end, 16 * MIB):
                    memory.read(address, min(16 * MIB, segment.end - address))
                for address in range(segment.start, segment.end, 2 * MIB):
                    memory.read(address, 8)
            after = qemu.footprint_kib()
            check(memory, qemu, marks, size, low)
            assert memory.notes == ()
        # Untouched RAM of hundreds of MiB was read; the QEMU itself may have grown by a few pages meanwhile.
        assert {name: after[name] - before[name] < 256 for name in before} == dict.fromkeys(before, True)


def test_memory_plugged_in_is_seen_by_the_monitor_and_said_to_be_missing_without() -> None:
    with paused_qemu(
        "-M", "q35", "-m", "512,slots=2,maxmem=2G",
        "-object", "memory-backend-ram,id=more,size=256M", "-device", "pc-dimm,memdev=more",
        marks=[MIB, FOUR_GIB + 4096],
    ) as qemu:  # fmt: skip
        guest = guest_of_qemu(str(qemu.pid))
        with guest.open_memory() as memory:
            assert memory.read(FOUR_GIB + 4096, 8) == mark(FOUR_GIB + 4096)
            assert memory.segments[-1].end == FOUR_GIB + 256 * MIB
        with guest.open_memory(use_monitor=False) as memory:
            assert memory.read(MIB, 8) == mark(MIB)
            assert "plugged in" in memory.notes[0]
            with pytest.raises(MemoryHole):
                memory.read(FOUR_GIB + 4096, 8)


def test_a_dump_holds_what_the_live_guest_holds() -> None:
    marks = marks_for(128 * MIB, 64 * MIB)
    with paused_qemu("-M", "q35,max-ram-below-4g=64M", "-m", "128", marks=marks) as qemu:
        guest = guest_of_qemu(str(qemu.pid))
        dump, raw = qemu.directory / "dump.elf", qemu.directory / "memory.raw"
        with guest.open_monitor(timeout=60) as monitor:
            monitor.execute("dump-guest-memory", {"paging": False, "protocol": f"file:{dump}"})
            monitor.execute("pmemsave", {"val": 0, "size": 64 * MIB, "filename": str(raw)})
        with guest.open_memory() as live, open_memory(dump) as core, open_memory(raw) as flat:
            for address in marks:
                assert core.read(address, 8) == mark(address)
            for segment in live.segments:
                assert core.read(segment.start, segment.size) == live.read(segment.start, segment.size)
            low = live.segments[-2]
            assert flat.read(low.start, low.size) == live.read(low.start, low.size)


def test_found_by_socket_and_among_all() -> None:
    with paused_qemu("-M", "pc", "-m", "64", name="virtscope-test-name") as qemu:
        assert guest_of_qemu(str(qemu.socket)).pid == qemu.pid
        (guest,) = [guest for guest in running_guests() if guest.name == "virtscope-test-name"]
        assert guest.pid == qemu.pid
        assert guest.process is not None
        assert guest.process.machine == "pc"
    with paused_qemu("-M", "pc", "-m", "64", name=None) as qemu:
        assert guest_of_qemu(str(qemu.pid)).name == f"qemu-{qemu.pid}"


def test_guests_of_one_name_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        paused_qemu("-M", "pc", "-m", "64", name="twin") as first,
        paused_qemu("-M", "pc", "-m", "64", name="twin") as second,
        paused_qemu("-M", "pc", "-m", "64", name="other") as third,
    ):
        named = [str(first.pid), str(second.socket), str(third.pid)]
        assert uname.main(["--json", *(word for one in named for word in ("--qemu", one))]) == 2
        errors = json.loads(capsys.readouterr().out)["errors"]
    # None of them holds a kernel, and each is said to.
    assert [error["guest"] for error in errors] == [f"twin-{first.pid}", f"twin-{second.pid}", "other"]


@pytest.mark.parametrize(
    "options",
    [
        ["-qmp", "unix:relative.sock,server=on,wait=off"],
        [
            "-chardev", f"socket,id=c,path=virtscope-test-{os.getpid()},abstract=on,server=on,wait=off",
            "-mon", "chardev=c,mode=control",
        ],
    ],
    ids=["relative", "abstract"],
)  # fmt: skip
def test_monitors_with_other_addresses(options: list[str]) -> None:
    with paused_qemu("-M", "pc", "-m", "64", *options) as qemu:
        guest = guest_of_qemu(str(qemu.pid))
        first, second = guest.sockets
        assert str(qemu.socket) in (first + second)
        for path in guest.sockets:
            with QmpClient(path, timeout=10) as monitor:
                assert monitor.execute("query-name") == {"name": "paused"}


def test_a_monitor_that_is_taken_costs_nothing_and_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "_PATIENCE", 0.25)
    marks = marks_for(64 * MIB, None)
    with (
        paused_qemu("-M", "q35", "-m", "64", marks=marks) as qemu,
        QmpClient(str(qemu.socket), timeout=60),
        guest_of_qemu(str(qemu.pid)).open_memory(timeout=60) as memory,
    ):
        assert "another client" in memory.notes[0]
        assert memory.page_roots() == ()
        assert right(marks)(memory)


def test_a_qemu_that_hangs_is_read_without_its_monitor() -> None:
    marks = marks_for(64 * MIB, None)
    with paused_qemu("-M", "q35", "-m", "64", marks=marks) as qemu:
        qemu.process.send_signal(signal.SIGSTOP)
        with guest_of_qemu(str(qemu.pid)).open_memory(timeout=0.2) as memory:
            # Stopped before it saw an earlier client leave, it also looks as if it served that one.
            assert "not answer" in memory.notes[0]
            assert memory.page_roots() == ()
            assert right(marks)(memory)


def read_for_ever(memory: PhysicalMemory) -> None:
    while True:
        memory.read(MIB, 4096)
        memory.read(256 * MIB, MIB)
        list(memory.populated())


def test_a_qemu_that_ends_while_it_is_read() -> None:
    with paused_qemu("-M", "q35", "-m", "1G", marks=[MIB]) as qemu:
        memory = guest_of_qemu(str(qemu.pid)).open_memory()
        timer = threading.Timer(0.1, qemu.process.kill)
        timer.start()
        with pytest.raises(GuestVanished, match="paused"):
            read_for_ever(memory)
        timer.join()
        memory.close()
        qemu.process.wait()
        with pytest.raises(GuestNotFound, match=str(qemu.pid)):
            guest_of_qemu(str(qemu.pid))


def test_page_roots_of_a_cpu_without_paging() -> None:
    with (
        paused_qemu("-M", "q35", "-m", "64", run=True) as qemu,
        guest_of_qemu(str(qemu.pid)).open_memory() as memory,
    ):
        assert memory.page_roots() == ()
        assert memory.notes == ()
        assert memory.identity is not None


def test_what_is_no_qemu() -> None:
    with pytest.raises(GuestNotFound, match="not a QEMU"):
        guest_of_qemu(str(os.getpid()))
    with pytest.raises(GuestNotFound, match="4194305"):
        guest_of_qemu("4194305")  # above the kernel's limit for process ids
    with pytest.raises(GuestNotFound):
        guest_of_qemu("/nonexistent/qmp")
    with pytest.raises(UsageError, match="neither"):
        guest_of_qemu("/etc/passwd")


def test_a_socket_behind_which_is_no_qemu(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(GuestNotFound, match="no QEMU"):
            guest_of_qemu(str(path))

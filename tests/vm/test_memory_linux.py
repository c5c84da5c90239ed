"""A real Linux guest: its live memory, read in both ways, against QEMU's own dump of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import Guest
from virtscope.host.guests import guest_of_qemu
from virtscope.memory import open_memory
from virtscope.memory.live import LiveMemory
from virtscope.memory.physical import PhysicalMemory

MIB = 1 << 20


def memory_of(guest: Guest, *, use_monitor: bool) -> LiveMemory:
    return guest_of_qemu(str(guest.pid)).open_memory(use_monitor=use_monitor)


def compare(live: PhysicalMemory, dump: PhysicalMemory) -> int:
    """Compares all RAM; what is not populated must be zero in the dump. Returns how much is populated."""
    populated = 0
    zero_from = live.segments[0].start
    for segment in live.segments:
        zero_from = segment.start
        for part in live.populated(segment.start, segment.end):
            assert_zero(dump, zero_from, part.start)
            for address in range(part.start, part.end, 4 * MIB):
                size = min(4 * MIB, part.end - address)
                assert live.read(address, size) == dump.read(address, size), hex(address)
            zero_from = part.end
            populated += part.size
        assert_zero(dump, zero_from, segment.end)
    return populated


def assert_zero(memory: PhysicalMemory, start: int, end: int) -> None:
    for address in range(start, end, 4 * MIB):
        size = min(4 * MIB, end - address)
        assert memory.read(address, size) == bytes(size), hex(address)


@pytest.mark.parametrize("use_monitor", [True, False], ids=["asked", "inferred"])
def test_live_memory_is_what_qemu_dumps(guest: Guest, tmp_path: Path, use_monitor: bool) -> None:
    path = tmp_path / "dump"
    with (
        guest.paused(),
        memory_of(guest, use_monitor=use_monitor) as live,
        open_memory(guest.dump(path)) as dump,
    ):
        assert live.notes == ()
        assert compare(live, dump) > 32 * MIB  # a booted Linux has touched that much
        assert dump.page_roots()
        assert live.page_roots() == (dump.page_roots() if use_monitor else ())
    path.unlink()


def test_reading_everything_leaves_untouched_memory_untouched(guest: Guest) -> None:
    with guest.paused(), memory_of(guest, use_monitor=False) as memory:
        before = list(memory.populated())
        for segment in memory.segments:
            for address in range(segment.start, segment.end, 4 * MIB):
                memory.read(address, min(4 * MIB, segment.end - address))
        assert list(memory.populated()) == before
        assert sum(segment.size for segment in before) < guest.memory_mib * MIB

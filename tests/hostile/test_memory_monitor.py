"""Monitors that lie: what they print is an error of ours or a layout, in bounded time and space."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.host.test_ram_from_monitor import Q35, Scripted
from virtscope.errors import GuestMemoryError, MonitorError
from virtscope.host.ram_from_monitor import (
    layout_from_monitor,
    page_roots_from_monitor,
    parse_flat_view,
    ram_ranges,
)
from virtscope.memory.live import LiveMemory

HEAD = 'FlatView #0\n AS "memory", root: system\n'
LINES = st.sampled_from(Q35.splitlines()) | st.text(max_size=80)
HEX = st.integers(0, (1 << 64) - 1).map(lambda value: f"{value:016x}")
RANGES = st.tuples(HEX, HEX, st.sampled_from(["ram", "rom", "i/o"]), HEX).map(
    lambda row: f"  {row[0]}-{row[1]} (prio 0, {row[2]}): pc.ram @{row[3]}"
)


@settings(max_examples=200, deadline=None)
@given(st.lists(LINES | RANGES, max_size=12), st.text(max_size=100))
def test_any_text_is_a_layout_or_an_error(lines: list[str], answer: str) -> None:
    monitor = Scripted(info=HEAD + "\n".join(lines), gpa2hva=answer)
    with suppress(MonitorError):
        layout_from_monitor(monitor)
    with suppress(MonitorError):
        page_roots_from_monitor(monitor)


@settings(max_examples=200, deadline=None)
@given(st.lists(RANGES, min_size=1, max_size=12))
def test_any_layout_is_memory_of_the_process_or_refused(lines: list[str]) -> None:
    """Overlapping ranges, ranges at the end of the address space, addresses that are none of the process'."""
    with suppress(MonitorError):
        layout = layout_from_monitor(Scripted(info=HEAD + "\n".join(lines)))
        with pytest.raises(GuestMemoryError):
            LiveMemory(os.getpid(), layout)


@pytest.mark.parametrize("filler", [" ", "a", " @", "(", "0"])
def test_endless_lines(filler: str) -> None:
    line = f"  {0:016x}-{1 << 30:016x} (prio 0, ram): pc.ram" + filler * (8 << 20) + "x"
    assert ram_ranges(parse_flat_view(f"{HEAD}{line}\n")) == []
    with pytest.raises(MonitorError):
        layout_from_monitor(
            Scripted(info=Q35, gpa2hva="Host virtual address for 0x0 " + filler * (8 << 20) + "x")
        )
    assert page_roots_from_monitor(Scripted(info="CR0=" + filler * (8 << 20))) == ()

"""Where the RAM of a QEMU guest lies, and its page tables, by asking the monitor.

The flat view of the memory tree (`info mtree -f`) says which guest-physical ranges belong to which memory
region, `gpa2hva` where one of them is in the QEMU process. The text is made for people, so nothing is taken
on trust: what does not look as expected is an error, and the caller checks the addresses against the process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from virtscope.errors import MonitorError
from virtscope.host.command_line import CommandLine
from virtscope.host.qmp import Monitor
from virtscope.memory.live import HostRange

_MIB = 1 << 20
_MOST_RANGES = 4096
_LONGEST_LINE = 500

_FLAT_RANGE = re.compile(
    r"\s+([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, ([^)]*)\): (.*?)(?: @([0-9a-f]{16}))?(?: KVM)?\s*"
)
_HOST_ADDRESS = re.compile(r"Host virtual address for 0x[0-9a-f]+ .* is 0x([0-9a-f]{1,16})\b")
_REGISTERS = re.compile(r"\bCR0=([0-9a-f]{1,16}) CR2=[0-9a-f]{1,16} CR3=([0-9a-f]{1,16})\b")
# Memory that devices bring along: QEMU calls it RAM as well.
_DEVICE_MEMORY = re.compile(r"vram|vga|bios|flash|\brom\b|ivshmem|hostmem|pmem", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FlatRange:
    """One line of a flat view: which memory region a guest-physical range belongs to.

    Attributes:
        start: the first guest-physical address.
        size: its length in bytes.
        kind: QEMU's word: "ram", "rom", "i/o", ...
        region: the name of the region.
        offset: where in the region the range begins, in bytes.
    """

    start: int
    size: int
    kind: str
    region: str
    offset: int


def parse_flat_view(text: str) -> list[FlatRange]:
    """The flat view of the system memory in what `info mtree -f` prints; empty if there is none."""
    ranges: list[FlatRange] = []
    wanted = False
    for line in text.splitlines():
        if line.startswith("FlatView"):
            if wanted:
                break
        elif line.startswith(' AS "memory"'):
            wanted = True
        elif wanted and len(line) <= _LONGEST_LINE and (match := _FLAT_RANGE.fullmatch(line)):
            start, last = int(match[1], 16), int(match[2], 16)
            if start <= last:
                ranges.append(
                    FlatRange(start, last - start + 1, match[3], match[4], int(match[5] or "0", 16))
                )
    return ranges


def ram_ranges(view: Iterable[FlatRange], known: Iterable[str] = ()) -> list[FlatRange]:
    """The ranges of a flat view that are the guest's RAM, those that continue one another made one.

    Below 1 MiB, RAM that the firmware has write-protected counts ("rom"). Device memory and regions of less
    than 1 MiB do not.

    Args:
        view: as `parse_flat_view` returns it.
        known: regions that are RAM whatever they are called: the ids of memory backends.
    """
    keep = set(known)
    result: list[FlatRange] = []
    for item in sorted(view, key=lambda item: item.start):
        is_ram = item.kind == "ram" or (item.kind == "rom" and item.start + item.size <= _MIB)
        if not is_ram or (
            item.region.removeprefix("/objects/") not in keep and _DEVICE_MEMORY.search(item.region)
        ):
            continue
        last = result[-1] if result else None
        if (
            last is not None
            and last.region == item.region
            and last.start + last.size == item.start
            and last.offset + last.size == item.offset
        ):
            result[-1] = FlatRange(last.start, last.size + item.size, "ram", last.region, last.offset)
        else:
            result.append(FlatRange(item.start, item.size, "ram", item.region, item.offset))
    sizes: dict[str, int] = {}
    for item in result:
        sizes[item.region] = sizes.get(item.region, 0) + item.size
    return [item for item in result if sizes[item.region] >= _MIB]


def layout_from_monitor(monitor: Monitor, command_line: CommandLine | None = None) -> tuple[HostRange, ...]:
    """Where the RAM lies, as the monitor says.

    Raises:
        MonitorError: the monitor does not answer, or not with anything that makes sense.
    """
    known = command_line.backends if command_line else ()
    ranges = ram_ranges(parse_flat_view(monitor.human("info mtree -f")), known)
    if not 0 < len(ranges) <= _MOST_RANGES:
        raise MonitorError(f"the monitor shows {len(ranges)} ranges of RAM in its memory tree")
    if any(before.start + before.size > after.start for before, after in pairwise(ranges)):
        raise MonitorError("the monitor shows ranges of RAM that overlap")
    layout = []
    for item in ranges:
        answer = monitor.human(f"gpa2hva {item.start:#x}")
        match = _HOST_ADDRESS.search(answer[:_LONGEST_LINE])
        if match is None:
            raise MonitorError(
                f"the monitor does not say where RAM at {item.start:#x} is: {answer.strip()[:200]!r}"
            )
        layout.append(HostRange(item.start, item.size, int(match[1], 16)))
    return tuple(layout)


def page_roots_from_monitor(monitor: Monitor) -> tuple[int, ...]:
    """CR3 of each vCPU that has paging on, without repeats; empty for machines without CR3.

    Raises:
        MonitorError: the monitor does not answer.
    """
    registers = _REGISTERS.findall(monitor.human("info registers -a"))
    return tuple(dict.fromkeys(int(cr3, 16) for cr0, cr3 in registers if int(cr0, 16) >> 31 & 1))

"""A process's memory: how much it has, and the command line that lies in it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from virtscope.errors import CorruptData, NotMapped

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel
    from virtscope.kernel.paging import AddressSpace
    from virtscope.kernel.records import Record

PAGE_SIZE = 4096
_RESIDENT = (0, 1, 3)
"""The counters that make up the resident set: MM_FILEPAGES, MM_ANONPAGES, MM_SHMEMPAGES. (2 is swap.)"""

_MAX_ARGUMENTS = 1 << 17
"""Bytes of a command line that are read: what ps reads at most."""


def resident_pages(kernel: Kernel, mm: Record) -> int:
    """The number of resident pages that an address space (`mm_struct`) has counted.

    Since 6.2 this is exact: what each CPU has counted and not yet added up, and what /proc therefore may not
    show, is added here. Before, its threads' own counts (`pages_of_thread`) have to be added.
    """
    if not mm.has("rss_stat[0].counters"):
        return sum(mm[f"rss_stat.count[{index}].counter"] for index in _RESIDENT)
    # The counters of one mm are mostly allocated together: one read per CPU gets them all.
    places = [mm[f"rss_stat[{index}].counters"] for index in _RESIDENT]
    total: int = sum(mm[f"rss_stat[{index}].count"] for index in _RESIDENT)
    low, span = min(places), max(places) - min(places) + 4
    together = span <= 256
    for cpu in kernel.possible_cpus():
        if together:
            data = kernel.read(kernel.percpu(low, cpu), span)
            total += sum(_s32(data, place - low) for place in places)
        else:
            total += sum(_s32(kernel.read(kernel.percpu(place, cpu), 4), 0) for place in places)
    return total


def pages_of_thread(task: Record) -> int:
    """The pages a thread has added to its address space and not yet handed over, in kernels before 6.2."""
    counts = task["rss_stat.count"]
    return sum(counts[index] for index in _RESIDENT)


def _s32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little", signed=True)


def read_arguments(kernel: Kernel, mm: Record) -> tuple[bytes, ...] | None:
    """The command line of a process, read from its own memory; None when that is not resident (swapped out).

    What /proc/PID/cmdline gives: the area of the arguments, or, when the process has overwritten that
    with a title of its own that runs on into the environment, the title. At most 128 KiB are read.

    Raises:
        CorruptData: the area cannot be one.
    """
    start, end = mm["arg_start"], mm["arg_end"]
    if not start or start == end:
        return ()
    if end < start:
        raise CorruptData(f"the command line at {start:#x} ends at {end:#x}, before it begins")
    length = min(end - start, _MAX_ARGUMENTS)
    space = kernel.user_space(mm["pgd"])
    try:
        data = space.read(start, length)
        if length == end - start and data[-1]:
            data = _title(space, start)
    except NotMapped:
        return None
    return tuple(data.removesuffix(b"\0").split(b"\0"))


def _title(space: AddressSpace, start: int) -> bytes:
    """What a process wrote over its arguments and beyond: to the first NUL, at most a page (as /proc)."""
    end = start + PAGE_SIZE
    boundary = end & -PAGE_SIZE
    data = space.read(start, boundary - start)
    if b"\0" not in data and boundary < end:
        with suppress(NotMapped):  # the title may end with the last page of the stack
            data += space.read(boundary, end - boundary)
    return data.split(b"\0", 1)[0]

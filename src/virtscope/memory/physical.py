"""Guest-physical memory, wherever it comes from.

`PhysicalMemory` is what every reader of a guest's memory is given: a live QEMU process, a raw file, an ELF
core. It knows which guest-physical ranges are RAM (`segments`), reads from them (`read`), and says which of
them can hold anything but zeros (`populated`), so that a search costs what the guest uses, not its size.

`read` always asks the source. Code that reads the same pages again and again puts a `PageCache` in between
and says itself when what it has seen is no longer good enough.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Self

from virtscope.errors import MemoryHole

PAGE_SIZE = 4096


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """A range of guest-physical addresses.

    Attributes:
        start: the first address.
        size: its length in bytes.
    """

    start: int
    size: int

    @property
    def end(self) -> int:
        """The first address behind the range."""
        return self.start + self.size


class PhysicalMemory(ABC):
    """The RAM of one guest, addressed by guest-physical address.

    Args:
        name: what messages call the source ("QEMU process 1234 (web1)", "dump.elf").
        segments: the guest-physical ranges that are RAM; any order, empty ones are dropped.
        is_live: whether a guest may be changing the bytes while they are read.
        notes: sentences a user should see when results depend on them ("the monitor did not answer ...").

    Raises:
        ValueError: two segments overlap.
    """

    def __init__(
        self, name: str, segments: Sequence[Segment], *, is_live: bool = False, notes: Sequence[str] = ()
    ) -> None:
        ordered = tuple(sorted(segment for segment in segments if segment.size > 0))
        for before, after in pairwise(ordered):
            if before.end > after.start:
                raise ValueError(f"memory segments {before} and {after} overlap")
        self._name = name
        self._segments = ordered
        self._starts = [segment.start for segment in ordered]
        self._ends = [segment.end for segment in ordered]
        self._is_live = is_live
        self._page_roots: tuple[int, ...] | None = None
        self.notes: tuple[str, ...] = tuple(notes)

    @property
    def name(self) -> str:
        """What messages call this memory."""
        return self._name

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The guest-physical ranges that are RAM: sorted, disjoint; neighbours may touch."""
        return self._segments

    @property
    def is_live(self) -> bool:
        """Whether a guest may be changing the bytes while they are read."""
        return self._is_live

    @property
    def identity(self) -> str | None:
        """A key that is the same as long as this very guest runs, on this host; None for files.

        What is remembered under it is a hint: a guest that reboots inside the same QEMU keeps its identity.
        """
        return None

    def read(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes from guest-physical `address`; the range may span adjacent segments.

        Raises:
            MemoryHole: part of the range is not RAM; nothing was read.
            GuestVanished: the process that held the memory is gone.
            AccessDenied: the host refuses the read.
            FormatError: the file ends before the bytes it promises.
            ValueError: `size` is negative.
        """
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and 0 < size <= self._ends[index] - address:
            return self._read_segment(index, address - self._starts[index], size)
        return self._read_across(index, address, size)

    def populated(self, start: int = 0, end: int | None = None) -> Iterator[Segment]:
        """The ranges between `start` and `end` that may hold anything but zeros, in ascending order.

        What is left out reads as zeros: a search reads only these. Finding them never touches the guest's
        untouched pages. Ranges that follow one another directly may come as one or as several.

        Raises:
            GuestVanished: the process that held the memory is gone.
            AccessDenied: the host refuses.
        """
        for index, segment in enumerate(self._segments):
            low = max(start, segment.start)
            high = segment.end if end is None else min(end, segment.end)
            if low < high:
                for offset, size in self._populated_segment(index, low - segment.start, high - low):
                    yield Segment(segment.start + offset, size)

    def page_roots(self) -> tuple[int, ...]:
        """The page table root (x86: the whole CR3) of each vCPU, when a monitor or dump notes give them.

        Asked for once, on first use (about 1 ms with a monitor), then remembered: on a running guest they say
        where page tables were, not where they are. Empty when nobody can say.
        """
        if self._page_roots is None:
            self._page_roots = self._find_page_roots()
        return self._page_roots

    @abstractmethod
    def close(self) -> None:
        """Give back what the source holds open. Reading afterwards is an error; closing again is not."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _read_segment(self, index: int, offset: int, size: int) -> bytes:
        """Exactly `size` (at least 1) bytes at `offset` of segment `index`; the range lies inside it."""

    def _populated_segment(self, index: int, offset: int, size: int) -> Iterator[tuple[int, int]]:  # noqa: ARG002
        """The (offset, size) ranges of a part of segment `index` that may not be zero."""
        yield offset, size

    def _find_page_roots(self) -> tuple[int, ...]:
        """See `page_roots`; called at most once."""
        return ()

    def _read_across(self, index: int, address: int, size: int) -> bytes:
        """A read that leaves segment `index`, the last to start at or below `address` (-1: none does)."""
        if size < 0:
            raise ValueError(f"cannot read {size} bytes")
        if size == 0:
            return b""
        # The whole range is checked before a byte is read: a wild size must not cost a long read.
        at, parts = address, []
        while at < address + size:
            if not 0 <= index < len(self._starts) or not self._starts[index] <= at < self._ends[index]:
                raise MemoryHole(address, size, self._name)
            count = min(address + size, self._ends[index]) - at
            parts.append((index, at - self._starts[index], count))
            at += count
            index += 1
        return b"".join(self._read_segment(*part) for part in parts)


class PageCache:
    """Whole pages of a `PhysicalMemory`, kept until the caller says that they are stale.

    Reading eight bytes of a live guest costs as much as reading the page around them, and kernel structures
    that are read together lie together. A view reads through one of these and calls `forget` (or makes a new
    one) when it starts, or when it starts over because what it read was torn.

    Args:
        memory: where pages come from.
        limit_pages: how many are kept; when it is reached all are dropped, which bounds memory at the cost of
            reading again and needs no bookkeeping per read.
    """

    def __init__(self, memory: PhysicalMemory, limit_pages: int = 8192) -> None:
        self.memory = memory
        self._limit_pages = limit_pages
        self._pages: dict[int, bytes] = {}

    def read(self, address: int, size: int) -> bytes:
        """As `PhysicalMemory.read`. A read longer than 16 pages passes by the cache: it is a bulk read."""
        within = address & (PAGE_SIZE - 1)
        if 0 < size <= PAGE_SIZE - within:
            page = self._pages.get(address - within)
            if page is None:
                try:
                    page = self._load(address - within)
                except MemoryHole:  # RAM that ends within a page, or a real hole, which this read then names
                    return self.memory.read(address, size)
            return page[within : within + size]
        if not 0 < size <= 16 * PAGE_SIZE:
            return self.memory.read(address, size)
        parts, end = [], address + size
        while address < end:
            count = min(end - address, PAGE_SIZE - (address & (PAGE_SIZE - 1)))
            parts.append(self.read(address, count))
            address += count
        return b"".join(parts)

    def forget(self) -> None:
        """Drop every page: the next reads see the guest as it is then."""
        self._pages.clear()

    def _load(self, address: int) -> bytes:
        page = self.memory.read(address, PAGE_SIZE)
        if len(self._pages) >= self._limit_pages:
            self._pages.clear()
        self._pages[address] = page
        return page

"""Where in guest-physical memory a Linux kernel is, on x86-64.

What depends on the architecture is here and in `paging`: another one has an `images` of its own, whose images
    know
their page tables; the rest of `kernel` takes any `Image`.

The kernel image is mapped once, 2 MiB aligned and linear, in the top 2 GiB of virtual addresses, by two
tables that are part of the image itself: level3_kernel_pgt (its entry 510) and level2_kernel_pgt, whose first
present entry is `_text` (arch/x86/kernel/head_64.S). Every page table root of the guest leads there. An
`Image` is accepted here only if those tables exist, are linear and lie inside the image they map; that, and
what is in the image, are the independent facts `Kernel` is built on.

`images` yields candidates, the cheapest ways to find one first:

1. the page table roots that a monitor or a dump gives (about 1 ms);
2. the start of the kernel's read-only data, which is 2 MiB aligned and begins with the format of
   /proc/version: one page of every 2 MiB is looked at;
3. every populated page is compared with the shape of level3_kernel_pgt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from virtscope.errors import GuestMemoryError, MemoryHole
from virtscope.kernel.paging import (
    FRAME_MASK,
    LARGE,
    NO_EXECUTE,
    PAGE_SIZE,
    PRESENT,
    AddressSpace,
    entries,
)

if TYPE_CHECKING:
    from virtscope.kernel.paging import PhysicalReader
    from virtscope.memory.physical import PhysicalMemory

_HUGE = 2 << 20
_KERNEL_MAP = 0xFFFF_FFFF_8000_0000
_CHUNK = 4 << 20
_MAX_SAMPLES = 32
_MAX_TABLES = 1024
MAX_IMAGE = 512 << 20
"""No kernel image is mapped larger: KERNEL_IMAGE_SIZE of x86 less what is left to modules."""
_ZEROS = bytes(510 * 8)
_TABLE_FLAGS = re.compile(rb"[\x23\x27\x63\x67]")
_PROC_BANNER = b"%s version %s ("


class Image:
    """A mapped kernel image.

    Attributes:
        arch: as `uname -m`.
        memory: the guest-physical memory it is in.
        start: its first virtual address (`_text`).
        physical: the guest-physical address of `start`; the image is physically contiguous.
        size: bytes from the first to the last 2 MiB mapped.
        rodata: offset of the first page behind `start` that is not executable: read-only data.
        root: guest-physical address of a page table root that maps it, the kernel's own when found.
        levels: levels of the page tables at `root`.
        found_by: how it was found, for people.
    """

    __slots__ = ("found_by", "levels", "memory", "physical", "rodata", "root", "size", "start")

    def __init__(
        self,
        memory: PhysicalMemory,
        start: int,
        physical: int,
        size: int,
        rodata: int,
        root: int,
        levels: int,
    ) -> None:
        self.memory = memory
        self.start = start
        self.physical = physical
        self.size = size
        self.rodata = rodata
        self.root = root
        self.levels = levels
        self.found_by = ""

    arch = "x86_64"

    @property
    def end(self) -> int:
        """The first virtual address behind it."""
        return self.start + self.size

    def address_space(self, memory: PhysicalReader, name: str, root: int = 0) -> AddressSpace:
        """The address space of the page table root at guest-physical `root`; 0: the kernel's own."""
        return AddressSpace(memory, root or self.root, self.levels, name)

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset` from the start; fewer at the end of the image.

        Raises:
            GuestMemoryError: the image is not in memory there.
        """
        size = min(size, self.size - offset)
        return self.memory.read(self.physical + offset, size) if offset >= 0 and size > 0 else b""

    def chunks(self, start: int = 0, overlap: int = 4096) -> Iterator[tuple[int, bytes]]:
        """The image from `start` on in pieces: (offset, bytes); each repeats the last `overlap` bytes."""
        offset, tail = start, b""
        while offset < self.size:
            try:
                data = self.read(offset, _CHUNK)
            except GuestMemoryError:
                data, tail = bytes(min(_CHUNK, self.size - offset)), b""
            yield offset - len(tail), tail + data
            tail = data[-overlap:]
            offset += len(data)

    def find(self, needle: bytes, start: int = 0) -> Iterator[int]:
        """The offsets at which `needle` is, from offset `start` on."""
        for offset, data in self.chunks(start, len(needle) - 1):
            at = data.find(needle)
            while at >= 0:
                yield offset + at
                at = data.find(needle, at + 1)


def images(memory: PhysicalMemory) -> Iterator[Image]:
    """Candidates for the running kernel's image, most likely first; an image can come more than once."""
    for root in memory.page_roots()[:16]:
        image = image_from_root(memory, root)
        if image is not None:
            image.found_by = "the page table root of a CPU"
            yield image
    seen: set[int] = set()
    for rodata in islice(_sampled_rodata(memory), _MAX_SAMPLES):
        # The tables lie behind the read-only data they follow, at the start of the image's data.
        for level3 in islice(_level3_tables(memory, rodata, rodata + (64 << 20)), _MAX_TABLES):
            seen.add(level3)
            image = image_from_level3(memory, level3)
            if image is not None and image.physical <= rodata < image.physical + image.size:
                image.found_by = "the start of its read-only data"
                yield image
    for level3 in islice(_level3_tables(memory, 0, None), _MAX_TABLES):
        image = None if level3 in seen else image_from_level3(memory, level3)
        if image is not None:
            image.found_by = "the shape of its page tables"
            yield image


def image_from_root(memory: PhysicalMemory, cr3: int) -> Image | None:
    """The image that the page tables of a CPU map; None when they map none.

    With page table isolation a CPU in user mode has the process's small tables loaded; the kernel's are the
    page before (arch/x86/entry/calling.h: PTI_USER_PGTABLE_BIT).
    """
    root = cr3 & FRAME_MASK
    for candidate in (root & ~PAGE_SIZE, root | PAGE_SIZE) if root & PAGE_SIZE else (root,):
        for levels in (4, 5):
            try:
                table = entries(memory, candidate)[511]
                if levels == 5 and table & PRESENT:
                    table = entries(memory, table)[511]
            except GuestMemoryError:
                continue
            if table & PRESENT and not table & LARGE:
                image = image_from_level3(memory, table & FRAME_MASK)
                if image is not None:
                    if not image.root:
                        image.root, image.levels = candidate, levels
                    return image
    return None


def image_from_level3(memory: PhysicalMemory, level3: int) -> Image | None:
    """The image that the level3_kernel_pgt at guest-physical `level3` maps; None when it is no such table.

    Its `root` is 0 when no root was found near the table.
    """
    try:
        table = entries(memory, level3)
        level2 = table[510]
        if not (level2 & PRESENT and table[511] & PRESENT) or (level2 | table[511]) & LARGE:
            return None
        image = _image_from_level2(memory, level2 & FRAME_MASK)
        if image is None or not (
            image.physical <= level3 < image.physical + image.size
            and image.physical <= level2 & FRAME_MASK < image.physical + image.size
        ):
            return None
        image.root, image.levels = _kernel_root(memory, image, level3)
    except GuestMemoryError:
        return None
    return image


def _image_from_level2(memory: PhysicalMemory, level2: int) -> Image | None:
    """What the 512 entries of a level2_kernel_pgt map, when that is one linear range."""
    first, last, physical, rodata = -1, -1, -1, -1
    for index, entry in enumerate(entries(memory, level2)):
        if not entry & PRESENT:
            continue
        frame, no_execute = entry & FRAME_MASK & -_HUGE, bool(entry & NO_EXECUTE)
        if not entry & LARGE:
            # Split into 4 KiB pages, some of them given back to the page allocator.
            for small, page in enumerate(entries(memory, entry)):
                if page & PRESENT:
                    frame = (page & FRAME_MASK) - small * PAGE_SIZE
                    no_execute = no_execute or bool(page & NO_EXECUTE)
                    break
            else:
                continue
        if first < 0:
            first, physical = index, frame
        if frame != physical + (index - first) * _HUGE:
            return None
        if no_execute and rodata < 0:
            rodata = index
        last = index
    size = (last - first + 1) * _HUGE
    if first < 0 or not 4 * _HUGE <= size <= MAX_IMAGE or physical % _HUGE:
        return None
    start = _KERNEL_MAP + first * _HUGE
    return Image(memory, start, physical, size, max(rodata - first, 0) * _HUGE, 0, 0)


def _kernel_root(memory: PhysicalMemory, image: Image, level3: int) -> tuple[int, int]:
    """The kernel's own page table root (init_top_pgt, near level3_kernel_pgt), and its levels; else (0, 0).

    A kernel built for five levels also has level4_kernel_pgt, in use only if the CPU has them: then
        init_top_pgt
    leads to it, otherwise straight to level3_kernel_pgt.
    """
    low = max(image.physical, level3 - (1 << 20))
    high = min(image.physical + image.size, level3 + (1 << 20))
    window = memoryview(memory.read(low, high - low)).cast("Q")
    leads_to: dict[int, list[int]] = {}
    for page in range(0, len(window), 512):
        entry = window[page + 511]
        if entry & PRESENT:
            leads_to.setdefault(entry & FRAME_MASK, []).append(low + page * 8)

    def used(page: int) -> int:
        at = (page - low) // 8
        return sum(entry & PRESENT for entry in window[at + 256 : at + 511])

    parents = leads_to.get(level3, [])
    for parent in parents:
        roots = leads_to.get(parent)
        if roots:
            return max(roots, key=used), 5
    parents = [page for page in parents if used(page)]
    return (max(parents, key=used), 4) if parents else (0, 0)


def _sampled_rodata(memory: PhysicalMemory) -> Iterator[int]:
    """Guest-physical addresses of pages that look like the start of a kernel's read-only data."""
    for segment in memory.populated():
        for address in range(-(-segment.start // _HUGE) * _HUGE, segment.end - PAGE_SIZE + 1, _HUGE):
            try:
                page = memory.read(address, PAGE_SIZE)
            except MemoryHole:
                continue
            if _PROC_BANNER in page:
                yield address


def _level3_tables(memory: PhysicalMemory, start: int, end: int | None) -> Iterator[int]:
    """Guest-physical addresses of pages shaped like level3_kernel_pgt: 510 empty entries, then two tables."""
    for segment in memory.populated(start, end):
        low = -(-segment.start // PAGE_SIZE) * PAGE_SIZE
        for address in range(low, segment.end - PAGE_SIZE + 1, _CHUNK):
            size = (min(_CHUNK, segment.end - address)) & -PAGE_SIZE
            try:
                data = memory.read(address, size)
            except MemoryHole:
                continue
            # The low byte of entry 510 of every page at once.
            for match in _TABLE_FLAGS.finditer(data[4080::PAGE_SIZE]):
                page = match.start() * PAGE_SIZE
                if data[page + 4088] in b"\x23\x27\x63\x67" and data.startswith(_ZEROS, page):
                    yield address + page

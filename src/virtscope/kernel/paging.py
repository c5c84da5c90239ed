"""Virtual addresses to guest-physical ones, through the guest's own page tables.

x86-64 paging with 4 or 5 levels and pages of 4 KiB, 2 MiB and 1 GiB (Intel SDM volume 3, chapter 4). Every
walk takes a fixed number of steps, whatever the tables hold.
"""

from __future__ import annotations

from typing import Protocol

from virtscope.errors import GuestMemoryError, NotMapped

PAGE_SIZE = 4096
FRAME_MASK = 0x000F_FFFF_FFFF_F000
"""Where an entry of an x86-64 page table keeps a physical address."""

PRESENT, LARGE, NO_EXECUTE = 1, 1 << 7, 1 << 63
_ADDRESS_MASK = (1 << 64) - 1


class PhysicalReader(Protocol):
    """What page tables are read from: guest-physical memory, or a cache over it."""

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at guest-physical `address`; raises GuestMemoryError for addresses that are no RAM."""


class AddressSpace:
    """A virtual address space of the guest.

    Translations of pages are remembered until `forget`.

    Args:
        memory: where page tables and pages are read from.
        root: the guest-physical address of the top-level table.
        levels: 4, or 5 with LA57.
        name: what messages call it.
    """

    def __init__(self, memory: PhysicalReader, root: int, levels: int, name: str) -> None:
        self._memory = memory
        self._root = root & FRAME_MASK
        self._levels = levels
        self._name = name
        self._frames: dict[int, int] = {}

    def translate(self, address: int) -> int:
        """The guest-physical address of virtual `address`.

        Raises:
            NotMapped: no translation, or the page is not in memory (swapped out, never touched).
        """
        frame = self._frames.get(address >> 12)
        if frame is None:
            if len(self._frames) >= 1 << 16:
                self._frames.clear()
            frame = self._frames[address >> 12] = self._walk(address)
        return frame | (address & 0xFFF)

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at virtual `address`.

        Raises:
            NotMapped: part of the range is not mapped, or its page is not in memory.
        """
        if 0 < size <= PAGE_SIZE - (address & 0xFFF):
            return self._read_page(self.translate(address), address, size)
        if size <= 0:
            return b""
        end = address + size
        if end > 1 << 64:
            raise NotMapped(f"{self._name}: {size} bytes at {address:#x} reach past the end of addresses")
        # Translated first, so that a wild range costs no reads; physically adjacent pages are read at once.
        parts: list[tuple[int, int, int]] = []
        while address < end:
            count = min(end - address, PAGE_SIZE - (address & 0xFFF))
            physical = self.translate(address)
            if parts and parts[-1][0] + parts[-1][2] == physical:
                parts[-1] = (parts[-1][0], parts[-1][1], parts[-1][2] + count)
            else:
                parts.append((physical, address, count))
            address += count
        return b"".join(self._read_page(*part) for part in parts)

    def is_mapped(self, address: int) -> bool:
        """Whether virtual `address` has a page in memory."""
        try:
            self.translate(address)
        except NotMapped:
            return False
        return True

    def forget(self) -> None:
        """Drop remembered translations."""
        self._frames.clear()

    def _read_page(self, physical: int, address: int, size: int) -> bytes:
        try:
            return self._memory.read(physical, size)
        except GuestMemoryError:
            raise NotMapped(
                f"{self._name}: {address:#x} is mapped to {physical:#x}, where the guest has no memory"
            ) from None

    def _walk(self, address: int) -> int:
        """The guest-physical address of the 4 KiB around `address`."""
        bits = 12 + 9 * self._levels
        sign = address >> (bits - 1)
        if not 0 <= address <= _ADDRESS_MASK or sign not in (0, _ADDRESS_MASK >> (bits - 1)):
            raise NotMapped(f"{self._name}: {address:#x} is no valid address")
        table = self._root
        shift = bits - 9
        while True:
            place = table + ((address >> shift & 0x1FF) << 3)
            try:
                entry = int.from_bytes(self._memory.read(place, 8), "little")
            except GuestMemoryError:
                raise NotMapped(
                    f"{self._name}: the page tables for {address:#x} lead outside guest memory"
                ) from None
            if not entry & PRESENT:
                return self._absent(address, entry, shift)
            if shift == 12:
                return entry & FRAME_MASK
            if entry & LARGE and shift <= 30:
                size = 1 << shift
                return (entry & FRAME_MASK & -size) | (address & (size - 1) & ~0xFFF)
            table = entry & FRAME_MASK
            shift -= 9

    def _absent(self, address: int, entry: int, shift: int) -> int:
        """Linux marks pages without access (NUMA balancing, PROT_NONE) by bit 8 alone, address inverted."""
        if entry & 1 << 8 and shift == 12:
            return ~entry & FRAME_MASK
        raise NotMapped(f"{self._name}: address {address:#x} is not mapped, or its page is not in memory")


def entries(memory: PhysicalReader, table: int) -> memoryview:
    """The 512 entries of the page table at guest-physical `table`; raises GuestMemoryError."""
    return memoryview(memory.read(table & FRAME_MASK, PAGE_SIZE)).cast("Q")

"""Virtual addresses to physical ones, through the guest's own page tables."""

from __future__ import annotations

from typing import Protocol


class AddressSpace(Protocol):
    """A virtual address space of the guest: the kernel's, or a process's."""

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at virtual `address`.

        Raises:
            NotMapped: part of the range is not mapped, or its page is not resident.
        """

    def translate(self, address: int) -> int:
        """The guest-physical address of virtual `address`; raises NotMapped."""

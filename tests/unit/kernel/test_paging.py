"""Page tables: every level and page size, and what is not there."""

from __future__ import annotations

import struct

import pytest

from tests.unit.kernel.synthetic import BytesMemory
from virtscope.errors import NotMapped
from virtscope.kernel.paging import AddressSpace

TABLE = 0x67


def space(entries: dict[tuple[int, int], int], levels: int = 4) -> tuple[AddressSpace, BytesMemory]:
    """Tables at 0x1000, 0x2000, ...; entries by (table, index)."""
    ram = bytearray(16 << 20)
    for (table, index), entry in entries.items():
        struct.pack_into("<Q", ram, table + 8 * index, entry)
    memory = BytesMemory({0: ram})
    return AddressSpace(memory, 0x1000, levels, "test"), memory


def test_page_sizes() -> None:
    tables, memory = space(
        {
            (0x1000, 0): 0x2000 | TABLE,
            (0x2000, 0): 0x3000 | TABLE,
            (0x2000, 1): 0x0 | TABLE | 0x80,  # 1 GiB at 1 GiB
            (0x3000, 0): 0x4000 | TABLE,
            (0x3000, 1): 0x400000 | TABLE | 0x80 | 0x1000,  # 2 MiB at 2 MiB, with its PAT bit
            (0x4000, 5): 0x9000 | TABLE | 1 << 63,
        }
    )
    assert tables.translate(0x5123) == 0x9123
    assert tables.translate((2 << 20) + 0x12345) == 0x412345
    assert tables.translate((1 << 30) + 0x7654321) == 0x7654321
    memory.write(0x9FFE, b"ab")
    assert tables.read(0x5FFE, 2) == b"ab"
    with pytest.raises(NotMapped, match="0x6000"):
        tables.read(0x5FFE, 4)
    assert tables.read(0x5FFE, 0) == b""


def test_five_levels() -> None:
    top = 0xFF11_0000_0000_0000
    index = [top >> shift & 511 for shift in (48, 39, 30)]
    tables, _ = space(
        {
            (0x1000, index[0]): 0x2000 | TABLE,
            (0x2000, index[1]): 0x3000 | TABLE,
            (0x3000, index[2]): 0 | TABLE | 0x80,
        },
        5,
    )
    assert tables.translate(top + 0x1234567) == 0x1234567


@pytest.mark.parametrize("address", [1 << 47, 0x7FFF_FFFF_FFFF_FFFF, 1 << 64, -1, (1 << 64) + 0x5000])
def test_addresses_that_cannot_be(address: int) -> None:
    tables, _ = space({(0x1000, 0): 0x1000 | TABLE})
    with pytest.raises(NotMapped):
        tables.read(address, 8)


def test_pages_without_access_are_resident() -> None:
    """NUMA balancing takes the present bit away and inverts the address (asm/pgtable-invert.h)."""
    tables, _ = space(
        {
            (0x1000, 0): 0x2000 | TABLE,
            (0x2000, 0): 0x3000 | TABLE,
            (0x3000, 0): 0x4000 | TABLE,
            (0x4000, 1): (~0x9000 & 0x000F_FFFF_FFFF_F000) | 1 << 8,
            (0x4000, 2): 0x1234 << 12 | 0x2,  # swapped out
        }
    )
    assert tables.translate(0x1010) == 0x9010
    with pytest.raises(NotMapped):
        tables.translate(0x2000)


def test_tables_outside_memory() -> None:
    tables, _ = space({(0x1000, 0): 1 << 40 | TABLE, (0x1000, 1): 0x1000 | TABLE})
    with pytest.raises(NotMapped, match="lead outside"):
        tables.translate(0)
    # A table that is its own child is walked as often as there are levels.
    assert not tables.is_mapped(1 << 39)


def test_pages_outside_memory() -> None:
    tables, _ = space({(0x1000, 0): 0x2000 | TABLE, (0x2000, 0): 1 << 45 | TABLE | 0x80})
    with pytest.raises(NotMapped, match="has no memory"):
        tables.read(0, 8)


def test_translations_are_remembered_until_forgotten() -> None:
    tables, memory = space({(0x1000, 0): 0x2000 | TABLE, (0x2000, 0): 0 | TABLE | 0x80})
    assert tables.read(0x123, 1) == b"\0"
    memory.write(0x1000, bytes(8))
    assert tables.is_mapped(0x123)
    tables.forget()
    assert not tables.is_mapped(0x123)

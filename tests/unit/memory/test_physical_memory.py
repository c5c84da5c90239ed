"""The memory interface: reads across segments, holes, what is populated, and the page cache."""

from __future__ import annotations

import pytest

from virtscope.errors import MemoryHole
from virtscope.memory.physical import PageCache, PhysicalMemory, Segment


class Bytes(PhysicalMemory):
    """Memory whose bytes are known: each is its address modulo 251."""

    def __init__(self, *segments: tuple[int, int]) -> None:
        super().__init__("test memory", [Segment(*segment) for segment in segments])
        self.reads: list[tuple[int, int]] = []

    def close(self) -> None:
        pass

    def _read_segment(self, index: int, offset: int, size: int) -> bytes:
        assert offset >= 0
        assert offset + size <= self.segments[index].size
        self.reads.append((self.segments[index].start + offset, size))
        return expected(self.segments[index].start + offset, size)


def expected(address: int, size: int) -> bytes:
    return bytes(at % 251 for at in range(address, address + size))


def test_segments_are_sorted_and_empty_ones_dropped() -> None:
    memory = Bytes((0x5000, 0x1000), (0x1000, 0x1000), (0x9000, 0))
    assert memory.segments == (Segment(0x1000, 0x1000), Segment(0x5000, 0x1000))


def test_overlapping_segments_are_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        Bytes((0, 0x2000), (0x1000, 0x1000))


@pytest.mark.parametrize(
    ("address", "size"),
    [(0x1000, 1), (0x1FFF, 1), (0x1000, 0x3000), (0x1FFE, 4), (0x1800, 0x1800), (0x7000, 0x10)],
)
def test_reads_within_and_across_segments_that_touch(address: int, size: int) -> None:
    memory = Bytes((0x1000, 0x1000), (0x2000, 0x1000), (0x3000, 0x1000), (0x7000, 0x10))
    assert memory.read(address, size) == expected(address, size)


@pytest.mark.parametrize(
    ("address", "size"),
    [(0, 1), (0xFFF, 2), (0x1FFF, 2), (0x5000, 1), (0x1000, 1 << 60), (1 << 64, 8), (-8, 8), (-8, 0x3000)],
)
def test_a_hole_is_an_error_and_nothing_is_read(address: int, size: int) -> None:
    memory = Bytes((0x1000, 0x1000), (0x3000, 0x1000))
    with pytest.raises(MemoryHole, match="test memory") as caught:
        memory.read(address, size)
    assert (caught.value.address, caught.value.size) == (address, size)
    assert not memory.reads


def test_nothing_can_be_read_anywhere() -> None:
    assert Bytes((0x1000, 0x1000)).read(0x9000, 0) == b""


def test_a_negative_size_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="-1"):
        Bytes((0x1000, 0x1000)).read(0x1000, -1)


def test_populated_is_clipped_to_what_is_asked() -> None:
    memory = Bytes((0x1000, 0x1000), (0x4000, 0x4000))
    assert list(memory.populated()) == [Segment(0x1000, 0x1000), Segment(0x4000, 0x4000)]
    assert list(memory.populated(0x1800, 0x5000)) == [Segment(0x1800, 0x800), Segment(0x4000, 0x1000)]
    assert list(memory.populated(0x2000, 0x4000)) == []


def test_no_page_roots_and_no_identity_by_default() -> None:
    memory = Bytes((0, 0x1000))
    assert memory.page_roots() == ()
    assert memory.identity is None
    assert not memory.is_live


class TestPageCache:
    def test_reads_a_page_once(self) -> None:
        memory = Bytes((0, 0x4000))
        cache = PageCache(memory)
        for address in range(0x1000, 0x2000, 8):
            assert cache.read(address, 8) == expected(address, 8)
        assert memory.reads == [(0x1000, 0x1000)]

    def test_reads_across_pages(self) -> None:
        memory = Bytes((0, 0x2000), (0x2000, 0x4000))
        cache = PageCache(memory)
        assert cache.read(0x1FFC, 8) == expected(0x1FFC, 8)
        assert cache.read(0xFFC, 0x2008) == expected(0xFFC, 0x2008)
        assert len(memory.reads) == 4

    def test_forgets(self) -> None:
        memory = Bytes((0, 0x4000))
        cache = PageCache(memory)
        cache.read(0, 8)
        cache.forget()
        cache.read(0, 8)
        assert len(memory.reads) == 2

    def test_keeps_no_more_than_its_limit(self) -> None:
        memory = Bytes((0, 0x100000))
        cache = PageCache(memory, limit_pages=4)
        for address in range(0, 0x5000, 0x1000):
            cache.read(address, 8)
        assert cache.read(0x4000, 8) == expected(0x4000, 8)
        assert len(memory.reads) == 5
        cache.read(0, 8)
        assert len(memory.reads) == 6

    def test_bulk_reads_pass_by(self) -> None:
        memory = Bytes((0, 0x100000))
        cache = PageCache(memory)
        assert cache.read(8, 0x20000) == expected(8, 0x20000)
        assert memory.reads == [(8, 0x20000)]

    def test_ram_that_ends_within_a_page_is_read(self) -> None:
        cache = PageCache(Bytes((0, 0x1010)))
        assert cache.read(0x1008, 8) == expected(0x1008, 8)
        with pytest.raises(MemoryHole):
            cache.read(0x1010, 1)

    def test_a_hole_is_an_error(self) -> None:
        cache = PageCache(Bytes((0, 0x1000)))
        with pytest.raises(MemoryHole) as caught:
            cache.read(0x2008, 8)
        assert caught.value.address == 0x2008
        with pytest.raises(MemoryHole):
            cache.read(0xFFC, 8)

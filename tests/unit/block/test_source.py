"""The interface of sources: exact reads, the bounded cache, slices, mappings, extents."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtscope.block import source as module
from virtscope.block.source import BlockSource, CachedSource, Mapped, Slice, joined_extents
from virtscope.errors import FormatError


class Memory(CachedSource):
    """Bytes in memory that count how they are read; those in `broken` cannot be."""

    def __init__(self, data: bytes, broken: range = range(0)) -> None:
        super().__init__("memory", len(data))
        self.data = data
        self.broken = broken
        self.reads: list[tuple[int, int]] = []

    def _read(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        if max(offset, self.broken.start) < min(offset + size, self.broken.stop):
            raise FormatError("memory", "broken", offset=offset)
        return self.data[offset : offset + size]

    def _extents(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        for offset in range(start, end):
            yield offset, 1, self.data[offset] == 0


DATA = bytes(range(1, 251)) * 400


@given(st.lists(st.tuples(st.integers(0, len(DATA)), st.integers(0, 70_000)), max_size=20))
def test_cached_reads_give_the_bytes_that_are_there(reads: list[tuple[int, int]]) -> None:
    source = Memory(DATA)
    for offset, size in reads:
        assert source.peek(offset, size) == DATA[offset : offset + size]
        if offset + size <= len(DATA):
            assert source.read_at(offset, size) == DATA[offset : offset + size]


def test_small_reads_are_remembered_and_large_ones_go_straight_through() -> None:
    source = Memory(DATA)
    for _ in range(3):
        source.read_at(5000, 100)
    assert len(source.reads) == 1
    source.read_at(0, 90_000)
    assert source.reads[-1] == (0, 90_000)


def test_memory_of_the_cache_is_bounded() -> None:
    source = Memory(bytes(64 << 20))
    for offset in range(0, source.size, 4096):
        source.read_at(offset, 10)
    kept = sum(map(len, source._young.values())) + sum(map(len, source._old.values()))
    assert kept <= 9 << 20


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0, len(DATA) + 1), (len(DATA), 1), (1 << 70, 5)])
def test_bytes_that_are_not_there_are_an_error(offset: int, size: int) -> None:
    with pytest.raises(FormatError) as caught:
        Memory(DATA).read_at(offset, size)
    assert caught.value.offset == offset


def test_one_read_cannot_take_all_memory() -> None:
    class Endless(BlockSource):
        def _read(self, offset: int, size: int) -> bytes:
            raise AssertionError("not to be tried")

    with pytest.raises(FormatError):
        Endless("endless", 1 << 60).read_at(0, module.MAXIMUM_READ + 1)


def test_a_broken_neighbour_does_not_hide_what_is_whole() -> None:
    source = Memory(DATA, broken=range(1000, 1010))
    assert source.read_at(20, 30) == DATA[20:50]
    with pytest.raises(FormatError):
        source.read_at(1005, 1)


def test_a_slice_of_a_slice_reads_the_right_bytes_and_stays_inside() -> None:
    outer = Slice(Memory(DATA), 100, 1000)
    inner = Slice(outer, 50, 200)
    assert inner.read_at(0, 200) == DATA[150:350]
    assert inner.peek(190, 50) == DATA[340:350]
    with pytest.raises(FormatError):
        inner.read_at(199, 2)


def test_a_slice_past_the_end_of_its_parent_can_be_read_up_to_there() -> None:
    part = Slice(Memory(DATA), len(DATA) - 10, 100)
    assert part.read_at(0, 10) == DATA[-10:]
    with pytest.raises(FormatError):
        part.read_at(5, 10)
    assert [size for _, size, zero in part.extents() if not zero] == [100]


SEGMENTS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 60), st.booleans(), st.integers(0, 900)), max_size=8
)


@given(SEGMENTS, st.integers(0, 500), st.integers(0, 500))
def test_a_mapping_is_the_bytes_of_its_segments(
    pieces: list[tuple[int, int, bool, int]], start: int, size: int
) -> None:
    source = Memory((bytes(20) + bytes(range(1, 41))) * 20)
    segments: list[tuple[int, int, BlockSource | None, int]] = []
    model: list[int | None] = []
    for gap, length, is_zero, where in pieces:
        model += [None] * gap
        segments.append((len(model), length, None if is_zero else source, where))
        model += [0] * length if is_zero else source.data[where : where + length]
    model += [None] * 10
    mapped = Mapped("mapped", len(model), segments)
    wanted = model[start : start + size]
    if start + size <= len(model) and None not in wanted:
        assert mapped.read_at(start, size) == bytes(value for value in wanted if value is not None)
    else:
        with pytest.raises(FormatError):
            mapped.read_at(start, size)
    seen = list(mapped.extents())
    assert [offset for offset, _, _ in seen] == [
        sum(size for _, size, _ in seen[:index]) for index in range(len(seen))
    ]
    assert sum(size for _, size, _ in seen) == len(model)
    for offset, length, is_zero in seen:
        if is_zero:
            assert set(model[offset : offset + length]) == {0}


def test_segments_that_overlap_are_refused() -> None:
    source = Memory(DATA)
    with pytest.raises(FormatError):
        Mapped("mapped", 100, [(0, 50, source, 0), (49, 10, source, 0)])


def test_joined_extents_alternate() -> None:
    parts = [(0, 5, True), (5, 5, True), (10, 1, False), (11, 4, False), (15, 1, True)]
    assert list(joined_extents(parts)) == [(0, 10, True), (10, 5, False), (15, 1, True)]

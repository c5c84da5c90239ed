"""Blocks over a source: whatever is read, at whatever place, is right."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from virtscope.block.source import BlockSource
from virtscope.fs.ext4.overlay import Logged, Overlay
from virtscope.fs.ext4.runs import FileMap, Run

_SIZE = 64 * 1024
_DISK = bytes(index * 31 >> 3 & 0xFF for index in range(_SIZE))


class Disk(BlockSource):
    """Bytes in memory; the second half is known to be zeros."""

    def __init__(self) -> None:
        super().__init__("disk", _SIZE)

    def _read(self, offset: int, size: int) -> bytes:
        return _DISK[offset : offset + size]

    def _extents(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        middle = _SIZE // 2
        if start < middle:
            yield start, min(middle, end) - start, False
        if end > middle:
            yield max(start, middle), end - max(start, middle), True


def overlay(blocks: set[int], damaged: frozenset[int] = frozenset()) -> tuple[Overlay, bytes]:
    """Blocks over the disk, each with an older copy below; and what it should read as."""
    expected = bytearray(_DISK)
    logged = {}
    for number in blocks:
        logged[number] = [Logged(number * 2, 2, False, None), Logged(number * 2 + 1, 1, False, None)]
        copy = 1 if number in damaged else 0
        expected[number * 1024 : (number + 1) * 1024] = bytes([number * 2 + copy & 0xFF]) * 1024
    return Overlay(
        Disk(),
        10,
        logged,
        lambda copy: (
            None if copy.place % 2 == 0 and copy.place // 2 in damaged else bytes([copy.place & 0xFF]) * 1024
        ),
    ), bytes(expected)


@given(
    st.sets(st.integers(0, 63), max_size=12),
    st.frozensets(st.integers(0, 63), max_size=6),
    st.lists(st.tuples(st.integers(0, _SIZE), st.integers(0, 9000)), min_size=1, max_size=8),
)
def test_reads(blocks: set[int], damaged: frozenset[int], places: list[tuple[int, int]]) -> None:
    source, expected = overlay(blocks, damaged)
    for offset, size in places:
        size = min(size, _SIZE - offset)
        assert source.read_at(offset, size) == expected[offset : offset + size]


@given(st.sets(st.integers(0, 63), max_size=12), st.integers(0, _SIZE), st.integers(0, _SIZE))
def test_extents_never_call_a_replaced_block_zeros(blocks: set[int], start: int, end: int) -> None:
    source, _ = overlay(blocks)
    position = start
    for offset, size, is_zero in source.extents(start, end):
        assert offset == position
        position += size
        if is_zero:
            assert offset >= _SIZE // 2
            assert not any(
                offset < (number + 1) * 1024 and number * 1024 < offset + size for number in blocks
            )
    assert position == max(start, end)


def test_runs_become_extents_without_gaps() -> None:
    runs = [Run(1, 2, 100, False), Run(3, 1, 102, False), Run(6, 2, 50, True)]
    found = list(FileMap(runs, 9 * 1024 + 5, 10).extents(0, 1 << 40))

    assert [(extent.offset, extent.size, extent.disk_offset, extent.is_zero) for extent in found] == [
        (0, 1024, None, True),
        (1024, 3072, 102_400, False),
        (4096, 2048, None, True),
        (6144, 2048, 51_200, True),
        (8192, 1029, None, True),
    ]

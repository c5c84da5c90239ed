"""Old-style snapshots of LVM: a volume and a store of what it was before ("copy on write"): `Snapshot`.

The store begins with a header chunk. Then come areas of one chunk of exceptions, pairs of the number of a
chunk of the volume and that of the chunk of the store that has its content in the snapshot, each followed by
the chunks it names.

The format is that of drivers/md/dm-snap-persistent.c of Linux.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from virtscope.bitmatch import pattern
from virtscope.block.records import read_record
from virtscope.block.source import BlockSource
from virtscope.errors import FormatError, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtscope.block.source import Extent

DiskHeader = pattern(
    "disk_header",
    """
    little
    magic      : 32 = 0x70416e53
    valid      : 32
    version    : 32 = 1
    chunk_size : 32 check 0 < chunk_size <= 1 << 20
    """,
)

DiskException = pattern("disk_exception", "little; old_chunk : 64; new_chunk : 64")

_MAXIMUM_EXCEPTIONS = 1 << 21


class Snapshot(BlockSource):
    """A snapshot, or a volume that a snapshot is being merged into.

    Args:
        name: for messages.
        origin: the volume as it is now.
        store: the exceptions.

    Raises:
        FormatError: the store is damaged, or was given up because it was full.
        UnsupportedFeature: there are more exceptions than are kept in memory.
    """

    def __init__(self, name: str, origin: BlockSource, store: BlockSource) -> None:
        super().__init__(name, origin.size)
        header = read_record(store, DiskHeader, 0, "LVM2 snapshot")
        if not header.valid:
            raise FormatError(
                "LVM2 snapshot", f"{name} is no longer valid: its store was full", field="valid", offset=4
            )
        self._origin = origin
        self._store = store
        self._chunk_size: int = header.chunk_size * 512
        self._places = dict(self._exceptions())
        self._chunks = sorted(self._places)

    def _exceptions(self) -> Iterator[tuple[int, int]]:
        """Chunks of the origin and their chunks in the store."""
        size = self._chunk_size
        number = 0
        per_area = size // DiskException.size_bytes
        area = 1
        while (area + 1) * size <= self._store.size:
            table = b"".join(
                self._store.read_at(area * size + done, min(size - done, 1 << 20))
                for done in range(0, size, 1 << 20)
            )
            for old_chunk, new_chunk in DiskException.tuples(table):
                if not new_chunk:
                    return
                number += 1
                if number > _MAXIMUM_EXCEPTIONS:
                    raise UnsupportedFeature(
                        "LVM2 snapshot", f"{self.name} has more than {_MAXIMUM_EXCEPTIONS} changed chunks"
                    )
                yield old_chunk, new_chunk
            area += per_area + 1

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Offset, size and offset in the store (-1 for the origin) of all parts of a range."""
        size = self._chunk_size
        position = start
        index = bisect_left(self._chunks, start // size)
        while position < end:
            chunk = self._chunks[index] if index < len(self._chunks) else -(-end // size)
            begin = min(max(chunk * size, position), end)
            if begin > position:
                yield position, begin - position, -1
            if begin < end:
                stop = min((chunk + 1) * size, end)
                yield begin, stop - begin, self._places[chunk] * size + begin - chunk * size
                begin = stop
            index += 1
            position = begin

    def _read(self, offset: int, size: int) -> bytes:
        pieces = []
        for start, length, place in self._pieces(offset, offset + size):
            if place < 0:
                pieces.append(self._origin.read_at(start, length))
            else:
                pieces.append(self._store.read_at(place, length))
        return b"".join(pieces) if len(pieces) > 1 else pieces[0]

    def _extents(self, start: int, end: int) -> Iterator[Extent]:
        for begin, length, place in self._pieces(start, end):
            if place < 0:
                yield from self._origin.extents(begin, begin + length)
            else:
                yield begin, length, False

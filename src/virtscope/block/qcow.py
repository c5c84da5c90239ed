"""qcow, the first version of QEMU's image format: `QcowImage`.

Two levels of tables as in qcow2, without reference counts, snapshots and zero clusters. QEMU's block/qcow.c
is its only specification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtscope.bitmatch import pattern
from virtscope.block.backing import parse_reference
from virtscope.block.clusters import DEFLATE, Inflater
from virtscope.block.image import Image
from virtscope.block.records import parse_record
from virtscope.errors import FormatError, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtscope.block.raw import HostFile
    from virtscope.block.source import Extent

QCowHeader = pattern(
    "QCowHeader",
    """
    big
    magic               : b"QFI\\xfb"
    version             : 32 = 1
    backing_file_offset : 64
    backing_file_size   : 32 check backing_file_size <= 1023
    mtime               : 32
    disk_size           : 64 check disk_size < 1 << 63
    cluster_bits        : 8 check 9 <= cluster_bits <= 16
    l2_bits             : 8 check 6 <= l2_bits <= 13
    padding             : 16
    crypt_method        : 32
    l1_table_offset     : 64
    """,
)

_COMPRESSED = 1 << 63


class QcowImage(Image):
    """A qcow image.

    Args:
        file: the file, closed with the image.

    Raises:
        FormatError: its header is damaged.
        UnsupportedFeature: it is encrypted.
    """

    format = "qcow"

    def __init__(self, file: HostFile) -> None:
        header = parse_record(QCowHeader, file.peek(0, QCowHeader.size_bytes), "qcow", 0)
        super().__init__(file, header.disk_size)
        if header.crypt_method:
            raise UnsupportedFeature(
                "qcow", f"{file.name} is encrypted with AES, which is not read", field="crypt_method"
            )
        self._cluster_bits = header.cluster_bits
        self._table_bits = header.l2_bits
        self._l1_offset = header.l1_table_offset
        entries = -(-self.size >> (self._cluster_bits + self._table_bits))
        if self._l1_offset + 8 * entries > file.size:
            raise FormatError(
                "qcow",
                "the table is not in the file: it is damaged or truncated",
                field="l1_table_offset",
                offset=self._l1_offset,
            )
        self._inflater = Inflater(file, "qcow", DEFLATE, 1 << self._cluster_bits)
        if header.backing_file_offset:
            name = file.read_at(header.backing_file_offset, header.backing_file_size)
            text = name.decode(errors="surrogateescape")
            self.references["backing"] = parse_reference(text, file.path)

    def _read(self, offset: int, size: int) -> bytes:
        pieces = []
        for entry, start, stop in self._runs(offset, offset + size):
            within = start & ((1 << self._cluster_bits) - 1)
            if not entry:
                pieces.append(self._below(start, stop - start))
            elif entry & _COMPRESSED:
                pieces.append(self._inflated(entry)[within : within + stop - start])
            else:
                pieces.append(self._stored(entry + within, stop - start))
        return b"".join(pieces)

    def _extents(self, start: int, end: int) -> Iterator[Extent]:
        for entry, begin, stop in self._runs(start, end):
            if entry:
                yield begin, stop - begin, False
            else:
                yield from self._below_extents(begin, stop)

    def _runs(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Table entry, start and end of the parts of a range; those without an entry (0) are joined."""
        below = start
        while start < end:
            entry, reach = self._entry(start)
            stop = min(reach, end)
            if entry:
                if below < start:
                    yield 0, below, start
                yield entry, start, stop
                below = stop
            start = stop
        if below < end:
            yield 0, below, end

    def _entry(self, offset: int) -> tuple[int, int]:
        """The table entry of an offset, and up to where it (or the lack of a table) holds."""
        reach_bits = self._cluster_bits + self._table_bits
        index = offset >> reach_bits
        table = int.from_bytes(self.file.read_at(self._l1_offset + 8 * index, 8), "big")
        if not table:
            return 0, (index + 1) << reach_bits
        cluster = offset >> self._cluster_bits
        place = table + 8 * (cluster & ((1 << self._table_bits) - 1))
        return int.from_bytes(self.file.read_at(place, 8), "big"), (cluster + 1) << self._cluster_bits

    def _stored(self, where: int, size: int) -> bytes:
        there = self.file.size - where
        if size <= there:
            return self.file.read_through(where, size)
        if there <= -(1 << self._cluster_bits):
            raise FormatError("qcow", f"{self.name} ends before a cluster that is in use", offset=where)
        return self.file.read_through(where, there) + bytes(size - there) if there > 0 else bytes(size)

    def _inflated(self, entry: int) -> bytes:
        size_shift = 63 - self._cluster_bits
        offset = entry & ((1 << size_shift) - 1)
        size = (entry & (_COMPRESSED - 1)) >> size_shift
        return self._inflater.cluster(offset, size)

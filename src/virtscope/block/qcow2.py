"""qcow2, QEMU's own image format, versions 2 and 3: `Qcow2Image`.

A disk is cut into clusters, and two levels of tables say where each is: in the file, compressed in the file,
in the backing image, or nowhere because it is all zeros. `qcow2_header` reads what stands around the tables.
Reference counts, dirty bits and bitmaps matter to writers only and are not looked at.

Specified in QEMU's docs/interop/qcow2.txt.
"""

from __future__ import annotations

from struct import unpack
from typing import TYPE_CHECKING

from virtscope.block.clusters import DEFLATE, ZSTD, Inflater
from virtscope.block.image import Image
from virtscope.block.qcow2_header import read_header, read_snapshots
from virtscope.errors import FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtscope.block.image import Snapshot
    from virtscope.block.raw import HostFile
    from virtscope.block.source import BlockSource, Extent

    Run = tuple[int, int, int, int]
    """Kind, offset on the disk, size, and offset in the data file (or a compressed cluster's descriptor)."""

DATA, ZERO, BELOW, COMPRESSED = range(4)
_PLACELESS = (ZERO, BELOW)

_OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
_COPIED = 1 << 63
_COMPRESSED = 1 << 62
_ALL_ZERO = 1
_SUBCLUSTERS = 32
_ALL_SUBCLUSTERS = (1 << _SUBCLUSTERS) - 1
_L1_ENTRIES_AT_ONCE = 4096


class Qcow2Image(Image):
    """A qcow2 image.

    Args:
        file: the file, closed with the image.

    Raises:
        FormatError: its header is damaged.
        UnsupportedFeature: it is encrypted, or has a feature that is not known.
    """

    format = "qcow2"

    def __init__(self, file: HostFile) -> None:
        header = read_header(file)
        super().__init__(file, header.size)
        self.header = header
        self.references = header.references
        self.notes += header.notes
        self._data: BlockSource = file
        self._data_image: Image | None = None
        self._l1_offset = header.l1_table_offset
        self._l1_size = header.l1_size
        self._cluster_bits = header.cluster_bits
        self._cluster_size = 1 << header.cluster_bits
        self._entry_bits = 4 if header.has_subclusters else 3
        self._table_bits = header.cluster_bits - self._entry_bits
        self._inflater: Inflater | None = None
        self._check_l1()

    def attach(self, role: str, image: Image) -> None:
        """As of `Image`."""
        if role == "data":
            self._data_image = image
            self._data = image
        else:
            super().attach(role, image)

    def snapshots(self) -> Iterator[Snapshot]:
        """As of `Image`."""
        return read_snapshots(self.file, self.header)

    def select_snapshot(self, name: str) -> None:
        """As of `Image`."""
        found = list(self.snapshots())
        for snapshot in [s for s in found if s.id == name] + [s for s in found if s.name == name]:
            self._l1_offset, self._l1_size = snapshot.l1_table_offset, snapshot.l1_size
            self.size = snapshot.size
            self._check_l1()
            self._young.clear()
            self._old.clear()
            return
        names = ", ".join(snapshot.name or snapshot.id for snapshot in found[:20]) or "none"
        raise UsageError(f"{self.name} has no internal snapshot {name!r}; it has: {names}")

    def _close_own(self) -> None:
        super()._close_own()
        if self._data_image is not None:
            self._data_image.close()

    def _check_l1(self) -> None:
        needed = -(-self.size >> (self._cluster_bits + self._table_bits))
        if self._l1_size < needed:
            raise FormatError(
                "qcow2",
                f"{self._l1_size} entries are too few for a disk of {self.size} bytes",
                field="l1_size",
            )
        if self._l1_offset % self._cluster_size or self._l1_offset + 8 * needed > self.file.size:
            raise FormatError(
                "qcow2",
                "the table is not in the file: it is damaged or truncated",
                field="l1_table_offset",
                offset=self._l1_offset,
            )

    def _read(self, offset: int, size: int) -> bytes:
        pieces = []
        for kind, start, length, where in self._runs(offset, offset + size):
            if kind == DATA:
                piece = self._stored(where, length)
            elif kind == BELOW:
                piece = self._below(start, length)
            elif kind == ZERO:
                piece = bytes(length)
            else:
                within = start & (self._cluster_size - 1)
                piece = self._inflated(where)[within : within + length]
            if length == size:
                return piece
            pieces.append(piece)
        return b"".join(pieces)

    def _extents(self, start: int, end: int) -> Iterator[Extent]:
        table_reach = 1 << (self._cluster_bits + self._table_bits)
        position = start
        while position < end:
            empty = self._empty_tables(position, end)
            if empty:
                stop = min(((position // table_reach) + empty) * table_reach, end)
                yield from self._below_extents(position, stop)
                position = stop
                continue
            stop = min((position // table_reach + 1) * table_reach, end)
            for kind, offset, size, where in self._runs(position, stop):
                if kind == BELOW:
                    yield from self._below_extents(offset, offset + size)
                elif kind == DATA:
                    yield from self._stored_extents(offset, size, where)
                else:
                    yield offset, size, kind == ZERO
            position = stop

    def _empty_tables(self, start: int, end: int) -> int:
        """How many tables, from that of `start` on, are not there; 0 if the first one is."""
        reach_bits = self._cluster_bits + self._table_bits
        first = start >> reach_bits
        last = (end - 1) >> reach_bits
        count = 0
        while first + count <= last:
            batch = min(last - first - count + 1, _L1_ENTRIES_AT_ONCE)
            entries = self.file.read_at(self._l1_offset + 8 * (first + count), 8 * batch)
            used = len(entries) - len(entries.lstrip(b"\0"))
            if used < len(entries):
                return count + used // 8
            count += batch
        return count

    def _stored(self, where: int, length: int) -> bytes:
        """Bytes of the data file; only the last cluster may end before its end."""
        there = self._data.size - where
        if length <= there:
            return self._data.read_through(where, length)
        if (where + length - 1) & -self._cluster_size >= self._data.size:
            raise FormatError(
                "qcow2",
                f"{self._data.name} ends before a cluster that is in use: it is truncated",
                offset=where,
            )
        return self._data.read_through(where, there) + bytes(length - there) if there > 0 else bytes(length)

    def _stored_extents(self, offset: int, size: int, where: int) -> Iterator[Extent]:
        shift = offset - where
        reached = where
        for found, length, is_zero in self._data.extents(where, where + size):
            yield found + shift, length, is_zero
            reached = found + length
        if reached < where + size:
            yield reached + shift, where + size - reached, False

    def _inflated(self, descriptor: int) -> bytes:
        """The whole cluster that a compressed cluster descriptor stands for."""
        if self._inflater is None:
            method = ZSTD if self.header.compression_type else DEFLATE
            self._inflater = Inflater(self.file, "qcow2", method, self._cluster_size)
        size_shift = 62 - (self._cluster_bits - 8)
        offset = descriptor & ((1 << size_shift) - 1)
        sectors = ((descriptor & (_COMPRESSED - 1)) >> size_shift) + 1
        return self._inflater.cluster(offset, sectors * 512 - (offset & 511))

    def _runs(self, start: int, end: int) -> list[Run]:
        """Where the bytes of a range are, neighbours joined."""
        runs: list[Run] = []
        cluster_bits, table_bits = self._cluster_bits, self._table_bits
        reach_bits = cluster_bits + table_bits
        table_mask = (1 << table_bits) - 1
        position = start
        while position < end:
            index = position >> reach_bits
            table_end = min((index + 1) << reach_bits, end)
            l1_entry = int.from_bytes(self.file.read_at(self._l1_offset + 8 * index, 8), "big")
            l2_offset = l1_entry & _OFFSET_MASK
            if not l2_offset:
                if runs and runs[-1][0] == BELOW:
                    before = runs[-1][1]
                    runs[-1] = (BELOW, before, table_end - before, 0)
                else:
                    runs.append((BELOW, position, table_end - position, 0))
            else:
                if l2_offset & (self._cluster_size - 1):
                    raise FormatError(
                        "qcow2",
                        f"a table at {l2_offset:#x}, where no cluster begins",
                        field="l1_table",
                        offset=self._l1_offset + 8 * index,
                    )
                first = (position >> cluster_bits) & table_mask
                count = (((table_end - 1) >> cluster_bits) & table_mask) - first + 1
                table = self.file.read_at(l2_offset + (first << self._entry_bits), count << self._entry_bits)
                if self._entry_bits == 3:
                    self._clusters(runs, unpack(f">{count}Q", table), position, table_end)
                else:
                    self._extended(runs, unpack(f">{2 * count}Q", table), position, table_end)
            position = table_end
        return runs

    def _clusters(self, runs: list[Run], entries: tuple[int, ...], position: int, end: int) -> None:
        """Append the runs of consecutive entries of one table."""
        mask = self._cluster_size - 1
        zeros = self.header.version >= 3
        may_be_first = self._data is not self.file
        if runs:
            last_kind, last_start, last_length, last_where = runs.pop()
        else:
            last_kind, last_start, last_length, last_where = -1, position, 0, 0
        for entry in entries:
            stop = (position | mask) + 1
            if stop > end:
                stop = end
            where = entry & _OFFSET_MASK
            if entry & _COMPRESSED:
                kind, where = COMPRESSED, entry
            elif entry & _ALL_ZERO and zeros:
                kind = ZERO
            elif where or (may_be_first and entry & _COPIED):
                kind = DATA
                if where & mask:
                    raise self._misaligned(where, position)
                where += position & mask
            else:
                kind = BELOW
            if kind == last_kind and (
                kind in _PLACELESS or (kind == DATA and where == last_where + last_length)
            ):
                last_length = stop - last_start
            else:
                if last_length:
                    runs.append((last_kind, last_start, last_length, last_where))
                last_kind, last_start, last_length, last_where = kind, position, stop - position, where
            position = stop
        if last_length:
            runs.append((last_kind, last_start, last_length, last_where))

    def _extended(self, runs: list[Run], entries: tuple[int, ...], position: int, end: int) -> None:
        """Append the runs of consecutive extended entries, whose clusters are parted into 32 subclusters."""
        mask = self._cluster_size - 1
        subcluster_bits = self._cluster_bits - 5
        for entry, bitmap in zip(entries[::2], entries[1::2], strict=True):
            stop = min((position | mask) + 1, end)
            where = entry & _OFFSET_MASK
            if entry & _COMPRESSED:
                runs.append((COMPRESSED, position, stop - position, entry))
                position = stop
                continue
            stored, zeros = bitmap & _ALL_SUBCLUSTERS, bitmap >> _SUBCLUSTERS
            if stored & zeros:
                raise FormatError("qcow2", f"an impossible subcluster bitmap {bitmap:#x}", field="l2_table")
            if where & mask:
                raise self._misaligned(where, position)
            if stored and not where and self._data is self.file:
                raise FormatError("qcow2", "data in a cluster that has no place", field="l2_table")
            while position < stop:
                index = (position & mask) >> subcluster_bits
                if stored >> index & 1:
                    kind, alike = DATA, stored
                elif zeros >> index & 1:
                    kind, alike = ZERO, zeros
                else:
                    kind, alike = BELOW, ~(stored | zeros)
                index += 1
                while index < _SUBCLUSTERS and alike >> index & 1:
                    index += 1
                reached = min((position & ~mask) + (index << subcluster_bits), stop)
                at = where + (position & mask) if kind == DATA else 0
                if runs and runs[-1][0] == kind and (kind != DATA or runs[-1][3] + runs[-1][2] == at):
                    _, before, _, before_at = runs[-1]
                    runs[-1] = (kind, before, reached - before, before_at)
                else:
                    runs.append((kind, position, reached - position, at))
                position = reached

    def _misaligned(self, where: int, position: int) -> FormatError:
        return FormatError(
            "qcow2",
            f"the disk's offset {position:#x} is said to be at {where:#x}, where no cluster begins",
            field="l2_table",
        )

"""The log: a ring of 512-byte blocks, where it begins and ends, and the transactions in it.

A record is a header and a body of whole blocks. The first word of each body block is replaced by the number
of the round ("cycle") in which it was written, and kept in the header: where the cycle drops, the log ends. A
body is a sequence of operations, each with a transaction's number; a committed transaction is a list of
items, an item a list of regions (see `replay`).

The last record says where the oldest one is that still matters, the tail. A log that ends with an unmount
record is empty ("clean").
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from virtscope.bitmatch import Record
from virtscope.errors import FormatError
from virtscope.fs.crc32c import crc32c
from virtscope.fs.xfs.superblock import FORMAT

if TYPE_CHECKING:
    from virtscope.block.source import BlockSource
    from virtscope.fs.xfs.superblock import SuperBlock

BLOCK_SIZE = 512

_MAGIC = 0xFEEDBABE
_MAGIC_BYTES = b"\xfe\xed\xba\xbe"
_CYCLE_WORDS = 64
_BODY_OF_HEADER = _CYCLE_WORDS * BLOCK_SIZE
_LARGEST_RECORD = 1 << 18
_RECORDS_IN_FLIGHT = 8
"""How many records may have been on their way to the disk at once (XLOG_MAX_ICLOGS)."""

_SCANNED_BLOCKS = _RECORDS_IN_FLIGHT * _LARGEST_RECORD // BLOCK_SIZE
_CHECKED_HEADER_SIZE = 328
_CHECKED_HEADER_SIZE_32 = 324
_CHECKED_EXTENDED_SIZE = 260
_CRC_OFFSET = 32

_START, _COMMIT, _WAS_CONTINUED, _UNMOUNT = 0x01, 0x02, 0x08, 0x20
_CLIENTS = (0x69, 0xAA)
_TRANSACTION_MAGIC = 0x5452414E
_TRANSACTION_HEADER_SIZE = 16
_MOST_REGIONS = 4096

_FORMAT_LITTLE_ENDIAN, _FORMAT_BIG_ENDIAN = 1, 2

# Plain struct: a busy log holds half a million operations.
_OPERATION = struct.Struct(">IIBB2x")


class RecordHeader(Record):
    """The head of a record (struct xlog_rec_header)."""

    layout = """big
        h_magicno : b"\\xfe\\xed\\xba\\xbe"
        h_cycle : 32; h_version : 32 check 1 <= h_version <= 3
        h_len : 32 check 0 < h_len <= 262144
        h_lsn : 64; h_tail_lsn : 64; h_crc : little 32; h_prev_block : 32; h_num_logops : 32
        h_cycle_data : bytes(256)
        h_fmt : 32; h_fs_uuid : bytes(16); h_size : 32
        """
    h_cycle: int
    h_version: int
    h_len: int
    h_lsn: int
    h_tail_lsn: int
    h_crc: int
    h_num_logops: int
    h_cycle_data: bytes
    h_fmt: int
    h_fs_uuid: bytes
    h_size: int

    @property
    def header_blocks(self) -> int:
        """How many blocks the header takes: one for each 32 KiB that the record may have."""
        if self.h_version & 2 and self.h_size > _BODY_OF_HEADER:
            return -(-min(self.h_size, _LARGEST_RECORD) // _BODY_OF_HEADER)
        return 1

    @property
    def blocks(self) -> int:
        """How many blocks the record takes."""
        return self.header_blocks + -(-self.h_len // BLOCK_SIZE)

    @property
    def tail_block(self) -> int:
        """The block where the oldest record begins that matters."""
        return self.h_tail_lsn & 0xFFFFFFFF


Item = list["bytearray | memoryview"]
"""Something a transaction changed: a description of it, and the regions that follow it, the new bytes."""


class Transaction:
    """What happened at once.

    Attributes:
        lsn: of the record in which it begins: cycle and block.
        items: what it changed, in the order of the log.
        is_whole: whether the last item has all its regions.
    """

    __slots__ = ("header", "items", "lsn", "missing")

    def __init__(self, lsn: int) -> None:
        self.lsn = lsn
        self.items: list[Item] = []
        self.header = b""
        self.missing = 0

    @property
    def is_whole(self) -> bool:
        """As the class says."""
        return not self.missing


@dataclass(frozen=True, slots=True)
class LogExtent:
    """The part of the log that matters.

    Attributes:
        tail: the block of the oldest record to be replayed.
        head: the block behind the newest one.
        is_clean: whether there is nothing to replay.
    """

    tail: int
    head: int
    is_clean: bool


class Log:
    """The log of a filesystem.

    Args:
        source: the filesystem's bytes.
        superblock: its superblock; its log is in itself.
    """

    def __init__(self, source: BlockSource, superblock: SuperBlock) -> None:
        self._source = source
        self._start = superblock.offset_of(superblock.sb_logstart)
        self._blocks = (superblock.sb_logblocks << superblock.sb_blocklog) // BLOCK_SIZE
        self._uuid = superblock.sb_uuid
        self._has_checksums = superblock.is_v5
        self.damage: str | None = None

    def extent(self) -> LogExtent:
        """Which part of it matters.

        Raises:
            FormatError: no end, or no record before it, can be found.
        """
        first, last = self._cycle(0), self._cycle(self._blocks - 1)
        if not first:
            return LogExtent(0, 0, is_clean=True)
        head = self._blocks if first == last else self._first_of_cycle(last)
        if first != last:
            # An unmount is written when nothing else is under way: in front of it there are no gaps.
            found = self._last_record(head)
            if found is not None and self._is_unmount(*found, head):
                return LogExtent(head, head, is_clean=True)
        head = self._without_gaps(head, last - 1 if first == last else last)
        found = self._last_record(head)
        if found is None:
            raise FormatError(FORMAT, "its log holds no record before its end", offset=self._start)
        block, header = found
        if (block + header.blocks) % self._blocks != head % self._blocks:
            head = block  # the last record was being written
            found = self._last_record(head)
            if found is None:
                raise FormatError(FORMAT, "its log holds no whole record", offset=self._start)
            block, header = found
        head, block, header = self._sound_end(head, block, header)
        if self._is_unmount(block, header, head):
            return LogExtent(head % self._blocks, head % self._blocks, is_clean=True)
        return LogExtent(header.tail_block, head % self._blocks, is_clean=False)

    def transactions(self, extent: LogExtent) -> Iterator[tuple[Transaction, str]]:
        """The committed transactions of a part, in the order of their commits, with the byte order of their
        descriptions: "<" or ">".

        Where the log is damaged they end, and `damage` says why.
        """
        self.damage = None
        waiting: dict[int, Transaction] = {}
        unpack = _OPERATION.unpack_from
        for header, body in self._records(extent):
            if header.h_fmt not in (_FORMAT_LITTLE_ENDIAN, _FORMAT_BIG_ENDIAN):
                self.damage = f"a record of format {header.h_fmt}"
                return
            order = "<" if header.h_fmt == _FORMAT_LITTLE_ENDIAN else ">"
            count_of = struct.Struct(order + "H").unpack_from
            place, end = 0, header.h_len
            for _ in range(header.h_num_logops):
                if place + _OPERATION.size > end:
                    break
                number, size, client, flags = unpack(body, place)
                place += _OPERATION.size
                start = place
                place += size
                if client not in _CLIENTS or place > end:
                    self.damage = "an operation that cannot be"
                    return
                transaction = waiting.get(number)
                if flags & _START:
                    waiting[number] = Transaction(header.h_lsn)
                elif transaction is None:
                    continue
                elif flags & (_COMMIT | _UNMOUNT):
                    del waiting[number]
                    if flags & _COMMIT:
                        yield transaction, order
                elif flags & _WAS_CONTINUED:
                    if not _continue(transaction, body[start:place]):
                        self.damage = "a region continues that was not begun"
                        return
                elif not size:
                    continue
                elif transaction.missing:
                    transaction.items[-1].append(body[start:place])
                    transaction.missing -= 1
                elif len(transaction.header) == _TRANSACTION_HEADER_SIZE:
                    count = count_of(body, start + 2)[0] if size >= 4 else 0
                    if not 0 < count <= _MOST_REGIONS:
                        self.damage = "an item without regions"
                        return
                    transaction.items.append([body[start:place]])
                    transaction.missing = count - 1
                else:
                    transaction.header = bytes(body[start:place])
                    if transaction.header[:4] != struct.pack(order + "I", _TRANSACTION_MAGIC)[:size]:
                        self.damage = "a transaction without its head"
                        return

    def _records(self, extent: LogExtent) -> Iterator[tuple[RecordHeader, memoryview]]:
        """Header and body of each record of a part, the words put back that cycles replaced."""
        block, left = extent.tail, (extent.head - extent.tail) % self._blocks
        while left > 0:
            header = self._header(block)
            if header is None or header.blocks > left:
                self.damage = f"no record at its block {block}"
                return
            data = self._read(block, header.blocks)
            if not self._is_sound(header, data):
                self.damage = f"the checksum of the record at its block {block} is wrong"
                return
            yield header, memoryview(_unpacked(header, data))
            block = (block + header.blocks) % self._blocks
            left -= header.blocks

    def _sound_end(self, head: int, block: int, header: RecordHeader) -> tuple[int, int, RecordHeader]:
        """Head and last record, without the records at the end whose checksums say that they are torn."""
        newest = [(block, header)]
        start = block
        while len(newest) < _RECORDS_IN_FLIGHT:
            found = self._last_record(start)
            if found is None or start == header.tail_block:
                break
            start = found[0]
            newest.append(found)
        newest.reverse()
        for index, (start, record) in enumerate(newest):
            if not self._is_sound(record, self._read(start, record.blocks)):
                if index:
                    return start, *newest[index - 1]
                before = self._last_record(start)
                if before is None:
                    raise FormatError(FORMAT, "its log is damaged at its end", offset=self._start)
                return start, *before
        return head, block, header

    def _is_sound(self, header: RecordHeader, data: bytes) -> bool:
        """Whether the checksum of a record is right; mkfs writes none."""
        if not header.h_crc or not self._has_checksums:
            return True
        body = data[header.header_blocks * BLOCK_SIZE :][: header.h_len]
        for size in (_CHECKED_HEADER_SIZE, _CHECKED_HEADER_SIZE_32):
            checked = [data[:_CRC_OFFSET], bytes(4), data[_CRC_OFFSET + 4 : size]]
            for index in range(1, -(-header.h_len // _BODY_OF_HEADER)):
                start = index * BLOCK_SIZE
                checked.append(data[start : start + _CHECKED_EXTENDED_SIZE])
            if crc32c(b"".join([*checked, body])) ^ 0xFFFFFFFF == header.h_crc:
                return True
        return False

    def _is_unmount(self, block: int, header: RecordHeader, head: int) -> bool:
        """Whether a record that ends at `head` says that the filesystem was unmounted."""
        if header.h_num_logops != 1 or (block + header.blocks - head) % self._blocks:
            return False
        body = self._read((block + header.header_blocks) % self._blocks, 1)
        return bool(_OPERATION.unpack_from(body)[3] & _UNMOUNT)

    def _first_of_cycle(self, cycle: int) -> int:
        """The first block of the last cycle's end of the log, by halving; gaps may mislead it."""
        low, high = 0, self._blocks - 1
        while high - low > 1:
            middle = (low + high) // 2
            if self._cycle(middle) == cycle:
                high = middle
            else:
                low = middle
        return high

    def _without_gaps(self, head: int, old_cycle: int) -> int:
        """The head, before the first block among those last written that is of an older cycle.

        Records are written side by side, so one may be there and the one before it not.
        """
        count = min(_SCANNED_BLOCKS, self._blocks)
        start = head - count
        if start < 0:
            # What was written last began at the end of the ring, where a gap shows an even older cycle.
            place = _index(self._cycles(self._blocks + start, -start), (old_cycle - 1) & 0xFFFFFFFF)
            if place is not None:
                return self._blocks + start + place
            start, count = 0, head
        place = _index(self._cycles(start, count), old_cycle)
        return head if place is None else start + place

    def _last_record(self, head: int) -> tuple[int, RecordHeader] | None:
        """Block and header of the last record that begins before `head`."""
        before = _LARGEST_RECORD // BLOCK_SIZE + 8
        near = min(32, self._blocks)
        for count in (near, min(before, self._blocks)):
            start = (head - count) % self._blocks
            data = self._read(start, count)
            place = len(data)
            while (place := data.rfind(_MAGIC_BYTES, 0, place)) >= 0:
                if place % BLOCK_SIZE == 0:
                    block = (start + place // BLOCK_SIZE) % self._blocks
                    header = RecordHeader.match(data, place)
                    if header is not None and header.h_fs_uuid in (self._uuid, bytes(16)):
                        return block, header
        return None

    def _header(self, block: int) -> RecordHeader | None:
        return RecordHeader.match(self._read(block, 1))

    def _cycle(self, block: int) -> int:
        """In which round a block was written."""
        data = self._source.read_at(self._start + block * BLOCK_SIZE, 8)
        first = int.from_bytes(data[:4], "big")
        return int.from_bytes(data[4:], "big") if first == _MAGIC else first

    def _cycles(self, block: int, count: int) -> list[int]:
        """In which rounds blocks were written."""
        if count <= 0:
            return []
        words = array("I", self._read(block, count))
        words.byteswap()
        step = BLOCK_SIZE // 4
        cycles = words[::step].tolist()
        if _MAGIC in cycles:
            seconds = words[1::step]
            cycles = [seconds[index] if cycle == _MAGIC else cycle for index, cycle in enumerate(cycles)]
        return cycles

    def _read(self, block: int, count: int) -> bytes:
        """Blocks of the ring."""
        until_end = self._blocks - block
        offset = self._start + block * BLOCK_SIZE
        if count <= until_end:
            return self._source.read_at(offset, count * BLOCK_SIZE)
        return self._source.read_at(offset, until_end * BLOCK_SIZE) + self._source.read_at(
            self._start, (count - until_end) * BLOCK_SIZE
        )


def _index(cycles: list[int], cycle: int) -> int | None:
    return cycles.index(cycle) if cycle in cycles else None


def _unpacked(header: RecordHeader, data: bytes) -> bytearray:
    """The body of a record with the first words of its blocks, which the headers keep."""
    body = bytearray(data[header.header_blocks * BLOCK_SIZE :])
    kept = [header.h_cycle_data]
    for index in range(1, header.header_blocks):
        start = index * BLOCK_SIZE + 4
        kept.append(data[start : start + _CYCLE_WORDS * 4])
    words = b"".join(kept)
    count = min(len(words) // 4, len(body) // BLOCK_SIZE)
    for byte in range(4):
        body[byte : count * BLOCK_SIZE : BLOCK_SIZE] = words[byte : count * 4 : 4]
    return body


def _continue(transaction: Transaction, region: memoryview) -> bool:
    """Append to the region, or the header, that a record's end cut off."""
    if not transaction.items:
        transaction.header += bytes(region)
        return len(transaction.header) <= _TRANSACTION_HEADER_SIZE
    regions = transaction.items[-1]
    last = regions[-1]
    if not isinstance(last, bytearray):
        last = regions[-1] = bytearray(last)
    last += region
    return True

"""The kernel log's buffer before 5.10: `struct printk_log` records in `log_buf`, one behind the other.

Each record is a header, its text, and KEY=VALUE pairs with NUL bytes between them. A header of length 0
says that the next record is at the start of the buffer. `read_buffer` reads all records.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from virtscope.errors import CorruptData
from virtscope.kernel.log_ring import RawRecord


@dataclass(frozen=True, slots=True)
class BufferLayout:
    """Where members of `printk_log` are, in bytes."""

    size: int
    time: int
    length: int
    text_length: int
    dict_length: int
    facility: int
    flags: int
    caller: int | None


def read_buffer(
    data: bytes, layout: BufferLayout, *, first: int, next: int, first_sequence: int, after: int | None = None
) -> Iterator[RawRecord]:
    """The records in a log buffer, oldest first.

    Args:
        data: the whole buffer.
        layout: where members are.
        first: `log_first_idx`, where the oldest record is.
        next: `log_next_idx`, where the next one will be.
        first_sequence: `log_first_seq`, the oldest record's number.
        after: only records with a higher sequence number than this.

    Raises:
        CorruptData: the records do not lead from `first` to `next`; those before are yielded.
    """
    position, sequence, wrapped = first, first_sequence, False
    while position != next:
        if position + layout.size > len(data):
            raise CorruptData(f"the kernel log has a record at {position:#x}, outside its buffer")
        (length,) = struct.unpack_from("<H", data, position + layout.length)
        if length == 0:
            if wrapped:
                raise CorruptData("the kernel log wraps around twice")
            wrapped, position = True, 0
            continue
        record = _record(data, layout, position, length, sequence)
        if after is None or sequence > after:
            yield record
        if position < next < position + length or position + length > len(data):
            raise CorruptData(f"the kernel log has a record at {position:#x} that reaches too far")
        position += length
        sequence += 1


def _record(data: bytes, layout: BufferLayout, position: int, length: int, sequence: int) -> RawRecord:
    (time,) = struct.unpack_from("<Q", data, position + layout.time)
    (text_length,) = struct.unpack_from("<H", data, position + layout.text_length)
    (dict_length,) = struct.unpack_from("<H", data, position + layout.dict_length)
    if layout.size + text_length + dict_length > length:
        raise CorruptData(f"the kernel log has a record at {position:#x} whose text is longer than itself")
    caller: int | None = None
    if layout.caller is not None:
        (caller,) = struct.unpack_from("<I", data, position + layout.caller)
    bits = data[position + layout.flags]
    text = position + layout.size
    pairs = data[text + text_length : text + text_length + dict_length].split(b"\0")
    return RawRecord(
        sequence=sequence,
        since_boot_ns=time,
        facility=data[position + layout.facility],
        level=bits >> 5,
        flags=bits & 0x1F,
        caller_id=caller,
        comm=None,
        text=data[text : text + text_length],
        fields=tuple((key, value) for key, found, value in (pair.partition(b"=") for pair in pairs) if found),
    )

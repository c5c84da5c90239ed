"""The kernel log's lockless ring buffer of kernels since 5.10: `struct printk_ringbuffer`.

It is described in kernel/printk/printk_ringbuffer.c.

Three arrays: descriptors (a state and where the text lies), infos (sequence number, time, level, ...),
and a ring of text blocks, each of which begins with the id of its descriptor. An id's lowest bits are its
index; the two highest bits of a descriptor's `state_var` say how far its writer is.

`read_ring` reads all records that lie in it. It takes a kernel's own order of checks: descriptor, text,
descriptor again, so that what a running guest overwrites meanwhile is left out and never shown as
something it was not.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from virtscope.errors import CorruptData, UnknownLayout

_RESERVED, _COMMITTED, _FINALIZED, _REUSABLE = range(4)
_ID_MASK = (1 << 62) - 1
_WORD = (1 << 64) - 1
_NO_TEXT = 3
"""`NO_LPOS`: where the text of an empty record lies. (`FAILED_LPOS`, 1: its text could not be kept.)"""

_MAX_COUNT_BITS = 24
_MAX_SIZE_BITS = 30

Read = Callable[[int, int], bytes]
"""(kernel address, size) -> bytes."""


class RawRecord(NamedTuple):
    """One log record as the kernel keeps it; `fields` are the KEY=VALUE pairs of its device."""

    sequence: int
    since_boot_ns: int
    facility: int
    level: int
    flags: int
    caller_id: int | None
    comm: bytes | None
    text: bytes
    fields: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class RingLayout:
    """Where members are, in bytes: of `prb_desc` and `printk_info`, as this kernel has them."""

    desc_size: int
    desc_state: int
    desc_begin: int
    desc_next: int
    info_size: int
    info_sequence: int
    info_time: int
    info_text_length: int
    info_facility: int
    info_flags: int
    info_caller: int
    info_comm: tuple[int, int] | None
    info_subsystem: tuple[int, int] | None
    info_device: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Ring:
    """The ring buffer's own state: what `struct printk_ringbuffer` holds at one moment."""

    count_bits: int
    descs: int
    infos: int
    head_id: int
    tail_id: int
    size_bits: int
    data: int

    def check(self) -> None:
        """Raises CorruptData when this cannot be a ring buffer."""
        if not 0 < self.count_bits <= _MAX_COUNT_BITS or not 3 < self.size_bits <= _MAX_SIZE_BITS:
            raise CorruptData(
                f"the kernel log's ring buffer claims 2^{self.count_bits} records "
                f"and 2^{self.size_bits} bytes of text"
            )
        if not self.descs or not self.infos or not self.data:
            raise CorruptData("the kernel log's ring buffer has no memory")
        if (self.head_id - self.tail_id) & _ID_MASK >= 1 << self.count_bits:
            raise CorruptData("the kernel log's ring buffer has its tail before its head")


def read_ring(
    read: Read,
    ring: Ring,
    layout: RingLayout,
    *,
    after: int | None = None,
    again: Read | None = None,
    finished_only: bool = False,
) -> Iterator[RawRecord]:
    """The records in the ring, oldest first, without those whose text is gone.

    Args:
        read: reads kernel memory.
        ring: the ring's state.
        layout: where members are.
        after: only records with a higher sequence number than this.
        again: for a running guest: reads past all caches, to see what was overwritten meanwhile.
        finished_only: stop at the first record that is still being written, as the kernel's own readers
            do, so that reading on behind the last record misses none. Otherwise those that are written
            but may still grow are yielded too: they are a dying guest's last words.

    Raises:
        CorruptData: the ring's state cannot be.
        NotMapped: part of the ring is not mapped.
    """
    ring.check()
    count = (ring.head_id - ring.tail_id & _ID_MASK) + 1
    first = ring.tail_id
    if after is not None:
        # Sequence numbers grow with ids, one by one: skip what was seen, but look at the last one seen
        # for its number.
        seen = _sequence_of(read, ring, layout, ring.head_id)
        if seen is not None and seen >= after:
            count = min(count, seen - after + 1)
            first = ring.head_id - count + 1 & _ID_MASK
    descs = _slots(read, ring.descs, layout.desc_size, ring.count_bits, first, count)
    infos = _slots(read, ring.infos, layout.info_size, ring.count_bits, first, count)
    if finished_only:
        finished = _count_finished(descs, layout, first)
        descs, infos, count = descs[:finished], infos[:finished], finished
    blocks = [_block(read, ring, layout, desc, first + index & _ID_MASK) for index, desc in enumerate(descs)]
    if again is not None and count:
        later = _slots(again, ring.descs, layout.desc_size, ring.count_bits, first, count)
        blocks = [block if old == new else None for block, old, new in zip(blocks, descs, later, strict=True)]
    last = -1
    for block, info in zip(blocks, infos, strict=True):
        if block is None:
            continue
        record = _record(layout, info, block)
        if record.sequence > last and (after is None or record.sequence > after):
            last = record.sequence
            yield record


def _slots(read: Read, base: int, size: int, count_bits: int, first: int, count: int) -> list[bytes]:
    """`count` elements of a ring of `size`-byte elements, from id `first` on."""
    total = 1 << count_bits
    start = first & (total - 1)
    before_end = min(count, total - start)
    data = read(base + start * size, before_end * size)
    if before_end < count:
        data += read(base, (count - before_end) * size)
    return [data[at : at + size] for at in range(0, count * size, size)]


def _count_finished(descs: list[bytes], layout: RingLayout, first: int) -> int:
    """How many descriptors there are before the first that is still being written."""
    for index, desc in enumerate(descs):
        (state,) = struct.unpack_from("<Q", desc, layout.desc_state)
        ours, progress = state & _ID_MASK == first + index & _ID_MASK, state >> 62
        if progress in (_RESERVED, _COMMITTED) if ours else index == len(descs) - 1:
            return index
    return len(descs)


def _sequence_of(read: Read, ring: Ring, layout: RingLayout, id: int) -> int | None:
    """The sequence number of the record with that id; None when it is not there yet."""
    index = id & ((1 << ring.count_bits) - 1)
    (state,) = struct.unpack_from(
        "<Q", read(ring.descs + index * layout.desc_size, layout.desc_size), layout.desc_state
    )
    if state & _ID_MASK != id or state >> 62 in (_RESERVED, _REUSABLE):
        return None
    info = read(ring.infos + index * layout.info_size, layout.info_size)
    return int.from_bytes(info[layout.info_sequence : layout.info_sequence + 8], "little")


def _block(read: Read, ring: Ring, layout: RingLayout, desc: bytes, id: int) -> bytes | None:
    """The text block of a descriptor, without its id; None when the record is not (or no longer) there."""
    (state,) = struct.unpack_from("<Q", desc, layout.desc_state)
    if state & _ID_MASK != id or state >> 62 in (_RESERVED, _REUSABLE):
        return None
    (begin,) = struct.unpack_from("<Q", desc, layout.desc_begin)
    (end,) = struct.unpack_from("<Q", desc, layout.desc_next)
    if begin & 1:
        return b"" if begin == end == _NO_TEXT else None
    # Positions count up without end, modulo 2^64; the first turn of the ring ends just there.
    size, bits = 1 << ring.size_bits, ring.size_bits
    if begin >> bits == (end - 1 & _WORD) >> bits and begin != end:
        start, length = begin & (size - 1), end - begin & _WORD
    elif (begin + size & _WORD) >> bits == end >> bits:
        # A block that does not fit behind the last one lies at the start of the ring.
        start, length = 0, end & (size - 1)
    else:
        return None
    if length < 8:
        return None
    block = read(ring.data + start, length)
    return block[8:] if int.from_bytes(block[:8], "little") == id else None


def _record(layout: RingLayout, info: bytes, block: bytes) -> RawRecord:
    (sequence,) = struct.unpack_from("<Q", info, layout.info_sequence)
    (time,) = struct.unpack_from("<Q", info, layout.info_time)
    (text_length,) = struct.unpack_from("<H", info, layout.info_text_length)
    (caller,) = struct.unpack_from("<I", info, layout.info_caller)
    bits = info[layout.info_flags]
    fields = []
    for key, place in ((b"SUBSYSTEM", layout.info_subsystem), (b"DEVICE", layout.info_device)):
        value = _text(info, place)
        if value:
            fields.append((key, value))
    return RawRecord(
        sequence=sequence,
        since_boot_ns=time,
        facility=info[layout.info_facility],
        level=bits >> 5,
        flags=bits & 0x1F,
        caller_id=caller,
        comm=_text(info, layout.info_comm) if layout.info_comm else None,
        text=block[:text_length],
        fields=tuple(fields),
    )


def _text(info: bytes, place: tuple[int, int] | None) -> bytes:
    """The NUL-terminated text at (offset, size) of `info`."""
    return info[place[0] : place[0] + place[1]].split(b"\0", 1)[0] if place else b""


def layout_from_vmcoreinfo(values: dict[str, str]) -> tuple[RingLayout, dict[str, int]]:
    """The layout from VMCOREINFO, which has had it since the ring buffer exists; and all its numbers by key.

    VMCOREINFO leaves out facility, flags and level: two bytes that fit exactly between the text's length
    and the caller's id.

    Raises:
        UnknownLayout: VMCOREINFO does not describe the ring buffer.
    """
    numbers = {}
    for key, value in values.items():
        if key.startswith(("SIZE(", "OFFSET(", "LENGTH(")) and value.isdecimal():
            numbers[key] = int(value)
    try:
        text_length = numbers["OFFSET(printk_info.text_len)"]
        caller = numbers["OFFSET(printk_info.caller_id)"]
        place = numbers["OFFSET(prb_desc.text_blk_lpos)"]
        state = numbers["OFFSET(prb_desc.state_var)"] + numbers["OFFSET(atomic_long_t.counter)"]
        layout = RingLayout(
            desc_size=numbers["SIZE(prb_desc)"],
            desc_state=state,
            desc_begin=place + numbers["OFFSET(prb_data_blk_lpos.begin)"],
            desc_next=place + numbers["OFFSET(prb_data_blk_lpos.next)"],
            info_size=numbers["SIZE(printk_info)"],
            info_sequence=numbers["OFFSET(printk_info.seq)"],
            info_time=numbers["OFFSET(printk_info.ts_nsec)"],
            info_text_length=text_length,
            info_facility=text_length + 2,
            info_flags=text_length + 3,
            info_caller=caller,
            info_comm=None,
            info_subsystem=_device_place(numbers, "subsystem"),
            info_device=_device_place(numbers, "device"),
        )
    except KeyError as error:
        raise UnknownLayout(
            f"VMCOREINFO does not describe the kernel log: it lacks {error.args[0]}"
        ) from None
    if caller != text_length + 4:
        raise UnknownLayout("VMCOREINFO does not say where the levels of the kernel log are")
    return layout, numbers


def _device_place(numbers: dict[str, int], member: str) -> tuple[int, int] | None:
    try:
        return (
            numbers["OFFSET(printk_info.dev_info)"] + numbers[f"OFFSET(dev_printk_info.{member})"],
            numbers[f"LENGTH(printk_info_{member})"],
        )
    except KeyError:
        return None

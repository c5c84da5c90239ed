"""The kernel log's two layouts, against writers that follow the kernel's algorithms; and rows made of it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.kernel_views.world import BASE, World
from virtscope.errors import CorruptData, UnknownLayout, UsageError
from virtscope.kernel.log import follow, log
from virtscope.kernel.log_buffer import BufferLayout, read_buffer
from virtscope.kernel.log_ring import Ring, RingLayout, layout_from_vmcoreinfo, read_ring

DESC, INFO = 24, 88
FINALIZED, COMMITTED, REUSABLE = 2, 1, 3
LAYOUT = RingLayout(DESC, 0, 8, 16, INFO, 0, 8, 16, 18, 19, 20, None, (24, 16), (40, 48))
MASK = (1 << 62) - 1

VMCOREINFO = {
    "OFFSET(printk_ringbuffer.desc_ring)": "0",
    "OFFSET(printk_ringbuffer.text_data_ring)": "40",
    "OFFSET(prb_desc_ring.count_bits)": "0",
    "OFFSET(prb_desc_ring.descs)": "8",
    "OFFSET(prb_desc_ring.infos)": "16",
    "OFFSET(prb_desc_ring.head_id)": "24",
    "OFFSET(prb_desc_ring.tail_id)": "32",
    "OFFSET(prb_data_ring.size_bits)": "0",
    "OFFSET(prb_data_ring.data)": "8",
    "SIZE(prb_desc)": "24",
    "OFFSET(prb_desc.state_var)": "0",
    "OFFSET(prb_desc.text_blk_lpos)": "8",
    "OFFSET(prb_data_blk_lpos.begin)": "0",
    "OFFSET(prb_data_blk_lpos.next)": "8",
    "SIZE(printk_info)": "88",
    "OFFSET(printk_info.seq)": "0",
    "OFFSET(printk_info.ts_nsec)": "8",
    "OFFSET(printk_info.text_len)": "16",
    "OFFSET(printk_info.caller_id)": "20",
    "OFFSET(printk_info.dev_info)": "24",
    "OFFSET(dev_printk_info.subsystem)": "0",
    "LENGTH(printk_info_subsystem)": "16",
    "OFFSET(dev_printk_info.device)": "16",
    "LENGTH(printk_info_device)": "48",
    "OFFSET(atomic_long_t.counter)": "0",
}


class RingWriter:
    """Writes records as kernel/printk/printk_ringbuffer.c does: a descriptor, then text; the oldest go.

    The ids start just below a wrap of everything, as the kernel's do.
    """

    def __init__(self, count_bits: int, size_bits: int) -> None:
        assert size_bits >= 8  # any text of these tests fits, wherever it begins
        self.count, self.size = 1 << count_bits, 1 << size_bits
        self.count_bits, self.size_bits = count_bits, size_bits
        self.descs = bytearray(DESC * self.count)
        self.infos = bytearray(INFO * self.count)
        self.data = bytearray(self.size)
        self.head = self.tail = (-self.count - 1) & MASK  # the id of descriptor "-1", as DESC0_ID
        self.lpos = self.tail_lpos = (-self.size) & (1 << 64) - 1
        self.sequence = 0
        self.kept: dict[int, tuple[int, int, bytes]] = {}
        self._set_state(self.head, REUSABLE)

    def _set_state(self, id: int, state: int) -> None:
        struct.pack_into("<Q", self.descs, id % self.count * DESC, state << 62 | id)

    def _push_tail(self) -> None:
        self._set_state(self.tail, REUSABLE)
        self.kept.pop(self.tail, None)
        self.tail = self.tail + 1 & MASK

    def _free(self, needed: int) -> None:
        """Give up the oldest records until that much of the data ring is free."""
        while (self.lpos + needed - self.tail_lpos) % (1 << 64) > self.size:
            _, self.tail_lpos, _ = self.kept.get(self.tail, (0, self.tail_lpos, b""))
            self._push_tail()

    def write(self, text: bytes, *, level: int = 6, state: int = FINALIZED, fails: bool = False) -> int:
        """Add a record; returns its id."""
        id = self.head + 1 & MASK
        if (id - self.tail) % (1 << 62) >= self.count:
            self._push_tail()
        self.head = id
        begin = end = 3 if not text else 1
        if text and not fails:
            length = 8 + -(-len(text) // 8) * 8
            begin, end = self.lpos, (self.lpos + length) % (1 << 64)
            if begin >> self.size_bits != end >> self.size_bits:
                end = (end >> self.size_bits << self.size_bits) + length  # starts over at the ring's start
            self._free((end - begin) % (1 << 64))
            start = begin % self.size if begin >> self.size_bits == end >> self.size_bits else 0
            self.data[start : start + 8 + len(text)] = struct.pack("<Q", id) + text
            self.lpos = end
        index = id % self.count
        struct.pack_into("<QQ", self.descs, index * DESC + 8, begin, end)
        info = struct.pack("<QQHBBI", self.sequence, self.sequence * 1000, len(text), 0, level << 5, 7)
        self.infos[index * INFO : (index + 1) * INFO] = info.ljust(INFO, b"\0")
        self._set_state(id, state)
        self.kept[id] = self.sequence, self.lpos, text
        if fails:
            self.kept[id] = self.sequence, self.lpos, b"\xff lost"
        self.sequence += 1
        return id

    def ring(self) -> Ring:
        return Ring(self.count_bits, 1 << 20, 2 << 20, self.head, self.tail, self.size_bits, 3 << 20)

    def read(self, address: int, size: int) -> bytes:
        area = (self.descs, self.infos, self.data)[(address >> 20) - 1]
        start = address & 0xFFFFF
        assert start + size <= len(area)
        return bytes(area[start : start + size])


texts = st.lists(st.binary(max_size=60), max_size=80)


@given(texts, st.integers(2, 5), st.integers(8, 10))
def test_what_the_kernel_has_kept_is_read(written: list[bytes], count_bits: int, size_bits: int) -> None:
    writer = RingWriter(count_bits, size_bits)
    for text in written:
        writer.write(text)
    seen = [(record.sequence, record.text) for record in read_ring(writer.read, writer.ring(), LAYOUT)]
    assert seen == [(sequence, text) for sequence, _, text in writer.kept.values()]


@given(texts, st.integers(2, 5), st.integers(0, 90))
def test_reading_on_misses_nothing_and_repeats_nothing(
    written: list[bytes], count_bits: int, stop: int
) -> None:
    writer = RingWriter(count_bits, 9)
    seen: list[int] = []
    for number, text in enumerate(written):
        writer.write(text)
        if number % 3 == 0 or number == stop:
            after = seen[-1] if seen else None
            records = read_ring(writer.read, writer.ring(), LAYOUT, after=after, finished_only=True)
            seen += [record.sequence for record in records]
    after = seen[-1] if seen else None
    seen += [record.sequence for record in read_ring(writer.read, writer.ring(), LAYOUT, after=after)]
    assert seen == sorted(set(seen))
    assert not written or set(seen) >= {sequence for sequence, _, _ in writer.kept.values()}


def test_a_record_whose_text_the_kernel_could_not_keep_is_left_out() -> None:
    writer = RingWriter(4, 9)
    writer.write(b"one")
    writer.write(b"two", fails=True)
    writer.write(b"")
    writer.write(b"four")
    seen = [(record.sequence, record.text) for record in read_ring(writer.read, writer.ring(), LAYOUT)]
    assert seen == [(0, b"one"), (2, b""), (3, b"four")]


def test_records_that_may_still_grow_are_the_last_words_but_are_waited_for_when_following() -> None:
    writer = RingWriter(4, 9)
    writer.write(b"one")
    writer.write(b"two", state=COMMITTED)
    writer.write(b"three")

    def seen(finished_only: bool) -> list[bytes]:
        records = read_ring(writer.read, writer.ring(), LAYOUT, finished_only=finished_only)
        return [record.text for record in records]

    assert seen(False) == [b"one", b"two", b"three"]
    assert seen(True) == [b"one"]
    writer._set_state(writer.head, 0)  # reserved: nothing is written yet
    assert seen(False) == [b"one", b"two"]


def test_what_is_overwritten_while_it_is_read_is_left_out() -> None:
    writer = RingWriter(3, 8)
    for number in range(8):
        writer.write(f"record {number}".encode())
    reads = 0

    def read(address: int, size: int) -> bytes:
        nonlocal reads
        reads += 1
        if reads == 3:  # descriptors and infos have been read
            for number in range(3):
                writer.write(b"newer %d" % number)
        return writer.read(address, size)

    records = list(read_ring(read, writer.ring(), LAYOUT, again=writer.read))
    assert [record.text for record in records] == [b"record %d" % number for number in range(3, 8)]


@pytest.mark.parametrize(
    "ring",
    [
        Ring(0, 1, 1, 0, 0, 9, 1),
        Ring(40, 1, 1, 0, 0, 9, 1),
        Ring(4, 1, 1, 0, 0, 63, 1),
        Ring(4, 0, 1, 0, 0, 9, 1),
        Ring(4, 1, 1, 5, 100, 9, 1),
        Ring(4, 1, 1, 100, 5, 9, 1),
    ],
)
def test_a_ring_that_cannot_be(ring: Ring) -> None:
    with pytest.raises(CorruptData):
        list(read_ring(lambda *_: b"", ring, LAYOUT))


def test_the_layout_is_in_vmcoreinfo() -> None:
    layout, _numbers = layout_from_vmcoreinfo(VMCOREINFO)
    assert layout == LAYOUT
    with pytest.raises(UnknownLayout, match=r"lacks OFFSET\(printk_info\.text_len\)"):
        layout_from_vmcoreinfo({"SIZE(prb_desc)": "24"})
    with pytest.raises(UnknownLayout, match="levels"):
        layout_from_vmcoreinfo({**VMCOREINFO, "OFFSET(printk_info.caller_id)": "24"})


# The older buffer

OLD = BufferLayout(
    size=16, time=0, length=8, text_length=10, dict_length=12, facility=14, flags=15, caller=None
)


class BufferWriter:
    """Writes records as kernels before 5.10 do (log_store in kernel/printk/printk.c)."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.first = self.next = self.first_sequence = self.sequence = 0
        self.kept: list[tuple[int, bytes, bytes]] = []

    def _length_at(self, position: int) -> int:
        return int.from_bytes(self.data[position + 8 : position + 10], "little")

    def _drop_oldest(self) -> None:
        length = self._length_at(self.first)
        self.first = 0 + self._length_at(0) if not length else self.first + length
        self.first_sequence += 1
        self.kept.pop(0)

    def _has_room(self, length: int) -> bool:
        empty = self.first_sequence == self.sequence
        if self.next > self.first or empty:
            free = max(len(self.data) - self.next, self.first)
        else:
            free = self.first - self.next
        return free >= length + 16  # an empty header must fit behind it

    def write(self, text: bytes, pairs: bytes = b"") -> None:
        length = -(-(16 + len(text) + len(pairs)) // 4) * 4
        while self.first_sequence < self.sequence and not self._has_room(length):
            self._drop_oldest()
        if self.next + length + 16 > len(self.data):
            self.data[self.next : self.next + 16] = bytes(16)
            self.next = 0
        header = struct.pack("<QHHHBB", self.sequence, length, len(text), len(pairs), 1, 4 << 5)
        self.data[self.next : self.next + length] = (header + text + pairs).ljust(length, b"\0")
        self.next += length
        self.kept.append((self.sequence, text, pairs))
        self.sequence += 1


@given(
    st.lists(
        st.tuples(st.binary(max_size=60), st.sampled_from([b"", b"DEVICE=+pci:1\0SUBSYSTEM=pci"])),
        max_size=60,
    )
)
def test_what_an_older_kernel_has_kept_is_read(written: list[tuple[bytes, bytes]]) -> None:
    writer = BufferWriter(512)
    for text, pairs in written:
        writer.write(text, pairs)
    records = read_buffer(
        bytes(writer.data), OLD, first=writer.first, next=writer.next, first_sequence=writer.first_sequence
    )
    seen = [
        (record.sequence, record.text, b"\0".join(b"=".join(pair) for pair in record.fields))
        for record in records
    ]
    assert seen == writer.kept


@given(st.binary(min_size=64, max_size=256), st.integers(0, 300), st.integers(0, 300))
def test_an_older_buffer_of_anything_ends(data: bytes, first: int, next: int) -> None:
    records: Iterator[object] = read_buffer(data, OLD, first=first, next=next, first_sequence=0)
    with suppress(CorruptData):
        assert len(list(islice(records, 1000))) < 1000


# Rows


def ring_world(writer: RingWriter, *, is_live: bool = False) -> World:
    world = World({}, is_live=is_live)
    world.vmcore = VMCOREINFO
    areas = [world.allocate(len(area)) for area in (writer.descs, writer.infos, writer.data)]
    ring = world.allocate(80)
    world.symbols["prb"] = world.allocate(8)

    def update() -> None:
        for address, area in zip(areas, (writer.descs, writer.infos, writer.data), strict=True):
            world.data[address - BASE : address - BASE + len(area)] = area
        descs, infos, data = areas
        world.data[ring - BASE : ring - BASE + 56] = struct.pack(
            "<QQQQQQQ", writer.count_bits, descs, infos, writer.head, writer.tail, writer.size_bits, data
        )
        world.data[world.symbols["prb"] - BASE : world.symbols["prb"] - BASE + 8] = struct.pack("<Q", ring)

    update()
    world.on_refresh = update
    return world


def test_rows() -> None:
    writer = RingWriter(4, 10)
    writer.write("größer\nals eine Zeile".encode(), level=3)
    id = writer.write(b"\xff\x1b[31m", level=7)
    struct.pack_into("<B", writer.infos, id % 16 * INFO + 18, 3)
    struct.pack_into("<I", writer.infos, id % 16 * INFO + 20, 1 << 31 | 5)
    writer.infos[id % 16 * INFO + 19] |= 8
    writer.infos[id % 16 * INFO + 24 : id % 16 * INFO + 27] = b"usb"
    first, second = log(ring_world(writer), wall_time=False)
    assert (first.level, first.facility, first.text, first.caller) == (
        "err",
        "kern",
        "größer\nals eine Zeile",
        "T7",
    )
    assert (second.level, second.facility, second.text) == ("debug", "daemon", "\udcff\x1b[31m")
    assert (second.caller, second.fields, second.is_continuation) == ("C5", {"SUBSYSTEM": "usb"}, True)
    assert (second.sequence, second.since_boot_ns, second.time, second.lost) == (1, 1000, None, 0)


def test_following_counts_what_was_lost() -> None:
    writer = RingWriter(3, 10)
    writer.write(b"first")
    world = ring_world(writer, is_live=True)
    rows = follow(world, interval=0, wall_time=False)
    assert next(rows).text == "first"
    for number in range(20):
        writer.write(b"later %d" % number)
    row = next(rows)
    assert (row.text, row.lost) == ("later 12", 12)
    assert [next(rows).lost for _ in range(7)] == [0] * 7


def test_a_dump_cannot_be_followed() -> None:
    with pytest.raises(UsageError, match="not a running guest"):
        next(follow(ring_world(RingWriter(3, 10))))


def test_a_kernel_whose_log_is_nowhere() -> None:
    with pytest.raises(UnknownLayout, match="neither prb nor log_buf"):
        list(log(World({})))


def test_the_wall_clock_may_be_unknown() -> None:
    writer = RingWriter(3, 10)
    writer.write(b"text")
    world = ring_world(writer)
    assert [row.time for row in log(world)] == [None]
    assert world.notes == [
        "the wall-clock time of log records is not known: "
        "this kernel's symbol table does not say where the timekeeper is"
    ]

"""Records and the kernel's linked structures, in a synthetic guest."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests.unit.kernel.synthetic import DATA, DIRECT, START, BtfWriter, BytesMemory, Guest, kernel_types
from virtscope.errors import CorruptData, NotMapped, UnknownLayout
from virtscope.kernel import Kernel, KernelCache, find_kernel
from virtscope.kernel.collections import hlist_of, list_of, maple_of, rbtree_of, xarray_of

HEAP = 16 << 20
"""Physical address of what the tests put into the guest."""


def in_guest(heap: dict[int, bytes], btf: BtfWriter | None = None, *, is_live: bool = False) -> Kernel:
    guest = Guest(heap={HEAP + at: data for at, data in heap.items()}, is_live=is_live)
    if btf is not None:
        guest.btf = btf
    return find_kernel(guest.build(), cache=KernelCache(enabled=False))


def at(offset: int) -> int:
    """The direct-map address of the heap's byte `offset`."""
    return DIRECT + HEAP + offset


def members() -> BtfWriter:
    btf = kernel_types()
    int_, uint, ulong, char, uchar = 1, 4, 2, 3, 5
    bool_ = btf.integer("_Bool", 1, boolean=True)
    short = btf.integer("short int", 2, signed=True)
    pair = btf.struct("pair", 8, [("a", int_, 0), ("b", uint, 32)])
    nameless = btf.struct("", 8, [("left", int_, 0), ("right", uint, 32)])
    bits = btf.struct("", 4, [("low", uint, 0, 4), ("sign", int_, 4, 6)], bit_fields=True)
    btf.struct(
        "thing",
        112,
        [
            ("negative", int_, 0),
            ("positive", uint, 32),
            ("yes", bool_, 64),
            ("no", bool_, 72),
            ("half", short, 80),
            ("text", btf.array(char, 8), 96),
            ("raw", btf.array(uchar, 4), 160),
            ("numbers", btf.array(short, 3), 192),
            ("pair", pair, 256),
            ("pairs", btf.array(pair, 2), 320),
            ("", nameless, 448),
            ("", bits, 512),
            ("next", btf.pointer(pair), 576),
            ("nowhere", btf.pointer(0), 640),
            ("wide", ulong, 704),
            ("rest", btf.array(pair, 0), 896),
        ],
    )
    return btf


def thing(pointer: int) -> bytes:
    return struct.pack(
        "<iI??h8s4B3hxxiIiIiIiIIxxxxQQQ",
        -5, 0xFFFFFFFF, True, False, -300, b"ab\0cdef", 1, 2, 3, 255, -1, 2, -3,
        10, 11, 20, 21, 30, 31, -7, 0xFFFFFFF9, 0b100001_1001, pointer, 0, 1 << 63,
    ).ljust(112, b"\0")  # fmt: skip


def test_values() -> None:
    kernel = in_guest({0: thing(at(0x200)), 0x200: struct.pack("<iI", 77, 78)}, members())
    record = kernel.record("thing", at(0))
    assert record["negative"] == -5
    assert record["positive"] == 0xFFFFFFFF
    assert record["yes"] is True
    assert record["no"] is False
    assert record["half"] == -300
    assert record["text"] == b"ab"
    assert record.bytes_of("raw") == bytes([1, 2, 3, 255])
    assert record["raw"] == (1, 2, 3, 255)
    assert record["numbers"] == (-1, 2, -3)
    assert record["pair"]["b"] == record["pair.b"] == 11
    assert [pair["a"] for pair in record["pairs"]] == [20, 30]
    assert record["pairs[1].b"] == 31
    assert (record["left"], record["right"]) == (-7, 0xFFFFFFF9)
    assert (record["low"], record["sign"]) == (9, -31)
    assert record["wide"] == 1 << 63
    assert record["rest"] == ()
    assert record.at("rest") == at(112)
    assert record["pairs"][1].at("b") == at(52)
    assert record.pointee("next")["a"] == 77
    assert record["nowhere"] == 0
    assert record.has("left")
    assert not record.has("middle")
    assert record.get("middle", 3) == 3
    assert record.layout.first("middle", "centre", "right") == "right"


def test_what_is_not_there() -> None:
    kernel = in_guest({0: thing(1 << 63), 0x200: thing(0)}, members())
    wild, empty = kernel.record("thing", at(0)), kernel.record("thing", at(0x200))
    with pytest.raises(UnknownLayout, match="thing has no member middle"):
        wild["middle"]
    with pytest.raises(UnknownLayout, match="none of the members"):
        wild.layout.first("middle", "centre")
    with pytest.raises(UnknownLayout, match="gadget"):
        kernel.struct("gadget")
    with pytest.raises(CorruptData, match=r"thing\.next leads to 0x8000000000000000"):
        wild.follow("next")
    assert empty.follow("next") is None
    with pytest.raises(CorruptData, match="is NULL"):
        empty.pointee("next")
    with pytest.raises(UnknownLayout, match="no known structure"):
        wild.inner("wide")
    with pytest.raises(NotMapped):
        kernel.record("thing", 0x1000)
    with pytest.raises(NotMapped):
        kernel.read(at(0) + (20 << 20), 8)
    for size in (-1, 1 << 40):
        with pytest.raises(CorruptData, match="cannot be"):
            kernel.read(at(0), size)
    assert kernel.read(at(0), 0) == b""
    with pytest.raises(UnknownLayout):
        kernel.variable("linux_banner")


def test_a_structure_at_the_end_of_memory() -> None:
    """Tasks are allocated smaller than their type: the last one may reach past the end of RAM."""
    kernel = in_guest({(8 << 20) - 32: thing(0)[:32]}, members())
    record = kernel.record("thing", at((8 << 20) - 32))
    assert record["negative"] == -5
    assert record["text"] == b"ab"
    for member in ("wide", "pair.a", "pairs[1].b", "low"):
        with pytest.raises(CorruptData, match="is not in memory"):
            record[member]
    with pytest.raises(CorruptData, match="is not in memory"):
        record.bytes_of("pairs")
    with pytest.raises(NotMapped):
        kernel.record("thing", at(8 << 20))


def test_enums_and_cpus() -> None:
    kernel = in_guest({})
    assert kernel.enum("colour") == {"RED": 1, "GREEN": 2}
    assert kernel.enumerator("GREEN") == 2
    assert kernel.online_cpus() == (0, 1)
    with pytest.raises(UnknownLayout):
        kernel.enum("taste")
    with pytest.raises(UnknownLayout):
        kernel.enumerator("SALTY")
    with pytest.raises(UnknownLayout):
        kernel.possible_cpus()
    with pytest.raises(UnknownLayout):
        kernel.percpu("a_percpu_variable", 1 << 20)


def test_strings() -> None:
    kernel = in_guest({4090: b"over the page's end\0not this", 8192: b"x" * 5000})
    assert kernel.read_cstring(at(4090)) == b"over the page's end"
    assert kernel.read_cstring(at(4090), 8) == b"over the"
    assert kernel.read_cstring(at(8192), 4999) == b"x" * 4999


# Lists and trees


def nodes(order: list[int], circular: bool) -> dict[int, bytes]:
    """Tasks at 0x1000, 0x1100, ... linked in that order from a head at 0, by `tasks` or `link`."""
    places = [0] + [0x1000 + 0x100 * i for i in order]
    heap = {}
    for i, place in enumerate(places):
        after = places[(i + 1) % len(places)]
        if circular:
            pair = struct.pack("<QQ", at(after + (8 if after else 0)), 0)
            heap[place] = (
                pair if not place else (bytes(8) + pair + struct.pack("<i", order[i - 1])).ljust(128, b"\0")
            )
        else:
            pair = struct.pack("<QQ", at(after + 64) if after else 0, 0)
            heap[place] = (
                pair
                if not place
                else (bytes(24) + struct.pack("<i", order[i - 1]).ljust(40, b"\0") + pair).ljust(128, b"\0")
            )
    return heap


def test_lists() -> None:
    order = [3, 1, 4, 2]
    kernel = in_guest(nodes(order, circular=True))
    assert [task["pid"] for task in list_of(kernel, at(0), "task_struct", "tasks")] == order
    kernel = in_guest(nodes(order, circular=False))
    assert [task["pid"] for task in hlist_of(kernel, at(0), "task_struct", "link")] == order


@pytest.mark.parametrize("circular", [True, False])
def test_broken_lists(circular: bool) -> None:
    walk: Callable[..., object] = list_of if circular else hlist_of
    member, offset = ("tasks", 8) if circular else ("link", 64)
    sound = nodes([1, 2, 3], circular)
    broken = {
        "loops": at(0x1100 + offset),
        "leads to": 0xDEAD_0000_0000_0100 & ~1,
        "leads to 0xffff8": 0xFFFF_8000_0000_0000,
    }
    for message, pointer in broken.items():
        heap = dict(sound)
        last = bytearray(heap[0x1300])
        last[offset : offset + 8] = struct.pack("<Q", pointer)
        heap[0x1300] = bytes(last)
        with pytest.raises(CorruptData, match=message):
            list(walk(in_guest(heap), at(0), "task_struct", member))  # type: ignore[call-overload]
    with pytest.raises(CorruptData, match="more than 2"):
        list(walk(in_guest(sound), at(0), "task_struct", member, limit=2))  # type: ignore[call-overload]


def tree(links: dict[int, tuple[int, int]]) -> dict[int, bytes]:
    """Tasks with pid i at 0x1000 + 0x100 i, with (left, right) children; the root at 0 leads to the first."""

    def place(pid: int) -> int:
        return at(0x1000 + 0x100 * pid + 80) if pid else 0

    heap = {0: struct.pack("<Q", place(next(iter(links))))}
    for pid, (left, right) in links.items():
        head = bytes(24) + struct.pack("<i", pid)
        heap[0x1000 + 0x100 * pid] = (
            head.ljust(80, b"\0") + struct.pack("<QQQ", 0, place(right), place(left))
        ).ljust(128, b"\0")
    return heap


def test_trees() -> None:
    kernel = in_guest(tree({4: (2, 6), 2: (1, 3), 6: (5, 7), 1: (0, 0), 3: (0, 0), 5: (0, 0), 7: (0, 0)}))
    assert [task["pid"] for task in rbtree_of(kernel, at(0), "task_struct", "branch")] == [
        1,
        2,
        3,
        4,
        5,
        6,
        7,
    ]


@pytest.mark.parametrize("links", [{1: (2, 0), 2: (1, 0)}, {1: (0, 2), 2: (0, 1)}])
def test_trees_that_loop(links: dict[int, tuple[int, int]]) -> None:
    with pytest.raises(CorruptData, match="loops"):
        list(rbtree_of(in_guest(tree(links)), at(0), "task_struct", "branch"))


def xa_node(shift: int, slots: dict[int, int]) -> bytes:
    table = [slots.get(i, 0) for i in range(64)]
    return bytes([shift]).ljust(64, b"\0") + struct.pack("<64Q", *table)


def test_xarray() -> None:
    inside = {
        0: struct.pack("<QQ", 0, at(0x1000) | 2),
        0x1000: xa_node(6, {0: at(0x2000) | 2, 5: at(0x3000) | 2}),
        0x2000: xa_node(0, {1: at(0x500), 3: 0x15, 4: 0x102}),
        0x3000: xa_node(0, {63: at(0x600)}),
    }
    kernel = in_guest(inside)
    assert list(xarray_of(kernel, at(0))) == [(1, at(0x500)), (3, 0x15), (383, at(0x600))]
    assert list(xarray_of(in_guest({0: struct.pack("<QQ", 0, at(0x500))}), at(0))) == [(0, at(0x500))]
    assert list(xarray_of(in_guest({0: bytes(16)}), at(0))) == []


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (xa_node(6, {0: at(0x1000) | 2}), "loops"),
        (xa_node(6, {0: at(0x2000) | 2}), "level 6 under level 6"),
        (xa_node(6, {0: 0xFFFF_8000_0000_0002}), "leads to"),
        (xa_node(200, {0: at(0x2000) | 2}), "level 200"),
    ],
)
def test_broken_xarray(node: bytes, message: str) -> None:
    heap = {0: struct.pack("<QQ", 0, at(0x1000) | 2), 0x1000: node, 0x2000: xa_node(6, {})}
    with pytest.raises(CorruptData, match=message):
        list(xarray_of(in_guest(heap), at(0)))


def maple(kind: int, offset: int) -> int:
    return at(offset) | kind << 3 | 6


def test_maple_tree() -> None:
    def range64(pivots: list[int], slots: list[int]) -> bytes:
        return struct.pack("<Q15Q16Q", 0, *(pivots + [0] * 15)[:15], *(slots + [0] * 16)[:16])

    def arange64(pivots: list[int], slots: list[int]) -> bytes:
        return struct.pack("<Q9Q10Q", 0, *(pivots + [0] * 9)[:9], *(slots + [0] * 10)[:10]).ljust(256, b"\0")

    heap = {
        0: struct.pack("<QQ", 0, maple(3, 0x1000)),
        0x1000: arange64([99, 299], [maple(1, 0x1100), maple(1, 0x1200), maple(1, 0x1300)]),
        0x1100: range64([9, 19, 99], [at(0x40), 0, at(0x80)]),
        0x1200: range64([299], [at(0xC0)]),
        0x1300: range64([399], [0, at(0x100)]),
    }
    found = list(maple_of(in_guest(heap), at(0)))
    assert found == [
        (0, 9, at(0x40)),
        (20, 99, at(0x80)),
        (100, 299, at(0xC0)),
        (400, (1 << 64) - 1, at(0x100)),
    ]
    assert list(maple_of(in_guest({0: bytes(16)}), at(0))) == []
    heap[0x1200] = range64([250, 200], [at(0xC0), at(0xC0)])
    with pytest.raises(CorruptData, match="overlap"):
        list(maple_of(in_guest(heap), at(0)))
    heap[0x1000] = arange64([99], [maple(3, 0x1000)])
    with pytest.raises(CorruptData, match="loops"):
        list(maple_of(in_guest(heap), at(0)))


# Live guests


def test_torn_reads_are_tried_again() -> None:
    kernel = in_guest(nodes([1, 2, 3], circular=True), is_live=True)
    memory = kernel.memory
    assert isinstance(memory, BytesMemory)
    good = kernel.read(at(0x1208), 8)
    memory.write(HEAP + 0x1208, struct.pack("<Q", 0x1000))
    kernel.refresh()
    attempts = 0

    def read() -> list[int]:
        nonlocal attempts
        attempts += 1
        if attempts == 3:
            memory.write(HEAP + 0x1208, good)
            kernel.refresh()
        return [task["pid"] for task in list_of(kernel, at(0), "task_struct", "tasks")]

    assert kernel.retried(read) == [1, 2, 3]
    assert attempts == 3
    memory.write(HEAP + 0x1208, struct.pack("<Q", 0x1000))
    attempts = 10
    with pytest.raises(CorruptData):
        kernel.retried(read)
    assert attempts == 14


def test_a_dump_is_read_once() -> None:
    kernel = in_guest({})
    calls = []

    def read() -> None:
        calls.append(1)
        raise NotMapped("nothing there")

    with pytest.raises(CorruptData, match="nothing there"):
        kernel.retried(read)
    assert len(calls) == 1


def test_refresh_shows_the_guest_as_it_is_now() -> None:
    kernel = in_guest({0: b"before"}, is_live=True)
    assert kernel.read(at(0), 6) == b"before"
    assert isinstance(kernel.memory, BytesMemory)
    kernel.memory.write(HEAP, b"after!")
    kernel.refresh()
    assert kernel.read(at(0), 6) == b"after!"


def test_image_and_direct_map_are_the_same_memory() -> None:
    kernel = in_guest({})
    physical = kernel.translate(START + DATA)
    assert kernel.read(START + DATA, 4096) == kernel.read(DIRECT + physical, 4096)

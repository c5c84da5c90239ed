"""Damaged and invented kernel data: only our own errors come out, and nothing runs away."""

from __future__ import annotations

import functools
import struct
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.kernel.synthetic import (
    DATA,
    KALLSYMS_LAYOUTS,
    PHYSICAL,
    RODATA,
    START,
    BtfWriter,
    BytesMemory,
    Guest,
    kernel_types,
)
from virtscope.errors import FormatError, KernelError, KernelNotFound, NotMapped, VirtscopeError
from virtscope.kernel import Kernel, KernelCache, find_kernel
from virtscope.kernel.btf import Btf
from virtscope.kernel.notes import parse_build_id
from virtscope.kernel.paging import AddressSpace
from virtscope.kernel.vmcoreinfo import parse_vmcoreinfo

MANY = settings(max_examples=150, deadline=None)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])

PATHS = ("pid", "tasks.next", "comm", "slots[3]", "mr64.pivot[14]", "bits", "x.y.z", "next.next")
NAMES = ("task_struct", "list_head", "xa_node", "maple_node", "rb_node", "colour", "int", "#7", "#99999", "#")

changes = st.lists(
    st.tuples(st.integers(0, 1 << 30), st.binary(min_size=1, max_size=8)), min_size=1, max_size=12
)


def use_types(btf: Btf) -> None:
    for name in NAMES:
        btf.struct_size(name)
        btf.enum(name)
        btf.enumerator(name)
        for path in PATHS:
            member = btf.member(name, path)
            assert member is None or 0 <= member.offset <= member.offset + member.size <= 4 << 20


@MANY
@given(changes)
def test_damaged_btf(damage: list[tuple[int, bytes]]) -> None:
    data = bytearray(kernel_types().build())
    for place, content in damage:
        place %= len(data)
        data[place : place + len(content)] = content
    with suppress(FormatError):
        use_types(Btf(bytes(data)))


@MANY
@given(st.lists(st.integers(0, (1 << 32) - 1), max_size=60), st.binary(max_size=64))
def test_invented_btf(words: list[int], strings: bytes) -> None:
    """Any words as types, made likelier to be some: kinds, small type numbers and name offsets."""
    types = struct.pack(f"<{len(words)}I", *words)
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings) + 1)
    with suppress(FormatError):
        use_types(Btf(header + types + strings + b"\0"))


@MANY
@given(st.data())
def test_btf_of_tangled_types(data: st.DataObject) -> None:
    """Well-formed records that refer to each other in every way, also in circles."""
    btf = BtfWriter()
    number = st.integers(0, 12)
    for index in range(10):
        kind = data.draw(st.sampled_from("psatue"))
        one, two = data.draw(number), data.draw(number)
        if kind == "p":
            btf.pointer(one)
        elif kind in "su":
            btf.struct(
                data.draw(st.sampled_from(("task_struct", "list_head", ""))),
                data.draw(st.integers(0, 1 << 31)),
                [("pid", one, 0), ("", two, data.draw(st.integers(0, 1 << 31))), ("next", two, 64)],
                union=kind == "u",
            )
        elif kind == "a":
            btf.array(one, data.draw(st.integers(0, (1 << 32) - 1)), two)
        elif kind == "t":
            btf.typedef(f"colour{index}", one)
        else:
            btf.enum("colour", {"RED": one})
    with suppress(FormatError):
        use_types(Btf(btf.build()))


@MANY
@given(
    st.dictionaries(
        st.tuples(st.integers(1, 5), st.integers(0, 511)), st.integers(0, (1 << 64) - 1), max_size=40
    )
)
def test_invented_page_tables(entries: dict[tuple[int, int], int]) -> None:
    ram = bytearray(64 << 10)
    for (table, index), entry in entries.items():
        # Mostly tables that are there, so that walks go deep.
        entry = entry if entry & 1 else (entry & 0x7000) | 0x67
        struct.pack_into("<Q", ram, table * 4096 + 8 * index, entry)
    memory = BytesMemory({0: ram})
    for levels in (4, 5):
        space = AddressSpace(memory, 0x1000, levels, "test")
        for table, index in entries:
            for shift in (12, 21, 30, 39):
                address = index << shift | table << 30
                with suppress(NotMapped):
                    space.read(address, 5000)
        assert memory.reads < 20_000


@MANY
@given(st.binary(max_size=300))
def test_invented_notes_and_vmcoreinfo(data: bytes) -> None:
    parse_build_id(data)
    parse_build_id(struct.pack("<III", 4, len(data), 3) + b"GNU\0" + data)
    parse_vmcoreinfo(b"OSRELEASE=" + data)
    with suppress(FormatError):
        parse_vmcoreinfo(data)


# Whole guests


@functools.cache
def sound(layout: str | None, has_types: bool = True) -> BytesMemory:
    guest = Guest(layout=layout, btf=kernel_types() if has_types else None)
    return guest.build()


def damaged(memory: BytesMemory, damage: list[tuple[int, bytes]], low: int, high: int) -> BytesMemory:
    """A copy, changed between two offsets into the kernel image."""
    ram = bytearray(memory.parts[0])
    for place, content in damage:
        place = PHYSICAL + low + place % (high - low)
        ram[place : place + len(content)] = content
    return BytesMemory({0: ram}, roots=memory.roots)


def use_kernel(memory: BytesMemory) -> None:
    """What every view does, with whatever errors it may meet."""
    try:
        kernel = find_kernel(memory, cache=KernelCache(enabled=False))
    except KernelNotFound:
        return
    for use in (names, symbols, structures):
        with suppress(KernelError, FormatError):
            use(kernel)


def names(kernel: Kernel) -> None:
    layout = kernel.struct("task_struct")
    for count, task in enumerate(
        kernel.list_of(kernel.symbol("init_task") + layout.offset("tasks"), "task_struct", "tasks")
    ):
        assert count < 200_000
        task["comm"], task["pid"], task.follow("real_parent")


def symbols(kernel: Kernel) -> None:
    for name in ("init_task", "filler_sym_00200", "nothing", "runqueues"):
        kernel.has_symbol(name)
    for offset in (0, 16, 5000, RODATA, DATA + 0x8000, (10 << 20) - 1):
        kernel.symbolize(START + offset)
    kernel.online_cpus()
    kernel.build_id, kernel.vmcoreinfo  # noqa: B018


def structures(kernel: Kernel) -> None:
    for name in NAMES:
        if kernel.has_struct(name):
            kernel.struct(name).has("pid")
    if kernel.has_types:
        kernel.enum("colour")


@FEW
@given(changes, st.sampled_from(KALLSYMS_LAYOUTS))
def test_damaged_kallsyms(damage: list[tuple[int, bytes]], layout: str) -> None:
    use_kernel(damaged(sound(layout), damage, RODATA + 0x10000, RODATA + 0x20000))


@FEW
@given(changes)
def test_damaged_types_in_a_guest(damage: list[tuple[int, bytes]]) -> None:
    use_kernel(damaged(sound("6.5"), damage, RODATA + 0x100000, RODATA + 0x101000))


@FEW
@given(changes, st.booleans())
def test_damaged_tables_and_tasks(damage: list[tuple[int, bytes]], has_types: bool) -> None:
    use_kernel(damaged(sound("6.5", has_types), damage, DATA, DATA + 0xA000))


def test_memory_full_of_signs_of_kernels() -> None:
    """Every page is the start of read-only data, a level3_kernel_pgt or a token table: it must end soon."""
    pages = 8192
    level3 = struct.pack("<510xQQ".replace("510x", f"{510 * 8}x"), 0x5000 | 0x63, 0x6000 | 0x63)
    level2 = b"".join(struct.pack("<Q", (index << 21) | 0x1E3) for index in range(512))
    digits = b"".join(b"%c\0" % byte for byte in range(0x20, 0x7F)).ljust(4096, b"\x01")
    for page in (level3, level2, digits, b"%s version %s (".ljust(4096, b"x"), b"\x9f\xeb\x01\0" * 1024):
        ram = bytearray(page * pages)
        ram[0x5000:0x6000] = level2
        ram[0x6000:0x7000] = level3
        memory = BytesMemory({0: ram}, roots=[page * 4096 for page in range(16)])
        with pytest.raises(KernelNotFound):
            find_kernel(memory, cache=KernelCache(enabled=False))
        assert memory.read_bytes < 100 * len(ram)


def test_drgn_types_of_hostile_btf() -> None:
    btf = kernel_types()
    number = len(btf.types) + 1
    btf.typedef("circle", number)
    btf.array(number + 2, 3)
    btf.array(number + 1, 3)
    btf.struct("bad", 8, [("circle", number, 0), ("arrays", number + 1, 0), ("none", 1 << 20, 0)])
    kernel = find_kernel(Guest(btf=btf).build(), cache=KernelCache(enabled=False))
    bad = kernel.prog.type("struct bad")
    for member in bad.members:
        with pytest.raises((VirtscopeError, LookupError, ValueError)):
            _ = member.type
    with pytest.raises((VirtscopeError, LookupError)):
        kernel.prog.type("circle")
    assert kernel.prog["init_task"].comm.string_() == b"swapper/0"

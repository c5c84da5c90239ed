"""Finding kernels in synthetic guests: every layout of tables, with and without what helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.kernel.synthetic import (
    BANNER,
    DATA,
    KALLSYMS_LAYOUTS,
    PHYSICAL,
    RELEASE,
    START,
    BytesMemory,
    Guest,
)
from virtscope.errors import KernelNotFound, UnknownLayout
from virtscope.kernel import Kernel, KernelCache, find_kernel


def found(memory: BytesMemory) -> Kernel:
    return find_kernel(memory, cache=KernelCache(enabled=False))


def names(kernel: Kernel) -> list[tuple[int, bytes]]:
    layout = kernel.struct("task_struct")
    head = kernel.symbol("init_task") + layout.offset("tasks")
    return [(task["pid"], task["comm"]) for task in kernel.list_of(head, "task_struct", "tasks")]


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("roots_known", [True, False])
@pytest.mark.parametrize("layout", KALLSYMS_LAYOUTS)
def test_every_layout_is_found(layout: str, roots_known: bool, levels: int) -> None:
    guest = Guest(layout=layout, levels=levels, roots_known=roots_known)
    kernel = found(guest.build())
    assert kernel.release == RELEASE
    assert kernel.banner.encode() == BANNER[:-2]
    assert kernel.symbol("_text") == START
    assert kernel.symbol("init_task") == START + DATA + 0x8000
    assert kernel.symbol("filler_sym_00001") == START + 16 + 64
    assert kernel.symbolize(START + 16 + 64 * 700 + 5) == ("a_very_long_name_" + "Q" * 180, 5, None)
    assert not kernel.has_symbol("filler_sym_99999")
    assert names(kernel) == list(guest.tasks)
    assert kernel.image.levels == levels
    assert kernel.direct_map == guest.direct
    assert len(kernel.evidence) == 3
    if layout not in ("6.17", "7.0"):
        assert kernel.symbol("runqueues") == 0x2000
        assert kernel.percpu("runqueues", 1) == 0x2222_2000


def test_user_page_tables_of_an_isolated_process() -> None:
    kernel = found(Guest(isolated=True).build())
    assert "page table root of a CPU" in kernel.evidence[0]


def test_image_with_a_part_mapped_by_small_pages() -> None:
    assert found(Guest(split=True, roots_known=False).build()).release == RELEASE


@pytest.mark.parametrize("layout", ["5.0", None])
def test_without_types_tasks_are_known_by_structure(layout: str | None) -> None:
    guest = Guest(layout=layout, btf=None)
    memory = guest.build()
    if layout is None:
        _put_vmcoreinfo(memory)
    kernel = found(memory)
    assert not kernel.has_types
    assert names(kernel) == list(guest.tasks)
    assert kernel.symbol("init_task") == START + DATA + 0x8000
    assert kernel.struct("task_struct").offset("pid") == 24
    assert kernel.struct("task_struct").offset("real_parent") == 32
    assert any("BTF" in note for note in kernel.notes)
    with pytest.raises(UnknownLayout, match="cred"):
        kernel.struct("cred")


def test_without_symbols_variables_are_known_by_content() -> None:
    guest = Guest(layout=None)
    memory = guest.build()
    _put_vmcoreinfo(memory, "SYMBOL(prb)=ffffffff9aa00010")
    kernel = found(memory)
    assert not kernel.has_symbols
    assert kernel.symbol("init_task") == START + DATA + 0x8000
    assert kernel.symbol("prb") == 0xFFFFFFFF9AA00010
    assert kernel.vmcoreinfo["OSRELEASE"] == RELEASE
    assert names(kernel) == list(guest.tasks)
    with pytest.raises(UnknownLayout, match="modules"):
        kernel.symbol("modules")


def test_a_banner_alone_is_no_kernel() -> None:
    guest = Guest(layout=None, btf=None, tasks=())
    with pytest.raises(KernelNotFound, match="no Linux kernel found"):
        found(guest.build())


def test_memory_without_a_kernel() -> None:
    for content in (bytes(8 << 20), b"\x23" * (8 << 20), b"%s version %s (" * (512 << 10)):
        with pytest.raises(KernelNotFound):
            found(BytesMemory({0: bytearray(content)}, roots=[0x1000, 0xFFFF_FFFF_F000, 1 << 51]))


def test_a_copy_of_the_image_elsewhere_is_not_the_kernel() -> None:
    """What a decompressor or a file in the page cache leaves: all of the content, none of the tables."""
    real = Guest(roots_known=False).build()
    ram = bytearray(64 << 20)
    ram[40 << 20 : 64 << 20] = real.parts[0]
    ram[PHYSICAL : PHYSICAL + (10 << 20)] = real.parts[0][PHYSICAL : PHYSICAL + (10 << 20)]
    both = BytesMemory({0: ram})
    # The copy's tables map the original; its own place is never taken for it.
    both.write(20 << 20, bytes(real.parts[0][20 << 20 : 21 << 20]))
    assert found(both).image.physical == PHYSICAL
    ram[PHYSICAL : PHYSICAL + (10 << 20)] = bytes(10 << 20)
    with pytest.raises(KernelNotFound):
        found(both)


def test_a_guest_is_remembered_and_the_hint_is_checked(tmp_path: Path) -> None:
    cache = KernelCache(str(tmp_path / "kernels"))
    guest = Guest(identity="42:7:boot", roots_known=False, is_live=True)
    memory = guest.build()
    kernel = find_kernel(memory, cache=cache)
    assert names(kernel) == list(guest.tasks)
    kernel.close()
    memory.read_bytes = 0
    again = find_kernel(memory, cache=cache)
    assert names(again) == list(guest.tasks)
    assert memory.read_bytes < 1 << 18, "a known guest is not searched again"
    # The guest reboots into a kernel elsewhere: the hint no longer holds.
    other = Guest(identity="42:7:boot", layout="7.0", levels=5, is_live=True).build()
    assert find_kernel(other, cache=cache).image.levels == 5
    # And one that is gone is not found where it was.
    with pytest.raises(KernelNotFound):
        find_kernel(BytesMemory({0: bytearray(24 << 20)}, identity="42:7:boot"), cache=cache)


def test_a_kernel_is_known_again_in_another_guest(tmp_path: Path) -> None:
    cache = KernelCache(str(tmp_path / "kernels"))
    first = find_kernel(Guest().build(), cache=cache)
    assert len(names(first)) == 4
    first.close()
    second = find_kernel(Guest(levels=5).build(), cache=cache)
    assert names(second) == list(Guest().tasks)
    assert second.struct("task_struct").size == 128


def test_what_another_guest_learned_is_not_used_for_other_bytes(tmp_path: Path) -> None:
    """The same banner and symbols, other types: nothing of the first may be believed of the second."""
    cache = KernelCache(str(tmp_path / "kernels"))
    first = find_kernel(Guest().build(), cache=cache)
    assert len(names(first)) == 4
    first.close()
    btf = Guest().btf
    assert btf is not None
    btf.types = [
        record.replace((192).to_bytes(4, "little"), (224).to_bytes(4, "little")) for record in btf.types
    ]
    second = find_kernel(Guest(btf=btf).build(), cache=cache)
    assert second.struct("task_struct").offset("pid") == 28


def _put_vmcoreinfo(memory: BytesMemory, *lines: str) -> None:
    text = "\n".join([f"OSRELEASE={RELEASE}", "PAGESIZE=4096", *lines, ""])
    memory.write(22 << 20, text.encode())

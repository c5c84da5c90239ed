"""The RAM layout out of the command line and the mappings; that QEMU agrees is tested on real ones."""

from __future__ import annotations

import shlex

import pytest

from virtscope.host.command_line import parse_command_line
from virtscope.host.qemu import QemuProcess
from virtscope.host.ram_from_mappings import layouts_from_mappings
from virtscope.memory.live import HostRange
from virtscope.memory.mappings import Mapping

MIB, GIB = 1 << 20, 1 << 30
BASE = 0x7F0000000000
STACK = Mapping(BASE - 64 * MIB, BASE - 56 * MIB, "rw-p", 0, 0, "")
CODE = Mapping(BASE - 2 * GIB, BASE - GIB, "rwxp", 0, 0, "")


def process(options: str, program: str = "qemu-system-x86_64") -> QemuProcess:
    return QemuProcess(4711, 99, program, parse_command_line(shlex.split(options)))


def anonymous(start: int, size: int) -> Mapping:
    return Mapping(start, start + size, "rw-p", 0, 0, "")


def file(start: int, size: int, path: str, inode: int = 5) -> Mapping:
    return Mapping(start, start + size, "rw-s", 0, inode, path)


@pytest.mark.parametrize(
    ("options", "size", "low"),
    [
        ("-M pc -m 512", 512 * MIB, None),
        ("-M pc -m 3583", 3583 * MIB, None),
        ("-M q35 -m 2815", 2815 * MIB, None),
        ("-M q35 -m 2816", 2816 * MIB, 2 * GIB),
        ("-M q35 -m 6G", 6 * GIB, 2 * GIB),
        ("-M pc-q35-8.2,max-ram-below-4g=1G -m 6G", 6 * GIB, GIB),
        ("-M microvm -m 3G", 3 * GIB, None),
        ("-M microvm -m 6G", 6 * GIB, 3 * GIB),
        ("-M pc,max-ram-below-4g=2G -m 3G", 3 * GIB, 2 * GIB),
    ],
)
def test_machines_cut_their_ram(options: str, size: int, low: int | None) -> None:
    possible = layouts_from_mappings(process(options), [CODE, STACK, anonymous(BASE, size)])
    expected = (
        (HostRange(0, size, BASE),)
        if low is None
        else (HostRange(0, low, BASE), HostRange(4 * GIB, size - low, BASE + low))
    )
    assert possible.layouts == (expected,)
    assert possible.is_certain


def test_old_pc_machines_may_cut_later() -> None:
    possible = layouts_from_mappings(process("-m 6G"), [anonymous(BASE, 6 * GIB)])
    assert [layout[0].size for layout in possible.layouts] == [3 * GIB, 0xE0000000]
    assert not possible.is_certain


@pytest.mark.parametrize(
    ("program", "options", "base", "is_certain"),
    [
        ("qemu-system-aarch64", "-M virt -m 4G", GIB, True),
        ("qemu-system-aarch64", "-M virt-8.2 -m 4G", GIB, True),
        ("qemu-system-riscv64", "-M virt -m 4G", 2 * GIB, True),
        ("qemu-system-ppc64", "-M pseries -m 4G", 0, False),
    ],
)
def test_other_architectures(program: str, options: str, base: int, is_certain: bool) -> None:
    possible = layouts_from_mappings(process(options, program), [anonymous(BASE, 4 * GIB)])
    assert possible.layouts == ((HostRange(base, 4 * GIB, BASE),),)
    assert possible.is_certain == is_certain


def test_a_machine_nobody_knows_is_not_certain() -> None:
    assert not layouts_from_mappings(process("-M xenpv -m 1G"), [anonymous(BASE, GIB)]).is_certain


def test_memory_that_can_grow_is_not_certain() -> None:
    possible = layouts_from_mappings(process("-M q35 -m 1G,slots=2,maxmem=4G"), [anonymous(BASE, GIB)])
    assert len(possible.layouts) == 1
    assert not possible.is_certain


def test_two_mappings_of_the_size_are_two_layouts_the_upper_first() -> None:
    possible = layouts_from_mappings(
        process("-M q35 -m 64"), [anonymous(BASE, 64 * MIB), anonymous(BASE + GIB, 64 * MIB)]
    )
    assert [layout[0].host_address for layout in possible.layouts] == [BASE + GIB, BASE]
    assert not possible.is_certain


def test_ram_joined_with_a_neighbour_is_at_its_end() -> None:
    possible = layouts_from_mappings(process("-M q35 -m 1G"), [anonymous(BASE - 12 * MIB, GIB + 12 * MIB)])
    assert possible.layouts[0] == (HostRange(0, GIB, BASE),)
    assert not possible.is_certain


def test_ram_the_kernel_cut_is_found_again() -> None:
    possible = layouts_from_mappings(
        process("-M q35 -m 1G"), [anonymous(BASE, 300 * MIB), anonymous(BASE + 300 * MIB, 724 * MIB)]
    )
    assert possible.layouts == ((HostRange(0, GIB, BASE),),)


def test_translated_code_is_no_ram() -> None:
    assert layouts_from_mappings(process("-M q35 -m 1G"), [CODE, STACK]).layouts == ()


def test_numa_nodes_by_size_and_the_pci_hole_within_one() -> None:
    options = (
        "-M q35 -m 4G -object memory-backend-ram,id=a,size=1G -object memory-backend-ram,id=b,size=3G "
        "-numa node,memdev=a -numa node,memdev=b"
    )
    mappings = [anonymous(BASE, 3 * GIB), anonymous(BASE + 8 * GIB, GIB)]
    possible = layouts_from_mappings(process(options), mappings)
    assert possible.layouts == (
        (
            HostRange(0, GIB, BASE + 8 * GIB),
            HostRange(GIB, GIB, BASE),
            HostRange(4 * GIB, 2 * GIB, BASE + GIB),
        ),
    )
    assert possible.is_certain


def test_numa_nodes_of_one_size_in_every_order_the_oldest_uppermost_first() -> None:
    options = (
        "-M q35 -m 2G -object memory-backend-memfd,id=a,size=1G -object memory-backend-memfd,id=b,size=1G "
        "-numa node,nodeid=1,memdev=a -numa node,nodeid=0,memdev=b"
    )
    name = "/memfd:memory-backend-memfd (deleted)"
    mappings = [anonymous(BASE - 4 * GIB, GIB), file(BASE, GIB, name, 7), file(BASE + GIB, GIB, name, 8)]
    possible = layouts_from_mappings(process(options), mappings)
    assert [[item.host_address for item in layout] for layout in possible.layouts] == [
        [BASE, BASE + GIB],
        [BASE + GIB, BASE],
    ]


def test_files_are_told_by_their_names() -> None:
    options = (
        "-M q35 -m 2G -object memory-backend-file,id=a,size=1G,mem-path=/dev/shm "
        "-object memory-backend-file,id=b,size=1G,mem-path=/srv/ram -numa node,memdev=a -numa node,memdev=b"
    )
    mappings = [
        file(BASE, GIB, "/dev/shm/qemu_back_mem.a.Xy12Zz (deleted)", 7),
        file(BASE + GIB, GIB, "/srv/ram", 8),
        file(BASE + 2 * GIB, GIB, "/srv/other", 9),
    ]
    possible = layouts_from_mappings(process(options), mappings)
    assert possible.layouts == ((HostRange(0, GIB, BASE), HostRange(GIB, GIB, BASE + GIB)),)
    assert possible.is_certain


def test_a_file_of_huge_pages_may_be_larger() -> None:
    mappings = [file(BASE, GIB, "/dev/hugepages/qemu_back_mem.pc.ram.AAAAAA (deleted)")]
    options = (
        "-M q35,memory-backend=pc.ram -m 1000 "
        "-object memory-backend-file,id=pc.ram,size=1000M,mem-path=/dev/hugepages"
    )
    assert layouts_from_mappings(process(options), mappings).layouts == ((HostRange(0, 1000 * MIB, BASE),),)


def test_many_nodes_that_cannot_be_placed_cost_no_time() -> None:
    nodes = 16
    options = "-M q35 -m 16G " + " ".join(
        f"-object memory-backend-ram,id=m{n},size=1G -numa node,memdev=m{n}" for n in range(nodes)
    )
    mappings = [anonymous(BASE + 2 * n * GIB, GIB) for n in range(nodes - 1)]
    assert layouts_from_mappings(process(options), mappings).layouts == ()
    mappings.append(anonymous(BASE + 64 * GIB, GIB))
    assert len(layouts_from_mappings(process(options), mappings).layouts) == 32

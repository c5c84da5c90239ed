"""The RAM layout out of what QEMU's monitor prints."""

from __future__ import annotations

import pytest

from virtscope.errors import MonitorError
from virtscope.host.command_line import parse_command_line
from virtscope.host.ram_from_monitor import (
    FlatRange,
    layout_from_monitor,
    page_roots_from_monitor,
    parse_flat_view,
    ram_ranges,
)
from virtscope.memory.live import HostRange

# As QEMU 7.2 prints it for `-machine q35 -m 6G -device VGA`, shortened.
Q35 = """\
FlatView #0
 AS "mch", root: bus master container
 Root memory region: (none)
  No rendered FlatView

FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): pc.ram KVM
  00000000000a0000-00000000000affff (prio 1, ram): vga.vram KVM
  00000000000b0000-00000000000bffff (prio 1, i/o): vga-lowmem @0000000000010000
  00000000000c0000-00000000000e7fff (prio 0, rom): pc.ram @00000000000c0000 KVM
  00000000000e8000-00000000000effff (prio 0, ram): pc.ram @00000000000e8000 KVM
  00000000000f0000-00000000000fffff (prio 0, rom): pc.ram @00000000000f0000 KVM
  0000000000100000-000000007fffffff (prio 0, ram): pc.ram @0000000000100000 KVM
  00000000b0000000-00000000bfffffff (prio 0, i/o): pcie-mmcfg-mmio
  00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram KVM
  00000000fed45000-00000000fed45fff (prio 0, ram): tpm-ppi KVM
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios KVM
  0000000100000000-00000001ffffffff (prio 0, ram): pc.ram @0000000080000000 KVM

FlatView #2
 AS "cpu-smm-0", root: memory
 Root memory region: memory
  0000000000000000-00000000ffffffff (prio 0, ram): wrong
"""

GIB = 1 << 30


class Scripted:
    """A monitor with prepared answers; gpa2hva answers with the address plus 0x7f0000000000."""

    def __init__(self, **answers: str) -> None:
        self.answers = {command.replace("_", " "): answer for command, answer in answers.items()}

    def execute(self, command: str, arguments: dict[str, object] | None = None) -> object:
        raise AssertionError("only the human monitor is asked")

    def human(self, command_line: str) -> str:
        if command_line.startswith("gpa2hva") and "gpa2hva" not in self.answers:
            address = int(command_line.split()[1], 16)
            return f"Host virtual address for {address:#x} (pc.ram) is {address + 0x7F0000000000:#x}\n"
        return self.answers[command_line.split()[0]]

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_only_the_view_of_system_memory_counts() -> None:
    view = parse_flat_view(Q35)
    assert len(view) == 12
    assert view[0] == FlatRange(0, 0xA0000, "ram", "pc.ram", 0)
    assert view[-1] == FlatRange(4 * GIB, 4 * GIB, "ram", "pc.ram", 2 * GIB)


def test_device_memory_is_left_out_and_pieces_of_ram_are_joined() -> None:
    assert ram_ranges(parse_flat_view(Q35)) == [
        FlatRange(0, 0xA0000, "ram", "pc.ram", 0),
        FlatRange(0xC0000, 2 * GIB - 0xC0000, "ram", "pc.ram", 0xC0000),
        FlatRange(4 * GIB, 4 * GIB, "ram", "pc.ram", 2 * GIB),
    ]


def test_a_memory_backend_may_be_called_anything() -> None:
    view = [FlatRange(0, GIB, "ram", "/objects/my-vram", 0), FlatRange(GIB, GIB, "ram", "vga.vram", 0)]
    assert ram_ranges(view, ["my-vram"]) == [view[0]]


def test_the_layout() -> None:
    assert layout_from_monitor(Scripted(info=Q35)) == (
        HostRange(0, 0xA0000, 0x7F0000000000),
        HostRange(0xC0000, 2 * GIB - 0xC0000, 0x7F00000C0000),
        HostRange(4 * GIB, 4 * GIB, 0x7F0100000000),
    )
    assert layout_from_monitor(Scripted(info=Q35), parse_command_line(["-m", "6G"]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unknown command: 'info mtree'",
        'FlatView #0\n AS "memory", root: system\n  No rendered FlatView\n',
    ],
)
def test_an_answer_without_ram_is_an_error(text: str) -> None:
    with pytest.raises(MonitorError, match="0 ranges"):
        layout_from_monitor(Scripted(info=text))


def test_an_address_the_monitor_does_not_know_is_an_error() -> None:
    with pytest.raises(MonitorError, match="No memory is mapped"):
        layout_from_monitor(Scripted(info=Q35, gpa2hva="No memory is mapped at address 0x0\n"))


def test_a_flood_of_ranges_is_an_error() -> None:
    rows = "\n".join(
        f"  {at << 21:016x}-{(at << 21) + 0xFFFFF:016x} (prio 0, ram): ram{at}" for at in range(5000)
    )
    with pytest.raises(MonitorError, match="5000 ranges"):
        layout_from_monitor(Scripted(info=f'FlatView #0\n AS "memory", root: system\n{rows}\n'))


def test_ranges_that_overlap_are_an_error() -> None:
    rows = "\n".join(f"  {at:016x}-{at + (1 << 21):016x} (prio 0, ram): ram{at}" for at in (0, 1 << 20))
    with pytest.raises(MonitorError, match="overlap"):
        layout_from_monitor(Scripted(info=f'FlatView #0\n AS "memory", root: system\n{rows}\n'))


def test_ranges_that_end_before_they_start_are_ignored() -> None:
    text = (
        'FlatView #0\n AS "memory", root: system\n  0000000000002000-0000000000001000 (prio 0, ram): pc.ram\n'
    )
    assert parse_flat_view(text) == []


def test_page_roots_of_cpus_with_paging() -> None:
    registers = (
        "\nCPU#0\nCR0=80050033 CR2=00007f0000000000 CR3=000000001f1f8000 CR4=000006f0\n"
        "\nCPU#1\nCR0=80050033 CR2=0000000000000000 CR3=000000001cdcc000 CR4=000006f0\n"
        "\nCPU#2\nCR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000\n"
        "\nCPU#3\nCR0=80050033 CR2=0000000000000000 CR3=000000001f1f8000 CR4=000006f0\n"
    )
    assert page_roots_from_monitor(Scripted(info=registers)) == (0x1F1F8000, 0x1CDCC000)
    assert page_roots_from_monitor(Scripted(info="PC=0 X0=0\n")) == ()

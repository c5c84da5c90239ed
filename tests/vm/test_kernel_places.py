"""Kernels in unusual places and states: found from memory alone, and not found where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Guest
from lab.qemu import BareMachine
from tests.vm.kernel_access import kernel_of, listed, missing, processes
from virtscope.errors import KernelNotFound
from virtscope.host.guests import guest_of_qemu
from virtscope.kernel import KernelCache, find_kernel
from virtscope.memory import open_memory

Boot = Callable[..., Guest]


def check(guest: Guest, **options: bool) -> None:
    with kernel_of(guest, **options) as kernel:  # type: ignore[arg-type]
        assert kernel.banner == guest.run("cat /proc/version").rstrip("\n")
        assert missing(guest, processes(guest), listed(kernel)) == {}


def test_without_a_monitor(guest: Guest) -> None:
    check(guest, monitor=False)


def test_in_a_dump(guest: Guest, tmp_path: Path) -> None:
    lasting = processes(guest)
    guest.dump(tmp_path / "guest.elf")
    with open_memory(str(tmp_path / "guest.elf")) as memory:
        kernel = find_kernel(memory, cache=KernelCache(enabled=False))
        assert missing(guest, lasting, listed(kernel)) == {}


def test_remembered(guest: Guest, tmp_path: Path) -> None:
    cache = KernelCache(str(tmp_path / "kernels"))
    with kernel_of(guest, cache=cache) as first:
        expected = listed(first)
        addresses = {name: first.symbol(name) for name in ("init_task", "schedule", "runqueues")}
        where = first.symbolize(first.symbol("schedule") + 9)
        first.close()
    with kernel_of(guest, cache=KernelCache(str(tmp_path / "kernels"))) as second:
        assert "as they were" in second.evidence[-1]
        assert set(expected) - set(listed(second)) <= set(expected) - set(processes(guest))
        assert {name: second.symbol(name) for name in addresses} == addresses
        assert second.symbolize(first.symbol("schedule") + 9) == where
        # What was not asked for before is learned now, from the guest.
        assert second.symbol("linux_banner")
        assert second.struct("task_struct").offset("cred")


def test_isolated_page_tables_and_no_address_randomization(boot: Boot) -> None:
    """A busy process: the monitor then mostly gives a user's page tables, which map little of the kernel."""
    busy = "sh -c 'while :; do :; done' &"
    guest = boot("6.1", memory_mib=160, append="pti=on nokaslr", setup=busy)
    assert "isolation: enabled" in guest.run("dmesg").lower()
    with kernel_of(guest) as kernel:
        assert kernel.image.start == 0xFFFF_FFFF_8100_0000
    for _ in range(5):
        check(guest)
    check(guest, monitor=False)


@pytest.mark.slow
@pytest.mark.parametrize("mib", [3584, 6144])
def test_memory_above_the_pci_hole(boot: Boot, mib: int) -> None:
    guest = boot("6.1", memory_mib=mib, setup="")
    check(guest)
    check(guest, monitor=False)


def test_a_machine_without_linux() -> None:
    with (
        BareMachine() as machine,
        machine.monitor(),
        guest_of_qemu(str(machine.pid)).open_memory() as memory,
        pytest.raises(KernelNotFound, match="no Linux kernel"),
    ):
        find_kernel(memory, cache=KernelCache(enabled=False))

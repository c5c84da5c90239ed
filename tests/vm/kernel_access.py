"""How the kernel tests reach a lab guest's memory, and how they hide parts of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lab import Guest
from virtscope.host.guests import guest_of_qemu
from virtscope.kernel import Kernel, KernelCache, find_kernel
from virtscope.memory.physical import PhysicalMemory


@contextmanager
def kernel_of(guest: Guest, *, monitor: bool = True, cache: KernelCache | None = None) -> Iterator[Kernel]:
    """The kernel of a running guest, found without what earlier runs learned."""
    with guest_of_qemu(str(guest.pid)).open_memory(use_monitor=monitor) as memory:
        yield find_kernel(memory, cache=cache or KernelCache(enabled=False))


class Masked(PhysicalMemory):
    """A guest's memory in which some (start, end) ranges of physical addresses read as zeros."""

    def __init__(self, memory: PhysicalMemory, ranges: Sequence[tuple[int, int]]) -> None:
        super().__init__(memory.name, memory.segments, is_live=memory.is_live)
        self._inner = memory
        self._ranges = ranges

    def close(self) -> None:
        self._inner.close()

    def _read_segment(self, index: int, offset: int, size: int) -> bytes:
        address = self.segments[index].start + offset
        data = self._inner.read(address, size)
        for start, end in self._ranges:
            low, high = max(start, address) - address, min(end, address + size) - address
            if low < high:
                data = data[:low] + bytes(high - low) + data[high:]
        return data

    def _find_page_roots(self) -> tuple[int, ...]:
        return self._inner.page_roots()


def without(kernel: Kernel, *, types: bool = False, symbols: bool = False) -> Kernel:
    """The same kernel found anew, with the beginning of its type information or symbol table hidden."""
    image, hidden = kernel.image, []
    if types:
        start = kernel.symbol("__start_BTF")
        hidden.append((kernel.translate(start), kernel.translate(start) + 24))
    if symbols:
        # The strings of the table's tokens: found as the kernel itself is told to find them.
        for offset in image.find(b"0\0001\0002\0003\0004\0005\0006\0007\0008\0009\0"):
            hidden.append((image.physical + offset, image.physical + offset + 20))
    return find_kernel(Masked(kernel.memory, hidden), cache=KernelCache(enabled=False))


def listed(kernel: Kernel) -> dict[int, str]:
    """The pid and name of each process on the kernel's list."""

    def read() -> dict[int, str]:
        head = kernel.symbol("init_task") + kernel.struct("task_struct").offset("tasks")
        return {task["pid"]: shown(task["comm"]) for task in kernel.list_of(head, "task_struct", "tasks")}

    return kernel.retried(read)


def processes(guest: Guest) -> dict[int, str]:
    """The pid and name of each process, as the guest's own /proc says, but for those that come and go."""
    script = (
        "for d in /proc/[0-9]*; do read -r n <$d/comm && echo ${d#/proc/} $n; done 2>/dev/null; sleep 0.1"
    )
    looks = []
    for _ in range(2):
        lines = [line.partition(" ") for line in guest.run(script).splitlines()]
        looks.append({int(pid): shown(name.encode()) for pid, _, name in lines if pid.isdigit()})
    return {pid: name for pid, name in looks[0].items() if looks[1].get(pid) == name}


def missing(guest: Guest, lasting: dict[int, str], found: dict[int, str]) -> dict[int, str]:
    """Which of `lasting`, seen inside before a look from outside, are still there and were not `found`."""
    lost = {pid: name for pid, name in lasting.items() if found.get(pid) != name}
    # Idle workers of the kernel end, now and then; what is there before and after must have been found.
    still = processes(guest) if lost else {}
    return {pid: name for pid, name in lost.items() if still.get(pid) == name}


def shown(comm: bytes) -> str:
    """A name as both sides have it: /proc shows kernel threads' names whole, and what workers work on."""
    name = comm.partition(b"\n")[0][:15].decode("utf-8", "backslashreplace")
    return "kworker" if name.startswith("kworker") else name.strip()

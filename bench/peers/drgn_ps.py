"""The processes of a live guest through drgn with the kernel's DWARF debugging information.

drgn itself cannot find a kernel in a live guest, so it is given the memory and the VMCOREINFO that virtscope
finds; types, symbols and the walk are drgn's own. Usage: drgn_ps.py PID VMLINUX
"""

from __future__ import annotations

import sys

import drgn
from drgn.helpers.linux.pid import for_each_task

import virtscope


def main() -> None:
    """Print PID and name of every task."""
    guest = virtscope.open(qemu=sys.argv[1])
    memory = guest.memory
    info = "".join(f"{key}={value}\n" for key, value in guest.kernel.vmcoreinfo.items())
    program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))

    def read(_address: int, count: int, offset: int, _physical: bool) -> bytes:
        return memory.read(offset, count)

    for segment in memory.segments:
        program.add_memory_segment(
            segment.start,
            segment.size,
            lambda address, count, _offset, physical: read(address, count, address, physical),
            True,
        )
    program.set_linux_kernel_custom(info.encode(), True)
    program.load_debug_info([sys.argv[2]])
    for task in for_each_task(program):
        print(task.pid.value_(), task.comm.string_().decode(errors="replace"))


main()

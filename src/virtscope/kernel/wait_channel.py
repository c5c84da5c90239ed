"""The kernel function a task waits in, found by unwinding its stack with the kernel's own tables.

A task that waits has called the scheduler; what it waits in is the first function on its stack that is no
part of the scheduler (get_wchan). x86 kernels are compiled without frame pointers, but carry ORC tables
(Documentation/arch/x86/ orc-unwinder.rst) that say for every instruction where the frame lies. Where a
table is missing or a frame is of another kind than a plain call, the answer is that it is not known: a
stack full of stale addresses invites guesses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from virtscope.errors import CorruptData, NotMapped, UnknownLayout

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel
    from virtscope.kernel.records import Record

_MAX_FRAMES = 32
_UNDEFINED, _PREVIOUS_SP, _BP, _SP = 0, 1, 4, 5
"""ORC_REG_*: where a register's value is found."""


class _Frame(NamedTuple):
    """What the ORC tables say about one instruction's frame."""

    sp_register: int
    sp_offset: int
    bp_register: int
    bp_offset: int
    is_call: bool


class WaitChannels:
    """Finds the functions that one kernel's tasks wait in; keeps the table entries it has looked up.

    Raises:
        UnknownLayout: the kernel has no ORC tables, or runs on another architecture than x86.
    """

    def __init__(self, kernel: Kernel) -> None:
        if kernel.arch != "x86_64":
            raise UnknownLayout(f"stacks of {kernel.arch} kernels are not unwound")
        self._kernel = kernel
        self._ips = kernel.symbol("__start_orc_unwind_ip")
        self._entries = kernel.symbol("__start_orc_unwind")
        self._count = (kernel.symbol("__stop_orc_unwind_ip") - self._ips) // 4
        self._scheduler = [
            (kernel.symbol(f"__{part}_text_start"), kernel.symbol(f"__{part}_text_end"))
            for part in ("sched", "lock")
            if kernel.has_symbol(f"__{part}_text_start") and kernel.has_symbol(f"__{part}_text_end")
        ]
        if not self._scheduler:
            raise UnknownLayout("this kernel's symbol table does not say which functions are the scheduler's")
        self._frames: dict[int, _Frame | None] = {}

    def function(self, task: Record) -> str | None:
        """The function a task waits in; empty when it runs or is dead, None when that is not certain."""
        if not task[task.layout.first("__state", "state")] or task["exit_state"] or task["on_cpu"]:
            return ""
        kernel = self._kernel
        try:
            frame = kernel.record("inactive_task_frame", task["thread.sp"])
            ip, bp = frame["ret_addr"], frame["bp"]
            sp = frame.address + frame.layout.size
            for _ in range(_MAX_FRAMES):
                if not self._is_scheduler(ip):
                    symbol = kernel.symbolize(ip)
                    return symbol[0] if symbol is not None else None
                found = self._frame_at(ip - 1)
                if found is None or not found.is_call:
                    return None
                if found.sp_register == _SP:
                    sp += found.sp_offset
                elif found.sp_register == _BP:
                    sp = bp + found.sp_offset
                else:
                    return None
                ip = kernel.read_pointer(sp - 8)
                if found.bp_register == _PREVIOUS_SP:
                    bp = kernel.read_pointer(sp + found.bp_offset)
                elif found.bp_register != _UNDEFINED:
                    return None
        except (NotMapped, CorruptData):
            return None
        return None

    def _is_scheduler(self, address: int) -> bool:
        return any(start <= address < end for start, end in self._scheduler)

    def _frame_at(self, address: int) -> _Frame | None:
        if address not in self._frames:
            self._frames[address] = self._look_up(address)
        return self._frames[address]

    def _look_up(self, address: int) -> _Frame | None:
        """The entry with the highest address that is not above `address`; the table is sorted."""
        kernel = self._kernel
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            place = self._ips + 4 * middle
            if place + int.from_bytes(kernel.read(place, 4), "little", signed=True) <= address:
                low = middle + 1
            else:
                high = middle
        if not low:
            return None
        layout = kernel.struct("orc_entry")
        entry = kernel.record(layout, self._entries + (low - 1) * layout.size)
        # The kinds of frames were numbered anew when the `end` bit became one of them.
        call = 0 if layout.has("end") else 2
        return _Frame(
            entry["sp_reg"],
            entry["sp_offset"],
            entry["bp_reg"],
            entry["bp_offset"],
            entry["type"] == call and not entry.get("end", 0),
        )

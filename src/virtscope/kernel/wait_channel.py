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
_MAX_ENTRIES = 64
_UNDEFINED = 0


class _Entry(NamedTuple):
    """What the tables say of the instructions from one on: `orc_entry`, in the kernel's own numbers."""

    sp_register: int
    sp_offset: int
    bp_register: int
    bp_offset: int
    type: int
    is_end: bool


class _Codes(NamedTuple):
    """The kernel's numbers for registers and kinds of frames (ORC_REG_*, ORC_TYPE_*): they change."""

    sp: int
    bp: int | None
    previous_sp: int | None
    call: int


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
        self._found: dict[int, _Entry | None] = {}
        self._codes = self._learn_codes()

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
                found, codes = self._entry_at(ip - 1), self._codes
                if found is None or found.type != codes.call or found.is_end:
                    return None
                if found.sp_register == codes.sp:
                    sp += found.sp_offset
                elif found.sp_register == codes.bp:
                    sp = bp + found.sp_offset
                else:
                    return None
                ip = kernel.read_pointer(sp - 8)
                if found.bp_register == codes.previous_sp:
                    bp = kernel.read_pointer(sp + found.bp_offset)
                elif found.bp_register != _UNDEFINED:
                    return None
        except (NotMapped, CorruptData):
            return None
        return None

    def _is_scheduler(self, address: int) -> bool:
        return any(start <= address < end for start, end in self._scheduler)

    def _learn_codes(self) -> _Codes:
        """The kernel's numbers, from a function whose frames are known beforehand.

        At a function's first instruction the frame is a call's and begins 8 bytes above the stack pointer.
        Once the function has pushed the frame pointer, the frame begins 16 bytes above the stack pointer, and
        the saved one lies 16 bytes below that; once it has set the frame pointer, 16 bytes above it instead.
        """
        start = self._kernel.symbol("__schedule")
        index = self._index_of(start)
        first = self._read_entry(index)
        if first is None or (first.sp_offset, first.bp_register) != (8, _UNDEFINED):
            raise UnknownLayout("this kernel's tables for unwinding stacks (ORC) are not as expected")
        sp, bp, previous = first.sp_register, None, None
        for number in range(index + 1, min(index + _MAX_ENTRIES, self._count)):
            entry = self._read_entry(number)
            if entry is None or (entry.sp_offset, entry.bp_offset) != (16, -16):
                continue
            if entry.sp_register == sp and previous is None:
                previous = entry.bp_register
            elif entry.sp_register != sp and entry.bp_register == previous:
                bp = entry.sp_register
                break
        return _Codes(sp, bp, previous, first.type)

    def _entry_at(self, address: int) -> _Entry | None:
        if address not in self._found:
            self._found[address] = self._read_entry(self._index_of(address))
        return self._found[address]

    def _index_of(self, address: int) -> int:
        """The number of the entry with the highest address that is not above `address`, or -1."""
        kernel = self._kernel
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            place = self._ips + 4 * middle
            if place + int.from_bytes(kernel.read(place, 4), "little", signed=True) <= address:
                low = middle + 1
            else:
                high = middle
        return low - 1

    def _read_entry(self, index: int) -> _Entry | None:
        if index < 0:
            return None
        layout = self._kernel.struct("orc_entry")
        entry = self._kernel.record(layout, self._entries + index * layout.size)
        return _Entry(
            entry["sp_reg"],
            entry["sp_offset"],
            entry["bp_reg"],
            entry["bp_offset"],
            entry["type"],
            bool(entry.get("end", 0)),
        )

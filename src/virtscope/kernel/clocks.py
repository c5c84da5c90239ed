"""The guest's clocks: when it booted, and what its wall clock says.

Everything the kernel keeps (process start times, log time stamps) counts from boot. `read_clocks` reads
the offset that turns it into wall-clock time from the timekeeper (kernel/time/timekeeping.c), which is
also where the guest's own tools get it from.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from virtscope.errors import CorruptData, UnknownLayout

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel
    from virtscope.kernel.records import Record

_SECOND = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = 253_402_300_799 * _SECOND  # the end of year 9999, beyond which no date can be written


@dataclass(frozen=True, slots=True)
class Clocks:
    """What the guest's clocks said when they were last updated (at the last timer tick).

    Attributes:
        since_boot_ns: CLOCK_BOOTTIME.
        boot_ns: the wall-clock time of boot, in nanoseconds since 1970: add it to a time since boot.
        ticks_per_second: HZ, the frequency of the timer tick (jiffies).
    """

    since_boot_ns: int
    boot_ns: int
    ticks_per_second: int

    def wall(self, since_boot_ns: int) -> datetime | None:
        """A time since boot as wall-clock time (UTC, microseconds); None when no calendar has it."""
        nanoseconds = self.boot_ns + since_boot_ns
        if not 0 <= nanoseconds <= _LATEST:
            return None
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


def read_clocks(kernel: Kernel) -> Clocks:
    """The guest's clocks as of its last timer tick.

    Raises:
        UnknownLayout: the timekeeper's place or layout is not known.
        CorruptData: what lies there is no timekeeper, or it was updated at each attempt to read it.
    """
    return kernel.retried(lambda: _read(kernel))


def _read(kernel: Kernel) -> Clocks:
    for symbol in ("tk_core", "timekeeper_data"):
        if kernel.has_symbol(symbol):
            address = kernel.symbol(symbol)
            break
    else:
        raise UnknownLayout("this kernel's symbol table does not say where the timekeeper is")
    sequence = kernel.read_u32(address)
    keeper = _timekeeper(kernel, address)
    if sequence & 1 or (kernel.memory.is_live and kernel.read_u32(address) != sequence):
        raise CorruptData("the guest's timekeeper was being updated while it was read")
    mono_ns = keeper["tkr_mono.base"] + (keeper["tkr_mono.xtime_nsec"] >> keeper["tkr_mono.shift"])
    # ntp_tick is the length of a tick in nanoseconds, shifted left by 32, steered by at most 500 ppm.
    tick_ns = keeper["ntp_tick"] >> 32
    return Clocks(
        since_boot_ns=mono_ns + keeper["offs_boot"],
        boot_ns=keeper["offs_real"] - keeper["offs_boot"],
        ticks_per_second=(_SECOND + tick_ns // 2) // tick_ns if tick_ns else 0,
    )


def _timekeeper(kernel: Kernel, address: int) -> Record:
    """The timekeeper behind the sequence counter, whose size depends on the kernel's configuration."""
    layout = kernel.struct("timekeeper")
    for offset in (8, 16, 24):
        keeper = kernel.record(layout, address + offset)
        clock = keeper["tkr_mono.clock"]
        if (
            clock
            and clock == keeper["tkr_raw.clock"]
            and keeper["tkr_mono.mult"]
            and keeper["tkr_mono.shift"] < 64
        ):
            return keeper
    raise CorruptData(f"there is no timekeeper at {address:#x}")

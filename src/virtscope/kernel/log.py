"""The kernel log. `log` yields the records that are in its buffer, `follow` goes on with those that come.

Which buffer a kernel has is found by its symbols: `prb` (log_ring.py) or `log_buf` alone (log_buffer.py).
The ring's layout is in VMCOREINFO, so the log is readable without type information.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from virtscope.errors import CorruptData, UnknownLayout, UsageError
from virtscope.kernel.clocks import Clocks, read_clocks
from virtscope.kernel.log_buffer import BufferLayout, read_buffer
from virtscope.kernel.log_names import FACILITIES, LEVELS
from virtscope.kernel.log_ring import RawRecord, Ring, RingLayout, layout_from_vmcoreinfo, read_ring

if TYPE_CHECKING:
    from datetime import datetime

    from virtscope.kernel.kernel import Kernel

_CONTINUATION = 8  # LOG_CONT
_CPU = 1 << 31  # in a caller's id: it is a CPU, not a thread


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One message in the kernel log.

    Attributes:
        sequence: its number since boot, from 0.
        since_boot_ns: when it was written, by the clock of the log (it may stand still during suspend).
        time: the same as wall-clock time (UTC); None when the guest's clock could not be read.
        level: "emerg" to "debug".
        facility: "kern" for the kernel; others came from user space through /dev/kmsg.
        text: the message, without a line end; several lines are possible.
        caller: who wrote it, "T123" (a thread) or "C0" (a CPU, in an interrupt); None when the kernel
            keeps no callers.
        comm: that thread's name, which only few kernels keep; None otherwise.
        fields: SUBSYSTEM, DEVICE and the like, when it is about a device.
        is_continuation: it continues the record before it.
        lost: how many records before it are missing because they were overwritten before they were read.
    """

    sequence: int
    since_boot_ns: int
    time: datetime | None
    level: str
    facility: str
    text: str
    caller: str | None
    comm: str | None
    fields: dict[str, str]
    is_continuation: bool
    lost: int


def log(kernel: Kernel, *, wall_time: bool = True) -> Iterator[LogRecord]:
    """The records that are in the guest's log buffer, oldest first.

    Args:
        kernel: whose log.
        wall_time: whether `time` is wanted; it needs the kernel's type information, which the rest does not.

    Raises:
        UnknownLayout: the kernel's log, or its layout, was not found.
        CorruptData: the log contradicts itself; records before that place are yielded first.
    """
    reader = _reader(kernel)
    records, problem = kernel.retried(reader.read)
    yield from _rows(records, _clocks(kernel) if wall_time else None, None)
    if problem is not None:
        raise problem


def follow(
    kernel: Kernel, *, after: int | None = None, interval: float = 0.25, wall_time: bool = True
) -> Iterator[LogRecord]:
    """The records in the log, then those that are added to it; ends only with an error or the caller.

    Args:
        kernel: a running guest's.
        after: start behind the record of this sequence number.
        interval: seconds between looks.
        wall_time: as for `log`.

    Raises:
        UsageError: the guest is a dump, to which nothing will be added.
        GuestVanished: the guest is gone.
        UnknownLayout, CorruptData: as `log`.
    """
    if not kernel.memory.is_live:
        raise UsageError(f"{kernel.memory.name} is not a running guest: nothing will be added to its log")
    import time

    reader = _reader(kernel)
    while True:
        records, problem = kernel.retried(partial(reader.read, after, finished_only=True))
        if records:
            yield from _rows(records, _clocks(kernel) if wall_time else None, after)
            after = records[-1].sequence
        if problem is not None:
            raise problem
        time.sleep(interval)


def _clocks(kernel: Kernel) -> Clocks | None:
    try:
        return read_clocks(kernel)
    except (UnknownLayout, CorruptData) as error:
        note = f"the wall-clock time of log records is not known: {error}"
        if note not in kernel.notes:
            kernel.notes.append(note)
        return None


def _rows(records: list[RawRecord], clocks: Clocks | None, after: int | None) -> Iterator[LogRecord]:
    expected = None if after is None else after + 1
    for raw in records:
        yield LogRecord(
            sequence=raw.sequence,
            since_boot_ns=raw.since_boot_ns,
            time=clocks.wall(raw.since_boot_ns) if clocks else None,
            level=LEVELS[raw.level],
            facility=FACILITIES[raw.facility] if raw.facility < len(FACILITIES) else str(raw.facility),
            text=_string(raw.text),
            caller=_caller(raw.caller_id),
            comm=None if raw.comm is None else _string(raw.comm),
            fields={_string(key): _string(value) for key, value in raw.fields},
            is_continuation=bool(raw.flags & _CONTINUATION),
            lost=0 if expected is None else max(0, raw.sequence - expected),
        )
        expected = raw.sequence + 1


def _string(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _caller(id: int | None) -> str | None:
    if id is None:
        return None
    return f"C{id & ~_CPU}" if id & _CPU else f"T{id}"


_Read = tuple[list[RawRecord], CorruptData | None]
"""What a look at the log gives: the records, and what is wrong behind them."""


class _RingReader:
    """Reads the log of a kernel that has `prb`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._layout, self._ring_offsets = _ring_layout(kernel)

    def read(self, after: int | None = None, finished_only: bool = False) -> _Read:
        records = read_ring(
            self._kernel.read,
            self._ring(),
            self._layout,
            after=after,
            again=self._read_again if self._kernel.memory.is_live else None,
            finished_only=finished_only,
        )
        return list(records), None

    def _ring(self) -> Ring:
        kernel = self._kernel
        at = {
            key: kernel.read_pointer(kernel.symbol("prb")) + offset
            for key, offset in self._ring_offsets.items()
        }
        return Ring(
            count_bits=kernel.read_u32(at["count_bits"]),
            descs=kernel.read_pointer(at["descs"]),
            infos=kernel.read_pointer(at["infos"]),
            head_id=kernel.read_u64(at["head_id"]),
            tail_id=kernel.read_u64(at["tail_id"]),
            size_bits=kernel.read_u32(at["size_bits"]),
            data=kernel.read_pointer(at["data"]),
        )

    def _read_again(self, address: int, size: int) -> bytes:
        self._kernel.refresh()
        return self._kernel.read(address, size)


def _ring_layout(kernel: Kernel) -> tuple[RingLayout, dict[str, int]]:
    layout, numbers = layout_from_vmcoreinfo(kernel.vmcoreinfo)
    try:
        descs = numbers["OFFSET(printk_ringbuffer.desc_ring)"]
        texts = numbers["OFFSET(printk_ringbuffer.text_data_ring)"]
        counter = numbers["OFFSET(atomic_long_t.counter)"]
        offsets = {
            "count_bits": descs + numbers["OFFSET(prb_desc_ring.count_bits)"],
            "descs": descs + numbers["OFFSET(prb_desc_ring.descs)"],
            "infos": descs + numbers["OFFSET(prb_desc_ring.infos)"],
            "head_id": descs + numbers["OFFSET(prb_desc_ring.head_id)"] + counter,
            "tail_id": descs + numbers["OFFSET(prb_desc_ring.tail_id)"] + counter,
            "size_bits": texts + numbers["OFFSET(prb_data_ring.size_bits)"],
            "data": texts + numbers["OFFSET(prb_data_ring.data)"],
        }
    except KeyError as error:
        raise UnknownLayout(
            f"VMCOREINFO does not describe the kernel log: it lacks {error.args[0]}"
        ) from None
    return layout, offsets


class _BufferReader:
    """Reads the log of a kernel that has `log_buf` and no ring."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._layout = _buffer_layout(kernel)

    def read(self, after: int | None = None, finished_only: bool = False) -> _Read:  # noqa: ARG002
        kernel = self._kernel
        size = kernel.read_u32(kernel.symbol("log_buf_len"))
        if not 0 < size <= 1 << 30:
            raise CorruptData(f"the kernel log claims to have {size} bytes")
        state = self._state()
        data = kernel.read(kernel.read_pointer(kernel.symbol("log_buf")), size)
        if kernel.memory.is_live:
            kernel.refresh()
            if self._state()["first_sequence"] != state["first_sequence"]:
                raise CorruptData("the kernel log was overwritten while it was read")
        records: list[RawRecord] = []
        try:
            for record in read_buffer(data, self._layout, **state, after=after):
                records.append(record)
        except CorruptData as error:
            return records, error
        return records, None

    def _state(self) -> dict[str, int]:
        kernel = self._kernel
        return {
            "first": kernel.read_u32(kernel.symbol("log_first_idx")),
            "next": kernel.read_u32(kernel.symbol("log_next_idx")),
            "first_sequence": kernel.read_u64(kernel.symbol("log_first_seq"))
            if kernel.has_symbol("log_first_seq")
            else 0,
        }


def _buffer_layout(kernel: Kernel) -> BufferLayout:
    numbers = kernel.vmcoreinfo
    offset: Callable[[str], int]
    if numbers.get("SIZE(printk_log)", "").isdecimal():

        def from_vmcoreinfo(member: str) -> int:
            value = numbers.get(f"OFFSET(printk_log.{member})", "")
            if not value.isdecimal():
                raise UnknownLayout(f"VMCOREINFO does not say where printk_log.{member} is")
            return int(value)

        offset, size = from_vmcoreinfo, int(numbers["SIZE(printk_log)"])
        caller = offset("caller_id") if "OFFSET(printk_log.caller_id)" in numbers else None
    else:
        layout = kernel.struct("printk_log")
        offset, size = layout.offset, layout.size
        caller = layout.offset("caller_id") if layout.has("caller_id") else None
    # Facility, flags and level are two bytes behind the three lengths; VMCOREINFO does not list them.
    return BufferLayout(
        size=size,
        time=offset("ts_nsec"),
        length=offset("len"),
        text_length=offset("text_len"),
        dict_length=offset("dict_len"),
        facility=offset("dict_len") + 2,
        flags=offset("dict_len") + 3,
        caller=caller,
    )


def _reader(kernel: Kernel) -> _RingReader | _BufferReader:
    if kernel.has_symbol("prb"):
        return _RingReader(kernel)
    if kernel.has_symbol("log_buf"):
        return _BufferReader(kernel)
    raise UnknownLayout(
        "the kernel log was not found: neither prb nor log_buf is in the kernel's symbol table"
    )

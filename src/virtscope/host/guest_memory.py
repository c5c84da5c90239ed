"""The RAM of a running QEMU guest: find out where it lies in the process, then read it from there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from virtscope.errors import GuestError, GuestMemoryError, GuestVanished, MissingDependency
from virtscope.host.qemu import QemuProcess
from virtscope.host.qmp import Monitor
from virtscope.memory.live import HostRange, LiveMemory
from virtscope.memory.mappings import writable_mappings
from virtscope.memory.physical import PhysicalMemory

Verify = Callable[[PhysicalMemory], bool]
"""Says whether memory looks as a guest's memory does when its RAM layout is right."""


class GuestMemoryOpener:
    """Opens the memory of one QEMU process.

    Args:
        process: the QEMU.
        name: what messages call the guest.
        open_monitor: connects to its monitor; None if there is none, or it is not to be asked.
        mappings_first: ask the monitor only if the mappings of the process leave a doubt.
        verify: picks among several layouts that the mappings allow.
    """

    def __init__(
        self,
        process: QemuProcess,
        name: str,
        *,
        open_monitor: Callable[[], Monitor] | None = None,
        mappings_first: bool = False,
        verify: Verify | None = None,
    ) -> None:
        self._process = process
        self._name = name
        self._open_monitor = open_monitor
        self._mappings_first = mappings_first
        self._verify = verify
        self._notes: list[str] = []

    def open(self) -> LiveMemory:
        """See `RunningGuest.open_memory`."""
        if not self._mappings_first and (memory := self._by_monitor()):
            return memory
        from virtscope.host.ram_from_mappings import layouts_from_mappings

        possible = layouts_from_mappings(self._process, writable_mappings(self._process.pid))
        if self._mappings_first and not possible.is_certain and (memory := self._by_monitor()):
            return memory
        if not possible.layouts:
            size = self._process.command_line.ram_size >> 20
            raise GuestMemoryError(
                f"{self._name}: cannot tell where its {size} MiB of RAM are: no mapping of process "
                f"{self._process.pid} fits"
            )
        if self._process.command_line.can_grow:
            self._notes.append(f"{self._name}: memory that was plugged in is not seen without its monitor")
        if len(possible.layouts) == 1:
            return self._memory(possible.layouts[0])
        return self._likeliest(possible.layouts)

    def _by_monitor(self) -> LiveMemory | None:
        """The memory as the monitor lays it out; None, and a note, if it cannot or does not make sense."""
        if self._open_monitor is None:
            return None
        from virtscope.host.ram_from_monitor import layout_from_monitor

        try:
            with self._open_monitor() as monitor:
                layout = layout_from_monitor(monitor, self._process.command_line)
            return self._memory(layout)
        except GuestVanished:
            raise
        except (GuestError, GuestMemoryError, MissingDependency) as error:
            self._open_monitor = None  # asking again would cost the deadline again
            self._notes.append(f"{error}; the RAM of {self._name} was found without its monitor")
            return None

    def _likeliest(self, layouts: Sequence[tuple[HostRange, ...]]) -> LiveMemory:
        """The first layout that looks right; the first of all, and a note, if none does."""
        for layout in layouts if self._verify else ():
            memory = self._memory(layout)
            try:
                is_right = self._verify is not None and self._verify(memory)
            except BaseException:
                memory.close()
                raise
            if is_right:
                return memory
            memory.close()
        self._notes.append(
            f"{self._name}: the mappings of its process allow {len(layouts)} RAM layouts, and the likeliest "
            f"was taken; a QMP socket on its command line would settle it"
        )
        return self._memory(layouts[0])

    def _memory(self, layout: Sequence[HostRange]) -> LiveMemory:
        return LiveMemory(
            self._process.pid,
            layout,
            name=self._name,
            start_time=self._process.start_time,
            page_roots=self._page_roots,
            notes=self._notes,
        )

    def _page_roots(self) -> tuple[int, ...]:
        # Where the mappings come first the monitor is libvirt's passthrough, which taints the domain, and the
        # kernel is found in milliseconds without the registers.
        if self._open_monitor is None or self._mappings_first:
            return ()
        from virtscope.host.ram_from_monitor import page_roots_from_monitor

        with self._open_monitor() as monitor:
            return page_roots_from_monitor(monitor)

"""What passed through a network interface, as `ip -s link` counts it.

The kernel asks an interface's driver, which answers by one of its functions (dev_get_stats in
net/core/dev.c); where the numbers are is a matter of which function that is, so it is recognized by its name.
Numbers that a driver keeps in a place of its own that is not read here are not known: that is said, and never
shown as zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from virtscope.errors import CorruptData, UnknownLayout

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel
    from virtscope.kernel.layouts import StructLayout
    from virtscope.kernel.module_layouts import ModuleLayouts
    from virtscope.kernel.records import Record

_MAX_QUEUES = 4096
_NETDEV_ALIGN = 32


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters of an interface since it was made; the names are those of `struct rtnl_link_stats64`."""

    rx_packets: int = 0
    tx_packets: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0
    multicast: int = 0
    collisions: int = 0
    rx_length_errors: int = 0
    rx_over_errors: int = 0
    rx_crc_errors: int = 0
    rx_frame_errors: int = 0
    rx_fifo_errors: int = 0
    rx_missed_errors: int = 0
    tx_aborted_errors: int = 0
    tx_carrier_errors: int = 0
    tx_fifo_errors: int = 0
    tx_heartbeat_errors: int = 0
    tx_window_errors: int = 0
    rx_compressed: int = 0
    tx_compressed: int = 0
    rx_nohandler: int = 0


_NAMES = tuple(field.name for field in fields(Statistics))
_Counters = dict[str, int]


class StatisticsReader:
    """Reads the counters of one kernel's interfaces."""

    def __init__(self, kernel: Kernel, layouts: ModuleLayouts) -> None:
        self._kernel = kernel
        self._layouts = layouts
        self._drivers: dict[str, Callable[[Record, str | None], _Counters]] = {
            "loopback_get_stats64": self._loopback,
            "dummy_get_stats64": self._dummy,
            "dev_get_tstats64": self._software,
            "ip_tunnel_get_stats64": self._software,
            "br_get_stats64": self._bridge,
            "vlan_dev_get_stats64": self._vlan,
            "veth_get_stats64": self._veth,
            "virtnet_stats": self._virtio,
        }

    def read(self, device: Record) -> Statistics:
        """The counters of a `net_device`.

        Raises:
            UnknownLayout: its driver keeps them where they are not read.
            CorruptData: a pointer leads nowhere.
        """
        counters = self._from_driver(device)
        self._add_core(device, counters)
        return Statistics(**{name: counters.get(name, 0) for name in _NAMES})

    def _from_driver(self, device: Record) -> _Counters:
        kernel = self._kernel
        operations = device.pointee("netdev_ops")
        function = operations["ndo_get_stats64"]
        if function:
            symbol = kernel.symbolize(function)
            name = symbol[0] if symbol is not None and symbol[1] == 0 else f"{function:#x}"
            if name not in self._drivers:
                raise UnknownLayout(f"its driver counts in {name}, which is not known here")
            return self._drivers[name](device, symbol[2] if symbol is not None else None)
        if operations["ndo_get_stats"]:
            symbol = kernel.symbolize(operations["ndo_get_stats"])
            name = symbol[0] if symbol is not None else "a function of its own"
            raise UnknownLayout(f"its driver counts in {name}, which is not known here")
        if self._keeps(device, "TSTATS"):
            return self._with_plain(device, device["tstats"])
        if self._keeps(device, "DSTATS"):
            return self._per_cpu(
                device["dstats"], "pcpu_dstats", {"rx_drops": "rx_dropped", "tx_drops": "tx_dropped"}
            )
        return self._plain(device)

    def _keeps(self, device: Record, kind: str) -> bool:
        """Whether the network core keeps counters of that kind for each CPU on the device's behalf."""
        return (
            device.has("pcpu_stat_type")
            and device["pcpu_stat_type"] == self._kernel.enum("netdev_stat_type")[f"NETDEV_PCPU_STAT_{kind}"]
        )

    def _add_core(self, device: Record, counters: _Counters) -> None:
        """Add what the network core counts itself: packets it dropped on the driver's behalf."""
        names = ("rx_dropped", "tx_dropped", "rx_nohandler")
        if not device.has("core_stats"):
            for name in names:
                counters[name] = counters.get(name, 0) + _number(device, name)
        elif device["core_stats"]:
            core = self._per_cpu(device["core_stats"], "net_device_core_stats", {})
            for name in names:
                counters[name] = counters.get(name, 0) + core[name]

    def _plain(self, device: Record) -> _Counters:
        """The counters in the `net_device` itself."""
        stats = device.inner("stats")
        return {name: _number(stats, name) for name in _NAMES if stats.has(name)}

    def _per_cpu(
        self, pointer: int, struct: str, renamed: dict[str, str], module: str | None = None
    ) -> _Counters:
        """The sums of a structure of counters that each CPU has its own of."""
        kernel = self._kernel
        layout = self._layouts.struct(module, struct)
        members = [name for name in (*_NAMES, "packets", "bytes", *renamed) if layout.has(name)]
        if not pointer:
            raise UnknownLayout(f"it has no {struct}")
        totals = dict.fromkeys(members, 0)
        for cpu in kernel.possible_cpus():
            record = kernel.record(layout, kernel.percpu(pointer, cpu))
            for name in members:
                totals[name] += _number(record, name)
        return {renamed.get(name, name): total for name, total in totals.items()}

    def _loopback(self, device: Record, _module: str | None) -> _Counters:
        """Each packet that the loopback interface sends it also receives."""
        sent = self._per_cpu(device["lstats"], "pcpu_lstats", {})
        return {
            "rx_packets": sent["packets"],
            "tx_packets": sent["packets"],
            "rx_bytes": sent["bytes"],
            "tx_bytes": sent["bytes"],
        }

    def _dummy(self, device: Record, _module: str | None) -> _Counters:
        """A dummy interface sends packets into nothing."""
        sent = self._per_cpu(device["lstats"], "pcpu_lstats", {})
        return {"tx_packets": sent["packets"], "tx_bytes": sent["bytes"]}

    def _software(self, device: Record, _module: str | None) -> _Counters:
        """Interfaces made of software count packets and bytes for each CPU, the rest in the `net_device`."""
        return self._with_plain(device, device["tstats"])

    def _bridge(self, device: Record, module: str | None) -> _Counters:
        layout = self._layouts.struct(module, "net_bridge")
        if not layout.has("stats"):
            return self._with_plain(device, device["tstats"])
        return self._with_plain(device, self._kernel.record(layout, private_data(device))["stats"])

    def _with_plain(self, device: Record, pointer: int) -> _Counters:
        counters = self._plain(device)
        for name, value in self._per_cpu(pointer, "pcpu_sw_netstats", {}).items():
            counters[name] = counters.get(name, 0) + value
        return counters

    def _vlan(self, device: Record, module: str | None) -> _Counters:
        # vlan_dev_priv is declared in a header of the kernel's own, the counters in the module.
        layout = self._layouts.struct(module, "vlan_dev_priv")
        private = self._kernel.record(layout, private_data(device))
        counters = {"rx_multicast": "multicast"}
        return self._per_cpu(private["vlan_pcpu_stats"], "vlan_pcpu_stats", counters, module)

    def _veth(self, device: Record, module: str | None) -> _Counters:
        """What one end of a pair sends the other receives; what XDP programs send is counted by queue."""
        kernel = self._kernel
        layout = self._layouts.struct(module, "veth_priv")
        private = kernel.record(layout, private_data(device))
        counters = self._veth_own(device)
        ours = self._veth_queues(device, private, module)
        counters["rx_packets"] += ours["xdp_packets"]
        counters["rx_bytes"] += ours["xdp_bytes"]
        counters["rx_dropped"] = ours["rx_drops"] + ours["peer_tq_xdp_xmit_err"]
        counters["tx_dropped"] = _number(private, "dropped") + ours["xdp_tx_err"]
        if private["peer"]:
            peer = kernel._pointee(device.layout, private["peer"], "veth_priv.peer")
            received = self._veth_own(peer)
            theirs = self._veth_queues(peer, kernel.record(layout, private_data(peer)), module)
            counters["rx_packets"] += received["tx_packets"]
            counters["rx_bytes"] += received["tx_bytes"]
            counters["rx_dropped"] += theirs["xdp_tx_err"]
            counters["tx_packets"] += theirs["xdp_packets"]
            counters["tx_bytes"] += theirs["xdp_bytes"]
            counters["tx_dropped"] += theirs["peer_tq_xdp_xmit_err"]
        return counters

    def _veth_own(self, device: Record) -> _Counters:
        """What one end has counted itself: what it has sent, and lately what BPF programs put into it."""
        if self._keeps(device, "TSTATS"):
            return self._per_cpu(device["tstats"], "pcpu_sw_netstats", {})
        sent = self._per_cpu(device["lstats"], "pcpu_lstats", {})
        return {"tx_packets": sent["packets"], "tx_bytes": sent["bytes"], "rx_packets": 0, "rx_bytes": 0}

    def _veth_queues(self, device: Record, private: Record, module: str | None) -> _Counters:
        names = ("rx_drops", "xdp_packets", "xdp_bytes", "xdp_tx_err", "peer_tq_xdp_xmit_err")
        totals = dict.fromkeys(names, 0)
        layout = self._layouts.struct(module, "veth_rq")
        for queue in self._queues(private["rq"], layout, device["num_rx_queues"]):
            for name in names:
                totals[name] += _number(queue, f"stats.vs.{name}")
        return totals

    def _virtio(self, device: Record, module: str | None) -> _Counters:
        layout = self._layouts.struct(module, "virtnet_info")
        private = self._kernel.record(layout, private_data(device))
        count = private["max_queue_pairs"]
        names = ("rx_packets", "rx_bytes", "rx_dropped", "tx_packets", "tx_bytes", "tx_errors")
        counters = dict.fromkeys(names, 0)
        for queue in self._queues(private["rq"], self._layouts.struct(module, "receive_queue"), count):
            counters["rx_packets"] += _number(queue, "stats.packets")
            counters["rx_bytes"] += _number(queue, "stats.bytes")
            counters["rx_dropped"] += _number(queue, "stats.drops")
        for queue in self._queues(private["sq"], self._layouts.struct(module, "send_queue"), count):
            counters["tx_packets"] += _number(queue, "stats.packets")
            counters["tx_bytes"] += _number(queue, "stats.bytes")
            if queue.has("stats.tx_timeouts"):
                counters["tx_errors"] += _number(queue, "stats.tx_timeouts")
        stats = device.inner("stats")
        for name in ("tx_dropped", "tx_fifo_errors", "rx_length_errors", "rx_frame_errors"):
            counters[name] = _number(stats, name)
        return counters

    def _queues(self, first: int, layout: StructLayout, count: int) -> list[Record]:
        """The elements of an array of a driver's queues."""
        if not first:
            return []
        if not 0 <= count <= _MAX_QUEUES:
            raise CorruptData(f"a network driver claims to have {count} queues ({layout.name})")
        return [self._kernel.record(layout, first + index * layout.size) for index in range(count)]


def private_data(device: Record) -> int:
    """The address of a driver's own data behind a `net_device` (netdev_priv)."""
    if device.has("priv"):
        return device.at("priv")
    return device.address + (device.layout.size + _NETDEV_ALIGN - 1) // _NETDEV_ALIGN * _NETDEV_ALIGN


def _number(record: Record, path: str) -> int:
    """A counter's value, whatever wraps it: unsigned long, u64_stats_t, atomic64_t."""
    return int.from_bytes(record.bytes_of(path)[:8], "little")

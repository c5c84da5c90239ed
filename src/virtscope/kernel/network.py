"""The network interfaces of a guest, in all its network namespaces. `interfaces` is the entry point.

The words (flags, states, scopes, types) are those of ip(8), their numbers those of the kernel's user-space
interface (include/uapi/linux/if.h, rtnetlink.h, if_addr.h, if_arp.h).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from virtscope.errors import CorruptData, UnknownLayout
from virtscope.kernel.addresses import Address, AddressReader
from virtscope.kernel.collections import list_of, xarray_of
from virtscope.kernel.interface_statistics import Statistics, StatisticsReader, private_data
from virtscope.kernel.module_layouts import ModuleLayouts
from virtscope.kernel.namespaces import inode_number

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel
    from virtscope.kernel.records import Record

_FLAGS = {
    "LOOPBACK": 1 << 3,
    "BROADCAST": 1 << 1,
    "POINTOPOINT": 1 << 4,
    "MULTICAST": 1 << 12,
    "NOARP": 1 << 7,
    "ALLMULTI": 1 << 9,
    "PROMISC": 1 << 8,
    "MASTER": 1 << 10,
    "SLAVE": 1 << 11,
    "DEBUG": 1 << 2,
    "DYNAMIC": 1 << 15,
    "AUTOMEDIA": 1 << 14,
    "PORTSEL": 1 << 13,
    "NOTRAILERS": 1 << 5,
    "UP": 1 << 0,
    "LOWER_UP": 1 << 16,
    "DORMANT": 1 << 17,
    "ECHO": 1 << 18,
}
"""In the order in which ip shows them. RUNNING, which it does not show, is `_RUNNING`."""

_UP_FLAG, _RUNNING, _LOWER_UP, _DORMANT, _ALLMULTI, _PROMISC = 1, 1 << 6, 1 << 16, 1 << 17, 1 << 9, 1 << 8

_STATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")
_UNKNOWN, _DOWN, _UP = 0, 2, 6

_TYPES = {
    1: "ether",
    32: "infiniband",
    270: "rose",
    280: "can",
    512: "ppp",
    519: "rawip",
    768: "ipip",
    769: "tunnel6",
    772: "loopback",
    774: "fddi",
    776: "sit",
    778: "gre",
    801: "ieee802.11",
    802: "ieee802.11/prism",
    803: "ieee802.11/radiotap",
    804: "ieee802.15.4",
    823: "gre6",
    824: "netlink",
    825: "6lowpan",
    826: "vsockmon",
    65534: "none",
    65535: "void",
}
"""ARPHRD_*: what kind of link it is, which decides what its addresses look like."""

_LINK_START, _LINK_NO_CARRIER, _LINK_DORMANT = 0, 2, 4
"""Bits of `net_device.state` (enum netdev_state_t)."""

_STACKED = frozenset(("vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"))
"""Kinds of interface that sit on exactly one other."""

_MAX_NAMESPACES = 65536
_MAX_DEVICES = 65536
_MAX_ADDRESS = 32


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface.

    None says that a fact is not known (a note may say why); an empty text or tuple says that there is none.

    Attributes:
        namespace: the inode number of its network namespace, as /proc/PID/ns/net shows it.
        namespace_name: that namespace's name for `ip netns`; None when it has none.
        is_initial_namespace: whether that is the namespace the guest started with.
        index: its number in the namespace.
        name: "eth0".
        flags: UP, BROADCAST, ... as ip shows them, NO-CARRIER among them.
        flags_value: the same as a number, with RUNNING, as SIOCGIFFLAGS gives them.
        mtu: bytes.
        qdisc: the queueing discipline, "noqueue" for none.
        state: the operational state: up, down, unknown, lowerlayerdown, dormant, testing, notpresent.
        master: the interface (bridge, bond) it is a port of.
        type: what kind of link: ether, loopback, none, ...
        kind: what kind of virtual interface: veth, vlan, bridge, ...; empty for hardware.
        link_index: the number of the interface it sits on or is a pair with; may be in another namespace.
        link_name: that interface's name when it is in the same namespace, else empty.
        link_namespace: the inode number of that interface's namespace when it is another one.
        link_namespace_name: that namespace's name for `ip netns`.
        link_namespace_id: what this namespace calls that namespace (`ip netns list-id`).
        mac: the link-layer address.
        broadcast: the link-layer broadcast address.
        queue_length: packets.
        group: the number of its device group, 0 for the default one.
        addresses: IPv4 addresses, then IPv6.
        statistics: what passed through it; None when its driver keeps the numbers where they are not read.
        statistics_unknown: why `statistics` is None; empty otherwise.
    """

    namespace: int
    namespace_name: str | None
    is_initial_namespace: bool
    index: int
    name: str
    flags: tuple[str, ...]
    flags_value: int
    mtu: int
    qdisc: str
    state: str
    master: str
    type: str
    kind: str
    link_index: int | None
    link_name: str
    link_namespace: int | None
    link_namespace_name: str | None
    link_namespace_id: int | None
    mac: str
    broadcast: str
    queue_length: int
    group: int
    addresses: tuple[Address, ...]
    statistics: Statistics | None
    statistics_unknown: str


def interfaces(kernel: Kernel) -> Iterator[Interface]:
    """The interfaces of every network namespace, the initial namespace first, in the order of their numbers.

    Raises:
        UnknownLayout: the kernel's network is not known, or it has none.
        CorruptData: a list loops or leads nowhere; the interfaces that were read are yielded first.
    """
    if not kernel.has_types:
        raise UnknownLayout("network interfaces cannot be read: this kernel has no type information (BTF)")
    initial = kernel.symbol("init_net")
    namespaces, problem = _namespaces(kernel, initial)
    names: dict[int, str] = {}
    if len(namespaces) > 1:
        from virtscope.kernel.mounts import network_namespace_names

        names = network_namespace_names(kernel)
    layouts = ModuleLayouts(kernel)
    reader = _Reader(kernel, layouts)
    for address in namespaces:
        try:
            yield from kernel.retried(partial(reader.read, address, address == initial, names))
        except CorruptData as error:
            problem = problem or error
    layouts.save()
    if problem is not None:
        raise problem


def _namespaces(kernel: Kernel, initial: int) -> tuple[list[int], CorruptData | None]:
    """The addresses of all `struct net`, and what is wrong with their list."""
    found: list[int] = []

    def read() -> None:
        found.clear()
        head = kernel.symbol("net_namespace_list")
        for net in list_of(kernel, head, "net", "list", limit=_MAX_NAMESPACES):
            found.append(net.address)

    problem: CorruptData | None = None
    try:
        kernel.retried(read)
    except CorruptData as error:
        problem = error
    others = [address for address in found if address != initial]
    return [initial, *others], problem


class _Reader:
    """Reads the interfaces of one kernel."""

    def __init__(self, kernel: Kernel, layouts: ModuleLayouts) -> None:
        self._kernel = kernel
        self._layouts = layouts
        self._addresses = AddressReader(kernel)
        self._statistics = StatisticsReader(kernel, layouts)

    def read(self, net: int, is_initial: bool, names: dict[int, str]) -> list[Interface]:
        """The interfaces of the namespace whose `struct net` is at `net`."""
        kernel = self._kernel
        namespace = inode_number(kernel, "net", net)
        head = net + kernel.struct("net").offset("dev_base_head")
        devices = {
            device.address: device
            for device in list_of(kernel, head, "net_device", "dev_list", limit=_MAX_DEVICES)
        }
        rows = []
        for device in devices.values():
            flags = _flags(device)
            kind = self._kind(device)
            link = self._link(device, kind)
            elsewhere = link if link is not None and link.address not in devices else None
            link_namespace = None if elsewhere is None else self._namespace_of(elsewhere)
            statistics, unknown = self._read_statistics(device)
            rows.append(
                Interface(
                    namespace=namespace,
                    namespace_name=names.get(namespace),
                    is_initial_namespace=is_initial,
                    index=device["ifindex"],
                    name=_string(device["name"]),
                    flags=_words(flags),
                    flags_value=flags,
                    mtu=device["mtu"],
                    qdisc=self._qdisc(device),
                    state=_state(device),
                    master=self._master(device),
                    type=_TYPES.get(device["type"], str(device["type"])),
                    kind=kind,
                    link_index=None if link is None else link["ifindex"],
                    link_name="" if link is None or elsewhere is not None else _string(link["name"]),
                    link_namespace=link_namespace,
                    link_namespace_name=None if link_namespace is None else names.get(link_namespace),
                    link_namespace_id=None if elsewhere is None else self._namespace_id(net, elsewhere),
                    mac=self._hardware_address(device),
                    broadcast=_colons(device.bytes_of("broadcast")[: _address_length(device)]),
                    queue_length=device["tx_queue_len"],
                    group=device["group"],
                    addresses=self._addresses.read(device),
                    statistics=statistics,
                    statistics_unknown=unknown,
                )
            )
        return sorted(rows, key=lambda row: row.index)

    def _read_statistics(self, device: Record) -> tuple[Statistics | None, str]:
        try:
            return self._statistics.read(device), ""
        except UnknownLayout as error:
            return None, str(error)

    def _kind(self, device: Record) -> str:
        operations = device["rtnl_link_ops"]
        if not operations:
            return ""
        kernel = self._kernel
        kind = kernel.read_pointer(operations + kernel.struct("rtnl_link_ops").offset("kind"))
        return _string(kernel.read_cstring(kind, 64)) if kind else ""

    def _qdisc(self, device: Record) -> str:
        qdisc = device.follow("qdisc")
        return _string(qdisc.pointee("ops")["id"]) if qdisc is not None else ""

    def _neighbours(self, device: Record, direction: str) -> Iterator[Record]:
        """The devices directly above or below, as `struct netdev_adjacent`."""
        return list_of(
            self._kernel, device.at(f"adj_list.{direction}"), "netdev_adjacent", "list", limit=_MAX_DEVICES
        )

    def _master(self, device: Record) -> str:
        for above in self._neighbours(device, "upper"):
            if above["master"]:
                return _string(above.pointee("dev")["name"])
        return ""

    def _link(self, device: Record, kind: str) -> Record | None:
        """The interface that `device` sits on or is a pair with."""
        if kind in _STACKED:
            return next((below.pointee("dev") for below in self._neighbours(device, "lower")), None)
        if kind == "veth":
            try:
                layout = self._layouts.struct(self._module(device), "veth_priv")
            except UnknownLayout:
                return None
            peer = self._kernel.record(layout, private_data(device))["peer"]
            return self._kernel._pointee(device.layout, peer, "veth_priv.peer") if peer else None
        return None

    def _module(self, device: Record) -> str | None:
        """The module that a device's kind of interface is from; None for the kernel itself."""
        symbol = self._kernel.symbolize(device["netdev_ops"])
        return symbol[2] if symbol is not None else None

    def _namespace_of(self, device: Record) -> int:
        return inode_number(self._kernel, "net", device["nd_net.net"])

    def _namespace_id(self, net: int, device: Record) -> int | None:
        """The number by which the namespace at `net` knows that of `device`; None when it has none for it."""
        kernel = self._kernel
        layout = kernel.struct("net")
        base = layout.find("netns_ids.idr_base")
        first = kernel.read_u32(net + base.offset) if base is not None else 0
        wanted = device["nd_net.net"]
        for index, entry in xarray_of(kernel, net + layout.offset("netns_ids.idr_rt"), limit=_MAX_NAMESPACES):
            if entry == wanted:
                return first + index
        return None

    def _hardware_address(self, device: Record) -> str:
        length = _address_length(device)
        return _colons(self._kernel.read(device["dev_addr"], length)) if length else ""


def _flags(device: Record) -> int:
    """The flags that user space sees: what was set, and what the link's state adds (dev_get_flags)."""
    state = device["state"]
    flags = device["flags"] & ~(_RUNNING | _LOWER_UP | _DORMANT | _ALLMULTI | _PROMISC)
    flags |= device["gflags"] & (_ALLMULTI | _PROMISC)
    if state >> _LINK_START & 1:
        if device["operstate"] in (_UNKNOWN, _UP):
            flags |= _RUNNING
        if not state >> _LINK_NO_CARRIER & 1:
            flags |= _LOWER_UP
        if state >> _LINK_DORMANT & 1:
            flags |= _DORMANT
    return int(flags)


def _words(flags: int) -> tuple[str, ...]:
    words = tuple(word for word, bit in _FLAGS.items() if flags & bit)
    return ("NO-CARRIER", *words) if flags & _UP_FLAG and not flags & _RUNNING else words


def _state(device: Record) -> str:
    number = device["operstate"] if device["state"] >> _LINK_START & 1 else _DOWN
    return _STATES[number] if number < len(_STATES) else str(number)


def _address_length(device: Record) -> int:
    return min(int(device["addr_len"]), _MAX_ADDRESS)


def _colons(address: bytes) -> str:
    return address.hex(":")


def _string(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")

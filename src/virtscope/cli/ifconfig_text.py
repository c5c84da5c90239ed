"""Interfaces as ifconfig(8) and ip(8) write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from virtscope.cli.command import Line
from virtscope.kernel.addresses import FOREVER

if TYPE_CHECKING:
    from virtscope.kernel.addresses import Address
    from virtscope.kernel.interface_statistics import Statistics
    from virtscope.kernel.network import Interface

_IFCONFIG_FLAGS = (
    *(("UP", 1), ("BROADCAST", 1 << 1), ("DEBUG", 1 << 2), ("LOOPBACK", 1 << 3), ("POINTOPOINT", 1 << 4)),
    *(("NOTRAILERS", 1 << 5), ("RUNNING", 1 << 6), ("NOARP", 1 << 7), ("PROMISC", 1 << 8)),
    *(("ALLMULTI", 1 << 9), ("SLAVE", 1 << 11), ("MASTER", 1 << 10), ("MULTICAST", 1 << 12)),
    ("DYNAMIC", 1 << 15),
)
"""In the order in which ifconfig shows them; it knows the lower 16 bits only."""

_SHORT_FLAGS = (
    *(("A", 9), ("B", 1), ("D", 2), ("L", 3), ("M", 12), ("d", 15), ("P", 8), ("N", 5), ("O", 7), ("P", 4)),
    *(("s", 11), ("m", 10), ("R", 6), ("U", 0)),
)
"""The letters of `ifconfig -s` and their bits, in its order."""

_BROADCAST, _POINT_TO_POINT = 1 << 1, 1 << 4
_SCOPE_IDS = {"global": "0x0", "host": "0x10", "link": "0x20", "site": "0x40"}
_HARDWARE = {
    "ether": ("ether", "Ethernet"),
    "loopback": ("loop", "Local Loopback"),
    "ppp": ("ppp", "Point-to-Point Protocol"),
    "ipip": ("tunnel", "IPIP Tunnel"),
    "sit": ("sit", "IPv6-in-IPv4"),
    "infiniband": ("infiniband", "InfiniBand"),
}
_UNITS = (
    (1 << 60, "EiB"),
    (1 << 50, "PiB"),
    (1 << 40, "TiB"),
    (1 << 30, "GiB"),
    (1 << 20, "MiB"),
    (1 << 10, "KiB"),
)


def namespace_line(row: Interface) -> Line:
    """What stands above the interfaces of a further network namespace."""
    name = f"{row.namespace_name} ({row.namespace})" if row.namespace_name else str(row.namespace)
    return Line(f"netns: {name}", "bold")


# As ifconfig


def interface_lines(rows: Iterable[Interface], *, only: str | None = None) -> Iterator[Line]:
    """The interfaces of one namespace as ifconfig shows them, each followed by an empty line.

    An address with a label of its own (eth0:1) is an entry of its own. Addresses that ifconfig cannot show,
    as they share their label with another, are shown with that one.

    Args:
        rows: the interfaces.
        only: only the entry of that name.
    """
    for row in sorted(rows, key=lambda row: _natural(row.name)):
        for name in (row.name, *_labels(row)):
            if only is None or only == name:
                yield from _entry(row, name)


def _labels(row: Interface) -> list[str]:
    """The further names that IPv4 addresses of an interface have (eth0:1)."""
    labels = {a.label for a in row.addresses if a.family == "inet" and a.label} - {row.name}
    return sorted(labels, key=_natural)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """A key that sorts eth2 before eth10."""
    parts = re.findall(r"\d+|\D+", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _entry(row: Interface, name: str) -> Iterator[Line]:
    is_whole = name == row.name
    words = ",".join(word for word, bit in _IFCONFIG_FLAGS if row.flags_value & bit)
    yield Line(f"{name}: flags={row.flags_value & 0xFFFF}<{words}>  mtu {row.mtu}", "bold")
    for address in row.addresses:
        if address.family == "inet" and (address.label == name or (is_whole and not address.label)):
            yield Line(
                f"        inet {address.address}  netmask {_netmask(address.prefix)}{_end(row, address)}"
            )
        elif address.family == "inet6" and is_whole:
            scope = f"{_SCOPE_IDS.get(address.scope, '0x80')}<{address.scope}>"
            yield Line(f"        inet6 {address.address}  prefixlen {address.prefix}  scopeid {scope}")
    yield Line(f"        {_hardware(row)}")
    if is_whole:
        yield from _counters(row.statistics)
    yield Line("")


def _end(row: Interface, address: Address) -> str:
    """The other end of a point-to-point link, or the broadcast address."""
    if row.flags_value & _POINT_TO_POINT:
        return f"  destination {address.peer or address.address}"
    return f"  broadcast {address.broadcast or '0.0.0.0'}" if row.flags_value & _BROADCAST else ""


def _netmask(prefix: int) -> str:
    mask = 0xFFFFFFFF << (32 - prefix) & 0xFFFFFFFF
    return ".".join(str(mask >> shift & 0xFF) for shift in (24, 16, 8, 0))


def _hardware(row: Interface) -> str:
    word, title = _HARDWARE.get(row.type, ("unspec", "UNSPEC"))
    address = ""
    if word == "unspec":
        address = " " + "-".join([*row.mac.upper().split(":"), *["00"] * 16][:16] if row.mac else ["00"] * 16)
    elif row.mac and word in ("ether", "infiniband"):
        address = f" {row.mac}"
    return f"{word}{address}  txqueuelen {row.queue_length}  ({title})"


def _counters(statistics: Statistics | None) -> Iterator[Line]:
    if statistics is None:
        yield Line("        RX packets -  bytes - (-)")
        yield Line("        RX errors -  dropped -  overruns -  frame -")
        yield Line("        TX packets -  bytes - (-)")
        yield Line("        TX errors -  dropped - overruns -  carrier -  collisions -")
        return
    s = statistics
    frame = s.rx_length_errors + s.rx_over_errors + s.rx_crc_errors + s.rx_frame_errors
    carrier = s.tx_carrier_errors + s.tx_aborted_errors + s.tx_window_errors + s.tx_heartbeat_errors
    yield Line(f"        RX packets {s.rx_packets}  bytes {s.rx_bytes} ({_human(s.rx_bytes)})")
    yield Line(
        f"        RX errors {s.rx_errors}  dropped {s.rx_dropped + s.rx_missed_errors}  "
        f"overruns {s.rx_fifo_errors}  frame {frame}"
    )
    yield Line(f"        TX packets {s.tx_packets}  bytes {s.tx_bytes} ({_human(s.tx_bytes)})")
    yield Line(
        f"        TX errors {s.tx_errors}  dropped {s.tx_dropped} overruns {s.tx_fifo_errors}  "
        f"carrier {carrier}  collisions {s.collisions}"
    )


def _human(size: int) -> str:
    """Bytes with one decimal, cut off, as ifconfig does it."""
    for unit, name in _UNITS:
        if size > unit:
            tenths = size * 10 // unit
            return f"{tenths // 10}.{tenths % 10} {name}"
    return f"{size}.0 B"


def short_lines(rows: Iterable[Interface]) -> Iterator[Line]:
    """One line for each interface, as `ifconfig -s` and `netstat -i`."""
    yield Line("Iface      MTU    RX-OK RX-ERR RX-DRP RX-OVR    TX-OK TX-ERR TX-DRP TX-OVR Flg", "bold")
    for row in sorted(rows, key=lambda row: _natural(row.name)):
        flags = "".join(letter for letter, bit in _SHORT_FLAGS if row.flags_value >> bit & 1)
        s = row.statistics
        numbers: Sequence[object] = ("-",) * 8
        if s is not None:
            numbers = (
                *(s.rx_packets, s.rx_errors, s.rx_dropped + s.rx_missed_errors, s.rx_fifo_errors),
                *(s.tx_packets, s.tx_errors, s.tx_dropped, s.tx_fifo_errors),
            )
        received = "{:>8} {:>6} {:>6} {:<6}".format(*numbers[:4])
        sent = "{:>8} {:>6} {:>6} {:>6}".format(*numbers[4:])
        yield Line(f"{row.name:<15} {row.mtu:>5} {received} {sent} {flags}")
        for label in _labels(row):
            yield Line(f"{label:<15} {row.mtu:>5}{'- no statistics available -':>33}{'':24}{flags}")


# As ip


def address_lines(rows: Iterable[Interface], *, statistics: bool = False) -> Iterator[Line]:
    """The interfaces of one namespace as `ip addr` shows them; with `statistics` as `ip -s addr`."""
    for row in rows:
        yield Line(_ip_header(row), "bold")
        yield Line(_ip_link(row))
        for address in row.addresses:
            yield from _ip_address(address)
        if statistics:
            yield from _ip_statistics(row.statistics)


def _ip_header(row: Interface) -> str:
    name = row.name
    if row.link_index is not None:
        name += f"@{row.link_name or f'if{row.link_index}'}"
    master = f" master {row.master}" if row.master else ""
    group = "default" if row.group == 0 else str(row.group)
    queue = f" qlen {row.queue_length}" if row.queue_length else ""
    return (
        f"{row.index}: {name}: <{','.join(row.flags)}> mtu {row.mtu} qdisc {row.qdisc}{master} "
        f"state {row.state.upper()} group {group}{queue}"
    )


def _ip_link(row: Interface) -> str:
    is_tunnel = row.type in ("ipip", "sit", "gre")
    mac, broadcast = (_dotted(row.mac), _dotted(row.broadcast)) if is_tunnel else (row.mac, row.broadcast)
    line = f"    link/{row.type}"
    if mac:
        line += f" {mac} {'peer' if row.flags_value & _POINT_TO_POINT else 'brd'} {broadcast}"
    if row.link_namespace_name:
        line += f" link-netns {row.link_namespace_name}"
    elif row.link_namespace_id is not None:
        line += f" link-netnsid {row.link_namespace_id}"
    return line


def _dotted(address: str) -> str:
    """The link-layer address of an IPv4 tunnel, which is an IPv4 address."""
    parts = address.split(":")
    return ".".join(str(int(part, 16)) for part in parts) if len(parts) == 4 else address


def _ip_address(address: Address) -> Iterator[Line]:
    words = [address.family]
    if address.peer:
        words += [address.address, "peer", f"{address.peer}/{address.prefix}"]
    else:
        words.append(f"{address.address}/{address.prefix}")
    if address.broadcast:
        words += ["brd", address.broadcast]
    words += ["scope", address.scope, *address.flags]
    if address.label:
        words.append(address.label)
    yield Line(f"    {' '.join(words)}", "dim" if "deprecated" in address.flags else None)
    yield Line(
        f"       valid_lft {_life_time(address.valid_seconds)} "
        f"preferred_lft {_life_time(address.preferred_seconds)}"
    )


def _life_time(seconds: int | None) -> str:
    if seconds is None:
        return "-"
    return "forever" if seconds == FOREVER else f"{seconds}sec"


def _ip_statistics(statistics: Statistics | None) -> Iterator[Line]:
    received = ("bytes", "packets", "errors", "dropped", "missed", "mcast")
    sent = ("bytes", "packets", "errors", "dropped", "carrier", "collsns")
    s = statistics
    numbers: Sequence[Sequence[object]] = (("-",) * 6, ("-",) * 6)
    if s is not None:
        numbers = (
            (s.rx_bytes, s.rx_packets, s.rx_errors, s.rx_dropped, s.rx_missed_errors, s.multicast),
            (s.tx_bytes, s.tx_packets, s.tx_errors, s.tx_dropped, s.tx_carrier_errors, s.collisions),
        )
    for direction, names, values in (("RX", received, numbers[0]), ("TX", sent, numbers[1])):
        widths = [max(len(name), len(str(value))) for name, value in zip(names, values, strict=True)]
        head = " ".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
        line = " ".join(f"{value:>{width}}" for value, width in zip(values, widths, strict=True))
        yield Line(f"    {direction}:  {head}")
        yield Line(f"         {line}")

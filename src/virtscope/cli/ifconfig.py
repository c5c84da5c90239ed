"""virt-ifconfig: the network interfaces of a running guest."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from virtscope.cli.command import Column, Command, Example, Guests, Option
from virtscope.cli.ifconfig_text import address_lines, interface_lines, namespace_line, short_lines
from virtscope.errors import UsageError

if TYPE_CHECKING:
    from virtscope.cli.command import Line
    from virtscope.guest import Guest
    from virtscope.kernel.network import Interface

_OPTIONS = (
    Option(("interface",), "only this interface, also when it is down", metavar="INTERFACE", nargs="?"),
    Option(("-a", "--all"), "also interfaces that are down"),
    Option(("-s", "--short"), "one line for each interface, as netstat -i"),
    Option(("--ip",), "in the format of ip addr: all interfaces, with what ifconfig leaves out"),
    Option(("--statistics",), "with --ip, also the counters, as ip -s"),
    Option(
        ("--netns",),
        "only this network namespace: its name for ip netns, its inode number, or `initial`",
        metavar="NAMESPACE",
    ),
)


def _check(args: argparse.Namespace) -> None:
    if args.short and args.ip:
        raise UsageError("--short and --ip exclude each other")
    if args.statistics and not args.ip:
        raise UsageError("--statistics only makes sense with --ip: the counters are shown without it")


def _rows(guest: Guest, args: argparse.Namespace) -> Iterator[Interface]:
    everything = args.all or args.ip or args.json or args.jsonl or args.csv or args.columns
    in_namespace = found = False
    for row in guest.interfaces():
        if args.netns and not _is_in(row, args.netns):
            continue
        in_namespace = True
        if args.interface is None:
            if not everything and not row.flags_value & 1:
                continue
        elif row.name != args.interface and all(a.label != args.interface for a in row.addresses):
            continue
        found = True
        if row.statistics_unknown and (args.statistics or not args.ip):
            guest.kernel.notes.append(f"the counters of {row.name} are not known: {row.statistics_unknown}")
        yield row
    if args.netns and not in_namespace:
        guest.kernel.notes.append(f"there is no network namespace {args.netns}")
    elif args.interface is not None and not found:
        where = f" in network namespace {args.netns}" if args.netns else ""
        guest.kernel.notes.append(f"there is no interface {args.interface}{where}")


def _is_in(row: Interface, namespace: str) -> bool:
    if namespace == "initial":
        return row.is_initial_namespace
    return namespace in (row.namespace_name, str(row.namespace))


def _text(rows: Iterable[Interface], args: argparse.Namespace) -> Iterator[Line]:
    spaces: dict[int, list[Interface]] = {}
    for row in rows:
        spaces.setdefault(row.namespace, []).append(row)
    for interfaces in spaces.values():
        if not interfaces[0].is_initial_namespace:
            yield namespace_line(interfaces[0])
        if args.ip:
            yield from address_lines(interfaces, statistics=args.statistics)
        elif args.short:
            yield from short_lines(interfaces)
        else:
            yield from interface_lines(interfaces, only=args.interface)


def _addresses(family: str) -> Any:
    return lambda row: [f"{a.address}/{a.prefix}" for a in row.addresses if a.family == family]


def _counter(name: str) -> Column:
    return Column(
        name,
        name.upper(),
        lambda row: None if row.statistics is None else getattr(row.statistics, name),
        name.replace("rx", "received").replace("tx", "sent").replace("_", " "),
        right=True,
    )


def _joined(value: Any) -> str:
    return " ".join(value) if value else "-"


def _dashed(value: Any) -> str:
    return "-" if value in (None, "") else str(value)


_COLUMNS = (
    Column("netns", "NETNS", lambda row: row.namespace, "the network namespace's inode number", right=True),
    Column(
        "netns_name",
        "NETNS-NAME",
        lambda row: row.namespace_name,
        "the network namespace's name for ip netns",
        show=_dashed,
    ),
    Column("index", "INDEX", lambda row: row.index, "the interface's number", right=True),
    Column("name", "NAME", lambda row: row.name, "the interface's name"),
    Column("state", "STATE", lambda row: row.state, "the operational state: up, down, unknown, ..."),
    Column("mac", "MAC", lambda row: row.mac, "the link-layer address", show=_dashed),
    Column("mtu", "MTU", lambda row: row.mtu, "the largest packet", right=True),
    Column("inet", "INET", _addresses("inet"), "IPv4 addresses", show=_joined),
    Column("inet6", "INET6", _addresses("inet6"), "IPv6 addresses", show=_joined),
    Column(
        "flags", "FLAGS", lambda row: row.flags, "flags, as ip shows them", show=lambda v: ",".join(v) or "-"
    ),
    Column("type", "TYPE", lambda row: row.type, "what kind of link: ether, loopback, ..."),
    Column("kind", "KIND", lambda row: row.kind, "what kind of virtual interface", show=_dashed),
    Column("master", "MASTER", lambda row: row.master, "the bridge or bond it is a port of", show=_dashed),
    Column("link", "LINK", lambda row: row.link_name, "the interface below it", show=_dashed),
    Column("qdisc", "QDISC", lambda row: row.qdisc, "the queueing discipline", show=_dashed),
    *(
        _counter(name)
        for name in (
            *("rx_packets", "rx_bytes", "rx_errors", "rx_dropped"),
            *("tx_packets", "tx_bytes", "tx_errors", "tx_dropped"),
        )
    ),
)


COMMAND = Command(
    name="virt-ifconfig",
    summary="show the network interfaces of a running guest, from outside",
    description="""Shows the network interfaces of a running virtual machine with addresses and counters,
as ifconfig(8) or ip(8) does inside it, read from outside, from its live memory.

Interfaces of every network namespace are shown, those of containers too; the namespace the guest started
with comes first. As with ifconfig, interfaces that are down are left out without -a.""",
    guests=Guests.MEMORY,
    options=_OPTIONS,
    columns=_COLUMNS,
    default_columns=lambda _args: ("netns", "name", "state", "mac", "mtu", "inet", "inet6"),
    rows=_rows,
    text=_text,
    check=_check,
    searches=lambda args: bool(args.interface or args.netns),
    examples=(
        Example("virt-ifconfig -d web", "the interfaces of the libvirt domain web"),
        Example("virt-ifconfig --ip --netns initial", "all running guests, as ip addr shows them inside"),
        Example("virt-ifconfig -o name,inet,rx_bytes,tx_bytes", "a table for every running guest"),
    ),
    see_also=("virt-ps", "virt-dmesg", "virt-uname", "ifconfig", "ip-address"),
    notes=(
        (
            "Counters",
            """Some network drivers count packets in memory of their own, which is read for the usual virtual
ones. Where it is not, the counters are shown as - and a note says which driver it is.""",
        ),
    ),
)
main = COMMAND.main

"""The IPv4 and IPv6 addresses of a network interface."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from virtscope.errors import CorruptData, NotMapped, UnknownLayout
from virtscope.kernel.collections import list_of

if TYPE_CHECKING:
    from virtscope.kernel.clocks import Clocks
    from virtscope.kernel.kernel import Kernel
    from virtscope.kernel.records import Record

FOREVER = 0xFFFFFFFF
"""The life time of an address that does not expire, as the kernel and `ip -j` have it."""

_PERMANENT = 0x80
_SECONDARY = 0x01
_FLAGS = (
    ("secondary", _SECONDARY),
    ("nodad", 0x02),
    ("optimistic", 0x04),
    ("dadfailed", 0x08),
    ("home", 0x10),
    ("deprecated", 0x20),
    ("tentative", 0x40),
    ("dynamic", _PERMANENT),
    ("mngtmpaddr", 0x100),
    ("noprefixroute", 0x200),
    ("autojoin", 0x400),
    ("stable-privacy", 0x800),
)
"""IFA_F_*, in ip's words and order. The first is "temporary" for IPv6; "dynamic" is the lack of its bit."""

_SCOPES = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
_IPV6_SCOPES = {0x10: "host", 0x20: "link", 0x40: "site"}
_MAX_ADDRESSES = 65536


@dataclass(frozen=True, slots=True)
class Address:
    """One address of an interface.

    Attributes:
        family: "inet" or "inet6".
        address: in the usual notation.
        prefix: the length of the network's prefix, in bits.
        peer: the other end of a point-to-point link, empty when there is none.
        broadcast: the broadcast address, empty when there is none.
        scope: global, site, link, host or nowhere.
        label: the name ifconfig knows an IPv4 address by ("eth0:1"), empty for IPv6.
        flags: secondary, dynamic, tentative, deprecated, ... in ip's words.
        valid_seconds: how long it stays; FOREVER for one that does not expire, None when not known.
        preferred_seconds: how long it is preferred for new connections.
    """

    family: str
    address: str
    prefix: int
    peer: str
    broadcast: str
    scope: str
    label: str
    flags: tuple[str, ...]
    valid_seconds: int | None
    preferred_seconds: int | None


class AddressReader:
    """Reads the addresses of one kernel's interfaces."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def read(self, device: Record) -> tuple[Address, ...]:
        """The addresses of a `net_device`: IPv4, then IPv6, each in the kernel's order.

        Raises:
            CorruptData: a list loops or leads nowhere.
        """
        return (*self._ipv4(device), *self._ipv6(device))

    def _ipv4(self, device: Record) -> list[Address]:
        found: list[Address] = []
        inet = device.follow("ip_ptr")
        record = inet.follow("ifa_list") if inet is not None else None
        seen: set[int] = set()
        while record is not None:
            if record.address in seen or len(seen) > _MAX_ADDRESSES:
                raise CorruptData(f"the IPv4 addresses of an interface loop at {record.address:#x}")
            seen.add(record.address)
            flags = record["ifa_flags"]
            local, remote = record.bytes_of("ifa_local"), record.bytes_of("ifa_address")
            broadcast = record.bytes_of("ifa_broadcast")
            scope = record["ifa_scope"]
            valid, preferred = self._life_times(
                flags, record["ifa_valid_lft"], record["ifa_preferred_lft"], record["ifa_tstamp"]
            )
            found.append(
                Address(
                    family="inet",
                    address=ipv4(local),
                    prefix=record["ifa_prefixlen"],
                    peer=ipv4(remote) if remote != local else "",
                    broadcast=ipv4(broadcast) if any(broadcast) else "",
                    scope=_SCOPES.get(scope, str(scope)),
                    label=record["ifa_label"].decode("utf-8", "surrogateescape"),
                    flags=_words(flags, "secondary"),
                    valid_seconds=valid,
                    preferred_seconds=preferred,
                )
            )
            record = record.follow("ifa_next")
        return found

    def _ipv6(self, device: Record) -> list[Address]:
        kernel = self._kernel
        if not device.has("ip6_ptr") or not device["ip6_ptr"] or not kernel.has_struct("inet6_dev"):
            return []
        found: list[Address] = []
        head = device["ip6_ptr"] + kernel.struct("inet6_dev").offset("addr_list")
        for record in list_of(kernel, head, "inet6_ifaddr", "if_list", limit=_MAX_ADDRESSES):
            flags = record["flags"]
            peer = record.bytes_of("peer_addr")
            scope = record["scope"]
            valid, preferred = self._life_times(
                flags, record["valid_lft"], record["prefered_lft"], record["tstamp"]
            )
            found.append(
                Address(
                    family="inet6",
                    address=ipv6(record.bytes_of("addr")),
                    prefix=record["prefix_len"],
                    peer=ipv6(peer) if any(peer) else "",
                    broadcast="",
                    scope=next((word for bit, word in _IPV6_SCOPES.items() if scope & bit), "global"),
                    label="",
                    flags=_words(flags, "temporary"),
                    valid_seconds=valid,
                    preferred_seconds=preferred,
                )
            )
        return found

    def _life_times(
        self, flags: int, valid: int, preferred: int, stamp: int
    ) -> tuple[int | None, int | None]:
        """How many seconds an address stays and is preferred; it was last refreshed at jiffy `stamp`."""
        if flags & _PERMANENT:
            return FOREVER, FOREVER
        if valid == FOREVER and preferred == FOREVER:
            return valid, preferred
        clock = self._jiffies
        if clock is None:
            return None, None
        now, per_second = clock
        passed = max(0, now - stamp) // per_second
        left = [time if time == FOREVER else max(0, time - passed) for time in (valid, preferred)]
        return left[0], left[1]

    @cached_property
    def _jiffies(self) -> tuple[int, int] | None:
        """The tick counter, and its ticks per second; None when they are not known."""
        from virtscope.kernel.clocks import read_clocks

        kernel = self._kernel
        try:
            clocks: Clocks = read_clocks(kernel)
            now = kernel.read_u64(
                kernel.symbol("jiffies_64" if kernel.has_symbol("jiffies_64") else "jiffies")
            )
        except (UnknownLayout, CorruptData, NotMapped) as error:
            kernel.notes.append(f"the life times of addresses are not known: {error}")
            return None
        return (now, clocks.ticks_per_second) if clocks.ticks_per_second else None


def _words(flags: int, first: str) -> tuple[str, ...]:
    shown = flags ^ _PERMANENT
    return tuple(first if bit == _SECONDARY else word for word, bit in _FLAGS if shown & bit)


def ipv4(address: bytes) -> str:
    """Four bytes as an IPv4 address."""
    return ".".join(map(str, address))


def ipv6(address: bytes) -> str:
    """Sixteen bytes as an IPv6 address in the form RFC 5952 recommends."""
    groups = [int.from_bytes(address[at : at + 2], "big") for at in range(0, 16, 2)]
    if not any(groups[:5]) and groups[5] == 0xFFFF:
        return f"::ffff:{ipv4(address[12:])}"
    best_start, best_length, start = 0, 1, 0
    while start < 8:
        length = 0
        while start + length < 8 and not groups[start + length]:
            length += 1
        if length > best_length:
            best_start, best_length = start, length
        start += length + 1
    words = [f"{group:x}" for group in groups]
    if best_length < 2:
        return ":".join(words)
    return f"{':'.join(words[:best_start])}::{':'.join(words[best_start + best_length :])}"

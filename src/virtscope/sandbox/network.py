"""A sandbox's network, as the sandbox sees it: none, the host's outgoing connections, a bridge, or a libvirt
network.

`--network user` is the same for all back ends: a small network of addresses that are nobody's, whose other
end is a router on the host (router.py) that filters, forwards and limits. The names in `allow` are looked up
on the host, once, and the sandbox gets them in /etc/hosts. Entry points: `check`, `layout`, `operations` (the
guest's side), `qemu_arguments`.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from virtscope.errors import UsageError
from virtscope.sandbox import wire
from virtscope.sandbox.definition import Definition, Network

# Addresses set aside for links like this one (RFC 6333), which no destination can have; and a unique local
# prefix.
GATEWAY, ADDRESS, RESOLVER, PREFIX = "192.0.0.1", "192.0.0.2", "192.0.0.3", 29
GATEWAY6, ADDRESS6, RESOLVER6, PREFIX6 = "fd76:6972:7473::1", "fd76:6972:7473::2", "fd76:6972:7473::3", 64
# Every sandbox is alone on its link, and a saved machine has its card's address saved.
USER_MAC = "52:54:00:76:69:72"
# Frames are as large as what is at the other end can take: each costs both kernels the same, whatever its
# size.
LARGEST_FRAME, USUAL_FRAME = 65520, 1500
CONFIG = "/run/virtscope"
ROUTES, ROUTES6 = "/proc/net/route", "/proc/net/ipv6_route"


@dataclass(frozen=True, slots=True)
class Allowed:
    """One destination of the firewall: the name it was given by, its address, port and protocol."""

    name: str
    address: str
    port: int
    protocol: str


@dataclass(frozen=True, slots=True)
class Outside:
    """The host's own way out.

    Args:
        ipv4: it has a default route for IPv4.
        ipv6: it has one for IPv6.
        interface: an interface to take for one, where there is no default route at all.
    """

    ipv4: bool
    ipv6: bool
    interface: str = ""


@functools.cache
def outside() -> Outside:
    """Look at the host's routes.

    Raises:
        UsageError: the host has no network.
    """
    with open(ROUTES, encoding="ascii") as lines:
        routes = [line.split() for line in lines][1:]
    try:
        with open(ROUTES6, encoding="ascii") as lines:
            # loopback and link-local routes lead nowhere
            routes6 = [
                f for f in map(str.split, lines) if f[9] != "lo" and not f[0].startswith(("fe8", "ff"))
            ]
    except OSError:
        routes6 = []
    ipv4 = any(fields[1] == "00000000" and fields[7] == "00000000" for fields in routes)
    ipv6 = any(fields[1] == "00" for fields in routes6)
    if ipv4 or ipv6:
        return Outside(ipv4, ipv6)
    names = [fields[0] for fields in routes] + [fields[9] for fields in routes6]
    if not names:
        raise UsageError("--network user: this host has no network interface with a route")
    name = names[0]
    return Outside(
        any(fields[0] == name for fields in routes), any(fields[9] == name for fields in routes6), name
    )


@functools.cache
def allowed(network: Network) -> tuple[Allowed, ...]:
    """Look up the destinations of a firewall on the host.

    Raises:
        UsageError: a name is not known, or has only addresses of a family that the host cannot reach.
    """
    way = outside()
    families = {
        family for family, there in ((socket.AF_INET, way.ipv4), (socket.AF_INET6, way.ipv6)) if there
    }
    found = []
    for one in network.allow:
        try:
            answers = socket.getaddrinfo(one.host, one.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise UsageError(f"{one.host}: its address cannot be found: {error.strerror}") from None
        addresses = {str(answer[4][0]).partition("%")[0] for answer in answers if answer[0] in families}
        if not addresses:
            raise UsageError(f"{one.host}: this host has no route for addresses of its kind")
        found += [Allowed(one.host, address, one.port, one.protocol) for address in sorted(addresses)]
    return tuple(found)


def check(definition: Definition) -> None:
    """Refuse what cannot work before anything is started.

    Raises:
        UsageError: the back end has no such network, or the host lacks what it needs.
    """
    network, backend = definition.network, definition.backend
    kinds = {
        "qemu:": ("none", "user", "bridge"),
        "uml:": ("none", "user", "bridge"),
        "namespaces:": ("none", "user", "host"),
    }.get(backend, ("none", "user", "bridge", "source"))
    if network.kind not in kinds:
        others = {"source": "; a libvirt network needs qemu:///system or lxc:///system"}
        raise UsageError(
            f"the {backend} back end has no network {network.kind!r}{others.get(network.kind, '')}"
        )
    ours = routed(definition)
    if (network.allow or network.publish) and not ours:
        what = "--allow" if network.allow else "--publish"
        where = (
            "libvirt's own machines cannot filter" if network.kind == "user" else "it needs --network user"
        )
        raise UsageError(
            f"{what}: {where}; use qemu:, uml:, namespaces: or lxc:///system with --network user"
        )
    if definition.limits.net_rate and not ours and "://" not in backend:
        raise UsageError("--net-rate needs --network user, or a network of libvirt's")
    if ours:
        outside()
        allowed(network)


def routed(definition: Definition) -> bool:
    """Whether the network is one of ours (router.py); libvirt's machines have one of QEMU's own."""
    backend = definition.backend
    return definition.network.kind == "user" and ("://" not in backend or backend.startswith("lxc"))


def interface(definition: Definition) -> str:
    """What the sandbox's kernel calls the interface."""
    return "vec0" if definition.backend == "uml:" else "eth0"


def frame_size(definition: Definition) -> int:
    """The MTU of a "user" network."""
    return USUAL_FRAME if definition.backend == "uml:" else LARGEST_FRAME


def configured_outside(definition: Definition) -> bool:
    """Whether the router gives the interface its addresses: where the sandbox has no kernel of its own."""
    return definition.backend in ("namespaces:",) or definition.backend.startswith("lxc")


def _name_servers() -> list[str]:
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as lines:
            fields = [line.split() for line in lines]
    except OSError:
        return []
    return [words[1] for words in fields if len(words) > 1 and words[0] == "nameserver"]


def _loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "0.0.0.0", "::")


def resolver_address() -> str:
    """The address at which the sandbox reaches a name server of the host's loopback."""
    return RESOLVER if outside().ipv4 else RESOLVER6


def hidden_resolver() -> str | None:
    """The host's name server, if it can be reached on the host's loopback only."""
    servers = _name_servers()
    hidden = [one for one in servers if _loopback(one)]
    return hidden[0] if hidden and len(hidden) == len(servers) else None


def resolvers() -> list[str]:
    """The name servers of the sandbox: the host's, or the address that stands for one of its loopback."""
    if hidden_resolver():
        return [resolver_address()]
    way = outside()
    # one that is known on a certain link only cannot be told to anybody else
    servers = [one for one in _name_servers() if not _loopback(one) and "%" not in one]
    return [one for one in servers if (way.ipv6 if ":" in one else way.ipv4)][:3]


def qemu_arguments(definition: Definition, bus: str, tap: int) -> list[str]:
    """QEMU's arguments for the network card and the tap device that it is connected to."""
    if definition.network.kind == "user":
        options = f"mac={USER_MAC},host_mtu={LARGEST_FRAME}"
    else:
        options = f"mac={mac_address()}"
    device = f"virtio-net-{bus},netdev=net,{options}" + (",romfile=" if bus == "pci" else "")
    return ["-netdev", f"tap,id=net,fd={tap}", "-device", device]


def mac_address() -> str:
    """A random address in QEMU's range."""
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in os.urandom(3))


def addresses(name: str, mtu: int) -> Iterator[tuple[str, ...]]:
    """Yields the operations that give the sandbox's interface of a "user" network its addresses."""
    way = outside()
    yield ("up", name)
    yield ("mtu", name, str(mtu))
    if way.ipv4:
        yield ("address", name, ADDRESS, str(PREFIX))
        yield ("route", "0.0.0.0", "0", name, GATEWAY)
    if way.ipv6:
        # a kernel without IPv6 does without
        yield ("?address", name, ADDRESS6, str(PREFIX6))
        yield ("?route", "::", "0", name, GATEWAY6)


def operations(definition: Definition) -> Iterator[wire.Record]:
    """Yields the setup operations that bring the guest's interface up and make names work."""
    network, name = definition.network, interface(definition)
    yield ("mkdir", CONFIG, 0o755)
    if routed(definition):
        if not configured_outside(definition):
            yield ("wait", f"/sys/class/net/{name}", 3000)
            yield from addresses(name, frame_size(definition))
        if network.allow:
            names = "".join(
                f"{one.address} {one.name}\n" for one in allowed(network) if one.name != one.address
            )
            yield from _replace_file("/etc/hosts", f"127.0.0.1 localhost {definition.hostname}\n{names}")
            text = "# no name server: only what was allowed can be reached\n"
        else:
            text = "".join(f"nameserver {one}\n" for one in resolvers())
        yield from _replace_file("/etc/resolv.conf", text)
    else:
        yield ("wait", f"/sys/class/net/{name}", 3000)
        yield from _replace_file("/etc/resolv.conf", "")
        yield ("dhcp", name, f"{CONFIG}/resolv.conf", 15000)


def _replace_file(path: str, text: str) -> Iterator[wire.Record]:
    """A file of our own over one of the read-only root."""
    ours = f"{CONFIG}/{os.path.basename(path)}"
    real = os.path.realpath(path)
    yield ("file", ours, 0o644, 0, 0, text)
    if real.startswith("/run/"):
        yield ("mkdir", os.path.dirname(real), 0o755)
        yield ("file", real, 0o644, 0, 0, b"")
    yield ("bind", ours, real)

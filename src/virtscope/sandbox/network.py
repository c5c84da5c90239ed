"""A sandbox's network: none, the host's outgoing connections, a bridge, or a libvirt network; with a
firewall.

The filter is outside the guest, which is not trusted: with `allow`, QEMU's user-mode network is restricted to
the listed addresses, each forwarded by a helper process on the host. The names in `allow` are looked up on
the host, once, and the guest gets them in /etc/hosts. Entry points: `qemu_arguments` (the host's side),
`operations` (the guest's).
"""

from __future__ import annotations

import functools
import ipaddress
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from virtscope.errors import UsageError
from virtscope.sandbox import compiler, wire
from virtscope.sandbox.definition import Definition, Network

INTERFACE = "eth0"
# QEMU's user-mode network takes no prefix shorter than this.
SHORTEST_PREFIX = 4
USER_ADDRESS, USER_MASK, USER_GATEWAY, USER_RESOLVER = "10.0.2.15", "255.255.255.0", "10.0.2.2", "10.0.2.3"
MS_BIND_FILES = "/run/virtscope"


@dataclass(frozen=True, slots=True)
class Allowed:
    """One destination of the firewall: the name it was given by, its address, the port."""

    name: str
    address: str
    port: int


@functools.cache
def allowed(network: Network) -> tuple[Allowed, ...]:
    """Look up the destinations of a firewall on the host.

    Raises:
        UsageError: a name is not known, or the destinations cannot share one network.
    """
    found = []
    for host, port in network.allow:
        try:
            answers = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            raise UsageError(f"{host}: its address cannot be found: {error.strerror}") from None
        found += [Allowed(host, str(answer[4][0]), port) for answer in answers]
    if len({int(ipaddress.IPv4Address(one.address)) >> (32 - SHORTEST_PREFIX) for one in found}) > 1:
        raise UsageError(
            "--allow: addresses this far apart cannot share one network; name fewer destinations"
        )
    return tuple(found)


def _restricted(network: Network) -> tuple[str, list[str]]:
    """The network that holds the guest and all destinations, and four free addresses in it."""
    destinations = allowed(network)
    taken = {one.address for one in destinations}
    whole = ipaddress.IPv4Network(f"{destinations[0].address}/{SHORTEST_PREFIX}", strict=False)
    start = int(whole.network_address) + (11 << 16)
    free = (str(ipaddress.IPv4Address(start + n)) for n in range(2, 1000))
    return str(whole), [
        address for address, _ in zip((a for a in free if a not in taken), range(4), strict=False)
    ]


def qemu_arguments(definition: Definition, bus: str) -> list[str]:
    """QEMU's arguments for the network card and what it is connected to.

    Raises:
        UsageError: this kind of network needs another back end.
    """
    network = definition.network
    device = [
        "-device",
        f"virtio-net-{bus},netdev=net,mac={mac_address()}" + (",romfile=" if bus == "pci" else ""),
    ]
    if network.kind == "user":
        if not network.allow:
            forwards = "".join(f",hostfwd=tcp:127.0.0.1:{host}-:{guest}" for host, guest in network.forwards)
            return ["-netdev", f"user,id=net,ipv6=off{forwards}", *device]
        whole, (gateway, resolver, guest, _) = _restricted(network)
        options = (
            f"user,id=net,restrict=on,ipv6=off,net={whole},host={gateway},dns={resolver},dhcpstart={guest}"
        )
        helper = str(compiler.guest_init()).replace(",", ",,")
        for one in allowed(network):
            options += f",guestfwd=tcp:{one.address}:{one.port}-cmd:{helper} connect {one.address} {one.port}"
        return ["-netdev", options, *device]
    if network.kind == "bridge":
        return ["-netdev", f"bridge,id=net,br={network.name},helper={_bridge_helper()}", *device]
    raise UsageError(
        f"the qemu: back end has no network {network.kind!r}; a libvirt network needs qemu:///system"
    )


def spawns(definition: Definition) -> bool:
    """Whether QEMU itself must start helpers for this network."""
    network = definition.network
    return network.kind == "bridge" or bool(network.allow)


def _bridge_helper() -> str:
    for path in ("/usr/lib/qemu/qemu-bridge-helper", "/usr/libexec/qemu-bridge-helper"):
        if os.access(path, os.X_OK):
            return path
    raise UsageError("--network bridge=...: qemu-bridge-helper is not installed")


def mac_address() -> str:
    """A random address in QEMU's range."""
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in os.urandom(3))


def operations(definition: Definition) -> Iterator[wire.Record]:
    """Yields the setup operations that bring the guest's interface up and make names work."""
    network = definition.network
    yield ("wait", f"/sys/class/net/{INTERFACE}", 3000)
    yield ("mkdir", MS_BIND_FILES, 0o755)
    if network.kind == "user" and network.allow:
        whole, (_, _, guest, _) = _restricted(network)
        mask = str(ipaddress.IPv4Network(whole).netmask)
        yield ("address", INTERFACE, guest, mask, "")
        names = "".join(f"{one.address} {one.name}\n" for one in allowed(network) if one.name != one.address)
        yield from _replace_file("/etc/hosts", f"127.0.0.1 localhost {definition.hostname}\n{names}")
        yield from _replace_file(
            "/etc/resolv.conf", "# no name server: only what was allowed can be reached\n"
        )
    elif network.kind == "user":
        yield ("address", INTERFACE, USER_ADDRESS, USER_MASK, USER_GATEWAY)
        yield from _replace_file("/etc/resolv.conf", f"nameserver {USER_RESOLVER}\n")
    else:
        yield from _replace_file("/etc/resolv.conf", "")
        yield ("dhcp", INTERFACE, f"{MS_BIND_FILES}/resolv.conf", 15000)


def _replace_file(path: str, text: str) -> Iterator[wire.Record]:
    """A file of our own over one of the read-only root."""
    ours = f"{MS_BIND_FILES}/{os.path.basename(path)}"
    real = os.path.realpath(path)
    yield ("file", ours, 0o644, 0, 0, text)
    if real.startswith("/run/"):
        yield ("mkdir", os.path.dirname(real), 0o755)
        yield ("file", real, 0o644, 0, 0, b"")
    yield ("bind", ours, real)

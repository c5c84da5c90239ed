"""The host's side of `--network user`: a network namespace of the sandbox's own, in a user namespace of its
own, between the sandbox and the host's connections.

On one side of it is the sandbox: a tap device that QEMU or User Mode Linux has open, or a pair of
interfaces into the network namespace of a container. On the other is pasta, which makes every connection with
an ordinary socket of the host. What may pass is decided in between, by the kernel's own packet filter, rates
are limited by its queues: out of the sandbox's reach, and gone with the process that holds the namespace. No
privilege is needed. Entry point: `start`.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import shutil
import socket
import time
from collections.abc import Iterator, Sequence

from virtscope.errors import MissingDependency, SandboxError, UsageError
from virtscope.sandbox import network, process
from virtscope.sandbox.definition import Definition, Forward
from virtscope.sandbox.network import ADDRESS, ADDRESS6, GATEWAY, GATEWAY6, PREFIX, PREFIX6

INSIDE, UPLINK = "inside", "uplink"
# pasta's end of the uplink; it answers for every address, so that these two only have to be on no other link.
BEYOND, BEYOND6 = "192.0.0.9", "fd76:6972:7473:1::1"
NOBODY = 65534
# Addresses of IPv6 that mean the host itself, or the host's IPv4: ::, ::1, ::a.b.c.d, ::ffff:a.b.c.d.
EMBEDDED6, EMBEDDED6_PREFIX = "::", 80
# The longest a packet may wait to be sent when there is a rate, and what may pass at once.
QUEUE_SECONDS, BURST = 2, 1 << 17
PATIENCE = 20.0

Step = tuple[str, ...]


class Router:
    """A router that is running. It ends with `close`, or when this process ends.

    Args:
        holder: the process that holds its namespace.
        control: the socket to it.
    """

    def __init__(self, holder: process.HostProcess, control: socket.socket) -> None:
        self._holder = holder
        self._control = control
        self._ready = False
        self._deadline = time.monotonic() + PATIENCE
        self.descriptors = self._hear("link")
        """The tap device; or the sandbox's network namespace and the user namespace that owns it."""

    @property
    def pid(self) -> int:
        """Of a process in the sandbox's network namespace, where the sandbox shares the host's kernel."""
        return self._holder.pid

    def _hear(self, word: str) -> tuple[int, ...]:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        if not poll.poll(max(0.0, self._deadline - time.monotonic()) * 1000):
            raise SandboxError("the sandbox's network was not ready in time")
        message, beside, _, _ = self._control.recvmsg(16, socket.CMSG_SPACE(8), socket.MSG_CMSG_CLOEXEC)
        if message.decode("ascii", "replace") != word:
            self._holder.wait(1.0)
            raise SandboxError(f"the sandbox's network could not be made: {self._holder.complaints()}")
        numbers = array.array("i")
        for _, _, data in beside:
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
        return tuple(numbers)

    def settled(self) -> Router:
        """Wait until the way to the host's connections is open and the filter is in place; returns itself.

        Raises:
            SandboxError: it could not be made, and why.
        """
        if not self._ready:
            self._hear("ready")
            self._ready = True
        return self

    def close(self) -> None:
        """End it, and the connections through it."""
        for descriptor in getattr(self, "descriptors", ()):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.descriptors = ()
        self._control.close()
        self._holder.wait(1.0)
        self._holder.kill()


def start(definition: Definition) -> Router:
    """Make the router of a sandbox; its end for the sandbox is there at once, the rest is made meanwhile.

    Raises:
        MissingDependency: a program that it needs is not installed.
        SandboxError: the host does not let this user make it.
    """
    who = definition.who()
    launch = []
    if os.geteuid() == 0:
        uid, gid = (who.uid, who.gid) if who.uid else (NOBODY, NOBODY)
        launch = [f"user={uid}:{gid}"]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listeners: list[socket.socket] = []
    try:
        for forward in definition.network.publish:
            listeners.append(_listener(forward))
        numbers = [listener.fileno() for listener in listeners]
        argv = command_line(definition, theirs.fileno(), numbers)
        holder = process.HostProcess("the network", argv, keep=[theirs.fileno(), *numbers], launch=launch)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        for listener in listeners:
            listener.close()
    try:
        return Router(holder, ours)
    except BaseException:
        ours.close()
        holder.kill()
        raise


def command_line(definition: Definition, control: int = 3, listeners: Sequence[int] = ()) -> list[str]:
    """The arguments of the process that holds the namespace: what it does, in order, and pasta's.

    Args:
        definition: the sandbox.
        control: the descriptor of the socket to it.
        listeners: those of the sockets of the published ports.

    Raises:
        MissingDependency: a program that it needs is not installed.
    """
    words = [word for one in steps(definition, listeners) for word in (*one, ",")]
    return [process.SELF, "network", str(control), *words[:-1], "--", *_pasta()]


def steps(definition: Definition, listeners: Sequence[int] = ()) -> Iterator[Step]:
    """Yields what is done in the namespace, in order (guest/router.c)."""
    way, mtu = network.outside(), str(network.frame_size(definition))
    contained = network.configured_outside(definition)
    if contained:
        yield (INSIDE, INSIDE, "eth0")
    else:
        # QEMU hands on packets that are yet to be cut up and summed; User Mode Linux wants plain ones.
        yield ("tap", INSIDE, "1" if definition.backend == "qemu:" else "0")
        yield ("tell", "link")
    yield ("connect",)
    yield ("up", "lo")
    yield ("set", "/proc/sys/net/ipv4/ip_forward", "1")
    if way.ipv6:
        yield ("set", "/proc/sys/net/ipv6/conf/default/accept_dad", "0")
        yield ("set", "/proc/sys/net/ipv6/conf/all/forwarding", "1")
        yield ("route", EMBEDDED6, str(EMBEDDED6_PREFIX), "", "")
    yield ("up", INSIDE)
    yield ("mtu", INSIDE, mtu)
    if way.ipv4:
        yield ("address", INSIDE, GATEWAY, str(PREFIX))
    if way.ipv6:
        yield ("address", INSIDE, GATEWAY6, str(PREFIX6))
    if contained:
        yield ("enter",)
        yield ("up", "lo")
        # a port of its own address is no privilege
        yield ("set", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
        for operation in network.addresses("eth0", int(mtu)):
            yield (operation[0].lstrip("?"), *operation[1:])
        yield ("leave",)
        yield ("tell", "link")
    rules = filter_rules(definition)
    if tool := _tool("nft", needed=bool(definition.network.allow)):
        yield ("run", tool, rules)
    yield ("await", UPLINK)
    yield ("up", UPLINK)
    yield ("mtu", UPLINK, str(network.LARGEST_FRAME))
    if way.ipv4:
        yield ("route", "0.0.0.0", "0", UPLINK, BEYOND)
    if way.ipv6:
        yield ("route", "::", "0", UPLINK, BEYOND6)
    if definition.limits.net_rate:
        yield from _rate(definition.limits.net_rate)
    target = ADDRESS if way.ipv4 else ADDRESS6
    for number, forward in zip(listeners, definition.network.publish, strict=False):
        yield ("publish", forward.protocol, str(number), target, str(forward.inside))
    if not definition.network.allow and (hidden := network.hidden_resolver()):
        yield ("address", INSIDE, network.resolver_address(), str(PREFIX if way.ipv4 else PREFIX6))
        yield ("resolve", network.resolver_address(), hidden)
    if contained:
        yield ("enter",)
    yield ("tell", "ready")


def _tool(name: str, *, needed: bool) -> str | None:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None and needed:
        package = {"nft": "nftables", "tc": "iproute2", "pasta": "passt"}[name]
        raise MissingDependency(f"{name} is not installed (Debian's package is {package})")
    return found


def program() -> str:
    """The program that makes the connections.

    Raises:
        MissingDependency: it is not installed.
    """
    return str(_tool("pasta", needed=True))


def _pasta() -> list[str]:
    way = network.outside()
    argv = [program(), "--foreground", "--quiet", "--stderr", "--ns-ifname", UPLINK]
    argv += ["--mtu", str(network.LARGEST_FRAME), "--no-map-gw", "--no-dhcp", "--no-dhcpv6", "--no-ra"]
    for option in ("--tcp-ports", "--udp-ports", "--tcp-ns", "--udp-ns"):
        argv += [option, "none"]
    if way.interface:
        argv += ["--interface", way.interface]
    if way.ipv4:
        argv += ["--address", ADDRESS, "--netmask", str(PREFIX), "--gateway", BEYOND]
    else:
        argv += ["--ipv6-only"]
    if way.ipv6:
        argv += ["--address", ADDRESS6, "--gateway", BEYOND6]
    else:
        argv += ["--ipv4-only"]
    return argv


def filter_rules(definition: Definition) -> str:
    """The packet filter, in nft's language."""
    wanted = definition.network
    # Some versions of pasta refuse a connection with a packet that nobody believes: without ACK.
    chains = [
        "chain mend { type filter hook prerouting priority -300",
        f'iifname "{UPLINK}" tcp flags & (fin|syn|rst|ack) == rst tcp flags set rst|ack',
        "}",
    ]
    if wanted.allow:
        chains += ["chain pass { type filter hook forward priority 0; policy drop"]
        chains += ["ct state established,related accept"]
        for one in network.allowed(wanted):
            family = "ip6" if ":" in one.address else "ip"
            match = f"{family} daddr {one.address} {one.protocol} dport {one.port}"
            chains += [f'iifname "{INSIDE}" {match} accept']
        chains += [f'iifname "{INSIDE}" meta l4proto tcp reject with tcp reset', f'iifname "{INSIDE}" reject']
        chains += ["}"]
    return "\n".join(["table inet sandbox {", *chains, "}"])


def _listener(forward: Forward) -> socket.socket:
    """A socket of the host for a published port.

    Raises:
        UsageError: it cannot be opened, and why.
    """
    family = socket.AF_INET6 if ":" in forward.address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_DGRAM if forward.protocol == "udp" else socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if forward.protocol == "tcp":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((forward.address, forward.port))
        if forward.protocol == "tcp":
            listener.listen(64)
    except OSError as error:
        listener.close()
        place = f"{forward.address} port {forward.port}/{forward.protocol}"
        raise UsageError(f"--publish: {place} cannot be opened: {error.strerror}") from None
    return listener


def _rate(rate: int) -> Iterator[Step]:
    """Both directions, each where it leaves the namespace."""
    tool = _tool("tc", needed=True)
    limit = str(max(rate * QUEUE_SECONDS, 2 * BURST))
    for name in (INSIDE, UPLINK):
        queue = ("tbf", "rate", f"{rate * 8}bit", "burst", str(BURST), "limit", limit)
        yield ("run", str(tool), "qdisc", "add", "dev", name, "root", *queue)

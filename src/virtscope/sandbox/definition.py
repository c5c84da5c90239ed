"""What a sandbox is, as plain data: where it runs, what it sees, what it may use.

Nothing here starts anything. `Sandbox` (sandbox/__init__.py) builds a `Definition`; a back end turns it into
arguments or XML, which `--dry-run` shows.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from virtscope.errors import UsageError

BACKENDS = ("qemu:", "uml:", "namespaces:", "lxc:///system", "qemu:///session", "qemu:///system")


@dataclass(frozen=True, slots=True)
class Mount:
    """Something mounted in the sandbox.

    Args:
        kind: "host-bind" (a folder or file of the host), "ram" (an empty filesystem in memory) or
            "host-image" (a disk
            image, mounted by the guest's own kernel).
        target: where, an absolute path.
        source: the host's path, for the first and the last.
        writable: whether the sandbox may write to it.
        size: bytes, for "ram".
    """

    kind: str
    target: str
    source: str = ""
    writable: bool = False
    size: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("host-bind", "ram", "host-image"):
            raise UsageError(f"{self.kind}: a mount is host-bind, ram or host-image")
        if not os.path.isabs(self.target) or "\0" in self.target:
            raise UsageError(f"{self.target!r}: a mount's place in the sandbox must be an absolute path")


@dataclass(frozen=True, slots=True)
class Include:
    """A file of the host copied into the sandbox; `target` may be changed there without touching the
    original.
    """

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of the guest.

    Args:
        path: the image file or block device.
        format: "raw", "qcow2", ...; the guest never gets to choose it by what it writes.
        read_only: whether writes are refused.
        serial: the name the guest finds it by, under /dev/virtscope/.
    """

    path: str
    format: str = "raw"
    read_only: bool = True
    serial: str = ""


@dataclass(frozen=True, slots=True)
class Destination:
    """A host and port that the sandbox may reach; `protocol` is "tcp" or "udp"."""

    host: str
    port: int
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True)
class Forward:
    """A port of the host that leads into the sandbox.

    Args:
        port: the host's.
        inside: the sandbox's.
        address: the host's address that it is open on.
        protocol: "tcp" or "udp".
    """

    port: int
    inside: int
    address: str = "127.0.0.1"
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True)
class Network:
    """How the sandbox reaches a network.

    Args:
        kind: "none", "user" (outgoing connections through the host's own), "bridge", "source" (a libvirt
            network) or
            "host" (the host's interfaces as they are; namespaces only).
        name: the bridge or network.
        allow: destinations; when there are any, nothing else can be reached.
        publish: ports of the host that lead into the sandbox.
    """

    kind: str = "none"
    name: str = ""
    allow: tuple[Destination, ...] = ()
    publish: tuple[Forward, ...] = ()


@dataclass(frozen=True, slots=True)
class Display:
    """A screen that is seen from the host.

    Args:
        protocol: "vnc" or "spice".
        host: the address it listens on; empty for a UNIX socket.
        port: the TCP port.
        path: where the user wants to find the UNIX socket; empty for nowhere but in the sandbox's own folder.
        socket: where it is.
        secret: a file with the password that a viewer needs; empty for none.
        server: what runs inside: "xorg" or "cage" (a Wayland kiosk).
    """

    protocol: str
    host: str = ""
    port: int = 0
    path: str = ""
    socket: str = ""
    secret: str = ""
    server: str = "xorg"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sandbox may use; None means no limit of ours. Rates are bytes a second."""

    memory: int | None = None
    cpus: int = 1
    cpu_shares: int | None = None
    io_read: int | None = None
    io_write: int | None = None
    net_rate: int | None = None
    pids: int | None = None
    timeout: float | None = None
    pin_cpus: str | None = None
    numa_nodes: str | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the command runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: str

    @staticmethod
    def of_caller() -> Identity:
        """The user who calls."""
        import pwd

        uid, gid = os.getuid(), os.getgid()
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return Identity(uid, gid, tuple(os.getgroups()), str(uid), "/")
        return Identity(uid, gid, tuple(os.getgroups()), entry.pw_name, entry.pw_dir)

    @staticmethod
    def named(user: str) -> Identity:
        """A user of the host by name or number.

        Raises:
            UsageError: there is no such user.
        """
        import pwd

        try:
            entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
        except KeyError:
            raise UsageError(f"{user}: no such user on this host") from None
        groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
        return Identity(entry.pw_uid, entry.pw_gid, groups, entry.pw_name, entry.pw_dir)


@dataclass(frozen=True, slots=True)
class Definition:
    """A whole sandbox. Paths are the host's unless said otherwise."""

    backend: str = "qemu:"
    mounts: tuple[Mount, ...] = ()
    includes: tuple[Include, ...] = ()
    disks: tuple[Disk, ...] = ()
    network: Network = field(default_factory=Network)
    limits: Limits = field(default_factory=Limits)
    identity: Identity | None = None
    overlay: bool = False
    overlay_directory: str | None = None
    private: tuple[str, ...] = ("/tmp", "/var/tmp", "/run", "/home", "/root")
    hostname: str = "sandbox"
    kernel: str | None = None
    append: str = ""
    machine: str = "auto"
    accelerator: str = "auto"
    transport: str = "auto"
    snapshot: bool = True
    confine: bool = True
    display: Display | None = None
    console: str | None = None

    def who(self) -> Identity:
        """The identity of commands: the one set, or the caller's."""
        return self.identity or Identity.of_caller()


def parse_size(text: str) -> int:
    """Bytes from "512M", "2G", "64k" or a plain number.

    Raises:
        UsageError: it is none of these.
    """
    units = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
    stripped = text.strip().lower().removesuffix("ib").removesuffix("b")
    number, unit = (stripped[:-1], stripped[-1:]) if stripped[-1:].isalpha() else (stripped, "")
    if unit not in units or not number.replace(".", "", 1).isdigit():
        raise UsageError(f"{text}: not a size (like 512M or 2G)")
    return int(float(number) * units[unit])

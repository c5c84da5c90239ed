"""The options of commands that start a sandbox, and the way from the parsed options to a `Sandbox`."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from virtscope.cli.command import Option
from virtscope.errors import UsageError

if TYPE_CHECKING:
    from virtscope.sandbox import Destination, Forward, Sandbox

FILES, LIMITS, WHO, NETWORK, MACHINE = "Files", "Limits", "Identity", "Network", "Machine"

MACHINE_OPTIONS: tuple[Option, ...] = (
    Option(("--kernel",), "boot this kernel image or installed release", metavar="KERNEL", group=MACHINE),
    Option(
        ("--append",), "more words for the kernel's command line", metavar="WORDS", default="", group=MACHINE
    ),
    Option(
        ("--accel",),
        "kvm, tcg, or auto to use KVM if a guest really runs with it",
        metavar="NAME",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        group=MACHINE,
    ),
    Option(
        ("--machine",),
        "QEMU's machine type",
        metavar="TYPE",
        choices=("auto", "microvm", "pc", "q35"),
        default="auto",
        group=MACHINE,
    ),
    Option(
        ("--transport",),
        "how the host's root gets into a machine",
        metavar="NAME",
        choices=("auto", "9p", "virtiofs"),
        default="auto",
        group=MACHINE,
    ),
    Option(("--no-snapshot",), "boot, rather than resume a machine saved after its boot", group=MACHINE),
    Option(("--memory",), "memory of the sandbox, like 512M", metavar="SIZE", group=LIMITS),
    Option(("--cpus",), "number of processors", metavar="N", parse=int, group=LIMITS),
    Option(("--timeout",), "kill it after so many seconds", metavar="SECONDS", parse=float, group=LIMITS),
)

OPTIONS: tuple[Option, ...] = (
    Option(
        ("-c", "--connect"),
        "the back end: qemu: (default), uml:, namespaces:, or a libvirt URI (lxc:///system, qemu:///session)",
        metavar="BACKEND",
        default="qemu:",
    ),
    Option(
        ("--mount",),
        "host-bind:DST=SRC[,rw], ram:DST=SIZE or host-image:DST=IMG[,rw] (may be repeated)",
        metavar="KIND:DST=WHAT",
        repeat=True,
        group=FILES,
    ),
    Option(
        ("--include",),
        "copy a file in, FILE or FILE=DST (may be repeated)",
        metavar="FILE",
        repeat=True,
        complete="file",
        group=FILES,
    ),
    Option(
        ("--disk",),
        "give it a disk: IMG[,FORMAT][,rw] (may be repeated)",
        metavar="IMG",
        repeat=True,
        complete="file",
        group=FILES,
    ),
    Option(("--overlay",), "let it write anywhere; what it wrote is thrown away", group=FILES),
    Option(
        ("--overlay-dir",),
        "as --overlay, kept in a folder for the next time",
        metavar="DIR",
        complete="file",
        group=FILES,
    ),
    Option(("--user",), "run as this user instead of yourself", metavar="USER", group=WHO),
    Option(("--root",), "run as root", group=WHO),
    Option(
        ("--env",),
        "set a variable, NAME=VALUE, or pass one on, NAME (may be repeated)",
        metavar="NAME",
        repeat=True,
        group=WHO,
    ),
    Option(("--cwd",), "start in this folder", metavar="DIR", group=WHO),
    Option(("--hostname",), "the name of the machine", metavar="NAME", default="sandbox", group=WHO),
    Option(
        ("--network",),
        "none (default), user, bridge=NAME, source=LIBVIRT-NETWORK or host",
        metavar="KIND",
        default="none",
        group=NETWORK,
    ),
    Option(
        ("--allow",),
        "with --network user: let it reach only this host and port (may be repeated)",
        metavar="HOST:PORT[/udp]",
        repeat=True,
        group=NETWORK,
    ),
    Option(
        ("--publish",),
        "with --network user: open a port of this host that leads to PORT inside; on 127.0.0.1 if no address "
        "is given (may be repeated)",
        metavar="[ADDR:]HOSTPORT:PORT[/udp]",
        repeat=True,
        group=NETWORK,
    ),
    Option(("--cpu-shares",), "weight against others, 1024 is usual", metavar="N", parse=int, group=LIMITS),
    Option(("--pin-cpus",), "run on these processors only, like 0-1,3", metavar="LIST", group=LIMITS),
    Option(("--numa",), "take memory from these nodes only", metavar="LIST", group=LIMITS),
    Option(("--io-read",), "bytes a second read from disks", metavar="RATE", group=LIMITS),
    Option(("--io-write",), "bytes a second written to disks", metavar="RATE", group=LIMITS),
    Option(("--net-rate",), "bytes a second over the network, each way", metavar="RATE", group=LIMITS),
    Option(("--pids",), "number of processes", metavar="N", parse=int, group=LIMITS),
    *MACHINE_OPTIONS,
)


def with_machine(sandbox: Sandbox, args: argparse.Namespace) -> Sandbox:
    """Apply `MACHINE_OPTIONS`."""
    from virtscope.sandbox import parse_size

    sandbox = sandbox.with_options(
        kernel=args.kernel,
        append=args.append,
        accelerator=args.accel,
        machine=args.machine,
        transport=args.transport,
        snapshot=not args.no_snapshot,
    )
    limits: dict[str, object] = {"timeout": args.timeout}
    if args.memory:
        limits["memory"] = parse_size(args.memory)
    if args.cpus is not None:
        if args.cpus < 1:
            raise UsageError("--cpus: at least one is needed")
        limits["cpus"] = args.cpus
    return sandbox.with_limits(**limits)


def build(args: argparse.Namespace) -> Sandbox:
    """The sandbox that `OPTIONS` describe.

    Raises:
        UsageError: they contradict each other.
    """
    from virtscope.sandbox import Sandbox, parse_size

    sandbox = with_machine(Sandbox().on(args.connect), args).with_options(hostname=args.hostname)
    for text in args.mount or ():
        sandbox = _with_mount(sandbox, text)
    for text in args.include or ():
        source, _, target = text.partition("=")
        sandbox = sandbox.with_file(source, target or None)
    for text in args.disk or ():
        sandbox = _with_disk(sandbox, text)
    if args.overlay or args.overlay_dir:
        sandbox = sandbox.with_overlay(os.path.abspath(args.overlay_dir) if args.overlay_dir else None)
    if args.user and args.root:
        raise UsageError("--user and --root exclude each other")
    if args.user or args.root:
        sandbox = sandbox.with_user(args.user or "root")
    variables = {}
    for text in args.env or ():
        name, equals, value = text.partition("=")
        variables[name] = value if equals else os.environ.get(name, "")
    sandbox = sandbox.with_environment(variables)
    kind, _, name = args.network.partition("=")
    if kind not in ("none", "user", "bridge", "source", "host") or (kind in ("bridge", "source")) != bool(
        name
    ):
        raise UsageError(f"--network {args.network}: none, user, bridge=NAME, source=NAME or host")
    allow = [_destination(text) for text in args.allow or ()]
    publish = [_forward(text) for text in args.publish or ()]
    if (allow or publish) and kind != "user":
        raise UsageError("--allow and --publish need --network user")
    sandbox = sandbox.with_network(kind, name, allow, publish)
    rates = {"io_read": args.io_read, "io_write": args.io_write, "net_rate": args.net_rate}
    sandbox = sandbox.with_limits(
        cpu_shares=args.cpu_shares,
        pids=args.pids,
        pin_cpus=args.pin_cpus,
        numa_nodes=args.numa,
        **{key: parse_size(text) for key, text in rates.items() if text},
    )
    if args.cwd:
        import dataclasses

        sandbox = dataclasses.replace(sandbox, cwd=args.cwd)
    return sandbox


def _with_mount(sandbox: Sandbox, text: str) -> Sandbox:
    kind, _, rest = text.partition(":")
    target, equals, what = rest.partition("=")
    if kind == "ram" and target:
        return sandbox.with_ram(target, what or 0)
    writable = what.endswith(",rw")
    source = what.removesuffix(",rw").removesuffix(",ro")
    if kind not in ("host-bind", "host-image") or not equals or not source:
        raise UsageError(f"--mount {text}: host-bind:DST=SRC[,rw], ram:DST=SIZE or host-image:DST=IMG[,rw]")
    add = sandbox.with_bind if kind == "host-bind" else sandbox.with_image
    return add(target, source, writable=writable)


def _with_disk(sandbox: Sandbox, text: str) -> Sandbox:
    path, *words = text.split(",")
    read_only, form = True, "raw"
    for word in words:
        if word in ("rw", "ro"):
            read_only = word == "ro"
        elif word:
            form = word
    return sandbox.with_disk(path, format=form, read_only=read_only)


def _protocol(text: str) -> tuple[str, str]:
    rest, slash, protocol = text.rpartition("/")
    return (rest, protocol) if slash else (text, "tcp")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 65536


def _host(text: str) -> str | None:
    """The host of HOST:PORT without the brackets around an IPv6 address; None for what cannot be one."""
    if text.startswith("[") and text.endswith("]"):
        return text[1:-1]
    return None if ":" in text or "[" in text else text


def _destination(text: str) -> Destination:
    from virtscope.sandbox import Destination

    rest, protocol = _protocol(text)
    left, _, port = rest.rpartition(":")
    host = _host(left)
    if not host or not _is_port(port) or protocol not in ("tcp", "udp"):
        raise UsageError(f"--allow {text}: HOST:PORT, with /udp for UDP and brackets around an IPv6 address")
    return Destination(host, int(port), protocol)


def _forward(text: str) -> Forward:
    import ipaddress

    from virtscope.sandbox import Forward

    rest, protocol = _protocol(text)
    left, _, inside = rest.rpartition(":")
    place, colon, port = left.rpartition(":")
    address = _host(place) if colon else "127.0.0.1"
    wrong = UsageError(
        f"--publish {text}: [ADDR:]HOSTPORT:PORT, with /udp for UDP and brackets around an IPv6 address"
    )
    if not address or not _is_port(port) or not _is_port(inside) or protocol not in ("tcp", "udp"):
        raise wrong
    try:
        address = str(ipaddress.ip_address(address))
    except ValueError:
        raise wrong from None
    return Forward(int(port), int(inside), address, protocol)

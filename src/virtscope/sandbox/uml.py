"""The User Mode Linux back end: a Linux kernel that is a program, its root the host's through hostfs. No
privilege.

The kernel's process is confined as QEMU is: it sees the host read-only, its scratch files are in a filesystem
of its own, and its helper processes live in a process namespace that ends with it. Entry points:
`command_line`, `start`.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from virtscope.errors import MissingDependency, SandboxError, UsageError
from virtscope.sandbox import compiler, kernels, plan, process, qemu, wire
from virtscope.sandbox.definition import Definition
from virtscope.sandbox.session import Ring, Session

# Below this, statuses came back wrong or the kernel aborted.
SMALLEST_MEMORY = 96 << 20
DEFAULT_MEMORY = 128 << 20
BOOT_PATIENCE = 30.0


def binary() -> str:
    """The User Mode Linux kernel of this host.

    Raises:
        MissingDependency: it is not installed.
    """
    found = shutil.which("linux.uml") or shutil.which("linux")
    if found is None:
        raise MissingDependency("User Mode Linux is not installed (Debian's package is user-mode-linux)")
    return found


def wide_registers() -> bool:
    """Whether this host's processor has more register state than User Mode Linux has room for."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as stream:
        flags = next((line for line in stream if line.startswith("flags")), "")
    return "amx_tile" in flags.split()


def command_line(
    definition: Definition, *, channel: int = 3, ring: int = 4, init: str | None = None, tap: int = 5
) -> list[str]:
    """The kernel's command line; it is a host program, so these are its arguments."""
    memory = definition.limits.memory or DEFAULT_MEMORY
    if memory < SMALLEST_MEMORY:
        raise UsageError(f"User Mode Linux needs at least {SMALLEST_MEMORY >> 20}M of memory")
    from virtscope.sandbox import accelerator

    khz = accelerator.tsc_khz()
    args = [binary(), f"mem={memory >> 10}K", "rootfstype=hostfs", "rootflags=/", "ro"]
    args += [
        "con=null",
        "ssl=null",
        f"con1=fd:{channel},fd:{channel}",
        "quiet",
        "panic=-1",
        "cryptomgr.notests",
    ]
    # Two measure the speed of code that nobody here runs, for most of a second; the third makes 512 devices
    # that nobody opens, one after the other.
    args += ["pty.legacy_count=0"]
    args += ["initcall_blacklist=raid6_select_algo,calibrate_xor_blocks", "uml_dir=/tmp/uml", "umid=sandbox"]
    # Its terminal lines take input a byte at a time, each with a system call: what we send is in memory
    # shared with it.
    args.append(f"iomem=mmapper,/proc/self/fd/{ring}")
    if khz:
        args.append(f"lpj={khz * 4}")
    for number, disk in enumerate(qemu.disks(definition)):
        if disk.format != "raw":
            raise UsageError(f"{disk.path}: User Mode Linux reads raw images only, not {disk.format}")
        flags = "r" if disk.read_only else ""
        args.append(f"ubd{number}{flags}={os.path.realpath(disk.path)}")
    if definition.network.kind in ("user", "bridge"):
        from virtscope.sandbox import network

        mac = network.USER_MAC if definition.network.kind == "user" else network.mac_address()
        args.append(f"vec0:transport=fd,fd={tap},vec=0,mac={mac}")
    if definition.append:
        args += definition.append.split()
    return [*args, f"init={init or compiler.guest_init()}", "--", "uml", "/dev/tty1", "/dev/mmapper"]


def start(
    definition: Definition, launch: Sequence[str] = (), taps: Sequence[int] = ()
) -> tuple[Session, plan.Base]:
    """Boot the kernel and return its session, init waiting to be told what to set up.

    Raises:
        SandboxError: it did not start.
        UsageError: it was asked for something this back end does not do.
    """
    if definition.limits.cpus != 1:
        raise UsageError("the uml: back end has one processor")
    if definition.display is not None:
        raise UsageError("the uml: back end has no display")
    qemu.prepare_overlay(definition)
    init = compiler.guest_init()
    ours, theirs = socket.socketpair()
    ring = os.memfd_create("ring")
    options = [*launch]
    options += [option for option in qemu.confinement(definition) if option != "confine=1"]
    # Its scratch place is /tmp; the guest's own /tmp is inside the guest.
    options += ["confine=1", "scratch=/tmp", "processes=own", f"show={init}"]
    # It takes what lies between its program and its heap for memory, and where that is random has to keep
    # accounts of up to a gigabyte that is not there.
    options.append("layout=fixed")
    environment = {"TMPDIR": "/tmp", "HOME": "/tmp", "PATH": "/usr/bin:/bin"}
    if wide_registers():
        library = compiler.shared_library("uml_registers.c")
        environment["LD_PRELOAD"] = library
        options.append(f"show={library}")
    try:
        os.truncate(ring, wire.RING)
        argv = command_line(
            definition, channel=theirs.fileno(), ring=ring, init=init, tap=taps[0] if taps else 5
        )
        machine = process.HostProcess(
            "User Mode Linux",
            argv,
            keep=[theirs.fileno(), ring, *taps],
            launch=options,
            guarded=True,
            environment=environment,
        )
    except BaseException:
        ours.close()
        os.close(ring)
        raise
    finally:
        theirs.close()
    way = Ring(ring)
    session = Session(ours, machine, ring=way)
    session.on_close.append(way.close)
    try:
        session.wait_ready(time.monotonic() + BOOT_PATIENCE)
    except SandboxError:
        session.abandon()
        raise
    return session, base(definition)


def base(definition: Definition) -> plan.Base:
    """How its guest finds the host's root, its modules and its disks."""
    modules: tuple[str, ...] = ()
    wanted = ["overlay"] if plan.needs_overlay(definition) else []
    wanted += ["ipv6"] if definition.network.kind == "user" else []
    if wanted:
        for folder in sorted(Path("/usr/lib/uml/modules").glob("*/modules.dep")):
            kernel = kernels.Kernel(folder.parent.name, Path(binary()), folder.parent)
            modules += tuple(str(file) for file in kernels.module_files(kernel, wanted))
    serials = tuple(disk.serial for disk in qemu.disks(definition))
    return plan.Base(machine=True, transport="bind", modules=modules, disks=serials)

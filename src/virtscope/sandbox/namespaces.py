"""The namespaces back end: no machine at all, only a user, mount, process, IPC, host name and network
namespace.

The weakest and the fastest: the command shares the host's kernel. It has no capabilities, cannot gain any,
and sees the host's files read-only. Entry points: `command_line`, `start`.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from collections.abc import Sequence

from virtscope.errors import SandboxError, UsageError
from virtscope.sandbox import overlay, plan, process
from virtscope.sandbox.definition import Definition
from virtscope.sandbox.session import Session


def command_line(definition: Definition, *, channel: int = 3, namespace: Sequence[int] = ()) -> list[str]:
    """The init's arguments; `namespace` is the network's, and the user namespace that owns it."""
    network = "host" if definition.network.kind == "host" else "none"
    if definition.network.kind == "user":
        network = ":".join(str(fd) for fd in namespace or (4, 5))
    return [process.SELF, "namespaces", str(channel), str(os.getpid()), network]


def start(
    definition: Definition, launch: Sequence[str] = (), network: Sequence[int] = ()
) -> tuple[Session, plan.Base]:
    """Make the namespaces and return the session of the init in them.

    Raises:
        SandboxError: the host does not let this user make them.
        UsageError: it was asked for something that needs a machine.
    """
    if definition.disks or any(mount.kind == "host-image" for mount in definition.mounts):
        raise UsageError("disks and host-image mounts need a kernel of their own: use qemu: or uml:")
    if definition.display is not None:
        raise UsageError("the namespaces: back end has no display")
    held = (
        [overlay.take(definition.overlay_directory, definition.who())] if definition.overlay_directory else []
    )
    ours, theirs = socket.socketpair()
    os.set_inheritable(theirs.fileno(), True)
    try:
        argv = command_line(definition, channel=theirs.fileno(), namespace=network)
        who = definition.who()
        options = [*launch]
        if os.geteuid() == 0 and who.uid != 0:
            options = [*launch, "user=" + ":".join(str(n) for n in (who.uid, who.gid, *who.groups))]
        machine = process.HostProcess(
            "the namespace", argv, keep=[theirs.fileno(), *network], launch=options, guarded=True
        )
    except BaseException:
        for fd in (ours.detach(), *held):
            os.close(fd)
        raise
    finally:
        theirs.close()
    session = Session(ours, machine)
    session.on_close += [functools.partial(os.close, fd) for fd in held]
    try:
        session.wait_ready(time.monotonic() + 10)
    except SandboxError as error:
        session.abandon()
        raise SandboxError(f"namespaces cannot be used on this host: {error}") from None
    return session, plan.Base(machine=False, transport="bind", user_namespace=True)


def examine() -> str:
    """Try it.

    Raises:
        SandboxError: it does not work, and why.
    """
    session, _ = start(Definition(backend="namespaces:"))
    session.abandon()
    return "user namespaces"

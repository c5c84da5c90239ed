"""The back ends: which there are, which work on this host and why others do not, and how each is started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from virtscope.errors import UsageError, VirtscopeError
from virtscope.sandbox.definition import BACKENDS, Definition, Limits
from virtscope.sandbox.plan import Base
from virtscope.sandbox.session import Session

if TYPE_CHECKING:
    from virtscope.sandbox.router import Router


@dataclass(frozen=True, slots=True)
class Backend:
    """A row of `--list-backends`.

    Args:
        name: what -c takes.
        works: whether it can be used here, as far as can be said without starting it.
        isolation: what is between the command and the host.
        note: the accelerator, or why it does not work.
    """

    name: str
    works: bool
    isolation: str
    note: str


ISOLATION = {
    "qemu:": "virtual machine",
    "uml:": "kernel in user space",
    "namespaces:": "shared kernel",
    "lxc:///system": "shared kernel",
    "qemu:///session": "virtual machine",
    "qemu:///system": "virtual machine",
}


def available() -> Iterator[Backend]:
    """Yields every back end with whether it works here."""
    for name in BACKENDS:
        try:
            note = _examine(name) + _network_note(name)
            yield Backend(name, True, ISOLATION[name], note)
        except VirtscopeError as error:
            yield Backend(name, False, ISOLATION[name], str(error))


def _network_note(name: str) -> str:
    from virtscope.sandbox import router

    if name.startswith("qemu:/"):
        return ""
    try:
        router.program()
    except VirtscopeError as error:
        return f"; no --network user: {error}"
    return ""


def _examine(name: str) -> str:
    if name == "qemu:":
        from virtscope.sandbox import accelerator, compiler, kernels, qemu

        qemu.binary()
        compiler.guest_init()
        kernel = kernels.choose()
        return f"{accelerator.explanation(accelerator.usable()) or 'KVM'}; kernel {kernel.release}"
    if name == "uml:":
        from virtscope.sandbox import uml

        return uml.binary()
    if name == "namespaces:":
        from virtscope.sandbox import namespaces

        return namespaces.examine()
    from virtscope.sandbox import libvirt_backend

    return libvirt_backend.examine(name)


def start(definition: Definition) -> tuple[Session, Base]:
    """Start the machine or container of a definition; its init waits for setup operations.

    Raises:
        UsageError: there is no such back end.
        SandboxError: it did not start.
    """
    from virtscope.sandbox import runtime

    name = definition.backend
    runtime.collect_garbage()
    if name in ("qemu:", "uml:", "namespaces:"):
        if definition.limits == Limits(timeout=definition.limits.timeout):
            return _start_ourselves(definition, [])
        from virtscope.sandbox import cgroups

        group = cgroups.make(definition.limits, machine=name != "namespaces:")
        try:
            session, base = _start_ourselves(definition, group.launch_options() if group else [])
        except BaseException:
            if group:
                group.remove()
            raise
        if group:
            session.on_close.append(group.remove)
        return session, base
    if "://" in name and name.startswith(("qemu", "lxc")):
        from virtscope.sandbox import libvirt_backend

        if definition.network.kind == "user" and libvirt_backend.is_container(name):
            return _with_router(
                definition, lambda router: libvirt_backend.start(definition, router.settled().pid)
            )
        return libvirt_backend.start(definition)
    raise UsageError(f"{name}: no such back end; there are {', '.join(BACKENDS)}")


def _start_ourselves(definition: Definition, launch: list[str]) -> tuple[Session, Base]:
    if definition.network.kind == "bridge":
        from virtscope.sandbox import bridge

        tap = bridge.connect(definition.network.name, headers=definition.backend == "qemu:")
        try:
            return _start_on(definition, launch, [tap])
        finally:
            os.close(tap)
    if definition.network.kind != "user":
        return _start_on(definition, launch, ())
    return _with_router(definition, lambda router: _start_on(definition, launch, router.descriptors))


def _with_router(
    definition: Definition, start_on: Callable[[Router], tuple[Session, Base]]
) -> tuple[Session, Base]:
    from virtscope.sandbox import router

    network = router.start(definition)
    try:
        session, base = start_on(network)
        session.on_close.append(network.close)
    except BaseException:
        network.close()
        raise
    try:
        network.settled()
    except BaseException:
        session.abandon()
        raise
    return session, base


def _start_on(definition: Definition, launch: list[str], network: Sequence[int]) -> tuple[Session, Base]:
    """`network`: the descriptors of the network's end."""
    if definition.backend == "qemu:":
        from virtscope.sandbox import qemu

        return qemu.start(definition, launch, network), qemu.base(definition)
    if definition.backend == "uml:":
        from virtscope.sandbox import uml

        return uml.start(definition, launch, network)
    from virtscope.sandbox import namespaces

    return namespaces.start(definition, launch, network)


def describe(definition: Definition) -> str:
    """What `start` would start, for people to read."""
    if definition.network.kind != "user" or definition.backend.startswith("qemu:/"):
        return _describe_alone(definition)
    import shlex

    from virtscope.sandbox import router

    listeners = range(4, 4 + len(definition.network.publish))
    words = router.command_line(definition, listeners=listeners)
    line = shlex.join(words).replace("'\0self'", "virtscope-init").replace("\0self", "virtscope-init")
    return f"{line}\n{_describe_alone(definition)}"


def _describe_alone(definition: Definition) -> str:
    import shlex

    name = definition.backend
    if name == "qemu:":
        from virtscope.sandbox import initramfs, kernels, qemu

        kernel = kernels.choose(definition.kernel)
        form = qemu.shape(definition, kernel)
        return shlex.join(qemu.command_line(definition, form, initramfs.prepare(kernel, form.features)))
    if name == "uml:":
        from virtscope.sandbox import uml

        return shlex.join(uml.command_line(definition))
    if name == "namespaces:":
        from virtscope.sandbox import namespaces

        return shlex.join(namespaces.command_line(definition)).replace("\0self", "virtscope-init")
    if "://" in name and name.startswith(("qemu", "lxc")):
        from virtscope.sandbox import libvirt_backend

        return libvirt_backend.domain_xml(definition)
    raise UsageError(f"{name}: no such back end; there are {', '.join(BACKENDS)}")

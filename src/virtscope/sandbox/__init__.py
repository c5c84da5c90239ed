"""Confine a program of this host in a virtual machine or container that lives for one command.

    from virtscope.sandbox import Sandbox

    result = Sandbox().run(["/bin/date"])
    with Sandbox(backend="uml:").with_ram("/scratch", "64M") as session:
        session.run(["sh", "-c", "make > log"], cwd="/scratch")

`Sandbox` is a frozen value: every `with_...` returns a changed copy. `definition` says what it is, `dry_run`
shows the command line or XML, entering it or `start` gives a `Session`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from virtscope.sandbox.definition import (
    Definition,
    Destination,
    Disk,
    Forward,
    Identity,
    Include,
    Limits,
    Mount,
    Network,
    parse_size,
)

if TYPE_CHECKING:
    from virtscope.sandbox.execution import Result
    from virtscope.sandbox.session import Session

__all__ = [
    "Definition",
    "Destination",
    "Disk",
    "Forward",
    "Identity",
    "Include",
    "Limits",
    "Mount",
    "Network",
    "Sandbox",
    "parse_size",
]

SAFE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSED_ON = ("TERM", "LANG", "LC_ALL", "TZ", "COLORTERM")


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox that can be started, any number of times.

    Args:
        definition: what it is; `Sandbox()` is a QEMU machine with nothing but the host's root, read-only.
        environment: of its commands, on top of a clean one.
        cwd: the folder commands start in; None for the caller's if it is visible inside, else the home
            folder.
        keep_capabilities: let root keep its powers in a back end that shares the host's kernel.
    """

    definition: Definition = field(default_factory=Definition)
    environment: tuple[tuple[str, str], ...] = ()
    cwd: str | None = None
    keep_capabilities: bool = False
    _sessions: list[Session] = field(default_factory=list, compare=False, repr=False)

    def _changed(self, **changes: object) -> Sandbox:
        return replace(self, definition=replace(self.definition, **changes), _sessions=[])  # type: ignore[arg-type]

    def on(self, backend: str) -> Sandbox:
        """On another back end: "qemu:", "uml:", "namespaces:", "lxc:///system", "qemu:///session"."""
        return self._changed(backend=backend)

    def with_bind(self, target: str, source: str, *, writable: bool = False) -> Sandbox:
        """With a folder or file of the host at `target`."""
        return self.with_mounts(Mount("host-bind", target, os.path.abspath(source), writable))

    def with_ram(self, target: str, size: int | str = 0) -> Sandbox:
        """With an empty filesystem in memory at `target`."""
        return self.with_mounts(
            Mount("ram", target, size=parse_size(size) if isinstance(size, str) else size)
        )

    def with_image(self, target: str, source: str, *, writable: bool = False) -> Sandbox:
        """With a disk image mounted at `target` by the guest's kernel."""
        return self.with_mounts(Mount("host-image", target, os.path.abspath(source), writable))

    def with_mounts(self, *mounts: Mount) -> Sandbox:
        """With more mounts."""
        return self._changed(mounts=(*self.definition.mounts, *mounts))

    def with_file(self, source: str, target: str | None = None) -> Sandbox:
        """With a copy of a file of the host, at the same place if no other is given."""
        path = os.path.abspath(source)
        return self._changed(includes=(*self.definition.includes, Include(path, target or path)))

    def with_disk(
        self, path: str, *, format: str = "raw", read_only: bool = True, serial: str = ""
    ) -> Sandbox:
        """With a disk, /dev/vda and so on."""
        disk = Disk(os.path.abspath(path), format, read_only, serial)
        return self._changed(disks=(*self.definition.disks, disk))

    def with_overlay(self, directory: str | None = None) -> Sandbox:
        """With a root that can be written to; thrown away at the end, or kept in a folder."""
        return self._changed(overlay=True, overlay_directory=directory)

    def with_network(
        self,
        kind: str,
        name: str = "",
        allow: Iterable[Destination | tuple[str, int]] = (),
        publish: Iterable[Forward | tuple[int, int]] = (),
    ) -> Sandbox:
        """With a network: "user", "bridge" or "source" (`name` says which), "host".

        Args:
            kind: which of them.
            name: the bridge or libvirt network.
            allow: for "user": the only destinations that can be reached, (host, port) for TCP.
            publish: for "user": ports of the host that lead inside, (host's, sandbox's) for TCP on loopback.
        """
        destinations = tuple(one if isinstance(one, Destination) else Destination(*one) for one in allow)
        forwards = tuple(one if isinstance(one, Forward) else Forward(*one) for one in publish)
        return self._changed(network=Network(kind, name, destinations, forwards))

    def with_limits(self, **limits: object) -> Sandbox:
        """With limits; the names are those of `Limits`."""
        return self._changed(limits=replace(self.definition.limits, **limits))  # type: ignore[arg-type]

    def with_user(self, user: str | Identity) -> Sandbox:
        """As this user."""
        return self._changed(identity=Identity.named(user) if isinstance(user, str) else user)

    def with_environment(self, variables: Mapping[str, str]) -> Sandbox:
        """With these variables on top of the clean environment."""
        return replace(self, environment=(*self.environment, *variables.items()), _sessions=[])

    def with_options(self, **changes: object) -> Sandbox:
        """With any other field of `Definition` changed: hostname, kernel, transport, snapshot, ..."""
        return self._changed(**changes)

    def dry_run(self) -> str:
        """What would be started: a command line, or libvirt's XML."""
        from virtscope.sandbox import backends

        return backends.describe(self.definition)

    def start(self) -> Session:
        """Start it; the session is to be closed.

        Raises:
            SandboxError: it could not be started or set up.
        """
        from virtscope.sandbox import backends, plan

        definition = self.definition
        plan.check(definition)
        session, base = backends.start(definition)
        try:
            session.setup(plan.operations(definition, base), time.monotonic() + 60)
        except BaseException:
            session.abandon()
            raise
        self.prepare(session)
        return session

    def prepare(self, session: Session) -> None:
        """Tell a session what its commands get that do not say otherwise."""
        definition = self.definition
        who = definition.who()
        limits = [(6, definition.limits.pids)] if definition.limits.pids else []
        session.defaults(
            identity=who,
            environment=self.clean_environment(who),
            cwd=self._folder(who),
            limits=[(what, most) for what, most in limits if most],
            keep_capabilities=self.keep_capabilities,
        )

    def clean_environment(self, who: Identity) -> dict[str, str]:
        """The environment of commands: who, where, how to talk, and what was set on purpose."""
        environment = {
            "PATH": SAFE_PATH,
            "HOME": who.home,
            "USER": who.name,
            "LOGNAME": who.name,
            "SHELL": "/bin/sh",
        }
        environment |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        return environment | dict(self.environment)

    def _folder(self, who: Identity) -> str:
        from virtscope.sandbox import plan

        if self.cwd is not None:
            return self.cwd
        here = os.getcwd()
        if plan.visible(self.definition, here):
            return here
        return who.home if os.path.isdir(who.home) else "/"

    def run(self, argv: Sequence[str], *, input: bytes | None = None, timeout: float | None = None) -> Result:
        """Start it, run one command, end it; returns status and output.

        Raises:
            SandboxTimeout: `timeout` (or the sandbox's own) was not enough.
            SandboxError: the sandbox could not be started or failed.
        """
        with self.start() as session:
            return session.run(argv, input=input, timeout=timeout or self.definition.limits.timeout)

    def __enter__(self) -> Session:
        session = self.start()
        self._sessions.append(session)
        return session

    def __exit__(self, *exception: object) -> None:
        self._sessions.pop().close(orderly=exception[0] is None)

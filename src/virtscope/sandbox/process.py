"""Host processes that belong to a sandbox: started through the guest program's `launch`, so that they are
confined and die with us, whatever happens to us.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Mapping, Sequence

from virtscope.errors import SandboxError
from virtscope.sandbox import compiler

SELF = "\0self"
"""In a command line: the guest program itself."""


class HostProcess:
    """A child process; its complaints are kept in memory, not in a file.

    Args:
        name: what messages call it.
        argv: the program and its arguments.
        keep: file descriptors it inherits, under the same numbers.
        guarded: it is the outer process of a process namespace, and reaps the inner one when it is asked to
            end.
        launch: options for `launch` (guest/launch.c): "user=UID:GID", "confine=1", "hide=DIR", ...
        environment: its variables, if they are not to be ours.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        keep: Sequence[int] = (),
        launch: Sequence[str] = (),
        guarded: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._guarded = guarded
        self._status: int | None = None
        self._complaints = os.memfd_create(f"{name}-stderr")
        # By descriptor: another user may not reach our cache.
        helper = os.open(compiler.guest_init(), os.O_RDONLY | os.O_CLOEXEC)
        self_path = f"/proc/self/fd/{helper}"
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in (helper, *keep):
            os.set_inheritable(fd, True)
        try:
            self.pid = os.posix_spawn(
                self_path,
                [
                    "virtscope-init",
                    "launch",
                    "close=others",
                    *(f"keep={fd}" for fd in keep),
                    f"parent={os.getpid()}",
                    *launch,
                    "--",
                    *(self_path if word == SELF else word for word in argv),
                ],
                os.environ if environment is None else environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, null, 0),
                    (os.POSIX_SPAWN_DUP2, null, 1),
                    (os.POSIX_SPAWN_DUP2, self._complaints, 2),
                ],
                setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM],
                setsigmask=[],
            )
        finally:
            os.close(null)
            os.close(helper)
            for fd in keep:
                os.set_inheritable(fd, False)

    def complaints(self) -> str:
        """What it wrote to its standard error, the last lines."""
        size = os.fstat(self._complaints).st_size
        data = os.pread(self._complaints, 4096, max(0, size - 4096))
        from virtscope.sandbox.session import printable

        lines = [printable(line) for line in data.splitlines() if line.strip()]
        return "; ".join(lines[-3:])

    def poll(self) -> str | None:
        """None while it runs, else one sentence about its end."""
        code = self._ended()
        if code is None:
            return None
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        said = self.complaints()
        return f"{self.name} {how}: {said}" if said else f"{self.name} {how}"

    def _ended(self) -> int | None:
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = self.pid, 0
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended; whether it has."""
        if self._ended() is not None:
            return True
        watched = os.pidfd_open(self.pid)
        try:
            poll = select.poll()
            poll.register(watched, select.POLLIN)
            poll.poll(seconds * 1000)
        finally:
            os.close(watched)
        return self._ended() is not None

    def kill(self, *, said_goodbye: bool = False) -> None:
        """End it and reap it; what it said before makes no difference to a process."""
        del said_goodbye
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                if self._guarded:
                    os.kill(self.pid, signal.SIGTERM)
                if not self._guarded or not self.wait(1.0):
                    os.kill(self.pid, signal.SIGKILL)
            while self._status is None:
                try:
                    _, status = os.waitpid(self.pid, 0)
                    self._status = os.waitstatus_to_exitcode(status)
                except ChildProcessError:
                    self._status = 0
        if self._complaints >= 0:
            os.close(self._complaints)
            self._complaints = os.memfd_create("none")

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.close(self._complaints)


class Group:
    """Several processes that make up one machine; the first is the one whose end is the machine's."""

    def __init__(self, *processes: HostProcess) -> None:
        self.processes = processes

    def poll(self) -> str | None:
        """As the first process says; but a helper that died early explains it better."""
        for helper in self.processes[1:]:
            if (
                (end := helper.poll()) is not None
                and self.processes[0].poll() is not None
                and helper.complaints()
            ):
                return end
        return self.processes[0].poll()

    def kill(self, *, said_goodbye: bool = False) -> None:
        """End all of them."""
        for process in self.processes:
            process.kill(said_goodbye=said_goodbye)


def program(name: str, *places: str) -> str:
    """The path of a host program.

    Raises:
        SandboxError: it is not installed.
    """
    import shutil

    found = shutil.which(name) or next((place for place in places if os.access(place, os.X_OK)), None)
    if found is None:
        raise SandboxError(f"{name} is not installed on this host")
    return found

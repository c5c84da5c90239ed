"""Machines that wait: started and set up beforehand, each given to one command.

`serve` keeps a number of them. A command asks through a socket in the user's runtime folder and gets the
channel of a waiting machine, together with a descriptor that keeps that machine alive; only a sandbox of
exactly the same definition is given out. Entry points: `serve`, `take`.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal
import socket
import time

from virtscope.errors import SandboxError
from virtscope.sandbox import Sandbox, cache, runtime
from virtscope.sandbox.session import Session

SOCKET = "pool"
WARM_PATIENCE = 60.0


class LentMachine:
    """A machine that belongs to the pool's process: closing the leash makes the pool end it."""

    def __init__(self, leash: socket.socket) -> None:
        self._leash = leash

    def poll(self) -> str | None:
        """None while the pool has not told of its end."""
        try:
            return (
                "the machine of the pool ended" if self._leash.recv(1, socket.MSG_DONTWAIT) == b"" else None
            )
        except BlockingIOError:
            return None
        except OSError:
            return "the machine of the pool ended"

    def kill(self, *, said_goodbye: bool = False) -> None:
        """Let the pool end it."""
        del said_goodbye
        self._leash.close()


def _address(sandbox: Sandbox) -> str:
    """Where the pool of this definition listens."""
    limits = sandbox.with_limits(timeout=None)
    key = cache.fingerprint(repr(limits.definition), repr(limits.definition.who()))
    return os.path.join(runtime.folder(), f"{SOCKET}-{key}")


def take(sandbox: Sandbox) -> Session | None:
    """Returns a session with a waiting machine of this definition, or None if there is no such pool."""
    try:
        if not any(name.startswith(f"{SOCKET}-") for name in os.listdir(runtime.folder())):
            return None
        path = _address(sandbox)
        if not os.path.exists(path):
            return None
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(2)
            try:
                connection.connect(path)
            except ConnectionRefusedError:
                # its pool was killed: one that lives listens before its socket has this name
                os.unlink(path)
                return None
            message, beside, _, _ = connection.recvmsg(16, socket.CMSG_SPACE(8))
    except OSError:
        return None
    descriptors = array.array("i")
    for level, kind, data in beside:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    if message != b"machine" or len(descriptors) != 2:
        for fd in descriptors:
            os.close(fd)
        return None
    channel, leash = (socket.socket(fileno=fd) for fd in descriptors)
    session = Session(channel, LentMachine(leash))
    session.resumed()
    try:
        sandbox.prepare(session)
        # what waited has an old clock
        now = time.time_ns()
        session.setup(
            [("?clock", now // 10**9, now % 10**9), ("?seed", os.urandom(64))], time.monotonic() + 10
        )
    except SandboxError:
        session.abandon()
        return None
    return session


def serve(sandbox: Sandbox, count: int) -> int:
    """Keep `count` machines waiting until interrupted; returns the exit status.

    Raises:
        SandboxError: a machine could not be started, or the runtime folder cannot hold the pool's socket.
    """
    path = _address(sandbox)
    early = os.path.join(runtime.folder(), runtime.own_name())
    waiting: list[Session] = []
    lent: dict[socket.socket, Session] = {}
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    old_wake = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    old = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        try:
            listener.bind(early)
            listener.listen(64)
            os.rename(early, path)
        except OSError as error:
            raise SandboxError(f"the pool cannot listen on {path}: {error.strerror or error}") from None
        while True:
            watched = {one.fileno(): one for one in (listener, *lent)}
            ready, _, _ = select.select([reader, *watched], [], [], 0 if len(waiting) < count else None)
            if reader in ready:
                return 0
            for leash in [watched[fd] for fd in ready if fd != reader and watched[fd] in lent]:
                lent.pop(leash).abandon()
                leash.close()
            if listener.fileno() in ready:
                if not waiting:
                    waiting.append(_ready(sandbox))
                _lend(listener, waiting, lent)
            elif len(waiting) < count:
                waiting.append(_ready(sandbox))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        for session in [*waiting, *lent.values()]:
            session.abandon()
        signal.set_wakeup_fd(old_wake)
        for number, handler in old.items():
            signal.signal(number, handler)
        listener.close()
        os.close(reader)
        os.close(writer)


def _ready(sandbox: Sandbox) -> Session:
    """A machine that has run a program once: the loader and the C library are in its memory."""
    session = sandbox.start()
    try:
        session.run(["/bin/true"], timeout=WARM_PATIENCE)
    except BaseException:
        session.abandon()
        raise
    return session


def _lend(listener: socket.socket, waiting: list[Session], lent: dict[socket.socket, Session]) -> None:
    connection, _ = listener.accept()
    with connection:
        session = waiting.pop(0)
        if session.machine.poll() is not None:
            session.abandon()
            return
        ours, theirs = socket.socketpair()
        beside = array.array("i", [session.channel.fileno(), theirs.fileno()])
        with theirs:
            try:
                connection.sendmsg([b"machine"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, beside)])
            except OSError:
                session.abandon()
                ours.close()
                return
        session.lend()
        lent[ours] = session

"""A sandbox that is running: the conversation with its init, and the commands in it.

One thread drives everything through `Session.pump`: frames from the guest, bytes from the callers' files,
credit both ways. What the guest sends is bounded by the windows of wire.py and only ever written to a
command's own output.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from virtscope.errors import FormatError, SandboxError, SandboxTimeout
from virtscope.sandbox import wire
from virtscope.sandbox.definition import Identity
from virtscope.sandbox.execution import Execution, Result, Sink, outcome

CHUNK = 32768


class Machine(Protocol):
    """What a session talks to: a process or domain that can be asked whether it lives, and ended."""

    def poll(self) -> str | None:
        """None while it runs, else one sentence about its end."""

    def kill(self, *, said_goodbye: bool = False) -> None:
        """End it now and wait until nothing is left of it.

        Args:
            said_goodbye: its init has ended everything and written everything back.
        """


class Ring:
    """Memory shared with a guest whose channel is slow and loses what it cannot hold.

    What we send goes through the memory; the channel only says how many bytes more there are.

    Args:
        fd: the file that is the memory, `wire.RING` bytes.
    """

    # four bytes each on the channel, which holds a few thousand
    MOST_ANNOUNCED = 64

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0
        self._untaken = 0
        self._announced = 0

    @property
    def has_room(self) -> bool:
        """Whether anything can be sent before the guest has taken something."""
        return self._untaken < wire.RING and self._announced < self.MOST_ANNOUNCED

    def send(self, channel: socket.socket, data: bytearray) -> int:
        """Send as much of `data` as there is room for; returns how much that was."""
        piece = memoryview(data)[: wire.RING - self._untaken]
        size = len(piece)
        first = min(size, wire.RING - self._at)
        with piece:
            os.pwrite(self._fd, piece[:first], self._at)
            if first < size:
                os.pwrite(self._fd, piece[first:], 0)
        channel.send(size.to_bytes(4, "little"))
        self._at = (self._at + size) % wire.RING
        self._untaken += size
        self._announced += 1
        return size

    def taken(self, size: int) -> None:
        """The guest has taken so many bytes, all of one announcement."""
        self._untaken = max(0, self._untaken - size)
        self._announced = max(0, self._announced - 1)

    def close(self) -> None:
        """Give the memory back."""
        os.close(self._fd)


class Session:
    """The host's end of a running sandbox.

    Args:
        channel: a socket to the guest's init.
        machine: what runs it.
        ring: the way to a guest whose channel is slow.
    """

    def __init__(self, channel: socket.socket, machine: Machine, *, ring: Ring | None = None) -> None:
        self._channel = channel
        self._ring = ring
        self._machine = machine
        self._reader = wire.FrameReader()
        self._outgoing = bytearray()
        self._runs: dict[int, Execution] = {}
        self._next = 1
        self._answers: list[tuple[int, bytes]] = []
        self._said_hello = False
        self._ended: str | None = None
        self._closed = False
        self._default_environment: dict[str, str] = {}
        self._default_identity = Identity(0, 0, (), "root", "/")
        self._default_cwd = "/"
        self._limits: tuple[tuple[int, int], ...] = ()
        self._keep_capabilities = False
        self.marks: list[tuple[str, float, float]] = []
        self.on_close: list[Callable[[], None]] = []
        channel.setblocking(False)

    # -- life
    # ---------------------------------------------------------------------------------------------------

    @property
    def machine(self) -> Machine:
        """The process or domain that runs the sandbox."""
        return self._machine

    @property
    def channel(self) -> socket.socket:
        """The socket to the guest's init."""
        return self._channel

    def lend(self) -> None:
        """Give the channel away: from now on only the machine's life is ours."""
        self._channel.close()

    def wait_ready(self, deadline: float) -> None:
        """Wait until the guest's init speaks.

        Raises:
            SandboxTimeout: it did not before `deadline` (of time.monotonic).
            SandboxError: it ended, or speaks something else.
        """
        self.pump(lambda: self._said_hello, deadline)

    def resumed(self) -> None:
        """This guest said hello before it was saved."""
        self._said_hello = True

    def setup(self, operations: Iterable[wire.Record], deadline: float) -> None:
        """Have the guest apply setup operations (guest/setup.c names them).

        Raises:
            SandboxError: one of them failed; the message says which and why.
        """
        self._outgoing += wire.command(wire.SETUP, 0, operations)
        self.pump(lambda: bool(self._answers), deadline)
        kind, payload = self._answers.pop(0)
        if kind == wire.FAILED:
            raise SandboxError(f"the sandbox could not be set up: {printable(payload)}")

    def defaults(
        self,
        *,
        identity: Identity,
        environment: Mapping[str, str],
        cwd: str,
        limits: Sequence[tuple[int, int]] = (),
        keep_capabilities: bool = False,
    ) -> None:
        """What commands get that do not say otherwise."""
        self._default_identity = identity
        self._default_environment = dict(environment)
        self._default_cwd = cwd
        self._limits = tuple(limits)
        self._keep_capabilities = keep_capabilities

    def close(self, *, orderly: bool = True, patience: float = 10.0) -> None:
        """End the sandbox: ask init to write everything back, then make sure that nothing is left."""
        if self._closed:
            return
        self._closed = True
        try:
            if orderly and self._ended is None:
                self._outgoing += wire.frame(wire.BYE)
                self.pump(self._said_goodbye, time.monotonic() + patience)
        except SandboxError:
            pass
        finally:
            self.abandon()

    def _said_goodbye(self) -> bool:
        return any(kind == wire.GONE for kind, _ in self._answers)

    def abandon(self) -> None:
        """End the sandbox at once."""
        self._closed = True
        for run in self._runs.values():
            for sink in run.sinks:
                sink.close()
        self._runs.clear()
        try:
            self._machine.kill(said_goodbye=self._said_goodbye())
        finally:
            self._channel.close()
            while self.on_close:
                self.on_close.pop()()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close(orderly=exception[0] is None)

    # -- commands
    # -----------------------------------------------------------------------------------------------

    def start(
        self,
        argv: Sequence[str],
        *,
        stdin: int | bytes | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        identity: Identity | None = None,
        terminal: tuple[int, int] | None = None,
        collect_limit: int = 1 << 30,
    ) -> Execution:
        """Start a command; `pump` or `wait` drive it.

        Args:
            argv: the program, searched for in PATH inside the sandbox, and its arguments.
            stdin: a file descriptor to read from, bytes, or None for nothing.
            stdout: a file descriptor to write to, or None to collect.
            stderr: likewise.
            env: instead of the sandbox's environment.
            cwd: instead of the sandbox's folder.
            identity: instead of the sandbox's user.
            terminal: (rows, columns) to give it a terminal of its own.
            collect_limit: how many bytes may be collected in memory for each stream.
        """
        if not argv:
            raise SandboxError("no command to run")
        number = self._next
        self._next = self._next % 65535 + 1
        who = identity or self._default_identity
        environment = self._default_environment if env is None else env
        body: list[wire.Record] = [
            ("argv", *argv),
            ("env", *(f"{key}={value}" for key, value in environment.items())),
            ("cwd", cwd or self._default_cwd),
            ("user", who.uid, who.gid, *who.groups),
        ]
        body.extend(("limit", what, most) for what, most in self._limits)
        if terminal:
            body.append(("tty", *terminal))
        if self._keep_capabilities:
            body.append(("keep-capabilities",))
        run = Execution(number, stdin, Sink(stdout, collect_limit), Sink(stderr, collect_limit))
        self._runs[number] = run
        self._outgoing += wire.command(wire.RUN, number, body)
        return run

    def wait(self, run: Execution, deadline: float | None = None) -> Result:
        """Drive the session until this command has ended.

        Raises:
            SandboxTimeout: it has not ended before `deadline`.
            SandboxError: the sandbox itself ended first.
        """
        self.pump(lambda: run.finished, deadline)
        for sink in run.sinks:
            sink.close()
        self._runs.pop(run.number, None)
        return run.collect()

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        identity: Identity | None = None,
        timeout: float | None = None,
        terminal: tuple[int, int] | None = None,
    ) -> Result:
        """Run a command to its end and return its status and output.

        Raises:
            SandboxTimeout: `timeout` seconds were not enough; the command was killed.
            SandboxError: the sandbox itself failed.
        """
        run = self.start(argv, stdin=input, env=env, cwd=cwd, identity=identity, terminal=terminal)
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            return self.wait(run, deadline)
        except SandboxTimeout:
            self.signal(run, 9)
            raise

    def signal(self, run: Execution, number: int) -> None:
        """Send a signal to a command's process group."""
        self._outgoing += wire.number(wire.SIGNAL, run.number, number)
        self._flush()

    def resize(self, run: Execution, rows: int, columns: int) -> None:
        """Tell a command's terminal its size."""
        self._outgoing += wire.number(wire.WINSIZE, run.number, (columns & 0xFFFF) << 16 | rows & 0xFFFF)
        self._flush()

    # -- the loop
    # -----------------------------------------------------------------------------------------------

    def pump(self, done: Callable[[], bool], deadline: float | None = None, wake: int | None = None) -> None:
        """Carry bytes until `done()` is true.

        Args:
            done: asked after every step.
            deadline: of time.monotonic.
            wake: a file descriptor that only has to wake this up when it becomes readable.

        Raises:
            SandboxTimeout: `deadline` came first.
            SandboxError: the sandbox ended, or broke the protocol.
        """
        while True:
            self._flush()
            if done():
                return
            if self._ended is not None:
                raise SandboxError(self._ended)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise SandboxTimeout("the sandbox did not finish in the time allowed")
            self._step(left, wake)

    def _step(self, left: float | None, wake: int | None) -> None:
        poll = select.poll()
        sources: dict[int, Execution] = {}
        sinks: dict[int, Sink] = {}
        room = self._ring is None or self._ring.has_room
        poll.register(self._channel, select.POLLIN | (select.POLLOUT if self._outgoing and room else 0))
        if wake is not None:
            poll.register(wake, select.POLLIN)
        for run in self._runs.values():
            if run.result is None and isinstance(run.stdin, bytes):
                self._feed_bytes(run)
            elif (
                run.result is None
                and isinstance(run.stdin, int)
                and run.window
                and len(self._outgoing) < wire.WINDOW
            ):
                sources[run.stdin] = run
                poll.register(run.stdin, select.POLLIN)
            for sink in run.sinks:
                if sink.waiting and sink.fd is not None:
                    sinks[sink.fd] = sink
                    poll.register(sink.fd, select.POLLOUT)
        if self._outgoing:
            self._flush()
        for fd, _ in poll.poll(None if left is None else max(1, int(left * 1000) + 1)):
            if fd == self._channel.fileno():
                self._receive()
            elif fd in sinks:
                self._drain(sinks[fd])
            elif fd in sources:
                self._read_source(sources[fd])

    def _flush(self) -> None:
        for run in self._runs.values():
            if run.stdin is None and run.result is None and not run.eof_sent:
                self._outgoing += wire.frame(wire.STDIN_EOF, run.number)
                run.eof_sent = True
        while self._outgoing and self._ended is None:
            try:
                if self._ring is None:
                    sent = self._channel.send(self._outgoing)
                elif self._ring.has_room:
                    sent = self._ring.send(self._channel, self._outgoing)
                else:
                    return
            except BlockingIOError:
                return
            except OSError:
                self._lost()
                return
            del self._outgoing[:sent]

    def _feed_bytes(self, run: Execution) -> None:
        data = run.stdin
        assert isinstance(data, bytes)
        while run.window and run.sent < len(data):
            piece = data[run.sent : run.sent + min(CHUNK, run.window)]
            self._outgoing += wire.frame(wire.STDIN, run.number, piece)
            run.sent += len(piece)
            run.window -= len(piece)
        if run.sent >= len(data):
            run.stdin = None
            self._flush()

    def _read_source(self, run: Execution) -> None:
        assert isinstance(run.stdin, int)
        try:
            data = os.read(run.stdin, min(CHUNK, run.window))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            run.window -= len(data)
            self._outgoing += wire.frame(wire.STDIN, run.number, data)
        else:
            run.stdin = None

    def _drain(self, sink: Sink) -> None:
        for run in self._runs.values():
            if sink in run.sinks:
                self._pass_on(run, run.sinks.index(sink))

    def _pass_on(self, run: Execution, which: int) -> None:
        """Write what waits, and let the guest send as much again."""
        sink = run.sinks[which]
        before = len(sink.waiting)
        sink.drain()
        if sink.broken and run.result is None:
            self._outgoing += wire.number(wire.CLOSE, run.number, which)
        elif (freed := before - len(sink.waiting)) and run.result is None:
            self._outgoing += wire.number((wire.CREDIT_OUT, wire.CREDIT_ERR)[which], run.number, freed)

    def _receive(self) -> None:
        try:
            data = self._channel.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        try:
            for kind, number, payload in self._reader.feed(data):
                self._take(kind, number, payload)
        except FormatError as error:
            self._ended = str(error)

    def _take(self, kind: int, number: int, payload: bytes) -> None:
        if kind in (wire.STDOUT, wire.STDERR):
            run = self._runs.get(number)
            if run is not None and run.result is None:
                which = kind - wire.STDOUT
                sink = run.sinks[which]
                if len(sink.waiting) + len(payload) > 2 * wire.WINDOW:
                    raise FormatError("sandbox channel", "the guest sends more than it was given credit for")
                sink.put(payload)
                if sink.fd is None:
                    code = (wire.CREDIT_OUT, wire.CREDIT_ERR)[which]
                    self._outgoing += wire.number(code, number, len(payload))
                else:
                    self._pass_on(run, which)
        elif kind == wire.CREDIT_IN and len(payload) == 4:
            run = self._runs.get(number)
            if run is not None:
                run.window = min(wire.WINDOW, run.window + int.from_bytes(payload, "little"))
        elif kind == wire.EXIT and len(payload) == 8:
            run = self._runs.get(number)
            if run is not None and run.result is None:
                how = int.from_bytes(payload[:4], "little")
                run.result = outcome(how, int.from_bytes(payload[4:], "little"))
        elif kind == wire.TAKEN:
            if self._ring is not None:
                self._ring.taken(int.from_bytes(payload, "little"))
        elif kind == wire.STARTED:
            run = self._runs.get(number)
            if run is not None:
                run.started = True
        elif kind == wire.HELLO:
            if payload.decode("ascii", "replace") != wire.VERSION:
                raise FormatError("sandbox channel", "the guest's init is of another version")
            self._said_hello = True
        elif kind == wire.MARK:
            if len(self.marks) < 1000:
                when, _, name = payload.decode("utf-8", "replace").partition(" ")
                self.marks.append((name, float(when) if _is_number(when) else 0.0, time.monotonic()))
        elif len(self._answers) < 64:
            self._answers.append((kind, payload))

    def _lost(self) -> None:
        # the channel's end is seen a moment before the process's
        end = self._machine.poll()
        for _ in range(100):
            if end is not None:
                break
            time.sleep(0.005)
            end = self._machine.poll()
        self._ended = end or "the sandbox closed its channel"


def printable(text: bytes) -> str:
    """Words from the guest made safe for a terminal."""
    decoded = text.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in decoded)[:400]


def _is_number(text: str) -> bool:
    return text.isascii() and text.replace(".", "", 1).isdigit() and len(text) < 32

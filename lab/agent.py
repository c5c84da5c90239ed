"""Talks to the agent in a lab guest (programs/init.c describes the frames)."""

from __future__ import annotations

import abc
import socket
import struct
import time
from dataclasses import dataclass

from lab.cache import LabError


@dataclass(frozen=True, slots=True)
class Result:
    """What a command in the guest did: its exit status (128 + n if killed by signal n) and what it wrote."""

    status: int
    stdout: bytes
    stderr: bytes


class Agent:
    """The host's end of the agent's port.

    Args:
        connection: A connected socket whose other end is the guest's port.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def wait_ready(self, deadline: float) -> None:
        """Waits until the guest's set-up is done; `deadline` is a `time.monotonic()` value.

        Raises:
            LabError: The set-up script failed.
        """
        # A serial line may carry noise before the agent speaks: look for the ready frame in it.
        seen = b""
        while seen not in (b"R\0\0\0\0", b"F\0\0\0\0"):
            seen = seen[-4:] + self._receive(1, deadline)
        if seen.startswith(b"F"):
            raise LabError("the set-up script failed in the guest")

    def execute(self, command: str, stdin: bytes, deadline: float) -> Result:
        """Runs a shell command in the guest."""
        self.send(command, stdin, deadline)
        parts: dict[bytes, list[bytes]] = {b"O": [], b"E": []}
        while True:
            kind, size = struct.unpack("<cI", self._receive(5, deadline))
            data = self._receive(size, deadline)
            if kind == b"X":
                return Result(struct.unpack("<i", data)[0], b"".join(parts[b"O"]), b"".join(parts[b"E"]))
            if kind not in parts:
                raise LabError(f"the guest's agent sent a frame of unknown kind {kind!r}")
            parts[kind].append(data)

    def send(self, command: str, stdin: bytes, deadline: float) -> None:
        """Starts a shell command in the guest."""
        text = command.encode()
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        self._socket.sendall(struct.pack("<II", len(text), len(stdin)) + text + stdin)

    def close(self) -> None:
        """Closes the host's end."""
        self._socket.close()

    def _receive(self, size: int, deadline: float) -> bytes:
        parts = []
        while size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            part = self._socket.recv(min(size, 1 << 20))
            if not part:
                raise ConnectionResetError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class Shell(abc.ABC):
    """Commands in a guest: what a guest with an agent can do.

    Attributes:
        agent: The connection to the agent; None when there is none, or none any more.
    """

    agent: Agent | None = None

    @abc.abstractmethod
    def last_words(self) -> str:
        """The end of what the guest said, for messages."""

    def wait_agent(self, deadline: float) -> None:
        """Waits until the guest's set-up is done; `deadline` is a `time.monotonic()` value."""
        try:
            self._agent().wait_ready(deadline)
        except (TimeoutError, OSError, LabError) as error:
            raise LabError(f"the guest did not boot ({error!r}): {self.last_words()}") from None

    def execute(self, command: str, stdin: bytes = b"", timeout: float = 300) -> Result:
        """Runs a shell command as root in the guest and returns all it did."""
        try:
            return self._agent().execute(command, stdin, time.monotonic() + timeout)
        except (TimeoutError, OSError) as error:
            raise LabError(f"no answer to {command!r} ({error!r}): {self.last_words()}") from None

    def run(self, command: str, stdin: bytes = b"", timeout: float = 300) -> str:
        """Runs a shell command as root in the guest and returns its standard output.

        Raises:
            LabError: It exited with another status than 0, or did not end in time.
        """
        done = self.execute(command, stdin, timeout)
        if done.status:
            said = done.stderr.decode(errors="replace").strip()
            raise LabError(f"{command!r} in the guest exited with {done.status}: {said}")
        return done.stdout.decode(errors="surrogateescape")

    def put(self, path: str, content: bytes, mode: int = 0o755) -> None:
        """Writes a file in the guest."""
        self.run(f"cat >'{path}' && chmod {mode:o} '{path}'", stdin=content)

    def send(self, command: str) -> None:
        """Starts a shell command in the guest without waiting for its end: the last this guest can take."""
        self._agent().send(command, b"", time.monotonic() + 60)
        self.agent = None

    def _agent(self) -> Agent:
        if self.agent is None:
            raise LabError("no command can be run in this guest (no agent, or it was given its last)")
        return self.agent

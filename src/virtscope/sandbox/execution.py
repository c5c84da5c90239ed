"""One command in a sandbox: where its streams go, and how it ended."""

from __future__ import annotations

import os
import select
import stat
from dataclasses import dataclass

from virtscope.errors import SandboxError
from virtscope.sandbox import wire


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended.

    Args:
        status: as a shell would say it: the exit status, 128 + n for signal n, 126 or 127 when it could not
            start.
        stdout: what it wrote, where that was collected.
        stderr: likewise.
        signal: the signal that ended it.
        problem: why it could not start, in words.
    """

    status: int
    stdout: bytes = b""
    stderr: bytes = b""
    signal: int | None = None
    problem: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the command said that all went well."""
        return self.status == 0


class Sink:
    """Where a stream of a command goes: a file descriptor, or memory."""

    def __init__(self, fd: int | None, limit: int = 1 << 30) -> None:
        self.collected = bytearray()
        self.waiting = bytearray()
        self.broken = False
        self._limit = limit
        self._reopened = False
        self.fd = fd
        self._piece = 0
        if fd is not None:
            mode = os.fstat(fd).st_mode
            if stat.S_ISFIFO(mode):
                # our own non-blocking view of the pipe: the flag must not change for who shares it with us
                try:
                    self.fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                    self._reopened = True
                except OSError:
                    self._piece = select.PIPE_BUF
            elif not stat.S_ISREG(mode):
                self._piece = select.PIPE_BUF

    def put(self, data: bytes) -> None:
        """Take a block from the guest."""
        if self.fd is None:
            if len(self.collected) + len(data) > self._limit:
                raise SandboxError(
                    f"the command printed more than {self._limit} bytes to be collected in memory"
                )
            self.collected += data
        elif not self.broken:
            self.waiting += data

    def drain(self) -> None:
        """Write what is waiting, as far as the reader takes it."""
        if self.fd is None or not self.waiting:
            return
        piece = memoryview(self.waiting)[: self._piece or len(self.waiting)]
        try:
            written = os.write(self.fd, piece)
        except BlockingIOError:
            return
        except OSError:
            self.broken = True
            piece.release()
            self.waiting.clear()
            return
        piece.release()
        del self.waiting[:written]

    def close(self) -> None:
        """Give back what this opened itself."""
        if self._reopened and self.fd is not None:
            os.close(self.fd)
            self._reopened = False


class Execution:
    """One command in a sandbox."""

    def __init__(
        self,
        number: int,
        stdin: int | bytes | None,
        stdout: Sink,
        stderr: Sink,
    ) -> None:
        self.number = number
        self.stdin = stdin
        self.window = wire.WINDOW
        self.sinks = (stdout, stderr)
        self.result: Result | None = None
        self.started = False
        self.eof_sent = False
        self.sent = 0

    @property
    def finished(self) -> bool:
        """Whether the command ended and all it printed was passed on."""
        return self.result is not None and not any(sink.waiting for sink in self.sinks)

    def collect(self) -> Result:
        """The result with the streams that were collected in memory."""
        assert self.result is not None
        out, err = self.sinks
        return Result(
            self.result.status,
            bytes(out.collected),
            bytes(err.collected),
            self.result.signal,
            self.result.problem,
        )


def outcome(how: int, value: int) -> Result:
    """The result of an EXIT frame: `how` is 0 for a status, 1 for a signal, 2 for a command that did not
    start.
    """
    if how == 0:
        return Result(value & 255)
    if how == 1:
        return Result(128 + (value & 127), signal=value & 127)
    stage, number = chr(value & 255), value >> 8 & 0xFFFF
    reason = os.strerror(number)
    if stage == "x":
        return Result(127 if number == 2 else 126, problem=reason)
    if stage == "c":
        return Result(125, problem=f"its folder cannot be entered: {reason}")
    return Result(125, problem=f"it could not be prepared: {reason}")

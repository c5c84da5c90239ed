"""The caller's terminal while a command in a sandbox owns it: raw, resized with it, and given back whatever
happens.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence

from virtscope.errors import SandboxError, SandboxTimeout
from virtscope.sandbox.execution import Execution, Result
from virtscope.sandbox.session import Session

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def run(
    session: Session,
    argv: Sequence[str],
    *,
    terminal: bool | None = None,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
) -> Result:
    """Run a command on this process's own standard streams and return how it ended.

    Args:
        session: the sandbox.
        argv: the command.
        terminal: give it a terminal; None to do so when standard input and output are one.
        timeout: seconds after which it is killed.
        env: its environment, or None for the sandbox's.

    Raises:
        SandboxTimeout: it took too long and was killed.
        SandboxError: the sandbox failed.
    """
    if terminal is None:
        terminal = os.isatty(0) and os.isatty(1)
    size = _size() if terminal else None
    execution = session.start(argv, stdin=0, stdout=1, stderr=2, terminal=size, env=env)
    deadline = None if timeout is None else time.monotonic() + timeout
    with _signals(terminal) as wake, _raw(0 if terminal and os.isatty(0) else None):
        try:
            session.pump(lambda: _forward(session, execution, wake) or execution.finished, deadline, wake)
        except SandboxTimeout:
            with contextlib.suppress(SandboxError):
                session.signal(execution, signal.SIGKILL)
            raise
    return session.wait(execution, deadline)


def _size() -> tuple[int, int]:
    try:
        size = os.get_terminal_size(0)
    except OSError:
        return 24, 80
    return size.lines or 24, size.columns or 80


@contextlib.contextmanager
def _raw(fd: int | None) -> Iterator[None]:
    if fd is None:
        yield
        return
    saved = termios.tcgetattr(fd)
    raw = termios.tcgetattr(fd)
    raw[0] &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    raw[1] &= ~termios.OPOST
    raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    try:
        termios.tcsetattr(fd, termios.TCSANOW, raw)
        yield
    finally:
        sys.stdout.flush()
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)


@contextlib.contextmanager
def _signals(terminal: bool) -> Iterator[int]:
    """Signals arrive as bytes on a pipe, and are passed on by `_forward`."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    numbers = [*FORWARDED, *([signal.SIGWINCH] if terminal else [])]
    old_wake = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    old = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(old_wake)
        for number, handler in old.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def _forward(session: Session, execution: Execution, wake: int) -> bool:
    try:
        numbers = os.read(wake, 64)
    except BlockingIOError:
        return False
    for number in numbers:
        if number == signal.SIGWINCH:
            session.resize(execution, *_size())
        elif number in FORWARDED:
            session.signal(execution, number)
    return False

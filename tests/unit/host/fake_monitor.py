"""A monitor socket that behaves as the test wants."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'

Talk = Callable[[socket.socket], None]


@contextmanager
def listening(path: str | Path, talk: Talk) -> Iterator[None]:
    """A socket at `path` (NUL first: an abstract name); `talk` is called with each connection."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(4)
    ended = threading.Event()

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                if ended.is_set():
                    return
                with connection, suppress(OSError):
                    talk(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


def answering(answers: dict[str, object], before: bytes = b"") -> Talk:
    """A QMP server: answers human-monitor-command by the command line, other commands by their name."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(GREETING)
        with connection.makefile("rb") as file:
            for line in file:
                request = json.loads(line)
                name = request["execute"]
                if name == "human-monitor-command":
                    name = request["arguments"]["command-line"]
                answer = answers.get(name, {"return": {}})
                if not isinstance(answer, bytes):
                    answer = json.dumps(answer).encode()
                connection.sendall(before + answer + b"\r\n")

    return talk

"""The frames between the lab and the agent in a guest."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from lab import LabError
from lab.agent import Agent


@pytest.fixture
def pair() -> Iterator[tuple[Agent, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Agent(ours), theirs


def frame(kind: bytes, data: bytes = b"") -> bytes:
    return kind + struct.pack("<I", len(data)) + data


def soon() -> float:
    return time.monotonic() + 10


def test_noise_before_the_ready_frame_is_skipped(pair: tuple[Agent, socket.socket]) -> None:
    agent, guest = pair
    guest.sendall(b"SeaBIOS (version 1.16)\r\nR\r\n" + frame(b"R"))
    agent.wait_ready(soon())


def test_a_failed_set_up_is_an_error(pair: tuple[Agent, socket.socket]) -> None:
    agent, guest = pair
    guest.sendall(frame(b"F"))
    with pytest.raises(LabError, match="set-up script failed"):
        agent.wait_ready(soon())


def test_output_comes_in_any_number_of_frames(pair: tuple[Agent, socket.socket]) -> None:
    agent, guest = pair
    answer = frame(b"O", b"one ") + frame(b"E", b"oops") + frame(b"O", b"\0two") + frame(b"X", b"\x03\0\0\0")

    def serve() -> None:
        for byte in answer:
            guest.sendall(bytes([byte]))

    thread = threading.Thread(target=serve)
    thread.start()
    done = agent.execute("command", b"input", soon())
    thread.join()
    assert (done.status, done.stdout, done.stderr) == (3, b"one \0two", b"oops")
    assert guest.recv(100) == struct.pack("<II", 7, 5) + b"commandinput"


def test_silence_ends_at_the_deadline(pair: tuple[Agent, socket.socket]) -> None:
    agent, _ = pair
    with pytest.raises(TimeoutError):
        agent.execute("command", b"", time.monotonic() + 0.05)


def test_a_guest_that_ends_is_an_error(pair: tuple[Agent, socket.socket]) -> None:
    agent, guest = pair
    guest.sendall(b"O\x10\0\0\0half")
    guest.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError):
        agent.execute("command", b"", soon())

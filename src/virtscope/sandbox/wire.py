"""The frames between host and guest: one channel, several commands, a window for every stream.

A frame is: type u8, zero u8, run u16, size u32, then `size` bytes, all little-endian. The end of a command's
input is a frame, never a closed channel: closing a virtio port loses what the guest has not read yet. Each
stream has a window of `WINDOW` bytes; the receiver gives credit back as it consumes, so that no stream can
starve another and neither side ever holds more than a window. The other end is guest/wire.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

from virtscope.errors import FormatError

HEADER = struct.Struct("<BBHI")
FRAME_MAX = 32768
WINDOW = 256 * 1024
RING = 1 << 20
VERSION = "virtscope-init 1"

BODY, SETUP, RUN, STDIN, STDIN_EOF, CREDIT_OUT, CREDIT_ERR, SIGNAL, WINSIZE, BYE, CLOSE = range(1, 12)
HELLO, DONE, FAILED, STARTED, STDOUT, STDERR, CREDIT_IN, EXIT, MARK, GONE, TAKEN = range(65, 76)

Record = Sequence[str | bytes | int]


def frame(kind: int, run: int = 0, payload: bytes = b"") -> bytes:
    """One frame, ready to be sent."""
    return HEADER.pack(kind, 0, run, len(payload)) + payload


def number(kind: int, run: int, value: int) -> bytes:
    """A frame whose payload is one u32."""
    return HEADER.pack(kind, 0, run, 4) + value.to_bytes(4, "little")


def records(body: Iterable[Record]) -> bytes:
    """Encodes records: for each the count of its arguments, then every argument with its size and a NUL."""
    pieces = bytearray()
    for record in body:
        pieces += len(record).to_bytes(4, "little")
        for argument in record:
            data = argument if isinstance(argument, bytes) else _encoded(argument)
            pieces += (len(data) + 1).to_bytes(4, "little") + data + b"\0"
    return bytes(pieces)


def _encoded(argument: str | int) -> bytes:
    return str(argument).encode("utf-8", "surrogateescape")


def command(kind: int, run: int, body: Iterable[Record]) -> bytes:
    """The frames that carry a body of records and then have it executed (`SETUP` or `RUN`)."""
    data = records(body)
    pieces = [frame(BODY, run, data[at : at + FRAME_MAX]) for at in range(0, len(data), FRAME_MAX)]
    return b"".join(pieces) + frame(kind, run)


class FrameReader:
    """Cuts the guest's bytes into frames; holds at most one frame that is not complete."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Yields (type, run, payload) of each frame that is complete now.

        Raises:
            FormatError: the guest sent a frame larger than the protocol allows, or of an unknown type.
        """
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= HEADER.size:
                kind, zero, run, size = HEADER.unpack_from(buffer, at)
                if size > FRAME_MAX or zero or not HELLO <= kind <= TAKEN:
                    raise FormatError("sandbox channel", "the guest does not keep to the protocol")
                if len(buffer) - at < HEADER.size + size:
                    break
                payload = bytes(buffer[at + HEADER.size : at + HEADER.size + size])
                at += HEADER.size + size
                yield kind, run, payload
        finally:
            del buffer[:at]

"""Frames: what one side encodes the other reads; what breaks the rules is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtscope.errors import FormatError
from virtscope.sandbox import wire


@given(
    st.lists(st.tuples(st.integers(65, 75), st.integers(0, 65535), st.binary(max_size=300)), max_size=8),
    st.data(),
)
def test_frames_survive_any_cutting(frames: list[tuple[int, int, bytes]], data: st.DataObject) -> None:
    stream = b"".join(wire.frame(kind, run, payload) for kind, run, payload in frames)
    reader = wire.FrameReader()
    seen: list[tuple[int, int, bytes]] = []
    at = 0
    while at < len(stream):
        size = data.draw(st.integers(1, 50))
        seen += reader.feed(stream[at : at + size])
        at += size
    assert seen == frames


@pytest.mark.parametrize(
    "header",
    [
        wire.HEADER.pack(wire.STDOUT, 0, 1, wire.FRAME_MAX + 1),
        wire.HEADER.pack(wire.STDOUT, 1, 1, 0),
        wire.HEADER.pack(wire.RUN, 0, 1, 0),
        wire.HEADER.pack(255, 0, 1, 0),
    ],
)
def test_a_guest_that_breaks_the_protocol_is_refused(header: bytes) -> None:
    with pytest.raises(FormatError):
        list(wire.FrameReader().feed(header))


@given(st.binary(max_size=200))
def test_noise_never_raises_anything_else(noise: bytes) -> None:
    with contextlib.suppress(FormatError):
        list(wire.FrameReader().feed(noise))


def test_records_carry_numbers_text_and_bytes() -> None:
    assert wire.records([("file", 7, b"\0x")]) == (
        b"\x03\0\0\0" + b"\x05\0\0\0file\0" + b"\x02\0\0\x007\0" + b"\x03\0\0\0\0x\0"
    )


def test_a_long_body_is_cut_into_frames_that_are_allowed() -> None:
    stream = wire.command(wire.RUN, 3, [("argv", "x" * 100_000)])
    sizes = []
    at = 0
    while at < len(stream):
        kind, zero, run, size = wire.HEADER.unpack_from(stream, at)
        assert (zero, run) == (0, 3)
        sizes.append((kind, size))
        at += wire.HEADER.size + size
    assert [kind for kind, _ in sizes] == [wire.BODY] * 4 + [wire.RUN]
    assert all(size <= wire.FRAME_MAX for _, size in sizes)

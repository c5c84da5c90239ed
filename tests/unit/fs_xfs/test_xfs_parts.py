"""The parts of the XFS reader that need no image: hashes of names, times, the overlay of a replay."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtscope.block.source import BlockSource
from virtscope.errors import FormatError
from virtscope.fs.xfs.attributes import acl_of_system_call
from virtscope.fs.xfs.index import hash_of
from virtscope.fs.xfs.inode import LoadedInode
from virtscope.fs.xfs.overlay import Overlay
from virtscope.fs.xfs.superblock import SuperBlock, parse_superblock

_SIZE = 50_000


class Bytes(BlockSource):
    def __init__(self, data: bytes) -> None:
        super().__init__("bytes", len(data))
        self._data = data

    def _read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]


def slow_hash(name: bytes) -> int:
    """Seven bits to the left for each byte, what falls out comes in again."""
    value = 0
    for byte in name:
        value = ((value << 7 | value >> 25) & 0xFFFFFFFF) ^ byte
    return value


@given(st.binary(min_size=1, max_size=255))
def test_hashes_of_names(name: bytes) -> None:
    assert hash_of(name) == slow_hash(name)


@given(st.lists(st.tuples(st.integers(0, _SIZE - 1), st.binary(min_size=1, max_size=9000), st.booleans())))
def test_the_overlay_is_the_source_with_what_was_written(changes: list[tuple[int, bytes, bool]]) -> None:
    below = random.Random(1).randbytes(_SIZE)
    expected = bytearray(below)
    overlay = Overlay(Bytes(below))
    for offset, data, is_undone in changes:
        data = data[: _SIZE - offset]
        overlay.write(offset, data)
        expected[offset : offset + len(data)] = data
        if is_undone:
            overlay.restore(offset, len(data))
            expected[offset : offset + len(data)] = below[offset : offset + len(data)]

    assert overlay.read_at(0, _SIZE) == expected
    for offset, data, _ in changes:
        size = min(len(data) + 10, _SIZE - offset)
        assert overlay.read_at(offset, size) == expected[offset : offset + size]
        assert overlay.covers(offset, size)


def test_the_overlay_ends_where_its_source_does() -> None:
    overlay = Overlay(Bytes(bytes(1000)))
    with pytest.raises(FormatError):
        overlay.write(990, bytes(11))
    overlay.write(990, b"x" * 10)
    with pytest.raises(FormatError):
        overlay.read_at(995, 6)
    assert list(overlay.extents()) == [(0, 1000, False)]


def superblock(**changes: int) -> SuperBlock:
    values = {
        "sb_magicnum": b"XFSB",
        "sb_blocksize": 4096,
        "sb_blocklog": 12,
        "sb_dblocks": 4000,
        "sb_agblocks": 1000,
        "sb_agblklog": 10,
        "sb_agcount": 4,
        "sb_versionnum": 0xB4A5,
        "sb_sectsize": 512,
        "sb_sectlog": 9,
        "sb_inodesize": 512,
        "sb_inodelog": 9,
        "sb_inopblock": 8,
        "sb_inopblog": 3,
        **changes,
    }
    return parse_superblock(bytes(SuperBlock.blank(**values)))


@pytest.mark.parametrize(
    ("field", "offset", "value"),
    [
        ("sb_blocksize", 4, (4097).to_bytes(4, "big")),
        ("sb_blocklog", 120, b"\x0d"),
        ("sb_agblocks", 84, (63).to_bytes(4, "big")),
        ("sb_agblklog", 124, b"\x0b"),
        ("sb_dblocks", 88, (5).to_bytes(4, "big")),
        ("sb_dblocks", 88, bytes(4)),
        ("sb_dblocks", 8, bytes(8)),
        ("sb_inopblock", 106, (16).to_bytes(2, "big")),
        ("sb_inopblog", 123, b"\x04"),
        ("sb_versionnum", 100, b"\xb4\xa3"),
        ("sb_dirblklog", 192, b"\x05"),
        ("sb_imax_pct", 127, b"\x65"),
        ("sb_inprogress", 126, b"\x01"),
        ("sb_logstart", 48, (5000).to_bytes(8, "big")),
    ],
)
def test_superblocks_that_contradict_themselves(field: str, offset: int, value: bytes) -> None:
    data = bytearray(bytes(superblock()))
    data[offset : offset + len(value)] = value
    with pytest.raises(FormatError, match=field):
        parse_superblock(bytes(data))


def test_blocks_are_numbered_with_their_group() -> None:
    found = superblock(sb_dblocks=3500)
    assert found.offset_of(2 << 10 | 7) == 2007 * 4096
    assert found.holds(3 << 10 | 499, 1)
    assert not found.holds(3 << 10 | 499, 2)
    assert not found.holds(1000, 1)
    assert not found.holds(4 << 10, 1)


@pytest.mark.parametrize(
    ("is_big", "stored", "nanoseconds"),
    [
        (False, struct.pack(">iI", -1, 500), -1_000_000_000 + 500),
        (False, struct.pack(">iI", 2**31 - 1, 0), (2**31 - 1) * 10**9),
        (True, bytes(8), -(2**31) * 10**9),
        (True, struct.pack(">Q", (2**31 + 5) * 10**9 + 7), 5 * 10**9 + 7),
    ],
)
def test_times(is_big: bool, stored: bytes, nanoseconds: int) -> None:
    data = bytearray(512)
    data[:6] = struct.pack(">2sHBB", b"IN", 0o100644, 3, 2)
    data[32:40] = data[144:152] = stored
    data[120:128] = struct.pack(">Q", 8 if is_big else 0)
    data[152:160] = struct.pack(">Q", 77)

    found = LoadedInode(77, 0, bytes(data), superblock()).stat(12)

    assert (found.accessed_ns, found.created_ns) == (nanoseconds, nanoseconds)


def test_access_control_lists_have_their_entries() -> None:
    entry = struct.pack(">IIHH", 2, 1000, 6, 0)
    assert acl_of_system_call(struct.pack(">I", 1) + entry, 5) == struct.pack("<IHHI", 2, 2, 6, 1000)
    with pytest.raises(FormatError, match="not all there"):
        acl_of_system_call(struct.pack(">I", 2) + entry, 5)

"""Layouts of RAID against a slow model of the arrays: every byte, whichever legs are lost."""

from __future__ import annotations

import itertools
import random

import pytest

from virtscope.block.source import BlockSource
from virtscope.errors import MissingDevice, UnsupportedFeature
from virtscope.volume.raid import LAYOUTS, Mirrored, Missing, Parity, Raid10, Striped, positions

CHUNK = 512
ROWS = 12


class Bytes(BlockSource):
    def __init__(self, data: bytes) -> None:
        super().__init__("leg", len(data))
        self.data = data

    def _read(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]


def times(a: int, b: int) -> int:
    """The product in the field of RAID 6, bit by bit."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a = a << 1 ^ (0x11D if a & 0x80 else 0)
        b >>= 1
    return product


def array(layout: str, legs: int) -> tuple[bytes, list[BlockSource]]:
    """The content of an array and its legs."""
    double = layout.startswith("raid6")
    data_legs = legs - (2 if double else 1)
    content = random.Random(layout).randbytes(data_legs * CHUNK * ROWS)
    written = [bytearray(CHUNK * ROWS) for _ in range(legs)]
    for row in range(ROWS):
        data, p, q = positions(layout, legs, row)
        for index, leg in enumerate(data):
            start = (row * data_legs + index) * CHUNK
            written[leg][row * CHUNK : (row + 1) * CHUNK] = content[start : start + CHUNK]
        order = sorted(data)
        for byte in range(row * CHUNK, (row + 1) * CHUNK):
            for leg in data:
                written[p][byte] ^= written[leg][byte]
                if double:
                    by_leg = layout in ("raid6_zr", "raid6_nr", "raid6_nc")
                    factor = 1
                    for _ in range(leg if by_leg else order.index(leg)):
                        factor = times(factor, 2)
                    written[q][byte] ^= times(written[leg][byte], factor)
    return content, [Bytes(bytes(leg)) for leg in written]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("legs", [4, 5, 7])
def test_every_leg_has_one_part_in_a_row(layout: str, legs: int) -> None:
    for row in range(40):
        data, p, q = positions(layout, legs, row)
        parts = [*data, p, q] if layout.startswith("raid6") else [*data, p]
        assert sorted(parts) == list(range(legs))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lost_legs_are_computed(layout: str) -> None:
    legs = 5
    content, whole = array(layout, legs)
    may_lose = 2 if layout.startswith("raid6") else 1
    for count in range(may_lose + 1):
        for lost in itertools.combinations(range(legs), count):
            left = [Missing("leg", leg.size, "lost") if i in lost else leg for i, leg in enumerate(whole)]
            volume = Parity("array", len(content), left, CHUNK, layout)
            assert volume.read_at(0, len(content)) == content
            assert volume.read_at(700, 3000) == content[700:3700]
    left = [Missing("leg", leg.size, "gone") if i <= may_lose else leg for i, leg in enumerate(whole)]
    with pytest.raises(MissingDevice, match="gone"):
        Parity("array", len(content), left, CHUNK, layout).read_at(0, len(content))


def test_parity_that_was_never_written_is_not_used() -> None:
    content, whole = array("raid5_ls", 4)
    left: list[BlockSource] = [Missing("leg", whole[0].size, "lost"), *whole[1:]]
    volume = Parity("array", len(content), left, CHUNK, "raid5_ls", parity_is_valid=False)
    with pytest.raises(MissingDevice):
        volume.read_at(0, len(content))


def test_stripes_and_copies() -> None:
    content = bytes(range(256)) * 24
    chunks = [content[start : start + CHUNK] for start in range(0, len(content), CHUNK)]
    striped = Striped("s", len(content), [Bytes(b"".join(chunks[leg::3])) for leg in range(3)], CHUNK)
    assert striped.read_at(0, len(content)) == content
    assert striped.read_at(500, 2000) == content[500:2500]
    legs: list[BlockSource] = [Bytes(b"".join(chunks[leg // 2 :: 2])) for leg in range(4)]
    legs[0] = legs[3] = Missing("leg", legs[1].size, "lost")
    assert Raid10("r", len(content), legs, CHUNK).read_at(0, len(content)) == content
    mirrored = Mirrored("m", len(content), [legs[0], Bytes(content)])
    assert mirrored.read_at(100, 1000) == content[100:1100]


def test_what_makes_no_array_is_refused() -> None:
    leg = Bytes(bytes(CHUNK))
    with pytest.raises(UnsupportedFeature):
        Striped("s", 10, [], CHUNK)
    with pytest.raises(UnsupportedFeature):
        Striped("s", 10, [leg], 0)
    with pytest.raises(UnsupportedFeature):
        Raid10("s", 10, [leg], CHUNK, 2)
    for layout in ("raid6_zr", "raid7"):
        with pytest.raises(UnsupportedFeature):
            Parity("s", 10, [leg, leg, leg], CHUNK, layout)

"""CRC-32C: the standard's check value, and the quick way against the slow one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from virtscope.fs.crc32c import _DEGREE, _TERMS, crc32c


def slow(data: bytes, crc: int) -> int:
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def test_the_check_value() -> None:
    assert crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283


def test_the_sparse_polynomial_is_a_multiple() -> None:
    remainder = 1 << _DEGREE
    for term in _TERMS:
        remainder ^= 1 << term
    while remainder.bit_length() > 32:
        remainder ^= 0x11EDC6F41 << remainder.bit_length() - 33
    assert remainder == 0


@given(st.binary(max_size=700), st.integers(0, 0xFFFFFFFF))
def test_any_bytes(data: bytes, crc: int) -> None:
    assert crc32c(data, crc) == slow(data, crc)


def test_blocks_of_all_sizes() -> None:
    for size in (0, 1, 3, 4, 63, 64, 65, 1023, 1024, 4092, 4096, 16_384):
        data = bytes(index * 7 + size & 0xFF for index in range(size))
        assert crc32c(data, 5) == slow(data, 5)
        assert crc32c(data[size // 3 :], crc32c(data[: size // 3])) == crc32c(data)

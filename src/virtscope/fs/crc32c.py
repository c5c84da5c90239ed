"""CRC-32C, the checksum of ext4's and XFS's metadata, at a usable speed in plain Python.

A table takes a step for each byte. Here a long buffer is first made short: taken as one big number, it is a
polynomial over GF(2), and may be reduced by any multiple of the CRC's own polynomial without changing the
remainder. One with few terms costs a few shifts, whatever the length, and squaring it any number of times
(which doubles its exponents) gives one of the right size for any buffer. Only the last bits go through a
table.

Polynomial 0x1EDC6F41, reflected; see RFC 3720, section 12.1.
"""

from __future__ import annotations

_POLYNOMIAL = 0x82F63B78

# x^266 + x^143 + x^121 + x^88 + x^71 + 1 is a multiple of the polynomial (tests check it).
_DEGREE = 266
_TERMS = (143, 121, 88, 71, 0)
_STEP = _DEGREE - _TERMS[0]

_SHORT_BITS = 512
_table: list[int] = []
_plans: dict[int, tuple[tuple[int, int, tuple[int, ...]], ...]] = {}
_PLANS_KEPT = 256


def crc32c(data: bytes | memoryview, crc: int = 0xFFFFFFFF) -> int:
    """The checksum's register after `data`, begun with `crc` and not inverted at the end.

    That is how the kernel uses it: `crc32c(data) ^ 0xFFFFFFFF` is what other tools call CRC-32C.
    """
    bits = len(data) * 8
    if bits < 32:
        return _tail(int.from_bytes(data, "little"), len(data), crc)
    number = int.from_bytes(data, "little") ^ crc
    for taken, mask, shifts in _plans.get(bits) or _plan(bits):
        low = number & mask
        number >>= taken
        for shift in shifts:
            number ^= low << shift
        bits -= taken
    return _tail(number, bits // 8, 0)


def _plan(bits: int) -> tuple[tuple[int, int, tuple[int, ...]], ...]:
    """The steps that shorten a number of so many bits: how many of the lowest are taken away, and where they
    are added again.
    """
    steps = []
    remaining = bits
    while remaining > _SHORT_BITS:
        scale = 1
        while _DEGREE * scale * 2 + 8 <= remaining:
            scale *= 2
        taken = min(_STEP * scale, remaining - _DEGREE * scale) & ~7
        shifts = tuple((_DEGREE - term) * scale - taken for term in _TERMS)
        steps.append((taken, (1 << taken) - 1, shifts))
        remaining -= taken
    if len(_plans) >= _PLANS_KEPT:
        _plans.clear()
    _plans[bits] = tuple(steps)
    return _plans[bits]


def _tail(number: int, size: int, crc: int) -> int:
    if not _table:
        for byte in range(256):
            entry = byte
            for _ in range(8):
                entry = entry >> 1 ^ (_POLYNOMIAL if entry & 1 else 0)
            _table.append(entry)
    table = _table
    for byte in number.to_bytes(size, "little"):
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc

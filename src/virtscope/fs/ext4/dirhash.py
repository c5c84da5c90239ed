"""The hashes of names that order a hash tree: `directory_hash`.

The tree itself is not needed for reading, but the names that the kernel shows of encrypted files begin with
their hash. Half MD4, TEA and the first, "legacy", one; each takes bytes as signed or as unsigned, as the
machine's C compiler does.
"""

from __future__ import annotations

LEGACY, HALF_MD4, TEA = 0, 1, 2

_MASK = 0xFFFFFFFF
_DEFAULT_SEED = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
_LAST_HASH = 0xFFFFFFFE

# For each round of half MD4: what is added, the order of the words, the shifts.
_ROUNDS = (
    (0, (0, 1, 2, 3, 4, 5, 6, 7), (3, 7, 11, 19)),
    (0x5A827999, (1, 3, 5, 7, 0, 2, 4, 6), (3, 5, 9, 13)),
    (0x6ED9EBA1, (3, 7, 2, 6, 1, 5, 0, 4), (3, 9, 11, 15)),
)


def directory_hash(
    name: bytes, version: int, seed: tuple[int, ...], unsigned: bool
) -> tuple[int, int] | None:
    """The hash and the minor hash of a name; None if the version is not known.

    Args:
        name: as on disk.
        version: LEGACY, HALF_MD4 or TEA.
        seed: s_hash_seed; all zeros for the default one.
        unsigned: whether bytes are unsigned.
    """
    state = list(seed) if any(seed) else list(_DEFAULT_SEED)
    minor = 0
    if version == LEGACY:
        found = _legacy(name, unsigned)
    elif version == HALF_MD4:
        for start in range(0, len(name), 32):
            _half_md4(state, _words(name[start:], 8, unsigned))
        found, minor = state[1], state[2]
    elif version == TEA:
        for start in range(0, len(name), 16):
            _tea(state, _words(name[start:], 4, unsigned))
        found, minor = state[0], state[1]
    else:
        return None
    found &= ~1
    return (_LAST_HASH - 2 if found == _LAST_HASH else found), minor


def _values(name: bytes, unsigned: bool) -> list[int]:
    return list(name) if unsigned else [byte - 256 if byte & 0x80 else byte for byte in name]


def _legacy(name: bytes, unsigned: bool) -> int:
    first, second = 0x12A3FE2D, 0x37ABE8F9
    for value in _values(name, unsigned):
        found = (second + (first ^ (value * 7152373 & _MASK))) & _MASK
        if found & 0x80000000:
            found = (found - 0x7FFFFFFF) & _MASK
        second, first = first, found
    return first << 1 & _MASK


def _words(rest: bytes, count: int, unsigned: bool) -> list[int]:
    """The next words of a name, filled up with its length."""
    length = len(rest) & 0xFF
    filling = length * 0x01010101
    words = []
    word = filling
    values = _values(rest[: count * 4], unsigned)
    for index, value in enumerate(values):
        if index % 4 == 0:
            word = filling
        word = (value + (word << 8)) & _MASK
        if index % 4 == 3:
            words.append(word)
            word = filling
    if len(words) < count:
        words.append(word)
    return words + [filling] * (count - len(words))


def _half_md4(state: list[int], words: list[int]) -> None:
    a, b, c, d = state
    for number, (constant, order, shifts) in enumerate(_ROUNDS):
        for index, word in enumerate(order):
            if number == 0:
                mixed = d ^ (b & (c ^ d))
            elif number == 1:
                mixed = (b & c) + ((b ^ c) & d)
            else:
                mixed = b ^ c ^ d
            added = (a + mixed + words[word] + constant) & _MASK
            shift = shifts[index % 4]
            turned = (added << shift | added >> 32 - shift) & _MASK
            a, b, c, d = d, turned, b, c
    state[:] = [(old + new) & _MASK for old, new in zip(state, (a, b, c, d), strict=True)]


def _tea(state: list[int], words: list[int]) -> None:
    first, second = state[0], state[1]
    a, b, c, d = words
    total = 0
    for _ in range(16):
        total = (total + 0x9E3779B9) & _MASK
        first = (first + ((second << 4) + a ^ second + total ^ (second >> 5) + b)) & _MASK
        second = (second + ((first << 4) + c ^ first + total ^ (first >> 5) + d)) & _MASK
    state[0] = (state[0] + first) & _MASK
    state[1] = (state[1] + second) & _MASK

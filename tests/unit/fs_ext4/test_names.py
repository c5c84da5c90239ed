"""Hashes of names, names without a key, names without case."""

from __future__ import annotations

import base64
import hashlib

import pytest

from virtscope.fs.ext4.casefold import folded
from virtscope.fs.ext4.dirhash import HALF_MD4, LEGACY, TEA, directory_hash
from virtscope.fs.ext4.nokey import no_key_name

_NO_SEED = (0, 0, 0, 0)


# What debugfs 1.47 says: dx_hash -h VERSION NAME.
@pytest.mark.parametrize(
    ("version", "name", "expected"),
    [
        (LEGACY, b"hello", (0x32252546, 0)),
        (LEGACY, b"a", (0xE74B53E2, 0)),
        (LEGACY, b"y" * 32, (0x71586034, 0)),
        (HALF_MD4, b"a", (0xD5FA7D7A, 0xACB48187)),
        (HALF_MD4, b"hello", (0x1746DA32, 0x420013B5)),
        (HALF_MD4, b"x" * 31, (0x415798C2, 0xE25911D8)),
        (HALF_MD4, b"z" * 33, (0xB8A27F84, 0x11EC56CF)),
        (HALF_MD4, b"q" * 255, (0x72D6472E, 0x6472C993)),
        (TEA, b"a", (0x6D0EA4C0, 0xC18922DF)),
        (TEA, b"hello", (0x6F5BB1A8, 0x231917C2)),
        (TEA, b"x" * 31, (0x85384AA4, 0x3BD016F2)),
        (TEA, b"z" * 33, (0x54D31C78, 0x5C5B1BA2)),
        (TEA, b"q" * 255, (0x1EBE5128, 0x720DCB7A)),
    ],
)
def test_hashes(version: int, name: bytes, expected: tuple[int, int]) -> None:
    assert directory_hash(name, version, _NO_SEED, False) == expected
    assert directory_hash(name, version, _NO_SEED, True) == expected


def test_high_bytes_are_signed_or_not() -> None:
    assert directory_hash(b"\xf6", HALF_MD4, _NO_SEED, False) != directory_hash(
        b"\xf6", HALF_MD4, _NO_SEED, True
    )


def test_an_unknown_hash_is_not_guessed() -> None:
    assert directory_hash(b"name", 77, _NO_SEED, False) is None


def test_long_names_without_a_key_end_with_a_hash_of_their_rest() -> None:
    shown = no_key_name(bytes(200), (1, 2))
    assert len(shown) == 252
    assert base64.urlsafe_b64decode(shown)[-32:] == hashlib.sha256(bytes(51)).digest()


@pytest.mark.parametrize(("one", "other"), [("Straße", "STRASSE"), ("é", "e\u0301"), ("ΌΣΟΣ", "όσος")])
def test_names_that_are_the_same(one: str, other: str) -> None:
    assert folded(one.encode()) == folded(other.encode())


def test_names_that_are_not_the_same() -> None:
    assert folded(b"a") != folded(b"b")
    assert folded(b"\xff") != folded(b"\xfe")

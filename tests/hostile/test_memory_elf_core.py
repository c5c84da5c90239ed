"""Damaged and malicious ELF cores: our own error or memory that can be read, never anything else."""

from __future__ import annotations

import struct
import tempfile
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.memory.elf_core import ElfCore
from virtscope.errors import FormatError
from virtscope.memory import open_memory

PAGE = 4096
GOOD = ElfCore([(0, b"a" * PAGE), (1 << 32, b"b" * PAGE)], cpus=[(1 << 31, 0x1000)] * 2).build()
HEADERS = len(GOOD) - 2 * PAGE
EXTREMES = (0, 1, 0xFFFF, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1)


def look(content: bytes) -> None:
    """Use everything a reader of dumps uses."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        with suppress(FormatError), open_memory(file.name) as memory:
            memory.page_roots()
            for segment in memory.populated():
                size = min(segment.size, PAGE)
                assert len(memory.read(segment.start, size)) == size


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, HEADERS - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_flipped_bytes(changes: list[tuple[int, int]]) -> None:
    content = bytearray(GOOD)
    for at, value in changes:
        content[at] = value
    look(bytes(content))


@pytest.mark.parametrize("value", EXTREMES)
def test_extreme_fields(value: int) -> None:
    for at in range(0, HEADERS - 8, 4):
        content = bytearray(GOOD)
        struct.pack_into("<Q", content, at, value)
        look(bytes(content))


def test_every_truncation() -> None:
    for size in [*range(HEADERS + 8), *range(HEADERS + 8, len(GOOD), 509)]:
        look(GOOD[:size])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2 * PAGE))
def test_noise_behind_the_magic(noise: bytes) -> None:
    look(b"\x7fELF\x02\x01" + noise)


def test_overlapping_notes_without_end_are_bounded() -> None:
    # Every program header names the same megabyte of empty notes.
    count, notes = 60_000, 1 << 20
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 4, 62, 1, 0, 64, 0, 0, 64, 56, count, 64, 0, 0
    )
    entry = struct.pack("<IIQQQQQQ", 4, 0, 64 + 56 * count, 0, 0, notes, notes, 0)
    with tempfile.NamedTemporaryFile() as file:
        file.write(header + entry * count + bytes(notes))
        file.flush()
        with pytest.raises(FormatError) as caught:
            open_memory(file.name)
        assert caught.value.field == "p_filesz"

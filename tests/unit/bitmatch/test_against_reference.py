"""Compiled patterns and a slow bit-by-bit reading say the same about any data."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.unit.bitmatch import reference
from virtscope.bitmatch import Bits, MatchError, Record, bits, fields, pattern


def plain(value: Any) -> Any:
    """A value of a record as the reference has it."""
    if isinstance(value, Record):
        return {name: plain(getattr(value, name)) for name in fields(value)}
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, Bits):
        return list(value)
    if isinstance(value, memoryview):
        return bytes(value)
    return value


DATA = st.binary(min_size=0, max_size=120)


@settings(max_examples=150, deadline=None)
@given(reference.shapes(), DATA, st.integers(0, 3))
def test_parse_agrees(shape: reference.Shape, data: bytes, offset: int) -> None:
    check_parse(shape, data, offset)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(reference.shapes(), DATA, st.integers(0, 3))
def test_parse_agrees_in_many_cases(shape: reference.Shape, data: bytes, offset: int) -> None:
    check_parse(shape, data, offset)


def check_parse(shape: reference.Shape, data: bytes, offset: int) -> None:
    made = pattern("generated", shape.text(), names={})
    try:
        wanted, _ = reference.read(shape, data, offset * 8, len(data) * 8)
    except reference.Refused:
        assert made.match(data, offset) is None
        with pytest.raises(MatchError, match="generated"):
            made.parse(data, offset)
        return
    found = made.parse(data, offset)
    assert plain(found) == wanted
    assert plain(made.match(memoryview(data), offset)) == wanted
    assert plain(made.parse(bits(data, offset))) == wanted


@settings(max_examples=120, deadline=None)
@given(reference.shapes(), DATA, st.integers(0, 15), st.integers(0, 9))
def test_parse_at_any_bit_agrees(shape: reference.Shape, data: bytes, start: int, cut: int) -> None:
    assume(not any(inner.lsb for inner in every(shape)))
    assume(not any(part.kind == "view" for inner in every(shape) for part in inner.parts))
    whole = bits(data)
    first = min(start, len(whole))
    last = max(len(whole) - cut, first)
    piece = whole[first:last]
    made = pattern("generated", shape.text(), names={})
    try:
        wanted, _ = reference.read(shape, data, first, last)
    except reference.Refused:
        assert made.match(piece) is None
        return
    assert plain(made.parse(piece)) == wanted


@settings(max_examples=120, deadline=None)
@given(reference.shapes(), DATA)
def test_records_in_a_row_agree(shape: reference.Shape, data: bytes) -> None:
    made = pattern("generated", shape.text(), names={})
    wanted: list[dict[str, Any]] = []
    place, end = 0, len(data) * 8
    refused = False
    while place < end and len(wanted) < 20:
        try:
            values, after = reference.read(shape, data, place, end)
        except reference.Refused:
            refused = True
            break
        if after == place or after % 8:
            return
        wanted.append(values)
        place = after
    found = []
    try:
        for record in made.iter(data):
            found.append(plain(record))
            if len(found) == 20:
                break
    except MatchError:
        assert refused
    assert found == wanted


def every(shape: reference.Shape) -> list[reference.Shape]:
    """A shape and all inside it."""
    return [shape, *(found for inner in shape.patterns() for found in every(inner))]

"""Building bytes from fields, with the same patterns that parse them."""

from __future__ import annotations

import enum
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.bitmatch import reference
from virtscope.bitmatch import (
    Bits,
    BuildError,
    PatternError,
    Record,
    asdict,
    bits,
    field_type,
    fields,
    pattern,
    replace,
)


def with_bits(shape: reference.Shape, values: dict[str, Any]) -> dict[str, Any]:
    """Values in which strings of 0 and 1 have become Bits."""
    found = dict(values)
    for part in shape.parts:
        if part.kind in ("bits", "bits_of"):
            found[part.name] = bits(values[part.name])
        elif part.kind == "group" and part.inner is not None:
            found[part.name] = with_bits(part.inner, values[part.name])
        elif part.kind == "records" and part.inner is not None:
            found[part.name] = [with_bits(part.inner, item) for item in values[part.name]]
    return found


@st.composite
def shapes_and_values(draw: st.DrawFn) -> tuple[reference.Shape, dict[str, Any]]:
    shape = draw(reference.shapes(moves=False))
    return shape, with_bits(shape, draw(reference.values(shape)))


@settings(max_examples=120, deadline=None)
@given(shapes_and_values())
def test_what_is_built_is_parsed_again(case: tuple[reference.Shape, dict[str, Any]]) -> None:
    check_build(case)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(shapes_and_values())
def test_what_is_built_is_parsed_again_in_many_cases(case: tuple[reference.Shape, dict[str, Any]]) -> None:
    check_build(case)


def check_build(case: tuple[reference.Shape, dict[str, Any]]) -> None:
    shape, values = case
    made = pattern("generated", shape.text(), names={})
    record = made(**values)
    built = bytes(record)
    assert built == made.build(**values)
    parsed = made.parse(built)
    assert parsed == record
    assert bytes(parsed) == built
    for name, value in values.items():
        if isinstance(value, int | bytes | Bits):
            assert getattr(parsed, name) == value


@settings(max_examples=100, deadline=None)
@given(reference.shapes(), st.binary(min_size=20, max_size=100))
def test_what_is_parsed_is_built_again(shape: reference.Shape, data: bytes) -> None:
    made = pattern("generated", shape.text(), names={})
    record = made.match(data)
    if record is not None:
        assert made.parse(bytes(record) + bytes(1)) == record


Header = pattern(
    "header",
    """big
    magic   : b"HD"
    version : 8 in (1, 2)
    length  : 16
    flags   : 4
    level   : signed 4 check level != -1
    name    : str(8)
    body    : bytes(length)
    """,
)


def test_constants_and_lengths_need_not_be_given() -> None:
    data = Header.build(version=1, flags=3, level=-8, name="root", body=b"abc")
    assert data == b"HD\x01\x00\x03\x38root\0\0\0\0abc"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 3}, "header: version: 3 is not one of (1, 2)"),
        ({"flags": 16}, "header: flags: 16 does not fit 4 bits (0..15)"),
        ({"level": 8}, "header: level: 8 does not fit 4 bits (-8..7)"),
        ({"level": -1}, "header: level: -1 does not agree with level != -1"),
        ({"name": "far too long"}, "header: name: 'far too long' takes 12 bytes and there are 8"),
        ({"name": "a\0b"}, "header: name: text in a field holds no NUL"),
        ({"name": b"x"}, "header: name: text is needed, not b'x'"),
        ({"flags": None}, "header: flags: is missing"),
        ({"flags": "1"}, "header: flags: an integer is needed, not '1'"),
        ({"magic": b"XX"}, "header: magic: must be b'HD', not b'XX'"),
        ({"length": 4}, "header: body: 4 bytes are needed, not 3"),
        ({"flagz": 4}, "header: flagz: there is no such field (did you mean flags?)"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    good = {"version": 1, "flags": 3, "level": 2, "name": "root", "body": b"abc"}
    with pytest.raises(BuildError) as caught:
        Header.build(good, **changes)
    assert str(caught.value) == message
    assert caught.value.pattern == "header"
    assert caught.value.field == next(iter(changes)) or caught.value.field == "body"


def test_records_are_changed_and_built() -> None:
    record = Header(version=1, flags=3, level=2, name="root", body=b"abc")
    assert Header.build(record, flags=4)[5] >> 4 == 4
    assert replace(record, flags=4) == Header(version=1, flags=4, level=2, name="root", body=b"abc")
    record.flags = 5
    assert bytes(record)[5] >> 4 == 5
    assert list(asdict(record)) == list(fields(Header)) == list(fields(record))
    with pytest.raises(TypeError, match="no field colour"):
        replace(record, colour=1)


def test_blank_fills_the_rest_with_zeros() -> None:
    blank = Header.blank(version=2)
    assert blank.magic == b"HD"
    assert blank.body == b""
    assert bytes(blank) == b"HD\x02" + bytes(11)


class Kind(enum.Enum):
    FILE = 1
    DIRECTORY = 2


Inner = pattern("inner", "little; kind : 8 map Kind; size : 16 map size * 512 back size // 512")
Outer = pattern(
    "outer",
    """little
    count : 8
    items : Inner[count]
    last  : { a : 8; b : 8 if count > 1 }
    end = offset()
    """,
)


def test_nested_records_are_built_from_dictionaries_or_records() -> None:
    items = [{"kind": Kind.FILE, "size": 1024}, Inner(kind=Kind.DIRECTORY, size=512)]
    record = Outer(items=items, last={"a": 1, "b": 2})
    assert record.count == 2
    assert record.end == 9
    assert record.items[0] == Inner(Kind.FILE, 1024)
    assert bytes(record) == bytes([2, 1, 2, 0, 2, 1, 0, 1, 2])
    with pytest.raises(BuildError, match=r"outer: items\[0\].size: 67108864 does not fit 16 bits"):
        Outer(items=[{"kind": Kind.FILE, "size": 1 << 35}], last={"a": 1})
    with pytest.raises(BuildError, match=r"outer: last.b: must be None"):
        Outer(items=[], last={"a": 1, "b": 2})


def test_alternatives_are_tried_in_their_order() -> None:
    choice = pattern("choice", "body : { tag : 8 = 1; n : 8 } | { tag : 8 = 2; n : 16 } | 8", names={})
    assert choice.build(body={"n": 7}) == b"\x01\x07"
    assert choice.build(body={"n": 700}) == b"\x02\x02\xbc"
    assert choice.build(body=9) == b"\x09"


def test_parts_of_fixed_length_are_filled() -> None:
    table = pattern("table", "entries : { n : 8; data : bytes(n) }[...] within 8; end : 8", names={})
    assert table.build(entries=[{"data": b"ab"}], end=255) == b"\x02ab\0\0\0\0\0\xff"
    with pytest.raises(BuildError, match="table: entries: 9 bytes do not fit 8 bytes"):
        table.build(entries=[{"data": b"abcdefgh"}], end=255)
    padded = pattern("padded", "a : 8; align 4; b : 8; skip 2; c : 8; size 16", names={})
    assert padded.build(a=1, b=2, c=3) == bytes([1, 0, 0, 0, 2, 0, 0, 3]) + bytes(8)


def test_lists_that_end_themselves() -> None:
    tags = pattern("tags", "tags : 8[until it == 0]", names={})
    assert tags.build(tags=[3, 2, 0]) == b"\3\2\0"
    with pytest.raises(BuildError, match="only the last element has it == 0"):
        tags.build(tags=[3, 0, 2])
    with pytest.raises(BuildError, match="at least one element"):
        tags.build(tags=[])


def test_unions_write_what_is_given() -> None:
    union = pattern("union", "little; at 4; word : 32; at 4; byte : 8; at 0; first : 32", names={})
    assert union.build(word=0x01020304, first=9) == b"\x09\0\0\0\x04\x03\x02\x01"
    record = union.parse(union.build(word=0x01020304, byte=7, first=9))
    assert (record.word, record.byte) == (0x01020307, 7)
    assert bytes(record) == b"\x09\0\0\0\x07\x03\x02\x01"


@field_type
def pascal(buffer: bytes, offset: int, end: int, unit: int = 1) -> tuple[str, int]:
    """Text behind its length."""
    stop = offset + 1 + buffer[offset] * unit
    return bytes(buffer[offset + 1 : stop]).decode(), stop


@pascal.builder
def _(value: str, unit: int = 1) -> bytes:
    if len(value) % unit:
        raise ValueError(f"its length is no multiple of {unit}")
    return bytes([len(value) // unit]) + value.encode()


def test_field_functions_build() -> None:
    names = {"pascal": pascal}
    made = pattern("made", "first : pascal; second : pascal(2)", names=names)
    data = made.build(first="hello", second="worlds")
    assert data == b"\x05hello\x03worlds"
    assert made.parse(data).second == "worlds"
    with pytest.raises(BuildError, match="made: second: its length is no multiple of 2"):
        made.build(first="", second="world")


def test_text_in_other_encodings() -> None:
    name = pattern(
        "name", 'little; wide : str(8, "utf-16"); c : cstring; big : big str(4, "utf-16")', names={}
    )
    data = name.build(wide="äb", c="x", big="ab")
    assert data == b"\xe4\0b\0\0\0\0\0x\0\0a\0b"
    assert name.parse(data).wide == "äb"


def test_parameters_are_handed_over() -> None:
    entry = pattern("entry", "given wide; little; a : 16 if wide else 8", names={})
    assert entry.build(a=1, wide=True) == b"\1\0"
    assert entry(a=1, wide=False) == entry.parse(b"\1", wide=False)
    with pytest.raises(BuildError, match="entry: wide: this parameter is missing"):
        entry.build(a=1)
    with pytest.raises(TypeError):
        entry.parse(b"\1")


def test_a_map_without_back_cannot_be_built() -> None:
    made = pattern("made", "a : 8 map a * 2", names={})
    assert made.parse(b"\4").a == 8
    with pytest.raises(BuildError, match="made: a: map cannot be undone: say how with back"):
        made.build(a=8)


class Stored(Record):
    """A pattern that pickle finds again."""

    layout = "a : 8; rest_ : rest"


def test_records_are_pickled() -> None:
    record = Stored.parse(b"\1abc")
    copy = pickle.loads(pickle.dumps(record))
    assert copy == record
    assert copy != Stored.parse(b"\2abc")
    with pytest.raises(PatternError) as caught:
        pattern("wrong", "a 8", names={}).compile()
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)

"""What each word of the language means, and what is said when something is wrong."""

from __future__ import annotations

import enum
import io
import linecache
import mmap
import re
import struct
import tempfile
import traceback
from typing import Any

import pytest

from virtscope.bitmatch import (
    Bits,
    MatchError,
    PatternError,
    Record,
    asdict,
    bits,
    field_type,
    function,
    pattern,
)


def parse(text: str, data: Any, **names: Any) -> Any:
    return pattern("p", text, names=names).parse(data)


def values(text: str, data: bytes, **names: Any) -> dict[str, Any]:
    return asdict(parse(text, data, **names))


# -- types --------------------------------------------------------------------------------------------------


def test_integers_of_every_byte_order() -> None:
    data = bytes([0x81, 0x02, 0x03, 0x84])
    assert values("big; a : 16; b : little 16", data) == {"a": 0x8102, "b": 0x8403}
    assert values("little; a : 24; b : signed 8", data) == {"a": 0x030281, "b": -124}
    assert values("a : signed big 32", data) == {"a": struct.unpack(">i", data)[0]}
    assert values("native; a : 32", data) == {"a": struct.unpack("=I", data)[0]}
    assert values("little; a : endian(big) 16; b : endian(little) 16", data) == {"a": 0x8102, "b": 0x8403}


def test_a_computed_byte_order_holds_for_what_follows() -> None:
    text = """
        ei_data : 8 in (1, 2)
        endian big if ei_data == 2 else little
        a : 16; b : signed 24; c : 32[2]
        nested : { d : 16 }
        """
    body = {"a": 0x1234, "b": -2, "c": [1, 2], "nested": {"d": 3}}
    made = pattern("elf", text, names={})
    for ei_data, order in ((1, "little"), (2, "big")):
        data = bytes([ei_data])
        data += (0x1234).to_bytes(2, order) + (-2).to_bytes(3, order, signed=True)  # type: ignore[arg-type]
        data += (1).to_bytes(4, order) + (2).to_bytes(4, order) + (3).to_bytes(2, order)  # type: ignore[arg-type]
        record = made.parse(data)
        assert asdict(record) == {"ei_data": ei_data} | body
        assert bytes(record) == data


def test_a_byte_order_can_be_a_parameter() -> None:
    made = pattern("p", "given order; endian order; a : 16", names={})
    assert made.parse(b"\1\2", order="big").a == 0x0102
    assert made.parse(b"\1\2", order="little").a == 0x0201
    assert made.match(b"\1\2", order="middle") is None


def test_floats() -> None:
    data = struct.pack("<efd", 0.5, -2.0, 1e300)
    assert values("little; a : float(16); b : float(32); c : float(64)", data) == {
        "a": 0.5,
        "b": -2.0,
        "c": 1e300,
    }
    assert (
        parse("_ : 4; a : big float(32); _ : 4", bits("0000") + struct.pack(">f", 1.5) + bits("0000")).a
        == 1.5
    )


def test_data_and_text() -> None:
    assert values('a : bytes(2); b : str(4); c : str(2, "ascii")', b"\0\1ab\0xyz") == {
        "a": b"\0\1",
        "b": "ab",
        "c": "yz",
    }
    assert values("a : str(4, 'utf-16'); b : str(3, 'latin-1')", b"\0a\0bc\xe4\0") == {"a": "ab", "b": "cä"}
    assert values("a : cstring; b : cstring(3); c : 8", b"one\0ab\0\7") == {"a": "one", "b": "ab", "c": 7}
    assert parse("a : str(3)", b"\xff\xfea").a.encode("utf-8", "surrogateescape") == b"\xff\xfea"
    with pytest.raises(MatchError):
        parse("a : cstring(3)", b"abcd\0")


def test_views_and_bits_are_not_copies() -> None:
    data = bytearray(b"\x01\x23\x45\x67")
    record = parse("a : 4; piece : bits(12); v : view(1); r : rest", data)
    data[1] = 0xFF
    data[2] = 0xEE
    data[3] = 0xDD
    assert int(record.piece) == 0x1FF
    assert record.v[0] == 0xEE
    assert bytes(record.r) == b"\xdd"
    assert isinstance(record.v, memoryview)


def test_all_to_the_end() -> None:
    assert values("a : 8; b : bytes", b"\1\2\3") == {"a": 1, "b": b"\2\3"}
    assert values("a : 8; b : str", b"\1xy") == {"a": 1, "b": "xy"}
    assert values("a : 8; b : 16[...]", b"\1\0\2\0\3\x09") == {"a": 1, "b": [2, 3]}
    assert values("a : 8; b : 16[...]; c : bytes", b"\1\0\2\0\3\x09")["c"] == b"\x09"


def test_arrays() -> None:
    assert values("n : 8; a : 8[n]; b : signed 16[2]", bytes([2, 7, 8, 255, 255, 0, 1])) == {
        "n": 2,
        "a": [7, 8],
        "b": [-1, 1],
    }
    assert values("a : 1[8]", b"\xa5") == {"a": [1, 0, 1, 0, 0, 1, 0, 1]}
    assert values("a : 8[2][2]", b"\1\2\3\4") == {"a": [[1, 2], [3, 4]]}
    assert values("a : bytes(2)[2]", b"abcd") == {"a": [b"ab", b"cd"]}
    assert values("a : str(2)[2]", b"a\0cd") == {"a": ["a", "cd"]}
    assert values("a : 8[until it == 0]; b : 8", b"\3\2\0\x09") == {"a": [3, 2, 0], "b": 9}
    assert values("n : 8; a : cstring[n]", b"\2ab\0cd\0") == {"n": 2, "a": ["ab", "cd"]}
    assert values("a : float(32)[2]", struct.pack(">2f", 1, 2)) == {"a": [1.0, 2.0]}


def test_large_arrays_of_integers() -> None:
    data = struct.pack("<1024I", *range(1024))
    assert parse("little; a : 32[1024]", data).a == tuple(range(1024))
    assert parse("little; a : 32[...]", data).a == tuple(range(1024))
    assert parse("little; a : signed 32[1024]; b : bytes", data + b"x").b == b"x"


def test_a_piece_of_data_of_its_own() -> None:
    text = "n : 8; items : { t : 8; l : 8; v : bytes(l) }[...] within n; after : 8"
    data = bytes([7, 1, 2, 65, 66, 2, 1, 67, 99])
    record = parse(text, data)
    assert [item.v for item in record.items] == [b"AB", b"C"]
    assert record.after == 99
    # What is inside sees no further: the last item would need the byte behind.
    with pytest.raises(
        MatchError, match=r"items\[1\].v at offset 0x7: expected 2 bytes, got the end of the data"
    ):
        parse(text, bytes([7, 1, 2, 65, 66, 2, 2, 67, 99]))


def test_alternatives_and_conditions() -> None:
    text = """
        kind : 8
        body : { tag : 8 = 1; n : 8 }
             | { tag : 8 = 2; n : 16 }
             | bytes(2)
        tail : 16 if kind else 8
        last : 8 if kind == 3
        """
    assert values(text, bytes([0, 1, 5, 9])) == {
        "kind": 0,
        "body": {"tag": 1, "n": 5},
        "tail": 9,
        "last": None,
    }
    assert values(text, bytes([3, 2, 1, 0, 0, 9, 8])) == {
        "kind": 3,
        "body": {"tag": 2, "n": 256},
        "tail": 9,
        "last": 8,
    }
    assert parse(text, bytes([0, 7, 7, 1])).body == b"\7\7"
    both = "a : { x : 8 = 1 } | { x : 8 = 2 }"
    with pytest.raises(
        MatchError, match=r"a at offset 0x0: expected one of 2 alternatives, got none .*a\.x.*a\.x"
    ):
        parse(both, b"\3")


# -- clauses ------------------------------------------------------------------------------------------------


class Kind(enum.IntEnum):
    FILE = 1
    DIRECTORY = 2


def test_constants_guards_and_checks() -> None:
    made = pattern(
        "p", "m : 16 = MAGIC; a : 8 in (1, 2); b : 8 check a < b; when a + b != 5", names={"MAGIC": 7}
    )
    assert made.match(bytes([0, 7, 1, 2])) is not None
    for data, field, expected, got in [
        (bytes([0, 8, 1, 2]), "m", "7", "8"),
        (bytes([0, 7, 3, 4]), "a", "one of (1, 2)", "3"),
        (bytes([0, 7, 2, 2]), "b", "a < b", "2"),
        (bytes([0, 7, 2, 3]), "", "when a + b != 5", "that it is not so"),
    ]:
        assert made.match(data) is None
        with pytest.raises(MatchError) as caught:
            made.parse(data)
        assert (caught.value.field, caught.value.expected, caught.value.got) == (field, expected, got)


def test_constants_without_names() -> None:
    made = pattern("p", '0xEF53 : 16; b"AB"; _ : 8 = 1; "text"; n : 8', names={})
    data = b"\xef\x53AB\x01text\x07"
    assert asdict(made.parse(data)) == {"n": 7}
    assert made.build(n=7) == data
    assert made.match(b"\xef\x54AB\x01text\x07") is None
    with pytest.raises(MatchError, match="p: constant at offset 0x2: expected b'AB', got b'AC'"):
        made.parse(b"\xef\x53AC\x01text\x07")


def test_map_makes_values_of_what_was_read() -> None:
    text = "kind : 8 map Kind; shift : 8 map 1024 << shift; flag : 8 map bool"
    made = pattern("p", text, names={"Kind": Kind})
    record = made.parse(bytes([2, 3, 1]))
    assert (record.kind, record.shift, record.flag) == (Kind.DIRECTORY, 8192, True)
    with pytest.raises(MatchError, match=r"p: kind at offset 0x0: .*9 is not a valid Kind"):
        made.parse(bytes([9, 0, 0]))
    assert parse("n : 8 map TABLE[n]", b"\1", TABLE=("zero", "one")).n == "one"


def test_fields_with_other_names() -> None:
    record = parse("class : 8 as class_; size : 8; at : 8; when : 8; n = size + at", b"\1\2\3\4")
    assert asdict(record) == {"class_": 1, "size": 2, "at": 3, "when": 4, "n": 5}


# -- places -------------------------------------------------------------------------------------------------


def test_places() -> None:
    text = """
        a : 8
        at 4;       b : 8
        skip 1;     c : 8
        align 4;    d : 8
        at bit 12;  e : 4
        f : 8 at 2
        g : 4 at bit 4
        here = bit_offset()
        size 16
        """
    made = pattern("p", text, names={})
    assert asdict(made.parse(bytes(range(16)))) == {
        "a": 0,
        "b": 4,
        "c": 6,
        "d": 8,
        "e": 1,
        "f": 2,
        "g": 0,
        "here": 8,
    }
    assert made.size_bytes == 16
    assert made.match(bytes(15)) is None


def test_computed_places() -> None:
    text = """little
        n : 8
        size n * 8
        skip n; a : 8; align n + 1; b : 8; at n * 4; c : 8
        here = offset(); left = remaining()
        """
    record = parse(text, bytes([2, *range(1, 20)]))
    assert asdict(record) == {"n": 2, "a": 3, "b": 6, "c": 8, "here": 9, "left": 7}
    made = pattern("p", text, names={})
    assert [found.n for found in made.iter(bytes([2, *range(15), 3, *range(23)]))] == [2, 3]
    assert made.match(bytes([2, *range(1, 15)])) is None


def test_offsets_count_from_the_start_of_the_pattern() -> None:
    inner = pattern("inner", "a : 8; at 2; b : 8; here = offset()", names={})
    record = parse("_ : 8; x : Inner; y : Inner[2]; z = offset()", bytes(range(20)), Inner=inner)
    assert [item.b for item in (record.x, *record.y)] == [3, 6, 9]
    assert (record.y[1].here, record.z) == (3, 10)


def test_saved_places_are_used_later() -> None:
    text = "n : 8; table_at = offset() + 1; at table_at; entries : 8[n]"
    assert parse(text, bytes([2, 9, 5, 6])).entries == (5, 6)


# -- named patterns -----------------------------------------------------------------------------------------

Point = pattern("point", "little; x : 16; y : 16")
Points = pattern("points", "n : 8; first : Point; others : Point[n - 1]")
Tree = pattern("tree", "value : 8; n : 8; children : Tree[n]")
Spliced = pattern("spliced", "big; id : 16; *Point; z : 16")


def test_patterns_are_embedded() -> None:
    record = Points.parse(bytes([2, 1, 0, 2, 0, 3, 0, 4, 0]))
    assert record.first.x == 1
    assert record.others == (Point(x=3, y=4),)
    assert isinstance(record.first, Point)
    assert not isinstance(record.first, Points)
    assert asdict(Spliced.parse(bytes([0, 1, 2, 0, 3, 0, 0, 4]))) == {"id": 1, "x": 2, "y": 3, "z": 4}


def test_patterns_contain_themselves() -> None:
    data = bytes([1, 2, 2, 0, 3, 1, 4, 0])
    tree = Tree.parse(data)
    assert tree.children[1].children[0].value == 4
    assert bytes(tree) == data
    assert Tree.source().count("def") == 1


@field_type
def nibbles(buffer: bytes, offset: int, end: int) -> tuple[str, int]:
    """A byte as two digits."""
    return f"{buffer[offset]:02x}", offset + 1


@nibbles.builder
def _(value: str) -> bytes:
    return bytes([int(value, 16)])


def test_every_pattern_finds_its_own_names() -> None:
    leaf = pattern(
        "leaf",
        "a : 8 = LIMIT; kind : 8 map Colour; d : digits",
        names={
            "LIMIT": 7,
            "Colour": Kind,
            "digits": nibbles,
        },
    )
    middle = pattern("middle", "leaf : Leaf; group : { inner : Leaf }; pair : Leaf[2]", names={"Leaf": leaf})
    outer = pattern(
        "outer", "one : Middle; *Other; when one.leaf.a == 7", names={"Middle": middle, "Other": middle}
    )
    data = bytes([7, 1, 0x42]) * 8
    record = outer.parse(data)
    assert record.one.group.inner.kind is Kind.FILE
    assert record.pair[1].d == "42"
    assert bytes(record) == data
    assert outer.match(bytes([7, 3, 0x42]) * 8) is None
    assert pattern("b", "*Leaf", names={"Leaf": leaf}).blank(kind=Kind.FILE, d="00").a == 7


def test_self_is_the_pattern_itself() -> None:
    made = pattern("made", "n : 8; body : { inner : Self if n else 8 }", names={})
    assert made.parse(b"\1\0\5").body.inner.body.inner == 5


def test_groups_see_the_fields_around() -> None:
    record = parse("n : 8; body : { a : 8[n]; m : 8; deeper : { b : 8[n + m] } }", bytes([1, 9, 1, 7, 8]))
    assert record.body.deeper.b == (7, 8)
    record = parse("n : 8; bodies : { m : 8; a : 8[n] }[2]", bytes([1, 5, 6, 7, 8]))
    assert [body.a for body in record.bodies] == [(6,), (8,)]


def test_parameters() -> None:
    inode = pattern(
        "inode", "given version, size; a : 8; crc : 8 if version >= 3; rest_ : bytes(size)", names={}
    )
    text = "v : 8; one : Inode(v, 1); many : Inode(size=2, version=v)[2]"
    record = parse(text, bytes([3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]), Inode=inode)
    assert (record.one.crc, record.one.rest_, record.many[1].rest_) == (2, b"\3", b"\x0a\x0b")
    with pytest.raises(PatternError, match="Inode must be given size"):
        parse("one : Inode(3)", b"", Inode=inode)


def test_class_patterns_have_methods_and_are_inherited() -> None:
    class Run(Record):
        """A run of blocks."""

        layout = "start : 16; length : 16"
        start: int

        @property
        def end(self) -> int:
            return self.start + int(self.length)

    class Longer(Run):
        """A run with a method more."""

        def double(self) -> int:
            return self.end * 2

    run = Run.parse(b"\0\1\0\2")
    assert run.end == 3
    longer = Longer.parse(b"\0\1\0\2")
    assert longer.double() == 6
    assert isinstance(longer, Run)
    assert type(longer).__name__ == "Longer"
    assert not hasattr(run, "__dict__")


@function
def double(value: int) -> int:
    return value * 2


def not_marked(value: int) -> int:
    return value


@field_type
def varint(buffer: bytes, offset: int, end: int) -> tuple[int, int]:
    """A little-endian number of 7 bits in each byte."""
    value = shift = 0
    while offset < end:
        value |= (buffer[offset] & 127) << shift
        shift += 7
        offset += 1
        if buffer[offset - 1] < 128:
            return value, offset
    raise ValueError("a number without an end")


def test_functions_of_users() -> None:
    made = pattern("p", "n : varint; a : 8[double(n)]; m : varint[n]; c : 8")
    record = made.parse(bytes([1, 5, 6, 0x81, 1, 3]))
    assert (record.a, record.m, record.c) == ((5, 6), (129,), 3)
    with pytest.raises(MatchError, match=r"p: n at offset 0x0: .*a number without an end"):
        made.parse(b"\xff\xff")
    with pytest.raises(PatternError, match="cannot be called from a pattern"):
        pattern("p", "n = not_marked(1)").compile()
    assert parse("n = not_marked(1)", b"", not_marked=not_marked).n == 1


def test_a_field_function_cannot_leave_the_data() -> None:
    far = field_type(lambda buffer, offset, end: (0, end + 1))
    back = field_type(lambda buffer, offset, end: (0, offset - 1))
    for kind in (far, back):
        made = pattern("p", "a : 8; n : kind", names={"kind": kind})
        assert made.match(bytes(4)) is None


# -- match statements ---------------------------------------------------------------------------------------

Gif = pattern("gif", 'little; "GIF"; version : str(3) in ("87a", "89a"); width : 16; height : 16')
Png = pattern("png", 'big; b"\\x89PNG\\r\\n\\x1a\\n"; skip 8; width : 32; height : 32')


class Any8(Record):
    """Anything of at least a byte."""

    layout = "first : 8; others : rest"
    first: int
    others: Bits


def describe(data: object) -> str:
    match bits(data):
        case Gif(version="87a"):
            return "an old GIF"
        case Gif(width=width, height=height) | Png(width=width, height=height):
            return f"{width} x {height}"
        case Any8(0, others) if len(others) == 8:
            return f"0 and {bytes(others)!r}"
        case Any8() as found:
            return f"begins with {found.first}"
        case _:
            return "nothing"


def test_match_statements() -> None:
    assert describe(b"GIF87a\1\0\2\0") == "an old GIF"
    assert describe(b"GIF89a\1\0\2\0") == "1 x 2"
    assert describe(b"\x89PNG\r\n\x1a\n" + bytes(8) + struct.pack(">II", 30, 40)) == "30 x 40"
    assert describe(b"\0x") == "0 and b'x'"
    assert describe(b"xyz") == "begins with 120"
    assert describe(b"") == "nothing"


def test_match_statements_over_fields_and_records() -> None:
    packet = parse("kind : 8; payload : rest", b"\1GIF89a\1\0\2\0")
    match packet.payload:
        case Gif(width=1):
            pass
        case _:
            raise AssertionError
    match Gif.parse(b"GIF89a\1\0\2\0"):
        case Png():
            raise AssertionError
        case Gif(height=2):
            pass
        case _:
            raise AssertionError


def test_the_order_of_cases_does_not_leak() -> None:
    subject = bits(b"\5abc")
    assert not isinstance(subject, Gif)
    with pytest.raises(AttributeError):
        _ = subject.width
    assert isinstance(subject, Any8)
    assert subject.first == 5


# -- buffers ------------------------------------------------------------------------------------------------


class CountingFile(io.BytesIO):
    total = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.total += len(data)
        return data


def test_every_kind_of_buffer() -> None:
    data = b"\0" * 5 + b"GIF89a\1\0\2\0"
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0)
        for buffer in (data, bytearray(data), memoryview(data), mapped, io.BytesIO(data), file):
            assert Gif.parse(buffer, 5).width == 1
            assert Gif.match(buffer, 4) is None
            if buffer is mapped or not hasattr(buffer, "read"):
                assert [record.height for record in Gif.iter(buffer, 1, 5)] == [2]
            with pytest.raises(MatchError) as caught:
                Gif.parse(buffer, 6)
            assert caught.value.offset == 6
    wide = memoryview(struct.pack("<4H", 1, 2, 3, 4)).cast("H")
    assert parse("little; a : 16; b : bytes", wide).b == struct.pack("<3H", 2, 3, 4)
    with pytest.raises(TypeError):
        Gif.parse(3)


def test_of_a_file_only_what_is_needed_is_read() -> None:
    file = CountingFile(b"GIF89a\1\0\2\0" + bytes(10_000_000))
    assert Gif.parse(file).width == 1
    assert file.total < 1000
    longer = pattern("longer", "n : 32; data : bytes(n); tail : 8", names={})
    file = CountingFile(struct.pack(">I", 1_000_000) + bytes(1_000_000) + b"\7" + bytes(9_000_000))
    assert longer.parse(file).tail == 7
    assert file.total < 8_000_000
    file = CountingFile(b"\0\0\0\1" + bytes(10_000_000))
    assert longer.parse(bits(file, 0)).data == b"\0"
    assert file.total < 100_000


def test_records_one_after_the_other() -> None:
    data = struct.pack("<6H", *range(6))
    assert [(point.x, point.y) for point in Point.iter(data)] == [(0, 1), (2, 3), (4, 5)]
    assert list(Point.tuples(data, 2, 4)) == [(2, 3), (4, 5)]
    assert [point.x for point in Point.iter(data[:-1])] == [0, 2]
    assert list(pattern("one", "a : 8", names={}).tuples(b"\1\2")) == [(1,), (2,)]
    with pytest.raises(MatchError, match="expected 4 records, got 3"):
        Point.iter(data, 4)
    checked = pattern("checked", "a : 8 check a < 3", names={})
    found = checked.iter(b"\1\2\3\1")
    assert next(found).a == 1
    assert next(found).a == 2
    with pytest.raises(MatchError, match="checked: a at offset 0x2: expected a < 3, got 3"):
        next(found)
    assert list(checked.tuples(b"\1\2")) == [(1,), (2,)]
    mixed = pattern("mixed", "a : 4; b : 4; c : str(2); d : little 16", names={})
    assert list(mixed.tuples(b"\x12ab\1\0\x34c\0\2\0")) == [(1, 2, "ab", 1), (3, 4, "c", 2)]


# -- what is wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "column", "problem"),
    [
        ("a 32", 1, 3, "expected ':' and a type after 'a'"),
        ("a : 32\n  b : bites(4)", 2, 7, "unknown type 'bites' (did you mean bits?)"),
        ("a : 65", 1, 5, "an integer has 1 to 64 bits; longer data is bytes(n)"),
        ("a : 0", 1, 5, "an integer has 1 to 64 bits; longer data is bytes(n)"),
        ("a : 8\na : 8", 2, 1, "a is there twice"),
        ("n : 8\nb : bytes(m)", 2, 11, "'m' is neither an earlier field nor a constant"),
        ("count : 8; b : bytes(cuont)", 1, 22, "did you mean count?"),
        ("b : bytes(n); n : 8", 1, 11, "'n' is neither an earlier field nor a constant"),
        ("a : 8 = 256", 1, 9, "256 does not fit 8 bits"),
        ("a : bytes(4) = b'abc'", 1, 16, "this constant has 3 bytes and the field 4"),
        ("little; a : 4; b : 4", 1, 13, "say `lsb` after the byte order"),
        ("a : 8 == 3", 1, 7, "write == to compare"),
        ("a : 8 check", 1, 12, "expected an expression after 'check'"),
        ("a : 8 check a <", 1, 16, "not an expression"),
        ("class : 8", 1, 1, "class is a word of Python: say class : ... as class_"),
        ("__class__ : 8", 1, 1, "is a name of Python's own"),
        ("a : { b : 8", 1, 12, "a brace was not closed"),
        ("a : 8 }", 1, 7, "a closing brace without an opening one"),
        ("a : 8[2", 1, 8, "expected ']' after the count"),
        ("a : 8 $", 1, 7, "unexpected character '$'"),
        ("a : 8 check a ** 2", 1, 13, "** has no place in a pattern"),
        ("a : 8 check a / 2", 1, 13, "write // to divide"),
        ("a : 8 check (lambda: 1)()", 1, 13, "only functions called by their name"),
        ("a : 8 check [x for x in (1,)]", 1, 13, "this kind of expression has no place"),
        ("a : 8 check a.__class__", 1, 13, "__class__ cannot be looked at"),
        ("a : 8 check open('x')", 1, 13, "there is no function 'open' here"),
        ("a : 8 check f'{a}'", 1, 13, "this kind of expression has no place"),
        ("a : str(8, 'klingon')", 1, 12, "unknown encoding 'klingon'"),
        ("size 4; a : 64", 1, 1, "the fields take 8 bytes and the pattern 4"),
        ("0xEF53", 1, 1, "a constant needs a size, as in 0xEF53 : 16"),
        ("little lsb; a : 3; b : 8; c : big 16", 1, 31, "several partial bytes"),
        ("msb; a : 4; lsb; little; b : 4", 1, 30, "the bit order changes where no byte begins"),
        ("x : 8 at 0 - 1", 1, 10, "a place or a size that cannot be"),
        ("a : bytes(1 << 40)", 1, 11, "a size that cannot be"),
        ("_ : 8 map _ + 1", 1, 1, "a field without a name has nothing to map"),
        ("signed bytes(4)", 1, 8, "expected ':' and a type"),
        ("a : signed bytes(4)", 1, 5, "only integers are signed"),
        ("a : float(8)", 1, 11, "a float has 16, 32 or 64 bits"),
        ("*Missing", 1, 1, "there is no pattern 'Missing' here"),
    ],
)
def test_errors_point_at_the_place(text: str, line: int, column: int, problem: str) -> None:
    with pytest.raises(PatternError) as caught:
        pattern("wrong", text, names={}).compile()
    error = caught.value
    assert problem in str(error)
    if problem.startswith("the fields take"):
        return
    assert (error.line, error.column) == (line, column)
    shown = str(error).split("\n")
    assert shown[0].startswith(f"wrong, line {line}, column {column}: ")
    assert shown[1] == "    " + text.split("\n")[line - 1]
    assert shown[2] == "    " + " " * (column - 1) + "^"


def test_a_failed_match_names_the_field_by_its_path() -> None:
    text = "n : 8; groups : { items : { a : 8 check a != 9; b : bytes(2) }[2] }[n]"
    with pytest.raises(MatchError) as caught:
        parse(text, bytes([2, 1, 0, 0, 2, 0, 0, 3, 0, 0, 9, 0, 0]))
    assert caught.value.field == "groups[1].items[1].a"
    assert caught.value.offset == 10
    with pytest.raises(MatchError) as caught:
        parse(text, bytes([2, 1, 0, 0, 2, 0, 0, 3, 0, 0, 4, 0]))
    assert caught.value.field == "groups[1].items[1].b"
    assert str(caught.value).endswith("expected 2 bytes, got the end of the data after 1 byte")


def test_a_failed_match_of_bits_names_the_bit() -> None:
    with pytest.raises(MatchError, match="p: b at offset 0x0 bit 4: expected 3, got 4"):
        parse("a : 4; b : 4 = 3", b"\x14")


def test_tracebacks_show_the_generated_lines() -> None:
    @function
    def explode(value: int) -> int:
        raise KeyboardInterrupt

    made = pattern("p", "a : 8; b = explode(a)", names={"explode": explode})
    with pytest.raises(KeyboardInterrupt) as caught:
        made.parse(b"\1")
    shown = "".join(traceback.format_exception(caught.value))
    assert re.search(r"<bitmatch p parse .*>", shown)
    assert "r.b = _explode" in shown
    assert any(name.startswith("<bitmatch p parse") for name in linecache.cache)


def test_names_of_the_module_are_not_reached_by_strangers() -> None:
    with pytest.raises(PatternError):
        pattern("p", "a : Point", names={}).compile()
    with pytest.raises(PatternError):
        pattern("p", "a : 8 check a == struct").compile()


def test_bits_are_values() -> None:
    one = bits(b"\x12\x34")
    assert len(one) == 16
    assert (one[3], one[-1]) == (1, 0)
    assert int(one[4:12]) == 0x23
    assert bytes(one[4:12]) == b"\x23"
    assert bytes(one[4:]) == b"\x23\x40"
    assert one[4:12] == bits("00100011") == b"\x23"
    assert one[4:8] != one[8:12]
    assert hash(one[4:12]) == hash(bits(b"\x23")) == hash(b"\x23")
    assert one[4:8] + one[8:12] == b"\x23"
    assert list(bits("0101")) == [0, 1, 0, 1]
    assert repr(bits("0101")) == "bits('0101')"
    assert repr(bits(bytes(100))).startswith("<800 bits: 00 00")
    assert isinstance(one[2:3], Bits)
    for wrong in ("012", 5):
        with pytest.raises((ValueError, TypeError)):
            bits(wrong)
    with pytest.raises(IndexError):
        one[16]
    with pytest.raises(ValueError, match="step"):
        one[::2]

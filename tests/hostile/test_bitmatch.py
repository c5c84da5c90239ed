"""Data and texts that want to hurt: each ends soon, in a result or in an error of bitmatch."""

from __future__ import annotations

import ast
import builtins
import random
import resource
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtscope.bitmatch import (
    BitmatchError,
    DeclarationError,
    MatchError,
    PatternError,
    Record,
    bits,
    pattern,
)
from virtscope.bitmatch.btf import MAGIC, Btf
from virtscope.bitmatch.c_header import import_c
from virtscope.bitmatch.declarations import Layout, Member, Number, import_layout

HUGE = (1 << 64) - 1


@contextmanager
def bounded(seconds: float = 5.0, mebibytes: int = 300) -> Iterator[None]:
    """Fail if what is inside takes absurdly long or much memory; the limits are far from what is normal."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    yield
    assert time.process_time() - started < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < mebibytes * 1024


def refuses(text: str, data: bytes, **names: Any) -> MatchError:
    made = pattern("p", text, names=names)
    with bounded():
        assert made.match(data) is None
        assert made.match(bits(data)) is None
        with pytest.raises(MatchError) as caught:
            made.parse(data)
    assert len(str(caught.value)) < 1000
    return caught.value


@pytest.mark.parametrize(
    "kind",
    ["bytes(n)", "view(n)", "bits(n)", "str(n)", "8[n]", "1[n]", "float(64)[n]", "{ a : 8; b : 16 }[n]"],
)
@pytest.mark.parametrize("value", [HUGE, 1 << 32, 1 << 31, 1000])
def test_huge_lengths(kind: str, value: int) -> None:
    data = struct.pack(">Q", value) + bytes(20)
    refuses(f"n : 64; data : {kind}", data)
    refuses(f"n : 64; x : 4; data : {kind.replace('n', 'n * 4096 * 4096')}", data)
    refuses(f"n : 64; data : (8 | 16) within n; more : {kind}", data)


@pytest.mark.parametrize(
    "text",
    [
        "n : signed 64; data : bytes(n)",
        "n : signed 64; data : bits(n)",
        "n : signed 64; data : view(n)",
        "n : signed 64; data : str(n)",
        "n : signed 64; data : cstring(n - (1 << 63))",
        "n : signed 64; data : 8[n]",
        "n : signed 64; data : 3[n]",
        "n : signed 64; data : { a : 8 }[n]",
        "n : signed 64; skip n; data : 8",
        "n : signed 64; at n; data : 8",
        "n : signed 64; at bit n; data : 8",
        "n : signed 64; data : 8 at n",
        "n : signed 64; align n; data : 8",
        "n : signed 64; size n; data : 8",
        "n : signed 64; data : rest within n",
        "n : signed 64; data : int(n)",
        "n : signed 64; x : 3; data : bytes(n)",
        "n : signed 64; x : 3; skip n; data : 8",
    ],
)
@pytest.mark.parametrize("value", [-1, -8, -(1 << 63), (1 << 63) - 1])
def test_lengths_and_places_that_cannot_be(text: str, value: int) -> None:
    refuses(text, struct.pack(">q", value) + bytes(range(1, 30)))


def test_zero_and_division() -> None:
    refuses("n : 8; m = 10 // n", b"\0")
    refuses("n : 8; m = 10 % n", b"\0")
    refuses("n : 8; align n; m : 8", b"\0\0")
    refuses("n : 8; m = TABLE[n]", b"\5", TABLE=(1, 2))
    refuses("n : 8; a : 8[2]; m = a[n]", b"\5\0\0")


def test_numbers_do_not_explode() -> None:
    error = refuses("n : 64; m = 1 << n", struct.pack(">Q", 1 << 40))
    assert error.field == "m"
    refuses("a : bytes(8); n : 64; m = a * n", bytes(8) + struct.pack(">Q", 1 << 40))
    refuses("a : str(8); n : 64; m = a % n", b"%99999d\0" + struct.pack(">Q", 1 << 20))
    refuses("n : 64; a = (1 << n) << n; b = a << a", struct.pack(">Q", 4000))
    for text in ("m = 1 << (1 << 60)", "m = 'x' * (1 << 40)", "m = 2 ** 100000", "m = b'%99999999d' % 1"):
        made = pattern("p", text, names={})
        with bounded(), pytest.raises(BitmatchError):
            made.parse(b"")


Tree = pattern("tree", "n : 8; children : Tree[n]")
Chain = pattern("chain", "next : 16; at next; child : Chain")
Loop = pattern("loop", "to : 8; at to; more : Loop if to else 8")
Widening = pattern("widening", "left : Widening if remaining() > 0 else 8; right : Widening | 8")


def test_deep_nesting_ends() -> None:
    with bounded():
        for made, data in ((Tree, b"\1" * 100_000), (Chain, bytes(1000)), (Loop, b"\0" + bytes(100))):
            assert made.match(data) is None or made is Loop
        with pytest.raises(MatchError, match="nested at most 64 deep"):
            Tree.parse(b"\1" * 100_000)
        assert Tree.parse(b"\1" * 60 + b"\0").n == 1
        with pytest.raises(MatchError):
            Chain.parse(bytes(1000))


def test_patterns_that_point_back_do_not_multiply() -> None:
    with bounded(seconds=20):
        many = pattern("many", "n : 16; items : { m : 16; at 0; x : 16[m] }[n]", names={})
        assert many.match(struct.pack(">HH", 60000, 60000) + bytes(200_000)) is None


def test_choices_do_not_multiply() -> None:
    with bounded(seconds=20):
        Widening.match(bytes(200))


def test_lists_without_end() -> None:
    refuses("a : { n : 8; b : bytes(n) if n > 200 }[until it.n == 77]", bytes(100_000))
    refuses("n : 8; a : { x = n }[...]", bytes(10))
    refuses("n : 8; a : { x = n }[until it.x == 3]", bytes(10))
    refuses("n : 32; a : { x = n }[n]", struct.pack(">I", 1 << 31))
    refuses("a : 1[...]; when a[0]", bytes(1 << 18))


def test_a_file_with_a_huge_length_is_not_read() -> None:
    class Endless:
        place = 0

        def seek(self, offset: int, whence: int = 0) -> int:
            self.place = (1 << 50) if whence == 2 else offset
            return self.place

        def read(self, size: int = -1) -> bytes:
            assert size <= 1 << 29
            return struct.pack(">Q", 1 << 45)[self.place : self.place + 8].ljust(min(size, 1 << 20), b"\0")

    for text in ("n : 64; data : bytes(n)", "n : 64; data : rest", "n : 64; skip n; b : 8"):
        made = pattern("p", text, names={})
        with bounded(mebibytes=2000):
            assert made.match(bits(Endless())) is None
            with pytest.raises(MatchError):
                made.parse(Endless())


# -- truncation and mutation ---------------------------------------------------------------------------------

Everything = pattern(
    "everything",
    """little lsb
    magic   : b"EV"
    count   : 8
    flags   : 3; kind : 5
    length  : 16
    name    : cstring(16)
    fixed   : str(4)
    numbers : 16[count]
    big_one : big signed 32
    items   : { tag : 8; n : 8; body : bytes(n) }[count]
    body    : Small[...] within length
    choice  : { t : 8 = 1; v : 8 } | { t : 8 = 2; v : 32 } | 8
    extra   : 32 if kind & 1
    list    : 8[until it == 0]
    align 4
    place = offset()
    tail    : 16 at place - 2 check tail >= 0
    rest_   : rest
    """,
)
Small = pattern("small", "big; a : 4; b : 12; c : 8 check c < 200")


def everything() -> bytes:
    return Everything.build(
        count=2,
        flags=5,
        kind=3,
        length=6,
        name="hello",
        fixed="ab",
        numbers=[1, 2],
        big_one=-5,
        items=[{"tag": 1, "body": b"xyz"}, {"tag": 2, "body": b""}],
        body=[{"a": 1, "b": 2, "c": 3}, {"a": 4, "b": 5, "c": 6}],
        choice={"t": 2, "v": 9},
        extra=7,
        list=[3, 2, 1, 0],
        tail=0,
        rest_=b"the end",
    )


def attempt(made: type[Record], data: bytes) -> None:
    """parse() and match() agree, and nothing but a MatchError gets out."""
    record = failed = None
    try:
        record = made.parse(data)
    except MatchError as error:
        failed = error
    assert failed is None or 0 <= failed.offset <= len(data) + 100
    assert made.match(data) == record
    assert made.match(bits(data)) == record


def test_every_truncation() -> None:
    data = everything()
    assert Everything.parse(data).choice.v == 9
    for size in range(len(data)):
        attempt(Everything, data[:size])
        assert size >= len(data) - 7 or Everything.match(data[:size]) is None


def test_mutations() -> None:
    randomness = random.Random(5)
    data = everything()
    with bounded(seconds=120):
        for _ in range(1000):
            changed = bytearray(data)
            for _ in range(randomness.randint(1, 4)):
                changed[randomness.randrange(2, len(changed))] = randomness.choice((0, 1, 127, 128, 255))
            attempt(Everything, bytes(changed))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_data(data: bytes) -> None:
    attempt(Everything, b"EV" + data)
    attempt(Tree, data)
    attempt(Loop, data)


# -- texts ---------------------------------------------------------------------------------------------------

WORDS = r"""
    a b n size at bit skip align when given little big native msb lsb endian : ; == = ( ) [ ] { } | * , . ...
    + - << 8 16 64 0 65 1.5 0x10 signed float(32) bytes str cstring bits view rest within until if else check
    map back as in and or not True None it Self 'x' b'x' # _ class __x__ offset() remaining() len(a)
    99999999999999999999 "
    """


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from([*WORDS.split(), "\n"]), max_size=25))
def test_texts_of_its_own_words(words: list[str]) -> None:
    understood(" ".join(words))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    understood(text)


def understood(text: str) -> None:
    made = pattern("p", text, names={})
    failed = None
    try:
        made.compile()
    except PatternError as error:
        failed = error
    if failed is not None:
        assert failed.line is None or 1 <= failed.line <= text.count("\n") + 1
    elif "given" not in text:
        for data in (b"", bytes(3), b"x" * 40):
            attempt(made, data)


def test_long_and_deep_texts_are_refused() -> None:
    with bounded(seconds=20):
        for text in (
            "a : " + "{ b : " * 1000 + "8" + " }" * 1000,
            "a : " + "(" * 1000 + "8" + ")" * 1000,
            "a : 8 check " + "(" * 900 + "1" + ")" * 900,
            "a : 8 check " + "-" * 1900 + "1",
            "a : 8 check " + "not " * 400 + "1",
            "a : 8 check " + "+".join("a" * 5000),
            "a : 8" + "[2]" * 5000,
            "a : 8[1 << 62]",
            "#" * 2_000_000,
            "a : " + "8 if 1 else " * 1000 + "8",
            "a : " + " | ".join("8" * 100),
        ):
            with pytest.raises(PatternError):
                pattern("p", text, names={}).compile()


def test_no_text_becomes_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def trap(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the text of a pattern was run")

    for name in ("open", "__import__", "eval", "exec", "input", "print"):
        if name not in ("exec", "__import__"):
            monkeypatch.setattr(builtins, name, trap)
    for text in (
        "a : 8 check __import__('os').system('true')",
        "a : 8 check open('/etc/passwd')",
        "a : 8 check a.__class__.__mro__",
        "a : 8 check (lambda: open('x'))()",
        "a : 8 check [print(1) for _ in (1,)]",
        "a : 8 check print",
        "a : 8 check f'{print(1)}'",
        "a : 8 check (b := 3)",
        "a : 8 map eval",
        "a : 8 map print(a)",
        "a : 8 check 'x'.format(a)",
        "a : print",
        "a : bytes(print(1))",
        "*print",
    ):
        with pytest.raises(PatternError):
            pattern("p", text, names={}).compile()
    name = "x', 1); raise SystemExit  # \" \\ \n \0"
    made = pattern(name, "a : 8 check a < 3; b : b'\\n\\0\\x27'", names={})
    assert made.parse(b"\1\n\0'").a == 1
    with pytest.raises(MatchError):
        made.parse(b"\4\n\0'")


# -- declarations --------------------------------------------------------------------------------------------

EVIL = [
    'x"""; raise SystemExit; """',
    "x\n: 8; y",
    "__class__",
    "class",
    "",
    "_",
    "x y",
    "ünïcode",
    "9lives",
    "parse",
    "x" * 5000,
    "\\",
    "'",
    "#",
]


class BtfWriter:
    """Makes BTF with names of one's choice."""

    def __init__(self) -> None:
        self.types = b""
        self.strings = b"\0"

    def name(self, text: str) -> int:
        self.strings += text.encode() + b"\0"
        return len(self.strings) - len(text.encode()) - 1

    def integer(self, name: str, bits: int) -> None:
        self.types += struct.pack("<IIII", self.name(name), 1 << 24, (bits + 7) // 8, bits)

    def structure(self, name: str, size: int, members: list[tuple[str, int, int]]) -> None:
        self.types += struct.pack("<III", self.name(name), 4 << 24 | len(members), size)
        for member, kind, place in members:
            self.types += struct.pack("<III", self.name(member), kind, place)

    def bytes(self) -> bytes:
        head = struct.pack(
            "<HBBIIIII", MAGIC, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings)
        )
        return head + self.types + self.strings


def evil_btf() -> bytes:
    writer = BtfWriter()
    writer.integer("unsigned int", 32)
    writer.structure("inner", 4 * len(EVIL), [(name, 1, 32 * index) for index, name in enumerate(EVIL)])
    writer.structure(
        "outer", 8 * len(EVIL), [("first", 2, 0), ("second", 2, 32 * len(EVIL)), ('a"""#', 1, 0)]
    )
    return writer.bytes()


def test_evil_names_in_btf() -> None:
    made = Btf(evil_btf(), 'evil"""').import_struct("outer")
    record = made.pattern().parse(bytes(8 * len(EVIL)))
    assert record.second is not None
    tree = ast.parse(made.source())
    allowed = (ast.Expr, ast.ImportFrom, ast.Import, ast.Assign)
    assert all(isinstance(node, allowed) for node in tree.body)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert {ast.unparse(call.func) for call in calls} <= {"pattern", "enum.IntEnum"}
    exec(compile(tree, "evil.py", "exec"), {"__name__": "evil"})


def test_evil_names_in_layouts() -> None:
    number = Number(8, "unsigned char */ # \n raise")
    for name in EVIL:
        layout = Layout(
            name or "x", f"struct {name}", 16, [Member(name, 0, number), Member("last", 8, number)]
        )
        made = import_layout(layout, "little", "a\nb")
        assert made.pattern().parse(b"\1\2").last == 2
        ast.parse(made.source())


def test_mutated_btf() -> None:
    randomness = random.Random(7)
    good = evil_btf()
    with bounded(seconds=60):
        for _ in range(500):
            changed = bytearray(good)
            for _ in range(randomness.randint(1, 3)):
                changed[randomness.randrange(len(changed))] = randomness.randrange(256)
            if randomness.random() < 0.2:
                del changed[randomness.randrange(len(changed)) :]
            try:
                Btf(bytes(changed), "mutated").import_struct("outer").pattern().match(bytes(300))
            except DeclarationError:
                pass
            except PatternError as error:
                raise AssertionError(f"BTF became a text that is wrong: {error}") from error


def test_btf_that_refers_to_itself() -> None:
    writer = BtfWriter()
    writer.integer("int", 32)
    writer.structure("outer", 8, [("a", 2, 0)])
    with pytest.raises(DeclarationError):
        Btf(writer.bytes(), "loop").import_struct("outer")
    writer = BtfWriter()
    writer.types += struct.pack("<III", writer.name("outer"), 8 << 24, 1)
    with pytest.raises(DeclarationError):
        Btf(writer.bytes(), "loop").import_struct("outer")


def test_header_names_are_checked() -> None:
    for header in ('x"\n#include "/etc/passwd', "x>", 'y"'):
        with pytest.raises(DeclarationError):
            import_c(header, "x")


@pytest.mark.slow
def test_many_mutations() -> None:
    randomness = random.Random()
    data = everything()
    for _ in range(20_000):
        changed = bytearray(data)
        for _ in range(randomness.randint(1, 6)):
            changed[randomness.randrange(2, len(changed))] = randomness.randrange(256)
        attempt(Everything, bytes(changed[: randomness.randint(2, len(changed))]))


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None)
@given(st.lists(st.sampled_from([*WORDS.split(), "\n"]), max_size=40))
def test_many_texts_of_its_own_words(words: list[str]) -> None:
    understood(" ".join(words))

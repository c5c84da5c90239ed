"""Patterns made of C declarations: what `c_header` and `btf` find out, and how it is written as patterns.

Both describe a structure as a `Layout`: members with places in bits, as a compiler for some machine lays them
out. This module writes layouts as the text of patterns, one for each structure, and as a Python module that
holds them.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterator
from dataclasses import dataclass, field

from .errors import DeclarationError
from .nodes import LITTLE
from .record import Record, pattern

RESERVED = frozenset(
    [
        "Self",
        "big",
        "bits",
        "bytes",
        "cstring",
        "endian",
        "enum",
        "float",
        "int",
        "little",
        "native",
        "pattern",
        "rest",
        "signed",
        "str",
        "unsigned",
        "view",
    ]
)
"""Words that mean something else where a type is expected, or in the module that is written."""


MAX_BITS = 1 << 29
"""The largest structure that is imported."""
MAX_DEPTH = 64
SPARSE = frozenset(("le16", "le32", "le64", "be16", "be32", "be64"))
"""The kernel's names of integers that have a byte order of their own, without their underscores."""


@dataclass(frozen=True)
class Number:
    """An integer, a floating-point number or a pointer; `words` is how C calls it."""

    bits: int
    words: str
    signed: bool = False
    floating: bool = False
    is_char: bool = False
    enum: Enumeration | None = None


@dataclass(frozen=True)
class Enumeration:
    """The names of the values of an enumeration."""

    name: str
    values: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Array:
    """`count` elements; None if the declaration does not say how many follow."""

    element: Kind
    count: int | None


@dataclass(frozen=True)
class Blob:
    """Something that has a size and no better description."""

    bits: int
    words: str


@dataclass
class Layout:
    """A structure or a union.

    Attributes:
        name: its tag, or a name made up for it.
        words: how C calls it.
        bits: its size.
        members: name (empty for an anonymous member), place in bits, width in bits if it is a bit-field, and
            kind.
    """

    name: str
    words: str
    bits: int
    members: list[Member] = field(default_factory=list)

    def __hash__(self) -> int:
        return id(self)


Kind = Number | Array | Blob | Layout


@dataclass(frozen=True)
class Member:
    """A member of a structure; see Layout."""

    name: str
    place: int
    kind: Kind
    width: int | None = None


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Attributes:
        name: the name of the pattern asked for, as it is in `texts`.
        texts: the text of that pattern and of all it needs, by name, the needed ones first.
        sizes: the size of each in bytes.
        enums: the enumerations that occur.
        origin: where it came from, for the reader of the module.
    """

    name: str
    texts: dict[str, str]
    sizes: dict[str, int]
    enums: tuple[Enumeration, ...]
    origin: str

    @property
    def text(self) -> str:
        """The text of the pattern that was asked for."""
        return self.texts[self.name]

    def pattern(self) -> type[Record]:
        """The pattern that was asked for, ready for use."""
        made: dict[str, object] = {}
        for name, text in self.texts.items():
            made[name] = pattern(name, text, names=made)
        found = made[self.name]
        assert isinstance(found, type)
        return found

    def source(self) -> str:
        """A Python module with the patterns and the enumerations."""
        lines = [
            f'"""{self.name}, from {_plain(self.origin)}. Written by bitmatch; not meant to be edited."""',
            "",
        ]
        lines += ["from __future__ import annotations", ""]
        if self.enums:
            lines += ["import enum", ""]
        lines += ["from virtscope.bitmatch import pattern", ""]
        for enumeration in self.enums:
            name = _identifier(enumeration.name)
            name += "_enum" if name in self.texts or name in RESERVED else ""
            lines += [f"{name} = enum.IntEnum(", f'    "{name}",', "    {"]
            lines += [f'        "{_enumerator(key)}": {value},' for key, value in enumeration.values]
            lines += ["    },", ")"]
        for name, text in self.texts.items():
            body = "\n".join(f"    {line}" if line else "" for line in text.splitlines())
            lines += [f"{name} = pattern(", f'    "{name}",', f'    """\n{body}\n    """,', ")"]
        return "\n".join(lines) + "\n"


def import_layout(layout: Layout, order: str, origin: str) -> Imported:
    """Write a layout and all that it needs as patterns."""
    writer = _Writer(order)
    name = writer.add(layout)
    return Imported(name, writer.texts, writer.sizes, tuple(writer.enums.values()), origin)


class _Writer:
    def __init__(self, order: str) -> None:
        self.head = "little lsb" if order == LITTLE else "big"
        self.names: dict[int, str] = {}
        self.texts: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.enums: dict[str, Enumeration] = {}
        self.open: list[Layout] = []

    def add(self, layout: Layout) -> str:
        """Write the pattern of a layout, once; returns its name."""
        known = self.names.get(id(layout))
        if known is not None and layout not in self.open:
            return known
        if not 0 <= layout.bits <= MAX_BITS or layout.bits % 8:
            raise DeclarationError(f"{_plain(layout.words)}: {layout.bits} bits are no size of a structure")
        if layout in self.open:
            raise DeclarationError(f"{_plain(layout.words)} contains itself")
        self.open.append(layout)
        name = _identifier(layout.name)
        while name in RESERVED or name in self.names.values():
            name += "_"
        self.names[id(layout)] = name
        lines = [f"{self.head}  # {_plain(layout.words)}, {layout.bits // 8} bytes"]
        lines += self.members(layout, name)
        lines.append(f"size {layout.bits // 8}")
        self.texts[name] = "\n".join(lines)
        self.sizes[name] = layout.bits // 8
        self.open.pop()
        return name

    def members(self, layout: Layout, name: str) -> list[str]:
        """The lines of all members, in the order of the declaration."""
        rows: list[tuple[str, str, str]] = []
        place = 0
        taken: set[str] = set()
        for member in flattened(layout, 0):
            where = ""
            if member.place > place:
                rows.append(_gap(place, member.place))
            elif member.place < place:
                where = f" at bit {member.place}" if member.place % 8 else f" at {member.place // 8}"
            text, words, bits = self.kind(member, name)
            if member.place < 0 or member.place + bits > layout.bits:
                raise DeclarationError(f"{_plain(layout.words)}: {_plain(member.name)} lies outside")
            if text:
                field_name = _identifier(member.name, spare=taken)
                taken.add(field_name)
                rows.append(
                    (member.name if keyword.iskeyword(member.name) else field_name, text + where, words)
                )
                if keyword.iskeyword(member.name):
                    rows[-1] = (member.name, f"{text}{where} as {field_name}", words)
                place = member.place + bits
            else:
                rows.append(("", f"# {_plain(member.name)}: {words}", ""))
        width = min(max((len(row[0]) for row in rows), default=0), 40)
        lines = [f"{field_name:{width}} : {text}" if field_name else text for field_name, text, _ in rows]
        column = min(max((len(line) for line in lines), default=0), 60)
        return [
            f"{line:{column}}  # {row[2]}" if row[2] else line for line, row in zip(lines, rows, strict=True)
        ]

    def kind(self, member: Member, owner: str) -> tuple[str, str, int]:
        """The type of a member as patterns have it, a comment, and its size; no type for an open array."""
        kind = member.kind
        if isinstance(kind, Number) and kind.enum is not None and kind.enum.name:
            self.enums.setdefault(kind.enum.name, kind.enum)
        if member.width is not None:
            if not (isinstance(kind, Number) and 0 < member.width <= min(kind.bits, 64)):
                raise DeclarationError(f"{_plain(member.name)}: a bit-field of {member.width} bits")
            signed = isinstance(kind, Number) and kind.signed
            return (
                f"{'signed ' if signed else ''}{member.width}",
                f"{self.words(kind)}:{member.width}",
                member.width,
            )
        counts: list[int] = []
        element = kind
        while isinstance(element, Array):
            if element.count is None:
                return "", f"as many {_plain(self.words(element.element))} as follow", 0
            counts.append(element.count)
            element = element.element
        if isinstance(element, Number) and element.enum is not None and element.enum.name:
            self.enums.setdefault(element.enum.name, element.enum)
        text, bits = self.element(element, counts, owner, member.name)
        for count in counts:
            bits *= count
        return text, self.words(kind), bits

    def element(self, kind: Kind, counts: list[int], owner: str, name: str) -> tuple[str, int]:
        """The type of a member with the counts of its array, and the size of one element."""
        if (
            isinstance(kind, Number)
            and kind.bits == 8
            and counts
            and (kind.is_char or not (kind.signed or kind.enum))
        ):
            inner = f"{'str' if kind.is_char else 'bytes'}({counts[-1]})"
            return inner + "".join(f"[{count}]" for count in counts[:-1]), 8
        dimensions = "".join(f"[{count}]" for count in counts)
        if isinstance(kind, Number | Blob) and (kind.bits <= 0 or kind.bits % 8):
            raise DeclarationError(f"{_plain(name)}: {_plain(kind.words)} has no size")
        if isinstance(kind, Number):
            if kind.words.lstrip("_") in SPARSE:
                order = "little" if kind.words.lstrip("_").startswith("le") else "big"
                return f"{order} {kind.bits}{dimensions}", kind.bits
            if kind.floating and kind.bits in (16, 32, 64):
                return f"float({kind.bits}){dimensions}", kind.bits
            if kind.floating or kind.bits > 64:
                return f"bytes({kind.bits // 8}){dimensions}", kind.bits
            return f"{'signed ' if kind.signed else ''}{kind.bits}{dimensions}", kind.bits
        if isinstance(kind, Blob):
            return f"bytes({kind.bits // 8}){dimensions}", kind.bits
        assert isinstance(kind, Layout)
        if not kind.name:
            kind.name = f"{owner}_{name}"
        return f"{self.add(kind)}{dimensions}", kind.bits

    def words(self, kind: Kind) -> str:
        """How C calls a kind, where that says more than the pattern does."""
        if isinstance(kind, Array):
            return self.words(kind.element)
        if isinstance(kind, Layout):
            return ""
        return _plain(kind.words)


def flattened(layout: Layout, start: int, depth: int = 0) -> Iterator[Member]:
    """The members of a layout; those of anonymous structures and unions in it are its own, as in C."""
    if depth > MAX_DEPTH:
        raise DeclarationError(f"{_plain(layout.words)} is nested too deep")
    for member in layout.members:
        if not member.name and isinstance(member.kind, Layout):
            yield from flattened(member.kind, start + member.place, depth + 1)
        elif member.name:
            yield Member(member.name, start + member.place, member.kind, member.width)


def _gap(place: int, until: int) -> tuple[str, str, str]:
    size = until - place
    if place % 8 == 0 and size % 8 == 0:
        return "", f"skip {size // 8}", ""
    return ("_", str(size), "") if size <= 64 else ("_", f"bits({size})", "")


def _identifier(name: str, spare: frozenset[str] | set[str] = frozenset()) -> str:
    """A name that Python and patterns take, as close to `name` as can be."""
    made = (
        "".join(char if char.isascii() and (char.isalnum() or char == "_") else "_" for char in name) or "_"
    )
    if made[0].isdigit() or made == "_":
        made = f"_{made}"
    if made.startswith("__") and made.endswith("__"):
        made = made.strip("_") + "_" if made.strip("_") else "underscores"
    if keyword.iskeyword(made):
        made += "_"
    while made in spare:
        made += "_"
    return made


def _enumerator(name: str) -> str:
    """A name that enum takes."""
    made = _identifier(name)
    return f"n{made}" if (made[0] == made[-1] == "_") or made == "mro" else made


def _plain(text: str) -> str:
    """Text from a header or from BTF, fit for a comment or a docstring."""
    clean = "".join(char if char.isprintable() and char not in "\\\"'" else "?" for char in text)
    return clean if len(clean) <= 80 else clean[:77] + "..."

"""A second, slow opinion on what patterns mean: bit by bit, and straight from a description of the pattern.

`Shape` describes a pattern without any text. `text()` writes it in the language of bitmatch, and `read()`
reads data as the guide says it should be read, one bit at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st


class Refused(Exception):
    """The data does not match."""


@dataclass
class Part:
    """One line of a pattern: `kind` says which, the others are used as far as they make sense for it."""

    kind: str
    name: str = ""
    size: int = 0
    signed: bool = False
    order: str = ""
    count: int = 0
    ref: str = ""
    value: int = 0
    inner: Shape | None = None


@dataclass(repr=False)
class Shape:
    """A pattern: byte order, bit order, and its lines."""

    order: str
    lsb: bool
    parts: list[Part] = field(default_factory=list)

    def text(self) -> str:
        """The pattern in the language of bitmatch."""
        lines = [f"{self.order} {'lsb' if self.lsb else 'msb'}"]
        for part in self.parts:
            words = " ".join(word for word in (part.order, "signed" if part.signed else "") if word)
            integer = f"{words} {part.size}".strip()
            line = {
                "int": f"{part.name} : {integer}",
                "const": f"{part.name} : {integer} = {part.value}",
                "computed": f"{part.name} : {words} int({part.ref} % 64 + 1)",
                "bytes": f"{part.name} : bytes({part.size})",
                "data": f"{part.name} : bytes({part.ref} % 9)",
                "bits": f"{part.name} : bits({part.size})",
                "bits_of": f"{part.name} : bits({part.ref} % 13)",
                "view": f"{part.name} : view({part.size})",
                "array": f"{part.name} : {integer}[{part.count}]",
                "array_of": f"{part.name} : {integer}[{part.ref} % 5]",
                "skip": f"skip {part.size}",
                "pad": f"_ : {part.size}",
                "align": f"align {part.size}",
                "at": f"at {part.size}",
                "let": f"{part.name} = {part.ref} * 3 + offset()",
                "optional": f"{part.name} : {integer} if {part.ref} % 2",
                "group": f"{part.name} : {{ {part.inner.text() if part.inner else ''} }}",
                "records": f"{part.name} : {{ {part.inner.text() if part.inner else ''} }}[{part.count}]",
            }[part.kind]
            lines.append(line)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<{self.text()}>"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(repr(self))

    def mixed(self) -> bool:
        """Whether the lowest bit comes first in it or in a shape inside."""
        return self.lsb or any(inner.mixed() for inner in self.patterns())

    def patterns(self) -> list[Shape]:
        """The shapes inside this one."""
        return [part.inner for part in self.parts if part.inner is not None]


def bit(data: bytes, index: int, lsb: bool) -> int:
    """The bit `index` of `data` in the order that bits are counted."""
    return data[index // 8] >> (index % 8 if lsb else 7 - index % 8) & 1


def integer(data: bytes, place: int, end: int, part: Part, size: int, shape: Shape) -> int:
    """An integer of `size` bits."""
    if place + size > end:
        raise Refused
    found = [bit(data, place + index, shape.lsb) for index in range(size)]
    order = part.order or shape.order
    value = 0
    if shape.lsb and order == "little":
        for index, one in enumerate(found):
            value |= one << index
    elif shape.lsb and size > 8:  # whole bytes only
        for index in range(0, size, 8):
            byte = sum(one << weight for weight, one in enumerate(found[index : index + 8]))
            value = value << 8 | byte
    elif shape.lsb:
        value = sum(one << weight for weight, one in enumerate(found))
    elif order == "big":
        for one in found:
            value = value << 1 | one
    else:
        for index in range(0, size, 8):
            chunk = 0
            for one in found[index : index + 8]:
                chunk = chunk << 1 | one
            value |= chunk << index
    if part.signed and value >> (size - 1):
        value -= 1 << size
    return value


def raw(data: bytes, place: int, end: int, count: int, shape: Shape) -> bytes:
    """`count` bytes from any bit on."""
    if place + count * 8 > end:
        raise Refused
    found = []
    for index in range(count):
        ones = [bit(data, place + index * 8 + number, shape.lsb) for number in range(8)]
        if not shape.lsb:
            ones.reverse()
        found.append(sum(one << weight for weight, one in enumerate(ones)))
    return bytes(found)


def read(
    shape: Shape, data: bytes, start: int, end: int, origin: int | None = None
) -> tuple[dict[str, Any], int]:
    """The fields of a record that begins at bit `start`, and the place behind it.

    `origin` is where the pattern around a group begins, from which places in it are counted.
    """
    if origin is None:
        origin = start
    values: dict[str, Any] = {}
    place = high = start
    for part in shape.parts:
        known = values.get(part.ref, 0)
        if part.kind in ("int", "const"):
            values[part.name] = integer(data, place, end, part, part.size, shape)
            place += part.size
            if part.kind == "const" and values[part.name] != part.value:
                raise Refused
        elif part.kind == "computed":
            size = known % 64 + 1
            values[part.name] = integer(data, place, end, part, size, shape)
            place += size
        elif part.kind in ("bytes", "data", "view"):
            count = known % 9 if part.kind == "data" else part.size
            values[part.name] = raw(data, place, end, count, shape)
            place += count * 8
        elif part.kind in ("bits", "bits_of"):
            size = known % 13 if part.kind == "bits_of" else part.size
            if place + size > end:
                raise Refused
            values[part.name] = [bit(data, place + index, False) for index in range(size)]
            place += size
        elif part.kind in ("array", "array_of"):
            count = known % 5 if part.kind == "array_of" else part.count
            found = []
            for _ in range(count):
                found.append(integer(data, place, end, part, part.size, shape))
                place += part.size
            values[part.name] = tuple(found)
        elif part.kind == "skip":
            place += part.size * 8
        elif part.kind == "pad":
            place += part.size
        elif part.kind == "align":
            place = start + -(-(place - start) // (part.size * 8)) * part.size * 8
        elif part.kind == "at":
            high = max(high, place)
            place = start + part.size * 8
        elif part.kind == "let":
            values[part.name] = known * 3 + (place - origin) // 8
        elif part.kind == "optional":
            values[part.name] = None
            if known % 2:
                values[part.name] = integer(data, place, end, part, part.size, shape)
                place += part.size
        else:
            assert part.inner is not None
            records = []
            for _ in range(part.count if part.kind == "records" else 1):
                inner, place = read(part.inner, data, place, end, origin)
                records.append(inner)
            values[part.name] = records[0] if part.kind == "group" else tuple(records)
        if place > end:
            raise Refused
    return values, max(place, high)


ORDERS = st.sampled_from(["", "", "little", "big"])
SIZES = st.one_of(st.sampled_from([1, 3, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64]), st.integers(1, 64))


@st.composite
def shapes(
    draw: st.DrawFn, *, depth: int = 2, moves: bool = True, prefix: str = "f", lowest_first: bool = True
) -> Shape:
    """Patterns of all kinds; `lowest_first` if they may begin with the lowest bit."""
    shape = Shape(draw(st.sampled_from(["little", "big"])), lowest_first and draw(st.booleans()))
    numbers: list[str] = []  # earlier integer fields
    place = 0  # in bits from the start, modulo 8 only after `loose`
    loose = not lowest_first
    for index in range(draw(st.integers(1, 7))):
        aligned = not loose and place % 8 == 0
        kinds = ["int", "int", "int", "array", "pad", "bytes", "skip"]
        if not shape.lsb or aligned:
            kinds.append("bits")
        if aligned:
            kinds.append("view")
        if moves and not loose:
            kinds += ["align", "at"]
        if depth and (aligned or not shape.lsb):
            kinds += ["group", "records"]
        if numbers:
            kinds += ["data", "let"]
            if not loose and place % 8 == 0:
                kinds.append("array_of")
            if not shape.lsb:
                kinds += ["computed", "bits_of", "optional"]
        part = Part(draw(st.sampled_from(kinds)), f"{prefix}{index}", draw(SIZES), draw(st.booleans()))
        part.order = draw(ORDERS)
        part.count = draw(st.integers(0, 12))
        if numbers:
            part.ref = draw(st.sampled_from(numbers))
        if part.kind in ("int", "array", "array_of", "computed", "optional") and shape.lsb:
            whole = aligned and part.size % 8 == 0
            if not whole:
                part.order = "little"
        if part.kind in ("bytes", "view", "skip", "at"):
            part.size %= 20
        if part.kind == "align":
            part.size = part.size % 8 + 1
        if part.kind == "bits" and shape.lsb:
            part.size = part.size // 8 * 8
        if part.kind in ("group", "records"):
            prefix_inside = f"{part.name}_"
            part.count %= 4
            alone = aligned and (part.kind == "group" or part.count < 2)
            part.inner = draw(shapes(depth=depth - 1, moves=False, prefix=prefix_inside, lowest_first=alone))
            loose = True
        shape.parts.append(part)
        if part.kind == "int":
            numbers.append(part.name)
        if part.kind in ("computed", "bits_of", "optional", "data", "array_of"):
            loose = loose or part.kind != "data" or place % 8 != 0
        if part.kind == "at":
            place = part.size * 8
        elif part.kind == "align":
            place = -(-place // (part.size * 8)) * part.size * 8
        elif part.kind in ("bytes", "view", "skip"):
            place += part.size * 8
        elif part.kind == "array":
            place += part.size * part.count
        elif part.kind in ("int", "bits", "pad"):
            place += part.size
        if loose and (shape.lsb or (part.inner is not None and part.inner.mixed())):
            break  # it may not go on in the middle of a byte
    return shape


@st.composite
def values(draw: st.DrawFn, shape: Shape) -> dict[str, Any]:
    """Values for all fields of a record, as one would hand them to a constructor."""
    found: dict[str, Any] = {}
    for part in shape.parts:
        known = found.get(part.ref, 0)
        size = known % 64 + 1 if part.kind == "computed" else part.size
        low = -(1 << (size - 1)) if part.signed and size else 0
        integers = st.integers(low, low + (1 << size) - 1)
        if part.kind in ("int", "computed"):
            found[part.name] = draw(integers)
        elif part.kind in ("bytes", "data", "view"):
            count = known % 9 if part.kind == "data" else part.size
            found[part.name] = draw(st.binary(min_size=count, max_size=count))
        elif part.kind in ("bits", "bits_of"):
            count = known % 13 if part.kind == "bits_of" else part.size
            found[part.name] = draw(st.text("01", min_size=count, max_size=count))
        elif part.kind in ("array", "array_of"):
            count = known % 5 if part.kind == "array_of" else part.count
            found[part.name] = draw(st.lists(integers, min_size=count, max_size=count))
        elif part.kind == "optional":
            found[part.name] = draw(integers) if known % 2 else None
        elif part.kind == "group":
            assert part.inner is not None
            found[part.name] = draw(values(part.inner))
        elif part.kind == "records":
            assert part.inner is not None
            found[part.name] = [draw(values(part.inner)) for _ in range(part.count)]
    return found

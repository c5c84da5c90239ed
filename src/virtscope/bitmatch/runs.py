"""Fields at known places of a run of bytes, gathered into as few reads as can be.

`emit` adds the fields as it meets them; `Run.emit` then writes one `struct` call for all whole numbers of a
byte order, and shifts and masks for the fields that are parts of bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from .nodes import BIG, LITTLE, LSB
from .runtime import FLOATS, FORMATS, sign, swap

COMPOSED = {24: (16, 8), 40: (32, 8), 48: (32, 16), 56: (32, 16, 8)}
"""How struct reads integers for which it has no letter: sizes of the parts, largest first."""


class Item:
    """A field of known place and size.

    Attributes:
        place: in bits from the base of the run.
        size: in bits.
        kind: int, float or bytes.
        target: what generated code assigns it to.
        order: LITTLE, BIG, or code that is true for big.
        bit_order: MSB or LSB.
    """

    __slots__ = ("bit_order", "kind", "order", "place", "signed", "size", "target")

    def __init__(
        self,
        place: int,
        size: int,
        kind: str,
        target: str,
        signed: bool = False,
        order: str = BIG,
        bit_order: str = "",
    ) -> None:
        self.place = place
        self.size = size
        self.kind = kind
        self.target = target
        self.signed = signed
        self.order = order
        self.bit_order = bit_order

    def is_whole(self) -> bool:
        """Whether it begins and ends with a byte."""
        return not (self.place | self.size) & 7


class Layer:
    """Fields that one struct reads: ascending, without overlap."""

    def __init__(self) -> None:
        self.order = ""
        self.parts: list[tuple[int, int, str, str]] = []  # first byte, size, letters, targets
        self.end = 0


class Run:
    """The fields waiting to be read."""

    def __init__(self) -> None:
        self.items: list[Item] = []

    def emit(
        self,
        base: str,
        fresh: Callable[[str], str],
        bind: Callable[[object, str], str],
        cover: int,
        source: Callable[[str, str], str] | None,
    ) -> tuple[list[str], int, int]:
        """The statements that read all fields, how many bytes from the base they touch, and how many structs
        they use.

        Args:
            base: code for the byte offset of the run.
            fresh: makes a new local name.
            bind: makes an object known to the generated code.
            cover: how many bytes must exist from the base on, read or not.
            source: when given, makes the code that stands for `Struct.unpack_from`, from the name of the
                struct and the offset; it is asked only when the whole run is one struct.
        """
        units, after = self.units(fresh, bind)
        layers = self.layers(units)
        end = max((layer.end for layer in layers), default=0)
        if layers and cover > end:
            longest = max(layers, key=lambda layer: layer.end)
            longest.parts.append((longest.end, cover - longest.end, f"{cover - longest.end}x", ""))
            end = longest.end = cover
        lines: list[str] = []
        for layer in layers:
            first = layer.parts[0][0] if source is None else 0
            targets = ", ".join(part[3] for part in layer.parts if part[3])
            letters = _letters(layer.parts, first)
            if "," not in targets:
                targets += ","
            where = base if first == 0 else f"{base} + {first}"
            if source is not None and len(layers) == 1:
                lines.append(f"{targets} = {source('<' if layer.order == LITTLE else '>', letters)}")
            elif layer.order in (LITTLE, BIG):
                reader = struct.Struct((">" if layer.order == BIG else "<") + letters)
                lines.append(f"{targets} = {bind(reader.unpack_from, 'unpack')}(buf, {where})")
            else:
                big = bind(struct.Struct(">" + letters).unpack_from, "unpack")
                little = bind(struct.Struct("<" + letters).unpack_from, "unpack")
                lines.append(f"{targets} = ({big} if {layer.order} else {little})(buf, {where})")
        return lines + after, end, len(layers)

    def units(
        self, fresh: Callable[[str], str], bind: Callable[[object, str], str]
    ) -> tuple[list[tuple[int, int, str, str, str]], list[str]]:
        """Whole bytes to read (first byte, size, letters, targets, order), and what to do with them."""
        units: list[tuple[int, int, str, str, str]] = []
        after: list[str] = []
        broken: list[Item] = []
        for item in self.items:
            if not item.is_whole():
                broken.append(item)
                continue
            first, size = item.place >> 3, item.size >> 3
            if item.kind == "bytes":
                units.append((first, size, f"{size}s", item.target, ""))
            elif item.kind == "float":
                units.append((first, size, FLOATS[item.size], item.target, item.order))
            elif item.size in FORMATS:
                letter = FORMATS[item.size]
                order = "" if size == 1 else item.order
                units.append((first, size, letter.lower() if item.signed else letter, item.target, order))
            else:
                units.append(self.composed(item, fresh, bind, after))
        for segment in _segments(broken):
            units.append(self.segment(segment, fresh, bind, after))
        return units, after

    def composed(
        self, item: Item, fresh: Callable[[str], str], bind: Callable[[object, str], str], after: list[str]
    ) -> tuple[int, int, str, str, str]:
        """An integer of 3, 5, 6 or 7 bytes."""
        sizes = COMPOSED[item.size]
        parts = [fresh("u") for _ in sizes]
        letters = "".join(FORMATS[size] for size in sizes)
        low = high = ""
        shift = 0
        for name, size in zip(parts, sizes, strict=True):
            low += f" | {name} << {shift}" if shift else name
            shift += size
            below = item.size - shift
            high += (" | " if high else "") + (f"{name} << {below}" if below else name)
        value = (
            low
            if item.order == LITTLE
            else high
            if item.order == BIG
            else f"({high} if {item.order} else {low})"
        )
        if item.signed:
            value = f"{bind(sign, 'sign')}({value}, {item.size})"
        after.append(f"{item.target} = {value}")
        return item.place >> 3, item.size >> 3, letters, ", ".join(parts), item.order

    def segment(
        self,
        items: list[Item],
        fresh: Callable[[str], str],
        bind: Callable[[object, str], str],
        after: list[str],
    ) -> tuple[int, int, str, str, str]:
        """Fields that share bytes: the bytes are read as one number and the fields cut out of it."""
        first = min(item.place for item in items) >> 3
        last = max((item.place + item.size + 7) >> 3 for item in items)
        size = last - first
        lsb = items[0].bit_order == LSB
        order = LITTLE if lsb else BIG
        name = fresh("u")
        unit = (first, size, FORMATS.get(size * 8, f"{size}s"), name, order if size > 1 else "")
        if size * 8 not in FORMATS:
            after.append(f"{name} = {bind(int.from_bytes, 'from_bytes')}({name}, {order!r})")
        for item in items:
            start = item.place - first * 8
            shift = start if lsb else size * 8 - start - item.size
            value = f"{name} >> {shift}" if shift else name
            if item.size + shift < size * 8:
                value = f"{value} & {(1 << item.size) - 1:#x}"
            if item.kind == "bytes":
                value = f"({value}).to_bytes({item.size // 8}, {order!r})"
            elif item.kind == "float":
                kind = bind(struct.Struct(">" + FLOATS[item.size]).unpack, "unpack")
                other = bind(struct.Struct("<" + FLOATS[item.size]).unpack, "unpack")
                raw = f"({value}).to_bytes({item.size // 8}, {order!r})"
                pick = kind if item.order == BIG else other if item.order == LITTLE else None
                value = f"{pick or f'({kind} if {item.order} else {other})'}({raw})[0]"
            elif not lsb and item.order != BIG and item.size > 8:
                swapped = f"{bind(swap, 'swap')}({value}, {item.size})"
                value = swapped if item.order == LITTLE else f"({value}) if {item.order} else {swapped}"
            if item.signed:
                value = f"{bind(sign, 'sign')}({value}, {item.size})"
            after.append(f"{item.target} = {value}")
        return unit

    def layers(self, units: list[tuple[int, int, str, str, str]]) -> list[Layer]:
        """The fewest structs for `units`: one for each byte order, more where fields overlap."""
        layers: list[Layer] = []
        for first, size, letters, targets, order in sorted(units, key=lambda unit: (unit[0], unit[1])):
            for layer in layers:
                if layer.end <= first and (not order or not layer.order or order == layer.order):
                    break
            else:
                layer = Layer()
                layers.append(layer)
            layer.order = layer.order or order
            layer.parts.append((first, size, letters, targets))
            layer.end = first + size
        for layer in layers:
            layer.order = layer.order or LITTLE
        return layers


def _segments(items: list[Item]) -> list[list[Item]]:
    """Items that share a byte, together."""
    segments: list[list[Item]] = []
    end = -1
    for item in sorted(items, key=lambda item: item.place):
        if segments and item.place >> 3 < end and item.bit_order == segments[-1][0].bit_order:
            segments[-1].append(item)
        else:
            segments.append([item])
            end = 0
        end = max(end, (item.place + item.size + 7) >> 3)
    return segments


def _letters(parts: list[tuple[int, int, str, str]], place: int) -> str:
    letters = ""
    for first, size, text, _ in parts:
        if first > place:
            letters += f"{first - place}x"
        letters += text
        place = first + size
    return letters


def flag(order: str) -> str:
    """Code for whether a byte order is big."""
    return str(order == BIG) if order in (BIG, LITTLE) else order

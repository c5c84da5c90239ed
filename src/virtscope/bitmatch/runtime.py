"""What generated code calls: the readings that do not fit a struct, and the watch kept while a failure is
explained.

Positions and sizes here are in bits unless they are said to be in bytes.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from typing import NoReturn

from .bits import Bits, Buffer
from .errors import MatchError

BUDGET = 1 << 20
"""How many elements of computed arrays one match may make in all, nested ones included."""
MAX_DEPTH = 64
"""How deep patterns may nest in one another while data is matched."""
MAX_INT_BITS = 8192
NATIVE_IS_BIG = sys.byteorder == "big"


class Mismatch(Exception):
    """The data does not match. Never leaves bitmatch: it becomes None or a MatchError."""


FAILURES = (
    Mismatch,
    struct.error,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)
"""What a match that goes wrong may raise inside generated code (UnicodeError is a ValueError)."""


# -- integers ------------------------------------------------------------------------------------------------


def uint(buffer: Buffer, place: int, size: int) -> int:
    """`size` bits from `place` on, most significant bit first."""
    stop = place + size
    value = int.from_bytes(buffer[place >> 3 : (stop + 7) >> 3], "big")
    return value >> (-stop & 7) & ((1 << size) - 1)


def uint_lsb(buffer: Buffer, place: int, size: int) -> int:
    """`size` bits from `place` on, where both bits and bytes begin with the least significant one."""
    value = int.from_bytes(buffer[place >> 3 : (place + size + 7) >> 3], "little")
    return value >> (place & 7) & ((1 << size) - 1)


def swap(value: int, size: int) -> int:
    """The little-endian reading of `size` bits that read big-endian are `value`, as Erlang defines it.

    The bits make whole bytes from the first on; the last, if it is not whole, has the highest weight.
    """
    part = size & 7
    whole = size >> 3
    low = int.from_bytes((value >> part).to_bytes(whole, "big"), "little")
    return low | (value & ((1 << part) - 1)) << (whole * 8)


def unswap(value: int, size: int) -> int:
    """What `swap` turns into `value`."""
    part = size & 7
    whole = size >> 3
    low = value & ((1 << (whole * 8)) - 1)
    high = int.from_bytes(low.to_bytes(whole, "little"), "big")
    return high << part | value >> (whole * 8)


def sign(value: int, size: int) -> int:
    """`value` of `size` bits as a two's complement number."""
    return value - (1 << size) if value >> (size - 1) else value


def integer(buffer: Buffer, place: int, size: int, end: int, big: object, lsb: bool, signed: bool) -> int:
    """An integer at any place and of any size from 1 to 64 bits; the slow way that is always right."""
    if not 0 < size <= 64 or place + size > end:
        raise Mismatch
    if lsb:
        value = uint_lsb(buffer, place, size)
        if big and size > 8:
            if size & 7 or place & 7:
                raise Mismatch
            value = uint(buffer, place, size)
    else:
        value = uint(buffer, place, size)
        if not big and size > 8:
            value = swap(value, size)
    return sign(value, size) if signed else value


def integers(
    buffer: Buffer, place: int, count: int, size: int, end: int, big: object, lsb: bool, signed: bool
) -> tuple[int, ...]:
    """`count` integers of `size` bits, one after the other."""
    if count < 0 or place + count * size > end:
        raise Mismatch
    if not (place | size) & 7 and size in FORMATS:
        letter = FORMATS[size].lower() if signed else FORMATS[size]
        return struct.unpack_from(f"{'>' if big else '<'}{count}{letter}", buffer, place >> 3)
    return tuple(integer(buffer, place + index * size, size, end, big, lsb, signed) for index in range(count))


def grid(values: tuple[object, ...], counts: tuple[int, ...]) -> tuple[object, ...]:
    """`values` as tuples of tuples; `counts` are the sizes of all but the outermost."""
    for count in reversed(counts):
        values = tuple(values[start : start + count] for start in range(0, len(values), count))
    return values


FORMATS = {8: "B", 16: "H", 32: "I", 64: "Q"}
FLOATS = {16: "e", 32: "f", 64: "d"}


def real(buffer: Buffer, place: int, size: int, end: int, big: object) -> float:
    """A floating-point number at any place."""
    if place + size > end:
        raise Mismatch
    raw = uint(buffer, place, size).to_bytes(size // 8, "big")
    value: float = struct.unpack((">" if big else "<") + FLOATS[size], raw)[0]
    return value


def is_big(value: object) -> bool:
    """The byte order that the result of an `endian` expression stands for."""
    if value is True or value is False:
        return value
    if value in ("big", "little"):
        return value == "big"
    raise Mismatch


# -- data ----------------------------------------------------------------------------------------------------


def data(buffer: Buffer, place: int, size: int, end: int, lsb: bool = False) -> bytes:
    """`size` bytes (not bits) from bit `place` on."""
    if size < 0 or place + size * 8 > end:
        raise Mismatch
    if not place & 7:
        return bytes(buffer[place >> 3 : (place >> 3) + size])
    if lsb:
        return uint_lsb(buffer, place, size * 8).to_bytes(size, "little")
    return uint(buffer, place, size * 8).to_bytes(size, "big")


def view(buffer: Buffer, place: int, size: int, end: int) -> memoryview:
    """`size` bytes from bit `place` on, which must be the first of a byte, without copying."""
    if size < 0 or place & 7 or place + size * 8 > end:
        raise Mismatch
    return memoryview(buffer)[place >> 3 : (place >> 3) + size]


def piece(buffer: Buffer, place: int, size: int, end: int) -> Bits:
    """`size` bits without copying."""
    if size < 0 or place + size > end:
        raise Mismatch
    return Bits(buffer, place, place + size)


def decode(raw: bytes) -> str:
    """UTF-8 text up to the first NUL; other bytes are kept as Python keeps them in file names."""
    stop = raw.find(0)
    return (raw if stop < 0 else raw[:stop]).decode("utf-8", "surrogateescape")


WIDTHS = {"utf-16": 2, "utf-32": 4}


def decode_as(raw: bytes, encoding: str, big: object) -> str:
    """Text in another encoding up to the first NUL."""
    if encoding in WIDTHS:
        text = raw.decode(encoding + ("-be" if big else "-le"), "surrogatepass")
    else:
        text = raw.decode(encoding, "strict" if encoding == "latin-1" else "surrogateescape")
    return text.partition("\0")[0]


def cstring(buffer: Buffer, place: int, end: int, limit: int | None, encoding: str) -> tuple[str, int]:
    """Text up to a NUL that comes within `limit` bytes, and the place behind the NUL (in bytes)."""
    if limit is not None:
        if limit < 0:
            raise Mismatch
        end = min(end, place + limit)
    start = place
    while place < end:
        stop = min(place + 4096, end)
        found = bytes(buffer[place:stop]).find(0)
        if found >= 0:
            raw = bytes(buffer[start : place + found])
            return decode_as(raw, encoding, False), place + found + 1
        place = stop
    raise Mismatch


def call_field(
    function: Callable[..., tuple[object, int]], buffer: Buffer, offset: int, end: int, *args: object
) -> tuple[object, int]:
    """What a field function written by a user makes of the data, if it stays inside (all in bytes)."""
    value, after = function(buffer, offset, end, *args)
    if not isinstance(after, int) or not offset <= after <= end:
        raise Mismatch
    return value, after


# -- expressions ---------------------------------------------------------------------------------------------


def shift_left(left: int, right: int) -> int:
    """`left << right`, if the result stays small."""
    if right < 0 or right + left.bit_length() > MAX_INT_BITS:
        raise Mismatch
    return left << right


def times(left: int, right: int) -> int:
    """`left * right` for integers only, so that no bytes are multiplied."""
    if not (isinstance(left, int | float) and isinstance(right, int | float)):
        raise Mismatch
    return left * right


def modulo(left: int, right: int) -> int:
    """`left % right` for integers only, so that no text is formatted."""
    if not isinstance(left, int | float):
        raise Mismatch
    return left % right


def to_int(value: object, base: int = 10) -> int:
    """int(), for numbers, Bits and short text."""
    if isinstance(value, str | bytes):
        if len(value) > 64:
            raise Mismatch
        return int(value, base)
    return int(value)  # type: ignore[call-overload, no-any-return]


def length(value: object) -> int:
    """len(): of Bits in bits, of everything else as Python has it."""
    return len(value)  # type: ignore[arg-type]


_CONSTANTS = (int, float, bytes, str, tuple, frozenset, dict)


def is_constant(value: object) -> bool:
    """Whether a pattern may use `value` of the module that it was written in."""
    return value is None or isinstance(value, _CONSTANTS) or is_enum(value)


def is_enum(value: object) -> bool:
    """Whether `value` is an enumeration class."""
    return isinstance(value, type) and hasattr(value, "__members__")


def is_function(value: object) -> bool:
    """Whether a pattern may call `value`."""
    return is_enum(value) or getattr(value, "__bitmatch_function__", False) is True


# -- explaining ----------------------------------------------------------------------------------------------


class Step:
    """A field that was met while a match was watched. `offset` and `size` are in bits."""

    __slots__ = ("depth", "name", "offset", "path", "size", "value")

    def __init__(self, path: str, name: str, depth: int, offset: int) -> None:
        self.path = path
        self.name = name
        self.depth = depth
        self.offset = offset
        self.size: int | None = None
        self.value: object = None


class Watch(list[int]):
    """Follows a match field by field, to say what failed where. Its only item is the budget of the match.

    With `keep`, all steps are kept in `steps`, up to `limit` of them.
    """

    def __init__(self, pattern: str, *, keep: bool = False, limit: int = 100_000) -> None:
        super().__init__([BUDGET])
        self.pattern = pattern
        self.open: list[Step] = []
        self.steps: list[Step] = []
        self.keep = keep
        self.limit = limit
        self.place = 0
        self.refused: list[str] = []
        self.reason = MatchError(pattern, "", 0, "data that fits the pattern", "other data")
        self.short = False
        self.false = Shown("that it is not so")
        self.more = Shown("more")
        self.nothing = Shown("something else")

    def enter(self, name: str, place: int) -> None:
        """A field begins."""
        path = name if not self.open else self.open[-1].path + ("" if name[0] == "[" else ".") + name
        step = Step(path, name, len(self.open), place)
        self.open.append(step)
        self.place = place
        if self.keep:
            if len(self.steps) >= self.limit:
                raise MatchError(self.pattern, path, place >> 3, f"at most {self.limit} fields", "more")
            self.steps.append(step)

    def moved(self, place: int) -> None:
        """The field that began last is somewhere else."""
        self.open[-1].offset = self.place = place

    def leave(self, value: object, place: int) -> None:
        """The field that began last ends at `place`."""
        step = self.open.pop()
        step.value = value
        step.size = place - step.offset
        self.place = place

    def mark(self) -> tuple[int, int]:
        """The state to come back to when an alternative fails."""
        return len(self.open), len(self.steps)

    def reset(self, mark: tuple[int, int], error: BaseException) -> None:
        """Come back from an alternative that failed with `error`."""
        self.refused.append(_one_line(error))
        del self.open[mark[0] :]
        del self.steps[mark[1] :]

    def fail(self, expected: str, got: object) -> NoReturn:
        """The current field is not as the pattern says."""
        path, place = (self.open[-1].path, self.open[-1].offset) if self.open else ("", self.place)
        shown = got if isinstance(got, Shown) else show(got)
        raise MatchError(self.pattern, path, place >> 3, expected, shown, bit=place & 7)

    def none_of(self, count: int) -> NoReturn:
        """All alternatives failed."""
        reasons = "; ".join(self.refused[-count:])
        self.fail(f"one of {count} alternatives", Shown(f"none ({reasons})"))

    def need(self, place: int, size: int, end: int) -> None:
        """There must be `size` more bits at `place`."""
        if size < 0:
            self.fail("a size", Shown(f"the negative size {amount(size)}"))
        if place < 0:
            self.fail("a place in the data", Shown(f"bit offset {place}"))
        if place + size > end:
            self.short = True
            self.fail(amount(size), Shown(f"the end of the data after {amount(max(end - place, 0))}"))

    def error(self, error: BaseException) -> MatchError:
        """The MatchError for an exception that generated code raised."""
        if isinstance(error, MatchError) and error.pattern == self.pattern:
            return error
        path, place = (self.open[-1].path, self.open[-1].offset) if self.open else ("", self.place)
        if isinstance(error, RecursionError):
            expected, got = f"patterns nested at most {MAX_DEPTH} deep", "deeper"
        elif isinstance(error, Mismatch) and self[0] < 0:
            expected, got = f"at most {BUDGET} elements", "more"
        elif isinstance(error, Mismatch):
            expected, got = "data that fits the pattern", "other data"
        else:
            expected, got = "data that fits the pattern", _one_line(error)
        return MatchError(self.pattern, path, place >> 3, expected, got, bit=place & 7)


class Shown(str):
    """Text that goes into a message as it is."""

    __slots__ = ()


def _one_line(error: BaseException) -> str:
    if isinstance(error, MatchError):
        return f"{error.field or error.pattern}: expected {error.expected}, got {error.got}"
    text = str(error).replace("\n", " ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def amount(size: int) -> str:
    """`size` bits in words."""
    number, unit = (size // 8, "byte") if size % 8 == 0 else (size, "bit")
    return f"{number} {unit}{'' if number in (1, -1) else 's'}"


def show(value: object) -> str:
    """A value as messages show it: numbers from 10 on in hexadecimal too, nothing longer than a line."""
    if isinstance(value, int) and not isinstance(value, bool):
        return hex(value) if abs(value) >= 10 else str(value)
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

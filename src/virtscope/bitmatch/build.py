"""Making records by hand, and bytes of records.

`emit_build` writes one function for each pattern that puts the fields of a record into a `Sink`, in the order
and at the places that the pattern gives, and completes the record on the way: constants, computed values and
lengths that follow from the data need not be given.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from . import runtime
from .bits import Bits
from .errors import BuildError
from .record import Record

if TYPE_CHECKING:
    from .compiler import Compiled

MAX_SIZE = 1 << 30
"""The largest record that is built, in bytes."""


class Sink:
    """Bytes that grow, and where in them the next field goes. Places and sizes are in bits."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.data = bytearray()
        self.place = 0
        self.path: list[str] = []
        self.field = ""

    def fail(self, problem: str) -> NoReturn:
        """The value of the current field cannot be written."""
        path = ".".join((*self.path, self.field)).replace(".[", "[")
        raise BuildError(self.pattern, path, problem)

    # -- where -----------------------------------------------------------------------------------------------

    def seek(self, place: int) -> None:
        """Go to a place; what lies between stays as it is, or is zero."""
        if place < 0 or place > MAX_SIZE * 8:
            self.fail(f"{runtime.amount(place)} is no place in a record")
        self.place = place
        missing = ((place + 7) >> 3) - len(self.data)
        if missing > 0:
            self.data += bytes(missing)

    def pad(self, start: int, size: int) -> None:
        """What began at `start` takes `size` bytes."""
        if size < 0 or self.place > start + size * 8:
            self.fail(f"{runtime.amount(self.place - start)} do not fit {runtime.amount(size * 8)}")
        self.seek(start + size * 8)

    def mark(self) -> tuple[int, int, int, str]:
        """The state to come back to when an alternative cannot be built."""
        return self.place, len(self.data), len(self.path), self.field

    def back_to(self, mark: tuple[int, int, int, str]) -> None:
        """Come back to `mark`."""
        self.place, length, depth, self.field = mark
        del self.data[length:]
        del self.path[depth:]

    def enter(self) -> None:
        """The fields that follow are inside the current one."""
        self.path.append(self.field)
        if len(self.path) > runtime.MAX_DEPTH:
            self.fail("nested too deep")

    def leave(self) -> None:
        """Back to the field around."""
        self.field = self.path.pop()

    # -- what ------------------------------------------------------------------------------------------------

    def put(self, value: int, size: int, lsb: bool = False) -> None:
        """`size` bits, most significant first (or least, in `lsb` order)."""
        place = self.place
        self.seek(place + size)
        first, last = place >> 3, (place + size + 7) >> 3
        if not (place | size) & 7:
            self.data[first:last] = value.to_bytes(size >> 3, "little" if lsb else "big")
            return
        order = "little" if lsb else "big"
        shift = place & 7 if lsb else -(place + size) & 7
        mask = ((1 << size) - 1) << shift
        there = int.from_bytes(self.data[first:last], order)  # type: ignore[arg-type]
        there = there & ~mask | value << shift
        self.data[first:last] = there.to_bytes(last - first, order)  # type: ignore[arg-type]

    def integer(self, value: Any, size: int, signed: bool, big: object, lsb: bool) -> None:
        """An integer."""
        if not 0 < size <= 64:
            self.fail(f"an integer has 1 to 64 bits, not {size}")
        low = -(1 << (size - 1)) if signed else 0
        if type(value) is not int:
            value = self.number(value)
        if not low <= value < low + (1 << size):
            high = low + (1 << size) - 1
            self.fail(
                f"{value} does not fit {runtime.amount(size) if size & 7 else f'{size} bits'} ({low}..{high})"
            )
        value &= (1 << size) - 1
        if lsb:
            if big and size > 8:
                if (size | self.place) & 7:
                    self.fail("a big-endian integer of partial bytes where the lowest bit comes first")
                self.put(value, size)
            else:
                self.put(value, size, True)
        else:
            self.put(value if big or size <= 8 else runtime.unswap(value, size), size)

    def number(self, value: Any) -> Any:
        """An int of something that stands for one."""
        if runtime.is_enum(type(value)) and not isinstance(value, int):
            value = value.value
        if not hasattr(value, "__index__"):
            self.fail(f"an integer is needed, not {runtime.show(value)}")
        return value.__index__()

    def real(self, value: Any, size: int, big: object) -> None:
        """A floating-point number."""
        try:
            raw = struct.pack((">" if big else "<") + runtime.FLOATS[size], value)
        except (struct.error, OverflowError, TypeError) as error:
            self.fail(str(error))
        self.put(int.from_bytes(raw, "big"), size)

    def raw(self, value: Any, size: Any, lsb: bool) -> None:
        """Raw bytes, `size` of them unless it is None."""
        if not isinstance(value, bytes | bytearray | memoryview | Bits):
            self.fail(f"bytes are needed, not {runtime.show(value)}")
        raw = bytes(value)
        if size is not None and len(raw) != size:
            self.fail(f"{runtime.amount(size * 8)} are needed, not {len(raw)}")
        if not self.place & 7:
            first = self.place >> 3
            self.seek(self.place + len(raw) * 8)
            self.data[first : first + len(raw)] = raw
        else:
            self.put(int.from_bytes(raw, "little" if lsb else "big"), len(raw) * 8, lsb)

    def bits(self, value: Any, size: Any) -> None:
        """A Bits (or bytes), `size` bits long unless that is None."""
        if isinstance(value, bytes | bytearray | memoryview):
            value = Bits(value, 0, len(value) * 8)
        if not isinstance(value, Bits):
            self.fail(f"bits are needed, not {runtime.show(value)}")
        if size is not None and len(value) != size:
            self.fail(f"{size} bits are needed, not {len(value)}")
        if not (self.place | len(value)) & 7:
            self.raw(value, None, False)
        else:
            self.put(int(value), len(value))

    def text(self, value: Any, size: Any, encoding: str, big: object, lsb: bool) -> None:
        """Text, with NULs behind it up to `size` bytes."""
        raw = self.encoded(value, encoding, big)
        if size is not None:
            if len(raw) > size:
                self.fail(f"{runtime.show(value)} takes {len(raw)} bytes and there are {size}")
            raw += bytes(size - len(raw))
        self.raw(raw, None, lsb)

    def cstring(self, value: Any, limit: Any, encoding: str) -> None:
        """Text and a NUL."""
        if self.place & 7:
            self.fail("text begins with a byte")
        raw = self.encoded(value, encoding, False) + b"\0"
        if limit is not None and len(raw) > limit:
            self.fail(f"{runtime.show(value)} takes {len(raw)} bytes with its NUL and there are {limit}")
        self.raw(raw, None, False)

    def encoded(self, value: Any, encoding: str, big: object) -> Any:
        """The bytes of text."""
        if not isinstance(value, str):
            self.fail(f"text is needed, not {runtime.show(value)}")
        if "\0" in value:
            self.fail("text in a field holds no NUL")
        try:
            if encoding in runtime.WIDTHS:
                return value.encode(encoding + ("-be" if big else "-le"), "surrogatepass")
            return value.encode(encoding, "strict" if encoding == "latin-1" else "surrogateescape")
        except UnicodeError as error:
            self.fail(str(error))

    def field_type(self, kind: Any, value: Any, *args: object) -> None:
        """A field of a user's own kind."""
        if kind.build is None:
            self.fail(f"{kind.__name__} has no builder")
        if self.place & 7:
            self.fail(f"{kind.__name__} begins with a byte")
        try:
            raw = kind.build(value, *args)
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            self.fail(str(error))
        self.raw(raw, None, False)

    def items(self, value: Any, count: Any) -> Sequence[Any]:
        """The elements of an array."""
        if (
            isinstance(value, str | Mapping)
            or not hasattr(value, "__len__")
            or not hasattr(value, "__getitem__")
        ):
            self.fail(f"a sequence is needed, not {runtime.show(value)}")
        if count is not None and len(value) != count:
            self.fail(f"{count} elements are needed, not {len(value)}")
        return value  # type: ignore[no-any-return]

    def record(self, owner: Compiled, value: Any) -> Any:
        """A record of `owner`, made of a dictionary if need be."""
        if isinstance(value, Mapping):
            return make_record(owner, value, self)
        if not isinstance(value, Record) or any(not hasattr(value, name) for name in owner.names()):
            self.fail(f"a record of {owner.name} or a dictionary is needed, not {runtime.show(value)}")
        return value

    def missing(self) -> NoReturn:
        """A field has no value."""
        self.fail("is missing")


def make_record(owner: Compiled, given: Mapping[str, Any], sink: Sink) -> Any:
    """A record with the fields in `given`; the others are None."""
    names = owner.names()
    record = owner.record()
    for name in names:
        setattr(record, name, given.get(name))
    if len(given) > len(names) or any(name not in names for name in given):
        import difflib

        wrong = next(name for name in given if name not in names)
        close = difflib.get_close_matches(str(wrong), names, 1)
        sink.field = str(wrong)
        sink.fail(f"there is no such field{f' (did you mean {close[0]}?)' if close else ''}")
    return record


def write(owner: Compiled, record: Any, given: tuple[object, ...] = ()) -> bytes:
    """The bytes of a record, which is completed on the way."""
    sink = Sink(owner.name)
    try:
        owner.function("build")(record, sink, *given)
    except BuildError:
        raise
    except runtime.FAILURES as error:
        problem = (
            str(error) if not isinstance(error, runtime.Mismatch) else "a value of which nothing can be made"
        )
        path = ".".join((*sink.path, sink.field)).replace(".[", "[")
        raise BuildError(owner.name, path, problem or type(error).__name__) from error
    return bytes(sink.data)


def split(owner: Compiled, fields: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[object, ...]]:
    """The fields of a record, and the parameters of the pattern."""
    plain = {name: value for name, value in fields.items() if name not in owner.givens}
    given = {name: fields[name] for name in owner.givens if name in fields}
    missing = [name for name in owner.givens if name not in given]
    if missing:
        raise BuildError(owner.name, missing[0], "this parameter is missing")
    return plain, tuple(given[name] for name in owner.givens)


def make(owner: Compiled, args: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    """A record made by hand; see Record."""
    names = owner.names()
    if len(args) > len(names):
        raise TypeError(f"{owner.name} has {len(names)} fields, not {len(args)}")
    for name, value in zip(names, args, strict=False):
        if name in fields:
            raise TypeError(f"{owner.name}: {name} is given twice")
        fields[name] = value
    plain, given = split(owner, fields)
    record = make_record(owner, plain, Sink(owner.name))
    write(owner, record, given)
    return record


def build(owner: Compiled, record: Record | Mapping[str, Any] | None, fields: dict[str, Any]) -> bytes:
    """See Record.build()."""
    start: dict[str, Any] = {}
    if isinstance(record, Record):
        start = {name: getattr(record, name, None) for name in owner.names()}
    elif record is not None:
        start = dict(record)
    plain, given = split(owner, start | fields)
    return write(owner, make_record(owner, plain, Sink(owner.name)), given)


def blank(owner: Compiled, fields: dict[str, Any]) -> Any:
    """See Record.blank()."""
    from .emit_build import zeros

    plain, given = split(owner, fields)
    record = make_record(owner, zeros(owner) | plain, Sink(owner.name))
    write(owner, record, given)
    return record

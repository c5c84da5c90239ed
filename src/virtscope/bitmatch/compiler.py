"""A pattern and the functions compiled from it, each when it is first needed.

`Compiled` knows the text, finds the names it mentions, makes the class of its records, and hands out
functions: `Reader` (emit.py) writes their source, and this module adds the heads and feet that make each kind
of function. The source is registered with linecache, so a traceback shows the generated lines.
"""

from __future__ import annotations

import re
import struct
from _thread import RLock
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, NoReturn

from . import runtime, search
from .bits import as_buffer
from .emit import Reader, expressions, finish
from .errors import PatternError
from .expression import names
from .nodes import (
    MSB,
    ArrayType,
    Expr,
    Field,
    Given,
    GroupType,
    Let,
    Move,
    RefType,
    SetOrder,
    Splice,
    Statement,
    Type,
)
from .text import DATA_FORMS, parse

if TYPE_CHECKING:
    from .record import Record

Function = Callable[..., Any]
_BUFFER = re.compile(r"(?<![\w.])(buf|offset)\b")
_MAKES_RECORD = re.compile(r"r\d+ = _\w+\(\)$")
_LOCK = RLock()
PLACES = frozenset(("offset", "bit_offset", "remaining"))


class Compiled:
    """One pattern.

    Args:
        name: what it is called in errors.
        text: its text.
        public: the class users know, of which records are instances; None for a group.
        lookup: the names a pattern may mention, found in the module it was written in or handed over.
        offered: whether the names were handed over on purpose, so that any function among them may be called.
        statements: the parsed text, for a group.
    """

    def __init__(
        self,
        name: str,
        text: str,
        public: type[Record],
        lookup: Mapping[str, object],
        *,
        offered: bool = False,
        statements: tuple[Statement, ...] | None = None,
    ) -> None:
        self.name = name
        self.text = text
        self.public = public
        self.lookup = lookup
        self.offered = offered
        self.identifier = re.sub(r"\W", "_", name)
        self.whole = self  # the pattern that a group is part of
        self.groups: dict[int, Compiled] = {}
        self.functions: dict[str, Function] = {}
        self.sources: dict[str, str] = {}
        self._parsed = statements
        self._record: type[Record] | None = None
        self._names: tuple[str, ...] | None = None
        self._bits: int | None = None
        self._aligned = True
        self._needs_track = False
        self._structs = 0
        self._safe = False
        self._row: struct.Struct | None = None
        self._draft: tuple[Reader, str] | None = None
        self._state = "new"

    # -- what the text says ----------------------------------------------------------------------------------

    @property
    def statements(self) -> tuple[Statement, ...]:
        """The parsed text."""
        if self._parsed is None:
            self._parsed = parse(self.name, self.text)
        return self._parsed

    @property
    def givens(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return tuple(name for item in self.statements if isinstance(item, Given) for name in item.names)

    @property
    def given_args(self) -> str:
        """Code that passes the parameters on."""
        return "".join(f", v_{name}" for name in self.givens)

    def names(self) -> tuple[str, ...]:
        """The names of the fields of a record, in order."""
        if self._names is None:
            self._names = tuple(self._field_names(()))
        return self._names

    def _field_names(self, around: tuple[Compiled, ...]) -> Iterator[str]:
        for item in self.statements:
            if isinstance(item, Field | Let) and item.name is not None:
                yield item.name
            elif isinstance(item, Splice):
                other = self.find_pattern(item.name)
                if other is None or other is self or other in around:
                    problem = (
                        f"{item.name} cannot contain its own fields"
                        if other
                        else self.unknown_type(item.name)
                    )
                    raise PatternError(self.name, problem, self.text, item.place)
                yield from other._field_names((*around, self))

    def is_simple(self) -> bool:
        """Whether it may be read in place: it does not ask where it is, and moves only forward."""
        for item in self.statements:
            if isinstance(item, Splice | Move):
                return False
            if isinstance(item, Field) and item.at is not None:
                return False
        return not any(PLACES & names(expr) for expr in expressions(self.statements))

    def first_bit_order(self, order: str = MSB, seen: tuple[Compiled, ...] = ()) -> str:
        """The bit order in force when its first field is read, of `order` if it says nothing."""
        for item in self.statements:
            if isinstance(item, SetOrder):
                order = item.bit_order or order
            elif isinstance(item, Field):
                return order if self in seen else self.type_bit_order(item.type, order, (*seen, self))
        return order

    def type_bit_order(self, type_: Type, order: str, seen: tuple[Compiled, ...] = ()) -> str:
        """The bit order in force when the first part of a value is read."""
        while isinstance(type_, ArrayType):
            type_ = type_.element
        if isinstance(type_, GroupType):
            return self.group(type_).first_bit_order(order, seen)
        if isinstance(type_, RefType):
            other = self.find_pattern(type_.name)
            return MSB if other is None else other.first_bit_order(MSB, seen)
        return order

    def last_bit_order(self) -> str:
        """The bit order in force at its end."""
        found = [item.bit_order for item in self.statements if isinstance(item, SetOrder) and item.bit_order]
        return found[-1] if found else MSB

    # -- names -----------------------------------------------------------------------------------------------

    def outside(self, name: str) -> tuple[object, bool]:
        """The object that `name` means outside the pattern; raises KeyError."""
        return self.lookup[name], self.offered

    def find_pattern(self, name: str) -> Compiled | None:
        """The pattern called `name`, or None."""
        from .record import compiled_of

        if name == "Self":
            return self.whole
        return compiled_of(self.lookup.get(name))

    def find_field_function(self, name: str) -> Function | None:
        """The field function called `name`, or None."""
        found = self.lookup.get(name)
        function: Function | None = getattr(found, "__bitmatch_field__", None)
        return function if callable(function) else None

    def unknown_type(self, name: str) -> str:
        """What is wrong with the unknown type `name`."""
        import difflib

        if name in self.lookup:
            return f"{name} is no pattern and no field function"
        from .record import compiled_of

        known = [*DATA_FORMS, "int", "float", "rest", "signed"]
        known += [key for key, value in self.lookup.items() if compiled_of(value) is not None]
        close = difflib.get_close_matches(name, known, 1)
        return f"unknown type {name!r}" + (f" (did you mean {close[0]}?)" if close else "")

    def map_function(self, expr: Expr) -> Function | None:
        """The function that a `map` clause names alone, or None if it is an expression of another kind."""
        import _ast as ast

        if not isinstance(expr.tree, ast.Name) or expr.tree.id in self.names():
            return None
        name = expr.tree.id
        found = self.lookup.get(name, BUILTIN_MAPS.get(name))
        if callable(found) and (self.offered or name in BUILTIN_MAPS or runtime.is_function(found)):
            return found
        return None

    def group(self, type_: GroupType) -> Compiled:
        """The pattern of a group in braces."""
        found = self.groups.get(type_.place)
        if found is None:
            found = Compiled(
                self.name, self.text, self.public, self.lookup, offered=self.offered, statements=type_.body
            )
            found.identifier = f"{self.identifier}_group"
            found.groups = self.groups
            found.whole = self.whole
            self.groups[type_.place] = found
        return found

    # -- records ---------------------------------------------------------------------------------------------

    @property
    def record(self) -> type[Record]:
        """The class of the records, which users meet as instances of the public class."""
        if self._record is None:
            from .record import make_record

            self._record = make_record(self)
        return self._record

    # -- layout ----------------------------------------------------------------------------------------------

    def learn(self, kind: str = "aligned") -> None:
        """Find out whether the size is fixed and whether the pattern ends with a byte.

        That takes writing one of its functions; with luck it is the one that is needed, of `kind`.
        """
        if self._state != "new":
            return
        self._state = "learning"
        try:
            reader = Reader(self, kind if kind in ("parse", "match") else "aligned")
            place = self._body(reader)
            if reader.moves_back and reader.state.base != reader.start:
                # Only now is it known that the end is not where the last field ends.
                self._needs_track = True
                reader = Reader(self, reader.kind)
                place = self._body(reader)
        except BaseException:
            self._state = "new"
            raise
        self._state = "known"
        self._bits = reader.size_bits
        self._aligned = reader.ends_aligned
        self._structs = reader.structs
        self._draft = reader, place

    def static_bits(self) -> int | None:
        """The size in bits if it does not depend on the data (and not on the pattern itself)."""
        with _LOCK:
            self.learn()
        return self._bits if self._state == "known" else None

    def ends_aligned(self) -> bool:
        """Whether the pattern takes whole bytes. A pattern that contains itself must."""
        with _LOCK:
            self.learn()
        return self._aligned

    # -- functions -------------------------------------------------------------------------------------------

    def entry(self, kind: str) -> Function:
        """The function of `kind`, or a stand-in while it is being made (a pattern that contains itself)."""
        found = self.functions.get(kind)
        if found is not None:
            return found
        if self._state != "known" or kind in self.sources:
            return lambda *args: self.function(kind)(*args)
        return self.function(kind)

    def function(self, kind: str) -> Function:
        """The function of `kind`, compiled now if it has not been yet."""
        found = self.functions.get(kind)
        if found is None:
            with _LOCK:
                self.learn(kind)
                self.sources[kind] = ""
                try:
                    found = self._make(kind)
                finally:
                    if not self.sources[kind]:
                        del self.sources[kind]
                self.functions[kind] = found
        return found

    def _make(self, kind: str) -> Function:
        writer = {"each": self._each, "parse": self._top, "match": self._top, "build": self._build}.get(
            kind, self._inner
        )
        source, namespace = writer(kind)
        namespace["R"] = self.record
        namespace["explain"] = partial(search.explain, self)
        namespace["again"] = partial(search.again, self)
        self.sources[kind] = source
        label = f"<bitmatch {self.identifier} {kind} {id(self):x}>"
        import linecache

        linecache.cache[label] = (len(source), None, source.splitlines(keepends=True), label)
        exec(compile(source, label, "exec"), namespace)
        made = namespace[kind]
        assert isinstance(made, FunctionType)
        return made

    def _write(self, kind: str) -> tuple[Reader, str]:
        """The body of the function of `kind`, and code for the place behind the pattern."""
        draft, self._draft = self._draft, None
        if draft is not None and draft[0].kind == kind:
            return draft
        reader = Reader(self, kind)
        return reader, self._body(reader)

    def _body(self, reader: Reader) -> str:
        reader.track = self._needs_track
        reader.indent = 1
        reader.line("r = R()")
        reader.statements(self.statements, "r")
        return finish(reader)

    def _once(self, reader: Reader) -> list[str]:
        """What a function that users call does first."""
        lines = []
        if reader.uses_plain:
            lines.append("plain = type(buf) is bytes")
        if reader.uses_end:
            lines += ["if type(buf) is not bytes:", "    buf = as_buffer(buf)", "end = len(buf)"]
            reader.globals["as_buffer"] = as_buffer
        if reader.uses_context:
            lines += [f"c = [{runtime.BUDGET}]", "d = 0"]
        return lines

    def _before(self, reader: Reader) -> list[str]:
        """What comes before each record."""
        lines = ["high = 0"] if reader.track else []
        if reader.total is not None and reader.uses_end:
            lines.append(f"size_end = offset + {reader.total >> 3}")
            lines += ["if size_end > end:", f"    {reader.fails[0]}"]
        return lines

    def _depth(self, reader: Reader) -> list[str]:
        """What a function does first that other patterns call."""
        lines = ["plain = type(buf) is bytes"] if reader.uses_plain else []
        if not reader.calls:
            return lines
        fail = f"c.fail('patterns nested at most {runtime.MAX_DEPTH} deep', c.more)"
        return [*lines, f"if d > {runtime.MAX_DEPTH}:", f"    {fail if reader.watched else reader.fails[0]}"]

    def _inner(self, kind: str) -> tuple[str, dict[str, object]]:
        reader, place = self._write(kind)
        if kind == "aligned" and not reader.ends_aligned:
            raise PatternError(self.name, "a pattern that contains itself must end with a byte", self.text, 0)
        start = "start" if reader.in_bits else "offset"
        head = f"def {kind}(buf, {start}, end, c, d{self.given_args}):\n"
        prologue = "".join(f"    {line}\n" for line in self._depth(reader) + self._before(reader))
        return f"{head}{prologue}" + "\n".join(reader.lines) + f"\n    return r, {place}\n", reader.globals

    def _build(self, kind: str) -> tuple[str, dict[str, object]]:
        from .emit_build import Writer

        assert kind == "build"
        return Writer(self).function()

    def _top(self, kind: str) -> tuple[str, dict[str, object]]:
        reader, _ = self._write(kind)
        args = self.given_args
        keywords = "".join(f"{', *' if not index else ''}, {name}" for index, name in enumerate(self.givens))
        lines = [f"def {kind}(buf, offset=0, /{keywords}):"]
        lines += [f"    v_{name} = {name}" for name in self.givens]
        refuse = "return None" if kind == "match" else f"raise explain(buf, offset{args})"
        lines += ["    if offset < 0:", f"        {refuse}", "    try:"]
        lines += [f"        {line}" for line in self._once(reader) + self._before(reader)]
        lines += ["    " + line for chunk in reader.lines for line in chunk.split("\n")]
        reader.globals["FAILURES"] = runtime.FAILURES
        lines += ["    except FAILURES as error:"]
        lines += [f"        return again({kind!r}, error, buf, offset{args})", "    return r", ""]
        return "\n".join(lines), reader.globals

    def _each(self, kind: str) -> tuple[str, dict[str, object]]:
        """A generator of records. With a single struct, the rows come from iter_unpack."""
        assert self._bits is not None
        size = self._bits >> 3
        if self._structs == 1 and size:
            reader = Reader(self, kind)
            reader.stride = size
            self._body(reader)
            if reader.single and reader.structs == 1 and not reader.uses_end and not reader.uses_context:
                sign, letters = reader.single
                if not any(_BUFFER.search(line) for line in reader.lines):
                    return self._rows(reader, sign + letters, size)
        reader = Reader(self, kind)
        reader.indent = 1
        self._body(reader)
        lines = [f"def {kind}(buf, first, count):"]
        lines += [f"    {line}" for line in self._once(reader)]
        lines += [f"    for offset in range(first, first + count * {size}, {size or 1}):"]
        lines += [f"        {line}" for line in self._before(reader)]
        lines += ["    " + line for chunk in reader.lines for line in chunk.split("\n")]
        lines += ["        yield r", ""]
        return "\n".join(lines), reader.globals

    def _rows(self, reader: Reader, letters: str, size: int) -> tuple[str, dict[str, object]]:
        rows = struct.Struct(letters)
        assert rows.size == size
        reader.globals["rows"] = rows.iter_unpack
        plain = [line.strip() for line in reader.lines if "R()" not in line]
        self._safe = not any("(" in line for line in plain if not _MAKES_RECORD.match(line))
        if plain == [
            ", ".join(f"r.{name}" for name in self.names()) + (", = t" if len(self.names()) == 1 else " = t")
        ]:
            self._row = rows
        lines = [
            "def each(buf, first, count):",
            f"    for t in rows(memoryview(buf)[first:first + count * {size}]):",
            *("    " + line for chunk in reader.lines for line in chunk.split("\n")),
            "        yield r",
            "",
        ]
        return "\n".join(lines), reader.globals

    def record_size(self) -> int:
        """The size in bytes of a pattern of fixed size."""
        assert self._bits is not None
        return self._bits >> 3

    def can_fail(self) -> bool:
        """Whether `each` may find a record that does not match."""
        self.function("each")
        return not self._safe

    def plain_rows(self) -> struct.Struct | None:
        """The struct that reads the fields of a record just as they are, if there is one."""
        bits = self.static_bits()
        if bits is None or bits & 7 or not bits or self.givens:
            return None
        self.function("each")
        return self._row

    def given_values(self, given: Mapping[str, object]) -> tuple[object, ...]:
        """The values of the parameters, in their order.

        Raises:
            TypeError: if one is missing or unknown.
        """
        if set(given) != set(self.givens):
            wanted = ", ".join(self.givens) or "none"
            raise TypeError(f"{self.name} takes the parameters {wanted}; given: {', '.join(given) or 'none'}")
        return tuple(given[name] for name in self.givens)

    def fail(self, problem: str) -> NoReturn:
        """Complain about the pattern as a whole."""
        raise PatternError(self.name, problem)


BUILTIN_MAPS: Mapping[str, Function] = {"bool": bool, "str": str, "hex": hex, "chr": chr}

"""Turns a pattern into the Python function that reads it.

`Reader` walks the statements of a pattern once and writes straight-line source: fields at known places are
gathered in a `runs.Run` and read by one struct call; anything whose place depends on the data moves the base
of the next run.

A position is a base variable plus a known number of bits. While the base is a byte offset (`static`), places
are known to the bit and reading is fast. After a piece of data whose length in bits is computed, the base is
a bit offset (`p`) and reading goes through the functions of `runtime`. The kinds of function that are made of
one pattern:

    parse, match, each      buf, offset (bytes)                  what users call; `each` yields records
    aligned                 buf, offset, end (bytes), c, d, ...  what an embedding pattern calls; returns
    (value, next) unaligned               buf, p, end (bits), c, d, ...        the same at any bit watched
    buf, p, end (bits), c, d, ...        the same, telling the Watch `c` of every field

`c` is the budget of elements (a list of one number), `d` how deep the pattern is nested.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import emit_nested, runtime
from .emit_values import Values
from .expression import Value, constant, emit, names
from .nodes import (
    BIG,
    MSB,
    ArrayType,
    ChoiceType,
    CondType,
    DataType,
    Expr,
    Field,
    FloatType,
    GroupType,
    Guard,
    IntType,
    Let,
    Move,
    RefType,
    SetOrder,
    Splice,
    Statement,
    Type,
    WithinType,
)

if TYPE_CHECKING:
    from .compiler import Compiled

INLINE_FIELDS = 48
"""Patterns with more fields are not read in place where they are embedded."""


class Reader(Values):
    """Writes one function of the pattern `owner`."""

    def __init__(self, owner: Compiled, kind: str) -> None:
        super().__init__(owner, kind)
        self.used = self.names_used(owner.statements)

    def names_used(self, statements: tuple[Statement, ...]) -> set[str]:
        """All names that expressions mention, so that their fields are kept in local variables."""
        found: set[str] = set()
        for expr in expressions(statements):
            found |= names(expr)
        return found

    def may_inline(self, other: Compiled) -> bool:
        """Whether the statements of `other` may be written in place of a call."""
        if other is self.owner or any(item is other for item in self.inlining) or len(self.inlining) > 3:
            return False
        return other.is_simple() and len(other.statements) <= INLINE_FIELDS

    # -- statements -----------------------------------------------------------------------------------------

    def statements(self, statements: tuple[Statement, ...], record: str) -> None:
        """Write the reading of `statements` into the record named `record`."""
        for statement in statements:
            if isinstance(statement, Field):
                self.field(statement, record)
            elif isinstance(statement, SetOrder):
                self.set_order(statement)
            elif isinstance(statement, Let):
                self.let(statement, record)
            elif isinstance(statement, Move):
                self.move(statement.verb, statement.expr)
            elif isinstance(statement, Guard):
                self.guard(statement)
            elif isinstance(statement, Splice):
                self.splice(statement, record)

    def set_order(self, statement: SetOrder) -> None:
        """Change the byte order or the bit order."""
        if statement.order is not None:
            self.order = self.order_code(statement.order)
            self.order_said = True
        if statement.bit_order is not None:
            self.bit_order = statement.bit_order
            self.bit_order_said = True

    def let(self, statement: Let, record: str) -> None:
        """A computed value."""
        self.check_name(statement.name, statement.place)
        name = f"v_{statement.name}"
        # A place asked for must be the place now, whatever is still waiting to be read.
        value = emit(statement.expr, self.scope)
        if self.watched:
            self.flush()
            self.line(f"c.enter({statement.name!r}, {self.bits_at()})")
        self.after(f"{name} = {record}.{statement.name} = {value.code}")
        if self.watched:
            self.line(f"c.leave({name}, {self.bits_at()})")
        self.scope.values[statement.name] = Value(name, value.is_int)

    def guard(self, statement: Guard) -> None:
        """A `when` line."""
        code = emit(statement.expr, self.scope).code
        if self.watched:
            self.flush()
        self.fail_if(f"not {code}", repr(f"when {statement.expr.source}"), "c.false", pending=True)

    def splice(self, statement: Splice, record: str) -> None:
        """The fields of another pattern, here."""
        other = self.owner_of(statement.name, statement.place)
        if any(item is other for item in self.inlining) or other is self.owner:
            self.problem(f"{statement.name} cannot contain its own fields", statement.place)
        outer, writing = self.scope, self.writing
        self.writing = other
        self.inlining.append(other)
        self.scope = self.new_scope(other, outer.values)
        self.used |= self.names_used(other.statements)
        kept = self.order, self.bit_order, self.order_said, self.bit_order_said
        self.order, self.bit_order, self.order_said, self.bit_order_said = BIG, MSB, False, False
        self.statements(other.statements, record)
        self.order, self.bit_order, self.order_said, self.bit_order_said = kept
        self.scope, self.writing = outer, writing
        self.inlining.pop()

    def owner_of(self, name: str, place: int) -> Compiled:
        """The pattern called `name`."""
        found = self.writing.find_pattern(name)
        if found is None:
            self.problem(f"there is no pattern {name!r} here", place)
        return found

    def check_name(self, name: str, place: int) -> None:
        """Complain if the name is taken."""
        if name in self.scope.values:
            self.problem(f"{name} is there twice", place)

    # -- fields ---------------------------------------------------------------------------------------------

    def field(self, item: Field, record: str) -> None:
        """A field, if it is there."""
        if item.name is not None:
            self.check_name(item.name, item.place)
        if self.watched:
            self.flush()
        if item.present is not None:
            test = self.compute(item.present).code
            assert item.present is not None
            target = self.target(item, record)
            self.branches(
                (f"if {test}:", lambda: self.present_field(item, record)),
                ("else:", lambda: self.absent_field(item, record, target)),
            )
            if item.name is not None:
                self.scope.values[item.name] = Value(target)
        else:
            self.present_field(item, record)

    def target(self, item: Field, record: str) -> str:
        """What the value of a field is first assigned to."""
        if item.name is None:
            return self.fresh("x")
        plain = not (item.equals or item.one_of or item.check or item.map or self.watched)
        if plain and item.name not in self.used:
            return f"{record}.{item.name}"
        return f"v_{item.name}" if record == "r" else f"v{record}_{item.name}"

    def absent_field(self, item: Field, record: str, target: str) -> None:
        """What happens when an optional field is not there."""
        if item.name is not None:
            store = f"{record}.{item.name}"
            self.line(f"{target} = None" if store == target else f"{store} = {target} = None")

    def present_field(self, item: Field, record: str) -> None:
        """A field that is there."""
        if self.watched:
            self.line(f"c.enter({item.shown!r}, {self.bits_at()})")
        if item.at is not None:
            self.move("at bit" if item.at_bits else "at", item.at)
            if self.watched:
                self.line(f"c.moved({self.bits_at()})")
        size = self.known_size(item.type)
        checked = item.equals or item.one_of or item.check or not is_data(item.type)
        if item.name is None and not checked and size is not None and not self.watched:
            self.turn(item.place)
            self.advance(size)  # nobody looks at it
            return
        target = self.target(item, record)
        value = self.read(item.type, target)
        if value.code != target:
            self.after(f"{target} = {value.code}")
        self.clauses(item, target, value.is_int)
        if item.name is not None:
            store = f"{record}.{item.name}"
            if store != target:
                self.after(f"{store} = {target}")
            self.scope.values[item.name] = Value(target, value.is_int and item.map is None)
        if self.watched:
            self.flush()
            self.line(f"c.leave({target}, {self.bits_at()})")

    def clauses(self, item: Field, target: str, is_int: bool) -> None:
        """The conditions on a field that was read into `target`, and what is made of it."""
        if self.watched:
            self.flush()
        if item.equals is not None:
            self.check_literal(item)
            wanted = emit(item.equals, self.scope).code
            show = self.call(runtime.show)
            self.fail_if(f"{target} != {wanted}", f"{show}({wanted})", target, pending=True)
        own = item.name and self.scope.values.get(item.name)
        if item.name is not None:
            self.scope.values[item.name] = Value(target, is_int)
        if item.one_of is not None:
            wanted = emit(item.one_of, self.scope).code
            self.fail_if(
                f"{target} not in {wanted}", repr(f"one of {item.one_of.source}"), target, pending=True
            )
        if item.check is not None:
            test = emit(item.check, self.scope).code
            self.fail_if(f"not {test}", repr(item.check.source), target, pending=True)
        if item.map is not None:
            self.after(f"{target} = {self.mapped(item.map, target)}")
        if item.name is not None and own:
            self.scope.values[item.name] = own

    def mapped(self, expr: Expr, target: str) -> str:
        """Code for a `map` clause: a function alone is called with the value."""
        function = self.writing.map_function(expr)
        if function is not None:
            return f"{self.bind(function, 'map')}({target})"
        return emit(expr, self.scope).code

    def check_literal(self, item: Field) -> None:
        """Complain about a constant that the field can never have."""
        assert item.equals is not None
        value = constant(item.equals)
        kind = item.type
        if isinstance(kind, IntType) and kind.size is None and value is not None:
            if not isinstance(value, int):
                self.problem("an integer never equals this", item.equals.place)
            low = -(1 << (kind.bits - 1)) if kind.signed else 0
            if not low <= value < low + (1 << kind.bits):
                self.problem(f"{value} does not fit {kind.bits} bits", item.equals.place)
        if isinstance(kind, DataType) and kind.form in ("bytes", "view") and value is not None:
            size = constant(kind.size)
            if not isinstance(value, bytes):
                self.problem("bytes are compared with bytes: write b'...'", item.equals.place)
            if isinstance(size, int) and size != len(value):
                self.problem(f"this constant has {len(value)} bytes and the field {size}", item.equals.place)

    def within(self, expr: Expr, type_: Type, target: str) -> Value:
        """Read a type in a piece of data of its own."""
        value = self.compute(expr).code
        size = self.fresh("n")
        self.line(f"{size} = {value}")
        if self.watched:
            self.line(f"c.need({self.bits_at()}, {size} * 8, {self.end_bits()})")
        limit = self.fresh("end")
        if self.is_aligned():
            self.line(f"{limit} = {self.byte_at()} + {size}")
            self.fail_if(f"{size} < 0 or {limit} > {self.end_bytes()}", "'a size'", size)
        else:
            self.line(f"{limit} = {self.bits_at()} + {size} * 8")
            self.fail_if(f"{size} < 0 or {limit} > {self.end_bits()}", "'a size'", size)
        bits = not self.is_aligned()
        outer, limited = self.end, self.limited
        self.end, self.limited = (limit, bits), True
        result = self.read(type_, target)
        self.cover()
        self.end, self.limited = outer, limited
        self.rebase(limit, bits=bits)
        return result

    def read(self, type_: Type, target: str) -> Value:
        """Write the reading of a value; the code returned holds once waiting fields have been read."""
        if is_data(type_):
            self.turn(type_.place)
        if isinstance(type_, IntType):
            return self.read_int(type_, target)
        if isinstance(type_, FloatType):
            return self.read_float(type_, target)
        if isinstance(type_, DataType):
            return self.read_data(type_, target)
        return emit_nested.read(self, type_, target)


def finish(reader: Reader) -> str:
    """Go to the end of the pattern, learn what can be said of its size, and return code for the end."""
    state = reader.state
    if state.base == reader.start and not reader.closing:
        size = max(state.k, reader.high or 0)
        if reader.total is not None:
            if size > reader.total:
                reader.problem(
                    f"the fields take {(size + 7) // 8} bytes and the pattern {reader.total // 8}", None
                )
            size = reader.total
        reader.state = state._replace(k=size)
        reader.cover()
        reader.size_bits = size
        reader.ends_aligned = not size & 7
        return reader.byte_at() if reader.is_aligned() else reader.bits_at()
    reader.cover()
    place = reader.bits_at()
    if reader.track:
        reader.note_high()
        place = "high"
        reader.fail_if(f"high > {reader.end_bits()}", "'fields that are all there'", "c.nothing")
    limits = reader.closing or (["size_end"] if reader.total is not None else [])
    if limits:
        unit = "" if reader.in_bits else " * 8"
        reader.uses_end = True
        reader.fail_if(
            f"{place} > {limits[0]}{unit}", "'fields that fit the size of the pattern'", "c.nothing"
        )
        return limits[0]
    if reader.in_bits:
        return place
    reader.ends_aligned = reader.is_aligned() and not reader.high_is_loose
    if not reader.ends_aligned:
        return place
    return "high >> 3" if reader.track else reader.byte_at()


def is_data(type_: Type) -> bool:
    """Whether reading a type needs no checks but that the data exists."""
    if isinstance(type_, ArrayType):
        return is_data(type_.element)
    return isinstance(type_, IntType | FloatType | DataType)


def expressions(statements: tuple[Statement, ...]) -> Iterator[Expr]:
    """All expressions in `statements`, those of types and groups included."""
    for item in statements:
        if isinstance(item, Field):
            for expr in (item.equals, item.one_of, item.check, item.map, item.present, item.at):
                if expr is not None:
                    yield expr
            yield from type_expressions(item.type)
        elif isinstance(item, Let | Move | Guard):
            yield item.expr
        elif isinstance(item, SetOrder) and isinstance(item.order, Expr):
            yield item.order


def type_expressions(type_: Type) -> Iterator[Expr]:
    """All expressions in a type."""
    if isinstance(type_, IntType | FloatType | DataType):
        if not isinstance(type_, FloatType) and type_.size is not None:
            yield type_.size
        if isinstance(type_.order, Expr):
            yield type_.order
    elif isinstance(type_, RefType):
        for _, expr in type_.args:
            yield expr
    elif isinstance(type_, GroupType):
        yield from expressions(type_.body)
    elif isinstance(type_, ArrayType):
        if type_.expr is not None:
            yield type_.expr
        yield from type_expressions(type_.element)
    elif isinstance(type_, ChoiceType):
        for option in type_.options:
            yield from type_expressions(option)
    elif isinstance(type_, WithinType):
        yield type_.size
        yield from type_expressions(type_.inner)
    elif isinstance(type_, CondType):
        yield type_.test
        yield from type_expressions(type_.yes)
        yield from type_expressions(type_.no)

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

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from . import emit_nested, runtime
from .errors import PatternError
from .expression import Scope, Value, constant, emit, names
from .nodes import (
    BIG,
    LITTLE,
    LSB,
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
    Order,
    RefType,
    SetOrder,
    Splice,
    Statement,
    Type,
    WithinType,
)
from .runs import Item, Run, flag

if TYPE_CHECKING:
    from .compiler import Compiled

INLINE_FIELDS = 48
"""Patterns with more fields are not read in place where they are embedded."""


class State(NamedTuple):
    """Where the next field is: `k` bits after `base`, a byte offset if `static`, else a bit offset.

    `covered` is how many bits from the base are known to exist.
    """

    static: bool
    base: str
    k: int
    covered: int


class Unaligned(Exception):
    """The pattern does not end with a byte, so no function for whole bytes can be made of it."""


class Reader:
    """Writes one function of the pattern `owner`."""

    def __init__(self, owner: Compiled, kind: str) -> None:
        self.owner = owner
        self.kind = kind
        self.watched = kind == "watched"
        self.in_bits = kind in ("unaligned", "watched")
        self.limited = kind in ("aligned", "unaligned", "watched")
        self.lines: list[str] = []
        self.indent = 0
        self.globals: dict[str, object] = {}
        self.bound: dict[int, str] = {}
        self.counter = 0
        self.run = Run()
        self.post: list[str] = []
        self.start = "start" if self.in_bits else "offset"
        self.state = State(not self.in_bits, self.start, 0, 0 if self.limited else -1)
        self.end = ("end", self.in_bits)  # code, and whether it counts bits
        self.order: str = BIG
        self.bit_order = MSB
        self.order_said = False
        self.bit_order_said = False
        self.stream = MSB  # the bit order of what was read last
        self.high: int | None = None  # furthest place reached before moving back, in bits from the start
        self.track = False
        self.moves_back = False
        self.total: int | None = None
        self.closing: list[str] = []
        self.uses_end = self.uses_start = self.uses_context = False
        self.calls = False
        self.inlining: list[object] = []
        self.stride: int | None = None  # of `each`, in bytes, when one struct reads the whole pattern
        self.single: tuple[str, str] | None = None
        self.structs = 0
        self.fails = [self.fail_code()]
        self.scope = self.new_scope(owner, {name: Value(f"v_{name}") for name in owner.givens})
        self.used = self.names_used(owner.statements)

    # -- writing --------------------------------------------------------------------------------------------

    def line(self, code: str) -> None:
        """A line of source at the current indentation."""
        self.lines.append("    " * self.indent + code)

    def after(self, code: str) -> None:
        """A statement for when the fields met so far have been read."""
        if self.run.items:
            self.post.append(code)
        else:
            self.line(code)

    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        """An indented block under `header`."""
        self.line(header)
        self.indent += 1
        yield
        self.indent -= 1

    def fresh(self, stem: str) -> str:
        """A new local name."""
        self.counter += 1
        return f"{stem}{self.counter}"

    def bind(self, value: object, name: str) -> str:
        """The global name under which generated code finds `value`."""
        known = self.bound.get(id(value))
        if known is None:
            known = f"_{name}{len(self.bound)}"
            self.bound[id(value)] = known
            self.globals[known] = value
        return known

    def call(self, function: Callable[..., object]) -> str:
        """The global name of a function."""
        return self.bind(function, function.__name__)

    def problem(self, problem: str, place: int | None) -> NoReturn:
        """Complain about the text at `place`."""
        raise PatternError(self.scope.pattern, problem, self.scope.text, place)

    def fail_code(self) -> str:
        """What generated code does when the data does not match."""
        if self.kind == "match":
            return "return None"
        return f"raise {self.bind(runtime.Mismatch, 'Mismatch')}"

    def fail_if(self, condition: str, expected: str, got: str = "", *, pending: bool = False) -> None:
        """Fail when `condition` holds; `expected` and `got` are code for the words of the message."""
        write = self.after if pending else self.line
        write(f"if {condition}:")
        if self.watched:
            write(f"    c.fail({expected}, {got or 'c.place'})")
        else:
            write(f"    {self.fails[-1]}")

    # -- positions ------------------------------------------------------------------------------------------

    def bits_at(self) -> str:
        """Code for the current place in bits."""
        state = self.state
        if not state.static:
            return f"({state.base} + {state.k})" if state.k else state.base
        base = state.base if not state.k >> 3 else f"({state.base} + {state.k >> 3})"
        return f"({base} * 8 + {state.k & 7})" if state.k & 7 else f"({base} * 8)"

    def byte_at(self, more: int = 0) -> str:
        """Code for the current place in bytes, when static and aligned."""
        offset = (self.state.k >> 3) + more
        return f"{self.state.base} + {offset}" if offset else self.state.base

    def is_aligned(self) -> bool:
        """Whether the current place is known to be the first bit of a byte."""
        return self.state.static and not self.state.k & 7

    def end_bits(self) -> str:
        """Code for the end of the data, in bits."""
        self.uses_end = True
        code, bits = self.end
        return code if bits else f"({code} * 8)"

    def end_bytes(self) -> str:
        """Code for the end of the data, in bytes."""
        self.uses_end = True
        code, bits = self.end
        return f"({code} >> 3)" if bits else code

    def start_bits(self) -> str:
        """Code for the start of the pattern, in bits."""
        self.uses_start = True
        return self.start if self.in_bits else f"({self.start} * 8)"

    def note_high(self) -> None:
        """Remember how far the pattern has reached, before the place changes."""
        if self.track:
            self.line(f"high = max(high, {self.bits_at()})")

    def cover(self) -> None:
        """Make sure that everything up to the current place exists."""
        self.flush()
        if self.state.k > self.state.covered:
            if self.watched:
                self.line(f"c.need({self.state.base}, {self.state.k}, {self.end_bits()})")
            elif self.state.static:
                more = (self.state.k + 7) >> 3
                self.fail_if(f"{self.state.base} + {more} > {self.end_bytes()}", "")
            else:
                self.fail_if(f"{self.state.base} + {self.state.k} > {self.end_bits()}", "")
            self.state = self.state._replace(covered=self.state.k)

    def rebase(self, code: str, *, bits: bool = False, k: int = 0) -> None:
        """Go to a computed place: `code` in bytes, or in bits."""
        self.note_high()
        if bits:
            self.line(f"p = {code}")
            self.state = State(False, "p", k, 0)
        else:
            if code != "o":
                self.line(f"o = {code}")
            self.state = State(True, "o", k, min(k, 0))

    def settle(self) -> None:
        """Bring the place into the base variable, as at the head and the foot of a loop."""
        self.cover()
        if self.state.static:
            k = self.state.k
            if k >> 3 or self.state.base != "o":
                self.rebase(f"{self.state.base} + {k >> 3}" if k >> 3 else self.state.base, k=k & 7)
            self.state = State(True, "o", k & 7, 0)
        elif self.state.k or self.state.base != "p":
            self.rebase(self.bits_at(), bits=True)

    def to_bits(self) -> None:
        """Go over to a bit offset."""
        if self.state.static:
            self.cover()
            self.rebase(self.bits_at(), bits=True)

    def advance(self, size: int) -> None:
        """Pass over `size` bits."""
        self.state = self.state._replace(k=self.state.k + size)

    def save(self) -> tuple[int, State]:
        """What `restore` needs to write a loop once more in another way."""
        self.cover()
        return len(self.lines), self.state

    def restore(self, saved: tuple[int, State]) -> None:
        """Forget what was written since `save`."""
        del self.lines[saved[0] :]
        self.state = saved[1]

    def may_inline(self, other: Compiled) -> bool:
        """Whether the statements of `other` may be written in place of a call."""
        if other is self.owner or any(item is other for item in self.inlining) or len(self.inlining) > 3:
            return False
        return other.is_simple() and len(other.statements) <= INLINE_FIELDS

    def flush(self) -> None:
        """Read the fields that wait."""
        if not self.run.items:
            return
        run, post, state = self.run, self.post, self.state
        self.run, self.post = Run(), []
        if self.limited:
            need = max(state.k, *(item.place + item.size for item in run.items))
            self.fail_if(f"{state.base} + {(need + 7) >> 3} > {self.end_bytes()}", "")
        cover = state.k >> 3 if self.stride is None else self.stride
        source = None if self.stride is None else self.take_row
        lines, end, structs = run.emit(state.base, self.fresh, self.bind, cover, source)
        self.structs += structs
        for code in lines:
            self.line(code)
        for code in post:
            self.line(code)
        self.state = state._replace(covered=max(state.covered, end * 8))

    def take_row(self, sign: str, letters: str) -> str:
        """Stand in for the struct call in a loop over rows that are already taken apart."""
        self.single = (sign, letters)
        return "t"

    # -- scopes ---------------------------------------------------------------------------------------------

    def new_scope(self, owner: Compiled, values: dict[str, Value]) -> Scope:
        """The names that the expressions of `owner` may use."""
        return Scope(
            owner.name,
            owner.text,
            values,
            owner.outside,
            self.bind,
            {
                "offset": self.offset_code,
                "bit_offset": self.bit_offset_code,
                "remaining": self.remaining_code,
            },
        )

    def offset_code(self) -> str:
        """Code for offset()."""
        if self.state.static and self.state.base == self.start and not self.state.k & 7:
            return str(self.state.k >> 3)
        return f"({self.bit_offset_code()} >> 3)"

    def bit_offset_code(self) -> str:
        """Code for bit_offset()."""
        if self.state.static and self.state.base == self.start:
            return str(self.state.k)
        return f"({self.bits_at()} - {self.start_bits()})"

    def remaining_code(self) -> str:
        """Code for remaining()."""
        return f"(({self.end_bits()} - {self.bits_at()}) >> 3)"

    def names_used(self, statements: tuple[Statement, ...]) -> set[str]:
        """All names that expressions mention, so that their fields are kept in local variables."""
        found: set[str] = set()
        for expr in expressions(statements):
            found |= names(expr)
        return found

    def compute(self, expr: Expr) -> Value:
        """Code for `expr`, of which all fields have been read."""
        self.flush()
        return emit(expr, self.scope)

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

    def order_code(self, order: Order | None) -> str:
        """LITTLE, BIG or the name of a variable that is true for big."""
        if order is None:
            return self.order
        if isinstance(order, str):
            return order
        self.flush()
        values = dict(self.scope.values)
        values.setdefault("big", Value("True"))
        values.setdefault("little", Value("False"))
        values.setdefault("native", Value(str(runtime.NATIVE_IS_BIG)))
        scope = Scope(
            self.scope.pattern,
            self.scope.text,
            values,
            self.scope.outside,
            self.bind,
            self.scope.place_functions,
        )
        name = self.fresh("big")
        self.line(f"{name} = {self.call(runtime.is_big)}({emit(order, scope).code})")
        return name

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
        outer = self.scope
        self.inlining.append(other)
        self.scope = self.new_scope(other, outer.values)
        self.used |= self.names_used(other.statements)
        kept = self.order, self.bit_order, self.order_said, self.bit_order_said
        self.order, self.bit_order, self.order_said, self.bit_order_said = BIG, MSB, False, False
        self.statements(other.statements, record)
        self.order, self.bit_order, self.order_said, self.bit_order_said = kept
        self.scope = outer
        self.inlining.pop()

    def owner_of(self, name: str, place: int) -> Compiled:
        """The pattern called `name`."""
        found = self.owner.find_pattern(name)
        if found is None:
            self.problem(f"there is no pattern {name!r} here", place)
        return found

    def check_name(self, name: str, place: int) -> None:
        """Complain if the name is taken."""
        if name in self.scope.values:
            self.problem(f"{name} is there twice", place)

    # -- moving ---------------------------------------------------------------------------------------------

    def move(self, verb: str, expr: Expr) -> None:
        """Go to, over or on to a place."""
        known = constant(expr)
        if verb == "size":
            self.set_size(expr, known)
            return
        if isinstance(known, int):
            if known < 0 or known > emit_nested.MAX_FIXED * 8:
                self.problem("a place or a size that cannot be", expr.place)
            if verb == "align" and known == 0:
                self.problem("nothing can be aligned to 0 bytes", expr.place)
            if self.move_known(verb, known):
                return
        value = self.compute(expr).code
        if verb == "skip":
            self.skip(value)
            return
        if verb == "align":
            size = self.fresh("n")
            self.line(f"{size} = {value} * 8")
            self.fail_if(f"{size} <= 0", "'an alignment'", size)
            self.go(f"{self.start_bits()} + -(-({self.bits_at()} - {self.start_bits()}) // {size}) * {size}")
            if not self.in_bits:
                self.rebase("p >> 3")
            return
        place = self.fresh("n")
        self.line(f"{place} = {value}")
        self.fail_if(f"{place} < 0", "'a place after the start'", place)
        self.moves_back = True
        if verb == "at":
            self.go_bytes(place)
        else:
            self.go(f"{self.start_bits()} + {place}")

    def move_known(self, verb: str, size: int) -> bool:
        """Move by or to a known place, if the base is known as well."""
        state = self.state
        if verb == "skip":
            self.advance(size * 8)
            return True
        if state.base != self.start:
            return False
        if verb == "align":
            target = -(-state.k // (size * 8)) * size * 8
        else:
            target = size * 8 if verb == "at" else size
            if target < state.k:
                self.moves_back = True
                self.high = max(self.high or 0, state.k)
                self.note_high()
        self.state = state._replace(k=target)
        return True

    def go_bytes(self, place: str) -> None:
        """Go to a computed place, in bytes from the start of the pattern."""
        if self.in_bits:
            self.go(f"{self.start_bits()} + {place} * 8")
            return
        self.cover()
        self.uses_start = True
        self.rebase(f"{self.start} + {place}")
        self.fail_if(f"o > {self.end_bytes()}", "")

    def go(self, place: str) -> None:
        """Go to a computed place in bits."""
        self.cover()
        self.rebase(place, bits=True)
        if self.watched:
            self.line(f"c.need(p, 0, {self.end_bits()})")
        else:
            self.fail_if(f"p > {self.end_bits()}", "")

    def skip(self, size: str) -> None:
        """Pass over a computed number of bytes."""
        name = self.fresh("n")
        self.line(f"{name} = {size}")
        if self.watched:
            self.line(f"c.need({self.bits_at()}, {name} * 8, {self.end_bits()})")
        if self.is_aligned():
            self.fail_if(f"{name} < 0 or {self.byte_at()} + {name} > {self.end_bytes()}", "'a size'", name)
            self.cover()
            self.rebase(f"{self.byte_at()} + {name}")
        else:
            self.fail_if(f"{name} < 0 or {self.bits_at()} + {name} * 8 > {self.end_bits()}", "'a size'", name)
            self.cover()
            self.rebase(f"{self.bits_at()} + {name} * 8", bits=True)

    def set_size(self, expr: Expr, known: object) -> None:
        """`size N`: the pattern takes N bytes, whatever its fields take."""
        if self.inlining:
            self.problem("size has no place in a part of a pattern", expr.place)
        if self.total is not None or self.closing:
            self.problem("size is said twice", expr.place)
        if (
            isinstance(known, int)
            and self.kind != "watched"
            and not self.in_bits
            and self.state.base == self.start
        ):
            self.total = known * 8
            self.end = ("size_end", False)
            return
        value = self.compute(expr).code
        name, limit = self.fresh("n"), self.fresh("end")
        self.line(f"{name} = {value}")
        unit = " * 8" if self.in_bits else ""
        self.uses_start = True
        self.line(f"{limit} = {self.start} + {name}{unit}")
        end = self.end_bits() if self.in_bits else self.end_bytes()
        if self.watched:
            self.line(f"c.need({self.start}, {name} * 8, {end})")
        else:
            self.fail_if(f"{name} < 0 or {limit} > {end}", "")
        self.end = (limit, self.in_bits)
        self.limited = True
        self.closing.append(limit)

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
        function = self.owner.map_function(expr)
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

    def branches(self, *bodies: tuple[str, Callable[[], None]]) -> None:
        """Write alternatives of which one is taken, and bring their ends to the same kind of place."""
        self.flush()
        before = self.state
        ends: list[tuple[int, int, State]] = []
        for header, body in bodies:
            self.state = before
            with self.block(header):
                ends.append(self.arm(body))
        self.join(ends)

    def arm(self, body: Callable[[], None]) -> tuple[int, int, State]:
        """Write one alternative; what it returns goes to `join`."""
        order = self.order
        body()
        self.cover()
        self.order = order
        self.line("pass")
        return len(self.lines) - 1, self.indent, self.state

    def join(self, ends: list[tuple[int, int, State]]) -> None:
        """Bring the ends of alternatives to one kind of place."""
        states = [state for _, _, state in ends]
        first = states[0]
        if all(state[:3] == first[:3] for state in states):
            self.state = first._replace(covered=min(state.covered for state in states))
            return
        static = all(state.static for state in states) and len({state.k & 7 for state in states}) == 1
        for index, indent, state in ends:
            self.state = state
            code = f"o = {state.base} + {state.k >> 3}" if static else f"p = {self.bits_at()}"
            pad = "    " * indent
            self.lines[index] = pad + code
            if self.track:
                self.lines[index] = f"{pad}high = max(high, {self.bits_at()})\n{pad}{code}"
        k = first.k & 7 if static else 0
        self.state = State(static, "o" if static else "p", k, 0)

    # -- types ----------------------------------------------------------------------------------------------

    def known_size(self, type_: Type) -> int | None:
        """The size of a type in bits, when it does not depend on the data."""
        if isinstance(type_, IntType):
            return type_.bits or None
        if isinstance(type_, FloatType):
            return type_.bits
        if isinstance(type_, DataType):
            size = constant(type_.size)
            if not isinstance(size, int) or type_.form == "cstring":
                return None
            if not 0 <= size <= emit_nested.MAX_FIXED:
                assert type_.size is not None
                self.problem("a size that cannot be", type_.size.place)
            return size if type_.form == "bits" else size * 8
        if isinstance(type_, RefType):
            other = self.owner.find_pattern(type_.name)
            return other.static_bits() if other is not None and not type_.args else None
        if isinstance(type_, GroupType):
            return None
        if isinstance(type_, ArrayType) and type_.mode == "count":
            count = constant(type_.expr)
            size = self.known_size(type_.element)
            if isinstance(count, int) and size is not None:
                if not 0 <= count * max(size, 1) <= emit_nested.MAX_FIXED * 8:
                    assert type_.expr is not None
                    self.problem("a count that cannot be", type_.expr.place)
                return count * size
        return None

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

    def turn(self, place: int) -> None:
        """Make sure that the bit order changes only where a byte begins."""
        self.turn_to(self.bit_order, place)

    def turn_to(self, order: str, place: int) -> None:
        """Make sure that the bit order becomes `order` only where a byte begins."""
        if self.stream == order:
            return
        if not self.state.static:
            self.fail_if(
                f"{self.bits_at()} & 7", "'a change of the bit order where a byte begins'", "c.nothing"
            )
        elif self.state.k & 7:
            self.problem("the bit order changes where no byte begins", place)
        self.stream = order

    def read_int(self, type_: IntType, target: str) -> Value:
        """An integer."""
        order = self.order_code(type_.order)
        self.check_bit_order(type_, order)
        if type_.size is None and self.state.static:
            self.run.items.append(
                Item(
                    self.state.k,
                    type_.bits,
                    "int",
                    target,
                    signed=type_.signed,
                    order=order,
                    bit_order=self.bit_order,
                )
            )
            self.advance(type_.bits)
            return Value(target, is_int=True)
        size = str(type_.bits) if type_.size is None else self.compute(type_.size).code
        if type_.size is not None:
            name = self.fresh("n")
            self.line(f"{name} = {size}")
            size = name
            self.fail_if(f"not 0 < {size} <= 64", "'1 to 64 bits'", size)
        if self.watched:
            self.line(f"c.need({self.bits_at()}, {size}, {self.end_bits()})")
        self.line(
            f"{target} = {self.call(runtime.integer)}(buf, {self.bits_at()}, {size}, {self.end_bits()}, "
            f"{flag(order)}, {self.bit_order == LSB}, {type_.signed})"
        )
        if type_.size is None:
            self.advance(type_.bits)
            self.state = self.state._replace(covered=self.state.k)
        else:
            self.rebase(f"{self.bits_at()} + {size}", bits=True)
        return Value(target, is_int=True)

    def check_bit_order(self, type_: IntType, order: str) -> None:
        """Complain about parts of bytes of which it is not clear where they lie."""
        whole = type_.size is None and not type_.bits & 7 and (not self.state.static or not self.state.k & 7)
        if whole:
            return
        if self.bit_order == LSB and order != LITTLE and (type_.size is not None or type_.bits > 8):
            self.problem(
                "where the lowest bit comes first, a field of several partial bytes is little-endian",
                type_.place,
            )
        if self.order_said and self.order != BIG and type_.order is None and not self.bit_order_said:
            self.problem(
                "parts of bytes in a pattern that is not big-endian: say `lsb` after the byte order if the "
                "first field has the lowest bits (as in C) or `msb` if it has the highest",
                type_.place,
            )

    def read_float(self, type_: FloatType, target: str) -> Value:
        """A floating-point number."""
        order = self.order_code(type_.order)
        if self.state.static and not (self.state.k & 7 and self.bit_order == LSB):
            self.run.items.append(
                Item(self.state.k, type_.bits, "float", target, order=order, bit_order=self.bit_order)
            )
        else:
            if self.bit_order == LSB and self.state.static:
                self.problem("a float begins with a byte where the lowest bit comes first", type_.place)
            self.flush()
            if self.watched:
                self.line(f"c.need({self.bits_at()}, {type_.bits}, {self.end_bits()})")
            self.line(
                f"{target} = {self.call(runtime.real)}"
                f"(buf, {self.bits_at()}, {type_.bits}, {self.end_bits()}, {flag(order)})"
            )
        self.advance(type_.bits)
        return Value(target)

    def read_data(self, type_: DataType, target: str) -> Value:
        """Bytes, bits or text."""
        if type_.form == "cstring":
            return self.read_cstring(type_, target)
        bits = self.known_size(type_)
        encoded = type_.form == "str"
        order = self.order_code(type_.order) if encoded else BIG
        if bits is not None and self.state.static and type_.form in ("bytes", "str"):
            if not bits:
                return Value("''" if encoded else "b''")
            self.run.items.append(Item(self.state.k, bits, "bytes", target, bit_order=self.bit_order))
            self.advance(bits)
            return Value(self.decoded(type_, target, order)) if encoded else Value(target)
        unit = 1 if type_.form == "bits" else 8
        if (
            unit == 1
            and self.bit_order == LSB
            and self.state.static
            and (self.state.k & 7 or (bits or 0) & 7)
        ):
            self.problem("where the lowest bit comes first, bits() begins and ends with a byte", type_.place)
        self.flush()
        if bits is not None:
            size = str(bits // unit)
        elif type_.size is None:
            size = self.fresh("n")
            left = f"{self.end_bits()} - {self.bits_at()}"
            self.line(f"{size} = {left}" if unit == 1 else f"{size} = ({left}) >> 3")
        else:
            value = self.compute(type_.size).code
            size = self.fresh("n")
            self.line(f"{size} = {value}")
        if self.watched:
            self.line(f"c.need({self.bits_at()}, {size}{' * 8' if unit == 8 else ''}, {self.end_bits()})")
        if type_.form in ("bytes", "str") and self.is_aligned():
            self.cover()
            stop = self.fresh("o")
            self.line(f"{stop} = {self.byte_at()} + {size}")
            self.fail_if(f"{size} < 0 or {stop} > {self.end_bytes()}", "'a size'", size)
            self.line(f"{target} = {self.bind(bytes, 'bytes')}(buf[{self.byte_at()}:{stop}])")
            self.rebase(stop)
        else:
            functions = {
                "bits": runtime.piece,
                "view": runtime.view,
                "bytes": runtime.data,
                "str": runtime.data,
            }
            tail = ", True" if self.bit_order == LSB and unit == 8 and type_.form != "view" else ""
            function = self.call(functions[type_.form])
            self.line(f"{target} = {function}(buf, {self.bits_at()}, {size}, {self.end_bits()}{tail})")
            if bits is not None:
                self.advance(bits)
                self.state = self.state._replace(covered=self.state.k)
            elif type_.size is None and self.state.static:
                self.cover()
                self.rebase(self.end_bytes())
            elif unit == 8 and self.state.static:
                self.cover()
                self.rebase(f"{self.byte_at()} + {size}", k=self.state.k & 7)
            else:
                self.cover()
                self.rebase(f"{self.bits_at()} + {size}{' * 8' if unit == 8 else ''}", bits=True)
        return Value(self.decoded(type_, target, order)) if encoded else Value(target)

    def decoded(self, type_: DataType, target: str, order: str) -> str:
        """Code that makes text of the bytes in `target`."""
        if type_.encoding == "utf-8":
            return f"{self.call(runtime.decode)}({target})"
        return f"{self.call(runtime.decode_as)}({target}, {type_.encoding!r}, {flag(order)})"

    def read_cstring(self, type_: DataType, target: str) -> Value:
        """Text up to a NUL."""
        if type_.encoding in runtime.WIDTHS:
            self.problem(
                f"cstring ends with one zero byte, which {type_.encoding} does not have", type_.place
            )
        limit = "None" if type_.size is None else self.compute(type_.size).code
        self.read_by(self.call(runtime.cstring), target, f", {limit}, {type_.encoding!r}", type_.place)
        return Value(target)

    def read_by(self, function: str, target: str, args: str, place: int, first: str = "") -> None:
        """Read by a function of (buffer, offset, end, ...) in bytes that returns (value, next)."""
        self.cover()
        self.note_high()
        if self.state.static:
            if self.state.k & 7:
                self.problem("this begins where no byte begins", place)
            self.line(f"{target}, o = {function}({first}buf, {self.byte_at()}, {self.end_bytes()}{args})")
            self.state = State(True, "o", 0, 0)
            return
        self.fail_if(f"{self.bits_at()} & 7", "'a place where a byte begins'")
        self.line(f"{target}, o = {function}({first}buf, {self.bits_at()} >> 3, {self.end_bytes()}{args})")
        self.line("p = o * 8")
        self.state = State(False, "p", 0, 0)


def finish(reader: Reader) -> tuple[int | None, str]:
    """Go to the end of the pattern: its size in bits if that is fixed, and code for the place behind it."""
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
        if reader.state.static and size & 7:
            raise Unaligned
        return size, reader.bits_at() if reader.in_bits else reader.byte_at()
    reader.cover()
    place = reader.bits_at()
    if reader.track:
        reader.line(f"high = max(high, {place})")
        place = "high"
        reader.fail_if(f"high > {reader.end_bits()}", "'fields that are all there'", "c.nothing")
    limits = reader.closing or (["size_end"] if reader.total is not None else [])
    if limits:
        unit = "" if reader.in_bits else " * 8"
        reader.uses_end = True
        reader.fail_if(
            f"{place} > {limits[0]}{unit}", "'fields that fit the size of the pattern'", "c.nothing"
        )
        return None, limits[0]
    if reader.in_bits:
        return None, place
    if reader.track:
        reader.fail_if("high & 7", "")
        return None, "high >> 3"
    if not reader.is_aligned():
        raise Unaligned
    return None, reader.byte_at()


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

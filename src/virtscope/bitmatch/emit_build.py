"""Turns a pattern into the Python function that builds it.

That is `build(r, w, ...)`, which puts the record `r` into the Sink `w`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from . import runtime
from .errors import BuildError, PatternError
from .expression import Scope, Value, constant, emit
from .nodes import (
    BIG,
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
from .runs import flag
from .source import Source

if TYPE_CHECKING:
    from .compiler import Compiled


class Writer(Source):
    """Writes the build function of the pattern `owner`."""

    def __init__(self, owner: Compiled) -> None:
        super().__init__(indent=1)
        self.owner = owner
        self.writing = owner  # whose text is being written
        self.order: str = BIG
        self.bit_order = MSB
        self.backward = False
        self.size: str | None = None
        self.inferred: dict[str, str] = {}
        self.scope = self.new_scope(owner, {name: Value(f"v_{name}") for name in owner.givens}, None)

    def function(self) -> tuple[str, dict[str, object]]:
        """The source and the globals of the build function."""
        self.infer(self.owner.statements, "r")
        self.statements(self.owner.statements, "r")
        if self.size is not None:
            self.line(f"w.pad(start, {self.size})")
        head = f"def build(r, w{self.owner.given_args}):\n    start = high = w.place\n"
        return head + "\n".join(self.lines) + "\n", self.globals

    def problem(self, problem: str, place: int | None) -> NoReturn:
        """Complain about the text at `place`."""
        raise PatternError(self.scope.pattern, problem, self.scope.text, place)

    def new_scope(self, owner: Compiled, values: dict[str, Value], outer: Scope | None) -> Scope:
        """The names that the expressions of `owner` may use."""
        places = {
            "offset": lambda: "((w.place - start) >> 3)",
            "bit_offset": lambda: "(w.place - start)",
            "remaining": lambda: "w.fail('how much data follows is not known while it is built')",
        }
        return Scope(owner.name, owner.text, values, owner.outside, self.bind, places, outer)

    def code(self, expr: Expr) -> str:
        """Code for an expression."""
        return emit(expr, self.scope).code

    # -- statements ------------------------------------------------------------------------------------------

    def infer(self, statements: tuple[Statement, ...], record: str) -> None:
        """Find the fields that only say how long another one is."""
        for item in statements:
            if not isinstance(item, Field) or item.name is None or item.present is not None:
                continue
            type_ = item.type
            size = type_.size if isinstance(type_, DataType) else None
            if isinstance(type_, ArrayType) and type_.mode == "count":
                size = type_.expr
            if size is None or not size.source.isidentifier():
                continue
            measure = f"len({record}.{item.name})"
            if isinstance(type_, DataType) and type_.form in ("str", "cstring"):
                measure = f"len(w.encoded({record}.{item.name}, {type_.encoding!r}, True))"
            self.inferred.setdefault(
                size.source, f"{measure} if {record}.{item.name} is not None else w.missing()"
            )

    def statements(self, statements: tuple[Statement, ...], record: str) -> None:
        """Write the building of `statements` from the record named `record`."""
        for item in statements:
            if isinstance(item, Field):
                self.field(item, record)
            elif isinstance(item, Let):
                name = self.local(item.name, record)
                self.line(f"{name} = {record}.{item.name} = {self.code(item.expr)}")
                self.scope.values[item.name] = Value(name)
            elif isinstance(item, SetOrder):
                if item.order is not None:
                    self.order = self.order_code(item.order)
                self.bit_order = item.bit_order or self.bit_order
            elif isinstance(item, Move):
                self.move(item.verb, item.expr)
            elif isinstance(item, Guard):
                with self.block(f"if not {self.code(item.expr)}:"):
                    self.line(f"w.fail({f'it is not so that {item.expr.source}'!r})")
            elif isinstance(item, Splice):
                self.splice(item, record)

    def local(self, name: str, record: str) -> str:
        """The local name of a field."""
        return f"v_{name}" if record == "r" else f"v{record}_{name}"

    def splice(self, item: Splice, record: str) -> None:
        """The fields of another pattern, here."""
        other = self.writing.find_pattern(item.name)
        assert other is not None  # the names of the record have been found
        outer, order, bit_order, writing = self.scope, self.order, self.bit_order, self.writing
        self.writing = other
        self.scope = self.new_scope(other, outer.values, outer.outer)
        self.order, self.bit_order = BIG, MSB
        self.infer(other.statements, record)
        self.statements(other.statements, record)
        self.scope, self.order, self.bit_order, self.writing = outer, order, bit_order, writing

    def order_code(self, order: Order | None) -> str:
        """LITTLE, BIG or the name of a variable that is true for big."""
        if order is None:
            return self.order
        if isinstance(order, str):
            return order
        values = {
            "big": Value("True"),
            "little": Value("False"),
            "native": Value(str(runtime.NATIVE_IS_BIG)),
        } | self.scope.values
        outer = self.scope
        self.scope = self.new_scope(self.writing, values, outer.outer)
        name = self.fresh("big")
        self.line(f"{name} = {self.bind(runtime.is_big, 'is_big')}({self.code(order)})")
        self.scope = outer
        return name

    def move(self, verb: str, expr: Expr) -> None:
        """Go to, over or on to a place."""
        value = self.code(expr)
        if verb == "size":
            self.size = self.fresh("n")
            self.line(f"{self.size} = {value}")
        elif verb == "skip":
            self.line(f"w.pad(w.place, {value})")
        elif verb == "align":
            name = self.fresh("n")
            self.line(f"{name} = {value} * 8")
            self.line(f"w.seek(start + -(-(w.place - start) // {name}) * {name})")
        else:
            self.backward = True
            self.line("high = max(high, w.place)")
            self.line(f"w.seek(start + {value}{' * 8' if verb == 'at' else ''})")

    def field(self, item: Field, record: str) -> None:
        """A field."""
        if item.name is None:
            name = self.fresh("x")
            self.line(f"{name} = None")
        else:
            name = self.local(item.name, record)
            self.line(f"w.field = {item.shown!r}")
            self.line(f"{name} = {record}.{item.name}")
        if item.present is not None:
            with self.block(f"if not {self.code(item.present)}:"):
                self.line(f"if {name} is not None:")
                self.line(f"    w.fail({f'must be None, as it is not so that {item.present.source}'!r})")
            with self.block("else:"):
                self.present(item, name, record)
        else:
            self.present(item, name, record)
        if item.name is not None:
            self.scope.values[item.name] = Value(name)

    def present(self, item: Field, name: str, record: str) -> None:
        """A field that is there: its value is in `name`."""
        if item.at is not None:
            self.move("at bit" if item.at_bits else "at", item.at)
        raw = self.fresh("w_")
        if item.equals is not None:
            with self.block(f"if {name} is None:"):
                self.line(f"{name} = {self.constant_code(item, record)}")
        elif item.name in self.inferred:
            with self.block(f"if {name} is None:"):
                self.line(f"{name} = {record}.{item.name} = {self.inferred[item.name or '']}")
        size = self.known_size(item.type)
        if item.name is None and item.equals is None:
            self.nothing(item, name)
        elif self.backward and size is not None and item.equals is None:
            with self.block(f"if {name} is None and w.place < high:"):
                self.line(f"w.seek(w.place + {size})")
            with self.block("else:"):
                self.value(item, name, raw, record)
        else:
            self.value(item, name, raw, record)

    def constant_code(self, item: Field, record: str) -> str:
        """Code for the constant of a field, which is also put into the record."""
        assert item.equals is not None
        wanted = self.code(item.equals)
        return wanted if item.name is None or item.map is not None else f"{record}.{item.name} = {wanted}"

    def nothing(self, item: Field, name: str) -> None:
        """A field that has no name and no constant: zeros."""
        size = self.known_size(item.type)
        if size is not None:
            self.line(f"w.seek(w.place + {size})")
            return
        zero = zero_code(self.writing, item.type)
        if (
            isinstance(item.type, DataType)
            and item.type.size is not None
            and item.type.form in ("bytes", "view")
        ):
            self.line(f"w.pad(w.place, {self.code(item.type.size)})")
        elif isinstance(item.type, DataType) and item.type.size is not None and item.type.form == "bits":
            self.line(f"w.seek(w.place + max({self.code(item.type.size)}, 0))")
        else:
            self.line(f"{name} = {self.bind(zero, 'zero')}")
            self.write(item.type, name, None)

    def value(self, item: Field, name: str, raw: str, record: str) -> None:
        """Check and write the value in `name`."""
        if item.equals is None:
            with self.block(f"if {name} is None:"):
                self.line("w.missing()")
        if item.map is not None and item.name is not None:
            self.undo_map(item, name, raw)
        else:
            self.line(f"{raw} = {name}")
        hidden = self.scope.values.get(item.name or "")
        if item.name is not None:
            self.scope.values[item.name] = Value(raw, isinstance(item.type, IntType))
        for expr, words in ((item.one_of, "is not one of"), (item.check, "does not agree with")):
            if expr is not None:
                test = f"{raw} in {self.code(expr)}" if expr is item.one_of else self.code(expr)
                with self.block(f"if not ({test}):"):
                    show = self.bind(runtime.show, "show")
                    self.line(f"w.fail({show}({raw}) + {f' {words} {expr.source}'!r})")
        if item.equals is not None:
            with self.block(f"if {raw} != {self.code(item.equals)}:"):
                show = self.bind(runtime.show, "show")
                self.line(f"w.fail('must be ' + {show}({self.code(item.equals)}) + ', not ' + {show}({raw}))")
        if hidden is not None:
            self.scope.values[item.name or ""] = hidden
        store = f"{record}.{item.name}" if item.name is not None and item.map is None else None
        self.write(item.type, raw, store)
        if store is not None:
            self.line(f"{name} = {store}")

    def undo_map(self, item: Field, name: str, raw: str) -> None:
        """Code for the value before `map`."""
        assert item.map is not None
        assert item.name is not None
        if item.back is not None:
            self.scope.values[item.name] = Value(name)
            back = self.writing.map_function(item.back)
            code = f"{self.bind(back, 'back')}({name})" if back is not None else self.code(item.back)
            self.line(f"{raw} = {code}")
            return
        function = self.writing.map_function(item.map)
        if runtime.is_enum(function) or function is bool:
            self.line(f"{raw} = w.number({name})")
            return
        self.line("w.fail('map cannot be undone: say how with back')")
        self.line(f"{raw} = None")

    # -- types -----------------------------------------------------------------------------------------------

    def known_size(self, type_: Type) -> int | None:
        """The size of plain data in bits, when it is fixed."""
        if isinstance(type_, IntType | FloatType):
            return type_.bits or None
        if isinstance(type_, DataType) and type_.form != "cstring":
            size = constant(type_.size)
            return None if not isinstance(size, int) else size if type_.form == "bits" else size * 8
        if isinstance(type_, ArrayType) and type_.mode == "count":
            count, size = constant(type_.expr), self.known_size(type_.element)
            return count * size if isinstance(count, int) and size is not None else None
        if isinstance(type_, RefType) and not type_.args:
            other = self.writing.find_pattern(type_.name)
            return other.static_bits() if other is not None and self.backward else None
        return None

    def write(self, type_: Type, value: str, store: str | None) -> None:
        """Write the putting of the value in `value`; records made of dictionaries go into `store`."""
        if isinstance(type_, IntType):
            size = str(type_.bits) if type_.size is None else self.code(type_.size)
            order = flag(self.order_code(type_.order))
            self.line(f"w.integer({value}, {size}, {type_.signed}, {order}, {self.bit_order == LSB})")
        elif isinstance(type_, FloatType):
            self.line(f"w.real({value}, {type_.bits}, {flag(self.order_code(type_.order))})")
        elif isinstance(type_, DataType):
            self.data(type_, value)
        elif isinstance(type_, RefType):
            self.reference(type_, value, store)
        elif isinstance(type_, GroupType):
            self.group(type_, value, store)
        elif isinstance(type_, ArrayType):
            self.array(type_, value, store)
        elif isinstance(type_, ChoiceType):
            self.choice(type_, value, store)
        elif isinstance(type_, CondType):
            with self.block(f"if {self.code(type_.test)}:"):
                self.write(type_.yes, value, store)
            with self.block("else:"):
                self.write(type_.no, value, store)
        else:
            assert isinstance(type_, WithinType)
            start = self.fresh("s")
            self.line(f"{start} = w.place")
            self.write(type_.inner, value, store)
            self.line(f"w.pad({start}, {self.code(type_.size)})")

    def data(self, type_: DataType, value: str) -> None:
        """Bytes, bits or text."""
        size = "None" if type_.size is None else self.code(type_.size)
        lsb = self.bit_order == LSB
        if type_.form == "str":
            order = flag(self.order_code(type_.order))
            self.line(f"w.text({value}, {size}, {type_.encoding!r}, {order}, {lsb})")
        elif type_.form == "cstring":
            self.line(f"w.cstring({value}, {size}, {type_.encoding!r})")
        elif type_.form == "bits":
            self.line(f"w.bits({value}, {size})")
        else:
            self.line(f"w.raw({value}, {size}, {lsb})")

    def reference(self, type_: RefType, value: str, store: str | None) -> None:
        """Another pattern, or a field function."""
        other = self.writing.find_pattern(type_.name)
        args = "".join(f", {self.code(expr)}" for _, expr in type_.args)
        if other is None:
            kind = self.writing.lookup[type_.name]
            self.line(f"w.field_type({self.bind(kind, type_.name)}, {value}{args})")
            return
        named = dict(zip(other.givens, (expr for key, expr in type_.args if key is None), strict=False))
        named |= {key: expr for key, expr in type_.args if key is not None}
        args = "".join(f", {self.code(named[name])}" for name in other.givens)
        self.line(f"{value} = w.record({self.bind(other, other.identifier)}, {value})")
        if store is not None:
            self.line(f"{store} = {value}")
        self.line("w.enter()")
        self.line(f"{self.bind(other.entry('build'), other.identifier)}({value}, w{args})")
        self.line("w.leave()")

    def group(self, type_: GroupType, value: str, store: str | None) -> None:
        """A group in braces: built in place, as its fields may use those around."""
        other = self.writing.group(type_)
        record = self.fresh("r")
        self.line(f"{record} = w.record({self.bind(other, other.identifier)}, {value})")
        self.line(f"{value} = {record}")
        if store is not None:
            self.line(f"{store} = {record}")
        self.line("w.enter()")
        outer, kept, inferred = self.scope, (self.order, self.bit_order), self.inferred
        writing, self.writing = self.writing, other
        self.scope = self.new_scope(other, {}, outer)
        self.inferred = {}
        self.infer(other.statements, record)
        self.statements(other.statements, record)
        self.scope, self.inferred, self.writing = outer, inferred, writing
        self.order, self.bit_order = kept
        self.line("w.leave()")

    def array(self, type_: ArrayType, value: str, store: str | None) -> None:
        """Elements one after the other."""
        count = "None" if type_.mode != "count" or type_.expr is None else self.code(type_.expr)
        items, item, index, made = (self.fresh(stem) for stem in ("a", "x", "i", "a"))
        self.line(f"{items} = w.items({value}, {count})")
        self.line(f"{made} = []")
        self.line("w.enter()")
        with self.block(f"for {index}, {item} in enumerate({items}):"):
            self.line(f"w.field = '[%d]' % {index}")
            self.write(type_.element, item, None)
            self.line(f"{made}.append({item})")
            if type_.mode == "until":
                assert type_.expr is not None
                hidden = self.scope.values.get("it")
                self.scope.values["it"] = Value(item)
                test = self.code(type_.expr)
                self.scope.values.pop("it")
                if hidden is not None:
                    self.scope.values["it"] = hidden
                with self.block(f"if bool({test}) != ({index} == len({items}) - 1):"):
                    self.line(f"w.fail({f'only the last element has {type_.expr.source}'!r})")
        self.line("w.leave()")
        if type_.mode == "until":
            with self.block(f"if not {made}:"):
                self.line("w.fail('at least one element is needed')")
        if store is not None:
            self.line(f"{store} = {self.bind(tuple, 'tuple')}({made})")
        self.line(f"{value} = {self.bind(tuple, 'tuple')}({made})")

    def choice(self, type_: ChoiceType, value: str, store: str | None) -> None:
        """The first alternative that can be built."""
        mark, kept = self.fresh("m"), self.fresh("x")
        self.line(f"{mark} = w.mark()")
        self.line(f"{kept} = {value}")
        depth = self.indent
        last = len(type_.options) - 1
        errors = self.bind((BuildError, *runtime.FAILURES), "FAILURES")
        for index, option in enumerate(type_.options):
            if index:
                self.line(f"except {errors}:")
                self.indent += 1
                self.line(f"w.back_to({mark})")
                self.line(f"{value} = {kept}")
            if index < last:
                self.line("try:")
                self.indent += 1
                self.write(option, value, store)
                self.indent -= 1
            else:
                self.write(option, value, store)
        self.indent = depth


def zeros(owner: Compiled) -> dict[str, Any]:
    """A value for each field that is not constant: zero, empty, or a blank record."""
    found: dict[str, Any] = {}
    for item in owner.statements:
        if isinstance(item, Splice):
            other = owner.find_pattern(item.name)
            assert other is not None  # the names of the record have been found
            found |= zeros(other)
        if isinstance(item, Field) and item.name is not None and item.equals is None and item.present is None:
            found[item.name] = zero_code(owner, item.type)
    return found


def zero_code(owner: Compiled, type_: Type) -> Any:
    """A blank value of a type."""
    if isinstance(type_, IntType):
        return 0
    if isinstance(type_, FloatType):
        return 0.0
    if isinstance(type_, DataType):
        size = constant(type_.size)
        if type_.form in ("str", "cstring"):
            return ""
        if type_.form == "bits":
            from .bits import Bits

            size = size if isinstance(size, int) else 0
            return Bits(bytes((size + 7) // 8), 0, size)
        return bytes(size if isinstance(size, int) else 0)
    if isinstance(type_, RefType):
        other = owner.find_pattern(type_.name)
        return None if other is None else zeros(other)
    if isinstance(type_, GroupType):
        return zeros(owner.group(type_))
    if isinstance(type_, ArrayType):
        count = constant(type_.expr)
        element = zero_code(owner, type_.element) if isinstance(count, int) and count else None
        return [element] * (count if isinstance(count, int) else 0)
    if isinstance(type_, ChoiceType):
        return zero_code(owner, type_.options[0])
    if isinstance(type_, CondType):
        return zero_code(owner, type_.yes)
    return zero_code(owner, type_.inner)

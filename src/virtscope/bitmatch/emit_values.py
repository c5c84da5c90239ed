"""Reading plain values: integers, floating-point numbers, bytes, bits and text."""

from __future__ import annotations

from . import runtime
from .expression import Scope, Value, constant, emit
from .nodes import (
    BIG,
    LITTLE,
    LSB,
    ArrayType,
    DataType,
    Field,
    FloatType,
    GroupType,
    IntType,
    Move,
    Order,
    RefType,
    Splice,
    Type,
)
from .places import MAX_FIXED, Places, State
from .runs import Item, flag


class Values(Places):
    """Writes code that reads plain values."""

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
            if not 0 <= size <= MAX_FIXED:
                assert type_.size is not None
                self.problem("a size that cannot be", type_.size.place)
            return size if type_.form == "bits" else size * 8
        if isinstance(type_, RefType):
            other = self.writing.find_pattern(type_.name)
            return other.static_bits() if other is not None and not type_.args else None
        if isinstance(type_, GroupType):
            return self.group_size(type_)
        if isinstance(type_, ArrayType) and type_.mode == "count":
            count = constant(type_.expr)
            size = self.known_size(type_.element)
            if isinstance(count, int) and size is not None:
                if not 0 <= count * max(size, 1) <= MAX_FIXED * 8:
                    assert type_.expr is not None
                    self.problem("a count that cannot be", type_.expr.place)
                return count * size
        return None

    def group_size(self, type_: GroupType) -> int | None:
        """The size of a group in bits, when it is only fields of fixed size one after the other."""
        total = 0
        for item in type_.body:
            size: int | None = 0
            if isinstance(item, Field):
                size = self.known_size(item.type) if item.at is None and item.present is None else None
            elif isinstance(item, Move):
                number = constant(item.expr) if item.verb == "skip" else None
                size = number * 8 if isinstance(number, int) else None
            elif isinstance(item, Splice):
                size = None
            if size is None:
                return None
            total += size
        return total

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
        if type_.size is None and type_.form in ("bytes", "str") and self.is_aligned() and not self.watched:
            self.cover()
            self.line(f"{target} = {self.slice(self.byte_at(), self.end_bytes())}")
            self.rebase(self.end_bytes())
            return Value(self.decoded(type_, target, order)) if encoded else Value(target)
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
            self.line(f"{target} = {self.slice(self.byte_at(), stop)}")
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

    def slice(self, first: str, last: str) -> str:
        """Code for bytes of the buffer; those of a bytes object are bytes already."""
        self.uses_plain = True
        piece = f"buf[{first}:{last}]"
        return f"{piece} if plain else {self.bind(bytes, 'bytes')}({piece})"

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

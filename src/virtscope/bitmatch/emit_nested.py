"""Reading what contains other things: nested patterns, groups, arrays, alternatives and field functions.

Functions on a `emit.Reader`, which they move on. Small nested patterns are read in place, together with their
neighbours; larger ones by the function compiled for them.
"""

from __future__ import annotations

import _ast as ast
import math
import struct
from typing import TYPE_CHECKING

from . import runtime
from .expression import Value, constant, emit
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
    FloatType,
    GroupType,
    IntType,
    RefType,
    Type,
    WithinType,
)
from .runs import Item, flag

if TYPE_CHECKING:
    from .compiler import Compiled
    from .emit import Reader

SPREAD = 8
"""Arrays of up to this many numbers are read together with their neighbours."""
MAX_OPTIONS = 16
SHOWN = 4096
"""Up to this many elements are looked at one by one to find the one that is not there."""
MAX_FIXED = 1 << 26
"""The largest number of elements or bytes that the text of a pattern may fix."""


def read(reader: Reader, type_: Type, target: str) -> Value:
    """Write the reading of a value that contains others (see Reader.read)."""
    if isinstance(type_, RefType):
        return read_ref(reader, type_, target)
    if isinstance(type_, GroupType):
        return inline(reader, reader.writing.group(type_), {}, closed=False)
    if isinstance(type_, ChoiceType):
        return read_choice(reader, type_, target)
    if isinstance(type_, CondType):
        test = reader.compute(type_.test).code
        reader.branches(
            (f"if {test}:", lambda: assign(reader, type_.yes, target)),
            ("else:", lambda: assign(reader, type_.no, target)),
        )
        return Value(target)
    if isinstance(type_, WithinType):
        return reader.within(type_.size, type_.inner, target)
    assert isinstance(type_, ArrayType)
    if type_.mode == "until" or (reader.watched and not isinstance(type_.element, IntType | FloatType)):
        return read_loop(reader, type_, target)
    return read_array(reader, type_, target) or read_loop(reader, type_, target)


def assign(reader: Reader, type_: Type, target: str) -> None:
    """Read a type, and have its value in `target` at once."""
    value = reader.read(type_, target)
    reader.flush()
    if value.code != target:
        reader.line(f"{target} = {value.code}")


# -- other patterns ------------------------------------------------------------------------------------------


def read_ref(reader: Reader, type_: RefType, target: str) -> Value:
    """Another pattern, or a field function."""
    other = reader.writing.find_pattern(type_.name)
    if other is None:
        function = reader.writing.find_field_function(type_.name)
        if function is None:
            reader.problem(reader.writing.unknown_type(type_.name), type_.place)
        if any(key for key, _ in type_.args):
            reader.problem("a field function takes positional arguments only", type_.place)
        args = "".join(f", {reader.compute(expr).code}" for _, expr in type_.args)
        first = f"{reader.bind(function, type_.name)}, "
        reader.read_by(reader.call(runtime.call_field), target, args, type_.place, first=first)
        return Value(target)
    args_by_name = arguments(reader, other, type_)
    if reader.may_inline(other):
        values = {}
        for name, expr in args_by_name.items():
            local = reader.fresh("g")
            value = reader.compute(expr)
            reader.line(f"{local} = {value.code}")
            values[name] = Value(local, value.is_int)
        return inline(reader, other, values, closed=True)
    args = "".join(f", {reader.compute(expr).code}" for expr in args_by_name.values())
    reader.turn_to(other.first_bit_order(), type_.place)
    reader.stream = other.last_bit_order()
    reader.uses_context = reader.calls = True
    size = other.static_bits()
    if reader.is_aligned() and other.ends_aligned():
        reader.flush()
        function_name = reader.bind(other.entry("aligned"), other.identifier)
        call = f"{function_name}(buf, {reader.byte_at()}, {reader.end_bytes()}, c, d + 1{args})"
        if size is not None:
            reader.line(f"{target}, _ = {call}")
            reader.advance(size)
            reader.state = reader.state._replace(covered=reader.state.k)
        else:
            reader.cover()
            reader.note_high()
            reader.line(f"{target}, o = {call}")
            reader.rebase("o")
        return Value(target)
    reader.cover()
    kind = "watched" if reader.watched else "unaligned"
    function_name = reader.bind(other.entry(kind), other.identifier)
    reader.note_high()
    reader.line(
        f"{target}, p = {function_name}(buf, {reader.bits_at()}, {reader.end_bits()}, c, d + 1{args})"
    )
    reader.rebase("p", bits=True)
    return Value(target)


def arguments(reader: Reader, other: Compiled, type_: RefType) -> dict[str, Expr]:
    """The arguments of `type_` for the parameters of `other`, in their order."""
    found: dict[str, Expr] = {}
    for index, (key, expr) in enumerate(type_.args):
        if key is None:
            if index >= len(other.givens):
                reader.problem(f"{type_.name} takes {len(other.givens)} parameters", expr.place)
            key = other.givens[index]
        if key not in other.givens or key in found:
            reader.problem(f"{type_.name} has no parameter {key!r}, or it is given twice", expr.place)
        found[key] = expr
    missing = [name for name in other.givens if name not in found]
    if missing:
        reader.problem(f"{type_.name} must be given {', '.join(missing)}", type_.place)
    return {name: found[name] for name in other.givens}


def inline(reader: Reader, other: Compiled, values: dict[str, Value], *, closed: bool) -> Value:
    """Write the statements of another pattern here, into a record of their own.

    Args:
        values: the parameters of the pattern.
        closed: whether it has its own names and byte order (a pattern) or also those around it (a group).
    """
    record = reader.fresh("r")
    reader.line(f"{record} = {reader.bind(other.record, other.identifier)}()")
    outer, used, writing = reader.scope, reader.used, reader.writing
    reader.writing = other
    kept = reader.order, reader.bit_order, reader.order_said, reader.bit_order_said
    reader.inlining.append(other)
    reader.used = reader.used | reader.names_used(other.statements)
    reader.scope = reader.new_scope(other, dict(values) if closed else {})
    if closed:
        reader.order, reader.bit_order, reader.order_said, reader.bit_order_said = BIG, MSB, False, False
    else:
        reader.scope.outer = outer
    reader.statements(other.statements, record)
    reader.order, reader.bit_order, reader.order_said, reader.bit_order_said = kept
    reader.inlining.pop()
    reader.scope, reader.used, reader.writing = outer, used, writing
    return Value(record)


# -- arrays --------------------------------------------------------------------------------------------------


def read_array(reader: Reader, type_: ArrayType, target: str) -> Value | None:
    """An array of numbers, of fixed data or of fixed records, without a loop; None if it needs one."""
    element = type_.element
    count = constant(type_.expr)
    if isinstance(element, ArrayType):
        return read_grid(reader, type_, target)
    size = reader.known_size(element)
    if isinstance(element, IntType) and element.size is None:
        return read_ints(reader, type_, element, target)
    if isinstance(element, FloatType) and isinstance(count, int) and reader.is_aligned():
        order = reader.order_code(element.order)
        if order in (BIG, LITTLE):
            return read_packed(reader, runtime.FLOATS[element.bits], count, element.bits, order, target)
    if (
        isinstance(element, DataType)
        and element.form == "bytes"
        and isinstance(count, int)
        and reader.is_aligned()
        and size
        and count <= 1024
    ):
        return read_packed(reader, f"{size // 8}s", count, size, "", target)
    if isinstance(element, RefType) and not element.args and reader.is_aligned():
        return read_records(reader, type_, element, target)
    return None


def read_grid(reader: Reader, type_: ArrayType, target: str) -> Value | None:
    """An array of arrays of fixed counts: read as one array and cut up; None if that is not possible."""
    counts: list[int] = []
    inner: Type = type_
    while isinstance(inner, ArrayType):
        count = constant(inner.expr)
        if inner.mode != "count" or not isinstance(count, int) or count <= 0:
            return None
        counts.append(count)
        inner = inner.element
    size = reader.known_size(type_)
    if size is None or not isinstance(inner, IntType | FloatType | DataType):
        return None
    total = Expr(ast.Constant(math.prod(counts)), str(math.prod(counts)), type_.place)
    flat = read_array(reader, ArrayType(inner, "count", total, type_.place), target)
    if flat is None:
        return None
    return Value(f"{reader.call(runtime.grid)}({flat.code}, {tuple(counts[1:])})")


def read_ints(reader: Reader, type_: ArrayType, element: IntType, target: str) -> Value:
    """An array of integers."""
    order = reader.order_code(element.order)
    count = constant(type_.expr)
    bits = element.bits
    reader.check_bit_order(element, order)
    if isinstance(count, int) and reader.known_size(type_) is not None and reader.state.static:
        if 0 < count <= SPREAD:
            parts = []
            for _ in range(count):
                part = reader.fresh("u")
                reader.check_bit_order(element, order)
                reader.run.items.append(
                    Item(
                        reader.state.k,
                        bits,
                        "int",
                        part,
                        signed=element.signed,
                        order=order,
                        bit_order=reader.bit_order,
                    )
                )
                reader.advance(bits)
                parts.append(part)
            return Value(f"({', '.join(parts)},)")
        if bits in runtime.FORMATS and reader.is_aligned() and order in (BIG, LITTLE):
            letter = runtime.FORMATS[bits]
            return read_packed(
                reader, letter.lower() if element.signed else letter, count, bits, order, target
            )
    number = read_count(reader, type_, bits)
    reader.flush()
    if reader.watched:
        reader.line(f"c.need({reader.bits_at()}, {number} * {bits}, {reader.end_bits()})")
    reader.line(
        f"{target} = {reader.call(runtime.integers)}(buf, {reader.bits_at()}, {number}, {bits}, "
        f"{reader.end_bits()}, {flag(order)}, {reader.bit_order == LSB}, {element.signed})"
    )
    pass_array(reader, number, bits)
    return Value(target)


def read_packed(reader: Reader, letter: str, count: int, size: int, order: str, target: str) -> Value:
    """A fixed array that one struct can take apart, read as bytes with its neighbours."""
    if not count:
        return Value("()")
    letters = letter * count if letter.endswith("s") else f"{count}{letter}"
    unpack = struct.Struct((">" if order == BIG else "<") + letters).unpack
    reader.run.items.append(Item(reader.state.k, size * count, "bytes", target))
    reader.advance(size * count)
    return Value(f"{reader.bind(unpack, 'unpack')}({target})")


def read_count(reader: Reader, type_: ArrayType, size: int) -> str:
    """Code for the number of elements of `size` bits; a computed one is charged to the budget."""
    known = constant(type_.expr)
    if type_.mode == "count" and isinstance(known, int):
        if not 0 <= known <= MAX_FIXED:
            assert type_.expr is not None
            reader.problem("a count that cannot be", type_.expr.place)
        return str(known)
    name = reader.fresh("n")
    if type_.mode == "fill":
        reader.cover()
        if reader.is_aligned() and not size & 7:
            reader.line(f"{name} = ({reader.end_bytes()} - ({reader.byte_at()})) // {max(size >> 3, 1)}")
        else:
            reader.line(f"{name} = ({reader.end_bits()} - {reader.bits_at()}) // {max(size, 1)}")
    else:
        assert type_.expr is not None
        code = reader.compute(type_.expr).code
        reader.line(f"{name} = {code}")
    step = max(size, 1)
    if reader.is_aligned() and not step & 7:
        excess = f"{reader.byte_at()} + {name} * {step >> 3} > {reader.end_bytes()}"
    else:
        excess = f"{name} * {step} > {reader.end_bits()} - {reader.bits_at()}"
    if reader.watched:
        excess = f"({name} > {SHOWN} and {excess})"  # else the element that is not there is named
    reader.fail_if(f"{name} < 0 or {excess}", "'as many elements as there is data for'", name)
    charge(reader, name)
    return name


def charge(reader: Reader, count: str) -> None:
    """Take `count` elements from the budget of the match."""
    reader.uses_context = True
    reader.line(f"c[0] -= {count}")
    reader.fail_if("c[0] < 0", f"'at most {runtime.BUDGET} elements'", "c.more")


def pass_array(reader: Reader, number: str, size: int) -> None:
    """Move behind an array of which all elements are known to exist."""
    if number.isdigit():
        reader.advance(int(number) * size)
        reader.state = reader.state._replace(covered=reader.state.k)
    elif reader.state.static and not size & 7:
        reader.cover()
        reader.rebase(
            f"{reader.state.base} + {reader.state.k >> 3} + {number} * {size >> 3}", k=reader.state.k & 7
        )
    else:
        reader.cover()
        reader.rebase(f"{reader.bits_at()} + {number} * {size}", bits=True)


def read_records(reader: Reader, type_: ArrayType, element: RefType, target: str) -> Value | None:
    """An array of records of fixed size."""
    other = reader.writing.find_pattern(element.name)
    if other is None or other.givens:
        return None
    size = other.static_bits()
    if size is None or size & 7 or not size:
        return None
    number = read_count(reader, type_, size)
    reader.cover()
    each = reader.bind(other.entry("each"), other.identifier)
    if number.isdigit():
        reader.fail_if(f"{reader.byte_at()} + {int(number) * (size >> 3)} > {reader.end_bytes()}", "")
    reader.line(f"{target} = {reader.bind(tuple, 'tuple')}({each}(buf, {reader.byte_at()}, {number}))")
    pass_array(reader, number, size)
    return Value(target)


def read_loop(reader: Reader, type_: ArrayType, target: str) -> Value:
    """An array in a loop, element by element."""
    before = reader.save()
    state = reader.state
    size = reader.known_size(type_) if state.static else None
    kept = reader.fresh("q")
    if size is not None and state.base == "o":
        reader.line(f"{kept} = o")
    if not loop(reader, type_, target):
        reader.restore(before)
        reader.to_bits()
        size = None
        fits = loop(reader, type_, target)
        assert fits
    if size is not None:
        # What follows is at a known place again.
        reader.settle()
        if state.base == "o":
            reader.line(f"o = {kept}")
        reader.state = state._replace(k=state.k + size, covered=state.k + size)
    return Value(target)


def loop(reader: Reader, type_: ArrayType, target: str) -> bool:
    """Write a loop; False if an element does not end at the kind of place where it began."""
    out, item = reader.fresh("a"), reader.fresh("x")
    header = "while True:"
    if type_.mode == "count":
        number = read_count(reader, type_, reader.known_size(type_.element) or 1)
        header = f"for _ in range({number}):"
    reader.settle()
    order = reader.writing.type_bit_order(type_.element, reader.bit_order)
    reader.turn_to(order, type_.place)
    if type_.mode == "fill":
        # Of elements of fixed size, as many as fit; a rest may follow.
        size = reader.known_size(type_.element)
        header = f"while {reader.bits_at()} < {reader.end_bits()}:"
        if size:
            header = f"while {reader.bits_at()} + {size} <= {reader.end_bits()}:"
    head = reader.state
    reader.line(f"{out} = []")
    with reader.block(header):
        top = len(reader.lines)
        reader.line("pass")
        if type_.mode != "count":
            charge(reader, "1")
            reader.line(f"q{out} = {reader.bits_at()}")
        if reader.watched:
            reader.line(f"c.enter('[%d]' % len({out}), {reader.bits_at()})")
        value = reader.read(type_.element, item)
        reader.flush()
        if value.code != item:
            reader.line(f"{item} = {value.code}")
        reader.line(f"{out}.append({item})")
        if reader.watched:
            reader.line(f"c.leave({item}, {reader.bits_at()})")
        stop = ""
        if type_.mode == "until":
            assert type_.expr is not None
            hidden = reader.scope.values.get("it")
            reader.scope.values["it"] = Value(item, value.is_int)
            stop = emit(type_.expr, reader.scope).code
            if hidden is None:
                del reader.scope.values["it"]
            else:
                reader.scope.values["it"] = hidden
            name = reader.fresh("s")
            reader.line(f"{name} = {stop}")
            stop = name
        reader.settle()
        if reader.stream != order:
            # The next element begins in another bit order than this one ended in.
            reader.lines[top] = reader.lines[top].replace("pass", f"if {out} and {reader.bits_at()} & 7:")
            reader.lines[top] += f"\n{'    ' * (reader.indent + 1)}{reader.fails[-1]}"
        else:
            del reader.lines[top]
        if type_.mode != "count":
            reader.fail_if(f"{reader.bits_at()} == q{out}", "'an element that takes some space'", "c.nothing")
        if stop:
            with reader.block(f"if {stop}:"):
                reader.line("break")
    reader.line(f"{target} = {reader.bind(tuple, 'tuple')}({out})")
    return reader.state[:3] == head[:3]


# -- alternatives --------------------------------------------------------------------------------------------


def read_choice(reader: Reader, type_: ChoiceType, target: str) -> Value:
    """The first alternative that matches."""
    if len(type_.options) > MAX_OPTIONS:
        reader.problem(f"more than {MAX_OPTIONS} alternatives", type_.place)
    reader.cover()
    before, indent = reader.state, reader.indent
    saved = reader.fresh("q")
    moved = before.base in ("o", "p")
    if moved:
        reader.line(f"{saved} = {before.base}")
    if reader.watched:
        reader.line(f"m{saved} = c.mark()")
    failures = reader.bind(runtime.FAILURES, "FAILURES")
    mismatch = f"raise {reader.bind(runtime.Mismatch, 'Mismatch')}"
    ends = []
    last = len(type_.options) - 1
    for index, option in enumerate(type_.options):
        reader.state = before
        if index:
            reader.line(f"except {failures}" + (" as error:" if reader.watched else ":"))
            reader.indent += 1
            if moved:
                reader.line(f"{before.base} = {saved}")
            if reader.watched:
                reader.line(f"c.reset(m{saved}, error)")
        if index < last or reader.watched:
            reader.line("try:")
            reader.indent += 1
            reader.fails.append(mismatch)
            ends.append(reader.arm(lambda option=option: assign(reader, option, target)))  # type: ignore[misc]
            reader.fails.pop()
            reader.indent -= 1
        else:
            ends.append(reader.arm(lambda option=option: assign(reader, option, target)))  # type: ignore[misc]
    if reader.watched:
        with reader.block(f"except {failures} as error:"):
            reader.line(f"c.reset(m{saved}, error)")
            reader.line(f"c.none_of({len(type_.options)})")
    reader.indent = indent
    reader.join(ends)
    return Value(target)

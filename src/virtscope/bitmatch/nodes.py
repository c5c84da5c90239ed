"""What the text of a pattern says, as a tree.

`text.parse` makes it; `emit` and `emit_build` turn it into Python. A place is a number of characters from the
start of the text, for error messages.
"""

from __future__ import annotations

import _ast as ast
from typing import dataclass_transform

LITTLE = "little"
BIG = "big"
MSB = "msb"
LSB = "lsb"


@dataclass_transform(kw_only_default=False)
class Node:
    """A dataclass in little: sixteen real ones would take longer to define than most patterns to compile."""

    def __init__(self, *args: object, **named: object) -> None:
        self.__dict__.update(zip(type(self).__annotations__, args, strict=False), **named)


class Expr(Node):
    """A Python expression of a pattern, parsed but not yet checked against a scope."""

    tree: ast.expr
    source: str
    place: int


Order = str | Expr
"""A byte order: LITTLE, BIG, or an expression that chooses when the pattern is matched."""


class IntType(Node):
    """An integer of `bits` bits, or of as many as `size` says; `order` None means the order in force."""

    bits: int
    size: Expr | None
    signed: bool
    order: Order | None
    place: int

    def __init__(self, bits: int, size: Expr | None, signed: bool, order: Order | None, place: int) -> None:
        self.__dict__ = {"bits": bits, "size": size, "signed": signed, "order": order, "place": place}


class FloatType(Node):
    """An IEEE 754 number of 16, 32 or 64 bits."""

    bits: int
    order: Order | None
    place: int


class DataType(Node):
    """Raw data: `form` is bytes, view, str, cstring (sizes in bytes) or bits (size in bits).

    `size` None means up to the end of the data. `encoding` is for str and cstring.
    """

    form: str
    size: Expr | None
    encoding: str
    order: Order | None
    place: int


class RefType(Node):
    """Another pattern or a field function, by name, with arguments (name or None, value)."""

    name: str
    args: tuple[tuple[str | None, Expr], ...]
    place: int


class GroupType(Node):
    """A nested pattern written in braces."""

    body: tuple[Statement, ...]
    place: int


class ArrayType(Node):
    """`element` repeated: `mode` is count (`expr` times), fill (to the end) or until (`expr` is true)."""

    element: Type
    mode: str
    expr: Expr | None
    place: int


class ChoiceType(Node):
    """The first of `options` that matches."""

    options: tuple[Type, ...]
    place: int


class CondType(Node):
    """`yes` if `test` else `no`."""

    yes: Type
    test: Expr
    no: Type
    place: int


class WithinType(Node):
    """`inner` in the next `size` bytes, which end the data for it."""

    inner: Type
    size: Expr
    place: int


Type = IntType | FloatType | DataType | RefType | GroupType | ArrayType | ChoiceType | CondType | WithinType


class Field(Node):
    """A field and its clauses; `name` None is a field that is checked or skipped but not kept.

    `at` is a place from the start of the pattern, in bytes, or in bits when `at_bits`.
    """

    name: str | None
    type: Type
    place: int
    shown: str
    equals: Expr | None = None
    one_of: Expr | None = None
    check: Expr | None = None
    map: Expr | None = None
    back: Expr | None = None
    present: Expr | None = None
    at: Expr | None = None
    at_bits: bool = False


class Let(Node):
    """`name = expr`: a value computed from earlier fields."""

    name: str
    expr: Expr
    place: int


class SetOrder(Node):
    """The byte order or the bit order (or both) of the fields that follow."""

    order: Order | None
    bit_order: str | None
    place: int


class Move(Node):
    """Move without reading: `verb` is at, at bit, skip, align or size."""

    verb: str
    expr: Expr
    place: int


class Guard(Node):
    """`when expr`."""

    expr: Expr
    place: int


class Given(Node):
    """Parameters of the pattern."""

    names: tuple[str, ...]
    place: int


class Splice(Node):
    """`*Name`: the fields of another pattern, here."""

    name: str
    place: int


Statement = Field | Let | SetOrder | Move | Guard | Given | Splice

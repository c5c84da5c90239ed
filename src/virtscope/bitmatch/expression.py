"""Turns the expressions of a pattern into Python source, letting through only what is known to be harmless.

The text of a pattern may come from a stranger, and its names from a C header. So an expression may name
earlier fields, the parameters of the pattern, constants and functions that were offered to it; it may
calculate, compare, choose, index and look at the fields of nested records; and nothing else. What could be
made to cost without bound by the data (shifting by a huge number, repeating bytes) goes through a checked
function.
"""

from __future__ import annotations

import _ast as ast  # what the module ast is made of, without the time that importing that takes
from collections.abc import Callable, Mapping
from typing import NoReturn

from . import runtime
from .errors import PatternError
from .nodes import Expr, Node
from .text import place_in

MAX_SHIFT = 4096
BINARY = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.LShift: "<<",
    ast.RShift: ">>",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
}
COMPARE = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Is: "is",
    ast.IsNot: "is not",
}
UNARY = {ast.USub: "-", ast.UAdd: "+", ast.Invert: "~", ast.Not: "not "}
FUNCTIONS: dict[str, Callable[..., object]] = {
    "abs": abs,
    "all": all,
    "any": any,
    "bool": bool,
    "len": runtime.length,
    "max": max,
    "min": min,
    "ord": ord,
    "sum": sum,
}
INT_FUNCTIONS = frozenset(("abs", "bool", "len", "ord", "all", "any"))


class Value(Node):
    """What a name stands for in generated code: `code` to write, and whether it is surely an integer."""

    code: str
    is_int: bool = False

    def __init__(self, code: str, is_int: bool = False) -> None:
        self.__dict__ = {"code": code, "is_int": is_int}


class Scope(Node):
    """The names an expression may use.

    Attributes:
        pattern: the name of the pattern and its text, for errors.
        values: earlier fields, parameters and computed values.
        outside: finds a constant or a function offered to the pattern, and whether it was handed over on
            purpose; raises KeyError.
        bind: makes an object available to the generated code and returns the name it has there.
        outer: the names around a group.
        place_functions: code for offset(), bit_offset() and remaining(), made when asked for.
    """

    pattern: str
    text: str
    values: dict[str, Value]
    outside: Callable[[str], tuple[object, bool]]
    bind: Callable[[object, str], str]
    place_functions: Mapping[str, Callable[[], str]]
    outer: Scope | None = None

    def find(self, name: str) -> Value | None:
        """The field or parameter `name`, here or around."""
        found = self.values.get(name)
        return self.outer.find(name) if found is None and self.outer is not None else found

    def fail(self, problem: str, place: int) -> NoReturn:
        """Complain about the text at `place`."""
        raise PatternError(self.pattern, problem, self.text, place)


def emit(expr: Expr, scope: Scope) -> Value:
    """Python source for `expr`; the result is one operand (a name, a literal, or in brackets).

    Raises:
        PatternError: if the expression uses something it may not, or an unknown name.
    """
    return _Emitter(expr, scope).value(expr.tree)


def names(expr: Expr) -> set[str]:
    """All names that `expr` mentions."""
    found: set[str] = set()
    waiting: list[object] = [expr.tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, list):
            waiting += node
        elif isinstance(node, ast.AST):
            waiting += [getattr(node, name, None) for name in node._fields]
    return found


def constant(expr: Expr | None) -> object:
    """The value of `expr` if it is a literal or arithmetic of literal integers, else None."""
    return None if expr is None else _fold(expr.tree)


def _fold(node: ast.expr) -> object:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _fold(node.operand)
        return -inner if type(inner) is int else None
    if isinstance(node, ast.BinOp):
        left, right = _fold(node.left), _fold(node.right)
        if type(left) is not int or type(right) is not int:
            return None
        if isinstance(node.op, ast.LShift) and 0 <= right <= MAX_SHIFT:
            return left << right
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult) and abs(left) < 1 << 64 and abs(right) < 1 << 64:
            return left * right
        if isinstance(node.op, ast.FloorDiv) and right:
            return left // right
    return None


class _Emitter:
    def __init__(self, expr: Expr, scope: Scope) -> None:
        self.expr = expr
        self.scope = scope

    def fail(self, node: ast.expr, problem: str) -> NoReturn:
        place = place_in(self.scope.text, self.expr.place, node.lineno, node.col_offset)
        self.scope.fail(problem, place)

    def value(self, node: ast.expr) -> Value:  # noqa: RET503 - fail() does not return
        folded = _fold(node)
        if type(folded) is int:
            return Value(str(folded) if folded >= 0 else f"({folded})", is_int=True)
        if isinstance(node, ast.Constant):
            if node.value is None or isinstance(node.value, bool | bytes | str | float):
                return Value(repr(node.value), is_int=isinstance(node.value, bool))
            self.fail(node, "this constant has no place in a pattern")
        if isinstance(node, ast.Name):
            return self.name(node)
        if isinstance(node, ast.BinOp):
            return self.binary(node)
        if isinstance(node, ast.UnaryOp):
            inner = self.value(node.operand)
            return Value(
                f"({UNARY[type(node.op)]}{inner.code})", inner.is_int or isinstance(node.op, ast.Not)
            )
        if isinstance(node, ast.BoolOp):
            parts = [self.value(part) for part in node.values]
            word = " and " if isinstance(node.op, ast.And) else " or "
            return Value(f"({word.join(part.code for part in parts)})", all(part.is_int for part in parts))
        if isinstance(node, ast.Compare):
            code = self.value(node.left).code
            for operator, right in zip(node.ops, node.comparators, strict=True):
                code += f" {COMPARE[type(operator)]} {self.value(right).code}"
            return Value(f"({code})", is_int=True)
        if isinstance(node, ast.IfExp):
            test, yes, no = self.value(node.test), self.value(node.body), self.value(node.orelse)
            return Value(f"({yes.code} if {test.code} else {no.code})", yes.is_int and no.is_int)
        if isinstance(node, ast.Tuple | ast.Set | ast.List):
            inside = "".join(f"{self.value(item).code}, " for item in node.elts)
            return Value(f"({inside})")
        if isinstance(node, ast.Attribute):
            if node.attr.startswith("__") and node.attr.endswith("__"):
                self.fail(node, f"{node.attr} cannot be looked at from a pattern")
            return Value(f"{self.value(node.value).code}.{node.attr}")
        if isinstance(node, ast.Subscript):
            return self.subscript(node)
        if isinstance(node, ast.Call):
            return self.call(node)
        self.fail(node, "this kind of expression has no place in a pattern")

    def name(self, node: ast.Name) -> Value:
        known = self.scope.find(node.id)
        if known is not None:
            return known
        try:
            found, _ = self.scope.outside(node.id)
        except KeyError:
            self.fail(node, f"{node.id!r} is neither an earlier field nor a constant{self.guess(node.id)}")
        if not runtime.is_constant(found):
            self.fail(node, f"{node.id!r} is not a constant that a pattern may use")
        if type(found) is int:
            return Value(repr(found) if found >= 0 else f"({found!r})", is_int=True)
        return Value(self.scope.bind(found, node.id), is_int=isinstance(found, int))

    def guess(self, name: str) -> str:
        import difflib

        close = difflib.get_close_matches(name, self.scope.values, 1)
        return f" (did you mean {close[0]}?)" if close else ""

    def binary(self, node: ast.BinOp) -> Value:
        symbol = BINARY.get(type(node.op))
        if symbol is None:
            word = {ast.Pow: "**", ast.Div: "/", ast.MatMult: "@"}.get(type(node.op), "this operator")
            hint = "; write // to divide" if word == "/" else ""
            self.fail(node, f"{word} has no place in a pattern{hint}")
        left, right = self.value(node.left), self.value(node.right)
        safe = left.is_int and right.is_int
        if symbol == "<<":
            shift = _fold(node.right)
            if not (isinstance(shift, int) and 0 <= shift <= MAX_SHIFT):
                return Value(
                    f"{self.scope.bind(runtime.shift_left, 'shift_left')}({left.code}, {right.code})", True
                )
        elif symbol == "*" and not safe:
            return Value(f"{self.scope.bind(runtime.times, 'times')}({left.code}, {right.code})", True)
        elif symbol == "%" and not left.is_int:
            return Value(f"{self.scope.bind(runtime.modulo, 'modulo')}({left.code}, {right.code})", True)
        return Value(f"({left.code} {symbol} {right.code})", safe or symbol in ("<<", ">>"))

    def subscript(self, node: ast.Subscript) -> Value:
        inside = self.value(node.value).code
        if isinstance(node.slice, ast.Slice):
            lower = self.value(node.slice.lower).code if node.slice.lower else ""
            upper = self.value(node.slice.upper).code if node.slice.upper else ""
            if node.slice.step:
                self.fail(node, "a slice in a pattern has no step")
            return Value(f"{inside}[{lower}:{upper}]")
        return Value(f"{inside}[{self.value(node.slice).code}]")

    def call(self, node: ast.Call) -> Value:
        if not isinstance(node.func, ast.Name):
            self.fail(node, "only functions called by their name have a place in a pattern")
        if node.keywords:
            self.fail(node, "functions in a pattern take positional arguments only")
        name = node.func.id
        if name in self.scope.place_functions:
            if node.args:
                self.fail(node, f"{name}() takes no arguments")
            return Value(self.scope.place_functions[name](), is_int=True)
        args = []
        for arg in node.args:
            if isinstance(arg, ast.Starred):
                self.fail(node, "a star has no place in a pattern")
            args.append(self.value(arg))
        inside = ", ".join(arg.code for arg in args)
        if name == "int" and len(args) == 1:
            return Value(f"{self.scope.bind(runtime.to_int, 'to_int')}({inside})", is_int=True)
        function = FUNCTIONS.get(name)
        if function is not None:
            is_int = name in INT_FUNCTIONS or (bool(args) and all(arg.is_int for arg in args))
            return Value(f"{self.scope.bind(function, name)}({inside})", is_int)
        try:
            found, offered = self.scope.outside(name)
        except KeyError:
            self.fail(node, f"there is no function {name!r} here{self.guess(name)}")
        if not (runtime.is_function(found) or (offered and callable(found))):
            self.fail(
                node,
                f"{name!r} cannot be called from a pattern: mark it with @function or offer it in names=",
            )
        return Value(f"{self.scope.bind(found, name)}({inside})")

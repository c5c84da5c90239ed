"""clang's cursors to nested tuples: one function body at a time, through libclang's C interface.

:class:`Tree` is the entry point. The Python bindings' own properties are too slow to walk millions of
cursors; only their structures and the loaded library are used. Expressions come out as::

    ("v", name) variable          ("f", name) function        ("n", int) constant      ("s",) string literal
    ("m", base, field, arrow, record, type)   ("i", base, index)    ("&", e) ("*", e) ("!", e)
    ("c", line, callee, args, result_type_names, never_returns)
    ("=", line, target, value)    ("op", line, target, value) an assignment that also reads its target
    ("b", operator, a, b)         ("&&", a, b) ("||", a, b)   ("?", condition, a, b)   (",", a, b)
    ("{", statements) a statement expression                  ("g", parts) a generic selection
    ("o", parts) anything else

and statements as::

    ("expr", line, e)             ("decl", line, name, value or None, cleanup or "")
    ("block", statements, last_line)    ("ladder", [(line, c, then)], otherwise)
    ("while", line, c, body)      ("do", line, c, body)    ("for", line, start, c, step, body)
    ("switch", line, e, body)     ("case", [low, high], statement)    ("default", statement)
    ("label", name, statement)    ("goto", line, name)     ("break", line)    ("continue", line)
    ("return", line, e or None)   ("jump", line) a computed goto
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .clangapi import Clang
from .clangkinds import (
    ASM,
    BINARY,
    BREAK,
    CALL,
    CASE,
    CAST,
    COMPOUND,
    COMPOUND_ASSIGN,
    CONDITIONAL,
    CONTINUE,
    CXX_BOOL,
    DECL_REF,
    DECL_STMT,
    DEFAULT,
    DEPENDENT,
    DO,
    ENUM_CONSTANT,
    FOR,
    FUNCTION_DECL,
    GENERIC,
    GOTO,
    IF,
    INDIRECT,
    LABEL,
    MEMBER_REF,
    NULL_STMT,
    OPERATORS,
    PAREN,
    PARM_DECL,
    POINTER,
    RETURN,
    SIZEOF,
    STMT_EXPR,
    STRING,
    SUBSCRIPT,
    SWITCH,
    UNARY,
    UNEXPOSED,
    UNION,
    VAR_DECL,
    WHILE,
)
from .clangnames import Places, Types
from .ir import Variable

_CLEANUP = re.compile(r"cleanup\((\w+)\)")


class Tree:
    """Turns the body of one function after the other of a translation unit into tuples.

    Args:
        clang: the library.
        presumed: the input is preprocessed: lines and files are what its ``#line`` markers say.
        source: the main file's bytes, to tell which parts of a ``for`` header are missing.
    """

    def __init__(self, clang: Clang, presumed: bool, source: bytes, broken: bool = False) -> None:
        self.clang = clang
        self._broken = broken
        self._children = clang.children
        self.where = Places(clang, presumed)
        self.types = Types(clang)
        self.source = source
        self._fields: dict[int, tuple[str, str, str, bool]] = {}
        self._declared: dict[int, tuple[str, Any]] = {}
        self._never: dict[str, bool] = {}
        self.variables: dict[str, Variable] = {}
        self._local: dict[int, str] = {}
        self.functions: dict[int, Any] = {}
        self.results: dict[str, list[str]] = {}
        self.taken: list[str] = []
        self.cleanups: list[str] = []
        self.statics: dict[str, str] = {}
        self._expressions: dict[int, Callable[[Any], Any]] = {
            DECL_REF: self._reference,
            MEMBER_REF: self._member,
            CALL: self._call,
            UNARY: self._unary,
            BINARY: self._binary,
            COMPOUND_ASSIGN: self._compound_assign,
            CONDITIONAL: self._conditional,
            SUBSCRIPT: lambda c: ("i", *self._two(c)),
            STMT_EXPR: lambda c: ("{", [self.statement(x) for x in self._children(self._children(c)[0])]),
            GENERIC: lambda c: ("g", [self.expression(x) for x in self._children(c)]),
            STRING: lambda _c: ("s",),
            SIZEOF: lambda _c: ("o", []),
            106: self._literal,
            110: self._literal,
            CXX_BOOL: self._literal,
        }

    def begin(self) -> None:
        """Forget the previous function's variables."""
        self.variables = {}
        self._local = {}
        self.results = {}
        self.taken = []
        self.cleanups = []

    def expression(self, cursor: Any) -> Any:
        """An expression's tuple."""
        kind = cursor.kind
        while kind in (UNEXPOSED, PAREN, CAST):
            inner = self._children(cursor)
            if not inner:
                return ("o", [])
            if kind == UNEXPOSED and self._broken and self.clang.getCursorType(cursor).kind == DEPENDENT:
                return ("o", [self.expression(x) for x in inner if x.kind >= 100])
            if kind != CAST and len(inner) != 1:
                return ("o", [self.expression(x) for x in inner if x.kind >= 100])
            cursor = inner[-1]
            kind = cursor.kind
        handler = self._expressions.get(kind)
        if handler is not None:
            return handler(cursor)
        if kind == 120:  # the address of a label
            return ("o", [])
        return ("o", [self.expression(x) for x in self._children(cursor) if 100 <= x.kind < 200])

    def _two(self, cursor: Any) -> tuple[Any, Any]:
        parts = [self.expression(x) for x in self._children(cursor)]
        if len(parts) != 2:
            return ("o", parts), ("o", [])
        return parts[0], parts[1]

    def _literal(self, cursor: Any) -> Any:
        result = self.clang.Cursor_Evaluate(cursor)
        if not result:
            return ("o", [])
        whole = self.clang.EvalResult_getKind(result) == 1
        value = self.clang.EvalResult_getAsInt(result) if whole else None
        self.clang.EvalResult_dispose(result)
        return ("o", []) if value is None else ("n", int(value))

    def _reference(self, cursor: Any) -> Any:
        target = self.clang.getCursorReferenced(cursor)
        key = target.data[0] or 0
        name = self._local.get(key)
        if name is not None:
            return ("v", name)
        known = self._declared.get(key)
        if known is None:
            known = self._declared[key] = self._declare(target)
        if known[0] == "v" and known[1][0] not in self.variables:
            self.variables[known[1][0]] = known[1][1]
        if known[0] == "v":
            return ("v", known[1][0])
        if known[0] == "f":
            self.taken.append(known[1])
        return known

    def _declare(self, target: Any) -> tuple[str, Any]:
        kind = target.kind
        if kind == ENUM_CONSTANT:
            return "n", int(self.clang.getEnumConstantDeclValue(target))
        if kind == FUNCTION_DECL:
            return "f", self.function_key(target)
        if kind in (VAR_DECL, PARM_DECL):
            text, names, pointer = self.types.names(self.clang.getCursorType(target))
            static = self.clang.getCursorLinkage(target) == 2
            name = self.clang.spelling(target)
            storage = "file" if static else "global"
            return "v", (name, Variable(storage, text, names, -1, pointer))
        return "o", []

    def function_key(self, target: Any) -> str:
        """How calls name a function: its name, with the file before it when it is static."""
        key = target.data[0] or 0
        if key not in self.functions:
            name = self.clang.spelling(target)
            if self.clang.getCursorLinkage(target) == 2:
                name = f"{self.where.place(target)[0]}:{name}"
            self.functions[key] = name
        return str(self.functions[key])

    def _member(self, cursor: Any) -> Any:
        inner = self._children(cursor)
        if not inner:
            return ("o", [])
        base = self.expression(inner[0])
        target = self.clang.getCursorReferenced(cursor)
        key = target.data[0] or 0
        known = self._fields.get(key)
        if known is None:
            parent = self.clang.getCursorSemanticParent(target)
            record = self.clang.spelling(parent)
            overlaid = parent.kind == UNION and ("(" in record or not record)
            for _ in range(8):
                if "(" not in record and record:
                    break
                parent = self.clang.getCursorSemanticParent(parent)
                record = self.clang.spelling(parent)
            known = (
                self.clang.spelling(target),
                record if "(" not in record else "",
                self._field_type(target),
                overlaid,
            )
            self._fields[key] = known
        name, record, of, overlaid = known
        if not name:  # an anonymous struct or union adds no name of its own
            return base
        arrow = self.clang.getCursorType(inner[0]).kind
        pointer = arrow == POINTER or (
            arrow in (UNEXPOSED, 107, 119)
            and self.clang.getCanonicalType(self.clang.getCursorType(inner[0])).kind == POINTER
        )
        if overlaid and base[0] == "v" and not pointer:  # a variable that is a union: one value, many types
            return base
        return ("m", base, name, pointer, record, of)

    def _field_type(self, field: Any) -> str:
        names = self.types.names(self.clang.getCursorType(field))[1]
        return names[-1] if names else ""

    def _call(self, cursor: Any) -> Any:
        inner = self._children(cursor)
        line = self.where.line(cursor)
        if not inner:
            return ("o", [])
        before = len(self.taken)
        callee = self.expression(inner[0])
        never = False
        if callee[0] == "f":
            del self.taken[before:]
            never = self._never_returns(callee[1], inner[0])
            if callee[1] not in self.results:
                self.results[callee[1]] = self.types.names(self.clang.getCursorType(cursor))[1]
        return ("c", line, callee, [self.expression(x) for x in inner[1:]], never)

    def _never_returns(self, name: str, cursor: Any) -> bool:
        if name not in self._never:
            while cursor.kind != DECL_REF:
                inner = self._children(cursor)
                if not inner:
                    break
                cursor = inner[-1]
            self._never[name] = "noreturn" in self.clang.type_text(self.clang.getCursorType(cursor))
        return self._never[name]

    def _unary(self, cursor: Any) -> Any:
        inner = self._children(cursor)
        operator = self.clang.getCursorUnaryOperatorKind(cursor)
        if not inner:
            return ("o", [])
        value = self.expression(inner[0])
        if operator == 5:
            return value[1] if value[0] == "*" else ("&", value)
        if operator == 6:
            return value[1] if value[0] == "&" else ("*", value)
        if operator == 10:
            return ("n", int(not value[1])) if value[0] == "n" else ("!", value)
        if operator == 8 and value[0] == "n":
            return ("n", -value[1])
        if operator in (1, 2, 3, 4):
            return ("op", self.where.line(cursor), value, ("o", []))
        if operator in (7, 13):
            return value
        return ("o", [value])

    def _binary(self, cursor: Any) -> Any:
        operator = self.clang.getCursorBinaryOperatorKind(cursor)
        if operator == 22:
            target, value = self._two(cursor)
            return ("=", self.where.line(cursor), target, value)
        # A long chain of the same operator leans to the left: unroll it, C programs hold chains of thousands.
        chain: list[tuple[int, Any]] = []
        node = cursor
        while True:
            parts = self._children(node)
            if len(parts) != 2:
                return ("o", [self.expression(x) for x in parts])
            chain.append((self.clang.getCursorBinaryOperatorKind(node), parts[1]))
            if parts[0].kind != BINARY or self.clang.getCursorBinaryOperatorKind(parts[0]) == 22:
                left = self.expression(parts[0])
                break
            node = parts[0]
        for operator, right in reversed(chain):
            value = self.expression(right)
            if operator == 20:
                left = ("&&", left, value)
            elif operator == 21:
                left = ("||", left, value)
            elif operator == 33:
                left = (",", left, value)
            else:
                left = _fold(OPERATORS.get(operator, "."), left, value)
        return left

    def _compound_assign(self, cursor: Any) -> Any:
        target, value = self._two(cursor)
        line = self.where.line(cursor)
        if self.clang.getCursorBinaryOperatorKind(cursor) == 32 and target[0] == "v":
            # x |= f(): a flag that keeps the truth of what it was given.
            return ("=", line, target, ("?", value, ("n", 1), target))
        return ("op", line, target, value)

    def _conditional(self, cursor: Any) -> Any:
        parts = [self.expression(x) for x in self._children(cursor)]
        if len(parts) == 3:
            return ("?", *parts)
        return ("o", parts)

    def body(self, cursor: Any) -> Any:
        """The tuple of a function's body, or None when the cursor is no definition; declares its
        parameters.
        """
        compound = None
        position = 0
        for child in self._children(cursor):
            if child.kind == PARM_DECL:
                self._name(child, "param", position)
                position += 1
            elif child.kind == COMPOUND:
                compound = child
        return None if compound is None else self.statement(compound)

    def _name(self, cursor: Any, kind: str, index: int = -1) -> str:
        name = self.clang.spelling(cursor) or f"({index})"
        unique, count = name, 1
        while unique in self.variables:
            count += 1
            unique = f"{name}#{count}"
        text, names, pointer = self.types.names(self.clang.getCursorType(cursor))
        self.variables[unique] = Variable(kind, text, names, index, pointer)
        self._local[cursor.data[0] or 0] = unique
        return unique

    def statement(self, cursor: Any) -> Any:
        """A statement's tuple."""
        kind = cursor.kind
        if kind == COMPOUND:
            return (
                "block",
                [self.statement(x) for x in self._children(cursor)],
                self.where.last_line(cursor),
            )
        if kind == DECL_STMT:
            return ("block", [self._declaration(x) for x in self._children(cursor) if x.kind == VAR_DECL], -1)
        if kind == IF:
            return self._if(cursor)
        if kind in (WHILE, DO):
            first, second = self._children(cursor)
            test, body = (first, second) if kind == WHILE else (second, first)
            value, inner = (
                (self.expression(test), self.statement(body))
                if kind == WHILE
                else (None, self.statement(body))
            )
            if kind == DO:
                value = self.expression(test)
            return ("while" if kind == WHILE else "do", self.where.line(cursor), value, inner)
        if kind == FOR:
            return self._for(cursor)
        if kind == SWITCH:
            value, body = self._children(cursor)[-2:]
            return ("switch", self.where.line(cursor), self.expression(value), self.statement(body))
        if kind == CASE:
            parts = self._children(cursor)
            bounds = [self.expression(x) for x in parts[:-1]]
            values = [b[1] if b[0] == "n" else None for b in bounds]
            return ("case", [values[0], values[-1]], self.statement(parts[-1]))
        if kind in (DEFAULT, LABEL):
            inner_statement = self.statement(self._children(cursor)[-1])
            if kind == DEFAULT:
                return ("default", inner_statement)
            return ("label", self.clang.spelling(cursor), inner_statement)
        if kind == GOTO:
            return ("goto", self.where.line(cursor), self.clang.spelling(self._children(cursor)[0]))
        if kind == RETURN:
            value = self._children(cursor)
            return ("return", self.where.line(cursor), self.expression(value[0]) if value else None)
        if kind == BREAK:
            return ("break", self.where.line(cursor))
        if kind == CONTINUE:
            return ("continue", self.where.line(cursor))
        if kind == INDIRECT:
            return ("jump", self.where.line(cursor))
        if kind in (NULL_STMT, ASM):
            return ("block", [], -1)
        if kind == 400 or 300 <= kind < 400 or kind < 100:
            return ("block", [], -1)
        if kind == 200 or (kind > 201 and kind < 300):  # a statement with an attribute, or one of no use here
            return ("block", [self.statement(x) for x in self._children(cursor) if x.kind < 400], -1)
        return ("expr", self.where.line(cursor), self.expression(cursor))

    def _if(self, cursor: Any) -> Any:
        # else-if ladders of generated code are thousands long: walked in a loop, nested from the end.
        rungs: list[tuple[int, Any, Any]] = []
        otherwise: Any = None
        while True:
            parts = self._children(cursor)
            rungs.append((self.where.line(cursor), self.expression(parts[0]), self.statement(parts[1])))
            if len(parts) < 3:
                break
            if parts[2].kind != IF:
                otherwise = self.statement(parts[2])
                break
            cursor = parts[2]
        return ("ladder", rungs, otherwise)

    def _declaration(self, cursor: Any) -> Any:
        static = self.clang.Cursor_hasVarDeclGlobalStorage(cursor) == 1
        if static:
            name = self.clang.spelling(cursor)
            text, names, pointer = self.types.names(self.clang.getCursorType(cursor))
            self.variables[name] = Variable("static", text, names, -1, pointer)
            self._local[cursor.data[0] or 0] = name
            return ("block", [], -1)
        cleanup = ""
        if self.clang.Cursor_hasAttrs(cursor):
            policy = self.clang.getCursorPrintingPolicy(cursor)
            found = _CLEANUP.search(self.clang.text(self.clang.getCursorPrettyPrinted(cursor, policy)))
            self.clang.PrintingPolicy_dispose(policy)
            if found:
                cleanup = self.statics.get(found[1], found[1])
                self.cleanups.append(cleanup)
        value = None
        initialiser = self.clang.Cursor_getVarDeclInitializer(cursor)
        name = self._name(cursor, "local")
        if 100 <= initialiser.kind < 200:
            value = self.expression(initialiser)
        return ("decl", self.where.line(cursor), name, value, cleanup)

    def _for(self, cursor: Any) -> Any:
        parts = self._children(cursor)
        line = self.where.line(cursor)
        roles: list[Any] = [None, None, None]
        if len(parts) == 4:
            roles = parts[:3]
        else:
            for part, role in zip(parts[:-1], self._roles(cursor, parts), strict=True):
                roles[role] = part
        start = None if roles[0] is None else self.statement(roles[0])
        test = None if roles[1] is None else self.expression(roles[1])
        step = None if roles[2] is None else self.expression(roles[2])
        return ("for", line, start, test, step, self.statement(parts[-1]))

    def _roles(self, cursor: Any, parts: list[Any]) -> list[int]:
        """Which of initialiser (0), test (1) and step (2) the parts of a ``for`` header are, the body left
        out.
        """
        begin = self.where.start(cursor)
        starts = [self.where.start(x) for x in parts]
        text = self.source[begin : starts[-1]]
        if text.startswith(b"for") and starts == sorted(set(starts)) and text.count(b";") >= 2:
            clean = re.sub(
                rb"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'", _blank, text, flags=re.S
            )
            semicolons = [i for i, byte in enumerate(clean) if byte == 0x3B]
            return [sum(1 for s in semicolons if begin + s < at) if semicolons else 0 for at in starts[:-1]]
        out: list[int] = []
        for part in parts[:-1]:  # inside a macro: judge by shape
            kind = part.kind
            test = kind == BINARY and self.clang.getCursorBinaryOperatorKind(part) in range(11, 22)
            lowest = out[-1] + 1 if out else 0
            if kind == DECL_STMT:
                guess = 0
            elif test or (kind in (UNEXPOSED, DECL_REF, MEMBER_REF, PAREN, UNARY) and lowest <= 1):
                guess = 1
            else:
                guess = 2 if lowest else 0
            out.append(min(2, max(lowest, guess)))
        return out


def _blank(match: re.Match[bytes]) -> bytes:
    return b" " * len(match[0])


def _fold(operator: str, left: Any, right: Any) -> Any:
    """A binary expression; constants built of shifts and ors (flags) become constants."""
    if left[0] == "n" and right[0] == "n":
        a, b = left[1], right[1]
        if operator == "|":
            return ("n", a | b)
        if operator == "<<" and 0 <= b < 64:
            return ("n", a << b)
        if operator in "+-":
            return ("n", a + b if operator == "+" else a - b)
        if operator == "==":
            return ("n", int(a == b))
        if operator == "!=":
            return ("n", int(a != b))
    return ("b", operator, left, right)

"""Reads the text of a pattern into the tree of `nodes`. The grammar is in docs/bitmatch.md.

A hand-written descent over tokens: it is small, it starts fast, and it knows the place of everything it
complains about. Expressions are cut out by their brackets and clause words and given to Python's own parser;
nothing here evaluates anything.
"""

from __future__ import annotations

import _ast as ast
import keyword
import sys
from typing import NoReturn

from .errors import PatternError
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
    Given,
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
from .tokens import Token, tokens

MAX_BITS = 64
MAX_TEXT = 1 << 20
MAX_NESTING = 50
MAX_EXPRESSION = 2000
MAX_DEPTH = 100
MAX_DIMENSIONS = 8
CLAUSE_KEYS = frozenset(("equals", "one_of", "present", "check", "map", "back", "as", "at"))
DATA_FORMS = ("bytes", "view", "str", "cstring", "bits")
CLAUSES = frozenset(("check", "map", "back", "as", "at", "within"))
"""Words that end an expression before them (`within` belongs to types)."""
WORD_OPERATORS = frozenset(("and", "or", "not", "in", "is", "if", "else"))
ORDERS = {"little": LITTLE, "big": BIG, "native": sys.byteorder}


def parse(name: str, text: str) -> tuple[Statement, ...]:
    """The statements of the pattern `name` written in `text`.

    Raises:
        PatternError: with the line and column of what is wrong.
    """
    if len(text) > MAX_TEXT:
        raise PatternError(name, f"the text is longer than {MAX_TEXT} characters")
    return _Parser(name, text).statements(until_brace=False)


class _Parser:
    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.tokens = tokens(name, text)
        self.at = 0
        self.depth = 0

    # -- tokens ---------------------------------------------------------------------------------------------

    def fail(self, problem: str, place: int | None = None) -> NoReturn:
        raise PatternError(
            self.name, problem, self.text, self.tokens[self.at].start if place is None else place
        )

    def peek(self, text: str) -> bool:
        token = self.tokens[self.at]
        return token.text == text and token.kind in ("mark", "name")

    def accept(self, text: str) -> bool:
        if self.peek(text):
            self.at += 1
            return True
        return False

    def expect(self, text: str, after: str) -> None:
        if not self.accept(text):
            self.fail(f"expected {text!r} {after}")

    def skip_newlines(self) -> None:
        while self.tokens[self.at].kind == "newline":
            self.at += 1

    def identifier(self, what: str) -> Token:
        token = self.tokens[self.at]
        if token.kind != "name":
            self.fail(f"expected {what}")
        if token.text.startswith("__") and token.text.endswith("__"):
            self.fail(
                f"{token.text} is a name of Python's own, as all are that begin and end with two underscores"
            )
        self.at += 1
        return token

    def ends_statement(self) -> bool:
        token = self.tokens[self.at]
        return token.kind in ("newline", "end") or (token.kind == "mark" and token.text in (";", "}"))

    # -- expressions ----------------------------------------------------------------------------------------

    def find_else(self, start: int) -> int | None:
        """The index of the `else` that belongs to the `if` before `start`, or None."""
        depth = pending = 0
        previous = "if"
        for index in range(start, len(self.tokens)):
            token = self.tokens[index]
            if token.kind == "end":
                return None
            if token.kind == "newline" and depth == 0:
                return None
            if token.kind == "mark":
                if token.text in "([":
                    depth += 1
                elif token.text in ")]":
                    depth -= 1
                    if depth < 0:
                        return None
                elif token.text in (";", "{", "}") and depth == 0:
                    return None
            elif token.kind == "name" and depth == 0:
                if token.text == "if":
                    pending += 1
                elif token.text == "else":
                    if pending == 0:
                        return index
                    pending -= 1
                elif token.text in CLAUSES and _is_operand(previous):
                    return None
            previous = token.text if token.kind in ("mark", "name") else "0"
        return None

    def expression(self, *stops: str, what: str = "an expression") -> Expr:
        """The expression from here up to one of `stops`, a clause word or the end of the statement."""
        first = self.at
        depth = 0
        previous = "("
        while True:
            token = self.tokens[self.at]
            if token.kind == "end":
                break
            if depth == 0:
                if self.ends_statement() or (token.kind in ("mark", "name") and token.text in stops):
                    break
                if token.kind == "name" and _is_operand(previous):
                    if token.text in CLAUSES:
                        break
                    if token.text == "if" and self.find_else(self.at + 1) is None:
                        break
            if token.kind == "mark":
                if token.text in "([":
                    depth += 1
                elif token.text in ")]":
                    if depth == 0:
                        break
                    depth -= 1
                elif token.text in "{}":
                    self.fail("braces have no place in an expression")
            if token.kind != "newline":
                previous = token.text if token.kind in ("mark", "name") else "0"
            self.at += 1
        if self.at == first:
            self.fail(f"expected {what}")
        last = self.at - 1
        while self.tokens[last].kind == "newline":
            last -= 1
        return self.python(self.tokens[first].start, self.tokens[last].end)

    def python(self, start: int, end: int) -> Expr:
        source = self.text[start:end]
        if len(source) > MAX_EXPRESSION:
            self.fail(f"an expression of more than {MAX_EXPRESSION} characters", start)
        try:
            tree = compile(f"({source})", "<pattern>", "eval", ast.PyCF_ONLY_AST, dont_inherit=True)
        except SyntaxError as error:
            place = start
            if error.lineno is not None and error.offset is not None:
                place = place_in(self.text, start, error.lineno, error.offset - 1)
            raise PatternError(
                self.name, f"not an expression: {error.msg}", self.text, min(place, end)
            ) from None
        except (ValueError, RecursionError, MemoryError, OverflowError):
            raise PatternError(
                self.name, "this expression is too deep or too long", self.text, start
            ) from None
        assert isinstance(tree, ast.Expression)
        if _depth(tree.body) > MAX_DEPTH:
            self.fail("this expression is nested too deep", start)
        return Expr(tree.body, source, start)

    # -- statements -----------------------------------------------------------------------------------------

    def statements(self, *, until_brace: bool) -> tuple[Statement, ...]:
        self.depth += 1
        if self.depth > MAX_NESTING:
            self.fail(f"more than {MAX_NESTING} braces inside one another")
        found: list[Statement] = []
        while True:
            while self.tokens[self.at].kind == "newline" or self.peek(";"):
                self.at += 1
            token = self.tokens[self.at]
            if token.kind == "end":
                if until_brace:
                    self.fail("a brace was not closed")
                break
            if token.text == "}" and token.kind == "mark":
                if not until_brace:
                    self.fail("a closing brace without an opening one")
                self.at += 1
                break
            found.append(self.statement())
            if not self.ends_statement():
                self.fail(f"unexpected {self.tokens[self.at].text!r}")
        self.depth -= 1
        return tuple(found)

    def statement(self) -> Statement:
        token = self.tokens[self.at]
        following = self.tokens[self.at + 1] if token.kind != "end" else token
        if token.text == "*" and token.kind == "mark":
            self.at += 1
            return Splice(self.identifier("the name of a pattern").text, token.start)
        if token.kind in ("number", "string") or (token.kind == "mark" and token.text == "-"):
            return self.anonymous_constant()
        if token.kind != "name":
            self.fail("expected a field: name : type")
        if following.kind == "mark" and following.text == ":":
            return self.field()
        if following.kind == "mark" and following.text == "=":
            name = self.identifier("a name").text
            if keyword.iskeyword(name):
                self.fail(f"{name} is a word of Python", token.start)
            self.at += 1
            return Let(name, self.expression(what="a value"), token.start)
        directive = self.directive()
        if directive is None:
            self.fail(f"expected ':' and a type after {token.text!r}", following.start)
        return directive

    def directive(self) -> Statement | None:
        token = self.tokens[self.at]
        word = token.text
        if word in ORDERS or word in (MSB, LSB):
            self.at += 1
            order = ORDERS.get(word)
            bit_order = word if order is None else None
            if order is not None and (self.peek(MSB) or self.peek(LSB)):
                bit_order = self.tokens[self.at].text
                self.at += 1
            return SetOrder(order, bit_order, token.start)
        if word == "endian":
            self.at += 1
            return SetOrder(
                self.expression(what="big or little, or an expression that gives one"), None, token.start
            )
        if word in ("at", "skip", "align", "size"):
            self.at += 1
            verb = "at bit" if word == "at" and self.bit_unit() else word
            return Move(verb, self.expression(what="a number of bytes"), token.start)
        if word == "when":
            self.at += 1
            return Guard(self.expression(what="a condition"), token.start)
        if word == "given":
            self.at += 1
            names = [self.identifier("a name").text]
            while self.accept(","):
                names.append(self.identifier("a name").text)
            return Given(tuple(names), token.start)
        return None

    def bit_unit(self) -> bool:
        """Whether `bit` follows as a unit and not as the name of a field."""
        if not self.peek("bit"):
            return False
        following = self.tokens[self.at + 1]
        if following.kind in ("number", "name") or following.text == "(":
            self.at += 1
            return True
        return False

    def anonymous_constant(self) -> Field:
        start = self.tokens[self.at].start
        value = self.expression(":", what="a constant")
        if self.accept(":"):
            return self.clauses(None, self.type(), start, shown="", equals=value)
        return self.clauses(None, self.constant_type(value), start, shown="", equals=value)

    def constant_type(self, value: Expr) -> Type:
        constant = value.tree.value if isinstance(value.tree, ast.Constant) else None
        if isinstance(constant, bytes):
            form, length = "bytes", len(constant)
        elif isinstance(constant, str):
            form, length = "str", len(constant.encode("utf-8", "surrogateescape"))
        else:
            self.fail("a constant needs a size, as in 0xEF53 : 16", value.place)
        size = Expr(ast.Constant(length), str(length), value.place)
        return DataType(form, size, "utf-8", None, value.place)

    def field(self) -> Field:
        token = self.identifier("a field")
        self.at += 1  # the colon
        name = None if token.text == "_" else token.text
        if self.tokens[self.at].kind == "number" and not keyword.iskeyword(token.text):
            following = self.tokens[self.at + 1]
            if following.kind in ("newline", "end") or following.text == ";":
                # Most fields are like this, and most of the time goes into them.
                size = self.tokens[self.at]
                self.at += 1
                return Field(
                    name, IntType(self.width(size), None, False, None, size.start), token.start, token.text
                )
        if self.tokens[self.at].kind == "string":
            value = self.expression()
            return self.clauses(name, self.constant_type(value), token.start, shown=token.text, equals=value)
        return self.clauses(name, self.type(), token.start, shown=token.text)

    def clauses(
        self, name: str | None, type_: Type, place: int, *, shown: str, equals: Expr | None = None
    ) -> Field:
        found: dict[str, Expr] = {}
        at_bits = False
        if equals is not None:
            found["equals"] = equals
        while not self.ends_statement():
            token = self.tokens[self.at]
            key = {"=": "equals", "in": "one_of", "if": "present"}.get(token.text, token.text)
            if key not in CLAUSE_KEYS:
                hint = " (write == to compare)" if token.text == "==" else ""
                self.fail(f"expected the end of the line or one of = in check map back as at if{hint}")
            if key in found:
                self.fail(f"{token.text!r} is said twice")
            self.at += 1
            if key == "as":
                renamed = self.identifier("a name")
                name = renamed.text
                found["as"] = Expr(ast.Constant(0), name, renamed.start)
                continue
            if key == "at":
                at_bits = self.bit_unit()
            found[key] = self.expression(what=f"an expression after {token.text!r}")
        if name is not None and keyword.iskeyword(name):
            self.fail(f"{name} is a word of Python: say {name} : ... as {name}_", place)
        if name is None and ("map" in found or "back" in found):
            self.fail("a field without a name has nothing to map", place)
        return Field(
            name,
            type_,
            place,
            shown or (name or "constant"),
            equals=found.get("equals"),
            one_of=found.get("one_of"),
            check=found.get("check"),
            map=found.get("map"),
            back=found.get("back"),
            present=found.get("present"),
            at=found.get("at"),
            at_bits=at_bits,
        )

    # -- types ----------------------------------------------------------------------------------------------

    def type(self) -> Type:
        self.depth += 1
        if self.depth > MAX_NESTING:
            self.fail(f"more than {MAX_NESTING} types inside one another")
        first = self.tokens[self.at].start
        options = [self.repeated()]
        while self.next_option():
            self.skip_newlines()
            options.append(self.repeated())
        result = options[0] if len(options) == 1 else ChoiceType(tuple(options), first)
        if self.peek("if"):
            other = self.find_else(self.at + 1)
            if other is not None:
                self.at += 1
                test = self.expression("else", what="a condition")
                self.expect("else", "and another type")
                result = CondType(result, test, self.type(), first)
        self.depth -= 1
        return result

    def next_option(self) -> bool:
        """Whether another alternative follows, possibly on the next line."""
        index = self.at
        while self.tokens[index].kind == "newline":
            index += 1
        if self.tokens[index].text == "|":
            self.at = index + 1
            return True
        return False

    def repeated(self) -> Type:
        result = self.primary()
        counts: list[tuple[str, Expr | None, int]] = []
        while self.peek("["):
            place = self.tokens[self.at].start
            self.at += 1
            self.skip_newlines()
            if self.accept("..."):
                counts.append(("fill", None, place))
            elif self.peek("until"):
                self.at += 1
                counts.append(("until", self.expression(what="a condition"), place))
            else:
                counts.append(("count", self.expression(what="a count"), place))
            self.skip_newlines()
            self.expect("]", "after the count")
            if len(counts) > MAX_DIMENSIONS:
                self.fail(f"an array of more than {MAX_DIMENSIONS} dimensions")
        for mode, expr, place in reversed(counts):  # as in C, the first count is the outermost
            result = ArrayType(result, mode, expr, place)
        if self.peek("within"):
            place = self.tokens[self.at].start
            self.at += 1
            result = WithinType(result, self.expression("if", "|", what="a number of bytes"), place)
        return result

    def primary(self) -> Type:
        place = self.tokens[self.at].start
        signed: bool | None = None
        order: Order | None = None
        while True:
            token = self.tokens[self.at]
            if token.kind == "name" and token.text in ("signed", "unsigned"):
                signed = token.text == "signed"
            elif token.kind == "name" and token.text in ORDERS:
                order = ORDERS[token.text]
            elif token.kind == "name" and token.text == "endian":
                self.at += 1
                order = self.bracketed("a byte order")
                continue
            else:
                break
            self.at += 1
        result = self.plain(place, signed=bool(signed), order=order)
        if signed is not None and not isinstance(result, IntType):
            self.fail("only integers are signed or unsigned", place)
        if order is not None and not isinstance(result, IntType | FloatType | DataType):
            self.fail("only numbers and text have a byte order", place)
        return result

    def bracketed(self, what: str) -> Expr:
        self.expect("(", f"and {what}")
        self.skip_newlines()
        result = self.expression(",", what=what)
        self.skip_newlines()
        self.expect(")", f"after {what}")
        return result

    def plain(self, place: int, *, signed: bool, order: Order | None) -> Type:
        token = self.tokens[self.at]
        if token.kind == "number":
            self.at += 1
            return IntType(self.width(token), None, signed, order, place)
        if self.accept("{"):
            return GroupType(self.statements(until_brace=True), place)
        if self.accept("("):
            self.skip_newlines()
            inner = self.type()
            self.skip_newlines()
            self.expect(")", "after the type")
            return inner
        if token.kind == "string":
            self.fail("a constant string stands alone: name : b'...'")
        if token.kind != "name":
            self.fail("expected a type: a number of bits, bytes(...), str(...), a pattern or { ... }")
        self.identifier("a type")
        word = token.text
        if word == "int":
            return IntType(0, self.bracketed("a number of bits"), signed, order, place)
        if word == "float":
            size = self.bracketed("a number of bits")
            bits = size.tree.value if isinstance(size.tree, ast.Constant) else None
            if bits not in (16, 32, 64) or not isinstance(bits, int):
                self.fail("a float has 16, 32 or 64 bits", size.place)
            return FloatType(bits, order, place)
        if word == "rest":
            return DataType("bits", None, "", order, place)
        if word in DATA_FORMS:
            return self.data(word, order, place)
        args: list[tuple[str | None, Expr]] = []
        if self.accept("("):
            self.skip_newlines()
            while not self.accept(")"):
                key = None
                following = self.tokens[self.at + 1]
                if self.tokens[self.at].kind == "name" and following.kind == "mark" and following.text == "=":
                    key = self.identifier("a parameter").text
                    self.at += 1
                args.append((key, self.expression(",", what="an argument")))
                self.skip_newlines()
                if not self.accept(",") and not self.peek(")"):
                    self.fail("expected ',' or ')' after an argument")
                self.skip_newlines()
        return RefType(word, tuple(args), token.start)

    def data(self, form: str, order: Order | None, place: int) -> DataType:
        encoding = "utf-8" if form in ("str", "cstring") else ""
        size: Expr | None = None
        if self.accept("("):
            self.skip_newlines()
            size = self.expression(",", what="a size")
            self.skip_newlines()
            if encoding and self.accept(","):
                token = self.tokens[self.at]
                if token.kind != "string" or token.text[0] not in "\"'":
                    self.fail("expected the name of an encoding, in quotes")
                encoding = self.encoding(token.text[1:-1])
                self.at += 1
            self.expect(")", "after the size")
        if order is not None and form != "str":
            self.fail(f"{form} has no byte order", place)
        return DataType(form, size, encoding, order, place)

    def encoding(self, name: str) -> str:
        known = {"utf8": "utf-8", "ascii": "ascii", "latin1": "latin-1", "utf16": "utf-16", "utf32": "utf-32"}
        plain = name.lower().replace("-", "").replace("_", "")
        if plain not in known:
            self.fail(f"unknown encoding {name!r}: expected utf-8, ascii, latin-1, utf-16 or utf-32")
        return known[plain]

    def width(self, token: Token) -> int:
        try:
            bits = int(token.text, 0)
        except ValueError:
            self.fail(f"{token.text} is not a number of bits", token.start)
        if not 1 <= bits <= MAX_BITS:
            self.fail(f"an integer has 1 to {MAX_BITS} bits; longer data is bytes(n)", token.start)
        return bits


def _is_operand(text: str) -> bool:
    """Whether a clause word may follow `text`: that is, whether `text` ends an operand."""
    return text in ")]" or ((text[0].isalnum() or text[0] == "_") and text not in WORD_OPERATORS)


def _depth(tree: ast.AST) -> int:
    """How deep an expression is nested, found without recursion; no deeper than one more than is allowed."""
    depth = 0
    level: list[ast.AST] = [tree]
    while level and depth <= MAX_DEPTH:
        depth += 1
        below: list[ast.AST] = []
        for node in level:
            for name in node._fields:
                value = getattr(node, name, None)
                if isinstance(value, ast.AST):
                    below.append(value)
                elif isinstance(value, list):
                    below += [item for item in value if isinstance(item, ast.AST)]
        level = below
    return depth


def place_in(text: str, start: int, line: int, column: int) -> int:
    """The place in `text` of line and column (from 1 and 0) of an expression that begins at `start`.

    Expressions are parsed with one bracket in front of them, so the first line is one column off.
    """
    if line <= 1:
        return start + max(column - 1, 0)
    for _ in range(line - 1):
        start = text.find("\n", start) + 1
    return start + column

"""Expressions as instructions: the order of calls, the branches of ``&&``, ``||`` and ``?:``, what is read.

:class:`Evaluator` is the half of :mod:`.cfg` that knows expressions; it adds to the block that is being made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .expressions import has_effects, reads, written
from .ir import Block, Function
from .paths import variables

_COMPARISONS = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_TRANSPARENT = ("__builtin_expect", "__builtin_expect_with_probability")
_NAMED = ("c", "v", "m", "i", "*")
_transparent_calls = tuple(("f", name) for name in _TRANSPARENT)


class Evaluator:
    """Makes the instructions of expressions, and the blocks they need.

    Args:
        function: gets the classes of the members that are mentioned.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self.classes = function.classes
        self.blocks: list[Block] = [Block([], None)]
        self.current = self.blocks[0]
        self.temporaries = 0
        self.scopes: list[tuple[str, str]] = []
        self.labels: dict[str, tuple[Block, int]] = {}

    def _statement(self, node: Any) -> None:
        """A statement inside an expression."""
        raise NotImplementedError

    # Blocks

    def _new(self) -> Block:
        block = Block([], None)
        self.blocks.append(block)
        return block

    def _go(self, block: Block) -> None:
        """Ends the current block with a jump, if nothing ended it yet, and goes on in ``block``."""
        if self.current.end is None:
            self.current.end = ("J", block)
        self.current = block

    def _stop(self, end: Any) -> None:
        if self.current.end is None:
            self.current.end = end
        self.current = self._new()

    def _emit(self, instruction: Any) -> None:
        self.current.code.append(instruction)

    def _temporary(self) -> str:
        self.temporaries += 1
        return f"%{self.temporaries}"

    def _leave(self, depth: int, line: int) -> None:
        for variable, cleanup in reversed(self.scopes[depth:]):
            self._emit(("C", line, cleanup, [f"&{variable}"], "", []))

    # Expressions

    def _effects(self, node: Any, uses: list[str]) -> None:
        """Evaluates for what it does; its value is not wanted."""
        kind = node[0]
        if kind == "c":
            self._call(node, "")
        elif kind in ("&&", "||"):
            inside, done = self._new(), self._new()
            yes, no = (inside, done) if kind == "&&" else (done, inside)
            self._condition(node[1], yes, no, 0)
            self.current = inside
            self._effects(node[2], uses)
            self._go(done)
        elif kind == "?":
            yes, no, done = self._new(), self._new(), self._new()
            self._condition(node[1], yes, no, 0)
            for block, arm in ((yes, node[2]), (no, node[3])):
                self.current = block
                self._effects(arm, uses)
                self._go(done)
        elif kind == ",":
            self._effects(node[1], uses)
            self._effects(node[2], uses)
        elif kind == "{":
            self._inner(node[1], lambda e: self._effects(e, []))
        elif has_effects(node):
            self._operand(node, uses)

    def _inner(self, statements: list[Any], last: Callable[[Any], Any]) -> Any:
        """A statement expression: its statements, then ``last`` on the expression that is its value."""
        depth = len(self.scopes)
        out = None
        for statement in statements[:-1]:
            self._statement(statement)
        if statements:
            final = statements[-1]
            while final[0] == "label":
                self._go(self._new())
                self.labels[final[1]] = (self.current, len(self.scopes))
                final = final[2]
            if final[0] == "expr":
                out = last(final[2])
            else:
                self._statement(final)
        self._leave(depth, 0)
        del self.scopes[depth:]
        return out

    def _operand(self, node: Any, uses: list[str]) -> str:
        """Evaluates an expression; says how its value is written and which variables it reads."""
        kind = node[0]
        if kind == "n":
            return f"#{node[1]}"
        if kind in ("v", "m", "i", "*"):
            return self._path(node, uses) or "?"
        if kind == "&":
            inner = self._path(node[1], uses) if node[1][0] in ("v", "m", "i", "*") else None
            if inner is None:
                self._operand(node[1], uses)
                return "?"
            return f"&{inner}"
        if kind == "c":
            if node[2] in _transparent_calls and node[3]:
                return self._operand(node[3][0], uses)
            return self._call(node, self._temporary())
        if kind in ("=", "op"):
            return self._assignment(node)
        if kind == "f":
            return f"@{node[1]}"
        if kind == "s":
            return '"'
        if kind == ",":
            self._effects(node[1], uses)
            return self._operand(node[2], uses)
        if kind == "{":
            found = self._inner(node[1], lambda e: self._operand(e, uses))
            return found or "?"
        if kind == "?":
            return self._choice(node, uses)
        if kind in ("&&", "||") or (kind == "!" and has_effects(node)):
            # Their operands are tests, which are no uses.
            return self._truth(node) if has_effects(node) else "?"
        if kind == "g":
            return self._operand(node[1][0], uses) if node[1] else "?"
        for part in node[1] if kind == "o" else node[1:]:
            if isinstance(part, tuple):
                self._operand(part, uses)
        return "?"

    def _choice(self, node: Any, uses: list[str]) -> str:
        _, test, first, second = node
        plain = ("s", "o", "b")
        if first[0] in plain and second[0] in plain and not has_effects(node):
            reads(first, uses)
            reads(second, uses)
            return '"' if first[0] == second[0] == "s" else "?"
        target = self._temporary()
        yes, no, done = self._new(), self._new(), self._new()
        self._condition(test, yes, no, 0)
        for block, arm in ((yes, first), (no, second)):
            self.current = block
            self._assign(0, target, arm, [])
            self._go(done)
        return target

    def _truth(self, node: Any) -> str:
        target = self._temporary()
        yes, no, done = self._new(), self._new(), self._new()
        self._condition(node, yes, no, 0)
        for block, value in ((yes, "#1"), (no, "#0")):
            self.current = block
            self._emit(("S", 0, target, value, []))
            self._go(done)
        return target

    def _assignment(self, node: Any) -> str:
        kind, line, target, value = node
        uses: list[str] = []
        path = self._path(target, uses)
        if path is None:
            self._operand(target, uses)
            path = ""
        if target[0] == "v" and kind == "=":
            uses.clear()
        if kind == "op":
            self._operand(value, uses)
            self._emit(("S", line, path, "?", sorted(set(uses))))
        else:
            self._assign(line, path, value, uses)
        return path or "?"

    def _assign(self, line: int, path: str, value: Any, uses: list[str]) -> None:
        """``path = value``; ``uses`` are what evaluating the target read."""
        kind = value[0]
        if kind == "c" and value[2] not in _transparent_calls:
            self._call(value, path, uses)
        elif kind == "?":
            yes, no, done = self._new(), self._new(), self._new()
            self._condition(value[1], yes, no, line)
            for block, arm in ((yes, value[2]), (no, value[3])):
                self.current = block
                self._assign(line, path, arm, list(uses))
                self._go(done)
        elif kind == "{":

            def assign(last: Any) -> bool:
                self._assign(line, path, last, uses)
                return True

            if self._inner(value[1], assign) is None:
                self._emit(("S", line, path, "?", sorted(set(uses))))
        else:
            operand = self._operand(value, uses)
            self._emit(("S", line, path, operand, sorted(set(uses))))

    def _call(self, node: Any, result: str, uses: list[str] | None = None) -> str:
        _, line, callee, arguments, never = node
        reads: list[str] = list(uses or [])
        if callee[0] == "f":
            name = callee[1]
        elif callee[0] == "m":
            self._operand(callee[1], reads)
            name = f"*{callee[4]}.{callee[2]}"
        else:
            name = "*" + self._operand(callee, reads)
        operands = [self._operand(a, reads) for a in arguments]
        self._emit(("C", line, name, operands, result, sorted(set(reads))))
        if never or name in ("__builtin_unreachable", "__builtin_trap"):
            self._stop(("H",))
        return result

    def _path(self, node: Any, uses: list[str] | None) -> str | None:
        """The access path an expression is, or None."""
        kind = node[0]
        if kind == "v":
            if uses is not None:
                uses.append(node[1])
            return str(node[1])
        if kind == "m":
            _, base, name, arrow, record, of = node
            if base[0] == "&" and arrow:
                base, arrow = base[1], False
            elif base[0] == "*" and not arrow:
                base, arrow = base[1], True
            inner = self._path(base, uses)
            if inner is None:
                inner = self._operand(base, uses if uses is not None else [])
                if inner[:1] in ("#", '"', "?", "@"):
                    return None
                if inner[:1] == "&":
                    inner, arrow = inner[1:], False
            path = f"{inner}{'->' if arrow else '.'}{name}"
            if record:
                self.classes[path] = [f"{record}.{name}", of]
            return path
        if kind == "i":
            inner = self._path(node[1], uses)
            if inner is None:
                return None
            index = self._operand(node[2], uses if uses is not None else [])
            path = f"{inner}[{index.removeprefix('#')}]"
            if inner in self.classes:
                self.classes[path] = self.classes[inner]
            return path
        if kind == "*":
            inner = self._path(node[1], uses)
            return None if inner is None else f"*{inner}"
        return None

    def _condition(self, node: Any, yes: Block, no: Block, line: int) -> None:
        """Ends the current block with a branch on an expression."""
        kind = node[0]
        while kind == "!" or (kind == "c" and node[2] in _transparent_calls and node[3]):
            if kind == "!":
                node, yes, no = node[1], no, yes
            else:
                node = node[3][0]
            kind = node[0]
        if kind in ("&&", "||"):
            between = self._new()
            self._condition(node[1], between if kind == "&&" else yes, no if kind == "&&" else between, line)
            self.current = between
            self._condition(node[2], yes, no, line)
            return
        if kind == "?":
            first, second = self._new(), self._new()
            self._condition(node[1], first, second, line)
            self.current = first
            self._condition(node[2], yes, no, line)
            self.current = second
            self._condition(node[3], yes, no, line)
            return
        if kind == ",":
            self._effects(node[1], [])
            self._condition(node[2], yes, no, line)
            return
        test = self._test(node)
        if test[0] == "k":
            self._stop(("J", yes if test[1] else no))
        else:
            self._stop(("B", line, test, yes, no))

    def _compared(self, operator: str, left: Any, right: Any) -> Any:
        """A comparison of two values of which a call returns at least one, by their paths."""
        paths = [self._operand(left, []), self._operand(right, [])]
        if any(p[:1] in ("?", "#", '"', "&", "@") for p in paths):
            return ("x", "", [])
        if operator in ("==", "!="):
            paths.sort()
        names = sorted({name for p in paths for name in variables(p)})
        return ("x", f"({operator} {paths[0]} {paths[1]})", names)

    def _test(self, node: Any) -> Any:
        kind = node[0]
        if kind == "n":
            return ("k", bool(node[1]))
        if kind == "s":  # stands for a constant nobody defined
            return ("x", "", [])
        if kind == "f":
            return ("k", True)
        if kind == "b" and node[1] in _COMPARISONS:
            operator, left, right = node[1:]
            if left[0] == "n":
                operator, left, right = _COMPARISONS[operator], right, left
            if right[0] == "n":
                operand = (
                    self._operand(left, []) if left[0] not in ("b", "o", "!") or has_effects(left) else "?"
                )
                if operand[:1] not in ("?", "#", '"', "&", "@"):
                    return ("r", operator, operand, right[1])
            elif "c" in (left[0], right[0]) and left[0] in _NAMED and right[0] in _NAMED:
                return self._compared(node[1], node[2], node[3])
        elif kind in ("v", "m", "i", "*", "c", "=", "op", "{", "g"):
            operand = self._operand(node, [])
            if operand[:1] == "#":
                return ("k", operand != "#0")
            if operand[:1] in ("&", "@"):
                return ("k", True)
            if operand[:1] not in ("?", '"'):
                return ("v", operand)
            return ("x", "", [])
        if has_effects(node):
            self._operand(node, [])
            return ("x", "", [])
        names: list[str] = []
        return ("x", written(node, names, 0), sorted(set(names)))

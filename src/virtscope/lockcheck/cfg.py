"""From a function's tree to its flow graph.

:func:`build` is the entry point. What C does implicitly is made explicit here: the order of calls inside
expressions, the branches of ``&&``, ``||`` and ``?:``, what a statement expression yields, the calls that
``__attribute__((cleanup))`` makes wherever a scope is left (its end, ``return``, ``break``, ``continue``,
``goto``). Calls and assignments inside a condition become instructions before the branch, so the branch
itself only tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .expressions import compound, compounds, has_effects, reads, written
from .ir import Block, Function
from .paths import variables

_COMPARISONS = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_TRANSPARENT = ("__builtin_expect", "__builtin_expect_with_probability")


def build(function: Function, body: Any) -> None:
    """Fills in the blocks and member classes of a function from the tree of its body."""
    builder = _Builder(function)
    try:
        builder.run(body)
    except _Refused as refusal:
        function.problem = str(refusal)
        function.blocks = []
    except RecursionError:
        function.problem = "is nested too deeply"
        function.blocks = []


class _Refused(Exception):
    """A construct that cannot be followed."""


class _Builder:
    def __init__(self, function: Function) -> None:
        self.function = function
        self.classes = function.classes
        self.blocks: list[Block] = [Block([], None)]
        self.current = self.blocks[0]
        self.numbers: dict[int, int] = {id(self.blocks[0]): 0}
        self.temporaries = 0
        self.scopes: list[tuple[str, str]] = []
        self.loops: list[tuple[Block, Block | None, int]] = []
        self.switches: list[tuple[list[Any], list[Block]]] = []
        self.labels: dict[str, tuple[Block, int]] = {}
        self.gotos: list[tuple[Block, int, str, list[tuple[str, str]]]] = []
        self.compounds: dict[str, int] = {}

    def run(self, body: Any) -> None:
        self.compounds = compounds(body)
        self._statement(body)
        last = body[2] if body[0] == "block" else self.function.line
        if self.current.end is None:
            self.current.end = ("E", last)
        for block, line, name, scopes in self.gotos:
            if name not in self.labels:
                raise _Refused(f"jumps to the label {name}, which is not there")
            target, depth = self.labels[name]
            for variable, cleanup in reversed(scopes[depth:]):
                block.code.append(("C", line, cleanup, [f"&{variable}"], "", []))
            block.end = ("J", target)
        self.function.blocks = _tidy(self.blocks)

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

    # Statements

    def _statement(self, node: Any) -> None:
        handler = getattr(self, f"_do_{node[0]}")
        handler(node)

    def _do_block(self, node: Any) -> None:
        _, statements, last = node
        depth = len(self.scopes)
        for statement in statements:
            self._statement(statement)
        if last >= 0:  # a declaration's own "block" opens no scope
            if self.current.end is None:
                self._leave(depth, last)
            del self.scopes[depth:]

    def _do_expr(self, node: Any) -> None:
        self._effects(node[2], [])

    def _do_decl(self, node: Any) -> None:
        _, line, name, value, cleanup = node
        self._emit(("D", line, name))
        if value is not None:
            self._assign(line, name, value, [])
        if cleanup:
            self.scopes.append((name, cleanup))

    def _rung(self, test: Any, yes: Block, no: Block, line: int) -> None:
        """A branch on an ``if``'s test; that the same ``a && b`` comes out the same way later on is kept."""
        while test[0] == "!" and test[1][0] in ("!", "&&", "||"):
            test, yes, no = test[1], no, yes
        names: list[str] = []
        text = compound(test, names)
        if self.compounds.get(text, 0) < 2:
            self._condition(test, yes, no, line)
            return
        true, false, never = self._new(), self._new(), self._new()
        never.end = ("H",)
        self._condition(test, true, false, line)
        known = ("x", text, sorted(set(names)))
        true.end = ("B", line, known, yes, never)
        false.end = ("B", line, known, never, no)

    def _do_ladder(self, node: Any) -> None:
        _, rungs, otherwise = node
        done = self._new()
        for line, test, body in rungs:
            yes, no = self._new(), self._new()
            self._rung(test, yes, no, line)
            self.current = yes
            self._statement(body)
            self._go(done)
            self.current = no
        if otherwise is not None:
            self._statement(otherwise)
        self._go(done)

    def _loop(self, body: Any, again: Block, done: Block) -> None:
        self.loops.append((done, again, len(self.scopes)))
        self._statement(body)
        self.loops.pop()

    def _do_while(self, node: Any) -> None:
        _, line, test, body = node
        head, inside, done = self._new(), self._new(), self._new()
        self._go(head)
        self._condition(test, inside, done, line)
        self.current = inside
        self._loop(body, head, done)
        self._go(head)
        self.current = done

    def _do_do(self, node: Any) -> None:
        _, line, test, body = node
        inside, check, done = self._new(), self._new(), self._new()
        self._go(inside)
        self._loop(body, check, done)
        self._go(check)
        self._condition(test, inside, done, line)
        self.current = done

    def _do_for(self, node: Any) -> None:
        _, line, start, test, step, body = node
        depth = len(self.scopes)
        head, inside, after, done = self._new(), self._new(), self._new(), self._new()
        if start is not None:
            self._statement(start)
        self._go(head)
        if test is None:
            self.current.end = ("J", inside)
        else:
            self._condition(test, inside, done, line)
        self.current = inside
        self._loop(body, after, done)
        self._go(after)
        if step is not None:
            self._effects(step, [])
        self._go(head)
        self.current = done
        self._leave(depth, line)
        del self.scopes[depth:]

    def _do_switch(self, node: Any) -> None:
        _, line, value, body = node
        operand = self._operand(value, [])
        start, done = self.current, self._new()
        cases: list[Any] = []
        default: list[Block] = []
        self.current = self._new()
        self.loops.append((done, None, len(self.scopes)))
        self.switches.append((cases, default))
        self._statement(body)
        self.switches.pop()
        self.loops.pop()
        self._go(done)
        if start.end is None:
            start.end = ("W", line, operand, cases, default[0] if default else done)

    def _do_case(self, node: Any) -> None:
        _, values, body = node
        block = self._new()
        self._go(block)
        if self.switches:
            self.switches[-1][0].append((values, block))
        self._statement(body)

    def _do_default(self, node: Any) -> None:
        block = self._new()
        self._go(block)
        if self.switches:
            self.switches[-1][1].append(block)
        self._statement(node[1])

    def _do_label(self, node: Any) -> None:
        block = self._new()
        self._go(block)
        self.labels[node[1]] = (block, len(self.scopes))
        self._statement(node[2])

    def _do_goto(self, node: Any) -> None:
        if self.current.end is None:
            block = self._new()
            self.current.end = ("J", block)
            self.gotos.append((block, node[1], node[2], list(self.scopes)))
        self.current = self._new()

    def _do_break(self, node: Any) -> None:
        if not self.loops:
            raise _Refused("has a break outside loops")
        target, _, depth = self.loops[-1]
        self._leave(depth, node[1])
        self._stop(("J", target))

    def _do_continue(self, node: Any) -> None:
        for _, again, depth in reversed(self.loops):
            if again is not None:  # a switch has nothing to continue with
                self._leave(depth, node[1])
                self._stop(("J", again))
                return
        raise _Refused("has a continue outside loops")

    def _do_return(self, node: Any) -> None:
        _, line, value = node
        operand = "" if value is None else self._operand(value, [])
        self._leave(0, line)
        self._stop(("R", line, operand))

    def _do_jump(self, node: Any) -> None:
        raise _Refused(f"has a computed goto on line {node[1]}, which cannot be followed")

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


_NAMED = ("c", "v", "m", "i", "*")
_transparent_calls = tuple(("f", name) for name in _TRANSPARENT)


def _tidy(blocks: list[Block]) -> list[Block]:
    """Drops unreachable blocks, merges straight lines, and numbers what is left from the entry on."""
    order, seen, stack = [], set(), [blocks[0]]
    while stack:
        block = stack.pop()
        if id(block) in seen:
            continue
        seen.add(id(block))
        while block.end is not None and block.end[0] == "J":
            target = block.end[1]
            while (
                not target.code
                and target.end is not None
                and target.end[0] == "J"
                and target.end[1] is not target
            ):
                target = target.end[1]
            block.end = ("J", target)
            break
        order.append(block)
        stack.extend(reversed(_targets(block.end)))
    predecessors: dict[int, int] = {id(order[0]): 1}
    for block in order:
        for target in _targets(block.end):
            predecessors[id(target)] = predecessors.get(id(target), 0) + 1
    gone: set[int] = set()
    for block in order:
        if id(block) in gone:
            continue
        while block.end is not None and block.end[0] == "J":
            target = block.end[1]
            if predecessors[id(target)] != 1 or target is block or target is order[0]:
                break
            block.code.extend(target.code)
            block.end = target.end
            gone.add(id(target))
    order = [b for b in order if id(b) not in gone]
    number = {id(b): i for i, b in enumerate(order)}
    for block in order:
        block.end = _numbered(block.end, number)
    return order


def _targets(end: Any) -> list[Block]:
    if end is None or end[0] in ("R", "E", "H"):
        return []
    if end[0] == "J":
        return [end[1]]
    if end[0] == "B":
        return [end[3], end[4]]
    return [*(block for _, block in end[3]), end[4]]


def _numbered(end: Any, number: dict[int, int]) -> Any:
    if end is None:
        return ("H",)
    if end[0] == "J":
        return ("J", number[id(end[1])])
    if end[0] == "B":
        return (*end[:3], number[id(end[3])], number[id(end[4])])
    if end[0] == "W":
        return (*end[:3], [[values, number[id(b)]] for values, b in end[3]], number[id(end[4])])
    return end

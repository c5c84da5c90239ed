"""From a function's tree to its flow graph.

:func:`build` is the entry point. What C does implicitly is made explicit here: the order of calls inside
expressions, the branches of ``&&``, ``||`` and ``?:``, what a statement expression yields, the calls that
``__attribute__((cleanup))`` makes wherever a scope is left (its end, ``return``, ``break``, ``continue``,
``goto``). Calls and assignments inside a condition become instructions before the branch, so the branch
itself only tests.
"""

from __future__ import annotations

from typing import Any

from .evaluate import Evaluator
from .expressions import compound, compounds
from .ir import Block, Function
from .tidy import tidy


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


class _Builder(Evaluator):
    def __init__(self, function: Function) -> None:
        super().__init__(function)
        self.loops: list[tuple[Block, Block | None, int]] = []
        self.switches: list[tuple[list[Any], list[Block]]] = []
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
        self.function.blocks = tidy(self.blocks)
        direct_calls(self.function)

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


def direct_calls(function: Function) -> None:
    """Calls through a variable that only ever gets one function, as those of ``g_clear_pointer``, by that
    function's name.
    """
    given: dict[str, set[str]] = {}
    for block in function.blocks:
        for ins in block.code:
            if ins[0] == "S":
                given.setdefault(ins[2], set()).add(ins[3])
            elif ins[0] == "C":
                given.setdefault(ins[4], set()).add("")
                for operand in ins[3]:
                    given.setdefault(operand[1:] if operand[:1] == "&" else "", set()).add("")
    for block in function.blocks:
        for i, ins in enumerate(block.code):
            name = ins[2][1:] if ins[0] == "C" and ins[2][:1] == "*" else ""
            variable = function.variables.get(name)
            targets = given.get(name, set())
            if variable is not None and variable.kind == "local" and len(targets) == 1:
                target = next(iter(targets))
                if target[:1] == "@":
                    block.code[i] = (*ins[:2], target[1:], *ins[3:])

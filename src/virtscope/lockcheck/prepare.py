"""Gets a function ready for one rule set: which of its instructions matter, and what each does to locks.

:func:`prepare` is the entry point. Variables with static storage are renamed ``@name`` (``@name:file`` when
only one file sees them), so that they mean the same in every function.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any

from .ir import Function, Variable
from .paths import root, shape, variables
from .rules import Effect, RuleSet
from .summaries import Summary

LONGEST = 48
"""How many instructions a block may have."""


def bare(key: str) -> str:
    """A function's plain name: a static one's key has its file before it."""
    return key.rpartition(":")[2]


@dataclass(slots=True)
class Call:
    """A call that matters.

    Attributes:
        effects: what the rules say it does.
        summary: what analysis found that it does; None when neither is known.
        uses: tracked variables it reads.
    """

    line: int
    callee: str
    arguments: list[str]
    result: str
    uses: list[str]
    effects: list[Effect]
    summary: Summary | None


@dataclass(slots=True)
class Set:
    """An assignment, or (operand ``?``, no uses) a variable coming to life."""

    line: int
    target: str
    operand: str
    uses: list[str]
    born: bool = False


@dataclass(slots=True)
class Prepared:
    """A function as the data flow sees it.

    Attributes:
        code: for each block, its instructions that matter.
        ends: for each block, its terminator.
        roles: the tracked variables of the two-level rule, each with its lock class.
        interesting: the paths whose value decides something.
        released: shapes of all locks that some instruction releases.
        chosen: pointers to locks that are set in several places, to different ones (``l = test ? &a : &b``).
        assigned: variables that get a value, or whose address is taken.
        relevant: whether anything happens to locks here.
        selective: whether it depends on an argument what locks are taken deeper down.
    """

    function: Function
    code: list[list[Call | Set]] = field(default_factory=list)
    ends: list[Any] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    classes: dict[str, list[str]] = field(default_factory=dict)
    interesting: set[str] = field(default_factory=set)
    released: set[str] = field(default_factory=set)
    texts: dict[str, list[str]] = field(default_factory=dict)
    assigned: set[str] = field(default_factory=set)
    chosen: set[str] = field(default_factory=set)
    relevant: bool = False
    selective: bool = False

    @property
    def told_apart(self) -> list[str]:
        """The pointers of which it matters at any time what they point to."""
        return [*self.roles, *self.chosen]


def matches(names: list[str], types: tuple[str, ...]) -> bool:
    """Whether a variable's type is one of a rule's types."""
    return any(name in types for name in names)


def prepare(function: Function, rules: RuleSet, summaries: dict[str, Summary]) -> Prepared:
    """The function's instructions that matter under a rule set, given the summaries of what it calls."""
    out = Prepared(function)
    names = _static_names(function)

    def fix(path: str) -> str:
        if not path or path[0] in '#?"@%':
            return path
        amp = path[0] == "&"
        start = root(path[amp:])
        new = names.get(start)
        if new is None:
            return path
        return path.replace(start, new, 1)

    tracked = [rules.locks[x] for x in (rules.driver, rules.object) if x]
    for name, variable in function.variables.items():
        for lock in tracked:
            if variable.pointer and matches(variable.names, lock.types):
                out.roles[names.get(name, name)] = lock.name
        out.types[names.get(name, name)] = variable.type
        out.variables[names.get(name, name)] = variable
    out.classes = {fix(path): kind for path, kind in function.classes.items()} if names else function.classes
    for block in function.blocks:
        code: list[Call | Set] = []
        for ins in block.code:
            if ins[0] == "C":
                _, line, callee, arguments, result, uses = ins
                plain = bare(callee)
                effects = rules.effects(plain)
                summary = None if effects else summaries.get(callee)
                call = Call(
                    line,
                    callee,
                    [fix(a) for a in arguments],
                    fix(result),
                    [names.get(u, u) for u in uses],
                    effects,
                    summary,
                )
                _note(out, call, rules)
                code.append(call)
            elif ins[0] == "S":
                _, line, target, operand, uses = ins
                code.append(Set(line, fix(target), fix(operand), [names.get(u, u) for u in uses]))
            else:
                code.append(Set(ins[1], ins[2], "?", [], True))
        out.code.append(code)
        out.ends.append(_end(out, block.end, fix, names))
        if plain_never(code, rules):
            out.ends[-1] = ("H",)
    for code in out.code:
        for ins in code:
            target = ins.result if isinstance(ins, Call) else ins.target
            out.assigned.add(target)
            operands = ins.arguments if isinstance(ins, Call) else [ins.operand]
            out.assigned.update(x[1:] for x in operands if x[:1] == "&" and root(x[1:]) == x[1:])
    if out.roles:
        out.relevant = True
    if out.relevant:
        out.chosen = _chosen(out)
        _trim(out)
        _split(out)
    else:
        calls = (ins.summary for code in out.code for ins in code if isinstance(ins, Call))
        out.selective = any(s is not None and s.acquires for s in calls) and any(
            end[0] in "BW" and _on_argument(out, end[2]) for end in out.ends
        )
    return out


def _chosen(out: Prepared) -> set[str]:
    """Variables whose locks are worked on, and that get the value of one of several others that stay."""
    pointers: set[str] = set()
    values: dict[str, set[str]] = {}
    for code in out.code:
        for ins in code:
            if isinstance(ins, Set):
                if ins.operand[:1] == "&" or (
                    ins.operand[:1] not in '#?"%' and root(ins.operand) not in out.assigned
                ):
                    values.setdefault(ins.target, set()).add(ins.operand)
            elif ins.effects or (ins.summary is not None and ins.summary.changes):
                pointers.update(root(x.removeprefix("&")) for x in ins.arguments if x[:1] not in '#?"@')
    return {
        name
        for name in sorted(pointers - set(out.roles))
        if len(values.get(name, ())) > 1 and name[:1] not in "@:"
    }


def _on_argument(out: Prepared, test: Any) -> bool:
    """Whether a branch's test, or a switch's operand, is an argument as the caller gave it."""
    path = test if isinstance(test, str) else test[1] if test[0] == "v" else test[2] if test[0] == "r" else ""
    variable = out.variables.get(path)
    return variable is not None and variable.kind == "param" and path not in out.assigned


def plain_never(code: list[Call | Set], rules: RuleSet) -> bool:
    """Whether a block calls a function that the rules say does not return."""
    if not rules.never_returns:
        return False
    return any(isinstance(i, Call) and bare(i.callee) in rules.never_returns for i in code)


def _static_names(function: Function) -> dict[str, str]:
    out = {}
    for name, variable in function.variables.items():
        if variable.kind in ("global", "file", "static"):
            out[name] = static_name(name, variable, function)
    return out


def static_name(name: str, variable: Variable, function: Function) -> str:
    """The program-wide name of a variable with static storage."""
    if variable.kind == "global":
        return f"@{name}"
    stem = re.sub(r"\W", "_", os.path.basename(function.file))
    if variable.kind == "static":
        return f"@{name}:{stem}:{function.name}"
    return f"@{name}:{stem}"


def _note(out: Prepared, call: Call, rules: RuleSet) -> None:
    """What a call means for the function as a whole."""
    if rules.driver:
        call.effects = [e for e in call.effects if _fits(out, call, e, rules)]
    for effect in call.effects:
        if effect.operation in ("unlock", "release"):
            at = effect.argument
            if 0 <= at < len(call.arguments):
                out.released.add(shape(call.arguments[at].removeprefix("&")))
        if effect.operation == "fetch":
            names = out.function.results.get(call.callee, [])
            lock = rules.locks[effect.lock]
            if not matches(names, lock.types) and call.result not in out.roles:
                call.effects = [e for e in call.effects if e is not effect]
                continue
            if call.result:
                out.roles.setdefault(call.result, effect.lock)
                out.types.setdefault(call.result, names[0] + " *" if names else lock.name)
        out.relevant = True
    if call.summary is not None and call.summary.changes:
        out.relevant = True


def _fits(out: Prepared, call: Call, effect: Effect, rules: RuleSet) -> bool:
    """Whether the argument's type is one of the lock's, as far as is known: names of lock functions are
    patterns.
    """
    types = rules.locks[effect.lock].types
    if not types or effect.operation == "fetch" or not 0 <= effect.argument < len(call.arguments):
        return True
    operand = call.arguments[effect.argument].removeprefix("&")
    known = out.classes.get(operand)
    if known is not None:
        return known[1] in types or known[1] == "void"
    variable = out.variables.get(operand)
    return variable is None or matches(variable.names, types) or "void" in variable.names


def _end(out: Prepared, end: Any, fix: Any, names: dict[str, str]) -> Any:
    kind = end[0]
    if kind == "B":
        test = end[2]
        if test[0] == "v":
            test = ("v", fix(test[1]))
            out.interesting.add(test[1])
        elif test[0] == "r":
            test = ("r", test[1], fix(test[2]), test[3])
            out.interesting.add(test[2])
        elif test[1]:
            test = ("x", f"?{test[1]}", [names.get(n, n) for n in test[2]])
            out.texts[test[1]] = test[2]
            out.interesting.add(test[1])
        return ("B", end[1], test, end[3], end[4])
    if kind == "W":
        operand = fix(end[2])
        out.interesting.add(operand)
        return ("W", end[1], operand, end[3], end[4])
    if kind == "R":
        operand = fix(end[2])
        out.interesting.add(operand)
        return ("R", end[1], operand)
    return end


def _split(out: Prepared) -> None:
    """Makes chains of very long blocks: between blocks what is no longer wanted is forgotten."""
    for number in range(len(out.code)):
        code, end, at = out.code[number], out.ends[number], number
        for start in range(LONGEST, len(code), LONGEST):
            out.ends[at] = ("J", len(out.code))
            at = len(out.code)
            out.code.append(code[start : start + LONGEST])
            out.ends.append(end)
        out.code[number] = code[:LONGEST]


def _trim(out: Prepared) -> None:
    """Drops assignments that no decision and no lock depends on; facts go backwards through copies."""
    wanted = out.interesting
    roots: set[str] = {root(p.lstrip("&")) for p in wanted if p[:1] not in '#?"'}
    for names in out.texts.values():
        roots.update(names)
    for code in out.code:
        for ins in code:
            if isinstance(ins, Call) and (ins.effects or (ins.summary is not None and ins.summary.changes)):
                for argument in ins.arguments:
                    if argument[:1] not in '#?"':
                        roots.update(variables(argument.removeprefix("&")))
                if ins.result:
                    roots.add(root(ins.result))
    roots.update(out.roles)
    for _ in range(8):
        before = len(roots)
        for code in out.code:
            for ins in code:
                if not isinstance(ins, Set):
                    continue
                if ins.operand[:1] == "&" and root(ins.operand[1:]) in roots:
                    roots.add(root(ins.target))  # what is written through it changes the other
                if ins.operand[:1] not in '#?"@' and root(ins.target) in roots:
                    roots.add(root(ins.operand.removeprefix("&")))
                    wanted.add(ins.operand)
        if len(roots) == before:
            break
    stored = {  # fields that get one of the pointers: what else they get counts
        ins.target
        for code in out.code
        for ins in code
        if isinstance(ins, Set) and ins.operand in roots and root(ins.target) != ins.target
    }
    for i, code in enumerate(out.code):
        out.code[i] = [
            ins
            for ins in code
            if isinstance(ins, Call)
            or root(ins.target) in roots
            or (ins.target and (ins.operand in roots or ins.target in stored))
            or any(u in out.roles for u in ins.uses)
        ]

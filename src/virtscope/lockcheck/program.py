"""The whole program: functions in the order of their calls, then what only all callers together can tell.

:func:`analyse_program` is the entry point. Functions are followed from the called to the calling, so that
every call finds a summary; functions that call each other are followed until their summaries stay as they
are, a bounded number of times. A function that returns with a lock held, or releases one it never took, is
a mistake or a helper of its caller: it counts as a helper when a caller does its part (releases what it
took, holds what it releases), or when the rule set's ``takes`` and ``gives`` patterns match its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from . import dataflow, described, lockorder
from .cache import digest
from .findings import Finding, Place
from .ir import Function, Unit
from .prepare import static_name
from .results import Candidate, Result
from .rules import RuleSet
from .summaries import Summary

_ROUNDS = 3


@dataclass(slots=True)
class Program:
    """All functions of all units.

    Attributes:
        functions: by key.
        entries: keys of the entry points.
        results: what analysis found, by key.
    """

    rules: RuleSet
    functions: dict[str, Function] = field(default_factory=dict)
    entries: set[str] = field(default_factory=set)
    results: dict[str, Result] = field(default_factory=dict)
    summaries: dict[str, Summary] = field(default_factory=dict)


def collect(units: Iterable[Unit], rules: RuleSet, named: Iterable[str] = ()) -> Program:
    """The program that units make, with the entry points its tables and the caller name."""
    program = Program(rules)
    wanted = set(named)
    table_functions: set[str] = set()
    for unit in units:
        for function in unit.functions:
            key = function.key
            known = program.functions.get(key)
            if known is not None:
                if known.file == function.file:
                    continue
                if _size(function) > _size(known):  # the other is a stub
                    program.functions[f"{known.file}:{known.name}"] = known
                else:
                    key = f"{function.file}:{function.name}"
            program.functions[key] = function
            table_functions.update(_assigned_entries(function, rules))
        for table in unit.tables:
            if any(_holds_entries(t, rules) for t in table.types):
                table_functions.update(table.functions)
    for key, function in program.functions.items():
        if function.key in table_functions or function.name in wanted or key in wanted:
            program.entries.add(key)
    program.rules.recursive = frozenset(_made_recursive(program))
    return program


def _holds_entries(type_name: str, rules: RuleSet) -> bool:
    return type_name in rules.entries or type_name.removeprefix("struct ").lstrip("_") in rules.entries


def _assigned_entries(function: Function, rules: RuleSet) -> Iterable[str]:
    """Functions that are put into a table of entry points by assignment: ``table->open = my_open``."""
    if not rules.entries:
        return
    for block in function.blocks:
        for ins in block.code:
            if ins[0] == "S" and ins[3][:1] == "@" and ins[2] in function.classes:
                record, _, _ = function.classes[ins[2]][0].rpartition(".")
                if _holds_entries(record, rules):
                    yield ins[3][1:]


def _size(function: Function) -> tuple[bool, int]:
    """Whether a definition returns at all, and how much code it is."""
    returns = any(block.end[0] in ("R", "E") for block in function.blocks)
    return returns, sum(1 + len(block.code) for block in function.blocks)


def _made_recursive(program: Program) -> Iterable[str]:
    """Identities of the locks that some call makes recursive: one that the rules name, one in a function that
    asks for the recursive kind, or one to a function that does that for its parameter.
    """
    rules = program.rules
    named = {name for name, e in rules.functions if e.operation == "recursive_init"}
    kinds = {name for name, e in rules.functions if e.operation == "recursive_kind"}
    if not named | kinds:
        return
    makers: dict[str, int] = {}
    calls: dict[str, list[tuple[Function, list[str]]]] = {}
    for key, function in program.functions.items():
        every = [ins for block in function.blocks for ins in block.code if ins[0] == "C"]
        for ins in every:
            calls.setdefault(ins[2], []).append((function, ins[3]))
        if not any(ins[2] in kinds and _recursive_kind(rules, ins) for ins in every):
            continue
        for ins in every:
            for effect in rules.effects(ins[2]):
                if effect.operation == "init" and effect.argument < len(ins[3]):
                    path = ins[3][effect.argument].removeprefix("&")
                    variable = function.variables.get(path)
                    if variable is not None and variable.kind == "param":
                        makers[key] = variable.index
                    else:
                        yield from lock_identity(function, path)
    for name in named:
        for effect in rules.effects(name):
            for function, arguments in calls.get(name, ()):
                if effect.argument < len(arguments):
                    yield from lock_identity(function, arguments[effect.argument].removeprefix("&"))
    for key, index in makers.items():
        for function, arguments in calls.get(key, ()):
            if index < len(arguments):
                yield from lock_identity(function, arguments[index].removeprefix("&"))


def _recursive_kind(rules: RuleSet, ins: Any) -> bool:
    return any(
        e.operation == "recursive_kind" and e.argument < len(ins[3]) and ins[3][e.argument] == "#1"
        for e in rules.effects(ins[2])
    )


def lock_identity(function: Function, path: str) -> Iterable[str]:
    """Which lock of the program a field or a global variable is."""
    if path in function.classes:
        yield function.classes[path][0]
    elif path in function.variables:
        yield static_name(path, function.variables[path], function)[1:]


def callees(function: Function) -> set[str]:
    """The keys of the functions a function calls by name."""
    return {ins[2] for block in function.blocks for ins in block.code if ins[0] == "C"}


def analyse_program(
    program: Program,
    progress: Callable[[int, int], None] | None = None,
    known: dict[str, list[Any]] | None = None,
) -> list[Finding]:
    """Follows every function; returns the findings of those the rule set looks at.

    Args:
        program: its functions; results and summaries are filled in.
        progress: told how many functions are done, and of how many.
        known: results of an earlier run: for each function a hash of what it was made from, and the result.
            Those that still hold are taken, and all are replaced by this run's.
    """
    functions = program.functions
    calls = {key: sorted(c for c in callees(f) if c in functions) for key, f in functions.items()}
    memory = _Memory(program, known)
    done = 0
    for group in _components(calls):
        again = len(group) > 1 or group[0] in calls[group[0]]
        for _ in range(_ROUNDS if again else 1):
            before = [program.summaries.get(key) for key in group]
            for key in group:
                memory.one(key, calls[key])
            if [program.summaries.get(key) for key in group] == before:
                break
        done += len(group)
        if progress is not None and done % 256 < len(group):
            progress(done, len(functions))
    memory.replace()
    return conclude(program)


class _Memory:
    """Follows functions, or finds that an earlier run did."""

    def __init__(self, program: Program, known: dict[str, list[Any]] | None) -> None:
        self.program = program
        self.known = known
        self.now: dict[str, list[Any]] = {}
        self.digests: dict[str, str] = {}

    def one(self, key: str, calls: list[str]) -> None:
        program = self.program
        function, rules = program.functions[key], program.rules
        summaries = program.summaries
        made_of = ""
        if self.known is not None and function.digest:
            parts = [function.digest, key in program.entries, [self.digests.get(c, "") for c in calls]]
            made_of = digest(parts)
        old = self.known.get(key) if self.known is not None else None
        if rules.skips(function.name) or function.problem:
            result = Result(problem=function.problem)
        elif rules.effects(function.name):
            # A function the rules describe is what they say, not what its body does; that is looked at alone.
            result = Result()
            if described.works_on_it(function, rules):
                body = dataflow.analyse(function, rules, summaries, False)
                result.findings = described.deviations(function, rules, body)
        elif made_of and old is not None and old[0] == made_of:
            result = Result.from_json(old[1])
            self.now[key] = old
        else:
            result = dataflow.analyse(function, rules, summaries, key in program.entries)
            if made_of:
                self.now[key] = [made_of, result.to_json()]
        program.results[key] = result
        summary = result.summary
        if summary.changes or summary.acquires or summary.calls:
            summaries[key] = summary
            if self.known is not None:
                self.digests[key] = digest(summary.to_json())
        else:
            summaries.pop(key, None)
            self.digests.pop(key, None)

    def replace(self) -> None:
        if self.known is not None:
            self.known.clear()
            self.known.update(self.now)


def conclude(program: Program) -> list[Finding]:
    """The findings, once every function has been followed."""
    rules = program.rules
    shown = program.entries if rules.entries or program.entries else set(program.functions)
    out: list[Finding] = []
    for key in shown:
        result = program.results.get(key)
        if result is not None:
            out.extend(result.findings)
    if not rules.entries:
        out.extend(_judge(program, shown))
    if "lock-order" in rules.checks:
        out.extend(lockorder.inversions(program.functions, program.results, rules, shown))
    unique = {(f.kind, f.file, f.line, f.function, f.message): f for f in out}
    return sorted(unique.values(), key=lambda f: (f.file, f.line, f.kind, f.message))


def skipped(program: Program) -> list[Place]:
    """Functions that could not be followed, each with the reason."""
    out = []
    for key, function in program.functions.items():
        problem = function.problem or (program.results[key].problem if key in program.results else "")
        if problem:
            out.append(Place(function.file, function.line, f"{function.name} {problem}"))
    return out


def _judge(program: Program, shown: set[str]) -> list[Finding]:
    """Mistakes among functions that leave a lock held, or release one they did not take."""
    evidence: set[tuple[str, str, str]] = set()
    for result in program.results.values():
        evidence |= result.evidence
    sides = {"exit-locked": "releases", "unlock-unlocked": "holds"}
    meant: set[tuple[str, str, str]] = set()
    candidates = [(key, c) for key, r in program.results.items() for c in r.candidates]
    for key, candidate in candidates:
        side = (sides[candidate.kind], key, candidate.lock)
        name = program.functions[key].name
        if candidate.lock and (side in evidence or _promises(program.rules, candidate.kind, name)):
            meant.add((candidate.kind, key, candidate.lock))
    changed = True
    while changed:
        changed = False
        for key, candidate in candidates:
            if candidate.origin[0] and (candidate.kind, key, candidate.lock) in meant:
                called = (candidate.kind, *candidate.origin)
                if called not in meant:
                    meant.add(called)
                    changed = True
        for key, result in program.results.items():
            for lock, callee, theirs in result.passed:
                wanted = ("unlock-unlocked", callee, theirs)
                if wanted not in meant and (
                    ("holds", key, lock) in evidence or ("unlock-unlocked", key, lock) in meant
                ):
                    meant.add(wanted)
                    changed = True
    kinds = program.rules.checks
    blamed = [
        (key, c)
        for key, c in candidates
        if _blamed(key, c, meant, _promises(program.rules, c.kind, program.functions[key].name))
    ]
    gathered = {name for r in program.results.values() for name in r.elements}
    paired = _paired(blamed, gathered)
    return [
        c.finding for key, c in blamed if key in shown and c.kind in kinds and (key, c.field) not in paired
    ]


def _promises(rules: RuleSet, kind: str, name: str) -> bool:
    return rules.may_take(name) if kind == "exit-locked" else rules.may_give(name)


def _paired(blamed: list[tuple[str, Candidate]], gathered: set[str]) -> set[tuple[str, str]]:
    """Functions of which one takes the lock of an object in a field and another, later, gives it back: by
    that field; or one takes it of an object that it puts somewhere, and another gives back those of all
    elements of an array (the fields ``gathered``).
    """
    taken = {(key, c.field) for key, c in blamed if c.kind == "exit-locked" and c.field}
    given = {(key, c.field) for key, c in blamed if c.kind == "unlock-unlocked" and c.field}
    fields = {name for _, name in taken - given} & {name for _, name in given - taken}
    put_away = {(key, c.field) for key, c in blamed if c.kind == "exit-locked" and c.field and c.stored}
    return {(key, name) for key, name in taken ^ given if name in fields} | {
        (key, name) for key, name in put_away if name in gathered
    }


def _blamed(key: str, candidate: Candidate, meant: set[tuple[str, str, str]], helps: bool) -> bool:
    if candidate.lock and (candidate.kind, key, candidate.lock) in meant:
        return False
    if not candidate.lock and helps:
        return False
    # What a called function did by mistake is that function's, not its callers'.
    return not candidate.origin[0] or (candidate.kind, *candidate.origin) in meant


def _components(calls: dict[str, list[str]]) -> list[list[str]]:
    """Strongly connected components of the call graph, called before calling (Tarjan, without recursion)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    on_stack: set[str] = set()
    stack: list[str] = []
    out: list[list[str]] = []
    for start in calls:
        if start in index:
            continue
        work = [(start, iter(calls[start]))]
        index[start] = low[start] = len(index)
        stack.append(start)
        on_stack.add(start)
        while work:
            node, rest = work[-1]
            for callee in rest:
                if callee not in index:
                    index[callee] = low[callee] = len(index)
                    stack.append(callee)
                    on_stack.add(callee)
                    work.append((callee, iter(calls[callee])))
                    break
                if callee in on_stack:
                    low[node] = min(low[node], index[callee])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    group = []
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        group.append(member)
                        if member == node:
                            break
                    out.append(group)
    return out

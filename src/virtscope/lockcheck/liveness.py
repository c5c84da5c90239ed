"""Which of a function's variables are still wanted where; what is known of the others is dropped.

:func:`live_variables` is the entry point. A long function makes a temporary (``%1``, ``%2``, ...) for nearly
every call, and old locals stay in scope; facts about all of them, and locks that were taken and released
again, would make each step as slow as the function is long.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .paths import root, variables
from .prepare import Prepared, Set

FACTS = 300
"""How many facts a state may hold before the oldest about values are dropped."""


def live_variables(prepared: Prepared) -> list[set[str]]:
    """For each block, the variables that it or a later block reads before giving them another value."""
    count = len(prepared.code)
    live: list[set[str]] = []
    writes: list[set[str]] = []
    before: list[list[int]] = [[] for _ in range(count)]
    for number in range(count):
        read, written = _block(prepared, number)
        live.append({name for name in read if mortal(prepared, name)})
        writes.append(written)
        for target in targets(prepared.ends[number]):
            before[target].append(number)
    work = [number for number in range(count) if live[number]]
    waiting = set(work)
    while work:
        number = work.pop()
        waiting.discard(number)
        for other in before[number]:
            more = live[number] - writes[other] - live[other]
            if more:
                live[other] |= more
                if other not in waiting:
                    waiting.add(other)
                    work.append(other)
    return live


def mortal(prepared: Prepared, name: str) -> bool:
    """Whether a variable means nothing to callers: a local one, or a temporary."""
    if name[:1] == "%":
        return name[1:].isdigit()
    variable = prepared.variables.get(name)
    return variable is not None and variable.kind == "local"


def targets(end: Any) -> list[int]:
    """The blocks a block's end leads to."""
    if end[0] == "J":
        return [end[1]]
    if end[0] == "B":
        return [end[3], end[4]]
    if end[0] == "W":
        return [*(block for _, block in end[3]), end[4]]
    return []


def _block(prepared: Prepared, number: int) -> tuple[set[str], set[str]]:
    """The variables a block reads before it writes them, and those it writes."""
    read: set[str] = set()
    written: set[str] = set()

    def note(paths: Iterable[str]) -> None:
        for path in paths:
            if path and path[0] not in '#?"@':
                read.update(set(variables(path.lstrip("&*"))) - written)

    for ins in prepared.code[number]:
        if isinstance(ins, Set):
            note((ins.operand, *ins.uses))
            target = ins.target
        else:
            note((*ins.arguments, *ins.uses, ins.callee.lstrip("*")))
            target = ins.result
        if target and root(target) == target:
            written.add(target)
        else:
            note((target,))
    end = prepared.ends[number]
    if end[0] in "WR":
        note((end[2],))
    elif end[0] == "B":
        test = end[2]
        note((test[1],) if test[0] == "v" else (test[2],) if test[0] == "r" else test[2] if test[1] else ())
    return read, written


def prune(prepared: Prepared, facts: dict[str, Any], locks: dict[str, str], live: set[str]) -> None:
    """Drops what is known of variables that nothing reads any more, and the oldest of too many facts.

    A lock that was taken and released and cannot be meant again goes too; the two-level rule wants to know
    of all.
    """
    dead = []
    for name in facts:
        if name[0] not in "?^@:":
            start = root(name.lstrip("~+*"))
            if name[0] == "~" and name[1:] != start:
                continue  # where a pointer was stored: others may find it there
            if start not in live and mortal(prepared, start):
                dead.append((name, start))
    if dead:
        kept = {root(value.lstrip("&*")) for value in facts.values() if isinstance(value, str)}
        if not prepared.roles:
            for key in [k for k, s in locks.items() if s == "U" and k[0] not in ":@"]:
                start = root(key)
                if start not in live and start not in kept and mortal(prepared, start):
                    del locks[key]
        kept.update(map(root, locks))
        for name, start in dead:
            if start not in kept:
                del facts[name]
    if len(facts) > FACTS:
        for name in [n for n in facts if n[0] not in "~+^"][: len(facts) - FACTS]:
            del facts[name]

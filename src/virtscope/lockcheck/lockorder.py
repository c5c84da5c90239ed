"""Lock-order inversions over the whole program, as lockdep finds them at run time.

:func:`inversions` is the entry point. Every lock taken while another is held is an edge between the two
locks (fields of structs, globals, or all objects of a type); a cycle means that two threads can wait for
each other.
"""

from __future__ import annotations

from collections import deque

from .findings import Finding, Place
from .ir import Function
from .prepare import bare
from .results import Edge, Result
from .rules import RuleSet

_LONGEST = 6
"""Longer cycles are not looked for."""


def inversions(
    functions: dict[str, Function], results: dict[str, Result], rules: RuleSet, shown: set[str]
) -> list[Finding]:
    """Findings for cycles, with the chain of calls of every edge, the shortest first, as many as it takes to
    tell each edge once; and one for each broken declared order.
    """
    edges: dict[str, dict[str, tuple[str, Edge]]] = {}
    for key, result in results.items():
        for edge in result.edges:
            edges.setdefault(edge.held, {}).setdefault(edge.taken, (key, edge))
    out = _declared(functions, results, rules, edges)
    cycles: dict[frozenset[str], list[str]] = {}
    for first in sorted(edges):
        for second in sorted(edges[first]):
            back = _path(edges, second, first)
            if back is not None:
                cycle = [first, *back[:-1]] if back[-1] == first else [first, *back]
                cycles.setdefault(frozenset(cycle), cycle)
    told: set[tuple[str, str]] = set()
    for cycle in sorted(cycles.values(), key=len):
        steps = list(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        owners = [edges[a][b][0] for a, b in steps]
        if told.issuperset(steps) or not any(o in shown for o in owners):
            continue  # each of its steps is in a shorter cycle
        told.update(steps)
        related = [p for a, b in steps for p in chain(functions, results, *edges[a][b])]
        key, edge = edges[steps[0][0]][steps[0][1]]
        order = " -> ".join(map(_plain, [*cycle, cycle[0]]))
        what = f"locks are taken in both orders: {order}"
        function = functions[key]
        names = tuple((_plain(n), "lock") for n in cycle)
        out.append(
            Finding("lock-order", function.name, function.file, edge.line, what, names, tuple(related))
        )
    return out


def _declared(
    functions: dict[str, Function],
    results: dict[str, Result],
    rules: RuleSet,
    edges: dict[str, dict[str, tuple[str, Edge]]],
) -> list[Finding]:
    out = []
    for order in rules.order:
        for i, outer in enumerate(order):
            for inner in order[i + 1 :]:
                found = edges.get(inner, {}).get(outer)
                if found is None:
                    continue
                key, edge = found
                function = functions[key]
                rule = " before ".join(order)
                what = f"{_plain(outer)} is taken while {_plain(inner)} is held; the rule set says {rule}"
                related = tuple(chain(functions, results, key, edge))
                names = ((_plain(inner), "lock"), (_plain(outer), "lock"))
                out.append(
                    Finding("lock-order", function.name, function.file, edge.line, what, names, related)
                )
    return out


def chain(functions: dict[str, Function], results: dict[str, Result], key: str, edge: Edge) -> list[Place]:
    """Where the first lock of an edge is taken, and the calls that lead to the second."""
    function = functions[key]
    out = [
        Place(function.file, edge.held_line or function.line, f"{function.name} holds {_plain(edge.held)}")
    ]
    line, callee = edge.line, edge.callee
    seen: set[str] = set()
    for _ in range(20):
        if not callee or callee in seen:
            break
        seen.add(callee)
        out.append(Place(function.file, line, f"and calls {bare(callee)}"))
        result = results.get(callee)
        if result is None or edge.taken not in result.summary.acquires or callee not in functions:
            return out
        function = functions[callee]
        line, callee, _ = result.summary.acquires[edge.taken]
    out.append(Place(function.file, line, f"{function.name} takes {_plain(edge.taken)}"))
    return out


def _plain(identity: str) -> str:
    """A lock of the program for people: a static variable without its file."""
    return identity.partition(":")[0]


def _path(edges: dict[str, dict[str, tuple[str, Edge]]], start: str, goal: str) -> list[str] | None:
    """A shortest chain of edges from one lock to another, or None."""
    queue = deque([[start]])
    seen = {start}
    while queue:
        path = queue.popleft()
        if path[-1] == goal:
            return path
        if len(path) >= _LONGEST:
            continue
        for after in edges.get(path[-1], ()):
            if after not in seen:
                seen.add(after)
                queue.append([*path, after])
    return None

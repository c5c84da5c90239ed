"""A function's flow graph with the lock states that reach each block: as text, as Graphviz's dot, as SVG.

:func:`text` and :func:`dot` are the entry points; :func:`svg` runs Graphviz.
"""

from __future__ import annotations

import subprocess
from typing import Any

from ..errors import MissingDependency, UsageError
from .dataflow import Flow
from .program import Program
from .suppress import Sources
from .why import follow, state_words


def find(program: Program, name: str) -> str:
    """The key of the function called ``name``.

    Raises:
        UsageError: there is none, or it could not be followed.
    """
    keys = [k for k, f in program.functions.items() if name in (k, f.name)]
    if not keys:
        raise UsageError(f"no function is called {name} in these files")
    function = program.functions[keys[0]]
    if function.problem:
        raise UsageError(f"{function.file}: {name} {function.problem}: there is no graph of it")
    return keys[0]


Drawn = tuple[int, list[str], list[str], list[tuple[int, str]]]
"""A block's number, its lines of code, the states that reach it, and where it leads."""


def blocks(program: Program, name: str, sources: Sources) -> list[Drawn]:
    """Each block of a function.

    Raises:
        UsageError: as for :func:`find`.
    """
    key = find(program, name)
    flow = follow(program, key)
    file = program.functions[key].file
    out = []
    for number, code in enumerate(flow.prepared.code):
        end = flow.prepared.ends[number]
        numbers = {ins.line for ins in code} | ({end[1]} if end[0] in "BWR" else set())
        lines = [f"{n}: {_visible(sources.line(file, n))}" for n in sorted(numbers) if n]
        states = sorted({_state(flow, locks) for locks in flow.states[number]})
        out.append((number, lines, states, _edges(end)))
    return out


def _visible(code: str) -> str:
    """Code without what acts on terminals, or is no XML."""
    return "".join(c if c.isprintable() else " " if c == "\t" else "\ufffd" for c in code)


def _state(flow: Flow, locks: Any) -> str:
    words = state_words(locks)
    if not words:
        return "nothing locked" if flow.entry else "as on entry"
    return ", ".join(f"{name} {word}" for name, word in words)


def _edges(end: Any) -> list[tuple[int, str]]:
    if end[0] == "J":
        return [(end[1], "")]
    if end[0] == "B":
        return [(end[3], "true"), (end[4], "false")]
    if end[0] == "W":
        cases = [(block, "case" if low is None else f"case {low}") for (low, _), block in end[3]]
        return [*cases, (end[4], "default")]
    return []


def text(program: Program, name: str, sources: Sources) -> str:
    """The graph as indented text."""
    out = [f"{name}:"]
    for number, lines, states, edges in blocks(program, name, sources):
        out.append(f"  block {number}")
        out += [f"    [{state}]" for state in states] or ["    [not reached]"]
        out += [f"      {line}" for line in lines]
        out += [f"    -> block {to}{f' ({label})' if label else ''}" for to, label in edges]
        if not edges:
            out.append("    -> leaves")
    return "\n".join(out) + "\n"


def dot(program: Program, name: str, sources: Sources) -> str:
    """The graph in Graphviz's language; blocks that are reached with something locked are coloured."""
    out = [f'digraph "{_quoted(name)}" {{', '  node [shape=box fontname="monospace" fontsize=10];']
    for number, lines, states, edges in blocks(program, name, sources):
        label = "".join(f"{_quoted(line)}\\l" for line in [*(f"[{s}]" for s in states), *lines])
        locked = any(" locked" in state for state in states)
        style = ' style=filled fillcolor="#ffe9c7"' if locked else "" if states else " style=dotted"
        out.append(f'  b{number} [label="{label or number}"{style}];')
        out += [f'  b{number} -> b{to} [label="{_quoted(mark)}"];' for to, mark in edges]
    return "\n".join([*out, "}"]) + "\n"


def _quoted(raw: str) -> str:
    return raw.replace("\\", "\\\\").replace('"', '\\"')


def svg(program: Program, name: str, sources: Sources) -> str:
    """The graph as SVG.

    Raises:
        MissingDependency: Graphviz is not installed, or fails.
    """
    source = dot(program, name, sources)
    try:
        done = subprocess.run(
            ["dot", "-Tsvg"], input=source.encode(), capture_output=True, check=True, timeout=120
        )
    except FileNotFoundError:
        raise MissingDependency("drawing needs Graphviz's dot: install graphviz, or ask for text") from None
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise MissingDependency(f"Graphviz's dot failed: {error}") from None
    return done.stdout.decode()

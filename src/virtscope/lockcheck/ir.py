"""The small intermediate form in which a C function is kept once clang has read it.

Two stages share this module. The *tree* (what :mod:`.clangtree` makes of clang's cursors) is nested tuples
and lives only while one translation unit is read. The *flow graph* (what :mod:`.cfg` makes of a tree) is
what is analysed and cached: it holds nothing but strings, numbers and lists, so it is JSON as it stands.

An **instruction** is one of these tuples::

    ("C", line, callee, args, result, uses)   a call; result is the access path it is assigned to, or ""
    ("S", line, target, operand, uses)        an assignment; operand as below
    ("D", line, name)                         a local variable comes to life, its value unknown

A **callee** is a function's name, or ``*Record.field`` / ``*path`` for a call through a pointer.

An **operand** is an access path (``vm``, ``s->lock``, ``a[i].m``), ``&`` and an access path, ``#n`` for a
constant, ``@f`` for a function, ``"`` for a string literal, or ``?`` for anything else.

**uses** are the names of variables whose value the instruction reads.

A **terminator** is one of::

    ("J", block)                              go on
    ("B", line, condition, if_true, if_false)
    ("W", line, operand, [[[low, high], block], ...], default)
    ("R", line, operand)                      return
    ("E", line)                               the end of a void function's body
    ("H",)                                    not reached (after a call that does not return)

A **condition** is ``("v", path)`` (the path is true), ``("r", op, path, n)`` (it compares with a constant) or
``("x", text, names)``, an expression of no known shape, recognised again by its text as long as the named
variables keep their values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

IR_VERSION = 18
"""Part of every cache key: raise it when the meaning of the form changes."""


@dataclass(slots=True)
class Variable:
    """A variable a function mentions.

    Attributes:
        kind: ``param``, ``local``, ``static`` (a local one), ``global`` or ``file`` (a static global).
        type: the type as the programmer wrote it.
        names: every name the type goes by once pointers and arrays are taken off, typedefs included.
        index: the position of a parameter, else -1.
        pointer: whether the variable is a pointer.
    """

    kind: str
    type: str
    names: list[str]
    index: int = -1
    pointer: bool = False


@dataclass(slots=True)
class Block:
    """Straight-line instructions and what ends them."""

    code: list[Any]
    end: Any


@dataclass(slots=True)
class Function:
    """One function's flow graph. Block 0 is the entry.

    Attributes:
        key: unique in the program: the name, or ``file:name`` for a static function.
        classes: ``Record.field`` and the field's type, for every member path that the code mentions.
        results: names of the type that a called function returns, by callee.
        problem: why the function could not be turned into a graph; there are no blocks then.
        digest: a hash of all the rest, when it came from or goes to the cache.
    """

    key: str
    name: str
    file: str
    line: int
    static: bool
    returns: list[str]
    void: bool
    variables: dict[str, Variable] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    classes: dict[str, list[str]] = field(default_factory=dict)
    results: dict[str, list[str]] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)
    problem: str = ""
    digest: str = ""

    def to_json(self) -> list[Any]:
        """The function as plain JSON values."""
        return [
            self.key,
            self.name,
            self.file,
            self.line,
            self.static,
            self.returns,
            self.void,
            {n: [v.kind, v.type, v.names, v.index, v.pointer] for n, v in self.variables.items()},
            [[b.code, b.end] for b in self.blocks],
            self.classes,
            self.results,
            self.taken,
            self.problem,
        ]

    @classmethod
    def from_json(cls, row: list[Any]) -> Function:
        """The inverse of :meth:`to_json`."""
        variables = {n: Variable(*v) for n, v in row[7].items()}
        return cls(*row[:7], variables, [Block(*b) for b in row[8]], *row[9:])  # type: ignore[call-arg]


@dataclass(slots=True)
class Table:
    """A variable with an initialiser that names functions: a driver's table of entry points.

    Attributes:
        types: the names the variable's type goes by.
        functions: keys of the functions its initialiser names.
    """

    name: str
    types: list[str]
    file: str
    line: int
    functions: list[str]


@dataclass(slots=True)
class Unit:
    """One translation unit, read.

    Attributes:
        file: the file as named on the command line or in the compilation database.
        functions: the functions defined in it.
        tables: initialised variables that name functions.
        problem: why nothing, or not everything, could be read; empty when all was.
        fatal: nothing could be read.
        includes: the files read to make it, for the cache.
    """

    file: str
    functions: list[Function] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    problem: str = ""
    fatal: bool = False
    includes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The unit as plain JSON values."""
        return {
            "file": self.file,
            "functions": [f.to_json() for f in self.functions],
            "tables": [[t.name, t.types, t.file, t.line, t.functions] for t in self.tables],
            "problem": self.problem,
            "fatal": self.fatal,
            "includes": self.includes,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Unit:
        """The inverse of :meth:`to_json`."""
        return cls(
            data["file"],
            [Function.from_json(row) for row in data["functions"]],
            [Table(*row) for row in data["tables"]],
            data["problem"],
            data["fatal"],
            data["includes"],
        )

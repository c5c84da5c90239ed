"""Lock states, and what is known of values along with them.

A lock's status is ``L`` held, ``S`` held shared, ``U`` released again, ``P`` perhaps held
(nothing is reported of it), or absent: as on entry. A lock of the caller's is ``R`` when it was released
here and ``H`` when it is (again) held. Locks that a called function left held have its name and theirs
behind the letter.

Facts are the signs that paths may have (bits of :mod:`.rules`), aliases (``~name`` is what a variable stands
for), and the truth of expressions of no known shape (``?text``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from .paths import root
from .rules import ANY, NEGATIVE, POSITIVE, ZERO

Locks = tuple[tuple[str, str], ...]
NONZERO = NEGATIVE | POSITIVE


class Env:
    """One state with its facts, while a block is walked."""

    __slots__ = ("facts", "locks")

    def __init__(self, locks: dict[str, str], facts: dict[str, Any]) -> None:
        self.locks, self.facts = locks, facts

    def copy(self) -> Env:
        """The same state, to go another way."""
        return Env(dict(self.locks), dict(self.facts))


def key_of(env: Env, pointers: Iterable[str]) -> Locks:
    """What tells states apart: their locks, and which tracked pointers are NULL or stand for another one.

    The latter are entries whose name starts with ``=``.
    """
    out = list(env.locks.items())
    for name in pointers:
        alias = env.facts.get("~" + name)
        if alias is not None:
            out.append(("=" + name, "=" + alias))
        elif env.facts.get(name) == ZERO:
            out.append(("=" + name, "0"))
    return tuple(sorted(out))


def locks_of(key: Locks) -> dict[str, str]:
    """The locks of a state."""
    return {name: status for name, status in key if name[0] != "="}


def held(status: str | None) -> bool:
    """Whether a status means held, on this path."""
    return status is not None and status[0] in "LSH"


def origin(status: str) -> tuple[str, str]:
    """The called function that left a lock so, and its name for the lock; empty when none did."""
    _, _, origin = status.partition("\0")
    callee, _, theirs = origin.partition("\0")
    return callee, theirs


_PLAIN = str.maketrans({"-": "\u2192", ".": "\u00b7", "[": "\u27e8", "~": "\u2248"})


def call_name(callee: str, arguments: list[str]) -> str:
    """A path that stands for what a call returns; the marks that would split a path are written otherwise."""
    return f"%{callee}({', '.join(arguments)})".translate(_PLAIN)


_ASKS = re.compile(
    r"(?i:(?:^|_)(?:is|are|has|have|can|in|use|uses|using|needs?|wants?|should|must|supports?|enabled|active"
    r"|locked|equal|compare)(?:_|$))|(?:^|[a-z0-9])(?:Is|Has|Can|Needs?|Uses?|Supports?|Enabled|Active|Equal)"
    r"(?=[A-Z]|$)|^(?:is|has|can|needs?|uses?)[A-Z]|^(?:mem|strn?(?:case)?)cmp$|^str(?:len|str|r?chr)$"
    r"|^gete?[ug]id$|^getpid$|^pthread_self$"
)


_GETS = re.compile(
    r"(?i:(?:^|_)(?:get|current|self)(?:_|$))|(?:^|[a-z0-9])(?:Get|Current|Self)(?=[A-Z]|$)|^get[A-Z]"
)


def gets(callee: str) -> bool:
    """Whether a function is a getter by its name: what it returns twice compares alike."""
    return _GETS.search(callee) is not None


def asks(callee: str) -> bool:
    """Whether a function's name is a question (``is_open``, ``strcmp``): asked twice, it says the same."""
    return _ASKS.search(callee) is not None


def shown(key: str) -> str:
    """A lock's name for people."""
    name = key.rstrip("~").removeprefix("::")
    if name.startswith("@"):
        start = root(name)
        name = name.replace(start, start[1:].partition(":")[0], 1)
    if name.startswith("%") and "(" in name:
        return name[1:].translate({0x2192: "-", 0xB7: ".", 0x27E8: "[", 0x2248: "~"})
    return "the returned object" if name.startswith("%") else name.partition("#")[0] if "#" in name else name


def type_name(name: str) -> str:
    """A struct's plain name; empty for a type that says nothing."""
    plain = name.removeprefix("struct ").lstrip("_")
    return "" if plain == "void" else plain


def sign(value: int) -> int:
    """The sign of a constant, as a bit."""
    return ZERO if value == 0 else POSITIVE if value > 0 else NEGATIVE


def compare(operator: str, bound: int, truth: bool) -> int:
    """The signs a value may have when its comparison with a constant came out true or false."""
    if not truth:
        operator = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}[operator]
    if operator == "<=":
        operator, bound = "<", bound + 1
    elif operator == ">=":
        operator, bound = ">", bound - 1
    if operator == "==":
        return sign(bound)
    if operator == "!=":
        return NONZERO if bound == 0 else ANY
    if operator == "<":
        return NEGATIVE | (ZERO if bound > 0 else 0) | (POSITIVE if bound > 1 else 0)
    return POSITIVE | (ZERO if bound < 0 else 0) | (NEGATIVE if bound < -1 else 0)


def join(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What is known in both of two facts; what was stored through a pointer also where that is NULL."""
    out = {}
    for name, value in other.items():
        if name[:2] == "~*" and name not in one and one.get(root(name[1:])) == ZERO:
            out[name] = value
    for name, value in one.items():
        second = other.get(name)
        if second is None:
            if name[:2] == "~*" and other.get(root(name[1:])) == ZERO:
                out[name] = value
            continue
        if name[0] == "~":
            if second == value:
                out[name] = value
        else:
            joined = value | second
            if joined != ANY:
                out[name] = joined
    return out

"""What a call of a function does to locks, seen from outside.

A summary names locks from the caller's point of view: ``$0`` is the first argument (``$0->lock`` a field
behind it), ``$r`` the returned value, ``@name`` a global (``@name:file`` a static one), ``::NAME`` a lock
that is there once and has no variable; locks that a caller cannot name are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .ir import Function
from .paths import rebase, root, under
from .rules import ANY

Changes = tuple[tuple[str, str], ...]
"""Locks that a call changed, each with ``L`` (locked now), ``S`` (locked shared), ``U`` (released) or ``P``
(perhaps locked)."""
Conditions = tuple[tuple[str, int], ...]
"""The signs that arguments, globals and what is behind them had when the call went this way; ``^`` and a
lock's name stands for whether it was held."""
Outcome = tuple[int, Changes, Conditions]
"""One way a call may end: the signs of the value it returns, the changes, the conditions."""


@dataclass(slots=True)
class Summary:
    """What calling a function does.

    Attributes:
        outcomes: the ways it may end: the signs of the value it returns, and the locks that changed, each
            with ``L`` (locked now), ``S`` (locked shared) or ``U`` (released).
        needs: locks that must be ``held``, ``free`` or at most ``shared`` when it is called.
        classes: the lock class of each lock mentioned.
        acquires: identities of all locks it takes, directly or deeper, each with the line and the next
            function.
        calls: forbidden functions it reaches, likewise.
        identities: which lock of the program each lock mentioned is, as far as is known.
        guard: the lock that the returned value guards: releasing the one releases the other.
        when: the conditions under which a lock is needed.
        under: the conditions under which a lock is acquired, where there are any.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    needs: dict[str, str] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    acquires: dict[str, tuple[int, str, list[str]]] = field(default_factory=dict)
    calls: dict[str, tuple[int, str]] = field(default_factory=dict)
    identities: dict[str, str] = field(default_factory=dict)
    guard: str = ""
    when: dict[str, Conditions] = field(default_factory=dict)
    under: dict[str, Conditions] = field(default_factory=dict)

    @property
    def changes(self) -> bool:
        """Whether a caller's lock state depends on this call."""
        return bool(self.needs) or any(changed for _, changed, _ in self.outcomes)

    def to_json(self) -> list[Any]:
        """The summary as JSON values."""
        return [
            self.outcomes,
            self.needs,
            self.classes,
            self.acquires,
            self.calls,
            self.identities,
            self.guard,
            self.when,
            self.under,
        ]

    @classmethod
    def from_json(cls, row: list[Any]) -> Summary:
        """The inverse of :meth:`to_json`."""
        outcomes: list[Outcome] = [
            (mask, tuple((k, s) for k, s in changed), tuple((k, m) for k, m in conditions))
            for mask, changed, conditions in row[0]
        ]
        acquires = {k: (int(v[0]), str(v[1]), [str(x) for x in v[2]]) for k, v in row[3].items()}
        calls = {k: (int(v[0]), str(v[1])) for k, v in row[4].items()}
        when: dict[str, Conditions] = {k: tuple((p, m) for p, m in v) for k, v in row[7].items()}
        under: dict[str, Conditions] = {k: tuple((p, m) for p, m in v) for k, v in row[8].items()}
        return cls(outcomes, row[1], row[2], acquires, calls, row[5], row[6], when, under)


NOTHING = Summary()


def outward(function: Function, key: str, returned: str) -> str:
    """A lock's name from a caller's point of view, or an empty string when a caller cannot name it.

    Args:
        function: where ``key`` is a path.
        key: the path.
        returned: the path that the exit in question returns, or an empty string.
    """
    if key.endswith("~"):
        return ""
    if returned and returned[0] not in "#&?" and under(key, returned):
        return "$r" + key[len(returned) :]
    if key.startswith(("::", "@")):
        return key
    start = root(key)
    variable = function.variables.get(start)
    if variable is None or variable.kind != "param" or not variable.pointer:
        return ""
    return rebase(key, start, f"${variable.index}")


def inward(key: str, arguments: list[str], result: str) -> str:
    """A summary's lock in terms of one call, or an empty string when the call does not say.

    Args:
        key: a name :func:`outward` made.
        arguments: the call's operands.
        result: the path the returned value is assigned to.
    """
    if key.startswith(("::", "@")):
        return key
    start = root(key)
    if start == "$r":
        return rebase(key, start, result) if result else ""
    try:
        operand = arguments[int(start.lstrip("$"))]
    except (ValueError, IndexError):
        return ""
    if operand[:1] in ("#", "?", '"', "@", ""):
        return ""
    path = rebase(key, start, operand)
    return path.removeprefix("&")


def seen_value(function: Function, path: str) -> str:
    """A value's name from a caller's point of view, or an empty string; unlike a lock it may be passed by
    value.
    """
    if path.startswith("@"):
        return path
    variable = function.variables.get(root(path))
    if variable is None or variable.kind != "param":
        return ""
    return rebase(path, root(path), f"${variable.index}")


def simplify(outcomes: list[Outcome]) -> list[Outcome]:
    """The ways a call may end, as few as say the same.

    Ways that change the same locks are joined. A lock that is released on one way and not on another is left
    out when nothing a caller knows (the returned value, arguments, globals) tells the two apart, and one
    that is taken is perhaps taken: that function is reported for itself, and its callers are not confused by
    it.
    """
    while True:
        groups: dict[Changes, tuple[int, dict[str, int]]] = {}
        for mask, changes, conditions in outcomes:
            if changes not in groups:
                groups[changes] = (mask, dict(conditions))
            else:
                old, known = groups[changes]
                both = {k: known[k] | m for k, m in conditions if k in known and known[k] | m != ANY}
                groups[changes] = (old | mask, both)
        if len(groups) == 1:
            return [(mask, changes, ()) for changes, (mask, _) in groups.items()]
        vague: set[str] = set()
        ways = list(groups.items())
        for i, (changes, (mask, known)) in enumerate(ways):
            for others, (other_mask, other_known) in ways[i + 1 :]:
                apart = not mask & other_mask or any(
                    not m & other_known.get(k, ANY) for k, m in known.items()
                )
                if not apart:
                    vague |= {k for k, _ in set(changes) ^ set(others)}
        if not vague:
            return [(mask, changes, tuple(sorted(known.items()))) for changes, (mask, known) in ways]
        perhaps = [(k, "P") for k in vague if any((k, s) in c for _, c, _ in outcomes for s in "LSP")]
        outcomes = [
            (mask, tuple(sorted([*((k, s) for k, s in changes if k not in vague), *perhaps])), conditions)
            for mask, changes, conditions in outcomes
        ]

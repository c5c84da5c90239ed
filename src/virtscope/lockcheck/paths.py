"""Access paths: how a lock is named inside a function (``vm``, ``s->lock``, ``pool[i].m``, ``*out``).

The stated approximation: two paths are the same lock when they are written alike after a local variable
    that was set
to another path has been replaced by it; two different paths are different locks. A variable that is
assigned again takes its locks' names with it: what was held under the old value is kept under the *stale*
name, ``path~``.
"""

from __future__ import annotations

import re
from functools import lru_cache

_INDEX = re.compile(r"\[([^\[\]]*)\]")
_ROOT = re.compile(r"\**([^\-.\[~]+)")


@lru_cache(maxsize=65536)
def root(path: str) -> str:
    """The variable a path starts from."""
    found = _ROOT.match(path)
    return found[1] if found else path


@lru_cache(maxsize=65536)
def variables(path: str) -> tuple[str, ...]:
    """Every variable a path depends on: where it starts, and those in its indices."""
    inside = [root(x) for x in _INDEX.findall(path) if x and not x[0].isdigit()]
    return (root(path), *inside)


def under(path: str, prefix: str) -> bool:
    """Whether a path is the prefix or reaches through it."""
    if not path.startswith(prefix):
        return path.startswith("*") and under(path[1:], prefix)
    rest = path[len(prefix) :]
    return not rest or rest[0] in "-.[~"


def rebase(path: str, old: str, operand: str) -> str:
    """The path with its first part, ``old``, replaced by an operand (a path, or ``&`` and a path)."""
    stars = len(path) - len(path.lstrip("*"))
    rest = path[stars + len(old) :]
    if operand.startswith("&"):
        target = operand[1:]
        if stars and rest.startswith("->"):  # (*pp)->lock
            stars -= 1
        elif rest.startswith("->"):
            rest = "." + rest[2:]
        elif stars:
            stars -= 1
        elif not rest:
            return "*" * stars + operand
        else:
            return path
        return "*" * stars + target + rest
    return "*" * stars + operand + rest


def lock_key(operand: str) -> str:
    """The name of the lock that a lock function is given: ``&s->lock`` and, for a pointer, the pointer
    itself.
    """
    return operand[1:] if operand.startswith("&") else operand


def weak(path: str) -> bool:
    """Whether a path names one of many locks (an element at a variable index)."""
    return "[" in path and any(not x.isdigit() for x in _INDEX.findall(path))


def many(path: str) -> bool:
    """Whether a path's index is not known by a name, so that twice the path may be two locks."""
    return "[?" in path or "[%" in path


@lru_cache(maxsize=65536)
def shape(path: str) -> str:
    """The path with indices and staleness left out, to match a loop that unlocks what another loop locked."""
    return _INDEX.sub("[]", path).rstrip("~")

"""Checks the bodies of functions that the rule set describes against their descriptions.

:func:`deviations` is the entry point. Callers go by the description; so a body that does not do what it says,
on some way through it, is a mistake that no caller would show. A body is looked at when it works on the
described lock by functions that are described for the same lock; one that is built of other things (a mutex
of a deeper layer, atomic instructions) is taken at its word.
"""

from __future__ import annotations

from .findings import Finding
from .ir import Function
from .prepare import bare
from .results import Result
from .rules import ANY, ZERO, Effect, RuleSet

_LEAVES = {"lock": "L", "shared": "S", "unlock": "U"}
_WORDS = {"L": "locks", "S": "locks", "U": "unlocks"}


def deviations(function: Function, rules: RuleSet, result: Result) -> list[Finding]:
    """What a described function's body does otherwise, and the mistakes inside it.

    Args:
        function: a function with effects in the rule set.
        rules: the rule set.
        result: what following its body found.
    """
    out = [f for f in result.findings if f.kind in ("double-lock", "double-unlock")]
    for effect in rules.effects(function.name):
        status = _LEAVES.get(effect.operation)
        if status is None or effect.argument < 0 or rules.locks[effect.lock].facet:
            continue
        if not _works_on(function, rules, effect.lock):
            continue
        key = f"{'*' if effect.clears else ''}${effect.argument}"
        if not _kept(result, effect, key, status):
            name = next(
                (
                    n
                    for n, v in function.variables.items()
                    if v.kind == "param" and v.index == effect.argument
                ),
                key,
            )
            what = (
                f"the rule set says that {function.name} {_WORDS[status]} {name},"
                " and on some way through it that does not happen"
            )
            names = ((name, effect.lock),)
            out.append(Finding("not-as-described", function.name, function.file, function.line, what, names))
    return out


def works_on_it(function: Function, rules: RuleSet) -> bool:
    """Whether the body can be held against the description."""
    return any(
        e.operation in _LEAVES and _works_on(function, rules, e.lock) for e in rules.effects(function.name)
    )


def _works_on(function: Function, rules: RuleSet, lock: str) -> bool:
    """Whether the body calls functions that are described for the same lock."""
    return any(
        ins[0] == "C" and any(e.lock == lock for e in rules.effects(bare(ins[2])))
        for block in function.blocks
        for ins in block.code
    )


def _kept(result: Result, effect: Effect, key: str, status: str) -> bool:
    """Whether every way that the description speaks of does what it says."""
    pointer = key.removeprefix("*")
    for mask, changes, conditions in result.summary.outcomes:
        if effect.success != ANY and (mask & effect.failure or not mask & effect.success):
            continue  # a way that fails, or may
        if any(path in (key, pointer) and signs == ZERO for path, signs in conditions):
            continue  # there is no lock
        if (key, status) not in changes:
            return False
    return True

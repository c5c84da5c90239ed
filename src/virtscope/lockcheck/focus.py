"""Looking at one lock of a function at a time, for functions whose locks together have too many states.

Twenty locks that are each taken under a condition of their own have a million states, but each of them has
three. :class:`Focus` is the layer of the data flow that forgets every lock but one (and the drivers of the
two-level rule, on which other rules depend) while it follows the function, and lets only findings about that
one through. What the rules say of two locks needs to know only of the one that was held first, so nothing is
lost but conditions that tie one lock to the state of another.
"""

from __future__ import annotations

from collections.abc import Iterable

from .effects import Effects
from .findings import Place
from .prepare import Call
from .rules import ANY, ZERO, Effect
from .states import Env, Locks, key_of
from .summaries import Outcome, simplify

WAYS = 16
"""How many ways a call may end when the locks were looked at one by one."""
_OF_DRIVERS = ("driver-unlocked", "object-lock-no-driver", "driver-after-object", "fetch-second-object")


class Focus(Effects):
    """The data flow's instructions with an eye on one lock, or on all when :attr:`focus` is empty."""

    focus = ""

    def family(self, key: str) -> str:
        """One name for a lock that goes by several on its way through the function."""
        while key in self.families:
            key = self.families[key]
        return key

    def concerns(self, key: str) -> bool:
        """Whether a lock is looked at now."""
        if not self.focus or self.family(key) == self.family(self.focus):
            return True
        driver = self.rules.driver
        return bool(driver) and driver in (self.classes.get(key), self.prepared.roles.get(key))

    def state_key(self, env: Env) -> Locks:
        """What tells states apart (:func:`.states.key_of`), as far as it is looked at."""
        pointers = self.prepared.told_apart
        if not self.focus:
            return key_of(env, pointers)
        for name in [k for k in env.locks if not self.concerns(k)]:
            del env.locks[name]
        chosen = self.prepared.chosen
        return key_of(env, [name for name in pointers if name in chosen or self.concerns(name)])

    def rename(self, env: Env, old: str, new: str, status: str) -> None:
        """A lock goes by another path from here on."""
        super().rename(env, old, new, status)
        one, other = self.family(old), self.family(new)
        if one != other:
            self.families[other] = one

    def call(self, env: Env, ins: Call) -> Iterable[Env]:
        """A call, of which only what it does to the lock that is looked at is kept."""
        if not self.focus:
            return super().call(env, ins)
        before = set(self.result.passed)
        after = list(super().call(env, ins))
        arguments = [self.resolve(env, a) for a in ins.arguments]
        for passed in self.result.passed - before:
            if not self.concerns(self.inner(env, passed[2], arguments, "")):
                self.result.passed.discard(passed)
        for one in after:
            self.state_key(one)
        return after

    def unlock(self, env: Env, line: int, key: str, effect: Effect | None, via: str = "") -> None:
        """A lock is released."""
        if self.concerns(key) or key in env.locks:
            super().unlock(env, line, key, effect, via)
        elif effect is not None and effect.clears:
            env.facts[key] = ZERO

    def need(self, env: Env, key: str, what: str) -> None:
        """How callers must leave a lock."""
        if self.concerns(key):
            super().need(env, key, what)

    def report(
        self,
        kind: str,
        line: int,
        key: str,
        message: str,
        names: tuple[tuple[str, str], ...] = (),
        related: tuple[Place, ...] = (),
    ) -> None:
        """Adds a finding, if it is about the lock that is looked at."""
        if kind in _OF_DRIVERS or kind == "exit-locked" or self.concerns(key):
            super().report(kind, line, key, message, names, related)


def combined(parts: list[list[Outcome]]) -> list[Outcome]:
    """The ways a call may end, from the ways it may as far as each lock is concerned."""
    out: list[Outcome] = [(ANY, (), ())]
    for part in parts:
        if not part:
            continue
        if len(out) * len(part) > WAYS:
            always = set(part[0][1]).intersection(*(changes for _, changes, _ in part))
            part = [(ANY, tuple(sorted(always)), ())]
        ways: list[Outcome] = []
        for mask, changes, conditions in out:
            for other_mask, other_changes, other_conditions in part:
                known = dict(conditions)
                for name, signs in other_conditions:
                    known[name] = known.get(name, ANY) & signs
                if mask & other_mask and all(known.values()):
                    both = tuple(sorted({*changes, *other_changes}))
                    ways.append((mask & other_mask, both, tuple(sorted(known.items()))))
        out = ways or out
    return simplify(out) if any(parts) else []

"""The rules that are checked along the way, and what is noted for the checks of the whole program."""

from __future__ import annotations

from typing import Any

from .findings import Finding, Place
from .liveness import targets
from .names import Names
from .paths import root
from .prepare import Call, Set, bare
from .results import Candidate, Edge
from .rules import ANY, ZERO
from .states import Env, held, shown
from .summaries import Conditions, Summary, inward, outward

FETCHED = "!"
"""Before the identity of a lock, in a summary: taken by fetching an object."""


class Checks(Names):
    """The checks; each adds what it finds to the result."""

    def driver_held(self, env: Env) -> bool:
        """Whether any driver is locked; in a helper, the caller's may be."""
        if any(held(s) and self.classes.get(k) == self.rules.driver for k, s in env.locks.items()):
            return True
        if self.entry:
            return False
        return not any(self.classes.get(k) == self.rules.driver for k in env.locks)

    def check_uses(self, env: Env, line: int, uses: list[str]) -> None:
        """The two-level rule's first two: what is used must be locked."""
        if not self.prepared.roles:
            return
        for name in uses:
            role = self.prepared.roles.get(name)
            if role is None or name[0] == "%" or env.facts.get(name) == ZERO:
                continue
            if role == self.rules.driver:
                if not self.driver_held(env):
                    what = f"{shown(name)} is used while no driver is locked"
                    self.report("driver-unlocked", line, name, what, self._typed(name))
                continue
            path = self.resolve(env, name)
            now = env.locks.get(path)
            if held(now):
                continue
            if now is None and not self.entry and not self._local(path):
                continue
            what = f"{shown(name)} is used while it is unlocked"
            self.report("object-unlocked", line, name, what, self._typed(name))

    def check_forbidden(self, env: Env, ins: Call) -> None:
        """Calls that the rules forbid under a lock, made here or deeper."""
        names = {bare(ins.callee): (ins.line, "")}
        if ins.summary is not None:
            names |= dict.fromkeys(ins.summary.calls, (ins.line, ins.callee))
        for name, (line, via) in names.items():
            for rule in self.rules.forbids(name):
                self.result.summary.calls.setdefault(name, (line, via))
                for key, status in env.locks.items():
                    if not held(status) or not (
                        {"*", self.classes.get(key, ""), self.identity(key)} & set(rule.under)
                    ):
                        continue
                    through = f" (through {bare(via)})" if via else ""
                    what = f"{name} is called{through} while {shown(key)} is locked: {rule.reason}"
                    self.report("forbidden-call", line, key, what, self._typed(key))

    def check_order(self, env: Env, ins: Call, summary: Summary, arguments: list[str]) -> None:
        """The locks a called function takes come after those held here."""
        if self.rules.unordered(bare(ins.callee)):
            return
        for identity, (_, _, released) in summary.acquires.items():
            name = self.translate(identity, arguments)
            conditions = summary.under.get(identity, ())
            if name and self.could(env, conditions, arguments):
                free = frozenset(x if x[:1] == "~" else inward(x, arguments, "") for x in released)
                passed = self.passed_on(conditions, arguments)
                if name[0] == FETCHED:
                    self.acquire(env, ins.line, name, ins.callee, free, passed)
                else:
                    self.edges_to(env, ins.line, name, ins.callee, free, passed)
                if self.two_level:
                    self.check_levels(env, ins, name, free)

    def passed_on(self, conditions: Conditions, arguments: list[str]) -> Conditions:
        """A called function's conditions on arguments that are parameters here."""
        out = []
        for theirs, mask in conditions:
            if theirs[0] == "$" and theirs[1:].isdigit() and int(theirs[1:]) < len(arguments):
                path = arguments[int(theirs[1:])]
                variable = self.prepared.variables.get(path)
                if variable is not None and variable.kind == "param" and path not in self.prepared.assigned:
                    out.append((f"${variable.index}", mask))
            elif theirs[0] == "@":
                out.append((theirs, mask))
        return tuple(out)

    def check_levels(self, env: Env, ins: Call, taken: str, free: frozenset[str]) -> None:
        """The two-level rule for a lock that a called function takes, there or deeper."""
        driver, inner = self.rules.driver, self.rules.object
        others = {
            k: self.classes.get(k)
            for k, s in env.locks.items()
            if held(s) and k not in free and f"~{self.identity(k)}" not in free
        }
        objects = sorted(k for k, name in others.items() if name == inner)
        what = bare(ins.callee)
        if taken in self.rules.kinds(driver):
            for key in [k for k, name in others.items() if name == driver and self.identity(k) == taken]:
                first = self.taken_at.get(key, 0)
                where = (Place(self.function.file, first, "first locked here"),) if first else ()
                text = f"{what} locks the driver, and {shown(key)} is locked already"
                self.report("double-lock", ins.line, key, text, self._typed(key), where)
                return
            if objects:
                text = f"{what} locks the driver while {', '.join(map(shown, objects))} is locked"
                self.report("driver-after-object", ins.line, taken, text, self._typed(*objects))
        elif objects and taken[0] == FETCHED:
            text = f"{what} fetches and locks an object while {', '.join(map(shown, objects))} is locked"
            self.report("fetch-second-object", ins.line, taken, text, self._typed(*objects))

    def check_returned(self, env: Env, ins: Call, key: str) -> None:
        """A helper that returns a locked object fetches it."""
        others = [k for k, s in env.locks.items() if held(s) and self.classes.get(k) == self.rules.object]
        if others:
            names = ", ".join(map(shown, sorted(others)))
            what = f"{bare(ins.callee)} returns a locked object while {names} is locked"
            self.report("fetch-second-object", ins.line, key, what, self._typed(*sorted(others)))

    def check_given_back(self) -> None:
        """A lock of the caller's that is given up for a while must be taken back on every way, unless the
        caller can tell the ways apart.
        """
        if self.entry or self.rules.may_give(self.function.name):
            return
        back = {k for _, _, _, locks, _ in self.exits for k, status in locks if status[0] == "H"}
        told = {k for _, changes, _ in self.result.summary.outcomes for k, s in changes if s == "U"}
        for line, _, _, locks, _ in self.exits:
            for key, status in locks:
                seen = outward(self.function, key, "")
                if status[0] == "R" and key in self.retaken & back and seen and seen not in told:
                    what = f"{shown(key)} is left unlocked at this exit; on other ways it is locked again"
                    self.report("exit-unlocked", line, key, what, self._typed(key))

    def collected(self, candidates: list[Candidate]) -> list[Candidate]:
        """Candidates but for the locks that one loop takes one by one and another one releases again, where
        neither names them in a way that the other does; nor those of objects that a loop takes and puts
        somewhere, when all elements of an array are released.
        """
        candidates = [c for c in candidates if not self.gathered(c)]
        sides: dict[str, dict[str, set[Any]]] = {}
        for c in candidates:
            if c.kind == "exit-locked" and root(c.key) == c.key.rstrip("~"):
                block = self.taken_in.get(c.key.rstrip("~"))
            elif c.kind == "unlock-unlocked" and "->" in c.key:
                block = self.places.get((c.kind, c.line, c.key), (None,))[0]
            else:
                continue
            if block is not None and self.circles(block):
                sides.setdefault(self.classes.get(c.key, ""), {}).setdefault(c.kind, set()).add(c.key)
        paired = {
            key for kinds in sides.values() if len(kinds) == 2 for keys in kinds.values() for key in keys
        }
        return [c for c in candidates if c.key not in paired]

    def gathered(self, candidate: Candidate) -> bool:
        """Whether a lock held at an exit is of objects that a loop collects, and the like are released here
        as elements of an array.
        """
        block = self.taken_in.get(candidate.key.rstrip("~"))
        if candidate.kind != "exit-locked" or self.field(candidate.key) not in self.result.elements - {""}:
            return False
        return candidate.stored and block is not None and self.circles(block)

    def stored(self, key: str) -> bool:
        """Whether a pointer to what a lock is in is put somewhere: assigned to a field or an element, or
        appended by a function that gets the pointer's address.
        """
        start = root(key)
        every = [ins for code in self.prepared.code for ins in code]
        names = {start} | {
            ins.target for ins in every if isinstance(ins, Set) and ins.operand == start and ins.target
        }
        for ins in every:
            if isinstance(ins, Set):
                if ins.operand in names and root(ins.target) != ins.target:
                    return True
            elif not ins.effects and any(x[:1] == "&" and x[1:] in names for x in ins.arguments):
                return True
        return False

    def circles(self, block: int) -> bool:
        """Whether a block is part of a loop."""
        seen: set[int] = set()
        stack = targets(self.prepared.ends[block])
        while stack:
            number = stack.pop()
            if number == block:
                return True
            if number not in seen:
                seen.add(number)
                stack.extend(targets(self.prepared.ends[number]))
        return False

    def translate(self, identity: str, arguments: list[str]) -> str:
        """The identity of a lock a called function takes through its parameter."""
        if not identity.startswith("$"):
            return identity
        key = inward(identity, arguments, "")
        return self.identity(key) if key else ""

    def edges_to(
        self,
        env: Env,
        line: int,
        taken: str,
        callee: str,
        free: frozenset[str] = frozenset(),
        passed: Conditions = (),
    ) -> None:
        """Notes that a lock is taken while others are held, but for those that the callee gives up before."""
        if not taken or self.here[0] not in self.returning:
            return
        if any(k[0] in ":@" and held(s) and self.identity(k) == taken for k, s in env.locks.items()):
            return  # the only lock of its kind, held before: what is called takes it where it is not
        self.acquire(env, line, taken, callee, free, passed)
        for key, status in env.locks.items():
            if held(status) and key not in free:
                before = self.identity(key)
                if self.two_level and self.classes.get(key) in (self.rules.driver, self.rules.object):
                    continue  # the two-level rule has its own words for that
                if before and before != taken and not before.startswith("$"):
                    self.edges.setdefault(
                        (before, taken), Edge(before, taken, self.taken_at.get(key, 0), line, callee)
                    )

    def acquire(
        self,
        env: Env,
        line: int,
        taken: str,
        callee: str,
        free: frozenset[str] = frozenset(),
        passed: Conditions = (),
    ) -> None:
        """Puts into the summary that a lock is taken, and which of the caller's are given up before.

        A lock of the caller's that the caller cannot name is given up as ``~`` and what kind of lock it is.
        Conditions that a called function has for it, and that are the caller's to meet, are passed on.
        """
        under = self.result.summary.under
        now = {**dict(passed), **dict(self.conditions(env))}
        if taken in under:
            old = dict(under[taken])
            now = {k: m | old[k] for k, m in now.items() if k in old}
        under[taken] = tuple(sorted((k, m) for k, m in now.items() if m != ANY))
        given_up = {k if k[:1] == "~" else outward(self.function, k, "") for k in free}
        released = [k for k, s in env.locks.items() if s[0] == "R"]
        given_up |= {outward(self.function, k, "") or f"~{self.identity(k)}" for k in released}
        known = self.result.summary.acquires.get(taken)
        if known is None:
            self.result.summary.acquires[taken] = (line, callee, sorted(given_up - {""}))
        elif known[2]:
            self.result.summary.acquires[taken] = (*known[:2], [x for x in known[2] if x in given_up])

    def need(self, env: Env, key: str, what: str) -> None:
        """The first thing that happens to a lock tells how callers must leave it, when it comes to that."""
        seen = outward(self.function, key, "")
        if seen:
            summary = self.result.summary
            conditions = dict(self.conditions(env))
            if seen in summary.needs:
                old = dict(summary.when.get(seen, ()))
                conditions = {k: m | old[k] for k, m in conditions.items() if k in old}
                if summary.needs[seen] != what:
                    both = {summary.needs[seen], what}
                    summary.needs[seen] = "free" if both == {"free", "shared"} else "either"
            else:
                summary.needs[seen] = what
            summary.when[seen] = tuple(sorted((k, m) for k, m in conditions.items() if m != ANY))
            self.tell(seen, key)

    def tell(self, seen: str, key: str) -> None:
        """Puts into the summary what kind of lock a caller meets."""
        self.result.summary.classes.setdefault(seen, self.classes.get(key, ""))
        identity = self.identity(key)
        if identity and not identity.startswith("$"):
            self.result.summary.identities.setdefault(seen, identity)

    def make(
        self,
        kind: str,
        line: int,
        message: str,
        names: tuple[tuple[str, str], ...],
        related: tuple[Place, ...],
    ) -> Finding:
        """A finding in this function."""
        return Finding(kind, self.function.name, self.function.file, line, message, names, related)

    def report(
        self,
        kind: str,
        line: int,
        key: str,
        message: str,
        names: tuple[tuple[str, str], ...] = (),
        related: tuple[Place, ...] = (),
    ) -> None:
        """Adds a finding, once for each line and lock."""
        if kind in self.rules.checks and (kind, line, key) not in self.found:
            self.found[(kind, line, key)] = self.make(kind, line, message, names, related)
            self.places[(kind, line, key)] = self.here

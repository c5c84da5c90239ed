"""The data flow of one function: which locks may be held where, and what is wrong with that.

:func:`analyse` is the entry point. A *state* is the set of locks that are known to be held or released; at
each block the possible states are kept side by side, and with each state what is known of the signs of
values and of pointers that are other paths' aliases (facts). States that agree on all locks are joined, and
their facts with them, so what is known of a flag goes with the lock that was taken because of it, and the
number of states stays small (the property simulation of Das, Lerner and Seigle, "ESP", PLDI 2002). When a
block collects more than :data:`STATES` of them they are joined by union, and a lock held in some and
released in others is ``M``, both.

A lock's status is ``L`` held, ``S`` held shared, ``U`` released again, ``M`` both, or absent: as on entry.
A lock of the caller's is ``R`` when it was released here and ``H`` when it is (again) held. Locks that a
called function left held have its name and theirs behind the letter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, field, replace
from typing import Any

from .findings import Finding, Place, from_row
from .ir import Function
from .paths import lock_key, many, rebase, root, shape, under, variables, weak
from .prepare import Call, Prepared, Set, bare, prepare
from .rules import ANY, NEGATIVE, POSITIVE, ZERO, Effect, RuleSet
from .summaries import Conditions, Outcome, Summary, inward, outward, seen_value, simplify

STATES = 40
"""How many states a block may have before they are joined by union."""
STEPS = 60_000
"""How many block visits a function may take before it is given up, and said so."""

Locks = tuple[tuple[str, str], ...]
_NONZERO = NEGATIVE | POSITIVE


@dataclass(slots=True)
class Candidate:
    """A lock held at an exit, or released without having been taken, in a function that may mean it.

    Attributes:
        field: the identity of the lock when it is a field of a struct, else empty.
        lock: the name callers know it by, or empty.
        origin: the called function (and its name for the lock) that left it so, or empty.
    """

    kind: str
    lock: str
    key: str
    line: int
    origin: tuple[str, str]
    finding: Finding
    field: str = ""


@dataclass(slots=True)
class Edge:
    """One lock taken while another is held."""

    held: str
    taken: str
    held_line: int
    line: int
    callee: str


@dataclass(slots=True)
class Result:
    """What the analysis of one function found.

    Attributes:
        edges: locks taken while others are held.
        evidence: ``("holds" or "releases", callee, lock)``: that a caller does its part.
        passed: ``(lock, callee, its name there)``: a lock the caller must hold because a called function
            wants it.
    """

    summary: Summary = field(default_factory=Summary)
    findings: list[Finding] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    evidence: set[tuple[str, str, str]] = field(default_factory=set)
    passed: set[tuple[str, str, str]] = field(default_factory=set)
    problem: str = ""

    def to_json(self) -> list[Any]:
        """The result as JSON values."""
        return [
            self.summary.to_json(),
            [astuple(f) for f in self.findings],
            [[c.kind, c.lock, c.key, c.line, c.origin, astuple(c.finding), c.field] for c in self.candidates],
            [astuple(e) for e in self.edges],
            sorted(self.evidence),
            sorted(self.passed),
            self.problem,
        ]

    @classmethod
    def from_json(cls, row: list[Any]) -> Result:
        """The inverse of :meth:`to_json`."""
        return cls(
            Summary.from_json(row[0]),
            [from_row(f) for f in row[1]],
            [
                Candidate(kind, lock, key, line, (origin[0], origin[1]), from_row(f), name)
                for kind, lock, key, line, origin, f, name in row[2]
            ],
            [Edge(*e) for e in row[3]],
            {(a, b, c) for a, b, c in row[4]},
            {(a, b, c) for a, b, c in row[5]},
            row[6],
        )


class Env:
    """One state with its facts, while a block is walked."""

    __slots__ = ("facts", "locks")

    def __init__(self, locks: dict[str, str], facts: dict[str, Any]) -> None:
        self.locks, self.facts = locks, facts

    def copy(self) -> Env:
        """The same state, to go another way."""
        return Env(dict(self.locks), dict(self.facts))


def analyse(function: Function, rules: RuleSet, summaries: dict[str, Summary], entry: bool) -> Result:
    """Follows one function.

    Args:
        function: its flow graph.
        rules: the rule set.
        summaries: of the functions it calls, by key.
        entry: nothing is locked when it is called, and nothing may be when it returns.
    """
    prepared = prepare(function, rules, summaries)
    flow = Flow(prepared, rules, entry)
    if prepared.relevant:
        flow.run()
    else:
        flow.reach()
    return flow.finish()


def held(status: str | None) -> bool:
    """Whether a status means held, on this path."""
    return status is not None and status[0] in "LSMH"


class Flow:
    """The fixed point, and the checks made along the way."""

    def __init__(self, prepared: Prepared, rules: RuleSet, entry: bool) -> None:
        self.prepared = prepared
        self.function = prepared.function
        self.rules = rules
        self.entry = entry
        self.two_level = bool(rules.driver)
        self.result = Result()
        self.states: list[dict[Locks, dict[str, Any]]] = [{} for _ in prepared.code]
        self.parents: dict[tuple[int, Locks], tuple[int, Locks] | None] = {}
        self.exits: list[tuple[int, int, str, Locks, Conditions]] = []
        self.classes: dict[str, str] = {}
        self.identities: dict[str, str] = {}
        self.taken_at: dict[str, int] = {}
        self.found: dict[tuple[str, int, str], Finding] = {}
        self.places: dict[tuple[str, int, str], tuple[int, Locks]] = {}
        self.pending: dict[tuple[str, str, int], Candidate] = {}
        self.edges: dict[tuple[str, str], Edge] = {}
        self.endings: dict[tuple[int, Locks], tuple[int, Locks]] = {}
        self.here: tuple[int, Locks] = (0, ())

    # The fixed point

    def run(self) -> None:
        """Walks blocks until no state is new."""
        work: list[tuple[int, Locks]] = [(0, ())]
        self.states[0][()] = {}
        self.parents[(0, ())] = None
        steps = 0
        while work:
            number, locks = work.pop()
            if locks not in self.states[number]:
                continue  # joined with others meanwhile
            steps += 1
            if steps > STEPS:
                self.result.problem = f"has too many paths to follow within {STEPS} steps"
                return
            self.here = (number, locks)
            envs = self.block(number, Env(dict(locks), dict(self.states[number][locks])))
            for env in envs:
                for target, after in self.leave(number, env):
                    self.arrive(target, after, work)

    def arrive(self, number: int, env: Env, work: list[tuple[int, Locks]]) -> None:
        """Adds a state to a block, joined with what is there."""
        locks = tuple(sorted(env.locks.items()))
        states = self.states[number]
        if locks not in states:
            if len(states) >= STATES:
                locks, env = self._union(number, locks, env)
                if locks in states and _join(states[locks], env.facts) == states[locks]:
                    return
            if locks not in states:
                states[locks] = env.facts
                self.parents.setdefault((number, locks), self.here)
                work.append((number, locks))
                return
        joined = _join(states[locks], env.facts)
        if joined != states[locks]:
            states[locks] = joined
            work.append((number, locks))

    def _union(self, number: int, locks: Locks, env: Env) -> tuple[Locks, Env]:
        """All states of a block as one."""
        states = self.states[number]
        out = _union([*(dict(s) for s in states), dict(locks)])
        facts = env.facts
        for other in states.values():
            facts = _join(facts, other)
        states.clear()
        return tuple(sorted(out.items())), Env(out, facts)

    def block(self, number: int, env: Env) -> list[Env]:
        """Runs a block's instructions."""
        envs = [env]
        for ins in self.prepared.code[number]:
            if isinstance(ins, Set):
                for one in envs:
                    self.assign(one, ins)
            else:
                envs = self.merged([after for one in envs for after in self.call(one, ins)])
        return envs

    def merged(self, envs: list[Env]) -> list[Env]:
        """States that agree on all locks as one, so that calls in a row do not multiply them."""
        if len(envs) < 2:
            return envs
        by_locks: dict[Locks, Env] = {}
        for env in envs:
            locks = tuple(sorted(env.locks.items()))
            known = by_locks.get(locks)
            if known is None:
                by_locks[locks] = env
            else:
                known.facts = _join(known.facts, env.facts)
        out = list(by_locks.values())
        if len(out) > STATES:
            facts = out[0].facts
            for env in out[1:]:
                facts = _join(facts, env.facts)
            return [Env(_union([env.locks for env in out]), facts)]
        return out

    def leave(self, number: int, env: Env) -> list[tuple[int, Env]]:
        """Where a block's end leads with this state."""
        end = self.prepared.ends[number]
        kind = end[0]
        if kind == "J":
            return [(end[1], env)]
        if kind == "B":
            out = []
            for truth, target in ((True, end[3]), (False, end[4])):
                after = self.refine(env.copy(), end[2], truth)
                if after is not None:
                    out.append((target, after))
            return out
        if kind == "W":
            return self.switch(env, end)
        if kind in ("R", "E"):
            self.exit(env, end)
        return []

    def switch(self, env: Env, end: Any) -> list[tuple[int, Env]]:
        """The cases of a switch that the operand's known sign allows."""
        operand = self.resolve(env, end[2])
        mask = self.value(env, operand)
        out = []
        for (low, high), target in end[3]:
            signs = ANY if low is None or high is None else _sign(low) | _sign(high)
            if low is not None and high is not None and low < 0 < high:
                signs = ANY
            if mask & signs:
                after = env.copy()
                self.learn(after, operand, mask & signs)
                out.append((target, after))
        out.append((end[4], env))
        return out

    def refine(self, env: Env, test: Any, truth: bool) -> Env | None:
        """The state on one side of a branch; None when it cannot be."""
        if test[0] == "x":
            if not test[1]:
                return env
            known = env.facts.get(test[1], ANY)
            signs = _NONZERO if truth else ZERO
            if not known & signs:
                return None
            env.facts[test[1]] = known & signs
            return env
        path = self.resolve(env, test[1] if test[0] == "v" else test[2])
        known = self.value(env, path)
        if test[0] == "v":
            signs = _NONZERO if truth else ZERO
        else:
            signs = _compare(test[1], test[3], truth)
        if not known & signs:
            return None
        self.learn(env, path, known & signs)
        return env

    def learn(self, env: Env, path: str, mask: int) -> None:
        """Remembers a value's sign; a lock behind a pointer that is NULL is not held."""
        if path[:1] in '#?"&@' and not path.startswith("@"):
            return
        if mask != ANY:
            env.facts[path] = mask

    def value(self, env: Env, operand: str) -> int:
        """The signs an operand may have."""
        if operand[:1] == "#":
            return _sign(int(operand[1:]))
        if operand[:1] in ("&", '"'):
            return POSITIVE
        known = env.facts.get(operand, ANY)
        return known if isinstance(known, int) else ANY

    # Names

    def resolve(self, env: Env, operand: str) -> str:
        """An operand with aliases replaced by what they stand for."""
        for _ in range(6):
            amp = operand.startswith("&")
            path = operand[amp:]
            start = root(path)
            target = env.facts.get("~" + start)
            if target is None or (amp and path == start):
                return operand
            path = rebase(path, start, target)
            operand = "&" + path if amp and not path.startswith("&") else path
        return operand

    def forget(self, env: Env, path: str) -> None:
        """A path gets a new value: what was known under its name is no longer known."""
        facts = env.facts
        plain = root(path) == path
        facts.pop("~" + path, None)
        follower = next((n[1:] for n, v in facts.items() if n[0] == "~" and v == path), None)
        for name in list(facts):
            if name[0] == "~":
                amp = facts[name].startswith("&")
                target = facts[name][amp:]
                if follower is not None and name[1:] != follower and under(target, path):
                    facts[name] = "&" * amp + follower + target[len(path) :]
                elif under(target, path) or (plain and path in variables(target)):
                    del facts[name]
            elif name[0] == "?":
                if root(path) in self.prepared.texts.get(name, ()):
                    del facts[name]
            elif under(name, path) or (plain and path in variables(name)):
                del facts[name]
        for key in list(env.locks):
            if under(key, path) or (plain and path in variables(key)):
                status = env.locks.pop(key)
                if key.endswith("~"):
                    env.locks[key] = status
                elif follower is not None and under(key, path):
                    self.rename(env, key, follower + key[len(path) :], status)
                elif held(status):
                    self.rename(env, key, key + "~", status)

    def rename(self, env: Env, old: str, new: str, status: str) -> None:
        """A lock goes by another path from here on."""
        env.locks[new] = status
        self.classes[new] = self.classes.get(old, "")
        self.taken_at.setdefault(new, self.taken_at.get(old, 0))
        identity = self.identity(old)
        if identity and not identity.startswith("$"):
            self.identities.setdefault(new, identity)

    def assign(self, env: Env, ins: Set) -> None:
        """``target = operand``."""
        if not ins.born:
            self.check_uses(env, ins.line, ins.uses)
        target = ins.target
        if not target:
            return
        operand = self.resolve(env, ins.operand)
        if operand == target:
            return
        if root(target) != target:
            target = self.resolve(env, target)
        mask = self.value(env, operand)
        if under(operand, target) and target == root(target):
            self.advance(env, target, operand)
            return
        null_kept = target in self.prepared.roles and operand == "#0" and held(env.locks.get(target))
        self.forget(env, target)
        if null_kept:
            self.taken_at.setdefault(target + "~", ins.line)
        simple = target[0] not in "@*" and "->" not in target and "[" not in target
        if mask != ANY and simple:
            env.facts[target] = mask
        if (
            root(target) == target
            and simple
            and operand[:1] not in '#?"'
            and target not in variables(operand.removeprefix("&"))
        ):
            role = self.prepared.roles.get(target)
            if root(ins.operand.removeprefix("&")) == target or len(operand) > 120:
                return  # p = p->next: another one of many, not another name
            if role is None or operand in self.prepared.roles:
                env.facts["~" + target] = operand

    def advance(self, env: Env, target: str, operand: str) -> None:
        """``p = p->next``: what was known of the next one is known of ``p`` now."""
        moved = {k: env.locks.pop(k) for k in list(env.locks) if under(k, operand) and not k.endswith("~")}
        known = {k: v for k, v in env.facts.items() if k[0] not in "~?" and under(k, operand)}
        self.forget(env, target)
        for key, status in moved.items():
            self.rename(env, key, target + key[len(operand) :], status)
        for name, mask in known.items():
            env.facts[target + name[len(operand) :]] = mask

    # Calls

    def call(self, env: Env, ins: Call) -> Iterable[Env]:
        """A call: what it does to locks, and to what is known."""
        arguments = [self.resolve(env, a) for a in ins.arguments]
        if ins.effects:
            self.check_uses(env, ins.line, self._other_uses(ins))
            success = {e.success for e in ins.effects}
            if len(ins.effects) > 1 and success != {ANY} and ins.result:
                return self.together(env, ins, arguments)
            envs = [env]
            for effect in ins.effects:
                envs = [after for one in envs for after in self.apply(one, ins, effect, arguments)]
            return envs
        self.check_uses(env, ins.line, ins.uses)
        self.check_forbidden(env, ins)
        for argument in ins.arguments:
            if argument[:1] == "&":
                self._unknown(env, argument[1:])
            elif argument[:1] not in '#?"@':
                self._behind(env, argument)
        if ins.summary is not None and ins.summary.changes:
            return self.apply_summary(env, ins, ins.summary, arguments)
        if ins.summary is not None:
            self.check_order(env, ins, ins.summary, arguments)
        if ins.result:
            self.forget(env, ins.result)
        return [env]

    def together(self, env: Env, ins: Call, arguments: list[str]) -> list[Env]:
        """A call that does several things to locks when it succeeds, and nothing when it fails."""
        failed = env.copy()
        mask = ins.effects[0].success
        done = [env]
        for effect in ins.effects:
            plain = replace(effect, success=ANY)
            done = [after for one in done for after in self.apply(one, ins, plain, arguments)]
        for one, signs in (*((d, mask) for d in done), (failed, ins.effects[0].failure)):
            self.forget(one, ins.result)
            one.facts[ins.result] = signs
        return [*done, failed]

    def _other_uses(self, ins: Call) -> list[str]:
        locks = {
            lock_key(ins.arguments[e.argument]) for e in ins.effects if 0 <= e.argument < len(ins.arguments)
        }
        fetches = {e.operation for e in ins.effects} & {"fetch"}
        return ins.uses if fetches else [u for u in ins.uses if u not in locks]

    @staticmethod
    def _unknown(env: Env, path: str) -> None:
        """Something else may have written to a variable whose address it got."""
        for name in [n for n in env.facts if n[0] not in "~?" and under(n, path)]:
            del env.facts[name]

    @staticmethod
    def _behind(env: Env, path: str) -> None:
        """Something else may have written behind a pointer it got."""
        for name in [n for n in env.facts if n != path and n[0] not in "~?" and under(n, path)]:
            del env.facts[name]

    def apply(self, env: Env, ins: Call, effect: Effect, arguments: list[str]) -> list[Env]:
        """What the rules say a call does."""
        operation = effect.operation
        if operation == "fetch":
            return self.fetch(env, ins, effect)
        if operation == "recursive_init":
            return [env]
        if operation == "release":
            return self.release(env, ins, effect)
        if effect.argument == -2:
            key = f"::{effect.lock}"
        elif effect.argument == -1:
            key = ins.result
        else:
            key = self.locked_by(env, ins, effect.argument, arguments, effect.clears or operation == "steal")
        if key and self.rules.locks[effect.lock].facet:
            key = f"{key}.({effect.lock})"
        if not key or key[:1] in '#?"':
            if ins.result:
                self.forget(env, ins.result)
            return [env]
        if operation == "steal":
            self.steal(env, key, ins.result)
            return [env]
        if operation != "destroy":
            self.classes[key] = effect.lock
        if operation == "destroy":
            self.destroy(env, key, effect)
        elif operation == "unlock":
            self.unlock(env, ins.line, key, effect)
        elif operation == "wait":
            self.wait(env, ins.line, key)
        elif operation in ("trylock", "tryshared") or (effect.success != ANY and ins.result):
            return self.attempt(env, ins, effect, key)
        else:
            if effect.argument == -1 and ins.result:
                self.forget(env, ins.result)
            self.lock(env, ins.line, key, "S" if operation == "shared" else "L", "")
        if ins.result and effect.argument != -1:
            self.forget(env, ins.result)
            if operation == "guard":
                env.facts["~" + ins.result] = "&" + key
                env.facts[ins.result] = POSITIVE
        return [env]

    def locked_by(self, env: Env, ins: Call, index: int, arguments: list[str], clears: bool) -> str:
        """The lock an argument names; the address of a pointer variable stands for what it points to."""
        if index >= len(arguments):
            return ""
        operand = ins.arguments[index]
        if operand[:1] == "&":
            variable = self.prepared.variables.get(operand[1:])
            if variable is not None and variable.pointer:
                return self.resolve(env, operand[1:]).removeprefix("&")
        elif clears and operand[:1] not in '#?"@%':
            return f"*{arguments[index]}"
        key = lock_key(arguments[index])
        known = self.prepared.classes.get(lock_key(operand))
        if known is not None and key not in self.prepared.classes:
            self.prepared.classes[key] = known
        return key

    def steal(self, env: Env, key: str, result: str) -> None:
        """A pointer is moved: what it is called changes, its lock state does not."""
        if result:
            self.forget(env, result)
            for old in [k for k in env.locks if under(k, key)]:
                self.rename(env, old, result + old[len(key) :], env.locks.pop(old))
            if key in env.facts:
                env.facts[result] = env.facts[key]
        env.facts[key] = ZERO

    def attempt(self, env: Env, ins: Call, effect: Effect, key: str) -> list[Env]:
        """A lock that may not be taken: both ways, the result's sign with each."""
        got, failed = env.copy(), env
        trying = effect.operation.startswith("try")
        out = []
        if not (trying and held(env.locks.get(key)) and not self.rules.locks[effect.lock].recursive):
            self.lock(
                got, ins.line, key, "S" if effect.operation in ("shared", "tryshared") else "L", "", trying
            )
            out.append((got, effect.success))
        out.append((failed, effect.failure))
        for one, mask in out:
            if ins.result:
                self.forget(one, ins.result)
                if mask and mask != ANY:
                    one.facts[ins.result] = mask
        return [one for one, mask in out if mask]

    def release(self, env: Env, ins: Call, effect: Effect) -> list[Env]:
        """A guard goes out of scope, or is let go by hand."""
        operand = ins.arguments[effect.argument] if effect.argument < len(ins.arguments) else ""
        guard = operand.removeprefix("&")
        target = env.facts.get("~" + guard)
        for _ in range(4):  # a guard that was copied from another
            inner = env.facts.get("~" + target) if isinstance(target, str) else None
            if inner is None:
                break
            target = inner
        if isinstance(target, str) and env.facts.get(guard) != ZERO:
            key = lock_key(target)
            if held(env.locks.get(key)):
                env.locks[key] = "U"
        env.facts.pop("~" + guard, None)
        return [env]

    def fetch(self, env: Env, ins: Call, effect: Effect) -> list[Env]:
        """A call that returns a locked object, or NULL."""
        line, key = ins.line, ins.result
        if self.two_level and effect.lock == self.rules.object:
            if not self.driver_held(env):
                what = f"{bare(ins.callee)} fetches and locks an object while no driver is locked"
                self.report("object-lock-no-driver", line, key, what, self._typed(key))
            others = [k for k, s in env.locks.items() if held(s) and self.classes.get(k) == effect.lock]
            if others:
                names = ", ".join(shown(k) for k in sorted(others))
                what = f"{bare(ins.callee)} fetches and locks an object while {names} is locked"
                self.report("fetch-second-object", line, key, what, self._typed(*sorted(others)))
        if not key:
            return [env]
        self.classes[key] = effect.lock
        self.forget(env, key)
        got, none = env.copy(), env
        none.facts[key] = ZERO
        got.facts[key] = POSITIVE
        self.edges_to(got, line, self.identity(key), "")
        got.locks[key] = "L"
        self.taken_at.setdefault(key, line)
        return [got, none]

    def lock(self, env: Env, line: int, key: str, status: str, via: str, trying: bool = False) -> None:
        """A lock is taken."""
        name = self.classes[key]
        now = env.locks.get(key)
        through = f" (in {bare(_origin(via)[0])})" if via else ""
        if held(now) and now is not None and now[0] != "M" and not self.recursive(key):
            if not (status == "S" and now[0] == "S") and not many(key):
                first = self.taken_at.get(key, 0)
                where = (Place(self.function.file, first, "first locked here"),) if first else ()
                what = f"{shown(key)} is locked{through} while it is locked already"
                self.report("double-lock", line, key, what, self._typed(key), where)
            return
        if self.two_level and name == self.rules.object and not self.driver_held(env):
            what = f"{shown(key)} is locked{through} while no driver is locked"
            self.report("object-lock-no-driver", line, key, what, self._typed(key))
        if self.two_level and name == self.rules.driver:
            objects = sorted(
                k for k, s in env.locks.items() if held(s) and self.classes.get(k) == self.rules.object
            )
            if objects:
                what = f"{shown(key)} is locked{through} while {', '.join(map(shown, objects))} is"
                self.report("driver-after-object", line, key, what, self._typed(key, *objects))
        if now is None and not self.entry:
            self.need(key, "free")
        if not trying:
            self.edges_to(env, line, self.identity(key), _origin(via)[0])
        self.taken_at.setdefault(key, line)
        env.locks[key] = "H" if now == "R" else status + via
        start = root(key)
        if key == start or key.startswith(start + "->"):
            self.learn(env, start, self.value(env, start) & ~ZERO or POSITIVE)

    def recursive(self, key: str) -> bool:
        """Whether a lock may be taken while it is held."""
        lock = self.rules.locks.get(self.classes.get(key, ""))
        return lock is not None and (lock.recursive or self.identity(key) in self.rules.recursive)

    def unlock(self, env: Env, line: int, key: str, effect: Effect | None, via: str = "") -> None:
        """A lock is released."""
        now = env.locks.get(key)
        through = f" (in {bare(_origin(via)[0])})" if via else ""
        if env.facts.get(key) == ZERO or (root(key) != key and env.facts.get(root(key)) == ZERO):
            return
        if now is not None and held(now):
            env.locks[key] = "R" if now[0] == "H" else "U"
            callee, theirs = _origin(now)
            if callee:
                self.result.evidence.add(("releases", callee, theirs))
        elif now is not None:
            if not many(key) and not self.recursive(key):
                what = f"{shown(key)} is unlocked{through} though it was unlocked already"
                self.report("double-unlock", line, key, what, self._typed(key))
        else:
            self._unlock_unseen(env, line, key, through, via)
        if effect is not None and effect.clears:
            if env.locks.get(key) == "U":
                del env.locks[key]
            env.facts[key] = ZERO

    def _unlock_unseen(self, env: Env, line: int, key: str, through: str, via: str) -> None:
        """A lock is released that was not taken here, as far as its name tells."""
        stale = [k for k in env.locks if k.endswith("~") and shape(k) == shape(key)]
        role = self.prepared.roles.get(key)
        if stale and role is None:
            for name in stale:
                del env.locks[name]
            env.locks[key] = "U"
            return
        if weak(key):
            return
        local = self._local(key)
        finding_text = f"{shown(key)} is unlocked{through} though it is not locked"
        if self.entry or (role is not None and local):
            self.report("unlock-unlocked", line, key, finding_text, self._typed(key))
        elif not local:
            self.need(key, "held")
            seen = outward(self.function, key, "")
            origin = _origin(via)
            finding = self.make("unlock-unlocked", line, finding_text, self._typed(key), ())
            self.places.setdefault(("unlock-unlocked", line, key), self.here)
            self.pending.setdefault(
                ("unlock-unlocked", key, line),
                Candidate("unlock-unlocked", seen, key, line, origin, finding, self.field(key)),
            )
            env.locks[key] = "R"
            return
        env.locks[key] = "U"

    def destroy(self, env: Env, key: str, effect: Effect) -> None:
        """The last reference to an object that was created locked here goes: its lock goes with it."""
        callee, _ = _origin(env.locks.get(key, ""))
        if callee and self.rules.creates(effect.lock, bare(callee)):
            del env.locks[key]

    def wait(self, env: Env, line: int, key: str) -> None:
        """A condition is waited for: the lock must be held, is given up meanwhile, and is held again."""
        now = env.locks.get(key)
        if now is not None and now[0] in "UR" and not weak(key):
            what = f"a condition is waited for with {shown(key)}, which is unlocked"
            self.report("wait-unlocked", line, key, what, self._typed(key))
        elif now is None and not self.entry and not self._local(key):
            self.need(key, "held")
            env.locks[key] = "H"
        for name in [n for n in env.facts if n[0] not in "~?" and root(n) != n]:
            del env.facts[name]

    def apply_summary(self, env: Env, ins: Call, summary: Summary, arguments: list[str]) -> list[Env]:
        """What a called function does, by its summary."""
        line = ins.line
        result = ins.result
        self.check_order(env, ins, summary, arguments)
        for theirs, need in summary.needs.items():
            key = self.inner(env, theirs, arguments, "")
            if not key:
                continue
            self.meet(key, theirs, summary)
            now = env.locks.get(key)
            via = f"\0{ins.callee}\0{theirs}"
            if need == "held":
                if held(now):
                    self.result.evidence.add(("holds", ins.callee, theirs))
                elif now is not None and not weak(key):
                    what = f"{bare(ins.callee)} expects {shown(key)} to be locked, and it was unlocked"
                    self.report("double-unlock", line, key, what, self._typed(key))
                elif now is None and not self.entry and not self._local(key):
                    self.need(key, "held")
                    self.result.passed.add((outward(self.function, key, ""), ins.callee, theirs))
            elif need == "free" and held(now) and now is not None and now[0] != "M" and not weak(key):
                shared = now[0] == "S" and theirs in _shared(summary)
                if not self.recursive(key) and not shared:
                    what = f"{bare(ins.callee)} locks {shown(key)}, which is locked already"
                    first = self.taken_at.get(key, 0)
                    where = (Place(self.function.file, first, "first locked here"),) if first else ()
                    self.report("double-lock", line, key, what, self._typed(key), where)
        out: list[Env] = []
        outcomes: list[Outcome] = summary.outcomes or [(ANY, (), ())]
        for mask, changes, conditions in outcomes:
            one = env.copy()
            if not self.allow(one, conditions, arguments):
                continue
            if result:
                self.forget(one, result)
                if mask != ANY:
                    one.facts[result] = mask
                guarded = inward(summary.guard, arguments, "") if summary.guard else ""
                if guarded:
                    one.facts["~" + result] = "&" + guarded
            for theirs, status in changes:
                key = self.inner(one, theirs, arguments, result)
                if not key:
                    continue
                self.meet(key, theirs, summary)
                via = f"\0{ins.callee}\0{theirs}"
                if status == "U":
                    self.unlock(one, line, key, None, via)
                elif not held(one.locks.get(key)):
                    if self.two_level and theirs.startswith("$r") and self.classes[key] == self.rules.object:
                        self.check_returned(one, ins, key)
                    if one.locks.get(key) is None and not self.entry and not theirs.startswith("$r"):
                        self.need(key, "free")
                    if one.locks.get(key) == "R":
                        self.result.evidence.add(("releases", ins.callee, theirs))
                        one.locks[key] = "H"
                    else:
                        one.locks[key] = status + via
                    variable = self.prepared.variables.get(key)
                    if key.startswith(root(key) + "->") or (variable is not None and variable.pointer):
                        self.learn(one, root(key), self.value(one, root(key)) & ~ZERO or POSITIVE)
                    self.taken_at.setdefault(key, line)
            out.append(one)
        return out

    def inner(self, env: Env, theirs: str, arguments: list[str], result: str) -> str:
        """A summary's lock as this call names it."""
        path = inward(theirs, arguments, result)
        return lock_key(self.resolve(env, path)) if path and root(path) != result else path

    def meet(self, key: str, theirs: str, summary: Summary) -> None:
        """A lock that a called function named: what kind it is."""
        self.classes.setdefault(key, summary.classes.get(theirs, ""))
        if theirs in summary.identities:
            self.identities.setdefault(key, summary.identities[theirs])

    def allow(self, env: Env, conditions: Conditions, arguments: list[str]) -> bool:
        """Whether a function may end in this way, given what is known; what that tells is learned."""
        for theirs, mask in conditions:
            start = root(theirs)
            if theirs == start and start[0] == "$":
                index = int(start[1:])
                path = arguments[index] if index < len(arguments) else ""
            else:
                path = self.resolve(env, inward(theirs, arguments, ""))
            if not path:
                continue
            known = self.value(env, path) & mask
            if not known:
                return False
            self.learn(env, path, known)
        return True

    def check_returned(self, env: Env, ins: Call, key: str) -> None:
        """A helper that returns a locked object fetches it."""
        others = [k for k, s in env.locks.items() if held(s) and self.classes.get(k) == self.rules.object]
        if others:
            names = ", ".join(map(shown, sorted(others)))
            what = f"{bare(ins.callee)} returns a locked object while {names} is locked"
            self.report("fetch-second-object", ins.line, key, what, self._typed(*sorted(others)))

    # Checks

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
            if held(now) and now is not None and now[0] != "M":
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
        for identity, (_, _, released) in summary.acquires.items():
            name = self.translate(identity, arguments)
            if name:
                free = frozenset(inward(x, arguments, "") for x in released) if released else frozenset()
                self.edges_to(env, ins.line, name, ins.callee, free)

    def translate(self, identity: str, arguments: list[str]) -> str:
        """The identity of a lock a called function takes through its parameter."""
        if not identity.startswith("$"):
            return identity
        key = inward(identity, arguments, "")
        return self.identity(key) if key else ""

    def edges_to(
        self, env: Env, line: int, taken: str, callee: str, free: frozenset[str] = frozenset()
    ) -> None:
        """Notes that a lock is taken while others are held, but for those that the callee gives up before."""
        given_up = {outward(self.function, k, "") for k in free}
        if not taken:
            return
        given_up |= {outward(self.function, k, "") for k, s in env.locks.items() if s[0] == "R"}
        known = self.result.summary.acquires.get(taken)
        if known is None:
            self.result.summary.acquires[taken] = (line, callee, sorted(given_up - {""}))
        elif known[2]:
            self.result.summary.acquires[taken] = (*known[:2], [x for x in known[2] if x in given_up])
        for key, status in env.locks.items():
            if held(status) and key not in free:
                before = self.identity(key)
                if self.two_level and self.classes.get(key) in (self.rules.driver, self.rules.object):
                    continue  # the two-level rule has its own words for that
                if before and before != taken and not before.startswith("$"):
                    self.edges.setdefault(
                        (before, taken), Edge(before, taken, self.taken_at.get(key, 0), line, callee)
                    )

    def identity(self, key: str) -> str:
        """Which lock of the program a path is: a global, a field of a struct, or all objects of a type."""
        name = self.classes.get(key, "")
        lock = self.rules.locks.get(name)
        if lock is not None and not lock.order:
            return ""
        if key.startswith("::"):
            return key[2:]
        path = key.rstrip("~")
        known = self.prepared.classes.get(path)
        if lock is not None and lock.identity == "type":
            if known:
                return _type_name(known[1])
            variable = self.function.variables.get(root(path))
            if variable is not None and root(path) == path and variable.names:
                return _type_name(variable.names[-1])
            return ""
        if known:
            return known[0]
        if path in self.identities:
            return self.identities[path]
        if path.startswith("@"):
            return path[1:]
        variable = self.function.variables.get(root(path))
        if variable is not None and variable.kind == "param" and variable.pointer:
            return rebase(path, root(path), f"${variable.index}")
        return ""

    # Exits

    def exit(self, env: Env, end: Any) -> None:
        """A return or the end of the function: what is still held."""
        line = end[1]
        operand = self.resolve(env, end[2]) if end[0] == "R" and end[2] else ""
        mask = self.value(env, operand) if operand else ANY
        locks = tuple(sorted(env.locks.items()))
        if operand[:1] == "&" and held(env.locks.get(operand[1:])):
            self.result.summary.guard = outward(self.function, operand[1:], "")
        if any(status[0] in "LSMR" for _, status in locks) or self.exits or env.facts:
            self.exits.append((line, mask, operand, locks, self._conditions(env)))
        self.endings.setdefault((line, locks), self.here)

    def _conditions(self, env: Env) -> Conditions:
        """What this way through the function says of values that the caller knows too."""
        out = []
        for path, mask in env.facts.items():
            if path[0] not in "~?%" and not self.prepared.assigned & {path, *variables(path)}:
                seen = seen_value(self.function, path)
                if seen:
                    out.append((seen, mask))
        return tuple(sorted(out))

    def need(self, key: str, what: str) -> None:
        """The first thing that happens to a lock tells how callers must leave it."""
        seen = outward(self.function, key, "")
        if seen:
            if self.result.summary.needs.setdefault(seen, what) != what:
                self.result.summary.needs[seen] = "either"
            self.tell(seen, key)

    def tell(self, seen: str, key: str) -> None:
        """Puts into the summary what kind of lock a caller meets."""
        self.result.summary.classes.setdefault(seen, self.classes.get(key, ""))
        identity = self.identity(key)
        if identity and not identity.startswith("$"):
            self.result.summary.identities.setdefault(seen, identity)

    def finish(self) -> Result:
        """Puts the result together."""
        result = self.result
        by_line: dict[int, dict[str, str]] = {}
        outcomes: list[Outcome] = []
        for line, mask, operand, locks, conditions in self.exits:
            changes = []
            for key, status in locks:
                seen = outward(self.function, key, operand)
                if seen and not weak(key):
                    self.tell(seen, key)
                    if status[0] in "LSM":
                        changes.append((seen, "S" if status[0] == "S" else "L"))
                    elif status[0] == "R":
                        changes.append((seen, "U"))
                if status[0] not in "LSM" or not self._counts(key):
                    continue
                if self.entry:
                    by_line.setdefault(line, {})[key] = status
                else:
                    self._leak(line, key, seen, status)
            outcomes.append((mask, tuple(sorted(changes)), conditions))
        for line, held_here in sorted(by_line.items()):
            keys = sorted(held_here)
            names = ", ".join(shown(k) for k in keys)
            what = f"{names} {'are' if len(keys) > 1 else 'is'} still locked at this exit"
            places = tuple(
                Place(self.function.file, at, f"{shown(k)} is locked here")
                for k in keys
                if (at := self.taken_at.get(k, 0))
            )
            self.report("exit-locked", line, "", what, self._typed(*keys), places)
        result.summary.outcomes = simplify(outcomes)
        result.findings = list(self.found.values())
        given = {key for _, _, _, locks, _ in self.exits for key, status in locks if status[0] == "R"}
        result.candidates = [c for c in self.pending.values() if c.kind == "exit-locked" or c.key in given]
        result.edges = list(self.edges.values())
        return result

    def reach(self) -> None:
        """For a function that does nothing to locks itself: the locks it takes through others."""
        for code in self.prepared.code:
            for ins in code:
                if isinstance(ins, Call):
                    self.check_forbidden(Env({}, {}), ins)
                    if ins.summary is not None:
                        self.check_order(Env({}, {}), ins, ins.summary, ins.arguments)

    def _counts(self, key: str) -> bool:
        """Whether a lock that is held at an exit is a leak: not one of many that another loop releases."""
        if key.endswith("~") and self.prepared.roles.get(key[:-1]) is None:
            return shape(key) not in self.prepared.released
        if weak(key):
            return shape(key) not in self.prepared.released
        return True

    def _leak(self, line: int, key: str, seen: str, status: str) -> None:
        origin = _origin(status)
        first = self.taken_at.get(key, 0)
        where = (Place(self.function.file, first, f"{shown(key)} is locked here"),) if first else ()
        finding = self.make(
            "exit-locked", line, f"{shown(key)} is still locked at this exit", self._typed(key), where
        )
        self.pending.setdefault(
            ("exit-locked", key, line),
            Candidate("exit-locked", seen, key, line, origin, finding, self.field(key)),
        )

    def field(self, key: str) -> str:
        """``Record.field`` of a lock that is reached through one, or is one."""
        path = key.rstrip("~")
        if "->" not in path and "." not in path:
            return ""
        known = self.prepared.classes.get(path)
        return known[0] if known else self.identities.get(path, "")

    def _local(self, key: str) -> bool:
        """Whether a path starts from a variable that no caller has."""
        start = root(key)
        if start[:1] in "@:":
            return False
        variable = self.function.variables.get(start)
        return variable is None or (variable.kind == "local" and start == key) or start[0] == "%"

    def _typed(self, *keys: str) -> tuple[tuple[str, str], ...]:
        out = []
        for key in keys:
            path = key.rstrip("~")
            known = self.prepared.classes.get(path)
            text = known[1] if known else self.prepared.types.get(path) or self.classes.get(key, "")
            out.append((shown(key), text))
        return tuple(out)

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


def _origin(status: str) -> tuple[str, str]:
    """The called function that left a lock so, and its name for the lock; empty when none did."""
    _, _, origin = status.partition("\0")
    callee, _, theirs = origin.partition("\0")
    return callee, theirs


def _union(every: list[dict[str, str]]) -> dict[str, str]:
    """Lock states joined by union: what is held in one and not in another is both."""
    out: dict[str, str] = {}
    for key in {k for locks in every for k in locks}:
        values = {locks.get(key, "") for locks in every}
        out[key] = values.pop() if len(values) == 1 else "M" if any(held(v or None) for v in values) else "U"
    return out


def _shared(summary: Summary) -> set[str]:
    return {k for _, changes, _ in summary.outcomes for k, s in changes if s == "S"}


def shown(key: str) -> str:
    """A lock's name for people."""
    name = key.rstrip("~").removeprefix("::")
    if name.startswith("@"):
        start = root(name)
        name = name.replace(start, start[1:].partition(":")[0], 1)
    return "the returned object" if name.startswith("%") else name.partition("#")[0] if "#" in name else name


def _type_name(name: str) -> str:
    plain = name.removeprefix("struct ").lstrip("_")
    return "" if plain == "void" else plain


def _sign(value: int) -> int:
    return ZERO if value == 0 else POSITIVE if value > 0 else NEGATIVE


def _compare(operator: str, bound: int, truth: bool) -> int:
    """The signs a value may have when its comparison with a constant came out true or false."""
    if not truth:
        operator = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}[operator]
    if operator == "<=":
        operator, bound = "<", bound + 1
    elif operator == ">=":
        operator, bound = ">", bound - 1
    if operator == "==":
        return _sign(bound)
    if operator == "!=":
        return _NONZERO if bound == 0 else ANY
    if operator == "<":
        return NEGATIVE | (ZERO if bound > 0 else 0) | (POSITIVE if bound > 1 else 0)
    return POSITIVE | (ZERO if bound < 0 else 0) | (NEGATIVE if bound < -1 else 0)


def _join(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What is known in both of two facts."""
    out = {}
    for name, value in one.items():
        second = other.get(name)
        if second is None:
            continue
        if name[0] == "~":
            if second == value:
                out[name] = value
        else:
            joined = value | second
            if joined != ANY:
                out[name] = joined
    return out

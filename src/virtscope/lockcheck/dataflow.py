"""The data flow of one function: which locks may be held where, and what is wrong with that.

:func:`analyse` is the entry point. A *state* is the set of locks that are known to be held or released; at
each block the possible states are kept side by side, and with each state what is known of the signs of
values and of pointers that are other paths' aliases (facts). States that agree on all locks are joined, and
their facts with them, so what is known of a flag goes with the lock that was taken because of it, and the
number of states stays small (the property simulation of Das, Lerner and Seigle, "ESP", PLDI 2002). When a
block collects more than :data:`STATES` of them, the function is followed again once for each lock
(:mod:`.focus`).
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

from .findings import Place
from .focus import Focus, combined
from .ir import Function
from .liveness import live_variables, prune, targets
from .names import Exit
from .paths import shape, weak
from .prepare import Call, Set, prepare
from .results import Candidate, Result
from .rules import ANY, ZERO, RuleSet
from .states import NONZERO, Env, Locks, compare, held, join, locks_of, origin, shown, sign
from .summaries import Outcome, Summary, outward, simplify

STATES = 40
"""How many states a block may have before the function's locks are looked at one by one."""
STEPS = 60_000
"""How many block visits a function may take (or 20 for each block) before it is given up, and said so."""


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
    if prepared.relevant or prepared.selective:
        flow.run()
    else:
        flow.reach()
    return flow.finish()


class Flow(Focus):
    """The fixed point over one function."""

    def run(self) -> None:
        """Walks blocks until no state is new: with all locks at once, or, when that is too much, with one
        after the other.
        """
        self.live = live_variables(self.prepared)
        self.order = _order(self.prepared.ends)
        self.left = max(STEPS, 20 * len(self.states))
        try:
            self._follow()
        except _TooManyStates:
            self._one_by_one()

    def _follow(self) -> None:
        order = self.order
        self.work = [(order[0], 0, ())]
        self.states[0][()] = dict(self.initial)
        self.parents.setdefault((0, ()), None)
        while self.work:
            _, number, locks = heappop(self.work)
            self.waiting.discard((number, locks))
            self.left -= 1
            if self.left < 0:
                raise _TooManyStates
            self.here = (number, locks)
            envs = self.block(number, Env(locks_of(locks), dict(self.states[number][locks])))
            for env in envs:
                for target, after in self.leave(number, env):
                    self.arrive(target, after)

    def _one_by_one(self) -> None:
        """Follows the function once for each lock it mentions."""
        self.result = Result()
        for known in (self.found, self.places, self.pending, self.edges, self.endings, self.handed_over):
            known.clear()
        self.parents.clear()
        self.left = max(STEPS, 20 * len(self.states))
        together: list[dict[Locks, dict[str, Any]]] = [{} for _ in self.states]
        exits = []
        done: set[str] = set()
        while True:
            self.focus = next((k for k in sorted(self.classes) if self.family(k) not in done), "")
            if not self.focus:
                break
            self.states = [{} for _ in together]
            self.exits = []
            self.waiting.clear()
            acquired, self.result.summary.acquires = self.result.summary.acquires, {}
            try:
                self._follow()
            except _TooManyStates:
                self.result.problem = "has too many lock states to follow all of them"
            for name, (line, callee, released) in self.result.summary.acquires.items():
                before = acquired.setdefault(name, (line, callee, released))[2]
                before.extend(x for x in released if x not in before)
            self.result.summary.acquires = acquired
            done.add(self.family(self.focus))
            self.parts.append(self.exits)
            exits += self.exits
            for all_states, states in zip(together, self.states, strict=True):
                all_states.update(states)
            if self.result.problem:
                break
        self.focus, self.states, self.exits = "", together, exits

    def arrive(self, number: int, env: Env) -> None:
        """Adds a state to a block, joined with what is there."""
        prune(self.prepared, env.facts, env.locks, self.live[number])
        locks = self.state_key(env)
        states = self.states[number]
        known = states.get(locks)
        if known is None:
            if len(states) >= STATES:
                raise _TooManyStates
            states[locks] = env.facts
            self.parents.setdefault((number, locks), self.here)
        else:
            joined = join(known, env.facts)
            if joined == known:
                return
            states[locks] = joined
        if (number, locks) not in self.waiting:
            self.waiting.add((number, locks))
            heappush(self.work, (self.order[number], number, locks))

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
            locks = self.state_key(env)
            known = by_locks.get(locks)
            if known is None:
                by_locks[locks] = env
            else:
                known.facts = join(known.facts, env.facts)
        out = list(by_locks.values())
        if len(out) > STATES:
            raise _TooManyStates
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
            signs = ANY if low is None or high is None else sign(low) | sign(high)
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
            text, truth = self.text(env, test[1], truth)
            known = env.facts.get(text, ANY)
            signs = NONZERO if truth else ZERO
            if not known & signs:
                return None
            env.facts[text] = known & signs
            return env
        path = self.resolve(env, test[1] if test[0] == "v" else test[2])
        known = self.value(env, path)
        if test[0] == "v":
            signs = NONZERO if truth else ZERO
        else:
            signs = compare(test[1], test[3], truth)
        if not known & signs:
            return None
        self.learn(env, path, known & signs)
        return env

    def exit(self, env: Env, end: Any) -> None:
        """A return or the end of the function: what is still held."""
        line = end[1]
        operand = self.resolve(env, end[2]) if end[0] == "R" and end[2] else ""
        mask = self.value(env, operand) if operand else ANY
        locks = tuple(sorted(env.locks.items()))
        if operand[:1] == "&" and held(env.locks.get(operand[1:])):
            self.result.summary.guard = outward(self.function, operand[1:], "")
        self.exits.append((line, mask, operand, locks, self.conditions(env)))
        for key, status in locks:
            if status[0] in "LS" and (path := self.handed(env, key)):
                self.handed_over[key] = path
                self.handed_at.add((line, key))
        self.endings.setdefault((line, locks), self.here)

    def finish(self) -> Result:
        """Puts the result together."""
        result = self.result
        by_line: dict[int, dict[str, str]] = {}
        parts = [simplify(self._outcomes(exits, by_line)) for exits in self.parts or [self.exits]]
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
        result.summary.outcomes = parts[0] if len(parts) == 1 else combined(parts)
        result.summary.under = {k: c for k, c in result.summary.under.items() if c}
        self.check_given_back()
        for c in self.pending.values():
            if c.kind == "unlock-unlocked" and c.key in self.took:
                c.field = ""  # it takes the lock itself on other ways: nobody handed it over
        result.findings = list(self.found.values())
        given = {key for _, _, _, locks, _ in self.exits for key, status in locks if status[0] == "R"}
        result.candidates = self.collected(
            [c for c in self.pending.values() if c.kind == "exit-locked" or c.key in given]
        )
        result.elements -= {self.field(key) for key in self.took}
        result.edges = list(self.edges.values())
        return result

    def _outcomes(self, exits: list[Exit], by_line: dict[int, dict[str, str]]) -> list[Outcome]:
        """What each exit says to callers; locks still held there are mistakes, or may be."""
        outcomes: list[Outcome] = []
        for line, mask, operand, locks, conditions in exits:
            changes = []
            for key, status in locks:
                seen = outward(self.function, key, operand)
                if not seen and key in self.handed_over:
                    seen = outward(self.function, self.handed_over[key], operand)
                if seen and not weak(key):
                    self.tell(seen, key)
                    if status[0] in "LS":
                        changes.append((seen, "S" if status[0] == "S" else "L"))
                    elif status[0] == "R":
                        changes.append((seen, "U"))
                if status[0] not in "LS" or not self._counts(key):
                    continue
                if self.entry:
                    by_line.setdefault(line, {})[key] = status
                else:
                    self._leak(line, key, seen, status)
            outcomes.append((mask, tuple(sorted(changes)), conditions))
        return outcomes

    def reach(self) -> None:
        """For a function that does nothing to locks itself: the locks it takes through others."""
        for number, code in enumerate(self.prepared.code):
            self.here = (number, ())
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

    def _field(self, line: int, key: str) -> str:
        """The field through which others may find the lock that an exit leaves held, to release it.

        It is none when this function releases it itself on other ways: then it forgot to on this one, unless
        a pointer to it was stored for somebody.
        """
        if (line, key) in self.handed_at:
            return self.field(self.handed_over[key]) or self.field(key)
        return "" if key in self.gave or key in self.handed_over else self.field(key)

    def _leak(self, line: int, key: str, seen: str, status: str) -> None:
        left_by = origin(status)
        first = self.taken_at.get(key, 0)
        where = (Place(self.function.file, first, f"{shown(key)} is locked here"),) if first else ()
        finding = self.make(
            "exit-locked", line, f"{shown(key)} is still locked at this exit", self._typed(key), where
        )
        self.pending.setdefault(
            ("exit-locked", key, line),
            Candidate(
                "exit-locked", seen, key, line, left_by, finding, self._field(line, key), self.stored(key)
            ),
        )


class _TooManyStates(Exception):
    """The locks that are looked at have too many states together."""


def _order(ends: list[Any]) -> list[int]:
    """For each block its place when every block comes after those that lead to it, loops apart."""
    place = [len(ends)] * len(ends)
    seen = {0}
    stack = [(0, iter(targets(ends[0])))]
    number = len(ends)
    while stack:
        block, rest = stack[-1]
        for target in rest:
            if target not in seen:
                seen.add(target)
                stack.append((target, iter(targets(ends[target]))))
                break
        else:
            stack.pop()
            number -= 1
            place[block] = number
    return place

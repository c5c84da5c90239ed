"""What taking and releasing a lock means, by the rules' word or by a called function's summary."""

from __future__ import annotations

from .checks import Checks
from .findings import Place
from .paths import lock_key, many, root, shape, under, weak
from .prepare import Call, bare
from .results import Candidate
from .rules import ANY, NEGATIVE, POSITIVE, ZERO, Effect
from .states import Env, asks, held, origin, shown
from .summaries import Conditions, Outcome, Summary, inward, outward


class Locking(Checks):
    """Changes of lock states."""

    def lock(self, env: Env, line: int, key: str, status: str, via: str, trying: bool = False) -> None:
        """A lock is taken."""
        name = self.classes[key]
        now = env.locks.get(key)
        through = f" (in {bare(origin(via)[0])})" if via else ""
        if now is not None and held(now) and not self.recursive(key):
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
            self.need(env, key, "shared" if status == "S" else "free")
        if not trying:
            self.edges_to(env, line, self.identity(key), origin(via)[0])
        self.taken_at.setdefault(key, line)
        self.look_again(env, key)
        if held(now):
            self.relocked.add(key)
        if now == "R":
            self.retaken.add(key)
        if now is None:
            self.took.add(key)
        self.taken_in.setdefault(key, self.here[0])
        env.locks[key] = "H" if now == "R" else status + via
        start = root(key)
        if key == start or key.startswith(start + "->"):
            self.learn(env, start, self.value(env, start) & ~ZERO or POSITIVE)

    @staticmethod
    def look_again(env: Env, key: str) -> None:
        """What was not set before the lock was taken may be set by now (double-checked locking)."""
        parent = key[: max(key.rfind("->"), key.rfind("."), 0)]
        for name, mask in list(env.facts.items()):
            if mask == ZERO and name[0] not in "~?%":
                shared = name[0] == "@" and key[0] == "@"
                if shared or (parent and name != parent and under(name, parent)):
                    del env.facts[name]

    def unlock(self, env: Env, line: int, key: str, effect: Effect | None, via: str = "") -> None:
        """A lock is released."""
        now = env.locks.get(key)
        through = f" (in {bare(origin(via)[0])})" if via else ""
        if env.facts.get(key) == ZERO or (root(key) != key and env.facts.get(root(key)) == ZERO):
            return
        if now is not None and held(now):
            if now[0] != "H":
                self.gave.add(key)
            env.locks[key] = "R" if now[0] == "H" else "U"
            callee, theirs = origin(now)
            if callee:
                self.result.evidence.add(("releases", callee, theirs))
        elif now is not None:
            if now[0] == "P":
                env.locks[key] = "U"
            elif not many(key) and self.over(key, now):
                what = f"{shown(key)} is unlocked{through} though it was unlocked already"
                self.report("double-unlock", line, key, what, self._typed(key))
        else:
            self._unlock_unseen(env, line, key, through, via)
        if effect is not None and effect.clears:
            if env.locks.get(key) == "U":
                del env.locks[key]
            self.changed(env, key)
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
            if not self.entry:
                self.result.elements.add(self.field(key))
            return
        local = self._local(key)
        finding_text = f"{shown(key)} is unlocked{through} though it is not locked"
        if self.entry or (role is not None and local):
            self.report("unlock-unlocked", line, key, finding_text, self._typed(key))
            if not self.entry:
                env.locks[key] = "R"  # the caller's, found the same way as the caller did
                return
        elif not local:
            self.need(env, key, "held")
            seen = outward(self.function, key, "")
            left_by = origin(via)
            finding = self.make("unlock-unlocked", line, finding_text, self._typed(key), ())
            self.places.setdefault(("unlock-unlocked", line, key), self.here)
            self.pending.setdefault(
                ("unlock-unlocked", key, line),
                Candidate("unlock-unlocked", seen, key, line, left_by, finding, self.field(key)),
            )
            env.locks[key] = "R"
            return
        variable = self.prepared.variables.get(key)
        theirs = key[0] == "%" or (variable is not None and variable.pointer)
        env.locks[key] = "R" if theirs and not self.entry else "U"

    def apply_summary(self, env: Env, ins: Call, summary: Summary, arguments: list[str]) -> list[Env]:
        """What a called function does, by its summary."""
        line = ins.line
        result = ins.result
        self.check_order(env, ins, summary, arguments)
        for theirs, need in summary.needs.items():
            key = self.inner(env, theirs, arguments, "")
            if not key:
                continue
            if not self.could(env, summary.when.get(theirs, ()), arguments):
                continue
            if need != "held" and (
                self.here[0] not in self.returning or self.rules.unordered(bare(ins.callee))
            ):
                continue  # the program ends here, or the rule set leaves the call out
            self.meet(key, theirs, summary)
            now = env.locks.get(key)
            via = f"\0{ins.callee}\0{theirs}"
            if need == "held":
                if held(now):
                    self.result.evidence.add(("holds", ins.callee, theirs))
                elif now is not None and now != "P" and not weak(key) and self.over(key, now):
                    what = f"{bare(ins.callee)} expects {shown(key)} to be locked, and it was unlocked"
                    self.report("double-unlock", line, key, what, self._typed(key))
                elif now is None and not self.entry and not self._local(key):
                    self.need(env, key, "held")
                    self.result.passed.add((outward(self.function, key, ""), ins.callee, theirs))
            elif need in ("free", "shared") and now is None and not self.entry and not self._local(key):
                self.need(env, key, need)
            elif need != "either" and now is not None and held(now) and not weak(key):
                self.relocked.add(key)
                shared = now[0] == "S" and (need == "shared" or theirs in _shared(summary))
                if not self.recursive(key) and not shared:
                    what = f"{bare(ins.callee)} locks {shown(key)}, which is locked already"
                    first = self.taken_at.get(key, 0)
                    where = (Place(self.function.file, first, "first locked here"),) if first else ()
                    self.report("double-lock", line, key, what, self._typed(key), where)
        out: list[Env] = []
        outcomes: list[Outcome] = summary.outcomes or [(ANY, (), ())]
        if len(outcomes) == 1 and outcomes[0][:2] == (ZERO, ()) and not asks(bare(ins.callee)):
            # It never fails as it is today; what its caller does should it fail is to be right all the same.
            outcomes = [(NEGATIVE | ZERO, (), ())]
        for mask, changes, conditions in outcomes:
            one = env.copy()
            if not self.allow(one, conditions, arguments, summary):
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
                elif status == "P":
                    if not self.two_level:
                        one.locks.setdefault(key, "P")
                elif not held(one.locks.get(key)):
                    if self.two_level and theirs.startswith("$r") and self.classes[key] == self.rules.object:
                        self.check_returned(one, ins, key)
                    if one.locks.get(key) is None and not self.entry and not theirs.startswith("$r"):
                        self.need(env, key, "shared" if status == "S" else "free")
                    if one.locks.get(key) is None:
                        self.took.add(key)
                    if one.locks.get(key) == "R":
                        self.result.evidence.add(("releases", ins.callee, theirs))
                        self.retaken.add(key)
                        one.locks[key] = "H"
                    else:
                        one.locks[key] = status + via
                        if theirs.startswith("$r"):
                            self.fetched.add(key)
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

    def allow(self, env: Env, conditions: Conditions, arguments: list[str], summary: Summary) -> bool:
        """Whether a function may end in this way, given what is known; what that tells is learned."""
        for theirs, mask in conditions:
            path, signs = self.signs(env, theirs, arguments)
            if not signs & mask:
                return False
            if theirs[0] == "^":
                self.classes.setdefault(path, summary.classes.get(theirs[1:], ""))
                self.answer(env, path, signs & mask)
            elif path:
                self.learn(env, path, signs & mask)
        return True

    def answer(self, env: Env, key: str, mask: int) -> None:
        """The question whether a lock is held was answered."""
        if mask not in (ZERO, POSITIVE):
            return
        now = env.locks.get(key)
        if now is None:
            env.locks[key] = "H" if mask == POSITIVE else "U"
            if key[0] in ":@" and not self.entry:
                env.facts["^" + key] = mask
                self.tell(key, key)
        elif now[0] == "P":
            env.locks[key] = "L" if mask == POSITIVE else "U"


def _shared(summary: Summary) -> set[str]:
    return {k for _, changes, _ in summary.outcomes for k, s in changes if s == "S"}

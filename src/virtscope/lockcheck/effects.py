"""What instructions do: assignments, and calls that the rules or summaries describe."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from .checks import FETCHED
from .locking import Locking
from .paths import lock_key, root, under, variables, weak
from .prepare import Call, Set, bare
from .rules import ANY, POSITIVE, ZERO, Effect
from .states import NONZERO, Env, asks, call_name, gets, held, origin, shown


class Effects(Locking):
    """The instructions of a block."""

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
            target = self.written(env, target)
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
                known = self.prepared.classes.get(ins.operand)
                if known is not None:
                    self.prepared.classes.setdefault(operand, known)
        elif not simple and operand[:1] not in '#?"&@%' and root(operand) == operand != root(target):
            env.facts["~" + target] = operand  # stored: a lock behind it can be reached that way, too

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
            envs = self.apply_summary(env, ins, ins.summary, arguments)
            for one in envs if ins.result else ():
                self._returned(one, ins, arguments)
            return envs
        if ins.summary is not None:
            self.check_order(env, ins, ins.summary, arguments)
        if ins.result:
            self.forget(env, ins.result)
            self._returned(env, ins, arguments)
        return [env]

    def _returned(self, env: Env, ins: Call, arguments: list[str]) -> None:
        """What a call's name says of the value it returned, where nothing better is known."""
        if self.rules.creates_any(bare(ins.callee)):
            env.facts["+" + ins.result] = POSITIVE
        known = ins.result in env.facts or any(under(key, ins.result) for key in env.locks)
        if ins.result[0] == "%" and ins.callee[0] != "*" and not known and "~" + ins.result not in env.facts:
            self._name_result(env, ins, arguments)

    @staticmethod
    def _name_result(env: Env, ins: Call, arguments: list[str]) -> None:
        """A lock that is named by the same call twice is the same lock; what the call says may differ."""
        name = call_name(bare(ins.callee), arguments)
        if not asks(bare(ins.callee)):
            same = gets(bare(ins.callee))
            for known in [n for n in env.facts if n == name or (n[0] == "?" and name in n and not same)]:
                del env.facts[known]
        env.facts["~" + ins.result] = name

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

    def _unknown(self, env: Env, path: str) -> None:
        """Something else may have written to a variable whose address it got."""
        self.changed(env, path)
        for name in [n for n in env.facts if n[0] not in "~?" and under(n, path)]:
            del env.facts[name]

    def _behind(self, env: Env, path: str) -> None:
        """Something else may have written behind a pointer it got, but not to a pointer that names a lock."""
        for name in [n for n in env.facts if n != path and n[0] not in "~?" and under(n, path)]:
            if name not in self.classes:
                del env.facts[name]

    def apply(self, env: Env, ins: Call, effect: Effect, arguments: list[str]) -> list[Env]:
        """What the rules say a call does."""
        operation = effect.operation
        if operation == "fetch":
            return self.fetch(env, ins, effect)
        if operation in ("recursive_init", "recursive_kind", "init"):
            if ins.result:
                self.forget(env, ins.result)
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
        unnamed = key[:1] == "%" and key[1:].isdigit() and effect.argument >= 0
        if not key or key[:1] in '#?"' or unnamed:  # a lock that only a call's result names
            if ins.result:
                self.forget(env, ins.result)
            return [env]
        if operation == "steal":
            self.steal(env, key, ins.result)
            return [env]
        if operation != "destroy":
            self.classes[key] = effect.lock
        if operation == "asks":
            return self.ask(env, ins, effect, key)
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
                for path in self.prepared.interesting:  # the loop that a guard's macro is made of is entered
                    if path.startswith(f"{ins.result}."):
                        env.facts[self.resolve(env, path)] = POSITIVE
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

    def ask(self, env: Env, ins: Call, effect: Effect, key: str) -> list[Env]:
        """A call that says whether a lock is held: both ways, unless that is known."""
        yes = NONZERO if effect.success == ANY else effect.success
        answers = self.asked(env, key)
        out = []
        for answer, signs in ((POSITIVE, yes), (ZERO, ANY & ~yes)):
            if answers & answer:
                one = env.copy()
                self.answer(one, key, answer)
                if ins.result:
                    self.forget(one, ins.result)
                    one.facts[ins.result] = signs
                out.append(one)
        return out

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
        if self.two_level:
            self.acquire(got, line, f"{FETCHED}{self.identity(key)}", "")
        got.locks[key] = "L"
        self.taken_at.setdefault(key, line)
        return [got, none]

    def destroy(self, env: Env, key: str, effect: Effect) -> None:
        """The last reference to an object that was created locked here goes: its lock goes with it."""
        now = env.locks.get(key, "")
        callee, _ = origin(now)
        new = "+" + key in env.facts and held(now or None)
        if new or (callee and self.rules.creates(effect.lock, bare(callee))):
            del env.locks[key]

    def wait(self, env: Env, line: int, key: str) -> None:
        """A condition is waited for: the lock must be held, is given up meanwhile, and is held again."""
        now = env.locks.get(key)
        if now is not None and now[0] in "UR" and not weak(key):
            what = f"a condition is waited for with {shown(key)}, which is unlocked"
            self.report("wait-unlocked", line, key, what, self._typed(key))
        elif now is None and not self.entry and not self._local(key):
            self.need(env, key, "held")
            env.locks[key] = "H"
        for name in [n for n in env.facts if n[0] not in "~?" and root(n) != n]:
            del env.facts[name]

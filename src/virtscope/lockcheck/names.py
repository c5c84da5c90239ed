"""Names in one function: aliases, values that are known, and which lock of the program a path is."""

from __future__ import annotations

import re
from typing import Any

from .findings import Finding
from .liveness import targets
from .paths import rebase, root, under, variables
from .prepare import Prepared
from .results import Candidate, Edge, Result
from .rules import ANY, POSITIVE, ZERO, RuleSet
from .states import NONZERO, Env, Locks, held, shown, sign, type_name
from .summaries import Conditions, inward, seen_value

_CALLED = re.compile(r"%\d+")
_LAST_FIELD = re.compile(r"(?:->|\.)(\w+)(?:\[[^\[\]]*\])*$")

Exit = tuple[int, int, str, Locks, Conditions]
"""A way out: its line, the signs of what it returns, the path it returns, the locks, what is known."""


class Names:
    """What all layers of the data flow share: the function, the rules, the states, and what paths mean.

    Args:
        prepared: the function.
        rules: the rule set.
        entry: nothing is locked when it is called, and nothing may be when it returns.
    """

    def __init__(self, prepared: Prepared, rules: RuleSet, entry: bool) -> None:
        self.prepared = prepared
        self.function = prepared.function
        self.rules = rules
        self.entry = entry
        self.two_level = bool(rules.driver)
        self.result = Result()
        self.states: list[dict[Locks, dict[str, Any]]] = [{} for _ in prepared.code]
        self.parents: dict[tuple[int, Locks], tuple[int, Locks] | None] = {}
        self.exits: list[Exit] = []
        self.classes: dict[str, str] = {}
        self.identities: dict[str, str] = {}
        self.taken_at: dict[str, int] = {}
        self.found: dict[tuple[str, int, str], Finding] = {}
        self.places: dict[tuple[str, int, str], tuple[int, Locks]] = {}
        self.pending: dict[tuple[str, str, int], Candidate] = {}
        self.edges: dict[tuple[str, str], Edge] = {}
        self.endings: dict[tuple[int, Locks], tuple[int, Locks]] = {}
        self.handed_over: dict[str, str] = {}
        self.handed_at: set[tuple[int, str]] = set()
        self.took: set[str] = set()
        self.gave: set[str] = set()
        self.retaken: set[str] = set()
        self.taken_in: dict[str, int] = {}
        self.fetched: set[str] = set()
        self.relocked: set[str] = set()
        self.initial: dict[str, Any] = {
            f"={name}": POSITIVE
            for name, variable in prepared.variables.items()
            if variable.kind == "param" and name in prepared.assigned
        }
        self.initial |= {
            f"=*{name}": POSITIVE
            for name, variable in prepared.variables.items()
            if variable.kind == "param" and "**" in variable.type.replace(" ", "")
        }
        self.returning = _returning(prepared.ends)
        self.families: dict[str, str] = {}
        self.parts: list[list[Exit]] = []
        self.work: list[tuple[int, int, Locks]] = []
        self.waiting: set[tuple[int, Locks]] = set()
        self.here: tuple[int, Locks] = (0, ())

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

    def written(self, env: Env, target: str) -> str:
        """What an assignment writes to: ``*pp`` is the variable that ``pp`` points to, not what that stands
        for.
        """
        for _ in range(6):
            start = root(target)
            alias = env.facts.get("~" + start)
            if alias is None or start == target:
                break
            target = rebase(target, start, alias)
        return target

    def text(self, env: Env, text: str, truth: bool) -> tuple[str, bool]:
        """An expression of no known shape with the calls in it named, and its truth; ``!=`` is ``==`` turned
        round.
        """
        names = self.prepared.texts.get(text, [])
        if text.startswith("?(!= "):
            text, truth = "?(== " + text[5:], not truth
        calls = set(_CALLED.findall(text))
        named = {c: env.facts["~" + c] for c in calls if env.facts.get("~" + c, "")[:1] == "%"}
        if named:
            text = _CALLED.sub(lambda m: named.get(m[0], m[0]), text)
        if text not in self.prepared.texts:
            self.prepared.texts[text] = [*names, *re.findall(r"%\d+|[@\w]+", text)]
        return text, truth

    @staticmethod
    def changed(env: Env, name: str) -> None:
        """A parameter gets another value: what is known of the one that the caller gave is kept."""
        if env.facts.pop("=" + name, None) is not None:
            mask = env.facts.get(name, ANY)
            if mask != ANY:
                env.facts["$" + name] = mask

    def forget(self, env: Env, path: str) -> None:
        """A path gets a new value: what was known under its name is no longer known."""
        facts = env.facts
        plain = root(path) == path
        facts.pop("~" + path, None)
        facts.pop("+" + path, None)
        self.changed(env, path)
        field = None if plain else _LAST_FIELD.search(path)
        follower = next(
            (n[1:] for n, v in facts.items() if n[0] == "~" and v == path and root(n[1:]) == n[1:]), None
        )
        for name in list(facts):
            if name[0] == "~":
                if root(name[1:]) != name[1:] and (
                    under(name[1:], path) or (plain and path in variables(name[1:]))
                ):
                    del facts[name]
                    continue
                amp = facts[name].startswith("&")
                target = facts[name][amp:]
                if follower is not None and name[1:] != follower and under(target, path):
                    facts[name] = "&" * amp + follower + target[len(path) :]
                elif under(target, path) or (plain and path in variables(target)):
                    del facts[name]
            elif name[0] == "?":
                if field is not None and not re.search(rf"(?:->|\.){field[1]}\b", name):
                    continue  # another field is written
                if root(path) in self.prepared.texts.get(name, ()):
                    del facts[name]
            elif under(name, path) or (plain and path in variables(name)):
                del facts[name]
        for key in list(env.locks):
            if under(key, path) or (plain and path in variables(key)):
                status = env.locks.pop(key)
                if key.endswith("~"):
                    env.locks[key] = status
                elif status[0] == "R" and key == path and path[0] == "*":
                    env.locks[key] = status  # the caller's pointer is changed; it was that lock that went
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

    def advance(self, env: Env, target: str, operand: str) -> None:
        """``p = p->next``: what was known of the next one is known of ``p`` now."""
        moved = {k: env.locks.pop(k) for k in list(env.locks) if under(k, operand) and not k.endswith("~")}
        known = {k: v for k, v in env.facts.items() if k[0] not in "~?" and under(k, operand)}
        self.forget(env, target)
        for key, status in moved.items():
            self.rename(env, key, target + key[len(operand) :], status)
        for name, mask in known.items():
            env.facts[target + name[len(operand) :]] = mask

    def learn(self, env: Env, path: str, mask: int) -> None:
        """Remembers a value's sign; a lock behind a pointer that is NULL is not held."""
        if path[:1] in '#?"&@' and not path.startswith("@"):
            return
        if mask != ANY:
            env.facts[path] = mask

    def value(self, env: Env, operand: str) -> int:
        """The signs an operand may have."""
        if operand[:1] == "#":
            return sign(int(operand[1:]))
        if operand[:1] in ("&", '"'):
            return POSITIVE
        known = env.facts.get(operand, ANY)
        mask = known if isinstance(known, int) else ANY
        if mask & ZERO:
            for key, status in env.locks.items():
                if status[0] in "LSH" and key.startswith(operand) and key[len(operand) :][:2] in ("", "->"):
                    return mask & NONZERO or NONZERO  # what is locked is there
        return mask

    def conditions(self, env: Env) -> Conditions:
        """What is known of values, and of locks when the function was called, that the caller knows too."""
        out = []
        for path, mask in env.facts.items():
            if path[0] == "^":
                out.append((path, mask))
            elif path[0] == "$":
                out.append((seen_value(self.function, path[1:]), mask))
            elif (
                path[0] not in "~?%+="
                and (path[0] != "*" or "=" + path in env.facts)
                and all("=" + name in env.facts for name in self.prepared.assigned & {path, *variables(path)})
            ):
                seen = seen_value(self.function, path)
                if seen:
                    out.append((seen, mask))
        return tuple(sorted(out))

    def could(self, env: Env, conditions: Conditions, arguments: list[str]) -> bool:
        """Whether what is known agrees with conditions of a called function."""
        return all(self.signs(env, theirs, arguments)[1] & mask for theirs, mask in conditions)

    def signs(self, env: Env, theirs: str, arguments: list[str]) -> tuple[str, int]:
        """What a called function's value, or its lock, is here, and the signs it may have."""
        if theirs[0] == "^":
            return theirs[1:], self.asked(env, theirs[1:])
        start = root(theirs)
        if theirs == start and start[0] == "$":
            index = int(start[1:])
            path = arguments[index] if index < len(arguments) else ""
        else:
            path = self.resolve(env, inward(theirs, arguments, ""))
        return path, self.value(env, path) if path else ANY

    def asked(self, env: Env, key: str) -> int:
        """What the question whether a lock is held may have for an answer: ZERO for no, POSITIVE for yes."""
        now = env.locks.get(key)
        if now is None:
            return ZERO if self.entry else env.facts.get("^" + key, ZERO | POSITIVE)
        if now[0] == "P":
            return ZERO | POSITIVE
        return POSITIVE if held(now) else ZERO

    def handed(self, env: Env, key: str) -> str:
        """Another path to a lock that starts from a variable here: where a pointer to it was stored."""
        start = root(key)
        for name, value in env.facts.items():
            if name[0] == "~" and value == start and root(name[1:]) != name[1:]:
                return name[1:] + key[len(start) :]
        return ""

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
                return type_name(known[1])
            variable = self.function.variables.get(root(path))
            if variable is not None and root(path) == path and variable.names:
                return type_name(variable.names[-1])
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

    def field(self, key: str) -> str:
        """``Record.field`` of a lock that is reached through one, or is one."""
        path = key.rstrip("~")
        if "->" not in path and "." not in path:
            return ""
        known = self.prepared.classes.get(path)
        return known[0] if known else self.identities.get(path, "")

    def recursive(self, key: str) -> bool:
        """Whether a lock may be taken while it is held."""
        lock = self.rules.locks.get(self.classes.get(key, ""))
        return lock is not None and (lock.recursive or self.identity(key) in self.rules.recursive)

    def over(self, key: str, status: str) -> bool:
        """Whether releasing a lock that was released is a mistake: one that may be taken again may be
        released again, unless it came locked from a call here and was not taken since.
        """
        if not self.recursive(key):
            return True
        return status[0] == "U" and key in self.fetched and key not in self.relocked

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


def _returning(ends: list[Any]) -> set[int]:
    """The blocks from which the function may return; on the others' ways the program ends."""
    before: dict[int, list[int]] = {}
    for number, end in enumerate(ends):
        for target in targets(end):
            before.setdefault(target, []).append(number)
    out = {number for number, end in enumerate(ends) if end is not None and end[0] in ("R", "E")}
    stack = list(out)
    while stack:
        for number in before.get(stack.pop(), ()):
            if number not in out:
                out.add(number)
                stack.append(number)
    return out

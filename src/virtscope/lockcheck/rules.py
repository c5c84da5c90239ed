"""Rule sets: which functions lock what, what must hold when, as TOML data.

:func:`load` is the entry point; ``docs/lockcheck-rules.md`` explains how to write a set. A mistake in a
file is named with its place and, where a word looks like a known one, the suggestion.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Any

from ..errors import UsageError

NEGATIVE, ZERO, POSITIVE = 1, 2, 4
"""Signs a value may have, as bits; a pointer is ZERO or POSITIVE."""
ANY = 7

_SUCCESS = {
    "zero": ZERO,
    "nonzero": NEGATIVE | POSITIVE,
    "negative": NEGATIVE,
    "positive": POSITIVE,
    "not-negative": ZERO | POSITIVE,
    "true": NEGATIVE | POSITIVE,
    "false": ZERO,
    "null": ZERO,
    "nonnull": POSITIVE,
}

CHECKS = {
    "driver-unlocked": "a driver variable is used while no driver is locked",
    "object-unlocked": "an object variable is used while it is unlocked",
    "object-lock-no-driver": "an object is locked or fetched while no driver is locked",
    "driver-after-object": "a driver is locked while an object is",
    "fetch-second-object": "an object is fetched while another is locked",
    "exit-locked": "a lock is still held at an exit",
    "exit-unlocked": "a lock of the caller's is left released that is taken back on other ways",
    "not-as-described": "a function does not do to a lock what the rule set says it does",
    "double-lock": "a lock is taken while it is held already",
    "double-unlock": "a lock is released that was released already",
    "unlock-unlocked": "a lock is released that is not held",
    "lock-order": "two locks are taken in both orders",
    "forbidden-call": "a function is called that must not be, with this lock held",
    "wait-unlocked": "a condition is waited for without its lock",
}
"""Every kind of mistake and what it means."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What a call does to a lock.

    Attributes:
        operation: lock, shared, unlock, trylock, tryshared, fetch, guard, release, wait, asks, destroy,
            steal, recursive_init, recursive_kind or init.
        lock: the name of the lock class.
        argument: which argument is the lock: its index, -1 for the returned value, -2 for none (one lock
            without a variable).
        success: the signs of the returned value that mean the lock was taken; ANY when it always is.
        failure: the signs that mean it was not; all others by default.
        clears: the variable whose address is passed is NULL afterwards.
    """

    operation: str
    lock: str
    argument: int
    success: int = ANY
    failure: int = 0
    clears: bool = False


@dataclass(frozen=True, slots=True)
class LockClass:
    """A kind of lock.

    Attributes:
        name: what reports call it.
        types: the types whose variables are tracked (for the two-level rule) or that the lock functions take.
        identity: ``path`` (two locks are the same kind when they are the same field of the same struct) or
            ``type``.
        recursive: taking it again while it is held is allowed.
        order: whether it takes part in the lock-order check.
        facet: another lock of the same object, which its functions take the object for.
        created: globs of functions that return a new object locked; destroying it needs no unlock.
    """

    name: str
    types: tuple[str, ...] = ()
    identity: str = "path"
    recursive: bool = False
    order: bool = True
    created: tuple[str, ...] = ()
    facet: bool = False


@dataclass(frozen=True, slots=True)
class Forbidden:
    """Calls that must not be made while a lock is held."""

    calls: tuple[str, ...]
    under: tuple[str, ...]
    reason: str


@dataclass(slots=True)
class RuleSet:
    """A validated rule set.

    Attributes:
        entries: struct types whose initialisers name the entry points; empty means every function is looked
            at.
        driver, gets: the outer and the inner lock class of the two-level rule, or empty.
        defines: macros that make the code easier to read; the files are parsed with them.
        checks: the kinds of mistake reported.
        recursive: identities of locks that some call makes recursive; known once the program is.
        takes: matches names of functions that may return with a lock held.
        gives: matches names of functions that may release a lock of their caller's.
        skip_order: globs of functions whose locks do not count in the order of their callers' locks.
    """

    name: str
    title: str = ""
    entries: tuple[str, ...] = ()
    locks: dict[str, LockClass] = field(default_factory=dict)
    functions: list[tuple[str, Effect]] = field(default_factory=list)
    driver: str = ""
    object: str = ""
    checks: frozenset[str] = frozenset(CHECKS)
    order: tuple[tuple[str, ...], ...] = ()
    forbidden: tuple[Forbidden, ...] = ()
    takes: str = ""
    gives: str = ""
    never_returns: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()
    skip_functions: tuple[str, ...] = ()
    skip_files: tuple[str, ...] = ()
    skip_order: tuple[str, ...] = ()
    text: str = ""
    recursive: frozenset[str] = frozenset()
    _exact: dict[str, list[Effect]] = field(default_factory=dict)
    _globs: list[tuple[re.Pattern[str], Effect]] = field(default_factory=list)
    _takes: re.Pattern[str] | None = None
    _gives: re.Pattern[str] | None = None
    _skips: re.Pattern[str] | None = None
    _unordered: re.Pattern[str] | None = None
    _forbids: dict[str, list[Forbidden]] = field(default_factory=dict)
    _creates: dict[str, bool] = field(default_factory=dict)
    _kinds: dict[str, frozenset[str]] = field(default_factory=dict)

    def prepare(self) -> None:
        """Compiles the patterns."""
        for pattern, effect in self.functions:
            if any(c in pattern for c in "*?["):
                self._globs.append((re.compile(translate(pattern)), effect))
            else:
                self._exact.setdefault(pattern, []).append(effect)
        self._takes = re.compile(self.takes) if self.takes else None
        self._gives = re.compile(self.gives) if self.gives else None
        self._skips = _any_of(self.skip_functions)
        self._unordered = _any_of(self.skip_order)

    def effects(self, function: str) -> list[Effect]:
        """What a call of the function (its bare name) does to locks."""
        known = self._exact.get(function)
        if known is None:
            known = [e for pattern, e in self._globs if pattern.match(function)]
            self._exact[function] = known
        return known

    def forbids(self, function: str) -> list[Forbidden]:
        """The rules a call of the function may break."""
        if function not in self._forbids:
            self._forbids[function] = [
                f for f in self.forbidden if any(re.match(translate(p), function) for p in f.calls)
            ]
        return self._forbids[function]

    def creates(self, lock: str, function: str) -> bool:
        """Whether a function makes new objects of a lock class."""
        return any(re.match(translate(g), function) for g in self.locks[lock].created)

    def creates_any(self, function: str) -> bool:
        """Whether a function makes new objects of some lock class."""
        if function not in self._creates:
            self._creates[function] = any(self.creates(lock, function) for lock in self.locks)
        return self._creates[function]

    def may_take(self, function: str) -> bool:
        """Whether the function's name says that it locks for its caller."""
        return self._takes is not None and self._takes.search(function) is not None

    def may_give(self, function: str) -> bool:
        """Whether the function's name says that it unlocks for its caller."""
        return self._gives is not None and self._gives.search(function) is not None

    def kinds(self, lock: str) -> frozenset[str]:
        """The plain names of a lock class's types, as they identify it in the order of locks."""
        if lock not in self._kinds:
            names = (t.removeprefix("struct ").lstrip("_") for t in self.locks[lock].types)
            self._kinds[lock] = frozenset(names)
        return self._kinds[lock]

    def unordered(self, function: str) -> bool:
        """Whether the locks that a called function takes are left out of the order of locks."""
        return self._unordered is not None and self._unordered.match(function) is not None

    def skips(self, function: str) -> bool:
        """Whether the rule set leaves this function out."""
        return self._skips is not None and self._skips.match(function) is not None


def _any_of(globs: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile("|".join(translate(g) for g in globs)) if globs else None


def shipped() -> list[str]:
    """The names of the rule sets that come with virtscope."""
    folder = os.path.join(os.path.dirname(__file__), "rules")
    return sorted(n.removesuffix(".toml") for n in os.listdir(folder) if n.endswith(".toml"))


def load(name: str) -> RuleSet:
    """A shipped rule set by name, or one from a file.

    Raises:
        UsageError: there is none of that name, or the file has a mistake; the message has the place and a
            suggestion.
    """
    rules = RuleSet(name=os.path.basename(name).removesuffix(".toml"))
    _merge(rules, name, [])
    rules.prepare()
    return rules


def _read(name: str) -> tuple[str, str]:
    path = name
    if os.sep not in name and not name.endswith(".toml"):
        path = os.path.join(os.path.dirname(__file__), "rules", f"{name}.toml")
        if not os.path.exists(path):
            near = difflib.get_close_matches(name, shipped(), 1)
            hint = (
                f": did you mean {near[0]}?"
                if near
                else f": there are {', '.join(shipped())}, or name a file"
            )
            raise UsageError(f"no rule set is called {name}{hint}")
    try:
        with open(path, encoding="utf-8") as stream:
            return path, stream.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"{path}: cannot read the rule set: {reason}") from None


_TOP: tuple[str, ...] = (
    "name",
    "title",
    "include",
    "entries",
    "lock",
    "two_level",
    "checks",
    "order",
    "forbid",
    "takes",
    "gives",
)
_TOP = (*_TOP, "never_returns", "defines", "skip")
_OPERATIONS: tuple[str, ...] = (
    "lock",
    "shared",
    "unlock",
    "trylock",
    "tryshared",
    "fetch",
    "guard",
    "release",
    "wait",
    "asks",
    "destroy",
    "steal",
    "recursive_init",
    "recursive_kind",
    "init",
)
_LOCK = ("name", "types", "identity", "recursive", "ordered", "created", "facet", *_OPERATIONS)
_FUNCTION = ("function", "argument", "success", "failure", "clears")


def _merge(rules: RuleSet, name: str, above: list[str]) -> None:
    path, text = _read(name)
    if path in above:
        raise UsageError(f"{path}: the rule set includes itself")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}") from None
    source = _Source(path, text)
    source.known(data, _TOP, "the rule set")
    for other in source.strings(data, "include"):
        near = os.path.join(os.path.dirname(path), other)
        _merge(rules, near if other.endswith(".toml") else other, [*above, path])
    rules.text += text
    rules.title = str(data.get("title", rules.title))
    rules.entries += source.strings(data, "entries")
    rules.never_returns += source.strings(data, "never_returns")
    rules.defines += source.strings(data, "defines")
    for row in source.tables(data, "lock"):
        _lock(rules, source, row)
    if "two_level" in data:
        row = data["two_level"]
        if not isinstance(row, dict):
            source.wrong("two_level", "is a table with driver and object")
        source.known(row, ("driver", "object"), "[two_level]")
        rules.driver, rules.object = str(row.get("driver", "")), str(row.get("object", ""))
        for role, lock in (("driver", rules.driver), ("object", rules.object)):
            source.one_of(role, lock, tuple(rules.locks))
    if "checks" in data:
        checks = source.strings(data, "checks")
        for check in checks:
            source.one_of("checks", check, tuple(CHECKS))
        rules.checks = frozenset(checks)
    if "order" in data:
        chains = data["order"]
        if not isinstance(chains, list) or not all(isinstance(c, list) for c in chains):
            source.wrong("order", "is a list of lists of lock names, outermost first")
        rules.order += tuple(tuple(str(x) for x in chain) for chain in chains)
    for row in source.tables(data, "forbid"):
        source.known(row, ("calls", "under", "reason"), "[[forbid]]")
        under = source.strings(row, "under") or ("*",)
        rules.forbidden += (Forbidden(source.strings(row, "calls"), under, str(row.get("reason", ""))),)
    for key in ("takes", "gives"):
        if key in data:
            try:
                re.compile(str(data[key]))
            except re.error as error:
                source.wrong(key, f"is no regular expression: {error}")
    rules.takes = str(data.get("takes", rules.takes))
    rules.gives = str(data.get("gives", rules.gives))
    skip = data.get("skip", {})
    if not isinstance(skip, dict):
        source.wrong("skip", "is a table with functions, files and order")
    source.known(skip, ("functions", "files", "order"), "[skip]")
    rules.skip_order += source.strings(skip, "order")
    rules.skip_functions += source.strings(skip, "functions")
    rules.skip_files += source.strings(skip, "files")


def _lock(rules: RuleSet, source: _Source, row: dict[str, Any]) -> None:
    source.known(row, _LOCK, "[[lock]]")
    name = row.get("name")
    if not isinstance(name, str) or not name:
        source.wrong("lock", "needs a name")
    identity = str(row.get("identity", "path"))
    source.one_of("identity", identity, ("path", "type"))
    rules.locks[str(name)] = LockClass(
        str(name),
        source.strings(row, "types"),
        identity,
        bool(row.get("recursive", False)),
        bool(row.get("ordered", True)),
        source.strings(row, "created"),
        bool(row.get("facet", False)),
    )
    for operation in _OPERATIONS:
        for item in row.get(operation, []) if isinstance(row.get(operation, []), list) else [row[operation]]:
            rules.functions.append(_effect(source, operation, str(name), item))


def _effect(source: _Source, operation: str, lock: str, item: Any) -> tuple[str, Effect]:
    if isinstance(item, str):
        item = {"function": item}
    if not isinstance(item, dict):
        source.wrong(
            operation, "is a list of function names, or of tables with function, argument, success, clears"
        )
    source.known(item, _FUNCTION, f"a function under {operation}")
    function = str(item.get("function", ""))
    argument: Any = item.get("argument", -1 if operation == "fetch" else 0)
    if ":" in function:
        function, _, argument = function.partition(":")
    if argument in ("return", "result"):
        argument = -1
    elif argument == "none":
        argument = -2
    try:
        argument = int(argument)
    except (TypeError, ValueError):
        source.wrong(function, f'has argument "{argument}": a number, "return" or "none" was expected')
    success = ANY
    if "success" in item:
        source.one_of("success", str(item["success"]), tuple(_SUCCESS))
        success = _SUCCESS[str(item["success"])]
    elif operation in ("trylock", "tryshared"):
        source.wrong(operation, f"{function}: say which result means success (one of {', '.join(_SUCCESS)})")
    failure = ANY & ~success
    if "failure" in item:
        source.one_of("failure", str(item["failure"]), tuple(_SUCCESS))
        failure = _SUCCESS[str(item["failure"])]
    if not re.fullmatch(r"[\w*?\[\]!-]+", function):
        source.wrong(operation, f'"{function}" is no function name')
    return function, Effect(operation, lock, argument, success, failure, bool(item.get("clears", False)))


class _Source:
    """The text of a rule file, to say where in it a mistake is."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.lines = path, text.splitlines()

    def wrong(self, word: str, problem: str) -> None:
        where = next(
            (
                i
                for i, line in enumerate(self.lines, 1)
                if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", line)
            ),
            0,
        )
        place = f"{self.path}:{where}" if where else self.path
        raise UsageError(f"{place}: {word} {problem}")

    def known(self, row: dict[str, Any], words: tuple[str, ...], place: str) -> None:
        for key in row:
            if key not in words:
                near = difflib.get_close_matches(key, words, 1)
                hint = f": did you mean {near[0]}?" if near else f": there are {', '.join(words)}"
                self.wrong(key, f"is not a key of {place}{hint}")

    def one_of(self, key: str, word: str, words: tuple[str, ...]) -> None:
        if word not in words:
            near = difflib.get_close_matches(word, words, 1)
            hint = f": did you mean {near[0]}?" if near else f": there are {', '.join(words)}"
            self.wrong(word or key, f"is no {key.replace('_', ' ')}{hint}")

    def strings(self, row: dict[str, Any], key: str) -> tuple[str, ...]:
        value = row.get(key, [])
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
            self.wrong(key, "is a list of strings")
        return tuple(value)

    def tables(self, data: dict[str, Any], key: str) -> list[dict[str, Any]]:
        value = data.get(key, [])
        if not isinstance(value, list) or not all(isinstance(x, dict) for x in value):
            self.wrong(key, f"is written as [[{key}]]")
        return list(value)

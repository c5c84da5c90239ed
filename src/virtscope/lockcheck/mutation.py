"""Plants mistakes in a program's graphs to measure how many of them are found.

:func:`measure` is the entry point. In functions without findings each call that locks or unlocks is left
out once, and made twice once; the whole program is followed again after each. Left alone are calls whose
absence or repetition is not a mistake: locks that may be taken again (shared ones too), unlocks that leave
NULL behind, and calls whose result is used (a try-lock that is made twice is a different program).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .ir import Function
from .prepare import bare
from .program import Program, analyse_program, lock_identity
from .rules import RuleSet


@dataclass(frozen=True, slots=True)
class Mutant:
    """One planted mistake: a call left out, or made twice.

    Attributes:
        function: the key of the function.
        block, index: where the call is in it.
        how: ``delete`` or ``duplicate``.
    """

    function: str
    block: int
    index: int
    how: str
    line: int
    callee: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the mutants.

    Attributes:
        found: those with a finding that was not there before.
        missed: the others.
    """

    found: tuple[Mutant, ...]
    missed: tuple[Mutant, ...]

    @property
    def rate(self) -> float:
        """The share that was found; 1 when there was none to find."""
        total = len(self.found) + len(self.missed)
        return len(self.found) / total if total else 1.0


def mutants(program: Program, clean: set[str]) -> Iterator[Mutant]:
    """Every mutant of the clean functions."""
    for key in sorted(clean):
        function = program.functions[key]
        for number, block in enumerate(function.blocks):
            for index, ins in enumerate(block.code):
                if ins[0] == "C" and _changes(program.rules, ins):
                    shared = program.rules.effects(bare(ins[2]))[0].operation == "shared"
                    once = shared or _again(program, function, ins)
                    for how in ("delete",) if once else ("delete", "duplicate"):
                        yield Mutant(key, number, index, how, ins[1], ins[2])


def _again(program: Program, function: Function, ins: Any) -> bool:
    """Whether a call is about a lock that some call made recursive."""
    at = program.rules.effects(bare(ins[2]))[0].argument
    path = ins[3][at].removeprefix("&") if 0 <= at < len(ins[3]) else ""
    return any(name in program.rules.recursive for name in lock_identity(function, path))


def _changes(rules: RuleSet, ins: list[object]) -> bool:
    effects = rules.effects(bare(str(ins[2])))
    if len(effects) != 1 or ins[4]:
        return False
    effect = effects[0]
    plain = effect.operation in ("lock", "unlock", "shared") and not effect.clears
    return plain and not rules.locks[effect.lock].recursive


def measure(program: Program, limit: int = 0, seed: int = 1) -> Outcome:
    """Plants mistakes, one at a time.

    Args:
        program: functions and entry points, as :func:`~.program.collect` makes it; left as it was.
        limit: try a random sample of so many; 0 for all.
        seed: of the sample.
    """
    analyse_program(program)
    program = _core(program)
    known: dict[str, list[object]] = {}
    base = {(f.kind, f.file, f.function, f.message) for f in analyse_program(program, None, known)}
    faulty = {(file, name) for _, file, name, _ in base}
    shown = program.entries if program.rules.entries else set(program.functions)
    clean = {k for k in shown if (program.functions[k].file, program.functions[k].name) not in faulty}
    every = list(mutants(program, clean))
    if limit and len(every) > limit:
        every = random.Random(seed).sample(every, limit)
    found: list[Mutant] = []
    missed: list[Mutant] = []
    for mutant in every:
        function = program.functions[mutant.function]
        code = function.blocks[mutant.block].code
        whole, digest = list(code), function.digest
        if mutant.how == "delete":
            del code[mutant.index]
        else:
            code.insert(mutant.index, code[mutant.index])
        function.digest = f"{digest}/{mutant.block}/{mutant.index}/{mutant.how}"
        now = analyse_program(_fresh(program), None, dict(known))
        new = {(f.kind, f.file, f.function, f.message) for f in now} - base
        (found if new else missed).append(mutant)
        code[:] = whole
        function.digest = digest
    return Outcome(tuple(found), tuple(missed))


def _core(program: Program) -> Program:
    """The part in which lock states change; the rest would be found the same each time."""
    changing = {k for k, s in program.summaries.items() if s.changes}
    core = {}
    for key, function in program.functions.items():
        called = [ins[2] for block in function.blocks for ins in block.code if ins[0] == "C"]
        if key in changing or any(c in changing or program.rules.effects(bare(c)) for c in called):
            core[key] = function
    return Program(program.rules, core, program.entries & set(core))


def _fresh(program: Program) -> Program:
    return Program(program.rules, program.functions, program.entries)


def with_digests(functions: dict[str, Function]) -> None:
    """Gives functions that did not come through the cache the hashes that make repeated runs quick."""
    from .cache import digest

    for function in functions.values():
        if not function.digest:
            function.digest = digest(function.to_json())

"""Why a finding is one: the statements from the entry to the mistake, with the lock state after each.

:func:`explain` is the entry point.
"""

from __future__ import annotations

from dataclasses import dataclass

from .dataflow import Flow
from .findings import Finding
from .paths import root
from .prepare import Set, prepare
from .program import Program
from .states import Env, Locks, held, key_of, locks_of, shown
from .suppress import Sources


@dataclass(frozen=True, slots=True)
class Step:
    """One statement on the way to a mistake.

    Attributes:
        line: where it is.
        code: the source line.
        state: the locks that are known to be held or released after it, each with the word for it.
    """

    line: int
    code: str
    state: tuple[tuple[str, str], ...]


_WORDS = {"L": "locked", "S": "locked shared", "U": "unlocked", "H": "locked", "R": "unlocked", "P": "maybe"}


def state_words(locks: Locks) -> tuple[tuple[str, str], ...]:
    """A lock state for people; a lock whose name was given up to another value is marked."""
    return tuple(
        (shown(k) + (" (earlier)" if k.endswith("~") else ""), _WORDS[s[0]]) for k, s in locks if k[0] != "="
    )


def follow(program: Program, key: str) -> Flow:
    """The data flow of one function, with the summaries of the whole program."""
    function = program.functions[key]
    flow = Flow(prepare(function, program.rules, program.summaries), program.rules, key in program.entries)
    flow.run()
    flow.finish()
    return flow


def explain(program: Program, finding: Finding, sources: Sources) -> list[Step]:
    """The way to a finding, one step for each line with something that matters; empty when there is none."""
    keys = [k for k, f in program.functions.items() if f.name == finding.function and f.file == finding.file]
    if not keys:
        return []
    flow = follow(program, keys[0])
    place = _place(flow, finding)
    if place is None:
        return []
    ways: list[tuple[int, Locks]] = [place]
    while (before := flow.parents.get(ways[-1])) is not None and before not in ways:
        ways.append(before)
    ways.reverse()
    steps: list[Step] = []
    for i, (number, locks) in enumerate(ways):
        after = ways[i + 1][1] if i + 1 < len(ways) else None
        steps += _block(flow, number, locks, after, finding, sources)
        end = flow.prepared.ends[number]
        if end[0] in "BW" and end[1] and (not steps or steps[-1].line != end[1]):
            state = steps[-1].state if steps else state_words(locks)
            steps.append(Step(end[1], sources.line(finding.file, end[1]), state))
    code = sources.line(finding.file, finding.line)
    if not steps or steps[-1].line != finding.line:
        steps.append(Step(finding.line, code, steps[-1].state if steps else ()))
    return steps


def _place(flow: Flow, finding: Finding) -> tuple[int, Locks] | None:
    """The block and state in which a finding was made."""
    names = {name for name, _ in finding.variables}
    wanted = (finding.kind, finding.line)
    if finding.kind == "exit-locked":
        for (line, locks), here in flow.endings.items():
            if line == finding.line and names & {shown(k) for k, s in locks if held(s)}:
                return here
    found = [(key, here) for (kind, line, key), here in flow.places.items() if (kind, line) == wanted]
    for key, here in found:
        if shown(key) in names or root(key) in names:
            return here
    return found[0][1] if found else None


def _block(
    flow: Flow, number: int, locks: Locks, after: Locks | None, finding: Finding, sources: Sources
) -> list[Step]:
    """The steps of one block, along the outcome of its calls that leads to the next state."""
    start = Env(locks_of(locks), dict(flow.states[number].get(locks, {})))
    ways: list[tuple[Env, list[Step]]] = [(start, [])]
    for ins in flow.prepared.code[number]:
        longer: list[tuple[Env, list[Step]]] = []
        for env, steps in ways[:64]:
            if isinstance(ins, Set):
                flow.assign(env, ins)
                outcomes = [env]
            else:
                outcomes = list(flow.call(env, ins))
            for one in outcomes:
                state = state_words(tuple(sorted(one.locks.items())))
                step = Step(ins.line, sources.line(finding.file, ins.line), state)
                same = steps and steps[-1].line == ins.line
                longer.append((one, [*(steps[:-1] if same else steps), step] if ins.line else steps))
        ways = longer
    if not ways:
        return []
    for env, steps in ways:
        if after is not None and set(after) <= set(key_of(env, flow.prepared.told_apart)):
            return steps
    return ways[0][1]

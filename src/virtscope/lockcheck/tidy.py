"""A flow graph without detours: unreachable and empty blocks dropped, straight lines merged, blocks numbered.

:func:`tidy` is the entry point.
"""

from __future__ import annotations

from typing import Any

from .ir import Block


def tidy(blocks: list[Block]) -> list[Block]:
    """Drops unreachable blocks, merges straight lines, and numbers what is left from the entry on."""
    order, seen, stack = [], set(), [blocks[0]]
    while stack:
        block = stack.pop()
        if id(block) in seen:
            continue
        seen.add(id(block))
        if block.end is not None and block.end[0] == "J":
            block.end = ("J", _past_empty(block.end[1]))
        order.append(block)
        stack.extend(reversed(_targets(block.end)))
    predecessors: dict[int, int] = {id(order[0]): 1}
    for block in order:
        for target in _targets(block.end):
            predecessors[id(target)] = predecessors.get(id(target), 0) + 1
    gone: set[int] = set()
    for block in order:
        if id(block) in gone:
            continue
        while block.end is not None and block.end[0] == "J":
            target = block.end[1]
            if predecessors[id(target)] != 1 or target is block or target is order[0]:
                break
            block.code.extend(target.code)
            block.end = target.end
            gone.add(id(target))
    order = [b for b in order if id(b) not in gone]
    number = {id(b): i for i, b in enumerate(order)}
    for block in order:
        block.end = _numbered(block.end, number)
    return order


def _past_empty(target: Block) -> Block:
    """Where a jump leads in the end; empty blocks may lead to each other for ever."""
    passed: set[int] = set()
    while not target.code and target.end is not None and target.end[0] == "J" and id(target) not in passed:
        passed.add(id(target))
        target = target.end[1]
    return target


def _targets(end: Any) -> list[Block]:
    if end is None or end[0] in ("R", "E", "H"):
        return []
    if end[0] == "J":
        return [end[1]]
    if end[0] == "B":
        return [end[3], end[4]]
    return [*(block for _, block in end[3]), end[4]]


def _numbered(end: Any, number: dict[int, int]) -> Any:
    if end is None:
        return ("H",)
    if end[0] == "J":
        return ("J", number[id(end[1])])
    if end[0] == "B":
        return (*end[:3], number[id(end[3])], number[id(end[4])])
    if end[0] == "W":
        return (*end[:3], [[values, number[id(b)]] for values, b in end[3]], number[id(end[4])])
    return end

"""What an expression's tree says without being evaluated: what it reads, whether it does anything, and how it
is written, so that the same test is recognised again.
"""

from __future__ import annotations

from typing import Any

EFFECTS = ("c", "=", "op", "{")


def has_effects(node: Any) -> bool:
    """Whether evaluating an expression calls or assigns."""
    stack = [node]
    while stack:
        item = stack.pop()
        if item[0] in EFFECTS:
            return True
        if item[0] in ("o", "g"):
            stack.extend(item[1])
        else:
            stack.extend(x for x in item[1:] if isinstance(x, tuple))
    return False


def compound(test: Any, names: list[str]) -> str:
    """An ``&&`` or ``||`` as text, if evaluating it changes nothing; else an empty string."""
    if test[0] not in ("&&", "||"):
        return ""
    stack = [test]
    while stack:
        item = stack.pop()
        if item[0] in ("=", "op", "{", "o", "g", "s"):
            return ""
        stack.extend(x for x in item[1:] if isinstance(x, tuple))
        if item[0] == "c":
            stack.extend(item[3])
    return written(test, names, 0)


def compounds(body: Any) -> dict[str, int]:
    """How often each compound test of an ``if`` occurs in a function."""
    out: dict[str, int] = {}
    stack = [body]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple) and item and item[0] == "ladder":
            for _, test, _ in item[1]:
                while test[0] == "!":
                    test = test[1]
                text = compound(test, [])
                if text:
                    out[text] = out.get(text, 0) + 1
        if isinstance(item, (tuple, list)):
            stack.extend(x for x in item if isinstance(x, (tuple, list)))
    return out


def reads(node: Any, uses: list[str]) -> None:
    """Adds every variable an expression mentions."""
    stack = [node]
    while stack:
        item = stack.pop()
        if item[0] == "v":
            uses.append(item[1])
        elif item[0] in ("o", "g"):
            stack.extend(item[1])
        else:
            stack.extend(x for x in item[1:] if isinstance(x, tuple))


def written(node: Any, names: list[str], depth: int) -> str:
    """An expression as text: equal texts over unchanged variables have equal values."""
    kind = node[0]
    if depth > 12 or kind == "o":
        reads(node, names)
        return f"?{id(node)}"
    if kind == "v":
        names.append(node[1])
        return str(node[1])
    if kind in ("n", "f"):
        return str(node[1])
    if kind == "c":
        inside = ", ".join(written(x, names, depth + 1) for x in node[3])
        return f"{written(node[2], names, depth + 1)}({inside})"
    if kind == "m":
        return f"{written(node[1], names, depth + 1)}.{node[2]}"
    parts = [written(x, names, depth + 1) for x in node[1:] if isinstance(x, tuple)]
    return f"({node[1] if kind == 'b' else kind} {' '.join(parts)})"

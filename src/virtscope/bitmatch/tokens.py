"""The text of a pattern, cut into words, numbers, strings and marks."""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import PatternError

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\f]+|\#[^\n]*|\\\r?\n)
      |(?P<newline>\n)
      |(?P<number>0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)
      |(?P<string>[bB]?(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
      |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
      |(?P<mark>\.\.\.|<<|>>|//|\*\*|==|!=|<=|>=|[-+*/%&|^~<>()\[\]{},.:;=])""",
    re.VERBOSE,
)


class Token(NamedTuple):
    """A piece of the text: kind is number, string, name, mark, newline or end."""

    kind: str
    text: str
    start: int
    end: int


def tokens(name: str, text: str) -> list[Token]:
    """All tokens of a text, comments and spaces left out, and one that marks the end."""
    found: list[Token] = []
    place = 0
    make = tuple.__new__
    for match in _TOKEN.finditer(text):
        start, end = match.span()
        if start != place:
            break
        place = end
        kind = match.lastgroup
        if kind != "space":
            found.append(make(Token, (kind, match.group(), start, end)))
    if place != len(text):
        raise PatternError(name, f"unexpected character {text[place]!r}", text, place)
    found.append(Token("end", "", len(text), len(text)))
    return found

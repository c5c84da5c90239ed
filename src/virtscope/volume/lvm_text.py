"""The text in which LVM2 writes its metadata: `parse`.

    vg0 {                            a section, of values and sections
        id = "Zx2t1q-..."            strings, in which \\ escapes a character
        seqno = 4                    integers
        status = ["READ", "WRITE"]   lists of strings and integers
        # a comment
    }

The grammar is that of lvm.conf(5); vgcfgbackup(8) writes the same text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from virtscope.errors import FormatError

if TYPE_CHECKING:
    Value = int | str | list[int | str] | dict[str, "Value"]
    Section = dict[str, Value]

MAXIMUM_SIZE = 1 << 24
"""Metadata longer than this is refused; a volume group of ten thousand volumes has a quarter of it."""

_MAXIMUM_DEPTH = 8

_TOKEN = re.compile(
    r"""(?:[\s,]|\#[^\n]*+)*+
    (?:
        (?P<key>[A-Za-z0-9_.+-]++)\s*+(?:(?P<open>\{)|=\s*+(?:
            (?P<integer>-?[0-9]+)(?![.0-9])
          | "(?P<string>[^"\\]*+(?:\\.[^"\\]*+)*+)"
          | (?P<list>\[)
          | (?P<real>-?[0-9]*\.[0-9]+)
        ))
      | (?P<close>\})
      | (?P<end>\0*\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ITEM = re.compile(
    r"""(?:[\s,]|\#[^\n]*+)*+
    (?:(?P<integer>-?[0-9]+)|"(?P<string>[^"\\]*+(?:\\.[^"\\]*+)*+)"|(?P<close>\]))""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def parse(text: str) -> Section:
    """The outermost section of a metadata text.

    Raises:
        FormatError: it is not such a text; the offset is in characters from its start.
    """
    if len(text) > MAXIMUM_SIZE:
        raise FormatError("LVM2 metadata", f"{len(text)} characters are too many to be true")
    outermost: Section = {}
    section = outermost
    around: list[Section] = []
    position = 0
    while True:
        token = _TOKEN.match(text, position)
        if token is None:
            raise _unexpected(text, position)
        position = token.end()
        kind = token.lastgroup
        if kind == "integer":
            section[token["key"]] = _integer(token["integer"], position)
        elif kind == "string":
            section[token["key"]] = _unescaped(token["string"])
        elif kind == "list":
            section[token["key"]], position = _list(text, position)
        elif kind == "open":
            if len(around) == _MAXIMUM_DEPTH:
                raise FormatError("LVM2 metadata", "its sections are nested too deep", offset=position)
            inner: Section = {}
            section[token["key"]] = inner
            around.append(section)
            section = inner
        elif kind == "close":
            if not around:
                raise _unexpected(text, position - 1)
            section = around.pop()
        elif kind == "real":
            section[token["key"]] = token["real"]
        elif around:
            raise FormatError("LVM2 metadata", "it ends inside a section", offset=position)
        else:
            return outermost


def section(of: Section, key: str) -> Section:
    """The section `key` of a section; empty when there is none."""
    value = of.get(key, {})
    if not isinstance(value, dict):
        raise FormatError("LVM2 metadata", f"{value!r:.40} where a section belongs", field=key)
    return value


def integer(of: Section, key: str, default: int | None = None) -> int:
    """The integer `key` of a section, which is never negative.

    Raises:
        FormatError: it is not there and there is no default, or is no such number.
    """
    value = of.get(key, default)
    if not isinstance(value, int) or value < 0:
        raise FormatError("LVM2 metadata", f"{value!r:.40} where a number belongs", field=key)
    return value


def string(of: Section, key: str, default: str | None = None) -> str:
    """The string `key` of a section.

    Raises:
        FormatError: it is not there and there is no default, or is no string.
    """
    value = of.get(key, default)
    if not isinstance(value, str):
        raise FormatError("LVM2 metadata", f"{value!r:.40} where a string belongs", field=key)
    return value


def strings(of: Section, key: str) -> list[str]:
    """The strings of the list `key` of a section, or the one string that stands there; none if it is not
    there.
    """
    value = of.get(key, [])
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise FormatError("LVM2 metadata", f"{value!r:.40} where a list belongs", field=key)
    return [item for item in value if isinstance(item, str)]


def pairs(of: Section, key: str) -> list[tuple[str, int]]:
    """The list `key` of names each followed by a number, as `stripes` and `mirrors` are.

    Raises:
        FormatError: it is something else.
    """
    value = of.get(key, [])
    found = []
    if isinstance(value, list) and len(value) % 2 == 0:
        for name, number in zip(value[::2], value[1::2], strict=True):
            if not isinstance(name, str) or not isinstance(number, int) or number < 0:
                break
            found.append((name, number))
        else:
            return found
    raise FormatError("LVM2 metadata", f"{value!r:.40} where names and numbers belong", field=key)


def _list(text: str, position: int) -> tuple[list[int | str], int]:
    items: list[int | str] = []
    while True:
        token = _ITEM.match(text, position)
        if token is None:
            raise _unexpected(text, position)
        position = token.end()
        if token.lastgroup == "integer":
            items.append(_integer(token["integer"], position))
        elif token.lastgroup == "string":
            items.append(_unescaped(token["string"]))
        else:
            return items, position


def _integer(digits: str, position: int) -> int:
    if len(digits) > 20:
        raise FormatError("LVM2 metadata", "a number that is too large to be true", offset=position)
    return int(digits)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(r"\1", text) if "\\" in text else text


def _unexpected(text: str, position: int) -> FormatError:
    return FormatError(
        "LVM2 metadata", f"{text[position : position + 20]!r} makes no sense here", offset=position
    )

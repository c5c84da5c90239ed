"""Printing rows: table, JSON, JSON lines, CSV; and making a guest's strings safe for a terminal.

A row is a frozen dataclass. In JSON it is shown whole, under its own field names, unless columns were chosen;
then the columns' raw values are shown under the columns' names. Sizes are bytes, times are UTC in ISO 8601.

Strings from a guest are decoded as UTF-8 with undecodable bytes kept as surrogate escapes (PEP 383), so that
nothing is lost: in JSON they appear as `\\udcXX`, and Python's `os.fsencode(json.loads(...))` gives the bytes
back. On a terminal, control characters and such bytes are shown as `\\xXX` and the like.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from virtscope.cli.command import Column

STYLES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
    "alarm": "1;31",
}
"""The colours a command may name, as SGR parameters."""

_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

# Characters that print nothing of their own but change how their neighbours are read: the bidirectional
# controls and the zero-width marks let a guest make one name look like another.
_INVISIBLE = frozenset("\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u2060\ufeff")
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c")


def _escape_character(character: str) -> str:
    code = ord(character)
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _is_unsafe(character: str) -> bool:
    code = ord(character)
    return (
        code < 0x20
        or 0x7F <= code < 0xA0
        or 0xD800 <= code <= 0xDFFF
        or character in _INVISIBLE
        or character in _BIDI
    )


def escape(text: str, *, tabs: bool = False) -> str:
    """`text` with everything that could act on a terminal made visible; `tabs` leaves tabs as they are."""
    if text.isascii() and text.isprintable():
        return text
    if tabs:
        return "\t".join(escape(part) for part in text.split("\t"))
    return "".join(_escape_character(c) if _is_unsafe(c) else c for c in text)


def use_color(when: str, stream: TextIO) -> bool:
    """Whether to colour output on `stream`, by `--color`, NO_COLOR and what the stream is."""
    if when != "auto":
        return when == "always"
    import os

    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def paint(text: str, style: str | None, color: bool) -> str:
    """`text` (already escaped) in a style of `STYLES`."""
    if not style or not color:
        return text
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m"


def plain(value: Any) -> Any:
    """`value` as JSON has it: rows become objects, bytes text, times ISO 8601 strings, sets sorted lists."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is not None:
        return {name: plain(getattr(value, name)) for name in fields}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    isoformat = getattr(value, "isoformat", None)
    if isoformat is not None:
        from datetime import UTC, datetime

        if isinstance(value, datetime) and value.tzinfo is not None:
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return isoformat()
    return getattr(value, "value", str(value))


def dump_json(value: Any, *, indent: int | None = None) -> str:
    """JSON text that any reader takes: ASCII only, so that surrogate escapes survive."""
    import json

    return json.dumps(value, indent=indent, ensure_ascii=True, allow_nan=False)


def row_object(row: Any, columns: Sequence[Column] | None, guest: str | None) -> dict[str, Any]:
    """The JSON object of one row; `guest` is added first when it is known."""
    item: dict[str, Any] = {} if guest is None else {"guest": guest}
    if columns is None:
        item.update(plain(row))
    else:
        item.update({column.name: plain(column.value(row)) for column in columns})
    return item


def write_csv(
    out: TextIO, columns: Sequence[Column], rows: Iterable[tuple[str | None, Any]], headings: bool
) -> None:
    """Comma-separated values (RFC 4180); unknown is an empty cell, text is escaped as on a terminal."""
    import csv

    writer = csv.writer(out, lineterminator="\n")
    with_guest = False
    first = True
    for guest, row in rows:
        if first:
            with_guest = guest is not None
            if headings:
                writer.writerow((["guest"] if with_guest else []) + [column.name for column in columns])
            first = False
        cells = [] if not with_guest else [escape(guest or "")]
        for column in columns:
            value = plain(column.value(row))
            if isinstance(value, list):
                value = " ".join(str(item) for item in value)
            cells.append("" if value is None else escape(str(value)))
        writer.writerow(cells)
    if first and headings:
        writer.writerow([column.name for column in columns])


def write_table(
    out: TextIO,
    columns: Sequence[Column],
    rows: Sequence[tuple[str | None, Any]],
    headings: bool,
    color: bool,
    gap: int = 2,
) -> None:
    """Aligned columns, `gap` spaces apart, the last one not padded; no heading line if all are empty."""
    headings = headings and any(column.heading for column in columns)
    with_guest = bool(rows) and rows[0][0] is not None
    head = (["GUEST"] if with_guest else []) + [column.heading for column in columns]
    rights = ([False] if with_guest else []) + [column.right for column in columns]
    body: list[list[str]] = []
    styles: list[list[str | None]] = []
    no_style: list[str | None] = [None] if with_guest else []
    for guest, row in rows:
        cells = [escape(guest or "")] if with_guest else []
        cells += [escape(column.show(column.value(row))) for column in columns]
        body.append(cells)
        if color:
            styles.append(no_style + [column.style(row) if column.style else None for column in columns])
    last, between = len(head) - 1, " " * gap
    widths = [len(text) if headings else 0 for text in head]
    for index, column in enumerate(columns, len(head) - len(columns)):
        if column.fixed and index != last:
            head[index] = head[index][: column.width]
            for cells in body:
                cells[index] = _cut(cells[index], column.width)
            widths[index] = 0
        widths[index] = max(widths[index], column.width)
    for cells in body:
        for index, cell in enumerate(cells):
            width = display_width(cell)
            if width > widths[index]:
                widths[index] = width

    def line(cells: list[str], row_styles: list[str | None] | None) -> str:
        parts = []
        for index, cell in enumerate(cells):
            padding = " " * (widths[index] - display_width(cell))
            shown = paint(cell, row_styles[index], True) if row_styles else cell
            if rights[index]:
                parts.append(padding + shown)
            else:
                parts.append(shown if index == last else shown + padding)
        return between.join(parts).rstrip() + "\n"

    lines = []
    if headings:
        lines.append(line(head, ["bold"] * len(head) if color else None))
    for index, cells in enumerate(body):
        lines.append(line(cells, styles[index] if color else None))
    out.write("".join(lines))


def _cut(text: str, width: int) -> str:
    """As much of `text` as fits into so many terminal cells."""
    if text.isascii():
        return text[:width]
    text = text[: 2 * width]  # a combining mark takes no cell, but a name may have thousands
    while display_width(text) > width:
        text = text[:-1]
    return text


def display_width(text: str) -> int:
    """How many terminal cells `text` takes: wide East Asian characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    import unicodedata

    width = 0
    for character in text:
        if unicodedata.combining(character):
            continue
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
    return width


def human_size(size: int | None) -> str:
    """Bytes as `df -h` and `ls -h` show them: powers of 1024, rounded up, one decimal below 10."""
    if size is None:
        return "-"
    if size < 1024:
        return str(size)
    value = float(size)
    for unit in "KMGTPE":
        value /= 1024
        if value < 1024 or unit == "E":
            tenths = -(-value * 10 // 1)
            if tenths < 100:
                return f"{tenths / 10:.1f}{unit}"
            whole = int(-(-value // 1))
            if whole < 1024 or unit == "E":
                return f"{whole}{unit}"
    raise AssertionError("unreachable: the last unit always returns")


def stdout() -> TextIO:
    """Standard output as UTF-8 text, whatever the locale: guests' names are UTF-8 more often than not."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding="utf-8", errors="backslashreplace")
    return sys.stdout

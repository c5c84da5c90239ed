"""Choosing columns, sorting rows and printing them in the form asked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from virtscope.cli import output
from virtscope.cli.command import Column, Command, Line
from virtscope.errors import UsageError


@dataclass(frozen=True, slots=True)
class Report:
    """What came of looking at one guest.

    Attributes:
        guest: its name.
        rows: the rows, complete or up to an error.
        notes: what the user should know about the rows.
        errors: sentences that say what is missing in the rows; none when all went well.
        evidence: why the rows are believed, for who asks by `--verbose`.
        pid: the guest's process, where it was named by it.
    """

    guest: str
    rows: tuple[Any, ...]
    notes: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    pid: int | None = None


def named_apart(reports: Sequence[Report]) -> list[Report]:
    """The reports, with the process id in the names of guests that have one name, as where all that run are
    listed.
    """
    pids: dict[str, set[int | None]] = {}
    for report in reports:
        pids.setdefault(report.guest, set()).add(report.pid)
    return [
        replace(report, guest=f"{report.guest}-{report.pid}")
        if report.pid is not None and len(pids[report.guest]) > 1
        else report
        for report in reports
    ]


# Columns


def _names(values: list[str] | None) -> list[str]:
    return [name.strip() for value in values or () for name in value.split(",") if name.strip()]


def column_name(chosen: str) -> str:
    """The name in what `-o` takes for one column: NAME, NAME:WIDTH, NAME=HEADING or NAME:WIDTH=HEADING."""
    return chosen.partition("=")[0].partition(":")[0].lower()


def _known(command: Command, name: str) -> Column:
    column = command.column(name.lower())
    if column is None:
        import difflib

        known = [column.name for column in command.columns]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"the columns are {', '.join(known)}"
        raise UsageError(f"there is no column {name!r}: {hint}")
    return column


def chosen_columns(command: Command, args: argparse.Namespace) -> list[Column] | None:
    """The columns of `-o`, `pid=ID` with another heading and `args:30` with another width; None when the
    command's own choice is wanted.
    """
    chosen: list[Column] = []
    for name in _names(getattr(args, "columns", None)):
        column = _known(command, column_name(name))
        name, renamed, heading = name.partition("=")
        if renamed:
            column = replace(column, heading=heading)
        _, widened, width = name.partition(":")
        if widened:
            column = replace(column, width=_width(name, width), fixed=not column.right)
        chosen.append(column)
    return chosen or None


def _width(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and int(text)):
        raise UsageError(f"{name}: a column's width is a whole number from 1 to 9999")
    return int(text)


def _default_columns(command: Command, args: argparse.Namespace) -> list[Column]:
    if command.default_columns is None:
        return list(command.columns)
    return [_known(command, name) for name in command.default_columns(args)]


def sort_keys(command: Command, args: argparse.Namespace) -> list[tuple[Column, bool]]:
    """The columns of `--sort`, each with whether it descends."""
    return [
        (_known(command, name.lstrip("+-")), name.startswith("-"))
        for name in _names(getattr(args, "sort", None))
    ]


def sorted_rows(rows: list[tuple[str, Any]], keys: Sequence[tuple[Column, bool]]) -> list[tuple[str, Any]]:
    """Rows by the given columns; unknown values come last, whichever the direction."""
    for column, descending in reversed(keys):
        known = [item for item in rows if column.value(item[1]) is not None]
        unknown = [item for item in rows if column.value(item[1]) is None]
        known.sort(key=lambda item: column.value(item[1]), reverse=descending)
        rows = known + unknown
    return rows


# Printing


def print_document(
    command: Command,
    rows: Sequence[tuple[str, Any]],
    reports: Sequence[Report],
    columns: Sequence[Column] | None,
    named: bool,
) -> None:
    """One JSON document: schema, rows, errors, and notes if there are any."""
    document = {
        "schema": f"{command.name}/{command.schema}",
        "rows": [output.row_object(row, columns, guest if named else None) for guest, row in rows],
        "errors": [
            {"guest": report.guest, "message": error} for report in reports for error in report.errors
        ],
    }
    notes = [{"guest": report.guest, "message": note} for report in reports for note in report.notes]
    if notes:
        document["notes"] = notes
    output.stdout().write(output.dump_json(document, indent=2) + "\n")


def print_lines(rows: Sequence[tuple[str, Any]], columns: Sequence[Column] | None, named: bool) -> None:
    """One JSON object per row."""
    out = output.stdout()
    for guest, row in rows:
        out.write(output.dump_json(output.row_object(row, columns, guest if named else None)) + "\n")


def print_text(
    command: Command,
    args: argparse.Namespace,
    rows: Sequence[tuple[str, Any]],
    reports: Sequence[Report],
    columns: Sequence[Column] | None,
    several: bool,
) -> None:
    """CSV, a table, or the command's classic text."""
    out = output.stdout()
    shown = [(guest if several else None, row) for guest, row in rows]
    if args.csv:
        output.write_csv(out, columns or _default_columns(command, args), shown, not args.no_headings)
        return
    color = output.use_color(args.color, sys.stdout)
    if command.text is None or columns is not None:
        columns = columns or _default_columns(command, args)
        output.write_table(out, columns, shown, not args.no_headings, color, command.gap)
        return
    for report in reports:
        for line in command.text(iter(report.rows), args):
            out.write(shown_line(line, report.guest if several else None, color))


def shown_line(line: Line, guest: str | None, color: bool) -> str:
    """A line of classic output as it is written: escaped, coloured, after the guest's name if that is
    needed.
    """
    text = output.paint(output.escape(line.text, tabs=True), line.style, color)
    return f"{output.escape(guest)}: {text}\n" if guest else f"{text}\n"

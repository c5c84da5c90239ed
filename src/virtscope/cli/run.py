"""Running a command: parse, look at each guest, print, settle the exit code. Entry point: `run_command`."""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from virtscope.cli import output
from virtscope.cli.command import Column, Command, Guests
from virtscope.cli.exit_codes import FAILED, NEGATIVE, OK, PARTIAL
from virtscope.cli.parser import parse
from virtscope.errors import UsageError, VirtscopeError

if TYPE_CHECKING:
    from virtscope.guest import Guest


@dataclass(frozen=True, slots=True)
class Report:
    """What came of looking at one guest.

    Attributes:
        guest: its name.
        rows: the rows, complete or up to the error.
        notes: what the user should know about the rows.
        error: the sentence that says why there are no (more) rows; None when all went well.
    """

    guest: str
    rows: tuple[Any, ...]
    notes: tuple[str, ...] = ()
    error: str | None = None


def run_command(command: Command, argv: Sequence[str] | None = None) -> int:
    """Run `command` with `argv` (default: the process's arguments) and return its exit code."""
    _prepare_signals()
    args = parse(command, argv)
    try:
        if command.check is not None:
            command.check(args)
        if command.action is not None:
            return command.action(args)
        return _run_rows(command, args)
    except VirtscopeError as error:
        complain(command, str(error))
        return FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def complain(command: Command, sentence: str) -> None:
    """One sentence on standard error, with what a guest may have put into it made harmless."""
    sys.stdout.flush()
    sys.stderr.write(f"{command.name}: {output.escape(sentence)}\n")


def _prepare_signals() -> None:
    # A reader that has seen enough (`virt-ps | head`) ends the writer quietly, as it does C programs.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def _run_rows(command: Command, args: argparse.Namespace) -> int:
    columns = _chosen_columns(command, args)
    sort_keys = _sort_keys(command, args)
    guests, several = _guests(command, args)
    if command.follows is not None and command.follows(args):
        return _follow(command, args, guests, several)
    reports = list(_reports(command, args, guests))
    failed = [report for report in reports if report.error is not None]
    if not args.quiet:
        for report in reports:
            for note in report.notes:
                complain(command, f"{report.guest}: {note}" if report.guest else note)
    for report in failed:
        complain(command, f"{report.guest}: {report.error}" if report.guest else str(report.error))
    rows = [(report.guest, row) for report in reports for row in report.rows]
    if sort_keys:
        rows = _sorted(rows, sort_keys)
    named = command.guests is not Guests.NONE
    if args.json:
        _print_document(command, rows, reports, columns, named)
    elif args.jsonl:
        _print_lines(rows, columns, named)
    elif rows or not failed:
        _print_text(command, args, rows, reports, columns, several)
    sys.stdout.flush()
    if not failed:
        negative = not rows and command.searches is not None and command.searches(args)
        return NEGATIVE if negative else OK
    return PARTIAL if rows or len(failed) < len(reports) else FAILED


# Guests


def _guests(command: Command, args: argparse.Namespace) -> tuple[list[Guest | None], bool]:
    """The guests to look at, and whether their names must be shown beside the rows."""
    if command.guests is Guests.NONE:
        return [None], False
    from virtscope.cli.selection import select_guests

    guests, implicit = select_guests(command, args)
    return list(guests), len(guests) > 1 or implicit


def _reports(command: Command, args: argparse.Namespace, guests: Sequence[Guest | None]) -> Iterator[Report]:
    """One report per guest, in the guests' order; several guests are looked at in parallel."""
    if len(guests) <= 1:
        for guest in guests:
            yield look(command, args, guest)
        return
    from virtscope.cli.parallel import run_parallel

    workers = min(args.parallel or os.cpu_count() or 1, len(guests))
    yield from run_parallel(
        [(guest.name if guest else "", functools.partial(look, command, args, guest)) for guest in guests],
        workers=workers,
        timeout=args.timeout,
        failed=lambda name, sentence: Report(name, (), error=sentence),
    )


def look(command: Command, args: argparse.Namespace, guest: Guest | None) -> Report:
    """Collect one guest's rows; errors of ours end up in the report."""
    assert command.rows is not None
    rows: list[Any] = []
    error: str | None = None
    name = guest.name if guest is not None else ""
    try:
        with _deadline(getattr(args, "timeout", None), guest):
            rows.extend(command.rows(guest, args))  # type: ignore[arg-type]
    except VirtscopeError as problem:
        error = str(problem)
    except TimeoutError:
        error = f"gave up after {args.timeout:g} seconds (raise --timeout to wait longer)"
    except RecursionError:
        error = "the data is nested too deeply to be real"
    notes: tuple[str, ...] = ()
    if guest is not None:
        name = guest.name
        notes = tuple(guest.notes)
        guest.close()
    return Report(name, tuple(rows), notes, error)


class _deadline:
    """Raises TimeoutError in the main thread when looking at a guest takes too long."""

    def __init__(self, seconds: float | None, guest: Guest | None) -> None:
        self.seconds = seconds if guest is not None else None

    def __enter__(self) -> None:
        if self.seconds:
            signal.signal(signal.SIGALRM, self._expired)
            signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *exc: object) -> None:
        if self.seconds:
            signal.setitimer(signal.ITIMER_REAL, 0)

    @staticmethod
    def _expired(*_: object) -> None:
        raise TimeoutError


def _follow(command: Command, args: argparse.Namespace, guests: Sequence[Guest | None], several: bool) -> int:
    """Print the rows of a guest that is being followed as they come; one guest only."""
    assert command.rows is not None
    if len(guests) != 1:
        raise UsageError(f"only one guest can be followed at a time, and {len(guests)} were named")
    guest = guests[0]
    color = output.use_color(args.color, sys.stdout)
    out = output.stdout()
    name = guest.name if guest is not None else None
    rows: Iterable[Any] = command.rows(guest, args)  # type: ignore[arg-type]
    if args.jsonl:
        for row in rows:
            out.write(output.dump_json(output.row_object(row, None, name)) + "\n")
            out.flush()
    elif args.json or args.csv:
        raise UsageError("following needs plain output or --jsonl")
    else:
        assert command.text is not None
        for line in command.text(rows, args):
            out.write(_with_guest(output.paint(output.escape(line.text), line.style, color), name, several))
            out.flush()
    return OK


# Columns


def _names(values: list[str] | None) -> list[str]:
    return [name.strip() for value in values or () for name in value.split(",") if name.strip()]


def _known(command: Command, name: str) -> Column:
    column = command.column(name.lower())
    if column is None:
        import difflib

        known = [column.name for column in command.columns]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"the columns are {', '.join(known)}"
        raise UsageError(f"there is no column {name!r}: {hint}")
    return column


def _chosen_columns(command: Command, args: argparse.Namespace) -> list[Column] | None:
    """The columns of `-o`, `pid=ID` with another heading; None when the command's own choice is wanted."""
    chosen: list[Column] = []
    for name in _names(getattr(args, "columns", None)):
        name, renamed, heading = name.partition("=")
        column = _known(command, name)
        chosen.append(replace(column, heading=heading) if renamed else column)
    return chosen or None


def _default_columns(command: Command, args: argparse.Namespace) -> list[Column]:
    if command.default_columns is None:
        return list(command.columns)
    return [_known(command, name) for name in command.default_columns(args)]


def _sort_keys(command: Command, args: argparse.Namespace) -> list[tuple[Column, bool]]:
    return [
        (_known(command, name.lstrip("+-")), name.startswith("-"))
        for name in _names(getattr(args, "sort", None))
    ]


def _sorted(rows: list[tuple[str, Any]], keys: Sequence[tuple[Column, bool]]) -> list[tuple[str, Any]]:
    """Rows by the given columns; unknown values come last, whichever the direction."""
    for column, descending in reversed(keys):
        known = [item for item in rows if column.value(item[1]) is not None]
        unknown = [item for item in rows if column.value(item[1]) is None]
        known.sort(key=lambda item: column.value(item[1]), reverse=descending)
        rows = known + unknown
    return rows


# Printing


def _print_document(
    command: Command,
    rows: Sequence[tuple[str, Any]],
    reports: Sequence[Report],
    columns: Sequence[Column] | None,
    named: bool,
) -> None:
    document = {
        "schema": f"{command.name}/{command.schema}",
        "rows": [output.row_object(row, columns, guest if named else None) for guest, row in rows],
        "errors": [
            {"guest": report.guest, "message": report.error} for report in reports if report.error is not None
        ],
    }
    notes = [{"guest": report.guest, "message": note} for report in reports for note in report.notes]
    if notes:
        document["notes"] = notes
    output.stdout().write(output.dump_json(document, indent=2) + "\n")


def _print_lines(rows: Sequence[tuple[str, Any]], columns: Sequence[Column] | None, named: bool) -> None:
    out = output.stdout()
    for guest, row in rows:
        out.write(output.dump_json(output.row_object(row, columns, guest if named else None)) + "\n")


def _print_text(
    command: Command,
    args: argparse.Namespace,
    rows: Sequence[tuple[str, Any]],
    reports: Sequence[Report],
    columns: Sequence[Column] | None,
    several: bool,
) -> None:
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
            shown_line = output.paint(output.escape(line.text), line.style, color)
            out.write(_with_guest(shown_line, report.guest, several))


def _with_guest(line: str, guest: str | None, several: bool) -> str:
    return f"{output.escape(guest)}: {line}\n" if several and guest else f"{line}\n"

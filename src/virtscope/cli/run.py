"""Running a command: parse, look at each guest, print, settle the exit code. Entry point: `run_command`."""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from virtscope.cli import output
from virtscope.cli.command import Command, Guests
from virtscope.cli.exit_codes import FAILED, NEGATIVE, OK, PARTIAL
from virtscope.cli.parser import parse
from virtscope.cli.printing import (
    Report,
    chosen_columns,
    print_document,
    print_lines,
    print_text,
    shown_line,
    sort_keys,
    sorted_rows,
)
from virtscope.errors import UsageError, VirtscopeError

if TYPE_CHECKING:
    from virtscope.guest import Guest


def run_command(command: Command, argv: Sequence[str] | None = None) -> int:
    """Run `command` with `argv` (default: the process's arguments) and return its exit code."""
    args = parse(command, argv)
    try:
        if command.check is not None:
            command.check(args)
        code = command.action(args) if command.action is not None else _run_rows(command, args)
        sys.stdout.flush()
        return code
    except VirtscopeError as error:
        complain(command, str(error))
        return FAILED
    except BrokenPipeError:
        # A reader that has seen enough (`virt-ps | head`) ends the writer quietly, as it does C programs.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def complain(command: Command, sentence: str) -> None:
    """One sentence on standard error, with what a guest may have put into it made harmless."""
    sys.stdout.flush()
    sys.stderr.write(f"{command.name}: {output.escape(sentence)}\n")


def _run_rows(command: Command, args: argparse.Namespace) -> int:
    columns = chosen_columns(command, args)
    keys = sort_keys(command, args)
    guests, several = _guests(command, args)
    if command.follows is not None and command.follows(args):
        if args.json or args.csv:
            raise UsageError("following needs plain output or --jsonl")
        if len(guests) != 1:
            raise UsageError(f"only one guest can be followed at a time, and {len(guests)} were named")
        return _stream(command, args, guests[0], several)
    in_order = not (args.json or args.csv or keys or columns)
    if command.streams and in_order and len(guests) == 1:
        return _stream(command, args, guests[0], several)
    reports = list(_reports(command, args, guests))
    _complain_of(command, args, reports)
    rows = [(report.guest, row) for report in reports for row in report.rows]
    if keys:
        rows = sorted_rows(rows, keys)
    named = command.guests is not Guests.NONE
    failed = any(report.errors for report in reports)
    if args.json:
        print_document(command, rows, reports, columns, named)
    elif args.jsonl:
        print_lines(rows, columns, named)
    elif rows or not failed:
        print_text(command, args, rows, reports, columns, several)
    if not failed:
        negative = not rows and command.searches is not None and command.searches(args)
        return NEGATIVE if negative else OK
    return PARTIAL if rows or not all(report.errors for report in reports) else FAILED


def _complain_of(command: Command, args: argparse.Namespace, reports: Sequence[Report]) -> None:
    for report in reports:
        about = f"{report.guest}: " if report.guest else ""
        for note in report.notes if not args.quiet else ():
            complain(command, about + note)
        for error in report.errors:
            complain(command, about + error)


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
        failed=lambda name, sentence: Report(name, (), errors=(sentence,)),
    )


def look(command: Command, args: argparse.Namespace, guest: Guest | None) -> Report:
    """Collect one guest's rows; errors of ours end up in the report."""
    assert command.rows is not None
    rows: list[Any] = []
    errors: list[str] = []
    try:
        with _deadline(getattr(args, "timeout", None), guest):
            rows.extend(command.rows(guest, args))  # type: ignore[arg-type]
    except VirtscopeError as problem:
        errors.append(str(problem))
    except TimeoutError:
        errors.append(f"gave up after {args.timeout:g} seconds (raise --timeout to wait longer)")
    except RecursionError:
        errors.append("the data is nested too deeply to be real")
    return _report(guest, rows, errors)


def _report(guest: Guest | None, rows: Sequence[Any], errors: Sequence[str]) -> Report:
    if guest is None:
        return Report("", tuple(rows), errors=tuple(errors))
    report = Report(guest.name, tuple(rows), guest.notes, (*guest.problems, *errors))
    guest.close()
    return report


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


def _stream(command: Command, args: argparse.Namespace, guest: Guest | None, several: bool) -> int:
    """Print the rows of one guest as they come: they never end, or are too many to wait for."""
    assert command.rows is not None
    assert command.text is not None
    color = output.use_color(args.color, sys.stdout)
    out = output.stdout()
    name = guest.name if guest is not None else None
    errors: list[str] = []
    printed = 0
    rows: Iterable[Any] = command.rows(guest, args)  # type: ignore[arg-type]
    try:
        if args.jsonl:
            for row in rows:
                out.write(output.dump_json(output.row_object(row, None, name)) + "\n")
                printed += 1
        else:
            for line in command.text(rows, args):
                out.write(shown_line(line, name if several else None, color))
                printed += 1
                if command.follows is not None:
                    out.flush()
    except VirtscopeError as problem:
        errors.append(str(problem))
    except RecursionError:
        errors.append("the data is nested too deeply to be real")
    report = _report(guest, (), errors)
    _complain_of(command, args, [report])
    if report.errors:
        return PARTIAL if printed else FAILED
    return OK

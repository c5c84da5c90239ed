"""Running a command: parse, look at each guest, print, settle the exit code. Entry point: `run_command`."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from virtscope.cli import output
from virtscope.cli.command import Column, Command, Guests
from virtscope.cli.deadline import Deadline, Expired
from virtscope.cli.exit_codes import FAILED, NEGATIVE, OK, PARTIAL
from virtscope.cli.parser import parse
from virtscope.cli.printing import (
    Report,
    chosen_columns,
    named_apart,
    print_document,
    print_lines,
    print_text,
    shown_line,
    sort_keys,
    sorted_rows,
)
from virtscope.cli.standard_output import OutputFailed, told_apart
from virtscope.errors import UsageError, VirtscopeError

if TYPE_CHECKING:
    from virtscope.guest import Guest


def run_command(command: Command, argv: Sequence[str] | None = None) -> int:
    """Run `command` with `argv` (default: the process's arguments) and return its exit code."""

    def run() -> int:
        args = parse(command, argv)
        if command.check is not None:
            command.check(args)
        return command.action(args) if command.action is not None else _run_rows(command, args)

    return guarded(command.name, run)


def guarded(name: str, run: Callable[[], int]) -> int:
    """Call `run` and return the exit code it returns, or the one for how it failed, which is said in one
    sentence that begins with `name`.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _replace_closed_streams()
    with told_apart():
        try:
            try:
                return run()
            finally:
                sys.stdout.flush()  # after --help, too, which ends by SystemExit
        except VirtscopeError as error:
            _say(name, str(error))
            return FAILED
        except BrokenPipeError:
            # A reader that has seen enough (`virt-ps | head`) ends the writer quietly, as it does C programs.
            _give_up_output()
            return 128 + signal.SIGPIPE
        except OutputFailed as error:
            _give_up_output()
            _say(name, f"standard output cannot be written: {error.strerror}")
            return FAILED
        except OSError as error:
            # Errors about guests come as errors of ours, so nobody has expected this one.
            _say(name, f"unexpected error: {error}{_place(error)}")
            return FAILED
        except KeyboardInterrupt:
            return 128 + signal.SIGINT


def _place(error: OSError) -> str:
    """Where in this package an error comes from: what a report of it needs to say."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        if module.startswith("virtscope."):
            place = f" ({module}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place


def _replace_closed_streams() -> None:
    """Put something in the place of streams that were closed when the process began (`>&-`): else the next
    file opened gets their number. What is written to standard output then fails, as it must.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            if fd != number:
                os.dup2(fd, number)
                os.close(fd)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def _give_up_output() -> None:
    """Let what is still to be written to standard output go nowhere, so that it does not fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(command: Command, sentence: str) -> None:
    """One sentence on standard error, with what a guest may have put into it made harmless."""
    sys.stdout.flush()
    _say(command.name, sentence)


def _say(name: str, sentence: str) -> None:
    # Where nothing can be said, the exit code still says it.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{name}: {output.escape(sentence)}\n")


def _run_rows(command: Command, args: argparse.Namespace) -> int:
    columns = chosen_columns(command, args)
    keys = sort_keys(command, args)
    guests, several = _guests(command, args)
    if command.follows is not None and command.follows(args):
        if args.json or args.csv:
            raise UsageError("following needs plain output or --jsonl")
        if len(guests) != 1:
            raise UsageError(f"only one guest can be followed at a time, not {len(guests)}: name the one")
        return _stream(command, args, guests[0], several)
    in_order = not (args.json or args.csv or keys or columns)
    if command.streams and in_order and len(guests) == 1:
        return _stream(command, args, guests[0], several)

    def answer(reports: Sequence[Report]) -> int:
        return _answer(command, args, columns, keys, several, reports)

    def hung(report: Report) -> None:
        _end_hung(lambda report: answer([report]), report)

    return answer(named_apart(list(_reports(command, args, guests, hung))))


def _answer(
    command: Command,
    args: argparse.Namespace,
    columns: list[Column] | None,
    keys: list[tuple[Column, bool]],
    several: bool,
    reports: Sequence[Report],
) -> int:
    """Print what came of all guests; returns the exit code."""
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
        for sentence in report.evidence if args.verbose else ():
            complain(command, _about(report.guest, sentence))
        for note in report.notes if not args.quiet else ():
            complain(command, _about(report.guest, note))
        for error in report.errors:
            complain(command, _about(report.guest, error))


def _about(guest: str, sentence: str) -> str:
    """`sentence` with the guest it is about, unless it begins with its name itself."""
    return (
        sentence if not guest or sentence.startswith((f"{guest} ", f"{guest}:")) else f"{guest}: {sentence}"
    )


def _end_hung(answer: Callable[[Report], int], report: Report) -> None:
    """Print what can be said of a guest whose disk does not answer, and end the process from a thread beside
    the one that waits for it.
    """
    code = FAILED
    try:
        code = answer(report)
        sys.stdout.flush()
    finally:
        os._exit(code)


# Guests


def _guests(command: Command, args: argparse.Namespace) -> tuple[list[Guest | None], bool]:
    """The guests to look at, and whether their names must be shown beside the rows."""
    if command.guests is Guests.NONE:
        return [None], False
    from virtscope.cli.selection import select_guests

    guests, implicit = select_guests(command, args)
    return list(guests), len(guests) > 1 or implicit


def _reports(
    command: Command,
    args: argparse.Namespace,
    guests: Sequence[Guest | None],
    hung: Callable[[Report], None],
) -> Iterator[Report]:
    """One report per guest, in the guests' order; several guests are looked at in parallel.

    `hung` is called with the report on an only guest that does not answer at all, in another thread.
    """
    if len(guests) <= 1:
        for guest in guests:
            yield look(command, args, guest, hung)
        return
    from virtscope.cli.parallel import run_parallel

    workers = min(args.parallel or os.cpu_count() or 1, len(guests))
    yield from run_parallel(
        [(guest.name if guest else "", functools.partial(look, command, args, guest)) for guest in guests],
        workers=workers,
        timeout=args.timeout,
        failed=lambda name, sentence: Report(name, (), errors=(sentence,)),
    )


def look(
    command: Command,
    args: argparse.Namespace,
    guest: Guest | None,
    hung: Callable[[Report], None] | None = None,
) -> Report:
    """Collect one guest's rows; errors of ours end up in the report."""
    assert command.rows is not None
    rows: list[Any] = []
    errors: list[str] = []
    notes: tuple[str, ...] = ()
    try:
        with _deadline(args, guest, hung):
            try:
                rows.extend(command.rows(guest, args))  # type: ignore[arg-type]
            except _TOLD as error:
                errors.append(_sentence(error))
            if guest is not None:
                notes = guest.notes
    except _TOLD as error:
        errors.append(_sentence(error))
    except Expired:
        errors.append(_given_up(args))
    return _report(guest, rows, notes, errors)


_TOLD = (VirtscopeError, RecursionError, MemoryError)
"""What looking at a guest may end with: the guest's trouble, and not the run's."""


def _sentence(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "the data is nested too deeply to be real"
    return "looking at it takes more memory than there is" if isinstance(error, MemoryError) else str(error)


def _report(guest: Guest | None, rows: Sequence[Any], notes: Sequence[str], errors: Sequence[str]) -> Report:
    """The report on a guest, which is let go of; what is an error already is no note, too."""
    if guest is None:
        return Report("", tuple(rows), errors=tuple(errors))
    told = tuple(dict.fromkeys((*guest.problems, *errors)))
    name, evidence = guest.name, guest.evidence
    guest.close()
    return Report(
        name, tuple(rows), tuple(note for note in notes if note not in told), told, evidence, guest.pid
    )


def _given_up(args: argparse.Namespace) -> str:
    return f"gave up after {args.timeout:g} seconds (raise --timeout to wait longer)"


def _deadline(
    args: argparse.Namespace, guest: Guest | None, hung: Callable[[Report], None] | None
) -> Deadline:
    if guest is None:
        return Deadline(None)
    name = guest.name
    if hung is None:
        return Deadline(args.timeout)
    return Deadline(args.timeout, lambda: hung(Report(name, (), errors=(_given_up(args),))))


def _stream(command: Command, args: argparse.Namespace, guest: Guest | None, several: bool) -> int:
    """Print the rows of one guest as they come: they never end, or are too many to wait for."""
    assert command.rows is not None
    assert command.text is not None
    color = output.use_color(args.color, sys.stdout)
    out = output.stdout()
    name = guest.name if guest is not None else None
    errors: list[str] = []
    notes: tuple[str, ...] = ()
    printed = 0
    follows = command.follows is not None and command.follows(args)

    def told(report: Report) -> int:
        _complain_of(command, args, [report])
        if report.errors:
            return PARTIAL if printed else FAILED
        return OK

    try:
        with Deadline(None) if follows else _deadline(args, guest, lambda r: _end_hung(told, r)) as deadline:
            try:
                rows = deadline.each(command.rows(guest, args))  # type: ignore[arg-type]
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
            except _TOLD as error:
                errors.append(_sentence(error))
            if guest is not None:
                notes = guest.notes
    except _TOLD as error:
        errors.append(_sentence(error))
    except Expired:
        errors.append(_given_up(args))
    return told(_report(guest, (), notes, errors))

"""What a command is: a declarative table from which parser, help, man page, completion and output derive.

`Command` is the entry point. A command file builds one, binds it to `COMMAND`, and exposes
`main = COMMAND.main`: that function is its console script.

Three kinds of command share the table:

* **row commands** set `rows`: called once per guest, it yields frozen dataclasses; the framework finds the
  guests, prints (table, JSON, JSON lines, CSV), collects errors per guest and decides the exit code. With
  `text` the classic output of the tool replaces the table (`uname`, `dmesg`, `ifconfig`).
* **guest actions** set `action`: called once with all guests named; it writes what it writes (`virt-cat`) and
  returns an exit code.
* **plain actions** set `action` and take no guest (`guests=Guests.NONE`).
"""

from __future__ import annotations

import argparse
import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from virtscope.guest import Guest


class Guests(enum.Enum):
    """What a command looks at in a guest, and so which options name its guests."""

    NONE = "none"
    MEMORY = "memory"
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class Option:
    """One option or positional argument of a command.

    Attributes:
        flags: `("-l", "--long")`; a single word without dashes is a positional argument.
        help: one phrase, lower case, no full stop.
        metavar: the value's name in the help; None makes the option a switch.
        parse: turns the text into the value; a ValueError's message is shown to the user.
        nargs: argparse's ("*", "?", "+", "..."), for positional arguments and optional values.
        choices: the allowed words.
        repeat: the option may be given several times; the value is a list.
        complete: what a shell completes the value with: "file", "domain" or "column"; None for nothing.
        group: the heading under which help and man page show it.
    """

    flags: tuple[str, ...]
    help: str
    metavar: str | None = None
    parse: Callable[[str], Any] = str
    default: Any = None
    nargs: str | None = None
    choices: tuple[str, ...] | None = None
    repeat: bool = False
    complete: str | None = None
    group: str = "Options"
    dest: str | None = None
    action: type[argparse.Action] | None = None

    @property
    def is_positional(self) -> bool:
        """True for an argument given by its place rather than by a flag."""
        return not self.flags[0].startswith("-")


def _plain(value: Any) -> str:
    return "-" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Column:
    """One column a row command can show.

    Attributes:
        name: what `-o` and `--sort` call it; also its key in JSON and CSV when columns are chosen.
        heading: what stands above it in a table.
        value: the raw value of a row: bytes for sizes, ISO times in JSON, None when unknown.
        help: one phrase for the man page.
        show: the value as a table shows it; takes the raw value. "-" for unknown unless it says otherwise.
        right: align to the right (numbers).
        width: how wide the column is at least.
        fixed: `width` is how wide it is at most, too, unless it is the last one.
        aliases: further names it goes by (`command` for `args`).
        style: a colour name for this row's cell (see `output.STYLES`), or None.
    """

    name: str
    heading: str
    value: Callable[[Any], Any]
    help: str
    show: Callable[[Any], str] = _plain
    right: bool = False
    width: int = 0
    fixed: bool = False
    aliases: tuple[str, ...] = ()
    style: Callable[[Any], str | None] | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a command's classic text output; the framework escapes it and applies the style."""

    text: str
    style: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A command line worth showing in the man page, and what it does."""

    command: str
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A `virt-*` command. See the module's docstring for the kinds.

    Attributes:
        name: `virt-ps`; `virtscope ps` is the same command.
        summary: one phrase, for the list of commands and the man page's NAME line.
        description: paragraphs separated by blank lines.
        schema: the version of its JSON rows.
        default_columns: the columns shown when `-o` is not given, from the parsed options.
        gap: spaces between the columns of a table.
        rows: yields the rows of one guest.
        text: the classic output of one guest's rows.
        streams: the rows can be very many: those of a single guest are printed as they come.
        follows: with this option set the rows never end, so they are printed as they come, too.
        rewrite: changes how arguments are written before they are parsed, for habits that have no option.
        check: raises UsageError for options that contradict each other.
        searches: with these options the user looks for something, and no row at all is a negative answer.
    """

    name: str
    summary: str
    description: str
    guests: Guests = Guests.NONE
    options: tuple[Option, ...] = ()
    columns: tuple[Column, ...] = ()
    schema: int = 1
    default_columns: Callable[[argparse.Namespace], Sequence[str]] | None = None
    gap: int = 2
    rows: Callable[[Guest, argparse.Namespace], Iterable[Any]] | None = None
    text: Callable[[Iterable[Any], argparse.Namespace], Iterator[Line]] | None = None
    streams: bool = False
    follows: Callable[[argparse.Namespace], bool] | None = None
    action: Callable[[argparse.Namespace], int] | None = None
    rewrite: Callable[[Sequence[str]], Iterable[str]] | None = None
    check: Callable[[argparse.Namespace], None] | None = None
    searches: Callable[[argparse.Namespace], bool] | None = None
    examples: tuple[Example, ...] = ()
    see_also: tuple[str, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    exit_meanings: tuple[tuple[int, str], ...] = field(default=())

    @property
    def short_name(self) -> str:
        """The name after `virt-`: the sub-command of `virtscope`."""
        return self.name.removeprefix("virt-")

    def column(self, name: str) -> Column | None:
        """The column of that name or alias, or None."""
        return next(
            (column for column in self.columns if name == column.name or name in column.aliases), None
        )

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the command as a console script does; returns the exit code."""
        try:
            from virtscope.cli.run import run_command

            return run_command(self, argv)
        except KeyboardInterrupt:
            return 130  # 128 + SIGINT, before run_command could say so: what it imports takes a while

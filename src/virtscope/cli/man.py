"""Manual pages, written from the commands' tables by `manual_page`; `make docs` writes them all."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from virtscope import __version__
from virtscope.cli.command import Command, Option
from virtscope.cli.commands import COMMANDS, find
from virtscope.cli.exit_codes import FAILED, MEANINGS, OK
from virtscope.cli.options import all_options


def _roff(text: str) -> str:
    """`text` with what troff would act on made literal."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in text.split("\n"))


def _option_heading(option: Option) -> str:
    if option.is_positional:
        return f"\\fI{_roff(option.metavar or option.flags[0].upper())}\\fR"
    value = f" \\fI{_roff(option.metavar)}\\fR" if option.metavar else ""
    return ", ".join(f"\\fB{_roff(flag)}\\fR{value}" for flag in option.flags)


def _sentence(phrase: str) -> str:
    return phrase[:1].upper() + phrase[1:] + ("" if phrase.endswith(".") else ".")


def _option_text(option: Option) -> str:
    text = _sentence(option.help)
    if option.choices:
        text += f" One of: {', '.join(option.choices)}."
    return text


def _synopsis(command: Command) -> str:
    arguments = []
    for option in all_options(command):
        if option.is_positional:
            repeated = "..." if option.nargs in ("*", "+", "...") else ""
            argument = _option_heading(option) + repeated
            arguments.append(f" [{argument}]" if option.nargs in ("*", "?") else f" {argument}")
    return f"\\fB{_roff(command.name)}\\fR [\\fIOPTION\\fR...]{''.join(arguments)}"


def help_options(command: Command) -> tuple[Option, ...]:
    """`--help` and `--version` under the flags this command leaves free."""
    taken = {flag for option in all_options(command) for flag in option.flags}
    return (
        Option(("--help",) if "-h" in taken else ("-h", "--help"), "show the help and exit", group="General"),
        Option(
            ("--version",) if "-V" in taken else ("-V", "--version"),
            "show the version and exit",
            group="General",
        ),
    )


def manual_page(command: Command) -> str:
    """The page of `command` in man(7) macros."""
    lines = [
        f'.TH {command.name.upper()} 1 "" "virtscope {__version__}" "virtscope"',
        ".SH NAME",
        f"{_roff(command.name)} \\- {_roff(command.summary)}",
        ".SH SYNOPSIS",
        _synopsis(command),
        ".SH DESCRIPTION",
    ]
    for index, paragraph in enumerate(command.description.split("\n\n")):
        if index:
            lines.append(".PP")
        lines.append(_roff(" ".join(paragraph.split())))
    group = ""
    for option in (*all_options(command), *help_options(command)):
        if option.group != group:
            group = option.group
            lines.append(f".SH {group.upper()}")
        lines += [".TP", _option_heading(option), _roff(_option_text(option))]
    if command.columns:
        lines += [".SH COLUMNS", "For \\fB\\-o\\fR and \\fB\\-\\-sort\\fR:"]
        for column in command.columns:
            lines += [".TP", f"\\fB{_roff(column.name)}\\fR", _roff(_sentence(column.help))]
    for heading, text in command.notes:
        lines.append(f".SH {heading.upper()}")
        for index, paragraph in enumerate(text.split("\n\n")):
            if index:
                lines.append(".PP")
            lines.append(_roff(" ".join(paragraph.split())))
    lines.append(".SH EXIT STATUS")
    for code, meaning in command.exit_meanings or MEANINGS:
        lines += [".TP", f"\\fB{code}\\fR", _roff(meaning)]
    if command.examples:
        lines.append(".SH EXAMPLES")
        for example in command.examples:
            lines += [".TP", f"\\fB{_roff(example.command)}\\fR", _roff(_sentence(example.text))]
    others = [name for name in command.see_also if name != command.name]
    if others:
        lines += [".SH SEE ALSO", ", ".join(f"\\fB{_roff(name)}\\fR(1)" for name in others)]
    return "\n".join(lines) + "\n"


def print_manual(arguments: Sequence[str]) -> int:
    """`virtscope man COMMAND`: shows the page through man(1) on a terminal, else prints its source."""
    entry = find(arguments[0]) if len(arguments) == 1 else None
    if entry is None:
        names = ", ".join(known.short_name for known in COMMANDS)
        print(f"virtscope man: name one command: {names}", file=sys.stderr)
        return FAILED
    page = manual_page(entry.load())
    if sys.stdout.isatty():
        import shutil
        import subprocess

        if shutil.which("man"):
            return subprocess.run(["man", "-l", "-"], input=page.encode(), check=False).returncode
    sys.stdout.write(page)
    return OK

"""From a command's table to its argument parser."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from virtscope import __version__
from virtscope.cli.command import Command, Option
from virtscope.cli.exit_codes import FAILED
from virtscope.cli.options import all_options


class _Parser(argparse.ArgumentParser):
    """An argparse parser whose complaints are one sentence on standard error."""

    def error(self, message: str) -> Any:
        self.exit(FAILED, f"{self.prog}: {message} (try {self.prog} --help)\n")


def _converter(option: Option) -> Any:
    """argparse shows its own words for a ValueError; show ours."""

    def convert(text: str) -> Any:
        try:
            return option.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _keywords(option: Option) -> dict[str, Any]:
    keywords: dict[str, Any] = {"help": option.help.replace("%", "%%"), "default": option.default}
    if option.action is not None:
        keywords |= {"action": option.action, "metavar": option.metavar, "nargs": option.nargs}
    elif option.metavar is None and not option.is_positional:
        keywords["action"] = "store_true"
        keywords["default"] = bool(option.default)
    else:
        keywords["metavar"] = option.metavar
        if option.parse is not str:
            keywords["type"] = _converter(option)
        if option.choices:
            keywords["choices"] = option.choices
        if option.repeat:
            keywords["action"] = "append"
        if option.nargs:
            keywords["nargs"] = option.nargs
    if option.dest and not option.is_positional:
        keywords["dest"] = option.dest
    return keywords


def _descending(arguments: Sequence[str]) -> Iterator[str]:
    """`--sort -rss` as ps users write it: argparse would take the value for another option."""
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--sort":
            argument = f"--sort={next(waiting, '')}"
        yield argument


def parse(command: Command, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options in `argv` (default: the process's arguments); exits with 2 if they are wrong."""
    arguments = sys.argv[1:] if argv is None else argv
    if command.rewrite is not None:
        arguments = list(command.rewrite(arguments))
    parser = build_parser(command)
    args = parser.parse_args(list(_descending(arguments)))
    forms = [f"--{name}" for name in ("json", "jsonl", "csv") if getattr(args, name, False)]
    if len(forms) > 1:
        parser.error(f"{' and '.join(forms)} exclude each other")
    return args


def build_parser(command: Command) -> argparse.ArgumentParser:
    """The parser of `command`; `-h` is help unless the command uses it in its classic meaning."""
    parser = _Parser(
        prog=command.name,
        description=command.description.split("\n\n")[0],
        epilog=f"More in the manual: man {command.name}",
        add_help=False,
        allow_abbrev=False,
    )
    # What only commands with columns take is still asked of the parsed options of all.
    parser.set_defaults(csv=False, columns=None, sort=None, no_headings=False)
    options = all_options(command)
    groups: dict[str, Any] = {}
    for option in options:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        groups[option.group].add_argument(*option.flags, **_keywords(option))
    taken = {flag for option in options for flag in option.flags}
    general = groups.get("General") or parser.add_argument_group("General")
    help_flags = ["--help"] if "-h" in taken else ["-h", "--help"]
    general.add_argument(*help_flags, action="help", help="show this help and exit")
    version_flags = ["--version"] if "-V" in taken else ["-V", "--version"]
    general.add_argument(
        *version_flags,
        action="version",
        version=f"{command.name} (virtscope) {__version__}",
        help="show the version and exit",
    )
    return parser

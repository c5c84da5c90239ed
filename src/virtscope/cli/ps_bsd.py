"""The options of BSD's ps, which have no dash: `virt-ps aux`, `virt-ps axjf`, `virt-ps axo pid,comm`.

`apply` is the entry point: it turns such words into the options that virt-ps has anyway. What they mean is
what ps(1) of procps says they mean, with two differences: there is no user outside the guest whose own
processes could be meant, so all are shown unless some are chosen; and what is not read is refused.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from virtscope.errors import UsageError

FORMATS: dict[str, tuple[str, ...]] = {
    "": ("pid", "tname", "stat", "bsdtime", "args"),
    "u": (
        *("user", "pid", "pcpu", "pmem", "vsz", "rss"),
        *("tname", "stat", "start_time", "bsdtime", "args"),
    ),
    "l": (
        *("f", "uid", "pid", "ppid", "priority", "ni", "vsz", "rss"),
        *("wchan", "stat", "tname", "bsdtime", "args"),
    ),
    "j": ("ppid", "pid", "pgleader", "sleader", "tname", "tpgid", "stat", "uid", "bsdtime", "args"),
}
"""The columns of each format; the first is that of BSD options without one."""

_LAST_ID = {"": "pid", "u": "pid", "l": "ppid", "j": "sleader"}
"""Behind which column each format has the ids of threads."""

_SWITCHES = "axgcfhHrwn"
"""Of these, w, g and n ask for what is so anyway: nothing is cut off, session leaders are shown, and users
are numbers.
"""

_LISTS = {"p": "pid", "t": "tty", "U": "user", "o": "columns", "k": "sort"}
"""Letters that take a list, as the rest of the word or as the next one, and which option they stand for."""

_REFUSED = {
    "T": "what is this terminal is known only inside the guest: choose one with t",
    "e": "the environment of processes is not read",
    "s": "signals are not read",
    "v": "page faults are not read",
    "X": "registers are not read",
    "m": "threads below their process are not shown: H shows them as lines of their own",
    "L": "virt-ps --help and its manual list the columns",
    "O": "name all columns with o",
    "S": "CPU times of children that have ended are not read",
}

_KNOWN = frozenset((*"ulj", *_SWITCHES, *_REFUSED))

_DASHED = re.compile(r"-a[a-zA-Z]*x[a-zA-Z]*")


def rewritten(arguments: Sequence[str]) -> Iterator[str]:
    """`-aux` as many write it: ps takes it for `aux`, as no user is called x."""
    for argument in arguments:
        yield argument[1:] if _DASHED.fullmatch(argument) else argument


def columns(args: argparse.Namespace) -> tuple[str, ...] | None:
    """The columns of the format that BSD options choose; None when they choose none.

    Options with a dash that choose a format are preferred: ps adds to theirs what it shows with BSD options.
    """
    if args.format is None or args.full or args.extra_full or args.long or args.jobs:
        return None
    names = []
    for name in FORMATS[args.format]:
        names.append("comm" if name == "args" and args.short_command else name)
        if args.thread_ids and name == _LAST_ID[args.format]:
            names.append("lwp")
        elif args.thread_ids and name == "pcpu":
            names.append("nlwp")
    return tuple(names)


def apply(args: argparse.Namespace, parse: Callable[[str, str], Any]) -> None:
    """Turn `args.bsd`, words as they were given, into the other options in `args`.

    Sets `args.format`, a key of `FORMATS` or None when there are no such words; `args.short_command`;
    `args.with_terminal`, whether only processes on a terminal are wanted; and `args.thread_ids`, whether
    threads are shown with their ids.

    Args:
        args: the parsed options.
        parse: reads the list of an option, named by its destination.

    Raises:
        UsageError: a word is none, or says what cannot be, or contradicts another.
    """
    formats: set[str] = set()
    switches: set[str] = set()
    words = iter(args.bsd)
    for word in words:
        _read(word, words, args, formats, switches, parse)
    args.format = None
    args.thread_ids = args.threads
    args.short_command = "c" in switches
    args.with_terminal = "a" in switches and "x" not in switches
    if not args.bsd:
        return
    if len(formats) > 1:
        raise UsageError(f"{' and '.join(sorted(formats))} are both formats: give one")
    if formats and (args.columns or args.full or args.extra_full or args.long or args.jobs):
        raise UsageError(f"{min(formats)} and another option both say which columns to show: give one")
    args.format = min(formats, default="")
    args.forest |= "f" in switches
    args.threads |= "H" in switches
    args.running |= "r" in switches
    args.no_headings |= "h" in switches


def _read(
    word: str,
    following: Iterator[str],
    args: argparse.Namespace,
    formats: set[str],
    switches: set[str],
    parse: Callable[[str, str], Any],
) -> None:
    if word[:1].isdigit():
        _add(args, "pid", word, parse)
        return
    options = word[: min((word.index(letter) for letter in _LISTS if letter in word), default=len(word))]
    unknown = next((letter for letter in options if letter not in _KNOWN), None)
    if unknown is not None:
        raise UsageError(
            f"{word!r} is no process id, and {unknown!r} is no option of BSD's ps (guests are named with -d, "
            "--qemu or -m)"
        )
    for place, letter in enumerate(word):
        if letter in _LISTS:
            value = word[place + 1 :] or next(following, "")
            if not value:
                raise UsageError(f"{letter} in {word!r} takes a list")
            _add(args, _LISTS[letter], value, parse)
            return
        if letter in FORMATS:
            formats.add(letter)
        elif letter in _SWITCHES:
            switches.add(letter)
        else:
            raise UsageError(f"{letter} in {word!r}: {_REFUSED[letter]}")


def _add(args: argparse.Namespace, dest: str, text: str, parse: Callable[[str, str], Any]) -> None:
    try:
        value = parse(dest, text)
    except ValueError as error:
        raise UsageError(str(error)) from None
    setattr(args, dest, [*(getattr(args, dest) or []), value])

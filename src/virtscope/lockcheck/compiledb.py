"""Which files to read, and with which compiler arguments.

:func:`load` reads a build folder's ``compile_commands.json``; :func:`plain` makes the same entries of files
and flags named on the command line. Of a compiler's command only what changes the meaning of the source is
kept.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import UsageError

_WITH_VALUE = (
    "-I",
    "-D",
    "-U",
    "-isystem",
    "-include",
    "-imacros",
    "-iquote",
    "-idirafter",
    "-isysroot",
    "-target",
)
_ALONE: tuple[str, ...] = (
    "-std=",
    "-ansi",
    "-pthread",
    "-m32",
    "-m64",
    "-funsigned-char",
    "-fshort-enums",
    "-fms-extensions",
)
_ALONE = (
    *_ALONE,
    "-fplan9-extensions",
    "-nostdinc",
    "-ffreestanding",
    "-fopenmp",
    "-traditional-cpp",
    "-fblocks",
    "--target=",
)
_C = (".c", ".i", ".C")
_LARGEST = 512 << 20


@dataclass(frozen=True, slots=True)
class Command:
    """How one file is compiled.

    Attributes:
        file: its absolute path.
        directory: where relative paths in the arguments start.
        arguments: what clang needs to read it.
    """

    file: str
    directory: str
    arguments: tuple[str, ...]


def load(path: str) -> list[Command]:
    """The C files of a build folder, or of a ``compile_commands.json`` itself; each file once, in the
    file's order.

    Raises:
        UsageError: there is no such file, or it is not a compilation database.
    """
    file = os.path.join(path, "compile_commands.json") if os.path.isdir(path) else path
    try:
        with open(file, encoding="utf-8") as stream:
            text = stream.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise UsageError(f"{file}: not a compilation database: it is larger than {_LARGEST >> 20} MiB")
        entries = json.loads(text)
    except OSError as error:
        raise UsageError(
            f"{file}: {error.strerror}: name a build folder that has compile_commands.json"
            " (meson and cmake -DCMAKE_EXPORT_COMPILE_COMMANDS=ON write one, bear makes one of any build)"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: not a compilation database: {error}") from None
    if not isinstance(entries, list):
        raise UsageError(f"{file}: not a compilation database: a list of commands was expected")
    found: dict[str, Command] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
            raise UsageError(f"{file}: entry {number} names no file")
        directory = os.path.join(os.path.dirname(os.path.abspath(file)), str(entry.get("directory", ".")))
        name = os.path.normpath(os.path.join(directory, entry["file"]))
        if not name.endswith(_C) or name in found:
            continue
        words = entry.get("arguments")
        if not isinstance(words, list):
            try:
                words = shlex.split(str(entry.get("command", "")))
            except ValueError as error:
                raise UsageError(
                    f"{file}: entry {number} ({name}): the command cannot be split: {error}"
                ) from None
        found[name] = Command(name, os.path.normpath(directory), keep([str(w) for w in words[1:]]))
    return list(found.values())


def plain(files: Iterable[str], arguments: Iterable[str] = ()) -> list[Command]:
    """The same for files named one by one; a folder stands for the C files right under it."""
    here = os.getcwd()
    words = keep(list(arguments))
    out: list[Command] = []
    for file in files:
        path = os.path.abspath(file)
        if os.path.isdir(path):
            names = [os.path.join(path, n) for n in _listed(path) if n.endswith(_C)]
        else:
            names = [path]
        out.extend(Command(name, here, words) for name in names)
    return out


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be listed: {error.strerror}") from None


def keep(words: list[str]) -> tuple[str, ...]:
    """The arguments that change what the source means: macros, folders, the language."""
    out: list[str] = []
    i = 0
    while i < len(words):
        word = words[i]
        if word in _WITH_VALUE:
            out.extend(words[i : i + 2])
            i += 1
        elif word == "-x":
            i += 1
        elif word.startswith(_WITH_VALUE) or word.startswith(_ALONE):
            out.append(word)
        i += 1
    return tuple(out)

"""bitmatch: look at data with a pattern, and make patterns from C headers and BTF."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from virtscope.cli.command import Column, Command, Example, Line, Option

if TYPE_CHECKING:
    from virtscope.bitmatch import FieldAt, Imported, Record
    from virtscope.guest import Guest

VERBS = ("view", "import-c", "import-btf")
_IMPORT = "Options of import-c and import-btf"
_VIEW = "Options of view"


@dataclass(frozen=True, slots=True)
class ViewedField:
    """A field that was found in a file.

    Attributes:
        offset: where its first byte is, from the start of the file.
        bit: the bit in that byte where it begins, 0 for a field of whole bytes.
        size_bits: how many bits it takes.
        field: its name, with those of the fields around it ("entries[3].type").
        value: a number, text, or data in hexadecimal; None for a field that only holds others.
    """

    offset: int
    bit: int
    size_bits: int
    field: str
    value: int | float | str | None


@dataclass(frozen=True, slots=True)
class ImportedPattern:
    """A pattern that was made: its name, the size of what it describes, and its text (or a Python module)."""

    name: str
    size_bytes: int
    text: str


def _number(text: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if number < 0:
        raise ValueError(f"{text!r} is not a number from 0 on (0x... for hexadecimal)")
    return number


def _check(args: argparse.Namespace) -> None:
    from virtscope.errors import UsageError

    if args.verb == "view":
        if not args.pattern:
            raise UsageError("view needs --pattern: the file of its text, or MODULE:NAME")
    elif not args.struct:
        raise UsageError(f"{args.verb} needs --struct: the name of a structure")


def _rows(_guest: Guest | None, args: argparse.Namespace) -> Iterator[ViewedField | ImportedPattern]:
    from virtscope.bitmatch import BitmatchError
    from virtscope.errors import UsageError

    try:
        if args.verb == "view":
            yield from _view(args)
        else:
            yield from _import(args)
    except BitmatchError as error:
        # The line of a pattern and its caret, which some errors show, do not fit one sentence.
        raise UsageError(str(error).split("\n")[0]) from None
    except OSError as error:
        raise UsageError(
            f"{error.filename or args.file}: cannot be read: {error.strerror or error}"
        ) from None


def _import(args: argparse.Namespace) -> Iterator[ImportedPattern]:
    from virtscope.bitmatch import import_btf, import_c

    made: Imported
    if args.verb == "import-c":
        made = import_c(
            args.file,
            args.struct,
            target=args.target,
            include=args.include or (),
            before=args.before or (),
            arguments=[f"-D{name}" for name in args.define or ()],
        )
    else:
        made = import_btf(args.file, args.struct, base=args.base)
    if args.python:
        yield ImportedPattern(made.name, made.sizes[made.name], made.source())
        return
    for name, text in made.texts.items():
        yield ImportedPattern(name, made.sizes[name], text)


def _load(name: str) -> type[Record]:
    """The pattern in a file, or the one called MODULE:NAME."""
    import importlib
    import os

    from virtscope.bitmatch import Record, pattern
    from virtscope.errors import UsageError

    module, colon, attribute = name.partition(":")
    if not colon or os.path.exists(name):
        with open(name, encoding="utf-8", errors="replace") as file:
            text = file.read(1 << 20)
        return pattern(os.path.splitext(os.path.basename(name))[0], text, names={})
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{name}: there is no such pattern ({error})") from None
    if not (isinstance(found, type) and issubclass(found, Record)):
        raise UsageError(f"{name} is no pattern")
    return found


def _view(args: argparse.Namespace) -> Iterator[ViewedField]:
    from virtscope.bitmatch import MatchError, describe
    from virtscope.bitmatch.bits import MAX_WINDOW
    from virtscope.errors import FormatError

    made = _load(args.pattern)
    with open(args.file, "rb") as file:
        start = args.offset
        for index in range(args.count):
            file.seek(start)
            data = file.read(MAX_WINDOW)
            size = 0
            try:
                found = describe(made, data)
            except MatchError as error:
                raise FormatError(
                    error.pattern,
                    f"expected {error.expected}, got {error.got}",
                    field=error.field,
                    offset=start + error.offset,
                ) from None
            for step in found:
                size = max(size, step.offset_bits + step.size_bits)
                yield _viewed(step, start, f"[{index}]." if args.count > 1 else "")
            start += size + 7 >> 3


def _viewed(step: FieldAt, start: int, before: str) -> ViewedField:
    path = step.path if step.path.startswith("[") else before + step.path
    return ViewedField(
        start + (step.offset_bits >> 3), step.offset_bits & 7, step.size_bits, path, _shown(step.value)
    )


def _shown(value: Any) -> int | float | str | None:
    """A value as a row has it."""
    from virtscope.bitmatch import Bits, Record

    if value is None or isinstance(value, int | float | str):
        return value
    if isinstance(value, Record):
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, Bits):
        return repr(value) if len(value) & 7 else bytes(value).hex()
    if isinstance(value, tuple):
        if any(isinstance(item, Record | tuple) for item in value):
            return None
        return " ".join(str(_shown(item)) for item in value)
    return str(value)


def _text(rows: Iterable[ViewedField | ImportedPattern], _args: argparse.Namespace) -> Iterator[Line]:
    blank = False
    for row in rows:
        if isinstance(row, ImportedPattern):
            if blank:
                yield Line("")
            blank = True
            yield from (Line(line) for line in row.text.splitlines())
            continue
        place = f"{row.offset:#010x}" + (f".{row.bit}" if row.bit else "  ")
        size = f"{row.size_bits >> 3}" if not row.size_bits & 7 else f"{row.size_bits} bits"
        value = row.value
        shown = "" if value is None else f"{value} ({value:#x})" if _is_large(value) else str(value)
        shown = shown if len(shown) <= 200 else f"{shown[:197]}..."
        yield Line(f"{place} {size:>8}  {row.field:<32} {shown}".rstrip())


def _is_large(value: int | float | str) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) > 9


def _column(name: str, heading: str, help: str) -> Column:
    return Column(name, heading, lambda row: getattr(row, name, None), help)


COMMAND = Command(
    name="bitmatch",
    summary="look at data with a bit pattern, and make patterns from C headers and BTF",
    description="""Shows what a pattern finds in a file, field by field, with places and values; and writes
the pattern of a C structure with the compiler's true layout, from a header or from a kernel's BTF.

The language of patterns is described in docs/bitmatch.md.""",
    options=(
        Option(("verb",), "what to do: look at a file, or make a pattern", choices=VERBS),
        Option(
            ("file",),
            "the file to look at, a C header (or its #include name), or BTF",
            complete="file",
        ),
        Option(
            ("-p", "--pattern"),
            "the file with its text, or MODULE:NAME",
            metavar="PATTERN",
            group=_VIEW,
            complete="file",
        ),
        Option(("--offset",), "where to begin, in bytes", metavar="N", parse=_number, default=0, group=_VIEW),
        Option(("--count",), "how many records in a row", metavar="N", parse=_number, default=1, group=_VIEW),
        Option(("--struct",), "the structure, union or typedef", metavar="NAME", group=_IMPORT),
        Option(("--python",), "write a Python module", group=_IMPORT),
        Option(
            ("-t", "--target"),
            "the machine, as compilers call it (aarch64-linux-gnu)",
            metavar="T",
            group=_IMPORT,
        ),
        Option(
            ("-I", "--include"),
            "a folder to search for headers",
            metavar="DIR",
            repeat=True,
            group=_IMPORT,
            complete="file",
        ),
        Option(
            ("-D", "--define"), "a macro, as NAME or NAME=VALUE", metavar="NAME", repeat=True, group=_IMPORT
        ),
        Option(("--before",), "a header to include first", metavar="HEADER", repeat=True, group=_IMPORT),
        Option(
            ("--base",),
            "the kernel's BTF, for that of a module",
            metavar="FILE",
            group=_IMPORT,
            complete="file",
        ),
    ),
    columns=(
        _column("offset", "OFFSET", "where the field's first byte is"),
        _column("bit", "BIT", "the bit in that byte where the field begins"),
        _column("size_bits", "BITS", "how many bits the field takes"),
        _column("field", "FIELD", "the name, with those of the fields around it"),
        _column("value", "VALUE", "the value; data in hexadecimal"),
        _column("name", "NAME", "the name of a pattern that was made"),
        _column("size_bytes", "SIZE", "the size of what it describes"),
        _column("text", "TEXT", "its text"),
    ),
    default_columns=lambda args: (
        ("offset", "bit", "size_bits", "field", "value")
        if args.verb == "view"
        else ("name", "size_bytes", "text")
    ),
    rows=_rows,
    text=_text,
    check=_check,
    examples=(
        Example("bitmatch import-c linux/if_ether.h --struct ethhdr", "the pattern of an Ethernet header"),
        Example(
            "bitmatch import-btf /sys/kernel/btf/vmlinux --struct task_struct --python > task.py",
            "a Python module with the pattern of this kernel's task_struct and of all it contains",
        ),
        Example(
            "bitmatch view disk.img --offset 1024 --pattern superblock.txt", "the superblock of an image"
        ),
    ),
)
main = COMMAND.main

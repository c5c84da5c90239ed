"""The errors of bitmatch, in one small tree of their own (bitmatch imports nothing else of virtscope).

    BitmatchError
    ├── PatternError      the text of a pattern cannot be understood; points at the line and the column
    ├── MatchError        bytes do not have the form the pattern describes; names the field and the offset
    ├── BuildError        values that cannot be written as the pattern says; names the field
    └── DeclarationError  a C header or BTF from which no pattern can be made

All of them are also ValueErrors.
"""

from __future__ import annotations


class BitmatchError(ValueError):
    """Base of everything bitmatch raises on purpose."""


class PatternError(BitmatchError):
    """The text of a pattern is wrong.

    Args:
        pattern: the name of the pattern.
        problem: what is wrong, in half a sentence.
        text: the whole text of the pattern.
        place: where in the text, in characters from its start.

    Attributes:
        line: the line in the text, counted from 1.
        column: the column in that line, counted from 1.
    """

    def __init__(self, pattern: str, problem: str, text: str = "", place: int | None = None) -> None:
        self.pattern = pattern
        self.problem = problem
        self.line: int | None = None
        self.column: int | None = None
        if place is None:
            super().__init__(f"{pattern}: {problem}")
            return
        start = text.rfind("\n", 0, place) + 1
        stop = text.find("\n", place)
        source = text[start : stop if stop >= 0 else len(text)]
        self.line = text.count("\n", 0, place) + 1
        self.column = place - start + 1
        caret = "".join("\t" if char == "\t" else " " for char in source[: place - start]) + "^"
        super().__init__(
            f"{pattern}, line {self.line}, column {self.column}: {problem}\n    {source}\n    {caret}"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), self.args, self.__dict__)


class MatchError(BitmatchError):
    """Bytes do not have the form that a pattern describes.

    Attributes:
        pattern: the name of the pattern.
        field: the field, as a path ("entries[3].type"); empty when no single field is to blame.
        offset: where that field begins, in bytes from the start of the buffer.
        bit: the bit in that byte where it begins, 0 unless the field is not byte-aligned.
        expected: what the pattern asks for, as text.
        got: what is there, as text.
    """

    def __init__(
        self, pattern: str, field: str, offset: int, expected: str, got: str, *, bit: int = 0
    ) -> None:
        self.pattern = pattern
        self.field = field
        self.offset = offset
        self.bit = bit
        self.expected = expected
        self.got = got
        name = f" {field}" if field else ""
        place = f"offset {offset:#x}" + (f" bit {bit}" if bit else "")
        super().__init__(f"{pattern}:{name} at {place}: expected {expected}, got {got}")

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), self.args, self.__dict__)


class BuildError(BitmatchError):
    """Values that cannot be written as a pattern says: out of range, missing, unknown, or of the wrong type.

    Attributes:
        pattern: the name of the pattern.
        field: the field, as a path.
        problem: what is wrong with its value.
    """

    def __init__(self, pattern: str, field: str, problem: str) -> None:
        self.pattern = pattern
        self.field = field
        self.problem = problem
        super().__init__(f"{pattern}: {field}: {problem}" if field else f"{pattern}: {problem}")

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), self.args, self.__dict__)


class DeclarationError(BitmatchError):
    """No pattern can be made of this C header or BTF: unreadable, or the structure is not in it."""


def _restore(kind: type[BitmatchError], args: tuple[object, ...], state: dict[str, object]) -> BitmatchError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error

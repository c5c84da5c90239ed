"""Source code as it is written: lines, names, and the objects that the code needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Source:
    """Lines of Python, and the globals they are to run with."""

    def __init__(self, indent: int = 0) -> None:
        self.lines: list[str] = []
        self.indent = indent
        self.globals: dict[str, object] = {}
        self.bound: dict[int, str] = {}
        self.counter = 0

    def line(self, code: str) -> None:
        """A line of source at the current indentation."""
        self.lines.append("    " * self.indent + code)

    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        """An indented block under `header`."""
        self.line(header)
        self.indent += 1
        yield
        self.indent -= 1

    def fresh(self, stem: str) -> str:
        """A new local name."""
        self.counter += 1
        return f"{stem}{self.counter}"

    def bind(self, value: object, name: str) -> str:
        """The global name under which generated code finds `value`."""
        known = self.bound.get(id(value))
        if known is None:
            known = f"_{name}{len(self.bound)}"
            self.bound[id(value)] = known
            self.globals[known] = value
        return known

    def call(self, function: Callable[..., object]) -> str:
        """The global name of a function."""
        return self.bind(function, function.__name__)

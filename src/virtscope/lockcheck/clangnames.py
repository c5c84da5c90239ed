"""Where cursors are, and what types are called."""

from __future__ import annotations

import ctypes
import re
from typing import Any

from .clangapi import Clang, Cursor, String
from .clangkinds import ARRAYS, POINTER, TYPEDEF_DECL

_QUALIFIERS = re.compile(r"\b(const|volatile|restrict|_Atomic)\b\s*")


class Places:
    """Lines and files of cursors, where a macro was used rather than where it was defined."""

    def __init__(self, clang: Clang, presumed: bool) -> None:
        self._clang = clang
        self._file = ctypes.c_void_p()
        self._line, self._column, self._offset = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
        self._out = tuple(ctypes.byref(x) for x in (self._file, self._line, self._column, self._offset))
        self._names: dict[int | None, str] = {}
        self.presumed = presumed

    def line(self, cursor: Cursor) -> int:
        """The line of a cursor, following ``#line`` in preprocessed input."""
        where = self._clang.getCursorLocation(cursor)
        if self.presumed:
            return self._presumed_at(where)[1]
        self._clang.getExpansionLocation(where, *self._out)
        return int(self._line.value)

    def place(self, cursor: Cursor) -> tuple[str, int]:
        """The file and line of a cursor."""
        where = self._clang.getCursorLocation(cursor)
        if self.presumed:
            return self._presumed_at(where)
        self._clang.getExpansionLocation(where, *self._out)
        key = self._file.value
        if key not in self._names:
            self._names[key] = self._clang.text(self._clang.getFileName(self._file)) if key else ""
        return self._names[key], int(self._line.value)

    def start(self, cursor: Cursor) -> int:
        """The byte offset at which a cursor's extent starts."""
        where = self._clang.getRangeStart(self._clang.getCursorExtent(cursor))
        self._clang.getExpansionLocation(where, *self._out)
        return int(self._offset.value)

    def last_line(self, cursor: Cursor) -> int:
        """The line on which a cursor's extent ends."""
        where = self._clang.getRangeEnd(self._clang.getCursorExtent(cursor))
        if self.presumed:
            return self._presumed_at(where)[1]
        self._clang.getExpansionLocation(where, *self._out)
        return int(self._line.value)

    def _presumed_at(self, where: Any) -> tuple[str, int]:
        name = String()
        self._clang.getPresumedLocation(where, ctypes.byref(name), self._out[1], self._out[2])
        return self._clang.text(name), int(self._line.value)


class Types:
    """The names types go by, remembered per spelling."""

    def __init__(self, clang: Clang) -> None:
        self._clang = clang
        self._known: dict[str, tuple[list[str], bool]] = {}

    def names(self, kind: Any) -> tuple[str, list[str], bool]:
        """How a type is spelled, every name it goes by under pointers and arrays, and whether it is a
        pointer.
        """
        text = self._clang.type_text(kind)
        if text not in self._known:
            self._known[text] = self._look(kind)
        names, pointer = self._known[text]
        return text, names, pointer

    def _look(self, kind: Any) -> tuple[list[str], bool]:
        pointer = self._clang.getCanonicalType(kind).kind == POINTER
        out: list[str] = []
        for _ in range(16):
            name = _QUALIFIERS.sub("", self._clang.type_text(kind)).strip()
            if name and name not in out and not name.endswith(("*", "]", ")")):
                out.append(name)
            if kind.kind == POINTER:
                kind = self._clang.getPointeeType(kind)
            elif kind.kind in ARRAYS:
                kind = self._clang.getArrayElementType(kind)
            else:
                inner = self._unfold(kind)
                if inner is None:
                    break
                kind = inner
        return out, pointer

    def _unfold(self, kind: Any) -> Any | None:
        """What a typedef stands for, or None at the end of the chain."""
        declaration = self._clang.getTypeDeclaration(kind)
        if declaration.kind == TYPEDEF_DECL:
            return self._clang.getTypedefDeclUnderlyingType(declaration)
        canonical = self._clang.getCanonicalType(kind)
        same = self._clang.type_text(canonical) == self._clang.type_text(kind)
        return None if same or canonical.kind == kind.kind else canonical

"""Reads one C translation unit with clang and keeps what the analysis needs of it.

:func:`read` is the entry point. Old code, missing headers and code that does not quite compile are normal
here: clang recovers, what it understood is analysed, and :attr:`~.ir.Unit.problem` says what it stumbled
over.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import re
import stat
import sys
from typing import Any

from . import cfg
from .clangapi import INCLUSION_VISITOR, Clang, Cursor, Location, clang
from .clangkinds import COMPOUND, FUNCTION_DECL, INIT_LIST, PARM_DECL, VAR_DECL
from .clangtree import Tree
from .ir import Function, Table, Unit

_INCOMPLETE, _KEEP_GOING = 0x02, 0x200
_SOURCES = (".c", ".i", ".inc", ".C")
_ERRORS = ("did not compile", "ran out of memory or crashed", "was refused", "could not be read back")
_TOLERANT = ["-ferror-limit=0", "-w", "-fbracket-depth=4096", "-Wno-error", "-Wno-return-type"]
_TOLERANT += ["-Wno-implicit-function-declaration", "-Wno-implicit-int", "-Wno-int-conversion"]
_TOLERANT += ["-Wno-incompatible-function-pointer-types", "-Wno-incompatible-pointer-types"]
_ATTEMPTS = 3
_LARGEST = 256 << 20
_DEPTH = 20000
"""How deeply statements may nest before a function is given up."""


def builtin_headers() -> list[str]:
    """Folders with ``stddef.h`` and its like: the libclang package brings none, so an installed compiler's
    serve. Before GCC's comes a folder of our own, with what clang cannot read of GCC's.
    """
    ours = os.path.join(os.path.dirname(__file__), "headers")
    for pattern in (
        "/usr/lib/llvm-*/lib/clang/*/include",
        "/usr/lib/clang/*/include",
        "/usr/lib/gcc/x86_64*/*/include",
        "/usr/lib/gcc/*/*/include",
        "/usr/lib64/gcc/*/*/include",
    ):
        found = sorted(x for x in glob.glob(pattern) if os.path.exists(os.path.join(x, "stddef.h")))
        if found:
            return [ours, *found[-1:]] if "/gcc/" in pattern else found[-1:]
    return []


def read(file: str, arguments: list[str], directory: str = ".") -> Unit:
    """Reads one file.

    Args:
        file: its path, absolute or relative to ``directory``.
        arguments: the compiler's arguments that matter to reading (see :mod:`.compiledb`).
        directory: where relative paths in them start.

    Returns:
        The unit; a file that could not be read at all is one whose ``fatal`` is set and whose ``problem``
        says why.
    """
    path = os.path.normpath(os.path.join(directory, file))
    unit = Unit(path)
    try:
        source = _source(path)
        for word in arguments:
            os.fsencode(word)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "its name or arguments hold what no name can"
        unit.problem, unit.fatal = f"cannot be opened: {why}", True
        return unit
    library = clang()
    words = [f"-working-directory={os.path.abspath(directory)}", *arguments]
    if not any(w.startswith("-resource-dir") for w in arguments):
        words += [x for folder in builtin_headers() for x in ("-isystem", folder)]
    words += _TOLERANT
    limit = sys.getrecursionlimit()
    index = library.createIndex(0, 0)
    try:
        sys.setrecursionlimit(max(limit, _DEPTH))
        handle, first, errors = _parse(library, index, path, words)
        if handle is None:
            unit.problem, unit.fatal = first, True
            return unit
        try:
            unit.problem = first
            unit.includes = _inclusions(library, handle) + _missing(path, arguments, directory, errors)
            _Reader(library, handle, unit, source, bool(errors)).run()
        finally:
            library.disposeTranslationUnit(handle)
    finally:
        sys.setrecursionlimit(limit)
        library.disposeIndex(index)
    return unit


def _source(path: str) -> bytes:
    """A file's bytes; what is no file is not waited for, and what is too large is not read."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is a device or a pipe, not a file")
    if status.st_size > _LARGEST:
        raise OSError(errno.EFBIG, f"it is larger than {_LARGEST >> 20} MiB")
    with open(path, "rb") as stream:
        return stream.read()


def _parse(library: Clang, index: Any, path: str, words: list[str]) -> tuple[Any, str, list[str]]:
    """Parses; names that missing headers would have defined are given some meaning in a next try.

    Without that clang drops every statement that mentions them, and a ``return`` or an unlock with it.

    Returns:
        The unit's handle (None when clang gave up), the first error and how many followed it, in one
        sentence, and all errors of the last try.
    """
    first = ""
    defined: dict[str, str] = {}
    errors: list[str] = []
    for attempt in range(_ATTEMPTS):
        extra = [f"-D{name}={meaning}" for name, meaning in defined.items()]
        array = (ctypes.c_char_p * (len(words) + len(extra)))(*[os.fsencode(w) for w in (*words, *extra)])
        handle = ctypes.c_void_p()
        options = _INCOMPLETE | _KEEP_GOING
        status = library.parseTranslationUnit2(
            index, os.fsencode(path), array, len(array), None, 0, options, ctypes.byref(handle)
        )
        if status != 0 or not handle.value:
            return None, f"clang gave up: it {_ERRORS[min(max(status, 1), 4) - 1]}", []
        errors = _errors(library, handle)
        if attempt == 0 and errors:
            first = errors[0] if len(errors) == 1 else f"{errors[0]} (and {len(errors) - 1} more)"
        unknown = {name: meaning for e in errors for name, meaning in _unknown(e) if name not in defined}
        if not unknown or attempt == _ATTEMPTS - 1:
            break
        library.disposeTranslationUnit(handle)
        defined.update(unknown)
    return handle, first, errors


def _unknown(error: str) -> list[tuple[str, str]]:
    """The name an error does not know, and what it may stand for: a string for a constant, int for a type."""
    found = re.search(r"use of undeclared identifier '([A-Z][A-Z0-9_]+)'", error)
    if found:
        return [(found[1], '""')]
    found = re.search(r"unknown type name '([A-Za-z_]\w*)'", error)
    return [(found[1], "int")] if found else []


def _errors(library: Clang, handle: Any) -> list[str]:
    """What clang calls errors, each with its place."""
    out = []
    for i in range(library.getNumDiagnostics(handle)):
        diagnostic = library.getDiagnostic(handle, i)
        if library.getDiagnosticSeverity(diagnostic) >= 3:
            out.append(library.text(library.formatDiagnostic(diagnostic, 1)))
        library.disposeDiagnostic(diagnostic)
    return out


def _inclusions(library: Clang, handle: Any) -> list[str]:
    out: list[str] = []

    def visit(file: int, _stack: Any, _depth: int, _data: Any) -> None:
        out.append(library.text(library.getFileName(file)))

    library.getInclusions(handle, INCLUSION_VISITOR(visit), None)
    return sorted({os.path.normpath(x) for x in out})


def _missing(path: str, arguments: list[str], directory: str, errors: list[str]) -> list[str]:
    """Where headers that were not found may appear later."""
    names = {m[1] for e in errors if (m := re.search(r"'([^']+)' file not found", e))}
    if not names:
        return []
    folders = {os.path.dirname(path)}
    for i, word in enumerate(arguments):
        for flag in ("-I", "-isystem", "-iquote", "-idirafter"):
            if word == flag and i + 1 < len(arguments):
                folders.add(arguments[i + 1])
            elif word.startswith(flag):
                folders.add(word[len(flag) :])
    return sorted(os.path.normpath(os.path.join(directory, f, n)) for f in folders for n in names)


class _Reader:
    """One pass over the top level of a unit, then over the functions that matter."""

    def __init__(self, library: Clang, handle: Any, unit: Unit, source: bytes, broken: bool) -> None:
        self.clang = library
        self.unit = unit
        self.root = library.getTranslationUnitCursor(handle)
        self.preprocessed = unit.file.endswith(".i") or source.startswith((b"# 1 ", b"# 0 ", b"#line 1 "))
        self.tree = Tree(library, self.preprocessed, source, broken)
        self.headers: dict[str, Cursor] = {}
        self.done: set[str] = set()
        self.wanted: list[str] = []

    def run(self) -> None:
        for cursor in self.clang.children(self.root):
            kind = cursor.kind
            if kind == FUNCTION_DECL:
                self._top_function(cursor)
            elif kind == VAR_DECL:
                self._top_variable(cursor)
        # Inline functions of the project's own headers count when something here calls them.
        while self.wanted:
            key = self.wanted.pop()
            if key in self.headers:
                self._function(self.headers.pop(key), key)

    def _top_function(self, cursor: Cursor) -> None:
        if not self.clang.isCursorDefinition(cursor):
            return  # most of a unit: what headers declare
        where = self.clang.getCursorLocation(cursor)
        here = self._from_here(cursor, where)
        if here or not self.clang.Location_isInSystemHeader(where):
            key = self.tree.function_key(cursor)
            self.tree.statics[self.clang.spelling(cursor)] = key
            if here:
                self._function(cursor, key)
            else:
                self.headers[key] = cursor

    def _from_here(self, cursor: Cursor, where: Location) -> bool:
        if self.preprocessed:
            if self.clang.Location_isInSystemHeader(where):
                return False
            return self.tree.where.place(cursor)[0].endswith(_SOURCES)
        if self.clang.Location_isFromMainFile(where):
            return True
        if self.clang.Location_isInSystemHeader(where):
            return False
        return self.tree.where.place(cursor)[0].endswith(_SOURCES)

    def _function(self, cursor: Cursor, key: str) -> None:
        if key in self.done:
            return
        self.done.add(key)
        file, line = self.tree.where.place(cursor)
        tree = self.tree
        tree.begin()
        result = self.clang.getResultType(self.clang.getCursorType(cursor))
        text, names, _pointer = tree.types.names(result)
        function = Function(
            key, self.clang.spelling(cursor), os.path.normpath(file), line, ":" in key, names, text == "void"
        )
        try:
            body = tree.body(cursor)
        except (RecursionError, ctypes.ArgumentError):  # ctypes wraps what happens while it converts
            function.problem = "is nested too deeply"
            self.unit.functions.append(function)
            return
        if body is None:
            return
        function.variables = tree.variables
        function.results = tree.results
        function.taken = sorted(set(tree.taken))
        cfg.build(function, body)
        self.unit.functions.append(function)
        for name in (*tree.results, *tree.taken):
            if name in self.headers:
                self.wanted.append(name)
        # A cleanup function is mentioned by an attribute alone.
        self.wanted.extend(name for name in tree.cleanups if name in self.headers)

    def _top_variable(self, cursor: Cursor) -> None:
        where = self.clang.getCursorLocation(cursor)
        if self.clang.Location_isInSystemHeader(where) or not self._from_here(cursor, where):
            return
        initialiser = self.clang.Cursor_getVarDeclInitializer(cursor)
        if initialiser.kind != INIT_LIST:
            return
        self.tree.begin()
        names = self.tree.types.names(self.clang.getCursorType(cursor))[1]
        functions: list[str] = []
        stack = [initialiser]
        while stack:
            node = stack.pop()
            if node.kind == 101:
                target = self.clang.getCursorReferenced(node)
                if target.kind == FUNCTION_DECL:
                    functions.append(self.tree.function_key(target))
            elif node.kind not in (COMPOUND, PARM_DECL):
                stack.extend(reversed(self.clang.children(node)))
        if functions:
            file, line = self.tree.where.place(cursor)
            table = Table(self.clang.spelling(cursor), names, os.path.normpath(file), line, functions)
            self.unit.tables.append(table)

"""The few functions of libclang's C interface that are needed, bound directly.

The official Python bindings wrap every cursor, type and string in objects and comparisons, which costs more
than the walk itself; only the shared library of the ``libclang`` package is used here. Its stable C
interface is described in clang's ``clang-c/Index.h``.
"""

from __future__ import annotations

import ctypes
import glob
import importlib.util
import os
from typing import Any

from ..errors import MissingDependency


class Cursor(ctypes.Structure):
    """CXCursor; ``data[0]`` is the declaration or its parent, which identifies a declaration in its unit."""

    _fields_ = [("kind", ctypes.c_int), ("xdata", ctypes.c_int), ("data", ctypes.c_void_p * 3)]


class Type(ctypes.Structure):
    """CXType."""

    _fields_ = [("kind", ctypes.c_int), ("data", ctypes.c_void_p * 2)]


class Location(ctypes.Structure):
    """CXSourceLocation."""

    _fields_ = [("data", ctypes.c_void_p * 2), ("number", ctypes.c_uint)]


class Range(ctypes.Structure):
    """CXSourceRange."""

    _fields_ = [("data", ctypes.c_void_p * 2), ("begin", ctypes.c_uint), ("end", ctypes.c_uint)]


class String(ctypes.Structure):
    """CXString, to be released once read."""

    _fields_ = [("data", ctypes.c_void_p), ("flags", ctypes.c_uint)]


_POINTER, _INT, _UINT = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint
VISITOR = ctypes.CFUNCTYPE(_INT, Cursor, Cursor, _POINTER)
INCLUSION_VISITOR = ctypes.CFUNCTYPE(None, _POINTER, ctypes.POINTER(Location), _UINT, _POINTER)

_PROTOTYPES: dict[str, tuple[list[Any], Any]] = {
    "createIndex": ([_INT, _INT], _POINTER),
    "disposeIndex": ([_POINTER], None),
    "parseTranslationUnit2": (
        [_POINTER, ctypes.c_char_p, _POINTER, _INT, _POINTER, _UINT, _UINT, ctypes.POINTER(_POINTER)],
        _INT,
    ),
    "disposeTranslationUnit": ([_POINTER], None),
    "getTranslationUnitCursor": ([_POINTER], Cursor),
    "visitChildren": ([Cursor, VISITOR, _POINTER], _UINT),
    "getCString": ([String], ctypes.c_char_p),
    "disposeString": ([String], None),
    "getCursorSpelling": ([Cursor], String),
    "getCursorReferenced": ([Cursor], Cursor),
    "getCursorSemanticParent": ([Cursor], Cursor),
    "getCursorType": ([Cursor], Type),
    "getCursorLinkage": ([Cursor], _INT),
    "getCursorLocation": ([Cursor], Location),
    "getCursorExtent": ([Cursor], Range),
    "getRangeStart": ([Range], Location),
    "getRangeEnd": ([Range], Location),
    "getExpansionLocation": ([Location, *[_POINTER] * 4], None),
    "getPresumedLocation": ([Location, ctypes.POINTER(String), _POINTER, _POINTER], None),
    "Location_isInSystemHeader": ([Location], _INT),
    "Location_isFromMainFile": ([Location], _INT),
    "getFileName": ([_POINTER], String),
    "getCursorBinaryOperatorKind": ([Cursor], _INT),
    "getCursorUnaryOperatorKind": ([Cursor], _INT),
    "getEnumConstantDeclValue": ([Cursor], ctypes.c_longlong),
    "Cursor_Evaluate": ([Cursor], _POINTER),
    "EvalResult_getKind": ([_POINTER], _INT),
    "EvalResult_getAsInt": ([_POINTER], _INT),
    "EvalResult_dispose": ([_POINTER], None),
    "Cursor_hasAttrs": ([Cursor], _UINT),
    "Cursor_hasVarDeclGlobalStorage": ([Cursor], _INT),
    "Cursor_getVarDeclInitializer": ([Cursor], Cursor),
    "isCursorDefinition": ([Cursor], _UINT),
    "getCursorDefinition": ([Cursor], Cursor),
    "getCursorPrintingPolicy": ([Cursor], _POINTER),
    "PrintingPolicy_dispose": ([_POINTER], None),
    "getCursorPrettyPrinted": ([Cursor, _POINTER], String),
    "getTypeSpelling": ([Type], String),
    "getCanonicalType": ([Type], Type),
    "getPointeeType": ([Type], Type),
    "getArrayElementType": ([Type], Type),
    "getResultType": ([Type], Type),
    "getTypeDeclaration": ([Type], Cursor),
    "getTypedefDeclUnderlyingType": ([Cursor], Type),
    "getNumDiagnostics": ([_POINTER], _UINT),
    "getDiagnostic": ([_POINTER, _UINT], _POINTER),
    "disposeDiagnostic": ([_POINTER], None),
    "getDiagnosticSeverity": ([_POINTER], _INT),
    "formatDiagnostic": ([_POINTER, _UINT], String),
    "getInclusions": ([_POINTER, INCLUSION_VISITOR, _POINTER], None),
}


class Clang:
    """The loaded library: every function of ``_PROTOTYPES`` is an attribute, without ``clang_``."""

    def __init__(self) -> None:
        library = ctypes.CDLL(_find())
        for name, (arguments, result) in _PROTOTYPES.items():
            try:
                function = getattr(library, f"clang_{name}")
            except AttributeError:
                raise MissingDependency(
                    f"this libclang ({library._name}) has no clang_{name}: install libclang 17 or later"
                    " (pip install libclang)"
                ) from None
            function.argtypes, function.restype = arguments, result
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def text(self, string: Any) -> str:
        """A CXString's text; the string is released."""
        raw = self.getCString(string)
        out = raw.decode(errors="surrogateescape") if raw else ""
        self.disposeString(string)
        return out

    def spelling(self, cursor: Cursor) -> str:
        """A cursor's name."""
        return self.text(self.getCursorSpelling(cursor))

    def type_text(self, kind: Type) -> str:
        """A type as C writes it."""
        return self.text(self.getTypeSpelling(kind))

    def children(self, cursor: Cursor) -> list[Cursor]:
        """The direct children of a cursor."""
        out: list[Cursor] = []
        add = out.append

        def visit(child: Cursor, _parent: Cursor, _data: Any) -> int:
            add(child)
            return 1

        _room()
        self.visitChildren(cursor, VISITOR(visit), None)
        return out


def _room(calls: int = 12) -> None:
    """Raises RecursionError when there is no room for a few calls: in what clang calls it would be lost."""
    if calls:
        _room(calls - 1)


def _find() -> str:
    spec = importlib.util.find_spec("clang")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for name in ("libclang.so", "libclang.dylib", "libclang.dll"):
            path = os.path.join(folder, "native", name)
            if os.path.exists(path):
                return path
    for pattern in (
        "/usr/lib/llvm-*/lib/libclang.so.1",
        "/usr/lib64/libclang.so.*",
        "/usr/lib/*/libclang-*.so.1",
    ):
        found = sorted(glob.glob(pattern))
        if found:
            return found[-1]
    raise MissingDependency("reading C needs libclang: pip install 'virtscope[c]' (or pip install libclang)")


_loaded: Clang | None = None


def clang() -> Clang:
    """The library, loaded once in a process.

    Raises:
        MissingDependency: there is no libclang, or one too old to tell operators apart.
    """
    global _loaded
    if _loaded is None:
        _loaded = Clang()
    return _loaded

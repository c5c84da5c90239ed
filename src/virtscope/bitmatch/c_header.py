"""Patterns from C headers, with the layout that a compiler for the chosen machine gives them.

libclang does the work (the `c` extra installs it): sizes, offsets, padding, bit-fields and alignment are the
compiler's, not ours.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .declarations import Array, Blob, Enumeration, Imported, Kind, Layout, Member, Number, import_layout
from .errors import DeclarationError
from .nodes import BIG, LITTLE

if TYPE_CHECKING:
    from clang import cindex

MAX_DEPTH = 100


def import_c(
    header: str,
    struct: str,
    *,
    target: str | None = None,
    include: Sequence[str] = (),
    before: Sequence[str] = (),
    arguments: Sequence[str] = (),
) -> Imported:
    """The patterns of a structure that a C header declares.

    Args:
        header: a file, or a header as an #include names it ("linux/fs.h").
        struct: the tag of a structure or a union, or a typedef.
        target: the machine, as compilers name it ("aarch64-linux-gnu"); by default this one.
        include: folders to search for headers.
        before: headers to include first, where one needs it.
        arguments: further arguments of the compiler ("-DCONFIG_X=1").

    Raises:
        DeclarationError: the header cannot be read, or it does not declare the structure.
    """
    return import_c_all(header, [struct], target=target, include=include, before=before, arguments=arguments)[
        struct
    ]


def import_c_all(
    header: str,
    structs: Sequence[str],
    *,
    target: str | None = None,
    include: Sequence[str] = (),
    before: Sequence[str] = (),
    arguments: Sequence[str] = (),
) -> dict[str, Imported]:
    """Like import_c(), for several structures of one header, which is read once."""
    unit = _parse(header, target, include, before, arguments)
    declared = _declarations(unit)
    reader = _Reader()
    order = _byte_order(target, arguments)
    found = {}
    for struct in structs:
        kind = declared.get(struct.removeprefix("struct ").removeprefix("union ").strip())
        if kind is None:
            raise DeclarationError(
                f"{header}: {struct} is not declared, or only announced{_guess(struct, declared)}"
            )
        found[struct] = import_layout(reader.layout(kind), order, os.path.basename(header))
    return found


def declared_structs(header: str, **options: Any) -> list[str]:
    """The tags and typedefs of all structures that a header and what it includes declare in full."""
    unit = _parse(
        header,
        options.get("target"),
        options.get("include", ()),
        options.get("before", ()),
        options.get("arguments", ()),
    )
    return list(_declarations(unit))


def _clang() -> Any:
    try:
        from clang import cindex
    except ImportError:
        raise DeclarationError("reading C headers needs libclang: pip install 'virtscope[c]'") from None
    return cindex


def _parse(
    header: str, target: str | None, include: Sequence[str], before: Sequence[str], arguments: Sequence[str]
) -> cindex.TranslationUnit:
    cindex = _clang()
    lines = [f"#include {_quoted(name)}" for name in (*before, header)]
    options = ["-x", "c", "-std=gnu11", "-fsyntax-only", "-ferror-limit=3"]
    if target:
        options.append(f"--target={target}")
    options += [f"-I{folder}" for folder in include]
    options += arguments
    for folder in _compiler_headers():
        options += ["-idirafter", folder]
    main = "/bitmatch/main.c"
    try:
        unit = cindex.Index.create().parse(
            main, args=options, unsaved_files=[(main, "\n".join(lines) + "\n")]
        )
    except cindex.TranslationUnitLoadError as error:
        raise DeclarationError(f"{header}: the compiler cannot read it ({error})") from None
    for found in unit.diagnostics:
        if found.severity >= cindex.Diagnostic.Error:
            place = found.location
            where = f"{place.file}:{place.line}" if place.file and str(place.file) != main else header
            raise DeclarationError(f"{where}: {found.spelling}")
    return unit


def _quoted(header: str) -> str:
    if any(char in header for char in '"\n>'):
        raise DeclarationError(f"{header!r} cannot be the name of a header")
    return f'"{os.path.abspath(header)}"' if os.path.isfile(header) else f"<{header}>"


def _compiler_headers() -> list[str]:
    """Where the headers are that belong to a compiler (stddef.h): the wheel of libclang has none."""
    found = glob.glob("/usr/lib/llvm-*/lib/clang/*/include") + glob.glob("/usr/lib/gcc/*/*/include")
    return sorted(found, reverse=True)[:1]


def _byte_order(target: str | None, arguments: Sequence[str]) -> str:
    """The byte order of a machine, from a question to the compiler's preprocessor."""
    cindex = _clang()
    code = "#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__\nstruct big { int x; };\n#endif\n"
    options = ["-x", "c", *([f"--target={target}"] if target else []), *arguments]
    unit = cindex.Index.create().parse("order.c", args=options, unsaved_files=[("order.c", code)])
    return BIG if any(cursor.spelling == "big" for cursor in unit.cursor.get_children()) else LITTLE


def _declarations(unit: cindex.TranslationUnit) -> dict[str, cindex.Type]:
    clang = _clang()
    kinds = clang.CursorKind
    found: dict[str, cindex.Type] = {}

    def walk(cursors: Iterator[cindex.Cursor], depth: int) -> None:
        for cursor in cursors:
            if cursor.kind in (kinds.STRUCT_DECL, kinds.UNION_DECL):
                if cursor.is_definition():
                    if cursor.spelling and not _is_unnamed(cursor):
                        found[cursor.spelling] = cursor.type
                    if depth < MAX_DEPTH:
                        walk(cursor.get_children(), depth + 1)
            elif cursor.kind == kinds.TYPEDEF_DECL:
                kind = cursor.type.get_canonical()
                if kind.kind == clang.TypeKind.RECORD and kind.get_size() >= 0:
                    found.setdefault(cursor.spelling, cursor.type)

    walk(unit.cursor.get_children(), 0)
    return found


def _is_unnamed(cursor: cindex.Cursor) -> bool:
    spelling = cursor.spelling
    return not spelling or "(" in spelling


def _guess(name: str, declared: dict[str, cindex.Type]) -> str:
    import difflib

    close = difflib.get_close_matches(name, declared, 1)
    return f" (did you mean {close[0]}?)" if close else ""


class _Reader:
    """Makes layouts of clang's types."""

    def __init__(self) -> None:
        self.cindex = _clang()
        self.layouts: dict[int, Layout] = {}

    def layout(self, kind: cindex.Type, name: str = "", depth: int = 0) -> Layout:
        """The layout of a structure or a union."""
        plain = kind.get_canonical()
        declaration = plain.get_declaration()
        key = declaration.hash
        found = self.layouts.get(key)
        if found is not None:
            return found
        if depth > MAX_DEPTH:
            raise DeclarationError("structures are nested too deep")
        word = "union" if declaration.kind == self.cindex.CursorKind.UNION_DECL else "struct"
        if not _is_unnamed(declaration):
            # A structure without a tag has the name of its typedef here, and no keyword.
            tag, word = declaration.spelling, declaration.type.spelling
        elif kind.kind == self.cindex.TypeKind.TYPEDEF:
            tag = word = kind.spelling
        else:
            tag = ""
        layout = Layout(tag or name, word, plain.get_size() * 8)
        self.layouts[key] = layout
        layout.members = [self.member(cursor, depth) for cursor in plain.get_fields()]
        return layout

    def member(self, cursor: cindex.Cursor, depth: int) -> Member:
        """A member of a structure."""
        kind = self.kind(cursor.type, depth)
        name = "" if _is_unnamed(cursor) else cursor.spelling
        width = cursor.get_bitfield_width() if cursor.is_bitfield() else None
        return Member(name, cursor.get_field_offsetof(), kind, width)

    def kind(self, kind: cindex.Type, depth: int) -> Kind:
        """What the type of a member is."""
        kinds = self.cindex.TypeKind
        plain = kind.get_canonical()
        words = kind.spelling
        bits = plain.get_size() * 8
        if plain.kind == kinds.RECORD:
            return self.layout(kind, "", depth + 1)
        # An array keeps the names that its own declaration has for its elements.
        named = kind if kind.kind == plain.kind else plain
        if plain.kind == kinds.CONSTANTARRAY:
            return Array(self.kind(named.element_type, depth), plain.element_count or None)
        if plain.kind in (kinds.INCOMPLETEARRAY, kinds.VARIABLEARRAY):
            return Array(self.kind(named.element_type, depth), None)
        if plain.kind == kinds.ENUM:
            declaration = plain.get_declaration()
            values = tuple(
                (cursor.spelling, cursor.enum_value)
                for cursor in declaration.get_children()
                if cursor.kind == self.cindex.CursorKind.ENUM_CONSTANT_DECL
            )
            name = "" if _is_unnamed(declaration) else declaration.spelling
            signed = declaration.enum_type.get_canonical().kind in _signed(kinds)
            return Number(bits, words, signed=signed, enum=Enumeration(name, values))
        if plain.kind in (kinds.POINTER, kinds.BLOCKPOINTER):
            return Number(bits, words)
        if plain.kind in (kinds.HALF, kinds.FLOAT, kinds.DOUBLE, kinds.LONGDOUBLE, kinds.FLOAT128):
            return Number(bits, words, floating=True)
        if plain.kind in _signed(kinds):
            return Number(bits, words, signed=True, is_char=words in ("char", "const char"))
        if plain.kind in _unsigned(kinds):
            return Number(bits, words, is_char=plain.kind == kinds.CHAR_U)
        if bits < 0:
            raise DeclarationError(f"{words} has no size")
        return Blob(bits, words)


def _unsigned(kinds: Any) -> tuple[Any, ...]:
    return (
        *(kinds.BOOL, kinds.CHAR_U, kinds.UCHAR, kinds.CHAR16, kinds.CHAR32, kinds.WCHAR),
        *(kinds.USHORT, kinds.UINT, kinds.ULONG, kinds.ULONGLONG, kinds.UINT128),
    )


def _signed(kinds: Any) -> tuple[Any, ...]:
    return (kinds.CHAR_S, kinds.SCHAR, kinds.SHORT, kinds.INT, kinds.LONG, kinds.LONGLONG, kinds.INT128)

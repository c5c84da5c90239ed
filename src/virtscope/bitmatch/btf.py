"""Patterns from BTF, the type information that a Linux kernel carries in itself.

The format is described in Documentation/bpf/btf.rst of the kernel: a header, a table of types that refer to
each other by number, and a table of strings. It is found raw (/sys/kernel/btf/vmlinux) or in the `.BTF`
section of an ELF file. Of course the headers are read with patterns.
"""

from __future__ import annotations

import os
import sys
from array import array
from typing import BinaryIO

from .declarations import Array, Blob, Enumeration, Imported, Kind, Layout, Member, Number, import_layout
from .errors import DeclarationError, MatchError
from .nodes import BIG, LITTLE
from .record import pattern

MAX_SIZE = 1 << 28
MAX_TYPES = 1 << 21
MAX_CHAIN = 64
MAGIC = 0xEB9F
INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(12, 20)
FOLLOWED = (TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG)
"""Kinds that only stand before another type."""
WORDS_EACH = {STRUCT: 3, UNION: 3, ENUM: 2, FUNC_PROTO: 2, DATASEC: 3, ENUM64: 3}
"""How many words follow a type for each of its members."""
WORDS_ONCE = {INT: 1, ARRAY: 3, VAR: 1, DECL_TAG: 1}
"""How many words follow a type."""

BtfHeader = pattern(
    "btf_header",
    """
    given order
    endian order
    magic    : 16 = MAGIC
    version  : 8 = 1
    flags    : 8
    hdr_len  : 32 check hdr_len >= 24
    type_off : 32
    type_len : 32
    str_off  : 32
    str_len  : 32
    """,
)
ElfIdent = pattern(
    "elf_ident",
    """
    b"\\x7fELF"
    ei_class : 8 in (1, 2)      # 32 or 64 bits
    ei_data  : 8 in (1, 2)      # little or big
    """,
)
ElfHeader = pattern(
    "elf_header",
    """
    given wide, order
    endian order
    e_ident     : bytes(16)
    e_type      : 16
    e_machine   : 16
    e_version   : 32
    e_entry     : 64 if wide else 32
    e_phoff     : 64 if wide else 32
    e_shoff     : 64 if wide else 32
    e_flags     : 32
    e_ehsize    : 16
    e_phentsize : 16
    e_phnum     : 16
    e_shentsize : 16 check e_shentsize >= 40
    e_shnum     : 16
    e_shstrndx  : 16 check e_shstrndx < e_shnum
    """,
)
ElfSection = pattern(
    "elf_section",
    """
    given wide, order
    endian order
    sh_name   : 32
    sh_type   : 32
    sh_flags  : 64 if wide else 32
    sh_addr   : 64 if wide else 32
    sh_offset : 64 if wide else 32
    sh_size   : 64 if wide else 32
    """,
)


def import_btf(
    path: str | os.PathLike[str], struct: str, *, base: str | os.PathLike[str] | None = None
) -> Imported:
    """The patterns of a structure that BTF describes.

    Args:
        path: raw BTF, or an ELF file with a `.BTF` section (vmlinux, a module).
        struct: the name of a structure, a union or a typedef.
        base: the BTF of the kernel, when `path` is that of one of its modules.

    Raises:
        DeclarationError: there is no BTF, it is damaged, or the structure is not in it.
        OSError: the file cannot be read.
    """
    below = Btf(_load(base), os.fspath(base)) if base is not None else None
    btf = Btf(_load(path), os.fspath(path), below)
    return btf.import_struct(struct)


def _load(path: str | os.PathLike[str]) -> bytes:
    """The bytes of BTF in a file."""
    with open(path, "rb") as file:
        start = file.read(64)
        if not start.startswith(b"\x7fELF"):
            data = start + file.read(MAX_SIZE)
            if len(data) > MAX_SIZE:
                raise DeclarationError(f"{path}: larger than any BTF")
            return data
        try:
            return _section(file, os.fspath(path))
        except MatchError as error:
            raise DeclarationError(f"{path}: a damaged ELF file ({error})") from None


def _section(file: BinaryIO, path: str) -> bytes:
    """The `.BTF` section of an ELF file."""
    ident = ElfIdent.parse(file)
    wide, order = ident.ei_class == 2, BIG if ident.ei_data == 2 else LITTLE
    header = ElfHeader.parse(file, wide=wide, order=order)
    size = int(header.e_shentsize)
    file.seek(header.e_shoff)
    table = file.read(size * header.e_shnum)
    names = ElfSection.parse(table, header.e_shstrndx * size, wide=wide, order=order)
    file.seek(names.sh_offset)
    strings = file.read(min(names.sh_size, 1 << 20))
    for index in range(header.e_shnum):
        section = ElfSection.parse(table, index * size, wide=wide, order=order)
        if strings[section.sh_name : section.sh_name + 5] == b".BTF\0":
            if section.sh_size > MAX_SIZE:
                raise DeclarationError(f"{path}: its .BTF section is larger than any BTF")
            file.seek(section.sh_offset)
            return file.read(section.sh_size)
    raise DeclarationError(f"{path}: this ELF file has no .BTF section")


class Btf:
    """The types of one BTF.

    Args:
        data: the raw BTF.
        origin: what to call it in errors.
        base: the BTF whose types and strings come before its own.
    """

    def __init__(self, data: bytes, origin: str, base: Btf | None = None) -> None:
        self.origin = origin
        self.base = base
        self.order = BIG if data[:2] == MAGIC.to_bytes(2, "big") else LITTLE
        try:
            header = BtfHeader.parse(data, order=self.order)
        except MatchError as error:
            raise DeclarationError(f"{origin}: no BTF ({error})") from None
        start = header.hdr_len + header.type_off
        self.strings = data[header.hdr_len + header.str_off :][: header.str_len]
        self.words = array("I")
        types = data[start : start + header.type_len]
        self.words.frombytes(types[: len(types) // 4 * 4])
        if len(self.words) * 4 + 3 < header.type_len or len(self.strings) < header.str_len:
            raise DeclarationError(f"{origin}: the BTF is cut off")
        if self.order != sys.byteorder:
            self.words.byteswap()
        self.first: int = 1 if base is None else base.first + len(base.places)
        self.first_string: int = 0 if base is None else base.first_string + len(base.strings)
        self.places: array[int] = self._index()
        self.layouts: dict[int, Layout] = base.layouts if base is not None else {}
        self.pointer_bits = self._pointer_bits()

    def _index(self) -> array[int]:
        """Where each type begins, in words."""
        places = array("I")
        words, place, end = self.words, 0, len(self.words)
        try:
            while place < end:
                places.append(place)
                info = words[place + 1]
                kind = info >> 24 & 0x1F
                place += 3 + WORDS_ONCE.get(kind, 0) + WORDS_EACH.get(kind, 0) * (info & 0xFFFF)
                if not 1 <= kind <= ENUM64 or len(places) > MAX_TYPES:
                    raise DeclarationError(f"{self.origin}: type {len(places)} is of an unknown kind, {kind}")
        except IndexError:
            place = end + 1
        if place != end:
            raise DeclarationError(f"{self.origin}: the last type is cut off")
        return places

    def _pointer_bits(self) -> int:
        """The size of a pointer, which is that of `unsigned long`."""
        if self.base is not None:
            return self.base.pointer_bits
        for number in range(1, min(len(self.places), 1000)):
            name, info, size = self.type(number)
            if info >> 24 & 0x1F == INT and self.name(name) in ("long unsigned int", "unsigned long"):
                return size * 8
        return 64

    def type(self, number: int) -> tuple[int, int, int]:
        """Name, info and size (or number of another type) of a type; type 0 is void."""
        owner, place = self.place(number)
        return owner.words[place], owner.words[place + 1], owner.words[place + 2]

    def place(self, number: int) -> tuple[Btf, int]:
        """In which BTF a type is, and where."""
        if number < self.first and self.base is not None:
            return self.base.place(number)
        if not 0 <= number - self.first < len(self.places):
            raise DeclarationError(f"{self.origin}: there is no type {number}")
        return self, self.places[number - self.first]

    def name(self, offset: int) -> str:
        """The string at an offset."""
        if offset < self.first_string and self.base is not None:
            return self.base.name(offset)
        start = offset - self.first_string
        stop = self.strings.find(0, start)
        return self.strings[start:stop].decode("utf-8", "replace") if 0 <= start <= stop else ""

    def find(self, name: str) -> int | None:
        """The number of the structure, union or typedef of that name; structures come first."""
        encoded = name.encode("utf-8", "replace") + b"\0"
        offsets = set()
        owner: Btf | None = self
        while owner is not None:
            at = owner.strings.find(encoded)
            while at >= 0:
                offsets.add(at + owner.first_string)
                at = owner.strings.find(encoded, at + 1)
            owner = owner.base
        typedef = None
        for index, place in enumerate(self.places):
            if self.words[place] in offsets:
                kind = self.words[place + 1] >> 24 & 0x1F
                if kind in (STRUCT, UNION):
                    return self.first + index
                if kind == TYPEDEF and typedef is None:
                    typedef = self.first + index
        if typedef is None and self.base is not None:
            return self.base.find(name)
        return typedef

    def import_struct(self, struct: str) -> Imported:
        """The patterns of a structure.

        Raises:
            DeclarationError: it is not there, or the BTF is damaged.
        """
        name = struct.removeprefix("struct ").removeprefix("union ").strip()
        number = self.find(name)
        if number is None:
            raise DeclarationError(f"{self.origin}: there is no structure {name!r} in this BTF")
        kind = self.kind(number, 0, name)
        if not isinstance(kind, Layout):
            raise DeclarationError(f"{self.origin}: {name} is no structure")
        return import_layout(kind, self.order, os.path.basename(self.origin))

    def kind(self, number: int, depth: int, typedef: str = "") -> Kind:
        """What a type is."""
        if depth > MAX_CHAIN:
            raise DeclarationError(f"{self.origin}: type {number} is nested too deep")
        if number == 0:
            return Blob(0, "void")
        owner, place = self.place(number)
        name_offset, info, size = self.type(number)
        name, kind = self.name(name_offset), info >> 24 & 0x1F
        if kind in FOLLOWED:
            return self.kind(size, depth + 1, typedef or (name if kind == TYPEDEF else ""))
        if kind in (STRUCT, UNION):
            return self.layout(number, name or "", depth, typedef)
        if kind == INT:
            encoding = owner.words[place + 3]
            bits = encoding & 0xFF
            words = typedef or name
            return Number(
                bits, words, signed=bool(encoding >> 24 & 1), is_char=name == "char" and words == "char"
            )
        if kind == PTR:
            return Number(self.pointer_bits, "pointer")
        if kind == ARRAY:
            element, _, count = owner.words[place + 3 : place + 6]
            return Array(self.kind(element, depth + 1), count or None)
        if kind in (ENUM, ENUM64):
            return self.enumeration(owner, place, name, info, size)
        if kind == FLOAT:
            return Number(size * 8, name, floating=True)
        raise DeclarationError(f"{self.origin}: type {number} ({name or kind}) has no size")

    def enumeration(self, owner: Btf, place: int, name: str, info: int, size: int) -> Number:
        """An enumeration."""
        values = []
        signed = bool(info >> 31)
        wide = info >> 24 & 0x1F == ENUM64
        for index in range(info & 0xFFFF):
            at = place + 3 + index * (3 if wide else 2)
            value = owner.words[at + 1] | (owner.words[at + 2] << 32 if wide else 0)
            top = 1 << (63 if wide else 31)
            values.append((self.name(owner.words[at]), value - 2 * top if signed and value & top else value))
        return Number(size * 8, f"enum {name}".strip(), signed=signed, enum=Enumeration(name, tuple(values)))

    def layout(self, number: int, name: str, depth: int, typedef: str) -> Layout:
        """A structure or a union."""
        known = self.layouts.get(number)
        if known is not None:
            return known
        owner, place = self.place(number)
        _, info, size = self.type(number)
        word = "union" if info >> 24 & 0x1F == UNION else "struct"
        tag = name or typedef
        layout = Layout(tag, f"{word} {tag}".strip(), size * 8)
        self.layouts[number] = layout
        for index in range(info & 0xFFFF):
            name_offset, member, offset = owner.words[place + 3 + index * 3 : place + 6 + index * 3]
            width = None
            if info >> 31:
                width, offset = offset >> 24 or None, offset & 0xFFFFFF
            kind = self.kind(member, depth + 1)
            if width is None and isinstance(kind, Number) and kind.bits % 8 and not kind.floating:
                width = kind.bits  # how older BTF says that it is a bit-field
            layout.members.append(Member(self.name(name_offset), offset, kind, width))
        return layout

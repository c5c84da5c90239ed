"""BTF: the compact type information that a kernel carries of itself and of its modules.

Format: Documentation/bpf/btf.rst of the kernel. A header, a section of variable-length type records, numbered
from 1 in order, and a section of NUL-terminated strings. A module's BTF is "split": it continues the numbers
and the strings of the kernel's.

Types have no index, so one pass notes where each starts (`Btf.starts`); everything else is decoded only when
it is asked for. A member that is a structure without a name of its own gets the layout name "#number".
"""

from __future__ import annotations

import gc
import struct
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from virtscope.errors import FormatError
from virtscope.kernel.layouts import Member

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(12, 20)
MODIFIERS = frozenset((TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG))

INT_SIGNED, INT_BOOL = 1, 4
"""Bits of the encoding of an INT."""

MAX_BTF = 32 << 20
"""Real kernels have 3 to 8 MiB; a list of all types of one this large still fits."""

MAX_STRUCT_SIZE = 4 << 20
_MAX_SIZE = 256 << 20
_MAX_DEPTH = 32
_MAX_NAME = 512
_HEADER = struct.Struct("<HBBIIIII")

_WORDS = [0] * 32
_WORDS_EACH = [0] * 32
for _kind in range(1, 20):
    _WORDS[_kind] = 3 + {INT: 1, ARRAY: 3, VAR: 1, DECL_TAG: 1}.get(_kind, 0)
    _WORDS_EACH[_kind] = {STRUCT: 3, UNION: 3, ENUM: 2, FUNC_PROTO: 2, DATASEC: 3, ENUM64: 3}.get(_kind, 0)


class _Steps(dict[int, int]):
    """Words that a type record takes, by the `info` word that says its kind and how many members it has."""

    def __missing__(self, info: int) -> int:
        kind = info >> 24 & 31
        words = _WORDS[kind]
        if not words:
            raise FormatError("BTF", f"there is no kind of type {kind}", field="info")
        words = self[info] = words + _WORDS_EACH[kind] * (info & 0xFFFF)
        return words


class Type(NamedTuple):
    """One type record.

    Attributes:
        kind: INT, PTR, ...
        name: its name, "" when it has none.
        length: members, enumerators, parameters (`vlen`).
        flag: `kind_flag`.
        value: its size in bytes, or the number of the type it refers to.
        word: where its further words start.
    """

    kind: int
    name: str
    length: int
    flag: bool
    value: int
    word: int


class Field(NamedTuple):
    """A member of a structure as BTF has it."""

    name: str
    type: int
    bit_offset: int
    bit_size: int


class Btf:
    """The types of a kernel, or of a module on top of the kernel's. A `LayoutSource`.

    Args:
        data: the whole BTF, header first.
        base: the kernel's BTF, for a module's.

    Raises:
        FormatError: it is no BTF, or contradicts itself.
    """

    def __init__(self, data: bytes, base: Btf | None = None) -> None:
        header_size, type_at, type_size, string_at, string_size = btf_sections(data)
        types = data[header_size + type_at : header_size + type_at + type_size]
        self._types = types
        self.words = memoryview(types).cast("I")
        self.strings = data[header_size + string_at : header_size + string_at + string_size]
        self.base = base
        self.first = len(base) if base else 1
        self._strings_first = base.strings_end if base else 0
        self.strings_end: int = self._strings_first + string_size
        self._fields: dict[int, dict[str, Field]] = {}

    def __len__(self) -> int:
        """One more than the highest type number."""
        return self.first + len(self.starts)

    @cached_property
    def starts(self) -> list[int]:
        """The first word of every type record, by number less `first`."""
        words, end = self.words, len(self.words)
        found: list[int] = []
        append, steps, at = found.append, _Steps(), 0
        # A list that grows by 100,000 numbers makes the garbage collector run again and again, for nothing.
        collecting = gc.isenabled()
        gc.disable()
        try:
            while at < end:
                append(at)
                at += steps[words[at + 1]]
        except IndexError:
            at = -1
        finally:
            if collecting:
                gc.enable()
        if at != end:
            raise FormatError("BTF", "the last type is cut short", field="type_len")
        return found

    @cached_property
    def _names(self) -> dict[int, dict[bytes, int]]:
        """Type numbers by name: of structs and unions, typedefs, enums. The first of a name counts."""
        words, strings, first = self.words, self.strings, self.first
        tables: dict[int, dict[bytes, int]] = {STRUCT: {}, TYPEDEF: {}, ENUM: {}, FWD: {}}
        kinds = {STRUCT: STRUCT, UNION: STRUCT, TYPEDEF: TYPEDEF, ENUM: ENUM, ENUM64: ENUM}
        table_of: list[dict[bytes, int] | None] = [
            tables[kinds[kind & 31]] if kind & 31 in kinds else None for kind in range(256)
        ]
        shift = self._strings_first
        for number, at in enumerate(self.starts, first):
            table = table_of[words[at + 1] >> 24]
            if table is not None:
                start = words[at] - shift
                if start > 0:
                    table.setdefault(strings[start : strings.find(0, start)], number)
                elif start < 0 and self.base:
                    table.setdefault(self.base.string(words[at]).encode(), number)
        return tables

    def string(self, offset: int) -> str:
        """The string at `offset` of the strings of the base and these."""
        start = offset - self._strings_first
        if start < 0 and self.base is not None:
            return self.base.string(offset)
        end = self.strings.find(0, start, start + _MAX_NAME)
        if start < 0 or end < 0:
            raise FormatError("BTF", f"{offset:#x} is no string", field="name_off")
        return self.strings[start:end].decode("ascii", "replace")

    def type(self, number: int) -> Type:
        """Type `number`; raises FormatError when there is none."""
        if number < self.first and self.base is not None:
            return self.base.type(number)
        index = number - self.first
        if not 0 <= index < len(self.starts):
            raise FormatError("BTF", f"there is no type {number}", field="type_id")
        at = self.starts[index]
        name, info, value = self.words[at : at + 3]
        return Type(
            info >> 24 & 31, self.string(name) if name else "", info & 0xFFFF, bool(info >> 31), value, at + 3
        )

    def owner(self, number: int) -> Btf:
        """This BTF or its base, whichever has type `number`: its `words` are what `Type.word` counts in."""
        return self.base if number < self.first and self.base is not None else self

    def find(self, kind: int, name: str) -> int | None:
        """The number of the struct or union (`STRUCT`), `TYPEDEF` or `ENUM` of that name."""
        number = self._names[kind].get(name.encode("utf-8", "surrogateescape"))
        if number is None and self.base is not None:
            return self.base.find(kind, name)
        return number

    def strip(self, number: int) -> int:
        """The type behind typedefs and qualifiers; 0 is void."""
        for _ in range(_MAX_DEPTH):
            if number == 0:
                return 0
            found = self.type(number)
            if found.kind not in MODIFIERS:
                return number
            number = found.value
        raise FormatError("BTF", "typedefs without end", field="type")

    def size(self, number: int) -> int:
        """The size in bytes of type `number`."""
        return self._size(number, 0)

    def array(self, number: int) -> tuple[int, int]:
        """The (element type, number of elements) of the ARRAY `number`."""
        owner = self.owner(number)
        at = self.type(number).word
        return owner.words[at], owner.words[at + 2]

    def int_encoding(self, number: int) -> tuple[int, int, int]:
        """The (encoding bits, bit offset, bits) of the INT `number`."""
        word = self.owner(number).words[self.type(number).word]
        return word >> 24 & 15, word >> 16 & 255, word & 255

    def fields(self, number: int) -> list[Field]:
        """The members of the struct or union `number`, as declared."""
        owner, found = self.owner(number), self.type(number)
        words, at = owner.words, found.word
        members = []
        for place in range(at, at + 3 * found.length, 3):
            name, kind, offset = words[place : place + 3]
            bits = 0
            if found.flag:  # then bit-fields say so here
                bits, offset = offset >> 24, offset & 0xFFFFFF
            members.append(Field(owner.string(name) if name else "", kind, offset, bits))
        return members

    def enumerators(self, number: int) -> list[tuple[str, int]]:
        """The (name, value) pairs of the enum `number`."""
        owner, found = self.owner(number), self.type(number)
        words, at = owner.words, found.word
        pairs = []
        if found.kind == ENUM64:
            for place in range(at, at + 3 * found.length, 3):
                value = words[place + 1] | words[place + 2] << 32
                if found.flag and value >> 63:
                    value -= 1 << 64
                pairs.append((owner.string(words[place]), value))
            return pairs
        for place in range(at, at + 2 * found.length, 2):
            value = words[place + 1]
            pairs.append((owner.string(words[place]), value - (1 << 32) if value >> 31 else value))
        # Before kind_flag meant "signed", nothing said it; -1 is the sign of it.
        if not found.flag and not any(value == -1 for _, value in pairs):
            mask = (1 << 8 * min(found.value, 8)) - 1
            pairs = [(name, value & mask) for name, value in pairs]
        return pairs

    # LayoutSource

    def struct_size(self, name: str) -> int | None:
        """See `LayoutSource`."""
        number = self._struct_number(name)
        if number is None:
            return None
        size = self.type(number).value
        return size if size <= MAX_STRUCT_SIZE else None

    def member(self, name: str, path: str) -> Member | None:
        """See `LayoutSource`."""
        number = self._struct_number(name)
        if number is None:
            return None
        limit = self.type(number).value
        bit_offset, bit_size = 0, 0
        for step in path.split("."):
            part, *indices = step.split("[")
            if self.type(number).kind not in (STRUCT, UNION):
                return None
            field = self._all_fields(number).get(part)
            if field is None:
                return None
            bit_offset += field.bit_offset
            bit_size = field.bit_size
            declared = field.type
            number = self.strip(declared)
            for index in indices:
                if not number or self.type(number).kind != ARRAY or not index.removesuffix("]").isdigit():
                    return None
                element, length = self.array(number)
                place = int(index[:-1])
                if place >= length:
                    return None
                bit_offset += 8 * place * self.size(element)
                declared = element
                number = self.strip(declared)
        found = self._describe(declared, bit_offset, bit_size)
        # What lies outside its structure cannot be read out of it.
        return found if found.offset + found.size <= min(limit, MAX_STRUCT_SIZE) else None

    def enum(self, name: str) -> dict[str, int] | None:
        """See `LayoutSource`."""
        number = self.find(ENUM, name)
        if number is None:
            number = self.find(TYPEDEF, name)
            number = self.strip(number) if number is not None else None
        if not number or self.type(number).kind not in (ENUM, ENUM64):
            return None
        return dict(self.enumerators(number))

    def enumerator(self, name: str) -> int | None:
        """See `LayoutSource`."""
        for number in self.named(name):
            if self.type(number).kind in (ENUM, ENUM64):
                value = dict(self.enumerators(number)).get(name)
                if value is not None:
                    return value
        return self.base.enumerator(name) if self.base is not None else None

    def named(self, name: str) -> Iterator[int]:
        """The numbers of types that have that name, or a member, parameter or enumerator of that name."""
        start = self.strings.find(b"\0%b\0" % name.encode("utf-8", "surrogateescape"))
        if start < 0:
            return
        needle = (start + 1 + self._strings_first).to_bytes(4, "little")
        at = self._types.find(needle)
        while at >= 0:
            if at % 4 == 0:
                yield bisect_right(self.starts, at // 4) - 1 + self.first
            at = self._types.find(needle, at + 1)

    def _struct_number(self, name: str) -> int | None:
        if name.startswith("#"):
            number: int | None = int(name[1:]) if name[1:].isdigit() else None
        else:
            number = self.find(STRUCT, name)
            if number is None:
                number = self.find(TYPEDEF, name)
                number = self.strip(number) if number is not None else None
        if not number or number >= len(self) or self.type(number).kind not in (STRUCT, UNION):
            return None
        return number

    def _all_fields(self, number: int) -> dict[str, Field]:
        """The members of a struct or union by name, those of anonymous structs and unions in it too."""
        found = self._fields.get(number)
        if found is None:
            found = {}
            pending = [(number, 0, 0)]
            budget = 1 << 16
            while pending:
                inner, base, depth = pending.pop()
                for field in self.fields(inner):
                    budget -= 1
                    if budget < 0 or depth > _MAX_DEPTH:
                        raise FormatError("BTF", "a structure has members without end", field="type")
                    if field.name:
                        found.setdefault(field.name, field._replace(bit_offset=field.bit_offset + base))
                        continue
                    kind = self.strip(field.type)
                    if kind and self.type(kind).kind in (STRUCT, UNION):
                        pending.append((kind, base + field.bit_offset, depth + 1))
            self._fields[number] = found
        return found

    def _size(self, number: int, depth: int) -> int:
        number = self.strip(number)
        if not number:
            return 0
        found = self.type(number)
        if found.kind == PTR:
            return 8
        if found.kind in (INT, STRUCT, UNION, ENUM, ENUM64, FLOAT, DATASEC):
            return found.value
        if found.kind == ARRAY and depth < _MAX_DEPTH:
            element, length = self.array(number)
            size = length * self._size(element, depth + 1)
            if size > _MAX_SIZE:
                raise FormatError("BTF", f"an array of {size} bytes", field="nelems")
            return size
        return 0

    def _describe(self, number: int, bit_offset: int, bit_size: int) -> Member:
        """A member of type `number` that starts at `bit_offset`."""
        size, length, declared = self.size(number), None, number
        number = self.strip(number)
        for _ in range(_MAX_DEPTH):
            if not number or self.type(number).kind != ARRAY:
                break
            element, count = self.array(number)
            length = count if length is None else length * count
            number = self.strip(element)
        found = self.type(number) if number else Type(0, "", 0, False, 0, 0)
        kind, target = "?", None
        if found.kind == INT:
            encoding, offset, bits = self.int_encoding(number)
            kind = "b" if encoding & INT_BOOL else "s" if encoding & INT_SIGNED else "u"
            if found.name == "char" and length is not None:
                kind = "c"
            if not bit_size and (offset or bits != 8 * found.value):
                bit_offset, bit_size = bit_offset + offset, bits
        elif found.kind in (ENUM, ENUM64):
            kind = "s" if any(value < 0 for _, value in self.enumerators(number)) else "u"
        elif found.kind == PTR:
            kind, target = "p", self._target(found.value)
        elif found.kind in (STRUCT, UNION):
            kind, target = "S", self._target(declared)
        if bit_size and length is None:
            low = bit_offset // 8
            high = -(-(bit_offset + bit_size) // 8)
            width = -bit_size if kind == "s" else bit_size
            return Member(low, high - low, "f", None, None, bit_offset - low * 8, width)
        return Member(bit_offset // 8, size, kind, length, target)

    def _target(self, number: int) -> str | None:
        """The layout name of a structure, looking through qualifiers and arrays; None for anything else."""
        alias = ""
        for _ in range(_MAX_DEPTH):
            if not number:
                return None
            found = self.type(number)
            if found.kind == TYPEDEF:
                alias = found.name
            if found.kind in MODIFIERS:
                number = found.value
            elif found.kind == ARRAY:
                number, alias = self.array(number)[0], ""
            elif found.kind == FWD:
                return found.name if self.find(STRUCT, found.name) is not None else None
            elif found.kind in (STRUCT, UNION):
                name = found.name or alias
                return name if name and self._struct_number(name) == number else f"#{number}"
            else:
                return None
        return None


def btf_sections(data: bytes) -> tuple[int, int, int, int, int]:
    """(header size, types offset, types size, strings offset, strings size); offsets count from its end.

    Raises:
        FormatError: the header is none, or promises more than there is.
    """
    if len(data) < _HEADER.size:
        raise FormatError("BTF", "is shorter than its header", offset=0)
    magic, version, _, header_size, type_at, type_size, string_at, string_size = _HEADER.unpack_from(data)
    if magic != 0xEB9F or version != 1:
        raise FormatError("BTF", f"magic {magic:#x}, version {version}", field="magic", offset=0)
    if (
        header_size < _HEADER.size
        or type_size % 4
        or header_size + type_at + type_size > len(data)
        or header_size + string_at + string_size > len(data)
    ):
        raise FormatError("BTF", "sections reach past the end", field="hdr_len", offset=4)
    return header_size, type_at, type_size, string_at, string_size


def btf_size(header: bytes) -> int:
    """The size in bytes of the BTF that begins with `header`; raises FormatError for anything else."""
    magic, version, _, header_size, type_at, type_size, string_at, string_size = _HEADER.unpack_from(header)
    size: int = header_size + max(type_at + type_size, string_at + string_size)
    if magic != 0xEB9F or version != 1 or not 24 <= header_size <= 64 or size > MAX_BTF:
        raise FormatError(
            "BTF", f"magic {magic:#x}, version {version}, {size} bytes", field="magic", offset=0
        )
    return size

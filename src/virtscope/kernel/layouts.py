"""Where the members of kernel structures are.

A `StructLayout` answers "where is `se.sum_exec_runtime` in `task_struct`, and what is it?". It asks whoever
knows (the kernel's BTF, the cache of an earlier run, structural inference) once per member path, and compiles
the answer into a function that picks the value out of a structure's bytes; from then on a member costs a
dictionary look-up and one `struct.unpack_from`.

A struct is named by its tag ("task_struct") or by its typedef ("kuid_t"). One that has neither gets a name
from whoever knows it, for `Member.target`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple, Protocol

from virtscope.errors import UnknownLayout

Getter = Callable[[bytes, int], object]


class Member(NamedTuple):
    """One member of a structure, found by its path.

    Attributes:
        offset: bytes from the start of the outermost structure of the path.
        size: bytes of the whole member (all elements of an array; the storage read for a bit-field).
        kind: one letter: u unsigned, s signed, b bool, c char, p pointer, S structure or union, f bit-field.
        length: elements of an array (all dimensions multiplied; 0 for a flexible array), None for a single
            value.
        target: the layout name of the structure (S) or of what a pointer points to (p); None when that is no
            structure.
        bit_offset: a bit-field's lowest bit within its storage.
        bit_size: a bit-field's width; negative for a signed one.
    """

    offset: int
    size: int
    kind: str
    length: int | None = None
    target: str | None = None
    bit_offset: int = 0
    bit_size: int = 0


class LayoutSource(Protocol):
    """Who knows the kernel's types."""

    def struct_size(self, name: str) -> int | None:
        """The size in bytes of the struct, union or typedef `name`; None when there is no such type."""

    def member(self, name: str, path: str) -> Member | None:
        """The member at dotted `path` ("se.load.weight", "stat[2].count") of `name`; None without one."""

    def enum(self, name: str) -> dict[str, int] | None:
        """The enumerators of `enum name`; None when there is no such enum."""

    def enumerator(self, name: str) -> int | None:
        """The value of an enumerator of any enum, also an anonymous one; None without one."""


_SCALARS = {
    ("u", 1): "B", ("u", 2): "H", ("u", 4): "I", ("u", 8): "Q",
    ("s", 1): "b", ("s", 2): "h", ("s", 4): "i", ("s", 8): "q",
    ("b", 1): "?", ("p", 8): "Q", ("p", 4): "I", ("c", 1): "B",
}  # fmt: skip


def _compile(owner: str, path: str, member: Member) -> Getter:
    """A function of (bytes, start) that returns the value of `member`."""
    offset, size, kind, count = member.offset, member.size, member.kind, member.length
    if kind == "f":
        shift, mask, signed = member.bit_offset, (1 << abs(member.bit_size)) - 1, member.bit_size < 0
        top = (mask + 1) >> 1

        def bits(data: bytes, start: int) -> int:
            storage = data[start + offset : start + offset + size]
            if len(storage) < size:
                raise struct.error(path)
            value = int.from_bytes(storage, "little") >> shift & mask
            return value - mask - 1 if signed and value & top else value

        return bits
    if kind == "c" and count is not None:

        def text(data: bytes, start: int) -> bytes:
            value = data[start + offset : start + offset + size]
            if len(value) < size:
                raise struct.error(path)
            end = value.find(b"\0")
            return value if end < 0 else value[:end]

        return text
    element = size if count is None else (size // count if count else 0)
    code = _SCALARS.get((kind, element))
    if count == 0:
        return lambda _data, _start: ()
    if code is None:
        raise UnknownLayout(f"{owner}.{path} is neither a number nor a pointer; read its members one by one")
    if count is None:
        unpack = struct.Struct("<" + code).unpack_from

        def scalar(data: bytes, start: int) -> object:
            return unpack(data, start + offset)[0]

        return scalar
    unpack_all = struct.Struct(f"<{count}{code}").unpack_from

    def array(data: bytes, start: int) -> object:
        return unpack_all(data, start + offset)

    return array


class _Getters(dict[str, Getter]):
    """Compiled getters by member path; a missing one is made on first use."""

    __slots__ = ("_layout",)

    def __init__(self, layout: StructLayout) -> None:
        super().__init__()
        self._layout = layout

    def __missing__(self, path: str) -> Getter:
        member = self._layout.member(path)
        getter = self[path] = _compile(self._layout.name, path, member)
        return getter


class StructLayout:
    """The layout of one kernel structure.

    Attributes:
        name: as it was asked for.
        size: bytes.
        getters: compiled accessors by member path, made on first use; `Record` uses them.
    """

    __slots__ = ("_members", "_source", "getters", "name", "size")

    def __init__(self, name: str, size: int, source: LayoutSource) -> None:
        self.name = name
        self.size = size
        self._source = source
        self._members: dict[str, Member | None] = {}
        self.getters = _Getters(self)

    def find(self, path: str) -> Member | None:
        """The member at dotted `path`, or None when this kernel's structure has none."""
        try:
            return self._members[path]
        except KeyError:
            member = self._members[path] = self._source.member(self.name, path)
            return member

    def member(self, path: str) -> Member:
        """The member at dotted `path`.

        Raises:
            UnknownLayout: this kernel's structure has no such member.
        """
        member = self.find(path)
        if member is None:
            raise UnknownLayout(f"this kernel's {self.name} has no member {path}, or its place is not known")
        return member

    def has(self, path: str) -> bool:
        """Whether this kernel's structure has a member at `path`."""
        return self.find(path) is not None

    def offset(self, path: str) -> int:
        """Bytes from the start of the structure to the member at `path`; raises UnknownLayout."""
        return self.member(path).offset

    def first(self, *paths: str) -> str:
        """The first of `paths` that this kernel has: for members that were renamed, newest name first.

        Raises:
            UnknownLayout: it has none of them.
        """
        for path in paths:
            if self.find(path) is not None:
                return path
        raise UnknownLayout(f"this kernel's {self.name} has none of the members {', '.join(paths)}")

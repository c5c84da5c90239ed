"""A kernel made for tests: memory that is written to field by field, and structures declared in a few words.

`World` is a `Kernel` as the views see it. Structures are declared as C would, in a shortened form:

    STRUCTS = {"list_head": "next: ptr list_head; prev: ptr list_head"}

with the types u8 .. u64, s8 .. s64, bool, char[N] (text), `ptr` (to nothing known), `ptr NAME`, NAME (a
structure inside), and arrays `TYPE[N]`. Members follow one another, aligned to their size.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

from virtscope.errors import NotMapped, UnknownLayout
from virtscope.kernel.kernel import Kernel
from virtscope.kernel.layouts import Member, StructLayout
from virtscope.kernel.paging import AddressSpace
from virtscope.kernel.records import Record
from virtscope.memory.physical import PhysicalMemory, Segment

BASE = 0xFFFF_8880_0000_0000
SIZE = 1 << 20
USER = 0x0000_7FFF_0000_0000

_FORMATS = {
    "u8": "B",
    "u16": "H",
    "u32": "I",
    "u64": "Q",
    "s8": "b",
    "s16": "h",
    "s32": "i",
    "s64": "q",
    "bool": "?",
}


def dotted(keyword: str) -> str:
    """A member's path from a keyword argument: `mnt__mnt_root` for mnt.mnt_root; a leading __ stays."""
    return keyword[:2] + keyword[2:].replace("__", ".")


class Structs:
    """A `LayoutSource` over declarations."""

    def __init__(self, declared: dict[str, str], enums: dict[str, dict[str, int]]) -> None:
        self._enums = enums
        self._members: dict[str, dict[str, Member]] = {}
        self._sizes: dict[str, int] = {}
        for name, text in declared.items():
            self._declare(name, text)

    def _declare(self, name: str, text: str) -> None:
        members: dict[str, Member] = {}
        offset = 0
        for part in filter(None, (part.strip() for part in text.split(";"))):
            member, _, kind = (word.strip() for word in part.partition(":"))
            described = self._describe(kind)
            alignment = 8 if described.kind == "S" else min(8, self._element_size(described))
            offset = -(-offset // max(1, alignment)) * max(1, alignment)
            members[member] = described._replace(offset=offset)
            offset += described.size
        self._members[name] = members
        self._sizes[name] = -(-offset // 8) * 8

    @staticmethod
    def _element_size(member: Member) -> int:
        if member.kind == "c":
            return 1
        return member.size // member.length if member.length else max(1, member.size)

    def _describe(self, kind: str) -> Member:
        length: int | None = None
        if match := re.fullmatch(r"(.*)\[(\d+)\]", kind):
            kind, length = match[1], int(match[2])
        if kind == "char":
            return Member(0, length or 1, "c", length)
        times = 1 if length is None else length
        if kind.startswith("ptr"):
            return Member(0, 8 * times, "p", length, kind.removeprefix("ptr").strip() or None)
        if kind in _FORMATS:
            letter = "b" if kind == "bool" else kind[0]
            return Member(0, struct.calcsize(_FORMATS[kind]) * times, letter, length)
        return Member(0, self._sizes[kind] * times, "S", length, kind)

    def struct_size(self, name: str) -> int | None:
        return self._sizes.get(name)

    def member(self, name: str, path: str) -> Member | None:
        offset, found = 0, None
        at: str | None = name
        for step in path.split("."):
            part, _, index = step.partition("[")
            found = self._members.get(at or "", {}).get(part)
            if found is None:
                return None
            offset += found.offset
            if index:
                if found.length is None or int(index[:-1]) >= found.length:
                    return None
                size = found.size // found.length
                offset += int(index[:-1]) * size
                found = found._replace(size=size, length=None)
            at = found.target if found.kind == "S" and found.length is None else None
        assert found is not None
        return found._replace(offset=offset)

    def enum(self, name: str) -> dict[str, int] | None:
        return self._enums.get(name)

    def enumerator(self, name: str) -> int | None:
        return next((values[name] for values in self._enums.values() if name in values), None)


class FakeMemory(PhysicalMemory):
    """What the views ask a guest's memory about itself."""

    def __init__(self, *, is_live: bool) -> None:
        super().__init__("test guest", [Segment(0, SIZE)], is_live=is_live)

    def close(self) -> None:
        pass

    def _read_segment(self, index: int, offset: int, size: int) -> bytes:
        raise NotImplementedError


class World(Kernel):
    """A kernel over memory of the test's own.

    Attributes:
        data: the bytes of kernel memory, from BASE on.
        symbols: name -> address.
        on_refresh: called when a view asks to see the guest anew: where a live guest changes.
    """

    arch = "x86_64"

    def __init__(
        self,
        declared: dict[str, str],
        *,
        enums: dict[str, dict[str, int]] | None = None,
        is_live: bool = False,
        has_types: bool = True,
    ) -> None:
        self.memory = FakeMemory(is_live=is_live)
        self.data = bytearray(SIZE)
        self.user: dict[int, bytes] = {}
        self.symbols: dict[str, int] = {}
        self.functions: dict[int, tuple[str, int, str | None]] = {}
        self.has_types = has_types
        self.has_symbols = True
        self.notes = []
        self.release, self.banner = "9.8.7-test", "Linux version 9.8.7-test (builder@host)"
        self.on_refresh: Callable[[], None] = lambda: None
        self.reads = 0
        self.vmcore: dict[str, str] = {}
        self.structs = Structs(declared, enums or {})
        self._end = BASE + 4096
        self._layouts = {}

    # What views ask

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        start = address - BASE
        if start < 0 or start + size > len(self.data) or size < 0:
            raise NotMapped(f"kernel memory: nothing is mapped at {address:#x}")
        return bytes(self.data[start : start + size])

    def refresh(self) -> None:
        self.on_refresh()

    def user_space(self, pgd: int) -> AddressSpace:
        world = self

        class Space(AddressSpace):
            def __init__(self) -> None:
                pass

            def read(self, address: int, size: int) -> bytes:
                pages = range(address >> 12, (address + size - 1 >> 12) + 1)
                if any(page not in world.user for page in pages):
                    raise NotMapped(f"user memory: nothing at {address:#x}")
                return b"".join(world.user[page] for page in pages)[address & 0xFFF :][:size]

        return Space()

    def symbol(self, name: str) -> int:
        if name not in self.symbols:
            raise UnknownLayout(f"no symbol {name}")
        return self.symbols[name]

    def has_symbol(self, name: str) -> bool:
        return name in self.symbols

    def symbolize(self, address: int) -> tuple[str, int, str | None] | None:
        return self.functions.get(address)

    def percpu(self, symbol: str | int, cpu: int) -> int:
        base = self.symbol(symbol) if isinstance(symbol, str) else symbol
        return base + 0x1000 * cpu

    def possible_cpus(self) -> tuple[int, ...]:
        return (0, 1)

    def online_cpus(self) -> tuple[int, ...]:
        return (0, 1)

    @property
    def vmcoreinfo(self) -> dict[str, str]:
        return self.vmcore

    @property
    def build_id(self) -> str | None:
        return "0123abcd"

    def struct(self, name: str) -> StructLayout:
        if name not in self._layouts:
            size = self.structs.struct_size(name)
            if size is None:
                raise UnknownLayout(f"no structure {name}")
            self._layouts[name] = StructLayout(name, size, self.structs)
        return self._layouts[name]

    def has_struct(self, name: str) -> bool:
        return self.structs.struct_size(name) is not None

    def enum(self, name: str) -> dict[str, int]:
        values = self.structs.enum(name)
        if values is None:
            raise UnknownLayout(f"no enum {name}")
        return values

    def enumerator(self, name: str) -> int:
        value = self.structs.enumerator(name)
        if value is None:
            raise UnknownLayout(f"no enumerator {name}")
        return value

    # What tests do

    def allocate(self, size: int) -> int:
        """Room for `size` bytes, zeroed."""
        address = self._end
        self._end += -(-size // 16) * 16
        assert self._end <= BASE + SIZE
        return address

    def new(self, name: str, /, **values: Any) -> int:
        """A structure with these members; __ in a name stands for the dot of a path. Returns its address."""
        layout = self.struct(name)
        address = self.allocate(layout.size)
        for key, value in values.items():
            self.poke(name, address, dotted(key), value)
        return address

    def poke(self, name: str, address: int, path: str, value: Any) -> None:
        """Write one member: a number, a tuple of them, or text."""
        member = self.struct(name).member(path)
        start = address + member.offset - BASE
        if member.kind == "c" or isinstance(value, bytes):
            raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
            self.data[start : start + member.size] = raw.ljust(member.size, b"\0")[: member.size]
            return
        numbers = value if isinstance(value, tuple) else (value,)
        width = member.size // (member.length or 1)
        for index, number in enumerate(numbers):
            at = start + index * width
            self.data[at : at + width] = (number & (1 << 8 * width) - 1).to_bytes(width, "little")

    def text(self, content: bytes) -> int:
        """A NUL-terminated string; returns its address."""
        address = self.allocate(len(content) + 1)
        self.data[address - BASE : address - BASE + len(content)] = content
        return address

    def link(self, head: int, nodes: list[int]) -> None:
        """Make a list_head list: the head and these nodes, in this order."""
        ring = [head, *nodes]
        for index, node in enumerate(ring):
            following, before = ring[(index + 1) % len(ring)], ring[index - 1]
            self.data[node - BASE : node - BASE + 16] = struct.pack("<QQ", following, before)

    def at(self, name: str, address: int, path: str) -> int:
        """The address of a member."""
        return address + self.struct(name).offset(path)

    def look(self, name: str, address: int) -> Record:
        return self.record(name, address)

"""Builds ELF cores for the tests: as QEMU writes them, and as nobody should."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

PT_LOAD, PT_NOTE = 1, 4


@dataclass
class ElfCore:
    """An ELF core in the making.

    Attributes:
        loads: (p_paddr, content) of each PT_LOAD; p_memsz is the size of the content plus `excluded`.
        cpus: (CR0, CR3) of each vCPU, for QEMU's notes.
        extended: whether the number of program headers is put where it goes when it exceeds 65534.
    """

    loads: list[tuple[int, bytes]] = field(default_factory=list)
    cpus: list[tuple[int, int]] = field(default_factory=list)
    extended: bool = False
    excluded: int = 0
    e_type: int = 4
    e_class: int = 2
    e_data: int = 1

    def notes(self) -> bytes:
        parts = []
        for cr0, cr3 in self.cpus:
            parts.append(struct.pack("<III8s", 5, 336, 1, b"CORE") + bytes(336))
            state = bytearray(440)
            struct.pack_into("<II", state, 0, 1, 440)
            struct.pack_into("<5Q", state, 392, cr0, 0, 0, cr3, 0)
            parts.append(struct.pack("<III8s", 5, 440, 0, b"QEMU") + state)
        return b"".join(parts)

    def build(self) -> bytes:
        notes = self.notes()
        count = len(self.loads) + bool(notes)
        e_shoff = 64 if self.extended else 0
        e_phoff = 128 if self.extended else 64
        offset = e_phoff + 56 * count
        headers, contents = [], []
        if notes:
            headers.append(struct.pack("<IIQQQQQQ", PT_NOTE, 0, offset, 0, 0, len(notes), len(notes), 0))
            contents.append(notes)
            offset += len(notes)
        for paddr, content in self.loads:
            memsz = len(content) + self.excluded
            headers.append(struct.pack("<IIQQQQQQ", PT_LOAD, 0, offset, 0, paddr, len(content), memsz, 0))
            contents.append(content)
            offset += len(content)
        ident = b"\x7fELF" + bytes([self.e_class, self.e_data, 1]) + bytes(9)
        header = struct.pack(
            "<16sHHIQQQIHHHHHH",
            ident, self.e_type, 62, 1, 0, e_phoff, e_shoff, 0, 64, 56,
            0xFFFF if self.extended else count, 64, int(self.extended), 0,
        )  # fmt: skip
        section = struct.pack("<44xI16x", count) if self.extended else b""
        return header + section + b"".join(headers) + b"".join(contents)

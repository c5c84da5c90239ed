"""ELF cores of whole machines: `virsh dump --memory-only`, QEMU's dump-guest-memory, /proc/vmcore.

Each program header of type PT_LOAD is a range of memory, p_paddr its guest-physical address. The notes hold
the registers of each vCPU; QEMU adds one of its own that has the control registers. See elf(5), and for the
latter struct QEMUCPUState in QEMU's target/i386/arch_dump.c.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence

from virtscope.errors import FormatError
from virtscope.memory.file import FileMemory, FileRange
from virtscope.memory.sparse import read_exactly

FORMAT = "ELF core"
MAGIC = b"\x7fELF"

_ELFCLASS64, _ELFDATA2LSB = 2, 1
_ET_CORE = 4
_PT_LOAD, _PT_NOTE = 1, 4
_PN_XNUM = 0xFFFF

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SH_INFO = struct.Struct("<44xI16x")
_NHDR = struct.Struct("<III")
_ADDRESS_END = 1 << 64

_MOST_SEGMENTS = 1 << 18
_MOST_NOTES = 16 << 20

# struct QEMUCPUState, version 1: version, size, 18 registers, 10 segments of 24 bytes, then cr[0] to cr[4].
_QEMU_CPU_STATE_SIZE = 432
_QEMU_CR0, _QEMU_CR3 = 392, 416
_CR0_PG = 1 << 31


def open_elf_core(name: str, fd: int) -> FileMemory:
    """The memory in an ELF core, which `fd` has open; it belongs to the result.

    Raises:
        FormatError: it is no ELF core with 64-bit addresses, is cut short, or contradicts itself.
    """
    file_size = os.lseek(fd, 0, os.SEEK_END)
    headers = list(_program_headers(fd, file_size))
    ranges: list[FileRange] = []
    roots: list[int] = []
    notes_size = 0
    for number, (at, header) in enumerate(headers):
        p_type, _, p_offset, _, p_paddr, p_filesz, p_memsz, _ = header
        if p_type not in (_PT_LOAD, _PT_NOTE):
            continue
        if p_offset + p_filesz > file_size:
            raise FormatError(
                FORMAT,
                f"cut short: segment {number} ends at byte {p_offset + p_filesz}, the file at {file_size}",
                field="p_filesz",
                offset=at + 32,
            )
        if p_type == _PT_NOTE:
            notes_size += p_filesz
            if notes_size > _MOST_NOTES:
                raise FormatError(FORMAT, "more notes than any dump has", field="p_filesz", offset=at + 32)
            roots += _page_roots(fd, p_offset, p_filesz)
            continue
        if p_paddr + max(p_memsz, p_filesz) > _ADDRESS_END:
            raise FormatError(
                FORMAT, f"segment {number} leaves the address space", field="p_paddr", offset=at + 24
            )
        # Memory beyond p_filesz was left out of the dump: it is not known, which is not the same as zero.
        ranges.append(FileRange(p_paddr, p_filesz, p_offset))
    if not any(item.size for item in ranges):
        raise FormatError(FORMAT, "it holds no memory", field="e_phnum", offset=56)
    return FileMemory(name, FORMAT, fd, without_overlaps(ranges), list(dict.fromkeys(roots)))


def without_overlaps(ranges: Sequence[FileRange]) -> list[FileRange]:
    """The ranges in order, with the parts cut off that an earlier one has.

    Dumps made with paging describe the same memory once per mapping.
    """
    result: list[FileRange] = []
    end = 0
    for item in sorted(ranges):
        cut = max(0, end - item.start)
        if cut < item.size:
            result.append(FileRange(item.start + cut, item.size - cut, item.offset + cut))
            end = item.start + item.size
    return result


def _program_headers(fd: int, file_size: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The program headers, each with its place in the file."""
    if file_size < _EHDR.size:
        raise FormatError(FORMAT, f"the header is cut short at {file_size} bytes", field="e_ident", offset=0)
    (
        e_ident, e_type, _, _, _, e_phoff, e_shoff, _, _, e_phentsize, e_phnum, e_shentsize, _, _,
    ) = _EHDR.unpack(_read(fd, _EHDR.size, 0, "e_ident"))  # fmt: skip
    if e_ident[:4] != MAGIC:
        raise FormatError(FORMAT, "not an ELF file", field="e_ident", offset=0)
    if e_ident[4] != _ELFCLASS64:
        raise FormatError(FORMAT, "only cores with 64-bit addresses are read", field="EI_CLASS", offset=4)
    if e_ident[5] != _ELFDATA2LSB:
        raise FormatError(FORMAT, "only little-endian cores are read", field="EI_DATA", offset=5)
    if e_type != _ET_CORE:
        raise FormatError(FORMAT, f"type {e_type} is an ELF file but no core", field="e_type", offset=16)
    if e_phentsize != _PHDR.size:
        raise FormatError(FORMAT, f"is {e_phentsize} and not {_PHDR.size}", field="e_phentsize", offset=54)
    count, field, offset = e_phnum, "e_phnum", 56
    if e_phnum == _PN_XNUM:  # more than fit: the number is in the first section header
        field, offset = "sh_info", e_shoff + 44
        if not e_shoff or e_shentsize != _SH_INFO.size or e_shoff + _SH_INFO.size > file_size:
            raise FormatError(
                FORMAT, "it should hold the number of segments but is not there", field="e_shoff", offset=40
            )
        (count,) = _SH_INFO.unpack(_read(fd, _SH_INFO.size, e_shoff, field))
    if count > _MOST_SEGMENTS:
        raise FormatError(FORMAT, f"{count} segments are more than any dump has", field=field, offset=offset)
    if e_phoff + count * _PHDR.size > file_size:
        raise FormatError(
            FORMAT, f"{count} program headers do not fit in the file", field="e_phoff", offset=32
        )
    table = _read(fd, count * _PHDR.size, e_phoff, "e_phoff") if count else b""
    for number, header in enumerate(_PHDR.iter_unpack(table)):
        yield e_phoff + number * _PHDR.size, header


def _page_roots(fd: int, offset: int, size: int) -> Iterator[int]:
    """CR3 of each vCPU that has paging on, from QEMU's notes."""
    notes = _read(fd, size, offset, "PT_NOTE") if size else b""
    at = 0
    while at + _NHDR.size <= size:
        n_namesz, n_descsz, n_type = _NHDR.unpack_from(notes, at)
        name_at = at + _NHDR.size
        desc_at = name_at + -(-n_namesz // 4) * 4
        end = desc_at + -(-n_descsz // 4) * 4
        if desc_at + n_descsz > size:
            raise FormatError(FORMAT, "a note leaves its segment", field="n_descsz", offset=offset + at + 4)
        is_qemu = n_type == 0 and notes[name_at : name_at + n_namesz].rstrip(b"\0") == b"QEMU"
        if is_qemu and n_descsz >= _QEMU_CPU_STATE_SIZE:
            (cr0,) = struct.unpack_from("<Q", notes, desc_at + _QEMU_CR0)
            (cr3,) = struct.unpack_from("<Q", notes, desc_at + _QEMU_CR3)
            if cr0 & _CR0_PG:
                yield cr3
        at = end


def _read(fd: int, size: int, offset: int, field: str) -> bytes:
    try:
        return read_exactly(fd, size, offset)
    except OSError as error:
        raise FormatError(FORMAT, f"cannot be read: {error.strerror}", field=field, offset=offset) from None

"""Makes a kernel module that hangs its CPU with interrupts off, out of a module the kernel came with.

No compiler and no headers of that kernel are needed: the first instructions of the `init_module` of a stock
module become `cli; jmp self`. Loading it hangs the CPU that does so, as a driver would that spins in an
interrupt handler.
"""

from __future__ import annotations

import struct

from lab.cache import LabError

_CLI_AND_SPIN = b"\xfa\xeb\xfe"
_ENDBR64 = b"\xf3\x0f\x1e\xfa"
_CALL = b"\xe8"
_SHT_SYMTAB, _SHT_RELA = 2, 4
_R_X86_64_NONE = 0
_SIGNED = b"~Module signature appended~\n"


def spinning_module(module: bytes) -> bytes:
    """The module with an `init_module` that never returns.

    Args:
        module: An uncompressed x86-64 .ko.

    Raises:
        LabError: It is no such module.
    """
    if module[:6] != b"\x7fELF\x02\x01":
        raise LabError("not a 64-bit little-endian ELF module")
    # The signature no longer fits; without one, a kernel that is not locked down still loads the module.
    patched = bytearray(module.removesuffix(_SIGNED))
    table, entry_size, count = struct.unpack_from("<Q10xHH", module, 0x28)
    # name, type, flags, address, offset, size, link, info, align, entry size
    sections = [struct.unpack_from("<IIQQQQIIQQ", module, table + entry_size * i) for i in range(count)]
    section_index, start = _init_module(module, sections)
    offset = sections[section_index][4] + start
    # The tracer's call at the start is looked for by the kernel when it loads the module: it stays.
    skipped = 0
    if module[offset : offset + 4] == _ENDBR64:
        skipped += 4
    if module[offset + skipped : offset + skipped + 1] == _CALL:
        skipped += 5
    patched[offset + skipped : offset + skipped + len(_CLI_AND_SPIN)] = _CLI_AND_SPIN
    begin = start + skipped
    for _, kind, _, _, position, size, _, target, _, _ in sections:
        if kind != _SHT_RELA or target != section_index:
            continue
        for at in range(position, position + size, 24):
            place, info = struct.unpack_from("<QQ", module, at)
            # Relocations of instructions are four bytes wide.
            if begin - 4 < place < begin + len(_CLI_AND_SPIN):
                struct.pack_into("<Q", patched, at + 8, info & ~0xFFFFFFFF | _R_X86_64_NONE)
    return bytes(patched)


def _init_module(module: bytes, sections: list[tuple[int, ...]]) -> tuple[int, int]:
    """Section index and offset in it of the symbol `init_module`."""
    for _, kind, _, _, position, size, link, _, _, _ in sections:
        if kind != _SHT_SYMTAB:
            continue
        names = sections[link][4]
        for at in range(position, position + size, 24):
            name, section, value = struct.unpack_from("<I2xHQ", module, at)
            if module.startswith(b"init_module\0", names + name):
                return section, value
    raise LabError("the module has no init_module")

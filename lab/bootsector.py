"""Guests that are no Linux: hand-assembled boot sectors for a PC's first disk."""

from __future__ import annotations


def _sector(code: bytes) -> bytes:
    return code.ljust(510, b"\0") + b"\x55\xaa"


def prints_and_halts(text: str = "not Linux") -> bytes:
    """A boot sector that writes text to the first serial port, then halts for ever with interrupts on."""
    # mov dx, 0x3f8; then for every byte: mov al, byte; out dx, al; at last: hlt; jmp back to the hlt
    code = b"\xba\xf8\x03" + b"".join(b"\xb0" + bytes([byte]) + b"\xee" for byte in text.encode("ascii"))
    return _sector(code + b"\xf4\xeb\xfd")

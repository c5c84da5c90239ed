"""Takes the kernel proper out of a bzImage, so that the guest does not have to decompress it.

The layout is the Linux boot protocol's (Documentation/arch/x86/boot.rst): from 2.08 on the setup header says
where the compressed payload is and how long. The payload is one compressed stream, for most compressors
followed by the uncompressed size as four bytes. Entry point: `extract`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from virtscope.errors import FormatError, MissingDependency

LIMIT = 1 << 30
XEN_ELFNOTE_PHYS32_ENTRY = 18


def extract(image: bytes) -> bytes:
    """Returns the ELF kernel in a boot image; an image that is ELF already is returned as it is.

    Raises:
        FormatError: this is not a boot image, or its payload is damaged.
        MissingDependency: the library for its compression is not installed.
    """
    if image[:4] == b"\x7fELF":
        return image
    if len(image) < 0x260 or image[0x202:0x206] != b"HdrS":
        raise FormatError("bzImage", "no boot protocol header", offset=0x202)
    (version,) = struct.unpack_from("<H", image, 0x206)
    if version < 0x208:
        raise FormatError(
            "bzImage", "the header does not say where the kernel is", field="version", offset=0x206
        )
    setup_sects = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sects + 1) * 512 + offset
    payload = image[start : start + length]
    if len(payload) != length or length < 16:
        raise FormatError("bzImage", "the payload reaches past the end", field="payload_length", offset=0x24C)
    for magic, decompress in _COMPRESSIONS:
        if payload.startswith(magic):
            kernel = decompress(payload)
            break
    else:
        raise FormatError(
            "bzImage", f"unknown compression {payload[:4].hex()}", field="payload_offset", offset=start
        )
    if kernel[:4] != b"\x7fELF":
        raise FormatError("bzImage", "the payload is not an ELF kernel", offset=start)
    return kernel


def boots_directly(kernel: bytes) -> bool:
    """Whether an ELF kernel carries the PVH entry note that QEMU needs to boot it uncompressed."""
    if len(kernel) < 64 or kernel[:5] != b"\x7fELF\x02":
        return False
    (table,) = struct.unpack_from("<Q", kernel, 32)
    entry_size, count = struct.unpack_from("<HH", kernel, 54)
    for number in range(min(count, 64)):
        at = table + number * entry_size
        if at + 56 > len(kernel):
            return False
        kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", kernel, at)
        if kind == 4 and _has_note(kernel[offset : offset + min(size, 1 << 16)]):
            return True
    return False


def without_padding(kernel: bytes) -> bytes:
    """The same kernel without the zeros at the end of its segments, and without section headers.

    Its last segment is half zeros, memory that it grows into; a loader that zeroes what the file does not
    have need not read and copy them.
    """
    slim = bytearray(kernel)
    (table,) = struct.unpack_from("<Q", kernel, 32)
    entry_size, count = struct.unpack_from("<HH", kernel, 54)
    end = 64
    for number in range(min(count, 64)):
        at = table + number * entry_size
        if at + 56 > len(kernel):
            return kernel
        kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", kernel, at)
        if kind == 1:
            size = len(kernel[offset : offset + size].rstrip(b"\0"))
            struct.pack_into("<Q", slim, at + 32, size)
        end = max(end, offset + size, at + 56)
    struct.pack_into("<Q", slim, 40, 0)
    struct.pack_into("<HHH", slim, 58, 0, 0, 0)
    return bytes(slim[:end])


def _has_note(notes: bytes) -> bool:
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        name = notes[at + 12 : at + 12 + name_size]
        if kind == XEN_ELFNOTE_PHYS32_ENTRY and name == b"Xen\0":
            return True
        at += 12 + (name_size + 3 & ~3) + (size + 3 & ~3)
    return False


def _gzip(payload: bytes) -> bytes:
    import zlib

    return _bounded(zlib.decompressobj(31).decompress, payload, "gzip", zlib.error)


def _xz(payload: bytes) -> bytes:
    import lzma

    return _bounded(lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress, payload, "xz", lzma.LZMAError)


def _lzma(payload: bytes) -> bytes:
    import lzma

    return _bounded(lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress, payload, "lzma", lzma.LZMAError)


def _bzip2(payload: bytes) -> bytes:
    import bz2

    return _bounded(bz2.BZ2Decompressor().decompress, payload, "bzip2", OSError)


def _bounded(
    decompress: Callable[[bytes, int], bytes], payload: bytes, name: str, failure: type[Exception]
) -> bytes:
    try:
        return decompress(payload, LIMIT)
    except (failure, EOFError) as error:
        raise FormatError("bzImage", f"the {name} payload is damaged: {error}") from None


def _zstd(payload: bytes) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise MissingDependency(
            "this kernel is zstd-compressed: install the Python package zstandard"
        ) from None
    pieces = bytearray()
    stream = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
    try:
        for at in range(0, len(payload), 1 << 20):
            pieces += stream.decompress(payload[at : at + (1 << 20)])
            if stream.eof or len(pieces) > LIMIT:
                break
    except zstandard.ZstdError as error:
        raise FormatError("bzImage", f"the zstd payload is damaged: {error}") from None
    return bytes(pieces)


def _lz4(payload: bytes) -> bytes:
    """The legacy LZ4 frame: a magic, then blocks of at most 8 MiB, each after its compressed size."""
    try:
        import lz4.block
    except ImportError:
        raise MissingDependency("this kernel is lz4-compressed: install the Python package lz4") from None
    pieces = bytearray()
    at = 4
    while at + 4 < len(payload) and len(pieces) < LIMIT:
        (size,) = struct.unpack_from("<I", payload, at)
        at += 4
        if not 0 < size <= len(payload) - at:
            break
        try:
            pieces += lz4.block.decompress(payload[at : at + size], uncompressed_size=8 << 20)
        except lz4.block.LZ4BlockError as error:
            raise FormatError("bzImage", f"the lz4 payload is damaged: {error}") from None
        at += size
    return bytes(pieces)


_COMPRESSIONS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x02\x21\x4c\x18", _lz4),
    (b"\xfd7zXZ\0", _xz),
    (b"\x28\xb5\x2f\xfd", _zstd),
    (b"\x1f\x8b", _gzip),
    (b"BZh", _bzip2),
    (b"\x5d\0\0", _lzma),
)

"""Takes the uncompressed kernel out of a bzImage (Documentation/arch/x86/boot.rst, Linux)."""

from __future__ import annotations

import lzma
import struct
import subprocess
import zlib

from lab.cache import LabError, program


def extract(bzimage: bytes) -> bytes:
    """The ELF vmlinux in a bzImage.

    Raises:
        LabError: It is not a bzImage, or is compressed in a way we don't read.
    """
    if bzimage[0x202:0x206] != b"HdrS":
        raise LabError("not a bzImage: no HdrS at 0x202")
    setup_sectors = bzimage[0x1F1] or 4
    payload_offset, payload_size = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + payload_offset
    # The last four bytes are the uncompressed size, which the build adds.
    payload = bzimage[start : start + payload_size]
    image = _decompressed(payload[:-4])
    if not image.startswith(b"\x7fELF"):
        raise LabError("the bzImage's payload is not an ELF kernel")
    return image


def _decompressed(payload: bytes) -> bytes:
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31).decompress(payload)
    tools = {b"\x28\xb5\x2f\xfd": "zstd", b"\x02\x21\x4c\x18": "lz4"}
    tool = tools.get(payload[:4])
    if tool is None:
        raise LabError(f"the bzImage is compressed in an unknown way ({payload[:4].hex()})")
    return subprocess.run([program(tool, tool), "-dc"], input=payload, capture_output=True, check=True).stdout

"""Swap areas: only told, with their label and UUID; there are no files in them.

The kernel's union swap_header (include/linux/swap.h): the last ten bytes of the first page are the magic,
whatever the size of a page is on the machine that made it; the rest begins after a boot sector of 1 KiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtscope.bitmatch import Record
from virtscope.errors import FormatError
from virtscope.fs.filesystem import Identity

if TYPE_CHECKING:
    from virtscope.block.source import BlockSource

PAGE_SIZES = (4096, 8192, 16384, 32768, 65536)
OLD_MAGIC = b"SWAP-SPACE"
MAGIC = b"SWAPSPACE2"

_INFO_OFFSET = 1024


class SwapInfo(Record):
    """The second version's header (union swap_header.info)."""

    layout = """
        given big
        endian big if big else little
        version : 32; last_page : 32; nr_badpages : 32
        sws_uuid : bytes(16); sws_volume : bytes(16)
        """
    version: int
    last_page: int
    sws_uuid: bytes
    sws_volume: bytes


def identify(source: BlockSource) -> Identity:
    """Kind "swap", with UUID, label and size in bytes.

    Raises:
        FormatError: there is no swap area, or its header is of an unknown version.
    """
    for page_size in PAGE_SIZES:
        magic = source.peek(page_size - len(MAGIC), len(MAGIC))
        if magic == OLD_MAGIC:
            return Identity("swap", size=source.size)
        if magic == MAGIC:
            return _identity(source, page_size)
    raise FormatError("swap", "there is no swap area")


def _identity(source: BlockSource, page_size: int) -> Identity:
    header = source.read_at(_INFO_OFFSET, page_size - _INFO_OFFSET)
    info = SwapInfo.parse(header, big=False)
    if info.version != 1:
        info = SwapInfo.parse(header, big=True)  # a machine of the other byte order made it
    if info.version != 1:
        raise FormatError("swap", "its version is not known", field="version", offset=_INFO_OFFSET)
    digits = info.sws_uuid.hex()
    uuid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    label = info.sws_volume.split(b"\0")[0].decode("utf-8", "surrogateescape")
    return Identity(
        "swap",
        uuid=uuid if any(info.sws_uuid) else None,
        label=label or None,
        size=(info.last_page + 1) * page_size,
    )

"""`VerifiedSource`: reads of metadata with their checksums verified, for filesystems of version 5.

Every structure of metadata is read in one piece, begins with a magic number and has its CRC-32C at a place
that follows from it; the checksum is that of the whole structure with zeros in this place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtscope.block.source import BlockSource
from virtscope.errors import FormatError
from virtscope.fs.crc32c import crc32c
from virtscope.fs.xfs.overlay import Overlay
from virtscope.fs.xfs.superblock import FORMAT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtscope.fs.xfs.superblock import SuperBlock

_PLACES = {
    **dict.fromkeys((b"IAB3", b"FIB3"), 52),
    **dict.fromkeys((b"XDB3", b"XDD3"), 4),
    b"BMA3": 64,
    b"XAGF": 216,
    b"XAGI": 312,
    b"XFSB": 224,
    b"XSLM": 12,
    b"XARM": 12,
}
"""Where the checksum is, by magic number."""

_INDEX_MAGICS = (b"\x3d\xf1", b"\x3d\xff", b"\x3b\xee", b"\x3e\xbe")
_INDEX_PLACE = 12
_INODE_PLACE = 100


class VerifiedSource(BlockSource):
    """The metadata of a filesystem; a read raises FormatError where a checksum is wrong.

    What the log's replay changed is not verified: its checksums are made when it is written in place. The
    log's own have been verified before.

    Args:
        parent: the filesystem's bytes.
        superblock: its superblock.
    """

    def __init__(self, parent: BlockSource, superblock: SuperBlock) -> None:
        super().__init__(parent.name, parent.size)
        self.parent = parent
        self._superblock = superblock

    def read_at(self, offset: int, size: int) -> bytes:
        """As of `BlockSource`."""
        data = self.parent.read_at(offset, size)
        self.verify(offset, data)
        return data

    def verify(self, offset: int, data: bytes) -> None:
        """Verify what was read at `offset`.

        Raises:
            FormatError: a checksum is wrong.
        """
        if isinstance(self.parent, Overlay) and self.parent.covers(offset, len(data)):
            return
        for start, size in self._structures(data):
            place = self._place(data, start)
            if place is None or place + 4 > size:
                continue
            stored = int.from_bytes(data[start + place : start + place + 4], "little")
            blank = data[start : start + place] + bytes(4) + data[start + place + 4 : start + size]
            if crc32c(blank) ^ 0xFFFFFFFF != stored:
                raise FormatError(FORMAT, "the checksum of this metadata is wrong", offset=offset + start)

    def _structures(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Start and size of what has a checksum of its own in one read."""
        step = len(data)
        if data[:4] in (b"XAGF", b"XAGI"):
            step = self._superblock.sb_sectsize
        elif data[:4] == b"XARM":
            step = self._superblock.sb_blocksize
        for start in range(0, len(data), max(step, 1)):
            yield start, min(step, len(data) - start)

    def _place(self, data: bytes, start: int) -> int | None:
        place = _PLACES.get(data[start : start + 4])
        if place is not None:
            return place
        if data[start + 8 : start + 10] in _INDEX_MAGICS:
            return _INDEX_PLACE
        is_inode = data[start : start + 2] == b"IN" and len(data) == self._superblock.sb_inodesize
        return _INODE_PLACE if is_inode else None

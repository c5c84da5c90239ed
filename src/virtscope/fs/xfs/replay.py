"""Replaying the log in memory: what a running or crashed guest had committed and not yet written in place.

An item of a transaction is one of these (the kernel's xfs_*_item_recover.c):

    buffer      chunks of 128 bytes of a metadata block, or a note that the block is free again ("cancelled")
    inode       an inode's fixed part and its forks
    icreate     a run of new inodes, all empty
    dquot       quota, which nothing here reads
    intents     work that was announced and may not be done yet; the kernel does it after the replay. Here it
                is counted, and said

In v5 every block and inode says by its LSN which record of the log it is as new as; what is on the disk in a
newer state is left alone. All is done on an `Overlay`; nothing is ever written.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from virtscope.errors import FormatError
from virtscope.fs.xfs.inode import CORE_SIZE, CORE_SIZE_V3, DIFLAG2_BIGTIME
from virtscope.fs.xfs.overlay import Overlay
from virtscope.fs.xfs.superblock import INCOMPAT_META_UUID

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtscope.block.source import BlockSource
    from virtscope.fs.xfs.log import Item, Log, LogExtent, Transaction
    from virtscope.fs.xfs.superblock import SuperBlock

_INODE, _BUFFER, _ICREATE = 0x123B, 0x123C, 0x123F
_WITHOUT_EFFECT = (0x1238, 0x123D, 0x123E)  # iunlink (never written), dquot, quotaoff

_INTENTS = {
    0x1236: "blocks to be freed",
    0x1240: "owners of blocks to be noted",
    0x1242: "shared blocks to be counted",
    0x1244: "blocks to be mapped",
    0x1246: "attributes to be changed",
    0x1248: "contents of files to be exchanged",
    0x124A: "blocks to be freed",
    0x124C: "owners of blocks to be noted",
    0x124E: "shared blocks to be counted",
}
"""Types of intents, by what is to be done; each is followed, one number higher, by its "done"."""

_BUFFER_INODES, _BUFFER_CANCEL, _BUFFER_QUOTA = 0x01, 0x02, 0x1C
_CHUNK_BITS = 7

_CORE, _DATA_LOCAL, _DATA_EXTENTS, _DATA_ROOT, _DEVICE = 0x001, 0x002, 0x004, 0x008, 0x010
_ATTRIBUTES_LOCAL, _ATTRIBUTES_EXTENTS, _ATTRIBUTES_ROOT = 0x040, 0x080, 0x100
_DATA_FORK = _DATA_LOCAL | _DATA_EXTENTS | _DATA_ROOT
_ATTRIBUTE_FORK = _ATTRIBUTES_LOCAL | _ATTRIBUTES_EXTENTS | _ATTRIBUTES_ROOT
_OWNER_CHANGES = 0x600

_NEXT_UNLINKED_OFFSET = 96
_LSN_OFFSET, _FLAGS2_OFFSET = 112, 120
_LARGEST_FLUSH_COUNT = 0xFFFF
_NO_LSN = (1 << 64) - 1

_LSN_PLACES = {
    **dict.fromkeys(
        (b"ABTB", b"AB3B", b"ABTC", b"AB3C", b"IABT", b"IAB3", b"FIBT", b"FIB3", b"RMB3", b"R3FC"), (24, 32)
    ),
    **dict.fromkeys((b"BMAP", b"BMA3"), (32, 40)),
    b"XAGF": (208, 64),
    b"XAFL": (24, 8),
    b"XAGI": (320, 296),
    b"XSLM": (48, 16),
    **dict.fromkeys((b"XDB3", b"XDD3", b"XDF3"), (16, 24)),
    b"XFSB": (240, 32),
}
"""Where LSN and UUID are in a block that begins with this magic number."""

_INDEX_MAGICS = (b"\x3d\xf1", b"\x3d\xff", b"\x3b\xee", b"\x3e\xbe")
_INDEX_MAGIC_OFFSET = 8
_INDEX_LSN_PLACES = (24, 32)
_SUPERBLOCK_META_UUID_OFFSET = 248

# The log has inodes in the byte order of the machine that wrote it; field for field as in `inode.Inode`, but
# timestamps are one number (bigtime) or two. Version 2 ends before the chain of deleted inodes.
_INODE_V2 = "HHBBHIIIHH6sHiiiiiiQQIIHBBIHHI"
_INODE_V3 = "HHBBHIIIHHQ{time}{time}{time}QQIIHBBIHHI4sIQQQI12s{time}Q16s"
_TIME, _BIG_TIME = "ii", "Q"


class Replay:
    """A replay of a log.

    Args:
        source: the filesystem's bytes.
        superblock: its superblock.
        log: its log.
        extent: the part of it to be replayed.

    Attributes:
        overlay: the source with what the log says over it.
        notes: sentences about what could not be replayed.
    """

    def __init__(self, source: BlockSource, superblock: SuperBlock, log: Log, extent: LogExtent) -> None:
        self.overlay = Overlay(source)
        self.notes: list[str] = []
        self._superblock = superblock
        self._uuid = superblock.metadata_uuid
        self._intents: dict[tuple[str, int], None] = {}
        self._not_inodes: dict[tuple[int, int], int] = {}
        self._failed = 0
        for transaction, order in log.transactions(extent):
            self._replay(transaction, order)
        self._failed += sum(self._not_inodes.values())
        if log.damage:
            self.notes.append(
                f"the log of this XFS filesystem is damaged ({log.damage}); it was replayed up to there"
            )
        if self._failed:
            self.notes.append(
                f"{self._failed} changes in the log of this XFS filesystem could not be replayed; "
                "what they concern is shown as it was before"
            )
        if self._intents:
            kinds: dict[str, int] = {}
            for kind, _ in self._intents:
                kinds[kind] = kinds.get(kind, 0) + 1
            listed = ", ".join(f"{kind}: {count}" for kind, count in sorted(kinds.items()))
            self.notes.append(
                f"the log of this XFS filesystem announces work that is not done yet ({listed}); "
                "the kernel does it at the next mount"
            )

    def _replay(self, transaction: Transaction, order: str) -> None:
        """Do what a transaction did: new inodes and blocks first, then inodes, then links of deleted inodes,
        and last what was freed.
        """
        if not transaction.is_whole:
            self._failed += 1
            transaction.items.pop()
        for action, item in _in_order(transaction, order):
            try:
                if action == _BUFFER:
                    done = self._buffer(item, transaction.lsn, order)
                elif action == _INODE:
                    done = self._inode(item, transaction.lsn, order)
                elif action == _ICREATE:
                    done = self._create_inodes(item)
                else:
                    done = self._other(item, action, order)
            except (FormatError, struct.error):
                done = False
            if not done:
                self._failed += 1

    def _buffer(self, item: Item, lsn: int, order: str) -> bool:
        """Replay a block's chunks; False if they make no sense."""
        head = item[0]
        _, _, flags, size, block, words = struct.unpack_from(order + "HHHHqI", head)
        start, length = block << 9, size << 9
        if flags & _BUFFER_QUOTA:
            return True
        if block < 0 or not size:
            return False
        if flags & _BUFFER_CANCEL:
            # The block was freed, and may since have been taken for something that is not logged: what
            # earlier transactions did to it must not be done.
            self.overlay.restore(start, length)
            self._not_inodes.pop((block, size), None)
            return True
        on_disk = self._block_lsn(start, min(length, 512))
        if on_disk and on_disk != _NO_LSN and on_disk >= lsn:
            return True
        logged = bytes(head[20 : 20 + words * 4])
        if order == ">":
            logged = b"".join(logged[i : i + 4][::-1] for i in range(0, len(logged), 4))
        chunks = int.from_bytes(logged, "little")
        place = 0
        for region in item[1:]:
            rest = chunks >> place
            if not rest:
                break
            place += (rest & -rest).bit_length() - 1
            run = chunks >> place
            count = min((~run & (run + 1)).bit_length() - 1, len(region) >> _CHUNK_BITS)
            if not count or (place + count) << _CHUNK_BITS > length:
                return False
            data = region[: count << _CHUNK_BITS]
            if flags & _BUFFER_INODES:
                self._next_unlinked(start, place << _CHUNK_BITS, data)
            else:
                self.overlay.write(start + (place << _CHUNK_BITS), data)
            place += count
        return True

    def _next_unlinked(self, start: int, skipped: int, data: bytearray | memoryview) -> None:
        """From a buffer of inodes, only the chain of deleted ones is replayed."""
        step = self._superblock.sb_inodesize
        place = -(-(skipped - _NEXT_UNLINKED_OFFSET) // step) * step + _NEXT_UNLINKED_OFFSET
        while place + 4 <= skipped + len(data):
            if place >= skipped:
                self.overlay.write(start + place, data[place - skipped : place - skipped + 4])
            place += step

    def _block_lsn(self, start: int, size: int) -> int:
        """The LSN of a block on the disk; 0 if it has none, or another filesystem's."""
        if not self._superblock.is_v5:
            return 0
        data = self.overlay.read_at(start, size)
        places = _LSN_PLACES.get(data[:4])
        if places is None:
            if data[_INDEX_MAGIC_OFFSET : _INDEX_MAGIC_OFFSET + 2] not in _INDEX_MAGICS:
                return 0
            places = _INDEX_LSN_PLACES
        lsn_at, uuid_at = places
        if data[:4] == b"XFSB" and self._superblock.has_incompat(INCOMPAT_META_UUID):
            uuid_at = _SUPERBLOCK_META_UUID_OFFSET
        if data[uuid_at : uuid_at + 16] != self._uuid:
            return 0
        return int.from_bytes(data[lsn_at : lsn_at + 8], "big")

    def _inode(self, item: Item, lsn: int, order: str) -> bool:
        """Replay an inode; False if it makes no sense."""
        head, regions = item[0], item
        if len(head) >= 56:
            layout = "HHIHHxxxxQ16sqii"
        elif len(head) >= 52:  # a 32-bit machine's
            layout = "HHIHHQ16sqii"
        else:
            return False
        _, _, fields, _, _, _, device, block, buffer_size, within = struct.unpack_from(order + layout, head)
        inode_size = self._superblock.sb_inodesize
        offset = (block << 9) + within
        if block < 0 or within < 0 or offset % inode_size:
            return False
        inode = bytearray(self.overlay.read_at(offset, inode_size))
        if not fields & _CORE or len(regions) < 2:
            return False
        if inode[:2] != b"IN":
            # All right if it turns out that the block is freed later on.
            key = block, buffer_size
            self._not_inodes[key] = self._not_inodes.get(key, 0) + 1
            return True
        if self._superblock.is_v5:
            on_disk = int.from_bytes(inode[_LSN_OFFSET : _LSN_OFFSET + 8], "big")
            if on_disk and on_disk != _NO_LSN and on_disk > lsn:
                return not fields & _OWNER_CHANGES
            fork = CORE_SIZE_V3
            _core_v3(inode, regions[1], lsn, order)
        else:
            fork = CORE_SIZE
            if not _core_v2(inode, regions[1], order):
                return True
        attributes = fork + inode[82] * 8 if inode[82] else inode_size
        if attributes > inode_size:
            return False
        if fields & _DEVICE:
            inode[fork : fork + 4] = device[:4] if order == ">" else device[3::-1]
        rest = iter(regions[2:])
        for fork_fields, root, start, end in (
            (fields & _DATA_FORK, _DATA_ROOT, fork, attributes),
            (fields & _ATTRIBUTE_FORK, _ATTRIBUTES_ROOT, attributes, inode_size),
        ):
            if not fork_fields:
                continue
            region = next(rest, None)
            if region is None:
                # A fork that has become empty is not logged.
                break
            data = self._tree_root(region, end - start) if fork_fields & root else region
            count = min(len(data), end - start)
            inode[start : start + count] = data[:count]
        self.overlay.write(offset, inode)
        return not fields & _OWNER_CHANGES

    def _tree_root(self, logged: bytearray | memoryview, room: int) -> bytes:
        """The root of an extent tree as it is in an inode, from the whole block that the log has."""
        header_size = 72 if self._superblock.is_v5 else 24
        count = int.from_bytes(logged[6:8], "big")
        logged_room, kept_room = (len(logged) - header_size) // 16, (room - 4) // 16
        if count > min(logged_room, kept_room):
            raise FormatError("xfs", "a root of a tree of extents does not fit into its inode")
        pointers = header_size + logged_room * 8
        keys = bytes(logged[header_size : header_size + count * 8])
        return (
            bytes(logged[4:8])
            + keys.ljust(kept_room * 8, b"\0")
            + bytes(logged[pointers : pointers + count * 8])
        )

    def _create_inodes(self, item: Item) -> bool:
        """Make a run of empty inodes; False if it makes no sense."""
        superblock = self._superblock
        group, block, count, size, length, generation = struct.unpack_from(">6I", item[0], 4)
        inode_bits = superblock.sb_inopblog
        fsblock = group << superblock.sb_agblklog | block
        if size != superblock.sb_inodesize or count >> inode_bits != length or not block:
            return False
        if not length or block >= superblock.sb_agblocks or not superblock.holds(fsblock, length):
            return False
        offset = superblock.offset_of(fsblock)
        first = (group << superblock.inode_number_bits) + (block << inode_bits)
        made = bytearray(size * count)
        for index in range(count):
            start = index * size
            made[start : start + 6] = b"IN\0\0\3\0"
            struct.pack_into(">II", made, start + 92, generation, 0xFFFFFFFF)
            struct.pack_into(">Q16s", made, start + 152, first + index, self._uuid)
        self.overlay.write(offset, made)
        return True

    def _other(self, item: Item, kind: int, order: str) -> bool:
        """Take account of an intent, or that it is done."""
        if kind in _WITHOUT_EFFECT:
            return True
        intent = _INTENTS.get(kind) or _INTENTS.get(kind - 1)
        if intent is None:
            return False
        (number,) = struct.unpack_from(order + "Q", item[0], 8)
        if kind in _INTENTS:
            self._intents[intent, number] = None
        else:
            self._intents.pop((intent, number), None)
        return True


def _in_order(transaction: Transaction, order: str) -> Iterator[tuple[int, Item]]:
    """The items of a transaction by type, in the order in which they are replayed."""
    blocks, others, inode_blocks, cancelled = [], [], [], []
    for item in transaction.items:
        head = item[0]
        kind, _, flags = struct.unpack_from(order + "HHH", head) if len(head) >= 6 else (0, 0, 0)
        if kind == _ICREATE:
            blocks.append((kind, item))
        elif kind != _BUFFER:
            others.append((kind, item))
        elif flags & _BUFFER_CANCEL:
            cancelled.append((kind, item))
        elif flags & _BUFFER_INODES:
            inode_blocks.append((kind, item))
        else:
            blocks.append((kind, item))
    yield from blocks
    yield from others
    yield from reversed(inode_blocks)
    yield from reversed(cancelled)


def _core_v3(inode: bytearray, logged: bytearray | memoryview, lsn: int, order: str) -> None:
    """Put the fixed part of a logged inode of version 3 into `inode`; struct.error if it is too short."""
    (flags,) = struct.unpack_from(order + "Q", logged, _FLAGS2_OFFSET)
    layout = _INODE_V3.format(time=_BIG_TIME if flags & DIFLAG2_BIGTIME else _TIME)
    kept = bytes(inode[_NEXT_UNLINKED_OFFSET : _NEXT_UNLINKED_OFFSET + 8])
    inode[:CORE_SIZE_V3] = struct.pack(">" + layout, *struct.unpack_from(order + layout, logged))
    inode[_NEXT_UNLINKED_OFFSET : _NEXT_UNLINKED_OFFSET + 8] = kept
    inode[_LSN_OFFSET : _LSN_OFFSET + 8] = lsn.to_bytes(8, "big")


def _core_v2(inode: bytearray, logged: bytearray | memoryview, order: str) -> bool:
    """Put the fixed part of a logged inode of version 1 or 2 into `inode`; False if the disk's is newer."""
    values = list(struct.unpack_from(order + _INODE_V2, logged))
    flush_count = values[11]
    on_disk = int.from_bytes(inode[30:32], "big")
    if flush_count < on_disk and not (
        on_disk == _LARGEST_FLUSH_COUNT and flush_count < _LARGEST_FLUSH_COUNT >> 1
    ):
        return False
    values[10], values[11] = bytes(6), 0
    inode[:_NEXT_UNLINKED_OFFSET] = struct.pack(">" + _INODE_V2, *values)
    return True

"""Thin volumes: `ThinPool` reads device-mapper's thin-pool metadata, `ThinVolume` a volume by it.

The metadata are blocks of 4 KiB. The superblock names a B-tree from device IDs to roots of further B-trees,
one a volume, from blocks of the volume to blocks of the pool's data. What a volume has no block for is
zeros, or in its external origin. Nodes that are reached must fit the key range of the entry that led to
them, so that a damaged tree cannot send the reader in circles.

The format is that of drivers/md/dm-thin-metadata.c and persistent-data/dm-btree-internal.h of Linux.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from virtscope.bitmatch import pattern
from virtscope.block.records import parse_record, read_record
from virtscope.block.source import BlockSource
from virtscope.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtscope.block.source import Extent

ThinDiskSuperblock = pattern(
    "thin_disk_superblock",
    """
    little
    csum                     : 32
    flags                    : 32
    blocknr                  : 64
    uuid                     : bytes(16)
    magic                    : 64 = 27022010
    version                  : 32 in (1, 2)
    time                     : 32
    trans_id                 : 64
    held_root                : 64
    data_space_map_root      : bytes(128)
    metadata_space_map_root  : bytes(128)
    data_mapping_root        : 64
    device_details_root      : 64
    data_block_size          : 32 check 0 < data_block_size <= 1 << 21
    metadata_block_size      : 32
    metadata_nr_blocks       : 64
    """,
)

BtreeNode = pattern(
    "btree_node",
    """
    little
    csum        : 32
    flags       : 32 in (1, 2)
    blocknr     : 64
    nr_entries  : 32
    max_entries : 32 check nr_entries <= max_entries <= 252
    value_size  : 32 = 8
    padding     : 32
    keys        : 64[nr_entries]
    at 32 + 8 * max_entries
    values      : 64[nr_entries]
    """,
)

_BLOCK = 4096
_INTERNAL = 1
_MAXIMUM_DEPTH = 16
_REMEMBERED_NODES = 512
_NO_KEY = 1 << 64


class ThinPool:
    """The mappings of a thin pool.

    Args:
        name: for messages.
        metadata: the pool's metadata volume.
        data: the pool's data volume.

    Attributes:
        block_size: of the data, in bytes.
        data: as given.

    Raises:
        FormatError: this is no thin-pool metadata.
    """

    def __init__(self, name: str, metadata: BlockSource, data: BlockSource) -> None:
        superblock = read_record(metadata, ThinDiskSuperblock, 0, "thin pool")
        self.name = name
        self.data = data
        self.block_size: int = superblock.data_block_size * 512
        self._metadata = metadata
        self._root: int = superblock.data_mapping_root
        self._nodes: dict[int, tuple[bool, tuple[int, ...], tuple[int, ...]]] = {}

    def root(self, device_id: int) -> int:
        """The root of a volume's B-tree.

        Raises:
            FormatError: the pool has no such volume, or its metadata are damaged.
        """
        for _, root in self._walk(self._root, device_id, device_id + 1):
            return root
        raise FormatError("thin pool", f"{self.name} has no volume {device_id}", field="data_mapping_root")

    def mappings(self, root: int, first: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The blocks of a volume in [first, end) that have a place: `(block, count, data block)`, in
        order.
        """
        start = count = place = 0
        for block, value in self._walk(root, first, end):
            at = value >> 24  # below are the seconds of its age
            if count and block == start + count and at == place + count:
                count += 1
                continue
            if count:
                yield start, count, place
            start, count, place = block, 1, at
        if count:
            yield start, count, place

    def _walk(self, root: int, first: int, end: int) -> Iterator[tuple[int, int]]:
        """The leaf entries of a tree whose keys are in [first, end)."""
        # What is still to be visited: node, lowest key it may have, the key its keys stay below, depth.
        waiting = [(root, 0, _NO_KEY, 0)]
        while waiting:
            number, low, high, depth = waiting.pop()
            if depth > _MAXIMUM_DEPTH:
                raise self._damaged(number, "the tree is too deep")
            is_internal, keys, values = self._node(number)
            if keys and (keys[0] < low or keys[-1] >= high):
                raise self._damaged(number, "keys outside of the range that led to them")
            if not is_internal:
                for index in range(bisect_left(keys, first), bisect_left(keys, end)):
                    yield keys[index], values[index]
                continue
            begin = max(bisect_right(keys, first) - 1, 0)
            for index in range(bisect_left(keys, end) - 1, begin - 1, -1):
                above = keys[index + 1] if index + 1 < len(keys) else high
                waiting.append((values[index], keys[index], above, depth + 1))

    def _node(self, number: int) -> tuple[bool, tuple[int, ...], tuple[int, ...]]:
        """A node: whether it is internal, its keys and their values."""
        found = self._nodes.get(number)
        if found is None:
            offset = number * _BLOCK
            node = parse_record(BtreeNode, self._metadata.read_at(offset, _BLOCK), "thin pool", offset)
            keys, values = tuple(node.keys), tuple(node.values)
            if node.blocknr != number:
                raise self._damaged(number, f"a node of block {node.blocknr}")
            if list(keys) != sorted(set(keys)):
                raise self._damaged(number, "its keys are not in order")
            if len(self._nodes) >= _REMEMBERED_NODES:
                self._nodes.clear()
            found = self._nodes[number] = (node.flags == _INTERNAL, keys, values)
        return found

    def _damaged(self, number: int, problem: str) -> FormatError:
        return FormatError("thin pool", f"{self.name}: {problem}", field="btree_node", offset=number * _BLOCK)


class ThinVolume(BlockSource):
    """A thin volume.

    Args:
        name: for messages.
        size: in bytes.
        pool: the pool it is in.
        device_id: its number there.
        origin: the external volume that has what was never written to this one.
    """

    def __init__(
        self, name: str, size: int, pool: ThinPool, device_id: int, origin: BlockSource | None = None
    ) -> None:
        super().__init__(name, size)
        self._pool = pool
        self._root = pool.root(device_id)
        self._origin = origin

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Offset, size and offset in the pool's data (-1 for none) of all parts of a range."""
        block_size = self._pool.block_size
        position = start
        for block, count, place in self._pool.mappings(
            self._root, start // block_size, -(-end // block_size)
        ):
            begin = max(block * block_size, start)
            if begin > position:
                yield position, begin - position, -1
            stop = min((block + count) * block_size, end)
            yield begin, stop - begin, place * block_size + begin - block * block_size
            position = stop
        if position < end:
            yield position, end - position, -1

    def _read(self, offset: int, size: int) -> bytes:
        pieces = []
        for start, length, place in self._pieces(offset, offset + size):
            if place >= 0:
                pieces.append(self._pool.data.read_at(place, length))
            elif self._origin is None:
                pieces.append(bytes(length))
            else:
                found = self._origin.peek(start, length)
                pieces.append(found + bytes(length - len(found)))
        return b"".join(pieces) if len(pieces) > 1 else pieces[0]

    def _extents(self, start: int, end: int) -> Iterator[Extent]:
        for begin, length, place in self._pieces(start, end):
            if place >= 0:
                reached = begin
                for offset, size, is_zero in self._pool.data.extents(place, place + length):
                    yield offset - place + begin, size, is_zero
                    reached = offset - place + begin + size
                if reached < begin + length:
                    yield reached, begin + length - reached, False
            elif self._origin is None:
                yield begin, length, True
            else:
                there = max(min(self._origin.size, begin + length), begin)
                yield from self._origin.extents(begin, there)
                if there < begin + length:
                    yield there, begin + length - there, True

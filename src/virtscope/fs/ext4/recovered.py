"""`RecoveredExt4`: a filesystem with the fast commits of its journal applied, in memory.

They are changes to files and not to blocks, so they are kept beside the disk's own structures and asked
first. The blocks that the kernel's replay would allocate anew for new directories are not invented: free
space may differ by those few from what it shows after its recovery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtscope.errors import FormatError
from virtscope.fs.ext4 import fastcommit as fc
from virtscope.fs.ext4.inode import EXTENTS_FL, Inode, size_of
from virtscope.fs.ext4.reader import Ext4
from virtscope.fs.ext4.runs import FileMap, Run, joined
from virtscope.fs.filesystem import KIND_OF_MODE, Entry, FileExtent, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from virtscope.block.source import BlockSource
    from virtscope.fs.ext4.superblock import SuperBlock

_I_LINKS, _I_BLOCKS, _I_BLOCK, _I_GENERATION = 0x1A, 0x1C, 0x28, 0x64
_EMPTY_TREE = bytes.fromhex("0af30000040000000000000000000000").ljust(_I_GENERATION - _I_BLOCK, b"\0")
_TREE_MAGIC = b"\x0a\xf3"
_RUNS_IN_INODE = 4
_END_OF_FILES = 1 << 32
_MOST_BLOCKS_COUNTED = 1 << 20


class RecoveredExt4(Ext4):
    """An ext4 filesystem with fast commits.

    Args:
        source: the volume, with the journal's full transactions over it.
        superblock: of it.
        verify: as of `Ext4`.
        tags: the changes, in order. One that cannot be applied is left out and noted.
    """

    def __init__(
        self, source: BlockSource, superblock: SuperBlock, verify: bool, tags: Sequence[fc.Tag]
    ) -> None:
        super().__init__(source, superblock, verify)
        self._changed: dict[int, bytearray] = {}
        self._runs: dict[int, list[Run]] = {}
        self._before: dict[int, list[Run]] = {}
        self._names: dict[int, dict[bytes, int | None]] = {}
        self._used: dict[int, bool] = {}
        apply = {
            fc.INODE: self._inode_changed,
            fc.ADD_RANGE: self._range_added,
            fc.DEL_RANGE: self._range_removed,
            fc.CREAT: self._created,
            fc.LINK: self._linked,
            fc.UNLINK: self._unlinked,
        }
        failed = 0
        for tag in tags:
            try:
                apply[tag.kind](tag.value)
            except FormatError:
                failed += 1
        if failed:
            self.notes.append(f"{failed} of {len(tags)} fast commits of its journal could not be applied")

    def usage(self) -> Usage:
        """As of `Filesystem`."""
        usage = super().usage()
        clusters = self._clusters_used_more() << self.geometry.cluster_bits
        inodes = sum(self._used_more(inode, used) for inode, used in self._used.items())
        return Usage(
            usage.block_size,
            usage.blocks,
            usage.free_blocks - clusters,
            max(usage.available_blocks - clusters, 0),
            usage.inodes,
            usage.free_inodes - inodes,
        )

    def entries(self, inode: int) -> Iterator[Entry]:
        """As of `Filesystem`."""
        names = self._names.get(inode)
        if not names:
            yield from super().entries(inode)
            return
        damage: FormatError | None = None
        if self._exists_on_disk(inode):
            try:
                yield from (entry for entry in super().entries(inode) if entry.name not in names)
            except FormatError as error:
                damage = error
        for name, target in names.items():
            if target is not None:
                mode = self._inode(target).i_mode
                yield Entry(name, target, KIND_OF_MODE.get(mode & 0o170000) if self._has_types else None)
        if damage is not None:
            raise damage

    def lookup(self, inode: int, name: bytes) -> int | None:
        """As of `Filesystem`."""
        names = self._names.get(inode, {})
        if name in names:
            return names[name]
        return super().lookup(inode, name) if self._exists_on_disk(inode) else None

    def extents(self, inode: int) -> Iterator[FileExtent]:
        """As of `Filesystem`."""
        if inode in self._runs:
            size = size_of(self._inode(inode), self._large_directories)
            return self._map(inode, self._inode(inode)).extents(0, size)
        return super().extents(inode)

    def inodes(self) -> Iterator[int]:
        """As of `Filesystem`."""
        used = self._used
        found = {inode for inode, is_used in used.items() if is_used}
        added = sorted(found)
        for inode in super().inodes():
            while added and added[0] < inode:
                yield added.pop(0)
            if added and added[0] == inode:
                added.pop(0)
            if used.get(inode, True):
                yield inode
        yield from added

    def _locate(self, inode: int) -> tuple[bytes, int]:
        changed = self._changed.get(inode)
        return (bytes(changed), 0) if changed is not None else super()._locate(inode)

    def _map(self, inode: int, raw: Inode) -> FileMap:
        runs = self._runs.get(inode)
        if runs is None:
            return super()._map(inode, raw)
        return FileMap(runs, size_of(raw, self._large_directories), self.geometry.block_bits)

    def _exists_on_disk(self, inode: int) -> bool:
        """Whether a directory has blocks: a new one has none yet, only names."""
        return inode not in self._used or bool(self._runs.get(inode)) or inode not in self._changed

    def _bytes(self, inode: int) -> bytearray:
        """The bytes of an inode, to be changed."""
        if inode not in self._changed:
            data, offset = super()._locate(inode)
            self._changed[inode] = bytearray(data[offset : offset + self.geometry.inode_size])
        return self._changed[inode]

    def _runs_of(self, inode: int) -> list[Run]:
        """All runs of a file, also those behind its end; remembers those it had on disk."""
        if inode not in self._runs:
            raw = self._inode(inode)
            if not raw.i_flags & EXTENTS_FL:
                raise FormatError("ext4", f"inode {inode} has no extents", field="fc_ino")
            found = super()._map(inode, raw)
            self._before.setdefault(inode, found.runs)
            self._runs[inode] = found.runs
        return self._runs[inode]

    def _inode_changed(self, value: bytes) -> None:
        change = fc.FastInode.parse(value)
        inode, new = change.fc_ino, change.fc_raw_inode
        data = self._bytes(inode)
        if not data[_I_LINKS] | data[_I_LINKS + 1]:
            # Made anew: whatever blocks an earlier file of this number had are not its.
            self._runs.pop(inode, None)
            data[_I_BLOCK:_I_GENERATION] = bytes(_I_GENERATION - _I_BLOCK)
        new = new[: len(data)]
        data[:_I_BLOCK] = new[:_I_BLOCK]
        data[_I_GENERATION : len(new)] = new[_I_GENERATION:]
        if int.from_bytes(new[0x20:0x24], "little") & EXTENTS_FL:
            if data[_I_BLOCK : _I_BLOCK + 2] != _TREE_MAGIC:
                data[_I_BLOCK:_I_GENERATION] = _EMPTY_TREE
            runs = self._runs_of(inode)
            blocks = sum(run.blocks for run in runs) + self._tree_blocks(len(runs))
            data[_I_BLOCKS : _I_BLOCKS + 4] = (blocks << self.geometry.block_bits - 9 & 0xFFFFFFFF).to_bytes(
                4, "little"
            )
        else:
            data[_I_BLOCK:_I_GENERATION] = new[_I_BLOCK:_I_GENERATION]
        self._used[inode] = bool(new[_I_LINKS] | new[_I_LINKS + 1])

    def _range_added(self, value: bytes) -> None:
        change = fc.AddRange.parse(value)
        added = fc.run_of(change)
        if not 0 < added.block <= self.geometry.blocks_count - added.blocks:
            raise FormatError("ext4", f"block {added.block} does not exist", field="fc_ex")
        inode = change.fc_ino
        runs = fc.without(self._runs_of(inode), added.start, added.blocks)
        self._runs[inode] = joined(sorted([*runs, added]))

    def _range_removed(self, value: bytes) -> None:
        change = fc.DelRange.parse(value)
        inode = change.fc_ino
        self._runs[inode] = fc.without(self._runs_of(inode), change.fc_lblk, change.fc_len)

    def _created(self, value: bytes) -> None:
        change = fc.DentryInfo.parse(value)
        self._used[change.fc_ino] = True
        self._names.setdefault(change.fc_parent_ino, {})[change.fc_dname] = change.fc_ino

    def _linked(self, value: bytes) -> None:
        change = fc.DentryInfo.parse(value)
        if self.lookup(change.fc_parent_ino, change.fc_dname) != change.fc_ino:
            self._names.setdefault(change.fc_parent_ino, {})[change.fc_dname] = change.fc_ino
            self._add_links(change.fc_ino, 1)

    def _unlinked(self, value: bytes) -> None:
        change = fc.DentryInfo.parse(value)
        if self.lookup(change.fc_parent_ino, change.fc_dname) == change.fc_ino:
            self._names.setdefault(change.fc_parent_ino, {})[change.fc_dname] = None
            self._add_links(change.fc_ino, -1)

    def _add_links(self, inode: int, count: int) -> None:
        data = self._bytes(inode)
        links = max(int.from_bytes(data[_I_LINKS : _I_LINKS + 2], "little") + count, 0)
        data[_I_LINKS : _I_LINKS + 2] = links.to_bytes(2, "little")
        if not links:
            self._runs_of(inode) if self._inode(inode).i_flags & EXTENTS_FL else None
            self._runs[inode] = []
            self._used[inode] = False

    def _tree_blocks(self, runs: int) -> int:
        """The blocks of the extent tree that so many runs need."""
        if runs <= _RUNS_IN_INODE:
            return 0
        leaves = -(-runs // ((self.geometry.block_size - 12) // 12))
        return leaves + (1 if leaves > _RUNS_IN_INODE else 0)

    def _used_more(self, inode: int, used: bool) -> int:
        """How many more inodes are in use than the bitmap says: 1, 0 or -1."""
        group, index = divmod(inode - 1, self.geometry.inodes_per_group)
        return int(used) - self._bit(self.groups.group(group).inode_bitmap, index)

    def _clusters_used_more(self) -> int:
        """How many more clusters are in use than the bitmaps say."""
        geometry = self.geometry
        bits = geometry.cluster_bits
        now: set[int] = set()
        then: set[int] = set()
        for inode, runs in self._runs.items():
            for clusters, found in ((now, runs), (then, self._before.get(inode, []))):
                for run in found:
                    first = run.block - geometry.first_data_block >> bits
                    last = run.block + run.blocks - 1 - geometry.first_data_block >> bits
                    if len(clusters) + last - first > _MOST_BLOCKS_COUNTED:
                        raise FormatError("ext4", "its fast commits take too many blocks to count")
                    clusters.update(range(first, last + 1))
        # The kernel makes extent trees grow that no longer fit into their inodes, so that they take blocks.
        more = sum(
            max(self._tree_blocks(len(runs)) - self._tree_blocks(len(self._before.get(inode, []))), 0)
            for inode, runs in self._runs.items()
        )
        per_group = geometry.blocks_per_group >> bits
        for cluster in now | then:
            group, index = divmod(cluster, per_group)
            more += (cluster in now) - self._bit(self.groups.group(group).block_bitmap, index)
        return more

    def _bit(self, block: int, index: int) -> int:
        """A bit of a bitmap."""
        place = (block << self.geometry.block_bits) + (index >> 3)
        return self.source.read_at(place, 1)[0] >> (index & 7) & 1

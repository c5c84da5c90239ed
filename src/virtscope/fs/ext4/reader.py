"""`Ext4`: the reader of ext2, ext3 and ext4."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from virtscope.errors import FormatError, UnsupportedFeature
from virtscope.fs.ext4 import superblock as sb
from virtscope.fs.ext4.blockmap import block_map_runs
from virtscope.fs.ext4.directory import HASH_VERSION_OFFSET, KIND_OF_TYPE, entries_in, hash_in_entry
from virtscope.fs.ext4.extents import extent_runs
from virtscope.fs.ext4.groups import INODE_UNINIT, Groups
from virtscope.fs.ext4.inode import (
    CASEFOLD_FL,
    ENCRYPT_FL,
    EXTENTS_FL,
    INDEX_FL,
    INLINE_DATA_FL,
    OLD_SIZE,
    ROOT_INODE,
    Inode,
    InodeExtra,
    allocated_bytes,
    file_acl,
    size_of,
    stat_of,
)
from virtscope.fs.ext4.runs import FileMap
from virtscope.fs.ext4.usage import usage_of
from virtscope.fs.ext4.xattrs import (
    LARGEST_VALUE,
    SYSTEM,
    Attribute,
    attributes_in_block,
    attributes_in_inode,
    shown,
)
from virtscope.fs.filesystem import Entry, FileExtent, Filesystem, Identity, Stat, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from virtscope.block.source import BlockSource
    from virtscope.fs.ext4.checksums import Checksums

_CHUNK_BITS = 16
_CHUNKS_KEPT = 128
_MAPS_KEPT = 64
_LONGEST_MAP_KEPT = 1 << 16
_LONGEST_LINK = 1 << 16
_DIRECTORY_READ = 1 << 17
_LARGEST_DIRECTORY = 1 << 32
_INLINE_IN_BLOCK = 60
_INLINE_PARENT = 4
_KINDS = len(KIND_OF_TYPE)


class Ext4(Filesystem):
    """An ext2, ext3 or ext4 filesystem.

    Args:
        source: the volume, with the journal replayed over it if that is wanted.
        superblock: of it.
        verify: whether to verify the checksums of metadata, where it has them.

    Raises:
        FormatError: the superblock is damaged.
        UnsupportedFeature: it uses a feature that is not read.
    """

    root_inode = ROOT_INODE

    def __init__(self, source: BlockSource, superblock: sb.SuperBlock, verify: bool = False) -> None:
        super().__init__(source)
        self.superblock = superblock
        self.kind = superblock.kind
        self.geometry = sb.Geometry(superblock)
        self._checksums: Checksums | None = None
        if verify:
            from virtscope.fs.ext4.checksums import Checksums

            self._checksums = Checksums(source, superblock)
        self.groups = Groups(source, self.geometry, self._checksums)
        self._large_directories = superblock.has_incompat(sb.INCOMPAT_LARGEDIR)
        self._huge_files = superblock.has_ro_compat(sb.RO_COMPAT_HUGE_FILE)
        self._has_types = superblock.has_incompat(sb.INCOMPAT_FILETYPE)
        self._with_extra = self.geometry.inode_size > OLD_SIZE
        self._chunks: dict[tuple[int, int], bytes] = {}
        self._maps: dict[int, FileMap] = {}

    def identity(self) -> Identity:
        """As of `Filesystem`."""
        return sb.identity(self.superblock)

    def usage(self) -> Usage:
        """As of `Filesystem`."""
        return usage_of(self.geometry, self.groups, self._journal_blocks())

    def stat(self, inode: int) -> Stat:
        """As of `Filesystem`."""
        data, offset = self._locate(inode)
        raw = Inode.parse(data, offset)
        extra = InodeExtra.parse(data, offset + OLD_SIZE) if self._with_extra else None
        size = size_of(raw, self._large_directories)
        if raw.i_flags & ENCRYPT_FL and raw.i_mode & 0o170000 == 0o120000:
            size = len(self.readlink(inode))  # as the kernel says, not what the encrypted target takes
        allocated = allocated_bytes(raw, self._huge_files, self.geometry.block_bits, size)
        return stat_of(inode, raw, extra, size, allocated)

    def entries(self, inode: int) -> Iterator[Entry]:
        """As of `Filesystem`."""
        raw = self._inode(inode)
        if raw.i_mode & 0o170000 != 0o040000:
            raise FormatError("ext4", f"inode {inode} is no directory")
        has_types = self._has_types
        shown = self._shown_names(inode, raw) if raw.i_flags & ENCRYPT_FL else None
        for name, number, kind, place, data in entries_in(self._directory_blocks(inode, raw), inode):
            if name == b"." or name == b"..":
                continue
            if shown is not None:
                name = shown(name, data, place)
            yield Entry(name, number, KIND_OF_TYPE[kind] if has_types and kind < _KINDS else None)

    def lookup(self, inode: int, name: bytes) -> int | None:
        """As of `Filesystem`."""
        raw = self._inode(inode)
        if raw.i_flags & ENCRYPT_FL:
            return super().lookup(inode, name)
        if raw.i_mode & 0o170000 != 0o040000:
            raise FormatError("ext4", f"inode {inode} is no directory")
        if name in (b".", b"..", b""):
            return None
        # Most blocks are passed over without taking them apart.
        blocks = (block for block in self._directory_blocks(inode, raw) if name in block[0])
        for found, number, _, _, _ in entries_in(blocks, inode):
            if found == name:
                return number
        if raw.i_flags & CASEFOLD_FL:
            from virtscope.fs.ext4.casefold import folded

            wanted = folded(name)
            return next((entry.inode for entry in self.entries(inode) if folded(entry.name) == wanted), None)
        return None

    def readlink(self, inode: int) -> bytes:
        """As of `Filesystem`."""
        raw = self._inode(inode)
        if raw.i_mode & 0o170000 != 0o120000:
            raise FormatError("ext4", f"inode {inode} is no symbolic link")
        size = raw.i_size_lo
        if size > _LONGEST_LINK:
            raise FormatError("ext4", f"symbolic link {inode} of {size} bytes", field="i_size_lo")
        if size < _INLINE_IN_BLOCK and not raw.i_flags & (EXTENTS_FL | INLINE_DATA_FL):
            target = raw.i_block[:size]
        else:
            target = self._read(inode, raw, 0, size)
        if raw.i_flags & ENCRYPT_FL:
            from virtscope.fs.ext4.nokey import no_key_target

            return no_key_target(target)
        return target.split(b"\0", 1)[0]

    def xattrs(self, inode: int) -> dict[str, bytes]:
        """As of `Filesystem`."""
        found: dict[str, bytes] = {}
        for name, value in shown(self._attributes(inode), self._attribute_value, inode):
            found.setdefault(name, value)
        return found

    def extents(self, inode: int) -> Iterator[FileExtent]:
        """As of `Filesystem`."""
        raw = self._inode(inode)
        size = size_of(raw, self._large_directories)
        if raw.i_flags & INLINE_DATA_FL:
            if size:
                yield FileExtent(0, size, None)
            return
        if self._has_blocks(raw):
            yield from self._map(inode, raw).extents(0, size)

    def read(self, inode: int, offset: int, size: int) -> bytes:
        """As of `Filesystem`."""
        raw = self._inode(inode)
        if raw.i_flags & ENCRYPT_FL and raw.i_mode & 0o170000 == 0o100000:
            raise UnsupportedFeature("ext4", f"the file (inode {inode}) is encrypted")
        return self._read(inode, raw, offset, size)

    def inodes(self) -> Iterator[int]:
        """As of `Filesystem`."""
        geometry = self.geometry
        per_group = geometry.inodes_per_group
        uninitialized = geometry.superblock.has_ro_compat(
            sb.RO_COMPAT_GDT_CSUM
        ) or geometry.superblock.has_ro_compat(sb.RO_COMPAT_METADATA_CSUM)
        for number in range(geometry.groups):
            group = self.groups.group(number)
            if uninitialized and group.flags & INODE_UNINIT:
                continue
            bitmap = self.source.read_at(group.inode_bitmap << geometry.block_bits, -(-per_group // 8))
            if self._checksums is not None:
                wide = geometry.descriptor_size >= 64
                self._checksums.inode_bitmap(number, bitmap, group.inode_bitmap_checksum, wide)
            bits = int.from_bytes(bitmap, "little") & (1 << per_group) - 1
            first = number * per_group + 1
            while bits:
                lowest = bits & -bits
                inode = first + lowest.bit_length() - 1
                bits ^= lowest
                if self._inode(inode).i_mode:  # of the reserved ones, most are never made
                    yield inode

    def _locate(self, inode: int) -> tuple[bytes, int]:
        """A part of an inode table with an inode in it, and where."""
        geometry = self.geometry
        if not 0 < inode <= geometry.inodes_count:
            raise FormatError("ext4", f"there is no inode {inode}")
        group, index = divmod(inode - 1, geometry.inodes_per_group)
        place = index * geometry.inode_size
        key = (group, place >> _CHUNK_BITS)
        chunk = self._chunks.get(key)
        if chunk is None:
            chunk = self._chunk(group, place >> _CHUNK_BITS << _CHUNK_BITS)
            if len(self._chunks) >= _CHUNKS_KEPT:
                del self._chunks[next(iter(self._chunks))]
            self._chunks[key] = chunk
        if self._checksums is not None:
            start = place & (1 << _CHUNK_BITS) - 1
            self._checksums.inode(inode, chunk[start : start + geometry.inode_size])
        return chunk, place & (1 << _CHUNK_BITS) - 1

    def _chunk(self, group: int, start: int) -> bytes:
        geometry = self.geometry
        size = min(1 << _CHUNK_BITS, geometry.inodes_per_group * geometry.inode_size - start)
        table = self.groups.group(group).inode_table << geometry.block_bits
        return self.source.read_at(table + start, size)

    def _inode(self, inode: int) -> Inode:
        return Inode.parse(*self._locate(inode))

    def _space_behind(self, inode: int) -> bytes:
        """What is behind the fields of an inode, up to its end."""
        if not self._with_extra:
            return b""
        data, offset = self._locate(inode)
        size = self.geometry.inode_size
        extra = int.from_bytes(data[offset + OLD_SIZE : offset + OLD_SIZE + 2], "little")
        if extra > size - OLD_SIZE or extra & 3:
            raise FormatError("ext4", f"inode {inode}: {extra} cannot be", field="i_extra_isize")
        return data[offset + OLD_SIZE + extra : offset + size]

    def _attributes(self, inode: int) -> Iterator[Attribute]:
        """The attributes of an inode as stored: first those behind it, then those of its block."""
        raw = self._inode(inode)
        yield from attributes_in_inode(self._space_behind(inode), inode)
        block = file_acl(raw)
        if block:
            data = self._block(block)
            if self._checksums is not None:
                self._checksums.attribute_block(block, data)
            yield from attributes_in_block(data, inode)

    def _attribute_value(self, attribute: Attribute) -> bytes:
        """The value of an attribute that has an inode of its own."""
        raw = self._inode(attribute.value_inode)
        size = size_of(raw, False)
        if size != attribute.size or size > LARGEST_VALUE or raw.i_flags & INLINE_DATA_FL:
            problem = f"inode {attribute.value_inode} has no value of {attribute.size} bytes"
            raise FormatError("ext4", problem, field="e_value_inum")
        return self._read(attribute.value_inode, raw, 0, size)

    def _inline(self, inode: int, raw: Inode) -> tuple[bytes, bytes]:
        """The two places of inline data: in i_block, and in an attribute."""
        for attribute in attributes_in_inode(self._space_behind(inode), inode):
            if attribute.name_index == SYSTEM and attribute.name == b"data":
                return raw.i_block, attribute.value
        return raw.i_block, b""

    def _block(self, number: int) -> bytes:
        """A block of metadata."""
        if not 0 < number < self.geometry.blocks_count:
            raise FormatError("ext4", f"block {number} does not exist")
        bits = self.geometry.block_bits
        return self.source.read_at(number << bits, 1 << bits)

    def _has_blocks(self, raw: Inode) -> bool:
        """Whether i_block says where blocks are (and is no device number or short link)."""
        kind = raw.i_mode & 0o170000
        if kind == 0o120000:
            return raw.i_size_lo >= _INLINE_IN_BLOCK or bool(raw.i_flags & EXTENTS_FL)
        return kind in (0o100000, 0o040000)

    def _map(self, inode: int, raw: Inode) -> FileMap:
        """Where the blocks of a file are; remembered, so that reading it in pieces finds them once."""
        found = self._maps.get(inode)
        if found is not None:
            return found
        geometry = self.geometry
        size = size_of(raw, self._large_directories)
        if raw.i_flags & EXTENTS_FL:
            read = self._block if self._checksums is None else partial(self._extent_node, inode, raw)
            runs = extent_runs(raw.i_block, read, geometry.blocks_count, inode)
        else:
            runs = block_map_runs(
                raw.i_block,
                self._block,
                block_bits=geometry.block_bits,
                blocks=-(-size >> geometry.block_bits),
                blocks_count=geometry.blocks_count,
                inode=inode,
            )
        found = FileMap(runs, size, geometry.block_bits)
        if len(found) <= _LONGEST_MAP_KEPT or not self._maps:
            if len(self._maps) >= _MAPS_KEPT:
                self._maps.clear()
            self._maps[inode] = found
        return found

    def _extent_node(self, inode: int, raw: Inode, number: int) -> bytes:
        """A block of an extent tree, verified."""
        block = self._block(number)
        if self._checksums is not None:
            self._checksums.extent_node(inode, raw.i_generation, block)
        return block

    def _read(self, inode: int, raw: Inode, offset: int, size: int) -> bytes:
        """The bytes of a file, whatever it is."""
        if offset < 0 or size < 0:
            raise ValueError(f"{size} bytes at {offset} of a file")
        if raw.i_flags & INLINE_DATA_FL:
            length = size_of(raw, self._large_directories)
            data = b"".join(self._inline(inode, raw))[:length]
            if len(data) < length:
                if length > self.geometry.inode_size:
                    raise FormatError("ext4", f"inode {inode}: {length} bytes inside it", field="i_size_lo")
                data += bytes(length - len(data))
            return data[offset : offset + size]
        if not self._has_blocks(raw):
            return b""
        pieces = [
            bytes(extent.size)
            if extent.is_zero or extent.disk_offset is None
            else self.source.read_at(extent.disk_offset, extent.size)
            for extent in self._map(inode, raw).extents(offset, offset + size)
        ]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _shown_names(self, inode: int, raw: Inode) -> Callable[[bytes, bytes, int], bytes]:
        """What shows the names of an encrypted directory: from a name, its block and its place there."""
        from virtscope.fs.ext4.dirhash import directory_hash
        from virtscope.fs.ext4.nokey import no_key_name

        superblock = self.superblock
        unsigned = bool(superblock.s_flags & sb.FLAGS_UNSIGNED_HASH)
        version = superblock.s_def_hash_version
        if raw.i_flags & INDEX_FL and not raw.i_flags & INLINE_DATA_FL:
            version = self._read(inode, raw, HASH_VERSION_OFFSET, 1)[0]
        indexed = superblock.has_compat(sb.COMPAT_DIR_INDEX)
        one_block = size_of(raw, self._large_directories) == self.geometry.block_size
        indexed &= one_block or bool(raw.i_flags & (INDEX_FL | INLINE_DATA_FL))
        in_entries = bool(raw.i_flags & CASEFOLD_FL)

        def shown(name: bytes, data: bytes, place: int) -> bytes:
            if in_entries:  # it cannot be computed without the key
                return no_key_name(name, hash_in_entry(data, place))
            if not indexed:
                return no_key_name(name, (0, 0))
            return no_key_name(
                name, directory_hash(name, version, superblock.s_hash_seed, unsigned) or (0, 0)
            )

        return shown

    def _directory_blocks(self, inode: int, raw: Inode) -> Iterator[tuple[bytes, int]]:
        """The blocks of a directory, and where in them entries begin."""
        size = size_of(raw, self._large_directories)
        if raw.i_flags & INLINE_DATA_FL:
            first, second = self._inline(inode, raw)
            yield first, _INLINE_PARENT
            if second:
                yield second, 0
            return
        if size > _LARGEST_DIRECTORY:
            raise FormatError("ext4", f"directory {inode} of {size} bytes", field="i_size_lo")
        block_size = self.geometry.block_size
        for extent in self._map(inode, raw).extents(0, size):
            if extent.is_zero or extent.disk_offset is None:
                continue  # a hole: the kernel passes over it, too
            for start in range(0, extent.size, _DIRECTORY_READ):
                data = self.source.read_at(
                    extent.disk_offset + start, min(_DIRECTORY_READ, extent.size - start)
                )
                for place in range(0, len(data), block_size):
                    block = data[place : place + block_size]
                    if self._checksums is not None:
                        self._checksums.directory_block(inode, raw.i_generation, block)
                    yield block, 0

    def _journal_blocks(self) -> int:
        """The length of the journal inside the filesystem, 0 for none."""
        superblock = self.superblock
        if not superblock.has_compat(sb.COMPAT_HAS_JOURNAL) or not superblock.s_journal_inum:
            return 0
        raw = self._inode(superblock.s_journal_inum)
        return size_of(raw, False) >> self.geometry.block_bits

    def journal_file(self) -> JournalFile:
        """The file with the journal.

        Raises:
            FormatError: its inode is damaged.
        """
        inode = self.superblock.s_journal_inum
        raw = self._inode(inode)
        if raw.i_mode & 0o170000 != 0o100000 or not raw.i_links_count:
            raise FormatError("ext4", f"inode {inode} is no journal", field="s_journal_inum")
        return JournalFile(self.source, self._map(inode, raw), self.geometry.block_bits)


class JournalFile:
    """The journal's file: its bytes, and where they are.

    Attributes:
        blocks: its length.
    """

    def __init__(self, source: BlockSource, blocks: FileMap, block_bits: int) -> None:
        self._source = source
        self._map = blocks
        self._bits = block_bits
        self.blocks = blocks.size >> block_bits

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of one of its blocks."""
        number = offset >> self._bits
        return self._source.read_at(self.place(number) + offset - (number << self._bits), size)

    def place(self, number: int) -> int:
        """The offset in the volume of one of its blocks.

        Raises:
            FormatError: it has no such block.
        """
        start = number << self._bits
        extent = next(self._map.extents(start, start + 1), None)
        if extent is None or extent.disk_offset is None or extent.is_zero:
            raise FormatError("jbd2", f"block {number} of the journal is missing")
        return extent.disk_offset

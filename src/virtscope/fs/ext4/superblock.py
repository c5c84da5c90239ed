"""The superblock of ext2, ext3 and ext4: its pattern, its features, and what follows from them.

Specified in the kernel's Documentation/filesystems/ext4 and fs/ext4/ext4.h, whose names are used.
"""

from __future__ import annotations

from virtscope.bitmatch import MatchError, Record
from virtscope.block.source import BlockSource
from virtscope.errors import FormatError, UnsupportedFeature
from virtscope.fs.filesystem import Identity

SUPERBLOCK_OFFSET = 1024
SUPERBLOCK_SIZE = 1024

COMPAT_HAS_JOURNAL = 0x4
COMPAT_SPARSE_SUPER2 = 0x200
COMPAT_FAST_COMMIT = 0x400
COMPAT_DIR_INDEX = 0x20

INCOMPAT_FILETYPE = 0x2
INCOMPAT_RECOVER = 0x4
INCOMPAT_JOURNAL_DEV = 0x8
INCOMPAT_META_BG = 0x10
INCOMPAT_EXTENTS = 0x40
INCOMPAT_64BIT = 0x80
INCOMPAT_MMP = 0x100
INCOMPAT_FLEX_BG = 0x200
INCOMPAT_EA_INODE = 0x400
INCOMPAT_CSUM_SEED = 0x2000
INCOMPAT_LARGEDIR = 0x4000
INCOMPAT_INLINE_DATA = 0x8000
INCOMPAT_ENCRYPT = 0x10000
INCOMPAT_CASEFOLD = 0x20000

FLAGS_UNSIGNED_HASH = 0x2

RO_COMPAT_SPARSE_SUPER = 0x1
RO_COMPAT_LARGE_FILE = 0x2
RO_COMPAT_BTREE_DIR = 0x4
RO_COMPAT_HUGE_FILE = 0x8
RO_COMPAT_GDT_CSUM = 0x10
RO_COMPAT_BIGALLOC = 0x200
RO_COMPAT_METADATA_CSUM = 0x400

_INCOMPAT_READ = (
    INCOMPAT_FILETYPE
    | INCOMPAT_RECOVER
    | INCOMPAT_META_BG
    | INCOMPAT_EXTENTS
    | INCOMPAT_64BIT
    | INCOMPAT_MMP
    | INCOMPAT_FLEX_BG
    | INCOMPAT_EA_INODE
    | INCOMPAT_CSUM_SEED
    | INCOMPAT_LARGEDIR
    | INCOMPAT_INLINE_DATA
    | INCOMPAT_ENCRYPT
    | INCOMPAT_CASEFOLD
)

# What a filesystem may use and still be called ext2 or ext3, as blkid(8) tells them apart.
_EXT2_INCOMPAT = INCOMPAT_FILETYPE | INCOMPAT_META_BG
_EXT3_INCOMPAT = _EXT2_INCOMPAT | INCOMPAT_RECOVER
_EXT3_RO_COMPAT = RO_COMPAT_SPARSE_SUPER | RO_COMPAT_LARGE_FILE | RO_COMPAT_BTREE_DIR

_LARGEST_BLOCK_BITS = 16
_DYNAMIC_REVISION = 1
_OLD_INODE_SIZE = 128
_OLD_FIRST_INODE = 11
_MAXIMUM_GROUPS = 1 << 22
"""Half a pebibyte of 4 KiB blocks; their descriptors are read within a second."""


class SuperBlock(Record):
    """The superblock (struct ext4_super_block)."""

    layout = """little
        s_inodes_count : 32; s_blocks_count_lo : 32; s_r_blocks_count_lo : 32; s_free_blocks_count_lo : 32
        s_free_inodes_count : 32; s_first_data_block : 32; s_log_block_size : 32; s_log_cluster_size : 32
        s_blocks_per_group : 32; s_clusters_per_group : 32; s_inodes_per_group : 32; s_mtime : 32
        s_wtime : 32; s_mnt_count : 16; s_max_mnt_count : 16
        s_magic : 16 = 0xEF53
        s_state : 16; s_errors : 16; s_minor_rev_level : 16; s_lastcheck : 32; s_checkinterval : 32
        s_creator_os : 32; s_rev_level : 32; s_def_resuid : 16; s_def_resgid : 16
        s_first_ino : 32; s_inode_size : 16; s_block_group_nr : 16
        s_feature_compat : 32; s_feature_incompat : 32; s_feature_ro_compat : 32
        s_uuid : bytes(16); s_volume_name : bytes(16); s_last_mounted : bytes(64)
        s_algorithm_usage_bitmap : 32; s_prealloc_blocks : 8; s_prealloc_dir_blocks : 8
        s_reserved_gdt_blocks : 16
        s_journal_uuid : bytes(16); s_journal_inum : 32; s_journal_dev : 32; s_last_orphan : 32
        s_hash_seed : 32[4]; s_def_hash_version : 8; s_jnl_backup_type : 8; s_desc_size : 16
        s_default_mount_opts : 32; s_first_meta_bg : 32; s_mkfs_time : 32; s_jnl_blocks : 32[17]
        s_blocks_count_hi : 32; s_r_blocks_count_hi : 32; s_free_blocks_count_hi : 32
        s_min_extra_isize : 16; s_want_extra_isize : 16; s_flags : 32
        at 0x174; s_log_groups_per_flex : 8; s_checksum_type : 8
        at 0x248; s_overhead_clusters : 32; s_backup_bgs : 32[2]
        at 0x270; s_checksum_seed : 32
        at 0x27c; s_encoding : 16; s_encoding_flags : 16
        at 0x3fc; s_checksum : 32
        """
    s_inodes_count: int
    s_free_inodes_count: int
    s_first_data_block: int
    s_log_block_size: int
    s_log_cluster_size: int
    s_blocks_per_group: int
    s_clusters_per_group: int
    s_inodes_per_group: int
    s_rev_level: int
    s_first_ino: int
    s_inode_size: int
    s_feature_compat: int
    s_feature_incompat: int
    s_feature_ro_compat: int
    s_uuid: bytes
    s_volume_name: bytes
    s_reserved_gdt_blocks: int
    s_journal_uuid: bytes
    s_journal_inum: int
    s_last_orphan: int
    s_hash_seed: tuple[int, ...]
    s_def_hash_version: int
    s_desc_size: int
    s_first_meta_bg: int
    s_flags: int
    s_overhead_clusters: int
    s_backup_bgs: tuple[int, int]
    s_checksum_seed: int
    s_checksum: int

    def has_compat(self, feature: int) -> bool:
        """Whether a compatible feature is on."""
        return bool(self.s_feature_compat & feature)

    def has_incompat(self, feature: int) -> bool:
        """Whether an incompatible feature is on."""
        return bool(self.s_feature_incompat & feature)

    def has_ro_compat(self, feature: int) -> bool:
        """Whether a feature is on that older kernels can only read."""
        return bool(self.s_feature_ro_compat & feature)

    @property
    def blocks_count(self) -> int:
        """All blocks."""
        return self._wide(self.s_blocks_count_lo, self.s_blocks_count_hi)

    @property
    def reserved_blocks_count(self) -> int:
        """Blocks for root alone."""
        return self._wide(self.s_r_blocks_count_lo, self.s_r_blocks_count_hi)

    @property
    def kind(self) -> str:
        """ "ext2", "ext3", "ext4", or "jbd" for a journal of its own, by the features used."""
        if self.has_incompat(INCOMPAT_JOURNAL_DEV):
            return "jbd"
        if self.s_feature_ro_compat & ~_EXT3_RO_COMPAT or self.s_feature_incompat & ~_EXT3_INCOMPAT:
            return "ext4"
        if self.has_compat(COMPAT_HAS_JOURNAL):
            return "ext3"
        return "ext4" if self.s_feature_incompat & ~_EXT2_INCOMPAT else "ext2"

    def _wide(self, low: int, high: int) -> int:
        return low | high << 32 if self.has_incompat(INCOMPAT_64BIT) else low


def read_superblock(source: BlockSource) -> SuperBlock:
    """The primary superblock of a volume.

    Raises:
        FormatError: it is none, or the volume ends before it does.
    """
    data = source.read_at(SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE)
    try:
        superblock = SuperBlock.parse(data)
    except MatchError as error:
        raise FormatError(
            "ext4",
            f"expected {error.expected}, found {error.got}",
            field=error.field,
            offset=SUPERBLOCK_OFFSET + error.offset,
        ) from None
    if superblock.s_log_block_size + 10 > _LARGEST_BLOCK_BITS:
        raise FormatError(
            "ext4",
            f"blocks of 2^{superblock.s_log_block_size + 10} bytes cannot be",
            field="s_log_block_size",
            offset=SUPERBLOCK_OFFSET + 24,
        )
    return superblock


def identity(superblock: SuperBlock) -> Identity:
    """Kind, UUID, label and size that a superblock tells."""
    label = superblock.s_volume_name.split(b"\0")[0].decode("utf-8", "surrogateescape")
    digits = superblock.s_uuid.hex()
    uuid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    return Identity(
        superblock.kind,
        uuid=uuid if any(superblock.s_uuid) else None,
        label=label or None,
        size=superblock.blocks_count << superblock.s_log_block_size + 10,
    )


class Geometry:
    """The sizes and places that follow from a superblock, checked against each other as the kernel does.

    Args:
        superblock: as read.

    Attributes:
        superblock: as given.
        block_bits: the power of two that is `block_size`.
        block_size: bytes.
        cluster_bits: the power of two that is the blocks of a cluster; 0 without bigalloc.
        blocks_count: all blocks.
        first_data_block: the block where group 0 begins.
        blocks_per_group: as it says.
        inodes_count: all inodes.
        inodes_per_group: as it says.
        inode_size: bytes.
        inode_table_blocks: blocks of a group's inode table.
        first_inode: the first inode that is not reserved.
        groups: how many.
        descriptor_size: bytes of a group descriptor.
        descriptors_per_block: as it says.
        descriptor_blocks: blocks that all group descriptors take.

    Raises:
        FormatError: sizes that cannot be.
        UnsupportedFeature: it uses a feature that nobody, or only somebody else's kernel, reads.
    """

    def __init__(self, superblock: SuperBlock) -> None:
        self.superblock = superblock
        unknown = superblock.s_feature_incompat & ~_INCOMPAT_READ
        if unknown:
            raise UnsupportedFeature(
                "ext4", f"features {unknown:#x} are not known", field="s_feature_incompat", offset=0x460
            )
        self.block_bits = superblock.s_log_block_size + 10
        self.block_size = 1 << self.block_bits
        self.cluster_bits = 0
        largest_group = self.block_size * 8
        if superblock.has_ro_compat(RO_COMPAT_BIGALLOC):
            self.cluster_bits = superblock.s_log_cluster_size - superblock.s_log_block_size
            if not 0 <= self.cluster_bits <= 20:
                raise self._wrong("s_log_cluster_size", 28, superblock.s_log_cluster_size)
            largest_group <<= self.cluster_bits
        self.blocks_count = superblock.blocks_count
        self.first_data_block = superblock.s_first_data_block
        self.blocks_per_group = superblock.s_blocks_per_group
        self.inodes_count = superblock.s_inodes_count
        self.inodes_per_group = superblock.s_inodes_per_group
        old = superblock.s_rev_level < _DYNAMIC_REVISION
        self.inode_size = _OLD_INODE_SIZE if old else superblock.s_inode_size
        self.first_inode = _OLD_FIRST_INODE if old else superblock.s_first_ino
        if not 8 <= self.blocks_per_group <= largest_group:
            raise self._wrong("s_blocks_per_group", 32, self.blocks_per_group)
        if not 0 < self.inodes_per_group <= self.block_size * 8:
            raise self._wrong("s_inodes_per_group", 40, self.inodes_per_group)
        size = self.inode_size
        if not _OLD_INODE_SIZE <= size <= self.block_size or size & size - 1:
            raise self._wrong("s_inode_size", 88, size)
        if self.first_data_block >= self.blocks_count:
            raise self._wrong("s_first_data_block", 20, self.first_data_block)
        self.inode_table_blocks = -(-self.inodes_per_group * self.inode_size >> self.block_bits)
        self.groups = -(-(self.blocks_count - self.first_data_block) // self.blocks_per_group)
        if self.groups > _MAXIMUM_GROUPS:
            raise self._wrong("s_blocks_count_lo", 4, self.blocks_count)
        if self.groups * self.inodes_per_group != self.inodes_count:
            raise self._wrong("s_inodes_count", 0, self.inodes_count)
        self.descriptor_size = 32
        if superblock.has_incompat(INCOMPAT_64BIT):
            size = self.descriptor_size = superblock.s_desc_size
            if not 64 <= size <= self.block_size or size & size - 1:
                raise self._wrong("s_desc_size", 254, size)
        self.descriptors_per_block = self.block_size // self.descriptor_size
        self.descriptor_blocks = -(-self.groups // self.descriptors_per_block)

    def has_backup(self, group: int) -> bool:
        """Whether a group begins with a superblock."""
        superblock = self.superblock
        if group == 0:
            return True
        if superblock.has_compat(COMPAT_SPARSE_SUPER2):
            return group in superblock.s_backup_bgs
        if group == 1 or not superblock.has_ro_compat(RO_COMPAT_SPARSE_SUPER):
            return True
        return any(group == base ** _root(group, base) for base in (3, 5, 7))

    def groups_with_backup(self) -> list[int]:
        """The groups that begin with a superblock; few, and found without looking at each."""
        superblock = self.superblock
        if superblock.has_compat(COMPAT_SPARSE_SUPER2):
            return sorted({0, *(group for group in superblock.s_backup_bgs if 0 < group < self.groups)})
        if not superblock.has_ro_compat(RO_COMPAT_SPARSE_SUPER):
            return list(range(self.groups))
        found = {0, 1} if self.groups > 1 else {0}
        for base in (3, 5, 7):
            power = base
            while power < self.groups:
                found.add(power)
                power *= base
        return sorted(found)

    def first_block(self, group: int) -> int:
        """The block where a group begins."""
        return self.first_data_block + group * self.blocks_per_group

    def descriptor_block(self, number: int) -> int:
        """The block with the `number`-th block of group descriptors."""
        superblock = self.superblock
        if not superblock.has_incompat(INCOMPAT_META_BG) or number < superblock.s_first_meta_bg:
            # The superblock is in block 1 if blocks are of 1 KiB, whatever the first data block is.
            return (1 if self.block_bits == 10 else 0) + 1 + number
        group = number * self.descriptors_per_block
        behind = int(self.has_backup(group))
        if self.block_bits == 10 and number == 0 and self.first_data_block == 0:
            behind += 1
        return self.first_block(group) + behind

    def _wrong(self, field: str, offset: int, value: int) -> FormatError:
        return FormatError(
            "ext4",
            f"{value} cannot be; the superblock is damaged",
            field=field,
            offset=SUPERBLOCK_OFFSET + offset,
        )


def _root(number: int, base: int) -> int:
    """The largest power of `base` that is not above `number`, as an exponent."""
    exponent = 0
    while base ** (exponent + 1) <= number:
        exponent += 1
    return exponent

"""How full a filesystem is, counted as the kernel's ext4_statfs does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtscope.fs.ext4.superblock import INCOMPAT_EXTENTS, INCOMPAT_META_BG, RO_COMPAT_BIGALLOC
from virtscope.fs.filesystem import Usage

if TYPE_CHECKING:
    from virtscope.fs.ext4.groups import Groups
    from virtscope.fs.ext4.superblock import Geometry

_RESERVED_SHARE = 50
_MOST_RESERVED = 4096
_BITMAPS = 2
_MOST_GROUPS_COUNTED = 4096


def usage_of(geometry: Geometry, groups: Groups, journal_blocks: int) -> Usage:
    """What statfs(2) gives.

    Args:
        geometry: of the filesystem.
        groups: of the filesystem.
        journal_blocks: the length of the journal inside it; 0 for none.
    """
    superblock = geometry.superblock
    bits = geometry.cluster_bits
    free_clusters, free_inodes = groups.free_counts()
    free = free_clusters << bits
    reserved = superblock.reserved_blocks_count
    if superblock.has_incompat(INCOMPAT_EXTENTS):
        # ext4_set_resv_clusters: so that delayed allocation never finds the disk full.
        reserved += min((geometry.blocks_count >> bits) // _RESERVED_SHARE, _MOST_RESERVED) << bits
    return Usage(
        geometry.block_size,
        geometry.blocks_count - (overhead_clusters(geometry, groups, journal_blocks) << bits),
        free,
        max(free - reserved, 0),
        geometry.inodes_count,
        free_inodes,
    )


def overhead_clusters(geometry: Geometry, groups: Groups, journal_blocks: int) -> int:
    """The clusters that the filesystem's own tables take (ext4_calculate_overhead).

    Without bigalloc every table has blocks of its own, and the sum follows from a few numbers; with it,
    tables share clusters, and the number that mke2fs left in the superblock is used where it can be right.
    """
    superblock = geometry.superblock
    bits = geometry.cluster_bits
    if not superblock.has_ro_compat(RO_COMPAT_BIGALLOC):
        backups = geometry.groups_with_backup()
        overhead = geometry.first_data_block
        overhead += geometry.groups * (geometry.inode_table_blocks + _BITMAPS)
        overhead += len(backups) * (1 + superblock.s_reserved_gdt_blocks)
        return overhead + _descriptor_blocks(geometry, backups) + journal_blocks
    stored = superblock.s_overhead_clusters
    if 0 < stored <= geometry.blocks_count:
        return stored
    overhead = geometry.first_data_block >> bits
    overhead += _clusters_of_tables(geometry, groups)
    return overhead + -(-journal_blocks >> bits)


def _descriptor_blocks(geometry: Geometry, backups: list[int]) -> int:
    """The blocks that group descriptors and their copies take in all groups."""
    superblock = geometry.superblock
    if not superblock.has_incompat(INCOMPAT_META_BG):
        return len(backups) * geometry.descriptor_blocks
    # Below the first meta group as ever; behind, one block in the first, second and last group of each.
    per_block = geometry.descriptors_per_block
    border = superblock.s_first_meta_bg * per_block
    count = sum(superblock.s_first_meta_bg for group in backups if group < border)
    whole, rest = divmod(max(geometry.groups - border, 0), per_block)
    in_whole = len({0, 1, per_block - 1} & set(range(per_block)))
    in_rest = len({0, 1, per_block - 1} & set(range(rest)))
    return count + whole * in_whole + in_rest


def _clusters_of_tables(geometry: Geometry, groups: Groups) -> int:
    """The clusters with tables in them, counted one by one."""
    superblock = geometry.superblock
    bits = geometry.cluster_bits
    taken: set[int] = set()
    backups = set(geometry.groups_with_backup())
    backup_blocks = (
        superblock.s_first_meta_bg
        if superblock.has_incompat(INCOMPAT_META_BG)
        else geometry.descriptor_blocks
    )
    for number in range(min(geometry.groups, _MOST_GROUPS_COUNTED)):
        group = groups.group(number)
        base = geometry.first_data_block
        taken.add(group.block_bitmap - base >> bits)
        taken.add(group.inode_bitmap - base >> bits)
        table = group.inode_table - base
        taken.update(range(table >> bits, (table + geometry.inode_table_blocks - 1 >> bits) + 1))
        first = number * geometry.blocks_per_group
        if number in backups:
            taken.update(range(first >> bits, (first + backup_blocks >> bits) + 1))
    return len(taken)

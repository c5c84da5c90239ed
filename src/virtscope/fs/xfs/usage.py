"""How full an XFS filesystem is: what statfs(2) says of it, mounted read-write with default options.

The kernel does not show all free blocks: it keeps some for the case that space runs out (`_default_reserve`),
some for the trees that must be able to grow in each allocation group (`_reservations`), and some that a full
group needs to be usable at all (`_SET_ASIDE_BLOCKS`). What it does at mount time is done here with the same
numbers: xfs_mountfs, xfs_ag_resv_init and xfs_fs_statfs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from virtscope.errors import FormatError
from virtscope.fs.filesystem import Usage
from virtscope.fs.xfs.groups import INODES_OF_RECORD, free_inode_tree_blocks, read_headers
from virtscope.fs.xfs.superblock import (
    FORMAT,
    RO_COMPAT_FINOBT,
    RO_COMPAT_INOBTCNT,
    RO_COMPAT_REFLINK,
    RO_COMPAT_RMAPBT,
)

if TYPE_CHECKING:
    from virtscope.block.source import BlockSource
    from virtscope.fs.xfs.groups import Agf, Agi
    from virtscope.fs.xfs.superblock import SuperBlock

_SET_ASIDE_BLOCKS = 8
"""A group's: four for its free list, four for splits of a file's extent tree (xfs_alloc_set_aside)."""

_LARGEST_RESERVE = 8192
_LARGEST_INODE_NUMBER = (1 << 56) - 1
_MAXIMUM_GROUPS = 1 << 14
_TREE_HEADER_SIZE = 56


class _Counters(NamedTuple):
    """What the counters of the superblock are, or would be after a clean unmount."""

    free_blocks: int
    inodes: int
    free_inodes: int


def usage(source: BlockSource, superblock: SuperBlock, *, is_clean: bool) -> Usage:
    """How full the filesystem is.

    Args:
        source: its bytes.
        superblock: its superblock.
        is_clean: whether it was unmounted; otherwise the superblock's counters are stale, and those of the
            allocation groups are added up.

    Raises:
        FormatError: the headers of an allocation group are damaged.
    """
    if superblock.sb_agcount > _MAXIMUM_GROUPS:
        raise FormatError(
            FORMAT, f"{superblock.sb_agcount} allocation groups are too many", field="sb_agcount", offset=88
        )
    has_reservations = any(
        superblock.has_ro_compat(feature)
        for feature in (RO_COMPAT_FINOBT, RO_COMPAT_REFLINK, RO_COMPAT_RMAPBT)
    )
    must_add_up = not is_clean and superblock.has_lazy_counters
    groups: list[tuple[Agf, Agi]] = []
    if has_reservations or must_add_up or not _is_plausible(superblock):
        groups = [read_headers(source, superblock, group) for group in range(superblock.sb_agcount)]
    counters = _Counters(superblock.sb_fdblocks, superblock.sb_icount, superblock.sb_ifree)
    if must_add_up or not _is_plausible(superblock):
        counters = _added_up(groups)
        if counters.free_blocks > _file_blocks(superblock) or counters.free_inodes > counters.inodes:
            raise FormatError(FORMAT, "more free than there is", field="agf_freeblks")
    free = _shown_free(source, superblock, counters.free_blocks, groups)
    inodes = min(counters.inodes + (free << superblock.sb_inopblog), _LARGEST_INODE_NUMBER)
    most = _most_inodes(superblock)
    if most:
        inodes = min(inodes, most)
    inodes = max(inodes, counters.inodes)
    return Usage(
        block_size=superblock.sb_blocksize,
        blocks=_file_blocks(superblock),
        free_blocks=free,
        available_blocks=free,
        inodes=inodes,
        free_inodes=max(inodes - (counters.inodes - counters.free_inodes), 0),
    )


def _file_blocks(superblock: SuperBlock) -> int:
    """All blocks but those of the log, if it is inside: what statfs shows as the size."""
    return superblock.sb_dblocks - (superblock.sb_logblocks if superblock.sb_logstart else 0)


def _is_plausible(superblock: SuperBlock) -> bool:
    return superblock.sb_fdblocks <= _file_blocks(superblock) and superblock.sb_ifree <= superblock.sb_icount


def _added_up(groups: list[tuple[Agf, Agi]]) -> _Counters:
    return _Counters(
        sum(agf.agf_freeblks + agf.agf_flcount + agf.agf_btreeblks for agf, _ in groups),
        sum(agi.agi_count for _, agi in groups),
        sum(agi.agi_freecount for _, agi in groups),
    )


def _most_inodes(superblock: SuperBlock) -> int:
    """How many inodes there may be at most (imaxpct), whole chunks; 0 for no limit."""
    chunk_blocks = max(INODES_OF_RECORD, superblock.sb_inopblock) >> superblock.sb_inopblog
    if not superblock.sb_imax_pct or not chunk_blocks:
        return 0
    chunks = superblock.sb_dblocks * superblock.sb_imax_pct // 100 // chunk_blocks
    return chunks * chunk_blocks << superblock.sb_inopblog


def _shown_free(source: BlockSource, superblock: SuperBlock, free: int, groups: list[tuple[Agf, Agi]]) -> int:
    """The free blocks that statfs shows: without what the kernel keeps for itself."""
    aside = superblock.sb_agcount * _SET_ASIDE_BLOCKS
    # The first reservation is for the case that there is no space; later ones may be taken from it.
    reserve = min(max(free - aside, 0), superblock.sb_dblocks // 20, _LARGEST_RESERVE)
    free -= reserve
    for group, (agf, agi) in enumerate(groups):
        hidden_sizes = _reservations(source, superblock, group, agf, agi)
        if not hidden_sizes:
            continue
        tree_blocks = agf.agf_btreeblks
        if superblock.has_ro_compat(RO_COMPAT_RMAPBT):
            tree_blocks -= agf.agf_rmap_blocks - 1
        aside += max(tree_blocks, 0)
        for hidden in hidden_sizes:
            if free - hidden >= aside:
                free -= hidden
            elif reserve >= hidden:
                reserve -= hidden
    return max(free - aside, 0)


def _reservations(source: BlockSource, superblock: SuperBlock, group: int, agf: Agf, agi: Agi) -> list[int]:
    """How many free blocks of a group are kept for its trees to grow.

    The trees of shared blocks and of free inodes must be able to hold one record for each block (chunk) of
    the group; what they have already is not free. The tree of owners lives in free space, so all of it
    counts.
    """
    blocks = agf.agf_length
    if superblock.sb_logstart and superblock.sb_logstart >> superblock.sb_agblklog == group:
        blocks = max(blocks - superblock.sb_logblocks, 0)
    block_size = superblock.sb_blocksize
    hidden = []
    asked = used = 0
    if superblock.has_ro_compat(RO_COMPAT_REFLINK):
        asked += _tree_size(block_size, blocks, record_size=12, key_size=4)
        used += agf.agf_refcount_blocks
    if superblock.has_ro_compat(RO_COMPAT_FINOBT):
        chunks = blocks * superblock.sb_inopblock // INODES_OF_RECORD
        asked += _tree_size(block_size, chunks, record_size=16, key_size=4)
        if superblock.has_ro_compat(RO_COMPAT_INOBTCNT):
            used += agi.agi_fblocks
        else:
            used += free_inode_tree_blocks(source, superblock, group, agi)
    if asked or used:
        hidden.append(max(asked - used, 0))
    if superblock.has_ro_compat(RO_COMPAT_RMAPBT):
        asked = max(blocks // 100, _tree_size(block_size, blocks, record_size=24, key_size=40))
        hidden.append(max(asked, agf.agf_rmap_blocks))
    return hidden


def _tree_size(block_size: int, records: int, *, record_size: int, key_size: int) -> int:
    """Blocks of a tree of so many records, all its blocks half full, as when they were just split."""
    room = block_size - _TREE_HEADER_SIZE
    count = -(-records // max(room // record_size // 2, 1))
    node_records = max(room // (key_size + 4) // 2, 2)
    total = count
    while count > 1:
        count = -(-count // node_records)
        total += count
    return total

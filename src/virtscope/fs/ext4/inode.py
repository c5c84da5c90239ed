"""Inodes: their pattern, and what stat(2) makes of them."""

from __future__ import annotations

import struct

from virtscope.bitmatch import Record
from virtscope.fs.filesystem import Stat

ROOT_INODE = 2
OLD_SIZE = 128

ENCRYPT_FL = 0x800
INDEX_FL = 0x1000
HUGE_FILE_FL = 0x40000
EXTENTS_FL = 0x80000
EA_INODE_FL = 0x200000
INLINE_DATA_FL = 0x10000000
CASEFOLD_FL = 0x40000000

FLAG_WORDS = (
    (0x00000001, "secure-deletion"),
    (0x00000002, "undeletable"),
    (0x00000004, "compressed"),
    (0x00000008, "synchronous"),
    (0x00000010, "immutable"),
    (0x00000020, "append-only"),
    (0x00000040, "no-dump"),
    (0x00000080, "no-atime"),
    (ENCRYPT_FL, "encrypted"),
    (0x00004000, "journaled-data"),
    (0x00008000, "no-tail-merging"),
    (0x00010000, "synchronous-directory"),
    (0x00020000, "top-of-hierarchy"),
    (0x00100000, "verity"),
    (0x02000000, "direct-access"),
    (INLINE_DATA_FL, "inline-data"),
    (0x20000000, "project-hierarchy"),
    (CASEFOLD_FL, "casefold"),
)
"""The attributes of lsattr(1) that say something about the file and not about how its blocks are found."""

_WITH_WORDS = sum(flag for flag, _ in FLAG_WORDS)

_BLOCK_NUMBERS = struct.Struct("<15I")
_DIRECTORY, _FILE, _LINK = 0o040000, 0o100000, 0o120000
_DEVICES = (0o020000, 0o060000)

# Bytes of i_extra_isize from which on a field is there.
_CTIME_EXTRA_END = 8
_MTIME_EXTRA_END = 12
_ATIME_EXTRA_END = 16
_CRTIME_END = 20
_CRTIME_EXTRA_END = 24
_PROJID_END = 32


class Inode(Record):
    """An inode of the old size (the first 128 bytes of struct ext4_inode)."""

    layout = """little
        i_mode : 16; i_uid : 16; i_size_lo : 32
        i_atime : signed 32; i_ctime : signed 32; i_mtime : signed 32; i_dtime : 32
        i_gid : 16; i_links_count : 16; i_blocks_lo : 32; i_flags : 32; l_i_version : 32
        i_block : bytes(60)
        i_generation : 32; i_file_acl_lo : 32; i_size_high : 32; i_obso_faddr : 32
        l_i_blocks_high : 16; l_i_file_acl_high : 16; l_i_uid_high : 16; l_i_gid_high : 16
        l_i_checksum_lo : 16; l_i_reserved : 16
        """
    i_mode: int
    i_uid: int
    i_size_lo: int
    i_atime: int
    i_ctime: int
    i_mtime: int
    i_dtime: int
    i_gid: int
    i_links_count: int
    i_blocks_lo: int
    i_flags: int
    i_block: bytes
    i_generation: int
    i_file_acl_lo: int
    i_size_high: int
    l_i_blocks_high: int
    l_i_file_acl_high: int
    l_i_uid_high: int
    l_i_gid_high: int
    l_i_checksum_lo: int


class InodeExtra(Record):
    """What follows in larger inodes, as far as i_extra_isize says."""

    layout = """little
        i_extra_isize : 16; i_checksum_hi : 16
        i_ctime_extra : 32; i_mtime_extra : 32; i_atime_extra : 32
        i_crtime : signed 32; i_crtime_extra : 32; i_version_hi : 32; i_projid : 32
        """
    i_extra_isize: int
    i_checksum_hi: int
    i_ctime_extra: int
    i_mtime_extra: int
    i_atime_extra: int
    i_crtime: int
    i_crtime_extra: int


def size_of(inode: Inode, large_directories: bool) -> int:
    """The size in bytes; of directories only the lower half, unless they may be large."""
    if inode.i_mode & 0o170000 == _FILE or large_directories:
        return inode.i_size_lo | inode.i_size_high << 32
    return inode.i_size_lo


def file_acl(inode: Inode) -> int:
    """The block of extended attributes; 0 for none."""
    return inode.i_file_acl_lo | inode.l_i_file_acl_high << 32


def device_of(inode: Inode) -> tuple[int, int] | None:
    """Major and minor number of a device node; the old encoding comes first, 0 there means the new one."""
    if inode.i_mode & 0o170000 not in _DEVICES:
        return None
    old, new = _BLOCK_NUMBERS.unpack(inode.i_block)[:2]
    if old:
        return old >> 8 & 0xFF, old & 0xFF
    return (new & 0xFFF00) >> 8, (new & 0xFF) | (new >> 12 & 0xFFF00)


def words_of(flags: int) -> tuple[str, ...]:
    """The words of `FLAG_WORDS` for i_flags."""
    if not flags & _WITH_WORDS:
        return ()
    return tuple(word for flag, word in FLAG_WORDS if flags & flag)


def allocated_bytes(inode: Inode, huge_files: bool, block_bits: int, size: int) -> int:
    """st_blocks in bytes, as the kernel counts it."""
    if huge_files:
        count = inode.i_blocks_lo | inode.l_i_blocks_high << 32
        taken = count << block_bits if inode.i_flags & HUGE_FILE_FL else count << 9
    else:
        taken = inode.i_blocks_lo << 9
    if inode.i_flags & INLINE_DATA_FL and inode.i_mode & 0o170000 == _FILE:
        # So that tools which skip files without blocks as empty don't: ext4_file_getattr.
        taken += (size + 511) >> 9 << 9
    return taken


def time_ns(seconds: int, extra: int) -> int:
    """Nanoseconds since 1970: two bits of `extra` are further bits of the seconds, the rest nanoseconds."""
    return (seconds + ((extra & 3) << 32)) * 1_000_000_000 + (extra >> 2)


def stat_of(number: int, inode: Inode, extra: InodeExtra | None, size: int, allocated: int) -> Stat:
    """What stat(2) says of an inode; `extra` is None if inodes are of the old size."""
    there = extra.i_extra_isize if extra is not None else 0
    created = None
    changed, modified, accessed = inode.i_ctime, inode.i_mtime, inode.i_atime
    if extra is not None and there >= _CRTIME_EXTRA_END:
        changed_ns = time_ns(changed, extra.i_ctime_extra)
        modified_ns = time_ns(modified, extra.i_mtime_extra)
        accessed_ns = time_ns(accessed, extra.i_atime_extra)
        created = time_ns(extra.i_crtime, extra.i_crtime_extra)
    else:
        changed_ns = time_ns(changed, extra.i_ctime_extra if extra and there >= _CTIME_EXTRA_END else 0)
        modified_ns = time_ns(modified, extra.i_mtime_extra if extra and there >= _MTIME_EXTRA_END else 0)
        accessed_ns = time_ns(accessed, extra.i_atime_extra if extra and there >= _ATIME_EXTRA_END else 0)
        if extra and there >= _CRTIME_END:
            created = time_ns(extra.i_crtime, 0)
    mode = inode.i_mode
    return Stat(
        number,
        mode,
        inode.i_links_count,
        inode.i_uid | inode.l_i_uid_high << 16,
        inode.i_gid | inode.l_i_gid_high << 16,
        size,
        allocated,
        device_of(inode) if mode & 0o170000 in _DEVICES else None,
        accessed_ns,
        modified_ns,
        changed_ns,
        created,
        words_of(inode.i_flags),
    )

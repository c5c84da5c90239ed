"""Inodes: their pattern, and what stat(2) makes of them.

An inode's number is its place: the allocation group, the block in it and the slot in that block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtscope.bitmatch import MatchError, Record
from virtscope.errors import FormatError
from virtscope.fs.filesystem import Stat
from virtscope.fs.xfs.superblock import FORMAT

if TYPE_CHECKING:
    from virtscope.fs.xfs.superblock import SuperBlock

CORE_SIZE = 100
CORE_SIZE_V3 = 176

FORMAT_DEVICE = 0
FORMAT_LOCAL = 1
FORMAT_EXTENTS = 2
FORMAT_BTREE = 3
FORMAT_META_BTREE = 5

DIFLAG_REALTIME = 0x1
DIFLAG2_BIGTIME = 0x8
DIFLAG2_NREXT64 = 0x10

FLAG_WORDS = (
    (0x0008, "immutable"),
    (0x0010, "append-only"),
    (0x0020, "synchronous"),
    (0x0040, "no-atime"),
    (0x0080, "no-dump"),
    (0x0200, "project-hierarchy"),
    (0x0400, "no-symbolic-links"),
    (0x2000, "no-defragmentation"),
)
"""The attributes of lsattr(1) and xfs_io's `lsattr` that say something about the file."""

_FLAG2_DAX = 0x1

_DIRECTORY, _FILE, _LINK = 0o040000, 0o100000, 0o120000
_DEVICES = (0o020000, 0o060000)
_KINDS = (0o010000, 0o020000, 0o040000, 0o060000, 0o100000, 0o120000, 0o140000)

_BIGTIME_EPOCH_NS = (1 << 31) * 1_000_000_000


class Inode(Record):
    """The fixed part of every inode (struct xfs_dinode, of which version 3 has more: `InodeV3`)."""

    layout = """big
        di_magic : b"IN"
        di_mode : 16; di_version : 8 check 1 <= di_version <= 3; di_format : 8; di_onlink : 16
        di_uid : 32; di_gid : 32; di_nlink : 32; di_projid_lo : 16; di_projid_hi : 16
        di_big_nextents : 64
        di_atime : 64; di_mtime : 64; di_ctime : 64
        di_size : 64; di_nblocks : 64; di_extsize : 32
        di_nextents : 32; di_anextents : 16; di_forkoff : 8; di_aformat : 8
        di_dmevmask : 32; di_dmstate : 16; di_flags : 16; di_gen : 32
        di_next_unlinked : 32
        """
    di_mode: int
    di_version: int
    di_format: int
    di_onlink: int
    di_uid: int
    di_gid: int
    di_nlink: int
    di_big_nextents: int
    di_atime: int
    di_mtime: int
    di_ctime: int
    di_size: int
    di_nblocks: int
    di_nextents: int
    di_anextents: int
    di_forkoff: int
    di_aformat: int
    di_flags: int
    di_gen: int


class InodeV3(Record):
    """What inodes of version 3 have behind `Inode`."""

    layout = """big
        di_crc : little 32; di_changecount : 64; di_lsn : 64; di_flags2 : 64; di_cowextsize : 32
        _ : bytes(12)
        di_crtime : 64; di_ino : 64; di_uuid : bytes(16)
        """
    di_crc: int
    di_lsn: int
    di_flags2: int
    di_crtime: int
    di_ino: int
    di_uuid: bytes


class LoadedInode:
    """An inode with its bytes: what the other parts of the reader work on.

    Attributes:
        number: its inode number.
        offset: where it is, in bytes from the start of the filesystem.
        data: all its bytes, `sb_inodesize` of them.
        core: its fixed part.
        v3: the part that only version 3 has, else None.
        fork_start: where the data fork begins in `data`.
        attributes_start: where the attribute fork begins in `data`; 0 when there is none.
    """

    __slots__ = ("attributes_start", "core", "data", "fork_start", "number", "offset", "v3")

    def __init__(self, number: int, offset: int, data: bytes, superblock: SuperBlock) -> None:
        self.number = number
        self.offset = offset
        self.data = data
        try:
            core = self.core = Inode.parse(data)
        except MatchError as error:
            raise FormatError(
                FORMAT,
                f"inode {number}: expected {error.expected}, found {error.got}",
                field=error.field,
                offset=offset + error.offset,
            ) from None
        self.v3: InodeV3 | None = None
        self.fork_start = CORE_SIZE
        if core.di_version == 3:
            self.v3 = InodeV3.parse(data, CORE_SIZE)
            self.fork_start = CORE_SIZE_V3
            if self.v3.di_ino != number:
                raise FormatError(
                    FORMAT, f"inode {number} says it is {self.v3.di_ino}", field="di_ino", offset=offset + 152
                )
        if superblock.is_v5 is not (self.v3 is not None):
            raise FormatError(
                FORMAT, f"inode {number}: version {core.di_version}", field="di_version", offset=offset + 4
            )
        self.attributes_start = 0
        if core.di_forkoff:
            self.attributes_start = self.fork_start + core.di_forkoff * 8
            if self.attributes_start >= len(data):
                raise FormatError(
                    FORMAT, f"inode {number}: behind its end", field="di_forkoff", offset=offset + 82
                )

    @property
    def kind(self) -> int:
        """The file type, S_IFDIR and the like."""
        return self.core.di_mode & 0o170000

    @property
    def data_fork(self) -> bytes:
        """The bytes of the data fork."""
        return self.data[self.fork_start : self.attributes_start or len(self.data)]

    @property
    def attribute_fork(self) -> bytes:
        """The bytes of the attribute fork."""
        return self.data[self.attributes_start :] if self.attributes_start else b""

    @property
    def is_realtime(self) -> bool:
        """Whether the file's data is on the realtime device."""
        return bool(self.core.di_flags & DIFLAG_REALTIME) and self.kind == _FILE

    @property
    def _has_large_counts(self) -> bool:
        return self.v3 is not None and bool(self.v3.di_flags2 & DIFLAG2_NREXT64)

    @property
    def data_extents(self) -> int:
        """How many extents the data fork has."""
        return self.core.di_big_nextents if self._has_large_counts else self.core.di_nextents

    @property
    def attribute_extents(self) -> int:
        """How many extents the attribute fork has."""
        return self.core.di_nextents if self._has_large_counts else self.core.di_anextents

    def stat(self, block_bits: int) -> Stat:
        """What stat(2) says of it."""
        core, v3 = self.core, self.v3
        kind = core.di_mode & 0o170000
        big = created = None
        flags: tuple[str, ...] = ()
        if core.di_flags:
            flags = tuple(word for flag, word in FLAG_WORDS if core.di_flags & flag)
        if v3 is not None:
            big = v3.di_flags2 & DIFLAG2_BIGTIME
            created = _nanoseconds(v3.di_crtime, big)
            if v3.di_flags2 & _FLAG2_DAX:
                flags += ("direct-access",)
        return Stat(
            self.number,
            core.di_mode,
            core.di_nlink if core.di_version > 1 else core.di_onlink,
            core.di_uid,
            core.di_gid,
            core.di_size if kind in (_DIRECTORY, _FILE, _LINK) else 0,
            core.di_nblocks << block_bits,
            self.device() if kind in _DEVICES else None,
            _nanoseconds(core.di_atime, big),
            _nanoseconds(core.di_mtime, big),
            _nanoseconds(core.di_ctime, big),
            created,
            flags,
        )

    def device(self) -> tuple[int, int]:
        """Major and minor number of a device node, kept as IRIX had them: 14 and 18 bits."""
        number = int.from_bytes(self.data[self.fork_start : self.fork_start + 4], "big")
        return number >> 18 & 0x3FFF, number & 0x3FFFF


def is_known_kind(mode: int) -> bool:
    """Whether a mode has one of the seven file types."""
    return mode & 0o170000 in _KINDS


def _nanoseconds(time: int, is_big: int | None) -> int:
    """Nanoseconds since 1970 of a timestamp: seconds and nanoseconds, or (bigtime) nanoseconds since 1901."""
    if is_big:
        return time - _BIGTIME_EPOCH_NS
    seconds = time >> 32
    return (seconds - (seconds >> 31 << 32)) * 1_000_000_000 + (time & 0xFFFFFFFF)

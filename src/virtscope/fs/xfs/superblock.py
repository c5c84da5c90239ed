"""The superblock of XFS: its pattern, its features, and the geometry that follows from it.

Specified in "XFS Algorithms & Data Structures" and the kernel's fs/xfs/libxfs/xfs_format.h (struct xfs_dsb),
whose names are used. Everything is big-endian but checksums.
"""

from __future__ import annotations

from virtscope.bitmatch import MatchError, Record
from virtscope.block.source import BlockSource
from virtscope.errors import FormatError, UnsupportedFeature
from virtscope.fs.filesystem import Identity

FORMAT = "xfs"
SUPERBLOCK_SIZE = 512

VERSION_ATTR = 0x0010
VERSION_NLINK = 0x0020
VERSION_LOGV2 = 0x0400
VERSION_SECTOR = 0x0800
VERSION_DIRV2 = 0x2000
VERSION_ASCII_CI = 0x4000
VERSION_MOREBITS = 0x8000

VERSION2_LAZYSBCOUNT = 0x02
VERSION2_CRC = 0x0100
VERSION2_FTYPE = 0x0200

RO_COMPAT_FINOBT = 0x1
RO_COMPAT_RMAPBT = 0x2
RO_COMPAT_REFLINK = 0x4
RO_COMPAT_INOBTCNT = 0x8

INCOMPAT_FTYPE = 0x1
INCOMPAT_SPINODES = 0x2
INCOMPAT_META_UUID = 0x4
INCOMPAT_BIGTIME = 0x8
INCOMPAT_NEEDSREPAIR = 0x10
INCOMPAT_NREXT64 = 0x20
INCOMPAT_EXCHRANGE = 0x40
INCOMPAT_PARENT = 0x80
INCOMPAT_METADIR = 0x100
INCOMPAT_ZONED = 0x200

_INCOMPAT_READ = (
    INCOMPAT_FTYPE
    | INCOMPAT_SPINODES
    | INCOMPAT_META_UUID
    | INCOMPAT_BIGTIME
    | INCOMPAT_NEEDSREPAIR
    | INCOMPAT_NREXT64
    | INCOMPAT_EXCHRANGE
    | INCOMPAT_PARENT
    | INCOMPAT_METADIR
    | INCOMPAT_ZONED
)

NULL_BLOCK = (1 << 64) - 1
"""NULLFSBLOCK, NULLFSINO: no block, no inode."""

_SMALLEST_AG_BLOCKS = 64
_LARGEST_AG_BYTES = 1 << 40


class SuperBlock(Record):
    """The superblock (struct xfs_dsb), the copy of the first allocation group, with the geometry it gives."""

    layout = """big
        sb_magicnum : b"XFSB"
        sb_blocksize : 32 check 512 <= sb_blocksize <= 65536
        sb_dblocks : 64; sb_rblocks : 64; sb_rextents : 64
        sb_uuid : bytes(16)
        sb_logstart : 64; sb_rootino : 64; sb_rbmino : 64; sb_rsumino : 64; sb_rextsize : 32
        sb_agblocks : 32; sb_agcount : 32; sb_rbmblocks : 32; sb_logblocks : 32
        sb_versionnum : 16 check sb_versionnum & 15 in (4, 5)
        sb_sectsize : 16 check 512 <= sb_sectsize <= 32768
        sb_inodesize : 16 check 256 <= sb_inodesize <= 2048
        sb_inopblock : 16
        sb_fname : bytes(12)
        sb_blocklog : 8 check 1 << sb_blocklog == sb_blocksize
        sb_sectlog : 8 check 1 << sb_sectlog == sb_sectsize
        sb_inodelog : 8 check 1 << sb_inodelog == sb_inodesize
        sb_inopblog : 8 check sb_inopblog == sb_blocklog - sb_inodelog
        sb_agblklog : 8; sb_rextslog : 8; sb_inprogress : 8; sb_imax_pct : 8 check sb_imax_pct <= 100
        sb_icount : 64; sb_ifree : 64; sb_fdblocks : 64; sb_frextents : 64
        sb_uquotino : 64; sb_gquotino : 64; sb_qflags : 16; sb_flags : 8; sb_shared_vn : 8
        sb_inoalignmt : 32; sb_unit : 32; sb_width : 32
        sb_dirblklog : 8 check sb_dirblklog + sb_blocklog <= 16
        sb_logsectlog : 8; sb_logsectsize : 16; sb_logsunit : 32
        sb_features2 : 32; sb_bad_features2 : 32
        sb_features_compat : 32; sb_features_ro_compat : 32
        sb_features_incompat : 32; sb_features_log_incompat : 32
        sb_crc : little 32; sb_spino_align : 32; sb_pquotino : 64; sb_lsn : 64
        sb_meta_uuid : bytes(16)
        """
    sb_blocksize: int
    sb_dblocks: int
    sb_rblocks: int
    sb_uuid: bytes
    sb_logstart: int
    sb_rootino: int
    sb_agblocks: int
    sb_agcount: int
    sb_logblocks: int
    sb_versionnum: int
    sb_sectsize: int
    sb_inodesize: int
    sb_inopblock: int
    sb_fname: bytes
    sb_blocklog: int
    sb_inodelog: int
    sb_inopblog: int
    sb_agblklog: int
    sb_inprogress: int
    sb_imax_pct: int
    sb_icount: int
    sb_ifree: int
    sb_fdblocks: int
    sb_dirblklog: int
    sb_logsectsize: int
    sb_logsunit: int
    sb_features2: int
    sb_bad_features2: int
    sb_features_ro_compat: int
    sb_features_incompat: int
    sb_features_log_incompat: int
    sb_crc: int
    sb_lsn: int
    sb_meta_uuid: bytes

    @property
    def is_v5(self) -> bool:
        """Whether metadata has checksums and says what it is."""
        return self.sb_versionnum & 15 == 5

    def has_incompat(self, feature: int) -> bool:
        """Whether an incompatible feature of v5 is on."""
        return self.is_v5 and bool(self.sb_features_incompat & feature)

    def has_ro_compat(self, feature: int) -> bool:
        """Whether a feature of v5 is on that older kernels can only read."""
        return self.is_v5 and bool(self.sb_features_ro_compat & feature)

    @property
    def has_file_types(self) -> bool:
        """Whether directories say what kind of file a name is."""
        if self.is_v5:
            return bool(self.sb_features_incompat & INCOMPAT_FTYPE)
        return bool(self.sb_versionnum & VERSION_MOREBITS and self.sb_features2 & VERSION2_FTYPE)

    @property
    def has_lazy_counters(self) -> bool:
        """Whether the superblock's counters are only right after a clean unmount."""
        if self.is_v5:
            return True
        return bool(self.sb_versionnum & VERSION_MOREBITS and self.sb_features2 & VERSION2_LAZYSBCOUNT)

    @property
    def ignores_case(self) -> bool:
        """Whether names that differ only in the case of ASCII letters are one name."""
        return bool(self.sb_versionnum & VERSION_ASCII_CI)

    @property
    def metadata_uuid(self) -> bytes:
        """The UUID that metadata blocks carry: the first one, when the user has changed it since."""
        return self.sb_meta_uuid if self.has_incompat(INCOMPAT_META_UUID) else self.sb_uuid

    @property
    def inode_number_bits(self) -> int:
        """How many bits of an inode number count the inodes of one allocation group."""
        return self.sb_agblklog + self.sb_inopblog

    def offset_of(self, fsblock: int) -> int:
        """Where a block of the filesystem (a number with the allocation group in its upper bits) begins."""
        group = fsblock >> self.sb_agblklog
        block = fsblock & ((1 << self.sb_agblklog) - 1)
        return (group * self.sb_agblocks + block) << self.sb_blocklog

    def holds(self, fsblock: int, count: int) -> bool:
        """Whether a run of blocks lies in one allocation group of this filesystem."""
        group = fsblock >> self.sb_agblklog
        last = (fsblock & ((1 << self.sb_agblklog) - 1)) + count
        return (
            group < self.sb_agcount
            and last <= self.sb_agblocks
            and group * self.sb_agblocks + last <= self.sb_dblocks
        )

    def identity(self) -> Identity:
        """What the filesystem is called."""
        uuid = self.sb_uuid.hex()
        return Identity(
            FORMAT,
            uuid=f"{uuid[:8]}-{uuid[8:12]}-{uuid[12:16]}-{uuid[16:20]}-{uuid[20:]}",
            label=self.sb_fname.rstrip(b"\0").split(b"\0")[0].decode("utf-8", "surrogateescape") or None,
            size=self.sb_dblocks << self.sb_blocklog,
        )


def read_superblock(source: BlockSource) -> SuperBlock:
    """The superblock at the start of a volume.

    Raises:
        FormatError: there is none, or it contradicts itself.
        GuestError: the host could not read its file.
    """
    return parse_superblock(source.read_at(0, SUPERBLOCK_SIZE))


def parse_superblock(data: bytes) -> SuperBlock:
    """The superblock in these bytes; raises FormatError as `read_superblock` does."""
    try:
        superblock = SuperBlock.parse(data)
    except MatchError as error:
        raise FormatError(
            FORMAT, f"expected {error.expected}, found {error.got}", field=error.field, offset=error.offset
        ) from None
    _check(superblock)
    return superblock


def check_features(superblock: SuperBlock) -> None:
    """Refuse what cannot be read.

    Raises:
        UnsupportedFeature: the filesystem uses a feature that changes its layout and is not known here.
    """
    if superblock.is_v5:
        unknown = superblock.sb_features_incompat & ~_INCOMPAT_READ
        if unknown:
            raise UnsupportedFeature(FORMAT, f"unknown features {unknown:#x}", field="sb_features_incompat")
    elif not superblock.sb_versionnum & VERSION_DIRV2:
        raise UnsupportedFeature(FORMAT, "directories of version 1 are not read", field="sb_versionnum")


def _check(superblock: SuperBlock) -> None:
    blocks, group_blocks = superblock.sb_dblocks, superblock.sb_agblocks
    count = superblock.sb_agcount
    if group_blocks < _SMALLEST_AG_BLOCKS or group_blocks << superblock.sb_blocklog > _LARGEST_AG_BYTES:
        raise FormatError(FORMAT, f"groups of {group_blocks} blocks", field="sb_agblocks", offset=84)
    if superblock.sb_agblklog != (group_blocks - 1).bit_length():
        raise FormatError(
            FORMAT,
            f"{superblock.sb_agblklog} bits for groups of {group_blocks} blocks",
            field="sb_agblklog",
            offset=124,
        )
    if superblock.sb_inopblock != superblock.sb_blocksize // superblock.sb_inodesize:
        raise FormatError(
            FORMAT, f"{superblock.sb_inopblock} inodes a block", field="sb_inopblock", offset=106
        )
    if not (count - 1) * group_blocks < blocks <= count * group_blocks:
        raise FormatError(
            FORMAT,
            f"{blocks} blocks cannot be in {count} groups of {group_blocks}",
            field="sb_dblocks",
            offset=8,
        )
    if superblock.sb_logstart and not (
        superblock.sb_logblocks and superblock.holds(superblock.sb_logstart, superblock.sb_logblocks)
    ):
        raise FormatError(FORMAT, "the log lies outside", field="sb_logstart", offset=48)
    if superblock.sb_inprogress:
        raise FormatError(FORMAT, "mkfs did not finish", field="sb_inprogress", offset=126)

"""The journal (jbd2): what it holds that has not reached its place yet.

A log of transactions, in a file of the filesystem: descriptor blocks say where the blocks that follow them
belong, revoke blocks that older copies of a block must not be written, and a commit block ends a transaction.
Everything in it is big-endian. See the kernel's Documentation/filesystems/ext4/journal.rst.

`Journal` finds the transactions that are complete, as the kernel's recovery does in its first two passes. The
third, which writes the blocks, is left to `overlay.Overlay`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from virtscope.bitmatch import MatchError, Record, pattern
from virtscope.errors import FormatError, UnsupportedFeature
from virtscope.fs.crc32c import crc32c
from virtscope.fs.ext4.overlay import Logged

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = 0xC03B3998
MAGIC_BYTES = MAGIC.to_bytes(4, "big")
SUPERBLOCK_SIZE = 1024

DESCRIPTOR_BLOCK = 1
COMMIT_BLOCK = 2
SUPERBLOCK_V1 = 3
SUPERBLOCK_V2 = 4
REVOKE_BLOCK = 5

COMPAT_CHECKSUM = 0x1
INCOMPAT_REVOKE = 0x1
INCOMPAT_64BIT = 0x2
INCOMPAT_ASYNC_COMMIT = 0x4
INCOMPAT_CSUM_V2 = 0x8
INCOMPAT_CSUM_V3 = 0x10
INCOMPAT_FAST_COMMIT = 0x20
_INCOMPAT_READ = 0x3F

_ESCAPE = 1
_SAME_UUID = 2
_LAST_TAG = 8

_HEADER_SIZE = 12
_REVOKE_HEADER_SIZE = 16
_TAIL_SIZE = 4
_UUID_SIZE = 16
_FAST_COMMIT_BLOCKS = 256
_LEAST_BLOCKS = 1024
_CRC32_TYPE, _CRC32_SIZE = 1, 4
_REVERSED_BYTES = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

JournalHeader = pattern(
    "journal_header_s", "big; h_magic : 32 = 0xC03B3998; h_blocktype : 32; h_sequence : 32"
)

CommitHeader = pattern(
    "commit_header",
    """
    big
    *JournalHeader
    h_chksum_type : 8; h_chksum_size : 8; h_padding : bytes(2); h_chksum : 32[8]
    h_commit_sec : 64; h_commit_nsec : 32
    """,
)

RevokeHeader = pattern("jbd2_journal_revoke_header_s", "big; *JournalHeader; r_count : 32")

Tag = pattern("journal_block_tag_s", "big; t_blocknr : 32; t_checksum : 16; t_flags : 16")

Tag3 = pattern(
    "journal_block_tag3_s", "big; t_blocknr : 32; t_flags : 32; t_blocknr_high : 32; t_checksum : 32"
)


class JournalSuperblock(Record):
    """The first block of a journal (struct journal_superblock_s)."""

    layout = """
        big
        h_magic : 32 = 0xC03B3998; h_blocktype : 32 in (3, 4); h_sequence : 32
        s_blocksize : 32; s_maxlen : 32; s_first : 32
        s_sequence : 32; s_start : 32; s_errno : 32
        s_feature_compat : 32; s_feature_incompat : 32; s_feature_ro_compat : 32
        s_uuid : bytes(16); s_nr_users : 32; s_dynsuper : 32; s_max_transaction : 32
        s_max_trans_data : 32; s_checksum_type : 8; s_padding2 : bytes(3); s_num_fc_blks : 32; s_head : 32
        at 0xfc; s_checksum : 32
        """
    h_blocktype: int
    s_blocksize: int
    s_maxlen: int
    s_first: int
    s_sequence: int
    s_start: int
    s_feature_compat: int
    s_feature_incompat: int
    s_uuid: bytes
    s_num_fc_blks: int
    s_checksum: int


class Journal:
    """A journal, looked through for complete transactions.

    Args:
        read: the bytes of the journal's file at an offset.
        place: the offset in the volume of a block of the journal's file.
        blocks: the length of that file, in blocks.
        block_size: of the filesystem.

    Attributes:
        superblock: of the journal.
        blocks: for each block of the filesystem that a complete transaction has: its copies, newest first.
        transactions: how many complete ones there are.
        end_sequence: the number of the first that is not complete.
        damage: what is wrong, when recovery ended before what seems to be the end of the log; else None.

    Raises:
        FormatError: it is no journal.
        UnsupportedFeature: it uses a feature that is not read.
    """

    def __init__(
        self,
        read: Callable[[int, int], bytes],
        place: Callable[[int], int],
        blocks: int,
        block_size: int,
    ) -> None:
        self._read = read
        self._place = place
        self._block_size = block_size
        self.superblock = superblock = self._superblock(blocks)
        incompat = superblock.s_feature_incompat
        self._wide = bool(incompat & INCOMPAT_64BIT)
        self._v3 = bool(incompat & INCOMPAT_CSUM_V3)
        self._v2 = bool(incompat & INCOMPAT_CSUM_V2)
        self._checked = self._v2 or self._v3
        self._old_checksums = bool(superblock.s_feature_compat & COMPAT_CHECKSUM)
        self._async = bool(incompat & INCOMPAT_ASYNC_COMMIT)
        self._seed = crc32c(superblock.s_uuid)
        self._last = superblock.s_maxlen
        self.fast_commit_blocks = range(0)
        if incompat & INCOMPAT_FAST_COMMIT:
            there = superblock.s_num_fc_blks or _FAST_COMMIT_BLOCKS
            if self._last - there >= _LEAST_BLOCKS:
                self._last -= there
            self.fast_commit_blocks = range(self._last + 1, superblock.s_maxlen)
        self.blocks: dict[int, list[Logged]] = {}
        self.transactions = 0
        self.end_sequence = superblock.s_sequence
        self.damage: str | None = None
        if superblock.s_start:
            self._recover()

    def is_sound(self, data: bytes, logged: Logged) -> bool:
        """Whether the bytes of a logged block have the checksum that its tag says."""
        if logged.checksum is None:
            return True
        found = crc32c(data, crc32c(logged.sequence.to_bytes(4, "big"), self._seed))
        return (found if self._v3 else found & 0xFFFF) == logged.checksum

    def fast_commits(self) -> Iterator[bytes]:
        """The blocks of the area for fast commits."""
        for number in self.fast_commit_blocks:
            yield self._block(number)

    def _superblock(self, blocks: int) -> JournalSuperblock:
        data = self._read(0, SUPERBLOCK_SIZE)
        try:
            superblock = JournalSuperblock.parse(data)
        except MatchError as error:
            raise FormatError(
                "jbd2", f"expected {error.expected}, found {error.got}", field=error.field
            ) from None
        if superblock.h_blocktype == SUPERBLOCK_V1:
            # Version 1 has no features; whatever is there is not meant.
            superblock.s_feature_compat = superblock.s_feature_incompat = superblock.s_num_fc_blks = 0
        unknown = superblock.s_feature_incompat & ~_INCOMPAT_READ
        if unknown:
            raise UnsupportedFeature(
                "jbd2", f"features {unknown:#x} are not known", field="s_feature_incompat"
            )
        if superblock.s_blocksize != self._block_size:
            raise FormatError("jbd2", f"blocks of {superblock.s_blocksize} bytes", field="s_blocksize")
        if not 1 < superblock.s_maxlen <= blocks:
            raise FormatError("jbd2", f"{superblock.s_maxlen} blocks of {blocks}", field="s_maxlen")
        if not 0 < superblock.s_first < superblock.s_maxlen:
            raise FormatError("jbd2", f"block {superblock.s_first} cannot be", field="s_first")
        if superblock.s_start and not superblock.s_first <= superblock.s_start < superblock.s_maxlen:
            raise FormatError("jbd2", f"block {superblock.s_start} cannot be", field="s_start")
        if superblock.s_feature_incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3):
            found = crc32c(data[:0xFC] + bytes(4) + data[0x100:])
            if found != superblock.s_checksum:
                raise FormatError("jbd2", "the checksum of its superblock is wrong", field="s_checksum")
        return superblock

    def _recover(self) -> None:
        """Find the complete transactions, and in them the newest copy of every block."""
        superblock = self.superblock
        position = superblock.s_start
        if position >= self._last:
            raise FormatError("jbd2", f"block {position} cannot be", field="s_start")
        sequence = superblock.s_sequence
        revoked: dict[int, int] = {}
        logged: list[tuple[int, Logged]] = []
        suspect = False
        last_time = 0
        checksum = 0
        # A log that describes more blocks than it has goes in circles.
        budget = self._last
        # What belongs to the transaction being read, taken over at its commit.
        pending: list[tuple[int, Logged]] = []
        pending_revokes: list[int] = []
        while budget > 0:
            block = self._block(position)
            if block[:4] != MAGIC_BYTES:
                break
            kind, found_sequence = struct.unpack_from(">II", block, 4)
            if found_sequence != sequence:
                break
            header_at = position
            position = self._next(position)
            budget -= 1
            if kind == DESCRIPTOR_BLOCK:
                suspect |= not self._is_tail_sound(block)
                if self._old_checksums:
                    checksum = _crc32_big_endian(block, checksum)
                for number, flags, found in self._tags(block):
                    if budget <= 0:
                        break
                    budget -= 1
                    if self._old_checksums:
                        checksum = _crc32_big_endian(self._block(position), checksum)
                    place = self._place(position)
                    pending.append((number, Logged(place, sequence, bool(flags & _ESCAPE), found)))
                    position = self._next(position)
            elif kind == REVOKE_BLOCK:
                suspect |= not self._is_tail_sound(block)
                pending_revokes += self._revokes(block)
            elif kind == COMMIT_BLOCK:
                commit = CommitHeader.parse(block)
                time = commit.h_commit_sec
                if suspect or not self._is_commit_sound(block, commit, checksum):
                    # Blocks of an older use of the journal have an older time. With asynchronous commits, a
                    # commit block may be on disk before what it commits. All else is damage.
                    if time >= last_time and (suspect or not self._async):
                        self.damage = f"transaction {sequence} (journal block {header_at}) is damaged"
                    break
                last_time = time
                checksum = 0
                logged += pending
                for number in pending_revokes:
                    revoked[number] = sequence
                pending, pending_revokes = [], []
                sequence = sequence + 1 & 0xFFFFFFFF
                self.transactions += 1
            else:
                break
        self.end_sequence = sequence
        for number, copy in reversed(logged):
            if number in revoked and _is_before(copy.sequence, revoked[number]):
                continue
            self.blocks.setdefault(number, []).append(copy)

    def _tags(self, block: bytes) -> Iterator[tuple[int, int, int | None]]:
        """Where the blocks that follow a descriptor belong: number, flags, checksum."""
        size = 16 if self._v3 else 8 + (4 if self._wide else 0) + (2 if self._v2 else 0)
        end = len(block) - (_TAIL_SIZE if self._checked else 0)
        position = _HEADER_SIZE
        while position + size <= end:
            if self._v3:
                number, flags, high, checksum = struct.unpack_from(">IIII", block, position)
            else:
                number, checksum, flags = struct.unpack_from(">IHH", block, position)
                high = int.from_bytes(block[position + 8 : position + 12], "big") if self._wide else 0
            if self._wide:
                number |= high << 32
            yield number, flags, checksum if self._checked else None
            position += size + (0 if flags & _SAME_UUID else _UUID_SIZE)
            if flags & _LAST_TAG:
                break

    def _revokes(self, block: bytes) -> tuple[int, ...]:
        """The numbers of blocks in a revoke block."""
        size = 8 if self._wide else 4
        end = RevokeHeader.parse(block).r_count
        if not _REVOKE_HEADER_SIZE <= end <= len(block) - (_TAIL_SIZE if self._checked else 0):
            self.damage = f"a revoke block says it has {end} bytes"
            return ()
        count = (end - _REVOKE_HEADER_SIZE) // size
        numbers: tuple[int, ...] = struct.unpack_from(
            f">{count}{'Q' if self._wide else 'I'}", block, _REVOKE_HEADER_SIZE
        )
        return numbers

    def _is_tail_sound(self, block: bytes) -> bool:
        """Whether a descriptor or revoke block has the checksum at its end, if the journal has them."""
        if not self._checked:
            return True
        found = crc32c(block[:-_TAIL_SIZE] + bytes(_TAIL_SIZE), self._seed)
        return found == int.from_bytes(block[-_TAIL_SIZE:], "big")

    def _is_commit_sound(self, block: bytes, commit: Record, checksum: int) -> bool:
        """Whether a commit block has the right checksum, of whichever kind the journal has."""
        stored: int = commit.h_chksum[0]
        if self._old_checksums:
            kind = commit.h_chksum_type, commit.h_chksum_size
            unused = kind == (0, 0) and not stored
            if not unused and (kind != (_CRC32_TYPE, _CRC32_SIZE) or stored != _reversed_bits(~checksum)):
                return False
        if not self._checked:
            return True
        return crc32c(block[:16] + bytes(4) + block[20:], self._seed) == stored

    def _next(self, position: int) -> int:
        return position + 1 if position + 1 < self._last else self.superblock.s_first

    def _block(self, number: int) -> bytes:
        return self._read(number * self._block_size, self._block_size)


def _is_before(sequence: int, other: int) -> bool:
    """Whether a transaction is not after another; their numbers wrap around."""
    return (sequence - other) & 0xFFFFFFFF == 0 or (sequence - other) & 0x80000000 != 0


def _crc32_big_endian(block: bytes, register: int) -> int:
    """The kernel's crc32_be, begun with all ones, by zlib's, which reads bits in the other direction.

    `register` is zlib's, which begins with 0; see `_reversed_bits` for what the kernel stores.
    """
    return zlib.crc32(block.translate(_REVERSED_BYTES), register)


def _reversed_bits(number: int) -> int:
    return int(f"{number & 0xFFFFFFFF:032b}"[::-1], 2)

"""A volume as it is when its journal has been replayed: `replayed`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from virtscope.errors import FormatError
from virtscope.fs.ext4.fastcommit import Tag, fast_commits
from virtscope.fs.ext4.journal import MAGIC_BYTES, Journal
from virtscope.fs.ext4.overlay import Logged, Overlay
from virtscope.fs.ext4.reader import Ext4

if TYPE_CHECKING:
    from virtscope.block.source import BlockSource
    from virtscope.fs.ext4.superblock import SuperBlock


class Replayed(NamedTuple):
    """What became of a journal.

    Attributes:
        source: the volume, with what the journal has over it.
        notes: sentences for the user; grows when blocks of the journal turn out to be damaged as they are
            read.
        fast_commits: changes behind the last full transaction; `recovered.RecoveredExt4` applies them.
    """

    source: BlockSource
    notes: list[str]
    fast_commits: list[Tag]


def replayed(source: BlockSource, superblock: SuperBlock) -> Replayed:
    """Replay the journal of a filesystem that was not unmounted; nothing is written.

    A journal that cannot be read is no error: what is there without it can still be read, and a note says so.

    Raises:
        FormatError: the superblock is damaged.
        GuestError: the host could not read the image.
    """
    notes: list[str] = []
    filesystem = Ext4(source, superblock)
    if not superblock.s_journal_inum:
        device = superblock.s_journal_uuid.hex()
        notes.append(
            f"it was not unmounted, and its journal is on another device (UUID {device}): not replayed, "
            "what is shown may be out of date"
        )
        return Replayed(source, notes, [])
    bits = filesystem.geometry.block_bits
    try:
        file = filesystem.journal_file()
        journal = Journal(file.read, file.place, file.blocks, 1 << bits)
    except FormatError as error:
        notes.append(
            f"it was not unmounted, and its journal cannot be replayed ({error}): "
            "what is shown may be out of date"
        )
        return Replayed(source, notes, [])

    def read_logged(logged: Logged) -> bytes | None:
        data = source.read_at(logged.place, 1 << bits)
        if not journal.is_sound(data, logged):
            notes.append(f"a block of its journal (offset {logged.place:#x}) is damaged and was left out")
            return None
        return MAGIC_BYTES + data[4:] if logged.escaped else data

    if journal.damage:
        notes.append(f"its journal is damaged and was replayed only in part: {journal.damage}")
    if journal.transactions:
        count = f"{journal.transactions} transaction{'s' * (journal.transactions != 1)}"
        notes.append(f"it was not unmounted: {count} of its journal replayed in memory")
    tags = []
    if journal.fast_commit_blocks and journal.superblock.s_start:
        tags = fast_commits(journal.fast_commits(), journal.end_sequence)
    if tags:
        notes.append(f"{len(tags)} changes of fast commits in its journal applied in memory")
    if journal.blocks:
        return Replayed(Overlay(source, bits, journal.blocks, read_logged), notes, tags)
    return Replayed(source, notes, tags)

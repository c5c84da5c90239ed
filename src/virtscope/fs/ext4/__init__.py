"""ext2, ext3 and ext4, the filesystems of most Linux guests.

Specified by the kernel's Documentation/filesystems/ext4; patterns use the names of its structures. Begin
with `reader.Ext4`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtscope.fs.ext4.superblock import (
    COMPAT_HAS_JOURNAL,
    INCOMPAT_JOURNAL_DEV,
    INCOMPAT_RECOVER,
    identity,
    read_superblock,
)

if TYPE_CHECKING:
    from virtscope.block.source import BlockSource
    from virtscope.fs.ext4.reader import Ext4
    from virtscope.fs.filesystem import Identity


def identify(source: BlockSource) -> Identity:
    """Kind ("ext2", "ext3", "ext4", "jbd" for a journal of its own), UUID, label and size.

    Raises:
        FormatError: the superblock is damaged.
    """
    return identity(read_superblock(source))


def open_filesystem(source: BlockSource, *, replay: bool = True, verify: bool = False) -> Ext4 | None:
    """A reader.

    Args:
        source: the volume.
        replay: replay its journal in memory, if it was not unmounted.
        verify: verify the checksums of metadata, where it has them.

    Returns:
        None if it is the journal of another filesystem.

    Raises:
        FormatError: the superblock is damaged.
        UnsupportedFeature: it uses a feature that is not read.
    """
    from virtscope.fs.ext4.reader import Ext4

    superblock = read_superblock(source)
    if superblock.has_incompat(INCOMPAT_JOURNAL_DEV):
        return None
    if not superblock.has_incompat(INCOMPAT_RECOVER) or not superblock.has_compat(COMPAT_HAS_JOURNAL):
        return Ext4(source, superblock, verify)
    if not replay:
        filesystem = Ext4(source, superblock, verify)
        filesystem.notes.append("it was not unmounted, and its journal was not replayed, as was asked for")
        return filesystem
    from virtscope.fs.ext4.replay import replayed

    found = replayed(source, superblock)
    superblock = read_superblock(found.source)
    if found.fast_commits:
        from virtscope.fs.ext4.recovered import RecoveredExt4

        filesystem = RecoveredExt4(found.source, superblock, verify, found.fast_commits)
        found.notes.extend(filesystem.notes)
    else:
        filesystem = Ext4(found.source, superblock, verify)
    filesystem.notes = found.notes
    return filesystem

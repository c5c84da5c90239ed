"""XFS, versions 4 and 5: `identify` and `open_filesystem`.

superblock (geometry, features), groups (allocation groups), inode, extents, directory, attributes, usage,
reader (which ties them together), log and replay (what a running or crashed guest had not written in place).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtscope.block.source import BlockSource
from virtscope.errors import FormatError
from virtscope.fs.filesystem import Identity
from virtscope.fs.xfs.superblock import check_features, read_superblock

if TYPE_CHECKING:
    from virtscope.fs.xfs.reader import XfsFilesystem


def identify(source: BlockSource) -> Identity:
    """What the XFS filesystem in `source` is called.

    Raises:
        FormatError: its superblock is damaged.
    """
    return read_superblock(source).identity()


def open_filesystem(source: BlockSource, replay: bool = True) -> XfsFilesystem:
    """A reader for the XFS filesystem in `source`.

    Args:
        source: the volume.
        replay: replay the log that a running or crashed guest left, in memory.

    Raises:
        FormatError: it is damaged beyond reading.
        UnsupportedFeature: it uses a feature that changes its layout and is not known here.
    """
    from virtscope.fs.xfs.log import Log
    from virtscope.fs.xfs.reader import XfsFilesystem

    superblock = read_superblock(source)
    check_features(superblock)
    if not superblock.sb_logstart:
        # Whether the counters of the superblock are right cannot be known: they are not believed.
        filesystem = XfsFilesystem(source, superblock, is_clean=False)
        filesystem.notes.append(
            "the log of this XFS filesystem is on a device of its own, which is not read; the newest changes "
            "may be missing"
        )
        return filesystem
    log = Log(source, superblock)
    try:
        extent = log.extent()
    except FormatError as error:
        filesystem = XfsFilesystem(source, superblock, is_clean=False)
        filesystem.notes.append(f"{error.problem}; the newest changes may be missing")
        return filesystem
    if extent.is_clean:
        return XfsFilesystem(source, superblock)
    if not replay:
        filesystem = XfsFilesystem(source, superblock, is_clean=False)
        filesystem.notes.append(
            "this XFS filesystem is in use or was not unmounted, and its log was not replayed; the newest "
            "changes are missing"
        )
        return filesystem
    from virtscope.fs.xfs.replay import Replay

    replayed = Replay(source, superblock, log, extent)
    filesystem = XfsFilesystem(replayed.overlay, read_superblock(replayed.overlay), is_clean=False)
    filesystem.notes += replayed.notes
    return filesystem

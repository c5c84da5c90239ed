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


def open_filesystem(source: BlockSource, *, replay: bool = True, verify: bool = False) -> XfsFilesystem:
    """A reader for the XFS filesystem in `source`.

    Args:
        source: the volume.
        replay: replay the log that a running or crashed guest left, in memory.
        verify: verify the checksums of metadata, where it has them.

    Raises:
        FormatError: it is damaged beyond reading.
        UnsupportedFeature: it uses a feature that changes its layout and is not known here.
    """
    from virtscope.fs.xfs.log import Log
    from virtscope.fs.xfs.reader import XfsFilesystem

    superblock = read_superblock(source)
    check_features(superblock)
    note = None
    if not superblock.sb_logstart:
        # Whether the counters of the superblock are right cannot be known: they are not believed.
        note = (
            "the log of this XFS filesystem is on a device of its own, which is not read; the newest changes "
            "may be missing"
        )
    else:
        log = Log(source, superblock)
        try:
            extent = log.extent()
        except FormatError as error:
            note = f"{error.problem}; the newest changes may be missing"
        else:
            if extent.is_clean:
                return XfsFilesystem(source, superblock, verify=verify)
            if not replay:
                note = (
                    "this XFS filesystem is in use or was not unmounted, and its log was not replayed; the "
                    "newest changes are missing"
                )
    if note is not None:
        filesystem = XfsFilesystem(source, superblock, is_clean=False, verify=verify)
        filesystem.notes.append(note)
        return filesystem
    from virtscope.fs.xfs.replay import Replay

    replayed = Replay(source, superblock, log, extent)
    superblock = read_superblock(replayed.overlay)
    filesystem = XfsFilesystem(replayed.overlay, superblock, is_clean=False, verify=verify)
    filesystem.notes += replayed.notes
    return filesystem

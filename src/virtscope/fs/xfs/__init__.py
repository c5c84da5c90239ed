"""XFS, versions 4 and 5: `identify` and `open_filesystem`.

superblock (geometry, features), groups (allocation groups), inode, extents, directory, attributes, usage,
reader (which ties them together), log and replay (what a running or crashed guest had not written in place).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtscope.block.source import BlockSource
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


def open_filesystem(source: BlockSource, replay: bool = True) -> XfsFilesystem:  # noqa: ARG001
    """A reader for the XFS filesystem in `source`.

    Args:
        source: the volume.
        replay: replay the log that a running or crashed guest left, in memory.

    Raises:
        FormatError: it is damaged beyond reading.
        UnsupportedFeature: it uses a feature that changes its layout and is not known here.
    """
    from virtscope.fs.xfs.reader import XfsFilesystem

    superblock = read_superblock(source)
    check_features(superblock)
    return XfsFilesystem(source, superblock)

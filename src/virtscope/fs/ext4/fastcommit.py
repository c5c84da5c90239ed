"""Fast commits: what a journal says of single changes after its last full transaction.

An area at the end of the journal holds a list of tags: an inode's new state, ranges of blocks given to a file
or taken away, names made and removed. Each group of them ends with a tail that has their checksum. See the
kernel's Documentation/filesystems/ext4/journal.rst and fs/ext4/fast_commit.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from virtscope.bitmatch import Record, pattern
from virtscope.fs.crc32c import crc32c
from virtscope.fs.ext4.runs import Run

ADD_RANGE, DEL_RANGE, CREAT, LINK, UNLINK, INODE, PAD, TAIL, HEAD = range(1, 10)

AddRange = pattern(
    "ext4_fc_add_range",
    "little; fc_ino : 32; ee_block : 32; ee_len : 16; ee_start_hi : 16; ee_start_lo : 32",
)
DelRange = pattern("ext4_fc_del_range", "little; fc_ino : 32; fc_lblk : 32; fc_len : 32")
DentryInfo = pattern("ext4_fc_dentry_info", "little; fc_parent_ino : 32; fc_ino : 32; fc_dname : bytes")
FastInode = pattern("ext4_fc_inode", "little; fc_ino : 32; fc_raw_inode : bytes")
Head = pattern("ext4_fc_head", "little; fc_features : 32; fc_tid : 32")
Tail = pattern("ext4_fc_tail", "little; fc_tid : 32; fc_crc : 32")

_TAG = struct.Struct("<HH")
_TAIL_CHECKED = _TAG.size + 4
_LEAST = {ADD_RANGE: 16, DEL_RANGE: 12, CREAT: 9, LINK: 9, UNLINK: 9, INODE: 132, HEAD: 8, TAIL: 8}
_LONGEST_WRITTEN = 1 << 15


class Tag(NamedTuple):
    """One change.

    Attributes:
        kind: ADD_RANGE, DEL_RANGE, CREAT, LINK, UNLINK or INODE.
        value: its bytes.
    """

    kind: int
    value: bytes


def fast_commits(blocks: Iterable[bytes], sequence: int) -> list[Tag]:
    """The changes that belong to a state of the filesystem, in order.

    Args:
        blocks: of the area for fast commits.
        sequence: of the transaction that they are ahead of.

    Returns:
        Those in groups that are complete; the rest of the area is from before.
    """
    found: list[Tag] = []
    group: list[Tag] = []
    checksum = 0
    first = True
    for block in blocks:
        position = 0
        while position + _TAG.size <= len(block):
            kind, length = _TAG.unpack_from(block, position)
            value = block[position + _TAG.size : position + _TAG.size + length]
            if first and kind != HEAD:
                return found
            first = False
            if len(value) != length or length < _LEAST.get(kind, 0) or not ADD_RANGE <= kind <= HEAD:
                return found
            if kind == HEAD:
                head = Head.parse(value)
                if head.fc_features or head.fc_tid != sequence:
                    return found
            if kind == TAIL:
                tail = Tail.parse(value)
                checksum = crc32c(block[position : position + _TAIL_CHECKED], checksum)
                if tail.fc_tid != sequence or tail.fc_crc != checksum:
                    return found
                found += group
                group, checksum = [], 0
            else:
                checksum = crc32c(block[position : position + _TAG.size + length], checksum)
                if kind not in (PAD, HEAD):
                    group.append(Tag(kind, value))
            position += _TAG.size + length
    return found


def run_of(extent: Record) -> Run:
    """The run of an added range (an `AddRange`)."""
    length: int = extent.ee_len
    unwritten = length > _LONGEST_WRITTEN
    start = extent.ee_start_lo | extent.ee_start_hi << 32
    return Run(extent.ee_block, length - _LONGEST_WRITTEN if unwritten else length, start, unwritten)


def without(runs: list[Run], start: int, count: int) -> list[Run]:
    """Runs with the file's blocks from `start` taken away."""
    left = []
    end = start + count
    for run in runs:
        stop = run.start + run.blocks
        if stop <= start or run.start >= end:
            left.append(run)
            continue
        if run.start < start:
            left.append(run._replace(blocks=start - run.start))
        if stop > end:
            left.append(Run(end, stop - end, run.block + end - run.start, run.unwritten))
    return left

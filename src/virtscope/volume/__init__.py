"""Partition tables and volume managers: what is between a disk and its filesystems.

`read_partitions` finds the partition table of a disk. LVM2 is in `lvm`: every source may be a physical
volume, and `lvm.volume_groups` puts those together that belong together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virtscope.block.source import BlockSource
    from virtscope.volume.partitions import PartitionTable


def read_partitions(source: BlockSource) -> PartitionTable | None:
    """The partition table of a disk, or None if it has none: a filesystem or a physical volume may be on all
    of it.

    A GPT counts where the master boot record says there is one, as for Linux: the remains of a GPT on a disk
    that was formatted as a whole do not.

    Raises:
        FormatError: there is a GPT, and neither of its copies is sound.
        GuestError: the host could not read the image.
    """
    from virtscope.volume.mbr import is_protective, read_mbr

    if is_protective(source):
        from virtscope.volume.gpt import read_gpt

        table = read_gpt(source)
        if table is not None:
            return table
    return read_mbr(source)


MEMBERS = (
    # what blkid calls it, and the bytes it is told by at these offsets
    ("LVM2_member", ((0, b"LABELONE"), (512, b"LABELONE"), (1024, b"LABELONE"), (1536, b"LABELONE"))),
    ("crypto_LUKS", ((0, b"LUKS\xba\xbe"),)),
    ("linux_raid_member", ((4096, b"\xfc\x4e\x2b\xa9"), (0, b"\xfc\x4e\x2b\xa9"))),
)
"""What a disk or partition may be a part of or a wrapping for, in the order of asking."""


def identify_member(source: BlockSource) -> str | None:
    """The name of the volume manager that a disk or partition belongs to, or None.

    Raises:
        GuestError: the host could not read the image.
    """
    head = source.peek(0, 4096 + 4)
    for name, marks in MEMBERS:
        for offset, mark in marks:
            if head.startswith(mark, offset):
                return name
    return None

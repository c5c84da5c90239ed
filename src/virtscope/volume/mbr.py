"""The partition table of the master boot record ("dos"), with its chain of logical partitions: `read_mbr`.

There is no specification; what Linux (block/partitions/msdos.c) and fdisk(8) accept is what is accepted
here. The four entries of the first sector are partitions 1 to 4. One of them may be an extended partition,
in which every logical partition has a sector with a table of two entries before it: itself, and the way to
the next table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtscope.bitmatch import pattern
from virtscope.block.records import read_record
from virtscope.errors import FormatError
from virtscope.volume.partitions import Partition, PartitionTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtscope.bitmatch import Record
    from virtscope.block.source import BlockSource

MbrPartition = pattern(
    "partition",
    """
    little
    boot_ind   : 8
    start_chs  : bytes(3)
    sys_ind    : 8
    end_chs    : bytes(3)
    start_sect : 32
    nr_sects   : 32
    """,
)

MasterBootRecord = pattern(
    "master_boot_record",
    """
    little
    code           : bytes(440)
    disk_signature : 32
    reserved       : 16
    partition      : MbrPartition[4]
    signature      : 16 = 0xAA55
    """,
)

PROTECTIVE = 0xEE
_EXTENDED = (0x05, 0x0F, 0x85)
_SECTOR = 512
_MAXIMUM_LOGICAL = 256


def read_mbr(source: BlockSource) -> PartitionTable | None:
    """The partition table in a disk's first sector, or None if there is none.

    Raises:
        GuestError: the host could not read the image.
    """
    sector = source.peek(0, _SECTOR)
    record = MasterBootRecord.match(sector)
    if record is None or not _is_table(sector, record, source.size):
        return None
    signature = record.disk_signature
    partitions = []
    notes: list[str] = []
    for number, entry in enumerate(record.partition, 1):
        if entry.sys_ind and entry.nr_sects:
            is_extended = entry.sys_ind in _EXTENDED
            partitions.append(
                _partition(number, entry, 0, signature, "extended" if is_extended else "primary")
            )
    extended = next((partition for partition in partitions if partition.role == "extended"), None)
    if extended is not None:
        partitions += _logical(source, extended, signature, notes)
    for partition in partitions:
        if partition.offset + partition.size > source.size:
            notes.append(f"partition {partition.number} reaches past the end of the disk")
    return PartitionTable(
        "dos", f"{signature:08x}" if signature else None, _SECTOR, tuple(partitions), tuple(notes)
    )


def is_protective(source: BlockSource) -> bool:
    """Whether the first sector says that this disk has a GPT."""
    record = MasterBootRecord.match(source.peek(0, _SECTOR))
    return record is not None and any(entry.sys_ind == PROTECTIVE for entry in record.partition)


def _is_table(sector: bytes, record: Record, size: int) -> bool:
    """Whether the sector is a partition table, and not the boot sector of a filesystem, which ends alike."""
    used = [entry for entry in record.partition if entry.sys_ind and entry.nr_sects]
    if any(entry.boot_ind not in (0, 0x80) for entry in record.partition) or not used:
        return False
    if sector[3:11] in (b"NTFS    ", b"EXFAT   ") or sector[54:57] == b"FAT" or sector[82:87] == b"FAT32":
        # Such a sector may have both; then its entries are in the disk, in order, and apart from each other.
        reached = 1
        for entry in sorted(used, key=lambda entry: int(entry.start_sect)):
            if entry.start_sect < reached or (entry.start_sect + entry.nr_sects) * _SECTOR > size:
                return False
            reached = entry.start_sect + entry.nr_sects
    return all(entry.start_sect for entry in used)


def _partition(number: int, entry: Record, base: int, signature: int, role: str) -> Partition:
    return Partition(
        number=number,
        offset=(base + entry.start_sect) * _SECTOR,
        size=entry.nr_sects * _SECTOR,
        type=f"{entry.sys_ind:#04x}",
        role=role,
        uuid=f"{signature:08x}-{number:02x}" if signature else None,
        bootable=entry.boot_ind == 0x80,
    )


def _logical(
    source: BlockSource, extended: Partition, signature: int, notes: list[str]
) -> Iterator[Partition]:
    """The partitions in an extended one, numbered from 5."""
    start = extended.offset // _SECTOR
    table = start
    seen = {table}
    number = 5
    while len(seen) <= _MAXIMUM_LOGICAL:
        try:
            record = read_record(source, MasterBootRecord, table * _SECTOR, "MBR")
        except FormatError as error:
            notes.append(f"the chain of logical partitions breaks off before number {number}: {error}")
            return
        following = None
        for entry in record.partition:
            if not entry.nr_sects:
                continue
            if entry.sys_ind in _EXTENDED:
                following = following or start + entry.start_sect
            elif entry.sys_ind:
                yield _partition(number, entry, table, signature, "logical")
                number += 1
        if following is None:
            return
        if following in seen:
            notes.append("the chain of logical partitions runs in a circle")
            return
        table = following
        seen.add(table)
    notes.append(f"there are more than {_MAXIMUM_LOGICAL} logical partitions: the rest is left out")

"""The GUID partition table of UEFI: `read_gpt`.

A header in the second sector names a table of entries; both have checksums, and both are there again at the
end of the disk. Where the first is damaged the second is used, and that is said.

Specified in the UEFI Specification, section 5.3.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from virtscope.bitmatch import pattern
from virtscope.block.records import parse_record
from virtscope.errors import FormatError
from virtscope.volume.partitions import Partition, PartitionTable

if TYPE_CHECKING:
    from virtscope.bitmatch import Record
    from virtscope.block.source import BlockSource

GptHeader = pattern(
    "GPT header",
    """
    little
    Signature                : b"EFI PART"
    Revision                 : 32
    HeaderSize               : 32 check 92 <= HeaderSize <= 4096
    HeaderCRC32              : 32
    _                        : 32
    MyLBA                    : 64
    AlternateLBA             : 64
    FirstUsableLBA           : 64
    LastUsableLBA            : 64
    DiskGUID                 : bytes(16)
    PartitionEntryLBA        : 64 check PartitionEntryLBA < 1 << 55
    NumberOfPartitionEntries : 32
    SizeOfPartitionEntry     : 32 check SizeOfPartitionEntry >= 128 and SizeOfPartitionEntry % 8 == 0
    PartitionEntryArrayCRC32 : 32
    """,
)

GptEntry = pattern(
    "GPT entry",
    """
    little
    PartitionTypeGUID   : bytes(16)
    UniquePartitionGUID : bytes(16)
    StartingLBA         : 64
    EndingLBA           : 64
    Attributes          : 64
    PartitionName       : bytes(72)
    """,
)

_LARGEST_TABLE = 1 << 22
_LEGACY_BOOTABLE = 1 << 2
_SECTOR_SIZES = (512, 4096)


def read_gpt(source: BlockSource) -> PartitionTable | None:
    """The GPT of a disk, or None if it has none.

    Raises:
        FormatError: there is one, and neither of its copies is sound.
        GuestError: the host could not read the image.
    """
    damage: FormatError | None = None
    for sector_size in _SECTOR_SIZES:
        if source.size < 2 * sector_size or source.peek(sector_size, 8) != b"EFI PART":
            continue
        try:
            return _read(source, sector_size, 1, ())
        except FormatError as error:
            damage = damage or error
    for sector_size in _SECTOR_SIZES:
        last = source.size // sector_size - 1
        if last < 2 or source.peek(last * sector_size, 8) != b"EFI PART":
            continue
        why = damage.problem if damage else "it is not there"
        note = f"the GPT's copy at the end of the disk was used; the first one is damaged: {why}"
        try:
            return _read(source, sector_size, last, (note,))
        except FormatError as error:
            damage = damage or error
    if damage is not None:
        raise damage
    return None


def _read(source: BlockSource, sector_size: int, lba: int, notes: tuple[str, ...]) -> PartitionTable:
    offset = lba * sector_size
    data = source.peek(offset, sector_size)
    header = parse_record(GptHeader, data, "GPT", offset)
    covered = data[: header.HeaderSize]
    if zlib.crc32(covered[:16] + bytes(4) + covered[20:]) != header.HeaderCRC32:
        raise FormatError("GPT", "the header's checksum is wrong", field="HeaderCRC32", offset=offset + 16)
    if header.MyLBA != lba:
        raise FormatError("GPT", f"a header of sector {header.MyLBA}", field="MyLBA", offset=offset + 24)
    count, size = header.NumberOfPartitionEntries, header.SizeOfPartitionEntry
    if count * size > _LARGEST_TABLE:
        raise FormatError(
            "GPT", f"{count} are too many", field="NumberOfPartitionEntries", offset=offset + 80
        )
    table_offset = header.PartitionEntryLBA * sector_size
    table = source.read_at(table_offset, count * size)
    if zlib.crc32(table) != header.PartitionEntryArrayCRC32:
        raise FormatError(
            "GPT",
            "the checksum of the entries is wrong",
            field="PartitionEntryArrayCRC32",
            offset=offset + 88,
        )
    partitions = []
    said = list(notes)
    last = source.size // sector_size - 1
    for index in range(count):
        place = index * size
        if table[place : place + 16].strip(b"\0"):
            entry = GptEntry.parse(table, place)
            if entry.EndingLBA < entry.StartingLBA:
                said.append(f"partition {index + 1} ends before it begins: it is left out")
                continue
            if entry.EndingLBA > last:
                said.append(f"partition {index + 1} reaches past the end of the disk")
            partitions.append(_partition(index + 1, entry, sector_size))
    return PartitionTable("gpt", guid(header.DiskGUID), sector_size, tuple(partitions), tuple(said))


def _partition(number: int, entry: Record, sector_size: int) -> Partition:
    name = entry.PartitionName.decode("utf-16-le", "surrogatepass").partition("\0")[0]
    return Partition(
        number=number,
        offset=entry.StartingLBA * sector_size,
        size=(entry.EndingLBA - entry.StartingLBA + 1) * sector_size,
        type=guid(entry.PartitionTypeGUID),
        uuid=guid(entry.UniquePartitionGUID),
        label=name or None,
        bootable=bool(entry.Attributes & _LEGACY_BOOTABLE),
    )


def guid(data: bytes) -> str:
    """The usual text of a GUID, whose first three parts are little-endian."""
    return "-".join(
        (data[3::-1].hex(), data[5:3:-1].hex(), data[7:5:-1].hex(), data[8:10].hex(), data[10:16].hex())
    )

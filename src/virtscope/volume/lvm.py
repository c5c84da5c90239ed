"""LVM2: `read_physical_volume` finds one on a disk or a partition, `volume_groups` puts together what
belongs together.

A label in one of the first four sectors leads to the physical volume's header, and that to metadata areas,
each with a header and a ring buffer of text (`lvm_text`) that describes the whole volume group.
`lvm_volumes` makes logical volumes of it that can be read.

The format is that of LVM2's lib/format_text/layout.h and lib/label/label.h.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from virtscope.bitmatch import pattern
from virtscope.block.records import parse_record
from virtscope.errors import FormatError
from virtscope.volume import lvm_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from virtscope.block.source import BlockSource
    from virtscope.volume.lvm_text import Section
    from virtscope.volume.lvm_volumes import VolumeGroup

LabelHeader = pattern(
    "label_header",
    """
    little
    id        : b"LABELONE"
    sector_xl : 64
    crc_xl    : 32
    offset_xl : 32 check 32 <= offset_xl <= 400
    type      : b"LVM2 001"
    """,
)

PvHeader = pattern(
    "pv_header",
    """
    little
    pv_uuid        : bytes(32)
    device_size_xl : 64
    disk_areas_xl  : DiskLocn[until it.offset == 0]
    metadata_areas : DiskLocn[until it.offset == 0]
    """,
)

DiskLocn = pattern("disk_locn", "little; offset : 64; size : 64")

MdaHeader = pattern(
    "mda_header",
    """
    little
    checksum_xl : 32
    magic       : b" LVM2 x[5A%r0N*>"
    version     : 32 = 1
    start       : 64
    size        : 64 check 1024 <= size < 1 << 56
    raw_locns   : RawLocn[4]
    """,
)

RawLocn = pattern("raw_locn", "little; offset : 64; size : 64; checksum : 32; flags : 32")

_SECTOR = 512
_LABEL_SECTORS = 4
_IGNORED = 1
_INITIAL_CRC = 0xF597A6CF ^ 0xFFFFFFFF
_MAXIMUM_AREAS = 16


class PhysicalVolume(NamedTuple):
    """A physical volume.

    Attributes:
        uuid: as pvs(8) shows it.
        size: of the device, in bytes, as the label says; 0 when it does not.
        source: the disk or partition it is.
        device: the name of that.
        text: the newest metadata text on it; empty when it has none, or belongs to no volume group.
        metadata: that, parsed.
        vg_name: of its volume group; empty if not known.
        notes: what was wrong, in sentences.
    """

    uuid: str
    size: int
    source: BlockSource
    device: str
    text: str
    metadata: Section
    vg_name: str
    notes: tuple[str, ...]

    @property
    def group(self) -> Section:
        """The section of its volume group."""
        return lvm_text.section(self.metadata, self.vg_name) if self.vg_name else {}

    @property
    def seqno(self) -> int:
        """How often the metadata were changed; -1 without metadata."""
        return lvm_text.integer(self.group, "seqno", -1) if self.vg_name else -1


def read_physical_volume(source: BlockSource, device: str) -> PhysicalVolume | None:
    """The physical volume that a disk or partition is, or None if it is none.

    Args:
        source: the disk or partition.
        device: what to call it.

    Raises:
        FormatError: it has a label, but what that leads to is damaged.
        GuestError: the host could not read the image.
    """
    head = source.peek(0, _LABEL_SECTORS * _SECTOR)
    place = head.find(b"LABELONE")
    while place >= 0 and place % _SECTOR:
        place = head.find(b"LABELONE", place + 1)
    if place < 0:
        return None
    sector = head[place : place + _SECTOR]
    label = LabelHeader.match(sector)
    if label is None:
        return None
    if _crc(sector[20:]) != label.crc_xl:
        raise FormatError("LVM2", "the label's checksum is wrong", field="crc_xl", offset=place + 16)
    if label.sector_xl * _SECTOR != place:
        raise FormatError("LVM2", f"a label of sector {label.sector_xl}", field="sector_xl", offset=place + 8)
    header = parse_record(PvHeader, sector, "LVM2", place, label.offset_xl)
    notes: list[str] = []
    text, metadata = "", {}
    newest = -1
    for area in header.metadata_areas[:_MAXIMUM_AREAS]:
        if not area.offset:
            break
        try:
            found = _newest_text(source, area.offset)
            if not found:
                continue
            parsed = _parsed(found)
            seqno = max(
                (lvm_text.integer(vg, "seqno", 0) for vg in parsed.values() if isinstance(vg, dict)),
                default=0,
            )
        except FormatError as error:
            notes.append(f"a metadata area of {device} cannot be used: {error}")
            continue
        if seqno > newest:
            text, metadata, newest = found, parsed, seqno
    return PhysicalVolume(
        uuid=uuid_text(header.pv_uuid),
        size=header.device_size_xl,
        source=source,
        device=device,
        text=text,
        metadata=metadata,
        vg_name=next((name for name, value in metadata.items() if isinstance(value, dict)), ""),
        notes=tuple(notes),
    )


@lru_cache(maxsize=1)
def _parsed(text: str) -> Section:
    """The metadata of a text; physical volumes of one group, which are met in a row, have the same."""
    return lvm_text.parse(text)


def _newest_text(source: BlockSource, offset: int) -> str:
    """The text that a metadata area holds; empty when there is none that counts."""
    sector = source.read_at(offset, _SECTOR)
    header = parse_record(MdaHeader, sector, "LVM2", offset)
    if _crc(sector[4:]) != header.checksum_xl:
        raise FormatError("LVM2", "the checksum is wrong", field="mda_header.checksum_xl", offset=offset)
    if header.start != offset:
        raise FormatError("LVM2", f"a header of {header.start:#x}", field="mda_header.start", offset=offset)
    where = header.raw_locns[0]
    if not where.offset or not where.size or where.flags & _IGNORED:
        return ""
    if not _SECTOR <= where.offset < header.size or where.size > min(
        header.size - _SECTOR, lvm_text.MAXIMUM_SIZE
    ):
        raise FormatError("LVM2", "text outside of its area", field="raw_locn", offset=offset + 40)
    first = min(where.size, header.size - where.offset)
    data = source.read_at(offset + where.offset, first)
    data += source.read_at(offset + _SECTOR, where.size - first)
    if _crc(data) != where.checksum:
        raise FormatError(
            "LVM2", "the checksum of the metadata is wrong", field="raw_locn.checksum", offset=offset
        )
    return data.rstrip(b"\0").decode("utf-8", "surrogateescape")


def volume_groups(volumes: Iterable[PhysicalVolume]) -> tuple[list[VolumeGroup], list[str]]:
    """The volume groups of a guest's physical volumes.

    Copies of one physical volume, as the disks of clones have them, are never put into one group: each
    becomes part of a group of its own, whose name is told apart by the disks it is on ("vg@sda", "vg@sdb").

    Returns:
        The groups, and what was wrong with others, in sentences.
    """
    from virtscope.volume.lvm_volumes import VolumeGroup

    by_group: dict[str, list[PhysicalVolume]] = {}
    spare = []
    problems = []
    for volume in volumes:
        try:
            if volume.vg_name:
                by_group.setdefault(lvm_text.string(volume.group, "id"), []).append(volume)
            else:
                spare.append(volume)
        except FormatError as error:
            problems.append(f"{volume.device}: {error}")
    instances: list[tuple[str, list[PhysicalVolume]]] = []
    for members in by_group.values():
        try:
            instances += _instances(members, spare)
        except FormatError as error:
            problems.append(f"volume group {members[0].vg_name}: {error}")
    names = [name for name, _ in instances]
    groups = []
    for name, instance in instances:
        told_apart = name
        if names.count(name) > 1:
            told_apart = f"{name}@{'+'.join(volume.device.removeprefix('/dev/') for volume in instance)}"
        try:
            groups.append(VolumeGroup(told_apart, max(instance, key=lambda volume: volume.seqno), instance))
        except FormatError as error:
            problems.append(f"volume group {told_apart}: {error}")
    return groups, problems


def _instances(
    members: list[PhysicalVolume], spare: list[PhysicalVolume]
) -> Iterator[tuple[str, list[PhysicalVolume]]]:
    """The name and the physical volumes of each copy of one volume group."""
    newest = max(members, key=lambda volume: volume.seqno)
    uuids = [
        lvm_text.string(listed, "id")
        for listed in lvm_text.section(newest.group, "physical_volumes").values()
        if isinstance(listed, dict)
    ]
    # Copies of one physical volume, those with the same metadata beside each other.
    copies: dict[str, list[PhysicalVolume]] = {}
    for volume in members:
        copies.setdefault(volume.uuid, []).append(volume)
    for volume in spare:
        if volume.uuid in uuids:
            copies.setdefault(volume.uuid, []).append(volume)
    while any(copies.values()):
        lead = next(volume for found in copies.values() for volume in found)
        instance = []
        for found in copies.values():
            if found:
                alike = (index for index, volume in enumerate(found) if volume.text == lead.text)
                instance.append(found.pop(next(alike, 0)))
        if any(volume.vg_name for volume in instance):
            best = max(instance, key=lambda volume: volume.seqno)
            yield best.vg_name, instance


def uuid_text(data: bytes) -> str:
    """The text of a UUID of LVM, with the dashes its tools put in."""
    text = data.decode("ascii", "replace")
    groups = ((0, 6), (6, 10), (10, 14), (14, 18), (18, 22), (22, 26), (26, 32))
    return "-".join(text[start:stop] for start, stop in groups)


def _crc(data: bytes) -> int:
    return zlib.crc32(data, _INITIAL_CRC) ^ 0xFFFFFFFF

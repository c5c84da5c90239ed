"""What partition tables have in common: `Partition` and `PartitionTable`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of a disk.

    Attributes:
        number: as in its device's name.
        offset: on the disk, in bytes.
        size: in bytes.
        type: "0x83" of an MBR, the type's UUID of a GPT, lower case.
        role: "primary", "extended" or "logical"; those of a GPT are all primary.
        uuid: of a GPT's partition, lower case; for an MBR what Linux calls PARTUUID, or None.
        label: the name in a GPT; None if there is none.
        bootable: whether it is marked as active (MBR) or legacy-bootable (GPT).
    """

    number: int
    offset: int
    size: int
    type: str
    role: str = "primary"
    uuid: str | None = None
    label: str | None = None
    bootable: bool = False


@dataclass(frozen=True, slots=True)
class PartitionTable:
    """The partition table of a disk.

    Attributes:
        type: "dos" or "gpt", as blkid says.
        uuid: of the disk: a GPT's UUID, an MBR's signature as 8 hexadecimal digits; None when it has none.
        sector_size: in bytes.
        partitions: by number.
        notes: what was wrong with the table, in sentences.
    """

    type: str
    uuid: str | None
    sector_size: int
    partitions: tuple[Partition, ...]
    notes: tuple[str, ...] = ()

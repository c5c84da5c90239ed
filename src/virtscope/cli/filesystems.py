"""virt-filesystems: the disks, partitions, volumes and filesystems of guests."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from virtscope.cli.command import Column, Command, Example, Guests, Option
from virtscope.cli.options import IMAGES
from virtscope.cli.output import human_size

if TYPE_CHECKING:
    from virtscope.guest import Guest
    from virtscope.storage import Device

_CONTAINERS = ("dos", "gpt", "LVM2_member", "linux_raid_member", "crypto_LUKS")


def _words(names: tuple[str, ...]) -> str:
    return ",".join(names) or "-"


_COLUMNS = (
    Column("name", "Name", lambda row: row.name, "the device, as the guest's disks are counted"),
    Column("kind", "Kind", lambda row: row.kind, "disk, partition or lv"),
    Column("content", "Content", lambda row: row.content, "what is on it; - if that could not be found out"),
    Column("label", "Label", lambda row: row.label, "the label of the filesystem"),
    Column("size", "Size", lambda row: row.size, "its size in bytes", right=True),
    Column("size-h", "Size", lambda row: row.size, "its size in units people read", human_size, right=True),
    Column("type", "Type", lambda row: row.type, "the type of the partition or the logical volume"),
    Column("parents", "Parent", lambda row: row.parents, "the devices it is on", show=_words),
    Column("uuid", "UUID", lambda row: row.uuid, "the UUID of what is on it"),
    Column("part_uuid", "PartUUID", lambda row: row.part_uuid, "the UUID of the partition"),
    Column("part_label", "PartLabel", lambda row: row.part_label, "the label of the partition"),
)


def _default_columns(args: argparse.Namespace) -> list[str]:
    size = "size-h" if args.human else "size"
    if not args.long:
        return ["name", *(["uuid"] if args.uuids else [])]
    return [
        *("name", "kind", "content", "label", size),
        *(("type", "parents") if args.all or args.partitions or args.volumes else ()),
        *(("uuid",) if args.uuids else ()),
    ]


def _wanted(device: Device, args: argparse.Namespace) -> bool:
    if args.all:
        return True
    if (args.partitions and device.kind == "partition") or (args.volumes and device.kind == "lv"):
        return True
    if args.block_devices and device.kind == "disk":
        return True
    only_others = (args.partitions or args.volumes or args.block_devices) and not args.filesystems
    return not only_others and device.content not in (None, "unknown", "swap", *_CONTAINERS)


def _rows(guest: Guest, args: argparse.Namespace) -> Iterator[Device]:
    for device in guest.storage.devices:
        if device.problem is not None:
            guest.problems.append(f"{device.name}: {device.problem}")
        if _wanted(device, args):
            yield device


COMMAND = Command(
    name="virt-filesystems",
    summary="list filesystems, partitions and volumes of guests, from outside",
    description=(
        "Lists what is on the disks of guests, running or not: by default the filesystems; with other "
        "options disks, partitions and logical volumes, too. Devices are named as if the disks were "
        "/dev/sda, /dev/sdb and so on, in their order.\n\n"
        "Each IMAGE (or each file of a FOLDER of images) is a guest of its own, while images given with -a "
        "are together the disks of one guest."
    ),
    guests=Guests.DISK,
    options=(
        IMAGES,
        Option(("--all",), "everything: disks, partitions, volumes, filesystems, swap, what is unknown"),
        Option(("--filesystems",), "the filesystems (the default)"),
        Option(("--partitions", "--parts"), "the partitions"),
        Option(("--volumes", "--logical-volumes", "--lvs"), "the logical volumes"),
        Option(("--block-devices", "--blkdevs"), "the disks"),
        Option(("-l", "--long"), "more about each"),
        Option(("-h", "--human-readable"), "sizes in powers of 1024 (1.5G)", dest="human"),
        Option(("--uuids", "--uuid"), "show UUIDs, too"),
    ),
    columns=_COLUMNS,
    default_columns=_default_columns,
    rows=_rows,
    examples=(
        Example("virt-filesystems -a disk.qcow2 --all --long -h", "everything on one image"),
        Example("virt-filesystems -d web --volumes --long", "the logical volumes of a domain"),
    ),
    see_also=("virt-df", "virt-ls"),
)

main = COMMAND.main

"""virt-df: how full the filesystems of guests are."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from virtscope.cli.command import Column, Command, Example, Guests, Option
from virtscope.cli.options import IMAGES
from virtscope.cli.output import human_size

if TYPE_CHECKING:
    from virtscope.guest import Guest
    from virtscope.inspect.usage import DiskUsage
    from virtscope.storage import Device


def _kib(size: int | None) -> str:
    return "-" if size is None else str(-(-size // 1024))


def _percent(value: int | None) -> str:
    return "-" if value is None else f"{value}%"


def _alarm(percent: int | None) -> str | None:
    if percent is None or percent < 85:
        return None
    return "alarm" if percent >= 95 else "yellow"


def _sizes(name: str, heading: str, help: str) -> tuple[Column, Column]:
    """A column of sizes as df shows them, and the same for people."""
    return (
        Column(name, heading, lambda row: getattr(row, name), help, show=_kib, right=True),
        Column(
            f"{name}-h",
            heading.replace("1K-blocks", "Size"),
            lambda row: getattr(row, name),
            f"{help}, in units people read",
            show=human_size,
            right=True,
        ),
    )


_COLUMNS = (
    Column("device", "Filesystem", lambda row: row.device, "the device, as the guest's disks are counted"),
    Column("uuid", "UUID", lambda row: row.uuid, "the UUID of the filesystem"),
    Column("label", "Label", lambda row: row.label, "the label of the filesystem"),
    Column("type", "Type", lambda row: row.type, "the type of the filesystem"),
    *_sizes("size", "1K-blocks", "the size of the part that files can use"),
    *_sizes("used", "Used", "what is used"),
    *_sizes("available", "Available", "what anybody but root can still use"),
    Column(
        "used_percent",
        "Use%",
        lambda row: row.used_percent,
        "how full it is, rounded up as df does",
        show=_percent,
        right=True,
        style=lambda row: _alarm(row.used_percent),
    ),
    Column("inodes", "Inodes", lambda row: row.inodes, "how many inodes there are, or can be", right=True),
    Column("inodes_used", "IUsed", lambda row: row.inodes_used, "the inodes in use", right=True),
    Column("inodes_free", "IFree", lambda row: row.inodes_free, "the inodes that are free", right=True),
    Column(
        "inodes_used_percent",
        "IUse%",
        lambda row: row.inodes_used_percent,
        "how many of the inodes are in use",
        show=_percent,
        right=True,
        style=lambda row: _alarm(row.inodes_used_percent),
    ),
)


def _default_columns(args: argparse.Namespace) -> list[str]:
    if args.inodes:
        figures = ["inodes", "inodes_used", "inodes_free", "inodes_used_percent"]
    else:
        unit = "-h" if args.human else ""
        figures = [f"size{unit}", f"used{unit}", f"available{unit}", "used_percent"]
    names = ["device", *(["uuid"] if args.uuid else []), *(["type"] if args.print_type else [])]
    return names + figures


def _rows(guest: Guest, args: argparse.Namespace) -> Iterator[DiskUsage]:
    found = False
    for row in guest.filesystems():
        found = True
        if not args.type or row.type in args.type:
            yield row
    if not found and not guest.problems:
        # Nothing at all and nothing that could be read are different answers.
        unread = [f"{device.name} ({device.content})" for device in guest.storage.devices if _hides(device)]
        if unread:
            guest.problems.append(
                f"no filesystem that can be read is on its disks; not read: {', '.join(unread)}"
            )


def _hides(device: Device) -> bool:
    """Whether there may be filesystems on it that are not seen; a blank disk has none."""
    return device.content in ("crypto_LUKS", "linux_raid_member") or any(device.magic)


COMMAND = Command(
    name="virt-df",
    summary="show how full the filesystems of guests are, from outside",
    description=(
        "Shows size, use and free space of every filesystem on the disks of guests, running or not, as df "
        "would inside. Nothing runs in the guest and no appliance is booted: superblocks and counters are "
        "read from the images. The journal of a running or crashed guest is replayed in memory, so that "
        "the newest metadata count; the image is never written.\n\n"
        "Each IMAGE (or each file of a FOLDER of images) is a guest of its own, while images given with -a "
        "are together the disks of one guest."
    ),
    guests=Guests.DISK,
    options=(
        IMAGES,
        Option(("-h", "--human-readable"), "sizes in powers of 1024 (1.5G)", dest="human"),
        Option(("-i", "--inodes"), "inodes instead of blocks"),
        Option(("--uuid",), "show the UUIDs of the filesystems, too"),
        Option(("-T", "--print-type"), "show the types of the filesystems, too"),
        Option(("-t", "--type"), "only filesystems of this type (may be repeated)", "TYPE", repeat=True),
    ),
    columns=_COLUMNS,
    default_columns=_default_columns,
    rows=_rows,
    examples=(
        Example("virt-df -h -a disk.qcow2", "the filesystems on one image"),
        Example("virt-df -h -d web", "those of a libvirt domain, running or not"),
        Example("virt-df /var/lib/libvirt/images", "every image of a folder, in parallel"),
        Example("virt-df --csv --sort -used_percent *.qcow2", "the fullest first, for a spreadsheet"),
    ),
    see_also=("virt-filesystems", "virt-ls", "virt-cat"),
)

main = COMMAND.main
